"""Two servers that are told the same, and what they answer, made comparable.

Ids, times and random letters differ between any two servers.  Ids become their place in the
conversation (``<id 0>`` is the first that a server told), so that a later request can name them.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import itertools
import json
import re
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import websocket
from PIL import Image

from comfy_client.testing.nodes import shipped
from tests.helpers.prose import without_prose

LIMIT = 60.0
#: Definitions of the embedded server; those of users' own classes have all their texts.
SHIPPED = shipped("definitions")
HEADERS = ("Content-Type", "Allow", "Content-Disposition", "Accept-Ranges", "Content-Range")
HEADERS = (*HEADERS, "Cache-Control", "Location", "Access-Control-Allow-Origin")
TIMES = {"timestamp", "create_time", "modified", "created", "t"}
# Sets on the real server: in another order each time.
UNORDERED = {"executed", "current_outputs", "nodes", "dependent_outputs", "errors"}
_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(?![0-9a-f])")
_FOLDER = re.compile(r"/[^' ]*/(input|output|temp)\b/?")
_LETTERS = re.compile(r"_temp_[a-z]{5}")
_OBJECT = re.compile(r"^(tensor\(|\[?<(?!id \d)).*", re.DOTALL)


@attrs.frozen
class Ask:
    """A request; ``<id n>`` in it is an id that the server told, ``<etag>`` its last ETag."""

    method: str
    path: str
    body: bytes | None = attrs.field(default=None, repr=lambda body: repr(body)[:2000])
    headers: Mapping[str, str] = attrs.field(factory=dict)


@attrs.define
class Side:
    """One of the two."""

    name: str
    port: int
    ids: dict[str, str] = attrs.field(factory=dict)
    etag: str = ""

    def ask(self, ask: Ask) -> dict[str, Any]:
        """What it answers, made comparable."""
        status, headers, body = self.raw(ask)
        self.etag = headers.get("ETag", self.etag)
        told = {name: headers[name] for name in HEADERS if name in headers}
        told["has ETag"] = "ETag" in headers
        told["is empty"] = not body
        answer = {"status": status, "headers": told}
        return {**answer, "body": self.content(told.get("Content-Type", ""), body)}

    def content(self, kind: str, body: bytes) -> Any:
        """JSON and pictures, if they are any, or text."""
        with contextlib.suppress(ValueError, OSError):
            if kind.startswith("application/json"):
                return self.comparable(json.loads(body))
            if kind.startswith("image/"):
                return self.comparable(seen(body))
        return self.named(body.decode("latin-1"))

    def raw(self, ask: Ask) -> tuple[int, Mapping[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)
        headers = {
            key: self.filled(value).replace("<port>", str(self.port))
            for key, value in ask.headers.items()
        }
        body = None if ask.body is None else self.filled(ask.body.decode("latin-1"))
        path = self.filled(ask.path).replace(" ", "%20")
        try:
            connection.request(
                ask.method, path, None if body is None else body.encode("latin-1"), headers
            )
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def json(self, path: str) -> Any:
        return json.loads(self.raw(Ask("GET", path))[2])

    def until_idle(self, running: int = 0) -> None:
        """Wait until so many prompts run, and none waits to start."""
        end = time.monotonic() + LIMIT
        while len((queue := self.json("/queue"))["queue_running"]) != running or (
            not running and queue["queue_pending"]
        ):
            assert time.monotonic() < end, f"{self.name} is not idle: {queue}"
            time.sleep(0.005)

    # -- making comparable --------------------------------------------------------------

    def filled(self, text: str) -> str:
        known = {name: value for value, name in self.ids.items()}
        text = re.sub(r"<id \d+>", lambda found: known.get(found[0], found[0]), text)
        return text.replace("<etag>", self.etag)

    def named(self, text: str) -> str:
        text = _FOLDER.sub(r"/\1", _LETTERS.sub("_temp_", text))
        return _ID.sub(lambda found: self.ids.setdefault(found[0], f"<id {len(self.ids)}>"), text)

    def comparable(self, value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            if value.get("name") in SHIPPED and "input" in value:
                value = without_prose(value)
            # A word of the embedded server, and one that its definitions lack.
            told = {k: v for k, v in value.items() if k not in ("hint", "tooltip")}
            return {self.named(k): self.comparable(v, k) for k, v in told.items()}
        if isinstance(value, list):
            if key == "traceback":  # of other code
                return bool(value)
            if key == "is_changed":  # a hash, or a time
                return ["a time" if isinstance(one, float) else one for one in value]
            items = [self.comparable(one) for one in value]
            return sorted(items, key=_text) if key in UNORDERED else items
        if isinstance(value, str):
            value = self.named(value)
            if key == "details":
                return sorted(value.split("\n"))
            if value.startswith("{'"):  # a workflow as text, in the order of its nodes
                return "an object"
            return _OBJECT.sub("an object", value)
        return "a time" if key in TIMES and isinstance(value, int | float) else value

    # -- prompts ------------------------------------------------------------------------

    @contextlib.contextmanager
    def listening(self, client_id: str) -> Iterator[websocket.WebSocket]:
        """A socket that has been greeted."""
        url = f"ws://127.0.0.1:{self.port}/ws?clientId={client_id}"
        with contextlib.closing(websocket.create_connection(url, timeout=LIMIT)) as ws:
            ws.recv()
            yield ws

    def until_ticks(self, client_id: str, count: int) -> None:
        """Wait for so many more ticks of a prompt of this client, which has no socket."""
        with self.listening(client_id) as ws:
            for _ in range(count):
                while json.loads(ws.recv())["type"] != "progress":
                    pass

    def run(self, body: dict[str, Any], client_id: str) -> Run:
        """Submit a prompt, and hear all about it, also by the socket of somebody else."""
        with self.listening(client_id) as ws, self.listening("onlooker") as other:
            hello = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
            ws.send(json.dumps(hello))
            ws.recv()
            request = json.dumps({**body, "client_id": client_id}).encode()
            answer = self.ask(Ask("POST", "/prompt", request))
            if answer["status"] != 200:
                return Run(answer)
            events = list(self._heard(ws, is_over))
            overheard = list(self._heard(other, is_idle))
        prompt_id = self.filled(answer["body"]["prompt_id"])
        entry = self.json(f"/history/{prompt_id}")[prompt_id]
        pictures = []
        for output in entry["outputs"].values():
            for file in output.get("images", ()):
                query = "&".join(f"{key}={value}" for key, value in file.items())
                data = self.raw(Ask("GET", f"/view?{query}"))[2]
                pictures.append(self.content("image/png", data))
        outputs = entry["prompt"][4]
        return Run(answer, events, overheard, self.comparable(entry), pictures, outputs)

    def _heard(self, ws: websocket.WebSocket, is_last: Callable[[Any], bool]) -> Iterator[Any]:
        while True:
            message = ws.recv()
            if isinstance(message, bytes):
                yield self.comparable(frame(message))
                continue
            event = json.loads(message)
            yield self.comparable(event)
            if is_last(event):
                return


def is_over(event: Any) -> bool:
    """Whether this is the last word about a prompt to its own client."""
    return bool(event["type"] == "executing" and event["data"]["node"] is None)


def is_idle(event: Any) -> bool:
    """Whether this says that the queue is empty, which all clients are told."""
    queue = event["data"].get("status", {}).get("exec_info", {})
    return bool(queue.get("queue_remaining") == 0)


@attrs.frozen
class Run:
    """All that a server says about one prompt, made comparable."""

    answer: dict[str, Any]
    events: list[Any] = attrs.field(factory=list)
    overheard: list[Any] = attrs.field(factory=list)  #: By somebody else.
    history: Any = None
    pictures: list[Any] = attrs.field(factory=list)
    outputs: list[str] = attrs.field(factory=list)  #: In the order of their execution.

    def told(self) -> dict[str, Any]:
        """What must agree."""
        history = None
        if self.history:
            history = {**self.history, "prompt": self.history["prompt"][:4]}
            history["outputs to execute"] = sorted(self.outputs)
        told = {"answer": self.answer, "events": self.events, "overheard": self.overheard}
        return {**told, "history": history, "pictures": self.pictures}


def frame(message: bytes) -> list[Any]:
    """A binary message in words."""
    [kind] = struct.unpack_from(">I", message)
    if kind == 4:  # preview with metadata
        [size] = struct.unpack_from(">I", message, 4)
        return [kind, json.loads(message[8 : 8 + size]), seen(message[8 + size :])]
    if kind == 1:  # preview
        return [kind, *struct.unpack_from(">I", message, 4), seen(message[8:])]
    return [kind, message[4:].decode("latin-1")]


def seen(data: bytes) -> Any:
    """A picture in words; of lossy ones without the pixels."""
    with Image.open(io.BytesIO(data)) as picture:
        words = [picture.format, picture.mode, list(picture.size)]
        texts = {key: json.loads(text) for key, text in getattr(picture, "text", {}).items()}
        exact = picture.format == "PNG" or picture.info.get("lossless")
        return [*words, texts, picture.tobytes().hex() if exact else "lossy"]


def differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Where two JSON values differ, one line each."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            yield from differences(
                one.get(key, "(none)"), other.get(key, "(none)"), f"{path}.{key}"
            )
    elif isinstance(one, list) and isinstance(other, list):
        for index, (a, b) in enumerate(itertools.zip_longest(one, other, fillvalue="(none)")):
            yield from differences(a, b, f"{path}[{index}]")
    elif _text(one) != _text(other):  # which tells 1 from 1.0, and NaN is like NaN
        yield f"{path}: real {_text(one)[:900]}\n{' ' * len(path)}  embedded {_text(other)[:900]}"


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=repr)
