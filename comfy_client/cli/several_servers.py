"""One server or several: lists from each, and a pool of all.

One failure does not hide the other results: it is reported, and the command ends with the worst
status.
"""

from __future__ import annotations

import contextlib
import contextvars
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import attrs
import click

from .. import runtime
from ..errors import ComfyError, JobTimeout
from ..values import T
from .exits import Exit, SilentExit, StillRunning, message_of, worst
from .printing import emit, note, report, table
from .results import cancelled_if_stopped
from .server_options import RUN_LIMIT, ServerOptions, Transport
from .workflow_source import LazyServer

if TYPE_CHECKING:
    from ..client import ComfyApi
    from ..pool.pool import ComfyPool
    from ..pool.pooled_job import PooledJob
    from ..workflow import Workflow
    from .prompt_records import PromptSource

#: Seconds between two checks.
_CHECK_INTERVAL: Final = 0.02
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


# -- a pool of all -----------------------------------------------------------------------


@contextlib.contextmanager
def pool_of(given: ServerOptions, **options: Any) -> Iterator[AskedPool]:
    """Context manager: yield a pool of the servers that the options name, and shut it down.

    On exit, jobs that wait for a server are cancelled; those that run are not waited for.
    """
    from ..pool.pool import ComfyPool

    with given.clients(RUN_LIMIT) as clients:
        pool = ComfyPool(clients, **options)
        try:
            yield AskedPool(pool, given.answer_limit)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@attrs.define
class AskedPool:
    """A pool of the servers that a command uses; each must answer within ``limit`` seconds."""

    pool: ComfyPool
    limit: float
    _ready: list[ComfyApi] | None = attrs.field(default=None, init=False)

    def clients(self) -> list[ComfyApi]:
        """Return the clients of ready servers, once each has answered or failed.

        Print the errors of the other servers on stderr; raise the first error if none answers.
        """
        if self._ready is None:
            ask_all(self.pool.servers, self.limit)
            self.pool.init(self.limit)
            end = time.monotonic() + self.limit
            while any(one.state == "connecting" for one in self.pool.status().servers):
                if time.monotonic() > end:
                    break
                time.sleep(_CHECK_INTERVAL)
            ready = {one.host for one in self.pool.status().servers if one.state == "ready"}
            # Empty if all servers have gone away since.
            found = [api for api in self.pool.servers if api.host in ready]
            self._ready = found or list(self.pool.servers)
        return self._ready

    def node_definitions(
        self, classes: Collection[str] | None = None, *, refresh: bool = False
    ) -> Mapping[str, Any]:
        """Return the definitions of node classes, with the choices of all servers combined."""
        self.clients()  # wait for all servers
        return self.pool.node_definitions(classes, refresh=refresh)

    def node_names(self, *, for_a_hint: bool = False) -> Collection[str]:
        """Return the names of the node classes of all servers; for a hint, none if many."""
        self.clients()
        return self.pool.node_names(for_a_hint=for_a_hint)

    def open_image(self, info: str) -> BinaryIO:
        """Open a file by its URL; raise ValueError if the URL belongs to no server of the pool."""
        return self.pool.open_image(info)


def ask_all(clients: Sequence[ComfyApi], limit: float) -> None:
    """Ask all servers in parallel for their status; print the errors, but raise if all fail."""
    errors: dict[ComfyApi, Exception | None] = {}

    def ask(api: ComfyApi) -> None:
        try:
            api.poll_status(limit)
            errors[api] = None
        except Exception as exc:  # noqa: BLE001  # reported below
            errors[api] = exc

    at_once(ask, clients)
    failed = [error for api in clients if (error := errors[api]) is not None]
    if len(failed) == len(clients):
        for error in failed[1:]:
            note(message_of(error))
        raise failed[0]
    for error in failed:
        note(f"{message_of(error)}; the other servers go on without it")


def at_once(call: Callable[[ComfyApi], object], clients: Sequence[ComfyApi]) -> None:
    """Call ``call`` with each client, in parallel; a signal does not wait for the threads."""
    ended: queue.SimpleQueue[None] = queue.SimpleQueue()

    def work(api: ComfyApi) -> None:
        try:
            call(api)
        finally:
            ended.put(None)

    for api in clients:
        run = partial(contextvars.copy_context().run, work, api)
        threading.Thread(target=run, daemon=True).start()
    for _ in clients:
        while True:
            with contextlib.suppress(queue.Empty):
                ended.get(timeout=runtime.SLICE)
                break


@contextlib.contextmanager
def reading(
    given: ServerOptions,
    read: Callable[[PromptSource], T],
    transport: Transport = "auto",
    **pool_options: Any,
) -> Iterator[tuple[T, LazyServer | AskedPool]]:
    """Context manager: yield what ``read`` returns for a server or a pool, and that.

    A single server is contacted only when needed; those of a pool have all answered or failed.
    """
    if given.is_several:
        with pool_of(given, **pool_options) as servers:
            found = read(servers)
            servers.clients()  # wait for all servers
            yield found, servers
        return
    with given.client(RUN_LIMIT, transport) as api:

        def ask() -> ComfyApi:
            api.poll_status(given.answer_limit)
            return api

        server = LazyServer(ask)
        yield read(server), server


@contextlib.contextmanager
def submitted_to_pool(
    pool: ComfyPool,
    workflow: Workflow,
    *,
    quiet: bool,
    detach: bool,
    timeout: float | None,
    **options: Any,
) -> Iterator[PooledJob]:
    """Context manager: submit a workflow; on exit, name its server on stderr.

    With ``detach``, the block begins once a server has queued the prompt.  A signal meanwhile or in
    the block cancels it.  A prompt that no server has taken when time runs out is cancelled.
    """
    job: PooledJob | None = None
    is_over = False
    try:
        with cancelled_if_stopped(lambda: job):
            job = pool.submit(workflow, **options)
            if detach:
                _until_sent(job, timeout)
            yield job
        is_over = True
    except JobTimeout as exc:
        why = "" if job is None else job.why()
        if job is not None and job.status == "waiting" and job.cancel():
            message = f"no server took the prompt in time, and it will not run; it was {why}"
            raise TimeoutError(message) from None
        if job is not None and job.server is not None:
            raise StillRunning(exc, job.server) from None
        raise
    finally:
        if job is not None and job.server is not None and not (is_over and quiet):
            note(f"prompt {job.prompt_id} on {job.server}")


def _until_sent(job: PooledJob, timeout: float | None) -> None:
    """Wait until a server has queued the prompt; raise if that fails or takes too long."""
    from ..transport.deadline import Deadline

    deadline = Deadline.after(timeout)
    while job.handle.state.accepted_at is None:
        if job.done() or deadline.expired:
            job.result(0)
            return
        time.sleep(_CHECK_INTERVAL)
