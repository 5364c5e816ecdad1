"""The TCP connections of a server: accept, serve, end; and one of its own for inner requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

from aiohttp import web

from .http import Request, exchange, hang_up
from .loop import ServerLoop, let_others_run


class Connections:
    """All but :attr:`count` is for the server's own thread."""

    def __init__(self, loop: ServerLoop, accepted: Callable[[], None]) -> None:
        self._loop = loop
        self._accepted = accepted
        #: Whether the end of the server resets the connections.
        self.reset = False
        self._server: web.Server | None = None
        self._inner: dict[asyncio.BaseTransport, list[Any]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    async def serve(
        self,
        app: web.Application,
        listener: socket.socket,
        tls: ssl.SSLContext | None,
        logger: logging.Logger,
        ready: Callable[[], None],
    ) -> None:
        """Serve until the loop is stopped; calls `ready` when it listens."""
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
            await let_others_run()
            self._hang_up()  # on those that were just being accepted
            if listening is not None:
                listening.close()  # not before: asyncio would leave them open
            await runner.cleanup()
            await let_others_run()
            listener.close()

    def _accept(self) -> asyncio.Protocol:
        """For a new connection."""
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
        """How many clients are connected."""
        return sum(transport not in self._inner for transport in self._transports())

    @contextlib.contextmanager
    def handling(self) -> Iterator[None]:
        """Around each request: what still runs when the server stops is cancelled."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  for the type checker
        self._tasks.add(task)
        try:
            yield
        finally:
            self._tasks.discard(task)

    async def ask(self, request: Request) -> bytes:
        """The answer to a request over a connection of our own, which no test sees.

        Only the faults that the request has yet to meet affect it.
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
        """The faults for a request of our own; ``None`` for those of clients."""
        transport = request.transport
        return None if transport is None else self._inner.get(transport)
