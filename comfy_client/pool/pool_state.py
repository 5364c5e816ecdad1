"""The state of a pool as data: its servers, the jobs that have not ended, and news to publish.

Its status and its events are what users see of it.  The functions of :mod:`.availability` and
:mod:`.moving` change it; the dispatcher holds the lock.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from .. import runtime
from ..errors import JobFailed
from ..events import EndEvent, Event
from ..jobs.job import Callbacks, Job
from ..jobs.outcomes import OnFailed, OnLost
from ..jobs.prompt import Ending
from ..log_records import ServerLog
from ..showing.cells import ShownAsTable
from ..timing import describe
from ..to_dict import AsDict
from ..transport.deadline import ParallelCalls
from ..workflow import Workflow
from .health import Health
from .needs import Offer
from .pooled_job import PooledJob
from .schedule import Mode, Schedule, Server, Waiting, anything

if TYPE_CHECKING:
    from ..client import ComfyApi
    from ..showing.tables import Table


@attrs.frozen(eq=False, repr=False)
class PoolTiming:
    """The intervals and timeouts of a pool, in seconds; see also its clients' :class:`Timing`.

    Attributes:
        tick: The pause between two checks of all servers.
        ready: How long a call waits until a server of a new pool answers.
        rest: The first pause of a server that fails job after job; it doubles with each failure.
        longest_rest: The longest of these pauses.
        leaving: As ``patience`` of the pool, for jobs that nobody waits for once it is shut down.
        ask_again: The shortest pause between two requests to a server for its node definitions.
        definitions: How long a submission waits for new definitions before it uses the last ones.
        slow: How long a job may be on its way to a server before later jobs go to other servers.
        settling: How long a server may still count a prompt that has ended as one in its queue.
        question: How long a server may take to report the length of its queue.
        doubt: The pause between two checks of a server without a socket that may be away.
        reconnect: The first pause before another attempt to reach a server; it grows.
        reconnect_cap: The longest of these pauses.
        refused: How long a server must refuse connections until its process counts as ended.
        busy: How long a server that has too much to do is left alone if it does not say how long.
        busy_cap: How long such a server is left alone at most.
        flush: How long slow callbacks have to handle the last events.
        take_back: How long taking prompts back may take, those that are being sent included.
        on_the_way: How long prompts that are being sent may hold up the taking back of others.
        continuing: How long a sweep that is continued waits for all servers to answer.
    """

    tick: float = 0.25
    ready: float = 10.0
    rest: float = 5.0
    longest_rest: float = 300.0
    leaving: float = 5.0
    ask_again: float = 10.0
    definitions: float = 5.0
    slow: float = 1.0
    settling: float = 1.0
    question: float = 5.0
    doubt: float = 1.0
    reconnect: float = 0.3
    reconnect_cap: float = 5.0
    refused: float = 10.0
    busy: float = 5.0
    busy_cap: float = 60.0
    flush: float = 5.0
    take_back: float = 5.0
    on_the_way: float = 0.5
    continuing: float = 10.0

    def __repr__(self) -> str:
        """Show the times that differ from the defaults."""
        return describe(self)


@attrs.frozen
class Tries:
    """How often jobs of a pool may run, move and fail.

    Attributes:
        failures: How many jobs in a row a server fails before it is suspect.
        moves: How often a job may move because a server was away while it was being sent.
        attempts: How often a job runs in all if it is lost each time.
        deaths: How many servers may die while they run a job before it runs nowhere else.
    """

    failures: int = 3
    moves: int = 5
    attempts: int = 3
    deaths: int = 3


@attrs.frozen
class Policy:
    """The settings that a user chose for a pool.

    Attributes:
        patience: How many seconds a server may be away before its jobs are given up.
        on_lost: What becomes of a job that may have run.
        on_failed: What becomes of a job that fails.
        timing: The times of the pool.
        tries: How often jobs may run, move and fail.
    """

    patience: float
    on_lost: OnLost
    on_failed: OnFailed
    timing: PoolTiming
    tries: Tries


def _ignore() -> None:
    """Do nothing, in place of a callback."""


@attrs.define(eq=False, repr=False)
class Entry:
    """A job of a pool that has not ended.

    Attributes:
        job: The job that its user holds.
        workflow: The workflow to run.
        waiting: The job as the schedule knows it.
        callbacks: The user's callbacks for events of the job.
        options: The options of the submission.
        chosen: Called with the URL of the server that was chosen, in another thread, before
            anything is sent; an exception ends the job.
        found: Attaches to a prompt that was submitted before; ``None``: the prompt is new.
        look: Called when a server is about to get the job, to report its place in the queue.
        member: The server that was chosen; ``None``: no server has been chosen.
        inner: The job for the prompt on that server; ``None``: the prompt is not there yet.
        started: Whether the submission has begun.
        sending: Ends the submission that is in progress; ``None``: none is.
        cancelled: Whether it was cancelled after its submission had begun.
        forced: Whether that was with ``force``.
        stays: Whether it must not move to another server, as its user has left.
        refusal: The error with which a server last refused or failed it; ``None``: none has.
        failed: The error and end event of a failure after which another server is to run it;
            ``None``: it has not failed.
        moves: How often it moved because a server was away while it was being sent.
        tries: How often it ran, or may have run.
        was_away: Whether its server has been away since the server got it.
        was_first: Whether it was running when its server went away, or was the first of this
            pool's jobs in the queue.
        began: Whether it may have begun before its server went away.
        may_be_poison: Whether it was the first or second of this pool's jobs when its server went
            away.  The first may have ended untold just before, so the second may be the cause.
        deaths: How many servers died while it was the first or second of this pool's jobs there.
        is_on_trust: Whether it was admitted when only servers of unknown content might run it.
        is_swept: Whether it belongs to a sweep, which itself submits it again under another id.
        has_other: Whether another server can run it; set only for jobs of a sweep.
        goes_on: Whether its sweep is to run it elsewhere, without a try being counted.
    """

    job: PooledJob
    workflow: Workflow
    waiting: Waiting
    callbacks: Callbacks
    options: Mapping[str, Any]
    chosen: Callable[[str], object] | None = None
    found: Callable[[ComfyApi], Job] | None = None
    look: Callable[[], object] = _ignore
    member: Member | None = None
    inner: Job | None = None
    started: bool = False
    sending: ParallelCalls | None = None
    cancelled: bool = False
    forced: bool = False
    stays: bool = False
    refusal: Exception | None = None
    failed: tuple[JobFailed, EndEvent | None] | None = None
    moves: int = 0
    tries: int = 1
    was_away: bool = False
    was_first: bool = False
    began: bool = False
    may_be_poison: bool = False
    deaths: int = 0
    is_on_trust: bool = False
    is_swept: bool = False
    has_other: bool = False
    goes_on: bool = False


@attrs.define(eq=False, repr=False, weakref_slot=True)
class Member:
    """A server of the pool, and the jobs that it has.

    Attributes:
        api: Its client.
        server: The server as the schedule knows it.
        is_own: Whether the pool made the client, and will close it.
        offer: The classes and models that it has; ``None``: unknown.
        error: Why it is not ready; ``None``: it is ready, or has not been asked.
        down_since: Since when it has not answered; ``None``: it answers, or has not been asked.
        refused_since: Since when its machine has refused connections; ``None``: it does not.
        heard_at: When its socket last brought a byte, or its client polled it.
        answered_at: When it last answered whether it is there, after it had been silent.
        is_asked: Whether it is being asked that now.
        is_silent: Whether it has not answered that, nor sent a byte since.
        leaving: Whether it was removed from the pool.
        is_gone: Whether its user said that it is gone for good.
        stopped: Whether the pool has released it.
        inbox: Jobs that were assigned to it, but not sent yet.
        in_flight: Jobs that it has, or may have.
        busy_since: Since when a job is being sent to it; ``None``: no job is.
        unwanted: Prompts that were cancelled while they were submitted, or run elsewhere now: they
            are cancelled as soon as it answers.
        forced: Those of them that are cancelled with ``force``.
        done: How many of its jobs ended with a result.
        failed: How many of its jobs ended without a result.
        suspect: How it fails job after job, in words; ``None``: it is not suspect.
        was_ready: Whether it has ever been ready.
        asked_at: When its classes and models were requested last.
        retry_at: When to try to reach it again, while it is not ready.
        busy_until: Until when it wants no requests, as it has said (429).
        ended_at: When prompts of this pool ended that the server may still count in its queue.
        has_work: Set when its thread has work.
    """

    api: ComfyApi
    server: Server
    is_own: bool = attrs.field(kw_only=True)
    offer: Offer | None = None
    error: Exception | None = None
    down_since: float | None = None
    refused_since: float | None = None
    heard_at: float = -math.inf
    answered_at: float = -math.inf
    is_asked: bool = False
    is_silent: bool = False
    leaving: bool = False
    is_gone: bool = False
    stopped: bool = False
    inbox: deque[Entry] = attrs.field(factory=deque)
    in_flight: dict[Entry, None] = attrs.field(factory=dict)
    busy_since: float | None = None
    unwanted: list[Job] = attrs.field(factory=list)
    forced: set[Job] = attrs.field(factory=set)
    done: int = 0
    failed: int = 0
    suspect: str | None = None
    was_ready: bool = False
    asked_at: float = -math.inf
    retry_at: float = 0.0
    busy_until: float = 0.0
    ended_at: list[float] = attrs.field(factory=list)
    has_work: runtime.Event = attrs.field(init=False)
    _relays: dict[object, Callable[[], object]] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self.has_work = runtime.Event()  # looked up now, so that a test can replace it

    @property
    def name(self) -> str:
        """The URL of the server."""
        return self.server.name

    @property
    def log(self) -> ServerLog:
        """The log of the server's client."""
        return self.api.parts.http.log

    @property
    def quiet_for(self) -> float:
        """Seconds since its socket brought a byte; infinite without a socket."""
        return self.api.parts.connection.quiet_for

    @property
    def silent_for(self) -> float:
        """Seconds for which it has answered no request and sent nothing; 0 if not for long."""
        now, timing, http = runtime.monotonic(), self.api.timing, self.api.parts.http
        silence = http.silence
        asked = [at for at in (silence and silence.since, self.busy_since) if at is not None]
        # While a submission waits for its answer, another request may be answered.
        seconds = min(now - min(asked, default=now), now - http.heard_at, self.quiet_for)
        return seconds if seconds > timing.ping + timing.question else 0.0

    def set_offer(self, offer: Offer | None) -> None:
        """Set the classes and models of the server; None if they are not known."""
        self.offer = offer
        self.server.has = anything if offer is None else offer.has

    def clear_pending(self) -> None:
        """Note that no submission is in progress."""
        self.busy_since = None
        self.server.is_slow = False

    def wake(self) -> None:
        """Wake the thread of the server."""
        self.has_work.set()

    def relay(self, key: object, name: str, callback: Callable[[Any, Any], object]) -> None:
        """Register a callback for events of the client, unless the key has one already."""
        if key not in self._relays and not self.stopped:
            off = self.api.on(name, partial(callback, self.api))
            if self._relays.setdefault(key, off) is not off:  # another thread registered it first
                off()

    def end_relay(self, key: object) -> None:
        """Remove the callback that was registered with a key."""
        self._relays.pop(key, _ignore)()

    def end_relays(self) -> None:
        """Remove all callbacks that were registered with :meth:`relay`."""
        for key in list(self._relays):
            self.end_relay(key)

    def status(self) -> ServerStatus:
        """Return the status of the server."""
        server = self.server
        state = "connecting" if self.error is None and self.down_since is None else "down"
        return ServerStatus(
            host=self.name,
            state="leaving" if self.leaving else "ready" if server.ready else state,
            weight=server.weight,
            own=server.own,
            others=server.others,
            done=self.done,
            failed=self.failed,
            models=server.model,
            error=None if server.ready else self.error,
            suspect=self.suspect,
        )


