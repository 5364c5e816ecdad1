"""The registry of this client's prompts, which combines two sources into one outcome.

The socket is fast, HTTP is authoritative.  The end of a prompt is decided once, by the first
evidence of either: its end event, or the queue and then the history over HTTP (in this order,
since a prompt may move from one to the other between two requests).
:class:`~comfy_client.jobs.state.PromptState` computes the outcome; this module has the registry,
the lock, the counters, and :meth:`Tracker.end`, which ends a prompt that the server had.
"""

from __future__ import annotations

import logging
import math
import weakref
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, Final

import attrs

from .. import models, runtime
from ..errors import ClientClosed, ComfyError, SubmitUncertain, UnexpectedResponse
from ..event_queue import Budget, Newest
from ..events import (
    ConnectionEvent,
    EndEvent,
    Event,
    Executing,
    JobEvent,
    PreviewEvent,
    Progress,
    ProgressText,
    StatusEvent,
)
from ..interrupts import in_full
from ..locks import shared_lock
from ..log_records import AnyLog, ServerLog
from ..routes import Routes
from ..signals import Receivers
from ..timing import Timing
from ..transport.http import Http
from ..transport.websocket import Connection, EventHandler, State
from .outcomes import JobStatus, too_large, with_finality
from .progress import NodeTimes, fraction_of
from .prompt import Ending, JobEvents, Orphans, Prompt, ending_of
from .queue_monitor import DeafnessCheck, QueueMonitor
from .result import Result
from .state import MAY_END, Counted, Outcome, PromptState

#: The most characters of an error in a log line.
_LONGEST_ERROR: Final = 500

_ENDS: Final = ("succeeded", "failed", "interrupted", "lost", "unknown")

#: The most recent prompts whose ends are remembered, and the most bytes of these ends.
REMEMBERED: Final = 1000
REMEMBERED_BYTES: Final = 32 << 20

_NO_PREVIEWS: Final = (
    "someone listens to previews, but the server sends none: start ComfyUI with "
    "--preview-method auto (servers from 0.5 on are asked for them by this library)"
)

#: Events that say which node runs.
_NAMES_NODE: Final = (Executing, Progress)


@attrs.define(eq=False, repr=False)
class _EndRecord:
    """The reported end of one of this client's prompts."""

    event: EndEvent
    job: Callable[[], Future[Result] | None]  # a weak reference, as a result may be large
    has_record: bool  # False if none will be written, as for a lost prompt
    is_final: bool  # False if the server merely refuses to say
    due: float  # when the record must have been written


def _attributed(
    event: PreviewEvent | ProgressText, running: tuple[str, str] | None
) -> PreviewEvent | ProgressText:
    """Return an event with the id of the running prompt filled in, if that is known."""
    if running is None:
        return event
    prompt_id, node = running
    if isinstance(event, PreviewEvent):
        return attrs.evolve(event, prompt_id=prompt_id, node_id=node)
    return attrs.evolve(event, prompt_id=prompt_id)


def _end_of(event: JobEvent) -> EndEvent | None:
    """Return the event if it ends its prompt, or None."""
    return event if isinstance(event, EndEvent) and event.is_end else None


def _end_elsewhere(prompt: Prompt, ending: _EndRecord, link: int | None) -> Outcome | None:
    """Apply an end that was reported before the response with the prompt's id came.

    Return the outcome, or None to await the record in the history.
    """
    prompt.state.end_event = ending.event
    prompt.events.receive(ending.event)
    if not ending.has_record:
        return prompt.state.as_reported(link)
    prompt.state.awaits_history, prompt.state.check_at = True, 0.0
    return None


def _nobody() -> None:
    """Return None, as a dead weak reference does: no job of the prompt is left."""


