"""The signals that stop a command: the exceptions that they raise, and that none is lost."""

from __future__ import annotations

import gc
import signal
import sys
import threading

import pytest

from comfy_client.cli.stop_signals import ending_as_by_ctrl_c

LIMIT = 60.0
SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


class Finalized:
    """An object whose finalizer gets a signal, so that Python drops the KeyboardInterrupt."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        signal.raise_signal(self.number)


class Failing:
    """An object whose finalizer fails."""

    itself: object = None

    def __del__(self) -> None:
        raise ValueError


def drop(number: int, *, wait: bool = False) -> None:
    with ending_as_by_ctrl_c():
        Finalized(number)
        if wait:
            # Where a signal cannot be sent to a thread, it ends no wait.
            parts = 1 if hasattr(signal, "pthread_kill") else 1000
            for _ in range(parts):
                threading.Event().wait(LIMIT / parts)
            pytest.fail("it was lost")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_a_keyboard_interrupt_in_the_block_only(number: int) -> None:
    """After the block, the earlier handler is back."""
    before = [signal.getsignal(one) for one in SIGNALS], sys.unraisablehook
    with pytest.raises(KeyboardInterrupt), ending_as_by_ctrl_c():
        signal.raise_signal(number)
    assert ([signal.getsignal(one) for one in SIGNALS], sys.unraisablehook) == before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_is_dropped_in_a_finalizer_is_sent_again(number: int) -> None:
    """Finalizers run during imports, for example; nothing is printed."""
    with pytest.raises(KeyboardInterrupt):
        drop(number, wait=True)


def test_a_signal_that_is_dropped_at_the_end_is_raised_there() -> None:
    """Otherwise, it would end what comes after the block."""
    with pytest.raises(KeyboardInterrupt):
        drop(signal.SIGINT)


def test_errors_of_other_finalizers_are_reported_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The hook that was installed before reports them."""
    seen: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda one: seen.append(one.exc_type))

    with ending_as_by_ctrl_c():
        Failing()
    assert seen == [ValueError]


def stop_among_failing() -> None:
    one = Failing()
    one.itself = one  # for the collector
    signal.raise_signal(signal.SIGINT)


def test_errors_of_half_made_objects_are_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither immediately, nor when they are collected."""
    seen: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda one: seen.append(one.exc_type))
    with ending_as_by_ctrl_c(), pytest.raises(KeyboardInterrupt):
        stop_among_failing()
    gc.collect()
    assert not seen


@pytest.mark.posix("SIGHUP")
def test_ignored_signals_stay_ignored() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending_as_by_ctrl_c():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.posix("SIGUSR1")
def test_ctrl_break_of_windows_stops_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its signal exists nowhere else."""
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)
    with pytest.raises(KeyboardInterrupt), ending_as_by_ctrl_c():
        signal.raise_signal(signal.SIGUSR1)
