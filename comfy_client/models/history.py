"""Answers about prompts that have ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ..to_dict import AsDict
from ..values import (
    build,
    by_id,
    identifier,
    items,
    mapping,
    seconds,
    sequence,
    shallow,
    table,
    text,
)
from .queue import prompt_record

Message = tuple[str, Mapping[str, Any]]

_ENDS = frozenset({"execution_success", "execution_error", "execution_interrupted"})


@attrs.frozen
class HistoryStatus(AsDict):
    """The end of a prompt, as the server reports it.

    A failure and an interrupt look the same here.

    Attributes:
        status_str: ``success`` or ``error``; ``None`` if missing.
        completed: False for a failed prompt, although it has ended too.
        messages: The events of the prompt, oldest first, as (event name, data).
        raw: The JSON object as received.
    """

    _not_in_dict = ("messages",)

    status_str: str | None = None
    completed: bool | None = None
    messages: tuple[Message, ...] = attrs.field(default=(), repr=False)
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @classmethod
    def from_json(cls, data: object) -> HistoryStatus:
        """Read ``{"status_str", "completed", "messages": [[name, data], ...]}``."""
        said = items(mapping(data, "HistoryStatus").get("messages") or [], "messages")
        messages = tuple(
            (name, table(message[1]) or {})
            for message in said
            if isinstance(message, list)
            and len(message) >= 2
            and (name := text(message[0])) is not None
        )
        return build(cls, data, messages=messages)


@attrs.frozen(eq=False)
class HistoryEntry(AsDict):
    """A prompt that has ended, from ``GET /history/{prompt_id}``.

    Attributes:
        prompt_id: The id of the prompt.
        number: Its priority in the queue, low first; ``None`` if missing.
        workflow: The graph in API format.
        extra_data: What was submitted with the workflow, such as ``client_id`` and
            ``extra_pnginfo``.
        outputs: The output of each node, by node id: ``{"9": {"images": [{"filename", ...}]}}``.
        status: How it ended; ``None`` on servers before January 2024.
        meta: To which node of the workflow an output belongs, by node id.  Since August 2024; empty
            before.
        raw: The JSON object as received.
    """

    _in_dict = (
        "prompt_id",
        "number",
        "succeeded",
        "interrupted",
        "started",
        "ended",
        "cached_nodes",
        "execution_error",
    )
    _not_in_dict = ("workflow", "extra_data")

    prompt_id: str
    number: float | None
    workflow: Mapping[str, Any] = attrs.field(repr=False)
    extra_data: Mapping[str, Any] = attrs.field(repr=False)
    outputs: Mapping[str, Mapping[str, Any]]
    status: HistoryStatus | None = None
    meta: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False)

    @classmethod
    def from_json(cls, data: object) -> HistoryEntry:
        """Read one value of the answer of any version."""
        source = mapping(data, "HistoryEntry")
        record = prompt_record(source.get("prompt"), "HistoryEntry.prompt")
        status = source.get("status")
        return cls(
            prompt_id=record.prompt_id,
            number=record.number,
            workflow=record.workflow,
            extra_data=record.extra_data,
            # A custom node may leave null.
            outputs=by_id(mapping(source.get("outputs") or {}, "outputs"), shallow),
            status=None if status is None else HistoryStatus.from_json(status),
            meta=table(source.get("meta")) or {},
            raw=source,
        )

    @property
    def messages(self) -> tuple[Message, ...]:
        """The events of the prompt, as (event name, data); empty without a status."""
        return self.status.messages if self.status is not None else ()

    @property
    def _end(self) -> Message | None:
        """The message that ended the prompt; ``ExecutionBlocked`` is only a notice."""
        for name, data in reversed(self.messages):
            if name in _ENDS and data.get("exception_type") != "ExecutionBlocked":
                return name, data
        return None

    @property
    def execution_error(self) -> Mapping[str, Any] | None:
        """The reason of a failure (``node_id``, ``exception_message``, ...), or ``None``."""
        end = self._end
        return end[1] if end is not None and end[0] == "execution_error" else None

    @property
    def interrupted(self) -> bool:
        """Whether someone stopped the prompt while it ran."""
        end = self._end
        return end is not None and end[0] == "execution_interrupted"

    @property
    def succeeded(self) -> bool:
        """Whether the prompt succeeded.

        The message of its end decides.  Servers before July 2024 send none for a success; there
        ``status_str`` decides, or, if that is missing too, whether there are outputs.
        """
        end = self._end
        if end is not None:
            return end[0] == "execution_success"
        if self.status is not None and self.status.status_str is not None:
            return self.status.status_str == "success"
        return bool(self.outputs)

    @property
    def cached_nodes(self) -> tuple[str, ...]:
        """The ids of the nodes whose outputs came from an earlier prompt."""
        for name, data in self.messages:
            if name == "execution_cached":
                return sequence(data.get("nodes"), identifier) or ()
        return ()

    @property
    def started(self) -> float | None:
        """The start, in seconds since 1970; ``None`` before July 2024."""
        for name, data in self.messages:
            if name == "execution_start":
                return seconds(data.get("timestamp"))
        return None

    @property
    def ended(self) -> float | None:
        """The end, in seconds since 1970; ``None`` before July 2024."""
        end = self._end
        return None if end is None else seconds(end[1].get("timestamp"))
