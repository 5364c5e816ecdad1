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
        MonitorEvent,
        NotificationEvent,
        PreviewEvent,
        Progress,
        ProgressState,
        ProgressText,
        StatusEvent,
        TerminalEvent,
        UnknownEvent,
    )

Expected = TypeVar("Expected", bound="Event")

Callback = Callable[[Expected], object]
Test = Callable[[Expected], object] | None
Timeout = float | None
Unsubscribe = Callable[[], None]

# Names that keep the lines below short.
StartName = Literal["execution_start"]
CachedName = Literal["execution_cached"]
StateName = Literal["progress_state"]
TextName = Literal["progress_text"]
SuccessName = Literal["execution_success"]
FailureName = Literal["execution_error"]
InterruptName = Literal["execution_interrupted"]
LostName = Literal["job_lost"]
PreviewName = Literal["b_preview", "b_preview_with_metadata"]
LinkName = Literal[
    "connected", "reconnecting", "reconnected", "disconnected", "websocket_unavailable"
]
ErrorName = Literal[
    "auth_success", "auth_error", "connection_error", "queue_error", "terminal_subscription_error"
]
TerminalName = Literal["terminal"]
FlagsName = Literal["feature_flags"]
NotificationName = Literal["notification"]


# fmt: off
class On(Protocol):
    """Overloads of :meth:`ComfyApi.on`."""

    @overload
    def __call__(self, name: Literal["all"], callback: Callback[Event], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: Literal["status"], callback: Callback[StatusEvent], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: StartName, callback: Callback[ExecutionStart], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: CachedName, callback: Callback[ExecutionCached], *, once: bool = False) -> Unsubscribe: ...
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
    def __call__(self, name: SuccessName, callback: Callback[ExecutionSuccess], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: FailureName, callback: Callback[ExecutionError], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: InterruptName, callback: Callback[ExecutionInterrupted], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: LostName, callback: Callback[JobLostEvent], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: PreviewName, callback: Callback[PreviewEvent], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: LinkName, callback: Callback[ConnectionEvent], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: ErrorName, callback: Callback[ErrorEvent], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: Literal["logs"], callback: Callback[LogsEvent], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: TerminalName, callback: Callback[TerminalEvent], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: FlagsName, callback: Callback[FeatureFlags], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: NotificationName, callback: Callback[NotificationEvent], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: Literal["monitor"], callback: Callback[MonitorEvent], *, once: bool = False) -> Unsubscribe: ...
    @overload
    def __call__(self, name: str, callback: Callback[UnknownEvent], *, once: bool = False) -> Unsubscribe: ...


