"""Faults between a client and ComfyUI, which a test switches on and off.

Each method of :attr:`ComfyServer.faults <comfy_client.testing.ComfyServer>` works on a running
server, from any thread.  A fault that lasts is a :class:`Fault`: it is active immediately, until
its ``with`` block ends, or until :meth:`Fault.end` or :meth:`Faults.clear`::

    with ComfyServer() as server, ComfyApi(server.url) as api:
        with server.faults.bad_gateway(503):
            job = api.submit("workflow.json")          # ... copes
        server.faults.drop()                           # all sockets, by a reset
        server.faults.cut("POST", "/prompt", ran=True, times=1)  # queued, and no answer

Method and path select routes; both may contain ``*``.  A path also matches below ``/api``,
unless it begins with ``/api`` itself.  The fault that was added last acts first; faults of
several kinds act together where that makes sense.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import http.client
import inspect
import json
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web

from ..replacing import replace
from .active_faults import (
    FOREIGN,
    JUNK,
    ActiveFaults,
    Fault,
    check_count,
    check_header,
    check_seconds,
    jsonable,
)
from .exchange import Exchange, Rule, Stall, checked_answer
from .node_faults import error_class, node_fault
from .server_state import MEMORY, ServerState
from .wire import Answer, EventSocket, Handler, frame, unknown_route

__all__ = ["FOREIGN", "JUNK", "Fault", "Faults"]

_OTHERS = ("active", "clear")
_METHODS = ("*", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT")
_PAGE = "<!DOCTYPE html><html><head><title>{0}</title></head><body><h1>{0}</h1></body></html>"
_HTML = {"Content-Type": "text/html; charset=utf-8"}
_POLL = 0.005  # seconds between two checks of the queue


class AnswerFaults:
    """The faults of single requests: answers that are late, cut off, or replaced."""

    def __init__(self, active: ActiveFaults, running: Callable[[], ServerState]) -> None:
        self._faults = active
        #: Returns the server's state; raises RuntimeError if it is not running.
        self._running = running

    def refuse_sockets(
        self,
        status: int = 403,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        times: int | None = None,
    ) -> Fault:
        """Refuse new WebSockets with this HTTP answer; those that are open stay open."""
        answer = checked_answer((status, headers, body))
        return self._rule("refuse_sockets", "GET", "/ws", answer, times)

    def stall_handshakes(self, *, times: int | None = None) -> Fault:
        """Leave WebSocket handshakes without any answer."""
        return self._rule("stall_handshakes", "GET", "/ws", _delayed(None), times)

    def slow_handshakes(self, seconds: float, *, times: int | None = None) -> Fault:
        """Answer WebSocket handshakes after some seconds."""
        return self._rule("slow_handshakes", "GET", "/ws", _delayed(check_seconds(seconds)), times)

    def other_prompt_ids(self) -> Fault:
        """Ignore the ``prompt_id`` of requests; the server chooses its own."""

        async def respond(exchange: Exchange) -> web.StreamResponse:
            with contextlib.suppress(ValueError):
                body = exchange.seen.json()
                if isinstance(body, dict):
                    body.pop("prompt_id", None)
                    exchange.replace_body(json.dumps(body).encode())
            return await exchange.proceed()

        return self._rule("other_prompt_ids", "POST", "/prompt", respond, None)

    def node_errors(self, errors: Mapping[str, Any]) -> Fault:
        """Answer accepted prompts with these ``node_errors``."""
        wanted = jsonable("node errors", errors)
        if not isinstance(wanted, dict):
            raise ValueError(f"node errors must be a mapping by node id, not {errors!r}")
        added = _rewritten("node_errors", lambda answer: {**answer, "node_errors": wanted})
        return self._rule("node_errors", "POST", "/prompt", added, None)

    def events_before_reply(self, *, times: int | None = None) -> Fault:
        """Answer ``POST /prompt`` only after the prompt has left the queue."""

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
        """Delay answers by some seconds, or, if ``seconds`` is None, until the fault ends.

        Args:
            method: The method of the requests, or ``*``.
            path: The path, as in the module's description.
            seconds: The delay in seconds; ``None``: until the fault ends or the client gives up.
            ran: Whether the delay comes after the request took effect, or before.  For a
                WebSocket it always comes before.
            times: How often the fault occurs; ``None``: any number of times.
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
        """End connections before the answer is complete.

        Args:
            method: The method of the requests, or ``*``.
            path: The path, as in the module's description.
            ran: Whether the request takes effect, such as a prompt that is queued without an
                answer.  A WebSocket is answered first, and then ended.
            sent: How many bytes of the answer's body are sent, although ``Content-Length``
                announces all; then the request takes effect.  ``None``: not even a status.
            reset: Whether to end the connection with an RST instead of a FIN.
            times: How often the fault occurs; ``None``: any number of times.
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
        """Send the correct answer in pieces of `size` bytes, `pause` seconds apart.

        WebSockets are exempt.
        """
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
        """Answer with a proxy's error page, as if the server were starting or overloaded."""
        text = http.client.responses.get(check_count("status", status), "A timeout occurred")
        answer = checked_answer((status, _HTML, _PAGE.format(f"{status} {text}")))
        return self._rule("bad_gateway", method, path, answer, times)

    def login_page(self, status: int = 200, *, times: int | None = None) -> Fault:
        """Answer everything with an HTML page (200, 401, 403), or redirect it to ``/login`` (302).

        Raises:
            ValueError: Another status.
        """
        if status not in (200, 302, 401, 403):
            raise ValueError(f"a login page has status 200, 302, 401 or 403, not {status}")
        headers = {"Location": "/login", **_HTML} if status == 302 else _HTML
        answer = checked_answer((status, headers, _PAGE.format("Please log in")))
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
        """Redirect requests to ``location``, or if that is None, to the same address with https.

        Raises:
            ValueError: A status that is not a redirect.
        """
        if status not in (301, 302, 303, 307, 308):
            raise ValueError(f"a redirect has status 301, 302, 303, 307 or 308, not {status}")
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
        """Act as if these routes did not exist: answer 404 to GET and HEAD, 405 to other methods.

        ``missing("*", "/api/*")`` is a server from before ``/api``.
        """

        async def respond(exchange: Exchange) -> web.StreamResponse:
            return exchange.reply(unknown_route(exchange.seen.method))

        return self._rule("missing", method, path, respond, times)

    def too_large(
        self, path: str = "/upload/*", limit: int = 0, *, times: int | None = None
    ) -> Fault:
        """Refuse bodies of more than `limit` bytes with 413, as a proxy does."""
        check_count("limit", limit)

        async def respond(exchange: Exchange) -> web.StreamResponse:
            if len(exchange.seen.body) <= limit:
                return await exchange.proceed()
            return exchange.reply((413, _HTML, _PAGE.format("413 Request Entity Too Large")))

        return self._rule("too_large", "POST", path, respond, times)

    def stop_reading(self, path: str = "*", after: int = 0, *, times: int | None = None) -> Fault:
        """Read no more of the bodies of requests until the fault ends, as if the disk hung.

        Their connections stay open.  Then they are read and answered, also if the client has left.
        Requests without a body are answered.

        Args:
            path: The path of the requests, as in the module's description.
            after: How many bytes of a body are read before.  Some hundred kilobytes more leave the
                client, as they fit into the buffers of both machines.
            times: How many requests are not read; ``None``: any number.
        """
        rule = self._checked_rule("*", path, None)
        stall = Stall(rule, check_count("after", after))
        return self._faults.add("stop_reading", stall, times=times)

    def rename_uploads(self, name: str = "renamed.png", *, times: int | None = None) -> Fault:
        """Store uploads under this name, and return it in the answer."""
        if not isinstance(name, str) or name in ("", ".", "..") or {"/", "\0"} & set(name):
            raise ValueError(f"name is one of a file, not {name!r}")

        async def respond(exchange: Exchange) -> web.StreamResponse:
            response = await exchange.proceed()
            stored = _json_of(response)
            folder = exchange.state.folders.of_type(str(stored.get("type")))
            if folder is None or "name" not in stored:
                return response
            folder = folder / stored["subfolder"]
            replace(folder / stored["name"], folder / name)
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
        """Replace the content of each successful JSON answer by the function's result for it."""
        if not callable(function):
            raise ValueError(f"rewrite needs a function, not {function!r}")
        return self._rule("rewrite", method, path, _rewritten("rewrite", function), times)

    def answer(
        self, method: str, path: str, answer: Answer | Handler, *, times: int | None = None
    ) -> Fault:
        """Set the answer to all requests of a route, as ``server.on`` does.

        Args:
            method: The method of the requests, or ``*``.
            path: The path, as in the module's description.
            answer: Status, headers and body (bytes, text, ``None``, or JSON), or a function
                that makes them for a :class:`~comfy_client.testing.Request`.  It runs in a
                thread of its own and may wait; if it returns ``None``, it has written to
                ``request.socket`` itself, and the connection ends.
            times: How often the fault occurs; ``None``: any number of times.
        """
        if inspect.iscoroutinefunction(answer):
            raise ValueError(f"a handler must be a plain function, which may wait, not {answer!r}")
        if not callable(answer):
            answer = checked_answer(answer)
        return self._rule("answer", method, path, answer, times)

    def _rule(self, name: str, method: str, path: str, answer: Any, times: int | None) -> Fault:
        return self._faults.add(name, self._checked_rule(method, path, answer), times=times)

    def _checked_rule(self, method: str, path: str, answer: Any) -> Rule:
        if method not in _METHODS:
            raise ValueError(f"method must be one of {', '.join(_METHODS)}, not {method!r}")
        if not isinstance(path, str) or not path.startswith(("/", "*")):
            raise ValueError(f"a path must begin with / or *, not {path!r}")
        return Rule(method, path, answer)


