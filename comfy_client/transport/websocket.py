"""The event thread: one socket at a time, for ever; the only module that knows websocket-client.

The thread reads frames, decodes them and hands events on, nothing else.  The low-level
``WebSocket`` does the handshake and what is sent; the loop that reads is ours, as is then every
limit that matters:

* Silence is not death: the server sends nothing while it is idle or loads a model.  After a
  quiet period a ping is sent; only a long time without any frame at all ends the socket.
* Pauses between dials grow, with full jitter, up to a cap, and start anew with a connection that
  lasts: one that outlived the longest pause that could have come before it.  A server that
  accepts, or greets, and drops would be hammered.
* A client id that the server does not let in again (it closes the next socket of it with 1008) is
  given up for a fresh one.
* The old socket is closed before a new one is dialled: the server forgets the route of a
  client id as soon as *any* socket of that id ends.

It holds its handler weakly, so a client that its user forgot is collected, and the thread ends.
"""

from __future__ import annotations

import contextlib
import enum
import http
import http.client
import logging
import random
import socket
import ssl
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import unquote, urlsplit

import attrs
import websocket

from ..credentials import BasicCredentials
from ..errors import (
    AuthenticationError,
    ComfyError,
    ServerUnreachable,
    TransportError,
    UnexpectedResponse,
)
from ..events import ConnectionEvent, ErrorEvent, Event
from ..threads import was_started
from ..timing import Timing
from ..tracebacks import short_interrupts
from .deadline import Deadline
from .decode import HELLO, MOST_DECODED, SKIPPED, decode_binary, decode_text
from .failures import bare, causes, explain, is_of_the_system, told
from .frames import BINARY, CLOSE, PING, TEXT, FrameError, Frames
from .pool import answer_until, shut
from .url import Address

if TYPE_CHECKING:
    from ..recording.recorder import Recorder
    from .http import Http

log: logging.Logger = logging.getLogger("comfy_client")

#: Largest message that is read, in bytes, unless more is asked for; a larger one ends the
#: connection.
MAX_FRAME: Final = 128 << 20
#: The same of a text, which takes many times its size once it is decoded; where more is asked
#: for, a text may be as large as any message.
MAX_TEXT: Final = 32 << 20
#: Largest answer to a handshake, in bytes.
MAX_HANDSHAKE: Final = 1 << 20
#: The code with which a server closes a socket that it does not let in.
POLICY_VIOLATION: Final = 1008


class State(enum.Enum):
    """The state of the event thread, which connects the socket and reads it.

    Attributes:
        IDLE: It has not started yet.
        CONNECTING: It is trying to connect.
        CONNECTED: The socket is connected; events arrive.
        WAITING: It is pausing before the next attempt.
        POLLING: There is no socket: it asks over HTTP, and tries to connect now and then.
        CLOSED: It has stopped, and will not start again.
    """

    IDLE = "idle"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    WAITING = "waiting"
    POLLING = "polling"
    CLOSED = "closed"


_NEXT: Mapping[State, frozenset[State]] = {
    State.IDLE: frozenset({State.CONNECTING, State.POLLING, State.CLOSED}),
    State.CONNECTING: frozenset({State.CONNECTED, State.WAITING, State.POLLING, State.CLOSED}),
    State.CONNECTED: frozenset({State.WAITING, State.CLOSED}),
    State.WAITING: frozenset({State.CONNECTING, State.POLLING, State.CLOSED}),
    State.POLLING: frozenset({State.CONNECTING, State.WAITING, State.CLOSED}),
    State.CLOSED: frozenset(),
}


@attrs.frozen
class Plan:
    """All that a dial needs; made anew for each, since credentials may change."""

    url: str = attrs.field(repr=False)
    headers: Mapping[str, str] = attrs.field(repr=False)
    ssl_context: ssl.SSLContext | None = None
    proxy: str | None = attrs.field(default=None, repr=False)

    @property
    def shown(self) -> str:
        """The URL without what may be secret."""
        return self.url.partition("?")[0]


