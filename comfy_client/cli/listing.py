"""Lists from one server or several, as tables, and calls for each of several prompts.

One failure does not hide the other results: it is reported, and the command ends with the worst
status.  Tables are whole in pipes and files, and as wide as the window on a terminal.
"""

from __future__ import annotations

import itertools
import shutil
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from ..errors import ComfyError
from ..values import is_uuid
from .exits import Exit, SilentExit, harmless, worst
from .printing import colored, emit, is_terminal, report
from .server_options import ServerOptions

if TYPE_CHECKING:
    from ..client import ComfyApi

#: The characters of a UUID at least, and of a whole one.
_SHORT_ID: Final = 8
_UUID: Final = 36
#: The fewest characters of a column that is cut: ``succeeded`` stays whole.
_FEWEST: Final = 9
#: The mark after an id of this installation; see ``queue``.
_MINE: Final = "*"
_GAP: Final = "  "
_CUT: Final = "..."


def table(rows: Sequence[Sequence[object]], head: Sequence[str], *, is_short: bool = True) -> None:
    """Print rows as aligned columns below a heading; cells below ``STATUS`` are colored.

    On a terminal, UUIDs below ``ID`` are abbreviated if ``is_short``, and the widest columns are
    cut so that no row is broken, the first one last.  If that leaves less than 9 characters of one,
    the last columns are left out.  Ids are neither cut nor left out.
    """
    cells = [[harmless(str(cell)) for cell in row] for row in rows]
    columns = [list(column) for column in zip(head, *cells, strict=True)]
    if is_terminal():
        if is_short:
            columns = [_abbreviated(each) if each[0] == "ID" else each for each in columns]
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
    """Return the columns, shortened to a number of characters in a row; ids stay as they are."""
    heads = [column[0] for column in columns]
    fewest = heads.index("ID") + 1 if "ID" in heads else 1
    natural = [max(map(_width, column)) for column in columns]
    least = [
        width if head == "ID" else min(_FEWEST, width)
        for head, width in zip(heads, natural, strict=True)
    ]
    shown = len(columns)
    while shown > fewest and _row(least[:shown], shown < len(columns)) > room:
        shown -= 1
    widths = [
        max(low, min(width, room)) for low, width in zip(least, natural[:shown], strict=False)
    ]
    while _row(widths, shown < len(columns)) > room and (
        loose := [at for at, width in enumerate(widths) if width > least[at]]
    ):
        widths[max(loose, key=lambda at: (at > 0, widths[at]))] -= 1
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
    """Return a column of ids with UUIDs as short as commands understand them, and all different.

    Another id stays whole, as all of it may be the beginning of one more.
    """
    head, *marked = column
    ids = {each.removesuffix(_MINE) for each in marked}
    length = next(n for n in range(_SHORT_ID, _UUID + 1) if len({*_begun(ids, n)}) == len(ids))
    shown = _begun((each.removesuffix(_MINE) for each in marked), length)
    return [
        head,
        *(f"{one}{_MINE * each.endswith(_MINE)}" for one, each in zip(shown, marked, strict=True)),
    ]


def _begun(ids: Iterable[str], length: int) -> Iterator[str]:
    """Yield the beginnings of UUIDs, and other ids as they are."""
    return (each[:length] if is_uuid(each) else each for each in ids)


def _cut(text: str, width: int) -> str:
    """Return the beginning of a text, with dots if something is left out."""
    if _width(text) <= width:
        return text
    room = width - len(_CUT)
    widths = itertools.accumulate(map(_width, text))
    kept = sum(1 for _ in itertools.takewhile(lambda taken: taken <= room, widths))
    return f"{text[:kept]}{_CUT}"


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes; East Asian wide characters take two."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


#: A line of ``--json``.
Row = dict[str, Any]

#: The errors that commands report; others are defects.
_REPORTED: Final = (click.ClickException, ComfyError, OSError, ValueError)


def print_rows(
    given: ServerOptions,
    read: Callable[[ComfyApi], list[Row]],
    show: Callable[[list[Row]], object],
) -> None:
    """Print the rows of each server, as JSON or by ``show``.

    If the options name several servers, they are asked in parallel, and each row has ``server``.
    """
    if not given.is_several:
        with given.client() as api:
            rows = read(api)
        print_found(rows, given, show)
        return
    rows, errors = _of_each(given, read)
    if rows or len(errors) < len(given.each):  # an empty list is an answer, too
        print_found(rows, given, show)
    statuses = [report(error, given.json, server=host) for host, error in errors]
    if statuses:
        raise SilentExit(worst(statuses))


def print_found(rows: list[Row], given: ServerOptions, show: Callable[[list[Row]], object]) -> None:
    """Show rows, or with ``--json`` print an object for each."""
    if not given.json:
        show(rows)
        return
    for row in rows:
        emit(row)


def _of_each(
    given: ServerOptions, read: Callable[[ComfyApi], list[Row]]
) -> tuple[list[Row], list[tuple[str, Exception]]]:
    """Return the rows of all servers, in the order of the options, and (host, error) pairs."""
    from .pooling import at_once

    found: dict[ComfyApi, list[Row] | Exception] = {}

    def ask(api: ComfyApi) -> None:
        try:
            found[api] = read(api)
        except Exception as exc:  # noqa: BLE001  # reported by the caller, if not a defect
            found[api] = exc

    with given.clients() as clients:
        at_once(ask, clients)
    rows: list[Row] = []
    errors: list[tuple[str, Exception]] = []
    for api in clients:
        answer = found[api]
        if not isinstance(answer, Exception):
            rows += [{**row, "server": api.host} for row in answer]
        elif isinstance(answer, _REPORTED):
            errors.append((api.host, answer))
        else:
            raise answer
    return rows, errors


#: The columns of a table of rows: their heads, and what makes a cell of a row.
Columns = Mapping[str, Callable[[Row], object]]


def table_of(rows: Sequence[Row], columns: Columns, *, is_short: bool = True) -> None:
    """Print a :func:`table` of rows; the first column is the server, if they name one."""
    cells = [(*short_server(row), *(cell(row) for cell in columns.values())) for row in rows]
    head = ("SERVER", *columns) if "server" in rows[0] else tuple(columns)
    table(cells, head, is_short=is_short)


def short_server(row: Row) -> tuple[str, ...]:
    """Return a tuple with a row's server, without ``http://``; empty if the row names none."""
    server = row.get("server")
    return () if server is None else (server.removeprefix("http://"),)


def has_words(text: str, words: str) -> bool:
    """Return whether a text contains all these words, in any order, regardless of case."""
    return all(word in text.casefold() for word in words.casefold().split())


def for_each(items: Sequence[str], call: Callable[[str], object], as_json: bool) -> None:
    """Call ``call`` with each item.

    The error of a single item is raised.  Errors of several are reported, and in the end SilentExit
    is raised with the worst status.
    """
    if len(items) == 1:
        call(items[0])
        return
    statuses: list[Exit] = []
    for item in items:
        try:
            call(item)
        except BrokenPipeError:
            raise
        except _REPORTED as exc:
            statuses.append(report(exc, as_json))
    if statuses:
        raise SilentExit(worst(statuses))
