"""Sending of one request: within its deadline, and again only where that is safe."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import re
import socket
import sys
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

import requests
import urllib3
from urllib3.exceptions import ClosedPoolError

from .. import runtime
from ..errors import (
    ClientClosed,
    ComfyError,
    RequestTimeout,
    ServerUnreachable,
    TransportError,
    UnexpectedResponse,
)
from ..interrupts import causes, interruption
from ..locks import shared_lock
from .connections import Transfer, current
from .deadline import Deadline, check_wanted, ended_by, read_timeout
from .failures import explain, is_of_the_system, reason_of, strip, strip_libraries
from .identity import Endpoint, Identity, OutgoingRequest
from .response import Response, unusable

log: logging.Logger = logging.getLogger("comfy_client")

#: Bytes of one read: a larger buffer is fresh memory, which costs more than the reads it saves.
_CHUNK = 1 << 19

#: What requests, urllib3 (while a body is read) and the socket raise.
_FAILURES = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)


class Traffic:
    """Counters of what goes over the network, for any thread."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Reset the totals, with a new lock: after a fork the old one may stay held."""
        # Guards the three.  Re-entrant: a finalizer may send a request, too.
        self._lock = shared_lock()
        self.requests: int = 0
        self.sent: int = 0
        self.received: int = 0

    def add(self, *, requests: int = 0, sent: int = 0, received: int = 0) -> None:
        """Add to the totals."""
        with self._lock:
            self.requests += requests
            self.sent += sent
            self.received += received


class Failure(NamedTuple):
    """The reason why there is no answer: our error, and its cause."""

    error: BaseException
    cause: BaseException | None


