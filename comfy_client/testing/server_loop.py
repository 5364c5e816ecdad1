"""The event loop of a server, which other threads may use, its TCP connections, and its address.

Connections come from clients, or are inner ones through which the server sends itself requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import attrs
from aiohttp import web

from ..values import T
from .wire import Request, exchange, hang_up

_FREEZE_TIMEOUT = 10.0  # seconds that the loop gets to reach its block
_POLL = 0.02  # seconds between two checks whether the server stops


class ServerLoop:
    """The event loop of the server's thread, in which other threads can run functions."""

    def __init__(self) -> None:
        self.is_stopping: bool = False
        #: Set when the server is to end; for the loop itself.
        self.ended: asyncio.Event = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: int | None = None
        self._early: list[tuple[Callable[..., object], tuple[Any, ...]]] = []  # calls before it
        self._lock = threading.Lock()  # guards these two
        self._thaws: set[threading.Event] = set()

    def begin(self) -> asyncio.AbstractEventLoop:
        """Use the loop that is running, and return it; called once, in the server's thread."""
        with self._lock:
            self._loop = loop = asyncio.get_running_loop()
            self._thread = threading.get_ident()
            for callback, args in self._early:
                loop.call_soon(callback, *args)
        return loop

    def stop(self) -> None:
        """Make the server end its loop soon, even while it is frozen; any thread may call it."""
        self.is_stopping = True
        for thaw in list(self._thaws):
            thaw.set()
        self.later(self.ended.set)

    @property
    def is_frozen(self) -> bool:
        """Whether the loop is blocked."""
        return bool(self._thaws)

    def later(self, callback: Callable[..., object], *args: Any) -> None:
        """Call a function in the loop without waiting; do nothing if the loop has ended."""
        with contextlib.suppress(RuntimeError), self._lock:
            if self._loop is None:
                self._early.append((callback, args))
            else:
                self._loop.call_soon_threadsafe(callback, *args)

    def wait(self, coroutine: Coroutine[Any, Any, T], *, outlasts_freeze: bool = True) -> T:
        """Run a coroutine in the loop and return its result.

        Raise RuntimeError if the server is frozen, or stops before the coroutine has ended; unless
        ``outlasts_freeze``, also if it freezes before.
        """
        if self._loop is None or self._loop.is_closed() or self._thaws:
            coroutine.close()
            raise RuntimeError("the server is frozen" if self._thaws else "the server has stopped")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        while True:
            try:
                return future.result(0.1)
            except TimeoutError:
                if self.is_stopping:
                    raise RuntimeError("the server has stopped") from None
                if self._thaws and not outlasts_freeze:
                    raise RuntimeError("the server is frozen") from None

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function in the loop and wait until it has returned."""

        async def calling() -> None:
            function(*args)

        self.wait(calling(), outlasts_freeze=False)

    def value(self, function: Callable[[], T]) -> T:
        """Return what a function returns in the loop, or in this thread if the loop cannot run."""

        async def asking() -> T:
            return function()

        with contextlib.suppress(RuntimeError):
            if threading.get_ident() != self._thread:
                return self.wait(asking(), outlasts_freeze=False)
        return function()

    def freeze(self) -> Callable[[], None]:
        """Block the loop; return a function that unblocks it."""
        thaw, frozen = threading.Event(), threading.Event()

        def sleep() -> None:
            frozen.set()
            thaw.wait()

        def wake() -> None:
            self._thaws.discard(thaw)
            thaw.set()

        is_first = not self._thaws  # otherwise it runs when the other ends
        self._thaws.add(thaw)  # before it sleeps, as the server may stop at any time
        self.later(sleep)
        if is_first:
            end = time.monotonic() + _FREEZE_TIMEOUT
            while not (self.is_stopping or frozen.wait(_POLL) or time.monotonic() > end):
                pass
        if self.is_stopping:
            wake()
        return wake


async def _let_others_run() -> None:
    """Let all other tasks of the loop run, and those that they start."""
    for _ in range(4):
        await asyncio.sleep(0)


class Connections:
    """The TCP connections of a server; only :attr:`count` is for other threads."""

    def __init__(self, loop: ServerLoop, accepted: Callable[[], None]) -> None:
        self._loop = loop
        self._accepted = accepted
        #: Whether the end of the server resets the connections.
        self.reset = False
        self._server: web.Server | None = None
        self._inner: dict[asyncio.BaseTransport, list[Any]] = {}
        #: The tasks of requests, and whether they are those of WebSockets.
        self._tasks: dict[asyncio.Task[Any], bool] = {}
        #: The sockets of requests.  asyncio closes one only after aiohttp has forgotten it.
        self._used: dict[Any, None] = {}

    async def serve(
        self,
        app: web.Application,
        listener: socket.socket,
        tls: ssl.SSLContext | None,
        logger: logging.Logger,
        ready: Callable[[], None],
    ) -> None:
        """Serve requests until the loop is stopped; call ``ready`` once the server listens."""
        loop = asyncio.get_running_loop()
        runner = web.AppRunner(app, access_log=None, logger=logger, shutdown_timeout=1.0)
        listening = None
        try:
            await runner.setup()
            self._server = runner.server
            listening = await loop.create_server(self._accept, sock=listener, ssl=tls, backlog=128)
            ready()
            await self._loop.ended.wait()
        finally:
            with contextlib.suppress(NotImplementedError):  # Windows
                loop.remove_reader(listener)
            self._hang_up()
            for task in self._tasks:
                task.cancel()
            await _let_others_run()
            self._hang_up()  # connections that were just being accepted
            if listening is not None:
                listening.close()  # not before: asyncio would leave them open
            await runner.cleanup()
            await _let_others_run()
            listener.close()

    def _accept(self) -> asyncio.Protocol:
        """Count a new connection, and return the protocol for it."""
        assert self._server is not None  # noqa: S101  for the type checker
        self._accepted()
        return self._server()

    def _transports(self) -> list[asyncio.Transport]:
        found = [one.transport for one in self._server.connections] if self._server else []
        return [transport for transport in found if isinstance(transport, asyncio.Transport)]

    def _hang_up(self) -> None:
        for transport in self._transports():
            hang_up(transport, reset=self.reset)

    @property
    def count(self) -> int:
        """The number of clients whose sockets are open."""
        # The loop closes a socket just after Python has forgotten its file descriptor.
        return self._loop.value(self._count)

    def _count(self) -> int:
        clients = [one for one in self._transports() if one not in self._inner]
        sockets = {*self._used, *(one.get_extra_info("socket") for one in clients)} - {None}
        return sum(sock.fileno() >= 0 for sock in sockets)

    @contextlib.contextmanager
    def handling(self, request: web.Request) -> Iterator[None]:
        """Context manager for each request: cancel its task when the server stops."""
        for sock in [sock for sock in self._used if sock.fileno() < 0]:
            del self._used[sock]
        if (sock := request.get_extra_info("socket")) is not None:
            self._used[sock] = None
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  for the type checker
        self._tasks[task] = request.headers.get("Upgrade", "").lower() == "websocket"
        try:
            yield
        finally:
            del self._tasks[task]

    async def cut_off(self) -> None:
        """End the connections of all requests that are being answered; WebSockets stay open."""
        tasks = [task for task, is_socket in self._tasks.items() if not is_socket]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def ask(self, request: Request) -> bytes:
        """Send a request to the server itself over an inner connection; return the answer's bytes.

        Tests do not see the connection.  Only the remaining faults of the request affect it.
        """
        assert self._server is not None  # noqa: S101  for the type checker
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.connect_accepted_socket(self._server, theirs)
        except BaseException:
            ours.close()
            theirs.close()
            raise
        self._inner[transport] = list(request.rest)
        try:
            return await exchange(ours, request)
        finally:
            transport.close()
            del self._inner[transport]

    def inner_faults(self, request: web.Request) -> list[Any] | None:
        """Return the remaining faults to apply to a request that the server sent to itself.

        Return None for a client's request.
        """
        transport = request.transport
        return None if transport is None else self._inner.get(transport)


# -- the address -------------------------------------------------------------------------


class ReservedPort:
    """A port of a server that starts and stops; it stays the same after a crash."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        #: The port that the server listens on, or last listened on; 0 before the first time.
        self.number: int = port
        self._wanted = port
        self._reserved: socket.socket | None = None
        self._is_bound = False

    @property
    def is_reserved(self) -> bool:
        """Whether the port is reserved for the next start, and refuses connections until then."""
        return self._reserved is not None

    def listen(self, *, again: bool = False) -> socket.socket:
        """Return a socket that listens on the port.

        The port is that of the last time if it was reserved, or if ``again`` is true.

        Raises:
            OSError: The address is in use, or does not belong to this machine.
        """
        port = self.number if again or self.is_reserved else self._wanted
        if self._is_bound and _is_exclusive():  # else the port is never free for other programs
            self.release()
            self.reserve()  # in case of an error
        listener = _listen(self.host, port)
        self.release()
        self.number = listener.getsockname()[1]
        return listener

    def reserve(self) -> None:
        """Make the socket that, once bound, reserves the port while connections are refused."""
        self._reserved = _socket(self.host)

    def refuse(self) -> None:
        """Bind a reserved port, which then refuses connections; nothing may listen there."""
        if self._reserved is not None and not self._is_bound:
            self._reserved.bind((self.host, self.number))
            self._is_bound = True

    def release(self) -> None:
        """Give up a reserved port; the next :meth:`listen` uses the port first asked for."""
        reserved, self._reserved, self._is_bound = self._reserved, None, False
        if reserved is not None:
            reserved.close()


