"""Calls that no signal handler interrupts."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from comfy_client import runtime
from comfy_client.interrupts import undivided
from tests.helpers.ctrl_c import ALARM, Alarm, handled, points_of
from tests.model.owned import replaced

BOTH = (signal.SIGINT, ALARM)


class Change:
    """A change of two steps, which count."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def __call__(self) -> str:
        self.steps.append(1)
        len("a point at which Python looks for signals")
        self.steps.append(2)
        return "answer"


@pytest.fixture(autouse=True)
def alarms() -> Iterator[None]:
    with handled():
        yield


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in BOTH]


@pytest.mark.parametrize("number", BOTH, ids=["Ctrl-C", "alarm"])
def test_a_signal_at_any_point_leaves_a_change_whole_and_the_handlers_as_they_were(
    number: signal.Signals,
) -> None:
    """Its exception comes out, and only once."""
    before, came = handlers(), []
    press = partial(signal.raise_signal, number)
    for at in range(1, points_of(partial(undivided, Change())) + 1):
        change = Change()
        with pytest.raises((KeyboardInterrupt, Alarm)):
            points_of(partial(undivided, change), at, press)
        assert change.steps in ([], [1, 2]), at
        assert handlers() == before, at
        came.append(bool(change.steps))
    assert came == sorted(came)  # it is made, from some point on
    assert any(came)
    assert not all(came)


def test_signals_in_any_quick_succession_are_handled_and_leave_a_change_whole() -> None:
    """If they keep a handler from coming back, the next signal brings it back."""
    set_handler = runtime.set_handler
    presses: Iterator[bool] = iter([])

    def handle(number: int, _: FrameType | None) -> None:
        raise KeyboardInterrupt

    def press() -> None:
        for number in BOTH:
            if next(presses, False):
                signal.raise_signal(number)

    def interrupted(number: int, handler: object) -> object:
        press()
        former = set_handler(number, handler)
        press()
        return former

    former = {number: signal.signal(number, handle) for number in BOTH}
    try:
        with replaced({"set_handler": interrupted}):
            for plan in itertools.product([False, True], repeat=12):
                presses, change = iter(plan), Change()
                with pytest.raises(KeyboardInterrupt) if any(plan) else contextlib.nullcontext():
                    undivided(change)
                assert change.steps in ([], [1, 2]), plan
                presses = iter([])
                for number in BOTH:
                    with pytest.raises(KeyboardInterrupt):
                        signal.raise_signal(number)
                assert handlers() == [handle, handle], plan
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def test_a_change_within_a_change_waits_for_the_outer_one() -> None:
    outer = Change()

    def both() -> str:
        undivided(press)
        return undivided(outer)

    def press() -> None:
        for number in BOTH:
            signal.raise_signal(number)

    before = handlers()
    with pytest.raises((KeyboardInterrupt, Alarm)):
        undivided(both)
    assert outer.steps == [1, 2]
    assert handlers() == before


def test_all_signals_that_came_are_handled_in_their_order_even_if_one_raises() -> None:
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        assert frame is not None
        seen.append(number)
        raise Alarm

    former = signal.signal(ALARM, note)
    try:
        with pytest.raises((KeyboardInterrupt, Alarm)):
            undivided(lambda: [signal.raise_signal(each) for each in (ALARM, signal.SIGINT, ALARM)])
    finally:
        signal.signal(ALARM, former)
    assert seen == [ALARM, ALARM]


def test_a_handler_that_is_set_meanwhile_stays() -> None:
    """By a finalizer, which may run at any moment."""
    before = signal.getsignal(ALARM)
    try:
        undivided(lambda: signal.signal(ALARM, signal.SIG_IGN))
        assert signal.getsignal(ALARM) is signal.SIG_IGN
    finally:
        signal.signal(ALARM, before)


def test_an_error_of_the_call_comes_out_and_so_does_one_of_a_handler_that_is_set() -> None:
    with pytest.raises(ZeroDivisionError):
        undivided(lambda: 1 // 0)
    assert undivided(Change()) == "answer"

    def refuse(number: int, _: FrameType | None) -> None:
        raise ValueError("mine")

    former = signal.signal(ALARM, refuse)
    try:
        points = points_of(partial(undivided, Change()))
        for at in range(1, points + 1):
            with pytest.raises(ValueError, match="mine"):
                points_of(partial(undivided, Change()), at, partial(signal.raise_signal, ALARM))
    finally:
        signal.signal(ALARM, former)


def test_in_other_threads_the_call_is_just_made() -> None:
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(undivided, Change()).result(60) == "answer"


def test_a_thread_that_only_seems_to_be_the_main_one_makes_the_call() -> None:
    """As in a sub-interpreter, in which no handlers may be set."""

    def call() -> str:
        with replaced({"main_thread": threading.current_thread}):
            return undivided(Change())

    before = handlers()
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(call).result(60) == "answer"
    assert handlers() == before


@pytest.mark.posix("fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_the_child_of_a_fork_by_another_thread_gets_its_signals() -> None:
    """Although the thread that would bring the handlers back does not exist there."""
    children: list[int] = []

    def fork() -> None:
        child = os.fork()
        if child:
            children.append(child)
            return
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            is_back = signal.getsignal(signal.SIGINT) is signal.default_int_handler
            os._exit(0 if is_back else 1)
        os._exit(2)

    def change() -> None:
        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()

    undivided(change)
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0


@pytest.mark.posix("faulthandler.register")
def test_faulthandler_still_prints_the_stack_at_a_signal_after_a_change(tmp_path: Path) -> None:
    with (tmp_path / "stacks").open("w+b") as stacks:
        faulthandler.register(ALARM, stacks, chain=True)
        try:
            undivided(Change())
            with pytest.raises(Alarm):
                signal.raise_signal(ALARM)
        finally:
            faulthandler.unregister(ALARM)
        stacks.seek(0)
        assert b"most recent call first" in stacks.read()


@pytest.mark.posix("signal.siginterrupt")
def test_siginterrupt_counts_after_a_change_as_before() -> None:
    """As of the handlers of an event loop; a system call goes on after the signal."""
    reads, writes = os.pipe()
    signal.signal(ALARM, lambda *_: None)
    signal.siginterrupt(ALARM, False)
    undivided(Change())
    main = threading.get_ident()

    def press() -> None:
        for _ in range(20):
            signal.pthread_kill(main, ALARM)
            time.sleep(0.01)
        os.write(writes, b"1")

    thread = threading.Thread(target=press)
    thread.start()
    count = ctypes.CDLL(None).read(reads, ctypes.create_string_buffer(1), 1)
    thread.join()
    os.close(reads)
    os.close(writes)
    assert count == 1
