"""Faults as an agent meets them: one run at most, told truly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from comfy_client import ComfyApi, Workflow
from comfy_client.testing import ComfyServer, Request
from tests.helpers.agents import Agent, agent_of
from tests.helpers.clients import Fast
from tests.helpers.long import few
from tests.helpers.scripted import posts

SMALL = {"size": [64, 64], "Sampler.steps": 2}


class Case(NamedTuple):
    """What happens, how the call is answered, and how many prompts were sent and ran."""

    begin: Callable[[ComfyServer], object]
    status: str
    code: str | None
    sent: int
    ran: int


def _answered_502(comfy: ComfyServer) -> None:
    def lost(request: Request) -> Any:
        comfy.answer(request)
        return 502, {}, "bad gateway"

    comfy.on("POST", "/prompt", lost)


CASES = {
    "the answer is lost": Case(
        lambda comfy: comfy.faults.cut("POST", "/prompt", ran=True, times=1),
        *("succeeded", None, 1, 1),
    ),
    "a gateway answers": Case(_answered_502, "succeeded", None, 1, 1),
    "the submission never arrives": Case(
        lambda comfy: comfy.faults.cut("POST", "/prompt", reset=True, times=1),
        *("unknown", "submit_uncertain", 1, 0),
    ),
    "no socket": Case(lambda comfy: comfy.faults.refuse_sockets(), "succeeded", None, 1, 1),
    "a deaf socket": Case(lambda comfy: comfy.faults.deaf(), "succeeded", None, 1, 1),
    "the end is not told": Case(
        lambda comfy: comfy.faults.lose("execution_success", "executing", "executed"),
        *("succeeded", None, 1, 1),
    ),
    "a late history": Case(lambda comfy: comfy.faults.late_history(0.5), "succeeded", None, 1, 1),
    "a node fails": Case(
        lambda comfy: comfy.faults.node_fails("KSampler"), "failed", "job_failed", 1, 1
    ),
    "no memory": Case(
        lambda comfy: comfy.faults.out_of_memory("KSampler"), "failed", "job_failed", 1, 1
    ),
    "a login page": Case(
        lambda comfy: comfy.faults.login_page(), "not_sent", "unexpected_response", 0, 0
    ),
    "another id": Case(lambda comfy: comfy.faults.other_prompt_ids(), "succeeded", None, 1, 1),
    "no thumbnail": Case(
        lambda comfy: comfy.faults.missing("GET", "/view"), "succeeded", None, 1, 1
    ),
    "no server": Case(lambda comfy: comfy.kill(), "not_sent", "server_unreachable", 0, 0),
}


@pytest.fixture
def agent(comfy: ComfyServer, tmp_path: Path) -> Iterator[Agent]:
    Workflow.example().save(tmp_path / "draw.json")
    with agent_of(comfy.url, tmp_path, client=Fast) as agent:
        yield agent


@pytest.mark.timing(look_up=0.5)
@pytest.mark.parametrize("name", few(CASES, 5))
def test_a_fault_is_told_truly_and_nothing_runs_twice(
    comfy: ComfyServer, agent: Agent, name: str
) -> None:
    """Each answer has the id, and an error the next step."""
    case = CASES[name]
    case.begin(comfy)
    answer = agent("run", workflow="draw.json", inputs=SMALL)
    assert (answer["status"], answer.facts.get("code")) == (case.status, case.code)
    assert answer["prompt_id"]
    assert answer.is_error == (case.code is not None)
    assert bool(answer.facts.get("next")) == answer.is_error
    assert (len(posts(comfy)), len(comfy.ran)) == (case.sent, case.ran)


def test_a_failing_node_is_named_with_its_error(comfy: ComfyServer, agent: Agent) -> None:
    """And whether memory was short."""
    comfy.faults.out_of_memory("KSampler")
    answer = agent("run", workflow="draw.json", inputs=SMALL)
    assert (answer.data["title"], answer.data["class_type"]) == ("Sampler", "KSampler")
    assert answer.data["is_out_of_memory"] is True


def test_an_uncertain_submission_with_a_key_is_looked_up_before_it_is_sent_again(
    comfy: ComfyServer, agent: Agent
) -> None:
    """It arrives late, so the second call finds it."""
    call = {"workflow": "draw.json", "inputs": SMALL, "key": "k"}
    with comfy.faults.cut("POST", "/prompt", ran=True, times=1):
        first = agent("run", **call)
    assert agent("run", **call)["prompt_id"] == first["prompt_id"]
    assert len(posts(comfy)) == len(comfy.ran) == 1


def test_the_connection_is_diagnosed(comfy: ComfyServer, agent: Agent) -> None:
    """In one line; an agent can do nothing else about it."""
    assert agent("server")["connection"] == "sound"
    comfy.kill()
    answer = agent("server")
    assert (answer["code"], answer.is_error) == ("server_away", True)
    assert answer.data["message"]


def test_a_job_that_nobody_knows_is_told(agent: Agent) -> None:
    """With where to look."""
    answer = agent("job", prompt_id="00000000-0000-4000-8000-000000000000")
    assert (answer["code"], answer.is_error) == ("job_not_found", True)
    assert "server()" in answer["next"]
    assert agent("job", prompt_id="../queue")["code"] in ("invalid_value", "job_not_found")


def test_an_answer_that_does_not_come_is_told_with_its_own_limit(
    comfy: ComfyServer, tmp_path: Path
) -> None:
    """The client waits less long than a call."""

    class Impatient(ComfyApi):
        def __init__(self, url: str, timeout: object) -> None:
            super().__init__(url, timeout=(5.0, 0.3))

    with (
        agent_of(comfy.url, tmp_path, client=Impatient, longest_call=20) as agent,
        comfy.faults.delay("GET", "/object_info*"),
    ):
        answer = agent("nodes", **{"class": "KSampler"})
    assert answer["code"] == "request_timeout"
    assert "20 s" not in answer.data["message"]
