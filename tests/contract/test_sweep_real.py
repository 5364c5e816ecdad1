"""Many prompts on real servers: what the order saves, and that nothing runs twice."""

from __future__ import annotations

import itertools
import random
import sqlite3
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comfy_client import ComfyApi, JobTimeout, PromptRejected, Result, Sweep, SweepRow
from tests.comfyui import ComfyUI
from tests.conftest import load_workflow
from tests.contract.conftest import Server, may_forget
from tests.helpers.clients import until
from tests.helpers.graphs import fresh_color
from tests.helpers.sweeps import Victim, change, points

pytestmark = pytest.mark.real

LIMIT = 60.0

SLEEP = {
    "1": {"class_type": "TestSleepOutput", "inputs": {"seconds": 0.05, "ticks": 1, "text": "a"}}
}
TEXTS = {"TestSleepOutput.text": ["a", "b", "c", "d", "e"]}

PICTURES: dict[str, Any] = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 0},
    },
    "2": {
        "class_type": "ImageScale",
        "inputs": {
            "image": ["1", 0],
            "upscale_method": "bilinear",
            "width": 16,
            "height": 16,
            "crop": "disabled",
        },
    },
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "sweep/a"}},
}


def asleep(api: ComfyApi) -> Counter[str]:
    """How often each text was run, by what the server remembers when all is done."""
    until(lambda: api.poll_status(LIMIT).queue_remaining == 0)
    entries = api.get_histories(None).values()
    nodes = [entry.workflow.get("1", {}) for entry in entries]
    return Counter(
        node["inputs"]["text"] for node in nodes if node.get("class_type") == "TestSleepOutput"
    )


def colors() -> list[int]:
    """That no server has in its cache."""
    return [fresh_color() for _ in range(3)]


def executed(results: list[Result]) -> int:
    """Nodes that ran."""
    return sum(len(PICTURES) - len(result.cached_nodes) for result in results)


def test_the_order_saves_runs_of_nodes_and_rows_come_in_the_order_of_the_grid(
    api: ComfyApi, comfyui: Server
) -> None:
    """Against the order in which the grid is written, which suits the cache worst."""

    def grid() -> dict[str, list[Any]]:
        return {
            "SaveImage.filename_prefix": ["sweep/a", "sweep/b"],
            "ImageScale.width": [16, 32, 48],
            "EmptyImage.color": colors(),
        }

    first = grid()
    points = [dict(zip(first, point, strict=True)) for point in itertools.product(*first.values())]
    naive = executed(list(api.map(PICTURES, points)))
    second = grid()
    rows = api.sweep(PICTURES, second)
    saving = executed([row.result for row in rows])
    assert saving <= naive
    if not may_forget(comfyui):
        # Three pictures, each in three sizes, each of these in two files.
        assert (saving, naive) == (3 + 9 + 18, 3 * 18)
    assert [tuple(row.params.values()) for row in rows] == list(itertools.product(*second.values()))
    for row in rows:
        assert row.error is None
        assert row.cached == len(row.result.cached_nodes)
        assert 0 <= row.seconds <= row.waited + 0.05
        width = int.from_bytes(row.result.images[0].bytes()[16:20], "big")
        assert width == row.params["ImageScale.width"]


def test_no_more_than_in_flight_stand_in_the_queue(api: ComfyApi) -> None:
    """Of an endless map, and what waits is gone when it ends."""
    lengths = []
    api.on("status", lambda event: lengths.append(event.queue_remaining))
    params = ({"TestSleepOutput.text": str(number)} for number in itertools.count())
    results = api.map(SLEEP, params, in_flight=3)
    texts = [result.texts[0] for result in itertools.islice(results, 10)]
    results.close()
    assert texts == [str(number) for number in range(10)]
    assert api.get_queue().pending == ()
    until(lambda: api.poll_status(LIMIT).queue_remaining == 0)
    # A prompt that has told its end is counted until the worker puts it away.
    assert max(lengths) <= 3 + 1


