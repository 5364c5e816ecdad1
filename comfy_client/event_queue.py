"""Events on their way from one thread to another: bounded, and the newest wins under pressure.

The socket's thread puts events into queues; the delivery thread, iterators and the callbacks of
``run`` take them out.  What matters least gives way: see :func:`_rank` and :func:`_kind`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Final, Protocol

import attrs

from . import runtime
from .budget import LARGE, Budget, Charge
from .events import (
    ConnectionEvent,
    EndEvent,
    ErrorEvent,
    Event,
    Executed,
    ExecutionCached,
    ExecutionStart,
    JobEvent,
    PreviewEvent,
    Progress,
    ProgressState,
    StatusEvent,
    body_of,
)
from .locks import check_may_wait, shared_lock
from .tracebacks import short_interrupts

#: From this many waiting events on, a new one takes the place of all of its kind.
HIGH_WATER: Final = 64
#: At most this many wait.  Then of what comes, only an output or an end of a prompt of ours, or a
#: change of the connection is taken, and the oldest of what matters less goes for it.
MAX_QUEUED: Final = 10_000
#: So many bytes of them, where nobody shares: see :mod:`comfy_client.budget`.
MAX_BYTES: Final = 192 << 20


class Timed(Protocol):
    """A receiver that the reader of a queue calls again and again."""

    def tick(self) -> float:
        """Do what is due; return in how many seconds something is due again."""
        raise NotImplementedError


@attrs.frozen(eq=False, kw_only=True, repr=False)
class Addressed(Event):
    """An event for one of those who share a queue, or a word to them between the events.

    Attributes:
        to: Whom it is for.
        call: What is called in its turn.
        event: The event; ``None``: there is none, and it must arrive.
    """

    to: Timed
    call: Callable[[], float]
    event: Event | None = None


def _kind(event: Event) -> Hashable | None:
    """Return the key of events of which only the newest counts; None if every one counts."""
    # By class: a server may send anything under the name of one.
    if isinstance(event, Progress):
        return (event.name, event.prompt_id, event.node)
    if isinstance(event, PreviewEvent):
        return None if event.final else (event.name, event.node_id)
    if isinstance(event, ProgressState):
        return (event.name, event.prompt_id)
    if isinstance(event, Addressed):
        kind = None if event.event is None else _kind(event.event)
        return None if kind is None else (id(event.to), kind)
    return event.name if isinstance(event, StatusEvent) else None


def _rank(event: Event) -> int:
    """Return an event's rank: 0: it may be dropped; 1: it matters; 2: nothing else tells this."""
    if isinstance(event, Addressed):
        return 2 if event.event is None else _rank(event.event)
    if isinstance(event, EndEvent):
        return 2
    if isinstance(event, PreviewEvent):
        return int(event.final)
    kinds = (Executed, ExecutionStart, ExecutionCached, ConnectionEvent, ErrorEvent)
    return int(isinstance(event, kinds))


