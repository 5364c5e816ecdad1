"""Roles of inputs: prompts, seed, size and checkpoint, found by the structure of a graph."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import traceback
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfy_client import Workflow, WorkflowError
from tests.conftest import examples
from tests.helpers.conformance import pair, pairs
from tests.helpers.graphs import node
from tests.helpers.hostile_values import HOSTILE, places, spoilt

ROLES = ("positive", "negative", "seed", "size", "checkpoint")
OTHER: dict[str, Any] = {
    "positive": "another",
    "negative": "none of it",
    "seed": 11,
    "size": (96, 160),
    "checkpoint": "other.safetensors",
}


def encoder(text: Any) -> dict[str, Any]:
    return node("CLIPTextEncode", text=text, clip=["4", 1])


def sampler(**inputs: Any) -> dict[str, Any]:
    links = {"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0]}
    return node("KSampler", **{"seed": 1, "latent_image": ["5", 0], **links, **inputs})


def graph(**nodes: Any) -> dict[str, Any]:
    """A usual text-to-image graph, with other nodes."""
    return {
        "3": sampler(),
        "4": node("CheckpointLoaderSimple", ckpt_name="a.safetensors"),
        "5": node("EmptyLatentImage", width=64, height=128, batch_size=1),
        "6": encoder("a mill"),
        "7": encoder("blurry"),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", images=["8", 0]),
        **{name.lstrip("_"): one for name, one in nodes.items()},
    }


def roles(workflow: Workflow) -> dict[str, Any]:
    return {role: getattr(workflow, role) for role in ROLES}


def refusal(workflow: Workflow, role: str) -> WorkflowError:
    """Why a role is not clear; setting it says the same, and changes nothing."""
    before = workflow.copy()
    with pytest.raises(WorkflowError) as caught:
        getattr(workflow, role)
    with pytest.raises(WorkflowError) as again:
        setattr(workflow, role, OTHER[role])
    assert str(caught.value) == str(again.value)
    assert workflow == before
    return caught.value


def why_not(workflow: Workflow, role: str) -> str | None:
    """Why a role is not answered, or None if it is."""
    try:
        getattr(workflow, role)
    except WorkflowError as exc:
        return str(exc)
    return None


def test_the_usual_graph_has_all_roles() -> None:
    workflow = Workflow(graph())
    assert roles(workflow) == {
        "positive": "a mill",
        "negative": "blurry",
        "seed": 1,
        "size": (64, 128),
        "checkpoint": "a.safetensors",
    }
    for role, value in OTHER.items():
        setattr(workflow, role, value)
    assert roles(workflow) == OTHER
    assert workflow["5"].inputs == {"width": 96, "height": 160, "batch_size": 1}


WAYS: dict[str, dict[str, Any]] = {
    "ControlNet": {
        "_3": sampler(positive=["12", 0], negative=["12", 1]),
        "_12": node("ControlNetApplyAdvanced", positive=["6", 0], negative=["7", 0], strength=1),
    },
    "a model before the prompts": {
        "_3": sampler(model=["12", 0], positive=["12", 1], negative=["12", 2]),
        "_12": node("WanInfiniteTalk", model=["4", 0], positive=["6", 0], negative=["7", 0]),
    },
    "LoRA and model patches": {
        "_3": sampler(model=["13", 0]),
        "_12": node("LoraLoader", model=["4", 0], clip=["4", 1], lora_name="l.safetensors"),
        "_13": node("ModelSamplingFlux", model=["12", 0], model_patch=["14", 0], width=9, height=9),
        "_14": node("ModelPatchLoader", name="p.safetensors"),
    },
    "a guider and a noise": {
        "_3": node(
            "SamplerCustomAdvanced",
            noise=["12", 0],
            guider=["13", 0],
            sampler=["14", 0],
            sigmas=["15", 0],
            latent_image=["5", 0],
        ),
        "_12": node("RandomNoise", noise_seed=1),
        "_13": node("CFGGuider", model=["4", 0], positive=["6", 0], negative=["7", 0], cfg=1),
    },
    "conditions in a row": {
        "_3": sampler(positive=["13", 0]),
        "_12": node("FluxGuidance", conditioning=["6", 0], guidance=3.5),
        "_13": node("ReferenceLatent", conditioning=["12", 0], latent=["5", 0]),
    },
    "a combination with itself": {
        "_3": sampler(positive=["12", 0]),
        "_12": node("ConditioningCombine", conditioning_1=["6", 0], conditioning_2=["6", 0]),
    },
    "two texts that are the same": {
        "_6": node("CLIPTextEncodeSDXL", text_g="a mill", text_l="a mill", width=1, height=1),
    },
    "two texts, one of them empty": {
        "_6": node("CLIPTextEncodeFlux", clip_l="", t5xxl="a mill", clip=["4", 1], guidance=3),
    },
    "primitives behind links": {
        "_3": sampler(seed=["12", 0], latent_image=["5", 0]),
        "_4": node("CheckpointLoaderSimple", ckpt_name=["16", 0]),
        "_5": node("EmptyLatentImage", width=["13", 0], height=["14", 0], batch_size=1),
        "_6": encoder(["15", 0]),
        "_12": node("PrimitiveInt", value=1),
        "_13": node("PrimitiveInt", value=64),
        "_14": node("PrimitiveInt", value=128),
        "_15": node("Reroute", **{"": ["17", 0]}),
        "_16": node("PrimitiveString", value="a.safetensors"),
        "_17": node("PrimitiveStringMultiline", value="a mill"),
    },
    "a switch": {
        "_3": sampler(model=["12", 0], positive=["13", 0]),
        "_12": node("ComfySwitchNode", switch=True, on_true=["4", 0], on_false=["5", 0]),
        "_13": node("ComfySwitchNode", switch=["14", 0], on_true=["7", 0], on_false=["6", 0]),
        "_14": node("PrimitiveBoolean", value=False),
    },
    "a second sampler for details": {
        "_8": node("VAEDecode", samples=["12", 0], vae=["4", 2]),
        "_12": node(
            "KSamplerAdvanced",
            add_noise="disable",
            noise_seed=0,
            model=["4", 0],
            positive=["6", 0],
            negative=["7", 0],
            latent_image=["13", 0],
        ),
        "_13": node("LatentUpscale", samples=["3", 0], width=512, height=512),
    },
    "a second sampler on the picture of the first": {
        "_12": sampler(latent_image=["13", 0]),
        "_13": node("VAEEncode", pixels=["14", 0], vae=["4", 2]),
        "_14": node("ImageScale", image=["8", 0], width=512, height=512),
        "_15": node("VAEDecode", samples=["12", 0], vae=["4", 2]),
        "_9": node("SaveImage", images=["15", 0]),
    },
    "two encoders of the same prompt": {
        "_12": sampler(positive=["13", 0], latent_image=["3", 0]),
        "_13": encoder("a mill"),
        "_8": node("VAEDecode", samples=["12", 0], vae=["4", 2]),
    },
    "a sampler that nobody uses": {
        "_12": sampler(seed=9, positive=["7", 0], negative=["6", 0]),
    },
    "a video": {
        "_3": sampler(positive=["12", 0], negative=["12", 1], latent_image=["12", 2]),
        "_12": node("WanVideo", positive=["6", 0], negative=["7", 0], width=64, height=128),
    },
    "a node that loads and encodes": {
        "_3": sampler(model=["12", 0], positive=["12", 1], negative=["12", 2]),
        "_12": node("Efficient", ckpt_name="a.safetensors", positive="a mill", negative="blurry"),
    },
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_way_back_leads_through(way: dict[str, Any]) -> None:
    """To the same values as without it; and they can be set there."""
    workflow = Workflow(graph(**way))
    assert roles(workflow) == roles(Workflow(graph()))
    for role, value in OTHER.items():
        setattr(workflow, role, value)
    assert roles(workflow) == OTHER


def test_an_empty_text_beside_another_stays_empty() -> None:
    flux = node("CLIPTextEncodeFlux", clip_l="", t5xxl="a mill", clip=["4", 1], guidance=3)
    workflow = Workflow(graph(_6=flux))
    workflow.positive = "a fox"
    assert (workflow["6"]["clip_l"], workflow["6"]["t5xxl"]) == ("", "a fox")


def test_samplers_with_different_prompts_are_named_by_address() -> None:
    second = sampler(positive=["13", 0], seed=2, latent_image=["3", 0])
    last = node("VAEDecode", samples=["12", 0], vae=["4", 2])
    workflow = Workflow(graph(_8=last, _12=second, _13=encoder("a tree")))
    error = refusal(workflow, "positive")
    assert str(error) == (
        "several inputs are the positive prompt of this workflow; set one by its address: "
        "'6.text' = 'a mill' of node 6 (CLIPTextEncode); "
        "'13.text' = 'a tree' of node 13 (CLIPTextEncode)"
    )
    assert error.candidates == ("6.text", "13.text")
    assert workflow.negative == "blurry"
    assert refusal(workflow, "seed").candidates == ("3.seed", "12.seed")
    workflow.set({error.candidates[1]: "a mill"})
    assert workflow.positive == "a mill"


def test_a_text_that_is_made_is_not_guessed() -> None:
    joined = node("StringConcatenate", string_a="by me", string_b=["13", 0], delimiter=", ")
    text = node("PrimitiveString", value="a mill")
    error = refusal(Workflow(graph(_6=encoder(["12", 0]), _12=joined, _13=text)), "positive")
    assert "the text comes from node 12 (StringConcatenate); perhaps '12.string_a'" in str(error)
    assert error.candidates == ("12.string_a", "13.value")


def test_a_prompt_beside_one_that_is_made_is_not_clear() -> None:
    both = node("ConditioningCombine", conditioning_1=["6", 0], conditioning_2=["13", 0])
    made = node("TextGenerate", clip=["4", 1], words=3, more=2)
    error = refusal(
        Workflow(graph(_3=sampler(positive=["12", 0]), _12=both, _13=encoder(["14", 0]), _14=made)),
        "positive",
    )
    assert "; the output of node 14 (TextGenerate)" in str(error)
    assert error.candidates == ("6.text",)


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        (
            {"_7": node("ConditioningZeroOut", conditioning=["6", 0])},
            "node 7 (ConditioningZeroOut) makes it void or takes none",
        ),
        ({"_3": sampler(negative=["6", 0])}, "node 6 (CLIPTextEncode) makes it void or takes none"),
        (
            {
                "_3": node("SamplerCustomAdvanced", noise=["12", 0], guider=["13", 0]),
                "_13": node("BasicGuider", model=["4", 0], conditioning=["6", 0]),
            },
            "node 13 (BasicGuider) makes it void or takes none",
        ),
    ],
    ids=["zeroed", "the positive one", "a guider without"],
)
def test_a_workflow_without_a_negative_prompt_says_so(nodes: dict[str, Any], says: str) -> None:
    """The positive one must not change by it."""
    workflow = Workflow(graph(**nodes))
    assert says in str(refusal(workflow, "negative"))
    assert workflow.positive == "a mill"


def test_a_workflow_that_begins_with_a_picture_has_no_size() -> None:
    encode = node("VAEEncode", pixels=["12", 0], vae=["4", 2])
    load = node("LoadImage", image="x.png")
    error = refusal(Workflow(graph(_5=encode, _12=load)), "size")
    assert str(error).endswith("it depends on node 5 (VAEEncode)")


def test_a_size_that_is_computed_is_not_guessed() -> None:
    latent = node("EmptyLatentImage", width=["12", 0], height=["12", 1], batch_size=1)
    chosen = node("ResolutionSelector", megapixels=1, aspect="1:1")
    error = refusal(Workflow(graph(_5=latent, _12=chosen)), "size")
    assert "it depends on node 12 (ResolutionSelector); perhaps '12.megapixels' = 1" in str(error)


def test_a_graph_without_samplers_has_the_prompt_of_its_node() -> None:
    asks = node("PartnerNode", prompt="a fox", negative_prompt="", seed=4, aspect="1:1")
    workflow = Workflow({"1": asks})
    assert (workflow.positive, workflow.negative, workflow.seed) == ("a fox", "", 4)
    assert "no node samples" in str(refusal(workflow, "checkpoint"))
    assert "no node samples" in str(refusal(workflow, "size"))


@pytest.mark.parametrize(
    ("role", "value"),
    [
        ("positive", None),
        ("negative", 5),
        ("checkpoint", ["4", 0]),
        ("seed", "seven"),
        ("seed", None),
        ("seed", True),
        ("seed", ["4", 0]),
        ("size", 64),
        ("size", ("64", "64")),
        ("size", (None, 64)),
        ("size", (True, 64)),
        ("size", (1, 2, 3)),
        ("size", "64"),
    ],
)
def test_a_value_of_another_type_is_refused(role: str, value: Any) -> None:
    workflow = Workflow(graph())
    with pytest.raises(TypeError, match="not "):
        setattr(workflow, role, value)
    assert workflow == Workflow(graph())


@pytest.mark.parametrize("seed", ["random", -1])
def test_a_seed_may_be_drawn_for_each_run(seed: Any) -> None:
    workflow = Workflow(graph())
    workflow.seed = seed
    assert workflow.seed == seed


@pytest.mark.parametrize("seed", ["random", -1])
def test_no_seed_is_drawn_for_an_input_of_another_name(seed: Any) -> None:
    """ComfyUI's PrimitiveInt has ``value``, and -1 would give the same picture each time."""
    workflow = Workflow(graph(_3=sampler(seed=["12", 0]), _12=node("PrimitiveInt", value=5)))
    with pytest.raises(WorkflowError, match=r"'value' of node 12 \(PrimitiveInt\).*set a number"):
        workflow.seed = seed
    assert workflow.seed == 5
    workflow.seed = 7
    assert workflow["12"]["value"] == 7


