"""HTTP/1.1 and the server side of WebSocket on one port, without any ComfyUI: see fake.py."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http
import json
import socket
import socketserver
import struct
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

Answer = tuple[int, dict[str, str], Any]


@dataclass
class Request:
    """One request as it came; ``path`` has neither query nor ``/api``, ``target`` has both."""

    method: str
    path: str
    target: str
    query: dict[str, str]
    headers: Any  # email.message.Message: case-insensitive
    body: bytes
    socket: socket.socket = field(repr=False)

    def json(self) -> Any:
        return json.loads(self.body)


Handler = Callable[[Request], Answer | None]


def encode(answer: Answer) -> bytes:
    """The bytes of an answer; a Content-Length in its headers may lie."""
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
    headers = headers | {n: v for n, v in defaults.items() if n.lower() not in given}
    reason = http.HTTPStatus(status).phrase if status in set(http.HTTPStatus) else "Odd"
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} {reason}\r\n{head}\r\n".encode() + body


def never_answer(request: Request) -> None:
    """Handler: silent until the client gives up."""
    while request.socket.recv(65536):
        pass


def cut(answer: Answer, after: int) -> Handler:
    """Handler: promises the whole body, sends `after` bytes of it, and hangs up."""
    head, _, body = encode(answer).partition(b"\r\n\r\n")
    return lambda request: request.socket.sendall(head + b"\r\n\r\n" + body[:after])


def drip(answer: Answer, *, size: int = 1, pause: float = 0.05) -> Handler:
    """Handler: sends the answer `size` bytes at a time, `pause` seconds apart."""

    def handler(request: Request) -> None:
        data = encode(answer)
        for start in range(0, len(data), size):
            request.socket.sendall(data[start : start + size])
            time.sleep(pause)

    return handler


def frame(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    """One unmasked WebSocket frame, as a server sends it."""
    size = len(payload)
    head = bytes([(0x80 if fin else 0) | opcode])
    if size < 126:
        head += bytes([size])
    elif size < 65536:
        head += struct.pack(">BH", 126, size)
    else:
        head += struct.pack(">BQ", 127, size)
    return head + payload


class Socket:
    """One open WebSocket, seen from the server."""

    def __init__(self, connection: socket.socket, reader: Any, client_id: str) -> None:
        self.client_id = client_id
        self.deaf = False
        self.lit = threading.Event()  # cleared: neither read nor written
        self.lit.set()
        self.connection = connection
        self._reader = reader
        self._sending = threading.Lock()  # frames of several threads must not mix

    def write(self, data: bytes) -> None:
        with self._sending, contextlib.suppress(OSError):
            self.connection.sendall(data)

    def read(self) -> tuple[int, bytes] | None:
        """The next frame of the client, None at the end."""
        head = self._reader.read(2)
        if len(head) < 2:
            return None
        size = head[1] & 0x7F
        if size > 125:
            size = int.from_bytes(self._reader.read(2 if size == 126 else 8), "big")
        mask = self._reader.read(4)
        data = self._reader.read(size)
        if len(data) < size:
            return None
        key = (mask * (size // 4 + 1))[:size]
        unmasked = int.from_bytes(data, "big") ^ int.from_bytes(key, "big")
        return head[0] & 0x0F, unmasked.to_bytes(size, "big")

    def hang_up(self, *, reset: bool) -> None:
        with contextlib.suppress(OSError):
            if reset:
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.connection.close()  # takes effect when the reader lets go, with a RST
                self.connection.shutdown(socket.SHUT_RD)
            else:
                self.connection.shutdown(socket.SHUT_RDWR)


def upgrade(request: Request) -> Answer:
    key = request.headers.get("Sec-WebSocket-Key")
    if key is None:
        return 400, {}, "No WebSocket UPGRADE hdr"
    accept = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
    proof = base64.b64encode(accept).decode()
    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": proof}
    return 101, headers, None


class Owner(Protocol):
    """What the server's connections tell, and ask."""

    errors: list[BaseException]

    def opened(self, connection: socket.socket) -> None: ...
    def ended(self, connection: socket.socket) -> None: ...
    def handle(self, request: Request) -> Answer | None: ...
    def serve_socket(self, ws: Socket) -> None: ...


class Server(socketserver.ThreadingTCPServer):
    request_queue_size = 128
    daemon_threads = True

    def __init__(self, owner: Owner) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.owner = owner

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if error is not None and not isinstance(error, OSError):  # OSError: the client has left
            self.owner.errors.append(error)


class _Connection(BaseHTTPRequestHandler):
    """One TCP connection: requests one after the other, or a WebSocket."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def setup(self) -> None:
        super().setup()
        self.server.owner.opened(self.connection)

    def finish(self) -> None:
        super().finish()
        # Whoever waits for the end may count on the other side seeing it.
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
        self.server.owner.ended(self.connection)

    def handle_one_request(self) -> None:
        self.close_connection = True
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():  # which may unset it
            return
        keep_alive, self.close_connection = not self.close_connection, True
        url = urlsplit(self.path)
        prefixed = url.path.startswith("/api/")
        request = Request(
            self.command,
            url.path.removeprefix("/api") if prefixed else url.path,
            self.path,
            dict(parse_qsl(url.query, keep_blank_values=True)),
            self.headers,
            self._body(),
            self.connection,
        )
        answer = self.server.owner.handle(request)
        if answer is None:
            return
        data = encode(answer)
        if self.command == "HEAD":
            data = data[: data.index(b"\r\n\r\n") + 4]
        self.connection.sendall(data)
        if answer[0] != 101:
            self.close_connection = not keep_alive
        else:
            client_id = request.query.get("clientId") or uuid.uuid4().hex
            self.server.owner.serve_socket(Socket(self.connection, self.rfile, client_id))

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, format: str, *args: object) -> None:
        pass