class WaitFor(Protocol):
    """Overloads of :meth:`ComfyApi.wait_for`."""

    @overload
    def __call__(self, name: Literal["all"], predicate: Test[Event] = None, timeout: Timeout = None) -> Event: ...
    @overload
    def __call__(self, name: Literal["status"], predicate: Test[StatusEvent] = None, timeout: Timeout = None) -> StatusEvent: ...
    @overload
    def __call__(self, name: StartName, predicate: Test[ExecutionStart] = None, timeout: Timeout = None) -> ExecutionStart: ...
    @overload
    def __call__(self, name: CachedName, predicate: Test[ExecutionCached] = None, timeout: Timeout = None) -> ExecutionCached: ...
    @overload
    def __call__(self, name: Literal["executing"], predicate: Test[Executing] = None, timeout: Timeout = None) -> Executing: ...
    @overload
    def __call__(self, name: Literal["progress"], predicate: Test[Progress] = None, timeout: Timeout = None) -> Progress: ...
    @overload
    def __call__(self, name: StateName, predicate: Test[ProgressState] = None, timeout: Timeout = None) -> ProgressState: ...
    @overload
    def __call__(self, name: TextName, predicate: Test[ProgressText] = None, timeout: Timeout = None) -> ProgressText: ...
    @overload
    def __call__(self, name: Literal["executed"], predicate: Test[Executed] = None, timeout: Timeout = None) -> Executed: ...
    @overload
    def __call__(self, name: SuccessName, predicate: Test[ExecutionSuccess] = None, timeout: Timeout = None) -> ExecutionSuccess: ...
    @overload
    def __call__(self, name: FailureName, predicate: Test[ExecutionError] = None, timeout: Timeout = None) -> ExecutionError: ...
    @overload
    def __call__(self, name: InterruptName, predicate: Test[ExecutionInterrupted] = None, timeout: Timeout = None) -> ExecutionInterrupted: ...
    @overload
    def __call__(self, name: LostName, predicate: Test[JobLostEvent] = None, timeout: Timeout = None) -> JobLostEvent: ...
    @overload
    def __call__(self, name: PreviewName, predicate: Test[PreviewEvent] = None, timeout: Timeout = None) -> PreviewEvent: ...
    @overload
    def __call__(self, name: LinkName, predicate: Test[ConnectionEvent] = None, timeout: Timeout = None) -> ConnectionEvent: ...
    @overload
    def __call__(self, name: ErrorName, predicate: Test[ErrorEvent] = None, timeout: Timeout = None) -> ErrorEvent: ...
    @overload
    def __call__(self, name: Literal["logs"], predicate: Test[LogsEvent] = None, timeout: Timeout = None) -> LogsEvent: ...
    @overload
    def __call__(self, name: TerminalName, predicate: Test[TerminalEvent] = None, timeout: Timeout = None) -> TerminalEvent: ...
    @overload
    def __call__(self, name: FlagsName, predicate: Test[FeatureFlags] = None, timeout: Timeout = None) -> FeatureFlags: ...
    @overload
    def __call__(self, name: NotificationName, predicate: Test[NotificationEvent] = None, timeout: Timeout = None) -> NotificationEvent: ...
    @overload
    def __call__(self, name: Literal["monitor"], predicate: Test[MonitorEvent] = None, timeout: Timeout = None) -> MonitorEvent: ...
    @overload
    def __call__(self, name: str, predicate: Test[UnknownEvent] = None, timeout: Timeout = None) -> Event: ...


class Events(Protocol):
    """Overloads of :meth:`ComfyApi.events`."""

    @overload
    def __call__(self, name: Literal["all"] = "all") -> Iterator[Event]: ...
    @overload
    def __call__(self, name: Literal["status"]) -> Iterator[StatusEvent]: ...
    @overload
    def __call__(self, name: StartName) -> Iterator[ExecutionStart]: ...
    @overload
    def __call__(self, name: CachedName) -> Iterator[ExecutionCached]: ...
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
    def __call__(self, name: SuccessName) -> Iterator[ExecutionSuccess]: ...
    @overload
    def __call__(self, name: FailureName) -> Iterator[ExecutionError]: ...
    @overload
    def __call__(self, name: InterruptName) -> Iterator[ExecutionInterrupted]: ...
    @overload
    def __call__(self, name: LostName) -> Iterator[JobLostEvent]: ...
    @overload
    def __call__(self, name: PreviewName) -> Iterator[PreviewEvent]: ...
    @overload
    def __call__(self, name: LinkName) -> Iterator[ConnectionEvent]: ...
    @overload
    def __call__(self, name: ErrorName) -> Iterator[ErrorEvent]: ...
    @overload
    def __call__(self, name: Literal["logs"]) -> Iterator[LogsEvent]: ...
    @overload
    def __call__(self, name: TerminalName) -> Iterator[TerminalEvent]: ...
    @overload
    def __call__(self, name: FlagsName) -> Iterator[FeatureFlags]: ...
    @overload
    def __call__(self, name: NotificationName) -> Iterator[NotificationEvent]: ...
    @overload
    def __call__(self, name: Literal["monitor"]) -> Iterator[MonitorEvent]: ...
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
