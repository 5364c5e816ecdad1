"""Jobs of a pool whose server goes away: what only waited there moves on, what ran does not."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from comfy_client import ComfyPool, Job, JobLost
from comfy_client.testing import ComfyServer
from tests.helpers.clients import LIMIT, Fast, until
from tests.helpers.gates import GATES, Gated, shows
from tests.helpers.pools import marks, pooled, until_each_runs


@pytest.fixture
def servers() -> Iterator[list[ComfyServer]]:
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(ComfyServer()) for _ in range(3)]
        for server in made:
            server.add_node(Gated)
        yield made
        GATES.end()


def had(pool: ComfyPool, servers: list[ComfyServer], jobs: list[Any]) -> tuple[Job, Job]:
    """Of the first server: the job that it runs, and the one that waits there."""
    until_each_runs(*servers)

    def found() -> list[Any]:
        there = [job for job in jobs if job.server == servers[0].url]
        by_status = {job.status: job for job in there}
        return [by_status.get("running"), by_status.get("pending")]

    running, pending = until(lambda: [one for one in [found()] if None not in one])[0]
    servers[0].until(lambda: pending.prompt_id in [item[1] for item in servers[0].pending], LIMIT)
    until(lambda: pool._dispatcher.state.entries[pending].inner)  # the answer has come, too
    return running, pending


@pytest.mark.parametrize("on_lost", ["raise", "retry"])
def test_jobs_that_waited_on_a_server_that_stays_away_move_on(servers, clients, on_lost) -> None:
    """At no cost; the error of what ran says which options there are."""
    with pooled(clients[:2], patience=0.3, on_lost=on_lost) as pool:
        jobs = [pool.submit(shows(f"t{n}", waits=True)) for n in range(4)]
        running, pending = had(pool, servers[:2], jobs)
        servers[0].kill()
        until(lambda: pending.server != servers[0].url)
        GATES.set()
        errors = [job.exception(LIMIT) for job in jobs]
        status = pool.status()
    assert [str(job.result().texts[0]) for job in jobs if job is not running] == [
        f"t{n}" for n, job in enumerate(jobs) if job is not running
    ]
    if on_lost == "retry":
        assert errors == [None] * 4
    else:
        error: Any = running.exception()
        assert isinstance(error, JobLost)
        assert "on_lost='retry'" in error.hint
        assert "on_error='keep'" in error.hint
        assert (status.done, status.failed) == (3, 1)


class Certain(ComfyPool):
    """Believes soon that a server has ended which refuses connections."""

    intervals = attrs.evolve(ComfyPool.intervals, refused=0.3)


@pytest.mark.parametrize("how", ["dies", "is removed, and dies"])
def test_jobs_that_waited_on_a_dead_server_move_before_patience_ends(servers, clients, how) -> None:
    """Its queue was in its memory.  What had begun may come to something, for all we know."""
    with pooled(clients[:2], cls=Certain, patience=600.0) as pool:
        jobs = [pool.submit(shows(f"t{n}", waits=True)) for n in range(4)]
        running, pending = had(pool, servers[:2], jobs)
        if how != "dies":
            pool.remove(clients[0])
        servers[0].kill()
        until(lambda: pending.server != servers[0].url)
        GATES.set()
        assert [job.exception(LIMIT) for job in jobs if job is not running] == [None] * 3
        assert not running.done()
        if how == "dies":
            servers[0].start()
        else:
            pool.remove(clients[0], gone=True)
        assert isinstance(running.exception(LIMIT), JobLost)
    assert Counter(marks(*servers)).most_common(1)[0][1] == 1


def test_jobs_that_waited_on_a_silent_server_stay_there(servers, clients) -> None:
    """It may be cut off only, and begin what it has."""
    with pooled(clients[:2], cls=Certain, patience=600.0) as pool:
        jobs = [pool.submit(shows(f"t{n}", waits=True)) for n in range(4)]
        _, pending = had(pool, servers[:2], jobs)
        with servers[0].faults.bad_gateway():
            servers[0].faults.drop()
            until(lambda: pool.status().servers[0].state == "down")
            asked = len(servers[0].requests)
            until(lambda: len(servers[0].requests) > asked + 4, LIMIT)
            assert pending.server == servers[0].url
        GATES.set()
        assert [job.exception(LIMIT) for job in jobs] == [None] * 4
    assert Counter(marks(*servers)).most_common(1)[0][1] == 1


@pytest.mark.parametrize("on_lost", ["raise", "retry"])
def test_jobs_of_a_server_that_is_gone_for_good_are_free_at_once(servers, clients, on_lost) -> None:
    """As after patience: what waited moves, and what ran follows ``on_lost``."""
    with pooled(clients[:2], patience=600.0, on_lost=on_lost) as pool:
        jobs = [pool.submit(shows(f"t{n}", waits=True)) for n in range(4)]
        running, pending = had(pool, servers[:2], jobs)
        servers[0].kill()
        pool.remove(clients[0], gone=True)
        with pytest.raises(ValueError, match="is not in the pool"):
            pool.remove(clients[2], gone=True)
        until(lambda: pending.server != servers[0].url)
        GATES.set()
        errors = [job.exception(LIMIT) for job in jobs]
        assert len(pool.status().servers) == 1
    if on_lost == "retry":
        assert errors == [None] * 4
    else:
        assert [type(error) for error in errors].count(JobLost) == 1
        assert "was removed as gone for good" in str(running.exception())


def test_a_server_that_is_declared_gone_and_answers_cancels_what_it_has(servers, clients) -> None:
    """What waits is deleted before what runs is interrupted; so nothing else begins there."""
    with pooled(clients[:2], patience=600.0, on_lost="retry") as pool:
        jobs = [pool.submit(shows(f"t{n}", waits=True)) for n in range(4)]
        had(pool, servers[:2], jobs)
        pool.remove(clients[0], gone=True)
        servers[0].until(lambda: not (servers[0].running or servers[0].pending), LIMIT)
        GATES.set()
        assert [job.exception(LIMIT) for job in jobs] == [None] * 4
        until(lambda: len(pool.status().servers) == 1)
    assert len(servers[0].ran) == 1


def test_the_log_has_one_warning_for_a_server_that_goes_away(servers, clients, caplog) -> None:
    """It says what is left there; that the pool waits for it, is no news then."""
    caplog.set_level("INFO", "comfy_client")
    with pooled(clients[:2], patience=600.0) as pool:
        jobs = [pool.submit(shows(f"t{n}", waits=True)) for n in range(4)]
        had(pool, servers[:2], jobs)
        servers[0].kill()
        until(lambda: pool.status().servers[0].state == "down")
        until(lambda: [one for one in caplog.records if "is away" in one.message], LIMIT)
        warned = [one for one in caplog.records if one.levelname == "WARNING"]
        assert len(warned) == 1
        assert "2 prompts outstanding" in warned[0].message
        servers[0].start()
        GATES.set()
        for job in jobs:
            job.exception(LIMIT)


def test_moved_jobs_are_deleted_from_their_first_server_once_it_is_back(servers, clients) -> None:
    """Before it gets anything else; so it runs once."""
    with pooled(clients[:2], patience=0.3) as pool:
        jobs = [pool.submit(shows(f"t{n}", waits=True)) for n in range(4)]
        running, pending = had(pool, servers[:2], jobs)
        moved = pending.prompt_id
        with servers[0].faults.bad_gateway():
            servers[0].faults.drop()
            until(lambda: pending.server != servers[0].url)
        until(lambda: moved not in [one.prompt_id for one in clients[0].get_queue().pending])
        GATES.set()
        assert isinstance(running.exception(LIMIT), JobLost)
        assert [job.exception(LIMIT) for job in jobs if job is not running] == [None] * 3
    assert Counter(marks(*servers)).most_common(1)[0][1] == 1
    assert len(marks(*servers)) == 4


def test_jobs_deleted_by_others_run_on_no_other_server(servers, clients) -> None:
    """Its server was there all the time."""
    with pooled(clients[:2]) as pool:
        jobs = [pool.submit(shows(f"t{n}", waits=True)) for n in range(4)]
        _, pending = had(pool, servers[:2], jobs)
        with Fast(servers[0].url) as somebody:
            somebody.delete_from_queue(pending.prompt_id)
        assert isinstance(pending.exception(LIMIT), JobLost)
        GATES.set()
        assert [job.exception(LIMIT) for job in jobs if job is not pending] == [None] * 3
    assert len(marks(*servers)) == 3


def test_a_job_that_three_servers_did_not_survive_is_lost(servers, clients) -> None:
    """With ``on_lost="retry"``, too; what waited behind it is run by others."""
    with pooled(clients, patience=0.3, on_lost="retry") as pool:
        poison = pool.submit(shows("poison", waits=True))
        until(lambda: poison.status == "running")
        (first,) = (one for one in servers if one.url == poison.server)
        behind = pool.submit(shows("behind", waits=True), include=[first.url])
        until(lambda: behind.status == "pending")
        first.kill()
        until(lambda: poison.server != first.url)
        for _ in range(2):
            until(lambda: poison.done() or (poison.status == "running" and poison.server))
            (server,) = (one for one in servers if one.url == poison.server)
            assert server is not first
            server.kill()
            server.start()
            until(lambda server=server: poison.done() or poison.server != server.url)
        error = poison.exception(LIMIT)
        assert isinstance(error, JobLost)
        assert "its server died 3 times" in str(error)
        assert not error.retryable
        first.start()
        GATES.set()
        assert behind.result(LIMIT).texts == ("behind",)
        assert pool.run(shows("later"), timeout=LIMIT).texts == ("later",)


def poisoned(server: ComfyServer, ran_on: list[ComfyServer]) -> type[Gated]:
    """A node that waits if its text says so, and then tells where it is."""

    class Poison(Gated):
        def run(self, text: str, waits: bool) -> dict[str, Any]:
            if text == "poison":
                ran_on.append(server)
            return super().run(text, waits or text == "poison")

    return Poison


def test_a_point_that_three_servers_did_not_survive_is_lost(servers, clients) -> None:
    """All others run."""
    ran_on: list[ComfyServer] = []
    for server in servers:
        server.add_node(poisoned(server, ran_on))

    def kill_each() -> None:
        for number in range(3):
            server = until(lambda number=number: ran_on[number:])[0]
            server.kill()
            server.start()

    grid = {"Poison.text": ["poison", *(f"t{n}" for n in range(8))]}
    graph = {"1": {"class_type": "Poison", "inputs": {"text": "", "waits": False}}}
    with pooled(clients, patience=0.3, on_lost="retry") as pool:
        killer = threading.Thread(target=kill_each)
        killer.start()
        rows = pool.sweep(graph, grid)
        killer.join(LIMIT)
    errors = {row.params["Poison.text"]: row.error for row in rows if row.error is not None}
    assert list(errors) == ["poison"]
    assert isinstance(errors["poison"], JobLost)
    assert len(ran_on) == 3
