"""Faults of sockets and of what comes over them."""

from __future__ import annotations

import contextlib
import json
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest
import websocket

from comfy_client import ComfyApi, Workflow
from comfy_client.testing import (
    ComfyServer,
    faults,
    frame,
)
from tests.helpers.bare import (
    LIMIT,
    all_end,
    asking,
    ended,
    get,
    heard,
    over,
    pong,
    post,
    raw,
    server_threads,
    silent,
    submit,
)
from tests.helpers.clients import quick_once
from tests.server.conftest import Dial


@pytest.fixture
def server() -> Iterator[ComfyServer]:
    with ComfyServer() as running:
        yield running


# -- sockets -------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [True, False])
def test_sockets_are_dropped(server: ComfyServer, dial: Dial, reset: bool) -> None:
    """By RST or by FIN, all of them, and the next dial works."""
    sockets = [dial("a"), dial("b")]
    server.faults.drop(reset=reset)
    expected = ConnectionResetError if reset else websocket.WebSocketConnectionClosedException
    for ws in sockets:
        with pytest.raises(expected):
            ws.recv()
    server.until(lambda: not server.sockets)
    dial("a")
    assert server.hellos == ["a", "b", "a"]


def test_a_single_socket_is_dropped(server: ComfyServer, dial: Dial) -> None:
    """Told by its client id."""
    mine, theirs = dial("me"), dial("you")
    [found] = [s for s in server.sockets if s.client_id == "you"]
    found.hang_up(reset=False)
    with pytest.raises(websocket.WebSocketConnectionClosedException):
        theirs.recv()
    server.push({"type": "x"})
    assert json.loads(mine.recv()) == {"type": "x"}


def test_messages_before_a_drop_have_been_sent(server: ComfyServer, dial: Dial) -> None:
    """A FIN comes behind the messages."""
    ws = dial()
    for number in range(100):
        server.push({"type": "x", "data": number})
    server.faults.drop(reset=False)
    assert [json.loads(ws.recv())["data"] for _ in range(100)] == list(range(100))


def test_sockets_are_closed_politely(server: ComfyServer, dial: Dial) -> None:
    """With a close frame of code and reason."""
    ws = dial()
    server.faults.close_politely(1012, "restart")
    received = ws.recv_frame()
    assert received.opcode == websocket.ABNF.OPCODE_CLOSE
    assert received.data == struct.pack(">H", 1012) + b"restart"


def test_a_deaf_socket_gets_no_messages_and_answers_pings(server: ComfyServer, dial: Dial) -> None:
    """Others hear all; it hears again when that ends."""
    old = dial("old")
    with server.faults.deaf():
        new = dial("new")
        server.push({"type": "x"})
        assert json.loads(new.recv()) == {"type": "x"}
        assert silent(old)
        assert pong(old) == b"there?"
    server.push({"type": "y"})
    assert json.loads(old.recv()) == {"type": "y"}


def test_a_stale_handler_takes_the_new_socket_with_it(server: ComfyServer, dial: Dial) -> None:
    """The id's old handler is slow, and forgets the id when the client is back."""
    old = dial()
    with server.faults.stale_handlers():
        old.shutdown()
        server.until(lambda: not server.sockets)
        new = dial()
        server.push({"type": "x"})
        assert silent(new)
        assert pong(new) == b"there?"
    new.shutdown()
    server.until(lambda: not server.sockets)
    third = dial()
    server.push({"type": "y"})
    assert json.loads(third.recv()) == {"type": "y"}


def test_a_dark_socket_is_neither_read_nor_written(server: ComfyServer, dial: Dial) -> None:
    """New ones work, and HTTP; what was sent meanwhile is read when it ends."""
    old = dial("old")
    with server.faults.go_dark():
        old.send('{"type": "hello"}')
        old.ping(b"1")
        server.push({"type": "x"})
        assert silent(old)
        new = dial("new")
        server.push({"type": "y"})
        assert json.loads(new.recv()) == {"type": "y"}
        assert get(server, "/queue").status_code == 200
        assert server.messages == []
    received = old.recv_frame()
    assert (received.opcode, received.data) == (websocket.ABNF.OPCODE_PONG, b"1")
    server.until(lambda: server.messages)
    server.push({"type": "z"})
    assert json.loads(old.recv()) == {"type": "z"}


