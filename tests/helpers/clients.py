"""What a client announces, and helpers to look at its connections."""

from __future__ import annotations

import gc
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from comfy_client import ComfyApi
from comfy_client.timing import Timing

T = TypeVar("T")

#: Patience that makes faults quick to see.
FAST = Timing(dial=2.0, ping=0.2, dead=2.0, poll=0.1, pause=0.05, cap=0.3)


class Quick(ComfyApi):
    timing = FAST


class Impatient(ComfyApi):
    """Reconnects soon."""

    timing = Timing(pause=0.05, cap=0.5)


class Heard:
    """Every event of a client from now on, in order; starts nothing."""

    def __init__(self, api: ComfyApi) -> None:
        self.events: list[Any] = []
        api._receivers.flush(5.0)  # what happened before may still be on its way
        self.forget = api._receivers.on("all", self.events.append, once=False)

    def __call__(self, name: str) -> list[Any]:
        return [event for event in self.events if event.name == name]

    @property
    def links(self) -> list[str]:
        """The names of what happened to the connection, without the attempts."""
        kept = ("connected", "reconnected", "disconnected", "websocket_unavailable")
        return [event.name for event in self.events if event.name in kept]


def outstanding(api: ComfyApi) -> list[Any]:
    """The jobs that have not ended."""
    return [one.waiters[0] for one in api._tracker.outstanding]


def until(found: Callable[[], T], timeout: float = 60.0) -> T:
    """Wait until something is true, and return it; AssertionError after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not (value := found()):
        assert time.monotonic() < end, f"did not come true within {timeout} s"
        time.sleep(0.01)
    return value


def open_sockets(port: int) -> list[socket.socket]:
    """The sockets of this process that are connected to a port of this machine."""
    gc.collect()
    found = []
    for item in gc.get_objects():
        if isinstance(item, socket.socket) and item.fileno() != -1:
            try:
                peer = item.getpeername()
            except OSError:
                continue
            if peer[1:2] == (port,):
                found.append(item)
    return found


def threads() -> list[threading.Thread]:
    """The threads of all clients."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("comfy-")]


def exception_of(call: Callable[[], object], timeout: float = 5.0) -> BaseException | None:
    """What a call in a thread of its own raises; it must end in time."""
    caught: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as exc:
            caught.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(timeout)
    assert not thread.is_alive()
    return caught[0] if caught else None
