"""The job of a pool, which stays the same :class:`Job` when it moves to another server."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, cast

import attrs

from ..errors import JobInterrupted, JobLost, JobTimeout
from ..event_queue import Budget
from ..events import EndEvent, Event, ExecutionError, JobLostEvent
from ..jobs.describe import JobProgress
from ..jobs.handle import JobHandle, Limits, Source, first_end
from ..jobs.job import Job
from ..jobs.outcomes import JobStatus, lost
from ..jobs.poller import Poller
from ..jobs.prompt import Ending, JobEvents
from ..jobs.result import Result
from ..routes import Routes


class PoolQueue(Protocol):
    """The queue of a pool, in which jobs wait for a server."""

    @property
    def moved_at(self) -> float:
        """When a server was last chosen for a job."""

    def position(self, job: PooledJob) -> int | None:
        """Return the maximum number of waiting jobs ahead of a job; None if it is not waiting."""

    def why(self, job: PooledJob) -> str:
        """Describe in one sentence what a job waits for."""

    def notes(self) -> tuple[str, ...]:
        """Return a line of text for each server, to be shown below a progress bar."""

    def withdraw(self, job: PooledJob, *, force: bool = False) -> bool | None:
        """End a job unless a server has it; return True if it certainly will not run.

        Return None if it is being sent: it is cancelled as soon as its server has it, with
        ``force`` as for :meth:`Job.cancel`.
        """

    def flush(self, seconds: float) -> None:
        """Wait up to ``seconds`` seconds until callbacks have handled all events so far."""


#: Ends of a prompt after which its job may run elsewhere; published only if it does not.
_MAY_MOVE: Final = (JobLostEvent, ExecutionError)


class _Relay(JobEvents):
    """Forwards the events of a prompt to the pooled job that follows the prompt."""

    def __init__(self, budget: Budget, handle: PooledHandle) -> None:
        super().__init__(budget)
        self._handle = handle
        self._has_ended = False

    def receive(self, event: Event) -> None:
        """Forward an event, except a loss or failure after which the job may run elsewhere."""
        if not self._handle.hears(self) or self._has_ended or isinstance(event, JobLostEvent):
            return
        self._has_ended = event.is_end
        if event.is_end and (
            isinstance(event, _MAY_MOVE) or not self._handle.may_publish_end(self)
        ):
            return
        self._handle.events.receive(event)


class PooledHandle(JobHandle):
    """The handle of a pooled job, which changes its source when the job moves.

    Attributes:
        given: The job for the prompt on its server; ``None`` while the job waits for a server.
        server: The URL of the server that has or had the job; ``None``: none has been chosen yet.
    """

    source: Source

    def __init__(
        self,
        routes: Routes,
        poller: Poller,
        prompt_id: str,
        graph: Mapping[str, Any],
        queue: PoolQueue,
    ) -> None:
        # Until a server has the job, the timing settings of any client apply.
        super().__init__(poller.tracker.new(prompt_id, graph), routes, poller)
        self._prompt = self.source.prompt
        self._queue = queue
        self._job: Callable[[], PooledJob]
        self.given: Job | None = None
        self.server: str | None = None
        self._publisher: dict[None, object] = {}  # of the end
        self._relay: _Relay | None = None
        self._refused = False
        self._is_final = False  # no other server will run it

    def belong_to(self, job: PooledJob) -> None:
        """Keep a weak reference to the job to which this handle belongs."""
        self._job = cast("Callable[[], PooledJob]", weakref.ref(job))

    def hears(self, relay: JobEvents) -> bool:
        """Return whether this relay forwards the prompt that the job follows now."""
        return relay is self._relay

    def may_publish_end(self, publisher: object) -> bool:
        """Return whether this object may publish the end; only the first one that asks may."""
        return self._publisher.setdefault(None, publisher) is publisher

    # -- how it is doing -----------------------------------------------------------------

    @property
    def _waits(self) -> bool:
        return self.given is None and not self.is_done and self.state.end_event is None

    @property
    def status(self) -> JobStatus:
        """The state of the job; see :attr:`Job.status`."""
        if self._waits:
            return "waiting"
        return "failed" if self._refused and self.is_done else super().status

    @property
    def queue_position(self) -> int | None:
        """How many prompts run before the job's; see :attr:`Job.queue_position`."""
        return self._queue.position(self._job()) if self._waits else super().queue_position

    @property
    def progress(self) -> JobProgress:
        """The progress of the job; see :attr:`Job.progress`."""
        return JobProgress(0.0) if self._waits else super().progress

    @property
    def end_event(self) -> EndEvent | None:
        """The event that ended the job; None for a loss or failure while it may run elsewhere."""
        event = self.state.end_event
        return event if self._is_final or not isinstance(event, _MAY_MOVE) else None

    def why(self) -> str:
        """Return what the job waits for, or how it ended; see :meth:`Job.why`."""
        if self._waits:
            return self._queue.why(self._job())
        return f"{super().why()}; on {self.server}" if self.server else super().why()

    def notes(self) -> tuple[str, ...]:
        """Return a line for each server of the pool."""
        return self._queue.notes()

    def place(self) -> str:
        """Return `` on <server>`` for messages; empty while no server has the job."""
        return f" on {self.server}" if self.server else ""

    def news_at(self) -> float:
        """Return the time of the last news; while the job waits, any choice of a server is news."""
        if self._waits:  # the queue of a single server says nothing about it
            return max(self.state.news_at, self._queue.moved_at)
        return super().news_at()

    def silent_for(self) -> float | None:
        """Return the seconds since the job's server answered; None if recently, or without one."""
        return None if self._waits else super().silent_for()

    def _goes_on(self) -> str:
        return f" ({self.why()}); no server has it yet" if self._waits else super()._goes_on()

    def flush(self, limits: Limits) -> None:
        """Wait until callbacks of the pool and of the server's client have handled all events."""
        self._queue.flush(limits.deadline.left(self.timing.flush))
        super().flush(limits)

    def cancel(self, *, force: bool = False) -> bool:
        """Cancel the job, and no other; see :meth:`Job.cancel`."""
        if self.is_done:
            return False
        is_withdrawn = self._queue.withdraw(self._job(), force=force)
        if is_withdrawn is False:
            given = self.given
            return given is not None and given.cancel(force=force)
        first_end([self], seconds := self.timing.cancel_timeout)
        if is_withdrawn:
            return True
        if not self.is_done:
            raise JobTimeout(
                f"prompt {self.state.prompt_id} was being sent{self.place()} as it was cancelled; "
                f"whether it will run is not known after {seconds:g} s",
                prompt_id=self.state.prompt_id,
            )
        return isinstance(self.error, JobInterrupted)

    # -- what the pool does --------------------------------------------------------------

    def follow_on(self, inner: Job, server: str) -> None:
        """Follow the job on the server that has, or is about to get, the prompt."""
        source = inner.handle.source
        prompt = source.prompt
        prompt.state.tags = prompt.state.tags or self.state.tags  # if it was found, not submitted
        self._relay = relay = _Relay(source.poller.tracker.budget, self)
        self.given, self.server, self.source = inner, server, source
        prompt.on_fork.append(self.abandon)
        prompt.events.others.append(relay)
        if prompt.state.end_event is not None:  # it had ended before
            relay.receive(prompt.state.end_event)

    def leave(self, prompt_id: str | None = None) -> None:
        """Make the job wait for a server again, under a new prompt id if one is given."""
        tracker, state = self.poller.tracker, self.state
        fresh = tracker.new(prompt_id or state.prompt_id, state.graph)
        fresh.state.tags = state.tags
        self._relay = self.given = self.server = None
        self.source = attrs.evolve(self.source, prompt=fresh)

    def refuse(self) -> None:
        """Mark the job as one that will never run, as it was refused or could not be sent."""
        self._refused = True

    def end(self, outcome: Ending | Result | BaseException, event: EndEvent | None = None) -> None:
        """End the job; ``event`` is the end event for receivers that have not had one."""
        if self.is_done:
            return
        state = self.state
        if event is None and isinstance(state.end_event, _MAY_MOVE):
            event = state.end_event  # withheld so far, as the job might have run elsewhere
        elif event is None and isinstance(outcome, JobLost):
            event, _ = lost(state.prompt_id, str(outcome))
        if event is not None and not state.decided:
            # A prompt that took too long may still end; its own client reports that.
            self._relay = None
            state = copy.copy(state)
        self._prompt.state = state
        self.source = attrs.evolve(self.source, prompt=self._prompt)
        self._is_final = True
        if event is not None:
            state.end_event = state.end_event or event
            if self.may_publish_end(self):
                self.events.receive(event)
        self._prompt.end(outcome)

    def abandon(self) -> None:
        """Give the job up in the child of a fork: it belongs to the parent."""
        self.events.reset()
        for end in self._prompt.on_fork:
            end()


class PooledJob(Job):
    """A job of :class:`comfy_client.ComfyPool`.

    Its :attr:`status` is ``waiting`` until a server has been chosen for it; meanwhile,
    :attr:`queue_position` counts the waiting jobs of the pool before it.  After that, the job
    stands for the prompt on that server.  It stands for a prompt on another one later if the server
    certainly never had its prompt, or if the prompt was lost and is to run again.

    :meth:`cancel` ends a waiting job immediately, and nothing is sent for it.  A job that is being
    sent is cancelled as soon as its server has it, and the call waits for its end: True if it was
    cancelled, False if it ended otherwise, :class:`JobTimeout` if that is not known after 5
    seconds.
    """

    handle: PooledHandle

    def __init__(self, handle: PooledHandle) -> None:
        super().__init__(handle)
        handle.belong_to(self)

    @property
    def server(self) -> str | None:
        """The URL of the server that has or had the job; ``None``: none has been chosen yet."""
        return self.handle.server

    def to_dict(self) -> dict[str, Any]:
        """Return the current state as JSON, as :meth:`Job.to_dict` does, and ``server``."""
        return {**super().to_dict(), "server": self.server}