def plan_for(http: Http, client_id: str) -> Plan:
    """How to dial the event socket of that client; may raise :class:`AuthenticationError`."""
    try:
        url, headers = http.handshake("/ws", {"clientId": client_id})
    except (TypeError, ValueError, Warning) as exc:  # a callable's, or python -W error
        raise AuthenticationError(f"the credentials cannot be sent: {exc}") from None
    return Plan(
        url=url,
        headers=headers,
        ssl_context=http.endpoint.ssl_context if http.address.scheme == "https" else None,
        proxy=http.endpoint.proxy,
    )


class Handler(Protocol):
    """What the event thread calls; all of it must be quick, and only a poll may raise."""

    def handle(self, event: Event) -> None:
        """One event of the server's."""

    def skipped(self) -> None:
        """A message could not be read; it may have been about anything."""

    def connection_changed(self, event: Event) -> None:
        """The socket came or went, or there is trouble with it."""

    def client_id_changed(self) -> None:
        """The server refuses the client id until now: no more events come for it."""

    def poll_queue(self) -> None:
        """Ask for the state of the queue over HTTP; raises when that fails."""


class _NoWebSocket(ComfyError):
    """HTTP answered, but there is no socket to be had there."""


class _Lost(TransportError):
    """The socket that we had is gone."""


class _Refused(_Lost):
    """The server ended the socket that we had for who we are: by the code 1008."""


class _Quiet(_Lost):
    """The socket that we had is there, but nobody at its other end."""


