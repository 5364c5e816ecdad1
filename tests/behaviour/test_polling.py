"""Without a WebSocket the queue is polled over HTTP."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from typing import Any
from urllib.request import Request, urlopen

import pytest

from comfy_client import ComfyApi, State
from comfy_client.testing import ComfyServer
from tests.helpers.clients import (
    Heard,
    Quick,
    until,
    until_connected,
)


def add_prompt(comfy: ComfyServer) -> None:
    """One that runs until it is forgotten."""
    comfy.script()
    body = json.dumps({"prompt": {}}).encode()
    headers = {"Content-Type": "application/json"}
    with urlopen(Request(f"{comfy.url}/prompt", body, headers), timeout=10) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("status", [200, 302, 400, 404])
def test_http_without_websocket_is_polled_and_the_socket_tried_again(
    comfy: ComfyServer, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """``websocket_unavailable`` once, ``status`` on each change, and back to events."""
    where = {"Location": "/login"} if status == 302 else {}
    comfy.faults.refuse_sockets(status, "no socket here", where)
    with caplog.at_level(logging.WARNING), contextlib.closing(Quick(comfy.url)) as api:
        heard = Heard(api)
        assert api.init(10) is api
        assert api.state is State.POLLING
        assert not api.connected
        until(lambda: heard("status"))
        add_prompt(comfy)
        until(lambda: heard("status")[-1].queue_remaining == 1)
        comfy.forget()
        until(lambda: heard("status")[-1].queue_remaining == 0)
        changes = [e.queue_remaining for e in heard("status")]
        assert changes == [0, 1, 0]
        until(lambda: len(comfy.handshakes) >= 4)  # retried now and then
        assert heard.links == ["websocket_unavailable"]
        assert f"{status}" in str(heard("websocket_unavailable")[0].error)
        comfy.faults.clear()
        until_connected(comfy, api, 1)
        until(lambda: heard("connected"))
        assert heard.names("websocket_unavailable", "connected", "reconnected") == [
            "websocket_unavailable",
            "connected",
        ]
    assert caplog.text.count("no WebSocket (") == 1


def test_a_socket_that_is_lost_for_good_is_polled_too(comfy: ComfyServer, quick: Quick) -> None:
    """A handshake that is never answered, or a port that drops: three tries, then HTTP."""
    heard = Heard(quick)
    comfy.faults.refuse_sockets(502)
    comfy.faults.drop()
    until(lambda: heard("websocket_unavailable"))
    add_prompt(comfy)
    until(lambda: heard("status"))
    comfy.forget()
    comfy.faults.clear()
    until_connected(comfy, quick, 2)
    until(lambda: heard("reconnected"))
    assert heard.links == ["disconnected", "websocket_unavailable", "reconnected"]
    # Should it be lost again, that is told again.
    comfy.faults.refuse_sockets(502)
    comfy.faults.drop()
    until(lambda: len(heard("websocket_unavailable")) == 2)


def test_transport_poll_never_dials(comfy: ComfyServer) -> None:
    """``transport="poll"``: status still comes."""
    with Quick(comfy.url, transport="poll") as api:
        heard = Heard(api)
        assert api.state is State.POLLING
        add_prompt(comfy)
        until(lambda: heard("status"))
        assert api.state is State.POLLING
    assert comfy.handshakes == []


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize("transport", ["auto", "poll"])
def test_polls_are_bounded(comfy: ComfyServer, up: bool, transport: Any) -> None:
    """Fewer than two a second with real patience, whether HTTP works or not."""
    comfy.faults.refuse_sockets(404)
    if not up:
        comfy.on("GET", "/prompt", (503, {}, "not yet"))
    with contextlib.closing(ComfyApi(comfy.url, transport=transport)) as api:
        begun = time.perf_counter()
        api.on("all", lambda event: None)  # connects
        until(lambda: any(r.path == "/prompt" for r in comfy.requests))
        time.sleep(2.2)
        polls = [r for r in comfy.requests if r.path == "/prompt"]
        most = 2 * (time.perf_counter() - begun)
        assert len(polls) <= most
        assert len(comfy.handshakes) <= (most if transport == "auto" else 0)


def test_polling_goes_on_while_http_fails_now_and_then(comfy: ComfyServer) -> None:
    """Failed polls are no end."""
    comfy.faults.refuse_sockets(404)
    with Quick(comfy.url) as api:
        heard = Heard(api)
        comfy.on("GET", "/prompt", (503, {}, None))
        until(lambda: api.state is State.WAITING)
        add_prompt(comfy)
        comfy.off("GET", "/prompt")
        until(lambda: heard("status"))
        assert heard("status")[-1].queue_remaining == 1
