"""Names of ``comfy_client.runtime`` that the present thread alone finds replaced."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

from comfy_client import runtime


def here(mine: Callable[..., Any], theirs: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls ``mine`` in the present thread, and ``theirs`` in others.

    Threads of earlier tests may still be at work, on real time.
    """
    owner = threading.get_ident()

    def call(*args: Any, **kwargs: Any) -> Any:
        return (mine if threading.get_ident() == owner else theirs)(*args, **kwargs)

    return call


@contextlib.contextmanager
def replaced(names: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Context manager: replace names of ``comfy_client.runtime`` for the present thread."""
    ours = {name: here(mine, getattr(runtime, name)) for name, mine in names.items()}
    with mock.patch.multiple(runtime, **ours):
        yield
