"""Sweeps on servers that restart, refuse or are away: nothing is lost, nothing runs twice."""

from __future__ import annotations

import contextlib
import functools
import itertools
import sqlite3
import sys
import threading
from collections import Counter
from typing import Any

import pytest

from comfy_client import (
    AuthenticationError,
    ClientClosed,
    ComfyApi,
    JobInterrupted,
    JobLost,
    JobTimeout,
    Sweep,
    SweepRow,
    Workflow,
)
from comfy_client.batch.journal import Journal
from comfy_client.testing import Request
from tests.helpers.clients import until
from tests.helpers.long import few
from tests.helpers.march_2024 import March2024
from tests.helpers.sweeps import (
    GRID,
    HOW,
    LIMIT,
    POINTS,
    WORKFLOW,
    add_recorded_nodes,
    away,
    points,
    prompts,
    texts,
)

# What can be cancelled is cancelled, however long a busy machine takes.
pytestmark = pytest.mark.timing(cancel_timeout=LIMIT)


@pytest.mark.timing(lost=0.5)
def test_points_that_a_restarted_server_forgot_run_again_alone(
    server, api, record, journal
) -> None:
    """Within one call: the prompts in flight are lost with its queue."""
    record.gate = threading.Semaphore(2)
    found: list[Sweep] = []
    thread = threading.Thread(
        target=lambda: found.append(
            api.sweep(WORKFLOW, {"Make.seed": range(5)}, journal=journal, in_flight=2)
        )
    )
    thread.start()
    until(lambda: len(points(journal)) == 4 and len(api.get_queue().pending) == 1)
    server.restart()
    record.gate = None
    thread.join(LIMIT)
    assert texts(found[0]) == [f"ax{n}" for n in range(5)]
    assert Counter(record.values()) == dict.fromkeys(texts(found[0]), 1)
    tries = {row["prompt_id"]: row["tries"] for row in points(journal)}
    assert [tries[row.prompt_id] for row in found[0]] == [1, 1, 2, 2, 1]
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


@pytest.mark.timing(lost=0.5)
def test_a_point_that_the_server_forgets_each_time_ends_as_lost(
    server, api, record, caplog
) -> None:
    """After three submissions: it may be what brings the server down."""
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
        (row,) = asking.sweep(WORKFLOW, {"Make.seed": [5]}, tags={"tenant": "a"})
    thread.join(LIMIT)
    assert isinstance(row.error, JobLost)
    assert len(set(submitted)) == 3
    again = [vars(one) for one in caplog.records if "submitting it again" in one.getMessage()]
    assert [one["prompt_id"] for one in again] == submitted[:2]
    assert all(one["tags"] == {"tenant": "a"} for one in again)


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


@pytest.mark.posix("limits of a process")
@pytest.mark.parametrize("seeds", few([40, 200], 1))
def test_a_disk_that_is_full_ends_it_and_the_next_call_carries_on(
    api, record, journal, seeds, monkeypatch
) -> None:
    """With one clear error, wherever in a row's life it is full; nothing runs twice."""
    import resource  # Windows has none

    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # Python leaves what is cut short
    grid = {"Make.seed": range(seeds)}
    with Journal(journal):
        pass
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = journal.stat().st_size
    refused = 0
    try:
        # Room for what is written twice, and then a little more each time.
        for room in itertools.count(size + 12_000, 4_100):
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
            try:
                rows = api.sweep(WORKFLOW, grid, journal=journal)
            except OSError as exc:
                assert "is the disk full?" in str(exc)  # noqa: PT017
                assert exc.__context__ is None or isinstance(exc.__context__, sqlite3.Error)  # noqa: PT017
                refused += 1
            else:
                break
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            if seeds == 40:  # room in time for what it takes back
                rows = api.sweep(WORKFLOW, grid, journal=journal)
                break
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert refused
    assert texts(rows) == [f"ax{seed}" for seed in range(seeds)]
    assert prompts(api) == {(seed, "a"): 1 for seed in range(seeds)}


@pytest.mark.timing(lost=0.5)
def test_a_login_that_ends_on_the_way_ends_the_sweep_and_not_its_rows(
    server, api, record, journal
) -> None:
    """It says nothing about the prompts, so the journal has no end for them."""

    def on_row(row: SweepRow) -> None:
        server.on("POST", "/prompt", (401, {}, None))

    with pytest.raises(AuthenticationError):
        api.sweep(WORKFLOW, GRID, journal=journal, in_flight=1, on_row=on_row)
    server.off("POST", "/prompt")
    # What never came need not be looked for.
    assert [row["withdrawn"] for row in points(journal) if not row["result"]] == [1]
    rows = api.sweep(WORKFLOW, GRID, journal=journal)
    assert texts(rows) == ["ax0", "bx0", "ax1", "bx1"]
    assert len(record.values()) == 4


@pytest.mark.parametrize("arrives", [True, False])
@pytest.mark.timing(look_up=0.5, lost=0.5)
def test_a_submission_without_an_answer_is_neither_lost_nor_doubled(
    server, api, record, journal, arrives
) -> None:
    """It is looked for, then waited for until the server is sure, then sent again."""
    posted: list[str] = []

    def unanswered(request: Request) -> Any:
        posted.append(request.json()["prompt_id"])
        answer = server.answer(request) if arrives or len(posted) != 2 else None
        return None if len(posted) == 2 else answer

    server.on("POST", "/prompt", unanswered)
    rows = api.sweep(WORKFLOW, GRID, journal=journal)
    assert texts(rows) == ["ax0", "bx0", "ax1", "bx1"]
    assert all(row.waited for row in rows)
    assert prompts(api) == dict.fromkeys(POINTS, 1)
    assert len(set(posted)) == len(posted) == (4 if arrives else 5)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.timing(look_up=0.5, lost=0.5)
