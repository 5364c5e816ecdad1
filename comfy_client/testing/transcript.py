"""A recording as a list of steps, and the state of its prompts at each step."""

from __future__ import annotations

import base64
import bisect
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import attrs

from ..recording.recorder import FORMAT
from ..values import is_shallow

_NEEDED: Final[Mapping[str, Mapping[str, type]]] = {
    "note": {"text": str},
    "open": {"ch": str, "client_id": str},
    "sent": {"ch": str},
    "json": {"ch": str},
    "binary": {"ch": str, "len": int, "head_b64": str},
    "closed": {"ch": str},
    "http": {"method": str, "path": str},
}
#: The most bytes of a message.
_MOST: Final = 1 << 28
#: The range of each number: times in seconds, sizes in bytes, statuses and close codes.
_RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "t": (0, 1e9),
    "begun": (0, 1e9),
    "len": (0, 2**62),
    "metadata_len": (0, _MOST),
    "announced": (0, 2**62),
    "status": (100, 599),
    "refused": (100, 599),
    "code": (1000, 4999),
}
_OPTIONAL: Final[Mapping[str, type]] = {
    "announced": int,
    "asked": dict,
    "begun": float,
    "code": int,
    "content_type": str,
    "error": str,
    "format": int,
    "headers": dict,
    "len": int,
    "metadata": dict,
    "metadata_len": int,
    "refused": int,
    "status": int,
}
ENDS = ("execution_success", "execution_error", "execution_interrupted")

Row = Mapping[str, Any]


def read_recording(path: str | os.PathLike[str]) -> list[Row]:
    """Return the lines of a recording; raise ValueError if one is invalid.

    A truncated last line is left out.
    """
    rows: list[Row] = []
    data = Path(path).read_bytes()
    for number, line in enumerate(data.split(b"\n")[:-1] or [data], 1):
        try:
            rows.append(_row(line))
        except ValueError as exc:
            raise ValueError(f"{os.fspath(path)}, line {number}: {exc}") from None
    return rows


def _row(line: bytes) -> Row:
    try:
        row: Row = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("not JSON, so this is not a recording") from None
    kind = row.get("kind") if isinstance(row, dict) else None
    needed = _NEEDED.get(kind) if isinstance(kind, str) else None
    if needed is None or not isinstance(row.get("t"), int | float):
        raise ValueError("not a line of a recording, which has a 't' and a known 'kind'")
    for key, form in needed.items():
        if not isinstance(row.get(key), form):
            raise ValueError(f"a line of kind {kind!r} without a proper {key!r}")
    if kind == "http" and "status" not in row:
        raise ValueError("an exchange without a 'status'")
    for key in ("head_b64", "data_b64", "body_b64"):
        try:
            base64.b64decode(row.get(key) or "", validate=True)
        except (TypeError, ValueError):
            raise ValueError(f"a {key!r} that is not base64") from None
    for key, form in _OPTIONAL.items():
        value = row.get(key)
        if not isinstance(value, form | None) and not (form is float and isinstance(value, int)):
            raise ValueError(f"no proper {key!r}")
    for key, (least, most) in _RANGES.items():
        value = row.get(key)
        if value is not None and not least <= value <= most:  # false for NaN
            raise ValueError(f"no proper {key!r}")
    if kind == "binary" and row["len"] > _MOST:
        raise ValueError("no proper 'len'")
    for key in ("asked", "headers", "content_type"):
        value = row.get(key) or {}
        values = [value] if isinstance(value, str) else [*value, *value.values()]
        if not all(isinstance(value, str) and value.isprintable() for value in values):
            raise ValueError(f"no proper {key!r}")
    if not is_shallow(row):
        raise ValueError("nested too deeply")
    if (row.get("format") or 0) > FORMAT:
        raise ValueError(f"format {row['format']}, which is newer than this comfy_client")
    return row


# -- steps ------------------------------------------------------------------------------


@attrs.define(eq=False)
class RecordedExchange:
    """A step of a recording that answers a request."""

    row: Row
    place: int = -1
    used: bool = False

    @property
    def waits(self) -> bool:
        """Whether the following steps wait for this request."""
        return self.row["method"] not in ("GET", "HEAD", "OPTIONS")

    @property
    def path(self) -> str:
        """The path of the request, decoded and without query."""
        return unquote(self.row["path"].partition("?")[0])

    @property
    def prompt_id(self) -> Any:
        """The id of the prompt that this request submitted, or None."""
        answer = self.row.get("response")
        is_prompt = self.row["method"] == "POST" and without_api(self.path) == "/prompt"
        found = answer.get("prompt_id") if is_prompt and isinstance(answer, Mapping) else None
        return found if isinstance(found, str) else None


@attrs.define(eq=False)
class Gate:
    """A step of a recording that waits for a client's request or socket."""

    exchange: RecordedExchange | None = None
    channel: str = ""
    row: Row = attrs.field(factory=dict)
    came: bool = False


Step = RecordedExchange | Gate | Row


