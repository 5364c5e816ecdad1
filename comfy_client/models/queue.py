"""Answers about prompts that wait or run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import attrs

from ..errors import UnexpectedResponse
from ..showing.cells import ShownAsTable
from ..to_dict import AsDict
from ..values import identifier, items, mapping, number, sequence

if TYPE_CHECKING:
    from ..showing.tables import Table

#: The most prompts that a notebook shows.
_MOST_SHOWN: Final = 50


class PromptRecord(NamedTuple):
    """The fields of the array that describes a prompt in the queue and in the history."""

    number: float | None
    prompt_id: str
    workflow: Mapping[str, Any]
    extra_data: Mapping[str, Any]
    outputs: tuple[str, ...]


def prompt_record(data: object, what: str) -> PromptRecord:
    """Parse a prompt's array ``[number, prompt_id, workflow, extra_data, outputs, ...]``.

    Comfy Cloud swaps ``extra_data`` and ``outputs``, and newer servers append more, so the items
    after the workflow are recognized by their types.
    """
    parts = items(data, what)
    prompt_id = identifier(parts[1]) if len(parts) > 1 else None
    if prompt_id is None:
        raise UnexpectedResponse(f"{what}: number and prompt_id are missing")
    place, _, *rest = parts
    mappings = [part for part in rest if isinstance(part, Mapping)]
    lists = [part for part in rest if isinstance(part, list)]
    return PromptRecord(
        number(place),
        prompt_id,
        mappings[0] if mappings else {},
        mappings[1] if len(mappings) > 1 else {},
        (sequence(lists[0], identifier) or ()) if lists else (),
    )


class _Late:
    """The base of classes whose large attributes may be made at first use.

    A queue of thousands of prompts has hundreds of thousands of values.  While they exist, each
    full pass of the garbage collector stops all threads for a tenth of a second.
    """

    __slots__ = ("_make",)

    _make: Callable[[], Mapping[str, Any]]

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Make the attributes that are still missing, and return one of them."""
            if name not in attrs.fields_dict(type(self)):
                said = f"{type(self).__name__!r} object has no attribute {name!r}"
                raise AttributeError(said, name=name, obj=self)
            _set(self, self._make())
            return object.__getattribute__(self, name)


def _set(frozen: object, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        object.__setattr__(frozen, name, value)


@attrs.frozen
class QueueItem(_Late, AsDict):
    """A prompt in the queue.

    Attributes:
        number: Its priority; low runs first.  ``None`` if missing.
        prompt_id: The id of the prompt.
        workflow: The graph in API format.
        extra_data: What was submitted with the workflow: ``client_id``, ``create_time``
            (milliseconds), ``extra_pnginfo``, ...
        outputs: Ids of the output nodes that will run.
        raw: The JSON array as received.
    """

    _not_in_dict = ("workflow", "extra_data")

    number: float | None
    prompt_id: str
    workflow: Mapping[str, Any] = attrs.field(repr=False)
    extra_data: Mapping[str, Any] = attrs.field(repr=False)
    outputs: tuple[str, ...] = ()
    raw: Sequence[Any] = attrs.field(factory=list, repr=False, eq=False)

    @classmethod
    def from_json(cls, data: object) -> QueueItem:
        """Read ``[number, prompt_id, workflow, extra_data, outputs]``."""
        return cls(*prompt_record(data, "QueueItem"), raw=items(data, "QueueItem"))


def queue_item(data: object, text: str | None) -> object:
    """Read a record whose JSON is ``text``, which alone is kept; ``None``: keep all.

    Anything else is returned as it is: it may stand in a list that is unknown here.
    """
    try:
        item = QueueItem.from_json(data)
    except UnexpectedResponse:
        return data
    if text is None:
        return item
    short = QueueItem.__new__(QueueItem)
    _set(short, {name: getattr(item, name) for name in ("number", "prompt_id", "outputs")})
    _set(short, {"_make": partial(_large_parts, text)})
    return short


def _large_parts(text: str) -> dict[str, Any]:
    item = QueueItem.from_json(json.loads(text))
    return {name: getattr(item, name) for name in ("workflow", "extra_data", "raw")}


def _item(data: object) -> QueueItem:
    return data if isinstance(data, QueueItem) else QueueItem.from_json(data)


def _raw(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return an answer as it was received, from one with read records."""
    raw = {
        key: [one.raw if isinstance(one, QueueItem) else one for one in value]
        if isinstance(value, list)
        else value
        for key, value in source.items()
    }
    return {"raw": raw}


@attrs.frozen(repr=False)
class Queue(_Late, ShownAsTable, AsDict):
    """The running and pending prompts, from ``GET /queue``.

    Attributes:
        running: The prompts that are running.
        pending: The prompts that are waiting, in the order in which they will run.
        raw: The JSON object as received.
    """

    running: tuple[QueueItem, ...] = ()
    pending: tuple[QueueItem, ...] = ()
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @classmethod
    def from_json(cls, data: object) -> Queue:
        """Parse the answer, and sort the pending prompts, which the server sends as a heap.

        Records may be :class:`QueueItem` already.
        """
        source = mapping(data, "Queue")
        running, pending = (
            list(map(_item, items(source.get(key), f"Queue.{key}")))
            for key in ("queue_running", "queue_pending")
        )
        pending.sort(key=lambda one: float("inf") if one.number is None else one.number)
        queue = cls.__new__(cls)
        parts = {"running": tuple(running), "pending": tuple(pending)}
        _set(queue, {**parts, "_make": partial(_raw, source)})
        return queue

    def __repr__(self) -> str:
        return f"<Queue {self._counts}>"

    @property
    def _counts(self) -> str:
        return f"{len(self.running)} running, {len(self.pending)} pending"

    def _table(self) -> Table:
        from ..showing.tables import Table

        items = [("running", one) for one in self.running]
        items += [("pending", one) for one in self.pending]
        rows = [
            (
                state,
                "-" if one.number is None else f"{one.number:g}",
                one.prompt_id,
                len(one.workflow),
            )
            for state, one in items[:_MOST_SHOWN]
        ]
        more = f"; the first {_MOST_SHOWN}" if len(items) > _MOST_SHOWN else ""
        head = ("state", "number", "prompt_id", "nodes") if rows else ()
        return Table(head, rows, {"running": "good"}, below=[f"{self._counts}{more}"])

    def __contains__(self, prompt_id: object) -> bool:
        """Return whether a prompt is pending or running: ``prompt_id in api.get_queue()``."""
        return any(item.prompt_id == prompt_id for item in (*self.running, *self.pending))
