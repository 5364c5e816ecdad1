"""urllib3 connections that keep to a deadline, with their pools and a Session.

A socket's timeout applies to each read, so a server that sends a byte now and then could hold its
client for ever, even in the headers.  These connections limit each read and each send to the time
that is left for the whole transfer, and another thread can end them.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import http.client
import io
import logging
import math
import queue
import re
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from http.cookiejar import Cookie
from typing import Any, Final

import attrs
import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.cookies import RequestsCookieJar, extract_cookies_to_jar
from requests.structures import CaseInsensitiveDict
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    ClosedPoolError,
    ConnectTimeoutError,
    HeaderParsingError,
    LocationParseError,
    NameResolutionError,
    NewConnectionError,
)
from urllib3.util import Retry
from urllib3.util.response import assert_header_parsing
from urllib3.util.ssl_ import create_urllib3_context, resolve_cert_reqs, resolve_ssl_version

from .. import runtime
from .._version import __version__
from ..locks import shared_lock
from .deadline import LONGEST, Deadline, read_timeout
from .sockets import connect, no_name, shaking_hands_in_slices, shut, sliced

log: logging.Logger = logging.getLogger("comfy_client")

#: The most connections in a pool; further requests open new ones and do not wait for each other.
POOL_SIZE: Final = 32
#: The most bytes of all cookies; ComfyUI accepts 8190 in a header, most proxies 16 KiB.
MAX_COOKIES: Final = 1 << 14
#: Bytes per send where each send has its own timeout.  A plain socket takes only the bytes that
#: fit its buffer; one with TLS returns when all are sent.
_PIECE: Final = 1 << 20
_TLS_PIECE: Final = 1 << 16
#: The most bytes of a body that is sent along with its head, so that the server wakes up only once.
_JOINED: Final = 1 << 16
#: Errors of a send to a peer that reads no more, but may have answered.
_CLOSED: Final = frozenset((errno.EPIPE, errno.EPROTOTYPE, errno.ECONNRESET))
#: The most unsent bytes that the system may buffer, so that a completed send is nearly sent.
_UNSENT: Final = 1 << 20
#: Bytes per second of the slowest line; the system buffers no more than it sends in the timeout.
_SLOWEST: Final = 1 << 14

#: The content codings that are unpacked; an answer in any other one, or in several, stays as it is.
_UNPACKED: Final = frozenset(("gzip", "x-gzip", "deflate"))
#: The most bytes per read of an answer that is unpacked.  These codings pack a thousand bytes into
#: one at best, and urllib3 before 2.6 unpacks all that it has read.
_PACKED: Final = 1 << 12


def accepted(header: str | bytes) -> str:
    """Return an ``Accept-Encoding`` header without the codings that are not unpacked."""
    text = header if isinstance(header, str) else header.decode("latin-1")
    codings = [part.strip() for part in text.split(",")]
    known = (*_UNPACKED, "identity")
    kept = [each for each in codings if each.partition(";")[0].strip().lower() in known]
    return ", ".join(kept) or "identity"


def reading(headers: Mapping[str, str], most: int) -> tuple[int, bool]:
    """Return how many bytes of a body to read at a time, up to ``most``, and whether to unpack."""
    if headers.get("content-encoding", "").strip().lower() in _UNPACKED:
        return min(most, _PACKED), True
    return most, False


@attrs.define(eq=False, repr=False)
class Transfer:
    """A request and its answer: their timeouts, the socket that they use, and their bytes.

    Attributes:
        deadline: When all of it must have ended.
        send_timeout: Seconds in which some of the request must be sent.
        read_timeout: Seconds for which the server may be silent, before its answer and within it.
        on_connected: Called with the IP address of the peer of each new connection, before anything
            is sent on it; an error that it raises ends the request.
        requests: How often the request was sent.
        sent: The number of bytes that were sent, with headers.
        received: The number of bytes that were received, with headers.
    """

    deadline: Deadline
    send_timeout: float = attrs.field(default=math.inf, kw_only=True)
    read_timeout: float = attrs.field(default=math.inf, kw_only=True)
    on_connected: Callable[[str], None] | None = attrs.field(default=None, kw_only=True)
    requests: int = attrs.field(default=0, init=False)
    sent: int = attrs.field(default=0, init=False)
    received: int = attrs.field(default=0, init=False)
    _sock: socket.socket | None = attrs.field(default=None, init=False)
    _is_cut: bool = attrs.field(default=False, init=False)

    def limits(self, connect: float) -> tuple[float, float] | None:
        """Return the seconds for connecting and for each read; None if the deadline has passed.

        Nothing is raised, as a ``TimeoutError`` may also be an interruption by the caller.
        """
        left = self.deadline.at - runtime.monotonic()
        if left <= 0:
            return None
        most = min(left, self.read_timeout)
        if read_timeout.limits.get() is not None:  # seldom
            most = min(most, read_timeout.get())
        return min(left, connect), most

    def limit(self, most: float = LONGEST) -> float:
        """Return the seconds for one send or read; raise ``TimeoutError`` at the deadline."""
        left = self.deadline.at - runtime.monotonic()  # not its method: it is asked often
        if left <= 0:
            raise TimeoutError("the deadline has passed")
        return min(left, most)

    def use(self, sock: socket.socket) -> None:
        """Let :meth:`cut` shut a socket down; raise ``OSError`` if ``cut`` was called before."""
        self._sock = sock
        if self._is_cut:  # checked last, as cut() sets this first
            raise ConnectionAbortedError("ended by another thread")

    def release(self, sock: socket.socket) -> bool:
        """Keep :meth:`cut` from shutting a socket down; return False if it already has."""
        if self._sock is not sock:
            return True
        self._sock = None
        return not self._is_cut  # checked last, as cut() sets this first

    def cut(self) -> None:
        """End the transfer from any thread: immediately, or as soon as it has a socket."""
        self._is_cut = True
        sock = self._sock
        if sock is not None:
            shut(sock)


class Traffic:
    """Thread-safe counters of requests and bytes."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Reset the totals and the lock, as after a fork the old lock may stay held."""
        # Guards the three totals.  Re-entrant: a finalizer may send a request, too.
        self._lock = shared_lock()
        self.requests: int = 0
        self.sent: int = 0
        self.received: int = 0

    def add(self, requests: int = 0, sent: int = 0, received: int = 0) -> None:
        """Add to the totals."""
        with self._lock:
            self.requests += requests
            self.sent += sent
            self.received += received


