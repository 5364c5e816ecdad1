"""Totals of what a client sends and receives."""

from __future__ import annotations

from ..locks import shared_lock


class Traffic:
    """Counters of what goes over the network, for any thread."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Reset the totals, with a new lock: after a fork the old one may stay held."""
        # Guards the three.  Re-entrant: a finalizer may send a request, too.
        self._lock = shared_lock()
        self.requests: int = 0
        self.sent: int = 0
        self.received: int = 0

    def add(self, *, requests: int = 0, sent: int = 0, received: int = 0) -> None:
        """Add to the totals."""
        with self._lock:
            self.requests += requests
            self.sent += sent
            self.received += received
