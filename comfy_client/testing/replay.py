"""Plays a recording: what ``ComfyServer.replay`` does.

The file is one of ``ComfyApi(record=...)`` or of the same format, see
:mod:`comfy_client.recording.recorder`.  It becomes a list of steps.  Some of them wait for the
client: a request that is no GET, and the dial of a socket.  What came on the socket after one
of these comes after it again, what came before an answer comes before it, and so on, whoever is
faster this time.  A client that does not do all of it again may go on with a later request; what it
left out is passed over then.

Requests are told apart by method, path, query, and the headers that the file has of them; of
several equal ones that are no GET, first comes the one with the same body.  A GET gets what
was said between the same two steps that wait, in the same order, the last of it again and
again; and if nothing was, what is known of queue and history by then, or the nearest other
answer.  Ids of prompts and clients are those of the client that plays along.  What the
recording does not have is a 404, what it has no more of, or did not keep, a 409; both say so.
"""

from __future__ import annotations

import base64
import bisect
import contextlib
import json
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

import attrs

from ..recording.recorder import FORMAT
from ..recording.secrets import STARS
from .http import Answer, Request, Wire, cut, encode, never_answer, unknown_route, upgrade
from .websocket import frame

#: Seconds between two messages: a client that is flooded leaves some out.
_APART: Final = 0.001
#: Seconds that a request waits for what came before it, until the client is taken to have
#: left that out.
_HOLD: Final = 2.0

