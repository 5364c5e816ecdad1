"""Types of options and arguments that several commands share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any] | click.Command)


class Decorator(Protocol):
    """A decorator that adds an option or an argument to a command."""

    def __call__(self, function: Command, /) -> Command:
        """Decorate a command."""


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
