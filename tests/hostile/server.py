"""A server on raw sockets that sends whatever bytes a test likes, and a ComfyUI that lies."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import attrs

#: What a handler gives: bytes to send, pieces of them, or ``None`` when it has done all itself.
Reply = bytes | Iterable[bytes] | None


@attrs.frozen
class Request:
    """What a client asked, and the socket on which it waits."""

    method: str
    target: str
    headers: Mapping[str, str]  #: By lower-case name.
    body: bytes
    conn: socket.socket
    head: bytes  #: Request line and headers, as they came.

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    def json(self) -> Any:
        return json.loads(self.body)


def answer(
    status: int = 200,
    body: object = b"",
    headers: Iterable[tuple[str, str]] = (),
    *,
    reason: str = "X",
    length: bool = True,
) -> bytes:
    """The bytes of an answer; a body that is no text or bytes goes as JSON."""
    lines = [f"HTTP/1.1 {status} {reason}"]
    if isinstance(body, str):
        body = body.encode()
    elif not isinstance(body, bytes):
        body = json.dumps(body).encode()
        lines.append("Content-Type: application/json")
    lines += [f"{name}: {value}" for name, value in headers]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class Server:
    """Listens on 127.0.0.1; each connection has a thread of its own, all end with the server."""

    def __init__(
        self,
        handler: Callable[[Request], Reply] | None = None,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._handler = handler or self.handle
        self._tls = tls
        self.requests: list[Request] = []  #: All that came, in order.
        self.errors: list[Exception] = []  #: Of handlers: a defect of the test.
        self._closed = False
        self._conns: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._sock = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._sock.getsockname()[1]
        self._start(self._accept)

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        assert not self.errors, self.errors

    def close(self) -> None:
        """End every connection, and wait for the threads."""
        self._closed = True
        for sock in [self._sock, *self._conns]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        for thread in self._threads:
            thread.join(30.0)

    def handle(self, request: Request) -> Reply:
        """The answer, unless a handler was given."""
        return answer(404)

    def _start(self, work: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=work, args=args, name="hostile-server", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                conn, _ = self._sock.accept()
            except OSError:
                return
            self._start(self._serve, conn)

    def _serve(self, conn: socket.socket) -> None:
        try:
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                conn = self._tls.wrap_socket(conn, server_side=True)
            self._conns.add(conn)
            rest = b""
            while not self._closed:
                request, rest = _read(conn, rest)
                self.requests.append(request)
                reply = self._handler(request)
                if reply is None:
                    return
                for piece in [reply] if isinstance(reply, bytes) else reply:
                    conn.sendall(piece)
        except (OSError, EOFError):
            pass
        except Exception as exc:
            self.errors.append(exc)
        finally:
            self._conns.discard(conn)
            conn.close()


def _read(conn: socket.socket, rest: bytes) -> tuple[Request, bytes]:
    """The next request, and what was read beyond it."""

    def more() -> bytes:
        piece = conn.recv(1 << 16)
        if not piece:
            raise EOFError
        return piece

    while b"\r\n\r\n" not in rest:
        rest += more()
    head, _, rest = rest.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    size = int(headers.get("content-length", 0))
    while len(rest) < size:
        rest += more()
    return Request(method, target, headers, rest[:size], conn, head), rest[size:]


# -- the WebSocket ------------------------------------------------------------------------


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    final: bool = True,
    reserved: int = 0,
    mask: bool = False,
    size: int | None = None,
) -> bytes:
    """The bytes of a frame; ``size`` is what its head says of the payload's."""
    length = len(payload) if size is None else size
    head = bytes([final << 7 | reserved << 4 | opcode])
    if length < 126:
        head += bytes([mask << 7 | length])
    elif length < 1 << 16:
        head += bytes([mask << 7 | 126]) + struct.pack(">H", length)
    else:
        head += bytes([mask << 7 | 127]) + struct.pack(">Q", length)
    return head + payload


