"""The addresses of files, resolved from URLs in a server's answers and redirects.

Pure.  As a URL may be signed, each ``repr`` and error leaves out its query.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import urljoin, urlsplit

import attrs

from ..redaction import Sealed
from ..transport.url import Address, parse_host
from .models import url_of

_SCHEMES: Final = ("http", "https")
_HAS_SCHEME: Final = re.compile("[A-Za-z][A-Za-z0-9+.-]*:")


class FileAddress(NamedTuple):
    """The address of a file's content.

    Attributes:
        address: The scheme, host and port, without a path.
        path: The path, as it is sent.
        query: The query, as it is sent; empty: none.  It may be a signature.
    """

    address: Address
    path: str
    query: str

    def __repr__(self) -> str:
        return f"<FileAddress {self.address.http_url}{self.path}>"


def place_of(url: object, base: Address) -> FileAddress | None:
    """Return the address to which a URL leads; None if it is invalid, or leads from https to http.

    A path without a host is resolved against scheme, host and port of ``base``, the server's own
    address.
    """
    given = url_of(url)
    if given is None:
        return None
    root = attrs.evolve(base, prefix="")
    return _resolved(str(given), f"{root.http_url}/", root)


def redirected(location: object, current: FileAddress) -> FileAddress | None:
    """Return the target of a redirect; None if it is invalid, or leads from https to http."""
    given = url_of(location)
    if given is None:
        return None
    return _resolved(str(given), f"{current.address.http_url}{current.path}", current.address)


def _resolved(url: str, base: str, before: Address) -> FileAddress | None:
    if url.startswith("//"):
        url = f"{before.scheme}:{url}"
    elif not _HAS_SCHEME.match(url):
        url = urljoin(base, url)  # which takes "http://" for a relative one
    try:
        parts = urlsplit(url)
        if parts.scheme not in _SCHEMES or not parts.netloc:
            return None
        address, login = parse_host(f"{parts.scheme}://{parts.netloc}")
    except ValueError:
        return None
    if login or (before.scheme == "https" and address.scheme != "https"):
        return None
    return FileAddress(address, parts.path or "/", Sealed(parts.query))
