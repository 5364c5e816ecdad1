"""The job of a prompt: a future of its result, and its state until then.

What is known is changed by :class:`comfy_client.jobs.tracker.Tracker` alone, and only read here.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs

from .. import runtime
from ..errors import ClientClosed, ComfyError, JobTimeout
from ..event_queue import EventQueue
from ..events import (
    EndEvent,
    Event,
    ExecutionError,
    ExecutionInterrupted,
    ExecutionSuccess,
    PreviewEvent,
)
from ..locks import check_may_wait, share, shared_lock
from ..routes import Routes
from ..tracebacks import short_interrupts
from ..transport.deadline import Deadline, check_timeout
from ..values import MAX_ID_LENGTH
from ..workflow.graph import shorten
from .outcomes import JobStatus, status_of
from .poller import Poller
from .result import Result
from .state import JobState
from .tracked import Tracked

if TYPE_CHECKING:
    from .describe import JobProgress

log: logging.Logger = logging.getLogger("comfy_client")

#: Longest wait in one piece, in seconds, so that Ctrl-C works on every system.
SLICE: Final = 0.5

#: What becomes of a prompt when Ctrl-C ends the wait for it.
OnInterrupt = Literal["leave", "cancel"]


@attrs.frozen(eq=False, repr=False)
class Limits:
    """Limits of a wait, from now on: in all, and without any news."""

    timeout: float | None = None
    stall_timeout: float | None = None
    deadline: Deadline = attrs.field(init=False)

    @deadline.default
    def _deadline(self) -> Deadline:
        check_timeout(self.stall_timeout)
        return Deadline.after(self.timeout)

    def left(self, most: float) -> float:
        """Seconds that something may take; ``most``, when there is time for more."""
        return self.deadline.left(most)


class Job(Future[Result]):
    """A submitted prompt: a :class:`concurrent.futures.Future` of its :class:`Result`.

    ``as_completed`` and ``wait`` of :mod:`concurrent.futures` work with it.  Its properties return
    what is known already; none of them sends a request.  As a Future it is ``running()`` from its
    submission on, and never ``cancelled()``; :attr:`status` says where the prompt is.

    Example::

        from comfy_client import ComfyApi

        with ComfyApi("http://127.0.0.1:8188") as api:
            job = api.submit("txt2img.json")
            for event in job.events():
                print(event.name, job.progress.fraction)
            print(job.why(), job.result().images)
    """

    def __init__(self, routes: Routes, tracked: Tracked, poller: Poller) -> None:
        self._routes = routes  # holding the job holds the client that ends it
        self._tracked = tracked
        self._poller = poller
        tracked.waiters.append(self)
        tracked.on_fork.append(self._after_fork)
        self._begin()

    def _begin(self) -> None:
        """Make this a fresh future, as in the child of a fork, where locks may stay held."""
        super().__init__()
        share(self._condition, is_small=True)
        self.set_running_or_notify_cancel()
        # Guards the callbacks, which may add others.
        self._lock = shared_lock(is_small=True)
        self._callbacks: list[Callable[[Future[Result]], object]] | None = []
        self._alarms: list[Callable[[], object]] = []  # of those who wait, called at the end
        self._last_words: list[Callable[[], object]] = []  # said at the end, before it is done
        self._is_done = False

    def _after_fork(self) -> None:
        """End the job in the child of a fork, and with it all waits for it there."""
        self._begin()
        self.set_exception(ClientClosed("the job belongs to the parent process"))

    @property
    def prompt_id(self) -> str:
        """The id of the prompt on the server."""
        return self._tracked.state.prompt_id

    @property
    def graph(self) -> Mapping[str, Any]:
        """The submitted graph in API format; empty until the server has sent it."""
        return self._tracked.state.graph

    @property
    def node_errors(self) -> Mapping[str, Any]:
        """The reasons why some outputs do not run, by node id; empty: all run."""
        return self._tracked.state.node_errors

    # -- its end -------------------------------------------------------------------------

    def result(
        self,
        timeout: float | None = None,
        *,
        stall_timeout: float | None = None,
        on_interrupt: OnInterrupt = "leave",
    ) -> Result:
        """Wait for the end and return the outputs.

        Args:
            timeout: Seconds; ``None``: no limit; 0: do not wait.
            stall_timeout: Seconds without any news (an event of the prompt, or a change of its
                place in the queue); ``None``: no limit.  Loading a model, or another client's
                long prompt before it, can be minutes without news.
            on_interrupt: On Ctrl-C, let the prompt run (``"leave"``), or cancel it
                (``"cancel"``, 5 seconds at most).

        Raises:
            JobFailed: A node raised an exception, which the error describes.
            JobInterrupted: Someone stopped the prompt.
            JobLost: The server does not know the prompt any more.
            JobTimeout: Time ran out, or no news came.  The prompt keeps running: call again, or
                attach to it later by ``api.job(job.prompt_id)``.
        """
        limits = Limits(timeout, stall_timeout)
        with cancelling(on_interrupt, self):
            return self._outcome(limits)

    def _outcome(self, limits: Limits, tick: Callable[[], float] | None = None) -> Result:
        self._await(limits, tick)
        tracker = self._poller.tracker
        tracker.flush(limits.left(tracker.timing.flush))
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the error of the prompt, or ``None``; wait as :meth:`result` does.

        Raises:
            JobTimeout: It has not ended within ``timeout`` seconds; it keeps running.
        """
        self._await(Limits(timeout))
        return super().exception(0)

    def done(self) -> bool:
        """Return whether it has ended, and its result or error is known."""
        return self._is_done  # without a lock, which an alarm could leave held

    def cancel(self, *, force: bool = False) -> bool:
        """Stop this prompt and no other; False if it has ended already.

        ``POST /api/jobs/{id}/cancel`` (since 0.26).  On older servers, a pending prompt is
        deleted from the queue (``POST /queue``), and a running one interrupted (``POST
        /interrupt``, which respects the id since 0.3.57).  The job then ends in
        :class:`JobInterrupted`; it may still succeed if its last node does not check for
        interrupts.  A server that is just beginning the prompt may forget an interrupt: if
        another node begins, it is sent again (3 times at most).  ``cancelled()`` stays False:
        ``status`` says how it ended.

        Args:
            force: For servers before 0.3.57, whose interrupt stops any running prompt:
                interrupt if the queue says that this one is running.  Another one may start in
                between.

        Raises:
            NotSupported: It is running, and this server might stop another prompt instead.
            ComfyError: The server did not answer, or refused; the prompt may keep running.
        """
        from .cancel import cancel

        return not self.done() and cancel(self._tracked, self._poller, self.done, force=force)

    def add_done_callback(self, fn: Callable[[Future[Result]], object]) -> None:
        """Call ``fn(job)`` at the end, in a thread of its own; at once if it has ended."""
        with self._lock:
            if self._callbacks is not None:
                self._callbacks.append(fn)
                return
        super().add_done_callback(fn)

    def _await(self, limits: Limits, tick: Callable[[], float] | None = None) -> None:
        if tick is not None:
            tick()  # also if it has ended
        while not self.done():
            left = self._slice(limits)
            is_done = wait_for_one([self], left if tick is None else min(left, tick()))
            if left <= 0 and not is_done:
                raise self._timeout_error(limits)
        self._log_remarks()

    def _log_remarks(self) -> None:
        """Log remarks in the thread that waits: a log handler may be slow, or call us back."""
        remarks = self._tracked.state.remarks
        while remarks:
            with contextlib.suppress(IndexError):  # another thread waits, too
                log.warning("%s", remarks.popleft())

    def _slice(self, limits: Limits) -> float:
        """Return the seconds that a wait may take in one piece; 0 or less when the time is up."""
        left = limits.left(SLICE)
        if limits.stall_timeout is not None:
            left = min(left, self._news_at() + limits.stall_timeout - runtime.monotonic())
        return left

    def _place(self) -> str:
        """Return the words for the job's server in messages; empty if there is only one server."""
        return ""

    def _news_at(self) -> float:
        """Return when news of the job came last; while it waits, news of the queue counts, too."""
        state = self._tracked.state
        moved_at = self._poller.tracker.monitor.advanced_at if state.running_since is None else 0.0
        return max(state.news_at, moved_at)

    def _timeout_error(self, limits: Limits) -> JobTimeout:
        is_stalled = limits.left(1.0) > 0
        what = (
            f"no news of prompt {self.prompt_id} for {limits.stall_timeout or 0:g} s"
            if is_stalled
            else f"prompt {self.prompt_id} has not ended within {limits.timeout or 0:g} s"
        )
        return JobTimeout(f"{what}{self._goes_on()}", prompt_id=self.prompt_id, stalled=is_stalled)

    def _goes_on(self) -> str:
        """Return the words on what becomes of the prompt after a timeout."""
        trouble = self._poller.tracker.connection.error
        state = (
            f"; the server may be gone ({trouble}). If it is not, the prompt"
            if trouble
            else f" ({self.why()}). The prompt"
        )
        return f"{state} keeps running: wait again, or attach to it by api.job({self.prompt_id!r})"

    def set_result(self, result: Result) -> None:
        """End the job; for the client only."""
        self._end(super().set_result, result)

    def set_exception(self, exception: BaseException | None) -> None:
        """End the job; for the client only."""
        self._end(super().set_exception, exception)

    def _end(self, end: Callable[[Any], None], outcome: object) -> None:
        try:
            end(outcome)
        except RuntimeError:
            # A Ctrl-C, or an alarm, in a ``wait`` of concurrent.futures has let go of the lock
            # that this one takes there.
            log.debug("a wait for prompt %s was interrupted", self.prompt_id, exc_info=True)
        self._tracked.events.sinks = ()
        while self._last_words:
            self._last_words.pop()()
        self._is_done = True
        for alarm in tuple(self._alarms):
            with contextlib.suppress(RuntimeError):  # a lock that another job has released
                alarm()
        self._alarms.clear()  # later callers see that it is done
        with self._lock:
            callbacks, self._callbacks = self._callbacks, None
        if callbacks:
            # Somebody's code, which may take its time: not in the socket's thread.
            thread = runtime.Thread(
                target=self._call_back, args=(callbacks,), name="comfy-callbacks", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # no more threads on this machine
                self._call_back(callbacks)

    def _call_back(self, callbacks: list[Callable[[Future[Result]], object]]) -> None:
        for fn in callbacks:
            super().add_done_callback(fn)  # of a future that is done: called, errors logged

    # -- its events ----------------------------------------------------------------------

    def events(self) -> Iterator[Event]:
        """Yield the events of the prompt as they arrive; the last one is the end event.

        The first call starts with the submission; of earlier progress and previews, only the
        newest of each node is kept.  Further calls start with the next event, and after the end
        yield the end event only.  A preview is yielded once, as ``b_preview``.  Exactly one
        event has ``is_end``.  It raises nothing if the job fails: see :meth:`result`.
        """
        return follow(self, Limits())

    # -- how it is doing -----------------------------------------------------------------

    @property
    def status(self) -> JobStatus:
        """The state of the prompt, as far as the client knows.

        ``pending`` and ``running`` until it ends as ``succeeded``, ``failed``,
        ``interrupted`` (also if it was cancelled while pending) or ``lost``.  An end is final;
        the result may follow a moment later.  ``unknown``: the server has not said yet (of a
        job that was attached by its id), or only the waiting has ended: the client was closed,
        or the server refuses to say.  ``waiting``: a :class:`ComfyPool` has it, and no server yet.
        """
        if not self.done():
            state, end_event = self._tracked.state, self._end_event()
            if type(end_event) in _STATUS_OF_EVENT:
                return _STATUS_OF_EVENT[type(end_event)]  # and nothing takes it back
            if state.running_since is not None:
                return "running"
            return "unknown" if state.attached and state.ahead is None else "pending"
        return status_of(super().exception(0))

    def _end_event(self) -> EndEvent | None:
        """Return the event that ended the prompt, which nothing takes back; None before it."""
        return self._tracked.state.end_event

    @property
    def queue_position(self) -> int | None:
        """The number of prompts before this one, at most, the running one included.

        0: it is running, or next.  ``None``: unknown, or it has ended.  The socket says how many
        prompts there are in all; a request for the queue now and then shows which are before it.
        """
        from .describe import queue_position

        return None if self.done() else queue_position(self._tracked.state, self._poller.tracker)

    @property
    def progress(self) -> JobProgress:
        """The progress of the prompt; without a socket, only what the queue shows."""
        from .describe import JobProgress, elapsed, progress_of

        state = self._tracked.state
        if not self.done():
            return progress_of(state, self._poller.tracker.times)
        is_success = super().exception(0) is None
        return JobProgress(1.0 if is_success else state.fraction, elapsed=elapsed(state))

    def why(self) -> str:
        """Return one sentence on what the job is waiting for, or how it ended.

        ``pending, 3 ahead; running: KSampler 12/20; last news 2.1 s ago by socket, reconnected
        once``.
        """
        from .describe import elapsed, why

        status = self.status
        if not self.done():
            return why(self._tracked.state, status, self._poller)
        error = super().exception(0)
        seconds = elapsed(self._tracked.state)
        after = "" if seconds is None else f" after {seconds:.1f} s"
        return f"{status}{after}" + (f": {error}" if error is not None else "")

    def to_dict(self) -> dict[str, Any]:
        """Return what is known now as JSON, with the result or the error after the end.

        ``prompt_id``, ``status``, ``why``, ``queue_position``, ``progress``, ``node_errors``,
        ``result`` and ``error``, as the guide (``json.rst``) says.  Sends no request.
        """
        error = super().exception(0) if self.done() else None
        from .describe import JobSnapshot

        return JobSnapshot(
            prompt_id=self.prompt_id,
            status=self.status,
            why=self.why(),
            queue_position=self.queue_position,
            progress=self.progress,
            node_errors=self.node_errors,
            result=super().result(0) if self.done() and error is None else None,
            error=error,
        ).to_dict()

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a job cannot be pickled: pass its prompt_id, and call api.job(prompt_id)")

    def __repr__(self) -> str:
        return f"<Job {shorten(self.prompt_id, MAX_ID_LENGTH)} {self.status}>"

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        """Return the forms in which a notebook shows the job."""
        from ..showing.cells import shown

        return shown(self, lambda: _markup(self))


def _markup(job: Job) -> str:
    """Return the outputs, or the progress, as HTML."""
    from ..showing.html import escape, meter, remark

    status = job.status
    if status == "succeeded":
        return job.result(0).gallery() + remark(f"prompt {job.prompt_id}")
    mood = "" if status in ("pending", "running", "unknown") else "bad"
    bar = meter(job.progress.fraction, mood)
    return f"{bar}<div>{escape(job.why(), 300)}</div>{remark(f'prompt {job.prompt_id}')}"


_STATUS_OF_EVENT: Mapping[object, JobStatus] = {
    ExecutionSuccess: "succeeded",
    ExecutionError: "failed",
    ExecutionInterrupted: "interrupted",
}


def state_of(job: Job) -> JobState:
    """Return the state of a job's prompt."""
    return job._tracked.state


def news_at(job: Job) -> float:
    """Return when news of a job came last; while it waits, news of the queue counts, too."""
    return job._news_at()


def warn_that_it_runs(job: Job) -> None:
    """Log how to attach again to a prompt that keeps running."""
    log.warning(
        "prompt %s keeps running%s: attach to it by api.job(%r)",
        job.prompt_id,
        job._place(),
        job.prompt_id,
        extra={"left_running": job.prompt_id},
    )


def routes_of(job: Job) -> Routes:
    """Return the client that submitted a job."""
    return job._routes


def queue_news(job: Job) -> tuple[object, ...] | None:
    """Return a value that changes when the job's place in the queue may change; None: not known."""
    state, tracker = job._tracked.state, job._poller.tracker
    monitor = tracker.monitor
    if state.accepted_at is None:
        return None
    if state.ahead is None and monitor.status_at < state.posted_at:
        return None  # what is known is from before its submission
    return state.ahead, monitor.status_at, monitor.at, len(tracker.outstanding)


def outcome(job: Job, limits: Limits, tick: Callable[[], float] | None = None) -> Result:
    """Wait for its end, and for receivers; its result or its error.

    ``tick`` is called again and again meanwhile; it returns after how many seconds at most it
    wants to be.
    """
    return job._outcome(limits, tick)


def ends_within(job: Job, limits: Limits, seconds: float) -> bool:
    """Wait for a job's end, ``seconds`` at most and within the limits; return whether it came."""
    seconds = limits.left(seconds)
    if limits.stall_timeout is not None:
        seconds = min(seconds, limits.stall_timeout)
    return wait_for_one([job], seconds)


def result_of(job: Job) -> Result | None:
    """Return the result of a job that has ended, or None if it failed."""
    return None if Future.exception(job, 0) is not None else Future.result(job, 0)


def hand_over(job: Job, take: Callable[[Event | None], object]) -> None:
    """Hand each event of a job to a function, which may not wait, and then ``None``.

    At that time the job's result is known, and has not been given to any caller.
    """
    job._tracked.events.sinks = (take,)
    job._last_words.append(partial(take, None))


def latest_previews(job: Job) -> Callable[[], PreviewEvent | None]:
    """Return a function that returns the latest preview since its last call, and never waits."""
    queue = job._tracked.events.subscribe()

    def latest() -> PreviewEvent | None:
        found = None
        while (event := queue.get(0)) is not None:
            if isinstance(event, PreviewEvent) and not event.final:
                found = event
        return found

    return latest


def follow(
    job: Job, limits: Limits, tick: Callable[[], float] | None = None
) -> Generator[Event, None, None]:
    """Yield a job's events until its end; raise :class:`JobTimeout` when time runs out.

    For ``tick`` see :func:`outcome`.
    """

    def left() -> float:
        seconds = job._slice(limits)
        if seconds <= 0 and not job.done():
            raise job._timeout_error(limits)
        return seconds if tick is None else min(seconds, tick())

    return (event for event in _events(job, _subscribe(job), left) if event is not None)


def poll(job: Job, notify: Callable[[], object]) -> Generator[Event | None]:
    """Yield events as :meth:`Job.events` does, but never wait: ``None`` while there is no event.

    ``notify`` is called, in any thread, when it is time to ask again; it must be quick.
    """
    queue = _subscribe(job)
    queue.notify = notify

    def events() -> Generator[Event | None]:
        with at_end(job, notify):
            yield None
            yield from _events(job, queue, lambda: 0.0)

    found = events()
    next(found)  # so that it tidies up, even if nobody asks for the first one
    return found


@contextlib.contextmanager
def at_end(job: Job, alarm: Callable[[], object]) -> Iterator[None]:
    """Context manager: call ``alarm``, which must be quick, in any thread at the job's end."""
    job._alarms.append(alarm)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the child of a fork has none
            job._alarms.remove(alarm)


def when_ended(job: Job, call: Callable[[], object]) -> None:
    """Have it called once the job has ended, in any thread, maybe twice; it must be quick."""
    job._alarms.append(call)
    if job.done():
        call()


def _subscribe(job: Job) -> EventQueue:
    queue = job._tracked.events.subscribe()
    # One that was given before the queue was there; twice at worst: the first ends it.
    end_event = job._end_event()
    if end_event is not None:
        queue.put(end_event)
    return queue


def _events(job: Job, queue: EventQueue, seconds: Callable[[], float]) -> Iterator[Event | None]:
    """Yield the events of a queue until the end event; None where no event came in time."""
    try:
        while True:
            is_over = job.done()
            left = seconds()
            event = queue.get(0 if is_over else left)
            if event is None and is_over:
                end_event = job._end_event()
                if end_event is not None:  # it has given way, to have room for others
                    yield end_event
                return
            yield event
            if event is not None and event.is_end:
                return
    finally:
        job._tracked.events.unsubscribe(queue)


def wait_for_one(jobs: Collection[Job], seconds: float) -> bool:
    """Wait until a job has ended, ``seconds`` at most; return whether one has.

    A ``TimeoutError`` in here is an alarm of the caller's, so none is raised.  No lock is shared
    with other threads: an alarm in the middle of a ``Condition`` may release a lock that another
    thread holds by then.
    """
    check_may_wait()
    alarm = runtime.Lock()
    alarm.acquire()
    end = alarm.release
    try:
        for job in jobs:
            job._alarms.append(end)
        if not any(job.done() for job in jobs):
            with short_interrupts:
                alarm.acquire(timeout=max(0.0, seconds))
    finally:
        for job in jobs:
            with contextlib.suppress(ValueError):
                job._alarms.remove(end)
    return any(job.done() for job in jobs)


@contextlib.contextmanager
def cancelling(on_interrupt: OnInterrupt, *jobs: Job) -> Iterator[list[Job]]:
    """Context manager: on Ctrl-C leave at once, or first cancel these jobs and those added."""
    if on_interrupt not in ("leave", "cancel"):
        raise ValueError(f"on_interrupt must be 'leave' or 'cancel', not {on_interrupt!r}")
    begun = list(jobs)
    try:
        yield begun
    except KeyboardInterrupt:
        for job in begun:
            if on_interrupt == "leave" and job._tracked.state.posted_at and not job.done():
                warn_that_it_runs(job)
        if on_interrupt == "cancel" and begun:
            cancel_in_time(begun)
        raise


def cancel_in_time(jobs: Sequence[Job]) -> list[bool]:
    """Cancel jobs; return whether each was there, as far as the server has said so in time.

    In a thread, so that Ctrl-C does not wait for a server that is gone.
    """
    said: list[bool] = []
    is_left = runtime.Event()

    def cancel() -> None:
        for job in jobs:
            try:
                said.append(job.cancel())
            except ComfyError as exc:
                if is_left.is_set():  # the caller was told, and may have closed the client
                    return
                log.warning(
                    "prompt %s could not be cancelled and may keep running: %s", job.prompt_id, exc
                )

    thread = runtime.Thread(target=cancel, name="comfy-cancel", daemon=True)
    try:
        thread.start()
        thread.join(jobs[0]._poller.timing.cancel_timeout)
    except KeyboardInterrupt:
        is_left.set()
        raise
    return said
