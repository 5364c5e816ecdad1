"""The servers of a pool: how they connect and leave, who listens, and which jobs they may get."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import logging
import math
import os
import weakref
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, BinaryIO, Final, TypedDict, cast

import attrs

from .. import runtime
from ..batch.map_loop import InFlight
from ..client import ComfyApi
from ..errors import ClientClosed, ComfyError
from ..events import NAMES
from ..jobs.handle import SLICE
from ..jobs.job import Job
from ..routes.prompts import PromptOptions
from ..transport.deadline import Deadline, read_timeout
from ..transport.url import parse_host
from ..values import is_real
from .availability import is_hopeless, out_of_reach
from .dispatcher import Dispatcher
from .needs import merge_definitions
from .pool_state import POOL_EVENTS, Member
from .pooled_job import PooledJob
from .schedule import Server

#: Jobs of a call in proportion to those that servers take, so that no server is ever idle.
SPARE: Final = 2
#: Seconds between two checks of whether prompts that are being sent have arrived.
_CHECK_EVERY: Final = 0.01


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

    This takes as long as ``PoolTiming.take_back`` at most.

    Returns:
        The jobs that a server had.  A job that is still on its way may arrive later.
    """
    timing = dispatcher.timing
    left = [job for job in jobs if not job.done() and not dispatcher.recall(job)]
    left = list(filter(dispatcher.has, left))  # some may not be submitted, after a Ctrl-C
    deadline = Deadline.after(timing.take_back)
    taken: list[PooledJob] = []

    def take(there: list[PooledJob]) -> None:
        """Take back the jobs that a server has, then the jobs that are being sent to it."""
        for until in (Deadline.after(timing.on_the_way), deadline):
            while any(map(_is_on_the_way, there)) and not until.expired:
                runtime.sleep(_CHECK_EVERY)
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

    while not dispatcher.wait(is_settled, deadline.left(SLICE)):
        if deadline.expired:
            break
    dispatcher.check_open()
    if not state.was_ready:
        raise out_of_reach(dispatcher.members)


def connect_once(dispatcher: Dispatcher, timeout: float | None = None) -> None:
    """Connect the servers and wait until one is ready, unless a server has been ready before.

    ``timeout`` is in seconds; ``None``: as long as the times of the pool say.
    """
    if dispatcher.state.closed or not dispatcher.state.was_ready:
        connect(dispatcher, dispatcher.timing.ready if timeout is None else timeout)


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
    while wait and not dispatcher.wait(lambda: dispatcher.state.is_idle, SLICE):
        dispatcher.warn_of_away()
        dispatcher.warn_of_silence()
    if wait or dispatcher.state.is_idle:
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


log: logging.Logger = logging.getLogger("comfy_client")

#: Servers, by their clients or URLs.
AnyServer = ComfyApi | str


class Servers:
    """The servers of a pool.

    Attributes:
        dispatcher: The dispatcher of the pool.
        numbers: The numbers for new jobs, in the order of their submission.
    """

    def __init__(self, dispatcher: Dispatcher, in_flight: int) -> None:
        self.dispatcher: Dispatcher = dispatcher
        self.numbers: Iterator[int] = itertools.count()
        self._in_flight = in_flight
        self._first: ComfyApi | None = None
        self._relayed: dict[object, tuple[str, Callable[[Any, Any], object]]] = {}

    def add(self, server: AnyServer, weight: float) -> None:
        """Add a server to the pool; raise an error if it or its weight is invalid."""
        if not is_real(weight) or not 0 < weight < math.inf:
            raise ValueError(f"the weight of a server must be a number above 0, not {weight!r}")
        if not isinstance(server, str | ComfyApi):
            raise TypeError(f"a server must be a URL or a ComfyApi, not {server!r:.80}")
        name = name_of(server)
        if name in self.dispatcher.members:
            raise ValueError(f"{name} is in the pool already")
        api = ComfyApi(server) if isinstance(server, str) else server
        known = Server(name, weight=float(weight), most=self._in_flight)
        member = Member(api, known, is_own=isinstance(server, str))
        self.dispatcher.add(member)
        self._first = self._first or api
        for key, (event, callback) in list(self._relayed.items()):
            member.relay(key, event, callback)

    # -- which they are ------------------------------------------------------------------

    @property
    def clients(self) -> tuple[ComfyApi, ...]:
        """The servers' clients, in the order in which they were added."""
        return tuple(member.api for member in self._members())

    def _members(self) -> list[Member]:
        return list(self.dispatcher.members.values())

    def ready_clients(self) -> list[ComfyApi]:
        """Return the clients of ready servers; if no server is ready, any one client."""
        ready = [member.api for member in self._members() if member.server.ready]
        return ready or [self.any_client()]

    def any_client(self) -> ComfyApi:
        """Return the client of a ready server, or of any server if none is ready."""
        members = self._members()
        ready = (member.api for member in members if member.server.ready)
        found = next(ready, None) or next((member.api for member in members), self._first)
        if found is None:
            raise ClientClosed("this ComfyPool is shut down; make a new one")
        return found

    def names(self, servers: Iterable[AnyServer], argument: str) -> frozenset[str]:
        """Return the names of the given servers; raise ValueError if one is not in the pool."""
        if isinstance(servers, str | ComfyApi):
            servers = [servers]
        if not isinstance(servers, Iterable):
            raise TypeError(
                f"{argument} must be a list of servers of the pool, not {servers!r:.80}"
            )
        names = frozenset(map(name_of, servers))
        unknown = names - self.dispatcher.members.keys()
        if unknown:
            raise ValueError(f"{argument}: {', '.join(sorted(unknown))} is not in the pool")
        return names

    # -- what servers have and what they send ----------------------------------------------

    def node_definitions(
        self, classes: Collection[str] | None, *, refresh: bool
    ) -> Mapping[str, Any]:
        """Return the definitions of the given node classes, or all, from the ready servers."""
        connect_once(self.dispatcher, min(self.dispatcher.timing.ready, read_timeout.get()))
        if not self.dispatcher.members:
            raise out_of_reach({})
        found: list[Mapping[str, Any]] = []
        errors: list[ComfyError] = []
        for api in self.ready_clients():
            try:
                found.append(api.node_definitions(classes, refresh=refresh))
            except ComfyError as exc:
                errors.append(exc)
        if errors and not found:
            raise errors[0]
        return merge_definitions(found)

    def node_names(self, *, for_a_hint: bool) -> Collection[str]:
        """Return the names of the node classes of all ready servers."""
        connect_once(self.dispatcher, min(self.dispatcher.timing.ready, read_timeout.get()))
        names: dict[str, None] = {}
        for api in self.ready_clients():
            with contextlib.suppress(ComfyError):  # a hint does not need all servers
                names.update(dict.fromkeys(api.node_names(for_a_hint=for_a_hint)))
        return names

    def packs_of_classes(self, classes: Collection[str]) -> Mapping[str, tuple[str, ...]]:
        """Return the node packs that have classes, from the first server that knows any."""
        for api in self.ready_clients():
            with contextlib.suppress(ComfyError):
                if found := api.packs_of_classes(classes):
                    return found
        return {}

    def open_image(self, info: str) -> BinaryIO:
        """Open a file of one of the servers by its URL."""
        for api in self.clients:
            with contextlib.suppress(ValueError):
                return api.open_image(info)
        raise ValueError("the URL is not a file on a server of the pool")  # it may have a password

    def relay(self, name: str, callback: Callable[[Any, Any], object]) -> Callable[[], None]:
        """Register a callback for an event of all clients; return a function to unregister it."""
        _warn_of_name(name)
        key = object()
        self._relayed[key] = name, callback  # first, so that servers added meanwhile have it, too
        for member in self.dispatcher.all_members:
            member.relay(key, name, callback)

        def off() -> None:
            self._relayed.pop(key, None)
            for member in self.dispatcher.all_members:
                member.end_relay(key)

        return off


