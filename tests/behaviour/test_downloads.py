"""Files on their way from the server, and answers that are cut short."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import socket
import time
import tracemalloc
from http.client import parse_headers
from typing import Any

import attrs
import pytest

from comfy_client import ComfyApi, OutputFile
from comfy_client.errors import (
    NotFound,
    RequestTimeout,
    TransportError,
    UnexpectedResponse,
)
from comfy_client.testing import ComfyServer, Request, cut, encode, never_answer
from comfy_client.transport.http import Http
from comfy_client.transport.response import Response
from tests.conftest import load_workflow
from tests.helpers.clients import (
    LIMIT,
    quickly,
)
from tests.helpers.http import (
    MIB,
    Zeros,
    head_of,
    opened,
    raw,
    raw_server,
)


def test_a_short_answer_is_no_answer(comfy: ComfyServer, http: Http) -> None:
    """With Content-Length, chunked, and compressed."""
    squeezed = gzip.compress(os.urandom(1000))
    comfy.on("GET", "/length", cut((200, {}, "x" * 100), 40))
    comfy.on("GET", "/chunked", raw(b"Transfer-Encoding: chunked\r\n", b"5\r\n[1,2]\r\n9\r\n123"))
    comfy.on("GET", "/unended", raw(b"Transfer-Encoding: chunked\r\n", b"5\r\n[1,2]\r\n"))
    comfy.on("GET", "/gzip", cut((200, {"Content-Encoding": "gzip"}, squeezed), 300))
    for route in ("/length", "/chunked", "/unended", "/gzip"):
        with pytest.raises(TransportError):
            http.request("GET", route)
        due = UnexpectedResponse if route == "/gzip" else TransportError
        with pytest.raises(due), http.download(route) as download:
            list(download)
    with pytest.raises(TransportError, match="after 40 of 100 bytes"):
        http.request("GET", "/length")


def test_a_length_of_thousands_of_digits_is_survived() -> None:
    """Python converts no such number; the connection then tells where the answer ends."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n[]"

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(answer)

    with raw_server(serve) as port, opened(f"127.0.0.1:{port}") as http:
        assert http.json("GET", "/api/x") == []


@pytest.mark.parametrize("lengths", [b"2\r\nContent-Length: 3", b"2, 3"], ids=["lines", "line"])
def test_an_answer_of_two_lengths_is_refused(
    comfy: ComfyServer, http: Http, lengths: bytes
) -> None:
    """One who passes it on may see another end of it than we do."""
    comfy.on("GET", "/two", raw(b"Content-Length: " + lengths + b"\r\n", b"[]]"))
    with pytest.raises(TransportError):
        http.request("GET", "/two")


def test_chunked_and_compressed_answers_are_whole(comfy: ComfyServer, http: Http) -> None:
    """Downloads ask for none that is compressed, and take none."""
    content = json.dumps(["x" * 3 * MIB]).encode()
    squeezed = gzip.compress(content)
    comfy.on("GET", "/gzip", (200, {"Content-Encoding": "gzip"}, squeezed))
    pieces = b"".join(
        b"%x\r\n%s\r\n" % (len(p), p) for p in (content[:10], content[10:MIB], content[MIB:])
    )
    comfy.on("GET", "/chunked", raw(b"Transfer-Encoding: chunked\r\n", pieces + b"0\r\n\r\n"))
    comfy.on("GET", "/until-close", raw(b"", content))
    for route in ("/gzip", "/chunked", "/until-close"):
        assert http.request("GET", route).content == content
        if route == "/gzip":
            with pytest.raises(UnexpectedResponse, match="encoded"), http.download(route):
                pass
            with pytest.raises(UnexpectedResponse, match="encoded"):
                http.content(route)
            continue
        with http.download(route) as download:
            assert download.length is None
            assert b"".join(download) == content


def test_a_download_that_stalls_ends_at_the_timeout_of_the_client(comfy: ComfyServer) -> None:
    """It has an hour, but not for silence."""

    def stall(request: Request) -> None:
        request.socket.sendall(encode((200, {"Content-Length": "9"}, b"1234")))
        never_answer(request)

    comfy.on("GET", "/view", stall)
    with (
        opened(comfy.url, timeout=(5, 0.3)) as http,
        quickly(),
        pytest.raises(RequestTimeout),
        http.download("/view") as download,
    ):
        list(download)


def test_a_file_in_memory_has_the_time_of_a_transfer(comfy: ComfyServer) -> None:
    """An hour, or its own; but not for silence."""
    (comfy.root / "output" / "a.png").write_bytes(b"0123456789" * 3)
    file = OutputFile("a.png")
    with contextlib.closing(ComfyApi(comfy.url, timeout=(5, 1.5))) as api:
        file = attrs.evolve(file, files=api)
        with comfy.faults.drip("GET", "/view", size=20, pause=0.1):  # headers as well
            start = time.perf_counter()
            assert file.bytes() == api.get_image(file) == b"0123456789" * 3
            assert time.perf_counter() - start > 1.0  # twice, in pieces
            with pytest.raises(RequestTimeout):
                file.bytes(timeout=0.3)
            with pytest.raises(RequestTimeout):
                api.get_image(file, timeout=0.3)
        with (
            comfy.faults.drip("GET", "/view", size=20, pause=60.0),
            quickly(),  # not for one more piece
            pytest.raises(RequestTimeout),
        ):
            file.bytes()


