"""Playback of a recording to a client, for ``ComfyServer.replay``.

The file is one of ``ComfyApi(record=...)`` or of the same format, see
:mod:`comfy_client.recording.recorder`.  It becomes a list of steps.  Some of them wait for the
client: a request that is not a GET, and the opening of a socket.  The order relative to these steps
is kept, however fast either side is this time: a message that came after a request comes after it
again, and one that came before an answer comes before it.  A client may leave requests out: a
later request then skips them, after a pause.

Requests are matched by method, path, query, and their recorded headers; among equal ones other
than GET, the one with the same body comes first.  A GET gets the answers from between the same two
waiting steps, in the same order, and the last of them repeatedly.  If there are none, the answer
is derived from the queue and history at that step, or is the nearest other one.  Ids of prompts
and clients are replaced by the ids of this run.  A request that the recording
does not have is answered with 404; one whose answers are used up, or were not kept, with 409.
"""

from __future__ import annotations

import base64
import bisect
import json
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

import attrs
from aiohttp import web

from ..recording.recorder import FORMAT, KEPT_HEADERS
from ..recording.secrets import STARS
from ..values import is_shallow, list_at, table_at
from .active_faults import check_seconds
from .exchange import Exchange
from .wire import Answer, EventSocket, Request, cut, frame, never_answer, unknown_route

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
_MOST_OF_MESSAGE: Final = 1 << 28
#: The range of each number: times in seconds, sizes in bytes, statuses and close codes.
_RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "t": (0, 1e9),
    "begun": (0, 1e9),
    "len": (0, 2**62),
    "metadata_len": (0, _MOST_OF_MESSAGE),
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
_UNFINISHED: Final = ("pending", "in_progress")
ENDS = ("execution_success", "execution_error", "execution_interrupted")

RecordedRow = Mapping[str, Any]


def read_recording(path: str | os.PathLike[str]) -> list[RecordedRow]:
    """Return the lines of a recording; raise ValueError if one is invalid.

    A truncated last line is left out.
    """
    rows: list[RecordedRow] = []
    data = Path(path).read_bytes()
    for number, line in enumerate(data.split(b"\n")[:-1] or [data], 1):
        try:
            rows.append(_row(line))
        except ValueError as exc:
            raise ValueError(f"{os.fspath(path)}, line {number}: {exc}") from None
    return rows


def _row(line: bytes) -> RecordedRow:
    try:
        row: RecordedRow = json.loads(line)
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
    if kind == "binary" and row["len"] > _MOST_OF_MESSAGE:
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

    row: RecordedRow
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
    row: RecordedRow = attrs.field(factory=dict)
    came: bool = False


ReplayStep = RecordedExchange | Gate | RecordedRow


def steps_of(rows: list[RecordedRow]) -> list[ReplayStep]:
    """Return the steps of a recording in order.

    Steps are HTTP exchanges, gates that wait for the client, and the rows of WebSocket messages.
    """
    found: list[tuple[tuple[int, int], ReplayStep]] = []
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


def _is_about(step: ReplayStep, prompt_id: Any) -> bool:
    return prompt_id is not None and event_data(step).get("prompt_id") == prompt_id


def event_data(step: ReplayStep) -> Mapping[str, Any]:
    """Return the data of the event in a step, or an empty mapping if there is none."""
    return table_at(step, "msg", "data")


def event_type(step: ReplayStep) -> Any:
    """Return the type of the event in a step, or None if there is none."""
    return table_at(step, "msg").get("type")


def without_api(path: str) -> str:
    """Return a path without its leading ``/api``, as on old servers."""
    return path.removeprefix("/api") if path.startswith("/api/") else path


# -- the state after some steps -----------------------------------------------------------


def last_status(past: list[ReplayStep]) -> Mapping[str, Any]:
    """Return the status of the last ``status`` event in these steps, or that of an empty queue."""
    for step in reversed(past):
        status = event_data(step).get("status")
        if event_type(step) == "status" and isinstance(status, Mapping):
            return status
    return {"exec_info": {"queue_remaining": 0}}


