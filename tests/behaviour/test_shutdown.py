"""What is closed, forgotten or left by the interpreter leaves no thread and no wait behind."""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from comfy_client import ApiError, ComfyApi, State
from comfy_client.errors import (
    ClientClosed,
)
from comfy_client.jobs.cancel import withdrawn
from comfy_client.testing import ComfyServer
from tests.helpers.clients import (
    LIMIT,
    Fast,
    Heard,
    client,
    outstanding,
    threads,
)
from tests.helpers.gates import saves, shows
from tests.helpers.interrupts import press_ctrl_c
from tests.helpers.scripted import (
    GRAPH,
    START,
    WELL,
    check,
)


def test_ctrl_c_while_the_client_is_closed_leaves_no_wait_without_an_end(comfy, monkeypatch):
    """It comes while one of its jobs is told."""
    comfy.script(START)

    def interrupted(outcome):
        raise KeyboardInterrupt

    with contextlib.closing(Fast(comfy.url)) as api:
        work = [api.submit(GRAPH) for _ in range(3)]
        monkeypatch.setattr(work[1], "set_exception", interrupted)
        with pytest.raises(KeyboardInterrupt):
            api.close()
        for job in (work[0], work[2]):
            assert isinstance(job.exception(LIMIT), ClientClosed)


def test_closing_the_client_during_a_submission_ends_it(comfy, fast):
    """No job is left without a verdict."""

    def handler(request):
        answer = comfy.answer(request)
        fast.close()
        return answer

    comfy.on("POST", "/prompt", handler)
    comfy.script(START)
    with pytest.raises(ClientClosed):
        fast.run(GRAPH, timeout=LIMIT)
    assert outstanding(fast) == []


@pytest.mark.timing(linger=0.1)
def test_the_thread_that_asks_ends_when_there_is_nothing_to_ask(comfy, fast):
    """And comes back with the next job."""

    def running():
        return [t for t in threading.enumerate() if t.name == "comfy-jobs"]

    comfy.script(*WELL)
    for _ in range(2):
        check(fast.run(GRAPH, timeout=LIMIT))
        comfy.until(lambda: not running(), LIMIT)


def test_an_iterator_may_be_collected_in_any_thread_at_any_moment(comfy, fast):
    """Also where a lock of ours is held: it takes back what waits, and its job's events."""
    comfy.script(*WELL)
    job = fast.submit(GRAPH)
    events = job.events()
    next(events)
    ended = threading.Event()

    def collect():
        with fast._tracker.lock:
            withdrawn(fast._poller, [job.prompt_id])  # what closing the iterator of map() does
            events.close()
        ended.set()

    threading.Thread(target=collect, daemon=True).start()
    assert ended.wait(LIMIT)


def test_a_client_that_is_forgotten_takes_its_thread_along(comfy):
    """Nobody closed it, and its job has not ended."""
    comfy.script(START)
    api = Fast(comfy.url)
    api.submit(GRAPH)
    mine = [t for t in threading.enumerate() if t.name == "comfy-jobs"]
    assert mine
    del api

    def have_ended():
        gc.collect()  # again and again: a thread holds the client while it works for it
        return not any(thread.is_alive() for thread in mine)

    comfy.until(have_ended, LIMIT)


def test_twenty_forgotten_clients_leave_nothing(comfy: ComfyServer) -> None:
    """Their threads end, and their connections."""
    for _ in range(20):
        api = Fast(comfy.url).init(LIMIT)
        Heard(api)
        api.run(saves(), timeout=LIMIT)
        del api
    gc.collect()
    comfy.until(lambda: not threads(), LIMIT)
    comfy.until(lambda: not comfy.sockets, LIMIT)


_SCRIPT = """
import sys, time
from comfy_client import ComfyApi
api = ComfyApi(sys.argv[1]).init(30)
api.on("all", lambda event: None)
job = api.submit({graph!r})
print(time.time(), flush=True)
"""


def test_the_interpreter_exits_with_a_live_client(comfy: ComfyServer) -> None:
    """At once, without a word."""
    comfy.faults.hang_worker()
    done = subprocess.run(
        [
            sys.executable,
            "-X",
            "dev",
            "-W",
            "error",
            "-c",
            _SCRIPT.format(graph=saves()),
            comfy.url,
        ],
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    left = time.time() - float(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert left < 3.0  # a tenth of that, but the machine may be busy


@pytest.mark.parametrize("when", ["silent", "frozen", "backing off", "handshake", "callback"])
def test_close_is_quick(comfy: ComfyServer, when: str) -> None:
    """Whatever the other side does; twice, too."""
    api = ComfyApi(comfy.url)
    if when == "handshake":
        fault = comfy.faults.stall_handshakes()
        api.on("all", lambda event: None)
        comfy.until(lambda: fault.hits, LIMIT)
    else:
        api.init(LIMIT)
    if when == "silent":
        comfy.faults.go_dark()
    elif when == "frozen":
        comfy.faults.freeze()
    elif when == "backing off":
        told = Heard(api)
        comfy.kill()
        comfy.until(lambda: told("reconnecting"), LIMIT)
    took: list[float] = []

    def close(event: Any = None) -> None:
        start = time.monotonic()
        api.close()
        took.append(time.monotonic() - start)

    if when == "callback":
        api.on("status", close)
        comfy.push_status()
        comfy.until(lambda: took, LIMIT)
    close()
    close()
    assert max(took) < 2.0  # a tenth of that, but the machine may be busy
    assert api.state is State.CLOSED


def test_close_is_done_in_full_though_ctrl_c_come_in_between(
    comfy: ComfyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And may be called again."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    for step in ("_connection.stop", "_tracker.close", "_receivers.close", "_http.close"):
        api = client(comfy)
        api.init()
        job = api.submit(shows(waits=True))
        part, _, method = step.partition(".")
        do = getattr(getattr(api, part), method)
        with monkeypatch.context() as patch:
            patch.setattr(getattr(api, part), method, interrupt)
            with pytest.raises(KeyboardInterrupt):
                api.close()
        assert api._closed
        if part != "_tracker":
            assert job.done()
        api.close()
        assert job.done()
        assert api.state is State.CLOSED
        do()


def test_ctrl_c_while_the_last_events_are_delivered_closes_the_client_all_the_same(
    comfy: ComfyServer,
) -> None:
    """At the end of a ``with`` that an error ends."""
    entered, release = threading.Event(), threading.Event()
    timer = threading.Timer(0.3, press_ctrl_c)
    with pytest.raises(KeyboardInterrupt), client(comfy) as api:  # noqa: PT012
        api.on("status", lambda event: (entered.set(), release.wait(LIMIT)))
        comfy.push_status()
        assert entered.wait(LIMIT)
        timer.start()
        raise ApiError("an error")
    assert api.state is State.CLOSED
    timer.join()
    release.set()
