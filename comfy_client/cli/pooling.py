"""A pool of the servers that a command's options name."""

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

from .. import runtime
from ..errors import JobTimeout
from .exits import StillRunning, message_of
from .printing import note
from .results import cancelled_by_ctrl_c
from .server_options import RUN_LIMIT, ServerOptions

if TYPE_CHECKING:
    from ..client import ComfyApi
    from ..pool.pool import ComfyPool
    from ..pool.pooled_job import PooledJob
    from ..workflow import Workflow

#: Seconds between two checks.
_LOOK: Final = 0.02


@contextlib.contextmanager
def pool_of(given: ServerOptions, **options: Any) -> Iterator[Several]:
    """Context manager: yield a pool of the servers that the options name, and shut it down.

    On exit, jobs that wait for a server are cancelled; those that run are not waited for.
    """
    from ..pool.pool import ComfyPool

    with given.clients(RUN_LIMIT) as clients:
        pool = ComfyPool(clients, **options)
        try:
            yield Several(pool, given.answer_limit)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@attrs.define
class Several:
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
                time.sleep(_LOOK)
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
    """Call ``call`` with each client, in parallel; Ctrl-C does not wait for the threads."""
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
def submitted(
    pool: ComfyPool,
    workflow: Workflow,
    *,
    quiet: bool,
    detach: bool,
    timeout: float | None,
    **options: Any,
) -> Iterator[PooledJob]:
    """Context manager: submit a workflow; on exit, name its server on stderr.

    With ``detach``, the block begins once a server has queued the prompt.  Ctrl-C meanwhile or in
    the block cancels it.  A prompt that no server has taken when time runs out is cancelled.
    """
    job: PooledJob | None = None
    is_over = False
    try:
        with cancelled_by_ctrl_c(lambda: job):
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
        time.sleep(_LOOK)
