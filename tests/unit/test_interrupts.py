"""Ctrl-C and alarms are recognized, and what a call sets for a while is as it was afterwards."""

from __future__ import annotations

import functools
import signal
from contextvars import ContextVar
from typing import Any

import pytest

from comfy_client.interrupts import assigned, interruption


def fail(variable: ContextVar[int], error: type[BaseException]) -> None:
    with assigned(variable, 2):
        assert variable.get() == 2
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_variable_is_assigned_for_a_while(error: type[BaseException]) -> None:
    """However the block ends, and within blocks of the same variable."""
    variable: ContextVar[int] = ContextVar("variable", default=0)
    with assigned(variable, 1):
        with pytest.raises(error):
            fail(variable, error)
        assert variable.get() == 1
    assert variable.get() == 0


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
def test_an_alarm_is_told_from_a_timeout_of_a_socket(handler: Any) -> None:
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
