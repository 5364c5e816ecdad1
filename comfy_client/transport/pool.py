"""Connections of urllib3 that keep to a deadline, and a pool of them without a lock.

A timeout of a socket is for each of its reads, so a server that sends a byte now and then
holds its client for ever, in the headers already.  These connections give each read and
each piece that is sent the time that is left for the whole exchange, and another thread can
end it.

A Ctrl-C that comes when the lock of a pool was just taken leaves it held for ever, and a
handler of a signal that asks something itself waits for what its own thread holds.  So
connections are kept in what needs no lock.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import math
import queue
import socket
import ssl
from contextvars import ContextVar
from typing import Any, Final

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

from .deadline import LONGEST, Deadline

#: Answers that only announce the answer (100, 102, 103), of which so many may come before it.
MOST_INTERIM: Final = 100
#: Bytes that are sent at once where each piece has a limit of its own.  Of these a socket takes
#: what it has room for; with TLS it returns when all are sent.
_PIECE: Final = 1 << 20
_TLS_PIECE: Final = 1 << 16
#: Bytes that the system may hold back unsent, so that what it takes has nearly been sent: those
#: of so many seconds of patience, and no more.
_UNSENT: Final = 1 << 20
_UNSENT_PER_SECOND: Final = 1 << 17


def shut(sock: socket.socket) -> None:
    """End a socket in which another thread reads or sends."""
    with contextlib.suppress(OSError):
        # Not SSLSocket's own method, which takes the TLS state from under the reader.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


class Exchange:
    """A request and its answer: when they must be over, and the socket that they use by now."""

    __slots__ = ("_is_cut", "_sock", "deadline", "pause")

    def __init__(self, deadline: Deadline, pause: float = math.inf) -> None:
        self.deadline = deadline
        self.pause = pause  #: Seconds in which some of the request must get away.
        self._sock: socket.socket | None = None
        self._is_cut = False

    def uses(self, sock: socket.socket) -> None:
        """From now on :meth:`cut` ends this socket; ``OSError`` when that was called."""
        self._sock = sock
        if self._is_cut:  # asked in this order, as cut() does it in the other
            raise ConnectionAbortedError("ended by another thread")

    def cut(self) -> None:
        """End it, from any thread: at once, or as soon as it has a socket."""
        self._is_cut = True
        if self._sock is not None:
            shut(self._sock)


#: What this thread is about to send; ``None`` for requests of others over the same pool.
current: Final[ContextVar[Exchange | None]] = ContextVar("current", default=None)


class _Reader(io.RawIOBase):
    """What a socket receives, until the deadline."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._deadline = deadline
        # urllib3 has just set the limit of a single read.
        pause = sock.gettimeout()
        self._pause = LONGEST if pause is None else pause

    def makefile(self, mode: str) -> io.BufferedReader:
        """All that an ``HTTPResponse`` asks of a socket."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._deadline.require(self._pause))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer that may be dropped at any moment, as by a Ctrl-C."""

    def flush(self) -> None:
        """Nothing: it is only read.  What it reads the collector may have closed before it."""

    def _read_status(self) -> tuple[str, int, str]:
        """Of the answer itself: http.client takes any interim one but 100 for it."""
        for _ in range(MOST_INTERIM):
            # Private there, so the stubs lack it.
            line: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
            if line[1] >= 200 or line[1] == http.client.SWITCHING_PROTOCOLS:
                return line
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException("announcements without end in place of an answer")


def answer_until(
    deadline: Deadline, sock: socket.socket, *args: Any, **kw: Any
) -> http.client.HTTPResponse:
    """The answer that comes out of a socket, read until the deadline."""
    # A socket, as far as an answer asks for one.
    return _Response(_Reader(sock, deadline), *args, **kw)  # type: ignore[arg-type]


def _response(sock: socket.socket, *args: Any, **kw: Any) -> http.client.HTTPResponse:
    exchange = current.get()
    if exchange is None:
        return _Response(sock, *args, **kw)
    return answer_until(exchange.deadline, sock, *args, **kw)


class _InTime:
    """Mixed into a connection: answers are read, and bodies sent, until the deadline."""

    response_class: Any = staticmethod(_response)
    sock: Any

    def send(self, data: Any) -> None:
        exchange = current.get()
        if exchange is None:
            super().send(data)  # type: ignore[misc]  # of what it is mixed into
            return
        if self.sock is None:
            # As sending does, within a limit of its own; of what it is mixed into.
            self.connect()  # type: ignore[attr-defined]
        exchange.uses(self.sock)
        if exchange.pause < LONGEST:
            self._send_in_pieces(memoryview(data), exchange)
        else:
            self.sock.settimeout(exchange.deadline.require())
            super().send(data)  # type: ignore[misc]  # of what it is mixed into

    def _send_in_pieces(self, data: memoryview, exchange: Exchange) -> None:
        """Until the deadline, while some of it gets away again and again."""
        unsent = min(_UNSENT, max(1, int(exchange.pause * _UNSENT_PER_SECOND)))
        with contextlib.suppress(AttributeError, OSError):  # not on Windows, nor of a Unix socket
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, unsent)
        size = _TLS_PIECE if isinstance(self.sock, ssl.SSLSocket) else _PIECE
        while data:
            self.sock.settimeout(exchange.deadline.require(exchange.pause))
            data = data[self.sock.send(data[:size]) :]


class _HttpConnection(_InTime, HTTPConnection):
    pass


class _HttpsConnection(_InTime, HTTPSConnection):
    pass


class _Kept:
    """A ``LifoQueue`` for which nobody waits: each step is one of a list, and so whole."""

    def __init__(self, maxsize: int) -> None:
        self._most = maxsize
        self._items: list[Any] = []

    def put(self, item: Any, block: bool = False) -> None:
        if len(self._items) >= self._most:  # a few more in a race of threads do no harm
            raise queue.Full
        self._items.append(item)

    def get(self, block: bool = False, timeout: float | None = None) -> Any:
        try:
            return self._items.pop()
        except IndexError:
            raise queue.Empty from None

    def qsize(self) -> int:
        return len(self._items)


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _HttpConnection
    QueueCls: Any = _Kept


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection
    QueueCls: Any = _Kept


#: For ``PoolManager.pool_classes_by_scheme``.
POOL_CLASSES: Final = {"http": _HttpPool, "https": _HttpsPool}


@functools.cache
def _in_time(kind: type[HTTPConnection]) -> type[HTTPConnection]:
    return type(kind.__name__, (_InTime, kind), {})


def keep_to_deadlines(pool: Any) -> None:
    """Have a pool that is not one of ours make connections that keep to deadlines, too.

    Requests of others go over them as before, but for ``pool_block``: urllib3 waits for a free
    connection without any limit, so here nobody waits for one, and a few more are made.
    """
    kind = pool.ConnectionCls
    if issubclass(kind, _InTime):
        return
    pool.ConnectionCls = _in_time(kind)
    pool.block = False
    with contextlib.suppress(queue.Empty, AttributeError):  # a pool that is closed keeps none
        while True:
            kept = pool.pool.get(block=False)
            if kept is not None:
                kept.close()
