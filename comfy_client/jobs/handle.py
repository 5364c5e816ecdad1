"""The handle of a job: the source of its news, its events, its end, and the waits for it.

Users hold a :class:`comfy_client.Job`, a thin future; ``job.handle`` is for the other modules of
the library.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Generator, Iterator
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Final

import attrs

from .. import runtime
from ..errors import ClientClosed, JobTimeout
from ..event_queue import EventQueue
from ..events import (
    EndEvent,
    Event,
    PreviewEvent,
)
from ..locks import check_may_wait
from ..routes import Routes
from ..timing import Timing
from ..transport.deadline import Deadline, check_timeout
from ..transport.failures import is_away
from .outcomes import STATUS_OF_EVENT, JobStatus, keeps_running
from .poller import Poller
from .prompt import Ending, JobEvents, Prompt
from .result import Result
from .state import PromptState
from .tracker import Tracker

if TYPE_CHECKING:
    from .describe import JobProgress

#: Longest wait in one piece, in seconds, so that Ctrl-C works on every system.
SLICE: Final = runtime.SLICE if runtime.SLICED else 0.5

_is_done: Final = attrgetter("is_done")


@attrs.frozen(eq=False, repr=False)
class Limits:
    """The time limits of a wait that begins now: the timeout, and the longest time without news."""

    timeout: float | None = None
    stall_timeout: float | None = None
    deadline: Deadline = attrs.field(init=False)

    @deadline.default
    def _deadline(self) -> Deadline:
        check_timeout(self.stall_timeout)
        return Deadline.after(self.timeout)


@attrs.frozen(eq=False, repr=False)
class Source:
    """A prompt as the source of a job's news, with the client of its server."""

    prompt: Prompt
    routes: Routes  # keeps the client alive, which ends the job
    poller: Poller


