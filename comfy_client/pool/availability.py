"""The servers of a pool: their coming and going, their health, and the jobs that they have.

Each function only reads, describes or changes the state that it is given.  Callers pass the time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

from ..errors import ComfyError, ServerUnreachable, WorkflowError
from ..transport.failures import one_line
from ..transport.websocket import State
from ..workflow.graph import shorten
from .needs import Need, Offer
from .pool_state import Entry, Member, PoolState
from .pooled_job import PooledJob
from .schedule import Waiting

#: How many characters of its last error are shown for a suspect server.
_SHOWN_ERROR: Final = 200
#: How many unmet needs of each server a message lists, and how many characters of all servers.
_SHOWN_NEEDS: Final = 3
_SHOWN_SERVERS: Final = 2000
#: States in which a client gets news from its server.
_LIVE: Final = frozenset({State.CONNECTED, State.POLLING})

# -- questions -------------------------------------------------------------------------------------


def is_live(member: Member) -> bool:
    """Return whether a server's client is connected or polling, and so gets news of prompts."""
    return member.api.state in _LIVE


def is_hopeless(members: Mapping[str, Member]) -> bool:
    """Return whether all these servers have failed for good, so that a retry is pointless."""
    return all(map(_is_for_good, [member.error for member in members.values()]))


def _is_for_good(error: Exception | None) -> bool:
    if isinstance(error, ComfyError):
        return not error.retryable
    return isinstance(error, OSError | ValueError)  # such as a missing certificate file


def may_come(state: PoolState, member: Member, now: float, *, if_done: bool = False) -> bool:
    """Return whether a server is ready or may be soon.

    With ``if_done``, a server that is down counts only if it has run jobs before.
    """
    if member.server.ready or member.error is None:
        return True
    if is_hopeless({member.name: member}) or (if_done and not member.done):
        return False
    return now - (member.down_since or 0.0) <= state.policy.patience


def can_go(state: PoolState, waiting: Waiting, now: float) -> bool:
    """Return whether a server that can run a job is ready or may be soon."""
    able = (state.members[name] for name in state.schedule.able(waiting))
    return any(may_come(state, member, now) for member in able)


def may_have_begun(entry: Entry) -> bool:
    """Return whether a job may have begun on its server.

    It may if its start was reported, or if it was first in the queue when the server went away, and
    no socket could report its start.
    """
    if entry.inner is None:
        return False
    has_socket = entry.inner.handle.state.generation is not None
    return entry.inner.handle.has_begun or (entry.was_first and not has_socket)


def servers_for(state: PoolState, entry: Entry) -> list[Member]:
    """Return the servers that can run a job, ready or not, and the one that was chosen for it.

    A job of a sweep is bound to one server, but the sweep may submit it again to others.
    """
    names = state.schedule.able(entry.waiting)
    needs = entry.waiting.needs
    found = [
        member
        for name, member in state.members.items()
        if name in names or (entry.has_other and member.server.has(needs))
    ]
    return found if entry.member is None or entry.member in found else [*found, entry.member]


def waits_for_away(state: PoolState, entry: Entry) -> bool:
    """Return whether a job is waiting, and all servers that can run it are out of reach."""
    if entry.member is not None:
        return False
    able = map(state.members.__getitem__, state.schedule.able(entry.waiting))
    return all(one.error is not None and not one.server.ready for one in able)


def awaited_servers(state: PoolState) -> frozenset[str]:
    """Return the servers for which all jobs wait; empty if a job runs or one of them is ready."""
    if len(state.schedule) < len(state.entries):
        return frozenset()
    able = frozenset().union(*map(state.schedule.able, list(state.schedule.waiting())))
    return frozenset() if any(state.members[name].server.ready for name in able) else able


def _expected(state: PoolState, now: float) -> list[str]:
    """Return the names of the servers that are ready or are expected to be ready soon.

    A server that has never answered is not a reason for other servers to rest.
    """
    return [name for name, one in state.members.items() if may_come(state, one, now, if_done=True)]


def _is_open(entry: Entry) -> bool:
    """Return whether a server has a job, is about to get it, or has lost it."""
    inner = entry.inner
    return inner is None or not inner.done() or inner.handle.status == "lost"


