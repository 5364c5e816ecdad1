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

import contextlib
import copy
import logging
import random
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Unpack

import attrs

from .. import models
from ..budget import LEAST, Newest
from ..errors import (
    ApiError,
    AuthenticationError,
    ClientClosed,
    ComfyError,
    NotSupported,
    ServerUnreachable,
    UnexpectedResponse,
)
from ..events import (
    ConnectionEvent,
    EndEvent,
    ErrorEvent,
    Event,
    Executed,
    Executing,
    ExecutionCached,
    ExecutionError,
    ExecutionInterrupted,
    ExecutionStart,
    JobEvent,
    JobLostEvent,
    PreviewEvent,
    Progress,
    ProgressState,
    ProgressText,
    StatusEvent,
    UnknownEvent,
    body_of,
)
from ..models.queue import prompt_record
from ..routes.prompts import AnyWorkflow, PromptOptions
from ..threads import in_full, was_started
from ..transport.deadline import read_timeout
from ..transport.failures import is_away
from ..transport.http import segment
from ..transport.websocket import State
from ..workflow import class_of, sinks
from ..workflow.graph import origin, seeds_of
from .job import Job, Known, Outcome
from .outcomes import (
    SENDER,
    deleted,
    error_of,
    failure,
    lost,
    sends_pictures,
    success,
    too_large,
    with_finality,
)
from .progress import NodeTimes
from .queue_monitor import PATIENCE, Lookout, Standing, find, spellings
from .result import Result, make_result
from .submit import LOOK_UP, post, prepare, stop, time_left, warn_or_refuse

if TYPE_CHECKING:
    from ..client import ComfyApi
    from ..recording.secrets import Secrets

log: logging.Logger = logging.getLogger("comfy_client")

#: Names under which pictures come of what is being made.
PREVIEWS: Final = ("b_preview", "b_preview_with_metadata")

#: Seconds without news of a job after which HTTP is asked, and the most between questions,
#: one of which may have to be asked again (see PATIENCE): 15 in all.
SILENCE: Final = 5.0
LONGEST: Final = 10.0
#: The same while there is no socket.
POLL_FIRST: Final = 0.05
POLL_LONGEST: Final = 2.0
#: Seconds that history may take to show what an event has announced.
HISTORY_GRACE: Final = 3.0
#: Seconds between the two looks that make a job lost.
LOST_APART: Final = 2.0
#: Seconds that pictures may come later than the history that knows of their end.
LATEST: Final = 600.0
#: Seconds in which our own submission must show as a ``status`` on a socket that is not deaf.
DEAF: Final = 3.0
#: Seconds between two dials for that reason.
HEARING: Final = 60.0
#: Seconds until the next question when one has failed; doubles up to LONGEST.
PAUSE: Final = 0.5
#: Refusals in a row after which what is known has to do: login page, 401; other errors.
REFUSALS: Final = 3
STUMBLES: Final = 8
#: Seconds between two looks for the reason that the socket came or went.
BETWEEN: Final = 1.0
#: Prompts whose end is remembered as told, of late: so many, and so many bytes of these ends.
REMEMBERED: Final = 1000
REMEMBERED_BYTES: Final = 32 << 20
#: Events that are kept while a submission is not answered, as they may be of that prompt: so
#: many, and an eighth of the bytes that there are for all others.
ORPHANS: Final = 1000
#: Bytes of an event that make no difference, where one only is kept.
SMALL_EVENT: Final = 1 << 14
#: Seconds after the end event in which the server writes its record.
RECORDED: Final = 1.0
#: Seconds between looks at the queue for a job whose start its socket has told.
FOLLOWED: Final = 60.0
#: Jobs that have not ended, in the order of the queue, behind which none has: one may have been
#: put before others.
AHEAD: Final = 4
#: Seconds that a submission waits for the socket.
SETTLE: Final = 5.0
#: Seconds after which the thread ends when there are no jobs.
LINGER: Final = 10.0


