"""The raw-socket server that tests of hostile servers use is a ComfyUI as long as it is polite."""

from __future__ import annotations

from comfy_client import ComfyApi
from tests.hostile.server import GRAPH, Comfy, answer, greet


def test_a_polite_server_runs_a_prompt_with_a_socket_and_without() -> None:
    """So what fails on a server that lies, fails for the lie."""
    with Comfy() as server:
        for server.ws in (None, greet):
            with ComfyApi(server.url) as api:
                result = api.run(GRAPH, timeout=20)
                assert result.images[0].filename == "a.png"
                assert result.images[0].bytes() == server.content


def test_a_lie_replaces_the_polite_answer() -> None:
    """By method and path; one that gives False leaves the answer as it is."""
    with Comfy() as server, ComfyApi(server.url, transport="poll") as api:
        for lie, told in (
            (lambda _: False, 0),
            (lambda _: answer(body={"exec_info": {"queue_remaining": 7}}), 7),
        ):
            server.lies = {"POST /prompt": lambda _: answer(500), "GET /prompt": lie}
            assert api.poll_status().queue_remaining == told
