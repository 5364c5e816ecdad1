"""``Workflow.inputs``: what can be set, each with an address that means it."""

from __future__ import annotations

from typing import Any

import pytest

from comfy_client import SettableInput, Workflow
from tests.helpers.conformance import definitions, pairs
from tests.helpers.graphs import node, txt2img


def titled(title: str, entry: dict[str, Any]) -> dict[str, Any]:
    return {**entry, "_meta": {"title": title}}


def test_each_input_has_its_value_type_and_choices() -> None:
    found = Workflow(txt2img()).inputs(definitions("0.3.75"))
    by_address = {one.address: one for one in found}
    steps = by_address["KSampler.steps"]
    assert (steps.value, steps.type, steps.min, steps.max) == (3, "INT", 1, 10000)
    assert steps.choices is None
    chosen = by_address["KSampler.sampler_name"]
    assert (chosen.value, chosen.type) == ("euler", "COMBO")
    assert chosen.choices is not None
    assert "dpmpp_2m" in chosen.choices
    assert {"6.text", "7.text"} < by_address.keys()  # two nodes of one class
    assert not any(one.name == "model" for one in found)  # a link


def test_without_definitions_the_type_is_that_of_the_value() -> None:
    graph = {"1": node("A", i=1, f=1.5, s="x", b=True, n=None, o={"a": 1})}
    found = Workflow(graph).inputs()
    assert {one.name: one.type for one in found} == {
        "i": "INT",
        "f": "FLOAT",
        "s": "STRING",
        "b": "BOOLEAN",
        "n": None,
        "o": None,
    }
    assert {(one.choices, one.min, one.max) for one in found} == {(None, None, None)}


GRAPH: dict[str, Any] = {
    "1": titled("Mine", node("A", **{"x": 1, "mode.width": 2})),
    "2": titled("Twice", node("B", x=1)),
    "3": titled("Twice", node("B", x=1)),
    "4": titled("A", node("C", x=1)),  # the title is another's class
    "5": titled("Upscale 1.5", node("D", **{"x": 1, "5.x": 2})),
    "D": node("E", x=1),  # the id is another's class
    "C": titled("4", node("F", x=1)),  # title and class are others' ids
}


def test_an_address_means_this_input_and_no_other() -> None:
    workflow = Workflow(GRAPH)
    for at, one in enumerate(workflow.inputs()):
        workflow.set({one.address: f"v{at}"})
        assert workflow[one.node_id][one.name] == f"v{at}", one.address
    addresses = [one.address for one in workflow.inputs()]
    assert addresses[:5] == ["Mine.x", "Mine.mode.width", "2.x", "3.x", "A.x"]


@pytest.mark.parametrize("version", ["0.28.1", "0.3.75"])
def test_each_address_of_a_saved_workflow_sets_its_input(version: str) -> None:
    known = definitions(version)
    for name, _, api in list(pairs(version))[::5]:
        workflow = Workflow(api)
        found = workflow.inputs(known)
        values = {one.address: one.value for one in found}
        assert len(values) == len(found), name
        workflow.set(values)
        assert workflow == Workflow(api), name


@pytest.mark.long
def test_many_names_with_dots_take_little_time() -> None:
    """No node is searched for each of them."""
    many = {str(at): node("A", **{"a.b.c.d": 1}) for at in range(20_000)}
    found = Workflow(many).inputs()
    assert found[-1].address == "19999.a.b.c.d"


def test_a_secret_is_not_shown() -> None:
    (one,) = Workflow({"1": node("Ask", api_key="very-secret")}).inputs()
    assert "very-secret" not in f"{one} {one!r} {one.to_dict()}"


def test_inputs_of_a_workflow_read_as_a_table() -> None:
    found = Workflow(txt2img()).inputs(definitions("0.3.75"))
    head, first, *others = str(found).splitlines()
    assert head.split("  ")[0] == "input"
    assert first.split() == ["KSampler.steps", "INT", "3", "1", "to", "10000"]
    assert len(others) == len(found) - 1
    assert repr(found) == f"<{len(found)} inputs>"
    assert str(found[0]) == "KSampler.steps  INT  3  1 to 10000"
    assert isinstance(found[0], SettableInput)
    assert repr(Workflow({"1": node("A", x=1)}).inputs()) == "<1 input>"
    assert str(Workflow({"1": node("A")}).inputs()) == "<0 inputs>"


def test_a_notebook_shows_it_as_a_table() -> None:
    graph = {"1": node("A", text="<b>bold</b>"), "2": node("B")}
    markup = Workflow(graph).inputs()._repr_mimebundle_()["text/html"]
    assert "A.text" in markup
    assert "&lt;b&gt;" in markup


def test_a_table_is_bounded() -> None:
    many = {str(at): node("A", text="x\n\x1b[31m" * 1000) for at in range(600)}
    found = Workflow(many).inputs()
    assert str(found).endswith("... (600 in all)")
    assert len(str(found)) < 100_000
    assert len(found._repr_mimebundle_()["text/html"]) < 200_000
    assert "\x1b" not in str(found)
