"""Where a server is, whom to trust there, and through which proxy: what a client never changes."""

from __future__ import annotations

import functools
import os
import ssl
from collections.abc import Callable, Mapping

import requests
from requests.adapters import HTTPAdapter

from ..errors import ServerUnreachable
from .pool import check_adapter, keep_to_deadlines, new_session
from .url import Address, split_proxy

#: Proxies that requests knows.
_PROXIES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")


class Endpoint:
    """The server, and how it is reached: over HTTP by :attr:`session`, and by the socket.

    Attributes:
        address: Where it is.
        base: The URL below which all routes are.
        session: The Session with the connections; a fork has its own.
        is_own_session: Whether we made it, and so close it.
        given_proxies: ``proxies`` as the user gave them.
    """

    def __init__(
        self,
        address: Address,
        *,
        verify: bool | str | os.PathLike[str] = True,
        cert: str | tuple[str, str] | None = None,
        proxies: Mapping[str, str | None] | None = None,
        session: requests.Session | None = None,
    ) -> None:
        self.address = address
        self.base: str = address.http_url
        self.is_own_session: bool = session is None
        self.session: requests.Session = new_session() if session is None else session
        if session is not None:
            check_adapter(session, address.http_url + "/")
        self.given_proxies = proxies
        self._verify = os.fspath(verify) if isinstance(verify, os.PathLike) else verify
        self._cert = cert

    # -- trust ---------------------------------------------------------------------------

    @functools.cached_property
    def verify(self) -> bool | str:
        """The certificates to trust: as given, else as the Session or the environment says."""
        verify = self._verify
        if verify is True:
            verify = self.session.verify or False  # None is that, to requests
        if verify is True and self.session.trust_env:
            bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
            verify = bundle or True
        if isinstance(verify, str) and not os.path.exists(verify):
            raise FileNotFoundError(f"no CA bundle at {verify!r} (verify=, REQUESTS_CA_BUNDLE)")
        return verify

    @functools.cached_property
    def cert(self) -> str | tuple[str, str] | None:
        """The client's certificate: as given, else the Session's."""
        cert = self._cert or self.session.cert
        for file in () if cert is None else (cert,) if isinstance(cert, str) else cert:
            if not os.path.exists(file):
                raise FileNotFoundError(f"no client certificate or key at {file!r} (cert=)")
        return cert

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

    # -- proxies -------------------------------------------------------------------------

    @property
    def proxies(self) -> dict[str, str]:
        """Proxies by scheme.  Loopback addresses bypass them."""
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
            given = self.given_proxies.items()  # requests takes ``None`` for a scheme without one
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
        """The proxy that the socket has to take, or ``None``."""
        return requests.utils.select_proxy(self.address.http_url, self.proxies) or None

    @functools.cached_property
    def usable_proxies(self) -> dict[str, str]:
        """:attr:`proxies`; :class:`ServerUnreachable` if the one for this server is no URL."""
        proxy = self.proxy or "http://none"
        try:
            parts = split_proxy(proxy)
            is_one = parts.scheme in _PROXIES and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_one = False
        if not is_one:  # and what is given is not shown: it may hold a password
            raise ServerUnreachable(
                f"{self.address.http_url}: no URL of a proxy is given ({self.proxy_reason}); "
                "write http://proxy:3128, or use none with proxies={}",
                retryable=False,
            )
        return self.proxies

    # -- connections ---------------------------------------------------------------------

    def prepare_pool(self, request: requests.PreparedRequest) -> None:
        """Have the pool of a given Session keep to our deadlines, if it is one of requests."""
        if self.is_own_session:
            return
        adapter = self.session.get_adapter(request.url or "")
        if isinstance(adapter, HTTPAdapter):
            pool = adapter.get_connection_with_tls_context(
                request, self.verify, proxies=self.usable_proxies, cert=self.cert
            )
            keep_to_deadlines(pool)

    def drop_kept(self) -> None:
        """Close the idle connections; those in use are closed when they are done."""
        self.session.get_adapter(self.address.http_url).close()

    def close(self) -> None:
        """Close our own Session; one that was given stays open."""
        if self.is_own_session:
            self.session.close()

    def shutdown(self) -> Callable[[], None]:
        """Return a function that closes our own Session, and does not keep this object alive."""
        return self.session.close if self.is_own_session else lambda: None

    def after_fork(self) -> None:
        """Make new connection pools in the child of a fork: the old ones are the parent's."""
        if self.is_own_session:
            self.session = new_session()
            return
        for adapter in self.session.adapters.values():
            if isinstance(adapter, HTTPAdapter):
                # As from a pickle: all settings, and pools that nobody has used.
                vars(HTTPAdapter)["__setstate__"](
                    adapter, vars(HTTPAdapter)["__getstate__"](adapter)
                )
