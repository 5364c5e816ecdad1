"""The HTTP edge: the only module that knows requests.

One Session with a sized pool serves every route.  Each call has a deadline and a maximum
size, each failure becomes one of our errors, nothing is redirected, and credentials are
put on here, for the configured origin only.  Beside it: ``answers`` (what the server said,
as typed errors), ``deadline`` (connections that keep to one), ``multipart`` (bodies).
"""

from __future__ import annotations

import contextlib
import functools
import io
import json as jsonlib
import logging
import math
import os
import re
import socket
import ssl
import sys
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from http.cookiejar import Cookie
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import attrs
import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.cookies import RequestsCookieJar, extract_cookies_to_jar
from urllib3.exceptions import ClosedPoolError
from urllib3.util import Retry

from .. import credentials as creds
from .._version import __version__
from ..errors import (
    AuthenticationError,
    ClientClosed,
    ComfyError,
    RequestTimeout,
    ServerUnreachable,
    TransportError,
    UnexpectedResponse,
    printable,
)
from ..values import OutOfTime, reading_until, seconds_to_decode, size_decoded
from .deadline import Deadline, read_timeout
from .failures import (
    bare,
    causes,
    explain,
    interruption,
    is_of_the_system,
    one_line,
    told,
    without_libraries,
)
from .multipart import Form, opened
from .pool import POOL_CLASSES, Exchange, current, keep_to_deadlines
from .response import Answer, Download, refusal, route_is_missing, unexpected
from .url import Address

if TYPE_CHECKING:
    from ..recording.recorder import Recorder
    from ..recording.secrets import Secrets

__all__ = ["MAX_ANSWER", "SMALL", "UNSET", "Answer", "Download", "Http", "segment"]

#: Largest answer that is kept in memory as it came, in bytes.
MAX_ANSWER = 1 << 30
#: Largest answer that is decoded, unless the caller says so: definitions, queue, history.
MAX_JSON: Final = 64 << 20
#: Largest answer of routes that say little: receipts, counts, refusals.
SMALL: Final = 1 << 20
#: Bytes that one byte of an answer may take when it is decoded.  What a ComfyUI sends takes
#: 5 to 8; brackets alone take 27, and seconds, in which no other thread runs.
GROWTH: Final = 10
#: Bytes of an answer for one key in it, at the least.  What a ComfyUI sends has one in 14 to 30,
#: but hardly so much of it; different keys by the million take a microsecond each.
KEYED: Final = 20
#: Bytes of all cookies that are kept: ComfyUI takes 8190 of any header, most proxies 16 KiB.
MOST_COOKIES: Final = 1 << 14
#: Seconds that one upload or download may take in all.
MAX_TRANSFER: Final = 3600.0
#: Bytes a second at which a server stores what was uploaded, at the least, before it answers.
STORED: Final = 10e6
#: Requests that share the pool; more of them wait for a new connection, not for each other.
POOL_SIZE: Final = 32
#: Seconds without an answer after which kept connections are not trusted with a POST: a NAT or
#: firewall on the way may have forgotten them without a word.  For requests with a read timeout
#: of their own, it is that.
STALE: Final = 20.0

#: Proxies that requests knows.
_PROXIES: Final = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")

#: Bytes of one read: a larger buffer is fresh memory, which costs more than the reads it saves.
_CHUNK = 1 << 19

Value = str | int | float | None
#: A query: a name may stand for several values, and what is ``None`` is left out.
Params = Mapping[str, Value | Sequence[Value]] | Iterable[tuple[str, Value | Sequence[Value]]]


Model = TypeVar("Model")


class _Unset:
    pass


UNSET: Final = _Unset()


def segment(text: str) -> str:
    """``text`` as one segment of a path.

    Raises ``ValueError`` for what could only mean another route: ``""``, ``"."``, ``".."``.
    """
    if not isinstance(text, str):
        raise TypeError(f"a name or an id is a text, not {text!r:.80}")
    if text in ("", ".", ".."):
        raise ValueError(f"the name or id {text!r} cannot stand in a path")
    return quote(text, safe="")


