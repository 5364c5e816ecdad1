"""The base class of packs with routes of their own, and the server as a pack sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Sequence
from typing import Any, cast

import attrs
from aiohttp import web

from ..beginning import Kept
from ..server_state import ServerState

#: Routes: method, path, and the handler.  Each is there with ``/api`` before it, too.
PackRoutes = Sequence[tuple[str, str, Callable[[web.Request], Awaitable[web.StreamResponse]]]]


@attrs.frozen(eq=False)
class PackServer:
    """A running server as a pack sees it, from its start to its stop.

    Attributes:
        state: Its parts: sockets, node classes, folders and clock among them.
        reboot: What ends the server soon, without waiting for it, and starts it again on the same
            port after a number of simulated seconds.
        is_local: Whether it listens on loopback only.
    """

    state: ServerState
    reboot: Callable[[float], None]
    is_local: bool

    async def sleep(self, seconds: float) -> None:
        """Wait for simulated seconds."""
        for pause in self.state.options.clock.pauses(seconds):
            await asyncio.sleep(pause)
        await asyncio.sleep(0)  # others go on even if there was nothing to wait for


class Pack:
    """A node pack with routes, whose settings and state outlive a restart of its server.

    The server calls :meth:`take`, :meth:`mark`, :meth:`forget` and :meth:`add_nodes` in any thread,
    the other methods in its own.

    Attributes:
        name: The name by which ``packs`` has it.
    """

    name = ""
    _server: PackServer | None = None
    _is_taken = False

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def server(self) -> PackServer:
        """The server, while it runs."""
        return cast(PackServer, self._server)

    def take(self) -> None:
        """Have the pack for a server.

        Raises:
            ValueError: Another server has it.
        """
        if self._is_taken:
            raise ValueError(f"another server has this {self.name} already: make one for each")
        self._is_taken = True

    def routes(self) -> PackRoutes:
        """Return the routes."""
        return ()

    def start(self, server: PackServer) -> None:
        """Begin with a process of the server, before its first request."""
        self._server = server

    def stop(self) -> None:
        """End with a process of the server: cancel all work."""
        for task in self._tasks:
            task.cancel()
        self._server = None

    def mark(self) -> None:
        """Keep the state to which :meth:`reset` returns."""

    def reset(self, keep: Collection[Kept]) -> None:
        """Return to the state that was marked, and cancel all work; ``keep`` as of the server."""
        for task in self._tasks:
            task.cancel()

    def forget(self) -> None:
        """Return to the state of a new pack, since the server's files are deleted."""

    def add_nodes(self) -> None:
        """Add the node classes that the pack brings, since others were removed with them."""

    def run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine until it ends, or the server stops or is reset."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and self._server:
            self._server.state.keep_error(error)


class AllPacks:
    """The packs of a server: what the server does with each of them."""

    def __init__(self, packs: Iterable[Pack]) -> None:
        self._packs = tuple(packs)
        for pack in self._packs:
            pack.take()

    def add_to(self, app: web.Application, server: PackServer) -> None:
        """Add their routes to an application, which starts and stops them."""
        for pack in self._packs:
            for method, path, handler in pack.routes():
                for prefix in ("", "/api"):
                    app.router.add_route(method, f"{prefix}{path}", handler)

        async def start(app: web.Application) -> None:
            for pack in self._packs:
                pack.start(server)

        async def stop(app: web.Application) -> None:
            for pack in self._packs:
                pack.stop()

        app.on_startup.append(start)
        app.on_cleanup.append(stop)

    def mark(self) -> None:
        """Keep the state to which :meth:`reset` returns."""
        for pack in self._packs:
            pack.mark()

    def reset(self, keep: Collection[Kept]) -> None:
        """Return to the state that was marked."""
        for pack in self._packs:
            pack.reset(keep)

    def forget(self) -> None:
        """Return to the state of new packs."""
        for pack in self._packs:
            pack.forget()

    def add_nodes(self) -> None:
        """Add the node classes that they bring."""
        for pack in self._packs:
            pack.add_nodes()
