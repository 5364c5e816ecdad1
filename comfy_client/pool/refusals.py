"""Why no server of a pool can run a workflow, in words."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import ComfyError, ServerUnreachable, WorkflowError
from .member import Member
from .needs import Need
from .schedule import Waiting

#: What is told of each server, and in all, in characters.
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
    """Return whether all have failed, for reasons that time does not mend."""
    errors = [member.error for member in members.values()]
    return all(map(_is_for_good, errors))


def _is_for_good(error: Exception | None) -> bool:
    if isinstance(error, ComfyError):
        return not error.retryable
    return isinstance(error, OSError | ValueError)  # as of the file of a certificate