def test_a_workflow_without_roles_survives_hasattr_and_inspection() -> None:
    workflow = Workflow({"1": node("Other", value=1)})
    assert not any(hasattr(workflow, role) for role in ROLES)
    names = {name for name, _ in inspect.getmembers(workflow)}
    assert "set" in names
    assert not names & {*ROLES}
    assert mock.create_autospec(workflow).set
    error = refusal(workflow, "negative")
    assert "Did you mean" not in "".join(traceback.format_exception(error))
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_misspelt_role_is_not_set() -> None:
    workflow = Workflow(graph())
    with pytest.raises(AttributeError, match="postive"):
        workflow.postive = "a fox"  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(workflow)) == copy.deepcopy(workflow) == workflow


def test_each_saved_workflow_answers_or_says_why() -> None:
    """All pairs: a role that is answered can be set, and one that is not has a reason."""
    answered = dict.fromkeys(ROLES, 0)
    for version in ("0.28.1", "0.3.75"):
        for name, _, api in pairs(version):
            workflow = Workflow(api)
            for role in ROLES:
                reason = why_not(workflow, role)
                if reason is not None:
                    assert _NAMED[role] in reason, name
                    continue
                setattr(workflow, role, OTHER[role])
                assert getattr(workflow, role) == OTHER[role], name
                answered[role] += 1
    assert answered == ANSWERED


