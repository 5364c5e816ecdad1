"""What a client knows of one job of Comfy API v2, and when it believes a bad answer.  Pure."""

from __future__ import annotations

from typing import Final

import attrs

#: Seconds, and looks, for which ``expired`` or "not found" must stand until it is believed.
STANDS: Final = 2.0
LOOKS: Final = 3
#: Seconds after its submission in which a server may not know a job yet.
GRACE: Final = 5.0
#: Refusals in a row (401, 402, 403) that end the wait.
REFUSALS: Final = 3
#: The first pause between two questions about a job, the factor by which it grows, the longest
#: pause, and the longest one of a job that is older than a minute.  A trivial job takes 5 ms.
FIRST_PAUSE: Final = 0.001
#: What each further job adds to the shortest pause.
PAUSE_BY_JOB: Final = 0.02
GROWTH: Final = 1.5
LONGEST_PAUSE: Final = 1.0
LONGEST_PAUSE_OF_OLD: Final = 2.0
OLD: Final = 60.0


@attrs.define(eq=False)
class Evidence:
    """The answers about one job so far.

    Attributes:
        began: When the client first asked about it.
        pause: The pause before the next question.
        status: The last status that a good answer gave; ``None``: there was none.
        absent_since: Since when answers say that it has expired, or is not there.
        absences: How many answers in a row say so.
        bad_since: Since when there is no usable answer.
        refusals: How many times in a row the server has refused to answer.
        answered_at: When the server last told its state.
        was_cancelled: Whether this client has told the server to cancel it.
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
        """Return the pause before the next question; ``jobs`` is the number of jobs asked about."""
        longest = LONGEST_PAUSE_OF_OLD if now - self.began > OLD else LONGEST_PAUSE
        pause, self.pause = self.pause, min(longest, self.pause * GROWTH)
        return max(pause, PAUSE_BY_JOB * (jobs - 1))

    def note_status(self, status: str) -> bool:
        """Note a good answer; return whether it is news."""
        is_news, self.status = status != self.status, status
        self.absent_since, self.absences = None, 0
        self.bad_since, self.refusals = None, 0
        return is_news

    def note_absence(self, now: float) -> bool:
        """Note that a job has expired, or was not found; return whether that is to be believed."""
        self.bad_since, self.refusals = None, 0
        self.absent_since = now if self.absent_since is None else self.absent_since
        self.absences += 1
        is_young = self.status is None and now - self.began < GRACE
        return not is_young and self.absences >= LOOKS and now - self.absent_since >= STANDS

    def note_bad_answer(self, now: float, patience: float) -> bool:
        """Note that no usable answer came; return whether patience is exhausted."""
        self.refusals = 0
        self.bad_since = now if self.bad_since is None else self.bad_since
        return now - self.bad_since >= patience

    def note_refusal(self) -> bool:
        """Note that the server refuses to tell; return whether that is to be believed."""
        self.refusals += 1
        return self.refusals >= REFUSALS