def test_rows_from_a_journal_have_files_that_can_be_had(
    api: ComfyApi, comfyui: ComfyUI, tmp_path: Path
) -> None:
    """Also after a restart of the server, which forgot all about them."""
    grid = {"EmptyImage.color": colors()}
    journal = tmp_path / "sweep.db"
    rows = api.sweep(PICTURES, grid, journal=journal)
    pictures = [row.result.images[0].bytes() for row in rows]
    comfyui.restart()
    with ComfyApi(comfyui.url) as later:
        again = later.sweep(PICTURES, grid, journal=journal)
        assert all(row.from_journal for row in again)
        assert [row.result.images[0].bytes() for row in again] == pictures
        assert later.get_histories() == {}


@pytest.fixture(params=range(3))
def moments(request: pytest.FixtureRequest) -> Iterator[float]:
    """When to kill, in seconds; seeded."""
    generator = random.Random(request.param)
    return iter(lambda: generator.uniform(0.02, 0.6), None)


def test_killed_again_and_again_each_point_runs_once(
    any_api: ComfyApi, any_comfyui: ComfyUI, tmp_path: Path, moments: Iterator[float]
) -> None:
    """On each version, also those that choose the prompt's id themselves."""
    any_api.clear_history()
    with Victim(any_comfyui.url, tmp_path / "sweep.db", SLEEP, TEXTS) as victim:
        for moment in itertools.islice(moments, 4):
            victim.tell(f"after {moment}")
        rows = victim.tell("run")
    assert [texts for _, texts in rows] == [["a"], ["b"], ["c"], ["d"], ["e"]]
    assert asleep(any_api) == dict.fromkeys("abcde", 1)


def test_killed_around_the_post_each_point_runs_once(
    any_api: ComfyApi, any_comfyui: ComfyUI, tmp_path: Path
) -> None:
    """Before it, before its answer is written down, and where the next one begins."""
    for step in (4, 5, 6, 7):
        any_api.clear_history()
        with Victim(any_comfyui.url, tmp_path / f"{step}.db", SLEEP, TEXTS) as victim:
            assert victim.tell(f"step {step}") is None
            assert len(victim.tell("run")) == 5
        assert asleep(any_api) == dict.fromkeys("abcde", 1), f"step {step}"


def test_a_journal_that_lost_its_ends_runs_nothing_again(any_api: ComfyApi, tmp_path: Path) -> None:
    """Nor one that lost all but its first line: each prompt is looked for first."""
    any_api.clear_history()
    journal = tmp_path / "sweep.db"
    any_api.sweep(SLEEP, TEXTS, journal=journal)
    ours: dict[str, str] = {}
    ends = ("result", "error", "seconds", "execution_seconds")
    without_ends = "UPDATE points SET " + ", ".join(f"{name} = NULL" for name in ends)
    id_of = sqlite3.connect(journal).execute("SELECT id FROM journal").fetchone()[0]
    for row in points(journal):
        key = f"{row['digest']}/{row['occurrence']}/1"
        # As when the answer to the POST came too late, on a server that chooses the id.
        ours[row["prompt_id"]] = str(uuid.uuid5(uuid.UUID(id_of), key))
    for lost in (without_ends, "ids", "DELETE FROM points"):
        if lost == "ids":
            change(journal, without_ends)
            for theirs, own in ours.items():
                change(
                    journal, f"UPDATE points SET prompt_id = '{own}' WHERE prompt_id = '{theirs}'"
                )
        else:
            change(journal, lost)
        rows = any_api.sweep(SLEEP, TEXTS, journal=journal)
        assert [row.result.texts for row in rows] == [("a",), ("b",), ("c",), ("d",), ("e",)]
        assert asleep(any_api) == dict.fromkeys("abcde", 1)


