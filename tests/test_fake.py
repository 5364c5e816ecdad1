"""The scripted server does what the tests of the client rely on."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import requests
import websocket

from tests.fake import PROMPT_ID, FakeComfy, Finish, cut, drip, frame, never_answer, recording

Dial = Callable[..., websocket.WebSocket]
HELLO = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}


@pytest.fixture
def dial(fake: FakeComfy) -> Iterator[Dial]:
    """Opens sockets to the fake, and closes them after the test."""
    with ExitStack() as stack:

        def open_socket(client_id: str = "me", **options: Any) -> websocket.WebSocket:
            ws = websocket.WebSocket(enable_multithread=True)
            stack.callback(ws.shutdown)
            url = f"ws://127.0.0.1:{fake.port}/api/ws?clientId={client_id}"
            ws.connect(url, timeout=5, suppress_origin=True, **options)
            return ws

        yield open_socket


def post(fake: FakeComfy, **body: Any) -> Any:
    body = {"prompt": {"1": {}}, "client_id": "me", **body}
    return requests.post(f"{fake.url}/api/prompt", json=body, timeout=5).json()


def test_answers_with_and_without_prefix_over_one_connection(fake: FakeComfy) -> None:
    """``/api`` is optional, and a session needs one connection."""
    with requests.Session() as session:
        for route in ("/prompt", "/api/prompt"):
            answer = session.get(fake.url + route, timeout=5)
            assert answer.json() == {"exec_info": {"queue_remaining": 0}}
    assert fake.connections == 1
    assert [(r.path, r.target) for r in fake.requests] == [
        ("/prompt", "/prompt"),
        ("/prompt", "/api/prompt"),
    ]


def test_records_requests(fake: FakeComfy) -> None:
    """Method, query, headers and body are there to look at, also of a chunked body."""
    url = f"{fake.url}/api/userdata/a%2Fb?x=1&y="
    requests.post(url, data=iter([b"ab", b"c"]), headers={"X-Me": "1"}, timeout=5)
    (request,) = fake.requests
    assert (request.method, request.path) == ("POST", "/userdata/a%2Fb")
    assert request.query == {"x": "1", "y": ""}
    assert request.headers["x-me"] == "1"
    assert request.body == b"abc"


def test_unknown_routes_answer_as_the_real_server_does(fake: FakeComfy) -> None:
    """404 for GET, 405 for POST; a server of early 2024 does not know ``/api``."""
    assert requests.get(f"{fake.url}/nope", timeout=5).status_code == 404
    assert requests.post(f"{fake.url}/nope", timeout=5).status_code == 405
    fake.api_prefix = False
    assert requests.get(f"{fake.url}/api/prompt", timeout=5).status_code == 404
    assert requests.get(f"{fake.url}/prompt", timeout=5).status_code == 200


def test_handlers_replace_answers_and_hand_on(fake: FakeComfy) -> None:
    """The last handler wins, may ask for the usual answer, and can be taken back."""
    fake.on("*", "*", (503, {"Retry-After": "1"}, "busy"))
    fake.on("GET", "/queue", lambda request: fake.answer(request))
    assert requests.get(f"{fake.url}/history/1", timeout=5).headers["Retry-After"] == "1"
    assert requests.get(f"{fake.url}/api/queue", timeout=5).json()["queue_running"] == []
    fake.off("*", "*")
    assert requests.get(f"{fake.url}/history/1", timeout=5).json() == {}


def test_broken_answers(fake: FakeComfy) -> None:
    """Cut short, dripping, and none at all."""
    fake.on("GET", "/view", cut((200, {}, bytes(100)), 10))
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        requests.get(f"{fake.url}/view", timeout=5)
    fake.on("GET", "/view", drip((200, {}, b"slow"), size=20, pause=0.01))
    assert requests.get(f"{fake.url}/view", timeout=5).content == b"slow"
    fake.on("GET", "/view", never_answer)
    with pytest.raises(requests.ReadTimeout):
        requests.get(f"{fake.url}/view", timeout=0.1)


def test_error_in_a_handler_fails_the_test() -> None:
    """What goes wrong in the server's threads comes out at the end."""
    server = FakeComfy()
    server.on("GET", "/queue", lambda request: request.json())
    with pytest.raises(json.JSONDecodeError), server, pytest.raises(requests.ConnectionError):
        requests.get(f"{server.url}/queue", timeout=5)


