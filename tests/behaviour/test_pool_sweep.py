"""A grid on several servers: each has its part; over any crash nothing is lost or runs twice."""

from __future__ import annotations

import contextlib
import copy
import random
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comfy_client import (
    AuthenticationError,
    ClientClosed,
    ComfyPool,
    JobFailed,
    JobLost,
    JobTimeout,
    PromptRejected,
    ServerUnreachable,
    SweepRow,
    WorkflowError,
)
from comfy_client.testing import ComfyServer, Request
from tests.helpers.clients import Fast, until
from tests.helpers.pools import AsksAgain
from tests.helpers.sweeps import (
    GRID,
    POINTS,
    WORKFLOW,
    Record,
    Victim,
    add_recorded_nodes,
    change,
    points,
    prompts,
    texts,
)

#: Two models and four seeds.
WIDE = {"Make.seed": range(4), "Load.name": ["a", "b"]}
WIDE_TEXTS = [f"{name}x{seed}" for seed in range(4) for name in "ab"]


@pytest.fixture
def servers() -> Iterator[list[ComfyServer]]:
    with ComfyServer() as one, ComfyServer() as two:
        yield [one, two]


@pytest.fixture
def records(servers: list[ComfyServer]) -> list[Record]:
    return [add_recorded_nodes(server) for server in servers]


@pytest.fixture
def apis(servers: list[ComfyServer], records: list[Record]) -> Iterator[list[Fast]]:
    made = [Fast(server.url) for server in servers]
    yield made
    for record in records:
        record.gate = None
    for api in made:
        api.close()


@pytest.fixture
def pool(apis: list[Fast]) -> Iterator[ComfyPool]:
    with ComfyPool(apis) as made:
        until_all_are_ready(made)
        yield made