class Connection:
    """Keeps one event socket open, from :meth:`start` to :meth:`stop`."""

    def __init__(
        self,
        handler: Handler,
        plan: Callable[[str], Plan],
        client_id: str,
        *,
        poll_only: bool = False,
        timing: Timing | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
        recorder: Recorder | None = None,
        max_frame: int | None = None,
    ) -> None:
        self._handler = weakref.ref(handler)
        self._plan = plan
        self.client_id = client_id  #: In whose name the next dial is made.
        self._max_frame = max_frame
        self._poll_only = poll_only
        self.timing: Timing = timing or Timing()
        self._uniform = uniform
        self._recorder = recorder
        # Guards all that follows.  Re-entrant, as no Event is: the finalizer of a forgotten
        # client calls stop() in whichever thread, at whichever moment.  Taken itself: a Ctrl-C
        # in the Condition's own ``with`` may leave it held for ever.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._state = State.IDLE
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._woken = False  # ends a pause early
        self._raw: socket.socket | None = None  # the socket that stop() has to shut
        self._redial: str | None = None
        self._attempts = 0  # dials since the last first message
        self._failures = 0  # dials without one, and short connections, since one that lasted
        self._greeted_at = 0.0
        self._is_known = False  # whether this client id was greeted before
        self._fallback_told = False
        self.error: Exception | None = None  #: Why there is no socket; ``None`` while there is.
        self.generation: int = 0  #: How many connections have been greeted.
        #: Called in the thread with the client id after each reconnect; must be quick.
        self.on_reconnect: Callable[[str], object] | None = None
        self._frames: Frames | None = None
        self._unforeseen: set[type[Exception]] = set()  # what was logged as such

    # -- from any thread -----------------------------------------------------------------

    @property
    def state(self) -> State:
        """What the thread is doing."""
        return self._state

    def start(self) -> None:
        """Start the thread, unless it runs or has run."""
        with self._lock:
            if not was_started(self._thread) and self._state is State.IDLE:
                # Daemon: a script that ends without close() must end.
                self._thread = threading.Thread(target=self._run, name="comfy-events", daemon=True)
                self._thread.start()

    def wait_settled(self, timeout: float, *, first_verdict: bool) -> State:
        """Wait until events or polls flow; ``first_verdict``: or a first dial has failed."""

        def settled() -> bool:
            done = self._state in (State.CONNECTED, State.POLLING, State.CLOSED)
            return (
                done
                or self._stopped
                or (self.error is not None and (first_verdict or self.is_hopeless))
            )

        with self._lock, short_interrupts:
            self._changed.wait_for(settled, min(timeout, threading.TIMEOUT_MAX))
            return self._state

    @property
    def is_hopeless(self) -> bool:
        """Whether the last failure is one that waiting does not mend."""
        error = self.error
        if isinstance(error, ServerUnreachable):
            return not error.retryable
        return isinstance(error, AuthenticationError)

    @property
    def quiet_for(self) -> float:
        """Seconds since the last byte came over the socket; infinite when there is none."""
        frames = self._frames
        return float("inf") if frames is None else time.monotonic() - frames.heard

    @property
    def is_receiving(self) -> bool:
        """Whether a message is on its way, as for long on a slow line."""
        frames = self._frames
        return frames is not None and frames.is_within

    def redial(self, reason: str) -> None:
        """Give up the present socket, which is open but does not deliver."""
        with self._lock:
            if self._state is State.CONNECTED:
                self._redial = reason
                self._shut()

    def nudge(self) -> None:
        """Dial now instead of at the end of the pause: the server has just answered."""
        with self._lock:
            if self._state is State.WAITING and not self.is_hopeless:
                self._woken = True
                self._changed.notify_all()

    def retry(self) -> None:
        """Start, or dial now and forget what was wrong: someone waits for a fresh verdict."""
        self.start()
        with self._lock:
            if self._state is State.WAITING:
                self.error = None
                self._woken = True
                self._changed.notify_all()

    def stop(self) -> None:
        """End the thread; at once, from any thread, any number of times."""
        with self._lock:
            self._stopped = True
            self._shut()
            if not was_started(self._thread):
                self._state = State.CLOSED
            self._changed.notify_all()

    def join(self, timeout: float) -> None:
        """Wait a little for the thread's end, unless called by it."""
        if self._thread is not None:
            with contextlib.suppress(RuntimeError):  # this very thread, or one never started
                self._thread.join(timeout)

    def abandon(self) -> None:
        """In the child of a fork: let go of the parent's socket without ending it."""
        self._stopped = True
        if self._raw is not None:
            # close() only gives up this process's descriptor; shutdown() would end the
            # parent's connection too.
            with contextlib.suppress(OSError):
                self._raw.close()

    def _shut(self) -> None:
        if self._raw is not None:
            shut(self._raw)

    # -- the thread ----------------------------------------------------------------------

    def _run(self) -> None:
        with self._lock:
            if self._thread is not threading.current_thread():
                return  # a Ctrl-C came while it was started, and another has taken its place
        try:
            while not self._stopped:
                try:
                    self._once()
                except ReferenceError:
                    return
                except Exception as exc:  # noqa: BLE001  # the pause itself failed; go on
                    with contextlib.suppress(Exception):  # as there may be no memory for a line
                        self._log(exc)
                    with contextlib.suppress(Exception):
                        self._failures += 1
                        self._enter(State.WAITING, _failed(exc))
                        self._sleep(self._longest_pause)
        finally:
            self._enter(State.CLOSED)

    def _once(self) -> None:
        """One dial, all that comes of it, and the pause behind it; or polls without end."""
        if self._poll_only:
            self._enter(State.POLLING)
            self._polls()
            self._poll_for(float("inf"))
            return
        self._enter(State.CONNECTING)
        try:
            self._listen()
        except ReferenceError:
            raise
        except Exception as exc:  # noqa: BLE001  # no thread of ours ends by what it meets
            if self._stopped:
                return
            is_foreseen = isinstance(exc, ComfyError | OSError)
            if not is_foreseen:
                self._log(exc)
            self._pause_after(_without_frames(exc if is_foreseen else _failed(exc)))

    def _log(self, exc: Exception) -> None:
        """Something of which nobody thought: once of each kind, whatever the server sends."""
        if type(exc) not in self._unforeseen:
            self._unforeseen.add(type(exc))
            log.error("the event thread failed by a defect of comfy_client", exc_info=exc)

    def _called(self) -> Handler:
        handler = self._handler()
        if handler is None:
            raise ReferenceError("the client was forgotten")
        return handler

    def _enter(self, state: State, error: Exception | None = None) -> None:
        """The one place that changes the state."""
        with self._lock:
            if state is not self._state and state not in _NEXT[self._state]:
                raise RuntimeError(f"no way from {self._state} to {state}")
            self._state = state
            if state is State.CONNECTED:
                self.error = None
                self.generation += 1
            elif error is not None:
                self.error = error
            self._changed.notify_all()
        log.debug("event thread: %s%s", state.value, f" ({error})" if error else "")

    def _tell(self, name: str, **facts: Any) -> None:
        self._called().connection_changed(ConnectionEvent(name=name, **facts))

    def _listen(self) -> None:
        """Dial, and hand on messages until the socket ends, which is always an exception."""
        self._called()
        plan = self._plan(self.client_id)
        recorder = self._recorder
        if recorder is not None:
            recorder.secrets.add_headers(plan.headers, are_credentials=True)
        ws, sock, begun = self._dial(plan)
        try:
            if recorder is not None:
                recorder.opened(plan.url)
                recorder.sent(HELLO)
            ws.send(HELLO)
            self._read(ws, sock, begun)
        except (websocket.WebSocketException, FrameError, OSError, _Lost) as exc:
            if recorder is not None:
                recorder.closed(self._ended_by(exc))
            if isinstance(exc, _Lost):
                raise
            reason = self._redial or _why_ended(exc)
            cause = bare(exc) if is_of_the_system(exc) else None
        except Exception as exc:
            if recorder is not None:
                recorder.closed(self._ended_by(exc))
            raise
        finally:
            self._hang_up(ws, sock)
        raise _Lost(reason) from cause

    def _ended_by(self, exc: Exception) -> str:
        theirs = isinstance(exc, websocket.WebSocketException | OSError | _Lost)
        ours = self._stopped or self._redial or isinstance(exc, _Quiet) or not theirs
        return "client" if ours else "server"

    def _dial(self, plan: Plan) -> tuple[websocket.WebSocket, socket.socket, bytes]:
        """As :func:`dial`; after a failure nothing is left open."""
        try:
            return dial(plan, self.timing.dial, self._hold)
        except Exception as exc:
            if self._recorder is not None and not self._stopped:
                self._recorder.refused(exc)
            with self._lock:
                if self._raw is not None:
                    self._raw.close()
                    self._raw = None
            raise

    def _hold(self, raw: socket.socket) -> None:
        """From now on stop() ends whatever this socket is waiting for."""
        with self._lock:
            self._raw = raw
            if self._stopped:
                raw.close()
                raise _Lost("stopped while dialling")

    def _read(self, ws: websocket.WebSocket, sock: socket.socket, begun: bytes) -> None:
        most, most_text, most_decoded = MAX_FRAME, MAX_TEXT, MOST_DECODED
        if self._max_frame is not None:  # whoever asks for more has the memory
            most = most_text = most_decoded = self._max_frame
        frames = self._frames = Frames(sock, most, begun, most_text=most_text)
        recorder = self._recorder
        dialled = time.monotonic()
        greeted = False
        set_to = None
        while True:
            message = frames.next()
            if message is None:
                patience = self.timing.dead if greeted else self.timing.dial
                left = (frames.heard if greeted else dialled) + patience - time.monotonic()
                if left <= 0:
                    what = "nothing came" if greeted else "no greeting"
                    raise _Quiet(f"{what} for {patience:g} s")
                wait = min(self.timing.ping, left)
                if wait != set_to:  # a system call, which costs this thread its turn
                    sock.settimeout(wait)
                    set_to = wait
                try:
                    frames.read()
                except TimeoutError:
                    if time.monotonic() - frames.heard >= self.timing.ping:
                        ws.ping()
                continue
            opcode, data = message
            if opcode == CLOSE:  # answered by _hang_up()
                code = int.from_bytes(data[:2], "big") if len(data) >= 2 else 1005
                if recorder is not None:
                    recorder.ending(code)
                kind = _Refused if code == POLICY_VIOLATION else _Lost
                raise kind(f"the server closed the socket (code {code})")
            if opcode == PING:
                ws.pong(bytes(data))
            if opcode in (TEXT, BINARY):
                if not greeted:
                    greeted = True
                    self._greeted()
                if recorder is not None:
                    recorder.frame(opcode == TEXT, data)
                handler = self._called()
                events = decode_text(data, most_decoded) if opcode == TEXT else decode_binary(data)
                if events is SKIPPED:
                    handler.skipped()
                for event in events:
                    handler.handle(event)
                del handler

    def _greeted(self) -> None:
        attempts, self._attempts = self._attempts + 1, 0
        self._greeted_at = time.monotonic()
        self._fallback_told = False
        self._redial = None
        first = self.generation == 0
        self._enter(State.CONNECTED)
        self._tell("connected" if first else "reconnected", attempt=attempts)
        if not first and self.on_reconnect is not None:
            self.on_reconnect(self.client_id)

    def _hang_up(self, ws: websocket.WebSocket, sock: socket.socket) -> None:
        hang_up(ws, sock, politely=not self._stopped)
        with self._lock:
            self._raw = None
            self._frames = None

    # -- without a socket ----------------------------------------------------------------

    def _pause_after(self, exc: Exception) -> None:
        """Tell what happened, and wait for the time of the next dial, polling if that works."""
        was_connected = self._state is State.CONNECTED
        self._attempts += 0 if was_connected else 1
        up_for = time.monotonic() - self._greeted_at if was_connected else 0.0
        if was_connected and up_for >= self._longest_pause:
            self._failures = 0
        else:
            self._failures += 1
        if isinstance(exc, _Refused) and self._is_known and up_for < self.timing.dial:
            self._is_known = False
            self._renew_client_id()
        elif was_connected:
            self._is_known = True
        delay = self._uniform(0.0, self._longest_pause)
        refused = isinstance(exc, AuthenticationError)
        if refused or isinstance(exc, _NoWebSocket):
            # Neither mends soon: the first try may be a moment of a restart, then the cap.
            delay = self.timing.cap if refused or self._attempts > 1 else self.timing.pause
        self._woken = False
        self._enter(State.WAITING, exc)
        if was_connected:
            self._tell("disconnected", error=exc)
        if refused:
            self._called().connection_changed(ErrorEvent(name="auth_error", error=exc))
        self._tell("reconnecting", attempt=self._attempts + 1, delay=delay, error=exc)
        no_socket = isinstance(exc, _NoWebSocket) or (self._attempts >= 3 and not refused)
        if no_socket and self._polls():
            self._enter(State.POLLING, exc)
            if not self._fallback_told:
                self._fallback_told = True
                log.warning("no WebSocket (%s); asking over HTTP meanwhile: no previews", exc)
                self._tell("websocket_unavailable", error=exc)
            self._poll_for(delay)
        else:
            self._sleep(delay)

    def _renew_client_id(self) -> None:
        refused, self.client_id = self.client_id, str(uuid.uuid4())
        self._called().client_id_changed()
        log.warning(
            "the server no longer accepts the client_id %r (code 1008); continuing as %r: prompts "
            "that were submitted before end as usual, but bring no more events",
            refused,
            self.client_id,
        )

    @property
    def _longest_pause(self) -> float:
        return min(self.timing.cap, self.timing.pause * 2.0 ** min(self._failures, 16))

    def _sleep(self, seconds: float) -> bool:
        """A pause; whether it was cut short."""
        with self._lock:
            cut = self._changed.wait_for(lambda: self._woken or self._stopped, seconds)
            self._woken = False
        return cut

    def _poll_for(self, seconds: float) -> None:
        """Ask over HTTP now and then; ends with the time, or when HTTP fails as well."""
        deadline = Deadline.after(seconds)
        while not deadline.expired:
            if self._sleep(deadline.left(self.timing.poll)):
                return
            if not deadline.expired and not self._polls() and not self._poll_only:
                self._enter(State.WAITING)
                self._sleep(deadline.left(self.timing.poll))
                return

    def _polls(self) -> bool:
        """Whether the queue could be asked over HTTP."""
        try:
            self._called().poll_queue()
        except ReferenceError:
            raise
        except Exception as exc:  # noqa: BLE001  # as in _once: a failed poll, logged once
            if not isinstance(exc, ComfyError | OSError):
                self._log(exc)
            log.debug("poll failed: %s", exc)
            return False
        return True


