"""Lists from one server or several, and calls for each of several prompts.

One failure does not hide the other results: it is reported, and the command ends with the worst
status.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from ..errors import ComfyError
from .exits import Exit, SilentExit, worst
from .printing import emit, report
from .server_options import ServerOptions

if TYPE_CHECKING:
    from ..client import ComfyApi

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
        _print(rows, given, show)
        return
    rows, errors = _of_each(given, read)
    if rows or len(errors) < len(given.each):  # an empty list is an answer, too
        _print(rows, given, show)
    statuses = [report(error, given.json, server=host) for host, error in errors]
    if statuses:
        raise SilentExit(worst(statuses))


def _print(rows: list[Row], given: ServerOptions, show: Callable[[list[Row]], object]) -> None:
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
