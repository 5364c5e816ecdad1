"""Subscriptions to a client's events: the work of ``on``, ``wait_for`` and ``events``."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any

from . import runtime
from .errors import ComfyError, TransportError
from .event_queue import EventQueue
from .events import ErrorEvent, Event
from .jobs.execute import Parts
from .signals import Receivers, warn_of_name
from .transport.deadline import check_timeout
from .transport.http import Http
from .transport.websocket import State


def call_back(
    parts: Parts, name: str, callback: Callable[[Any], object], *, once: bool
) -> Callable[[], None]:
    """Register a callback for the events of a name; return a function that unregisters it."""
    parts.check_open()
    warn_of_name(name)
    unsubscribe = parts.receivers.on(name, callback, once=once)
    parts.connection.start()
    return unsubscribe


def wait_for_event(
    parts: Parts, name: str, predicate: Callable[[Any], object] | None, timeout: float | None
) -> Event:
    """Wait for the next event of a name that satisfies the predicate, and return it."""
    parts.check_open()
    if not (predicate is None or callable(predicate)):
        raise TypeError(f"predicate is called with an event: {predicate!r}; timeout is the third")
    check_timeout(timeout)
    event = parts.receivers.wait_for(_subscribe(parts, name), predicate, timeout)
    if event is None:
        parts.check_open()
        raise TimeoutError(f"no event {name!r} within {timeout or 0:g} s")
    return event


def iterate(owner: object, parts: Parts, name: str) -> Iterator[Any]:
    """Yield the events of a name from now on; the iterator keeps the owner alive."""
    return _keeping(owner, parts.receivers.events(_subscribe(parts, name)))


def poll(
    owner: object, parts: Parts, name: str, notify: Callable[[], object]
) -> Generator[Event | None]:
    """Yield events as :func:`iterate` does, but never wait: yield ``None`` without an event.

    ``notify`` is called, in any thread, when an event may have come; it must be quick.
    """
    queue = _subscribe(parts, name)
    queue.notify = notify
    return _keeping(owner, parts.receivers.poll(queue, 0))


def _subscribe(parts: Parts, name: str) -> EventQueue:
    parts.check_open()
    warn_of_name(name)
    queue = parts.receivers.subscribe(name)
    parts.connection.start()
    return queue


def _keeping(owner: object, events: Iterator[Any]) -> Generator[Any]:
    """Yield the items of an iterator; the generator keeps the owner alive."""
    yield from events


def subscribe_logs(parts: Parts, *, enabled: bool) -> None:
    """Subscribe to the server's terminal output, or unsubscribe; repeat after each reconnect."""
    parts.check_open()
    http, connection = parts.http, parts.connection
    connection.start()
    # The server forgets the subscription of an id that has no socket.
    state = connection.wait_settled(parts.tracker.timing.settle, or_failed=False)
    try:
        if enabled and state is not State.CONNECTED:
            raise TransportError("logs come over the event socket, and there is none")
        _send_subscription(http, connection.client_id, enabled=enabled)
    except ComfyError as exc:
        parts.receivers.publish(ErrorEvent(name="terminal_subscription_error", error=exc))
        raise
    connection.on_reconnect = partial(_renew, http, parts.receivers) if enabled else None


def _send_subscription(http: Http, client_id: str, *, enabled: bool) -> None:
    wanted = {"clientId": client_id, "enabled": enabled}
    http.send_command("PATCH", "/internal/logs/subscribe", json=wanted)


def _renew(http: Http, receivers: Receivers, client_id: str) -> None:
    """Subscribe to logs again, in another thread, as the event thread sends no requests."""

    def renew() -> None:
        try:
            _send_subscription(http, client_id, enabled=True)
        except ComfyError as exc:
            receivers.publish(ErrorEvent(name="terminal_subscription_error", error=exc))

    runtime.Thread(target=renew, name="comfy-logs", daemon=True).start()
