"""The URL of a server, parsed from the host that a user gives.  Pure."""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from urllib.parse import SplitResult, quote, unquote, urlsplit

import attrs
from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

DEFAULT_PORT = 8188

_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_NO_NAME = re.compile(r"[\s%\\<>\"^`{|}]")
_PARTS = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.-]*)://)?([^/?#]*)(/[^?#]*)?([?#].*)?")

#: A scheme without all of its ``://``: ``http:/gpu-box``, ``http:gpu-box``, ``http//gpu-box``.
_HALF_A_SCHEME = re.compile(r"(?i)(?:https?|wss?)(?::(?!\d)|//)")

#: The URL of the socket, as examples of ComfyUI have it.
_SOCKET = re.compile(r"(?i)\A(wss?://[^?#]*)/ws/?(?:\?clientId=[^&#]*)?\Z")


@attrs.frozen(repr=False)
class Address:
    """The address of a server; ``prefix`` is the path before all its routes, or ``""``."""

    scheme: str
    host: str
    port: int
    prefix: str = ""

    @property
    def netloc(self) -> str:
        """``host:port`` as in a URL, without a port that the scheme implies."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        implied = 443 if self.scheme == "https" else 80
        return host if self.port == implied else f"{host}:{self.port}"

    @property
    def http_url(self) -> str:
        """The base URL of all routes, without a trailing slash."""
        return f"{self.scheme}://{self.netloc}{self.prefix}"

    @property
    def ws_url(self) -> str:
        """The base URL of the socket's route, with ``wss`` instead of ``https``."""
        return f"{'wss' if self.scheme == 'https' else 'ws'}://{self.netloc}{self.prefix}"

    @property
    def is_loopback(self) -> bool:
        """Whether this is a loopback address, so that no proxy or eavesdropper is in between."""
        is_named = f".{self.host.rstrip('.')}".endswith(".localhost")
        return is_named or is_loopback_address(self.host)


def is_same_origin(one: Address, other: Address) -> bool:
    """Return whether scheme, host and port of two addresses are the same."""
    return attrs.evolve(one, prefix="") == attrs.evolve(other, prefix="")


def is_loopback_address(host: str) -> bool:
    """Return whether a host is a loopback IP address; False for any name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_host(host: str) -> tuple[Address, tuple[str, str] | None]:
    """Parse a host; return its address, and the user name and password in it, or None.

    Accepts ``gpu-box``, ``gpu-box:8188``, ``:8188``, ``[::1]:8188``, ``::1``,
    ``http(s)://...`` and ``ws(s)://...`` with path prefix, and ``user:pass@`` before any.
    The ``/ws`` at the end of a socket's URL is left out, with its ``?clientId=``.
    Without scheme it is http; without scheme and port, the port is ComfyUI's own, 8188.
    Raises ``ValueError``, which never repeats a password.
    """
    text = _SOCKET.sub(r"\1", host.strip()) if isinstance(host, str) else ""
    if not text:
        raise ValueError("host must be a string such as 'http://127.0.0.1:8188' or 'gpu-box:8188'")
    found = _PARTS.fullmatch(text)
    if found is None:
        raise ValueError("host contains a line break")
    given, authority, path, tail = (part or "" for part in found.groups())
    userinfo, at, server = authority.rpartition("@")
    if "@" in path + tail:  # a password may be anywhere before it, so nothing is shown
        raise ValueError(
            "host: percent-encode each of / ? # @ in user name, password and path, "
            "or pass credentials=(username, password)"
        )
    shown = f"{given or 'http'}://{server}"
    scheme = _SCHEMES.get((given or "http").lower())
    if scheme is None:
        raise ValueError(f"host {shown!r}: the scheme must be http or https")
    if tail:
        raise ValueError(
            f"host {shown!r}: leave out what follows '?' or '#'; "
            "a token goes into credentials=QueryCredentials(name, value)"
        )
    _check_server(server, path, shown)
    try:
        # IDNA 2008 for names beyond ASCII; Python's own codec encodes some names differently.
        parts = parse_url(f"{scheme}://{_bracket(unicodedata.normalize('NFKC', server))}")
        name, port = (parts.host or "").strip("[]"), parts.port
        name.encode("idna")  # checks the length of its parts
    except (LocationParseError, ValueError):
        raise ValueError(
            f"host {shown!r} is not name:port (port: up to 65535; IPv6: [::1]:8188)"
        ) from None
    if not name and port is not None:
        name = "127.0.0.1"
    if not name or _NO_NAME.search(name) or port == 0:
        raise ValueError(f"host {shown!r} names no server")
    if name in ("0.0.0.0", "::"):  # noqa: S104  what a server listens on, not where it is
        name = "127.0.0.1"
    if port is None:
        port = (443 if scheme == "https" else 80) if given else DEFAULT_PORT
    prefix = quote(re.sub(r"/{2,}", "/", path).rstrip("/"), safe="/%:!$&'()*+,;=~-._")
    username, _, password = userinfo.partition(":")
    pair = (unquote(username), unquote(password)) if at else None
    return Address(scheme, name, port, prefix), pair


def _check_server(server: str, path: str, shown: str) -> None:
    """Raise ``ValueError`` if a server's name is impossible, or begins with half a scheme."""
    if _NO_NAME.search(server):
        raise ValueError(f"host {shown!r} names no server")
    if _HALF_A_SCHEME.match(server + path):
        raise ValueError(
            f"host {server + path!r:.200}: a scheme ends with ://, as in 'http://gpu-box:8188'"
        )


def split_proxy(proxy: str) -> SplitResult:
    """Split a proxy's URL, whose scheme may be missing.

    Raises ``ValueError``, which never repeats a password.
    """
    try:
        parts = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
        _ = parts.port
    except ValueError:
        raise ValueError("the proxy is not a URL") from None
    return parts


def _bracket(server: str) -> str:
    """Add brackets to a bare IPv6 address, and ``127.0.0.1`` before a bare port number."""
    if server.isdecimal():
        return f"127.0.0.1:{server}"
    if server.count(":") > 1 and not server.startswith("["):
        return f"[{server}]"
    return server
