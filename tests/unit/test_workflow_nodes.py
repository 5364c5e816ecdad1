"""Taking nodes out of a workflow: remove and mute."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from comfy_client import Workflow, WorkflowError
from tests.helpers.graphs import txt2img

# -- inputs as attributes ------------------------------------------------------------------


def test_an_input_is_read_and_set_like_an_attribute() -> None:
    """And checked as ever; attributes of the node itself stay what they are."""
    node = Workflow.load(txt2img())["KSampler"]
    node.steps = 4  # type: ignore[attr-defined]  # hidden from type checkers, which know no inputs
    assert (node["steps"], node.steps) == (4, 4)  # type: ignore[attr-defined]  # as above
    assert {"steps", "title"} <= {*dir(node)}
    with pytest.raises(WorkflowError, match="link"):
        node.model = 7  # type: ignore[attr-defined]  # as above
    node.title = "Painter"
    assert (node.title, node.inputs["steps"]) == ("Painter", 4)
    assert copy.deepcopy(node)["steps"] == 4


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("stpes", "has no input 'stpes'; nearest: 'steps'"),
        ("something", "it has 'steps'"),
        ("_private", "no such attribute"),
        ("id", "no setter"),
    ],
)
def test_a_misspelt_attribute_of_a_node_is_no_input_and_is_not_swallowed(
    name: str, told: str
) -> None:
    workflow = Workflow.load(txt2img())
    node = workflow["KSampler"]
    with pytest.raises(AttributeError, match=told):
        setattr(node, name, 4)
    assert workflow == Workflow.load(txt2img())
    if name != "id":
        assert not hasattr(node, name)
        with pytest.raises(AttributeError, match=told):
            getattr(node, name)


# -- remove and mute -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["9", 9, "SaveImage"])
def test_a_node_that_nobody_uses_is_removed(name: Any) -> None:
    """By id or class; the loaded dict keeps it."""
    graph = txt2img()
    workflow = Workflow.load(graph)
    workflow.remove(name)
    assert list(workflow.nodes) == ["3", "4", "5", "6", "7", "8"]
    assert "9" in graph


def test_a_node_that_others_use_is_not_removed_by_accident() -> None:
    """The message names them, and what to do instead; nothing has changed."""
    workflow = Workflow.load(txt2img())
    with pytest.raises(WorkflowError, match=r"input 'samples'.*bypass.*force=True") as caught:
        workflow.remove("KSampler")
    assert caught.value.candidates == ("8.samples",)
    assert workflow == Workflow.load(txt2img())


def test_with_force_links_to_it_go_with_it() -> None:
    """All other inputs stay."""
    workflow = Workflow.load(txt2img())
    workflow.remove("KSampler", force=True)
    assert workflow["8"].inputs == {"vae": ["4", 2]}
    assert "3" not in workflow


def test_mute_is_remove_with_force() -> None:
    """As the page leaves out a node that is muted, and links to it."""
    muted, removed = Workflow.load(txt2img()), Workflow.load(txt2img())
    muted.mute("VAEDecode")
    removed.remove("VAEDecode", force=True)
    assert muted == removed
    assert muted["9"].inputs == {"filename_prefix": "t"}


def test_a_node_in_hand_ends_with_it_and_others_stay_the_same_objects() -> None:
    """It says so, and does not show what is gone."""
    workflow = Workflow.load(txt2img())
    save, sampler = workflow["9"], workflow["3"]
    workflow.remove(save)
    assert workflow["3"] is sampler
    assert repr(save) == "<Node 9, removed>"
    with pytest.raises(WorkflowError, match="'9' was removed"):
        save["images"]
    with pytest.raises(WorkflowError, match="not a node of this workflow"):
        workflow.remove(save)


@pytest.mark.parametrize("how", [Workflow.remove, Workflow.mute])
def test_a_node_of_another_workflow_is_refused(how: Any) -> None:
    """Though it has the same id."""
    with pytest.raises(WorkflowError, match="not a node of this workflow"):
        how(Workflow.load(txt2img()), Workflow.load(txt2img())["9"])
