"""What :class:`ComfyApi` promises about waiting holds for a hosted place, too."""

from __future__ import annotations

import gc
import logging
import pickle
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import attrs
import blinker
import pytest

from comfy_client import ComfyApi, HostedApi, signal
from comfy_client.errors import (
    ClientClosed,
    JobInterrupted,
    JobTimeout,
    NotSupported,
    UnexpectedResponse,
)
from comfy_client.hosted.job_poller import MOST_STREAMS
from comfy_client.testing import hosted_error
from comfy_client.testing.hosted.traps import PROXY
from tests.helpers.clients import Heard, flush, outstanding, threads, until
from tests.helpers.gates import Hold
from tests.helpers.graphs import node
from tests.helpers.hosted import Graph, Hosted, embedded, picture
from tests.helpers.interrupts import press_ctrl_c
from tests.helpers.middle import Middle, answer


@pytest.fixture
def place() -> Iterator[Hosted]:
    with embedded(traps=attrs.evolve(PROXY, cancel_lies=False, progress_every=0.05)) as one:
        yield one


@pytest.fixture
def api(place: Hosted) -> Iterator[HostedApi]:
    with HostedApi(place.url, namespace=blinker.Namespace()) as client:
        yield client


def name() -> str:
    return uuid.uuid4().hex[:8]


def streams() -> list[threading.Thread]:
    return [thread for thread in threads() if thread.name == "comfy-stream"]


def held(place: Hosted) -> Graph:
    """Return a workflow that saves one picture once its gate is open."""
    place.behind.add_node(Hold)
    graph = picture(name()) | {"2": node("Hold", image=["1", 0], gate="")}
    graph["9"]["inputs"]["images"] = ["2", 0]
    return graph


def test_two_readers_of_a_jobs_events_get_the_same(place, api, gate) -> None:
    job = api.submit(held(place))
    readers = [job.events() for _ in range(2)]
    gate.set()
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda events: [event.name for event in events], readers)
    assert one[-1] == other[-1] == "execution_success"
    assert one.count("executed") == other.count("executed") == 1


def test_signals_have_the_client_as_their_sender(place) -> None:
    heard: list[tuple[Any, Any]] = []

    def note(sender: Any, event: Any) -> None:
        heard.append((sender, event.name))

    with HostedApi(place.url) as api, HostedApi(place.url) as other:
        signal("executed").connect(note, sender=api)
        signal("execution_success").connect(note)
        api.run(picture(name()))
        other.run(picture(name()))
        flush(api)
        flush(other)
    names = {sender: [event for who, event in heard if who is sender] for sender, _ in heard}
    assert names == {
        api: ["executed", "execution_success"],
        other: ["execution_success"],
    }


def test_callbacks_of_submit_and_run_get_the_same(api) -> None:
    told: list[tuple[str, str]] = []
    api.on("execution_success", lambda event: told.append(("on", event.prompt_id)))
    job = api.submit(picture(name()))
    job.add_done_callback(lambda ended: told.append(("done", ended.prompt_id)))
    job.result(60)
    result = api.run(picture(name()), on_event=lambda event: told.append(("run", event.name)))
    flush(api)
    until(lambda: ("done", job.prompt_id) in told)
    assert ("on", job.prompt_id) in told
    assert ("on", result.prompt_id) in told
    assert ("run", "execution_success") in told


def test_jobs_come_as_they_end(api) -> None:
    jobs = [api.submit(picture(name(), 0.1)) for _ in range(3)]
    assert [job.status for job in api.as_completed(jobs, timeout=60)] == ["succeeded"] * 3


def test_tags_are_on_the_lines_of_the_log(api, caplog) -> None:
    with caplog.at_level(logging.INFO, "comfy_client"):
        result = api.run(picture(name()), tags={"tenant": "a"})
        flush(api)
    lines = [record for record in caplog.records if getattr(record, "prompt_event", None)]
    steps = [record.prompt_event for record in lines if record.prompt_event != "started"]
    assert steps == ["submitted", "ended"]
    assert {record.prompt_id for record in lines} == {result.prompt_id}
    assert all(record.tags == {"tenant": "a"} for record in lines)


