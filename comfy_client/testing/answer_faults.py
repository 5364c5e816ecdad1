"""Faults of answers: late, cut off, or not from the server itself."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import inspect
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, cast

from aiohttp import web

from .active_faults import ActiveFaults, Fault
from .checks import check_count, check_header, check_seconds, jsonable
from .exchange import Exchange, Rule, sendable
from .http import Answer, Handler, unknown_route
from .state import ServerState

_METHODS = ("*", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT")
_PAGE = "<!DOCTYPE html><html><head><title>{0}</title></head><body><h1>{0}</h1></body></html>"
_HTML = {"Content-Type": "text/html; charset=utf-8"}
_POLL = 0.005  # seconds between two checks of the queue


class AnswerFaults:
    """The part of :class:`~comfy_client.testing.Faults` that is about single requests."""

    def __init__(self, active: ActiveFaults, running: Callable[[], ServerState]) -> None:
        self._faults = active
        #: The server's state; RuntimeError if it is not running.
        self._running = running

    def refuse_sockets(
        self,
        status: int = 403,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        times: int | None = None,
    ) -> Fault:
        """New sockets are refused with this answer; open ones stay."""
        answer = sendable((status, headers, body))
        return self._rule("refuse_sockets", "GET", "/ws", answer, times)

    def stall_handshakes(self, *, times: int | None = None) -> Fault:
        """WebSocket handshakes get no answer at all."""
        return self._rule("stall_handshakes", "GET", "/ws", _delayed(None), times)

    def slow_handshakes(self, seconds: float, *, times: int | None = None) -> Fault:
        """WebSocket handshakes are answered after so many seconds."""
        late = _delayed(check_seconds(seconds))
        return self._rule("slow_handshakes", "GET", "/ws", late, times)

    def other_prompt_ids(self) -> Fault:
        """The server ignores the ``prompt_id`` of the request and chooses its own."""

        async def respond(exchange: Exchange) -> web.StreamResponse:
            with contextlib.suppress(ValueError):
                body = exchange.seen.json()
                if isinstance(body, dict):
                    body.pop("prompt_id", None)
                    exchange.replace_body(json.dumps(body).encode())
            return await exchange.proceed()

        return self._rule("other_prompt_ids", "POST", "/prompt", respond, None)

    def node_errors(self, errors: Mapping[str, Any]) -> Fault:
        """Prompts are accepted, with these ``node_errors``."""
        wanted = jsonable("node errors", errors)
        if not isinstance(wanted, dict):
            raise ValueError(f"node errors are a mapping by node id, not {errors!r}")
        added = _rewritten("node_errors", lambda answer: {**answer, "node_errors": wanted})
        return self._rule("node_errors", "POST", "/prompt", added, None)

    def events_before_reply(self, *, times: int | None = None) -> Fault:
        """``POST /prompt`` is answered only after the prompt has left the queue."""

        async def respond(exchange: Exchange) -> web.StreamResponse:
            response = await exchange.proceed()
            prompt_id = _json_of(response).get("prompt_id")
            queue = exchange.state.queue
            while not exchange.gone and prompt_id in _ids(queue.shown()):
                await asyncio.sleep(_POLL)
            return response

        return self._rule("events_before_reply", "POST", "/prompt", respond, times)

    # -- answers ------------------------------------------------------------------------

    def delay(
        self,
        method: str,
        path: str,
        seconds: float | None = None,
        *,
        ran: bool = False,
        times: int | None = None,
    ) -> Fault:
        """Answers are delayed; ``None``: until the fault ends, or the client gives up.

        Args:
            method: Of the request, or ``*``.
            path: As in the module's description.
            seconds: The delay in seconds.
            ran: Whether the delay comes after the request took effect, or before.  For a
                WebSocket it always comes before.
            times: How often.
        """
        wait = None if seconds is None else check_seconds(seconds)
        return self._rule("delay", method, path, _delayed(wait, ran), times)

    def cut(
        self,
        method: str,
        path: str,
        *,
        ran: bool = False,
        sent: int | None = None,
        reset: bool = False,
        times: int | None = None,
    ) -> Fault:
        """The connection ends before the answer does.

        Args:
            method: Of the request, or ``*``.
            path: As in the module's description.
            ran: Whether the request takes effect, such as a prompt that is queued without an
                answer.  A WebSocket is answered first, and then ended.
            sent: How many bytes of the answer's body are sent, although ``Content-Length``
                announces all; then the request takes effect.  ``None``: not even a status.
            reset: Whether to end it with a RST instead of a FIN.
            times: How often.
        """
        if sent is not None:
            check_count("sent", sent)

        async def respond(exchange: Exchange) -> web.StreamResponse:
            if sent is not None:
                data = await exchange.answer()
                exchange.write(data[: data.find(b"\r\n\r\n") + 4 + sent])
            elif ran and exchange.is_socket:
                exchange.write(await exchange.answer())
            elif ran:
                await exchange.proceed()
            exchange.hang_up(reset=reset)
            return exchange.done(keep=False)

        return self._rule("cut", method, path, respond, times)

    def drip(
        self,
        method: str,
        path: str,
        *,
        size: int = 1,
        pause: float = 0.05,
        times: int | None = None,
    ) -> Fault:
        """Send the correct answer `size` bytes at a time, `pause` seconds apart; not to sockets."""
        check_count("size", size, 1)
        pause = check_seconds(pause)

        async def respond(exchange: Exchange) -> web.StreamResponse:
            if exchange.is_socket:
                return await exchange.proceed()
            data = await exchange.answer()
            for start in range(0, len(data), size):
                if exchange.gone:
                    break
                exchange.write(data[start : start + size])
                await asyncio.sleep(pause)
            return exchange.done(keep=False)

        return self._rule("drip", method, path, respond, times)

    def bad_gateway(
        self,
        status: int = 502,
        *,
        method: str = "*",
        path: str = "*",
        times: int | None = None,
    ) -> Fault:
        """A proxy's page with this status, while the server starts or is overloaded."""
        text = http.client.responses.get(check_count("status", status), "A timeout occurred")
        answer = sendable((status, _HTML, _PAGE.format(f"{status} {text}")))
        return self._rule("bad_gateway", method, path, answer, times)

    def login_page(self, status: int = 200, *, times: int | None = None) -> Fault:
        """Answer everything with an HTML page (200, 401, 403), or redirect it to ``/login`` (302).

        Raises:
            ValueError: Another status.
        """
        if status not in (200, 302, 401, 403):
            raise ValueError(f"a login page comes with 200, 302, 401 or 403, not {status}")
        headers = {"Location": "/login", **_HTML} if status == 302 else _HTML
        answer = sendable((status, headers, _PAGE.format("Please log in")))
        return self._rule("login_page", "*", "*", answer, times)

    def redirect(
        self,
        status: int = 301,
        location: str | None = None,
        *,
        method: str = "*",
        path: str = "*",
        times: int | None = None,
    ) -> Fault:
        """Redirect requests; without a location, to the same address with https.

        Raises:
            ValueError: A status that is no redirect.
        """
        if status not in (301, 302, 303, 307, 308):
            raise ValueError(f"a redirect is 301, 302, 303, 307 or 308, not {status}")
        if location is not None:
            check_header("Location", location)

        async def respond(exchange: Exchange) -> web.StreamResponse:
            there = location or f"https://{exchange.request.host}{exchange.seen.target}"
            text = http.client.responses[status]
            headers = {"Location": there, **_HTML}
            return exchange.reply((status, headers, _PAGE.format(f"{status} {text}")))

        return self._rule("redirect", method, path, respond, times)

    def wrong_mime(
        self,
        method: str = "*",
        path: str = "*",
        content_type: str = "text/html",
        *,
        times: int | None = None,
    ) -> Fault:
        """Send the correct body with another content type."""
        check_header("Content-Type", content_type)

        async def respond(exchange: Exchange) -> web.StreamResponse:
            response = await exchange.proceed()
            response.headers["Content-Type"] = content_type
            return response

        return self._rule("wrong_mime", method, path, respond, times)

    def missing(self, method: str, path: str, *, times: int | None = None) -> Fault:
        """The server lacks these routes: 404 for GET and HEAD, 405 for other methods.

        ``missing("*", "/api/*")`` is a server from before ``/api``.
        """

        async def respond(exchange: Exchange) -> web.StreamResponse:
            return exchange.reply(unknown_route(exchange.seen.method))

        return self._rule("missing", method, path, respond, times)

    def too_large(
        self, path: str = "/upload/*", limit: int = 0, *, times: int | None = None
    ) -> Fault:
        """A proxy refuses bodies of more than `limit` bytes with a 413."""
        check_count("limit", limit)

        async def respond(exchange: Exchange) -> web.StreamResponse:
            if len(exchange.seen.body) <= limit:
                return await exchange.proceed()
            return exchange.reply((413, _HTML, _PAGE.format("413 Request Entity Too Large")))

        return self._rule("too_large", "POST", path, respond, times)

    def rename_uploads(self, name: str = "renamed.png", *, times: int | None = None) -> Fault:
        """Uploads are stored under this name, and the answer says so."""
        if not isinstance(name, str) or name in ("", ".", "..") or {"/", "\0"} & set(name):
            raise ValueError(f"name is one of a file, not {name!r}")

        async def respond(exchange: Exchange) -> web.StreamResponse:
            response = await exchange.proceed()
            stored = _json_of(response)
            folder = exchange.state.folders.of_type(str(stored.get("type")))
            if folder is None or "name" not in stored:
                return response
            folder = folder / stored["subfolder"]
            (folder / stored["name"]).replace(folder / name)
            return web.json_response({**stored, "name": name})

        return self._rule("rename_uploads", "POST", "/upload/*", respond, times)

    def rewrite(
        self,
        method: str,
        path: str,
        function: Callable[[Any], Any],
        *,
        times: int | None = None,
    ) -> Fault:
        """Replace a JSON answer by what the function returns for it."""
        if not callable(function):
            raise ValueError(f"rewrite needs a function, not {function!r}")
        return self._rule("rewrite", method, path, _rewritten("rewrite", function), times)

    def answer(
        self, method: str, path: str, answer: Answer | Handler, *, times: int | None = None
    ) -> Fault:
        """Set the answer of a route, as ``server.on`` does.

        Args:
            method: Of the request, or ``*``.
            path: As in the module's description.
            answer: Status, headers and body (bytes, text, ``None``, or JSON), or a function
                that makes them for a :class:`~comfy_client.testing.Request`.  It runs in a
                thread of its own and may wait; if it returns ``None``, it has written to
                ``request.socket`` itself, and the connection ends.
            times: How often.
        """
        if inspect.iscoroutinefunction(answer):
            raise ValueError(f"a handler is a plain function, which may wait, not {answer!r}")
        if not callable(answer):
            answer = sendable(answer)
        return self._rule("answer", method, path, answer, times)

    def _rule(self, name: str, method: str, path: str, answer: Any, times: int | None) -> Fault:
        if method not in _METHODS:
            raise ValueError(f"method is one of {', '.join(_METHODS)}, not {method!r}")
        if not isinstance(path, str) or not path.startswith(("/", "*")):
            raise ValueError(f"a path begins with / or *, not {path!r}")
        return self._faults.add(name, Rule(method, path, answer), times=times)


