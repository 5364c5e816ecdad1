"""Sweeps that are killed, and servers that are: nothing is lost, nothing runs twice."""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comfy_client import (
    AuthenticationError,
    ComfyApi,
    JobInterrupted,
    JobLost,
    RequestTimeout,
    Sweep,
    SweepRow,
    Workflow,
)
from comfy_client.jobs import LOST_APART
from comfy_client.journal import Journal
from comfy_client.testing import ComfyServer
from tests.conftest import examples
from tests.grids import (
    GRID,
    LIMIT,
    POINTS,
    WORKFLOW,
    Record,
    Victim,
    furnish,
    lines,
    prompts,
    texts,
)
from tests.heard import until


@pytest.fixture
def server() -> Iterator[ComfyServer]:
    with ComfyServer() as server:
        yield server


@pytest.fixture
def record(server: ComfyServer) -> Record:
    return furnish(server)


@pytest.fixture
def api(server: ComfyServer) -> Iterator[ComfyApi]:
    with ComfyApi(server.url) as api:
        yield api


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "sweep.jsonl"


def test_killed_at_every_step_in_turn_each_point_runs_once(api, server, record, journal) -> None:
    """Before, in and after each write, before and after each POST; the server is the witness."""
    grid = {"Make.seed": [0, 1, 2]}
    with Victim(server.url, journal, WORKFLOW, grid) as victim:
        for step in itertools.count(1):
            journal.unlink(missing_ok=True)
            api.clear_history()
            if victim.tell(f"step {step}") is not None:
                break
            rows = victim.tell("run")
            assert prompts(api) == {(seed, "a"): 1 for seed in range(3)}, f"step {step}"
            assert [said for _, said in rows] == [["ax0"], ["ax1"], ["ax2"]]
            assert {prompt_id for prompt_id, _ in rows} == set(api.get_histories())
    assert step == 3 * 8 + 1


SEEDS = [*range(2), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 60))]


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
            had = {line["point"] for line in lines(journal) if "result" in line}
            ran = len(record.values())
        rows = victim.tell("run")
    assert [said for _, said in rows] == [["ax0"], ["bx0"], ["ax1"], ["bx1"]]
    assert all(times == 1 for times in prompts(api).values())
    again = record.values()[ran:]
    assert not {rows[point][1][0] for point in had} & set(again)
    ends = Counter(line["point"] for line in lines(journal) if "result" in line)
    assert ends == dict.fromkeys(range(4), 1)


