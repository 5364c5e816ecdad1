"""Submitting a prompt, exactly once, and attaching to one that was submitted."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Unpack

from .. import models, runtime
from ..errors import ClientClosed, ComfyError, Throttled
from ..events import ErrorEvent
from ..log_records import Tags
from ..routes import Routes
from ..routes.prompts import PromptOptions, make_prompt
from ..transport.deadline import Backoff, Deadline
from ..transport.http import Http, segment
from ..transport.websocket import State
from ..values import T
from ..workflow import Workflow
from .handle import SLICE, JobHandle
from .job import Job
from .lookup import spellings
from .poller import Poller, time_left
from .prompt import Prompt
from .tracker import Tracker


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
    waits: bool = True,
    begun: Callable[[Job], object] | None = None,
    **options: Unpack[PromptOptions],
) -> Job:
    """Connect the socket, register a prompt and submit it by the deadline; return its job.

    With ``waits``, wait for a server that takes no requests at the moment.
    """
    tracker = poller.tracker
    try:
        prompt, body = prepare(tracker, workflow, prompt_id, wants_previews, options, strict=strict)
        job = Job(JobHandle(prompt, routes, poller))
        if keep_events:
            prompt.events.keep_all()
        if begun is not None:
            begun(job)
        send = partial(_send, poller, prompt, body, deadline, resubmit=resubmit)
        try:
            if waits:
                when_free(poller, deadline, send)
            else:
                send()
        except BaseException as exc:
            _note_unsent(tracker, prompt, exc)
            raise
        if prompt.state.node_errors:
            warn_or_refuse(job, tracker.http, strict=strict)
    except ComfyError as exc:
        tracker.publish(ErrorEvent(name="queue_error", error=exc))
        raise
    return job


def when_free(poller: Poller, deadline: Deadline, ask: Callable[[], T]) -> T:
    """Call ``ask``, which sends requests; call it again while the server answers 429.

    Between two calls, wait for as long as the server says, and no longer than its client waits for
    a busy server.

    Raises:
        Throttled: The time is up, or the server wants a longer wait than there is time.
    """
    timing = poller.timing
    pauses: Backoff | None = None
    until = deadline
    while True:
        try:
            return ask()
        except Throttled as exc:
            if pauses is None:
                pauses = Backoff(timing.retry, timing.retry_cap, factor=1.6, jitter=0.3)
                until = poller.free_by(deadline)
                said = "waiting until the server takes more requests: %s"
                poller.tracker.log.warning(said, exc)
            pause = max(pauses.next(), exc.retry_after or 0.0)
            if pause >= until.left():
                raise
        over = Deadline.after(pause)
        while not over.expired:  # in slices, as Windows ignores Ctrl-C in a wait
            if poller.tracker.wake.wait_stopped(over.left(SLICE)):
                raise ClientClosed


def prepare(
    tracker: Tracker,
    workflow: Workflow,
    prompt_id: str | None,
    wants_previews: bool,
    options: PromptOptions,
    *,
    strict: bool,
) -> tuple[Prompt, Mapping[str, Any]]:
    """Return a new prompt, not yet registered, and the body of its ``POST /prompt``.

    Draws the random seeds, and has the secrets in the body masked from now on.
    """
    prompt_id = str(uuid.uuid4()) if prompt_id is None else prompt_id
    made = make_prompt(
        tracker.http,
        workflow,
        client_id=tracker.connection.client_id,
        prompt_id=prompt_id,
        wants_previews=wants_previews,
        strict=strict,
        **options,
    )
    prompt = tracker.new(prompt_id, made.graph)
    method = made.body["extra_data"].get("preview_method")
    prompt.state.tags = options.get("tags") or {}
    prompt.state.node_errors = made.left_out
    prompt.state.output_names = {**workflow.output_names}
    prompt.state.targets = made.body.get("partial_execution_targets")
    prompt.state.wants_previews = method is not None and method != "none"
    return prompt, made.body


def _send(
    poller: Poller,
    prompt: Prompt,
    body: Mapping[str, Any],
    deadline: Deadline,
    *,
    resubmit: bool,
) -> None:
    tracker, state = poller.tracker, prompt.state
    connection = tracker.connection
    if connection.state is not State.CONNECTED:
        connection.start()
        connection.wait_settled(time_left(deadline, tracker.timing.settle), or_failed=True)
    # The client may have a new id by now, and events go to the id in the request.
    state.client_id = connection.client_id
    body = {**body, "client_id": state.client_id}
    state.generation = tracker.link
    try:
        tracker.add(prompt, posting=True)
        if tracker.closed:  # now, as close() waits for what it finds there
            raise ClientClosed
        state.posted_at = runtime.monotonic()
        tracker.accept(prompt, poller.post(prompt, body, deadline, resubmit=resubmit))
    except Throttled:  # nothing runs, so it may be sent again
        state.posted_at = 0.0
        tracker.remove(prompt)
        raise
    except (ComfyError, ValueError) as exc:
        if tracker.refuse(prompt, exc):
            # Another thread may have attached to it.  A copy, so that a job keeps no frames.
            prompt.end(prompt.early or copy.copy(exc))
            raise
        tracker.accept(prompt, models.QueuedPrompt(state.prompt_id))
    except BaseException:  # Ctrl-C or an alarm: it may be queued, and others may wait for it
        with tracker.lock:
            state.may_have_arrived(runtime.monotonic())
            early = prompt.early
        if early is not None:
            tracker.end_waits(prompt, early)
        tracker.ledger.log_end(state)  # it may have waited for the line of the submission
        tracker.wake.set()
        raise
    finally:
        tracker.answered(prompt)
        if prompt.waiters:
            poller.start()
    if connection.state is not State.CONNECTED:
        connection.nudge()


def _note_unsent(tracker: Tracker, prompt: Prompt, exc: BaseException) -> None:
    """End the job of a prompt that certainly was not sent, unless it has ended."""
    if not prompt.waiters or tracker.get(prompt.state.prompt_id) is prompt:
        return
    what = f"prompt {prompt.state.prompt_id} was not sent: the wait for its server was interrupted"
    error = copy.copy(exc) if isinstance(exc, ComfyError) else ComfyError(what)
    tracker.refuse(prompt, error)
    prompt.end(error)


def attach(
    routes: Routes,
    poller: Poller,
    prompt_id: str,
    graph: Mapping[str, Any],
    *,
    output_names: Mapping[str, str] | None = None,
    lost_delay: float | None = None,
    tags: Tags | None = None,
    waits: bool = True,
) -> Job:
    """Return a job for a prompt that somebody submitted, maybe in another process.

    With ``waits``, give the server a moment to say how the prompt is doing.

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
        prompt = tracker.new(prompt_id, graph)
        state = prompt.state
        state.output_names = output_names or {}
        state.tags = tags or {}
        state.client_id = tracker.posted_as.get(prompt_id) or tracker.connection.client_id
        state.attach(runtime.monotonic(), lost_delay, None if ending is None else ending.event)
        job = Job(JobHandle(prompt, routes, poller))
        tracker.add(prompt)
        tracker.ledger.count(state, "attached" if ending is None else "before")
    if ending is not None:
        prompt.events.receive(ending.event)
    if ending is not None and not ending.has_record:
        tracker.end(prompt, state.as_reported(tracker.link))
    else:
        poller.start()
        tracker.poll_now(prompt)
    if waits:
        poller.wait_until(  # the state may be another's, after a merge
            lambda: prompt.state.http_checked or not prompt.state.attached or job.done(),
            tracker.timing.question,
        )
    return job


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