@attrs.frozen
class Description:
    """What a client sends, and where to, without a secret.

    Attributes:
        url: The server.
        user: The user that requests name; ``None`` for none.
        credentials: The kind of credentials; ``None`` for none.
        sent: Names of what went along to prove who we are: headers, ``?parameters=``, and what a
            given Session adds.
        sends_origin: Whether a header says ``Origin``, which a ComfyUI compares with its host.
        has_api_prefix: Whether routes are below ``/api``; ``None`` if that is not known yet.
    """

    url: str
    user: str | None
    credentials: str | None
    sent: tuple[str, ...]
    sends_origin: bool
    has_api_prefix: bool | None


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
        proxies: Mapping[str, str | None] | None = None,
        headers: Mapping[str, str] | None = None,
        session: requests.Session | None = None,
        max_json: int = MAX_JSON,
    ) -> None:
        creds.check(credentials)
        creds.check_headers(headers or {}, "the given")
        creds.check_headers({"Comfy-User": user or ""}, "the")
        self.address = address
        if isinstance(credentials, tuple):  # whose repr would show it
            credentials = creds.BasicCredentials(*credentials)
        self.credentials = credentials
        self.connect_timeout: float
        self.total_timeout: float
        self.connect_timeout, self.total_timeout = _timeouts(timeout)
        self.max_json = _bytes("max_json", max_json)
        self._own_session = session is None
        self._session = _new_session() if session is None else session
        self._given_cookies = [str(cookie.value) for cookie in self._session.cookies]
        if session is not None:
            _check_adapter(session, address)
        self._live: set[Exchange] = set()  # each step of a set is whole: no lock
        self.recorder: Recorder | None = None  #: Takes down every exchange.
        self._answered_at = float("-inf")
        self._given_headers = dict(headers or {})
        self._user = user
        self._verify = os.fspath(verify) if isinstance(verify, os.PathLike) else verify
        self._cert = cert
        self._proxies = proxies
        # Guards the template, which every request copies.  Re-entrant: a finalizer or a handler
        # of a signal may ask something, too.
        self._lock = threading.RLock()
        self._template: requests.PreparedRequest | None = None
        self._applied = creds.NOTHING
        self._api: bool | None = None  # whether routes live under /api; None: not known yet
        self._is_foreign = False  # whether neither was there when it was looked for last
        self._closed = False
        self.left_behind = False  #: Whether a pickle, in which no secret travels, lost some.
        _hide_in_logs(self)

    # -- what does not change ------------------------------------------------------------

    @functools.cached_property
    def verify(self) -> bool | str:
        """What to trust: as given, else as the Session or the environment says."""
        verify = self._verify
        if verify is True:
            verify = self._session.verify or False  # None is that, to requests
        if verify is True and self._session.trust_env:
            bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
            verify = bundle or True
        if isinstance(verify, str) and not os.path.exists(verify):
            raise FileNotFoundError(f"no CA bundle at {verify!r} (verify=, REQUESTS_CA_BUNDLE)")
        return verify

    @functools.cached_property
    def cert(self) -> str | tuple[str, str] | None:
        """The client's certificate: as given, else the Session's."""
        cert = self._cert or self._session.cert
        for file in () if cert is None else (cert,) if isinstance(cert, str) else cert:
            if not os.path.exists(file):
                raise FileNotFoundError(f"no client certificate or key at {file!r} (cert=)")
        return cert

    @functools.cached_property
    def proxies(self) -> dict[str, str]:
        """Proxies by scheme.  The own machine is never reached through one."""
        return self._proxies_and_reason[0]

    @property
    def proxy_reason(self) -> str:
        """Who decided on :attr:`proxies`, in words."""
        return self._proxies_and_reason[1]

    @functools.cached_property
    def _proxies_and_reason(self) -> tuple[dict[str, str], str]:
        if self.address.is_loopback:
            return {}, "the own machine is never reached through one"
        if self._proxies is not None:
            given = self._proxies.items()  # requests takes ``None`` for a scheme that has none
            return {scheme: url or "" for scheme, url in given}, "proxies="
        if self._session.proxies:
            return dict(self._session.proxies), "proxies of the Session"
        if not self._session.trust_env:
            return {}, "trust_env=False of the Session"
        found = requests.utils.get_environ_proxies(self.address.http_url)
        names = [name for name in os.environ if name.lower().endswith("_proxy")]
        return found, f"the environment ({', '.join(sorted(names)) or 'no variable is set'})"

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

    @functools.cached_property
    def _usable_proxies(self) -> dict[str, str]:
        """:attr:`proxies`; an error when the one for us is none, which requests says in its own."""
        proxy = self.proxy or "http://none"
        try:
            parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
            is_one = parts.scheme in _PROXIES and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_one = False
        if not is_one:  # and what is given is not shown: it may hold a password
            raise ServerUnreachable(
                f"{self.address.http_url}: what is given as a proxy ({self.proxy_reason}) is none; "
                "write http://proxy:3128, or take none with proxies={}",
                retryable=False,
            )
        return self.proxies

    def url(self, route: str, params: Params | None = None) -> str:
        """The absolute URL of a route, without credentials."""
        return self.address.http_url + self._path(route) + _query(params)

    # -- credentials ---------------------------------------------------------------------

    def refresh_credentials(self) -> bool:
        """Ask for the credentials anew; whether they changed."""
        applied = creds.apply(self.credentials)
        with self._lock:
            changed = applied != self._applied
            if changed and self._template is not None:
                self.secrets()  # those that were sent stay secret
            if changed or self._template is None:
                template = self._prepare(applied)
                self._applied, self._template = applied, template
                if self.recorder is not None:  # before anybody sends them
                    self.tell_secrets(self.recorder.secrets)
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
        request = self._new_request("GET", route, params, {}, None)
        # The server compares an Origin with Host and may refuse; a script has none to send.
        skip = {
            "accept",
            "accept-encoding",
            "connection",
            "content-type",
            "content-length",
            "origin",
        }
        headers = {
            name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            for name, value in request.headers.items()
            if name.lower() not in skip
        }
        query = (request.url or "").partition("?")[2]
        return f"{self.address.ws_url}{route}?{query}", headers

    def _prepare(self, applied: creds.Applied) -> requests.PreparedRequest:
        """What all requests share, merged with the Session's own settings once."""
        headers: dict[str, str] = {}
        if self._user:
            headers["Comfy-User"] = self._user
        headers.update(self._given_headers)
        headers.update(applied.headers)
        template = self._session.prepare_request(
            requests.Request(
                "GET",
                self.address.http_url + "/",
                headers=headers,
                params=dict(applied.query),
                # A callable keeps .netrc from replacing our Authorization.
                auth=_leave_as_it_is,
            )
        )
        given = {name.lower() for name in (*headers, *self._session.headers)}
        if "cookie" not in given:  # the jar's may change, so each request asks it
            template.headers.pop("Cookie", None)
        # Bytes are sent as they are; and of hooks the stubs tell no types.
        template.headers.update(creds.as_sent(template.headers))  # type: ignore[arg-type]
        template.register_hook("response", _keep_redirect)  # type: ignore[no-untyped-call]
        return template

    def describe(self) -> Description:
        """What is sent, and where to: facts without a secret; asks nobody anything."""
        names = [*self._applied.headers, *(f"?{name}=" for name in self._applied.query)]
        given = [*self._given_headers, *self._session.headers]
        names += [name for name in given if name.lower() in ("authorization", "cookie")]
        if self._session.auth:
            names.append("auth of the Session")
        if self._session.cookies:
            names.append("cookies of the Session")
        return Description(
            url=self.address.http_url,
            user=self._user or None,
            credentials=None if self.credentials is None else type(self.credentials).__name__,
            sent=tuple(names),
            sends_origin=any(name.lower() == "origin" for name in given),
            has_api_prefix=self._api,
        )

    def tell_words(self, secrets: Secrets) -> None:
        """:meth:`tell_secrets`, and whatever else of the settings may be secret or personal.

        User names, all headers that were given, and proxies of the environment.
        """
        self.tell_secrets(secrets)
        session = self._session
        secrets.add_headers(self._given_headers)
        if self._template is not None:  # else nothing was sent yet
            secrets.add_headers(self._template.headers)
        words = [self._user or "", *_words(session.auth), *_words(self.credentials)]
        words += [str(cookie.value) for cookie in session.cookies]
        proxies = [*(self._proxies or {}).values(), *session.proxies.values()]
        proxies += [value for name, value in os.environ.items() if name.lower().endswith("_proxy")]
        for proxy in filter(None, proxies):
            userinfo = proxy.rpartition("@")[0].rpartition("//")[2]
            pair = (userinfo, *userinfo.split(":", 1))
            words += [*pair, *map(unquote, pair)]
        secrets.add(words)

    def tell_secrets(self, secrets: Secrets) -> None:
        """What proves who we are, to the server and to proxies, as far as it is known by now.

        Of headers that are no credentials those whose names say so: the rest may be any word.
        """
        from ..recording.secrets import is_secret_name  # whoever has Secrets has loaded it

        template, session = self._template, self._session
        sent = self._given_headers if template is None else template.headers
        secrets.add_headers(self._applied.headers, pinned=True, are_credentials=True)
        secrets.add_headers(self._without_jar(sent), pinned=True, named_only=True)
        secrets.add(self._applied.query.values(), pinned=True)
        if template is not None:
            secrets.add_query((template.url or "").partition("?")[2])
        given = [*(self._proxies or {}).values(), *session.proxies.values()]
        for proxy in filter(None, [*given, *self.proxies.values()]):
            secrets.add_url(proxy)
        secrets.add_auth(session.auth)
        secrets.add(self._given_cookies, pinned=True)
        with contextlib.suppress(RuntimeError):  # another thread is given one: known next time
            for cookie in session.cookies:  # of servers, too: some are no secret, "dark" or "true"
                shortest = 8 if is_secret_name(cookie.name) else 16
                secrets.add([str(cookie.value)], shortest)

    @functools.cached_property
    def _secrets(self) -> Secrets:
        from ..recording.secrets import Secrets  # only errors want it

        return Secrets()

    def secrets(self) -> Secrets:
        """All that was sent so far and may be secret, credentials that were changed included.

        For texts of errors and logs, which are no facts: values of other headers are hidden too.
        """
        template = self._template
        self.tell_secrets(self._secrets)
        sent = self._given_headers if template is None else template.headers
        self._secrets.add_headers(self._without_jar(sent), pinned=True)
        return self._secrets

    def entrust(self, value: Any) -> None:
        """Something that goes to the server, in which names tell what is secret."""
        self._secrets.add_named(value, pinned=True)

    def hide(self, value: Any) -> Any:
        """A text, or the texts in JSON, of a server without what is secret of ours."""
        return self.secrets().hide_words_in(value)

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
        most: int | None = None,
        pause: float = math.inf,
    ) -> Answer:
        """One request and its whole answer.

        ``timeout`` is the deadline in seconds for all of it; ``None`` takes the client's.
        ``most`` bytes are read; ``None``: :data:`MAX_ANSWER`.  ``pause``: seconds for which
        the server may be silent, before its answer and within it.
        Raises the typed error for any status from 300 on that is not in ``allow``; of what
        such an answer says, the first :data:`SMALL` bytes are read.
        """
        extra: dict[str, str | bytes] = {}
        if headers:
            headers = creds.sealed(headers)
            creds.check_headers(headers, "the given")
            extra = creds.as_sent(headers)
        body = data
        if not isinstance(json, _Unset):
            text = jsonlib.dumps(json, allow_nan=False, separators=(",", ":"))
            body, text = _Body(text.encode()), ""
            extra.setdefault("Content-Type", "application/json")
        deadline = Deadline.after(self.total_timeout if timeout is None else timeout)
        with self._exchange(method, route, params, extra, body, deadline, pause) as response:
            if response.status_code >= 300 and response.status_code not in allow:
                answer = self._beginning(response, deadline)
                raise self._refusal(answer, size=len(body) if body else None)
            return self._whole(response, deadline, MAX_ANSWER if most is None else most)

    def order(self, method: str, route: str, **kw: Any) -> None:
        """:meth:`request` of something to be done, to which a server says nothing: no page."""
        answer = self.request(method, route, most=SMALL, **kw)
        if answer.is_page:
            raise unexpected(answer, "an empty answer")

    def json(self, method: str, route: str, *, most: int | None = None, **kw: Any) -> Any:
        """:meth:`request`, decoded, whatever kind it says to be: some proxies call all a page.

        ``most`` bytes are read; ``None``: ``max_json``.
        """
        return self.model(method, route, _as_it_is, most=most, **kw)

    def model(
        self,
        method: str,
        route: str,
        into: Callable[[Any], Model],
        *,
        most: int | None = None,
        timeout: float | None = None,
        **kw: Any,
    ) -> Model:
        """What ``into`` makes of a decoded answer, all of it within one deadline."""
        most = self.max_json if most is None else most
        deadline = Deadline.after(self.total_timeout if timeout is None else timeout)
        answer = self.request(method, route, most=most, timeout=timeout, **kw)
        if len(answer.content) > SMALL:
            self._check_weight(answer, most, deadline)
        try:
            with reading_until(deadline.at):
                return into(answer.json())
        except OutOfTime:
            pass  # its frames hold the answer
        raise RequestTimeout(
            f"{method} {answer.url}: the answer came, and there was no time left to read all of "
            "it: raise timeout, or ask for less"
        )

    def _check_weight(self, answer: Answer, most: int, deadline: Deadline) -> None:
        """An error for an answer that takes more memory, or time, to decode than it may."""
        needed, keys = size_decoded(answer.content), answer.content.count(b":")
        if needed > GROWTH * most:
            how = f"would take about {needed >> 20} MiB decoded, {GROWTH * most >> 20} are"
            raise self._too_much(answer, how)
        if keys > most // KEYED:
            raise self._too_much(answer, f"has about {keys} keys, {most // KEYED} are")
        seconds, left = seconds_to_decode(answer.content), deadline.left()
        if seconds > left:
            raise RequestTimeout(
                f"{answer.method} {answer.url}: the answer came, and may take {seconds:.1f} s to "
                f"decode, of which {left:.1f} s are left: raise timeout, or ask for less"
            )

    def content(
        self, route: str, *, params: Params | None = None, timeout: float | None = None
    ) -> bytes:
        """A file, in memory; as :meth:`download`."""
        answer = self.request(
            "GET",
            route,
            params=params,
            headers=_AS_IT_IS,
            timeout=MAX_TRANSFER if timeout is None else timeout,
            pause=self.total_timeout,
        )
        if not _is_file(answer.status, answer.headers):
            raise _no_file(answer)
        return answer.content

    @contextlib.contextmanager
    def download(
        self,
        route: str,
        *,
        params: Params | None = None,
        timeout: float | None = None,
    ) -> Iterator[Download]:
        """A body as it comes, with constant memory.

        ``timeout`` is the deadline in seconds for the whole body; ``None``: an hour.  A
        pause of the client's own timeout ends it too.
        """
        deadline = Deadline.after(MAX_TRANSFER if timeout is None else timeout)
        pause = self.total_timeout
        with self._exchange("GET", route, params, _AS_IT_IS, None, deadline, pause) as response:
            if response.status_code >= 300:
                raise self._refusal(self._beginning(response, deadline))
            if "html" in response.headers.get("content-type", ""):
                raise unexpected(self._beginning(response, deadline), "a file")
            if not _is_file(response.status_code, response.headers):
                raise _no_file(self._answer(response, b""))
            yield Download(
                response.status_code,
                response.headers,
                _length(response),
                self._chunks(response, deadline),
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

        ``timeout`` is the deadline in seconds; ``None``: an hour.  It ends, too, when for the
        client's own timeout nothing gets away, or there is no answer once all of it has; a
        second more for each 10 MB, which the server has to store first.
        """
        deadline = Deadline.after(MAX_TRANSFER if timeout is None else timeout)
        with opened(file) as (stream, size):
            form = Form(fields, part, file_name, stream, size)
            extra = {"Content-Type": form.content_type}
            pause = self.total_timeout + size / STORED
            try:
                with self._exchange("POST", route, None, extra, form, deadline, pause) as response:
                    refused = response.status_code >= 300
                    answer = (
                        self._beginning(response, deadline)
                        if refused
                        else self._whole(response, deadline, SMALL)
                    )
            except TransportError:
                if form.failure is None:
                    raise
            if form.failure is not None:
                raise form.failure
        if answer.status >= 300:
            raise self._refusal(answer, size=len(form))
        return answer.json()

    def close(self) -> None:
        """End all that is under way in other threads, which get :class:`ClientClosed`.

        Closes our own Session; a Session that was given stays open.  Safe to repeat.
        """
        self._closed = True
        for exchange in self._live.copy():
            exchange.cut()
        if self._own_session:
            self._session.close()

    def shutdown(self) -> Callable[[], None]:
        """What closes our own Session, without keeping a hold on this object."""
        return self._session.close if self._own_session else lambda: None

    def after_fork(self) -> None:
        """In the child: the pool's connections are the parent's."""
        self._lock = threading.RLock()
        self._live = set()
        self.recorder = None  # the file is the parent's
        self._session.close()  # ends nothing of the parent's; a Session goes on with new ones
        if self._own_session:
            self._session = _new_session()

    # -- the wire ------------------------------------------------------------------------

    def _path(self, route: str) -> str:
        if route.startswith(("/internal/", "/api/")) or self._api is False:
            return route
        return "/api" + route

    @contextlib.contextmanager
    def _exchange(
        self,
        method: str,
        route: str,
        params: Params | None,
        headers: Mapping[str, str | bytes],
        body: bytes | Form | None,
        deadline: Deadline,
        pause: float = math.inf,
    ) -> Iterator[requests.Response]:
        """Send one request; the answer's body is still on the wire.

        ``pause``: seconds that the server may be silent, in the middle of its answer too.
        """
        if self._template is None:
            self.refresh_credentials()
        path = self._path(route)
        # While a file is sent it is enough that it moves; for the rest there is the deadline.
        exchange = Exchange(deadline, self.total_timeout if isinstance(body, Form) else math.inf)
        rest = params, headers, body, exchange, pause
        try:
            self._live.add(exchange)
            response = self._send(method, path, *rest)
            try:
                if response.status_code == 401 and self.refresh_credentials():
                    response.close()
                    response = self._send(method, path, *rest)
                if self._api is None:
                    if response.status_code < 300 and path != route:
                        self._api = True
                    elif response.status_code in (404, 405, 501):
                        self._find_routes(deadline)
                        # Nobody took the request, so it may be sent to where the routes are.
                        if self._api is False and path != route:
                            response.close()
                            response = self._send(method, route, *rest)
                if response.status_code == 206 and "Range" not in response.request.headers:
                    raise _only_a_part(self._answer(response, b""))
                yield response
            finally:
                response.close()
        except (ComfyError, GeneratorExit):
            raise
        except BaseException as exc:
            without_libraries(exc)
            # A Ctrl-C, or an alarm, may come anywhere in urllib3: when a connection was given
            # back, and who gave it does not know yet and would do so again, for two to share.
            if self._own_session:
                self._drop_kept(self.address.http_url)
            raise
        finally:
            self._live.discard(exchange)

    def _find_routes(self, deadline: Deadline) -> None:
        """Whether ``/api/prompt`` or, before June 2024, ``/prompt`` is there."""
        exchange = Exchange(deadline)
        statuses = set()
        try:
            self._live.add(exchange)
            for path in ("/api/prompt", "/prompt"):
                with self._send("GET", path, None, {}, None, exchange) as response:
                    statuses.add(response.status_code)
                    if response.status_code == 200 and "json" in response.headers.get(
                        "content-type", ""
                    ):
                        self._api = path != "/prompt"
                        return
        finally:
            self._live.discard(exchange)
        # What else is said (401, 502) tells nothing of who is there.
        self._is_foreign = statuses <= {200, 404, 405, 501}

    def _new_request(
        self,
        method: str,
        path: str,
        params: Params | None,
        headers: Mapping[str, str | bytes],
        body: bytes | Form | None,
    ) -> requests.PreparedRequest:
        with self._lock:
            template = self._template or self._prepare(self._applied)
        request = requests.PreparedRequest()
        request.method = method
        request.url = self.address.http_url + path + _query(params)
        fixed = (template.url or "").partition("?")[2]  # a token, the Session's own params
        if fixed:
            request.url += f"{'&' if '?' in request.url else '?'}{fixed}"
        request.headers = template.headers.copy()
        request.headers.update(headers)  # type: ignore[arg-type]  # bytes are sent as they are
        request.hooks = {name: [*hooks] for name, hooks in template.hooks.items()}
        request.body = body  # type: ignore[assignment]  # an iterable with a length is a body too
        if body is not None or method in ("POST", "PUT", "PATCH"):
            request.headers["Content-Length"] = str(len(body) if body else 0)
        if self._session.cookies or self._session.auth:
            request.prepare_cookies(self._session.cookies)  # leaves a Cookie that is there
        if self._session.auth and not self._applied.headers:
            request.prepare_auth(self._session.auth)  # last, for it may sign all the rest
        return request

    def _send(
        self,
        method: str,
        path: str,
        params: Params | None,
        headers: Mapping[str, str | bytes],
        body: bytes | Form | None,
        exchange: Exchange,
        pause: float = math.inf,
    ) -> requests.Response:
        url = self.address.http_url + path
        request = self._new_request(method, path, params, headers, body)
        verify, cert = self.verify, self.cert
        tries = 2 if method in ("GET", "HEAD") else 1
        # A POST cannot be sent again, and with a short read timeout there is no time to find out.
        if time.monotonic() - self._answered_at > (STALE if tries == 1 else read_timeout.get()):
            self._drop_kept(url)
        while True:
            self._check_open()
            left = exchange.deadline.left()
            if not left:
                raise RequestTimeout(f"{method} {url}: no time left to ask")
            record, outer = None, sys.exception()
            if self.recorder is not None:
                record = self.recorder.exchange(request, self.address.http_url)
            token = current.set(exchange)
            cause: BaseException | None
            try:
                if not self._own_session:
                    self._prepare_pool(request)
                response = self._session.send(
                    request,
                    stream=True,
                    timeout=(min(self.connect_timeout, left), min(pause, read_timeout.get(), left)),
                    verify=verify,
                    cert=cert,
                    proxies=self._usable_proxies,  # no local: passwords stand in them
                    allow_redirects=False,
                )
            except _FAILURES as exc:
                if any(isinstance(each, ClosedPoolError) for each in causes(exc, outer)):
                    continue  # another thread has dropped what was kept; nothing was sent
                error, cause = _transport_error(exc, outer, method, url, self.connect_timeout)
            else:
                self._answered_at = time.monotonic()
                if response.status_code >= 200:
                    if record is not None:
                        head = response.status_code, response.raw.headers
                        response.raw = record.answered(*head, response.raw)
                    return response
                response.raw.close()  # with its connection, on which the answer may follow
                error, cause = _only_announced(response.status_code, method, url), None
            finally:
                current.reset(token)
            if record is not None:
                record.failed(error)
            self._check_open()
            if type(error) is RequestTimeout:
                # A kept connection may be dead and not know it, and so may the others.
                self._drop_kept(url)
            # Here, not in the except clause: what requests raises holds the headers and the
            # query that were sent, so it may not hang on our error as its context.
            # A kept connection may have died unseen (the server was restarted): a GET is
            # asked once more, on a new one.
            tries -= 1
            if not tries or type(error) is not TransportError:
                raise error from cause

    def _prepare_pool(self, request: requests.PreparedRequest) -> None:
        """Have the pool of a given Session keep to our deadlines, if it is one of requests."""
        adapter = self._session.get_adapter(request.url or "")
        if isinstance(adapter, HTTPAdapter):
            pool = adapter.get_connection_with_tls_context(
                request, self.verify, proxies=self._usable_proxies, cert=self.cert
            )
            keep_to_deadlines(pool)

    def _drop_kept(self, url: str) -> None:
        """Close the connections that nobody uses; those in use go when they are done."""
        self._session.get_adapter(url).close()

    def _whole(self, response: requests.Response, deadline: Deadline, most: int) -> Answer:
        """All of it, in memory; an error when that is more than ``most`` bytes."""
        content = None
        if (_length(response) or 0) <= most:
            content = self._up_to(most, response, deadline)
        if content is None or len(content) > most:
            raise self._too_much(
                self._answer(response, b""), f"exceeds the {most} bytes that are", most
            )
        return self._answer(response, content)

    def _beginning(self, response: requests.Response, deadline: Deadline) -> Answer:
        """All of it, or a little more than :data:`SMALL` bytes, for an error to show."""
        return self._answer(response, self._up_to(SMALL, response, deadline))

    def _up_to(self, most: int, response: requests.Response, deadline: Deadline) -> bytes:
        """The body; when it is longer than ``most`` bytes, more than these of it."""
        body = io.BytesIO()  # grows in place, and gives its bytes without a copy
        for chunk in self._chunks(response, deadline, decode=True):
            body.write(chunk)
            if body.tell() > most:
                break
        return body.getvalue()

    def _answer(self, response: requests.Response, content: bytes) -> Answer:
        url = (response.url or "").partition("?")[0]
        return Answer(
            response.request.method or "",
            urlsplit(url).path,
            response.status_code,
            response.raw.headers,
            content,
            url,
            functools.partial(self._redact, response.request),
        )

    def _too_much(self, answer: Answer, how: str, most: int | None = None) -> UnexpectedResponse:
        may_be_raised = most is None or most == self.max_json
        advice = f"; max_json={2 * self.max_json} allows twice as much" if may_be_raised else ""
        return UnexpectedResponse(
            f"{answer.method} {answer.url}: the answer {how} allowed{advice}",
            method=answer.method,
            path=answer.path,
            status=answer.status,
        )

    def _without_jar(self, sent: Mapping[str, Any]) -> dict[str, Any]:
        """Headers without cookies of the jar: servers set these, and not all are secret."""
        keeps_cookie = any(name.lower() == "cookie" for name in self._given_headers)
        return {
            name: value for name, value in sent.items() if keeps_cookie or name.lower() != "cookie"
        }

    def _redact(self, request: requests.PreparedRequest, value: Any) -> Any:
        """A text, or texts in JSON, without what a request proved or entrusted to the server."""
        from ..recording.secrets import is_secret_name  # only errors want it

        secrets = self.secrets()
        secrets.add_headers(self._without_jar(request.headers))
        query = parse_qsl((request.url or "").partition("?")[2])
        secrets.add(word for name, word in query if is_secret_name(name, in_query=True))
        if isinstance(request.body, bytes):
            with contextlib.suppress(ValueError, RecursionError):
                secrets.add_named(jsonlib.loads(request.body))
        return secrets.hide_words_in(value)

    def _chunks(
        self, response: requests.Response, deadline: Deadline, *, decode: bool = False
    ) -> Iterator[bytes]:
        """The body piece by piece: never past the deadline, never silently short."""
        method = response.request.method or ""
        url = (response.url or "").partition("?")[0]
        length = _length(response)
        got = 0
        while length is None or got < length:
            if deadline.expired:
                raise RequestTimeout(f"{method} {url}: still dripping in at its deadline")
            outer = sys.exception()
            try:
                # read1 returns what has come; read would wait for all of the amount.
                chunk = response.raw.read1(_CHUNK, decode_content=decode or length is None)
            except _FAILURES as exc:
                error, cause = _transport_error(exc, outer, method, url, self.connect_timeout)
                if type(error) is TransportError and length is not None:
                    error = _short(method, url, got, length)
            else:
                if chunk:
                    got += len(chunk)
                    yield chunk
                    continue
                if length is None:
                    self._check_open()  # else this may be no end, but that of the client
                    return
                error, cause = _short(method, url, got, length), None
            self._check_open()
            raise error from cause
        if "transfer-encoding" in response.headers:
            response.raw.close()  # whatever follows an answer that has no body
        else:
            response.raw.drain_conn()  # nothing is left: this gives the connection back

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed

    def _refusal(self, answer: Answer, *, size: int | None = None) -> ComfyError:
        """The typed error for what the server refused."""
        error = refusal(answer, size, answer.url.removeprefix(self.address.http_url))
        stranger = f"the user {self._user!r} is not known to it (see create_user)"
        if not self._user:
            stranger = "it keeps users (--multi-user): give user=... (see create_user)"
        if answer.status == 401:
            given = "refused the credentials" if self.has_credentials else "wants credentials"
            advice = "pass credentials=..."
            if self.left_behind:
                advice = "they do not travel in a pickle: name them with EnvCredentials"
            elif self._user or _is_of_users(answer.path):
                advice += f", or {stranger}"
            message = f"{error}, the server or a proxy before it {given}; {advice}"
            return AuthenticationError(message, **answer.facts())
        if answer.status == 500 and _is_of_users(answer.path):
            error.add_note(f"or {stranger}")
        if (
            self._api is None
            and self._is_foreign
            and (answer.status == 404 or route_is_missing(answer))
        ):
            return UnexpectedResponse(
                f"{error}. Nor is there any /prompt, so this is no ComfyUI: another program on "
                "this port, or host lacks the path below which a proxy has it",
                **answer.facts(),
            )
        return error


def _words(holder: object) -> Iterator[str]:
    """All texts in credentials of any kind, or in the ``auth`` of a Session."""
    if isinstance(holder, creds.EnvCredentials):  # the name of the variable is no secret
        value = os.environ.get(holder.variable, "")
        yield from (value, *value.split(":", 1))
        return
    values: list[object] = [*holder] if isinstance(holder, tuple) else []
    names = getattr(type(holder), "__attrs_attrs__", ())
    values += [getattr(holder, field.name, None) for field in names]
    values += getattr(holder, "__dict__", {}).values()
    values += [each for value in values if isinstance(value, Mapping) for each in value.values()]
    yield from (value for value in values if isinstance(value, str))


def _as_it_is(value: Any) -> Any:
    return value


def _is_of_users(path: str) -> bool:
    """Whether a route wants to know who asks."""
    return "/settings" in path or "/userdata" in path


_warned: set[str] = set()


def _leave_as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _keep_redirect(response: requests.Response, **_: Any) -> None:
    """Told to follow nothing, requests still reads the body of a redirect and its target."""
    response.headers.pop("Location", None)


class _Response(requests.Response):
    """What this module uses of one, without the jar for cookies that each of them makes."""

    def __init__(self, request: requests.PreparedRequest, raw: Any) -> None:
        self.status_code = raw.status
        self.headers = raw.headers
        self.raw = raw
        self.url = request.url or ""
        self.request = request

    def close(self) -> None:
        """Done with the body, read or not."""
        self.raw.close()
        self.raw.release_conn()


class _Body(bytes):
    """What is sent, in which a key may stand: what shows the variables of a frame shows none."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


class _Adapter(HTTPAdapter):
    """The one pool for the one server, of connections that keep to a deadline."""

    _pool: Any = None

    def init_poolmanager(self, *args: Any, **kw: Any) -> None:
        super().init_poolmanager(*args, **kw)
        self.poolmanager.pool_classes_by_scheme = POOL_CLASSES

    def proxy_manager_for(self, proxy: str, **kw: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kw)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = POOL_CLASSES
        return manager

    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, *args: Any, **kw: Any
    ) -> Any:
        """Found once: neither the origin nor TLS nor the proxy of a client change."""
        pool = self._pool  # once: close() in another thread forgets it at any moment
        if pool is None:
            pool = super().get_connection_with_tls_context(request, *args, **kw)
            keep_to_deadlines(pool)  # those of SOCKS are not ours
            self._pool = pool
        return pool

    def request_url(self, request: requests.PreparedRequest, proxies: Any) -> str:
        """The path at once where there is no proxy, which may need the whole URL."""
        return super().request_url(request, proxies) if proxies else request.path_url

    def build_response(self, request: requests.PreparedRequest, raw: Any) -> requests.Response:
        """What this module uses of it."""
        return _Response(request, raw)

    def close(self) -> None:
        """At once: a pool that is merely let go ends its connections when it is collected."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()
        super().close()


class _Cookies(RequestsCookieJar):
    """As many as a server can take; others, however many it sets, are not kept."""

    def set_cookie(self, cookie: Cookie, *args: Any, **kw: Any) -> None:
        """Keep it, if there is room beside the others."""
        kept: Iterable[Any] = list(self)  # of cookies, whatever the stubs say
        others = (other for other in kept if _key(other) != _key(cookie))
        if sum(map(_size, (cookie, *others))) <= MOST_COOKIES:
            super().set_cookie(cookie, *args, **kw)


def _key(cookie: Cookie) -> tuple[str, str, str]:
    return cookie.domain, cookie.path, cookie.name


def _size(cookie: Cookie) -> int:
    return len(cookie.domain) + len(cookie.path) + len(cookie.name) + len(cookie.value or "")


class _Session(requests.Session):
    """Sends without what this module has no use for: redirects, hooks, a history."""

    def send(self, request: requests.PreparedRequest, **kw: Any) -> requests.Response:
        kw.pop("allow_redirects")
        response = self.get_adapter(request.url or "").send(request, **kw)
        if "set-cookie" in response.headers:
            # The stubs tell no types of it.
            extract_cookies_to_jar(self.cookies, request, response.raw)  # type: ignore[no-untyped-call]
        return response


def _new_session() -> requests.Session:
    session = _Session()
    session.cookies = _Cookies()
    session.headers["User-Agent"] = f"comfy-client/{__version__}"
    del session.headers["Connection"]  # says what HTTP/1.1 means anyhow
    adapter = _Adapter(pool_connections=4, pool_maxsize=POOL_SIZE)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


class _Hiding(logging.Filter):
    """Has the logs of libraries, and tracebacks in ours, show no secret of a client that lives.

    urllib3 logs URLs with their query, and headers of a server that it cannot read;
    websocket-client the whole handshake.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.RLock()  # guards the set, which threads may add to meanwhile
        self._clients: weakref.WeakSet[Http] = weakref.WeakSet()

    def add(self, client: Http) -> None:
        """From now on, of this client too."""
        with self._lock:
            self._clients.add(client)

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            self._hide(record)
        except Exception as exc:  # noqa: BLE001  # a log is no reason to fail
            record.msg, record.args = f"a record that cannot be told: {type(exc).__name__}", ()
            record.exc_info = None
        return True

    def _hide(self, record: logging.LogRecord) -> None:
        if record.name != _OURS:
            said = record.getMessage()
            shown = one_line(self._hidden(said))
            if shown != said:
                record.msg, record.args = shown, ()
        elif isinstance(record.args, tuple):
            # An error may hold a server's words: no line of a log is made by them.
            record.args = tuple(
                one_line(str(arg)) if isinstance(arg, BaseException) else arg for arg in record.args
            )
            said = record.getMessage()
            shown = printable(said)  # ids and names of a server stand in others
            if shown != said:
                record.msg, record.args = shown, ()
        if record.exc_info and record.exc_info[1] is not None:
            said = "".join(traceback.format_exception(record.exc_info[1])).rstrip()
            shown = printable(self._hidden(said))
            if shown != said:
                record.exc_info, record.exc_text = None, shown

    def _hidden(self, text: str) -> str:
        with self._lock:
            clients = list(self._clients)
        for client in clients:
            text = client.secrets().hide_words(text)
        return text


