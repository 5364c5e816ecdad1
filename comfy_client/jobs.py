"""The truth about our prompts: two sources, one verdict.

The socket tells quickly, HTTP tells surely.  A job's verdict is decided once, by the first
evidence of either: its end event, or the queue and then the history over HTTP (in this
order, since a prompt moves from the one to the other between two questions).  HTTP is asked
after each (re)connect, while there is no socket, and whenever a job has been silent for a
few seconds; one pass serves all jobs of a client, in a thread of its own that exists while
there are jobs.

Events alone decide only if one unbroken socket saw the job from its start and every output
is known from them.  Otherwise history is read, which the server writes after
``execution_success`` and before ``executing`` with no node.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Unpack

import attrs

from . import models
from .connection import State
from .errors import (
    ApiError,
    AuthenticationError,
    ClientClosed,
    ComfyError,
    JobError,
    JobFailed,
    JobInterrupted,
    JobLost,
    JobTimeout,
    ServerUnreachable,
    SubmitUncertain,
    TransportError,
    UnexpectedResponse,
)
from .events import (
    EndEvent,
    ErrorEvent,
    Event,
    Executed,
    Executing,
    ExecutionCached,
    ExecutionError,
    ExecutionInterrupted,
    ExecutionStart,
    ExecutionSuccess,
    JobEvent,
    JobLostEvent,
    PreviewEvent,
    Progress,
    ProgressText,
    execution_error,
    execution_interrupted,
    execution_success,
)
from .models._base import mapping
from .outputs import Result, make_result
from .routes.prompts import MARK, AnyWorkflow, PromptOptions
from .signals import EventQueue
from .workflow import class_of, explain_rejection, sinks, title_of
from .workflow.graph import describe

if TYPE_CHECKING:
    from .client import ComfyApi

log = logging.getLogger("comfy_client")

#: Seconds without news of a job after which HTTP is asked, and the most between questions.
SILENCE: Final = 5.0
LONGEST: Final = 15.0
#: The same while there is no socket.
POLL_FIRST: Final = 0.05
POLL_LONGEST: Final = 2.0
#: Seconds that history may take to show what an event has announced.
HISTORY_GRACE: Final = 3.0
#: Seconds between the two looks that make a job lost.
LOST_APART: Final = 2.0
#: Seconds that pictures may come later than the history that knows of their end.
LATEST: Final = 600.0
#: Seconds in which an unanswered submission is looked for.
LOOK_UP: Final = 10.0
#: Seconds in which our own submission must show as a ``status`` on a socket that is not deaf.
DEAF: Final = 3.0
#: Seconds until the next question when one has failed; doubles up to LONGEST.
PAUSE: Final = 0.5
#: Refusals in a row (login page, 401) after which what is known has to do.
REFUSALS: Final = 3
#: Seconds that a submission waits for the socket.
SETTLE: Final = 5.0
#: Seconds that a result waits for slow receivers.
FLUSH: Final = 5.0
#: Seconds after which the thread ends when there are no jobs.
LINGER: Final = 10.0

#: The node whose pictures are outputs, though they come like previews.
SENDER: Final = "SaveImageWebsocket"

Outcome = Result | Exception


class Job(Future[Result]):
    """One submitted prompt: a :class:`concurrent.futures.Future` of its :class:`Result`.

    To stop it use :meth:`ComfyApi.interrupt` while it runs, or
    :meth:`ComfyApi.delete_from_queue` while it waits.
    """

    def __init__(self, api: ComfyApi, prompt_id: str, graph: Mapping[str, Any]) -> None:
        self._api = api  # whoever holds the job, holds the client that decides it
        self._begin()
        self.prompt_id = prompt_id  #: As the server knows it.
        self.graph = graph  #: What was submitted, in API format.
        self.node_errors: Mapping[str, Any] = {}  #: Outputs that the server dropped.
        self._tap = EventQueue()
        self._tapped = False
        self._wants_previews = False
        # All below is guarded by the lock of Jobs.
        self._told = False  # the end event has gone out
        self._decided = False
        self._early: Outcome | None = None  # decided before the submission was answered
        self._accepted_at: float | None = None
        self._posted_at = 0.0
        self._generation: int | None = None  # of the connection that saw the submission
        self._started = False
        self._cached: frozenset[str] | None = None
        self._outputs: dict[str, Mapping[str, Any]] = {}
        self._reported: set[str] = set()
        self._frames: list[tuple[str, str, memoryview]] = []
        self._sampled = False
        self._previewed = False
        self._check_at = float("inf")
        self._interval = SILENCE
        self._missed_at: float | None = None
        self._ended = False  # the socket itself has said so
        self._remarks: list[str] = []  # logged at the end: a log handler may call us back
        self._late_since = 0.0  # since when history knows more than the socket
        self._awaits_history = False  # the end was told; only the record is wanted
        self._refusals = 0

    def _begin(self) -> None:
        """A fresh future, as in the child of a fork, where any lock may be held for ever."""
        super().__init__()
        self.set_running_or_notify_cancel()
        self._gate = threading.Lock()  # guards the callbacks
        self._callbacks: list[Callable[[Future[Result]], object]] | None = []

    def result(self, timeout: float | None = None) -> Result:
        """Wait for the end and give what it left.

        ``timeout`` in seconds; ``None`` waits as long as it takes, ``0`` looks once.

        Raises:
            JobFailed: A node raised; carries node, exception and traceback.
            JobInterrupted: Someone stopped it.
            JobLost: The server does not know it any more.
            JobTimeout: Time ran out.  The prompt goes on: call again.
        """
        self._await(timeout)
        self._api._flush()
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The error in which it ended, or ``None``; waits as :meth:`result` does."""
        self._await(timeout)
        return super().exception(0)

    def cancel(self) -> bool:
        """Always ``False``: the prompt is in the server's hands; see the class."""
        return super().cancel()

    def _await(self, timeout: float | None) -> None:
        """In slices, so that Ctrl-C is heard on every system."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.done():
            left = 0.5 if deadline is None else min(0.5, deadline - time.monotonic())
            try:
                super().exception(max(0.0, left))
            except TimeoutError:
                if left <= 0 and not self.done():
                    raise _timeout(self, timeout) from None

    def add_done_callback(self, fn: Callable[[Future[Result]], object]) -> None:
        """Call ``fn(job)`` at the end, in a thread of its own; at once when it has ended."""
        with self._gate:
            if self._callbacks is not None:
                self._callbacks.append(fn)
                return
        super().add_done_callback(fn)

    def _settle(self, outcome: Outcome) -> None:
        for remark in self._remarks:
            log.warning("%s", remark)
        if isinstance(outcome, Result):
            self.set_result(outcome)
        else:
            self.set_exception(outcome)
        with self._gate:
            callbacks, self._callbacks = self._callbacks, None
        if callbacks:
            # Somebody's code, which may take its time: not in the socket's thread.
            threading.Thread(
                target=self._call_back, args=(callbacks,), name="comfy-callbacks", daemon=True
            ).start()

    def _call_back(self, callbacks: list[Callable[[Future[Result]], object]]) -> None:
        for fn in callbacks:
            super().add_done_callback(fn)  # of a future that is done: called, errors logged

    def __repr__(self) -> str:
        return f"<Job {self.prompt_id} {'done' if self.done() else 'outstanding'}>"


def wait(
    job: Job,
    timeout: float | None,
    *,
    on_event: Callable[[Any], object] | None = None,
    on_progress: Callable[[Progress], object] | None = None,
    on_preview: Callable[[PreviewEvent], object] | None = None,
) -> Result:
    """Wait for a tapped job, and call back in this thread meanwhile."""
    deadline = None if timeout is None else time.monotonic() + timeout
    event: Event | None = None
    try:
        while event is None or not _ends(event):
            left = 0.5 if deadline is None else min(0.5, deadline - time.monotonic())
            is_over = job.done()
            if left <= 0 and not is_over:
                raise _timeout(job, timeout)
            event = job._tap.get(0 if is_over else left)  # in slices, so that Ctrl-C is heard
            if event is None:
                if is_over:
                    break
                continue
            if on_event is not None:
                _call(job, on_event, event)
            if on_progress is not None and isinstance(event, Progress):
                _call(job, on_progress, event)
            if on_preview is not None and event.name == "b_preview":
                _call(job, on_preview, event)
    finally:
        job._tap.close()
    return job.result(None if deadline is None else max(0.0, deadline - time.monotonic()))


def _call(job: Job, callback: Callable[[Any], object], event: Event) -> None:
    try:
        callback(event)
    except Exception as exc:
        exc.add_note(f"raised by a callback of run(); prompt {job.prompt_id} goes on")
        raise


def _timeout(job: Job, timeout: float | None) -> JobTimeout:
    trouble = job._api._connection.error
    return JobTimeout(
        f"prompt {job.prompt_id} has not ended within {timeout or 0:.3g} s; it goes on"
        + (f", unless the server is gone ({trouble})" if trouble else ""),
        prompt_id=job.prompt_id,
    )


def _left(deadline: float | None, otherwise: float) -> float:
    """Seconds until the caller's deadline; a second at least, to find out what became of it."""
    return otherwise if deadline is None else max(1.0, deadline - time.monotonic())


