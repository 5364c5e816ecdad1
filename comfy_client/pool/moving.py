"""The jobs of a pool: functions that admit, move and end them.

A job that certainly did not run moves to another server at no cost.  For a job that failed or may
have run, the user's options decide.  Each function changes the state, and the jobs in it, that
it is given; callers pass the time.
"""

from __future__ import annotations

import uuid
from typing import Literal, cast

import attrs

from ..errors import (
    ApiError,
    AuthenticationError,
    ClientClosed,
    JobFailed,
    JobLost,
    ServerUnreachable,
    SubmitUncertain,
    Throttled,
    UnexpectedResponse,
)
from ..events import EndEvent
from ..jobs.job import Job
from ..jobs.outcomes import deleted, lost
from ..jobs.prompt import Ending
from ..transport.failures import is_away
from .availability import (
    can_go,
    cannot_run,
    has_ended,
    is_hopeless,
    lacks,
    mark_down,
    may_have_begun,
    note_absence,
    out_of_reach,
    patience_for,
    record_failure,
    release,
    remove_member,
    requeue,
    update_suspects,
)
from .pool_state import Entry, Member, PoolState
from .pooled_job import PooledJob
from .schedule import Assignment, Waiting

#: Why a job could not be submitted: its server is away or has too much to do, refuses everything
#: that we send, or refuses this job; or else another server would not help.
_Unsent = Literal["away", "refuses all", "refuses it", "final"]

# -- jobs come and go ------------------------------------------------------------------------------


def check_can_run(state: PoolState, waiting: Waiting) -> None:
    """Raise an error unless there is a server that can run a job and has not failed for good.

    Raises:
        ComfyError: No server of the pool can run it, or all that can have failed for good.
        ValueError: The job may go to no server of the pool.
    """
    able = state.schedule.able(waiting)
    if not able:
        raise cannot_run(waiting, state.members)
    if is_hopeless(members := {name: state.members[name] for name in sorted(able)}):
        raise out_of_reach(members, "that can run it", lacks(waiting, state.members))


def admit(state: PoolState, entry: Entry) -> None:
    """Queue a job until a server is free for it."""
    able = state.schedule.able(entry.waiting)
    entry.is_on_trust = all(state.members[name].offer is None for name in able)
    state.entries[entry.job] = entry
    state.schedule.add(entry.waiting)
    state.publish("have_job")


def assign(state: PoolState, found: Assignment, now: float) -> None:
    """Put a job into the inbox of the server that gets it."""
    member = state.members[found.server.name]
    entry = state.entries[cast("PooledJob", found.job.key)]
    entry.member, entry.started = member, False
    state.moved_at = now
    member.inbox.append(entry)
    member.wake()


def withdraw(
    state: PoolState, job: PooledJob, *, if_unsent: bool, force: bool = False
) -> bool | None:
    """End a job unless a server has it; return True if it certainly will not run.

    Return None if it is being sent: it is cancelled as soon as its server has it, if it still runs.

    Args:
        state: The state of the pool.
        job: The job.
        if_unsent: Leave a job alone that is being sent, instead of cancelling it on its server.
        force: As for :meth:`Job.cancel`, if it is being sent.
    """
    entry = state.entries.get(job)
    if entry is None or (if_unsent and entry.started):
        return False
    if entry.started:
        entry.cancelled, entry.forced = True, entry.forced or force
        return None if entry.inner is None else False
    if not state.schedule.remove(job) and entry.member is not None:
        entry.member.inbox.remove(entry)
        entry.member.server.own -= 1
    state.failed += not if_unsent  # otherwise another job runs its point
    _end_withdrawn(state, entry)
    return True


def recall(state: PoolState, job: PooledJob) -> bool:
    """End a job if it was not sent, else keep it on its server; return whether it was ended."""
    entry = state.entries.get(job)
    if entry is not None:
        entry.stays = True
    return bool(withdraw(state, job, if_unsent=True))


def abandon_jobs(state: PoolState) -> None:
    """Give up all jobs in the child of a fork: they belong to the parent."""
    for entry in state.entries.values():
        state.schedule.remove(entry.job)
        entry.job.handle.abandon()
    state.entries.clear()


