"""Timeouts hold, however slowly a server drips."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import attrs
import pytest
import trustme

from comfy_client import ComfyApi
from comfy_client.errors import (
    JobTimeout,
    RequestTimeout,
    ServerUnreachable,
    SubmitUncertain,
    TransportError,
)
from comfy_client.testing import ComfyServer, Request, never_answer
from comfy_client.transport.http import Http
from comfy_client.transport.url import parse_host
from tests.helpers.clients import (
    FAST,
    LIMIT,
    Fast,
    Heard,
    outstanding,
    quick_once,
    quickly,
    until,
)
from tests.helpers.gates import check_once, held, saves, until_it_runs
from tests.helpers.http import (
    MIB,
    Pour,
    endlessly,
    never_end,
    opened,
    raw_server,
)
from tests.helpers.patches import tell_time
from tests.helpers.scripted import (
    ALL_CACHED,
    GRAPH,
    OVER,
    START,
    SUCCESS,
    WELL,
    check,
)


def test_a_host_that_swallows_packets_ends_at_the_connect_timeout() -> None:
    """A full backlog answers nothing, like a firewall."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, contextlib.ExitStack() as s:
        for _ in range(4):  # until the kernel drops what comes
            filler = s.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        http = s.enter_context(opened(f"127.0.0.1:{server.getsockname()[1]}", timeout=(0.3, 9)))
        with quickly(), pytest.raises(ServerUnreachable, match=r"no connection within 0\.3 s"):
            http.json("GET", "/prompt")


