"""All routes of Comfy API v2, and the rules for each request.

The reading routes of Comfy Cloud's older API, too: nodes, models, jobs, queue, features, system.
That API is ComfyUI's, below ``/api``, with differences: the key is in ``X-API-Key``, errors are
``{"code", "message"}``, the last two fields of an item in the queue are swapped, and jobs may have
their times in seconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from ..catalogue_routes import CATALOGUE_ROUTES
from ..hosts import host_of_page, is_loopback, is_page_of
from ..prompt_routes import JOB_ROUTES, PROMPT_ROUTES
from ..server_state import RouteHandler, RouteTable, ServerState
from ..system_routes import SYSTEM_ROUTES
from ..wire import Next
from .asset_routes import ASSET_V2_ROUTES, content, content_type, path_of
from .hosted_state import HostedState, is_same
from .job_routes import JOB_V2_ROUTES
from .job_stream import STREAM_ROUTES
from .v2_errors import Refusal

_READ = (
    "/object_info",
    "/object_info/{name}",
    "/models",
    "/models/{kind}",
    "/experiment/models",
    "/experiment/models/{kind}",
    "/queue",
    "/features",
    "/system_stats",
    "/api/jobs",
    "/api/jobs/{id}",
)
_TIMES = ("create_time", "execution_start_time", "execution_end_time", "update_time")
_VERSION = "embedded"


def _read(handler: RouteHandler[ServerState], path: str) -> RouteHandler[HostedState]:
    """Return a handler that answers as ComfyUI's ``handler``, in the form of Comfy Cloud."""

    async def answer(hosted: HostedState, request: web.Request) -> web.StreamResponse:
        key = request.headers.get("X-API-Key", "")
        token = hosted.token
        if not key or (token is not None and not is_same(key, token)):
            return _refused(401, "unauthorized", "a valid X-API-Key is required")
        await hosted.reach(request)
        response = await handler(hosted.comfy, request)
        if not isinstance(response, web.Response) or not response.text:
            return response
        said = json.loads(response.text)
        if response.status != 200:
            message = said.get("error") if isinstance(said, dict) else said
            return _refused(response.status, "not_found", str(message))
        return web.json_response(_as_cloud(hosted, path, said))

    return answer


def _as_cloud(hosted: HostedState, path: str, said: Any) -> Any:
    if path == "/system_stats":
        return {**said, "system": {**said["system"], "cloud_version": _VERSION}}
    if path == "/queue":
        return {name: [_item(*item) for item in items] for name, items in said.items()}
    if path.startswith("/api/jobs") and hosted.traps.v1_seconds:
        return {
            **_seconds(said),
            **({"jobs": [*map(_seconds, said["jobs"])]} if "jobs" in said else {}),
        }
    return said


def _item(
    number: float, prompt_id: str, graph: Any, extra_data: Mapping[str, Any], outputs: Any
) -> list[Any]:
    return [number, prompt_id, graph, outputs, {"create_time": extra_data.get("create_time")}]


def _seconds(job: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value / 1000 if name in _TIMES else value for name, value in job.items()}


def _refused(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"code": code, "message": message}, status=status)


CLOUD_V1_ROUTES: RouteTable[HostedState] = tuple(
    ("GET", f"/api{path.removeprefix('/api')}", _read(handler, path))
    for method, path, handler in (
        *CATALOGUE_ROUTES,
        *SYSTEM_ROUTES,
        *PROMPT_ROUTES,
        *JOB_ROUTES,
    )
    if method == "GET" and path in _READ
)


_HEALTH = "/api/v2/health"
#: The most bytes of a request without an uploaded file.
BODY_SIZE = 2**20
_CORS = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key",
    "Access-Control-Expose-Headers": "Retry-After, Content-Range, Accept-Ranges",
    "Access-Control-Allow-Credentials": "true",
    "Access-Control-Max-Age": "600",
    "Vary": "Origin",
}


async def _health(hosted: HostedState, request: web.Request) -> web.Response:
    return web.json_response({"status": "healthy", "upstream": hosted.upstream_url})


