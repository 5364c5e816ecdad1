"""Checks of the arguments that a test passes to the server, and the versions it can choose."""

from __future__ import annotations

import json
from typing import Any, Literal, get_args

#: Versions: 0.3.75; 0.8.0 with its jobs API; 0.28.1 of July 2026 ("new").
Version = Literal["0.3.75", "0.8", "new"]


def check_version(version: str) -> None:
    """Raise ValueError unless the version is one of those in :data:`Version`."""
    if version not in get_args(Version):
        raise ValueError(f"version must be one of {', '.join(get_args(Version))}, not {version!r}")


def check_count(name: str, value: Any, least: int = 0, most: int | None = None) -> int:
    """Return the value unchanged; raise ValueError unless it is a whole number in the range."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be a whole number, not {value!r}")
    if value < least or (most is not None and value > most):
        limit = f"{least} or more" if most is None else f"{least} to {most}"
        raise ValueError(f"{name} must be {limit}, not {value}")
    return value


def check_seconds(value: float, subject: str = "seconds are") -> float:
    """Return the value unchanged; raise ValueError unless it is a number of 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise ValueError(f"{subject} 0 or more, not {value!r}")
    return value


def check_header(name: Any, value: Any) -> None:
    """Raise ValueError unless name and value are strings that can form one header line."""
    texts = isinstance(name, str) and isinstance(value, str)
    if not texts or not name or {"\r", "\n", "\0"} & set(name + value):
        raise ValueError(f"a header is a name and a string of one line, not {name!r}: {value!r}")


def jsonable(name: str, value: Any) -> Any:
    """Return a value after a round trip through JSON; raise ValueError if that is impossible."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError) as exc:
        raise ValueError(f"{name}: {exc}") from None