@pytest.mark.parametrize(
    "pour",
    [
        endlessly(b"X", start=b"HTTP/1.1 200 O", pause=0.02),
        endlessly(b"X", pause=0.02),
        endlessly(b"X: y\r\n", pause=0.05),
        endlessly(b"HTTP/1.1 100 Continue\r\n\r\n", start=b"", pause=0.02),
        endlessly(b" ", start=b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", pause=0.02),
        endlessly(b"1\r\n \r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 0.02),
        endlessly(b"0", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 0.02),
        endlessly(b"X: y\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", 0.02),
        endlessly(b" ", b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n", 0.02),
        lambda connection: never_end(connection),
    ],
    ids=[
        "status",
        "header",
        "headers",
        "continue",
        "body",
        "chunks",
        "chunk-size",
        "trailer",
        "redirect",
        "silence",
    ],
)
def test_dripping_ends_at_the_deadline(pour: Pour) -> None:
    """Wherever in the answer a server drips, the whole of it has one deadline."""
    with raw_server(pour) as port, opened(f"127.0.0.1:{port}") as http:
        start = time.perf_counter()
        with pytest.raises(TransportError):
            http.request("GET", "/queue", timeout=0.5)
        assert 0.4 < time.perf_counter() - start < LIMIT


def test_a_server_that_reads_nothing_ends_at_the_deadline() -> None:
    """The body does not fit into the buffers on the way."""
    end = threading.Event()
    with raw_server(lambda connection: end.wait(2 * LIMIT)) as port:
        with opened(f"127.0.0.1:{port}") as http, quickly(), pytest.raises(RequestTimeout):
            http.upload("/upload/image", {}, bytes(64 * MIB), "a", timeout=0.5)
        end.set()


def test_no_time_left_asks_nothing(comfy: ComfyServer, http: Http) -> None:
    """A deadline that has passed is a ``RequestTimeout`` as well."""
    with pytest.raises(RequestTimeout):
        http.json("GET", "/prompt", timeout=0)
    assert not comfy.requests


@pytest.mark.parametrize("timeout", [0, -1, (0, 1), (1, 0), float("nan")])
def test_timeouts_must_be_positive(timeout: Any) -> None:
    """Refused when the client is made."""
    with pytest.raises(ValueError, match="more than 0"):
        Http(parse_host("x")[0], timeout=timeout)


@pytest.mark.parametrize("timeout", [None, "5", [5, 60], (5, None)])
def test_wrong_timeouts_of_http_are_refused_in_words(timeout: Any) -> None:
    """Not in those of a comparison."""
    with pytest.raises(TypeError, match="more than 0 seconds"):
        Http(parse_host("x")[0], timeout=timeout)


@pytest.mark.parametrize(
    ("timeout", "error"),
    [(float("nan"), ValueError), (-1, ValueError), ("5", TypeError), ([5], TypeError)],
)
def test_wrong_timeouts_of_a_call_are_refused_before_anything_is_sent(
    comfy: ComfyServer, tmp_path: Path, timeout: Any, error: type[Exception]
) -> None:
    """By each that takes one, in the same words."""
    file = {"filename": "a.png"}
    with contextlib.closing(ComfyApi(comfy.url)) as api:
        for call in (
            lambda: api.init(timeout),
            lambda: api.ping(timeout),
            lambda: api.poll_status(timeout),
            lambda: api.fetch_api("/queue", timeout=timeout),
            lambda: api.get_image(file, timeout=timeout),
            lambda: api.stream_image(file, timeout=timeout).__enter__(),
            lambda: api.download_image(file, tmp_path, timeout=timeout),
            lambda: api.upload_image(b"x", "x", timeout=timeout),
        ):
            with pytest.raises(error, match="a timeout must be"):
                call()
    assert not comfy.requests


def test_a_timeout_may_be_infinite(comfy: ComfyServer) -> None:
    """Although no socket can be told so: of the client, of a call, of a transfer."""
    comfy.on("POST", "/upload", (200, {}, {}))
    with opened(comfy.url, timeout=float("inf")) as http:
        assert http.json("GET", "/queue")
        assert http.json("GET", "/queue", timeout=float("inf"))
        assert http.upload("/upload", {}, b"x", "x", timeout=float("inf")) == {}
        with http.download("/queue", timeout=1e300) as download:
            assert b"".join(download)


def test_silence_behind_a_slow_beginning_ends_at_the_deadline(
    comfy: ComfyServer, http: Http
) -> None:
    """The last read has only the time that is left."""

    def handler(request: Request) -> None:
        request.socket.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n")
        time.sleep(1.8)
        request.socket.sendall(b"\r\n")
        never_answer(request)

    def ask() -> None:
        with pytest.raises(RequestTimeout):
            http.json("GET", "/queue", timeout=2.0)

    comfy.on("GET", "/queue", handler)
    quick_once(ask, 3.0)


def test_dripping_ends_at_the_deadline_over_tls(ca: trustme.CA, bundle: Path) -> None:
    """As over plain http."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    with (
        raw_server(endlessly(b"X", pause=0.02), context) as port,
        opened(f"https://127.0.0.1:{port}", verify=bundle) as http,
        quickly(),
        pytest.raises(RequestTimeout),
    ):
        http.request("GET", "/queue", timeout=0.6)


def test_the_timeout_of_run_bounds_the_submission_too(comfy, fast):
    """A POST without an answer does not outlast ``timeout`` by more than a look."""
    comfy.on("POST", "/prompt", never_answer)
    with quickly(), pytest.raises(SubmitUncertain):
        fast.run(GRAPH, timeout=0.1)


@pytest.mark.parametrize("callback", [None, lambda event: None])
def test_time_that_runs_out_is_a_timeout_and_the_prompt_goes_on(comfy, fast, callback):
    """A TimeoutError that names the prompt; the same job can be waited for again."""
    go = threading.Event()
    comfy.script(START, go, *WELL[1:])
    start = time.monotonic()
    with pytest.raises(
        JobTimeout, match=r"within 1\.25 s \(.*\)\. The prompt keeps running: "
    ) as caught:
        fast.run(GRAPH, timeout=1.25, on_event=callback)
    assert isinstance(caught.value, TimeoutError)
    assert time.monotonic() - start < LIMIT
    [job] = outstanding(fast)
    assert job.prompt_id == caught.value.prompt_id
    go.set()
    check(job.result(LIMIT))


def test_a_timeout_does_not_claim_that_a_prompt_of_a_dead_server_runs(caplog):
    """Instead, it says for how long the server has been silent."""
    with ComfyServer() as server, Fast(server.url) as api:
        server.script(START, threading.Event(), *WELL[1:])
        job = api.submit(GRAPH)
        until(lambda: job.status == "running")
        assert job.handle.silent_for() is None
        server.kill()
        until(job.handle.silent_for)
        with pytest.raises(JobTimeout, match=r"\. The server has not answered for ") as caught:
            job.result(0)
        assert caught.value.silent_for > 0
        with pytest.raises(JobTimeout, match="unless their server is gone") as caught:
            list(api.as_completed([job], timeout=0))
        assert caught.value.silent_for > 0
        job.handle.warn_that_it_runs()
    assert f"prompt {job.prompt_id}: the server has not answered for " in caplog.text


@pytest.mark.parametrize("callback", [None, lambda event: None])
def test_no_news_is_a_stall_timeout_after_the_end_event_too(comfy, fast, callback):
    """Success was told, and its outputs cannot be read."""
    comfy.faults.bad_gateway(503, method="GET", path="/history*")
    comfy.script(START, ALL_CACHED, SUCCESS, OVER)
    with pytest.raises(JobTimeout, match="no news"):
        fast.run(GRAPH, timeout=LIMIT, stall_timeout=0.5, on_event=callback)


def test_a_worker_that_died_is_a_stall_timeout(comfy: ComfyServer, fast: ComfyApi) -> None:
    """No end without ``stall_timeout``; with it an error that says so, and the wait may go on."""
    told = Heard(fast)
    with comfy.faults.hang_worker():
        job = fast.submit(saves())
        until_it_runs(comfy)
        with pytest.raises(JobTimeout, match=r"has not ended within 0\.5 s") as caught:
            job.result(0.5)
        assert not caught.value.stalled
        with quickly(LIMIT), pytest.raises(JobTimeout, match="no news of prompt") as caught:
            job.result(stall_timeout=0.5)
        assert caught.value.stalled
        assert "last news" in job.why()
        with pytest.raises(JobTimeout) as caught:
            fast.run(saves(2), stall_timeout=0.5)
        assert caught.value.stalled
        assert job.status == "running"
    check_once(comfy, told, job.result(LIMIT))


class Pinging(ComfyApi):
    """Asks often whether the socket is alive, and believes it is for long."""

    timing = attrs.evolve(FAST, dead=90.0)


def test_a_clock_that_jumps_is_no_timeout(
    comfy: ComfyServer, gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forth and back by weeks: no timeout, no disconnection, no early end."""
    true, offset = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: true() + offset[0])
    tell_time(monkeypatch, time.time, "wall_time")
    with Pinging(comfy.url) as api:
        told = Heard(api)
        job = api.submit(held("a"))
        until_it_runs(comfy)
        for jump in (3e6, -3e6, 0.0):
            offset[0] = jump
            before = comfy.pings
            comfy.until(lambda before=before: comfy.pings >= before + 3, LIMIT)
            with pytest.raises(JobTimeout):
                job.result(0.1)
        gate("a").set()
        check_once(comfy, told, job.result(LIMIT), recovered=False)
        assert told.links == []
