"""The job of a prompt: a future of its result.  Its ``handle`` does the work.

Callbacks of the prompt are called in the thread that waits for the job, or in the delivery thread.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs

from .. import runtime
from ..attributes import KnownAttributes
from ..errors import ClientClosed, ComfyError
from ..events import (
    Event,
    Executed,
    ExecutionError,
    ExecutionStart,
    ExecutionSuccess,
    PreviewEvent,
    Progress,
)
from ..locks import share
from ..log_records import Tag
from ..showing.screen import Surface, surface
from ..signals import Receivers, call_in_thread, call_safely, is_callback
from ..transport.deadline import limited_silence
from ..values import MAX_ID_LENGTH, is_real
from ..workflow.graph import shorten
from .handle import JobHandle, Limits, first_end
from .outcomes import JobStatus
from .prompt import Ending, Waiter
from .result import NodeOutput, Result, output_of
from .wait_bars import go_on_drawing, surface_of, watched

if TYPE_CHECKING:
    from .describe import JobProgress

#: The share of the time for a cancel after which a silent server is given up, so that its silence
#: is known when the time is up.
_SHARE_FOR_SILENCE: Final = 0.9
#: On Ctrl-C during a wait, let the prompt run, or cancel it.
OnInterrupt = Literal["leave", "cancel"]


class Job(KnownAttributes, Future[Result]):
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

    Attributes:
        handle: The inside of the job, for the library itself; it may change at any time.
    """

    handle: JobHandle
    _callbacks: list[Callable[[Future[Result]], object]]

    def __init__(self, handle: JobHandle) -> None:
        vars(self)["handle"] = handle
        prompt = handle.source.prompt
        prompt.waiters.append(Waiter(self, self._end))
        prompt.on_fork.append(self._after_fork)
        self._begin()

    def _begin(self) -> None:
        """Reset the future, as in the child of a fork, where locks may stay held."""
        future: Future[Result] = Future()
        future.set_running_or_notify_cancel()
        vars(self).update(vars(future))  # a job begins often, and ``__setattr__`` takes its time
        share(self._condition)
        # Needs no lock: whoever takes a callback out of the list, which is one step, calls it.
        vars(self)["_callbacks"] = []

    def _after_fork(self) -> None:
        """End the job, and all waits for it, in the child of a fork."""
        self._begin()
        self.handle.begin()
        self.set_exception(ClientClosed("the job belongs to the parent process"))

    @property
    def prompt_id(self) -> str:
        """The id of the prompt on the server."""
        return self.handle.state.prompt_id

    @property
    def graph(self) -> Mapping[str, Any]:
        """The submitted graph in API format; empty until the server has sent it."""
        return self.handle.state.graph

    @property
    def tags(self) -> Mapping[str, Tag]:
        """A copy of the ``tags`` given to :meth:`ComfyApi.submit`; empty if there were none."""
        return {**self.handle.state.tags}

    @property
    def node_errors(self) -> Mapping[str, Any]:
        """The reasons why some outputs do not run, by node id; empty: all run."""
        return self.handle.state.node_errors

    # -- its end -------------------------------------------------------------------------

    def result(
        self,
        timeout: float | None = None,
        *,
        stall_timeout: float | None = None,
        on_interrupt: OnInterrupt = "leave",
        progress: bool | None = None,
    ) -> Result:
        """Wait for the job to end, and return its outputs.

        Args:
            timeout: Seconds; ``None``: no limit; 0: do not wait.
            stall_timeout: Seconds without any news (an event of the prompt, or a change of its
                place in the queue); ``None``: no limit.  Loading a model, or another client's
                long prompt before it, can be minutes without news.
            on_interrupt: On Ctrl-C, let the prompt run (``"leave"``), or cancel it
                (``"cancel"``, 5 seconds at most).
            progress: Whether to show the progress: in a notebook a bar, the preview, and at the
                end the outputs; in a terminal a bar (extra ``[progress]``), else a line for each
                10 %, both on stderr.  ``None``: a notebook and a terminal with tqdm show it, in
                the main thread, unless ``timeout`` is at most 10 seconds, another wait shows a bar
                already, or ``COMFY_PROGRESS`` is 0 in the environment; 1 adds the lines.  A job
                that has ended shows nothing.

        Raises:
            JobFailed: A node raised an exception, which the error describes.
            JobInterrupted: Someone stopped the prompt.
            JobLost: The server does not know the prompt any more.
            JobTimeout: Time ran out, or no news came.  The prompt keeps running: call again, or
                attach to it later by ``api.job(job.prompt_id)``.
        """
        limits = Limits(timeout, stall_timeout)
        wait = partial(self.handle.outcome, limits)
        with cancelling(on_interrupt, self):
            screen: Surface = "none" if self.handle.is_done else surface_of(progress, timeout)
            return watched(self.handle, limits, screen, wait, on_interrupt=on_interrupt)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the job to end, and return its error; ``None`` if it succeeded.

        Raises:
            JobTimeout: It has not ended within ``timeout`` seconds; it keeps running.
        """
        self.handle.wait(Limits(timeout))
        return self.handle.error

    def done(self) -> bool:
        """Return whether the job has ended and its result or error is known."""
        return self.handle.is_done  # without a lock, which an alarm could leave held

    def cancel(self, *, force: bool = False) -> bool:
        """Stop this prompt and no other; return False if it has ended already.

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
        return self.handle.cancel(force=force)

    def add_done_callback(self, fn: Callable[[Future[Result]], object]) -> None:
        """Call ``fn(job)`` in another thread when the job ends, or right here if it has ended."""
        call = partial(fn)  # equal to no other, so that only this one is taken out below
        self._callbacks.append(call)
        if self.done():
            with contextlib.suppress(ValueError):  # the thread of callbacks took it
                self._callbacks.remove(call)
                super().add_done_callback(call)  # the future is done, so this calls it

    def set_result(self, result: Result) -> None:
        """End the job with a result; only the client calls this."""
        self._end(Ending.of(result))

    def set_exception(self, exception: BaseException | None) -> None:
        """End the job with an error; only the client calls this."""
        self._end(Ending.of(exception or ComfyError("the job failed")))

    def _end(self, ending: Ending) -> None:
        is_success = ending.status == "succeeded"
        finish: Callable[[Any], None] = super().set_result if is_success else super().set_exception
        with contextlib.suppress(RuntimeError):  # Ctrl-C in a ``wait`` may have released its lock
            finish(None)  # the handle has the result or the error
        self.handle.record_end(ending)
        if self._callbacks:
            call_in_thread(self._call_back)

    def _call_back(self) -> None:
        with contextlib.suppress(IndexError):  # all are taken
            while True:
                fn = self._callbacks.pop(0)
                super().add_done_callback(fn)  # the future is done, so this calls it

    # -- its events ----------------------------------------------------------------------

    def events(self) -> Iterator[Event]:
        """Yield the events of the prompt as they arrive; the last one is the end event.

        The first call starts with the submission; only the newest progress and preview of each
        node are kept for it.  Further calls start with the next event, and after the end yield
        only the end event.  A preview is yielded once, as ``b_preview``.  Exactly one event has
        ``is_end``.  A failure of the job is not raised here: see :meth:`result`.
        """
        return self.handle.follow(Limits())

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
        return self.handle.status

    @property
    def queue_position(self) -> int | None:
        """The maximum number of prompts ahead of this one, including the running one.

        0: it is running, or next.  ``None``: unknown, or it has ended.  The socket reports the
        number of all prompts; occasional requests for the queue show which ones are before it.
        """
        return self.handle.queue_position

    @property
    def progress(self) -> JobProgress:
        """The progress of the prompt; without a socket, only what the queue shows."""
        return self.handle.progress

    def why(self) -> str:
        """Return one sentence on what the job is waiting for, or how it ended.

        ``pending, 3 ahead; running: KSampler 12/20; last news 2.1 s ago by socket, reconnected
        once``.
        """
        return self.handle.why()

    def to_dict(self) -> dict[str, Any]:
        """Return the current state as JSON values, with the result or error after the end.

        ``prompt_id``, ``status``, ``why``, ``queue_position``, ``progress``, ``node_errors``,
        ``result`` and ``error``, as the guide (``json.rst``) says.  Sends no request.
        """
        from .describe import JobSnapshot

        return JobSnapshot(
            prompt_id=self.prompt_id,
            status=self.status,
            why=self.why(),
            queue_position=self.queue_position,
            progress=self.progress,
            node_errors=self.node_errors,
            result=self.handle.result,
            error=self.handle.error,
        ).to_dict()

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a job cannot be pickled: pass its prompt_id, and call api.job(prompt_id)")

    def __repr__(self) -> str:
        where = self.handle.place()
        return f"<Job {shorten(self.prompt_id, MAX_ID_LENGTH)} {self.status}{where}>"

    def _ipython_display_(self) -> None:
        """Display a job that has not ended, and keep the display up to date until it ends."""
        from ..showing.cells import has_space, note_shown, was_shown

        shows = not self.done() and surface(None) == "notebook" and has_space()
        if not shows or was_shown(self):
            raise NotImplementedError  # IPython asks for the forms below
        note_shown(self)
        go_on_drawing(self.handle)

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        """Return the representations of the job for a notebook, by MIME type."""
        from ..showing.cells import shown

        return shown(self, lambda: _markup(self))


