"""A submission without an answer is looked for, and never sent twice."""

from __future__ import annotations

import contextlib
import threading
import uuid
from typing import Any

import pytest

from comfy_client import ComfyApi
from comfy_client.errors import (
    PromptRejected,
    ServerUnreachable,
    SubmitUncertain,
    UnexpectedResponse,
)
from comfy_client.testing import ComfyServer, Request, never_answer
from tests.helpers.clients import (
    LIMIT,
    Fast,
    Heard,
    outstanding,
    quickly,
)
from tests.helpers.gates import check_once, saves, shows
from tests.helpers.scripted import (
    GRAPH,
    WELL,
    answer_late,
    check,
    posts,
)


@pytest.mark.parametrize("is_early", [True, False], ids=["events first", "answer first"])
@pytest.mark.parametrize("steps", [WELL, WELL[:4] + WELL[5:]], ids=["now", "2024-03"])
def test_the_id_that_the_server_chose_counts(comfy, fast, steps, is_early):
    """A server of 2024 ignores ours; its end event, or ours for it, fires once."""
    told = Heard(fast)
    comfy.faults.other_prompt_ids()
    if is_early:
        answer_late(comfy)
    comfy.script(*steps)
    events = []
    result = fast.run(GRAPH, timeout=LIMIT, on_event=events.append)
    check(result)
    assert result.prompt_id in comfy.history
    assert [e.name for e in told.ends()] == ["execution_success"]
    assert [e.name for e in events if e.is_end] == ["execution_success"]
    assert {e.prompt_id for e in events} == {result.prompt_id}


@pytest.mark.parametrize("keeps_id", [True, False], ids=["our id", "an id of its own"])
@pytest.mark.parametrize("transport", ["auto", "poll"])
@pytest.mark.parametrize("is_over", [True, False], ids=["in history", "in the queue"])
def test_a_submission_without_an_answer_is_found_and_not_repeated(
    comfy, keeps_id, transport, is_over
):
    """Queued, but the answer was lost: one POST, one result, by our id or our mark."""
    go = threading.Event()

    def handler(request):
        answer = comfy.answer(request)
        if is_over:
            go.set()
            comfy.until(lambda: answer[2]["prompt_id"] in comfy.history, LIMIT)

    comfy.on("POST", "/prompt", handler)
    if not keeps_id:
        comfy.faults.other_prompt_ids()
    comfy.script(lambda _: comfy.faults.deaf(), go, *WELL)
    with Fast(comfy.url, transport=transport) as api:
        job = api.submit(GRAPH)
        assert (job.prompt_id == posts(comfy)[0].json()["prompt_id"]) == keeps_id
        go.set()
        assert len(job.result(LIMIT).files) == 1
    assert len(posts(comfy)) == 1


@pytest.mark.timing(look_up=0.5)
def test_looking_for_a_submission_is_bounded_when_nobody_answers(comfy, fast):
    """Even the queue cannot be asked."""
    comfy.on("POST", "/prompt", lambda request: None)
    comfy.on("GET", "/queue", never_answer)
    with quickly(), pytest.raises(SubmitUncertain):
        fast.run(GRAPH, timeout=2 * LIMIT)


def test_a_refused_submission_leaves_nothing_behind(comfy, fast):
    """No outstanding job, one ``queue_error``."""
    told = Heard(fast)
    comfy.on("POST", "/prompt", (400, {}, {"error": {"type": "prompt_no_outputs"}}))
    with pytest.raises(PromptRejected):
        fast.run(GRAPH, timeout=LIMIT)
    assert outstanding(fast) == []
    comfy.until(lambda: told.names("queue_error"), LIMIT)


def test_a_submission_that_could_not_connect_is_not_uncertain():
    """Nothing was sent."""
    with ComfyServer() as gone:
        url = gone.url
    with contextlib.closing(ComfyApi(url)) as api, pytest.raises(ServerUnreachable):
        api.run(GRAPH, timeout=LIMIT)


