"""Links that drop, stall and lie, seen from a client: it comes back, and says so once."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import struct
import time
from collections.abc import Iterator
from typing import Any, TypeVar
from urllib.request import Request, urlopen

import pytest

from comfy_client import ComfyApi, State
from comfy_client.errors import AuthenticationError, TransportError
from comfy_client.testing import ComfyServer, frame
from comfy_client.timing import Timing
from comfy_client.transport import dial
from tests.comfyui import ComfyUI
from tests.helpers.clients import FAST, Heard, Quick, open_sockets, until

T = TypeVar("T", bound=ComfyApi)


def add_prompt(comfy: ComfyServer) -> None:
    """One that runs until it is forgotten."""
    comfy.script()
    body = json.dumps({"prompt": {}}).encode()
    headers = {"Content-Type": "application/json"}
    with urlopen(Request(f"{comfy.url}/prompt", body, headers), timeout=10) as answer:
        assert answer.status == 200


@contextlib.contextmanager
def connected(comfy: ComfyServer, clients: type[T]) -> Iterator[T]:
    """A client that has heard the greetings; its sockets are gone at the end."""
    api = clients(comfy.url)
    heard = Heard(api)
    with api:
        until(lambda: heard("feature_flags"))  # the last that a server says unasked
        heard.forget()
        yield api
    until(lambda: not open_sockets(comfy.port))


@pytest.fixture
def quick(comfy: ComfyServer) -> Iterator[Quick]:
    """A client with little patience."""
    with connected(comfy, Quick) as api:
        yield api


def _back(comfy: ComfyServer, api: ComfyApi, connections: int) -> None:
    comfy.until(lambda: len(comfy.hellos) >= connections and api.connected, 10)


# -- drops ------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [True, False], ids=["rst", "fin"])
def test_each_cut_is_one_disconnected_and_one_reconnected(
    comfy: ComfyServer, quick: Quick, reset: bool
) -> None:
    """F4: five in a row, and as many as there may be: twenty."""
    heard = Heard(quick)
    for count in range(20):
        comfy.faults.drop(reset=reset)
        _back(comfy, quick, count + 2)
        until(lambda count=count: len(heard("reconnected")) == count + 1)  # type: ignore[misc]
    assert heard.links == ["disconnected", "reconnected"] * 20
    assert set(comfy.hellos) == {quick.client_id}
    for event in heard("reconnecting"):
        assert event.attempt >= 1
        assert 0 <= event.delay <= FAST.cap
        assert isinstance(event.error, TransportError)
    assert len(heard("reconnecting")) == 20
    assert [e.attempt for e in heard("reconnected")] == [1] * 20


def test_a_close_frame_of_the_server_is_a_cut(comfy: ComfyServer, quick: Quick) -> None:
    """No descriptor is left behind, and the code is told."""
    heard = Heard(quick)
    for count in range(5):
        comfy.faults.close_politely(1001, "going away")
        _back(comfy, quick, count + 2)
    until(lambda: len(heard("reconnected")) == 5)
    assert heard.links == ["disconnected", "reconnected"] * 5
    assert "closed the socket (code 1001)" in str(heard("disconnected")[0].error)
    until(lambda: len(open_sockets(comfy.port)) <= 2)  # the socket, and a kept HTTP connection


def test_the_old_socket_ends_before_the_new_one_begins(comfy: ComfyServer, quick: Quick) -> None:
    """The server forgets a client id with whichever socket of it ends."""
    heard = Heard(quick)
    for count in range(3):
        quick._connection.redial("a test")
        _back(comfy, quick, count + 2)
        assert len(comfy.sockets) == 1
    until(lambda: len(heard("reconnected")) == 3)
    assert str(heard("disconnected")[0].error) == "a test"


def test_a_server_that_is_away_for_long_is_found_again(comfy: ComfyServer, quick: Quick) -> None:
    """Refused dials in between are no further disconnections."""
    heard = Heard(quick)
    refusal = comfy.faults.refuse_sockets(502)
    comfy.on("GET", "/prompt", (502, {}, None))
    comfy.faults.drop()
    until(lambda: len(heard("reconnecting")) >= 6)
    refusal.end()
    _back(comfy, quick, 2)
    until(lambda: heard("reconnected"))
    assert heard.links == ["disconnected", "reconnected"]
    assert heard("reconnected")[0].attempt >= 6


# -- storms -----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_told_as_auth_error_and_slowed_to_the_cap(
    comfy: ComfyServer, status: int
) -> None:
    """F5: with real patience, one dial, and the next one as late as may be."""
    comfy.faults.refuse_sockets(status)
    with contextlib.closing(ComfyApi(comfy.url)) as api:
        heard = Heard(api)
        api._connection.start()
        until(lambda: heard("reconnecting"))
        assert len(comfy.handshakes) == 1
        error = heard("auth_error")[0].error
        assert isinstance(error, AuthenticationError)
        assert error.status == status
        assert heard("reconnecting")[0].delay == Timing().cap
        assert api.state is State.WAITING


def test_refused_dials_are_few(comfy: ComfyServer) -> None:
    """F5: with real patience, a handful in three seconds at the worst of luck's middle."""
    comfy.faults.refuse_sockets(502)
    comfy.on("GET", "/prompt", (502, {}, None))
    with contextlib.closing(ComfyApi(comfy.url)) as api:
        api._connection.backoff.uniform = lambda low, high: (low + high) / 2
        api._connection.start()
        time.sleep(3.0)
        assert 2 <= len(comfy.handshakes) <= 6


