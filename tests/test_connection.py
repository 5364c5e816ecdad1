"""The event thread against a scripted owner: states, dials, pauses, limits."""

from __future__ import annotations

import contextlib
import gc
import random
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from http.cookies import SimpleCookie
from typing import Any

import pytest
import websocket

from comfy_client.errors import AuthenticationError, ServerUnreachable, TransportError
from comfy_client.events import Event
from comfy_client.testing import ComfyServer, Request, frame, never_answer
from comfy_client.timing import Timing
from comfy_client.transport import dial
from comfy_client.transport.decode import HELLO
from comfy_client.transport.dial import Plan
from comfy_client.transport.websocket import NEXT, Connection, State
from tests.helpers.clients import FAST, open_sockets, threads, until
from tests.helpers.interrupts import fail_next_start


class Owner:
    """A handler that notes what it is told, and how to dial."""

    def __init__(self, url: str, headers: dict[str, str] | None = None) -> None:
        self.plan = Plan(url.replace("http", "ws") + "/ws?clientId=me", headers or {})
        self.plans = 0
        self.received: list[Event] = []
        self.events: list[Any] = []
        self.polls: list[float] = []
        self.poll_error: Exception | None = TransportError("HTTP is down")
        self.renewals = 0

    def dial(self, client_id: str) -> Plan:
        self.plans += 1
        return self.plan

    def handle(self, event: Event) -> None:
        self.received.append(event)

    def skipped(self) -> None:
        pass

    def connection_changed(self, event: Event) -> None:
        self.events.append(event)

    def poll_queue(self) -> None:
        self.polls.append(time.monotonic())
        if self.poll_error is not None:
            raise self.poll_error

    def client_id_changed(self) -> None:
        self.renewals += 1

    def names(self, *wanted: str) -> list[str]:
        return [e.name for e in self.events if not wanted or e.name in wanted]


def connection_of(owner: Owner, **options: Any) -> Connection:
    """One that keeps its handler no more alive than a client is."""
    known = weakref.ref(owner)

    def plan(client_id: str) -> Plan:
        found = known()
        assert found is not None
        return found.dial(client_id)

    return Connection(owner, plan, "me", **options)


