"""Moves the jobs of a pool from server to server, until they have ended."""

from __future__ import annotations

import weakref
from functools import partial
from typing import cast

from .. import runtime
from ..errors import ComfyError, PromptRejected
from ..jobs import pooled
from ..jobs.callbacks import deliver
from ..jobs.job import Job, when_ended
from ..jobs.pooled import PooledJob
from ..signals import Receivers
from ..transport.deadline import LONGEST, Deadline, limited_silence
from .aftermath import log
from .intervals import Intervals
from .member import Entry, Member
from .moving import Moving, OnFailed, OnLost, withdrawal
from .needs import Offer
from .refusals import cannot_run, is_hopeless, lacks, out_of_reach
from .schedule import Mode
from .worker import Worker


class Dispatcher(Moving):
    """The servers of a pool, and its jobs that have not ended."""

    def __init__(
        self,
        mode: Mode,
        receivers: Receivers,
        *,
        patience: float,
        on_lost: OnLost,
        on_failed: OnFailed,
        intervals: Intervals,
    ) -> None:
        super().__init__(
            mode,
            receivers,
            patience=patience,
            on_lost=on_lost,
            on_failed=on_failed,
            intervals=intervals,
        )
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
        """Add a server; raise ValueError if it is there already."""
        self._worker.ask(partial(self._add, member))

    def _add(self, member: Member) -> None:
        with self._changing():
            self.check_open()
            self._schedule.add_server(member.server)
            self.members[member.name] = member
            self._judge()
            self._say("added", member.name)
            if self._worker.is_started:
                member.start()

    def remove(self, name: str) -> None:
        """Remove a server, which still ends its jobs; raise ValueError if it is not there."""
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
            self._health.forget(name)
            member.suspect = None
            self._judge()
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
        """Note that a server answers, and what it has."""
        with self._changing():
            if member.leaving:
                return
            member.error = member.down_since = None
            member.was_ready = True
            self._health.returned(member.name)
            member.has(offer)
            self.was_ready = True
            self._warned_of.clear()
            self._schedule.welcome(member.server)
            self._judge()
            member.look()
            self._schedule.regroup()
            self._say("ready", member.name)
            self._give_up(on_trust=True)
        member.on_status(partial(_ask_to_look, self._worker, weakref.ref(member)))

    def look(self, member: Member) -> None:
        """Look at a server's queue, which has changed."""
        with self._changing():
            member.look()

    def refresh(self, most: float) -> None:
        """Ask all servers that are ready what they have by now; not while the lock is held.

        All are asked at once, but for those that were asked a moment ago.  Of those that do not
        answer within ``most`` seconds, the last definitions count.
        """
        deadline = Deadline.after(min(most, self._intervals.definitions))
        members = [one for one in list(self.members.values()) if one.server.ready]
        threads = [
            runtime.Thread(target=self._ask, args=(one,), name="comfy-pool-asking", daemon=True)
            for one in members
            if self._may_ask(one)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(deadline.left(LONGEST))

    def ask_again(self, member: Member) -> None:
        """Ask a server what it has by now, unless it was asked a moment ago."""
        if self._may_ask(member):
            self._ask(member)

    def _may_ask(self, member: Member) -> bool:
        now = runtime.monotonic()
        with self._lock:
            if now - member.asked_at < self._intervals.ask_again:
                return False
            member.asked_at = now
        return True

    def _ask(self, member: Member) -> None:
        try:
            with limited_silence(self._intervals.definitions):
                offer = member.ask_for_offer()
        except ComfyError as exc:
            log.debug("%s does not say what it has: %s", member.name, exc)
        else:
            self._worker.ask(partial(self._has, member, offer))

    def _has(self, member: Member, offer: Offer | None) -> None:
        with self._changing():
            member.has(offer)
            self._schedule.regroup()

    def became_unreachable(self, member: Member, error: Exception) -> None:
        """Note that a server does not answer."""
        with self._changing():
            if not (member.was_ready or member.error or member.leaving):
                words = "%s does not answer, and gets no jobs until it does: %s"
                self._after.warn(words, member.name, error)
            self._goes_down(member, error)

    def answers(self, member: Member) -> None:
        """Note that a server that was removed, and has no socket, answers."""
        with self._changing():
            member.error = member.down_since = None

    def tick(self) -> None:
        """Look at all servers."""
        now = runtime.monotonic()
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
                if member.inbox and now - (member.busy_since or now) > self._intervals.slow:
                    member.server.is_slow = True
                    self._take_back(member)
                since = member.down_since
                if since is not None and now - since > self._patience:
                    self._lose(member)
            self._judge()
            self._give_up_moving()

    # -- jobs --------------------------------------------------------------------------------

    def submit(self, entry: Entry) -> None:
        """Add a job, which waits until a server is chosen.

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
            entry.is_on_trust = all(self.members[name].offer is None for name in able)
            self._entries[entry.job] = entry
            self._schedule.add(entry.waiting)
            self._say("have_job")

    def take(self, member: Member) -> Entry | None:
        """Return the next job for a server, if any."""
        with self._lock:
            if not member.inbox:
                return None
            entry = member.inbox.popleft()
            entry.started = True
            member.in_flight[entry] = None
            member.busy_since = runtime.monotonic()
            return entry

    def was_not_submitted(self, member: Member, entry: Entry, error: Exception) -> None:
        """Send a job elsewhere; first ask a server again what it has that rejected it."""
        if isinstance(error, PromptRejected):
            self.ask_again(member)
        super().was_not_submitted(member, entry, error)

    def was_submitted(self, member: Member, entry: Entry, inner: Job) -> None:
        """Note that a server has a job, or may have it."""
        with self._changing():
            entry.inner = inner
            member.is_through()
        when_ended(inner, partial(_ask_to_end, self._worker, entry, inner))
        if entry.cancelled:
            member.unwanted.append(inner)
            member.wake()

    def _give_up(self, *, on_trust: bool = False) -> None:
        """End jobs that no server can run, if none will come any more.

        ``on_trust``: also those that only a server that had not said what it has seemed able to
        run; it has now.
        """
        for waiting in list(self._schedule.waiting()) if self.closed or on_trust else ():
            entry = self._entries[cast("PooledJob", waiting.key)]
            is_known = entry.refusal is not None or entry.is_swept
            may_end = self.closed or (entry.is_on_trust and not is_known)
            if may_end and not self._schedule.able(waiting):
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
            self._finish(entry, *withdrawal(entry))
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
        """Return whether all is done; then its servers are let go."""
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
        for source in list(self.sources):
            source.close()
        for member in members:
            member.stop()
        self.flush(self._intervals.flush)
        self._receivers.close()

    def after_fork(self) -> None:
        """Begin anew in the child of a fork: servers and jobs, if any, are the parent's."""
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


def _nothing(_: Dispatcher) -> None:
    """Do nothing but wake the thread."""


def _stop(member: Member, _: Dispatcher) -> None:
    """Stop a member in another thread: it takes a while, in which this one has other work."""
    thread = runtime.Thread(target=member.stop, name="comfy-pool-leaving", daemon=True)
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
