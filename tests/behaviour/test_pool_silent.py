"""Servers of a pool that are silent with open sockets, as a machine that sleeps or hangs."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator

import attrs
import pytest

from comfy_client import ComfyApi, ComfyPool, JobInterrupted, JobLost, JobTimeout
from comfy_client.testing import ComfyServer, Request
from tests.helpers.clients import LIMIT, client, stretched, until
from tests.helpers.gates import GATES, Gated, shows
from tests.helpers.graphs import node
from tests.helpers.pools import marks, pooled, until_each_runs

#: Long before a client gives its socket up.
pytestmark = pytest.mark.timing(ping=0.2, silence=0.3, question=2.0, dead=1e4)


@pytest.fixture
def servers() -> Iterator[list[ComfyServer]]:
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(ComfyServer()) for _ in range(2)]
        for server in made:
            server.add_node(Gated)
        yield made
        GATES.end()


class Leaving(ComfyPool):
    """Is left quickly."""

    intervals = attrs.evolve(ComfyPool.intervals, leaving=0.2)


class Watchful(ComfyPool):
    """Looks after its servers often."""

    intervals = attrs.evolve(ComfyPool.intervals, reconnect_cap=0.1)


@pytest.mark.parametrize("on_lost", ["raise", "retry"])
def test_jobs_of_a_silent_server_are_given_up_when_patience_ends(servers, clients, on_lost) -> None:
    with pooled(clients, patience=1.0, on_lost=on_lost) as pool:
        jobs = [pool.submit(shows(waits=True)) for _ in range(4)]
        until_each_runs(*servers)
        with servers[0].faults.freeze():
            until(lambda: pool.status().servers[0].state == "down")
            GATES.set()
            errors = [job.exception(LIMIT) for job in jobs]
        assert sum(isinstance(error, JobLost) for error in errors) == (on_lost == "raise")
        assert sum(error is None for error in errors) == 3 + (on_lost == "retry")


def test_a_job_that_is_being_sent_to_a_silent_server_moves_to_another(servers, clients) -> None:
    """It may run twice, so only with ``on_lost="retry"``."""
    options = {"patience": 1.0, "on_lost": "retry", "mode": "round_robin"}
    with pooled(clients, **options) as pool, servers[0].faults.freeze():
        jobs = [pool.submit(shows()) for _ in range(6)]
        assert [job.exception(LIMIT) for job in jobs] == [None] * 6
        assert {job.server for job in jobs} == {servers[1].url}


@pytest.mark.timing(ping=0.2, silence=0.3, dead=1e4)
def test_a_server_that_answers_no_ping_but_over_http_keeps_its_jobs(servers, clients) -> None:
    with pooled(clients[:1], patience=0.3) as pool, servers[0].faults.swallow_pings():
        job = pool.submit(shows(waits=True))
        until_each_runs(servers[0])

        def asked() -> int:
            return sum(one.path.endswith("/prompt") for one in [*servers[0].requests])

        before = asked()
        until(lambda: asked() > before + 2)
        GATES.set()
        assert job.result(LIMIT).texts == ("x",)
        assert pool.status().servers[0].state == "ready"


@pytest.mark.timing(queue=0.2)
def test_prompts_of_others_do_not_count_for_ever_on_a_deaf_socket(servers, clients) -> None:
    """It does not report their ends, and their server would get no job that could."""
    with (
        client(servers[0]) as another,
        pooled(clients[:1], mode="first_free", cls=Watchful) as pool,
    ):
        another.submit(shows(waits=True))
        until(lambda: pool.status().servers[0].others == 1)
        with servers[0].faults.deaf():
            GATES.set()
            assert pool.run(shows(), timeout=LIMIT).texts == ("x",)


@pytest.mark.parametrize("way", ["shutdown", "with"])
def test_a_pool_is_left_though_a_server_is_silent(servers, clients, way, caplog) -> None:
    """Soon, if nobody waits for its jobs any more; the log says once for what the pool waits."""
    caplog.set_level(logging.WARNING)
    with (
        contextlib.ExitStack() as stack,
        pooled(clients[:1], cls=Leaving, patience=1e4) as pool,
    ):
        if way == "shutdown":
            jobs = [pool.submit(shows(waits=True)) for _ in range(4)]
            until_each_runs(servers[0])
            stack.enter_context(servers[0].faults.freeze())
            pool.shutdown(cancel_futures=True)
            assert all(job.done() for job in jobs)
        else:
            stack.enter_context(servers[0].faults.freeze())
            with pytest.raises(JobTimeout):
                pool.run(shows(waits=True), timeout=0.2)
    (said,) = [one for one in caplog.messages if "a ComfyPool waits for prompt" in one]
    assert servers[0].url in said
    assert len(marks(*servers)) <= 2


def test_a_job_that_is_wanted_is_waited_for_as_long_as_patience_says(servers, clients) -> None:
    """On a silent server, too, after the pool was shut down."""
    with pooled(clients[:1], cls=Leaving, patience=1e4) as pool:
        job = pool.submit(shows(waits=True))
        until_each_runs(servers[0])
        pool.shutdown(wait=False)
        with servers[0].faults.freeze(), pytest.raises(JobTimeout):
            job.result(2.0)
        GATES.set()
        assert job.result(LIMIT).texts == ("x",)


@pytest.mark.timing(ping=0.2, silence=0.3, question=2.0, dead=1e4, cancel_timeout=1.0)
def test_prompts_of_a_map_time_out_together_on_a_silent_server(servers, clients, caplog) -> None:
    """Otherwise each would wait for ``timeout`` again; after one cancel in vain, none is tried."""
    caplog.set_level(logging.WARNING)
    workflows = [shows(waits=True)] * 6
    with pooled(clients[:1], cls=Leaving, patience=1e4) as pool, servers[0].faults.freeze():
        prompts = pool.map(workflows, timeout=2.0, in_flight=6, on_error="keep", progress=False)
        assert isinstance(next(prompts), JobTimeout)
        began = time.monotonic()
        assert [type(one) for one in prompts] == [JobTimeout] * 5
        assert time.monotonic() - began < 5 * 2.0
    assert sum("could not be cancelled" in one for one in caplog.messages) == 1


@pytest.mark.timing(ping=0.2, silence=0.3, question=1.0, dead=1e4, cancel_timeout=1.0)
@pytest.mark.parametrize("other", ["silent", "lacks the class"])
def test_prompts_that_no_silent_server_has_time_out_with_the_others(
    servers, clients, other
) -> None:
    """Otherwise the limit of each would start anew, one window of prompts after the other."""
    limit, number = 3.0, 100
    with contextlib.ExitStack() as stack:
        if other == "lacks the class":
            servers[1:] = [stack.enter_context(ComfyServer())]
            clients[1:] = [stack.enter_context(client(servers[1]))]
        pool = stack.enter_context(pooled(clients, cls=Leaving, patience=1e4))
        for server in servers[: 2 if other == "silent" else 1]:
            stack.enter_context(server.faults.freeze())
        options = {"timeout": limit, "in_flight": 4, "on_error": "keep"}
        prompts = pool.map([shows(waits=True)] * number, **options)
        assert isinstance(next(prompts), JobTimeout)
        began = time.monotonic()
        rest = list(prompts)
        assert [type(one) for one in rest] == [JobTimeout] * (number - 1)
        assert sum("it was cancelled" in str(one) for one in rest) > number / 2
        assert time.monotonic() - began < stretched(5 * limit)
    assert len(marks(*servers)) <= 4


@pytest.mark.timing(ping=0.2, silence=0.3, question=0.5, dead=1e4, cancel_timeout=1.0)
def test_prompts_have_their_time_again_when_a_server_is_back(servers, clients) -> None:
    with pooled(clients[:1], cls=Leaving, patience=1e4) as pool:
        workflows = iter([shows(waits=True), shows()])
        prompts = pool.map(workflows, timeout=6.0, in_flight=1, on_error="keep")
        with servers[0].faults.freeze():
            assert isinstance(next(prompts), JobTimeout)
        GATES.set()
        clients[0].poll_status(LIMIT)
        result = next(prompts)
        assert not isinstance(result, JobTimeout)
        assert result.texts == ("x",)


@pytest.mark.timing(ping=0.1, silence=0.2, question=0.2, dead=1e4)
def test_a_server_that_answers_another_request_is_not_silent(servers, clients) -> None:
    """Its answer to a submission may be late; then the next prompts of a map have their time."""
    answer = threading.Event()

    def handler(request: Request) -> None:
        answer.wait(LIMIT)
        servers[0].answer(request)

    servers[0].on("POST", "/prompt", handler)
    with pooled(clients[:1], patience=1e4) as pool, servers[0].faults.swallow_pings():
        job = pool.submit(shows())
        (member,) = pool._dispatcher.members.values()
        until(lambda: member.silent_for)
        asked_at = time.monotonic()
        clients[0].poll_status(LIMIT)
        assert member.silent_for <= time.monotonic() - asked_at
        answer.set()
        assert job.result(LIMIT).texts == ("x",)


def test_a_silent_server_is_seen_without_a_socket(servers) -> None:
    """As behind a proxy that knows no WebSocket, while the server's thread waits for an answer."""
    with contextlib.ExitStack() as stack:
        polled = [stack.enter_context(ComfyApi(one.url, transport="poll")) for one in servers]
        options = {"patience": 1.0, "on_lost": "retry", "mode": "round_robin"}
        pool = stack.enter_context(pooled(polled, **options))
        stack.enter_context(servers[0].faults.freeze())
        jobs = [pool.submit(shows()) for _ in range(6)]
        assert [job.exception(LIMIT) for job in jobs] == [None] * 6
        assert {job.server for job in jobs} == {servers[1].url}


@pytest.mark.posix("named pipes")
def test_a_pipe_that_nobody_writes_to_keeps_no_server(servers, clients, tmp_path) -> None:
    """A job whose file is still being read ends with its cancellation, or with the pool."""
    os.mkfifo(tmp_path / "pipe.png")
    graph = {
        "1": node("LoadImage", image=tmp_path / "pipe.png"),
        "2": node("PreviewImage", images=["1", 0]),
    }
    with pooled(clients[:1]) as pool:
        job = pool.submit(graph)
        until(lambda: pool.status().running == 1)
        assert job.cancel()
        assert isinstance(job.exception(LIMIT), JobInterrupted)
        assert pool.run(shows(), timeout=LIMIT).texts == ("x",)
        stuck = pool.submit(graph)
        until(lambda: pool.status().running == 1)
        pool.shutdown(cancel_futures=True)
        assert isinstance(stuck.exception(0), JobInterrupted)
    assert len(marks(*servers)) == 1