# -- jobs that no server runs ----------------------------------------------------------------------


def give_up_impossible(state: PoolState, *, on_trust: bool = False) -> None:
    """End waiting jobs that no server can run, if the pool is closed or ``on_trust`` is set.

    ``on_trust`` ends some in an open pool, too: jobs that were admitted when the only possible
    servers for them had not yet listed their node classes and models.
    """
    for waiting in list(state.schedule.waiting()) if state.closed or on_trust else ():
        entry = state.entries[cast("PooledJob", waiting.key)]
        is_known = entry.refusal is not None or entry.is_swept
        may_end = state.closed or (entry.is_on_trust and not is_known)
        if may_end and not state.schedule.able(waiting):
            state.schedule.remove(waiting.key)
            state.failed += 1
            entry.job.handle.refuse()
            state.finish(entry, cannot_run(waiting, state.members))


def give_up_refused(state: PoolState, now: float) -> None:
    """End waiting jobs that a server refused, if no other server that can run them may come."""
    for waiting in list(state.schedule.waiting()):
        entry = state.entries[cast("PooledJob", waiting.key)]
        if entry.refusal is not None and not can_go(state, waiting, now):
            state.schedule.remove(waiting.key)
            state.failed += 1
            _end_refused(state, entry, entry.refusal)


# -- jobs that were not submitted ------------------------------------------------------------------


def handle_unsent(
    state: PoolState, member: Member, entry: Entry, error: Exception, now: float
) -> None:
    """Move a job that its server certainly does not have, or end it if moving is no use."""
    member.in_flight.pop(entry, None)
    member.server.own -= 1
    member.clear_pending()
    if entry.job not in state.entries:
        return
    is_wanted = not (entry.cancelled or entry.stays)
    if is_wanted and _prepare_move(state, member, entry, error, now):
        words = "prompt %s moves from %s to another server: %s"
        named = entry.job.handle.state.named
        state.warn(words, entry.job.prompt_id, member.name, error, server=member.name, **named)
        if _move_on(
            state,
            entry,
            entry.job.prompt_id,
            or_back=is_away(error) or isinstance(error, Throttled),
        ):
            return
    member.failed += not entry.goes_on
    if is_wanted:
        _end_refused(state, entry, error)
    else:
        _end_withdrawn(state, entry)


def _kind_of(error: Exception, entry: Entry, most: int) -> _Unsent:
    """Classify an error that kept a job from its server; ``most``: how often it may move."""
    if isinstance(error, SubmitUncertain):
        return "final"  # the server may have it
    if isinstance(error, ClientClosed) and entry.job.handle.state.posted_at:
        return "final"  # the server may have it
    if is_away(error) or isinstance(error, Throttled):
        may_move = isinstance(error, ServerUnreachable | Throttled) or entry.moves < most
        return "away" if may_move else "final"
    if not isinstance(error, ApiError | UnexpectedResponse | ClientClosed):
        return "final"  # it is about the job itself
    is_page = isinstance(error, UnexpectedResponse) and error.status >= 300  # such as a login page
    is_for_all = is_page or isinstance(error, AuthenticationError | ClientClosed)
    return "refuses all" if is_for_all else "refuses it"


def _prepare_move(
    state: PoolState, member: Member, entry: Entry, error: Exception, now: float
) -> bool:
    """Record why a job was not submitted; return whether another server may run it."""
    kind = _kind_of(error, entry, state.policy.tries.moves)
    if kind == "away":
        entry.moves += 1
        if isinstance(error, Throttled):
            timing, wait = state.policy.timing, error.retry_after
            wait = timing.busy if wait is None else min(wait, timing.busy_cap)
            member.busy_until = now + wait
            member.retry_at = max(member.retry_at, member.busy_until)
        mark_down(state, member, error, now)
        return True
    if kind == "refuses all":
        entry.waiting = _without(entry, member)  # asking again would not help
        if not state.schedule.able(entry.waiting):
            return False
        mark_down(state, member, error, now)
        return True
    if kind == "refuses it":
        record_failure(state, member, entry, error, now)
        entry.refusal = error
        # A job that was submitted before may have run.
        return entry.found is None and _redirect(state, member, entry, now)
    return False


