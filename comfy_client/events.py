"""One typed value per event: what the server said, or what became of the connection.

Every event has a ``name`` (the signal that it fires), and ``raw``, for fields newer than this
library: the ``data`` of the message as it came, of an unknown one the whole message, of a
picture its metadata.  Missing values are ``None``, never a made-up zero.
Events of a prompt carry its ``prompt_id``.  Times are milliseconds since 1970, as the
server gives them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from reprlib import repr as brief
from typing import Any

import attrs

from .values import MOST_ID, by_id, identifier, number, sequence, shallow, text, whole


@attrs.frozen(eq=False, kw_only=True, repr=False)
class Event:
    """What all events have."""

    name: str  #: The signal that it fires.
    raw: Any = attrs.field(default=None, repr=False)
    #: About how many bytes of memory it takes, by the message that brought it; 0: made here.
    nbytes: int = attrs.field(default=0, repr=False)

    @property
    def is_end(self) -> bool:
        """Whether it ends its prompt.  Each prompt of ours fires exactly one event that does."""
        return False

    def __repr__(self) -> str:
        # One for all: to have attrs make one for each class takes much of the import.
        fields = attrs.fields(type(self))
        shown = (f"{field.name}={getattr(self, field.name)!r}" for field in fields if field.repr)
        return f"{type(self).__name__}({', '.join(shown)})"


@attrs.frozen(eq=False, kw_only=True, repr=False)
class StatusEvent(Event):
    """The queue changed, for whomever: ``status``."""

    queue_remaining: int | None = None  #: Prompts running and pending.
    sid: str | None = None  #: Our client id, in the first message of a connection.


@attrs.frozen(eq=False, kw_only=True, repr=False)
class JobEvent(Event):
    """What all events of a prompt have."""

    #: The prompt; ``None`` where the server does not say (a replay after a reconnect).
    prompt_id: str | None = None


@attrs.frozen(eq=False, kw_only=True, repr=False)
class UnknownEvent(JobEvent):
    """An event of a custom node, or one newer than this library.

    Of a prompt, when its data name one as all of ComfyUI's own do.
    """

    data: Any = None  #: Whatever JSON the server sent.


@attrs.frozen(eq=False, kw_only=True, repr=False)
class ExecutionStart(JobEvent):
    """The prompt left the queue: ``execution_start``."""

    timestamp: int | None = None


@attrs.frozen(eq=False, kw_only=True, repr=False)
class ExecutionCached(JobEvent):
    """Nodes that will not run again, since nothing changed: ``execution_cached``."""

    nodes: tuple[str, ...] = ()
    timestamp: int | None = None


@attrs.frozen(eq=False, kw_only=True, repr=False)
class Executing(JobEvent):
    """A node starts, or with ``node=None`` the prompt is over: ``executing``."""

    node: str | None = None
    display_node: str | None = None  #: The node of your workflow that ``node`` stands for.


@attrs.frozen(eq=False, kw_only=True, repr=False)
class Progress(JobEvent):
    """A node made a step: ``progress``."""

    value: float | None = None
    max: float | None = None
    node: str | None = None


@attrs.frozen(eq=False, kw_only=True)
class NodeProgress:
    """How far one node is."""

    node_id: str
    state: str | None = None  #: ``"running"``, ``"finished"`` or ``"error"``.
    value: float | None = None
    max: float | None = None
    display_node_id: str | None = None


@attrs.frozen(eq=False, kw_only=True, repr=False)
class ProgressState(JobEvent):
    """How far all nodes that have begun are: ``progress_state``.  ComfyUI 0.3.45."""

    @cached_property
    def nodes(self) -> Mapping[str, NodeProgress]:
        """By node id; nodes that have not begun are left out."""
        given = self.raw.get("nodes") if isinstance(self.raw, Mapping) else None
        found = by_id(given, lambda node: node if isinstance(node, Mapping) else None)
        return {
            key: NodeProgress(
                node_id=key,
                state=text(node.get("state"), MOST_ID),
                value=number(node.get("value")),
                max=number(node.get("max")),
                display_node_id=identifier(node.get("display_node_id")),
            )
            for key, node in found.items()
        }


@attrs.frozen(eq=False, kw_only=True, repr=False)
class ProgressText(JobEvent):
    """A node says something: ``progress_text``.  ComfyUI 0.3.34."""

    node: str | None = None
    text: str = ""


@attrs.frozen(eq=False, kw_only=True, repr=False)
class Executed(JobEvent):
    """A node has output to show: ``executed``."""

    node: str | None = None
    display_node: str | None = None
    #: As in history, by kind (``images``, ``text``, ...); ``None``: cached, nothing to show.
    output: Mapping[str, Any] | None = attrs.field(default=None, repr=False)


@attrs.frozen(eq=False, kw_only=True, repr=False)
class EndEvent(JobEvent):
    """What the four events that end a prompt have."""

    #: True when it was learned over HTTP, since the socket did not bring it.
    recovered: bool = False

    @property
    def is_end(self) -> bool:
        """True; only an ``execution_error`` may be a notice, see there."""
        return True


@attrs.frozen(eq=False, kw_only=True, repr=False)
class ExecutionSuccess(EndEvent):
    """All went well: ``execution_success``.  July 2024; before, this library makes it."""

    timestamp: int | None = None


@attrs.frozen(eq=False, kw_only=True, repr=False)
class ExecutionError(EndEvent):
    """A node raised: ``execution_error``.

    Servers send it also for a node that another one has blocked (``exception_type`` is
    ``"ExecutionBlocked"``).  The prompt goes on, and ends in another event: see ``is_end``.
    """

    node_id: str | None = None
    node_type: str | None = None
    exception_type: str | None = None
    exception_message: str | None = None
    traceback: str = attrs.field(default="", repr=False)  #: With paths of the server.
    executed: tuple[str, ...] = ()
    #: With hidden inputs, which may hold your API key.
    current_inputs: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    timestamp: int | None = None

    @property
    def is_end(self) -> bool:
        """Whether it ends the prompt.  That a node was blocked (``ExecutionBlocked``) does not."""
        return self.exception_type != "ExecutionBlocked"


@attrs.frozen(eq=False, kw_only=True, repr=False)
class ExecutionInterrupted(EndEvent):
    """Someone stopped it: ``execution_interrupted``."""

    node_id: str | None = None
    node_type: str | None = None
    executed: tuple[str, ...] = ()
    timestamp: int | None = None


@attrs.frozen(eq=False, kw_only=True, repr=False)
class JobLostEvent(EndEvent):
    """It is in no queue and no history any more, or the server refuses to tell: ``job_lost``.

    Made by this library.
    """

    reason: str = ""


@attrs.frozen(eq=False, kw_only=True, repr=False)
class PreviewEvent(JobEvent):
    """A picture of unfinished work, or what SaveImageWebsocket sends.

    Names: ``b_preview`` for every picture, ``b_preview_with_metadata`` beside it when the
    server said which node and prompt it belongs to (ComfyUI 0.3.45).
    """

    mime: str = "image/jpeg"
    node_id: str | None = None
    display_node_id: str | None = None
    parent_node_id: str | None = None
    real_node_id: str | None = None
    #: True for a finished picture of ``SaveImageWebsocket``, which is an output.
    final: bool = False
    #: The encoded picture without a copy; it keeps the whole frame alive.
    view: memoryview = attrs.field(default=memoryview(b""), repr=False)

    @property
    def node(self) -> str | None:
        """``node_id`` by the name that other events have for it."""
        return self.node_id

    @cached_property
    def image(self) -> bytes:
        """The encoded picture, ready to be written to a file."""
        return bytes(self.view)

    def __reduce__(self) -> tuple[Any, ...]:
        fields = {field.name: getattr(self, field.name) for field in attrs.fields(type(self))}
        return _preview, ({**fields, "view": bytes(self.view)},)


def _preview(fields: dict[str, Any]) -> PreviewEvent:
    """Out of a pickle, which carries no memoryview."""
    return PreviewEvent(**{**fields, "view": memoryview(fields["view"])})


@attrs.frozen(eq=False, kw_only=True)
class LogEntry:
    """One piece of text that the server wrote to its terminal."""

    time: str | None  #: ISO 8601, in the server's local time.
    text: str  #: With its own line ends; not always a whole line.


@attrs.frozen(eq=False, kw_only=True, repr=False)
class LogsEvent(Event):
    """What the server printed, after ``subscribe_logs()``: ``logs``.  ComfyUI, Nov 2024."""

    entries: tuple[LogEntry, ...] = ()


@attrs.frozen(eq=False, kw_only=True, repr=False)
class TerminalEvent(Event):
    """One entry of a ``logs`` event, whose ``raw`` has all of them: ``terminal``."""

    time: str | None = None
    text: str = ""


@attrs.frozen(eq=False, kw_only=True, repr=False)
class FeatureFlags(Event):
    """The server's answer to our hello: ``feature_flags``.  ComfyUI 0.3.45."""

    flags: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen(eq=False, kw_only=True, repr=False)