class _Bell:
    """Wakes the thread that asks.

    Re-entrant, as no ``Event`` is: the finalizer of a forgotten client rings it in whichever
    thread, at whichever moment.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # guards both; taken itself, as in EventQueue
        self._changed = threading.Condition(self._lock)
        self._rung = False
        self.stopped = False

    def ring(self, *, stop: bool = False) -> None:
        with self._lock:
            self._rung = True
            self.stopped = self.stopped or stop
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        with self._lock:
            self._changed.wait_for(lambda: self._rung, seconds)
            self._rung = False

    def wait_stopped(self, seconds: float) -> bool:
        with self._lock:
            return self._changed.wait_for(lambda: self.stopped, seconds)


@attrs.define
class _Ending:
    """How one of our prompts ended, as far as that was told."""

    event: EndEvent
    job: weakref.ref[Job]  # kept by its user, or not at all: a result may be large
    has_record: bool  # or none will be written, as of a prompt that was lost
    is_final: bool  # or the server merely refuses to tell, and may be asked again
    due: float  # until when the record may not be written yet


class Jobs:
    """All outstanding jobs of one client.  The client owns it; its thread holds it weakly."""

    def __init__(self, api: ComfyApi) -> None:
        self._owner = weakref.ref(api)
        self._publish = api._receivers.publish
        self._budget = api._budget
        api._receivers.ours[:] = [weakref.WeakMethod(self.is_ours)]
        # Guards this object and what is known of its jobs.  Re-entrant: the collector may end
        # a forgotten iterator of map() in here, which takes its jobs back.
        self._lock = threading.RLock()
        self._jobs: dict[str, Job] = {}
        # Prompts whose end was told, of late: whoever tells it again, a late socket or a job
        # that takes the same prompt up, is not heard twice, and cannot take it back.
        self._ended: Newest[_Ending] = Newest(REMEMBERED, REMEMBERED_BYTES)
        self._renamed: Newest[str] = Newest(
            REMEMBERED, REMEMBERED_BYTES
        )  # the server's ids of late, by ours
        # In whose name they were posted of late: a client_id may be renewed.
        self._posted_as: Newest[str] = Newest(REMEMBERED, REMEMBERED_BYTES)
        self._posting: set[Job] = set()  # submissions without an answer yet
        # Maybe of one of these.
        self._orphans: Newest[JobEvent] = Newest(ORPHANS, self._budget.most // 2)
        self._elsewhere = 0  # jobs whose events may go to another client
        self._running: tuple[str, str] | None = None  # prompt and node that were named last
        self._thread: threading.Thread | None = None
        self._bell = _Bell()
        self._idle_since = 0.0
        self._pause = 0.0  # between questions while HTTP fails ...
        self._hold = 0.0  # ... which none comes before
        self.trouble: ComfyError | None = None  #: Why it fails.
        self.times: NodeTimes = NodeTimes()  #: Of the nodes of prompts that this client followed.
        self.lookout = Lookout()
        # Between these moments the queue changed, says HTTP; on this socket it is yet to show.
        self._unheard: tuple[float, float] | None = None
        self._cancels_jobs = True  # until the server says that it cannot
        self._redialled_at = float("-inf")
        self._received_at = float("-inf")  # when a message was seen on its way
        self._hinted = False

    def _api(self) -> ComfyApi:
        api = self._owner()
        if api is None:
            raise ClientClosed
        return api

    def is_ours(self, prompt_id: str | None) -> bool:
        """Whether a prompt is, or was of late, one of this client, or may turn out to be."""
        return prompt_id in self._jobs or prompt_id in self._ended or bool(self._posting)

    @property
    def outstanding(self) -> tuple[Job, ...]:
        """Jobs without a verdict."""
        with self._lock:
            return tuple(self._jobs.values())

    def running(self, but: Job) -> Job | None:
        """Another job of this client that runs now."""
        for job in self.outstanding:
            if job is not but and job._known.running_since is not None:
                return job
        return None

    def around(self, job: Job) -> tuple[int, int]:
        """How many of this client are before one that waits, and how many behind it."""
        number = job._known.number
        if number is None:
            return 0, 0
        # What runs is before it, though its number be higher than that of one at the front.
        others = [
            float("-inf") if other._known.running_since is not None else other._known.number
            for other in self.outstanding
        ]
        numbers = [other for other in others if other is not None]
        return sum(other < number for other in numbers), sum(other > number for other in numbers)

    # -- submitting ----------------------------------------------------------------------

    def submit(
        self,
        workflow: AnyWorkflow,
        *,
        prompt_id: str | None = None,
        tapped: bool = False,
        wants_previews: bool = False,
        deadline: float | None = None,
        strict: bool = False,
        resubmit: bool = False,
        begun: Callable[[Job], object] | None = None,
        **options: Unpack[PromptOptions],
    ) -> Job:
        """Socket first, then the waiter, then the POST; the caller's deadline bounds each."""
        api = self._api()
        try:
            job, body = prepare(
                api,
                workflow,
                prompt_id,
                wants_previews or api._receivers.listens(*PREVIEWS),
                options,
                strict=strict,
            )
            if tapped:
                job._tap_all()
            if begun is not None:
                begun(job)
            self._send(api, job, body, deadline, resubmit=resubmit)
            if job.node_errors:
                warn_or_refuse(job, job._api._http.identity.hide, strict=strict)
        except ComfyError as exc:
            self._publish(ErrorEvent(name="queue_error", error=exc))
            raise
        return job

    def _send(
        self,
        api: ComfyApi,
        job: Job,
        body: Mapping[str, Any],
        deadline: float | None,
        *,
        resubmit: bool,
    ) -> None:
        connection = api._connection
        api._connection.start()
        connection.wait_settled(time_left(deadline, SETTLE), first_verdict=True)
        # It may have a fresh one by now, as the socket was refused; events go to whom this names.
        known = job._known
        known.client_id = api.client_id
        body = {**body, "client_id": known.client_id}
        try:
            with self._lock:
                if self._bell.stopped:
                    raise ClientClosed
                if job.prompt_id in self._jobs:
                    raise ValueError(f"prompt {job.prompt_id} is outstanding already")
                self._jobs[job.prompt_id] = job
                self._ended.pop(job.prompt_id)  # what ended was another by this id
                self._renamed.pop(job.prompt_id)
                self._posting.add(job)
                self._posted_as.put(job.prompt_id, known.client_id)
                if connection.state is State.CONNECTED:
                    known.generation = connection.generation
                known.posted_at = time.monotonic()
            receipt = post(api, job, body, deadline, resubmit=resubmit, pause=self.pause)
            self._accept(job, receipt)
        except (ComfyError, ValueError) as exc:
            with self._lock:
                if self._jobs.get(job.prompt_id) is job:
                    del self._jobs[job.prompt_id]
                    self._elsewhere -= known.is_elsewhere
            if not job.done():
                # Another thread may have taken it up.  A copy: a job keeps no frames.
                job._settle(known.early or copy.copy(exc))
            raise
        except BaseException:  # Ctrl-C, an alarm: it may be there, and others may wait for it
            with self._lock:
                known.accepted_at = time.monotonic()
                known.lost_apart, known.seek_mark = LOOK_UP, True
                known.generation = None  # that nothing shows on the socket, tells nothing
                self._hurry(job)
                self._start()
            if known.early is not None and not job.done():
                job._settle(known.early)
            raise
        finally:
            with self._lock:
                self._posting.discard(job)
                if not self._posting:
                    self._orphans.clear()
        if connection.state is not State.CONNECTED:
            connection.nudge()

    def _accept(self, job: Job, receipt: models.QueuedPrompt) -> None:
        """The server has it, maybe under an id of its own."""
        todo: list[Callable[[], None]] = []
        known = job._known
        with self._lock:
            job.node_errors = {**job.node_errors, **receipt.node_errors}
            known.accepted_at = time.monotonic()
            known.number = receipt.number
            if receipt.prompt_id != job.prompt_id:
                # Somebody may have seen it in the queue, and taken it up.
                other = self._jobs.get(receipt.prompt_id)
                self._rename(job, receipt.prompt_id)
                if self._orphans.forgotten:
                    known.generation = None  # some are gone: events alone may not decide
                for event in self._orphans.values():  # receivers had these already
                    if event.prompt_id == job.prompt_id:
                        todo += self._tell(job, with_finality(event, job.graph))
                if other is not None:
                    self._elsewhere -= other._known.is_elsewhere
                    other._join(job)
            if known.early is not None:
                todo.append(self._settling(job, known.early))
            connected = self._api()._connection.state is State.CONNECTED
            known.interval = SILENCE if connected else POLL_FIRST
            known.check_at = min(known.check_at, known.accepted_at + known.interval)
            if known.awaits_history:
                self._hurry(job)
            elif not connected:
                self._bell.ring()  # the thread may sleep for much longer
            self._start()
        in_full(todo)

    def _rename(self, job: Job, prompt_id: str) -> None:
        self._jobs.pop(job.prompt_id, None)
        self._renamed.put(job.prompt_id, prompt_id)
        job.prompt_id = prompt_id
        if job._known.decided:
            self._jobs.pop(prompt_id, None)  # whoever has taken it up, ends with it
        else:
            self._jobs[prompt_id] = job

    # -- taking up -----------------------------------------------------------------------

    def take_up(
        self, prompt_id: str, graph: Mapping[str, Any], *, lost_apart: float | None = None
    ) -> Job:
        """A job for a prompt that somebody submitted, maybe in another process.

        Of one that ended here of late, the same job if anybody has it yet; else what was told
        of its end stands, and only the outputs are asked for.
        """
        api = self._api()
        if not isinstance(prompt_id, str):
            raise TypeError(f"a job is taken up by its prompt_id, a text, not {prompt_id!r:.80}")
        segment(prompt_id)
        api._connection.start()
        with self._lock:
            if self._bell.stopped:
                raise ClientClosed
            prompt_id, *others = spellings(prompt_id)
            ids = [self._renamed.get(one) or one for one in (prompt_id, *others)]
            for one in ids:
                job = self._jobs.get(one) or self._ended_job(one)
                if job is not None:
                    return job
            ending = next(filter(None, map(self._ended.get, ids)), None)
            told = None if ending is None or not ending.is_final else ending.event
            prompt_id = prompt_id if told is None else told.prompt_id or prompt_id
            job = Job(api, prompt_id, graph)
            known = job._known
            known.client_id = self._posted_as.get(prompt_id) or api.client_id
            known.is_elsewhere = known.seek_mark = True
            known.accepted_at = known.posted_at = time.monotonic()
            known.interval = POLL_FIRST
            known.lost_apart = lost_apart
            self._elsewhere += 1
            self._jobs[prompt_id] = job
            if told is not None:
                known.told, known.seek_mark = told, False
                job._hear(told)
                known.awaits_history = True
            settle = _nothing
            if ending is not None and ending.is_final and not ending.has_record:
                settle = self._decide(job, self._as_told(job))
            else:
                self._start()
                self._hold = 0.0  # somebody waits for a fresh look
                self._hurry(job)
        settle()

        def is_found() -> bool:
            known = job._known  # of another, if they have turned out to be the same
            return known.looked or not known.is_elsewhere or job.done()

        self._let(is_found, PATIENCE)
        return job

    def _ended_job(self, prompt_id: str) -> Job | None:
        """The job of a prompt that has ended here of late, if anybody keeps it."""
        ending = self._ended.get(prompt_id)
        return None if ending is None or not ending.is_final else ending.job()

    def awaits_record(self, prompt_id: str) -> bool:
        """Whether a prompt is known to have ended a moment ago, and its record may be to come."""
        if threading.current_thread() is self._thread:
            return False  # which looks again by itself
        ending = self._ended.get(prompt_id)
        return ending is not None and time.monotonic() < ending.due

    # -- cancelling ----------------------------------------------------------------------

    def cancel(self, job: Job, *, force: bool) -> bool:
        """See :meth:`Job.cancel`."""
        if job.done():
            return False
        api = self._api()
        known = job._known
        end = time.monotonic() + LOOK_UP
        while job in self._posting and time.monotonic() < end:
            time.sleep(0.01)  # another thread submits it, and will know its id
        if known.seek_mark:  # Ctrl-C came before the answer, or it was just taken up
            self._find(api, job)
            known = job._known  # it may be one with another now
        with self._lock:
            # Before it is: Ctrl-C may come between the server's yes and here.  What runs tells
            # of its end itself.
            before, known.cancelled = known.cancelled, known.running_since is None
        try:
            was_there = self._cancel(api, job, force=force)
        except (ApiError, ServerUnreachable):  # surely not done; of others nobody knows
            known.cancelled = before
            raise
        if not was_there:
            known.cancelled = before
            return False
        self.lookout.forget()
        with self._lock:
            self._hold = 0.0  # the server has just answered
            self._hurry(job)
        if known.cancelled:  # nobody will tell of its end, which is found out at once
            self._let(job.done, SILENCE)
        return True

    def _let(self, happen: Callable[[], bool], seconds: float) -> None:
        """Wait a little for the thread that asks; not in it (a log handler may be).

        No lock is waited for: Ctrl-C in there could leave it held.
        """
        end = time.monotonic() + seconds
        while threading.current_thread() is not self._thread and time.monotonic() < end:
            if happen():
                return
            time.sleep(0.002)

    def _cancel(self, api: ComfyApi, job: Job, *, force: bool) -> bool:
        if self._cancels_jobs:
            try:
                return api.cancel_job(job.prompt_id)
            except NotSupported:
                self._cancels_jobs = False
        return stop(api, job, force=force)

    def withdrawn(self, jobs: Sequence[Job]) -> None:
        """Those that waited were deleted from the queue: that they are gone is no loss."""
        self.lookout.forget()
        # Without the lock: the collector may end a forgotten ``map`` while this thread has the
        # lock of a queue, for which whoever has this one may wait.
        for job in jobs:
            job._known.cancelled = job._known.running_since is None
            self._hurry(job)

    # -- events, in the socket's thread ---------------------------------------------------

    def handle(self, event: Event) -> None:
        """Learn what an event says about our jobs, hand it on, and settle what it ends."""
        if not isinstance(event, JobEvent) or not (self._jobs or self._ended):
            if isinstance(event, StatusEvent):
                self.lookout.count(event.queue_remaining)
                if self._elsewhere:
                    self._queue_moved()
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
                    if event.is_end and job._known.told is not None:
                        return  # one end each, whatever a server says afterwards
                    event = with_finality(event, job.graph)
                    todo = self._tell(job, event)
                elif event.is_end and event.prompt_id in self._ended:
                    return  # receivers had this news already, over HTTP
                if self._posting and (job is None or job._known.is_elsewhere):
                    self._orphans.append(event, event.nbytes)
        self._publish(event)
        if todo:
            in_full(todo)

    def connection_changed(self, event: Event) -> None:
        """The socket came or went, or there is trouble with it."""
        if isinstance(event, ConnectionEvent):
            if event.name in ("connected", "reconnected", "disconnected"):
                self.hurry()
            waiting, host = len(self.outstanding), self._api().host
            if event.name == "disconnected" and waiting:
                log.warning(
                    "%s: %s, with %d prompts outstanding; dialling again, asking over HTTP",
                    host,
                    event.error,
                    waiting,
                )
            elif event.name == "reconnected" and waiting:
                log.warning("%s: connected again", host)
        self._publish(event)

    def poll_queue(self) -> None:
        """Ask for the number of prompts; a change is news as a ``status`` of the socket is."""
        status = self._api().poll_status(timeout=5.0)
        if status.queue_remaining != self.lookout.remaining:
            self.lookout.count(status.queue_remaining)
            self._publish(
                StatusEvent(
                    name="status",
                    raw={"status": {"exec_info": dict(status.raw)}},
                    queue_remaining=status.queue_remaining,
                )
            )

    def skipped(self) -> None:
        """A message that could not be read may have been about any job: history has it, too."""
        with self._lock:
            for job in self._jobs.values():
                job._known.generation = None

    def _queue_moved(self) -> None:
        """Of prompts whose events go elsewhere this is all that the socket tells."""
        departed = self.lookout.departed
        with self._lock:
            # At once where the queue is quiet, and not for each prompt of a crowd.
            soon = max(time.monotonic(), self.lookout.at + POLL_LONGEST)
            for job in self._jobs.values():
                known = job._known
                if known.is_elsewhere and departed >= known.turn and soon < known.check_at:
                    known.check_at = soon
                    self._bell.ring()

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
        known = job._known
        if known.decided:
            return []
        if event.is_end and isinstance(event, EndEvent):
            known.told = event
            self._remember(job, event)
        job._hear(event)
        outcome = self._note(job, known, event)
        if outcome is None:
            return self._keep_to_budget() if self._budget.used > self._budget.most else []
        if known.told is not None:
            return [self._decide(job, outcome)]
        return self._conclude(job, success(job.prompt_id), outcome)

    def _keep_to_budget(self) -> list[Callable[[], None]]:
        """Give up the job that holds most, if they alone hold more than there is."""
        most = self._budget.most
        if self._budget.relieve():
            return []
        jobs = self._jobs.values()
        if sum(job._known.share.nbytes for job in jobs) <= most:
            return []  # the rest is in the hands of receivers
        job = max(jobs, key=lambda job: job._known.share.nbytes)
        job._known.let_go()
        event, error = too_large(job.prompt_id, most)
        return self._conclude(job, event, error, has_record=False, is_final=False)

    def _conclude(
        self,
        job: Job,
        event: EndEvent,
        outcome: Outcome,
        *,
        has_record: bool = True,
        is_final: bool = True,
    ) -> list[Callable[[], None]]:
        """A verdict that no end event has told: tell it by one of ours, unless that is done."""
        todo: list[Callable[[], None]] = []
        if job._known.told is None:
            job._known.told = event
            job._hear(event)
            if job.prompt_id not in self._ended:
                todo.append(partial(self._publish, event))
            self._remember(job, event, has_record=has_record, is_final=is_final)
        return [*todo, self._decide(job, outcome)]

    def _remember(
        self, job: Job, event: EndEvent, *, has_record: bool = True, is_final: bool = True
    ) -> None:
        """Its end is told."""
        due = 0.0 if event.recovered or not has_record else time.monotonic() + RECORDED
        ending = _Ending(event, weakref.ref(job), has_record, is_final, due)
        self._ended.put(job.prompt_id, ending, event.nbytes)

    def _note(self, job: Job, known: Known, event: JobEvent) -> Outcome | None:
        """What the job is told by one of its events; an outcome when that ends it."""
        known.is_news("socket")
        if isinstance(event, UnknownEvent):
            return None  # of a node; no word on where the prompt is
        share = known.share
        known.check_at = known.news_at + SILENCE
        known.interval = SILENCE
        known.missed_at = None
        if isinstance(event, ProgressState):
            known.states = event
            share.keep(ProgressState, event.nbytes, event.raw)
        elif isinstance(event, Progress):
            known.step = event
            if event.nbytes > SMALL_EVENT:  # others come all the time
                share.keep(Progress, event.nbytes, event.raw)
            known.sampled = known.sampled or "Sampler" in (class_of(job.graph, event.node) or "")
        elif isinstance(event, PreviewEvent):
            if event.final and event.name == "b_preview":
                known.frames.append((event.node_id or "", event.mime, event.view))
                share.keep(len(known.frames), event.nbytes + LEAST, body_of(event))
            known.previewed = known.previewed or not event.final
        elif isinstance(event, Executing):
            if known.told is None:
                self._time(job, known)
            if event.node is None:
                return self._after_the_end(job)
            known.runs()
            known.node, known.node_since = event.node, known.news_at
            known.visited.add(event.node)
            share.keep(Executing, LEAST * len(known.visited))
        elif isinstance(event, Executed):
            if event.node is not None:
                known.reported.add(event.node)
                share.keep(event.node, event.nbytes + LEAST, event.raw)
                if event.output is not None:
                    known.outputs[event.node] = event.output
        elif isinstance(event, ExecutionStart):
            known.started = True
            known.runs()
        elif isinstance(event, ExecutionCached):
            known.cached = frozenset(event.nodes)
            share.keep(ExecutionCached, event.nbytes, event.raw)
        elif event.is_end:
            known.ended = True
            share.keep(EndEvent, event.nbytes, event.raw)
            if isinstance(event, ExecutionError | ExecutionInterrupted):
                return error_of(event, job.prompt_id, job.graph, _secrets(job))
            self._time(job, known)
            if self._saw_it_all(job):
                return self._result(job, known.outputs)
            # ``executing`` without a node will say when it is written; if not, the next look.
            known.awaits_history = True
            known.check_at = 0.0
        return None

    def _time(self, job: Job, known: Known) -> None:
        """The node that ran is through: remember how long it took."""
        node_id = origin(job.graph, known.node)
        if node_id is not None and self._is_whole(job):  # else events may be missing
            spent = known.spent.get(node_id, 0.0) + known.news_at - known.node_since
            known.spent[node_id] = spent
            self.times.learn(job.graph, node_id, spent)

    def _after_the_end(self, job: Job) -> Outcome | None:
        """``executing`` without a node: it is over, and history has it."""
        known = job._known
        known.ended = True
        if known.told is None and not known.cached and self._saw_it_all(job):
            # Before July 2024 this is the only word of a success; nor do those servers tell
            # the outputs of cached nodes.
            return self._result(job, known.outputs)
        known.awaits_history = True
        self._hurry(job)
        return None

    def _is_whole(self, job: Job) -> bool:
        """Whether one unbroken socket has been there since before the submission."""
        connection = self._api()._connection
        is_same = connection.generation == job._known.generation
        return connection.state is State.CONNECTED and is_same

    def _saw_it_all(self, job: Job) -> bool:
        """Whether events alone may decide: one socket, no gap, and every output known."""
        known = job._known
        if not known.started or known.cached is None or not self._is_whole(job):
            return False
        # Servers before August 2024 send no ``executed`` for cached nodes.
        return not known.cached or not (known.cached & sinks(job.graph)) - known.reported

    # -- over HTTP, in the thread that watches -------------------------------------------

    def client_id_changed(self) -> None:
        """What was submitted until now names a client id of which no socket comes any more."""
        with self._lock:
            for job in self._jobs.values():
                self._elsewhere += not job._known.is_elsewhere
                job._known.is_elsewhere = True

    def hurry(self) -> None:
        """Ask about all jobs now: the socket came, or went."""
        with self._lock:
            # With the socket goes what it said last, and what it owed us.
            self._running = self._unheard = None
            self._hold = 0.0
            # A link that is cut all the time is no reason to ask all the time.
            soon = self.lookout.at + BETWEEN
            is_early = time.monotonic() < soon
            for job in self._jobs.values():
                job._known.interval = BETWEEN if is_early else POLL_FIRST
                self._hurry(job, soon)

    def _hurry(self, job: Job, at: float = 0.0) -> None:
        if job._known.accepted_at is not None:
            job._known.check_at = min(job._known.check_at, at)
            self._bell.ring()

    def _start(self) -> None:
        """With the lock held."""
        if not was_started(self._thread) and not self._bell.stopped:
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
        api = self._api()
        with self._lock:
            if self._thread is not threading.current_thread():
                return None  # a Ctrl-C came while it was started, and another took its place
            jobs = [job for job in self._jobs.values() if job._known.accepted_at is not None]
        self._check_hearing(api, jobs, now)
        with self._lock:
            if not self._jobs:
                self._idle_since = self._idle_since or now
                if now - self._idle_since > LINGER:
                    self._thread = None
                    return None
                return min(SILENCE, DEAF)
            self._idle_since = 0.0
        due = [job for job in jobs if job._known.check_at <= now]
        if due and now >= self._hold:
            due.sort(key=lambda job: job._known.check_at)  # what failed last time comes last
            self._ask(api, jobs, due)
        with self._lock:
            known = [job._known for job in self._jobs.values()]
            times = [one.check_at for one in known if one.accepted_at is not None]
        soon = max(self._hold, min(times, default=now + DEAF))
        return min(DEAF, max(0.01, soon - time.monotonic()))

    def _check_hearing(self, api: ComfyApi, jobs: Sequence[Job], now: float) -> None:
        """A socket on which a change of the queue did not show is deaf."""
        connection = api._connection
        changes = [
            (job._known.posted_at, job._known.accepted_at or now)
            for job in jobs
            if job._known.generation == connection.generation
        ]
        if self._unheard is not None:
            changes.append(self._unheard)
        is_silent = any(
            after < now - DEAF and self.lookout.status_at < before for before, after in changes
        )
        if connection.is_receiving:
            self._received_at = now
        # On a slow line the next message has not begun when one has ended.
        elif is_silent and now - self._received_at > 2 * DEAF:
            self._dial_again(api)

    def _suspect(self, since: float, now: float) -> None:
        """A prompt has ended, and the socket did not say so: it is late, or deaf."""
        if self._unheard is None or self.lookout.status_at >= self._unheard[0]:
            self._unheard = since, now

    def _dial_again(self, api: ComfyApi) -> None:
        """The socket is open but deaf.  Now and then only: it may be so again."""
        now = time.monotonic()
        if api._connection.state is State.CONNECTED and now - self._redialled_at >= HEARING:
            log.warning(
                "the socket is open but deaf, as when another client uses the client_id %r; "
                "dialling again",
                api.client_id,
            )
            self._redialled_at = now
            api._connection.redial("it was open, but the server sent nothing on it")

    def _ask(self, api: ComfyApi, jobs: Sequence[Job], due: Sequence[Job]) -> None:
        """One pass for all jobs."""
        at_fault: Sequence[Job] = due
        unsure: list[Job] = []  # in no history, and the queue cannot be read
        standing: Standing | None = None
        trouble: ComfyError | None = None
        try:
            for job in due:
                at_fault = [job]
                self._look_for_end(api, job)
            at_fault = due = [job for job in due if not job._known.decided]
            told_of = {job for job in due if self._is_told_of(job)}
            unseen = [job for job in due if job not in told_of]
            spared = self.lookout.spared()
            if spared is not None and unseen and all(map(self._may_wait, unseen)):
                running = 0
                for job in self._in_order(unseen, spared):
                    at_fault = [job]
                    self._look_for_end(api, job, again=True)
                    running += not job._known.decided
                    if running == AHEAD:
                        break
                self._spare([job for job in unseen if not job._known.decided], spared)
                due = [job for job in due if job in told_of]
            elif unseen:
                try:
                    standing = self._stand(api, jobs, unseen)
                except Exception as exc:
                    trouble = _refusal(exc)  # the history may be readable all the same
                    if trouble is None:
                        raise
                    if self._is_empty(api):  # which says as much
                        standing = Standing(running=(), pending=())
            # What one look tells of the others need not be asked again soon.
            others = [job for job in jobs if standing and self._is_concerned(job, standing)]
            told_of -= set(others)
            for job in dict.fromkeys([*due, *others]):
                at_fault = [job]  # its record may be what cannot be read; others go on
                told = job in told_of
                waits = not told and standing is not None and job.prompt_id in standing
                entry = None if waits else api.get_history(job.prompt_id)
                if standing is None and entry is None and not told:
                    unsure.append(job)
                    continue
                if entry is None and not waits and job._known.seek_mark:
                    entry = self._seek(api, job)
                    waits = entry is None and standing is not None and job.prompt_id in standing
                self._learn(job, entry, standing if waits else None, is_told=told)
                job._known.refusals = 0
                self._pause = 0.0
            self.trouble = None
        except ClientClosed:
            return
        except ComfyError as exc:
            self._put_off(api, at_fault, exc)
        except Exception as exc:  # no answer of a server may stop this thread
            log.debug("an answer that makes no sense", exc_info=True)
            self._put_off(api, at_fault, UnexpectedResponse(_nonsense(exc)))
        if trouble is not None and unsure:
            # The history can be read, and will have it when it has ended.
            self._put_off(api, unsure, trouble, counts=False)

    def _is_told_of(self, job: Job) -> bool:
        """Whether the queue would say nothing new: the socket told its end, or that it runs."""
        known = job._known
        if known.awaits_history or known.missed_at is not None:
            return known.awaits_history
        is_recent = time.monotonic() - self.lookout.at < FOLLOWED
        return known.started and is_recent and self._is_whole(job)

    def _is_concerned(self, job: Job, standing: Standing) -> bool:
        """Whether a look that others needed tells where it is, or that it ran and is gone."""
        known = job._known
        if known.decided or known.awaits_history:
            return False
        ran = known.started and not known.cancelled and known.posted_at < self.lookout.at
        return job.prompt_id in standing or ran

    def _may_wait(self, job: Job) -> bool:
        """Whether nobody waits for a first word of where it is."""
        return job._known.looked or not job._known.is_elsewhere

    def _in_order(self, jobs: Sequence[Job], standing: Standing) -> list[Job]:
        """As they will end: those that an earlier look has seen, and then as they were sent."""
        return sorted(jobs, key=lambda job: (standing.place(job.prompt_id), job._known.posted_at))

    def _spare(self, jobs: Sequence[Job], standing: Standing) -> None:
        """The queue was looked at a while ago, which took long; what it said has to do."""
        for job in jobs:
            if job.prompt_id in standing:
                self._learn(job, None, standing)
            else:
                job._known.check_at = min(self.lookout.spared_until, time.monotonic() + LONGEST)

    def _is_empty(self, api: ComfyApi) -> bool:
        """Whether nothing runs or waits, as ``GET /prompt`` knows without the queue."""
        try:
            return api.poll_status(PATIENCE).queue_remaining == 0
        except ComfyError:
            return False

    def _look_for_end(self, api: ComfyApi, job: Job, *, again: bool = False) -> None:
        """Of those that are taken up many are over, and nobody's graphs are needed to tell."""
        if again or (job._known.is_elsewhere and not job._known.looked):
            entry = api.get_history(job.prompt_id)
            if entry is not None:
                self._learn(job, entry, None)
                self._pause = 0.0

    def _stand(self, api: ComfyApi, jobs: Sequence[Job], due: Sequence[Job]) -> Standing:
        """Who runs and who waits; the last look again, if it still holds."""
        standing = self.lookout.still_holds(api)
        if standing is not None and all(
            job.prompt_id in standing and (job.graph or job._known.looked) for job in due
        ):
            first = standing.first_of({job.prompt_id for job in jobs})
            if first is None or api.get_history(first) is None:
                return standing
            if api._connection.state is State.CONNECTED:
                self._suspect(self.lookout.at, time.monotonic())
        return self.lookout.look(api, graphs=not all(job.graph for job in jobs))

    def _seek(self, api: ComfyApi, job: Job) -> models.HistoryEntry | None:
        """A server that chooses its own ids has it under one of these, with our mark."""
        before = job.prompt_id
        self._find(api, job)
        return None if job.prompt_id == before else api.get_history(job.prompt_id)

    def _find(self, api: ComfyApi, job: Job) -> None:
        """Learn under which id the server has it, if it has it; ask no more, unless it may come."""
        end = time.monotonic() + LOOK_UP
        found = find(api, job.prompt_id, job._known.client_id, end)
        with self._lock:
            known = job._known
            known.seek_mark = found is None and known.lost_apart is not None
            if found is None or found == job.prompt_id or known.decided:
                return
            other = self._jobs.get(found)
            if other is None:
                self._rename(job, found)
            else:
                self._jobs.pop(job.prompt_id, None)
                self._elsewhere -= known.is_elsewhere
                job._join(other)

    def _learn(
        self,
        job: Job,
        entry: models.HistoryEntry | None,
        standing: Standing | None,
        *,
        is_told: bool = False,
    ) -> None:
        """What queue (if it is there) and history say about one job.

        ``is_told``: the queue was not asked, for the socket tells where it is.
        """
        now = time.monotonic()
        connected = self._api()._connection.state is State.CONNECTED
        todo: list[Callable[[], None]] = []
        known = job._known
        with self._lock:
            if self._jobs.get(job.prompt_id) is not job:
                return  # decided meanwhile, or one with another
            known.looked = True
            is_far = known.is_elsewhere and connected
            least, longest = (SILENCE, LONGEST) if connected else (POLL_FIRST, POLL_LONGEST)
            least = POLL_LONGEST if is_far else least
            known.interval = min(longest, max(least, known.interval * 1.6))
            known.check_at = now + known.interval
            if standing is not None and job.prompt_id in standing:
                self._stands(job, standing)
            elif entry is not None and self._pictures_may_come(job, entry, now):
                known.check_at = now + 1.0
            elif entry is not None:
                job.graph = job.graph or entry.workflow
                if not known.ended and self._is_whole(job):
                    self._suspect(known.posted_at, now)
                todo = self._conclude(job, *self._from_history(job, entry))
            elif is_told and not known.awaits_history:
                pass  # it runs
            elif known.cancelled and not known.awaits_history:
                todo = self._conclude(job, *deleted(job.prompt_id), has_record=False)
            else:
                todo = self._missed(job, now)
        in_full(todo)

    def _stands(self, job: Job, standing: Standing) -> None:
        """It is in the queue."""
        known = job._known
        known.missed_at = None
        known.seek_mark = False
        job.graph = job.graph or standing.graphs.get(job.prompt_id, {})
        before = (known.ahead, known.running_since is None)
        ahead = standing.ahead(job.prompt_id)
        known.turn = standing.departed + (ahead or 0) + 1
        if ahead is None:
            known.runs()
        elif known.running_since is None:
            known.ahead = ahead
        if before != (known.ahead, known.running_since is None):
            known.is_news("HTTP")

    def _pictures_may_come(self, job: Job, entry: models.HistoryEntry, now: float) -> bool:
        """Whether outputs that only the socket brings are still on their way, on a slow link."""
        known = job._known
        if known.ended or not entry.succeeded or not sends_pictures(job.graph):
            return False
        known.late_since = known.late_since or now
        flows = self._is_whole(job) and self._api()._connection.quiet_for < SILENCE
        return flows and now - known.late_since < LATEST

    def _missed(self, job: Job, now: float) -> list[Callable[[], None]]:
        """Neither in the queue nor in the history; a second look, some time apart, decides."""
        known = job._known
        if known.missed_at is None:
            known.missed_at = now
        gone_for = now - known.missed_at
        if known.awaits_history:
            if gone_for < HISTORY_GRACE:
                known.check_at = now + max(POLL_FIRST, gone_for / 2)
            elif known.told is not None:
                return [self._decide(job, self._as_told(job))]
            else:  # an end that nobody told: the queue may know more
                known.awaits_history = False
                known.check_at = now
        elif gone_for >= (apart := known.lost_apart or LOST_APART):
            return self._conclude(job, *lost(job.prompt_id), has_record=False)
        else:
            known.check_at = min(now + LOST_APART, known.missed_at + apart)
        return []

    def _as_told(self, job: Job) -> Outcome:
        """What its end event alone makes of it."""
        event = job._known.told
        if isinstance(event, ExecutionError | ExecutionInterrupted):
            return error_of(event, job.prompt_id, job.graph, _secrets(job))
        if isinstance(event, JobLostEvent):
            return lost(job.prompt_id, event.reason)[1]
        return self._result(job, job._known.outputs, complete=False)

    def _from_history(self, job: Job, entry: models.HistoryEntry) -> tuple[EndEvent, Outcome]:
        known = job._known
        ending = self._ended.get(job.prompt_id)
        if ending is not None:
            ending.due = 0.0
        known.is_news("HTTP")
        if entry.started is not None and entry.ended is not None:
            known.took = entry.ended - entry.started
        if not entry.succeeded:
            return failure(entry, job.prompt_id, job.graph, _secrets(job))
        if known.cached is None:
            known.cached = frozenset(entry.cached_nodes)
        # History is the sure source; what only events told is kept beside it.
        outputs = {**known.outputs, **entry.outputs}
        event = success(job.prompt_id, recovered=True)
        targets = prompt_record(entry.raw.get("prompt"), "prompt").outputs
        return event, self._result(job, outputs, targets=targets)

    def _put_off(
        self, api: ComfyApi, jobs: Sequence[Job], exc: ComfyError, *, counts: bool = True
    ) -> None:
        """HTTP fails: ask again later, and later still.

        Given up only is what is refused, again and again while nobody else would tell.
        """
        self.trouble = copy.copy(exc)  # without its traceback, which holds frames
        self._pause = min(LONGEST, max(PAUSE, self._pause * 2.0))
        until = time.monotonic() + self._pause * random.uniform(0.7, 1.0)  # noqa: S311
        if is_away(exc):
            self._hold = until
        log.debug("asking about %d jobs failed: %s", len(jobs), exc)
        refused = counts and not is_away(exc)
        # A server that stumbles, or is asked too often, may mend.
        is_final = isinstance(exc, AuthenticationError | UnexpectedResponse)
        most = REFUSALS if is_final else STUMBLES
        no_socket = api._connection.state is not State.CONNECTED
        todo: list[Callable[[], None]] = []
        with self._lock:
            for job in jobs:
                known = job._known
                known.looked = True
                known.check_at = max(known.check_at, until)
                # What a gap has swallowed, no socket tells any more.
                is_over = not self._is_whole(job) and self.lookout.remaining == 0
                is_alone = no_socket or known.ended or known.is_elsewhere or is_over
                known.refusals = known.refusals + 1 if refused and is_alone else 0
                if known.refusals < most or known.decided:
                    continue
                if known.told is not None:
                    todo.append(self._decide(job, self._as_told(job)))
                else:
                    event, _ = lost(job.prompt_id, f"out of reach: {exc}")
                    # Each its own: whoever raises it adds a traceback.
                    error = copy.copy(exc)
                    todo += self._conclude(job, event, error, has_record=False, is_final=False)
        in_full(todo)

    def give_up(self, exc: Exception) -> None:
        """No question could be asked, for a reason that nobody thought of: all are at fault."""
        self._put_off(self._api(), self.outstanding, UnexpectedResponse(_nonsense(exc)))

    # -- verdicts ------------------------------------------------------------------------

    def _result(
        self,
        job: Job,
        outputs: Mapping[str, Mapping[str, Any]],
        *,
        complete: bool = True,
        targets: Sequence[str] = (),
    ) -> Result:
        known = job._known
        if known.wants_previews and known.sampled and not known.previewed and self._is_whole(job):
            self._hint(known)
        if sends_pictures(job.graph) and not (self._is_whole(job) and known.ended):
            complete = False
            known.remarks.append(
                f"prompt {job.prompt_id}: pictures of {SENDER} come over the socket only, and it "
                "did not bring all of this prompt: some may be missing"
            )
        cached = known.cached or frozenset()
        saw_all = known.started and known.ended and self._is_whole(job)
        # Nothing runs if no output has to; some of what is behind them may never have run.
        ran = known.visited if saw_all or not targets else set(targets) - cached
        return make_result(
            job.prompt_id,
            job.graph,
            outputs,
            frames=known.frames,
            files=job._api,
            cached_nodes=tuple(sorted(cached)),
            fully_cached=bool(cached) and not ran,
            seeds=seeds_of(job.graph),
            node_errors=job.node_errors,
            complete=complete,
        )

    def _hint(self, known: Known) -> None:
        if self._hinted:
            return
        self._hinted = True
        known.remarks.append(
            "someone listens to previews, but the server sends none: start ComfyUI with "
            "--preview-method auto (servers from 0.5 on are asked for them by this library)"
        )

    def _decide(self, job: Job, outcome: Outcome) -> Callable[[], None]:
        """Once per job, with the lock held; what is returned is called without it."""
        known = job._known
        if known.decided:
            return _nothing
        known.decided = True
        known.share.free()
        if known.running_since is not None and not isinstance(outcome, Result):
            known.fraction = job.progress.fraction  # as far as it came
        job._let_go()  # users may keep it
        known.ended_at = time.monotonic()
        self._elsewhere -= known.is_elsewhere
        self._jobs.pop(job.prompt_id, None)
        if known.accepted_at is None:
            return partial(self._decide_early, job, outcome)
        return self._settling(job, outcome)

    def _decide_early(self, job: Job, outcome: Outcome) -> None:
        """Receivers have its end; the answer to the submission may have more to say."""
        settle = _nothing
        with self._lock:
            if job._known.accepted_at is None:
                job._known.early = outcome
            else:
                settle = self._settling(job, outcome)
        settle()

    def _settling(self, job: Job, outcome: Outcome) -> Callable[[], None]:
        if isinstance(outcome, Result) and outcome.node_errors is not job.node_errors:
            outcome = attrs.evolve(outcome, node_errors=job.node_errors)
        return partial(job._settle, outcome)

    def close(self) -> None:
        """No verdict will come any more: all waits end in :class:`ClientClosed`."""
        self._bell.ring(stop=True)
        in_full(partial(self._close, job) for job in self.outstanding)

    def _close(self, job: Job) -> None:
        with self._lock:
            settle = self._decide(job, ClientClosed())
        settle()

    def pause(self, seconds: float) -> bool:
        """Wait, unless the client ends before; whether it does."""
        return self._bell.wait_stopped(seconds)

    def shutdown(self) -> Callable[[], None]:
        """What ends the thread, without keeping a hold on this object."""
        return partial(self._bell.ring, stop=True)

    def orphan(self) -> None:
        """In the child of a fork: these jobs are the parent's; no wait for them may hang."""
        for job in list(self._jobs.values()):
            job._orphan()


