"""The port of an embedded server, which is its own while the server is down."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from comfy_client.testing.server_loop import ReservedPort


class _WindowsSocket(socket.socket):
    """A socket with no name before it is bound, as on Windows."""

    def getsockname(self) -> tuple[str, int]:
        name: tuple[str, int] = super().getsockname()
        if not name[1]:
            raise OSError(10022, "An invalid argument was supplied")
        return name


@pytest.fixture(params=["posix", "windows"])
def port(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReservedPort]:
    """A port here, and with the rules of Windows: at any time, one socket can be bound to it.

    Without SO_REUSEADDR, Linux has that rule, too.
    """
    if request.param == "windows" and not hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
        name, harmless = "SO_EXCLUSIVEADDRUSE", socket.SO_KEEPALIVE
        monkeypatch.setattr(socket, name, harmless, raising=False)
        monkeypatch.setattr(socket, "socket", _WindowsSocket)
    port = ReservedPort("127.0.0.1", 0)
    yield port
    port.release()


def test_a_server_that_is_down_keeps_its_port(port: ReservedPort) -> None:
    """However often; connections are refused until it is up again."""
    port.listen().close()
    number = port.number
    for _ in range(3):
        port.reserve()
        port.refuse()
        port.refuse()  # of the server, and of what stands in front of it
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", number))
        with contextlib.closing(port.listen()) as listener:
            assert listener.getsockname()[1] == port.number == number
            assert not port.is_reserved


def test_two_servers_never_share_a_port(port: ReservedPort) -> None:
    """The error names the address."""
    with contextlib.closing(port.listen()):
        second = ReservedPort("127.0.0.1", port.number)
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port.number}: "):
            second.listen()


def test_a_port_that_is_taken_meanwhile_can_be_had_later(port: ReservedPort) -> None:
    """The server that was down still knows its port."""
    port.listen().close()
    number = port.number
    port.reserve()
    other = ReservedPort("127.0.0.1", number)
    with contextlib.closing(other.listen()), pytest.raises(OSError, match="cannot listen"):
        port.listen()
    assert port.is_reserved
    with contextlib.closing(port.listen()):
        assert port.number == number


def test_a_port_beyond_the_range_is_an_error() -> None:
    """No socket is left open."""
    with pytest.raises(OverflowError):
        ReservedPort("127.0.0.1", 1 << 16).listen()
