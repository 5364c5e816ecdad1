"""The clock of the tests, which stands still while their process does."""

from __future__ import annotations

import threading
import time

import pytest

from comfy_client import runtime
from tests.helpers.standing_clock import BEAT, GRACE, StandingClock


class Now:
    """The time of the machine."""

    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


def test_time_passes_while_there_are_signs_of_life() -> None:
    now = Now()
    clock = StandingClock(now)
    for _ in range(10):
        now.at += BEAT
        clock.beat()
    assert clock() == now()


def test_time_stands_still_without_a_sign_of_life_and_goes_on_after_it() -> None:
    now = Now()
    clock = StandingClock(now)
    now.at += 15.0
    assert clock() == 100.0 + GRACE
    clock.beat()
    assert clock() == 100.0 + GRACE
    now.at += BEAT
    assert clock() == pytest.approx(100.0 + GRACE + BEAT)


def test_the_child_of_a_fork_has_no_thread_that_gives_them() -> None:
    now = Now()
    clock = StandingClock(now)
    clock.go_on()
    now.at += 15.0
    assert clock() == now()


def test_limits_in_this_process_use_the_standing_clock() -> None:
    assert isinstance(time.monotonic, StandingClock)
    assert runtime.monotonic is time.monotonic
    woken = threading.Condition()
    before = time.monotonic()
    with woken:
        assert not woken.wait_for(lambda: False, 2 * BEAT)
    assert time.monotonic() >= before + 2 * BEAT  # the thread that gives signs of life is there
