"""What is asked again, and what never is: a POST runs once."""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import requests
from urllib3.util import Retry

from comfy_client.errors import RequestTimeout, TransportError
from comfy_client.testing import ComfyServer, encode
from comfy_client.transport.deadline import limited_silence
from comfy_client.transport.http import Http
from comfy_client.transport.url import parse_host
from tests.helpers.clients import until
from tests.helpers.http import (
    head_of,
    opened,
    raw_server,
)


def stale(after: int) -> tuple[Callable[[socket.socket], None], list[bytes]]:
    """Answers `after` requests of its first connection; the next ends it unanswered."""
    seen: list[bytes] = []

    def handle(connection: socket.socket) -> None:
        while True:
            seen.append(head_of(connection))
            if len(seen) == after + 1:
                return
            connection.sendall(encode((200, {}, {"n": len(seen)})))

    return handle, seen


def test_a_stale_connection_is_replaced_once_for_get() -> None:
    """A kept connection that dies under the request."""
    handle, seen = stale(1)
    with raw_server(handle) as port, opened(f"127.0.0.1:{port}") as http:
        assert http.json("GET", "/prompt") == {"n": 1}
        assert http.json("GET", "/prompt") == {"n": 3}
    assert len(seen) == 3


def test_a_stale_connection_is_never_replaced_for_post() -> None:
    """The server may have acted."""
    handle, seen = stale(1)
    with raw_server(handle) as port, opened(f"127.0.0.1:{port}") as http:
        assert http.json("GET", "/prompt") == {"n": 1}
        with pytest.raises(TransportError, match="cut"):
            http.json("POST", "/prompt", json={})
    assert len(seen) == 2


def test_get_is_tried_twice_and_not_for_ever(comfy: ComfyServer, http: Http) -> None:
    """A server that always hangs up is an error."""
    comfy.on("GET", "*", lambda request: None)
    with pytest.raises(TransportError):
        http.json("GET", "/prompt")
    assert len(comfy.requests) == 2


@pytest.mark.parametrize("way", ["silent", "refused"])
def test_a_get_without_an_answer_in_time_or_a_connection_is_not_sent_again(way: str) -> None:
    """It would take twice as long."""
    over = threading.Event()
    with contextlib.ExitStack() as stack:
        if way == "silent":
            port = stack.enter_context(raw_server(lambda _: over.wait(60)))
        else:
            taken = stack.enter_context(socket.socket())
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        stack.callback(over.set)
        http = stack.enter_context(opened(f"127.0.0.1:{port}"))
        with limited_silence(0.2), pytest.raises(TransportError):
            http.json("GET", "/prompt")
        assert http.traffic.requests == 1


def test_a_post_survives_a_connection_that_the_server_closed(
    comfy: ComfyServer, http: Http
) -> None:
    """A restart between two requests is seen before the POST is sent."""
    comfy.script()  # any body will do
    comfy.on("GET", "/prompt", lambda r: r.socket.sendall(encode(comfy.answer(r))))  # and hangs up
    for _ in range(20):
        http.json("GET", "/prompt")
        comfy.until(lambda: not comfy.open_connections)
        http.json("POST", "/prompt", json={"prompt": {}})
    assert len([r for r in comfy.requests if r.method == "POST"]) == 20


@pytest.mark.parametrize(("stale", "connections"), [(20.0, 1), (-1.0, 3)])
def test_a_post_after_a_long_silence_has_a_connection_of_its_own(
    comfy: ComfyServer, stale: float, connections: int
) -> None:
    """A NAT forgets connections that are idle, and a POST cannot be sent again."""
    comfy.script()
    with opened(comfy.url, stale=stale) as http:
        for method in ("GET", "POST", "GET", "POST", "GET"):
            http.request(method, "/prompt", json={"prompt": {}})
    assert comfy.connections == connections


def test_with_a_short_read_timeout_no_connection_is_trusted_that_was_silent_for_longer(
    comfy: ComfyServer, http: Http
) -> None:
    """It would have to wait that long to find out that a kept one is dead."""
    http.json("GET", "/prompt")
    for connections, seconds in ((1, math.inf), (1, 30.0), (2, 0.01)):
        time.sleep(0.02)
        # On a busy machine the answer may take longer; a new connection was made all the same.
        with limited_silence(seconds), contextlib.suppress(RequestTimeout):
            http.json("GET", "/prompt")
        until(lambda connections=connections: comfy.connections >= connections)
        assert comfy.connections == connections


@pytest.mark.parametrize(
    ("retries", "fits"),
    [
        (0, True),
        (3, True),
        (Retry(3), True),
        (Retry(3, allowed_methods=["GET", "POST"]), False),
        (Retry(3, allowed_methods=None), False),
        (Retry(connect=3, read=0, status=0, allowed_methods=None), True),
        (Retry(3, read=False, allowed_methods=None, status_forcelist=[502]), False),
        (Retry(3, read=False, allowed_methods=None, respect_retry_after_header=False), True),
    ],
)
def test_an_adapter_that_sends_a_post_again_is_refused(
    comfy: ComfyServer, retries: Any, fits: bool
) -> None:
    """A prompt would run twice; what is surely not sent may be tried again."""
    comfy.script()
    with requests.Session() as session:
        session.mount("http://", requests.adapters.HTTPAdapter(max_retries=retries))
        if not fits:
            with pytest.raises(ValueError, match="POST"):
                Http(parse_host(comfy.url)[0], session=session)
            return
        with (
            opened(comfy.url, session=session) as http,
            comfy.faults.cut("POST", "/prompt"),
            pytest.raises(TransportError),
        ):
            http.json("POST", "/prompt", json={"prompt": {}})
    assert len(comfy.requests) == 1
