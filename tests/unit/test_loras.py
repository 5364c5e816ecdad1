"""LoRAs: listed, and put between the loader and all that use it."""

from __future__ import annotations

import pytest

from comfy_client import Workflow, WorkflowError
from tests.conftest import load_workflow
from tests.helpers.graphs import node, txt2img


def linked(workflow: Workflow, node_id: str) -> set[str]:
    """The inputs that are linked to a node, as ``id.name:slot``."""
    return {
        f"{each.id}.{name}:{value[1]}"
        for each in workflow
        for name, value in each.inputs.items()
        if isinstance(value, list) and value[0] == node_id
    }


def test_a_lora_stands_between_the_checkpoint_and_all_that_use_it() -> None:
    """Model and CLIP go through it; the VAE does not."""
    graph = txt2img()
    workflow = Workflow.load(graph)
    lora = workflow.add_lora("detail.safetensors", 0.8)
    assert lora.class_type == "LoraLoader"
    assert dict(lora.inputs) == {
        "model": ["4", 0],
        "clip": ["4", 1],
        "lora_name": "detail.safetensors",
        "strength_model": 0.8,
        "strength_clip": 0.8,
    }
    assert linked(workflow, lora.id) == {"3.model:0", "6.clip:1", "7.clip:1"}
    assert linked(workflow, "4") == {f"{lora.id}.model:0", f"{lora.id}.clip:1", "8.vae:2"}
    assert graph == txt2img()


def test_the_strength_is_one_unless_it_is_given() -> None:
    """That of the CLIP may be another."""
    workflow = Workflow.load(txt2img())
    assert workflow.add_lora("a")["strength_clip"] == 1.0
    other = workflow.add_lora("b", -0.5, clip_strength=0)
    assert (other["strength_model"], other["strength_clip"]) == (-0.5, 0)


def test_add_lora_stacks_on_the_last_lora() -> None:
    """Whoever used that one uses the new one."""
    workflow = Workflow.load(txt2img())
    first, second = workflow.add_lora("a"), workflow.add_lora("b")
    assert linked(workflow, first.id) == {f"{second.id}.model:0", f"{second.id}.clip:1"}
    assert linked(workflow, second.id) == {"3.model:0", "6.clip:1", "7.clip:1"}
    assert [each["lora_name"] for each in workflow.loras] == ["a", "b"]


def test_nodes_of_packs_that_load_several_are_listed_too() -> None:
    """By the names of their inputs, or by what is in them."""
    graph = {
        "1": node("LoraStack", lora_name_1="a", lora_name_2="b"),
        "2": node("PowerLoraLoader", lora_1={"on": True, "lora": "c", "strength": 1}),
        "3": node("Text", text="lora", options={"a": 1}),
    }
    assert [each.id for each in Workflow.load(graph).loras] == ["1", "2"]


def test_add_lora_without_a_clip_is_of_the_model_alone() -> None:
    """The CLIP comes from a loader of its own there."""
    workflow = Workflow.load(load_workflow("txt2img_separate_loaders"))
    before = workflow.to_dict()
    lora = workflow.add_lora("a", 0.5)
    assert lora.class_type == "LoraLoaderModelOnly"
    assert dict(lora.inputs) == {"model": ["10", 0], "lora_name": "a", "strength_model": 0.5}
    assert linked(workflow, lora.id) == {"3.model:0"}
    assert workflow["6"].inputs == before["6"]["inputs"]


def test_a_clip_that_nobody_uses_is_none() -> None:
    """The checkpoint of a model whose text encoder is in another file."""
    graph = txt2img()
    graph["11"] = node("CLIPLoader", clip_name="c", type="flux")
    graph["6"]["inputs"]["clip"] = graph["7"]["inputs"]["clip"] = ["11", 0]
    assert Workflow.load(graph).add_lora("a").class_type == "LoraLoaderModelOnly"


def test_a_node_that_goes_past_a_lora_gets_the_new_one_too() -> None:
    """So it stands before that LoRA, right behind the loader."""
    workflow = Workflow.load(txt2img())
    first = workflow.add_lora("a")
    workflow.set({"7.clip": ["4", 1]})
    second = workflow.add_lora("b")
    assert linked(workflow, "4") == {f"{second.id}.model:0", f"{second.id}.clip:1", "8.vae:2"}
    assert linked(workflow, second.id) == {f"{first.id}.model:0", f"{first.id}.clip:1", "7.clip:1"}