# -- dialling ---------------------------------------------------------------------------


def dial(
    plan: Plan, timeout: float, hold: Callable[[socket.socket], None]
) -> tuple[websocket.WebSocket, socket.socket, bytes]:
    """What sends, what is read from, and what was read of it beyond the handshake.

    ``timeout`` seconds are for all of it, however often a byte comes.  ``hold`` gets each
    socket before it waits for anything, so that it can be ended; whoever holds the last one
    closes it after a failure.
    """
    deadline = Deadline.after(timeout)
    ws = websocket.WebSocket(skip_utf8_validation=True)
    error: BaseException
    try:
        sock = open_line(plan, timeout, hold)
        stream = _Buffered(sock, deadline)
        _shake_hands(ws, stream, plan, timeout)
        sock.settimeout(timeout)  # for what is sent next, not what was left for the handshake
        return ws, sock, stream.rest
    except ComfyError as exc:
        error, cause = exc, exc.__cause__
    except Exception as exc:  # noqa: BLE001  # raised below
        error, cause = _refused(exc, ws, plan), exc
    finally:
        _forget_cookies()
    # Here, and without frames: what libraries raise repeats headers and bodies, and what led to
    # it knows passwords of proxies.
    cause = bare(cause) if cause is not None and is_of_the_system(cause) else None
    raise bare(error) from cause


