"""Detection of servers that fail job after job while other servers do not.  Pure.

A server with a broken GPU, a full disk or lost models answers immediately, and fails each job that
it gets.  It is always free, so it would get nearly all jobs.  A :class:`Health` counts failures,
and says which servers are *suspect*: they get one job at a time, with growing rests in between,
until one job succeeds.

The workflow may be to blame: no server is suspect if all fail.  A kind of job that has failed on
all of them, and has succeeded nowhere, says nothing about any of them.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable

import attrs

#: How many kinds of jobs are remembered, by their ends.
_REMEMBERED_KINDS = 1000
#: How many failures of a server are remembered: enough for the longest rest.
_REMEMBERED_FAILURES = 100


@attrs.define
class _Course:
    """The failures of a server since its last success."""

    kinds: list[Hashable] = attrs.field(factory=list)  #: Kinds of the jobs that failed.
    why: str = ""  #: Why the last one failed.
    rest: float = 0.0  #: The length of its last rest in seconds; 0: it has had none.
    rests_until: float = 0.0


class Health:
    """The failures of each server; callers pass the time.

    Args:
        failures: How many jobs in a row a server fails before it is suspect.
        rest: Its first rest, in seconds; the rest doubles with each failure.
        longest_rest: The longest rest.
    """

    def __init__(self, failures: int, *, rest: float, longest_rest: float) -> None:
        self._most = failures
        self._rest = rest
        self._longest_rest = longest_rest
        self._courses: dict[str, _Course] = {}
        self._succeeded: set[Hashable] = set()  # kinds of jobs
        self._failed_on: dict[Hashable, set[str]] = {}  # kinds that have succeeded nowhere

    def record_success(self, server: str, kind: Hashable) -> bool:
        """Note that a job has succeeded; return whether its server or kind had failed before."""
        course, failed_on = self._courses.pop(server, None), self._failed_on.pop(kind, None)
        if len(self._succeeded) > _REMEMBERED_KINDS:
            self._succeeded.clear()
        self._succeeded.add(kind)
        return course is not None or failed_on is not None

    def record_failure(
        self, server: str, kind: Hashable, why: str, servers: Collection[str], now: float
    ) -> None:
        """Note that a job has failed on ``server``, one of ``servers``; begin its rest if due."""
        course = self._courses.setdefault(server, _Course())
        course.kinds = [*course.kinds[1 - _REMEMBERED_FAILURES :], kind]
        course.why = why
        if kind not in self._succeeded:
            if len(self._failed_on) > _REMEMBERED_KINDS:
                self._failed_on.clear()
            self._failed_on.setdefault(kind, set()).add(server)
        # Jobs that the server already had when its rest began are no new evidence.
        if now >= course.rests_until and server in self.suspects(servers):
            course.rest = min(self._longest_rest, 2 * course.rest or self._rest)
            course.rests_until = now + course.rest

    def record_return(self, server: str) -> None:
        """End the rest of a server that is back, as a restart may have repaired it."""
        if (course := self._courses.get(server)) is not None:
            course.rests_until = 0.0

    def forget(self, server: str) -> None:
        """Forget the failures of a server that was removed."""
        self._courses.pop(server, None)
        for servers in self._failed_on.values():
            servers.discard(server)

    def suspects(self, servers: Collection[str]) -> frozenset[str]:
        """Return those of ``servers`` that fail job after job; none if all of them do."""
        failing = frozenset(one for one in servers if self._failures(one, servers) >= self._most)
        return failing if len(failing) < len(servers) else frozenset()

    def _failures(self, server: str, servers: Collection[str]) -> int:
        """Return how many jobs in a row failed on a server, except kinds that fail on all."""
        course = self._courses.get(server)
        kinds = course.kinds if course else ()
        return sum(not self._failed_on.get(kind, set()).issuperset(servers) for kind in kinds)

    def rests(self, server: str, now: float) -> bool:
        """Return whether a suspect server must still wait before its next job."""
        course = self._courses.get(server)
        return course is not None and now < course.rests_until

    def describe(self, server: str) -> str:
        """Describe the failures of a server."""
        course = self._courses.get(server, _Course())
        return f"{len(course.kinds)} jobs failed in a row: {course.why}"
