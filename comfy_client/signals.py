"""Signals, callbacks, and the one thread in which they are called.

The documented names are signals of blinker's default namespace (or of the one given to
``ComfyApi``).  A server may send any other name; those go to ``all``, to
``api.on(name, ...)`` and to a namespace of our own that :func:`signal` reaches, so that no
server can fire a signal that some other library keeps under that name.

The socket's thread only puts events into an :class:`EventQueue`.  The delivery thread,
started with the first receiver, takes them out and calls the receivers one after the other:
a slow one delays the others, never the socket; one that raises is logged, and the others
still run.
"""

from __future__ import annotations

import inspect
import logging
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final, Literal, TypeVar

import attrs
import blinker

from .budget import LARGE, Budget, Charge
from .events import (
    NAMES,
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
    UnknownEvent,
    body_of,
)
from .threads import was_started
from .tracebacks import short_interrupts
from .workflow.graph import nearest

log: logging.Logger = logging.getLogger("comfy_client")

#: From this many waiting events on, a new one takes the place of all of its kind.
HIGH_WATER: Final = 64
#: At most this many wait.  Then of what comes, only an output or an end of a prompt of ours, or a
#: change of the connection is taken, and the oldest of what matters less goes for it.
MAX_QUEUED: Final = 10_000
#: So many bytes of them, where nobody shares: see :mod:`comfy_client.budget`.
MAX_BYTES: Final = 192 << 20


_Receiver = TypeVar("_Receiver", bound=Callable[..., Any])


class _Signal(blinker.NamedSignal):
    """blinker's, with a word for whoever connects what will be gone at once."""

    _has_warned = False

    def connect(
        self, receiver: _Receiver, sender: Any = blinker.ANY, weak: bool = True
    ) -> _Receiver:
        is_nameless = getattr(receiver, "__name__", None) == "<lambda>"
        if weak and not self._has_warned and (is_nameless or isinstance(receiver, partial)):
            self._has_warned = True
            log.warning(
                "signal(%r) keeps only a weak reference to %r, which is gone at once, and never "
                "called, unless something else keeps it: connect a named function, or pass "
                "weak=False",
                self.name,
                receiver,
            )
        return super().connect(receiver, sender, weak)


_other_names = blinker.Namespace()


def signal(name: str) -> blinker.NamedSignal:
    """The signal of that name: in blinker's default namespace for documented names, else in ours.

    ``signal("progress").connect(fn)`` keeps only a weak reference to ``fn``, as always in
    blinker: connect a named function, or pass ``weak=False``.  ``fn`` is called with the
    ``ComfyApi`` and one event, in the delivery thread.  A lambda that is connected without
    ``weak=False``, or a name that is almost one of ComfyUI's, logs a warning once.
    """
    namespace = blinker.default_namespace if name in NAMES else _other_names
    if name not in namespace:
        warn_of_name(name)
        # Of one that was made by ``blinker.signal`` before, blinker knows nothing to say.
        namespace.setdefault(name, _Signal(name))
    return namespace[name]


def warn_of_name(name: str) -> None:
    """Any name may be sent by a custom node; one that is nearly ComfyUI's own, hardly."""
    likely = () if name in NAMES else nearest(name, NAMES, 1)
    if likely:
        log.warning("%r is no event of ComfyUI's own; did you mean %r?", name, likely[0])


# -- the queue between threads ----------------------------------------------------------


def _kind(event: Event) -> Hashable | None:
    """What makes an older event worthless once a newer one came; ``None``: nothing does."""
    # By class: a server may send anything under the name of one.
    if isinstance(event, Progress):
        return (event.name, event.prompt_id, event.node)
    if isinstance(event, PreviewEvent):
        return None if event.final else (event.name, event.node_id)
    if isinstance(event, ProgressState):
        return (event.name, event.prompt_id)
    return event.name if isinstance(event, StatusEvent) else None


def _rank(event: Event) -> int:
    """How much it matters that it arrives: 0 little, 1 much, 2 nothing else says it."""
    if isinstance(event, EndEvent):
        return 2
    if isinstance(event, PreviewEvent):
        return int(event.final)
    kinds = (Executed, ExecutionStart, ExecutionCached, ConnectionEvent, ErrorEvent)
    return int(isinstance(event, kinds))