@attrs.frozen
class LogLine:
    """A line that is to be logged, with attributes of its record."""

    level: int
    text: str
    args: tuple[object, ...]
    extra: Mapping[str, object]


#: The end of a job: its result or error, and the end event if receivers have not had it.
End = tuple[PooledJob, Ending | BaseException, EndEvent | None]


@attrs.define(eq=False, repr=False)
class PoolState:
    """The servers of a pool, and its jobs that have not ended.

    Attributes:
        policy: The settings that the user chose.
        schedule: The jobs that wait for a server.
        health: The failures of servers.
        members: The servers by name, in the order in which they were added.
        leaving: Servers that were removed and still have jobs.
        entries: The jobs that have not ended.
        done: How many jobs of former servers ended with a result.
        failed: How many jobs of former servers, or without a server, ended without a result.
        closed: Whether the pool accepts no more jobs.
        was_ready: Whether a server has ever answered.
        is_parents: Whether the pool belongs to the parent of this process.
        moved_at: The last time that a server was chosen for a job.
        has_warned: Whether the log has said that jobs will not run.
        has_warned_of_away: Whether the log has said that all jobs wait for absent servers.
        has_warned_of_silence: Whether the log has said that jobs wait for a silent server.
        warned_of: Sets of absent servers for which a log line has said that jobs wait.
        ends: Ends of jobs, which are published once the lock is free.
        events: Events of the pool, which are published after the ends.
        log_lines: Lines for the log, which are written last.
        publishing: How many threads are publishing now.
    """

    policy: Policy
    schedule: Schedule
    health: Health
    members: dict[str, Member] = attrs.field(factory=dict)
    leaving: list[Member] = attrs.field(factory=list)
    entries: dict[PooledJob, Entry] = attrs.field(factory=dict)
    done: int = 0
    failed: int = 0
    closed: bool = False
    was_ready: bool = False
    is_parents: bool = False
    moved_at: float = 0.0
    has_warned: bool = False
    has_warned_of_away: bool = False
    has_warned_of_silence: bool = False
    warned_of: set[frozenset[str]] = attrs.field(factory=set)
    ends: list[End] = attrs.field(factory=list)
    events: list[PoolEvent] = attrs.field(factory=list)
    log_lines: list[LogLine] = attrs.field(factory=list)
    publishing: int = 0

    @classmethod
    def new(cls, mode: Mode, policy: Policy) -> PoolState:
        """Return the state of a pool without servers."""
        timing, failures = policy.timing, policy.tries.failures
        health = Health(failures, rest=timing.rest, longest_rest=timing.longest_rest)
        return cls(policy, Schedule(mode), health)

    @property
    def all_members(self) -> list[Member]:
        """The servers of the pool, and those that were removed and still have jobs."""
        return [*self.members.values(), *self.leaving]

    @property
    def is_idle(self) -> bool:
        """Whether the pool has no jobs left, and users have been told of all ends."""
        return not (self.entries or self.publishing or self.ends)

    def finish(
        self, entry: Entry, outcome: Ending | BaseException, event: EndEvent | None = None
    ) -> None:
        """Remove a job that has ended, and queue its outcome and end event for publication.

        ``event`` is the end event for receivers that have not had one.
        """
        del self.entries[entry.job]
        self.ends.append((entry.job, outcome, event))
        if not self.entries:
            self.publish("idle")

    def publish(self, name: str, server: str | None = None, reason: str | None = None) -> None:
        """Queue an event of the pool for publication."""
        waiting = len(self.schedule)
        self.events.append(PoolEvent(name=name, server=server, waiting=waiting, reason=reason))

    def warn(self, text: str, *args: object, server: str, **extra: object) -> None:
        """Queue a warning about a server for the log."""
        self.log_lines.append(LogLine(logging.WARNING, text, args, {**extra, "server": server}))

    def inform(self, text: str, *args: object, server: str) -> None:
        """Queue a log line of level INFO."""
        self.log_lines.append(LogLine(logging.INFO, text, args, {"server": server}))

    def status(self) -> PoolStatus:
        """Return the status of the pool."""
        members = self.all_members
        return PoolStatus(
            mode=self.schedule.mode,
            waiting=len(self.schedule),
            running=len(self.entries) - len(self.schedule),
            done=self.done + sum(member.done for member in members),
            failed=self.failed + sum(member.failed for member in members),
            servers=tuple(member.status() for member in members),
        )


