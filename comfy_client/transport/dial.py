"""Dialling of the socket (address, proxy, TLS, handshake), and the open socket.

Only this module uses websocket-client, for the handshake and for sending; :mod:`.frames` reads
incoming bytes.
"""

from __future__ import annotations

import contextlib
import http
import http.client
import socket
import ssl
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

import attrs
import websocket

from ..errors import (
    AuthenticationError,
    ComfyError,
    ServerUnreachable,
    TransportError,
    UnexpectedResponse,
)
from .connections import Traffic, answer_until
from .deadline import Deadline
from .failures import explain, is_of_the_system, reason_of, strip
from .frames import CLOSE, PING, FrameError, Frames
from .sockets import Hold, connect, sliced
from .url import split_proxy

if TYPE_CHECKING:
    from .http import Http

#: The largest message in bytes, unless the caller allows more; a larger one ends the connection.
MAX_FRAME: Final = 128 << 20
#: The largest text in bytes, as decoding multiplies its size; if the caller allows larger
#: messages, a text may be as large as any message.
MAX_TEXT: Final = 32 << 20
#: Largest answer to a handshake, in bytes.
MAX_HANDSHAKE: Final = 1 << 20

#: A host name for which websocket-client has no cookies.  It would share cookies between all
#: clients of the process; ours come from a Session.
_NOBODY: Final = f"{uuid.uuid4()}.invalid"


class NoWebSocket(ComfyError):
    """HTTP works, but no WebSocket can be opened."""


class Lost(TransportError):
    """The open socket was lost."""


class Violation(Lost):
    """The server violated the protocol or exceeded a limit, so the client ended the socket."""


@attrs.frozen(eq=False, repr=False)
class DialPlan:
    """The address and options for one dial; made for each dial, since credentials may change."""

    url: str
    headers: Mapping[str, str]
    ssl_context: ssl.SSLContext | None = None
    proxy: str | None = None
    traffic: Traffic = attrs.field(factory=Traffic)

    @property
    def shown(self) -> str:
        """The URL without secrets."""
        return self.url.partition("?")[0]


def plan_for(http: Http, client_id: str) -> DialPlan:
    """Return the plan to dial a client's event socket; may raise :class:`AuthenticationError`."""
    try:
        url, headers = http.handshake("/ws", {"clientId": client_id})
    except (TypeError, ValueError, Warning) as exc:  # from a callable, or with python -W error
        raise AuthenticationError(f"the credentials cannot be sent: {exc}") from None
    return DialPlan(
        url=url,
        headers=headers,
        ssl_context=http.endpoint.ssl_context if http.address.scheme == "https" else None,
        proxy=http.endpoint.proxy,
        traffic=http.traffic,
    )


