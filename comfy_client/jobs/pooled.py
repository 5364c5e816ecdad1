"""A job that waits for a server: a :class:`Job` from the beginning, whichever server gets it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from ..errors import JobInterrupted, JobLost
from ..event_queue import Budget
from ..events import EndEvent, Event, ExecutionError, ExecutionInterrupted, JobLostEvent
from ..values import MAX_ID_LENGTH
from ..workflow.graph import shorten
from .describe import JobProgress
from .job import Job, Limits, wait_for_one
from .job_events import JobEvents
from .outcomes import JobStatus, deleted, lost
from .poller import Poller
from .result import Result
from .running import Running


class Line(Protocol):
    """The line in which jobs wait for a server."""

    @property
    def moved_at(self) -> float:
        """When the last of them went to one."""

    def position(self, job: PooledJob) -> int | None:
        """Return how many jobs are before this one, at most; None if it does not wait."""

    def why(self, job: PooledJob) -> str:
        """Return what a job waits for, in one sentence."""

    def withdraw(self, job: PooledJob) -> bool:
        """Do not run it; return whether that is sure: else a server may have it."""

    def flush(self, seconds: float) -> None:
        """Wait until callbacks of jobs have had all events so far."""


#: Ends of a prompt after which its job may run elsewhere: they are told when it does not.
_MAY_MOVE: Final = (JobLostEvent, ExecutionError)


class _Relay(JobEvents):
    """The events of a prompt, handed on to the readers of its pooled job's events."""

    def __init__(self, budget: Budget, job: PooledJob) -> None:
        super().__init__(budget)
        self._job = job
        self._has_ended = False

    def receive(self, event: Event) -> None:
        """Hand on one event, and one end; no loss and no failure, since it may run elsewhere."""
        if self is not self._job._relay or self._has_ended or isinstance(event, JobLostEvent):
            return
        self._has_ended = event.is_end
        if not (event.is_end and isinstance(event, _MAY_MOVE)):
            self._job._tracked.events.receive(event)


class PooledJob(Job):
    """A job of :class:`comfy_client.ComfyPool`.

    It is ``waiting`` until a server has been chosen for it.  It then is about the prompt on that
    server, and may be about another one later: if the server surely never had it, or if it was
    lost and is to run again.
    """

    def __init__(
        self, client: Running, prompt_id: str, graph: Mapping[str, Any], line: Line
    ) -> None:
        # Until a server has it, its times are those of one of the clients.
        tracker = client.parts.poller.tracker
        super().__init__(client, tracker.new(prompt_id, graph), client.parts.poller)
        self._line = line
        self._given: Job | None = None
        self._relay: _Relay | None = None
        self._server: str | None = None
        self._refused = False
        self._is_final = False  # no other server will run it

    @property
    def server(self) -> str | None:
        """The URL of the server that has it, or had it; ``None``: none has been chosen yet."""
        return self._server

    @property
    def status(self) -> JobStatus:
        """The status as of any job; ``waiting``: no server has it yet."""
        if self._waits():
            return "waiting"
        return "failed" if self._refused and self.done() else super().status

    def _waits(self) -> bool:
        return self._given is None and not self.done() and self._tracked.state.end_event is None

    @property
    def queue_position(self) -> int | None:
        """The position as of any job; while it waits, among the waiting jobs of the pool."""
        return self._line.position(self) if self._waits() else super().queue_position

    @property
    def progress(self) -> JobProgress:
        """The progress as of any job."""
        return JobProgress(0.0) if self._waits() else super().progress

    def _outcome(self, limits: Limits, tick: Callable[[], float] | None = None) -> Result:
        self._await(limits, tick)
        self._line.flush(limits.left(self._poller.timing.flush))
        return super()._outcome(limits, tick)

    def to_dict(self) -> dict[str, Any]:
        """Return what is known now as JSON, as any job does, and ``server``."""
        return {**super().to_dict(), "server": self.server}

    def why(self) -> str:
        """Return one sentence on the job's state, as any job does, with the server that has it."""
        if self._waits():
            return self._line.why(self)
        return f"{super().why()}; on {self._server}" if self._server else super().why()

    def cancel(self, *, force: bool = False) -> bool:
        """Cancel as any job does.  A waiting job ends at once, and nothing is sent for it.

        A job that is being sent is cancelled as soon as its server has it, and this waits for that
        (5 seconds at most).
        """
        if self.done():
            return False
        if self._line.withdraw(self):
            wait_for_one([self], self._poller.timing.cancel_timeout)
            return True
        given = self._given
        return given is not None and given.cancel(force=force)

    def _end_event(self) -> EndEvent | None:
        """Return the event that ended it; no loss and no failure while it may run elsewhere."""
        event = super()._end_event()
        return event if self._is_final or not isinstance(event, _MAY_MOVE) else None

    def _place(self) -> str:
        return f" on {self._server}" if self._server else ""

    def _news_at(self) -> float:
        if self._waits():  # what the queue of one server does is no news of it
            return max(self._tracked.state.news_at, self._line.moved_at)
        return super()._news_at()

    def _goes_on(self) -> str:
        return f" ({self.why()}); no server has it yet" if self._waits() else super()._goes_on()

    def _follow(self, inner: Job, server: str) -> None:
        other = inner._tracked
        self._relay = relay = _Relay(inner._poller.tracker.budget, self)
        self._given, self._server = inner, server
        self._routes, self._poller = inner._routes, inner._poller
        self._tracked.state = other.state
        other.on_fork.append(self._abandon)
        other.events.others.append(relay)
        if other.state.end_event is not None:  # one that had ended before
            relay.receive(other.state.end_event)

    def _leave(self, prompt_id: str) -> None:
        fresh = self._poller.tracker.new(prompt_id, self._tracked.state.graph)
        self._relay = self._given = self._server = None
        self._tracked.state = fresh.state

    def _abandon(self) -> None:
        self._tracked.events.reset()
        self._after_fork()

    def __repr__(self) -> str:
        where = f" on {self._server}" if self._server else ""
        return f"<Job {shorten(self.prompt_id, MAX_ID_LENGTH)} {self.status}{where}>"


