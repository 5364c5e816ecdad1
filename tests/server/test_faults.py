"""The faults of the embedded server, seen by plain sockets and requests."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest
import requests
import trustme
import websocket

from comfy_client import ComfyApi, Workflow
from comfy_client.testing import (
    ComfyServer,
    Fault,
    Finish,
    Request,
    faults,
    frame,
)
from tests.helpers.bare import (
    LIMIT,
    asking,
    ended,
    everything,
    get,
    heard,
    over,
    pong,
    post,
    raw,
    silent,
    submit,
    upload,
)
from tests.helpers.graphs import picture
from tests.server.conftest import Dial


@pytest.fixture
def server() -> Iterator[ComfyServer]:
    with ComfyServer() as running:
        yield running


# -- sockets ----------------------------------------------------------------------------


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


def test_one_socket_is_dropped(server: ComfyServer, dial: Dial) -> None:
    """Told by its client id."""
    mine, theirs = dial("me"), dial("you")
    [found] = [s for s in server.sockets if s.client_id == "you"]
    found.hang_up(reset=False)
    with pytest.raises(websocket.WebSocketConnectionClosedException):
        theirs.recv()
    server.push({"type": "x"})
    assert json.loads(mine.recv()) == {"type": "x"}


def test_what_was_said_before_a_drop_has_gone(server: ComfyServer, dial: Dial) -> None:
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
    """F1: the id's old handler is slow, and forgets the id when the client is back."""
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
    start = time.monotonic()
    first, second = server.faults.freeze(), server.faults.freeze()
    assert time.monotonic() - start < 5
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
    start = time.monotonic()
    server.restart()
    assert time.monotonic() - start < 5
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
        start = time.monotonic()
        dial()
        assert time.monotonic() - start >= 0.2


# -- messages ---------------------------------------------------------------------------


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
        start = time.monotonic()
        submit(server, "other")
        ws.sock.recv(1)
        ws.ping(b"1")
        rest = b""
        while frame(10, b"1") not in rest:
            rest += ws.sock.recv(4096)
        assert time.monotonic() - start >= 0.25


def test_what_is_pushed_waits_for_the_frame_that_is_on_its_way(server: ComfyServer) -> None:
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


# -- prompts ----------------------------------------------------------------------------


def test_history_comes_late(server: ComfyServer, dial: Dial) -> None:
    """Meanwhile the prompt has said that it succeeded, and is in the queue."""
    ws = dial()
    with server.faults.late_history():
        prompt_id = submit(server)
        assert "executing null" not in heard(ws, "execution_success")
        assert get(server, f"/history/{prompt_id}").json() == {}
        assert [item[1] for item in server.running] == [prompt_id]
    assert heard(ws, "executing null")
    assert prompt_id in get(server, f"/history/{prompt_id}").json()
    with server.faults.late_history(0.2):
        prompt_id = submit(server)
        heard(ws, "execution_success")
        start = time.monotonic()
        heard(ws, "executing null")
        assert time.monotonic() - start > 0.1


def test_history_never_comes_or_is_evicted(server: ComfyServer, dial: Dial) -> None:
    """The prompt has run, all the same."""
    ws = dial()
    with server.faults.no_history():
        submit(server)
        heard(ws, "executing null")
        assert server.history == {}
    kept, gone = submit(server), submit(server)
    ended(server, gone)
    server.faults.evict(gone)
    assert list(server.history) == [kept]
    server.faults.evict()
    assert server.history == {}
    assert [ran.status for ran in server.ran] == ["success"] * 3


def test_the_queue_is_lost(server: ComfyServer, dial: Dial) -> None:
    """What waits and what runs, without a word; the next prompt runs, also under the same id."""
    ws = dial()
    with server.faults.hang_worker():
        first, second = submit(server), submit(server)
        server.until(lambda: server.running)
        server.faults.lose_queue()
        assert (server.running, server.pending, server.history) == ([], [], {})
    server.push({"type": "over"})
    assert not {"execution_success", "executing null"} & set(heard(ws, "over"))
    submit(server, prompt_id=first)
    assert "execution_success" in heard(ws, "executing null")
    assert list(server.history) == [first]
    assert [(ran.prompt_id, ran.status) for ran in server.ran] == [
        (first, None),
        (first, "success"),
    ]
    assert second not in server.history


