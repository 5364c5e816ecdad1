"""Typed events: messages of the server, and changes of the connection.

Missing values are ``None``, never a made-up zero.  Times are milliseconds since 1970, as the
server sends them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from reprlib import repr as brief
from typing import Any, ClassVar, Final, Protocol, TypeVar

import attrs

from .to_dict import AsDict
from .values import (
    MAX_ID_LENGTH,
    Converter,
    by_id,
    identifier,
    number,
    sequence,
    shallow,
    table,
    table_at,
    text,
    whole,
)


def _shown(value: Any) -> str:
    """Return the ``repr`` of any event; a generated one per class would slow the import."""
    fields = attrs.fields(type(value))
    shown = (f"{field.name}={getattr(value, field.name)!r}" for field in fields if field.repr)
    return f"{type(value).__name__}({', '.join(shown)})"


@attrs.frozen(eq=False, kw_only=True, repr=False)
class Event(AsDict):
    """The base class of all events.

    Attributes:
        name: The signal that it fires.
        raw: The data as received, with fields that are newer than this library.  For an unknown
            event, the whole message; for an image, its metadata.  ``None`` if this library made the
            event.
        nbytes: Roughly the memory that it takes in bytes; 0 if this library made it.
    """

    _in_dict: ClassVar[tuple[str, ...]] = ("name", "is_end")
    _not_in_dict: ClassVar[tuple[str, ...]] = ("nbytes",)

    name: str
    raw: Any = attrs.field(default=None, repr=False)
    nbytes: int = attrs.field(default=0, repr=False)

    @property
    def is_end(self) -> bool:
        """Whether the event ends its prompt; a client gets exactly one for each of its prompts."""
        return False

    def __repr__(self) -> str:
        return _shown(self)


@attrs.frozen(eq=False, kw_only=True, repr=False)
class StatusEvent(Event):
    """The queue has changed, for any client: ``status``.

    Attributes:
        queue_remaining: How many prompts are running or pending.
        sid: The id of this client; only in the first message of a connection.
    """

    queue_remaining: int | None = None
    sid: str | None = None


@attrs.frozen(eq=False, kw_only=True, repr=False)
class JobEvent(Event):
    """The base class of all events of a prompt.

    Attributes:
        prompt_id: The id of the prompt; ``None`` if the server does not say, as in an event that
            it repeats after a reconnect.
    """

    prompt_id: str | None = None


@attrs.frozen(eq=False, kw_only=True, repr=False)
class UnknownEvent(JobEvent):
    """An event of a custom node, or one that is newer than this library.

    It belongs to a prompt if its data has a ``prompt_id``, as in ComfyUI's own events.

    Attributes:
        data: The data as received: any JSON value.
    """

    data: Any = None


@attrs.frozen(eq=False, kw_only=True, repr=False)
class ExecutionStart(JobEvent):
    """The prompt left the queue and starts to run: ``execution_start``.

    Attributes:
        timestamp: When it happened, in milliseconds since 1970.  Since July 2024, ``None`` before.
    """

    timestamp: int | None = None


@attrs.frozen(eq=False, kw_only=True, repr=False)
class ExecutionCached(JobEvent):
    """Some nodes need not run again, since nothing changed: ``execution_cached``.

    Attributes:
        nodes: The ids of these nodes.
        timestamp: When it happened, in milliseconds since 1970.  Since July 2024, ``None`` before.
    """

    nodes: tuple[str, ...] = ()
    timestamp: int | None = None


@attrs.frozen(eq=False, kw_only=True, repr=False)
class Executing(JobEvent):
    """A node starts, or the prompt is over: ``executing``.

    Attributes:
        node: The id of the node; ``None``: the prompt is over.
        display_node: The node of your workflow at which to show ``node``.  Since August 2024,
            ``None`` before.
    """

    node: str | None = None
    display_node: str | None = None


@attrs.frozen(eq=False, kw_only=True, repr=False)
class Progress(JobEvent):
    """A node finished a step: ``progress``.

    Attributes:
        value: How many steps are done.
        max: How many steps there are.
        node: The id of the node.
    """

    value: float | None = None
    max: float | None = None
    node: str | None = None


@attrs.frozen(eq=False, kw_only=True, repr=False)
class NodeProgress(AsDict):
    """The progress of one node.

    Attributes:
        node_id: The id of the node.
        state: ``"running"``, ``"finished"`` or ``"error"``.
        value: How many steps are done.
        max: How many steps there are.
        display_node_id: The node of your workflow at which to show it.
    """

    node_id: str
    state: str | None = None
    value: float | None = None
    max: float | None = None
    display_node_id: str | None = None

    def __repr__(self) -> str:
        return _shown(self)


@attrs.frozen(eq=False, kw_only=True, repr=False)
class ProgressState(JobEvent):
    """The progress of all nodes that have started: ``progress_state``.  Since ComfyUI 0.3.45.

    Attributes:
        nodes: The progress by node id; nodes that have not started are missing.
    """

    _in_dict = ("nodes",)

    @cached_property
    def nodes(self) -> Mapping[str, NodeProgress]:
        """The progress by node id; nodes that have not started are missing."""
        given = self.raw.get("nodes") if isinstance(self.raw, Mapping) else None
        found = by_id(given, lambda node: node if isinstance(node, Mapping) else None)
        return {
            key: NodeProgress(
                node_id=key,
                state=text(node.get("state"), MAX_ID_LENGTH),
                value=number(node.get("value")),
                max=number(node.get("max")),
                display_node_id=identifier(node.get("display_node_id")),
            )
            for key, node in found.items()
        }


@attrs.frozen(eq=False, kw_only=True, repr=False)
class ProgressText(JobEvent):
    """A text that a node shows: ``progress_text``.  Since ComfyUI 0.3.34.

    Attributes:
        node: The id of the node.
        text: The text.
    """

    node: str | None = None
    text: str = ""


@attrs.frozen(eq=False, kw_only=True, repr=False)
class Executed(JobEvent):
    """A node has output to show: ``executed``.

    Attributes:
        node: The id of the node.
        display_node: The node of your workflow at which to show it.  Since August 2024, ``None``
            before.
        output: The output by kind (``images``, ``text``, ...), as in history; ``None``: the node
            was cached and has nothing to show.
    """

    node: str | None = None
    display_node: str | None = None
    output: Mapping[str, Any] | None = attrs.field(default=None, repr=False)


@attrs.frozen(eq=False, kw_only=True, repr=False)
class EndEvent(JobEvent):
    """The base class of the four events that end a prompt.

    Attributes:
        recovered: True if it was learned over HTTP, since the socket did not deliver it.
    """

    recovered: bool = False

    @property
    def is_end(self) -> bool:
        """True, except for an ``execution_error`` that reports a blocked node."""
        return True


@attrs.frozen(eq=False, kw_only=True, repr=False)
class ExecutionSuccess(EndEvent):
    """The prompt succeeded: ``execution_success``.

    Servers before July 2024 do not send it; this library makes it for them.

    Attributes:
        timestamp: When it happened, in milliseconds since 1970; ``None`` if this library made it.
    """

    timestamp: int | None = None


@attrs.frozen(eq=False, kw_only=True, repr=False)
class ExecutionError(EndEvent):
    """A node raised an exception: ``execution_error``.

    Servers also send it for a node that another node has blocked (``exception_type`` is
    ``"ExecutionBlocked"``).  The prompt keeps running then, and ends in another event: see
    ``is_end``.

    Attributes:
        node_id: The id of the node.
        node_type: The ``class_type`` of the node.
        exception_type: The class of the exception, such as ``"ValueError"``.
        exception_message: The message of the exception.
        traceback: The traceback as text, with paths of the server.
        executed: The ids of the nodes that had run.
        current_inputs: The inputs of the node.  They include hidden ones, which may hold your API
            key.
        timestamp: When it happened, in milliseconds since 1970.  Since July 2024, ``None`` before.
    """

    _not_in_dict = ("current_inputs",)

    node_id: str | None = None
    node_type: str | None = None
    exception_type: str | None = None
    exception_message: str | None = None
    traceback: str = attrs.field(default="", repr=False)
    executed: tuple[str, ...] = ()
    current_inputs: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    timestamp: int | None = None

    @property
    def is_end(self) -> bool:
        """Whether the event ends the prompt; False if a node was blocked (``ExecutionBlocked``)."""
        return self.exception_type != "ExecutionBlocked"


@attrs.frozen(eq=False, kw_only=True, repr=False)
class ExecutionInterrupted(EndEvent):
    """Someone stopped the prompt: ``execution_interrupted``.

    Attributes:
        node_id: The id of the node that was running.
        node_type: The ``class_type`` of that node.
        executed: The ids of the nodes that had run.
        timestamp: When it happened, in milliseconds since 1970.  Since July 2024, ``None`` before.
    """

    node_id: str | None = None
    node_type: str | None = None
    executed: tuple[str, ...] = ()
    timestamp: int | None = None


@attrs.frozen(eq=False, kw_only=True, repr=False)
class JobLostEvent(EndEvent):
    """The prompt is no longer in queue or history, or the server refuses to say: ``job_lost``.

    This library makes it.

    Attributes:
        reason: Why it counts as lost, in words.
    """

    reason: str = ""


@attrs.frozen(eq=False, kw_only=True, repr=False)
class PreviewEvent(JobEvent):
    """A preview of unfinished work, or an image of ``SaveImageWebsocket``.

    ``b_preview`` fires for every image; ``b_preview_with_metadata`` fires as well if the
    server said which node and prompt the image belongs to (since ComfyUI 0.3.45).

    Attributes:
        mime: The type of the image: ``image/jpeg``, ``image/png``, ...
        node_id: The id of the node; ``None`` if the server did not say.
        display_node_id: The node of your workflow at which to show it.  Since ComfyUI 0.3.45,
            ``None`` before.
        parent_node_id: The node that expanded into ``node_id``; ``None``: none did.  Since ComfyUI
            0.3.45.
        real_node_id: The node of your workflow that ``node_id`` was expanded from.  Since ComfyUI
            0.3.45, ``None`` before.
        final: True for an image of ``SaveImageWebsocket``, which is an output.
        view: The encoded image without a copy; it keeps the whole message in memory.
        image: The encoded image as bytes, ready to be written to a file.
    """

    _in_dict = ("size",)
    _not_in_dict = ("view",)

    mime: str = "image/jpeg"
    node_id: str | None = None
    display_node_id: str | None = None
    parent_node_id: str | None = None
    real_node_id: str | None = None
    final: bool = False
    view: memoryview = attrs.field(default=memoryview(b""), repr=False)

    @property
    def node(self) -> str | None:
        """The same as ``node_id``, by the name that other events have."""
        return self.node_id

    @property
    def size(self) -> int:
        """The size of the encoded image in bytes."""
        return self.view.nbytes

    @cached_property
    def image(self) -> bytes:
        """The encoded image as bytes, ready to be written to a file."""
        return bytes(self.view)

    def __reduce__(self) -> tuple[Any, ...]:
        fields = {field.name: getattr(self, field.name) for field in attrs.fields(type(self))}
        return _preview, ({**fields, "view": bytes(self.view)},)


def _preview(fields: dict[str, Any]) -> PreviewEvent:
    """Make a preview out of a pickle, which carries no memoryview."""
    return PreviewEvent(**{**fields, "view": memoryview(fields["view"])})


@attrs.frozen(eq=False, kw_only=True, repr=False)
class LogEntry(AsDict):
    """A piece of text that the server wrote to its terminal.

    Attributes:
        time: When it was written, as ISO 8601 in the server's local time; ``None`` if missing.
        text: The text with its line ends; not always a whole line.
    """

    time: str | None
    text: str

    def __repr__(self) -> str:
        return _shown(self)


@attrs.frozen(eq=False, kw_only=True, repr=False)
class LogsEvent(Event):
    """Output of the server's terminal, after ``subscribe_logs()``: ``logs``.  Since November 2024.

    Attributes:
        entries: The pieces of output, oldest first.
    """

    entries: tuple[LogEntry, ...] = ()


@attrs.frozen(eq=False, kw_only=True, repr=False)
class TerminalEvent(Event):
    """A piece of the server's log: ``terminal``.  A ``logs`` message has several, all in ``raw``.

    Attributes:
        time: When it was written, as ISO 8601 in the server's local time; ``None`` if missing.
        text: The text with its line ends; not always a whole line.
    """

    time: str | None = None
    text: str = ""


@attrs.frozen(eq=False, kw_only=True, repr=False)
class GpuUsage(AsDict):
    """How busy a GPU is.  ``None``: it is not measured, or unknown.

    Attributes:
        index: The number of the GPU, as in ``api.ext.monitor.gpus()``.
        utilization: How busy it is, in percent.
        temperature: Its temperature in degrees Celsius.
        vram_total: Its memory, in bytes.
        vram_used: How much of its memory is used, in bytes.
        vram_used_percent: The same in percent.
    """

    index: int
    utilization: float | None = None
    temperature: float | None = None
    vram_total: int | None = None
    vram_used: int | None = None
    vram_used_percent: float | None = None

    def __repr__(self) -> str:
        return _shown(self)


@attrs.frozen(eq=False, kw_only=True, repr=False)
class MonitorEvent(Event):
    """How busy the machine of the server is: ``monitor``.  From the node pack Crystools.

    ``None``: somebody has switched that off (``api.ext.monitor``), or it is unknown.

    Attributes:
        cpu_utilization: How busy the CPU is, in percent.
        ram_total: The main memory, in bytes.
        ram_used: How much of the main memory is used, in bytes.
        ram_used_percent: The same in percent.
        disk_total: The size of the disk, in bytes.
        disk_used: How much of the disk is used, in bytes.
        disk_used_percent: The same in percent.
        device_type: On what the server computes: ``cuda``, ``cpu``, ...
        gpus: The GPUs of which something is known.
    """

    cpu_utilization: float | None = None
    ram_total: int | None = None
    ram_used: int | None = None
    ram_used_percent: float | None = None
    disk_total: int | None = None
    disk_used: int | None = None
    disk_used_percent: float | None = None
    device_type: str | None = None
    gpus: tuple[GpuUsage, ...] = ()


@attrs.frozen(eq=False, kw_only=True, repr=False)
class FeatureFlags(Event):
    """The feature flags of the server: ``feature_flags``.  Since ComfyUI 0.3.45.

    Attributes:
        flags: Each flag by its name.
    """

    flags: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen(eq=False, kw_only=True, repr=False)
class NotificationEvent(Event):
    """A message for the user, from hosted servers: ``notification``.

    Attributes:
        value: The text.
    """

    value: str | None = None


@attrs.frozen(eq=False, kw_only=True, repr=False)
class ConnectionEvent(Event):
    """The state of the socket has changed.

    The names are ``connected``, ``reconnected``, ``disconnected``, ``reconnecting`` and
    ``websocket_unavailable`` (from then on, the queue is asked over HTTP).

    Attributes:
        attempt: For ``connected`` and ``reconnected``, how many attempts it took; for
            ``reconnecting``, the number of the next one; else 0.
        delay: Seconds until the next attempt; ``None`` except for ``reconnecting``.
        error: Why there is no connection; ``None`` for ``connected`` and ``reconnected``.
    """

    attempt: int = 0
    delay: float | None = None
    error: Exception | None = None


@attrs.frozen(eq=False, kw_only=True, repr=False)
class ErrorEvent(Event):
    """Something failed, or the server accepted the credentials.

    The names are ``auth_error``, ``connection_error``, ``queue_error``,
    ``terminal_subscription_error`` and ``auth_success``.

    Attributes:
        error: The exception; ``None`` for ``auth_success``.
    """

    error: Exception | None = None


def body_of(event: Event) -> object:
    """Return the object that takes most of an event's memory; events of one message share it."""
    if isinstance(event, PreviewEvent) and event.view:
        return event.view.obj
    return event if event.raw is None else event.raw


