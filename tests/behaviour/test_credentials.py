"""Credentials, users and cookies: what is sent to prove who we are."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import requests
from requests.auth import HTTPBasicAuth, HTTPDigestAuth

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
    NotFound,
)
from comfy_client.testing import ComfyServer, Request
from comfy_client.transport import identity
from comfy_client.transport.http import Http
from comfy_client.transport.url import parse_host
from tests.helpers.http import (
    MIB,
    SECRET,
    basic,
    opened,
    texts,
)

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


def test_credentials_stay_secret_after_their_rotation(comfy: ComfyServer) -> None:
    """A server may still repeat the old ones."""
    old, new = "old-token-5f0d9b7e2c41", "new-token-aa71c2e98d03"
    tokens = iter([old, new])

    def tells_both(request: Request) -> tuple[int, dict[str, str], Any]:
        if request.headers["Authorization"] == f"Bearer {old}":
            return 401, {}, "who?"
        return 500, {"Content-Type": "text/plain"}, f"audit: {old} became {new}"

    comfy.on("GET", "/queue", tells_both)
    with (
        opened(comfy.url, credentials=lambda: BearerCredentials(next(tokens))) as http,
        pytest.raises(ApiError, match="audit") as caught,
    ):
        http.json("GET", "/queue")
    assert old not in texts(caught.value)
    assert new not in texts(caught.value)


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
    identity.warned.clear()
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


def test_a_missing_user_is_another_error_than_a_missing_password() -> None:
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
