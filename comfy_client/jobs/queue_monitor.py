"""The server's queue, requested as rarely as possible, and a check that its changes are reported.

``GET /queue`` contains everybody's graphs, so it is the last resort.  Servers from 0.6 on have a
list without graphs.  Each change of the queue is broadcast as a ``status``, or shows in the number
that is polled without a socket, so the last snapshot remains valid for some seconds if no change
was reported.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final

import attrs

from .. import models, runtime
from ..errors import ApiError, AuthenticationError, UnexpectedResponse
from ..routes import Routes
from ..timing import Timing
from ..transport.failures import is_away
from ..transport.websocket import Connection, State
from ..values import text
from .state import QueueSnapshot

#: The jobs API's words for ended prompts.
_ENDED: Final = ("completed", "failed", "cancelled")

#: The first ComfyUI whose ``POST /interrupt`` respects a prompt_id.
_HEEDS_ID: Final = (0, 3, 57)


#: Two moments between which the queue changed.
Change = tuple[float, float]


class QueueMonitor:
    """Requests and caches the queue, and counts the prompts that leave it."""

    def __init__(self, connection: Connection, timing: Timing) -> None:
        self.connection = connection
        self._timing = timing
        # The last snapshot, and the state and socket that would have reported a change.
        self._last: tuple[QueueSnapshot, State, int] | None = None
        self.at: float = float("-inf")  #: When the last snapshot was requested.
        self.rests_until: float = float("-inf")  #: The end of the pause after a slow request.
        self._changed_at: float = float("-inf")  # when we last changed the queue
        self.status_at: float = float("-inf")  #: When the server last reported its length.
        self.remaining: int | None = None  #: Prompts that run or wait, according to that report.
        self.departed: int = 0  #: How many prompts of all clients have left the queue.
        self.advanced_at: float = float("-inf")  #: When a prompt last left the queue.
        self._lists_jobs = True  # False once the server shows that it has no jobs API

    def count(self, remaining: int | None) -> None:
        """Note the number of prompts in the queue, as the server reports it; None: no number."""
        self.status_at = runtime.monotonic()
        if remaining is None:
            return
        gone = (self.remaining or 0) - remaining
        if gone > 0:
            self.departed += gone
            self.advanced_at = self.status_at
        self.remaining = remaining

    def refresh(self, routes: Routes, graphs_of: Collection[str] = ()) -> QueueSnapshot:
        """Request a snapshot: ``GET /api/jobs``, or for graphs and old servers ``GET /queue``."""
        at, departed, spent = runtime.monotonic(), self.departed, runtime.thread_time()
        state, generation = self.connection.state, self.connection.generation
        snapshot = self._listed(routes) if self._lists_jobs and not graphs_of else None
        if snapshot is None:
            queue = routes.get_queue(workflows_of=graphs_of)
            read = [item for item in (*queue.running, *queue.pending) if item.workflow]
            snapshot = QueueSnapshot(
                running=tuple(item.prompt_id for item in queue.running),
                pending=tuple(item.prompt_id for item in queue.pending),
                graphs={item.prompt_id: item.workflow for item in read},
                clients={item.prompt_id: text(item.extra_data.get("client_id")) for item in read},
            )
        snapshot = attrs.evolve(snapshot, departed=departed)
        took = runtime.thread_time() - spent  # not the elapsed time, which a slow line prolongs
        rest = self._timing.slow_queue_rest * took if took >= self._timing.slow_queue else 0.0
        self.rests_until = at + rest
        # Keep no graphs, which may take more memory than the rest of a client.
        kept = attrs.evolve(snapshot, graphs={}, clients={}) if snapshot.graphs else snapshot
        self._last, self.at = (kept, state, generation), at
        if self._changed_at >= at:  # we changed the queue meanwhile
            self._last = None
        return snapshot

    def lacks(self, prompt_id: str, since: float) -> bool:
        """Return whether the last snapshot is newer than ``since`` and lacks a prompt."""
        last = self._last  # read once, as another thread may call forget()
        return last is not None and self.at > since and prompt_id not in last[0]

    def forget(self) -> None:
        """Drop the last snapshot, as this client has changed the queue."""
        self._changed_at = runtime.monotonic()
        self._last = None

    def stale(self) -> QueueSnapshot | None:
        """Return the last snapshot if it is too early to ask a slow server again, else None."""
        last = self._last  # read once, as another thread may call forget()
        return last[0] if last is not None and runtime.monotonic() < self.rests_until else None

    def _listed(self, routes: Routes) -> QueueSnapshot | None:
        try:
            page = routes.get_jobs(("pending", "in_progress"))
        except (ApiError, UnexpectedResponse) as exc:
            if is_away(exc):
                raise
            # Or the jobs API fails while the queue may work.
            self.connection.log.debug("no jobs API: %s", exc)
            # A proxy may block only this route, or require a login that is renewed soon.
            self._lists_jobs = isinstance(exc, AuthenticationError)
            return None
        if page.has_more:  # a page is not a complete list
            self.connection.log.debug("the jobs API lists %d jobs only", len(page.jobs))
            self._lists_jobs = False
            return None
        running = [job for job in page.jobs if job.status == "in_progress"]
        # A job in an unknown state is in the queue, too.
        waiting = [job for job in page.jobs if job.status not in ("in_progress", *_ENDED)]
        waiting.sort(key=_place)
        return QueueSnapshot(
            running=tuple(job.id for job in running), pending=tuple(job.id for job in waiting)
        )

    def cached(self) -> QueueSnapshot | None:
        """Return the last snapshot; None if the queue may have changed since."""
        last = self._last  # read once, as above
        if last is None:
            return None
        snapshot, state, generation = last
        age = runtime.monotonic() - self.at
        connection = self.connection
        is_watched = connection.state in (State.CONNECTED, State.POLLING)
        is_same = (connection.state, connection.generation) == (state, generation)
        holds = is_watched and is_same and age < self._timing.queue and self.status_at < self.at
        return snapshot if holds else None


class DeafnessCheck:
    """Reconnects a deaf socket, which is open although the server sends its events elsewhere.

    The server forgets the route of a client id when an older socket of that id ends.  A change of
    the queue that is known by other means, but did not appear as a ``status``, reveals that.  It
    reconnects rarely, as the next socket may be deaf, too.
    """

    def __init__(self, connection: Connection, monitor: QueueMonitor, timing: Timing) -> None:
        self._connection = connection
        self._monitor = monitor
        self._timing = timing
        self._expected: Change | None = None  # not seen on this socket yet
        self._redialled_at = float("-inf")
        self._received_at = float("-inf")  # when a message was last seen arriving

    def forget(self) -> None:
        """Drop all expectations, as the socket is a new one."""
        self._expected = None

    def expect(self, since: float, now: float) -> None:
        """Expect a ``status`` event for a change of the queue; without one, the socket is deaf."""
        if self._expected is None or self._monitor.status_at >= self._expected[0]:
            self._expected = since, now

    def redial_if_deaf(self, changes: Sequence[Change], now: float) -> None:
        """Reconnect if a given or expected change did not appear on the socket in time."""
        told_at, limit = self._monitor.status_at, now - self._timing.deaf
        known = [*changes, *([] if self._expected is None else [self._expected])]
        is_silent = any(after < limit and told_at < before for before, after in known)
        if self._connection.is_receiving:
            self._received_at = now
        # On a slow line, there may be a gap between two messages.
        elif is_silent and now - self._received_at > 2 * self._timing.deaf:
            self._redial()

    def _redial(self) -> None:
        now = runtime.monotonic()
        connection = self._connection
        if connection.state is State.CONNECTED and now - self._redialled_at >= self._timing.redial:
            connection.log.warning(
                "the socket is open but deaf, as when another client uses the client_id %r; "
                "reconnecting",
                connection.client_id,
            )
            self._redialled_at = now
            connection.redial("it was open, but the server sent nothing on it")


def _place(job: models.JobInfo) -> float:
    """Return the sort key of a job; jobs without a priority come last."""
    return job.priority if isinstance(job.priority, int | float) else float("inf")


def heeds_id(routes: Routes) -> bool:
    """Return whether the server's interrupt respects a prompt id, judging by its version."""
    version = routes.get_system_stats().comfyui_version or ""
    parts = re.findall(r"\d{1,9}", version[:100], re.ASCII)
    return tuple(map(int, parts[:3])) >= _HEEDS_ID