#: The transfer of this thread; ``None`` for other code's requests over the same pool.
current: Final[ContextVar[Transfer | None]] = ContextVar("current", default=None)


class _Reader(io.RawIOBase):
    """A reader of the bytes that a socket receives until the deadline of a transfer."""

    def __init__(self, sock: socket.socket, transfer: Transfer, read_timeout: float) -> None:
        self._sock = sock
        self._transfer = transfer
        self._read_timeout = read_timeout

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return a buffered reader, which is all that an ``HTTPResponse`` needs of a socket."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._transfer.limit(self._read_timeout))
        got = self._sock.recv_into(buffer)
        self._transfer.received += got
        return got


class _OwningReader(_Reader):
    """A reader that keeps the socket open when its connection is closed, as http.client expects."""

    def __init__(self, sock: socket.socket, transfer: Transfer) -> None:
        # urllib3 has just set the timeout of a single read.
        read_timeout = sock.gettimeout()
        super().__init__(sock, transfer, LONGEST if read_timeout is None else read_timeout)
        self._file = sock.makefile("rb", buffering=0)

    def close(self) -> None:
        # It is closed in any case; an interrupted constructor leaves no file to close.
        with contextlib.suppress(OSError, AttributeError):
            self._file.close()
        super().close()


# -- heads of requests and answers -------------------------------------------------------

# http.client reads headers as e-mail, and writes each one by itself.  The usual ones are read and
# written here, and whatever is unusual is left to it.

#: The most interim answers (100, 102, 103) before the real one.
MAX_INTERIM: Final = 100
#: The most lines in a head; http.client has the same limit.
_MAX_LINES: Final = 100

