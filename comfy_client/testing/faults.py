"""Everything that goes wrong between a client and a ComfyUI, on command.

Each method of :attr:`ComfyServer.faults <comfy_client.testing.ComfyServer>` works on a running
server, from any thread.  A fault that lasts is a :class:`Fault`: it is active at once, until its
``with`` block ends, or until :meth:`Fault.end` or :meth:`Faults.clear`::

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
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, cast

import attrs
from aiohttp import web

from .traffic import (
    Answer,
    Handler,
    Request,
    encode,
    frame,
    hang_up,
    make_request,
    more_headers,
    read_body,
    set_body,
    upgrade,
)

if TYPE_CHECKING:
    from .script import Stage
    from .server import Core

Next = Callable[[web.Request], Awaitable[web.StreamResponse]]

_METHODS = ("*", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT")
_PAGE = "<!DOCTYPE html><html><head><title>{0}</title></head><body><h1>{0}</h1></body></html>"
_LOOK = 0.005  # seconds between two looks at something that nobody tells of

#: Messages that none should send, as kind (1 text, 2 binary) and content.
JUNK: tuple[tuple[int, bytes], ...] = (
    (1, b"{no json"),
    (1, b"[1, 2, 3]"),
    (1, b"null"),
    (1, b'"executing"'),
    (1, b"{}"),
    (1, b'{"type": null, "data": {}}'),
    (1, b'{"type": "executing", "data": null}'),
    (1, b'{"type": "progress", "data": [1, 2]}'),
    (1, b'{"type": "executed", "data": {"output": 5, "prompt_id": 7}}'),
    (1, b'{"type": "status", "data": {"status": {"exec_info": null}}}'),
    (1, b"\xff\xfe not UTF-8"),
    (2, b""),
    (2, b"\0"),
    (2, b"\0\0\0"),
    (2, b"\0\0\0\x01"),
    (2, b"\0\0\0\x63 of an unknown kind"),
    (2, b"\0\0\0\x01\0\0\0\x63 in an unknown format"),
    (2, b"\0\0\0\x03\xff\xff\xff\xff a text of no node"),
    (2, b"\0\0\0\x04\xff\xff\xff\xff{}"),
    (2, b"\0\0\0\x04\0\0\0\x02\xff\xff"),
    (2, b"\0\0\0\x04\0\0\0\x02[]"),
)

_STRANGER = "5f7a1c1e-0000-4000-8000-00000000cafe"
#: Messages of other prompts and other people's extensions.
FOREIGN: tuple[dict[str, Any], ...] = (
    {"type": "crystools.monitor", "data": {"cpu_utilization": 12.5, "gpus": [{"vram_used": 1}]}},
    {"type": "execution_start", "data": {"prompt_id": _STRANGER}},
    {"type": "executing", "data": {"node": "3", "prompt_id": _STRANGER}},
    {"type": "progress", "data": {"value": 1, "max": 9, "prompt_id": _STRANGER, "node": "3"}},
    {"type": "progress", "data": {"value": 2, "max": 9}},
    {"type": "executing", "data": {"node": "3"}},
    {"type": "executed", "data": {"node": "9", "output": {"images": []}, "prompt_id": _STRANGER}},
    {"type": "execution_error", "data": {"prompt_id": _STRANGER, "exception_message": "theirs"}},
    {"type": "execution_interrupted", "data": {"prompt_id": _STRANGER}},
    {"type": "execution_success", "data": {"prompt_id": _STRANGER}},
    {"type": "executing", "data": {"node": None, "prompt_id": _STRANGER}},
    {"type": "some.extension", "data": None},
    {"type": "some.extension", "data": ["a", "list"]},
    {"type": "crystools.monitor", "data": None},
)


@attrs.define(eq=False)
class Fault:
    """A fault that is active until its ``with`` block ends or :meth:`end` is called.

    Attributes:
        name: The method of :class:`Faults` that made it.
        hits: How many requests, messages or pings it affected.  Prompts and open sockets are not
            counted.
    """

    name: str
    hits: int = attrs.field(default=0, init=False)
    _faults: Faults = attrs.field(repr=False)
    #: What the server needs to know of it.
    _settings: Any = attrs.field(default=None, repr=False)
    _times: int | None = attrs.field(default=None, repr=False)
    _undo: Callable[[], object] | None = attrs.field(default=None, repr=False)

    def __enter__(self) -> Fault:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def active(self) -> bool:
        """Whether it is active: not ended, and its `times` are not used up."""
        return self in self._faults.active()

    def end(self) -> None:
        """Undo it; idempotent."""
        if self.name in _ABOUT_MESSAGES:
            self._faults._flush()
        if self._faults._remove(self) and self._undo:
            self._undo()

    @property
    def _spent(self) -> bool:
        return self._times is not None and self.hits >= self._times


class Faults:
    """The faults of one server; see the module.

    They stay active over :meth:`~comfy_client.testing.ComfyServer.restart`, except those of
    open sockets (:meth:`deaf`, :meth:`go_dark`) and :meth:`freeze`.

    In all methods, `times` is how often a fault occurs before it ends by itself; ``None``: any
    number of times.  Arguments that make no sense are a ``ValueError`` at once.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._lock = threading.Lock()  # guards the list below
        self._active: list[Fault] = []

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
        with self._lock:
            faults = list(self._active)
        for fault in faults:
            fault.end()

    def active(self, *names: str) -> list[Fault]:
        """The active faults (of these names), the last one first."""
        with self._lock:
            return [f for f in self._active if not f._spent and (not names or f.name in names)]

    def _lasts(self, fault: Fault | None) -> bool:
        """Whether nobody has ended it: the last one that it struck may yet be waiting."""
        with self._lock:
            return fault in self._active

    def _add(
        self,
        name: str,
        settings: Any = None,
        *,
        times: int | None = None,
        undo: Callable[[], object] | None = None,
    ) -> Fault:
        if times is not None:
            count("times", times, 1)
        if name in _ABOUT_MESSAGES:
            self._flush()
        fault = Fault(name, self, settings, times, undo)
        with self._lock:
            self._active.insert(0, fault)
        return fault

    def _flush(self) -> None:
        """Have all messages so far sent as things are."""
        with contextlib.suppress(RuntimeError):  # it does not run
            self._stage._running().flush()

    def _remove(self, fault: Fault) -> bool:
        with self._lock:
            if fault not in self._active:
                return False
            self._active.remove(fault)
            return True

    # -- sockets ------------------------------------------------------------------------

    def drop(self, *, reset: bool = True) -> None:
        """End all open sockets abruptly: with a RST, or with a bare FIN."""
        core = self._stage._running()
        core.flush()
        for link in core.links:
            core.call(link.hang_up, reset)

    def close_politely(self, code: int = 1001, reason: str = "") -> None:
        """Send a close frame to all open sockets.

        Raises:
            ValueError: A code that is not 1000 to 4999, or a reason above 123 bytes.
        """
        count("code", code, 1000, 4999)
        if not isinstance(reason, str) or len(reason.encode()) > 123:
            raise ValueError(f"a reason is a text of up to 123 bytes, not {reason!r}")
        data = code.to_bytes(2, "big") + reason.encode()
        self._stage._running().push(frame(8, data), everybody=True)

    def deaf(self) -> Fault:
        """The open sockets get no more messages; pings are still answered."""
        return self._on_open_sockets("deaf", "hear")

    def go_dark(self) -> Fault:
        """The open sockets are neither read nor written, and not closed.

        This is like a router that forgot them.  New sockets and HTTP work.  When the fault ends,
        the server reads what clients have sent; they never get the messages they missed.
        """
        return self._on_open_sockets("darken", "light")

    def _on_open_sockets(self, do: str, undo: str) -> Fault:
        core = self._stage._running()
        core.flush()
        links = core.links
        for link in links:
            core.call(getattr(link, do))

        def undone() -> None:
            for link in links:  # not waited for: the server may be frozen, or have stopped
                core.later(getattr(link, undo))

        return self._add({"deaf": "deaf", "darken": "go_dark"}[do], undo=undone)

    def stale_handlers(self) -> Fault:
        """A socket that ends removes the route of the next one with its client id.

        This is a race in ComfyUI: the handler of the old socket removes its client id only after
        the client has reconnected, and the new socket with it, which then gets no messages,
        although pings are answered.  Until the client reconnects, the old one seems open.
        """
        return self._add("stale_handlers")

    def freeze(self) -> Fault:
        """The whole server neither reads nor writes; connections are accepted but not served.

        This is like a machine that sleeps, or a ComfyUI that is loading a model; a running prompt
        continues.  Nothing is lost: waiting requests are handled when the fault ends.
        """
        core = self._stage._running()
        core.flush()
        thaw = core.freeze()
        return self._add("freeze", undo=thaw)

    def swallow_pings(self) -> Fault:
        """Pings are read and counted, but not answered."""
        return self._add("swallow_pings")

    def refuse_sockets(
        self,
        status: int = 403,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        times: int | None = None,
    ) -> Fault:
        """New sockets are refused with this answer; open ones stay."""
        answer = _answer(status, headers, body)
        return self._rule("refuse_sockets", "GET", "/ws", answer, times)

    def stall_handshakes(self, *, times: int | None = None) -> Fault:
        """WebSocket handshakes get no answer at all."""
        return self._delay("stall_handshakes", "GET", "/ws", None, False, times)

    def slow_handshakes(self, seconds: float, *, times: int | None = None) -> Fault:
        """WebSocket handshakes are answered after so many seconds."""
        return self._delay("slow_handshakes", "GET", "/ws", _seconds(seconds), False, times)

    # -- messages -----------------------------------------------------------------------

    def lose(self, *events: str | Callable[[str | int, Any], object]) -> Fault:
        """Events of these names (``*`` for a part) are not sent to anyone.

        ``"binary"`` stands for binary messages, ``"executing null"`` for the end marker.
        Without a name, all events.  A function is asked about each event, by its name and data.
        """
        return self._add("lose", _names(events))

    def withhold(self, *events: str | Callable[[str | int, Any], object]) -> Fault:
        """As :meth:`lose`, but the events are sent in their order when the fault ends."""
        kept: list[tuple[Any, ...]] = []

        def send() -> None:
            with contextlib.suppress(RuntimeError):
                core = self._stage._running()
                for message in kept:
                    core.send(*message)

        return self._add("withhold", (_names(events), kept), undo=send)

    def no_feature_flags(self) -> Fault:
        """What clients say that they can do is passed over, as by servers before 0.3.45.

        They get no ``feature_flags``, and previews without metadata.
        """
        return self._add("no_feature_flags")

    def junk(self) -> Fault:
        """Before each message, send one that no server should send.

        These are text that is no JSON or no UTF-8, lists, ``null``, and binary messages that are
        too short, of an unknown kind, or with too long metadata: :data:`JUNK`, in turn.
        """
        return self._add("junk")

    def foreign_traffic(self) -> Fault:
        """Before each message, send one that does not concern the client.

        These are events of other clients' prompts and of extensions (``crystools.monitor``), with
        ``data`` that is a list or ``null``: :data:`FOREIGN`, in turn.
        """
        return self._add("foreign_traffic")

    def fragments(self, parts: int = 3) -> Fault:
        """Each message is sent in so many frames, with a ping between them."""
        return self._add("fragments", count("parts", parts, 2))

    def pause_in_frames(self, seconds: float) -> Fault:
        """Each message pauses for so many seconds in the middle of its frame."""
        return self._add("pause_in_frames", _seconds(seconds))

    def oversized_frame(self, size: int = 600 * 2**20) -> None:
        """Announce a binary frame of `size` bytes to all open sockets, and send none of it.

        Everything sent to them later counts as its content, so they never recover.
        """
        count("size", size, 0, 2**63 - 1)
        self._stage._running().push(b"\x82\x7f" + size.to_bytes(8, "big"), everybody=True)

    # -- prompts ------------------------------------------------------------------------

    def late_history(self, seconds: float | None = None) -> Fault:
        """Prompts stay in the queue for so many seconds after ``execution_success``.

        ``None``: until the fault ends.  Only then do their history and ``executing`` without a
        node follow.
        """
        return self._add("late_history", None if seconds is None else _seconds(seconds))

    def no_history(self) -> Fault:
        """Prompts that end leave no history, as if it were evicted at once."""
        return self._add("no_history")

    def evict(self, prompt_id: str | None = None) -> None:
        """Delete a prompt from the history, or all prompts, without an event."""
        self._stage._running().queue.forget(prompt_id)

    def lose_queue(self) -> None:
        """Pending and running prompts vanish, without an event and without a history."""
        self._stage._running().lose_queue()

    def hang_worker(self) -> Fault:
        """Prompts run forever: no node starts or continues, and HTTP works.

        An interrupt changes nothing, as if the thread had died.
        """
        return self._add("hang_worker")

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
        return self._rewrite(
            "node_errors", "POST", "/prompt", lambda a: {**a, "node_errors": wanted}, None
        )

    def events_before_reply(self, *, times: int | None = None) -> Fault:
        """``POST /prompt`` is answered only after the prompt has left the queue."""

        async def respond(exchange: Exchange) -> web.StreamResponse:
            response = await exchange.proceed()
            prompt_id = _json_of(response).get("prompt_id")
            queue = exchange.core.queue
            while not exchange.gone and prompt_id in _ids(queue.shown()):
                await asyncio.sleep(_LOOK)
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
        wait = None if seconds is None else _seconds(seconds)
        return self._delay("delay", method, path, wait, ran, times)

    def _delay(
        self,
        name: str,
        method: str,
        path: str,
        wait: float | None,
        ran: bool,
        times: int | None,
    ) -> Fault:
        async def respond(exchange: Exchange) -> web.StreamResponse:
            response = await exchange.proceed() if ran and not exchange.is_socket else None
            await exchange.wait(wait)
            if exchange.gone:
                return exchange.done(keep=False)
            return response or await exchange.proceed()

        return self._rule(name, method, path, respond, times)

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
            count("sent", sent)

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
        """Send the right answer `size` bytes at a time, `pause` seconds apart; not to sockets."""
        count("size", size, 1)
        pause = _seconds(pause)

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
        text = http.client.responses.get(count("status", status), "A timeout occurred")
        answer = _answer(status, _HTML, _PAGE.format(f"{status} {text}"))
        return self._rule("bad_gateway", method, path, answer, times)

    def login_page(self, status: int = 200, *, times: int | None = None) -> Fault:
        """Answer everything with an HTML page (200, 401, 403), or redirect it to ``/login`` (302).

        Raises:
            ValueError: Another status.
        """
        if status not in (200, 302, 401, 403):
            raise ValueError(f"a login page comes with 200, 302, 401 or 403, not {status}")
        headers = {"Location": "/login", **_HTML} if status == 302 else _HTML
        answer = _answer(status, headers, _PAGE.format("Please log in"))
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
            _header("Location", location)

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
        """Send the right body with another content type."""
        _header("Content-Type", content_type)

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
            return exchange.reply(unknown(exchange.seen.method))

        return self._rule("missing", method, path, respond, times)

    def too_large(
        self, path: str = "/upload/*", limit: int = 0, *, times: int | None = None
    ) -> Fault:
        """A proxy refuses bodies of more than `limit` bytes with a 413."""
        count("limit", limit)

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
            folder = exchange.core.folders.of_type(str(stored.get("type")))
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
        """Send what the function returns for the right answer, if that is JSON."""
        if not callable(function):
            raise ValueError(f"rewrite needs a function, not {function!r}")
        return self._rewrite("rewrite", method, path, function, times)

    def _rewrite(
        self,
        name: str,
        method: str,
        path: str,
        function: Callable[[Any], Any],
        times: int | None,
    ) -> Fault:
        async def respond(exchange: Exchange) -> web.StreamResponse:
            response = await exchange.proceed()
            if not isinstance(response, web.Response) or response.status != 200:
                return response
            if response.content_type != "application/json":
                return response
            try:
                return web.json_response(function(json.loads(response.text or "null")))
            except BaseException as exc:
                exchange.core.keep(exc)
                raise RuntimeError(f"{name} failed") from exc

        return self._rule(name, method, path, respond, times)

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
            answer = _answer(*_three(answer))
        return self._rule("answer", method, path, answer, times)

    def _rule(self, name: str, method: str, path: str, answer: Any, times: int | None) -> Fault:
        if method not in _METHODS:
            raise ValueError(f"method is one of {', '.join(_METHODS)}, not {method!r}")
        if not isinstance(path, str) or not path.startswith(("/", "*")):
            raise ValueError(f"a path begins with / or *, not {path!r}")
        return self._add(name, Rule(method, path, answer), times=times)


