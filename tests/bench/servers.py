"""Servers for what a real one cannot do on demand, each in a process of its own."""

from __future__ import annotations

import base64
import contextlib
import functools
import gzip
import hashlib
import io
import json
import multiprocessing
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

#: Bytes of node definitions.
DEFINITIONS_SIZE = 20_000_000
_DEFINITIONS = Path(__file__).parents[1] / "conformance" / "object_info_0.28.1.json.gz"
#: Bytes of the file that goes up and down.
FILE_SIZE = 90 << 20
_PIECE = bytes(1 << 20)


@contextlib.contextmanager
def running(serve: Callable[..., None], *args: object) -> Iterator[str]:
    """One of the servers below in a process of its own; its URL."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, *args), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.kill()
        process.join()
        ours.close()


def _accept(pipe: Connection, handle: Callable[[socket.socket], None]) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        pipe.send(server.getsockname()[1])
        while True:
            connection, _ = server.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_guarded, args=(handle, connection), daemon=True).start()


def _guarded(handle: Callable[[socket.socket], None], connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        handle(connection)


# -- a proxy that takes its time --------------------------------------------------------


def delaying_proxy(pipe: Connection, host: str, port: int, seconds: float) -> None:
    """Passes everything on, each way ``seconds`` later."""

    def handle(client: socket.socket) -> None:
        with socket.create_connection((host, port)) as server:
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            back = threading.Thread(target=_pass_on, args=(server, client, seconds), daemon=True)
            back.start()
            _pass_on(client, server, seconds)
            back.join()

    _accept(pipe, handle)


def _pass_on(source: socket.socket, target: socket.socket, seconds: float) -> None:
    on_the_way: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def deliver() -> None:
        data = b"-"
        while data:
            due, data = on_the_way.get()
            time.sleep(max(0.0, due - time.monotonic()))
            with contextlib.suppress(OSError):
                target.sendall(data) if data else target.shutdown(socket.SHUT_WR)

    threading.Thread(target=deliver, daemon=True).start()
    data = b"-"
    while data:
        try:
            data = source.recv(1 << 16)
        except OSError:
            data = b""
        on_the_way.put((time.monotonic() + seconds, data))


@functools.cache
def many_definitions() -> bytes:
    """Node definitions as of a server with very many node packs, 20 MB of JSON."""
    text = gzip.decompress(_DEFINITIONS.read_bytes())
    one = json.loads(text)
    count = -(-DEFINITIONS_SIZE // len(text))
    made = {f"{name} {n}": each for n in range(count) for name, each in one.items()}
    return json.dumps(made).encode()


# -- a server that does next to nothing, quickly ----------------------------------------


def stub(pipe: Connection) -> None:
    """``/prompt``, ``/ws``, ``/object_info``, a sink and a source of files, and ``/frames``."""
    _accept(pipe, _Stub().handle)


class _Stub:
    def __init__(self) -> None:
        self.sockets: dict[str, socket.socket] = {}
        self.started = 0.0

    def handle(self, connection: socket.socket) -> None:
        received = b""
        while True:
            while b"\r\n\r\n" not in received:
                data = connection.recv(1 << 16)
                if not data:
                    return
                received += data
            head, _, received = received.partition(b"\r\n\r\n")
            method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
            url = urlsplit(target.removeprefix("/api"))
            if url.path == "/prompt":
                _answer(connection, {"exec_info": {"queue_remaining": 0}})
            elif url.path == "/object_info":
                _answer(connection, many_definitions())
            elif url.path == "/ws":
                self.upgrade(connection, head, url.query)
                return
            elif url.path == "/frames":
                wanted = {name: values[0] for name, values in parse_qs(url.query).items()}
                _answer(connection, {})
                self.send(**wanted)
            elif url.path == "/started":
                _answer(connection, {"at": self.started})
            elif method == "POST":
                _drain(connection, _header(head, "Content-Length"), len(received))
                received = b""
                _answer(connection, {"name": "file.bin", "subfolder": "", "type": "input"})
            else:
                connection.sendall(_head(FILE_SIZE, "application/octet-stream"))
                for _ in range(FILE_SIZE // len(_PIECE)):
                    connection.sendall(_PIECE)

    def upgrade(self, connection: socket.socket, head: bytes, query: str) -> None:
        key = _header(head, "Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        proof = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        connection.sendall(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {proof}\r\n\r\n".encode()
        )
        status = {"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 0}}}}
        self.sockets[parse_qs(query)["clientId"][0]] = connection
        connection.sendall(_frame(1, json.dumps(status).encode()))  # from now on it may be used
        while connection.recv(1 << 16):  # what a client says does not matter here
            pass

    def send(self, client: str, kind: str, count: str, pause: str = "0") -> None:
        """Frames, as fast as they go or ``pause`` seconds apart."""
        connection, seconds = self.sockets[client], float(pause)
        frames = [MAKE[kind](number) for number in range(int(count))]
        if not seconds:  # as many at once as a busy server might gather
            together = max(1, (1 << 18) // len(frames[0]))
            starts = range(0, len(frames), together)
            frames = [b"".join(frames[start : start + together]) for start in starts]
        self.started = time.monotonic()
        for number, frame in enumerate(frames):
            time.sleep(max(0.0, self.started + seconds * number - time.monotonic()))
            connection.sendall(frame)


def _header(head: bytes, name: str) -> str:
    start = head.lower().index(name.lower().encode() + b":") + len(name) + 1
    return head[start:].partition(b"\r\n")[0].decode().strip()


def _head(length: int, kind: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n".encode()


def _answer(connection: socket.socket, value: Any) -> None:
    """An answer of JSON, which may be encoded already."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    connection.sendall(_head(len(body), "application/json; charset=utf-8") + body)


