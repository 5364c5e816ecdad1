"""``cancel`` stops this prompt and no other."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from comfy_client import ComfyApi
from comfy_client.errors import (
    AuthenticationError,
    JobInterrupted,
    JobLost,
    NotSupported,
    ServerUnreachable,
)
from comfy_client.jobs.job import Job
from comfy_client.testing import ComfyServer, Request, never_answer
from tests.helpers.clients import (
    LIMIT,
    Fast,
    Heard,
    Quick,
    client,
    quickly,
    until,
)
from tests.helpers.gates import Gated, Gates, Hold, check_once, held, saves, shows, until_it_runs
from tests.helpers.interrupts import press_ctrl_c
from tests.helpers.march_2024 import March2024
from tests.helpers.pools import pooled
from tests.helpers.scripted import (
    GRAPH,
    START,
    WELL,
    stops,
    with_and_without_jobs_api,
    without_jobs_api,
)

#: How a prompt that waits is deleted, by version.
DELETIONS = [("0.3.75", "/queue"), ("0.28", "/jobs/*/cancel")]


@pytest.mark.parametrize("is_deaf", [False, True])
def test_an_interrupt_by_somebody_else_ends_the_job(
    comfy: ComfyServer, fast: ComfyApi, gate: Any, is_deaf: bool
) -> None:
    """``JobInterrupted``, whether the socket or only history tells."""
    gate("a")
    told = Heard(fast)
    with comfy.faults.deaf() if is_deaf else contextlib.nullcontext(), Quick(comfy.url) as other:
        job = fast.submit(held("a"))
        until_it_runs(comfy)
        other.interrupt()
        with pytest.raises(JobInterrupted, match="was interrupted at"):
            job.result(LIMIT)
    assert (told.end(job.prompt_id).name, job.status) == ("execution_interrupted", "interrupted")
    assert told.end(job.prompt_id).recovered is is_deaf


@pytest.mark.parametrize(
    ("comfy_version", "route"), [("0.3.75", "/interrupt"), ("0.28", "/jobs/*/cancel")]
)
def test_cancel_of_a_job_that_has_just_ended_does_not_stop_the_next(
    comfy: ComfyServer, fast: ComfyApi, gate: Any, route: str
) -> None:
    """The next one, which runs by then, is not stopped."""
    told = Heard(fast)
    first, second = fast.submit(held("a")), fast.submit(held("b"))
    until_it_runs(comfy)

    def late(request: Request) -> Any:
        gate("a").set()
        comfy.until(lambda: [item[1] for item in comfy.running] == [second.prompt_id], LIMIT)
        return comfy.answer(request)

    comfy.on("POST", route, late)
    first.cancel()
    gate("b").set()
    check_once(comfy, told, second.result(LIMIT))
    check_once(comfy, told, first.result(LIMIT))


def test_cancel_does_not_ask_an_old_server_that_would_stop_whatever_runs(gate: Any) -> None:
    """So it is not asked to, unless told so; what waits is deleted."""
    with March2024() as comfy, Fast(comfy.url) as api:
        comfy.add_node(Hold)
        told = Heard(api)
        first, second = api.submit(held("a")), api.submit(saves())
        until_it_runs(comfy)
        with pytest.raises(NotSupported, match="stops whatever runs"):
            first.cancel()
        assert second.cancel()
        with pytest.raises(JobInterrupted):
            second.result(LIMIT)
        assert [r for r in comfy.requests if r.path == "/interrupt"] == []
        gate("a").set()
        check_once(comfy, told, first.result(LIMIT))
        assert len(comfy.ran) == 1


@without_jobs_api
def test_cancel_without_a_jobs_api(comfy: ComfyServer, fast: ComfyApi, gate: Any) -> None:
    """To cancel falls back to what there is, and does not ask for more again."""
    gate("a")
    for _ in range(2):
        job = fast.submit(held("a"))
        until_it_runs(comfy)
        assert job.cancel()
        with pytest.raises(JobInterrupted):
            job.result(LIMIT)
    assert len([r for r in comfy.requests if r.path.startswith("/jobs/")]) == 1


def test_a_cancelled_job_is_cancelling_until_it_ends(comfy: ComfyServer, fast: ComfyApi) -> None:
    """Even if the prompt runs on for a while, or succeeds after all."""
    go = threading.Event()
    comfy.script(START, go, *WELL[1:])
    job = fast.submit(GRAPH)
    until(lambda: job.status == "running")
    assert not job.handle.is_cancelling
    assert job.cancel()
    assert (job.status, job.handle.is_cancelling) == ("running", True)
    go.set()
    job.exception(LIMIT)
    assert not job.handle.is_cancelling


def test_cancel_waits_for_the_submission_of_another_thread(
    comfy: ComfyServer, fast: ComfyApi, gate: threading.Event
) -> None:
    """Nothing that it could stop is there before."""
    blocker = fast.submit(shows("blocker", waits=True))
    prompt_id = fast.generate_id()
    with comfy.faults.delay("POST", "/prompt", 1.0) as fault:
        submitting = threading.Thread(
            target=lambda: fast.submit(shows(), prompt_id=prompt_id), daemon=True
        )
        submitting.start()
        until(lambda: fault.hits)
        job = fast.job(prompt_id)
        assert job.cancel()
        submitting.join(LIMIT)
    assert isinstance(job.exception(LIMIT), JobInterrupted)
    gate.set()
    blocker.result(LIMIT)
    assert [ran.prompt_id for ran in comfy.ran] == [blocker.prompt_id]


@pytest.mark.parametrize(("comfy_version", "route"), DELETIONS)
@pytest.mark.parametrize("arrives", [True, False])
def test_cancel_that_ctrl_c_cuts_off_has_cancelled(
    comfy: ComfyServer, fast: ComfyApi, gate: threading.Event, arrives: bool, route: str
) -> None:
    """The prompt is gone, and by our hand; unless the server was not reached."""
    fast.submit(shows(waits=True))
    job = fast.submit(shows("b"))

    def press(request: Request) -> None:
        if arrives:
            comfy.answer(request)
        press_ctrl_c()
        never_answer(request)

    comfy.on("POST", route, press)
    with pytest.raises(KeyboardInterrupt):
        job.cancel()
    gate.set()
    error = job.exception(LIMIT)
    assert isinstance(error, JobInterrupted) if arrives else error is None


def test_cancel_that_reached_nobody_makes_no_loss_an_interruption(
    comfy: ComfyServer, fast: ComfyApi
) -> None:
    """What the server forgot afterwards is lost."""
    fast.submit(shows(waits=True))
    job = fast.submit(shows("b"))
    comfy.kill()
    with pytest.raises(ServerUnreachable):
        job.cancel()
    comfy.start()
    assert isinstance(job.exception(LIMIT), JobLost)


def test_a_second_cancel_that_finds_nothing_does_not_undo_the_first(
    comfy: ComfyServer, fast: ComfyApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that deleted it is the truth."""
    fast.submit(shows(waits=True))
    job = fast.submit(shows("b"))
    monkeypatch.setattr(fast.parts.poller, "wait_until", lambda happened, seconds: None)
    with fast.parts.tracker.lock:  # nobody learns of the first meanwhile
        assert job.cancel()
        assert job.handle.state.cancelled
        assert not job.cancel()
    assert isinstance(job.exception(LIMIT), JobInterrupted)