def test_a_prompt_that_is_cached_hangs_as_well(server: ComfyServer, dial: Dial) -> None:
    """No node of it runs, and yet it does not end."""
    ws = dial()
    submit(server)
    heard(ws, "executing null")
    with server.faults.hang_worker():
        submit(server)
        heard(ws, "execution_cached")
        server.push({"type": "over"})
        assert "execution_success" not in heard(ws, "over")
    assert "execution_success" in heard(ws, "executing null")


def test_the_worker_hangs(server: ComfyServer, dial: Dial) -> None:
    """An interrupt changes nothing, HTTP works; when it ends, the prompt goes on."""
    ws = dial()
    with server.faults.hang_worker():
        prompt_id = submit(server)
        heard(ws, "execution_start")
        post(server, "/interrupt", {})
        assert [item[1] for item in get(server, "/queue").json()["queue_running"]] == [prompt_id]
        assert server.history == {}
    heard(ws, "executing null")
    assert prompt_id in server.history


def test_the_server_chooses_its_own_ids(server: ComfyServer) -> None:
    """Whatever it is sent; the mark of the client tells them apart."""
    ours = "00000000-0000-4000-8000-0000000000aa"
    mark = {"comfy_client_prompt_id": ours}
    with server.faults.other_prompt_ids():
        other = submit(server, prompt_id=ours, extra_data=mark)
    assert other != ours
    assert submit(server, prompt_id=ours) == ours
    ended(server, ours)
    assert [(ran.prompt_id, ran.mark) for ran in server.ran] == [(other, ours), (ours, None)]


def test_prompts_are_accepted_with_node_errors(server: ComfyServer) -> None:
    """And run."""
    errors = {"3": {"errors": [], "class_type": "X", "dependent_outputs": ["9"]}}
    with server.faults.node_errors(errors):
        answer = post(server, "/prompt", {"prompt": picture()})
    assert (answer.status_code, answer.json()["node_errors"]) == (200, errors)
    ended(server, answer.json()["prompt_id"])


def test_events_come_before_the_reply(server: ComfyServer, dial: Dial) -> None:
    """All of them, to the end marker."""
    ws = dial()
    order: list[str] = []
    with server.faults.events_before_reply(), server.faults.late_history() as late:
        posting = threading.Thread(target=lambda: (submit(server), order.append("reply")))
        posting.start()
        heard(ws, "execution_success")
        order.append("success")
        late.end()
        posting.join(LIMIT)
    assert order == ["success", "reply"]


# -- answers ----------------------------------------------------------------------------


def test_answers_are_delayed(server: ComfyServer) -> None:
    """Before or after the request took effect."""
    with server.faults.delay("POST", "/prompt", 0.2):
        start = time.monotonic()
        submit(server)
        assert time.monotonic() - start >= 0.2
    server.until(lambda: server.ran and server.ran[-1].status)
    for ran in (False, True):
        server.ran.clear()
        with server.faults.delay("POST", "/prompt", ran=ran) as fault:
            with pytest.raises(requests.ReadTimeout):
                requests.post(f"{server.url}/prompt", json={"prompt": picture()}, timeout=0.3)
            assert fault.hits == 1
            server.until(lambda: server.open_connections == 0)
        if not ran:
            submit(server)
        server.until(lambda: server.ran and server.ran[-1].status)
        assert len(server.ran) == 1


def test_a_delay_ends_with_its_fault(server: ComfyServer) -> None:
    """Also one for a number of times."""
    for times in (None, 1):
        fault = server.faults.delay("GET", "/queue", times=times)
        with raw(server, asking("/queue")) as connection:
            server.until(lambda fault=fault: fault.hits == 1)  # type: ignore[misc]
            fault.end()
            assert connection.recv(12) == b"HTTP/1.1 200"


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("ran", [True, False])
def test_answers_are_cut(server: ComfyServer, ran: bool, reset: bool) -> None:
    """Before anything came of them."""
    body = json.dumps({"prompt": picture()}).encode()
    with (
        server.faults.cut("POST", "/prompt", ran=ran, reset=reset, times=1),
        raw(server, asking("/prompt", "POST", body)) as connection,
    ):
        if reset:
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
        else:
            assert connection.recv(1) == b""
        other = submit(server)  # only once
    ended(server, other)
    assert len(server.ran) == 1 + ran


