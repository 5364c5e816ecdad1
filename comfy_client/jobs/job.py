"""One prompt in its user's hands: a future of its result, and what is known of it meanwhile.

What is known is written by :class:`comfy_client.jobs.tracker.Jobs` alone, and only read here.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs

from ..budget import Share
from ..errors import ClientClosed, ComfyError, JobFailed, JobInterrupted, JobLost, JobTimeout
from ..event_queue import EventQueue
from ..events import (
    Event,
    ExecutionError,
    ExecutionInterrupted,
    ExecutionSuccess,
    PreviewEvent,
    Progress,
    ProgressState,
)
from ..tracebacks import short_interrupts
from ..transport.deadline import check_timeout
from ..transport.websocket import State
from ..workflow import class_of, title_of
from .progress import fraction, targets, weights
from .result import Result

if TYPE_CHECKING:
    from ..client import ComfyApi

log: logging.Logger = logging.getLogger("comfy_client")

#: Longest wait in one piece, in seconds, so that Ctrl-C is heard on every system.
SLICE: Final = 0.5
#: Seconds that a result waits for slow receivers, when the caller has as many.
FLUSH: Final = 5.0
#: Seconds for taking back what is not wanted any more, after Ctrl-C and other early ends.
LAST_WORD: Final = 5.0

Outcome = Result | Exception

#: Where a prompt is: see :attr:`Job.status`.
JobStatus = Literal["pending", "running", "succeeded", "failed", "interrupted", "lost", "unknown"]

#: What becomes of a prompt when Ctrl-C ends the wait for it.
OnInterrupt = Literal["leave", "cancel"]


@attrs.frozen
class Limits:
    """How long a caller waits, from now on: in all, and without any news."""

    timeout: float | None = None
    stall_timeout: float | None = None
    deadline: float | None = attrs.field(init=False)

    @deadline.default
    def _deadline(self) -> float | None:
        check_timeout(self.timeout, self.stall_timeout)
        return None if self.timeout is None else time.monotonic() + self.timeout

    def left(self, most: float) -> float:
        """Seconds that something may take; ``most``, when there is time for more."""
        return most if self.deadline is None else min(most, self.deadline - time.monotonic())


@attrs.frozen
class JobProgress:
    """The progress of a prompt.

    Attributes:
        fraction: From 0 to 1; it never falls, and is 1 only for a success.  Nodes count by their
            samplers' steps, and by how long they took in earlier runs of this client.
        node_id: The id of the node that is running; ``None``: none is, or it is unknown.
        title: The title of that node, or its class if it has no title.
        step: How many steps that node has done; ``None`` if it does not report steps.
        steps: How many steps that node has; ``None`` if it does not report steps.
        elapsed: Seconds since the prompt started to run; ``None``: it has not started, or nobody
            knows when.
    """

    fraction: float
    node_id: str | None = None
    title: str | None = None
    step: float | None = None
    steps: float | None = None
    elapsed: float | None = None


@attrs.define(eq=False)
class Known:
    """What is known of a prompt; guarded by the lock of ``Jobs``."""

    share: Share  #: Of the client's memory, until it is decided.
    # Its submission.
    posted_at: float = 0.0
    accepted_at: float | None = None
    client_id: str = ""  #: In whose name.
    generation: int | None = None  #: Of the connection that saw the submission.
    early: Outcome | None = None  #: Decided before the submission was answered.
    is_elsewhere: bool = False  #: Taken up by its id: its events may go to another client.
    #: Seconds between the two looks that make it lost, as long as it may be on its way yet.
    lost_apart: float | None = None  #: ``None``: as usual.
    looked: bool = False  #: HTTP was asked, or failed.
    seek_mark: bool = False  #: The server may have it under an id of its own.
    # Where it is.
    started: bool = False  #: The socket said so.
    running_since: float | None = None  #: Whoever said so.
    number: float | None = None  #: Its place in the order, low first.
    ahead: int | None = None  #: Prompts before it, as the queue said last.
    turn: int = 0  #: When so many prompts have left the queue, this one may have.
    news_at: float = attrs.field(factory=time.monotonic)
    news_by: str = ""  #: ``"socket"`` or ``"HTTP"``.
    # Its course.
    targets: Sequence[str] | None = None  #: Outputs that are to run; ``None``: all.
    cached: frozenset[str] | None = None
    node: str | None = None  #: Runs now.
    node_since: float = 0.0
    spent: dict[str, float] = attrs.field(factory=dict)  #: Seconds, by node of the workflow.
    visited: set[str] = attrs.field(factory=set)  #: Ran, or runs.
    step: Progress | None = None
    states: ProgressState | None = None
    fraction: float = 0.0
    wants_previews: bool = False
    sampled: bool = False
    previewed: bool = False
    # What it left.
    outputs: dict[str, Mapping[str, Any]] = attrs.field(factory=dict)
    reported: set[str] = attrs.field(factory=set)
    frames: list[tuple[str, str, memoryview]] = attrs.field(factory=list)
    # Its end.
    told: Event | None = None  #: The end event that has gone out.
    ended: bool = False  #: The socket itself has said so.
    ended_at: float | None = None
    took: float | None = None  #: Seconds that it ran, by the server's clock.
    decided: bool = False
    cancelled: bool = False  #: By us, while it waited: that it is gone is no loss.
    awaits_history: bool = False  #: The end was told; only the record is wanted.
    remarks: deque[str] = attrs.field(factory=deque)  #: Logged where its end is waited for.
    # When to ask about it.
    check_at: float = float("inf")
    interval: float = 0.0
    missed_at: float | None = None
    late_since: float = 0.0  #: Since when history knows more than the socket.
    refusals: int = 0

    @property
    def is_quiet(self) -> bool:
        """Whether its events go to another client: when it began, and where it is, they tell."""
        return self.is_elsewhere and not self.started and self.node is None

    def is_news(self, source: str) -> None:
        """Something was learned."""
        self.news_at = time.monotonic()
        self.news_by = source

    def let_go(self) -> None:
        """Of its course and of what it left: nobody asks for them any more."""
        self.cached, self.states, self.step = None, None, None
        self.visited, self.reported = set(), set()
        self.outputs, self.frames = {}, []

    def runs(self) -> None:
        """It has left the queue."""
        self.ahead = None
        self.cancelled = False
        if self.running_since is None:
            self.running_since = time.monotonic()


#: What the weights of the nodes of a prompt were worked out from, and they.
Weighed = tuple[tuple[object, ...], Mapping[str, float]]
NOTHING_WEIGHED: Weighed = (None,) * 4, {}


class Job(Future[Result]):
    """One submitted prompt: a :class:`concurrent.futures.Future` of its :class:`Result`.

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

    Attributes:
        prompt_id: The id of the prompt on the server.
        graph: The submitted graph in API format; of a job that was attached by its id, empty until
            the server has sent it.
        node_errors: Why some outputs do not run, by node id; empty: all run.
    """

    def __init__(self, api: ComfyApi, prompt_id: str, graph: Mapping[str, Any]) -> None:
        self._api = api  # whoever holds the job, holds the client that decides it
        self._begin()
        self.prompt_id: str = prompt_id
        self.graph: Mapping[str, Any] = graph
        self.node_errors: Mapping[str, Any] = {}
        self._known = Known(Share(api._budget))
        self._twins: list[Job] = []  # the same prompt, taken up by another id
        self._weighed = NOTHING_WEIGHED

    def _begin(self) -> None:
        """A fresh future, as in the child of a fork, where any lock may be held for ever."""
        super().__init__()
        self.set_running_or_notify_cancel()
        # Guards callbacks and taps.  Re-entrant: the collector may end an iterator in here.
        self._gate = threading.RLock()
        self._callbacks: list[Callable[[Future[Result]], object]] | None = []
        # Replaced, never changed.  Whoever reads late, gets of progress and previews only the
        # newest.
        # Weakly, so that an iterator that nobody keeps is gone with its events; but for the
        # first, until somebody asks for it.
        self._first: EventQueue | None = EventQueue(high_water=0, budget=self._api._budget)
        self._taps: tuple[weakref.ref[EventQueue], ...] = (weakref.ref(self._first),)
        self._bells: list[threading.Lock] = []  # of those who wait, released at the end
        self._is_done = False

    def _orphan(self) -> None:
        """In the child of a fork it ends here; whoever follows it there, too."""
        for tap in self._live_taps():
            tap.reset()
        self._begin()
        self.set_exception(ClientClosed("the job belongs to the process that was forked"))
        self._is_done = True
        for twin in self._twins:
            twin._orphan()

    def _join(self, other: Job) -> None:
        """Be one with another job, which turns out to be the same prompt."""
        self.prompt_id = other.prompt_id
        self.graph = self.graph or other.graph
        self._known = other._known
        other._twins.append(self)
        if self._known.told is not None:
            self._hear(self._known.told)

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

    def _outcome(self, limits: Limits) -> Result:
        self._await(limits)
        self._api._receivers.flush(limits.left(FLUSH))
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The error of the prompt, or ``None``; waits as :meth:`result` does.

        Raises:
            JobTimeout: It has not ended within ``timeout`` seconds; it keeps running.
        """
        self._await(Limits(timeout))
        return super().exception(0)

    def done(self) -> bool:
        """Whether it has ended, and its result or error is known."""
        return self._is_done  # without a lock, which an alarm could leave held

    def cancel(self, *, force: bool = False) -> bool:
        """Stop this prompt and no other; False if it has ended already.

        ``POST /api/jobs/{id}/cancel`` (since 0.26).  On older servers, a pending prompt is
        deleted from the queue (``POST /queue``), and a running one interrupted (``POST
        /interrupt``, which respects the id since 0.3.57).  The job then ends in
        :class:`JobInterrupted`; it may still succeed if its last node does not check for
        interrupts.  ``cancelled()`` stays False: ``status`` says how it ended.

        Args:
            force: For servers before 0.3.57, whose interrupt stops any running prompt:
                interrupt if the queue says that this one is running.  Another one may start in
                between.

        Raises:
            NotSupported: It is running, and this server might stop another prompt instead.
            ComfyError: The server did not answer, or refused; the prompt may keep running.
        """
        return self._api._jobs.cancel(self, force=force)

    def add_done_callback(self, fn: Callable[[Future[Result]], object]) -> None:
        """Call ``fn(job)`` at the end, in a thread of its own; at once if it has ended."""
        with self._gate:
            if self._callbacks is not None:
                self._callbacks.append(fn)
                return
        super().add_done_callback(fn)

    def _await(self, limits: Limits) -> None:
        while not self.done():
            left = self._slice(limits)
            is_done = wait_for_one([self], left)
            if left <= 0 and not is_done:
                raise self._out_of_patience(limits)
        self._log_remarks()

    def _log_remarks(self) -> None:
        """In the thread of whoever waits: a handler of logs may be slow, or call us back."""
        with contextlib.suppress(IndexError):
            while True:
                log.warning("%s", self._known.remarks.popleft())

    def _slice(self, limits: Limits) -> float:
        """Seconds that a wait may take in one piece; not above 0 when patience is at its end."""
        left = limits.left(SLICE)
        if limits.stall_timeout is not None:
            left = min(left, self._news_at + limits.stall_timeout - time.monotonic())
        return left

    @property
    def _news_at(self) -> float:
        """While it waits, any prompt that leaves the queue is news of its place in it."""
        known = self._known
        moved_at = self._api._jobs.lookout.advanced_at if known.running_since is None else 0.0
        return max(known.news_at, moved_at)

    def _say_that_it_goes_on(self) -> None:
        log.warning("prompt %s goes on: take it up by api.job(%r)", self.prompt_id, self.prompt_id)

    def _out_of_patience(self, limits: Limits) -> JobTimeout:
        is_stalled = limits.left(1.0) > 0
        what = (
            f"no news of prompt {self.prompt_id} for {limits.stall_timeout or 0:g} s"
            if is_stalled
            else f"prompt {self.prompt_id} has not ended within {limits.timeout or 0:g} s"
        )
        trouble = self._api._connection.error
        state = (
            f"; the server may be gone ({trouble}). If it is not, the prompt"
            if trouble
            else f" ({self.why()}). The prompt"
        )
        return JobTimeout(
            f"{what}{state} goes on: wait again, or come back to it by api.job({self.prompt_id!r})",
            prompt_id=self.prompt_id,
            stalled=is_stalled,
        )

    def _settle(self, outcome: Outcome) -> None:
        try:
            if isinstance(outcome, Result):
                self.set_result(outcome)
            else:
                self.set_exception(outcome)
        except RuntimeError:
            # A Ctrl-C, or an alarm, in a ``wait`` of concurrent.futures has let go of the lock
            # that this one takes there.
            log.debug("who waits for prompt %s was interrupted", self.prompt_id, exc_info=True)
        self._is_done = True
        for bell in tuple(self._bells):
            with contextlib.suppress(RuntimeError):  # rung by another job
                bell.release()
        for twin in self._twins:
            if not twin.done():
                twin._settle(copy.copy(outcome) if isinstance(outcome, Exception) else outcome)
        with self._gate:
            callbacks, self._callbacks = self._callbacks, None
        if callbacks:
            # Somebody's code, which may take its time: not in the socket's thread.
            thread = threading.Thread(
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
        return self._follow(self._tap(), Limits())

    def _tap(self) -> EventQueue:
        """The queue that was filled from the beginning, or for whoever comes later a new one."""
        with self._gate:
            if self._first is not None:
                tap, self._first = self._first, None
                return tap
            tap = EventQueue(budget=self._api._budget)
            alive = (ref for ref in self._taps if ref() is not None)
            self._taps = (*alive, weakref.ref(tap))
        if self._known.told is not None:  # twice at worst: whoever reads stops at the first
            tap.put(self._known.told)
        return tap

    def _tap_all(self) -> None:
        """Somebody listens from the beginning, and is to have all."""
        if self._first is not None:
            self._first.listen()

    def _live_taps(self) -> list[EventQueue]:
        return [tap for ref in self._taps if (tap := ref()) is not None]

    def _hear(self, event: Event) -> None:
        if event.name == "b_preview_with_metadata":
            return  # the same picture comes as ``b_preview``
        for ref in self._taps:
            if (tap := ref()) is not None:
                tap.put(event)
        for twin in self._twins:
            twin._hear(event)

    def _follow(self, tap: EventQueue, limits: Limits) -> Generator[Event, None, None]:
        try:
            while True:
                is_over = self.done()
                left = self._slice(limits)
                if left <= 0 and not is_over:
                    raise self._out_of_patience(limits)
                event = tap.get(0 if is_over else left)
                if event is not None:
                    yield event
                    if event.is_end:
                        return
                elif is_over:
                    if self._known.told is not None:  # it has given way, to have room for others
                        yield self._known.told
                    return
        finally:
            tap.close()
            with self._gate:
                self._taps = tuple(ref for ref in self._taps if ref() not in (tap, None))

    # -- how it is doing -----------------------------------------------------------------

    @property
    def status(self) -> JobStatus:
        """The state of the prompt, as far as the client knows.

        ``pending`` and ``running`` until it ends as ``succeeded``, ``failed``,
        ``interrupted`` (also if it was cancelled while pending) or ``lost``.  An end is final;
        the result may follow a moment later.  ``unknown``: the server has not said yet (of a
        job that was attached by its id), or only the waiting has ended: the client was closed,
        or the server refuses to say.
        """
        if not self.done():
            known = self._known
            if type(known.told) in _STATUS_TOLD:
                return _STATUS_TOLD[type(known.told)]  # and nothing takes it back
            if known.running_since is not None:
                return "running"
            return "unknown" if known.is_elsewhere and known.ahead is None else "pending"
        error = super().exception(0)
        if error is None:
            return "succeeded"
        for kind, status in _STATUS_OF.items():
            if isinstance(error, kind):
                return status
        return "unknown"

    @property
    def queue_position(self) -> int | None:
        """How many prompts are before it, at most, the running one included.

        0: it is running, or next.  ``None``: unknown, or it has ended.  The socket says how many
        prompts there are in all; a request for the queue now and then shows which are before it.
        """
        if self.done():
            return None
        known = self._known
        if known.running_since is not None:
            return 0
        remaining = self._api._jobs.lookout.remaining
        is_heard = self._api._connection.state is State.CONNECTED and not known.is_elsewhere
        before, behind = self._api._jobs.around(self)
        most = max(before, (remaining or 0) - 1 - behind) if is_heard else None
        at_most = min((n for n in (known.ahead, most) if n is not None), default=None)
        # A look at the queue may be from before one of ours went to its front.
        return None if at_most is None else max(before, at_most)

    @property
    def progress(self) -> JobProgress:
        """The progress of the prompt; without a socket, only what the queue shows."""
        known = self._known
        began = known.running_since
        end = known.ended_at or time.monotonic()
        elapsed = None if began is None else end - began
        if known.took is not None:
            elapsed = known.took
        node_id = known.node
        told = known.step
        step = told if told is not None and told.node == node_id else None
        done = fraction(
            self.graph,
            self._weights(),
            visited=known.visited,
            node_id=node_id,
            step=told,
            states=known.states,
        )
        known.fraction = max(known.fraction, min(0.99, done))
        if self.done():
            is_success = super().exception(0) is None
            return JobProgress(1.0 if is_success else known.fraction, elapsed=elapsed)
        return JobProgress(
            known.fraction,
            node_id=node_id,
            title=title_of(self.graph, node_id) or class_of(self.graph, node_id),
            step=None if step is None else step.value,
            steps=None if step is None else step.max,
            elapsed=elapsed,
        )

    def _let_go(self) -> None:
        """It is over: of its course, only the progress is asked for from now on."""
        self._known.let_go()
        self._weighed = NOTHING_WEIGHED

    def _weights(self) -> Mapping[str, float]:
        """Of the nodes that are to run; worked out again when more is known of which these are."""
        known = self._known
        told = (self.graph, known.cached, known.targets, self.node_errors)
        if any(one is not other for one, other in zip(told, self._weighed[0], strict=True)):
            found = weights(
                self.graph,
                cached=known.cached or (),
                targets=targets(self.graph, known.targets, self.node_errors),
                times=self._api._jobs.times,
            )
            self._weighed = told, found
        return self._weighed[1]

    def why(self) -> str:
        """One sentence on what it is waiting for, or how it ended.

        ``pending, 3 ahead; running: KSampler 12/20; last news 2.1 s ago by socket, reconnected
        once``.
        """
        if self.done():
            return self._end_in_words()
        known = self._known
        now = time.monotonic()
        status = self.status
        words = [str(status) if known.told is None else f"{status}, its record is awaited"]
        if status == "pending":
            ahead = self.queue_position
            if ahead is not None:
                words[0] += f", {ahead} ahead" if ahead else ", next in the queue"
            other = self._api._jobs.running(self)
            if other is not None:
                words.append(f"running: {other._node_in_words()}")
            elif ahead:
                words.append("running: another prompt")
        elif status == "running":
            words[0] += f": {self._node_in_words()}"
            if known.running_since is not None and not known.is_quiet:
                words[0] += f", for {now - known.running_since:.0f} s"
        link = (
            f"last news {now - known.news_at:.1f} s ago by {known.news_by}"
            if known.news_by
            else f"no news for {now - known.news_at:.1f} s"
        )
        return "; ".join([*words, link + self._link_in_words()])

    def _node_in_words(self) -> str:
        progress = self.progress
        nowhere = "at which node, another client is told" if self._known.is_quiet else "no node yet"
        text = progress.title or (f"node {progress.node_id}" if progress.node_id else nowhere)
        if progress.step is not None and progress.steps:
            text += f" {progress.step:g}/{progress.steps:g}"
        return text

    def _link_in_words(self) -> str:
        connection = self._api._connection
        trouble = self._api._jobs.trouble
        if trouble is not None:
            return f"; the server does not answer ({trouble})"
        if connection.state is not State.CONNECTED:
            return "; no socket, asking over HTTP"
        again = connection.generation - 1
        if again < 1:
            return ""
        return ", reconnected once" if again == 1 else f", reconnected {again} times"

    def _end_in_words(self) -> str:
        status = self.status
        error = super().exception(0)
        elapsed = self.progress.elapsed
        after = "" if elapsed is None else f" after {elapsed:.1f} s"
        return f"{status}{after}" + (f": {error}" if error is not None else "")

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a job does not travel: hand on its prompt_id, and call api.job(prompt_id)")

    def __repr__(self) -> str:
        return f"<Job {self.prompt_id} {self.status}>"


_STATUS_TOLD: Mapping[object, JobStatus] = {
    ExecutionSuccess: "succeeded",
    ExecutionError: "failed",
    ExecutionInterrupted: "interrupted",
}

_STATUS_OF: Mapping[type[ComfyError], JobStatus] = {
    JobFailed: "failed",
    JobInterrupted: "interrupted",
    JobLost: "lost",
}


def wait_for_one(jobs: Collection[Job], seconds: float) -> bool:
    """Wait until one of them has ended, ``seconds`` at most; whether one has.

    Tells by what it returns: a ``TimeoutError`` in here is an alarm of the caller's.  Nor is
    there a lock that anybody else takes: an alarm in the middle of a ``Condition`` may let go
    of one that another thread holds by then.
    """
    bell = threading.Lock()
    bell.acquire()
    try:
        for job in jobs:
            job._bells.append(bell)
        if not any(job.done() for job in jobs):
            with short_interrupts:
                bell.acquire(timeout=max(0.0, seconds))
    finally:
        for job in jobs:
            with contextlib.suppress(ValueError):
                job._bells.remove(bell)
    return any(job.done() for job in jobs)


@contextlib.contextmanager
def cancelling(on_interrupt: OnInterrupt, *jobs: Job) -> Iterator[list[Job]]:
    """Ctrl-C in here leaves at once, or first cancels the jobs and those that were added."""
    if on_interrupt not in ("leave", "cancel"):
        raise ValueError(f"on_interrupt is 'leave' or 'cancel', not {on_interrupt!r}")
    begun = list(jobs)
    try:
        yield begun
    except KeyboardInterrupt:
        for job in begun:
            if on_interrupt == "leave" and job._known.posted_at and not job.done():
                job._say_that_it_goes_on()
        if on_interrupt == "cancel" and begun:
            # In a thread: whoever presses Ctrl-C does not wait for a server that is gone.
            last_word = threading.Thread(
                target=_cancel, args=(begun,), name="comfy-cancel", daemon=True
            )
            last_word.start()
            last_word.join(LAST_WORD)
        raise


def _cancel(jobs: Sequence[Job]) -> None:
    for job in jobs:
        try:
            job.cancel()
        except ComfyError as exc:
            log.warning("prompt %s could not be cancelled and may go on: %s", job.prompt_id, exc)


def wait(
    job: Job,
    limits: Limits,
    *,
    on_event: Callable[[Any], object] | None = None,
    on_progress: Callable[[Progress], object] | None = None,
    on_preview: Callable[[PreviewEvent], object] | None = None,
) -> Result:
    """Wait for a job, and call back in this thread meanwhile."""
    events = job._follow(job._tap(), limits)
    with contextlib.closing(events):
        for event in events:
            if on_event is not None:
                _call(job, on_event, event)
            if on_progress is not None and isinstance(event, Progress):
                _call(job, on_progress, event)
            if on_preview is not None and event.name == "b_preview":
                _call(job, on_preview, event)
    return job._outcome(limits)


def _call(job: Job, callback: Callable[[Any], object], event: Event) -> None:
    try:
        callback(event)
    except Exception as exc:
        exc.add_note(f"raised by a callback of run(); prompt {job.prompt_id} goes on")
        raise