class OpenSocket:
    """An open socket, made by :func:`dial`.

    One thread sends.  All methods but :meth:`close` raise :class:`Lost` once the socket is lost.
    """

    def __init__(
        self, ws: websocket.WebSocket, sock: socket.socket, frames: Frames, traffic: Traffic
    ) -> None:
        self._traffic = traffic
        self._ws = ws
        self._sock = sock
        self._frames = frames
        self._timeout: float | None = None

    @property
    def received_at(self) -> float:
        """The time of the last received byte, by ``time.monotonic``."""
        return self._frames.received_at

    @property
    def is_within(self) -> bool:
        """Whether a message has arrived in part."""
        return self._frames.is_within

    def send(self, text: str) -> None:
        """Send a text message."""
        self._do(lambda: self._ws.send(text))

    def ping(self) -> None:
        """Send a ping."""
        self._do(self._ws.ping)

    def pong(self, data: bytes | memoryview) -> None:
        """Answer a ping."""
        self._do(lambda: self._ws.pong(bytes(data)))

    def receive(self) -> tuple[int, bytes | memoryview] | None:
        """Return the opcode and payload of the next complete message, or None; do not wait."""
        try:
            return self._frames.next()
        except FrameError as exc:
            reason = f"the socket ended: {exc}"
        raise Violation(reason)

    def wait(self, seconds: float) -> bool:
        """Wait up to ``seconds`` for more bytes; return False if none came."""
        try:
            if seconds != self._timeout:  # a system call, which costs this thread its turn
                self._sock.settimeout(seconds)
                self._timeout = seconds
            self._traffic.add(received=self._frames.read())
        except TimeoutError:
            return False
        except OSError as exc:
            lost = _lost(exc)
        else:
            return True
        raise lost

    def read(self, timeout: float) -> tuple[int, bytes | memoryview] | None:
        """Return the next message, or None after ``timeout``; answer a ping, and return it, too."""
        deadline = Deadline.after(timeout)
        while (message := self.receive()) is None:
            if deadline.expired:
                return None
            self.wait(max(0.001, deadline.left()))
        if message[0] == PING:
            self.pong(message[1])
        if message[0] == CLOSE:
            raise Lost("the server closed the socket")
        return message

    def _do(self, action: Callable[[], object]) -> None:
        try:
            action()
        except (websocket.WebSocketException, OSError) as exc:
            lost = _lost(exc)
        else:
            return
        raise lost

    def close(self, *, politely: bool = True) -> None:
        """Close the socket; if ``politely``, first wait briefly for the server to close it, too."""
        if politely:
            with contextlib.suppress(OSError, websocket.WebSocketException):
                deadline = Deadline.after(0.5)
                self._sock.settimeout(0.5)
                self._ws.send_close()
                while not deadline.expired and (rest := self._sock.recv(1 << 16)):
                    self._traffic.add(received=len(rest))
        with contextlib.suppress(OSError, websocket.WebSocketException):
            self._ws.shutdown()


def _lost(exc: Exception) -> Lost:
    """Return the error for a lost socket, without a library's text, which may quote sent data."""
    is_of_system = is_of_the_system(exc)
    lost = Lost(f"the socket ended: {reason_of(exc) if is_of_system else type(exc).__name__}")
    lost.__cause__ = strip(exc) if is_of_system else None
    return lost


def dial(plan: DialPlan, timeout: float, hold: Hold, *, max_frame: int | None = None) -> OpenSocket:
    """Open a socket within ``timeout`` seconds in total, even if the answer comes byte by byte.

    ``max_frame`` is the largest message, and text, in bytes; None means :data:`MAX_FRAME` and
    :data:`MAX_TEXT`.
    """
    deadline = Deadline.after(timeout)
    ws = websocket.WebSocket(skip_utf8_validation=True)
    held: list[socket.socket] = []

    def hold_it(sock: socket.socket) -> None:
        held.append(sock)
        hold(sock)

    error: BaseException
    try:
        sock = connect_socket(plan, timeout, hold_it)
        stream = _Handshake(sock, deadline, plan.traffic)
        _shake_hands(ws, stream, plan, timeout)
        sock.settimeout(timeout)  # a fresh one for later sends, not the rest of the handshake's
        most, max_text = (MAX_FRAME, MAX_TEXT) if max_frame is None else (max_frame, max_frame)
        frames = Frames(sock, most, stream.rest, max_text=max_text)
        return OpenSocket(ws, sock, frames, plan.traffic)
    except ComfyError as exc:
        error, cause = exc, exc.__cause__
    except Exception as exc:  # noqa: BLE001  # raised below
        error, cause = _explained(exc, ws, plan), exc
    for sock in held:
        sock.close()
    # Raise here, without frames: libraries' errors repeat headers and bodies, and their frames
    # hold passwords of proxies.
    cause = strip(cause) if cause is not None and is_of_the_system(cause) else None
    raise strip(error) from cause


