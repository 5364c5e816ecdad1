"""Several pieces of work at a time, which end together."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

import pytest

from comfy_client.transport.deadline import (
    MAX_PARALLEL,
    Abandoned,
    check_wanted,
    ended_by,
    in_parallel,
    pause,
)
from comfy_client.transport.local_files import write_atomically
from tests.helpers.clients import threads, until
from tests.helpers.ctrl_c import each_interrupt
from tests.helpers.interrupts import press_ctrl_c

SECONDS = 60


def test_results_keep_the_order_of_the_items() -> None:
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
    together, now, most = threading.Barrier(MAX_PARALLEL), [], []
    lock = threading.Lock()

    def work(item: int) -> None:
        with lock:
            now.append(item)
            most.append(len(now))
        if item < MAX_PARALLEL:
            together.wait(SECONDS)
        with lock:
            now.remove(item)

    in_parallel(work, range(3 * MAX_PARALLEL))
    assert max(most) == MAX_PARALLEL


@pytest.mark.parametrize("number", [0, 1])
def test_a_single_item_runs_in_the_callers_thread(number: int) -> None:
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
    assert len(begun) <= MAX_PARALLEL


def test_an_interruption_in_the_caller_ends_all_of_them() -> None:
    """Such as a Ctrl-C, which comes in the main thread; it is waited for what ends."""
    begun, ended = threading.Barrier(MAX_PARALLEL), []

    def work(item: int) -> None:
        if begun.wait(SECONDS) == 0:
            press_ctrl_c()
        try:
            pause(SECONDS)
        finally:
            ended.append(item)

    with pytest.raises(KeyboardInterrupt):
        in_parallel(work, range(MAX_PARALLEL))
    assert sorted(ended) == list(range(MAX_PARALLEL))


def test_running_items_are_ended_from_outside() -> None:
    """What waits for somebody else does not look whether it is wanted."""
    waiting = threading.Semaphore(0)

    def work(item: int) -> None:
        if item == 0:
            assert all(waiting.acquire(timeout=SECONDS) for _ in range(MAX_PARALLEL - 1))
            raise KeyError(item)
        answered = threading.Event()
        with ended_by(answered.set):
            waiting.release()
            assert answered.wait(SECONDS)
            ended.append(item)
            raise OSError("cut")

    ended: list[int] = []
    with pytest.raises(KeyError, match="0"):
        in_parallel(work, range(MAX_PARALLEL))
    assert sorted(ended) == list(range(1, MAX_PARALLEL))


def fail_beside(tmp_path: Path, stuck: threading.Event) -> None:
    """Fail while another thread writes a file, and waits in the middle of it until `stuck`."""
    writing = threading.Event()

    def chunks() -> Iterator[bytes]:
        yield b"half"
        writing.set()
        stuck.wait(SECONDS)

    def work(item: int) -> None:
        if item == 0:
            assert writing.wait(SECONDS)
            assert list(tmp_path.iterdir())
            raise KeyError(item)
        write_atomically(tmp_path / "a.png", chunks(), if_exists="number")

    with pytest.raises(KeyError):
        in_parallel(work, range(2))


def test_no_part_of_a_file_is_left_when_its_thread_has_ended(tmp_path: Path) -> None:
    """Late, as nothing ended what it waited for."""
    stuck = threading.Event()
    fail_beside(tmp_path, stuck)
    stuck.set()
    until(lambda: not [thread for thread in threads() if thread.name == "comfy-files"])
    assert not list(tmp_path.glob("*.part"))  # Windows had kept it from being removed before


@pytest.mark.posix("removal of open files")
def test_no_part_of_a_file_is_left_though_nothing_ends_its_thread(tmp_path: Path) -> None:
    """It may wait for a connection, for example, and the script may end before it."""
    stuck = threading.Event()
    fail_beside(tmp_path, stuck)
    assert not list(tmp_path.iterdir())
    stuck.set()
    until(lambda: not [thread for thread in threads() if thread.name == "comfy-files"])
    assert not list(tmp_path.iterdir())


def test_waiting_items_give_up_after_a_failure() -> None:
    """Each gives up at once."""
    failing, given_up = threading.Barrier(MAX_PARALLEL), []

    def work(item: int) -> None:
        failing.wait(SECONDS)
        if item == 0:
            raise KeyError(item)
        try:
            pause(SECONDS)
        except Abandoned:
            with pytest.raises(Abandoned), ended_by(lambda: None):
                given_up.append("began")
            given_up.append(item)
            raise

    with pytest.raises(KeyError):
        in_parallel(work, range(MAX_PARALLEL))
    assert sorted(given_up) == list(range(1, MAX_PARALLEL))


def test_work_sees_the_context_of_its_caller() -> None:
    """Limits that hold for its requests, for example."""
    limit: ContextVar[int] = ContextVar("limit", default=0)
    limit.set(5)
    assert in_parallel(lambda _: limit.get(), range(8)) == [5] * 8


def test_outside_of_such_work_all_is_wanted() -> None:
    """Nothing is raised."""
    check_wanted()
    in_parallel(lambda _: check_wanted(), range(8))
    with ended_by(lambda: pytest.fail("nobody has ended it")):
        pause(0)
        check_wanted()


def test_ctrl_c_never_leaves_the_group_in_the_callers_thread() -> None:
    """Otherwise, the thread's next request would be cut while a notebook keeps the error."""
    kept = []
    for error in each_interrupt(lambda: in_parallel(str, [1])):
        kept.append(error)
        check_wanted()
    assert kept
