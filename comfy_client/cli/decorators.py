"""Types of options and arguments that several commands share."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Protocol, TypeVar

import click
from click.shell_completion import CompletionItem

Command = TypeVar("Command", bound=Callable[..., Any] | click.Command)


#: The seconds of each unit of an age.
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
#: The bits by which each unit of a size shifts a number.
_SHIFTS: Final = {"": 0, "K": 10, "M": 20, "G": 30}
_SIZE: Final = re.compile(r"(\d{1,12}) ?([kmg]?)(?:i?b)?", re.ASCII | re.IGNORECASE)
_AGE: Final = re.compile(r"(\d+(?:\.\d+)?)([smhdw]?)", re.ASCII)


class Decorator(Protocol):
    """A decorator that adds an option or an argument to a command."""

    def __call__(self, function: Command, /) -> Command:
        """Decorate a command."""


def complete_files(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """Let the shell complete file names."""
    return [CompletionItem(incomplete, type="file")]


def paths(text: str) -> list[str]:
    """List the paths that begin with a text; folders end in ``/``, hidden names need a dot."""
    folder, name = os.path.split(text)
    try:
        with os.scandir(os.path.expanduser(folder) or ".") as entries:
            found = {one.name: one.is_dir() for one in entries if one.name.startswith(name)}
    except (OSError, ValueError):
        return []
    return [
        os.path.join(folder, f"{one}/" if found[one] else one)
        for one in sorted(found)
        if name or not one.startswith(".")
    ]


class Finite(click.FloatRange):
    """A finite number in a range; ``click.FloatRange`` lets ``nan`` and ``inf`` through."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Parse a finite number; fail as click does for any other text."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


def seconds_option(name: str, help: str, *, zero: bool = False, **settings: Any) -> Decorator:
    """Make an option that takes a number of seconds, more than 0 unless ``zero``."""
    kind = Finite(min=0, min_open=not zero)
    return click.option(name, metavar="SECONDS", type=kind, help=help, **settings)


def number_of_bytes(text: str) -> int:
    """Parse a size such as ``4096``, ``256M`` or ``1GiB``; raise ValueError for any other text."""
    found = _SIZE.fullmatch(text.strip())
    if found is None or not int(found[1]):
        raise ValueError(f"{text!r:.80} is not a number of bytes, such as 256M")
    return int(found[1]) << _SHIFTS[found[2].upper()]


def _timestamp(when: datetime) -> float:
    try:
        return when.timestamp()
    except (ValueError, OverflowError, OSError):  # the system has no local time of that year
        return when.replace(tzinfo=UTC).timestamp()


def moment(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Convert an age or an ISO 8601 time to seconds since 1970; return None for None.

    An age is ``90`` (seconds), ``30m``, ``1h``, ``2d`` or ``1w``, for example.  A time without a
    zone is local.
    """
    if value is None:
        return None
    age = _AGE.fullmatch(value.strip())
    try:
        if age is not None:
            return time.time() - float(age[1]) * _UNITS[age[2] or "s"]
        return _timestamp(datetime.fromisoformat(value.strip()))
    except (ValueError, OverflowError, OSError):
        text = f"{value!r} is not a time: write 30m, 1h, 2d, seconds, or 2026-11-29T14:00"
        raise click.BadParameter(text) from None
