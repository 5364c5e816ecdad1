"""The status and the events of a pool, as users see them."""

from __future__ import annotations

import textwrap

import attrs

from ..events import Event
from ..showing.cells import shown
from ..to_dict import AsDict

#: The events of a pool itself; any other name is of an event of its clients.
POOL_EVENTS: frozenset[str] = frozenset(
    {"added", "removed", "ready", "suspect", "well", "have_job", "idle"}
)


@attrs.frozen(eq=False, kw_only=True, repr=False)
class PoolEvent(Event):
    """An event of a pool: see :meth:`ComfyPool.on`.

    Attributes:
        server: The URL of the server that it is about; ``None``: of no particular one.
        waiting: How many jobs wait for a server.
        reason: Why the server is ``suspect``; ``None``: it is another event.
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
            answer, or refuses us; ``"leaving"``: it was removed, and ends what it has.
        weight: How fast it is, compared to others.
        own: Jobs of this pool that it has.
        others: Prompts of others in its queue, as far as is known.
        done: Jobs of this pool that it has ended with a result.
        failed: Jobs of this pool that it has ended without one.
        models: The model files of the job that it got last; empty: none.
        error: Why it is down; ``None``: it is not.
        suspect: How it fails job after job, in words, while others do not, so that it gets one job
            at a time and rests in between; ``None``: it does not.
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
class PoolStatus(AsDict):
    """The status of a pool: see :meth:`ComfyPool.status`; ``print`` and notebooks show a table.

    Attributes:
        mode: How it chooses servers.
        waiting: Jobs that wait for a server.
        running: Jobs that a server has.
        done: Jobs that ended with a result.
        failed: Jobs that ended without one.
        servers: Its servers, in the order in which they were added.
    """

    mode: str
    waiting: int
    running: int
    done: int
    failed: int
    servers: tuple[ServerStatus, ...]

    @property
    def _summary(self) -> str:
        ready = sum(server.state == "ready" for server in self.servers)
        return (
            f"{ready} of {len(self.servers)} servers ready{self._suspects}, mode {self.mode}: "
            f"{self.waiting} waiting, {self.running} running, {self.done} done, "
            f"{self.failed} failed"
        )

    @property
    def _suspects(self) -> str:
        suspects = sum(server.suspect is not None for server in self.servers)
        return f" ({suspects} suspect)" if suspects else ""

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                server.host,
                server.state,
                f"{server.weight:g}",
                str(server.own),
                str(server.others),
                str(server.done),
                str(server.failed),
                _remark(server),
            )
            for server in self.servers
        ]

    def __str__(self) -> str:
        rows = [_HEAD, *self._rows()]
        widths = [max(len(row[at]) for row in rows) for at in range(len(_HEAD) - 1)]
        lines = (
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False))])
            + f"  {textwrap.shorten(row[-1], 100, placeholder=' ...')}"
            for row in rows
        )
        return "\n".join([self._summary, *(line.rstrip() for line in lines)])

    def __repr__(self) -> str:
        return str(self)  # a notebook shows it

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        """Return the forms in which a notebook shows the status."""
        return shown(self, self._markup)

    def _markup(self) -> str:
        from ..showing.html import remark, table

        moods = {"ready": "good", "connecting": "doubtful", "leaving": "doubtful", "down": "bad"}
        return remark(self._summary) + table(_HEAD, self._rows(), moods)


def _remark(server: ServerStatus) -> str:
    if server.error is None and server.suspect is not None:
        return f"suspect: {server.suspect}"
    return str(server.error or ", ".join(server.models))


_HEAD = ("server", "state", "weight", "own", "others", "done", "failed", "models, or what is wrong")
