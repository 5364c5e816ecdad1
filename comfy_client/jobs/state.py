"""The state of a prompt: evidence, and the outcome that follows.  Pure: no lock, thread or I/O.

Evidence comes from events, the queue and the history.  Each ``apply_...`` takes a piece of it, at
the moment ``now``, and returns an :class:`Outcome` if that ends the prompt, else ``None``.
``link`` is the number of the connected socket, ``None`` if there is none.

Events alone decide only if one unbroken socket saw the prompt from its start and every output
is known from them.  Otherwise history is read, which the server writes after
``execution_success`` and before ``executing`` with no node.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, Literal

import attrs

from .. import models
from ..errors import ComfyError
from ..event_queue import LARGE, LEAST, Budget, Share
from ..events import (
    EndEvent,
    Executed,
    Executing,
    ExecutionCached,
    ExecutionError,
    ExecutionInterrupted,
    ExecutionStart,
    ExecutionSuccess,
    JobEvent,
    JobLostEvent,
    PreviewEvent,
    Progress,
    ProgressState,
    ProgressText,
    UnknownEvent,
    body_of,
)
from ..log_records import Tags, prompt_facts
from ..timing import Timing
from ..workflow import class_of, sinks
from .outcomes import (
    SENDER,
    STATUS_OF_EVENT,
    JobStatus,
    deleted,
    failed_node,
    failure_event,
    lost,
    sends_pictures,
    status_of,
    success,
)

NodeOutputs = Mapping[str, Mapping[str, Any]]

#: The most failed nodes of a prompt that goes on without them.
_MOST_FAILED: Final = 1000

#: The weights of a prompt's nodes, after the values that they were computed from.
Weighed = tuple[tuple[object, ...], Mapping[str, float]]
NOTHING_WEIGHED: Final[Weighed] = (None,) * 4, {}


@attrs.frozen(eq=False, repr=False)
class QueueSnapshot:
    """The prompts in the queue at one moment, in order."""

    running: tuple[str, ...]
    pending: tuple[str, ...]
    #: The workflows in the answer, if any, by prompt_id.
    graphs: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict)
    #: The ids of the clients that submitted these workflows, by prompt_id.
    clients: Mapping[str, str | None] = attrs.field(factory=dict)
    departed: int = 0  #: How many prompts had left the queue before, by the client's count.

    @cached_property
    def _places(self) -> Mapping[str, int]:
        """The place of each prompt in the queue, by prompt id."""
        return {prompt_id: place for place, prompt_id in enumerate((*self.running, *self.pending))}

    def place(self, prompt_id: str) -> float:
        """Return a prompt's place in the queue, running ones included; infinite if absent."""
        return self._places.get(prompt_id, float("inf"))

    def __contains__(self, prompt_id: str) -> bool:
        return prompt_id in self._places

    def ahead(self, prompt_id: str) -> int | None:
        """Return how many prompts are ahead of a pending one; None if it is running."""
        place = self._places[prompt_id]
        return None if place < len(self.running) else place

    def first_of(self, prompt_ids: Collection[str]) -> str | None:
        """Return which of these prompts will end first; None if the queue has none of them."""
        ours = (each for each in (*self.running, *self.pending) if each in prompt_ids)
        return next(ours, None)


@attrs.frozen(eq=False, repr=False)
class Outcome:
    """The outcome of a prompt.

    Attributes:
        event: Its end event, which is published unless one was published before.
        error: The exception for users; ``None``: the one for ``event``, or the result.
        outputs: The outputs of its nodes, if it succeeded.
        complete: Whether these are all of its outputs.
        cached_nodes: The ids of the nodes whose outputs came from the cache.
        fully_cached: Whether no node ran.
        lacks_previews: Whether previews were wanted, and a sampler sent none.
        has_record: Whether the server has a record of it, or will have one.
        is_final: Whether the end is certain; False if the server refused to tell.
    """

    event: EndEvent
    error: Exception | None = None
    outputs: NodeOutputs = attrs.field(factory=dict)
    complete: bool = True
    cached_nodes: tuple[str, ...] = ()
    fully_cached: bool = False
    lacks_previews: bool = False
    has_record: bool = True
    is_final: bool = True

    @property
    def status(self) -> JobStatus:
        """The status with which the prompt ended."""
        return STATUS_OF_EVENT[type(self.event)] if self.error is None else status_of(self.error)


