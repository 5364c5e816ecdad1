"""Sockets whose waits :func:`shut` ends, and which can be interrupted, on every system.

On Windows, neither is possible within a wait for a socket, so waits are made in slices there.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import socket
import ssl
import sys
from collections.abc import Callable
from typing import Any, Final

from .. import runtime
from ..interrupts import interruption
from ..values import T
from .deadline import Deadline

#: Called with each socket before it waits for anything, so that another thread can end it.
Hold = Callable[[socket.socket], object]

#: Seconds of the shortest wait; none at all would be another kind of error.
_SHORTEST: Final = 0.001


def shut(sock: socket.socket) -> None:
    """Shut down a socket, which ends reads and sends of other threads."""
    if isinstance(sock, _Sliced):
        sock.is_shut = True
    with contextlib.suppress(OSError):
        # Not SSLSocket's own method, which drops the TLS state that the reader needs.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def no_name() -> socket.gaierror:
    """Make the error for a host name that nobody can have, so that nobody looks it up."""
    return socket.gaierror(socket.EAI_NONAME, "no host can have this name")


def look_up(host: str, port: int) -> list[tuple[Any, Any, int, str, Any]]:
    """Return the addresses of a host in the order in which to try them."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise no_name() from None
    if runtime.SLICED and host.lower() == "localhost":
        # ComfyUI listens on 127.0.0.1, and Windows takes two seconds to refuse ::1.
        found.sort(key=lambda each: each[0] != socket.AF_INET)
    return found


def connect(host: str, port: int, deadline: Deadline, hold: Hold) -> socket.socket:
    """Connect like ``socket.create_connection``; call ``hold`` with each socket before that."""
    failure = OSError(f"{host} has no address")
    found = look_up(host, port)
    for tried, (family, kind, proto, _, address) in enumerate(found):
        sock = new_socket(family, kind, proto)
        try:
            hold(sock)
            # A fair share for each address: the first may drop packets while another works.
            sock.settimeout(deadline.require() / (len(found) - tried))
            sock.connect(address)
        except OSError as exc:
            sock.close()
            failure = exc
        else:
            return sock
    raise failure


def new_socket(family: int, kind: int, proto: int = 0) -> socket.socket:
    """Make a socket."""
    return (_Sliced if runtime.SLICED else socket.socket)(family, kind, proto)


def sliced(sock: socket.socket) -> socket.socket:
    """Return what to use in place of a connected socket: one that waits in slices if others do."""
    if not runtime.SLICED or isinstance(sock, _Sliced):
        return sock
    if type(sock) is ssl.SSLSocket:
        timeout = sock.gettimeout()
        sock.__class__ = _SlicedTls
    elif isinstance(sock, socket.socket) and not isinstance(sock, ssl.SSLSocket):
        timeout = sock.gettimeout()
        sock = _Sliced(sock.family, sock.type, sock.proto, sock.detach())
    else:  # a library's
        return sock
    sock.settimeout(timeout)
    return sock


def shaking_hands_in_slices(context: ssl.SSLContext) -> ssl.SSLContext:
    """Let a context make sockets that wait in slices during the handshake, too; return it."""
    if getattr(context, "sslsocket_class", None) is ssl.SSLSocket:  # not a library's own
        context.sslsocket_class = _SlicedTls
    return context


class _Sliced(socket.socket):
    """A socket that waits up to its timeout, in slices."""

    is_shut = False
    _timeout: float | None = None

    def settimeout(self, value: float | None) -> None:
        self._timeout = value
        super().settimeout(value)

    def gettimeout(self) -> float | None:
        return self._timeout

    def setblocking(self, flag: bool) -> None:
        self.settimeout(None if flag else 0.0)

    def connect(self, address: Any) -> None:
        until = self._until()
        super().settimeout(0.0)
        error = self.connect_ex(address)
        if error in (errno.EINPROGRESS, errno.EWOULDBLOCK):
            # Windows tells of a failure in the last of the three.
            while not any(select.select((), (self,), (self,), _slice(until))):
                self._check(until)
            error = self.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        super().settimeout(self._timeout)
        if error:
            texts: dict[int, str] = getattr(socket, "errorTab", {})  # on Windows
            raise OSError(error, texts.get(error) or os.strerror(error))

    def recv(self, *args: Any) -> bytes:
        return self.in_slices(super().recv, *args)

    def recv_into(self, *args: Any) -> int:
        return self.in_slices(super().recv_into, *args)

    def send(self, *args: Any) -> int:
        return self.in_slices(super().send, *args)

    def sendall(self, data: Any, *flags: Any) -> None:
        until, left = self._until(), memoryview(data).cast("B")
        while left:
            left = left[self.in_slices(super().send, left, *flags, until=until) :]

    def in_slices(self, call: Callable[..., T], *args: Any, until: float | None = None) -> T:
        """Make a call that waits, for a slice at a time, until the timeout or ``until``."""
        if self._timeout == 0:  # non-blocking: a user's socket, made by a context that we share
            return call(*args)
        until = self._until() if until is None else until
        outer = sys.exception()
        while True:
            super().settimeout(_slice(until))
            try:
                return call(*args)
            except TimeoutError as exc:
                if interruption(exc, outer) is not None:  # an alarm, not the end of a slice
                    raise
                self._check(until)

    def _until(self) -> float:
        return math.inf if self._timeout is None else runtime.monotonic() + self._timeout

    def _check(self, until: float) -> None:
        if self.is_shut:
            raise ConnectionAbortedError(errno.ECONNABORTED, "ended by another thread")
        if runtime.monotonic() >= until:
            raise TimeoutError("timed out")


class _SlicedTls(_Sliced, ssl.SSLSocket):
    """A socket with TLS that waits so."""

    def connect(self, address: Any) -> None:
        ssl.SSLSocket.connect(self, address)  # a user's socket: it shakes hands, too

    def do_handshake(self, block: bool = False) -> None:
        self.in_slices(super().do_handshake, block)


def _slice(until: float) -> float:
    return max(_SHORTEST, min(until - runtime.monotonic(), runtime.SLICE))