# -- from the server's data, tolerant of any value ----------------------------------------

#: The most GPUs of one server.
_MOST_GPUS: Final = 64
#: The length below which an ASCII text is an id as it is.
_SHORT: Final = 64

E = TypeVar("E", bound=Event)
E_co = TypeVar("E_co", bound=Event, covariant=True)


class Reader(Protocol[E_co]):
    """A function that makes an event from a message's data, or from the same data in history."""

    def __call__(self, data: Mapping[str, Any], nbytes: int = 0) -> E_co:
        """Make the event; ``nbytes`` is about the message's size in memory."""
        raise NotImplementedError


def _reader(cls: type[E], name: str, **fields: Converter) -> Reader[E]:
    """Return a function that makes an event, converting these fields; others get defaults.

    An event of a prompt has the field ``prompt_id`` in any case.
    """
    if issubclass(cls, JobEvent):
        fields = {"prompt_id": identifier, **fields}
    slots = {field.name: getattr(cls, field.name).__set__ for field in attrs.fields(cls)}
    set_name, set_raw, set_nbytes = (slots.pop(key) for key in ("name", "raw", "nbytes"))
    steps = tuple(
        (slots.pop(key), key, convert, convert is identifier) for key, convert in fields.items()
    )
    rest = tuple((slots[key], getattr(attrs.fields(cls), key).default) for key in slots)

    def read(data: Mapping[str, Any], nbytes: int = 0) -> E:
        # Set slot by slot, as passing arguments would take twice as long for each message.
        event = cls.__new__(cls)
        set_name(event, name)
        set_raw(event, data)
        set_nbytes(event, nbytes)
        get = data.get
        for set_field, key, convert, is_id in steps:
            value = get(key)
            # Most ids are short text, for which a call would take longer than this.
            if not (is_id and type(value) is str and len(value) < _SHORT and value.isascii()):
                value = convert(value)
            set_field(event, value)
        for set_field, default in rest:
            set_field(event, default)
        return event

    return read


