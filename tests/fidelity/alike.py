"""What is compared of answers and messages: all but ids, times, numbers of files, and their like.

``Side.comparable`` of :mod:`tests.helpers.differential` makes two servers comparable, and is used
here for a recording and a server.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import struct
from collections.abc import Collection, Iterator
from typing import Any

from PIL import Image

from tests.helpers.differential import Side, differences
from tests.helpers.prose import without_prose

#: Requests of which only the kinds of the values are compared, and why.
KINDS = {
    r"GET /": "of another page",
    r"GET /system_stats": "of another machine",
    r"GET /(experiment/)?models": "of other folders",
    r"GET /(experiment/)?models/.*": "of other files",
    r"GET /internal/(logs.*|folder_paths|files/.*)": "of other folders and another log",
    r"GET /extensions": "of another page",
    r"GET /global_subgraphs": "of other packs",
    r"GET /object_info.*": "of other files",
    r"GET /(api/)?assets.*": "of other files",
    r"GET /view\?.*": "of other pictures",
}
_TIMES = {"execution_start_time", "execution_end_time", "modified", "created"}
_NUMBERS = {"number", "priority"}
#: The order of a set there decides about ``dependent_outputs``.
_UNSAID = {"memory", "description", "dependent_outputs"}
_TICKS = ("progress", "progress_state", "binary")
_OFTEN = ("logs", "assets.seed.progress", "assets.seed.paused", "assets.seed.resumed")
_SOLID = ("execution_success", "execution_error", "execution_interrupted")


def _is_graph(value: Any) -> bool:
    nodes = value.values() if isinstance(value, dict) else ()
    return bool(nodes) and all(isinstance(node, dict) and "class_type" in node for node in nodes)


def _plain(value: Any, key: str = "") -> Any:
    """A value without what depends on earlier prompts, on the hour and on the machine."""
    if _is_graph(value) and key != "node_errors":
        return "(a workflow)"
    if isinstance(value, dict):
        if value.get("type") in ("output", "temp") and "filename" in value:
            name = re.sub(r".*_\d{5}_", "(prefix)_00001_", value["filename"])
            value = {**value, "filename": name, **({"id": "an id"} if "id" in value else {})}
        return {name: _plain(one, name) for name, one in value.items() if name not in _UNSAID}
    if isinstance(value, list):
        if (
            len(value) in (5, 6)
            and value[2:3]
            and _is_graph(value[2]) | (value[2] == "(the workflow)")
        ):
            value = [_sign(value[0]), value[1], "(a workflow)", value[3], sorted(value[4])]
        return [_plain(one, key) for one in value]
    if key in _TIMES and isinstance(value, int | float):
        return f"{'milliseconds' if value > 1e12 else 'seconds'} as {type(value).__name__}"
    if key in _NUMBERS and isinstance(value, int):
        return _sign(value)
    if key == "exception_message":  # whose words depend on libraries
        return "a message"
    if isinstance(value, str):
        value = re.sub(r"^\(the workflow\)$", "(a workflow)", value)
        return re.sub(r"_\d{5}_", "_00001_", value)
    return value


def _sign(number: Any) -> str:
    return "a number" if number >= 0 else "a number below 0"


def comparable(side: Side, value: Any) -> Any:
    """A value of one side, as it must be on the other."""
    return side.comparable(_plain(value))


def kinds(value: Any) -> Any:
    """A value with types in the place of texts and numbers; of a list, what its items are like."""
    if isinstance(value, dict):
        return {key: kinds(one) for key, one in value.items()}
    if isinstance(value, list):
        return sorted({json.dumps(kinds(one), sort_keys=True) for one in value})
    if isinstance(value, bool):
        return "true or false"
    return "number" if isinstance(value, int | float) else type(value).__name__


# -- answers ----------------------------------------------------------------------------


def whole(text: Any) -> Any:
    """JSON of a text; of one that was cut off, what is there of it."""
    if not isinstance(text, str):
        return text
    with contextlib.suppress(ValueError):
        return json.loads(text)
    if text[:1] not in ("{", "["):
        return text
    ends = [found.end() for found in reversed([*re.finditer(r"[\]}]", text)])]
    ends += [found.start() for found in reversed([*re.finditer(",", text)])]
    for end in ends:
        part = text[:end]
        with contextlib.suppress(ValueError):
            return json.loads(part + _closing(part))
    return text


def _closing(text: str) -> str:
    """The brackets that a text leaves open."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", text)
    stack = []
    for sign in re.findall(r"[][{}]", bare):
        if sign in "[{":
            stack.append("]" if sign == "[" else "}")
        elif stack:
            stack.pop()
    return "".join(reversed(stack))


def is_cut(row: dict[str, Any]) -> bool:
    """Whether a recording has but the beginning of a body."""
    body = row["response"]
    if not isinstance(body, str) or body[:1] not in ("{", "["):
        return False
    try:
        json.loads(body)
    except ValueError:
        return True
    return False