def _markup(job: Job) -> str:
    """Return the outputs of a job that has succeeded, else its progress, as HTML."""
    from ..showing.html import escape, meter, remark

    status = job.status
    if status == "succeeded":
        return job.result(0).gallery() + remark(f"prompt {job.prompt_id}")
    mood = "" if status in ("waiting", "pending", "running", "unknown") else "bad"
    mood = "over" if status == "unknown" and job.done() else mood  # nobody waits any more
    bar = meter(job.progress.fraction, mood)
    return f"{bar}<div>{escape(job.why(), 300)}</div>{remark(f'prompt {job.prompt_id}')}"


def wait_for_one(jobs: Iterable[Job], seconds: float) -> bool:
    """Wait up to ``seconds`` until a job has ended; return whether one has."""
    return first_end([job.handle for job in jobs], seconds)


@contextlib.contextmanager
def cancelling(on_interrupt: OnInterrupt, *jobs: Job) -> Iterator[list[Job]]:
    """Context manager: on Ctrl-C, cancel the jobs in the yielded list, or let them run."""
    if on_interrupt not in ("leave", "cancel"):
        raise ValueError(f"on_interrupt must be 'leave' or 'cancel', not {on_interrupt!r}")
    begun = list(jobs)
    try:
        yield begun
    except KeyboardInterrupt:
        for job in begun:
            if on_interrupt == "leave" and job.handle.state.posted_at and not job.done():
                job.handle.warn_that_it_runs()
        if on_interrupt == "cancel" and begun:
            cancel_in_time(begun)
        raise


