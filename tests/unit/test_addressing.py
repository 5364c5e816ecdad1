"""Naming nodes and inputs: ``"KSampler.seed"``; setting several at once."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfy_client import Workflow, WorkflowError
from comfy_client.workflow.address import input_named, set_inputs
from tests.helpers.graphs import node, txt2img

GRAPH: dict[str, Any] = {
    "1": {**node("Load", name="a"), "_meta": {"title": "Model v1.5"}},
    "12:3": node("Batch", **{"images.image0": 1, "mode.width": 8}),
    "1.0.0.1": node("Expanded", text="x"),
    "6": {**node("CLIPTextEncode", text="a"), "_meta": {"title": "Positive prompt"}},
    "7": node("CLIPTextEncode", text="b"),
}


def refusal(graph: dict[str, Any], inputs: Any, *, force: bool = False) -> WorkflowError:
    """What is raised; nothing may have changed."""
    before = copy.deepcopy(graph)
    with pytest.raises(WorkflowError) as caught:
        set_inputs(graph, inputs, force=force)
    assert graph == before
    return caught.value


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Model v1.5.name", ("1", "name")),
        ("Load.name", ("1", "name")),
        ("1.name", ("1", "name")),
        ("12:3.images.image0", ("12:3", "images.image0")),
        ("Batch.mode.width", ("12:3", "mode.width")),
        ("1.0.0.1.text", ("1.0.0.1", "text")),
        ("Positive prompt.text", ("6", "text")),
        (("Model v1.5", "name"), ("1", "name")),
        (("7", "text"), ("7", "text")),
    ],
)
def test_an_input_is_named_by_node_and_input_whatever_dots_they_have(name: Any, found: Any) -> None:
    """The node by id, title or class; composite ids are ids."""
    assert input_named(GRAPH, name) == found


def test_an_ambiguous_name_is_refused_with_names_that_work() -> None:
    """By ids, which are unique."""
    error = refusal(copy.deepcopy(GRAPH), {"CLIPTextEncode.text": "c"})
    assert "ambiguous" in str(error)
    assert error.candidates == ("6.text", "7.text")


def test_titles_that_mean_one_node_each_would_do_too() -> None:
    """As every listed node has one; else only the ids are sure."""
    graph = copy.deepcopy(GRAPH)
    error = refusal(graph, {"CLIPTextEncode.text": "x"})
    assert "is ambiguous, address the node by its id: " in str(error)
    graph["7"]["_meta"] = {"title": "Negative prompt"}
    error = refusal(graph, {"CLIPTextEncode.text": "x"})
    assert "is ambiguous, address the node by its id or title: " in str(error)
    with pytest.raises(WorkflowError, match="address the node by its id or title: "):
        Workflow(graph)["CLIPTextEncode"]
    graph["7"]["_meta"] = {"title": "Positive prompt"}
    error = refusal(graph, {"CLIPTextEncode.text": "x"})
    assert "is ambiguous, address the node by its id: " in str(error)


def test_a_name_that_can_be_split_in_two_ways_is_ambiguous_and_a_pair_is_not() -> None:
    """One title begins as the other, and the rest is an input of that one."""
    graph = {"1": node("A", **{"B.c": 1}), "2": node("A.B", c=2)}
    error = refusal(graph, {"A.B.c": 3})
    assert "write a pair" in str(error)
    assert set(error.candidates) == {"1.B.c", "2.c"}
    set_inputs(graph, {("A", "B.c"): 3})
    assert graph == {"1": node("A", **{"B.c": 3}), "2": node("A.B", c=2)}


def test_of_nodes_with_one_title_the_one_that_has_the_input_is_meant() -> None:
    """Nothing else could be."""
    title = {"_meta": {"title": "T"}}
    graph = {"1": {**node("A", a=1), **title}, "2": {**node("B", b=1), **title}}
    assert input_named(graph, "T.b") == ("2", "b")


@pytest.mark.parametrize(
    ("name", "candidate", "says"),
    [
        ("Positive promt.text", "Positive prompt", "no node has the id, title or class"),
        ("7.txt", "text", "node 7 (CLIPTextEncode) has no input 'txt'"),
        ("12:3.images.image1", "images.image0", "has no input 'images.image1'"),
        (("Load", "nam"), "name", "has no input 'nam'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name: Any, candidate: str, says: str) -> None:
    """Nodes for a node, inputs for an input."""
    error = refusal(copy.deepcopy(GRAPH), {name: 1})
    assert error.candidates[0] == candidate
    assert says in str(error)


def test_nodes_of_one_title_are_distinguished_by_their_role() -> None:
    """Most files have two prompts of one title, and an id says little."""
    graph = {
        "7": {**node("CLIPTextEncode", text="b"), "_meta": {"title": "Prompt"}},
        "6": {**node("CLIPTextEncode", text="a"), "_meta": {"title": "Prompt"}},
        "3": node("KSampler", positive=["6", 0], negative=["7", 0]),
    }
    for name in ("Prompt.text", "CLIPTextEncode.text"):
        error = refusal(graph, {name: "c"})
        assert "node 7 'Prompt' (CLIPTextEncode) for 'negative'; " in str(error)
        assert "node 6 'Prompt' (CLIPTextEncode) for 'positive'" in str(error)
        assert error.hint == "Names that work: '7.text', '6.text'."


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("steps", ["Sampler.steps"]),
        ("text", ["6.text", "7.text"]),
        ("positive", ["6.text"]),  # the only value of the node that the input is linked to
        ("vae", []),  # its loader has two
        ("nope", []),
        ("clip", ["Loader.name"]),  # once, although two nodes have it
    ],
)
def test_a_name_without_a_dot_says_how_one_is_written(name: str, whole: list[str]) -> None:
    """As in map and sweep."""
    graph = {
        "3": {
            **node("KSampler", steps=4, positive=["6", 0], negative=["7", 0]),
            "_meta": {"title": "Sampler"},
        },
        "6": node("CLIPTextEncode", text="a", clip=["4", 0]),
        "7": node("CLIPTextEncode", text="b", clip=["4", 0]),
        "4": node("Loader", name="a.safetensors"),
        "5": node("Vae", name="b.safetensors", device="cpu"),
        "8": node("Decode", vae=["5", 0], samples=["9", 0]),
    }
    error = refusal(graph, {name: 1})
    listed = ", ".join(map(repr, whole)) or "'KSampler.seed'"
    assert str(error) == f"{name!r} names no input; write node and input: {listed}"
    assert error.candidates == tuple(whole)


@pytest.mark.parametrize("inputs", [{3: 1}, {("3",): 1}, {("3", 4): 1}, [("3.seed", 1)], "3.seed"])
def test_inputs_by_no_name_or_in_no_dict_are_a_type_error(inputs: Any) -> None:
    """Also with force."""
    with pytest.raises(TypeError):
        set_inputs(txt2img(), inputs, force=True)


# -- several at once -----------------------------------------------------------------------


def test_several_inputs_are_set_by_name() -> None:
    """On the workflow itself, of which the loaded dict is independent."""
    graph = txt2img()
    workflow = Workflow.load(graph)
    workflow.set({"KSampler.seed": 7, "6.text": "fox", "3.model": workflow["4"].output(2)})
    assert workflow["3"].inputs == {**graph["3"]["inputs"], "seed": 7, "model": ["4", 2]}
    assert workflow["6"]["text"] == "fox"
    assert graph == txt2img()


@pytest.mark.parametrize(
    "wrong",
    [
        {"KSampler.sed": 1},
        {"CLIPTextEncode.text": "a"},
        {"3.model": 5},
        {"3.model": ["99", 0]},
        {"3.cfg": float("nan")},
        {"KSampler.seed": 9},
    ],
    ids=["unknown", "ambiguous", "link", "missing node", "nan", "twice"],
)
def test_if_one_is_wrong_none_is_set(wrong: dict[str, Any]) -> None:
    """Whichever comes first."""
    refusal(txt2img(), {"3.seed": 8, **wrong})
    refusal(txt2img(), {**wrong, "3.seed": 8})


def test_a_link_is_replaced_by_a_value_with_force_only() -> None:
    """And an input is added."""
    assert "force=True" in str(refusal(txt2img(), {"KSampler.model": "x"}))
    graph = txt2img()
    set_inputs(graph, {"KSampler.model": "x", "KSampler.sigma.min": 1}, force=True)
    assert graph["3"]["inputs"]["model"] == "x"
    assert graph["3"]["inputs"]["sigma.min"] == 1


def test_an_input_is_not_added_to_one_of_several_nodes() -> None:
    """Force does not guess."""
    assert refusal(txt2img(), {"CLIPTextEncode.extra": 1}, force=True).candidates == (
        "6.extra",
        "7.extra",
    )


def test_a_node_is_no_value() -> None:
    """Which of its outputs is meant must be said."""
    workflow = Workflow.load(txt2img())
    with pytest.raises(TypeError, match=r"\.output\(0\)"):
        workflow.set({"KSampler.model": workflow["4"]})


NAMES = st.text(st.characters(codec="utf-8") | st.sampled_from(".:"), max_size=6)


def meanings(graph: dict[str, Any], address: Any) -> set[str]:
    """What a name means, or what it may mean, by ids."""
    try:
        return {".".join(input_named(graph, address))}
    except WorkflowError as exc:
        return set(exc.candidates)


@settings(deadline=None)
@given(st.lists(st.tuples(NAMES, NAMES, NAMES, NAMES), min_size=1, max_size=5), st.data())
def test_every_input_can_be_named(nodes: list[tuple[str, ...]], data: st.DataObject) -> None:
    """By id in a pair; as one text it has that meaning, or it is ambiguous."""
    graph: dict[str, Any] = {
        key: {"class_type": kind or "A", "inputs": {name: 0}, "_meta": {"title": title}}
        for key, kind, title, name in nodes
    }
    node_id = data.draw(st.sampled_from(sorted(graph)))
    ((name, _),) = graph[node_id]["inputs"].items()
    title = graph[node_id]["_meta"]["title"]
    assert input_named(graph, (node_id, name)) == (node_id, name)
    assert f"{node_id}.{name}" in meanings(graph, f"{node_id}.{name}")
    if title not in graph:  # else the id counts
        assert f"{node_id}.{name}" in meanings(graph, f"{title}.{name}")