class Sender:
    """The part of :class:`Http` that sends requests and reads what comes back.

    Attributes:
        has_api_prefix: Whether routes are below ``/api``; ``None`` if that is not known yet.
        is_foreign: Whether neither was there when it was looked for last: this is no ComfyUI.
        traffic: What was sent and received.
    """

    def __init__(
        self, endpoint: Endpoint, identity: Identity, *, connect_timeout: float, stale: float
    ) -> None:
        self.has_api_prefix: bool | None = None
        self.is_foreign: bool = False
        self.traffic: Traffic = Traffic()
        self._endpoint = endpoint
        self._identity = identity
        self._connect_timeout = connect_timeout
        self._stale = stale
        self._answered_at = float("-inf")
        self._live: set[Transfer] = set()  # each step of a set is whole: no lock
        self._closed = False

    # -- life ----------------------------------------------------------------------------

    def check_open(self) -> None:
        """Raise :class:`ClientClosed` after :meth:`close`."""
        if self._closed:
            raise ClientClosed

    @property
    def busy(self) -> bool:
        """Whether a request is under way, in any thread."""
        return bool(self._live)

    def close(self) -> None:
        """End all that is under way in other threads, which get :class:`ClientClosed`."""
        self._closed = True
        for transfer in self._live.copy():
            transfer.cut()

    def after_fork(self) -> None:
        """Forget all requests under way, in the child of a fork: they are the parent's."""
        self._live = set()
        self.traffic.reset()

    # -- requests ------------------------------------------------------------------------

    def path(self, route: str) -> str:
        """Return the path of a route: below ``/api``, unless the server is known to lack that."""
        if route.startswith(("/internal/", "/api/")) or self.has_api_prefix is False:
            return route
        return "/api" + route

    @contextlib.contextmanager
    def exchange(self, request: OutgoingRequest, transfer: Transfer) -> Iterator[requests.Response]:
        """Send one request; the body of the answer is not read yet."""
        began, status = runtime.monotonic(), 0
        try:
            self._live.add(transfer)
            with ended_by(transfer.cut):
                response = self._answered(request, transfer)
                status = response.status_code
                try:
                    if response.status_code == 206 and "Range" not in response.request.headers:
                        raise _only_a_part(self.answer(response, b""))
                    yield response
                finally:
                    response.close()
        except (ComfyError, GeneratorExit):
            raise
        except BaseException as exc:
            strip_libraries(exc)  # a Ctrl-C, or an alarm
            raise
        finally:
            self._live.discard(transfer)
            self._count(transfer)
            if log.isEnabledFor(logging.DEBUG):
                _log(request.method, self.path(request.route), status, began, transfer)

    def _count(self, transfer: Transfer) -> None:
        self.traffic.add(requests=transfer.requests, sent=transfer.sent, received=transfer.received)

    def _check_wanted(self) -> None:
        """Raise if a transfer was cut on purpose: :class:`ClientClosed`, or ``Abandoned``."""
        self.check_open()
        check_wanted()

    def _answered(self, request: OutgoingRequest, transfer: Transfer) -> requests.Response:
        """Return the answer; ask again with new credentials after a 401, or at the other route."""
        path = self.path(request.route)
        response = self._send(request, path, transfer)
        if response.status_code == 401 and self._identity.refresh():
            response.close()
            response = self._send(request, path, transfer)
        if response.status_code in (404, 405, 501):
            if self.has_api_prefix is None:
                try:
                    self._find_routes(transfer)
                except BaseException:
                    response.close()
                    raise
            # No route took the request, so it may be sent again.
            if self.has_api_prefix is False and path != request.route:
                response.close()
                response = self._send(request, request.route, transfer)
        elif self.has_api_prefix is None and path != request.route and response.status_code < 300:
            # A page is a proxy's, whatever comes later.
            self.has_api_prefix = "html" not in response.headers.get("content-type", "") or None
        return response

    def _find_routes(self, transfer: Transfer) -> None:
        """Find out whether there is ``/api/prompt`` or, before June 2024, ``/prompt``."""
        looking = Transfer(transfer.deadline)
        statuses = set()
        try:
            self._live.add(looking)
            with ended_by(looking.cut):
                for path in ("/api/prompt", "/prompt"):
                    with self._send(OutgoingRequest("GET", "/prompt"), path, looking) as response:
                        statuses.add(response.status_code)
                        kind = response.headers.get("content-type", "")
                        if response.status_code == 200 and "json" in kind:
                            self.has_api_prefix = path != "/prompt"
                            return
        finally:
            self._live.discard(looking)
            self._count(looking)
        # Other statuses (401, 502) do not show what answers.
        self.is_foreign = statuses <= {200, 404, 405, 501}

    def _send(self, request: OutgoingRequest, path: str, transfer: Transfer) -> requests.Response:
        prepared = self._identity.prepare(request, path)
        url = self._endpoint.base + path
        tries = 2 if request.method in ("GET", "HEAD") else 1
        # A POST cannot be sent again, and with a short read timeout there is no time to find out.
        trusted = self._stale if tries == 1 else read_timeout.get()
        if runtime.monotonic() - self._answered_at > trusted:
            self._endpoint.drop_kept()
        while True:
            self._check_wanted()
            left = transfer.deadline.left()
            if not left:
                raise RequestTimeout(f"{request.method} {url}: no time left to send it")
            found = self._attempt(prepared, url, transfer, left)
            if found is None:
                continue  # another thread has dropped what was kept; nothing was sent
            if not isinstance(found, Failure):
                return found
            self._check_wanted()
            if type(found.error) is RequestTimeout:
                # The kept connection may be dead, and so may the others.
                self._endpoint.drop_kept()
            # A kept connection may be closed already (the server was restarted): a GET is
            # sent once more, on a new one.
            tries -= 1
            if not tries or type(found.error) is not TransportError:
                raise found.error from found.cause

    def _attempt(
        self, request: requests.PreparedRequest, url: str, transfer: Transfer, left: float
    ) -> requests.Response | Failure | None:
        """Return the answer, or why there is none; None if nothing was sent: try again.

        No error of ours is raised here: what requests raises holds the headers and the query
        that were sent, so it may not hang on ours as its context.
        """
        endpoint, recorder, method = self._endpoint, self._identity.recorder, request.method or ""
        record, outer = None, sys.exception()
        if recorder is not None:
            record = recorder.exchange(request, endpoint.base)
        verify, cert = endpoint.verify, endpoint.cert
        token = current.set(transfer)
        transfer.requests += 1
        try:
            if not endpoint.is_own_session:
                endpoint.prepare_pool(request)
            silence = min(transfer.read_timeout, read_timeout.get(), left)
            response = endpoint.session.send(
                request,
                stream=True,
                timeout=(min(self._connect_timeout, left), silence),
                verify=verify,
                cert=cert,
                proxies=endpoint.usable_proxies,  # no local: passwords stand in them
                allow_redirects=False,
            )
        except _FAILURES as exc:
            if any(isinstance(each, ClosedPoolError) for each in causes(exc, outer)):
                return None
            failure = _failure(exc, outer, method, url, self._connect_timeout)
        else:
            self._answered_at = runtime.monotonic()
            if response.status_code >= 200:
                if record is not None:
                    head = response.status_code, response.raw.headers
                    response.raw = record.answered(*head, response.raw)
                return response
            response.raw.close()  # with its connection, on which the answer may follow
            failure = Failure(_only_announced(response.status_code, method, url), None)
        finally:
            current.reset(token)
        if record is not None:
            record.failed(failure.error)
        return failure

    # -- answers -------------------------------------------------------------------------

    def answer(self, response: requests.Response, content: bytes) -> Response:
        """Make a complete answer of these bytes."""
        url = (response.url or "").partition("?")[0]
        return Response(
            response.request.method or "",
            "/" + url.partition("://")[2].partition("/")[2],
            response.status_code,
            response.raw.headers,
            content,
            url,
            functools.partial(self._identity.redact, response.request),
        )

    def whole(
        self, response: requests.Response, deadline: Deadline, max_bytes: int
    ) -> Response | None:
        """Read a whole answer; return None if its body has more than ``max_bytes``."""
        if (body_length(response) or 0) > max_bytes:
            return None
        answer = self.beginning(response, deadline, max_bytes)
        return None if len(answer.content) > max_bytes else answer

    def beginning(
        self, response: requests.Response, deadline: Deadline, max_bytes: int
    ) -> Response:
        """Read an answer; stop a little after ``max_bytes`` of its body."""
        length = body_length(response)
        body = io.BytesIO()  # grows in place, and hands out its bytes without a copy
        for chunk in self.chunks(response, length, deadline, decode=True):
            body.write(chunk)
            if body.tell() > max_bytes:
                break
        return self.answer(response, body.getvalue())

    def chunks(
        self,
        response: requests.Response,
        length: int | None,
        deadline: Deadline,
        *,
        decode: bool = False,
    ) -> Iterator[bytes]:
        """Yield the body in chunks; ``length`` is its :func:`body_length`.

        Never past the deadline, never silently short.
        """
        method = response.request.method or ""
        url = (response.url or "").partition("?")[0]
        got = 0
        while length is None or got < length:
            if deadline.expired:
                raise RequestTimeout(
                    f"{method} {url}: the answer was still arriving at the deadline"
                )
            outer = sys.exception()
            try:
                # read1 returns what there is; read would wait for the whole amount.
                chunk = response.raw.read1(_CHUNK, decode_content=decode or length is None)
            except _FAILURES as exc:
                error, cause = _failure(exc, outer, method, url, self._connect_timeout)
                if type(error) is TransportError and length is not None:
                    error = _short(method, url, got, length)
            else:
                if chunk:
                    got += len(chunk)
                    yield chunk
                    continue
                if length is None:
                    self._check_wanted()  # it may be the end of the client, not of the body
                    return
                error, cause = _short(method, url, got, length), None
            self._check_wanted()
            raise error from cause
        if not length and "transfer-encoding" in response.headers:
            response.raw.close()  # whatever follows an answer that has no body
        else:
            response.raw.drain_conn()  # nothing is left: this gives the connection back


