"""Edits of any workflow, in any order, leave one that can be sent."""

from __future__ import annotations

import copy
import random
from graphlib import TopologicalSorter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfy_client import Workflow, WorkflowError
from comfy_client.workflow import check_graph
from comfy_client.workflow.graph import links_of
from tests.conftest import examples
from tests.helpers.graphs import node

#: Classes with what they take and give, by type.
CLASSES: dict[str, tuple[dict[str, str], list[str]]] = {
    "CheckpointLoaderSimple": ({"ckpt_name": "COMBO"}, ["MODEL", "CLIP", "VAE"]),
    "UNETLoader": ({"unet_name": "COMBO"}, ["MODEL"]),
    "LoraLoader": (
        {"model": "MODEL", "clip": "CLIP", "lora_name": "COMBO", "strength_model": "FLOAT"},
        ["MODEL", "CLIP"],
    ),
    "LoraLoaderModelOnly": ({"model": "MODEL", "lora_name": "COMBO"}, ["MODEL"]),
    "CLIPTextEncode": ({"text": "STRING", "clip": "CLIP"}, ["CONDITIONING"]),
    "KSampler": ({"model": "MODEL", "seed": "INT", "positive": "CONDITIONING"}, ["LATENT"]),
    "VAEDecode": ({"samples": "LATENT", "vae": "VAE"}, ["IMAGE"]),
    "Blend": ({"image1": "IMAGE", "image2": "IMAGE", "blend.factor": "FLOAT"}, ["IMAGE"]),
    "SaveImage": ({"images": "IMAGE"}, []),
}
WIDGETS = {"COMBO", "STRING", "INT", "FLOAT"}
DEFINITIONS = {
    name: {"input": {"required": {key: [kind, {}] for key, kind in takes.items()}}, "output": gives}
    for name, (takes, gives) in CLASSES.items()
}


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, Any]:
    """Nodes that are linked to earlier ones by type, with ids of all kinds."""
    graph: dict[str, Any] = {}
    outputs: dict[str, list[list[Any]]] = {}
    for index in range(draw(st.integers(1, 10))):
        node_id = draw(st.sampled_from([str(index), f"12:{index}", f"a.{index}"]))
        name = draw(st.sampled_from(sorted(CLASSES)))
        takes, gives = CLASSES[name]
        inputs: dict[str, Any] = {}
        for key, kind in takes.items():
            if kind in WIDGETS:
                inputs[key] = draw(st.sampled_from([1, -1, "random", "x"]))
            elif outputs.get(kind) and draw(st.integers(0, 4)):
                inputs[key] = draw(st.sampled_from(outputs[kind]))
        graph[node_id] = node(name, **inputs)
        for slot, kind in enumerate(gives):
            outputs.setdefault(kind, []).append([node_id, slot])
    return graph


def edit(workflow: Workflow, data: st.DataObject) -> None:
    """One of any kind."""
    one = data.draw(st.sampled_from(sorted(workflow.nodes)))
    match data.draw(
        st.sampled_from(["set", "remove", "force", "bypass", "lora", "loader", "seeds"])
    ):
        case "set":
            other = data.draw(st.sampled_from(sorted(workflow.nodes)))
            values = st.sampled_from([5, "fox", None, [other, 0], ["99", 0]])
            names = list(workflow[one]) or ["new"]
            inputs = {(one, data.draw(st.sampled_from(names))): data.draw(values)}
            if workflow[one].id > workflow[other].id:  # no circles by hand
                workflow.set(inputs, force=data.draw(st.booleans()))
        case "remove":
            workflow.remove(one)
        case "force":
            workflow.remove(one, force=True)
        case "bypass":
            workflow.bypass(one, DEFINITIONS)
        case "lora":
            workflow.add_lora(
                "x.safetensors", data.draw(st.sampled_from([1.0, -0.5, float("nan")]))
            )
        case "loader":
            workflow.add_lora("x.safetensors", loader=one)
        case _:
            workflow.randomize_seeds(random.Random(1))


def is_acyclic(graph: dict[str, Any]) -> bool:
    """Whether all of it can run."""
    links = {key: {source for _, source, _ in links_of(graph, key)} for key in graph}
    return bool(list(TopologicalSorter(links).static_order()))


@settings(deadline=None, max_examples=examples(300))
@given(graphs(), st.data())
def test_after_any_edits_every_link_leads_to_a_node(graph: dict[str, Any], data: Any) -> None:
    """What is refused changes nothing; the loaded dict never changes."""
    loaded = copy.deepcopy(graph)
    workflow = Workflow.load(loaded)
    for _ in range(data.draw(st.integers(1, 6))):
        if not len(workflow):
            break
        before = workflow.to_dict()
        try:
            edit(workflow, data)
        except WorkflowError:
            assert workflow.to_dict() == before
    now = workflow.to_dict()
    assert check_graph(now) == now
    assert list(workflow.nodes) == list(now)
    assert [each.id for each in workflow] == list(now)
    assert workflow.copy() == workflow
    assert loaded == graph


@settings(deadline=None)
@given(graphs(), st.data())
def test_bypass_and_loras_link_outputs_to_inputs_of_their_type(graph: Any, data: Any) -> None:
    """And make no circle."""
    workflow = Workflow.load(graph)
    for _ in range(4):
        one = data.draw(st.sampled_from(sorted(workflow.nodes)))
        try:
            if data.draw(st.booleans()):
                workflow.add_lora("x.safetensors", loader=one)
            elif len(workflow) > 1:
                workflow.bypass(one, DEFINITIONS)
        except WorkflowError:
            continue
    now = workflow.to_dict()
    assert is_acyclic(now)
    for node_id in now:
        takes, _ = CLASSES[now[node_id]["class_type"]]
        for name, source, slot in links_of(now, node_id):
            assert CLASSES[now[source]["class_type"]][1][slot] == takes[name]


@settings(deadline=None)
@given(graphs(), st.sampled_from([0.5, 2]))
def test_a_lora_that_is_added_and_bypassed_leaves_the_graph_as_it_was(graph: Any, by: Any) -> None:
    """Link by link."""
    workflow = Workflow.load(graph)
    try:
        lora = workflow.add_lora("x.safetensors", by)
    except WorkflowError:
        return
    assert workflow.bypass(lora, DEFINITIONS) == []
    assert workflow == Workflow.load(graph)


def test_circles_are_found() -> None:
    """By the check above."""
    with pytest.raises(ValueError, match="cycle"):
        is_acyclic({"1": node("Blend", image1=["2", 0]), "2": node("Blend", image1=["1", 0])})
