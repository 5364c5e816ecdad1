"""All routes of an embedded server, its event socket, and the middleware."""

from __future__ import annotations

import json
import socket
import uuid
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

from ..transport.url import is_loopback_address
from .catalogue_routes import CATALOGUE_ROUTES, NEWEST_CATALOGUE_ROUTES
from .files import FILE_ROUTES
from .hosts import is_same_site
from .jobs_api import JOB_ROUTES, NEWEST_JOB_ROUTES
from .node_packs import EXTENSION_FILE, PACK_ROUTES, TEMPLATE, extension
from .prompt_routes import PROMPT_ROUTES
from .raw_http import Next, more_headers
from .server_state import Routes, ServerState
from .system_routes import ASSET_ROUTES, INTERNAL_ROUTES, SYSTEM_ROUTES
from .userdata import USER_ROUTES, Users
from .ws_frames import EventSocket, encode_message

_PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def _add(table: web.RouteTableDef, source: Any, routes: Routes[Any]) -> None:
    """Add routes to a table; each handler gets ``source`` as its first argument."""
    for method, path, handler in routes:
        table.route(method, path)(partial(handler, source))


def application(state: ServerState) -> web.Application:
    """Make the application with all routes, most of them both with and without ``/api``."""
    options, folders = state.options, state.folders
    table, prefixed, internal = (web.RouteTableDef() for _ in range(3))
    _add(table, state, _ROUTES)
    if options.is_newest:
        _add(table, state, NEWEST_CATALOGUE_ROUTES)
    users = Users(folders.user, multi=options.multi_user, newest=options.is_newest)
    _add(table, users, USER_ROUTES)
    for route in table:
        if isinstance(route, web.RouteDef):  # there are no others
            prefixed.route(route.method, f"/api{route.path}")(route.handler)
    _add(prefixed, state, TEMPLATE)
    if options.is_newer:
        _add(prefixed, state, JOB_ROUTES)
    if options.is_newest:
        _add(prefixed, state, (*NEWEST_JOB_ROUTES, *ASSET_ROUTES))
    _add(internal, state, INTERNAL_ROUTES)

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


# -- the event socket --------------------------------------------------------------------


async def _event_socket(state: ServerState, request: web.Request) -> web.StreamResponse:
    """Serve ``GET /ws``, from the handshake to the end of the socket."""
    sockets, records = state.sockets, state.records
    ws = web.WebSocketResponse(autoping=False)
    ws.headers.update(more_headers.get())
    await ws.prepare(request)
    client_id = request.query.get("clientId") or uuid.uuid4().hex
    link = EventSocket(client_id, ws, request.transport)
    async with sockets.connected(link):
        greeting = {"status": state.queue_info(), "sid": client_id}
        records.keep(records.hellos, client_id)
        await link.send(encode_message("status", greeting), *state.faults.framing())
        sockets.wake_stale_handlers(client_id)
        executor = state.executor
        if executor.client_id == client_id and executor.node_id is not None:
            await sockets.deliver("executing", {"node": executor.node_id}, client_id)
        is_first = True
        async for message in ws:
            if message.type is aiohttp.WSMsgType.PING:
                await _answer_ping(state, link, message.data)
            elif message.type is aiohttp.WSMsgType.TEXT:
                received = _decoded(state, message.data, is_first)
                if is_first and received is not None:
                    is_first = False
                    await _first_message(state, client_id, received)
    return ws


async def _answer_ping(state: ServerState, link: EventSocket, data: bytes) -> None:
    state.records.count("pings")
    swallowing = state.faults.find("swallow_pings")
    for fault in swallowing:
        fault.hits += 1
    if not swallowing:
        await link.pong(data)


def _decoded(state: ServerState, text: str, is_first: bool) -> dict[str, Any] | None:
    """Decode and record a client's JSON message; return it if it is an object, else None."""
    records = state.records
    try:
        data = json.loads(text)
    except ValueError:
        return None
    if is_first:
        records.keep(records.first_messages, data)
    records.keep(records.messages, data)
    return data if isinstance(data, dict) else None


async def _first_message(state: ServerState, client_id: str, data: dict[str, Any]) -> None:
    if data.get("type") == "feature_flags" and not state.faults.first("no_feature_flags"):
        state.sockets.set_flags(client_id, data.get("data", {}))
        await state.sockets.deliver("feature_flags", state.features, client_id)


_ROUTES: Routes[ServerState] = (
    *PROMPT_ROUTES,
    *CATALOGUE_ROUTES,
    *SYSTEM_ROUTES,
    *FILE_ROUTES,
    *PACK_ROUTES,
    ("GET", "/ws", _event_socket),
)


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
    """Refuse requests of pages from other sites to a loopback host; answer OPTIONS requests."""
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
        addresses = [str(info[4][0]) for info in socket.getaddrinfo(host, None)]
    except OSError:
        return False
    return bool(addresses) and all(map(is_loopback_address, addresses))
