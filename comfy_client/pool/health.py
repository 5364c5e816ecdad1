"""The health of servers: some fail job after job while others are well.  Pure.

A server with a broken GPU, a full disk or lost models answers at once, and fails whatever it
gets.  It always has room, so it would get nearly all jobs.  A :class:`Health` counts failures,
and says who is *suspect*: such a server gets one job at a time, with growing rests in between,
until one succeeds.

It may be the workflow: nobody is suspect if all servers fail.  A kind of job that has failed on
all of them, and has succeeded nowhere, says nothing about any of them.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable

import attrs

#: So many kinds of jobs are remembered, each with its ends.
_KINDS = 1000
#: So many failures of a server are remembered: enough for the longest rest.
_FAILURES = 100


@attrs.define
class _Course:
    """The failures of a server since its last success."""

    kinds: list[Hashable] = attrs.field(factory=list)  #: Of the jobs that failed.
    why: str = ""  #: Why the last one failed.
    rest: float = 0.0  #: Seconds; 0: it has not had to rest.
    rests_until: float = 0.0


class Health:
    """The failures of each server; the clock is handed in.

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
        self._failed_on: dict[Hashable, set[str]] = {}  # those that have succeeded nowhere

    def record_success(self, server: str, kind: Hashable) -> bool:
        """Note that a job has succeeded; return whether its server or kind had failed before."""
        course, failed_on = self._courses.pop(server, None), self._failed_on.pop(kind, None)
        if len(self._succeeded) > _KINDS:
            self._succeeded.clear()
        self._succeeded.add(kind)
        return course is not None or failed_on is not None

    def record_failure(
        self, server: str, kind: Hashable, why: str, servers: Collection[str], now: float
    ) -> None:
        """Note that a job has failed on one of these servers, whoever is to blame."""
        course = self._courses.setdefault(server, _Course())
        course.kinds = [*course.kinds[1 - _FAILURES :], kind]
        course.why = why
        if kind not in self._succeeded:
            if len(self._failed_on) > _KINDS:
                self._failed_on.clear()
            self._failed_on.setdefault(kind, set()).add(server)
        # Jobs that it had already when its rest began say nothing new.
        if now >= course.rests_until and server in self.suspects(servers):
            course.rest = min(self._longest_rest, 2 * course.rest or self._rest)
            course.rests_until = now + course.rest

    def record_return(self, server: str) -> None:
        """Let a server that is back have a job at once, as a restart may have mended it."""
        if (course := self._courses.get(server)) is not None:
            course.rests_until = 0.0

    def forget(self, server: str) -> None:
        """Forget the failures of a server, as it has left."""
        self._courses.pop(server, None)
        for servers in self._failed_on.values():
            servers.discard(server)

    def suspects(self, servers: Collection[str]) -> frozenset[str]:
        """Return the servers that fail job after job while others of these do not."""
        failing = frozenset(one for one in servers if self._failures(one, servers) >= self._most)
        return failing if len(failing) < len(servers) else frozenset()

    def _failures(self, server: str, servers: Collection[str]) -> int:
        """Return how many jobs a server failed in a row, without those that all servers fail."""
        course = self._courses.get(server)
        kinds = course.kinds if course else ()
        return sum(not self._fails_everywhere(kind, servers) for kind in kinds)

    def _fails_everywhere(self, kind: Hashable, servers: Collection[str]) -> bool:
        return self._failed_on.get(kind, set()).issuperset(servers)

    def rests(self, server: str, now: float) -> bool:
        """Return whether a suspect server gets no job yet."""
        course = self._courses.get(server)
        return course is not None and now < course.rests_until

    def describe(self, server: str) -> str:
        """Describe the failures of a server."""
        course = self._courses.get(server, _Course())
        return f"{len(course.kinds)} jobs failed in a row: {course.why}"