def _shake_hands(ws: websocket.WebSocket, stream: _Buffered, plan: Plan, timeout: float) -> None:
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


def hang_up(ws: websocket.WebSocket, sock: socket.socket, *, politely: bool) -> None:
    """End a socket; ``politely``: let the server see the end of it before the next one comes."""
    if politely:
        with contextlib.suppress(OSError, websocket.WebSocketException):
            deadline = Deadline.after(0.5)
            sock.settimeout(0.5)
            ws.send_close()
            while not deadline.expired and sock.recv(1 << 16):
                pass
    with contextlib.suppress(OSError, websocket.WebSocketException):
        ws.shutdown()


class _Buffered:
    """The socket during the handshake, which websocket-client reads byte by byte.

    Each ``recv`` lets go of the interpreter and has to win it back.  All of them are over
    at the deadline.
    """

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock = sock
        self._deadline = deadline
        self._allowance = MAX_HANDSHAKE
        self.rest = b""  #: Read, and not asked for yet.

    def recv(self, size: int) -> bytes:
        """At most ``size`` bytes; ``b""`` at the end."""
        if not size:  # websocket-client 1.8 asks so for a body of no length
            return b""
        if not self.rest:
            self._sock.settimeout(self._deadline.require())
            self.rest = self._sock.recv(4096)
            self._allowance -= len(self.rest)
        if self._allowance < 0:
            raise websocket.WebSocketPayloadException("a longer handshake than allowed")
        piece, self.rest = self.rest[:size], self.rest[size:]
        return piece

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def open_line(plan: Plan, timeout: float, hold: Callable[[socket.socket], None]) -> socket.socket:
    """A connected socket, through the proxy and with TLS where the plan says so.

    ``timeout`` seconds are for all of it.  ``hold`` gets each socket before it waits for
    anything, so that it can be ended.
    """
    deadline = Deadline.after(timeout)
    parts = urlsplit(plan.url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "wss" else 80)
    if plan.proxy:
        sock = _tunnel(plan.proxy, host, port, deadline, hold)
    else:
        try:
            sock = _connect(host, port, deadline, hold)
        except TimeoutError as exc:
            raise ServerUnreachable(f"{plan.shown}: no connection within {timeout:g} s") from exc
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.settimeout(deadline.require())  # of a handshake of TLS, too, it bounds the whole
    if parts.scheme != "wss" or plan.ssl_context is None:
        return sock
    secure = plan.ssl_context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    hold(secure)
    secure.do_handshake()
    return secure


