"""A graph that is built from code: what a call gives, fills in, and refuses at once."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Collection, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_client import Graph, GraphNode, ServerUnreachable, Upload, WorkflowError
from tests.helpers.conformance import definitions
from tests.helpers.hostile_values import HOSTILE, places, spoilt

NEW = definitions("0.28.1")


def made_up(output: list[str] | None = None, **required: Any) -> dict[str, Any]:
    """The definition of a class."""
    return {"input": {"required": required}, "output": output or [], "output_name": output or []}


def inputs_of(node: GraphNode[Any], g: Graph) -> Mapping[str, Any]:
    return g.workflow()[node.node_id].inputs


def refusal(g: Graph, class_type: str, *args: Any, **values: Any) -> WorkflowError:
    """Why a node is refused; nothing of it stays."""
    before = repr(g)
    with pytest.raises(WorkflowError) as caught:
        g[class_type](*args, **values)
    assert repr(g) == before
    return caught.value


# -- a whole graph ------------------------------------------------------------------------


def test_a_graph_becomes_a_workflow() -> None:
    g = Graph(NEW)
    model, clip, vae = g.CheckpointLoaderSimple(ckpt_name="tiny.ckpt")
    positive = g.CLIPTextEncode(clip=clip, text="a fox", _title="Positive prompt")
    negative = g.CLIPTextEncode(clip=clip)
    latent = g.EmptyLatentImage(width=64, height=64)
    sampled = g.KSampler(
        model=model, positive=positive, negative=negative, latent_image=latent, seed=7
    )
    g.SaveImage(images=g.VAEDecode(samples=sampled, vae=vae), _id="save")
    workflow = g.workflow()
    assert [node.id for node in workflow] == ["1", "2", "3", "4", "5", "6", "save"]
    assert workflow["Positive prompt"].inputs == {"text": "a fox", "clip": ["1", 1]}
    assert workflow["KSampler"]["seed"] == 7
    assert workflow["save"].inputs == {"images": ["6", 0], "filename_prefix": "ComfyUI"}


def test_a_workflow_is_a_copy_and_the_graph_goes_on() -> None:
    g = Graph(NEW)
    g.EmptyImage()
    workflow = g.workflow()
    workflow["EmptyImage"]["width"] = 64
    g.EmptyImage()
    assert len(workflow) == 1
    assert g.workflow()["1"]["width"] == 512


def test_a_graph_without_nodes_is_no_workflow() -> None:
    with pytest.raises(WorkflowError, match="no nodes yet"):
        Graph(NEW).workflow()


def test_the_order_of_the_workflow_can_be_given() -> None:
    g = Graph()
    for name in ("b", "a"):
        g.EmptyImage(_id=name)
    assert [node.id for node in g.workflow(order=["a", "b"])] == ["a", "b"]
    with pytest.raises(WorkflowError, match="each node of the graph once: 'c'"):
        g.workflow(order=["a", "b", "c"])
    with pytest.raises(WorkflowError, match="one is named twice"):
        g.workflow(order=["a", "b", "b"])


def test_ids_are_the_next_free_numbers_or_what_was_asked_for() -> None:
    g = Graph()
    ids = [g.A(_id=one).node_id for one in (None, "3", 2, None, "12:3", None)]
    assert ids == ["1", "3", "2", "4", "12:3", "5"]
    with pytest.raises(WorkflowError, match=r"there is a node 3 \(A\) already"):
        g.B(_id=3)


def test_title_meta_and_other_keys_are_no_inputs() -> None:
    g = Graph()
    g.node("A", {"_title": 1, "class_type": 2}, _title="T", _meta={"ver": "1"}, _extra={"x": [1]})
    assert g.workflow().to_dict()["1"] == {
        "class_type": "A",
        "inputs": {"_title": 1, "class_type": 2},
        "_meta": {"title": "T", "ver": "1"},
        "x": [1],
    }


def test_any_name_can_be_a_class_and_an_input() -> None:
    """Those of a method, of Python, of nobody."""
    names = ["node", "workflow", "class", "a b", "Graph", "_id", "self", "inputs", "1.5", "ﬁ"]
    g = Graph({name: made_up(**{one: ["INT", {}] for one in names}) for name in names})
    for name in names:
        node = g[name](dict.fromkeys(names, 3))
        assert inputs_of(node, g) == dict.fromkeys(names, 3)
    g.node("a b", {"_id": 4, "class": 5}, _id="x", self=6, inputs=7, **{"a b": 8})
    assert g.workflow()["x"]["_id"] == 4


@pytest.mark.parametrize("name", [5, None, ("KSampler",)])
def test_a_class_is_addressed_by_its_name(name: Any) -> None:
    """Most likely the arguments are in the wrong order."""
    g = Graph(NEW)
    with pytest.raises(TypeError, match="not by"):
        g[name]
    with pytest.raises(TypeError, match="must be a str, not"):
        g.node(name)
    assert repr(g["KSampler"]) == "<node class 'KSampler'>"


# -- outputs ------------------------------------------------------------------------------


def test_outputs_are_unpacked_indexed_and_named() -> None:
    g = Graph(NEW)
    loader = g.CheckpointLoaderSimple()
    model, clip, vae = loader
    assert [one.type for one in (model, clip, vae)] == ["MODEL", "CLIP", "VAE"]
    assert loader[1] == clip == loader["CLIP"] == loader.CLIP
    assert {"MODEL", "CLIP", "VAE"} <= set(dir(loader))
    assert loader.type == "MODEL"
    assert repr(loader) == "<GraphNode '1': 'MODEL', 'CLIP', 'VAE'>"


def test_a_node_stands_for_its_first_output() -> None:
    g = Graph(NEW)
    loaded = g.LoadImage(image="anything.png")  # uploaded since the definitions were read
    assert inputs_of(g.SaveImage(images=loaded), g)["images"] == ["1", 0]


def test_an_output_that_there_is_not_is_named() -> None:
    g = Graph(NEW)
    loader = g.CheckpointLoaderSimple()
    with pytest.raises(WorkflowError, match="has no output 'CLIPP'; nearest: 'CLIP'") as caught:
        loader["CLIPP"]
    assert caught.value.candidates == ("CLIP",)
    with pytest.raises(WorkflowError, match="has no output 3"):
        loader[3]
    with pytest.raises(WorkflowError, match="has no output -1"):
        loader[-1]
    assert not hasattr(loader, "model_of_mine")
    assert not hasattr(loader, "_repr_mimebundle_")
    with pytest.raises(TypeError, match="by slot or name, not by None"):
        loader[None]  # type: ignore[call-overload]


def test_an_output_name_that_comes_twice_needs_the_slot() -> None:
    g = Graph({"Two": made_up(["IMAGE", "IMAGE"])})
    with pytest.raises(WorkflowError, match="several outputs 'IMAGE'; take one by its slot"):
        _ = g.Two().IMAGE


def test_a_node_without_outputs_is_no_link() -> None:
    g = Graph({**NEW, "Ends": made_up()})
    assert "node 1 (Ends) has no outputs" in str(refusal(g, "ImageInvert", image=g.Ends()))


def test_an_output_of_another_graph_is_refused() -> None:
    g = Graph(NEW)
    assert "belongs to another Graph" in str(
        refusal(g, "ImageInvert", image=Graph(NEW).EmptyImage())
    )


# -- what is filled in --------------------------------------------------------------------


def test_inputs_that_are_left_out_have_the_defaults_of_the_page() -> None:
    """Optional ones, too; choices begin with the first; links are left out."""
    g = Graph(NEW)
    clip = g.CheckpointLoaderSimple().CLIP
    assert inputs_of(g.CLIPTextEncode(clip=clip), g) == {"text": "", "clip": ["1", 1]}
    audio = g.TextEncodeAceStepAudio(clip=clip)
    assert inputs_of(audio, g)["lyrics_strength"] == 1.0
    assert set(inputs_of(g.SaveAnimatedWEBP(images=g.EmptyImage()), g)) == {
        *("images", "filename_prefix", "fps", "lossless", "quality", "method"),
    }
    assert inputs_of(g.KSamplerSelect(), g) == {"sampler_name": "euler"}


@pytest.mark.parametrize(
    ("config", "default"),
    [
        (["INT", {}], 0),
        (["INT", {"min": 3}], 3),
        (["FLOAT", {"max": -1.5}], -1.5),
        (["BOOLEAN", {}], False),
        (["STRING", {}], ""),
        (["STRING"], ""),
        ([["a", "b"], {}], "a"),
        (["COMBO", {"options": ["a", "b"], "default": "b"}], "b"),
        (["COMBO", {"options": [6, 8]}], 6),
        (["COLOR", {"default": "#ffffff"}], "#ffffff"),
        (["COLOR", {}], "#000000"),
        (["COLORS", {}], {"__value__": []}),
    ],
    ids=str,
)
def test_a_widget_has_the_default_of_its_definition_or_of_its_type(
    config: list[Any], default: Any
) -> None:
    g = Graph({"A": made_up(x=config)})
    assert inputs_of(g.A(), g) == {"x": default}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (["MODEL", {}], "a link to an output of type MODEL"),
        (["INT", {"forceInput": True, "default": 3}], "a link to an output of type INT"),
        ([[], {}], "the server has nothing to choose from"),
        (["COMBO", {"remote": {"route": "/models"}}], "COMBO"),
        (["WEBCAM", {}], "WEBCAM"),
    ],
    ids=str,
)
def test_a_required_input_without_a_default_is_missed(config: list[Any], words: str) -> None:
    error = refusal(Graph({"A": made_up(x=config)}), "A", _title="T")
    assert str(error) == f"node 1 'T' (A), input 'x' is missing: {words}"


# -- what is refused ----------------------------------------------------------------------


def test_an_unknown_class_has_its_nearest_names() -> None:
    g = Graph(NEW)
    with pytest.raises(WorkflowError, match="no node class 'KSampller'; nearest: 'KSampler'"):
        _ = g.KSampller
    assert "KSampler" in refusal(g, "ksampler").candidates
    assert not hasattr(g, "shape")
    assert not hasattr(g, "_ipython_canary_method_should_not_exist_")


def test_names_much_further_than_the_nearest_are_left_out() -> None:
    error = refusal(Graph(NEW), "KSamplr")
    assert error.candidates == ("KSampler",)
    assert str(error).endswith("; nearest: 'KSampler'")


def test_the_nearest_file_is_named_once() -> None:
    some = made_up(ckpt_name=[["tiny.ckpt"], {}])
    error = refusal(
        Graph({"CheckpointLoaderSimple": some}), "CheckpointLoaderSimple", ckpt_name="tny.ckpt"
    )
    assert "nearest: 'tiny.ckpt'; the server looks in" in str(error)
    assert error.candidates == ("tiny.ckpt",)


def test_an_unknown_input_has_its_nearest_names() -> None:
    g = Graph(NEW)
    error = refusal(g, "EmptyImage", widht=64, _title="Canvas")
    assert str(error).startswith("node 1 'Canvas' (EmptyImage) has no input 'widht'; nearest: 'w")
    assert error.candidates[0] == "width"


@pytest.mark.parametrize(
    ("class_type", "name", "value", "words"),
    [
        ("EmptyImage", "width", 0, "width = 0 is too small; it takes INT (1 to 16384)"),
        ("EmptyImage", "width", 20_000, "width = 20000 is too big; it takes INT (1 to 16384)"),
        ("EmptyImage", "width", "64", "input 'width' takes INT, not '64'"),
        ("EmptyImage", "width", 64.5, "input 'width' takes INT, not 64.5"),
        ("EmptyImage", "width", True, "input 'width' takes INT, not True"),
        ("EmptyImage", "width", None, "input 'width' takes INT, not None"),
        ("EmptyImage", "width", float("nan"), "input 'width': nan is not a number"),
        ("PrimitiveFloat", "value", "1", "input 'value' takes FLOAT, not '1'"),
        ("PrimitiveBoolean", "value", 1, "input 'value' takes BOOLEAN, not 1"),
        ("PrimitiveString", "value", 1, "input 'value' takes STRING, not 1"),
        ("VAEDecode", "vae", "my.vae", "takes a link to an output of type VAE, not 'my.vae'"),
        ("EmptyImage", "width", ["9", 0], "['9', 0] links to node '9', which does not exist"),
        ("EmptyImage", "width", ["1", 3], "takes output 3 of node 1 (PrimitiveInt), which has"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_at_once(
    class_type: str, name: str, value: Any, words: str
) -> None:
    g = Graph(NEW)
    g.PrimitiveInt()
    if class_type == "VAEDecode":
        latent = g.EmptyLatentImage()
        error = refusal(g, class_type, {name: value}, samples=latent)
    else:
        error = refusal(g, class_type, {name: value})
    assert words in str(error)
    assert f"({class_type})" in str(error)


def test_a_choice_that_there_is_not_has_its_nearest() -> None:
    error = refusal(Graph(NEW), "KSamplerSelect", sampler_name="eular")
    assert "sampler_name = 'eular' is not one of the choices; nearest: 'euler'" in str(error)
    assert error.candidates[0] == "euler"


def test_a_refused_default_is_reported_as_a_default() -> None:
    g = Graph({"A": made_up(x=[["a.pt"], {"default": "b.pt"}])})
    assert "x has its default" in str(refusal(g, "A"))


def test_a_link_of_the_wrong_type_has_the_output_that_fits() -> None:
    g = Graph(NEW)
    loader = g.CheckpointLoaderSimple()
    error = refusal(g, "VAEDecode", samples=g.EmptyLatentImage(), vae=loader)
    assert "input 'vae' takes VAE, but node 1 (CheckpointLoaderSimple), slot 0, gives MODEL" in str(
        error
    )
    assert "its output 2, 'VAE', would fit" in str(error)
    assert error.candidates == ("VAE",)


def test_types_meet_as_the_server_has_it() -> None:
    """Any with all, and unions that overlap; INT is no FLOAT."""
    g = Graph(
        {
            "Gives": made_up(["*", "INT,FLOAT", "INT", "COMFY_MATCHTYPE_V3"]),
            "Takes": made_up(x=["FLOAT", {}]),
            "TakesAny": made_up(x=["*", {}]),
            "TakesSome": made_up(x=["INT,STRING", {}]),
        }
    )
    gives = g.Gives()
    for slot in (0, 1, 3):
        g.Takes(x=gives[slot])
    for slot in range(4):
        g.TakesAny(x=gives[slot])
        g.TakesSome(x=gives[slot])
    assert "takes FLOAT, but node 1 (Gives), slot 2, gives INT" in str(
        refusal(g, "Takes", x=gives[2])
    )


def test_choices_that_only_the_browser_knows_are_not_checked() -> None:
    """Nor are files, since more may be uploaded."""
    remote = ["COMBO", {"remote": {"route": "/models"}}]
    g = Graph({"A": made_up(x=remote, y=[["a.png"], {"image_upload": True}])})
    assert inputs_of(g.A(x="any", y="b.png"), g) == {"x": "any", "y": "b.png"}


def test_a_node_that_accepts_more_than_its_definition_says_goes_unchecked() -> None:
    """Defaults and links are as ever; a class of ComfyUI that does so is known."""
    g = Graph({**NEW, "Pack": made_up(choice=["COMBO", {"options": ["a"]}])})
    node = g.CustomCombo(choice="mine", index=0, option1="mine")
    assert inputs_of(node, g) == {"choice": "mine", "index": 0, "option1": "mine"}
    refusal(g, "Pack", choice="mine")
    node = g.Pack(choice="mine", more=1, _check=False)
    assert inputs_of(node, g) == {"choice": "mine", "more": 1}
    text = g.CLIPTextEncode(_check=False)
    assert inputs_of(text, g) == {"text": ""}
    refusal(g, "ImageInvert", image=["9", 0], _check=False)


def test_two_faults_of_a_node_are_reported_together() -> None:
    error = refusal(Graph(NEW), "EmptyImage", width=0, height=0)
    assert "width = 0" in str(error)
    assert "height = 0" in str(error)


@pytest.mark.parametrize("seed", ["random", -1])
def test_a_seed_can_be_left_to_the_submit(seed: Any) -> None:
    g = Graph(NEW)
    assert inputs_of(g.RandomNoise(noise_seed=seed), g) == {"noise_seed": seed}
    assert "too small" in str(refusal(g, "RandomNoise", noise_seed=-2))


def test_inputs_come_in_the_order_of_the_definition() -> None:
    """Required ones first, then optional ones, values and links as they come."""
    g = Graph(NEW)
    model, clip, vae = g.CheckpointLoaderSimple("tiny.ckpt")
    prompt = g.CLIPTextEncode("a fox", clip)
    assert inputs_of(prompt, g) == {"text": "a fox", "clip": ["1", 1]}
    latent = g.EmptyLatentImage(64, 128, batch_size=2)
    sampled = g.KSampler(model, 7, 20, 8.0, "euler", "normal", prompt, prompt, latent, _title="S")
    assert inputs_of(sampled, g)["seed"] == 7
    assert inputs_of(sampled, g)["latent_image"] == ["3", 0]
    assert inputs_of(sampled, g)["denoise"] == 1.0
    save = g.SaveImage(g.VAEDecode(sampled, vae), "fox")
    assert inputs_of(save, g)["filename_prefix"] == "fox"
    loose = made_up(one=["INT"], two=["INT"])
    loose["input"]["optional"] = {"three": ["INT"], "two": ["INT"]}
    g = Graph({"A": loose})
    assert inputs_of(g.A(1, 2, 3), g) == {"one": 1, "two": 2, "three": 3}


def test_inputs_that_a_choice_adds_have_no_position() -> None:
    """What follows the choice keeps its own."""
    g = Graph(NEW)
    image = g.EmptyImage()
    by_dict = {"resize_type.multiplier": 2.0}
    resized = g.ResizeImageMaskNode(by_dict, image, "scale by multiplier", "bicubic")
    assert inputs_of(resized, g) == {
        "input": ["1", 0],
        "resize_type": "scale by multiplier",
        "resize_type.multiplier": 2.0,
        "scale_method": "bicubic",
    }
    batch = g.BatchImagesNode([image, resized])
    assert inputs_of(batch, g) == {"images.image0": ["1", 0], "images.image1": ["2", 0]}


def test_too_many_inputs_are_refused_with_the_names() -> None:
    g = Graph(NEW)
    clip = g.CheckpointLoaderSimple("tiny.ckpt").CLIP
    with pytest.raises(TypeError, match="CLIPTextEncode takes 2 inputs, 'text', 'clip'; 3 were"):
        g.CLIPTextEncode("a fox", clip, "more")
    assert repr(g) == "<Graph 1 node>"
    assert "input 'text' is given twice" in str(refusal(g, "CLIPTextEncode", "a", clip, text="b"))
    assert "'text' is given twice" in str(refusal(g, "CLIPTextEncode", {"text": "a"}, "b", clip))


def test_without_definitions_inputs_have_names() -> None:
    with pytest.raises(
        TypeError, match=r"ImageInvert takes its inputs by name, not 5: .* Graph\(api\)"
    ):
        Graph().ImageInvert(5)


def test_a_wrapped_value_is_no_dict_of_inputs() -> None:
    g = Graph({"A": made_up(one=["CURVE"])})
    node = g.A({"__value__": [1, 2]})
    assert inputs_of(node, g) == {"one": {"__value__": [1, 2]}}


# -- choices ------------------------------------------------------------------------------

FILES = [
    *("tiny.ckpt", "sd/v1-5.safetensors", "2x.pth", "same.ckpt", "same.safetensors", "count"),
    *("class", "é", "_a", 5, "tiny.ckpt"),
]


def test_a_choice_is_an_attribute() -> None:
    g = Graph(NEW)
    assert g.choices.KSampler.sampler_name.euler == "euler"
    assert g.choices["KSampler"]["sampler_name"]["dpmpp_2m"] == "dpmpp_2m"
    assert "scheduler" in dir(g.choices.KSampler)
    assert "seed" not in dir(g.choices.KSampler)
    assert "dpmpp_2m" in dir(g.choices.KSampler.sampler_name)
    assert {"KSampler", "SaveImage"} <= set(dir(g.choices))


def test_choices_complete_in_brackets_and_say_what_they_are() -> None:
    choices = Graph(NEW).choices
    keys = choices._ipython_key_completions_()
    assert {"KSampler", "SaveImage"} <= set(keys)
    assert choices.KSampler._ipython_key_completions_()[:2] == ["sampler_name", "scheduler"]
    assert "euler" in choices.KSampler.sampler_name._ipython_key_completions_()
    assert repr(choices) == "<choices of all node classes>"
    assert repr(choices.KSampler).startswith("<choices of KSampler: 'sampler_name'")


def test_a_file_is_an_attribute_by_its_name() -> None:
    found = Graph({"Load": made_up(name=[FILES, {}])}).choices.Load.name
    names = {name: getattr(found, name) for name in dir(found)}
    assert names == {
        "tiny_ckpt": "tiny.ckpt",
        "sd_v1_5": "sd/v1-5.safetensors",
        "n2x": "2x.pth",
        "same_ckpt": "same.ckpt",
        "same_safetensors": "same.safetensors",
        "count": "count",
        "class_": "class",
        "a": "_a",
    }
    assert (list(found), len(found), 5 in found) == (FILES, len(FILES), True)
    assert found["é"] == "é"
    assert repr(found).startswith("<11 choices: 'tiny.ckpt'")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda c: c.KSamplr, "no node class 'KSamplr'; nearest: 'KSampler'"),
        (lambda c: c.KSampler.seed, "has no choices for 'seed'; there are 'sampler_name', "),
        (lambda c: c.KSampler.sampler_name.eulr, "has no choice 'eulr'; nearest: 'euler'"),
        (lambda c: c.KSampler.sampler_name["eulr"], "has no choice 'eulr'; nearest: 'euler'"),
    ],
)
def test_a_choice_that_is_none_is_refused_with_the_nearest(wrong: Any, says: str) -> None:
    with pytest.raises(WorkflowError) as caught:
        wrong(Graph(NEW).choices)
    assert says in str(caught.value)
    assert isinstance(caught.value, AttributeError)


def test_without_definitions_there_are_no_choices() -> None:
    assert dir(Graph().choices) == []
    with pytest.raises(WorkflowError, match="unknown without definitions"):
        Graph().choices.KSampler  # noqa: B018
    assert not hasattr(Graph(NEW).choices.KSampler.sampler_name, "_repr_html_")
    assert not hasattr(Graph(NEW).choices.KSampler, "_repr_html_")
    assert not hasattr(Graph(NEW).choices, "_repr_html_")


def test_an_input_that_is_given_twice_is_refused() -> None:
    assert "input 'width' is given twice" in str(
        refusal(Graph(NEW), "EmptyImage", {"width": 64}, width=32)
    )


def test_a_name_that_is_no_string_is_refused() -> None:
    """JSON would make one of it."""
    assert "input 5: the name is not a string" in str(refusal(Graph(), "A", {5: 1}))


def test_outputs_go_into_a_list_or_a_dict_of_a_group_only() -> None:
    """Without the definition, nobody knows of one: they would be sent as values."""
    g = Graph()
    a = g.A()
    for value in ([a], {"x": a}):
        assert "input 'x'" in str(refusal(g, "B", x=value))
    g = Graph({"A": made_up(["IMAGE"]), "B": made_up(x=["IMAGE"])})
    a = g.A()
    for value in ([[a]], {"x": {"y": a}}):
        assert "input 'x'" in str(refusal(g, "B", x=value))


def test_a_file_to_upload_fits_where_a_name_fits() -> None:
    picture = Upload(b"png", "a.png")
    known = {"A": made_up(x=[["b.png"], {"image_upload": True}], y=["STRING"], z=["INT"])}
    g = Graph(known)
    g.A(x=picture, y=picture, z=1)
    assert "input 'z'" in str(refusal(g, "A", x=picture, y="a", z=picture))


def test_a_curve_is_sent_as_the_page_sends_it() -> None:
    """A list could be taken for a link."""
    g = Graph({"A": made_up(x=["CURVE", {"default": [[0, 0], [1, 1]]}])})
    assert inputs_of(g.A(), g) == {"x": {"__type__": "CURVE", "__value__": [[0, 0], [1, 1]]}}


@pytest.mark.parametrize("spec", [[["x"], {}], ["INT", {}], ["IMAGE"]])
def test_a_secret_is_not_shown(spec: list[Any]) -> None:
    error = refusal(Graph({"A": made_up(api_key=spec)}), "A", api_key="k3y-0f-mine")
    assert "k3y-0f-mine" not in str(error)


def test_values_of_unusual_types_are_wrapped() -> None:
    """As servers unwrap it; a literal list is no link."""
    g = Graph(
        {"A": made_up(x=["MY_TYPE", {}], y=["COMBO", {"options": "ab", "multiselect": True}])}
    )
    given = {"__value__": {"a": 1}}
    assert inputs_of(g.A(x=given, y={"__value__": ["a"]}), g)["x"] == given
    several = Graph({"A": made_up(y=["COMBO", {"options": ["a", "b"], "multiselect": True}])})
    assert inputs_of(several.A(y=["a", "b", "a"]), several) == {"y": {"__value__": ["a", "b", "a"]}}
    assert "not among the choices" in str(refusal(several, "A", y=["a", "b", "c"]))


# -- inputs that stand for several --------------------------------------------------------


def test_an_autogrow_input_takes_a_list_or_names() -> None:
    g = Graph(NEW)
    a, b = g.EmptyImage(), g.EmptyImage()
    batch = g.BatchImagesNode(images=[a, b])
    assert inputs_of(batch, g) == {"images.image0": ["1", 0], "images.image1": ["2", 0]}
    text = g.StringFormat(values={"a": a, "c": b[0]}, f_string="{a} {c}")
    assert inputs_of(text, g) == {"values.a": ["1", 0], "values.c": ["2", 0], "f_string": "{a} {c}"}
    one = g.BatchImagesNode(images=a)
    assert inputs_of(one, g) == {"images.image0": ["1", 0]}
    numbers = g.ComfyMathExpression(values=[1, 2], expression="a + b")
    assert inputs_of(numbers, g) == {"values.a": 1, "values.b": 2, "expression": "a + b"}
    again = g.BatchImagesNode({"images.image0": b, "images.image3": ["1", 0]})
    assert inputs_of(again, g) == {"images.image0": ["2", 0], "images.image3": ["1", 0]}


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (None, "input 'images.image0' is missing: a link to an output of type IMAGE"),
        ([["1", 0]] * 51, "input 'images' takes at most 50, not 51"),
        ({"image50": ["1", 0]}, "has no input 'images.image50'"),
        ({"image00": ["1", 0]}, "has no input 'images.image00'"),
        ({"x": ["1", 0]}, "has no input 'images.x'"),
    ],
)
def test_an_autogrow_input_has_its_bounds(images: Any, words: str) -> None:
    g = Graph(NEW)
    g.EmptyImage()
    given = {} if images is None else {"images": images}
    assert words in str(refusal(g, "BatchImagesNode", given))


def test_the_choice_of_a_dynamic_combo_brings_its_inputs() -> None:
    g = Graph(NEW)
    picture = g.EmptyImage()
    scaled = g.ResizeImageMaskNode(input=picture, scale_method="area")
    assert inputs_of(scaled, g)["resize_type.crop"] == "center"
    other = g.ResizeImageMaskNode(
        {"resize_type.multiplier": 0.5}, input=picture, resize_type="scale by multiplier"
    )
    assert inputs_of(other, g) == {
        "input": ["1", 0],
        "resize_type": "scale by multiplier",
        "resize_type.multiplier": 0.5,
        "scale_method": "area",
    }
    error = refusal(
        g, "ResizeImageMaskNode", {"resize_type.width": 1}, input=picture, resize_type="match size"
    )
    assert "has no input 'resize_type.width'" in str(error)
    error = refusal(g, "ResizeImageMaskNode", input=picture, resize_type="double")
    assert "resize_type = 'double' is not one of the choices" in str(error)


def test_an_output_of_a_matched_type_has_the_type_of_the_link() -> None:
    g = Graph(NEW)
    scaled = g.ResizeImageMaskNode(input=g.EmptyImage())
    assert scaled.type == "IMAGE"
    g.SaveImage(images=scaled)
    assert "takes MASK" in str(refusal(g, "MaskToImage", mask=scaled))
    assert "takes IMAGE,MASK" in str(refusal(g, "ResizeImageMaskNode", input=g.EmptyLatentImage()))


def test_inputs_of_a_kind_that_is_not_known_are_left_alone() -> None:
    g = Graph({"A": made_up(rows=["COMFY_DYNAMICGROUP_V3", {}])})
    assert inputs_of(g.A({"rows.0.text": "x"}), g) == {"rows.0.text": "x"}
    assert "has no input 'rowss'" in str(refusal(g, "A", rowss=1))


# -- without definitions, and with a server -----------------------------------------------


def test_without_definitions_nothing_is_checked_and_nothing_filled_in() -> None:
    g = Graph()
    node = g.Anything(x=1, y=["9", 0])
    assert inputs_of(g.Other(z=node[3], w=node), g) == {"z": ["1", 3], "w": ["1", 0]}
    with pytest.raises(WorkflowError, match="is unknown without definitions"):
        list(node)
    with pytest.raises(WorkflowError, match="give each by its full name"):
        g.Other(z=[node, node])
    assert "Anything" not in dir(g)


def test_definitions_are_a_dict_or_what_has_them() -> None:
    with pytest.raises(WorkflowError, match="a ComfyApi, or a dict"):
        Graph("http://127.0.0.1:8188")  # type: ignore[arg-type]


class Server:
    """A source of definitions that counts what it is asked for."""

    def __init__(self, known: dict[str, Any]) -> None:
        self.known = known
        self.asked: list[Collection[str] | None] = []

    def node_definitions(
        self, classes: Collection[str] | None = None, *, refresh: bool = False
    ) -> Mapping[str, Any]:
        self.asked.append(classes)
        names = self.known if classes is None else classes
        return {name: self.known[name] for name in names if name in self.known}


def test_a_server_is_asked_for_the_classes_that_are_used() -> None:
    server = Server(NEW)
    Graph(server).EmptyImage()
    assert all(classes == ["EmptyImage"] for classes in server.asked)
    assert not hasattr(Graph(server), "_private")


def test_a_model_that_was_added_since_is_found() -> None:
    before = copy.deepcopy(NEW["CheckpointLoaderSimple"])

    class Growing(Server):
        def node_definitions(
            self, classes: Collection[str] | None = None, *, refresh: bool = False
        ) -> Mapping[str, Any]:
            if refresh:
                self.known = NEW
            return super().node_definitions(classes)

    before["input"]["required"]["ckpt_name"][0] = []
    g = Graph(Growing({"CheckpointLoaderSimple": before}))
    assert inputs_of(g.CheckpointLoaderSimple(ckpt_name="tiny.ckpt"), g)


# -- completion ---------------------------------------------------------------------------


def test_classes_and_their_inputs_are_completed() -> None:
    g = Graph(NEW)
    assert {"KSampler", "workflow", "node"} <= set(dir(g))
    assert "Epsilon Scaling" not in dir(g)
    assert "Epsilon Scaling" in g._ipython_key_completions_()
    signature = inspect.signature(g.KSampler)
    assert signature.parameters["steps"].default == 20
    assert signature.parameters["model"].default is inspect.Parameter.empty
    assert repr(signature.parameters["positive"].default) == "<required>"
    assert list(signature.parameters)[:3] == ["model", "seed", "steps"]
    kinds = {name: one.kind.name for name, one in signature.parameters.items()}
    assert set(kinds.values()) == {"POSITIONAL_OR_KEYWORD", "VAR_KEYWORD"}
    assert signature.parameters["sampler_name"].default == "euler"
    assert "images" in inspect.signature(g.BatchImagesNode).parameters


def test_choices_are_an_attribute_of_the_graph_itself() -> None:
    """IPython and its jedi evaluate no property, so nothing behind one would complete."""
    g = Graph(NEW)
    assert "euler" in dir(vars(g)["choices"].KSampler.sampler_name)
    for again in (copy.copy(g), copy.deepcopy(g), pickle.loads(pickle.dumps(g))):
        assert again.choices.KSampler.sampler_name.euler == "euler"


def test_completion_is_silent_while_the_server_is_away() -> None:
    """Nobody wants an error while typing."""

    class Away:
        def node_definitions(self, classes: Any = None, *, refresh: bool = False) -> Any:
            raise ServerUnreachable("it is away")

    assert "node" in dir(Graph(Away()))


# -- definitions that are none ------------------------------------------------------------

SPOILT = [
    *("KSampler", "ResizeImageMaskNode", "BatchImagesNode", "StringFormat", "CheckpointSave"),
    *("Flux2ImageNode", "LoadImage"),
]


@given(st.sampled_from(SPOILT), st.data())
def test_any_broken_definition_is_a_comfy_error(name: str, data: st.DataObject) -> None:
    """Any value in any place of a real one."""
    definition = NEW[name]
    place = data.draw(st.sampled_from(list(places(definition))))
    wrong = spoilt(definition, place, data.draw(st.sampled_from(HOSTILE)))
    g = Graph({name: wrong, "EmptyImage": NEW["EmptyImage"]})
    picture = g.EmptyImage()
    dir(g)
    for given_inputs in ({}, {"image": picture, "input": picture, "images": [picture]}):
        try:
            node = g[name](given_inputs)
            inspect.signature(g[name])
            dir(node)
            list(node)
        except WorkflowError:
            pass
