"""Checks of workflows through a client: nothing is sent, and a rejection reads the same."""

from __future__ import annotations

from typing import Any

import pytest

from comfy_client import ComfyApi, Workflow
from comfy_client.errors import PromptRejected, RequestTimeout, WorkflowError
from comfy_client.testing import ComfyServer
from tests.helpers.clients import LIMIT, Heard, quickly
from tests.helpers.graphs import txt2img
from tests.helpers.scripted import asked, posts


def broken() -> dict[str, Any]:
    """A workflow with two faults that the server would name."""
    graph = txt2img()
    for node in graph.values():
        if node["class_type"] == "KSampler":
            node["inputs"] |= {"steps": 0, "sampler_name": "eular"}
    return graph


@pytest.mark.parametrize("method", ["run", "submit"])
def test_check_sends_nothing_that_is_wrong(comfy: ComfyServer, fast: ComfyApi, method: str) -> None:
    """It fires ``queue_error``, as every submission that fails."""
    told = Heard(fast)
    with pytest.raises(WorkflowError, match="steps = 0 is too small") as caught:
        getattr(fast, method)(broken(), check=True)
    assert {problem.input for problem in caught.value.problems} == {"steps", "sampler_name"}
    assert not posts(comfy)
    comfy.until(lambda: told("queue_error"), LIMIT)


def test_check_runs_what_is_right(comfy: ComfyServer, fast: ComfyApi) -> None:
    """With the definitions of its classes alone, and those but once."""
    assert fast.run(txt2img(), check=True, timeout=LIMIT).images
    before = len(asked(comfy, "/object_info"))
    assert before == len({node["class_type"] for node in txt2img().values()})
    assert fast.run(txt2img(), check=True, timeout=LIMIT).images
    assert len(asked(comfy, "/object_info")) == before


def test_a_rejection_knows_choices_that_the_server_does_not_list(
    comfy: ComfyServer, fast: ComfyApi
) -> None:
    """It lists 20 at the most; one question more tells the nearest."""
    with pytest.raises(PromptRejected, match="nearest: 'euler'") as caught:
        fast.run(broken())
    report = Workflow.load(broken()).check(fast)
    texts = {problem.text for problem in caught.value.problems}
    assert texts == {problem.text for problem in report.errors}
    comfy.faults.missing("GET", "/object_info*")  # no hint is worth a failure
    with pytest.raises(PromptRejected, match="too many to list"):
        fast.run(broken())


def test_check_sees_the_values_of_this_run(comfy: ComfyServer, fast: ComfyApi) -> None:
    with pytest.raises(WorkflowError, match="steps = 0"):
        fast.run(txt2img(), {"KSampler.steps": 0}, check=True)
    targets = ["no such node"]
    with pytest.raises(WorkflowError, match="output"):
        fast.run(txt2img(), check=True, partial_execution_targets=targets)
    assert not posts(comfy)


def test_the_timeout_of_a_run_holds_for_its_check(comfy: ComfyServer, fast: ComfyApi) -> None:
    """Definitions may take long."""
    comfy.faults.delay("GET", "/object_info*")
    with quickly(), pytest.raises(RequestTimeout):
        fast.run(txt2img(), check=True, timeout=0.3)
    assert not posts(comfy)


def test_a_rejection_is_explained_as_a_check_is(comfy: ComfyServer, fast: ComfyApi) -> None:
    """The same problems with the same words; the check knows more of what would be right."""
    report = Workflow(broken()).check(fast)
    with pytest.raises(PromptRejected) as caught:
        fast.run(broken())
    told = {(one.node_id, one.input, one.type, one.message) for one in caught.value.problems}
    assert told == {(one.node_id, one.input, one.type, one.message) for one in report.errors}
    assert not report.accepted
    assert all(one.text in str(caught.value) for one in caught.value.problems)


def test_an_uploaded_file_is_there_at_once(comfy: ComfyServer, fast: ComfyApi) -> None:
    """Though the definitions are older than it."""
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "late.png"}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    assert not Workflow(graph).check(fast).ok
    (comfy.root / "input" / "late.png").write_bytes(b"")
    assert Workflow(graph).check(fast).ok


