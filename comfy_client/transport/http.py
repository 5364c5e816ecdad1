"""The HTTP layer: what the routes ask with.

Each call has a deadline and a maximum size, each failure is one of our errors, and nothing is
redirected.  Below it: ``sender`` (one request on the wire), ``identity`` (who we are, and what is
secret of it), ``endpoint`` (where, and how it is reached), ``pool`` (connections that keep to a
deadline), ``response`` (what the server said, as typed errors) and ``multipart`` (bodies).
"""

from __future__ import annotations

import contextlib
import io
import json as jsonlib
import math
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final
from urllib.parse import quote

import requests

from ..errors import ComfyError, UnexpectedResponse
from ..redaction import sealed_headers
from ..values import size_decoded
from . import log_filter
from .connections import Transfer
from .deadline import Deadline
from .identity import Endpoint, Identity, OutgoingRequest, Params, as_sent, check_headers, query
from .response import Asker, Download, Each, Response, refusal, unexpected, unusable
from .resume import range_of, resumed
from .sender import Sender, Traffic, body_length
from .url import Address

if TYPE_CHECKING:
    from ..credentials import AnyCredentials
    from ..recording.recorder import Recorder
    from .identity import Description
    from .multipart import OnProgress

__all__ = ["MAX_ANSWER", "SMALL", "UNSET", "Download", "Http", "Params", "Response", "segment"]

#: Largest answer that is kept in memory as it came, in bytes.
MAX_ANSWER = 1 << 30
#: Largest answer that is decoded, unless the caller says so: definitions, queue, history.
MAX_JSON: Final = 64 << 20
#: Largest answer of routes that say little: receipts, counts, refusals.
SMALL: Final = 1 << 20
#: Bytes that one byte of an answer may take when it is decoded.  What a ComfyUI sends takes
#: 5 to 8; brackets alone take 27.
GROWTH: Final = 10
#: Seconds that one upload or download may take in all.
MAX_TRANSFER: Final = 3600.0
#: Bytes a second at which a server stores what was uploaded, at the least, before it answers.
STORED: Final = 10e6

#: Asked of files: the length of what arrives is checked, so no encoding may come between.
_IDENTITY: Final = {"Accept-Encoding": "identity"}


class _Unset:
    pass


UNSET: Final = _Unset()


def segment(text: str) -> str:
    """Encode ``text`` as one segment of a path.

    Raises ``ValueError`` for what could only mean another route: ``""``, ``"."``, ``".."``.
    """
    if not isinstance(text, str):
        raise TypeError(f"a name or an id must be a string, not {text!r:.80}")
    if text in ("", ".", ".."):
        raise ValueError(f"the name or id {text!r} cannot be part of a path")
    return quote(text, safe="")