_Respond = Callable[[Exchange], Awaitable[web.StreamResponse]]


def _delayed(wait: float | None, ran: bool = False) -> _Respond:
    async def respond(exchange: Exchange) -> web.StreamResponse:
        response = await exchange.proceed() if ran and not exchange.is_socket else None
        await exchange.wait(wait)
        if exchange.gone:
            return exchange.done(keep=False)
        return response or await exchange.proceed()

    return respond


def _rewritten(name: str, function: Callable[[Any], Any]) -> _Respond:
    async def respond(exchange: Exchange) -> web.StreamResponse:
        response = await exchange.proceed()
        if not isinstance(response, web.Response) or response.status != 200:
            return response
        if response.content_type != "application/json":
            return response
        try:
            return web.json_response(function(json.loads(response.text or "null")))
        except BaseException as exc:
            exchange.state.keep_error(exc)
            raise RuntimeError(f"{name} failed") from exc

    return respond


def _json_of(response: web.StreamResponse) -> dict[str, Any]:
    with contextlib.suppress(ValueError, AttributeError, TypeError):
        found = json.loads(cast(web.Response, response).text or "")
        if isinstance(found, dict):
            return found
    return {}


def _ids(queue: Mapping[str, list[Any]]) -> Iterator[Any]:
    return (item[1] for items in queue.values() for item in items)