def test_bodies_are_cut(server: ComfyServer) -> None:
    """The head announces all of them; the request takes effect."""
    with (
        server.faults.cut("GET", "/queue", sent=5),
        raw(server, asking("/queue")) as connection,
    ):
        head, _, body = everything(connection).partition(b"\r\n\r\n")
    whole = b'{"queue_running": [], "queue_pending": []}'
    assert body == whole[:5]
    assert f"Content-Length: {len(whole)}".encode() in head
    body = json.dumps({"prompt": picture()}).encode()
    with (
        server.faults.cut("POST", "/prompt", sent=0),
        raw(server, asking("/prompt", "POST", body)) as connection,
    ):
        assert everything(connection).startswith(b"HTTP/1.1 200 OK")
    server.until(lambda: len(server.ran) == 1)


def test_files_are_cut_and_dripped(server: ComfyServer) -> None:
    """They are sent in another way than other answers."""
    data = bytes(range(256)) * 300
    (server.root / "output" / "a.bin").write_bytes(data)
    path = "/view?filename=a.bin"
    with server.faults.cut("GET", "/view", sent=1000), raw(server, asking(path)) as connection:
        head, _, body = everything(connection).partition(b"\r\n\r\n")
        assert (body, b"Content-Length: 76800" in head) == (data[:1000], True)
    with server.faults.drip("GET", "/view", size=10000, pause=0.01):
        assert get(server, path).content == data
        assert get(server, path, headers={"Range": "bytes=1-3"}).content == data[1:4]


def test_what_is_cut_can_be_cut_dripped_and_handed_on_again(server: ComfyServer) -> None:
    """It comes no further than the faults behind let it, and nothing is an error."""
    with server.faults.cut("POST", "/prompt", ran=True), server.faults.cut("*", "*", sent=10):
        with pytest.raises(requests.ConnectionError):
            submit(server)
        server.until(lambda: len(server.ran) == 1)
    with server.faults.cut("GET", "/object_info", sent=10) as fault:
        with server.faults.drip("GET", "*", size=100, pause=0):
            with raw(server, asking("/object_info")) as connection:
                head, _, body = everything(connection).partition(b"\r\n\r\n")
            assert (head[:12], len(body)) == (b"HTTP/1.1 200", 10)
        server.on("GET", "*", server.answer)
        with raw(server, asking("/object_info")) as connection:
            assert everything(connection) == b""
        assert fault.hits == 2


def test_handshakes_are_cut_and_do_not_drip(server: ComfyServer, dial: Dial) -> None:
    """The right answer to one opens a socket."""
    with server.faults.cut("GET", "/ws", sent=0):
        ws = websocket.create_connection(f"ws://127.0.0.1:{server.port}/ws", timeout=LIMIT)
        with pytest.raises(websocket.WebSocketConnectionClosedException):
            ws.recv()
        ws.shutdown()
    with server.faults.drip("*", "*"):
        assert pong(dial()) == b"there?"


def test_a_socket_is_cut_behind_the_answer_to_its_handshake(server: ComfyServer) -> None:
    """That the request takes effect is told by the answer; nothing else comes."""
    with server.faults.cut("GET", "/ws", ran=True) as fault:
        ws = websocket.create_connection(f"ws://127.0.0.1:{server.port}/ws", timeout=LIMIT)
        with pytest.raises(websocket.WebSocketConnectionClosedException):
            ws.recv()
        ws.shutdown()
    assert fault.hits == 1
    assert server.hellos == []


def test_a_handshake_waits_also_if_it_is_to_have_run(server: ComfyServer, dial: Dial) -> None:
    """It takes effect with its answer."""
    with ThreadPoolExecutor() as pool, server.faults.delay("GET", "/ws", ran=True) as fault:
        dialled = pool.submit(dial)
        server.until(lambda: fault.hits)
        assert get(server, "/queue").status_code == 200  # later than what the fault lets through
        assert server.hellos == []
        fault.end()
        assert pong(dialled.result(LIMIT)) == b"there?"


def test_answers_drip(server: ComfyServer) -> None:
    """Byte by byte."""
    with server.faults.drip("GET", "/queue", pause=LIMIT), raw(server, asking("/queue")) as slow:
        assert slow.recv(1000) == b"H"
    with server.faults.drip("GET", "/queue", pause=0.001), raw(server, asking("/queue")) as quick:
        assert everything(quick).endswith(b'"queue_pending": []}')