def _watch(owner: weakref.ref[Jobs], bell: _Bell) -> None:
    """The thread that asks over HTTP.  It holds the jobs only while it works."""
    read_timeout.set(PATIENCE)
    logged: set[type[Exception]] = set()
    while not bell.stopped:
        jobs = owner()
        if jobs is None:
            return
        try:
            delay = jobs.tick()
        except ClientClosed:
            return
        except Exception as exc:  # a defect of ours must not leave waits without an end
            if type(exc) not in logged:
                logged.add(type(exc))
                log.exception("asking about jobs failed by a defect of comfy_client")
            delay = SILENCE
            with contextlib.suppress(Exception):
                jobs.give_up(exc)
        del jobs
        if delay is None:
            return
        bell.wait(delay)


def _refusal(exc: Exception) -> ComfyError | None:
    """That a server would not tell, or tells what makes no sense; ``None``: it is another case."""
    if not isinstance(exc, ComfyError):
        return UnexpectedResponse(_nonsense(exc))
    told = isinstance(exc, ApiError | UnexpectedResponse) and not is_away(exc)
    return exc if told else None


def _nonsense(exc: Exception) -> str:
    return f"what the server says makes no sense: {exc!r:.200}"


def _nothing() -> None:
    pass


def _secrets(job: Job) -> Secrets:
    """What its server may repeat when it fails: of the client, and of the workflow by its names."""
    secrets = job._api._http.identity.secrets()
    secrets.add_named(job.graph)
    return secrets
