"""The HTTP edge: every answer, failure and secret that one request can meet."""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import json
import logging
import math
import os
import pickle
import signal
import socket
import ssl
import sys
import threading
import time
import traceback
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import parse_headers
from pathlib import Path
from typing import Any

import attrs
import pytest
import requests
import trustme
from requests.auth import AuthBase, HTTPBasicAuth, HTTPDigestAuth
from urllib3.util import Retry

from comfy_client import ComfyApi, OutputFile
from comfy_client.credentials import (
    BasicCredentials,
    BearerCredentials,
    EnvCredentials,
    HeaderCredentials,
    QueryCredentials,
)
from comfy_client.errors import (
    ApiError,
    AuthenticationError,
    ClientClosed,
    ComfyError,
    Conflict,
    NotFound,
    NotSupported,
    RequestTimeout,
    ServerUnreachable,
    TransportError,
    UnexpectedResponse,
    UploadTooLarge,
)
from comfy_client.recording.secrets import Secrets
from comfy_client.testing import ComfyServer, Request, cut, drip, encode, never_answer
from comfy_client.transport import http as edge
from comfy_client.transport import identity, sender
from comfy_client.transport.deadline import limited_silence
from comfy_client.transport.http import Http, segment
from comfy_client.transport.response import Answer
from comfy_client.transport.url import parse_host
from tests.helpers.march_2024 import March2024

SECRET = "hunter2-geheim"
PAGE = "<html><title>Sign in</title><form>user, password</form></html>"
HTML = {"Content-Type": "text/html; charset=utf-8"}
MIB = 1 << 20
LIMIT = 20.0  # seconds that any wait in here may take


@contextlib.contextmanager
def opened(url: str, **options: Any) -> Iterator[Http]:
    address, pair = parse_host(url)
    if pair:
        options["credentials"] = pair
    http = Http(address, **options)
    try:
        yield http
    finally:
        http.close()


@pytest.fixture
def http(comfy: ComfyServer) -> Iterator[Http]:
    """An edge to the comfy."""
    with opened(comfy.url) as edge:
        yield edge


@pytest.fixture(autouse=True)
def _no_proxies_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@contextlib.contextmanager
def raw_server(
    handle: Callable[[socket.socket], object], context: ssl.SSLContext | None = None
) -> Iterator[int]:
    """Calls `handle` with each connection, in threads; gives its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.settimeout(20)
            if context is not None:
                with context.wrap_socket(connection, server_side=True) as secure:
                    handle(secure)
            else:
                handle(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                thread = threading.Thread(target=serve, args=listener.accept()[:1])
                thread.start()
                threads.append(thread)

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in (acceptor, *threads):
            thread.join(10)


def head_of(connection: socket.socket) -> bytes:
    """The request up to its empty line."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            raise OSError
        data += piece
    return data


def answers(answer: tuple[int, dict[str, str], Any]) -> Callable[[socket.socket], None]:
    def handle(connection: socket.socket) -> None:
        while True:
            head_of(connection)
            connection.sendall(encode(answer))

    return handle


def texts(error: BaseException | None) -> str:
    """All that a traceback, a log or a curious caller can find in an exception."""
    found = ["".join(traceback.format_exception(error))] if error else []
    while error is not None:
        found += [repr(error), str(error), repr(error.args), repr(getattr(error, "__dict__", ""))]
        if isinstance(error, ComfyError):
            found.append(pickle.dumps(error).decode("latin-1"))
        assert not type(error).__module__.startswith(("requests", "urllib3"))
        error = error.__cause__ or error.__context__
    return "\n".join(found)


# -- what is sent -----------------------------------------------------------------------


def test_routes_get_the_prefix_but_internal_ones_do_not(comfy: ComfyServer, http: Http) -> None:
    """``/api/queue``, ``/internal/logs`` and what begins with ``/api`` already."""
    comfy.on("GET", "*", (200, {}, {}))
    for route in ("/queue", "/internal/logs", "/api/jobs"):
        http.json("GET", route)
    assert [r.target for r in comfy.requests] == ["/api/queue", "/internal/logs", "/api/jobs"]


def test_a_path_of_the_host_is_kept(comfy: ComfyServer) -> None:
    """Everything lives below it, the handshake too."""
    comfy.on("*", "*", (200, {}, {"a": 1}))
    with opened(comfy.url + "/comfy/") as http:
        assert http.json("GET", "/queue") == {"a": 1}
        assert http.url("/view", {"filename": "a b.png"}).endswith(
            "/comfy/api/view?filename=a%20b.png"
        )
        assert http.handshake("/ws", {"clientId": "me"})[0].endswith("/comfy/ws?clientId=me")
    assert [r.target for r in comfy.requests] == ["/comfy/api/queue"]


def test_bodies_and_params_arrive_as_given(comfy: ComfyServer, http: Http) -> None:
    """JSON, bytes, an empty POST; params without None, percent-encoded."""
    comfy.on("*", "*", (200, {}, None))
    http.request("POST", "/a", json={"ü": [1, None]}, params={"q": "a b&c/ü", "n": 0, "x": None})
    http.request("POST", "/b", data=b"\0raw", headers={"Content-Type": "image/png"})
    http.request("POST", "/c")
    http.request("POST", "/d", json=None)
    one, two, three, four = comfy.requests
    assert one.json() == {"ü": [1, None]}
    assert one.query == {"q": "a b&c/ü", "n": "0"}
    assert one.headers["Content-Type"] == "application/json"
    assert one.headers["User-Agent"].startswith("comfy-client/")
    assert (two.body, two.headers["Content-Type"]) == (b"\0raw", "image/png")
    assert (three.body, three.headers["Content-Length"]) == (b"", "0")
    assert four.body == b"null"
    assert all("Origin" not in r.headers for r in comfy.requests)


@pytest.mark.parametrize(
    "params",
    [
        {"tag": ["a", "b", None], "n": 1, "none": None, "empty": ()},
        [("tag", "a"), ("tag", "b"), ("n", 1), ("none", None)],
        (pair for pair in [("tag", ("a", "b")), ("n", 1)]),
    ],
    ids=["lists", "pairs", "both"],
)
def test_a_name_in_a_query_may_stand_for_several_values(
    comfy: ComfyServer, http: Http, params: Any
) -> None:
    """As the routes of assets want it."""
    comfy.on("GET", "/assets", (200, {}, {}))
    http.json("GET", "/assets", params=params)
    assert comfy.requests[-1].target == "/api/assets?tag=a&tag=b&n=1"


def test_a_header_with_an_umlaut_arrives_alike_by_request_and_handshake(
    comfy: ComfyServer,
) -> None:
    """In UTF-8, as ComfyUI reads it, whoever gave it."""
    with requests.Session() as session:
        session.headers["X-Session"] = "Zoë"
        with opened(comfy.url, headers={"X-Who": "Jörg"}, session=session) as http:
            http.request("GET", "/queue", headers={"X-Now": "für jetzt"})
            _, shaken = http.handshake("/ws", {})
    sent = comfy.requests[-1].headers
    assert (sent["X-Who"], sent["X-Session"], sent["X-Now"]) == ("Jörg", "Zoë", "für jetzt")
    assert (shaken["X-Who"], shaken["X-Session"]) == ("Jörg", "Zoë")
    with opened(comfy.url) as http, pytest.raises(ValueError, match="header"):
        http.request("GET", "/queue", headers={"X-Now": "a\r\nX-More: b"})


def test_nan_is_refused_before_anything_is_sent(comfy: ComfyServer, http: Http) -> None:
    """It is no JSON."""
    with pytest.raises(ValueError, match="JSON"):
        http.request("POST", "/prompt", json=float("nan"))
    assert not comfy.requests


def test_segments_cannot_leave_their_place() -> None:
    """One percent-encoded segment, or a ``ValueError``."""
    assert segment("a/../b ü%") == "a%2F..%2Fb%20%C3%BC%25"
    for text in ("", ".", ".."):
        with pytest.raises(ValueError, match="path"):
            segment(text)


def test_one_connection_serves_many_requests(comfy: ComfyServer, http: Http) -> None:
    """Also after errors, empty answers, HEAD, redirects and downloads."""
    comfy.on("DELETE", "*", (204, {}, None))
    comfy.on("GET", "/gone", (400, {}, "no"))
    comfy.on("GET", "/moved", (302, {"Location": "/x"}, "elsewhere"))
    (comfy.root / "output" / "a").write_bytes(b"12345")
    assert http.json("GET", "/prompt")
    assert http.request("DELETE", "/userdata/a").content == b""
    assert http.request("HEAD", "/view", params={"filename": "a"}).headers["content-length"] == "5"
    for route in ("/gone", "/moved"):
        with pytest.raises(ComfyError):
            http.request("GET", route)
    with http.download("/view", params={"filename": "a"}) as download:
        assert b"".join(download) == b"12345"
    assert http.json("GET", "/prompt")
    assert comfy.connections == 1


