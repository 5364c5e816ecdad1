"""Moves the jobs of a pool from server to server, until they have ended."""

from __future__ import annotations

import math
import threading
import time
import uuid
import weakref
from functools import partial
from typing import Final, Literal, cast

import attrs

from ..errors import (
    AuthenticationError,
    ClientClosed,
    ComfyError,
    JobLost,
    ServerUnreachable,
    UnexpectedResponse,
)
from ..events import EndEvent
from ..jobs import pooled
from ..jobs.callbacks import deliver
from ..jobs.job import Job, result_of, state_of, when_ended
from ..jobs.outcomes import lost
from ..jobs.pooled import PooledJob
from ..jobs.result import Result
from ..signals import Receivers
from ..transport.failures import is_away
from .aftermath import log
from .changing import Changing
from .member import Entry, Member
from .needs import Offer
from .refusals import cannot_run, is_hopeless, lacks, out_of_reach
from .schedule import Mode
from .worker import Worker

#: What becomes of a job that may have run, when nobody knows whether it did.
OnLost = Literal["raise", "retry"]

#: Seconds until servers are asked again what they have, as a job waits for one that is away.
AGAIN: Final = 10.0
#: Seconds that slow receivers have to get the last events.
_FLUSH: Final = 5.0
#: Seconds that a job may be on its way to a server before those behind it go elsewhere.
_SLOW: Final = 1.0
#: How often a job runs, if it is lost each time.
ATTEMPTS: Final = 3
#: How often a job moves on because its files could not be sent.
MOVES: Final = 5


