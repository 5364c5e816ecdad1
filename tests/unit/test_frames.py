"""Frames against the rules of the protocol, and against what websocket-client reads."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import struct
import threading
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
import trustme
import websocket
from hypothesis import given, settings
from hypothesis import strategies as st

from comfy_client.testing import frame
from comfy_client.transport.frames import (
    AT_ONCE,
    BINARY,
    BUFFER,
    CLOSE,
    PING,
    PONG,
    TEXT,
    FrameError,
    Frames,
)
from comfy_client.transport.sockets import shut, sliced
from tests.conftest import examples

LIMIT = 4 * BUFFER


class Pieces:
    """A socket that gives what it is told, piece by piece; an empty piece is a timeout."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.sent: list[bytes] = []

    def recv(self, size: int) -> bytes:
        if not self.pieces:
            return b""
        piece = self.pieces.pop(0)
        if not piece:
            raise TimeoutError
        if len(piece) > size:
            self.pieces.insert(0, piece[size:])
        return piece[:size]

    def recv_into(self, room: memoryview) -> int:
        assert room, "no room to read into"
        piece = self.recv(len(room))
        room[: len(piece)] = piece
        return len(piece)

    def gettimeout(self) -> float:
        return 1.0

    def close(self) -> None:
        """websocket-client does so at the end of the stream."""

    def send(self, data: bytes) -> int:
        self.sent.append(data)
        return len(data)


def every(frames: Frames) -> list[tuple[int, bytes]]:
    """All messages until the end of the stream."""
    found = []
    with contextlib.suppress(ConnectionError):
        while True:
            while (message := frames.next()) is not None:
                found.append((message[0], bytes(message[1])))
            with contextlib.suppress(TimeoutError):
                frames.read()
    return found


def read(
    *pieces: bytes, limit: int = LIMIT, size: int = BUFFER, at_once: int = AT_ONCE
) -> list[tuple[int, bytes]]:
    return every(Frames(Pieces(*pieces), limit, size=size, at_once=at_once))  # type: ignore[arg-type]


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The server's end and ours."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(5)
        yield theirs, ours


# -- what is legal ----------------------------------------------------------------------

SIZES = [0, 1, 125, 126, 127, 65535, 65536, BUFFER - 10, BUFFER - 9, BUFFER, BUFFER + 1, 3 * BUFFER]


@pytest.mark.parametrize("size", SIZES)
def test_every_class_of_length_is_read(
    pair: tuple[socket.socket, socket.socket], size: int
) -> None:
    """One, and the next, through a socket."""
    theirs, ours = pair
    first, second = random.Random(size).randbytes(size), b"next"

    def send() -> None:
        theirs.sendall(frame(BINARY, first) + frame(TEXT, second))
        theirs.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    assert every(Frames(ours, LIMIT)) == [(BINARY, first), (TEXT, second)]
    sender.join()


def test_a_message_larger_than_what_is_given_room_at_once_grows() -> None:
    """Several times."""
    data = random.Random(1).randbytes(1 << 20) * 40
    found = read(frame(BINARY, data), frame(TEXT, b"next"), limit=1 << 30)
    assert found == [(BINARY, data), (TEXT, b"next")]


def test_small_messages_are_bytes_and_no_message_can_be_changed() -> None:
    """The view of a large one neither, nor what was joined."""
    joined, large = frame(TEXT, b"y", fin=False) + frame(0, b"z"), frame(BINARY, bytes(2 * BUFFER))
    stream = Frames(Pieces(frame(TEXT, b"x") + joined + large), LIMIT)  # type: ignore[arg-type]
    found: list[bytes | memoryview] = []
    while len(found) < 3:
        stream.read()
        while (message := stream.next()) is not None:
            found.append(message[1])
    assert found == [b"x", b"yz", bytes(2 * BUFFER)]
    assert type(found[0]) is bytes
    for view in found[1:]:
        assert isinstance(view, memoryview)
        assert view.readonly


def test_fragments_are_joined_and_control_frames_come_between() -> None:
    """As they came, empty fragments too."""
    assert read(
        frame(TEXT, b"ab", fin=False)
        + frame(PING, b"1")
        + frame(0, b"", fin=False)
        + frame(PONG, b"2")
        + frame(0, b"c" * 300, fin=False)
        + frame(0, b"d")
        + frame(CLOSE, b"\x03\xe8bye")
    ) == [
        (PING, b"1"),
        (PONG, b"2"),
        (TEXT, b"ab" + b"c" * 300 + b"d"),
        (CLOSE, b"\x03\xe8bye"),
    ]


def test_bytes_may_come_one_by_one_or_all_at_once() -> None:
    """And with a timeout after each, and some of them before."""
    data = (
        frame(TEXT, b"one")
        + frame(BINARY, b"2" * 200)
        + frame(TEXT, b"thr", fin=False)
        + frame(PING, b"")
        + frame(0, b"ee")
    )
    expected = [(TEXT, b"one"), (BINARY, b"2" * 200), (PING, b""), (TEXT, b"three")]
    single = [bytes([byte]) for byte in data]
    assert read(data) == expected
    assert read(*single) == expected
    assert read(*(piece for byte in single for piece in (byte, b"", b""))) == expected
    for at in range(len(data)):
        begun = Frames(Pieces(data[at:]), LIMIT, data[:at])  # type: ignore[arg-type]
        assert every(begun) == expected