#: The events of a pool itself; any other name is of an event of its clients.
POOL_EVENTS: frozenset[str] = frozenset(
    {"added", "removed", "ready", "suspect", "well", "have_job", "idle"}
)


@attrs.frozen(eq=False, kw_only=True, repr=False)
class PoolEvent(Event):
    """An event of a pool: see :meth:`ComfyPool.on`.

    Attributes:
        server: The URL of the server that it is about; ``None``: it is about the whole pool.
        waiting: How many jobs wait for a server.
        reason: Why the server is suspect; ``None`` in all events but ``suspect``.
    """

    server: str | None = None
    waiting: int = 0
    reason: str | None = None


@attrs.frozen
class ServerStatus(AsDict):
    """The status of a server: see :meth:`ComfyPool.status`.

    Attributes:
        host: The URL of the server.
        state: ``"ready"``; ``"connecting"``: it has not answered yet; ``"down"``: it does not
            answer, or refuses us; ``"leaving"``: it was removed, and finishes its jobs.
        weight: How fast it is, compared to other servers.
        own: How many jobs of this pool it has.
        others: How many prompts of other clients are in its queue, as far as is known.
        done: How many jobs of this pool ended there with a result.
        failed: How many jobs of this pool ended there without a result.
        models: The model files of the job that it got last; empty: none.
        error: Why it is down; ``None``: it is not down.
        suspect: How it fails job after job, in words, while others do not, so that it gets one job
            at a time and rests in between; ``None``: it is not suspect.
    """

    host: str
    state: str
    weight: float
    own: int
    others: int
    done: int
    failed: int
    models: tuple[str, ...]
    error: BaseException | None = None
    suspect: str | None = None


