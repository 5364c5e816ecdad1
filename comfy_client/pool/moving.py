"""What becomes of the jobs of a pool that a server refuses, fails or loses.

What surely did not run moves on without cost.  What failed or may have run does as users wish.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Final, Literal, cast

import attrs

from .. import runtime
from ..errors import (
    ApiError,
    AuthenticationError,
    ClientClosed,
    JobFailed,
    JobLost,
    ServerUnreachable,
    UnexpectedResponse,
)
from ..events import EndEvent
from ..jobs import pooled
from ..jobs.job import Job, result_of, state_of
from ..jobs.outcomes import lost
from ..jobs.pooled import PooledJob, has_begun, was_cut_off
from ..jobs.result import Result
from ..signals import Receivers
from ..transport.failures import is_away, one_line
from ..workflow.graph import shorten
from .changing import Changing
from .health import Health
from .intervals import Intervals
from .member import Entry, Member
from .refusals import is_hopeless
from .schedule import Mode, Waiting

#: What becomes of a job that may have run, when nobody knows whether it did.
OnLost = Literal["raise", "retry"]
#: What becomes of a job that fails.
OnFailed = Literal["raise", "move"]

#: So much of an error is told of a server that is suspect, in characters.
_MOST: Final = 200


class Moving(Changing):
    """The part of a dispatcher that decides about failed jobs and suspect servers."""

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
        super().__init__(mode, receivers)
        self._patience = patience
        self._on_lost = on_lost
        self.on_failed: OnFailed = on_failed
        self._intervals = intervals
        self._health = Health(intervals)

    # -- health ------------------------------------------------------------------------------

    def _expected(self) -> list[str]:
        """Return the servers that would run jobs: ready ones, or those that were well lately.

        A server that has never answered is no reason for others to rest.
        """
        return [name for name, one in self.members.items() if self.may_come(one, if_done=True)]

    def may_come(self, member: Member, *, if_done: bool = False) -> bool:
        """Return whether a server is ready or may be soon; ``if_done``: and has run jobs before."""
        if member.server.ready or member.error is None:
            return True
        if is_hopeless({member.name: member}) or (if_done and not member.done):
            return False
        return runtime.monotonic() - (member.down_since or 0.0) <= self._patience

    def _judge(self) -> None:
        """Find out which servers are suspect."""
        expected, now = self._expected(), runtime.monotonic()
        suspects = self._health.suspects(expected)
        for name, member in self.members.items():
            server, was_suspect = member.server, member.server.is_suspect
            server.is_expected = name in expected
            server.is_suspect = name in suspects
            server.is_resting = server.is_suspect and self._health.rests(name, now)
            member.suspect = self._health.words(name) if server.is_suspect else None
            if server.is_suspect and not was_suspect:
                self._take_back(member)
                words = "%s is suspect: %s; it gets one job at a time until one succeeds"
                self._after.warn(words, name, member.suspect)
                self._say("suspect", name, member.suspect)
            elif was_suspect and not server.is_suspect:
                self._schedule.level(server)
                self._after.inform("%s is not suspect any more", name)
                self._say("well", name)

    def _has_erred(self, member: Member, entry: Entry, error: Exception) -> None:
        """Hold an error against a server, unless it was removed."""
        if member.leaving:
            return
        why = shorten(one_line(str(error) or type(error).__name__), _MOST)
        kind, now = entry.waiting.needs, runtime.monotonic()
        self._health.failed(member.name, kind, why, self._expected(), now)
        self._judge()

    # -- where a job can go ----------------------------------------------------------------

    def _waits_again(self, entry: Entry) -> None:
        entry.member = entry.inner = None
        entry.started = entry.was_away = entry.was_first = entry.began = False
        self._schedule.add(entry.waiting)

    def _take_back(self, member: Member) -> None:
        """Send elsewhere what a server was to have, and has not got."""
        while member.inbox:
            entry = member.inbox.popleft()
            member.server.own -= 1
            self._waits_again(entry)

    def _avoids(self, entry: Entry, member: Member) -> bool:
        """Have a job never go to a server again; return whether another one can take it."""
        exclude = entry.waiting.exclude | {member.name}
        waiting = attrs.evolve(entry.waiting, exclude=exclude)
        if entry.is_swept:
            return entry.has_other
        if not self._can_go(waiting):
            return False
        entry.waiting = waiting
        return True

    def _can_go(self, waiting: Waiting) -> bool:
        return any(self.may_come(self.members[name]) for name in self._schedule.able(waiting))

    def _moves_on(self, entry: Entry, prompt_id: str, *, or_back: bool = False) -> bool:
        """Have another server run a job, or the same one later; False: its sweep is to do so."""
        if entry.is_swept and not or_back:
            entry.goes_on = True
            return False
        pooled.leave(entry.job, prompt_id)
        self._waits_again(entry)
        return True

    def _give_up_moving(self) -> None:
        """End jobs that a server refused, if the others that could run them stay away."""
        for waiting in list(self._schedule.waiting()):
            entry = self._entries[cast("PooledJob", waiting.key)]
            if entry.refusal is not None and not self._can_go(waiting):
                self._schedule.remove(waiting.key)
                self._failed += 1
                self._refuse(entry, entry.refusal)

    # -- what a server says --------------------------------------------------------------------

    def was_not_submitted(self, member: Member, entry: Entry, error: Exception) -> None:
        """Send a job elsewhere that a server surely does not have, unless that is no help."""
        with self._changing():
            member.in_flight.pop(entry, None)
            member.server.own -= 1
            member.is_through()
            if entry.job not in self._entries:
                return
            if not entry.cancelled and self._may_move(entry, member, error):
                words = "prompt %s goes to another server than %s: %s"
                self._after.warn(words, entry.job.prompt_id, member.name, error)
                if self._moves_on(entry, entry.job.prompt_id, or_back=is_away(error)):
                    return
            member.failed += not entry.goes_on
            if entry.cancelled:
                self._finish(entry, *withdrawal(entry))
            else:
                self._refuse(entry, error)

    def _may_move(self, entry: Entry, member: Member, error: Exception) -> bool:
        """Return whether another server may do what this one does not."""
        if isinstance(error, ClientClosed) and state_of(entry.job).posted_at:
            return False  # it may have it
        if is_away(error):
            if not (isinstance(error, ServerUnreachable) or entry.moves < self._intervals.moves):
                return False
            entry.moves += 1
            self._goes_down(member, error)
            return True
        if not isinstance(error, ApiError | UnexpectedResponse | ClientClosed):
            return False  # it is about the job itself
        if is_refusal_of_all(error):
            # This one will not either when it is asked again.
            exclude = entry.waiting.exclude | {member.name}
            entry.waiting = attrs.evolve(entry.waiting, exclude=exclude)
            if not self._schedule.able(entry.waiting):
                return False
            self._goes_down(member, error)
            return True
        self._has_erred(member, entry, error)
        entry.refusal = error
        # One that was submitted before may have run.
        return entry.found is None and self._avoids(entry, member)

    def ended(self, entry: Entry, inner: Job) -> None:
        """Handle the end of a prompt: end its job, or move it."""
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
            self._leaves(entry, member)
            if is_success and entry.found is None and not member.leaving:
                if self._health.succeeded(member.name, entry.waiting.needs):
                    self._judge()
            elif isinstance(outcome, JobFailed) and self._moves_after(entry, member, outcome):
                words = "prompt %s failed on %s, and runs once more on another server: %s"
                self._after.warn(words, inner.prompt_id, member.name, outcome)
                if self._moves_on(entry, str(uuid.uuid4())):
                    return
            member.done += is_success
            member.failed += not (is_success or entry.goes_on)
            self._finish(entry, outcome)

    def _moves_after(self, entry: Entry, member: Member, error: JobFailed) -> bool:
        """Return whether a failed job runs once more: the user wants that, or a suspect had it."""
        was_suspect = member.server.is_suspect
        if entry.found is None:
            self._has_erred(member, entry, error)
        if entry.cancelled or entry.failed or (self.on_failed == "raise" and not was_suspect):
            return False
        entry.failed, entry.refusal = (error, state_of(entry.job).end_event), error
        return self._avoids(entry, member)

    def _leaves(self, entry: Entry, member: Member) -> None:
        member.in_flight.pop(entry, None)
        member.server.own -= 1
        member.look()

    # -- servers that are away -----------------------------------------------------------------

    def _goes_down(self, member: Member, error: Exception | None) -> None:
        member.down_since = member.down_since or runtime.monotonic()
        member.server.ready = False
        member.error = error or member.error
        self._note_absence(member, member.in_flight)
        self._take_back(member)
        self._judge()
        member.wake(again=error is None)

    def _note_absence(self, member: Member, entries: Iterable[Entry]) -> None:
        """Note which of its jobs a server may have begun before it went away.

        It is the one that ran, as far as was heard.  If none did, the first one may have begun,
        but for prompts of others.
        """
        there = [one for one in entries if not one.was_away and _is_open(one)]
        if not there or any(one.was_first for one in member.in_flight):
            return
        first = next(filter(_has_begun, there), there[0])
        first.was_first = True
        first.began = _has_begun(first) or member.server.others == 0
        for entry in there:
            entry.was_away = True

    def _lose(self, member: Member) -> None:
        """Lose the jobs of a server that was away for too long: they may have run, or not."""
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
            if entry.goes_on or entry.job in self._entries:
                member.unwanted.append(inner)

    def _is_lost(self, entry: Entry, error: JobLost, event: EndEvent | None = None) -> None:
        """End a job that may have run, or run it again; one that only waited moves on."""
        member, inner = entry.member, entry.inner
        if member is None or inner is None:
            return
        if was_cut_off(inner):
            cut_off = [one for one in member.in_flight if one.inner and was_cut_off(one.inner)]
            self._note_absence(member, cut_off)
        self._leaves(entry, member)
        if entry.was_first:
            entry.died |= {member.name}
        tries = entry.tries
        if len(entry.died) > 1:
            event, error = lost(inner.prompt_id, "lost: two servers died while they ran it")
        elif not entry.cancelled and self._may_run_again(entry, member, inner, error):
            if entry.tries == tries:
                words = "prompt %s had not begun on %s, and is sent again"
                self._after.warn(words, inner.prompt_id, member.name)
            else:
                self._after.warn("%s; running it again", error)
            if self._moves_on(entry, str(uuid.uuid4())):
                return
        member.failed += not entry.goes_on
        if entry.refusal is not None and state_of(inner).attached and not _has_begun(entry):
            self._refuse(entry, entry.refusal)
        else:
            self._finish(entry, error, event)

    def _may_run_again(self, entry: Entry, member: Member, inner: Job, error: JobLost) -> bool:
        """Return whether a lost job may run again: if it never began, or as its user has said."""
        if entry.found is None and not (entry.began or _has_begun(entry)):
            if entry.was_away:
                return True
            if state_of(inner).attached:  # its answer was no answer, and it does not have it
                self._has_erred(member, entry, entry.refusal or error)
                return self._avoids(entry, member)
        if entry.is_swept or self._on_lost == "raise" or entry.tries >= self._intervals.attempts:
            return False
        entry.tries += 1
        return True

    # -- ends ----------------------------------------------------------------------------------

    def _refuse(self, entry: Entry, error: Exception) -> None:
        """End a job that no server takes: in the failure of the one that has run it, if any."""
        if entry.failed is not None:
            self._finish(entry, *entry.failed)
            return
        pooled.refuse(entry.job)
        self._finish(entry, error)

    def _finish(
        self, entry: Entry, outcome: Result | BaseException, event: EndEvent | None = None
    ) -> None:
        del self._entries[entry.job]
        self._after.end(entry.job, outcome, event)
        if not self._entries:
            self._say("idle")


def withdrawal(entry: Entry) -> tuple[BaseException, EndEvent]:
    """Return the end of a job that its user cancelled before a server had it."""
    event, error = pooled.withdrawal(entry.job)
    return error, event


def is_refusal_of_all(error: Exception) -> bool:
    """Return whether a server takes nothing of us: a login page, a closed client."""
    is_page = isinstance(error, UnexpectedResponse) and error.status >= 300
    return is_page or isinstance(error, AuthenticationError | ClientClosed)


def _has_begun(entry: Entry) -> bool:
    """Return whether a job has begun, as far as was heard; without a socket it may have."""
    if entry.inner is None:
        return False
    has_socket = state_of(entry.inner).generation is not None
    return has_begun(entry.inner) or (entry.was_first and not has_socket)


def _is_open(entry: Entry) -> bool:
    """Return whether a server has a job, is about to get it, or has lost it."""
    inner = entry.inner
    return inner is None or not inner.done() or isinstance(inner.exception(0), JobLost)
