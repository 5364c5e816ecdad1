"""A grid of prompts: its order and its rows."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import threading
from collections import Counter
from typing import Any

import pytest

from comfy_client import (
    ClientClosed,
    ComfyApi,
    ComfyError,
    JobFailed,
    PromptRejected,
    ServerUnreachable,
    Sweep,
    SweepRow,
    WorkflowError,
)
from comfy_client.testing import ComfyServer
from tests.conftest import load_workflow
from tests.helpers.clients import until
from tests.helpers.long import few
from tests.helpers.scripted import stops
from tests.helpers.sweeps import (
    GRID,
    POINTS,
    WORKFLOW,
    add_recorded_nodes,
    texts,
)


def txt2img() -> dict[str, Any]:
    return load_workflow("txt2img_tiny")


# -- the grid ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axes", "error", "match"),
    [
        ({"KSampler.sed": [1]}, WorkflowError, "no input 'sed'.*'seed'"),
        ({"KSamler.seed": [1]}, WorkflowError, "'KSampler'"),
        ({"CLIPTextEncode.text": ["a"]}, WorkflowError, "ambiguous"),
        ({"seed": [1]}, WorkflowError, "write node and input"),
        ({"KSampler.seed": [float("nan")]}, WorkflowError, "nan"),
        ({"KSampler.model": [1]}, WorkflowError, "is linked"),
        ({"KSampler.seed": []}, ValueError, "'KSampler.seed' has no values"),
        ({"KSampler.seed": itertools.count()}, ValueError, "100000 are the limit"),
        ({"KSampler.seed": [1], "3.seed": [2]}, ValueError, "are the same input"),
        ({}, ValueError, "has no input to vary"),
        ({"Positive prompt.text": "a text"}, TypeError, "takes a list of values"),
        ({"KSampler.seed": 7}, TypeError, "takes a list of values"),
        ({3: [7]}, TypeError, "named like"),
        ([("KSampler.seed", [1])], TypeError, "a dict of values"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused_before_anything_is_sent(axes, error, match) -> None:
    """In words that name the input; unknown names come with candidates."""
    api = ComfyApi("http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(error, match=match):
        api.sweep(txt2img(), axes)


# -- rows ----------------------------------------------------------------------------------


def test_rows_come_in_the_order_of_the_grid_and_run_in_another(api, record) -> None:
    """With parameters, seconds, results, and what was cached."""
    told: list[SweepRow] = []
    threads = set()
    on_row = lambda row: (told.append(row), threads.add(threading.get_ident()))  # noqa: E731
    rows = api.sweep(WORKFLOW, GRID, on_row=on_row)
    assert [tuple(row.params.values()) for row in rows] == POINTS
    assert [row.index for row in rows] == [0, 1, 2, 3]
    assert texts(rows) == ["ax0", "bx0", "ax1", "bx1"]
    assert record.values() == ["ax0", "ax1", "bx1", "bx0"]
    assert sorted(told, key=lambda row: row.index) == list(rows)
    assert threads == {threading.get_ident()}
    for row in rows:
        assert row.error is None
        assert not row.from_journal
        assert row.cached == len(row.result.cached_nodes)
        assert 0 <= row.seconds <= row.waited + 0.01
    with pytest.raises(AttributeError):
        rows[0].index = 7


def test_the_order_saves_runs_of_nodes(api, record) -> None:
    """Counted on the server, against the order in which the grid is written."""
    grid = {"Make.seed": range(4), "Write.text": ["x", "y"], "Load.name": ["a", "b"]}
    names, values = list(grid), list(grid.values())
    naive = [dict(zip(names, point, strict=True)) for point in itertools.product(*values)]
    assert len(list(api.map(WORKFLOW, naive))) == 16
    in_naive_order = Counter(name for name, _ in record.ran)
    record.ran.clear()
    rows = api.sweep(WORKFLOW, grid)
    in_this_order = Counter(name for name, _ in record.ran)
    assert in_naive_order == {"Load": 16, "Write": 8, "Make": 16, "Keep": 16}
    # One of each stands in the cache already.
    assert in_this_order["Load"] in (1, 2)
    assert in_this_order["Write"] in (2, 3)
    assert in_this_order["Make"] in (15, 16)
    assert sum(row.cached for row in rows) == 4 * 16 - in_this_order.total()


def test_an_error_of_one_prompt_is_in_its_row_and_the_others_run(api, record) -> None:
    """Of the run, and of the server's check."""
    record.failing = {1}
    rows = api.sweep(WORKFLOW, {"Make.seed": [0, 1, "many", 3]}, in_flight=2)
    assert texts(rows) == ["ax0", None, None, "ax3"]
    assert [type(row.error) for row in rows] == [type(None), JobFailed, PromptRejected, type(None)]
    assert rows[1].waited is not None
    assert rows[2].waited is None
    assert rows[2].cached is None


def test_the_table_is_flat(api, record) -> None:
    """For csv and pandas."""
    record.failing = {1}
    first, second = api.sweep(WORKFLOW, {"Make.seed": [0, 1]}).table()
    assert list(first) == [
        *("Make.seed", "files", "paths", "seconds", "waited", "cached", "prompt_id"),
        *("host", "error"),
    ]
    assert (first["Make.seed"], first["files"], first["paths"], first["error"]) == (0, [], [], None)
    assert "seed 1 is one that fails" in second["error"]
    json.dumps([first, second])