Make = Callable[..., tuple[Owner, Connection]]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes an owner and its connection; ends them, and looks for what they left open."""
    made: list[tuple[Owner, Connection]] = []

    def factory(url: str, *, start: bool = True, **kw: Any) -> tuple[Owner, Connection]:
        owner = Owner(url, kw.pop("headers", None))
        link = connection_of(owner, **{"timing": FAST, **kw})
        made.append((owner, link))
        if start:
            link.start()
        return owner, link

    yield factory
    for _, link in made:
        link.stop()
        link.join(5)
        assert link.state is State.CLOSED
    gc.collect()  # a socket left open is a warning, and warnings are errors


@pytest.fixture
def refused() -> Iterator[str]:
    """The URL of a port where nobody listens, and nobody else can."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def black_hole() -> Iterator[str]:
    """The URL of a port that answers no SYN."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):  # a full backlog drops what comes next
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


# -- states -----------------------------------------------------------------------------

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
        link.join(1)
    given_up, link = made
    given_up.stop()
    assert given_up.state is State.CLOSED
    link.start()
    comfy.until(lambda: link.state is State.CONNECTED)
    given_up.start()
    assert len(comfy.handshakes) == 1


# -- dialling ---------------------------------------------------------------------------


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
        _upgraded(comfy, request)
        with contextlib.suppress(OSError):
            while request.socket.recv(1000):
                request.socket.sendall(frame(9, b"are you there?"))

    comfy.on("GET", "/ws", mute)
    owner, link = make(comfy.url, timing=Timing(dial=0.5, ping=0.1, pause=0.05, cap=0.1))
    comfy.until(lambda: len(comfy.handshakes) >= 2)
    assert "connected" not in owner.names()
    assert "no greeting for 0.5 s" in str(owner.events[0].error)
    comfy.faults.clear()
    comfy.until(lambda: link.state is State.CONNECTED)
    assert owner.names("connected", "reconnected") == ["connected"]


def _upgraded(comfy: ComfyServer, request: Request, more: bytes = b"") -> None:
    """Answer the handshake, with these bytes in the same packet."""
    status, headers, _ = comfy.answer(request)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request.socket.sendall(f"HTTP/1.1 {status} Ok\r\n{lines}\r\n".encode() + more)


def test_frames_that_come_with_the_handshake_are_read(make: Make, comfy: ComfyServer) -> None:
    """One packet may hold both, and end in the middle of a frame."""
    message = b'{"type": "counted", "data": {"number": %d}}'
    data = b"".join(frame(1, message % number) for number in range(3000))

    def eager(request: Request) -> None:
        _upgraded(comfy, request, data[:7000])
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
        _upgraded(comfy, request, frame(1, b"{}") + frame(9, b"there?") + frame(8, b"\x03\xe8"))
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
        _upgraded(comfy, request, b"\x81\x7e\xff\xff")
        with contextlib.suppress(OSError):
            while True:
                request.socket.sendall(b"x")
                time.sleep(0.01)

    comfy.on("GET", "/ws", dripping)
    owner, _ = make(comfy.url, timing=Timing(dial=0.5, ping=0.1, pause=0.05, cap=0.1))
    comfy.until(lambda: len(comfy.handshakes) >= 2)
    assert "no greeting for 0.5 s" in str(owner.events[0].error)
    comfy.faults.clear()


def _drips(start: bytes) -> Callable[[Request], None]:
    """The beginning of an answer, and then a byte now and then."""

    def dripping(request: Request) -> None:
        with contextlib.suppress(OSError):
            request.socket.sendall(start)
            while True:
                request.socket.sendall(b"x")
                time.sleep(0.01)

    return dripping


def test_a_handshake_that_drips_for_ever_ends_with_the_dial_timeout(
    make: Make, comfy: ComfyServer
) -> None:
    """The time to dial is for all of it, not for each byte; and it is made up for by polling."""
    comfy.on("GET", "/ws", _drips(b"HTTP/1.1 101 Switching Protocols\r\nX-Drip: "))
    owner, link = make(comfy.url, timing=Timing(dial=0.3, pause=0.05, cap=0.1))
    owner.poll_error = None
    until(lambda: "websocket_unavailable" in owner.names())
    assert "not answered in time" in str(link.error)
    comfy.faults.clear()
    until(lambda: link.state is State.CONNECTED)


def test_an_address_that_swallows_packets_leaves_time_for_the_next(
    make: Make, comfy: ComfyServer, black_hole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a name that has an IPv6 address as well, where there is no IPv6."""
    ports = [int(black_hole.rpartition(":")[2]), comfy.port]
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]
    monkeypatch.setattr(dial.socket, "getaddrinfo", lambda *_, **__: found)
    owner, link = make("http://two.example", start=False)
    link.start()
    until(lambda: link.state is State.CONNECTED)
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
        b"HTTP/1.1 101 " + b"x" * (dial.MAX_HANDSHAKE + 10),
    ],
    ids=["ssh", "short", "no-number", "binary", "header", "no-key", "length", "redirect", "huge"],
)
def test_a_nonsensical_handshake_is_a_failed_dial(
    make: Make, comfy: ComfyServer, answer: bytes
) -> None:
    """The thread lives, and connects when the server has come to its senses."""
    comfy.on("GET", "/ws", lambda request: request.socket.sendall(answer))
    owner, link = make(comfy.url)
    comfy.until(lambda: len(comfy.handshakes) >= 2)
    comfy.faults.clear()
    comfy.until(lambda: link.state is State.CONNECTED)
    assert owner.names("connected", "disconnected") == ["connected"]


def test_what_the_server_answered_is_in_no_message(make: Make, comfy: ComfyServer) -> None:
    """A refused handshake's headers and body may hold a secret; the query of ours does."""
    comfy.faults.refuse_sockets(404, "body-secret", {"Set-Cookie": "s=cookie-secret"})
    owner, link = make(comfy.url)
    owner.plan = Plan(owner.plan.url + "&token=query-secret", {"Authorization": "header-secret"})
    comfy.until(lambda: len(comfy.handshakes) >= 2)
    error = link.error
    assert error is not None
    assert "404" in str(error)
    for text in (str(error), repr(error), repr(error.__cause__), repr(owner.plan), repr(link)):
        assert "secret" not in text
    assert error.__suppress_context__ or error.__context__ is None


# -- pauses -----------------------------------------------------------------------------


