"""Two hundred tests with one server, and ``reset`` between them.

Each finds the server like a new one, and leaves it in a state of its own.
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from typing import Any

import pytest
import requests
import websocket

from comfy_client.testing import PROMPT_ID, ComfyServer, Finish, declare_node
from tests.helpers.bare import LIMIT, asking, get, post, raw, submit, upload
from tests.helpers.graphs import picture, txt2img
from tests.server.test_faults import LASTING, UNREAD

COUNT = 200
#: What is asked of a server; the answers are those of a new one.
PATHS = (
    "/queue",
    "/history",
    "/object_info",
    "/models/loras",
    "/models/checkpoints",
    "/settings",
    "/userdata?dir=.&recurse=true",
    "/features",
    "/embeddings",
    "/api/queue",
)
Open = contextlib.ExitStack


def seen(server: ComfyServer) -> dict[str, Any]:
    """All that tests can see of a server: answers, records, files, numbers, and a prompt's end."""
    found: dict[str, Any] = {
        "records": [len(kept) for kept in (server.requests, server.ran, server.messages)],
        "sockets": [server.hellos[:], len(server.handshakes), server.first_messages[:]],
        "counts": (server.pings, server.connections),
        "faults": server.faults.active(),
        "errors": server.errors[:],
        "clock": (server.speed, server.paused),
        "files": sorted(str(path.relative_to(server.root)) for path in server.root.rglob("*")),
    }
    with contextlib.closing(HTTPConnection("127.0.0.1", server.port, timeout=LIMIT)) as line:

        def ask(method: str, path: str, body: Any = None) -> bytes:
            line.request(method, path, body and json.dumps(body))
            return line.getresponse().read()

        found["log"] = ask("GET", "/internal/logs").count(b"Prompt executed")
        found |= {path: ask("GET", path) for path in PATHS}
        found["devices"] = json.loads(ask("GET", "/system_stats"))["devices"]
        sent = json.loads(ask("POST", "/prompt", {"prompt": picture()}))
        server.until(lambda: sent["prompt_id"] in server.history, LIMIT)
        entry = server.history[sent["prompt_id"]]
        events = [(name, data.get("nodes")) for name, data in entry["status"]["messages"]]
        found["prompt"] = sent["number"], entry["outputs"], events
        found["picture"] = len(ask("GET", "/view?filename=a_00001_.png"))
    found["ids"] = [request.number for request in server.requests]
    return found


class Broken:
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    def run(self) -> None:
        raise RuntimeError


# -- what tests leave behind ----------------------------------------------------------------


def ended_prompts(server: ComfyServer, stack: Open) -> None:
    for _ in range(2):
        prompt_id = submit(server)
        server.until(lambda prompt_id=prompt_id: prompt_id in server.history, LIMIT)


def sampling(server: ComfyServer, stack: Open) -> None:
    post(server, "/prompt", {"prompt": txt2img(steps=10_000), "client_id": "me"})
    submit(server)
    server.until(lambda: server.running and server.pending, LIMIT)


def uploads(server: ComfyServer, stack: Open) -> None:
    upload(server, b"picture")
    post(server, "/userdata/workflows%2Fa.json", {"nodes": []})
    post(server, "/settings", {"Comfy.ColorPalette": "light"})


def own_nodes(server: ComfyServer, stack: Open) -> None:
    server.add_node(Broken, "SaveImage")
    server.add_node(Broken)


def models(server: ComfyServer, stack: Open) -> None:
    (server.root / "models/loras/a.safetensors").touch()
    (server.root / "models/checkpoints/more").mkdir()
    (server.root / "models/checkpoints/more/b.safetensors").touch()


def pack(server: ComfyServer, stack: Open) -> None:
    folder = server.root / "custom_nodes" / "pack" / "example_workflows"
    folder.mkdir(parents=True)
    (folder / "a.json").write_text("{}")


def death(server: ComfyServer, stack: Open) -> None:
    ended_prompts(server, stack)
    server.kill()


def death_later(server: ComfyServer, stack: Open) -> None:
    server.faults.crash(0.02)


def talk(server: ComfyServer, stack: Open) -> None:
    ws = websocket.create_connection(f"{server.url.replace('http', 'ws', 1)}/ws", LIMIT)
    stack.callback(ws.shutdown)
    ws.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))
    ws.ping()
    server.until(lambda: server.pings and server.messages, LIMIT)
    server.faults.withhold()
    server.push({"type": "late", "data": {}})


