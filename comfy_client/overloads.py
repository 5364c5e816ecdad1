"""Types of a client's methods ``on``, ``wait_for`` and ``events``, by the event's name.

The overloads spell out ``events.CLASSES``, since a type cannot be computed from a table; a test
checks that they agree.  Any other literal name belongs to a custom node, so a callback may expect
an ``UnknownEvent``; a ``str`` that is not a literal may be any name, so its result is an ``Event``.

Each decorator gives a method its overloads for type checkers only: ``help()`` shows the method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol, TypeVar, cast, overload

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

E = TypeVar("E", bound=Event)

Callback = Callable[[E], object]
Predicate = Callable[[E], object]
Unsubscribe = Callable[[], None]

PreviewName = Literal["b_preview", "b_preview_with_metadata"]
LinkName = Literal[
    "connected", "reconnecting", "reconnected", "disconnected", "websocket_unavailable"
]
ErrorName = Literal[
    "auth_success", "auth_error", "connection_error", "queue_error", "terminal_subscription_error"
]


class On(Protocol):
    """Overloads of :meth:`ComfyApi.on`."""

    @overload
    def __call__(
        self, name: Literal["all"], callback: Callback[Event], *, once: bool = False
    ) -> Unsubscribe: ...
    @overload
    def __call__(
        self, name: Literal["status"], callback: Callback[StatusEvent], *, once: bool = False
    ) -> Unsubscribe: ...
    @overload
    def __call__(
        self,
        name: Literal["execution_start"],
        callback: Callback[ExecutionStart],
        *,
        once: bool = False,
    ) -> Unsubscribe: ...
    @overload
    def __call__(
        self,
        name: Literal["execution_cached"],
        callback: Callback[ExecutionCached],
        *,
        once: bool = False,
    ) -> Unsubscribe: ...
    @overload
    def __call__(
        self, name: Literal["executing"], callback: Callback[Executing], *, once: bool = False
    ) -> Unsubscribe: ...
    @overload
    def __call__(
        self, name: Literal["progress"], callback: Callback[Progress], *, once: bool = False
    ) -> Unsubscribe: ...
    @overload
    def __call__(
        self,
        name: Literal["progress_state"],
        callback: Callback[ProgressState],
        *,
        once: bool = False,
    ) -> Unsubscribe: ...
    @overload
    def __call__(
        self,
        name: Literal["progress_text"],
        callback: Callback[ProgressText],
        *,
        once: bool = False,
    ) -> Unsubscribe: ...
    @overload
    def __call__(
        self, name: Literal["executed"], callback: Callback[Executed], *, once: bool = False
    ) -> Unsubscribe: ...
    @overload
    def __call__(
        self,
        name: Literal["execution_success"],
        callback: Callback[ExecutionSuccess],
        *,
        once: bool = False,
    ) -> Unsubscribe: ...
    @overload
    def __call__(
        self,
        name: Literal["execution_error"],
        callback: Callback[ExecutionError],
        *,
        once: bool = False,
    ) -> Unsubscribe: ...
    @overload
    def __call__(
        self,
        name: Literal["execution_interrupted"],
        callback: Callback[ExecutionInterrupted],
        *,
        once: bool = False,
    ) -> Unsubscribe: ...
    @overload
    def __call__(
        self, name: Literal["job_lost"], callback: Callback[JobLostEvent], *, once: bool = False
    ) -> Unsubscribe: ...
    @overload
    def __call__(
        self, name: PreviewName, callback: Callback[PreviewEvent], *, once: bool = False
    ) -> Unsubscribe: ...
    @overload
    def __call__(
        self, name: LinkName, callback: Callback[ConnectionEvent], *, once: bool = False
    ) -> Unsubscribe: ...
    @overload
    def __call__(
        self, name: ErrorName, callback: Callback[ErrorEvent], *, once: bool = False
    ) -> Unsubscribe: ...
    @overload
    def __call__(
        self, name: Literal["logs"], callback: Callback[LogsEvent], *, once: bool = False
    ) -> Unsubscribe: ...
    @overload
    def __call__(
        self, name: Literal["terminal"], callback: Callback[TerminalEvent], *, once: bool = False
    ) -> Unsubscribe: ...
    @overload
    def __call__(
        self,
        name: Literal["feature_flags"],
        callback: Callback[FeatureFlags],
        *,
        once: bool = False,
    ) -> Unsubscribe: ...
    @overload
    def __call__(
        self,
        name: Literal["notification"],
        callback: Callback[NotificationEvent],
        *,
        once: bool = False,
    ) -> Unsubscribe: ...
    @overload
    def __call__(
        self, name: str, callback: Callback[UnknownEvent], *, once: bool = False
    ) -> Unsubscribe: ...


class WaitFor(Protocol):
    """Overloads of :meth:`ComfyApi.wait_for`."""

    @overload
    def __call__(
        self,
        name: Literal["all"],
        predicate: Predicate[Event] | None = None,
        timeout: float | None = None,
    ) -> Event: ...
    @overload
    def __call__(
        self,
        name: Literal["status"],
        predicate: Predicate[StatusEvent] | None = None,
        timeout: float | None = None,
    ) -> StatusEvent: ...
    @overload
    def __call__(
        self,
        name: Literal["execution_start"],
        predicate: Predicate[ExecutionStart] | None = None,
        timeout: float | None = None,
    ) -> ExecutionStart: ...
    @overload
    def __call__(
        self,
        name: Literal["execution_cached"],
        predicate: Predicate[ExecutionCached] | None = None,
        timeout: float | None = None,
    ) -> ExecutionCached: ...
    @overload
    def __call__(
        self,
        name: Literal["executing"],
        predicate: Predicate[Executing] | None = None,
        timeout: float | None = None,
    ) -> Executing: ...
    @overload
    def __call__(
        self,
        name: Literal["progress"],
        predicate: Predicate[Progress] | None = None,
        timeout: float | None = None,
    ) -> Progress: ...
    @overload
    def __call__(
        self,
        name: Literal["progress_state"],
        predicate: Predicate[ProgressState] | None = None,
        timeout: float | None = None,
    ) -> ProgressState: ...
    @overload
    def __call__(
        self,
        name: Literal["progress_text"],
        predicate: Predicate[ProgressText] | None = None,
        timeout: float | None = None,
    ) -> ProgressText: ...
    @overload
    def __call__(
        self,
        name: Literal["executed"],
        predicate: Predicate[Executed] | None = None,
        timeout: float | None = None,
    ) -> Executed: ...
    @overload
    def __call__(
        self,
        name: Literal["execution_success"],
        predicate: Predicate[ExecutionSuccess] | None = None,
        timeout: float | None = None,
    ) -> ExecutionSuccess: ...
    @overload
    def __call__(
        self,
        name: Literal["execution_error"],
        predicate: Predicate[ExecutionError] | None = None,
        timeout: float | None = None,
    ) -> ExecutionError: ...
    @overload
    def __call__(
        self,
        name: Literal["execution_interrupted"],
        predicate: Predicate[ExecutionInterrupted] | None = None,
        timeout: float | None = None,
    ) -> ExecutionInterrupted: ...
    @overload
    def __call__(
        self,
        name: Literal["job_lost"],
        predicate: Predicate[JobLostEvent] | None = None,
        timeout: float | None = None,
    ) -> JobLostEvent: ...
    @overload
    def __call__(
        self,
        name: PreviewName,
        predicate: Predicate[PreviewEvent] | None = None,
        timeout: float | None = None,
    ) -> PreviewEvent: ...
    @overload
    def __call__(
        self,
        name: LinkName,
        predicate: Predicate[ConnectionEvent] | None = None,
        timeout: float | None = None,
    ) -> ConnectionEvent: ...
    @overload
    def __call__(
        self,
        name: ErrorName,
        predicate: Predicate[ErrorEvent] | None = None,
        timeout: float | None = None,
    ) -> ErrorEvent: ...
    @overload
    def __call__(
        self,
        name: Literal["logs"],
        predicate: Predicate[LogsEvent] | None = None,
        timeout: float | None = None,
    ) -> LogsEvent: ...
    @overload
    def __call__(
        self,
        name: Literal["terminal"],
        predicate: Predicate[TerminalEvent] | None = None,
        timeout: float | None = None,
    ) -> TerminalEvent: ...
    @overload
    def __call__(
        self,
        name: Literal["feature_flags"],
        predicate: Predicate[FeatureFlags] | None = None,
        timeout: float | None = None,
    ) -> FeatureFlags: ...
    @overload
    def __call__(
        self,
        name: Literal["notification"],
        predicate: Predicate[NotificationEvent] | None = None,
        timeout: float | None = None,
    ) -> NotificationEvent: ...
    @overload
    def __call__(
        self,
        name: str,
        predicate: Predicate[UnknownEvent] | None = None,
        timeout: float | None = None,
    ) -> Event: ...


class Events(Protocol):
    """Overloads of :meth:`ComfyApi.events`."""

    @overload
    def __call__(self, name: Literal["all"] = "all") -> Iterator[Event]: ...
    @overload
    def __call__(self, name: Literal["status"]) -> Iterator[StatusEvent]: ...
    @overload
    def __call__(self, name: Literal["execution_start"]) -> Iterator[ExecutionStart]: ...
    @overload
    def __call__(self, name: Literal["execution_cached"]) -> Iterator[ExecutionCached]: ...
    @overload
    def __call__(self, name: Literal["executing"]) -> Iterator[Executing]: ...
    @overload
    def __call__(self, name: Literal["progress"]) -> Iterator[Progress]: ...
    @overload
    def __call__(self, name: Literal["progress_state"]) -> Iterator[ProgressState]: ...
    @overload
    def __call__(self, name: Literal["progress_text"]) -> Iterator[ProgressText]: ...
    @overload
    def __call__(self, name: Literal["executed"]) -> Iterator[Executed]: ...
    @overload
    def __call__(self, name: Literal["execution_success"]) -> Iterator[ExecutionSuccess]: ...
    @overload
    def __call__(self, name: Literal["execution_error"]) -> Iterator[ExecutionError]: ...
    @overload
    def __call__(
        self, name: Literal["execution_interrupted"]
    ) -> Iterator[ExecutionInterrupted]: ...
    @overload
    def __call__(self, name: Literal["job_lost"]) -> Iterator[JobLostEvent]: ...
    @overload
    def __call__(self, name: PreviewName) -> Iterator[PreviewEvent]: ...
    @overload
    def __call__(self, name: LinkName) -> Iterator[ConnectionEvent]: ...
    @overload
    def __call__(self, name: ErrorName) -> Iterator[ErrorEvent]: ...
    @overload
    def __call__(self, name: Literal["logs"]) -> Iterator[LogsEvent]: ...
    @overload
    def __call__(self, name: Literal["terminal"]) -> Iterator[TerminalEvent]: ...
    @overload
    def __call__(self, name: Literal["feature_flags"]) -> Iterator[FeatureFlags]: ...
    @overload
    def __call__(self, name: Literal["notification"]) -> Iterator[NotificationEvent]: ...
    @overload
    def __call__(self, name: str) -> Iterator[Event]: ...


def typed_on(method: Callable[..., Unsubscribe]) -> On:
    """Return the method ``on`` as it is, typed with its overloads."""
    return cast(On, method)


def typed_wait_for(method: Callable[..., Event]) -> WaitFor:
    """Return the method ``wait_for`` as it is, typed with its overloads."""
    return cast(WaitFor, method)


def typed_events(method: Callable[..., Iterator[Any]]) -> Events:
    """Return the method ``events`` as it is, typed with its overloads."""
    return cast(Events, method)
