"""A request on its way through the faults that apply to it."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from fnmatch import fnmatchcase
from typing import Any, Final, cast
from urllib.parse import parse_qsl, urlsplit

import aiohttp
import attrs
from aiohttp import web

from .active_faults import ActiveFault, ActiveFaults, check_count, check_header
from .hosts import cors_headers
from .received import Records
from .server_loop import Connections
from .server_state import ServerState
from .wire import Answer, Handler, Next, Request, Wire, encode, hang_up, more_headers, upgrade

#: The last request of the connection, and its record.
_last: ContextVar[tuple[web.Request, Request] | None] = ContextVar("last", default=None)
_POLL = 0.005  # seconds between two checks of the client and the fault


@attrs.frozen(eq=False)
class Rule:
    """The settings of a fault that answers requests: which requests, and how."""

    method: str
    path: str
    #: An answer, a handler, or a coroutine function of an :class:`Exchange`.
    answer: Any

    def meets(self, request: Request) -> bool:
        """Return whether the rule applies to a request, which must be below the server's prefix."""
        path = request.full_path if self.path.startswith("/api") else request.path
        fits = fnmatchcase(request.method, self.method) and fnmatchcase(path, self.path)
        return fits and request.is_below


@attrs.frozen(eq=False)
class Stall:
    """The settings of a fault that stops reading: which requests, and after how many bytes."""

    rule: Rule
    after: int


@attrs.define(eq=False)
class Exchange:
    """A request, and the faults that apply to it."""

    request: web.Request
    seen: Request
    state: ServerState
    _handler: Next
    _rules: list[ActiveFault]
    _current: ActiveFault | None = None

    async def proceed(self) -> web.StreamResponse:
        """Return the answer of the next fault or, after the last one, the server's own answer."""
        while self._rules:
            fault = self._rules.pop(0)
            # Only the first fault that replaces the server's own answer counts.
            changing = inspect.iscoroutinefunction
            self.seen.rest[:] = [f for f in self._rules if changing(f.settings.answer)]
            # Another request may have used up the fault.
            if not fault.active:
                continue
            fault.hits += 1
            self._current = fault
            return await self._respond(fault.settings.answer)
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
        """Return the answer of a handler, which runs in its own thread as it may wait.

        Return None, so that the connection ends, if it fails or has written an answer itself.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Answer | None] = loop.create_future()

        def finish(result: Answer | None) -> None:
            if not done.done():  # the server stops
                done.set_result(result)

        def call() -> None:
            result = None
            try:
                result = _checked(handler(self.seen))
            except OSError:
                pass  # the client has left
            except BaseException as exc:  # noqa: BLE001  raised at the end of the server
                if not done.cancelled():  # by a reset
                    self.state.keep_error(exc)
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(finish, result)

        # Daemons, since a handler may wait forever.
        threading.Thread(target=call, name="ComfyServer handler", daemon=True).start()
        return await done

    async def answer(self) -> bytes:
        """Return the bytes of the server's own answer, subject to the remaining faults."""
        if self.is_socket:
            return encode(upgrade(self.seen))
        return await self.seen.ask(self.seen)

    @property
    def is_socket(self) -> bool:
        """Whether the request opens a WebSocket, whose handler runs until that closes."""
        return self.seen.path == "/ws"

    def replace_body(self, body: bytes) -> None:
        """Replace the body of the request, which the server's handler will read."""
        self.seen = attrs.evolve(self.seen, body=body)
        _set_body(self.request, body)

    @property
    def gone(self) -> bool:
        """Whether the client has disconnected."""
        transport = self.request.transport
        return transport is None or transport.is_closing()

    async def wait(self, seconds: float | None) -> None:
        """Wait until the time is up, the fault has ended, or the client has disconnected.

        ``None`` sets no time limit.
        """
        loop = asyncio.get_running_loop()
        lasts = self.state.faults.lasts
        end = None if seconds is None else loop.time() + seconds
        while not self.gone and lasts(self._current):
            if end is not None and loop.time() >= end:
                break
            await asyncio.sleep(_POLL)

    def write(self, data: bytes) -> None:
        """Send raw bytes to the client, if it is connected."""
        if self.request.transport is not None:
            self.request.transport.write(data)

    def hang_up(self, *, reset: bool) -> None:
        """End the connection, with an RST if ``reset`` is true, else with a FIN."""
        if self.request.transport is not None:
            hang_up(self.request.transport, reset=reset)

    def reply(self, answer: Answer) -> web.StreamResponse:
        """Send an answer to the client; return a placeholder response for aiohttp."""
        status, headers, body = answer
        allowing = cors_headers(self.request.headers, self.state.options.origins)
        data = encode((status, {**allowing, **headers}, body))
        if self.request.method == "HEAD":
            data = data[: data.index(b"\r\n\r\n") + 4]
        self.write(data)
        _note(self.request, status)
        return self.done(keep=self.request.keep_alive)

    def done(self, *, keep: bool) -> web.StreamResponse:
        """Return a placeholder for an answer already sent; ``keep`` keeps the connection open."""
        return _Sent(keep)


class _Sent(web.StreamResponse):
    """A placeholder response for aiohttp, since the answer has been sent already."""

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