def speaks_tls(
    address: Address, proxy: str | None, timeout: float, hold: Callable[[socket.socket], None]
) -> bool:
    """Whether a server takes a handshake of TLS, whatever its certificate; asks nothing else.

    ``timeout`` seconds are for all of it; ``hold`` gets each socket, as in :func:`open_line`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    plan = Plan(f"wss://{address.netloc}/", {}, context, proxy)
    with contextlib.ExitStack() as opened:

        def held(sock: socket.socket) -> None:
            opened.callback(sock.close)
            hold(sock)

        try:
            open_line(plan, timeout, held)
        except ssl.SSLError as exc:
            return "ALERT" in str(exc)  # such as that it wants a certificate of ours
        except (OSError, ComfyError):
            return False
        return True


def _connect(
    host: str, port: int, deadline: Deadline, hold: Callable[[socket.socket], None]
) -> socket.socket:
    """As ``socket.create_connection``, which keeps its socket to itself until it is done."""
    failure = OSError(f"{host} has no address")
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for tried, (family, kind, proto, _, address) in enumerate(found):
        sock = socket.socket(family, kind, proto)
        try:
            hold(sock)
            # A fair share: the first may swallow packets, and another one work.
            sock.settimeout(deadline.require() / (len(found) - tried))
            sock.connect(address)
        except OSError as exc:
            sock.close()
            failure = exc
        else:
            return sock
    raise failure


def _tunnel(
    proxy: str, host: str, port: int, deadline: Deadline, hold: Callable[[socket.socket], None]
) -> socket.socket:
    """A connection through an HTTP proxy.

    Not by ``http.client``, which keeps its socket to itself until the proxy has answered.
    """
    try:
        parts = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
        proxy_port = parts.port or 80
    except ValueError:  # its words may repeat the password
        raise ServerUnreachable(
            "the proxy for the event socket is no URL: look at proxies= or the environment",
            retryable=False,
        ) from None
    if parts.scheme != "http":
        raise ServerUnreachable(
            f"the event socket goes through http proxies only, not {parts.scheme!r}; "
            "use transport='poll'",
            retryable=False,
        )
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if parts.username is not None:
        pair = BasicCredentials(unquote(parts.username), unquote(parts.password or ""))
        lines.append(f"Proxy-Authorization: {pair.headers()['Authorization']}")
    what = f"the proxy {parts.hostname} on the way"
    try:
        sock = _connect(parts.hostname or "", proxy_port, deadline, hold)
        sock.settimeout(deadline.require())
        sock.sendall("\r\n".join([*lines, "", ""]).encode())
        with answer_until(deadline, sock, method="CONNECT") as answer:
            answer.begin()
    except (OSError, http.client.HTTPException) as exc:
        # Not what is no answer: it may repeat what was sent.
        said = told(exc) if is_of_the_system(exc) else "its answer is not in HTTP"
        raise ServerUnreachable(f"{what}: {said}") from exc
    if answer.status != http.HTTPStatus.OK:  # many let requests pass, but no tunnel to odd ports
        raise _NoWebSocket(f"{what}: no tunnel, but {answer.status}")
    return sock


def _refused(exc: Exception, ws: websocket.WebSocket, plan: Plan) -> Exception:
    """What a failed dial means.  websocket-client's own texts hold headers and bodies."""
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
        return UnexpectedResponse(f"{what}: an answer beyond all measure")
    if isinstance(exc, websocket.WebSocketTimeoutException):
        return TransportError(f"{what}: the handshake was not answered in time")
    if isinstance(exc, websocket.WebSocketConnectionClosedException):
        return TransportError(f"{what}: closed before the handshake was answered")
    if isinstance(exc, websocket.WebSocketException):
        seen = f"HTTP {status}" if status else "no proper upgrade"
        return _NoWebSocket(f"{what}: {seen} in place of a WebSocket")
    if isinstance(exc, OSError | http.client.HTTPException):
        return explain(exc, what, plan.shown)
    if isinstance(exc, ValueError | LookupError):  # websocket-client's parser, before 1.9
        return _NoWebSocket(f"{what}: no proper upgrade in place of a WebSocket")
    return exc


