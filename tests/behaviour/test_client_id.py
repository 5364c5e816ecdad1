"""A client id that the server refuses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from comfy_client import (
    SubmitUncertain,
)
from comfy_client.testing import PROMPT_ID, Answer, ComfyServer, Request
from comfy_client.transport.websocket import State
from tests.helpers.clients import Quick, until
from tests.helpers.scripted import END, GRAPH, posts


@contextlib.contextmanager
def let_in_no_more(comfy: ComfyServer) -> Iterator[None]:
    """Whoever dials in here is closed with 1008, once, so that its client_id is renewed."""
    refusal = b"\x88\x02" + (1008).to_bytes(2, "big")

    def refuse(request: Request) -> None:
        status, headers, _ = comfy.answer(request)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        request.socket.sendall(f"HTTP/1.1 {status} Ok\r\n{lines}\r\n".encode() + refusal)
        fault.end()

    refused = comfy.hellos[-1]
    fault = comfy.on("GET", "/ws", refuse)
    comfy.faults.drop()
    yield
    until(lambda: comfy.hellos[-1] != refused)


pytestmark = pytest.mark.usefixtures("prompts_wait")


def test_a_client_that_is_let_in_no_more_goes_on_under_a_fresh_id(
    comfy: ComfyServer, caplog: pytest.LogCaptureFixture
) -> None:
    """What was under way ends over HTTP, once; what comes then has its events again."""
    comfy.script({"type": "execution_success", "data": {"prompt_id": PROMPT_ID}}, *END)
    script = comfy.script()
    with Quick(comfy.url, client_id="mine").init() as api:
        ends: list[Any] = []
        api.on("all", lambda event: ends.append(event) if event.is_end else None)
        running, waiting = api.submit(GRAPH), api.submit(GRAPH)
        with let_in_no_more(comfy):
            pass
        assert api.client_id == comfy.hellos[-1]
        assert caplog.text.count("code 1008") == 1
        for job in (running, waiting):
            comfy.finish(job.prompt_id)
            job.result(60)
        script.end()
        last = api.submit(GRAPH)
        last.result(60)
        assert [(event.prompt_id, event.recovered) for event in ends] == [
            (running.prompt_id, True),
            (waiting.prompt_id, True),
            (last.prompt_id, False),
        ]
        posted = [r.json() for r in comfy.requests if (r.method, r.path) == ("POST", "/prompt")]
        assert [body["client_id"] for body in posted] == ["mine", "mine", api.client_id]


def test_a_submission_is_found_by_its_mark_although_the_client_id_was_renewed(
    comfy: ComfyServer,
) -> None:
    """On a server that chooses the ids: while it is looked up, and when it is attached to later."""
    comfy.faults.other_prompt_ids()
    with Quick(comfy.url, client_id="mine").init() as api:

        def late(request: Request) -> Answer | None:
            if api.client_id == "mine":
                with let_in_no_more(comfy):
                    pass
            return comfy.answer(request)

        comfy.faults.cut("POST", "/prompt", ran=True, times=1)
        queue = comfy.on("GET", "/queue", late)
        job = api.submit(GRAPH)
        assert api.client_id != "mine"
        comfy.finish(job.prompt_id)
        job.result(60)
        queue.end()

        comfy.faults.cut("POST", "/prompt", ran=True, times=1)
        queue = comfy.faults.missing("GET", "/queue")
        with pytest.raises(SubmitUncertain) as caught:
            api.run(GRAPH, timeout=0.1)
        queue.end()
        with let_in_no_more(comfy):
            pass
        job = api.job(caught.value.prompt_id)
        assert job.prompt_id != caught.value.prompt_id
        comfy.finish(job.prompt_id)
        job.result(60)


def test_a_submission_goes_out_under_the_id_of_the_socket_that_came_meanwhile(
    comfy: ComfyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the socket, and meanwhile the server may refuse the id that it began with."""
    with contextlib.closing(Quick(comfy.url, client_id="refused")) as api:
        connection = api.parts.connection
        settled = connection.wait_settled

        def renewed(*args: Any, **options: Any) -> State:
            state = settled(*args, **options)
            connection.client_id = "renewed"
            return state

        monkeypatch.setattr(connection, "wait_settled", renewed)
        api.submit(GRAPH)
    [posted] = posts(comfy)
    assert posted.json()["client_id"] == "renewed"
