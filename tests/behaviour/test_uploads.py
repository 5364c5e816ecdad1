"""Files on their way to the server."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trustme

from comfy_client import ComfyApi
from comfy_client.errors import (
    ComfyError,
    RequestTimeout,
    TransportError,
    UploadTooLarge,
)
from comfy_client.testing import ComfyServer, encode
from comfy_client.transport.http import Http
from tests.helpers.clients import (
    LIMIT,
    Heard,
    quickly,
)
from tests.helpers.gates import check_once, saves
from tests.helpers.http import MIB, Zeros, head_of, opened, raw_server


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


@pytest.mark.posix("TCP_NOTSENT_LOWAT")
def test_an_upload_that_crawls_goes_on() -> None:
    """Some of it gets away within each timeout, though less than a buffer holds; over TLS, too."""
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)

    def crawl(tls: ssl.SSLContext | None) -> None:
        scheme = "https" if tls else "http"
        with (
            slow_reader(40 << 10, tls) as port,
            opened(f"{scheme}://127.0.0.1:{port}", timeout=(5.0, 2.0), verify=trusted) as http,
        ):
            assert http.upload("/upload/image", {}, bytes(112 << 10), "a") == {"name": "a.bin"}

    with ca.cert_pem.tempfile() as trusted, ThreadPoolExecutor(2) as pool:
        list(pool.map(crawl, (None, context)))


RESET = pytest.mark.posix("answers that a reset leaves to be read")


@pytest.mark.parametrize("polite", [True, pytest.param(False, marks=RESET)])
def test_413_in_mid_upload_is_read(polite: bool) -> None:
    """The server answers before it has the body, and hangs up: with a RST if not polite."""

    def refuse_early(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(
            encode((413, {"Connection": "close"}, "Maximum request body size 9 exceeded"))
        )
        if polite:
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass

    with raw_server(refuse_early) as port, opened(f"127.0.0.1:{port}") as http:
        for _ in range(5):
            with pytest.raises(UploadTooLarge) as caught:
                http.upload("/upload/image", {}, bytes(20 * MIB), "a.png")
            assert caught.value.limit == 9


def test_a_reset_in_mid_upload_is_a_transport_error() -> None:
    """No answer, no guess; and no second try."""
    seen = []

    def hang_up(connection: socket.socket) -> None:
        seen.append(head_of(connection))

    with raw_server(hang_up) as port, opened(f"127.0.0.1:{port}") as http:
        with pytest.raises(TransportError, match="cut") as caught:
            http.upload("/upload/image", {}, bytes(20 * MIB), "a.png")
        assert type(caught.value) is TransportError
    assert len(seen) == 1


def test_a_slow_upload_may_take_longer_than_connecting() -> None:
    """The limit for connecting is none for a line that is slow, but moves."""

    def read_slowly(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        got = len(head_of(connection))
        time.sleep(1.0)
        while got < 24 * MIB:
            got += len(connection.recv(MIB))
        connection.sendall(encode((200, {}, {})))

    with raw_server(read_slowly) as port, opened(f"127.0.0.1:{port}", timeout=(0.2, 20)) as http:
        assert http.upload("/upload/image", {}, bytes(24 * MIB), "a") == {}
        with raw_server(read_slowly) as other, opened(f"127.0.0.1:{other}", timeout=(0.2, 20)) as h:
            assert h.request("POST", "/x", data=bytes(24 * MIB)).status == 200


def test_an_upload_over_a_link_that_goes_dark_ends_at_the_timeout_of_the_client() -> None:
    """Whether all of it was sent, or the rest does not get away; it had an hour."""
    end = threading.Event()
    with raw_server(lambda connection: end.wait(2 * LIMIT)) as port:
        with opened(f"127.0.0.1:{port}", timeout=(5, 0.5)) as http:
            for size in (100, 64 * MIB):
                with quickly(), pytest.raises(RequestTimeout):
                    http.upload("/upload/image", {}, Zeros(size), "a")
        end.set()


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "tls"])
def test_an_upload_that_moves_may_take_longer_than_the_timeout_of_the_client(
    ca: trustme.CA, bundle: Path, secured: bool
) -> None:
    """However slowly; and the server, too, may take its time to store much."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    size = 16 * MIB

    def read_slowly(connection: socket.socket) -> None:
        head, _, body = head_of(connection).partition(b"\r\n\r\n")
        (line,) = [line for line in head.split(b"\r\n") if b"Content-Length" in line]
        left = int(line.split()[1]) - len(body)
        while left:
            got = len(connection.recv(min(left, 1 << 17)))
            time.sleep(got / (12 * MIB))
            left -= got
        time.sleep(2.3)  # stores it: two seconds, and 1.6 more for 16 MiB
        connection.sendall(encode((200, {}, {})))

    with (
        raw_server(read_slowly, context if secured else None) as port,
        opened(
            f"{'https' if secured else 'http'}://127.0.0.1:{port}",
            timeout=(5, 2.0),
            verify=bundle,
        ) as http,
    ):
        start = time.perf_counter()
        assert http.upload("/upload/image", {}, bytes(size), "a") == {}
        assert time.perf_counter() - start > 2.3


