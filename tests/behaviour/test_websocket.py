"""The thread of the socket: its states, handshakes, limits, and how it stops."""

from __future__ import annotations

import contextlib
import gc
import random
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable
from http.cookies import SimpleCookie
from typing import Any

import pytest
import websocket

from comfy_client.errors import AuthenticationError, TransportError
from comfy_client.testing import ComfyServer, Request, frame, never_answer
from comfy_client.timing import Timing
from comfy_client.transport import websocket as events
from comfy_client.transport.decode import HELLO
from comfy_client.transport.dial import MAX_HANDSHAKE, DialPlan
from comfy_client.transport.frames import PONG
from comfy_client.transport.websocket import NEXT, State
from tests.helpers.clients import FAST, LIMIT, open_sockets, quick_once, threads, until
from tests.helpers.connections import (
    PATIENT,
    Make,
    Owner,
    connection_of,
    drips,
    stops_quickly,
    upgraded,
)
from tests.helpers.interrupts import fail_next_start

LEGAL = {
    ("IDLE", "CONNECTING"),
    ("IDLE", "POLLING"),
    ("IDLE", "CLOSED"),
    ("CONNECTING", "CONNECTED"),
    ("CONNECTING", "WAITING"),
    ("CONNECTING", "POLLING"),
    ("CONNECTING", "CLOSED"),
    ("CONNECTED", "WAITING"),
    ("CONNECTED", "CLOSED"),
    ("WAITING", "CONNECTING"),
    ("WAITING", "POLLING"),
    ("WAITING", "CLOSED"),
    ("POLLING", "CONNECTING"),
    ("POLLING", "WAITING"),
    ("POLLING", "CLOSED"),
}


# -- states --------------------------------------------------------------------------------


def test_only_the_documented_steps_lead_from_state_to_state() -> None:
    """Every pair; closed is final, and every state leads there."""
    steps = {(old.name, new.name) for old, news in NEXT.items() for new in news}
    assert steps == LEGAL
    assert {old for old, new in steps if new == "CLOSED"} == {s.name for s in State} - {"CLOSED"}


def test_a_step_that_is_not_documented_is_a_defect(make: Make, refused: str) -> None:
    """It is refused, and nothing changes."""
    _, link = make(refused, start=False)
    with pytest.raises(RuntimeError, match="no way"):
        link._enter(State.CONNECTED)
    assert link.state is State.IDLE


def test_an_idle_connection_has_no_thread_and_stops_at_once(make: Make, refused: str) -> None:
    """stop() before start() is final too."""
    owner, link = make(refused, start=False)
    link.stop()
    link.start()
    assert link.state is State.CLOSED
    assert threads() == []
    assert owner.plans == 0


