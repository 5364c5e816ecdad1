"""What is sent about one prompt: its submission, exactly once, and its end by our hand.

A POST that got no answer may have been queued.  It is looked for, by the id that we chose and
by our mark in ``extra_data``, and never repeated on our own account.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from .. import models
from ..errors import (
    ApiError,
    ClientClosed,
    ComfyError,
    NotSupported,
    PromptRejected,
    ServerUnreachable,
    SubmitUncertain,
    TransportError,
    UnexpectedResponse,
)
from ..routes.prompts import (
    AnyWorkflow,
    PromptOptions,
    blame_what_was_left_out,
    make_prompt,
    post_prompt,
)
from ..transport.deadline import limited_silence
from ..transport.failures import is_away
from ..workflow import explain_rejection
from .job import Job
from .queue_monitor import PATIENCE, find, heeds_id

if TYPE_CHECKING:
    from ..client import ComfyApi

log: logging.Logger = logging.getLogger("comfy_client")

#: Seconds in which an unanswered submission is looked for, while the server cannot tell.
LOOK_UP: Final = 10.0
#: It can tell: so many looks in a row, over so many seconds, have found nothing.
LOOKS: Final = 3
LOOKS_FOR: Final = 3.0
#: How often ``resubmit=True`` repeats what left no trace.
REPEATS: Final = 2


def time_left(deadline: float | None, most: float) -> float:
    """Seconds until the caller's deadline; a second at least, to find out what became of it."""
    return most if deadline is None else min(most, max(1.0, deadline - time.monotonic()))


def prepare(
    api: ComfyApi,
    workflow: AnyWorkflow,
    prompt_id: str | None,
    wants_previews: bool,
    options: PromptOptions,
    *,
    strict: bool,
) -> tuple[Job, Mapping[str, Any]]:
    """A job that nobody knows of yet, and the body of its POST."""
    prompt_id = str(uuid.uuid4()) if prompt_id is None else _canonical(prompt_id)
    prompt = make_prompt(
        api._http,
        workflow,
        client_id=api.client_id,
        prompt_id=prompt_id,
        wants_previews=wants_previews,
        strict=strict,
        **options,
    )
    job = Job(api, prompt_id, prompt.graph)
    job.node_errors = prompt.left_out
    job._known.targets = prompt.body.get("partial_execution_targets")
    method = prompt.body["extra_data"].get("preview_method")
    job._known.wants_previews = method is not None and method != "none"
    return job, prompt.body


def _canonical(prompt_id: str) -> str:
    """An id that every server takes; ValueError for another."""
    try:
        is_canonical = str(uuid.UUID(prompt_id)) == prompt_id
    except (ValueError, AttributeError, TypeError):
        is_canonical = False
    if not is_canonical:
        raise ValueError(f"prompt_id is a canonical UUID, as str(uuid.uuid4()): {prompt_id!r}")
    return prompt_id


def post(
    api: ComfyApi,
    job: Job,
    body: Mapping[str, Any],
    deadline: float | None,
    *,
    resubmit: bool,
    pause: Callable[[float], bool],
) -> models.QueuedPrompt:
    """``POST /prompt``; ``pause(seconds)`` waits, and is true when the client ends."""
    total = api._http.total_timeout
    repeats = REPEATS if resubmit else 0
    was_sent = False
    cause: ComfyError
    while True:
        try:
            return post_prompt(api._http, body, timeout=time_left(deadline, total))
        except PromptRejected as exc:
            blame_what_was_left_out(exc, job.graph, job.node_errors)
            raise
        except ServerUnreachable as exc:
            if not was_sent:
                raise  # nothing was
            cause = exc
        except UnexpectedResponse as exc:
            found = _behind_a_page(api, job) if exc.status < 300 else None
            if found is None:
                raise
            return models.QueuedPrompt(found)
        except (TransportError, ApiError) as exc:
            if not is_away(exc):
                raise
            cause = exc
        # Whoever wants it sent again wants to wait for a server that is away.
        seconds = time_left(deadline, max(LOOK_UP, total) if repeats else LOOK_UP)
        found, is_sure = _look_up(api, job, cause, seconds, pause)
        if found is not None:
            return models.QueuedPrompt(found)
        if not (is_sure and repeats):
            raise _uncertain(job, cause) from cause
        was_sent = True
        repeats -= 1
        log.warning("prompt %s left no trace; submitting it again", job.prompt_id)