# -- silence ----------------------------------------------------------------------------


def test_a_silent_server_that_answers_pings_stays_connected(
    comfy: ComfyServer, quick: Quick
) -> None:
    """Silence is not death: far longer than the limit for silence without pongs."""
    heard = Heard(quick)
    comfy.until(lambda: comfy.pings >= 25, 30)  # 25 times 0.2 s: more than twice the limit
    assert heard.links == []
    assert len(comfy.hellos) == 1


def test_messages_spare_the_pings(comfy: ComfyServer, quick: Quick) -> None:
    """Only quiet is asked about."""
    end = time.monotonic() + 4 * FAST.ping
    while time.monotonic() < end:
        comfy.push_status()
        time.sleep(0.01)
    assert comfy.pings <= 2


@pytest.mark.parametrize("how", ["no pong", "dark"])
def test_a_dead_peer_is_noticed_within_the_limit(
    comfy: ComfyServer, quick: Quick, how: str
) -> None:
    """F2, F6: half-open, or a server that reads and never answers."""
    heard = Heard(quick)
    start = time.monotonic()
    if how == "dark":
        comfy.faults.go_dark()
    else:
        silence = comfy.faults.swallow_pings()
    until(lambda: heard("disconnected"))
    assert time.monotonic() - start >= FAST.dead - FAST.ping
    assert "nothing came for 2 s" in str(heard("disconnected")[0].error)
    if how == "no pong":
        silence.end()
    _back(comfy, quick, 2)


def test_a_pause_shorter_than_the_limit_is_no_death(comfy: ComfyServer, quick: Quick) -> None:
    """F6: a loop that is busy loading a model answers late."""
    heard = Heard(quick)
    with comfy.faults.swallow_pings():
        time.sleep(FAST.dead / 2)
    comfy.until(lambda: comfy.pings >= 10)
    assert heard.links == []


# -- frames -----------------------------------------------------------------------------


def _text(data: Any = "x") -> dict[str, Any]:
    return {"type": "custom", "data": data}


def test_fragments_are_joined_with_pings_between_them(comfy: ComfyServer, quick: Quick) -> None:
    """F28: control frames may come in the middle of a message."""
    heard = Heard(quick)
    comfy.push(_text("ä" * 1000), fragments=7)
    first, second = b'{"type": "custom", ', b'"data": 2}'
    comfy.push_raw(frame(1, first, fin=False) + frame(9, b"hi") + frame(0, second))
    until(lambda: len(heard("custom")) == 2)
    assert [e.data for e in heard("custom")] == ["ä" * 1000, 2]


def test_a_frame_of_a_hundred_megabytes_arrives(comfy: ComfyServer) -> None:
    """F28: whole, and the next one too."""
    picture = os.urandom(1 << 20) * 100
    with connected(comfy, ComfyApi) as api:  # it may take a busy machine longer than Quick has
        heard = Heard(api)
        comfy.push_binary(struct.pack(">II", 1, 2) + picture)
        comfy.push(_text())
        until(lambda: heard("custom"))
        (event,) = heard("b_preview")
        assert event.mime == "image/png"
        assert event.image == picture
        assert heard.links == []


