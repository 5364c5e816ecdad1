"""Bytes on the wire: requests as a server received them, answers, and one open event socket."""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import contextlib
import functools
import hashlib
import http.client
import io
import json
import os
import queue
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import aiohttp
import attrs
from aiohttp import web

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

#: Status, headers, and a body: bytes, text, ``None``, or any JSON value.
Answer = tuple[int, Mapping[str, str], Any]


#: The next handler of a middleware.
Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Wire:
    """The connection of one request, for bytes that no server should send; any thread may use it.

    After its first use, the server no longer reads or writes the connection.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        is_plain = transport.get_extra_info("sslcontext") is None
        self._capture = _Capture(cast(asyncio.Protocol, transport.get_protocol()), is_plain)
        self._left = b""
        self._do(self._take())

    def _do(self, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
        except (RuntimeError, concurrent.futures.CancelledError):  # the server has stopped
            coroutine.close()
            raise ConnectionResetError("the connection has ended") from None

    async def _take(self) -> None:
        self._transport.set_protocol(self._capture)
        if not self._transport.is_closing() and not self._transport.is_reading():
            self._transport.resume_reading()

    def sendall(self, data: bytes) -> None:
        """Send raw bytes; raise ConnectionResetError if the client has disconnected."""
        self._do(self._send(data))

    async def _send(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)
        while self._capture.is_full and not self._transport.is_closing():
            await asyncio.sleep(0.001)
        if self._transport.is_closing():
            raise ConnectionResetError("the client has left")

    def recv(self, size: int) -> bytes:
        """Return up to ``size`` bytes once the client sends any; none if it has disconnected."""
        data = self._left or self._capture.chunks.get()
        data, self._left = data[:size], data[size:]
        if not data:
            self._capture.chunks.put(b"")  # for the next call
        return data

    def close(self, *, reset: bool = False) -> None:
        """Close the connection after sending all data, or immediately with an RST."""
        self._loop.call_soon_threadsafe(functools.partial(hang_up, self._transport, reset=reset))


class _Capture(asyncio.Protocol):
    """A protocol that collects received data, and passes other events to the previous protocol."""

    def __init__(self, before: asyncio.Protocol, is_plain: bool) -> None:
        self.chunks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.is_full = False
        self._before = before
        self._is_plain = is_plain

    def data_received(self, data: bytes) -> None:
        self.chunks.put(data)

    def eof_received(self) -> bool:
        self.chunks.put(b"")
        return self._is_plain  # the client may still receive

    def connection_lost(self, exc: Exception | None) -> None:
        self.chunks.put(b"")
        self._before.connection_lost(exc)

    def pause_writing(self) -> None:
        self.is_full = True
        self._before.pause_writing()

    def resume_writing(self) -> None:
        self.is_full = False
        self._before.resume_writing()


@attrs.frozen(eq=False)
class Request:
    """A request as the server received it.

    Attributes:
        method: The HTTP method.
        path: The path without query, the server's prefix and ``/api``; percent-encoded.
        full_path: The path without query and the server's prefix; percent-encoded.
        target: Path and query as sent.
        query: The query parameters, decoded; only the last of several with the same name.
        headers: The headers; names are case-insensitive.
        body: The bytes that were read: fewer than announced if the client was cut off.
        number: Its number, counted from 1 over the server's whole life.
        at: When it came, in seconds since the epoch.
        is_below: Whether the path is below the server's prefix; faults affect no other requests.
        rest: The faults that have yet to be applied to it; for the server's own use.
        ask: Sends a request to the port that received this one; for the server's own use.
    """

    method: str
    path: str
    full_path: str
    target: str
    query: Mapping[str, str]
    headers: CIMultiDictProxy[str] = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)
    _wire: Callable[[], Wire] = attrs.field(repr=False)
    number: int = attrs.field(default=0, repr=False)
    at: float = attrs.field(factory=time.time, repr=False)
    is_below: bool = attrs.field(default=True, repr=False)
    rest: list[Any] = attrs.field(factory=list, repr=False, init=False)
    _status: list[int] = attrs.field(factory=list, repr=False, init=False)
    ask: Callable[[Request], Coroutine[Any, Any, bytes]] = attrs.field(kw_only=True, repr=False)

    @property
    def status(self) -> int | None:
        """The HTTP status of the answer; None: none yet, or the connection ended without one."""
        return self._status[0] if self._status else None

    def answered(self, status: int) -> None:
        """Record the status of the answer; for the server's own use."""
        self._status[:] = [status]

    def json(self) -> Any:
        """Return the decoded JSON body; raise ValueError if it is not JSON."""
        return json.loads(self.body)

    @property
    def socket(self) -> Wire:
        """The connection itself, for handlers that write raw bytes."""
        return self._wire()