def test_a_gateway_is_bad_for_a_while(server: ComfyServer) -> None:
    """For a number of requests, or until it ends."""
    with server.faults.bad_gateway(503, path="/queue", times=2) as fault:
        codes = [get(server, "/queue").status_code for _ in range(3)]
        assert codes == [503, 503, 200]
        assert (fault.hits, fault.active) == (2, False)
        assert get(server, "/prompt").status_code == 200
    with server.faults.bad_gateway(524):
        for path in ("/queue", "/ws", "/nope"):
            answer = get(server, path)
            assert (answer.status_code, "<h1>524" in answer.text) == (524, True)
            assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert get(server, "/queue").status_code == 200


@pytest.mark.parametrize("status", [200, 302, 401])
def test_a_login_page_is_everywhere(server: ComfyServer, status: int) -> None:
    """As a page, or as the way to it."""
    with server.faults.login_page(status):
        for path in ("/queue", "/ws", "/api/nope", "/"):
            answer = get(server, path)
            assert (answer.status_code, "Please log in" in answer.text) == (status, True)
            assert (answer.headers.get("Location") == "/login") is (status == 302)
        assert post(server, "/prompt", {}, allow_redirects=False).status_code == status


def test_requests_are_redirected(server: ComfyServer) -> None:
    """To https by themselves, or wherever."""
    with server.faults.redirect(method="POST"):
        answer = post(server, "/prompt?x=1", {}, allow_redirects=False)
        assert answer.status_code == 301
        there = f"https://127.0.0.1:{server.port}/prompt?x=1"
        assert answer.headers["Location"] == there
        assert get(server, "/queue").status_code == 200
    with server.faults.redirect(307, "http://other.test/", path="/q*"):
        answer = get(server, "/queue")
        assert (answer.status_code, answer.headers["Location"]) == (307, "http://other.test/")
    assert server.ran == []


def test_bodies_come_under_a_wrong_type(server: ComfyServer) -> None:
    """JSON and files."""
    (server.root / "output" / "a.png").write_bytes(b"x")
    with server.faults.wrong_mime():
        for path in ("/queue", "/view?filename=a.png"):
            assert get(server, path).headers["Content-Type"] == "text/html"
        assert get(server, "/queue").json()["queue_running"] == []
    assert get(server, "/queue").headers["Content-Type"].startswith("application/json")


def test_routes_are_missing(server: ComfyServer) -> None:
    """As the server itself says it; with the prefix alone, if so told."""
    unknown = [get(server, "/nope"), post(server, "/nope", {})]
    with server.faults.missing("*", "/queue"):
        for path in ("/queue", "/api/queue"):
            answers = [get(server, path), post(server, path, {})]
            for answer, known in zip(answers, unknown, strict=True):
                assert (answer.status_code, answer.text) == (known.status_code, known.text)
                assert answer.headers["Content-Type"] == known.headers["Content-Type"]
                assert answer.headers.get("Allow") == known.headers.get("Allow")
        assert get(server, "/prompt").status_code == 200
    with server.faults.missing("*", "/api/*"):
        assert get(server, "/api/queue").status_code == 404
        assert get(server, "/queue").status_code == 200


def test_uploads_are_too_large(server: ComfyServer) -> None:
    """For a proxy, above its limit."""
    with server.faults.too_large(limit=1000):
        assert upload(server, bytes(100)).status_code == 200
        assert upload(server, bytes(2000)).status_code == 413
    assert upload(server, bytes(2000), "b.png").status_code == 200


def test_uploads_get_another_name(server: ComfyServer) -> None:
    """And are there under it."""
    with server.faults.rename_uploads("other.png"):
        answer = upload(server, b"data").json()
    assert answer == {"name": "other.png", "subfolder": "", "type": "input"}
    assert (server.root / "input" / "other.png").read_bytes() == b"data"
    assert not (server.root / "input" / "a.png").exists()


def test_answers_are_rewritten(server: ComfyServer) -> None:
    """If they are JSON, and no errors."""
    with server.faults.rewrite("GET", "*", lambda answer: [answer]) as fault:
        assert get(server, "/prompt").json() == [{"exec_info": {"queue_remaining": 0}}]
        assert get(server, "/nope").status_code == 404
    assert fault.hits == 2


def test_an_error_in_what_rewrites_is_kept(server: ComfyServer) -> None:
    """As one in a handler; the client gets a 500."""
    server.faults.rewrite("GET", "/queue", lambda answer: 1 / 0)
    assert get(server, "/queue").status_code == 500
    assert [type(error) for error in server.errors] == [ZeroDivisionError]
    server.errors.clear()


