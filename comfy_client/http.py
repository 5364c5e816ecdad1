"""The HTTP edge: the only module that knows requests.

One Session with a sized pool serves every route.  Each call has a deadline and a maximum
size, each failure becomes one of our errors, nothing is redirected, and credentials are
put on here, for the configured origin only.
"""

from __future__ import annotations

import functools
import io
import json as jsonlib
import os
import secrets
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import quote, urlencode, urlsplit

import attrs
import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.cookies import get_cookie_header

from . import credentials as creds
from ._version import __version__
from .address import Address
from .errors import (
    ApiError,
    AuthenticationError,
    ClientClosed,
    ComfyError,
    Conflict,
    NotFound,
    NotSupported,
    RequestTimeout,
    ServerUnreachable,
    TransportError,
    UnexpectedResponse,
    UploadTooLarge,
)
from .failures import causes, explain

#: Largest answer that is kept in memory, in bytes.
MAX_ANSWER: Final = 1 << 30
#: Seconds that one upload or download may take in all.
MAX_TRANSFER: Final = 3600.0
#: Requests that share the pool; more of them wait for a new connection, not for each other.
POOL_SIZE: Final = 32

_CHUNK = 1 << 20
_SHOWN = 200

Params = Mapping[str, str | int | float | None]


class _Unset:
    pass


UNSET: Final = _Unset()


def segment(text: str) -> str:
    """``text`` as one segment of a path.

    Raises ``ValueError`` for what could only mean another route: ``""``, ``"."``, ``".."``.
    """
    if text in ("", ".", ".."):
        raise ValueError(f"{text!r} cannot stand in a path")
    return quote(text, safe="")


