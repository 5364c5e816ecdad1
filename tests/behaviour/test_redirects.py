"""Redirects are not followed, and login pages are no answers."""

from __future__ import annotations

import pytest

from comfy_client import ComfyApi
from comfy_client.errors import (
    RequestTimeout,
    UnexpectedResponse,
)
from comfy_client.testing import ComfyServer, drip
from comfy_client.transport.http import Http
from tests.helpers.clients import (
    LIMIT,
    quickly,
)
from tests.helpers.gates import saves
from tests.helpers.http import (
    HTML,
    PAGE,
    SECRET,
    opened,
    texts,
)


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
    with quickly(), pytest.raises(RequestTimeout):
        http.request("GET", "/queue", timeout=0.5)


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


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_of_a_submission_queues_nothing(
    comfy: ComfyServer, fast: ComfyApi, status: int
) -> None:
    """An error that names the URL to use; nothing is queued, not by a GET either."""
    before = len(comfy.requests)
    with (
        comfy.faults.redirect(status, method="POST"),
        pytest.raises(
            UnexpectedResponse, match=r"redirected to https://127\.0\.0\.1:\d+"
        ) as caught,
    ):
        fast.run(saves(), timeout=LIMIT)
    assert caught.value.status == status
    assert [(r.method, r.path) for r in comfy.requests[before:]] == [("POST", "/prompt")]
    assert comfy.ran == []