def test_what_has_struck_often_enough_is_in_force_no_more(server: ComfyServer) -> None:
    """Whom it struck last may wait for its end all the same."""
    fault = server.faults.delay("GET", "/queue", times=1)
    with raw(server, asking("/queue")) as connection:
        server.until(lambda: fault.hits)
        assert get(server, "/queue").status_code == 200
        assert (fault.active, server.faults.active()) == (False, [])
        assert repr(server.faults) == "<Faults: none>"
        connection.settimeout(0.15)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        server.faults.clear()
        connection.settimeout(LIMIT)
        assert connection.recv(12) == b"HTTP/1.1 200"


def test_the_last_fault_acts_first_and_others_behind_it(server: ComfyServer) -> None:
    """Those that change an answer act together; of those that stand in for it, one."""
    server.faults.rewrite("GET", "/prompt", lambda _: "one")
    server.faults.rewrite("GET", "/prompt", lambda answer: [answer, "two"])
    assert get(server, "/prompt").json() == ["one", "two"]
    server.on("GET", "/prompt", (200, {}, "three"))
    with server.faults.bad_gateway():
        assert get(server, "/prompt").status_code == 502
    assert get(server, "/prompt").text == "three"
    server.on("GET", "/prompt", server.answer)
    assert get(server, "/prompt").json() == ["one", "two"]


# -- all of them ------------------------------------------------------------------------


def test_an_unknown_fault_is_one_clear_error(server: ComfyServer) -> None:
    """With the nearest names, or all."""
    with pytest.raises(AttributeError, match=r"no fault 'dropp': did you mean drop"):
        server.faults.dropp()  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"no fault 'qqqqq': there are .*bad_gateway, .*"):
        server.faults.qqqqq()  # type: ignore[attr-defined]
    assert not hasattr(server.faults, "_nope")


async def a_coroutine(request: Request) -> None:
    """No handler."""


@pytest.mark.parametrize(
    ("use", "match"),
    [
        (lambda f: f.delay("FETCH", "/x"), "method is one of"),
        (lambda f: f.delay("GET", "queue"), "a path begins with"),
        (lambda f: f.delay("GET", "/x", -1), "seconds are 0 or more"),
        (lambda f: f.delay("GET", "/x", float("nan")), "seconds are 0 or more"),
        (lambda f: f.delay("GET", "/x", times=0), "times is 1 or more"),
        (lambda f: f.delay("GET", "/x", "1"), "seconds are 0 or more, not '1'"),
        (lambda f: f.delay("GET", "/x", times=1.5), "times is a whole number, not 1.5"),
        (lambda f: f.delay("GET", "/x", times="1"), "times is a whole number, not '1'"),
        (lambda f: f.cut("GET", "/x", sent=-1), "sent is 0 or more, not -1"),
        (lambda f: f.drip("GET", "/x", size=0), "size is 1 or more, not 0"),
        (lambda f: f.drip("GET", "/x", size=1.5), "size is a whole number, not 1.5"),
        (lambda f: f.drip("GET", "/x", size="1"), "size is a whole number, not '1'"),
        (lambda f: f.refuse_sockets(99), "status is 100 to 999, not 99"),
        (lambda f: f.refuse_sockets(403, object()), "not JSON serializable"),
        (lambda f: f.bad_gateway(1000), "status is 100 to 999, not 1000"),
        (lambda f: f.bad_gateway("502"), "status is a whole number, not '502'"),
        (lambda f: f.login_page(404), "200, 302, 401 or 403"),
        (lambda f: f.redirect(200), "a redirect is"),
        (lambda f: f.redirect(location="/a\r\nX: y"), "a header is a name and a text of one line"),
        (lambda f: f.wrong_mime(content_type=5), "a header is a name and a text of one line"),
        (lambda f: f.too_large(limit=-1), "limit is 0 or more, not -1"),
        (lambda f: f.rename_uploads("a/b"), "name is one of a file"),
        (lambda f: f.rename_uploads(".."), "name is one of a file"),
        (lambda f: f.rename_uploads("a\0"), "name is one of a file"),
        (lambda f: f.node_errors({"a": object()}), "node errors: .* not JSON serializable"),
        (lambda f: f.node_errors(5), "node errors are a mapping by node id, not 5"),
        (lambda f: f.lose(5), "an event is chosen by its name or a function, not 5"),
        (lambda f: f.lose(["x"]), r"an event is chosen by its name or a function, not \['x'\]"),
        (lambda f: f.withhold(5), "an event is chosen by its name or a function, not 5"),
        (lambda f: f.rewrite("GET", "/x", 5), "needs a function"),
        (lambda f: f.answer("GET", "/x", "text"), "an answer is"),
        (lambda f: f.answer("GET", "/x", (200, {"A": "b\nC: d"}, None)), "a text of one line"),
        (lambda f: f.answer("GET", "/x", (200, {"A": 5}, None)), "a text of one line"),
        (lambda f: f.answer("GET", "/x", (200, 5, None)), "headers are a mapping, not 5"),
        (lambda f: f.answer("GET", "/x", a_coroutine), "a handler is a plain function"),
        (lambda f: f.fragments(1), "parts is 2 or more, not 1"),
        (lambda f: f.fragments(2.5), "parts is a whole number, not 2.5"),
        (lambda f: f.pause_in_frames(-1), "seconds are 0 or more"),
        (lambda f: f.late_history(-1), "seconds are 0 or more"),
        (lambda f: f.late_history("1"), "seconds are 0 or more, not '1'"),
        (lambda f: f.oversized_frame(-1), "size is 0 to 9223372036854775807, not -1"),
        (lambda f: f.oversized_frame(1.5), "size is a whole number, not 1.5"),
        (lambda f: f.oversized_frame(2**70), "size is 0 to 9223372036854775807"),
        (lambda f: f.close_politely(5), "code is 1000 to 4999, not 5"),
        (lambda f: f.close_politely(1001, "x" * 124), "a reason is a text of up to 123 bytes"),
    ],
)
def test_nonsense_is_a_value_error_at_once(
    server: ComfyServer, use: Callable[[Any], object], match: str
) -> None:
    """And brings nothing into force."""
    with pytest.raises(ValueError, match=match):
        use(server.faults)
    assert server.faults.active() == []


