"""Answers over HTTP: whatever a server sends, time and memory that they take have a limit."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import sys
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from comfy_client import ComfyApi
from comfy_client.errors import (
    ApiError,
    ComfyError,
    NotFound,
    PromptRejected,
    RequestTimeout,
    TransportError,
    UnexpectedResponse,
    UploadTooLarge,
)
from comfy_client.jobs.queue_monitor import heeds_id
from comfy_client.models import Features, UploadedImage
from comfy_client.nearest import nearest
from comfy_client.routes import files as file_routes
from comfy_client.transport import http as edge
from comfy_client.transport import pieces
from comfy_client.values import size_decoded
from comfy_client.workflow.explain import explain_rejection
from tests.helpers.clients import Quick, until
from tests.helpers.long import but
from tests.hostile.server import GRAPH, Comfy, Request, answer

MIB = 1 << 20
#: Lists in a list, which take 27 times as much when they are decoded.
BRACKETS = b"[" + b"[]," * 700_000 + b"0]"
JSON = ("Content-Type", "application/json")
FILE = {"filename": "a.png", "subfolder": "", "type": "output"}


@pytest.fixture
def server() -> Iterator[Comfy]:
    with Comfy() as server:
        yield server


@pytest.fixture
def api(server: Comfy) -> Iterator[ComfyApi]:
    with ComfyApi(server.url, transport="poll", max_json=4 * MIB) as api:
        yield api


@contextlib.contextmanager
def within(seconds: float, memory: int | None = None) -> Iterator[None]:
    """It takes no more of this thread's time, with bytes of memory only where asked for.

    A server in another thread may take its time.
    """
    if memory is not None:
        tracemalloc.start()
    start = time.thread_time()
    try:
        yield
        took = time.thread_time() - start
        if memory is not None:
            assert tracemalloc.get_traced_memory()[1] < memory
    finally:
        tracemalloc.stop()
    # A tracer, as of a debugger or for coverage, takes several times as long.
    assert took < seconds * (5 if sys.gettrace() else 1)


SMALL_ROUTES = {
    "GET /prompt": lambda api: api.poll_status(5.0),
    "GET /features": lambda api: api.get_features(),
    "GET /system_stats": lambda api: api.get_system_stats(),
    "POST /users": lambda api: api.create_user("ann"),
    "POST /upload/image": lambda api: api.upload_image(b"x", "a.png"),
    "POST /jobs/x/cancel": lambda api: api.cancel_job("x"),
    "POST /jobs/cancel": lambda api: api.cancel_jobs("x"),
    "POST /free": lambda api: api.free_memory(),
    "POST /userdata/x": lambda api: api.store_user_data("x", b""),
}


@pytest.mark.parametrize("encoded", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("route", SMALL_ROUTES)
def test_answers_small_by_nature_are_limited_to_a_mebibyte(
    server: Comfy, api: ComfyApi, route: str, encoded: bool
) -> None:
    """Decoded or not: a few thousand bytes may become millions."""
    api.poll_status(5.0)  # learns where the routes are
    body = gzip.compress(BRACKETS) if encoded else BRACKETS
    headers = [JSON, *([("Content-Encoding", "gzip")] if encoded else [])]
    server.lies = {route: lambda _: answer(200, body, headers)}
    with (
        within(2.0, memory=8 * MIB),
        pytest.raises(UnexpectedResponse, match="exceeds the 1048576 bytes"),
    ):
        SMALL_ROUTES[route](api)


def test_json_that_would_take_a_multiple_is_not_decoded(server: Comfy, api: ComfyApi) -> None:
    """What it would take is told, and how to allow it; a body that is as long is taken."""
    server.lies = {"GET /settings": lambda _: answer(200, BRACKETS, [JSON])}
    with (
        within(2.0, memory=8 * MIB),
        pytest.raises(UnexpectedResponse, match=r"about \d\d MiB decoded.*max_json=8388608"),
    ):
        api.get_settings()
    honest = json.dumps({"a": "x" * len(BRACKETS)}).encode()
    server.lies = {"GET /settings": lambda _: answer(200, honest, [JSON])}
    assert len(api.get_settings()["a"]) == len(BRACKETS)


def test_a_larger_answer_is_taken_when_the_caller_says_so(server: Comfy) -> None:
    """By one argument of the client, which the error names; copies keep it."""
    body = json.dumps({"a": "x" * 5 * MIB}).encode()
    server.lies = {"GET /settings": lambda _: answer(200, body, [JSON])}
    with (
        ComfyApi(server.url, transport="poll", max_json=4 * MIB) as api,
        pytest.raises(UnexpectedResponse, match="max_json=8388608 allows twice as much"),
    ):
        api.get_settings()
    with ComfyApi(server.url, transport="poll", max_json=8 * MIB) as api:
        assert len(api.get_settings()["a"]) == 5 * MIB
    for wrong, error in ((0, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="max_json"):
            ComfyApi(server.url, max_json=wrong)  # type: ignore[arg-type]  # on purpose


def test_workflows_and_their_queue_are_no_bombs() -> None:
    """What JSON takes is estimated well below the limit for all that a ComfyUI sends."""
    for path in (Path(__file__).parents[1] / "workflows").glob("*.json"):
        content = json.dumps([json.loads(path.read_text())] * 100).encode()
        assert size_decoded(content) < pieces.GROWTH * len(content)
    assert size_decoded(BRACKETS) > pieces.GROWTH * len(BRACKETS)


@pytest.mark.parametrize("status", [400, 404, 500, 502])
def test_of_a_refusal_a_mebibyte_is_looked_at(server: Comfy, api: ComfyApi, status: int) -> None:
    """It is still the error of its status, with the beginning of what was said."""
    bomb = gzip.compress(b'{"error": "no", "x": ' + BRACKETS * 10 + b"}")
    headers = [JSON, ("Content-Encoding", "gzip")]
    server.lies = {"GET /queue": lambda _: answer(status, bomb, headers)}
    kind = NotFound if status == 404 else ApiError
    with within(2.0, memory=40 * MIB), pytest.raises(kind) as caught:
        api.get_queue()
    assert str(caught.value.body).startswith('{"error": "no"')
    assert len(caught.value.body) <= 2000


@pytest.mark.parametrize(("status", "kind"), [(200, UnexpectedResponse), (400, ApiError)])
@pytest.mark.parametrize("times", [1, 2])
def test_gzip_bombs_take_no_memory(
    server: Comfy, api: ComfyApi, status: int, kind: type[ComfyError], times: int
) -> None:
    """With the oldest urllib3, too, which unpacks all that it reads, as often as it was packed."""
    api.poll_status(5.0)  # learns where the routes are
    bomb = bytes(64 * MIB)
    for _ in range(times):
        bomb = gzip.compress(bomb)
    headers = [JSON, ("Content-Encoding", ", ".join(["gzip"] * times))]
    server.lies = {"GET /prompt": lambda _: answer(status, bomb, headers)}
    with within(2.0, memory=12 * MIB), pytest.raises(kind):
        api.poll_status(5.0)


def test_only_codings_that_are_unpacked_are_asked_for(server: Comfy) -> None:
    """Also with a Session and headers that accept more."""
    with requests.Session() as session, requests.Session() as of_bytes:
        of_bytes.headers["Accept-Encoding"] = b"br, deflate"
        session.headers["Accept-Encoding"] = "br;q=1.0, zstd, GZIP;q=0.5, deflate"
        for given, headers, accepted in (
            (None, {}, "gzip, deflate"),
            (session, {}, "GZIP;q=0.5, deflate"),
            (session, {"Accept-Encoding": "br"}, "identity"),
            (of_bytes, {}, "deflate"),
        ):
            with ComfyApi(server.url, session=given, headers=headers, transport="poll") as api:
                api.get_queue()
            assert server.requests[-1].headers["accept-encoding"] == accepted


def test_a_pattern_that_is_looked_for_in_a_refusal_takes_no_time(
    server: Comfy, api: ComfyApi
) -> None:
    """Nor does a number of thousands of digits."""
    for said in ("body size " + "1" * 80_000, "body size " * 8000, "body size 1" * 8000):
        server.lies = {"GET /queue": lambda _, said=said: answer(413, said)}
        with within(1.0), pytest.raises(UploadTooLarge) as caught:
            api.get_queue()
        assert caught.value.limit is None


NAMES = [f"name-{n}" for n in range(20)]
#: Alike enough to be compared in full, and as slowly as can be.
LONG = [bytes(random.Random(n).choices(b"ab", k=95)).decode() for n in range(150)]


def not_among(choices: Iterable[str]) -> dict[str, Any]:
    info = {"received_value": LONG[0][::-1], "input_config": [[*choices], {}]}
    return {"type": "value_not_in_list", "extra_info": info}


REJECTIONS: dict[str, Any] = {
    "because node": {"error": {"type": "invalid_prompt", "message": "because node " * 8000}},
    "details": {"error": {"type": "invalid_prompt", "details": "Node ID '#" * 8000}},
    "an id of dots": {"node_errors": {"." * 900_000: {"errors": [{"message": "x"}]}}},
    "many faults": {"node_errors": {"3": {"errors": [not_among(NAMES[:15])] * 2500}}},
    "long choices": {
        "node_errors": {
            "3": {"errors": [not_among(f"{n}{name}" for n in range(25)) for name in LONG]}
        }
    },
}


@pytest.mark.parametrize("name", but(REJECTIONS, "long choices"))
def test_a_rejection_is_explained_in_no_time(server: Comfy, api: ComfyApi, name: str) -> None:
    """However much of it there is, it takes at most 21 lines, and only these are made."""
    server.lies = {"POST /prompt": lambda _: answer(400, REJECTIONS[name])}
    with within(2.0), pytest.raises(PromptRejected) as caught:
        api.run(GRAPH, timeout=30)
    assert len(str(caught.value).splitlines()) <= 22


def test_only_the_lines_that_are_shown_are_made() -> None:
    """The others are counted."""

    class Fault(dict[str, Any]):
        looks = 0

        def get(self, *args: Any) -> Any:
            Fault.looks += 1
            return super().get(*args)

    faults = [Fault(type="x", message="y")] * 9000
    words = explain_rejection({"node_errors": {"3": {"errors": faults}}}, GRAPH)
    assert words.endswith("... (9000 problems in all)")
    assert Fault.looks < 300


def test_lists_in_lists_in_a_rejection_are_explained() -> None:
    """Python writes none that is nested deeper than its stack has room for."""
    deep: Any = []
    for _ in range(990):
        deep = [deep]
    for info in (
        {"received_value": deep, "input_config": [[deep, "a"], {}]},
        {"cycle_nodes": [deep], "linked_node": [deep, deep], "input_config": deep},
    ):
        for kind in ("value_not_in_list", "dependency_cycle", "return_type_mismatch"):
            fault = {"type": kind, "extra_info": info, "details": ""}
            assert explain_rejection({"node_errors": {"3": {"errors": [fault]}}}, GRAPH)


def test_the_nearest_of_any_number_of_names_is_found_in_no_time() -> None:
    """Among more than are compared, those that begin alike are looked at first."""
    names = [f"{n:06}" for n in range(90_000)] + ["KSampler (Efficient)", "KSampelr"]
    with within(2.0):
        assert nearest("KSampler", names)[0] == "KSampelr"
    with within(2.0):
        assert len(nearest("ab" * 50, [f"{'ba' * 45}{n}" for n in range(9000)])) == 5
    with within(2.0):
        assert nearest("KSampler", (f"KSamplr{n}" for n in range(800_000)))


def test_names_for_a_rejection_are_asked_for_within_its_time(server: Comfy, api: ComfyApi) -> None:
    """A hint is worth no more time than the caller gives."""

    def drip(request: Request) -> Iterator[bytes]:
        yield answer(200, b"", [JSON, ("Content-Length", "9999")], length=False)
        while True:
            time.sleep(0.05)
            yield b" "

    error = {"type": "invalid_prompt", "extra_info": {"class_type": "No"}}
    server.lies = {
        "POST /prompt": lambda _: answer(400, {"error": error}),
        "GET /object_info": drip,
    }
    start = time.monotonic()
    with pytest.raises(PromptRejected, match="no node class 'No'"):
        api.run(GRAPH, timeout=1.0)
    assert time.monotonic() - start < 30


ENDLESS = {
    "announcements": (b"", b"HTTP/1.1 102 X\r\n\r\n" * 500),
    "one announcement": (b"HTTP/1.1 103 X\r\n", b"Link: x\r\n" * 500),
    "a status": (b"HTTP/1.1 200 ", b"x" * 5000),
    "headers": (b"HTTP/1.1 200 X\r\n", b"a: b\r\n" * 500),
    "a chunk's extensions": (
        b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n1;",
        b"x" * 5000,
    ),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_endless_headers_are_limited(server: Comfy, api: ComfyApi, name: str) -> None:
    """Long before the time is over, however quickly it comes."""
    start, piece = ENDLESS[name]
    api.poll_status(5.0)

    def pour(request: Request) -> Iterator[bytes]:
        yield start
        while True:
            yield piece

    server.lies = {"GET /queue": pour}
    begun = time.monotonic()
    with within(2.0, memory=8 * MIB), pytest.raises(TransportError):
        api.get_queue()
    assert time.monotonic() - begun < 25  # of 30


def test_a_handshake_ends_at_a_mebibyte(server: Comfy) -> None:
    """Long before the time for it is over, of cookies too, which nobody keeps."""
    piece = b"Set-Cookie: a=b\r\n" * 250
    sent: list[int] = []

    def pour(request: Request) -> Iterator[bytes]:
        sent.append(0)
        yield b"HTTP/1.1 101 X\r\n"
        while sum(sent) < 200 * MIB:
            sent[-1] += len(piece)
            yield piece

    server.lies = {"GET /ws": pour}
    with Quick(server.url) as api:
        api.on("status", lambda _: None)  # starts the event thread
        until(lambda: len(sent) > 2)
    assert max(sent) < 20 * MIB  # of which the system holds most


def test_a_transfer_that_never_stops_has_an_end(
    server: Comfy, api: ComfyApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of an hour, unless told otherwise, though something comes all the time."""
    for module in (edge, file_routes):
        monkeypatch.setattr(module, "MAX_TRANSFER", 0.2)
    over = time.monotonic() + 60

    def drip(request: Request) -> Iterator[bytes]:
        yield answer(200, b"", [("Content-Length", "99999")], length=False)
        while time.monotonic() < over:
            time.sleep(0.02)
            yield b"x"

    server.lies = {"GET /view": drip, "POST /upload": drip}
    for call in (
        lambda: api.get_image(FILE),
        lambda: api.download_image(FILE, tmp_path / "a.png"),
        lambda: api.upload_image(b"x", "a.png"),
    ):
        with pytest.raises(RequestTimeout):
            call()
    assert time.monotonic() < over - 30
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("head", ["200 X\r\nContent-Length: 0", "204 X", "304 X"])
def test_bytes_beyond_the_end_of_an_answer_are_not_read(
    server: Comfy, api: ComfyApi, tmp_path: Path, head: str
) -> None:
    """Chunks behind an answer that has no body: the connection ends, the next one works."""
    api.poll_status(5.0)
    sent = 0

    def pour(request: Request) -> Iterator[bytes]:
        nonlocal sent
        yield f"HTTP/1.1 {head}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        for _ in range(400):
            yield b"10000\r\n" + b"x" * 65536 + b"\r\n"
            sent += 65536

    server.lies = {"GET /queue": pour, "GET /view": pour}
    with within(2.0, memory=12 * MIB), contextlib.suppress(ComfyError):
        api.get_queue()
    with within(2.0, memory=12 * MIB), pytest.raises(ComfyError):
        # Of 200, chunks are the body, and it breaks off.
        api.download_image(FILE, tmp_path / "a.png", timeout=3)
    assert not list(tmp_path.iterdir())
    assert sent < 60 * MIB
    server.lies = {}
    assert api.get_queue().running == ()


