"""What an answer may cost: its time and its memory have a limit, whatever a server sends."""

from __future__ import annotations

import contextlib
import gc
import gzip
import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import comfy_client.testing
from comfy_client import ComfyApi
from comfy_client.errors import (
    ApiError,
    RequestTimeout,
    TransportError,
    UnexpectedResponse,
)
from comfy_client.testing import ComfyServer, Request, cut
from comfy_client.transport.http import MAX_JSON, Http
from comfy_client.values import seconds_to_decode
from tests.helpers.http import (
    MIB,
    Pour,
    endlessly,
    opened,
    raw,
    raw_server,
)
from tests.hostile.server import Comfy, answer

#: Seconds; what is below takes about twice as long to decode, or to make into models.
TIMEOUT = 0.5

#: What takes longest to decode: by the garbage collector, by its keys.
BODIES: dict[str, Callable[[], bytes]] = {
    "lists": lambda: b"[" + b"[[]]," * 1_800_000 + b"0]",
    "keys": lambda: b"{" + b'"a":{},' * 1_000_000 + b'"b":1}',
}


@pytest.fixture(scope="module")
def server() -> Iterator[Comfy]:
    with Comfy() as server:
        yield server


@pytest.fixture
def api(server: Comfy) -> Iterator[ComfyApi]:
    with ComfyApi(server.url, transport="poll", timeout=TIMEOUT) as api:
        api.poll_status(5.0)  # learns where the routes are
        yield api


@pytest.fixture
def patient(server: Comfy) -> Iterator[ComfyApi]:
    """With a timeout that no busy machine exceeds."""
    with ComfyApi(server.url, transport="poll", timeout=30.0) as api:
        yield api


def out_of_time(ask: Callable[[], Any], *, most: float) -> str:
    """What a call says that ends by its timeout, after so many seconds of work at most."""
    begun = time.thread_time()
    with pytest.raises(RequestTimeout) as caught:
        ask()
    assert time.thread_time() - begun < most
    return str(caught.value)


@pytest.mark.parametrize("kind", BODIES)
def test_timeout_holds_for_what_takes_long_to_decode(
    server: Comfy, api: ComfyApi, kind: str
) -> None:
    """One call of C, which nothing interrupts: so it is not begun."""
    reply = answer(200, BODIES[kind]())
    server.lies = {"GET /settings": lambda _: reply}
    said = out_of_time(api.get_settings, most=2 * TIMEOUT)
    # A machine that is busy enough has not even read it all by then.
    assert "s to decode" in said or "still arriving" in said


WALKS: dict[str, tuple[Callable[[ComfyApi], Any], Callable[[], Any]]] = {
    "GET /queue": (
        ComfyApi.get_queue,
        lambda: dict.fromkeys(["queue_running", "queue_pending"], [[1, "a"]] * 240_000),
    ),
    "GET /history": (
        ComfyApi.get_histories,
        lambda: {str(n): {"prompt": [1, "a"]} for n in range(240_000)},
    ),
    "GET /v2/userdata": (
        ComfyApi.list_user_data_v2,
        lambda: [{"name": "a", "path": "a", "type": "file"}] * 240_000,
    ),
}


@pytest.mark.parametrize("route", WALKS)
def test_timeout_holds_for_what_becomes_many_models(
    server: Comfy, api: ComfyApi, route: str
) -> None:
    """Each of them is made quickly; their number is the server's."""
    ask, make = WALKS[route]
    reply = answer(200, json.dumps(make(), separators=(",", ":")))
    server.lies = {route: lambda _: reply}
    said = out_of_time(lambda: ask(api), most=2 * TIMEOUT)
    assert "raise timeout, or ask for less" in said or "still arriving" in said


def test_what_a_comfyui_sends_is_decoded_within_the_usual_timeout() -> None:
    """20 MB of definitions, as of a large installation, and a history of 64 MiB."""
    files = [*Path(comfy_client.testing.__file__).parent.glob("definitions*.json")]
    files += Path(__file__).parent.parent.joinpath("workflows").glob("*.json")
    assert files
    for path in files:
        content = path.read_bytes()
        assert seconds_to_decode(content) / len(content) * MAX_JSON < 12.0


@pytest.mark.parametrize("unit", ["[[]],", '"ab",', '{"a":1},', "1,"])
def test_the_estimate_is_none_too_low(unit: str) -> None:
    """With room for a busy machine; and none too high, lest what is honest is refused."""
    body = f"[{unit * ((1 << 20) // len(unit))}0]".encode()
    gc.freeze()  # what other tests have left is not looked at again and again
    try:
        begun = time.thread_time()
        json.loads(body)
        took = time.thread_time() - begun
    finally:
        gc.unfreeze()
    assert took / 5 < seconds_to_decode(body) < 1.0


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
                http.request("GET", "/queue", timeout=10)
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
        assert time.thread_time() - begun < 1.0