@pytest.mark.parametrize("at", [1, 3, 8, 2000])
def test_a_pause_in_the_middle_of_a_frame_harms_nothing(
    comfy: ComfyServer, quick: Quick, at: int
) -> None:
    """F28: what had come survives several timeouts of the reader."""
    heard = Heard(quick)
    comfy.faults.swallow_pings()  # nobody can answer in the middle of a frame
    data = frame(1, b'{"type": "custom", "data": "' + b"y" * 70000 + b'"}')
    comfy.push_raw(data[:at])
    time.sleep(2.5 * FAST.ping)
    comfy.push_raw(data[at:])
    until(lambda: heard("custom"))
    assert heard("custom")[0].data == "y" * 70000
    assert heard.links == []


def test_a_slow_frame_is_no_silence(comfy: ComfyServer, quick: Quick) -> None:
    """Bytes keep a connection alive, although no frame is whole for longer than the limit."""
    heard = Heard(quick)
    comfy.faults.swallow_pings()
    data = frame(1, b'{"type": "custom", "data": "slow"}')
    for byte in data:
        comfy.push_raw(bytes([byte]))
        time.sleep(2 * FAST.dead / len(data))
    until(lambda: heard("custom"))
    assert heard.links == []


JUNK = {
    "reserved bits": bytes([0x80 | 0x70 | 1, 1]) + b"x",
    "masked": bytes([0x81, 0x80 | 2]) + b"\1\2\3\4" + b"zz",
    "opcode 3": frame(3, b"x"),
    "opcode 15": frame(15, b"x"),
    "control in fragments": frame(9, b"x", fin=False),
    "long ping": frame(9, bytes(200)),
    "stray continuation": frame(0, b"x"),
    "message in a message": frame(1, b"a", fin=False) + frame(1, b"b"),
    "close with one byte": frame(8, b"x"),
    "close with code 1": frame(8, b"\0\1"),
    "too long": bytes([0x82, 127]) + struct.pack(">Q", 1 << 62) + bytes(2 << 20),
    "too long in pieces": frame(2, b"", fin=False) + frame(0, bytes(1 << 18), fin=False) * 8,
    "too long with pings": frame(2, b"", fin=False)
    + (frame(0, bytes(1 << 18), fin=False) + frame(9, b"")) * 8,
    "http": b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(100),
}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK.keys())
def test_a_frame_that_none_should_send_costs_that_connection_only(
    comfy: ComfyServer, monkeypatch: pytest.MonkeyPatch, junk: bytes
) -> None:
    """The thread lives, a new socket is dialled, nothing is left open."""
    monkeypatch.setattr(dial, "MAX_FRAME", 1 << 20)
    with Quick(comfy.url) as api:
        heard = Heard(api)
        comfy.push_raw(junk)
        _back(comfy, api, 2)
        until(lambda: heard("reconnected"))
        comfy.push(_text())
        until(lambda: heard("custom"))
        assert heard.links == ["disconnected", "reconnected"]
    until(lambda: not open_sockets(comfy.port))


def test_a_frame_of_600_mb_is_refused_by_its_header(comfy: ComfyServer, quick: Quick) -> None:
    """By the real limit, before any of it has come."""
    lost: list[Any] = []
    quick.on("disconnected", lost.append)
    comfy.push_raw(bytes([0x82, 127]) + (600 << 20).to_bytes(8, "big"))
    _back(comfy, quick, 2)
    until(lambda: lost)
    assert "more than the" in str(lost[0].error)