@pytest.mark.parametrize(
    ("use", "match"),
    [
        (lambda s: s.script({"type": object()}), "a step of a script: .* not JSON serializable"),
        (lambda s: s.script(Finish({"a": object()})), "a step of a script: .* not JSON"),
        (lambda s: s.push_raw("x"), "what is sent as it is are bytes, not 'x'"),
        (lambda s: s.push({}, fragments=0), "fragments is 1 or more, not 0"),
        (lambda s: s.push_binary(b"", fragments="2"), "fragments is a whole number, not '2'"),
    ],
)
def test_nonsense_to_say_is_a_value_error_at_once(
    server: ComfyServer, use: Callable[[Any], object], match: str
) -> None:
    """As with faults."""
    with pytest.raises(ValueError, match=match):
        use(server)
    assert server.faults.active() == []


LASTING: dict[str, Callable[[Any], Fault]] = {
    "deaf": lambda f: f.deaf(),
    "stale_handlers": lambda f: f.stale_handlers(),
    "go_dark": lambda f: f.go_dark(),
    "freeze": lambda f: f.freeze(),
    "swallow_pings": lambda f: f.swallow_pings(),
    "refuse_sockets": lambda f: f.refuse_sockets(),
    "stall_handshakes": lambda f: f.stall_handshakes(),
    "slow_handshakes": lambda f: f.slow_handshakes(1),
    "lose": lambda f: f.lose("x"),
    "withhold": lambda f: f.withhold("x"),
    "no_feature_flags": lambda f: f.no_feature_flags(),
    "junk": lambda f: f.junk(),
    "foreign_traffic": lambda f: f.foreign_traffic(),
    "fragments": lambda f: f.fragments(),
    "pause_in_frames": lambda f: f.pause_in_frames(1),
    "late_history": lambda f: f.late_history(),
    "no_history": lambda f: f.no_history(),
    "hang_worker": lambda f: f.hang_worker(),
    "other_prompt_ids": lambda f: f.other_prompt_ids(),
    "node_errors": lambda f: f.node_errors({}),
    "events_before_reply": lambda f: f.events_before_reply(),
    "delay": lambda f: f.delay("*", "*"),
    "cut": lambda f: f.cut("*", "*"),
    "drip": lambda f: f.drip("*", "*"),
    "bad_gateway": lambda f: f.bad_gateway(),
    "login_page": lambda f: f.login_page(),
    "redirect": lambda f: f.redirect(),
    "wrong_mime": lambda f: f.wrong_mime(),
    "missing": lambda f: f.missing("*", "*"),
    "too_large": lambda f: f.too_large("*"),
    "rename_uploads": lambda f: f.rename_uploads(),
    "rewrite": lambda f: f.rewrite("*", "*", lambda answer: 5),
    "answer": lambda f: f.answer("*", "*", (500, {}, None)),
}
AT_ONCE = {"drop", "close_politely", "oversized_frame", "evict", "lose_queue", "clear", "active"}