def test_a_frozen_server_accepts_and_does_nothing(server: ComfyServer, dial: Dial) -> None:
    """What came meanwhile is handled when it ends."""
    ws = dial()
    with server.faults.freeze(), raw(server, asking("/queue")) as connection:
        ws.ping(b"1")
        connection.settimeout(0.15)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        assert silent(ws)
        with pytest.raises(RuntimeError, match="frozen"):
            server.faults.drop()
        connection.settimeout(LIMIT)
        server.faults.clear()
        assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")
        assert ws.recv_frame().data == b"1"


def test_a_server_that_is_frozen_twice_thaws_with_the_last(server: ComfyServer) -> None:
    """And the second time costs no time."""

    def freeze_twice() -> None:
        one, other = server.faults.freeze(), server.faults.freeze()
        one.end()
        other.end()

    quick_once(freeze_twice, 9)  # what does not notice is given ten
    first, second = server.faults.freeze(), server.faults.freeze()
    with raw(server, asking("/queue")) as connection:
        first.end()
        connection.settimeout(0.15)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        second.end()
        connection.settimeout(LIMIT)
        assert connection.recv(12) == b"HTTP/1.1 200"


@pytest.mark.parametrize("name", ["deaf", "go_dark"])
def test_a_fault_of_open_sockets_can_end_in_a_frozen_server(
    server: ComfyServer, dial: Dial, name: str
) -> None:
    """They hear again when it thaws."""
    ws = dial()
    fault = getattr(server.faults, name)()
    with server.faults.freeze():
        fault.end()
    server.push({"type": "x"})
    assert heard(ws, "x") == ["x"]


def test_a_frozen_server_can_be_stopped(server: ComfyServer) -> None:
    """And started again."""
    server.faults.freeze()
    with all_end(server_threads()):
        server.restart()
    assert get(server, "/queue").status_code == 200


def test_pings_are_swallowed(server: ComfyServer, dial: Dial) -> None:
    """And counted."""
    ws = dial()
    with server.faults.swallow_pings() as fault:
        ws.ping(b"1")
        server.until(lambda: server.pings == 1)
        assert silent(ws)
        assert fault.hits == 1
    assert pong(ws) == b"there?"
    assert server.pings == 2


def test_sockets_are_refused(server: ComfyServer, dial: Dial) -> None:
    """With status, headers and body; those that are open stay."""
    ws = dial()
    with server.faults.refuse_sockets(418, {"no": "tea"}, {"X-Pot": "1"}) as fault:
        answer = get(server, "/ws")
        assert (answer.status_code, answer.json()) == (418, {"no": "tea"})
        assert answer.headers["X-Pot"] == "1"
        with pytest.raises(websocket.WebSocketBadStatusException):
            dial()
    assert fault.hits == 2
    server.push({"type": "x"})
    assert json.loads(ws.recv()) == {"type": "x"}
    dial()