class Rare:
    """A node that one server has alone."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"text": ("STRING",)}})
    RETURN_TYPES = ("STRING",)
    FUNCTION = "run"

    def run(self, text: str) -> tuple[str]:
        return (text,)


def until_all_are_ready(pool: ComfyPool) -> None:
    until(lambda: all(one.state == "ready" for one in pool.status().servers))


def ran(*records: Record) -> Counter[str]:
    return Counter(value for record in records for value in record.values())


# -- who gets what -------------------------------------------------------------------------


def test_each_server_has_a_part_in_which_little_changes(pool, servers, records) -> None:
    """As the rows say, which come in the order of the grid."""
    rows = pool.sweep(WORKFLOW, WIDE)
    assert texts(rows) == WIDE_TEXTS
    assert ran(*records) == Counter(WIDE_TEXTS)
    for server, record in zip(servers, records, strict=True):
        there = [row.result.texts[0] for row in rows if row.host == server.url]
        assert sorted(record.values()) == sorted(there)
        assert len([name for name, _ in record.ran if name == "Load"]) <= 2
    assert {row.host for row in rows} == {server.url for server in servers}
    assert all(0 <= row.seconds <= row.waited + 0.01 for row in rows)


def test_a_server_that_is_done_takes_what_another_one_has_left(pool, records) -> None:
    """One that is stuck keeps what it has got."""
    slow, fast = records
    slow.gate = threading.Semaphore(0)
    grid = {"Make.seed": range(12)}
    timer = threading.Thread(
        target=lambda: (until(lambda: len(fast.values()) >= 10), setattr(slow, "gate", None))
    )
    timer.start()
    rows = pool.sweep(WORKFLOW, grid)
    timer.join()
    assert texts(rows) == [f"ax{seed}" for seed in range(12)]
    assert len(slow.values()) in (1, 2)  # the other one may have been quicker than the second
    assert len(slow.values()) + len(fast.values()) == 12


def test_a_point_goes_only_where_its_nodes_are(apis, servers, records) -> None:
    """One that no server can run is refused before anything is sent, or in its row."""

    graph = {**copy.deepcopy(WORKFLOW), "5": {"class_type": "Rare", "inputs": {"text": "r"}}}
    with AsksAgain(apis) as pool:
        until_all_are_ready(pool)
        with pytest.raises(WorkflowError, match="lacks the node class 'Rare'"):
            pool.sweep(graph, {"Make.seed": [1, 2]})
        assert not ran(*records)
        servers[1].add_node(Rare)
        rows = pool.sweep(graph, {"Make.seed": range(4), "Make.model": [["5", 0], ["1", 0]]})
    assert texts(rows) == [f"{name}x{seed}" for seed in range(4) for name in "ra"]
    assert {row.host for row in rows} == {servers[1].url}


def test_a_model_that_no_server_has_is_the_error_of_its_rows(pool) -> None:
    loader = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": ""}}
    keep = {"class_type": "Keep", "inputs": {"value": ["2", 0]}}
    graph = {"1": loader, "2": WORKFLOW["2"], "3": keep}
    names = ["none.safetensors", "simulated.safetensors"]
    missing, done = pool.sweep(graph, {"1.ckpt_name": names})
    assert isinstance(missing.error, WorkflowError)
    assert "lacks 'none.safetensors'" in str(missing.error)
    assert (missing.host, done.error) == (None, None)


def test_include_names_the_servers_of_a_sweep(pool, servers) -> None:
    rows = pool.sweep(WORKFLOW, GRID, include=[servers[1].url])
    assert {row.host for row in rows} == {servers[1].url}
    with pytest.raises(ValueError, match="is not in the pool"):
        pool.sweep(WORKFLOW, GRID, exclude=["http://127.0.0.1:1"])


def test_errors_are_those_of_rows(pool, records) -> None:
    for record in records:
        record.failing = {1}
    rows = pool.sweep(WORKFLOW, {"Make.seed": [0, 1, "many", 3]})
    assert [type(row.error) for row in rows] == [type(None), JobFailed, PromptRejected, type(None)]


def test_rows_that_failed_run_again_on_request(pool, records, journal) -> None:
    for record in records:
        record.failing = {1}
    grid = {"Make.seed": range(4)}
    pool.sweep(WORKFLOW, grid, journal=journal)
    for record in records:
        record.failing = set()
    assert isinstance(pool.sweep(WORKFLOW, grid, journal=journal)[1].error, JobFailed)
    rows = pool.sweep(WORKFLOW, grid, journal=journal, retry_failed=True)
    assert texts(rows) == ["ax0", "ax1", "ax2", "ax3"]
    assert [row.from_journal for row in rows] == [True, False, True, True]


def test_of_a_row_without_news_the_time_runs_out(pool, records) -> None:
    """And the others run, on its server too."""
    for record in records:
        record.gate = threading.Semaphore(0)

    def open_the_other() -> None:  # or it might take all four before this one gets any
        until(lambda: records[0].ran)
        records[1].gate = None

    def open_this_one(row: SweepRow) -> None:
        if row.error is not None:
            records[0].gate = None

    opener = threading.Thread(target=open_the_other)
    opener.start()
    rows = pool.sweep(WORKFLOW, {"Make.seed": range(4)}, timeout=4.0, on_row=open_this_one)
    opener.join()
    kinds = Counter(type(row.error).__name__ for row in rows)
    assert kinds["NoneType"] >= 2
    assert set(kinds) == {"NoneType", "JobTimeout"}


@pytest.mark.parametrize("limit", ["timeout", "stall_timeout"])
def test_points_that_only_an_absent_server_could_run_end_at_their_timeout(
    apis, journal, refused, limit, caplog
) -> None:
    """It was not sent, and the next call has it run."""
    grid = {"Make.seed": range(2)}
    times: Any = {limit: 0.3}
    with ComfyPool([apis[0].host, refused]) as pool:
        rows = pool.sweep(WORKFLOW, grid, include=[refused], journal=journal, **times)
        assert [str(row.error) for row in rows] == [
            "no server that can run it answered for 0.3 s; it was not sent"
        ] * 2
        for row in rows:
            assert isinstance(row.error, JobTimeout)
            assert row.error.prompt_id == row.prompt_id
        assert f"the sweep waits for a server that can run the rest: {refused}" in caplog.text
        assert texts(pool.sweep(WORKFLOW, grid, journal=journal)) == ["ax0", "ax1"]


def test_a_sweep_that_waits_for_a_server_that_is_away_says_what_the_others_lack(
    apis, refused, caplog
) -> None:
    """A name may be misspelt."""
    misspelt = {"1": {"class_type": "Mak", "inputs": {"seed": 0}}}
    with ComfyPool([apis[0].host, refused]) as pool:
        rows = pool.sweep(misspelt, {"1.seed": range(2)}, timeout=2.0)
    assert all(isinstance(row.error, JobTimeout) for row in rows)
    assert f"{refused}; {apis[0].host} lacks the node class 'Mak'" in caplog.text


def test_points_are_not_kept_for_a_server_that_will_never_answer(apis) -> None:
    """The error says what the others lack."""
    misspelt = {"1": {"class_type": "Mak", "inputs": {"seed": 0}}}
    with ComfyServer(credentials="s3cret") as closed, ComfyPool([apis[0], closed.url]) as pool:
        until(lambda: pool.status().servers[1].error)
        with pytest.raises(ServerUnreachable, match=r"401.*; .* lacks the node class 'Mak'"):
            pool.sweep(misspelt, {"1.seed": range(2)})
        assert texts(pool.sweep(WORKFLOW, {"Make.seed": range(2)})) == ["ax0", "ax1"]


# -- the journal ---------------------------------------------------------------------------


def test_the_journal_has_the_server_of_a_prompt_before_that_gets_it(pool, servers, journal) -> None:
    noted: list[str] = []

    def posting(server: ComfyServer, request: Request) -> Any:
        hosts = {row["prompt_id"]: row["host"] for row in points(journal)}
        noted.append(hosts[request.json()["prompt_id"]])
        assert noted[-1] == server.url
        return server.answer(request)

    for server in servers:
        server.on("POST", "/prompt", lambda request, server=server: posting(server, request))
    rows = pool.sweep(WORKFLOW, WIDE, journal=journal)
    assert Counter(noted) == Counter(row.host for row in rows)
    assert {row["host"] for row in points(journal)} == {server.url for server in servers}


def test_the_same_call_runs_nothing_again(pool, records, journal) -> None:
    rows = pool.sweep(WORKFLOW, WIDE, journal=journal)
    again = pool.sweep(WORKFLOW, WIDE, journal=journal)
    assert all(row.from_journal for row in again)
    assert [row.host for row in again] == [row.host for row in rows]
    assert texts(again) == WIDE_TEXTS
    assert ran(*records) == Counter(WIDE_TEXTS)


def test_a_journal_of_one_server_goes_on_with_several(pool, apis, records, journal) -> None:
    apis[0].sweep(WORKFLOW, GRID, journal=journal)
    rows = pool.sweep(WORKFLOW, WIDE, journal=journal)
    assert texts(rows) == WIDE_TEXTS
    assert ran(*records) == Counter(WIDE_TEXTS)
    assert texts(apis[0].sweep(WORKFLOW, WIDE, journal=journal)) == WIDE_TEXTS


def test_points_missing_in_an_old_journal_are_found_on_any_server(
    pool, servers, records, journal, tmp_path
) -> None:
    """Also on another one than would have it now."""
    copied = tmp_path / "copy.db"
    grid = {"Make.seed": range(20)}
    had: dict[int, str] = {}

    def on_row(row: SweepRow) -> None:
        had[row.index] = row.prompt_id
        if len(had) == 2:
            shutil.copy(journal, copied)

    pool.sweep(WORKFLOW, grid, journal=journal, on_row=on_row)
    assert len(points(copied)) < 20
    with resumed(*reversed(servers)) as other:
        rows = other.sweep(WORKFLOW, grid, journal=copied)
    assert {row.index: row.prompt_id for row in rows} == had
    assert ran(*records) == Counter(texts(rows))


def stopped(pool: ComfyPool, records: list[Record], journal: Path) -> None:
    """A sweep that ends by Ctrl-C while a prompt runs on each server."""
    for record in records:
        record.gate = threading.Semaphore(1)

    def on_row(row: SweepRow) -> None:
        until(lambda: all(api.get_queue().running for api in pool.servers))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool.sweep(WORKFLOW, WIDE, journal=journal, on_row=on_row)


def test_ctrl_c_takes_back_what_waits_and_the_same_call_goes_on(
    pool, apis, records, journal
) -> None:
    stopped(pool, records, journal)
    assert [len(api.get_queue().pending) for api in apis] == [0, 0]
    assert [len(api.get_queue().running) for api in apis] == [1, 1]
    for record in records:
        record.gate = None
    rows = pool.sweep(WORKFLOW, WIDE, journal=journal)
    assert texts(rows) == WIDE_TEXTS
    assert ran(*records) == Counter(WIDE_TEXTS)


@pytest.mark.timing(look_up=60.0)  # a busy machine takes long to release it
def test_a_submission_under_way_at_ctrl_c_runs_once(pool, servers, records, journal) -> None:
    """It was not taken back, so the next call waits for it."""
    arrived, release = threading.Event(), threading.Event()

    def slowly(request: Request) -> Any:
        arrived.set()
        release.wait(30.0)
        return servers[1].answer(request)

    def on_row(row: SweepRow) -> None:
        assert arrived.wait(30.0)
        raise KeyboardInterrupt

    servers[1].on("POST", "/prompt", slowly)
    grid = {"Make.seed": range(4)}
    with pytest.raises(KeyboardInterrupt):
        pool.sweep(WORKFLOW, grid, journal=journal, on_row=on_row)

    def release_in_time(row: SweepRow) -> None:
        if len(records[0].values()) == 3:  # the rest
            release.set()

    rows = pool.sweep(WORKFLOW, grid, journal=journal, on_row=release_in_time)
    until(lambda: records[1].values())
    assert texts(rows) == [f"ax{seed}" for seed in range(4)]
    assert ran(*records) == Counter(texts(rows))


def test_shutdown_in_another_thread_ends_it(pool, servers, records, journal) -> None:
    """What waits then has not ended, as the journal knows."""
    for record in records:
        record.gate = threading.Semaphore(0)
    stop = threading.Thread(
        target=lambda: (
            until(lambda: all(api.get_queue().running for api in pool.servers)),
            pool.shutdown(wait=False, cancel_futures=True),
            [setattr(record, "gate", None) for record in records],
        )
    )
    stop.start()
    grid = {"Make.seed": range(20)}
    with pytest.raises(ClientClosed):
        pool.sweep(WORKFLOW, grid, journal=journal)
    stop.join()
    assert not [row for row in points(journal) if row["error"]]
    with resumed(*servers) as again:
        rows = again.sweep(WORKFLOW, grid, journal=journal)
    assert texts(rows) == [f"ax{seed}" for seed in range(20)]
    assert ran(*records) == Counter(texts(rows))


# -- servers that come and go --------------------------------------------------------------


@contextlib.contextmanager
def resumed(*servers: ComfyServer, **options: Any) -> Iterator[ComfyPool]:
    """A pool as of another process."""
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(contextlib.closing(Fast(one.url))) for one in servers]
        yield stack.enter_context(ComfyPool(made, **options))


def left_open(pool: ComfyPool, records: list[Record], journal: Path) -> dict[str, str]:
    """Leave a journal as after kill -9, with open prompts on each server: their hosts by id."""
    stopped(pool, records, journal)
    change(journal, "UPDATE points SET withdrawn = 0, sent_at = sent_at - 60")
    for record in records:
        record.gate = None
    prompts(*pool.servers)
    hosts = {row["prompt_id"]: row["host"] for row in points(journal) if not row["result"]}
    assert {*hosts.values()} == {api.host for api in pool.servers}
    return hosts


def test_a_prompt_of_a_server_that_is_not_in_the_pool_is_lost_until_it_is_again(
    pool, servers, records, journal
) -> None:
    """Nobody knows whether it ran: the error names the server, and the next call asks it."""
    hosts = left_open(pool, records, journal)
    away = servers[1].url
    with resumed(servers[0]) as smaller:
        rows = smaller.sweep(WORKFLOW, WIDE, journal=journal)
    lost = [row for row in rows if row.error]
    assert {row.prompt_id for row in lost} == {name for name in hosts if hosts[name] == away}
    assert all(isinstance(row.error, JobLost) and away in str(row.error) for row in lost)
    assert {row.host for row in lost} == {away}
    assert not any(row.error.retryable for row in lost)  # it may have run them
    with resumed(*servers) as whole:
        again = whole.sweep(WORKFLOW, WIDE, journal=journal)
    assert texts(again) == WIDE_TEXTS
    assert ran(*records) == Counter(WIDE_TEXTS)


def test_with_on_lost_retry_another_server_runs_it(pool, servers, records, journal) -> None:
    """That is to run twice, if the first server has run it."""
    left_open(pool, records, journal)
    there = records[1].values()
    with resumed(servers[0], on_lost="retry") as smaller:
        rows = smaller.sweep(WORKFLOW, WIDE, journal=journal)
    assert texts(rows) == WIDE_TEXTS
    assert {value for value, times in ran(*records).items() if times > 1} <= {*there}


@pytest.mark.parametrize("on_lost", ["raise", "retry"])
def test_a_prompt_of_a_server_that_is_down_is_waited_for_as_long_as_patience_allows(
    pool, servers, records, journal, on_lost
) -> None:
    hosts = left_open(pool, records, journal)
    servers[1].kill()
    with resumed(*servers, patience=0.5, on_lost=on_lost) as impatient:
        rows = impatient.sweep(WORKFLOW, WIDE, journal=journal)
    servers[1].start()
    lost = {row.prompt_id for row in rows if row.error}
    away = {name for name in hosts if hosts[name] == servers[1].url}
    assert lost == (away if on_lost == "raise" else set())
    assert all(servers[1].url in str(row.error) for row in rows if row.error)


def test_time_does_not_run_out_for_what_a_server_that_is_down_may_have_run(
    pool, servers, records, journal
) -> None:
    """It cannot be cancelled; the next call asks for it."""
    left_open(pool, records, journal)
    with servers[1].faults.bad_gateway(), resumed(*servers, patience=3.0) as other:
        rows = other.sweep(WORKFLOW, WIDE, journal=journal, timeout=2.0)
    assert {type(row.error) for row in rows if row.host == servers[1].url} >= {JobLost}
    assert not [row for row in rows if row.error and not isinstance(row.error, JobLost)]
    with resumed(*servers) as again:
        assert texts(again.sweep(WORKFLOW, WIDE, journal=journal)) == WIDE_TEXTS
    assert ran(*records) == Counter(WIDE_TEXTS)


def test_a_server_that_is_back_in_time_is_asked(pool, servers, records, journal) -> None:
    left_open(pool, records, journal)
    with servers[1].faults.bad_gateway(), resumed(*servers) as other:
        until(lambda: other.status().servers[1].error)
        threading.Timer(0.5, servers[1].faults.clear).start()
        rows = other.sweep(WORKFLOW, WIDE, journal=journal)
    assert texts(rows) == WIDE_TEXTS
    assert ran(*records) == Counter(WIDE_TEXTS)


@pytest.mark.parametrize("status", [401, 500])
def test_points_that_a_silent_server_may_have_run_run_on_no_other(
    pool, servers, records, journal, status
) -> None:
    """Its rows are lost until it says so."""
    hosts = left_open(pool, records, journal)
    with resumed(*servers) as other:
        until_all_are_ready(other)
        with servers[1].faults.answer("GET", "/queue", (status, {}, {"error": "nothing"})):
            rows = other.sweep(WORKFLOW, WIDE, journal=journal)
        lost = {row.prompt_id for row in rows if isinstance(row.error, JobLost)}
        assert lost == {name for name in hosts if hosts[name] == servers[1].url}
        until_all_are_ready(other)  # one that has refused us is asked again a moment later
        assert texts(other.sweep(WORKFLOW, WIDE, journal=journal)) == WIDE_TEXTS
    assert ran(*records) == Counter(WIDE_TEXTS)


def test_points_on_the_server_of_a_closed_client_run_on_no_other(
    pool, apis, servers, records, journal
) -> None:
    """Another client may ask what became of it."""
    records[0].gate = threading.Semaphore(0)
    stop = threading.Thread(
        target=lambda: (
            until(lambda: len(records[1].values()) == 4),
            apis[0].close(),
            setattr(records[0], "gate", None),
        )
    )
    stop.start()
    grid = {"Make.seed": range(6)}
    rows = pool.sweep(WORKFLOW, grid, journal=journal)
    stop.join()
    lost = [row for row in rows if row.error]
    assert [(type(row.error), row.host) for row in lost] == [(JobLost, servers[0].url)] * 2
    with resumed(*servers) as again:
        rows = again.sweep(WORKFLOW, grid, journal=journal)
    assert texts(rows) == [f"ax{seed}" for seed in range(6)]
    assert ran(*records) == Counter(texts(rows))


def test_lost_points_that_have_run_after_all_do_not_run_again(servers, records) -> None:
    """Its server is back before anybody has looked at the row: on_row takes long."""
    records[1].gate = threading.Semaphore(0)
    ended: list[SweepRow] = []

    with resumed(*servers, patience=0.3) as pool:
        until_all_are_ready(pool)

        def on_row(row: SweepRow) -> None:
            ended.append(row)
            if len(ended) != 4:
                return
            with servers[1].faults.bad_gateway():
                servers[1].faults.drop()
                until(lambda: pool.status().servers[1].failed == 1)
            until(lambda: not servers[1].pending)  # what waited there goes elsewhere
            records[1].gate = None
            until(lambda: pool.servers[1].stats().succeeded == 1)

        rows = pool.sweep(WORKFLOW, {"Make.seed": range(6)}, on_row=on_row)
    assert [type(row.error) for row in rows if row.error] == [JobLost]
    assert ran(*records) == Counter(f"ax{seed}" for seed in range(6))


@pytest.mark.timing(rows=0.3)
def test_points_that_a_restarted_pool_server_forgot_run_again(pool, servers, records) -> None:
    """Without being asked for, as in a sweep on one server: it has no result."""
    records[1].gate = threading.Semaphore(1)
    had: list[str | None] = []

    def restart() -> None:
        until(lambda: {*had} == {server.url for server in servers})
        servers[1].restart()
        records[1].gate = None

    thread = threading.Thread(target=restart)
    thread.start()
    rows = pool.sweep(WORKFLOW, {"Make.seed": range(12)}, on_row=lambda row: had.append(row.host))
    thread.join()
    assert texts(rows) == [f"ax{seed}" for seed in range(12)]
    assert ran(*records) == Counter(texts(rows))


def test_a_server_that_goes_away_leaves_the_rest_to_the_others(pool, servers, records) -> None:
    """What it had is looked up when it is back."""
    records[1].gate = threading.Semaphore(0)
    gone = threading.Event()

    def on_row(row: SweepRow) -> None:
        if not gone.is_set() and records[1].gate and len(records[0].values()) >= 3:
            gone.set()
            servers[1].kill()
            records[1].gate = None
            threading.Timer(1.0, servers[1].start).start()

    rows = pool.sweep(WORKFLOW, {"Make.seed": range(16)}, on_row=on_row)
    assert gone.is_set()
    assert texts(rows) == [f"ax{seed}" for seed in range(16)]


def test_a_server_that_refuses_us_is_left_out(servers, records) -> None:
    """If all do, that ends it."""
    refusal = (401, {}, None)
    with ComfyPool([server.url for server in servers]) as pool:
        until_all_are_ready(pool)
        with servers[1].faults.answer("POST", "*", refusal):
            rows = pool.sweep(WORKFLOW, WIDE)
            assert {row.host for row in rows} == {servers[0].url}
            assert texts(rows) == WIDE_TEXTS
            with servers[0].faults.answer("POST", "*", refusal), pytest.raises(AuthenticationError):
                pool.sweep(WORKFLOW, {"Make.seed": [8, 9]})


def test_a_refusal_of_the_only_server_that_can_run_it_ends_it(pool, servers, records) -> None:
    """There is nobody to wait for."""
    servers[1].add_node(Rare)
    graph = {**copy.deepcopy(WORKFLOW), "5": {"class_type": "Rare", "inputs": {"text": "r"}}}
    grid = {"Make.seed": range(2)}
    refusal = servers[1].faults.answer("POST", "/prompt", (401, {}, None))
    with refusal, pytest.raises(AuthenticationError):
        pool.sweep(graph, grid)
    assert not ran(*records)
    assert texts(pool.sweep(graph, grid)) == ["ax0", "ax1"]


# -- a process that is killed --------------------------------------------------------------

SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 40))]


@pytest.mark.posix("forks")
@pytest.mark.parametrize("seed", SEEDS)
def test_killed_at_random_moments_each_point_runs_once(
    apis, servers, records, journal, seed
) -> None:
    """The servers' own records are the witness."""
    moments = random.Random(seed)
    with Victim(" ".join(server.url for server in servers), journal) as victim:
        for _ in range(4):
            victim.tell(f"after {moments.uniform(0.05, 0.4)}")
        assert len(victim.tell("run")) == len(POINTS)
    assert prompts(*apis) == dict.fromkeys(POINTS, 1)
    assert ran(*records) == Counter(f"{name}x{seed}" for seed, name in POINTS)