def test_stats_count_jobs_once(api) -> None:
    api.run(picture(name()))
    assert not list(api.map([], timeout=1))
    found = api.stats()
    assert (found.submitted, found.succeeded, found.outstanding) == (1, 1, 0)


def test_time_runs_out_and_the_job_goes_on(api) -> None:
    with pytest.raises(JobTimeout) as caught:
        api.run(picture(name(), 4.0), timeout=2.0)
    assert api.job(caught.value.prompt_id).result(60).images


@pytest.mark.parametrize("first", [0, 2])
def test_a_map_waits_while_the_server_has_too_many_jobs(api, place, first) -> None:
    """Be it at the first submission or at a later one; nothing runs twice."""
    names = [f"full{number}{uuid.uuid4().hex[:6]}" for number in range(4)]
    busy = hosted_error("queue_full")
    results = []
    if first == 0:
        place.behind.faults.answer("POST", "/v2/jobs", busy, times=2)
    for result in api.map([picture(name) for name in names], in_flight=1, patience=60):
        results.append(len(result.images))
        if len(results) == first:
            place.behind.faults.answer("POST", "/v2/jobs", busy, times=2)
    assert results == [1] * 4
    assert [place.runs(name) for name in names] == [1] * 4


def test_a_job_without_news_has_stalled(api, place) -> None:
    api.run(picture(name()))
    job = api.submit(picture(name(), 60.0))
    until(lambda: job.status == "running")
    with place.gateway.trap(upstream="dark"), pytest.raises(JobTimeout) as caught:
        job.result(timeout=60, stall_timeout=1.0)
    assert caught.value.stalled
    job.cancel()


def test_the_place_in_the_hosted_queue_reaches_callbacks(api) -> None:
    first = api.submit(picture(name(), 1.0))
    told: list[int] = []
    assert api.run(picture(name()), on_queue=told.append, timeout=60).images
    assert first.result(60).images
    assert set(told) <= {0, 1}


def test_ctrl_c_cancels_the_job_if_it_is_to(api, place) -> None:
    value = name()
    with pytest.raises(KeyboardInterrupt):
        api.run(picture(value, 60.0), on_interrupt="cancel", on_start=lambda _: press_ctrl_c())
    until(lambda: not outstanding(api))
    assert place.runs(value) == 0


def test_close_ends_open_streams_and_waits_at_once(place) -> None:
    api = HostedApi(place.url)
    with api:
        job = api.submit(picture(name(), 60.0))
        until(streams)
    until(lambda: not threads())
    assert isinstance(job.exception(0), ClientClosed)


def test_a_forgotten_client_is_collected_and_its_threads_end(place) -> None:
    api = HostedApi(place.url)
    api.submit(picture(name(), 60.0))
    until(streams)
    del api

    def gone() -> bool:
        gc.collect()
        return not threads()

    until(gone)


def test_fifty_jobs_share_six_streams_and_few_questions(place) -> None:
    with HostedApi(place.url) as api:
        api.run(picture(name()))
        jobs = [api.submit(picture(name(), 0.05)) for _ in range(50)]
        most = 0
        began = time.monotonic()
        before = len(place.behind.requests)
        while not all(job.done() for job in jobs):
            most = max(most, len(streams()))
            time.sleep(0.01)
        asked = len(place.behind.requests) - before
        assert most <= 2 * MOST_STREAMS  # a thread ends after its stream
        assert all(job.status == "succeeded" for job in jobs)
        # One in 20 ms at most, and those of streams.
        assert asked < 60 * (time.monotonic() - began) + 200