def test_each_fault_is_tested_here() -> None:
    """All that the class offers."""
    assert {n for n in dir(faults.Faults) if not n.startswith("_")} == set(LASTING) | AT_ONCE


@pytest.mark.parametrize("name", LASTING)
def test_a_fault_is_undone(server: ComfyServer, name: str) -> None:
    """By leaving it, by its end, by clear; then all is as before."""

    def leave(fault: Fault) -> None:
        with fault:
            pass

    with ComfyApi(server.url) as api:
        api.poll_status(LIMIT)
        for undo in (leave, Fault.end, lambda fault: server.faults.clear()):
            fault = LASTING[name](server.faults)
            assert (fault.name, fault.active) == (name, True)
            assert repr(server.faults) == f"<Faults: {name}>"
            undo(fault)
            fault.end()
            assert not fault.active
            assert repr(server.faults) == "<Faults: none>"
        result = api.run(picture(), timeout=LIMIT)
        assert len(result.images) == 1
        assert result.images[0].bytes()
    with ComfyApi(server.url) as api:
        assert api.get_queue().pending == ()
        server.until(lambda: api.client_id in server.hellos)


@pytest.mark.parametrize("name", LASTING)
def test_no_fault_holds_up_the_end(name: str) -> None:
    """Whatever waits for whatever."""
    before = set(threading.enumerate())  # servers of other tests may run on
    with ComfyServer() as server:
        LASTING[name](server.faults)
        with contextlib.ExitStack() as stack:
            for path in ("/queue", "/ws"):
                stack.enter_context(raw(server, asking(path)))
            body = json.dumps({"prompt": picture()}).encode()
            stack.enter_context(raw(server, asking("/prompt", "POST", body)))
            if name != "freeze":
                server.until(lambda: len(server.requests) == 3)
            start = time.monotonic()
            server.stop()
            assert time.monotonic() - start < 2
    left = {t.name for t in set(threading.enumerate()) - before}
    assert not left & {"ComfyServer", "ComfyServer worker"}


# -- restarts ---------------------------------------------------------------------------


def test_what_was_about_one_life_of_a_server_ends_with_it(server: ComfyServer, dial: Dial) -> None:
    """Deaf and dark sockets, and a thread that stands still; the rest stays in force."""
    dial()
    server.faults.lose("x")
    ended = [server.faults.deaf(), server.faults.go_dark(), server.faults.freeze()]
    server.restart()
    assert repr(server.faults) == "<Faults: lose>"
    assert not any(fault.active for fault in ended)
    assert get(server, "/queue").status_code == 200


def test_a_killed_server_resets_everything_and_comes_back(server: ComfyServer, dial: Dial) -> None:
    """On its port; queue and history are lost, files, faults and records are kept."""
    ws = dial()
    ended(server, submit(server))
    (server.root / "input" / "a.png").write_bytes(b"x")
    url, root = server.url, server.root
    server.faults.delay("GET", "/queue")
    server.faults.rewrite("GET", "/prompt", lambda _: "still")
    with raw(server, asking("/queue")) as connection:
        server.until(lambda: server.requests[-1].path == "/queue")
        server.kill()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
        with pytest.raises(ConnectionResetError):
            heard(ws, "never")
        assert server.url == url
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), LIMIT)
        for ask in (lambda: server.root, lambda: server.faults.drop(), lambda: server.history):
            with pytest.raises(RuntimeError, match="does not run"):
                ask()
    server.start()
    assert (server.url, server.root) == (url, root)
    assert (server.root / "input" / "a.png").read_bytes() == b"x"
    assert get(server, "/history").json() == {}
    assert get(server, "/prompt").json() == "still"
    assert (server.hellos, len(server.ran)) == (["me"], 1)
    server.faults.clear()
    assert get(server, "/queue").status_code == 200