def _without(entry: Entry, member: Member) -> Waiting:
    """Return a job's description for the schedule, with a server excluded."""
    return attrs.evolve(entry.waiting, exclude=entry.waiting.exclude | {member.name})


def _redirect(state: PoolState, member: Member, entry: Entry, now: float) -> bool:
    """Keep a job from returning to a server if another one can run it; return whether one can."""
    if entry.is_swept:
        return entry.has_other
    waiting = _without(entry, member)
    if not can_go(state, waiting, now):
        return False
    entry.waiting = waiting
    return True


def _move_on(state: PoolState, entry: Entry, prompt_id: str, *, or_back: bool = False) -> bool:
    """Queue a job again for another server; return False if its sweep does so instead.

    With ``or_back``, the same server may run it later, so the job stays with the pool.
    """
    if entry.is_swept and not or_back:
        entry.goes_on = True
        return False
    entry.job.handle.leave(prompt_id)
    requeue(state, entry)
    return True


# -- jobs that ended -------------------------------------------------------------------------------


def handle_end(
    state: PoolState, entry: Entry, inner: Job, outcome: Ending | BaseException, now: float
) -> None:
    """Handle the end of a job's prompt on its server: end the job, or move it."""
    member = entry.member
    if entry.inner is not inner or member is None or entry.job not in state.entries:
        return
    is_success = isinstance(outcome, Ending)
    if isinstance(outcome, JobLost):
        handle_loss(state, entry, outcome, None, now)
        return
    member.ended_at.append(inner.handle.state.ended_at or now)
    release(state, member, entry, now)
    if is_success and entry.found is None and not member.leaving:
        if state.health.record_success(member.name, entry.waiting.needs):
            update_suspects(state, now)
    elif isinstance(outcome, JobFailed) and _prepare_rerun(state, member, entry, outcome, now):
        words = "prompt %s failed on %s, and runs once more on another server: %s"
        named = inner.handle.state.named
        state.warn(words, inner.prompt_id, member.name, outcome, server=member.name, **named)
        if _move_on(state, entry, str(uuid.uuid4())):
            return
    member.done += is_success
    member.failed += not (is_success or entry.goes_on)
    state.finish(entry, outcome)


def _prepare_rerun(
    state: PoolState, member: Member, entry: Entry, error: JobFailed, now: float
) -> bool:
    """Record that a job failed on a server; return whether another is to run it once more.

    Another server runs it if the user asked for that, or if the first server was suspect.
    """
    may_move = state.policy.on_failed == "move" or member.server.is_suspect
    if entry.found is None:
        record_failure(state, member, entry, error, now)
    # A sweep's next call runs the point, if this pool is shut down.
    is_left = (entry.cancelled or entry.stays) and not entry.is_swept
    if is_left or entry.failed or not may_move:
        return False
    entry.failed, entry.refusal = (error, entry.job.handle.state.end_event), error
    return _redirect(state, member, entry, now)


# -- jobs that were lost ---------------------------------------------------------------------------


def lose_jobs(state: PoolState, member: Member, now: float) -> list[Entry]:
    """Treat as lost the jobs of a server that is gone, or away for longer than they may wait.

    Return those that are still being sent.
    """
    sending: list[Entry] = []
    unwanted = []
    if member.is_gone:
        note_absence(member, member.in_flight)
    for entry in list(member.in_flight):
        inner, said = entry.inner, _why_lost(state, member, entry, now)
        if said is None or (inner is not None and inner.done()):
            continue
        if inner is None:
            sending.append(entry)
            continue
        why = f"lost: {member.name} {said}, and may have run it, or run it yet"
        event, error = lost(inner.prompt_id, why, retryable=False)
        handle_loss(state, entry, error, event, now)
        if entry.goes_on or entry.job in state.entries:
            unwanted.append(inner)
    member.unwanted.extend(unwanted)  # together, as what runs is to be cancelled last
    return sending


