"""The ports of a hosted surface, which starts and crashes apart from the ComfyUI behind it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, get_args

import attrs
from aiohttp import web

from ..exchange import fault_middleware
from ..listen_address import ListenAddress, ReservedPort
from ..received import Records
from ..server_loop import Connections
from ..server_state import ServerState
from ..wire import Request
from .hosted_state import HostedState, Memory
from .surface import BODY_SIZE, storage, surface
from .traps import TRAPS, HostedKind, HostedTraps


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