def test_the_backoff_of_dials_has_full_jitter_and_doubles_to_the_cap(
    make: Make, refused: str
) -> None:
    """Each pause is drawn between nothing and a limit that doubles."""
    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return 0.0

    timing = Timing(pause=0.5, cap=30.0)
    owner, _ = make(refused, timing=timing, uniform=uniform)
    until(lambda: len(drawn) >= 20)
    assert {low for low, _ in drawn} == {0.0}
    assert [high for _, high in drawn[:8]] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    told = [e for e in owner.events if e.name == "reconnecting"][:3]
    assert [(e.attempt, e.delay) for e in told] == [(2, 0.0), (3, 0.0), (4, 0.0)]
    assert isinstance(told[0].error, ServerUnreachable)


def test_the_backoff_is_reset_by_a_connection_that_lasts(make: Make, comfy: ComfyServer) -> None:
    """Longer than the longest pause; not with a port that upgrades, or greets, and drops."""
    drawn: list[float] = []

    def uniform(low: float, high: float) -> float:
        drawn.append(high)
        return 0.0

    def greet_and_drop(request: Request) -> None:
        _upgraded(comfy, request, frame(1, b"{}"))

    fault = comfy.on("GET", "/ws", lambda request: _upgraded(comfy, request))
    owner, link = make(comfy.url, timing=Timing(pause=0.1, cap=0.8), uniform=uniform)
    comfy.until(lambda: len(drawn) >= 4)
    assert drawn[:4] == [0.1, 0.2, 0.4, 0.8]
    comfy.on("GET", "/ws", greet_and_drop)
    fault.end()
    comfy.until(lambda: len(owner.names("reconnected")) >= 3)
    assert set(drawn[3:]) == {0.8}
    # A drop and the next greeting are two dials apart at most, whatever the pauses.
    assert {e.attempt for e in owner.events if e.name == "reconnected"} == {1}
    comfy.faults.clear()
    comfy.until(lambda: len(comfy.hellos) == 1 and link.state is State.CONNECTED)
    time.sleep(0.8)
    del drawn[:]
    comfy.faults.drop()
    comfy.until(lambda: len(comfy.hellos) == 2)
    assert drawn == [0.1]


@pytest.mark.parametrize("greeting", [b"", frame(1, b"{}")], ids=["at once", "after a greeting"])
def test_a_client_id_that_is_refused_at_a_reconnect_is_renewed(
    make: Make, comfy: ComfyServer, greeting: bytes
) -> None:
    """By the close code 1008 at a re-dial; not when it comes on a socket that was up for long."""
    owner, link = make(comfy.url, timing=Timing(dial=0.3, pause=0.05, cap=0.1))
    comfy.until(lambda: link.state is State.CONNECTED)
    time.sleep(0.3)
    comfy.faults.close_politely(1008)
    comfy.until(lambda: len(comfy.hellos) == 2)
    assert owner.renewals == 0
    refusal = frame(8, (1008).to_bytes(2, "big"))
    comfy.on("GET", "/ws", lambda request: _upgraded(comfy, request, greeting + refusal))
    comfy.faults.drop()
    until(lambda: owner.renewals == 1)
    comfy.faults.clear()
    comfy.until(lambda: len(comfy.hellos) == 3)
    time.sleep(0.3)
    comfy.faults.close_politely(1008)  # of the fresh one, the first socket
    comfy.until(lambda: len(comfy.hellos) == 4)
    assert owner.renewals == 1


def test_a_nudge_ends_a_pause(make: Make, comfy: ComfyServer) -> None:
    """The server has answered over HTTP, so it is there again."""
    comfy.faults.refuse_sockets(502)
    _, link = make(comfy.url, timing=Timing(), uniform=lambda low, high: 60.0)
    comfy.until(lambda: link.state is State.WAITING)
    comfy.faults.clear()
    link.nudge()
    comfy.until(lambda: link.state is State.CONNECTED)


def test_no_nudge_ends_the_pause_after_a_refusal(make: Make, comfy: ComfyServer) -> None:
    """A 403 stays at the cap however much is submitted; retry() is a person's wish."""
    comfy.faults.refuse_sockets(403)
    _, link = make(comfy.url, timing=Timing())
    comfy.until(lambda: link.state is State.WAITING)
    for _ in range(100):
        link.nudge()
    comfy.faults.clear()
    link.retry()
    comfy.until(lambda: link.state is State.CONNECTED)
    assert len(comfy.handshakes) == 2


# -- stop -------------------------------------------------------------------------------