def _drain(connection: socket.socket, length: str, got: int) -> None:
    buffer = bytearray(1 << 20)
    left = int(length) - got
    while left > 0:
        left -= connection.recv_into(buffer, min(left, len(buffer))) or left


def _frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes([0x80 | opcode, size]) + payload
    if size < 65536:
        return struct.pack(">BBH", 0x80 | opcode, 126, size) + payload
    return struct.pack(">BBQ", 0x80 | opcode, 127, size) + payload


_PROMPT = "00000000-0000-4000-8000-000000000000"


def _executed(number: int) -> bytes:
    """300 bytes of JSON, of a kind that is never dropped."""
    image = {"filename": f"picture_{number:06d}_.png", "subfolder": "bench", "type": "output"}
    data = {"node": "9", "display_node": "9", "output": {"images": [image]}, "prompt_id": _PROMPT}
    text = json.dumps({"type": "executed", "data": data, "padding": ""}).encode()
    return _frame(1, text[:-2] + b"." * (300 - len(text)) + text[-2:])


def _preview(size: int) -> Callable[[int], bytes]:
    """A picture as today's servers send it, each of another node, so that none is dropped."""

    def make(number: int) -> bytes:
        about = json.dumps(
            {"node_id": str(number), "prompt_id": _PROMPT, "image_type": "image/jpeg"}
        ).encode()
        return _frame(2, struct.pack(">II", 4, len(about)) + about + bytes(size))

    return make


MAKE = {"json": _executed, "30 KB": _preview(30_000), "5 MB": _preview(5_000_000)}


# -- a run that sends many previews -----------------------------------------------------

#: Previews of the run, and how many come in a second.
PREVIEWS, PREVIEW_RATE = 100, 100


def previewing(pipe: Connection) -> None:
    """Plays a run of one second, with pictures of 20 KB and more, in place of every prompt."""
    from PIL import Image

    from comfy_client.testing import ComfyServer, Finish
    from comfy_client.testing.scripting import PROMPT_ID, Step

    file = io.BytesIO()
    Image.effect_noise((256, 256), 60).convert("RGB").save(file, "JPEG", quality=75)
    picture = struct.pack(">II", 1, 1) + file.getvalue()
    begun = [0.0]

    def message(kind: str, **data: object) -> dict[str, object]:
        return {"type": kind, "data": {"prompt_id": PROMPT_ID, **data}}

    def wait(number: int, _: str) -> None:
        if number == 0:
            begun[0] = time.monotonic()
        time.sleep(max(0.0, begun[0] + number / PREVIEW_RATE - time.monotonic()))

    steps: list[Step] = [message("execution_start"), message("executing", node="1")]
    for number in range(PREVIEWS):
        progress = message("progress", node="1", value=number + 1, max=PREVIEWS)
        steps += [functools.partial(wait, number), progress, picture]
    steps += [message("execution_success"), Finish(), message("executing", node=None)]
    with ComfyServer() as server:
        server.script(*steps)
        pipe.send(server.port)
        threading.Event().wait()