def patience_for(state: PoolState, entry: Entry) -> float:
    """Return for how many seconds the server of a job may be away before the job is given up."""
    policy = state.policy
    is_wanted = not (state.closed and (entry.stays or entry.cancelled))
    return policy.patience if is_wanted else min(policy.patience, policy.timing.leaving)


def is_in_doubt(state: PoolState, member: Member, now: float) -> bool:
    """Return whether to ask a server over HTTP if it is there, as its open socket is silent.

    It is asked if its silence has lasted as long as the pool waits for its jobs.  A well server
    answers a ping in the meantime.
    """
    if not member.in_flight or member.is_asked or member.is_silent:
        return False
    busy_for = math.inf
    if member.api.state is not State.CONNECTED:
        if not is_live(member) or member.busy_since is None:
            return False  # its own thread asks it
        busy_for = now - member.busy_since
    patience = min(patience_for(state, entry) for entry in member.in_flight)
    silence = min(member.quiet_for, now - member.answered_at, busy_for)
    return silence >= max(patience, member.api.timing.silence)


def waits_in_vain(state: PoolState, now: float) -> tuple[Member, Entry, float] | None:
    """Return a server that seems not to answer, a job that it has, and the seconds of silence."""
    for member in state.all_members:
        timing, since = member.api.timing, min(member.heard_at, member.down_since or now)
        is_late = member.is_asked or now - since > timing.ping + timing.question
        if member.in_flight and (is_late or member.down_since is not None):
            return member, next(iter(member.in_flight)), now - since
    return None


def has_ended(state: PoolState, member: Member, now: float) -> bool:
    """Return whether a server's process has ended, so that its queue, in memory, is gone."""
    since = member.refused_since
    return since is not None and now - since > state.policy.timing.refused


# -- words for users -------------------------------------------------------------------------------


def cannot_run(waiting: Waiting, members: Mapping[str, Member]) -> ComfyError | ValueError:
    """Return the error for a job that no server of the pool can run."""
    if not members:
        return ServerUnreachable("the pool has no servers: add one")
    if not any(map(waiting.may_go_to, members)):
        return ValueError("include and exclude leave no server of the pool")
    return WorkflowError(f"no server of the pool can run this workflow: {lacks(waiting, members)}")


def lacks(waiting: Waiting, members: Mapping[str, Member]) -> str:
    """Describe a job's unmet needs on each server to which it may go."""
    found = (
        (member.name, member.offer.missing(waiting.needs))
        for name, member in members.items()
        if waiting.may_go_to(name) and member.offer is not None
    )
    words = (f"{name} lacks {_listed(needs)}" for name, needs in found if needs)
    return "; ".join(words)[:_SHOWN_SERVERS]


def _listed(needs: list[Need]) -> str:
    shown = ", ".join(map(str, needs[:_SHOWN_NEEDS]))
    more = len(needs) - _SHOWN_NEEDS
    return f"{shown} and {more} more" if more > 0 else shown


def out_of_reach(
    members: Mapping[str, Member], which: str = "of the pool", others: str = ""
) -> ServerUnreachable:
    """Return the error for servers that do not answer; ``others`` says what other servers lack."""
    if not members:
        return ServerUnreachable("the pool has no servers: add one")
    said = "; ".join(str(member.error or f"{name}: no answer") for name, member in members.items())
    words = f"{said[:_SHOWN_SERVERS]}; {others}" if others else said[:_SHOWN_SERVERS]
    return ServerUnreachable(f"no server {which} answers: {words}")


def explain_wait(state: PoolState, job: PooledJob) -> str:
    """Describe in one sentence what a job waits for."""
    entry, before = state.entries.get(job), state.schedule.position(job)
    if entry is None or before is None:
        return "waiting: a server has been chosen"
    names = state.schedule.able(entry.waiting)
    ready = sum(state.members[name].server.ready for name in names)
    if not names:
        return "waiting: no server of the pool can run it"
    words = f"{ready} of {len(names)} servers that can run it are ready"
    if not ready:
        words = f"no server that can run it is ready: {', '.join(sorted(names)):.200}"
        others = lacks(entry.waiting, state.members)  # names may be misspelt
        words += f"; {others}" if others else ""
    elif entry.waiting.runs_alone:
        words += "; it runs alone, as its server died with it"
    return f"waiting for a server, {before} before it; {words}"


# -- servers come and go ---------------------------------------------------------------------------