def test_greets_and_remembers_its_clients(fake: FakeComfy, dial: Dial) -> None:
    """Client ids, handshake headers and first messages of each socket are kept."""
    ws = dial("me", header=["X-Token: 1"])
    status = json.loads(ws.recv())
    assert (status["type"], status["data"]["sid"]) == ("status", "me")
    ws.send(json.dumps(HELLO))
    assert json.loads(ws.recv())["type"] == "feature_flags"
    assert fake.hellos == ["me"]
    assert fake.first_messages == [HELLO]
    assert fake.handshakes[0]["X-Token"] == "1"


def test_pushes_text_binary_fragments_and_junk(fake: FakeComfy, dial: Dial) -> None:
    """Every kind of frame arrives, in order, at the sockets it is for."""
    ws, other = dial("me"), dial("you")
    ws.recv(), other.recv()
    fake.until(lambda: len(fake.sockets) == 2)
    fake.push({"type": "a"}, to="me")
    fake.push({"type": "b", "data": "x" * 70000}, fragments=3)
    fake.push_binary(b"\0" * 200)
    fake.push_raw(frame(3, b"reserved"))
    assert json.loads(ws.recv()) == {"type": "a"}
    assert len(json.loads(ws.recv())["data"]) == 70000
    assert ws.recv() == b"\0" * 200
    with pytest.raises(websocket.WebSocketException):
        ws.recv()
    assert json.loads(other.recv())["type"] == "b"


@pytest.mark.parametrize("reset", [True, False])
def test_drops_sockets(fake: FakeComfy, dial: Dial, reset: bool) -> None:
    """By RST or by FIN, and the next dial works."""
    ws = dial()
    ws.recv()
    fake.until(lambda: fake.sockets)
    fake.drop(reset=reset)
    expected = ConnectionResetError if reset else websocket.WebSocketConnectionClosedException
    with pytest.raises(expected):
        ws.recv()
    fake.until(lambda: not fake.sockets)
    dial().recv()
    assert fake.hellos == ["me", "me"]


def test_closes_politely(fake: FakeComfy, dial: Dial) -> None:
    """A close frame with its code."""
    ws = dial()
    ws.recv()
    fake.until(lambda: fake.sockets)
    fake.close_politely(1012)
    opcode, data = ws.recv_data()
    assert (opcode, struct.unpack(">H", data[:2])) == (8, (1012,))
    fake.until(lambda: not fake.sockets)


