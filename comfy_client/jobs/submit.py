"""Submitting a prompt, exactly once, and attaching to one that was submitted.

A prompt whose POST got no answer may be in the queue.  It is looked up by the id that the client
chose and by its mark in ``extra_data``, and never sent again unless the user asks for that.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final, Unpack

from .. import models, runtime
from ..errors import (
    ApiError,
    ClientClosed,
    ComfyError,
    PromptRejected,
    ServerUnreachable,
    SubmitUncertain,
    TransportError,
    UnexpectedResponse,
)
from ..events import ErrorEvent
from ..log_records import Tags
from ..routes import Routes
from ..routes.prompts import PromptOptions, make_prompt, post_prompt
from ..timing import Timing
from ..transport.backoff import Backoff
from ..transport.deadline import LONGEST, Deadline, limited_silence
from ..transport.failures import is_away
from ..transport.http import Http, segment
from ..transport.websocket import State
from ..values import is_uuid
from ..workflow import Workflow
from .handle import JobHandle
from .job import Job
from .poller import Poller, find, spellings
from .prompt import TrackedPrompt
from .state import JobState
from .tracker import Tracker

#: The number of empty look-ups in a row, over some seconds, that prove that it is not there.
EMPTY_LOOKUPS: Final = 3
#: How often ``resubmit=True`` repeats a submission that left no trace.
REPEATS: Final = 2


def time_left(deadline: Deadline, most: float) -> float:
    """Return the seconds until the caller's deadline: at least 1, and at most ``most``."""
    return min(most, max(1.0, deadline.left(LONGEST)))


def submit(
    routes: Routes,
    poller: Poller,
    workflow: Workflow,
    *,
    prompt_id: str | None = None,
    keep_events: bool = False,
    wants_previews: bool = False,
    deadline: Deadline = Deadline(),  # noqa: B008  # it is frozen
    strict: bool = False,
    resubmit: bool = False,
    begun: Callable[[Job], object] | None = None,
    **options: Unpack[PromptOptions],
) -> Job:
    """Connect the socket, register a prompt and submit it by the deadline; return its job."""
    tracker = poller.tracker
    try:
        one, body = prepare(tracker, workflow, prompt_id, wants_previews, options, strict=strict)
        job = Job(JobHandle(one, routes, poller))
        if keep_events:
            one.events.keep_all()
        if begun is not None:
            begun(job)
        _send(poller, one, body, deadline, resubmit=resubmit)
        if one.state.node_errors:
            warn_or_refuse(job, tracker.http, strict=strict)
    except ComfyError as exc:
        tracker.publish(ErrorEvent(name="queue_error", error=exc))
        raise
    return job


def prepare(
    tracker: Tracker,
    workflow: Workflow,
    prompt_id: str | None,
    wants_previews: bool,
    options: PromptOptions,
    *,
    strict: bool,
) -> tuple[TrackedPrompt, Mapping[str, Any]]:
    """Return a new tracked prompt, and the body of its ``POST /prompt``."""
    prompt_id = str(uuid.uuid4()) if prompt_id is None else _canonical(prompt_id)
    client_id = tracker.connection.client_id
    prompt = make_prompt(
        tracker.http,
        workflow,
        client_id=client_id,
        prompt_id=prompt_id,
        wants_previews=wants_previews,
        strict=strict,
        **options,
    )
    one = tracker.new(prompt_id, prompt.graph)
    method = prompt.body["extra_data"].get("preview_method")
    one.state.tags = options.get("tags") or {}
    one.state.node_errors = prompt.left_out
    one.state.output_names = {**workflow.output_names}
    one.state.targets = prompt.body.get("partial_execution_targets")
    one.state.wants_previews = method is not None and method != "none"
    return one, prompt.body


