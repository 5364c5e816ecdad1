"""All routes of an embedded server, its event socket, and the middleware."""

from __future__ import annotations

import json
import socket
from functools import cache
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

from ..transport.url import is_loopback_address
from .files import EXTENSION_FILE, FILE_ROUTES, PACK_ROUTES, TEMPLATE, USER_ROUTES, Users, extension
from .hosts import cors_headers, is_of_allowed_page, is_same_site
from .packs.pack import AllPacks, PackServer
from .prompt_routes import JOB_ROUTES, PROMPT_ROUTES
from .server_routes import (
    ASSET_ROUTES,
    CATALOGUE_ROUTES,
    INTERNAL_ROUTES,
    NEWER_CATALOGUE_ROUTES,
    SYSTEM_ROUTES,
)
from .server_state import RouteHandler, RouteTable, ServerState
from .wire import EventSocket, Next, encode_message, more_headers

_STATE: Final = web.AppKey("state", ServerState)
_USERS: Final = web.AppKey("users", Users)
_PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def _for(key: web.AppKey[Any], handler: RouteHandler[Any]) -> Any:
    """Return aiohttp's handler, which looks the first argument up in the application."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return await handler(request.config_dict[key], request)

    return handle


def _add(table: web.RouteTableDef, key: web.AppKey[Any], routes: RouteTable[Any]) -> None:
    """Add routes to a table; each handler gets what stands under a key of the application."""
    for method, path, handler in routes:
        table.route(method, path)(_for(key, handler))


def _resources(*, newer: bool) -> tuple[web.AbstractResource, ...]:
    """Make the resources of all routes, most of them both with and without ``/api``."""
    table, prefixed = web.RouteTableDef(), web.RouteTableDef()
    _add(table, _STATE, _ROUTES)
    if newer:
        _add(table, _STATE, NEWER_CATALOGUE_ROUTES)
    _add(table, _USERS, USER_ROUTES)
    for route in table:
        if isinstance(route, web.RouteDef):  # there are no others
            prefixed.route(route.method, f"/api{route.path}")(route.handler)
    _add(prefixed, _STATE, TEMPLATE)
    if newer:
        _add(prefixed, _STATE, (*JOB_ROUTES, *ASSET_ROUTES))
    router = web.UrlDispatcher()
    router.add_routes(prefixed)
    router.add_routes(table)
    router.add_get(EXTENSION_FILE, _for(_STATE, extension))  # never below /api
    return tuple(router.resources())


#: The same, for servers that share them: making them takes most of the time of a start.
_shared_resources = cache(_resources)


def application(state: ServerState, packs: AllPacks, server: PackServer) -> web.Application:
    """Make the application with all routes, those of packs included."""
    options, folders = state.options, state.folders
    app = web.Application(
        client_max_size=options.max_upload_size, middlewares=[_cache_control, _origin]
    )
    app[_STATE] = state
    if options.origins:
        app.on_response_prepare.append(_add_cors_headers)
    app[_USERS] = users = Users(
        folders.user,
        options.version,
        multi=options.multi_user,
        settings=options.settings,
    )
    state.forgetting.append(users.reset)
    if options.since("0.28"):
        app.middlewares.append(_same_site)
    internal = web.RouteTableDef()
    _add(internal, _STATE, INTERNAL_ROUTES)
    below_internal = web.Application()
    below_internal.add_routes(internal)
    app.add_subapp("/internal", below_internal)
    # A prefix changes the resources, which are its own then.
    resources = _resources if options.prefix else _shared_resources
    for resource in resources(newer=options.since("0.28")):
        app.router.register_resource(resource)
    if options.page:
        options.page.add_routes(app.router)
    packs.add_to(app, server)
    app.router.add_static("/", folders.web)  # all else: 404 to GET, 405 to the rest
    return app


# -- the event socket --------------------------------------------------------------------


async def _event_socket(state: ServerState, request: web.Request) -> web.StreamResponse:
    """Serve ``GET /ws``, from the handshake to the end of the socket."""
    sockets, records = state.sockets, state.records
    ws = web.WebSocketResponse(autoping=False)
    ws.headers.update(more_headers.get())
    await ws.prepare(request)
    client_id = request.query.get("clientId") or state.options.ids.new("client").hex
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


_ROUTES: RouteTable[ServerState] = (
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
    if host is not None and origin is not None and not _is_of_allowed_page(request):
        host, origin = host.lower(), origin.lower()
        if not is_same_site(host, origin) and _is_loopback(urlsplit(f"//{host}").hostname or ""):
            return web.Response(status=403)
    return web.Response() if request.method == "OPTIONS" else await handler(request)


@web.middleware
async def _same_site(request: web.Request, handler: Next) -> web.StreamResponse:
    is_foreign = request.headers.get("Sec-Fetch-Site") == "cross-site"
    if is_foreign and not _is_of_allowed_page(request):
        return web.Response(status=403)
    return await handler(request)


def _is_of_allowed_page(request: web.Request) -> bool:
    return is_of_allowed_page(request.headers, request.config_dict[_STATE].options.origins)


async def _add_cors_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Add the headers that pages of other origins need, to answers of errors too."""
    options = request.config_dict[_STATE].options
    response.headers.update(cors_headers(request.headers, options.origins))


def _is_loopback(host: str) -> bool:
    try:
        addresses = [str(info[4][0]) for info in socket.getaddrinfo(host, None)]
    except OSError:
        return False
    return bool(addresses) and all(map(is_loopback_address, addresses))
