"""``api.stats()``: each prompt counts once, whoever tells its end; bytes as a proxy counts them."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import uuid
from typing import Any

import pytest

from comfy_client import (
    ClientStats,
    ComfyApi,
    ComfyError,
    JobFailed,
    JobInterrupted,
    PromptRejected,
    ServerUnreachable,
    SubmitUncertain,
)
from comfy_client.testing import ComfyServer
from tests.helpers.clients import Quick, until
from tests.helpers.proxy import Proxy
from tests.helpers.sweeps import GRID, WORKFLOW, Record
from tests.json_schema import check_to_dict

ENDS = ("succeeded", "failed", "interrupted", "lost", "unknown")


def counts(api: ComfyApi) -> dict[str, int]:
    """Of prompts, those that are not 0."""
    stats = api.stats()
    assert isinstance(stats, ClientStats)
    ended = sum(getattr(stats, end) for end in ENDS)
    assert stats.submitted + stats.attached == ended + stats.outstanding
    names = ("submitted", "refused", "attached", *ENDS, "outstanding")
    return {name: count for name in names if (count := getattr(stats, name))}


def test_all_counts_are_0_before_anything_happens(refused: str) -> None:
    api = ComfyApi(refused)
    assert set(check_to_dict(api.stats()).values()) == {0}
    api.close()


@pytest.mark.parametrize("transport", ["auto", "poll"])
def test_a_prompt_counts_once(server: ComfyServer, record: Record, transport: Any) -> None:
    """Whether the socket tells its end, or polls."""
    with Quick(server.url, transport=transport) as api:
        api.run(WORKFLOW)
        assert counts(api) == {"submitted": 1, "succeeded": 1}
        assert api.stats().connections == (transport == "auto")


def test_each_end_has_a_count_of_its_own(server: ComfyServer, record: Record) -> None:
    """And prompts that wait are outstanding."""
    with Quick(server.url) as api:
        record.failing.add(1)
        with pytest.raises(JobFailed):
            api.run(WORKFLOW, {"Make.seed": 1})
        assert counts(api) == {"submitted": 1, "failed": 1}
        server.faults.hang_worker()
        first = api.submit(WORKFLOW)
        waiting = api.submit(WORKFLOW)
        assert counts(api) == {"submitted": 3, "failed": 1, "outstanding": 2}
        waiting.cancel()
        with pytest.raises(JobInterrupted):
            waiting.result(30)
        assert counts(api)["interrupted"] == 1
        server.restart()
        first.exception(30)
        assert counts(api) == {"submitted": 3, "failed": 1, "interrupted": 1, "lost": 1}
        server.faults.hang_worker()
        api.submit(WORKFLOW)
    assert counts(api)["unknown"] == 1  # the client was closed


def test_refused_submissions_are_no_prompts(server: ComfyServer, api: ComfyApi) -> None:
    """By the server; or because it is gone."""
    with pytest.raises(PromptRejected):
        api.submit({"1": {"class_type": "NoSuchClass", "inputs": {}}})
    assert counts(api) == {"refused": 1}
    server.kill()
    with pytest.raises((ServerUnreachable, SubmitUncertain)):
        api.submit(WORKFLOW)
    assert counts(api) == {"refused": 2}


def test_a_prompt_that_is_attached_to_counts_where_it_is_new(
    server: ComfyServer, record: Record
) -> None:
    """Not in the client that has submitted it, and not twice."""
    with Quick(server.url) as api, Quick(server.url) as other:
        job = api.submit(WORKFLOW)
        assert api.job(job.prompt_id) is job
        other.job(job.prompt_id).result(30)
        job.result(30)
        prompt_id = job.prompt_id
        del job
        gc.collect()
        api.job(prompt_id).result(30)
        other.job(prompt_id).result(30)
        assert counts(api) == {"submitted": 1, "succeeded": 1}
        assert counts(other) == {"attached": 1, "succeeded": 1}


def test_an_id_that_nobody_knows_counts_as_lost(server: ComfyServer) -> None:
    with Quick(server.url) as api:
        api.job(str(uuid.uuid4())).exception(30)
        assert counts(api) == {"attached": 1, "lost": 1}


@pytest.mark.parametrize(
    "faults",
    [["other_prompt_ids"], ["events_before_reply"], ["other_prompt_ids", "events_before_reply"]],
    ids=["other ids", "events first", "both"],
)
def test_a_prompt_counts_once_on_odd_servers(
    server: ComfyServer, record: Record, faults: list[str]
) -> None:
    """A server may choose another id, report the end before its answer, or both."""
    for fault in faults:
        getattr(server.faults, fault)()
    with Quick(server.url) as api:
        api.run(WORKFLOW)
        assert counts(api) == {"submitted": 1, "succeeded": 1}


def test_an_answer_that_was_cut_counts_once(server: ComfyServer, record: Record) -> None:
    """The prompt is looked up."""
    with Quick(server.url) as api:
        server.faults.cut("POST", "/prompt", ran=True, times=1)
        api.run(WORKFLOW)
        assert counts(api) == {"submitted": 1, "succeeded": 1}


def test_threads_lose_no_count(server: ComfyServer, record: Record) -> None:
    """Eight of them, while the socket is cut again and again."""
    record.failing.update(range(0, 80, 10))

    def run(seed: int) -> None:
        with contextlib.suppress(JobFailed):
            api.run(WORKFLOW, {"Make.seed": seed})

    with Quick(server.url) as api, concurrent.futures.ThreadPoolExecutor(8) as pool:
        done = pool.map(run, range(80))
        for _ in range(3):
            server.faults.drop()
        list(done)
        assert counts(api) == {"submitted": 80, "succeeded": 72, "failed": 8}
        stats = api.stats()
        assert stats.requests >= 80


def test_a_sweep_counts_its_prompts(api: ComfyApi, record: Record) -> None:
    api.sweep(WORKFLOW, GRID)
    assert counts(api) == {"submitted": 4, "succeeded": 4}


def test_a_socket_that_is_cut_is_a_reconnect(server: ComfyServer) -> None:
    with Proxy(server.port) as proxy, Quick(proxy.url) as api:
        assert (api.stats().connections, api.stats().reconnects) == (1, 0)
        proxy.cut()
        until(lambda: api.stats().reconnects == 1)
        assert api.stats().connections == 2


def test_bytes_are_those_of_the_network(server: ComfyServer, record: Record) -> None:
    """Headers, handshake, frames, uploads and downloads included; requests are those sent."""
    with Proxy(server.port) as proxy, ComfyApi(proxy.url) as api:

        def are_equal() -> bool:
            stats = api.stats()
            passed = sum(proxy.sent), sum(proxy.received)
            return (stats.bytes_sent, stats.bytes_received) == passed

        until(are_equal)  # the proxy may be a moment late
        before = api.stats()
        api.run(WORKFLOW)
        image = api.upload_image(bytes(3_000_000), "zeros.bin")
        assert len(api.get_image(image)) == 3_000_000
        with contextlib.suppress(ComfyError):
            api.get_history(str(uuid.uuid4()))
        until(are_equal)
        after = api.stats()
        assert after.bytes_sent > 3_000_000
        assert after.bytes_received > 3_000_000
        assert after.requests > before.requests
