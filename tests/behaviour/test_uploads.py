"""Files on their way to the server."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator

import pytest
import trustme

from comfy_client.transport.http import Http
from comfy_client.transport.url import parse_host


@contextlib.contextmanager
def slow_reader(rate: int, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server that takes so many bytes a second, and then answers; its port."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    listener.bind(("127.0.0.1", 0))
    listener.listen()

    def read() -> None:
        conn = listener.accept()[0]
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            conn = stack.enter_context(conn if tls is None else tls.wrap_socket(conn, True))
            said = b""
            while not said.endswith(b"--\r\n"):
                said += (piece := conn.recv(2048))
                if not piece:
                    return
                time.sleep(len(piece) / rate)
            answer = b'{"name": "a.bin"}'
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\n\r\n".encode()
            conn.sendall(head + answer)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()
        thread.join()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_upload_that_crawls_goes_on(scheme: str) -> None:
    """Some of it gets away within each timeout, though less than a buffer holds."""
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    with (
        slow_reader(48 << 10, context if scheme == "https" else None) as port,
        ca.cert_pem.tempfile() as trusted,
    ):
        address = parse_host(f"{scheme}://127.0.0.1:{port}")[0]
        http = Http(address, timeout=(5.0, 0.3), verify=trusted)
        try:
            assert http.upload("/upload/image", {}, bytes(64 << 10), "a.bin") == {"name": "a.bin"}
        finally:
            http.close()
