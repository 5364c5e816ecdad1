"""The events of one job as server-sent events.

As on the proxy, a stream receives ComfyUI's messages under the job's client id.  So a second stream
of a job gets all further messages in place of the first, which notices the end of the job only at
its next keepalive.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import struct
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

import attrs
from aiohttp import web

from ..server_state import RouteTable
from ..wire import hang_up
from .hosted_state import HostedState, job_id_of, no_job
from .job_routes import JobView, look
from .v2_errors import Refusal

_TICK = 0.05  # seconds between two checks of what changes without a message
_POLL = 0.005  # seconds between two checks of a job that is about to end
_PREVIEW, _PREVIEW_WITH_METADATA = 1, 4
_TYPES = {1: "image/jpeg", 2: "image/png"}
_ENDS = ("execution_success", "execution_error", "execution_interrupted")
#: The event and the data of a frame; without an event, the frame is a comment.
SentFrame = tuple[str | None, Any]


@attrs.define(eq=False)
class _Subscriber:
    """A receiver of ComfyUI's messages for one client."""

    client_id: str
    receives: bool = True
    messages: deque[str | bytes] = attrs.field(factory=deque)
    _news: asyncio.Event = attrs.field(factory=asyncio.Event)

    async def send(self, message: str | bytes, parts: int = 1, pause: float = 0.0) -> None:
        self.messages.append(message)
        self._news.set()

    async def send_raw(self, data: bytes) -> None:
        """Ignore raw bytes, which are frames of a WebSocket."""

    async def wait(self, seconds: float) -> bool:
        """Wait for a message; return whether there is one."""
        if not self.messages:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), seconds)
        return bool(self.messages)


@attrs.define(eq=False)
class JobStream:
    """A stream of a job's events."""

    _hosted: HostedState
    _request: web.Request
    _job_id: str
    _base: str
    _sent: set[str] = attrs.field(factory=set)
    _told: dict[str, Any] = attrs.field(factory=dict)  # the last status
    _last: dict[str, float] = attrs.field(factory=dict)  # when each kind of frame was sent

    async def frames(self) -> AsyncGenerator[SentFrame]:
        """Yield the frames of the stream, from the status at the beginning to the end."""
        view = self._look()
        if view.has_ended:
            frames = [self._status(view), *self._outputs(view)]
            is_last = self._hosted.traps.outputs_after_status == "never"
            for frame in [*frames[1:], frames[0]] if is_last else frames:
                yield frame
            return
        yield self._status(view)
        if view.progress:
            yield "progress", view.progress
        subscriber = _Subscriber(self._job_id)
        with self._hosted.comfy.sockets.subscribed(subscriber):
            async for frame in self._live(subscriber):
                yield frame

    def _look(self) -> JobView:
        return look(self._hosted, self._job_id, self._base)

    def _status(self, view: JobView) -> SentFrame:
        self._told = view.snapshot()
        return "status", self._told

    async def _live(self, subscriber: _Subscriber) -> AsyncGenerator[SentFrame]:
        heard = time.monotonic()
        while True:
            traps = self._hosted.traps
            has_news = await subscriber.wait(_TICK)
            if traps.upstream != "up" and await self._is_cut_off():
                return
            if has_news:
                heard = time.monotonic()
                message = subscriber.messages.popleft()
                for frame in self._translated(message):
                    yield frame
                if self._is_end(message):
                    break
            elif time.monotonic() - heard >= traps.keepalive:
                heard = time.monotonic()
                yield None, "keepalive"
                if self._look().has_ended:
                    async for frame in self._end("always"):
                        yield frame
                    return
            if traps.every_status:
                view = self._look()
                if view.has_ended:
                    break
                if view.snapshot() != self._told:
                    yield self._status(view)
        async for frame in self._end(self._hosted.traps.outputs_after_status):
            yield frame

    async def _is_cut_off(self) -> bool:
        """Return whether ComfyUI is unreachable; wait while it does not answer."""
        try:
            await self._hosted.reach(self._request)
        except Refusal:
            return True
        return False

    async def _end(self, late: str) -> AsyncGenerator[SentFrame]:
        """Yield the last frames; ``late`` says which jobs have their outputs after the status."""
        queue, traps = self._hosted.comfy.queue, self._hosted.traps
        while not traps.early_end and queue.running_id == self._job_id and not queue.closed:
            await asyncio.sleep(_POLL)
        view = self._look()
        is_late = late == "always" or (late == "failed" and view.shown_status != "succeeded")
        outputs = list(self._outputs(view))
        for frame in [] if is_late else outputs:
            yield frame
        yield self._status(view)
        for frame in outputs if is_late else []:
            yield frame

    def _outputs(self, view: JobView) -> Iterator[SentFrame]:
        for output in view.outputs:
            if output["id"] not in self._sent:
                self._sent.add(output["id"])
                yield "output", output

    # -- translation --------------------------------------------------------------------

    def _translated(self, message: str | bytes) -> Iterator[SentFrame]:
        if isinstance(message, bytes):
            preview = _preview(message)
            if preview and self._is_due("preview"):
                yield "preview", preview
            return
        name, data = _event(message)
        is_progress = name in ("progress", "progress_state") and self._is_ours(data)
        if is_progress and self._is_due("progress"):
            yield "progress", (_progress if name == "progress" else _progress_frame)(data)

    def _is_due(self, kind: str) -> bool:
        """Return whether enough time has passed since the last frame of this kind."""
        now, last = time.monotonic(), self._last.get(kind)
        if last is not None and now - last < self._hosted.traps.progress_every:
            return False
        self._last[kind] = now
        return True

    def _is_end(self, message: str | bytes) -> bool:
        if isinstance(message, bytes):
            return False
        name, data = _event(message)
        return name in _ENDS and self._is_ours(data)

    def _is_ours(self, data: Mapping[str, Any]) -> bool:
        return data.get("prompt_id") in (None, self._job_id)