_NAMED = {
    "positive": "positive prompt",
    "negative": "negative prompt",
    "seed": "seed",
    "size": "size",
    "checkpoint": "checkpoint",
}
#: How many of the 451 workflows answer; 232 of them have a sampler.
ANSWERED = {"positive": 313, "negative": 208, "seed": 343, "size": 145, "checkpoint": 194}


def test_a_template_with_subgraphs_answers() -> None:
    _, api = pair("image_chroma1_radiance_text_to_image")
    workflow = Workflow(api)
    assert workflow.positive.startswith("Hyperrealistic macro photograph")
    assert workflow.negative.startswith("This low quality greyscale")
    assert (workflow.seed, workflow.size) == (883855055680159, (1024, 1024))
    assert workflow.checkpoint == "chroma-radiance-x0.safetensors"


@settings(max_examples=examples(100))
@given(st.data())
def test_any_graph_is_answered_or_refused(data: st.DataObject) -> None:
    """Values of any kind in any place."""
    whole = graph(**data.draw(st.sampled_from(list(WAYS.values()))))
    inputs = [place for place in places(whole) if len(place) > 2]
    spoiled = spoilt(whole, data.draw(st.sampled_from(inputs)), data.draw(st.sampled_from(HOSTILE)))
    try:
        workflow = Workflow(spoiled)
    except (WorkflowError, TypeError):
        return
    for role in ROLES:
        assert len(why_not(workflow, role) or "") < 10_000