@pytest.mark.parametrize("kind", ["bytes", "path", "stream", "stream in its middle"])
def test_uploads_arrive_whole(comfy: ComfyServer, http: Http, tmp_path: Path, kind: str) -> None:
    """From bytes, a path and a stream's position; names and fields survive."""
    content = os.urandom(2 * MIB + 17)
    comfy.on("POST", "/upload/image", (200, {}, {"name": "x"}))
    file: Any = content
    if kind == "path":
        file = tmp_path / "a.png"
        file.write_bytes(content)
    elif kind != "bytes":
        file = io.BytesIO((b"skip" if "middle" in kind else b"") + content)
        file.seek(4 if "middle" in kind else 0)
    name = 'a "b"\r\nü.png'
    assert http.upload("/upload/image", {"type": "input"}, file, name) == {"name": "x"}
    (request,) = comfy.requests
    boundary = request.headers["Content-Type"].partition("boundary=")[2].encode()
    _, field, image, end = request.body.split(b"--" + boundary)
    assert field == b'\r\nContent-Disposition: form-data; name="type"\r\n\r\ninput\r\n'
    head, _, body = image.partition(b"\r\n\r\n")
    assert 'filename="a %22b%22%0D%0Aü.png"'.encode() in head
    assert body == content + b"\r\n"
    assert end == b"--\r\n"


def test_a_file_that_cannot_be_read_says_so(comfy: ComfyServer, http: Http, tmp_path: Path) -> None:
    """Its own error, not one of the connection."""

    class Shrinking(Zeros):
        def read(self, size: int = -1) -> bytes:
            return b"" if self.at else super().read(size)

    comfy.on("POST", "*", (200, {}, {}))
    with pytest.raises(OSError, match="shorter") as caught:
        http.upload("/upload/image", {}, Shrinking(3 * MIB), "a")
    assert not isinstance(caught.value, ComfyError)
    with pytest.raises(FileNotFoundError):
        http.upload("/upload/image", {}, tmp_path / "none.png", "a")


@pytest.mark.posix("/proc")
@pytest.mark.parametrize("kind", ["path", "stream", "pipe"])
def test_a_file_without_a_size_is_sent_with_what_it_holds(
    comfy: ComfyServer, http: Http, kind: str
) -> None:
    """As all in /proc, and what another program writes."""
    comfy.on("POST", "/upload/image", (200, {}, {"name": "x"}))
    path = Path("/proc/self/cmdline")
    content = path.read_bytes()
    with contextlib.ExitStack() as stack:
        file: Any = path
        if kind == "stream":
            file = stack.enter_context(path.open("rb"))
        elif kind == "pipe":
            reading, writing = os.pipe()
            file = stack.enter_context(os.fdopen(reading, "rb"))
            with os.fdopen(writing, "wb") as end:
                end.write(content)
        http.upload("/upload/image", {}, file, "x")
    assert content
    assert comfy.requests[-1].body.split(b"\r\n")[4] == content


def test_a_file_at_its_end_is_refused_rather_than_sent_empty(
    comfy: ComfyServer, http: Http
) -> None:
    """As after ``picture.save(file)``."""
    file = io.BytesIO()
    file.write(b"a picture")
    with pytest.raises(ValueError, match="rewind"):
        http.upload("/upload/image", {}, file, "a.png")
    assert not comfy.requests


def test_an_upload_that_gets_another_name_is_used_by_that(
    comfy: ComfyServer, fast: ComfyApi
) -> None:
    """The one that the server says is used."""
    told = Heard(fast)
    source = fast.run(saves(3), timeout=LIMIT).images[0].bytes()
    with comfy.faults.rename_uploads("elsewhere.png"):
        uploaded = fast.upload_image(source, "a.png")
    assert uploaded.name == "elsewhere.png"
    graph = saves()
    graph["1"] = {"class_type": "LoadImage", "inputs": {"image": uploaded.ref}}
    check_once(comfy, told, fast.run(graph, timeout=LIMIT))


def test_an_upload_that_is_too_large_or_cut_is_not_repeated(
    comfy: ComfyServer, fast: ComfyApi
) -> None:
    """Typed errors; it is not sent again by itself, since it may be there."""
    with comfy.faults.too_large(limit=1000), pytest.raises(UploadTooLarge) as large:
        fast.upload_image(bytes(5000), "a.png")
    assert large.value.status == 413
    for ran in (False, True):
        before = len(comfy.requests)
        with (
            comfy.faults.cut("POST", "/upload/image", ran=ran, reset=True),
            pytest.raises(TransportError),
        ):
            fast.upload_image(bytes(5000), f"{ran}.png")
        assert len(comfy.requests) == before + 1
        assert (comfy.root / "input" / f"{ran}.png").exists() is ran
    with comfy.faults.cut("POST", "/upload/image", sent=5), pytest.raises(TransportError):
        fast.upload_image(bytes(5000), "c.png")


def test_a_server_that_dies_in_an_upload_leaves_no_file(comfy: ComfyServer, fast: ComfyApi) -> None:
    """The server dies with half of it; nothing is there under its name."""

    def kill(sent: int, size: int) -> None:
        assert size == 64 * 2**20
        if sent > 4 * 2**20 and comfy.sockets:
            comfy.kill()

    with pytest.raises(TransportError):
        fast.upload_image(bytes(64 * 2**20), "a.bin", on_progress=kill)
    comfy.start()
    assert list((comfy.root / "input").iterdir()) == []
    comfy.until(lambda: fast.connected, LIMIT)
    assert fast.upload_image(bytes(5000), "a.bin").name == "a.bin"