def has_ended(past: list[ReplayStep], prompt_id: str) -> bool:
    """Return whether an event or a history entry says that a prompt has ended."""
    return any(
        (event_type(step) in ENDS and _is_about(step, prompt_id))
        or (isinstance(step, RecordedExchange) and prompt_id in _history(step))
        for step in past
    )


def queue_item(exchange: RecordedExchange) -> list[Any]:
    """Return a submitted prompt as ``GET /queue`` lists it."""
    body = table_at(exchange.row, "request")
    extra = {**table_at(body, "extra_data"), "client_id": body.get("client_id")}
    number = exchange.row["response"].get("number", 0)
    return [number, exchange.prompt_id, body.get("prompt") or {}, extra, []]


def history_entry(steps: list[ReplayStep], exchange: RecordedExchange) -> Mapping[str, Any]:
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


#: Seconds between two messages; a flooded client drops some.
_APART: Final = 0.001
_CONDITIONS: Final = ("range", "if-none-match", "if-range")  # headers that answers depend on


class Player:
    """A player of a recording, which answers requests and sends messages.

    Args:
        path: The recording.
        pace: The factor for recorded pauses.
        skip_after: Seconds that a request waits for the steps before it.
        is_up: Whether the server is running.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        pace: float,
        skip_after: float,
        is_up: Callable[[], bool],
    ) -> None:
        rows = read_recording(path)
        self._name = os.path.basename(os.fspath(path))
        self._pace = check_seconds(pace, "pace is")
        self._skip_after = check_seconds(skip_after, "skip_after is")
        self._is_up = is_up
        self._is_ours = "format" in rows[0]
        self._steps = steps_of(rows)
        self._gates = [i for i, step in enumerate(self._steps) if isinstance(step, Gate)]
        self._exchanges = [step for step in self._steps if isinstance(step, RecordedExchange)]
        self._dials = [s for s in self._steps if isinstance(s, Gate) and s.exchange is None]
        #: Query parameters whose values were secret, so that any value matches.
        self._ignored = {
            name
            for exchange in self._exchanges
            for name, value in _query(exchange.row["path"])
            if value == STARS
        }
        #: Whether the recorded server had no /api, as before June 2024.
        self._is_flat = any(
            e.row["path"] == "/api/prompt" and e.row["status"] == 404 for e in self._exchanges
        )
        self._by_key: dict[Hashable, list[RecordedExchange]] = defaultdict(list)
        for exchange in self._exchanges:
            row = exchange.row
            conditions = row.get("asked") or {}
            key = self._key(row["method"], exchange.path, _query(row["path"]), conditions)
            self._by_key[key].append(exchange)
        self._later: Callable[..., object]  # call in the server's thread; set with a socket
        self._changed = threading.Condition()  # guards all that rewind() sets
        self.rewind()

    def rewind(self) -> None:
        """Begin with the first step again; sockets that are open get no more messages."""
        with self._changed:
            self._next = 0  # index of the next step
            self._released = -1  # gates up to this one are open in any case
            self._plays = False
            self._since = (0.0, 0.0)  # when the last gate was passed, and its recorded time
            self._ids: dict[str, str] = {}  # recorded ids: ids of this run
            self._sockets: dict[str, EventSocket] = {}  # by channel
            self._dialled = 0
            for exchange in self._exchanges:
                exchange.used = False
            self._changed.notify_all()

    def answer(self, request: Request) -> Answer | None:
        """Return the answer to a request that is not for a socket, once it is due.

        Return None if the connection is to end without one.
        """
        with self._changed:
            found = self._find(request)
            if not isinstance(found, RecordedExchange):
                return found
            found.used = True
            if found.waits:
                self._map_ids(found, request)
            self._play()
            pause = self._pace * max(0.0, found.row["t"] - self._since[1])
            its_turn = partial(self._is_past, found)
            if not self._changed.wait_for(its_turn, self._skip_after + pause) and found.waits:
                self._released = max(self._released, found.place)
                self._play()
                self._changed.wait_for(its_turn, self._skip_after)
        return self._answer_of(found, request)

    # -- which answer --------------------------------------------------------------------

    def _find(self, request: Request) -> RecordedExchange | Answer:
        there = {here: there for there, here in self._ids.items()}
        path = "/".join(there.get(part, part) for part in unquote(request.full_path).split("/"))
        query = [(name, there.get(value, value)) for name, value in request.query.items()]
        conditions = {n: request.headers[n] for n in _CONDITIONS if n in request.headers}
        alike = self._by_key.get(self._key(request.method, path, query, conditions), [])
        known = [exchange for exchange in alike if exchange.path == path]
        if not known and not self._is_flat:
            known = alike  # with or without /api
        if request.method in ("GET", "HEAD", "OPTIONS"):
            return self._among(known) or self._derived(request) or self._nearest(known, request)
        fresh = [exchange for exchange in known if not exchange.used]
        if fresh:
            return next((e for e in fresh if self._same_body(e, request)), fresh[0])
        return self._lacks(request, len(known))

    def _key(
        self, method: str, path: str, query: list[tuple[str, str]], conditions: Mapping[str, str]
    ) -> Hashable:
        kept = frozenset((name, value) for name, value in query if name not in self._ignored)
        return method, without_api(path), kept, frozenset(conditions.items())

    def _among(self, known: list[RecordedExchange]) -> RecordedExchange | None:
        """Return the next of these exchanges between the current gates, the last again, or None."""
        at = bisect.bisect_left(self._gates, self._next)
        low = self._gates[at - 1] if at else -1
        high = self._gates[at] if at < len(self._gates) else len(self._steps)
        here = [exchange for exchange in known if low < exchange.place < high]
        fresh = next((exchange for exchange in here if not exchange.used), None)
        if fresh is not None or not here:
            return fresh
        later = self._steps[here[-1].place : self._next]
        ended = any(event_type(step) in ENDS for step in later) or any(
            has_ended(later, one.prompt_id) for one in self._exchanges if one.used and one.prompt_id
        )
        return None if ended else here[-1]

    def _derived(self, request: Request) -> Answer | None:
        """Return an answer about queue or history from the steps so far; None for other paths."""
        if request.method != "GET" or (self._is_flat and request.path != request.full_path):
            return None
        past = self._steps[: self._next]
        path, _, wanted = request.path[1:].partition("/")
        if path == "prompt" and not wanted:
            return 200, {}, last_status(past)
        taken = [e for e in self._exchanges if e.used and e.prompt_id and e.row["status"] == 200]
        ended = [e for e in taken if has_ended(past, e.prompt_id)]
        if path == "queue" and not wanted:
            running = [queue_item(e) for e in taken if e not in ended]
            return 200, {}, self._here({"queue_running": running[:1], "queue_pending": running[1:]})
        if path != "history":
            return None
        entries = self._here({e.prompt_id: history_entry(self._steps, e) for e in ended})
        return 200, {}, {i: e for i, e in entries.items() if wanted in ("", i)}

    def _nearest(
        self, known: list[RecordedExchange], request: Request
    ) -> RecordedExchange | Answer:
        before = [exchange for exchange in known if exchange.place < self._next]
        if known:
            nearest = before[-1] if before else known[0]
            return attrs.evolve(nearest, place=-1, row=self._without_ended(nearest.row))
        return self._lacks(request, 0)

    def _without_ended(self, row: RecordedRow) -> RecordedRow:
        """Return an exchange without the unfinished jobs that have ended in the steps so far."""
        past = self._steps[: self._next]
        answer, jobs = table_at(row, "response"), list_at(row, "response", "jobs")
        left = [
            job
            for job in jobs
            if table_at(job).get("status") not in _UNFINISHED or not has_ended(past, job.get("id"))
        ]
        return row if len(left) == len(jobs) else {**row, "response": {**answer, "jobs": left}}

    def _same_body(self, exchange: RecordedExchange, request: Request) -> bool:
        recorded = exchange.row.get("request")
        try:
            sent = request.json()
        except ValueError:
            return False
        if exchange.prompt_id is None or not isinstance(recorded, Mapping):
            return bool(self._here(recorded) == sent)
        graph = submitted_graph(recorded)
        return isinstance(sent, Mapping) and submitted_graph(sent) == graph

    def _lacks(self, request: Request, had: int) -> Answer:
        what = f"{request.method} {request.target}"
        if had:
            text = f"the recording {self._name} has no more {what}: {had} in all"
            return _not_recorded(409, text)
        if self._is_flat and request.full_path.startswith("/api/"):
            return 404, {}, "404: Not Found"
        if request.path.startswith("/jobs"):  # most servers lack it, so clients cope
            return unknown_route(request.method)
        return _not_recorded(404, f"the recording {self._name} has no {what}")

    # -- ids -----------------------------------------------------------------------------

    def _map_ids(self, exchange: RecordedExchange, request: Request) -> None:
        """Map the recorded ids of a request to the ids of this run."""
        recorded = exchange.row.get("request")
        try:
            sent = request.json()
        except ValueError:
            return
        if not isinstance(recorded, Mapping) or not isinstance(sent, Mapping):
            return
        for key in ("prompt_id", "client_id"):
            if isinstance(sent.get(key), str) and isinstance(recorded.get(key), str):
                self._ids[recorded[key]] = sent[key]
        chosen = exchange.prompt_id
        if isinstance(chosen, str) and "prompt_id" not in recorded and "prompt_id" in sent:
            self._ids[chosen] = str(sent["prompt_id"])

    def _here(self, value: Any) -> Any:
        """Replace the recorded ids in a value by the ids of this run."""
        if isinstance(value, str):
            return self._ids.get(value, value)
        if isinstance(value, Mapping):
            return {self._ids.get(key, key): self._here(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self._here(each) for each in value]
        return value

    # -- answers -------------------------------------------------------------------------

    def _answer_of(self, exchange: RecordedExchange, request: Request) -> Answer | None:
        row = exchange.row
        is_silent = "Timeout" in (row.get("error") or "")
        if row["status"] is None:
            if is_silent:
                never_answer(request)
            return None
        kind = row.get("content_type")
        headers = {"Content-Type": kind} if kind else {}
        headers |= {
            name: value
            for name, value in (row.get("headers") or {}).items()
            if name.lower() in KEPT_HEADERS  # a stranger may have added others
        }
        body = self._body(row)
        if body is None:
            what = f"{request.method} {request.target}, {row.get('len')} bytes"
            return _not_recorded(409, f"the recording {self._name} did not keep the body of {what}")
        short = row.get("short")
        if short is None or (short == "left" and not body):  # nobody read it
            return row["status"], headers, body
        due = row.get("announced") or len(body) + 1
        cut((row["status"], {**headers, "Content-Length": str(due)}, body), len(body))(request)
        if is_silent or short == "left":
            never_answer(request)
        return None

    def _body(self, row: RecordedRow) -> bytes | None:
        """Return a recorded body with the ids of this run, or None if the recording lacks it."""
        kept, size = row.get("response"), row.get("len")
        if row.get("body_b64") is not None:
            return base64.b64decode(row["body_b64"])
        if "sha256" in row:
            return None
        is_json = "json" in (row.get("content_type") or "")
        if isinstance(kept, str) and (row.get("as_text") or not (is_json and self._is_ours)):
            data = kept.encode("utf-8", "replace")
            return data if size is None or size <= len(data) or self._is_ours else None
        if kept is None and not (is_json and size):
            return None if size else b""
        return json.dumps(self._here(kept)).encode()

    # -- the socket ----------------------------------------------------------------------

    async def socket(self, exchange: Exchange) -> web.StreamResponse:
        """Open a socket and serve it to its end, or refuse it, as recorded."""
        with self._changed:
            gate = self._dials[self._dialled] if self._dialled < len(self._dials) else None
            self._dialled += 1
            if gate is None and not any(dial.channel for dial in self._dials):
                gate = self._dials[-1] if self._dials else None  # refuse each dial like the last
            if gate is not None and not gate.channel:
                gate.came = True
                self._play()
                status = gate.row["refused"]
                return exchange.reply(_not_recorded(status, "no socket here, as recorded"))
        ws = web.WebSocketResponse()
        await ws.prepare(exchange.request)
        client_id = exchange.seen.query.get("clientId", "")
        opened = EventSocket(client_id, ws, exchange.request.transport)
        with self._changed:
            self._later = exchange.state.loop.later
            self._greet(opened, gate, client_id)
            self._play()
        async for _ in ws:
            pass  # pings are answered
        return ws

    def _greet(self, opened: EventSocket, gate: Gate | None, client_id: str) -> None:
        """Assign a recorded channel to a socket; send ``status`` if its recorded start is past."""
        if gate is None or self._steps.index(gate) < self._next:
            greeting = {
                "status": last_status(self._steps[: self._next]),
                "sid": client_id,
            }
            self._later(opened.write, _text({"type": "status", "data": greeting}))
        if gate is not None:
            self._ids[gate.row["client_id"]] = client_id
            gate.came = True
        channels = [dial.channel for dial in self._dials if dial.came and dial.channel]
        self._sockets[gate.channel if gate else channels[-1] if channels else "ws1"] = opened

    # -- playing -------------------------------------------------------------------------

    def _is_past(self, exchange: RecordedExchange) -> bool:
        return self._next > exchange.place

    def _play(self) -> None:
        """Continue playing in a thread as far as possible; the caller holds the lock."""
        self._changed.notify_all()
        if not self._plays and self._may_continue():
            self._plays = True
            threading.Thread(target=self._run, name="ComfyServer replay", daemon=True).start()

    def _may_continue(self) -> bool:
        if self._next >= len(self._steps) or not self._is_up():
            return False
        step = self._steps[self._next]
        if not isinstance(step, Gate) or self._next <= self._released:
            return True
        return step.came if step.exchange is None else step.exchange.used

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._may_continue():
                    self._plays = False
                    return
                step = self._steps[self._next]
                row = step if isinstance(step, Mapping) else step.row
                left = self._since[0] + (row["t"] - self._since[1]) * self._pace - time.monotonic()
                if self._pace and left > 0 and not isinstance(step, Gate):
                    self._changed.wait(min(left, 0.1))
                    continue
                if isinstance(step, Gate):
                    begun = row.get("begun")
                    self._since = (time.monotonic(), row["t"] if begun is None else begun)
                elif isinstance(step, Mapping):
                    self._send(step)
                self._next += 1
                self._changed.notify_all()
            if not isinstance(step, Gate):
                time.sleep(_APART)

    def _send(self, row: RecordedRow) -> None:
        opened = self._sockets.get(row["ch"])
        if opened is None:
            return
        if row["kind"] == "closed":
            code = row.get("code")
            if code is not None:
                data = b"" if code == 1005 else code.to_bytes(2, "big")
                self._later(opened.write, frame(8, data))
            self._later(opened.hang_up, code is None)
        elif row["kind"] == "binary":
            self._later(opened.write, frame(2, self._binary(row)))
        elif isinstance(row.get("text"), str):
            self._later(opened.write, frame(1, row["text"].encode("utf-8", "replace")))
        elif "msg" in row:
            self._later(opened.write, _text(self._here(row["msg"])))

    def _binary(self, row: RecordedRow) -> bytes:
        """Return a binary message, with zeros for bytes that were not recorded."""
        metadata = row.get("metadata")
        if row.get("data_b64") is not None:
            data = base64.b64decode(row["data_b64"])
            rest = data[8 + int.from_bytes(data[4:8], "big") :]
        else:
            data = base64.b64decode(row["head_b64"]).ljust(row["len"], b"\0")
            magic = b"\xff\xd8\xff\xe0" if row.get("body") == "JPEG" else b"\x89PNG\r\n\x1a\n"
            rest = magic.ljust(max(0, row["len"] - 8 - row.get("metadata_len", 0)), b"\0")
        if row.get("event") != 4 or not isinstance(metadata, Mapping):
            return data
        head = json.dumps(self._here(metadata)).encode()
        return data[:4] + len(head).to_bytes(4, "big") + head + rest


def _not_recorded(status: int, text: str) -> Answer:
    error = {"type": "not_recorded", "message": text, "details": "", "extra_info": {}}
    return status, {}, {"error": error, "node_errors": {}}


def _text(message: Any) -> bytes:
    return frame(1, json.dumps(message).encode())


def _query(path: str) -> list[tuple[str, str]]:
    return parse_qsl(path.partition("?")[2], keep_blank_values=True)
