"""The type of options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any] | click.Command)


class Decorator(Protocol):
    """Adds an option or an argument to a command."""

    def __call__(self, function: Command, /) -> Command:
        """The command that has it."""
