"""Our HTTP layer, servers on raw sockets, and all that an error shows."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import pickle
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from comfy_client.errors import (
    ComfyError,
)
from comfy_client.testing import Request, encode
from comfy_client.transport.http import Http
from comfy_client.transport.url import parse_host

SECRET = "hunter2-geheim"


PAGE = "<html><title>Sign in</title><form>user, password</form></html>"


HTML = {"Content-Type": "text/html; charset=utf-8"}


MIB = 1 << 20


LIMIT = 60.0  # seconds that any wait in here may take


@contextlib.contextmanager
def opened(url: str, **options: Any) -> Iterator[Http]:
    address, pair = parse_host(url)
    if pair:
        options["credentials"] = pair
    http = Http(address, **options)
    try:
        yield http
    finally:
        http.close()


@contextlib.contextmanager
def raw_server(
    handle: Callable[[socket.socket], object], context: ssl.SSLContext | None = None
) -> Iterator[int]:
    """Calls `handle` with each connection, in threads; gives its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.settimeout(3 * LIMIT)
            if context is not None:
                with context.wrap_socket(connection, server_side=True) as secure:
                    handle(secure)
            else:
                handle(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                thread = threading.Thread(target=serve, args=listener.accept()[:1])
                thread.start()
                threads.append(thread)

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):  # Windows refuses it, and close() is enough there
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in (acceptor, *threads):
            thread.join(LIMIT)


def head_of(connection: socket.socket) -> bytes:
    """The request up to its empty line."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            raise OSError
        data += piece
    return data


def answers(answer: tuple[int, dict[str, str], Any]) -> Callable[[socket.socket], None]:
    def handle(connection: socket.socket) -> None:
        while True:
            head_of(connection)
            connection.sendall(encode(answer))

    return handle


def texts(error: BaseException | None) -> str:
    """All that a traceback, a log or a curious caller can find in an exception."""
    found = ["".join(traceback.format_exception(error))] if error else []
    while error is not None:
        found += [repr(error), str(error), repr(error.args), repr(getattr(error, "__dict__", ""))]
        if isinstance(error, ComfyError):
            found.append(pickle.dumps(error).decode("latin-1"))
        assert not type(error).__module__.startswith(("requests", "urllib3"))
        error = error.__cause__ or error.__context__
    return "\n".join(found)


def raw(headers: bytes, body: bytes) -> Callable[[Request], None]:
    """Handler: exactly these bytes, and the connection ends."""

    def handler(request: Request) -> None:
        request.socket.sendall(b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n" + body)

    return handler


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


Pour = Callable[[socket.socket], None]


def endlessly(piece: bytes, start: bytes = b"HTTP/1.1 200 OK\r\n", pause: float = 0.0) -> Pour:
    """Sends `piece` again and again, until the client has left."""

    def pour(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(start)
        while True:
            connection.sendall(piece)
            if pause:
                time.sleep(pause)

    return pour


def never_end(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def download(http: Http) -> None:
    with http.download("/view") as pieces:
        list(pieces)


class Zeros(io.RawIOBase):
    """A large file that is nowhere."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.at = 0

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = offset if whence == os.SEEK_SET else self.size + offset
        return self.at

    def read(self, size: int = -1) -> bytes:
        piece = bytes(min(size, self.size - self.at))
        self.at += len(piece)
        return piece