class Http:
    """The requests of a client to its server.

    Attributes:
        address: Where the server is.
        endpoint: How it is reached: trust and proxies, for the socket too.
        identity: Who we are, and what is secret of it.
        connect_timeout: Seconds for a connection.
        total_timeout: Seconds for a request and its answer, unless a call says otherwise.
        max_json: Bytes of the largest answer that is decoded.
        left_behind: Whether credentials were lost in a pickle, in which no secret travels.
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
    ) -> None:
        self.address = address
        self.connect_timeout: float
        self.total_timeout: float
        self.connect_timeout, self.total_timeout = _timeouts(timeout)
        self.max_json: int = number_of_bytes("max_json", max_json)
        self.left_behind = False
        self._resume = resume
        self.endpoint: Endpoint = Endpoint(
            address, verify=verify, cert=cert, proxies=proxies, session=session
        )
        self.identity: Identity = Identity(
            self.endpoint, credentials=credentials, user=user, headers=headers
        )
        self._sender = Sender(
            self.endpoint, self.identity, connect_timeout=self.connect_timeout, stale=stale
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
        """Describe what is sent, and where to, without secrets; sends no request."""
        return self.identity.describe(self._sender.has_api_prefix)

    def handshake(self, route: str, params: Params) -> tuple[str, dict[str, str]]:
        """Return URL and headers for the handshake of the socket: those of any request."""
        self._sender.check_open()
        return self.identity.handshake(route, params)

    @property
    def traffic(self) -> Traffic:
        """The bytes and requests that were sent and received."""
        return self._sender.traffic

    @property
    def busy(self) -> bool:
        """Whether a request is under way, in any thread."""
        return self._sender.busy

    # -- life ----------------------------------------------------------------------------

    def record(self, recorder: Recorder | None) -> None:
        """Have every exchange recorded from now on; ``None``: none."""
        self.identity.recorder = recorder

    def close(self) -> None:
        """End all that is under way in other threads, which get :class:`ClientClosed`.

        Closes our own Session; a Session that was given stays open.  Safe to repeat.
        """
        self._sender.close()
        self.endpoint.close()

    def after_fork(self) -> None:
        """Begin anew in the child of a fork: connections, locks and recording are the parent's."""
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
            allow: Statuses from 300 on that are no error.
            max_bytes: The largest answer; ``None``: :data:`MAX_ANSWER`.
            read_timeout: Seconds for which the server may be silent.

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
            text = jsonlib.dumps(json, allow_nan=False, separators=(",", ":"))
            body, text = _Body(text.encode()), ""
            extra.setdefault("Content-Type", "application/json")
        deadline = Deadline.after(self.total_timeout if timeout is None else timeout)
        request = OutgoingRequest(method, route, params, extra, body)
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
        """Send a request, and read its whole answer, of ``max_bytes`` at the most."""
        with self._sender.exchange(request, transfer) as response:
            if response.status_code >= 300 and response.status_code not in allow:
                raise self._refusal(request, response, transfer.deadline)
            answer = self._sender.whole(response, transfer.deadline, max_bytes)
            if answer is None:
                how = f"exceeds the {max_bytes} bytes that are"
                raise self._too_much(self._sender.answer(response, b""), how, max_bytes)
            return answer

    def send_command(self, method: str, route: str, **kw: Any) -> None:
        """Call :meth:`request` for a route without an answer; a web page is an error."""
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
        **kw: Any,
    ) -> Any:
        """Call :meth:`request`, and decode any content type: some proxies call all of it HTML.

        ``max_bytes`` is the largest answer; ``None``: ``max_json``.  ``each`` is called with each
        element of its lists, of which a large answer is decoded one after the other, and what it
        returns takes their place.
        """
        most = self.max_json if max_bytes is None else max_bytes
        answer = self.request(method, route, max_bytes=most, **kw)
        if len(answer.content) > SMALL and (size := size_decoded(answer.content)) > GROWTH * most:
            how = f"would take about {size >> 20} MiB decoded, {GROWTH * most >> 20} are"
            raise self._too_much(answer, how)
        return answer.json(each)

    def content(
        self, route: str, *, params: Params | None = None, timeout: float | None = None
    ) -> bytes:
        """Download a file into memory; otherwise as :meth:`download`."""
        with self.download(route, params=params, timeout=timeout) as download:
            body = io.BytesIO()  # as for any answer
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
        """Stream the body of an answer, with constant memory.

        When the connection is cut, the rest is asked for, if it is sure that it is the same file.

        Args:
            route: The route, without ``/api``.
            params: The query.
            timeout: Seconds for the whole body; ``None``: an hour.  It ends earlier if the server
                is silent for the client's own timeout.
            start: The byte of the file with which it begins, if the server can do that: then the
                status is 206.
        """
        deadline = Deadline.after(MAX_TRANSFER if timeout is None else timeout)

        def ask(
            start: int, headers: Mapping[str, str]
        ) -> contextlib.AbstractContextManager[Download]:
            part = {"Range": f"bytes={start}-", **headers} if start else {}
            request = OutgoingRequest("GET", route, params, {**_IDENTITY, **part})
            return self._download(request, deadline, start)

        return resumed(ask, start, self._resume)

    @contextlib.contextmanager
    def _download(
        self, request: OutgoingRequest, deadline: Deadline, start: int
    ) -> Iterator[Download]:
        transfer = Transfer(deadline, read_timeout=self.total_timeout)
        with self._sender.exchange(request, transfer) as response:
            if response.status_code >= 300:
                raise self._refusal(request, response, deadline)
            if "html" in response.headers.get("content-type", ""):
                raise unexpected(self._sender.beginning(response, deadline, SMALL), "a file")
            if not _is_file(response, start):
                raise _no_file(self._sender.answer(response, b""))
            length = body_length(response)
            chunks = self._sender.chunks(response, length, deadline)
            part = range_of(response.headers) if response.status_code == 206 else None
            length = length if part is None else part.end - part.start
            yield Download(response.status_code, response.headers, length, chunks)

    def upload(
        self,
        route: str,
        fields: Mapping[str, str],
        file: BinaryIO | bytes | Path,
        file_name: str,
        *,
        part: str = "image",
        digest: str | None = None,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> Any:
        """Send ``file`` piece by piece in a multipart POST, and return the decoded answer.

        ``digest``: its SHA-256 in hexadecimal digits; a file that has another one is not sent to
        its end, and ``FileChanged`` is raised.

        ``timeout``: seconds for all of it; ``None``: an hour.  It ends earlier if no data moves
        for the client's own timeout, or if the server has all data and does not answer in that
        time, plus one second for each 10 MB, which it has to store.
        """
        from ..upload import opened  # many programs send no files
        from .multipart import Form

        deadline = Deadline.after(MAX_TRANSFER if timeout is None else timeout)
        with opened(file) as (stream, size):
            form = Form(fields, part, file_name, stream, size, on_progress, digest)
            headers = {"Content-Type": form.content_type}
            request = OutgoingRequest("POST", route, headers=headers, body=form)
            # While a file is sent it is enough that it moves; for the rest there is the deadline.
            transfer = Transfer(
                deadline,
                send_timeout=self.total_timeout,
                read_timeout=self.total_timeout + size / STORED,
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
        """Return the typed error for what the server refused."""
        answer = self._sender.beginning(response, deadline, SMALL)
        size = len(request.body) if request.body else None
        asker = Asker(
            base=self.address.http_url,
            user=self.identity.user,
            has_credentials=self.identity.credentials is not None,
            left_behind=self.left_behind,
            is_foreign=self._sender.has_api_prefix is None and self._sender.is_foreign,
        )
        return refusal(answer, size, asker)


class _Body(bytes):
    """A request body, whose repr shows no key that it may hold."""

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
    """Check that a value is a positive whole number."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of bytes, not {value!r:.80}")
    if value < 1:
        raise ValueError(f"{name} must be a number of bytes, more than 0")
    return value


def _is_file(response: requests.Response, start: int) -> bool:
    """Return whether a body is a file byte for byte: all of it, or some of it from ``start`` on."""
    headers = response.headers
    if headers.get("content-encoding", "").strip().lower() not in ("", "identity"):
        return False
    if headers.get("content-type", "").strip().lower().startswith("multipart/byteranges"):
        return False  # several ranges, with lines between them
    part = range_of(headers)
    if response.status_code in (200, 203):  # some caches give a range for the whole
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
