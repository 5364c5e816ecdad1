"""The signals that stop a command: what they raise, and that none is lost."""

from __future__ import annotations

import gc
import signal
import sys
import threading

import pytest

from comfy_client.cli.stop_signals import ending_as_by_ctrl_c

LIMIT = 60.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Finalized:
    """Python drops what its finalizer raises."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        signal.raise_signal(self.number)


class Failing:
    """Fails in its finalizer."""

    itself: object = None

    def __del__(self) -> None:
        raise ValueError


def drop(number: int, *, wait: bool = False) -> None:
    with ending_as_by_ctrl_c():
        Finalized(number)
        if wait:
            threading.Event().wait(LIMIT)
            pytest.fail("it was lost")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_a_keyboard_interrupt_in_the_block_only(number: int) -> None:
    """Afterwards its handler is the one from before."""
    before = [signal.getsignal(one) for one in SIGNALS], sys.unraisablehook
    with pytest.raises(KeyboardInterrupt), ending_as_by_ctrl_c():
        signal.raise_signal(number)
    assert ([signal.getsignal(one) for one in SIGNALS], sys.unraisablehook) == before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_a_finalizer_drops_comes_again(number: int) -> None:
    """As those of imports do with a Ctrl-C; nothing is printed about it."""
    with pytest.raises(KeyboardInterrupt):
        drop(number, wait=True)


def test_a_signal_that_is_dropped_at_the_end_is_raised_there() -> None:
    """Rather than to end what comes after the block."""
    with pytest.raises(KeyboardInterrupt):
        drop(signal.SIGINT)


def test_other_errors_of_finalizers_are_reported_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the hook that was there."""
    seen: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda one: seen.append(one.exc_type))

    with ending_as_by_ctrl_c():
        Failing()
    assert seen == [ValueError]


def stop_among_failing() -> None:
    one = Failing()
    one.itself = one  # for the collector
    signal.raise_signal(signal.SIGINT)


def test_what_a_signal_leaves_half_made_does_not_complain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither at once, nor when it is collected."""
    seen: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda one: seen.append(one.exc_type))
    with ending_as_by_ctrl_c(), pytest.raises(KeyboardInterrupt):
        stop_among_failing()
    gc.collect()
    assert not seen


def test_what_is_ignored_stays_ignored() -> None:
    """As nohup wants it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending_as_by_ctrl_c():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
