"""Clients of an embedded server without the library: requests, WebSockets and bytes."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import requests
import websocket

from comfy_client.testing import ComfyServer
from tests.helpers.clients import until
from tests.helpers.graphs import picture

LIMIT = 60.0


def server_threads() -> set[threading.Thread]:
    """The threads of the embedded servers that run now."""
    names = ("ComfyServer", "ComfyServer worker")
    return {thread for thread in threading.enumerate() if thread.name in names}


@contextlib.contextmanager
def all_end(threads: set[threading.Thread]) -> Iterator[None]:
    """What is done ends these threads; ``stop`` gives up one that does not notice."""
    assert threads
    yield
    until(lambda: not any(thread.is_alive() for thread in threads), LIMIT)


class Socket:
    """A bare event socket."""

    def __init__(self, server: ComfyServer, client_id: str = "") -> None:
        url = f"{server.url.replace('http', 'ws', 1)}/ws?clientId={client_id}"
        self.ws = websocket.create_connection(url, LIMIT, suppress_origin=True)

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *_: object) -> None:
        self.ws.close()

    def next(self) -> Any:
        """The next message: a dict, or bytes."""
        message = self.ws.recv()
        return message if isinstance(message, bytes) else json.loads(message)

    def until(self, event: str) -> list[Any]:
        """All messages up to an event."""
        heard = []
        while not heard or not isinstance(heard[-1], dict) or heard[-1]["type"] != event:
            heard.append(self.next())
        return heard


def ask(server: ComfyServer, method: str, path: str, **options: Any) -> requests.Response:
    return requests.request(method, f"{server.url}{path}", timeout=LIMIT, **options)


def get(server: ComfyServer, path: str, **options: Any) -> requests.Response:
    options.setdefault("allow_redirects", False)
    return requests.get(server.url + path, timeout=LIMIT, **options)


def post(server: ComfyServer, path: str, body: Any, **options: Any) -> requests.Response:
    return requests.post(server.url + path, json=body, timeout=LIMIT, **options)


def submit(server: ComfyServer, client_id: str | None = "me", **more: Any) -> str:
    body = {"prompt": picture(), "client_id": client_id, **more}
    if client_id is None:
        del body["client_id"]
    answer = post(server, "/prompt", body)
    assert answer.status_code == 200, answer.text
    prompt_id: str = answer.json()["prompt_id"]
    return prompt_id


def ended(server: ComfyServer, prompt_id: str) -> None:
    server.until(lambda: prompt_id in server.history, LIMIT)


def over(server: ComfyServer, prompt_id: str) -> None:
    """Wait until nothing more is said of it."""
    ended(server, prompt_id)
    log = f"{server.url}/internal/logs"
    done = len(server.history)
    server.until(
        lambda: requests.get(log, timeout=LIMIT).json().count("Prompt executed") >= done, LIMIT
    )


def heard(ws: websocket.WebSocket, until: str) -> list[Any]:
    """The names of what comes, up to one of this name; the end marker is ``executing null``."""
    names = []
    while until not in names:
        data = ws.recv()
        if isinstance(data, bytes):
            names.append("binary")
            continue
        message = json.loads(data)
        null = message["type"] == "executing" and message["data"]["node"] is None
        names.append("executing null" if null else message["type"])
    return names


def silent(ws: websocket.WebSocket, seconds: float = 0.15) -> bool:
    """Whether nothing comes for a while."""
    ws.settimeout(seconds)
    try:
        ws.recv_frame()
    except websocket.WebSocketTimeoutException:
        return True
    finally:
        ws.settimeout(LIMIT)
    return False


def pong(ws: websocket.WebSocket) -> bytes:
    """What comes back for a ping."""
    ws.ping(b"there?")
    while True:
        received = ws.recv_frame()
        if received.opcode == websocket.ABNF.OPCODE_PONG:
            return bytes(received.data)


@contextlib.contextmanager
def raw(server: ComfyServer, data: bytes = b"") -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), LIMIT) as connection:
        connection.sendall(data)
        yield connection


def everything(connection: socket.socket) -> bytes:
    found = bytearray()
    while data := connection.recv(65536):
        found += data
    return bytes(found)


def asking(path: str, method: str = "GET", body: bytes = b"") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def upload(server: ComfyServer, data: bytes, name: str = "a.png") -> requests.Response:
    files = {"image": (name, data)}
    return requests.post(f"{server.url}/upload/image", files=files, timeout=LIMIT)


def entry_of(server: ComfyServer, prompt_id: str) -> Any:
    """The history of a prompt, when it has ended."""
    found: list[Any] = []

    def has_ended() -> bool:
        found[:] = get(server, f"/history/{prompt_id}").json().values()
        return bool(found)

    until(has_ended, LIMIT)
    return found[0]


def end_of(server: ComfyServer, prompt: dict[str, Any]) -> str:
    """How a prompt ended: the status of its history, or ``refused``."""
    answer = post(server, "/prompt", {"prompt": prompt})
    if answer.status_code != 200:
        return "refused"
    found: str = entry_of(server, answer.json()["prompt_id"])["status"]["status_str"]
    return found