def _behind_a_page(api: ComfyApi, job: Job) -> str | None:
    """The id of a submission that something on the way has answered, if the server has it."""
    try:
        with limited_silence(PATIENCE):
            return find(api, job.prompt_id, job._known.client_id, time.monotonic() + PATIENCE)
    except ComfyError:
        return None


def _uncertain(job: Job, cause: ComfyError) -> SubmitUncertain:
    return SubmitUncertain(
        f"prompt {job.prompt_id} was sent, but no answer came ({cause}), and then it was found "
        "neither in the queue nor in the history; it may still appear",
        prompt_id=job.prompt_id,
    )


def _look_up(
    api: ComfyApi,
    job: Job,
    cause: ComfyError,
    seconds: float,
    pause: Callable[[float], bool],
) -> tuple[str | None, bool]:
    """The id of a submission that got no answer, and whether the server said so at last."""
    log.warning("prompt %s: no answer (%s); looking for it", job.prompt_id, cause)
    end = time.monotonic() + seconds
    between = 0.2
    looks, since = 0, 0.0  # of those in a row that have found nothing
    while time.monotonic() < end and not (looks >= LOOKS and since < time.monotonic() - LOOKS_FOR):
        if job._known.started or job._known.decided:
            return job.prompt_id, True
        try:
            with limited_silence(PATIENCE):
                found = find(api, job.prompt_id, job._known.client_id, end)
        except ComfyError as exc:
            looks = 0
            log.debug("look-up failed: %s", exc)
        else:
            if found is not None:
                return found, True
            since = since if looks else time.monotonic()
            looks += 1
        if pause(between):
            raise ClientClosed
        between = min(between * 1.6, 2.0)
    return None, looks > 0


def warn_or_refuse(job: Job, hide: Callable[[Any], Any], *, strict: bool) -> None:
    """The server runs only the valid part of a workflow; ``hide`` takes secrets out of why."""
    node_errors = hide(job.node_errors)
    problems = explain_rejection({"node_errors": node_errors}, job.graph)
    if not strict:
        log.warning("prompt %s runs, but without some of its outputs:\n%s", job.prompt_id, problems)
        return
    error = PromptRejected(
        f"the server would run only a part of the workflow (strict=True):\n{problems}",
        node_errors=node_errors,
        method="POST",
        path="/prompt",
        status=200,
    )
    try:
        if not job.cancel():
            error.add_note(f"prompt {job.prompt_id} had ended before it could be cancelled")
    except ComfyError as exc:
        error.add_note(f"prompt {job.prompt_id} could not be cancelled and may go on: {exc}")
    raise error


def stop(api: ComfyApi, job: Job, *, force: bool) -> bool:
    """Stop one prompt on a server without a jobs API; whether it was there to be stopped."""
    was_deleted = False
    for _ in range(3):  # it may begin between the look and the act
        queue = api.get_queue()
        if any(item.prompt_id == job.prompt_id for item in queue.pending):
            api.delete_from_queue(job.prompt_id)
            was_deleted = True
        elif any(item.prompt_id == job.prompt_id for item in queue.running):
            if not force and not heeds_id(api):
                raise NotSupported(
                    f"prompt {job.prompt_id} runs, and this server's interrupt stops whatever "
                    "runs when it comes (ComfyUI before 0.3.57): "
                    f"api.job({job.prompt_id!r}).cancel(force=True) takes that risk",
                    method="POST",
                    path="/interrupt",
                )
            api._http.send_command("POST", "/interrupt", json={"prompt_id": job.prompt_id})
            return True
        else:
            break
    return was_deleted
