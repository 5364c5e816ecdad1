"""The state of a pool, and the lock of it.

Nothing is sent, and no code of users runs, while the lock is held.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import cast

from .. import runtime
from ..batch.source import Source
from ..errors import ClientClosed
from ..jobs.pooled import PooledJob
from ..locks import check_may_wait, shared_lock
from ..signals import Receivers
from .aftermath import Aftermath, log
from .member import Entry, Member, status_of
from .refusals import lacks
from .schedule import Assignment, Mode, Schedule
from .status import PoolEvent, PoolStatus


class Changing:
    """The servers of a pool, and its jobs that have not ended; changed with the lock held.

    Attributes:
        members: Its servers by name, in the order in which they were added.
        closed: Whether it takes no more jobs.
        was_ready: Whether a server has ever answered.
        moved_at: When a server was chosen for a job last.
    """

    def __init__(self, mode: Mode, receivers: Receivers) -> None:
        self._entries: dict[PooledJob, Entry] = {}
        self.members: dict[str, Member] = {}
        self.closed: bool = False
        self._is_parents = False
        self._receivers = receivers
        self._leaving: list[Member] = []
        self._done = self._failed = 0  # of servers that have left, or of none
        #: What calls of ``map`` that have not ended get their prompts from; let go of at the end.
        self.sources: weakref.WeakSet[Source] = weakref.WeakSet()
        self.was_ready: bool = False
        self.moved_at: float = 0.0
        self._has_warned = self._has_warned_of_away = False
        self._warned_of: set[frozenset[str]] = set()  # servers that are away, and jobs wait for
        self._schedule = Schedule(mode)
        self._after = Aftermath(receivers)
        self._begin()

    def _begin(self) -> None:
        # Guards all of the above, and what members say of their servers.  Taken before the locks
        # of queues.  Re-entrant: a handler of a signal may ask for something, and change it while
        # the code that it interrupts only looks at it, at copies of what grows and shrinks.
        self._lock = shared_lock()
        self._changed = runtime.Condition(self._lock)

    def warn_of_waiting(self) -> None:
        """Warn, once, of jobs that will not run, as nobody keeps the pool, or the process ends."""
        waiting = sum(not entry.started for entry in self._entries.values())
        if waiting and not self._has_warned:
            self._has_warned = True
            log.warning("a ComfyPool was not shut down; jobs that will not run: %d", waiting)

    __del__ = warn_of_waiting

    def warn_of_away(self) -> None:
        """Warn, once, that all jobs that are left wait for servers that are away."""
        with self._lock:
            left = len(self._entries)
            if self._has_warned_of_away or len(self._schedule) < left:
                return
            able = set().union(*map(self._schedule.able, list(self._schedule.waiting())))
            if not able or any(self.members[name].server.ready for name in able):
                return
            self._has_warned_of_away = True
        words = "a ComfyPool waits for servers that are away; jobs that only they can run: %d (%s)"
        log.warning(words, left, f"{', '.join(sorted(able)):.200}")

    def waits_for_away(self, job: PooledJob) -> bool:
        """Return whether all servers that can run it have failed to answer."""
        with self._lock:
            entry = self._entries.get(job)
            if entry is None or entry.member is not None:
                return False
            able = map(self.members.__getitem__, self._schedule.able(entry.waiting))
            return all(one.error is not None and not one.server.ready for one in able)

    def warn_of_wait(self, job: PooledJob) -> None:
        """Warn that a job waits for servers that are away; once, until one is back."""
        with self._lock:
            entry = self._entries.get(job)
            if entry is None or not self.waits_for_away(job):
                return
            able = self._schedule.able(entry.waiting)
            if able in self._warned_of:
                return
            self._warned_of.add(able)
            why = self.why(job)
        log.warning("prompt %s is %s", job.prompt_id, why)

    def has_lock(self) -> bool:
        """Return whether this thread has the lock already, as if a signal handler interrupts it."""
        try:
            self._changed.notify(0)  # nobody
        except RuntimeError:
            return False
        return True

    @property
    def all_members(self) -> list[Member]:
        """The pool's servers, and those that were removed and still have jobs."""
        with self._lock:
            return [*self.members.values(), *self._leaving]

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Context manager: make a change, then assign jobs, and wake waiting threads."""
        with self._lock:
            yield
            while (found := self._schedule.next()) is not None:
                self._assign(found)
            self._dismiss()
            calls = self._after.take()
            self._changed.notify_all()
        if calls:
            self._after.do(calls, self._has_followed)

    def _has_followed(self) -> None:
        with self._lock:
            self._after.done()
            self._changed.notify_all()

    def _assign(self, found: Assignment) -> None:
        member = self.members[found.server.name]
        entry = self._entries[cast("PooledJob", found.job.key)]
        entry.member, entry.started = member, False
        self.moved_at = runtime.monotonic()
        member.inbox.append(entry)
        member.wake()

    def _say(self, name: str, server: str | None = None, reason: str | None = None) -> None:
        waiting = len(self._schedule)
        self._after.publish(PoolEvent(name=name, server=server, waiting=waiting, reason=reason))

    def _dismiss(self) -> None:
        """Let go of servers that have left, once they have nothing of ours."""
        raise NotImplementedError

    # -- what is asked ---------------------------------------------------------------------------

    def has(self, job: PooledJob) -> bool:
        """Return whether it was submitted, and has not ended."""
        with self._lock:
            return job in self._entries

    def position(self, job: PooledJob) -> int | None:
        """Return how many waiting jobs are before a job, at most."""
        with self._lock:
            return self._schedule.position(job)

    def why(self, job: PooledJob) -> str:
        """Return what a job waits for, in one sentence."""
        with self._lock:
            entry, before = self._entries.get(job), self._schedule.position(job)
            if entry is None or before is None:
                return "waiting: a server has been chosen"
            names = self._schedule.able(entry.waiting)
            ready = sum(self.members[name].server.ready for name in names)
            if not names:
                return "waiting: no server of the pool can run it"
            what = f"{ready} of {len(names)} servers that can run it are ready"
            if not ready:
                what = f"no server that can run it is ready: {', '.join(sorted(names)):.200}"
                others = lacks(entry.waiting, self.members)  # it may be that names are misspelt
                what += f"; {others}" if others else ""
            return f"waiting for a server, {before} before it; {what}"

    def wait(self, until: Callable[[], bool], seconds: float) -> bool:
        """Wait until ``until()`` is true or something changes; return whether it is true."""
        check_may_wait()
        with self._lock:
            return until() or (bool(self._changed.wait(seconds)) and until())

    @property
    def is_idle(self) -> bool:
        """Whether the pool has no jobs, and all waits for ended ones are over."""
        return not (self._entries or self._after.is_busy)

    def take_no_more(self) -> None:
        """Stop accepting jobs."""
        self.closed = True

    def check_open(self) -> None:
        """Raise :class:`ClientClosed` if it takes no more jobs."""
        if self._is_parents:
            raise ClientClosed("this ComfyPool is that of the parent process; make one in this one")
        if self.closed:
            raise ClientClosed("this ComfyPool is shut down; make a new one")

    def flush(self, seconds: float) -> None:
        """Wait until receivers and callbacks of jobs have had all events so far."""
        self._receivers.flush(seconds)

    def waiting(self) -> list[PooledJob]:
        """Return the jobs of which nothing has been sent."""
        with self._lock:
            return [entry.job for entry in list(self._entries.values()) if not entry.started]

    def jobs(self) -> list[PooledJob]:
        """Return the jobs that have not ended."""
        with self._lock:
            return list(self._entries)

    def room(self) -> int:
        """Return how many jobs keep all servers busy."""
        with self._lock:
            return max(1, sum(member.server.most for member in list(self.members.values())))

    def status(self) -> PoolStatus:
        """Return what the pool does now."""
        with self._lock:
            all_of_them = self.all_members
            return PoolStatus(
                mode=self._schedule.mode,
                waiting=len(self._schedule),
                running=len(self._entries) - len(self._schedule),
                done=self._done + sum(one.done for one in all_of_them),
                failed=self._failed + sum(one.failed for one in all_of_them),
                servers=tuple(map(status_of, all_of_them)),
            )