def test_a_circle_of_links_ends() -> None:
    first = node("Combine", conditioning=["13", 0])
    second = node("Combine", conditioning=["12", 0])
    error = refusal(
        Workflow(graph(_3=sampler(positive=["12", 0]), _12=first, _13=second)), "positive"
    )
    assert "no input has it" in str(error)
    text = node("Reroute", value=["12", 0])
    assert refusal(Workflow(graph(_6=encoder(["12", 0]), _12=text)), "positive")


def test_a_long_chain_takes_little_time() -> None:
    """Each node once; a file may have any number."""
    long = graph(_3=sampler(positive=["c5000", 0]))
    long["c0"] = node("Set", positive=["6", 0], negative=["7", 0])
    for at in range(5000):
        long[f"c{at + 1}"] = node("Set", positive=[f"c{at}", 0], negative=[f"c{at}", 1])
    workflow = Workflow(json.loads(json.dumps(long)))
    assert workflow.positive == "a mill"


def test_a_search_that_is_cut_short_is_not_taken_for_the_answer() -> None:
    """The last sampler has another prompt."""
    nodes: dict[str, Any] = {}
    for at in range(10_001):
        nodes[f"p{at}"] = encoder("a mill" if at < 10_000 else "a fox")
        nodes[f"k{at}"] = sampler(positive=[f"p{at}", 0])
    assert "node p10000" in str(refusal(Workflow(nodes), "positive"))