def test_a_length_longer_than_need_be_is_read() -> None:
    """No server should; there is no harm in it."""
    assert read(b"\x81\x7e\x00\x01x" + b"\x81\x7f" + struct.pack(">Q", 2) + b"yz") == [
        (TEXT, b"x"),
        (TEXT, b"yz"),
    ]


# -- what is not ------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_unknown_types_are_refused(opcode: int) -> None:
    """As soon as two bytes are there."""
    with pytest.raises(FrameError, match=f"unknown type {opcode}"):
        read(frame(opcode, b"x")[:2])


@pytest.mark.parametrize(
    "data",
    [
        b"\xc1\x00",
        b"\xa1\x00",
        b"\x91\x00",
        b"\x81\x81",
        frame(0, b"x"),
        frame(0, b"x", fin=False),
        frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"),
        frame(TEXT, b"a", fin=False) + frame(BINARY, b"b", fin=False),
        frame(PING, b"x", fin=False)[:2],
        frame(PING, bytes(126))[:2],
        frame(CLOSE, bytes(70000))[:2],
    ],
    ids=[
        "rsv1",
        "rsv2",
        "rsv3",
        "masked",
        "continuation of nothing",
        "fragment of nothing",
        "message in a message",
        "fragment in a message",
        "fragment of a ping",
        "long ping",
        "longer close",
    ],
)
def test_frames_that_break_the_rules_are_an_error(data: bytes) -> None:
    """Of one kind; what came whole before it is given out."""
    stream = Frames(Pieces(frame(TEXT, b"fine") + data), LIMIT)  # type: ignore[arg-type]
    stream.read()
    assert stream.next() == (TEXT, b"fine")
    with pytest.raises(FrameError):
        stream.next()


@pytest.mark.parametrize("size", [LIMIT + 1, 1 << 40, 1 << 62, (1 << 64) - 1])
def test_too_long_a_message_is_refused_by_its_head(size: int) -> None:
    """Before anything of it has come."""
    with pytest.raises(FrameError, match="more than"):
        read(b"\x82\x7f" + struct.pack(">Q", size))


def test_the_limit_is_for_the_sum_of_fragments_and_for_each_message_anew() -> None:
    """Exactly, and control frames do not count."""
    half = frame(BINARY, bytes(50), fin=False)
    whole = half + frame(PING, bytes(125)) + frame(0, bytes(50))
    assert read(whole * 3 + frame(TEXT, bytes(100)), limit=100) == [
        *[(PING, bytes(125)), (BINARY, bytes(100))] * 3,
        (TEXT, bytes(100)),
    ]
    with pytest.raises(FrameError, match="more than the 100"):
        read(half + frame(0, bytes(51)), limit=100)


def test_an_announced_length_costs_no_memory_until_it_comes() -> None:
    """Half a gigabyte that never comes."""
    head = b"\x82\x7f" + struct.pack(">Q", 500 << 20)
    tracemalloc.start()
    try:
        assert read(head, bytes(2 * BUFFER), b"", limit=1 << 30) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.2 * AT_ONCE


@pytest.mark.long
def test_many_fragments_cost_no_more_than_their_bytes() -> None:
    """A list of them would be twenty times as large."""
    data = frame(TEXT, b"", fin=False) + frame(0, b"ab", fin=False) * 100_000
    source = Pieces(data)
    stream = Frames(source, 1 << 21)  # type: ignore[arg-type]
    tracemalloc.start()
    try:
        assert every(stream) == []
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 3 * BUFFER
    source.pieces.append(frame(0, b"c"))
    assert every(stream) == [(TEXT, b"ab" * 100_000 + b"c")]


# -- sockets ----------------------------------------------------------------------------


