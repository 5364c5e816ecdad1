"""With which close codes a server ends event sockets: 1008 is never among them.

A proxy, or a server of another make, may send that one: see ``test_backoff.py``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import websocket
from websocket import ABNF

from tests.contract.conftest import Server

LIMIT = 60.0


@contextlib.contextmanager
def dialled(server: Server, client_id: str) -> Iterator[websocket.WebSocket]:
    """A socket that has been greeted."""
    url = f"{server.url.replace('http', 'ws', 1)}/ws?clientId={client_id}"
    ws = websocket.create_connection(url, LIMIT, suppress_origin=True)
    try:
        ws.recv()
        yield ws
    finally:
        ws.shutdown()


def code(number: int) -> bytes:
    return number.to_bytes(2, "big")


def masked(opcode: int, data: bytes = b"", size: int | None = None) -> bytes:
    """A frame as clients send it; ``size``: what it announces, with less behind it."""
    size = len(data) if size is None else size
    length = bytes([size]) if size < 126 else bytes([127]) + size.to_bytes(8, "big")
    return bytes([0x80 | opcode, 0x80 | length[0]]) + length[1:] + bytes(4) + data


def close_code(ws: websocket.WebSocket) -> int | None:
    """The code of the close frame; ``None``: the stream ends without one, 1005: it has no code."""
    try:
        while (frame := ws.recv_frame()).opcode != ABNF.OPCODE_CLOSE:
            pass
    except (websocket.WebSocketConnectionClosedException, ConnectionError):
        return None
    return int.from_bytes(frame.data[:2], "big") if frame.data else 1005


def pongs(ws: websocket.WebSocket) -> bool:
    """Whether a ping is answered."""
    ws.ping(b"there?")
    while (frame := ws.recv_frame()).opcode != ABNF.OPCODE_PONG:
        assert frame.opcode != ABNF.OPCODE_CLOSE
    return bytes(frame.data) == b"there?"


@pytest.mark.parametrize(
    ("frame", "answer"),
    [
        (masked(8), 1000),
        (masked(8, code(1000)), 1000),
        (masked(8, code(1008)), 1000),
        (masked(8, code(4000) + b"bye"), 1000),
        (masked(8, code(999)), 1002),
        (masked(1, b"\xff"), 1007),
        (masked(3), 1002),
        (masked(0, b"x"), 1002),
        (masked(9, bytes(126)), 1002),
        (masked(1, size=5 << 20), 1009),
    ],
    ids=["close", "1000", "1008", "4000", "999", "no UTF-8", "opcode", "stray", "ping", "large"],
)
def test_the_answer_to_what_ends_a_socket(any_comfyui: Server, frame: bytes, answer: int) -> None:
    """By 1000 if it is a close, whatever that says; a frame that none should send has a code."""
    with dialled(any_comfyui, "closing") as ws:
        ws.sock.sendall(frame)
        assert close_code(ws) == answer


def test_a_second_socket_of_a_client_id_closes_none(any_comfyui: Server) -> None:
    """Neither does its end, nor what is no JSON."""
    with dialled(any_comfyui, "twice") as first:
        with dialled(any_comfyui, "twice") as second:
            second.sock.sendall(masked(1, b"{{{"))
            assert pongs(first)
            assert pongs(second)
        assert pongs(first)


def test_a_server_that_stops_says_no_code(other: Server) -> None:
    with dialled(other, "stopped") as ws:
        other.restart()
        assert close_code(ws) is None