# Neither tries a run of blanks again from each of them: a line may have 64 KiB of these.
#: A header as nearly every server sends it: with a plain name, and on one line.
_FIELD: Final = re.compile(r"^([!-9;-~]+):[ \t]*+([^\r\n]*)(?<![ \t])\r?\n", re.MULTILINE)
#: A folded line.
_FOLD: Final = re.compile(r"(?<![ \t])[ \t]*+\r?\n[ \t]+")
#: A head that http.client would send without a change, and without an error.
_PLAIN: Final = re.compile(
    r"[A-Z]+ /(?:[!$&-;=@-Z_a-z~]++|%[0-9A-F]{2})*+"
    r"(?:\?(?:[!$&-;=?-Z_a-z~]++|%[0-9A-F]{2})*+)? HTTP/1\.1"
    r"(?:\r\n[!-9;-~]+: [^\r\n]*)+"
)
#: The methods for which http.client sends no Content-Length if there is no body.
_WITHOUT_BODY: Final = frozenset(("GET", "HEAD", "DELETE", "OPTIONS"))


def request_head(
    method: str, target: str, host: str, headers: CaseInsensitiveDict[Any], *, has_body: bool
) -> bytes | None:
    """Return the head of a request as urllib3 sends it, or None if it has anything unusual.

    ``host`` is the value of the header ``Host``, unless ``headers`` have their own.
    """
    lines, names = [f"{method} {target} HTTP/1.1"], headers._store
    for name, value in names.values():
        lines.append(f"{name}: {value if isinstance(value, str) else value.decode('latin-1')}")
    if "content-length" not in names and (has_body or method not in _WITHOUT_BODY):
        return None
    if "user-agent" not in names or "transfer-encoding" in names:
        return None
    if "accept-encoding" not in names:
        lines.insert(1, "Accept-Encoding: identity")
    if "host" not in names:
        lines.insert(1, f"Host: {host}")
    head = "\r\n".join(lines)
    # A line break in a value would begin another header.
    if head.count("\r\n") != len(lines) - 1 or _PLAIN.fullmatch(head) is None:
        return None
    try:
        return f"{head}\r\n\r\n".encode("latin-1")
    except UnicodeEncodeError:
        return None


def read_fields(file: io.BufferedReader) -> list[tuple[str, str]]:
    """Read the headers of an answer up to the empty line, and return names and values."""
    ahead = file.peek()
    end = ahead.find(b"\r\n\r\n") + 4
    count = ahead.count(b"\n", 0, end)
    fields: list[tuple[str, str]] = _FIELD.findall(ahead[:end].decode("latin-1"))
    # All is there, as nearly always.
    if end >= 4 and len(fields) == count - 1 < _MAX_LINES:
        file.read(end)
        return fields
    message = http.client.parse_headers(file)
    try:
        assert_header_parsing(message)
    except HeaderParsingError:
        log.warning("Failed to parse headers: a line is none, and those after it are left out")
    return [(name, _FOLD.sub(" ", value)) for name, value in message.items()]