def surface(hosted: HostedState) -> web.Application:
    """Make the application of a hosted surface."""
    app = web.Application(
        client_max_size=hosted.comfy.options.max_upload_size + BODY_SIZE,
        middlewares=[_middleware(hosted), _guard(hosted)],
    )
    health: RouteTable[HostedState] = (("GET", "/health", _health),)
    routes = (
        *(health if hosted.place == "proxy" else ()),
        *JOB_V2_ROUTES,
        *STREAM_ROUTES,
        *ASSET_V2_ROUTES,
    )
    _add(app, "/api/v2", hosted, routes)
    if hosted.place == "cloud":
        _add(app, "", hosted, CLOUD_V1_ROUTES)

    async def allow(request: web.Request, response: web.StreamResponse) -> None:
        origin = request.headers.get("Origin")
        if origin in hosted.traps.origins:
            response.headers.update({"Access-Control-Allow-Origin": origin, **_CORS})

    app.on_response_prepare.append(allow)
    return app


def storage(hosted: HostedState) -> web.Application:
    """Make the application of the storage."""
    app = web.Application()
    _add(app, "", hosted, STORAGE_ROUTES)
    return app


def _add(
    app: web.Application, prefix: str, hosted: HostedState, routes: RouteTable[HostedState]
) -> None:
    """Add routes to an application; those for GET answer HEAD too."""
    table = web.RouteTableDef()
    for method, path, handler in routes:
        add = table.get if method == "GET" else partial(table.route, method)
        add(f"{prefix}{path}")(partial(handler, hosted))
    app.add_routes(table)


def _middleware(hosted: HostedState) -> Any:
    """Return middleware that answers each Refusal, and refuses web pages of other sites."""

    @web.middleware
    async def respond(request: web.Request, handler: Next) -> web.StreamResponse:
        try:
            if request.headers.get("Origin") in hosted.traps.origins:
                if request.method == "OPTIONS":
                    return web.Response(status=204)
            else:
                _check_page(request)
                if request.method == "OPTIONS":
                    return web.Response()
            return await handler(request)
        except Refusal as refusal:
            return refusal.response()

    return respond


def _check_page(request: web.Request) -> None:
    """Raise Refusal if a request comes from a web page of another site."""
    if request.headers.get("Sec-Fetch-Site", "").lower() == "cross-site":
        raise Refusal("forbidden_origin")
    for one in request.headers.getall("Origin", []):
        if not host_of_page(one):  # null, file://, data:, which the proxy accepts
            raise Refusal("forbidden_origin", f"A page whose origin is {one!r:.100} may not ask.")
    host, origin = request.headers.get("Host"), request.headers.get("Origin")
    if not host or origin is None or is_page_of(host, origin):
        return
    if is_loopback(urlsplit(f"//{host}").hostname or ""):
        message = f"Origin '{origin}' does not match request host '{host}'."
        raise Refusal("forbidden_origin", message)


def _guard(hosted: HostedState) -> Any:
    """Return middleware that requires the token on all routes of v2 but the health check."""

    @web.middleware
    async def guard(request: web.Request, handler: Next) -> web.StreamResponse:
        path = request.path.removeprefix(hosted.prefix)
        if hosted.token is None or path == _HEALTH or not path.startswith("/api/v2/"):
            return await handler(request)
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not given:
            raise Refusal("unauthorized")
        if not is_same(given, hosted.token):
            raise Refusal("unauthorized", "Invalid token.")
        return await handler(request)

    return guard


# -- storage ----------------------------------------------------------------------------

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
        return _denied("InvalidArgument", 400, f"unexpected headers: {', '.join(sorted(foreign))}")
    asset_id, expires = request.match_info["id"], request.query.get("expires", "")
    signature = hosted.memory.sign(f"{asset_id} {expires}")
    if not is_same(request.query.get("signature", ""), signature):
        return _denied("SignatureDoesNotMatch", 403, "the signature is wrong")
    if float(expires) < time.time():
        return _denied("AccessDenied", 403, "Request has expired")
    path = path_of(hosted.comfy.folders, hosted.file_of(asset_id))
    if path is None:
        return _denied("NoSuchKey", 404, "The specified key does not exist.")
    found = content(request, path, content_type(path.name))
    if found is None:
        refused = _denied("InvalidRange", 416, "The requested range is not satisfiable")
        refused.headers["Content-Range"] = f"bytes */{path.stat().st_size}"
        return refused
    return found


def _denied(code: str, status: int, message: str) -> web.Response:
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return web.Response(status=status, text=text, content_type="application/xml")


STORAGE_ROUTES: RouteTable[HostedState] = (("GET", "/storage/{id}", _get),)
