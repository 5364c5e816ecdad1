"""Six situations that agents get into, over stdio and HTTP, with a count of the runs of each.

The commands are those that hosts start, and the client is the official one.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest

from comfy_client import ComfyApi
from tests.contract.conftest import Server
from tests.contract.test_runs import picture, sleeper, until
from tests.helpers.agents import Agent, agent_on_stdio, agent_over_http, http_door
from tests.helpers.command_line import CommandLine
from tests.helpers.middle import Middle, lost

LIMIT = 180.0


@pytest.fixture(scope="module")
def middle(other: Server) -> Iterator[Middle]:
    """What stands between the command and the server."""
    with Middle(other.port) as middle:
        yield middle


@pytest.fixture(scope="module", params=["stdio", pytest.param("http", marks=pytest.mark.long)])
def agent(
    request: pytest.FixtureRequest, middle: Middle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Agent]:
    command = CommandLine(tmp_path_factory.mktemp("host"), middle.url)
    if request.param == "stdio":
        with agent_on_stdio(command) as agent:
            yield agent
    else:
        with http_door(command) as url, agent_over_http(url) as agent:
            yield agent


@pytest.fixture
def api(other: Server) -> Iterator[ComfyApi]:
    with ComfyApi(other.url) as api:
        yield api


class Count:
    """How often a prompt was sent, and how many have run, since this was made."""

    def __init__(self, middle: Middle, api: ComfyApi) -> None:
        self._middle, self._api = middle, api
        self._before = self._now()

    def _now(self) -> tuple[int, int]:
        asked = [one for one in self._middle.asked if one.method == "POST"]
        sent = [one for one in asked if one.path.endswith("/prompt")]
        return len(sent), len(self._api.get_histories(None))

    def __call__(self) -> tuple[int, int]:
        """The prompts that were sent, and those that have run."""
        return self._now()[0] - self._before[0], self._now()[1] - self._before[1]


@pytest.fixture
def count(middle: Middle, api: ComfyApi) -> Count:
    return Count(middle, api)


def test_a_good_run_runs_once(agent: Agent, count: Count) -> None:
    """Its picture comes small, and whole as a resource."""
    answer = agent("run", workflow=picture(), inputs={"Colour.width": 48})
    assert (answer["status"], answer.is_error, len(answer.pictures)) == ("succeeded", False, 1)
    content = agent.read(answer.links[0].uri)
    assert base64.b64decode(content.blob)[:4] == b"\x89PNG"  # type: ignore[union-attr]
    assert count() == (1, 1)


def test_a_wrong_value_is_not_sent(agent: Agent, count: Count) -> None:
    """The answer names node, input and limit."""
    answer = agent("run", workflow=picture(width=-5))
    assert (answer["status"], answer.is_error) == ("not_sent", True)
    assert "Colour" in answer.data["problems"][0]["text"]
    assert "width" in answer.data["problems"][0]["text"]
    assert count() == (0, 0)


def test_a_workflow_runs_in_whole_or_not_at_all(agent: Agent, count: Count) -> None:
    """One of two outputs lacks an input."""
    graph = picture()
    graph["half"] = {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}}
    answer = agent("run", workflow=graph)
    assert (answer["status"], answer.is_error) == ("not_sent", True)
    assert "filename_prefix" in answer.data["problems"][0]["text"]
    assert count() == (0, 0)


def test_a_lost_answer_to_the_submission_costs_nothing(
    agent: Agent, middle: Middle, count: Count
) -> None:
    """It was accepted; so it is found, and not sent again."""
    with middle.rule("POST", "*/prompt", lost, times=1) as rule:
        answer = agent("run", workflow=picture())
    assert len(rule.met) == 1
    assert (answer["status"], len(answer.links)) == ("succeeded", 1)
    assert count() == (1, 1)


def test_a_cancelled_call_stops_its_prompt_and_no_other(
    agent: Agent, api: ComfyApi, count: Count
) -> None:
    """One of another client that waits behind it runs."""
    call = agent.begin("run", workflow=sleeper())
    until(lambda: api.get_queue().running)
    [ours] = api.get_queue().running
    foreign = api.submit(picture())
    call.cancel()
    assert len(foreign.result(LIMIT).files) == 1
    answer = agent("job", prompt_id=ours.prompt_id)
    assert (answer["status"], answer["code"]) == ("interrupted", "job_interrupted")
    assert count()[0] == 1


def test_a_restart_of_the_server_in_the_run_is_told(
    agent: Agent, other: Server, api: ComfyApi, count: Count
) -> None:
    """With what to do; the next run is right."""
    call = agent.begin("run", workflow=sleeper())
    until(lambda: api.get_queue().running)
    [ours] = api.get_queue().running
    other.kill()
    other.start()
    answer = call.result(LIMIT)
    assert (answer["status"], answer["code"]) == ("lost", "job_lost")
    assert answer["prompt_id"] == ours.prompt_id
    assert "run it again" in answer["next"]
    assert count()[0] == 1
    assert agent("run", workflow=picture())["status"] == "succeeded"