_OURS = "comfy_client"
_hiding: Final = _Hiding()


def _hide_in_logs(client: Http) -> None:
    _hiding.add(client)
    _watch_loggers()


@functools.cache
def _watch_loggers() -> None:
    """Once: those of libraries are made when these are imported."""
    known = [name for name in list(logging.root.manager.loggerDict) if name.startswith(_LOGGERS)]
    for name in (*known, "websocket", _OURS):
        logging.getLogger(name).addFilter(_hiding)


#: Libraries that log what is sent and what comes.
_LOGGERS = ("requests", "urllib3", "websocket")


def _check_adapter(session: requests.Session, address: Address) -> None:
    """``ValueError`` when a Session would send a POST again that may have arrived."""
    with contextlib.suppress(requests.exceptions.InvalidSchema):
        retries = getattr(session.get_adapter(address.http_url + "/"), "max_retries", None)
        if isinstance(retries, Retry) and _repeats_posts(retries):
            raise ValueError(
                "session: its adapter sends a POST again whose answer did not come, and so a "
                "prompt might run twice: leave POST out of allowed_methods of its Retry"
            )


def _repeats_posts(retries: Retry) -> bool:
    """Asked of itself: its counters and its methods decide together."""
    statuses = {413, 429, 503, *(retries.status_forcelist or ())}
    outcomes = [
        {"error": urllib3.exceptions.ProtocolError()},
        *(
            {"response": urllib3.HTTPResponse(status=status)}
            for status in statuses
            if retries.is_retry("POST", status, has_retry_after=True)
        ),
    ]
    for outcome in outcomes:
        try:
            retries.increment("POST", "/", **outcome)  # type: ignore[arg-type]  # mixed values
        except urllib3.exceptions.HTTPError:
            continue
        return True
    return False