def steps_of(rows: list[Row]) -> list[Step]:
    """Return the steps of a recording in order.

    Steps are HTTP exchanges, gates that wait for the client, and the rows of WebSocket messages.
    """
    found: list[tuple[tuple[int, int], Step]] = []
    times = [row["t"] for row in rows]
    for number, row in enumerate(rows):
        kind = row["kind"]
        if kind in ("json", "binary") or (kind == "closed" and row.get("by") == "server"):
            found.append(((number, 1), row))
        elif kind == "open":
            found.append(((number, 1), Gate(channel=row["ch"], row=row)))
        elif kind == "note" and isinstance(row.get("refused"), int):
            found.append(((number, 1), Gate(row=row)))
        elif kind == "http":
            exchange = RecordedExchange(row)
            found.append(((number, 1), exchange))
            if exchange.waits:
                begun = row.get("begun")
                if begun is None:  # no later than the first event about it
                    named = (i for i in range(number) if _is_about(rows[i], exchange.prompt_id))
                    first = next(named, number)
                else:
                    first = min(number, bisect.bisect_right(times, begun))
                found.append(((first, 0), Gate(exchange=exchange, row=row)))
    found.sort(key=lambda pair: pair[0])
    steps = [step for _, step in found]
    for place, step in enumerate(steps):
        if isinstance(step, RecordedExchange):
            step.place = place
    return steps


def _is_about(step: Step, prompt_id: Any) -> bool:
    return prompt_id is not None and event_data(step).get("prompt_id") == prompt_id


def event_data(step: Step) -> Mapping[str, Any]:
    """Return the data of the event in a step, or an empty mapping if there is none."""
    message = step.get("msg") if isinstance(step, Mapping) else None
    data = message.get("data") if isinstance(message, Mapping) else None
    return data if isinstance(data, Mapping) else {}


def event_type(step: Step) -> Any:
    """Return the type of the event in a step, or None if there is none."""
    message = step.get("msg") if isinstance(step, Mapping) else None
    return message.get("type") if isinstance(message, Mapping) else None


def without_api(path: str) -> str:
    """Return a path without its leading ``/api``, as on old servers."""
    return path.removeprefix("/api") if path.startswith("/api/") else path


# -- the state after some steps -----------------------------------------------------------


def last_status(past: list[Step]) -> Mapping[str, Any]:
    """Return the status of the last ``status`` event in these steps, or that of an empty queue."""
    for step in reversed(past):
        status = event_data(step).get("status")
        if event_type(step) == "status" and isinstance(status, Mapping):
            return status
    return {"exec_info": {"queue_remaining": 0}}


def has_ended(past: list[Step], prompt_id: str) -> bool:
    """Return whether an event or a history entry says that a prompt has ended."""
    return any(
        (event_type(step) in ENDS and _is_about(step, prompt_id))
        or (isinstance(step, RecordedExchange) and prompt_id in _history(step))
        for step in past
    )


def queue_item(exchange: RecordedExchange) -> list[Any]:
    """Return a submitted prompt as ``GET /queue`` lists it."""
    body = exchange.row.get("request")
    body = body if isinstance(body, Mapping) else {}
    given = body.get("extra_data")
    extra = {**(given if isinstance(given, dict) else {}), "client_id": body.get("client_id")}
    number = exchange.row["response"].get("number", 0)
    return [number, exchange.prompt_id, body.get("prompt") or {}, extra, []]


def history_entry(steps: list[Step], exchange: RecordedExchange) -> Mapping[str, Any]:
    """Return a prompt's history entry as recorded, or else one made from its events."""
    prompt_id = exchange.prompt_id
    for step in reversed(steps):
        if isinstance(step, RecordedExchange) and prompt_id in _history(step):
            entry: Mapping[str, Any] = _history(step)[prompt_id]
            return entry
    events = [(event_type(s), event_data(s)) for s in steps if _is_about(s, prompt_id)]
    messages = [[kind, data] for kind, data in events if str(kind).startswith("execution_")]
    succeeded = any(kind == "execution_success" for kind, _ in messages)
    return {
        "prompt": queue_item(exchange),
        "outputs": {
            str(d.get("node")): d.get("output") for kind, d in events if kind == "executed"
        },
        "status": {
            "status_str": "success" if succeeded else "error",
            "completed": succeeded,
            "messages": messages,
        },
        "meta": {},
    }


def _history(exchange: RecordedExchange) -> Mapping[str, Any]:
    found = exchange.row.get("response")
    is_history = without_api(exchange.path).startswith("/history")
    return found if is_history and isinstance(found, Mapping) else {}


def submitted_graph(body: Mapping[str, Any]) -> Any:
    """Return the graph of a submission without the nodes' titles, which recordings may lack."""
    graph = body.get("prompt")
    if not isinstance(graph, Mapping):
        return graph
    return {
        node_id: {name: node[name] for name in node if name != "_meta"}
        if isinstance(node, Mapping)
        else node
        for node_id, node in graph.items()
    }
