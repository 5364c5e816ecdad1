"""Answers of other programs, and announcements that are none."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest
import requests

from comfy_client.errors import (
    TransportError,
    UnexpectedResponse,
)
from comfy_client.testing import ComfyServer, encode
from comfy_client.transport.http import Http
from tests.helpers.http import (
    HTML,
    answers,
    head_of,
    opened,
    raw_server,
)


@pytest.mark.parametrize("body", ["", "no JSON", b"\xff\xfe", "[" * 100_000, '{"a": '])
def test_malformed_json_is_an_unexpected_response(
    comfy: ComfyServer, http: Http, body: str | bytes
) -> None:
    """Never a bare ``JSONDecodeError`` or ``RecursionError``."""
    comfy.on("*", "*", (200, {"Content-Type": "application/json"}, body))
    with pytest.raises(UnexpectedResponse, match="expected JSON") as caught:
        http.json("GET", "/queue")
    assert caught.value.__cause__ is None
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "answer",
    [
        (404, HTML, "<html>nothing</html>"),
        (404, {}, {"detail": "Not Found"}),
        (404, {}, "404: Not Found"),
        (405, HTML, "<html>no</html>"),
        (501, HTML, "<html>Unsupported method</html>"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_foreign_program_on_the_port_is_reported(
    comfy: ComfyServer, answer: Any, method: str
) -> None:
    """Another program on this port, or a path that is missing in host."""
    comfy.on("*", "*", answer)
    with opened(comfy.url) as http, pytest.raises(UnexpectedResponse, match="is not ComfyUI"):
        http.request(method, "/prompt")


@pytest.mark.parametrize(
    "greeting", [b"SSH-2.0-OpenSSH_9\r\n", b"\x00\x01\x02", b"220 ftp\r\n\r\n"]
)
def test_a_server_that_speaks_no_http_is_reported(greeting: bytes) -> None:
    """Wrong port: SSH, a database, anything."""

    def greet(connection: socket.socket) -> None:
        connection.sendall(greeting)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass

    with (
        raw_server(greet) as port,
        opened(f"127.0.0.1:{port}") as http,
        pytest.raises(UnexpectedResponse, match="not in HTTP"),
    ):
        http.json("GET", "/prompt")


class Passing(requests.adapters.BaseAdapter):
    """Somebody's own adapter, into whose connections nobody sees."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = requests.adapters.HTTPAdapter()

    def send(self, *args: Any, **kw: Any) -> requests.Response:
        return self.inner.send(*args, **kw)

    def close(self) -> None:
        self.inner.close()


def announcing(connection: socket.socket) -> None:
    """Answers each request by its path, and announces some answers before."""
    while True:
        path = head_of(connection).split()[1]
        if b"hint" in path:
            connection.sendall(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n")
            connection.sendall(b"Link: </a.css>; rel=preload\r\n\r\n")
            time.sleep(0.05)  # the answer is another packet
        connection.sendall(encode((200, {}, {"path": path.decode()})))


@pytest.mark.parametrize("given", [False, True], ids=["own session", "given session"])
def test_informational_responses_are_not_taken_for_the_answer(given: bool) -> None:
    """Nor does any later answer belong to the request before."""
    with (
        raw_server(announcing) as port,
        requests.Session() as session,
        opened(f"127.0.0.1:{port}", session=session if given else None) as http,
    ):
        for route in ("/hint", "/a", "/b", "/hint", "/a"):
            assert http.json("GET", route) == {"path": f"/api{route}"}


def test_an_adapter_that_takes_an_announcement_for_an_answer_loses_its_connection() -> None:
    """The answer that follows on it would be taken for the next one."""
    with raw_server(announcing) as port, requests.Session() as session:
        session.mount("http://", Passing())
        with opened(f"127.0.0.1:{port}", session=session) as http:
            with pytest.raises(UnexpectedResponse, match="102"):
                http.json("GET", "/hint")
            assert http.json("GET", "/a") == {"path": "/api/a"}


def test_a_switch_of_protocols_that_nobody_asked_for_is_no_answer() -> None:
    """What follows on that connection is not HTTP any more."""
    switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"

    def handle(connection: socket.socket) -> None:
        if b"/switch" in head_of(connection):
            connection.sendall(switch)
        answers((200, {}, {}))(connection)

    with raw_server(handle) as port, opened(f"127.0.0.1:{port}") as http:
        with pytest.raises(UnexpectedResponse, match="101"):
            http.json("GET", "/switch")
        with pytest.raises(TransportError):  # of that connection there is none left to answer
            http.json("GET", "/a", timeout=0.3)