def test_a_timeout_in_the_middle_of_a_frame_loses_nothing(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """However often; ``heard`` moves with bytes only."""
    theirs, ours = pair
    ours.settimeout(0.001)
    stream = Frames(ours, LIMIT)
    data = frame(TEXT, b"z" * 300)
    for piece in (data[:1], data[1:3], data[3:100], data[100:]):
        for _ in range(2):
            heard = stream.received_at
            with pytest.raises(TimeoutError):
                stream.read()
            assert stream.next() is None
            assert stream.received_at == heard
        theirs.sendall(piece)
        stream.read()
        assert stream.received_at > heard
    assert stream.next() == (TEXT, b"z" * 300)


def test_a_shutdown_by_another_thread_ends_a_read(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """At once, as the other side's end does."""
    ours = sliced(pair[1])
    ours.settimeout(60)
    ended: list[Exception] = []

    def wait() -> None:
        try:
            Frames(ours, LIMIT).read()
        except ConnectionError as exc:
            ended.append(exc)

    reader = threading.Thread(target=wait)
    reader.start()
    shut(ours)
    reader.join(30)
    ours.close()
    assert len(ended) == 1


def test_frames_come_through_tls(pair: tuple[socket.socket, socket.socket]) -> None:
    """Many in one record, one in many records, and timeouts between."""
    theirs, ours = pair
    ca = trustme.CA()
    there = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("comfy.example").configure_cert(there)
    here = ssl.create_default_context()
    ca.configure_trust(here)
    large = random.Random(3).randbytes(5 * BUFFER)
    go_on = threading.Event()

    def serve() -> None:
        with there.wrap_socket(theirs, server_side=True) as server:
            server.sendall(frame(TEXT, b"a") * 1000)
            server.sendall(frame(BINARY, large)[:BUFFER])
            go_on.wait(30)
            server.sendall(frame(BINARY, large)[BUFFER:])
            with contextlib.suppress(OSError):
                server.unwrap()

    thread = threading.Thread(target=serve)
    thread.start()
    with here.wrap_socket(ours, server_hostname="comfy.example") as client:
        client.settimeout(0.2)
        stream = Frames(client, 2 * LIMIT)
        found: list[tuple[int, bytes | memoryview]] = []
        while not go_on.is_set():
            while (message := stream.next()) is not None:
                found.append(message)
            try:
                stream.read()
            except TimeoutError:
                go_on.set()
        assert set(found) <= {(TEXT, b"a")}
        client.settimeout(5)
        assert [*found, *every(stream)] == [*[(TEXT, b"a")] * 1000, (BINARY, large)]
    thread.join(30)


# -- any order of anything ------------------------------------------------------------------

CONTROLS = st.lists(st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125)), max_size=2)
LENGTHS = st.one_of(st.integers(0, 40), st.sampled_from([125, 126, 127, 200, 65535, 65536, 70000]))
MESSAGES = st.lists(
    st.tuples(
        st.sampled_from([TEXT, BINARY]),
        st.lists(st.tuples(LENGTHS, CONTROLS), min_size=1, max_size=5),
    ),
    max_size=6,
)
CUTS = st.lists(st.one_of(st.just(0), st.integers(1, 12), st.integers(1, 40000)), min_size=1)


def _encode(messages: list[Any], chance: random.Random) -> bytes:
    data = b""
    for opcode, fragments in messages:
        for at, (size, controls) in enumerate(fragments):
            payload, last = chance.randbytes(size), at == len(fragments) - 1
            data += frame(0 if at else opcode, payload, fin=last)
            data += b"".join(frame(kind, what) for kind, what in controls)
    return data


def _cut(data: bytes, cuts: list[int]) -> list[bytes]:
    """Pieces of these lengths, over and over; 0 is a timeout."""
    pieces, at = [], 0
    while at < len(data):
        for size in (*cuts, 1000):
            pieces.append(data[at : at + size])
            at += size
            if at >= len(data):
                break
    return pieces


def _by_websocket_client(pieces: list[bytes]) -> list[tuple[int, bytes]]:
    ws = websocket.WebSocket(skip_utf8_validation=True)
    source: Any = Pieces(*pieces)
    ws.sock = source
    found = []
    with contextlib.suppress(websocket.WebSocketConnectionClosedException):
        while True:
            with contextlib.suppress(websocket.WebSocketTimeoutException):
                found.append(ws.recv_data(control_frame=True))
    ws.sock = None
    return found


@settings(deadline=None, max_examples=examples(150))
@given(MESSAGES, CUTS, st.sampled_from([16, 17, 64, 1000, BUFFER]), st.integers(0, 1 << 16))
def test_any_legal_stream_is_read_as_websocket_client_reads_it(
    messages: list[Any], cuts: list[int], size: int, seed: int
) -> None:
    """The same messages in the same order, however the bytes come, however small the buffer is."""
    pieces = _cut(_encode(messages, random.Random(seed)), cuts)
    found = read(*pieces, size=size, at_once=4 * size)
    assert found == _by_websocket_client(pieces)


@settings(deadline=None, max_examples=examples(300))
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.builds(frame, st.integers(0, 15), st.binary(max_size=300), fin=st.booleans()),
            st.builds(
                lambda first, size: bytes([first, 127]) + struct.pack(">Q", size),
                st.integers(0, 255),
                st.integers(0, 2000),
            ),
        )
    ),
    CUTS,
)
def test_any_junk_ends_in_one_kind_of_error_with_bounded_memory(
    parts: list[bytes], cuts: list[int]
) -> None:
    """Or is read, when by chance it is legal."""
    limit = 1000
    source = Pieces(*_cut(b"".join(parts), cuts))
    stream = Frames(source, limit, size=64, at_once=256)  # type: ignore[arg-type]
    with contextlib.suppress(FrameError):
        for _, payload in every(stream):
            assert len(payload) <= limit
    assert len(stream._buffer) <= limit + 10
    assert len(stream._fragments) <= limit