def test_the_largest_frame_is_a_limit_for_each_message(
    comfy: ComfyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for all that ever comes."""
    monkeypatch.setattr(dial, "MAX_FRAME", 1 << 20)
    with Quick(comfy.url) as api:
        heard = Heard(api)
        for _ in range(6):
            comfy.push(_text("z" * (1 << 19)))
        until(lambda: len(heard("custom")) == 6)
        assert heard.links == []


def test_a_hundred_thousand_random_frames_leave_the_thread_alive(
    comfy: ComfyServer, quick: Quick
) -> None:
    """Text, binary, pings and pongs with any content: skipped, and the next message counts."""
    chance = random.Random(2024)
    heard = Heard(quick)
    thread = quick._connection._thread
    for _ in range(100):
        batch = []
        for _ in range(1000):
            opcode = chance.choice((1, 1, 2, 2, 9, 10))
            data = chance.randbytes(chance.randrange(0, 60))
            if opcode == 2 and chance.random() < 0.7:
                data = struct.pack(">I", chance.randrange(6)) + data
            elif opcode == 1 and chance.random() < 0.5:
                data = b'{"type": "status", "data": ' + data + b"}"
            batch.append(frame(opcode, data))
        comfy.push_raw(b"".join(batch))
    comfy.push(_text("end"))
    until(lambda: heard("custom"), 60)
    assert quick._connection._thread is thread
    assert heard.links == []


def test_random_bytes_leave_the_thread_alive(comfy: ComfyServer, quick: Quick) -> None:
    """Whole connections of them, forty times."""
    chance = random.Random(7)
    thread = quick._connection._thread
    for count in range(40):
        # A close frame at the end: by chance, the bytes before are a frame that waits for more.
        comfy.push_raw(chance.randbytes(200) + frame(8, b"") * 20)
        comfy.faults.drop(reset=False)
        _back(comfy, quick, count + 2)
    assert quick._connection._thread is thread


# -- no socket to be had ----------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 302, 400, 404])
def test_http_without_websocket_is_polled_and_the_socket_tried_again(
    comfy: ComfyServer, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """``websocket_unavailable`` once, ``status`` on each change, and back to events."""
    where = {"Location": "/login"} if status == 302 else {}
    comfy.faults.refuse_sockets(status, "no socket here", where)
    with caplog.at_level(logging.WARNING), contextlib.closing(Quick(comfy.url)) as api:
        heard = Heard(api)
        assert api.init(10) is api
        assert api.state is State.POLLING
        assert not api.connected
        until(lambda: heard("status"))
        add_prompt(comfy)
        until(lambda: heard("status")[-1].queue_remaining == 1)
        comfy.forget()
        until(lambda: heard("status")[-1].queue_remaining == 0)
        changes = [e.queue_remaining for e in heard("status")]
        assert changes == [0, 1, 0]
        until(lambda: len(comfy.handshakes) >= 4)  # retried now and then
        assert heard.links == ["websocket_unavailable"]
        assert f"{status}" in str(heard("websocket_unavailable")[0].error)
        comfy.faults.clear()
        _back(comfy, api, 1)
        until(lambda: heard("connected"))
        assert heard.links == ["websocket_unavailable", "connected"]
    assert caplog.text.count("no WebSocket (") == 1


def test_a_socket_that_is_lost_for_good_is_polled_too(comfy: ComfyServer, quick: Quick) -> None:
    """A handshake that is never answered, or a port that drops: three tries, then HTTP."""
    heard = Heard(quick)
    comfy.faults.refuse_sockets(502)
    comfy.faults.drop()
    until(lambda: heard("websocket_unavailable"))
    add_prompt(comfy)
    until(lambda: heard("status"))
    comfy.forget()
    comfy.faults.clear()
    _back(comfy, quick, 2)
    until(lambda: heard("reconnected"))
    assert heard.links == ["disconnected", "websocket_unavailable", "reconnected"]
    # Should it be lost again, that is told again.
    comfy.faults.refuse_sockets(502)
    comfy.faults.drop()
    until(lambda: len(heard("websocket_unavailable")) == 2)


def test_poll_only_never_dials(comfy: ComfyServer) -> None:
    """``transport="poll"``: status still comes."""
    with Quick(comfy.url, transport="poll") as api:
        heard = Heard(api)
        assert api.state is State.POLLING
        add_prompt(comfy)
        until(lambda: heard("status"))
        assert api.state is State.POLLING
    assert comfy.handshakes == []


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize("transport", ["auto", "poll"])
def test_polls_are_bounded(comfy: ComfyServer, up: bool, transport: Any) -> None:
    """Fewer than two a second with real patience, whether HTTP works or not."""
    comfy.faults.refuse_sockets(404)
    if not up:
        comfy.on("GET", "/prompt", (503, {}, "not yet"))
    with contextlib.closing(ComfyApi(comfy.url, transport=transport)) as api:
        api._connection.start()
        time.sleep(2.2)
        polls = [r for r in comfy.requests if r.path == "/prompt"]
        assert 1 <= len(polls) <= 4
        assert len(comfy.handshakes) <= (3 if transport == "auto" else 0)


def test_polling_goes_on_while_http_fails_now_and_then(comfy: ComfyServer) -> None:
    """Failed polls are no end."""
    comfy.faults.refuse_sockets(404)
    with Quick(comfy.url) as api:
        heard = Heard(api)
        comfy.on("GET", "/prompt", (503, {}, None))
        until(lambda: api.state is State.WAITING)
        comfy.off("GET", "/prompt")
        add_prompt(comfy)
        until(lambda: heard("status"))
        assert heard("status")[-1].queue_remaining == 1


# -- deaf -------------------------------------------------------------------------------


def test_redial_replaces_a_deaf_socket(comfy: ComfyServer, quick: Quick) -> None:
    """F1: pings are answered, but nothing else comes."""
    heard = Heard(quick)
    comfy.faults.deaf()
    comfy.push(_text(1))
    comfy.until(lambda: comfy.pings >= 3)
    assert heard.links == []
    quick._connection.redial("deaf")
    _back(comfy, quick, 2)
    comfy.push(_text(2))
    until(lambda: heard("custom"))
    assert heard("custom")[0].data == 2


def test_redial_without_a_socket_is_nothing(comfy: ComfyServer) -> None:
    """While it dials or waits there is nothing to give up."""
    comfy.faults.refuse_sockets(502)
    with contextlib.closing(Quick(comfy.url)) as api:
        api._connection.redial("too early")
        api._connection.start()
        until(lambda: len(comfy.handshakes) >= 2)
        api._connection.redial("still too early")
        comfy.faults.clear()
        _back(comfy, api, 1)


# -- logs -------------------------------------------------------------------------------


def test_logs_are_subscribed_anew_after_each_reconnect(comfy: ComfyServer, quick: Quick) -> None:
    """The server forgets them with the socket; after subscribe_logs(False) it may."""
    comfy.on("PATCH", "/internal/logs/subscribe", (200, {}, None))

    def patches() -> list[Any]:
        return [r.json() for r in comfy.requests if r.method == "PATCH"]

    quick.subscribe_logs()
    for count in range(2, 4):
        comfy.faults.drop()
        comfy.until(lambda count=count: len(patches()) == count)  # type: ignore[misc]
    assert patches() == [{"clientId": quick.client_id, "enabled": True}] * 3
    quick.subscribe_logs(False)
    _back(comfy, quick, 3)
    comfy.faults.drop()
    _back(comfy, quick, 4)
    assert [p["enabled"] for p in patches()] == [True, True, True, False]


def test_a_failed_renewal_of_logs_is_told(comfy: ComfyServer, quick: Quick) -> None:
    """``terminal_subscription_error``, with the exception; the connection goes on."""
    heard = Heard(quick)
    comfy.on("PATCH", "/internal/logs/subscribe", (200, {}, None))
    quick.subscribe_logs()
    comfy.on("PATCH", "/internal/logs/subscribe", (500, {}, None))
    comfy.faults.drop()
    until(lambda: heard("terminal_subscription_error"))
    assert heard("terminal_subscription_error")[0].error.status == 500
    _back(comfy, quick, 2)


# -- two clients ------------------------------------------------------------------------


def test_two_clients_do_not_disturb_each_other(comfy: ComfyServer, quick: Quick) -> None:
    """One loses its socket again and again; the other hears only what is its own."""
    heard = Heard(quick)
    with Quick(comfy.url) as other:
        for count in range(3):
            for ws in comfy.sockets:
                if ws.client_id == other.client_id:
                    ws.hang_up(reset=True)
            comfy.until(lambda count=count: comfy.hellos.count(other.client_id) == count + 2)  # type: ignore[misc]
        comfy.push(_text("mine"), to=quick.client_id)
        until(lambda: heard("custom"))
    comfy.push(_text("after"), to=quick.client_id)
    until(lambda: len(heard("custom")) == 2)
    assert heard.links == []
    assert quick.connected


# -- real -------------------------------------------------------------------------------


@pytest.mark.real
def test_a_restarted_server_is_found_again(comfyui: ComfyUI) -> None:
    """One disconnected, one reconnected, and its own words again."""
    with Quick(comfyui.url) as api:
        heard = Heard(api)
        comfyui.restart()
        until(lambda: heard("reconnected"), 60)
        until(lambda: heard("feature_flags"))
        assert heard.links.count("disconnected") == heard.links.count("reconnected") == 1
        assert api.poll_status(10).queue_remaining == 0


@pytest.mark.real
def test_a_quiet_server_answers_pings(comfyui: ComfyUI) -> None:
    """The real one, for several times the limit."""
    with Quick(comfyui.url) as api:
        heard = Heard(api)
        time.sleep(3 * FAST.dead)
        assert heard.links == []
        assert api.connected