@attrs.frozen
class ListenAddress:
    """The address of a server: port, encryption, and the prefix of all paths."""

    port: ReservedPort
    tls: ssl.SSLContext | None = None
    prefix: str = ""

    @property
    def url(self) -> str:
        """The URL of the address, with the prefix."""
        scheme, host = "https" if self.tls else "http", self.port.host
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port.number}{self.prefix}"


def _listen(host: str, port: int) -> socket.socket:
    listener = _socket(host)
    try:
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
        listener.listen(128)
    except BaseException as exc:
        listener.close()
        if not isinstance(exc, OSError):  # such as a port that is no number of one
            raise
        free = "; port 0 takes a free one" if exc.errno == errno.EADDRINUSE else ""
        why = f"cannot listen on {host}:{port}: {exc.strerror or exc}{free}"
        raise OSError(exc.errno, why) from exc
    return listener


def _socket(host: str) -> socket.socket:
    """Return a socket that can be bound soon after another one, but not beside one that listens."""
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    option = "SO_EXCLUSIVEADDRUSE" if _is_exclusive() else "SO_REUSEADDR"
    made.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
    return made


def _is_exclusive() -> bool:
    """Return whether the system is Windows, where SO_REUSEADDR would let two programs listen."""
    return hasattr(socket, "SO_EXCLUSIVEADDRUSE")
