"""Signals, callbacks, and the thread that calls them.

The documented names are signals in blinker's default namespace (or the one given to
``ComfyApi``).  A server may send any other name; such events go to ``all``, to
``api.on(name, ...)`` and to a separate namespace that :func:`signal` reaches, so that no server can
fire another library's signal of that name.

The socket's thread only puts events into an :class:`EventQueue`.  The delivery thread, started with
the first receiver, takes them out and calls the receivers one after the other.  A slow one delays
the others, never the socket; if one raises, that is logged, and the others still run.
"""

from __future__ import annotations

import inspect
import logging
import math
import types
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, TypeVar

import attrs
import blinker

from . import runtime
from .event_queue import MAX_BYTES, Addressed, Budget, EventQueue, Timed
from .events import FROM_SERVER, NAMES, Event, UnknownEvent
from .interrupts import was_started
from .locks import shared_lock
from .log_records import AnyLog

log: logging.Logger = logging.getLogger("comfy_client")


_FAILED: Final = "receiver %r failed; the others still run"

_Receiver = TypeVar("_Receiver", bound=Callable[..., Any])


class _Signal(blinker.NamedSignal):
    """A blinker signal that warns if a receiver will be garbage-collected immediately."""

    _has_warned = False

    def connect(
        self, receiver: _Receiver, sender: Any = blinker.ANY, weak: bool = True
    ) -> _Receiver:
        if weak and not self._has_warned and _is_gone_soon(receiver):
            self._has_warned = True
            log.warning(
                "signal(%r) keeps only a weak reference to %r: it is never called unless something "
                "else keeps it; connect a named function, or pass weak=False",
                self.name,
                receiver,
            )
        return super().connect(receiver, sender, weak)


def _is_gone_soon(receiver: object) -> bool:
    """Return whether a receiver is a lambda or a ``partial``, which few programs store."""
    return getattr(receiver, "__name__", None) == "<lambda>" or isinstance(receiver, partial)


#: Signals of names that are not documented.
other_names: blinker.Namespace = blinker.Namespace()


def signal(name: str) -> blinker.NamedSignal:
    """Return the blinker signal for a name; documented names are in the default namespace.

    ``signal("progress").connect(fn)`` keeps only a weak reference to ``fn``, as always in
    blinker: connect a named function, or pass ``weak=False``.  ``fn`` is called with the
    ``ComfyApi`` and one event, in the delivery thread.  A lambda that is connected without
    ``weak=False``, or a name that is almost one of ComfyUI's, logs a warning once.
    """
    namespace = blinker.default_namespace if name in NAMES else other_names
    if name not in namespace:
        warn_of_name(name)
        # A signal that ``blinker.signal`` made before stays as it is, and warns of nothing.
        namespace.setdefault(name, _Signal(name))
    return namespace[name]


def warn_of_name(name: str) -> None:
    """Log a warning if an unknown name is similar to that of a ComfyUI event.

    Raises ``TypeError`` for anything but a string.
    """
    if name in NAMES:
        return
    if not isinstance(name, str):
        raise TypeError(f"the name of an event must be a string, not {name!r:.80}")
    if name in FROM_SERVER:
        event = FROM_SERVER[name]({}).name
        log.warning("messages of the type %r fire the event %r", name, event)
        return
    from .nearest import nearest

    if likely := nearest(name, NAMES, 1):
        log.warning("%r is not an event of ComfyUI; did you mean %r?", name, likely[0])


# -- receivers --------------------------------------------------------------------------


@attrs.frozen(eq=False, repr=False)
class _Registration:
    callback: Callable[[Any], object]
    once: bool


#: Types of results that do nothing unless they are awaited or iterated.
_LAZY = (types.CoroutineType, types.GeneratorType, types.AsyncGeneratorType)


@attrs.frozen(eq=False, repr=False)
class _Unsubscribe:
    """A function that ends a subscription; it has a short ``repr`` for notebooks."""

    _name: str
    _end: Callable[[], object]

    def __call__(self) -> None:
        self._end()

    def __repr__(self) -> str:
        return f"<function that unsubscribes from {self._name!r}>"


