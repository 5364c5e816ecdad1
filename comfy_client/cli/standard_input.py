"""Standard input, and option values that stand for it or for a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import click

from .exits import Mistake

#: The key of the click context that says that standard input has been read.
_KEY: Final = "comfy_client.standard_input"
#: The most bytes of a file.
_MOST: Final = 64 << 20


def claim_standard_input() -> None:
    """Note that this command reads standard input; raise Mistake if it has done so already."""
    context = click.get_current_context(silent=True)
    if context is not None:
        if context.meta.setdefault(_KEY, False):
            raise Mistake("standard input can be read only once")
        context.meta[_KEY] = True


def read_standard_input(most: int | None = None) -> bytes:
    """Read standard input; raise Mistake if this command has read it already."""
    claim_standard_input()
    return sys.stdin.buffer.read(-1 if most is None else most)


def text_of(value: str) -> str:
    """Return the text that an option's value stands for.

    ``@FILE`` stands for the content of a file, and ``@-`` for that of standard input, without
    newlines at the end, as in ``$(cat FILE)``.  ``@@`` at the beginning stands for ``@``.

    Raises:
        OSError: The file cannot be read.
        ValueError: The content is not UTF-8 text, or is too large; or no name follows ``@``.
        Mistake: Standard input has been read already.
    """
    if not value.startswith("@"):
        return value
    name = value[1:]
    if name.startswith("@"):
        return name
    if not name:
        raise ValueError("a file name or - must follow @; @@ stands for @")
    if name == "-":
        content = read_standard_input(_MOST + 1)
    else:
        with Path(name).expanduser().open("rb") as file:
            content = file.read(_MOST + 1)
    if len(content) > _MOST:
        raise ValueError(f"{value:.200}: larger than {_MOST >> 20} MiB")
    try:
        return content.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError(f"{value:.200}: not a text in UTF-8") from None
