"""The parts of a client, which its methods hand to the functions that do the work."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import attrs

from ..errors import ClientClosed
from ..routes.definitions import NodeDefinitions
from ..signals import Receivers
from ..transport.http import Http
from ..transport.websocket import Connection
from .poller import Poller
from .tracker import Tracker

if TYPE_CHECKING:
    from ..stats import ClientStats


@attrs.define(eq=False, repr=False)
class Parts:
    """The parts of a client, in one process: the child of a fork gets new ones.

    None of them holds the client, so that a client which its user has forgotten is collected.

    Attributes:
        receivers: Those who listen to its events.
        tracker: Its prompts that have not ended.
        poller: The thread that asks the server about them.
        definitions: The node definitions that it keeps.
        calls: Weak references to the prompts of each ``map`` and ``sweep`` that has not ended.
        connection: Its event socket.
        closed: Whether ``close()`` was called.
    """

    receivers: Receivers
    tracker: Tracker
    poller: Poller
    definitions: NodeDefinitions
    calls: set[weakref.ref[Any]] = attrs.field(factory=set, init=False)
    connection: Connection = attrs.field(init=False)
    closed: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.connection = self.tracker.connection

    @property
    def http(self) -> Http:
        """The HTTP side of the client."""
        return self.tracker.http

    def check_open(self) -> None:
        """Raise :class:`ClientClosed` after ``close()``."""
        if self.closed:
            raise ClientClosed

    def stats(self) -> ClientStats:
        """Return the counters of the client."""
        from ..stats import ClientStats  # few programs want them

        tracker, traffic = self.tracker, self.http.traffic
        connections = self.connection.generation
        with tracker.lock:
            prompts = tracker.ledger.sums()
        return ClientStats(
            **prompts,
            requests=traffic.requests,
            connections=connections,
            reconnects=max(0, connections - 1),
            bytes_sent=traffic.sent,
            bytes_received=traffic.received,
            dropped_events=self.receivers.dropped,
        )