def _event(message: str) -> tuple[str | None, dict[str, Any]]:
    try:
        read = json.loads(message)
    except ValueError:
        return None, {}
    data = read.get("data") if isinstance(read, dict) else None
    return (read["type"], data) if isinstance(data, dict) and "type" in read else (None, {})


def _progress(data: Mapping[str, Any]) -> dict[str, Any]:
    value, most = float(data.get("value", 0)), float(data.get("max", 1)) or 1.0
    node = data.get("node")
    return {
        "value": max(0.0, min(1.0, value / most)),
        "nodes_done": 0,
        "nodes_total": 0,
        "current_node": None if node is None else str(node),
        "step": int(value),
        "steps": int(most),
    }


def _progress_frame(data: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a ``progress_state`` event to a ``progress`` event of the stream.

    Its total counts only the nodes that the event lists, so it grows.
    """
    nodes = data.get("nodes") or {}
    done = sum(node.get("state") == "finished" for node in nodes.values())
    running = next((one for one, node in nodes.items() if node.get("state") == "running"), None)
    current = nodes.get(running) or {}
    part = current["value"] / current["max"] if current.get("max") else 0.0
    value = (done + part) / len(nodes) if nodes else 0.0
    return {
        "value": max(0.0, min(1.0, value)),
        "nodes_done": done,
        "nodes_total": len(nodes),
        "current_node": None if running is None else str(running),
        "step": int(current["value"]) if current.get("value") is not None else None,
        "steps": int(current["max"]) if current.get("max") is not None else None,
    }


def _preview(message: bytes) -> dict[str, Any] | None:
    if len(message) < 8:
        return None
    event, number = struct.unpack(">II", message[:8])
    if event == _PREVIEW:
        node, kind, image = "", _TYPES.get(number, "image/jpeg"), message[8:]
    elif event == _PREVIEW_WITH_METADATA:
        try:
            metadata = json.loads(message[8 : 8 + number])
        except ValueError:
            metadata = {}
        node, kind = str(metadata.get("node_id", "")), metadata.get("image_type", "image/jpeg")
        image = message[8 + number :]
    else:
        return None
    return {
        "node_id": node,
        "content_type": kind,
        "data_base64": base64.b64encode(image).decode(),
    }


# -- the route --------------------------------------------------------------------------


def encode_frame(frame: SentFrame) -> bytes:
    """Return the bytes of a frame."""
    event, data = frame
    if event is None:
        return f": {data}\n\n".encode()
    return f"event: {event}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


async def _get_events(hosted: HostedState, request: web.Request) -> web.StreamResponse:
    job_id = job_id_of(request)
    traps = hosted.traps
    if not traps.events:
        raise Refusal("not_implemented")
    await hosted.reach(request)
    base = hosted.base(request)
    if look(hosted, job_id, base).status == "unknown" and job_id not in hosted.memory.jobs:
        raise no_job(job_id)
    if hosted.streams >= traps.max_streams:
        raise Refusal("too_many_streams")
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-cache",
            "Connection": "keep-alive",
            "X-Accel-Buffering": "no",
        }
    )
    hosted.streams += 1
    try:
        await response.prepare(request)
        await _send(JobStream(hosted, request, job_id, base), hosted, request, response)
    except ConnectionError:
        pass  # the client has left
    finally:
        hosted.streams -= 1
    return response


async def _send(
    stream: JobStream, hosted: HostedState, request: web.Request, response: web.StreamResponse
) -> None:
    count = 0
    async with contextlib.aclosing(stream.frames()) as frames:
        async for frame in frames:
            if count == hosted.traps.cut_stream_after:
                if request.transport is not None:
                    hang_up(request.transport, reset=False)
                return
            await response.write(encode_frame(frame))
            count += 1


STREAM_ROUTES: RouteTable[HostedState] = (("GET", "/jobs/{id}/events", _get_events),)
