"""From what people type as a host to the URL of a server; pure."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import quote, unquote, urlsplit

import attrs

DEFAULT_PORT = 8188

_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


@attrs.frozen
class Address:
    """Where a server is.  ``prefix`` is the path below which it lives, ``""`` for none."""

    scheme: str
    host: str
    port: int
    prefix: str = ""

    @property
    def netloc(self) -> str:
        """``host:port`` as it stands in a URL, without a port that the scheme implies."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        implied = 443 if self.scheme == "https" else 80
        return host if self.port == implied else f"{host}:{self.port}"

    @property
    def http_url(self) -> str:
        """Base of all routes, without a slash at the end."""
        return f"{self.scheme}://{self.netloc}{self.prefix}"

    @property
    def ws_url(self) -> str:
        """Base of the socket's route: ``wss`` where HTTP is ``https``."""
        return f"{'wss' if self.scheme == 'https' else 'ws'}://{self.netloc}{self.prefix}"

    @property
    def is_loopback(self) -> bool:
        """Whether this is the own machine, which no proxy and no spy stands before."""
        if self.host == "localhost" or self.host.endswith(".localhost"):
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_host(host: str) -> tuple[Address, tuple[str, str] | None]:
    """The address, and user name and password when they stood in it.

    Accepts ``gpu-box``, ``gpu-box:8188``, ``:8188``, ``[::1]:8188``, ``::1``,
    ``http(s)://...`` and ``ws(s)://...`` with path prefix, and ``user:pass@`` before any.
    Without scheme it is http; without scheme and port, the port is ComfyUI's own, 8188.
    Raises ``ValueError``, which never repeats a password.
    """
    text = host.strip() if isinstance(host, str) else ""
    if not text:
        raise ValueError("host is a text such as 'http://127.0.0.1:8188' or 'gpu-box:8188'")
    scheme_given = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text)
    if not scheme_given:
        text = "http://" + _bracket(text)
    parts = urlsplit(text)
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    scheme = _SCHEMES.get(parts.scheme)
    if scheme is None:
        raise ValueError(f"host {shown!r}: the scheme must be http or https")
    if parts.query or parts.fragment:
        raise ValueError(
            f"host {shown!r}: leave out what follows '?' or '#'; "
            "a token goes into credentials=QueryCredentials(name, value)"
        )
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"host {shown!r}: the port must be a number up to 65535") from None
    name = parts.hostname or ("127.0.0.1" if port is not None else "")
    if not name or re.search(r"[\s%\\<>\"^`{|}]", name):
        raise ValueError(f"host {shown!r} names no server")
    if name in ("0.0.0.0", "::"):  # noqa: S104  what a server listens on, not where it is
        name = "127.0.0.1"
    if port is None:
        port = (443 if scheme == "https" else 80) if scheme_given else DEFAULT_PORT
    path = re.sub(r"/{2,}", "/", parts.path).rstrip("/")
    prefix = quote(path, safe="/%:@!$&'()*+,;=~-._")
    userinfo = None
    if parts.username is not None:
        userinfo = (unquote(parts.username), unquote(parts.password or ""))
    return Address(scheme, name, port, prefix), userinfo


def _bracket(text: str) -> str:
    """A bare IPv6 address gets the brackets that a URL wants; a bare port its host."""
    server, slash, path = text.partition("/")
    before, at, rest = server.rpartition("@")
    if rest.isdigit():
        rest = f"127.0.0.1:{rest}"
    elif rest.count(":") > 1 and not rest.startswith("["):
        rest = f"[{rest}]"
    return before + at + rest + slash + path
