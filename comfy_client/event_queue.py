"""Events on their way from one thread to another, and the memory that they may take.

The socket's thread puts events into queues; the delivery thread, iterators and the callbacks of
``run`` take them out.  A queue is bounded: under pressure, the newest event of a kind replaces
older ones, and the least important events are dropped first: see :func:`kind_of` and :func:`_rank`.

Each client has one :class:`Budget` of bytes for data that is held until somebody takes it: events
in queues, and outputs of jobs that have not ended.  Data that is merely remembered is in a
:class:`Newest`.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

import attrs

from . import runtime
from .events import (
    ConnectionEvent,
    EndEvent,
    ErrorEvent,
    Event,
    Executed,
    ExecutionCached,
    ExecutionStart,
    JobEvent,
    MonitorEvent,
    PreviewEvent,
    Progress,
    ProgressState,
    StatusEvent,
    body_of,
)
from .locks import check_may_wait, shared_lock

V = TypeVar("V")

#: The fewest bytes that anything counts for, such as an event with its place in a queue.
LEAST: Final = 600
#: The size from which a body counts only once for all its holders.
LARGE: Final = 1 << 14


class Holder(Protocol):
    """An object whose memory counts against a :class:`Budget`."""

    nbytes: int  #: Roughly the bytes that it holds, alone or shared.
    own: int  #: The bytes among these without a :class:`Charge`.

    def give_way(self, nbytes: int, rank: int) -> int:
        """Release up to ``nbytes`` of data of this rank, 0 to 2; return how many were released."""
        raise NotImplementedError


class Charge:
    """The bytes of a large object, which count once for all holders while this charge is kept."""

    __slots__ = ("__weakref__", "_body", "_budget", "fixed", "nbytes")

    def __init__(self, budget: Budget, body: object, nbytes: int) -> None:
        self._budget = budget
        self._body = body  # kept, so that no other object gets its id, the key of this charge
        self.nbytes: int = nbytes
        #: Whether a :class:`Share` holds it, so that dropping it elsewhere frees nothing.
        self.fixed: bool = False
        budget.used += nbytes

    def __del__(self) -> None:
        self._budget.used -= self.nbytes


class Budget:
    """A limit on the memory of several holders together, which it references weakly."""

    def __init__(self, most: int) -> None:
        self.most = most
        #: The bytes of all holders.  They add and subtract without a lock, as ``+=`` of a number is
        #: not interrupted.  The next count subtracts the bytes of collected holders.
        self.used: int = 0
        self.dropped = 0  #: How many events its holders have dropped although somebody wanted them.
        self._is_ours: weakref.WeakMethod[Callable[[str | None], bool]] | None = None
        self._holders: set[weakref.ref[Holder]] = set()
        self._charges: weakref.WeakValueDictionary[int, Charge] = weakref.WeakValueDictionary()

    def prefer(self, is_ours: Callable[[str | None], bool]) -> None:
        """Set the function, held weakly, that recognizes the client's own prompts."""
        self._is_ours = weakref.WeakMethod(is_ours)

    def is_ours(self, prompt_id: str | None) -> bool:
        """Return whether a prompt is the client's own; True while no function is set."""
        is_ours = None if self._is_ours is None else self._is_ours()
        return is_ours is None or is_ours(prompt_id)

    def join(self, holder: Holder) -> None:
        """Count a holder's bytes from now on, until it is collected."""
        # The callback is a C function, as nothing can interrupt it.
        self._holders.add(weakref.ref(holder, self._holders.discard))

    def after_fork(self) -> None:
        """Forget all holders in the child of a fork, where their locks may stay held for ever.

        Holders that are used again join again.
        """
        self._holders.clear()
        self.used = sum(charge.nbytes for charge in list(self._charges.values()))

    def charge(self, body: object, nbytes: int) -> Charge:
        """Return the charge for a large object, which all holders of the object share."""
        found = self._charges.get(id(body))
        if found is None:  # at worst, two threads count it twice
            found = self._charges[id(body)] = Charge(self, body, nbytes)
        return found

    def relieve(self) -> bool:
        """Release the least important data if there is too much; return whether all fits now.

        The holders with the most bytes come first.
        """
        holders = [one for ref in self._holders.copy() if (one := ref()) is not None]
        charges = [ref() for ref in self._charges.valuerefs()]
        large = sum(charge.nbytes for charge in charges if charge is not None)
        del charges
        self.used = large + sum(one.own for one in holders)
        fixed = sum(one.nbytes for one in holders if isinstance(one, Share))
        if self.used > self.most >= fixed:
            goal = max(self.most // 8 * 7, fixed + (self.most - fixed) // 2)
            holders.sort(key=lambda one: one.nbytes, reverse=True)
            for rank in range(3):
                # Repeat, since others may hold the bodies that one holder has released.
                while self.used > goal and self._give_way(holders, goal, rank):
                    pass
        return self.used <= self.most

    def _give_way(self, holders: Sequence[Holder], goal: int, rank: int) -> int:
        gone = 0
        for one in holders:
            if self.used > goal:
                gone += one.give_way(self.used - goal, rank)
        return gone


class Share:
    """A holder's share of a budget, by purpose; its data is never released under pressure."""

    def __init__(self, budget: Budget) -> None:
        self.nbytes: int = 0
        self.own: int = 0
        self._budget = budget
        self._sizes: dict[Hashable, int] = {}
        self._charges: dict[Hashable, Charge] = {}
        budget.join(self)

    def keep(self, key: Hashable, nbytes: int, body: object = None) -> None:
        """Set the bytes that are charged for a key, replacing its former charge.

        ``body`` is the object with these bytes, if other holders may share it.
        """
        if self._charges:
            self._uncharge(key)
        if body is not None and nbytes >= LARGE:
            charge = self._charges[key] = self._budget.charge(body, nbytes)
            charge.fixed = True
            self.nbytes += charge.nbytes
            nbytes = 0
        more = nbytes - self._sizes.get(key, 0)
        self._sizes[key] = nbytes
        self.nbytes += more
        self.own += more
        self._budget.used += more

    def _uncharge(self, key: Hashable) -> None:
        charge = self._charges.pop(key, None)
        if charge is not None:
            charge.fixed = False
            self.nbytes -= charge.nbytes

    def give_way(self, nbytes: int, rank: int) -> int:
        """Release nothing, as a job's data must stay."""
        return 0

    def free(self) -> None:
        """Give all bytes of the share back to the budget."""
        for key in list(self._charges):
            self._uncharge(key)
        self._budget.used -= self.own
        self.nbytes = self.own = 0
        self._sizes.clear()


class Newest(Generic[V]):
    """A dict of the newest entries, bounded in number and in bytes.

    Not thread-safe: its owner has a lock for it.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self.clear()

    def clear(self) -> None:
        """Remove all entries."""
        self.entries: dict[Hashable, tuple[V, int]] = {}  #: Each entry and its bytes; read only.
        self._last = 0  # entry without a key
        self.nbytes: int = 0  #: Roughly the bytes of all entries.
        self.forgotten: int = 0  #: How many entries were removed for newer ones.

    def put(self, key: Hashable, value: V, nbytes: int = 0) -> None:
        """Store a value; remove the oldest ones beyond the limits."""
        self.pop(key)
        nbytes += LEAST
        self.entries[key] = value, nbytes
        self.nbytes += nbytes
        while len(self.entries) > self._most or self.nbytes > self._most_bytes:
            self.pop(next(iter(self.entries)))
            self.forgotten += 1

    def append(self, value: V, nbytes: int = 0) -> None:
        """Store a value without a key."""
        self._last += 1
        self.put(self._last, value, nbytes)

    def pop(self, key: Hashable) -> None:
        """Remove a key, if present."""
        found = self.entries.pop(key, None)
        if found is not None:
            self.nbytes -= found[1]

    def get(self, key: Hashable) -> V | None:
        """Return the value of a key, or None."""
        found = self.entries.get(key)
        return None if found is None else found[0]

    def values(self) -> list[V]:
        """Return all values, oldest first."""
        return [value for value, _ in list(self.entries.values())]

    def __contains__(self, key: object) -> bool:
        return key in self.entries

    def __len__(self) -> int:
        return len(self.entries)


# -- queues ------------------------------------------------------------------------------

#: From this many waiting events on, a new one replaces all older ones of its kind.
HIGH_WATER: Final = 64
#: The most waiting events.  Beyond that, only outputs and ends of own prompts, and changes of the
#: connection, are accepted, each in place of the oldest event that matters less.
MAX_QUEUED: Final = 10_000
#: The most bytes of waiting events without a shared :class:`Budget`.
MAX_BYTES: Final = 192 << 20


class Timed(Protocol):
    """A receiver that is also called at certain times."""

    def tick(self) -> float:
        """Do the work that is due; return the seconds until the next call."""
        raise NotImplementedError


@attrs.frozen(eq=False, kw_only=True, repr=False)
class Addressed(Event):
    """An event for one receiver of a shared queue, or a call between events.

    Attributes:
        to: The receiver.
        call: The function to call in its turn.
        event: The event; ``None``: a call without one, which is never dropped.
    """

    to: Timed
    call: Callable[[], float]
    event: Event | None = None


def kind_of(event: Event) -> Hashable | None:
    """Return a key if only the newest event with that key matters, or None if each event does."""
    # Judge by class, as a server may send anything under an event's name.
    key = _KEYS.get(type(event))
    return None if key is None else key(event)


def _key_of_addressed(event: Addressed) -> Hashable | None:
    kind = None if event.event is None else kind_of(event.event)
    return None if kind is None else (id(event.to), kind)


#: The function that returns the key of an event, for classes of which the newest may suffice.
_KEYS: Final[Mapping[type, Callable[[Any], Hashable | None]]] = {
    Progress: lambda event: (event.name, event.prompt_id, event.node),
    PreviewEvent: lambda event: None if event.final else (event.name, event.node_id),
    ProgressState: lambda event: (event.name, event.prompt_id),
    StatusEvent: lambda event: event.name,
    MonitorEvent: lambda event: event.name,
    Addressed: _key_of_addressed,
}


def _rank(event: Event) -> int:
    """Return an event's rank: 0 may be dropped, 1 matters, 2 cannot be learned in another way."""
    if isinstance(event, Addressed):
        return 2 if event.event is None else _rank(event.event)
    if isinstance(event, EndEvent):
        return 2
    if isinstance(event, PreviewEvent):
        return int(event.final)
    kinds = (Executed, ExecutionStart, ExecutionCached, ConnectionEvent, ErrorEvent)
    return int(isinstance(event, kinds))


class EventQueue:
    """A bounded queue of events, in the order in which they were put.

    ``high_water`` is how many may wait before newer ones replace older ones of their kind; 0 means
    that nobody reads yet, and a later reader gets only the newest.  ``budget`` is shared with other
    queues: the one that uses most of it drops events, first events of other clients' prompts.
    ``events`` are in it from the beginning.
    """

    def __init__(
        self,
        events: Iterable[Event] = (),
        *,
        high_water: int = HIGH_WATER,
        budget: Budget | None = None,
    ) -> None:
        self._high_water = high_water
        self._budget = Budget(MAX_BYTES) if budget is None else budget
        self.reset()
        for event in events:
            self._add(event)

    def reset(self) -> None:
        """Reset to a new queue with a new lock, as after a fork the old one may stay held."""
        self._budget.join(self)
        # Guards the queue; no other lock is taken while it is held.  Re-entrant, since the garbage
        # collector may close this queue's iterator during a ``put``; the data allow that.
        self._lock = shared_lock()
        self._changed = runtime.Condition(self._lock)
        self._waiting: OrderedDict[int, Event] = OrderedDict()  # by running number
        self._of_kind: dict[Hashable, list[int]] = {}  # numbers of events that may be replaced
        self._last = 0  # number of the event that was put last
        self._in_hand: int | None = None  # number of the event that the reader is working on
        self._bytes_in_hand = 0  # the bytes of that event
        self._closed = False
        self._is_awaited = False  # whether a thread waits for a change
        #: Called after each ``put`` and ``close``, in their thread, for a reader that does not wait
        #: in ``get``; must be quick, and not raise.
        self.notify: Callable[[], object] | None = None
        self._charges: dict[int, Charge] = {}  # large events, by number
        self.nbytes: int = 0  #: The bytes of all events, waiting or in hand.
        self.own: int = 0  #: The bytes of events without a charge.
        self.dropped: int = 0  #: How many events were replaced by newer ones, or did not fit.

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    # -- in and out ------------------------------------------------------------------------

    def put(self, event: Event) -> None:
        """Add an event; never block for long, never raise."""
        budget = self._budget
        with self._lock:
            if self._closed:
                return
            self._add(event)
            if self._is_awaited:
                self._wake()
        if self.notify is not None:
            self.notify()
        if budget.used > budget.most:
            budget.relieve()  # without the lock, since it takes the locks of other queues

    def _add(self, event: Event) -> None:
        kind = kind_of(event)
        waiting, of_kind = self._waiting, self._of_kind
        if kind is not None and len(waiting) >= self._high_water:
            for number in of_kind.pop(kind, ()):
                self._drop(number)
        if len(waiting) >= MAX_QUEUED:
            if not self._rank(event):
                self.dropped += 1
                self._budget.dropped += bool(self._high_water)
                return
            # Down to three quarters, so that not each event needs a search.
            self._make_room(len(waiting) - MAX_QUEUED * 3 // 4, 0)
        self._last = number = self._last + 1
        waiting[number] = event
        if kind is not None:
            of_kind.setdefault(kind, []).append(number)
        nbytes = event.nbytes
        self.nbytes += nbytes
        if nbytes >= LARGE and kind is None:
            inner = event.event if isinstance(event, Addressed) else None
            self._charges[number] = self._budget.charge(body_of(inner or event), nbytes)
        else:  # a newer one soon replaces it
            self.own += nbytes
            self._budget.used += nbytes

    def get(self, timeout: float | None = None) -> Event | None:
        """Return the next event; None once the queue is closed or ``timeout`` seconds have passed.

        Taking an event marks the previous one as done, for :meth:`flush`.
        """
        if timeout != 0 and not self._waiting:
            check_may_wait()
        with self._lock:
            if self._in_hand is not None:
                self._uncount(self._in_hand, self._bytes_in_hand)
                self._in_hand = None
                if self._is_awaited:
                    self._wake()
            self._high_water = HIGH_WATER
            if not self._waiting:
                self._wait(lambda: bool(self._waiting) or self._closed, timeout)
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
        """Keep all events from now on, as a reader is about to come."""
        self._high_water = HIGH_WATER

    def flush(self, timeout: float) -> bool:
        """Wait until all events so far have been processed; return whether they have."""
        with self._lock:
            goal = self._last
            return self._wait(lambda: self._closed or self._oldest() > goal, timeout)

    def _wait(self, is_over: Callable[[], bool], timeout: float | None) -> bool:
        """Wait, with the lock held, until ``is_over()``; return whether it is."""

        def asked() -> bool:  # before each wait
            self._is_awaited = True
            return is_over()

        return self._changed.wait_for(asked, timeout)

    def _wake(self) -> None:
        """Wake all threads that wait, once: each says so again before it waits further."""
        self._is_awaited = False
        self._changed.notify_all()

    def _oldest(self) -> int:
        """Return the number of the oldest event that is not done."""
        if self._in_hand is not None:
            return self._in_hand
        return next(iter(self._waiting), self._last + 1)

    def close(self) -> None:
        """Drop all waiting events; ``get`` returns ``None`` from now on."""
        with self._lock:
            self._closed = True
            # Replaced, not cleared: a reader may be iterating over it.
            self._waiting, self._of_kind, self._charges = OrderedDict(), {}, {}
            self._in_hand = None
            self._budget.used -= self.own
            self.nbytes = self.own = 0
            self._wake()
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
                    continue  # a job keeps it, so dropping it frees nothing
                event = self._waiting.get(number)
                if event is not None:
                    self._forget_kind(number, event)
                    self._drop(number)
                    count -= 1
        return before - self.nbytes

    def _rank(self, event: Event) -> int:
        """Rank an event; events of other clients' prompts matter little."""
        rank = _rank(event)
        # An addressed event is about a prompt of this client.
        if rank and isinstance(event, JobEvent) and not self._budget.is_ours(event.prompt_id):
            return 0
        return rank

    def _forget_kind(self, number: int, event: Event) -> None:
        kind = kind_of(event)
        numbers = self._of_kind.get(kind, [])
        if number in numbers:
            numbers.remove(number)
            if not numbers:
                self._of_kind.pop(kind, None)

    def _drop(self, number: int) -> None:
        event = self._waiting.pop(number, None)
        if event is not None:
            self._uncount(number, event.nbytes)
            self.dropped += 1
            self._budget.dropped += bool(self._high_water)

    def _uncount(self, number: int, nbytes: int) -> None:
        """Subtract an event's bytes from those of the queue and the budget."""
        self.nbytes -= nbytes
        if nbytes < LARGE or self._charges.pop(number, None) is None:
            self.own -= nbytes
            self._budget.used -= nbytes
