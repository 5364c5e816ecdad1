"""The storage of files on a port of its own, which refuses headers meant for the surface."""

from __future__ import annotations

import time

from aiohttp import web

from ..server_state import Routes
from .asset_routes import content, content_type, path_of
from .hosted_state import HostedState, is_same

#: The headers that storage accepts; any other one was not meant for it.
_ALLOWED = frozenset(
    {
        "host",
        "user-agent",
        "accept",
        "accept-encoding",
        "accept-language",
        "connection",
        "range",
        "if-range",
    }
)


async def _get(hosted: HostedState, request: web.Request) -> web.Response:
    foreign = {name.lower() for name in request.headers} - _ALLOWED
    if foreign:
        return _refused("InvalidArgument", 400, f"unexpected headers: {', '.join(sorted(foreign))}")
    asset_id, expires = request.match_info["id"], request.query.get("expires", "")
    signature = hosted.memory.sign(f"{asset_id} {expires}")
    if not is_same(request.query.get("signature", ""), signature):
        return _refused("SignatureDoesNotMatch", 403, "the signature is wrong")
    if float(expires) < time.time():
        return _refused("AccessDenied", 403, "Request has expired")
    path = path_of(hosted.comfy.folders, hosted.file_of(asset_id))
    if path is None:
        return _refused("NoSuchKey", 404, "The specified key does not exist.")
    found = content(request, path, content_type(path.name))
    if found is None:
        refused = _refused("InvalidRange", 416, "The requested range is not satisfiable")
        refused.headers["Content-Range"] = f"bytes */{path.stat().st_size}"
        return refused
    return found


def _refused(code: str, status: int, message: str) -> web.Response:
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return web.Response(status=status, text=text, content_type="application/xml")


STORAGE_ROUTES: Routes[HostedState] = (("GET", "/storage/{id}", _get),)
