"""The choice of the next job, and of a server for it.  Pure: no thread, no clock, no request.

A :class:`Schedule` holds the waiting jobs and the known state of the servers.  Its owner reports
changes, and then calls :meth:`Schedule.assign_next` until it returns ``None``.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Iterator
from typing import Final, Literal, get_args

import attrs

from .needs import Needs

#: How a server is chosen: see :class:`comfy_client.ComfyPool`.
Mode = Literal["shortest", "round_robin", "first_free"]
MODES: Final[tuple[str, ...]] = get_args(Mode)


#: How many kinds of jobs are cached, with the servers that can run them.
_CACHED_KINDS: Final = 1000


def anything(_: Needs) -> bool:
    """Return True: a server with unknown models counts as able to run anything."""
    return True


@attrs.frozen(eq=False)
class Waiting:
    """A job that waits for a server.

    Attributes:
        key: The key by which its owner knows it.
        order: Its place in the order of submission, which it keeps if it is queued again.
        priority: Higher ones first.
        caller: The caller that submitted it; callers take turns.
        needs: The classes and models that a server needs to have.
        model: The models that it loads; empty: none.
        include: The only servers that it may go to; ``None``: any.
        exclude: Servers that it may not go to.
        is_bound: Whether its owner has chosen its server among several, and takes the job back
            while that server rests.
        runs_alone: Whether its server may have no other job of this pool meanwhile.
    """

    key: Hashable
    order: int
    priority: float = 0
    caller: Hashable = None
    needs: Needs = frozenset()
    model: tuple[str, ...] = ()
    include: frozenset[str] | None = None
    exclude: frozenset[str] = frozenset()
    is_bound: bool = False
    runs_alone: bool = False

    def may_go_to(self, server: str) -> bool:
        """Return whether the job may go to the server of that name."""
        return (self.include is None or server in self.include) and server not in self.exclude


@attrs.define(eq=False)
class Server:
    """A server, as the schedule knows it.

    Attributes:
        name: Its name, by which jobs include and exclude it.
        weight: How fast it is, compared to other servers.
        most: How many jobs of this pool it may have at a time.
        has: Returns whether it has what a job needs.
        ready: Whether it accepts jobs.
        is_slow: Whether it takes long to accept a job, so that it gets no more meanwhile.
        is_expected: Whether it is ready, or may be soon.
        is_suspect: Whether it fails job after job, so that it gets one job at a time while
            another server can run the jobs.
        is_resting: Whether it is suspect, and gets no job at all for a while.
        own: How many jobs of this pool it has.
        runs_alone: Whether the job that it got last runs alone.
        others: How many prompts of other clients are in its queue.
        model: The models of the job that it got last.
        served: How many jobs it got, divided by its weight; raised to the lowest of the other
            servers whenever it joins them.
    """

    name: str
    weight: float = 1.0
    most: int = 2
    has: Callable[[Needs], bool] = anything
    ready: bool = False
    is_slow: bool = False
    is_expected: bool = True
    is_suspect: bool = False
    is_resting: bool = False
    own: int = 0
    runs_alone: bool = False
    others: int = 0
    model: tuple[str, ...] = ()
    served: float = 0.0

    @property
    def load(self) -> float:
        """The length of the server's queue, divided by its weight."""
        return (self.own + self.others) / self.weight

    @property
    def may_be_tried(self) -> bool:
        """Whether the server is not suspect, or is neither resting nor busy with a trial job."""
        return not self.is_suspect or not (self.is_resting or self.own)


@attrs.frozen(eq=False)
class Assignment:
    """A job, and the server that gets it."""

    job: Waiting
    server: Server


#: The servers that can run jobs, and whether these jobs are bound, and run alone.
_Key = tuple[frozenset[str], bool, bool]


@attrs.define(eq=False)
class _Lane:
    """Jobs of one caller and one priority that the same servers can run."""

    key: _Key
    heap: list[tuple[int, Waiting]] = attrs.field(factory=list)


_Lanes = dict[_Key, _Lane]


