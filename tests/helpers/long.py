"""Tests that take long: of some, a few will do while one works, and ``--long`` adds the others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def few(values: Iterable[Any], count: int) -> list[Any]:
    """Parameters, of which only the first `count` are tried without ``--long``."""
    return [value if n < count else _long(value) for n, value in enumerate(values)]


def but(values: Iterable[Any], *long: Any) -> list[Any]:
    """Parameters, of which those in `long` are tried with ``--long`` only."""
    found = [*values]
    unknown = [value for value in long if value not in found]
    assert not unknown, f"no such parameters: {unknown}"
    return [_long(value) if value in long else value for value in found]


def _long(value: Any) -> Any:
    values = value if isinstance(value, tuple) else (value,)
    return pytest.param(*values, marks=pytest.mark.long)