class EventQueue:
    """Events on their way to another thread; bounded, and the newest wins under pressure.

    What is left comes in the order in which it was put.  ``high_water`` is how many may wait
    before newer ones take the place of older ones of their kind; 0: nobody reads yet, and
    whoever comes gets only the newest.  ``budget`` is shared with others: who holds most of it
    gives way.  ``ours`` has the last word on whose prompts these
    are, of which more matters; empty: all are ours.
    """

    def __init__(
        self,
        *,
        high_water: int = HIGH_WATER,
        budget: Budget | None = None,
        ours: Sequence[weakref.WeakMethod[Callable[[str | None], bool]]] = (),
    ) -> None:
        self._high_water = high_water
        self._ours = ours
        self._budget = Budget(MAX_BYTES) if budget is None else budget
        self.reset()
        self._budget.join(self)

    def reset(self) -> None:
        """As new, with a new lock: after a fork the old one may be held for ever."""
        self.dropped: int = 0  #: Events that gave way to newer ones, or found no room.
        # Guards all in here.  Re-entrant, and what it guards stands it: the collector may end an
        # iterator, or a signal handler the client, while this very thread is in here.  Taken
        # itself: a Ctrl-C in the Condition's own ``with`` may leave it held for ever.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._waiting: OrderedDict[int, Event] = OrderedDict()  # by running number
        self._of_kind: dict[Hashable, list[int]] = {}  # numbers of those that may give way
        self.nbytes: int = 0  #: Of all that waits, and of what is in hand.
        self.own: int = 0  #: The same without what is in these:
        self._charges: dict[int, Charge] = {}  # of what is large, by number
        self._last = 0  # number of the event that was put last
        self._in_hand: int | None = None  # of the one that was taken and is not done with ...
        self._bytes_in_hand = 0  # ... and what it counts until then
        self._closed = False

    def put(self, event: Event) -> None:
        """Never blocks for long, never raises."""
        kind = _kind(event)
        budget = self._budget
        with self._lock:
            if self._closed:
                return
            waiting, of_kind = self._waiting, self._of_kind
            if kind is not None and len(waiting) >= self._high_water:
                for number in of_kind.pop(kind, ()):
                    if (older := waiting.pop(number, None)) is not None:
                        self._drop(number, older)
            if len(waiting) >= MAX_QUEUED:
                if not self._rank(event):
                    self._count_drop()
                    return
                # To three quarters: not a search for each event.
                self._give_way(len(waiting) - MAX_QUEUED * 3 // 4, 0)
            self._last = number = self._last + 1
            waiting[number] = event
            nbytes = event.nbytes
            self.nbytes += nbytes
            if nbytes >= LARGE:
                self._charges[number] = budget.charge(body_of(event), nbytes)
            else:
                self.own += nbytes
                budget.used += nbytes
            if kind is not None:
                of_kind.setdefault(kind, []).append(number)
            self._changed.notify_all()
        if budget.used > budget.most:
            budget.relieve()  # without the lock: others have theirs

    def give_way(self, nbytes: int, rank: int) -> int:
        """Drop so many bytes of what matters so much, if so many wait; how many it did."""
        with self._lock:
            return self._give_way(0, nbytes, (rank,))

    def _give_way(self, count: int, nbytes: int, ranks: Iterable[int] = range(3)) -> int:
        """The oldest of what matters least: so many events, and so many bytes."""
        waiting, of_kind = self._waiting, self._of_kind
        before = self.nbytes
        goal = before - nbytes
        for rank in ranks:
            for number in [n for n, event in waiting.items() if self._rank(event) == rank]:
                if count <= 0 and self.nbytes <= goal:
                    break
                charge = self._charges.get(number)
                if count <= 0 and charge is not None and charge.fixed:
                    continue  # a job keeps it: nothing is gained
                if (event := waiting.pop(number, None)) is not None:
                    self._left(of_kind, number, event)
                    self._drop(number, event)
                    count -= 1
        return before - self.nbytes

    def _drop(self, number: int, event: Event) -> None:
        """It was taken out, and nobody gets it."""
        self._uncount(number, event.nbytes)
        self._count_drop()

    def _count_drop(self) -> None:
        self.dropped += 1
        if self._high_water:
            self._budget.dropped += 1

    def _uncount(self, number: int, nbytes: int) -> None:
        """It is not held any more."""
        self.nbytes -= nbytes
        if self._charges.pop(number, None) is None:
            self.own -= nbytes
            self._budget.used -= nbytes

    def _rank(self, event: Event) -> int:
        """How much it matters; what it says of others' prompts, little."""
        rank = _rank(event)
        if rank and self._ours and isinstance(event, JobEvent):
            is_ours = self._ours[-1]()
            if is_ours is not None and not is_ours(event.prompt_id):
                return 0
        return rank

    def _left(self, of_kind: dict[Hashable, list[int]], number: int, event: Event) -> None:
        """It waits no more."""
        kind = _kind(event) if of_kind else None
        numbers = of_kind.get(kind, [])
        if number in numbers:
            numbers.remove(number)
            if not numbers:
                del of_kind[kind]

    def get(self, timeout: float | None = None) -> Event | None:
        """The next event; ``None`` when the queue is closed or ``timeout`` seconds passed.

        Taking an event says that the one before is done with, which :meth:`flush` waits for.
        """
        with self._lock:
            self._put_down()
            self._high_water = HIGH_WATER
            self._changed.notify_all()
            if not self._waiting:
                with short_interrupts:
                    self._changed.wait_for(lambda: self._waiting or self._closed, timeout)
            waiting, of_kind = self._waiting, self._of_kind
            if not waiting:
                return None
            self._in_hand, event = waiting.popitem(last=False)
            self._left(of_kind, self._in_hand, event)
            self._bytes_in_hand = event.nbytes  # whoever takes it holds it for a while
            return event

    def _put_down(self) -> None:
        """Nothing is in hand any more."""
        number, self._in_hand = self._in_hand, None
        if number is not None:
            self._uncount(number, self._bytes_in_hand)

    def listen(self) -> None:
        """Someone is about to read: keep as much as for a reader."""
        self._high_water = HIGH_WATER

    def flush(self, timeout: float) -> bool:
        """Wait until all that was put before this call is done with; whether it is."""
        with self._lock:
            goal = self._last
            return self._changed.wait_for(lambda: self._closed or self._oldest() > goal, timeout)

    def _oldest(self) -> int:
        """The number of the oldest event that is not done with."""
        if self._in_hand is not None:
            return self._in_hand
        return next(iter(self._waiting), self._last + 1)

    def close(self) -> None:
        """What still waits is dropped; ``get`` answers ``None`` from now on."""
        with self._lock:
            self._closed = True
            # Not cleared: whoever is in the middle of it goes on with what is dropped.
            self._waiting, self._of_kind, self._charges = OrderedDict(), {}, {}
            self._in_hand = None
            self._budget.used -= self.own
            self.nbytes = self.own = 0
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed


# -- receivers --------------------------------------------------------------------------


@attrs.frozen(eq=False)
class _Registration:
    callback: Callable[[Any], object]
    once: bool


#: By name, in the order in which they came; replaced, never changed.
_Callbacks = dict[str, dict[_Registration, None]]
#: How a receiver takes its arguments; ``None``: not at all.
_Way = Literal["positional", "keyword"] | None


class Receivers:
    """Everyone who wants events of one client.  The client owns it; threads hold it weakly."""

    def __init__(
        self, sender: object, namespace: blinker.Namespace | None, budget: Budget | None = None
    ) -> None:
        self._sender = weakref.ref(sender)
        self._budget = Budget(MAX_BYTES) if budget is None else budget
        #: Whether a prompt is one of ours, says the last.  Weakly: the delivery thread holds it.
        self.ours: list[weakref.WeakMethod[Callable[[str | None], bool]]] = []
        self._namespace = blinker.default_namespace if namespace is None else namespace
        self._callbacks: _Callbacks = {}
        # Weakly, so that the tap of an iterator that nobody keeps is gone with it.
        self._taps: list[tuple[str, weakref.ref[EventQueue]]] = []
        # Of functions, and of the functions of bound methods, which have one argument more.
        self._ways: tuple[weakref.WeakKeyDictionary[Any, _Way], ...] = (
            weakref.WeakKeyDictionary(),
            weakref.WeakKeyDictionary(),
        )
        self.reset()

    def reset(self) -> None:
        """A fresh queue and no thread, as after a fork; who listens stays."""
        # Guards what is replaced, never changed.  Re-entrant: the collector may end an iterator
        # in here, or somebody's ``__del__`` take a callback back.
        self._lock = threading.RLock()
        self._queue = EventQueue(budget=self._budget, ours=self.ours)
        self._budget.dropped = 0
        self._thread: threading.Thread | None = None
        for _, queue in self._live_taps():
            queue.reset()

    @property
    def dropped(self) -> int:
        """Events that gave way to newer ones, or found no room, since who wants them is slow.

        Of receivers, iterators and callbacks, those of jobs included, since the client began.
        """
        return self._budget.dropped

    # -- who listens ---------------------------------------------------------------------

    def on(self, name: str, callback: Callable[[Any], object], *, once: bool) -> Callable[[], None]:
        """Register; the answer takes exactly this registration back."""
        if not callable(callback) or not (_is_plain(callback) and _takes(callback, 1)):
            raise TypeError(f"a callback is a plain function of one event, not {callback!r}")
        registration = _Registration(callback, once)
        self._replace(lambda known: {**known, name: known.get(name, {}) | {registration: None}})

        def unsubscribe() -> None:
            self._remove(name, registration)

        return unsubscribe

    def off(self, name: str, callback: Callable[[Any], object]) -> bool:
        """Take back the oldest registration of this callback; whether there was one."""
        while True:
            known = self._callbacks.get(name, ())
            found = next((item for item in known if item.callback == callback), None)
            if found is None or self._remove(name, found):
                return found is not None

    def _remove(self, name: str, registration: _Registration) -> bool:
        def without(known: _Callbacks) -> _Callbacks:
            if registration not in known.get(name, ()):
                return known
            left = {item: None for item in known[name] if item is not registration}
            others = {other: known[other] for other in known if other != name}
            return {**others, name: left} if left else others

        return registration in self._replace(without).get(name, ())

    def _replace(self, change: Callable[[_Callbacks], _Callbacks]) -> _Callbacks:
        """Have other callbacks from now on; those until now."""
        with self._lock:
            while True:
                before = self._callbacks
                after = change(before)
                # If nobody did the same within.  Nothing comes in between these two lines: it
                # would need a call, or a jump back.
                if self._callbacks is before:
                    self._callbacks = after
                    return before

    def tap(self, name: str) -> EventQueue:
        """A queue of one's own that gets the events of that name (``all``: of any)."""
        queue = EventQueue(budget=self._budget, ours=self.ours)
        with self._lock:
            # One that is ended within may come back: it is closed, and goes with the next.
            taps = [item for item in self._taps if item[1]() is not None]
            self._taps = [*taps, (name, weakref.ref(queue))]
        return queue

    def untap(self, queue: EventQueue) -> None:
        """No more events for this queue."""
        queue.close()
        with self._lock:
            self._taps = [item for item in self._taps if item[1]() not in (queue, None)]

    def _live_taps(self) -> list[tuple[str, EventQueue]]:
        pairs = [(name, tap()) for name, tap in self._taps]
        return [(name, queue) for name, queue in pairs if queue is not None]

    def listens(self, *names: str) -> bool:
        """Whether anyone would be called for one of these names."""
        for name in names:  # noqa: SIM110  # any() makes a generator, for each event
            if name in self._callbacks or self._connected(name):
                return True
        return False

    def _signal(self, name: str) -> blinker.NamedSignal | None:
        """The signal, if anyone ever asked for it: a server's words create none."""
        return (self._namespace if name in NAMES else _other_names).get(name)

    def _connected(self, name: str) -> bool:
        found = self._signal(name)
        if found is None or not found.receivers:
            return False
        sender = self._sender()
        return sender is not None and found.has_receivers_for(sender)

    # -- what happens with an event ------------------------------------------------------

    def publish(self, event: Event) -> None:
        """Hand an event on; costs next to nothing when nobody listens."""
        names = _fires(event)
        for name, tap in self._taps:
            if name in names and (queue := tap()) is not None:
                queue.put(event)
        if self.listens(*names):
            self._queue.put(event)
            if not was_started(self._thread):
                self._start()

    def _start(self) -> None:
        with self._lock:
            if not was_started(self._thread) and not self._queue.closed:
                # Daemon: a script that ends must not wait for its receivers.
                self._thread = threading.Thread(
                    target=_deliver,
                    args=(self._queue, weakref.ref(self)),
                    name="comfy-delivery",
                    daemon=True,
                )
                try:
                    self._thread.start()
                except RuntimeError as exc:  # the next event tries again
                    log.warning("receivers have to wait: %s", exc)

    def is_served_here(self) -> bool:
        """Whether this is the delivery thread; after a Ctrl-C in its start it may be another."""
        with self._lock:
            return self._thread is threading.current_thread()

    def deliver(self, event: Event) -> None:
        """Call everyone who listens to this event; in the delivery thread."""
        sender = self._sender()
        if sender is None:
            return
        for name in _fires(event):
            for registration in self._callbacks.get(name, ()):
                # One that an earlier callback has taken back is not called any more.
                known = self._callbacks.get(name, ())
                if self._remove(name, registration) if registration.once else registration in known:
                    _call(registration.callback, event)
            found = self._signal(name)
            if found is None or found.is_muted:
                continue
            for receiver in found.receivers_for(sender):
                way = self._way(receiver, name)
                if way == "positional":
                    _call(receiver, sender, event)
                elif way == "keyword":
                    _call(receiver, sender, event=event)

    def _way(self, receiver: Callable[..., object], name: str) -> _Way:
        """How this receiver is to be called: looked up once, and told once if it cannot be."""
        is_method = inspect.ismethod(receiver)
        ways = self._ways[is_method]
        key = receiver.__func__ if is_method else receiver  # type: ignore[attr-defined]
        try:
            return ways[key]
        except TypeError:
            # No hash, or no weak reference to it: an object whose class says how.
            key = type(receiver)
            if key in ways:
                return ways[key]
        except KeyError:
            pass
        way: _Way = None
        if _is_plain(receiver):
            if _takes(receiver, 2):
                way = "positional"
            elif _takes(receiver, 1, event=None):
                way = "keyword"
        if way is None:
            log.error(
                "receiver %r of %r cannot be called: a receiver is a plain function that takes "
                "(sender, event), the ComfyApi and one event",
                receiver,
                name,
            )
        ways[key] = way
        return way

    def flush(self, timeout: float) -> None:
        """Wait until receivers have had all events so far; not when called by one of them."""
        if was_started(self._thread) and self._thread is not threading.current_thread():
            self._queue.flush(timeout)

    def close(self) -> None:
        """No more calls; iterators and waiters end."""
        self._queue.close()
        for _, queue in self._live_taps():
            queue.close()

    def shutdown(self) -> Callable[[], None]:
        """What ends the delivery thread, without keeping a hold on this object."""
        return self._queue.close

    def events(self, queue: EventQueue) -> Iterator[Event]:
        """What a tap brings, until it is closed."""
        try:
            while not queue.closed:
                event = queue.get(0.5)  # in slices, so that Ctrl-C is heard on every system
                if event is not None:
                    yield event
        finally:
            self.untap(queue)

    def wait_for(
        self,
        queue: EventQueue,
        predicate: Callable[[Any], object] | None,
        timeout: float | None,
    ) -> Event | None:
        """The first event of a tap that satisfies; ``None`` when time ran out or it closed."""
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            while True:
                left = 0.5 if deadline is None else min(0.5, deadline - time.monotonic())
                event = queue.get(max(left, 0.0))  # in slices, so that Ctrl-C is heard
                if event is not None and (predicate is None or predicate(event)):
                    return event
                if queue.closed or left <= 0:
                    return None
        finally:
            self.untap(queue)


def _fires(event: Event) -> tuple[str, ...]:
    """The names under which an event is announced."""
    if isinstance(event, UnknownEvent) and event.name in NAMES:
        # Not in the form of that name, or a name that only this library may use.
        return ("all",)
    if event.name == "terminal" or (event.name == "b_preview" and event.raw is not None):
        # ``all`` had this message already, under the name with which it came.
        return (event.name,)
    return ("all", event.name)


def _is_plain(function: Callable[..., object]) -> bool:
    """Whether a call does the work, and does not merely make a coroutine or a generator."""
    lazy = (
        inspect.iscoroutinefunction,
        inspect.isasyncgenfunction,
        inspect.isgeneratorfunction,
    )
    call = getattr(type(function), "__call__", None)  # noqa: B004  # of an object's class
    return not any(is_lazy(function) or is_lazy(call) for is_lazy in lazy)


def _takes(function: Callable[..., object], count: int, **kw: object) -> bool:
    """Whether it may be called with so many positional arguments, and these keywords."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a builtin that does not say
        return True
    try:
        signature.bind(*[None] * count, **kw)
    except TypeError:
        return False
    return True


def _call(receiver: Callable[..., object], *args: object, **kw: object) -> None:
    try:
        receiver(*args, **kw)
    except BaseException:  # sys.exit() too: it would end the thread, not the program
        log.exception("receiver %r failed; the others still run", receiver)


def _deliver(queue: EventQueue, owner: weakref.ref[Receivers]) -> None:
    """The delivery thread.  It holds the queue, and the rest only while it calls."""
    receivers = owner()
    if receivers is None or not receivers.is_served_here():
        return
    del receivers
    while (event := queue.get()) is not None:
        receivers = owner()
        if receivers is None:
            return
        try:
            receivers.deliver(event)
        except Exception:
            # blinker has no locks; whatever happens in there, the next event is delivered.
            log.exception("event %r did not reach all receivers", event.name)
        del receivers, event
