"""Receivers, callbacks of ``run`` and done callbacks: when they are called, and in which thread."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from concurrent.futures import wait as wait_for_all
from typing import Any

import pytest

from comfy_client import ComfyApi
from comfy_client.errors import (
    JobTimeout,
)
from comfy_client.testing import ComfyServer, Finish
from tests.conftest import load_workflow
from tests.helpers.clients import (
    LIMIT,
    Heard,
    Quick,
    outstanding,
    quickly,
    until,
)
from tests.helpers.gates import check_once, saves, shows
from tests.helpers.interrupts import fail_next_start
from tests.helpers.recordings import recording
from tests.helpers.scripted import (
    CACHED,
    ENTRY,
    GRAPH,
    START,
    WELL,
    check,
)


def test_a_log_handler_may_ask_the_client(comfy, fast):
    """What is logged about a job is logged without a lock held."""
    seen = []

    class Asks(logging.Handler):
        def emit(self, record):
            if "some may be missing" in record.getMessage():
                seen.append(outstanding(fast))

    handler = Asks()
    logging.getLogger("comfy_client").addHandler(handler)
    try:
        comfy.script(START, CACHED, Finish({**ENTRY, "outputs": {}}))
        fast.run(load_workflow("txt2img_websocket"), timeout=LIMIT)
    finally:
        logging.getLogger("comfy_client").removeHandler(handler)
    assert seen == [[]]


def test_receivers_have_had_the_end_when_run_returns(comfy, fast):
    """Also a slow one."""
    had = []

    def slow(event):
        time.sleep(0.3)
        had.append(event.name)

    fast.on("executed", slow)
    fast.on("execution_success", slow)
    comfy.script(*WELL)
    check(fast.run(GRAPH, timeout=LIMIT))
    assert had == ["executed", "execution_success"]


def test_receivers_have_had_an_end_that_comes_before_the_answer(comfy, fast, monkeypatch):
    """However the threads take turns: the answer comes between the verdict and the telling."""
    told = Heard(fast)
    answer = threading.Event()
    publish = fast.parts.tracker.publish

    def late(request):
        status = comfy.answer(request)
        assert answer.wait(LIMIT)
        return status

    def slow(event):
        if event.name == "execution_success":
            answer.set()
            time.sleep(0.3)
        publish(event)

    monkeypatch.setattr(fast.parts.tracker, "publish", slow)
    comfy.on("POST", "/prompt", late)
    comfy.script(*WELL)
    check(fast.run(GRAPH, timeout=LIMIT))
    assert len(told.ends()) == 1


@pytest.mark.timing(flush=2 * LIMIT)
def test_a_timeout_does_not_wait_for_receivers(comfy, fast):
    """A timeout is the caller's, whatever receivers do."""
    release = threading.Event()
    entered = threading.Event()

    def stuck(event):
        entered.set()
        release.wait(4 * LIMIT)

    fast.on("execution_start", stuck)
    go = threading.Event()
    comfy.script(START, go, *WELL[1:])
    job = fast.submit(GRAPH)
    assert entered.wait(LIMIT)
    with quickly(), pytest.raises(JobTimeout):
        job.result(0)
    release.set()
    go.set()
    check(job.result(LIMIT))


@pytest.mark.timing(flush=2 * LIMIT)
def test_a_result_waits_for_receivers_no_longer_than_its_timeout(comfy, fast):
    """``0`` looks once; the wait of five seconds is for those who have the time."""
    release = threading.Event()

    def stuck(event):
        release.wait(4 * LIMIT)

    fast.on("executed", stuck)
    comfy.script(*WELL)
    job = fast.submit(GRAPH)
    wait_for_all([job], LIMIT)
    for timeout in (0, 0.5):
        start = time.perf_counter()
        check(job.result(timeout))
        assert timeout <= time.perf_counter() - start < LIMIT
    start = time.monotonic()
    check(fast.run(GRAPH, timeout=3))
    assert time.monotonic() - start < LIMIT
    release.set()