@attrs.frozen
class Answer:
    """A complete answer."""

    method: str
    path: str
    status: int
    headers: Mapping[str, str] = attrs.field(repr=False)
    content: bytes = attrs.field(repr=False)

    @property
    def text(self) -> str:
        """The body as text."""
        return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON; :class:`UnexpectedResponse` when it is none."""
        try:
            return jsonlib.loads(self.content)
        except ValueError as exc:
            raise _not_json(self) from exc


@attrs.define(eq=False)
class Download:
    """A body on its way: iterate over its chunks, which ends in an error when it is cut."""

    status: int
    headers: Mapping[str, str]
    length: int | None  #: Bytes; ``None`` when the server did not say.
    _chunks: Iterator[bytes]

    def __iter__(self) -> Iterator[bytes]:
        """Chunks of up to 1 MiB."""
        return self._chunks


class Http:
    """All requests to one server."""

    def __init__(
        self,
        address: Address,
        *,
        credentials: creds.AnyCredentials | None = None,
        user: str | None = None,
        timeout: float | tuple[float, float] = (5.0, 60.0),
        verify: bool | str | os.PathLike[str] = True,
        cert: str | tuple[str, str] | None = None,
        proxies: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        session: requests.Session | None = None,
    ) -> None:
        self.address = address
        self.credentials = credentials
        self.connect_timeout, self.total_timeout = _timeouts(timeout)
        self.cert = cert
        self._own_session = session is None
        self._session = _new_session() if session is None else session
        self._given_headers = dict(headers or {})
        self._user = user
        self._verify = os.fspath(verify) if isinstance(verify, os.PathLike) else verify
        self._proxies = proxies
        self._lock = threading.Lock()  # guards the template, which every request copies
        self._template: requests.PreparedRequest | None = None
        self._applied = creds.NOTHING
        self._api: bool | None = None  # whether routes live under /api; None: not known yet
        self._closed = False
        self.left_behind = False  #: Whether a pickle, in which no secret travels, lost some.

    # -- what does not change ------------------------------------------------------------

    @functools.cached_property
    def verify(self) -> bool | str:
        """What to trust: as given, else the bundle that the environment names."""
        if self._verify is True and self._session.trust_env:
            bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
            return bundle or True
        return self._verify

    @functools.cached_property
    def proxies(self) -> dict[str, str]:
        """Proxies by scheme.  The own machine is never reached through one."""
        if self.address.is_loopback:
            return {}
        if self._proxies is not None:
            return dict(self._proxies)
        if self._session.proxies:
            return dict(self._session.proxies)
        if not self._session.trust_env:
            return {}
        return requests.utils.get_environ_proxies(self.address.http_url)

    @functools.cached_property
    def ssl_context(self) -> ssl.SSLContext:
        """The same trust and the same certificate for the socket."""
        verify = self.verify
        if verify is False:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            where = requests.utils.DEFAULT_CA_BUNDLE_PATH if verify is True else str(verify)
            is_folder = os.path.isdir(where)
            context = ssl.create_default_context(
                cafile=None if is_folder else where, capath=where if is_folder else None
            )
        if self.cert:
            context.load_cert_chain(*([self.cert] if isinstance(self.cert, str) else self.cert))
        return context

    @property
    def proxy(self) -> str | None:
        """The proxy that the socket has to take, or ``None``."""
        return requests.utils.select_proxy(self.address.http_url, self.proxies) or None

    def url(self, route: str, params: Params | None = None) -> str:
        """The absolute URL of a route, without credentials."""
        return self.address.http_url + self._path(route) + _query(params)

    # -- credentials ---------------------------------------------------------------------

    def refresh_credentials(self) -> bool:
        """Ask for the credentials anew; whether they changed."""
        applied = creds.apply(self.credentials)
        with self._lock:
            changed = applied != self._applied
            if changed or self._template is None:
                self._applied = applied
                self._template = self._prepare(applied)
        if changed:
            self._warn_of_open_password(applied)
        return changed

    @property
    def has_credentials(self) -> bool:
        """Whether any credentials are configured."""
        return self.credentials is not None

    @property
    def has_secrets(self) -> bool:
        """Whether there is anything that may be secret, and so does not travel in a pickle."""
        named = isinstance(self.credentials, creds.EnvCredentials)
        return bool(self._given_headers or (self.has_credentials and not named))

    def handshake(self, route: str, params: Params) -> tuple[str, dict[str, str]]:
        """URL and headers with which the socket introduces itself: those of any request."""
        self._check_open()
        self.refresh_credentials()
        request = self._new_request("GET", self.address.http_url + route)
        skip = {"accept", "accept-encoding", "connection", "content-type", "content-length"}
        # The server compares an Origin with Host and may refuse; a script has none to send.
        skip.add("origin")
        headers = {
            name: value.decode("latin-1") if isinstance(value, bytes) else value
            for name, value in request.headers.items()
            if name.lower() not in skip
        }
        query = _query({**params, **self._applied.query})
        return self.address.ws_url + route + query, headers

    def _prepare(self, applied: creds.Applied) -> requests.PreparedRequest:
        """What all requests share, merged with the Session's own settings once."""
        headers: dict[str, str] = {"User-Agent": f"comfy-client/{__version__}"}
        if self._user:
            headers["Comfy-User"] = self._user
        headers.update(self._given_headers)
        headers.update(applied.headers)
        # A callable keeps .netrc from replacing our Authorization; a Session's own auth is
        # its owner's will.
        auth = None if self._session.auth and not applied.headers else _leave_as_it_is
        return self._session.prepare_request(
            requests.Request("GET", self.address.http_url + "/", headers=headers, auth=auth)
        )

    def _warn_of_open_password(self, applied: creds.Applied) -> None:
        open_line = self.address.scheme == "http" and not self.address.is_loopback
        origin = self.address.netloc
        if open_line and (applied.headers or applied.query) and origin not in _warned:
            _warned.add(origin)
            warnings.warn(
                f"credentials go to http://{origin} unencrypted; use https where you can",
                UserWarning,
                stacklevel=2,
            )

    # -- requests ------------------------------------------------------------------------

    def request(
        self,
        method: str,
        route: str,
        *,
        params: Params | None = None,
        json: Any = UNSET,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        allow: Collection[int] = (),
    ) -> Answer:
        """One request and its whole answer.

        ``timeout`` is the deadline in seconds for all of it; ``None`` takes the client's.
        Raises the typed error for any status from 300 on that is not in ``allow``.
        """
        extra = dict(headers or {})
        body = data
        if not isinstance(json, _Unset):
            body = jsonlib.dumps(json, allow_nan=False, separators=(",", ":")).encode()
            extra.setdefault("Content-Type", "application/json")
        seconds = self.total_timeout if timeout is None else timeout
        deadline = time.monotonic() + seconds
        with self._exchange(method, route, params, extra, body, deadline) as response:
            answer = self._whole(method, response, deadline)
        self._check(answer, allow, size=len(body) if body else None)
        return answer

    def json(self, method: str, route: str, **kw: Any) -> Any:
        """:meth:`request`, decoded."""
        answer = self.request(method, route, **kw)
        kind = answer.headers.get("content-type", "")
        if "html" in kind:
            raise _not_json(answer)
        return answer.json()

    @contextmanager
    def download(
        self,
        route: str,
        *,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Iterator[Download]:
        """A body as it comes, with constant memory.

        ``timeout`` is the deadline in seconds for the whole body; ``None``: an hour.  A
        pause of the client's own timeout ends it too.
        """
        deadline = time.monotonic() + (MAX_TRANSFER if timeout is None else timeout)
        # The length of what arrives is checked, so no encoding may come between.
        extra = {"Accept-Encoding": "identity", **(headers or {})}
        with self._exchange("GET", route, params, extra, None, deadline) as response:
            if response.status_code >= 300:
                self._check(self._whole("GET", response, deadline))
            if "html" in response.headers.get("content-type", ""):
                raise _not_json(self._whole("GET", response, deadline), due="a file")
            length = _length(response)
            yield Download(
                response.status_code,
                response.headers,
                length,
                self._chunks(response, length, deadline),
            )

    def upload(
        self,
        route: str,
        fields: Mapping[str, str],
        file: BinaryIO | bytes | Path,
        file_name: str,
        *,
        part: str = "image",
        timeout: float | None = None,
    ) -> Any:
        """A multipart POST that streams ``file``, and its decoded answer.

        ``timeout`` is the deadline in seconds; ``None``: an hour.
        """
        with _opened(file) as (stream, size):
            body = _Multipart(fields, part, file_name, stream, size)
            extra = {"Content-Type": body.content_type}
            deadline = time.monotonic() + (MAX_TRANSFER if timeout is None else timeout)
            try:
                with self._exchange("POST", route, None, extra, body, deadline) as response:
                    answer = self._whole("POST", response, deadline)
            except TransportError as exc:
                # A server that refuses a large body answers and hangs up while we still send.
                raise TransportError(f"{exc} (while sending {size} bytes)") from exc
        self._check(answer, size=len(body))
        return answer.json()

    def close(self) -> None:
        """Close our own Session; a Session that was given stays open.  Safe to repeat."""
        self._closed = True
        if self._own_session:
            self._session.close()

    def shutdown(self) -> Callable[[], None]:
        """What closes our own Session, without keeping a hold on this object."""
        return self._session.close if self._own_session else lambda: None

    def after_fork(self) -> None:
        """In the child: the pool's connections are the parent's."""
        self._lock = threading.Lock()
        if self._own_session:
            self._session.close()
            self._session = _new_session()

    # -- the wire ------------------------------------------------------------------------

    def _path(self, route: str) -> str:
        if route.startswith(("/internal/", "/api/")) or self._api is False:
            return route
        return "/api" + route

    @contextmanager
    def _exchange(
        self,
        method: str,
        route: str,
        params: Params | None,
        headers: Mapping[str, str],
        body: bytes | _Multipart | None,
        deadline: float,
    ) -> Iterator[requests.Response]:
        """Send one request; the answer's body is still on the wire."""
        if self._template is None:
            self.refresh_credentials()
        path = self._path(route)
        response = self._send(method, path, params, headers, body, deadline)
        try:
            if response.status_code == 401 and self.refresh_credentials():
                response.close()
                response = self._send(method, path, params, headers, body, deadline)
            if path != route and self._api is None:
                if _route_is_missing(response.status_code, response.headers):
                    if self._lives_at_the_root(deadline):
                        response.close()
                        response = self._send(method, route, params, headers, body, deadline)
                elif response.status_code < 300:
                    self._api = True
            yield response
        finally:
            response.close()

    def _lives_at_the_root(self, deadline: float) -> bool:
        """Whether this is a ComfyUI from before June 2024, which has no ``/api``."""
        with self._send("GET", "/prompt", None, {}, None, deadline) as root:
            is_old = root.status_code == 200 and "json" in root.headers.get("content-type", "")
        with self._send("GET", "/api/prompt", None, {}, None, deadline) as new:
            self._api = not (is_old and _route_is_missing(new.status_code, new.headers))
        return not self._api

    def _new_request(self, method: str, url: str) -> requests.PreparedRequest:
        with self._lock:
            template = self._template or self._prepare(self._applied)
        request = template.copy()
        request.method = method
        request.url = url
        request.headers.pop("Cookie", None)
        cookie = get_cookie_header(self._session.cookies, request)  # type: ignore[no-untyped-call]
        if cookie:
            request.headers["Cookie"] = cookie
        return request

    def _send(
        self,
        method: str,
        path: str,
        params: Params | None,
        headers: Mapping[str, str],
        body: bytes | _Multipart | None,
        deadline: float,
    ) -> requests.Response:
        self._check_open()
        url = self.address.http_url + path
        request = self._new_request(method, url + _query({**(params or {}), **self._applied.query}))
        request.headers.update(headers)
        request.body = body  # type: ignore[assignment]  # an iterable with a length is a body too
        if body is not None or method in ("POST", "PUT", "PATCH"):
            request.headers["Content-Length"] = str(len(body) if body else 0)
        tries = 2 if method in ("GET", "HEAD") else 1
        while True:
            tries -= 1
            left = deadline - time.monotonic()
            if left <= 0:
                raise RequestTimeout(f"{method} {url}: no time left to ask")
            try:
                return self._session.send(
                    request,
                    stream=True,
                    timeout=(min(self.connect_timeout, left), left),
                    verify=self.verify,
                    cert=self.cert,
                    proxies=self.proxies,
                    allow_redirects=False,
                )
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as exc:
                error = _transport_error(exc, method, url, self.connect_timeout)
                # A kept connection may have died unseen (the server was restarted): a
                # GET is asked once more, on a new one.
                if tries and type(error) is TransportError:
                    continue
                raise error from exc

    def _whole(
        self, method: str, response: requests.Response, deadline: float, limit: int = MAX_ANSWER
    ) -> Answer:
        length = _length(response)
        path = urlsplit(response.url or "").path
        if length is not None and length > limit:
            raise UnexpectedResponse(
                f"{method} {path}: an answer of {length} bytes is more than the {limit} allowed",
                method=method,
                path=path,
                status=response.status_code,
            )
        encoded = "content-encoding" in response.headers
        parts: list[bytes] = []
        size = 0
        for chunk in self._chunks(response, None if encoded else length, deadline, decode=True):
            parts.append(chunk)
            size += len(chunk)
            if size > limit:
                raise UnexpectedResponse(
                    f"{method} {path}: the answer exceeds the {limit} bytes allowed",
                    method=method,
                    path=path,
                    status=response.status_code,
                )
        content = parts[0] if len(parts) == 1 else b"".join(parts)
        return Answer(method, path, response.status_code, response.headers, content)

    def _chunks(
        self,
        response: requests.Response,
        length: int | None,
        deadline: float,
        *,
        decode: bool = False,
    ) -> Iterator[bytes]:
        """The body piece by piece: never past the deadline, never silently short."""
        url = (response.url or "").partition("?")[0]
        if response.request.method == "HEAD":
            return
        got = 0
        while length is None or got < length:
            if time.monotonic() > deadline:
                raise RequestTimeout(f"{url}: the answer was still dripping in at its deadline")
            try:
                # read1 returns what has come; read would wait for all of the amount.
                chunk = response.raw.read1(_CHUNK, decode_content=decode)
            except (urllib3.exceptions.HTTPError, OSError) as exc:
                raise _transport_error(exc, "GET", url, self.connect_timeout) from exc
            if not chunk:
                if length is not None:
                    raise TransportError(f"{url}: the answer ended after {got} of {length} bytes")
                return
            got += len(chunk)
            yield chunk

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed

    def _check(
        self, answer: Answer, allow: Collection[int] = (), *, size: int | None = None
    ) -> None:
        """The typed error for what the server refused."""
        status = answer.status
        if status < 300 or status in allow:
            return
        what = f"{answer.method} {self.address.http_url}{self._shown(answer.path)}"
        facts: dict[str, Any] = {
            "method": answer.method,
            "path": answer.path,
            "status": status,
            "body": _body(answer),
        }
        if status < 400:
            target = answer.headers.get("location", "")
            raise UnexpectedResponse(f"{what}: {self._about_redirect(status, target)}", **facts)
        if status == 401:
            given = "refused the credentials" if self.has_credentials else "wants credentials"
            advice = "pass credentials=..."
            if self.left_behind:
                advice = "they do not travel in a pickle: name them with EnvCredentials"
            raise AuthenticationError(
                f"{what}: 401, the server or a proxy before it {given}; {advice}", **facts
            )
        if status == 403:
            raise AuthenticationError(
                f"{what}: 403 forbidden. ComfyUI says so when a request's Origin differs from "
                "its Host (an Origin among headers=, or a proxy that rewrites Host); otherwise "
                "it comes from a login layer before it",
                **facts,
            )
        if _route_is_missing(status, answer.headers):
            raise NotSupported(f"{what}: this server has no such route ({status})", **facts)
        if status == 404:
            raise NotFound(f"{what}: not found{_reason(answer)}", **facts)
        if status == 409:
            raise Conflict(f"{what}: conflict{_reason(answer)}", **facts)
        if status == 413:
            digits = [word for word in answer.text.split() if word.isdigit()]
            limit = int(digits[0]) if digits and "exceed" in answer.text else None
            raise UploadTooLarge(
                f"{what}: {size or 'too many'} bytes are more than "
                f"{f'the {limit} that ComfyUI accepts' if limit else 'a proxy accepts'}; raise "
                f"{'--max-upload-size' if limit else 'the body limit of the proxy'} or send less",
                size=size,
                limit=limit,
                **facts,
            )
        if status == 500 and "Server got itself in trouble" in answer.text:
            raise ApiError(
                f"{what}: 500, the server stumbled over an argument; its log says why", **facts
            )
        raise ApiError(f"{what}: {status}{_reason(answer)}", **facts)

    def _shown(self, path: str) -> str:
        return path.removeprefix(self.address.prefix)

    def _about_redirect(self, status: int, target: str) -> str:
        parts = urlsplit(target)
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else ""
        shown += parts.path
        if parts.hostname == self.address.host and parts.scheme != self.address.scheme:
            return f"{status}, redirected to {shown}; use {parts.scheme}:// in host"
        return (
            f"{status}, redirected to {shown or 'nowhere'}, which is not followed: "
            "a login page, or not the address of the ComfyUI"
        )


_warned: set[str] = set()


def _leave_as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _new_session() -> requests.Session:
    session = requests.Session()
    adapter = HTTPAdapter(pool_connections=4, pool_maxsize=POOL_SIZE)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def _timeouts(timeout: float | tuple[float, float]) -> tuple[float, float]:
    connect, total = timeout if isinstance(timeout, tuple) else (timeout, timeout)
    if not (connect > 0 and total > 0):
        raise ValueError("timeout is in seconds, more than 0: one number or (connect, total)")
    return float(connect), float(total)


def _query(params: Params | None) -> str:
    given = {name: value for name, value in (params or {}).items() if value is not None}
    return "?" + urlencode(given, quote_via=quote) if given else ""


def _length(response: requests.Response) -> int | None:
    text = response.headers.get("content-length", "")
    if response.request.method == "HEAD" or response.status_code in (204, 304):
        return 0
    return int(text) if text.isdigit() else None


def _route_is_missing(status: int, headers: Mapping[str, str]) -> bool:
    """Whether an answer says "no such route" rather than "no such thing".

    ComfyUI's catch-all for static files owns every unknown path: it answers 405 to all but
    GET, and 404 with a content type, which the 404 of a real route does not have or has as
    JSON or plain text.
    """
    if status in (405, 501):
        return True
    return status == 404 and headers.get("content-type", "").startswith("application/octet-stream")


def _body(answer: Answer) -> Any:
    if "json" in answer.headers.get("content-type", ""):
        try:
            return jsonlib.loads(answer.content)
        except ValueError:
            pass
    return answer.text[:2000] or None


def _reason(answer: Answer) -> str:
    body = _body(answer)
    if isinstance(body, dict):
        body = body.get("error", body)
        if isinstance(body, dict):
            body = body.get("message", body)
    if not body or "html" in answer.headers.get("content-type", ""):
        return ""
    return f": {' '.join(str(body).split())[:_SHOWN]}"


def _not_json(answer: Answer, due: str = "JSON") -> UnexpectedResponse:
    kind = answer.headers.get("content-type", "no content type").partition(";")[0]
    start = " ".join(answer.text[: 2 * _SHOWN].split())[:_SHOWN]
    guess = "a login page, or another program on this port" if "html" in kind else "no ComfyUI"
    return UnexpectedResponse(
        f"{answer.method} {answer.path}: expected {due}, got {kind} ({guess}): {start!r}",
        method=answer.method,
        path=answer.path,
        status=answer.status,
        body=answer.text[:2000],
    )


# -- failures of the transport ----------------------------------------------------------


def _transport_error(
    exc: BaseException, method: str, url: str, connect_timeout: float
) -> ComfyError:
    """Our error for what requests, urllib3 or the socket raised."""
    where = url.partition("?")[0]
    names = {type(cause).__name__ for cause in causes(exc)}
    if names & {"NameResolutionError"}:
        exc = socket.gaierror()
    elif "ProxyError" in names:
        return ServerUnreachable(f"{where}: the proxy on the way does not let us through")
    elif names & {"ConnectTimeout", "ConnectTimeoutError"}:
        return ServerUnreachable(f"{where}: no connection within {connect_timeout:g} s")
    elif names & {"ReadTimeout", "ReadTimeoutError"}:
        return RequestTimeout(f"{method} {where}: no complete answer in time")
    elif "BadStatusLine" in names and "RemoteDisconnected" not in names:
        return UnexpectedResponse(
            f"{method} {where}: answers, but not in HTTP; another program listens on this port"
        )
    return explain(exc, f"{method} {where}", where)


# -- multipart bodies -------------------------------------------------------------------


@contextmanager
def _opened(file: BinaryIO | bytes | Path) -> Iterator[tuple[BinaryIO, int]]:
    """A stream from its present position, and how many bytes it still has."""
    if isinstance(file, bytes):
        yield io.BytesIO(file), len(file)
    elif isinstance(file, Path):
        with file.open("rb") as stream:
            yield stream, os.fstat(stream.fileno()).st_size
    else:
        start = file.tell()
        size = file.seek(0, os.SEEK_END) - start
        file.seek(start)
        yield file, size


class _Multipart:
    """A form with one file, sent in large pieces without being held in memory.

    ``__iter__`` and ``__len__`` make requests send a Content-Length and the pieces as they
    are; each iteration starts over, so the same body can be sent again.
    """

    def __init__(
        self, fields: Mapping[str, str], part: str, file_name: str, stream: BinaryIO, size: int
    ) -> None:
        boundary = secrets.token_hex(16)
        self.content_type = f"multipart/form-data; boundary={boundary}"
        head = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields.items()
        )
        quoted = file_name.translate({34: "%22", 13: "%0D", 10: "%0A"})
        head += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="{part}"; '
            f'filename="{quoted}"\r\nContent-Type: application/octet-stream\r\n\r\n'
        )
        self._head = head.encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._stream = stream
        self._start = stream.tell()
        self._size = size

    def __len__(self) -> int:
        return len(self._head) + self._size + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        self._stream.seek(self._start)
        yield self._head
        left = self._size
        while left:
            piece = self._stream.read(min(_CHUNK, left))
            if not piece:
                raise OSError("the file became shorter while it was sent")
            left -= len(piece)
            yield piece
        yield self._tail
