"""The ports of a hosted surface, which starts and crashes apart from ComfyUI; all its routes.

The reading routes of Comfy Cloud's older API, too: nodes, models, jobs, queue, features, system.
That API is ComfyUI's, below ``/api``, with differences: the key is in ``X-API-Key``, errors are
``{"code", "message"}``, the last two fields of an item in the queue are swapped, and jobs may have
their times in seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, get_args
from urllib.parse import urlsplit

import attrs
from aiohttp import web

from ..exchange import fault_middleware
from ..hosts import host_of_page, is_loopback, is_page_of
from ..prompt_routes import JOB_ROUTES, PROMPT_ROUTES
from ..received import Records
from ..server_loop import Connections, ListenAddress, ReservedPort
from ..server_routes import CATALOGUE_ROUTES, SYSTEM_ROUTES
from ..server_state import RouteHandler, RouteTable, ServerState
from ..wire import Next, Request
from .asset_routes import ASSET_V2_ROUTES, content, content_type, path_of
from .hosted_state import HostedState, Memory, is_same
from .job_routes import JOB_V2_ROUTES
from .job_stream import STREAM_ROUTES
from .traps import TRAPS, HostedKind, HostedTraps
from .v2_errors import Refusal


class Gateway:
    """The hosted surface of a :class:`~comfy_client.testing.ComfyServer`, as a test sees it.

    ``server.url`` is its address.  The surface starts with the server, and can crash alone::

        with ComfyServer(hosted="proxy") as server:
            server.gateway.kill()               # ComfyUI keeps running
            server.gateway.start()              # the surface has lost its jobs and keys
            with server.gateway.trap(upstream="down"):
                ...                             # 503 upstream_unreachable

    Attributes:
        place: ``"proxy"``, ``"serverless"`` or ``"cloud"``.
        traps: The traps that are set; may be replaced at any time.
        storage_requests: The requests that reached storage on its own port, oldest first.
    """

    def __init__(
        self,
        place: HostedKind,
        traps: HostedTraps | None,
        address: ListenAddress,
        token: str | None,
        filters: Callable[[str], list[Any]],
    ) -> None:
        if place not in get_args(HostedKind):
            known = ", ".join(get_args(HostedKind))
            raise ValueError(f"hosted must be one of {known}, not {place!r}")
        if not isinstance(traps, HostedTraps | None):
            raise TypeError(f"traps must be HostedTraps, not {traps!r}")
        self.place: HostedKind = place
        self.traps: HostedTraps = traps or TRAPS[place]
        self._first_traps = self.traps
        self._front = address
        self._storage = ListenAddress(ReservedPort(address.port.host, 0))
        self._token = token
        self._filters = filters
        self._records = Records()
        self.storage_requests: list[Request] = self._records.requests
        self._memory = Memory()
        self._state: ServerState | None = None
        self._upstream_url = ""
        self._open: list[Connections] = []
        self._lock = threading.RLock()  # guards the above; held while it starts or stops

    def __repr__(self) -> str:
        return f"<Gateway {self.place} {self._front.url if self._open else 'stopped'}>"

    @property
    def storage_url(self) -> str:
        """The URL of storage on its own port; raises RuntimeError if the server is not running."""
        self._running()
        return self._storage.url

    @contextlib.contextmanager
    def trap(self, **changes: Any) -> Iterator[None]:
        """Context manager: change some of the traps, by their names in :class:`HostedTraps`.

        Raises:
            TypeError: There is no trap of this name.
            ValueError: An invalid value.
        """
        before = self.traps
        self.traps = attrs.evolve(before, **changes)
        try:
            yield
        finally:
            self.traps = before

    def kill(self) -> None:
        """Crash the surface alone: reset its connections; its port refuses new ones."""
        with self._lock:
            state = self._running()
            if not self._open:
                raise RuntimeError("the surface is not running")
            self._front.port.reserve()
            try:
                state.loop.wait(self._close(state))
            except BaseException:
                self._front.port.release()
                raise
            self._front.port.refuse()

    def start(self) -> None:
        """Start the surface again after :meth:`kill`, on the same port.

        Its jobs, keys, assets and URLs are forgotten, unless the trap ``keeps_state`` is set.

        Raises:
            RuntimeError: The surface is running already, or the server is not running.
        """
        with self._lock:
            state = self._running()
            if self._open:
                raise RuntimeError(f"already running at {self._front.url}")
            self._start(state, self._hosted(state))

    def restart(self) -> None:
        """Crash the surface and start it again."""
        with self._lock:
            self.kill()
            self.start()

    def _running(self) -> ServerState:
        if self._state is None:
            raise RuntimeError("the server is not running: use `with ComfyServer()`, or start() it")
        return self._state

    # -- for the server -----------------------------------------------------------------

    def attach(self, state: ServerState, upstream_url: str, *, again: bool = False) -> None:
        """Open the ports in front of a ComfyUI that has started; with ``again``, the last ones."""
        with self._lock:
            self._upstream_url = upstream_url
            own = self._storage.port.listen(again=again)
            hosted = self._hosted(state)
            state.loop.wait(self._serve(state, own, self._storage, storage(hosted), self._records))
            self._start(state, hosted, again=again)
            self._state = state

    def reset(self) -> None:
        """Forget everything, with the first traps; start again after :meth:`kill`."""
        with self._lock:
            state = self._running()
            self.traps = self._first_traps
            state.loop.call(self._memory.forget)
            self._records.clear()
            if not self._open:
                self._start(state, self._hosted(state))

    def detach(self, *, reserve: bool) -> None:
        """Prepare for the server's stop; ``reserve`` keeps the ports for the next start."""
        with self._lock:
            self._state = None
            self._open.clear()
            for address in (self._front, self._storage):
                if reserve and not address.port.is_reserved:
                    address.port.reserve()

    def refuse(self) -> None:
        """Bind the reserved ports after the server has stopped, so that they refuse connections."""
        for address in (self._front, self._storage):
            address.port.refuse()

    def release(self) -> None:
        """Give up the reserved ports."""
        for address in (self._front, self._storage):
            address.port.release()

    def _hosted(self, state: ServerState) -> HostedState:
        if not self.traps.keeps_state:
            self._memory = Memory()
        return HostedState(
            self.place,
            self._memory,
            state,
            self._front.prefix,
            self._token,
            self._upstream_url,
            self._storage.url,
            lambda: self.traps,
        )

    def _start(self, state: ServerState, hosted: HostedState, *, again: bool = False) -> None:
        app = surface(hosted)
        listener = self._front.port.listen(again=again)
        serving = self._serve(state, listener, self._front, app, state.records)
        self._open.append(state.loop.wait(serving))

    async def _serve(
        self,
        state: ServerState,
        listener: socket.socket,
        address: ListenAddress,
        app: web.Application,
        records: Records,
    ) -> Connections:
        """Open a port for an application; return its connections."""
        connections = state.new_connections()
        if address.prefix:
            outer = web.Application(client_max_size=state.options.max_upload_size + BODY_SIZE)
            outer.add_subapp(address.prefix, app)
            app = outer
        app.middlewares.insert(0, fault_middleware(state, records, connections, address.prefix))
        if address is self._front:
            app.middlewares[:0] = self._filters(listener.getsockname()[0])
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def serving() -> None:
            logger = state.logger()
            await connections.serve(
                app, listener, address.tls, logger, lambda: ready.set_result(None)
            )

        task = asyncio.create_task(serving())
        await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        state.ports[connections] = task
        return connections

    async def _close(self, state: ServerState) -> None:
        for connections in self._open:
            connections.reset = True
            task = state.ports.pop(connections)
            task.cancel()
            await asyncio.wait({task})
        self._open.clear()


# -- the routes, and the rules for each request ------------------------------------------

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
