"""The answers about one job of Comfy API v2, and the rules for believing a bad one.  Pure."""

from __future__ import annotations

from typing import Final

import attrs

from ..timing import Timing

#: The number of answers in a row that must say that a job has expired or is missing.
LOOKS: Final = 3
#: The number of refusals in a row (401, 402, 403) that end the wait for a job.
REFUSALS: Final = 3
#: The factor by which the pauses between two requests about a job grow.
GROWTH: Final = 1.5


@attrs.define(eq=False)
class Evidence:
    """The answers about one job so far.

    Attributes:
        began: When the client first asked about the job.
        timing: The times of the client.
        pause: Seconds before the next request about the job.
        status: The status in the last usable answer; ``None``: no usable answer has come.
        absences: How many of the latest answers say that the job has expired or was not found.
        absent_since: When the first of these was asked for; ``None``: ``absences`` is 0.
        bad_since: Since when no request has got a usable answer; ``None``: the last one has.
        refusals: How many of the latest answers are refusals (401, 402, 403).
        answered_at: When the server last answered about the job.
        was_cancelled: Whether this client has told the server to cancel the job.
    """

    began: float
    timing: Timing = attrs.field(factory=Timing)
    pause: float = attrs.field()
    status: str | None = None
    absent_since: float | None = None
    absences: int = 0
    bad_since: float | None = None
    refusals: int = 0
    answered_at: float = float("-inf")
    was_cancelled: bool = False

    @pause.default
    def _first_pause(self) -> float:
        return self.timing.hosted_poll  # a trivial job takes 5 ms

    def next_pause(self, now: float, jobs: int) -> float:
        """Return the seconds until the next request about the job, and lengthen the next pause.

        ``jobs`` is the number of jobs that the client asks about.
        """
        timing, is_late = self.timing, now - self.began > self.timing.hosted_late
        longest = timing.hosted_poll_late if is_late else timing.hosted_poll_cap
        pause, self.pause = self.pause, min(longest, self.pause * GROWTH)
        return max(pause, timing.hosted_share * (jobs - 1))

    def note_status(self, status: str) -> bool:
        """Record the status in a usable answer; return whether it differs from the last one."""
        is_news, self.status = status != self.status, status
        self.absent_since, self.absences = None, 0
        self.bad_since, self.refusals = None, 0
        return is_news

    def note_absence(self, asked_at: float) -> bool:
        """Record that the job has expired or was not found; return whether to believe that.

        The server may have looked long before a slow answer came, so the question's time counts.
        """
        self.bad_since, self.refusals = None, 0
        self.absent_since = asked_at if self.absent_since is None else self.absent_since
        self.absences += 1
        is_new = self.status is None and asked_at - self.began < self.timing.hosted_new
        stands = asked_at - self.absent_since >= self.timing.hosted_gone
        return not is_new and self.absences >= LOOKS and stands

    def note_bad_answer(self, now: float, patience: float) -> bool:
        """Record an unusable answer; return whether there was no other for ``patience`` seconds."""
        self.refusals = 0
        self.bad_since = now if self.bad_since is None else self.bad_since
        return now - self.bad_since >= patience

    def note_refusal(self) -> bool:
        """Record a refusal (401, 402, 403); return whether there are too many in a row."""
        self.refusals += 1
        return self.refusals >= REFUSALS
