"""A wait gives back what the caller's own handler of a signal raises, whatever that is."""

from __future__ import annotations

import functools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from comfy_client import ComfyApi
from comfy_client.errors import JobLost
from comfy_client.interrupts import interruption
from comfy_client.jobs.job import Job
from comfy_client.testing import ComfyServer, never_answer
from tests.helpers.clients import LIMIT, until
from tests.helpers.gates import saves

GRAPH = saves()


class Alarm:
    """Raises the error that is given, in the main thread, once something is true."""

    def __init__(self) -> None:
        self.error: Exception = TimeoutError("mine")
        self._before = signal.signal(signal.SIGUSR1, self._ring)
        self._threads: list[threading.Thread] = []
        self._is_over = False

    def _ring(self, *_: object) -> None:
        raise self.error

    def when(self, ready: Callable[[], object]) -> None:
        def ring() -> None:
            until(lambda: self._is_over or ready())
            time.sleep(0.1)  # it is about to wait by now; at any other moment it holds as well
            if not self._is_over:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

        thread = threading.Thread(target=ring)
        self._threads.append(thread)
        thread.start()

    def end(self) -> None:
        self._is_over = True
        for thread in self._threads:
            thread.join()
        signal.signal(signal.SIGUSR1, self._before)


@pytest.fixture
def alarm() -> Iterator[Alarm]:
    alarm = Alarm()
    yield alarm
    alarm.end()


@pytest.fixture
def comfy(comfy: ComfyServer) -> Iterator[ComfyServer]:
    """Nothing that runs on it comes to an end."""
    with comfy.faults.hang_worker():
        yield comfy


WAITS: dict[str, Callable[[ComfyApi], object]] = {
    "run": lambda api: api.run(GRAPH, timeout=LIMIT),
    "run with a callback": lambda api: api.run(GRAPH, timeout=LIMIT, on_event=lambda _: None),
    "result": lambda api: api.submit(GRAPH).result(LIMIT),
    "result without a time": lambda api: api.submit(GRAPH).result(),
    "exception": lambda api: api.submit(GRAPH).exception(LIMIT),
    "events of a job": lambda api: list(api.submit(GRAPH).events()),
    "map": lambda api: list(api.map([GRAPH])),
    "map as they end": lambda api: list(api.map([GRAPH], ordered=False)),
    "sweep": lambda api: api.sweep(GRAPH, {"SaveImage.filename_prefix": ["a"]}),
    "wait_for": lambda api: (api.submit(GRAPH), api.wait_for("executed", timeout=LIMIT)),
    "events": lambda api: (api.submit(GRAPH), list(api.events("executed"))),
}


@pytest.mark.parametrize("name", WAITS)
def test_an_alarm_ends_a_wait_for_a_prompt(
    name: str, comfy: ComfyServer, fast: ComfyApi, alarm: Alarm
) -> None:
    """The recipe that everyone copies raises TimeoutError in its handler."""
    alarm.when(lambda: comfy.running)
    with pytest.raises(TimeoutError) as caught:
        WAITS[name](fast)
    assert caught.value is alarm.error


@pytest.mark.parametrize("error", [TimeoutError, ConnectionError, OSError, RuntimeError])
@pytest.mark.parametrize(
    ("method", "route", "ask"),
    [
        ("GET", "/queue", lambda api: api.get_queue()),
        ("POST", "/interrupt", lambda api: api.interrupt()),
        ("GET", "/prompt", lambda api: api.init(LIMIT)),
    ],
    ids=["GET", "POST", "init"],
)
def test_an_alarm_ends_a_request(
    method: str,
    route: str,
    ask: Callable[[ComfyApi], object],
    error: type[Exception],
    comfy: ComfyServer,
    fast: ComfyApi,
    alarm: Alarm,
) -> None:
    """It is no failure of the connection, and nothing is asked again on its account."""
    alarm.error = error("mine")
    comfy.on(method, route, never_answer)
    before = len(comfy.requests)
    alarm.when(lambda: len(comfy.requests) > before)
    with pytest.raises(error) as caught:
        ask(fast)
    assert caught.value is alarm.error
    assert [(r.method, r.path) for r in comfy.requests[before:]] in (
        [(method, route)],
        [(method, f"/api{route}")],
    )


def test_an_alarm_ends_the_wait_for_a_server_that_comes_up(alarm: Alarm) -> None:
    """In the pause between two attempts."""
    with ComfyServer() as server:
        url = server.url
    api = ComfyApi(url)
    alarm.when(lambda: True)
    with pytest.raises(TimeoutError) as caught:
        api.init(LIMIT)
    assert caught.value is alarm.error
    api.close()


@pytest.mark.timing(look_up=2.0)
def test_an_alarm_ends_the_search_for_a_submission(
    comfy: ComfyServer, fast: ComfyApi, alarm: Alarm
) -> None:
    """For its caller; it may be there all the same, and others who wait for it go on."""
    prompt_id = fast.generate_id()
    others: list[Job] = []

    def is_sought() -> bool:
        if not any(seen.method == "POST" for seen in comfy.requests):
            return False
        others.append(fast.job(prompt_id))
        return True

    with comfy.faults.cut("POST", "/prompt", ran=False):
        alarm.when(is_sought)
        with pytest.raises(TimeoutError) as caught:
            fast.submit(GRAPH, prompt_id=prompt_id)
    assert caught.value is alarm.error
    assert isinstance(others[0].exception(LIMIT), JobLost)


# -- how one is told ----------------------------------------------------------------------


class Rings:
    def __call__(self, *_: object) -> None:
        raise TimeoutError("mine")

    def method(self, *_: object) -> None:
        raise TimeoutError("mine")


def _function(more: object, *_: object) -> None:
    raise TimeoutError("mine")


@pytest.mark.parametrize(
    "handler",
    [_function, Rings(), Rings().method, functools.partial(_function, "more")],
    ids=["function", "object", "method", "partial"],
)
def test_what_a_handler_raised_is_told_from_what_a_socket_did(handler: Any) -> None:
    """However a library has wrapped it; and only as long as it is the handler."""
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(ConnectionError) as caught:
            _wrapped(signal.raise_signal, signal.SIGUSR1)
        assert str(interruption(caught.value, None)) == "mine"
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert interruption(caught.value, None) is None
    assert interruption(TimeoutError("timed out"), None) is None


def _wrapped(call: Callable[..., object], *args: object) -> None:
    try:
        call(*args)
    except TimeoutError as exc:
        raise ConnectionError("wrapped") from exc
