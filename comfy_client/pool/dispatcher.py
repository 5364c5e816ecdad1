"""Knows the jobs of a pool that have not ended, and moves them from server to server.

One lock guards all of it; nothing is sent, and nobody's code runs, while it is held.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, Literal, cast

from ..errors import (
    AuthenticationError,
    ClientClosed,
    ComfyError,
    JobLost,
    ServerUnreachable,
)
from ..events import EndEvent, Event
from ..jobs import pooled
from ..jobs.job import Job, result_of, when_ended
from ..jobs.outcomes import lost
from ..jobs.pooled import PooledJob
from ..jobs.result import Result
from ..signals import Receivers
from ..transport.failures import is_away
from .member import Entry, Member, status_of
from .needs import Offer
from .refusals import cannot_run
from .schedule import Assignment, Mode, Schedule
from .status import PoolEvent, PoolStatus

log: logging.Logger = logging.getLogger("comfy_client")

#: What becomes of a job that may have run, when nobody knows whether it did.
OnLost = Literal["raise", "retry"]

#: Seconds between two looks at the servers.
TICK: Final = 0.25
#: Seconds that slow receivers have to get the last events.
_FLUSH: Final = 1.0
#: How often a job runs, if it is lost each time.
ATTEMPTS: Final = 3
#: How often a job moves on because its files could not be sent.
MOVES: Final = 5

#: How a job ended, and the event of that, if nobody had one yet.
_End = tuple[Entry, Result | BaseException, EndEvent | None]


class Dispatcher:
    """What is behind a pool: its servers, and its jobs that have not ended.

    Attributes:
        members: Its servers by name, in the order in which they were added.
        closed: Whether it takes no more jobs.
        moved_at: When the last job went to a server, of the monotonic clock.
        was_ready: Whether a server has ever answered.
    """

    def __init__(
        self, mode: Mode, receivers: Receivers, *, patience: float, on_lost: OnLost
    ) -> None:
        self.members: dict[str, Member] = {}
        self.closed: bool = False
        self.moved_at: float = 0.0
        self._receivers = receivers
        self._patience = patience
        self._on_lost = on_lost
        self._leaving: list[Member] = []
        self._ends: list[_End] = []
        self._news: list[Event] = []
        self._done = self._failed = 0  # of servers that have left
        self.was_ready: bool = False
        self._schedule = Schedule(mode)
        self._entries: dict[PooledJob, Entry] = {}
        self._begin()

    def _begin(self) -> None:
        # Guards all of the above, and what members say of their servers.  Taken before the locks
        # of queues.  Re-entrant: a handler of a signal may submit, or cancel.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._todo: queue.SimpleQueue[Callable[[Dispatcher], object]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Have its servers connected, and look after them; once."""
        with self._lock:
            if self._thread is not None:
                return
            self._thread = threading.Thread(
                target=_look_after, args=(weakref.ref(self), self._todo), daemon=True
            )
            self._thread.name = "comfy-pool-dispatcher"
            self._thread.start()
            for member in self.members.values():
                member.start()

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """In here something changes; then jobs are given away, and who waits is told."""
        with self._lock:
            yield
            while (found := self._schedule.next()) is not None:
                self._assign(found)
            self._dismiss()
            ends, self._ends = self._ends, []
            news, self._news = self._news, []
            self._changed.notify_all()
        for entry, outcome, event in ends:
            pooled.end(entry.job, outcome, event)
        for each in news:
            self._receivers.publish(each)

    def _assign(self, found: Assignment) -> None:
        member = self.members[found.server.name]
        entry = self._entries[cast("PooledJob", found.job.key)]
        entry.member, entry.started = member, False
        self.moved_at = time.monotonic()
        member.inbox.append(entry)
        member.wake()

    def _say(self, name: str, server: str | None = None) -> None:
        self._news.append(PoolEvent(name=name, server=server, waiting=len(self._schedule)))

    # -- servers -----------------------------------------------------------------------------

    def add(self, member: Member) -> None:
        """One more server; ValueError if it is there already."""
        with self._changing():
            if self.closed:
                raise ClientClosed("this ComfyPool is shut down; make a new one")
            self._schedule.add_server(member.server)
            self.members[member.name] = member
            self._say("added", member.name)
            if self._thread is not None:
                member.start()

    def remove(self, name: str) -> None:
        """One server less: it ends what it has."""
        with self._changing():
            member = self.members[name]
            self._take_back(member)
            member.server.ready = False
            member.leaving = True
            self._schedule.remove_server(name)
            self._leaving.append(self.members.pop(name))
            self._say("removed", name)

    def _dismiss(self) -> None:
        """Let go of servers that have left, once they have nothing of ours."""
        for member in [one for one in self._leaving if not one.in_flight]:
            self._leaving.remove(member)
            self._done += member.done
            self._failed += member.failed
            self._todo.put(partial(_stop, member))  # not while the lock is held: it takes a moment

    def became_ready(self, member: Member, offer: Offer | None) -> None:
        """It answers, and has this."""
        with self._changing():
            if member.leaving:
                return
            member.error = member.down_since = None
            member.has(offer)
            member.server.ready = self.was_ready = True
            member.look()
            self._schedule.regroup()
            self._say("ready", member.name)
        member.on_status(partial(_ask_to_look, self._todo, weakref.ref(member)))

    def look(self, member: Member) -> None:
        """Its queue has changed."""
        with self._changing():
            member.look()

    def refresh(self) -> None:
        """Ask all servers that are ready what they have by now; not while the lock is held."""
        with self._lock:
            members = [member for member in self.members.values() if member.server.ready]
        for member in members:
            try:
                offer = member.ask_for_offer()
            except ComfyError as exc:
                log.debug("%s does not say what it has: %s", member.name, exc)
                continue
            with self._changing():
                member.has(offer)
                self._schedule.regroup()

    def became_unreachable(self, member: Member, error: Exception) -> None:
        """It does not answer."""
        with self._changing():
            self._goes_down(member, error)

    def _goes_down(self, member: Member, error: Exception | None) -> None:
        if member.server.ready or member.in_flight:
            member.down_since = member.down_since or time.monotonic()
        member.server.ready = False
        member.error = error or member.error
        self._take_back(member)
        member.wake(again=error is None)

    def _take_back(self, member: Member) -> None:
        """What it is to have, and has not got, goes elsewhere."""
        while member.inbox:
            entry = member.inbox.popleft()
            member.server.own -= 1
            self._waits_again(entry)

    def _waits_again(self, entry: Entry) -> None:
        entry.member = entry.inner = None
        entry.started = False
        self._schedule.add(entry.waiting)

    def tick(self) -> None:
        """Look at all servers."""
        now = time.monotonic()
        with self._changing():
            for member in [*self.members.values(), *self._leaving]:
                member.look()
                if not member.is_live and (member.server.ready or member.leaving):
                    if member.server.ready:
                        log.warning("%s is away, and gets no jobs until it is back", member.name)
                    self._goes_down(member, None)
                elif member.is_live and member.leaving:
                    member.down_since = None
                elif member.is_live and member.down_since is not None:
                    member.wake(again=True)
                since = member.down_since
                if since is not None and now - since > self._patience:
                    self._lose(member)

    def _lose(self, member: Member) -> None:
        """It was away for too long: its jobs may have run, or not."""
        for entry in list(member.in_flight):
            if entry.inner is None or entry.inner.done():
                continue
            inner = entry.inner
            why = (
                f"lost: {member.name} has not answered for {self._patience:g} s, and may have run "
                "it, or run it yet"
            )
            event, error = lost(inner.prompt_id, why)
            self._is_lost(entry, error, event)
            if not entry.job.done() and entry.inner is None:
                member.abandoned.append(inner)

    # -- jobs --------------------------------------------------------------------------------

    def submit(self, entry: Entry) -> None:
        """One more job; it waits until a server is chosen."""
        with self._changing():
            if self.closed:
                raise ClientClosed("this ComfyPool is shut down; make a new one")
            if not self._schedule.able(entry.waiting):
                raise cannot_run(entry.waiting, self.members)
            self._entries[entry.job] = entry
            self._schedule.add(entry.waiting)
            self._say("have_job")

    def take(self, member: Member) -> Entry | None:
        """The next job that a server is to have."""
        with self._lock:
            if not member.inbox or not member.server.ready:
                return None
            entry = member.inbox.popleft()
            entry.started = True
            member.in_flight[entry] = None
            return entry

    def was_submitted(self, member: Member, entry: Entry, inner: Job) -> None:
        """A server has it, or may have it."""
        with self._changing():
            entry.inner = inner
        if entry.cancelled:
            try:
                inner.cancel()
            except ComfyError as exc:
                log.warning("prompt %s was not cancelled, and may run: %s", inner.prompt_id, exc)
        when_ended(inner, partial(_ask_to_end, self._todo, entry, inner))

    def was_not_submitted(self, member: Member, entry: Entry, error: Exception) -> None:
        """A server surely does not have it: it goes elsewhere, unless that is no help."""
        refuses_us = isinstance(error, AuthenticationError)
        may_move = refuses_us or isinstance(error, ServerUnreachable) or entry.moves < MOVES
        with self._changing():
            member.in_flight.pop(entry, None)
            member.server.own -= 1
            if may_move and not entry.cancelled and (refuses_us or is_away(error)):
                log.warning("%s goes to another server: %s", entry.job.prompt_id, error)
                entry.moves += 1
                pooled.leave(entry.job)
                self._waits_again(entry)
                self._goes_down(member, error)
                return
            member.failed += 1
            if entry.cancelled:
                self._withdraw(entry)
            else:
                pooled.refuse(entry.job)
                self._finish(entry, error)

    def ended(self, entry: Entry, inner: Job) -> None:
        """A prompt has ended."""
        with self._changing():
            member = entry.member
            if entry.inner is not inner or member is None or entry.job not in self._entries:
                return
            outcome: Result | BaseException | None = result_of(inner)
            is_success = outcome is not None
            if outcome is None:
                outcome = inner.exception(0) or ClientClosed()
            if isinstance(outcome, JobLost):
                self._is_lost(entry, outcome)
                return
            member.done += is_success
            member.failed += not is_success
            self._leaves(entry, member)
            self._finish(entry, outcome)

    def _leaves(self, entry: Entry, member: Member) -> None:
        member.in_flight.pop(entry, None)
        member.server.own -= 1
        member.look()

    def _is_lost(self, entry: Entry, error: JobLost, event: EndEvent | None = None) -> None:
        """It may have run; whether it does so again, its user has said."""
        is_over = self._on_lost == "raise" or entry.tries >= ATTEMPTS or entry.cancelled
        if entry.member is not None:
            entry.member.failed += is_over
            self._leaves(entry, entry.member)
        if is_over:
            self._finish(entry, error, event)
            return
        log.warning("%s; running it again", error)
        entry.tries += 1
        pooled.leave(entry.job, str(uuid.uuid4()))
        self._waits_again(entry)

    def _finish(
        self, entry: Entry, outcome: Result | BaseException, event: EndEvent | None = None
    ) -> None:
        del self._entries[entry.job]
        self._ends.append((entry, outcome, event))
        if not self._entries:
            self._say("idle")
            self._todo.put(_nothing)  # the thread looks, and may end

    # -- what jobs ask -------------------------------------------------------------------------

    def position(self, job: PooledJob) -> int | None:
        """How many waiting jobs are before it, at most."""
        with self._lock:
            return self._schedule.position(job)

    def why(self, job: PooledJob) -> str:
        """What it waits for."""
        with self._lock:
            entry, before = self._entries.get(job), self._schedule.position(job)
            if entry is None or before is None:
                return "waiting: a server has been chosen"
            names = self._schedule.able(entry.waiting)
            ready = sum(self.members[name].server.ready for name in names)
            if not names:
                return "waiting: no server of the pool can run it"
            what = f"{ready} of {len(names)} servers that can run it are ready"
            return f"waiting for a server, {before} before it; {what}"

    def withdraw(self, job: PooledJob, *, if_unsent: bool = False) -> bool:
        """Do not run it, unless a server has it; ``if_unsent``: or may be about to."""
        with self._changing():
            entry = self._entries.get(job)
            if entry is None or entry.inner is not None or (if_unsent and entry.started):
                return False
            member = entry.member
            if entry.started:
                entry.cancelled = True
                return True
            if not self._schedule.remove(job) and member is not None:
                member.inbox.remove(entry)
                member.server.own -= 1
            self._withdraw(entry)
            return True

    def _withdraw(self, entry: Entry) -> None:
        event, error = pooled.withdrawal(entry.job)
        self._finish(entry, error, event)

    # -- the whole -----------------------------------------------------------------------------

    def wait(self, until: Callable[[], bool], seconds: float) -> bool:
        """Wait for a change, or for so long; whether it is so now."""
        with self._lock:
            return until() or (bool(self._changed.wait(seconds)) and until())

    @property
    def is_idle(self) -> bool:
        """Whether it has no jobs."""
        return not self._entries

    def waiting(self) -> list[PooledJob]:
        """The jobs of which nothing has been sent."""
        with self._lock:
            return [entry.job for entry in self._entries.values() if not entry.started]

    def room(self) -> int:
        """How many jobs keep all servers busy."""
        with self._lock:
            return max(1, sum(member.server.most for member in self.members.values()))

    def status(self) -> PoolStatus:
        """What it does now."""
        with self._lock:
            all_of_them = [*self.members.values(), *self._leaving]
            return PoolStatus(
                mode=self._schedule.mode,
                waiting=len(self._schedule),
                running=len(self._entries) - len(self._schedule),
                done=self._done + sum(one.done for one in all_of_them),
                failed=self._failed + sum(one.failed for one in all_of_them),
                servers=tuple(map(status_of, all_of_them)),
            )

    def stop(self) -> None:
        """Let go of all servers."""
        with self._lock:
            self.closed = True
            members = [*self.members.values(), *self._leaving]
            entries = list(self._entries.values())
            self._entries.clear()
        self._todo.put(_nothing)  # the thread looks, and ends
        for member in members:
            member.stop()
        for entry in entries:
            pooled.end(entry.job, ClientClosed("the ComfyPool was shut down"))
        self._receivers.flush(_FLUSH)
        self._receivers.close()

    def after_fork(self) -> None:
        """In the child: servers and jobs are the parent's."""
        self._begin()
        self.closed = True
        for entry in self._entries.values():
            pooled.abandon(entry.job)
        self._entries.clear()


def _nothing(_: Dispatcher) -> None:
    """Only wakes the thread."""


def _stop(member: Member, _: Dispatcher) -> None:
    member.stop()


_Todo = queue.SimpleQueue[Callable[[Dispatcher], object]]


def _ask_to_end(todo: _Todo, entry: Entry, inner: Job) -> None:
    todo.put(lambda dispatcher: dispatcher.ended(entry, inner))


def _ask_to_look(todo: _Todo, ref: weakref.ref[Member], _: object) -> None:
    member = ref()
    if member is not None:
        todo.put(lambda dispatcher: dispatcher.look(member))


def _look_after(ref: weakref.ref[Dispatcher], todo: _Todo) -> None:
    """The thread of a pool, which it holds only while there is something to do."""
    due = time.monotonic()
    while True:
        try:
            call = todo.get(timeout=max(0.0, due - time.monotonic()))
        except queue.Empty:
            call = Dispatcher.tick
            due = time.monotonic() + TICK
        dispatcher = ref()
        if dispatcher is None:
            return
        if dispatcher.closed and dispatcher.is_idle:
            dispatcher.stop()
            return
        try:
            call(dispatcher)
        except Exception:
            log.exception("the pool could not do one step")  # a defect; the next one may work
        del dispatcher
