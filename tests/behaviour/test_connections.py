"""Connections are kept, shared, replaced, and ended by ``close()``."""

from __future__ import annotations

import errno
import functools
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import client as http_client
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
from urllib3 import HTTPConnectionPool

from comfy_client.errors import (
    ClientClosed,
    ComfyError,
    NotSupported,
    UploadTooLarge,
)
from comfy_client.testing import ComfyServer, encode
from comfy_client.transport.http import Http
from tests.helpers.http import (
    LIMIT,
    MIB,
    download,
    head_of,
    never_end,
    opened,
    raw_server,
)


def test_a_connection_serves_many_requests(comfy: ComfyServer, http: Http) -> None:
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


WAYS: dict[str, Callable[[ComfyServer, Http], object]] = {
    "kept": lambda comfy, http: http.json("GET", "/prompt"),
    "odd target": lambda comfy, http: http.json("GET", "/view?filename=ä b|c"),
    "file": lambda comfy, http: http.upload("/upload/image", {}, b"x", "x"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("watched", ["", "wrapped", "printed"])
def test_tracers_of_urllib3_see_each_request(
    comfy: ComfyServer, http: Http, monkeypatch: pytest.MonkeyPatch, way: str, watched: str
) -> None:
    """A tracer that wraps it, or ``debuglevel``; otherwise the usual ones do without it."""
    comfy.on("GET", "/view", (200, {}, {}))
    seen: list[str] = []
    urlopen = HTTPConnectionPool.urlopen

    def seeing(self: Any, *args: Any, **kw: Any) -> Any:
        seen.append(kw["url"])
        return urlopen(self, *args, **kw)

    wraps = functools.wraps(urlopen) if watched == "wrapped" else lambda function: function
    monkeypatch.setattr(HTTPConnectionPool, "urlopen", wraps(seeing))
    if watched == "printed":
        monkeypatch.setattr(http_client.HTTPConnection, "debuglevel", 1)
    WAYS[way](comfy, http)
    assert len(seen) == bool(watched or way != "kept")
    assert len(comfy.requests) == 1


@pytest.mark.parametrize("name", ["putrequest", "getresponse"])
def test_patches_of_http_client_see_each_request(
    comfy: ComfyServer, http: Http, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As tools that report errors and times do."""
    seen: list[str] = []
    method = getattr(http_client.HTTPConnection, name)

    @functools.wraps(method)
    def seeing(self: Any, *args: Any, **kw: Any) -> Any:
        seen.append(name)
        return method(self, *args, **kw)

    monkeypatch.setattr(http_client.HTTPConnection, name, seeing)
    http.json("GET", "/prompt")
    assert seen == [name]


ENDS = {
    "closed": encode((200, {"Connection": "close"}, [1])),
    "old": encode((200, {}, [1])).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "of no length": b"HTTP/1.1 200 OK\r\n\r\n[1]",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n[1]\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("end", ENDS)
def test_a_connection_is_kept_if_the_server_keeps_it(end: str) -> None:
    """Whether it says so, or the answer has no other end."""
    asked: list[int] = []

    def handle(connection: socket.socket) -> None:
        while True:
            head_of(connection)
            asked.append(connection.getpeername()[1])
            connection.sendall(ENDS[end])
            if end == "of no length":
                return

    with raw_server(handle) as port, opened(f"http://127.0.0.1:{port}") as http:
        assert [http.json("GET", "/queue") for _ in range(3)] == [[1]] * 3
    assert len(asked) == 3
    assert len({*asked}) == (1 if end == "chunked" else 3)


@pytest.mark.posix("answers that a reset leaves to be read")
def test_a_refusal_that_comes_before_the_body_was_sent_is_read() -> None:
    """Though the server reads no more, and resets the connection."""

    def handle(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(encode((413, {}, "Maximum request body size 9 exceeded")))
        connection.shutdown(socket.SHUT_WR)

    with raw_server(handle) as port, opened(f"http://127.0.0.1:{port}") as http:
        for _ in range(3):
            with pytest.raises(UploadTooLarge):
                http.request("POST", "/prompt", data=bytes(64 * MIB))


@pytest.mark.long
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


@pytest.mark.parametrize("end", ["close", "drop"])
def test_a_connection_that_fails_to_close_keeps_no_other_open(
    comfy: ComfyServer, http: Http, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """The system may say so of one that is broken; nobody could do anything about it."""
    (comfy.root / "output" / "a").write_bytes(b"12345")
    file = {"filename": "a"}
    with http.download("/view", params=file) as one, http.download("/view", params=file) as two:
        assert b"".join(one) == b"".join(two) == b"12345"
    assert comfy.open_connections == 2
    close, us = socket.socket.close, threading.current_thread()

    def failing(sock: socket.socket) -> None:
        close(sock)
        if threading.current_thread() is us:
            raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(socket.socket, "close", failing)
    if end == "close":
        http.close()
    else:
        http.endpoint.drop_kept()
        assert http.json("GET", "/prompt")
    comfy.until(lambda: comfy.open_connections == (end == "drop"))


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
            future.result(LIMIT)
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
        asking.join(LIMIT)
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