def test_a_receiver_may_run_a_workflow(comfy, fast):
    """It waits in the delivery thread, and nothing locks up."""
    results = []
    done = threading.Event()

    def receiver(event):
        results.append(fast.run(GRAPH, timeout=LIMIT, on_event=lambda e: None))
        results.append(fast.run(GRAPH, timeout=LIMIT))
        done.set()

    fast.on("go", receiver)
    comfy.script(*WELL)
    comfy.push({"type": "go", "data": {}})
    assert done.wait(LIMIT)
    for result in results:
        check(result)


def test_callbacks_of_run_are_called_where_it_waits(comfy, fast):
    """Each with its own kind only, in this thread, and in order."""
    got = Counter()
    threads = set()

    def note(name):
        def callback(event):
            threads.add(threading.current_thread())
            got[name, event.name] += 1

        return callback

    comfy.script(*recording("0.3.75", "normal_feature_flags").steps)
    fast.run(
        load_workflow("txt2img_tiny"),
        timeout=LIMIT,
        on_event=note("event"),
        on_progress=note("progress"),
        on_preview=note("preview"),
    )
    assert threads == {threading.current_thread()}
    assert {key for key in got if key[0] != "event"} == {
        ("progress", "progress"),
        ("preview", "b_preview"),
    }
    assert got["progress", "progress"] == got["event", "progress"] == 8
    assert got["event", "execution_success"] == 1


def test_an_exception_of_a_callback_says_that_the_prompt_goes_on(comfy, fast):
    """It comes through as it is, with a note, and a later run is not disturbed."""

    def callback(event):
        raise KeyError("mine")

    comfy.script(*WELL)
    with pytest.raises(KeyError) as caught:
        fast.run(GRAPH, timeout=LIMIT, on_event=callback)
    assert "keeps running" in caught.value.__notes__[0]
    check(fast.run(GRAPH, timeout=LIMIT))


def test_done_callbacks_never_run_in_threads_of_the_client(comfy, fast):
    """Whenever they are added: also at the very moment of the end."""
    comfy.script(*WELL)
    names = Counter()
    called = threading.Semaphore(0)

    def callback(_):
        names[threading.current_thread().name] += 1
        called.release()

    for _ in range(100):
        fast.submit(GRAPH).add_done_callback(callback)
    for _ in range(100):
        assert called.acquire(timeout=LIMIT)
    assert set(names) <= {"comfy-callbacks", threading.current_thread().name}


def test_a_receiver_that_raises_is_logged_and_the_others_run(
    comfy: ComfyServer, fast: ComfyApi, caplog: pytest.LogCaptureFixture
) -> None:
    """The others still run; it is shown once."""

    def wrong(event: Any) -> None:
        raise RuntimeError("mine")

    fast.on("execution_start", wrong)
    told = Heard(fast)
    check_once(comfy, told, fast.run(saves(), timeout=LIMIT), recovered=False)
    assert told("execution_start")
    assert caplog.text.count("RuntimeError: mine") == 1


def test_a_receiver_that_sleeps_costs_no_connection(comfy: ComfyServer) -> None:
    """Pings are answered meanwhile, and the connection is kept."""
    with Quick(comfy.url) as api:
        told = Heard(api)
        wake = threading.Event()
        api.on("execution_start", lambda e: wake.wait(LIMIT))
        job = api.submit(saves())
        comfy.until(lambda: job.prompt_id in comfy.history, LIMIT)
        before = comfy.pings
        comfy.until(lambda: comfy.pings >= before + 10, LIMIT)  # twice the limit for silence
        wake.set()
        check_once(comfy, told, job.result(LIMIT), recovered=False)
        assert told.links == []
        assert len(comfy.hellos) == 1


def test_done_callbacks_are_called_though_no_thread_can_be_had_for_them(
    fast: ComfyApi, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the socket's thread lives on."""
    job = fast.submit(shows(waits=True))
    called: list[Any] = []
    job.add_done_callback(called.append)
    fail_next_start(monkeypatch, RuntimeError("can't start new thread"), "comfy-callbacks")
    gate.set()
    job.result(LIMIT)
    until(lambda: called == [job])
    assert fast.connected
