"""An HTTP proxy that loses, delays and replaces answers, between a client and any server here."""

from __future__ import annotations

import contextlib
import fnmatch
import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import attrs

LIMIT = 60.0
Act = Callable[["Middle", "Asked", socket.socket], None]
HOP_BY_HOP = {"connection", "keep-alive", "proxy-connection"}


@attrs.frozen
class Asked:
    """A request that came by."""

    method: str
    path: str
    headers: dict[str, str] = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def is_websocket(self) -> bool:
        return any(key.lower() == "upgrade" for key in self.headers)


@attrs.define(eq=False)
class Rule:
    """What becomes of some requests, for as many `times` as it says."""

    method: str
    path: str
    act: Act
    times: int | None = None
    #: The requests that it met.
    met: list[Asked] = attrs.field(factory=list)

    def meets(self, asked: Asked) -> bool:
        path = asked.path.partition("?")[0]
        return (
            (self.times is None or len(self.met) < self.times)
            and self.method in ("*", asked.method)
            and fnmatch.fnmatch(path, self.path)
        )


class Middle:
    """Passes requests on, each by a connection of its own, unless a rule says otherwise.

    ``asked`` holds all requests.  It is a context manager, and so is :meth:`rule`::

        with Middle(port) as middle, middle.rule("GET", "/api/v2/jobs/*", answer(502)): ...
    """

    def __init__(self, port: int) -> None:
        self.asked: list[Asked] = []
        self.target = port
        self._lock = threading.Lock()  # guards rules, sockets and threads
        self._rules: list[Rule] = []
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._accepting = threading.Thread(target=self._accept, name="middle", daemon=True)

    def __enter__(self) -> Middle:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(LIMIT)
        self.cut()
        for thread in self._threads:
            thread.join(LIMIT)

    def cut(self) -> None:
        """End all open connections, on both sides."""
        with self._lock:
            sockets = list(self._sockets)
        for sock in sockets:
            _reset(sock)

    @contextlib.contextmanager
    def rule(
        self,
        method: str,
        path: str,
        act: Act,
        times: int | None = None,
    ) -> Iterator[Rule]:
        """Treat matching requests so, in the block; the newest rule comes first."""
        made = Rule(method, path, act, times)
        with self._lock:
            self._rules.insert(0, made)
        try:
            yield made
        finally:
            with self._lock:
                self._rules.remove(made)

    def posted(self, path: str) -> list[Asked]:
        """Return the POST requests for a path."""
        return [one for one in list(self.asked) if (one.method, one.path) == ("POST", path)]

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(near,), name="middle", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, near: socket.socket) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException), self.open(near):
            near.settimeout(4 * LIMIT)
            asked = _request(near)
            with self._lock:
                self.asked.append(asked)
                rule = next((one for one in self._rules if one.meets(asked)), None)
                if rule:
                    rule.met.append(asked)
            (rule.act if rule else forward)(self, asked, near)

    @contextlib.contextmanager
    def open(self, sock: socket.socket) -> Iterator[None]:
        """Close it in the end, or when all are cut."""
        with self._lock:
            self._sockets.add(sock)
        try:
            yield
        finally:
            with self._lock:
                self._sockets.discard(sock)
                sock.close()

    @contextlib.contextmanager
    def asking(self, asked: Asked) -> Iterator[socket.socket]:
        """Send a request on, and give the connection from which its answer comes."""
        far = socket.create_connection(("127.0.0.1", self.target), LIMIT)
        with self.open(far):
            far.settimeout(4 * LIMIT)
            headers = {k: v for k, v in asked.headers.items() if k.lower() not in HOP_BY_HOP}
            headers["Connection"] = "Upgrade" if asked.is_websocket else "close"
            lines = [f"{asked.method} {asked.path} HTTP/1.1"]
            lines += [f"{key}: {value}" for key, value in headers.items()]
            head = "\r\n".join([*lines, "", ""])
            far.sendall(head.encode("latin-1") + asked.body)
            yield far


# -- what may become of a request -----------------------------------------------------------


def forward(middle: Middle, asked: Asked, near: socket.socket) -> None:
    """Let it through; a WebSocket in both directions."""
    with middle.asking(asked) as far:
        if asked.is_websocket:
            back = threading.Thread(target=_pass, args=(near, far), name="middle", daemon=True)
            back.start()
            _pass(far, near)
            back.join(LIMIT)
        else:
            _pass(far, near)


def answer(
    status: int, body: Any = "<html>Bad Gateway</html>", headers: dict[str, str] | None = None
) -> Act:
    """Answer in place of the server, which hears nothing; a dict is sent as JSON."""
    text = body if isinstance(body, str) else json.dumps(body)
    kind = "text/html" if isinstance(body, str) else "application/json"
    fields = {"Content-Type": kind, "Content-Length": len(text.encode()), "Connection": "close"}
    fields |= headers or {}
    lines = [f"HTTP/1.1 {status} {http.client.responses.get(status, 'Odd')}"]
    lines += [f"{key}: {value}" for key, value in fields.items()]
    data = "\r\n".join([*lines, "", text]).encode()

    def act(middle: Middle, asked: Asked, near: socket.socket) -> None:
        near.sendall(data)

    return act


def lost(middle: Middle, asked: Asked, near: socket.socket) -> None:
    """Let the server answer, and the connection break before a byte of it arrives."""
    lost_after(lambda: None)(middle, asked, near)


def lost_after(doing: Callable[[], object]) -> Act:
    """Let the server answer, do something, and only then break the connection."""

    def act(middle: Middle, asked: Asked, near: socket.socket) -> None:
        with middle.asking(asked) as far:
            while far.recv(65536):
                pass
        doing()
        _reset(near)

    return act


def first_of_each(act: Act) -> Act:
    """Treat the first request under each Idempotency-Key so, and let the others through."""
    seen: set[str] = set()

    def first(middle: Middle, asked: Asked, near: socket.socket) -> None:
        key = asked.headers["Idempotency-Key"]
        (forward if key in seen else act)(middle, asked, near)
        seen.add(key)

    return first


def lost_as(status: int) -> Act:
    """Let the server answer, and say something else in its place, as gateways do."""

    def act(middle: Middle, asked: Asked, near: socket.socket) -> None:
        with middle.asking(asked) as far:
            while far.recv(65536):
                pass
        answer(status)(middle, asked, near)

    return act


def late(seconds: float) -> Act:
    """Let the server answer, and hand that on so much later."""

    def act(middle: Middle, asked: Asked, near: socket.socket) -> None:
        with middle.asking(asked) as far:
            data = b""
            while piece := far.recv(65536):
                data += piece
        time.sleep(seconds)
        near.sendall(data)

    return act


def refuse(middle: Middle, asked: Asked, near: socket.socket) -> None:
    """Break the connection at once."""
    _reset(near)


# -- bytes ----------------------------------------------------------------------------------


def _pass(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.shutdown(socket.SHUT_RDWR)


def _request(near: socket.socket) -> Asked:
    with near.makefile("rb") as file:
        line = file.readline().decode("latin-1").split()
        if len(line) < 2:
            raise OSError("no request")
        headers = dict(http.client.parse_headers(file).items())
        lower = {key.lower(): value for key, value in headers.items()}
        body = file.read(int(lower.get("content-length", 0)))
        if lower.get("transfer-encoding") == "chunked":
            while size := file.readline():
                body += size + file.read(int(size, 16) + 2)
                if not int(size, 16):
                    break
    return Asked(line[0], line[1], headers, body)