def raw(headers: bytes, body: bytes) -> Callable[[Request], None]:
    """Handler: exactly these bytes, and the connection ends."""

    def handler(request: Request) -> None:
        request.socket.sendall(b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n" + body)

    return handler


# -- credentials ------------------------------------------------------------------------


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


KINDS: list[tuple[Any, dict[str, str], dict[str, str]]] = [
    (("me", SECRET), {"Authorization": basic("me", SECRET)}, {}),
    (BasicCredentials("me", SECRET), {"Authorization": basic("me", SECRET)}, {}),
    (BearerCredentials(SECRET), {"Authorization": f"Bearer {SECRET}"}, {}),
    (HeaderCredentials({"X-API-Key": SECRET}), {"X-API-Key": SECRET}, {}),
    (HeaderCredentials({"Cookie": f"sid={SECRET}"}), {"Cookie": f"sid={SECRET}"}, {}),
    (QueryCredentials("token", SECRET), {}, {"token": SECRET}),
    (EnvCredentials("COMFY_TEST_TOKEN"), {"Authorization": f"Bearer {SECRET}"}, {}),
    (lambda: BearerCredentials(SECRET), {"Authorization": f"Bearer {SECRET}"}, {}),
]


@pytest.fixture
def _netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A .netrc that knows this machine."""
    file = tmp_path / "netrc"
    file.write_text("machine 127.0.0.1 login wrong password wrong\n")
    monkeypatch.setenv("NETRC", str(file))
    monkeypatch.setenv("COMFY_TEST_TOKEN", SECRET)


@pytest.mark.usefixtures("_netrc")
@pytest.mark.parametrize(("credentials", "headers", "query"), KINDS)
def test_credentials_go_on_everything(
    comfy: ComfyServer, credentials: Any, headers: dict[str, str], query: dict[str, str]
) -> None:
    """Requests, downloads, uploads and handshake; .netrc replaces none of them."""
    (comfy.root / "output" / "a").write_bytes(b"x")
    comfy.on("POST", "*", (200, {}, {}))
    with opened(comfy.url, credentials=credentials, user="anna", headers={"X-More": "1"}) as http:
        http.json("GET", "/queue", params={"a": 1})
        with http.download("/view", params={"filename": "a"}) as download:
            list(download)
        http.upload("/upload/image", {}, b"x", "a.png")
        url, sent = http.handshake("/api/ws", {"clientId": "me"})
    assert len(comfy.requests) == 3
    for request in comfy.requests:
        for name, value in ({"Comfy-User": "anna", "X-More": "1"} | headers).items():
            assert request.headers[name] == value
        assert query.items() <= request.query.items()
        assert ("Authorization" in request.headers) is ("Authorization" in headers)
    assert (headers | {"Comfy-User": "anna", "X-More": "1"}).items() <= sent.items()
    assert url.startswith(comfy.url.replace("http", "ws") + "/api/ws?clientId=me")
    assert all(f"{name}={value}" in url for name, value in query.items())
    assert not {"origin", "accept-encoding", "connection"} & {name.lower() for name in sent}


@pytest.mark.usefixtures("_netrc")
def test_without_credentials_none_are_sent(comfy: ComfyServer, http: Http) -> None:
    """Those in .netrc belong to other programs."""
    http.json("GET", "/queue")
    assert "Authorization" not in comfy.requests[0].headers


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_callable_is_asked_anew_on_401_and_retried_once(comfy: ComfyServer, method: str) -> None:
    """When its answer changed; the body is sent again in full."""
    tokens = iter(["old", "new", "newest"])

    def only_new(request: Request) -> tuple[int, dict[str, str], Any]:
        known = request.headers["Authorization"] == "Bearer new"
        return (200, {}, {"ok": True}) if known else (401, {}, "who?")

    comfy.on(method, "*", only_new)
    with opened(comfy.url, credentials=lambda: BearerCredentials(next(tokens))) as http:
        if method == "GET":
            assert http.json("GET", "/queue") == {"ok": True}
        else:
            content = os.urandom(3 * MIB)
            assert http.upload("/upload/image", {}, io.BytesIO(content), "a") == {"ok": True}
            assert all(content in request.body for request in comfy.requests)
    assert len(comfy.requests) == 2


def test_credentials_that_stay_the_same_are_not_sent_twice(comfy: ComfyServer) -> None:
    """A 401 then is final, and says that they were refused."""
    comfy.on("GET", "*", (401, {}, "who?"))
    for ask in (lambda: ("me", SECRET), ("me", SECRET)):
        comfy.requests.clear()
        with (
            opened(comfy.url, credentials=ask) as http,
            pytest.raises(AuthenticationError, match="refused the credentials") as caught,
        ):
            http.json("GET", "/queue")
        assert len(comfy.requests) == 1
        assert caught.value.status == 401
        assert SECRET not in texts(caught.value)


def test_a_handshake_asks_the_callable_each_time(comfy: ComfyServer) -> None:
    """A token may have ended since the last dial."""
    tokens = iter(["one", "two"])
    with opened(comfy.url, credentials=lambda: BearerCredentials(next(tokens))) as http:
        sent = [http.handshake("/ws", {"clientId": "me"})[1]["Authorization"] for _ in "12"]
    assert sent == ["Bearer one", "Bearer two"]


def test_a_password_over_plain_http_to_another_machine_is_warned_about_once() -> None:
    """Not for the own machine, not over https, and without the password."""
    identity._warned.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for host in ("http://127.0.0.1:1", "http://localhost:1", "https://gpu.invalid"):
            with opened(host, credentials=("me", SECRET)) as http:
                http.identity.refresh()
        with opened("http://gpu.invalid") as http:
            http.identity.refresh()
    for times in (1, 0):
        with (
            opened("http://gpu.invalid", credentials=("me", SECRET)) as http,
            warnings.catch_warnings(record=True) as seen,
        ):
            warnings.simplefilter("always")
            http.identity.refresh()
        assert len(seen) == times
        assert not any(SECRET in str(w.message) for w in seen)


# -- secrets ----------------------------------------------------------------------------


def refuse(comfy: ComfyServer) -> None:
    comfy.__exit__(None)


FAILURES: dict[str, Callable[[ComfyServer], object]] = {
    "401": lambda comfy: comfy.on("*", "*", (401, {}, "no")),
    "403": lambda comfy: comfy.on("*", "*", (403, {}, "no")),
    "404": lambda comfy: comfy.on("*", "*", (404, {}, None)),
    "500": lambda comfy: comfy.on("*", "*", (500, {}, {"error": "boom"})),
    "echo": lambda comfy: comfy.on("*", "*", echo),
    "echoed page": lambda comfy: comfy.on("*", "*", lambda r: (200, HTML, echo(r)[2])),
    "echoed JSON": lambda comfy: comfy.on("*", "*", lambda r: (400, {}, {"error": echo(r)[2]})),
    "decoded": lambda comfy: comfy.on("*", "*", (401, {}, f"user me, password {SECRET}")),
    "at the end of what is kept": lambda comfy: comfy.on("*", "*", lambda r: (500, {}, late(r))),
    "redirect": lambda comfy: comfy.on(
        "*", "*", lambda r: (302, {"Location": f"http://me:{SECRET}@x/l?next={r.target}"}, None)
    ),
    "silence": lambda comfy: comfy.on("*", "*", never_answer),
    "cut": lambda comfy: comfy.on("*", "*", cut((200, {}, "12345"), 2)),
    "hung up": lambda comfy: comfy.on("*", "*", lambda request: None),
    "no HTTP": lambda comfy: comfy.on("*", "*", lambda r: r.socket.sendall(b"SSH-2.0-x\r\n\r\n")),
    "bad headers": lambda comfy: comfy.on("*", "*", raw(b"Content-Length: 5\r\nnonsense\r\n", b"")),
    "bad gzip": lambda comfy: comfy.on("*", "*", (200, {"Content-Encoding": "gzip"}, "no gzip")),
    "refused": refuse,
}


def echo(request: Request) -> tuple[int, dict[str, str], Any]:
    return 502, {}, f"cannot serve {request.target} for\n{request.headers}"


def late(request: Request) -> str:
    """What was sent, where an error may cut its text in two."""
    sent = request.target + str(request.headers)
    return " " * (2000 - sent.index(SECRET) - 5) + sent if SECRET in sent else sent


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize(
    "credentials", [QueryCredentials("token", SECRET), BearerCredentials(SECRET), ("me", SECRET)]
)
def test_no_failure_shows_a_secret(
    failure: str, credentials: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Message, arguments, attributes, causes, pickle and log are free of it."""
    caplog.set_level(logging.DEBUG)
    errors: list[ComfyError] = []
    with ComfyServer() as comfy, contextlib.ExitStack() as stack:
        stack.callback(comfy.errors.clear)
        http = stack.enter_context(opened(comfy.url, credentials=credentials, timeout=(5, 0.2)))
        http.json("GET", "/prompt")  # learns where the routes are
        FAILURES[failure](comfy)
        for method in ("GET", "POST"):
            with pytest.raises(ComfyError) as caught:
                http.json(method, "/queue", params={"a": 1})
            errors.append(caught.value)
        with pytest.raises(ComfyError) as caught, http.download("/view") as download:
            list(download)
        errors.append(caught.value)
        seen = [repr(http) + repr(http.__dict__), caplog.text, *map(texts, errors)]
    seen += [repr(record.__dict__) for record in caplog.records]
    for text in seen:
        assert SECRET not in text
        assert SECRET[:5] not in text
        assert basic("me", SECRET).split()[1] not in text
    assert not any("\n" in str(error) for error in errors)


def test_a_server_that_keeps_users_is_told_apart_from_one_that_wants_a_password() -> None:
    """Both say 401, or stumble; the advice names what is missing."""
    with ComfyServer(multi_user=True) as comfy:
        for user, advice in (("", "give user=..."), ("bob", "'bob' is not known to it")):
            with opened(comfy.url, user=user) as http:
                with pytest.raises(AuthenticationError, match=advice) as caught:
                    http.json("GET", "/settings")
                assert "401: 401" not in str(caught.value)
                with pytest.raises(ApiError) as stumbled:
                    http.send_command("POST", "/userdata/a.txt", data=b"x")
                assert any(advice in note for note in stumbled.value.__notes__)
                with pytest.raises(NotFound) as other:
                    http.json("GET", "/view", params={"filename": "x"})
                assert not hasattr(other.value, "__notes__")


def test_what_a_request_entrusted_is_not_shown_when_it_is_repeated(comfy: ComfyServer) -> None:
    """A cookie of the caller's, and a key in the body; a password as a page spells it."""
    comfy.on("*", "*", lambda r: (400, {}, f"{r.headers} {r.body!r} and a&lt;b&amp;c"))
    headers = {"Cookie": f"session={SECRET}", "X-Colour": "magenta"}
    body = {"extra_data": {"api_key_comfy_org": SECRET[::-1]}}
    with (
        opened(comfy.url, headers=headers, credentials=("me", "a<b&c")) as http,
        pytest.raises(ApiError) as caught,
    ):
        http.json("POST", "/prompt", json=body)
    for shown in (texts(caught.value), repr(caught.value.body)):
        assert SECRET not in shown
        assert SECRET[::-1] not in shown
        assert "a&lt;b" not in shown
    assert "magenta" in caught.value.body


@pytest.mark.parametrize("secret", ["1234", "node", "true", "null", "rror", "Value"])
def test_a_secret_that_is_a_common_word_leaves_the_facts_of_a_refusal(
    comfy: ComfyServer, secret: str
) -> None:
    """It is hidden in texts only: names and numbers are facts, and JSON stays JSON."""
    said = {
        "error": {"type": "invalid", "message": f"Value {secret}56 is too big"},
        "node_errors": {"1234": {"received": 123456, "true": True, "none": None}},
    }
    comfy.on("POST", "/prompt", (400, {}, said))
    with (
        opened(comfy.url, credentials=("me", secret)) as http,
        pytest.raises(ApiError) as caught,
    ):
        http.json("POST", "/prompt", json={})
    assert caught.value.body["node_errors"] == said["node_errors"]
    assert secret not in caught.value.body["error"]["message"]


# -- redirects and strangers ------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_redirects_are_not_followed_but_named(comfy: ComfyServer, status: int, method: str) -> None:
    """Without query and user name; a POST is not sent anywhere else."""
    with ComfyServer() as other, opened(comfy.url, credentials=("me", SECRET)) as http:
        to = other.url.replace("//", "//you:me@") + "/login?token=1234"
        comfy.on("*", "*", (status, {"Location": to}, None))
        with pytest.raises(UnexpectedResponse) as caught:
            http.request(method, "/queue")
        assert not other.requests
    assert len(comfy.requests) == 1
    assert f"redirected to {other.url}/login, which is not followed" in str(caught.value)
    assert (caught.value.method, caught.value.status) == (method, status)
    assert "1234" not in texts(caught.value)
    assert "you" not in str(caught.value)


@pytest.mark.parametrize("location", ["", "/login", "//x/y", "http://[", "x" * 9999])
def test_any_location_is_survived(comfy: ComfyServer, http: Http, location: str) -> None:
    """Empty, relative, without scheme, no URL."""
    comfy.on("*", "*", (302, {"Location": location}, None))
    with pytest.raises(UnexpectedResponse, match="redirected to"):
        http.request("GET", "/queue")


def test_the_body_of_a_redirect_is_bounded_too(comfy: ComfyServer, http: Http) -> None:
    """A redirect that drips does not outlive the deadline."""
    comfy.on("*", "*", drip((302, {"Location": "/x"}, "x" * 1000)))
    start = time.monotonic()
    with pytest.raises(RequestTimeout):
        http.request("GET", "/queue", timeout=0.5)
    assert time.monotonic() - start < 3


def test_a_redirect_to_https_says_what_to_write(comfy: ComfyServer, http: Http) -> None:
    """The most usual one."""
    comfy.on("*", "*", (301, {"Location": "https://127.0.0.1/api/prompt?x=1"}, None))
    with pytest.raises(UnexpectedResponse, match="use https:// in host"):
        http.request("POST", "/prompt", json={})


def test_a_login_page_is_named(comfy: ComfyServer, http: Http) -> None:
    """For JSON, for a file and for an upload; the start of its text is shown."""
    comfy.on("*", "*", (200, HTML, PAGE))
    with pytest.raises(UnexpectedResponse, match=r"a login page.*Sign in") as caught:
        http.json("GET", "/queue")
    assert caught.value.body == PAGE
    with pytest.raises(UnexpectedResponse, match="expected a file"), http.download("/view"):
        pass
    with pytest.raises(UnexpectedResponse, match="login page"):
        http.upload("/upload/image", {}, b"x", "a")


@pytest.mark.parametrize("body", ["", "no JSON", b"\xff\xfe", "[" * 100_000, '{"a": '])
def test_what_is_no_json_is_an_unexpected_response(
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
def test_http_that_is_no_comfyui_is_told(comfy: ComfyServer, answer: Any, method: str) -> None:
    """Another program on this port, or a path that is missing in host."""
    comfy.on("*", "*", answer)
    with opened(comfy.url) as http, pytest.raises(UnexpectedResponse, match="is no ComfyUI"):
        http.request(method, "/prompt")


@pytest.mark.parametrize(
    "greeting", [b"SSH-2.0-OpenSSH_9\r\n", b"\x00\x01\x02", b"220 ftp\r\n\r\n"]
)
def test_what_speaks_no_http_is_told(greeting: bytes) -> None:
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


def test_refused_and_unknown_names_are_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """With advice; only the refused one may mend by waiting."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with opened(f"127.0.0.1:{port}") as http:
        with pytest.raises(ServerUnreachable, match="is ComfyUI running") as caught:
            http.json("GET", "/prompt")
        assert caught.value.retryable

    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with opened("gpu.invalid") as http:
        with pytest.raises(ServerUnreachable, match=r"'gpu\.invalid' is not known") as caught:
            http.json("GET", "/prompt")
        assert not caught.value.retryable


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("proxies", [{}, {"http": "http://proxy.invalid:3128"}])
def test_a_moment_without_name_servers_may_mend_and_nothing_was_sent(
    monkeypatch: pytest.MonkeyPatch, method: str, proxies: dict[str, str]
) -> None:
    """As after sleep, or while the network changes; a proxy's name likewise."""

    def away(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", away)
    with opened("gpu.invalid", proxies=proxies) as http:
        with pytest.raises(ServerUnreachable) as caught:
            http.json(method, "/prompt")
        assert caught.value.retryable
        assert isinstance(caught.value.__cause__, socket.gaierror)


def test_init_waits_for_name_servers_but_not_for_unknown_names(
    comfy: ComfyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until its timeout; what is unknown is told at once."""
    real, failures = socket.getaddrinfo, [socket.EAI_AGAIN] * 3

    def look_up(host: Any, *args: Any, **kw: Any) -> Any:
        if failures:
            raise socket.gaierror(failures.pop(), "no")
        return real(host, *args, **kw)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with ComfyApi(f"localhost:{comfy.port}") as api:
        assert api.connected
    assert not failures
    failures += [socket.EAI_NONAME]
    with (
        contextlib.closing(ComfyApi(f"localhost:{comfy.port}")) as api,
        pytest.raises(ServerUnreachable, match="not known"),
    ):
        api.init()


# -- announcements ----------------------------------------------------------------------


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
def test_what_announces_an_answer_is_not_taken_for_it(given: bool) -> None:
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


def test_a_host_that_swallows_packets_ends_at_the_connect_timeout() -> None:
    """A full backlog answers nothing, like a firewall."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, contextlib.ExitStack() as s:
        for _ in range(4):  # until the kernel drops what comes
            filler = s.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        http = s.enter_context(opened(f"127.0.0.1:{server.getsockname()[1]}", timeout=(0.3, 9)))
        start = time.monotonic()
        with pytest.raises(ServerUnreachable, match=r"no connection within 0\.3 s"):
            http.json("GET", "/prompt")
        assert time.monotonic() - start < 5


# -- statuses ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ((401, {}, None), AuthenticationError, "wants credentials; pass credentials="),
        ((403, {}, None), AuthenticationError, "Origin differs from its Host"),
        ((403, {}, "Invalid directory"), AuthenticationError, "Invalid directory"),
        ((404, {}, None), NotFound, "not found"),
        ((404, {}, {"error": "Job not found"}), NotFound, "Job not found"),
        ((404, {}, "Directory not found"), NotFound, "Directory not found"),
        ((404, {"Content-Type": "application/octet-stream"}, None), NotSupported, "no such route"),
        ((405, {"Allow": "GET"}, "405: Method Not Allowed"), NotSupported, "no such route"),
        ((501, {}, None), NotSupported, "no such route"),
        ((409, {}, "File already exists"), Conflict, "File already exists"),
        ((400, {}, {"error": {"message": "bad\nprompt"}}), ApiError, "400: bad prompt"),
        ((418, HTML, PAGE), ApiError, "418"),
        ((500, {}, "500 Internal Server Error\n\nServer got itself in trouble"), ApiError, "log"),
        ((502, HTML, PAGE), ApiError, "when the server behind it does not answer"),
        ((599, {}, "odd"), ApiError, "599: odd"),
    ],
)
def test_each_status_has_its_error(comfy: ComfyServer, answer: Any, kind: Any, words: str) -> None:
    """With method, path, status and body; from any kind of call."""
    comfy.on("*", "/thing", answer)
    with opened(comfy.url) as http:
        calls: list[Callable[[], object]] = [
            lambda: http.json("POST", "/thing"),
            lambda: http.download("/thing").__enter__(),
            lambda: http.upload("/thing", {}, b"x", "a"),
        ]
        for call in calls:
            with pytest.raises(kind) as caught:
                call()
            assert type(caught.value) is kind
            assert words in str(caught.value)
            assert "<" not in str(caught.value)
            assert caught.value.status == answer[0]
            assert caught.value.path == "/api/thing"
            assert pickle.loads(pickle.dumps(caught.value)).__dict__ == caught.value.__dict__


def test_allowed_statuses_come_back(comfy: ComfyServer, http: Http) -> None:
    """For callers that know better."""
    comfy.on("GET", "/thing", (404, {}, None))
    assert http.request("GET", "/thing", allow={404}).status == 404


ENTITY = "<html>\r\n<head><title>413 Request Entity Too Large</title></head>\r\n<hr>nginx/1.18.0"


@pytest.mark.parametrize(
    ("answer", "limit", "words"),
    [
        ((413, {}, "Maximum request body size 104857600 exceeded."), 104857600, "--max-upload"),
        ((413, {}, "Maximum request body size 1048576.0 exceeded."), 1048576, "--max-upload-size"),
        (
            (413, {}, "Maximum request body size 1024 exceeded, actual body size 4096"),
            1024,
            "--max-upload-size",
        ),
        ((413, HTML, ENTITY), None, "body limit of the proxy"),
        ((413, {}, None), None, "body limit of the proxy"),
    ],
)
def test_too_large_tells_size_and_limit(
    comfy: ComfyServer, http: Http, answer: Any, limit: int | None, words: str
) -> None:
    """ComfyUI's limit, or that of a proxy before it."""
    comfy.on("POST", "*", answer)
    for call in (
        lambda: http.upload("/upload/image", {}, bytes(5000), "a.png"),
        lambda: http.request("POST", "/prompt", data=bytes(5000)),
    ):
        with pytest.raises(UploadTooLarge, match=words) as caught:
            call()
        assert caught.value.limit == limit
        assert caught.value.size is not None
        assert 5000 <= caught.value.size < 6000


@pytest.mark.parametrize("polite", [True, False])
def test_413_in_mid_upload_is_read(polite: bool) -> None:
    """The server answers before it has the body, and hangs up: with a RST if not polite."""

    def refuse_early(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(
            encode((413, {"Connection": "close"}, "Maximum request body size 9 exceeded"))
        )
        if polite:
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass

    with raw_server(refuse_early) as port, opened(f"127.0.0.1:{port}") as http:
        for _ in range(5):
            with pytest.raises(UploadTooLarge) as caught:
                http.upload("/upload/image", {}, bytes(20 * MIB), "a.png")
            assert caught.value.limit == 9


def test_a_reset_in_mid_upload_is_a_transport_error() -> None:
    """No answer, no guess; and no second try."""
    seen = []

    def hang_up(connection: socket.socket) -> None:
        seen.append(head_of(connection))

    with raw_server(hang_up) as port, opened(f"127.0.0.1:{port}") as http:
        with pytest.raises(TransportError, match="cut") as caught:
            http.upload("/upload/image", {}, bytes(20 * MIB), "a.png")
        assert type(caught.value) is TransportError
    assert len(seen) == 1


# -- broken and hostile answers ---------------------------------------------------------


def test_a_short_answer_is_no_answer(comfy: ComfyServer, http: Http) -> None:
    """With Content-Length, chunked, and compressed."""
    squeezed = gzip.compress(os.urandom(1000))
    comfy.on("GET", "/length", cut((200, {}, "x" * 100), 40))
    comfy.on("GET", "/chunked", raw(b"Transfer-Encoding: chunked\r\n", b"5\r\n[1,2]\r\n9\r\n123"))
    comfy.on("GET", "/unended", raw(b"Transfer-Encoding: chunked\r\n", b"5\r\n[1,2]\r\n"))
    comfy.on("GET", "/gzip", cut((200, {"Content-Encoding": "gzip"}, squeezed), 300))
    for route in ("/length", "/chunked", "/unended", "/gzip"):
        with pytest.raises(TransportError):
            http.request("GET", route)
        due = UnexpectedResponse if route == "/gzip" else TransportError
        with pytest.raises(due), http.download(route) as download:
            list(download)
    with pytest.raises(TransportError, match="after 40 of 100 bytes"):
        http.request("GET", "/length")


def test_a_length_of_thousands_of_digits_is_survived() -> None:
    """Python converts no such number; the connection then tells where the answer ends."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n[]"

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(answer)

    with raw_server(serve) as port, opened(f"127.0.0.1:{port}") as http:
        assert http.json("GET", "/api/x") == []


def test_chunked_and_compressed_answers_are_whole(comfy: ComfyServer, http: Http) -> None:
    """Downloads ask for none that is compressed, and take none."""
    content = json.dumps(["x" * 3 * MIB]).encode()
    squeezed = gzip.compress(content)
    comfy.on("GET", "/gzip", (200, {"Content-Encoding": "gzip"}, squeezed))
    pieces = b"".join(
        b"%x\r\n%s\r\n" % (len(p), p) for p in (content[:10], content[10:MIB], content[MIB:])
    )
    comfy.on("GET", "/chunked", raw(b"Transfer-Encoding: chunked\r\n", pieces + b"0\r\n\r\n"))
    comfy.on("GET", "/until-close", raw(b"", content))
    for route in ("/gzip", "/chunked", "/until-close"):
        assert http.request("GET", route).content == content
        if route == "/gzip":
            with pytest.raises(UnexpectedResponse, match="encoded"), http.download(route):
                pass
            with pytest.raises(UnexpectedResponse, match="encoded"):
                http.content(route)
            continue
        with http.download(route) as download:
            assert download.length is None
            assert b"".join(download) == content


def test_an_answer_larger_than_allowed_is_refused(
    comfy: ComfyServer, http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its length before it is read, or as soon as it is seen."""
    monkeypatch.setattr(edge, "MAX_ANSWER", 1000)
    comfy.on("GET", "/fits", (200, {}, bytes(1000)))
    comfy.on("GET", "/length", cut((200, {"Content-Length": "99999999999"}, b"x"), 1))
    comfy.on("GET", "/endless", raw(b"", bytes(5000)))
    assert len(http.request("GET", "/fits").content) == 1000
    for route in ("/length", "/endless"):
        with pytest.raises(UnexpectedResponse, match="exceeds the 1000 bytes"):
            http.request("GET", route)


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


def test_a_gzip_bomb_is_refused_in_bounded_memory(
    comfy: ComfyServer, http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One hundred thousand bytes that would become a hundred million."""
    monkeypatch.setattr(edge, "MAX_ANSWER", 4 * MIB)
    bomb = gzip.compress(bytes(100 * MIB), 9)
    http.json("GET", "/prompt")  # learns where the routes are
    comfy.on("GET", "*", (200, {"Content-Encoding": "gzip"}, bomb))
    tracemalloc.start()
    try:
        with pytest.raises(UnexpectedResponse, match="exceeds"):
            http.request("GET", "/queue")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 * MIB


Pour = Callable[[socket.socket], None]


def endlessly(piece: bytes, start: bytes = b"HTTP/1.1 200 OK\r\n", pause: float = 0.0) -> Pour:
    """Sends `piece` again and again, until the client has left."""

    def pour(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(start)
        while True:
            connection.sendall(piece)
            if pause:
                time.sleep(pause)

    return pour


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
        start = time.monotonic()
        with pytest.raises(TransportError):
            http.request("GET", "/queue", timeout=0.5)
        assert 0.4 < time.monotonic() - start < 4


def never_end(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


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


def test_a_server_that_reads_nothing_ends_at_the_deadline() -> None:
    """The body does not fit into the buffers on the way."""
    end = threading.Event()
    with raw_server(lambda connection: end.wait(20)) as port:
        with opened(f"127.0.0.1:{port}") as http:
            start = time.monotonic()
            with pytest.raises(RequestTimeout):
                http.upload("/upload/image", {}, bytes(64 * MIB), "a", timeout=0.5)
            assert time.monotonic() - start < 3
        end.set()


def test_a_slow_upload_may_take_longer_than_connecting() -> None:
    """The limit for connecting is none for a line that is slow, but moves."""

    def read_slowly(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        got = len(head_of(connection))
        time.sleep(1.0)
        while got < 24 * MIB:
            got += len(connection.recv(MIB))
        connection.sendall(encode((200, {}, {})))

    with raw_server(read_slowly) as port, opened(f"127.0.0.1:{port}", timeout=(0.2, 20)) as http:
        assert http.upload("/upload/image", {}, bytes(24 * MIB), "a") == {}
        with raw_server(read_slowly) as other, opened(f"127.0.0.1:{other}", timeout=(0.2, 20)) as h:
            assert h.request("POST", "/x", data=bytes(24 * MIB)).status == 200


def test_a_download_that_stalls_ends_at_the_timeout_of_the_client(comfy: ComfyServer) -> None:
    """It has an hour, but not for silence."""

    def stall(request: Request) -> None:
        request.socket.sendall(encode((200, {"Content-Length": "9"}, b"1234")))
        never_answer(request)

    comfy.on("GET", "/view", stall)
    with opened(comfy.url, timeout=(5, 0.3)) as http:
        start = time.monotonic()
        with pytest.raises(RequestTimeout), http.download("/view") as download:
            list(download)
        assert time.monotonic() - start < 5


def test_a_file_in_memory_has_the_time_of_a_transfer(comfy: ComfyServer) -> None:
    """An hour, or its own; but not for silence."""
    (comfy.root / "output" / "a.png").write_bytes(b"0123456789" * 3)
    file = OutputFile("a.png")
    with contextlib.closing(ComfyApi(comfy.url, timeout=(5, 0.5))) as api:
        file = attrs.evolve(file, files=api)
        with comfy.faults.drip("GET", "/view", size=20, pause=0.1):  # headers as well
            start = time.monotonic()
            assert file.bytes() == api.get_image(file) == b"0123456789" * 3
            assert time.monotonic() - start > 1.0  # twice, in pieces
            with pytest.raises(RequestTimeout):
                file.bytes(timeout=0.3)
            with pytest.raises(RequestTimeout):
                api.get_image(file, timeout=0.3)
        with comfy.faults.drip("GET", "/view", size=20, pause=5):
            start = time.monotonic()
            with pytest.raises(RequestTimeout):
                file.bytes()
            assert time.monotonic() - start < 3


def test_an_upload_over_a_link_that_goes_dark_ends_at_the_timeout_of_the_client() -> None:
    """Whether all of it was sent, or the rest does not get away; it had an hour."""
    end = threading.Event()
    with raw_server(lambda connection: end.wait(LIMIT)) as port:
        with opened(f"127.0.0.1:{port}", timeout=(5, 0.5)) as http:
            for size in (100, 64 * MIB):
                start = time.monotonic()
                with pytest.raises(RequestTimeout):
                    http.upload("/upload/image", {}, Zeros(size), "a")
                assert time.monotonic() - start < 0.5 + 3
        end.set()


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "tls"])
def test_an_upload_that_moves_may_take_longer_than_the_timeout_of_the_client(
    ca: trustme.CA, bundle: Path, secured: bool
) -> None:
    """However slowly; and the server, too, may take its time to store much."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    size = 8 * MIB

    def read_slowly(connection: socket.socket) -> None:
        head, _, body = head_of(connection).partition(b"\r\n\r\n")
        (line,) = [line for line in head.split(b"\r\n") if b"Content-Length" in line]
        left = int(line.split()[1]) - len(body)
        while left:
            time.sleep(0.02)
            left -= len(connection.recv(min(left, 1 << 17)))
        time.sleep(0.9)  # stores it: half a second, and 0.8 more for 8 MiB
        connection.sendall(encode((200, {}, {})))

    with (
        raw_server(read_slowly, context if secured else None) as port,
        opened(
            f"{'https' if secured else 'http'}://127.0.0.1:{port}",
            timeout=(5, 0.5),
            verify=bundle,
        ) as http,
    ):
        start = time.monotonic()
        assert http.upload("/upload/image", {}, bytes(size), "a") == {}
        assert time.monotonic() - start > 2


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
def test_what_is_no_timeout_is_refused_in_words(timeout: Any) -> None:
    """Not in those of a comparison."""
    with pytest.raises(TypeError, match="in seconds"):
        Http(parse_host("x")[0], timeout=timeout)


@pytest.mark.parametrize(
    ("timeout", "error"),
    [(float("nan"), ValueError), (-1, ValueError), ("5", TypeError), ([5], TypeError)],
)
def test_what_is_no_timeout_of_a_call_is_refused_before_anything_is_asked(
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
            with pytest.raises(error, match="a timeout is"):
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


# -- connections ------------------------------------------------------------------------


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


def test_a_post_after_a_long_silence_has_a_connection_of_its_own(
    comfy: ComfyServer, http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A NAT forgets connections that are idle, and a POST cannot be asked again."""
    comfy.script()
    for _ in range(3):
        http.json("POST", "/prompt", json={"prompt": {}})
    assert comfy.connections == 1
    monkeypatch.setattr(sender, "STALE", 0.0)
    http.json("GET", "/prompt")
    assert comfy.connections == 1
    http.json("POST", "/prompt", json={"prompt": {}})
    assert comfy.connections == 2


def test_a_question_of_little_patience_trusts_no_connection_that_was_silent_for_longer(
    comfy: ComfyServer, http: Http
) -> None:
    """It would have to wait that long to find out that a kept one is dead."""
    http.json("GET", "/prompt")
    for connections, seconds in ((1, math.inf), (1, 30.0), (2, 0.01)):
        time.sleep(0.02)
        with limited_silence(seconds):
            http.json("GET", "/prompt")
        assert comfy.connections == connections


def test_silence_behind_a_slow_beginning_ends_at_the_deadline(
    comfy: ComfyServer, http: Http
) -> None:
    """The last read has only the time that is left."""

    def handler(request: Request) -> None:
        request.socket.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n")
        time.sleep(1.8)
        request.socket.sendall(b"\r\n")
        never_answer(request)

    comfy.on("GET", "/queue", handler)
    start = time.monotonic()
    with pytest.raises(RequestTimeout):
        http.json("GET", "/queue", timeout=2.0)
    assert time.monotonic() - start < 3.0


def test_a_request_that_found_the_pool_closed_was_not_sent(comfy: ComfyServer, http: Http) -> None:
    """Another thread drops what was kept: a POST of this one is sent, and once."""
    stop = threading.Event()

    def drop() -> None:
        while not stop.is_set():
            http.endpoint.drop_kept()

    def clear(_: int) -> None:
        http.send_command("POST", "/queue", json={"clear": True})

    interval = sys.getswitchinterval()
    dropping = threading.Thread(target=drop)
    dropping.start()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(clear, range(1000)))
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        dropping.join()
    assert len([r for r in comfy.requests if r.path == "/queue"]) == 1000


def test_a_ctrl_c_leaves_a_given_session_its_connections(comfy: ComfyServer) -> None:
    """They are not ours alone."""
    with requests.Session() as session, opened(comfy.url, session=session) as http:
        http.json("GET", "/prompt")
        with pytest.raises(KeyboardInterrupt), http.download("/prompt"):
            raise KeyboardInterrupt
        pool = session.get_adapter(comfy.url).poolmanager.connection_from_url(comfy.url)
        assert pool.pool is not None


def test_sixteen_threads_share_one_edge(comfy: ComfyServer, http: Http) -> None:
    """Answers are not mixed up, and connections are kept."""
    comfy.on("GET", "/echo/*", lambda r: (200, {}, {"path": r.path}))

    def ask(number: int) -> bool:
        path = f"/echo/{number}"
        return bool(http.json("GET", path) == {"path": path})

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(800)))
    assert comfy.connections <= 16


def test_close_ends_the_connections_that_were_kept(comfy: ComfyServer, http: Http) -> None:
    """At once, not when the client is collected."""
    http.json("GET", "/prompt")
    assert comfy.open_connections
    http.close()
    comfy.until(lambda: not comfy.open_connections)


def silent(connection: socket.socket) -> None:
    head_of(connection)
    never_end(connection)


def cut_short(connection: socket.socket) -> None:
    """Of no known length: its end may be one, or not."""
    head_of(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nthe beginning")
    never_end(connection)


ASK: dict[str, Callable[[Http], object]] = {
    "request": lambda http: http.request("POST", "/x", json={}),
    "body": lambda http: http.request("GET", "/x"),
    "download": lambda http: download(http),
    "upload": lambda http: http.upload("/upload/image", {}, b"x", "x"),
    "sending": lambda http: http.upload("/upload/image", {}, bytes(64 * MIB), "x"),
}


def download(http: Http) -> None:
    with http.download("/view") as pieces:
        list(pieces)


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("given", [False, True], ids=["own session", "given session"])
@pytest.mark.parametrize("what", ASK)
def test_close_ends_what_other_threads_wait_for(
    ca: trustme.CA, bundle: Path, what: str, given: bool, secured: bool
) -> None:
    """At once, wherever they are; a Session that was given goes on."""
    begun = threading.Event()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(context)

    def handle(connection: socket.socket) -> None:
        if what == "sending":
            connection.recv(1)
            begun.set()
            ended.wait(LIMIT)  # and nothing more is read
            return
        threading.Timer(0.1, begun.set).start()
        (cut_short if what in ("body", "download") else silent)(connection)

    ended = threading.Event()
    with (
        raw_server(handle, context if secured else None) as port,
        requests.Session() as session,
        ThreadPoolExecutor(1) as pool,
        opened(
            f"{'https' if secured else 'http'}://127.0.0.1:{port}",
            verify=bundle,
            session=session if given else None,
        ) as http,
    ):
        future = pool.submit(ASK[what], http)
        assert begun.wait(LIMIT)
        http.close()
        with pytest.raises(ClientClosed) as caught:
            future.result(3)
        assert caught.value.__context__ is None  # what requests raises shows what was sent
        ended.set()


def test_close_leaves_a_given_session_to_other_clients(comfy: ComfyServer) -> None:
    """Whose exchanges and kept connections are not ours."""
    with (
        requests.Session() as session,
        ThreadPoolExecutor(1) as pool,
        opened(comfy.url, session=session) as ours,
        opened(comfy.url, session=session) as theirs,
        comfy.faults.delay("GET", "/queue", 0.5),
    ):
        ours.json("GET", "/prompt")
        future = pool.submit(theirs.json, "GET", "/queue")
        comfy.until(lambda: any(r.path == "/queue" for r in comfy.requests))
        ours.close()
        assert future.result(LIMIT)


def test_no_call_waits_for_a_connection_of_a_given_session(comfy: ComfyServer) -> None:
    """Though ``pool_block=True`` would: a download, or a refusal, may keep the only one."""
    adapter = requests.adapters.HTTPAdapter(pool_maxsize=1, pool_block=True)
    found: list[Any] = []

    def ask() -> None:
        with pytest.raises(NotSupported):  # the first answer of all, and no route
            http.request("GET", "/nothing")
        found.append(http.json("GET", "/prompt"))

    with requests.Session() as session, opened(comfy.url, session=session) as http:
        session.mount("http://", adapter)
        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(5)
        assert found
        assert session.get(f"{comfy.url}/prompt", timeout=LIMIT).ok


def test_after_close_every_call_says_so(comfy: ComfyServer, http: Http) -> None:
    """And closing again is harmless."""
    http.json("GET", "/prompt")
    http.close()
    http.close()
    for call in (
        lambda: http.json("GET", "/prompt"),
        lambda: http.upload("/upload/image", {}, b"x", "a"),
        lambda: http.handshake("/ws", {}),
        lambda: http.download("/view").__enter__(),
    ):
        with pytest.raises(ClientClosed):
            call()


# -- old servers ------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["GET", "POST", "upload", "download"])
def test_servers_without_the_prefix_are_found_and_remembered(
    comfy: ComfyServer, first: str
) -> None:
    """Whatever is asked first, and it is executed once."""
    comfy.faults.missing("*", "/api/*")
    done: list[str] = []
    comfy.on("POST", "/thing", lambda r: _record(comfy, r, done))
    (comfy.root / "output" / "a").write_bytes(b"x")
    with opened(comfy.url) as http:
        if first == "GET":
            assert http.json("GET", "/queue")["queue_running"] == []
        elif first == "POST":
            assert http.json("POST", "/thing", json={"a": 1}) == {"ok": 1}
        elif first == "upload":
            assert http.upload("/thing", {}, b"abc", "a") == {"ok": 1}
        else:
            with http.download("/view", params={"filename": "a"}) as download:
                assert b"".join(download) == b"x"
        asked = len(comfy.requests)
        assert http.json("GET", "/prompt") == {"exec_info": {"queue_remaining": 0}}
        assert http.json("POST", "/thing", json={}) == {"ok": 1}
        assert len(comfy.requests) == asked + 2
        assert http.url("/view") == comfy.url + "/view"
    assert len(done) == (2 if first in ("POST", "upload") else 1)


def _record(comfy: ComfyServer, request: Request, done: list[str]) -> Any:
    if request.target.startswith("/api/"):
        return comfy.answer(request)  # an early ComfyUI: 405
    done.append(request.target)
    return 200, {}, {"ok": 1}


def test_a_missing_route_of_a_new_server_does_not_cost_the_prefix(
    comfy: ComfyServer, http: Http
) -> None:
    """The first request may well be one that this server lacks."""
    for method in ("GET", "POST"):
        with pytest.raises(NotSupported):
            http.request(method, "/no/such/route")
    http.json("GET", "/queue")
    assert comfy.requests[-1].target == "/api/queue"
    assert http.url("/queue") == comfy.url + "/api/queue"


@pytest.mark.parametrize("server", [March2024, ComfyServer])
def test_the_first_request_of_all_may_be_of_a_route_that_is_missing(
    server: type[ComfyServer],
) -> None:
    """Explicit ones, too: a ComfyUI is no stranger for that."""
    with server() as comfy:
        for method, route in (
            ("GET", "/api/no/such"),
            ("POST", "/api/no/such"),
            ("GET", "/internal/no/such"),
            ("GET", "/no/such"),
        ):
            with opened(comfy.url) as http, pytest.raises(NotSupported):
                http.request(method, route)
    with ComfyServer() as comfy, opened(comfy.url) as http:
        comfy.on("GET", "/api/thing", (404, {"Content-Type": "application/json"}, {"error": "no"}))
        with pytest.raises(NotFound):
            http.request("GET", "/api/thing")


@pytest.mark.parametrize("status", [401, 502])
def test_who_does_not_tell_whether_there_is_a_prompt_route_is_not_called_a_stranger(
    comfy: ComfyServer, status: int
) -> None:
    """A proxy that wants a password for it, or whose server is away."""
    comfy.on("GET", "/prompt", (status, {}, None))
    with opened(comfy.url) as http, pytest.raises(NotSupported):
        http.request("GET", "/no/such")


# -- TLS --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def bundle(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(scope="module")
def secure(ca: trustme.CA) -> Iterator[str]:
    """A ComfyUI behind https, with a certificate for 127.0.0.1 and gpu.test."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1", "gpu.test").configure_cert(context)
    with raw_server(answers((200, {}, {"exec_info": {}})), context) as port:
        yield f"https://127.0.0.1:{port}"


def test_an_unknown_ca_is_refused_with_advice(secure: str) -> None:
    """It will not mend by waiting; the advice is the right one."""
    with opened(secure) as http, pytest.raises(ServerUnreachable, match="verify=") as caught:
        http.json("GET", "/prompt")
    assert not caught.value.retryable
    assert "TLS failed" in str(caught.value)


def test_tls_is_trusted_as_told(secure: str, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By path, by environment, by the Session, or not verified at all; the socket likewise."""
    for verify in (bundle, str(bundle)):
        with opened(secure, verify=verify) as http:
            assert http.json("GET", "/prompt") == {"exec_info": {}}
            assert http.endpoint.ssl_context.verify_mode is ssl.CERT_REQUIRED
            assert len(http.endpoint.ssl_context.get_ca_certs()) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # urllib3 says that this is unsafe
        with opened(secure, verify=False) as http:
            assert http.json("GET", "/prompt") == {"exec_info": {}}
            assert http.endpoint.ssl_context.verify_mode is ssl.CERT_NONE
    with requests.Session() as session:
        session.verify = str(bundle)
        with opened(secure, session=session) as http:
            assert http.json("GET", "/prompt") == {"exec_info": {}}
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    with opened(secure) as http:
        assert http.json("GET", "/prompt") == {"exec_info": {}}


def test_a_certificate_for_another_name_is_refused(bundle: Path, ca: trustme.CA) -> None:
    """Even when the CA is trusted."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("gpu.test").configure_cert(context)
    with (
        raw_server(answers((200, {}, {})), context) as port,
        opened(f"https://127.0.0.1:{port}", verify=bundle) as http,
        pytest.raises(ServerUnreachable, match="TLS failed"),
    ):
        http.json("GET", "/prompt")


def test_a_cut_in_the_tls_handshake_is_a_cut() -> None:
    """No fault of certificates: a proxy that starts anew ends its connections so."""

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)

    with raw_server(serve) as port, opened(f"https://127.0.0.1:{port}") as http:
        with pytest.raises(TransportError, match="cut") as caught:
            http.request("GET", "/prompt")
        assert type(caught.value) is TransportError


def test_client_certificates_are_shown(ca: trustme.CA, bundle: Path, tmp_path: Path) -> None:
    """A server that asks for one."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    mine = ca.issue_cert("me@example.org")
    both, certificate, key = (str(tmp_path / n) for n in ("both.pem", "cert.pem", "key.pem"))
    mine.private_key_and_cert_chain_pem.write_to_path(both)
    mine.cert_chain_pems[0].write_to_path(certificate)
    mine.private_key_pem.write_to_path(key)
    with raw_server(answers((200, {}, {"ok": 1})), context) as port:
        host = f"https://127.0.0.1:{port}"
        for cert in (both, (certificate, key)):
            with opened(host, verify=bundle, cert=cert) as http:
                assert http.json("GET", "/prompt") == {"ok": 1}
                assert isinstance(http.endpoint.ssl_context, ssl.SSLContext)
        with opened(host, verify=bundle) as http, pytest.raises(TransportError):
            http.json("GET", "/prompt")


def test_a_missing_bundle_or_certificate_is_named(
    secure: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``FileNotFoundError``, not a failure of the connection."""
    with (
        opened(secure, verify="/no/ca.pem") as http,
        pytest.raises(FileNotFoundError, match="/no/"),
    ):
        http.json("GET", "/prompt")
    with (
        opened(secure, verify=bundle, cert=("/no/cert.pem", "/no/key.pem")) as http,
        pytest.raises(FileNotFoundError, match="cert="),
    ):
        http.json("GET", "/prompt")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/env.pem")
    with opened(secure) as http, pytest.raises(FileNotFoundError, match="REQUESTS_CA_BUNDLE"):
        http.json("GET", "/prompt")


def test_https_to_a_plain_port_says_use_http(comfy: ComfyServer) -> None:
    """And plain http to an https port hints at https."""
    with (
        opened(comfy.url.replace("http:", "https:")) as http,
        pytest.raises(ServerUnreachable, match="use http:// in host"),
    ):
        http.json("GET", "/prompt")


@pytest.mark.parametrize(
    "says",
    [
        "<html><title>400 The plain HTTP request was sent to HTTPS port</title></html>",
        "Reason: You're speaking plain HTTP to an SSL-enabled server port.",
        "Client sent an HTTP request to an HTTPS server.\n",
    ],
    ids=["nginx", "Apache", "Go"],
)
def test_a_server_that_says_it_wants_https_is_understood(comfy: ComfyServer, says: str) -> None:
    """In words of our own, and at once."""
    comfy.on("*", "*", (400, HTML, says))
    with (
        contextlib.closing(ComfyApi(comfy.url)) as api,
        pytest.raises(UnexpectedResponse, match="use https:// in host"),
    ):
        api.init()


@pytest.mark.parametrize("says", ["nothing", "an alert"])
def test_init_finds_out_that_a_server_which_hangs_up_wants_https(ca: trustme.CA, says: str) -> None:
    """As ComfyUI with a certificate does; one that merely hangs up is waited for."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(context)

    def handle(connection: socket.socket) -> None:
        if connection.recv(1, socket.MSG_PEEK) != b"\x16":  # no ClientHello
            connection.recv(65536)
            return
        if says == "an alert":  # as who wants a certificate of ours
            connection.recv(65536)
            connection.sendall(b"\x15\x03\x03\x00\x02\x02\x28")
            return
        with context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(1)

    with raw_server(handle) as port, contextlib.closing(ComfyApi(f"127.0.0.1:{port}")) as api:
        start = time.monotonic()
        with pytest.raises(ServerUnreachable, match="use https:// in host") as caught:
            api.init(timeout=LIMIT)
        assert not caught.value.retryable
        assert time.monotonic() - start < 5
    with (
        raw_server(lambda c: head_of(c)) as port,
        contextlib.closing(ComfyApi(f"127.0.0.1:{port}")) as api,
        pytest.raises(TransportError, match="cut"),
    ):
        api.init(timeout=0.5)


def test_plain_http_to_an_https_port_is_a_typed_error(secure: str) -> None:
    """What arrives is no HTTP, or nothing."""
    with (
        opened(secure.replace("https:", "http:")) as http,
        pytest.raises((UnexpectedResponse, TransportError)),
    ):
        http.json("GET", "/prompt", timeout=5)


def test_dripping_ends_at_the_deadline_over_tls(ca: trustme.CA, bundle: Path) -> None:
    """As over plain http."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    with (
        raw_server(endlessly(b"X", pause=0.02), context) as port,
        opened(f"https://127.0.0.1:{port}", verify=bundle) as http,
    ):
        start = time.monotonic()
        with pytest.raises(RequestTimeout):
            http.request("GET", "/queue", timeout=0.6)
        assert time.monotonic() - start < 3


# -- proxies ----------------------------------------------------------------------------


@contextlib.contextmanager
def a_proxy(answer: Any = (200, {}, {"by": "proxy"})) -> Iterator[tuple[str, list[bytes]]]:
    """Answers itself, and keeps the first line of what arrives."""
    seen: list[bytes] = []

    def handle(connection: socket.socket) -> None:
        while True:
            seen.append(head_of(connection))
            connection.sendall(encode(answer))

    with raw_server(handle) as port:
        yield f"http://127.0.0.1:{port}", seen


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_own_machine_is_never_reached_through_a_proxy(
    comfy: ComfyServer, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """Neither from the environment, nor the Session's, nor a given one."""
    with a_proxy() as (proxy, seen), requests.Session() as session:
        monkeypatch.setenv("HTTP_PROXY", proxy)
        monkeypatch.setenv("ALL_PROXY", proxy)
        session.proxies = {"http": proxy}
        url = f"http://{host}:{comfy.port}"
        for options in ({}, {"session": session}, {"proxies": {"http": proxy}}):
            with opened(url, **options) as http:
                assert http.json("GET", "/prompt") == {"exec_info": {"queue_remaining": 0}}
                assert http.endpoint.proxy is None
    assert not seen


def test_other_machines_are_reached_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the environment, the Session or as given; NO_PROXY and ``{}`` mean none."""
    with a_proxy() as (proxy, seen), requests.Session() as session:
        session.proxies = {"http": proxy}
        for options in ({"proxies": {"http": proxy}}, {"session": session}):
            with opened("gpu.invalid:8188", **options) as http:
                assert http.json("GET", "/prompt") == {"by": "proxy"}
                assert http.endpoint.proxy == proxy
        monkeypatch.setenv("http_proxy", proxy)
        with opened("gpu.invalid:8188") as http:
            assert http.json("GET", "/prompt") == {"by": "proxy"}
        assert [line.split(b"\r\n")[0] for line in seen] == [
            b"GET http://gpu.invalid:8188/api/prompt HTTP/1.1"
        ] * 3
        with opened("gpu.invalid:8188", proxies={}) as http:
            assert http.endpoint.proxy is None
        monkeypatch.setenv("no_proxy", "gpu.invalid")
        with opened("gpu.invalid:8188") as http:
            assert http.endpoint.proxy is None


def test_a_proxy_that_refuses_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where to look: proxies= and the variables."""
    with a_proxy((407, {}, None)) as (proxy, _):
        monkeypatch.setenv("https_proxy", proxy.replace("//", f"//me:{SECRET}@"))
        with (
            opened("https://gpu.invalid") as http,
            pytest.raises(ServerUnreachable, match="proxy") as caught,
        ):
            http.json("GET", "/prompt")
    assert SECRET not in texts(caught.value)


@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        (f"socks5://me:{SECRET}@127.0.0.1:1", r"pip install 'requests\[socks\]'"),
        (f"ftp://me:{SECRET}@127.0.0.1:1", "write http://proxy:3128"),
        (f"http://me:{SECRET}@", "write http://proxy:3128"),
        (f"http://me:{SECRET}@proxy:port", "write http://proxy:3128"),
        (f"me:{SECRET}@", "write http://proxy:3128"),
    ],
)
@pytest.mark.parametrize("given", [False, True], ids=["own session", "given session"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_proxy_that_cannot_be_used_is_told_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch, proxy: str, words: str, given: bool, method: str
) -> None:
    """In plain words, with what to install; nobody waits for it, nor wonders what was sent."""
    monkeypatch.setitem(sys.modules, "socks", None)  # PySocks, should it be installed
    with requests.Session() as session:
        options = {"session": session if given else None, "proxies": {"http": proxy}}
        with (
            opened("gpu.invalid", **options) as http,
            pytest.raises(ServerUnreachable, match=words) as caught,
        ):
            http.request(method, "/prompt")
    assert not caught.value.retryable
    assert SECRET not in texts(caught.value)


def test_a_scheme_without_a_proxy_is_named_by_none() -> None:
    """Whatever there is for all the others, as in requests."""
    with a_proxy() as (proxy, seen):
        options = {"proxies": {"http": None, "all": proxy}}
        with opened("gpu.invalid:8188", **options) as http:
            assert http.endpoint.proxy is None
        with opened("https://gpu.invalid:8188", **options) as http:
            assert http.endpoint.proxy == proxy
    assert not seen


# -- a Session of the caller ------------------------------------------------------------


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


def test_a_given_session_keeps_to_deadlines_over_kept_connections_too() -> None:
    """Though they were made before, and for requests of its owner, who has no deadline."""

    def handle(connection: socket.socket) -> None:
        while True:
            path = head_of(connection).split()[1]
            if b"quick" in path:
                connection.sendall(encode((200, {}, {})))
                continue
            for byte in encode((200, {}, {})):
                connection.sendall(bytes([byte]))
                time.sleep(0.02)

    with raw_server(handle) as port, requests.Session() as session:
        url = f"http://127.0.0.1:{port}"
        assert session.get(f"{url}/quick").json() == {}
        with opened(url, session=session) as http:
            for _ in range(2):
                start = time.monotonic()
                with pytest.raises(TransportError):
                    http.request("GET", "/slow", timeout=0.4)
                assert time.monotonic() - start < 1.2
            assert session.get(f"{url}/slow").json() == {}
            assert session.post(f"{url}/quick", data=b"x" * 99).json() == {}


def test_credentials_win_over_the_auth_of_a_session(comfy: ComfyServer) -> None:
    """They were given for this server."""
    with requests.Session() as session:
        session.auth = HTTPBasicAuth("session", "x")
        with opened(comfy.url, session=session) as http:
            http.json("GET", "/queue")
        with opened(comfy.url, session=session, credentials=BearerCredentials("t")) as http:
            http.json("GET", "/queue")
    sent = [request.headers.get("Authorization") for request in comfy.requests]
    assert sent == [basic("session", "x"), "Bearer t"]


def test_digest_auth_of_a_session_works(comfy: ComfyServer) -> None:
    """Its second round needs cookies, hooks and the body once more."""

    def wants_digest(request: Request) -> Any:
        if "Digest" in request.headers.get("Authorization", ""):
            return 200, {}, {"n": len(request.body)}
        return 401, {"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth"'}, None

    comfy.on("*", "*", wants_digest)
    with requests.Session() as session:
        session.auth = HTTPDigestAuth("me", SECRET)
        with opened(comfy.url, session=session) as http:
            assert http.json("GET", "/queue") == {"n": 0}
            assert http.json("POST", "/prompt", data=b"12345") == {"n": 5}
            assert http.upload("/upload/image", {}, bytes(MIB), "a")["n"] > MIB


def test_cookies_that_a_server_sets_are_sent_from_then_on(comfy: ComfyServer, http: Http) -> None:
    """To the socket too, so that a sticky route holds."""
    comfy.on("GET", "/queue", (200, {"Set-Cookie": "route=b; Path=/"}, {}))
    http.json("GET", "/queue")
    http.json("GET", "/prompt")
    assert [r.headers.get("Cookie") for r in comfy.requests] == [None, "route=b"]
    assert http.handshake("/ws", {"clientId": "me"})[1]["Cookie"] == "route=b"


# -- transfers --------------------------------------------------------------------------


class Zeros(io.RawIOBase):
    """A large file that is nowhere."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.at = 0

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = offset if whence == os.SEEK_SET else self.size + offset
        return self.at

    def read(self, size: int = -1) -> bytes:
        piece = bytes(min(size, self.size - self.at))
        self.at += len(piece)
        return piece


def swallow(connection: socket.socket) -> None:
    """Reads a body by its length, keeping none of it."""
    head, _, rest = head_of(connection).partition(b"\r\n\r\n")
    message = parse_headers(io.BytesIO(head.partition(b"\r\n")[2] + b"\r\n\r\n"))
    left = int(message["Content-Length"]) - len(rest)
    buffer = bytearray(MIB)
    while left:
        left -= connection.recv_into(buffer, min(MIB, left))
    connection.sendall(encode((200, {}, {"name": "a"})))


def pour_90_mb(connection: socket.socket) -> None:
    head_of(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (90 * MIB))
    piece = bytes(MIB)
    for _ in range(90):
        connection.sendall(piece)


def test_transfers_take_constant_memory() -> None:
    """90 MiB up and down, with less than 8 MiB."""
    with (
        raw_server(swallow) as sink,
        raw_server(pour_90_mb) as source,
        opened(f"127.0.0.1:{sink}") as up,
        opened(f"127.0.0.1:{source}") as down,
    ):
        tracemalloc.start()
        try:
            assert up.upload("/upload/image", {}, Zeros(90 * MIB), "a") == {"name": "a"}
            with down.download("/view") as download:
                assert download.length == 90 * MIB
                assert sum(map(len, download)) == 90 * MIB
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 8 * MIB


def test_bytes_in_memory_take_little_more_than_their_size() -> None:
    """An answer is not held twice."""
    with raw_server(pour_90_mb) as source, opened(f"127.0.0.1:{source}") as http:
        tracemalloc.start()
        try:
            assert len(http.request("GET", "/view").content) == 90 * MIB
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 110 * MIB


@pytest.mark.parametrize("kind", ["bytes", "path", "stream", "stream in its middle"])
def test_uploads_arrive_whole(comfy: ComfyServer, http: Http, tmp_path: Path, kind: str) -> None:
    """From bytes, a path and a stream's position; names and fields survive."""
    content = os.urandom(2 * MIB + 17)
    comfy.on("POST", "/upload/image", (200, {}, {"name": "x"}))
    file: Any = content
    if kind == "path":
        file = tmp_path / "a.png"
        file.write_bytes(content)
    elif kind != "bytes":
        file = io.BytesIO((b"skip" if "middle" in kind else b"") + content)
        file.seek(4 if "middle" in kind else 0)
    name = 'a "b"\r\nü.png'
    assert http.upload("/upload/image", {"type": "input"}, file, name) == {"name": "x"}
    (request,) = comfy.requests
    boundary = request.headers["Content-Type"].partition("boundary=")[2].encode()
    _, field, image, end = request.body.split(b"--" + boundary)
    assert field == b'\r\nContent-Disposition: form-data; name="type"\r\n\r\ninput\r\n'
    head, _, body = image.partition(b"\r\n\r\n")
    assert 'filename="a %22b%22%0D%0Aü.png"'.encode() in head
    assert body == content + b"\r\n"
    assert end == b"--\r\n"


def test_a_file_that_cannot_be_read_says_so(comfy: ComfyServer, http: Http, tmp_path: Path) -> None:
    """Its own error, not one of the connection."""

    class Shrinking(Zeros):
        def read(self, size: int = -1) -> bytes:
            return b"" if self.at else super().read(size)

    comfy.on("POST", "*", (200, {}, {}))
    with pytest.raises(OSError, match="shorter") as caught:
        http.upload("/upload/image", {}, Shrinking(3 * MIB), "a")
    assert not isinstance(caught.value, ComfyError)
    with pytest.raises(FileNotFoundError):
        http.upload("/upload/image", {}, tmp_path / "none.png", "a")


@pytest.mark.parametrize("kind", ["path", "stream", "pipe"])
def test_a_file_without_a_size_is_sent_with_what_it_holds(
    comfy: ComfyServer, http: Http, kind: str
) -> None:
    """As all in /proc, and what another program writes."""
    comfy.on("POST", "/upload/image", (200, {}, {"name": "x"}))
    path = Path("/proc/self/cmdline")
    content = path.read_bytes()
    with contextlib.ExitStack() as stack:
        file: Any = path
        if kind == "stream":
            file = stack.enter_context(path.open("rb"))
        elif kind == "pipe":
            reading, writing = os.pipe()
            file = stack.enter_context(os.fdopen(reading, "rb"))
            with os.fdopen(writing, "wb") as end:
                end.write(content)
        http.upload("/upload/image", {}, file, "x")
    assert content
    assert comfy.requests[-1].body.split(b"\r\n")[4] == content


def test_answers_and_downloads_show_no_content_in_repr(comfy: ComfyServer, http: Http) -> None:
    """They may be large, and private."""
    (comfy.root / "output" / "a").write_bytes(b"private")
    answer = http.request("GET", "/view", params={"filename": "a"})
    assert isinstance(answer, Answer)
    with http.download("/view", params={"filename": "a"}) as download:
        assert "private" not in repr(answer) + repr(download)
        assert "Content-Length" not in repr(download)


def test_a_file_that_stands_at_its_end_is_told_rather_than_sent_empty(
    comfy: ComfyServer, http: Http
) -> None:
    """As after ``picture.save(file)``."""
    file = io.BytesIO()
    file.write(b"a picture")
    with pytest.raises(ValueError, match="rewind"):
        http.upload("/upload/image", {}, file, "a.png")
    assert not comfy.requests


@pytest.mark.parametrize("outer", [KeyboardInterrupt(), TimeoutError("of an alarm")])
def test_what_is_being_handled_is_no_cause_of_a_failure(outer: BaseException) -> None:
    """Whoever tidies up behind a Ctrl-C, or an alarm, is told what the server says then."""

    def alarm(*_: object) -> None:
        raise outer

    old = signal.signal(signal.SIGUSR1, alarm)
    try:
        with contextlib.closing(ComfyApi("http://127.0.0.1:9")) as api:
            try:
                alarm()
            except type(outer):
                with pytest.raises(ServerUnreachable, match="refused"):
                    api.get_queue()
    finally:
        signal.signal(signal.SIGUSR1, old)


def test_a_description_names_what_is_sent_and_shows_none_of_it(comfy: ComfyServer) -> None:
    """For the doctor: kinds and names, never values."""
    session = requests.Session()
    session.headers["Origin"] = comfy.url
    session.auth = ("me", SECRET)
    http = Http(
        parse_host(comfy.url)[0],
        credentials=QueryCredentials("token", SECRET),
        user="ann",
        headers={"Cookie": f"sid={SECRET}"},
        session=session,
    )
    assert http.describe().has_api_prefix is None
    http.json("GET", "/prompt")
    shown = http.describe()
    assert SECRET not in repr(shown)
    assert (shown.url, shown.user, shown.credentials) == (comfy.url, "ann", "QueryCredentials")
    assert shown.sent == ("?token=", "Cookie", "auth of the Session")
    assert shown.sends_origin
    assert shown.has_api_prefix
    http.close()


def test_words_of_the_settings_are_told_to_who_hides_them(
    comfy: ComfyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """User names and passwords of any kind, of proxies in the environment too."""
    monkeypatch.setenv("COMFY_PASSWORD", "bob:env-password")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxyuser:proxy%2Fpassword@proxy:1")
    session = requests.Session()
    session.auth = HTTPBasicAuth("session-user", "session-password")
    http = Http(
        parse_host(comfy.url)[0],
        credentials=EnvCredentials("COMFY_PASSWORD", "basic"),
        user="comfy-user",
        headers={"X-Anything": "header-value"},
        session=session,
    )
    secrets = Secrets()
    http.identity.tell_words(secrets)
    words = ["env-password", "proxyuser", "proxy/password", "session-user", "session-password"]
    for word in (*words, "comfy-user", "header-value"):
        assert secrets.hide_words(word) == "***"
    assert secrets.hide_words("COMFY_PASSWORD") == "COMFY_PASSWORD"
    http.close()
