"""Several servers as one executor: each job runs once, whatever becomes of the servers."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import gc
import itertools
import logging
import pickle
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from comfy_client import (
    ApiError,
    AuthenticationError,
    ClientClosed,
    ComfyApi,
    ComfyPool,
    JobFailed,
    JobInterrupted,
    JobLost,
    JobTimeout,
    PoolEvent,
    PoolStatus,
    PromptRejected,
    Result,
    ServerStatus,
    ServerUnreachable,
    UnexpectedResponse,
    Workflow,
    WorkflowError,
)
from comfy_client.testing import ComfyServer, Request
from comfy_client.testing.versions import Version
from comfy_client.transport.websocket import State
from tests.conftest import examples
from tests.helpers.clients import FAST, LIMIT, Fast, Heard, flush, until
from tests.helpers.ctrl_c import at_each_point
from tests.helpers.gates import GATES, Gated, shows
from tests.helpers.interrupts import in_time
from tests.helpers.pools import AsksAgain, marks, pooled, until_each_runs
from tests.helpers.processes import in_child
from tests.helpers.scripted import without_jobs_api

#: One pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)

#: Has a file to be sent.
SENDS = {
    "1": {"class_type": "LoadImage", "inputs": {"image": PNG}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
}


#: A server that is not there.
NOWHERE = "http://127.0.0.1:1"


class Fails:
    """Raises."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    def run(self) -> None:
        raise RuntimeError("no luck")


class Rare(Gated):
    """The same as its base, but only one server has it."""


@pytest.fixture
def servers(comfy_version: Version | None) -> Iterator[list[ComfyServer]]:
    """Two of them; their nodes wait for the gate without a name."""
    with ComfyServer(version=comfy_version) as one, ComfyServer(version=comfy_version) as two:
        for server in (one, two):
            server.add_node(Gated)
            server.add_node(Fails)
        yield [one, two]
        GATES.end()


def test_all_servers_work_and_each_job_runs_once(servers) -> None:
    with pooled([server.url for server in servers]) as pool:
        jobs = [pool.submit(shows(f"t{n}")) for n in range(8)]
        assert [job.result(LIMIT).texts for job in jobs] == [(f"t{n}",) for n in range(8)]
        assert {job.server for job in jobs} == {server.url for server in servers}
        assert all(job.to_dict()["server"] == job.server for job in jobs)
    assert sorted(marks(*servers)) == sorted(job.prompt_id for job in jobs)


def test_jobs_of_a_pool_are_futures(clients) -> None:
    with pooled(clients) as pool:
        jobs = [pool.submit(shows(f"t{n}")) for n in range(3)]
        done, not_done = concurrent.futures.wait(jobs, LIMIT)
        assert (len(done), len(not_done)) == (3, 0)
        assert set(pool.as_completed(jobs, LIMIT)) == set(jobs)


def test_a_job_waits_in_the_pool_until_a_server_is_free(servers, clients) -> None:
    with pooled(clients, in_flight=1) as pool:
        running = [pool.submit(shows(waits=True)) for _ in servers]
        until_each_runs(*servers)
        first, second = (pool.submit(shows(text)) for text in ("a", "b"))
        assert (first.status, first.server, first.queue_position) == ("waiting", None, 0)
        assert second.queue_position == 1
        assert second.why().startswith("waiting for a server, 1 before it")
        assert second.to_dict()["status"] == "waiting"
        GATES.set()
        assert second.result(LIMIT).texts == ("b",)
        assert [job.result(LIMIT).texts for job in running] == [("x",)] * 2
        assert second.status == "succeeded"


@pytest.mark.parametrize("mode", ["first_free", "shortest"])
def test_prompts_of_the_pool_that_just_ended_are_not_foreign(servers, clients, mode) -> None:
    """So that jobs which come one after the other go to the server that has their models."""

    class Settles(ComfyPool):
        intervals = attrs.evolve(ComfyPool.intervals, settling=LIMIT)

    loader = {
        "class_type": "CheckpointLoaderSimple",
        "inputs": {"ckpt_name": "simulated.safetensors"},
    }
    with pooled(clients, mode=mode, cls=Settles) as pool:
        for _ in range(20):
            assert pool.run({**shows(), "2": loader}, timeout=LIMIT).texts
            assert [one.others for one in pool.status().servers] == [0, 0]
    assert [len(server.ran) for server in servers] == [20, 0]


def test_a_waiting_job_that_is_cancelled_never_runs(servers, clients) -> None:
    """It ends at once, with its one end event."""
    with pooled(clients, in_flight=1) as pool:
        running = [pool.submit(shows(waits=True)) for _ in servers]
        until_each_runs(*servers)
        job = pool.submit(shows())
        assert job.cancel()
        assert [event.name for event in job.events()] == ["execution_interrupted"]
        with pytest.raises(JobInterrupted, match="cancelled while it waited"):
            job.result(0)
        assert job.status == "interrupted"
        assert running[0].cancel()
        with pytest.raises(JobInterrupted):
            running[0].result(LIMIT)
        GATES.set()
        running[1].result(LIMIT)
    assert job.prompt_id not in marks(*servers)


def test_events_of_a_job_come_from_its_beginning(clients) -> None:
    """But of the progress before somebody reads, only the newest is kept."""
    seen: list[str] = []
    with pooled(clients) as pool:
        job = pool.submit(shows(), on_event=lambda event: seen.append(event.name))
        job.result(LIMIT)
        names = [event.name for event in job.events()]
    assert names[0] == "execution_start"
    assert names[-1] == "execution_success"
    progress = {"progress", "progress_state"}
    assert [name for name in seen if name not in progress] == [
        name for name in names if name not in progress
    ]


def test_map_yields_in_order_and_keeps_errors(servers, clients) -> None:
    workflows = [shows("a"), {"1": {"class_type": "Fails", "inputs": {}}}, shows("b")]
    with pooled(clients) as pool:
        found = list(pool.map(workflows, on_error="keep"))
        assert [type(each) for each in found] == [Result, JobFailed, Result]
        with pytest.raises(JobFailed, match="no luck"):
            list(pool.map(workflows))
        params = ({"Gated.text": f"t{n}"} for n in range(9))
        texts = {each.texts[0] for each in pool.map(shows(), params, ordered=False)}
        assert texts == {f"t{n}" for n in range(9)}
        with pytest.raises(TypeError, match="params"):
            pool.map(shows())