class Headers(urllib3.HTTPHeaderDict):
    """The headers of an answer, of which each name may occur several times."""

    def read(self, file: io.BufferedReader) -> None:
        """Read headers as :func:`read_fields` does, and add them."""
        for name, value in read_fields(file):
            self._container.setdefault(name.lower(), [name]).append(value)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the values of a name, joined by commas; quicker than by ``[]`` and an error."""
        found = self._container.get(name.lower())
        return default if found is None else ", ".join(found[1:])

    def first(self) -> dict[str, str]:
        """Return the first value of each name, which is in lower case."""
        return {name: value for name, (_, value, *_) in self._container.items()}


class SkippingResponse(http.client.HTTPResponse):
    """An answer that skips interim ones, and may be dropped at any moment."""

    def flush(self) -> None:
        """Do nothing, as the answer is only read and its file may be closed already."""

    def _read_status(self) -> tuple[str, int, str]:
        """Skip interim answers; http.client itself skips only 100."""
        for _ in range(MAX_INTERIM):
            # A private method, which the stubs lack.
            line: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
            if line[1] >= 200 or line[1] == http.client.SWITCHING_PROTOCOLS:
                return line
            read_fields(self.fp)
        raise http.client.HTTPException("endless interim answers (1xx) in place of an answer")


class QuickResponse(SkippingResponse):
    """An answer whose head is read by :func:`read_fields`.

    Attributes:
        msg: All headers.
        headers: The first header of each name, in lower case; the length of the body and the end
            of the connection depend on them.
    """

    msg: Any
    headers: Any
    # As in the base class; type checkers ask for it wherever these are set.
    status: int
    code: int
    reason: str
    version: int
    chunked: bool
    chunk_left: int | None
    length: int | None
    will_close: bool
    _method: str

    def begin(self) -> None:
        """Read the status and the headers."""
        version, self.status, reason = self._read_status()
        self.code, self.reason = self.status, reason.strip()
        is_old = version in ("HTTP/1.0", "HTTP/0.9")
        if not is_old and not version.startswith("HTTP/1."):
            raise http.client.UnknownProtocol(version)
        self.version = 10 if is_old else 11
        self.msg = Headers()
        self.msg.read(self.fp)
        first = self.headers = self.msg.first()
        self.chunked = first.get("transfer-encoding", "").lower() == "chunked"
        self.chunk_left = None
        self.length = self._body_length(first.get("content-length", ""))
        # A private method, which the stubs lack.
        closes: bool = self._check_close()  # type: ignore[attr-defined]
        self.will_close = closes or (self.length is None and not self.chunked)

    def _body_length(self, text: str) -> int | None:
        if self._method == "HEAD" or self.status in (204, 304) or self.status < 200:
            return 0
        try:
            length = -1 if self.chunked else int(text)
        except ValueError:
            return None
        return length if length >= 0 else None

    @property
    def is_plain(self) -> bool:
        """Whether the body has a known length, given once, and is not encoded."""
        is_known = self.length is not None and "," not in self.msg.get("content-length", "")
        return is_known and "content-encoding" not in self.headers


# -- connections -------------------------------------------------------------------------


def answer_until(
    deadline: Deadline, sock: socket.socket, *args: Any, **kw: Any
) -> http.client.HTTPResponse:
    """Make a response whose reads from the socket end at the deadline."""
    # As much of a socket as an HTTPResponse needs.
    return SkippingResponse(_OwningReader(sock, Transfer(deadline)), *args, **kw)  # type: ignore[arg-type]


def _response(sock: socket.socket, *args: Any, **kw: Any) -> http.client.HTTPResponse:
    transfer = current.get()
    if transfer is None:
        return SkippingResponse(sock, *args, **kw)
    # As much of a socket as an HTTPResponse needs.
    return SkippingResponse(_OwningReader(sock, transfer), *args, **kw)  # type: ignore[arg-type]


def _read_into(body: Any, buffer: memoryview) -> int:
    """Read the bytes of a body that are there into a buffer, which is not longer than its rest."""
    got: int = 0 if body.isclosed() else body.fp.readinto1(buffer)
    body.length -= got
    return got


def _has_ended(body: Any) -> bool:
    """Return whether all of a body was read; close it then."""
    if body.length == 0:
        body.close()
        return True
    return body.isclosed() and not body.length


# Answers give up their connection before the pool may lend it again.  urllib3 does so afterwards:
# an interruption in between would close a connection that is in use, or lend it twice.


def _give_back(pool: Any, connection: Any, body: Any) -> None:
    if pool and connection:
        if body.will_close:
            connection.close()
        pool._put_conn(connection)


class _Answer(urllib3.HTTPResponse):
    """An answer of any kind."""

    def read1(self, amt: int | None = None, decode_content: bool | None = None) -> bytes:
        """Read the bytes that are there; without urllib3's detours if nothing is to be unpacked."""
        body: Any = self._fp
        if decode_content is not False or not amt or not isinstance(body, SkippingResponse):
            return super().read1(amt, decode_content)
        chunk: bytes = body.read1(amt)
        if _has_ended(body):
            self.release_conn()
        return chunk

    def readinto1(self, buffer: memoryview) -> int:
        """Read as :func:`_read_into`."""
        got = _read_into(self._fp, buffer)
        if _has_ended(self._fp):
            self.release_conn()
        return got

    def release_conn(self) -> None:
        connection, self._connection = self._connection, None
        _give_back(self._pool, connection, self._original_response)