def name_of(server: AnyServer) -> str:
    """Return the URL of a server, which is its name in the pool."""
    return server.host if isinstance(server, ComfyApi) else parse_host(server)[0].http_url


def check_servers(
    servers: Iterable[AnyServer], weights: Sequence[float] | None
) -> list[tuple[AnyServer, float]]:
    """Return the given servers with their weights; raise TypeError or ValueError if invalid."""
    if isinstance(servers, str | ComfyApi) or not isinstance(servers, Iterable):
        raise TypeError("servers must be a list of URLs or clients; for one, use ComfyApi")
    given = list(servers)
    if not given:
        raise ValueError("a pool needs a server: ComfyPool(['http://127.0.0.1:8188', ...])")
    if not isinstance(weights, Sequence | None):
        raise TypeError(f"weights must be a list of numbers, one per server, not {weights!r:.80}")
    if weights is not None and len(weights) != len(given):
        raise ValueError(f"weights has {len(weights)} numbers for {len(given)} servers")
    return list(zip(given, weights or [1.0] * len(given), strict=True))


def _warn_of_name(name: str) -> None:
    """Log a warning if a name is not that of an event, but resembles one of a pool's events."""
    if name in NAMES:
        return
    from ..nearest import nearest  # rarely needed

    if likely := nearest(name, POOL_EVENTS, 1):
        log.warning("%r is not an event of a pool; did you mean %r?", name, likely[0])


@attrs.frozen
class Terms:
    """The terms of a job: its caller, its priority, and the servers to which it may go."""

    caller: Hashable
    priority: float
    include: frozenset[str] | None
    exclude: frozenset[str]


class Sending(TypedDict):
    """The options with which a job is submitted to the chosen server."""

    strict: bool
    check: bool
    resubmit: bool
    wants_previews: bool
    options: PromptOptions


def terms_of(
    servers: Servers,
    caller: Hashable,
    priority: float,
    include: Iterable[AnyServer] | None,
    exclude: Iterable[AnyServer],
) -> Terms:
    """Check a job's priority and servers, and return its terms."""
    if not is_real(priority) or math.isnan(priority):
        raise ValueError(f"priority must be a number, not {priority!r:.80}")
    names = servers.dispatcher.members.keys()
    only = None if include is None else servers.names(include, "include")
    but = servers.names(exclude, "exclude")
    if names and not (names if only is None else only) - but:
        raise ValueError("include and exclude leave no server of the pool")
    return Terms(caller, priority, only, but)


def sending_of(options: Mapping[str, Any]) -> Sending:
    """Return the submission options for each job of a ``map`` or ``sweep`` call."""
    rest = cast("PromptOptions", {**options})
    # map and sweep take all options together; these two are not in PromptOptions.
    strict: bool = rest.pop("strict", False)  # type: ignore[typeddict-item]
    resubmit: bool = rest.pop("resubmit", False)  # type: ignore[typeddict-item]
    return {
        "strict": strict,
        "check": False,
        "resubmit": resubmit,
        "wants_previews": False,
        "options": rest,
    }