def _shake_hands(
    ws: websocket.WebSocket, stream: _Handshake, plan: DialPlan, timeout: float
) -> None:
    headers = dict(plan.headers)
    url = urlsplit(plan.url)
    host = next((headers.pop(key) for key in list(headers) if key.lower() == "host"), None)
    ws.connect(
        url._replace(netloc=_NOBODY).geturl(),
        socket=stream,
        header=[f"{name}: {value}" for name, value in headers.items()],
        host=host or url.netloc,
        suppress_origin=True,
        redirect_limit=0,
        timeout=timeout,
    )
    if ws.status != http.HTTPStatus.SWITCHING_PROTOCOLS:  # 1.8 lets redirects pass
        raise websocket.WebSocketException("redirected")


class _Handshake:
    """A socket from which websocket-client can read the handshake byte by byte at little cost.

    Each ``recv`` of a socket releases the interpreter's lock and has to win it back.  So the bytes
    come from larger reads, all of which end by the deadline.  Cookies are left out, since
    websocket-client would keep them for the whole process.
    """

    def __init__(self, sock: socket.socket, deadline: Deadline, traffic: Traffic) -> None:
        self._sock = sock
        self._traffic = traffic
        self._deadline = deadline
        self._allowance = MAX_HANDSHAKE
        self._is_head = True
        self._line = b""  # the rest of a line of the head that was not handed out yet
        self.rest = b""  #: The bytes that were read and not handed out yet.

    def send(self, data: bytes) -> int:
        """Send bytes, and count them; return how many were sent."""
        sent = self._sock.send(data)
        self._traffic.add(sent=sent)
        return sent

    def recv(self, size: int) -> bytes:
        """Receive and return at most ``size`` bytes; ``b""`` at the end."""
        if not size:  # websocket-client 1.8 does so for a body without a length
            return b""
        if not self._line and self._is_head:
            self._line = self._next_line()
        if self._line:
            piece, self._line = self._line[:size], self._line[size:]
        else:
            if not self.rest:
                self._read()
            piece, self.rest = self.rest[:size], self.rest[size:]
        return piece

    def _next_line(self) -> bytes:
        """Read the next line of the head, skipping cookies; ``b""`` if no line comes."""
        while True:
            while b"\n" not in self.rest:
                if not self._read():
                    self._is_head = False
                    return b""
            line, end, self.rest = self.rest.partition(b"\n")
            if not line.lower().startswith(b"set-cookie"):
                self._is_head = bool(line.strip())
                return line + end

    def _read(self) -> bool:
        self._sock.settimeout(self._deadline.require())
        more = self._sock.recv(4096)
        self.rest += more
        self._traffic.add(received=len(more))
        self._allowance -= len(more)
        if self._allowance < 0:
            raise websocket.WebSocketPayloadException("the handshake is longer than allowed")
        return bool(more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def connect_socket(plan: DialPlan, timeout: float, hold: Hold) -> socket.socket:
    """Connect a socket, through a proxy and with TLS if the plan says so.

    ``timeout`` is in seconds, for everything.  ``hold`` is called with each socket before it
    waits for anything, so that another thread can end it.
    """
    deadline = Deadline.after(timeout)
    parts = urlsplit(plan.url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "wss" else 80)
    if plan.proxy:
        sock = _tunnel(plan.proxy, host, port, deadline, hold)
    else:
        try:
            sock = connect(host, port, deadline, hold)
        except TimeoutError as exc:
            raise ServerUnreachable(f"{plan.shown}: no connection within {timeout:g} s") from exc
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.settimeout(deadline.require())  # also limits the whole TLS handshake
    if parts.scheme != "wss" or plan.ssl_context is None:
        return sock
    secure = plan.ssl_context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    sliced(secure)
    hold(secure)
    secure.do_handshake()
    return secure


def speaks_tls(http: Http, timeout: float, hold: Hold) -> bool:
    """Return whether a server that is addressed without TLS accepts a TLS handshake.

    ``timeout`` and ``hold`` are those of :func:`connect_socket`.
    """
    if http.address.scheme == "https":
        return False
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    plan = DialPlan(f"wss://{http.address.netloc}/", {}, context, http.endpoint.proxy)
    with contextlib.ExitStack() as opened:

        def held(sock: socket.socket) -> None:
            opened.callback(sock.close)
            hold(sock)

        try:
            connect_socket(plan, timeout, held)
        except ssl.SSLError as exc:
            return "ALERT" in str(exc)  # for example, it requires a client certificate
        except (OSError, ComfyError):
            return False
        return True


def _tunnel(proxy: str, host: str, port: int, deadline: Deadline, hold: Hold) -> socket.socket:
    """Connect to a host through an HTTP proxy.

    ``http.client`` would reveal its socket only after the proxy has answered.
    """
    try:
        parts = split_proxy(proxy)
        proxy_port = parts.port or 80
    except ValueError:
        raise ServerUnreachable(
            "the proxy for the event socket is not a URL: check proxies= or the environment",
            retryable=False,
        ) from None
    if parts.scheme != "http":
        raise ServerUnreachable(
            f"the event socket supports http proxies only, not {parts.scheme!r}; "
            "use transport='poll'",
            retryable=False,
        )
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if parts.username is not None:
        from ..credentials import BasicCredentials

        pair = BasicCredentials(unquote(parts.username), unquote(parts.password or ""))
        lines.append(f"Proxy-Authorization: {pair.headers()['Authorization']}")
    what = f"the proxy {parts.hostname} on the way"
    try:
        sock = connect(parts.hostname or "", proxy_port, deadline, hold)
        sock.settimeout(deadline.require())
        sock.sendall("\r\n".join([*lines, "", ""]).encode())
        with answer_until(deadline, sock, method="CONNECT") as answer:
            answer.begin()
    except (OSError, http.client.HTTPException) as exc:
        # Do not quote an invalid answer, which may repeat what was sent.
        said = reason_of(exc) if is_of_the_system(exc) else "its answer is not HTTP"
        raise ServerUnreachable(f"{what}: {said}") from exc
    if answer.status != http.HTTPStatus.OK:  # many proxies refuse tunnels to unusual ports
        raise NoWebSocket(f"{what}: it answered CONNECT with {answer.status}")
    return sock


def _explained(exc: Exception, ws: websocket.WebSocket, plan: DialPlan) -> Exception:
    """Return the error for a failed dial, without websocket-client's text with headers."""
    what = f"the socket {plan.shown}"
    status = getattr(exc, "status_code", None) or ws.status
    if status in (401, 403):
        advice = (
            "pass credentials=..."
            if status == 401
            else "a login layer, or a proxy that rewrites Host"
        )
        return AuthenticationError(f"{what}: {status}; {advice}", method="GET", status=status)
    if isinstance(status, int) and status >= 500:
        return TransportError(f"{what}: the server or a proxy before it answered {status}")
    if isinstance(exc, websocket.WebSocketPayloadException):
        return UnexpectedResponse(f"{what}: the answer to the handshake is too large")
    if isinstance(exc, websocket.WebSocketTimeoutException):
        return TransportError(f"{what}: the handshake was not answered in time")
    if isinstance(exc, websocket.WebSocketConnectionClosedException):
        return TransportError(
            f"{what}: the connection was closed before the handshake was answered"
        )
    if isinstance(exc, websocket.WebSocketException):
        seen = f"HTTP {status}" if status else "no valid upgrade"
        return NoWebSocket(f"{what}: {seen} instead of a WebSocket")
    if isinstance(exc, OSError | http.client.HTTPException):
        return explain(exc, what, plan.shown)
    if isinstance(exc, ValueError | LookupError):  # websocket-client's parser, before 1.9
        return NoWebSocket(f"{what}: no valid upgrade instead of a WebSocket")
    return exc
