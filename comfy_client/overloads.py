"""Types of a client's methods ``on``, ``wait_for`` and ``events``, by the event's name.

The overloads spell out ``events.CLASSES``, since a type cannot be computed from a table; a test
checks that they agree.  Any other literal name belongs to a custom node, so a callback may expect
an ``UnknownEvent``; a ``str`` that is not a literal may be any name, so its result is an ``Event``.

Each decorator gives a method its overloads for type checkers only: ``help()`` shows the method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast, overload

if TYPE_CHECKING:  # nobody reads these types at run time
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

E = TypeVar("E", bound="Event")

Callback = Callable[[E], object]
Test = Callable[[E], object] | None
Seconds = float | None
Unsubscribe = Callable[[], None]

# Names that keep the lines below short.
Start = Literal["execution_start"]
Cached = Literal["execution_cached"]
StateName = Literal["progress_state"]
TextName = Literal["progress_text"]
Success = Literal["execution_success"]
Failed = Literal["execution_error"]
Interrupt = Literal["execution_interrupted"]
Lost = Literal["job_lost"]
PreviewName = Literal["b_preview", "b_preview_with_metadata"]
LinkName = Literal[
    "connected", "reconnecting", "reconnected", "disconnected", "websocket_unavailable"
]
ErrorName = Literal[
    "auth_success", "auth_error", "connection_error", "queue_error", "terminal_subscription_error"
]
Terminal = Literal["terminal"]
Flags = Literal["feature_flags"]
Notification = Literal["notification"]


# fmt: off
class On(Protocol):
    """Overloads of :meth:`ComfyApi.on`."""

    @overload
    def __call__(self, name: Literal["all"], callback: Callback[Event], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: Literal["status"], callback: Callback[StatusEvent], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: Start, callback: Callback[ExecutionStart], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: Cached, callback: Callback[ExecutionCached], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: Literal["executing"], callback: Callback[Executing], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: Literal["progress"], callback: Callback[Progress], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: StateName, callback: Callback[ProgressState], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: TextName, callback: Callback[ProgressText], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: Literal["executed"], callback: Callback[Executed], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: Success, callback: Callback[ExecutionSuccess], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: Failed, callback: Callback[ExecutionError], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: Interrupt, callback: Callback[ExecutionInterrupted], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: Lost, callback: Callback[JobLostEvent], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: PreviewName, callback: Callback[PreviewEvent], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: LinkName, callback: Callback[ConnectionEvent], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: ErrorName, callback: Callback[ErrorEvent], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: Literal["logs"], callback: Callback[LogsEvent], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: Terminal, callback: Callback[TerminalEvent], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: Flags, callback: Callback[FeatureFlags], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: Notification, callback: Callback[NotificationEvent], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: str, callback: Callback[UnknownEvent], *, once: bool = False) -> Unsubscribe: ...


class WaitFor(Protocol):
    """Overloads of :meth:`ComfyApi.wait_for`."""

    @overload
    def __call__(self, name: Literal["all"], predicate: Test[Event] = None, timeout: Seconds = None) -> Event: ...
    @overload
    def __call__(self, name: Literal["status"], predicate: Test[StatusEvent] = None, timeout: Seconds = None) -> StatusEvent: ...
    @overload
    def __call__(self, name: Start, predicate: Test[ExecutionStart] = None, timeout: Seconds = None) -> ExecutionStart: ...
    @overload
    def __call__(self, name: Cached, predicate: Test[ExecutionCached] = None, timeout: Seconds = None) -> ExecutionCached: ...
    @overload
    def __call__(self, name: Literal["executing"], predicate: Test[Executing] = None, timeout: Seconds = None) -> Executing: ...
    @overload
    def __call__(self, name: Literal["progress"], predicate: Test[Progress] = None, timeout: Seconds = None) -> Progress: ...
    @overload
    def __call__(self, name: StateName, predicate: Test[ProgressState] = None, timeout: Seconds = None) -> ProgressState: ...
    @overload
    def __call__(self, name: TextName, predicate: Test[ProgressText] = None, timeout: Seconds = None) -> ProgressText: ...
    @overload
    def __call__(self, name: Literal["executed"], predicate: Test[Executed] = None, timeout: Seconds = None) -> Executed: ...
    @overload
    def __call__(self, name: Success, predicate: Test[ExecutionSuccess] = None, timeout: Seconds = None) -> ExecutionSuccess: ...
    @overload
    def __call__(self, name: Failed, predicate: Test[ExecutionError] = None, timeout: Seconds = None) -> ExecutionError: ...
    @overload
    def __call__(self, name: Interrupt, predicate: Test[ExecutionInterrupted] = None, timeout: Seconds = None) -> ExecutionInterrupted: ...
    @overload
    def __call__(self, name: Lost, predicate: Test[JobLostEvent] = None, timeout: Seconds = None) -> JobLostEvent: ...
    @overload
    def __call__(self, name: PreviewName, predicate: Test[PreviewEvent] = None, timeout: Seconds = None) -> PreviewEvent: ...
    @overload
    def __call__(self, name: LinkName, predicate: Test[ConnectionEvent] = None, timeout: Seconds = None) -> ConnectionEvent: ...
    @overload
    def __call__(self, name: ErrorName, predicate: Test[ErrorEvent] = None, timeout: Seconds = None) -> ErrorEvent: ...
    @overload
    def __call__(self, name: Literal["logs"], predicate: Test[LogsEvent] = None, timeout: Seconds = None) -> LogsEvent: ...
    @overload
    def __call__(self, name: Terminal, predicate: Test[TerminalEvent] = None, timeout: Seconds = None) -> TerminalEvent: ...
    @overload
    def __call__(self, name: Flags, predicate: Test[FeatureFlags] = None, timeout: Seconds = None) -> FeatureFlags: ...
    @overload
    def __call__(self, name: Notification, predicate: Test[NotificationEvent] = None, timeout: Seconds = None) -> NotificationEvent: ...
    @overload
    def __call__(self, name: str, predicate: Test[UnknownEvent] = None, timeout: Seconds = None) -> Event: ...


class Events(Protocol):
    """Overloads of :meth:`ComfyApi.events`."""

    @overload
    def __call__(self, name: Literal["all"] = "all") -> Iterator[Event]: ...
    @overload
    def __call__(self, name: Literal["status"]) -> Iterator[StatusEvent]: ...
    @overload
    def __call__(self, name: Start) -> Iterator[ExecutionStart]: ...
    @overload
    def __call__(self, name: Cached) -> Iterator[ExecutionCached]: ...
    @overload
    def __call__(self, name: Literal["executing"]) -> Iterator[Executing]: ...
    @overload
    def __call__(self, name: Literal["progress"]) -> Iterator[Progress]: ...
    @overload
    def __call__(self, name: StateName) -> Iterator[ProgressState]: ...
    @overload
    def __call__(self, name: TextName) -> Iterator[ProgressText]: ...
    @overload
    def __call__(self, name: Literal["executed"]) -> Iterator[Executed]: ...
    @overload
    def __call__(self, name: Success) -> Iterator[ExecutionSuccess]: ...
    @overload
    def __call__(self, name: Failed) -> Iterator[ExecutionError]: ...
    @overload
    def __call__(self, name: Interrupt) -> Iterator[ExecutionInterrupted]: ...
    @overload
    def __call__(self, name: Lost) -> Iterator[JobLostEvent]: ...
    @overload
    def __call__(self, name: PreviewName) -> Iterator[PreviewEvent]: ...
    @overload
    def __call__(self, name: LinkName) -> Iterator[ConnectionEvent]: ...
    @overload
    def __call__(self, name: ErrorName) -> Iterator[ErrorEvent]: ...
    @overload
    def __call__(self, name: Literal["logs"]) -> Iterator[LogsEvent]: ...
    @overload
    def __call__(self, name: Terminal) -> Iterator[TerminalEvent]: ...
    @overload
    def __call__(self, name: Flags) -> Iterator[FeatureFlags]: ...
    @overload
    def __call__(self, name: Notification) -> Iterator[NotificationEvent]: ...
    @overload
    def __call__(self, name: str) -> Iterator[Event]: ...


# fmt: on
def typed_on(method: Callable[..., Unsubscribe]) -> On:
    """Return the method ``on`` as it is, typed with its overloads."""
    return cast(On, method)


def typed_wait_for(method: Callable[..., Event]) -> WaitFor:
    """Return the method ``wait_for`` as it is, typed with its overloads."""
    return cast(WaitFor, method)


def typed_events(method: Callable[..., Iterator[Any]]) -> Events:
    """Return the method ``events`` as it is, typed with its overloads."""
    return cast(Events, method)
