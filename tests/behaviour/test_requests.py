"""What is sent: routes, queries, bodies, headers."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from comfy_client.errors import UnexpectedResponse
from comfy_client.testing import ComfyServer
from comfy_client.transport.http import Http, segment
from tests.helpers.http import (
    opened,
)


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


def test_a_part_of_an_answer_that_nobody_asked_for_is_no_answer(
    comfy: ComfyServer, http: Http
) -> None:
    """As a cache on the way may send it."""
    queue = {"queue_running": [], "queue_pending": []}
    comfy.on("GET", "/queue", (206, {"Content-Range": "bytes 0-43/100"}, queue))
    with pytest.raises(UnexpectedResponse, match="206"):
        http.json("GET", "/queue")


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