class Schedule:
    """The waiting jobs, and the servers to which they are assigned.

    A job that no server can take now never holds up later jobs.
    """

    def __init__(self, mode: Mode = "shortest") -> None:
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(map(repr, MODES))}, not {mode!r}")
        self.mode: Mode = mode
        self.servers: dict[str, Server] = {}
        self._waiting: dict[Hashable, Waiting] = {}
        # A removed job is taken out of its lane when its turn comes.
        self._lanes: dict[float, dict[Hashable, _Lanes]] = {}
        # How many jobs of each waiting caller have gone, counted from a common start.
        self._turns: dict[Hashable, float] = {}
        self._turn = 0.0
        self._able: dict[Hashable, frozenset[str]] = {}

    # -- what has changed ------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the number of waiting jobs."""
        return len(self._waiting)

    def waiting(self) -> Iterator[Waiting]:
        """Return an iterator over the waiting jobs."""
        return iter(self._waiting.values())

    def add_server(self, server: Server) -> None:
        """Add a server; raise ValueError if the schedule has it already."""
        if server.name in self.servers:
            raise ValueError(f"{server.name} is in the pool already")
        self._level_with(server, list(self.servers.values()))
        self.servers[server.name] = server
        self.regroup()

    def welcome(self, server: Server) -> None:
        """Make a server available for jobs, for the first time or again."""
        if not server.ready:
            self.level(server)
        server.ready = True

    def level(self, server: Server) -> None:
        """Raise a server's ``served`` to the lowest of the ready servers, to prevent a burst."""
        self._level_with(server, [one for one in self.servers.values() if one.ready])

    @staticmethod
    def _level_with(server: Server, others: list[Server]) -> None:
        """Raise a server's ``served`` to the lowest of the other servers."""
        least = min((one.served for one in others), default=0.0)
        server.served = max(server.served, least)

    def remove_server(self, name: str) -> None:
        """Remove a server."""
        del self.servers[name]
        self.regroup()

    def regroup(self) -> None:
        """Group the waiting jobs anew by the servers that can run them, as these have changed."""
        self._able.clear()
        self._lanes.clear()
        for job in self._waiting.values():
            self._enter(job)

    def add(self, job: Waiting) -> None:
        """Add a new or returning job; raise ValueError if it is waiting already."""
        if job.key in self._waiting:
            raise ValueError(f"job {job.key!r} waits already")
        self._waiting[job.key] = job
        self._enter(job)

    def remove(self, key: Hashable) -> bool:
        """Remove a job; return whether it was waiting."""
        return self._waiting.pop(key, None) is not None

    def _enter(self, job: Waiting) -> None:
        names = self.able(job)
        lanes = self._lanes.setdefault(job.priority, {}).setdefault(job.caller, {})
        key = names, job.is_bound, job.runs_alone
        lane = lanes.setdefault(key, _Lane(key))
        heapq.heappush(lane.heap, (job.order, job))
        # A caller that had nothing waiting is owed no turns.
        self._turns.setdefault(job.caller, self._turn)

    # -- what is asked -----------------------------------------------------------------------

    def able(self, job: Waiting) -> frozenset[str]:
        """Return the servers that can run a job, ready or not."""
        kind = (job.needs, job.include, job.exclude)
        names = self._able.get(kind)
        if names is None:
            names = frozenset(
                name
                for name, server in self.servers.items()
                if job.may_go_to(name) and server.has(job.needs)
            )
            if len(self._able) > _CACHED_KINDS:
                self._able.clear()
            self._able[kind] = names
        return names

    def position(self, key: Hashable) -> int | None:
        """Return the maximum number of waiting jobs ahead of a job; None if it is not waiting."""
        job = self._waiting.get(key)
        if job is None:
            return None
        place = (-job.priority, job.order)
        return sum((-one.priority, one.order) < place for one in list(self._waiting.values()))

    def assign_next(self) -> Assignment | None:
        """Assign the next job to a server; return the assignment, or None if no job can start.

        While a job that runs alone waits for a server without jobs, the servers that can run it
        get no further ones, so the first of them to be done takes it.
        """
        free = frozenset(name for name, server in self.servers.items() if self._is_free(server))
        if not free or not self._waiting:
            return None
        stuck: set[_Key] = set()  # lanes whose servers are all full
        for priority in sorted(self._lanes, reverse=True):
            callers = self._lanes[priority]
            for caller in sorted(callers, key=lambda one: self._turns.get(one, self._turn)):
                for lane in self._prune(callers[caller]):
                    if lane.key in stuck:
                        continue
                    job = lane.heap[0][1]
                    server = self._choose(job, free)
                    if server is not None:
                        return self._assign(lane, server)
                    stuck.add(lane.key)
                    if job.runs_alone:
                        free -= {name for name in self.able(job) if self.servers[name].own}
                if not callers[caller]:
                    del callers[caller]
            if not callers:
                del self._lanes[priority]
        return None

    def _prune(self, lanes: _Lanes) -> list[_Lane]:
        """Remove a caller's empty lanes; return the others, sorted by the order of their jobs."""
        for lane in list(lanes.values()):
            while lane.heap and self._waiting.get(lane.heap[0][1].key) is not lane.heap[0][1]:
                heapq.heappop(lane.heap)
            if not lane.heap:
                del lanes[lane.key]
        return sorted(lanes.values(), key=lambda lane: lane.heap[0][0])

    def _is_free(self, server: Server) -> bool:
        if not server.ready or server.is_slow or server.own >= server.most:
            return False
        if server.runs_alone and server.own:
            return False
        return self.mode != "first_free" or server.own + server.others == 0

    def _choose(self, job: Waiting, free: frozenset[str]) -> Server | None:
        names = self.able(job)
        servers = [server for name, server in self.servers.items() if name in names]
        if job.is_bound or any(one.is_expected and not one.is_suspect for one in servers):
            servers = [one for one in servers if one.may_be_tried]
        found = [server for server in servers if server.name in free]
        if job.runs_alone:
            found = [server for server in found if not server.own]
        if not found or self.mode == "first_free":
            return found[0] if found else None
        if self.mode == "round_robin":
            return min(found, key=lambda one: one.served)
        best = min(found, key=lambda one: (one.load, one.model != job.model, one.served))
        # Waiting for a server that is nearly done beats joining a long queue of others.
        least = min(one.load for one in servers if one.ready and not one.is_slow)
        return best if best.load < least + best.most else None

    def _assign(self, lane: _Lane, server: Server) -> Assignment:
        _, job = heapq.heappop(lane.heap)
        del self._waiting[job.key]
        self._turn = max(self._turn, self._turns.get(job.caller, self._turn))
        self._turns[job.caller] = self._turns.get(job.caller, self._turn) + 1
        if len(self._turns) > 2 * len(self._waiting) + 100:
            there = {one.caller for one in self._waiting.values()}
            self._turns = {who: at for who, at in self._turns.items() if who in there}
        server.own += 1
        server.runs_alone = job.runs_alone
        server.served += 1 / server.weight
        if job.model:
            server.model = job.model
        return Assignment(job, server)
