"""Where routes live: below ``/api``, or not, as on servers before June 2024."""

from __future__ import annotations

from typing import Any

import pytest

from comfy_client import models
from comfy_client.errors import (
    NotFound,
    NotSupported,
)
from comfy_client.testing import ComfyServer, Request
from comfy_client.transport.http import Http
from tests.helpers.clients import (
    LIMIT,
    Fast,
    Heard,
)
from tests.helpers.gates import check_once, saves
from tests.helpers.http import (
    opened,
)
from tests.helpers.march_2024 import March2024


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
def test_a_failing_prompt_route_is_not_reported_as_no_comfyui(
    comfy: ComfyServer, status: int
) -> None:
    """A proxy that wants a password for it, or whose server is away."""
    comfy.on("GET", "/prompt", (status, {}, None))
    with opened(comfy.url) as http, pytest.raises(NotSupported):
        http.request("GET", "/no/such")


def test_a_whole_run_on_a_server_without_the_prefix(comfy: ComfyServer) -> None:
    """Found out at once, and remembered; the jobs API has no other place."""
    comfy.faults.missing("*", "/api/*")
    comfy.faults.missing("*", "/features")
    with Fast(comfy.url) as api:
        told = Heard(api)
        check_once(comfy, told, api.run(saves(1), timeout=LIMIT))
        check_once(comfy, told, api.run(saves(2), timeout=LIMIT))
        assert api.get_features() == models.Features()
        with pytest.raises(NotSupported):
            api.get_jobs()
        paths = [r.full_path for r in comfy.requests]
        first = next(n for n, path in enumerate(paths) if not path.startswith("/api/"))
        assert first <= 2
        assert [path for path in paths[first:] if path.startswith("/api/")] == ["/api/jobs"]