def queue_remaining(data: Mapping[str, Any]) -> int | None:
    """Return the number in ``{"exec_info": {"queue_remaining": N}}``; None if it is negative."""
    found = whole(table_at(data, "exec_info").get("queue_remaining"))
    return None if found is None or found < 0 else found


def _status(data: Mapping[str, Any], nbytes: int = 0) -> StatusEvent:
    return StatusEvent(
        name="status",
        raw=data,
        nbytes=nbytes,
        queue_remaining=queue_remaining(table_at(data, "status")),
        sid=_word(data.get("sid")),
    )


def _feature_flags(data: Mapping[str, Any], nbytes: int = 0) -> FeatureFlags:
    return FeatureFlags(name="feature_flags", raw=data, nbytes=nbytes, flags=data)


def _monitor(data: Mapping[str, Any], nbytes: int = 0) -> MonitorEvent:
    return MonitorEvent(
        name="monitor",
        raw=data,
        nbytes=nbytes,
        cpu_utilization=_measured(data.get("cpu_utilization")),
        ram_total=whole(_measured(data.get("ram_total"))),
        ram_used=whole(_measured(data.get("ram_used"))),
        ram_used_percent=_measured(data.get("ram_used_percent")),
        disk_total=whole(_measured(data.get("hdd_total"))),
        disk_used=whole(_measured(data.get("hdd_used"))),
        disk_used_percent=_measured(data.get("hdd_used_percent")),
        device_type=_word(data.get("device_type")),
        gpus=tuple(_gpus(data.get("gpus"))),
    )