def _log(method: str, path: str, status: int, began: float, transfer: Transfer) -> None:
    """Log a request, without its query, which may hold a token."""
    seconds = runtime.monotonic() - began
    sent, received = transfer.sent, transfer.received
    log.debug(
        "%s %s: %s, %.1f ms, %d bytes sent, %d received",
        method,
        path,
        status or "no answer",
        seconds * 1000,
        sent,
        received,
        extra={
            "http_method": method,
            "http_path": path,
            "http_status": status or None,
            "seconds": seconds,
            "bytes_sent": sent,
            "bytes_received": received,
        },
    )


def body_length(response: requests.Response) -> int | None:
    """Return the length of the decoded body in bytes; ``None`` if that is not known."""
    if response.request.method == "HEAD" or response.status_code in (204, 304):
        return 0
    if "transfer-encoding" in response.headers:  # a Content-Length beside it is ignored
        return None
    text = response.headers.get("content-length", "")
    encoded = "content-encoding" in response.headers
    # Python refuses to convert thousands of digits.
    return int(text) if text.isdecimal() and len(text) < 20 and not encoded else None


# -- failures ---------------------------------------------------------------------------


def _only_a_part(answer: Response) -> UnexpectedResponse:
    return unusable(
        answer,
        "206, a partial answer, which was not requested; something on the way (a cache, a "
        "proxy) does not keep to HTTP",
    )


