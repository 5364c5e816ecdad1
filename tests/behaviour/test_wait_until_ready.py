"""``wait_until_ready`` waits for what mends itself, and for the socket; the rest is an error."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from comfy_client import (
    ApiError,
    AuthenticationError,
    ClientClosed,
    ComfyApi,
    RequestTimeout,
    ServerUnreachable,
    State,
    UnexpectedResponse,
)
from comfy_client.testing import ComfyServer, Request
from comfy_client.testing.versions import RELEASES
from tests.comfyui import free_port
from tests.helpers.clients import Heard, exception_of, quickly, until

LIMIT = 60.0
HTML = {"Content-Type": "text/html"}
LOADING = "<html><title>Pod</title><script>let x='a</b>';</script><p>Your app is starting</p>"
RELOADS = "<html><head><META http-equiv='refresh' content='5'></head><body>Hello</body></html>"


def test_wait_until_ready_returns_system_stats_and_connects(comfy: ComfyServer) -> None:
    """As ``init`` does; it may be repeated."""
    with contextlib.closing(ComfyApi(comfy.url)) as api:
        stats = api.wait_until_ready(LIMIT)
        assert stats.comfyui_version == RELEASES[comfy.version].comfyui
        assert stats.devices
        assert api.connected
        assert api.wait_until_ready().comfyui_version == stats.comfyui_version
    assert len(comfy.handshakes) == 1


def test_without_a_socket_http_is_enough(comfy: ComfyServer) -> None:
    """As the client was told to do without, or a proxy lets none through."""
    with contextlib.closing(ComfyApi(comfy.url, transport="poll")) as api:
        assert api.wait_until_ready(LIMIT).devices
        assert api.state is State.POLLING
    comfy.faults.refuse_sockets(404)
    with contextlib.closing(ComfyApi(comfy.url)) as api:
        assert api.wait_until_ready(LIMIT).devices
        assert api.state is State.POLLING


def test_a_port_where_nobody_listens_yet_is_waited_for() -> None:
    """A machine that boots."""
    server = ComfyServer(port=free_port())
    later = threading.Timer(0.5, server.start)
    later.start()
    try:
        with contextlib.closing(ComfyApi(f"127.0.0.1:{server.port}")) as api:
            assert api.wait_until_ready(LIMIT).devices
            assert api.connected
    finally:
        later.join()
        server.stop()


@pytest.mark.parametrize(
    "answer",
    [
        (502, HTML, "<html>bad gateway</html>"),
        (503, {}, None),
        (504, {}, None),
        (520, {}, None),
        (202, {"Content-Type": "text/plain"}, "queued"),
        (425, {}, None),
        (429, HTML, "<html>slowly</html>"),
        (200, HTML, LOADING),
        (404, HTML, LOADING),
        (200, HTML, RELOADS),
    ],
    ids=lambda answer: f"{answer[0]} {answer[2] or ''}"[:30],
)
def test_proxy_answers_while_a_server_starts_are_waited_out(
    comfy: ComfyServer, answer: Any
) -> None:
    """Statuses of proxies, and pages."""
    times = itertools.count(1)

    def starting(_: Request) -> Any:
        if next(times) == 2:
            fault.end()
        return answer

    fault = comfy.on("GET", "*", starting)
    with contextlib.closing(ComfyApi(comfy.url)) as api:
        assert api.wait_until_ready(LIMIT).devices
        assert api.connected
    assert next(times) == 3


@pytest.mark.parametrize("answer", [(503, {}, None), (404, HTML, LOADING)], ids=["503", "a page"])
def test_at_the_end_the_error_is_what_the_server_said_last(
    comfy: ComfyServer, caplog: pytest.LogCaptureFixture, answer: Any
) -> None:
    """A request that was cut short, since time ran out, says less."""
    hangs, over = threading.Event(), threading.Event()

    def starting(_: Request) -> Any:
        if "waiting" in caplog.text:
            hangs.set()
            over.wait(LIMIT)
        return answer

    comfy.on("GET", "*", starting)
    with contextlib.closing(ComfyApi(comfy.url)) as api:
        with pytest.raises((ApiError, UnexpectedResponse)) as caught:
            api.wait_until_ready(2.0)
        assert caught.value.status == answer[0]
        assert hangs.is_set()
        over.set()


def test_facts_that_come_later_than_the_rest_are_waited_for(comfy: ComfyServer) -> None:
    """A node pack may answer late."""
    fault = comfy.on("GET", "/system_stats", (503, {}, None))
    threading.Timer(0.3, fault.end).start()
    with contextlib.closing(ComfyApi(comfy.url)) as api:
        assert api.wait_until_ready(LIMIT).devices


def test_a_name_server_that_does_not_answer_is_waited_for(
    comfy: ComfyServer, look_up: Callable[[Callable[..., Any]], None]
) -> None:
    """A name that does not exist is not."""
    real, left = socket.getaddrinfo, iter([True, True])

    def away(host: str, *args: Any, **kw: Any) -> Any:
        if next(left, False):
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return real("127.0.0.1", *args, **kw)

    look_up(away)
    with contextlib.closing(ComfyApi(f"gpu.test:{comfy.port}")) as api:
        assert api.wait_until_ready(LIMIT).devices


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((401, {}, "who?"), AuthenticationError),
        ((403, HTML, LOADING), AuthenticationError),
        ((200, HTML, "<html><h1>Welcome to nginx!</h1>"), UnexpectedResponse),
        ((200, HTML, "<html>Loading... Please log in</html>"), UnexpectedResponse),
        ((200, HTML, "<p>Starting<input type='password'>"), UnexpectedResponse),
        ((200, HTML, "<img loading=lazy><script>loading()</script>Hi"), UnexpectedResponse),
        ((200, {}, {"hello": "loading"}), UnexpectedResponse),
        ((302, {"Location": "/login"}, None), UnexpectedResponse),
        ((500, {}, "no"), ApiError),
    ],
    ids=lambda value: f"{value[0]} {value[2]}"[:30] if isinstance(value, tuple) else "",
)
def test_permanent_answers_are_an_error_at_once(
    comfy: ComfyServer, answer: Any, kind: type[Exception]
) -> None:
    """And fires as with ``init``."""
    comfy.on("GET", "*", answer)
    with contextlib.closing(ComfyApi(comfy.url)) as api, quickly(LIMIT):
        heard = Heard(api)
        with pytest.raises(kind):
            api.wait_until_ready(LIMIT * 2)
        until(lambda: heard("connection_error"))


@pytest.mark.parametrize("url", ["http://no-such-host.invalid", "https://127.0.0.1:{port}"])
def test_a_host_that_cannot_be_is_an_error_at_once(comfy: ComfyServer, url: str) -> None:
    """Its name, or TLS where there is none."""
    api = ComfyApi(url.format(port=comfy.port))
    with contextlib.closing(api), pytest.raises(ServerUnreachable) as caught, quickly(LIMIT):
        api.wait_until_ready(LIMIT * 2)
    assert not caught.value.retryable


def test_a_socket_that_is_refused_is_an_error_at_once(comfy: ComfyServer) -> None:
    """HTTP lets us in."""
    comfy.faults.refuse_sockets(401)
    api = ComfyApi(comfy.url)
    with contextlib.closing(api), quickly(LIMIT), pytest.raises(AuthenticationError, match="401"):
        api.wait_until_ready(LIMIT * 2)


def test_a_socket_that_does_not_come_in_time_is_a_timeout(comfy: ComfyServer) -> None:
    """Though HTTP works."""
    comfy.faults.stall_handshakes()
    api = ComfyApi(comfy.url)
    with contextlib.closing(api), pytest.raises(RequestTimeout, match="event socket"):
        api.wait_until_ready(0.5)


def test_a_server_that_is_silent_is_a_timeout(comfy: ComfyServer) -> None:
    """In time."""
    comfy.faults.delay("GET", "*")
    api = ComfyApi(comfy.url)
    with contextlib.closing(api), quickly(), pytest.raises(RequestTimeout):
        api.wait_until_ready(0.5)


def test_a_long_page_is_not_read_to_its_end(comfy: ComfyServer) -> None:
    """A server that sends much that is slow to look through does not outlast the timeout."""
    kind = {"Content-Type": "application/json"}
    comfy.on("GET", "/prompt", lambda _: (400, kind, json.dumps("<script" * 20_000)))
    api = ComfyApi(comfy.url)
    with contextlib.closing(api), quickly(), pytest.raises(ApiError):
        api.wait_until_ready(3)


def test_close_ends_the_wait(refused: str) -> None:
    """In another thread."""
    api = ComfyApi(refused)
    threading.Timer(0.3, api.close).start()
    assert isinstance(exception_of(api.wait_until_ready, LIMIT), ClientClosed)


def test_the_reason_of_wait_until_ready_is_logged_once(
    comfy: ComfyServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever waits wants to know."""
    answers = iter([503, 503])

    def busy(request: Request) -> Any:
        status = next(answers, None)
        return comfy.answer(request) if status is None else (status, {}, None)

    comfy.on("GET", "/prompt", busy)
    with contextlib.closing(ComfyApi(comfy.url)) as api:
        start = time.monotonic()
        api.wait_until_ready(LIMIT)
        assert time.monotonic() - start < LIMIT
    assert caplog.text.count(f"waiting {LIMIT:.0f} s for the server to come up") == 1