class EventQueue:
    """A bounded queue of events; what is left comes in the order in which it was put.

    ``high_water`` is how many may wait before newer ones take the place of older ones of their
    kind; 0: nobody reads yet, and a later reader gets only the newest.  ``budget`` is shared with
    others: who holds most of it gives way, first with what is about prompts that are not ours.
    """

    def __init__(self, *, high_water: int = HIGH_WATER, budget: Budget | None = None) -> None:
        self._high_water = high_water
        self._budget = Budget(MAX_BYTES) if budget is None else budget
        self.reset()

    def reset(self) -> None:
        """Reset to a new queue with a new lock, as after a fork the old one may stay held."""
        self._budget.join(self)
        # Guards all in here; no other lock is taken while it is held.  Re-entrant, and what it
        # guards stands it: the collector may end an iterator, whose queue this is, in a ``put``.
        self._lock = shared_lock(is_small=True)
        self._changed = runtime.Condition(self._lock)
        self._waiting: OrderedDict[int, Event] = OrderedDict()  # by running number
        self._of_kind: dict[Hashable, list[int]] = {}  # numbers of those that may give way
        self._last = 0  # number of the event that was put last
        self._in_hand: int | None = None  # of the one that was taken and is not done with ...
        self._bytes_in_hand = 0  # ... and its bytes
        self._closed = False
        #: Called after each ``put`` and ``close``, in their thread, for a reader who does not wait
        #: in ``get``; it must be quick, and not raise.
        self.notify: Callable[[], object] | None = None
        self._charges: dict[int, Charge] = {}  # of large events, by number
        self.nbytes: int = 0  #: Of all events, waiting or in hand.
        self.own: int = 0  #: Of those without a charge.
        self.dropped: int = 0  #: Events that gave way to newer ones, or found no room.

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    # -- in and out ------------------------------------------------------------------------

    def put(self, event: Event) -> None:
        """Add an event; never block for long, never raise."""
        kind = _kind(event)
        budget = self._budget
        with self._lock:
            if self._closed:
                return
            waiting, of_kind = self._waiting, self._of_kind
            if kind is not None and len(waiting) >= self._high_water:
                for number in of_kind.pop(kind, ()):
                    self._drop(number)
            if len(waiting) >= MAX_QUEUED:
                if not self._rank(event):
                    self._count_drop()
                    return
                # To three quarters: not a search for each event.
                self._make_room(len(waiting) - MAX_QUEUED * 3 // 4, 0)
            self._last = number = self._last + 1
            waiting[number] = event
            if kind is not None:
                of_kind.setdefault(kind, []).append(number)
            nbytes = event.nbytes
            self.nbytes += nbytes
            if nbytes >= LARGE and kind is None:
                inner = event.event if isinstance(event, Addressed) else None
                self._charges[number] = budget.charge(body_of(inner or event), nbytes)
            else:  # the newest soon takes its place
                self.own += nbytes
                budget.used += nbytes
            self._changed.notify_all()
        if self.notify is not None:
            self.notify()
        if budget.used > budget.most:
            budget.relieve()  # without the lock: it takes those of other queues

    def get(self, timeout: float | None = None) -> Event | None:
        """Return the next event; ``None`` when the queue is closed or ``timeout`` seconds passed.

        Taking an event says that the one before is done with, which :meth:`flush` waits for.
        """
        if timeout != 0:
            check_may_wait()
        with self._lock:
            if self._in_hand is not None:
                self._uncount(self._in_hand, self._bytes_in_hand)
                self._in_hand = None
                self._changed.notify_all()
            self._high_water = HIGH_WATER
            waiting = self._waiting
            if not waiting:
                with short_interrupts:
                    self._changed.wait_for(lambda: self._waiting or self._closed, timeout)
                waiting = self._waiting
            if not waiting:
                return None
            number, event = waiting.popitem(last=False)
            if self._of_kind:
                self._forget_kind(number, event)
            # The reader holds it for a while.
            self._in_hand, self._bytes_in_hand = number, event.nbytes
            return event

    def listen(self) -> None:
        """Keep as much as for a reader, as one is about to read."""
        self._high_water = HIGH_WATER

    def flush(self, timeout: float) -> bool:
        """Wait until all that was put before this call is done with; return whether it is."""
        with self._lock:
            goal = self._last
            return self._changed.wait_for(lambda: self._closed or self._oldest() > goal, timeout)

    def _oldest(self) -> int:
        """Return the number of the oldest event that is not done with."""
        if self._in_hand is not None:
            return self._in_hand
        return next(iter(self._waiting), self._last + 1)

    def close(self) -> None:
        """Drop what still waits; ``get`` returns ``None`` from now on."""
        with self._lock:
            self._closed = True
            # Not cleared: a reader that is in the middle of it keeps what is dropped.
            self._waiting, self._of_kind, self._charges = OrderedDict(), {}, {}
            self._in_hand = None
            self._budget.used -= self.own
            self.nbytes = self.own = 0
            self._changed.notify_all()
        if self.notify is not None:
            self.notify()

    # -- under pressure ----------------------------------------------------------------------

    def give_way(self, nbytes: int, rank: int) -> int:
        """Drop up to ``nbytes`` of waiting events of a rank; return how many bytes were dropped."""
        with self._lock:
            return self._make_room(0, nbytes, (rank,))

    def _make_room(self, count: int, nbytes: int, ranks: Iterable[int] = range(3)) -> int:
        """Drop the oldest events of the lowest ranks, until enough events and bytes are gone."""
        before = self.nbytes
        for rank in ranks:
            for number in [n for n, one in self._waiting.items() if self._rank(one) == rank]:
                if count <= 0 and before - self.nbytes >= nbytes:
                    break
                charge = self._charges.get(number)
                if count <= 0 and charge is not None and charge.fixed:
                    continue  # a job keeps it: nothing is gained
                event = self._waiting.get(number)
                if event is not None:
                    self._forget_kind(number, event)
                    self._drop(number)
                    count -= 1
        return before - self.nbytes

    def _rank(self, event: Event) -> int:
        """Rank an event; those of other clients' prompts matter little."""
        rank = _rank(event)
        # What is addressed to anybody is about a prompt of ours.
        if rank and isinstance(event, JobEvent) and not self._budget.is_ours(event.prompt_id):
            return 0
        return rank

    def _forget_kind(self, number: int, event: Event) -> None:
        kind = _kind(event)
        numbers = self._of_kind.get(kind, [])
        if number in numbers:
            numbers.remove(number)
            if not numbers:
                self._of_kind.pop(kind, None)

    def _drop(self, number: int) -> None:
        event = self._waiting.pop(number, None)
        if event is not None:
            self._uncount(number, event.nbytes)
            self._count_drop()

    def _count_drop(self) -> None:
        self.dropped += 1
        if self._high_water:
            self._budget.dropped += 1

    def _uncount(self, number: int, nbytes: int) -> None:
        """Release the bytes of an event."""
        self.nbytes -= nbytes
        if nbytes < LARGE or self._charges.pop(number, None) is None:
            self.own -= nbytes
            self._budget.used -= nbytes