class NotificationEvent(Event):
    """A text for people, from hosted servers: ``notification``."""

    value: str | None = None


@attrs.frozen(eq=False, kw_only=True, repr=False)
class ConnectionEvent(Event):
    """The socket came, went or comes again.

    ``connected`` and ``reconnected`` (``attempt``: how many dials it took),
    ``disconnected`` (``error``), ``reconnecting`` (``attempt``, ``delay`` in seconds until
    it, ``error``), ``websocket_unavailable`` (``error``; the queue is asked over HTTP now).
    """

    attempt: int = 0
    delay: float | None = None
    error: Exception | None = None


@attrs.frozen(eq=False, kw_only=True, repr=False)
class ErrorEvent(Event):
    """Something was refused, or went well after all.

    ``auth_error``, ``connection_error``, ``queue_error`` and
    ``terminal_subscription_error`` carry the exception in ``error``; ``auth_success`` has none.
    """

    error: Exception | None = None


# -- from the server's data; tolerant of whatever stands there ----------------------------


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def queue_remaining(data: Mapping[str, Any]) -> int | None:
    """The number in ``{"exec_info": {"queue_remaining": N}}``."""
    return whole(_map(data.get("exec_info")).get("queue_remaining"))


def _status(data: Mapping[str, Any]) -> Event:
    return StatusEvent(
        name="status",
        raw=data,
        queue_remaining=queue_remaining(_map(data.get("status"))),
        sid=text(data.get("sid"), MOST_ID),
    )


