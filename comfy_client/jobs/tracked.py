"""A prompt whose end is waited for, and what ends the waits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Protocol

import attrs

from .. import runtime
from ..events import ExecutionError, ExecutionInterrupted
from ..locks import shared_lock
from ..routes import FileRoutes
from ..transport.http import Http
from ..workflow.seeds import seeds_of
from .job_events import JobEvents
from .outcomes import error_of
from .result import Result, make_result
from .state import JobState, Outcome


class WakeUp:
    """An event that wakes the thread that asks, or stops it.

    Re-entrant, as no ``Event`` is: the finalizer of a forgotten client stops it in whichever
    thread, at whichever moment.
    """

    def __init__(self) -> None:
        self._lock = shared_lock()  # guards both flags; no other lock is taken within
        self._changed = runtime.Condition(self._lock)
        self._is_set = False
        self.stopped: bool = False

    def set(self, *, stop: bool = False) -> None:
        """End the present wait, or the next one; ``stop``: and all later ones."""
        with self._lock:
            self._is_set = True
            self.stopped = self.stopped or stop
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Wait until it is set, or for so long."""
        with self._lock:
            self._changed.wait_for(lambda: self._is_set, seconds)
            self._is_set = False

    def wait_stopped(self, seconds: float) -> bool:
        """Wait until it is stopped, or for so long; return whether it is."""
        with self._lock:
            return self._changed.wait_for(lambda: self.stopped, seconds)


class Waiter(Protocol):
    """A future that ends with a prompt."""

    def done(self) -> bool:
        """Return whether it has ended."""

    def set_result(self, result: Result) -> None:
        """End with a result."""

    def set_exception(self, exception: BaseException | None) -> None:
        """End with an error."""


@attrs.define(eq=False, repr=False)
class Tracked:
    """A prompt whose end is waited for; each job has one."""

    state: JobState
    events: JobEvents
    waiters: list[Waiter] = attrs.field(factory=list)  #: The job, and those that turned out equal.
    on_fork: list[Callable[[], None]] = attrs.field(factory=list)  #: What ends them in a child.
    early: Result | Exception | None = (
        None  #: Its end, if that came before the submission was answered.
    )

    def settle(self, end: Result | Exception) -> None:
        """Have all waits end."""
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

    def join(self, other: Tracked) -> None:
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