def test_handshakes_are_stalled_or_slow(server: ComfyServer, dial: Dial) -> None:
    """No answer while it lasts."""
    handshake = (
        b"GET /ws?clientId=raw HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with server.faults.stall_handshakes() as fault, raw(server, handshake) as connection:
        connection.settimeout(0.15)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        assert fault.hits == 1
        fault.end()
        connection.settimeout(LIMIT)
        assert connection.recv(12) == b"HTTP/1.1 101"
    with server.faults.slow_handshakes(0.2):
        start = time.perf_counter()
        dial()
        assert time.perf_counter() - start >= 0.2


# -- messages ------------------------------------------------------------------------------


def test_events_are_lost(server: ComfyServer, dial: Dial) -> None:
    """By name and pattern; the end marker has a name of its own, and the rest comes."""
    ws = dial()
    with server.faults.lose("execut*", "progress*") as fault:
        over(server, submit(server))
    assert fault.hits >= 4
    server.push({"type": "over"})
    assert set(heard(ws, "over")) == {"status", "over"}
    with server.faults.lose("executing null"):
        over(server, submit(server))
        server.push({"type": "over"})
    names = heard(ws, "over")
    assert "execution_success" in names
    assert "executing null" not in names


def test_a_function_chooses_the_events_that_are_lost(server: ComfyServer, dial: Dial) -> None:
    """By their names and data."""
    ws = dial()

    def of_a_node(event: str | int, data: Any) -> bool:
        return event == "executing" and data["node"] is not None

    with server.faults.lose(of_a_node):
        over(server, submit(server))
    names = heard(ws, "executing null")
    assert "executing" not in names
    assert "executed" in names


def test_feature_flags_are_passed_over(server: ComfyServer) -> None:
    """No answer to them, and previews without metadata."""
    with server.faults.no_feature_flags(), ComfyApi(server.url) as api:
        seen: list[str] = []
        api.on("all", lambda event: seen.append(event.name))
        api.run(Workflow.example(), timeout=LIMIT)
    assert "b_preview" in seen
    assert not {"feature_flags", "b_preview_with_metadata"} & set(seen)


def test_events_are_withheld(server: ComfyServer, dial: Dial) -> None:
    """They come later, in their order."""
    ws = dial()
    with server.faults.withhold():
        over(server, submit(server))
        assert silent(ws)
    names = heard(ws, "executing null")
    wanted = ["execution_start", "executed", "execution_success", "executing null"]
    assert [name for name in names if name in wanted] == wanted


def test_junk_comes_before_each_message(server: ComfyServer, dial: Dial) -> None:
    """Each kind of it, while it lasts."""
    ws = dial()
    seen = []
    with server.faults.junk() as fault:
        while fault.hits < len(faults.JUNK):
            ended(server, submit(server))
        server.push({"type": "over"})
        while (received := ws.recv_frame()).data != b'{"type": "over"}':
            seen.append((received.opcode, bytes(received.data)))
    assert set(faults.JUNK) <= set(seen)
    assert len(seen) >= 2 * len(faults.JUNK)


def test_foreign_traffic_comes_before_each_message(server: ComfyServer, dial: Dial) -> None:
    """Of other prompts and extensions."""
    ws = dial()
    seen = []
    with server.faults.foreign_traffic() as fault:
        while fault.hits < len(faults.FOREIGN):
            ended(server, submit(server))
        server.push({"type": "over"})
        while (message := json.loads(ws.recv())) != {"type": "over"}:
            seen.append(message)
    assert all(foreign in seen for foreign in faults.FOREIGN)


def test_messages_come_in_fragments(server: ComfyServer, dial: Dial) -> None:
    """With pings between them, and they are whole."""
    ws = dial()
    with server.faults.fragments(3):
        submit(server, "other")
        received = [ws.recv_frame() for _ in range(5)]
    assert [(f.fin, f.opcode) for f in received] == [(0, 1), (1, 9), (0, 0), (1, 9), (1, 0)]
    joined = b"".join(f.data for f in received if f.opcode != 9)
    assert json.loads(joined)["type"] == "status"


def test_messages_pause_in_their_frames(server: ComfyServer) -> None:
    """Half of it comes at once, the rest later; pongs wait for their turn."""
    ws = websocket.create_connection(f"ws://127.0.0.1:{server.port}/ws?clientId=me", timeout=LIMIT)
    with contextlib.closing(ws), server.faults.pause_in_frames(0.3):
        json.loads(ws.recv())
        start = time.perf_counter()
        submit(server, "other")
        ws.sock.recv(1)
        ws.ping(b"1")
        rest = b""
        while frame(10, b"1") not in rest:
            rest += ws.sock.recv(4096)
        assert time.perf_counter() - start >= 0.25


def test_pushed_messages_wait_for_the_frame_under_way(server: ComfyServer) -> None:
    """Junk does, too; or nobody could read on."""
    with server.faults.pause_in_frames(0.2), server.faults.junk() as junk:
        url = f"ws://127.0.0.1:{server.port}/ws?clientId=me"
        ws = websocket.create_connection(url, timeout=LIMIT)
        server.until(lambda: server.sockets)  # and its greeting has begun
        server.push({"type": "pushed"})
        post(server, "/queue", {"clear": True})
        texts = [ws.recv_frame().data for _ in range(4)]
        kinds = [json.loads(texts[index])["type"] for index in (0, 1, 3)]
        assert kinds == ["status", "pushed", "status"]
        assert (texts[2], junk.hits) == (faults.JUNK[0][1], 1)
        ws.shutdown()


def test_an_oversized_frame_is_announced(server: ComfyServer, dial: Dial) -> None:
    """And nothing of it comes."""
    ws = dial()
    server.faults.oversized_frame(2**40)
    assert ws.sock.recv(100) == b"\x82\x7f" + (2**40).to_bytes(8, "big")
