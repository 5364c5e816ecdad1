"""The requests of a client of Comfy API v2 about its jobs."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

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
from ..events import ExecutionInterrupted
from ..jobs.lookup import EarlierPrompts, KnownIds
from ..jobs.outcomes import deleted, lost
from ..jobs.poller import LONGEST_PAUSE, Poller
from ..jobs.prompt import TrackedPrompt
from ..jobs.state import JobState, Outcome
from ..jobs.tracker import Tracker
from ..transport.deadline import Deadline, limited_silence
from ..transport.failures import is_away
from ..workflow.graph import needed
from .earlier import find_earlier
from .evidence import Evidence
from .models import HostedJob
from .routes import HostedRoutes
from .sending import Submission
from .streams import Streams
from .translation import RUNNING, executed, files_by_node, outcome, started

#: The keys of ``extra_data`` that are sent, or looked at below.
_OWN_EXTRA: Final = frozenset({"api_key_comfy_org", "preview_method"})
#: The beginning of keys that mark prompts of this library; they are left out.
_MARKS: Final = "comfy_client_"
#: The shortest pause after a refusal.
_AFTER_REFUSAL: Final = 0.5
#: Seconds for which a cancelled job is watched, and those after which its steps show that it goes
#: on.
_WATCH: Final = 10.0
_SETTLE: Final = 1.0
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
        self._known: dict[TrackedPrompt, Evidence] = {}
        self._cancels = True  # False once it is certain that cancelling does nothing

    # -- submission ------------------------------------------------------------------------

    def free_by(self, deadline: Deadline) -> Deadline:
        """Return until when a call with a deadline waits for a server that takes no requests."""
        return Deadline(min(deadline.at, Deadline.after(self._patience).at))

    def post(
        self, one: TrackedPrompt, body: Mapping[str, Any], deadline: Deadline, *, resubmit: bool
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

    def ask(self, known: Sequence[TrackedPrompt], due: Sequence[TrackedPrompt]) -> None:
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

    def _evidence(self, one: TrackedPrompt) -> Evidence:
        return self._known.setdefault(one, Evidence(runtime.monotonic()))

    def _ask_about(self, one: TrackedPrompt, evidence: Evidence) -> None:
        state = one.state
        try:
            job = self._routes.job(state.prompt_id)
        except NotFound:
            if not (state.search_by_mark and self.find(one)):
                self._note_absence(one, evidence, _MISSING)
            return
        if job.status == "expired":
            self._note_absence(one, evidence, _EXPIRED)
            return
        state.search_by_mark = False
        if not state.graph and evidence.status is None:
            self._read_graph(state)
        self._report(one, evidence, job)

    def _read_graph(self, state: JobState) -> None:
        """Request the graph of a job that was attached to, which has the titles of its nodes."""
        try:
            state.graph = self._routes.workflow(state.prompt_id)
        except ComfyError as exc:  # a proxy has only those of its own jobs
            self.tracker.log.debug("prompt %s: no graph: %s", state.prompt_id, exc)

    def _report(self, one: TrackedPrompt, evidence: Evidence, job: HostedJob) -> None:
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

    def _note_absence(self, one: TrackedPrompt, evidence: Evidence, why: str) -> None:
        def change(now: float, link: int | None) -> Outcome | None:
            state = one.state
            state.asked(now, link)
            if not evidence.note_absence(now):
                return None
            if evidence.was_cancelled:
                return Outcome(*deleted(state.prompt_id), has_record=False)
            return Outcome(*lost(state.prompt_id, why, retryable=False), has_record=False)

        with self._streams.turn:
            self.apply(one, change)

    def _note_error(self, one: TrackedPrompt, evidence: Evidence, exc: ComfyError) -> None:
        """Record a failed request about a job; give the job up after too many, or too long."""
        now, tracker, state = runtime.monotonic(), self.tracker, one.state
        self.trouble, self.troubled_at = copy.copy(exc), now
        state.http_checked = True
        tracker.log.debug("asking about prompt %s failed: %s", state.prompt_id, exc)
        if isinstance(exc, AuthenticationError | PaymentRequired):
            is_over = evidence.note_refusal()
            evidence.pause = max(evidence.pause, _AFTER_REFUSAL)
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
                tracker.resolve(one, Outcome(event, error, has_record=False, is_final=False))

    def give_up(self, exc: Exception) -> None:
        """Count a bug in this library, such as ``exc``, as an unusable answer about each job."""
        for one in self.tracker.outstanding:
            self._note_error(one, self._evidence(one), ComfyError(f"{exc!r:.200}"))

    # -- stopping --------------------------------------------------------------------------

    def cancel(self, one: TrackedPrompt, *, force: bool) -> bool:
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

    def _watch(self, one: TrackedPrompt, evidence: Evidence, *, was_queued: bool) -> None:
        """Wait until a cancelled job has ended; raise if it goes on or does not end in time."""
        state, told_at = one.state, runtime.monotonic()
        deadline = Deadline.after(_WATCH)
        signs: set[object] = set()
        while not deadline.expired:
            if state.decided:
                return
            if self.tracker.wake.stopped:
                raise ClientClosed
            if evidence.answered_at >= told_at + _SETTLE and not evidence.absences:
                signs.add((state.node, state.step and state.step.value))
                goes_on = was_queued or len(signs) > _SIGNS or not self._cancels
                if goes_on and not self._submission.remembers_keys:  # services can cancel
                    self._cancels = evidence.was_cancelled = False
                    raise NotSupported(f"prompt {state.prompt_id} {_NO_CANCEL}")
            runtime.sleep(0.02)
        raise JobTimeout(
            f"prompt {state.prompt_id} was cancelled, and has not ended within {_WATCH:g} s: it "
            "ends when its node allows that; behind a proxy, a ComfyUI before 0.26 ignores it",
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
