"""Edits of large files take a time that grows with the file, not with its square."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from comfy_client import Workflow
from tests.helpers.graphs import node
from tests.hostile.test_bounds import within

MANY = 10_000
DEFINITIONS = {
    "Load": {"input": {}, "output": ["IMAGE", "MASK"]},
    "Blend": {
        "input": {"required": {"a": ["IMAGE", {}], **{f"b{n}": [f"T{n}", {}] for n in range(20)}}},
        "output": ["MASK"],
    },
    "Save": {"input": {"required": {"image": ["IMAGE", {}]}}, "output": []},
}


def star() -> dict[str, Any]:
    """One node with many inputs, whose outputs many use."""
    return {
        "1": node("Load"),
        "2": node("Blend", a=["1", 0], **{f"x{n}": ["1", 0] for n in range(MANY)}),
        "3": node("Save", **{f"image{n}": ["2", n] for n in range(MANY)}),
        **{f"s{n}": node("Save", image=["2", 0]) for n in range(MANY)},
    }


def chain() -> dict[str, Any]:
    """One LoRA behind the other."""
    graph = {"0": node("UNETLoader")}
    for n in range(MANY):
        graph[str(n + 1)] = node("LoraLoaderModelOnly", model=[str(n), 0], lora_name="x")
    return graph | {"end": node("KSampler", model=[str(MANY), 0], seed=1)}


def loaders() -> dict[str, Any]:
    """Many models, of which one is used."""
    return {
        "end": node("KSampler", model=["0", 0], seed=1),
        **{str(n): node("UNETLoader") for n in range(MANY)},
    }


@pytest.mark.parametrize(
    ("graph", "edit"),
    [
        (star, lambda wf: wf.bypass("2", DEFINITIONS)),
        (star, lambda wf: wf.mute("2")),
        (chain, lambda wf: wf.add_lora("x")),
        (loaders, lambda wf: wf.add_lora("x")),
        (chain, lambda wf: wf.loras),
        (chain, lambda wf: wf.randomize_seeds()),
        (star, lambda wf: wf.set({("3", f"image{n}"): ["1", 0] for n in range(MANY)})),
        (star, str),
        (star, lambda wf: wf._repr_mimebundle_()),
        (chain, lambda wf: wf._ipython_key_completions_()),
    ],
    ids=["bypass", "mute", "chain", "loaders", "loras", "seeds", "set", "text", "page", "names"],
)
def test_an_edit_of_a_large_workflow_is_quick(
    graph: Callable[[], dict[str, Any]], edit: Callable[[Workflow], object]
) -> None:
    """A few seconds of this machine, where the square would be minutes."""
    workflow = Workflow.load(graph())
    with within(3.0):
        edit(workflow)
