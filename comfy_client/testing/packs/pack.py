"""The base class of packs with routes of their own, and the server as a pack sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
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


class Pack:
    """A node pack with routes, whose settings and state outlive a restart of its server.

    The server calls all of its methods but :meth:`mark` in its own thread.

    Attributes:
        name: The name by which ``packs`` has it.
    """

    name = ""
    _server: PackServer | None = None

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def server(self) -> PackServer:
        """The server, while it runs."""
        return cast(PackServer, self._server)

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
        """Keep the state to which :meth:`reset` returns; called in any thread."""

    def reset(self, keep: Collection[Kept]) -> None:
        """Return to the state that was marked, and cancel all work; ``keep`` as of the server."""
        for task in self._tasks:
            task.cancel()

    def forget(self) -> None:
        """Return to the state of a new pack, since the server's files are deleted."""

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


def add_packs(app: web.Application, packs: Collection[Pack], server: PackServer) -> None:
    """Add the routes of packs to an application, which starts and stops them."""
    for pack in packs:
        for method, path, handler in pack.routes():
            for prefix in ("", "/api"):
                app.router.add_route(method, f"{prefix}{path}", handler)

    async def start(app: web.Application) -> None:
        for pack in packs:
            pack.start(server)

    async def stop(app: web.Application) -> None:
        for pack in packs:
            pack.stop()

    app.on_startup.append(start)
    app.on_cleanup.append(stop)