_NEEDED: Final[Mapping[str, Mapping[str, type]]] = {
    "note": {"text": str},
    "open": {"ch": str, "client_id": str},
    "sent": {"ch": str},
    "json": {"ch": str},
    "binary": {"ch": str, "len": int, "head_b64": str},
    "closed": {"ch": str},
    "http": {"method": str, "path": str},
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
_ENDS = ("execution_success", "execution_error", "execution_interrupted")
_ASKED = ("range", "if-none-match", "if-range")

Row = Mapping[str, Any]


def read(path: str | os.PathLike[str]) -> list[Row]:
    """The lines of a recording; ValueError names the first that is none.

    A last line that was not written to its end is left out.
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
        raise ValueError("no JSON, so this is no recording") from None
    kind = row.get("kind") if isinstance(row, dict) else None
    needed = _NEEDED.get(kind) if isinstance(kind, str) else None
    if needed is None or not isinstance(row.get("t"), int | float):
        raise ValueError("no line of a recording, which has a 't' and a known 'kind'")
    for key, form in needed.items():
        if not isinstance(row.get(key), form):
            raise ValueError(f"a line of kind {kind!r} without a proper {key!r}")
    if kind == "http" and "status" not in row:
        raise ValueError("an exchange without a 'status'")
    for key in ("head_b64", "data_b64", "body_b64"):
        try:
            base64.b64decode(row.get(key) or "", validate=True)
        except (TypeError, ValueError):
            raise ValueError(f"a {key!r} that is no base64") from None
    for key, form in _OPTIONAL.items():
        value = row.get(key)
        if not isinstance(value, form | None) and not (form is float and isinstance(value, int)):
            raise ValueError(f"no proper {key!r}")
    if (row.get("format") or 0) > FORMAT:
        raise ValueError(f"format {row['format']}, which is newer than this comfy_client")
    return row


# -- steps ------------------------------------------------------------------------------


@attrs.define(eq=False)
class _Exchange:
    """A step: the time of an answer."""

    row: Row
    place: int = -1
    used: bool = False

    @property
    def waits(self) -> bool:
        """Whether nothing goes on without this request."""
        return self.row["method"] not in ("GET", "HEAD", "OPTIONS")

    @property
    def prompt_id(self) -> Any:
        """Of a prompt that the server took."""
        answer = self.row.get("response")
        is_prompt = self.row["method"] == "POST" and _bare(self.row["path"]) == "/prompt"
        return answer.get("prompt_id") if is_prompt and isinstance(answer, Mapping) else None


@attrs.define(eq=False)
class _Gate:
    """A step that waits until the client sends a request, or dials the socket."""

    exchange: _Exchange | None = None
    channel: str = ""
    row: Row = attrs.field(factory=dict)
    came: bool = False


@attrs.define(eq=False)
class _Line:
    """An open socket."""

    wire: Wire
    alive: bool = True

    def send(self, data: bytes) -> None:
        """Send these bytes, unless the client has left."""
        try:
            self.wire.sendall(data)
        except (OSError, RuntimeError):  # or the server has stopped
            self.alive = False

    def end(self, code: int | None) -> None:
        """As the server did: with a close frame, or without."""
        if code is not None:
            self.send(frame(8, b"" if code == 1005 else code.to_bytes(2, "big")))
        self.alive = False
        self.wire.close(reset=code is None)


_Step = _Exchange | _Gate | Row


def _steps(rows: list[Row]) -> list[_Step]:
    """What happens, in order; rows are what comes on the socket."""
    found: list[tuple[tuple[int, int], _Step]] = []
    times = [row["t"] for row in rows]
    for number, row in enumerate(rows):
        kind = row["kind"]
        if kind in ("json", "binary") or (kind == "closed" and row.get("by") == "server"):
            found.append(((number, 1), row))
        elif kind == "open":
            found.append(((number, 1), _Gate(channel=row["ch"], row=row)))
        elif kind == "note" and isinstance(row.get("refused"), int):
            found.append(((number, 1), _Gate(row=row)))
        elif kind == "http":
            exchange = _Exchange(row)
            found.append(((number, 1), exchange))
            if exchange.waits:
                begun = row.get("begun")
                if begun is None:  # no later than the first event about it
                    named = (i for i in range(number) if _names(rows[i], exchange.prompt_id))
                    first = next(named, number)
                else:
                    first = min(number, bisect.bisect_right(times, begun))
                found.append(((first, 0), _Gate(exchange=exchange, row=row)))
    found.sort(key=lambda pair: pair[0])
    steps = [step for _, step in found]
    for place, step in enumerate(steps):
        if isinstance(step, _Exchange):
            step.place = place
    return steps


def _names(row: Row, prompt_id: Any) -> bool:
    return prompt_id is not None and _about(row).get("prompt_id") == prompt_id


def _about(step: _Step) -> Mapping[str, Any]:
    """The data of an event."""
    message = step.get("msg") if isinstance(step, Mapping) else None
    data = message.get("data") if isinstance(message, Mapping) else None
    return data if isinstance(data, Mapping) else {}


def _type(step: _Step) -> Any:
    message = step.get("msg") if isinstance(step, Mapping) else None
    return message.get("type") if isinstance(message, Mapping) else None


def _bare(path: str) -> str:
    path = path.partition("?")[0]
    return path.removeprefix("/api") if path.startswith("/api/") else path


# -- the player -------------------------------------------------------------------------


class Player:
    """Answers requests, and sends messages, as a recording has it."""

    def __init__(
        self, path: str | os.PathLike[str], pace: float, is_up: Callable[[], bool]
    ) -> None:
        if isinstance(pace, bool) or not isinstance(pace, int | float) or not pace >= 0:
            raise ValueError("pace is how much of the pauses to keep: 0 for none, 1 for all")
        rows = read(path)
        self._name = os.path.basename(os.fspath(path))
        self._pace = pace
        self._is_ours = "format" in rows[0]
        self._steps = _steps(rows)
        self._gates = [i for i, step in enumerate(self._steps) if isinstance(step, _Gate)]
        self._exchanges = [step for step in self._steps if isinstance(step, _Exchange)]
        self._dials = [s for s in self._steps if isinstance(s, _Gate) and s.exchange is None]
        #: Parameters whose values were secret are not what requests are told apart by.
        self._ignored = {
            name
            for exchange in self._exchanges
            for name, value in _query(exchange.row["path"])
            if value == STARS
        }
        #: Before June 2024 there was no /api.
        self._is_flat = any(
            e.row["path"] == "/api/prompt" and e.row["status"] == 404 for e in self._exchanges
        )
        self._by_key: dict[Hashable, list[_Exchange]] = defaultdict(list)
        self._by_bare_key: dict[Hashable, list[_Exchange]] = defaultdict(list)
        self._index()
        self._is_up = is_up
        self._changed = threading.Condition()  # guards all that follows
        self._next = 0  # the step that comes next
        self._released = -1  # gates up to this one are open, whether or not anybody came
        self._plays = False
        self._since = (0.0, 0.0)  # when a gate was passed, and its time in the file
        self._ids: dict[str, str] = {}  # in the file: here
        self._lines: dict[str, _Line] = {}
        self._dialled = 0

    def answer(self, request: Request) -> Answer | None:
        """Answer whatever a client asks."""
        if request.path == "/ws":
            return self._socket(request)
        with self._changed:
            found = self._find(request)
            if not isinstance(found, _Exchange):
                return found
            found.used = True
            if found.waits:
                self._map(found, request)
            self._play()
            patience = _HOLD + self._pace * max(0.0, found.row["t"] - self._since[1])
            its_turn = partial(self._is_past, found)
            if not self._changed.wait_for(its_turn, patience) and found.waits:
                self._released = max(self._released, found.place)
                self._play()
                self._changed.wait_for(its_turn, _HOLD)
        return self._told(found, request)

    # -- which answer --------------------------------------------------------------------

    def _find(self, request: Request) -> _Exchange | Answer:
        there = {here: there for there, here in self._ids.items()}
        path = "/".join(there.get(part, part) for part in unquote(request.full_path).split("/"))
        given = [(name, there.get(value, value)) for name, value in request.query.items()]
        asked = {name: request.headers[name] for name in _ASKED if name in request.headers}
        known = self._by_key.get(self._key(request.method, path, given, asked), [])
        if not known and not self._is_flat:
            bare = self._key(request.method, _bare(path), given, asked)
            known = self._by_bare_key.get(bare, [])
        if request.method in ("GET", "HEAD", "OPTIONS"):
            return self._find_among(known) or self._known(request) or self._nearest(known, request)
        fresh = [exchange for exchange in known if not exchange.used]
        if fresh:
            return next((e for e in fresh if self._same_body(e, request)), fresh[0])
        return self._lacks(request, len(known))

    def _key(
        self, method: str, path: str, query: Iterable[tuple[str, str]], asked: Mapping[str, str]
    ) -> Hashable:
        kept = frozenset((name, value) for name, value in query if name not in self._ignored)
        return method, path, kept, frozenset(asked.items())

    def _index(self) -> None:
        for exchange in self._exchanges:
            row = exchange.row
            path = unquote(row["path"].partition("?")[0])
            rest = _query(row["path"]), row.get("asked") or {}
            self._by_key[self._key(row["method"], path, *rest)].append(exchange)
            self._by_bare_key[self._key(row["method"], _bare(path), *rest)].append(exchange)

    def _find_among(self, known: list[_Exchange]) -> _Exchange | None:
        """Of what was said between the same two gates, the next, or the last again."""
        at = bisect.bisect_left(self._gates, self._next)
        low = self._gates[at - 1] if at else -1
        high = self._gates[at] if at < len(self._gates) else len(self._steps)
        here = [exchange for exchange in known if low < exchange.place < high]
        fresh = next((exchange for exchange in here if not exchange.used), None)
        if fresh is not None or not here:
            return fresh
        later = self._steps[here[-1].place : self._next]
        return None if any(_type(step) in _ENDS for step in later) else here[-1]

    def _nearest(self, known: list[_Exchange], request: Request) -> _Exchange | Answer:
        before = [exchange for exchange in known if exchange.place < self._next]
        if known:
            return attrs.evolve(before[-1] if before else known[0], place=-1)
        return self._lacks(request, 0)

    def _same_body(self, exchange: _Exchange, request: Request) -> bool:
        recorded = exchange.row.get("request")
        try:
            sent = request.json()
        except ValueError:
            return False
        if exchange.prompt_id is None or not isinstance(recorded, Mapping):
            return bool(self._here(recorded) == sent)
        return isinstance(sent, Mapping) and _runs(recorded) == _runs(sent)

    def _lacks(self, request: Request, had: int) -> Answer:
        what = f"{request.method} {request.target}"
        text = f"the recording {self._name} has no {what}"
        if had:
            text = f"the recording {self._name} has no more {what}: {had} in all"
        elif self._is_flat and request.full_path.startswith("/api/"):
            return 404, {}, "404: Not Found"
        elif request.path.startswith("/jobs"):  # most servers lack it, and clients go without
            return unknown_route(request.method)
        return _says(409 if had else 404, text)

    # -- ids -----------------------------------------------------------------------------

    def _map(self, exchange: _Exchange, request: Request) -> None:
        """Learn which ids of the file stand for those of this request."""
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
        """A value of the file, with the ids of now."""
        if isinstance(value, str):
            return self._ids.get(value, value)
        if isinstance(value, Mapping):
            return {self._ids.get(key, key): self._here(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self._here(each) for each in value]
        return value

    # -- answers -------------------------------------------------------------------------

    def _told(self, exchange: _Exchange, request: Request) -> Answer | None:
        row = exchange.row
        is_silent = "Timeout" in (row.get("error") or "")
        if row["status"] is None:
            if is_silent:
                never_answer(request)
            return None
        kind = row.get("content_type")
        headers = {"Content-Type": kind} if kind else {}
        headers |= row.get("headers") or {}
        body = self._body(row)
        if body is None:
            what = f"{request.method} {request.target}"
            text = f"the recording {self._name} did not keep the body of {what}"
            return _says(409, text + f", {row.get('len')} bytes")
        short = row.get("short")
        if short is None or (short == "left" and not body):  # nobody wanted it
            return row["status"], headers, body
        due = row.get("announced") or len(body) + 1
        cut((row["status"], {**headers, "Content-Length": str(due)}, body), len(body))(request)
        if is_silent or short == "left":
            never_answer(request)
        return None

    def _body(self, row: Row) -> bytes | None:
        """What was said, with the ids of now; ``None``: not kept."""
        said, size = row.get("response"), row.get("len")
        if row.get("body_b64") is not None:
            return base64.b64decode(row["body_b64"])
        if "sha256" in row:
            return None
        is_json = "json" in (row.get("content_type") or "")
        if isinstance(said, str) and (row.get("as_text") or not (is_json and self._is_ours)):
            data = said.encode()
            return data if size is None or size <= len(data) or self._is_ours else None
        if said is None and not (is_json and size):
            return None if size else b""
        return json.dumps(self._here(said)).encode()

    # -- what is known of queue and history ----------------------------------------------

    def _known(self, request: Request) -> Answer | None:
        """What a server would say by now of what was played."""
        if request.method != "GET" or (self._is_flat and request.path != request.full_path):
            return None
        path, _, wanted = request.path[1:].partition("/")
        if path == "prompt" and not wanted:
            return 200, {}, self._status()
        taken = [e for e in self._exchanges if e.used and e.prompt_id and e.row["status"] == 200]
        done = {e.prompt_id: self._entry(e) for e in taken if self._has_ended(e.prompt_id)}
        if path == "queue" and not wanted:
            running = [self._item(e) for e in taken if e.prompt_id not in done]
            return 200, {}, self._here({"queue_running": running[:1], "queue_pending": running[1:]})
        if path != "history":
            return None
        entries = self._here(done)
        return 200, {}, {i: e for i, e in entries.items() if wanted in ("", i)}

    def _status(self) -> Mapping[str, Any]:
        for step in reversed(self._steps[: self._next]):
            status = _about(step).get("status")
            if _type(step) == "status" and isinstance(status, Mapping):
                return status
        return {"exec_info": {"queue_remaining": 0}}

    def _has_ended(self, prompt_id: str) -> bool:
        past = self._steps[: self._next]
        return any(
            (_type(step) in _ENDS and _about(step).get("prompt_id") == prompt_id)
            or (isinstance(step, _Exchange) and prompt_id in self._history(step))
            for step in past
        )

    def _history(self, exchange: _Exchange) -> Mapping[str, Any]:
        found = exchange.row.get("response")
        is_history = _bare(exchange.row["path"]).startswith("/history")
        return found if is_history and isinstance(found, Mapping) else {}

    def _item(self, exchange: _Exchange) -> list[Any]:
        body = exchange.row.get("request")
        body = body if isinstance(body, Mapping) else {}
        extra = {**(body.get("extra_data") or {}), "client_id": body.get("client_id")}
        number = exchange.row["response"].get("number", 0)
        return [number, exchange.prompt_id, body.get("prompt") or {}, extra, []]

    def _entry(self, exchange: _Exchange) -> Mapping[str, Any]:
        """As recorded, else of what the events said."""
        prompt_id = exchange.prompt_id
        for other in reversed(self._exchanges):
            if prompt_id in self._history(other):
                entry: Mapping[str, Any] = self._history(other)[prompt_id]
                return entry
        events = [s for s in self._steps if _about(s).get("prompt_id") == prompt_id]
        messages = [[_type(s), _about(s)] for s in events if str(_type(s)).startswith("execution_")]
        succeeded = any(kind == "execution_success" for kind, _ in messages)
        return {
            "prompt": self._item(exchange),
            "outputs": {
                _about(s).get("node"): _about(s).get("output")
                for s in events
                if _type(s) == "executed"
            },
            "status": {
                "status_str": "success" if succeeded else "error",
                "completed": succeeded,
                "messages": messages,
            },
            "meta": {},
        }

    # -- the socket ----------------------------------------------------------------------

    def _socket(self, request: Request) -> Answer | None:
        answer = upgrade(request)
        if answer[0] != 101:
            return answer
        with self._changed:
            gate = self._dials[self._dialled] if self._dialled < len(self._dials) else None
            self._dialled += 1
            if gate is None and not any(dial.channel for dial in self._dials):
                gate = self._dials[-1] if self._dials else None  # refused as often as it comes
            if gate is not None and not gate.channel:
                gate.came = True
                self._play()
                return _says(gate.row["refused"], "no socket here, as recorded")
            line = _Line(request.socket)
            line.send(encode(answer))
            client_id = request.query.get("clientId", "")
            if gate is None or self._steps.index(gate) < self._next:
                greeting = {"status": self._status(), "sid": client_id}
                line.send(_text({"type": "status", "data": greeting}))
            if gate is not None:
                self._ids[gate.row["client_id"]] = client_id
                gate.came = True
            opened = [dial.channel for dial in self._dials if dial.came and dial.channel]
            self._lines[gate.channel if gate else opened[-1] if opened else "ws1"] = line
            self._play()
        for opcode, payload in _heard(line.wire):
            if opcode == 9:
                line.send(frame(10, payload))
            elif opcode == 8:
                line.send(frame(8, payload))
                break
        line.alive = False
        return None

    def _is_past(self, exchange: _Exchange) -> bool:
        return self._next > exchange.place

    def _play(self) -> None:
        """Go on as far as possible, in a thread of its own; with the lock held."""
        self._changed.notify_all()
        if not self._plays and self._may_go_on():
            self._plays = True
            threading.Thread(target=self._run, name="ComfyServer replay", daemon=True).start()

    def _may_go_on(self) -> bool:
        if self._next >= len(self._steps) or not self._is_up():
            return False
        step = self._steps[self._next]
        if not isinstance(step, _Gate) or self._next <= self._released:
            return True
        return step.came if step.exchange is None else step.exchange.used

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._may_go_on():
                    self._plays = False
                    return
                step = self._steps[self._next]
                row = step if isinstance(step, Mapping) else step.row
                left = self._since[0] + (row["t"] - self._since[1]) * self._pace - time.monotonic()
                if self._pace and left > 0 and not isinstance(step, _Gate):
                    self._changed.wait(min(left, 0.1))
                    continue
                if isinstance(step, _Gate):
                    begun = row.get("begun")
                    self._since = (time.monotonic(), row["t"] if begun is None else begun)
                elif isinstance(step, Mapping):
                    self._say(step)
                self._next += 1
                self._changed.notify_all()
            if not isinstance(step, _Gate):
                time.sleep(_APART)

    def _say(self, row: Row) -> None:
        line = self._lines.get(row["ch"])
        if line is None or not line.alive:
            return
        if row["kind"] == "closed":
            line.end(row.get("code"))
        elif row["kind"] == "binary":
            line.send(frame(2, self._frame(row)))
        elif isinstance(row.get("text"), str):
            line.send(frame(1, row["text"].encode("utf-8", "replace")))
        elif "msg" in row:
            line.send(_text(self._here(row["msg"])))

    def _frame(self, row: Row) -> bytes:
        """A binary frame; of what was not kept, zeros of its length behind its head."""
        if row.get("data_b64") is not None:
            data = base64.b64decode(row["data_b64"])
            size = int.from_bytes(data[4:8], "big")
            metadata, rest = row.get("metadata"), data[8 + size :]
        else:
            data = base64.b64decode(row["head_b64"]).ljust(row["len"], b"\0")
            metadata, size = row.get("metadata"), row.get("metadata_len", 0)
            magic = b"\xff\xd8\xff\xe0" if row.get("body") == "JPEG" else b"\x89PNG\r\n\x1a\n"
            rest = magic.ljust(max(0, row["len"] - 8 - size), b"\0")
        if row.get("event") != 4 or not isinstance(metadata, Mapping):
            return data
        head = json.dumps(self._here(metadata)).encode()
        return data[:4] + len(head).to_bytes(4, "big") + head + rest


def _runs(body: Mapping[str, Any]) -> Any:
    """The graph of a submission, titles left out: whoever recorded it may have sent none."""
    graph = body.get("prompt")
    if not isinstance(graph, Mapping):
        return graph
    return {
        node_id: {name: node[name] for name in node if name != "_meta"}
        if isinstance(node, Mapping)
        else node
        for node_id, node in graph.items()
    }


def _says(status: int, text: str) -> Answer:
    error = {"type": "not_recorded", "message": text, "details": "", "extra_info": {}}
    return status, {}, {"error": error, "node_errors": {}}


def _text(message: Any) -> bytes:
    return frame(1, json.dumps(message).encode())


def _query(path: str) -> list[tuple[str, str]]:
    return parse_qsl(path.partition("?")[2], keep_blank_values=True)


def _heard(wire: Wire) -> Iterator[tuple[int, bytes]]:
    """What a client says on its socket: opcode and payload, until it leaves."""

    def take(size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = wire.recv(size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    with contextlib.suppress(EOFError):
        while True:
            first, size = take(2)
            masked, size = size & 0x80, size & 0x7F
            if size > 125:
                size = int.from_bytes(take(2 if size == 126 else 8), "big")
            mask = take(4) if masked else bytes(4)
            payload = take(size)
            plain = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
            yield first & 0x0F, plain