def _stops_quickly(link: Connection, limit: float = 2.0) -> None:
    start = time.monotonic()
    link.stop()
    link.join(5.0)
    assert time.monotonic() - start < limit
    assert link.state is State.CLOSED


def test_stop_while_connecting_to_a_black_hole(make: Make, black_hole: str) -> None:
    """The thread does not sit out the time for a connection."""
    owner, link = make(black_hole, timing=Timing())
    until(lambda: owner.plans)
    time.sleep(0.1)  # into the connect itself; earlier is no harder
    _stops_quickly(link)


def test_stop_during_the_tls_handshake(make: Make, comfy: ComfyServer) -> None:
    """A peer that accepts and never says hello."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        owner, link = make("http://x", start=False, timing=Timing())
        context = ssl.create_default_context()
        port = silent.getsockname()[1]
        owner.plan = Plan(f"wss://127.0.0.1:{port}/ws", {}, ssl_context=context)
        link.start()
        peer, _ = silent.accept()
        with peer:
            assert peer.recv(5)[0] == 22  # the client's hello is under way
            _stops_quickly(link)


def test_stop_during_the_handshake(make: Make, comfy: ComfyServer) -> None:
    """A server that never answers the upgrade."""
    comfy.faults.stall_handshakes()
    _, link = make(comfy.url, timing=Timing())
    comfy.until(lambda: comfy.handshakes)
    _stops_quickly(link)


def test_stop_during_a_pause(make: Make, refused: str) -> None:
    """The pause may be half a minute."""
    _, link = make(refused, timing=Timing(), uniform=lambda low, high: 30.0)
    until(lambda: link.state is State.WAITING)
    _stops_quickly(link)


def test_stop_while_polling(make: Make, refused: str) -> None:
    """Between two questions."""
    owner, link = make(refused, poll_only=True, timing=Timing())
    until(lambda: owner.polls)
    _stops_quickly(link)


def test_stop_with_a_silent_peer(make: Make, comfy: ComfyServer) -> None:
    """No close frame is waited for."""
    _, link = make(comfy.url, timing=Timing())
    comfy.until(lambda: link.state is State.CONNECTED)
    comfy.faults.go_dark()
    _stops_quickly(link)
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
        link.join(5)
        assert link.state is State.CLOSED


# -- owner ------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.CONNECTED, State.WAITING, State.POLLING])
def test_a_connection_keeps_no_owner_alive(make: Make, comfy: ComfyServer, state: State) -> None:
    """Neither by its thread nor by the traceback of its last error."""

    class Refusing(Owner):
        def dial(self, client_id: str) -> Plan:
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
    assert gone.wait(5)
    link.stop()
    link.join(5)
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
    link.join(5)
    assert link.state is State.CLOSED
    until(lambda: not open_sockets(comfy.port))


@pytest.mark.parametrize("at", ["handle", "connection_changed", "dial"])
def test_a_defect_is_a_failed_dial_and_logged_once(
    make: Make, comfy: ComfyServer, caplog: pytest.LogCaptureFixture, at: str
) -> None:
    """With its traceback; the thread lives, does not spin, and goes on when it is over."""
    owner, link = make(comfy.url, start=False)
    well, calls = getattr(owner, at), []

    def fail(*_: Any) -> Any:
        calls.append(time.monotonic())
        if len(calls) <= 4:
            raise ZeroDivisionError
        return well(*_)

    setattr(owner, at, fail)
    link.start()
    until(lambda: len(calls) > 4 and link.state is State.CONNECTED)
    assert calls[4] - calls[0] > 0.01
    told = [record for record in caplog.records if record.levelname == "ERROR"]
    assert ["defect of comfy_client" in record.getMessage() for record in told] == [True]
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
    link.join(5)
    assert link.state is State.CLOSED


def test_never_answer_is_a_failed_dial(make: Make, comfy: ComfyServer) -> None:
    """The time for a handshake is bounded."""
    comfy.on("GET", "/ws", never_answer)
    owner, link = make(comfy.url, timing=Timing(dial=0.3, pause=0.05, cap=0.1))
    comfy.until(lambda: len(comfy.handshakes) >= 2)
    assert "not answered in time" in str(link.error)
    comfy.faults.clear()
    comfy.until(lambda: link.state is State.CONNECTED)
    assert owner.names("connected") == ["connected"]


# -- through a proxy --------------------------------------------------------------------


def test_the_socket_goes_through_an_http_proxy(make: Make, comfy: ComfyServer) -> None:
    """CONNECT with the proxy's own credentials; the server sees an ordinary handshake."""
    asked: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        client, _ = listener.accept()
        with client, socket.create_connection(("127.0.0.1", comfy.port)) as server:
            asked.append(client.recv(4096))
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_pump, args=(server, client))
            back.start()
            _pump(client, server)
            back.join()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        relay = threading.Thread(target=serve, args=(listener,))
        relay.start()
        owner, link = make("http://x", start=False)
        owner.plan = Plan(
            "ws://gpu.example:8188/ws?clientId=me", {}, proxy=f"http://u:p%40ss@127.0.0.1:{port}"
        )
        link.start()
        comfy.until(lambda: link.state is State.CONNECTED)
        link.stop()
        link.join(5)
        relay.join(5)
    assert asked[0].startswith(b"CONNECT gpu.example:8188 HTTP/1.")
    assert b"Proxy-Authorization: Basic dTpwQHNz" in asked[0]
    assert comfy.handshakes[0]["Host"] == "gpu.example:8188"


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def test_a_proxy_that_refuses_leaves_nothing_open(make: Make, comfy: ComfyServer) -> None:
    """407 for each CONNECT: failed dials."""
    comfy.on("CONNECT", "*", (407, {}, None))
    owner, link = make("http://x", start=False)
    owner.plan = Plan(
        "ws://gpu.example:8188/ws", {}, proxy=f"http://u:secret@127.0.0.1:{comfy.port}"
    )
    link.start()
    until(lambda: len(owner.names("reconnecting")) >= 2)
    assert "407" in str(link.error)
    assert "secret" not in str(link.error)