def _why_ended(exc: Exception) -> str:
    """In words of ours, or the system's."""
    if isinstance(exc, FrameError):
        return f"the socket ended: {exc}"
    said = told(exc) if is_of_the_system(exc) else type(exc).__name__
    return f"the socket ended: {said}"


def _failed(exc: Exception) -> TransportError:
    """What is told of a failure of which nobody thought; the log has the rest."""
    return _Lost(f"the event thread failed by {type(exc).__name__}")


def _without_frames(exc: Exception) -> Exception:
    """Frames in a traceback hold the owner, which must not live as long as its last error."""
    for cause in list(causes(exc)):
        cause.__traceback__ = None
        context = cause.__context__
        if context is not None and not isinstance(context, ComfyError | OSError):
            cause.__context__ = None
    return exc


#: The host by whose name websocket-client, which has its socket already, looks for cookies: it
#: keeps them for all clients of the process, ours come from a Session.
_NOBODY: Final = f"{uuid.uuid4()}.invalid"


def _forget_cookies() -> None:
    """They are for nobody."""
    jar = getattr(getattr(websocket, "_handshake", None), "CookieJar", None)
    if jar is not None:
        jar.jar.clear()


# -- a socket without a thread ----------------------------------------------------------


class Line:
    """One socket that is read by whoever calls: for a look at the link itself.

    Raises, when it is made, what :func:`dial` raises; then :class:`TransportError`.
    """

    def __init__(self, plan: Plan, timeout: float, hold: Callable[[socket.socket], None]) -> None:
        self._ws, self._sock, begun = dial(plan, timeout, hold)
        self._frames = Frames(self._sock, MAX_FRAME, begun, most_text=MAX_TEXT)

    def send(self, text: str) -> None:
        """One text message."""
        self._do(lambda: self._ws.send(text))

    def ping(self) -> None:
        """Ask the other side for a pong, which :meth:`read` gives."""
        self._do(self._ws.ping)

    def read(self, timeout: float) -> tuple[int, bytes | memoryview] | None:
        """Opcode and payload of the next frame; ``None`` when none came in time (seconds)."""
        deadline = Deadline.after(timeout)
        while (message := self._frames.next()) is None:
            if deadline.expired:
                return None
            self._sock.settimeout(deadline.left() or 0.001)
            with contextlib.suppress(TimeoutError):
                self._do(self._frames.read)
        if message[0] == PING:
            self._do(lambda: self._ws.pong(bytes(message[1])))
        if message[0] == CLOSE:
            raise _Lost("the server closed the socket")
        return message

    def close(self) -> None:
        """End it."""
        hang_up(self._ws, self._sock, politely=True)

    def _do(self, action: Callable[[], object]) -> None:
        try:
            action()
            return
        except TimeoutError:
            raise
        except (websocket.WebSocketException, FrameError, OSError) as exc:
            reason, cause = _why_ended(exc), bare(exc) if is_of_the_system(exc) else None
        raise _Lost(reason) from cause
