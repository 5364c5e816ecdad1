"""The server's address, and a client's credentials.

:class:`Endpoint` has address, certificates and proxies, which never change; :class:`Identity` has
credentials, user and headers, and knows which of them are secret.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import os
import re
import ssl
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, unquote

import attrs
import requests
from requests.adapters import HTTPAdapter

from ..errors import AuthenticationError, ServerUnreachable
from ..interrupts import interruption
from ..locks import shared_lock
from ..redaction import is_secret_name, sealed_headers
from ..values import is_small, is_uuid
from .connections import accepted, check_adapter, keep_to_deadlines, new_session
from .peers import Peer, peer_of
from .url import Address, split_proxy

if TYPE_CHECKING:
    from ..credentials import AnyCredentials
    from ..recording.recorder import Recorder
    from ..recording.secrets import Secrets

Answered = TypeVar("Answered")

#: Schemes of proxies that requests supports.
_PROXIES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")


class Endpoint:
    """The server's address and connection options, for HTTP and for the socket.

    Attributes:
        address: The server's address.
        base: The URL below which all routes are.
        session: The Session with the connections; a fork has its own.
        is_own_session: Whether the client made the Session, and so closes it.
        given_proxies: The argument ``proxies`` as the user gave it.
        peers: The hosts to which connections have led; all public ones count as one, and a proxy
            does not count.
    """

    def __init__(
        self,
        address: Address,
        *,
        verify: bool | str | os.PathLike[str] = True,
        cert: str | tuple[str, str] | None = None,
        proxies: Mapping[str, str | None] | None = None,
        session: requests.Session | None = None,
        on_connected: Callable[[str], None] | None = None,
    ) -> None:
        self.address = address
        self.base: str = address.http_url
        self.is_own_session: bool = session is None
        self.session: requests.Session = new_session() if session is None else session
        if session is not None:
            check_adapter(session, address.http_url + "/")
        self.given_proxies = proxies
        self.peers: set[Peer] = set()
        self._on_connected = on_connected
        self._verify = os.fspath(verify) if isinstance(verify, os.PathLike) else verify
        self._cert = cert

    # -- trust ---------------------------------------------------------------------------

    @functools.cached_property
    def verify(self) -> bool | str:
        """The certificates to trust: as given, else from the Session or the environment."""
        verify = self._verify
        if verify is True:
            verify = self.session.verify or False  # requests treats None so, too
        if verify is True and self.session.trust_env:
            bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
            verify = bundle or True
        if isinstance(verify, str) and not os.path.exists(verify):
            raise FileNotFoundError(f"no CA bundle at {verify!r} (verify=, REQUESTS_CA_BUNDLE)")
        return verify

    @functools.cached_property
    def cert(self) -> str | tuple[str, str] | None:
        """The client's certificate: as given, else from the Session."""
        cert = self._cert or self.session.cert
        for file in () if cert is None else (cert,) if isinstance(cert, str) else cert:
            if not os.path.exists(file):
                raise FileNotFoundError(f"no client certificate or key at {file!r} (cert=)")
        return cert

    @functools.cached_property
    def ssl_context(self) -> ssl.SSLContext:
        """The TLS context for the socket, with the same certificates as HTTP."""
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

    # -- proxies -------------------------------------------------------------------------

    @property
    def proxies(self) -> dict[str, str]:
        """The proxies by scheme; empty for a loopback address, which bypasses them."""
        return self._proxies_and_reason[0]

    @property
    def proxy_reason(self) -> str:
        """The source of :attr:`proxies`, in words."""
        return self._proxies_and_reason[1]

    @functools.cached_property
    def _proxies_and_reason(self) -> tuple[dict[str, str], str]:
        if self.address.is_loopback:
            return {}, "loopback addresses bypass proxies"
        if self.given_proxies is not None:
            given = self.given_proxies.items()  # requests accepts ``None`` for a scheme
            return {scheme: url or "" for scheme, url in given}, "proxies="
        if self.session.proxies:
            return dict(self.session.proxies), "proxies of the Session"
        if not self.session.trust_env:
            return {}, "trust_env=False of the Session"
        found = requests.utils.get_environ_proxies(self.address.http_url)
        names = [name for name in os.environ if name.lower().endswith("_proxy")]
        return found, f"the environment ({', '.join(sorted(names)) or 'no variable is set'})"

    @property
    def proxy(self) -> str | None:
        """The proxy for the socket, or None."""
        return requests.utils.select_proxy(self.address.http_url, self.proxies) or None

    @functools.cached_property
    def usable_proxies(self) -> dict[str, str]:
        """The :attr:`proxies`; raise :class:`ServerUnreachable` if the one to use is not a URL."""
        proxy = self.proxy or "http://none"
        try:
            parts = split_proxy(proxy)
            is_one = parts.scheme in _PROXIES and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_one = False
        if not is_one:  # not shown, as it may hold a password
            raise ServerUnreachable(
                f"{self.address.http_url}: the proxy is not a URL ({self.proxy_reason}); "
                "write http://proxy:3128, or use none with proxies={}",
                retryable=False,
            )
        return self.proxies

    # -- connections ---------------------------------------------------------------------

    def at(self, address: Address) -> Endpoint:
        """Return the endpoint of an address that differs only in its path."""
        made = copy.copy(self)
        made.address, made.base = address, address.http_url
        return made

    def elsewhere(
        self, address: Address, on_connected: Callable[[str], None] | None = None
    ) -> Endpoint:
        """Return the endpoint of any address, with the same proxies and trusted certificates.

        It has a Session of its own, without the client's certificate, cookies and headers.  Unless
        there is a proxy, ``on_connected`` is called with the IP address of each new peer.
        """
        proxies = self.given_proxies
        if proxies is None and not self.is_own_session:
            proxies = dict(self.session.proxies) or (None if self.session.trust_env else {})
        return Endpoint(address, verify=self.verify, proxies=proxies, on_connected=on_connected)

    def connected(self, ip: str) -> None:
        """Note the peer of a new connection; the callback of :meth:`elsewhere` may refuse it."""
        if self.proxy is not None:  # which is the peer
            return
        peer = peer_of(ip)
        self.peers.add(peer._replace(host="") if peer.kind == "public" else peer)
        if self._on_connected is not None:
            self._on_connected(ip)

    def prepare_pool(self, request: requests.PreparedRequest) -> None:
        """Make a given Session keep to the client's deadlines, if its adapter is an HTTPAdapter."""
        adapter = self.session.get_adapter(request.url or "")
        if isinstance(adapter, HTTPAdapter):
            pool = adapter.get_connection_with_tls_context(
                request, self.verify, proxies=self.usable_proxies, cert=self.cert
            )
            keep_to_deadlines(pool)

    def drop_kept(self) -> None:
        """Close idle connections immediately, and those in use after their use."""
        self.session.get_adapter(self.address.http_url).close()

    def close(self) -> None:
        """Close the Session, unless the user gave it."""
        if self.is_own_session:
            self.session.close()

    def shutdown(self) -> Callable[[], None]:
        """Return a function that closes the Session, unless the user gave it.

        The function does not keep this object alive.
        """
        return self.session.close if self.is_own_session else lambda: None

    def after_fork(self) -> None:
        """Make new connection pools in the child of a fork, as the old ones are the parent's."""
        if self.is_own_session:
            self.session = new_session()
            return
        for adapter in self.session.adapters.values():
            if isinstance(adapter, HTTPAdapter):
                # Restore as from a pickle: all settings, and unused pools.
                vars(HTTPAdapter)["__setstate__"](
                    adapter, vars(HTTPAdapter)["__getstate__"](adapter)
                )