class Receivers:
    """The receivers of one client's events.

    The client owns it; threads hold it weakly.  ``sender`` is the client, the first argument of
    receivers.
    """

    def __init__(
        self,
        sender: object,
        namespace: blinker.Namespace | None,
        budget: Budget | None = None,
        log: AnyLog = log,
    ) -> None:
        self._sender = weakref.ref(sender)
        self.log: AnyLog = log
        self._budget = Budget(MAX_BYTES) if budget is None else budget
        self._namespace = blinker.default_namespace if namespace is None else namespace
        # Callbacks by name, in the order of registration.  No lock is needed: each change is one
        # step of a dictionary, and no name is ever removed.
        self._callbacks: dict[str, dict[_Registration, None]] = {}
        # Weak references, so that the queue of an abandoned iterator goes away with it.
        self._subscriptions: list[tuple[str, weakref.ref[EventQueue]]] = []
        self._refused: set[int] = set()  # ids of receivers that were logged
        self.reset()

    def reset(self) -> None:
        """Replace the queue by a new one, as after a fork; keep the receivers."""
        # Guards the start of the thread and the list of subscriptions, which is replaced, never
        # changed.  Taken before the lock of a queue.  Re-entrant: the collector may end iterators.
        self._lock = shared_lock()
        self._queue = EventQueue(budget=self._budget)
        self._budget.dropped = 0
        self._due: dict[Timed, float] = {}  # when; only for the delivery thread
        self.thread: runtime.Thread | None = None  #: The delivery thread, once somebody listens.
        for _, queue in self.subscriptions():
            queue.reset()

    @property
    def dropped(self) -> int:
        """The number of events dropped because readers were slow.

        These are receivers, iterators and callbacks, including callbacks of jobs, since the client
        began.
        """
        return self._budget.dropped

    # -- who listens ---------------------------------------------------------------------

    def on(self, name: str, callback: Callable[[Any], object], *, once: bool) -> Callable[[], None]:
        """Register a callback; return a function that removes exactly this registration."""
        if not is_callback(callback, 1):
            raise TypeError(f"a callback must be a plain function of one event, not {callback!r}")
        registration = _Registration(callback, once)
        self._callbacks.setdefault(name, {})[registration] = None
        return _Unsubscribe(name, partial(self._remove, name, registration))

    def off(self, name: str, callback: Callable[[Any], object]) -> bool:
        """Remove the oldest registration of this callback; return whether there was one."""
        return any(
            registration.callback == callback and self._remove(name, registration)
            for registration in list(self._callbacks.get(name, ()))
        )

    def _remove(self, name: str, registration: _Registration) -> bool:
        return self._callbacks.get(name, {}).pop(registration, registration) is None

    def subscribe(self, name: str) -> EventQueue:
        """Return a new queue that gets the events of a name (``all``: every event)."""
        queue = EventQueue(budget=self._budget)
        with self._lock:
            # A queue that is closed meanwhile may return to the list; the next change drops it.
            kept = [item for item in self._subscriptions if item[1]() is not None]
            self._subscriptions = [*kept, (name, weakref.ref(queue))]
        return queue

    def unsubscribe(self, queue: EventQueue) -> None:
        """Close a queue of :meth:`subscribe`, and pass it no more events."""
        queue.close()
        with self._lock:
            self._subscriptions = [
                item for item in self._subscriptions if item[1]() not in (queue, None)
            ]

    def subscriptions(self) -> list[tuple[str, EventQueue]]:
        """Return the queues in use, and the names of their events."""
        pairs = [(name, ref()) for name, ref in self._subscriptions]
        return [(name, queue) for name, queue in pairs if queue is not None]

    def listens(self, names: tuple[str, ...]) -> bool:
        """Return whether anyone listens to one of these names."""
        callbacks, namespace = self._callbacks, self._namespace
        for name in names:  # runs for each event, so it avoids calls while nobody listens
            if callbacks and callbacks.get(name):
                return True
            found = (namespace if name in NAMES else other_names).get(name)
            if found is not None and found.receivers:
                sender = self._sender()
                if sender is not None and found.has_receivers_for(sender):
                    return True
        return False

    def _signal(self, name: str) -> blinker.NamedSignal | None:
        """Return a name's signal if it exists: the names that a server sends create no signals."""
        return (self._namespace if name in NAMES else other_names).get(name)

    # -- what happens with an event ------------------------------------------------------

    def publish(self, event: Event) -> None:
        """Queue an event for its listeners; nearly free if there are none."""
        if not (self._callbacks or self._namespace or other_names or self._subscriptions):
            return  # nobody has ever listened, as in most scripts
        names = signal_names(event)
        for name, ref in self._subscriptions:
            if name in names and (queue := ref()) is not None:
                queue.put(event)
        if self.listens(names):
            self._put(event)

    def hand(self, to: Timed, call: Callable[[], float], event: Event | None = None) -> None:
        """Queue ``call`` for the delivery thread, which later calls ``to.tick`` when that is due.

        Args:
            to: The receiver.
            call: The function to call; it returns the seconds until the next ``tick``.
            event: The event that the call is about; a newer one may replace it.
        """
        nbytes = 0 if event is None else event.nbytes
        self._put(Addressed(name="", nbytes=nbytes, to=to, call=call, event=event))

    def _put(self, event: Event) -> None:
        self._queue.put(event)
        if not was_started(self.thread):
            self._start()

    def _start(self) -> None:
        with self._lock:
            if was_started(self.thread) or self._queue.closed:
                return
            # Daemon: a script that ends must not wait for its receivers.
            self.thread = runtime.Thread(
                target=_deliver,
                args=(self._queue, weakref.ref(self)),
                name="comfy-delivery",
                daemon=True,
            )
            try:
                self.thread.start()
            except RuntimeError as exc:
                self.thread = None
                self.log.warning(
                    "the delivery thread cannot be started (%s); the next event tries again", exc
                )

    def deliver(self, event: Event) -> None:
        """Call all listeners of an event, in the delivery thread."""
        sender = self._sender()
        if sender is None:
            return
        if isinstance(event, Addressed):
            self._wake(event.to, event.call)
            return
        for name in signal_names(event):
            registered = self._callbacks.get(name)
            for registration in list(registered) if registered else ():
                # A callback that an earlier callback removed is no longer called.
                if registration.once:
                    is_wanted = self._remove(name, registration)
                else:
                    is_wanted = registration in (registered or ())
                if is_wanted:
                    call_safely(self.log, registration.callback, event)
            found = self._signal(name)
            if found is not None and not found.is_muted:
                for receiver in found.receivers_for(sender):
                    self._call_receiver(receiver, name, sender, event)

    def tick(self) -> float | None:
        """Make the calls that are due; return the seconds until the next one; None if none is."""
        if not self._due:
            return None
        now = runtime.monotonic()
        for one in [one for one, at in self._due.items() if at <= now]:
            self._wake(one, one.tick)
        return max(0.0, min(self._due.values()) - now) if self._due else None

    def _wake(self, one: Timed, call: Callable[[], float]) -> None:
        self._due.pop(one, None)  # first, so that an error in it is logged only once
        seconds = call()
        if seconds < math.inf:
            self._due[one] = runtime.monotonic() + seconds

    def _call_receiver(
        self, receiver: Callable[..., object], name: str, sender: object, event: Event
    ) -> None:
        try:
            returned = receiver(sender, event)
        except TypeError:
            returned = self._call_otherwise(receiver, name, sender, event)
        except BaseException:  # also sys.exit(), which would only end this thread
            self.log.exception(_FAILED, receiver)
            return
        if isinstance(returned, _LAZY):
            self._refuse(receiver, name)
            if isinstance(returned, types.CoroutineType):
                returned.close()  # prevents Python's warning that it was never awaited

    def _call_otherwise(
        self, receiver: Callable[..., object], name: str, sender: object, event: Event
    ) -> object:
        """Handle a call's ``TypeError``: log it, or call again with ``event`` as a keyword."""
        if _takes(receiver, 2):
            self.log.exception(_FAILED, receiver)
        elif _takes(receiver, 1, event=event):
            return call_safely(self.log, receiver, sender, event=event)
        else:
            self._refuse(receiver, name)
        return None

    def _refuse(self, receiver: Callable[..., object], name: str) -> None:
        """Log once that a receiver cannot be called."""
        key = id(getattr(receiver, "__func__", receiver))
        if key not in self._refused:
            self._refused.add(key)
            self.log.error(
                "receiver %r of %r cannot be called: a receiver is a plain function that takes "
                "(sender, event), the ComfyApi and one event",
                receiver,
                name,
            )

    def flush(self, timeout: float) -> None:
        """Wait until receivers have had all events so far; do nothing if a receiver calls this."""
        if self.thread not in (None, runtime.current_thread()):
            self._queue.flush(timeout)

    def close(self) -> None:
        """Close all queues, which ends the delivery thread, iterators and waits."""
        self._queue.close()
        for _, queue in self.subscriptions():
            queue.close()

    def shutdown(self) -> Callable[[], None]:
        """Return a function that ends the delivery thread without keeping this object alive."""
        return self._queue.close

    def events(self, queue: EventQueue) -> Iterator[Event]:
        """Yield the events of a subscription until it is closed."""
        # In slices, which can be interrupted on every system.
        return (event for event in self.poll(queue, 0.5) if event is not None)

    def poll(self, queue: EventQueue, seconds: float) -> Iterator[Event | None]:
        """Yield the events of a queue; yield None after each ``seconds`` without one."""
        try:
            while not queue.closed:
                yield queue.get(seconds)
        finally:
            self.unsubscribe(queue)

    def wait_for(
        self,
        queue: EventQueue,
        predicate: Callable[[Any], object] | None,
        timeout: float | None,
    ) -> Event | None:
        """Return the first matching event of a queue; None after ``timeout``, or once closed."""
        deadline = None if timeout is None else runtime.monotonic() + timeout
        try:
            while True:
                left = 0.5 if deadline is None else min(0.5, deadline - runtime.monotonic())
                event = queue.get(max(left, 0.0))  # in slices, as in events()
                if event is not None and (predicate is None or predicate(event)):
                    return event
                if queue.closed or left <= 0:
                    return None
        finally:
            self.unsubscribe(queue)


