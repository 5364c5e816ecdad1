"""A prompt that is in no queue and no history is lost, and nothing else is."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import pytest

from comfy_client import ComfyApi
from comfy_client.errors import (
    JobLost,
)
from comfy_client.testing import ComfyServer
from tests.helpers.clients import (
    LIMIT,
    Heard,
    Quick,
    client,
    outstanding,
    quick_once,
    until,
)
from tests.helpers.gates import check_once, held, saves, shows, until_it_runs
from tests.helpers.scripted import (
    CACHED,
    GRAPH,
    RUNS,
    START,
    looks,
    with_and_without_jobs_api,
)


@with_and_without_jobs_api
@pytest.mark.timing(follow=1.0, queue=1.0)
def test_a_job_that_vanishes_under_an_unbroken_socket_is_lost(comfy, fast):
    """At the next of the rare looks."""
    comfy.script(START, CACHED, RUNS)
    job = fast.submit(GRAPH)
    comfy.until(lambda: looks(comfy), LIMIT)
    comfy.forget()
    with pytest.raises(JobLost):
        job.result(LIMIT)


@with_and_without_jobs_api
def test_a_look_for_one_job_finds_all_that_vanished(comfy, fast):
    """What the socket has seen begin is not looked for by itself."""
    comfy.script(START, CACHED, RUNS)
    work = [fast.submit(GRAPH)]
    comfy.until(lambda: looks(comfy), LIMIT)
    work.append(fast.submit(GRAPH))
    comfy.forget()
    for job in work:
        with pytest.raises(JobLost):
            job.result(LIMIT)


def test_a_prompt_that_is_cancelled_too_late_is_lost(comfy: ComfyServer, gate: Any) -> None:
    """Somebody else has deleted it before: it was not our doing."""
    with client(comfy) as api:
        first = api.submit(held("a"))
        until_it_runs(comfy)
        second = api.submit(saves())
        with Quick(comfy.url) as other:
            other.delete_from_queue(second.prompt_id)
        assert not second.cancel()
        with pytest.raises(JobLost):
            second.result(LIMIT)
        gate("a").set()
        first.result(LIMIT)


@pytest.mark.parametrize("transport", ["auto", "poll"])
def test_a_prompt_that_was_deleted_is_lost(comfy: ComfyServer, gate: Any, transport: Any) -> None:
    """It ends as lost, by asking; the one before it is not disturbed."""
    with client(comfy, transport=transport) as api:
        told = Heard(api)
        first = api.submit(held("a"))
        until_it_runs(comfy)
        second = api.submit(saves())
        with Quick(comfy.url) as other:
            other.delete_from_queue(second.prompt_id)
        with pytest.raises(JobLost, match="in no queue and no history"):
            second.result(LIMIT)
        assert told.end(second.prompt_id).name == "job_lost"
        gate("a").set()
        check_once(comfy, told, first.result(LIMIT))
        assert len(comfy.ran) == 1


@pytest.mark.parametrize("waits", [False, True])
def test_a_server_that_was_killed_has_lost_its_jobs(
    comfy: ComfyServer, fast: ComfyApi, gate: Any, waits: bool
) -> None:
    """``JobLost`` within a few questions; the next job runs."""
    gate("a")
    told = Heard(fast)
    job = fast.submit(held("a"))
    until_it_runs(comfy)
    if waits:
        job = fast.submit(saves())
    comfy.kill()
    comfy.until(lambda: told("disconnected"), LIMIT)
    asked = len(comfy.requests)
    comfy.start()
    with pytest.raises(JobLost):
        job.result(LIMIT)
    about = f"/history/{job.prompt_id}"
    questions = [r for r in comfy.requests[asked:] if r.path == about]
    assert 2 <= len(questions) <= 5  # it was not lost before
    assert (told.end(job.prompt_id).name, job.status) == ("job_lost", "lost")
    comfy.until(lambda: told("reconnected"), LIMIT)
    check_once(comfy, told, fast.run(saves(7), timeout=LIMIT))


def test_a_queue_that_was_lost_without_a_restart(
    comfy: ComfyServer, fast: ComfyApi, gate: Any
) -> None:
    """What waits and what runs."""
    gate("a")
    told = Heard(fast)
    both = [fast.submit(held("a")), fast.submit(saves())]
    until_it_runs(comfy)
    comfy.faults.lose_queue()
    for job in both:
        with pytest.raises(JobLost):
            job.result(LIMIT)
        assert told.end(job.prompt_id).name == "job_lost"
    assert told.links == []


@pytest.mark.parametrize(
    ("comfy_version", "route", "nothing"),
    [
        ("0.3.75", "/queue", {"queue_running": [], "queue_pending": []}),
        ("0.28", "/jobs", {"jobs": [], "pagination": {"has_more": False}}),
    ],
)
def test_a_prompt_that_one_look_misses_is_not_lost(
    comfy: ComfyServer, gate: threading.Event, route: str, nothing: Any
) -> None:
    """In neither queue nor history: only a second look, some time later, says so."""
    with client(comfy, transport="poll") as api:
        with comfy.faults.answer("GET", route, (200, {}, nothing), times=1) as fault:
            job = api.submit(shows(waits=True))
            until(lambda: job.handle.state.missed_at or job.done())
        assert fault.hits == 1
        gate.set()
        assert job.result(LIMIT).texts == ("x",)


def test_a_job_that_map_left_running_is_lost_when_the_server_dies(
    comfy: ComfyServer, fast: ComfyApi
) -> None:
    """Only what waited was taken back."""
    with contextlib.closing(fast.map([shows("a"), shows("b", waits=True), shows("c")])) as results:
        next(results)
        until(lambda: any(job.status == "running" for job in outstanding(fast)))
    [running] = [job for job in outstanding(fast) if job.status == "running"]
    comfy.restart()
    assert isinstance(running.exception(LIMIT), JobLost)


@pytest.mark.parametrize("fault", ["deaf", "go_dark"])
@pytest.mark.timing(silence=1.0, silence_cap=2.0, queue=1.4, lost=0.4)  # a fifth of the usual ones
def test_a_job_deleted_by_others_is_lost_soon_without_an_event(
    comfy: ComfyServer, fault: str
) -> None:
    """After the longest pause between two questions, at most, and a second look."""
    with client(comfy, ComfyApi) as api, client(comfy, transport="poll") as other:
        api.submit(shows(waits=True))

        def lose() -> None:
            other.delete_from_queue(jobs[-1].prompt_id)
            assert isinstance(jobs.pop().exception(LIMIT), JobLost)

        jobs = [api.submit(shows(str(number))) for number in range(5)]
        until(lambda: all(job.status == "pending" for job in jobs))
        with getattr(comfy.faults, fault)():
            until(lambda: time.monotonic() - jobs[-1].handle.state.posted_at > 1.2)  # looked for
            quick_once(lose, 3.4)