@pytest.mark.parametrize(("comfy_version", "route"), DELETIONS)
@pytest.mark.timing(silence=60.0)
def test_cancel_is_not_undone_by_a_look_at_the_queue_that_began_before_it(
    comfy: ComfyServer, api: ComfyApi, gate: Any, route: str
) -> None:
    """Whose answer still has the prompt: the thread that asks looks again at once."""
    api.submit(shows(waits=True))
    job = api.submit(shows("b"))
    is_read, is_cancelled = threading.Event(), threading.Event()

    def late(request: Request) -> Any:
        answer = comfy.answer(request)
        comfy.off("GET", "/queue")
        is_read.set()
        assert is_cancelled.wait(LIMIT)
        return answer

    @comfy.on("POST", route)
    def told(request: Request) -> Any:
        answer = comfy.answer(request)
        threading.Timer(0.1, is_cancelled.set).start()  # when the client has read the answer
        return answer

    comfy.on("GET", "/queue", late)
    attaching = threading.Thread(target=api.job, args=(api.generate_id(),), daemon=True)
    attaching.start()  # which asks for the queue
    assert is_read.wait(LIMIT)
    with quickly():
        assert job.cancel()
        assert job.done()
    attaching.join(LIMIT)


def test_cancel_by_our_id_leaves_the_job_of_the_servers_id_watched(
    comfy: ComfyServer, fast: ComfyApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are one prompt, and end together."""
    fast.submit(shows(waits=True))
    comfy.faults.other_prompt_ids()
    ours = fast.generate_id()
    first = fast.submit(shows("b"), prompt_id=ours)
    monkeypatch.setattr(fast.parts.poller, "wait_until", lambda happened, seconds: None)
    with fast.parts.tracker.lock:  # before the thread that asks has found it
        second = fast.job(ours)
        assert second.cancel()
    assert isinstance(first.exception(LIMIT), JobInterrupted)
    assert isinstance(second.exception(LIMIT), JobInterrupted)


def test_attaching_and_cancel_do_not_wait_for_the_backoff_of_earlier_failures(
    comfy: ComfyServer, fast: ComfyApi
) -> None:
    """The server has just answered, or is asked at once."""
    ended = fast.run(shows("a"), timeout=LIMIT).prompt_id
    fast.submit(shows(waits=True))
    job = fast.submit(shows("b"))
    fast.parts.poller.tracker.not_before = time.monotonic() + 3600.0
    assert fast.job(ended).result(LIMIT).texts == ("a",)
    fast.parts.poller.tracker.not_before = time.monotonic() + 3600.0
    assert job.cancel()
    assert isinstance(job.exception(LIMIT), JobInterrupted)


REMOVALS: dict[str, Callable[[ComfyApi, list[str]], object]] = {
    "cancel_job": lambda api, ids: [api.cancel_job(one) for one in ids],
    "cancel_jobs": lambda api, ids: api.cancel_jobs(*ids),
    "delete_from_queue": lambda api, ids: api.delete_from_queue(*ids),
    "clear_queue": lambda api, ids: api.clear_queue(),
}


class Patient(Fast):
    """Finds no prompt lost within a test."""

    timing = attrs.evolve(Fast.timing, lost=600.0)


@pytest.mark.parametrize("transport", ["auto", "poll"])
@pytest.mark.parametrize("how", REMOVALS)
def test_jobs_that_the_client_itself_removes_are_interrupted_at_once(
    gate: Gates, how: str, transport: Any
) -> None:
    """By whichever method: they are not lost some seconds later."""
    with ComfyServer(version="0.28") as comfy, client(comfy, Patient, transport=transport) as api:
        comfy.add_node(Gated)
        heard = Heard(api)
        blocker = api.submit(shows("blocker", waits=True))
        until_it_runs(comfy)
        jobs = [api.submit(shows(str(number))) for number in range(3)]
        attached = api.job(jobs[0].prompt_id)
        REMOVALS[how](api, [job.prompt_id for job in jobs])
        for job in (*jobs, attached):
            assert isinstance(job.exception(LIMIT), JobInterrupted)
            assert job.status == "interrupted"
        gate.set()
        assert blocker.result(LIMIT).texts == ("blocker",)
        for job in jobs:
            assert heard.end(job.prompt_id).name == "execution_interrupted"
        assert len(comfy.ran) == 1


@pytest.mark.parametrize("how", [how for how in REMOVALS if how != "clear_queue"])
def test_a_prompt_that_is_removed_before_its_submission_is_answered_is_interrupted(
    gate: Gates, how: str
) -> None:
    """The server has it by then, and the client knows its id."""
    with ComfyServer(version="0.28") as comfy, client(comfy, Patient) as api:
        comfy.add_node(Gated)
        blocker = api.submit(shows("blocker", waits=True))
        until_it_runs(comfy)
        prompt_id = api.generate_id()
        jobs: list[Job] = []
        with comfy.faults.delay("POST", "/prompt", ran=True):
            submitting = threading.Thread(
                target=lambda: jobs.append(api.submit(shows("b"), prompt_id=prompt_id)), daemon=True
            )
            submitting.start()
            until(lambda: comfy.pending)
            REMOVALS[how](api, [prompt_id])
        submitting.join(LIMIT)
        assert isinstance(jobs[0].exception(LIMIT), JobInterrupted)
        gate.set()
        assert blocker.result(LIMIT).texts == ("blocker",)


@pytest.mark.parametrize("how", REMOVALS)
def test_a_removal_concerns_only_what_the_server_has_removed(gate: Gates, how: str) -> None:
    """Neither what runs, nor another client's prompt, nor one that was lost before."""
    with (
        ComfyServer(version="0.28") as comfy,
        client(comfy) as api,
        client(comfy, Patient) as other,
    ):
        comfy.add_node(Gated)
        gone = other.job(other.generate_id())  # which no server ever had
        running = api.submit(shows("a", waits=True))
        until_it_runs(comfy)
        job, foreign = api.submit(shows("b")), other.submit(shows("c"))
        kept = other.submit(shows("d"))
        if how != "clear_queue":
            REMOVALS[how](api, [job.prompt_id, api.generate_id()])
            REMOVALS[how](other, [gone.prompt_id, foreign.prompt_id])
            assert isinstance(foreign.exception(LIMIT), JobInterrupted)
        else:
            api.clear_queue()
            foreign.cancel()
        assert isinstance(job.exception(LIMIT), JobInterrupted)
        assert running.handle.state.cancelled is gone.handle.state.cancelled is False
        assert not gone.done()
        gate.set()
        assert running.result(LIMIT).texts == ("a",)
        if how != "clear_queue":
            assert kept.result(LIMIT).texts == ("d",)


def test_a_removal_that_the_server_refused_ends_no_job(
    comfy: ComfyServer, fast: ComfyApi, gate: Gates
) -> None:
    """What the server forgets afterwards is lost."""
    fast.submit(shows(waits=True))
    job = fast.submit(shows("b"))
    with comfy.faults.answer("POST", "/queue", (403, {}, "no")):
        for remove in (fast.clear_queue, lambda: fast.delete_from_queue(job.prompt_id)):
            with pytest.raises(AuthenticationError):
                remove()
    comfy.faults.lose_queue()
    assert isinstance(job.exception(LIMIT), JobLost)


def test_a_pools_job_that_its_client_removes_is_interrupted(gate: Gates) -> None:
    """``pool.servers`` are the clients that have its jobs."""
    with ComfyServer(version="0.28") as comfy, pooled([comfy.url], in_flight=3) as pool:
        comfy.add_node(Gated)
        [api] = pool.servers
        blocker = pool.submit(shows("blocker", waits=True))
        jobs = [pool.submit(shows(str(number))) for number in range(2)]
        until(lambda: len(comfy.pending) == 2)
        api.cancel_job(jobs[0].prompt_id)
        api.delete_from_queue(jobs[1].prompt_id)
        for job in jobs:
            assert isinstance(job.exception(LIMIT), JobInterrupted)
        gate.set()
        blocker.result(LIMIT)


# -- a server that forgets an interrupt -----------------------------------------------------------


def held_by(*names: str) -> dict[str, Any]:
    """A workflow whose nodes wait for these gates, one after the other."""
    graph = held(names[0])
    for number, name in enumerate(names[1:], 10):
        link = graph["9"]["inputs"]["images"]
        graph[str(number)] = {"class_type": "Hold", "inputs": {"image": link, "gate": name}}
        graph["9"]["inputs"]["images"] = [str(number), 0]
    return graph


STOPS: dict[str, Callable[[ComfyApi, Job], object]] = {
    "job.cancel": lambda api, job: job.cancel(),
    "cancel_job": lambda api, job: api.cancel_job(job.prompt_id),
    "cancel_jobs": lambda api, job: api.cancel_jobs(job.prompt_id),
    "interrupt": lambda api, job: api.interrupt(job.prompt_id),
}


@pytest.mark.parametrize("transport", ["auto", "poll"])
@pytest.mark.parametrize("how", STOPS)
def test_a_running_prompt_that_the_client_itself_stops_is_interrupted(
    gate: Gates, how: str, transport: Any
) -> None:
    """The history tells it where no event does."""
    with ComfyServer(version="0.28") as comfy, client(comfy, Patient, transport=transport) as api:
        comfy.add_node(Hold)
        job = api.submit(held("a"))
        until_it_runs(comfy)
        STOPS[how](api, job)
        assert isinstance(job.exception(LIMIT), JobInterrupted)


@pytest.mark.timing(stop_again=0.01)
@pytest.mark.parametrize("how", STOPS)
def test_an_interrupt_that_the_server_forgot_is_sent_again(gate: Gates, how: str) -> None:
    """As soon as the prompt begins another node."""
    with ComfyServer(version="0.28") as comfy, client(comfy) as api:
        comfy.add_node(Hold)
        job = api.submit(held_by("a", "b"))
        until(lambda: job.progress.title == "Hold")
        with comfy.faults.forget_interrupts(times=1) as fault:
            STOPS[how](api, job)
            assert fault.hits == 1
        gate("a").set()
        assert isinstance(job.exception(LIMIT), JobInterrupted)
        assert stops(comfy) == 2


@pytest.mark.timing(stop_again=0.01)
def test_an_interrupt_that_no_node_begins_after_is_sent_once(
    comfy: ComfyServer, fast: ComfyApi, gate: Gates
) -> None:
    """The node may merely look for it seldom."""
    job = fast.submit(held("a"))
    until(lambda: job.progress.title == "Hold")
    with comfy.faults.forget_interrupts():
        job.cancel()
    before = stops(comfy)
    for _ in range(3):  # passes of the thread that would send it
        fast.parts.tracker.wake.set()
        assert fast.parts.poller.stops.repeat() == float("inf")
    assert not job.done()
    assert stops(comfy) == before


@pytest.mark.timing(stop_again=0.01)
def test_an_interrupt_is_sent_again_three_times_at_most(
    comfy: ComfyServer, fast: ComfyApi, gate: Gates
) -> None:
    """A server that always forgets it runs the prompt to its end."""
    names = [f"gate {number}" for number in range(6)]
    job = fast.submit(held_by(*names))
    until(lambda: job.progress.title == "Hold")
    with comfy.faults.forget_interrupts() as fault:
        job.cancel()
        for number, name in enumerate(names[:-1], 1):
            node = job.progress.node_id
            gate(name).set()
            until(lambda node=node: job.progress.node_id not in (None, node))
            until(lambda number=number: fault.hits == min(1 + number, 4))
        gate(names[-1]).set()
        assert job.result(LIMIT).complete
        assert fault.hits == 4


@pytest.mark.timing(stop_again=0.01)
def test_an_old_server_is_interrupted_again_only_for_a_prompt_of_ours(gate: Gates) -> None:
    """Its interrupt stops whatever runs: the queue has to say that our prompt does."""
    with March2024() as comfy, Fast(comfy.url) as api:
        comfy.add_node(Hold)
        job, other = api.submit(held_by("a", "b")), api.submit(held("c"))
        until(lambda: job.progress.title == "Hold")
        with comfy.faults.forget_interrupts(times=1):
            job.cancel(force=True)
        looks = [r.path for r in comfy.requests].count("/queue")
        gate("a").set()
        assert isinstance(job.exception(LIMIT), JobInterrupted)
        assert [r.path for r in comfy.requests].count("/queue") > looks
        assert [r.path for r in comfy.requests].count("/interrupt") == 2
        gate("c").set()
        assert other.result(LIMIT).complete


@with_and_without_jobs_api
@pytest.mark.timing(stop_again=0.01)
def test_cancel_of_an_ended_prompt_interrupts_no_other(
    comfy: ComfyServer, fast: ComfyApi, gate: Gates
) -> None:
    """Though its interrupt was forgotten, and the next prompt begins nodes."""
    job, other = fast.submit(held("a")), fast.submit(held_by("b", "c"))
    until(lambda: job.progress.title == "Hold")
    with comfy.faults.forget_interrupts():
        job.cancel()
        gate("a").set()
        job.exception(LIMIT)
    gate("b").set()
    gate("c").set()
    assert other.result(LIMIT).complete


@pytest.mark.parametrize(
    ("comfy_version", "is_old"), [("0.3.75", True), ("0.3.75", False), ("0.28", False)]
)
def test_a_prompt_is_cancelled_though_the_queue_is_too_large_to_read(
    comfy: ComfyServer, gate: Gates, is_old: bool
) -> None:
    """By its id; without a jobs API it is deleted first, and interrupted where that heeds ids."""
    comfy.add_node(Gated)
    if is_old:
        stats = {"system": {"comfyui_version": "0.3.50"}, "devices": []}
        comfy.on("GET", "/system_stats", (200, {}, stats))
    with client(comfy, max_json=60_000) as api:
        running = api.submit(shows("x" * 25_000, waits=True))
        until_it_runs(comfy)
        deleted, last = (api.submit(shows(name * 25_000)) for name in "yz")
        if is_old:
            with pytest.raises(NotSupported, match="was deleted if it was pending"):
                deleted.cancel()
        else:
            assert deleted.cancel()
            assert isinstance(deleted.exception(LIMIT), JobInterrupted)
            last = api.submit(shows("w" * 25_000))
            assert running.cancel()
            assert isinstance(running.exception(LIMIT), JobInterrupted)
        gate.set()
        assert last.result(LIMIT).complete
        assert len(comfy.ran) == (2 if is_old else 3)
