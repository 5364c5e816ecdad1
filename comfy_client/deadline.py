"""Connections of urllib3 that keep to a deadline, and a pool of them without a lock.

A timeout of a socket is for each of its reads, so a server that sends a byte now and then
holds its client for ever, in the headers already.  These connections give each read and
each piece that is sent the time that is left for the whole exchange.

A Ctrl-C that comes when the lock of a pool was just taken leaves it held for ever, and a
handler of a signal that asks something itself waits for what its own thread holds.  So
connections are kept in what needs no lock.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import math
import numbers
import queue
import socket
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Final

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

#: When the exchange that this thread is about to begin must be over (``time.monotonic``).
deadline: Final[ContextVar[float]] = ContextVar("deadline")
#: Seconds for which the server may be silent in any exchange of this thread.
patience: Final[ContextVar[float]] = ContextVar("patience", default=math.inf)


@contextlib.contextmanager
def patient(seconds: float) -> Iterator[None]:
    """Exchanges in here end when the server is silent for so long."""
    token = patience.set(seconds)
    try:
        yield
    finally:
        patience.reset(token)


def check_patience(*seconds: float | None) -> None:
    """TypeError or ValueError for what is no time to wait."""
    for value in seconds:
        if value is not None and not isinstance(value, numbers.Real):  # numpy's, too
            raise TypeError(f"a timeout is a number of seconds, or None: {value!r:.80}")
        if value is not None and not value >= 0:
            raise ValueError("a timeout is in seconds, 0 or more; None waits as long as it takes")


def seconds_left(end: float) -> float:
    """The time left until ``end``, more than 0; else ``TimeoutError``."""
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError("the deadline has passed")
    return left


class _Reader(io.RawIOBase):
    """What a socket receives, until the deadline."""

    def __init__(self, sock: socket.socket, end: float) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._end = end
        self._pause = sock.gettimeout()  # urllib3 has just set the limit of a single read

    def makefile(self, mode: str) -> io.BufferedReader:
        """All that an ``HTTPResponse`` asks of a socket."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = seconds_left(self._end)
        self._sock.settimeout(left if self._pause is None else min(left, self._pause))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer that may be dropped at any moment, as by a Ctrl-C."""

    def flush(self) -> None:
        """Nothing: it is only read.  What it reads the collector may have closed before it."""


def answer_until(
    end: float, sock: socket.socket, *args: Any, **kw: Any
) -> http.client.HTTPResponse:
    """The answer that comes out of a socket, read until ``end``."""
    # A socket, as far as an answer asks for one.
    return _Response(_Reader(sock, end), *args, **kw)  # type: ignore[arg-type]


def _response(sock: socket.socket, *args: Any, **kw: Any) -> http.client.HTTPResponse:
    return answer_until(deadline.get(), sock, *args, **kw)


class _InTime:
    """Mixed into a connection: answers are read, and bodies sent, until the deadline."""

    response_class: Any = staticmethod(_response)
    sock: Any

    def send(self, data: Any) -> None:
        if self.sock is not None:  # else sending connects, which has a limit of its own
            self.sock.settimeout(seconds_left(deadline.get()))
        super().send(data)  # type: ignore[misc]


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