# -- credentials -------------------------------------------------------------------------


class Applied(NamedTuple):
    """The headers and query of credentials at one moment."""

    headers: Mapping[str, str]
    query: Mapping[str, str]

    def __repr__(self) -> str:
        return "Applied(...)"  # shows no secrets


NOTHING = Applied({}, {})


def check_credentials(credentials: object) -> None:
    """Raise ``TypeError`` if the value is not a kind of credentials, without calling it."""
    if credentials is None:
        return
    from ..credentials import Credentials  # many servers need none

    if isinstance(credentials, tuple):
        if len(credentials) != 2 or not all(isinstance(part, str) for part in credentials):
            raise TypeError("credentials in a tuple must be (username, password)")
    elif not (isinstance(credentials, Credentials) or callable(credentials)):
        raise TypeError(
            "credentials must be a (username, password) tuple, one of the ...Credentials classes, "
            f"or a callable that returns one; not {type(credentials).__name__}"
        )


def apply_credentials(credentials: AnyCredentials | None) -> Applied:
    """Return the headers and query parameters that credentials give now.

    Raises :class:`AuthenticationError` if there are none to send, ``TypeError`` if the value (or a
    callable's result) is not a kind of credentials.
    """
    check_credentials(credentials)
    if credentials is None:
        return NOTHING
    from ..credentials import BasicCredentials, Credentials

    if isinstance(credentials, tuple):
        credentials = BasicCredentials(*credentials)
    if isinstance(credentials, Credentials):
        # Sealed, as some tools that show the variables of a frame look into any tuple.
        applied = Applied(
            sealed_headers(dict(_ask(credentials.headers, "headers() of the credentials"))),
            sealed_headers(dict(_ask(credentials.query, "query() of the credentials"))),
        )
        check_headers(applied.headers, "the credentials'")
        return applied
    answer = _ask(credentials, "the credentials callable")
    if callable(answer) and not isinstance(answer, Credentials):
        raise TypeError("the credentials callable returned another callable")
    return apply_credentials(answer)