#: Answers a request; ``None`` if it has written to ``request.socket`` itself, which then ends.
#: Runs in a thread of its own, and may wait.
Handler = Callable[[Request], Answer | None]


def hang_up(transport: asyncio.Transport, *, reset: bool) -> None:
    """End a connection with an RST, or with a FIN after all data has been sent."""
    if not reset:
        transport.close()
        return
    connection = transport.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()


async def exchange(connection: socket.socket, request: Request) -> bytes:
    """Send a request over a connected socket; return the bytes received until it closes."""
    try:
        reader, writer = await asyncio.open_connection(sock=connection)
        try:
            return await _read_answer(reader, writer, request)
        finally:
            writer.close()
    finally:
        connection.close()


async def _read_answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request
) -> bytes:
    drop = ("connection", "content-length", "transfer-encoding", "expect")
    lines = [f"{request.method} {request.target} HTTP/1.1"]
    lines += [f"{name}: {v}" for name, v in request.headers.items() if name.lower() not in drop]
    lines += ["Connection: close", f"Content-Length: {len(request.body)}", "", ""]
    writer.write("\r\n".join(lines).encode("utf-8", "surrogateescape") + request.body)
    data = bytearray()
    with contextlib.suppress(ConnectionError):  # a fault may have cut it
        while piece := await reader.read(2**16):
            data += piece
    return bytes(data)


class _Bytes(io.BytesIO):
    """A stand-in for a socket, from which ``http.client`` reads bytes."""

    def makefile(self, mode: str) -> io.BytesIO:
        return self


def decode(data: bytes, method: str) -> Answer:
    """Parse the bytes of an answer and decode JSON; raise ConnectionResetError if incomplete."""
    response = http.client.HTTPResponse(_Bytes(data), method=method)  # type: ignore[arg-type]
    response.begin()
    try:
        content = response.read()
    except http.client.IncompleteRead as exc:
        raise ConnectionResetError("the answer ends early") from exc
    framing = ("content-length", "transfer-encoding", "connection", "date", "server")
    headers = {name: value for name, value in response.getheaders() if name.lower() not in framing}
    body: Any = content or None
    if content and response.headers.get_content_type() == "application/json":
        body = json.loads(content)
    return response.status, headers, body


def upgrade(request: Request) -> Answer:
    """Return the answer to a WebSocket handshake."""
    key = request.headers.get("Sec-WebSocket-Key")
    if key is None:
        return 400, {}, "No WebSocket UPGRADE hdr"
    accept = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode())  # noqa: S324
    proof = base64.b64encode(accept.digest()).decode()
    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": proof}
    return 101, headers, None


def encode(answer: Answer) -> bytes:
    """Return the bytes of an answer; a wrong ``Content-Length`` in its headers is kept."""
    status, headers, body = answer
    kind = ""
    if isinstance(body, str):
        body, kind = body.encode(), "text/plain; charset=utf-8"
    elif body is not None and not isinstance(body, bytes):
        body, kind = json.dumps(body).encode(), "application/json; charset=utf-8"
    body = body or b""
    defaults = {"Content-Type": kind} if kind else {}
    if status >= 200:
        defaults["Content-Length"] = str(len(body))
    given = {name.lower() for name in headers}
    lines = {**headers, **{n: v for n, v in defaults.items() if n.lower() not in given}}
    reason = http.HTTPStatus(status).phrase if status in set(http.HTTPStatus) else "Odd"
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} {reason}\r\n{head}\r\n".encode() + body


def unknown_route(method: str) -> Answer:
    """Return the server's answer to a request for a route that does not exist."""
    if method in ("GET", "HEAD"):
        return 404, {"Content-Type": "application/octet-stream"}, None
    return 405, {"Allow": "GET,HEAD"}, "405: Method Not Allowed"


def never_answer(request: Request) -> None:
    """Handle a request by sending nothing until the client gives up."""
    while request.socket.recv(65536):
        pass


def cut(answer: Answer, after: int) -> Handler:
    """Return a handler that announces the whole body, but disconnects after `after` bytes."""
    head, _, body = encode(answer).partition(b"\r\n\r\n")
    return lambda request: request.socket.sendall(head + b"\r\n\r\n" + body[:after])


def drip(answer: Answer, *, size: int = 1, pause: float = 0.05) -> Handler:
    """Return a handler that sends the answer `size` bytes at a time, `pause` seconds apart."""

    def handler(request: Request) -> None:
        data = encode(answer)
        for start in range(0, len(data), size):
            request.socket.sendall(data[start : start + size])
            time.sleep(pause)

    return handler


#: Further headers for the answer to the handshake that is being handled.
more_headers: ContextVar[Mapping[str, str]] = ContextVar(
    "more headers", default=MappingProxyType({})
)


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
