"""The prompts of one call that are under way: the next one to end, or to take too long."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeVar

import attrs

from .. import runtime
from ..errors import ClientClosed, ComfyError, JobInterrupted, JobTimeout
from ..jobs.job import SLICE, Job, cancel_in_time, wait_for_one, warn_that_it_runs
from ..jobs.result import Result
from ..transport.deadline import check_timeout

K = TypeVar("K")

#: Waits until one of some jobs has ended, or something else happens; so many seconds at most.
Wait = Callable[[Collection[Job], float], object]


@attrs.define(eq=False)
class Window:
    """The prompts of one call that are under way, in the order of their submission.

    One thread works with it.
    """

    timeout: float | None = attrs.field(default=None, kw_only=True)
    stall_timeout: float | None = attrs.field(default=None, kw_only=True)
    #: Called again and again while one waits; in how many seconds it wants to be the next time.
    tick: Callable[[], float] | None = attrs.field(default=None, init=False)
    #: What was deleted from the queue.
    withdrawn: list[str] = attrs.field(factory=list, init=False)
    #: By prompt_id; ``None`` while it is being sent.
    _entries: dict[str, Job | ComfyError | None] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        check_timeout(self.timeout, self.stall_timeout)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, prompt_id: str) -> bool:
        return prompt_id in self._entries

    @property
    def jobs(self) -> list[Job]:
        """The jobs that were submitted and have not been taken out."""
        return [entry for entry in list(self._entries.values()) if isinstance(entry, Job)]

    @property
    def trouble(self) -> str:
        """The reason that holds up all jobs, in a few words; empty if there is none."""
        return ""

    def get(self, prompt_id: str) -> Job | ComfyError | None:
        """Return a prompt's job, or why it was not submitted, if either is there."""
        return self._entries.get(prompt_id)

    def put(self, prompt_id: str, entry: Job | ComfyError) -> None:
        """Have a prompt in it that was submitted before, or why one was not."""
        self._entries[prompt_id] = entry

    def pop(self, prompt_id: str) -> Job | ComfyError | None:
        """Remove a prompt whose end is known; not before, since Ctrl-C may come."""
        return self.drop(prompt_id)

    def drop(self, prompt_id: str) -> Job | ComfyError | None:
        """Remove a prompt that has not ended."""
        return self._entries.pop(prompt_id, None)

    def withdraw(self) -> None:
        """Delete from the queue what is pending there; what runs keeps running."""
        raise NotImplementedError

    # -- waiting -------------------------------------------------------------------------

    def look(
        self, *, ordered: bool = False, wait: Wait = wait_for_one
    ) -> tuple[str, Result | ComfyError] | None:
        """Wait briefly until a prompt is over; return its id and its outcome, or None.

        ``ordered``: only the first prompt counts.
        """
        entries = self._known()
        if ordered:
            first = next(iter(entries))
            entries = {first: entries[first]}
        return next_end(entries, self._due, self.tick, wait)

    def _known(self) -> dict[str, Job | ComfyError | None]:
        entries = self._entries.copy()  # close() in another thread may empty it
        if not entries:
            raise ClientClosed
        return entries

    def _due(self, prompt_id: str, job: Job) -> Iterable[Due]:
        """Yield the moments at which the wait for a prompt is over."""
        raise NotImplementedError

    def say_what_runs(self) -> None:
        """Log how to re-attach to prompts that Ctrl-C leaves running."""
        for job in self.jobs:
            if job.status == "running":
                warn_that_it_runs(job)


@attrs.frozen
class Due:
    """The moment until which an end, or news, of a job is waited for."""

    at: float
    job: Job
    what: str  #: Went wrong, when it has passed.
    stalled: bool = False


def next_end(
    entries: Mapping[K, Job | ComfyError | None],
    due_of: Callable[[K, Job], Iterable[Due]],
    tick: Callable[[], float] | None = None,
    wait: Wait = wait_for_one,
) -> tuple[K, Result | ComfyError] | None:
    """Wait for a moment until one of them is over, or its time is up.

    Returns:
        Which one, and what became of it; ``None``: none is over.
    """
    jobs = {entry: key for key, entry in entries.items() if isinstance(entry, Job)}
    longest = SLICE if tick is None else min(SLICE, tick())
    ended = [key for key, entry in entries.items() if _is_over(entry)]
    if ended:  # what may end the call comes last
        key = next((key for key in ended if _has_result(entries[key])), ended[0])
        return key, _outcome(entries[key])
    now = runtime.monotonic()
    due = [one for job, key in jobs.items() for one in due_of(key, job)]
    over = [one for one in due if one.at <= now]
    if over:
        # Of several the one that runs: those behind it may yet have their turn.
        first_up = next((one for one in over if one.job.status == "running"), over[0])
        return jobs[first_up.job], _give_up(first_up)
    soon = min((one.at - now for one in due), default=SLICE)
    wait(jobs, min(longest, soon))
    return None


def _is_over(entry: Job | ComfyError | None) -> bool:
    return isinstance(entry, ComfyError) or (entry is not None and entry.done())


def _has_result(entry: Job | ComfyError | None) -> bool:
    return isinstance(entry, Job) and entry.exception() is None


def _outcome(entry: Job | ComfyError | None) -> Result | ComfyError:
    """Return the outcome of an entry that has ended."""
    error = entry.exception() if isinstance(entry, Job) else entry
    if isinstance(entry, Job) and error is None:
        return entry.result()
    if isinstance(error, ComfyError):
        return error
    raise error or AssertionError("it was sent by now")


def _give_up(due: Due) -> Result | ComfyError:
    """Stop one whose time is up, unless it has just ended."""
    job, why = due.job, due.job.why()
    said = cancel_in_time([job])
    if job.done() and (said == [False] or not isinstance(job.exception(), JobInterrupted)):
        return _outcome(job)
    if said == [True] or job.done():
        what = "it was cancelled"
    elif not said:
        what = "it could not be cancelled, and may keep running"
    else:
        what = "the server knows nothing of it any more"
    return JobTimeout(f"{due.what} ({why}); {what}", prompt_id=job.prompt_id, stalled=due.stalled)