@attrs.frozen
class PoolStatus(ShownAsTable, AsDict):
    """The status of a pool: see :meth:`ComfyPool.status`; ``print`` and notebooks show a table.

    Attributes:
        mode: How the pool chooses servers.
        waiting: How many jobs wait for a server.
        running: How many jobs have been given to a server.
        done: How many jobs ended with a result.
        failed: How many jobs ended without a result.
        servers: The status of each server, in the order in which they were added.
    """

    mode: str
    waiting: int
    running: int
    done: int
    failed: int
    servers: tuple[ServerStatus, ...]

    def lines(self) -> tuple[str, ...]:
        """Return a line for each server: its name, its state, and how many jobs it has."""
        return tuple(map(_line, self.servers))

    def _table(self) -> Table:
        return status_table(self)

    def __repr__(self) -> str:
        return str(self)  # a notebook shows it


def status_table(status: PoolStatus) -> Table:
    """Return a table with a row for each server of a pool."""
    from ..showing.tables import Table

    rows = [
        (
            server.host,
            server.state,
            f"{server.weight:g}",
            server.own,
            server.others,
            server.done,
            server.failed,
            _remark(server),
        )
        for server in status.servers
    ]
    moods = {"ready": "good", "connecting": "doubtful", "leaving": "doubtful", "down": "bad"}
    return Table(_HEAD, rows, moods, [_summary(status)])


def _summary(status: PoolStatus) -> str:
    ready = sum(server.state == "ready" for server in status.servers)
    suspects = sum(server.suspect is not None for server in status.servers)
    counted = f" ({suspects} suspect)" if suspects else ""
    return (
        f"{ready} of {len(status.servers)} servers ready{counted}, mode {status.mode}: "
        f"{status.waiting} waiting, {status.running} running, {status.done} done, "
        f"{status.failed} failed"
    )


def _line(server: ServerStatus) -> str:
    state = server.state if server.suspect is None or server.error is not None else "suspect"
    has = f", {server.own} job{'s' * (server.own > 1)}" if server.own else ""
    return f"{server.host.partition('://')[2]} {state}{has}"


def _remark(server: ServerStatus) -> str:
    if server.error is None and server.suspect is not None:
        return f"suspect: {server.suspect}"
    return str(server.error or ", ".join(server.models))


_HEAD = ("server", "state", "weight", "own", "others", "done", "failed", "models, or what is wrong")