def _ends(event: Event) -> bool:
    if isinstance(event, ExecutionError):
        return event.is_end
    return isinstance(event, EndEvent)


class _Bell:
    """Wakes the thread that asks.

    Re-entrant, as no ``Event`` is: the finalizer of a forgotten client rings it in whichever
    thread, at whichever moment.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.RLock())  # guards both
        self._rung = False
        self.stopped = False

    def ring(self, *, stop: bool = False) -> None:
        with self._changed:
            self._rung = True
            self.stopped = self.stopped or stop
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._rung, seconds)
            self._rung = False

    def wait_stopped(self, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.stopped, seconds)


class Jobs:
    """All outstanding jobs of one client.  The client owns it; its thread holds it weakly."""

    def __init__(self, api: ComfyApi) -> None:
        self._owner = weakref.ref(api)
        self._publish = api._receivers.publish
        self._lock = threading.Lock()  # guards this object and the inner state of its jobs
        self._jobs: dict[str, Job] = {}
        self._recovered: deque[str] = deque(maxlen=1000)  # told over HTTP: the socket is late
        self._posting = 0  # submissions without an answer yet
        self._orphans: deque[JobEvent] = deque(maxlen=1000)  # maybe of one of these
        self._running: tuple[str, str] | None = None  # prompt and node that were named last
        self._thread: threading.Thread | None = None
        self._bell = _Bell()
        self._idle_since = 0.0
        self._pause = 0.0  # between questions while HTTP fails
        self._redialled_at = float("-inf")
        self._hinted = False

    def _api(self) -> ComfyApi:
        api = self._owner()
        if api is None:
            raise ClientClosed
        return api

    @property
    def outstanding(self) -> tuple[Job, ...]:
        """Jobs without a verdict."""
        with self._lock:
            return tuple(self._jobs.values())

    # -- submitting ----------------------------------------------------------------------

    def submit(
        self,
        workflow: AnyWorkflow,
        *,
        tapped: bool = False,
        wants_previews: bool = False,
        deadline: float | None = None,
        **options: Unpack[PromptOptions],
    ) -> Job:
        """Socket first, then the waiter, then the POST; the caller's deadline bounds each."""
        api = self._api()
        try:
            return self._submit(api, workflow, tapped, wants_previews, deadline, options)
        except ComfyError as exc:
            self._publish(ErrorEvent(name="queue_error", error=exc))
            raise

    def _submit(
        self,
        api: ComfyApi,
        workflow: AnyWorkflow,
        tapped: bool,
        wants_previews: bool,
        deadline: float | None,
        options: PromptOptions,
    ) -> Job:
        prompt_id = str(uuid.uuid4())
        wants_previews = wants_previews or api._wants_previews()
        body = api._prompt_body(
            workflow, prompt_id=prompt_id, wants_previews=wants_previews, **options
        )
        job = Job(api, prompt_id, body["prompt"])
        job._tapped = tapped
        job._wants_previews = wants_previews
        connection = api._connection
        api._create_socket()
        connection.wait_settled(min(SETTLE, _left(deadline, SETTLE)), first_verdict=True)
        with self._lock:
            if self._bell.stopped:
                raise ClientClosed
            self._jobs[prompt_id] = job
            self._posting += 1
            if connection.state is State.CONNECTED:
                job._generation = connection.generation
            job._posted_at = time.monotonic()
        try:
            receipt = self._post(api, job, body, deadline)
            self._accept(job, receipt)
        except BaseException:
            with self._lock:
                self._jobs.pop(job.prompt_id, None)
            raise
        finally:
            with self._lock:
                self._posting -= 1
                if not self._posting:
                    self._orphans.clear()
        if connection.state is not State.CONNECTED:
            connection.nudge()
        if receipt.node_errors:
            log.warning(
                "prompt %s runs, but without some of its outputs:\n%s",
                job.prompt_id,
                explain_rejection({"node_errors": receipt.node_errors}, job.graph),
            )
        return job

    def _post(
        self, api: ComfyApi, job: Job, body: Mapping[str, Any], deadline: float | None
    ) -> models.QueuedPrompt:
        total = api._http.total_timeout
        try:
            return api._post_prompt(body, timeout=min(total, _left(deadline, total)))
        except ServerUnreachable:
            raise  # nothing was sent
        except (TransportError, ApiError) as exc:
            # A proxy that answers for a server that is away does not know either.
            if isinstance(exc, ApiError) and exc.status not in (502, 503, 504, 524):
                raise
            return self._look_up(api, job, exc, min(LOOK_UP, _left(deadline, LOOK_UP)))

    def _look_up(
        self, api: ComfyApi, job: Job, cause: ComfyError, seconds: float
    ) -> models.QueuedPrompt:
        """What became of a submission that got no answer."""
        log.warning("prompt %s: no answer (%s); looking for it", job.prompt_id, cause)
        end = time.monotonic() + seconds
        pause = 0.2
        while time.monotonic() < end:
            if job._started or job._decided:
                return models.QueuedPrompt(job.prompt_id)
            try:
                found = _find(api, job.prompt_id, end)
            except ComfyError as exc:
                log.debug("look-up failed: %s", exc)
            else:
                if found is not None:
                    return models.QueuedPrompt(found)
            if self._bell.wait_stopped(pause):
                raise ClientClosed
            pause = min(pause * 1.6, 2.0)
        raise SubmitUncertain(
            f"prompt {job.prompt_id} was sent, but no answer came ({cause}), and within "
            f"{seconds:.2g} s it was neither in the queue nor in the history; it may still appear",
            prompt_id=job.prompt_id,
        ) from cause

    def _accept(self, job: Job, receipt: models.QueuedPrompt) -> None:
        """The server has it, maybe under an id of its own."""
        todo: list[Callable[[], None]] = []
        with self._lock:
            job.node_errors = receipt.node_errors
            job._accepted_at = time.monotonic()
            if receipt.prompt_id != job.prompt_id:
                self._jobs.pop(job.prompt_id, None)
                job.prompt_id = receipt.prompt_id
                if not job._decided:
                    self._jobs[job.prompt_id] = job
                for event in self._orphans:  # receivers had these already
                    if event.prompt_id == job.prompt_id:
                        todo += self._tell(job, _finished(job, event))
            if job._early is not None:
                todo.append(self._settling(job, job._early))
            connected = self._api()._connection.state is State.CONNECTED
            job._interval = SILENCE if connected else POLL_FIRST
            job._check_at = min(job._check_at, job._accepted_at + job._interval)
            if job._awaits_history:
                self._hurry(job)
            elif not connected:
                self._bell.ring()  # the thread may sleep for much longer
            self._start()
        for call in todo:
            call()

    # -- events, in the socket's thread ---------------------------------------------------

    def handle(self, event: Event) -> None:
        """Learn what an event says about our jobs, hand it on, and settle what it ends."""
        if not isinstance(event, JobEvent) or not (self._jobs or self._recovered):
            self._publish(event)
            return
        todo: list[Callable[[], None]] = []
        with self._lock:
            if isinstance(event, PreviewEvent | ProgressText) and event.prompt_id is None:
                event = self._attribute(event)
            if event.prompt_id is not None:
                if isinstance(event, Executing | Progress):
                    self._running = (event.prompt_id, event.node) if event.node else None
                job = self._jobs.get(event.prompt_id)
                if job is not None:
                    event = _finished(job, event)
                    todo = self._tell(job, event)
                elif _ends(event) and event.prompt_id in self._recovered:
                    return  # receivers had this news already, over HTTP
                elif self._posting:
                    self._orphans.append(event)
        self._publish(event)
        for call in todo:
            call()

    def _attribute(self, event: PreviewEvent | ProgressText) -> PreviewEvent | ProgressText:
        """What comes without a prompt belongs to the one that runs."""
        if self._running is None:
            return event
        prompt_id, node = self._running
        if isinstance(event, PreviewEvent):
            return attrs.evolve(event, prompt_id=prompt_id, node_id=node)
        return attrs.evolve(event, prompt_id=prompt_id)

    def _tell(self, job: Job, event: JobEvent) -> list[Callable[[], None]]:
        """Have a job know one of its events; what is returned is called without the lock."""
        if job._decided:
            return []
        if _ends(event):
            job._told = True
        self._tap(job, event)
        outcome = self._note(job, event)
        if outcome is None:
            return []
        if job._told:
            return [self._decide(job, outcome)]
        return self._conclude(job, _success(job), outcome)

    def _conclude(self, job: Job, event: EndEvent, outcome: Outcome) -> list[Callable[[], None]]:
        """A verdict that no end event has told: tell it by one of ours, unless that is done."""
        todo: list[Callable[[], None]] = []
        if not job._told:
            job._told = True
            self._tap(job, event)
            todo.append(partial(self._publish, event))
            if event.recovered:
                self._recovered.append(job.prompt_id)
        return [*todo, self._decide(job, outcome)]

    def _tap(self, job: Job, event: Event) -> None:
        if job._tapped:
            job._tap.put(event)

    def _note(self, job: Job, event: JobEvent) -> Outcome | None:
        """What the job is told by one of its events; an outcome when that ends it."""
        job._check_at = time.monotonic() + SILENCE
        job._interval = SILENCE
        job._missed_at = None
        if isinstance(event, ExecutionStart):
            job._started = True
        elif isinstance(event, ExecutionCached):
            job._cached = frozenset(event.nodes)
        elif isinstance(event, Executing):
            if event.node is None:
                return self._after_the_end(job)
        elif isinstance(event, Progress):
            job._sampled = job._sampled or "Sampler" in (class_of(job.graph, event.node) or "")
        elif isinstance(event, Executed):
            if event.node is not None:
                job._reported.add(event.node)
                if event.output is not None:
                    job._outputs[event.node] = event.output
        elif isinstance(event, PreviewEvent):
            if event.final and event.name == "b_preview":
                job._frames.append((event.node_id or "", event.mime, event.view))
            job._previewed = job._previewed or not event.final
        elif _ends(event):
            job._ended = True
            if isinstance(event, ExecutionError | ExecutionInterrupted):
                return _error(job, event)
            if self._saw_it_all(job):
                return self._result(job, job._outputs)
            # ``executing`` without a node will say when it is written; if not, the next look.
            job._awaits_history = True
            job._check_at = 0.0
        return None

    def _after_the_end(self, job: Job) -> Outcome | None:
        """``executing`` without a node: it is over, and history has it."""
        job._ended = True
        if not job._told and not job._cached and self._saw_it_all(job):
            # Before July 2024 this is the only word of a success; nor do those servers tell
            # the outputs of cached nodes.
            return self._result(job, job._outputs)
        job._awaits_history = True
        self._hurry(job)
        return None

    def _is_whole(self, job: Job) -> bool:
        """Whether one unbroken socket has been there since before the submission."""
        connection = self._api()._connection
        return connection.state is State.CONNECTED and connection.generation == job._generation

    def _saw_it_all(self, job: Job) -> bool:
        """Whether events alone may decide: one socket, no gap, and every output known."""
        if not job._started or job._cached is None or not self._is_whole(job):
            return False
        # Servers before August 2024 send no ``executed`` for cached nodes.
        return not job._cached or not (job._cached & sinks(job.graph)) - job._reported

    # -- over HTTP, in the thread that watches -------------------------------------------

    def hurry(self) -> None:
        """Ask about all jobs now: the socket came, or went."""
        with self._lock:
            self._running = None  # with the socket goes what it said last
            for job in self._jobs.values():
                job._interval = POLL_FIRST
                self._hurry(job)

    def _hurry(self, job: Job) -> None:
        if job._accepted_at is not None:
            job._check_at = 0.0
            self._bell.ring()

    def _start(self) -> None:
        """With the lock held."""
        if self._thread is None and not self._bell.stopped:
            # Daemon: a script may end while prompts run.
            self._thread = threading.Thread(
                target=_watch,
                args=(weakref.ref(self), self._bell),
                name="comfy-jobs",
                daemon=True,
            )
            self._thread.start()

    def tick(self) -> float | None:
        """Do what is due; seconds until something may be again, ``None`` to end the thread."""
        now = time.monotonic()
        with self._lock:
            jobs = [job for job in self._jobs.values() if job._accepted_at is not None]
            if not self._jobs:
                self._idle_since = self._idle_since or now
                if now - self._idle_since > LINGER:
                    self._thread = None
                    return None
                return SILENCE
            self._idle_since = 0.0
            due = [job for job in jobs if job._check_at <= now]
        api = self._api()
        self._check_hearing(api, jobs, now)
        if due:
            self._ask(api, due)
        with self._lock:
            times = [job._check_at for job in self._jobs.values() if job._accepted_at is not None]
        return min(DEAF, max(0.01, min(times, default=now + DEAF) - time.monotonic()))

    def _check_hearing(self, api: ComfyApi, jobs: list[Job], now: float) -> None:
        """A socket on which our own submission did not show is deaf: dial again."""
        if api._connection.state is not State.CONNECTED or now - self._redialled_at < 60.0:
            return
        for job in jobs:
            mine = job._generation == api._connection.generation
            since = now - (job._accepted_at or now)
            if mine and since > DEAF and api._status_at < job._posted_at:
                log.warning("the socket is open but deaf; dialling again")
                self._redialled_at = now
                api._connection.redial("it was open, but the server sent nothing on it")
                return

    def _ask(self, api: ComfyApi, due: list[Job]) -> None:
        at_fault = due
        try:
            queue = None
            if not all(job._awaits_history for job in due):
                queue = api.get_queue()
            for job in due:
                at_fault = [job]  # its record may be what cannot be read; others go on
                told = job._awaits_history
                waits = not told and queue is not None and job.prompt_id in queue
                self._learn(job, None if waits else api.get_history(job.prompt_id), waits=waits)
            self._pause = 0.0
        except ClientClosed:
            return
        except ComfyError as exc:
            self._put_off(api, at_fault, exc)

    def _learn(self, job: Job, entry: models.HistoryEntry | None, *, waits: bool) -> None:
        """What queue and history say about one job."""
        now = time.monotonic()
        connected = self._api()._connection.state is State.CONNECTED
        todo: list[Callable[[], None]] = []
        with self._lock:
            if job._decided:
                return
            job._refusals = 0
            least, longest = (SILENCE, LONGEST) if connected else (POLL_FIRST, POLL_LONGEST)
            job._interval = min(longest, max(least, job._interval * 1.6))
            job._check_at = now + job._interval
            if waits:
                job._missed_at = None
            elif entry is not None and self._pictures_may_come(job, entry, now):
                job._check_at = now + 1.0
            elif entry is not None:
                todo = self._conclude(job, *self._from_history(job, entry))
            else:
                todo = self._missed(job, now)
        for call in todo:
            call()

    def _pictures_may_come(self, job: Job, entry: models.HistoryEntry, now: float) -> bool:
        """Whether outputs that only the socket brings are still on their way, on a slow link."""
        if job._ended or not entry.succeeded or not _sends_pictures(job.graph):
            return False
        job._late_since = job._late_since or now
        flows = self._is_whole(job) and self._api()._connection.quiet_for < SILENCE
        return flows and now - job._late_since < LATEST

    def _missed(self, job: Job, now: float) -> list[Callable[[], None]]:
        """Neither in the queue nor in the history; a second look, some time apart, decides."""
        if job._missed_at is None:
            job._missed_at = now
        gone_for = now - job._missed_at
        if job._awaits_history:
            if gone_for < HISTORY_GRACE:
                job._check_at = now + max(POLL_FIRST, gone_for / 2)
            elif job._told:
                return [self._decide(job, self._result(job, job._outputs, complete=False))]
            else:  # an end that nobody told: the queue may know more
                job._awaits_history = False
                job._check_at = now
        elif gone_for >= LOST_APART:
            return self._conclude(job, *_lost(job))
        else:
            job._check_at = job._missed_at + LOST_APART
        return []

    def _from_history(self, job: Job, entry: models.HistoryEntry) -> tuple[EndEvent, Outcome]:
        if entry.succeeded:
            if job._cached is None:
                job._cached = frozenset(entry.cached_nodes)
            # History is the sure source; what only events told is kept beside it.
            outputs = {**job._outputs, **entry.outputs}
            return _success(job, recovered=True), self._result(job, outputs)
        said = entry.execution_error or dict(entry.messages).get("execution_interrupted", {})
        said = {**said, "prompt_id": job.prompt_id}
        make = execution_interrupted if entry.interrupted else execution_error
        event = make(said, recovered=True)
        return event, _error(job, event)

    def _put_off(self, api: ComfyApi, jobs: list[Job], exc: ComfyError) -> None:
        """HTTP fails: ask again later, and later still; give up only where it is refused."""
        self._pause = min(LONGEST, max(PAUSE, self._pause * 2.0))
        until = time.monotonic() + self._pause * random.uniform(0.7, 1.0)  # noqa: S311
        log.debug("asking about %d jobs failed: %s", len(jobs), exc)
        refused = isinstance(exc, AuthenticationError | UnexpectedResponse)
        no_socket = api._connection.state is not State.CONNECTED
        todo: list[Callable[[], None]] = []
        with self._lock:
            for job in jobs:
                job._check_at = max(job._check_at, until)
                job._refusals = job._refusals + 1 if refused else 0
                if job._refusals < REFUSALS or job._decided:
                    continue
                if job._told:
                    outcome = self._result(job, job._outputs, complete=False)
                    todo.append(self._decide(job, outcome))
                elif no_socket:
                    event, _ = _lost(job, f"out of reach: {exc}")
                    todo += self._conclude(job, event, exc)
        for call in todo:
            call()

    # -- verdicts ------------------------------------------------------------------------

    def _result(
        self, job: Job, outputs: Mapping[str, Mapping[str, Any]], *, complete: bool = True
    ) -> Result:
        if job._wants_previews and job._sampled and not job._previewed and self._is_whole(job):
            self._hint(job)
        if _sends_pictures(job.graph) and not (self._is_whole(job) and job._ended):
            complete = False
            job._remarks.append(
                f"prompt {job.prompt_id}: pictures of {SENDER} come over the socket only, and it "
                "did not bring all of this prompt: some may be missing"
            )
        return make_result(
            job.prompt_id,
            job.graph,
            outputs,
            frames=job._frames,
            files=job._api,
            cached_nodes=tuple(sorted(job._cached or ())),
            node_errors=job.node_errors,
            complete=complete,
        )

    def _hint(self, job: Job) -> None:
        if self._hinted:
            return
        self._hinted = True
        job._remarks.append(
            "someone listens to previews, but the server sends none: start ComfyUI with "
            "--preview-method auto (servers from 0.8 on are asked for them by this library)"
        )

    def _decide(self, job: Job, outcome: Outcome) -> Callable[[], None]:
        """Once per job, with the lock held; what is returned is called without it."""
        if job._decided:
            return _nothing
        job._decided = True
        self._jobs.pop(job.prompt_id, None)
        if job._accepted_at is None:
            job._early = outcome  # the answer to the submission may have more to say
            return _nothing
        return self._settling(job, outcome)

    def _settling(self, job: Job, outcome: Outcome) -> Callable[[], None]:
        if isinstance(outcome, Result) and outcome.node_errors is not job.node_errors:
            outcome = attrs.evolve(outcome, node_errors=job.node_errors)
        return partial(job._settle, outcome)

    def close(self) -> None:
        """No verdict will come any more: all waits end in :class:`ClientClosed`."""
        self._bell.ring(stop=True)
        with self._lock:
            settle = [self._decide(job, ClientClosed()) for job in list(self._jobs.values())]
        for call in settle:
            call()

    def shutdown(self) -> Callable[[], None]:
        """What ends the thread, without keeping a hold on this object."""
        return partial(self._bell.ring, stop=True)

    def orphan(self) -> None:
        """In the child of a fork: these jobs are the parent's; no wait for them may hang."""
        for job in list(self._jobs.values()):
            job._begin()
            job.set_exception(ClientClosed("the job belongs to the process that was forked"))