def add_member(state: PoolState, member: Member, now: float) -> None:
    """Add a server; raise ValueError if the pool has it already."""
    state.schedule.add_server(member.server)
    state.members[member.name] = member
    update_suspects(state, now)
    state.publish("added", member.name)


def remove_member(state: PoolState, name: str, now: float) -> None:
    """Remove a server, which still finishes its jobs; raise ValueError if the pool lacks it."""
    if name not in state.members:
        raise ValueError(f"{name} is not in the pool")
    member = state.members[name]
    take_back(state, member)
    member.server.ready = False
    member.leaving = True
    state.schedule.remove_server(name)
    state.leaving.append(state.members.pop(name))
    state.health.forget(name)
    member.suspect = None
    update_suspects(state, now)
    state.publish("removed", name)


def dismiss_members(state: PoolState) -> list[Member]:
    """Remove and return the servers that are leaving and have no more jobs.

    One that is gone, and answers all the same, stays until its prompts are cancelled.
    """
    left = [
        member
        for member in state.leaving
        if not member.in_flight
        and not (member.is_gone and member.unwanted and member.api.state is State.CONNECTED)
    ]
    for member in left:
        state.leaving.remove(member)
        state.done += member.done
        state.failed += member.failed
    return left


def mark_ready(state: PoolState, member: Member, offer: Offer | None, now: float) -> None:
    """Have a server that answers take jobs; ``offer`` is None if its classes are unknown."""
    member.error = member.down_since = member.refused_since = None
    member.is_silent, member.heard_at = False, now
    member.was_ready = state.was_ready = True
    state.health.record_return(member.name)
    member.set_offer(offer)
    state.warned_of.clear()
    state.schedule.welcome(member.server)
    update_suspects(state, now)
    count_others(state, member, now)
    state.schedule.regroup()
    state.publish("ready", member.name)


def set_offer(state: PoolState, member: Member, offer: Offer | None) -> None:
    """Set the node classes and models of a server; None if they are unknown."""
    member.set_offer(offer)
    state.schedule.regroup()


def mark_down(state: PoolState, member: Member, error: Exception | None, now: float) -> None:
    """Take back the jobs not yet sent to a server that does not answer, and reconnect.

    ``error`` is None if its client lost the connection.
    """
    member.down_since = member.down_since or now
    member.server.ready = False
    member.error = error or member.error
    if error is not None:
        is_refused = isinstance(error, ServerUnreachable) and error.refused
        member.refused_since = (member.refused_since or now) if is_refused else None
    note_absence(member, member.in_flight)
    take_back(state, member)
    update_suspects(state, now)
    if error is None:
        reconnect_soon(state, member, now)
    else:
        member.wake()


def mark_silent(state: PoolState, member: Member, error: Exception, now: float) -> bool:
    """Note that a silent server has not answered over HTTP, either; return False if it is heard."""
    if member.quiet_for < member.api.timing.question:
        return False
    member.is_silent = True
    words, name = "%s is away: it has sent nothing for %.0f s, and does not answer", member.name
    state.warn(words, name, now - member.heard_at, server=name)
    mark_down(state, member, error, now)
    member.down_since = min(member.down_since or now, member.heard_at)
    return True


def reconnect_soon(state: PoolState, member: Member, now: float) -> None:
    """Schedule a check of whether a server is back."""
    soon = max(now + state.policy.timing.reconnect, member.busy_until)
    member.retry_at = min(member.retry_at, soon)
    member.wake()


def check_member(state: PoolState, member: Member, now: float) -> None:
    """Check a server's connection, queue and speed; requeue unsent jobs if it is away or slow."""
    count_others(state, member, now)
    _note_news(member, now)
    if not is_live(member) and (member.server.ready or member.leaving):
        if member.server.ready:
            words, name = "%s is away, and gets no jobs until it is back", member.name
            has_warned = any(map(_is_open, member.in_flight))  # its client has, of its prompts
            tell = state.inform if has_warned else state.warn
            tell(words, name, server=name)
        mark_down(state, member, None, now)
        if now - member.heard_at >= member.api.timing.dead:  # the socket was given up for that
            member.down_since = member.heard_at
    elif member.api.state is State.CONNECTED and not member.is_silent:  # a socket's end is noticed
        member.refused_since = None
        if member.leaving:
            member.down_since = None
        elif member.down_since is not None:
            member.down_since = now  # while it reports on its prompts, none is lost
            reconnect_soon(state, member, now)
    if member.inbox and now - (member.busy_since or now) > state.policy.timing.slow:
        member.server.is_slow = True
        take_back(state, member)