def test_of_a_grid_that_has_changed_only_new_points_are_run(
    any_api: ComfyApi, tmp_path: Path
) -> None:
    """More values, or fewer."""
    any_api.clear_history()
    journal = tmp_path / "sweep.db"
    any_api.sweep(SLEEP, TEXTS, journal=journal)
    for texts, known in (("fbcdeg", 4), ("ag", 2), ("abcdefg", 7)):
        rows = any_api.sweep(SLEEP, {"TestSleepOutput.text": list(texts)}, journal=journal)
        assert [row.result.texts for row in rows] == [(text,) for text in texts]
        assert sum(row.from_journal for row in rows) == known
    assert asleep(any_api) == dict.fromkeys("abcdefg", 1)


@pytest.mark.parametrize(
    ("node_id", "change"),
    [
        ("4", {"inputs": {"ckpt_name": "misspelt.safetensors"}}),
        ("3", {"inputs": {"sampler_name": "misspelt"}}),
        ("8", {"class_type": "VAEDecoed"}),
    ],
    ids=["model", "beside the axis", "class"],
)
def test_a_refusal_that_no_axis_causes_ends_the_sweep_at_its_first_row(
    any_api: ComfyApi, node_id: str, change: dict[str, Any]
) -> None:
    """However a version puts it."""
    any_api.clear_history()
    graph = load_workflow("txt2img_tiny")
    node = graph[node_id]
    graph[node_id] = {**node, **change, "inputs": {**node["inputs"], **change.get("inputs", {})}}
    told: list[SweepRow] = []
    with pytest.raises(PromptRejected):
        any_api.sweep(graph, {"3.seed": range(9), "6.text": ["a", "b"]}, on_row=told.append)
    assert told == []
    assert any_api.get_histories() == {}


def test_a_refusal_that_an_axis_causes_is_that_of_its_row(any_api: ComfyApi) -> None:
    """The others run."""
    graph = load_workflow("txt2img_tiny")
    names = ["misspelt.safetensors", graph["4"]["inputs"]["ckpt_name"]]
    refused, done = any_api.sweep(graph, {"4.ckpt_name": names, "3.steps": [1]}, in_flight=1)
    assert isinstance(refused.error, PromptRejected)
    assert done.error is None


@pytest.mark.needs("interrupt by id")
def test_a_prompt_whose_time_is_up_is_cancelled_and_the_next_one_runs(api: ComfyApi) -> None:
    """By its id alone."""
    grid = {"TestSleepOutput.seconds": [60.0, 0.0], "TestSleepOutput.ticks": [600]}
    begun = time.monotonic()
    late, done = api.sweep(SLEEP, grid, timeout=8.0)
    assert isinstance(late.error, JobTimeout)
    assert "it was cancelled" in str(late.error)
    assert done.error is None
    assert time.monotonic() - begun < 50


def test_a_server_that_is_killed_and_started_again_costs_what_was_in_flight(
    comfyui: ComfyUI, tmp_path: Path
) -> None:
    """Within one call; what had ended is not run again."""
    journal = tmp_path / "sweep.db"
    killed = threading.Event()
    rows: list[SweepRow] = []
    found: list[Sweep] = []

    def on_row(row: SweepRow) -> None:
        rows.append(row)
        if len(rows) == 2:  # here, before the others have ended
            comfyui.kill()
            killed.set()

    def sweep() -> None:
        grid = {"TestSleepOutput.text": list("abcdef"), "TestSleepOutput.seconds": [2.0]}
        with ComfyApi(comfyui.url) as api:
            found.append(api.sweep(SLEEP, grid, journal=journal, in_flight=2, on_row=on_row))

    thread = threading.Thread(target=sweep)
    thread.start()
    assert killed.wait(LIMIT)
    comfyui.start()
    thread.join(2 * LIMIT)
    assert [row.result.texts[0] for row in found[0]] == list("abcdef")
    tries = [row["tries"] for row in points(journal) if row["result"]]
    assert len(tries) == 6
    assert 1 <= sum(times - 1 for times in tries) <= 2
    with ComfyApi(comfyui.url) as api:
        before = {row.params["TestSleepOutput.text"] for row in rows[:2]}
        assert before.isdisjoint(asleep(api))
