"""A connection to a server, and a handler that notes what it is told."""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Callable
from typing import Any

from comfy_client.errors import TransportError
from comfy_client.events import Event
from comfy_client.testing import ComfyServer, Request
from comfy_client.timing import Timing
from comfy_client.transport.dial import DialPlan
from comfy_client.transport.websocket import Connection, State
from tests.helpers.clients import LIMIT

#: Times after which a busy machine has long done its work.
PATIENT = Timing(dial=10 * LIMIT, ping=10 * LIMIT, dead=10 * LIMIT, poll=10 * LIMIT)


class Owner:
    """A handler that notes what it is told, and how to dial."""

    def __init__(self, url: str, headers: dict[str, str] | None = None) -> None:
        self.plan = DialPlan(url.replace("http", "ws") + "/ws?clientId=me", headers or {})
        self.plans = 0
        self.received: list[Event] = []
        self.events: list[Any] = []
        self.polls: list[float] = []
        self.poll_error: Exception | None = TransportError("HTTP is down")
        self.renewals = 0

    def dial(self, client_id: str) -> DialPlan:
        self.plans += 1
        return self.plan

    def handle(self, event: Event) -> None:
        self.received.append(event)

    def skipped(self) -> None:
        pass

    def connection_changed(self, event: Event) -> None:
        self.events.append(event)

    def poll_queue(self) -> None:
        self.polls.append(time.monotonic())
        if self.poll_error is not None:
            raise self.poll_error

    def client_id_changed(self) -> None:
        self.renewals += 1

    def names(self, *wanted: str) -> list[str]:
        return [e.name for e in self.events if not wanted or e.name in wanted]


def connection_of(owner: Owner, **options: Any) -> Connection:
    """One that keeps its handler no more alive than a client is."""
    known = weakref.ref(owner)

    def plan(client_id: str) -> DialPlan:
        found = known()
        assert found is not None
        return found.dial(client_id)

    return Connection(owner, plan, "me", **options)


Make = Callable[..., tuple[Owner, Connection]]


def upgraded(comfy: ComfyServer, request: Request, more: bytes = b"") -> None:
    """Answer the handshake, with these bytes in the same packet."""
    status, headers, _ = comfy.answer(request)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request.socket.sendall(f"HTTP/1.1 {status} Ok\r\n{lines}\r\n".encode() + more)


def drips(start: bytes) -> Callable[[Request], None]:
    """The beginning of an answer, and then a byte now and then."""

    def dripping(request: Request) -> None:
        with contextlib.suppress(OSError):
            request.socket.sendall(start)
            while True:
                request.socket.sendall(b"x")
                time.sleep(0.01)

    return dripping


def stops_quickly(link: Connection) -> None:
    """Stop it, and see its thread end long before any time of ``PATIENT``."""
    link.stop()
    link.join(LIMIT)
    assert link.state is State.CLOSED
