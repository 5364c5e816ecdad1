"""The check at the end of each test notices what a Ctrl-C could leave behind."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from comfy_client.locks import shared_lock
from comfy_client.transport.connections import Transfer, current
from comfy_client.transport.deadline import Deadline, ParallelCalls, parallel_calls, read_timeout
from tests.helpers.left_behind import changes_since, state_of_thread


def set_transfer() -> Callable[[], object]:
    current.set(Transfer(Deadline.after(0.0)))
    return lambda: current.set(None)


def set_silence() -> Callable[[], object]:
    read_timeout.set(5.0)
    return lambda: read_timeout.set(float("inf"))


def set_calls() -> Callable[[], object]:
    parallel_calls.set(ParallelCalls())
    return lambda: parallel_calls.set(None)


def hold_lock() -> Callable[[], object]:
    lock = shared_lock()
    lock.acquire()
    return lock.release


@pytest.mark.parametrize(
    ("leave", "name"),
    [
        (set_transfer, "transfer"),
        (set_silence, "silence"),
        (set_calls, "calls"),
        (hold_lock, "locks"),
    ],
)
def test_leftovers_of_a_test_are_named(
    leave: Callable[[], Callable[[], object]], name: str
) -> None:
    before = state_of_thread()
    undo = leave()
    try:
        assert changes_since(before) == [name]
    finally:
        undo()
    assert changes_since(before) == []