@pytest.mark.parametrize("proxy", ["http://u:secret@[x", "http://u:secret@proxy:port"])
def test_a_proxy_that_is_no_url_is_refused_in_words(make: Make, proxy: str) -> None:
    """The thread lives on, and nothing of the URL is told."""
    owner, link = make("http://x", start=False)
    owner.plan = Plan("ws://gpu.example:8188/ws", {}, proxy=proxy)
    link.start()
    until(lambda: link.error is not None)
    assert link.failed_for_good
    assert "proxies=" in str(link.error)
    assert "secret" not in str(link.error)


def test_a_proxy_of_another_kind_is_refused_in_words(make: Make) -> None:
    """Only http proxies carry the socket; what will not mend is hopeless."""
    owner, link = make("http://x", start=False)
    owner.plan = Plan("ws://gpu.example:8188/ws", {}, proxy="socks5://127.0.0.1:1")
    link.start()
    until(lambda: link.error is not None)
    assert link.failed_for_good
    assert "transport='poll'" in str(link.error)


def test_a_proxy_whose_answer_drips_is_given_up(make: Make, comfy: ComfyServer) -> None:
    """Its CONNECT is part of the dial, and has no more time than that."""
    comfy.on("CONNECT", "*", _drips(b"HTTP/1.1 200 Connection established\r\nX-Drip: "))
    owner, link = make("http://x", start=False, timing=Timing(dial=0.3, pause=0.05, cap=0.1))
    owner.plan = Plan("ws://gpu.example:8188/ws", {}, proxy=comfy.url)
    link.start()
    until(lambda: len(owner.names("reconnecting")) >= 2)
    assert "the proxy 127.0.0.1 on the way" in str(link.error)
    comfy.faults.clear()


def test_stop_while_a_proxy_says_nothing(make: Make, comfy: ComfyServer) -> None:
    """Its socket is ended, too."""
    comfy.on("CONNECT", "*", never_answer)
    owner, link = make("http://x", start=False, timing=Timing())
    owner.plan = Plan("ws://gpu.example:8188/ws", {}, proxy=comfy.url)
    link.start()
    comfy.until(lambda: comfy.requests)
    _stops_quickly(link)


def test_a_tunnel_to_an_ipv6_address_is_asked_for_in_brackets(
    make: Make, comfy: ComfyServer
) -> None:
    """As a URL has it: its own colons are no port's."""
    comfy.on("CONNECT", "*", (403, {}, None))
    owner, link = make("http://x", start=False)
    owner.plan = Plan("ws://[fd00::5]:8188/ws", {}, proxy=comfy.url)
    link.start()
    until(lambda: link.error is not None)
    assert comfy.requests[0].target == "[fd00::5]:8188"
    assert comfy.requests[0].headers["Host"] == "[fd00::5]:8188"
