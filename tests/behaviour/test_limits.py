"""What an answer may cost: its time and its memory have a limit, whatever a server sends."""

from __future__ import annotations

import contextlib
import gzip
import time
import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from comfy_client import ComfyApi
from comfy_client.errors import (
    ApiError,
    TransportError,
    UnexpectedResponse,
)
from comfy_client.testing import ComfyServer, Request, cut
from comfy_client.transport.http import Http
from tests.helpers.http import (
    MIB,
    Pour,
    endlessly,
    opened,
    raw,
    raw_server,
)
from tests.hostile.server import Comfy, answer


@pytest.fixture(scope="module")
def server() -> Iterator[Comfy]:
    with Comfy() as server:
        yield server


@pytest.fixture
def patient(server: Comfy) -> Iterator[ComfyApi]:
    """With a timeout that no busy machine exceeds."""
    with ComfyApi(server.url, transport="poll", timeout=30.0) as api:
        yield api


def test_an_answer_larger_than_allowed_is_refused(comfy: ComfyServer, http: Http) -> None:
    """By its length before it is read, or as soon as it is seen."""
    comfy.on("GET", "/fits", (200, {}, bytes(1000)))
    comfy.on("GET", "/length", cut((200, {"Content-Length": "99999999999"}, b"x"), 1))
    comfy.on("GET", "/endless", raw(b"", bytes(5000)))
    assert len(http.request("GET", "/fits", max_bytes=1000).content) == 1000
    for route in ("/length", "/endless"):
        with pytest.raises(UnexpectedResponse, match="exceeds the 1000 bytes"):
            http.request("GET", route, max_bytes=1000)


def test_a_gigabyte_of_json_is_refused_in_bounded_memory(http: Http, comfy: ComfyServer) -> None:
    """Announced or not: to decode it would take a multiple of that."""

    def pour(request: Request) -> None:
        request.socket.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n[")
        with contextlib.suppress(OSError):
            for _ in range(1000):
                request.socket.sendall(b"1," * (MIB // 2))

    length = {"Content-Length": str(10**9), "Content-Type": "application/json"}
    comfy.on("GET", "/announced", cut((200, length, b"["), 1))
    comfy.on("GET", "/poured", pour)
    for route in ("/announced", "/poured"):
        tracemalloc.start()
        try:
            with pytest.raises(UnexpectedResponse, match="exceeds"):
                http.json("GET", route)
            assert tracemalloc.get_traced_memory()[1] < 700 * MIB
        finally:
            tracemalloc.stop()


def test_a_gzip_bomb_is_refused_in_bounded_memory(comfy: ComfyServer, http: Http) -> None:
    """One hundred thousand bytes that would become a hundred million."""
    bomb = gzip.compress(bytes(100 * MIB), 9)
    http.json("GET", "/prompt")  # learns where the routes are
    comfy.on("GET", "*", (200, {"Content-Encoding": "gzip"}, bomb))
    tracemalloc.start()
    try:
        with pytest.raises(UnexpectedResponse, match="exceeds"):
            http.request("GET", "/queue", max_bytes=4 * MIB)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 * MIB


@pytest.mark.parametrize(
    "pour",
    [
        endlessly(b"X" * 65536, start=b"HTTP/1.1 200 "),
        endlessly(b"X" * 65536),
        endlessly(b"X: " + b"y" * 60000 + b"\r\n"),
        endlessly(b"X: y\r\n" * 1000),
        endlessly(b"0" * 65536, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ],
    ids=["status", "header", "long headers", "many headers", "chunk size"],
)
def test_header_bombs_end_in_bounded_memory(pour: Pour) -> None:
    """In a typed error, well before the deadline."""
    with raw_server(pour) as port, opened(f"127.0.0.1:{port}") as http:
        tracemalloc.start()
        try:
            with pytest.raises((TransportError, UnexpectedResponse)):
                http.request("GET", "/queue", timeout=60)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 20 * MIB


@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
def test_a_refusal_is_explained_in_no_time_whatever_cookies_there_are(
    server: Comfy, patient: ComfyApi, kind: str
) -> None:
    """A server may set many, each in dozens of spellings is looked for in all that it says."""
    for part in range(3):
        cookies = [("Set-Cookie", f"c{n}=v{n:04}%2B/secretsecret&<") for n in range(part, 240, 3)]
        server.lies = {"GET /settings": lambda _, cookies=cookies: answer(200, b"{}", cookies)}
        assert patient.get_settings() == {}
    said = b"[" + b'"abc",' * 170_000 + b"0]"
    asks: dict[str, tuple[int, Callable[[], object]]] = {
        "GET /queue": (400, patient.get_queue),
        "GET /prompt": (200, lambda: patient.poll_status(30.0)),
        "GET /internal/logs": (200, patient.get_logs),
    }
    for route, (status, ask) in asks.items():
        server.lies = {
            route: lambda _, status=status: answer(status, said, [("Content-Type", kind)])
        }
        begun = time.thread_time()
        with pytest.raises((ApiError, UnexpectedResponse)):
            ask()
        assert time.thread_time() - begun < 5.0
