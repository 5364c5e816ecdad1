"""An embedded server, a client of it, and bare sockets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
import websocket

from comfy_client import ComfyApi
from comfy_client.testing import ComfyServer
from tests.helpers.bare import LIMIT

Dial = Callable[..., websocket.WebSocket]


@pytest.fixture(scope="module")
def server() -> Iterator[ComfyServer]:
    """One for all tests of a file; those of faults have one each."""
    with ComfyServer() as running:
        yield running


@pytest.fixture(scope="module")
def open_to_all() -> Iterator[ComfyServer]:
    """One that accepts everybody, as ComfyUI does."""
    with ComfyServer(allowed_hosts=["*"]) as running:
        yield running


@pytest.fixture(scope="module")
def controlled() -> Iterator[ComfyServer]:
    """One with a control over HTTP."""
    with ComfyServer(control=True) as running:
        yield running


@pytest.fixture
def reset_server(controlled: ComfyServer) -> Iterator[ComfyServer]:
    """The controlled one, which is reset after each test."""
    yield controlled
    controlled.reset()


@pytest.fixture
def api(server: ComfyServer) -> Iterator[ComfyApi]:
    with ComfyApi(server.url) as client:
        yield client


@pytest.fixture
def dial(server: ComfyServer) -> Iterator[Dial]:
    """Opens a socket, and has its greeting read."""
    opened = []

    def one(client_id: str = "me") -> websocket.WebSocket:
        before = server.hellos.count(client_id)
        url = f"ws://127.0.0.1:{server.port}/ws?clientId={client_id}"
        ws = websocket.create_connection(url, timeout=LIMIT)
        opened.append(ws)
        greeting = json.loads(ws.recv())
        assert greeting["data"]["sid"] == client_id
        server.until(lambda: server.hellos.count(client_id) > before)
        return ws

    yield one
    for ws in opened:
        ws.shutdown()