def _execution_start(data: Mapping[str, Any]) -> Event:
    return ExecutionStart(
        name="execution_start",
        raw=data,
        prompt_id=identifier(data.get("prompt_id")),
        timestamp=whole(data.get("timestamp")),
    )


def _execution_cached(data: Mapping[str, Any]) -> Event:
    return ExecutionCached(
        name="execution_cached",
        raw=data,
        prompt_id=identifier(data.get("prompt_id")),
        nodes=sequence(data.get("nodes"), identifier) or (),
        timestamp=whole(data.get("timestamp")),
    )


def _executing(data: Mapping[str, Any]) -> Event:
    given = data.get("node")
    node = identifier(given)
    return Executing(
        name="executing",
        raw=data,
        prompt_id=identifier(data.get("prompt_id")),
        # None would say that the prompt is over.
        node=node if given is None or node is not None else brief(given),
        display_node=identifier(data.get("display_node")),
    )


def _progress(data: Mapping[str, Any]) -> Event:
    return Progress(
        name="progress",
        raw=data,
        prompt_id=identifier(data.get("prompt_id")),
        value=number(data.get("value")),
        max=number(data.get("max")),
        node=identifier(data.get("node")),
    )


def _progress_state(data: Mapping[str, Any]) -> Event:
    return ProgressState(
        name="progress_state", raw=data, prompt_id=identifier(data.get("prompt_id"))
    )


def _executed(data: Mapping[str, Any]) -> Event:
    output = data.get("output")
    return Executed(
        name="executed",
        raw=data,
        prompt_id=identifier(data.get("prompt_id")),
        node=identifier(data.get("node")),
        display_node=identifier(data.get("display_node")),
        output=output if isinstance(output, Mapping) else None,
    )


def execution_success(data: Mapping[str, Any], *, recovered: bool = False) -> ExecutionSuccess:
    """From the event's data, which is also what history keeps."""
    return ExecutionSuccess(
        name="execution_success",
        raw=data,
        prompt_id=identifier(data.get("prompt_id")),
        timestamp=whole(data.get("timestamp")),
        recovered=recovered,
    )


