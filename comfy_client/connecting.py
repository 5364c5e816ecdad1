"""Waiting until a client's server answers and its socket is connected."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from functools import partial
from typing import Final

from . import models
from .errors import (
    ApiError,
    AuthenticationError,
    ComfyError,
    NotSupported,
    RequestTimeout,
    ServerUnreachable,
    TransportError,
    UnexpectedResponse,
)
from .events import ErrorEvent
from .jobs.execute import Parts
from .jobs.poller import time_left
from .locks import check_may_wait
from .routes import Routes
from .transport.deadline import LONGEST, Backoff, Deadline, limited_silence
from .transport.dial import speaks_tls
from .transport.failures import is_away
from .transport.http import Http
from .transport.websocket import State
from .values import T

#: States in which a client gets news from its server.
_UP: Final = frozenset({State.CONNECTED, State.POLLING})
#: Statuses of a server that is not up yet, besides those of proxies.
_NOT_YET: Final = frozenset({202, 408, 425, 429})
# Patterns are compiled when a web page comes, since that takes a while.
#: Markup that readers of a web page do not see.
_MARKUP: Final = r"(?is)<(script|style)\b.*?</\1\s*>|<[^>]*>"
#: Patterns for a web page that is shown while a server starts.
_RELOADS: Final = r"(?i)<meta[^>]{0,99}http-equiv=.?refresh"
_SAYS_SO: Final = (
    r"(?i)\b(loading|starting|booting|waking|warming up|initiali[sz]ing|preparing|please wait"
    r"|not ready|spinning up|coming online)\b"
)
_ASKS: Final = r"(?i)type=.?password|\b(log|sign)[ -]?in\b"
#: The most characters of a web page that are searched, as the patterns are slow.
_LOOKED_AT: Final = 2000


def connect(routes: Routes, parts: Parts, timeout: float | None) -> None:
    """Wait until the server answers and the socket is connected; log it if the socket is slow."""
    deadline = Deadline.after(timeout)
    ask = partial(_test_credentials, routes, parts)
    _wait_for_http(parts, ask, deadline, timeout, _is_temporary)
    if _wait_for_socket(parts, deadline) not in _UP:
        error = parts.connection.error
        parts.http.log.warning(
            "HTTP works, but the event socket is not up yet (%s)", error or "slow"
        )


def wait_until_ready(
    routes: Routes, parts: Parts, timeout: float | None, *, is_restarting: bool = False
) -> models.SystemStats:
    """Wait until the server can run prompts, and return its versions and memory.

    ``is_restarting`` says that this client has restarted it, so that its absence is no surprise.
    """
    deadline = Deadline.after(timeout)
    ask = partial(_ask_for_stats, routes, parts)
    stats = _wait_for_http(parts, ask, deadline, timeout, may_be_starting, is_restarting)
    if _wait_for_socket(parts, deadline) not in _UP:
        error = parts.connection.error
        raise RequestTimeout(
            f"{parts.http.address.http_url}: HTTP works, but the event socket did not connect "
            f"within {timeout or 0:g} s ({error or 'no answer'})"
        ) from error
    return stats


def _wait_for_socket(parts: Parts, deadline: Deadline) -> State:
    """Wait for the socket to connect, and return its state; raise if it has failed for good."""
    check_may_wait()
    connection = parts.connection
    connection.retry()
    state = connection.wait_settled(max(0.05, deadline.left(LONGEST)), or_failed=False)
    parts.check_open()
    error = connection.error
    if connection.failed_for_good and error is not None:
        parts.receivers.publish(ErrorEvent(name="connection_error", error=error))
        # A copy: the thread keeps its own, and must not hold this frame through it.
        raise copy.copy(error) from error.__cause__
    return state


def _wait_for_http(
    parts: Parts,
    ask: Callable[[float], T],
    deadline: Deadline,
    timeout: float | None,
    is_temporary: Callable[[ComfyError], bool],
    is_restarting: bool = False,
) -> T:
    """Call ``ask(seconds)`` until it succeeds; return its result, or raise its last error."""
    http, tracker = parts.http, parts.tracker
    pauses = Backoff(tracker.timing.init, 1.0, factor=1.6, jitter=0.0)
    last: ComfyError | None = None
    while True:
        parts.check_open()
        try:
            return ask(time_left(deadline, http.total_timeout))
        except ComfyError as exc:
            parts.check_open()
            is_first = not pauses.failures
            if is_first and _is_for_tls(http, exc, deadline):
                exc = ServerUnreachable(
                    f"{http.address.http_url}: speaks TLS, not plain http; use https:// in host",
                    retryable=False,
                )
            if last is not None and isinstance(exc, RequestTimeout) and deadline.expired:
                exc = last  # we cut this attempt short, so the error before says more
            if not is_temporary(exc) or deadline.left() <= pauses.longest:
                parts.receivers.publish(ErrorEvent(name="connection_error", error=exc))
                raise exc
            if is_first:
                _log_wait(http, timeout, None if is_restarting else exc)
            http.log.debug("not up yet: %s", exc)
            last = exc.with_traceback(None)  # the traceback holds this frame
        tracker.wake.wait_stopped(pauses.next())


def _log_wait(http: Http, timeout: float | None, error: ComfyError | None) -> None:
    """Log that a server is waited for; without an error, that it restarts."""
    limit = "" if timeout is None else f"{round(timeout, 1):g} s "
    if error is None:
        up_to = limit and f"up to {limit}"
        http.log.warning("waiting %sfor the server to restart", up_to)
    else:
        http.log.warning("waiting %sfor the server to come up: %s", limit, error)


def _is_for_tls(http: Http, exc: ComfyError, deadline: Deadline) -> bool:
    """Return whether a server that cut the connection expects https; takes up to a second."""
    left = min(http.connect_timeout, max(0.05, deadline.left(1.0)))
    return type(exc) is TransportError and speaks_tls(http, left, lambda _: None)


def _test_credentials(routes: Routes, parts: Parts, timeout: float) -> None:
    """Check the credentials; fire ``auth_success``, or ``auth_error`` and raise."""
    try:
        routes.poll_status(timeout)
    except AuthenticationError as exc:
        parts.receivers.publish(ErrorEvent(name="auth_error", error=exc))
        raise
    if parts.http.identity.credentials is not None:
        parts.receivers.publish(ErrorEvent(name="auth_success"))


def _ask_for_stats(routes: Routes, parts: Parts, timeout: float) -> models.SystemStats:
    _test_credentials(routes, parts, timeout)
    try:
        with limited_silence(timeout):
            return routes.get_system_stats()
    except NotSupported as exc:
        if exc.status:
            raise
        return models.SystemStats()  # a hosted server tells neither versions nor memory


def _is_temporary(exc: ComfyError) -> bool:
    """Return whether an error may come from a server that is starting."""
    return exc.retryable if isinstance(exc, ServerUnreachable) else is_away(exc)


def may_be_starting(exc: ComfyError) -> bool:
    """Return whether the server may be starting, judging by the error or its web page."""
    if _is_temporary(exc):
        return True
    if not isinstance(exc, ApiError | UnexpectedResponse) or isinstance(exc, AuthenticationError):
        return False
    return exc.status in _NOT_YET or (isinstance(exc.body, str) and is_waiting_page(exc.body))


def is_waiting_page(page: str) -> bool:
    """Return whether a web page says that a server is starting, or reloads itself."""
    page = page[:_LOOKED_AT]
    if re.search(_ASKS, page):
        return False
    return bool(re.search(_RELOADS, page) or re.search(_SAYS_SO, re.sub(_MARKUP, " ", page)))