def keep_events(job: PooledJob) -> None:
    """Keep all events of a job for a reader from the beginning."""
    job._tracked.events.keep_all()


def follow(job: PooledJob, inner: Job, server: str) -> None:
    """Follow the job on the server that has, or is about to get, the prompt."""
    job._follow(inner, server)


def prompt_of(job: PooledJob) -> Job | None:
    """Return the job on the server that has it, or None while it waits."""
    return job._given


def has_begun(job: Job) -> bool:
    """Return whether a prompt has begun to run, as far as its client has heard."""
    state = job._tracked.state
    return state.started or state.running_since is not None


def was_cut_off(job: Job) -> bool:
    """Return whether its client has lost the socket that saw the prompt being submitted."""
    generation = job._tracked.state.generation
    return generation is not None and generation != job._poller.tracker.link


def poller_of_job(job: PooledJob) -> Poller:
    """Return the poller of the server that has a job."""
    return job._poller


def leave(job: PooledJob, prompt_id: str | None = None) -> None:
    """Have a job wait again, as no server has it; under another id if one is given."""
    job._leave(prompt_id or job.prompt_id)


def refuse(job: PooledJob) -> None:
    """Mark a job that will never run: it was refused, or could not be sent."""
    job._refused = True


def withdrawal(job: PooledJob) -> tuple[ExecutionInterrupted, JobInterrupted]:
    """Return the end of a job that is cancelled before a server has it."""
    return deleted(job.prompt_id)


def end(job: PooledJob, outcome: Result | BaseException, event: EndEvent | None = None) -> None:
    """End a job; ``event`` tells it to receivers that had none yet."""
    if job.done():
        return
    state = job._tracked.state
    if event is None and isinstance(state.end_event, _MAY_MOVE):
        event = state.end_event  # which nobody had, as long as it might run elsewhere
    elif event is None and isinstance(outcome, JobLost):
        event, _ = lost(job.prompt_id, str(outcome))
    if event is not None and not state.decided:
        # What it has waited for too long may end all the same: that is for its client to say.
        job._relay = None
        state = job._tracked.state = copy.copy(state)
    job._is_final = True
    if event is not None:
        state.end_event = state.end_event or event
        job._tracked.events.receive(event)
    if isinstance(outcome, BaseException):
        job.set_exception(outcome)
    else:
        job.set_result(outcome)


def abandon(job: PooledJob) -> None:
    """Give a job up in the child of a fork: it belongs to the parent."""
    job._abandon()


def queue_length(client: Running) -> tuple[int, float]:
    """Return the length of the server's queue as it said last, and when it said so."""
    monitor = client.parts.poller.tracker.monitor
    return monitor.remaining or 0, monitor.status_at
