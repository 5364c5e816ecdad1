"""The points of a sweep: their order, names and digest."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_client import (
    ApiError,
    PromptRejected,
    UploadTooLarge,
)
from comfy_client.batch.grid import Grid
from comfy_client.workflow.graph import downstream
from tests.conftest import load_workflow
from tests.helpers.sweeps import (
    GRID,
    POINTS,
    WORKFLOW,
)


def txt2img() -> dict[str, Any]:
    return load_workflow("txt2img_tiny")


# -- the grid ------------------------------------------------------------------------------


def test_the_node_that_feeds_the_most_is_the_outermost_loop() -> None:
    """Wherever it stands in the grid; the innermost is what feeds the least."""
    grid = Grid(
        txt2img(),
        {"KSampler.seed": range(3), "Checkpoint.ckpt_name": ["a", "b"], "Size.width": [64, 128]},
    )
    assert len(downstream(txt2img(), ["4"])) == 6
    assert len(downstream(txt2img(), ["5"])) == 4
    order = [grid.params(point) for point in grid.order()]
    assert [each["Checkpoint.ckpt_name"] for each in order] == ["a"] * 6 + ["b"] * 6
    assert [each["Size.width"] for each in order[:6]] == [64] * 3 + [128] * 3
    assert [each["KSampler.seed"] for each in order[:6]] == [0, 1, 2, 2, 1, 0]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_from_one_point_to_the_next_one_value_changes(sizes: list[int]) -> None:
    """And each point is there once."""
    inputs = ["KSampler.seed", "KSampler.steps", "Checkpoint.ckpt_name", "Size.width"]
    grid = Grid(txt2img(), {name: range(size) for name, size in zip(inputs, sizes, strict=False)})
    order = grid.order()
    assert sorted(order) == list(range(len(grid)))
    for here, there in itertools.pairwise(map(grid.params, order)):
        assert sum(here[name] != there[name] for name in here) == 1


def test_points_are_numbered_as_itertools_product_has_them() -> None:
    """With the names that the caller gave."""
    grid = Grid(WORKFLOW, GRID)
    assert [tuple(grid.params(n).values()) for n in range(len(grid))] == POINTS
    assert [list(grid.params(n)) for n in range(len(grid))] == [list(GRID)] * 4
    assert grid.workflow(1)["Load"]["name"] == "b"


def test_the_digest_is_that_of_what_is_run() -> None:
    """What an input had before it was varied, titles, and the order of axes do not count."""
    digest = Grid(WORKFLOW, GRID).digest(1)
    other = copy.deepcopy(WORKFLOW)
    other["3"]["inputs"]["seed"] = 99
    other["1"]["_meta"]["title"] = "another"
    assert Grid(other, {"3.seed": (0, 1), "1.name": ["a", "b"]}).digest(1) == digest
    assert Grid(WORKFLOW, dict(reversed(GRID.items()))).digest(2) == digest
    assert Grid(WORKFLOW, {"Make.seed": [0], "Load.name": ["b", "c"]}).digest(0) == digest
    assert Grid(Grid(WORKFLOW, GRID).workflow(1), {"Write.text": ["x"]}).digest(0) == digest
    other["2"]["inputs"]["text"] = "y"
    assert Grid(other, GRID).digest(1) != digest
    grid = Grid(WORKFLOW, {"Make.seed": [0, 0.0, False, 1]})
    assert len({grid.digest(point) for point in range(4)}) == 4


def fault(kind: str, name: str | None = None) -> dict[str, Any]:
    return {"type": kind, "extra_info": {} if name is None else {"input_name": name}}


# -- rows ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node_id", "errors", "may"),
    [
        ("3", [fault("value_not_in_list", "sampler_name")], False),
        ("3", [fault("value_bigger_than_max", "seed")], True),
        ("3", [fault("value_not_in_list")], True),
        ("3", [fault("required_input_missing", "seed.nested")], True),
        ("3", [fault("custom_validation_failed", "sampler_name")], True),
        ("3", [fault("return_type_mismatch", "model")], True),
        ("9", [fault("return_type_mismatch", "images")], True),
        ("4", [fault("return_type_mismatch", "model")], False),
        ("9", [fault("custom_validation_failed", "filename_prefix")], False),
        ("9", [fault("exception_during_inner_validation", "images")], True),
        ("4", [fault("value_not_in_list", "ckpt_name"), fault("of 2027")], False),
        ("9", [fault("value_not_in_list", "x"), fault("of 2027")], True),
        ("4", [], False),
        ("9", ["a text"], True),
    ],
)
def test_errors_that_an_axis_may_cause(node_id, errors, may) -> None:
    """In doubt, it may."""
    grid = Grid(txt2img(), {"KSampler.seed": [1, 2]})
    report = {"errors": errors, "dependent_outputs": ["9"], "class_type": "x"}
    error = PromptRejected(
        "no", error={"type": "prompt_outputs_failed_validation"}, node_errors={node_id: report}
    )
    assert grid.may_cause(error) is may
    # Another output could be run with another value.
    error.node_errors["3"] = {"errors": [fault("value_smaller_than_min", "seed")]}
    assert grid.may_cause(error)


@pytest.mark.parametrize(
    "error",
    [
        PromptRejected("no", error={"type": "dependency_cycle"}),
        PromptRejected("no"),
        ApiError("boom", status=500),
        UploadTooLarge("413"),
    ],
)
def test_errors_of_unknown_cause_may_come_from_an_axis(error) -> None:
    """A custom node's own refusal, a graph that the server stumbles over, a text too long."""
    assert Grid(txt2img(), {"KSampler.seed": [1]}).may_cause(error)
