"""Detection of a deaf socket: open, while the server sends its events elsewhere.

The server forgets the route of a client id when an older socket of that id ends.  A change of the
queue that is known by other means, but did not appear as a ``status``, reveals that.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from .. import runtime
from ..timing import Timing
from ..transport.websocket import Connection, State
from .queue_monitor import QueueMonitor

log: logging.Logger = logging.getLogger("comfy_client")

#: A change of the queue happened between these two moments.
Change = tuple[float, float]


class DeafnessCheck:
    """Reconnects a deaf socket, but not often, as it may be deaf again."""

    def __init__(self, connection: Connection, monitor: QueueMonitor, timing: Timing) -> None:
        self._connection = connection
        self._monitor = monitor
        self._timing = timing
        self._expected: Change | None = None  # yet to show on this socket
        self._redialled_at = float("-inf")
        self._received_at = float("-inf")  # when a message was seen on its way

    def forget(self) -> None:
        """Drop all expectations, as the socket is a new one."""
        self._expected = None

    def expect(self, since: float, now: float) -> None:
        """Expect a ``status`` for a change of the queue; without one, the socket is deaf."""
        if self._expected is None or self._monitor.status_at >= self._expected[0]:
            self._expected = since, now

    def redial_if_deaf(self, changes: Sequence[Change], now: float) -> None:
        """Reconnect if one of these or of the expected changes did not appear in time."""
        told_at, limit = self._monitor.status_at, now - self._timing.deaf
        known = [*changes, *([] if self._expected is None else [self._expected])]
        is_silent = any(after < limit and told_at < before for before, after in known)
        if self._connection.is_receiving:
            self._received_at = now
        # On a slow line the next message has not begun when one has ended.
        elif is_silent and now - self._received_at > 2 * self._timing.deaf:
            self._redial()

    def _redial(self) -> None:
        now = runtime.monotonic()
        connection = self._connection
        if connection.state is State.CONNECTED and now - self._redialled_at >= self._timing.redial:
            log.warning(
                "the socket is open but deaf, as when another client uses the client_id %r; "
                "reconnecting",
                connection.client_id,
            )
            self._redialled_at = now
            connection.redial("it was open, but the server sent nothing on it")
