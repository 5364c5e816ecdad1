"""``Deadline``: what is left, slices of it, and what is no timeout."""

from __future__ import annotations

import math
import time

import pytest

from comfy_client.transport.deadline import (
    LONGEST,
    Deadline,
    check_timeout,
    limited_silence,
    read_timeout,
)
from tests.helpers.ctrl_c import each_interrupt


def test_time_left_shrinks_and_is_never_negative() -> None:
    deadline = Deadline(time.monotonic() + 60.0)
    assert 59.0 < deadline.left() <= 60.0
    assert not deadline.expired
    passed = Deadline(time.monotonic() - 1.0)
    assert passed.left() == 0.0
    assert passed.expired


def test_a_wait_may_take_a_slice_of_it() -> None:
    assert Deadline.after(60.0).left(0.5) == 0.5
    assert Deadline.after(60.0).require(0.5) == 0.5
    assert Deadline.after(0.1).left(0.5) == pytest.approx(0.05, abs=0.051)


def test_zero_has_passed_at_once_and_none_never_does() -> None:
    assert Deadline.after(0).expired
    never = Deadline.after(None)
    assert not never.expired
    assert never.left() == math.inf
    assert never.left(2.0) == 2.0


def test_a_socket_gets_a_time_above_zero_or_none_at_all() -> None:
    with pytest.raises(TimeoutError):
        Deadline.after(0).require()
    assert Deadline.after(None).require() == LONGEST
    assert Deadline.after(1e300).require() <= LONGEST


def test_a_deadline_cannot_be_put_off() -> None:
    with pytest.raises(AttributeError):
        Deadline.after(1.0).at = 0.0  # type: ignore[misc]


@pytest.mark.parametrize(("wrong", "error"), [("5", TypeError), (-1, ValueError)])
def test_wrong_timeouts_of_a_deadline_are_refused(wrong: float, error: type[Exception]) -> None:
    with pytest.raises(error, match="timeout"):
        Deadline.after(wrong)
    with pytest.raises(error, match="timeout"):
        check_timeout(None, 1, wrong)


def test_not_a_number_is_no_timeout() -> None:
    with pytest.raises(ValueError, match="timeout"):
        check_timeout(math.nan)


def test_a_limit_of_silence_ends_with_its_block() -> None:
    with limited_silence(2.0):
        with limited_silence(0.5):
            assert read_timeout.get() == 0.5
        assert read_timeout.get() == 2.0
    assert read_timeout.get() == math.inf


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_limit_of_silence_ends_however_its_block_ends(error: type[BaseException]) -> None:
    with limited_silence(2.0):
        with pytest.raises(error), limited_silence(0.5):
            raise error
        assert read_timeout.get() == 2.0
    assert read_timeout.get() == math.inf


def test_a_ctrl_c_at_any_moment_leaves_no_limit_of_silence() -> None:
    """Not even while somebody keeps the error, whose traceback keeps frames."""

    def ask() -> None:
        with limited_silence(0.5):
            assert read_timeout.get() == 0.5

    kept: list[BaseException] = []
    for error in each_interrupt(ask):
        kept.append(error)
        assert read_timeout.get() == math.inf
    assert kept