def test_results_are_read_after_close_and_from_a_pickle_while_the_client_lives(place) -> None:
    value = name()
    with HostedApi(place.url) as api:
        result = api.run(picture(value))
        again = pickle.loads(pickle.dumps(result))
        assert again.images[0].bytes() == result.images[0].bytes()
    content = result.images[0].bytes()
    assert content == place.made(value)[0].read_bytes()


def test_bars_show_what_a_hosted_job_does(api, capsys) -> None:
    api.run(picture(name(), 0.8), progress=True)
    assert "done" in capsys.readouterr().err


CALLS: dict[str, Any] = {
    "client_id": lambda api: api.client_id,
    "wait_for_vram": lambda api: api.wait_for_vram(1 << 30, timeout=5),
    "queue_prompt": lambda api: api.queue_prompt(None, picture("x")),
    "append_prompt": lambda api: api.append_prompt(picture("x")),
    "pixels": lambda api: api.pixels(picture("x"), "1"),
    "front": lambda api: api.run(picture("x"), front=True),
    "preview_method": lambda api: api.run(picture("x"), preview_method="taesd"),
    "check": lambda api: api.run(picture("x"), check=True),
    "definitions": lambda api: api.node_definitions(),
}


def test_a_server_is_ready_when_it_answers(place) -> None:
    with closing(HostedApi(place.url)) as api:
        assert api.wait_until_ready(timeout=60).comfyui_version is None


@pytest.mark.parametrize("call", CALLS)
def test_calls_without_a_hosted_route_are_refused_before_anything_is_sent(place, call) -> None:
    port = int(place.url.rpartition(":")[2])
    with Middle(port) as middle, closing(HostedApi(middle.url)) as api:
        with pytest.raises(NotSupported) as caught:
            CALLS[call](api)
        # The client's own thread may ask meanwhile whether the server answers.
        assert {asked.method for asked in middle.asked} <= {"GET"}
    assert "\n" not in str(caught.value)


def test_a_run_that_may_be_repeated_for_memory_is_a_run(api) -> None:
    """The service frees its memory itself."""
    assert api.run(picture(name()), retry_oom=True, resubmit=True, strict=True).images


def test_two_clients_in_one_process_hear_their_own_jobs(place, api) -> None:
    with HostedApi(place.url, namespace=blinker.Namespace()) as other:
        heard, theirs = Heard(api), Heard(other)
        mine = api.run(picture(name()))
        flush(api)
        flush(other)
        assert [event.prompt_id for event in heard.ends()] == [mine.prompt_id]
        assert theirs.ends() == []
        assert isinstance(other, ComfyApi)


def test_a_client_of_comfyui_names_the_one_for_comfy_api_v2(place) -> None:
    """Dask workers have such clients, too."""
    with closing(ComfyApi(place.url)) as api, pytest.raises(UnexpectedResponse, match="HostedApi"):
        api.init()


def test_a_job_that_was_given_up_can_still_be_cancelled(place) -> None:
    """Only the waiting has ended; the error says how to wait again."""
    port = int(place.url.rpartition(":")[2])
    with Middle(port) as middle, HostedApi(middle.url, patience=0.3) as api:
        job = api.submit(picture("given-up", 60))
        with middle.rule("GET", "/api/v2/jobs/*", answer(502, "<html>Bad Gateway</html>")):
            error = job.exception(60)
        assert error is not None
        assert job.status == "unknown"
        assert f"api.job('{job.prompt_id}')" in "".join(error.__notes__)
        assert job.cancel()
        with pytest.raises(JobInterrupted):
            api.job(job.prompt_id).result(60)


def test_rows_of_a_hosted_sweep_have_running_times(place, api, gate) -> None:
    """By this machine's clock, as the server does not say."""
    api.on("execution_start", lambda _: gate.set())  # the client has seen that it runs
    [row] = api.sweep(held(place), {"1.width": [8]})
    assert row.seconds is not None
    assert row.result is not None
    assert not row.result.fully_cached
