"""Proxies: which requests take one, and what is said of one that fails."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from comfy_client.errors import (
    ServerUnreachable,
)
from comfy_client.testing import ComfyServer, encode
from tests.helpers.http import (
    SECRET,
    head_of,
    opened,
    raw_server,
    texts,
)


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
def test_localhost_is_never_reached_through_a_proxy(
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


def test_remote_machines_are_reached_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
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
    ("status", "may_pass"), [(403, False), (407, False), (502, True), (503, True), (504, True)]
)
def test_a_proxy_that_is_in_trouble_may_connect_us_later(status: int, may_pass: bool) -> None:
    """One that refuses will go on refusing."""
    with (
        a_proxy((status, {}, None)) as (proxy, _),
        opened("https://gpu.invalid", proxies={"https": proxy}) as http,
        pytest.raises(ServerUnreachable, match=str(status)) as caught,
    ):
        http.json("GET", "/prompt")
    assert caught.value.retryable is may_pass


@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        (f"socks5://me:{SECRET}@127.0.0.1:1", r'pip install "requests\[socks\]"'),
        (f"ftp://me:{SECRET}@127.0.0.1:1", "write http://proxy:3128"),
        (f"http://me:{SECRET}@", "write http://proxy:3128"),
        (f"http://me:{SECRET}@proxy:port", "write http://proxy:3128"),
        (f"me:{SECRET}@", "write http://proxy:3128"),
    ],
)
@pytest.mark.parametrize("given", [False, True], ids=["own session", "given session"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unusable_proxy_is_refused_before_anything_is_sent(
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