@pytest.mark.parametrize("status", [201, 202, 204, 205, 206])
def test_a_part_is_never_taken_for_a_file(
    server: Comfy, api: ComfyApi, tmp_path: Path, status: int
) -> None:
    """Nor is any answer that is none; a part is no answer to any other question either."""
    headers = [("Content-Range", "bytes 0-3/999"), ("Content-Type", "image/png")]
    body = b"" if status in (204, 205) else b"part"
    server.lies = {"GET /view": lambda _: answer(status, body, headers)}
    with pytest.raises(UnexpectedResponse, match=f"{status}"):
        api.download_image(FILE, tmp_path / "a.png")
    with pytest.raises(UnexpectedResponse, match=f"{status}"):
        api.get_image(FILE)
    assert not list(tmp_path.iterdir())
    server.lies = {"GET /": lambda _: answer(206, {"queue_running": [], "queue_pending": []})}
    with pytest.raises(UnexpectedResponse, match="206, a part"):
        api.get_queue()
    assert api.fetch_api("/view", headers={"Range": "bytes=0-3"}).status == 206


@pytest.mark.parametrize("encoding", ["gzip", "br", "x-own"])
def test_a_file_is_taken_as_it_is_or_not_at_all(
    server: Comfy, api: ComfyApi, tmp_path: Path, encoding: str
) -> None:
    """None encoded was asked for: a few thousand bytes could fill the disk."""
    bomb = gzip.compress(bytes(4 * MIB))
    server.lies = {"GET /view": lambda _: answer(200, bomb, [("Content-Encoding", encoding)])}
    with within(2.0, memory=8 * MIB), pytest.raises(UnexpectedResponse, match=encoding):
        api.download_image(FILE, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
    server.lies = {"GET /view": lambda _: answer(200, b"x", [("Content-Encoding", "identity")])}
    assert api.get_image(FILE) == b"x"
    assert server.requests[-1].headers["accept-encoding"] == "identity"


def test_cookies_of_a_server_have_a_limit(server: Comfy, api: ComfyApi) -> None:
    """So many as a server takes are sent again; the others are not kept."""
    count = 0

    def feed(request: Request) -> bytes:
        nonlocal count
        count += 1
        mine = [("Set-Cookie", f"c{count}-{n}={'x' * 1000}") for n in range(60)]
        long = [("Set-Cookie", f"long{count}={'x' * 60_000}")]
        session = [("Set-Cookie", f"session={count}")] if count == 1 else []
        body = {"exec_info": {"queue_remaining": 0}}
        return answer(200, body, [*session, *long, *mine])

    server.lies = {"GET /prompt": feed}
    for _ in range(4):
        api.poll_status(5.0)
    sent = server.requests[-1].headers["cookie"]
    assert "session=1" in sent
    assert 8000 < len(sent) < 20_000


def test_a_version_of_any_digits_is_read(server: Comfy, api: ComfyApi) -> None:
    """Python converts no number of thousands of digits."""
    for version, heeds in (("9" * 5000, True), ("0.3." + "0" * 5000, False), (".", False)):
        stats = {"system": {"comfyui_version": version}, "devices": []}
        server.lies = {"GET /system_stats": lambda _, stats=stats: answer(200, stats)}
        assert heeds_id(api) is heeds


def test_sizes_and_references_of_any_type_are_survived() -> None:
    """A server may say anything of what it takes, and of where it put something."""
    for value in ("x", "9" * 5000, [], {}, True, None, float("inf"), 10**400, -1):
        assert Features.from_json({"max_upload_size": value}).max_upload_size is None
    assert Features.from_json({"max_upload_size": 1e8}).max_upload_size == 100_000_000
    for value in (1, [], {}, None, True):
        image = UploadedImage.from_json({"name": "a.png", "subfolder": value, "type": value})
        assert image.ref == "a.png"
        with pytest.raises(UnexpectedResponse):
            UploadedImage.from_json({"name": value})
