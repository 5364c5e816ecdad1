"""A Session of the caller is used as it is."""

from __future__ import annotations

import io
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import requests
from requests.adapters import BaseAdapter
from requests.auth import AuthBase
from urllib3 import HTTPConnectionPool, HTTPResponse
from urllib3.connection import HTTPConnection

from comfy_client.errors import RequestTimeout, TransportError
from comfy_client.testing import ComfyServer, encode
from tests.helpers.clients import quickly
from tests.helpers.http import (
    head_of,
    opened,
    raw_server,
)


class Signed(AuthBase):
    """Signs method, URL and body, as OAuth or AWS do."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        size = len(request.body or b"")
        request.headers["X-Signature"] = f"{request.method} {request.path_url} {size}"
        return request


def test_a_given_session_is_honoured_and_not_changed(comfy: ComfyServer) -> None:
    """Headers, params, cookies, auth, adapters; and it is never closed."""
    comfy.on("*", "*", (200, {}, {}))

    class Counting(requests.adapters.HTTPAdapter):
        sent = closed = 0

        def send(self, *args: Any, **kw: Any) -> requests.Response:
            self.sent += 1
            return super().send(*args, **kw)

        def close(self) -> None:
            self.closed += 1
            super().close()

    with requests.Session() as session:
        adapter = Counting()
        session.mount("http://", adapter)
        session.headers["X-Mine"] = "1"
        session.headers["User-Agent"] = "mine/1"
        session.params = {"mine": "a b"}
        session.cookies.set("sid", "c1", domain="127.0.0.1")
        session.auth = Signed()
        before = (dict(session.headers), dict(session.params), session.cookies.get_dict())
        with opened(comfy.url, session=session) as http:
            http.json("GET", "/queue", params={"q": 1})
            http.request("POST", "/prompt", data=b"12345")
            url, sent = http.handshake("/ws", {"clientId": "me"})
        after = (dict(session.headers), dict(session.params), session.cookies.get_dict())
        assert before == after
        assert (adapter.sent, adapter.closed) == (2, 0)
    get, post = comfy.requests
    for request in comfy.requests:
        assert request.headers["X-Mine"] == "1"
        assert request.headers["User-Agent"] == "mine/1"
        assert request.headers["Cookie"] == "sid=c1"
        assert request.query["mine"] == "a b"
    assert get.headers["X-Signature"] == "GET /api/queue?q=1&mine=a+b 0"
    assert post.headers["X-Signature"] == "POST /api/prompt?mine=a+b 5"
    assert "mine=a+b" in url
    assert (sent["Cookie"], sent["X-Mine"]) == ("sid=c1", "1")
    assert sent["X-Signature"] == "GET /ws?clientId=me&mine=a+b 0"


@pytest.mark.parametrize("trusts", [True, False])
def test_a_session_says_whether_the_environment_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trusts: bool
) -> None:
    """For proxies and for certificates."""
    bundle = tmp_path / "ca.pem"
    bundle.touch()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    with requests.Session() as session:
        session.trust_env = trusts
        with opened("https://gpu.invalid", session=session) as http:
            assert http.endpoint.verify == (str(bundle) if trusts else True)
            assert http.endpoint.proxy == ("http://proxy:3128" if trusts else None)


def test_a_given_session_keeps_to_deadlines_over_kept_connections_too() -> None:
    """Though they were made before, and for requests of its owner, who has no deadline."""

    pause = 1.0

    def handle(connection: socket.socket) -> None:
        while True:
            path = head_of(connection).split()[1]
            if b"quick" in path:
                connection.sendall(encode((200, {}, {})))
                continue
            for byte in encode((200, {}, {})):
                connection.sendall(bytes([byte]))
                time.sleep(pause)

    with raw_server(handle) as port, requests.Session() as session:
        url = f"http://127.0.0.1:{port}"
        assert session.get(f"{url}/quick").json() == {}
        with opened(url, session=session) as http:
            for _ in range(2):
                with quickly(), pytest.raises(TransportError):
                    http.request("GET", "/slow", timeout=0.4)
            pause = 0.01
            assert session.get(f"{url}/slow").json() == {}
            assert session.post(f"{url}/quick", data=b"x" * 99).json() == {}


class OwnResponse(HTTPResponse):
    """A response of a library that plays recorded answers, for example."""


class OwnConnection(HTTPConnection):
    def getresponse(self) -> HTTPResponse:
        response = super().getresponse()
        response.__class__ = OwnResponse
        return response


class OwnPool(HTTPConnectionPool):
    ConnectionCls = OwnConnection


def test_responses_of_a_custom_adapters_class_stay_so(comfy: ComfyServer) -> None:
    kinds: list[type] = []

    class Adapter(requests.adapters.HTTPAdapter):
        def send(self, *args: Any, **kw: Any) -> requests.Response:
            response = super().send(*args, **kw)
            kinds.append(type(response.raw))
            return response

    with requests.Session() as session:
        adapter = Adapter()
        adapter.poolmanager.pool_classes_by_scheme = {"http": OwnPool}
        session.mount("http://", adapter)
        with opened(comfy.url, session=session) as http:
            assert http.json("GET", "/queue").keys() == {"queue_running", "queue_pending"}
    assert kinds == [OwnResponse]


class Own(BaseAdapter):
    """An adapter that is none of requests' own, and watches neither length nor time."""

    def __init__(self, body: io.BytesIO, **headers: str) -> None:
        super().__init__()
        self._body = body
        self._headers = headers

    def send(self, request: requests.PreparedRequest, *args: Any, **kw: Any) -> requests.Response:
        answer = requests.Response()
        answer.status_code = 200
        answer.url, answer.request = request.url or "", request
        answer.raw = HTTPResponse(
            self._body, self._headers, 200, preload_content=False, enforce_content_length=False
        )
        answer.headers.update(self._headers)
        return answer

    def close(self) -> None:
        pass


def test_an_answer_through_a_custom_adapter_is_never_short() -> None:
    with requests.Session() as session:
        session.mount("http://", Own(io.BytesIO(b"[1]"), **{"Content-Length": "10"}))
        with (
            opened("http://127.0.0.1:9", session=session) as http,
            pytest.raises(TransportError, match="ended after 3 of 10 bytes"),
        ):
            http.json("GET", "/queue")


def test_an_answer_through_a_custom_adapter_keeps_to_the_deadline() -> None:
    class Slow(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            time.sleep(0.01)
            return super().read1(1)

    with requests.Session() as session:
        session.mount("http://", Own(Slow(b"1" * 500)))
        with (
            opened("http://127.0.0.1:9", session=session) as http,
            pytest.raises(RequestTimeout, match="still arriving at the deadline"),
        ):
            http.json("GET", "/queue", timeout=0.2)
