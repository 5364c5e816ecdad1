"""Subscriptions to events: ``on``, ``off``, ``wait_for`` and ``events``, typed by name.

The overloads spell out ``events.CLASSES``, since no type can be computed from a table; a test
holds them equal.  Any other name is of an event that a custom node sends, so a callback may
expect an ``UnknownEvent``; but a ``str`` that is no literal may be any name, so what is
returned for it is an ``Event``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any, Literal, TypeVar, overload

from .event_queue import EventQueue
from .events import (
    ConnectionEvent,
    ErrorEvent,
    Event,
    Executed,
    Executing,
    ExecutionCached,
    ExecutionError,
    ExecutionInterrupted,
    ExecutionStart,
    ExecutionSuccess,
    FeatureFlags,
    JobLostEvent,
    LogsEvent,
    NotificationEvent,
    PreviewEvent,
    Progress,
    ProgressState,
    ProgressText,
    StatusEvent,
    TerminalEvent,
    UnknownEvent,
)
from .signals import Receivers, warn_of_name
from .transport.deadline import check_timeout
from .transport.websocket import Connection

E = TypeVar("E", bound=Event)

#: What is called with an event, and what tells with one whether it is awaited.
To = Callable[[E], object]
If = Callable[[E], object]
Unsubscribe = Callable[[], None]

PreviewName = Literal["b_preview", "b_preview_with_metadata"]
LinkName = Literal[
    "connected", "reconnecting", "reconnected", "disconnected", "websocket_unavailable"
]
ErrorName = Literal[
    "auth_success", "auth_error", "connection_error", "queue_error", "terminal_subscription_error"
]


class Subscriptions:
    """The methods of a client for its events."""

    _receivers: Receivers
    _connection: Connection

    def _check_open(self) -> None:
        """Raise :class:`ClientClosed` after ``close()``."""
        raise NotImplementedError

    @overload
    def on(
        self, name: Literal["all"], callback: To[Event], *, once: bool = False
    ) -> Unsubscribe: ...
    @overload
    def on(
        self, name: Literal["status"], callback: To[StatusEvent], *, once: bool = False
    ) -> Unsubscribe: ...
    @overload
    def on(
        self, name: Literal["execution_start"], callback: To[ExecutionStart], *, once: bool = False
    ) -> Unsubscribe: ...
    @overload
    def on(
        self,
        name: Literal["execution_cached"],
        callback: To[ExecutionCached],
        *,
        once: bool = False,
    ) -> Unsubscribe: ...
    @overload
    def on(
        self, name: Literal["executing"], callback: To[Executing], *, once: bool = False
    ) -> Unsubscribe: ...
    @overload
    def on(
        self, name: Literal["progress"], callback: To[Progress], *, once: bool = False
    ) -> Unsubscribe: ...
    @overload
    def on(
        self, name: Literal["progress_state"], callback: To[ProgressState], *, once: bool = False
    ) -> Unsubscribe: ...
    @overload
    def on(
        self, name: Literal["progress_text"], callback: To[ProgressText], *, once: bool = False
    ) -> Unsubscribe: ...
    @overload
    def on(
        self, name: Literal["executed"], callback: To[Executed], *, once: bool = False
    ) -> Unsubscribe: ...
    @overload
    def on(
        self,
        name: Literal["execution_success"],
        callback: To[ExecutionSuccess],
        *,
        once: bool = False,
    ) -> Unsubscribe: ...
    @overload
    def on(
        self, name: Literal["execution_error"], callback: To[ExecutionError], *, once: bool = False
    ) -> Unsubscribe: ...
    @overload
    def on(
        self,
        name: Literal["execution_interrupted"],
        callback: To[ExecutionInterrupted],
        *,
        once: bool = False,
    ) -> Unsubscribe: ...
    @overload
    def on(
        self, name: Literal["job_lost"], callback: To[JobLostEvent], *, once: bool = False
    ) -> Unsubscribe: ...
    @overload
    def on(
        self, name: PreviewName, callback: To[PreviewEvent], *, once: bool = False
    ) -> Unsubscribe: ...
    @overload
    def on(
        self, name: LinkName, callback: To[ConnectionEvent], *, once: bool = False
    ) -> Unsubscribe: ...
    @overload
    def on(
        self, name: ErrorName, callback: To[ErrorEvent], *, once: bool = False
    ) -> Unsubscribe: ...
    @overload
    def on(
        self, name: Literal["logs"], callback: To[LogsEvent], *, once: bool = False
    ) -> Unsubscribe: ...
    @overload
    def on(
        self, name: Literal["terminal"], callback: To[TerminalEvent], *, once: bool = False
    ) -> Unsubscribe: ...
    @overload
    def on(
        self, name: Literal["feature_flags"], callback: To[FeatureFlags], *, once: bool = False
    ) -> Unsubscribe: ...
    @overload
    def on(
        self, name: Literal["notification"], callback: To[NotificationEvent], *, once: bool = False
    ) -> Unsubscribe: ...
    @overload
    def on(self, name: str, callback: To[UnknownEvent], *, once: bool = False) -> Unsubscribe: ...

    def on(
        self, name: str, callback: Callable[[Any], object], *, once: bool = False
    ) -> Callable[[], None]:
        """Call ``callback(event)`` for each event of that name; starts the event thread.

        The client holds a strong reference to the callback.  Callbacks run in the delivery
        thread, one after the other.

        Example::

            from comfy_client import ComfyApi

            with ComfyApi("http://127.0.0.1:8188") as api:
                off = api.on("progress", lambda event: print(event.value, "/", event.max))
                api.run("txt2img.json")
                off()

        Args:
            name: The name of an event, also of a custom node's; ``all`` for every event.
            callback: Called with one event.
            once: Whether to call it for the first event only.

        Returns:
            A function that unsubscribes the callback.

        Raises:
            TypeError: The callback cannot be called with one event, or is a coroutine function.
            ClientClosed: After :meth:`close`.
        """
        self._check_open()
        warn_of_name(name)
        unsubscribe = self._receivers.on(name, callback, once=once)
        self._connection.start()
        return unsubscribe

    def off(self, name: str, callback: Callable[[Any], object]) -> bool:
        """Unsubscribe a callback of :meth:`on`; False if it was not subscribed."""
        return self._receivers.off(name, callback)

    @overload
    def wait_for(
        self, name: Literal["all"], predicate: If[Event] | None = None, timeout: float | None = None
    ) -> Event: ...
    @overload
    def wait_for(
        self,
        name: Literal["status"],
        predicate: If[StatusEvent] | None = None,
        timeout: float | None = None,
    ) -> StatusEvent: ...
    @overload
    def wait_for(
        self,
        name: Literal["execution_start"],
        predicate: If[ExecutionStart] | None = None,
        timeout: float | None = None,
    ) -> ExecutionStart: ...
    @overload
    def wait_for(
        self,
        name: Literal["execution_cached"],
        predicate: If[ExecutionCached] | None = None,
        timeout: float | None = None,
    ) -> ExecutionCached: ...
    @overload
    def wait_for(
        self,
        name: Literal["executing"],
        predicate: If[Executing] | None = None,
        timeout: float | None = None,
    ) -> Executing: ...
    @overload
    def wait_for(
        self,
        name: Literal["progress"],
        predicate: If[Progress] | None = None,
        timeout: float | None = None,
    ) -> Progress: ...
    @overload
    def wait_for(
        self,
        name: Literal["progress_state"],
        predicate: If[ProgressState] | None = None,
        timeout: float | None = None,
    ) -> ProgressState: ...
    @overload
    def wait_for(
        self,
        name: Literal["progress_text"],
        predicate: If[ProgressText] | None = None,
        timeout: float | None = None,
    ) -> ProgressText: ...
    @overload
    def wait_for(
        self,
        name: Literal["executed"],
        predicate: If[Executed] | None = None,
        timeout: float | None = None,
    ) -> Executed: ...
    @overload
    def wait_for(
        self,
        name: Literal["execution_success"],
        predicate: If[ExecutionSuccess] | None = None,
        timeout: float | None = None,
    ) -> ExecutionSuccess: ...
    @overload
    def wait_for(
        self,
        name: Literal["execution_error"],
        predicate: If[ExecutionError] | None = None,
        timeout: float | None = None,
    ) -> ExecutionError: ...
    @overload
    def wait_for(
        self,
        name: Literal["execution_interrupted"],
        predicate: If[ExecutionInterrupted] | None = None,
        timeout: float | None = None,
    ) -> ExecutionInterrupted: ...
    @overload
    def wait_for(
        self,
        name: Literal["job_lost"],
        predicate: If[JobLostEvent] | None = None,
        timeout: float | None = None,
    ) -> JobLostEvent: ...
    @overload
    def wait_for(
        self,
        name: PreviewName,
        predicate: If[PreviewEvent] | None = None,
        timeout: float | None = None,
    ) -> PreviewEvent: ...
    @overload
    def wait_for(
        self,
        name: LinkName,
        predicate: If[ConnectionEvent] | None = None,
        timeout: float | None = None,
    ) -> ConnectionEvent: ...
    @overload
    def wait_for(
        self, name: ErrorName, predicate: If[ErrorEvent] | None = None, timeout: float | None = None
    ) -> ErrorEvent: ...
    @overload
    def wait_for(
        self,
        name: Literal["logs"],
        predicate: If[LogsEvent] | None = None,
        timeout: float | None = None,
    ) -> LogsEvent: ...
    @overload
    def wait_for(
        self,
        name: Literal["terminal"],
        predicate: If[TerminalEvent] | None = None,
        timeout: float | None = None,
    ) -> TerminalEvent: ...
    @overload
    def wait_for(
        self,
        name: Literal["feature_flags"],
        predicate: If[FeatureFlags] | None = None,
        timeout: float | None = None,
    ) -> FeatureFlags: ...
    @overload
    def wait_for(
        self,
        name: Literal["notification"],
        predicate: If[NotificationEvent] | None = None,
        timeout: float | None = None,
    ) -> NotificationEvent: ...
    @overload
    def wait_for(
        self, name: str, predicate: If[UnknownEvent] | None = None, timeout: float | None = None
    ) -> Event: ...

    def wait_for(
        self,
        name: str,
        predicate: Callable[[Any], object] | None = None,
        timeout: float | None = None,
    ) -> Event:
        """Block until an event of that name comes (and ``predicate(event)`` is true).

        After ``timeout`` seconds it raises ``TimeoutError``; ``None``: no limit.  Only events
        after this call count.  Raises :class:`ClientClosed` if the client is closed, and
        ``TypeError`` for a predicate that cannot be called.
        """
        self._check_open()
        if not (predicate is None or callable(predicate)):
            raise TypeError(
                f"predicate is called with an event: {predicate!r}; timeout is the third"
            )
        check_timeout(timeout)
        warn_of_name(name)
        queue = self._receivers.subscribe(name)
        self._connection.start()
        event = self._receivers.wait_for(queue, predicate, timeout)
        if event is None:
            self._check_open()
            raise TimeoutError(f"no event {name!r} within {timeout or 0:g} s")
        return event

    @overload
    def events(self, name: Literal["all"] = "all") -> Iterator[Event]: ...
    @overload
    def events(self, name: Literal["status"]) -> Iterator[StatusEvent]: ...
    @overload
    def events(self, name: Literal["execution_start"]) -> Iterator[ExecutionStart]: ...
    @overload
    def events(self, name: Literal["execution_cached"]) -> Iterator[ExecutionCached]: ...
    @overload
    def events(self, name: Literal["executing"]) -> Iterator[Executing]: ...
    @overload
    def events(self, name: Literal["progress"]) -> Iterator[Progress]: ...
    @overload
    def events(self, name: Literal["progress_state"]) -> Iterator[ProgressState]: ...
    @overload
    def events(self, name: Literal["progress_text"]) -> Iterator[ProgressText]: ...
    @overload
    def events(self, name: Literal["executed"]) -> Iterator[Executed]: ...
    @overload
    def events(self, name: Literal["execution_success"]) -> Iterator[ExecutionSuccess]: ...
    @overload
    def events(self, name: Literal["execution_error"]) -> Iterator[ExecutionError]: ...
    @overload
    def events(self, name: Literal["execution_interrupted"]) -> Iterator[ExecutionInterrupted]: ...
    @overload
    def events(self, name: Literal["job_lost"]) -> Iterator[JobLostEvent]: ...
    @overload
    def events(self, name: PreviewName) -> Iterator[PreviewEvent]: ...
    @overload
    def events(self, name: LinkName) -> Iterator[ConnectionEvent]: ...
    @overload
    def events(self, name: ErrorName) -> Iterator[ErrorEvent]: ...
    @overload
    def events(self, name: Literal["logs"]) -> Iterator[LogsEvent]: ...
    @overload
    def events(self, name: Literal["terminal"]) -> Iterator[TerminalEvent]: ...
    @overload
    def events(self, name: Literal["feature_flags"]) -> Iterator[FeatureFlags]: ...
    @overload
    def events(self, name: Literal["notification"]) -> Iterator[NotificationEvent]: ...
    @overload
    def events(self, name: str) -> Iterator[Event]: ...

    def events(self, name: str = "all") -> Iterator[Any]:
        """Yield all events of that name from now on; ends when the client is closed.

        Events wait for a slow loop: of many previews and progress events of a node, only the
        newest is kept.  At most 10,000 events wait, and 192 MiB for all loops and receivers
        together; beyond that the oldest are dropped, end events of our prompts last.
        ``dropped_events`` counts them.
        """
        return self._follow(self._subscribe(name))

    def _subscribe(self, name: str) -> EventQueue:
        self._check_open()
        warn_of_name(name)
        queue = self._receivers.subscribe(name)
        self._connection.start()
        return queue

    def _follow(self, queue: EventQueue) -> Iterator[Any]:
        """Yield from an iterator; the generator keeps the client alive."""
        yield from self._receivers.events(queue)

    def _poll(self, queue: EventQueue) -> Generator[Event | None]:
        """Yield what is there, without waiting."""
        yield from self._receivers.poll(queue, 0)


def poll(api: Subscriptions, name: str, notify: Callable[[], object]) -> Generator[Event | None]:
    """Yield as :meth:`Subscriptions.events` does, but never wait: ``None`` without an event.

    ``notify`` is called, in any thread, when it is time to ask again; it must be quick.
    """
    queue = api._subscribe(name)
    queue.notify = notify
    return api._poll(queue)