def _only_announced(status: int, method: str, url: str) -> UnexpectedResponse:
    return UnexpectedResponse(
        f"{method} {url}: {status}, an interim answer, and no final one",
        method=method,
        path=urlsplit(url).path,
        status=status,
    )


def _short(method: str, url: str, got: int, length: int) -> TransportError:
    return TransportError(f"{method} {url}: the answer ended after {got} of {length} bytes")


def _failure(
    exc: BaseException,
    outer: BaseException | None,
    method: str,
    url: str,
    connect_timeout: float,
) -> Failure:
    """Return our error, with a system's cause only: libraries' errors hold headers and bodies."""
    interrupted = interruption(exc, outer)
    if interrupted is not None:
        return Failure(strip_libraries(interrupted), interrupted.__cause__)
    chain = list(causes(exc, outer))
    cause = next((c for c in chain if is_of_the_system(c)), None)
    names = {type(cause).__name__ for cause in chain}
    error: ComfyError
    if isinstance(exc, requests.exceptions.InvalidSchema):
        error = ServerUnreachable(f"{url}: {_about_schema(exc)}", retryable=False)
    elif "ProxyError" in names:
        status = next(filter(None, map(_tunnel_status, chain)), None)
        said = f": it answered {status}" if status else f": {reason_of(cause)}" if cause else ""
        unknown = isinstance(cause, socket.gaierror) and cause.errno != socket.EAI_AGAIN
        error = ServerUnreachable(
            f"{url}: the proxy on the way (proxies=, or HTTP_PROXY, HTTPS_PROXY and NO_PROXY) "
            f"refuses to connect us{said}",
            retryable=not unknown and not (status and 400 <= status < 500),
        )
    elif names & {"ConnectTimeout", "ConnectTimeoutError"}:
        error = ServerUnreachable(f"{url}: no connection within {connect_timeout:g} s")
    elif names & {"ReadTimeout", "ReadTimeoutError"}:
        error = RequestTimeout(f"{method} {url}: no complete answer in time")
    elif "BadStatusLine" in names and "RemoteDisconnected" not in names:
        error = UnexpectedResponse(
            f"{method} {url}: answers, but not in HTTP; another program listens on this port, "
            "or it wants https:// in host"
        )
    else:
        error = explain(exc, f"{method} {url}", url, outer)
        is_new = bool(names & {"NewConnectionError", "NameResolutionError"})
        if type(error) is ServerUnreachable and error.retryable and not is_new:
            # If the route broke under an open connection, the request may have been sent.
            error = TransportError(f"{error}, after the request may have been sent")
        elif is_new and not isinstance(error, ServerUnreachable):
            # Whatever failed, such as a SOCKS proxy, nothing was sent.
            reason = reason_of(cause) if cause else "no reason is given"
            error = ServerUnreachable(f"{url}: no connection ({reason})")
    return Failure(error, None if cause is None else strip(cause))


def _tunnel_status(exc: BaseException) -> int | None:
    """Return the status of a proxy's refusal, without its reason phrase, which may be anything."""
    found = re.match(r"Tunnel connection failed: (\d{3})\b", str(exc)[:100])
    return int(found[1]) if found else None


def _about_schema(exc: requests.exceptions.InvalidSchema) -> str:
    if "SOCKS" in str(exc):
        return (
            "a SOCKS proxy (proxies=, ALL_PROXY, HTTP_PROXY or HTTPS_PROXY) needs PySocks: "
            "pip install 'requests[socks]'; the event socket goes through http proxies only, so "
            "use transport='poll'; or take none with proxies={}"
        )
    return "the Session has no adapter for this URL"