def signal_names(event: Event) -> tuple[str, ...]:
    """Return the names under which an event is announced."""
    if type(event) is UnknownEvent and (event.name in NAMES or event.name in FROM_SERVER):
        # The data do not fit the name, or only this library may use the name.
        return ("all",)
    if event.name == "terminal" or (event.name == "b_preview" and event.raw is not None):
        # ``all`` has already received this message under another name.
        return (event.name,)
    return ("all", event.name)


def is_callback(function: Any, count: int) -> bool:
    """Return whether a value is a plain function that accepts ``count`` arguments."""
    return callable(function) and _is_plain(function) and _takes(function, count)


def _is_plain(function: Callable[..., object]) -> bool:
    """Return whether a call runs the function, rather than making a coroutine or a generator."""
    lazy = (
        inspect.iscoroutinefunction,
        inspect.isasyncgenfunction,
        inspect.isgeneratorfunction,
    )
    call = getattr(type(function), "__call__", None)  # noqa: B004  # of an object's class
    return not any(is_lazy(function) or is_lazy(call) for is_lazy in lazy)


def _takes(function: Callable[..., object], count: int, **kw: object) -> bool:
    """Return whether a function accepts ``count`` positional arguments and these keywords."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a builtin that does not say
        return True
    try:
        signature.bind(*[None] * count, **kw)
    except TypeError:
        return False
    return True


def call_in_thread(function: Callable[[], object]) -> None:
    """Call a function that runs code of the user, which may be slow, wait or exit, in a thread."""
    thread = runtime.Thread(target=function, name="comfy-callbacks", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no more threads on this machine
        function()


def call_safely(
    log: AnyLog, receiver: Callable[..., object], *args: object, **kw: object
) -> object:
    """Call a receiver and return its result; if it raises, log that and return None."""
    try:
        return receiver(*args, **kw)
    except BaseException:
        log.exception(_FAILED, receiver)
        return None


def _deliver(queue: EventQueue, owner: weakref.ref[Receivers]) -> None:
    """Run the delivery thread, which holds the receivers only while it calls them."""
    pause: float | None = None
    while True:
        event = queue.get(pause)
        receivers = None if queue.closed else owner()
        if receivers is None:
            return
        try:
            if event is not None:
                receivers.deliver(event)
            pause = receivers.tick()
        except Exception:
            # blinker has no locks; whatever it raises, the next event is delivered.
            receivers.log.exception("event %r did not reach all receivers", event and event.name)
        del receivers, event