@pytest.mark.parametrize("transport", ["auto", "poll"])
@pytest.mark.parametrize("how", ["reset", "fin", "half", "502", "silence"])
def test_a_submission_whose_answer_was_cut_runs_once(
    comfy: ComfyServer, how: str, transport: Any
) -> None:
    """It is found by its id, and runs once."""
    with contextlib.closing(Fast(comfy.url, transport=transport, timeout=(2.0, 1.0))) as api:
        told = Heard(api)
        if how == "502":

            def lost(request: Request) -> Any:
                comfy.answer(request)
                return 502, {}, "bad gateway"

            comfy.on("POST", "/prompt", lost)
        elif how == "silence":
            comfy.faults.delay("POST", "/prompt", ran=True)
        else:
            sent = 10 if how == "half" else None
            comfy.faults.cut("POST", "/prompt", ran=True, reset=how == "reset", sent=sent)
        check_once(comfy, told, api.run(saves(), timeout=LIMIT))
        assert len(posts(comfy)) == len(comfy.ran) == 1


@pytest.mark.timing(look_up=0.5)
def test_a_submission_that_never_arrived_is_uncertain_or_resubmitted(
    comfy: ComfyServer, fast: ComfyApi
) -> None:
    """``SubmitUncertain`` with its id, or sent again if so wished; one run at most."""
    told = Heard(fast)
    with (
        comfy.faults.cut("POST", "/prompt", reset=True, times=1),
        pytest.raises(SubmitUncertain) as caught,
    ):
        fast.run(saves(), timeout=LIMIT)
    assert posts(comfy)[0].json()["prompt_id"] == caught.value.prompt_id
    comfy.until(lambda: told("queue_error"), LIMIT)
    assert comfy.ran == []
    with comfy.faults.cut("POST", "/prompt", reset=True, times=1):
        result = fast.run(saves(), timeout=LIMIT, resubmit=True)
    check_once(comfy, told, result)
    ids = [request.json()["prompt_id"] for request in posts(comfy)]
    assert ids[1:] == [result.prompt_id] * 2
    assert len(comfy.ran) == 1


@pytest.mark.parametrize("cut", [False, True])
def test_an_id_that_the_server_chose_is_found_by_our_mark(
    comfy: ComfyServer, fast: ComfyApi, cut: bool
) -> None:
    """The replied one counts; without a reply our mark tells which it is."""
    told = Heard(fast)
    comfy.faults.other_prompt_ids()
    if cut:
        comfy.faults.cut("POST", "/prompt", ran=True)
    result = fast.run(saves(), timeout=LIMIT)
    check_once(comfy, told, result)
    [ran] = comfy.ran
    assert ran.prompt_id == result.prompt_id
    assert ran.mark == posts(comfy)[0].json()["prompt_id"] != result.prompt_id


def test_ids_are_canonical_uuids() -> None:
    """So that no server refuses them; an odd one of the caller's never leaves."""
    with ComfyServer(version="0.28") as comfy, Fast(comfy.url) as api:
        told = Heard(api)
        check_once(comfy, told, api.run(saves(), timeout=LIMIT))
        sent = posts(comfy)[0].json()["prompt_id"]
        assert sent == str(uuid.UUID(sent))
        for odd in (sent.upper(), "x", sent.replace("-", ""), f"{{{sent}}}"):
            with pytest.raises(ValueError, match="canonical UUID"):
                api.submit(saves(), prompt_id=odd)
        assert len(posts(comfy)) == 1


def test_an_answer_of_a_wrong_kind_counts_and_a_login_page_does_not(
    comfy: ComfyServer, fast: ComfyApi
) -> None:
    with comfy.faults.wrong_mime():
        assert fast.run(shows("a"), timeout=LIMIT).texts == ("a",)
    comfy.until(lambda: [ran.status for ran in comfy.ran] == ["success"], LIMIT)
    with comfy.faults.login_page(), pytest.raises(UnexpectedResponse, match="login page"):
        fast.run(shows("c"), timeout=LIMIT)


@pytest.mark.parametrize("runs", [True, False])
def test_a_prompt_is_looked_for_behind_a_page_in_place_of_the_answer(
    comfy: ComfyServer, fast: ComfyApi, gate: threading.Event, runs: bool
) -> None:
    """One that runs at once has events; one that waits behind another has none yet."""

    def page(request: Any) -> Any:
        comfy.answer(request)
        return (200, {"Content-Type": "text/html"}, "<title>Checked by your firewall</title>")

    first = None
    if not runs:
        first = fast.submit(shows("a", waits=True))
        comfy.until(lambda: comfy.running)
    with comfy.faults.answer("POST", "/prompt", page):
        second = fast.submit(shows("b"))
    gate.set()
    assert second.result(LIMIT).texts == ("b",)
    if first is not None:
        first.result(LIMIT)