def _note_news(member: Member, now: float) -> None:
    """Note when a server was last heard of: by its socket, or because it is polled."""
    if not is_live(member):
        return
    if member.api.state is not State.CONNECTED and member.is_silent:
        return  # it is asked again before its client polls it
    quiet_for = member.quiet_for if member.api.state is State.CONNECTED else 0.0
    if quiet_for < math.inf:  # or its socket has just ended
        member.heard_at = now - quiet_for
    if quiet_for < member.api.timing.silence:
        member.is_silent = False


def count_others(state: PoolState, member: Member, now: float) -> None:
    """Count other clients' prompts in a server's queue.

    The server's last count may include prompts of this pool that are on their way or just ended.
    Within that uncertainty, the number stays as it was.
    """
    monitor = member.api.parts.poller.tracker.monitor
    length, said_at = monitor.remaining or 0, monitor.status_at
    since = max(said_at, now - state.policy.timing.settling)
    member.ended_at = [at for at in member.ended_at if at > since]
    ours = sum(one.inner is not None and not one.inner.done() for one in member.in_flight)
    unsure = len(member.in_flight) - ours + len(member.ended_at)
    most = max(0, length - ours)
    member.server.others = min(max(member.server.others, most - unsure), most)


# -- health ----------------------------------------------------------------------------------------


def update_suspects(state: PoolState, now: float) -> None:
    """Update which servers are suspect, and publish the changes."""
    expected = _expected(state, now)
    suspects = state.health.suspects(expected)
    for name, member in state.members.items():
        server, was_suspect = member.server, member.server.is_suspect
        server.is_expected = name in expected
        server.is_suspect = name in suspects
        server.is_resting = server.is_suspect and state.health.rests(name, now)
        member.suspect = state.health.describe(name) if server.is_suspect else None
        if server.is_suspect and not was_suspect:
            take_back(state, member)
            words = "%s is suspect: %s; it gets one job at a time until one succeeds"
            state.warn(words, name, member.suspect, server=name)
            state.publish("suspect", name, member.suspect)
        elif was_suspect and not server.is_suspect:
            state.schedule.level(server)
            state.inform("%s is not suspect any more", name, server=name)
            state.publish("well", name)


def record_failure(
    state: PoolState, member: Member, entry: Entry, error: Exception, now: float
) -> None:
    """Record that a job failed on a server, unless the server was removed from the pool."""
    if member.leaving:
        return
    why = shorten(one_line(str(error) or type(error).__name__), _SHOWN_ERROR)
    state.health.record_failure(member.name, entry.waiting.needs, why, _expected(state, now), now)
    update_suspects(state, now)


# -- the jobs of a server --------------------------------------------------------------------------


def take_back(state: PoolState, member: Member) -> None:
    """Requeue the jobs that were assigned to a server and have not been sent."""
    while member.inbox:
        entry = member.inbox.popleft()
        member.server.own -= 1
        requeue(state, entry)


def requeue(state: PoolState, entry: Entry) -> None:
    """Make a job wait for a server again."""
    entry.member = entry.inner = None
    entry.started = entry.was_away = entry.was_first = entry.began = entry.may_be_poison = False
    state.schedule.add(entry.waiting)


def release(state: PoolState, member: Member, entry: Entry, now: float) -> None:
    """Remove a job from those that a server has, and update the counts of the server."""
    member.in_flight.pop(entry, None)
    member.server.own -= 1
    count_others(state, member, now)


def note_absence(member: Member, entries: Iterable[Entry]) -> None:
    """Note which of these jobs a server may have begun before it went away.

    A job whose start was reported has begun.  If there is none, the first may have begun, unless
    other clients' prompts were before it.
    """
    there = [one for one in entries if not one.was_away and _is_open(one)]
    if not there or any(one.was_first for one in member.in_flight):
        return
    first = next(filter(may_have_begun, there), there[0])
    first.was_first = True
    first.began = may_have_begun(first) or member.server.others == 0
    for entry in there:
        entry.was_away = True
    for entry in [one for one in member.in_flight if _is_open(one)][:2]:
        entry.may_be_poison = True
