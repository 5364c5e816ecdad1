"""WebSocket frames, and one open event socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from typing import Any, cast

import aiohttp
import attrs
from aiohttp import web

from .raw_http import hang_up


def frame(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    """Return an unmasked WebSocket frame; its opcode is 1 text, 2 binary, 8 close or 9 ping."""
    size = len(payload)
    head = bytes([(0x80 if fin else 0) | opcode])
    if size < 126:
        head += bytes([size])
    elif size < 65536:
        head += struct.pack(">BH", 126, size)
    else:
        head += struct.pack(">BQ", 127, size)
    return head + payload


def pieces(opcode: int, payload: bytes, parts: int) -> list[bytes]:
    """Split a message into up to ``parts`` frames."""
    size = -(-len(payload) // parts) or 1
    chunks = [payload[i : i + size] for i in range(0, len(payload), size)] or [b""]
    last = len(chunks) - 1
    return [frame(0 if i else opcode, c, fin=i == last) for i, c in enumerate(chunks)]


def encode_message(event: str | int, data: Any) -> str | bytes:
    """Encode a named event as JSON text, or a numbered event as a binary message."""
    if isinstance(event, int):
        return struct.pack(">I", event) + cast(bytes, data)
    return json.dumps({"type": event, "data": data})


@attrs.define(eq=False)
class EventSocket:
    """An open event socket, for the server's own thread only."""

    client_id: str
    ws: web.WebSocketResponse
    transport: asyncio.Transport | None
    _is_muted: bool = False
    _is_paused: bool = False
    _writing: asyncio.Lock = attrs.field(factory=asyncio.Lock)  # held for the whole of a frame

    @property
    def receives(self) -> bool:
        """Whether messages are sent to this socket."""
        return not (self._is_muted or self._is_paused)

    async def send(self, message: str | bytes, parts: int = 1, pause: float = 0.0) -> None:
        """Send a message in ``parts`` frames, and pause for some seconds in its middle."""
        async with self._writing:
            with contextlib.suppress(aiohttp.ClientError, ConnectionError):
                if parts > 1 or pause:
                    await self._send_in_pieces(message, parts, pause)
                elif isinstance(message, str):
                    await self.ws.send_str(message)
                else:
                    await self.ws.send_bytes(message)

    async def _send_in_pieces(self, message: str | bytes, parts: int, pause: float) -> None:
        is_text = isinstance(message, str)
        payload = message.encode() if isinstance(message, str) else message
        data = frame(9, b"still there?").join(pieces(1 if is_text else 2, payload, parts))
        if pause:
            self.write(data[: len(data) // 2])
            await asyncio.sleep(pause)
            data = data[len(data) // 2 :]
        self.write(data)

    async def send_raw(self, data: bytes) -> None:
        """Send raw bytes after the frame that is being sent."""
        async with self._writing:
            self.write(data)

    async def pong(self, data: bytes) -> None:
        """Answer a ping."""
        async with self._writing:
            with contextlib.suppress(aiohttp.ClientError, ConnectionError):
                await self.ws.pong(data)

    def write(self, data: bytes) -> None:
        """Write raw bytes immediately, even in the middle of a frame."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def hang_up(self, reset: bool) -> None:
        """End the connection, with an RST if ``reset`` is true, else with a FIN."""
        if self.transport is not None:
            hang_up(self.transport, reset=reset)

    def mute(self) -> None:
        """Stop sending messages to the socket; pings are still answered."""
        self._is_muted = True

    def unmute(self) -> None:
        """Send messages to the socket again."""
        self._is_muted = False

    def pause(self) -> None:
        """Stop reading from the socket and sending messages to it."""
        self._is_paused = True
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        """Resume reading from the socket and sending messages to it."""
        self._is_paused = False
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()
