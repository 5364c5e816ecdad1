"""The port through which a server is controlled: who may ask, and what is asked."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Final
from urllib.parse import unquote

from aiohttp import web

from ..hosts import accepted_names, host_refusal
from ..server_loop import Connections, ListenAddress, ReservedPort, ServerLoop
from .answer_routes import Answers
from .controlled import ControlCall, ControlError, ControlledServer, ControlRoutes, Route, unknown
from .fault_control import FaultBook
from .life_routes import Life
from .node_routes import NODE_ROUTES
from .prompt_views import PROMPT_VIEW_ROUTES
from .request_log import REQUEST_ROUTES
from .time_routes import TIME_ROUTES

PREFIX: Final = "/embedded/v1"
_LARGEST_BODY: Final = 2**20  # bytes
_CLOSE_TIMEOUT: Final = 15.0  # seconds; a call may restart the server


class ControlService:
    """The control of one server, which listens from :meth:`open` to :meth:`close`."""

    def __init__(
        self, server: ControlledServer, port: int = 0, host: str = "", token: str | None = None
    ) -> None:
        """Make the control of a server.

        Args:
            server: The server.
            port: The port to listen on; 0: any free one.
            host: The address to listen on with a token; without one it is loopback.
            token: The bearer token that each call must have; ``None``: none.
        """
        self._server = server
        self._host = host if token is not None else "127.0.0.1"
        self._token = token
        self._address = ListenAddress(ReservedPort(self._host, port), None, PREFIX)
        self._faults = FaultBook(server)
        self._life = Life(server)
        #: Method, path and function of each route, without what is common to all paths.
        self.routes: ControlRoutes = (
            ("GET", "/", self._list),
            *self._life.routes(),
            *TIME_ROUTES,
            *self._faults.routes(),
            *Answers(self._faults).routes(),
            *NODE_ROUTES,
            *REQUEST_ROUTES,
            *PROMPT_VIEW_ROUTES,
        )
        self._loop: ServerLoop | None = None
        self._thread = threading.Thread()

    @property
    def url(self) -> str:
        """The URL of the control, without a slash at the end."""
        return self._address.url

    def open(self) -> None:
        """Start to listen, unless it does; raises OSError if the address cannot be used."""
        if self._loop is not None:
            return
        listener = self._address.port.listen()
        self._loop = loop = ServerLoop()
        started = Future[None]()
        app = self._application(listener.getsockname()[0])

        async def serve() -> None:
            loop.begin()
            try:
                await Connections(loop, lambda: None).serve(
                    app, listener, None, logging.Logger(__name__), lambda: started.set_result(None)
                )
            except BaseException as exc:
                if not started.done():
                    started.set_exception(exc)
                raise

        self._thread = threading.Thread(
            target=asyncio.run, args=(serve(),), name="ComfyServer control", daemon=True
        )
        self._thread.start()
        started.result()

    def close(self) -> None:
        """Stop to listen, after the calls that are being answered; idempotent."""
        loop, self._loop = self._loop, None
        if loop is not None:
            self._life.close()
            self._faults.close()
            loop.stop()
            self._thread.join(_CLOSE_TIMEOUT)
            self._address.port.release()

    def reset(self) -> None:
        """Forget the ids of faults, and when they are to end, or the server is to come back."""
        self._life.close()
        self._faults.reset()

    def _application(self, address: str) -> web.Application:
        names = accepted_names(self._host, address, None)

        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                self._check(request, names)
                status, content = await self._answer(request)
            except ControlError as exc:
                status, content = exc.status, exc.content()
            except web.HTTPRequestEntityTooLarge:
                refusal = ControlError(
                    413, "too_large", f"a body has {_LARGEST_BODY} bytes at most"
                )
                status, content = refusal.status, refusal.content()
            return _json(status, content)

        app = web.Application(client_max_size=_LARGEST_BODY)
        app.router.add_route("*", "/{path:.*}", handle)
        return app

    def _list(self, server: ControlledServer, call: ControlCall) -> tuple[int, Any]:
        call.only()
        paths = dict.fromkeys(pattern for _, pattern, _ in self.routes)
        verbs = {path: [verb for verb, other, _ in self.routes if other == path] for path in paths}
        return 200, {"routes": {PREFIX + path: found for path, found in verbs.items()}}

    def _check(self, request: web.Request, names: frozenset[str] | None) -> None:
        """Raise ControlError unless the client may ask."""
        reason = (host_refusal(request.headers, names) or "").partition(";")[0]
        for origin in request.headers.getall("Origin", []):
            if origin.lower() != f"http://{request.headers.get('Host', '').lower()}":
                reason = reason or f"a page of {origin[:100]!r} may not ask"
        if reason:
            raise ControlError(403, "forbidden", reason)
        if self._token is not None:
            scheme, _, value = request.headers.get("Authorization", "").partition(" ")
            given, wanted = value.encode("utf-8", "replace"), self._token.encode()
            if scheme.lower() != "bearer" or not hmac.compare_digest(given, wanted):
                raise ControlError(401, "unauthorized", "send the token: Authorization: Bearer ...")

    async def _answer(self, request: web.Request) -> tuple[int, Any]:
        path = request.rel_url.raw_path
        method = "GET" if request.method == "HEAD" else request.method
        route, names = _find(self.routes, method, path.removeprefix(PREFIX), path)
        call = ControlCall(names, dict(request.query), await request.read())
        return await asyncio.to_thread(_called, route, self._server, call)


def _called(route: Route, server: ControlledServer, call: ControlCall) -> tuple[int, Any]:
    """Return the answer of a route, in a thread, as it may wait."""
    try:
        return route(server, call)
    except (ValueError, TypeError) as exc:
        raise ControlError(400, "invalid", str(exc)) from exc
    except (RuntimeError, OSError) as exc:  # it is not running, or frozen; or of a file or a port
        raise ControlError(409, "not_possible_now", str(exc)) from exc


def _find(routes: ControlRoutes, method: str, path: str, whole: str) -> tuple[Route, Sequence[str]]:
    """Return the route for a path, and the variable parts of the path."""
    parts = path.strip("/").split("/")
    allowed = []
    for verb, pattern, route in routes if whole.startswith(PREFIX) else ():
        wanted = pattern.strip("/").split("/")
        pairs = list(zip(wanted, parts, strict=False))
        if len(wanted) == len(parts) and all(a in ("*", b) for a, b in pairs):
            if verb == method:
                return route, [unquote(part) for a, part in pairs if a == "*"]
            allowed.append(verb)
    if allowed:
        message = f"{whole[:100]} takes {', '.join(allowed)}, not {method}"
        raise ControlError(405, "wrong_method", message)
    raise unknown("path", whole, {PREFIX + pattern for _, pattern, _ in routes})


def _json(status: int, content: Any) -> web.Response:
    text = json.dumps(content, allow_nan=False, default=str)
    headers = {"Cache-Control": "no-store"}
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="embedded"'
    return web.json_response(text=f"{text}\n", status=status, headers=headers)
