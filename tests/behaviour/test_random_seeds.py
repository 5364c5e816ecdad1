"""Seeds that are drawn when a prompt is submitted: ``"random"`` and -1."""

from __future__ import annotations

from typing import Any

import pytest

from comfy_client import ComfyApi, Workflow
from comfy_client.testing import ComfyServer
from tests.helpers.graphs import txt2img


def sent(server: ComfyServer) -> list[Any]:
    """The seeds of all prompts that the server got."""
    bodies = [
        one.json() for one in server.requests if (one.method, one.path) == ("POST", "/prompt")
    ]
    return [body["prompt"]["3"]["inputs"]["seed"] for body in bodies]


@pytest.mark.parametrize("seed", ["random", -1])
def test_each_run_draws_a_seed_and_the_result_has_it(server, api, seed) -> None:
    """The workflow keeps its word."""
    workflow = Workflow.load(txt2img(seed))
    results = [api.run(workflow), api.submit(workflow).result(30), api.run(txt2img(seed))]
    seeds = [result.seeds["3"] for result in results]
    assert sent(server) == seeds
    assert len(set(seeds)) == 3
    assert all(0 <= each < 2**64 for each in seeds)
    assert not any(result.fully_cached for result in results)
    assert workflow == Workflow.load(txt2img(seed))


def test_an_input_of_a_run_may_be_random_too(server, api) -> None:
    """As in any place where values are given."""
    result = api.run(txt2img(), {"KSampler.seed": "random"})
    assert sent(server) == [result.seeds["3"]] != [1]


def test_append_prompt_draws_one_too(server, api) -> None:
    """It has no result to tell, but the history has it."""
    api.append_prompt(txt2img("random"))
    assert isinstance(sent(server)[0], int)


def test_map_draws_a_seed_for_each_prompt(server, api) -> None:
    """Also of one workflow again and again."""
    results = [*api.map(txt2img(), [{"KSampler.seed": "random"}] * 2), *api.map([txt2img(-1)] * 2)]
    assert sorted(sent(server)) == sorted(result.seeds["3"] for result in results)
    assert len(set(sent(server))) == 4


def test_a_sweep_draws_a_seed_for_each_row(server, api) -> None:
    """Rows keep the word as parameter; their results tell the seed."""
    rows = api.sweep(txt2img(), {"KSampler.seed": ["random", -1], "KSampler.cfg": [4, 8]})
    assert [row.params["KSampler.seed"] for row in rows] == ["random", "random", -1, -1]
    assert {row.result.seeds["3"] for row in rows} == set(sent(server))
    assert len(set(sent(server))) == 4


def test_the_journal_keeps_the_seeds_that_were_drawn(server, api, journal) -> None:
    """The same call again runs nothing, and tells the same seeds."""
    grid = {"KSampler.seed": ["random", "random"]}
    first, second = (api.sweep(txt2img(), grid, journal=journal) for _ in range(2))
    assert [row.result.seeds for row in second] == [row.result.seeds for row in first]
    assert all(row.from_journal for row in second)
    assert len(sent(server)) == 2


def test_random_seeds_are_read_from_the_server_by_another_client(server, api) -> None:
    """The workflow that it is given does not know it."""
    job = api.submit(txt2img("random"))
    seeds = job.result(30).seeds
    with ComfyApi(server.url) as other:
        assert other.job(job.prompt_id, txt2img("random")).result(30).seeds == seeds