def test_map_that_ends_early_takes_back_what_waits(servers, clients) -> None:
    with pooled(clients, in_flight=1) as pool:
        found = pool.map([shows("a"), *(shows(waits=True) for _ in range(9))])
        assert next(found).texts == ("a",)
        found.close()
        assert pool.status().waiting == 0
        GATES.set()
    assert len(marks(*servers)) <= 3


def test_a_job_that_the_last_server_to_connect_lacks_too_ends_then(servers, clients) -> None:
    """It was taken as long as one server had not said what it has."""
    may_tell = threading.Event()

    def tell(request: Request) -> Any:
        may_tell.wait(LIMIT)
        return servers[1].answer(request)

    servers[1].on("GET", "/object_info", tell)
    with ComfyPool(clients) as pool:
        job = pool.submit({"1": {"class_type": "Rarer", "inputs": {}}})
        assert pool.run(shows(), timeout=LIMIT).texts == ("x",)
        assert not job.done()
        may_tell.set()
        with pytest.raises(WorkflowError, match=f"no server .*{servers[1].url} lacks .*Rarer"):
            job.result(LIMIT)
        assert not pool.status().waiting


def test_a_job_goes_only_where_its_classes_and_models_are(servers, clients) -> None:
    servers[1].add_node(Rare)
    rare = {"1": {"class_type": "Rare", "inputs": {"text": "r", "waits": False}}}
    with pooled(clients) as pool:
        jobs = [pool.submit(rare) for _ in range(3)]
        assert [job.result(LIMIT).texts for job in jobs] == [("r",)] * 3
        assert {job.server for job in jobs} == {servers[1].url}
        with pytest.raises(WorkflowError, match=r"lacks the node class 'Rarer'"):
            pool.submit({"1": {"class_type": "Rarer", "inputs": {}}})
        example = Workflow.example()
        example["CheckpointLoaderSimple"]["ckpt_name"] = "none.safetensors"
        with pytest.raises(WorkflowError, match=r"lacks 'none.safetensors' \(Checkpoint"):
            pool.submit(example)
        with pytest.raises(WorkflowError, match="no server of the pool can run"):
            pool.submit(rare, exclude=[servers[1].url])


def test_node_classes_added_to_a_server_count(servers, clients) -> None:
    rare = {"1": {"class_type": "Rare", "inputs": {"text": "r", "waits": False}}}
    with pooled(clients, cls=AsksAgain) as pool:
        with pytest.raises(WorkflowError):
            pool.submit(rare)
        servers[0].add_node(Rare)
        assert pool.run(rare, timeout=LIMIT).texts == ("r",)


def test_node_classes_added_to_a_server_count_though_another_is_away(servers, clients) -> None:
    """That one might have it, too."""
    rare = {"1": {"class_type": "Rare", "inputs": {"text": "r", "waits": False}}}
    with ComfyPool([clients[0], NOWHERE]) as pool:
        until(lambda: pool.status().servers[1].error)
        assert pool.run(shows(), timeout=LIMIT)
        servers[0].add_node(Rare)
        assert pool.run(rare, timeout=LIMIT).texts == ("r",)


def test_a_job_that_waits_for_a_server_that_is_away_says_what_the_others_lack(
    clients, caplog
) -> None:
    """A name may be misspelt; the log says it once."""
    misspelt = {"1": {"class_type": "Gatd", "inputs": {}}}
    lacks = f"{clients[0].host} lacks the node class 'Gatd'"
    with ComfyPool([clients[0], NOWHERE]) as pool:
        until(lambda: pool.status().servers[1].error)
        jobs = [pool.submit(misspelt) for _ in range(2)]
        for job in jobs:
            assert job.why().endswith(f"no server that can run it is ready: {NOWHERE}; {lacks}")
        pool.shutdown(cancel_futures=True)
    assert caplog.text.count(lacks) == 1
    assert f"prompt {jobs[0].prompt_id} is waiting for a server" in caplog.text


def test_include_and_exclude_name_servers(servers, clients, caplog) -> None:
    with pooled(clients) as pool:
        jobs = [pool.submit(shows(), include=[servers[0].url]) for _ in range(3)]
        jobs += [pool.submit(shows(), exclude=[clients[1]])]
        assert {job.server for job in jobs if job.result(LIMIT)} == {servers[0].url}
        with pytest.raises(ValueError, match="include: http://gpu-box:8188 is not in the pool"):
            pool.submit(shows(), include=["gpu-box"])
        with pytest.raises(ValueError, match="leave no server"):
            pool.submit(shows(), include=[clients[0]], exclude=[clients[0]])
    assert "interrupted" not in caplog.text


def test_higher_priorities_go_first(servers, clients) -> None:
    with pooled(clients[:1], in_flight=1) as pool:
        running = pool.submit(shows(waits=True))
        until_each_runs(servers[0])
        low, high = pool.submit(shows("low")), pool.submit(shows("high"), priority=1)
        GATES.set()
        assert {job.result(LIMIT).texts for job in (low, high, running)}
    assert marks(servers[0]) == [running.prompt_id, high.prompt_id, low.prompt_id]


def test_files_are_uploaded_to_the_server_that_is_chosen(servers, clients) -> None:
    with pooled(clients) as pool:
        job = pool.submit(SENDS, include=[clients[1]])
        assert job.result(LIMIT).images[0].bytes().startswith(b"\x89PNG")
    uploads = [
        [request for request in server.requests if request.path == "/upload/image"]
        for server in servers
    ]
    assert list(map(len, uploads)) == [0, 1]


def test_a_refusal_by_the_server_is_the_error_of_its_pooled_job(clients) -> None:
    with pooled(clients) as pool:
        job = pool.submit({"1": {"class_type": "Gated", "inputs": {"text": ["9", 0]}}})
        assert isinstance(job.exception(LIMIT), PromptRejected | WorkflowError)
        assert job.status == "failed"
        assert list(job.events()) == []