def execution_error(data: Mapping[str, Any], *, recovered: bool = False) -> ExecutionError:
    """From the event's data, which is also what history keeps."""
    lines = sequence(data.get("traceback"), text) or ()
    message = text(data.get("exception_message"))
    return ExecutionError(
        name="execution_error",
        raw=data,
        prompt_id=identifier(data.get("prompt_id")),
        node_id=identifier(data.get("node_id")),
        node_type=text(data.get("node_type"), MOST_ID),
        exception_type=text(data.get("exception_type"), MOST_ID),
        exception_message=message.strip() if message else message,
        traceback=text("".join(lines)) or "",
        executed=sequence(data.get("executed"), identifier) or (),
        current_inputs=shallow(data.get("current_inputs")) or {},
        timestamp=whole(data.get("timestamp")),
        recovered=recovered,
    )


def execution_interrupted(
    data: Mapping[str, Any], *, recovered: bool = False
) -> ExecutionInterrupted:
    """From the event's data, which is also what history keeps."""
    return ExecutionInterrupted(
        name="execution_interrupted",
        raw=data,
        prompt_id=identifier(data.get("prompt_id")),
        node_id=identifier(data.get("node_id")),
        node_type=text(data.get("node_type"), MOST_ID),
        executed=sequence(data.get("executed"), identifier) or (),
        timestamp=whole(data.get("timestamp")),
        recovered=recovered,
    )


def _logs(data: Mapping[str, Any]) -> Event:
    return LogsEvent(name="logs", raw=data, entries=sequence(data.get("entries"), _log_entry) or ())


def _log_entry(item: object) -> LogEntry | None:
    if not isinstance(item, Mapping):
        return None
    return LogEntry(time=text(item.get("t"), MOST_ID), text=text(item.get("m")) or "")


def _feature_flags(data: Mapping[str, Any]) -> Event:
    return FeatureFlags(name="feature_flags", raw=data, flags=data)


def _notification(data: Mapping[str, Any]) -> Event:
    return NotificationEvent(name="notification", raw=data, value=text(data.get("value")))


def unknown(kind: str, message: Mapping[str, Any]) -> UnknownEvent:
    """What a message is whose type is not known here, or whose data are in no form for it."""
    data = message.get("data")
    given = data.get("prompt_id") if isinstance(data, Mapping) else None
    prompt_id = text(given, MOST_ID)
    return UnknownEvent(name=kind, raw=message, data=data, prompt_id=prompt_id)


#: The class of the events of each documented name, which are the signals in blinker's default
#: namespace.  Any other name gives an ``UnknownEvent``.
CLASSES: Mapping[str, type[Event]] = {
    "all": Event,
    "status": StatusEvent,
    "execution_start": ExecutionStart,
    "execution_cached": ExecutionCached,
    "executing": Executing,
    "progress": Progress,
    "progress_state": ProgressState,
    "progress_text": ProgressText,
    "executed": Executed,
    "execution_success": ExecutionSuccess,
    "execution_error": ExecutionError,
    "execution_interrupted": ExecutionInterrupted,
    "job_lost": JobLostEvent,
    "b_preview": PreviewEvent,
    "b_preview_with_metadata": PreviewEvent,
    "connected": ConnectionEvent,
    "reconnecting": ConnectionEvent,
    "reconnected": ConnectionEvent,
    "disconnected": ConnectionEvent,
    "websocket_unavailable": ConnectionEvent,
    "auth_success": ErrorEvent,
    "auth_error": ErrorEvent,
    "connection_error": ErrorEvent,
    "queue_error": ErrorEvent,
    "terminal_subscription_error": ErrorEvent,
    "logs": LogsEvent,
    "terminal": TerminalEvent,
    "feature_flags": FeatureFlags,
    "notification": NotificationEvent,
}

#: Names that a server's JSON messages may fire, and what makes the event of the data.
FROM_SERVER: Mapping[str, Callable[[Mapping[str, Any]], Event]] = {
    "status": _status,
    "execution_start": _execution_start,
    "execution_cached": _execution_cached,
    "executing": _executing,
    "progress": _progress,
    "progress_state": _progress_state,
    "executed": _executed,
    "execution_success": execution_success,
    "execution_error": execution_error,
    "execution_interrupted": execution_interrupted,
    "logs": _logs,
    "feature_flags": _feature_flags,
    "notification": _notification,
}

NAMES = frozenset(CLASSES)

#: Names that only this library fires; a server message of that name fires nothing but ``all``.
FROM_CLIENT = NAMES - FROM_SERVER.keys()
