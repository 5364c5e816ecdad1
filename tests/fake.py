"""A scripted ComfyUI, for what a real server does not do on demand.

One free port speaks HTTP/1.1 and WebSocket, from the standard library alone::

    with FakeComfy() as fake:
        fake.on("GET", "/queue", (502, {}, "bad gateway"))          # a fixed answer
        fake.on("GET", "/view*", cut((200, {}, bytes(1000)), 10))   # a broken one
        fake.script(*recording("0.3.75", "normal_previews").steps)  # what a prompt does
        ...
        fake.until(lambda: len(fake.hellos) == 2)                   # instead of sleeping

A handler gets a `Request` and returns ``(status, headers, body)``; body is bytes, text, None
or anything JSON.  A handler that returns None has written to ``request.socket`` itself, and
the connection ends.  ``fake.answer(request)`` is what the fake would have answered.
"""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Collection
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import unquote

from tests.fake_wire import (
    Answer,
    Handler,
    Request,
    Server,
    Socket,
    cut,
    drip,
    encode,
    frame,
    never_answer,
    upgrade,
)
from tests.recorded import PROMPT_ID, Finish, Recording, Step, recording

__all__ = [
    "PROMPT_ID",
    "Answer",
    "FakeComfy",
    "Finish",
    "Handler",
    "Recording",
    "Request",
    "Socket",
    "Step",
    "cut",
    "drip",
    "encode",
    "frame",
    "never_answer",
    "recording",
]

FEATURES = {"supports_preview_metadata": True, "max_upload_size": 104857600}
LIMIT = 10.0  # seconds that any wait in here may take