def test_of_several_loaders_one_must_be_named() -> None:
    """As of a base model and a refiner; by title, id, class or node."""
    graph = txt2img()
    graph["14"] = {**node("CheckpointLoaderSimple", ckpt_name="r"), "_meta": {"title": "Refiner"}}
    graph["13"] = node("KSampler", model=["14", 0])
    workflow = Workflow.load(graph)
    with pytest.raises(WorkflowError, match="loader=") as caught:
        workflow.add_lora("a")
    assert caught.value.candidates == ("4", "14")
    assert len(workflow) == len(graph)
    for loader in ("Refiner", workflow["14"], 14):
        copy = workflow.copy()
        loader = copy["14"] if loader is workflow["14"] else loader
        assert linked(copy, copy.add_lora("a", loader=loader).id) == {"13.model:0"}


def test_a_loader_whose_model_nobody_uses_does_not_count() -> None:
    """It is there for its VAE, say."""
    graph = txt2img()
    graph["14"] = node("CheckpointLoaderSimple", ckpt_name="v")
    graph["8"]["inputs"]["vae"] = ["14", 2]
    assert Workflow.load(graph).add_lora("a")["model"] == ["4", 0]


def test_an_unknown_loader_is_not_guessed_but_named() -> None:
    """The message names what may be one; then the names of inputs say which output is which."""
    graph = txt2img()
    graph["4"] = node("SomebodysLoader", name="x")
    for at, (key, name) in enumerate([("6", "clip"), ("3", "model"), ("8", "vae")]):
        graph[key]["inputs"][name] = ["4", at]
    graph["7"]["inputs"]["clip"] = ["4", 0]
    workflow = Workflow.load(graph)
    with pytest.raises(WorkflowError, match=r"maybe node 4 \(SomebodysLoader\)") as caught:
        workflow.add_lora("a")
    assert caught.value.candidates == ("4",)
    lora = workflow.add_lora("a", loader="SomebodysLoader")
    assert (lora["model"], lora["clip"]) == (["4", 1], ["4", 0])
    assert linked(workflow, lora.id) == {"3.model:0", "6.clip:1", "7.clip:1"}


def test_a_node_of_which_nobody_takes_a_model_is_no_loader() -> None:
    """Such as a CLIP loader."""
    workflow = Workflow.load(txt2img())
    with pytest.raises(WorkflowError, match="takes a model from node 8"):
        workflow.add_lora("a", loader="VAEDecode")
    assert workflow == Workflow.load(txt2img())


def test_a_strength_that_json_lacks_changes_nothing() -> None:
    """It is refused here, with the input."""
    workflow = Workflow.load(txt2img())
    with pytest.raises(WorkflowError, match="'strength_model': nan"):
        workflow.add_lora("a", float("nan"))
    assert workflow == Workflow.load(txt2img())


def test_links_never_make_a_circle() -> None:
    """A LoRA whose strength depends on the CLIP, whatever that may be good for."""
    graph = txt2img()
    graph["11"] = node("Strength", clip=["4", 1])
    graph["10"] = node("LoraLoaderModelOnly", model=["4", 0], lora_name="a", strength=["11", 0])
    graph["3"]["inputs"]["model"] = ["10", 0]
    workflow = Workflow.load(graph)
    lora = workflow.add_lora("b")
    assert workflow["11"]["clip"] == ["4", 1]
    assert linked(workflow, lora.id) == {"3.model:0", "6.clip:1", "7.clip:1"}


@pytest.mark.parametrize(
    ("loader", "others", "free"),
    [("4", ["9"], "5"), ("12:3", ["4"], "5"), ("4.0.0.1", ["5:1"], "6"), ("a", ["9"], "4")],
)
def test_a_new_id_is_a_number_that_no_other_begins_with(
    loader: str, others: list[str], free: str
) -> None:
    """Ids of nodes inside of others begin with that of the outer one."""
    graph = {key: node("Other") for key in others}
    graph |= {loader: node("UNETLoader"), "x": node("KSampler", model=[loader, 0])}
    assert Workflow.load(graph).add_lora("a").id == free