def test_a_missing_class_costs_one_look_at_all(comfy: ComfyServer, fast: ComfyApi) -> None:
    """The nearest names are out of all that the server has."""
    graph = txt2img()
    next(n for n in graph.values() if n["class_type"] == "KSampler")["class_type"] = "KSamplr"
    (problem,) = Workflow(graph).check(fast).errors
    assert problem.candidates[0] == "KSampler"
    assert len([r for r in asked(comfy, "/object_info") if r.path == "/object_info"]) == 1


def test_a_newest_server_says_what_it_replaces() -> None:
    """``GET /node_replacements`` is asked for when a class is missing."""
    with ComfyServer(version="0.28") as server, ComfyApi(server.url) as api:
        graph = {
            "1": {"class_type": "T2IAdapterLoader", "inputs": {"t2i_adapter_name": "x.pth"}},
            "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
        }
        found = Workflow(graph).check(api).problems
        assert len(asked(server, "/node_replacements")) == 1
        (note,) = (problem for problem in found if problem.type == "node_replaced")
        assert "puts 'ControlNetLoader' in its place" in note.message


class CustomCombo:
    """Takes whatever the page made up, as ComfyUI's own class does."""

    RETURN_TYPES = ("STRING",)
    FUNCTION = "choose"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"choice": ("COMBO", {"options": []})}}

    @classmethod
    def VALIDATE_INPUTS(cls, choice: str, **others: Any) -> bool:
        return True

    def choose(self, choice: str) -> tuple[str]:
        return (choice,)


def test_values_that_the_server_does_not_check_run_with_check() -> None:
    """A class with a check of its own takes what its definition does not list."""
    graph = {
        "1": {"class_type": "CustomCombo", "inputs": {"choice": "mine"}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }
    with ComfyServer(version="0.28") as server, ComfyApi(server.url) as api:
        server.add_node(CustomCombo)
        assert Workflow(graph).check(api).problems == ()
        assert api.run(graph, check=True, timeout=LIMIT).texts == ("mine",)


def test_a_picture_of_the_output_folder_is_asked_for() -> None:
    """Choices have only what is in the input folder."""
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "late.png [output]"}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    with ComfyServer(version="0.28") as server, ComfyApi(server.url) as api:
        (problem,) = Workflow(graph).check(api).errors
        assert (problem.type, problem.input) == ("custom_validation_failed", "image")
        (server.root / "output" / "late.png").write_bytes(b"")
        assert Workflow(graph).check(api).ok


#: A file in UI format with a model that no server has, and where it says that it is.
SAVED: dict[str, Any] = {
    "nodes": [
        {
            "id": 4,
            "type": "CheckpointLoaderSimple",
            "inputs": [],
            "outputs": [{"name": "MODEL", "type": "MODEL"}, {"name": "VAE", "type": "VAE"}],
            "properties": {
                "models": [
                    {
                        "name": "far.safetensors",
                        "url": "https://models.example/far.safetensors",
                        "directory": "checkpoints",
                    }
                ]
            },
            "widgets_values": ["far.safetensors"],
        },
        {
            "id": 5,
            "type": "PreviewAny",
            "inputs": [{"name": "source", "type": "*", "link": 1}],
            "outputs": [],
            "properties": {},
            "widgets_values": [],
        },
    ],
    "links": [[1, 4, 0, 5, 0, "MODEL"]],
    "version": 0.4,
}
WHERE = "the workflow says: https://models.example/far.safetensors, into models/checkpoints"


def test_a_rejection_says_where_a_missing_model_is(fast: ComfyApi) -> None:
    """As the check does, and the list of missing models."""
    workflow = Workflow.load(SAVED, fast)
    with pytest.raises(PromptRejected) as caught:
        fast.run(SAVED, timeout=LIMIT)
    assert WHERE in str(caught.value)
    assert WHERE in (caught.value.problems[0].hint or "")
    assert WHERE in str(workflow.check(fast))
    assert [model.name for model in workflow.missing_models(fast)] == ["far.safetensors"]
