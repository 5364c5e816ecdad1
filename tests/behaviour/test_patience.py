"""How long ``map`` and ``sweep`` of one client wait for a server that goes away."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from comfy_client import ComfyApi, JobTimeout, Result, ServerUnreachable, Sweep, SweepRow
from comfy_client.testing import ComfyServer
from tests.helpers.clients import until
from tests.helpers.sweeps import HOW, LIMIT, WORKFLOW, away, texts

LONG = 600.0  # seconds that no test takes


def seeds(numbers: Any) -> Iterator[dict[str, Any]]:
    return ({"Make.seed": number} for number in numbers)


def killed_at(server: ComfyServer, index: int) -> Callable[[SweepRow], None]:
    """A callback that ends the server for good when it gets a row."""
    return lambda row: server.kill() if row.index == index else None


# -- map --------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_error", ["raise", "keep"])
@pytest.mark.parametrize("is_sent", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
def test_a_map_ends_when_the_server_was_away_for_too_long(
    server, api, record, caplog, on_error, is_sent, ordered
) -> None:
    """Whether prompts are under way, or the next one waits to be sent."""
    record.gate = threading.Semaphore(1)
    results = api.map(
        WORKFLOW,
        seeds(itertools.count()),
        in_flight=2 if is_sent else 1,
        ordered=ordered,
        on_error=on_error,
        patience=0.5,
    )
    assert next(results).texts == ("ax0",)
    server.kill()
    with pytest.raises(ServerUnreachable, match=r"away for .* \(patience: 0.5 s\)") as caught:
        next(results)
    assert caught.value.retryable != is_sent  # else one of them may run yet
    assert "waiting" in caplog.text


@pytest.mark.parametrize("how", HOW)
@pytest.mark.timing(look_up=0.5, lost=0.5)
def test_outages_that_are_shorter_are_waited_for(how, server, record, caplog) -> None:
    """One after the other."""
    with ComfyApi(f"http://localhost:{server.port}") as api:
        results = api.map(WORKFLOW, seeds(range(4)), in_flight=1, patience=LONG)
        found = [next(results)]
        for _ in range(2):
            caplog.clear()
            with away(server, how):
                thread = threading.Thread(target=lambda: found.append(next(results)))
                thread.start()
                until(lambda: "waiting" in caplog.text)
            thread.join(LIMIT)
        found += results
    assert [each.texts for each in found] == [(f"ax{n}",) for n in range(4)]


def test_a_socket_that_is_cut_is_no_server_that_is_away(server, api, record) -> None:
    """Not even for those who have no patience at all."""
    record.gate = threading.Semaphore(1)
    results = api.map(WORKFLOW, seeds(range(3)), in_flight=2, patience=0.0)
    found = [next(results)]
    thread = threading.Thread(target=lambda: found.extend(results))
    thread.start()
    for _ in range(3):
        hellos = len(server.hellos)
        server.faults.drop()
        until(lambda hellos=hellos: len(server.hellos) > hellos and api.connected)
    record.gate = None
    thread.join(LIMIT)
    assert [each.texts for each in found] == [("ax0",), ("ax1",), ("ax2",)]


@pytest.mark.parametrize("in_flight", [1, 2])
@pytest.mark.timing(look_up=0.5)
def test_a_server_that_is_killed_while_it_gets_a_prompt_is_away_since_then(
    server, api, record, in_flight
) -> None:
    """Nobody knows what became of that one; the others wait no longer for it."""
    results = api.map(WORKFLOW, seeds(range(9)), in_flight=in_flight, patience=0.3)
    next(results)
    record.gate = threading.Semaphore(0)
    server.on("POST", "/prompt", lambda request: server.kill())
    with pytest.raises(ServerUnreachable, match=r"patience: 0.3 s") as caught:
        list(results)
    assert not caught.value.retryable


def test_without_patience_an_outage_ends_it_at_once(server, api, record) -> None:
    """0 is no None."""
    results = api.map(WORKFLOW, seeds(range(3)), in_flight=1, patience=0)
    next(results)
    server.kill()
    with pytest.raises(ServerUnreachable):
        next(results)


@pytest.mark.parametrize("limit", ["timeout", "stall_timeout"])
@pytest.mark.parametrize("patience", [None, LONG])
def test_time_runs_out_for_what_cannot_be_sent(server, api, record, limit, patience) -> None:
    """As for prompts under way: the words mean the same everywhere."""
    limits: Any = {limit: 3.0}
    record.gate = threading.Semaphore(1)
    results = api.map(
        WORKFLOW, seeds(range(4)), in_flight=2, on_error="keep", patience=patience, **limits
    )
    found: list[Any] = [next(results)]
    server.kill()
    found += results
    assert [type(each) for each in found] == [Result, *[JobTimeout] * 3]
    assert "was not sent within 3 s" in str(found[-1])
    assert [error.stalled for error in found[1:]] == [limit == "stall_timeout"] * 3


def test_a_prompt_that_could_not_be_sent_in_time_is_raised(server, api, record) -> None:
    """Unless errors are kept."""
    results = api.map(WORKFLOW, seeds(range(4)), in_flight=1, timeout=3.0)
    next(results)
    server.kill()
    with pytest.raises(JobTimeout, match="was not sent"):
        next(results)


@pytest.mark.parametrize("call", ["map", "sweep"])
@pytest.mark.parametrize(
    ("patience", "error"), [(-1, ValueError), (float("nan"), ValueError), ("long", TypeError)]
)
def test_a_patience_that_is_no_number_is_refused_at_once(api, call, patience, error) -> None:
    """Before anything is asked for."""
    with pytest.raises(error, match="timeout must be"):
        getattr(api, call)(WORKFLOW, {"Make.seed": [1]}, patience=patience)


# -- sweep ------------------------------------------------------------------------------------


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("in_flight", [1, 2])
@pytest.mark.timing(lost=0.5)
def test_a_sweep_that_ends_so_has_its_rows_and_its_journal_goes_on(
    server, api, record, journal, keeps, in_flight
) -> None:
    """Each point runs once: what the server was killed with had not ended."""
    options: Any = {"journal": journal} if keeps else {}
    record.gate = threading.Semaphore(3)
    grid = {"Make.seed": range(6)}
    with pytest.raises(ServerUnreachable, match=r"patience: 0.5 s") as caught:
        api.sweep(
            WORKFLOW,
            grid,
            in_flight=in_flight,
            patience=0.5,
            on_row=killed_at(server, 2),
            **options,
        )
    rows = caught.value.rows
    assert isinstance(rows, Sweep)
    assert texts(rows) == ["ax0", "ax1", "ax2"]
    record.gate = None
    server.start()
    again = api.sweep(WORKFLOW, grid, in_flight=in_flight, patience=LONG, **options)
    assert texts(again) == [f"ax{n}" for n in range(6)]
    assert [row.from_journal for row in again[:3]] == [keeps] * 3
    if keeps:
        assert Counter(record.values()) == dict.fromkeys(texts(again), 1)


def test_the_server_may_be_away_when_a_journal_is_carried_on(server, api, record, journal) -> None:
    """It is asked for each prompt before that is sent."""
    api.sweep(WORKFLOW, {"Make.seed": [0]}, journal=journal)
    with pytest.raises(ServerUnreachable) as caught:
        api.sweep(
            WORKFLOW,
            {"Make.seed": range(3)},
            journal=journal,
            in_flight=1,
            patience=0.5,
            on_row=killed_at(server, 1),
        )
    assert texts(caught.value.rows) == ["ax0", "ax1"]


@pytest.mark.parametrize("is_new", [True, False])
def test_rows_that_cannot_be_sent_in_time_are_sent_by_the_next_call(
    server, api, record, journal, is_new
) -> None:
    """All of them at once, as by a pool; the journal does not take it for their end."""
    grid = {"Make.seed": range(6)}
    if not is_new:
        api.sweep(WORKFLOW, {"Make.seed": [0]}, journal=journal)
    rows = api.sweep(
        WORKFLOW, grid, journal=journal, in_flight=1, timeout=3.0, on_row=killed_at(server, 2)
    )
    assert texts(rows)[:3] == ["ax0", "ax1", "ax2"]
    assert [type(row.error) for row in rows[3:]] == [JobTimeout] * 3
    assert all("was not sent within 3 s" in str(row.error) for row in rows[3:])
    assert [row.error.prompt_id for row in rows[3:]] == [row.prompt_id for row in rows[3:]]
    server.start()
    told: list[int] = []
    again = api.sweep(WORKFLOW, grid, journal=journal, on_row=lambda row: told.append(row.index))
    assert texts(again) == [f"ax{n}" for n in range(6)]
    assert sorted(told) == [3, 4, 5]
    assert Counter(record.values()) == dict.fromkeys(texts(again), 1)


@pytest.mark.timing(look_up=0.5, lost=0.5)
def test_a_sweep_goes_on_after_an_outage_that_is_shorter(server, record) -> None:
    """Prompts under way are attached again, or run again if the server forgot them."""
    with ComfyApi(f"http://localhost:{server.port}") as api, contextlib.ExitStack() as gone:

        def on_row(row: SweepRow) -> None:
            if row.index == 1:
                gone.enter_context(away(server, "refused"))
                threading.Timer(0.7, gone.close).start()

        rows = api.sweep(WORKFLOW, {"Make.seed": range(5)}, patience=LONG, on_row=on_row)
    assert texts(rows) == [f"ax{n}" for n in range(5)]