def _why_lost(state: PoolState, member: Member, entry: Entry, now: float) -> str | None:
    """Return why a job that a server has is given up, in words; None if it is not."""
    patience, since = patience_for(state, entry), member.down_since
    if member.is_gone:
        return "was removed as gone for good"
    if since is not None and now - since > patience:
        return f"has not answered for {patience:g} s"
    if entry.inner is not None and has_ended(state, member, now) and _only_waited(entry):
        return "refuses connections"
    return None


def lose_member(state: PoolState, name: str, now: float) -> None:
    """Remove a server that is gone for good, and lose its jobs; one that was removed before, too.

    Raises ValueError if the pool lacks it.
    """
    members = [member for member in state.leaving if member.name == name]
    if name in state.members or not members:
        members = [*members, *filter(None, [state.members.get(name)])]
        remove_member(state, name, now)
    for member in members:
        member.is_gone = True
        lose_jobs(state, member, now)
        member.wake()


def handle_loss(
    state: PoolState, entry: Entry, error: JobLost, event: EndEvent | None, now: float
) -> None:
    """Run a lost job again if it had not begun, or if the user wants that; else end it."""
    member, inner = entry.member, entry.inner
    if member is None or inner is None:
        return
    if inner.handle.was_cut_off:
        cut_off = [one for one in member.in_flight if one.inner and one.inner.handle.was_cut_off]
        note_absence(member, cut_off)
    release(state, member, entry, now)
    if entry.may_be_poison and not member.is_gone:  # its user took that one away
        entry.deaths += 1
        entry.waiting = attrs.evolve(entry.waiting, runs_alone=True)  # others do not die with it
    tries = entry.tries
    if entry.deaths >= state.policy.tries.deaths:
        why = f"lost: its server died {entry.deaths} times when it ran, or was about to"
        event, error = lost(inner.prompt_id, why, retryable=False)
    elif _prepare_retry(state, member, entry, inner, error, now):
        named = inner.handle.state.named
        if entry.tries == tries:
            words = "prompt %s had not begun on %s, and is sent again"
            state.warn(words, inner.prompt_id, member.name, server=member.name, **named)
        else:
            state.warn("%s; running it again", error, server=member.name, **named)
        if _move_on(state, entry, str(uuid.uuid4())):
            return
    member.failed += not entry.goes_on
    if (entry.cancelled or entry.stays) and _only_waited(entry):
        entry.job.handle.leave()
        _end_withdrawn(state, entry)
    elif entry.refusal is not None and inner.handle.state.attached and not may_have_begun(entry):
        _end_refused(state, entry, entry.refusal)
    else:
        state.finish(entry, error, event)


def _only_waited(entry: Entry) -> bool:
    """Return whether a lost job certainly had not begun when its server went away."""
    has_begun = entry.began or may_have_begun(entry)
    return entry.found is None and entry.was_away and not has_begun


def _prepare_retry(
    state: PoolState, member: Member, entry: Entry, inner: Job, error: JobLost, now: float
) -> bool:
    """Return whether a lost job may run again; count a try if it may have run before."""
    if entry.cancelled or entry.stays:
        return False
    if _only_waited(entry):
        return True
    is_new = entry.found is None and not (entry.began or may_have_begun(entry))
    if is_new and inner.handle.state.attached:  # no usable answer, and no such job
        record_failure(state, member, entry, entry.refusal or error, now)
        return _redirect(state, member, entry, now)
    policy = state.policy
    if entry.is_swept or policy.on_lost == "raise" or entry.tries >= policy.tries.attempts:
        return False
    entry.tries += 1
    return True


# -- ends ------------------------------------------------------------------------------------------


def _end_refused(state: PoolState, entry: Entry, error: Exception) -> None:
    """End a job that no server accepts, with ``error``, or with its failure if it has failed."""
    if entry.failed is not None:
        state.finish(entry, *entry.failed)
        return
    entry.job.handle.refuse()
    state.finish(entry, error)


def _end_withdrawn(state: PoolState, entry: Entry) -> None:
    """End a job that its user cancelled before a server had it."""
    event, error = deleted(entry.job.prompt_id)
    state.finish(entry, error, event)