def test_refuses_and_stalls_handshakes(fake: FakeComfy, dial: Dial) -> None:
    """Refusals, silence, and back to normal."""
    for status in (403, 502):
        fake.refuse_ws(status, "no")
        with pytest.raises(websocket.WebSocketBadStatusException) as caught:
            dial()
        assert caught.value.status_code == status
    fake.stall_ws()
    with socket.create_connection(("127.0.0.1", fake.port), timeout=0.1) as raw:
        raw.sendall(b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n")
        with pytest.raises(TimeoutError):
            raw.recv(1)
    fake.accept_ws()
    dial().recv()
    assert len(fake.handshakes) == 4


def test_deaf_sockets_still_answer_pings(fake: FakeComfy, dial: Dial) -> None:
    """Open, alive, and without messages."""
    ws = dial()
    ws.recv()
    fake.until(lambda: fake.sockets)
    fake.deaf()
    fake.push({"type": "lost"})
    ws.ping("x")
    assert ws.recv_data(control_frame=True) == (10, b"x")


@pytest.mark.parametrize("how", ["dark", "no pongs"])
def test_pings_stay_unanswered(fake: FakeComfy, dial: Dial, how: str) -> None:
    """In the dark, or because the fake is told not to; the socket stays open."""
    ws = dial()
    ws.recv()
    fake.until(lambda: fake.sockets)
    if how == "dark":
        fake.go_dark()
        fake.push({"type": "lost"})
    else:
        fake.answer_pings = False
    ws.ping("x")
    ws.settimeout(0.1)
    with pytest.raises(websocket.WebSocketTimeoutException):
        ws.recv_data(control_frame=True)
    dial().recv()
    assert len(fake.sockets) == 2


def test_plays_a_script_for_each_prompt(fake: FakeComfy, dial: Dial) -> None:
    """Events with the prompt's own id, a gate, and the history entry made from them."""
    ws, gate, seen = dial(), threading.Event(), []
    fake.until(lambda: fake.sockets)
    output = {"text": ["done"]}
    fake.script(
        {"type": "execution_start", "data": {"prompt_id": PROMPT_ID}},
        gate,
        {"type": "executed", "data": {"node": "1", "output": output, "prompt_id": PROMPT_ID}},
        b"\0\0\0\4" + PROMPT_ID.encode(),
        seen.append,
        Finish(),
    )
    prompt_id = post(fake)["prompt_id"]
    fake.until(lambda: fake.running)
    assert prompt_id not in fake.history
    gate.set()
    fake.until(lambda: prompt_id in fake.history)
    entry = requests.get(f"{fake.url}/history/{prompt_id}", timeout=5).json()[prompt_id]
    assert entry["outputs"] == {"1": output}
    assert entry["status"]["messages"] == [["execution_start", {"prompt_id": prompt_id}]]
    assert seen == [prompt_id]
    received = [ws.recv() for _ in range(6)]
    types = [json.loads(m)["type"] for m in received if isinstance(m, str)]
    assert types == ["status", "status", "execution_start", "executed", "status"]
    assert received[4] == b"\0\0\0\4" + prompt_id.encode()


def test_prompts_wait_for_each_other_and_can_be_deleted(fake: FakeComfy) -> None:
    """One runs, the others wait; chosen ids are kept; a restart forgets them all."""
    ids = [post(fake, prompt_id=name)["prompt_id"] for name in ("a", "b", "c", "d")]
    assert ids == ["a", "b", "c", "d"]
    fake.until(lambda: [i[1] for i in fake.running] == ["a"])
    requests.post(f"{fake.url}/queue", json={"delete": ["b"]}, timeout=5)
    fake.finish("a", {"1": {}})
    fake.until(lambda: [i[1] for i in fake.running] == ["c"])
    assert [i[1] for i in fake.pending] == ["d"]
    assert fake.history["a"]["status"]["completed"] is True
    fake.forget()
    queue = requests.get(f"{fake.url}/queue", timeout=5).json()
    assert (queue, fake.history) == ({"queue_running": [], "queue_pending": []}, {})


@pytest.mark.parametrize(
    ("version", "name", "binary", "ending"),
    [
        ("0.3.75", "normal_feature_flags", 8, "execution_success"),
        ("0.3.75", "runtime_error", 0, "execution_error"),
        ("0.3.75", "interrupt", 5, "execution_interrupted"),
        ("0.3.52", "normal_previews", 8, "execution_success"),
        ("2024-03", "normal_previews", 8, "executed"),
    ],
)
def test_plays_recordings_of_real_servers(
    fake: FakeComfy, dial: Dial, version: str, name: str, binary: int, ending: str
) -> None:
    """What a real server sent comes again, under the new prompt's id."""
    ws, what = dial(), recording(version, name)
    fake.until(lambda: fake.sockets)
    fake.script(*what.steps)
    prompt_id = post(fake)["prompt_id"]
    received: list[Any] = []
    last = {"type": "executing", "data": {"node": None, "prompt_id": prompt_id}}
    while last not in received:
        message = ws.recv()
        received.append(json.loads(message) if isinstance(message, str) else message)
    assert sum(isinstance(m, bytes) for m in received) == binary
    events = [m for m in received if isinstance(m, dict) and m["type"] != "status"]
    assert events[-2]["type"] == ending
    assert fake.history[prompt_id]["status"]["completed"] is ending.endswith(
        ("success", "executed")
    )
    assert what.prompt_id is not None
    assert what.prompt_id not in str(events)