# -- servers that come and go -----------------------------------------------------------------


def test_a_job_that_a_server_surely_never_got_goes_to_another(servers, clients) -> None:
    with pooled(clients) as pool:
        servers[0].kill()
        jobs = [pool.submit(shows(f"t{n}")) for n in range(4)]
        assert [job.result(LIMIT).texts for job in jobs] == [(f"t{n}",) for n in range(4)]
        until(lambda: pool.status().servers[0].state == "down")
        assert pool.status().servers[0].error is not None
        servers[0].start()
        until(lambda: pool.status().servers[0].state == "ready")
    assert len(marks(*servers)) == 4


@pytest.mark.parametrize("on_lost", ["raise", "retry"])
def test_a_server_that_is_killed_in_mid_run_and_comes_back(servers, clients, on_lost) -> None:
    """What ran is lost, or runs again if that is wished; what only waited there moves on."""
    with pooled(clients, on_lost=on_lost) as pool:
        jobs = [pool.submit(shows(f"t{n}", waits=True)) for n in range(8)]
        until_each_runs(*servers)
        until(lambda: sorted(job.status for job in jobs)[:4] == ["pending"] * 2 + ["running"] * 2)
        had = [job for job in jobs if job.server == servers[0].url]
        running = [job for job in had if job.status == "running"]
        before = {job: job.prompt_id for job in jobs}
        servers[0].kill()
        GATES.set()
        servers[0].start()
        ends = [job.exception(LIMIT) for job in jobs]
        status = pool.status()
    assert (status.done, status.failed) == (ends.count(None), 8 - ends.count(None))
    ran = marks(*servers)
    assert len(ran) == len(set(ran))
    if on_lost == "retry":
        assert ends == [None] * 8
        assert {job.result().texts for job in jobs} == {(f"t{n}",) for n in range(8)}
        assert {job for job in jobs if job.prompt_id != before[job]} == set(had)
    else:
        assert [job for job, end in zip(jobs, ends, strict=True) if end] == running
        assert all(isinstance(job.exception(), JobLost) for job in running)
        assert all(job.status == "lost" for job in running)
        assert {job.prompt_id for job in jobs if job not in had} <= set(ran)


@pytest.mark.parametrize("on_lost", ["raise", "retry"])
def test_a_server_that_stays_away_has_lost_its_jobs_when_patience_ends(
    servers, clients, on_lost
) -> None:
    with pooled(clients, in_flight=1, patience=0.3, on_lost=on_lost) as pool:
        jobs = [pool.submit(shows(f"t{n}", waits=True)) for n in range(2)]
        until_each_runs(*servers)
        (lost,) = (job for job in jobs if job.server == servers[0].url)
        servers[0].kill()
        until(lambda: lost.done() or lost.status == "waiting")
        GATES.set()
        if on_lost == "retry":
            assert {job.result(LIMIT).texts for job in jobs} == {("t0",), ("t1",)}
            assert lost.server == servers[1].url
            assert [event.name for event in lost.events() if event.is_end] == ["execution_success"]
        else:
            error = lost.exception(LIMIT)
            assert isinstance(error, JobLost)
            assert f"{servers[0].url} has not answered for 0.3 s" in str(error)
            assert not error.retryable  # it may have run it
            assert "before you submit it again" in str(pickle.loads(pickle.dumps(error)).hint)
            assert [event.name for event in lost.events() if event.is_end] == ["job_lost"]


def test_servers_are_added_and_removed_while_jobs_run(servers, clients) -> None:
    seen: list[tuple[str, Any]] = []
    with ComfyPool(clients[:1], in_flight=1) as pool:
        for name in ("added", "removed", "ready", "idle", "have_job"):
            pool.on(name, lambda sender, event: seen.append((event.name, event.server)))
        running = pool.submit(shows("a", waits=True))
        until_each_runs(servers[0])
        waiting = pool.submit(shows("b", waits=True))
        pool.add(clients[1])
        until_each_runs(servers[1])
        assert waiting.server == servers[1].url
        pool.remove(servers[0].url)
        assert pool.servers == (clients[1],)
        assert [one.state for one in pool.status().servers] == ["ready", "leaving"]
        GATES.set()
        assert (running.result(LIMIT).texts, waiting.result(LIMIT).texts) == (("a",), ("b",))
        until(lambda: len(pool.status().servers) == 1)
        assert pool.status().done == 2
        with pytest.raises(ValueError, match="is not in the pool"):
            pool.remove(servers[0].url)
        until(lambda: seen[-1:] == [("idle", None)])
    assert [name for name, _ in seen if name != "ready"] == [
        *("have_job", "have_job", "added", "removed", "idle")
    ]
    assert ("added", servers[1].url) in seen
    assert ("ready", servers[1].url) in seen


def test_events_of_clients_have_the_client_as_sender(servers, clients, caplog) -> None:
    senders: set[Any] = set()
    pool_senders: list[Any] = []
    with pooled(clients[:1]) as pool:
        off = pool.on("execution_success", lambda sender, event: senders.add(sender))
        pool.on("idle", lambda sender, event: pool_senders.append((sender, type(event))))
        pool.add(clients[1])
        until(lambda: pool.status().servers[-1].state == "ready")
        for client in clients:
            pool.run(shows(), include=[client], timeout=LIMIT)
        until(lambda: senders == set(clients) and len(pool_senders) == 2)
        assert pool_senders[0] == (pool, PoolEvent)
        off()
        with pytest.raises(TypeError, match="a sender and an event"):
            pool.on("idle", lambda event: None)
        pool.on("raedy", lambda sender, event: None)
        assert "'raedy' is not an event of a pool; did you mean 'ready'?" in caplog.text


def test_pool_status_is_a_table(servers, clients) -> None:
    with pooled(clients, mode="round_robin") as pool:
        pool.run(shows(), timeout=LIMIT)
        status = pool.status()
        assert str(pool) == str(status)
        shown = pool._repr_mimebundle_()
    assert shown["text/plain"] == repr(pool)
    assert all(server.url in shown["text/html"] for server in servers)
    assert str(status).splitlines()[0] == (
        "2 of 2 servers ready, mode round_robin: 0 waiting, 0 running, 1 done, 0 failed"
    )
    assert [line.split()[:2] for line in str(status).splitlines()[2:]] == [
        [server.url, "ready"] for server in servers
    ]
    assert [one["done"] for one in status.to_dict()["servers"]] == [1, 0]