class JobHandle:
    """The part of a job that other modules of the library use.

    Attributes:
        source: The source of its news; a pool changes the source when the job moves.
        events: Its events, for all readers.
        on_end: Functions that are called when the job ends; each must be quick.
        is_done: Whether it has ended, and its result or error is known.
    """

    def __init__(self, prompt: Prompt, routes: Routes, poller: Poller) -> None:
        self.source: Source = Source(prompt, routes, poller)
        self.events: JobEvents = prompt.events
        self.begin()

    def begin(self) -> None:
        """Reset the handle to the state of a job that has not ended."""
        self.on_end: list[Callable[[], object]] = []
        self._last_words: list[Callable[[], object]] = []  # called at the end, before it is done
        self._ending: Ending | None = None
        self.is_done: bool = False

    @property
    def state(self) -> PromptState:
        """The state of the prompt; changed by the tracker alone."""
        return self.source.prompt.state

    @property
    def routes(self) -> Routes:
        """The routes of the prompt's server."""
        return self.source.routes

    @property
    def poller(self) -> Poller:
        """The poller of the client."""
        return self.source.poller

    @property
    def timing(self) -> Timing:
        """The intervals and timeouts of the client."""
        return self.source.poller.timing

    @property
    def _tracker(self) -> Tracker:
        return self.source.poller.tracker

    # -- how it is doing -----------------------------------------------------------------

    @property
    def status(self) -> JobStatus:
        """The state of the job; see :attr:`Job.status`."""
        if self._ending is not None and self.is_done:
            return self._ending.status
        state, end_event = self.state, self.end_event
        if type(end_event) in STATUS_OF_EVENT:
            return STATUS_OF_EVENT[type(end_event)]  # an end is final
        if state.running_since is not None:
            return "running"
        is_unknown = state.attached and state.ahead is None and not state.is_queued
        return "unknown" if is_unknown else "pending"

    @property
    def end_event(self) -> EndEvent | None:
        """The event that ended the prompt, which is final; None before the end."""
        return self.state.end_event

    @property
    def has_begun(self) -> bool:
        """Whether the prompt has begun to run, as far as its client knows."""
        return self.state.started or self.state.running_since is not None

    @property
    def is_cancelling(self) -> bool:
        """Whether the server has agreed to stop the prompt, which has not ended yet."""
        state = self.state
        is_told = state.cancelled or self.poller.stops.has(self.source.prompt)
        return is_told and not state.decided

    @property
    def was_cut_off(self) -> bool:
        """Whether the client has lost the socket that was connected at the submission."""
        generation = self.state.generation
        return generation is not None and generation != self._tracker.link

    @property
    def queue_position(self) -> int | None:
        """How many prompts run before the job's; see :attr:`Job.queue_position`."""
        from .describe import queue_position

        return None if self.is_done else queue_position(self.state, self._tracker)

    @property
    def progress(self) -> JobProgress:
        """The progress of the job; see :attr:`Job.progress`."""
        from .describe import JobProgress, elapsed, progress_of

        if not self.is_done:
            return progress_of(self.state, self._tracker.times)
        fraction = 1.0 if self.status == "succeeded" else self.state.fraction
        return JobProgress(fraction, elapsed=elapsed(self.state))

    def why(self) -> str:
        """Return what the job waits for, or how it ended; see :meth:`Job.why`."""
        from .describe import elapsed, why

        if not self.is_done:
            return why(self.state, self.status, self.poller)
        seconds, error = elapsed(self.state), self.error
        after = "" if seconds is None else f" after {seconds:.1f} s"
        return f"{self.status}{after}" + (f": {error}" if error is not None else "")

    def place(self) -> str:
        """Return text that names the job's server in messages; empty if there is only one."""
        return ""

    def notes(self) -> tuple[str, ...]:
        """Return lines to show below the job's bar, such as one for each server of a pool."""
        return ()

    def news_at(self) -> float:
        """Return when the job last had news; while it waits, a change of the queue counts, too."""
        state = self.state
        moved_at = self._tracker.monitor.advanced_at if state.running_since is None else 0.0
        return max(state.news_at, moved_at)

    def answered_at(self) -> float:
        """Return when the server last answered or sent anything, on the monotonic clock."""
        poller, state = self.poller, self.state
        heard_at = runtime.monotonic() - self._tracker.connection.quiet_for
        answers = state.accepted_at or 0.0, state.news_at, poller.answered_at
        return max(*answers, self._tracker.monitor.status_at, heard_at)

    def silent_for(self) -> float | None:
        """Return the seconds since the server last answered; None if it has answered recently."""
        poller, latest = self.poller, self.answered_at()
        silence = runtime.monotonic() - latest
        trouble = poller.trouble if poller.troubled_at > latest else None  # not of an old outage
        is_down = trouble is not None and is_away(trouble)
        # Even an idle server answers pings, and requests about its jobs.
        expected = SLICE if is_down else self.timing.ping + 2 * self.timing.question
        return silence if silence > expected else None

    def queue_news(self) -> tuple[object, ...] | None:
        """Return a value that changes when the queue position may change; None if unknown."""
        state, tracker = self.state, self._tracker
        monitor = tracker.monitor
        if state.accepted_at is None:
            return None
        if state.ahead is None and monitor.status_at < state.posted_at:
            return None  # the last news is from before its submission
        return state.ahead, monitor.status_at, monitor.at, len(tracker.outstanding)

    def warn_that_it_runs(self) -> None:
        """Log how to attach again to a prompt that keeps running."""
        prompt_id, silence = self.state.prompt_id, self.silent_for()
        self._tracker.log.warning(
            "%s%s%s: attach to it by api.job(%r)",
            "" if silence is None else f"prompt {prompt_id}: ",
            keeps_running(f"prompt {prompt_id}", silence),
            self.place(),
            prompt_id,
            extra={**self.state.named, "left_running": prompt_id},
        )

    def cancel(self, *, force: bool = False) -> bool:
        """Cancel the job, and no other; see :meth:`Job.cancel`."""
        if not (self.state.posted_at or self._tracker.is_posting(self.source.prompt)):
            return False  # no server has heard of it, nor is about to
        if self.is_done and (self.status != "unknown" or isinstance(self.error, ClientClosed)):
            return False
        if self.is_done:  # only the waiting has ended
            return self.routes.cancel_job(self.state.prompt_id)
        if not self.poller.cancel(self.source.prompt, force=force):
            return False
        if self.state.cancelled:  # no event will report its end
            self.poller.wait_until(lambda: self.is_done, self.timing.silence)
        return True

    # -- its end -------------------------------------------------------------------------

    @property
    def ending(self) -> Ending:
        """How the job ended; raises RuntimeError if it has not ended."""
        if self._ending is None:
            raise RuntimeError("it has not ended")
        return self._ending

    @property
    def result(self) -> Result | None:
        """The result of the job; None if it has failed or has not ended."""
        value = None if self._ending is None else self._ending.value
        return value if isinstance(value, Result) else None

    @property
    def error(self) -> BaseException | None:
        """The error of the job; None if it has succeeded or has not ended."""
        value = None if self._ending is None else self._ending.value
        return value if isinstance(value, BaseException) else None

    def record_end(self, ending: Ending) -> None:
        """Record the end of the job, and wake all threads that wait for it."""
        self._ending = ending
        self.events.sinks = ()
        while self._last_words:
            self._last_words.pop()()
        self.is_done = True
        for call in tuple(self.on_end):
            with contextlib.suppress(RuntimeError):  # another job may have released its lock
                call()
        self.on_end.clear()  # later callers see that it is done

    def outcome(self, limits: Limits, tick: Callable[[], float] | None = None) -> Result:
        """Wait for the job to end and for its callbacks; return the result or raise the error.

        ``tick`` is called repeatedly meanwhile, and returns the most seconds until its next call.
        """
        self.wait(limits, tick)
        self.flush(limits)
        end = self.ending.value
        try:
            if isinstance(end, Result):
                return end
            raise end
        finally:
            del end, self  # breaks the cycle of an error, its traceback and this frame

    def flush(self, limits: Limits) -> None:
        """Wait until callbacks have received all events so far, within the limits."""
        tracker = self.source.poller.tracker
        tracker.flush(limits.deadline.left(tracker.timing.flush))

    def wait(self, limits: Limits, tick: Callable[[], float] | None = None) -> None:
        """Wait until the job has ended; raise :class:`JobTimeout` when time runs out."""
        if tick is not None:
            tick()  # also if it has ended
        while not self.is_done:
            left = self._slice(limits)
            is_done = first_end([self], left if tick is None else min(left, tick()))
            if left <= 0 and not is_done:
                raise self._timeout_error(limits)
        self._log_remarks()

    def ends_within(self, limits: Limits, seconds: float) -> bool:
        """Wait up to ``seconds``, within the limits, until the job ends; return whether it has."""
        seconds = limits.deadline.left(seconds)
        if limits.stall_timeout is not None:
            seconds = min(seconds, limits.stall_timeout)
        return first_end([self], seconds)

    @contextlib.contextmanager
    def at_end(self, call: Callable[[], object]) -> Iterator[None]:
        """Context manager: call a function if the job ends, in any thread; it must be quick."""
        self.on_end.append(call)
        try:
            yield
        finally:
            with contextlib.suppress(ValueError):  # already removed in the child of a fork
                self.on_end.remove(call)

    def when_ended(self, call: Callable[[], object]) -> None:
        """Call a function once the job has ended, in any thread, maybe twice; it must be quick."""
        self.on_end.append(call)
        if self.is_done:
            call()

    def _log_remarks(self) -> None:
        """Log the job's remarks in the waiting thread, since a log handler may be slow."""
        remarks = self.source.prompt.state.remarks
        while remarks:
            with contextlib.suppress(IndexError):  # another waiting thread took it
                self._tracker.log.warning("%s", remarks.popleft(), extra=self.state.named)

    def _slice(self, limits: Limits) -> float:
        """Return the seconds for one piece of a wait; 0 or less when the time is up."""
        left = limits.deadline.left(SLICE)
        if limits.stall_timeout is not None:
            left = min(left, self.news_at() + limits.stall_timeout - runtime.monotonic())
        return left

    def _timeout_error(self, limits: Limits) -> JobTimeout:
        prompt_id = self.state.prompt_id
        is_stalled = limits.deadline.left(1.0) > 0
        what = (
            f"no news of prompt {prompt_id} for {limits.stall_timeout or 0:g} s"
            if is_stalled
            else f"prompt {prompt_id} has not ended within {limits.timeout or 0:g} s"
        )
        return JobTimeout(
            f"{what}{self._goes_on()}",
            prompt_id=prompt_id,
            stalled=is_stalled,
            silent_for=self.silent_for(),
        )

    def _goes_on(self) -> str:
        """Describe the state of the prompt after a timeout."""
        words = keeps_running("the prompt", self.silent_for())
        advice = f"wait again, or attach to it by api.job({self.state.prompt_id!r})"
        return f" ({self.why()}). {words[0].upper()}{words[1:]}: {advice}"

    # -- its events ----------------------------------------------------------------------

    def follow(
        self, limits: Limits, tick: Callable[[], float] | None = None
    ) -> Generator[Event, None, None]:
        """Yield the events of the job until it ends; raise :class:`JobTimeout` when time runs out.

        For ``tick`` see :meth:`outcome`.
        """

        def left() -> float:
            seconds = self._slice(limits)
            if seconds <= 0 and not self.is_done:
                raise self._timeout_error(limits)
            return seconds if tick is None else min(seconds, tick())

        return (event for event in self._yield(self._subscribe(), left) if event is not None)

    def poll(self, notify: Callable[[], object]) -> Generator[Event | None]:
        """Yield events as :meth:`follow` does, but never wait: yield ``None`` if there is none.

        ``notify`` is called, in any thread, when an event may have come; it must be quick.
        """
        queue = self._subscribe()
        queue.notify = notify

        def events() -> Generator[Event | None]:
            with self.at_end(notify):
                yield None
                yield from self._yield(queue, lambda: 0.0)

        found = events()
        next(found)  # starts it, so that it cleans up even if it is never read
        return found

    def hand_over(self, take: Callable[[Event | None], object]) -> None:
        """Pass each event, and ``None`` after the last one, to a function that must not block.

        When it gets ``None``, the job's result is known, but no caller has received it yet.
        """
        self.events.sinks = (take,)
        self._last_words.append(partial(take, None))

    def latest_previews(self) -> Callable[[], PreviewEvent | None]:
        """Return a function that gives the newest preview since its last call, or None.

        The first reader of the events still gets all earlier ones.
        """
        queue = self.events.subscribe(from_start=False)

        def latest() -> PreviewEvent | None:
            found = None
            while (event := queue.get(0)) is not None:
                if isinstance(event, PreviewEvent) and not event.final:
                    found = event
            return found

        return latest

    def _subscribe(self) -> EventQueue:
        queue = self.events.subscribe()
        # An end event may have come before the queue was there.  At worst it comes twice.
        end_event = self.end_event
        if end_event is not None:
            queue.put(end_event)
        return queue

    def _yield(self, queue: EventQueue, seconds: Callable[[], float]) -> Iterator[Event | None]:
        """Yield the events of a queue until the end, and None whenever no event came in time."""
        try:
            while True:
                is_over = self.is_done
                left = seconds()
                event = queue.get(0 if is_over else left)
                if event is None and is_over:
                    end_event = self.end_event
                    if end_event is not None:  # the queue may have dropped it
                        yield end_event
                    return
                yield event
                if event is not None and event.is_end:
                    return
        finally:
            self.events.unsubscribe(queue)


def first_end(handles: Collection[JobHandle], seconds: float) -> bool:
    """Wait up to ``seconds`` until one of these jobs has ended; return whether one has.

    A ``TimeoutError`` during this call is the caller's alarm, so none is raised here.  No lock is
    shared with other threads, since an alarm within a ``Condition`` may release a lock that another
    thread has taken.
    """
    check_may_wait()
    ended = runtime.Lock()  # released by the first job that ends
    ended.acquire()
    try:
        for handle in handles:
            handle.on_end.append(ended.release)
        if not any(map(_is_done, handles)):
            runtime.in_slices(partial(ended.acquire, True), max(0.0, seconds))
    finally:
        for handle in handles:
            with contextlib.suppress(ValueError):
                handle.on_end.remove(ended.release)
    return any(map(_is_done, handles))