def _gpus(value: object) -> Iterator[GpuUsage]:
    """Yield those of which something is known: a server without GPU sends one of which nothing is.

    The others keep their numbers.
    """
    for index, gpu in enumerate((sequence(value) or ())[:_MOST_GPUS]):
        found = GpuUsage(
            index=index,
            utilization=_measured(table_at(gpu).get("gpu_utilization")),
            temperature=_measured(table_at(gpu).get("gpu_temperature")),
            vram_total=whole(_measured(table_at(gpu).get("vram_total"))),
            vram_used=whole(_measured(table_at(gpu).get("vram_used"))),
            vram_used_percent=_measured(table_at(gpu).get("vram_used_percent")),
        )
        if any(one is not None for one in attrs.astuple(found)[1:]):
            yield found


def _measured(value: object) -> float | None:
    """Return a number; None for -1, which says that something was not measured, and the like."""
    found = number(value)
    return None if found is None or found < 0 else found


def _word(value: object) -> str | None:
    return text(value, MAX_ID_LENGTH)


def _ids(value: object) -> tuple[str, ...]:
    return sequence(value, identifier) or ()


def _node(value: object) -> str | None:
    """Return a value as a node id.

    An invalid id becomes text rather than None, which would mean that the prompt has ended.
    """
    node = identifier(value)
    return node if value is None or node is not None else brief(value)


