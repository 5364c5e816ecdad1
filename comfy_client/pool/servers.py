"""The servers of a pool: added, removed, listened to."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from ..client import ComfyApi
from ..errors import ClientClosed
from ..events import NAMES
from ..signals import Receivers, is_callback
from ..transport.url import parse_host
from ..values import is_real
from .dispatcher import Dispatcher
from .schedule import Server
from .state import Member
from .status import POOL_EVENTS, PoolStatus

log: logging.Logger = logging.getLogger("comfy_client")

#: Servers, by their clients or URLs.
AnyServer = ComfyApi | str


class Servers:
    """The methods of a pool that are about its servers."""

    _dispatcher: Dispatcher
    _receivers: Receivers
    _in_flight: int
    _first: ComfyApi | None
    _relayed: dict[object, tuple[str, Callable[[Any, Any], object]]]

    def add(self, server: AnyServer, *, weight: float = 1.0) -> None:
        """Add a server, while jobs run, too.

        Args:
            server: A URL, or a client.
            weight: How fast it is, compared to the others.

        Raises:
            ValueError: It is in the pool already, or ``weight`` is not above 0.
            TypeError: It is neither a URL nor a client.
            ClientClosed: After :meth:`shutdown`.
        """
        if not is_real(weight) or not 0 < weight < math.inf:
            raise ValueError(f"the weight of a server is a number above 0, not {weight!r}")
        if not isinstance(server, str | ComfyApi):
            raise TypeError(f"a server is a URL or a ComfyApi, not {server!r:.80}")
        name = self._name_of(server)
        if name in self._dispatcher.members:
            raise ValueError(f"{name} is in the pool already")
        api = ComfyApi(server) if isinstance(server, str) else server
        known = Server(name, weight=float(weight), most=self._in_flight)
        member = Member(api, known, is_own=isinstance(server, str))
        self._dispatcher.add(member)
        self._first = self._first or api
        for key, (event, callback) in list(self._relayed.items()):
            member.relay(key, event, callback)

    def remove(self, server: AnyServer) -> None:
        """Remove a server: it gets no new jobs, and ends those that it has.

        Raises:
            ValueError: It is not in the pool.
        """
        self._dispatcher.remove(self._name_of(server))

    @property
    def servers(self) -> tuple[ComfyApi, ...]:
        """The clients of its servers, in the order in which they were added."""
        return tuple(member.api for member in list(self._dispatcher.members.values()))

    @staticmethod
    def _name_of(server: AnyServer) -> str:
        return server.host if isinstance(server, ComfyApi) else parse_host(server)[0].http_url

    def status(self) -> PoolStatus:
        """Return its servers, and how many jobs wait, run and have ended; sends no request.

        ``print`` shows a table; so does a notebook.  A server is *suspect* if three jobs in a row
        have failed on it, or were refused, while others do not fail: it gets one job at a time, and
        rests in between, until one succeeds.
        """
        return self._dispatcher.status()

    def _names(self, servers: Iterable[AnyServer], what: str) -> frozenset[str]:
        if isinstance(servers, str | ComfyApi):
            servers = [servers]
        if not isinstance(servers, Iterable):
            raise TypeError(f"{what} is a list of servers of the pool, not {servers!r:.80}")
        names = frozenset(map(self._name_of, servers))
        unknown = names - self._dispatcher.members.keys()
        if unknown:
            raise ValueError(f"{what}: {', '.join(sorted(unknown))} is not in the pool")
        return names

    def _ready_clients(self) -> list[ComfyApi]:
        """Return the clients of ready servers; if none is ready, any."""
        members = list(self._dispatcher.members.values())
        ready = [member.api for member in members if member.server.ready]
        return ready or [self._any_client()]

    def _any_client(self) -> ComfyApi:
        """Return the client of a ready server, or else any."""
        members = list(self._dispatcher.members.values())
        ready = (member.api for member in members if member.server.ready)
        found = next(ready, None) or next((member.api for member in members), self._first)
        if found is None:
            raise ClientClosed("this ComfyPool is shut down; make a new one")
        return found

    def on(self, name: str, callback: Callable[[Any, Any], object]) -> Callable[[], None]:
        """Call ``callback(sender, event)`` for each event of that name.

        Events of the pool itself have the pool as their sender, and are :class:`PoolEvent`:
        ``added`` and ``removed``, of servers; ``ready``: a server answers, and takes jobs;
        ``suspect`` and ``well``: it fails job after job while others do not, or does no more;
        ``have_job``: one more waits; ``idle``: all have ended.  Any other name is of an event of
        its clients, as in :meth:`ComfyApi.on`, and the client is the sender; clients that are added
        later count, too, and one that was removed does until it has ended what it has.

        Args:
            name: The name of an event.
            callback: Called in a delivery thread, one after the other.  The pool keeps it.

        Returns:
            A function that unsubscribes the callback.

        Raises:
            TypeError: The callback cannot be called with a sender and an event.
        """
        if not is_callback(callback, 2):
            raise TypeError(
                f"a callback is a plain function of a sender and an event: {callback!r}"
            )
        if name in POOL_EVENTS:
            return self._receivers.on(name, partial(callback, self), once=False)
        _warn_of_name(name)
        key = object()
        self._relayed[key] = name, callback  # first: for servers that are added meanwhile
        for member in self._dispatcher.all_members:
            member.relay(key, name, callback)

        def off() -> None:
            self._relayed.pop(key, None)
            for member in self._dispatcher.all_members:
                member.end_relay(key)

        return off


def _warn_of_name(name: str) -> None:
    """Warn of a name that is nearly that of an event of pools."""
    if name in NAMES:
        return
    from ..nearest import nearest  # for mistakes

    if likely := nearest(name, POOL_EVENTS, 1):
        log.warning("%r is not an event of a pool; did you mean %r?", name, likely[0])
