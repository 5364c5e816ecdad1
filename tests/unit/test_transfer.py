"""A request that another thread may end at any moment, and the socket that it uses."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from comfy_client.transport.connections import Transfer
from comfy_client.transport.deadline import Deadline

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_request_that_is_ended_before_it_has_a_socket_gets_none(pair: Pair) -> None:
    exchange = Transfer(Deadline())
    exchange.cut()
    with pytest.raises(ConnectionAbortedError):
        exchange.use(pair[0])


def test_a_socket_is_handed_on_unless_it_is_about_to_be_ended(pair: Pair) -> None:
    """Or the end of one request would be that of the next."""
    ours, theirs = pair
    before, after = Transfer(Deadline()), Transfer(Deadline())
    before.use(ours)
    assert before.release(ours)
    before.cut()
    ours.sendall(b"still open")
    after.use(ours)
    after.cut()
    assert not after.release(ours)
    assert after.release(theirs)
    assert theirs.recv(100) == b"still open"
    assert theirs.recv(100) == b""