class _PlainAnswer(io.IOBase):
    """An answer whose body is as it is on the wire, and of known length; quicker to make."""

    def __init__(self, body: QuickResponse, pool: Any, connection: Any) -> None:
        self.headers: Headers = body.msg
        self.status: int = body.status
        self.body_size: int | None = body.length  # before anything of it is read
        self._original_response = body  # where requests looks for cookies
        self._pool, self._connection = pool, connection

    @property
    def closed(self) -> bool:
        return self._original_response.isclosed()

    def read1(self, amt: int, decode_content: bool = False) -> bytes:
        """Read the bytes that are there."""
        chunk = self._original_response.read1(amt)
        self.drain_conn()
        return chunk

    def readinto1(self, buffer: memoryview) -> int:
        """Read as :func:`_read_into`."""
        got = _read_into(self._original_response, buffer)
        self.drain_conn()
        return got

    def drain_conn(self) -> None:
        """Return the connection to the pool if all of the body was read."""
        if _has_ended(self._original_response):
            self.release_conn()

    def release_conn(self) -> None:
        """Return the connection to the pool, unless it has it."""
        connection, self._connection = self._connection, None
        _give_back(self._pool, connection, self._original_response)

    def close(self) -> None:
        """Close the answer, and its connection unless the pool has it."""
        self._original_response.close()
        if self._connection:
            self._connection.close()


class _InTime:
    """Mixin for connections that read answers and send bodies until the deadline."""

    response_class: Any = staticmethod(_response)
    sock: Any
    _transfer: Transfer | None = None

    def close(self) -> None:
        """Close the connection without raising, or its pool would leave other connections open."""
        with contextlib.suppress(OSError):
            super().close()  # type: ignore[misc]  # a method of the class it is mixed into

    def connect(self) -> None:
        """Connect as the class does; the socket may wait in slices, whoever made it."""
        super().connect()  # type: ignore[misc]  # a method of the class, as in close
        self.sock = sliced(self.sock)

    def _new_conn(self) -> socket.socket:
        """Connect, without TLS yet, and tell the transfer with whom."""
        # A private method of urllib3, as none of its public ones is called between the two.
        sock: socket.socket = super()._new_conn()  # type: ignore[misc]  # as in close
        transfer = current.get()
        if transfer is not None and transfer.on_connected is not None:
            try:
                peer = sock.getpeername()
                transfer.on_connected(peer[0] if isinstance(peer, tuple) else "")
            except BaseException:
                sock.close()
                raise
        return sock

    def getresponse(self) -> Any:
        """Receive the headers of the answer."""
        response = super().getresponse()  # type: ignore[misc]  # a method of the class, as in close
        if type(response) is urllib3.HTTPResponse:  # a given adapter's may have its own
            response.__class__ = _Answer  # urllib3 lets nobody choose its class
        return response

    def exchange(
        self, method: str, head: bytes, body: bytes, transfer: Transfer, read_timeout: float
    ) -> QuickResponse:
        """Send a request, and receive the headers of the answer."""
        try:
            if len(body) <= _JOINED:
                self.send(memoryview(head + body))  # its repr shows no content
            else:
                self.send(head)
                self.send(body)
        except OSError as exc:
            # A server may refuse a request, and close, before it has read all of it.
            if exc.errno not in _CLOSED:
                raise
        # As much of a socket as an HTTPResponse needs.
        reader: Any = _Reader(self.sock, transfer, read_timeout)
        answer = QuickResponse(reader, method=method)
        answer.begin()
        return answer

    def send(self, data: Any) -> None:
        transfer = current.get()
        before, self._transfer = self._transfer, transfer
        if self.sock is not None and before is not None and before is not transfer:
            is_left = before.release(self.sock)
            if not is_left and transfer is not None:  # not sent, so it takes another connection
                raise ClosedPoolError(None, "the connection is about to be cut")  # type: ignore[arg-type]  # no pool
        if transfer is None:
            super().send(data)  # type: ignore[misc]  # a method of the class it is mixed into
            return
        if self.sock is None:
            # Connect as http.client does, but before the timeout of this send is set.
            self.connect()
        transfer.use(self.sock)
        if transfer.send_timeout < LONGEST:
            self._send_in_pieces(memoryview(data), transfer)
        else:
            self.sock.settimeout(transfer.limit())
            super().send(data)  # type: ignore[misc]  # a method of the class it is mixed into
            transfer.sent += memoryview(data).nbytes

    def _send_in_pieces(self, data: memoryview, transfer: Transfer) -> None:
        """Send until the deadline, as long as there is some progress within each timeout."""
        unsent = min(_UNSENT, max(1, int(transfer.send_timeout * _SLOWEST)))
        with contextlib.suppress(AttributeError, OSError):  # not on Windows or Unix sockets
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, unsent)
        is_tls = isinstance(self.sock, ssl.SSLSocket)
        size = min(_TLS_PIECE, unsent) if is_tls else _PIECE
        while data:
            self.sock.settimeout(transfer.limit(transfer.send_timeout))
            sent = self.sock.send(data[:size])
            transfer.sent += sent
            data = data[sent:]