def _watch(owner: weakref.ref[Jobs], bell: _Bell) -> None:
    """The thread that asks over HTTP.  It holds the jobs only while it works."""
    while not bell.stopped:
        jobs = owner()
        if jobs is None:
            return
        try:
            delay = jobs.tick()
        except ClientClosed:
            return
        except Exception:  # a defect of ours must not leave waits without an end
            log.exception("asking about jobs failed by a defect of comfy_client")
            delay = SILENCE
        del jobs
        if delay is None:
            return
        bell.wait(delay)


def _nothing() -> None:
    pass


def _find(api: ComfyApi, prompt_id: str, end: float) -> str | None:
    """The id under which a server has our prompt: ours, or its own with our mark."""

    def ask(route: str, **params: int) -> Any:
        left = max(0.1, end - time.monotonic())
        return api._http.json("GET", route, params=params, timeout=left)

    queue = models.Queue.from_json(ask("/queue"))
    records: list[models.QueueItem | models.HistoryEntry] = [*queue.running, *queue.pending]
    if not any(prompt_id in (item.prompt_id, item.extra_data.get(MARK)) for item in records):
        found = ask(f"/history/{prompt_id}") or ask("/history", max_items=64)
        records = [
            models.HistoryEntry.from_json(entry) for entry in mapping(found, "history").values()
        ]
    for item in records:
        if prompt_id in (item.prompt_id, item.extra_data.get(MARK)):
            return item.prompt_id
    return None