def cancel_in_time(jobs: Sequence[Job]) -> list[bool]:
    """Cancel jobs; return the results of the ``cancel()`` calls that succeeded in time.

    A thread calls them, so that Ctrl-C does not wait for a server that is gone.
    """
    said: list[bool] = []
    is_left = runtime.Event()
    seconds = jobs[0].handle.timing.cancel_timeout

    def cancel() -> None:
        for job in jobs:
            try:
                with limited_silence(_SHARE_FOR_SILENCE * seconds):
                    said.append(job.cancel())
            except ComfyError as exc:
                if is_left.is_set():  # the caller has gone on, and may have closed the client
                    return
                job.handle.poller.tracker.log.warning(
                    "prompt %s could not be cancelled and may keep running: %s",
                    job.prompt_id,
                    exc,
                    extra=job.handle.state.named,
                )

    thread = runtime.Thread(target=cancel, name="comfy-cancel", daemon=True)
    try:
        thread.start()
        thread.join(seconds)
    except KeyboardInterrupt:
        is_left.set()
        raise
    return said


#: Seconds between two checks of the place in the queue, which no event of a prompt reports.
_QUEUE_PAUSE: Final = 0.25
#: Seconds after which the place is computed again, although nothing seems to have changed.
_RECOUNT_AFTER: Final = 2.0

#: Calls a callback with its arguments, and handles its exceptions in some way.
Call = Callable[..., object]


@attrs.frozen(repr=False)
class Callbacks:
    """The callbacks for a prompt: see :meth:`ComfyApi.submit`."""

    on_event: Callable[[Any], object] | None = None
    on_progress: Callable[[Progress], object] | None = None
    on_preview: Callable[[PreviewEvent], object] | None = None
    on_start: Callable[[Job], object] | None = None
    on_output: Callable[[str, NodeOutput], object] | None = None
    on_queue: Callable[[int], object] | None = None
    every: float | None = None

    def __attrs_post_init__(self) -> None:
        of_events = self.on_event, self.on_progress, self.on_preview
        for callback in (*of_events, self.on_start, self.on_queue):
            if callback is not None and not is_callback(callback, 1):
                what = f"a plain function of one value, not {callback!r:.200}"
                raise TypeError(f"a callback must be {what}")
        if self.on_output is not None and not is_callback(self.on_output, 2):
            what = f"a plain function of a node id and its outputs, not {self.on_output!r:.200}"
            raise TypeError(f"on_output must be {what}")
        every: object = self.every
        if every is not None and (isinstance(every, bool) or not is_real(every)):
            raise TypeError(f"every must be a number of seconds, or None: {every!r:.80}")
        if self.every is not None and not self.every >= 0:
            raise ValueError("every must be 0 or more seconds")

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
        pause = _QUEUE_PAUSE if self._awaits_start else math.inf
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
            if news is None or (news == seen and now < at + _RECOUNT_AFTER):
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
