"""Records of requests, messages and prompts that a server has received, for tests to read."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import attrs

from ..values import T
from .wire import Request


@attrs.define
class Ran:
    """A prompt that the server has started to run, or whose script it has started to play.

    Attributes:
        prompt_id: The id of the prompt.
        client_id: The id of the client that submitted it; ``None``: the client gave none.
        extra_data: What was submitted with the workflow, without secrets.
        status: ``"success"`` or ``"error"``, as in history; ``None``: it has not ended.
    """

    prompt_id: str
    client_id: str | None
    extra_data: Mapping[str, Any] = attrs.field(repr=False)
    status: str | None = None

    @property
    def mark(self) -> str | None:
        """The id that ``comfy_client`` chose for the prompt, or None for another client's prompt.

        ``prompt_id`` differs from it if the server chose another one.
        """
        return self.extra_data.get("comfy_client_prompt_id")


@attrs.define(eq=False)
class Records:
    """Bounded lists of what happened, kept across restarts; any thread may read them.

    :class:`~comfy_client.testing.ComfyServer` describes them.
    """

    requests: list[Request] = attrs.field(factory=list)
    #: Of requests.
    numbers: itertools.count[int] = attrs.field(factory=lambda: itertools.count(1))
    connections: int = 0
    handshakes: list[Mapping[str, str]] = attrs.field(factory=list)
    hellos: list[str] = attrs.field(factory=list)
    first_messages: list[Any] = attrs.field(factory=list)
    messages: list[Any] = attrs.field(factory=list)
    pings: int = 0
    ran: list[Ran] = attrs.field(factory=list)
    errors: list[BaseException] = attrs.field(factory=list)
    max_requests: int = 10_000
    max_bytes: int = 64 * 2**20  # bytes of all bodies
    max_others: int = 100_000  # items of each other list
    _bytes: int = attrs.field(default=0, init=False)
    #: Guards the above; notified of each change.
    _changed: threading.Condition = attrs.field(factory=threading.Condition, init=False)

    def keep(self, kept: list[T], item: T) -> None:
        """Append an item to a list, and notify waiters."""
        with self._changed:
            kept.append(item)
            if len(kept) > self.max_others:
                del kept[: self.max_others // 10]
            self._changed.notify_all()

    def keep_request(self, request: Request) -> None:
        """Append a request, and drop the oldest ones beyond the limits."""
        with self._changed:
            self.requests.append(request)
            self._bytes += len(request.body)
            if self._bytes > self.max_bytes or len(self.requests) > self.max_requests:
                self._bytes = sum(len(one.body) for one in self.requests)
                while len(self.requests) > self.max_requests or (
                    self._bytes > self.max_bytes and len(self.requests) > 1
                ):
                    self._bytes -= len(self.requests.pop(0).body)
            self._changed.notify_all()

    def clear(self) -> None:
        """Forget everything; the numbers of requests begin with 1 again."""
        with self._changed:
            for kept in (self.requests, self.handshakes, self.hellos, self.first_messages):
                kept.clear()
            for others in (self.messages, self.ran, self.errors):
                others.clear()
            self.numbers = itertools.count(1)
            self.connections = self.pings = self._bytes = 0
            self._changed.notify_all()

    def count(self, what: Literal["connections", "pings"]) -> None:
        """Increment the counter ``what``, and notify waiters."""
        with self._changed:
            setattr(self, what, getattr(self, what) + 1)
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Wait up to ``seconds`` seconds for the next change."""
        with self._changed:
            self._changed.wait(seconds)

    def until(self, predicate: Callable[[], object], timeout: float) -> None:
        """Wait until ``predicate()`` is true; raise AssertionError after ``timeout`` seconds."""
        end = time.monotonic() + timeout
        while not predicate():  # outside the lock, as it may query this server
            if time.monotonic() > end:
                raise AssertionError(f"did not come true within {timeout} s")
            self.wait(0.01)
