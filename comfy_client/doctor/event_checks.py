"""Checks of the event socket, a prompt from end to end, and the client's own socket."""

from __future__ import annotations

import contextlib
import random
import time
import uuid
from functools import partial
from typing import Final

from .. import models
from ..errors import AuthenticationError, ComfyError, RequestTimeout, ServerUnreachable
from ..events import EndEvent, Executing, FeatureFlags, StatusEvent
from ..routes.history import entry_of
from ..routes.prompts import EXTRA_DATA_KEY
from ..transport.deadline import Deadline
from ..transport.decode import HELLO
from ..transport.dial import dial
from ..transport.http import segment
from ..transport.response import Response
from ..transport.websocket import State
from .context import CheckContext, EventReader, decode_model, in_ms
from .report import CheckResult, failed, ok, unknown, warning

_UPGRADE: Final = (
    "have the proxy pass WebSockets on (nginx: proxy_http_version 1.1; proxy_set_header Upgrade "
    '$http_upgrade; proxy_set_header Connection "upgrade"); until then results come by '
    "polling, without previews and progress"
)
#: Advice if events were dropped.
SLOW_RECEIVERS: Final = "receivers are slow: have them hand their work to a thread"
#: Seconds for the client's event thread to read pending messages.
_ITS_TURN: Final = 2.0


def check_websocket(ctx: CheckContext) -> CheckResult:
    """Check that ``/ws`` can be opened as a WebSocket, even through a proxy."""
    if ctx.client.plan is None:
        return unknown("not used with transport='poll': no previews")
    begun = time.monotonic()
    try:
        line = dial(ctx.client.plan(ctx.client_id), ctx.left, ctx.sockets.hold)
    except AuthenticationError as exc:
        advice = "HTTP is accepted: have the proxy treat /ws like the rest"
        return failed(ctx.redact.foreign(exc), advice)
    except ServerUnreachable as exc:
        return failed(ctx.redact.foreign(exc), "results come by polling, without previews")
    except ComfyError as exc:
        return failed(f"HTTP works, but {ctx.redact.foreign(exc)}", _UPGRADE)
    ctx.reader = EventReader(line)
    return ok(f"opened in {in_ms(time.monotonic() - begun)}")


def check_greeting(ctx: CheckContext) -> CheckResult:
    """Check that the event socket delivers messages: ComfyUI sends its ``status`` first."""
    begun = time.monotonic()
    if ctx.read_until(lambda: _has_status(ctx), ctx.left):
        return ok(f"status after {in_ms(time.monotonic() - begun)}")
    text = f"open, but deaf: no status within {time.monotonic() - begun:.1f} s"
    advice = "a proxy that holds answers back, a server that hangs, or no ComfyUI behind /ws"
    return failed(text, advice)


def check_echo(ctx: CheckContext) -> CheckResult:
    """Check that the server answers what the client sends over the event socket."""
    reader = ctx.reader
    if reader is None:
        return unknown("no socket")
    begun = time.monotonic()
    reader.line.send(HELLO)
    reader.line.ping()
    if not ctx.read_until(lambda: reader.pongs > 0, ctx.left):
        text = "a ping is not answered"
        return failed(text, "what this client sends does not arrive: check the proxy")
    text = f"a ping came back after {in_ms(time.monotonic() - begun)}"
    if ctx.features and not ctx.read_until(lambda: reader.has(FeatureFlags), ctx.left):
        text += ", but no answer to a message: the socket is deaf"
        return failed(text, "restart the server, or the proxy before it")
    return ok(text)


def check_run(ctx: CheckContext) -> CheckResult:
    """Check that a trivial prompt runs from submission to result."""
    own = ctx.client.connection
    generation = own.generation if own.state is State.CONNECTED else None
    status_at = ctx.client.status_at()
    begun = time.monotonic()
    answer = _submit(ctx)
    receipt = decode_model(answer, models.QueuedPrompt.from_json) if answer.status == 200 else None
    if receipt is None:
        text = f"POST /prompt: {answer.status}, {ctx.brief(answer.kind) or 'no content type'}"
        advice = "HTTP lets GET through: does a proxy refuse or redirect POST?"
        if answer.status == 400:
            text += ": the server refused EmptyImage and PreviewImage"
            advice = "its nodes are not ComfyUI's own: look at its terminal"
        return failed(text, advice)
    outcome = _await_outcome(ctx, receipt.prompt_id)
    seconds = time.monotonic() - begun
    if generation is not None:
        ctx.own_was_deaf = _is_deaf(ctx, generation, status_at)
    events = ctx.reader.of(receipt.prompt_id) if ctx.reader is not None else []
    came = ", ".join(dict.fromkeys(event.name for event in events))
    by = f"the socket brought {came or 'nothing'}"
    if not outcome:
        with contextlib.suppress(ComfyError):
            ctx.post("/queue", {"delete": [receipt.prompt_id]}, 2.0)
        text = f"not finished after {seconds:.1f} s, and deleted if it was still pending; {by}"
        return warning(text, "see 'queue'; or give the doctor a longer timeout")
    text = f"EmptyImage to PreviewImage {outcome} in {in_ms(seconds)}; {by}"
    if outcome != "succeeded":
        return failed(text, "look at the server's terminal")
    if ctx.reader is not None and not came:
        advice = "the socket is open but deaf: results come by polling; restart the server"
        return failed(text, advice)
    return ok(text)


