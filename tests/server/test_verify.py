"""``server.verify()`` and ``POST /verify``: which requests a program has sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from comfy_client.testing import ComfyServer
from tests.helpers.bare import get, post
from tests.helpers.control import call
from tests.helpers.graphs import txt2img


@pytest.fixture(scope="module")
def server() -> Iterator[ComfyServer]:
    """One that has received a prompt and a few other requests."""
    with ComfyServer(control=True, step_seconds=0) as running:
        post(running, "/api/prompt", {"prompt": txt2img(text="A  white cat\non a mat")})
        get(running, "/queue")
        get(running, "/history")
        get(running, "/history")
        yield running


def told(server: ComfyServer, **asked: Any) -> tuple[bool, int]:
    """Whether Python and HTTP say that it is right, and how many requests fit; they agree."""
    status, content = call(server, "POST", "/verify", asked)
    if status == 417:
        with pytest.raises(AssertionError) as failed:
            server.verify(**asked)
        assert str(failed.value).startswith(content["error"]["message"])
        return False, content["count"]
    found = server.verify(**asked)
    assert (status, content["ids"]) == (200, [request.number for request in found])
    return True, len(found)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("white cat", True),
        ("a white cat on", True),
        ("WHITE", True),
        ("euler", True),  # any text
        ("cat white", False),
        ("dog", False),
        ("KSampler", False),  # no input
        ("1", False),  # no text
    ],
)
def test_the_text_of_a_prompt_is_found_whatever_its_case_and_spaces(
    server: ComfyServer, text: str, fits: bool
) -> None:
    assert told(server, text_contains=text) == (fits, int(fits))


@pytest.mark.parametrize(
    ("asked", "right"),
    [
        ({}, (True, 4)),
        ({"method": "get", "count": 3}, (True, 3)),
        ({"path": "/hist*", "count": {"min": 1, "max": 2}}, (True, 2)),
        ({"path": "/hist*", "count": {"max": 1}}, (False, 2)),
        ({"path": "/prompt", "count": 0}, (False, 1)),
        ({"path": "/nope", "count": 0}, (True, 0)),
        ({"body_contains": {"prompt": {"3": {"inputs": {"steps": 3}}}}}, (True, 1)),
        ({"body_contains": {"prompt": {"3": {"inputs": {"steps": 4}}}}}, (False, 0)),
        ({"body_contains": {"prompt": {}}, "text_contains": "cat"}, (True, 1)),
        ({"body_contains": {"nope": {}}, "text_contains": "cat"}, (False, 0)),
    ],
    ids=str,
)
def test_verification_is_the_same_in_python_and_over_http(
    server: ComfyServer, asked: dict[str, Any], right: tuple[bool, int]
) -> None:
    assert told(server, **asked) == right


def test_a_failed_verification_shows_the_three_nearest_requests(server: ComfyServer) -> None:
    with pytest.raises(AssertionError) as failed:
        server.verify("POST", "/prompt", text_contains="white dog")
    first, nearest, *others = str(failed.value).split("\n")
    assert first == "0 requests fit, not 1 or more"
    assert nearest.startswith('  POST /api/prompt {"prompt": ')
    assert len(others) == 2
    asked = {"method": "POST", "path": "/prompt", "text_contains": "white dog"}
    shown = call(server, "POST", "/verify", asked)[1]["nearest"]
    assert (shown[0]["method"], shown[0]["path"], len(shown)) == ("POST", "/api/prompt", 3)


def test_a_server_without_requests_says_so() -> None:
    server = ComfyServer()
    with pytest.raises(AssertionError, match="there was no request at all"):
        server.verify()
    assert server.verify(count=0) == []


@pytest.mark.parametrize(
    "asked",
    [
        {"method": 5},
        {"path": 5},
        {"text_contains": 5},
        {"body_contains": json.loads('{"a": ' * 150 + "{}" + "}" * 150)},
        {"body_contains": json.loads("[" * 900 + "]" * 900)},
        {"count": -1},
        {"count": True},
        {"count": "1"},
        {"count": {"least": 1}},
        {"count": {"min": 2, "max": 1}},
    ],
    ids=lambda asked: str(asked)[:60],
)
def test_wrong_questions_are_refused(server: ComfyServer, asked: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|of 0 or more|nested more than"):
        server.verify(**asked)
    assert call(server, "POST", "/verify", asked)[0] == 400