def test_an_error_of_on_row_ends_the_sweep_and_cancels_queued_points(server, api, record) -> None:
    """What runs goes on."""
    record.gate = threading.Semaphore(1)

    def on_row(row: SweepRow) -> None:
        until(lambda: api.get_queue().running)
        raise LookupError("enough")

    with pytest.raises(LookupError):
        api.sweep(WORKFLOW, {"Make.seed": range(10)}, on_row=on_row)
    assert api.get_queue().pending == ()
    assert len(api.get_queue().running) == 1
    assert not stops(server)
    record.gate = None


@pytest.mark.timing(lost=0.5)
def test_sweep_raises_unreachable_at_once(journal) -> None:
    """Only a server that was there is waited for; the journal stays good."""
    api = ComfyApi("http://127.0.0.1:9")
    with contextlib.closing(api), pytest.raises(ServerUnreachable):
        api.sweep(WORKFLOW, GRID, journal=journal)
    with ComfyServer() as server, ComfyApi(server.url) as api:
        add_recorded_nodes(server)
        assert texts(api.sweep(WORKFLOW, GRID, journal=journal)) == ["ax0", "bx0", "ax1", "bx1"]


def test_strict_refuses_what_the_server_would_run_in_part(api, record) -> None:
    """As submit does; at once, since no point would do."""
    graph = copy.deepcopy(WORKFLOW)
    graph["5"] = {"class_type": "Keep", "inputs": {}}
    with pytest.raises(PromptRejected, match="would run only a part"):
        api.sweep(graph, {"Make.seed": [1, 2]}, strict=True)
    (row,) = api.sweep(graph, {"Make.seed": [3]})
    assert row.result.node_errors


def simulated() -> dict[str, Any]:
    """What the embedded server can run."""
    graph = txt2img()
    graph["4"]["inputs"]["ckpt_name"] = "simulated.safetensors"
    return graph


def unknown_model(graph: dict[str, Any]) -> None:
    graph["4"]["inputs"]["ckpt_name"] = "misspelt.safetensors"


def beside_the_axis(graph: dict[str, Any]) -> None:
    graph["3"]["inputs"]["sampler_name"] = "misspelt"


def unknown_class(graph: dict[str, Any]) -> None:
    graph["8"]["class_type"] = "VAEDecoed"


def no_output(graph: dict[str, Any]) -> None:
    del graph["9"]


def no_such_node(graph: dict[str, Any]) -> None:
    graph["3"]["inputs"]["model"] = ["99", 0]


@pytest.mark.parametrize(
    ("spoil", "error"),
    few(
        [
            (beside_the_axis, PromptRejected),
            (no_such_node, WorkflowError),
            (unknown_model, PromptRejected),
            (unknown_class, PromptRejected),
            (no_output, PromptRejected),
        ],
        2,
    ),
)
def test_a_refusal_that_no_axis_causes_ends_the_sweep_at_its_first_row(
    server, api, journal, spoil, error
) -> None:
    """With that error; the next call begins where it was."""
    graph = simulated()
    grid = {"KSampler.seed": range(3), "Positive prompt.text": ["a", "b"]}
    spoil(graph)
    with pytest.raises(error) as caught:
        api.sweep(graph, grid, journal=journal)
    assert "no input of the grid is the cause" in caught.value.__notes__[0]
    posts = [each for each in server.requests if (each.method, each.path) == ("POST", "/prompt")]
    assert len(posts) <= 1
    with pytest.raises(error):
        api.sweep(graph, grid, journal=journal)
    rows = api.sweep(simulated(), grid, journal=journal)
    assert [row.error for row in rows] == [None] * 6
    assert len(api.get_histories()) == 6


def test_a_refusal_that_an_axis_causes_is_that_of_its_row(api) -> None:
    """A value, or a link to what is refused."""
    graph = simulated()
    graph["20"] = copy.deepcopy(graph["4"])
    unknown_model({"4": graph["20"]})
    for grid in (
        {"4.ckpt_name": ["misspelt.safetensors", "simulated.safetensors"]},
        {"KSampler.model": [["20", 0], ["4", 0]]},
    ):
        refused, done = api.sweep(graph, grid, in_flight=1)
        assert isinstance(refused.error, PromptRejected)
        assert done.error is None


def test_a_link_of_an_axis_may_lead_to_what_cannot_be_sent(api, record) -> None:
    """Elsewhere it can."""
    graph = {**WORKFLOW, "5": {"class_type": "Write", "inputs": {"text": ["99", 0]}}}
    refused, done = api.sweep(graph, {"Make.model": [["5", 0], ["1", 0]]}, in_flight=1)
    assert isinstance(refused.error, WorkflowError)
    assert texts([done]) == ["ax0"]


# -- a sweep that ends early ----------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, ClientClosed])
def test_a_sweep_that_ends_early_leaves_its_rows(api, record, error) -> None:
    """With the exception, whichever it is, in the order of the grid."""
    ended: list[SweepRow] = []

    def stop(row: SweepRow) -> None:
        ended.append(row)
        if len(ended) == 2:
            raise error

    with pytest.raises(error) as caught:
        api.sweep(WORKFLOW, GRID, on_row=stop)
    rows: Any = vars(caught.value)["rows"]
    assert isinstance(rows, Sweep)
    assert list(rows) == sorted(ended, key=lambda row: row.index)
    assert all(row.result for row in rows)


def test_an_error_of_no_sweep_has_no_rows() -> None:
    """So it can always be asked."""
    assert list(ComfyError("other").rows) == []
