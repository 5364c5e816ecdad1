"""Callbacks of a prompt, called in the waiting thread or in the delivery thread."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import attrs

from .. import runtime
from ..events import (
    Event,
    Executed,
    ExecutionError,
    ExecutionStart,
    ExecutionSuccess,
    PreviewEvent,
    Progress,
)
from ..showing.screen import Surface
from ..signals import Receivers, call_safely, is_callback
from ..values import is_real
from .handle import Limits
from .job import Job, OnInterrupt
from .result import NodeOutput, Result, output_of
from .waiting import watched

#: Seconds between two checks of the place in the queue, which no event of a prompt reports.
_LOOK: Final = 0.25
#: Seconds after which the place is computed again, although nothing seems to have changed.
_RECOUNT: Final = 2.0

#: Calls a callback with its arguments, and handles its exceptions in some way.
Call = Callable[..., object]


def _check_one(_: object, __: object, callback: object) -> None:
    if not is_callback(callback, 1):
        raise TypeError(f"a callback must be a plain function of one value, not {callback!r:.200}")


def _check_two(_: object, __: object, callback: object) -> None:
    if not is_callback(callback, 2):
        what = "a plain function of a node id and its outputs"
        raise TypeError(f"on_output must be {what}, not {callback!r:.200}")


def _check_seconds(_: object, __: object, every: float) -> None:
    if isinstance(every, bool) or not is_real(every):
        raise TypeError(f"every must be a number of seconds, or None: {every!r:.80}")
    if not every >= 0:
        raise ValueError("every must be 0 or more seconds")


_OF_ONE: Final[Any] = attrs.validators.optional(_check_one)
_OF_TWO: Final[Any] = attrs.validators.optional(_check_two)
_SECONDS: Final[Any] = attrs.validators.optional(_check_seconds)


@attrs.frozen(repr=False)
class Callbacks:
    """The callbacks for a prompt: see :meth:`ComfyApi.submit`."""

    on_event: Callable[[Any], object] | None = attrs.field(default=None, validator=_OF_ONE)
    on_progress: Callable[[Progress], object] | None = attrs.field(default=None, validator=_OF_ONE)
    on_preview: Callable[[PreviewEvent], object] | None = attrs.field(
        default=None, validator=_OF_ONE
    )
    on_start: Callable[[Job], object] | None = attrs.field(default=None, validator=_OF_ONE)
    on_output: Callable[[str, NodeOutput], object] | None = attrs.field(
        default=None, validator=_OF_TWO
    )
    on_queue: Callable[[int], object] | None = attrs.field(default=None, validator=_OF_ONE)
    every: float | None = attrs.field(default=None, validator=_SECONDS)

    def __bool__(self) -> bool:
        """Return whether there is any callback."""
        of_events = self.on_event, self.on_progress, self.on_preview, self.on_output
        return any((*of_events, self.on_start, self.on_queue))

    @property
    def are_timed(self) -> bool:
        """Whether any callback may be due without an event of the prompt."""
        return bool(self.on_start or self.on_queue or self.every)


#: Callbacks that are all left out.
NO_CALLBACKS: Final = Callbacks()


class Caller:
    """Calls one job's callbacks, in one thread at a time.

    Args:
        job: The job.
        callbacks: The callbacks of the caller.
        call: A function that calls a callback with its arguments; its exceptions are passed on.
    """

    def __init__(self, job: Job, callbacks: Callbacks, call: Call) -> None:
        self._job = job
        self._to = callbacks
        self._call = call
        self._has_begun = False
        self._awaits_start = bool(callbacks.on_start or callbacks.on_queue)
        self._position: int | None = None
        self._counted: tuple[object, float] = (None, 0.0)  # the last news counted, and when
        self._shown: set[str] = set()  # nodes whose outputs were reported
        self._free_at: dict[str, float] = {}  # when the next event of a kind may be reported
        self._held: dict[str, Event] = {}  # the newest event of each kind, held until then

    def take(self, event: Event) -> float:
        """Call the callbacks for an event; return the seconds after which :meth:`tick` is due."""
        to = self._to
        if event.is_end:
            self._release()
        if self._awaits_start and self._is_begun(event):
            self._begin()
        if to.on_event is not None:
            self._call(to.on_event, event)
        if to.on_progress is not None and isinstance(event, Progress):
            self._pace("progress", event)
        elif to.on_preview is not None and event.name == "b_preview":
            self._pace("preview", event)
        elif to.on_output is not None and isinstance(event, Executed):
            self._show(event)
        return self._due_in()

    def tick(self) -> float:
        """Call the callbacks that are due; return the seconds until the next is due."""
        for kind in [kind for kind in self._held if self._free_at[kind] <= runtime.monotonic()]:
            self._send(kind, self._held.pop(kind))
        if self._awaits_start:
            self._look()
        return self._due_in()

    def end(self) -> float:
        """Call the callbacks that are pending at the end of the job; return infinity."""
        self._release()
        result = self._job.handle.result
        if result is not None:
            if self._awaits_start:
                self._begin()
            if self._to.on_output is not None:
                for node_id, output in result.nodes.items():
                    if node_id not in self._shown:
                        self._call(self._to.on_output, node_id, output)
        self._awaits_start = False
        return math.inf

    def _due_in(self) -> float:
        pause = _LOOK if self._awaits_start else math.inf
        if self._held:
            now = runtime.monotonic()
            pause = min(pause, *(max(0.0, self._free_at[kind] - now) for kind in self._held))
        return pause

    # -- its start -----------------------------------------------------------------------

    def _is_begun(self, event: Event) -> bool:
        sure = isinstance(event, ExecutionStart | ExecutionSuccess | ExecutionError)
        return sure or self._job.handle.state.running_since is not None

    def _begin(self) -> None:
        self._awaits_start = False
        if self._to.on_start is not None:
            self._call(self._to.on_start, self._job)

    def _look(self) -> None:
        """Report that the job has started if a request showed this, else its place in the queue."""
        if self._job.handle.state.running_since is not None:
            self._begin()
        elif self._to.on_queue is not None:
            news, now = self._job.handle.queue_news(), runtime.monotonic()
            seen, at = self._counted
            if news is None or (news == seen and now < at + _RECOUNT):
                return
            self._counted = (news, now)
            position = self._job.queue_position
            if position is not None and position != self._position:
                self._position = position
                self._call(self._to.on_queue, position)

    # -- outputs -------------------------------------------------------------------------

    def _show(self, event: Executed) -> None:
        if event.node is None or event.output is None or self._to.on_output is None:
            return
        graph: Mapping[str, Any] = self._job.handle.state.graph
        output = output_of(event.node, event.output, self._job.handle.routes, graph)
        self._shown.add(event.node)
        self._call(self._to.on_output, event.node, output)

    # -- not too often -------------------------------------------------------------------

    def _pace(self, kind: str, event: Event) -> None:
        """Call back now, or hold the event until its kind is due or a newer event replaces it."""
        if isinstance(event, PreviewEvent) and event.final:  # an output, which is never held
            if kind in self._held:
                self._send(kind, self._held.pop(kind))
            self._send(kind, event)
        elif not self._to.every:
            self._send(kind, event)
        elif kind in self._held or runtime.monotonic() < self._free_at.get(kind, 0.0):
            self._held[kind] = event
        else:
            self._send(kind, event)

    def _send(self, kind: str, event: Event) -> None:
        self._free_at[kind] = runtime.monotonic() + (self._to.every or 0.0)
        callback: Call | None = self._to.on_progress
        if kind == "preview":
            callback = self._to.on_preview
        if callback is not None:
            self._call(callback, event)

    def _release(self) -> None:
        """Report the held events, the newest of each kind."""
        for kind in list(self._held):
            self._send(kind, self._held.pop(kind))


# -- in the thread that waits --------------------------------------------------------------


def wait(
    job: Job,
    limits: Limits,
    callbacks: Callbacks = NO_CALLBACKS,
    tick: Callable[[], float] | None = None,
) -> Result:
    """Wait for the result of a job, and call its callbacks in this thread meanwhile.

    For ``tick`` see :meth:`JobHandle.outcome`.
    """
    if not callbacks:
        # Skip its events, each of which would wake this thread.
        return job.handle.outcome(limits, tick)
    caller = Caller(job, callbacks, partial(_call, job))
    if callbacks.are_timed:
        tick = caller.tick if tick is None else _both(tick, caller.tick)
    events = job.handle.follow(limits, tick)
    with contextlib.closing(events):
        for event in events:
            caller.take(event)
    result = job.handle.outcome(limits)
    caller.end()
    return result


def _both(first: Callable[[], float], second: Callable[[], float]) -> Callable[[], float]:
    return lambda: min(first(), second())


def _call(job: Job, callback: Call, *args: object) -> None:
    try:
        callback(*args)
    except Exception as exc:
        exc.add_note(f"raised by a callback of run(); prompt {job.prompt_id} keeps running")
        raise


# -- on the screen ------------------------------------------------------------------------


def wait_and_show(
    job: Job, limits: Limits, surface: Surface, callbacks: Callbacks, *, on_interrupt: OnInterrupt
) -> Result:
    """Wait for a job as :func:`wait` does, and show its progress on the screen."""
    return watched(
        job.handle,
        limits,
        surface,
        partial(wait, job, limits, callbacks),
        on_interrupt=on_interrupt,
        is_busy=bool(callbacks),
    )


# -- in the delivery thread ----------------------------------------------------------------


def delivery(receivers: Receivers, callbacks: Callbacks) -> Callable[[Job], object] | None:
    """Return a function that begins to call ``callbacks`` for a job; None if there are none."""
    return (lambda job: deliver(receivers, callbacks, job)()) if callbacks else None


def deliver(receivers: Receivers, callbacks: Callbacks, job: Job) -> Callable[[], None]:
    """Start calling a job's callbacks in the delivery thread, where their errors are logged.

    Call this before the job is submitted.  Call the returned function when a server is about to get
    the job: from then on, its place in the queue is checked now and then.
    """
    caller = Caller(job, callbacks, partial(call_safely, receivers.log))

    def take(event: Event | None) -> None:
        if event is None:
            receivers.hand(caller, caller.end)
        else:
            receivers.hand(caller, partial(caller.take, event), event)

    def look() -> None:
        if callbacks.are_timed:
            receivers.hand(caller, caller.tick)

    job.handle.hand_over(take)
    return look