def _timeouts(timeout: float | tuple[float, float]) -> tuple[float, float]:
    connect, total = timeout if isinstance(timeout, tuple) else (timeout, timeout)
    what = "timeout is in seconds, more than 0: one number or (connect, total)"
    if not (isinstance(connect, int | float) and isinstance(total, int | float)):
        raise TypeError(what)
    if not (connect > 0 and total > 0):
        raise ValueError(what)
    return float(connect), float(total)


def _bytes(name: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is a number of bytes, not {value!r:.80}")
    if value < 1:
        raise ValueError(f"{name} is a number of bytes, more than 0")
    return value


def _query(params: Params | None) -> str:
    if not params:
        return ""
    given: list[tuple[str, Value]] = []
    for name, value in params.items() if isinstance(params, Mapping) else params:
        values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        given += [(name, each) for each in values if each is not None]
    return "?" + urlencode(given, quote_via=quote) if given else ""


def _length(response: requests.Response) -> int | None:
    """Bytes of the body that will come out, ``None`` when that is not known."""
    if response.request.method == "HEAD" or response.status_code in (204, 304):
        return 0
    if "transfer-encoding" in response.headers:  # which counts, whatever length is named beside
        return None
    text = response.headers.get("content-length", "")
    encoded = "content-encoding" in response.headers
    # Python converts no number of thousands of digits.
    return int(text) if text.isdecimal() and len(text) < 20 and not encoded else None


#: Asked of files: the length of what arrives is checked, so no encoding may come between.
_AS_IT_IS: Final = {"Accept-Encoding": "identity"}


def _is_file(status: int, headers: Mapping[str, str]) -> bool:
    """Whether a body is a whole file, byte for byte."""
    encoding = headers.get("content-encoding", "").strip().lower()
    return status in (200, 203) and encoding in ("", "identity")


def _no_file(answer: Answer) -> UnexpectedResponse:
    encoding = answer.headers.get("content-encoding", "")
    said = f"encoded ({encoding[:40]}), which was not asked for" if encoding else "without a file"
    return UnexpectedResponse(
        f"{answer.method} {answer.url}: {answer.status}, an answer {said}",
        method=answer.method,
        path=answer.path,
        status=answer.status,
    )


def _only_a_part(answer: Answer) -> UnexpectedResponse:
    return UnexpectedResponse(
        f"{answer.method} {answer.url}: 206, a part of the answer, which was not asked for; "
        "something on the way (a cache, a proxy) does not keep to HTTP",
        method=answer.method,
        path=answer.path,
        status=answer.status,
    )


# -- failures of the transport ----------------------------------------------------------


#: What requests, urllib3 (while a body is read) and the socket raise.
_FAILURES = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)


