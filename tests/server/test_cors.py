"""Pages of other origins that may use an embedded server: ``ComfyServer(cors=[...])``."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import requests
import websocket

from comfy_client.testing import ComfyServer
from tests.server.test_safety import LIMIT, PAGES, asked, dialled

#: Of a page in development.
VITE = "http://localhost:5173"


@pytest.fixture(scope="module", params=["0.3.75", "0.33"])
def server(request: pytest.FixtureRequest) -> Iterator[ComfyServer]:
    with ComfyServer(version=request.param, cors=[VITE]) as running:
        yield running


def answered(
    server: ComfyServer, method: str, path: str, headers: dict[str, str]
) -> tuple[int, dict[str, str]]:
    """The status of an answer, and what it lets a page of another origin do."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LIMIT)
    with closing(connection):
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        answer.read()
        names = ("access-control-", "vary")
        found = {key.lower(): value for key, value in answer.getheaders()}
        return answer.status, {k: v for k, v in found.items() if k.startswith(names)}


ALLOWED = {
    "access-control-allow-origin": VITE,
    "access-control-allow-methods": "POST, GET, DELETE, PUT, OPTIONS, PATCH",
    "access-control-allow-headers": "Content-Type, Authorization",
    "access-control-allow-credentials": "true",
    "vary": "Origin",
}


def test_a_page_of_a_named_origin_may_ask_and_read(server: ComfyServer) -> None:
    """A browser says that it is another site, if one says localhost and the other 127.0.0.1."""
    page = {"Origin": VITE, "Sec-Fetch-Site": "cross-site"}
    for path, status in (("/prompt", 200), ("/api/queue", 200), ("/", 200), ("/nope", 404)):
        assert answered(server, "GET", path, page) == (status, ALLOWED)
    preflight = {**page, "Access-Control-Request-Method": "POST"}
    assert answered(server, "OPTIONS", "/prompt", preflight) == (200, ALLOWED)
    assert dialled(server, f"Host: localhost:{server.port}", f"Origin: {VITE}") == 101


def test_an_error_of_a_fault_may_be_read_by_a_page_too(server: ComfyServer) -> None:
    with server.on("GET", "/queue", (500, {}, "no")):
        assert answered(server, "GET", "/queue", {"Origin": VITE}) == (500, ALLOWED)


def test_pictures_of_a_page_are_known_by_its_referer(server: ComfyServer) -> None:
    """An ``<img>`` has no ``Origin``."""
    path = "/view?filename=nope.png"
    for referer, status in ((f"{VITE}/a?b", 404), (f"{VITE}.evil.example/", 403), ("", 403)):
        headers = {"Referer": referer, "Sec-Fetch-Site": "cross-site"}
        assert answered(server, "GET", path, headers)[0] == status


@pytest.mark.parametrize("headers", PAGES, ids=str)
def test_pages_of_unnamed_origins_are_refused_as_before(
    server: ComfyServer, headers: dict[str, str]
) -> None:
    headers = {key: text.replace("<port>", str(server.port)) for key, text in headers.items()}
    for method in ("GET", "OPTIONS"):
        assert answered(server, method, "/prompt", headers) == (403, {})
    lines = [f"{key}: {text}" for key, text in headers.items()]
    assert dialled(server, f"Host: 127.0.0.1:{server.port}", *lines) == 403


def test_a_named_origin_makes_no_other_host_name_good(server: ComfyServer) -> None:
    assert asked(server, headers={"Host": "evil.example", "Origin": VITE})[0] == 403
    both = f"Host: 127.0.0.1:{server.port}", f"Origin: {VITE}", "Origin: http://evil.example"
    assert dialled(server, *both) == 403


def test_a_program_gets_no_header_that_allows(server: ComfyServer) -> None:
    assert answered(server, "GET", "/prompt", {}) == (200, {})


def test_a_preflight_needs_no_login() -> None:
    """A browser sends none with it."""
    with ComfyServer(cors=[VITE], credentials="secret") as server:
        assert answered(server, "OPTIONS", "/prompt", {"Origin": VITE}) == (200, ALLOWED)
        assert answered(server, "POST", "/prompt", {"Origin": VITE}) == (401, ALLOWED)


def test_a_star_allows_every_page_as_comfyui_does() -> None:
    with ComfyServer(cors=["*"]) as server:
        for headers in ({"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}, {}):
            status, allowed = answered(server, "GET", "/prompt", headers)
            assert (status, allowed["access-control-allow-origin"]) == (200, "*")
        assert asked(server, headers={"Host": "evil.example"})[0] == 403
        url = f"ws://127.0.0.1:{server.port}/ws"
        with closing(websocket.create_connection(url, LIMIT, origin="http://a.example")) as ws:
            assert json.loads(ws.recv())["type"] == "status"


def test_pages_of_named_origins_may_not_control_a_server() -> None:
    with ComfyServer(control=True, cors=[VITE, "*"]) as server:
        url = f"{server.control_url}/health"
        assert requests.get(url, timeout=LIMIT).status_code == 200
        for method in ("GET", "OPTIONS"):
            answer = requests.request(method, url, headers={"Origin": VITE}, timeout=LIMIT)
            assert answer.status_code == 403
            assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize(
    ("cors", "error"),
    [
        (VITE, TypeError),
        (None, TypeError),
        ([5], ValueError),
        (["localhost:5173"], ValueError),
        ([f"{VITE}/"], ValueError),
        (["http://localhost:80"], ValueError),
    ],
    ids=str,
)
def test_wrong_origins_are_one_clear_error(cors: Any, error: type[Exception]) -> None:
    """A browser sends neither a path nor the port that the scheme has anyway."""
    with pytest.raises(error, match=r"cors must be a list|an origin looks like"):
        ComfyServer(cors=cors)
