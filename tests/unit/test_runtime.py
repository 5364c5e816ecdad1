"""Threads and conditions of the client under Ctrl-C."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from comfy_client import runtime
from comfy_client.interrupts import was_started
from tests.helpers.clients import LIMIT, until
from tests.helpers.ctrl_c import each_interrupt, handled
from tests.helpers.patches import slices, tell_time


def is_free(lock: Any) -> bool:
    """Return whether another thread can take a lock."""

    def take() -> bool:
        taken = lock.acquire(timeout=0.1)
        if taken:
            lock.release()
        return bool(taken)

    with ThreadPoolExecutor(1) as threads:
        return threads.submit(take).result()


def test_a_ctrl_c_at_any_point_of_a_wait_comes_out_and_leaves_no_lock() -> None:
    lock = runtime.RLock()
    condition = runtime.Condition(lock)

    def wait() -> None:
        with lock:
            condition.wait(0.001)

    came = 0
    for _ in each_interrupt(wait):
        came += 1
        assert is_free(lock)
    assert came > 3


def test_a_wait_without_the_lock_is_an_error_that_takes_no_lock() -> None:
    lock = runtime.RLock()
    with pytest.raises(RuntimeError):
        runtime.Condition(lock).wait(0.001)
    assert is_free(lock)


def test_a_ctrl_c_at_any_point_of_a_start_comes_out_and_the_thread_begins() -> None:
    made: list[runtime.Thread] = []

    def start() -> None:
        made.append(runtime.Thread(target=begun.append, args=(len(made),), daemon=True))
        made[-1].start()

    begun: list[int] = []
    with handled():  # one may come in a callback of the standard library's, which swallows it
        came = len(list(each_interrupt(start)))
    assert came > 3
    until(lambda: len(begun) == sum(was_started(thread) for thread in made), LIMIT)


def test_a_thread_starts_once() -> None:
    thread = runtime.Thread(target=bool)
    thread.start()
    with pytest.raises(RuntimeError, match="once"):
        thread.start()
    thread.join()


class SlowClock:
    """A clock that only waits turn, by their limits: none of them is woken."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float | None] = []

    def __call__(self) -> float:
        return self.now

    def wait(self, condition: object, timeout: float | None = None) -> bool:
        """Wait as ``threading.Condition`` does; no wait may be without a limit."""
        self.waits.append(timeout)
        self.now += timeout or 0.0
        return False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SlowClock:
    made = SlowClock()
    tell_time(monkeypatch, made)
    monkeypatch.setattr(threading, "_time", made)
    usual = threading.Condition.wait

    def wait(condition: threading.Condition, timeout: float | None = None) -> bool:
        thread = threading.current_thread()  # not one of pytest-timeout, which would end the tests
        is_ours = thread is threading.main_thread() or isinstance(thread, runtime.Thread)
        return made.wait(condition, timeout) if is_ours else usual(condition, timeout)

    monkeypatch.setattr(threading.Condition, "wait", wait)
    return made


def _of_an_event(seconds: float) -> bool:
    return runtime.Event().wait(seconds)


def _of_a_condition(seconds: float) -> bool:
    condition = runtime.Condition()
    with condition:
        return condition.wait_for(bool, seconds)


def _for_the_end_of_a_thread(seconds: float) -> bool:
    go_on = threading.Lock()
    with go_on:
        thread = runtime.Thread(target=go_on.acquire, daemon=True)
        thread.start()
        thread.join(seconds)
    return False


WAITS = [_of_an_event, _of_a_condition, _for_the_end_of_a_thread]


@pytest.mark.parametrize("wait", WAITS)
def test_waits_that_ctrl_c_cannot_end_are_sliced(
    wait: Callable[[float], bool], clock: SlowClock
) -> None:
    """In the main thread, which handles signals; in sum they are as long as the wait."""
    with slices():
        assert not wait(1.1)
        assert clock.now == pytest.approx(1.1)
        assert clock.waits
        assert all(each is not None and each <= runtime.SLICE for each in clock.waits)


@pytest.mark.parametrize("wait", WAITS[:2])
def test_threads_other_than_the_main_one_wait_in_one_piece(
    wait: Callable[[float], bool], clock: SlowClock
) -> None:
    """No signal is handled there."""
    with slices():
        other = runtime.Thread(target=wait, args=(1.1,))
        other.start()
        other.join()
    assert 1.1 in clock.waits


def test_a_wait_in_slices_ends_with_what_it_waits_for() -> None:
    with slices():
        event, condition = runtime.Event(), runtime.Condition()
        thread = runtime.Thread(target=event.set)
        with pytest.raises(RuntimeError):
            thread.join()
        thread.start()
        assert event.wait()
        thread.join()
        with condition:
            assert condition.wait_for(event.is_set)
            assert not condition.wait()  # it may end without a cause


def test_waits_are_sliced_on_windows_only() -> None:
    assert runtime.SLICED is (sys.platform == "win32")