def _message(value: object) -> str | None:
    said = text(value)
    return said.strip() if said else said


def _lines(value: object) -> str:
    return text("".join(sequence(value, text) or ())) or ""


def _inputs(value: object) -> Mapping[str, Any]:
    return shallow(value) or {}


def _entries(value: object) -> tuple[LogEntry, ...]:
    return sequence(value, _log_entry) or ()


def _log_entry(item: object) -> LogEntry | None:
    if not isinstance(item, Mapping):
        return None
    return LogEntry(time=_word(item.get("t")), text=text(item.get("m")) or "")


execution_success: Reader[ExecutionSuccess] = _reader(
    ExecutionSuccess, "execution_success", timestamp=whole
)
execution_error: Reader[ExecutionError] = _reader(
    ExecutionError,
    "execution_error",
    node_id=identifier,
    node_type=_word,
    exception_type=_word,
    exception_message=_message,
    traceback=_lines,
    executed=_ids,
    current_inputs=_inputs,
    timestamp=whole,
)
execution_interrupted: Reader[ExecutionInterrupted] = _reader(
    ExecutionInterrupted,
    "execution_interrupted",
    node_id=identifier,
    node_type=_word,
    executed=_ids,
    timestamp=whole,
)

#: The types of JSON messages that servers send, with the functions that make their events.  The
#: name of the event is the type, or for messages of node packs one without the name of the pack.
FROM_SERVER: Mapping[str, Reader[Event]] = {
    "status": _status,
    "execution_start": _reader(ExecutionStart, "execution_start", timestamp=whole),
    "execution_cached": _reader(ExecutionCached, "execution_cached", nodes=_ids, timestamp=whole),
    "executing": _reader(Executing, "executing", node=_node, display_node=identifier),
    "progress": _reader(Progress, "progress", value=number, max=number, node=identifier),
    "progress_state": _reader(ProgressState, "progress_state"),
    "executed": _reader(
        Executed,
        "executed",
        node=identifier,
        display_node=identifier,
        output=table,
    ),
    "execution_success": execution_success,
    "execution_error": execution_error,
    "execution_interrupted": execution_interrupted,
    "logs": _reader(LogsEvent, "logs", entries=_entries),
    "feature_flags": _feature_flags,
    "notification": _reader(NotificationEvent, "notification", value=text),
    "crystools.monitor": _monitor,
}


def unknown(kind: str, message: Mapping[str, Any], nbytes: int = 0) -> UnknownEvent:
    """Make an event from a message of unknown type, or whose data does not fit its type."""
    data = message.get("data")
    prompt_id = _word(table_at(data).get("prompt_id"))
    return UnknownEvent(name=kind, raw=message, nbytes=nbytes, data=data, prompt_id=prompt_id)


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
    "monitor": MonitorEvent,
}

NAMES = frozenset(CLASSES)
