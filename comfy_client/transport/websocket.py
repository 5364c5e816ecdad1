"""The event thread: a state machine that keeps one socket open.

The thread only reads frames, decodes them and passes events on, by these rules:

* Silence is not death: the server sends nothing while it is idle or loads a model.  After a
  quiet period a ping is sent; only a long time without any frame ends the socket.
* Pauses between dials grow, with full jitter, up to a cap.  They start over after a connection
  that lasts longer than the longest possible pause before it.  Otherwise a server that accepts,
  or greets, and then drops connections would be hammered.
* If the server refuses a client id (it closes its next socket with 1008), a new id replaces it.
  ComfyUI itself never sends this code; a gateway in front of it may.
* The old socket is closed before a new one is dialled, since the server forgets the route of a
  client id as soon as *any* socket of that id ends.

The thread holds its handler weakly, so that a forgotten client is collected and the thread ends.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import random
import socket
import uuid
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

from .. import runtime
from ..errors import AuthenticationError, ComfyError, ServerUnreachable
from ..events import ConnectionEvent, ErrorEvent, Event
from ..interrupts import causes, was_started
from ..locks import shared_lock
from ..log_records import AnyLog
from ..timing import Timing
from .deadline import Backoff, Deadline
from .decode import HELLO, MAX_DECODED, SKIPPED, decode_binary, decode_text
from .dial import DialPlan, Lost, NoWebSocket, OpenSocket, Violation, dial
from .frames import BINARY, CLOSE, PING, TEXT
from .sockets import shut

if TYPE_CHECKING:
    from ..recording.recorder import Recorder

log: logging.Logger = logging.getLogger("comfy_client")

#: The code with which a server closes a socket that it refuses.
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


#: The allowed transitions from each state.
NEXT: Mapping[State, frozenset[State]] = {
    State.IDLE: frozenset({State.CONNECTING, State.POLLING, State.CLOSED}),
    State.CONNECTING: frozenset({State.CONNECTED, State.WAITING, State.POLLING, State.CLOSED}),
    State.CONNECTED: frozenset({State.WAITING, State.CLOSED}),
    State.WAITING: frozenset({State.CONNECTING, State.POLLING, State.CLOSED}),
    State.POLLING: frozenset({State.CONNECTING, State.WAITING, State.CLOSED}),
    State.CLOSED: frozenset(),
}


class EventHandler(Protocol):
    """The object that the event thread calls; it must be quick, and only a poll may raise."""

    def handle(self, event: Event) -> None:
        """Handle an event of the server."""

    def skipped(self) -> None:
        """Handle an unreadable message, which may have been about anything."""

    def connection_changed(self, event: Event) -> None:
        """Handle a change of the connection."""

    def client_id_changed(self) -> None:
        """Handle a new client id: the server refuses the old one, which gets no more events."""

    def poll_queue(self) -> None:
        """Ask for the queue over HTTP; raise if that fails."""


class _IdRefused(Lost):
    """The server closed the socket because of the client id, with code 1008."""


class _Quiet(Lost):
    """The socket is open, but nothing arrives."""


class Connection:
    """The event socket of a client, kept open from :meth:`start` to :meth:`stop`.

    ``plan`` returns the plan to dial with a client id, ``uniform`` returns a random number between
    two limits for the pauses, ``max_frame`` is the largest message in bytes, or None for the
    default, and ``log`` is the log of the client.
    """

    def __init__(
        self,
        handler: EventHandler,
        plan: Callable[[str], DialPlan],
        client_id: str,
        *,
        poll_only: bool = False,
        timing: Timing | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
        recorder: Recorder | None = None,
        max_frame: int | None = None,
        log: AnyLog = log,
    ) -> None:
        self._handler = weakref.ref(handler)
        self._plan = plan
        self.client_id: str = client_id  #: The client id for the next dial.
        self._max_frame = max_frame
        self.log: AnyLog = log
        self._poll_only = poll_only
        self.timing: Timing = timing or Timing()
        self.backoff: Backoff = Backoff(self.timing.pause, self.timing.cap, uniform=uniform)
        self._recorder = recorder
        # Guards the state, the socket and the flags that other threads see or set.  No other lock
        # is taken while it is held.  Re-entrant: the finalizer of a forgotten client may call
        # stop() in any thread, at any moment.
        self._lock = shared_lock()
        self._changed = runtime.Condition(self._lock)  # within ``with self._lock`` only
        self.state: State = State.IDLE  #: The state of the event thread.
        self._thread: runtime.Thread | None = None
        self._stopped = False
        self._woken = False  # ends a pause early
        self._raw: socket.socket | None = None  # the socket for stop() to shut
        self._redial: str | None = None  # the reason for giving up the current socket
        self.error: Exception | None = None  #: Why there is no socket, if so.
        self.generation: int = 0  #: The number of connections that were greeted.
        #: Called in the thread with the client id after each reconnect; must be quick.
        self.on_reconnect: Callable[[str], object] | None = None
        # Only the thread uses the rest.
        self._line: OpenSocket | None = None
        self._attempts = 0  # dials since the last first message
        self._greeted_at, self._is_known = 0.0, False  # True once this client id was greeted
        self._fallback_reported = False
        self._unforeseen: set[type[Exception]] = set()  # the types that were logged

    # -- from any thread -----------------------------------------------------------------

    def start(self) -> None:
        """Start the thread, unless it was started before."""
        with self._lock:
            if self.state is State.IDLE and not was_started(self._thread):
                # Daemon, so that a script without close() can end.
                self._thread = runtime.Thread(target=self._run, name="comfy-events", daemon=True)
                self._thread.start()

    def adopt(self, client_id: str) -> None:
        """Use another client id for the socket; raise RuntimeError once the thread has started."""
        with self._lock:
            if was_started(self._thread):
                raise RuntimeError("the client id must be chosen before the socket is connected")
            self.client_id = client_id

    def wait_settled(self, timeout: float, *, or_failed: bool) -> State:
        """Wait until the thread is connected, polls, ends or fails for good; return its state.

        With ``or_failed``, any failure ends the wait.  It takes at most ``timeout`` seconds.
        """

        def settled() -> bool:
            if self._stopped or self.state in (State.CONNECTED, State.POLLING, State.CLOSED):
                return True
            return self.error is not None and (or_failed or self.failed_for_good)

        with self._lock:
            if not settled():
                self._changed.wait_for(settled, min(timeout, runtime.TIMEOUT_MAX))
            return self.state

    @property
    def failed_for_good(self) -> bool:
        """Whether the last failure is permanent."""
        if isinstance(self.error, ServerUnreachable):
            return not self.error.retryable
        return isinstance(self.error, AuthenticationError)

    @property
    def quiet_for(self) -> float:
        """Seconds since the last byte arrived; infinite without a socket."""
        line = self._line
        return float("inf") if line is None else runtime.monotonic() - line.received_at

    @property
    def is_receiving(self) -> bool:
        """Whether a message has arrived in part, as on a slow line."""
        line = self._line
        return line is not None and line.is_within

    def redial(self, reason: str) -> None:
        """Drop the current socket, which is open but delivers nothing, and dial again."""
        with self._lock:
            if self.state is State.CONNECTED:
                self._redial = reason
                self._shut()

    def nudge(self) -> None:
        """Dial now instead of after the pause, as the server has just answered."""
        with self._lock:
            if self.state is State.WAITING and not self.failed_for_good:
                self._woken = True
                self._changed.notify_all()

    def retry(self) -> None:
        """Start the thread, or clear the last error and dial now; the caller awaits the outcome."""
        self.start()
        with self._lock:
            if self.state is State.WAITING:
                self.error = None
                self.nudge()

    def stop(self) -> None:
        """End the thread immediately; any thread may call this repeatedly."""
        with self._lock:
            self._stopped = True
            self._shut()
            if not was_started(self._thread):
                self.state = State.CLOSED
            self._changed.notify_all()

    def join(self, timeout: float) -> None:
        """Wait up to ``timeout`` seconds for the thread's end, unless called by it."""
        if self._thread is not None:
            with contextlib.suppress(RuntimeError):  # this thread itself, or one that never started
                self._thread.join(timeout)

    def abandon(self) -> None:
        """Release the parent's socket in the child of a fork, without ending it."""
        self._stopped = True
        if self._raw is not None:
            # close() only releases this process's descriptor; shutdown() would end the
            # parent's connection, too.
            with contextlib.suppress(OSError):
                self._raw.close()

    def _shut(self) -> None:
        if self._raw is not None:
            shut(self._raw)

    # -- the thread ----------------------------------------------------------------------

    def _run(self) -> None:
        if self._thread is not runtime.current_thread():
            return  # the call that started it was interrupted, and a later one started another
        try:
            while not self._stopped:
                try:
                    self._once()
                except ReferenceError:
                    return
                except Exception as exc:  # noqa: BLE001  # the pause itself failed; go on
                    with contextlib.suppress(Exception):  # there may be no memory for a log line
                        self._log(exc)
                    with contextlib.suppress(Exception):
                        self._enter(State.WAITING, _failed(exc))
                        self._sleep(self.backoff.next())
        finally:
            self._enter(State.CLOSED)

    def _once(self) -> None:
        """Dial once, listen, and pause after a failure; with ``transport="poll"``, only poll."""
        if self._poll_only:
            self._enter(State.POLLING)
            self._try_poll()
            self._poll_for(float("inf"))
            return
        self._enter(State.CONNECTING)
        try:
            self._listen()
        except ReferenceError:
            raise
        except Exception as exc:  # noqa: BLE001  # no error may end this thread
            if self._stopped:
                return
            is_foreseen = isinstance(exc, ComfyError | OSError)
            if not is_foreseen:
                self._log(exc)
            self._pause_after(_without_frames(exc if is_foreseen else _failed(exc)))

    def _log(self, exc: Exception) -> None:
        """Log an unexpected exception, once for each type."""
        if type(exc) not in self._unforeseen:
            self._unforeseen.add(type(exc))
            self.log.error("the event thread failed because of a bug in comfy_client", exc_info=exc)

    def _called(self) -> EventHandler:
        handler = self._handler()
        if handler is None:
            raise ReferenceError("the client was forgotten")
        return handler

    def _enter(self, state: State, error: Exception | None = None) -> None:
        """Change the state, and the error if one is given; wake the threads that wait."""
        with self._lock:
            if state is not self.state and state not in NEXT[self.state]:
                raise RuntimeError(f"no way from {self.state} to {state}")
            self.state = state
            if state is State.CONNECTED:
                self.error = None
                self.generation += 1
            elif error is not None:
                self.error = error
            self._changed.notify_all()
        self.log.debug("event thread: %s%s", state.value, f" ({error})" if error else "")

    def _report(self, name: str, **facts: Any) -> None:
        self._called().connection_changed(ConnectionEvent(name=name, **facts))

    # -- with a socket -------------------------------------------------------------------

    def _listen(self) -> None:
        """Dial, and pass on messages until an exception ends the socket."""
        self._called()
        plan = self._plan(self.client_id)
        recorder = self._recorder
        if recorder is not None:
            recorder.secrets.add_headers(plan.headers, are_credentials=True)
        line = self._line = self._dial(plan)
        try:
            if recorder is not None:
                recorder.opened(plan.url)
                recorder.sent(HELLO)
            line.send(HELLO)
            self._read(line)
        except Exception as exc:
            if recorder is not None:
                recorder.closed(self._ended_by(exc))
            if self._redial is None or type(exc) is not Lost:
                raise
            lost = Lost(self._redial)
            lost.__cause__ = exc.__cause__
        finally:
            line.close(politely=not self._stopped)
            with self._lock:
                self._raw = self._line = None
        raise lost

    def _ended_by(self, exc: Exception) -> str:
        ours = self._stopped or self._redial or isinstance(exc, _Quiet | Violation)
        return "client" if ours or not isinstance(exc, Lost) else "server"

    def _dial(self, plan: DialPlan) -> OpenSocket:
        try:
            return dial(plan, self.timing.dial, self._hold, max_frame=self._max_frame)
        except Exception as exc:
            if self._recorder is not None and not self._stopped:
                self._recorder.refused(exc)
            with self._lock:
                self._raw = None
            raise

    def _hold(self, raw: socket.socket) -> None:
        """Register a socket, so that stop() can end its waits."""
        with self._lock:
            self._raw = raw
            if self._stopped:
                raw.close()
                raise Lost("stopped while dialling")

    def _read(self, line: OpenSocket) -> NoReturn:
        recorder = self._recorder
        dialled = runtime.monotonic()
        greeted = False
        while not self._stopped:  # the system may hold megabytes of frames after a shutdown
            message = line.receive()
            if message is None:
                self._wait(line, None if greeted else dialled)
                continue
            opcode, data = message
            if opcode in (TEXT, BINARY):
                if not greeted:
                    greeted = True
                    self._greeted()
                if recorder is not None:
                    recorder.frame(opcode == TEXT, data)
                self._hand_on(opcode == TEXT, data)
            elif opcode == PING:
                line.pong(data)
            elif opcode == CLOSE:  # closing the socket answers it
                code = int.from_bytes(data[:2], "big") if len(data) >= 2 else 1005
                if recorder is not None:
                    recorder.ending(code)
                kind = _IdRefused if code == POLICY_VIOLATION else Lost
                raise kind(f"the server closed the socket (code {code})")
        raise Lost("stopped")

    def _wait(self, line: OpenSocket, dialled: float | None) -> None:
        """Wait for more bytes, with a ping after silence; ``dialled`` is set until the greeting."""
        limit = self.timing.dead if dialled is None else self.timing.dial
        left = (line.received_at if dialled is None else dialled) + limit - runtime.monotonic()
        if left <= 0:
            what = "nothing came" if dialled is None else "no greeting"
            raise _Quiet(f"{what} for {limit:g} s")
        is_silent = not line.wait(min(self.timing.ping, left))
        if is_silent and runtime.monotonic() - line.received_at >= self.timing.ping:
            line.ping()

    def _hand_on(self, is_text: bool, data: bytes | memoryview) -> None:
        handler = self._handler() or self._called()
        most = self._max_frame or MAX_DECODED
        events = decode_text(data, most, self.log) if is_text else decode_binary(data, self.log)
        if events is SKIPPED:
            handler.skipped()
        for event in events:
            handler.handle(event)

    def _greeted(self) -> None:
        attempts, self._attempts = self._attempts + 1, 0
        self._greeted_at = runtime.monotonic()
        self._fallback_reported = False
        self._redial = None
        first = self.generation == 0
        self._enter(State.CONNECTED)
        self._report("connected" if first else "reconnected", attempt=attempts)
        if not first and self.on_reconnect is not None:
            self.on_reconnect(self.client_id)

    # -- without a socket ----------------------------------------------------------------

    def _pause_after(self, exc: Exception) -> None:
        """Report a failure, and wait until the next dial; poll meanwhile if that works."""
        was_connected = self.state is State.CONNECTED
        self._attempts += 0 if was_connected else 1
        up_for = runtime.monotonic() - self._greeted_at if was_connected else 0.0
        if was_connected and up_for >= self.backoff.longest:
            self.backoff.reset()
        if isinstance(exc, _IdRefused) and self._is_known and up_for < self.timing.dial:
            self._is_known = False
            self._renew_client_id()
        elif was_connected:
            self._is_known = True
        delay = self.backoff.next()
        refused = isinstance(exc, AuthenticationError)
        if refused or isinstance(exc, NoWebSocket):
            # Neither ends soon: the first failure may be due to a restart; then use the cap.
            delay = self.timing.cap if refused or self._attempts > 1 else self.timing.pause
        self._woken = False
        self._enter(State.WAITING, exc)
        if was_connected:
            self._report("disconnected", error=exc)
        if refused:
            self._called().connection_changed(ErrorEvent(name="auth_error", error=exc))
        self._report("reconnecting", attempt=self._attempts + 1, delay=delay, error=exc)
        no_socket = isinstance(exc, NoWebSocket) or (self._attempts >= 3 and not refused)
        if no_socket and self._try_poll():
            self._enter(State.POLLING, exc)
            if not self._fallback_reported:
                self._fallback_reported = True
                self.log.warning(
                    "no WebSocket (%s); polling over HTTP instead, without previews", exc
                )
                self._report("websocket_unavailable", error=exc)
            self._poll_for(delay)
        else:
            self._sleep(delay)

    def _renew_client_id(self) -> None:
        refused, self.client_id = self.client_id, str(uuid.uuid4())
        self._called().client_id_changed()
        self.log.warning(
            "the server no longer accepts the client_id %r (code 1008); continuing as %r: prompts "
            "that were submitted before end as usual, but bring no more events",
            refused,
            self.client_id,
        )

    def _sleep(self, seconds: float) -> bool:
        """Sleep; return True if woken or stopped before the time is up."""
        with self._lock:
            cut = self._changed.wait_for(lambda: self._woken or self._stopped, seconds)
            self._woken = False
        return cut

    def _poll_for(self, seconds: float) -> None:
        """Poll over HTTP until the time is up or HTTP fails as well."""
        deadline = Deadline.after(seconds)
        while not deadline.expired:
            if self._sleep(deadline.left(self.timing.poll)):
                return
            if not deadline.expired and not self._try_poll() and not self._poll_only:
                self._enter(State.WAITING)
                self._sleep(deadline.left(self.timing.poll))
                return

    def _try_poll(self) -> bool:
        """Poll the queue over HTTP; return whether it succeeded."""
        try:
            self._called().poll_queue()
        except ReferenceError:
            raise
        except Exception as exc:  # noqa: BLE001  # as in _once: a failed poll, logged once
            if not isinstance(exc, ComfyError | OSError):
                self._log(exc)
            self.log.debug("poll failed: %s", exc)
            return False
        return True


def _failed(exc: Exception) -> Lost:
    """Return the error that stands for an unexpected exception, without its text or traceback."""
    return Lost(f"the event thread failed by {type(exc).__name__}")


def _without_frames(exc: Exception) -> Exception:
    """Remove the traceback of an error, whose frames would keep the client alive; return it."""
    for cause in list(causes(exc)):
        cause.__traceback__ = None
        context = cause.__context__
        if context is not None and not isinstance(context, ComfyError | OSError):
            cause.__context__ = None
    return exc