class Last:
    """A node that ends its server, or whatever `end` does."""

    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True
    end: ClassVar[Callable[[], object]]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    def run(self) -> dict[str, Any]:
        type(self).end()
        return {}


@pytest.mark.parametrize("scripted", [True, False])
@pytest.mark.parametrize("how", ["kill", "restart"])
def test_a_node_or_a_script_may_end_its_server(
    server: ComfyServer, how: str, scripted: bool
) -> None:
    """In the middle of a prompt, which has no end then."""
    done = threading.Event()

    def end() -> None:
        getattr(server, how)()
        done.set()

    if scripted:
        server.script(lambda _: end())
    else:
        server.add_node(Last)
        Last.end = end
    with contextlib.suppress(requests.ConnectionError):
        post(server, "/prompt", {"prompt": {"1": {"class_type": "Last", "inputs": {}}}})
    assert done.wait(LIMIT)
    if how == "kill":
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), LIMIT)
        server.start()
    assert get(server, "/history").json() == {}
    assert [ran.status for ran in server.ran] == [None]
    assert server.errors == []


def test_a_prompt_that_ran_when_its_server_died_has_no_end(server: ComfyServer) -> None:
    """Though its node was told to stop."""
    with server.faults.hang_worker():
        submit(server)
        server.until(lambda: server.ran)
        server.kill()
    assert [ran.status for ran in server.ran] == [None]


def test_a_killed_server_can_be_stopped_or_restarted() -> None:
    """Its port is free then."""
    with ComfyServer() as server:
        server.kill()
        assert str(server.port) in repr(server)
        server.restart()
        assert get(server, "/queue").status_code == 200
        server.kill()
    with ComfyServer(server.port) as other:
        assert other.port == server.port
    assert repr(server) == "<ComfyServer stopped>"


# -- other servers ----------------------------------------------------------------------


def test_faults_work_below_a_prefix() -> None:
    """Paths are told without it."""
    with ComfyServer(prefix="/deep") as server:
        with server.faults.bad_gateway(path="/queue"):
            assert get(server, "/api/queue").status_code == 502
        server.on("GET", "/queue", server.answer)
        assert get(server, "/queue").json()["queue_running"] == []
        assert server.requests[-1].target == "/deep/queue"


@pytest.mark.parametrize("path", ["/queue", "/deeper/queue", "/deep%2Fqueue"])
def test_no_fault_is_met_outside_of_the_prefix(path: str) -> None:
    """There is nothing there."""
    with ComfyServer(prefix="/deep") as server:
        server.on("*", "*", (200, {}, "mine"))
        outside = server.url.removesuffix("/deep") + path
        assert requests.get(outside, timeout=LIMIT).status_code == 404
        assert get(server, "/queue").text == "mine"
        assert get(server, "").text == "mine"


def test_faults_work_over_tls() -> None:
    """Bytes of one's own, cuts and drops."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    with ComfyServer(tls=context) as server:
        server.on("GET", "/a", lambda r: r.socket.sendall(b"HTTP/1.1 200 OK\r\n\r\nmine"))
        server.faults.cut("GET", "/b", reset=True)
        server.on("GET", "/c", server.answer)

        def ask(path: str) -> bytes:
            plain = socket.create_connection(("127.0.0.1", server.port), LIMIT)
            with trust.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
                connection.sendall(
                    asking(path).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
                )
                return everything(connection)

        assert ask("/a").endswith(b"\r\n\r\nmine")
        with contextlib.suppress(OSError):
            assert ask("/b") == b""
        assert ask("/c").startswith(b"HTTP/1.1 404")
        url = server.url.replace("https", "wss") + "/ws"
        ws = websocket.create_connection(url, timeout=LIMIT, sslopt={"context": trust})
        ws.recv()
        server.faults.drop()
        with pytest.raises((OSError, websocket.WebSocketException)):
            ws.recv()
        ws.shutdown()


def test_faults_meet_who_has_no_password() -> None:
    """A proxy's own trouble comes before its question for it; both are recorded."""
    with ComfyServer(credentials=("me", "secret")) as server:
        with server.faults.bad_gateway():
            assert get(server, "/queue").status_code == 502
        assert get(server, "/queue").status_code == 401
        assert len(server.requests) == 2
        server.on("GET", "/queue", server.answer)
        assert get(server, "/queue").status_code == 401
        assert get(server, "/queue", auth=("me", "secret")).status_code == 200