def _only_announced(status: int, method: str, url: str) -> UnexpectedResponse:
    return UnexpectedResponse(
        f"{method} {url}: {status}, which announces an answer and is none",
        method=method,
        path=urlsplit(url).path,
        status=status,
    )


def _short(method: str, url: str, got: int, length: int) -> TransportError:
    return TransportError(f"{method} {url}: the answer ended after {got} of {length} bytes")


def _transport_error(
    exc: BaseException,
    outer: BaseException | None,
    method: str,
    url: str,
    connect_timeout: float,
) -> tuple[BaseException, BaseException | None]:
    """Our error, and what the system said: errors of libraries hold what was sent, and came."""
    interrupted = interruption(exc, outer)
    if interrupted is not None:
        return without_libraries(interrupted), interrupted.__cause__
    chain = list(causes(exc, outer))
    cause = next((c for c in chain if is_of_the_system(c)), None)
    names = {type(cause).__name__ for cause in chain}
    error: ComfyError
    if isinstance(exc, requests.exceptions.InvalidSchema):
        error = ServerUnreachable(f"{url}: {_about_schema(exc)}", retryable=False)
    elif "ProxyError" in names:
        status = next(filter(None, map(_tunnel_status, chain)), None)
        said = f": it answered {status}" if status else f": {told(cause)}" if cause else ""
        unknown = isinstance(cause, socket.gaierror) and cause.errno != socket.EAI_AGAIN
        error = ServerUnreachable(
            f"{url}: the proxy on the way (proxies=, or HTTP_PROXY, HTTPS_PROXY and NO_PROXY) "
            f"does not let us through{said}",
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
            # A route that breaks under a connection that was up says nothing of what was sent.
            error = TransportError(f"{error}, when the request may have been sent")
        elif is_new and not isinstance(error, ServerUnreachable):
            # Whatever it was that failed, such as a SOCKS proxy, nothing was sent.
            reason = told(cause) if cause else "no reason is given"
            error = ServerUnreachable(f"{url}: no connection ({reason})")
    return error, None if cause is None else bare(cause)


def _tunnel_status(exc: BaseException) -> int | None:
    """What a proxy answered, whose reason phrase may be anything."""
    found = re.match(r"Tunnel connection failed: (\d{3})\b", str(exc)[:100])
    return int(found[1]) if found else None


def _about_schema(exc: requests.exceptions.InvalidSchema) -> str:
    if "SOCKS" in str(exc):
        return (
            "a SOCKS proxy (proxies=, ALL_PROXY, HTTP_PROXY or HTTPS_PROXY) needs PySocks: "
            "pip install 'requests[socks]'; the event socket goes through http proxies only, so "
            "use transport='poll'; or take none with proxies={}"
        )
    return "the Session has no adapter for it"