def swallow(connection: socket.socket) -> None:
    """Reads a body by its length, keeping none of it."""
    head, _, rest = head_of(connection).partition(b"\r\n\r\n")
    message = parse_headers(io.BytesIO(head.partition(b"\r\n")[2] + b"\r\n\r\n"))
    left = int(message["Content-Length"]) - len(rest)
    buffer = bytearray(MIB)
    while left:
        left -= connection.recv_into(buffer, min(MIB, left))
    connection.sendall(encode((200, {}, {"name": "a"})))


def pour_90_mb(connection: socket.socket) -> None:
    head_of(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (90 * MIB))
    piece = bytes(MIB)
    for _ in range(90):
        connection.sendall(piece)


def test_transfers_take_constant_memory() -> None:
    """90 MiB up and down, with less than 8 MiB."""
    with (
        raw_server(swallow) as sink,
        raw_server(pour_90_mb) as source,
        opened(f"127.0.0.1:{sink}") as up,
        opened(f"127.0.0.1:{source}") as down,
    ):
        tracemalloc.start()
        try:
            assert up.upload("/upload/image", {}, Zeros(90 * MIB), "a") == {"name": "a"}
            with down.download("/view") as download:
                assert download.length == 90 * MIB
                assert sum(map(len, download)) == 90 * MIB
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 8 * MIB


def test_views_of_a_download_share_one_buffer(comfy: ComfyServer, http: Http) -> None:
    """So each is to be used before the next; bytes may be kept."""
    content = os.urandom(3 * MIB + 17)
    (comfy.root / "output" / "a").write_bytes(content)
    with http.download("/view", params={"filename": "a"}) as download:
        found = [(memoryview(view).obj, bytes(view)) for view in download.views()]
    assert b"".join(copy for _, copy in found) == content
    assert len(found) > 1 == len({id(memory) for memory, _ in found})
    with http.download("/view", params={"filename": "a"}) as download:
        assert b"".join(list(download)) == content


def test_bytes_in_memory_take_little_more_than_their_size() -> None:
    """An answer is not held twice."""
    with raw_server(pour_90_mb) as source, opened(f"127.0.0.1:{source}") as http:
        tracemalloc.start()
        try:
            assert len(http.request("GET", "/view").content) == 90 * MIB
            assert len(http.content("/view")) == 90 * MIB
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 110 * MIB


def test_answers_and_downloads_show_no_content_in_repr(comfy: ComfyServer, http: Http) -> None:
    """They may be large, and private."""
    (comfy.root / "output" / "a").write_bytes(b"private")
    answer = http.request("GET", "/view", params={"filename": "a"})
    assert isinstance(answer, Response)
    with http.download("/view", params={"filename": "a"}) as download:
        assert "private" not in repr(answer) + repr(download)
        assert "Content-Length" not in repr(download)


@pytest.mark.timing(resume=0.3)
def test_a_download_that_is_short_missing_or_slow_leaves_no_file(
    comfy: ComfyServer, fast: ComfyApi, tmp_path: Any
) -> None:
    """Typed errors within the time, and no half of a file under its name, or any."""
    (comfy.root / "models" / "checkpoints" / "tiny.ckpt").touch()
    image: Any = fast.run(load_workflow("txt2img_tiny", seed=1), timeout=LIMIT).images[0]
    with comfy.faults.cut("GET", "/view", sent=0), pytest.raises(TransportError):
        image.save(tmp_path / "short.png")
    with comfy.faults.cut("GET", "/view", sent=0), pytest.raises(TransportError):
        image.bytes()
    with (
        comfy.faults.drip("GET", "/view", size=10, pause=0.02),
        quickly(),
        pytest.raises(RequestTimeout),
    ):
        fast.download_image(image, tmp_path / "slow.png", timeout=1.0)
    (comfy.root / "output" / image.subfolder / image.filename).unlink()
    with pytest.raises(NotFound):
        image.save(tmp_path / "gone.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["get_image", "stream_image", "open_image", "download_image"])
def test_a_file_that_is_not_there_is_named(comfy: ComfyServer, fast: ComfyApi, how: str) -> None:
    """An error of the code that reads another file keeps its own words."""
    gone = {"filename": "no\n.png", "subfolder": "a", "type": "temp"}
    more = ["x.png"] if how == "download_image" else []
    with pytest.raises(NotFound, match=r"/view: not found: temp/a/no .png$"):
        _used(getattr(fast, how)(gone, *more))
    (comfy.root / "output" / "there.png").write_bytes(b"x")
    with (
        pytest.raises(NotFound, match=r"not found: output/no.png$"),
        fast.stream_image({"filename": "there.png"}),
    ):
        fast.get_image({"filename": "no.png"})


def _used(answer: Any) -> None:
    """Begin to read a file, where that was not done yet."""
    with answer as file:
        if hasattr(file, "read"):
            file.read(1)