def like(recorded: Any, found: Any) -> Any:
    """Of what was found, as much as a recording that was cut off has."""
    if isinstance(recorded, dict) and isinstance(found, dict):
        return {key: like(one, found[key]) for key, one in recorded.items() if key in found}
    if isinstance(recorded, list) and isinstance(found, list):
        return [like(one, other) for one, other in zip(recorded, found, strict=False)]
    return found


def compared_by(line: str) -> str:
    """Why only the kinds of values are compared of a request; "" if all of it is."""
    return next((why for pattern, why in KINDS.items() if re.fullmatch(pattern, line)), "")


def own_jobs(answer: Any, known: Collection[str]) -> Any:
    """A list of jobs without those from before the recording, and without their number."""
    if not isinstance(answer, dict) or not isinstance(answer.get("jobs"), list):
        return answer
    jobs = [job for job in answer["jobs"] if job["id"] in known]
    pages = {k: v for k, v in answer.get("pagination", {}).items() if k in ("offset", "limit")}
    return {**answer, "jobs": jobs, **({"pagination": pages} if pages else {})}


def sorted_if_listed(line: str, value: Any) -> Any:
    """The names of files, which a disk tells in any order, in theirs."""
    is_of_disk = "/userdata?" in line and isinstance(value, list)
    return sorted(value, key=json.dumps) if is_of_disk else value


def unlike(there: Any, here: Any) -> list[str]:
    """Where two values differ."""
    return list(differences(there, here))


# -- messages ---------------------------------------------------------------------------


def recorded_message(row: dict[str, Any]) -> tuple[str, Any]:
    """The kind of a recorded message, and what it says."""
    if row["kind"] == "json":
        return row["msg"]["type"], row["msg"]["data"]
    kind = f"binary {row['event']}"
    if row["event"] == 3:
        return kind, [row["node"], row["text"]]
    metadata = without_prose(row.get("metadata")) if "metadata" in row else None
    return kind, [metadata, row["body"], row["size"]]


def message(data: str | bytes) -> tuple[str, Any]:
    """The same of a message of a socket."""
    if isinstance(data, str):
        told = json.loads(data)
        return told["type"], told["data"]
    [kind] = struct.unpack_from(">I", data)
    if kind == 3:
        [size] = struct.unpack_from(">I", data, 4)
        return "binary 3", [data[8 : 8 + size].decode(), data[8 + size :].decode()]
    metadata, picture = None, data[8:]
    if kind == 4:
        [size] = struct.unpack_from(">I", data, 4)
        metadata, picture = json.loads(data[8 : 8 + size]), data[8 + size :]
    with Image.open(io.BytesIO(picture)) as image:
        return f"binary {kind}", [metadata, image.format, list(image.size)]


def is_tick(kind: str) -> bool:
    """Whether a message may come any number of times."""
    return kind.startswith(_TICKS)


def story(messages: list[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Messages as they must be again: of many ticks the first and the last of each kind.

    Most of ``status`` is told apart, since two threads send it: see :func:`remaining`.
    """
    ticks: list[tuple[str, Any]] = []
    last, begun = "", False
    for kind, data in messages:
        if is_tick(kind):
            ticks.append((kind, data))
            last = kind
            continue
        if kind == "feature_flags":  # from another thread than progress
            yield kind, data
            continue
        if kind in _OFTEN or (kind == "status" and "sid" not in data and last not in _SOLID):
            continue
        yield from _of_many(ticks, begun, kind != "execution_interrupted")
        ticks = []
        yield kind, data if kind != "status" or "sid" in data else list(data)
        last, begun = kind, "prompt_id" in data  # not when a new socket is told where it stands
    yield from _of_many(ticks, begun, False)


def _of_many(ticks: list[tuple[str, Any]], begun: bool, ended: bool) -> Iterator[tuple[str, Any]]:
    """Return the first and the last ones; where it began or ended too early, without values."""
    by_kind: dict[str, list[Any]] = {}
    for kind, data in ticks:
        by_kind.setdefault(kind, []).append(data)
    if by_kind.keys() <= {"progress_state", "binary 3"} and begun and ended:
        yield from ticks
        return
    if not begun:  # in the midst of a step
        by_kind = dict(sorted(by_kind.items()))
    for kind, every in by_kind.items():
        yield kind, every[0] if begun else _unfinished(every[0])
    for kind, every in by_kind.items():
        yield kind, every[-1] if ended else _unfinished(every[-1])


def _unfinished(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _unfinished(one, name) for name, one in value.items()}
    return "a number" if key == "value" else value


def remaining(messages: list[tuple[str, Any]]) -> list[Any]:
    """What ``status`` said, in any order, for it tells how fast prompts came and went."""
    said = {json.dumps(uncounted(data)) for kind, data in messages if kind == "status"}
    return [json.loads(one) for one in sorted(said)]


def uncounted(status: Any) -> Any:
    """A status that says whether there are prompts, and not how many."""
    info = status["status"]["exec_info"]
    return {"status": {"exec_info": {**info, "queue_remaining": bool(info["queue_remaining"])}}}
