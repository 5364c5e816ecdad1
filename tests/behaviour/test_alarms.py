"""A wait gives back what the caller's own handler of a signal raises, whatever that is."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from comfy_client import ComfyApi
from comfy_client.testing import ComfyServer, never_answer
from tests.helpers.clients import LIMIT, until
from tests.helpers.gates import saves

pytestmark = pytest.mark.posix("alarms")

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
    "result": lambda api: api.submit(GRAPH).result(LIMIT),
    "events of a job": lambda api: list(api.submit(GRAPH).events()),
    "map": lambda api: list(api.map([GRAPH])),
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


@pytest.mark.parametrize("error", [TimeoutError, ConnectionError, RuntimeError])
def test_an_alarm_ends_a_request(
    error: type[Exception], comfy: ComfyServer, fast: ComfyApi, alarm: Alarm
) -> None:
    """It is no failure of the connection, and nothing is asked again on its account."""
    alarm.error = error("mine")
    comfy.on("GET", "/queue", never_answer)
    before = len(comfy.requests)
    alarm.when(lambda: len(comfy.requests) > before)
    with pytest.raises(error) as caught:
        fast.get_queue()
    assert caught.value is alarm.error
    assert len(comfy.requests) == before + 1


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
