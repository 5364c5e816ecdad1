"""Words for users: the reasons why a job waits, or why no server can run it."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import ComfyError, ServerUnreachable, WorkflowError
from .needs import Need
from .pooled_job import PooledJob
from .schedule import Waiting
from .state import Entry, Member, PoolState

#: So many needs are told of each server, and so many characters in all.
_MOST_NEEDS = 3
_MOST_TEXT = 2000


def cannot_run(waiting: Waiting, members: Mapping[str, Member]) -> ComfyError | ValueError:
    """Return the error for a job that no server of the pool can run."""
    if not members:
        return ServerUnreachable("the pool has no servers: add one")
    if not any(map(waiting.may_go_to, members)):
        return ValueError("include and exclude leave no server of the pool")
    words = lacks(waiting, members)
    return WorkflowError(f"no server of the pool can run this workflow: {words}")


def lacks(waiting: Waiting, members: Mapping[str, Member]) -> str:
    """Describe what a job needs and the servers to which it may go lack."""
    found = (
        (member.name, member.offer.missing(waiting.needs))
        for name, member in members.items()
        if waiting.may_go_to(name) and member.offer is not None
    )
    words = (f"{name} lacks {_listed(needs)}" for name, needs in found if needs)
    return "; ".join(words)[:_MOST_TEXT]


def _listed(needs: list[Need]) -> str:
    shown = ", ".join(map(str, needs[:_MOST_NEEDS]))
    more = len(needs) - _MOST_NEEDS
    return f"{shown} and {more} more" if more > 0 else shown


def out_of_reach(
    members: Mapping[str, Member], which: str = "of the pool", others: str = ""
) -> ServerUnreachable:
    """Return the error if no server answers; ``others`` tells why no other server can run it."""
    if not members:
        return ServerUnreachable("the pool has no servers: add one")
    said = "; ".join(str(member.error or f"{name}: no answer") for name, member in members.items())
    words = f"{said[:_MOST_TEXT]}; {others}" if others else said[:_MOST_TEXT]
    return ServerUnreachable(f"no server {which} answers: {words}")


def is_hopeless(members: Mapping[str, Member]) -> bool:
    """Return whether all servers have failed for reasons that time does not mend."""
    errors = [member.error for member in members.values()]
    return all(map(_is_for_good, errors))


def _is_for_good(error: Exception | None) -> bool:
    if isinstance(error, ComfyError):
        return not error.retryable
    return isinstance(error, OSError | ValueError)  # as of the file of a certificate


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
        others = lacks(entry.waiting, state.members)  # it may be that names are misspelt
        words += f"; {others}" if others else ""
    return f"waiting for a server, {before} before it; {words}"


def waits_for_away(state: PoolState, entry: Entry) -> bool:
    """Return whether all servers that can run a waiting job have failed to answer."""
    if entry.member is not None:
        return False
    able = map(state.members.__getitem__, state.schedule.able(entry.waiting))
    return all(one.error is not None and not one.server.ready for one in able)


def awaited_servers(state: PoolState) -> frozenset[str]:
    """Return the servers that all jobs wait for, if none of them is ready."""
    if len(state.schedule) < len(state.entries):
        return frozenset()
    able = frozenset().union(*map(state.schedule.able, list(state.schedule.waiting())))
    return frozenset() if any(state.members[name].server.ready for name in able) else able
