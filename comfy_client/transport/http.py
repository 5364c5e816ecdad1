"""The HTTP layer, through which the routes send requests.

Each call has a deadline and a maximum size, each failure raises a :class:`ComfyError`, and no
redirect is followed.  A request is repeated only where that is safe.  The modules below it are
``identity`` (address and credentials), ``connections`` (deadlines), ``response`` (answers and typed
errors) and ``multipart`` (bodies).
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import json as jsonlib
import logging
import math
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar
from urllib.parse import quote, urlsplit

import attrs
import requests
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import ClosedPoolError

from .. import runtime
from ..errors import (
    ClientClosed,
    ComfyError,
    RequestTimeout,
    TransportError,
    UnexpectedResponse,
    is_for_another,
)
from ..interrupts import causes
from ..log_records import ServerLog
from ..redaction import sealed_headers
from ..values import size_decoded
from . import log_filter
from .connections import Traffic, Transfer, current, reading
from .deadline import Deadline, check_wanted, ended_by, parallel_calls, read_timeout
from .failures import FAILURES, Failure, failure_of, strip, strip_libraries
from .identity import Endpoint, Identity, as_sent, check_headers
from .pieces import GROWTH, PIECE, Each, JsonMember, OverLimit, loads_in_pieces, members
from .response import (
    COMFYUI,
    Asker,
    Chunks,
    Dialect,
    Download,
    Response,
    throttled,
    unexpected,
    unusable,
)
from .resume import range_of, resumed
from .url import Address, is_same_origin

if TYPE_CHECKING:
    from ..credentials import AnyCredentials
    from ..recording.recorder import Recorder
    from ..upload import Content, OpenContent
    from .identity import Description
    from .multipart import Form, OnProgress

log: logging.Logger = logging.getLogger("comfy_client")

__all__ = ["MAX_ANSWER", "SMALL", "UNSET", "Download", "Http", "Params", "Response", "segment"]

Part = TypeVar("Part", bytes, int)
Value = str | int | float | None
#: A query: a name may have several values, and ``None`` leaves one out.
#: A text is a query that is sent as it is.
Params = Mapping[str, Value | Sequence[Value]] | Iterable[tuple[str, Value | Sequence[Value]]] | str

#: The largest answer that is kept in memory undecoded, in bytes.
MAX_ANSWER = 1 << 30
#: The largest answer that is decoded by default, in bytes: definitions, queue, history.
MAX_JSON: Final = 64 << 20
#: The largest answer of routes with small answers (receipts, counts, refusals), in bytes.
SMALL: Final = 1 << 20
#: The most seconds for one upload or download.
MAX_TRANSFER: Final = 3600.0
#: The slowest rate at which a server stores an upload before it answers, in bytes per second.
STORED: Final = 10e6

#: Bytes per read; larger buffers are fresh memory, which costs more than the reads saved.
_CHUNK: Final = 1 << 19
#: Bytes per read into a buffer that is used again.
_BUFFER: Final = 1 << 20

#: A parameter of a query, with nothing to encode but slashes.
_PLAIN: Final = re.compile(r"[\w.~/-]*=[\w.~/-]*", re.ASCII)

#: Headers that the handshake sets itself, and Origin, which must match Host.
_NOT_OF_A_HANDSHAKE = frozenset(
    {"accept", "accept-encoding", "connection", "content-type", "content-length", "origin"}
)
_encode: Final = jsonlib.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
#: Headers for files: their length is checked, so they must not be encoded.
_IDENTITY: Final = {"Accept-Encoding": "identity"}


class _Unset:
    pass


UNSET: Final = _Unset()


def segment(text: str) -> str:
    """Encode ``text`` as one segment of a path.

    Raises ``ValueError`` for ``""``, ``"."`` and ``".."``, which would lead to another route.
    """
    if not isinstance(text, str):
        raise TypeError(f"a name or an id must be a string, not {text!r:.80}")
    if text in ("", ".", ".."):
        raise ValueError(f"the name or id {text!r} cannot be part of a path")
    return quote(text, safe="")


def query(params: Params | None) -> str:
    """Encode parameters as a query that begins with ``?``, without values that are None.

    Return ``""`` if there are none.
    """
    if not params:
        return ""
    if isinstance(params, str):
        return f"?{params}"
    pairs = [
        text.replace("/", "%2F")
        if _PLAIN.fullmatch(text := f"{name!s}={each!s}")
        else f"{quote(str(name), '')}={quote(str(each), '')}"
        for name, value in (params.items() if isinstance(params, (dict, Mapping)) else params)
        for each in (
            [value] if isinstance(value, str) or not isinstance(value, Sequence) else value
        )
        if each is not None
    ]
    return "?" + "&".join(pairs) if pairs else ""


class Silence(NamedTuple):
    """Requests in a row that the server did not answer; a proxy's report of that is no answer.

    Attributes:
        since: When the first of them was sent, on the monotonic clock.
        latest: When the last of them failed.
    """

    since: float
    latest: float


@attrs.define(eq=False, repr=False)
class OutgoingRequest:
    """A request, before credentials are added.

    Attributes:
        method: ``GET``, ``POST``, ...
        route: The route, without ``/api``.
        params: The query.
        headers: Headers of this request only.
        body: The body; ``None`` for none.
        is_command: Whether a ``GET`` changes something, and so is sent only once.
    """

    method: str
    route: str
    params: Params | None = None
    headers: Mapping[str, str | bytes] = attrs.field(factory=dict)
    body: bytes | Form | None = None
    is_command: bool = False


class Http:
    """The requests of a client to its server.

    Attributes:
        address: The address of the server.
        log: The log of the client, whose records name the server.
        endpoint: The certificates, proxies and connections, for HTTP and for the socket.
        identity: The client's credentials, user and headers, and their secrets.
        connect_timeout: Seconds to connect.
        total_timeout: Seconds for a request and its answer, unless a call sets another limit.
        max_json: The largest answer that is decoded, in bytes.
        show: Seconds that a transfer of a large file lasts before a progress bar is shown.
        resume: Seconds after the last byte for which a download that was cut is resumed.
        left_behind: Whether credentials were lost in a pickle, which contains no secrets.
    """

    def __init__(
        self,
        address: Address,
        *,
        credentials: AnyCredentials | None = None,
        user: str | None = None,
        timeout: float | tuple[float, float] = (5.0, 60.0),
        verify: bool | str | os.PathLike[str] = True,
        cert: str | tuple[str, str] | None = None,
        proxies: Mapping[str, str | None] | None = None,
        headers: Mapping[str, str] | None = None,
        session: requests.Session | None = None,
        max_json: int = MAX_JSON,
        stale: float = 20.0,
        resume: float = 30.0,
        show: float = 0.4,
        dialect: Dialect = COMFYUI,
    ) -> None:
        self.address = address
        self.log: ServerLog = ServerLog(address.http_url)
        self.connect_timeout: float
        self.total_timeout: float
        self.connect_timeout, self.total_timeout = _timeouts(timeout)
        self.max_json: int = number_of_bytes("max_json", max_json)
        self.left_behind = False
        self.resume = resume
        self.show = show
        self.endpoint: Endpoint = Endpoint(
            address, verify=verify, cert=cert, proxies=proxies, session=session
        )
        self.identity: Identity = Identity(
            self.endpoint, credentials=credentials, user=user, headers=headers
        )
        self._dialect = dialect
        self._sender = _Sender(
            self.endpoint,
            self.identity,
            dialect,
            connect_timeout=self.connect_timeout,
            stale=stale,
        )
        log_filter.hide_in_logs(self.identity)

    # -- facts ---------------------------------------------------------------------------

    def url(self, route: str, params: Params | None = None) -> str:
        """Return the absolute URL of a route, without credentials."""
        return self.address.http_url + self._sender.path(route) + query(params)

    def check_open(self) -> None:
        """Raise :class:`ClientClosed` after :meth:`close`."""
        self._sender.check_open()

    def describe(self) -> Description:
        """Describe the address and the credentials, without secrets; send no request."""
        return self.identity.describe(self._sender.has_api_prefix)

    def handshake(self, route: str, params: Params) -> tuple[str, dict[str, str]]:
        """Return the URL and the headers for the handshake of the socket."""
        self._sender.check_open()
        self.identity.refresh()
        request = self._sender.prepare(OutgoingRequest("GET", route, params), route)
        headers = {
            name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            for name, value in request.headers.items()
            if name.lower() not in _NOT_OF_A_HANDSHAKE
        }
        asked = (request.url or "").partition("?")[2]
        return f"{self.address.ws_url}{route}?{asked}", headers

    @property
    def traffic(self) -> Traffic:
        """The counters of requests and bytes."""
        return self._sender.traffic

    @property
    def busy(self) -> bool:
        """Whether a request is in progress, in any thread."""
        return self._sender.busy

    @property
    def silence(self) -> Silence | None:
        """The requests that the server has not answered; None if it answered the latest one."""
        return self._sender.silence

    @property
    def heard_at(self) -> float:
        """When the server last answered a request, on the monotonic clock; else -infinity."""
        return self._sender.heard_at

    # -- life ----------------------------------------------------------------------------

    def record(self, recorder: Recorder | None) -> None:
        """Record every request and its answer from now on; None ends the recording."""
        self.identity.recorder = recorder

    @property
    def is_open(self) -> bool:
        """Whether it was not closed, and so sends requests."""
        return self._sender.is_open

    def close(self) -> None:
        """End all requests in progress, which raise :class:`ClientClosed`, and allow no more.

        A Session that the user gave stays open.  Repeated calls do nothing.
        """
        self._sender.close()
        self.endpoint.close()

    def lasting(self) -> Http:
        """Return this object while it is open, or else a copy that can still send requests.

        Each request of the copy opens and closes its own connection.
        """
        if self._sender.is_open:
            return self
        made = copy.copy(self)
        made._sender = self._sender.one_off()
        return made

    def at(
        self,
        address: Address,
        dialect: Dialect,
        *,
        trusted: bool = False,
        on_connected: Callable[[str], None] | None = None,
    ) -> Http:
        """Return an object for requests to another address, which is closed along with this one.

        It has the same limits, proxies and certificates to trust, but neither credentials, headers
        and cookies nor the client's certificate, and each request opens and closes a connection of
        its own.  With ``trusted``, it has all of them if scheme, host and port are the same.
        Unless there is a proxy, ``on_connected`` is called with the IP address of each new peer,
        before anything is sent; an error that it raises ends the request.
        """
        made = copy.copy(self)
        made.address, made._dialect = address, dialect
        if trusted and is_same_origin(address, self.address):
            made.endpoint = self.endpoint.at(address)
        else:
            made.endpoint = self.endpoint.elsewhere(address, on_connected)
            made.identity = Identity(made.endpoint)
            log_filter.hide_in_logs(made.identity)
        made._sender = self._sender.at(made.endpoint, made.identity, dialect)
        return made

    def after_fork(self) -> None:
        """Renew connections and locks in the child of a fork, as the old ones are the parent's."""
        log_filter.after_fork()
        self.endpoint.after_fork()
        self.identity.after_fork()
        self._sender.after_fork()

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
        max_bytes: int | None = None,
        read_timeout: float = math.inf,
        is_command: bool = False,
    ) -> Response:
        """Send a request, and return its whole answer.

        Args:
            method: ``GET``, ``POST``, ...
            route: The route, without ``/api``.
            params: The query.
            json: The body, as JSON.
            data: The body, as bytes.
            headers: Headers of this request only.
            timeout: Seconds for all of it; ``None``: the client's own.
            allow: Statuses from 300 on that are not errors.
            max_bytes: The largest answer; ``None``: :data:`MAX_ANSWER`.
            read_timeout: Seconds for which the server may be silent.
            is_command: Whether a ``GET`` changes something, and so is sent only once.

        Raises the typed error for any other status from 300 on, and reads the first
        :data:`SMALL` bytes of such an answer.
        """
        extra: dict[str, str | bytes] = {}
        if headers:
            headers = sealed_headers(headers)
            check_headers(headers, "the given")
            extra = as_sent(headers)
        body = data
        if not isinstance(json, _Unset):
            text = _encode(json)
            body, text = _Body(text.encode()), ""
            extra.setdefault("Content-Type", "application/json")
        deadline = Deadline.after(self.total_timeout if timeout is None else timeout)
        request = OutgoingRequest(method, route, params, extra, body, is_command)
        transfer = Transfer(deadline, read_timeout=read_timeout)
        most = MAX_ANSWER if max_bytes is None else max_bytes
        return self._exchange(request, transfer, most, allow)

    def _exchange(
        self,
        request: OutgoingRequest,
        transfer: Transfer,
        max_bytes: int,
        allow: Collection[int] = (),
    ) -> Response:
        """Send a request, and read its whole answer; raise if it exceeds ``max_bytes``."""
        with self._sender.exchange(request, transfer) as response:
            if response.status_code >= 300 and response.status_code not in allow:
                raise self._refusal(request, response, transfer.deadline)
            answer = self._sender.whole(response, transfer.deadline, max_bytes)
            if answer is None:
                how = f"exceeds the {max_bytes} bytes that are"
                raise self._too_much(self._sender.answer(response, b""), how, max_bytes)
            return answer

    def send_command(self, method: str, route: str, **kw: Any) -> None:
        """Send a request whose answer is to be empty; raise an error if it is a web page."""
        answer = self.request(method, route, max_bytes=SMALL, **kw)
        if answer.is_page:
            raise unexpected(answer, "an empty answer")

    def json(
        self,
        method: str,
        route: str,
        *,
        max_bytes: int | None = None,
        each: Each | None = None,
        each_of_large: Each | None = None,
        **kw: Any,
    ) -> Any:
        """Send a request, and return the decoded JSON of its answer, whatever its content type.

        A large answer is decoded element by element.

        Args:
            method: The method, such as ``"GET"``.
            route: The route, without ``/api``.
            max_bytes: The largest answer; ``None``: ``max_json``.
            each: Called with each element of its lists and with the text of that, or None; its
                result replaces the element.
            each_of_large: The same, but only in a large answer.
            kw: As for :meth:`request`.
        """
        most = self.max_json if max_bytes is None else max_bytes
        answer = self.request(method, route, max_bytes=most, **kw)
        if len(answer.content) > SMALL and (size := size_decoded(answer.content)) > GROWTH * most:
            how = f"would take about {size >> 20} MiB decoded, {GROWTH * most >> 20} are"
            raise self._too_much(answer, how)
        try:
            # No local: frames of the error below would show what the server repeats.
            if each is None and len(answer.content) <= PIECE:
                return jsonlib.loads(answer.content)
            return loads_in_pieces(answer.content, each or each_of_large)
        except (ValueError, RecursionError):
            pass  # the error below does not hang on this one
        raise unexpected(answer, "JSON")

    def content(
        self, route: str, *, params: Params | None = None, timeout: float | None = None
    ) -> bytes:
        """Download a file into memory, and return its content: see :meth:`download`."""
        deadline = Deadline.after(MAX_TRANSFER if timeout is None else timeout)
        request = OutgoingRequest("GET", route, params, _IDENTITY)
        transfer = Transfer(deadline, read_timeout=self.total_timeout)
        with self._sender.exchange(request, transfer) as response:
            first = self._file(request, response, deadline, 0)
            got, error = self._sender.filled(response, first.length, deadline)
            if got and error is None:
                return got
            # It is cut, or of unknown length: from here on, it may be resumed.
            again = attrs.evolve(first, chunks=_continued(got, error, first))
            answers = iter([contextlib.nullcontext(again)])
            rest = functools.partial(self.download_once, route, params=params, deadline=deadline)

            def ask(*at: Any) -> contextlib.AbstractContextManager[Download]:
                return next(answers, None) or rest(*at)

            with resumed(ask, 0, self.resume, self.log) as download:
                body = io.BytesIO()  # grows in place
                if (download.length or 0) <= MAX_ANSWER:
                    for chunk in download:
                        body.write(chunk)
                        if body.tell() > MAX_ANSWER:
                            break
                    else:
                        return body.getvalue()
        path = self._sender.path(route)
        url = self.address.http_url + path
        answer = Response("GET", path, download.status, download.headers, b"", url)
        raise self._too_much(answer, f"exceeds the {MAX_ANSWER} bytes that are", MAX_ANSWER)

    def download(
        self,
        route: str,
        *,
        params: Params | None = None,
        timeout: float | None = None,
        start: int = 0,
    ) -> contextlib.AbstractContextManager[Download]:
        """Return a context manager that downloads a file in chunks, with constant memory.

        If the connection breaks, the rest is requested if the file is certainly the same.

        Args:
            route: The route, without ``/api``.
            params: The query.
            timeout: Seconds for the whole body; ``None``: an hour.  It ends earlier if the server
                is silent for the client's own timeout.
            start: The first byte to send; the status is 206 if the server can do that.
        """
        deadline = Deadline.after(MAX_TRANSFER if timeout is None else timeout)
        ask = functools.partial(self.download_once, route, params=params, deadline=deadline)
        return resumed(ask, start, self.resume, self.log)

    @contextlib.contextmanager
    def download_once(
        self,
        route: str,
        start: int = 0,
        headers: Mapping[str, str] | None = None,
        *,
        deadline: Deadline,
        params: Params | None = None,
        allow: Collection[int] = (),
    ) -> Iterator[Download]:
        """Context manager: request a file once, from the byte ``start`` on, and yield the answer.

        ``headers`` are sent only if ``start`` is not 0.  Statuses from 300 on are errors, except
        those in ``allow``, which give a download without content.
        """
        ranged = {"Range": f"bytes={start}-", **(headers or {})} if start else {}
        request = OutgoingRequest("GET", route, params, {**_IDENTITY, **ranged})
        transfer = Transfer(deadline, read_timeout=self.total_timeout)
        with self._sender.exchange(request, transfer) as response:
            if response.status_code in allow:
                yield Download(response.status_code, response.raw.headers, 0, iter(()))
                return
            yield self._file(request, response, deadline, start)

    def _file(
        self,
        request: OutgoingRequest,
        response: requests.Response,
        deadline: Deadline,
        start: int,
    ) -> Download:
        """Return the file in an answer; raise if there is none, or not from ``start`` on."""
        if response.status_code >= 300:
            raise self._refusal(request, response, deadline)
        if "html" in response.headers.get("content-type", ""):
            raise unexpected(self._sender.beginning(response, deadline, SMALL), "a file")
        if not _is_file(response, start):
            raise _no_file(self._sender.answer(response, b""))
        length = body_length(response)
        kind = Chunks()
        chunks = self._sender.chunks(response, length, deadline, kind)
        part = range_of(response.headers) if response.status_code == 206 else None
        length = length if part is None else part.end - part.start
        return Download(response.status_code, response.headers, length, chunks, kind=kind)

    def members(
        self, route: str, *, deadline: Deadline, most: float, params: Params | None = None
    ) -> Iterator[JsonMember]:
        """Yield the members of the JSON object that a GET answers, without holding the whole.

        A member has at most ``max_json`` bytes.

        Args:
            route: The route, without ``/api``.
            deadline: The end of the caller's time.
            most: The most seconds for the whole answer.
            params: The parameters in the URL.

        Raises:
            UnexpectedResponse: It is not such an object, or a member is too large.
            ComfyError: As for every request.
        """
        left = max(0.05, deadline.left(most))
        until = Deadline.after(left)
        start: list[bytes] = []
        request = OutgoingRequest("GET", route, params)
        with self._sender.exchange(request, Transfer(until)) as response:
            if response.status_code >= 300:
                raise self._refusal(request, response, until)

            def chunks() -> Iterator[bytes]:
                for chunk in self._sender.chunks(response, None, until):
                    start[:] = start or [chunk[:SMALL]]  # for an error
                    yield chunk

            how = ""
            try:
                yield from members(chunks(), largest=self.max_json)
                return
            except OverLimit as exc:
                how = str(exc)
            except (ValueError, RecursionError):
                pass  # the error below does not hang on this one
            answer = self._sender.answer(response, b"".join(start))
            raise self._too_much(answer, how) if how else unexpected(answer, "a JSON object")

    @contextlib.contextmanager
    def stream(self, route: str, *, headers: Mapping[str, str], idle: float) -> Iterator[Download]:
        """Context manager: yield an endless answer, with its chunks as soon as they arrive.

        It ends in :class:`RequestTimeout` if the server is silent for ``idle`` seconds.  An answer
        that has begun is not requested again.  If the connection is lost before, the request is
        sent once more, as any GET is.
        """
        request, deadline = OutgoingRequest("GET", route, headers=as_sent(headers)), Deadline()
        with self._sender.exchange(request, Transfer(deadline, read_timeout=idle)) as response:
            if response.status_code >= 300:
                raise self._refusal(request, response, Deadline.after(self.total_timeout))
            chunks = self._sender.chunks(response, None, deadline)
            yield Download(response.status_code, response.headers, None, chunks)

    def upload(
        self,
        route: str,
        fields: Mapping[str, str],
        file: Content | OpenContent,
        file_name: str,
        *,
        part: str = "image",
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> Any:
        """Send ``file`` piece by piece in a multipart POST, and return the decoded answer.

        A file that changes meanwhile is not sent to its end, and ``FileChanged`` is raised.

        ``timeout`` is in seconds, for everything; ``None``: an hour.  It ends earlier if no data
        moves for the client's own timeout, or if the server has all data and does not answer in
        that time, plus one second for each 10 MB, which it has to store.
        """
        from ..upload import opened  # many programs send no files
        from .multipart import Form

        deadline = Deadline.after(MAX_TRANSFER if timeout is None else timeout)
        with opened(file) as content:
            form = Form(fields, part, file_name, content, on_progress)
            headers = {"Content-Type": form.content_type}
            request = OutgoingRequest("POST", route, headers=headers, body=form)
            # While a file is sent, any progress suffices; the deadline limits the whole.
            transfer = Transfer(
                deadline,
                send_timeout=self.total_timeout,
                read_timeout=self.total_timeout + content.size / STORED,
            )
            try:
                answer = self._exchange(request, transfer, SMALL)
            except ComfyError:
                if form.failure is None:
                    raise
            if form.failure is not None:
                raise form.failure
        return answer.json()

    # -- answers -------------------------------------------------------------------------

    def _too_much(
        self, answer: Response, how: str, max_bytes: int | None = None
    ) -> UnexpectedResponse:
        may_be_raised = max_bytes is None or max_bytes == self.max_json
        advice = f"; max_json={2 * self.max_json} allows twice as much" if may_be_raised else ""
        return unusable(answer, f"the answer {how} allowed{advice}")

    def _refusal(
        self, request: OutgoingRequest, response: requests.Response, deadline: Deadline
    ) -> ComfyError:
        """Return the typed error for a refusal."""
        answer = self._sender.beginning(response, deadline, SMALL)
        if answer.status == 429:
            return throttled(answer)
        size = len(request.body) if request.body else None
        asker = Asker(
            base=self.address.http_url,
            user=self.identity.user,
            has_credentials=self.identity.credentials is not None,
            left_behind=self.left_behind,
            is_foreign=self._sender.has_api_prefix is None and self._sender.is_foreign,
        )
        return self._dialect.refusal(answer, size, asker)


# -- one request on the wire -------------------------------------------------------------


class _LiveTransfers(set[Transfer]):
    """The requests in progress of a sender, and of senders made from it for other addresses.

    They are closed together.  It needs no lock, as each change of a set is atomic.
    """

    is_open: bool = True


class _Sender:
    """The part of :class:`Http` that sends requests and reads answers.

    Attributes:
        has_api_prefix: Whether routes are below ``/api``; ``None`` if that is not known yet.
        is_foreign: Whether neither form of the routes was found, so that this is not a ComfyUI.
        traffic: Counters of requests and bytes.
        silence: The requests that the server has not answered since its last answer.
        heard_at: When the server last answered a request; ``-inf``: never.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        identity: Identity,
        dialect: Dialect,
        *,
        connect_timeout: float,
        stale: float,
    ) -> None:
        self.has_api_prefix: bool | None = dialect.has_api_prefix
        self._refused = dialect.refused
        self._check_route = dialect.check_route
        self.is_foreign: bool = False
        self.traffic: Traffic = Traffic()
        self._endpoint = endpoint
        self._identity = identity
        self._connect_timeout = connect_timeout
        self._stale = stale
        self._answered_at = float("-inf")
        self.silence: Silence | None = None
        self.heard_at: float = float("-inf")
        self._live = _LiveTransfers()
        self._is_one_off = False

    # -- life ----------------------------------------------------------------------------

    def one_off(self) -> _Sender:
        """Return an open sender that keeps no connection after an answer."""
        made = copy.copy(self)
        made._live, made._is_one_off = _LiveTransfers(), True
        return made

    def at(self, endpoint: Endpoint, identity: Identity, dialect: Dialect) -> _Sender:
        """Return a sender for another endpoint, which is closed along with this one."""
        made = copy.copy(self)
        made._endpoint, made._identity = endpoint, identity
        made.has_api_prefix, made._refused = dialect.has_api_prefix, dialect.refused
        made._check_route = dialect.check_route
        made._answered_at, made.silence = float("-inf"), None
        if endpoint.session is not self._endpoint.session:
            made._is_one_off = True
        return made

    @property
    def is_open(self) -> bool:
        """Whether it was not closed, and so sends requests."""
        return self._live.is_open

    def check_open(self) -> None:
        """Raise :class:`ClientClosed` after :meth:`close`."""
        if not self._live.is_open:
            raise ClientClosed

    @property
    def busy(self) -> bool:
        """Whether a request is in progress, in any thread."""
        return bool(self._live)

    def close(self) -> None:
        """End all requests in progress, which raise :class:`ClientClosed`, and allow no more."""
        self._live.is_open = False
        for transfer in self._live.copy():
            transfer.cut()

    def after_fork(self) -> None:
        """Forget the requests in progress, in the child of a fork; they are the parent's."""
        is_open, self._live = self._live.is_open, _LiveTransfers()
        self._live.is_open = is_open
        self.traffic.reset()

    # -- requests ------------------------------------------------------------------------

    def path(self, route: str) -> str:
        """Return the path of a route, below ``/api`` unless the server is known to lack that."""
        if route.startswith(("/internal/", "/api/")) or self.has_api_prefix is False:
            return route
        return "/api" + route

    @contextlib.contextmanager
    def exchange(self, request: OutgoingRequest, transfer: Transfer) -> Iterator[requests.Response]:
        """Context manager: send a request, and yield its answer before the body is read."""
        if self._check_route is not None:
            self._check_route(request.method, request.route)
        began, status = runtime.monotonic(), 0
        try:
            self._live.add(transfer)
            with _in_calls(transfer):
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
            strip_libraries(exc)  # an interruption
            raise
        finally:
            # The connection keeps the transfer, and urllib3 keeps the connection for ever: a
            # Session that the user gave would never be garbage-collected.
            transfer.on_connected = None
            self._live.discard(transfer)
            self.traffic.add(transfer.requests, transfer.sent, transfer.received)
            if self._is_one_off:
                self._endpoint.close()
            if log.isEnabledFor(logging.DEBUG):
                said = self._endpoint.address.http_url
                _log(said, request.method, self.path(request.route), status, began, transfer)

    def _check_wanted(self) -> None:
        """Raise if a transfer was cut on purpose: :class:`ClientClosed`, or ``Abandoned``."""
        self.check_open()
        check_wanted()

    def _answered(self, request: OutgoingRequest, transfer: Transfer) -> requests.Response:
        """Send a request; repeat it with new credentials after a 401, or with the other route."""
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
            # A web page comes from a proxy and says nothing about the server.
            self.has_api_prefix = "html" not in response.headers.get("content-type", "") or None
        return response

    def _find_routes(self, transfer: Transfer) -> None:
        """Find out whether the server has ``/api/prompt`` or, before June 2024, ``/prompt``."""
        looking = Transfer(transfer.deadline)
        statuses = set()
        try:
            self._live.add(looking)
            with _in_calls(looking):
                for path in ("/api/prompt", "/prompt"):
                    with self._send(OutgoingRequest("GET", "/prompt"), path, looking) as response:
                        statuses.add(response.status_code)
                        kind = response.headers.get("content-type", "")
                        if response.status_code == 200 and "json" in kind:
                            self.has_api_prefix = path != "/prompt"
                            return
        finally:
            self._live.discard(looking)
            self.traffic.add(looking.requests, looking.sent, looking.received)
        # Other statuses (401, 502) do not show what answers.
        self.is_foreign = statuses <= {200, 404, 405, 501}

    def prepare(self, request: OutgoingRequest, path: str) -> requests.PreparedRequest:
        """Return a request for a path of the server, complete with credentials and cookies.

        The first call asks for the credentials.
        """
        identity, session, body = self._identity, self._endpoint.session, request.body
        while (template := identity.template) is None:
            identity.refresh()
        prepared = requests.PreparedRequest()
        prepared.method = request.method
        prepared.url = self._endpoint.base + path + query(request.params)
        fixed = (template.url or "").partition("?")[2]  # a token, or the Session's params
        if fixed:
            prepared.url += f"{'&' if '?' in prepared.url else '?'}{fixed}"
        prepared.hooks = template.hooks
        headers = prepared.headers = CaseInsensitiveDict.__new__(CaseInsensitiveDict)
        headers._store = template.headers._store.copy()
        for name, value in request.headers.items():
            headers[name] = value  # bytes are sent as they are
        prepared.body = body  # type: ignore[assignment]  # an iterable of views is a body too
        if body is not None or request.method in ("POST", "PUT", "PATCH"):
            headers["Content-Length"] = str(len(body) if body else 0)
        if session.cookies or session.auth:
            prepared.prepare_cookies(session.cookies)  # keeps an existing Cookie header
        if session.auth and not identity.sends_credentials:
            prepared.hooks = {name: [*hooks] for name, hooks in template.hooks.items()}
            prepared.prepare_auth(session.auth)  # last, as it may sign all, and add hooks
        return prepared

    def _send(self, request: OutgoingRequest, path: str, transfer: Transfer) -> requests.Response:
        prepared = self.prepare(request, path)
        url = self._endpoint.base + path
        tries = 2 if request.method in ("GET", "HEAD") and not request.is_command else 1
        # A POST cannot be sent again, and with a short read timeout there is no time to find out.
        trusted = self._stale
        if tries > 1:
            trusted = math.inf if read_timeout.limits.get() is None else read_timeout.get()
        if runtime.monotonic() - self._answered_at > trusted:
            self._endpoint.drop_kept()
        while True:
            self.check_open()
            began = runtime.monotonic()
            found = self._attempt(prepared, url, transfer)
            if found is None:
                continue  # another thread dropped the idle connections; nothing was sent
            if not isinstance(found, Failure):
                try:
                    status = found.status_code
                    self._note(began, is_answer=status < 500 or not is_for_another(status))
                except BaseException:  # nobody else would close the connection
                    found.raw.close()
                    raise
                return found
            self._check_wanted()
            self._note(began, is_answer=False)
            if type(found.error) is RequestTimeout:
                # This idle connection may be dead, and so may the others.
                self._endpoint.drop_kept()
            # An idle connection may be closed already (the server was restarted), so a GET is
            # sent once more on a new one.
            tries -= 1
            if not tries or type(found.error) is not TransportError:
                raise found.error from found.cause

    def _note(self, began: float, *, is_answer: bool) -> None:
        """Note whether the server answered a request; later answers to others count, too."""
        now, before = runtime.monotonic(), self.silence
        if is_answer:
            self.heard_at, self.silence = now, None
        elif began >= self.heard_at:
            self.silence = Silence(began if before is None else before.since, now)

    def _attempt(
        self, request: requests.PreparedRequest, url: str, transfer: Transfer
    ) -> requests.Response | Failure | None:
        """Send a request once; return its answer, a Failure, or None if nothing was sent.

        Our errors are not raised here, as their context would be an error of requests, which holds
        the headers and the query.
        """
        endpoint, recorder, method = self._endpoint, self._identity.recorder, request.method or ""
        limits = transfer.limits(self._connect_timeout)
        if limits is None:
            raise RequestTimeout(f"{method} {url}: no time left to send it")
        record, outer = None, sys.exception()
        if recorder is not None:
            record = recorder.exchange(request, endpoint.base)
        verify, cert = endpoint.verify, endpoint.cert
        before = current.get()
        transfer.requests += 1
        transfer.on_connected = endpoint.connected
        try:
            current.set(transfer)  # inside the try, so that it is undone in any case
            if not endpoint.is_own_session:
                endpoint.prepare_pool(request)
            response = endpoint.session.send(
                request,
                stream=True,
                timeout=limits,
                verify=verify,
                cert=cert,
                proxies=endpoint.usable_proxies,  # no local variable, as passwords may be in it
                allow_redirects=False,
            )
        except FAILURES as exc:
            if any(isinstance(each, ClosedPoolError) for each in causes(exc, outer)):
                return None
            failure = failure_of(exc, outer, method, url, self._connect_timeout, self._refused)
        except ComfyError as exc:  # the connection was made, and is not wanted
            failure = Failure(strip(exc), None)
        else:
            self._answered_at = runtime.monotonic()
            if response.status_code >= 200:
                if record is not None:
                    head = response.status_code, response.raw.headers
                    response.raw = record.answered(*head, response.raw)
                return response
            response.raw.close()  # also closes the connection, on which the answer may still come
            failure = Failure(_only_announced(response.status_code, method, url), None)
        finally:
            current.set(before)
        if record is not None:
            record.failed(failure.error)
        return failure

    # -- answers -------------------------------------------------------------------------

    def answer(self, response: requests.Response, content: bytes) -> Response:
        """Make a :class:`Response` from a response of requests and the part of its body read."""
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
        length = body_length(response)
        if (length or 0) > max_bytes:
            return None
        content = self._read(response, length, deadline, max_bytes)
        return None if len(content) > max_bytes else self.answer(response, content)

    def beginning(
        self, response: requests.Response, deadline: Deadline, max_bytes: int
    ) -> Response:
        """Read an answer, but stop soon after ``max_bytes`` of its body."""
        content = self._read(response, body_length(response), deadline, max_bytes)
        return self.answer(response, content)

    def _read(
        self, response: requests.Response, length: int | None, deadline: Deadline, max_bytes: int
    ) -> bytes:
        """Read the body of an answer, and return it; stop a little after ``max_bytes``."""
        body = io.BytesIO()  # grows in place, and returns its bytes without a copy
        whole = b""
        for chunk in self.chunks(response, length, deadline):
            if len(chunk) == length:
                whole = chunk  # not copied; the loop ends by itself, which no finalizer has to do
                continue
            body.write(chunk)
            if body.tell() > max_bytes:
                break
        return whole or body.getvalue()

    def chunks(
        self,
        response: requests.Response,
        length: int | None,
        deadline: Deadline,
        kind: Chunks | None = None,
    ) -> Iterator[Any]:
        """Yield the body in chunks, unpacked; ``length`` is its :func:`body_length`.

        They are bytes, or by ``kind`` views of one buffer, unless they have to be unpacked.

        Raises an error at the deadline, and if the body is too short.
        """
        if kind is not None and kind.are_views and length and _is_ours(response):
            yield from _views(response, length, deadline, self._next)
            return
        size, unpack = (_CHUNK, False) if length else reading(response.headers, _CHUNK)
        read = functools.partial(response.raw.read1, size, decode_content=unpack)
        got = 0
        while length is None or got < length:
            chunk = self._next(response, length, got, deadline, read)
            if not chunk:
                return
            got += len(chunk)
            if got == length and not response.raw.closed:
                response.raw.drain_conn()  # returns the connection to the pool
            yield chunk
        if length == 0:
            if "transfer-encoding" in response.headers:
                response.raw.close()  # drops any bytes after an answer without a body
            elif not response.raw.closed:
                response.raw.drain_conn()  # returns the connection to the pool

    def filled(
        self, response: requests.Response, length: int | None, deadline: Deadline
    ) -> tuple[bytes, ComfyError | None]:
        """Read a body of known length without a copy; return it, or what arrived and the error.

        Nothing is read if it is too large, empty or of unknown length, or if the body is not
        our own: that of a given adapter, or of a recorder.
        """
        if not length or length > MAX_ANSWER or not _is_ours(response):
            return b"", None
        got = 0
        body = io.BytesIO(bytes(length))  # takes memory only where something arrives
        with body.getbuffer() as target:
            try:
                while got < length:
                    part = target[got : got + _CHUNK]
                    try:
                        read = functools.partial(response.raw.readinto1, part)
                        got += self._next(response, length, got, deadline, read)
                    finally:
                        # An error keeps frames that hold it, and the body could not be freed.
                        with contextlib.suppress(BufferError):
                            part.release()
            except ComfyError as exc:
                return bytes(target[:got]), exc
        return body.getvalue(), None

    def _next(
        self,
        response: requests.Response,
        length: int | None,
        got: int,
        deadline: Deadline,
        read: Callable[[], Part],
    ) -> Part:
        """Read the next part of a body after ``got`` bytes; it is empty at the end."""
        method = response.request.method or ""
        url = (response.url or "").partition("?")[0]
        # Our connections keep to it in each read; those of a given adapter may not.
        if got and deadline.expired:
            raise RequestTimeout(f"{method} {url}: the answer was still arriving at the deadline")
        outer = sys.exception()
        try:
            # What is there; a read would wait for the whole amount.
            part = read()
        except FAILURES as exc:
            error, cause = failure_of(exc, outer, method, url, self._connect_timeout)
            if type(error) is TransportError and length is not None:
                error = _short(method, url, got, length)
        else:
            if part:
                return part
            if length is None:
                self._check_wanted()  # close() may have ended it, not the body
                return part
            error, cause = _short(method, url, got, length), None
        self._check_wanted()
        raise error from cause


def _is_ours(response: requests.Response) -> bool:
    """Return whether a body is our own, and not that of a given adapter or of a recorder."""
    return hasattr(type(response.raw), "readinto1")


def _views(
    response: requests.Response, length: int, deadline: Deadline, next_part: Callable[..., int]
) -> Iterator[memoryview]:
    """Yield a body of known length as views of one buffer; ``next_part`` reads into it."""
    buffer, got = memoryview(bytearray(min(length, _BUFFER))), 0
    while got < length:
        read = functools.partial(response.raw.readinto1, buffer[: length - got])
        size = next_part(response, length, got, deadline, read)
        got += size
        yield buffer[:size]


def _continued(got: bytes, error: ComfyError | None, rest: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a body again of which a part, or all up to an error, has arrived."""
    if got:
        yield got
    if error is not None:
        raise error
    yield from rest


_NO_CALLS: Final = contextlib.nullcontext()


def _in_calls(transfer: Transfer) -> contextlib.AbstractContextManager[None]:
    """Context manager: cut a transfer once the calls to which it belongs have ended."""
    return _NO_CALLS if parallel_calls.get() is None else ended_by(transfer.cut)


def _log(
    server: str, method: str, path: str, status: int, began: float, transfer: Transfer
) -> None:
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
            "server": server,
            "http_method": method,
            "http_path": path,
            "http_status": status or None,
            "seconds": seconds,
            "bytes_sent": sent,
            "bytes_received": received,
        },
    )


class _Body(bytes):
    """A request body whose repr hides its content."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


def _timeouts(timeout: float | tuple[float, float]) -> tuple[float, float]:
    connect, total = timeout if isinstance(timeout, tuple) else (timeout, timeout)
    what = "timeout must be more than 0 seconds: one number or (connect, total)"
    if not (isinstance(connect, int | float) and isinstance(total, int | float)):
        raise TypeError(what)
    if not (connect > 0 and total > 0):
        raise ValueError(what)
    return float(connect), float(total)


def number_of_bytes(name: str, value: int) -> int:
    """Return a value; raise TypeError or ValueError unless it is a whole number above 0."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of bytes, not {value!r:.80}")
    if value < 1:
        raise ValueError(f"{name} must be a number of bytes, more than 0")
    return value


def _is_file(response: requests.Response, start: int) -> bool:
    """Return whether a body is the exact file, or its exact part from ``start`` on."""
    headers = response.headers
    if headers.get("content-encoding", "").strip().lower() not in ("", "identity"):
        return False
    if headers.get("content-type", "").strip().lower().startswith("multipart/byteranges"):
        return False  # several ranges, with lines between them
    part = range_of(headers)
    if response.status_code in (200, 203):  # some caches add a range to the whole file
        return part is None or part.end - part.start == part.size
    if start == 0 or response.status_code != 206 or part is None or part.start != start:
        return False
    return body_length(response) in (None, part.end - start)


def _no_file(answer: Response) -> UnexpectedResponse:
    encoding = answer.headers.get("content-encoding", "")
    said = "an answer without a file"
    if encoding:
        said = f"an answer encoded ({encoding[:40]}), which was not asked for"
    elif answer.status == 206 or "content-range" in answer.headers:
        said = "other bytes of the file than were requested"
    return unusable(answer, f"{answer.status}, {said}")


def body_length(response: requests.Response) -> int | None:
    """Return the number of bytes of the decoded body, or None if it is not known in advance."""
    known: int | None = getattr(response.raw, "body_size", None)
    if known is not None:  # an answer of our own connections
        return known
    if response.request.method == "HEAD" or response.status_code in (204, 304):
        return 0
    if "transfer-encoding" in response.headers:  # if chunked, no Content-Length counts
        return None
    text = response.headers.get("content-length", "")
    encoded = "content-encoding" in response.headers
    # Python refuses to convert thousands of digits.
    return int(text) if text.isdecimal() and len(text) < 20 and not encoded else None


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