#: They end with the sockets, or the thread, that they are about.
OF_ONE_LIFE = ("deaf", "go_dark", "freeze")
_OTHERS = ("active", "clear")
_ABOUT_MESSAGES = ("lose", "withhold", "junk", "foreign_traffic", "fragments", "pause_in_frames")
_HTML = {"Content-Type": "text/html; charset=utf-8"}


@attrs.frozen(eq=False)
class Rule:
    """How some requests are answered."""

    method: str
    path: str
    #: An answer, a handler, or a coroutine function of an :class:`Exchange`.
    answer: Any

    def meets(self, request: Request) -> bool:
        """Whether a request is meant; none outside of the server's prefix."""
        path = request.full_path if self.path.startswith("/api") else request.path
        fits = fnmatchcase(request.method, self.method) and fnmatchcase(path, self.path)
        return fits and request.is_below


@attrs.define(eq=False)
class Exchange:
    """One request on its way through the faults that meet it."""

    request: web.Request
    seen: Request
    core: Core
    _handler: Next
    _rules: list[Fault]
    _current: Fault | None = None

    async def proceed(self) -> web.StreamResponse:
        """What the next fault says, or at last the server itself."""
        while self._rules:
            fault = self._rules.pop(0)
            # Of what stands in for the server's own answer, only the first counts.
            changing = inspect.iscoroutinefunction
            self.seen.rest[:] = [f for f in self._rules if changing(f._settings.answer)]
            # Two requests at once must not both have the last of its times.
            if not fault.active:
                continue
            fault.hits += 1
            self._current = fault
            return await self._respond(fault._settings.answer)
        return await self._handler(self.request)

    async def _respond(self, answer: Any) -> web.StreamResponse:
        if inspect.iscoroutinefunction(answer):
            return cast(web.StreamResponse, await answer(self))
        if callable(answer):
            answer = await self._called(answer)
        if answer is None:
            return self.done(keep=False)
        if answer[0] == 101:
            more_headers.set(answer[1])
            return await self._handler(self.request)
        return self.reply(answer)

    async def _called(self, handler: Handler) -> Answer | None:
        """Call it in a thread of its own, since it may wait for as long as it likes.

        If it fails, the connection ends without an answer.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Answer | None] = loop.create_future()

        def finish(result: Answer | None) -> None:
            if not done.done():  # the server stops
                done.set_result(result)

        def call() -> None:
            result = None
            try:
                result = _returned(handler(self.seen))
            except OSError:
                pass  # the client has left
            except BaseException as exc:  # noqa: BLE001  told at the end of the server
                self.core.keep(exc)
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(finish, result)

        # Daemons, since nobody waits for a handler that waits for ever.
        threading.Thread(target=call, name="ComfyServer handler", daemon=True).start()
        return await done

    async def answer(self) -> bytes:
        """The right answer, as far as the faults that are left let it come."""
        if self.is_socket:
            return encode(upgrade(self.seen))
        return await self.core.loopback(self.seen)

    @property
    def is_socket(self) -> bool:
        """Whether it is for a WebSocket, whose handler ends only with that."""
        return self.seen.path == "/ws"

    def replace_body(self, body: bytes) -> None:
        """Let the server read another body."""
        self.seen = attrs.evolve(self.seen, body=body)
        set_body(self.request, body)

    @property
    def gone(self) -> bool:
        """Whether the client has left."""
        transport = self.request.transport
        return transport is None or transport.is_closing()

    async def wait(self, seconds: float | None) -> None:
        """Until the time or the fault is over, or the client gone."""
        loop = asyncio.get_running_loop()
        lasts = self.core.stage.faults._lasts
        end = None if seconds is None else loop.time() + seconds
        while not self.gone and lasts(self._current):
            if end is not None and loop.time() >= end:
                break
            await asyncio.sleep(_LOOK)

    def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        if self.request.transport is not None:
            self.request.transport.write(data)

    def hang_up(self, *, reset: bool) -> None:
        """End the connection."""
        if self.request.transport is not None:
            hang_up(self.request.transport, reset=reset)

    def reply(self, answer: Answer) -> web.StreamResponse:
        """Send this answer."""
        data = encode(answer)
        if self.request.method == "HEAD":
            data = data[: data.index(b"\r\n\r\n") + 4]
        self.write(data)
        return self.done(keep=self.request.keep_alive)

    def done(self, *, keep: bool) -> web.StreamResponse:
        """All has been sent; the connection stays open or ends."""
        return _Sent(keep)


class _Sent(web.StreamResponse):
    """For aiohttp: a response of which nothing remains to be sent."""

    def __init__(self, keep: bool) -> None:
        super().__init__()
        self._keep = keep

    @property
    def keep_alive(self) -> bool | None:
        return self._keep

    async def prepare(self, request: web.BaseRequest) -> Any:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        pass


def watch(core: Core) -> Any:
    """Middleware that keeps every request, and lets the faults at it."""
    stage = core.stage

    async def respond(request: web.Request, handler: Next) -> web.StreamResponse:
        rest = core.private(request)
        if rest is not None:
            if not rest:
                return await handler(request)
            seen = make_request(request, stage._prefix, await read_body(request))
            return await Exchange(request, seen, core, handler, rest).proceed()
        with core.handling():
            seen = make_request(request, stage._prefix, await read_body(request))
            stage._keep_request(seen)
            if seen.path == "/ws":
                stage._keep(stage.handshakes, seen.headers)
            rules = [
                fault
                for fault in stage.faults.active()
                if isinstance(fault._settings, Rule) and fault._settings.meets(seen)
            ]
            return await Exchange(request, seen, core, handler, rules).proceed()

    @web.middleware
    async def middleware(request: web.Request, handler: Next) -> web.StreamResponse:
        try:
            return await respond(request, handler)
        except (Exception, asyncio.CancelledError):
            raise
        except BaseException as exc:  # of a node's own check: it would end the server's thread
            core.keep(exc)
            raise RuntimeError(f"{type(exc).__name__} in a node") from exc

    return middleware


# -- helpers ----------------------------------------------------------------------------


def _answer(status: int, headers: Mapping[str, str] | None, body: Any) -> Answer:
    count("status", status, 100, 999)
    if not isinstance(headers, Mapping | None):
        raise ValueError(f"headers are a mapping, not {headers!r}")
    for name, value in (headers or {}).items():
        _header(name, value)
    answer = (status, dict(headers or {}), body)
    try:
        encode(answer)
    except (TypeError, ValueError, RecursionError) as exc:
        raise ValueError(f"no answer that can be sent: {exc}") from None
    return answer


def _returned(result: Any) -> Answer | None:
    """What a handler gives; TypeError if that is no answer."""
    try:
        return None if result is None else _answer(*_three(result))
    except ValueError as exc:
        raise TypeError(f"a handler returned {result!r}: {exc}") from None


def _three(answer: Any) -> tuple[Any, Any, Any]:
    if not isinstance(answer, tuple) or len(answer) != 3:
        raise ValueError(f"an answer is (status, headers, body), not {answer!r}")
    return answer


def _header(name: Any, value: Any) -> None:
    texts = isinstance(name, str) and isinstance(value, str)
    if not texts or not name or {"\r", "\n", "\0"} & set(name + value):
        raise ValueError(f"a header is a name and a text of one line, not {name!r}: {value!r}")


def count(name: str, value: Any, least: int = 0, most: int | None = None) -> int:
    """A whole number in a range; ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} is a whole number, not {value!r}")
    if value < least or (most is not None and value > most):
        limit = f"{least} or more" if most is None else f"{least} to {most}"
        raise ValueError(f"{name} is {limit}, not {value}")
    return value


