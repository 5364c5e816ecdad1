"""Several pieces of work at a time, which end together."""

from __future__ import annotations

import threading
import time
from contextvars import ContextVar

import pytest

from comfy_client.transport.parallel import MOST, Abandoned, check_wanted, in_parallel

SECONDS = 20


def test_what_is_made_keeps_the_order_of_the_items() -> None:
    """Whichever is ready first."""
    second = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            second.wait(SECONDS)
        else:
            second.set()
        return item * 2

    assert in_parallel(work, range(20)) == list(range(0, 40, 2))


def test_a_few_run_at_a_time() -> None:
    """As many as there may be, and no more."""
    together, now, most = threading.Barrier(MOST), [], []
    lock = threading.Lock()

    def work(item: int) -> None:
        with lock:
            now.append(item)
            most.append(len(now))
        if item < MOST:
            together.wait(SECONDS)
        with lock:
            now.remove(item)

    in_parallel(work, range(3 * MOST))
    assert max(most) == MOST


@pytest.mark.parametrize("number", [0, 1])
def test_one_alone_runs_in_the_callers_thread(number: int) -> None:
    """A thread costs more than it brings."""
    assert (
        in_parallel(lambda _: threading.current_thread(), range(number))
        == [threading.current_thread()][:number]
    )


def test_the_error_that_came_first_is_raised_without_waiting_for_others() -> None:
    """One may be silent for a minute."""
    silent, waits = threading.Event(), threading.Event()

    def work(item: int) -> None:
        if item == 0:
            waits.set()
            silent.wait(SECONDS)
            raise ValueError("late")
        waits.wait(SECONDS)
        raise KeyError("first")

    begun = time.monotonic()
    with pytest.raises(KeyError, match="first"):
        in_parallel(work, range(2))
    assert time.monotonic() - begun < SECONDS / 2
    silent.set()


def test_the_first_error_ends_all_of_them() -> None:
    """Those under way notice it; others do not begin; it is raised as it came."""
    begun, abandoned, failing = [], [], threading.Barrier(2)

    def work(item: int) -> None:
        begun.append(item)
        if item == 0:
            failing.wait(SECONDS)
            raise KeyError(item)
        if item == 1:
            failing.wait(SECONDS)
            try:
                while True:
                    check_wanted()
            except Abandoned:
                abandoned.append(item)
                raise
        while True:
            check_wanted()

    with pytest.raises(KeyError, match="0"):
        in_parallel(work, range(100))
    assert abandoned == [1]
    assert len(begun) <= MOST


def test_an_interruption_in_the_caller_ends_all_of_them() -> None:
    """Such as a Ctrl-C, which comes in the main thread."""
    begun, ended = threading.Semaphore(0), threading.Semaphore(0)

    def work(item: int) -> None:
        begun.release()
        try:
            while True:
                check_wanted()
        except Abandoned:
            ended.release()
            raise

    class Interrupting(threading.Thread):
        def join(self, timeout: float | None = None) -> None:
            if not interrupted:
                interrupted.append(all(begun.acquire(timeout=SECONDS) for _ in range(MOST)))
                raise KeyboardInterrupt
            super().join(timeout)

    interrupted: list[bool] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "Thread", Interrupting)
        with pytest.raises(KeyboardInterrupt):
            in_parallel(work, range(MOST))
    assert all(ended.acquire(timeout=SECONDS) for _ in range(MOST))


def test_work_sees_the_context_of_its_caller() -> None:
    """Limits that hold for its requests, for example."""
    limit: ContextVar[int] = ContextVar("limit", default=0)
    limit.set(5)
    assert in_parallel(lambda _: limit.get(), range(8)) == [5] * 8


def test_outside_of_such_work_all_is_wanted() -> None:
    """Nothing is raised."""
    check_wanted()
    in_parallel(lambda _: check_wanted(), range(8))
    check_wanted()