#: The count to which a prompt belongs: submitted, attached, or counted before.
Counted = Literal["submitted", "attached", "before"]


# Not an attrs class, as so many fields would take a tenth of the import time.
class PromptState:
    """The state of a prompt; changed under the lock of the ``Tracker``."""

    # Its submission.
    posted_at: float = 0.0
    accepted_at: float | None = None
    client_id: str = ""  #: The id of the client that submitted it.
    generation: int | None = None  #: The number of the socket at the submission.
    submitter: str | None = None  #: The client id that the queue shows for an attached prompt.
    attached: bool = False  #: Whether its events may go to another client or an older client id.
    lost_delay: float | None = None  #: Seconds between checks until it is lost, if set.
    http_checked: bool = False  #: Whether HTTP has answered once, or failed.
    search_by_mark: bool = False  #: Whether the server may have it under another id.
    # Where it is.
    started: bool = False  #: The socket said so.
    running_since: float | None = None  #: The moment of the first sign that it runs.
    number: float | None = None  #: Its priority in the queue; lower numbers run first.
    is_queued: bool = False  #: Whether the server's last answer was that it waits.
    ahead: int | None = None  #: Prompts before it in the last snapshot of the queue.
    leaves_at: int = 0  #: The number of departed prompts from which it may have left the queue.
    news_at: float = 0.0
    news_by: str = ""  #: ``"socket"``, ``"event stream"`` or ``"HTTP"``.
    heard_at: float = 0.0  #: The last news of it, or of one before it, during refusals.
    # Its course.
    targets: Sequence[str] | None = None  #: The outputs to run; ``None``: all.
    cached: frozenset[str] | None = None
    silent: frozenset[str] = frozenset()  #: Cached outputs for which no event may come.
    node: str | None = None  #: The running node.
    node_since: float = 0.0
    step: Progress | None = None
    states: ProgressState | None = None
    fraction: float = 0.0
    weighed: Weighed = NOTHING_WEIGHED
    wants_previews: bool = False
    sampled: bool = False
    previewed: bool = False
    # Its end.
    end_event: EndEvent | None = None  #: The end event, published or about to be.
    ended: bool = False  #: Whether the socket itself reported the end.
    ended_at: float | None = None
    took: float | None = None  #: Seconds that it ran, by the server's clock.
    decided: bool = False
    cancelled: bool = False  #: Whether we cancelled it while it waited, so that it is not lost.
    awaits_history: bool = False  #: Whether the end was reported and only the record is missing.
    counted: Counted | None = None  #: The count that includes it.
    submission_logged: bool = False  #: Whether the submission was logged, or need not be.
    start_logged: bool = False
    last_line: Callable[[], None] | None = None  #: Logs the end; None: not ended, or logged.
    # When to ask about it.
    check_at: float = float("inf")
    wanted_at: float = 0.0  #: When a caller last asked for news.
    interval: float = 0.0
    missed_at: float | None = None
    loss: str | None = None  #: Why it is lost if the server has it no more; ``None``: unknown.
    late_since: float = 0.0  #: Since when the history is ahead of the socket.
    refusals: int = 0

    def __init__(
        self, prompt_id: str, graph: Mapping[str, Any], budget: Budget, timing: Timing
    ) -> None:
        self.prompt_id = prompt_id
        self.graph: Mapping[str, Any] = graph  #: In API format; empty until it is known.
        self._budget = budget
        self._share: Share | None = None  # its part of the client's memory, once it needs some
        self.timing = timing
        self.tags: Tags = {}  #: The caller's ``tags=``, for log records.
        self.node_errors: Mapping[str, Any] = {}
        self.output_names: Mapping[str, str] = {}  #: Names of nodes, given by a template.
        self.remarks: deque[str] = deque()  #: Texts for the waiting thread to log.
        self.spent: dict[str, float] = {}  #: Seconds by node.
        self.visited: set[str] = set()  #: Nodes that ran, or run.
        self.outputs: dict[str, Mapping[str, Any]] = {}
        self.reported: set[str] = set()
        self.frames: list[tuple[str, str, memoryview]] = []

    @property
    def named(self) -> dict[str, Any]:
        """The attributes that each log record about the prompt has."""
        return prompt_facts(self.prompt_id, self.tags)

    def elapsed(self, now: float) -> float | None:
        """Return the execution time in seconds, so far or in total; None if unknown."""
        if self.took is not None:
            return self.took
        began = self.running_since
        return None if began is None else (self.ended_at or now) - began

    @property
    def is_searched_for(self) -> bool:
        """Whether the server may have it under an id that is not known."""
        return self.search_by_mark and not (self.attached or self.decided)

    # -- submission ------------------------------------------------------------------------

    def accept(self, receipt: models.QueuedPrompt, now: float, link: int | None) -> None:
        """Record that the server has queued the prompt."""
        self.node_errors = {**self.node_errors, **receipt.node_errors}
        self.accepted_at = now
        self.number = receipt.number
        self.interval = self.timing.job_poll if link is None else self.timing.silence
        self.check_at = min(self.check_at, now + self.interval)
        if self.awaits_history or self.cancelled:
            self.check_at = 0.0

    def attach(self, now: float, lost_delay: float | None, end_event: EndEvent | None) -> None:
        """Mark the prompt as submitted earlier and, with ``end_event``, as ended."""
        self.attached = self.submission_logged = True
        self.posted_at = self.accepted_at = now
        self.interval = self.timing.job_poll
        self.lost_delay = lost_delay
        self.end_event = end_event
        self.search_by_mark = end_event is None
        self.awaits_history = end_event is not None

    def may_have_arrived(self, now: float) -> None:
        """Record an interrupted submission: the server may have it, also under another id."""
        self.accepted_at = now
        self.submission_logged = True
        self.lost_delay, self.search_by_mark = self.timing.look_up, True
        self.generation = None  # its events may not come to this socket
        self.check_at = 0.0

    @property
    def was_taken(self) -> bool:
        """Whether events show that the server has accepted the prompt, even without an answer."""
        return self.started or self.ended or self.decided

    # -- events ----------------------------------------------------------------------------

    def is_whole(self, link: int | None) -> bool:
        """Return whether the same socket has been connected since before the submission."""
        return link is not None and link == self.generation

    @property
    def lacks_events(self) -> bool:
        """Whether no event has shown the prompt running, as its events may go to another client."""
        return self.attached and not self.started and self.node is None

    def apply_event(self, event: JobEvent, now: float, link: int | None) -> Outcome | None:
        """Apply an event; ``link`` matters only for the kinds in :data:`MAY_END`."""
        if self.decided:
            return None
        self.news_at, self.news_by = now, "socket"
        apply = _APPLY.get(type(event))
        if apply is None:
            return None  # an event of a node, which does not affect the prompt
        self.check_at = now + self.timing.silence
        self.interval = self.timing.silence
        self.missed_at = None
        if event.nbytes > LARGE and isinstance(event, _REPLACED):
            kind: type = type(event)
            self._keep(kind, event.nbytes, event.raw)
        return apply(self, event, now, link)

    def _progress_state(self, event: ProgressState, now: float, link: int | None) -> None:
        self.states = event

    def _progress(self, event: Progress, now: float, link: int | None) -> None:
        self.step = event
        if not self.sampled:
            self.sampled = "Sampler" in (class_of(self.graph, event.node) or "")

    def _progress_text(self, event: ProgressText, now: float, link: int | None) -> None:
        """Apply a progress text, which only shows that the prompt runs."""

    def _preview(self, event: PreviewEvent, now: float, link: int | None) -> None:
        if not event.final:
            self.previewed = True
        elif event.name == "b_preview":
            self.frames.append((event.node_id or "", event.mime, event.view))
            self._keep(len(self.frames), event.nbytes + LEAST, body_of(event))

    def _executing(self, event: Executing, now: float, link: int | None) -> Outcome | None:
        if self.end_event is None:
            self._node_ends(now)
        if event.node is None:
            return self._after_the_end(link)
        self._runs(now)
        self.node, self.node_since = event.node, now
        if event.node not in self.visited:
            self.visited.add(event.node)
            self._keep(Executing, LEAST * len(self.visited))
        return None

    def _executed(self, event: Executed, now: float, link: int | None) -> None:
        if event.node is not None:
            self.reported.add(event.node)
            self._keep(event.node, event.nbytes + LEAST, event.raw)
            if event.output is not None:
                self.outputs[event.node] = event.output

    def _start(self, event: ExecutionStart, now: float, link: int | None) -> None:
        self.started = True
        self._runs(now)

    def _unknown(self, event: UnknownEvent, now: float, link: int | None) -> None:
        """Note the failure of a node after which the server goes on, if it was asked to."""
        failed = failed_node(event.name, event.data)
        if failed and len(self.node_errors) < _MOST_FAILED:
            self._keep(("failed", *failed), event.nbytes + LEAST, event.raw)
            self.node_errors = {**self.node_errors, **failed}

    def _cached(self, event: ExecutionCached, now: float, link: int | None) -> None:
        self.cached = frozenset(event.nodes)
        # Servers before August 2024 send no ``executed`` for cached nodes.
        if self.cached:
            self.silent = self.cached & sinks(self.graph)

    def _end(self, event: EndEvent, now: float, link: int | None) -> Outcome | None:
        if self.end_event is not event and not event.is_end:
            return None  # a node was blocked
        self.end_event = event
        self.ended = True
        if event.nbytes > LARGE:
            self._keep(EndEvent, event.nbytes, event.raw)
        if isinstance(event, ExecutionError | ExecutionInterrupted):
            return Outcome(event)
        self._node_ends(now)
        if self._saw_it_all(link):
            return self._success(event, self.outputs, link)
        # ``executing`` without a node, or else the next request, will show when it is written.
        self.awaits_history = True
        self.check_at = 0.0
        return None

    @property
    def nbytes(self) -> int:
        """The approximate memory in bytes that the prompt takes until it ends."""
        return 0 if self._share is None else self._share.nbytes

    def _keep(self, key: Hashable, nbytes: int, body: object = None) -> None:
        """Charge data to the client's memory budget: see :meth:`Share.keep`."""
        if self._share is None:
            self._share = Share(self._budget)
        self._share.keep(key, nbytes, body)

    def _node_ends(self, now: float) -> None:
        if self.node is not None:
            self.spent[self.node] = self.spent.get(self.node, 0.0) + now - self.node_since

    def _runs(self, now: float) -> None:
        """Record that the prompt is running."""
        self.ahead = None
        self.cancelled = False
        if self.running_since is None:
            self.running_since = now

    def _after_the_end(self, link: int | None) -> Outcome | None:
        """Apply ``executing`` without a node: the prompt has ended, and the history has it."""
        self.ended = True
        if self.end_event is None and not self.cached and self._saw_it_all(link):
            # Servers before July 2024 give no other sign of success, nor do they report outputs
            # from the cache.
            return self._success(success(self.prompt_id), self.outputs, link)
        self.awaits_history = True
        self.check_at = 0.0
        return None

    def _saw_it_all(self, link: int | None) -> bool:
        """Return whether events alone may decide: one socket, no gap, and every output known."""
        if not self.started or self.cached is None or not self.is_whole(link):
            return False
        return not self.silent - self.reported

    # -- over HTTP -------------------------------------------------------------------------

    def asked(self, now: float, link: int | None) -> None:
        """Record that the server has answered a request about the prompt; schedule the next one."""
        timing = self.timing
        self.http_checked = True
        self.refusals = 0
        least, most = timing.silence, timing.silence_cap
        if link is None:
            least, most = timing.job_poll, timing.job_poll_cap
        elif self.attached:
            least = timing.job_poll_cap
        self.interval = min(most, max(least, self.interval * 1.6))
        self.check_at = now + self.interval

    def apply_queue(self, queue: QueueSnapshot, now: float, link: int | None) -> None:
        """Record the place of the prompt in a queue snapshot that lists it."""
        self.asked(now, link)
        self.missed_at = None
        self.search_by_mark = False
        self.graph = self.graph or queue.graphs.get(self.prompt_id, {})
        self.submitter = self.submitter or queue.clients.get(self.prompt_id)
        before = (self.ahead, self.running_since is None)
        ahead = queue.ahead(self.prompt_id)
        self.leaves_at = queue.departed + (ahead or 0) + 1
        if ahead is None:
            self._runs(now)
        elif self.running_since is None:
            self.ahead = ahead
        if before != (self.ahead, self.running_since is None):
            self.news_at, self.news_by = now, "HTTP"

    def apply_history(
        self,
        entry: models.HistoryEntry | None,
        now: float,
        link: int | None,
        quiet_for: float = float("inf"),
    ) -> Outcome | None:
        """Apply a history entry; None means that neither the queue nor the history has the prompt.

        ``quiet_for`` is the number of seconds since the socket's last byte.
        """
        self.asked(now, link)
        if entry is not None:
            if self._pictures_may_come(entry, now, link, quiet_for):
                self.check_at = now + 1.0
                return None
            return self._from_history(entry, now, link)
        if self.cancelled and not self.awaits_history:
            return Outcome(*deleted(self.prompt_id), has_record=False)
        return self._found_nowhere(now, link)

    def apply_refusal(
        self, exc: ComfyError, until: float, link: int | None, *, most: int, is_over: bool
    ) -> Outcome | None:
        """Count an HTTP refusal; after ``most`` in a row, end the prompt by the known facts.

        Args:
            exc: The refusal.
            until: When to ask again, at the earliest.
            link: The number of the connected socket; ``None``: there is none.
            most: How many refusals in a row are enough; 0: this one does not count.
            is_over: Whether the queue is empty or lacks the prompt, or there was no news for long.
        """
        self.http_checked = True
        self.check_at = max(self.check_at, until)
        # Events that were lost in a gap are never sent again.
        is_over = is_over and not self.is_whole(link)
        is_alone = link is None or self.ended or self.attached or is_over
        self.refusals = self.refusals + 1 if most and is_alone else 0
        if self.decided or not self.refusals or self.refusals < most:
            return None
        if self.end_event is not None:
            return self.as_reported(link)
        event, _ = lost(self.prompt_id, f"out of reach: {exc}")
        # A copy for each prompt, as raising adds a traceback.
        return Outcome(event, error=copy.copy(exc), has_record=False, is_final=False)

    def as_reported(self, link: int | None) -> Outcome:
        """Return the outcome according to the end event alone."""
        event = self.end_event
        if event is None:
            raise ValueError("no end was reported")
        if isinstance(event, ExecutionSuccess):
            return self._success(event, self.outputs, link, complete=False)
        if isinstance(event, JobLostEvent):
            return Outcome(event, lost(self.prompt_id, event.reason)[1])
        return Outcome(event)

    def _pictures_may_come(
        self, entry: models.HistoryEntry, now: float, link: int | None, quiet_for: float
    ) -> bool:
        """Return whether outputs that only the socket delivers may still be on their way."""
        if self.ended or not entry.succeeded or not sends_pictures(self.graph):
            return False
        self.late_since = self.late_since or now
        flows = self.is_whole(link) and quiet_for < self.timing.silence
        return flows and now - self.late_since < self.timing.pictures

    def _from_history(self, entry: models.HistoryEntry, now: float, link: int | None) -> Outcome:
        self.graph = self.graph or entry.workflow
        self.news_at, self.news_by = now, "HTTP"
        if entry.started is not None and entry.ended is not None:
            self.took = entry.ended - entry.started
        if not entry.succeeded:
            return Outcome(failure_event(entry, self.prompt_id))
        if self.cached is None:
            self.cached = frozenset(entry.cached_nodes)
        failed: dict[str, Any] = {}
        for name, data in entry.messages:
            failed |= failed_node(name, data)
        if failed:
            self.node_errors = {**self.node_errors, **failed}
        # The history is authoritative; outputs that only events reported are kept, too.
        outputs = {**self.outputs, **entry.outputs}
        from ..models.queue import prompt_record  # events do not need it

        targets = prompt_record(entry.raw.get("prompt"), "prompt").outputs
        event = success(self.prompt_id, recovered=True)
        return self._success(event, outputs, link, targets=targets)

    def _found_nowhere(self, now: float, link: int | None) -> Outcome | None:
        """Return the outcome of a prompt in neither queue nor history; None to look again."""
        timing = self.timing
        self.missed_at = now if self.missed_at is None else self.missed_at
        gone_for = now - self.missed_at
        if self.awaits_history:
            if gone_for < timing.history:
                self.check_at = now + max(timing.job_poll, gone_for / 2)
            elif self.end_event is not None:
                return self.as_reported(link)
            else:  # no end was reported; the queue may know more
                self.awaits_history = False
                self.check_at = now
        elif gone_for >= (apart := self.lost_delay or timing.lost):
            return Outcome(*lost(self.prompt_id, self.loss), has_record=False)
        else:
            self.check_at = min(now + timing.lost, self.missed_at + apart)
        return None

    # -- the end ---------------------------------------------------------------------------

    def _success(
        self,
        event: EndEvent,
        outputs: NodeOutputs,
        link: int | None,
        *,
        complete: bool = True,
        targets: Sequence[str] = (),
    ) -> Outcome:
        is_whole = self.is_whole(link)
        saw_all = self.ended and is_whole
        if not saw_all and sends_pictures(self.graph):
            complete = False
            self.remarks.append(
                f"prompt {self.prompt_id}: pictures of {SENDER} come over the socket only, and it "
                "did not bring all of this prompt: some may be missing"
            )
        cached = self.cached or frozenset()
        # Nothing runs if no output has to; some nodes before the outputs may never have run.
        ran = self.visited if (self.started and saw_all) or not targets else set(targets) - cached
        return Outcome(
            event,
            outputs=outputs,
            complete=complete,
            cached_nodes=tuple(sorted(cached)),
            fully_cached=bool(cached) and not ran,
            lacks_previews=(
                self.wants_previews and self.sampled and not self.previewed and is_whole
            ),
        )

    def release(self) -> None:
        """Release the data on the prompt's course and outputs, which are no longer needed."""
        if self._share is not None:
            self._share.free()
        self.cached, self.states, self.step = None, None, None
        self.visited, self.reported, self.spent = set(), set(), {}
        self.outputs, self.frames = {}, []
        self.weighed = NOTHING_WEIGHED


#: Events of which only the newest of a kind is kept.
_REPLACED: Final = (Progress, ProgressState, ExecutionCached)
#: Events that may end a prompt.
MAY_END: Final = (Executing, EndEvent)

#: The method that applies each kind of event; other kinds only count as news.
_APPLY: Final[Mapping[type, Callable[[PromptState, Any, float, int | None], Outcome | None]]] = {
    ProgressState: PromptState._progress_state,
    Progress: PromptState._progress,
    ProgressText: PromptState._progress_text,
    PreviewEvent: PromptState._preview,
    Executing: PromptState._executing,
    Executed: PromptState._executed,
    ExecutionStart: PromptState._start,
    ExecutionCached: PromptState._cached,
    UnknownEvent: PromptState._unknown,
    ExecutionSuccess: PromptState._end,
    ExecutionError: PromptState._end,
    ExecutionInterrupted: PromptState._end,
    JobLostEvent: PromptState._end,
}