def _submit(ctx: CheckContext) -> Response:
    """Submit a tiny prompt that any ComfyUI can run; return the server's answer."""
    prompt_id = str(uuid.uuid4())
    colour = random.randrange(1 << 24)  # noqa: S311  # it keeps the prompt from being cached
    image = {"width": 16, "height": 16, "batch_size": 1, "color": colour}
    body = {
        "prompt": {
            "1": {"class_type": "EmptyImage", "inputs": image},
            "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        },
        "client_id": ctx.client_id,
        "prompt_id": prompt_id,
        "extra_data": {EXTRA_DATA_KEY: prompt_id},
    }
    if ctx.reader is not None:
        ctx.reader.events.clear()
    return ctx.post("/prompt", body, ctx.left)


def _await_outcome(ctx: CheckContext, prompt_id: str) -> str:
    """Wait for a prompt to end; return ``"succeeded"``, ``"failed"``, or ``""`` on a timeout."""

    def over() -> bool:
        return ctx.reader is not None and any(
            isinstance(event, EndEvent) or (isinstance(event, Executing) and not event.node)
            for event in ctx.reader.of(prompt_id)
        )

    pause = 0.02
    while not ctx.check_end.expired:
        try:
            ctx.read_until(over, 0.5)
        except ComfyError:
            ctx.reader = None
        try:
            entry = ctx.ask(f"/history/{segment(prompt_id)}", partial(entry_of, prompt_id))
        except RequestTimeout:
            if ctx.check_end.expired:
                break  # time ran out while we asked, which says nothing about the server
            raise
        if entry is not None:
            with contextlib.suppress(ComfyError):
                ctx.read_until(over, 1.0)  # events may still be on their way
            return "succeeded" if entry.succeeded else "failed"
        if ctx.reader is None or over():
            time.sleep(pause)  # history is written shortly after the last event
            pause = min(1.0, 1.5 * pause)
    return ""


def _is_deaf(ctx: CheckContext, generation: int, status_at: float) -> bool:
    """Return whether the client's own socket stayed connected but missed a prompt's events."""
    deadline = Deadline.after(_ITS_TURN)
    while ctx.client.status_at() == status_at and not deadline.expired:
        time.sleep(0.02)
    own = ctx.client.connection
    unbroken = own.state is State.CONNECTED and own.generation == generation
    return unbroken and ctx.client.status_at() == status_at


def check_client(ctx: CheckContext) -> CheckResult:
    """Check the state of the client's own event socket."""
    client, connection = ctx.client, ctx.client.connection
    state = connection.state
    notes = [f"its socket: {state.value}"]
    if connection.generation > 1:
        notes.append(f"connected {connection.generation} times")
    if client.outstanding:
        notes.append(f"{client.outstanding} jobs outstanding")
    quiet = connection.quiet_for
    if state is State.CONNECTED and quiet < float("inf"):
        notes.append(f"last message {quiet:.1f} s ago")
    if connection.error is not None:
        notes.append(f"last failure: {ctx.redact.foreign(connection.error)}")
    if client.dropped_events:
        notes.append(f"{client.dropped_events} events were dropped for newer ones")
    text = "; ".join(notes)
    if ctx.own_was_deaf:
        advice = (
            "it is open but receives nothing: does another client use the same client_id? "
            "It reconnects with the next job; results come by polling"
        )
        return warning(text, advice)
    if state in (State.WAITING, State.POLLING) and client.plan is not None:
        works = "; a fresh socket works now" if _has_status(ctx) else ""
        return warning(text, f"it reconnects by itself{works}")
    if client.dropped_events:
        return warning(text, SLOW_RECEIVERS)
    return ok(text)


def _has_status(ctx: CheckContext) -> bool:
    return ctx.reader is not None and ctx.reader.has(StatusEvent)