def _finished(job: Job, event: JobEvent) -> JobEvent:
    """A picture is final when its node sends nothing else."""
    if isinstance(event, PreviewEvent) and event.node_id is not None:
        real = event.real_node_id or event.node_id
        if class_of(job.graph, real) == SENDER:
            return attrs.evolve(event, final=True)
    return event


def _sends_pictures(graph: Mapping[str, Any]) -> bool:
    return any(class_of(graph, node_id) == SENDER for node_id in graph)


def _success(job: Job, *, recovered: bool = False) -> ExecutionSuccess:
    return execution_success({"prompt_id": job.prompt_id}, recovered=recovered)


_GONE: Final = "in no queue and no history: the server was restarted, or the prompt was deleted"


def _lost(job: Job, reason: str = _GONE) -> tuple[EndEvent, JobLost]:
    event = JobLostEvent(name="job_lost", prompt_id=job.prompt_id, reason=reason, recovered=True)
    return event, JobLost(f"prompt {job.prompt_id} is {reason}", prompt_id=job.prompt_id)


def _error(job: Job, event: ExecutionError | ExecutionInterrupted) -> JobError:
    """The exception for an end event."""
    if isinstance(event, ExecutionInterrupted):
        where = f" at {describe(job.graph, event.node_id)}" if event.node_id else ""
        return JobInterrupted(
            f"prompt {job.prompt_id} was interrupted{where}",
            prompt_id=job.prompt_id,
            node_id=event.node_id,
        )
    where = describe(job.graph, event.node_id, event.node_type) if event.node_id else "a node"
    error = JobFailed(
        f"{where} failed: {event.exception_type or 'no exception told'}: "
        f"{event.exception_message or ''}".rstrip(": "),
        prompt_id=job.prompt_id,
        node_id=event.node_id,
        title=title_of(job.graph, event.node_id),
        class_type=event.node_type or class_of(job.graph, event.node_id),
        exception_type=event.exception_type,
        exception_message=event.exception_message,
        traceback=event.traceback,
        inputs=event.current_inputs,
    )
    if error.is_oom:
        error.add_note("out of memory: try a smaller size or batch, or api.free_memory(...)")
    return error