def _make_request(
    request: web.Request, connections: Connections, prefix: str, body: bytes, number: int = 0
) -> Request:
    """Return a record of a request that aiohttp has parsed."""
    url = urlsplit(request.raw_path)
    is_below = not prefix or f"{url.path}/".startswith(f"{prefix}/")
    path = url.path.removeprefix(prefix) if is_below else url.path
    wires: list[Wire] = []
    loop = asyncio.get_running_loop()

    def wire() -> Wire:
        if not wires:
            transport = request.transport  # read once, as the loop resets it in its own thread
            if transport is None:
                raise ConnectionResetError("the client has left")
            wires.append(Wire(transport, loop))
        return wires[0]

    return Request(
        request.method,
        path.removeprefix("/api") if path.startswith("/api/") else path,
        path,
        request.raw_path,
        dict(parse_qsl(url.query, keep_blank_values=True)),
        request.headers,
        body,
        wire,
        number,
        is_below=is_below,
        ask=connections.ask,
    )


#: Bytes for the heads of the parts of a form, which aiohttp does not count as its size: a form that
#: is cut within its limit would be an error of its format.
_HEADS: Final = 1 << 16


async def _read_body(request: web.Request, stalled: Callable[[int], Awaitable[None]]) -> bytes:
    """Return the body of a request, and put it back for the request's handler.

    If the body is too large or truncated, only the part that was read is returned.  ``stalled`` is
    awaited before each part; its argument is the number of bytes read so far.
    """
    if not request.body_exists:
        return b""
    limit = request.client_max_size
    chunks: list[bytes] = []
    size = 0
    failure: BaseException | None = None
    try:
        await stalled(0)
        async for chunk in request.content.iter_any():
            chunks.append(chunk)
            size += len(chunk)
            if size > limit + _HEADS:  # the handler refuses it itself
                break
            await stalled(size)
    except (aiohttp.ClientError, web.RequestPayloadError, ConnectionError) as exc:
        failure = exc
    _set_body(request, body := b"".join(chunks), failure)
    return body


async def _unhindered(size: int) -> None:
    """Read on at once."""


def _stalls(faults: ActiveFaults, seen: Request) -> Callable[[int], Awaitable[None]]:
    """Return a function that waits while a fault stops the reading of a request's body."""
    found = [one for one in faults.find("stop_reading") if one.settings.rule.meets(seen)]
    waiting: list[ActiveFault] = []

    async def stalled(size: int) -> None:
        for fault in found[:1]:
            if size < fault.settings.after:
                return
            if not waiting and fault.active:
                fault.hits += 1
                waiting.append(fault)
        while any(map(faults.lasts, waiting)):
            await asyncio.sleep(_POLL)

    return stalled


def _set_body(request: web.Request, body: bytes, failure: BaseException | None = None) -> None:
    """Replace the body that a request's handler reads."""
    content = aiohttp.StreamReader(
        request.protocol, 2**40, loop=asyncio.get_running_loop()
    )  # an unreachable limit: a full reader would pause the connection
    content.feed_data(body)
    if failure is None:
        content.feed_eof()
    else:
        content.set_exception(failure)
    # aiohttp has no public way to give back what was read.
    request._payload = content
    request._read_bytes = None


async def note_status(request: web.Request, response: web.StreamResponse) -> None:
    """Record the status of an answer that is about to be sent; a signal of aiohttp's."""
    _note(request, response.status)


def _note(request: web.Request, status: int) -> None:
    last = _last.get()
    if last is not None and last[0] is request:
        last[1].answered(status)


def fault_middleware(
    state: ServerState, records: Records, connections: Connections, prefix: str
) -> Any:
    """Return middleware of one port that records each client's request, and applies its faults."""

    async def respond(request: web.Request, handler: Next) -> web.StreamResponse:
        rest = connections.inner_faults(request)
        if rest is not None:
            if not rest:
                return await handler(request)
            body = await _read_body(request, _unhindered)
            seen = _make_request(request, connections, prefix, body)
            return await Exchange(request, seen, state, handler, rest).proceed()
        with connections.handling(request):
            head = _make_request(request, connections, prefix, b"")
            body = await _read_body(request, _stalls(state.faults, head))
            seen = _make_request(request, connections, prefix, body, next(records.numbers))
            records.keep_request(seen)
            _last.set((request, seen))
            if seen.path == "/ws":
                records.keep(records.handshakes, seen.headers)
            rules = [
                fault
                for fault in state.faults.find()
                if isinstance(fault.settings, Rule) and fault.settings.meets(seen)
            ]
            return await Exchange(request, seen, state, handler, rules).proceed()

    @web.middleware
    async def middleware(request: web.Request, handler: Next) -> web.StreamResponse:
        try:
            return await respond(request, handler)
        except (Exception, asyncio.CancelledError):
            raise
        except BaseException as exc:  # from a node's own check; would end the server's thread
            state.keep_error(exc)
            raise RuntimeError(f"{type(exc).__name__} in a node") from exc

    return middleware


# -- answers that can be sent -----------------------------------------------------------


def checked_answer(answer: Any) -> Answer:
    """Return a copy of an answer; raise ValueError if the answer is invalid."""
    if not isinstance(answer, tuple) or len(answer) != 3:
        raise ValueError(f"an answer must be (status, headers, body), not {answer!r}")
    status, headers, body = answer
    check_count("status", status, 100, 999)
    if not isinstance(headers, Mapping | None):
        raise ValueError(f"headers must be a mapping, not {headers!r}")
    for name, value in (headers or {}).items():
        check_header(name, value)
    made = (status, dict(headers or {}), body)
    try:
        encode(made)
    except (TypeError, ValueError, RecursionError) as exc:
        raise ValueError(f"this answer cannot be sent: {exc}") from None
    return made


def _checked(result: Any) -> Answer | None:
    """Return a handler's result; raise TypeError if it is neither an answer nor None."""
    try:
        return None if result is None else checked_answer(result)
    except ValueError as exc:
        raise TypeError(f"a handler returned {result!r}: {exc}") from None
