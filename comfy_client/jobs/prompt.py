"""A prompt that the tracker follows: its state, its events, and its waiters."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Final

import attrs

from .. import runtime
from ..errors import ClientClosed, JobError
from ..event_queue import HIGH_WATER, LARGE, Budget, EventQueue, Newest, kind_of
from ..events import Event, ExecutionError, ExecutionInterrupted, JobEvent
from ..locks import shared_lock
from ..routes import FileRoutes
from ..transport.http import Http
from ..workflow.seeds import seeds_of
from .outcomes import JobStatus, error_of, status_of
from .result import Result, make_result
from .state import Outcome, PromptState

#: The most events that are kept until prompt ids are known; the client limits their bytes, too.
ORPHANS: Final = 1000


@attrs.define(eq=False, repr=False)
class JobEvents:
    """The events of a job, each of which goes to all readers.

    The first reader also gets earlier events, but only the newest progress and previews.

    Attributes:
        others: Events of other jobs that turned out to be about the same prompt.
        sinks: Called with each event, in the thread that brings it.
        nbytes: Roughly the bytes of earlier events that are in no queue.
        own: The same, as no other holder shares them.
    """

    _budget: Budget
    others: list[JobEvents] = attrs.field(factory=list, init=False)
    sinks: tuple[Callable[[Event], object], ...] = attrs.field(default=(), init=False)
    nbytes: int = attrs.field(default=0, init=False)
    own: int = attrs.field(default=0, init=False)
    # Earlier events, by their kind if only the newest of it matters.  Most jobs have no reader, so
    # a queue is made only for the first one, or if these are many, or one is large.
    _early: dict[Hashable, Event] = attrs.field(factory=dict, init=False)
    _first: EventQueue | None = attrs.field(default=None, init=False)  # until it has a reader
    _is_open: bool = attrs.field(default=False, init=False)  # whether it was made
    # Weak references, so that an abandoned iterator goes away with its events.  The first queue
    # is kept until it is asked for.
    _queues: tuple[weakref.ref[EventQueue], ...] = attrs.field(default=(), init=False)
    # Guards the earlier events, and the tuple of queues, which is replaced, never changed.  Taken
    # before the lock of a queue.  Re-entrant: the collector may end an iterator meanwhile.
    _lock: runtime.RLock = attrs.field(factory=shared_lock, init=False)

    def reset(self) -> None:
        """Reset all queues in the child of a fork, where locks may stay held."""
        for ref in self._queues:
            if (queue := ref()) is not None:
                queue.reset()
        self._first, self._is_open, self._queues = None, False, ()
        self._early, self.nbytes, self.own = {}, 0, 0
        self._lock = shared_lock()

    @property
    def first(self) -> EventQueue | None:
        """The queue of earlier events, made at first use; ``None`` once it has a reader."""
        return self._open()

    def _open(self) -> EventQueue | None:
        """Make the queue of earlier events, unless it was made; return it while nobody has it."""
        with self._lock:
            if not self._is_open:
                first = EventQueue([*self._early.values()], high_water=0, budget=self._budget)
                self._queues = (*self._queues, weakref.ref(first))
                # Set after the queues, as readers of this take no lock, and must find the queue;
                # and before the events are let go, which a Ctrl-C would lose.
                self._first, self._is_open = first, True
                self._early = {}
                self._count(-self.own)
            return self._first

    def _count(self, nbytes: int) -> None:
        self.nbytes = self.own = self.own + nbytes
        self._budget.used += nbytes

    def give_way(self, nbytes: int, rank: int) -> int:
        """Release up to ``nbytes`` of earlier events of this rank; return how many were."""
        first = self._open()
        return 0 if first is None else first.give_way(nbytes, rank)

    def keep_all(self) -> None:
        """Keep all events from the beginning for the first reader."""
        first = self._open()
        if first is not None:
            first.listen()

    def subscribe(self, *, from_start: bool = True) -> EventQueue:
        """Return a queue of the job's events; for the first caller, it has the earlier ones, too.

        With ``from_start=False``, return a new queue, and leave the earlier events to a later
        call.
        """
        with self._lock:
            queue = self._open() if from_start else None
            if queue is not None:
                self._first = None
                return queue
            queue = EventQueue(budget=self._budget)
            alive = (ref for ref in self._queues if ref() is not None)
            self._queues = (*alive, weakref.ref(queue))
        return queue

    def unsubscribe(self, queue: EventQueue) -> None:
        """Close a queue of :meth:`subscribe`, and pass it no more events."""
        queue.close()
        with self._lock:
            self._queues = tuple(ref for ref in self._queues if ref() not in (queue, None))

    def receive(self, event: Event) -> None:
        """Pass an event to all readers."""
        if event.name == "b_preview_with_metadata":
            return  # the same picture also comes as ``b_preview``
        for ref in self._queues if self._is_open else self._keep(event):
            if (queue := ref()) is not None:
                queue.put(event)
        for sink in self.sinks:
            sink(event)
        for other in self.others:
            other.receive(event)

    def _keep(self, event: Event) -> tuple[weakref.ref[EventQueue], ...]:
        """Keep an early event for the first reader; return the queues that do not have it yet."""
        with self._lock:
            queues = self._queues
            if not self._is_open:
                if not self.own:
                    self._budget.join(self)
                kind = kind_of(event)
                key = event if kind is None else kind
                before = self._early.pop(key, None)
                self._early[key] = event
                self._count(event.nbytes - (0 if before is None else before.nbytes))
                if (kind is None and event.nbytes >= LARGE) or len(self._early) >= HIGH_WATER:
                    self._open()
        return queues


class Ending:
    """The end of a prompt, with its status; its result or error is made on demand.

    The first caller to ask makes it, in its own thread and without a lock.  If two are made at the
    same time, all callers get the same one.

    Attributes:
        status: How the prompt ended.
        is_of_client: Whether only the client was closed, so that the prompt's end is unknown.
    """

    def __init__(self, status: JobStatus, make: Callable[[], Result | BaseException]) -> None:
        self.status = status
        self.is_of_client: bool = False
        self._make: Callable[[], Result | BaseException] | None = make
        self._made: dict[str, Result | BaseException] = {}

    @classmethod
    def of(cls, end: Ending | Result | BaseException) -> Ending:
        """Return the ending for a result or an error."""
        if isinstance(end, Ending):
            return end
        ending = cls(status_of(end), lambda: end)
        ending.is_of_client = isinstance(end, ClientClosed)
        return ending

    @property
    def value(self) -> Result | BaseException:
        """The result or error of the prompt, made at the first access."""
        make = self._make
        if make is not None:
            try:
                self._made.setdefault("end", make())
            except Exception as exc:  # noqa: BLE001  # a later call may have enough memory
                return exc
            self._make = None  # releases the data that it was made from
        return self._made["end"]

    def copied(self) -> Ending:
        """Return a copy for another job, as raising an error adds a traceback to it."""
        return Ending(self.status, lambda: _copied(self.value))


def _copied(end: Result | BaseException) -> Result | BaseException:
    return copy.copy(end) if isinstance(end, BaseException) else end


@attrs.frozen(eq=False, repr=False)
class Waiter:
    """A job that ends with a prompt, and the function that ends it."""

    job: Future[Result]
    end: Callable[[Ending], object]


@attrs.define(eq=False, repr=False)
class Prompt:
    """A prompt whose end the client waits for; each job has one.

    Attributes:
        state: Its known state; another object that is about the same prompt shares it.
        events: Its events, for all readers.
        waiters: Its job, and other jobs that were found to be about the same prompt.
        on_fork: Called in the child of a fork, to end its jobs there.
        early: Its end, if that came before the submission was answered.
    """

    state: PromptState
    events: JobEvents
    waiters: list[Waiter] = attrs.field(factory=list)
    on_fork: list[Callable[[], None]] = attrs.field(factory=list)
    early: Ending | None = None

    def end(self, end: Ending | Result | BaseException) -> None:
        """End all jobs that wait for the prompt."""
        ending = Ending.of(end)
        waiters, self.waiters = self.waiters, []  # breaks a cycle
        self.on_fork = []
        for number, waiter in enumerate(waiters):
            if not waiter.job.done():
                waiter.end(ending.copied() if number else ending)

    def join(self, other: Prompt) -> None:
        """Hand the jobs over to another object for the same prompt, and share its state."""
        other.state.graph = other.state.graph or self.state.graph
        other.state.output_names = other.state.output_names or self.state.output_names
        other.state.tags = other.state.tags or self.state.tags
        self.state = other.state
        other.waiters += self.waiters
        other.on_fork += self.on_fork
        self.waiters, self.on_fork = [], []  # breaks a cycle with the jobs
        other.events.others.append(self.events)
        if self.state.end_event is not None:
            self.events.receive(self.state.end_event)


class Orphans:
    """Events that may be about this client's prompts whose ids are not known yet.

    A server may choose its own id, which is known from the answer to a submission, or from a
    look-up if no answer came.  Guarded by the tracker's lock.

    Attributes:
        posting: The prompts whose submission has no answer yet.
        unsure: Prompts whose submission never got an answer, while they are searched for.
        events: The events, oldest first.
    """

    def __init__(self, nbytes: int) -> None:
        self.posting: set[Prompt] = set()
        self.unsure: set[Prompt] = set()
        self.events: Newest[JobEvent] = Newest(ORPHANS, nbytes)

    def keep(self, event: JobEvent) -> None:
        """Keep an event if it may be about one of these prompts."""
        if self._misses_id():
            self.events.append(event, event.nbytes)

    def drop(self) -> None:
        """Drop all events unless they may be about one of these prompts."""
        if not self._misses_id():
            self.events.clear()

    def of(self, state: PromptState) -> list[JobEvent]:
        """Return the kept events of a prompt; if any were dropped, mark them as incomplete."""
        if self.events.forgotten:
            state.generation = None
        return [event for event in self.events.values() if event.prompt_id == state.prompt_id]

    def has_end(self, prompt_id: str | None) -> bool:
        """Return whether the end of a prompt was kept."""
        return any(event.is_end and event.prompt_id == prompt_id for event in self.events.values())

    def _misses_id(self) -> bool:
        """Return whether the server may have a prompt of the client under an unknown id."""
        if self.unsure:
            self.unsure = {prompt for prompt in self.unsure if prompt.state.is_searched_for}
        return bool(self.posting or self.unsure)


def ending_of(state: PromptState, outcome: Outcome, http: Http, files: FileRoutes) -> Ending:
    """Return the end of a prompt; ``files`` downloads its outputs.

    The data that the state releases at the end are taken from it now.
    """
    event = outcome.event
    if outcome.error is not None:
        return Ending.of(outcome.error)
    if isinstance(event, ExecutionError | ExecutionInterrupted):
        return Ending(outcome.status, partial(_error, state, event, http))
    seconds = state.elapsed(runtime.monotonic())
    make = partial(_result, state, outcome, tuple(state.frames), files, seconds, http)
    return Ending(outcome.status, make)


def _error(
    state: PromptState, event: ExecutionError | ExecutionInterrupted, http: Http
) -> JobError:
    # A server may repeat secrets of the client, former ones included, and of the workflow.
    secrets = http.identity.secrets()
    secrets.add_named(state.graph)
    return error_of(event, state.prompt_id, state.graph, secrets)


def _result(
    state: PromptState,
    outcome: Outcome,
    frames: Sequence[tuple[str, str, memoryview]],
    files: FileRoutes,
    seconds: float | None,
    http: Http,
) -> Result:
    errors = state.node_errors
    if errors:  # a node may repeat secrets
        secrets = http.identity.secrets()
        secrets.add_named(state.graph)
        errors = secrets.hide_words_in(errors)
    return make_result(
        state.prompt_id,
        state.graph,
        outcome.outputs,
        frames=frames,
        files=files,
        output_names=state.output_names,
        cached_nodes=outcome.cached_nodes,
        fully_cached=outcome.fully_cached,
        seeds=seeds_of(state.graph),
        node_errors=errors,
        complete=outcome.complete,
        seconds=seconds,
    )