def test_a_long_reason_why_a_server_is_down_ends_in_dots_in_the_table() -> None:
    down = ServerStatus(
        host="http://127.0.0.1:1",
        state="down",
        weight=1.0,
        own=0,
        others=0,
        done=0,
        failed=0,
        models=(),
        error=ServerUnreachable("no answer " * 20),
    )
    status = PoolStatus(mode="shortest", waiting=0, running=0, done=0, failed=0, servers=(down,))
    assert str(status).endswith("no answer no answ...")
    assert len(str(status).splitlines()[-1]) < 200


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((403, {}, ""), AuthenticationError),
        ((302, {"Location": "/login"}, ""), UnexpectedResponse),
    ],
    ids=["403", "login page"],
)
def test_a_server_that_refuses_a_job_does_not_get_it_again(servers, clients, answer, error) -> None:
    """Another does; if none is left, the refusal is the error of the job."""
    with pooled(clients) as pool:
        servers[0].faults.answer("POST", "/prompt", answer)
        jobs = [pool.submit(shows()) for _ in range(4)]
        assert {job.server for job in jobs if job.result(LIMIT)} == {servers[1].url}
        servers[1].faults.answer("POST", "/prompt", answer)
        assert isinstance(pool.submit(shows()).exception(LIMIT), error)


def test_a_client_that_its_user_closes_is_a_server_less(servers, clients) -> None:
    with pooled(clients) as pool:
        clients[0].close()
        jobs = [pool.submit(shows()) for _ in range(4)]
        assert {job.server for job in jobs if job.result(LIMIT)} == {servers[1].url}


def test_a_prompt_being_sent_by_a_closed_client_goes_to_no_other_server(servers, clients) -> None:
    """Its server may have it, as here."""
    arrived, release = threading.Event(), threading.Event()

    def slowly(request: Request) -> Any:
        answer = servers[0].answer(request)
        arrived.set()
        release.wait(LIMIT)
        return answer

    servers[0].on("POST", "/prompt", slowly)
    with pooled(clients, mode="first_free") as pool:
        job = pool.submit(shows())
        assert arrived.wait(LIMIT)
        clients[0].close()
        with pytest.raises(ClientClosed):
            job.result(LIMIT)
        release.set()
    servers[0].until(lambda: servers[0].ran, LIMIT)
    assert marks(*servers) == [job.prompt_id]


def test_a_server_without_a_socket_is_missed_when_it_goes(servers) -> None:
    with Fast(servers[0].url, transport="poll") as api, pooled([api], patience=0.3) as pool:
        job = pool.submit(shows(waits=True))
        until_each_runs(servers[0])
        servers[0].kill()
        with pytest.raises(JobLost, match=r"has not answered for 0\.3 s"):
            job.result(LIMIT)


def test_no_job_is_lost_on_a_server_that_is_heard_of(servers, clients) -> None:
    """Though it gets no others, since it does not say what it has."""
    with pooled(clients, patience=0.3) as pool:
        jobs = [pool.submit(shows(waits=True), include=[clients[n]]) for n in (0, 1, 1)]
        until_each_runs(*servers)
        faults = servers[0].faults
        broken = faults.answer("GET", "/object_info", (500, {}, ""))
        faults.answer("POST", "/prompt", (403, {}, ""))
        jobs.append(pool.submit(shows()))
        until(lambda: pool.status().servers[0].state == "down")
        with pytest.raises(JobTimeout):
            jobs[0].result(1.0)
        broken.end()
        GATES.set()
        assert [job.result(LIMIT).texts for job in jobs] == [("x",)] * 4
        assert [job.server == servers[0].url for job in jobs] == [True, False, False, False]


def test_a_slow_submission_delays_no_other_job(servers, clients) -> None:
    with pooled(clients) as pool:
        slow = servers[0].faults.delay("POST", "/prompt", None)
        jobs = [pool.submit(shows()) for _ in range(4)]
        assert {job.server for job in itertools.islice(pool.as_completed(jobs), 3)} == {
            servers[1].url
        }
        slow.end()
        servers[0].faults.drop()


def test_a_job_whose_cancellation_failed_does_not_run_again(servers, clients) -> None:
    with pooled(clients, on_lost="retry", in_flight=1, patience=2.0) as pool:
        job = pool.submit(shows(waits=True), include=[clients[0]])
        until_each_runs(servers[0])
        until(lambda: pool._dispatcher.state.entries[job].inner)  # the answer has come, too
        servers[0].kill()
        with pytest.raises(ServerUnreachable):
            job.cancel()
        assert isinstance(job.exception(LIMIT), JobLost)


@pytest.mark.timing(ping=0.2, dead=2.0)
def test_an_abandoned_job_ends_for_its_client_when_the_server_is_back(servers, clients) -> None:
    with pooled(clients[:1], patience=0.3) as pool:
        heard = Heard(clients[0])
        job = pool.submit(shows(waits=True))
        until_each_runs(servers[0])
        frozen = servers[0].faults.freeze()
        assert isinstance(job.exception(LIMIT), JobLost)
        frozen.end()
        GATES.set()
        until(lambda: heard.ends(job.prompt_id))
        assert heard.end(job.prompt_id).name == "execution_success"
        assert job.status == "lost"
        assert [event.name for event in job.events() if event.is_end] == ["job_lost"]


def end_once_cancelled(fault: Any, pool: ComfyPool, job: Any) -> None:
    """End a fault as soon as the pool has noted that a job is to be cancelled."""
    entry = pool._dispatcher.state.entries[job]

    def end() -> None:
        until(lambda: entry.cancelled)
        fault.end()

    threading.Thread(target=end, daemon=True).start()


