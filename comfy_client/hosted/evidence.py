"""The answers about one job of Comfy API v2, and the rules for believing a bad one.  Pure."""

from __future__ import annotations

from typing import Final

import attrs

#: For how many seconds, and how many answers in a row, a job must have expired or be missing until
#: that is believed.
STANDS: Final = 2.0
LOOKS: Final = 3
#: Seconds after the first request about a job in which the server may not know it yet.
GRACE: Final = 5.0
#: The number of refusals in a row (401, 402, 403) that end the wait for a job.
REFUSALS: Final = 3
#: The first pause between two requests about a job, the factor by which it grows, the longest
#: pause, and the longest one of a job that is older than a minute.  A trivial job takes 5 ms.
FIRST_PAUSE: Final = 0.001
#: The seconds that each further job adds to the shortest pause.
PAUSE_BY_JOB: Final = 0.02
GROWTH: Final = 1.5
LONGEST_PAUSE: Final = 1.0
LONGEST_PAUSE_OF_OLD: Final = 2.0
OLD: Final = 60.0


@attrs.define(eq=False)
class Evidence:
    """The answers about one job so far.

    Attributes:
        began: When the client first asked about the job.
        pause: Seconds before the next request about the job.
        status: The status in the last usable answer; ``None``: no usable answer has come.
        absences: How many of the latest answers say that the job has expired or was not found.
        absent_since: When the first of these answers came; ``None``: ``absences`` is 0.
        bad_since: Since when no request has got a usable answer; ``None``: the last one has.
        refusals: How many of the latest answers are refusals (401, 402, 403).
        answered_at: When the server last answered about the job.
        was_cancelled: Whether this client has told the server to cancel the job.
    """

    began: float
    pause: float = FIRST_PAUSE
    status: str | None = None
    absent_since: float | None = None
    absences: int = 0
    bad_since: float | None = None
    refusals: int = 0
    answered_at: float = float("-inf")
    was_cancelled: bool = False

    def next_pause(self, now: float, jobs: int) -> float:
        """Return the seconds until the next request about the job, and lengthen the next pause.

        ``jobs`` is the number of jobs that the client asks about.
        """
        longest = LONGEST_PAUSE_OF_OLD if now - self.began > OLD else LONGEST_PAUSE
        pause, self.pause = self.pause, min(longest, self.pause * GROWTH)
        return max(pause, PAUSE_BY_JOB * (jobs - 1))

    def note_status(self, status: str) -> bool:
        """Record the status in a usable answer; return whether it differs from the last one."""
        is_news, self.status = status != self.status, status
        self.absent_since, self.absences = None, 0
        self.bad_since, self.refusals = None, 0
        return is_news

    def note_absence(self, now: float) -> bool:
        """Record that the job has expired or was not found; return whether to believe that."""
        self.bad_since, self.refusals = None, 0
        self.absent_since = now if self.absent_since is None else self.absent_since
        self.absences += 1
        is_young = self.status is None and now - self.began < GRACE
        return not is_young and self.absences >= LOOKS and now - self.absent_since >= STANDS

    def note_bad_answer(self, now: float, patience: float) -> bool:
        """Record an unusable answer; return whether there was no other for ``patience`` seconds."""
        self.refusals = 0
        self.bad_since = now if self.bad_since is None else self.bad_since
        return now - self.bad_since >= patience

    def note_refusal(self) -> bool:
        """Record a refusal (401, 402, 403); return whether there are too many in a row."""
        self.refusals += 1
        return self.refusals >= REFUSALS