def _ask(source: Callable[[], Answered], what: str) -> Answered:
    outer = sys.exception()
    try:
        return source()
    except AuthenticationError:
        raise  # it says already what is missing
    except Exception as exc:  # user code, which may ask another server
        if interruption(exc, outer) is not None:
            raise
        raise AuthenticationError(f"{what} raised {type(exc).__name__}") from exc


def check_headers(headers: Mapping[str, str], whose: str) -> None:
    """Raise ``TypeError`` or ``ValueError``, without the value, for headers that cannot be sent."""
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"{whose} headers must be strings")
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise ValueError(f"{whose} header names contain an invalid character")
        # A line break would begin another header.
        if not re.fullmatch(r"(?! )[\t\x20-\x7e\xa0-\xff]*(?<! )", value):
            raise ValueError(
                f"{whose} {name} header contains a control character, a character that "
                "headers cannot have, or a space at an end"
            )


def as_sent(headers: Mapping[str, str | bytes] | Mapping[str, str]) -> dict[str, str | bytes]:
    """Encode headers in UTF-8, as servers read them; requests would use Latin-1."""
    return {
        name: value.encode() if isinstance(value, str) and not value.isascii() else value
        for name, value in headers.items()
    }


# -- identity ----------------------------------------------------------------------------


@attrs.frozen(eq=False, repr=False)
class Description:
    """A description of a client's requests, without secrets.

    Attributes:
        url: The server.
        user: The user that requests name; ``None`` for none.
        credentials: The kind of credentials; ``None`` for none.
        sent: Names of the headers and ``?parameters=`` with credentials, those of a given Session
            included.
        sends_origin: Whether there is an ``Origin`` header, which ComfyUI compares with its host.
        has_api_prefix: Whether routes are below ``/api``; ``None`` if that is not known yet.
    """

    url: str
    user: str | None
    credentials: str | None
    sent: tuple[str, ...]
    sends_origin: bool
    has_api_prefix: bool | None


