"""The life of a pool: it connects, takes prompts back, shuts down, and ends with its process."""

from __future__ import annotations

import atexit
import itertools
import os
import weakref
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Final

from .. import runtime
from ..batch.in_flight import InFlight
from ..jobs.job import Job
from ..transport.deadline import Deadline
from .availability import is_hopeless, out_of_reach
from .dispatcher import Dispatcher
from .pooled_job import PooledJob

#: Jobs of a call in proportion to those that servers take, so that no server is ever idle.
SPARE: Final = 2
#: The most seconds for taking all prompts back, including those that are being sent.
_LONGEST: Final = 5.0
#: Seconds that prompts which are being sent may hold up the rest, and between two checks.
_SOON: Final = 0.5
_LOOK: Final = 0.01


def prompts_of_call(
    dispatcher: Dispatcher,
    timeout: float | None,
    stall_timeout: float | None,
    *,
    forsaken: bool,
) -> InFlight:
    """Return an empty collection for the prompts of one call.

    With ``forsaken``, prompts that are left at the end run on no other server.
    """
    return InFlight(
        partial(_leave if forsaken else _take_back, dispatcher),
        timeout=timeout,
        stall_timeout=stall_timeout,
        server_of=server_of,
        silent_for=dispatcher.silent_for,
        notes=dispatcher.notes,
    )


def server_of(job: Job) -> str | None:
    """Return the URL of the server that was chosen for a job; None if none was."""
    return job.server if isinstance(job, PooledJob) else None


def _take_back(dispatcher: Dispatcher, prompts: Mapping[str, Job | None]) -> list[str]:
    """Take back prompts that are not running; return the keys of those that a server had."""
    taken = take_back(dispatcher, _pooled(prompts))
    return [key for key, job in prompts.items() if job in taken]


def _leave(dispatcher: Dispatcher, prompts: Mapping[str, Job | None]) -> list[str]:
    """Take back prompts that are not running, and let no other server run the rest."""
    taken = _take_back(dispatcher, prompts)
    forsake(dispatcher, _pooled(prompts))
    return taken


def _pooled(prompts: Mapping[str, Job | None]) -> list[PooledJob]:
    return [job for job in prompts.values() if isinstance(job, PooledJob)]


def take_back(dispatcher: Dispatcher, jobs: Iterable[PooledJob]) -> list[PooledJob]:
    """Take back jobs that wait in the pool or are pending on a server; running jobs keep running.

    This takes 5 seconds at most.

    Returns:
        The jobs that a server had.  A job that is still on its way may arrive later.
    """
    left = [job for job in jobs if not job.done() and not dispatcher.recall(job)]
    left = list(filter(dispatcher.has, left))  # some may not be submitted, after a Ctrl-C
    deadline = Deadline.after(_LONGEST)
    taken: list[PooledJob] = []

    def take(there: list[PooledJob]) -> None:
        """Take back the jobs that a server has, then the jobs that are being sent to it."""
        for until in (Deadline.after(_SOON), deadline):
            while any(map(_is_on_the_way, there)) and not until.expired:
                runtime.sleep(_LOOK)
            if deadline.expired:
                return
            for some in _by_server(job for job in there if job.handle.given is not None):
                ids = [job.prompt_id for job in some]
                if some[0].handle.poller.delete_pending(ids, deadline.left()):
                    taken.extend(itertools.filterfalse(_is_on_the_way, some))
            there = list(filter(_is_on_the_way, there))
            if not there:
                return

    servers = _by_server(left)
    try:  # in parallel, since a silent server takes its time
        with runtime.ThreadPoolExecutor(max(1, len(servers))) as threads:
            list(threads.map(take, servers))
    except RuntimeError:  # no more threads, as at exit
        list(map(take, servers))
    return taken


def forsake(dispatcher: Dispatcher, jobs: Iterable[PooledJob]) -> None:
    """Let no other server run these jobs: end those not sent, and cancel those being sent."""
    for job in jobs:
        if not job.done():
            dispatcher.withdraw(job)


def _by_server(jobs: Iterable[PooledJob]) -> list[list[PooledJob]]:
    """Group the jobs that have not ended by server."""
    found: dict[str | None, list[PooledJob]] = {}
    for job in jobs:
        if not job.done():
            found.setdefault(job.server, []).append(job)
    return list(found.values())


def _is_on_the_way(job: PooledJob) -> bool:
    """Return whether a job has not ended, and its server has not accepted it yet."""
    return not job.done() and job.handle.state.accepted_at is None


#: Seconds in which a running server is expected to answer.
READY: Final = 10.0
#: Longest wait in one piece, in seconds, so that Ctrl-C works on every system.
_SLICE: Final = 0.5

_dispatchers: weakref.WeakSet[Dispatcher] = weakref.WeakSet()


def register(dispatcher: Dispatcher) -> None:
    """Register a dispatcher to be told of a fork and of the process's end."""
    _dispatchers.add(dispatcher)


def connect(dispatcher: Dispatcher, timeout: float | None) -> None:
    """Connect all servers, and wait until one is ready; raise an error if none is in time."""
    deadline = Deadline.after(timeout)
    state = dispatcher.state
    dispatcher.check_open()
    dispatcher.start()

    def is_settled() -> bool:
        return state.was_ready or state.closed or is_hopeless(dispatcher.members)

    while not dispatcher.wait(is_settled, deadline.left(_SLICE)):
        if deadline.expired:
            break
    dispatcher.check_open()
    if not state.was_ready:
        raise out_of_reach(dispatcher.members)


def connect_once(dispatcher: Dispatcher, timeout: float = READY) -> None:
    """Connect the servers and wait until one is ready, unless a server has been ready before."""
    if dispatcher.state.closed or not dispatcher.state.was_ready:
        connect(dispatcher, timeout)


def shut_down(dispatcher: Dispatcher, *, wait: bool, cancel: bool) -> None:
    """Stop accepting jobs, and stop the pool once all have ended.

    ``cancel`` ends waiting jobs, and lets no other server run the rest.
    """
    dispatcher.close()
    if cancel:
        for job in dispatcher.waiting():
            dispatcher.withdraw(job)
        for job in (left := dispatcher.jobs()):
            dispatcher.recall(job)
        dispatcher.end_unsent(left)
    while wait and not dispatcher.wait(lambda: dispatcher.state.is_idle, _SLICE):
        dispatcher.warn_of_away()
        dispatcher.warn_of_silence()
    if dispatcher.state.is_idle:
        dispatcher.stop()


def leave(dispatcher: Dispatcher) -> None:
    """Shut the pool down without waiting; cancel all jobs but those that are running."""
    dispatcher.close()
    try:
        jobs = dispatcher.jobs()
        take_back(dispatcher, jobs)
        forsake(dispatcher, jobs)
    finally:
        shut_down(dispatcher, wait=False, cancel=True)


def _after_fork() -> None:
    for dispatcher in list(_dispatchers):
        dispatcher.after_fork()


def _at_exit() -> None:
    for dispatcher in list(_dispatchers):
        dispatcher.warn_of_waiting()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