class Faults(AnswerFaults):
    """The faults of one embedded server, which a test switches on by calling methods.

    :mod:`comfy_client.testing.faults` shows how to use them.  They stay active across
    :meth:`~comfy_client.testing.ComfyServer.restart`, except those of open sockets (:meth:`deaf`,
    :meth:`go_dark`), :meth:`freeze` and :meth:`crash`.

    In all methods, `times` is how often a fault occurs before it ends by itself; ``None`` means any
    number of times.  Invalid arguments raise ValueError immediately.
    """

    def __init__(
        self,
        active: ActiveFaults,
        running: Callable[[], ServerState],
        crash: Callable[[Fault], None],
    ) -> None:
        super().__init__(active, running)
        #: Kills the server, unless the fault has ended.
        self._crash = crash

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            known = [n for n in dir(type(self)) if not n.startswith("_") and n not in _OTHERS]
            near = difflib.get_close_matches(name, known, 3, 0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
            raise AttributeError(f"no fault {name!r}: {hint}")

    def __repr__(self) -> str:
        return f"<Faults: {', '.join(f.name for f in self.active()) or 'none'}>"

    def clear(self) -> None:
        """End all faults, and all answers and scripts of ``server.on`` and ``server.script``."""
        self._faults.clear()

    def active(self, *names: str) -> list[Fault]:
        """Return the active faults with these names, or all without names; the newest first."""
        return [*self._faults.find(*names)]

    # -- sockets ------------------------------------------------------------------------

    def drop(self, *, reset: bool = True) -> None:
        """End all open sockets abruptly, with an RST or, if ``reset`` is false, a bare FIN."""
        state = self._running()
        state.sockets.flush()
        for link in state.sockets.open:
            state.loop.call(link.hang_up, reset)

    def close_politely(self, code: int = 1001, reason: str = "") -> None:
        """Send a close frame with this code and reason to all open sockets.

        Raises:
            ValueError: A code that is not 1000 to 4999, or a reason above 123 bytes.
        """
        check_count("code", code, 1000, 4999)
        if not isinstance(reason, str) or len(reason.encode()) > 123:
            raise ValueError(f"a reason must be a string of at most 123 bytes, not {reason!r}")
        data = code.to_bytes(2, "big") + reason.encode()
        self._running().sockets.push(frame(8, data), everybody=True)

    def deaf(self) -> Fault:
        """Send no more messages on the sockets that are open now, but still answer their pings."""
        return self._on_open_sockets("deaf", EventSocket.mute, EventSocket.unmute)

    def go_dark(self) -> Fault:
        """Stop reading from and writing to the sockets that are open now, without closing them.

        This is like a router that forgot them.  New sockets and HTTP work.  When the fault ends,
        the server reads what clients have sent; they never get the messages they missed.
        """
        return self._on_open_sockets("go_dark", EventSocket.pause, EventSocket.resume)

    def _on_open_sockets(
        self,
        name: str,
        do: Callable[[EventSocket], None],
        undo: Callable[[EventSocket], None],
    ) -> Fault:
        state = self._running()
        state.sockets.flush()
        links = state.sockets.open
        for link in links:
            state.loop.call(do, link)

        def undone() -> None:
            for link in links:  # not waited for: the server may be frozen, or have stopped
                state.loop.later(undo, link)

        return self._faults.add(name, undo=undone)

    def stale_handlers(self) -> Fault:
        """Make the end of a socket unregister the next socket with the same client id.

        This is a race in ComfyUI: the handler of the old socket removes its client id only after
        the client has reconnected, and the new socket with it, which then gets no messages,
        although pings are answered.  Until the client reconnects, the old one seems open.
        """
        return self._faults.add("stale_handlers")

    def freeze(self) -> Fault:
        """Freeze the whole server: it accepts connections, but neither reads nor writes.

        This is like a machine that sleeps, or a ComfyUI that is loading a model; a running prompt
        continues.  Nothing is lost: waiting requests are handled when the fault ends.
        """
        state = self._running()
        state.sockets.flush()
        return self._faults.add("freeze", undo=state.loop.freeze())

    def swallow_pings(self) -> Fault:
        """Read and count pings, but do not answer them."""
        return self._faults.add("swallow_pings")

    # -- messages -----------------------------------------------------------------------

    def lose(self, *events: str | Callable[[str | int, Any], object]) -> Fault:
        """Drop events with these names, in which ``*`` stands for any part.

        ``"binary"`` stands for binary messages, ``"executing null"`` for the end marker.  Without a
        name, all events are lost.  A function is called with name and data of each event, and says
        whether to lose it.
        """
        return self._faults.add("lose", (_chosen(events), None))

    def withhold(self, *events: str | Callable[[str | int, Any], object]) -> Fault:
        """Hold back events selected as in :meth:`lose`; send them in order when the fault ends."""
        kept: list[tuple[Any, ...]] = []

        def send() -> None:
            with contextlib.suppress(RuntimeError):
                state = self._running()
                for message in kept:
                    state.send(*message)

        return self._faults.add("withhold", (_chosen(events), kept), undo=send)

    def no_feature_flags(self) -> Fault:
        """Ignore the feature flags of clients, as servers before 0.3.45 do.

        Clients get no ``feature_flags``, and previews without metadata.
        """
        return self._faults.add("no_feature_flags")

    def junk(self) -> Fault:
        """Before each message, send another message that no server should send.

        These are text that is not JSON or not UTF-8, lists, ``null``, and binary messages that are
        too short, of an unknown kind, or with too long metadata: :data:`JUNK`, in turn.
        """
        return self._faults.add("junk")

    def foreign_traffic(self) -> Fault:
        """Before each message, send another message that does not concern the client.

        These are events of other clients' prompts and of extensions (``crystools.monitor``), with
        ``data`` that is a list or ``null``: :data:`FOREIGN`, in turn.
        """
        return self._faults.add("foreign_traffic")

    def fragments(self, parts: int = 3) -> Fault:
        """Send each message in several frames, with a ping between them."""
        return self._faults.add("fragments", check_count("parts", parts, 2))

    def pause_in_frames(self, seconds: float) -> Fault:
        """Pause for some seconds in the middle of sending each message."""
        return self._faults.add("pause_in_frames", check_seconds(seconds))

    def oversized_frame(self, size: int = 600 * 2**20) -> None:
        """Send all open sockets the header of a binary frame of `size` bytes, but no content.

        Everything sent to them later counts as its content, so they never recover.
        """
        check_count("size", size, 0, 2**63 - 1)
        self._running().sockets.push(b"\x82\x7f" + size.to_bytes(8, "big"), everybody=True)

    # -- nodes and their device ---------------------------------------------------------

    def node_fails(
        self,
        node: str,
        exception_type: str = "RuntimeError",
        message: str = "simulated failure",
        *,
        times: int | None = None,
    ) -> Fault:
        """Make nodes raise an error instead of running, which fails their prompt.

        Meanwhile, outputs of these nodes that were cached before do not count.

        Args:
            node: The class of the nodes, or the id of one, which also stands for the nodes that
                it expands into.
            exception_type: The class of the error, with its module unless it is one of Python's
                own.
            message: Its text.
            times: How many nodes fail; ``None``: any number.
        """
        error = error_class(exception_type, message), message
        return self._faults.add("node_fails", node_fault(node, error), times=times)

    def out_of_memory(self, node: str, *, times: int | None = None) -> Fault:
        """Make nodes run out of CUDA memory, as :meth:`node_fails` makes them fail.

        ``node`` is the class of the nodes or the id of one.  The sizes in the message are those of
        :meth:`vram`.
        """
        gpu = self._faults.first("vram")
        free, total = gpu.settings if gpu else (0, MEMORY)
        message = (
            f"CUDA out of memory. Tried to allocate {_gib(free + 2**30)}. GPU 0 has a total "
            f"capacity of {_gib(total)} of which {_gib(free)} is free."
        )
        error = error_class("torch.OutOfMemoryError", message), message
        return self._faults.add("out_of_memory", node_fault(node, error), times=times)

    def slow_node(self, node: str, seconds: float, *, times: int | None = None) -> Fault:
        """Make nodes take some seconds longer; ``node`` is their class or the id of one.

        An interrupt ends them sooner.
        """
        slow = node_fault(node, check_seconds(seconds))
        return self._faults.add("slow_node", slow, times=times)

    def vram(self, free: int, total: int | None = None) -> Fault:
        """Let ``GET /system_stats`` report a CUDA device with so many bytes of memory.

        Nothing uses or frees this memory.

        Args:
            free: The free bytes.
            total: All bytes; ``None``: 16 GiB, or ``free`` if that is more.
        """
        most = max(MEMORY, check_count("free", free)) if total is None else total
        check_count("total", most, free)
        return self._faults.add("vram", (free, most))

    def crash(self, after: float = 0.0) -> Fault:
        """Crash the server after some seconds, as ``server.kill()`` does.

        Nothing starts it again.  If the fault ends before, the server does not crash.

        Raises:
            RuntimeError: The server is not running.
        """
        self._running()

        def die() -> None:
            with contextlib.suppress(RuntimeError):  # somebody else has stopped it
                self._crash(fault)

        timer = threading.Timer(check_seconds(after, "after is"), die)
        timer.daemon = True
        fault = self._faults.add("crash", undo=timer.cancel)
        timer.start()
        return fault

    # -- prompts ------------------------------------------------------------------------

    def late_history(self, seconds: float | None = None) -> Fault:
        """Keep prompts in the queue for some seconds after their execution has ended.

        ``None`` means until the fault ends.  Their history, and ``executing`` without a node,
        follow only then.
        """
        return self._faults.add("late_history", None if seconds is None else check_seconds(seconds))

    def no_history(self) -> Fault:
        """Keep no history of prompts that end, as if it were evicted immediately."""
        return self._faults.add("no_history")

    def evict(self, prompt_id: str | None = None) -> None:
        """Delete one prompt, or all if ``prompt_id`` is None, from the history without an event."""
        self._running().queue.forget(prompt_id)

    def lose_queue(self) -> None:
        """Drop all pending and running prompts, without an event and without history entries."""
        self._running().lose_queue()

    def forget_interrupts(self, *, times: int | None = None) -> Fault:
        """Accept requests to interrupt the running prompt, but ignore them.

        A real server does so between taking a prompt from the queue and executing it.

        Args:
            times: How many interrupts to ignore; ``None``: all until the fault ends.
        """
        return self._faults.add("forget_interrupts", times=times)

    def hang_worker(self) -> Fault:
        """Hang the worker until the fault ends: no node starts or continues, but HTTP works.

        An interrupt changes nothing, as if the thread had died.
        """
        return self._faults.add("hang_worker")


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def _chosen(events: tuple[Any, ...]) -> tuple[Any, ...]:
    for event in events:
        if not isinstance(event, str) and not callable(event):
            raise ValueError(f"an event is chosen by its name or by a function, not {event!r}")
    return events or ("*",)


# -- how requests are answered ------------------------------------------------------------

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
