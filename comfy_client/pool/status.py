"""The status and the events of a pool, as users see them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ..events import Event
from ..showing.cells import ShownAsTable
from ..to_dict import AsDict

if TYPE_CHECKING:
    from ..showing.tables import Table

#: The events of a pool itself; any other name is of an event of its clients.
POOL_EVENTS: frozenset[str] = frozenset(
    {"added", "removed", "ready", "suspect", "well", "have_job", "idle"}
)


@attrs.frozen(eq=False, kw_only=True, repr=False)
class PoolEvent(Event):
    """An event of a pool: see :meth:`ComfyPool.on`.

    Attributes:
        server: The URL of the server that it is about; ``None``: it is about the whole pool.
        waiting: How many jobs wait for a server.
        reason: Why the server is suspect; ``None`` in all events but ``suspect``.
    """

    server: str | None = None
    waiting: int = 0
    reason: str | None = None


@attrs.frozen
class ServerStatus(AsDict):
    """The status of a server: see :meth:`ComfyPool.status`.

    Attributes:
        host: The URL of the server.
        state: ``"ready"``; ``"connecting"``: it has not answered yet; ``"down"``: it does not
            answer, or refuses us; ``"leaving"``: it was removed, and finishes its jobs.
        weight: How fast it is, compared to other servers.
        own: How many jobs of this pool it has.
        others: How many prompts of other clients are in its queue, as far as is known.
        done: How many jobs of this pool ended there with a result.
        failed: How many jobs of this pool ended there without a result.
        models: The model files of the job that it got last; empty: none.
        error: Why it is down; ``None``: it is not down.
        suspect: How it fails job after job, in words, while others do not, so that it gets one job
            at a time and rests in between; ``None``: it is not suspect.
    """

    host: str
    state: str
    weight: float
    own: int
    others: int
    done: int
    failed: int
    models: tuple[str, ...]
    error: BaseException | None = None
    suspect: str | None = None


@attrs.frozen
class PoolStatus(ShownAsTable, AsDict):
    """The status of a pool: see :meth:`ComfyPool.status`; ``print`` and notebooks show a table.

    Attributes:
        mode: How the pool chooses servers.
        waiting: How many jobs wait for a server.
        running: How many jobs have been given to a server.
        done: How many jobs ended with a result.
        failed: How many jobs ended without a result.
        servers: The status of each server, in the order in which they were added.
    """

    mode: str
    waiting: int
    running: int
    done: int
    failed: int
    servers: tuple[ServerStatus, ...]

    def lines(self) -> tuple[str, ...]:
        """Return a line for each server: its name, its state, and how many jobs it has."""
        return tuple(map(_line, self.servers))

    def _table(self) -> Table:
        return status_table(self)

    def __repr__(self) -> str:
        return str(self)  # a notebook shows it


def status_table(status: PoolStatus) -> Table:
    """Return a table with a row for each server of a pool."""
    from ..showing.tables import Table

    rows = [
        (
            server.host,
            server.state,
            f"{server.weight:g}",
            server.own,
            server.others,
            server.done,
            server.failed,
            _remark(server),
        )
        for server in status.servers
    ]
    moods = {"ready": "good", "connecting": "doubtful", "leaving": "doubtful", "down": "bad"}
    return Table(_HEAD, rows, moods, [_summary(status)])


def _summary(status: PoolStatus) -> str:
    ready = sum(server.state == "ready" for server in status.servers)
    suspects = sum(server.suspect is not None for server in status.servers)
    counted = f" ({suspects} suspect)" if suspects else ""
    return (
        f"{ready} of {len(status.servers)} servers ready{counted}, mode {status.mode}: "
        f"{status.waiting} waiting, {status.running} running, {status.done} done, "
        f"{status.failed} failed"
    )


def _line(server: ServerStatus) -> str:
    state = server.state if server.suspect is None or server.error is not None else "suspect"
    has = f", {server.own} job{'s' * (server.own > 1)}" if server.own else ""
    return f"{server.host.partition('://')[2]} {state}{has}"


def _remark(server: ServerStatus) -> str:
    if server.error is None and server.suspect is not None:
        return f"suspect: {server.suspect}"
    return str(server.error or ", ".join(server.models))


_HEAD = ("server", "state", "weight", "own", "others", "done", "failed", "models, or what is wrong")