def _send(
    poller: Poller,
    one: TrackedPrompt,
    body: Mapping[str, Any],
    deadline: Deadline,
    *,
    resubmit: bool,
) -> None:
    tracker, state = poller.tracker, one.state
    connection = tracker.connection
    if connection.state is not State.CONNECTED:
        connection.start()
        connection.wait_settled(time_left(deadline, tracker.timing.settle), or_failed=True)
    # The client may have a new id by now, and events go to the id in the request.
    state.client_id = connection.client_id
    body = {**body, "client_id": state.client_id}
    state.generation = tracker.link
    state.posted_at = runtime.monotonic()
    try:
        tracker.add(one, posting=True)
        tracker.accept(one, post(poller, one, body, deadline, resubmit=resubmit))
    except (ComfyError, ValueError) as exc:
        if tracker.refuse(one, exc):
            # Another thread may have attached to it.  A copy, so that a job keeps no frames.
            one.settle(one.early or copy.copy(exc))
            raise
        tracker.accept(one, models.QueuedPrompt(state.prompt_id))
    except BaseException:  # Ctrl-C or an alarm: it may be queued, and others may wait for it
        with tracker.lock:
            state.may_have_arrived(runtime.monotonic())
            early = one.early
        if early is not None:
            tracker.ledger.settle(one, early)
        tracker.ledger.log_end(state)  # it may have waited for the line of the submission
        tracker.wake.set()
        raise
    finally:
        tracker.answered(one)
        if one.waiters:
            poller.start()
    if connection.state is not State.CONNECTED:
        connection.nudge()


def attach(
    routes: Routes,
    poller: Poller,
    prompt_id: str,
    graph: Mapping[str, Any],
    *,
    output_names: Mapping[str, str] | None = None,
    lost_delay: float | None = None,
    tags: Tags | None = None,
) -> Job:
    """Return a job for a prompt that somebody submitted, maybe in another process.

    If it ended recently and its job is still in use, that job is returned.  If the job is gone, the
    reported end stands, and only the outputs are requested.
    """
    if not isinstance(prompt_id, str):
        raise TypeError(f"a job is attached by its prompt_id, a string, not {prompt_id!r:.80}")
    segment(prompt_id)
    tracker = poller.tracker
    tracker.connection.start()
    prompt_id, *others = spellings(prompt_id)
    ids = [tracker.renamed.get(name) or name for name in (prompt_id, *others)]
    with tracker.lock:
        job = next(filter(None, map(tracker.job, ids)), None)
        if isinstance(job, Job):
            return job
        ending = next(filter(None, map(tracker.ended.get, ids)), None)
        if ending is not None and not ending.is_final:
            ending = None
        prompt_id = prompt_id if ending is None else ending.event.prompt_id or prompt_id
        one = tracker.new(prompt_id, graph)
        state = one.state
        state.output_names = output_names or {}
        state.tags = tags or {}
        state.client_id = tracker.posted_as.get(prompt_id) or tracker.connection.client_id
        state.attach(runtime.monotonic(), lost_delay, None if ending is None else ending.event)
        job = Job(JobHandle(one, routes, poller))
        tracker.add(one)
        tracker.ledger.count(state, "attached" if ending is None else "before")
    if ending is not None:
        one.events.receive(ending.event)
    if ending is not None and not ending.has_record:
        tracker.resolve(one, state.as_reported(tracker.link))
    else:
        poller.start()
        tracker.poll_now(one)
    poller.wait_until(  # the state may be another's, after a merge
        lambda: one.state.http_checked or not one.state.attached or job.done(),
        tracker.timing.question,
    )
    return job


def _canonical(prompt_id: str) -> str:
    """Return ``prompt_id`` if it is a canonical UUID; raise ValueError if it is not."""
    if not is_uuid(prompt_id):
        raise ValueError(
            f"prompt_id must be a canonical UUID, as str(uuid.uuid4()) returns it: {prompt_id!r}"
        )
    return prompt_id


