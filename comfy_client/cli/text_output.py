"""The option ``--output``, and functions that write to its file or to standard output."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import click

from .decorators import Decorator
from .printing import note

output_option: Decorator = click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    callback=lambda _ctx, _param, name: None if name in (None, "-") else Path(name),
    help="The file to write.  Default: standard output, as with -.",
)


def write(text: str, output: Path | None, what: str) -> None:
    """Write a text to a file and say so on stderr, or to standard output."""
    if output is None:
        click.echo(text, nl=not text.endswith("\n"))
    else:
        save([text.encode()], output, what)


def save(pieces: Iterable[bytes], output: Path, what: str) -> None:
    """Write a file atomically, and print its path on stderr."""
    from ..transport.local_files import write_atomically

    written = write_atomically(output, pieces, if_exists="overwrite", through=True)
    note(f"{what}: {written}")


def to_stdout(pieces: Iterable[bytes]) -> None:
    """Write bytes to standard output as they are."""
    for piece in pieces:
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def is_terminal() -> bool:
    """Return whether standard output is a terminal."""
    return sys.stdout.isatty()
