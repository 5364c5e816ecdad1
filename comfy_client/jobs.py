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
from typing import TYPE_CHECKING, Any, Final, Unpack

import attrs

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
    execution_error,
    execution_interrupted,
    execution_success,
)
from .models import HistoryEntry, Queue, QueuedPrompt
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
#: Seconds in which an unanswered submission is looked for.
LOOK_UP: Final = 10.0
#: Seconds in which our own submission must show as a ``status`` on a socket that is not deaf.
DEAF: Final = 3.0
#: Refusals in a row (login page, 401) that end a wait which has no socket either.
REFUSALS: Final = 3
#: Seconds that a submission waits for the socket.
SETTLE: Final = 5.0
#: Seconds that a result waits for slow receivers.
FLUSH: Final = 5.0
#: Seconds after which the thread ends when there are no jobs.
LINGER: Final = 10.0

Outcome = Result | Exception


class Job(Future[Result]):
    """One submitted prompt: a :class:`concurrent.futures.Future` of its :class:`Result`.

    ``cancel()`` is always ``False``: the prompt is in the server's hands.
    """

    def __init__(self, api: ComfyApi, prompt_id: str, graph: Mapping[str, Any]) -> None:
        super().__init__()
        self.set_running_or_notify_cancel()
        self.prompt_id = prompt_id  #: As the server knows it.
        self.graph = graph  #: What was submitted, in API format.
        self.node_errors: Mapping[str, Any] = {}  #: Outputs that the server dropped.
        self._api = api  # whoever holds the job, holds the client that decides it
        self._tap = EventQueue()
        self._tapped = False
        self._wants_previews = False
        self._has_callbacks = False
        # All below is guarded by the lock of Jobs.
        self._told = False  # the end event has gone out
        self._decided = False
        self._accepted = False
        self._generation: int | None = None  # of the connection that saw the submission
        self._started = False
        self._cached: frozenset[str] | None = None
        self._outputs: dict[str, Mapping[str, Any]] = {}
        self._reported: set[str] = set()
        self._frames: list[tuple[str, str, memoryview]] = []
        self._steps = 0
        self._previews = 0
        self._posted_at = 0.0
        self._check_at = float("inf")
        self._interval = SILENCE
        self._missed_at: float | None = None
        self._awaits_history: float | None = None  # since when

    def result(self, timeout: float | None = None) -> Result:
        """Wait for the end and give what it left.

        ``timeout`` in seconds; ``None`` waits as long as it takes, ``0`` looks once.

        Raises:
            JobFailed: A node raised; carries node, exception and traceback.
            JobInterrupted: Someone stopped it.
            JobLost: The server does not know it any more.
            JobTimeout: Time ran out.  The prompt goes on: call again.
        """
        try:
            return super().result(timeout)
        except TimeoutError:
            if self.done():
                raise
            raise _timeout(self, timeout) from None
        finally:
            self._api._flush()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The error in which it ended, or ``None``; waits as :meth:`result` does."""
        try:
            return super().exception(timeout)
        except TimeoutError:
            raise _timeout(self, timeout) from None

    def add_done_callback(self, fn: Callable[[Future[Result]], object]) -> None:
        """Call ``fn(job)`` at the end, in the thread that watches over jobs."""
        self._has_callbacks = True
        super().add_done_callback(fn)

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
    while not (isinstance(event, EndEvent) and _is_end(event)):
        left = 0.5 if deadline is None else min(0.5, deadline - time.monotonic())
        if left <= 0:
            raise _timeout(job, timeout)
        is_over = job.done()
        event = job._tap.get(0 if is_over else left)  # in slices, so that Ctrl-C is heard
        if event is None:
            if is_over:
                break
            continue
        try:
            if on_event is not None:
                on_event(event)
            if on_progress is not None and isinstance(event, Progress):
                on_progress(event)
            if on_preview is not None and event.name == "b_preview":
                on_preview(event)  # type: ignore[arg-type]  # the name says so
        except Exception as exc:
            exc.add_note(f"raised by a callback of run(); prompt {job.prompt_id} goes on")
            raise
    return job.result(None if deadline is None else max(0.0, deadline - time.monotonic()))


def _timeout(job: Job, timeout: float | None) -> JobTimeout:
    return JobTimeout(
        f"prompt {job.prompt_id} has not ended within {timeout or 0:g} s; it goes on",
        prompt_id=job.prompt_id,
    )


def _is_end(event: Event) -> bool:
    return not isinstance(event, ExecutionError) or event.is_end


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
        self._running: tuple[Job, str] | None = None  # job and node that the socket named last
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._idle_since = 0.0
        self._pause = 0.0  # between questions while HTTP fails
        self._refusals = 0
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
        **options: Unpack[PromptOptions],
    ) -> Job:
        """Socket first, then the waiter, then the POST."""
        api = self._api()
        wants_previews = wants_previews or api._wants_previews()
        if wants_previews and options.get("preview_method") is None:
            options["preview_method"] = "auto"
        prompt_id = str(uuid.uuid4())
        body = api._prompt_body(workflow, prompt_id=prompt_id, **options)
        job = Job(api, prompt_id, body["prompt"])
        job._tapped = tapped
        job._wants_previews = wants_previews
        connection = api._connection
        api._create_socket()
        connection.wait_settled(SETTLE, first_verdict=True)
        with self._lock:
            self._jobs[prompt_id] = job
            self._posting += 1
            if connection.state is State.CONNECTED:
                job._generation = connection.generation
            job._posted_at = time.monotonic()
        try:
            receipt = self._post(api, job, body)
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

    def _post(self, api: ComfyApi, job: Job, body: Mapping[str, Any]) -> QueuedPrompt:
        try:
            return api._post_prompt(body)
        except ServerUnreachable:
            raise  # nothing was sent
        except (TransportError, ApiError) as exc:
            # A proxy that answers for a server that is away does not know either.
            if isinstance(exc, ApiError) and exc.status not in (502, 503, 504, 524):
                raise
            return self._look_up(api, job, exc)

    def _look_up(self, api: ComfyApi, job: Job, cause: ComfyError) -> QueuedPrompt:
        """What became of a submission that got no answer."""
        log.warning("prompt %s: no answer (%s); looking for it", job.prompt_id, cause)
        end = time.monotonic() + LOOK_UP
        pause = 0.2
        while time.monotonic() < end:
            if job._started or job.done():
                return QueuedPrompt(job.prompt_id)
            try:
                found = _find(api, job.prompt_id)
            except ComfyError as exc:
                log.debug("look-up failed: %s", exc)
            else:
                if found is not None:
                    return QueuedPrompt(found)
            if self._stopped.wait(pause):
                raise ClientClosed
            pause = min(pause * 1.6, 2.0)
        raise SubmitUncertain(
            f"prompt {job.prompt_id} was sent, but no answer came ({cause}), and within "
            f"{LOOK_UP:g} s it was neither in the queue nor in the history; it may still appear",
            prompt_id=job.prompt_id,
        ) from cause

    def _accept(self, job: Job, receipt: QueuedPrompt) -> None:
        """The server has it, maybe under an id of its own."""
        todo: list[Callable[[], None]] = []
        with self._lock:
            if receipt.prompt_id != job.prompt_id:
                self._jobs.pop(job.prompt_id, None)
                job.prompt_id = receipt.prompt_id
                self._jobs[job.prompt_id] = job
                for event in [e for e in self._orphans if e.prompt_id == job.prompt_id]:
                    # Receivers had it already; an end event of it is told by that.
                    job._told = job._told or (isinstance(event, EndEvent) and _is_end(event))
                    self._tap(job, event)
                    outcome = self._note(job, event)
                    if outcome is not None:
                        todo.append(self._decide(job, outcome))
            job.node_errors = receipt.node_errors
            job._accepted = True
            connected = self._api()._connection.state is State.CONNECTED
            job._interval = SILENCE if connected else POLL_FIRST
            job._check_at = min(job._check_at, time.monotonic() + job._interval)
            if job._awaits_history is not None:
                self._hurry(job)
            self._start()
        for call in todo:
            call()

    # -- events, in the socket's thread ---------------------------------------------------

    def handle(self, event: Event) -> None:
        """Learn what an event says about our jobs, hand it on, and settle what it ends."""
        if not isinstance(event, JobEvent) or not (self._jobs or self._recovered):
            self._publish(event)
            return
        settle: Callable[[], None] | None = None
        extra: Event | None = None
        with self._lock:
            if isinstance(event, PreviewEvent):
                event = self._attribute(event)
            is_end = isinstance(event, EndEvent) and _is_end(event)
            job = self._jobs.get(event.prompt_id or "")
            if job is None:
                if is_end and event.prompt_id in self._recovered:
                    return  # receivers had this news already, over HTTP
                if self._posting and event.prompt_id is not None:
                    self._orphans.append(event)
                if isinstance(event, Executing | Progress) and event.prompt_id is not None:
                    self._running = None
            else:
                if is_end:
                    job._told = True
                self._tap(job, event)
                outcome = self._note(job, event)
                if outcome is not None:
                    if not job._told and isinstance(outcome, Result):
                        extra = _success(job)
                        job._told = True
                        self._tap(job, extra)
                    settle = self._decide(job, outcome)
        self._publish(event)
        if extra is not None:
            self._publish(extra)
        if settle is not None:
            settle()

    def _tap(self, job: Job, event: Event) -> None:
        if job._tapped:
            job._tap.put(event)

    def _attribute(self, event: PreviewEvent) -> PreviewEvent:
        """A picture without a name belongs to the node that runs; maybe it is an output."""
        if event.prompt_id is None and self._running is not None:
            job, node = self._running
            event = attrs.evolve(event, prompt_id=job.prompt_id, node_id=node)
        owner = self._jobs.get(event.prompt_id or "")
        if owner is not None and event.node_id is not None:
            real = event.real_node_id or event.node_id
            if class_of(owner.graph, real) == "SaveImageWebsocket":
                event = attrs.evolve(event, final=True)
        return event

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
            self._running = (job, event.node)
        elif isinstance(event, Progress):
            job._steps += 1
            if event.node is not None:
                self._running = (job, event.node)
        elif isinstance(event, Executed):
            if event.node is not None:
                job._reported.add(event.node)
                if event.output is not None:
                    job._outputs[event.node] = event.output
        elif isinstance(event, PreviewEvent):
            if event.name == "b_preview":
                job._previews += 1
                if event.final:
                    job._frames.append((event.node_id or "", event.mime, event.view))
        elif isinstance(event, EndEvent) and _is_end(event):
            error = _error(job, event)
            if error is not None:
                return error
            if self._saw_it_all(job):
                return self._result(job, job._outputs)
            job._awaits_history = time.monotonic()
        return None

    def _after_the_end(self, job: Job) -> Outcome | None:
        """``executing`` without a node: it is over, and history has it."""
        if job._awaits_history is None and not job._told and self._saw_it_all(job):
            # Before July 2024 this is the only word of a success.
            return self._result(job, job._outputs)
        if job._awaits_history is None:
            job._awaits_history = time.monotonic()
        self._hurry(job)
        return None

    def _saw_it_all(self, job: Job) -> bool:
        """Whether events alone may decide: one socket, no gap, and every output known."""
        connection = self._api()._connection
        whole = connection.state is State.CONNECTED and connection.generation == job._generation
        if not whole or not job._started or job._cached is None:
            return False
        # Servers of early 2024 send no ``executed`` for cached nodes.
        return not job._cached or not (job._cached & sinks(job.graph)) - job._reported

    # -- over HTTP, in the thread that watches -------------------------------------------

    def hurry(self) -> None:
        """Ask about all jobs now: the socket came, or went."""
        with self._lock:
            for job in self._jobs.values():
                job._interval = POLL_FIRST
                self._hurry(job)

    def _hurry(self, job: Job) -> None:
        if job._accepted:
            job._check_at = 0.0
            self._wake.set()

    def _start(self) -> None:
        """With the lock held."""
        if self._thread is None and not self._stopped.is_set():
            # Daemon: a script may end while prompts run.
            self._thread = threading.Thread(
                target=_watch,
                args=(weakref.ref(self), self._wake, self._stopped),
                name="comfy-jobs",
                daemon=True,
            )
            self._thread.start()

    def tick(self) -> float | None:
        """Do what is due; seconds until something may be again, ``None`` to end the thread."""
        now = time.monotonic()
        with self._lock:
            jobs = [job for job in self._jobs.values() if job._accepted]
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
            times = [job._check_at for job in self._jobs.values() if job._accepted]
        return min(SILENCE, max(0.01, min(times, default=now + SILENCE) - time.monotonic()))

    def _check_hearing(self, api: ComfyApi, jobs: list[Job], now: float) -> None:
        """A socket on which our own submission did not show is deaf: dial again."""
        if api._connection.state is not State.CONNECTED or now - self._redialled_at < 60.0:
            return
        for job in jobs:
            mine = job._generation == api._connection.generation
            if mine and now - job._posted_at > DEAF and api._status_at < job._posted_at:
                log.warning("the socket is open but deaf; dialling again")
                self._redialled_at = now
                api._connection.redial("it was open, but the server sent nothing on it")
                return

    def _ask(self, api: ComfyApi, due: list[Job]) -> None:
        try:
            queue = None
            if any(job._awaits_history is None for job in due):
                queue = api.get_queue()
            for job in due:
                waits = queue is not None and job._awaits_history is None and _in(queue, job)
                self._learn(job, None if waits else api.get_history(job.prompt_id), waits=waits)
            self._pause, self._refusals = 0.0, 0
        except ClientClosed:
            return
        except ComfyError as exc:
            self._put_off(api, due, exc)

    def _learn(self, job: Job, entry: HistoryEntry | None, *, waits: bool) -> None:
        """What queue and history say about one job."""
        now = time.monotonic()
        outcome: Outcome | None = None
        event: EndEvent | None = None
        connected = self._api()._connection.state is State.CONNECTED
        with self._lock:
            if job._decided:
                return
            least, longest = (SILENCE, LONGEST) if connected else (POLL_FIRST, POLL_LONGEST)
            job._interval = min(longest, max(least, job._interval * 1.6))
            job._check_at = now + job._interval
            if waits:
                job._missed_at = None
            elif entry is not None:
                event, outcome = self._from_history(job, entry)
            elif job._awaits_history is not None:
                if now - job._awaits_history < HISTORY_GRACE:
                    job._check_at = now + POLL_FIRST
                elif job._told:
                    outcome = self._result(job, job._outputs, complete=False)
                else:
                    job._awaits_history = None
                    job._check_at = now
            elif job._missed_at is None:
                job._missed_at = now
                job._check_at = now + LOST_APART
            elif now - job._missed_at >= LOST_APART:
                event, outcome = _lost(job)
            else:
                job._check_at = job._missed_at + LOST_APART
            if outcome is None:
                return
            if job._told or event is None:
                event = None
            else:
                job._told = True
                self._recovered.append(job.prompt_id)
                self._tap(job, event)
            settle = self._decide(job, outcome)
        if event is not None:
            self._publish(event)
        settle()

    def _from_history(self, job: Job, entry: HistoryEntry) -> tuple[EndEvent, Outcome]:
        said: Mapping[str, Any]
        if entry.interrupted or entry.execution_error is not None:
            said = dict(entry.messages[-1][1]) if entry.messages else {}
            said = {**(entry.execution_error or said), "prompt_id": job.prompt_id}
            event: EndEvent = (
                execution_interrupted(said, recovered=True)
                if entry.interrupted
                else execution_error(said, recovered=True)
            )
            return event, _error(job, event) or JobError("", prompt_id=job.prompt_id)
        if not entry.succeeded:
            event = execution_error({"prompt_id": job.prompt_id}, recovered=True)
            return event, _error(job, event) or JobError("", prompt_id=job.prompt_id)
        if job._cached is None:
            job._cached = frozenset(entry.cached_nodes)
        # History is the sure source; what only events told is kept beside it.
        return _success(job, recovered=True), self._result(job, {**job._outputs, **entry.outputs})

    def _put_off(self, api: ComfyApi, due: list[Job], exc: ComfyError) -> None:
        """HTTP fails: ask again later, and later still; give up only where it is refused."""
        self._pause = min(LONGEST, max(0.5, self._pause * 2.0))
        until = time.monotonic() + self._pause * random.uniform(0.7, 1.0)  # noqa: S311
        log.debug("asking about %d jobs failed: %s", len(due), exc)
        refused = isinstance(exc, AuthenticationError | UnexpectedResponse)
        self._refusals = self._refusals + 1 if refused else 0
        settle = []
        with self._lock:
            for job in due:
                job._check_at = max(job._check_at, until)
            if self._refusals >= REFUSALS and api._connection.state is not State.CONNECTED:
                settle = [self._decide(job, exc) for job in due if not job._decided]
        for call in settle:
            call()

    # -- verdicts ------------------------------------------------------------------------

    def _result(
        self, job: Job, outputs: Mapping[str, Mapping[str, Any]], *, complete: bool = True
    ) -> Result:
        if job._wants_previews and job._steps > 1 and not job._previews and not self._hinted:
            self._hint()
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

    def _hint(self) -> None:
        self._hinted = True
        log.warning(
            "someone listens to previews, but the server sends none: start ComfyUI with "
            "--preview-method auto (servers from 0.8 on are asked for them by this library)"
        )

    def _decide(self, job: Job, outcome: Outcome) -> Callable[[], None]:
        """Once per job, with the lock held; what is returned is called without it."""
        if job._decided:
            return lambda: None
        job._decided = True
        self._jobs.pop(job.prompt_id, None)
        if self._running is not None and self._running[0] is job:
            self._running = None

        def settle() -> None:
            if isinstance(outcome, Result):
                job.set_result(outcome)
            else:
                job.set_exception(outcome)

        if not job._has_callbacks:
            return settle
        # Somebody's code will run: not in the socket's thread.
        return threading.Thread(target=settle, name="comfy-callbacks", daemon=True).start

    def close(self) -> None:
        """No verdict will come any more: all waits end in :class:`ClientClosed`."""
        self._stopped.set()
        self._wake.set()
        with self._lock:
            settle = [self._decide(job, ClientClosed()) for job in list(self._jobs.values())]
        for call in settle:
            call()

    def shutdown(self) -> Callable[[], None]:
        """What ends the thread, without keeping a hold on this object."""
        stopped, wake = self._stopped, self._wake

        def stop() -> None:
            stopped.set()
            wake.set()

        return stop

    def orphan(self) -> None:
        """In the child of a fork: these jobs are the parent's; no wait for them may hang."""
        for job in list(self._jobs.values()):
            # Its lock may have been held when the process was copied: begin anew.
            Future.__init__(job)
            job.set_running_or_notify_cancel()
            job.set_exception(ClientClosed("the job belongs to the process that was forked"))


