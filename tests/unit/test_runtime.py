"""Threads and conditions of the client under Ctrl-C."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from comfy_client import runtime
from comfy_client.interrupts import was_started
from tests.helpers.clients import LIMIT, until
from tests.helpers.ctrl_c import each_interrupt, handled


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
