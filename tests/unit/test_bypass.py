"""Bypassing a node: its users are linked to what it was given, by type."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from comfy_client import Workflow, WorkflowError
from comfy_client.workflow.convert import convert
from tests.helpers.conformance import First, definitions, pairs
from tests.helpers.graphs import node, txt2img


def definition(outputs: str, /, **inputs: Any) -> dict[str, Any]:
    """Of a class with these inputs and outputs, by type."""
    required = {name: [kind, {}] for name, kind in inputs.items()}
    return {"input": {"required": required}, "output": outputs.split()}


MATCHING = ["COMFY_MATCHTYPE_V3", {"template": {"template_id": "t", "allowed_types": "*"}}]
DEFINITIONS: dict[str, Any] = {
    "CheckpointLoaderSimple": definition("MODEL CLIP VAE", ckpt_name=["a"]),
    "LoraLoader": definition(
        "MODEL CLIP", model="MODEL", clip="CLIP", lora_name=["x"], strength_model="FLOAT"
    ),
    "CLIPTextEncode": definition("CONDITIONING", text="STRING", clip="CLIP"),
    "KSampler": definition("LATENT", model="MODEL", seed="INT", positive="CONDITIONING"),
    "Upscale": definition("IMAGE", scale="FLOAT", image="IMAGE", mask="MASK"),
    "Swap": definition("MASK IMAGE", image="IMAGE", mask="MASK"),
    "Any": definition("*", first="IMAGE", second="MASK"),
    "Show": definition("", source="*"),
    "Load": definition("IMAGE MASK"),
    "Number": definition("INT,FLOAT", value="INT"),
    "Blend": definition("IMAGE", image1="IMAGE", image2="IMAGE"),
    "Save": definition("", images="IMAGE", mask="MASK", value="FLOAT"),
    "Switch": {
        "input": {"required": {"off": MATCHING, "on": MATCHING}},
        "output": ["COMFY_MATCHTYPE_V3"],
        "output_matchtypes": ["t"],
    },
}


def lora_graph() -> dict[str, Any]:
    """A LoRA between the loader and all others."""
    graph = {key: txt2img()[key] for key in "34679"}
    lora = node("LoraLoader", model=["4", 0], clip=["4", 1], lora_name="x", strength_model=1.0)
    graph["10"] = lora
    graph["3"]["inputs"] = {"model": ["10", 0], "seed": 1, "positive": ["6", 0]}
    graph["6"]["inputs"]["clip"] = graph["7"]["inputs"]["clip"] = ["10", 1]
    return graph


def test_a_lora_that_is_bypassed_leaves_its_users_linked_to_the_loader() -> None:
    """Each to the output of its type."""
    workflow = Workflow.load(lora_graph())
    assert workflow.bypass("LoraLoader", DEFINITIONS) == []
    assert "10" not in workflow
    assert workflow["3"]["model"] == ["4", 0]
    assert workflow["6"]["clip"] == workflow["7"]["clip"] == ["4", 1]


PICTURES = {"1": node("Load"), "2": node("Load")}


@pytest.mark.parametrize(
    ("bypassed", "taken", "becomes"),
    [
        # The first slot is a widget's on the server, but the page has the others before it.
        (node("Upscale", scale=2.0, image=["1", 0], mask=["2", 1]), ("images", 0), ["1", 0]),
        # The same position, though it is not the first of its type.
        (node("Blend", image1=["1", 0], image2=["2", 0]), ("images", 0), ["1", 0]),
        # By type if those of the same position do not fit.
        (node("Swap", image=["1", 0], mask=["2", 1]), ("mask", 0), ["2", 1]),
        (node("Swap", image=["1", 0], mask=["2", 1]), ("images", 1), ["1", 0]),
        # A type that may be any.
        (node("Any", first=["1", 0], second=["2", 1]), ("mask", 0), ["2", 1]),
        (node("Switch", off=["1", 0], on=["2", 0]), ("images", 0), ["1", 0]),
        # Nothing of that type, and nothing linked there.
        (node("Number", value=3), ("value", 0), None),
        (node("Upscale", scale=2.0), ("images", 0), None),
    ],
)
def test_the_input_of_the_same_type_takes_the_place_of_an_output(
    bypassed: dict[str, Any], taken: tuple[str, int], becomes: Any
) -> None:
    """The one of the same position if it fits; without any, the input has no link left."""
    name, slot = taken
    workflow = Workflow.load({**PICTURES, "3": bypassed, "4": node("Save", **{name: ["3", slot]})})
    lost = workflow.bypass("3", DEFINITIONS)
    assert workflow["4"].inputs == ({} if becomes is None else {name: becomes})
    assert lost == ([("4", name)] if becomes is None else [])


def test_an_input_of_any_type_takes_the_position() -> None:
    """Or the first, if there are not so many."""
    graph = {**PICTURES, "3": node("Swap", image=["1", 0], mask=["2", 1]), "4": node("Show")}
    for slot, link in enumerate([["1", 0], ["2", 1], ["1", 0]]):
        graph["4"]["inputs"] = {"source": ["3", slot]}
        workflow = Workflow.load(graph)
        workflow.bypass("Swap", DEFINITIONS)
        assert workflow["4"].inputs == {"source": link}


def test_the_definitions_of_the_nodes_concerned_are_asked_for() -> None:
    """By class, from a client or whatever has node_definitions."""
    asked: list[set[str]] = []

    class Source:
        def node_definitions(self, classes: Any = None, *, refresh: bool = False) -> Any:
            asked.append(set(classes))
            return {name: DEFINITIONS[name] for name in classes}

    Workflow.load(lora_graph()).bypass("LoraLoader", Source())
    assert asked == [{"LoraLoader", "KSampler", "CLIPTextEncode"}]


def test_without_the_definition_of_its_class_nothing_is_guessed() -> None:
    """And nothing has changed."""
    workflow = Workflow.load(lora_graph())
    with pytest.raises(WorkflowError, match=r"LoraLoader.*definitions lack this class") as caught:
        workflow.bypass("LoraLoader", {"LoraLoader2": {}})
    assert caught.value.candidates == ("LoraLoader2",)
    assert workflow == Workflow.load(lora_graph())


def test_a_node_that_is_linked_to_itself_leaves_no_link_to_nothing() -> None:
    """Nor does one that was linked to a missing node."""
    graph = {"1": node("Blend", image1=["1", 0]), "2": node("Save", images=["1", 0])}
    before = copy.deepcopy(graph)
    for link in (["1", 0], ["99", 0], ["2", 0]):
        graph["1"]["inputs"]["image1"] = link
        workflow = Workflow.load(graph)
        assert workflow.bypass("1", DEFINITIONS) == [("2", "images")]
        assert workflow["2"].inputs == {}
    assert graph["2"] == before["2"]


# -- as the page does ----------------------------------------------------------------------


def inputs_by_node(graph: dict[str, Any]) -> dict[str, Any]:
    return {node_id: each["inputs"] for node_id, each in graph.items()}


@pytest.mark.parametrize(("version", "count"), [("0.3.75", 50), ("0.28.1", 76)])
def test_bypass_leaves_the_nodes_that_the_page_sends(version: str, count: int) -> None:
    """All published templates that have such nodes: switched on, and bypassed here."""
    known, seen = definitions(version), 0
    for name, ui, prompt in pairs(version):
        modes = {str(each["id"]): each for each in ui["nodes"] if each.get("mode") == 4}
        bypassed = {key: each for key, each in modes.items() if each["type"] in known}
        for each in bypassed.values():
            each["mode"] = 0
        workflow = Workflow(convert(ui, known, dynamic_prompts=First()).graph)
        lost = [place for key in bypassed for place in workflow.bypass(key, known)]
        expected = inputs_by_node(prompt)
        for node_id, field in lost:  # the page has the value of a widget behind the link
            if node_id in expected and not isinstance(expected[node_id].get(field), list):
                expected[node_id].pop(field, None)
        seen += bool(bypassed)
        assert inputs_by_node(workflow.to_dict()) == expected, name
    assert seen == count
