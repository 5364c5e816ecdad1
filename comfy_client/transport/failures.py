"""Explanations of failed connections in one line, for HTTP and the socket."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
from typing import Final, NamedTuple, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3

from ..errors import (
    ApiError,
    ComfyError,
    RequestTimeout,
    ServerUnreachable,
    TransportError,
    UnexpectedResponse,
    is_for_another,
)
from ..interrupts import causes, interruption
from ..tracebacks import joined, module_of, steps_of
from .sockets import no_name

Error = TypeVar("Error", bound=BaseException)

#: The errors of requests, of urllib3 and http.client, and of sockets.
FAILURES: Final = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
)

#: TLS errors for a connection that ends too early, perhaps after the request was sent.
_CUT: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError)


#: Advice for a refused connection to ComfyUI.
REFUSED: Final = "is ComfyUI running, and on this port? (8188 by default, 8000 for the desktop app)"


def explain(
    exc: BaseException,
    what: str,
    url: str,
    outer: BaseException | None = None,
    *,
    refused: str = REFUSED,
) -> ComfyError:
    """Return the ComfyError for a failed connection.

    ``what`` names the request; ``url`` has no secret; ``refused`` is the advice if the connection
    was refused.
    """
    chain = list(causes(exc, outer))
    for cause in chain:
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, _CUT):
            return _about_tls(cause, url)
        if isinstance(cause, socket.gaierror):
            host = urlsplit(url).hostname
            if cause.errno == socket.EAI_AGAIN:  # temporarily offline, as after sleep
                return ServerUnreachable(
                    f"{url}: no name server answers, so {host!r} cannot be looked up now"
                )
            return ServerUnreachable(f"{url}: unknown host {host!r}", retryable=False)
        if isinstance(cause, ConnectionRefusedError):
            return ServerUnreachable(f"{url}: connection refused; {refused}", refused=True)
    for cause in chain:
        if isinstance(cause, TimeoutError):
            return RequestTimeout(f"{what}: no complete answer in time")
        if isinstance(cause, OSError) and cause.errno is not None and _is_no_route(cause):
            return ServerUnreachable(f"{url}: {reason_of(cause)}")
    return TransportError(f"{what}: the connection was cut before the answer was complete")


def is_of_the_system(exc: BaseException) -> bool:
    """Return whether an exception's text is from the system or Python, not from a server."""
    if isinstance(exc, ssl.SSLError | ConnectionError | TimeoutError):
        return True
    # Libraries raise bare OSErrors that quote a proxy.
    return isinstance(exc, OSError) and isinstance(exc.errno, int) and _is_builtin(exc)


def _is_builtin(exc: BaseException) -> bool:
    return type(exc).__module__ in ("builtins", "socket", "ssl")


def reason_of(exc: BaseException) -> str:
    """Return the text of a system's exception on one line."""
    return one_line(getattr(exc, "strerror", None) or str(exc) or type(exc).__name__)


def strip(exc: Error) -> Error:
    """Remove an exception's traceback and chain, which hold request data."""
    exc.__cause__ = exc.__context__ = exc.__traceback__ = None
    return exc


def strip_libraries(exc: BaseException) -> BaseException:
    """Remove libraries' frames, which hold headers, from an exception of the user's code."""
    seen: set[int] = set()
    each: BaseException | None = exc
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        steps = steps_of(each.__traceback__)
        each.__traceback__ = joined(step for step in steps if not _is_of_library(module_of(step)))
        if each.__context__ is not None and _is_of_library(type(each.__context__).__module__):
            each.__context__ = None
        each = each.__context__
    return exc


def _is_of_library(module: str) -> bool:
    return f"{module}.".startswith(_LIBRARIES)


#: Modules of libraries, and our own module that libraries call with request data.
_LIBRARIES: Final = (
    "requests.",
    "urllib3.",
    "http.client.",
    "websocket.",
    "socks.",
    "comfy_client.transport.connections.",
)


