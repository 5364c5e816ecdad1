"""Counters of a client: :meth:`ComfyApi.stats`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from .showing.cells import ShownAsTable
from .to_dict import AsDict

if TYPE_CHECKING:
    from .showing.tables import Table


@attrs.frozen
class ClientStats(ShownAsTable, AsDict):
    """Counters of a client since it was made: see :meth:`ComfyApi.stats`.

    Each prompt counts once: ``submitted + attached`` is always ``succeeded + failed +
    interrupted + lost + unknown + outstanding``.  All but ``outstanding`` only grow.

    Attributes:
        submitted: Prompts that the server accepted from ``submit``, ``run``, ``map`` and ``sweep``.
        refused: Submissions of these that raised: refused by the server, or without an answer.
        attached: Prompts that :meth:`ComfyApi.job` attached to, which this client had not
            submitted.
        succeeded: Prompts that succeeded.
        failed: Prompts that ended in :class:`JobFailed`.
        interrupted: Prompts that ended in :class:`JobInterrupted`.
        lost: Prompts that ended in :class:`JobLost`.
        unknown: Prompts of which only the wait ended: the client was closed, their outputs were
            too large, or the server refuses to say.
        outstanding: Prompts that have not ended.
        requests: HTTP requests that were sent, repeated ones included.
        connections: How often the event socket was connected.
        reconnects: How often the event socket was connected again.
        bytes_sent: Bytes of requests, of handshakes and of what the socket sent, with headers;
            TLS adds its own.
        bytes_received: Bytes of answers and of what the socket received, with headers.
        dropped_events: Events that were dropped because receivers, iterators or callbacks were
            too slow.
    """

    submitted: int
    refused: int
    attached: int
    succeeded: int
    failed: int
    interrupted: int
    lost: int
    unknown: int
    outstanding: int
    requests: int
    connections: int
    reconnects: int
    bytes_sent: int
    bytes_received: int
    dropped_events: int

    def _table(self) -> Table:
        from .showing.tables import Table

        counts: dict[str, int] = attrs.asdict(self)
        return Table((), [(name.replace("_", " "), f"{n:,}") for name, n in counts.items()])
