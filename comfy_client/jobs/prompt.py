"""A prompt that the tracker follows: its state, its events, and who waits for its end."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable
from typing import Final, Protocol

import attrs

from .. import runtime
from ..event_queue import Budget, EventQueue, Newest
from ..events import Event, ExecutionError, ExecutionInterrupted, JobEvent
from ..locks import shared_lock
from ..routes import FileRoutes
from ..transport.http import Http
from ..workflow.seeds import seeds_of
from .outcomes import error_of
from .result import Result, make_result
from .state import JobState, Outcome

#: Events that are kept until the ids are known: so many, and so many bytes as the client says.
ORPHANS: Final = 1000


class JobEvents:
    """The events of a job, each handed to all readers.

    The first reader gets what came before, too, of progress and previews only the newest.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        #: Those of jobs that turned out to be about the same prompt.
        self.others: list[JobEvents] = []
        #: Called with each event, in the thread that brings it.
        self.sinks: tuple[Callable[[Event], object], ...] = ()
        self._queues: tuple[weakref.ref[EventQueue], ...] = ()
        self.reset()

    def reset(self) -> None:
        """Reset all queues, as in the child of a fork, where locks may stay held."""
        for queue in self._live():
            queue.reset()
        # Guards the queues, which are replaced, never changed.  Re-entrant: the collector may
        # end an iterator in here.
        self._lock = shared_lock(is_small=True)
        #: Filled from the beginning; ``None``: it has a reader.
        self.first: EventQueue | None = EventQueue(high_water=0, budget=self._budget)
        # Weakly, so that an iterator that nobody keeps is gone with its events; but for the
        # first, until somebody asks for it.
        self._queues = (weakref.ref(self.first),)

    def keep_all(self) -> None:
        """Keep all events for a reader from the beginning."""
        if self.first is not None:
            self.first.listen()

    def subscribe(self) -> EventQueue:
        """Return the queue that was filled from the start, or a new one after the first call."""
        with self._lock:
            if self.first is not None:
                queue, self.first = self.first, None
                return queue
            queue = EventQueue(budget=self._budget)
            alive = (ref for ref in self._queues if ref() is not None)
            self._queues = (*alive, weakref.ref(queue))
        return queue

    def unsubscribe(self, queue: EventQueue) -> None:
        """End a queue's subscription."""
        queue.close()
        with self._lock:
            self._queues = tuple(ref for ref in self._queues if ref() not in (queue, None))

    def receive(self, event: Event) -> None:
        """Hand on one event."""
        if event.name == "b_preview_with_metadata":
            return  # the same picture comes as ``b_preview``
        for ref in self._queues:
            if (queue := ref()) is not None:
                queue.put(event)
        for sink in self.sinks:
            sink(event)
        for other in self.others:
            other.receive(event)

    def _live(self) -> list[EventQueue]:
        return [queue for ref in self._queues if (queue := ref()) is not None]


class Waiter(Protocol):
    """A future that ends with a prompt."""

    def done(self) -> bool:
        """Return whether it has ended."""

    def set_result(self, result: Result) -> None:
        """End with a result."""

    def set_exception(self, exception: BaseException | None) -> None:
        """End with an error."""


@attrs.define(eq=False, repr=False)
class TrackedPrompt:
    """A prompt whose end is waited for; each job has one."""

    state: JobState
    events: JobEvents
    waiters: list[Waiter] = attrs.field(factory=list)  #: The job, and those that turned out equal.
    on_fork: list[Callable[[], None]] = attrs.field(factory=list)  #: What ends them in a child.
    early: Result | Exception | None = (
        None  #: Its end, if that came before the submission was answered.
    )

    def settle(self, end: Result | BaseException) -> None:
        """End all waits."""
        if isinstance(end, Result) and end.node_errors != self.state.node_errors:
            end = attrs.evolve(end, node_errors=self.state.node_errors)
        waiters, self.waiters = self.waiters, []  # which keep this object
        self.on_fork = []
        for number, waiter in enumerate(waiters):
            if waiter.done():
                continue
            if isinstance(end, Result):
                waiter.set_result(end)
            else:  # a copy for each: raising adds a traceback
                waiter.set_exception(copy.copy(end) if number else end)

    def join(self, other: TrackedPrompt) -> None:
        """Share the state and the end of another, which turns out to be the same prompt."""
        other.state.graph = other.state.graph or self.state.graph
        other.state.output_names = other.state.output_names or self.state.output_names
        self.state = other.state
        other.waiters += self.waiters
        other.on_fork += self.on_fork
        self.waiters, self.on_fork = [], []  # a job that is kept keeps no circle
        other.events.others.append(self.events)
        if self.state.end_event is not None:
            self.events.receive(self.state.end_event)


class Orphans:
    """Events that may be about prompts of ours whose ids are not known yet.

    A server may choose its own id, which only the answer to a submission tells, or a look-up if no
    answer came.  Guarded by the tracker's lock.

    Attributes:
        posting: The prompts whose submission has no answer yet.
    """

    def __init__(self, nbytes: int) -> None:
        self.posting: set[TrackedPrompt] = set()
        self._events: Newest[JobEvent] = Newest(ORPHANS, nbytes)

    def keep(self, event: JobEvent, tracked: Iterable[TrackedPrompt]) -> None:
        """Keep an event if it may be about one of these prompts."""
        if self._misses_id(tracked):
            self._events.append(event, event.nbytes)

    def drop(self, tracked: Iterable[TrackedPrompt]) -> None:
        """Forget all events unless they may be about one of these prompts."""
        if len(self._events) and not self._misses_id(tracked):
            self._events.clear()

    def of(self, state: JobState) -> list[JobEvent]:
        """Return the kept events of a prompt; if some are lost, events alone do not decide."""
        if self._events.forgotten:
            state.generation = None
        return [event for event in self._events.values() if event.prompt_id == state.prompt_id]

    def has_end(self, prompt_id: str | None) -> bool:
        """Return whether the end of a prompt was kept."""
        return any(event.is_end and event.prompt_id == prompt_id for event in self._events.values())

    def _misses_id(self, tracked: Iterable[TrackedPrompt]) -> bool:
        """Return whether the server may have one of our submissions under an unknown id."""
        states = (one.state for one in tracked)
        return bool(self.posting) or any(
            state.search_by_mark and not state.attached for state in states
        )


def result_of(
    state: JobState, outcome: Outcome, http: Http, files: FileRoutes
) -> Result | Exception:
    """Return the result or error for the user; ``files`` downloads its outputs."""
    event = outcome.event
    if outcome.error is not None:
        return outcome.error
    if isinstance(event, ExecutionError | ExecutionInterrupted):
        # What its server may repeat when it fails: of the client, and of the workflow.
        secrets = http.identity.secrets()
        secrets.add_named(state.graph)
        return error_of(event, state.prompt_id, state.graph, secrets)
    return make_result(
        state.prompt_id,
        state.graph,
        outcome.outputs,
        frames=state.frames,
        files=files,
        output_names=state.output_names,
        cached_nodes=outcome.cached_nodes,
        fully_cached=outcome.fully_cached,
        seeds=seeds_of(state.graph),
        node_errors=state.node_errors,
        complete=outcome.complete,
        seconds=state.elapsed(runtime.monotonic()),
    )