@pytest.mark.timing(cancel_timeout=LIMIT)
def test_a_job_that_is_cancelled_while_it_is_submitted_ends_though_that_fails_once(
    servers, clients
) -> None:
    faults = servers[0].faults
    with pooled(clients[:1]) as pool:
        submitting = faults.delay("POST", "/prompt", None, ran=True)
        job = pool.submit(shows(waits=True))
        until_each_runs(servers[0])
        cuts = [
            faults.cut("POST", path, times=1) for path in ("/jobs/*/cancel", "/queue", "/interrupt")
        ]
        end_once_cancelled(submitting, pool, job)
        assert job.cancel()
        assert isinstance(job.exception(LIMIT), JobInterrupted)
        for cut in cuts:
            cut.end()


@without_jobs_api
@pytest.mark.timing(cancel_timeout=LIMIT)
def test_a_cancel_by_force_of_a_job_that_is_submitted_stays_one(servers, clients) -> None:
    """An old server stops whatever runs, which is not done otherwise."""

    def older(answer: dict[str, Any]) -> dict[str, Any]:
        return {**answer, "system": {**answer["system"], "comfyui_version": "0.3.50"}}

    with pooled(clients[:1]) as pool, servers[0].faults.rewrite("GET", "/system_stats", older):
        submitting = servers[0].faults.delay("POST", "/prompt", None, ran=True)
        job = pool.submit(shows(waits=True))
        until_each_runs(servers[0])
        end_once_cancelled(submitting, pool, job)
        assert job.cancel(force=True)
        assert isinstance(job.exception(LIMIT), JobInterrupted)


@pytest.mark.parametrize(
    "is_known",
    [
        pytest.param(True, marks=pytest.mark.timing(cancel_timeout=LIMIT)),
        pytest.param(False, marks=pytest.mark.timing(cancel_timeout=0.3)),
    ],
)
def test_a_job_that_is_cancelled_while_it_is_submitted_may_succeed(
    servers, clients, is_known
) -> None:
    """The call says so, or that it is not known yet."""
    with pooled(clients[:1]) as pool:
        submitting = servers[0].faults.delay("POST", "/prompt", None, ran=True)
        job = pool.submit(shows())
        servers[0].until(lambda: len(servers[0].ran) == 1 and not servers[0].running, LIMIT)
        if is_known:
            end_once_cancelled(submitting, pool, job)
            assert job.cancel() is False
        else:
            with pytest.raises(JobTimeout, match="whether it will run is not known"):
                job.cancel()
            submitting.end()
        assert job.result(LIMIT).texts == ("x",)


def test_a_job_that_every_server_seems_to_be_away_for_moves_so_often_and_no_more(
    servers, clients
) -> None:
    """A proxy may answer for each of them, whatever it is sent."""

    class Moves(ComfyPool):
        tries = attrs.evolve(ComfyPool.tries, moves=2)

    with contextlib.ExitStack() as faults, pooled(clients[:2], cls=Moves) as pool:
        for server in servers[:2]:
            faults.enter_context(server.faults.bad_gateway(502, path="/upload/image"))
        job = pool.submit(SENDS)
        error = job.exception(LIMIT)
    assert isinstance(error, ApiError)
    assert error.status == 502
    sent = [one for server in servers for one in server.requests if one.path == "/upload/image"]
    assert len(sent) == 3


def test_a_job_that_is_being_sent_is_not_taken_back_as_unsent(servers, clients) -> None:
    """Its server may have it by now, and is not told to cancel it, either."""
    with pooled(clients[:1]) as pool:
        submitting = servers[0].faults.delay("POST", "/prompt")
        job = pool.submit(shows("a", waits=True))
        servers[0].until(lambda: submitting.hits)
        assert not pool._dispatcher.withdraw(job, if_unsent=True)
        submitting.end()
        after = pool.submit(shows("b"))  # the thread of the server cancels before it sends
        until(lambda: after.status == "pending")
        GATES.set()
        assert [one.exception(LIMIT) for one in (job, after)] == [None, None]


def test_of_a_job_that_is_cancelled_while_its_file_is_sent_nothing_else_is(
    servers, clients
) -> None:
    with pooled(clients[:1]) as pool, servers[0].faults.delay("POST", "/upload/image", 1.0):
        job = pool.submit(SENDS)
        until(lambda: any(one.path == "/upload/image" for one in servers[0].requests))
        assert job.cancel()
        assert isinstance(job.exception(LIMIT), JobInterrupted)
        assert [event.name for event in job.events()] == ["execution_interrupted"]
        assert pool.status().failed == 1
    assert ("POST", "/prompt") not in [(one.method, one.path) for one in servers[0].requests]


def test_a_server_whose_answer_nobody_foresaw_is_tried_again(servers) -> None:
    class Odd(Fast):
        is_odd = True

        def iter_node_definitions(self, **kw: Any) -> Any:
            if self.is_odd:
                raise KeyError("odd")
            return super().iter_node_definitions(**kw)

    with Odd(servers[0].url) as api:
        pool = ComfyPool([api])
        with contextlib.suppress(ServerUnreachable):
            pool.init(timeout=0.1)
        until(lambda: pool.status().servers[0].error)
        with pytest.raises(ServerUnreachable, match="odd"):
            pool.init(timeout=0.1)
        api.is_odd = False
        assert pool.run(shows(), timeout=LIMIT).texts == ("x",)
        pool.shutdown()


def test_a_server_that_was_removed_is_let_go(servers, clients) -> None:
    """Its own client is closed, and callbacks hear of one of yours no more."""
    seen: list[Any] = []
    for _ in range(5):
        pool = ComfyPool([*clients[:1], servers[1].url]).init()
        pool.on("status", lambda sender, event: seen.append(sender))
        (_, own) = pool.servers
        pool.remove(servers[1].url)
        pool.remove(clients[0])
        pool.shutdown()
        until(lambda own=own: own.state is State.CLOSED)
    flush(clients[0])
    seen.clear()
    clients[0].run(shows(), timeout=LIMIT)
    flush(clients[0])
    assert seen == []


def test_a_pool_whose_servers_were_all_removed_says_so(clients) -> None:
    with pooled(clients) as pool:
        for client in clients:
            pool.remove(client)
        grid = {"1.text": ["a", "b"]}
        for call in (
            pool.node_definitions,
            lambda: pool.submit(shows()),
            lambda: next(pool.map([shows()])),
            lambda: pool.sweep(shows(), grid),
        ):
            with pytest.raises(ServerUnreachable, match="the pool has no servers: add one"):
                call()