class Identity:
    """The credentials, user and headers of requests to one server, and their secrets.

    Attributes:
        credentials: The credentials as given, but a pair as :class:`BasicCredentials`.
        user: The user that requests name, for servers with ``--multi-user``.
        recorder: The recorder, which learns each secret before it is sent.
        template: The parts that all requests share, credentials included; ``None`` until
            :meth:`refresh` has asked for the credentials.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        credentials: AnyCredentials | None = None,
        user: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        check_credentials(credentials)
        check_headers(headers or {}, "the given")
        check_headers({"Comfy-User": user or ""}, "the")
        if isinstance(credentials, tuple):  # its repr would show the password
            from ..credentials import BasicCredentials

            credentials = BasicCredentials(*credentials)
        self.credentials = credentials
        self.user = user
        self.recorder: Recorder | None = None
        self._endpoint = endpoint
        self._headers = dict(headers or {})
        self._given_cookies = [str(cookie.value) for cookie in endpoint.session.cookies]
        # One thread at a time changes the credentials.  Re-entrant: a finalizer or a signal
        # handler may send a request, too.
        self._lock = shared_lock()
        self.template: requests.PreparedRequest | None = None
        self._applied = NOTHING

    # -- requests ------------------------------------------------------------------------

    def refresh(self) -> bool:
        """Get the credentials again; return whether they changed."""
        applied = apply_credentials(self.credentials)
        with self._lock:
            changed = applied != self._applied
            if changed and self.template is not None:
                self.secrets()  # the old credentials stay secret
            if changed or self.template is None:
                template = self._prepare(applied)
                if self.recorder is not None:  # before they are sent
                    self._add_to(self.recorder.secrets, applied, template)
                self._applied, self.template = applied, template
        if changed:
            self._warn_of_open_password(applied)
        return changed

    @property
    def sends_credentials(self) -> bool:
        """Whether headers of the template hold credentials."""
        return bool(self._applied.headers)

    def _prepare(self, applied: Applied) -> requests.PreparedRequest:
        """Prepare the parts that all requests share, merged with the Session's own settings."""
        session = self._endpoint.session
        headers = {"Comfy-User": self.user} if self.user else {}
        headers.update(self._headers)
        headers.update(applied.headers)
        template = session.prepare_request(
            requests.Request(
                "GET",
                self._endpoint.address.http_url + "/",
                headers=headers,
                params=dict(applied.query),
                # A callable keeps .netrc from replacing our Authorization.
                auth=_as_it_is,
            )
        )
        given = {name.lower() for name in (*headers, *session.headers)}
        if "cookie" not in given:  # cookies of the jar change, so each request adds them
            template.headers.pop("Cookie", None)
        template.headers["Accept-Encoding"] = accepted(template.headers.get("Accept-Encoding", ""))
        # Bytes are sent as they are; the stubs have no types for hooks.
        template.headers.update(as_sent(template.headers))
        template.register_hook("response", _keep_redirect)
        return template

    def _warn_of_open_password(self, applied: Applied) -> None:
        address = self._endpoint.address
        is_open = address.scheme == "http" and not address.is_loopback
        if is_open and (applied.headers or applied.query) and address.netloc not in warned:
            warned.add(address.netloc)
            warnings.warn(
                f"credentials go to http://{address.netloc} unencrypted; use https where you can",
                UserWarning,
                stacklevel=2,
            )

    # -- description ---------------------------------------------------------------------

    @property
    def has_secrets(self) -> bool:
        """Whether there are credentials or headers that a pickle would leave out."""
        from ..credentials import EnvCredentials

        named = isinstance(self.credentials, EnvCredentials)
        return bool(self._headers or (self.credentials is not None and not named))

    def describe(self, has_api_prefix: bool | None) -> Description:
        """Describe the requests without secrets, and without calling for credentials."""
        session = self._endpoint.session
        names = [*self._applied.headers, *(f"?{name}=" for name in self._applied.query)]
        given = [*self._headers, *session.headers]
        names += [name for name in given if name.lower() in ("authorization", "cookie")]
        if session.auth:
            names.append("auth of the Session")
        if session.cookies:
            names.append("cookies of the Session")
        return Description(
            url=self._endpoint.address.http_url,
            user=self.user or None,
            credentials=None if self.credentials is None else type(self.credentials).__name__,
            sent=tuple(names),
            sends_origin=any(name.lower() == "origin" for name in given),
            has_api_prefix=has_api_prefix,
        )

    # -- secrets -------------------------------------------------------------------------

    def secrets(self) -> Secrets:
        """Return all secrets sent so far, former credentials included.

        They are used for errors and logs, so values of other headers count, too.
        """
        self.add_secrets_to(self._secrets)
        self._secrets.add_headers(self._sent(self.template), pinned=True)
        return self._secrets

    @functools.cached_property
    def _secrets(self) -> Secrets:
        from ..recording.secrets import Secrets  # only errors need it

        return Secrets()

    def add_secrets_to(self, secrets: Secrets) -> None:
        """Add the credentials for the server and for proxies to ``secrets``, as far as known.

        Other headers count only if their names are secret, as they may hold any word.
        """
        self._add_to(secrets, self._applied, self.template)

    def _add_to(
        self, secrets: Secrets, applied: Applied, template: requests.PreparedRequest | None
    ) -> None:
        session = self._endpoint.session
        secrets.add_headers(applied.headers, pinned=True, are_credentials=True)
        secrets.add_headers(self._sent(template), pinned=True, named_only=True)
        secrets.add(applied.query.values(), pinned=True)
        if template is not None:
            secrets.add_query((template.url or "").partition("?")[2])
        for proxy in [*self._proxies(), *filter(None, self._endpoint.proxies.values())]:
            secrets.add_url(proxy)
        secrets.add_auth(session.auth)
        secrets.add(self._given_cookies, pinned=True)
        with contextlib.suppress(RuntimeError):  # another thread adds one: included next time
            for cookie in session.cookies:  # not all are secret: "dark" or "true"
                shortest = 8 if is_secret_name(cookie.name) else 16
                secrets.add([str(cookie.value)], shortest)

    def add_words_to(self, secrets: Secrets) -> None:
        """Add the words of :meth:`add_secrets_to`, and other settings that may be private.

        These are user names, all given headers, and proxies from the environment.
        """
        self.add_secrets_to(secrets)
        session = self._endpoint.session
        secrets.add_headers(self._headers)
        if self.template is not None:  # otherwise nothing was sent yet
            secrets.add_headers(self.template.headers)
        words = [self.user or "", *_words(session.auth), *_words(self.credentials)]
        words += [str(cookie.value) for cookie in session.cookies]
        proxies = [value for name, value in os.environ.items() if name.lower().endswith("_proxy")]
        for proxy in filter(None, [*self._proxies(), *proxies]):
            userinfo = proxy.rpartition("@")[0].rpartition("//")[2]
            pair = (userinfo, *userinfo.split(":", 1))
            words += [*pair, *map(unquote, pair)]
        secrets.add(words)

    def entrust(self, value: Any) -> None:
        """Add those values in outgoing JSON to the secrets whose names mark them as secret."""
        self._secrets.add_named(value, pinned=True)

    def entrust_query(self, query: str) -> None:
        """Add the long values of a query, such as a signature, to the secrets."""
        self._secrets.add((value for _, value in parse_qsl(query)), shortest=16)

    def hide(self, value: Any) -> Any:
        """Return a server's text, or its JSON, with the client's secrets hidden.

        For JSON with many values, only the length is shown.
        """
        if not isinstance(value, str) and not is_small(value, _MAX_VALUES):
            return f"<{type(value).__name__} of {len(value)}>"
        return self.secrets().hide_words_in(value)

    def gives_away(self, server_id: str) -> bool:
        """Return whether an id that a server chose is, or contains, a secret of the client."""
        return not is_uuid(server_id) and self.hide(server_id) != server_id

    def redact(self, request: requests.PreparedRequest, value: Any) -> Any:
        """Return a text or JSON with the secrets of the client and of one request hidden."""
        secrets = self.secrets()
        secrets.add_headers(self._without_jar(request.headers))
        asked = parse_qsl((request.url or "").partition("?")[2])
        secrets.add(word for name, word in asked if is_secret_name(name, in_query=True))
        if isinstance(request.body, bytes):
            with contextlib.suppress(ValueError, RecursionError):
                secrets.add_named(json.loads(request.body))
        return secrets.hide_words_in(value)

    def _proxies(self) -> list[str]:
        """Return the URLs of all proxies given by the user or their Session, used or not."""
        given = self._endpoint.given_proxies or {}
        return [*filter(None, [*given.values(), *self._endpoint.session.proxies.values()])]

    def _sent(self, template: requests.PreparedRequest | None) -> dict[str, Any]:
        return self._without_jar(self._headers if template is None else template.headers)

    def _without_jar(self, sent: Mapping[str, Any]) -> dict[str, Any]:
        """Return headers without the jar's cookies, as servers set them and not all are secret."""
        keeps_cookie = any(name.lower() == "cookie" for name in self._headers)
        return {
            name: value for name, value in sent.items() if keeps_cookie or name.lower() != "cookie"
        }

    def after_fork(self) -> None:
        """Renew the locks in the child of a fork, and drop the recording, which is the parent's."""
        self._lock = shared_lock()
        self.recorder = None
        if "_secrets" in vars(self):
            self._secrets.after_fork()


#: The most JSON values that are searched for secrets, as each is searched for all spellings.
_MAX_VALUES = 10_000

#: Origins that a warning has named, once for each process.
warned: set[str] = set()


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _keep_redirect(response: requests.Response, **_: Any) -> None:
    """Keep requests from reading the body and target of a redirect, as none is followed."""
    response.headers.pop("Location", None)


def _words(holder: object) -> Iterator[str]:
    """Yield all texts in credentials of any kind, or in the ``auth`` of a Session."""
    from ..credentials import EnvCredentials

    if isinstance(holder, EnvCredentials):  # the name of the variable is not secret
        value = os.environ.get(holder.variable, "")
        yield from (value, *value.split(":", 1))
        return
    values: list[object] = [*holder] if isinstance(holder, tuple) else []
    names = getattr(type(holder), "__attrs_attrs__", ())
    values += [getattr(holder, field.name, None) for field in names]
    values += getattr(holder, "__dict__", {}).values()
    values += [each for value in values if isinstance(value, Mapping) for each in value.values()]
    yield from (value for value in values if isinstance(value, str))