class _Connecting(HTTPConnection):
    """Mixin for urllib3's own connections, which connect in slices where others wait so."""

    def _new_conn(self) -> socket.socket:
        """Connect, and raise the same errors as urllib3."""
        if not runtime.SLICED or self.source_address is not None:
            try:
                return super()._new_conn()
            except LocationParseError:
                error = no_name()
                raise NameResolutionError(self.host, self, error) from error
        host, timeout = self._dns_host.strip("[]"), self.timeout
        try:
            sock = connect(host, self.port, Deadline.after(timeout), lambda sock: None)
        except socket.gaierror as exc:
            raise NameResolutionError(self.host, self, exc) from exc
        except TimeoutError as exc:
            raise ConnectTimeoutError(self, f"no connection within {timeout} s") from exc
        except OSError as exc:
            raise NewConnectionError(self, f"no connection: {exc}") from exc
        for option in self.socket_options or ():
            sock.setsockopt(*option)
        sock.settimeout(timeout)
        return sock


class _HttpConnection(_InTime, _Connecting):
    pass


class _HttpsConnection(_InTime, _Connecting, HTTPSConnection):
    def connect(self) -> None:
        """Connect, and shake hands in slices where others wait so."""
        if runtime.SLICED:
            self.ssl_context = shaking_hands_in_slices(self.ssl_context or self._new_context())
        super().connect()

    def _new_context(self) -> ssl.SSLContext:
        """Make the context that urllib3 makes if it has none."""
        context = create_urllib3_context(
            resolve_ssl_version(self.ssl_version),
            resolve_cert_reqs(self.cert_reqs),
            ssl_minimum_version=self.ssl_minimum_version,
            ssl_maximum_version=self.ssl_maximum_version,
        )
        if not (self.ca_certs or self.ca_cert_dir or self.ca_cert_data):
            context.load_default_certs()
        return context


class _Unlocked:
    """A ``LifoQueue`` without a lock, which an interrupted call could leave locked.

    Signal handlers and finalizers can thus make requests at any moment.
    """

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._items: list[Any] = []

    def put(self, item: Any, block: bool = False) -> None:
        if len(self._items) >= self._maxsize:  # a few more in a race do no harm
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
    QueueCls: Any = _Unlocked


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection
    QueueCls: Any = _Unlocked


#: Our pools by scheme, for ``PoolManager.pool_classes_by_scheme``.
POOL_CLASSES: Final[dict[str, type[HTTPConnectionPool]]] = {
    "http": _HttpPool,
    "https": _HttpsPool,
}


@functools.cache
def _in_time(kind: type[HTTPConnection]) -> type[HTTPConnection]:
    ours = {HTTPConnection: _HttpConnection, HTTPSConnection: _HttpsConnection}.get(kind)
    return ours or type(kind.__name__, (_InTime, kind), {})


