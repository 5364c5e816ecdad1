"""Sweeps whose process is killed, and journals that are cut: nothing is lost or runs twice."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comfy_client import (
    ComfyApi,
)
from comfy_client.testing import ComfyServer
from comfy_client.timing import Timing
from tests.conftest import examples
from tests.helpers.interrupts import press_ctrl_c_in_submissions
from tests.helpers.long import few
from tests.helpers.sweeps import (
    GRID,
    LIMIT,
    POINTS,
    WORKFLOW,
    Victim,
    add_recorded_nodes,
    change,
    points,
    prompts,
    texts,
)


@pytest.mark.posix("forks")
@pytest.mark.long
def test_killed_at_every_step_in_turn_each_point_runs_once(api, server, record, journal) -> None:
    """Before, in and after each write, before and after each POST; the server is the witness."""
    grid = {"Make.seed": [0, 1, 2]}
    with Victim(server.url, journal, WORKFLOW, grid) as victim:
        for step in itertools.count(1):
            journal.unlink(missing_ok=True)
            api.clear_history()
            record.ran.clear()
            if victim.tell(f"step {step}") is not None:
                break
            rows = victim.tell("run")
            assert prompts(api) == {(seed, "a"): 1 for seed in range(3)}, f"step {step}"
            assert [said for _, said in rows] == [["ax0"], ["ax1"], ["ax2"]]
            assert {prompt_id for prompt_id, _ in rows} == set(api.get_histories())
            assert sorted(record.values()) == ["ax0", "ax1", "ax2"], f"step {step}"
    assert step == 3 * 8 + 1


SEEDS = [
    *few(range(2), 1),
    *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 60)),
]


@pytest.mark.posix("forks")
@pytest.mark.parametrize("seed", SEEDS)
def test_killed_at_random_moments_again_and_again_each_point_runs_once(
    api, server, record, journal, seed
) -> None:
    """Until it is done."""
    moments = random.Random(seed)
    with Victim(server.url, journal) as victim:
        for _ in range(6):
            victim.tell(f"after {moments.uniform(0.01, 0.25)}")
        assert len(victim.tell("run")) == len(POINTS)
    assert prompts(api) == dict.fromkeys(POINTS, 1)


@pytest.mark.posix("forks")
@pytest.mark.parametrize("seed", SEEDS)
def test_client_and_server_killed_at_random_moments_no_result_is_had_twice(
    api, server, record, journal, seed
) -> None:
    """In no life of the server a point twice, and none again whose end is in the journal."""
    chance = random.Random(seed)
    with Victim(server.url, journal) as victim:
        for _ in range(5):
            victim.tell(f"after {chance.uniform(0.05, 0.3)}")
            if chance.random() < 0.5:
                assert all(times == 1 for times in prompts(api).values())
                server.restart()
            had = {row["prompt_id"] for row in points(journal) if row["result"]}
            ran = len(record.values())
        rows = victim.tell("run")
    assert [said for _, said in rows] == [["ax0"], ["bx0"], ["ax1"], ["bx1"]]
    assert all(times == 1 for times in prompts(api).values())
    again = record.values()[ran:]
    kept = {prompt_id: said[0] for prompt_id, said in rows}
    assert had <= kept.keys()
    assert not {kept[prompt_id] for prompt_id in had} & set(again)


def test_a_submission_that_outlives_its_process_on_the_way_runs_once(
    api, server, record, journal
) -> None:
    """It gets there later than two looks at the queue take."""
    sent = press_ctrl_c_in_submissions(server, arrives=False)
    with pytest.raises(KeyboardInterrupt):
        api.sweep(WORKFLOW, {"Make.seed": [7]}, journal=journal)
    server.off("POST", "/prompt")
    api.close()
    late = threading.Timer(Timing().lost + 1.0, server.answer, sent)
    late.start()
    change(journal, "UPDATE points SET withdrawn = 0")  # kill -9
    with ComfyApi(server.url) as other:
        rows = other.sweep(WORKFLOW, {"Make.seed": [7]}, journal=journal)
        late.join(LIMIT)
        assert texts(rows) == ["ax7"]
        assert prompts(other) == {(7, "a"): 1}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ComfyApi, Path, bytes]]:
    """A sweep that has ended, and its journal."""
    path = tmp_path_factory.mktemp("journals") / "sweep.db"
    with ComfyServer() as server, ComfyApi(server.url) as api:
        add_recorded_nodes(server)
        api.sweep(WORKFLOW, GRID, journal=path)
        yield api, path, path.read_bytes()


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=examples(60))
@given(data=st.data())
def test_wherever_the_file_is_cut_it_is_carried_on_or_refused_but_nothing_runs_twice(
    finished: tuple[ComfyApi, Path, bytes], data: st.DataObject
) -> None:
    """By no crash, then."""
    api, path, content = finished
    cut = data.draw(st.integers(0, len(content)) | st.just(len(content)))
    tail = data.draw(st.sampled_from([b"", b"\x00" * 9, b"\x00" * 4096]))
    path.write_bytes(content[:cut] + tail)
    try:
        rows = api.sweep(WORKFLOW, GRID, journal=path)
    except ValueError as exc:
        assert "not a journal" in str(exc) or "damaged" in str(exc)  # noqa: PT017
        assert cut < len(content)
    else:
        assert texts(rows) == ["ax0", "bx0", "ax1", "bx1"]
    assert prompts(api) == dict.fromkeys(POINTS, 1)