class WakeUp:
    """An event that wakes or stops the polling thread.

    Unlike an ``Event``, it is re-entrant: the finalizer of a forgotten client may stop it in any
    thread, at any moment.
    """

    def __init__(self) -> None:
        self._lock = shared_lock()  # guards both flags; no other lock is taken within
        self._changed = runtime.Condition(self._lock)
        self._is_set = False
        self.stopped: bool = False

    def set(self, *, stop: bool = False) -> None:
        """End the current wait, or else the next one; with ``stop``, end the thread, too."""
        with self._lock:
            self._is_set = True
            self.stopped = self.stopped or stop
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Wait up to ``seconds`` for a call of :meth:`set`."""
        with self._lock:
            self._changed.wait_for(lambda: self._is_set, seconds)
            self._is_set = False

    def wait_stopped(self, seconds: float) -> bool:
        """Wait up to ``seconds`` for a stop; return whether the thread has to stop."""
        with self._lock:
            return self._changed.wait_for(lambda: self.stopped, seconds)


@attrs.frozen(eq=False, repr=False)
class Order:
    """The order in which prompts will run, as known at one moment.

    The order is computed once and cached until something changes.

    Attributes:
        changes: The number of changes at that moment.
        numbers: The priorities of the prompts, lowest first; a running prompt comes before all
            waiting ones, even if its number is higher.
        running: A running prompt.
    """

    changes: int
    numbers: list[float]
    running: Prompt | None

    @classmethod
    def of(cls, prompts: Iterable[Prompt], changes: int) -> Order:
        """Compute the order of these prompts."""
        numbers, running = [], None
        for prompt in prompts:
            if prompt.state.running_since is not None:
                running = running or prompt
                numbers.append(float("-inf"))
            elif prompt.state.number is not None:
                numbers.append(prompt.state.number)
        return cls(changes, sorted(numbers), running)

    def around(self, number: float | None) -> tuple[int, int]:
        """Return how many prompts come before and after one with this number; zeros if None."""
        if number is None:
            return 0, 0
        behind = len(self.numbers) - bisect_right(self.numbers, number)
        return bisect_left(self.numbers, number), behind


class Ledger:
    """The counters and log lines of one client's prompts; each prompt is counted once.

    Methods that count are called with the tracker's lock held, those that log without.  The lines
    are ``INFO`` of the logger ``comfy_client``; the guide (``monitoring.rst``) lists their facts.
    A log handler is the user's code and may be slow: it runs in the thread that submits, or in the
    one that calls receivers, never in the thread of the socket or while a lock is held.
    """

    def __init__(self, receivers: Receivers, log: ServerLog) -> None:
        self._receivers = receivers
        self._log = log
        self._lock = shared_lock()  # so that a start, and an end, are logged only once
        self.counts: Counter[str] = Counter()
        self.changes: int = 0  #: How often the set of unfinished or running prompts changed.
        self.order: Order = Order.of((), self.changes)  #: The order at the last request.

    # -- counting, with the lock -----------------------------------------------------------

    def count(self, state: PromptState, kind: Counted) -> None:
        """Count a prompt as submitted or attached, once."""
        if state.counted is None:
            state.counted = kind
            self.counts[kind] += 1
            self.changes += 1

    def count_end(self, state: PromptState, status: JobStatus) -> None:
        """Count the end of a prompt, maybe before its submission was answered."""
        self.count(state, "submitted")
        if state.counted != "before":
            self.counts[status] += 1
        self.changes += 1

    def count_refused(self, state: PromptState) -> None:
        """Count a submission that failed, unless its prompt has been counted."""
        if state.counted is None:
            self.counts["refused"] += 1
            state.counted = "before"

    def uncount(self, state: PromptState) -> None:
        """Remove a prompt from the counts, as it was found to be the same as another."""
        if state.counted is not None:
            self.counts[state.counted] -= 1
        self.changes += 1
        state.counted = "before"

    def sums(self) -> dict[str, int]:
        """Return the counters as keyword arguments of ``ClientStats``."""
        counts = self.counts
        ends = {end: counts[end] for end in _ENDS}
        begun = {name: counts[name] for name in ("submitted", "refused", "attached")}
        left = counts["submitted"] + counts["attached"] - sum(ends.values())
        return {**begun, **ends, "outstanding": left}

    # -- logging, without the lock -----------------------------------------------------------

    def log_submitted(self, state: PromptState) -> None:
        """Log a submission in the submitting thread, then a start or end that has come already."""
        if self._log.isEnabledFor(logging.INFO):
            _write(self._log, state, "submitted", "submitted", number=state.number)
        state.submission_logged = True
        self.log_start(state)
        self.log_end(state)

    def log_start(self, state: PromptState) -> None:
        """Log the start of a prompt, once, if it has begun to run."""
        if state.start_logged or state.running_since is None or not state.submission_logged:
            return
        with self._lock:
            if state.start_logged:
                return
            state.start_logged = True
            self.changes += 1
        if self._log.isEnabledFor(logging.INFO):
            waited = None if state.attached else state.running_since - state.posted_at
            words = "" if waited is None else f", {waited:.1f} s after its submission"
            self._later(_write, self._log, state, "started", f"started{words}", waited=waited)

    def note_end(self, prompt: Prompt, ending: Ending) -> None:
        """Log the end of a prompt once its submission is logged, unless only the client closed."""
        if self._log.isEnabledFor(logging.INFO) and not ending.is_of_client:
            seconds = prompt.state.elapsed(runtime.monotonic())
            prompt.state.last_line = partial(_write_end, self._log, prompt.state, ending, seconds)
            if prompt.state.submission_logged:
                self.log_end(prompt.state)

    def log_end(self, state: PromptState) -> None:
        """Log the end of a prompt, once, if it has ended."""
        if state.last_line is None:
            return
        with self._lock:
            line, state.last_line = state.last_line, None
        if line is not None:
            self._later(line)

    def _later(self, write: Callable[..., None], *args: Any, **facts: Any) -> None:
        """Call a function that logs, in the delivery thread, in turn with receivers."""

        def call() -> float:
            write(*args, **facts)
            return self.tick()

        self._receivers.hand(self, call)

    def tick(self) -> float:
        """Return infinity, as nothing is due later."""
        return math.inf


def log_connection(log: AnyLog, event: ConnectionEvent, host: str, waiting: int) -> None:
    """Log that the socket was connected or lost while prompts are outstanding."""
    if event.name == "disconnected":
        log.warning(
            "%s: %s, with %d prompts outstanding; reconnecting, asking over HTTP meanwhile",
            host,
            event.error,
            waiting,
        )
    elif event.name == "reconnected":
        log.warning("%s: connected again", host)


def _write(log: AnyLog, state: PromptState, step: str, words: str, **facts: Any) -> None:
    extra = {**state.named, "prompt_event": step, **facts}
    log.info("prompt %s: %s", state.prompt_id, words, extra=extra)


def _write_end(log: AnyLog, state: PromptState, ending: Ending, seconds: float | None) -> None:
    end, status, prompt_id = ending.value, ending.status, state.prompt_id
    after = "" if seconds is None else f" after {seconds:.1f} s"
    facts: dict[str, Any] = {**state.named, "prompt_event": "ended"}
    facts |= {"status": status, "seconds": seconds}
    if isinstance(end, Result):
        cached, pictures = len(end.cached_nodes), len(end.images)
        facts |= {"cached_nodes": cached, "pictures": pictures}
        words = f"{_counted(cached, 'node')} cached, {_counted(pictures, 'picture')}"
        log.info("prompt %s: %s%s, %s", prompt_id, status, after, words, extra=facts)
        return
    facts["error_code"] = end.code if isinstance(end, ComfyError) else None
    said = f"{end!s:.{_LONGEST_ERROR}}".partition("\n")[0]
    log.info("prompt %s: %s%s: %s", prompt_id, status, after, said, extra=facts)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


class Tracker:
    """The prompts of one client that have not ended; it ends each of them once.

    The client owns the tracker, which holds the client weakly, as the threads do.

    Attributes:
        lock: Guards the registry and the state of its prompts.  Taken before the locks of queues
            and of ``wake``; no request is sent while it is held.  Re-entrant: the collector may end
            a forgotten iterator of ``map`` meanwhile, which takes its prompts back.
        log: The log of the client.
        wake: Wakes the polling thread.
        connection: The event socket, whose handler this is.
        monitor: The last known state of the queue.
        times: The execution times of nodes that this client followed.
        ledger: The counters of prompts, and the log of their steps.
        ended: Recently ended prompts, for which a second report of an end changes nothing.
        renamed: The ids that the server chose for recent prompts, by the client's ids.
        announced: Ids of prompts that are about to be submitted.
        posted_as: The client id of each recent submission, as it may have been renewed since.
        not_before: The earliest moment of the next request, as the server is away.
        cancels_jobs: Whether the server can cancel a prompt by its id, as far as is known.
        closed: Whether ``close()`` was called, so that nothing more is submitted.
    """

    def __init__(
        self,
        routes: Routes,
        http: Http,
        receivers: Receivers,
        budget: Budget,
        timing: Timing,
        connect: Callable[[EventHandler], Connection],
    ) -> None:
        self._routes = weakref.ref(routes)
        self.http = http
        self.log: ServerLog = http.log
        self.publish: Callable[[Event], None] = receivers.publish
        self.flush: Callable[[float], None] = receivers.flush
        self.budget = budget
        self.timing = timing
        budget.prefer(self.is_ours)
        self.lock: runtime.RLock = shared_lock()
        self.wake: WakeUp = WakeUp()
        self.connection: Connection = connect(self)
        self.monitor: QueueMonitor = QueueMonitor(self.connection, timing)
        self.deafness: DeafnessCheck = DeafnessCheck(self.connection, self.monitor, timing)
        self.times: NodeTimes = NodeTimes()
        self.ledger: Ledger = Ledger(receivers, http.log)
        self.ended: Newest[_EndRecord] = Newest(REMEMBERED, REMEMBERED_BYTES)
        self.renamed: Newest[str] = Newest(REMEMBERED, REMEMBERED_BYTES)
        self.announced: set[str] = set()
        self.posted_as: dict[str, str] = {}
        self.not_before: float = 0.0
        self.cancels_jobs = True
        self.closed: bool = False
        self._tracked: dict[str, Prompt] = {}
        self._orphans = Orphans(budget.most // 2)
        self._attached = 0  # prompts whose events may go to another client
        self._running: tuple[str, str] | None = None  # prompt and node that were named last
        self._hinted = False

    def routes(self) -> Routes:
        """Return the routes of the client; raise :class:`ClientClosed` if the client is gone."""
        routes = self._routes()
        if routes is None:
            raise ClientClosed
        return routes

    @property
    def link(self) -> int | None:
        """The number of the connected socket; ``None``: there is none."""
        connection = self.connection
        return connection.generation if connection.state is State.CONNECTED else None

    # -- the registry ----------------------------------------------------------------------

    @property
    def outstanding(self) -> tuple[Prompt, ...]:
        """The prompts that have not ended."""
        with self.lock:
            return tuple(self._tracked.values())

    def new(self, prompt_id: str, graph: Mapping[str, Any]) -> Prompt:
        """Return a new tracked prompt, which is not in the registry yet."""
        state = PromptState(prompt_id, graph, self.budget, self.timing)
        state.news_at = runtime.monotonic()
        return Prompt(state, JobEvents(self.budget))

    def job(self, prompt_id: str) -> Future[Result] | None:
        """Return the job of a prompt that has not ended, or ended recently and is still kept."""
        prompt = self._tracked.get(prompt_id)
        if prompt is not None:
            return prompt.waiters[0].job
        ending = self.ended.get(prompt_id)
        return None if ending is None or not ending.is_final else ending.job()

    def get(self, prompt_id: str) -> Prompt | None:
        """Return the prompt with that id; None if it has ended or is not followed."""
        return self._tracked.get(prompt_id)

    def is_posting(self, prompt: Prompt) -> bool:
        """Return whether a prompt's submission has not been answered yet."""
        return prompt in self._orphans.posting

    def is_ours(self, prompt_id: str | None) -> bool:
        """Return whether a prompt is one of this client's, was one recently, or may be one."""
        return prompt_id in self._tracked or prompt_id in self.ended or bool(self._orphans.posting)

    def add(self, prompt: Prompt, *, posting: bool = False) -> None:
        """Start to follow a prompt; raise ``ValueError`` if another has its id."""
        state = prompt.state
        with self.lock:
            if self.wake.stopped:
                raise ClientClosed
            if state.prompt_id in self._tracked:
                raise ValueError(f"prompt {state.prompt_id} is outstanding already")
            self._tracked[state.prompt_id] = prompt
            self._attached += state.attached
            if posting:
                for register in (self.ended, self.renamed):
                    if state.prompt_id in register.entries:  # another prompt had this id
                        register.pop(state.prompt_id)
                self._orphans.posting.add(prompt)
                self.posted_as[state.prompt_id] = state.client_id
                if len(self.posted_as) > REMEMBERED:
                    del self.posted_as[next(iter(self.posted_as))]

    def answered(self, prompt: Prompt) -> None:
        """Record that a submission has got its response, or will never get one."""
        with self.lock:
            if prompt.state.search_by_mark and self._tracked.get(prompt.state.prompt_id) is prompt:
                self._orphans.unsure.add(prompt)
            self._orphans.posting.discard(prompt)
            self._forget_orphans()

    def _forget_orphans(self) -> None:
        if self._orphans.events.nbytes:  # which is seldom
            self._orphans.drop()

    def remove(self, prompt: Prompt) -> None:
        """Stop following a prompt."""
        with self.lock:
            self._orphans.unsure.discard(prompt)
            if self._tracked.get(prompt.state.prompt_id) is prompt:
                del self._tracked[prompt.state.prompt_id]
                self._attached -= prompt.state.attached

    def refuse(self, prompt: Prompt, exc: Exception) -> bool:
        """Give up a prompt whose submission failed; return False if the server accepted it."""
        with self.lock:
            if prompt.state.was_taken and isinstance(exc, SubmitUncertain | UnexpectedResponse):
                return False
            self.remove(prompt)
            self.ledger.count_refused(prompt.state)
            return True

    def rename(self, prompt: Prompt, prompt_id: str) -> None:
        """Follow a prompt under the id that the server gave it."""
        with self.lock:
            self._tracked.pop(prompt.state.prompt_id, None)
            self.renamed.put(prompt.state.prompt_id, prompt_id)
            prompt.state.prompt_id = prompt_id
            if prompt.state.decided:
                self._tracked.pop(prompt_id, None)  # a job that is attached to it ends, too
            else:
                self._tracked[prompt_id] = prompt

    def accept(self, prompt: Prompt, receipt: models.QueuedPrompt) -> None:
        """Record that the server has queued a prompt, perhaps under another id."""
        state = prompt.state
        outcome = None
        with self.lock:
            state.accept(receipt, runtime.monotonic(), link := self.link)
            self.ledger.count(state, "submitted")
            if receipt.prompt_id != state.prompt_id:
                other = self._tracked.get(receipt.prompt_id)  # another thread found it in the queue
                ending = self.ended.get(receipt.prompt_id)
                self.rename(prompt, receipt.prompt_id)
                outcome = self._apply_orphans(prompt)
                if other is not None:
                    self._attached -= other.state.attached
                    self.ledger.uncount(other.state)
                    other.join(prompt)
                elif ending is not None and ending.is_final:
                    outcome = outcome or _end_elsewhere(prompt, ending, link)
                    self.ledger.uncount(state)
            early = prompt.early
        self.ledger.log_submitted(state)
        if outcome is not None:
            self.end(prompt, outcome)
        elif early is not None:
            self.end_waits(prompt, early)
        if state.check_at == 0.0 or link is None:
            self.wake.set()  # the thread may be in a long sleep

    def _apply_orphans(self, prompt: Prompt) -> Outcome | None:
        """Apply events from before the id of their prompt was known; return the outcome."""
        events = self._orphans.of(prompt.state)
        outcomes = (
            self._apply(prompt, with_finality(each, prompt.state.graph), _end_of(each))
            for each in events
        )
        return next(filter(None, outcomes), None)

    def merge(self, prompt: Prompt, prompt_id: str) -> None:
        """Rename a prompt to the id under which it was found, or merge it with that id's prompt."""
        outcome = None
        with self.lock:
            other = self._tracked.get(prompt_id)
            if prompt.state.decided or other is prompt:
                return
            if other is None:
                self.rename(prompt, prompt_id)
                outcome = self._apply_orphans(prompt)
            else:
                self.remove(prompt)
                self.ledger.uncount(prompt.state)
                prompt.join(other)
        if outcome is not None:
            self.end(prompt, outcome)

    # -- the handler of the event thread -----------------------------------------------------

    def handle(self, event: Event) -> None:
        """Publish an event and apply it to its prompt; end the prompt if its outcome is known."""
        if not isinstance(event, JobEvent) or not (self._tracked or self.ended.entries):
            if isinstance(event, StatusEvent):
                self.monitor.count(event.queue_remaining)
                if self._attached:
                    self._queue_moved()
            self.publish(event)
            return
        outcome, end = None, event if isinstance(event, EndEvent) and event.is_end else None
        with self.lock:
            if event.prompt_id is None and isinstance(event, PreviewEvent | ProgressText):
                event = _attributed(event, self._running)
            prompt_id = event.prompt_id
            prompt = None if prompt_id is None else self._tracked.get(prompt_id)
            if prompt_id is not None and isinstance(event, _NAMES_NODE):
                self._running = (prompt_id, event.node) if event.node else None
            if prompt is not None:
                if end is not None and prompt.state.end_event is not None:
                    return  # only one end event each, whatever the server sends
                if isinstance(event, PreviewEvent):
                    event = with_finality(event, prompt.state.graph)
                outcome = self._apply(prompt, event, end)
            elif end is not None and (prompt_id in self.ended or self._orphans.has_end(prompt_id)):
                return  # receivers have already had this event
            if prompt_id and (prompt is None or prompt.state.attached):
                self._orphans.keep(event)
            if end is not None:  # under the lock, as another thread may then end all waits
                self.publish(event)
        if end is None:
            self.publish(event)
        if prompt is not None and not prompt.state.start_logged:
            self.ledger.log_start(prompt.state)
        if prompt is not None and outcome is not None:
            self.end(prompt, outcome)
        elif self.budget.used > self.budget.most:
            self._keep_to_budget()

    def skipped(self) -> None:
        """Distrust the events of all prompts, as a message could not be read."""
        with self.lock:
            for prompt in self._tracked.values():
                prompt.state.generation = None

    def connection_changed(self, event: Event) -> None:
        """Handle a change or an error of the connection."""
        if isinstance(event, ConnectionEvent):
            if event.name in ("connected", "reconnected", "disconnected"):
                self.poll_all_soon()
            if self._tracked:
                log_connection(self.log, event, self.http.address.http_url, len(self._tracked))
        self.publish(event)

    def client_id_changed(self) -> None:
        """Treat all prompts as attached, as their client id no longer has a socket."""
        with self.lock:
            for prompt in self._tracked.values():
                self._attached += not prompt.state.attached
                prompt.state.attached = True

    def poll_queue(self) -> None:
        """Ask for the length of the queue, and publish a ``status`` event if it changed."""
        status = self.routes().poll_status(timeout=self.timing.question)
        if status.queue_remaining != self.monitor.remaining:
            self.monitor.count(status.queue_remaining)
            self.publish(
                StatusEvent(
                    name="status",
                    raw={"status": {"exec_info": dict(status.raw)}},
                    queue_remaining=status.queue_remaining,
                )
            )

    def _queue_moved(self) -> None:
        """Ask soon about attached prompts that may have left the queue."""
        departed = self.monitor.departed
        with self.lock:
            # Immediately if the queue is quiet, but not for each prompt of a busy queue.
            soon = max(runtime.monotonic(), self.monitor.at + self.timing.job_poll_cap)
            for prompt in self._tracked.values():
                if prompt.state.attached and departed >= prompt.state.leaves_at:
                    self.poll_soon(prompt.state, soon)

    def _apply(self, prompt: Prompt, event: JobEvent, end: EndEvent | None) -> Outcome | None:
        """Apply an event to its prompt, with the lock held; return the outcome or None.

        ``end`` is the event if it ends the prompt.
        """
        state = prompt.state
        if state.decided:
            return None
        if end is not None:
            state.end_event = end
            self._remember(prompt, end)
        prompt.events.receive(event)
        link = self.link if isinstance(event, MAY_END) else None
        outcome = state.apply_event(event, runtime.monotonic(), link)
        if state.awaits_history and isinstance(event, Executing) and state.accepted_at is not None:
            self.wake.set()
        return outcome

    # -- when to ask -------------------------------------------------------------------------

    def poll_soon(self, state: PromptState, at: float = 0.0) -> None:
        """Schedule an HTTP request about a prompt for the moment ``at`` or earlier."""
        if state.accepted_at is not None and at <= state.check_at:
            state.check_at = at
            self.wake.set()

    def poll_now(self, prompt: Prompt) -> None:
        """Ask about a prompt immediately, since a caller waits or the server has just answered."""
        self.not_before = 0.0
        prompt.state.wanted_at = runtime.monotonic()
        self.poll_soon(prompt.state)

    def poll_all_soon(self) -> None:
        """Ask about all prompts soon, as the socket was connected or lost."""
        with self.lock:
            self._running = None  # no longer known without the socket
            self.deafness.forget()
            self.not_before = 0.0
            # A link that breaks often must not cause a request each time.
            soon = self.monitor.at + self.timing.link
            interval = self.timing.link if runtime.monotonic() < soon else self.timing.job_poll
            for prompt in self._tracked.values():
                prompt.state.interval = interval
                self.poll_soon(prompt.state, soon)

    # -- the end -----------------------------------------------------------------------------

    def end(self, prompt: Prompt, outcome: Outcome | Exception) -> None:
        """End a prompt, once: receivers get its end event, then all waits for it end.

        An exception in place of an outcome only ends the waits, as the prompt's end is unknown.
        """
        news = None
        with self.lock:
            prompt = self._tracked.get(
                prompt.state.prompt_id, prompt
            )  # it may have been merged meanwhile
            state = prompt.state
            if state.decided:
                return
            state.ended_at = runtime.monotonic()
            end = self._ending_of(state, outcome)
            if isinstance(outcome, Outcome) and state.end_event is None:
                state.end_event = outcome.event
                prompt.events.receive(outcome.event)
                if state.prompt_id not in self.ended:
                    news = outcome.event
                self._remember(prompt, outcome.event, outcome)
            state.decided = True
            self.ledger.count_end(state, end.status)
            if state.is_whole(self.link):  # otherwise events may be missing
                self.times.learn_later(state.graph, state.spent)
            if state.running_since is not None and end.status != "succeeded":
                fraction_of(state, self.times)  # records the final fraction
            state.release()
            self._attached -= state.attached
            self._tracked.pop(state.prompt_id, None)
            self._forget_orphans()
            if news is not None:  # under the lock, so that a job that attaches now ends immediately
                self.publish(news)
        with self.lock:
            if state.accepted_at is None:  # the submission's answer is still to come
                prompt.early = end
                return
        self.end_waits(prompt, end)

    def end_waits(self, prompt: Prompt, ending: Ending) -> None:
        """Log the end of a prompt, and end all waits for it."""
        self.ledger.note_end(prompt, ending)
        prompt.end(ending)

    def _remember(self, prompt: Prompt, event: EndEvent, outcome: Outcome | None = None) -> None:
        """Remember the end event of a prompt, so that receivers get it only once."""
        has_record = outcome is None or outcome.has_record
        is_final = outcome is None or outcome.is_final
        due = 0.0
        if has_record and not event.recovered:
            due = runtime.monotonic() + self.timing.record
        job = weakref.ref(prompt.waiters[0].job) if prompt.waiters else _nobody
        ending = _EndRecord(event, job, has_record, is_final, due)
        self.ended.put(prompt.state.prompt_id, ending, event.nbytes)

    def _ending_of(self, state: PromptState, outcome: Outcome | Exception) -> Ending:
        if isinstance(outcome, Exception):
            return Ending.of(outcome)
        if outcome.lacks_previews and not self._hinted:
            self._hinted = True
            state.remarks.append(_NO_PREVIEWS)
        return ending_of(state, outcome, self.http, self.routes())

    def _keep_to_budget(self) -> None:
        """Give up the prompt that holds the most memory if prompts alone exceed the limit."""
        most = self.budget.most
        if self.budget.relieve():
            return
        with self.lock:
            all_of_them = self.outstanding
            if sum(prompt.state.nbytes for prompt in all_of_them) <= most:
                return  # receivers hold the rest
            largest = max(all_of_them, key=lambda prompt: prompt.state.nbytes)
        event, error = too_large(largest.state.prompt_id, most)
        self.end(largest, Outcome(event, error, has_record=False, is_final=False))

    def close(self) -> None:
        """Stop the polling thread, and end all waits with :class:`ClientClosed`."""
        self.wake.set(stop=True)
        in_full(partial(self.end, prompt, ClientClosed()) for prompt in self.outstanding)

    def after_fork(self) -> None:
        """End all waits in the child of a fork, as these prompts are the parent's."""
        for prompt in list(self._tracked.values()):
            prompt.events.reset()
            for end in prompt.on_fork:
                end()
