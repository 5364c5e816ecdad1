"""A workflow as the page saves it runs by itself, in every way to run one."""

from __future__ import annotations

from pathlib import Path

import pytest

from comfy_client import ComfyApi, Workflow
from tests.helpers.conformance import pair

WORKFLOWS = Path(__file__).parents[1] / "workflows"
SAVED = WORKFLOWS / "txt2img_ui.json"
LIMIT = 180.0


def test_a_saved_workflow_is_the_graph_that_the_page_exports(api: ComfyApi) -> None:
    """The same workflow, saved and exported."""
    exported = Workflow.load(WORKFLOWS / "txt2img_tiny.json")
    assert Workflow.load(SAVED, api) == exported


def test_a_saved_workflow_runs_by_its_path(api: ComfyApi) -> None:
    """By its path alone, and gives the picture that the exported one gives."""
    changed = {"KSampler.seed": 4321, "KSampler.steps": 2}
    saved = api.run(SAVED, changed, timeout=LIMIT)
    exported = api.run(WORKFLOWS / "txt2img_tiny.json", changed, timeout=LIMIT)
    assert saved.images
    assert [file.bytes() for file in saved.images] == [file.bytes() for file in exported.images]


def test_all_calls_that_run_a_workflow_take_a_saved_one(api: ComfyApi) -> None:
    """submit, append_prompt, map with and without parameters, and sweep."""
    assert api.submit(SAVED).result(timeout=LIMIT).images
    queued = api.append_prompt(SAVED)
    assert api.job(queued.prompt_id).result(timeout=LIMIT).images
    seeds = [{"KSampler.seed": 11, "KSampler.steps": 1}]
    assert [bool(one.images) for one in api.map(SAVED, seeds)] == [True]
    assert [bool(one.images) for one in api.map([SAVED])] == [True]
    rows = api.sweep(SAVED, {"KSampler.seed": [12], "KSampler.steps": [1]})
    assert len([*rows]) == 1


@pytest.mark.real
def test_subgraphs_within_subgraphs_run(api: ComfyApi) -> None:
    """The width is a value of the outermost instance, three levels above its node."""
    file, prompt = pair("crafted158_three_levels")
    assert Workflow.load(file, api).nodes.keys() == prompt.keys()
    (picture,) = api.run(file, timeout=LIMIT).images
    assert picture.bytes()[16:24] == bytes([0, 0, 0, 123, 0, 0, 0, 8])  # width and height of a PNG