def test_a_shutdown_does_not_wait_for_jobs_whose_servers_were_removed(servers, clients) -> None:
    with ComfyPool(clients, in_flight=1) as pool:
        running = pool.submit(shows(waits=True), include=[clients[0]])
        until_each_runs(servers[0])
        job = pool.submit(shows(), include=[clients[0]])
        pool.remove(clients[0])
        assert job.why() == "waiting: no server of the pool can run it"
        GATES.set()
    assert running.result(0).texts == ("x",)
    with pytest.raises(ValueError, match="leave no server"):
        job.result(0)
    assert job.status == "failed"


def test_a_shutdown_that_waits_for_servers_that_are_away_says_so_once(
    servers, clients, caplog
) -> None:
    """And what it waits for runs when they are back."""
    with pooled(clients) as pool:
        servers[1].kill()
        until(lambda: pool.status().servers[1].state == "down")
        job = pool.submit(shows(), include=[clients[1]])
        ending = threading.Thread(target=pool.shutdown)
        ending.start()
        words = f"jobs that only they can run: 1 ({servers[1].url})"
        until(lambda: words in caplog.text)
        ending.join(1.2)  # two more looks
        assert caplog.text.count(words) == 1
        servers[1].start()
        assert job.result(LIMIT).texts == ("x",)
        ending.join(LIMIT)


def test_a_handler_of_a_signal_may_submit_and_cancel_whatever_it_interrupts(
    servers, clients
) -> None:
    """Even code that has the lock of the pool."""
    pool = ComfyPool(clients[:1], in_flight=1)  # without ``with``, which would wait for a deadlock
    pool.submit(shows(waits=True))
    waiting = pool.submit(shows())
    until_each_runs(servers[0])
    outcomes: list[Any] = []

    def look() -> None:
        pool.init()
        assert pool.status().waiting
        assert waiting.queue_position == 0
        assert "0 before it" in waiting.why()

    def handle() -> None:
        outcomes.append(pool.submit(shows()).cancel())

    in_time(lambda: at_each_point(look, handle))
    assert set(outcomes) == {True}
    GATES.set()
    assert waiting.result(LIMIT).texts
    pool.shutdown()


# -- callbacks ----------------------------------------------------------------------------------


def test_callbacks_get_the_job_that_submit_returned(clients) -> None:
    seen: list[Any] = []
    with pooled(clients) as pool:
        job = pool.submit(shows(), on_start=seen.append)
        job.result(LIMIT)
        assert seen == [job]


def test_callbacks_of_a_job_that_runs_again_hear_of_one_end(servers, clients) -> None:
    seen: list[str] = []
    starts: list[Any] = []
    with pooled(clients, on_lost="retry") as pool:
        job = pool.submit(
            shows(waits=True),
            include=[clients[0]],
            on_event=lambda event: seen.append(event.name),
            on_start=starts.append,
        )
        until_each_runs(servers[0])
        servers[0].kill()
        GATES.set()
        servers[0].start()
        job.result(LIMIT)
        assert [name for name in seen if name in ("job_lost", "execution_success")] == [
            "execution_success"
        ]
        assert starts == [job]


def test_callbacks_go_on_when_the_submission_got_no_answer(servers, clients) -> None:
    class Brisk(Fast):
        timing = attrs.evolve(FAST, look_up=0.3, look_up_sure=0.1, question=0.3)

    seen: list[str] = []
    clients[0].submit(shows(waits=True))  # so that it does not start, which tells that it is there
    until_each_runs(servers[0])
    with Brisk(servers[0].url) as api, pooled([api]) as pool:
        faults = servers[0].faults
        hidden = [faults.delay("GET", path, None) for path in ("/queue", "/history/*")]
        faults.cut("POST", "/prompt", ran=True, times=1)
        job = pool.submit(shows(waits=True), on_event=lambda event: seen.append(event.name))
        until(lambda: job.status == "unknown")
        for fault in hidden:
            fault.end()
        GATES.set()
        job.result(LIMIT)
        assert seen.count("execution_success") == 1


def test_a_waiting_job_that_is_cancelled_calls_its_callbacks(servers, clients) -> None:
    seen: list[str] = []
    with pooled(clients[:1], in_flight=1) as pool:
        pool.submit(shows(waits=True))
        until_each_runs(servers[0])
        job = pool.submit(shows(), on_event=lambda event: seen.append(event.name))
        job.cancel()
        assert isinstance(job.exception(0), JobInterrupted)
        until(lambda: seen == ["execution_interrupted"])
        GATES.set()


def test_each_registration_of_a_callback_is_taken_back_alone(clients) -> None:
    seen: list[Any] = []

    def hear(sender: Any, event: Any) -> None:
        seen.append(sender)

    with pooled(clients[:1]) as pool:
        off = pool.on("execution_success", hear)
        pool.on("execution_success", hear)
        off()
        pool.run(shows(), timeout=LIMIT)
        assert seen == [clients[0]]