def one_line(text: str, most: int = 2000) -> str:
    """Put a text on one line, with control characters escaped."""
    if not text.isprintable():
        text = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text[:most])
    return text if len(text) <= most else f"{text[:most]}..."


def is_away(exc: Exception) -> bool:
    """Return whether an error means that the server did not answer, and at most a proxy did.

    The server may have acted all the same.
    """
    if isinstance(exc, ApiError):
        return is_for_another(exc.status)
    return isinstance(exc, TransportError)


def _is_no_route(exc: OSError) -> bool:
    return not isinstance(exc, ConnectionError | ssl.SSLError)


def _about_tls(exc: ssl.SSLError, url: str) -> ServerUnreachable:
    reason = getattr(exc, "verify_message", "") or exc.reason or str(exc)
    if "WRONG_VERSION" in str(exc).upper() or "RECORD_LAYER" in str(exc).upper():
        advice = "the server speaks plain http; use http:// in host"
    elif isinstance(exc, ssl.SSLCertVerificationError):
        advice = "pass verify='ca.pem' with the CA that signed it (or verify=False to trust anyone)"
    else:
        advice = "check https, verify= and cert="
    return ServerUnreachable(f"{url}: TLS failed ({reason}); {advice}", retryable=False)


# -- of requests -------------------------------------------------------------------------


class Failure(NamedTuple):
    """The reason why a request got no answer: the error to raise, and its cause."""

    error: BaseException
    cause: BaseException | None


def failure_of(
    exc: BaseException,
    outer: BaseException | None,
    method: str,
    url: str,
    connect_timeout: float,
    refused: str = REFUSED,
) -> Failure:
    """Return the error to raise for a request, and its cause without headers and bodies.

    An interruption is returned as it is, without the frames of libraries.
    """
    interrupted = interruption(exc, outer)
    if interrupted is not None:
        return Failure(strip_libraries(interrupted), interrupted.__cause__)
    chain = list(causes(exc, outer))
    cause = next((c for c in chain if is_of_the_system(c)), None)
    names = {type(cause).__name__ for cause in chain}
    if "InvalidURL" in names:  # of a proxy, of which nothing but the name is unchecked
        cause = no_name()
    error: ComfyError
    if isinstance(exc, requests.exceptions.InvalidSchema):
        error = ServerUnreachable(f"{url}: {_about_schema(exc)}", retryable=False)
    elif names & {"ProxyError", "InvalidURL"}:
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
        error = explain(exc, f"{method} {url}", url, outer, refused=refused)
        is_new = bool(names & {"NewConnectionError", "NameResolutionError"})
        if type(error) is ServerUnreachable and error.retryable and not is_new:
            # If the route broke under an open connection, the request may have been sent.
            error = TransportError(f"{error}, after the request may have been sent")
        elif is_new and not isinstance(error, ServerUnreachable):
            # Nothing was sent, whatever failed (a SOCKS proxy, for example).
            reason = reason_of(cause) if cause else "no reason is given"
            error = ServerUnreachable(f"{url}: no connection ({reason})")
    return Failure(error, None if cause is None else strip(cause))


def _tunnel_status(exc: BaseException) -> int | None:
    """Return the status with which a proxy refused a tunnel, from an error's text, or None."""
    found = re.match(r"Tunnel connection failed: (\d{3})\b", str(exc)[:100])
    return int(found[1]) if found else None


def _about_schema(exc: requests.exceptions.InvalidSchema) -> str:
    if "SOCKS" in str(exc):
        return (
            "a SOCKS proxy (proxies=, ALL_PROXY, HTTP_PROXY or HTTPS_PROXY) needs PySocks: "
            'pip install "requests[socks]"; the event socket goes through http proxies only, so '
            "use transport='poll'; or take none with proxies={}"
        )
    return "the Session has no adapter for this URL"