def _watch(owner: weakref.ref[Jobs], wake: threading.Event, stopped: threading.Event) -> None:
    """The thread that asks over HTTP.  It holds the jobs only while it works."""
    while not stopped.is_set():
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
        wake.wait(delay)
        wake.clear()


def _in(queue: Queue, job: Job) -> bool:
    return job.prompt_id in queue


def _find(api: ComfyApi, prompt_id: str) -> str | None:
    """The id under which a server has our prompt: ours, or its own with our mark."""
    queue = api.get_queue()
    for item in (*queue.running, *queue.pending):
        if prompt_id in (item.prompt_id, item.extra_data.get(MARK)):
            return item.prompt_id
    if api.get_history(prompt_id) is not None:
        return prompt_id
    for found, entry in api.get_histories(max_items=64).items():
        if entry.extra_data.get(MARK) == prompt_id:
            return found
    return None


def _success(job: Job, *, recovered: bool = False) -> ExecutionSuccess:
    return execution_success({"prompt_id": job.prompt_id}, recovered=recovered)


def _lost(job: Job) -> tuple[EndEvent, JobLost]:
    reason = "in no queue and no history: the server was restarted, or the prompt was deleted"
    event = JobLostEvent(name="job_lost", prompt_id=job.prompt_id, reason=reason, recovered=True)
    return event, JobLost(f"prompt {job.prompt_id} is {reason}", prompt_id=job.prompt_id)


def _error(job: Job, event: EndEvent) -> JobError | None:
    """The exception for an end event; ``None`` for a success."""
    if isinstance(event, ExecutionInterrupted):
        where = f" at {describe(job.graph, event.node_id)}" if event.node_id else ""
        return JobInterrupted(
            f"prompt {job.prompt_id} was interrupted{where}",
            prompt_id=job.prompt_id,
            node_id=event.node_id,
        )
    if not isinstance(event, ExecutionError):
        return None
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