def test_pool_logs_without_holding_its_lock(servers, clients, caplog) -> None:
    """Its handlers are somebody's code, which may wait for whoever asks the pool."""
    asked: list[bool] = []

    class Asks(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.threadName == "comfy-pool-dispatcher" or "another" in record.getMessage():
                asking = threading.Thread(target=pool.status)
                asking.start()
                asking.join(LIMIT)
                asked.append(not asking.is_alive())

    handler, log = Asks(), logging.getLogger("comfy_client")
    log.addHandler(handler)
    try:
        with pooled(clients) as pool:
            servers[0].kill()
            for job in [pool.submit(shows()) for _ in range(4)]:
                job.result(LIMIT)
            until(lambda: asked)
    finally:
        log.removeHandler(handler)
    assert all(asked)


def test_an_exception_leaves_nothing_pending_on_the_servers(servers, clients) -> None:
    """What runs keeps running."""

    def use() -> None:
        with pooled(clients) as pool:
            jobs.extend(pool.submit(shows(f"t{n}", waits=True)) for n in range(6))
            until_each_runs(*servers)
            until(lambda: [job.status for job in jobs].count("pending") == 2)
            raise ZeroDivisionError

    jobs: list[Any] = []
    with pytest.raises(ZeroDivisionError):
        use()
    until(lambda: not any(server.pending for server in servers))
    GATES.set()
    ends = [type(job.exception(LIMIT)) for job in jobs]
    assert ends.count(JobInterrupted) == 4
    assert len(marks(*servers)) == 2


def test_a_server_that_never_answered_is_logged_once(clients, caplog) -> None:
    with ComfyPool([clients[0], NOWHERE]) as pool:
        until(lambda: pool.status().servers[1].state == "down")
        until(lambda: "does not answer" in caplog.text)
        first = pool.status().servers[1].error
        until(lambda: pool.status().servers[1].error is not first)  # it was tried again
        assert repr(pool) == f"<ComfyPool {clients[0].host}, {NOWHERE} (down)>"
        pool.run(shows(), timeout=LIMIT)
    lines = [record for record in caplog.records if NOWHERE in record.getMessage()]
    assert [(one.levelname, "gets no jobs until it does" in one.getMessage()) for one in lines] == [
        ("WARNING", True)
    ]
    assert [vars(one)["server"] for one in lines] == [NOWHERE]


def definitions_asked(*servers: ComfyServer) -> int:
    """How often their node definitions were asked for."""
    return sum(one.path == "/object_info" for server in servers for one in server.requests)


def test_a_workflow_that_no_server_can_run_does_not_repeat_object_info(servers, clients) -> None:
    """At most every ten seconds."""
    with pooled(clients) as pool:
        before = definitions_asked(*servers)
        for number in range(20):
            with pytest.raises(WorkflowError):
                pool.submit({"1": {"class_type": f"Nope{number}", "inputs": {}}})
        assert definitions_asked(*servers) <= before + 2


def test_definitions_that_no_server_gives_are_the_error_of_one(servers, clients) -> None:
    """While one of them answers, there is none."""
    with pooled(clients) as pool:
        refusals = [
            server.faults.answer("GET", "/object_info", (403, {}, {"error": "no"}))
            for server in servers
        ]
        with pytest.raises(AuthenticationError):
            pool.node_definitions(refresh=True)
        refusals[1].end()
        assert "Gated" in pool.node_definitions(refresh=True)


class AsksBriefly(ComfyPool):
    """Waits for definitions for a moment only."""

    intervals = attrs.evolve(ComfyPool.intervals, definitions=0.3)


def test_a_silent_server_delays_no_submission_by_its_definitions(servers, clients) -> None:
    """Of that, the last ones count; what another one has by now is known."""
    rare = {"1": {"class_type": "Rare", "inputs": {"text": "r", "waits": False}}}
    silent = threading.Event()
    with pooled(clients, cls=AsksBriefly) as pool:
        servers[1].add_node(Rare)
        servers[0].faults.answer("GET", "/object_info", lambda _: silent.wait(LIMIT) and None)
        try:
            assert pool.submit(rare).result(LIMIT).texts == ("r",)
            assert pool.submit(shows("a"), include=[clients[0]]).result(LIMIT).texts == ("a",)
            assert not silent.is_set()
        finally:
            silent.set()


# -- waits --------------------------------------------------------------------------------------


def test_no_job_goes_on_when_a_pool_has_been_left(clients) -> None:
    """Whoever leaves it, finds all ended."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(examples(30)):
            with ComfyPool(clients) as pool:
                jobs = [pool.submit(shows()) for _ in range(3)]
            assert all(job.done() for job in jobs)
    finally:
        sys.setswitchinterval(before)


def test_a_job_that_waits_while_others_go_on_does_not_stall(servers, clients) -> None:
    with pooled(clients[:1], in_flight=1) as pool:
        before = [pool.submit(shows(waits=True)) for _ in range(2)]
        job = pool.submit(shows())
        with pytest.raises(JobTimeout, match=r"1 before it.*no server has it yet"):
            job.result(stall_timeout=0.5)
        begun = time.perf_counter()
        threading.Timer(0.3, before[0].cancel).start()
        with pytest.raises(JobTimeout, match="0 before it") as raised:
            job.result(stall_timeout=4.0)
        assert raised.value.stalled
        assert time.perf_counter() - begun > 4.2  # the place that it moved up is news
        GATES.set()


@pytest.mark.parametrize("when", ["inside", "at the end"])
def test_ctrl_c_in_a_pool_takes_back_what_waits(servers, clients, when) -> None:
    jobs: list[Any] = []

    def use() -> None:
        with pooled(clients[:1], in_flight=1) as pool:
            jobs.extend(pool.submit(shows(waits=True)) for _ in range(2))
            until_each_runs(servers[0])
            threading.Timer(0.3, signal.raise_signal, [signal.SIGINT]).start()
            if when == "inside":
                jobs[0].result(LIMIT)

    with pytest.raises(KeyboardInterrupt):
        use()
    assert isinstance(jobs[1].exception(0), JobInterrupted)
    assert not jobs[0].done()
    GATES.set()
    assert jobs[0].result(LIMIT).texts == ("x",)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_while_jobs_are_submitted_leaves_none_that_hangs(servers, clients) -> None:
    """Wherever it comes, each job that was submitted can be cancelled, and the pool goes on.

    Python drops one that comes while it collects an object.
    """
    gc.collect()  # a log handler that is collected under Ctrl-C may leave the lock of logging held
    with pooled(clients[:1], in_flight=1) as pool:
        pool.submit(shows(waits=True))
        until_each_runs(servers[0])
        for _ in range(20):
            jobs: list[Any] = []
            seconds = random.uniform(0.001, 0.03)
            timer = threading.Timer(seconds, signal.raise_signal, [signal.SIGINT])
            with contextlib.suppress(KeyboardInterrupt):
                timer.start()
                while timer.is_alive():
                    jobs.append(pool.submit(shows()))
                    jobs[-1].cancel()
            timer.join()
            for job in jobs:
                job.cancel()
                assert isinstance(job.exception(LIMIT), JobInterrupted)
        GATES.set()
        until(lambda: pool.status().running == pool.status().waiting == 0)
        assert pool.run(shows("z"), timeout=LIMIT).texts == ("z",)


# -- what makes no sense ----------------------------------------------------------------------


def test_wrong_arguments_of_a_pool_are_refused_at_once(clients) -> None:
    for wrong, words in (
        ({"servers": []}, "a pool needs a server"),
        ({"servers": ["gpu-box", "http://gpu-box:8188/"]}, "http://gpu-box:8188 is in the pool"),
        ({"servers": ["a"], "mode": "fastest"}, "mode must be one of"),
        ({"servers": ["a"], "weights": [1, 2]}, "2 numbers for 1 servers"),
        ({"servers": ["a"], "weights": [0]}, "a number above 0"),
        ({"servers": ["a"], "in_flight": 0}, "1 or more"),
        ({"servers": ["a"], "on_lost": "ignore"}, "on_lost must be"),
        ({"servers": ["a"], "on_failed": "ignore"}, "on_failed must be"),
        ({"servers": ["a"], "patience": -1}, "patience must be a number of seconds, 0 or more"),
    ):
        with pytest.raises(ValueError, match=words):
            ComfyPool(**wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="patience must be a number of seconds, not None"):
        ComfyPool(["a"], patience=None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="weights must be a list of numbers"):
        ComfyPool(["a"], weights={"a": 2})  # type: ignore[arg-type]
    for servers, words in (("gpu-box", "a list"), (None, "a list"), ([5], "a URL or a ComfyApi")):
        with pytest.raises(TypeError, match=words):
            ComfyPool(servers)  # type: ignore[arg-type]
    with pooled(clients) as pool:
        with pytest.raises(TypeError, match="workflows, not functions"):
            pool.submit(print)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="unexpected keyword argument 'seed'"):
            pool.submit(shows(), seed=7)  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="exclude must be a list of servers"):
            pool.submit(shows(), exclude=None)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="a pool cannot be pickled: make one in each process"):
            pickle.dumps(pool)
        with pytest.raises(ValueError, match="priority must be a number"):
            pool.submit(shows(), priority=float("nan"))


def test_a_pool_of_which_no_server_answers_says_so(comfy) -> None:
    url = comfy.url
    comfy.kill()
    pool = ComfyPool([url])
    with pytest.raises(ServerUnreachable, match=f"no server of the pool answers: {url}/api/prompt"):
        pool.init(timeout=0.3)
    pool.shutdown()
    pool = ComfyPool([url])
    threading.Timer(0.2, comfy.start).start()
    assert pool.run(Workflow.example(), timeout=LIMIT).images  # it is waited for
    pool.shutdown()


def test_a_job_whose_servers_all_refuse_us_is_refused(servers, clients) -> None:
    servers[1].faults.answer("GET", "/prompt", (401, {}, ""))
    with ComfyPool(clients) as pool:
        until(lambda: pool.status().servers[1].state == "down")
        with pytest.raises(ServerUnreachable, match=r"no server that can run it answers: .*401"):
            pool.submit(shows(), include=[clients[1]])
        lacks = f"401.*; {clients[0].host} lacks the node class 'Nobody'"
        with pytest.raises(ServerUnreachable, match=lacks):
            pool.submit({"1": {"class_type": "Nobody", "inputs": {}}})
        assert pool.run(shows("y"), timeout=LIMIT).texts == ("y",)


def test_to_shut_it_down_again_takes_no_time(clients) -> None:
    with pooled(clients) as pool:
        pool.shutdown()
        began = time.monotonic()
        for _ in range(20):
            pool.shutdown()
        assert time.monotonic() - began < LIMIT


def test_after_its_shutdown_it_takes_no_jobs(servers, clients) -> None:
    with pooled(clients, in_flight=1) as pool:
        running = [pool.submit(shows(waits=True)) for _ in servers]
        until_each_runs(*servers)
        job = pool.submit(shows())
        pool.shutdown(wait=False, cancel_futures=True)
        assert isinstance(job.exception(0), JobInterrupted)
        with pytest.raises(ClientClosed, match="shut down"):
            pool.submit(shows())
        with pytest.raises(ClientClosed, match="shut down"):
            pool.add("gpu-box")
        GATES.set()
    assert all(each.result(0).texts == ("x",) for each in running)
    assert all(isinstance(client, ComfyApi) and client.connected for client in clients)


def test_the_log_says_what_a_pool_that_nobody_keeps_will_not_run(servers, caplog) -> None:
    pool = ComfyPool([servers[0].url], in_flight=1).init()
    for _ in range(3):
        pool.submit(shows(waits=True))
    until_each_runs(servers[0])
    del pool

    def is_said() -> bool:
        gc.collect()
        return "a ComfyPool was not shut down; jobs that will not run: 2" in caplog.text

    until(is_said)


@pytest.mark.posix("fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_pool_that_was_not_used_before_a_fork_is_of_use_after_it(servers) -> None:
    """In the child, and in the parent; as at the top of a module of a service."""
    pool = ComfyPool([servers[0].url])
    assert in_child(lambda: pool.run(shows("child"), timeout=LIMIT).texts) == "('child',)"
    assert pool.run(shows("parent"), timeout=LIMIT).texts == ("parent",)
    pool.shutdown()


@pytest.mark.posix("fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_the_child_of_a_fork_has_no_jobs_of_a_pool(servers, clients) -> None:
    """Those that run and those that wait end there, and the pool takes no more; here they go on."""
    with pooled(clients[:1], in_flight=1) as pool:
        jobs = [pool.submit(shows(waits=True)) for _ in range(2)]
        until_each_runs(servers[0])

        def work() -> str:
            errors = [type(job.exception(60)).__name__ for job in jobs]
            try:
                pool.submit(shows())
            except ClientClosed as exc:
                errors.append(str(exc))
            status = pool.status()
            left = status.waiting, status.running, status.servers[0].own
            return f"{', '.join(errors)}; {left}"

        words = "this ComfyPool belongs to the parent process; make one in this process"
        assert in_child(work) == f"ClientClosed, ClientClosed, {words}; (0, 0, 0)"
        GATES.set()
        assert [job.result(LIMIT).texts for job in jobs] == [("x",)] * 2
