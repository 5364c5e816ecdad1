"""Several servers of one command, as a pool."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

import attrs

from ..errors import ComfyError, JobTimeout
from .connecting import ANSWER_LIMIT, Given
from .exits import Mistake, message_of
from .loading import Late
from .printing import note

if TYPE_CHECKING:
    from ..client import ComfyApi
    from ..jobs.pooled import PooledJob
    from ..pool.pool import ComfyPool
    from ..workflow import Workflow

T = TypeVar("T")

#: Seconds between two looks.
_LOOK: Final = 0.02


@contextlib.contextmanager
def pool_of(given: Given) -> Iterator[Several]:
    """A pool of the servers that the options name, which are asked when they are needed."""
    from ..pool.pool import ComfyPool

    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(contextlib.closing(server.client())) for server in given.servers()
        ]
        pool = ComfyPool(clients)
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        yield Several(pool)


@attrs.define
class Several:
    """The servers of a command."""

    pool: ComfyPool
    _ready: list[ComfyApi] | None = attrs.field(default=None, init=False)

    def clients(self) -> list[ComfyApi]:
        """Those that are ready, once each has answered or failed; the others are named on stderr.

        If there is none, the error of the first is raised.
        """
        if self._ready is None:
            _ask(self.pool.servers)
            self.pool.init(ANSWER_LIMIT)
            end = time.monotonic() + ANSWER_LIMIT
            while any(one.state == "connecting" for one in self.pool.status().servers):
                if time.monotonic() > end:
                    break
                time.sleep(_LOOK)
            ready = {one.host for one in self.pool.status().servers if one.state == "ready"}
            # None, if they have all gone away since.
            found = [api for api in self.pool.servers if api.host in ready]
            self._ready = found or list(self.pool.servers)
        return self._ready

    def read(self, read: Callable[[Late], T], workflow_of: Callable[[T], Workflow]) -> T:
        """What is read with the help of the first server that has all node classes of it.

        No server is asked if none is needed.  :class:`Mistake` if it makes sense to none of them.
        """
        partly: list[T] = []  # by servers that lack some of the classes
        mistake: Mistake | None = None
        first = Late(lambda: self.clients()[0])
        for source in self._sources(first):
            try:
                found = read(source)
            except Mistake as exc:
                if not first.is_asked:
                    raise
                mistake = mistake or exc
                continue
            if not first.is_asked or _has_classes(source, workflow_of(found)):
                return found
            partly.append(found)
        if mistake is not None:
            raise mistake
        return partly[0]

    def _sources(self, first: Late) -> Iterator[Late]:
        yield first
        for api in self.clients()[1:]:
            yield Late(functools.partial(_itself, api))


def _ask(clients: Sequence[ComfyApi]) -> None:
    """Whether they are there: all at once, since one that is away takes its time."""
    with ThreadPoolExecutor(len(clients)) as threads:
        try:
            errors = list(threads.map(_error_of, clients))
        except BaseException:
            for api in clients:
                api.close()  # Ctrl-C does not wait for them
            raise
    failed = [error for error in errors if error is not None]
    if len(failed) == len(clients):
        for error in failed[1:]:
            note(message_of(error))
        raise failed[0]
    for error in failed:
        note(f"{message_of(error)}; the other servers go on without it")


def _error_of(api: ComfyApi) -> ComfyError | None:
    try:
        api.poll_status(ANSWER_LIMIT)
    except ComfyError as exc:
        return exc
    return None


def _itself(api: ComfyApi) -> ComfyApi:
    return api


def _has_classes(source: Late, workflow: Workflow) -> bool:
    """Whether the server has all node classes of it."""
    classes = {node.class_type for node in workflow.nodes.values()}
    return classes <= source.node_definitions(classes).keys()


def until_sent(job: PooledJob) -> None:
    """Wait until a server has it in its queue; raises the error if none will."""
    from ..jobs.job import state_of

    while not job.done() and state_of(job).accepted_at is None:
        time.sleep(_LOOK)
    if job.done():
        job.result(0)


@contextlib.contextmanager
def placed(job: PooledJob, *, quiet: bool) -> Iterator[PooledJob]:
    """In here somebody waits for it; stderr says in the end which server has it, or had it.

    One that no server has when time runs out will not run.
    """
    is_over = False
    try:
        yield job
        is_over = True
    except JobTimeout:
        if job.status == "waiting" and job.cancel():
            message = "no server took the prompt in time, and it will not run"
            raise TimeoutError(message) from None
        raise
    finally:
        if job.server is not None and not (is_over and quiet):
            note(f"prompt {job.prompt_id} on {job.server}")