def test_start_twice_is_one_thread(make: Make, comfy: ComfyServer) -> None:
    """From many threads at once."""
    _, link = make(comfy.url, start=False)
    callers = [threading.Thread(target=link.start) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    comfy.until(lambda: link.state is State.CONNECTED)
    assert len(comfy.handshakes) == 1


def test_a_thread_that_could_not_start_is_started_by_the_next_call(
    make: Make, comfy: ComfyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then there is nothing to join, and stop() is final as ever."""
    made = [make(comfy.url, start=False)[1] for _ in range(2)]
    for link in made:
        fail_next_start(monkeypatch, RuntimeError("can't start new thread"))
        with pytest.raises(RuntimeError):
            link.start()
        link.join(LIMIT)
    given_up, link = made
    given_up.stop()
    assert given_up.state is State.CLOSED
    link.start()
    comfy.until(lambda: link.state is State.CONNECTED)
    given_up.start()
    assert len(comfy.handshakes) == 1


# -- dialling ------------------------------------------------------------------------------


def test_every_connection_begins_with_the_feature_flags(make: Make, comfy: ComfyServer) -> None:
    """The first message of the first connection, and of each one after it."""
    make(comfy.url)
    for count in range(1, 4):
        comfy.until(lambda count=count: len(comfy.first_messages) == count)  # type: ignore[misc]
        comfy.faults.drop()
    comfy.until(lambda: len(comfy.first_messages) == 4)
    assert [m["type"] for m in comfy.first_messages] == ["feature_flags"] * 4
    assert comfy.first_messages[0]["data"] == {"supports_preview_metadata": True}
    assert HELLO.startswith('{"type": "feature_flags"')


def test_the_handshake_has_our_headers_and_no_origin(make: Make, comfy: ComfyServer) -> None:
    """A Host of one's own replaces the library's."""
    make(comfy.url, headers={"Authorization": "Bearer t", "host": "public.example"})
    comfy.until(lambda: comfy.hellos)
    headers = comfy.handshakes[0]
    assert headers["Authorization"] == "Bearer t"
    assert headers.getall("Host") == ["public.example"]
    assert "Origin" not in headers
    assert comfy.hellos == ["me"]


def test_cookies_of_handshakes_stay_apart_from_those_of_others(
    make: Make, comfy: ComfyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """websocket-client has one jar for the whole process: ours get none of it, and leave none."""
    jar = {".127.0.0.1": SimpleCookie("theirs=1")}
    monkeypatch.setattr(websocket._handshake.CookieJar, "jar", jar)

    def with_cookie(request: Request) -> Any:
        status, headers, body = comfy.answer(request)
        cookie = "session=secret; Domain=127.0.0.1; Path=/"
        return status, {**headers, "set-Cookie": cookie}, body

    comfy.on("GET", "/ws", with_cookie)
    make(comfy.url)
    comfy.until(lambda: len(comfy.hellos) == 1)
    make(comfy.url)
    comfy.until(lambda: len(comfy.hellos) == 2)
    comfy.faults.drop()
    comfy.until(lambda: len(comfy.hellos) == 4)
    assert {h.get("Cookie") for h in comfy.handshakes} == {None}
    assert {domain: list(cookies) for domain, cookies in jar.items()} == {".127.0.0.1": ["theirs"]}


def test_connected_means_greeted(make: Make, comfy: ComfyServer) -> None:
    """A server that upgrades and says nothing, but answers pings, is given up and dialled anew."""

    def mute(request: Request) -> None:
        upgraded(comfy, request)
        with contextlib.suppress(OSError):
            while request.socket.recv(1000):
                request.socket.sendall(frame(9, b"are you there?"))

    comfy.on("GET", "/ws", mute)
    owner, _ = make(comfy.url, timing=Timing(dial=0.5, ping=0.1, pause=0.05, cap=0.1))
    comfy.until(lambda: len(comfy.handshakes) >= 2)
    assert "connected" not in owner.names()
    assert "no greeting for 0.5 s" in str(owner.events[0].error)
    comfy.faults.clear()
    until(lambda: owner.names("connected"))
    assert owner.names("connected", "reconnected") == ["connected"]


def test_frames_that_come_with_the_handshake_are_read(make: Make, comfy: ComfyServer) -> None:
    """One packet may hold both, and end in the middle of a frame."""
    message = b'{"type": "counted", "data": {"number": %d}}'
    data = b"".join(frame(1, message % number) for number in range(3000))

    def eager(request: Request) -> None:
        upgraded(comfy, request, data[:7000])
        request.socket.sendall(data[7000:])
        never_answer(request)

    comfy.on("GET", "/ws", eager)
    owner, _ = make(comfy.url)
    until(lambda: len(owner.received) == 3000)
    assert [event.raw["data"]["number"] for event in owner.received] == [*range(3000)]


def test_pings_and_the_close_frame_are_answered(make: Make, comfy: ComfyServer) -> None:
    """In kind; masked, as all that a client sends."""
    answers = bytearray()

    def asking(request: Request) -> None:
        upgraded(comfy, request, frame(1, b"{}") + frame(9, b"there?") + frame(8, b"\x03\xe8"))
        while not answers and (data := request.socket.recv(4096)):
            sent = bytearray(data)
            while more := request.socket.recv(4096):
                sent += more
            answers.extend(sent)

    comfy.on("GET", "/ws", asking)
    owner, _ = make(comfy.url)
    until(lambda: answers)
    opcodes, payloads = [], []
    while answers:
        size = answers[1] & 0x7F
        assert answers[1] & 0x80
        key = answers[2:6]
        payloads.append(bytes(b ^ key[i % 4] for i, b in enumerate(answers[6 : 6 + size])))
        opcodes.append(answers[0] & 0x0F)
        del answers[: 6 + size]
    assert opcodes == [1, 10, 8]
    assert payloads[1:] == [b"there?", b"\x03\xe8"]
    until(lambda: "disconnected" in owner.names())
    assert "code 1000" in str(next(e for e in owner.events if e.name == "disconnected").error)


def test_a_greeting_that_drips_for_ever_is_given_up(make: Make, comfy: ComfyServer) -> None:
    """Bytes are a sign of life only to who has been greeted."""

    def dripping(request: Request) -> None:
        upgraded(comfy, request, b"\x81\x7e\xff\xff")
        with contextlib.suppress(OSError):
            while True:
                request.socket.sendall(b"x")
                time.sleep(0.01)

    comfy.on("GET", "/ws", dripping)
    owner, _ = make(comfy.url, timing=Timing(dial=0.5, ping=0.1, pause=0.05, cap=0.1))
    comfy.until(lambda: len(comfy.handshakes) >= 2)
    assert "no greeting for 0.5 s" in str(owner.events[0].error)
    comfy.faults.clear()


def test_a_handshake_that_drips_for_ever_ends_with_the_connect_timeout(
    make: Make, comfy: ComfyServer
) -> None:
    """The time to dial is for all of it, not for each byte; and it is made up for by polling."""
    comfy.on("GET", "/ws", drips(b"HTTP/1.1 101 Switching Protocols\r\nX-Drip: "))
    owner, link = make(comfy.url, timing=Timing(dial=0.3, pause=0.05, cap=0.1))
    owner.poll_error = None
    until(lambda: "websocket_unavailable" in owner.names())
    assert "not answered in time" in str(link.error)
    comfy.faults.clear()
    until(lambda: link.state is State.CONNECTED)


def test_an_address_that_swallows_packets_leaves_time_for_the_next(
    make: Make, comfy: ComfyServer, black_hole: str, look_up: Callable[..., None]
) -> None:
    """As of a name that has an IPv6 address as well, where there is no IPv6."""
    ports = [int(black_hole.rpartition(":")[2]), comfy.port]
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]
    look_up(lambda *_, **__: found)
    owner, link = make("http://two.example", start=False)
    link.start()
    until(lambda: owner.names("connected"))
    assert owner.names() == ["connected"]


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.7\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 many\r\n\r\n",
        b"\xff\xfe\xfd\r\n\r\n",
        b"HTTP/1.1 101 Ok\r\nno colon\r\n\r\n",
        b"HTTP/1.1 101 Ok\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 404 No\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 302 Found\r\n\r\n",
        b"HTTP/1.1 101 " + b"x" * (MAX_HANDSHAKE + 10),
    ],
    ids=["ssh", "short", "no-number", "binary", "header", "no-key", "length", "redirect", "huge"],
)
def test_a_nonsensical_handshake_is_a_failed_attempt_to_connect(
    make: Make, comfy: ComfyServer, answer: bytes
) -> None:
    """The thread lives, and connects when the server has come to its senses."""
    comfy.on("GET", "/ws", lambda request: request.socket.sendall(answer))
    owner, _ = make(comfy.url)
    comfy.until(lambda: len(comfy.handshakes) >= 2)
    comfy.faults.clear()
    until(lambda: owner.names("connected"))
    assert owner.names("connected", "disconnected") == ["connected"]


def test_refused_handshakes_are_in_no_message_of_an_error(make: Make, comfy: ComfyServer) -> None:
    """A refused handshake's headers and body may hold a secret; the query of ours does."""
    comfy.faults.refuse_sockets(404, "body-secret", {"Set-Cookie": "s=cookie-secret"})
    owner, link = make(comfy.url)
    owner.plan = DialPlan(
        owner.plan.url + "&token=query-secret", {"Authorization": "header-secret"}
    )
    comfy.until(lambda: len(comfy.handshakes) >= 2)
    error = link.error
    assert error is not None
    assert "404" in str(error)
    for text in (str(error), repr(error), repr(error.__cause__), repr(owner.plan), repr(link)):
        assert "secret" not in text
    assert error.__suppress_context__ or error.__context__ is None


# -- stop ----------------------------------------------------------------------------------


def test_stop_while_connecting_to_a_black_hole(make: Make, black_hole: str) -> None:
    """The thread does not sit out the time for a connection."""
    owner, link = make(black_hole, timing=PATIENT)
    until(lambda: owner.plans)
    time.sleep(0.1)  # into the connect itself; earlier is no harder
    stops_quickly(link)


def test_stop_during_the_tls_handshake(make: Make, comfy: ComfyServer) -> None:
    """A peer that accepts and never says hello."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        owner, link = make("http://x", start=False, timing=PATIENT)
        context = ssl.create_default_context()
        port = silent.getsockname()[1]
        owner.plan = DialPlan(f"wss://127.0.0.1:{port}/ws", {}, ssl_context=context)
        link.start()
        peer, _ = silent.accept()
        with peer:
            assert peer.recv(5)[0] == 22  # the client's hello is under way
            stops_quickly(link)


def test_stop_during_the_handshake(make: Make, comfy: ComfyServer) -> None:
    """A server that never answers the upgrade."""
    comfy.faults.stall_handshakes()
    _, link = make(comfy.url, timing=PATIENT)
    comfy.until(lambda: comfy.handshakes)
    stops_quickly(link)


def test_stop_before_a_dial_has_a_socket(
    make: Make, comfy: ComfyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing yet that it could shut."""
    comfy.faults.stall_handshakes()
    owner, link = make(comfy.url, start=False, timing=PATIENT)
    dial = owner.dial

    def stop_first(client_id: str) -> DialPlan:
        link.stop()
        return dial(client_id)

    monkeypatch.setattr(owner, "dial", stop_first)
    link.start()
    link.join(LIMIT)
    assert link.state is State.CLOSED
    assert not open_sockets(comfy.port)


def test_stop_during_a_pause(make: Make, refused: str) -> None:
    """The pause may be half a minute."""
    _, link = make(refused, timing=PATIENT, uniform=lambda low, high: 10 * LIMIT)
    until(lambda: link.state is State.WAITING)
    stops_quickly(link)


def test_stop_while_polling(make: Make, refused: str) -> None:
    """Between two questions."""
    owner, link = make(refused, poll_only=True, timing=PATIENT)
    until(lambda: owner.polls)
    stops_quickly(link)


def test_stop_with_a_silent_peer(make: Make, comfy: ComfyServer) -> None:
    """No close frame is waited for."""

    def stop() -> None:
        stops_quickly(links.pop())

    links = [make(comfy.url, timing=PATIENT)[1] for _ in range(5)]
    comfy.until(lambda: all(link.state is State.CONNECTED for link in links))
    comfy.faults.go_dark()
    quick_once(stop, 2.0)
    while links:
        stop()
    assert not open_sockets(comfy.port)


def test_stop_at_any_moment_ends_the_thread(make: Make, comfy: ComfyServer) -> None:
    """Random moments of dials, drops and pauses; the fixture sees that all have ended."""
    chance = random.Random(5)
    for _ in range(60):
        _, link = make(comfy.url)
        time.sleep(chance.uniform(0, 0.02))
        if chance.random() < 0.3:
            comfy.faults.drop()
        link.stop()
        link.join(LIMIT)
        assert link.state is State.CLOSED


# -- owner ---------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.CONNECTED, State.WAITING, State.POLLING])
def test_a_connection_keeps_no_owner_alive(make: Make, comfy: ComfyServer, state: State) -> None:
    """Neither by its thread nor by the traceback of its last error."""

    class Refusing(Owner):
        def dial(self, client_id: str) -> DialPlan:
            raise AuthenticationError("no credentials") from ValueError("inner")

    kind = Refusing if state is State.WAITING else Owner
    owner = kind(comfy.url)
    link = connection_of(owner, poll_only=state is State.POLLING, timing=FAST)
    link.start()
    until(lambda: link.state is state)
    until(lambda link=link: state is not State.WAITING or link.error)  # type: ignore[misc]
    gone = threading.Event()
    weakref.finalize(owner, gone.set)
    del owner
    gc.collect()
    assert gone.wait(LIMIT)
    link.stop()
    link.join(LIMIT)
    assert link.state is State.CLOSED


def test_a_thread_without_owner_ends_by_itself(comfy: ComfyServer) -> None:
    """Even when nobody called stop(): with the next thing that it wants from its owner."""
    owner = Owner(comfy.url)
    link = connection_of(owner, timing=FAST)
    link.start()
    comfy.until(lambda: link.state is State.CONNECTED)
    del owner
    gc.collect()
    comfy.push_status()
    link.join(LIMIT)
    assert link.state is State.CLOSED
    until(lambda: not open_sockets(comfy.port))


@pytest.mark.parametrize("at", ["handle", "connection_changed", "dial"])
def test_a_defect_is_a_failed_attempt_to_connect_and_logged_once(
    make: Make, comfy: ComfyServer, caplog: pytest.LogCaptureFixture, at: str
) -> None:
    """With its traceback; the thread lives, does not spin, and goes on when it is over."""
    owner, link = make(comfy.url, start=False)
    well, calls = getattr(owner, at), []

    def fail(*_: Any) -> Any:
        calls.append(time.perf_counter())
        if len(calls) <= 4:
            raise ZeroDivisionError
        return well(*_)

    setattr(owner, at, fail)
    link.start()
    until(lambda: len(calls) > 4 and link.state is State.CONNECTED)
    assert calls[4] - calls[0] > 0.01
    told = [record for record in caplog.records if record.levelname == "ERROR"]
    assert ["a bug in comfy_client" in record.getMessage() for record in told] == [True]
    assert told[0].exc_info is not None


def test_a_defect_in_a_poll_does_not_end_the_polls(make: Make) -> None:
    """Nor does anything else of which nobody thought."""
    owner, link = make("http://127.0.0.1:1", start=False, poll_only=True)
    calls = []

    def fail() -> None:
        calls.append(1)
        raise MemoryError if len(calls) < 4 else TransportError("gone")

    owner.poll_queue = fail  # type: ignore[method-assign]
    link.start()
    until(lambda: len(calls) > 6)
    assert link.state is State.POLLING


def test_stop_may_interrupt_itself_anywhere(make: Make, comfy: ComfyServer) -> None:
    """The collector may run a finalizer while this very thread holds the lock."""
    _, link = make(comfy.url)
    comfy.until(lambda: link.state is State.CONNECTED)
    with link._changed:
        link.stop()
    link.join(LIMIT)
    assert link.state is State.CLOSED


def test_a_handshake_without_an_answer_is_a_failed_attempt_to_connect(
    make: Make, comfy: ComfyServer
) -> None:
    """The time for a handshake is bounded."""
    comfy.on("GET", "/ws", never_answer)
    owner, link = make(comfy.url, timing=Timing(dial=0.3, pause=0.05, cap=0.1))
    comfy.until(lambda: len(comfy.handshakes) >= 2)
    assert "not answered in time" in str(link.error)
    comfy.faults.clear()
    until(lambda: owner.names("connected"))
    assert owner.names("connected") == ["connected"]


class Flooded:
    """A socket on which empty frames have come without end."""

    received_at = float("inf")
    is_within = False

    def __init__(self) -> None:
        self.read = 0

    def send(self, text: str) -> None:
        """Take the hello."""

    def receive(self) -> tuple[int, bytes]:
        self.read += 1
        return PONG, b""

    def close(self, *, politely: bool) -> None:
        """End it."""


def test_a_socket_that_is_full_of_empty_frames_is_left_at_once(comfy, make, monkeypatch) -> None:
    """The system may hold megabytes of them after the end."""
    line = Flooded()
    monkeypatch.setattr(events, "dial", lambda *_, **__: line)
    _, link = make(comfy.url, timing=PATIENT)
    link.start()
    until(lambda: line.read > 1000)
    stops_quickly(link)
