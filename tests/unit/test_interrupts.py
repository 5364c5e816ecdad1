"""Ctrl-C and alarms are recognized, and what a call sets for a while is as it was afterwards."""

from __future__ import annotations

import contextlib
import functools
import itertools
import signal
import sys
from types import FrameType
from typing import Any

import pytest

from comfy_client import interrupts
from comfy_client.interrupts import in_full, interruption


class Rings:
    def __call__(self, *_: object) -> None:
        raise TimeoutError("mine")

    def method(self, *_: object) -> None:
        raise TimeoutError("mine")


def ring(more: object, *_: object) -> None:
    raise TimeoutError("mine")


def wrap_alarm() -> None:
    """Wrap what the handler raises, as libraries do with a timeout of a socket."""
    try:
        signal.raise_signal(signal.SIGTERM)
    except TimeoutError as exc:
        raise ConnectionError("wrapped") from exc


@pytest.mark.parametrize(
    "handler",
    [ring, Rings(), Rings().method, functools.partial(ring, "more")],
    ids=["function", "object", "method", "partial"],
)
def test_an_alarm_is_distinguished_from_a_timeout_of_a_socket(handler: Any) -> None:
    """Whatever kind of handler has raised it, as long as it is the handler."""
    before = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(ConnectionError) as caught:
            wrap_alarm()
        assert str(interruption(caught.value)) == "mine"
    finally:
        signal.signal(signal.SIGTERM, before)
    assert interruption(caught.value) is None
    assert interruption(TimeoutError("timed out")) is None


def test_a_call_that_fails_keeps_no_other_from_being_made() -> None:
    """The last error is raised, with the one before as its context."""
    made: list[int] = []

    def make(number: int) -> None:
        made.append(number)
        if number in (1, 3):
            raise ValueError(number)

    with pytest.raises(ValueError, match="3") as caught:
        in_full(functools.partial(make, number) for number in range(5))
    assert made == [0, 1, 2, 3, 4]
    assert repr(caught.value.__context__) == "ValueError(1)"


def made_despite(line: int) -> tuple[list[int], bool]:
    """Have three calls made, with a Ctrl-C at that line after the first; whether it came."""
    made: list[int] = []
    files = {interrupts.__file__, contextlib.__file__}
    left = itertools.count(1)

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename not in files:
            return None
        if event == "line" and made and next(left) == line:
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    try:
        sys.settrace(trace)
        in_full([functools.partial(made.append, number) for number in range(3)])
    except KeyboardInterrupt:
        return made, True
    finally:
        sys.settrace(before)
    return made, False


def test_wherever_ctrl_c_falls_between_calls_the_others_are_made() -> None:
    """It costs the call that it falls in, at the most."""
    outcomes = list(itertools.takewhile(lambda it: it[1], map(made_despite, itertools.count(1))))
    assert len(outcomes) > 2
    for made, _ in outcomes:
        assert made in ([0, 1, 2], [0, 1], [0, 2])