def post(
    poller: Poller,
    one: TrackedPrompt,
    body: Mapping[str, Any],
    deadline: Deadline,
    *,
    resubmit: bool,
) -> models.QueuedPrompt:
    """Submit a prompt; if no answer comes, find out whether the server has it."""
    http, timing, state = poller.tracker.http, poller.timing, one.state
    total = http.total_timeout
    repeats = REPEATS if resubmit else 0
    was_sent = False
    cause: ComfyError
    while True:
        try:
            return post_prompt(http, body, timeout=time_left(deadline, total))
        except PromptRejected as exc:
            from ..routes.refusals import blame_what_was_left_out

            blame_what_was_left_out(exc, state.graph, state.node_errors)
            raise
        except ServerUnreachable as exc:
            if not was_sent:
                raise  # nothing was sent
            cause = exc
        except UnexpectedResponse as exc:
            found = _behind_a_page(http, state, timing) if exc.status < 300 else None
            if found is None:
                raise
            return models.QueuedPrompt(found)
        except (TransportError, ApiError) as exc:
            if not is_away(exc):
                if was_sent:  # perhaps accepted by a server that died afterwards
                    raise _uncertain(state.prompt_id, exc) from exc
                raise
            cause = exc
        # With ``resubmit``, also wait for a server that is away.
        seconds = time_left(deadline, max(timing.look_up, total) if repeats else timing.look_up)
        found, is_sure = _look_up(poller, state, cause, seconds)
        if found is not None:
            return models.QueuedPrompt(found)
        if state.cancelled or not (is_sure and repeats):
            raise _uncertain(state.prompt_id, cause) from cause
        was_sent = True
        repeats -= 1
        said = "prompt %s left no trace; submitting it again"
        poller.tracker.log.warning(said, state.prompt_id, extra=state.named)


def _behind_a_page(http: Http, state: JobState, timing: Timing) -> str | None:
    """Return the id of a prompt that the server has although a proxy's page answered, or None."""
    deadline = Deadline.after(timing.question)
    try:
        with limited_silence(timing.question):
            return find(http, state.prompt_id, state.client_id, deadline)
    except ComfyError:
        return None


def _uncertain(prompt_id: str, cause: ComfyError) -> SubmitUncertain:
    return SubmitUncertain(
        f"prompt {prompt_id} was sent, but no answer came ({cause}), and then it was found "
        "neither in the queue nor in the history; it may still appear",
        prompt_id=prompt_id,
    )


def _look_up(
    poller: Poller, state: JobState, cause: ComfyError, seconds: float
) -> tuple[str | None, bool]:
    """Find out whether the server has a prompt whose submission got no response.

    Return its id, or None, and whether a None is certain.
    """
    log, said = poller.tracker.log, "prompt %s: no answer (%s); looking for it"
    log.warning(said, state.prompt_id, cause, extra=state.named)
    timing, wake = poller.timing, poller.tracker.wake
    deadline, sure = Deadline.after(seconds), Deadline()
    pauses = Backoff(0.2, 2.0, factor=1.6, jitter=0.0)
    looks = 0  # empty look-ups in a row
    while not deadline.expired:
        if state.was_taken:
            return state.prompt_id, True
        try:
            with limited_silence(timing.question):
                found = find(poller.tracker.http, state.prompt_id, state.client_id, deadline)
        except ComfyError as exc:
            looks = 0
            log.debug("look-up failed: %s", exc, extra=state.named)
        else:
            if found is not None:
                return found, True
            sure = sure if looks else Deadline.after(timing.look_up_sure)
            looks += 1
            if looks >= EMPTY_LOOKUPS and sure.expired:
                return None, True
        if wake.wait_stopped(pauses.next()):
            raise ClientClosed
    return None, False  # silence, or a single empty look-up, proves nothing


def warn_or_refuse(job: Job, http: Http, *, strict: bool) -> None:
    """Warn that only a part of a workflow runs; with ``strict``, cancel the job and raise."""
    from ..routes.refusals import partly_refused  # seldom needed, and slow to import

    hide = http.identity.hide  # as the server may repeat secrets
    words, error = partly_refused(hide(job.node_errors), job.graph, hide)
    if not strict:
        lines = words.splitlines()
        text = "prompt %s runs, but without some of its outputs:" + "\n%s" * len(lines)
        http.log.warning(text, job.prompt_id, *lines, extra=job.handle.state.named)
        return
    try:
        if not job.cancel():
            error.add_note(f"prompt {job.prompt_id} had ended before it could be cancelled")
    except ComfyError as exc:
        error.add_note(f"prompt {job.prompt_id} could not be cancelled and may keep running: {exc}")
    raise error
