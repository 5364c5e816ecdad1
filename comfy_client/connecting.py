"""The methods of a client that wait for its server: until it answers, and the socket is up."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Self, TypeVar

from .errors import (
    ApiError,
    AuthenticationError,
    ComfyError,
    RequestTimeout,
    ServerUnreachable,
    TransportError,
    UnexpectedResponse,
)
from .events import ErrorEvent
from .jobs.tracker import Tracker
from .locks import check_may_wait
from .routes import Routes
from .signals import Receivers
from .transport.backoff import Backoff
from .transport.deadline import LONGEST, Deadline, limited_silence
from .transport.dial import speaks_tls
from .transport.failures import is_away
from .transport.websocket import Connection, State

if TYPE_CHECKING:
    from .models import SystemStats

log: logging.Logger = logging.getLogger("comfy_client")

Found = TypeVar("Found")

#: Statuses of what is not there yet, beside those of proxies.
_NOT_YET: Final = frozenset({202, 408, 425, 429})
# Patterns are compiled when a page comes, which takes a while.
#: What no reader of a page sees.
_MARKUP: Final = r"(?is)<(script|style)\b.*?</\1\s*>|<[^>]*>"
#: What a page says, or does, that is shown while a server starts.
_RELOADS: Final = r"(?i)<meta[^>]{0,99}http-equiv=.?refresh"
_SAYS_SO: Final = (
    r"(?i)\b(loading|starting|booting|waking|warming up|initiali[sz]ing|preparing|please wait"
    r"|not ready|spinning up|coming online)\b"
)
_ASKS: Final = r"(?i)type=.?password|\b(log|sign)[ -]?in\b"
#: Characters of a page that are looked at: a server may send any, and the patterns are slow.
_LOOKED_AT: Final = 2000


class Connecting(Routes):
    """The part of a client that waits for the server."""

    _connection: Connection
    _receivers: Receivers
    _tracker: Tracker

    def _check_open(self) -> None:
        """Raise :class:`ClientClosed` after ``close()``."""
        raise NotImplementedError

    def init(self, timeout: float | None = 10.0) -> Self:
        """Connect, and return the client itself.

        Waits until the server answers and the socket is connected.  If there is HTTP but no
        WebSocket, ``websocket_unavailable`` fires and the client asks the queue over HTTP.

        Args:
            timeout: Seconds; ``None``: no limit.  Until then, it retries while the server is
                starting (connection refused, or a proxy's 502 to 504, 520 to 527); permanent
                errors fail immediately.

        Raises:
            ServerUnreachable: No connection, unknown host, or a TLS failure.
            AuthenticationError: 401 or 403, over HTTP or in the socket's handshake.
            UnexpectedResponse: The answer is not from a ComfyUI.
            RequestTimeout: Connected, but no answer in time.
            ValueError: ``timeout`` is negative or ``nan``; TypeError: it is no number.
            ClientClosed: After :meth:`close`, or if it is called meanwhile.
        """
        deadline = Deadline.after(timeout)
        self._wait_for_http(self._test_credentials, deadline, timeout, _is_temporary)
        state = self._wait_for_socket(deadline)
        if state not in (State.CONNECTED, State.POLLING):
            error = self._connection.error
            log.warning("HTTP works, but the event socket is not up yet (%s)", error or "slow")
        return self

    def wait_until_ready(self, timeout: float | None = None) -> SystemStats:
        """Wait until the server can run prompts, and return its versions and memory.

        ``GET /prompt`` and ``GET /system_stats``, until both answer; then the WebSocket, unless
        ``transport="poll"``.  For a server that was just started, or whose machine is: it waits
        longer than :meth:`init`, which ``with`` calls and which takes a page for an error.

        Example::

            from comfy_client import ComfyApi

            api = ComfyApi("http://127.0.0.1:8188")
            print(api.wait_until_ready(timeout=300).comfyui_version)
            with api:
                print(api.poll_status().queue_remaining)

        Args:
            timeout: Seconds; ``None``: no limit.  Until then, it retries what mends itself:
                connection refused, no answer, no name server, a proxy's 502 to 504 and 520 to
                527, the statuses 202, 408, 425 and 429, and a page that loads itself again or
                says that something is loading or starting.  Whatever else fails immediately: 401,
                403, an unknown host, a TLS failure, another program.

        Raises:
            ServerUnreachable: No connection, unknown host, or a TLS failure.
            AuthenticationError: 401 or 403, over HTTP or in the socket's handshake.
            UnexpectedResponse: The answer is not from a ComfyUI.
            RequestTimeout: Connected, but no answer in time; or HTTP works, but the socket did
                not connect in time.
            ApiError: One of the statuses above, at the end.
            ClientClosed: After :meth:`close`, or if it is called meanwhile.
        """
        deadline = Deadline.after(timeout)
        stats = self._wait_for_http(self._ask_for_stats, deadline, timeout, _may_be_starting)
        state = self._wait_for_socket(deadline)
        if state not in (State.CONNECTED, State.POLLING):
            error = self._connection.error
            raise RequestTimeout(
                f"{self._http.address.http_url}: HTTP works, but the event socket did not connect "
                f"within {timeout or 0:g} s ({error or 'no answer'})"
            ) from error
        return stats

    def _wait_for_socket(self, deadline: Deadline) -> State:
        """Wait until the socket has connected or failed; raise what waiting does not mend."""
        check_may_wait()
        self._connection.retry()
        left = max(0.05, deadline.left(LONGEST))
        state = self._connection.wait_settled(left, or_failed=False)
        self._check_open()
        error = self._connection.error
        if self._connection.failed_for_good and error is not None:
            self._receivers.publish(ErrorEvent(name="connection_error", error=error))
            # A copy: the thread keeps its own, and must not hold this frame through it.
            raise copy.copy(error) from error.__cause__
        return state

    def _wait_for_http(
        self,
        ask: Callable[[float], Found],
        deadline: Deadline,
        timeout: float | None,
        is_temporary: Callable[[ComfyError], bool],
    ) -> Found:
        """Return what ``ask(seconds)`` returns, as soon as the server is up."""
        pauses = Backoff(self._tracker.timing.init, 1.0, factor=1.6, jitter=0.0)
        said: ComfyError | None = None  # the last time
        while True:
            self._check_open()
            try:
                return ask(max(0.05, deadline.left(self._http.total_timeout)))
            except ComfyError as exc:
                self._check_open()
                is_first = not pauses.failures
                if is_first and self._is_for_tls(exc, deadline):
                    exc = ServerUnreachable(
                        f"{self._http.address.http_url}: speaks TLS, not plain http; use https:// "
                        "in host",
                        retryable=False,
                    )
                if said is not None and isinstance(exc, RequestTimeout) and deadline.expired:
                    exc = said  # cut short by us, this time says less than the one before
                if not is_temporary(exc) or deadline.left() <= pauses.longest:
                    self._receivers.publish(ErrorEvent(name="connection_error", error=exc))
                    raise exc
                if is_first:  # tells the user what is waited for
                    limit = "" if timeout is None else f"{timeout:g} s "
                    log.warning("waiting %sfor the server to come up: %s", limit, exc)
                log.debug("not up yet: %s", exc)
                said = exc.with_traceback(None)  # which holds this frame
            self._tracker.wake.wait_stopped(pauses.next())

    def _is_for_tls(self, exc: ComfyError, deadline: Deadline) -> bool:
        """Return whether a server that cut us short wants https; asked for a second at most."""
        left = min(self._http.connect_timeout, max(0.05, deadline.left(1.0)))
        return type(exc) is TransportError and speaks_tls(self._http, left, lambda _: None)

    def _test_credentials(self, timeout: float) -> None:
        """Have the server let us in; fires ``auth_success`` or ``auth_error``, and raises."""
        try:
            self.poll_status(timeout)
        except AuthenticationError as exc:
            self._receivers.publish(ErrorEvent(name="auth_error", error=exc))
            raise
        if self._http.identity.credentials is not None:
            self._receivers.publish(ErrorEvent(name="auth_success"))

    def _ask_for_stats(self, timeout: float) -> SystemStats:
        self._test_credentials(timeout)
        with limited_silence(timeout):
            return self.get_system_stats()


def _is_temporary(exc: ComfyError) -> bool:
    """Return whether a server that answers so may merely be starting."""
    return exc.retryable if isinstance(exc, ServerUnreachable) else is_away(exc)


def _may_be_starting(exc: ComfyError) -> bool:
    """Return whether the server may be starting, also by the web page that it shows meanwhile."""
    if _is_temporary(exc):
        return True
    if not isinstance(exc, ApiError | UnexpectedResponse) or isinstance(exc, AuthenticationError):
        return False
    return exc.status in _NOT_YET or (isinstance(exc.body, str) and is_waiting_page(exc.body))


def is_waiting_page(page: str) -> bool:
    """Return whether a web page says at its start that something is starting, or reloads itself."""
    page = page[:_LOOKED_AT]
    if re.search(_ASKS, page):
        return False
    return bool(re.search(_RELOADS, page) or re.search(_SAYS_SO, re.sub(_MARKUP, " ", page)))