class FakeComfy:
    """The scripted server; a context manager.  See the module's docstring.

    Recorded: ``requests``, ``connections`` (TCP, counted), ``handshakes`` (headers of each
    WebSocket handshake), ``hellos`` (client id of each socket that was greeted),
    ``first_messages`` and ``messages`` (decoded JSON of the clients), ``pings`` (counted).
    State: ``running``, ``pending`` (queue items), ``history``, ``files`` (what ``/view``
    serves, by file name), ``object_info``.  Switches: ``answer_pings``, ``api_prefix``
    (False: a server from before ``/api``), ``keeps_prompt_id`` (False: chooses its own).
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.handshakes: list[Any] = []
        self.hellos: list[str] = []
        self.first_messages: list[Any] = []
        self.messages: list[Any] = []
        self.pings = 0
        self.errors: list[BaseException] = []
        self.running: list[list[Any]] = []
        self.pending: list[list[Any]] = []
        self.history: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}
        self.object_info: dict[str, Any] = {}
        self.answer_pings = True
        self.api_prefix = True
        self.keeps_prompt_id = True
        self._handlers: list[tuple[str, str, Answer | Handler]] = []
        self._steps: tuple[Step, ...] = ()
        self._submitted: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._number = 0
        self._sockets: list[Socket] = []
        self._open: dict[socket.socket, threading.Thread] = {}
        self._closed = threading.Event()
        self._changed = threading.Condition()  # guards all of the above, told of each change
        self._server = Server(self)
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._threads = [
            threading.Thread(target=self._server.serve_forever, args=(0.05,), name="fake-server"),
            threading.Thread(target=self._work, name="fake-worker"),
        ]

    def __enter__(self) -> FakeComfy:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._closed.set()
        self._submitted.put(None)
        self._server.shutdown()
        self._server.server_close()
        with self._changed:
            left = dict(self._open)
            for ws in self._sockets:
                ws.lit.set()
        for connection in left:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in (*self._threads, *left.values()):
            thread.join(LIMIT)
        if kind is None and self.errors:
            raise self.errors[0]

    def until(self, predicate: Callable[[], object], timeout: float = 5.0) -> None:
        """Wait until `predicate` holds; AssertionError after `timeout` seconds."""
        end = time.monotonic() + timeout
        while not predicate():  # outside the lock: it may ask this server something
            if time.monotonic() > end:
                raise AssertionError(f"did not come true within {timeout} s")
            with self._changed:
                self._changed.wait(0.01)

    # -- HTTP

    def on(self, method: str, path: str, handler: Answer | Handler) -> None:
        """Answer `method` and `path` (patterns: ``*``; the last one added wins) this way."""
        with self._changed:
            self._handlers.insert(0, (method, path, handler))

    def off(self, method: str, path: str) -> None:
        """Take back what `on` said for exactly these."""
        with self._changed:
            self._handlers = [h for h in self._handlers if h[:2] != (method, path)]

    def answer(self, request: Request) -> Answer:
        """What a ComfyUI with this queue and history answers."""
        if not self.api_prefix and request.target.startswith("/api/"):
            return _unknown(request.method)
        with self._changed:
            match request.method, request.path.split("/")[1:]:
                case "GET", ["ws"]:
                    return upgrade(request)
                case "GET", ["prompt"]:
                    return 200, {}, self._status()
                case "POST", ["prompt"]:
                    return self._submit(request.json())
                case "GET", ["queue"]:
                    return 200, {}, {"queue_running": self.running, "queue_pending": self.pending}
                case "POST", ["queue"]:
                    body = request.json()
                    gone = set(body.get("delete", ()))
                    everything = body.get("clear", False)
                    self.pending[:] = [
                        i for i in self.pending if not everything and i[1] not in gone
                    ]
                    self.push_status()
                    return 200, {}, None
                case "GET", ["history"]:
                    size = int(request.query.get("max_items", len(self.history)))
                    return 200, {}, dict(list(self.history.items())[-size:] if size > 0 else ())
                case "GET", ["history", prompt_id]:
                    key = unquote(prompt_id)
                    return 200, {}, {key: self.history[key]} if key in self.history else {}
                case "POST", ["interrupt" | "free" | "history"]:
                    return 200, {}, None
                case "GET", ["system_stats"]:
                    return 200, {}, {"system": {"comfyui_version": "0.3.75"}, "devices": []}
                case "GET", ["features"]:
                    return 200, {}, FEATURES
                case "GET", ["object_info"]:
                    return 200, {}, self.object_info
                case "GET" | "HEAD", ["view"] if request.query.get("filename") in self.files:
                    return 200, {}, self.files[request.query["filename"]]
                case "GET", ["view"]:
                    return 404, {}, None
        return _unknown(request.method)

    def _status(self) -> dict[str, Any]:
        return {"exec_info": {"queue_remaining": len(self.running) + len(self.pending)}}

    def _submit(self, body: dict[str, Any]) -> Answer:
        chosen = body.get("prompt_id") if self.keeps_prompt_id else None
        prompt_id = str(chosen or uuid.uuid4())
        extra = {**body.get("extra_data", {})}
        if "client_id" in body:
            extra["client_id"] = body["client_id"]
        number = self._number
        self._number += 1
        self.pending.append([number, prompt_id, body["prompt"], extra, []])
        self._submitted.put(prompt_id)
        self.push_status()
        return 200, {}, {"prompt_id": prompt_id, "number": number, "node_errors": {}}

    # -- prompts

    def script(self, *steps: Step) -> None:
        """What every prompt does from now on, one prompt after the other.

        dict: a message for its client, with `PROMPT_ID` replaced; bytes: a binary one; Event:
        wait for it; `Finish`: it gets its history entry; a function is called with its id.
        A prompt whose script has no `Finish` runs until `finish` or `forget`.
        """
        self._steps = steps

    def finish(
        self,
        prompt_id: str,
        outputs: dict[str, Any] | None = None,
        *,
        messages: Collection[Any] = (),
        entry: dict[str, Any] | None = None,
    ) -> None:
        """Move a prompt from the queue to the history, and broadcast the status.

        It counts as failed when a message is execution_error or execution_interrupted.
        """
        with self._changed:
            item = next((i for i in self.running + self.pending if i[1] == prompt_id), None)
            failed = {m[0] for m in messages} & {"execution_error", "execution_interrupted"}
            self.history[prompt_id] = entry or {
                "prompt": item or [0, prompt_id, {}, {}, []],
                "outputs": outputs or {},
                "status": {
                    "status_str": "error" if failed else "success",
                    "completed": not failed,
                    "messages": list(messages),
                },
                "meta": {},
            }
            for items in (self.running, self.pending):
                items[:] = [i for i in items if i[1] != prompt_id]
            self.push_status()
            self._changed.notify_all()

    def forget(self) -> None:
        """Lose queue and history, as a server that was restarted."""
        with self._changed:
            self.running.clear()
            self.pending.clear()
            self.history.clear()
            self._changed.notify_all()

    def _work(self) -> None:
        while prompt_id := self._submitted.get():
            with self._changed:
                item = next((i for i in self.pending if i[1] == prompt_id), None)
                if item is None:
                    continue  # deleted while it waited
                self.pending.remove(item)
                self.running.append(item)
            try:
                self._play(prompt_id, item[3].get("client_id"))
            except Exception as exc:
                self.errors.append(exc)
            with self._changed:
                while item in self.running and not self._closed.is_set():
                    self._changed.wait(0.05)

    def _play(self, prompt_id: str, client_id: str | None) -> None:
        outputs: dict[str, Any] = {}
        messages: list[Any] = []
        for step in self._steps:
            if self._closed.is_set():
                return
            if isinstance(step, dict):
                event = _renamed(step, prompt_id)
                if event["type"] == "executed":
                    outputs[event["data"]["node"]] = event["data"]["output"]
                elif event["type"].startswith("execution_"):
                    messages.append([event["type"], event["data"]])
                self.push(event, to=client_id)
            elif isinstance(step, bytes):
                self.push_binary(step.replace(PROMPT_ID.encode(), prompt_id.encode()), to=client_id)
            elif isinstance(step, threading.Event):
                end = time.monotonic() + LIMIT
                while not step.wait(0.02) and not self._closed.is_set():
                    if time.monotonic() > end:
                        raise TimeoutError(f"the script waited {LIMIT} s for an event")
            elif isinstance(step, Finish):
                entry = step.entry and _renamed(step.entry, prompt_id)
                self.finish(prompt_id, outputs, messages=messages, entry=entry)
            else:
                step(prompt_id)

    # -- WebSocket

    def push(self, message: Any, *, to: str | None = None, fragments: int = 1) -> None:
        """Send JSON to all sockets, or to those of one client id."""
        self._send(1, json.dumps(message).encode(), to, fragments)

    def push_binary(self, data: bytes, *, to: str | None = None, fragments: int = 1) -> None:
        self._send(2, data, to, fragments)

    def push_status(self) -> None:
        self.push({"type": "status", "data": {"status": self._status()}})

    def push_raw(self, data: bytes, *, to: str | None = None) -> None:
        """Send bytes as they are, for frames that no server should send (see `frame`)."""
        for ws in self._hearing(to):
            ws.write(data)

    def _send(self, opcode: int, payload: bytes, to: str | None, fragments: int) -> None:
        size = -(-len(payload) // fragments) or 1
        parts = [payload[i : i + size] for i in range(0, len(payload), size)] or [b""]
        last = len(parts) - 1
        frames = [frame(0 if i else opcode, p, fin=i == last) for i, p in enumerate(parts)]
        self.push_raw(b"".join(frames), to=to)

    def _hearing(self, to: str | None) -> list[Socket]:
        return [
            ws
            for ws in self.sockets
            if ws.lit.is_set() and not ws.deaf and to in (None, ws.client_id)
        ]

    @property
    def sockets(self) -> list[Socket]:
        """The sockets that are open now."""
        with self._changed:
            return list(self._sockets)

    def drop(self, *, reset: bool = True) -> None:
        """End all sockets abruptly: with a RST, or with a bare FIN."""
        for ws in self.sockets:
            ws.hang_up(reset=reset)

    def close_politely(self, code: int = 1001, reason: str = "") -> None:
        """Send a close frame to all sockets."""
        self.push_raw(frame(8, struct.pack(">H", code) + reason.encode()))

    def deaf(self) -> None:
        """The open sockets get no message any more; pings are answered."""
        for ws in self.sockets:
            ws.deaf = True

    def go_dark(self) -> None:
        """The open sockets are neither read nor written any more, and not closed."""
        for ws in self.sockets:
            ws.lit.clear()

    def refuse_ws(self, status: int, body: Any = None, **headers: str) -> None:
        """Answer handshakes with this until `accept_ws`."""
        self.on("GET", "/ws", (status, headers, body))

    def stall_ws(self) -> None:
        """Leave handshakes without an answer until `accept_ws`."""
        self.on("GET", "/ws", never_answer)

    def accept_ws(self) -> None:
        self.off("GET", "/ws")

    # -- called by the connections

    def opened(self, connection: socket.socket) -> None:
        with self._changed:
            self.connections += 1
            self._open[connection] = threading.current_thread()
            self._changed.notify_all()

    def ended(self, connection: socket.socket) -> None:
        with self._changed:
            del self._open[connection]

    def handle(self, request: Request) -> Answer | None:
        with self._changed:
            self.requests.append(request)
            if request.path == "/ws":
                self.handshakes.append(request.headers)
            self._changed.notify_all()
            asked = request.method, request.path
            handlers = [h for *wanted, h in self._handlers if all(map(fnmatchcase, asked, wanted))]
        handler = handlers[0] if handlers else self.answer
        return handler(request) if callable(handler) else handler

    def serve_socket(self, ws: Socket) -> None:
        with self._changed:  # a client that was greeted is known, and pushes come after
            self.hellos.append(ws.client_id)
            self._sockets.append(ws)
            greeting = {"type": "status", "data": {"status": self._status(), "sid": ws.client_id}}
            ws.write(frame(1, json.dumps(greeting).encode()))
            self._changed.notify_all()
        try:
            self._listen(ws)
        finally:
            with self._changed:
                self._sockets.remove(ws)
                self._changed.notify_all()

    def _listen(self, ws: Socket) -> None:
        texts = 0
        while (received := ws.read()) is not None:
            ws.lit.wait()
            opcode, payload = received
            if opcode == 8:
                ws.write(frame(8, payload))  # not needed when it answers ours, and harmless
                return
            with self._changed:
                if opcode == 9:
                    self.pings += 1
                elif opcode == 1:
                    message = json.loads(payload)
                    self.messages.append(message)
                    texts += 1
                    if texts == 1:
                        self.first_messages.append(message)
                        if message.get("type") == "feature_flags":
                            self.push({"type": "feature_flags", "data": FEATURES}, to=ws.client_id)
                self._changed.notify_all()
            if opcode == 9 and self.answer_pings:
                ws.write(frame(10, payload))


def _renamed(data: dict[str, Any], prompt_id: str) -> Any:
    return json.loads(json.dumps(data).replace(PROMPT_ID, prompt_id))


def _unknown(method: str) -> Answer:
    if method in ("GET", "HEAD"):
        return 404, {"Content-Type": "application/octet-stream"}, None
    return 405, {"Allow": "GET,HEAD"}, "405: Method Not Allowed"