def text(message: object) -> bytes:
    """A text frame; what is no text goes as JSON."""
    return frame(1, (message if isinstance(message, str) else json.dumps(message)).encode())


def event(kind: str, **data: Any) -> bytes:
    """A text frame with an event."""
    return text({"type": kind, "data": data})


def status(remaining: object = 0) -> bytes:
    """The event with which ComfyUI greets."""
    return event("status", status={"exec_info": {"queue_remaining": remaining}})


def upgrade(request: Request) -> bytes:
    """The answer to a handshake."""
    key = request.headers.get("sec-websocket-key", "") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
    headers = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", accept),
    ]
    return answer(101, headers=headers, length=False)


def hold(conn: socket.socket) -> None:
    """Read, until the other side is gone."""
    with contextlib.suppress(OSError):
        while conn.recv(1 << 16):
            pass


# -- a ComfyUI ----------------------------------------------------------------------------

GRAPH: dict[str, Any] = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 1}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["3", 0]}},
}

#: Gives ``False`` to leave the request to the polite answer.
Lie = Callable[[Request], Any]


class Comfy(Server):
    """A polite ComfyUI, but for what a test has it lie about.

    ``lies`` are by the beginning of a path, without ``/api``, that a method may precede:
    ``"GET /queue"``.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.lies: dict[str, Lie] = {}
        self.outputs: dict[str, Any] = {
            "9": {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}]}
        }
        self.content = b"\x89PNG\r\n\x1a\n, and a picture"
        self.prompts: dict[str, Any] = {}  #: Bodies of submissions, by prompt_id.
        self.ended = True  #: Whether history has what was submitted.
        #: What is sent on a socket, until it returns; ``None``: there are no sockets.
        self.ws: Callable[[socket.socket, Comfy], None] | None = None
        super().__init__(tls=tls)

    def entry(self, prompt_id: str) -> dict[str, Any]:
        """The record of a prompt that went well."""
        body = self.prompts.get(prompt_id, {})
        return {
            "prompt": [0, prompt_id, body.get("prompt", {}), body.get("extra_data", {}), ["9"]],
            "outputs": self.outputs,
            "status": {
                "status_str": "success",
                "completed": True,
                "messages": [
                    ["execution_start", {"prompt_id": prompt_id, "timestamp": 1}],
                    ["execution_success", {"prompt_id": prompt_id, "timestamp": 2}],
                ],
            },
            "meta": {},
        }

    def handle(self, request: Request) -> Reply:
        path = request.path.removeprefix("/api")
        for key, lie in self.lies.items():
            method, _, start = key.rpartition(" ")
            if path.startswith(start) and method in ("", request.method):
                found: Reply | bool = lie(request)
                if not isinstance(found, bool):
                    return found
        match request.method, path.split("/")[1:]:
            case "GET", ["prompt"]:
                return answer(body={"exec_info": {"queue_remaining": 0}})
            case "POST", ["prompt"]:
                body = request.json()
                self.prompts[body["prompt_id"]] = body
                said = {"prompt_id": body["prompt_id"], "number": 1, "node_errors": {}}
                return answer(body=said)
            case "GET", ["queue"]:
                return answer(body={"queue_running": [], "queue_pending": []})
            case "GET", ["history"]:
                return answer(body={})
            case "GET", ["history", prompt_id]:
                is_there = self.ended and prompt_id in self.prompts
                return answer(body={prompt_id: self.entry(prompt_id)} if is_there else {})
            case "GET", ["features"]:
                return answer(body={"supports_preview_metadata": True})
            case "GET", ["view"]:
                return answer(body=self.content, headers=[("Content-Type", "image/png")])
            case "GET", ["ws"] if self.ws is not None:
                request.conn.sendall(upgrade(request))
                self.ws(request.conn, self)
                return None
        return answer(404, "404: Not Found")


def greet(conn: socket.socket, server: Comfy) -> None:
    """For :attr:`Comfy.ws`: a status, and then nothing."""
    conn.sendall(status())
    hold(conn)