class Dispatcher(Changing):
    """What is behind a pool: its servers, and its jobs that have not ended."""

    def __init__(
        self, mode: Mode, receivers: Receivers, *, patience: float, on_lost: OnLost
    ) -> None:
        super().__init__(mode, receivers)
        self._patience = patience
        self._on_lost = on_lost
        self._refreshed_at = -math.inf
        # Whatever users ask for is done in its thread, so that Ctrl-C leaves nothing half done.
        self._worker = Worker(self, Dispatcher.tick, Dispatcher.is_over, Dispatcher.has_lock)

    def start(self) -> None:
        """Have its servers connected, and look after them; once."""
        with self._lock:
            if not self._worker.is_started:
                self._worker.start()
                self._worker.put(Dispatcher._start_members)

    def _start_members(self) -> None:
        with self._lock:
            for member in self.members.values():
                member.start()

    # -- servers -----------------------------------------------------------------------------

    def add(self, member: Member) -> None:
        """One more server; ValueError if it is there already."""
        self._worker.ask(partial(self._add, member))

    def _add(self, member: Member) -> None:
        with self._changing():
            self.check_open()
            self._schedule.add_server(member.server)
            self.members[member.name] = member
            self._say("added", member.name)
            if self._worker.is_started:
                member.start()

    def remove(self, name: str) -> None:
        """One server less: it ends what it has; ValueError if it is not there."""
        self._worker.ask(partial(self._remove, name))

    def _remove(self, name: str) -> None:
        with self._changing():
            if name not in self.members:
                raise ValueError(f"{name} is not in the pool")
            member = self.members[name]
            self._take_back(member)
            member.server.ready = False
            member.leaving = True
            self._schedule.remove_server(name)
            self._leaving.append(self.members.pop(name))
            self._say("removed", name)
            self._give_up()

    def _dismiss(self) -> None:
        """Let go of servers that have left, once they have nothing of ours."""
        for member in [one for one in self._leaving if not one.in_flight]:
            self._leaving.remove(member)
            self._done += member.done
            self._failed += member.failed
            self._worker.put(partial(_stop, member))

    def became_ready(self, member: Member, offer: Offer | None) -> None:
        """It answers, and has this."""
        with self._changing():
            if member.leaving:
                return
            member.error = member.down_since = None
            member.has(offer)
            self.was_ready = True
            self._warned_of.clear()
            self._schedule.welcome(member.server)
            member.look()
            self._schedule.regroup()
            self._say("ready", member.name)
            self._give_up()
        member.on_status(partial(_ask_to_look, self._worker, weakref.ref(member)))

    def look(self, member: Member) -> None:
        """Its queue has changed."""
        with self._changing():
            member.look()

    def refresh(self, *, after: float = 0.0) -> None:
        """Ask all servers that are ready what they have by now; not while the lock is held.

        ``after``: unless they were asked less than so many seconds ago.
        """
        with self._lock:
            now = time.monotonic()
            if now - self._refreshed_at < after:
                return
            self._refreshed_at = now
            members = [member for member in self.members.values() if member.server.ready]
        for member in members:
            try:
                offer = member.ask_for_offer()
            except ComfyError as exc:
                log.debug("%s does not say what it has: %s", member.name, exc)
                continue
            self._worker.ask(partial(self._has, member, offer))

    def _has(self, member: Member, offer: Offer | None) -> None:
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

    def answers(self, member: Member) -> None:
        """One that was removed, and has no socket, is there."""
        with self._changing():
            member.error = member.down_since = None

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
            for member in self.all_members:
                member.look()
                if not member.is_live and (member.server.ready or member.leaving):
                    if member.server.ready:
                        words = "%s is away, and gets no jobs until it is back"
                        self._after.warn(words, member.name)
                    self._goes_down(member, None)
                elif member.is_connected and member.leaving:
                    member.down_since = None
                elif member.is_connected and member.down_since is not None:
                    member.down_since = now  # its prompts are heard of, so that none is lost
                    member.wake(again=True)
                if member.inbox and now - (member.busy_since or now) > _SLOW:
                    member.server.is_slow = True
                    self._take_back(member)
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
            event, error = lost(inner.prompt_id, why, retryable=False)
            self._is_lost(entry, error, event)
            if not entry.job.done() and entry.inner is None:
                member.unwanted.append(inner)

    # -- jobs --------------------------------------------------------------------------------

    def submit(self, entry: Entry) -> None:
        """One more job; it waits until a server is chosen.

        A Ctrl-C, or an alarm, may end this call, and a server gets the job all the same.
        """
        self._worker.ask(partial(self._submit, entry))

    def _submit(self, entry: Entry) -> None:
        with self._changing():
            self.check_open()
            able = self._schedule.able(entry.waiting)
            if not able:
                raise cannot_run(entry.waiting, self.members)
            if is_hopeless(members := {name: self.members[name] for name in sorted(able)}):
                raise out_of_reach(members, "that can run it", lacks(entry.waiting, self.members))
            if entry.callbacks:
                entry.look = deliver(self._receivers, entry.callbacks, entry.job)
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
            member.busy_since = time.monotonic()
            return entry

    def was_submitted(self, member: Member, entry: Entry, inner: Job) -> None:
        """A server has it, or may have it."""
        with self._changing():
            entry.inner = inner
            member.is_through()
        when_ended(inner, partial(_ask_to_end, self._worker, entry, inner))
        if entry.cancelled:
            member.unwanted.append(inner)
            member.wake()

    def was_not_submitted(self, member: Member, entry: Entry, error: Exception) -> None:
        """A server surely does not have it: it goes elsewhere, unless that is no help."""
        with self._changing():
            member.in_flight.pop(entry, None)
            member.server.own -= 1
            member.is_through()
            if entry.job not in self._entries:
                return
            if not entry.cancelled and self._may_move(entry, member, error):
                self._after.warn("%s goes to another server: %s", entry.job.prompt_id, error)
                entry.moves += 1
                pooled.leave(entry.job)
                self._waits_again(entry)
                self._goes_down(member, error)
                return
            member.failed += 1
            if entry.cancelled:
                self._finish(entry, *_withdrawal(entry))
            else:
                pooled.refuse(entry.job)
                self._finish(entry, error)

    def _may_move(self, entry: Entry, member: Member, error: Exception) -> bool:
        """Whether another server may do what this one does not."""
        if isinstance(error, ClientClosed) and state_of(entry.job).posted_at:
            return False  # it may have it
        is_page = isinstance(error, UnexpectedResponse) and error.status >= 300  # as of a login
        if is_page or isinstance(error, AuthenticationError | ClientClosed):
            # This one will not either when it is asked again.
            exclude = entry.waiting.exclude | {member.name}
            entry.waiting = attrs.evolve(entry.waiting, exclude=exclude)
            return bool(self._schedule.able(entry.waiting))
        return is_away(error) and (isinstance(error, ServerUnreachable) or entry.moves < MOVES)

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
            member.saw_end(state_of(inner).ended_at)
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
        self._after.warn("%s; running it again", error)
        entry.tries += 1
        pooled.leave(entry.job, str(uuid.uuid4()))
        self._waits_again(entry)

    def _finish(
        self, entry: Entry, outcome: Result | BaseException, event: EndEvent | None = None
    ) -> None:
        del self._entries[entry.job]
        self._after.end(entry.job, outcome, event)
        if not self._entries:
            self._say("idle")

    def _give_up(self) -> None:
        """As no server will come any more, what none can run has ended."""
        for waiting in list(self._schedule.waiting()) if self.closed else ():
            if not self._schedule.able(waiting):
                entry = self._entries[cast("PooledJob", waiting.key)]
                self._schedule.remove(waiting.key)
                self._failed += 1
                pooled.refuse(entry.job)
                self._finish(entry, cannot_run(waiting, self.members))

    # -- what jobs ask -------------------------------------------------------------------------

    def withdraw(self, job: PooledJob, *, if_unsent: bool = False) -> bool:
        """Do not run it, unless a server has it; ``if_unsent``: or may be about to.

        One that a server has, does at least not run again if it is lost.
        """
        return self._worker.ask(partial(self._withdraw, job, if_unsent=if_unsent))

    def _withdraw(self, job: PooledJob, *, if_unsent: bool = False) -> bool:
        with self._changing():
            entry = self._entries.get(job)
            if entry is None or (if_unsent and entry.started):
                return False
            if entry.started:
                entry.cancelled = True
                return entry.inner is None
            if not self._schedule.remove(job) and entry.member is not None:
                entry.member.inbox.remove(entry)
                entry.member.server.own -= 1
            self._failed += not if_unsent  # then it is to run by another job
            self._finish(entry, *_withdrawal(entry))
            return True

    # -- the whole -----------------------------------------------------------------------------

    def close(self) -> None:
        """Take no more jobs, and no servers."""
        self._worker.ask(self._close)

    def _close(self) -> None:
        with self._changing():
            self.take_no_more()
            self._give_up()

    def is_over(self) -> bool:
        """Whether all is done; then its servers are let go."""
        if self.closed and self.is_idle:
            self.stop()
            return True
        return False

    def stop(self) -> None:
        """Let go of all servers."""
        with self._lock:
            self.take_no_more()
            members = self.all_members
        self._worker.put(_nothing)  # the thread looks, and ends
        for member in members:
            member.stop()
        self.flush(_FLUSH)
        self._receivers.close()

    def after_fork(self) -> None:
        """In the child: servers and jobs are the parent's, unless there have been none yet."""
        self._is_parents = self._is_parents or self._worker.is_started
        self._begin()
        self._worker.reset()
        self._receivers.reset()
        for member in self.all_members:
            member.after_fork()
        if self._is_parents:
            self.take_no_more()
        for entry in self._entries.values():
            self._schedule.remove(entry.job)
            pooled.abandon(entry.job)
        self._entries.clear()


def _withdrawal(entry: Entry) -> tuple[BaseException, EndEvent]:
    event, error = pooled.withdrawal(entry.job)
    return error, event


def _nothing(_: Dispatcher) -> None:
    """Only wakes the thread."""


def _stop(member: Member, _: Dispatcher) -> None:
    """In a thread of its own: it takes a moment, and others ask for something meanwhile."""
    thread = threading.Thread(target=member.stop, name="comfy-pool-leaving", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no more threads on this machine
        member.stop()


def _ask_to_end(worker: Worker[Dispatcher], entry: Entry, inner: Job) -> None:
    worker.put(lambda dispatcher: dispatcher.ended(entry, inner))


def _ask_to_look(worker: Worker[Dispatcher], ref: weakref.ref[Member], _: object) -> None:
    member = ref()
    if member is not None:
        worker.put(lambda dispatcher: dispatcher.look(member))