def test_a_submission_that_outlives_its_process_on_the_way_runs_once(
    api, server, record, journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets there later than two looks at the queue take."""
    sent: list[Any] = []

    def lost_on_the_way(body: Any, timeout: float | None = None) -> Any:
        sent.append(body)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(api, "_post_prompt", lost_on_the_way)
        with pytest.raises(KeyboardInterrupt):
            api.sweep(WORKFLOW, {"Make.seed": [7]}, journal=journal)
    api.close()
    late = threading.Timer(
        LOST_APART + 1.0, requests.post, (f"{server.url}/prompt",), {"json": sent[0]}
    )
    late.start()
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:2]))  # kill -9
    with ComfyApi(server.url) as other:
        rows = other.sweep(WORKFLOW, {"Make.seed": [7]}, journal=journal)
        late.join(LIMIT)
        assert texts(rows) == ["ax7"]
        assert prompts(other) == {(7, "a"): 1}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ComfyApi, Path, bytes]]:
    """A sweep that has ended, and its journal."""
    path = tmp_path_factory.mktemp("journals") / "sweep.jsonl"
    with ComfyServer() as server, ComfyApi(server.url) as api:
        furnish(server)
        api.sweep(WORKFLOW, GRID, journal=path)
        yield api, path, path.read_bytes()


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=examples(60))
@given(data=st.data())
def test_wherever_the_file_is_cut_it_is_carried_on_or_refused_but_nothing_runs_twice(
    finished: tuple[ComfyApi, Path, bytes], data: st.DataObject
) -> None:
    """Also where no crash can cut it, since a line is on the disk before what it tells."""
    api, path, content = finished
    cut = data.draw(st.integers(0, len(content)))
    tail = data.draw(st.sampled_from([b"", b"\x00" * 9, b'{"point"']))
    path.write_bytes(content[:cut] + tail)
    try:
        rows = api.sweep(WORKFLOW, GRID, journal=path)
    except ValueError as exc:
        assert "complete line" in str(exc) or "damaged" in str(exc) or tail  # noqa: PT017
        assert cut <= content.index(b"\n")
    else:
        assert texts(rows) == ["ax0", "bx0", "ax1", "bx1"]
        assert len(lines(path)) >= 9
    assert prompts(api) == dict.fromkeys(POINTS, 1)


def test_what_a_restarted_server_forgot_runs_again_and_the_rest_does_not(
    server, api, record, journal, monkeypatch
) -> None:
    """Within one call: the prompts in flight are lost with its queue."""
    monkeypatch.setattr("comfy_client.jobs.LOST_APART", 0.5)
    record.gate = threading.Semaphore(2)
    found: list[Sweep] = []
    thread = threading.Thread(
        target=lambda: found.append(
            api.sweep(WORKFLOW, {"Make.seed": range(5)}, journal=journal, in_flight=2)
        )
    )
    thread.start()
    until(lambda: len(lines(journal)) == 7 and len(api.get_queue().pending) == 1)
    server.restart()
    record.gate = None
    thread.join(LIMIT)
    assert texts(found[0]) == [f"ax{n}" for n in range(5)]
    assert Counter(record.values()) == dict.fromkeys(texts(found[0]), 1)
    sent = Counter(line["point"] for line in lines(journal) if "sent" in line)
    assert sent == {0: 1, 1: 1, 2: 2, 3: 2, 4: 1}
    again = api.sweep(WORKFLOW, {"Make.seed": range(5)}, journal=journal)
    assert texts(again) == texts(found[0])


def test_a_restart_of_the_server_between_two_calls_costs_only_what_had_not_ended(
    server, api, record, journal
) -> None:
    """Finished rows are in the journal."""
    record.gate = threading.Semaphore(1)

    def on_row(row: SweepRow) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.sweep(WORKFLOW, GRID, journal=journal, on_row=on_row)
    server.restart()
    record.gate = None
    rows = api.sweep(WORKFLOW, GRID, journal=journal)
    assert texts(rows) == ["ax0", "bx0", "ax1", "bx1"]
    assert [row.from_journal for row in rows] == [True, False, False, False]
    assert record.values().count("ax0") == 1


def test_a_point_that_the_server_forgets_each_time_ends_as_lost(
    server, api, record, monkeypatch
) -> None:
    """After three submissions: it may be what brings the server down."""
    monkeypatch.setattr("comfy_client.jobs.LOST_APART", 0.5)
    record.gate = threading.Semaphore(0)
    submitted = []

    def delete() -> None:
        for _ in range(3):
            until(lambda: api.get_queue().pending)
            (pending,) = api.get_queue().pending
            submitted.append(pending.prompt_id)
            api.delete_from_queue(pending.prompt_id)
            until(lambda: submitted[-1] not in api.get_queue())
        record.gate = None

    api.submit(Workflow(WORKFLOW))
    until(lambda: api.get_queue().running)
    thread = threading.Thread(target=delete)
    thread.start()
    with ComfyApi(server.url, transport="poll") as asking:  # hears of it sooner
        (row,) = asking.sweep(WORKFLOW, {"Make.seed": [5]})
    thread.join(LIMIT)
    assert isinstance(row.error, JobLost)
    assert len(set(submitted)) == 3


def test_an_interrupt_by_somebody_else_is_the_error_of_its_row(api, record, journal) -> None:
    """It is not repeated unless told."""
    record.gate = threading.Semaphore(0)
    thread = threading.Thread(
        target=lambda: (until(lambda: api.get_queue().running), api.interrupt())
    )
    thread.start()
    (row,) = api.sweep(WORKFLOW, {"Make.seed": [5]}, journal=journal)
    thread.join(LIMIT)
    assert isinstance(row.error, JobInterrupted)
    record.gate = None
    (row,) = api.sweep(WORKFLOW, {"Make.seed": [5]}, journal=journal)
    assert isinstance(row.error, JobInterrupted)
    (row,) = api.sweep(WORKFLOW, {"Make.seed": [5]}, journal=journal, retry_failed=True)
    assert texts((row,)) == ["ax5"]


def test_another_host_is_warned_about(server, api, record, journal, caplog) -> None:
    """It cannot know what ran elsewhere."""
    api.sweep(WORKFLOW, GRID, journal=journal)
    with ComfyApi(server.url.replace("127.0.0.1", "localhost")) as other:
        other.sweep(WORKFLOW, GRID, journal=journal)
    assert "was begun on http://127.0.0.1" in caplog.text


def test_a_disk_that_is_full_ends_it_before_the_post(api, record, journal, monkeypatch) -> None:
    """And what was torn then is mended the next time."""
    write = Journal.write

    def full(self: Journal, record: Any) -> None:
        if "sent" in record and record["point"] == 2:
            self._file.write(b'{"poi')
            raise OSError(28, "No space left on device")
        write(self, record)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "write", full)
        with pytest.raises(OSError, match="No space"):
            api.sweep(WORKFLOW, GRID, journal=journal, in_flight=1)
    assert texts(api.sweep(WORKFLOW, GRID, journal=journal)) == ["ax0", "bx0", "ax1", "bx1"]
    assert prompts(api) == dict.fromkeys(POINTS, 1)


def test_a_login_that_ends_on_the_way_ends_the_sweep_and_not_its_rows(journal, monkeypatch) -> None:
    """It says nothing about the prompts, so the journal has no end for them."""
    monkeypatch.setattr("comfy_client.jobs.LOST_APART", 0.5)
    with ComfyServer() as server, ComfyApi(server.url) as api:
        record = furnish(server)

        def refused(*_: Any, **__: Any) -> Any:
            raise AuthenticationError("401", status=401)

        def on_row(row: SweepRow) -> None:
            api._post_prompt = refused

        with pytest.raises(AuthenticationError):
            api.sweep(WORKFLOW, GRID, journal=journal, in_flight=1, on_row=on_row)
        del api._post_prompt
        rows = api.sweep(WORKFLOW, GRID, journal=journal)
        assert texts(rows) == ["ax0", "bx0", "ax1", "bx1"]
        assert len(record.values()) == 4


@pytest.mark.parametrize("arrives", [True, False])
def test_a_submission_without_an_answer_is_neither_lost_nor_doubled(
    api, record, journal, monkeypatch, arrives
) -> None:
    """It is looked for, then waited for until the server is sure, then sent again."""
    monkeypatch.setattr("comfy_client.submission.LOOK_UP", 0.5)
    monkeypatch.setattr("comfy_client.jobs.LOST_APART", 0.5)
    post = ComfyApi._post_prompt
    posted: list[str] = []

    def unanswered(self: ComfyApi, body: Any, **kw: Any) -> Any:
        posted.append(body["prompt_id"])
        answer = post(self, body, **kw) if arrives or len(posted) != 2 else None
        if len(posted) == 2:
            raise RequestTimeout("no answer")
        return answer

    monkeypatch.setattr(ComfyApi, "_post_prompt", unanswered)
    rows = api.sweep(WORKFLOW, GRID, journal=journal)
    assert texts(rows) == ["ax0", "bx0", "ax1", "bx1"]
    assert all(row.seconds for row in rows)
    assert prompts(api) == dict.fromkeys(POINTS, 1)
    assert len(set(posted)) == len(posted) == (4 if arrives else 5)
