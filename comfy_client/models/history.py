"""Answers about prompts that have ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs

from ..showing.cells import ShownAsTable, write_plain
from ..to_dict import AsDict
from ..values import (
    MAX_ID_LENGTH,
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
from ..workflow.graph import shorten
from .queue import prompt_record

if TYPE_CHECKING:
    from ..showing.tables import Table

Message = tuple[str, Mapping[str, Any]]

#: Prompts that are shown, and names of files of each.
_MOST_SHOWN: Final = 50
_MOST_NAMES: Final = 3

_ENDS = frozenset({"execution_success", "execution_error", "execution_interrupted"})


@attrs.frozen
class HistoryStatus(AsDict):
    """How a prompt ended, as the server reports it.

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


@attrs.frozen(eq=False, repr=False)
class HistoryEntry(ShownAsTable, AsDict):
    """A prompt that has ended, from ``GET /history/{prompt_id}``.

    Attributes:
        prompt_id: The id of the prompt.
        number: Its priority in the queue; lower numbers run first.  ``None`` if missing.
        workflow: The graph in API format.
        extra_data: What was submitted with the workflow, such as ``client_id`` and
            ``extra_pnginfo``.
        outputs: The output of each node, by node id: ``{"9": {"images": [{"filename", ...}]}}``.
        status: How it ended; ``None`` on servers before January 2024.
        meta: The node of the workflow that each output belongs to, by node id.  Since August 2024;
            empty before.
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
    workflow: Mapping[str, Any]
    extra_data: Mapping[str, Any]
    outputs: Mapping[str, Mapping[str, Any]]
    status: HistoryStatus | None = None
    meta: Mapping[str, Any] = attrs.field(factory=dict)
    raw: Mapping[str, Any] = attrs.field(factory=dict)

    def __repr__(self) -> str:
        return f"<HistoryEntry {shorten(self.prompt_id, MAX_ID_LENGTH)} {self.outcome}>"

    def _table(self) -> Table:
        return _table([self])

    @classmethod
    def from_json(cls, data: object) -> HistoryEntry:
        """Parse one record in the answer of ``GET /history``, from a server of any version."""
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
        """The event that ended the prompt, or None; ``ExecutionBlocked`` is only a notice."""
        for name, data in reversed(self.messages):
            if name in _ENDS and data.get("exception_type") != "ExecutionBlocked":
                return name, data
        return None

    @property
    def execution_error(self) -> Mapping[str, Any] | None:
        """Why the prompt failed (``exception_message``, ``node_id``, ...); ``None``: it did not."""
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
    def outcome(self) -> Literal["succeeded", "failed", "interrupted"]:
        """The way in which the prompt ended."""
        if self.interrupted:
            return "interrupted"
        return "succeeded" if self.succeeded else "failed"

    @property
    def cached_nodes(self) -> tuple[str, ...]:
        """The ids of the nodes whose outputs came from an earlier prompt."""
        for name, data in self.messages:
            if name == "execution_cached":
                return sequence(data.get("nodes"), identifier) or ()
        return ()

    @property
    def started(self) -> float | None:
        """When the prompt started, in seconds since 1970; ``None`` on servers before July 2024."""
        for name, data in self.messages:
            if name == "execution_start":
                return seconds(data.get("timestamp"))
        return None

    @property
    def ended(self) -> float | None:
        """When the prompt ended, in seconds since 1970; ``None`` on servers before July 2024."""
        end = self._end
        return None if end is None else seconds(end[1].get("timestamp"))


class Histories(ShownAsTable, dict[str, HistoryEntry]):
    """A dict of ended prompts by prompt_id; ``print`` and notebooks show the latest as a table."""

    _repr_pretty_ = write_plain

    def __repr__(self) -> str:
        return f"<Histories of {_count(len(self))}>"

    def _table(self) -> Table:
        latest = list(islice(reversed(self.values()), _MOST_SHOWN))
        more = f"; the latest {_MOST_SHOWN}" if len(self) > _MOST_SHOWN else ""
        return _table(latest, f"{_count(len(self))}{more}")


def _count(prompts: int) -> str:
    return "1 prompt" if prompts == 1 else f"{prompts} prompts"


def _table(entries: Sequence[HistoryEntry], *below: str) -> Table:
    """Return a table with a row for each prompt."""
    from ..showing.tables import Table

    rows = [
        (
            entry.outcome,
            entry.prompt_id,
            _time(entry.ended),
            _took(entry.started, entry.ended),
            len(entry.workflow),
            _files(entry.outputs),
        )
        for entry in entries
    ]
    head = ("outcome", "prompt_id", "ended", "ran", "nodes", "files") if rows else ()
    moods = {"succeeded": "good", "failed": "bad", "interrupted": "doubtful"}
    return Table(head, rows, moods, below=below)


def _time(ended: float | None) -> str:
    """Format a Unix time as local time; return an empty string if there is none."""
    try:
        return "" if ended is None else f"{datetime.fromtimestamp(ended):%Y-%m-%d %H:%M:%S}"
    except (OSError, OverflowError, ValueError):
        return ""


def _took(started: float | None, ended: float | None) -> str:
    return "" if started is None or ended is None else f"{max(0.0, ended - started):.1f} s"


def _files(outputs: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the names of the first few files in the outputs, separated by commas."""
    names = (
        str(value["filename"])
        for output in outputs.values()
        for values in output.values()
        if isinstance(values, list)
        for value in values
        if isinstance(value, Mapping) and "filename" in value
    )
    first = list(islice(names, _MOST_NAMES + 1))
    return ", ".join([*first[:_MOST_NAMES], *(["..."] if len(first) > _MOST_NAMES else [])])