def test_a_server_that_goes_away_is_waited_for(how, record, server, journal) -> None:
    """Also while it is asked what it knows of a journal that was begun before."""
    with ComfyApi(f"http://localhost:{server.port}") as api:
        api.sweep(WORKFLOW, {"Make.seed": [0]}, journal=journal)
        back: list[threading.Timer] = []

        def on_row(row: SweepRow) -> None:
            if row.index == 1:
                gone = contextlib.ExitStack()
                gone.enter_context(away(server, how))
                back.append(threading.Timer(1.5, gone.close))
                back[0].start()

        rows = api.sweep(
            WORKFLOW, {"Make.seed": range(4)}, journal=journal, in_flight=1, on_row=on_row
        )
        back[0].join(LIMIT)
        assert texts(rows) == ["ax0", "ax1", "ax2", "ax3"]
        assert record.values() == ["ax0", "ax1", "ax2", "ax3"]


def test_a_worker_that_is_dead_hangs_no_sweep(server, api, record, journal) -> None:
    """Each row has its time; the error stands in the journal, as any other of a run."""
    sweep = functools.partial(api.sweep, WORKFLOW, {"Make.seed": range(3)}, journal=journal)
    with server.faults.hang_worker():
        rows = sweep(timeout=1.5)
        assert [type(row.error) for row in rows] == [JobTimeout] * 3
        assert api.get_queue().pending == ()
        (running,) = api.get_queue().running
        assert running.prompt_id == rows[0].prompt_id
    again = sweep()
    assert [str(row.error) for row in again] == [str(row.error) for row in rows]
    assert [(row.error.stalled, row.from_journal) for row in again] == [(False, True)] * 3
    until(lambda: api.poll_status(LIMIT).queue_remaining == 0)
    assert texts(sweep(retry_failed=True)) == ["ax0", "ax1", "ax2"]


def test_a_row_of_which_there_is_no_news_is_cancelled_and_the_next_one_runs(api, record) -> None:
    """What has ended in time counts, whatever became of the order to stop it."""
    record.gate = threading.Semaphore(0)

    def on_row(row: SweepRow) -> None:
        record.gate = None

    first, second = api.sweep(WORKFLOW, {"Make.seed": range(2)}, stall_timeout=2.0, on_row=on_row)
    assert isinstance(first.error, JobTimeout)
    assert first.error.stalled
    assert first.waited >= 2.0
    assert texts([second]) == ["ax1"]


@pytest.mark.parametrize("slowness", ["late", "slow"])
@pytest.mark.timing(row=0.05)
def test_running_times_of_rows_are_asked_again_at_the_end(
    server, api, record, journal, slowness
) -> None:
    """Of rows whose history came too late; what is in the journal has it, too."""
    told: list[float | None] = []
    fault = (
        server.faults.late_history(1.5)  # get_history waits a second for it
        if slowness == "late"
        else server.faults.delay("GET", "/history/*", 0.3)
    )
    with fault:
        rows = api.sweep(
            WORKFLOW,
            {"Make.seed": range(3)},
            journal=journal,
            on_row=lambda row: told.append(row.seconds),
        )
    assert None in told
    assert all(row.seconds is not None for row in rows)
    again = api.sweep(WORKFLOW, {"Make.seed": range(3)}, journal=journal)
    assert [row.seconds for row in again] == [row.seconds for row in rows]


def test_a_server_without_running_times_is_not_asked_for_them_again(record) -> None:
    """Before July 2024."""
    with March2024() as server, ComfyApi(server.url) as api:
        add_recorded_nodes(server)
        rows = api.sweep(WORKFLOW, {"Make.seed": range(5)})
        asked = [each for each in server.requests if each.path.startswith("/history/")]
        assert [row.seconds for row in rows] == [None] * 5
        assert len(asked) <= 5 * 2 + 1


def test_close_in_another_thread_takes_back_what_waits_and_the_journal_knows(
    server, api, record, journal, caplog
) -> None:
    """The next call submits it at once, without an alarm."""
    record.gate = threading.Semaphore(0)
    other = ComfyApi(server.url)
    failed: list[BaseException] = []

    def sweep() -> None:
        try:
            other.sweep(WORKFLOW, GRID, journal=journal, in_flight=3)
        except ClientClosed as exc:
            failed.append(exc)

    thread = threading.Thread(target=sweep)
    thread.start()
    until(lambda: len(api.get_queue().pending) == 2 and api.get_queue().running)
    other.close()
    thread.join(LIMIT)
    assert len(failed) == 1
    assert api.get_queue().pending == ()
    assert sum(row["withdrawn"] for row in points(journal)) >= 2
    caplog.clear()
    record.gate = None
    assert texts(api.sweep(WORKFLOW, GRID, journal=journal)) == ["ax0", "bx0", "ax1", "bx1"]
    assert caplog.messages == []
    assert prompts(api) == dict.fromkeys(POINTS, 1)
