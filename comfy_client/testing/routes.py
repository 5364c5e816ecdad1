"""All routes of an embedded server, and the rules that hold for each."""

from __future__ import annotations

import ipaddress
import socket
from functools import partial
from urllib.parse import urlsplit

from aiohttp import web

from .catalogue_routes import CATALOGUE_ROUTES, NEWEST_CATALOGUE_ROUTES
from .files import FILE_ROUTES
from .hosts import is_same_site
from .http import Next
from .jobs_api import JOB_ROUTES, NEWEST_JOB_ROUTES
from .node_packs import EXTENSION_FILE, PACK_ROUTES, TEMPLATE, extension
from .prompt_routes import PROMPT_ROUTES
from .routing import Routes, add_routes
from .socket_route import event_socket
from .state import ServerState
from .system_routes import ASSET_ROUTES, INTERNAL_ROUTES, SYSTEM_ROUTES
from .userdata import USER_ROUTES, Users

_PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_ROUTES: Routes[ServerState] = (
    *PROMPT_ROUTES,
    *CATALOGUE_ROUTES,
    *SYSTEM_ROUTES,
    *FILE_ROUTES,
    *PACK_ROUTES,
    ("GET", "/ws", event_socket),
)


def application(state: ServerState) -> web.Application:
    """All routes, each with and without ``/api`` before it."""
    options, folders = state.options, state.folders
    table, prefixed, internal = (web.RouteTableDef() for _ in range(3))
    add_routes(table, state, _ROUTES)
    if options.is_newest:
        add_routes(table, state, NEWEST_CATALOGUE_ROUTES)
    users = Users(folders.user, multi=options.multi_user, newest=options.is_newest)
    add_routes(table, users, USER_ROUTES)
    for route in table:
        if isinstance(route, web.RouteDef):  # there are no others
            prefixed.route(route.method, f"/api{route.path}")(route.handler)
    add_routes(prefixed, state, TEMPLATE)
    if options.is_newer:
        add_routes(prefixed, state, JOB_ROUTES)
    if options.is_newest:
        add_routes(prefixed, state, (*NEWEST_JOB_ROUTES, *ASSET_ROUTES))
    add_routes(internal, state, INTERNAL_ROUTES)

    app = web.Application(
        client_max_size=options.max_upload_size, middlewares=[_cache_control, _origin]
    )
    if options.is_newest:
        app.middlewares.append(_same_site)
    below_internal = web.Application()
    below_internal.add_routes(internal)
    app.add_subapp("/internal", below_internal)
    app.add_routes(prefixed)
    app.add_routes(table)
    app.router.add_get(EXTENSION_FILE, partial(extension, state))  # never below /api
    app.router.add_static("/", folders.web)  # all else: 404 to GET, 405 to the rest
    return app


# -- rules for all routes ---------------------------------------------------------------


@web.middleware
async def _cache_control(request: web.Request, handler: Next) -> web.StreamResponse:
    response = await handler(request)
    path = request.path.lower()
    name = path.rsplit("/", 1)[-1]
    if path.endswith((".js", ".css")) or (name.startswith("index") and name.endswith(".json")):
        response.headers.setdefault("Cache-Control", "no-cache")
    elif path.endswith(_PICTURES) and response.status < 300:
        response.headers.setdefault("Cache-Control", "public, max-age=86400")
    elif path.endswith(_PICTURES) and response.status == 404:
        response.headers.setdefault("Cache-Control", "public, max-age=3600")
    return response


@web.middleware
async def _origin(request: web.Request, handler: Next) -> web.StreamResponse:
    """Refuses pages of other sites; answers OPTIONS."""
    host, origin = request.headers.get("Host"), request.headers.get("Origin")
    if host is not None and origin is not None:
        host, origin = host.lower(), origin.lower()
        if not is_same_site(host, origin) and _is_loopback(urlsplit(f"//{host}").hostname or ""):
            return web.Response(status=403)
    return web.Response() if request.method == "OPTIONS" else await handler(request)


@web.middleware
async def _same_site(request: web.Request, handler: Next) -> web.StreamResponse:
    is_foreign = request.headers.get("Sec-Fetch-Site") == "cross-site"
    return web.Response(status=403) if is_foreign else await handler(request)


def _is_loopback(host: str) -> bool:
    try:
        found = [host, *(info[4][0] for info in socket.getaddrinfo(host, None))]
    except OSError:
        return False
    addresses = [str(one) for one in found[1:]]
    return bool(addresses) and all(ipaddress.ip_address(one).is_loopback for one in addresses)
