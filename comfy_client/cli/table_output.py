"""Tables on stdout: whole in pipes and files, as wide as the window on a terminal."""

from __future__ import annotations

import itertools
import shutil
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Final

import click

from .colors import colored
from .exits import harmless
from .text_output import is_terminal

#: The fewest characters of an id, and of a column that is cut: ``succeeded`` stays whole.
_SHORT_ID: Final = 8
_FEWEST: Final = 9
#: The mark after an id of this installation; see ``queue``.
_MINE: Final = "*"
_GAP: Final = "  "
_CUT: Final = "..."


def table(rows: Sequence[Sequence[object]], head: Sequence[str]) -> None:
    """Print rows as aligned columns below a heading; cells below ``STATUS`` are colored.

    On a terminal, ids are abbreviated, and the widest columns are cut so that no row is broken, the
    first one last.  If that leaves less than 9 characters of one, the last columns are left out.
    """
    cells = [[harmless(str(cell)) for cell in row] for row in rows]
    columns = [list(column) for column in zip(head, *cells, strict=True)]
    if is_terminal():
        columns = _fitting(columns, shutil.get_terminal_size().columns)
    padded = [[*_padded(column)] for column in columns]
    for row in zip(*padded, strict=True):
        click.echo(_GAP.join(row).rstrip())


def _padded(column: Sequence[str]) -> Iterator[str]:
    """Yield the cells of a column, all as wide as the widest one."""
    width = max(map(_width, column))
    for cell in column:
        shown = cell + " " * (width - _width(cell))
        yield colored(shown, cell) if column[0] == "STATUS" else shown


def _fitting(columns: list[list[str]], room: int) -> list[list[str]]:
    """Return the columns, shortened to a number of characters in a row."""
    columns = [_abbreviated(each) if each[0] == "ID" else each for each in columns]
    natural = [max(map(_width, column)) for column in columns]
    least = [min(_FEWEST, width) for width in natural]
    shown = len(columns)
    while shown > 1 and _row(least[:shown], shown < len(columns)) > room:
        shown -= 1
    first, *others = natural[:shown]
    room -= _row([0, *others], shown < len(columns))
    while room < first and max(others, default=0) > _FEWEST:
        widest, second = sorted([*others, _FEWEST], reverse=True)[:2]
        less = max(1, min(first - room, widest - second))
        others[others.index(widest)] -= less
        room += less
    widths = [max(min(first, room), _FEWEST), *others]
    cut = [
        [_cut(cell, width) for cell in column]
        for column, width in zip(columns, widths, strict=False)
    ]
    rest = [] if shown == len(columns) else [[_CUT, *itertools.repeat("", len(columns[0]) - 1)]]
    return [*cut, *rest]


def _row(widths: Sequence[int], is_cut: bool) -> int:
    """Return the width of a row, with the mark of columns that are left out."""
    widths = [*widths, len(_CUT)] if is_cut else widths
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _abbreviated(column: Sequence[str]) -> list[str]:
    """Return a column of ids as short as commands understand them: no two begin alike."""
    head, *marked = column
    ids = {each.removesuffix(_MINE) for each in marked}
    lengths = range(_SHORT_ID, max(map(len, ids), default=0))
    length = next((n for n in lengths if len({each[:n] for each in ids}) == len(ids)), None)
    return [
        head,
        *(f"{each.removesuffix(_MINE)[:length]}{_MINE * each.endswith(_MINE)}" for each in marked),
    ]


def _cut(text: str, width: int) -> str:
    """Return the beginning of a text, with dots if something is left out."""
    if _width(text) <= width:
        return text
    room = width - len(_CUT)
    kept = itertools.takewhile(lambda end: _width(text[:end]) <= room, range(1, len(text)))
    return f"{text[: max(kept, default=0)]}{_CUT}"


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes; East Asian wide characters take two."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )
