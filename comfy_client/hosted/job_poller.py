"""The requests of a client of Comfy API v2 about its jobs, and their event streams.

A stream brings progress and previews, and wakes the poller.
"""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from .. import models, runtime
from ..errors import (
    ApiError,
    AuthenticationError,
    ClientClosed,
    ComfyError,
    JobTimeout,
    NotFound,
    NotSupported,
    PaymentRequired,
    ServerUnreachable,
    Throttled,
)
from ..events import Executed, ExecutionInterrupted, ExecutionStart, JobEvent
from ..jobs.lookup import EarlierPrompts, KnownIds
from ..jobs.outcomes import deleted, lost
from ..jobs.poller import LONGEST_PAUSE, Poller
from ..jobs.prompt import Prompt
from ..jobs.state import Outcome, PromptState
from ..jobs.tracker import Tracker
from ..routes.prompts import EXTRA_DATA_KEY
from ..transport.deadline import Backoff, Deadline, limited_silence
from ..transport.failures import is_away
from ..workflow.graph import needed
from .evidence import Evidence
from .models import (
    ENDED,
    RUNNING,
    FrameTranslator,
    HostedJob,
    HostedProgress,
    ServerEvent,
    executed,
    files_by_node,
    has_mark,
    outcome,
    started,
    unmarked,
)
from .routes import HostedRoutes
from .sending import Submission


def find_earlier(
    routes: HostedRoutes, submission: Submission, known_ids: KnownIds, ended: Collection[str]
) -> EarlierPrompts:
    """Find the jobs of an earlier process by their ids, or else by the keys of their submissions.

    A job counts only if its workflow has the mark of its key, as an id may belong to a stranger's
    job.  ``ended`` are the ids of some jobs that had ended: a server that was not restarted still
    knows them.
    """
    ids = {key: id for key, id in known_ids.items() if id is not None and id != key}
    doubts = dict.fromkeys(ids, "the server does not tell which workflow it ran")
    listed = submission.labelled(_limit(routes))
    for key, id in known_ids.items():
        if id is None and key in listed:  # the journal may have lost it
            ids[key] = listed[key]
        elif id == key:
            found, is_complete = submission.look(key, _limit(routes))
            if found is not None:
                ids[key] = found
            elif not is_complete:
                doubts[key] = "the server does not list it"
            elif not submission.has_kept([*ended, *ids.values()], _limit(routes)):
                doubts[key] = "a proxy that was restarted may have forgotten it"
    return EarlierPrompts([*_records(routes, ids)], doubts)


def _records(routes: HostedRoutes, ids: dict[str, str]) -> Iterator[models.QueueItem]:
    """Yield a record of each job whose workflow has the mark of its key; ``ids`` are by key."""
    for key, id in ids.items():
        try:
            graph = routes.workflow(id)
        except NotFound:
            continue
        if has_mark(graph, key):
            yield models.QueueItem(None, id, unmarked(graph), {EXTRA_DATA_KEY: key})


def _limit(routes: HostedRoutes) -> Deadline:
    return Deadline.after(routes.http.total_timeout)


#: The most streams at a time; the proxy allows eight in all.
MOST_STREAMS: Final = 6


@attrs.define(eq=False)
class _Stream:
    """The state of one job's event stream, over all attempts to read it."""

    translator: FrameTranslator
    pauses: Backoff
    is_open: bool = False
    not_before: float = 0.0
    has_ended: bool = False  # it has said that its job has
    is_over: bool = False  # nothing more will come


class Streams:
    """The event streams of one client: one for each job, and at most six at a time.

    Args:
        tracker: The tracker of the prompts, which gets the events.
        routes: The routes of the server.

    Attributes:
        turn: The lock that is held while an event or the end of a job is published, as each stream
            and the poller publish in threads of their own.
    """

    def __init__(self, tracker: Tracker, routes: HostedRoutes) -> None:
        self.turn: runtime.RLock = runtime.RLock()
        self._tracker = tracker
        self._routes = routes
        self._streams: dict[Prompt, _Stream] = {}
        self._timing = tracker.timing
        self._has_events = True  # False once the server says that it has no streams

    def open_for(self, known: Sequence[Prompt]) -> None:
        """Open streams up to the limit of six, for running jobs first, then for the oldest."""
        now = runtime.monotonic()
        for one in [one for one in self._streams if one.state.decided]:
            if not self._streams[one].is_open:
                del self._streams[one]
        free = MOST_STREAMS - sum(stream.is_open for stream in self._streams.values())
        if free <= 0 or not self._has_events:
            return
        waiting = [one for one in known if self._is_due(one, now)]
        waiting.sort(key=lambda one: (one.state.running_since is None, one.state.posted_at))
        for one in waiting[:free]:
            stream = self._stream(one)
            stream.is_open = True
            held = _held(weakref.ref(self), weakref.ref(one))
            thread = runtime.Thread(
                target=_follow,
                args=(self._routes, one.state.prompt_id, stream, held),
                name="comfy-stream",
                daemon=True,
            )
            try:
                thread.start()
            except RuntimeError:  # no more threads on this machine
                stream.is_open, stream.not_before = False, now + self._timing.stream_cap

    def take_polled(self, one: Prompt, progress: HostedProgress) -> None:
        """Publish the progress in the answer to a poll, unless the job has an open stream."""
        stream = self._stream(one)
        if not stream.is_open:
            self.publish(one, stream.translator.take(ServerEvent("progress", progress.raw)))

    def _stream(self, one: Prompt) -> _Stream:
        found = self._streams.get(one)
        if found is None:
            pauses = Backoff(self._timing.stream_pause, self._timing.stream_cap)
            fresh = _Stream(FrameTranslator(one.state.prompt_id, one.state.graph), pauses)
            found = self._streams.setdefault(one, fresh)
        return found

    def publish(self, one: Prompt, events: Iterable[JobEvent]) -> None:
        """Publish those events of a job that were not published yet; none after it has ended."""
        state = one.state
        for event in events:
            with self.turn:
                if state.decided:
                    return
                if _is_news(state, event):
                    due = state.check_at
                    self._tracker.handle(event)
                    state.news_by = "event stream"
                    state.check_at = min(due, state.check_at)  # events only add to polling

    def _is_due(self, one: Prompt, now: float) -> bool:
        state, stream, age = one.state, self._streams.get(one), self._timing.stream
        if state.decided or state.search_by_mark or now - (state.accepted_at or now) < age:
            return False
        return stream is None or not (stream.is_open or stream.is_over or now < stream.not_before)

    def wants(self, one: Prompt) -> bool:
        """Return whether more events of a job are wanted."""
        return not (one.state.decided or self._tracker.wake.stopped)

    def take(self, one: Prompt, stream: _Stream, frame: ServerEvent) -> None:
        """Publish the events in a stream's frame; poll the job if the frame reports its end."""
        self.publish(one, stream.translator.take(frame))
        if frame.status in ENDED:
            stream.has_ended = True
            self._tracker.poll_now(one)  # also if an older answer is on its way

    def end(self, one: Prompt, stream: _Stream, exc: Exception | None) -> None:
        """Record that a job's stream has ended, normally or with ``exc``, and poll the job."""
        pause = 0.0
        rest = [*stream.translator.rest()]  # if the stream broke, the next one repeats them all
        if exc is None:
            self.publish(one, rest)
            stream.is_over = stream.has_ended
        elif isinstance(exc, NotSupported):
            self._has_events = False
        elif isinstance(exc, Throttled):
            pause = exc.retry_after or self._timing.stream_cap
        elif isinstance(exc, ClientClosed):
            stream.is_over = True
        else:
            said = "prompt %s: its event stream ended: %s"
            bug = None if isinstance(exc, ComfyError) else exc
            self._tracker.log.debug(said, one.state.prompt_id, exc, exc_info=bug)
        stream.not_before = runtime.monotonic() + max(pause, stream.pauses.next())
        stream.is_open = False
        self._tracker.poll_now(one)


#: Returns the streams of a client and a job's prompt; None once either is no longer in use.
_Held = Callable[[], tuple[Streams, Prompt] | None]


def _held(owner: weakref.ref[Streams], prompt: weakref.ref[Prompt]) -> _Held:
    """Return a function that follows two weak references, so that it keeps nothing alive."""

    def get() -> tuple[Streams, Prompt] | None:
        streams, one = owner(), prompt()
        return None if streams is None or one is None else (streams, one)

    return get


def _follow(routes: HostedRoutes, prompt_id: str, stream: _Stream, held: _Held) -> None:
    """Read a job's stream to its end, in a thread that keeps no client alive while it waits."""

    def is_over() -> bool:
        found = held()
        return found is None or not found[0].wants(found[1])

    def end(exc: Exception | None) -> None:
        if (found := held()) is not None:
            found[0].end(found[1], stream, exc)

    def take(frame: ServerEvent) -> None:
        if (found := held()) is not None:
            found[0].take(found[1], stream, frame)

    try:
        with routes.events(prompt_id, is_over=is_over) as frames:
            for frame in frames:
                if is_over():
                    break
                take(frame)
    except Exception as exc:  # noqa: BLE001  # it is noted
        end(exc)
    else:
        end(None)


def _is_news(state: PromptState, event: JobEvent) -> bool:
    """Return False for a start or outputs that were published already; True for other events."""
    if isinstance(event, ExecutionStart):
        return not state.started
    return not (isinstance(event, Executed) and event.node in state.reported)


#: The keys of ``extra_data`` that are sent, or looked at below.
_OWN_EXTRA: Final = frozenset({"api_key_comfy_org", "preview_method"})
#: The beginning of keys that mark prompts of this library; they are left out.
_MARKS: Final = "comfy_client_"
#: More signs of life than this, after a job was cancelled, show that it goes on.
_SIGNS: Final = 2

_NO_CANCEL: Final = (
    "goes on after it was cancelled: the ComfyUI behind this proxy cannot cancel a job by its id "
    "(before 0.26)"
)
_EXPIRED: Final = "not known to the server any more: it expired, was deleted, or ComfyUI restarted"
_MISSING: Final = "not known to the server"


class HostedPoller(Poller):
    """The part of a client that submits, finds, stops and asks about jobs of Comfy API v2.

    Args:
        tracker: The tracker of the prompts.
        routes: The routes of the server.
        submission: Submits jobs, and finds those whose submission got no answer.
        patience: Seconds for which a server may give no usable answer about a job.
    """

    finds_lost_prompts: bool = False
    least_pause: float = 0.0003
    check_every: float = 30.0  # each request may count, where the service is paid
    without_socket: str = ""
    troubled_at: float
    answered_at: float

    def __init__(
        self, tracker: Tracker, routes: HostedRoutes, submission: Submission, patience: float
    ) -> None:
        super().__init__(tracker)
        self._routes = routes
        self._submission = submission
        self._patience = patience
        self._streams = Streams(tracker, routes)
        self._known: dict[Prompt, Evidence] = {}
        self._cancels = True  # False once it is certain that cancelling does nothing

    # -- submission ------------------------------------------------------------------------

    def free_by(self, deadline: Deadline) -> Deadline:
        """Return until when a call with a deadline waits for a server that takes no requests."""
        return Deadline(min(deadline.at, Deadline.after(self._patience).at))

    def post(
        self, one: Prompt, body: Mapping[str, Any], deadline: Deadline, *, resubmit: bool
    ) -> models.QueuedPrompt:
        """Submit a prompt as a job, exactly once; return the server's receipt.

        ``resubmit`` has no effect: a submission without an answer is sent again under the same key
        in any case, unless the server may have forgotten its keys.
        """
        check_options(body)
        graph = body["prompt"]
        if (targets := body.get("partial_execution_targets")) is not None:
            graph = {node_id: graph[node_id] for node_id in needed(graph, targets, ())}
        partner_key = body.get("extra_data", {}).get("api_key_comfy_org")
        return self._submission.send(
            self.tracker, one.state, graph, partner_key, deadline, self._patience
        )

    def search(self, prompt_id: str, client_id: str, deadline: Deadline) -> str | None:
        """Return the id of the job that has this id or was submitted under it as a key, or None."""
        try:
            job = self._routes.job(prompt_id, timeout=deadline.left())
        except NotFound:
            return self._submission.find(prompt_id, deadline)
        return job.id

    def find_earlier(self, known_ids: KnownIds, ended: Collection[str]) -> EarlierPrompts:
        """Look for the jobs of an earlier process; ``ended`` are the ids of some that had ended."""
        return find_earlier(self._routes, self._submission, known_ids, ended)

    def has_record(self, prompt_id: str) -> bool:
        """Return False, as a job that arrived late is found by its key when it is sent again."""
        return False

    # -- the thread ------------------------------------------------------------------------

    def ask(self, known: Sequence[Prompt], due: Sequence[Prompt]) -> None:
        """Request the state of each due job, and open event streams for jobs that need one."""
        for one in [*self._known]:  # a copy, as other threads add jobs
            if one.state.decided:
                del self._known[one]
        self._streams.open_for(known)
        away: ComfyError | None = None  # the server is away, which concerns all jobs
        for one in due:
            evidence = self._evidence(one)
            try:
                if away is not None:
                    raise away.with_traceback(None)
                self._ask_about(one, evidence)
            except ClientClosed:
                return
            except ComfyError as exc:
                self._note_error(one, evidence, exc)
                away = exc if is_away(exc) else None
            else:
                self.trouble = None
                self.answered_at = evidence.answered_at = runtime.monotonic()
            if not one.state.decided:
                pause = evidence.next_pause(runtime.monotonic(), len(known))
                one.state.check_at = runtime.monotonic() + pause

    def _evidence(self, one: Prompt) -> Evidence:
        return self._known.setdefault(one, Evidence(runtime.monotonic(), self.timing))

    def _ask_about(self, one: Prompt, evidence: Evidence) -> None:
        state, asked_at = one.state, runtime.monotonic()
        try:
            job = self._routes.job(state.prompt_id)
        except NotFound:
            if not (state.search_by_mark and self.find(one)):
                self._note_absence(one, evidence, asked_at, _MISSING)
            return
        if job.status == "expired":
            self._note_absence(one, evidence, asked_at, _EXPIRED)
            return
        state.search_by_mark = False
        if not state.graph and evidence.status is None:
            self._read_graph(state)
        self._report(one, evidence, job)

    def _read_graph(self, state: PromptState) -> None:
        """Request the graph of a job that was attached to, which has the titles of its nodes."""
        try:
            state.graph = self._routes.workflow(state.prompt_id)
        except ComfyError as exc:  # a proxy has only those of its own jobs
            self.tracker.log.debug("prompt %s: no graph: %s", state.prompt_id, exc)

    def _report(self, one: Prompt, evidence: Evidence, job: HostedJob) -> None:
        """Apply a usable answer about a job: publish its events, and resolve it if it has ended."""
        state, streams = one.state, self._streams
        if job.status in RUNNING:
            streams.publish(one, [started(state.prompt_id)])
        if job.is_ended:
            files = files_by_node(job.outputs, state.graph)
            streams.publish(one, [executed(state.prompt_id, *each) for each in files.items()])

        def change(now: float, link: int | None) -> Outcome | None:
            state.asked(now, link)
            if evidence.note_status(job.status):
                state.news_at, state.news_by = now, "HTTP"
            state.is_queued = job.status == "queued"
            if state.is_queued and state.running_since is None:
                state.ahead = job.queue_position
            return outcome(job, state)

        if not job.is_ended and job.progress is not None:
            streams.take_polled(one, job.progress)
        with streams.turn:
            self.apply(one, change)

    def _note_absence(self, one: Prompt, evidence: Evidence, asked_at: float, why: str) -> None:
        def change(now: float, link: int | None) -> Outcome | None:
            state = one.state
            state.asked(now, link)
            if not evidence.note_absence(asked_at):
                return None
            if evidence.was_cancelled:
                return Outcome(*deleted(state.prompt_id), has_record=False)
            return Outcome(*lost(state.prompt_id, why, retryable=False), has_record=False)

        with self._streams.turn:
            self.apply(one, change)

    def _note_error(self, one: Prompt, evidence: Evidence, exc: ComfyError) -> None:
        """Record a failed request about a job; give the job up after too many, or too long."""
        now, tracker, state = runtime.monotonic(), self.tracker, one.state
        self.trouble, self.troubled_at = copy.copy(exc), now
        state.http_checked = True
        tracker.log.debug("asking about prompt %s failed: %s", state.prompt_id, exc)
        if isinstance(exc, AuthenticationError | PaymentRequired):
            is_over = evidence.note_refusal()
            evidence.pause = max(evidence.pause, self.timing.hosted_refused)
        else:
            is_over = evidence.note_bad_answer(now, self._patience)
        if isinstance(exc, Throttled) and exc.retry_after is not None:
            evidence.pause = max(evidence.pause, min(exc.retry_after, LONGEST_PAUSE))
        if is_over:
            event, _ = lost(state.prompt_id, f"out of reach: {exc}")
            error = copy.copy(exc)  # one for each prompt, as raising adds a traceback
            error.add_note(
                f"prompt {state.prompt_id} may go on: api.job({state.prompt_id!r}) waits for it"
            )
            with self._streams.turn:
                tracker.end(one, Outcome(event, error, has_record=False, is_final=False))

    def give_up(self, exc: Exception) -> None:
        """Count a bug in this library, such as ``exc``, as an unusable answer about each job."""
        for one in self.tracker.outstanding:
            self._note_error(one, self._evidence(one), ComfyError(f"{exc!r:.200}"))

    # -- stopping --------------------------------------------------------------------------

    def cancel(self, one: Prompt, *, force: bool) -> bool:
        """Cancel a job, and wait until it ends or is seen to go on; ``force`` has no effect.

        Return True if the job ended by being cancelled; False if it had ended before, ended in
        another way, or is unknown to the server.

        Raises:
            NotSupported: The job goes on, as the ComfyUI behind the proxy cannot cancel it.
            JobTimeout: The job has not ended in time, but was not seen to go on either.
        """
        deadline = Deadline.after(self.timing.look_up)
        while self.tracker.is_posting(one) and not deadline.expired:
            runtime.sleep(0.01)  # another thread is submitting it
        if one.state.search_by_mark:
            self.find(one)
        evidence, state = self._evidence(one), one.state
        evidence.was_cancelled = True
        try:
            job = self._routes.cancel(state.prompt_id)
        except NotFound:
            job = None
        except (ApiError, ServerUnreachable):  # certainly not cancelled; after others, unknown
            evidence.was_cancelled = False
            raise
        if job is None or job.status in ("succeeded", "failed"):
            evidence.was_cancelled = False
            self.tracker.poll_now(one)
            return False
        self.tracker.poll_now(one)
        self._watch(one, evidence, was_queued=job.status == "queued")
        return isinstance(state.end_event, ExecutionInterrupted)

    def _watch(self, one: Prompt, evidence: Evidence, *, was_queued: bool) -> None:
        """Wait until a cancelled job has ended; raise if it goes on or does not end in time."""
        state, told_at = one.state, runtime.monotonic()
        deadline = Deadline.after(self.timing.hosted_stop)
        signs: set[object] = set()
        while not deadline.expired:
            if state.decided:
                return
            if self.tracker.wake.stopped:
                raise ClientClosed
            if (
                evidence.answered_at >= told_at + self.timing.hosted_goes_on
                and not evidence.absences
            ):
                signs.add((state.node, state.step and state.step.value))
                goes_on = was_queued or len(signs) > _SIGNS or not self._cancels
                if goes_on and not self._submission.remembers:  # services can cancel
                    self._cancels = evidence.was_cancelled = False
                    raise NotSupported(f"prompt {state.prompt_id} {_NO_CANCEL}")
            runtime.sleep(0.02)
        raise JobTimeout(
            f"prompt {state.prompt_id} was cancelled, and has not ended within "
            f"{self.timing.hosted_stop:g} s: it ends when its node allows that; behind a proxy, a "
            "ComfyUI before 0.26 ignores it",
            prompt_id=state.prompt_id,
        )

    def delete_pending(self, prompt_ids: Collection[str], seconds: float = math.inf) -> bool:
        """Cancel those of the jobs that are pending; return whether none is pending in the end."""
        deadline = Deadline.after(min(seconds, self.timing.cancel_timeout))
        log, ids = self.tracker.log, [*prompt_ids]
        try:
            with limited_silence(self.timing.question):
                left = [one for one in ids if not self._cancel_if_pending(one, deadline)]
        except ComfyError as exc:
            log.warning("prompts may stay in the queue, %s: %s", ", ".join(ids), exc)
            return False
        if left:
            log.warning("prompts stay in the queue: %s", ", ".join(left))
        return not left

    def _cancel_if_pending(self, prompt_id: str, deadline: Deadline) -> bool:
        """Cancel a job if it is pending; return whether it certainly is not pending any more."""
        one = self.tracker.get(prompt_id)
        if one is not None:
            if one.state.search_by_mark and not self.find(one):
                return False  # its submission may still be on its way
            prompt_id = one.state.prompt_id
        try:
            job = self._routes.job(prompt_id, timeout=deadline.left())
            if job.status == "queued":
                if one is not None:
                    self._evidence(one).was_cancelled = True
                self._routes.cancel(prompt_id, timeout=deadline.left())
                job = self._routes.job(prompt_id, timeout=deadline.left())
        except NotFound:
            return True
        finally:
            if one is not None:
                self.tracker.poll_now(one)
        return job.status != "queued"


def check_options(body: Mapping[str, Any]) -> None:
    """Raise :class:`NotSupported` for options of a prompt that Comfy API v2 lacks."""
    extra = body.get("extra_data", {})
    given = [name for name in ("front", "number") if name in body]
    others = (name for name in extra if name not in _OWN_EXTRA)
    given += [f"extra_data[{name!r:.80}]" for name in others if not str(name).startswith(_MARKS)]
    if extra.get("preview_method") not in (None, "auto"):
        given.append("preview_method")
    if given:
        raise NotSupported(f"Comfy API v2 takes no {', '.join(given)}")