def script(server: ComfyServer, stack: Open) -> None:
    never = threading.Event()
    start = {"type": "execution_start", "data": {"prompt_id": PROMPT_ID}}
    server.script(start, never, Finish())
    submit(server)
    server.until(lambda: server.ran, LIMIT)


def answers(server: ComfyServer, stack: Open) -> None:
    server.on("GET", "/queue", (200, {}, {"mine": True}))
    server.on("POST", "/prompt", lambda request: (500, {}, "never"))
    get(server, "/queue")


def unanswered(server: ComfyServer, stack: Open) -> None:
    """A prompt that is under way when the test ends."""
    server.faults.delay("POST", "/prompt")
    body = json.dumps({"prompt": picture()}).encode()
    stack.enter_context(raw(server, asking("/prompt", "POST", body)))
    server.until(lambda: server.requests, LIMIT)


def forgotten(server: ComfyServer, stack: Open) -> None:
    with server.faults.hang_worker():
        submit(server)
        server.until(lambda: server.running, LIMIT)
        server.forget()


def refused(server: ComfyServer, stack: Open) -> None:
    assert post(server, "/prompt", {"prompt": {"1": {"class_type": "No"}}}).status_code == 400
    assert get(server, "/nope").status_code == 404


def queue_of_numbers(server: ComfyServer, stack: Open) -> None:
    with server.faults.hang_worker():
        for _ in range(3):
            submit(server, front=True)


def node_answers(server: ComfyServer, stack: Open) -> None:
    server.on("SaveImage", text="theirs")
    server.on("EmptyImage", error="no", times=1)
    ended_prompts(server, stack)


def declared_nodes(server: ComfyServer, stack: Open) -> None:
    server.add_node(declare_node("SaveImage", seconds=3600))
    server.add_node(declare_node("Other"))
    server.add_models("loras", "sub/a.safetensors")
    submit(server)
    server.until(lambda: server.running, LIMIT)


def standing_clock(server: ComfyServer, stack: Open) -> None:
    server.speed = 50.0
    submit(server)
    server.pause()


def long_script(server: ComfyServer, stack: Open) -> None:
    server.script({"type": "a", "data": {}}, 3600, Finish())
    submit(server)
    server.until(lambda: server.ran, LIMIT)


def log(server: ComfyServer, stack: Open) -> None:
    requests.patch(
        f"{server.url}/internal/logs/subscribe",
        json={"clientId": "me", "enabled": True},
        timeout=LIMIT,
    )
    ended_prompts(server, stack)


def fault(name: str) -> Callable[[ComfyServer, Open], None]:
    def leave(server: ComfyServer, stack: Open) -> None:
        LASTING[name](server.faults)
        body = json.dumps({"prompt": picture(), "client_id": "me"}).encode()
        for request in (asking("/queue"), asking("/prompt", "POST", body), asking("/ws")):
            stack.enter_context(raw(server, request))
        if name not in UNREAD:
            server.until(lambda: len(server.requests) == 3, LIMIT)

    leave.__name__ = name
    return leave


WAYS = (
    *(ended_prompts, sampling, uploads, own_nodes, models, pack, death, death_later, talk, script),
    *(answers, unanswered, forgotten, refused, queue_of_numbers, log),
    *(node_answers, declared_nodes, standing_clock, long_script),
    *map(fault, LASTING),
)


def in_any_order() -> list[Any]:
    order = random.Random(7)
    found: list[Any] = []
    while len(found) < COUNT:
        found += order.sample(WAYS, len(WAYS))
    return found[:COUNT]


@pytest.fixture(scope="module")
def new() -> dict[str, Any]:
    """What a server is like that nobody has used."""
    with ComfyServer() as server:
        server.until(lambda: server.connections == 0)
        return seen(server)


@pytest.fixture(scope="module")
def server() -> Iterator[ComfyServer]:
    with ComfyServer() as running:
        yield running


@pytest.fixture
def stack(server: ComfyServer) -> Iterator[Open]:
    """What a test leaves open is closed only after the reset."""
    with Open() as opened:
        yield opened
        server.reset()


@pytest.mark.parametrize("leave", in_any_order(), ids=lambda leave: leave.__name__)
def test_a_server_after_a_reset_is_like_a_new_one(
    server: ComfyServer,
    stack: Open,
    new: dict[str, Any],
    leave: Callable[[ComfyServer, Open], None],
) -> None:
    assert seen(server) == new
    server.reset()
    leave(server, stack)


def test_the_two_hundred_tests_leave_everything_behind_that_a_reset_covers() -> None:
    assert len(in_any_order()) == COUNT
    assert {*in_any_order()} == {*WAYS}
