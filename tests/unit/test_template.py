"""A workflow with named inputs and outputs."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import attrs
import pytest

from comfy_client import Template, Workflow, WorkflowError
from tests.helpers.graphs import node, txt2img

SIZE = ["EmptyLatentImage.width", "5.height"]
INPUTS: dict[str, Any] = {"seed": "KSampler.seed", "size": SIZE, "text": ("6", "text")}


def a_template(**changes: Any) -> Template:
    return Template(txt2img(), **{"inputs": INPUTS, "outputs": {"image": "SaveImage"}, **changes})


def test_a_call_fills_the_inputs_and_leaves_the_rest() -> None:
    """One name may stand for several inputs."""
    filled = a_template()(seed=3, size=64)
    expected = Workflow.load(txt2img())
    expected.set({"3.seed": 3, "5.width": 64, "5.height": 64})
    assert filled == expected
    assert isinstance(filled, Workflow)
    assert filled.output_names == {"image": "9"}


def test_names_that_are_no_keywords_come_in_a_dict() -> None:
    """Also beside keywords, but not twice."""
    template = Template(txt2img(), {"my seed": "3.seed", "self": "3.cfg", "values": "3.steps"})
    filled = template({"my seed": 3}, self=2, values=4)
    assert [filled["3"][name] for name in ("seed", "cfg", "steps")] == [3, 2, 4]
    with pytest.raises(TypeError, match="'self' is given twice"):
        template({"self": 1}, self=2)


def test_a_template_never_changes() -> None:
    """Neither by a call, nor by what was given, nor by what was taken out."""
    graph, inputs, outputs = txt2img(), copy.deepcopy(INPUTS), {"image": "9"}
    workflow = Workflow.load(graph)
    template = Template(workflow, inputs, outputs)
    template(seed=3)["3"]["cfg"] = 1
    workflow["3"]["seed"] = 5
    inputs["size"].append("x")
    outputs.clear()
    template().output_names.clear()
    template.defaults.clear()
    for name in ("inputs", "outputs"):
        with pytest.raises(TypeError):
            getattr(template, name)["x"] = 1
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        template._inputs = {}  # type: ignore[misc]
    assert template() == Workflow.load(txt2img())
    assert template().output_names == {"image": "9"}
    assert graph == txt2img()


def test_a_template_has_inputs_outputs_and_defaults() -> None:
    """By id, as they are in the graph."""
    template = a_template()
    assert template.inputs == {
        "seed": (("3", "seed"),),
        "size": (("5", "width"), ("5", "height")),
        "text": (("6", "text"),),
    }
    assert template.outputs == {"image": "9"}
    assert template.defaults == {"seed": 1, "size": 128, "text": "a lighthouse"}
    assert repr(template) == "<Template inputs: 'seed', 'size', 'text'; outputs: 'image'>"


@pytest.mark.parametrize(
    ("changes", "says", "candidates"),
    [
        (
            {"inputs": {"seed": "KSampler.sed"}},
            "the input 'seed' of the template: .*no input 'sed'",
            ("seed",),
        ),
        ({"inputs": {"text": "CLIPTextEncode.text"}}, "ambiguous", ("6.text", "7.text")),
        ({"inputs": {"size": ["5.width", "5.heigt"]}}, "no input 'heigt'", ("height",)),
        ({"inputs": {"model": "KSampler.model"}}, "is linked to node 4 .*force=True", ()),
        ({"inputs": {"a": "3.seed", "b": "KSampler.seed"}}, "named twice: it is 'a', too", ()),
        ({"inputs": {"a": ["3.seed", "KSampler.seed"]}}, "named twice", ()),
        ({"inputs": {"a": []}}, "no input", ()),
        ({"outputs": {"image": "SavImage"}}, "the output 'image' of the template", ("SaveImage",)),
        ({"outputs": {"text": "CLIPTextEncode"}}, "ambiguous", ("6", "7")),
    ],
)
def test_names_are_checked_when_it_is_made(changes: Any, says: str, candidates: Any) -> None:
    """Not at the first call."""
    with pytest.raises(WorkflowError, match=says) as caught:
        a_template(**changes)
    assert caught.value.candidates == candidates


@pytest.mark.parametrize(
    "changes",
    [{"inputs": ["3.seed"]}, {"inputs": {3: "3.seed"}}, {"outputs": {"": "9"}}, {"outputs": "9"}],
)
def test_template_inputs_in_no_dict_by_name_are_a_type_error(changes: Any) -> None:
    """With what it is."""
    with pytest.raises(TypeError, match="dict by name"):
        a_template(**changes)


def test_an_unknown_input_is_refused_with_the_nearest() -> None:
    """And a value that JSON lacks."""
    with pytest.raises(WorkflowError, match="no input 'sed'; nearest: 'seed'") as caught:
        a_template()(sed=3)
    assert caught.value.candidates == ("seed",)
    with pytest.raises(WorkflowError, match="input 'seed': nan"):
        a_template()(seed=float("nan"))


def test_copies_keep_the_names_of_outputs() -> None:
    """Each its own."""
    filled = a_template()()
    for other in (filled.copy(), Workflow(filled), Workflow.load(filled), copy.copy(filled)):
        assert other.output_names == {"image": "9"}
        other.output_names.clear()
    assert filled.output_names == {"image": "9"}
    assert Workflow.load(txt2img()).output_names == {}


def test_a_template_goes_to_another_process() -> None:
    """As workers need it."""
    template = pickle.loads(pickle.dumps(a_template()))
    assert template(seed=3) == a_template()(seed=3)
    assert template.outputs == {"image": "9"}


def test_a_dot_in_a_name_needs_a_pair() -> None:
    """A list holds several inputs, a tuple is one."""
    graph = {"1": node("A", **{"b.c": 1}), "2": node("A.b", c=2)}
    template = Template(graph, {"x": [("A", "b.c"), ("A.b", "c")]})
    assert template.inputs == {"x": (("1", "b.c"), ("2", "c"))}
