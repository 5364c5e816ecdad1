"""Sockets that are open and bring nothing: when the client dials again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from comfy_client import runtime
from comfy_client.jobs.queue_monitor import DeafnessCheck
from comfy_client.log_records import ServerLog
from comfy_client.timing import Timing
from comfy_client.transport.websocket import State
from tests.helpers.patches import tell_time

#: A submission at 100 s, of which the socket said nothing.
SUBMITTED = [(100.0, 100.1)]


class Socket:
    """An open socket, and the times at which it was given up."""

    state = State.CONNECTED
    client_id = "me"
    is_receiving = False
    log = ServerLog("http://gpu:8188")

    def __init__(self) -> None:
        self.redialled: list[float] = []

    def redial(self, reason: str) -> None:
        self.redialled.append(runtime.monotonic())


@pytest.fixture
def socket() -> Socket:
    return Socket()


@pytest.fixture
def look(socket: Socket, monkeypatch: pytest.MonkeyPatch) -> Any:
    monitor: Any = SimpleNamespace(status_at=0.0)
    one: Any = socket
    check = DeafnessCheck(one, monitor, Timing())

    def at(now: float) -> list[float]:
        tell_time(monkeypatch, lambda: now)
        check.redial_if_deaf(SUBMITTED, now)
        return socket.redialled

    return at


def test_a_socket_silent_about_a_submission_is_redialled(look: Any) -> None:
    assert look(103.0) == []
    assert look(103.2) == [103.2]


def test_a_socket_is_dialled_again_once_a_minute_at_most(look: Any) -> None:
    look(104.0)
    assert look(163.9) == [104.0]
    assert look(164.1) == [104.0, 164.1]


def test_a_slow_line_on_which_messages_arrive_is_not_deaf(look: Any, socket: Socket) -> None:
    """Between two of them, nothing is on its way for a moment."""
    socket.is_receiving = True
    assert look(110.0) == []
    socket.is_receiving = False
    assert look(115.9) == []
    assert look(116.1) == [116.1]