def keep_to_deadlines(pool: Any) -> None:
    """Make the pool of a given Session use connections that keep to deadlines.

    Other code's requests use them as before, except for ``pool_block``: urllib3 would wait for a
    free connection without any limit, so a few more connections are made instead.
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


# -- a Session on these pools -----------------------------------------------------------

# These skip the work of requests and urllib3 that is not needed here: a cookie jar for each answer,
# hooks, redirects, a history, retries, another lookup of URL and pool.  A short request takes
# 0.06 ms of the thread, and 0.23 ms with a Session of requests.


def _is_watched() -> bool:
    """Return whether a tool wraps or prints requests below us, and so has to see them."""
    return (
        hasattr(HTTPConnectionPool.urlopen, "__wrapped__")
        or HTTPConnection.debuglevel > 0
        or _is_patched(http.client.HTTPConnection.putrequest)
        or _is_patched(http.client.HTTPConnection.getresponse)
    )


def _is_patched(method: Any) -> bool:
    """Return whether a method of ``http.client`` was replaced by code from elsewhere."""
    code = getattr(method, "__code__", None)
    return code is None or code.co_filename != http.client.parse_headers.__code__.co_filename


def _head_of(request: requests.PreparedRequest, pool: Any) -> bytes | None:
    """Return the head of a request, or None if urllib3 has to write it."""
    url, host = request.url or "", pool.host.rstrip(".")
    if "#" in url or "%" in host or not host.isascii():
        return None
    host = f"[{host}]" if ":" in host else host
    return request_head(
        request.method or "",
        "/" + url.partition("://")[2].partition("/")[2],
        host if pool.port == pool.ConnectionCls.default_port else f"{host}:{pool.port}",
        request.headers,
        has_body=request.body is not None,
    )


def _exchange(
    pool: Any,
    method: str,
    head: bytes,
    body: bytes,
    transfer: Transfer,
    timeout: tuple[float, float],
) -> _Answer | _PlainAnswer:
    """Send a request over a connection of a pool, to which the answer returns it."""
    connection = None
    try:
        connection = pool._get_conn()
        connection.timeout, read_timeout = timeout
        pool._validate_conn(connection)
        raw = connection.exchange(method, head, body, transfer, read_timeout)
        if raw.is_plain:
            return _PlainAnswer(raw, pool, connection)
        return _Answer(
            raw,
            raw.msg,
            raw.status,
            preload_content=False,
            original_response=raw,
            pool=pool,
            connection=connection,
            request_method=method,
        )
    except BaseException:
        if connection is not None:
            connection.close()
        raise


class _Adapter(HTTPAdapter):
    """An adapter with one pool, for one server, of connections that keep to a deadline."""

    _pool: Any = None

    def init_poolmanager(self, *args: Any, **kw: Any) -> None:
        super().init_poolmanager(*args, **kw)
        self.poolmanager.pool_classes_by_scheme = POOL_CLASSES

    def proxy_manager_for(self, proxy: str, **kw: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kw)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = POOL_CLASSES
        return manager

    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, *args: Any, **kw: Any
    ) -> Any:
        """Return the connection pool; look it up once, as origin, TLS and proxy never change."""
        pool = self._pool  # read once, as close() in another thread may reset it
        # Do not keep a pool that was closed during the lookup and takes no requests.
        if pool is None or pool.pool is None:
            pool = super().get_connection_with_tls_context(request, *args, **kw)
            keep_to_deadlines(pool)  # pools for SOCKS are not ours
            self._pool = pool
        return pool

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        """Send a request without urllib3's detours, unless it is an unusual one.

        A request through a proxy is one, and so is one with a file to send.
        """
        body, transfer = request.body or b"", current.get()
        if transfer and isinstance(body, bytes) and not (proxies or _is_watched()):
            pool = self.get_connection_with_tls_context(request, verify, cert=cert)
            head = _head_of(request, pool)
            if head is not None:
                if pool.scheme != "http":
                    self.cert_verify(pool, request.url or "", verify, cert)
                answer = _exchange(pool, request.method or "", head, body, transfer, timeout)
                return _LightResponse(request, answer)
        return super().send(request, stream, timeout, verify, cert, proxies)

    def close(self) -> None:
        """Close the idle connections now, not only when the pool is garbage-collected.

        Those in use are closed when their requests end.
        """
        pool, self._pool = self._pool, None
        super().close()  # before the pool, so that no lookup finds a closed one
        if pool is not None:
            pool.close()


class _LightResponse(requests.Response):
    """A Response with only the parts that comfy_client uses, without a cookie jar of its own."""

    def __init__(self, request: requests.PreparedRequest, raw: Any) -> None:
        self.status_code = raw.status
        self.headers = raw.headers
        self.raw = raw
        self.url = request.url or ""
        self.request = request

    def close(self) -> None:
        """Release the body, whether or not it was read."""
        self.raw.close()
        self.raw.release_conn()


class _Cookies(RequestsCookieJar):
    """A cookie jar of limited size, which stores no further cookies when it is full."""

    _cookies: Any  # an attribute of the base class

    def __bool__(self) -> bool:
        """Return whether there may be cookies; counting them would be slow for each request."""
        return bool(self._cookies)

    def set_cookie(self, cookie: Cookie, *args: Any, **kw: Any) -> None:
        """Store a cookie unless the jar is full."""
        kept: Iterable[Any] = list(self)  # cookies, unlike the stubs say
        others = (other for other in kept if _key(other) != _key(cookie))
        if sum(map(_size, (cookie, *others))) <= MAX_COOKIES:
            super().set_cookie(cookie, *args, **kw)


def _key(cookie: Cookie) -> tuple[str, str, str]:
    return cookie.domain, cookie.path, cookie.name


def _size(cookie: Cookie) -> int:
    return len(cookie.domain) + len(cookie.path) + len(cookie.name) + len(cookie.value or "")


class _Session(requests.Session):
    """A Session that sends without redirects, hooks and history."""

    def get_adapter(self, url: str) -> Any:
        """Return the adapter, which is the same for all URLs."""
        return next(iter(self.adapters.values()))

    def send(self, request: requests.PreparedRequest, **kw: Any) -> requests.Response:
        kw.pop("allow_redirects")
        response: requests.Response = self.get_adapter(request.url or "").send(request, **kw)
        if "set-cookie" in response.headers:
            # The stubs have no types for it.
            extract_cookies_to_jar(self.cookies, request, response.raw)
        return response


def new_session() -> requests.Session:
    """Make a Session for a single server, with one connection pool."""
    session = _Session()
    session.cookies = _Cookies()
    session.headers["User-Agent"] = f"comfy-client/{__version__}"
    session.headers["Accept-Encoding"] = "gzip, deflate"
    del session.headers["Connection"]  # the default of HTTP/1.1
    adapter = _Adapter(pool_connections=4, pool_maxsize=POOL_SIZE)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def check_adapter(session: requests.Session, url: str) -> None:
    """Raise ``ValueError`` if a Session would repeat a POST that may have arrived."""
    with contextlib.suppress(requests.exceptions.InvalidSchema):
        retries = getattr(session.get_adapter(url), "max_retries", None)
        if isinstance(retries, Retry) and _repeats_posts(retries):
            raise ValueError(
                "session: its adapter repeats a POST that got no answer, so a "
                "prompt might run twice: leave POST out of allowed_methods of its Retry"
            )


def _repeats_posts(retries: Retry) -> bool:
    """Return whether a retry policy would repeat a POST that may have arrived."""
    statuses = {413, 429, 503, *(retries.status_forcelist or ())}
    outcomes = [
        {"error": urllib3.exceptions.ProtocolError()},
        *(
            {"response": urllib3.HTTPResponse(status=status)}
            for status in statuses
            if retries.is_retry("POST", status, has_retry_after=True)
        ),
    ]
    for outcome in outcomes:
        try:
            retries.increment("POST", "/", **outcome)  # type: ignore[arg-type]  # mixed values
        except urllib3.exceptions.HTTPError:
            continue
        return True
    return False
