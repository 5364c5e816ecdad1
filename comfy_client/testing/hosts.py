"""Filter of requests to an embedded server, by ``Host`` header and by origin of web pages.

ComfyUI accepts everybody.  A server for tests runs on a developer's machine, whose browser also
shows strangers' pages.  Such a page can make its own host name resolve to 127.0.0.1.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aiohttp import web

from ..transport.url import is_loopback_address
from .wire import Next

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

ANY = "*"
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\s:/@\[\]\\?#]+))(?::\d{0,5})?", re.IGNORECASE)
#: As browsers send it: without a path, and without the port that its scheme has anyway.
_ORIGIN = re.compile(
    r"(?!http://.*:80$|https://.*:443$)[a-z][a-z0-9+.-]*://[^\s/?#@]+", re.IGNORECASE
)
_CORS = {
    "Access-Control-Allow-Methods": "POST, GET, DELETE, PUT, OPTIONS, PATCH",
    "Access-Control-Allow-Headers": "Content-Type, Authorization",
    "Access-Control-Allow-Credentials": "true",
}


def check_hosts(allowed: Any) -> None:
    """Raise TypeError or ValueError unless the value is a list of valid host names, or None."""
    if allowed is None:
        return
    if isinstance(allowed, str) or not isinstance(allowed, Collection):
        raise TypeError(f"allowed_hosts must be a list of names, not {allowed!r}")
    for name in allowed:
        if not isinstance(name, str) or (name != ANY and name_of(name) is None):
            raise ValueError(f"a host looks like 'comfy.example' or '10.0.0.5', not {name!r}")


def allowed_origins(cors: Any) -> frozenset[str]:
    """Return the origins whose pages may use a server, as browsers write them, or ``ANY``.

    Raises TypeError or ValueError unless the value is a list of valid origins.
    """
    if isinstance(cors, str) or not isinstance(cors, Collection):
        raise TypeError(f"cors must be a list of origins, such as ['*'], not {cors!r}")
    for origin in cors:
        if not isinstance(origin, str) or (origin != ANY and not _ORIGIN.fullmatch(origin)):
            raise ValueError(f"an origin looks like 'http://localhost:5173', not {origin!r}")
    return frozenset(origin.lower() for origin in cors)


def accepted_names(
    host: str, address: str, allowed: Collection[str] | None
) -> frozenset[str] | None:
    """Return the host names to accept besides those of loopback; None if any name is accepted.

    Args:
        host: The address to listen on, as given.
        address: The address on which the server actually listens.
        allowed: The names that the user allows; ``None``: only ``host`` on loopback, else any.
    """
    if allowed is None:
        return frozenset({host.lower()}) if is_loopback(address) else None
    given = {name_of(name) or name for name in allowed}
    return None if ANY in given else frozenset({host.lower(), *given})


def name_of(host: str) -> str | None:
    """Return the name in a ``Host`` header, without port; None if the header is invalid."""
    found = _HOST.fullmatch(host)
    return (found[1] or found[2]).lower().removesuffix(".") if found else None


def is_loopback(host: str) -> bool:
    """Return whether a host is ``localhost`` or a loopback address, without using DNS."""
    return host == "localhost" or is_loopback_address(host)


def is_same_site(host: str, origin: str) -> bool:
    """Return whether a page's origin matches the requested host, as ComfyUI compares them."""
    here, there = urlsplit(f"//{host}"), urlsplit(origin)
    # If one of the two has no port, the port of the other does not count.
    ours = here.hostname if there.port is None else host
    theirs = there.hostname if here.port is None else there.netloc
    return not ours or not theirs or ours == theirs


def name_refusal(headers: CIMultiDictProxy[str], names: frozenset[str] | None) -> str | None:
    """Return the reason to refuse a request for another host name, or None to accept it."""
    for host in headers.getall("Host", []) if names is not None else ():
        if not _is_one_of(names or frozenset(), host[:300]):
            return (
                f"{host[:100]!r} is not a name of this server, which is for this machine only; "
                "ComfyServer(allowed_hosts=[...]) or `serve --allowed-host` allows it"
            )
    return None


def is_of_allowed_page(headers: CIMultiDictProxy[str], origins: frozenset[str]) -> bool:
    """Return whether a page of one of these origins has sent a request with these headers.

    Browsers load its pictures and scripts without ``Origin``; ``Referer`` has it then.
    """
    if ANY in origins:
        return True
    given = headers.getall("Origin", [])
    if not given:
        given = ["/".join(one.split("/", 3)[:3]) for one in headers.getall("Referer", [])]
    return len(given) == 1 and given[0].lower() in origins


def cors_headers(headers: CIMultiDictProxy[str], origins: frozenset[str]) -> dict[str, str]:
    """Return the headers that let a page of one of these origins read the answer to a request."""
    if ANY in origins:
        return {"Access-Control-Allow-Origin": ANY, **_CORS}
    if "Origin" in headers and is_of_allowed_page(headers, origins):
        return {"Access-Control-Allow-Origin": headers["Origin"], "Vary": "Origin", **_CORS}
    return {}


def host_refusal(
    headers: CIMultiDictProxy[str],
    names: frozenset[str] | None,
    origins: frozenset[str] = frozenset(),
) -> str | None:
    """Return the reason to refuse a request with these headers, or None to accept it.

    Args:
        headers: The headers of the request.
        names: The host names that are accepted besides those of loopback; ``None``: any.
        origins: The origins whose pages may ask, besides the server's own.
    """
    reason = name_refusal(headers, names)
    if reason is not None or is_of_allowed_page(headers, origins):
        return reason
    hosts = headers.getall("Host", [])  # browsers always send Host
    for origin in headers.getall("Origin", []):
        if not host_of_page(origin):
            return f"a page whose origin is {origin[:100]!r} may not ask"
        if names is not None and not all(is_page_of(host, origin) for host in hosts):
            return f"a page of {origin[:100]!r} may not ask"
    if "cross-site" in map(str.lower, headers.getall("Sec-Fetch-Site", [])):
        return "a page of another site may not ask"
    return None


@functools.lru_cache(64)
def _is_one_of(names: frozenset[str], host: str) -> bool:
    name = name_of(host)
    return name is not None and (name in names or is_loopback(name))


def host_of_page(origin: str) -> str | None:
    """Return the host in an ``Origin`` header; None if it has none, as ``null`` and ``file://``."""
    try:
        return urlsplit(origin).hostname
    except ValueError:
        return None


def is_page_of(host: str, origin: str) -> bool:
    """Return whether a page is one of the host, as :func:`is_same_site`; False for a wrong port."""
    try:
        return is_same_site(host.lower(), origin.lower())
    except ValueError:  # an invalid port
        return False


def host_filter(
    names: frozenset[str] | None,
    *,
    pages: bool = True,
    origins: frozenset[str] = frozenset(),
) -> Any:
    """Return middleware that refuses requests for other host names.

    It also refuses web pages from other sites, except from ``origins``, if ``pages`` is true.
    """
    refusal = functools.partial(host_refusal, origins=origins) if pages else name_refusal

    @web.middleware
    async def check(request: web.Request, handler: Next) -> web.StreamResponse:
        reason = refusal(request.headers, names)
        return await handler(request) if reason is None else web.Response(status=403, text=reason)

    return check