def jsonable(name: str, value: Any) -> Any:
    """What JSON makes of a value; ValueError if it cannot carry it."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError) as exc:
        raise ValueError(f"{name}: {exc}") from None


def _seconds(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise ValueError(f"seconds are 0 or more, not {value!r}")
    return value


def _names(events: tuple[Any, ...]) -> tuple[Any, ...]:
    for event in events:
        if not isinstance(event, str) and not callable(event):
            raise ValueError(f"an event is told by its name, not {event!r}")
    return events or ("*",)


def _json_of(response: web.StreamResponse) -> dict[str, Any]:
    with contextlib.suppress(ValueError, AttributeError, TypeError):
        found = json.loads(cast(web.Response, response).text or "")
        if isinstance(found, dict):
            return found
    return {}


def is_meant(chosen: str | Callable[[str | int, Any], object], event: str | int, data: Any) -> bool:
    """Whether a name or a function of :meth:`Faults.lose` means a message."""
    if callable(chosen):
        return bool(chosen(event, data))
    is_end = event == "executing" and isinstance(data, dict) and data.get("node") is None
    name = "binary" if isinstance(event, int) else "executing null" if is_end else event
    return fnmatchcase(name, chosen)


def intruder(fault: Fault) -> str | bytes:
    """The next message of :meth:`Faults.junk` or :meth:`Faults.foreign_traffic`.

    As text; as bytes the frame itself.
    """
    if fault.name == "foreign_traffic":
        return json.dumps(FOREIGN[fault.hits % len(FOREIGN)])
    return frame(*JUNK[fault.hits % len(JUNK)])


def _ids(queue: Mapping[str, list[Any]]) -> Iterator[Any]:
    return (item[1] for items in queue.values() for item in items)


def unknown(method: str) -> Answer:
    """What the server says to a route that it does not have."""
    if method in ("GET", "HEAD"):
        return 404, {"Content-Type": "application/octet-stream"}, None
    return 405, {"Allow": "GET,HEAD"}, "405: Method Not Allowed"
