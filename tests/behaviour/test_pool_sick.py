"""A server of a pool that answers, and fails or refuses what it gets: the others do the work."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from comfy_client import (
    ApiError,
    ClientClosed,
    ComfyPool,
    JobFailed,
    JobLost,
    PoolEvent,
    PromptRejected,
    Result,
    UnexpectedResponse,
)
from comfy_client.testing import ComfyServer
from tests.helpers.clients import LIMIT, until
from tests.helpers.long import few
from tests.helpers.sick import FAILING, KINDS, Resting, Work, pool_of, work

COUNT = 24
#: What is said of an answer that is no good.
ANSWERS = (ApiError, UnexpectedResponse)
#: Jobs that a sick server fails before it gets no more, and those that it has by then.
FEW = Resting.tries.failures + 1


@pytest.fixture
def servers() -> Iterator[list[ComfyServer]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(ComfyServer()) for _ in range(3)]


@pytest.fixture
def works(servers: list[ComfyServer]) -> list[Work]:
    return [Work(server) for server in servers]


def tried(server: ComfyServer) -> int:
    """How many prompts were sent to it."""
    return sum(one.method == "POST" and one.path == "/prompt" for one in server.requests)


@pytest.mark.parametrize("kind", few(KINDS, 6))
def test_the_others_do_the_work_of_a_sick_server(servers, works, kind) -> None:
    KINDS[kind](servers[0], works[0])
    with pool_of(servers, on_failed="move") as pool:
        results = list(pool.map((work(n) for n in range(COUNT)), ordered=True))
        status = pool.status()
    assert [result.texts for result in results] == [(str(n),) for n in range(COUNT)]
    assert works[1].begun + works[2].begun == Counter(range(COUNT))
    assert tried(servers[0]) <= FEW
    assert (status.done, status.failed) == (COUNT, 0)
    # One that takes long to refuse has hardly had a third job when all is done.
    is_suspect = tried(servers[0]) >= Resting.tries.failures
    assert (status.servers[0].suspect is not None) is is_suspect
    assert [one.suspect for one in status.servers[1:]] == [None, None]


@pytest.mark.parametrize("kind", few(KINDS, 3))
def test_the_others_do_the_points_of_a_sick_server(servers, works, kind, tmp_path: Path) -> None:
    """It takes over none of theirs, and rows that move are not written as failed."""
    KINDS[kind](servers[0], works[0])
    journal = tmp_path / "night.db"
    grid = {"Work.number": range(COUNT)}
    told: list[int] = []
    with pool_of(servers, on_failed="move") as pool:
        rows = pool.sweep(work(), grid, journal=journal, on_row=lambda row: told.append(row.index))
        again = pool.sweep(work(), grid, journal=journal)
    for each in (rows, again):
        assert [row.error for row in each] == [None] * COUNT
        assert {row.host for row in each} == {server.url for server in servers[1:]}
    assert sorted(told) == list(range(COUNT))
    assert works[1].begun + works[2].begun == Counter(range(COUNT))
    assert tried(servers[0]) <= FEW


@pytest.mark.parametrize("kind", FAILING)
def test_a_sick_server_fails_a_few_jobs_unless_they_are_to_move(servers, works, kind) -> None:
    KINDS[kind](servers[0], works[0])
    with pool_of(servers) as pool:
        found = list(pool.map((work(n) for n in range(COUNT)), on_error="keep"))
        status = pool.status()
    failed = [one for one in found if not isinstance(one, Result)]
    assert all(isinstance(one, JobFailed) for one in failed)
    assert len(failed) == status.failed <= Resting.tries.failures
    with pool_of(servers) as pool:
        rows = pool.sweep(work(), {"Work.number": range(COUNT)})
    assert sum(row.error is not None for row in rows) <= Resting.tries.failures


@pytest.mark.parametrize("mode", few(["round_robin", "first_free"], 1))
def test_a_sick_server_gets_less_in_any_mode(servers, works, mode) -> None:
    KINDS["CUDA error"](servers[0], works[0])
    with pool_of(servers, mode=mode, on_failed="move") as pool:
        assert len(list(pool.map(work(n) for n in range(COUNT)))) == COUNT
    assert tried(servers[0]) <= FEW


@pytest.mark.parametrize("on_failed", ["raise", "move"])
def test_a_workflow_that_fails_everywhere_makes_no_server_suspect(
    servers, works, on_failed, caplog
) -> None:
    """It ends soon: no server rests, though each fails more than a sick one may."""
    for each in works:
        each.error = RuntimeError("the workflow is bad")
    with pool_of(servers, on_failed=on_failed) as pool:
        found = list(pool.map((work(n) for n in range(COUNT)), on_error="keep"))
        assert {type(one) for one in found} == {JobFailed}
        rows = pool.sweep(work(), {"Work.number": range(COUNT)})
        assert {type(row.error) for row in rows} == {JobFailed}
        assert [one.suspect for one in pool.status().servers] == [None] * 3
        for each in works:
            each.error = None
        assert len(list(pool.map(work(n) for n in range(COUNT)))) == COUNT
        assert [one.suspect for one in pool.status().servers] == [None] * 3
    runs = sum(sum(each.begun.values()) for each in works)
    assert runs <= 5 * COUNT  # each of those that fail runs twice at most


def test_a_bad_workflow_ends_soon_though_another_server_never_answered(servers, works) -> None:
    works[0].error = RuntimeError("the workflow is bad")
    with Resting([servers[0].url, "http://127.0.0.1:1"]) as pool:
        until(lambda: pool.status().servers[1].state == "down")
        found = list(pool.map((work(n) for n in range(COUNT)), on_error="keep"))
        assert {type(one) for one in found} == {JobFailed}


def test_jobs_that_only_a_sick_server_can_run_fail_soon(servers, works) -> None:
    """As on a single server; those of others do not wait behind them."""
    KINDS["CUDA error"](servers[0], works[0])
    with pool_of(servers) as pool:
        jobs = [pool.submit(work(n), include=[servers[0].url]) for n in range(COUNT)]
        others = [pool.submit(work(n)) for n in range(COUNT)]
        assert {type(job.exception(LIMIT)) for job in jobs} == {JobFailed}
        assert sum(job.exception(LIMIT) is None for job in others) >= COUNT - 3
        rows = pool.sweep(work(), {"Work.number": range(COUNT)}, include=[servers[0].url])
        assert {type(row.error) for row in rows} == {JobFailed}


class Eager(ComfyPool):
    """A suspect rests for a moment only."""

    intervals = attrs.evolve(ComfyPool.intervals, rest=0.05, longest_rest=0.05)


def test_a_success_makes_a_sick_server_well_again(servers, works, caplog) -> None:
    """It says so: by its status, two events, and two lines of the log.

    The jobs with which it was tried have all been run by others.
    """
    caplog.set_level(logging.INFO, "comfy_client")
    heard: list[PoolEvent] = []
    with pool_of(servers, Eager) as pool:
        for name in ("suspect", "well"):
            pool.on(name, lambda _, event: heard.append(event))
        KINDS["CUDA error"](servers[0], works[0])
        found: list[Any] = []
        while not heard:
            found += pool.map((work(n) for n in range(COUNT)), on_error="keep")
        assert sum(isinstance(one, JobFailed) for one in found) == 3
        suspect = pool.status()
        works[0].error = None
        while len(heard) < 2:
            assert len(list(pool.map(work(n) for n in range(COUNT)))) == COUNT
        well = pool.status()
    assert [(event.name, event.server) for event in heard] == [
        ("suspect", servers[0].url),
        ("well", servers[0].url),
    ]
    reason = suspect.servers[0].suspect
    assert reason is not None
    assert "jobs failed in a row" in reason
    assert "CUDA error" in reason
    assert f"suspect: {reason}"[:60] in str(suspect)
    assert "3 of 3 servers ready (1 suspect)" in str(suspect)
    assert suspect.to_dict()["servers"][0]["suspect"] == reason
    assert "3 jobs failed in a row" in heard[0].reason
    assert well.servers[0].suspect is None
    lines = [(one.levelname, one.getMessage()) for one in caplog.records]
    about = [(level, text) for level, text in lines if f"{servers[0].url} is " in text]
    assert [level for level, _ in about] == ["WARNING", "INFO"]
    assert "is suspect: 3 jobs failed in a row" in about[0][1]


def test_a_job_that_moves_has_one_end(servers, works) -> None:
    """Its events, callbacks and status are those of the run that counts."""
    works[0].error = RuntimeError("no luck")
    told: list[str] = []
    with pool_of(servers[:2], on_failed="move") as pool:
        job = pool.submit(
            work(7),
            include=[one.url for one in servers[:2]],
            on_event=lambda e: told.append(e.name),
        )
        jobs = [job, *(pool.submit(work(n)) for n in range(3))]
        names = [[event.name for event in one.events() if event.is_end] for one in jobs]
        assert names == [["execution_success"]] * 4
        assert [one.result(LIMIT).texts for one in jobs] == [("7",), ("0",), ("1",), ("2",)]
        assert {one.status for one in jobs} == {"succeeded"}
    until(lambda: "execution_success" in told)
    assert "execution_error" not in told


def test_a_job_that_fails_twice_has_the_last_error(servers, works) -> None:
    for number, each in enumerate(works):
        each.error = RuntimeError(f"no luck on {number}")
    with pool_of(servers, on_failed="move") as pool:
        job = pool.submit(work())
        error = job.exception(LIMIT)
        assert isinstance(error, JobFailed)
        assert [event.name for event in job.events() if event.is_end] == ["execution_error"]
    begun = [number for number, each in enumerate(works) for _ in each.begun.elements()]
    assert len(begun) == 2
    assert job.server in {servers[number].url for number in begun}
    assert f"no luck on {[s.url for s in servers].index(job.server)}" in str(error)


def test_a_job_that_failed_and_is_refused_elsewhere_has_failed(servers, works) -> None:
    works[0].error = RuntimeError("no luck")
    for server in servers[1:]:
        server.faults.answer("POST", "/prompt", (500, {}, ""))
    with pool_of(servers, on_failed="move") as pool:
        job = pool.submit(work(), exclude=[servers[2].url])
        assert isinstance(job.exception(LIMIT), JobFailed)
        assert [event.name for event in job.events() if event.is_end] == ["execution_error"]
        assert pool.status().failed == 1


def test_a_job_that_was_to_move_and_has_nowhere_to_go_has_its_error(servers, works) -> None:
    """Told as ever, though the server that was to run it went away in the meantime."""
    works[0].error = RuntimeError("no luck")
    both = [one.url for one in servers[:2]]
    with pool_of(servers[:2], on_failed="move", in_flight=1, patience=0.2) as pool:
        works[1].gate.clear()
        busy = pool.submit(work(1), include=[servers[1].url])
        until(lambda: busy.status == "running")
        job = pool.submit(work(2), include=both)
        until(lambda: works[0].begun[2] and job.status == "waiting")
        servers[1].kill()
        works[1].gate.set()
        assert isinstance(job.exception(LIMIT), JobFailed)
        assert [event.name for event in job.events() if event.is_end] == ["execution_error"]
        assert job.status == "failed"


# -- what was refused ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in (*FAILING, "429")])
def test_a_job_that_all_servers_refuse_ends_in_the_refusal(servers, works, kind) -> None:
    for server, each in zip(servers, works, strict=True):
        KINDS[kind](server, each)
    with pool_of(servers) as pool:
        error = pool.submit(work()).exception(LIMIT)
        status = pool.status()
    expected = JobLost if kind == "503" else PromptRejected if kind == "models gone" else ANSWERS
    assert isinstance(error, expected), error
    assert sum(map(tried, servers)) <= 3
    assert (status.done, status.failed) == (0, 1)
    assert not any(each.begun for each in works)


def test_a_job_rejected_by_one_server_runs_on_another(servers, works) -> None:
    """The definitions of the one that rejected it are read again; a sweep goes on, too."""
    KINDS["models gone"](servers[0], works[0])
    before = len([one for one in servers[0].requests if one.path == "/object_info"])
    with pool_of(servers) as pool:
        jobs = [pool.submit(work(n)) for n in range(COUNT)]
        assert [job.exception(LIMIT) for job in jobs] == [None] * COUNT
        rows = pool.sweep(work(), {"Work.number": range(COUNT)})
        assert [row.error for row in rows] == [None] * COUNT
    assert len([one for one in servers[0].requests if one.path == "/object_info"]) > before + 1


def test_a_workflow_that_all_reject_is_rejected(servers, works) -> None:
    bad = {"1": {"class_type": "Work", "inputs": {"number": "many"}}}
    with pool_of(servers) as pool:
        for _ in range(6):
            assert isinstance(pool.submit(bad).exception(LIMIT), PromptRejected)
        rows = pool.sweep(work(), {"Work.number": ["many", "more"]})
        assert {type(row.error) for row in rows} == {PromptRejected}
        assert [one.suspect for one in pool.status().servers] == [None] * 3
        assert pool.run(work(5), timeout=LIMIT).texts == ("5",)


def test_a_refused_job_does_not_wait_for_a_server_that_stays_away(servers, works) -> None:
    """Then the refusal is its end: nobody waits for ever."""
    with pool_of(servers[:2], patience=0.2) as pool:
        servers[1].kill()
        until(lambda: pool.status().servers[1].state == "down")
        servers[0].faults.answer("POST", "/prompt", (500, {}, "no"))
        error: Any = pool.submit(work()).exception(LIMIT)
    assert isinstance(error, ApiError)
    assert error.status == 500


@pytest.mark.parametrize("kind", ["CUDA error", "500"])
def test_points_that_were_to_move_do_not_wait_for_a_server_that_stays_away(
    servers, works, kind
) -> None:
    """The server that has failed or refused them has them again, and their rows say how."""
    KINDS[kind](servers[0], works[0])
    works[1].gate.clear()
    rows: list[Any] = []
    with pool_of(servers[:2], on_failed="move", in_flight=1, patience=0.2) as pool:

        def sweep() -> None:
            rows.extend(pool.sweep(work(), {"Work.number": range(4)}))

        thread = threading.Thread(target=sweep, daemon=True)
        thread.start()
        until(lambda: works[1].begun and tried(servers[0]) == 2)
        servers[1].kill()
        works[1].gate.set()
        thread.join(LIMIT)
        assert not thread.is_alive()
    assert [row.index for row in rows] == list(range(4))
    assert sum(isinstance(row.error, JobFailed | ApiError) for row in rows) >= 3


def test_points_that_were_to_move_when_a_sweep_ended_move_in_the_next_call(
    servers, works, tmp_path: Path
) -> None:
    """Their prompts have failed since, or before it: they are not rows that failed."""
    journal, grid = tmp_path / "night.db", {"Work.number": range(COUNT)}
    KINDS["CUDA error"](servers[0], works[0])
    works[1].gate.clear()
    with pool_of(servers[:2], on_failed="move", in_flight=1) as pool:

        def stop() -> None:
            until(lambda: works[1].begun and tried(servers[0]) >= 2)
            pool.shutdown(wait=False, cancel_futures=True)

        thread = threading.Thread(target=stop, daemon=True)
        thread.start()
        with pytest.raises(ClientClosed):
            pool.sweep(work(), grid, journal=journal)
        thread.join(LIMIT)
        works[1].gate.set()
    with pool_of(servers[:2], on_failed="move") as pool:
        rows = pool.sweep(work(), grid, journal=journal)
    assert [row.error for row in rows] == [None] * COUNT
    assert works[1].begun == Counter(range(COUNT))
