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
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Final

import attrs
import blinker

from .events import (
    END_NAMES,
    NAMES,
    ConnectionEvent,
    ErrorEvent,
    Event,
    Executed,
    ExecutionCached,
    ExecutionStart,
    PreviewEvent,
    Progress,
    UnknownEvent,
)

log = logging.getLogger("comfy_client")

_other_names = blinker.Namespace()

#: From this many waiting events on, only the newest of a kind is kept for each node.
CROWDED: Final = 64
#: At most this many wait; then what is neither an end, an output nor a state is dropped.
FULL: Final = 10_000


def signal(name: str) -> blinker.NamedSignal:
    """The signal of that name: blinker's own for documented names, else one of ours.

    ``signal("progress").connect(fn)`` keeps only a weak reference to ``fn``, as blinker
    does: connect a named function, or pass ``weak=False``.  ``fn`` is called with the
    ``ComfyApi`` and one event, in the delivery thread.
    """
    return blinker.signal(name) if name in NAMES else _other_names.signal(name)


# -- the queue between threads ----------------------------------------------------------


def _kind(event: Event) -> Hashable | None:
    """What makes an older event worthless once a newer one came; ``None``: nothing does."""
    if isinstance(event, PreviewEvent):
        return None if event.final else (event.name, event.node_id)
    if isinstance(event, Progress):
        return (event.name, event.prompt_id, event.node)
    if event.name in ("status", "progress_state"):
        return (event.name, getattr(event, "prompt_id", None))
    return None


def _must_arrive(event: Event) -> bool:
    kinds = (Executed, ExecutionStart, ExecutionCached, ConnectionEvent, ErrorEvent)
    is_final = isinstance(event, PreviewEvent) and event.final
    return is_final or event.name in END_NAMES or isinstance(event, kinds)


class EventQueue:
    """Events on their way to another thread; bounded, and the newest wins under pressure."""

    def __init__(self) -> None:
        self.dropped = 0  #: Events that gave way to newer ones.
        self._entries: deque[list[Event]] = deque()
        self._latest: dict[Hashable, list[Event]] = {}
        self._changed = threading.Condition()  # guards all of the above and below
        self._taken = 0
        self._done = 0
        self._closed = False

    def put(self, event: Event) -> None:
        """Never blocks for long, never raises."""
        with self._changed:
            if self._closed:
                return
            kind = _kind(event)
            waiting = len(self._entries)
            if kind is not None and waiting >= CROWDED and kind in self._latest:
                self._latest[kind][0] = event
                self.dropped += 1
                return
            if waiting >= FULL and not _must_arrive(event):
                self.dropped += 1
                return
            entry = [event]
            self._entries.append(entry)
            if kind is not None:
                self._latest[kind] = entry
            self._changed.notify_all()

    def get(self, timeout: float | None = None) -> Event | None:
        """The next event; ``None`` when the queue is closed or ``timeout`` seconds passed.

        Taking an event says that the one before is done with, which :meth:`flush` waits for.
        """
        with self._changed:
            self._done = self._taken
            if not self._entries:
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._entries or self._closed, timeout)
            if not self._entries:
                return None
            entry = self._entries.popleft()
            self._taken += 1
            kind = _kind(entry[0])
            if kind is not None and self._latest.get(kind) is entry:
                del self._latest[kind]
            return entry[0]

    def flush(self, timeout: float) -> bool:
        """Wait until all that was put before this call is done with; whether it is."""
        with self._changed:
            goal = self._taken + len(self._entries)
            return self._changed.wait_for(lambda: self._done >= goal or self._closed, timeout)

    def close(self) -> None:
        """What still waits is dropped; ``get`` answers ``None`` from now on."""
        with self._changed:
            self._closed = True
            self._entries.clear()
            self._latest.clear()
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


class Receivers:
    """Everyone who wants events of one client.  The client owns it; threads hold it weakly."""

    def __init__(self, sender: object, namespace: blinker.Namespace | None) -> None:
        self._sender = weakref.ref(sender)
        self._namespace = blinker.default_namespace if namespace is None else namespace
        self._callbacks: dict[str, list[_Registration]] = {}
        self._taps: list[tuple[str, EventQueue]] = []
        self._told: weakref.WeakSet[Any] = weakref.WeakSet()
        self.reset()

    def reset(self) -> None:
        """A fresh queue and no thread, as after a fork; who listens stays."""
        self._lock = threading.Lock()  # guards the lists, which are replaced, never changed
        self._queue = EventQueue()
        self._thread: threading.Thread | None = None

    @property
    def dropped(self) -> int:
        """Events that gave way to newer ones since receivers were slow."""
        return self._queue.dropped

    # -- who listens ---------------------------------------------------------------------

    def on(self, name: str, callback: Callable[[Any], object], *, once: bool) -> Callable[[], None]:
        """Register; the answer takes exactly this registration back."""
        if not callable(callback) or inspect.iscoroutinefunction(callback):
            raise TypeError("a callback is a plain function that takes one event")
        registration = _Registration(callback, once)
        with self._lock:
            self._callbacks[name] = [*self._callbacks.get(name, ()), registration]

        def unsubscribe() -> None:
            self._remove(name, registration)

        return unsubscribe

    def off(self, name: str, callback: Callable[[Any], object]) -> bool:
        """Take back the oldest registration of this callback; whether there was one."""
        with self._lock:
            found = next((r for r in self._callbacks.get(name, ()) if r.callback == callback), None)
        if found is not None:
            self._remove(name, found)
        return found is not None

    def _remove(self, name: str, registration: _Registration) -> bool:
        with self._lock:
            before = self._callbacks.get(name, [])
            after = [item for item in before if item is not registration]
            if after:
                self._callbacks[name] = after
            else:
                self._callbacks.pop(name, None)
            return len(after) < len(before)

    def tap(self, name: str) -> EventQueue:
        """A queue of one's own that gets the events of that name (``all``: of any)."""
        queue = EventQueue()
        with self._lock:
            self._taps = [*self._taps, (name, queue)]
        return queue

    def untap(self, queue: EventQueue) -> None:
        """No more events for this queue."""
        queue.close()
        with self._lock:
            self._taps = [item for item in self._taps if item[1] is not queue]

    def listens(self, *names: str) -> bool:
        """Whether anyone would be called for one of these names."""
        return any(name in self._callbacks or self._connected(name) for name in names)

    def _signal(self, name: str) -> blinker.NamedSignal | None:
        """The signal, if anyone ever asked for it: a server's words create none."""
        return (self._namespace if name in NAMES else _other_names).get(name)

    def _connected(self, name: str) -> bool:
        found = self._signal(name)
        return found is not None and bool(found.receivers)

    # -- what happens with an event ------------------------------------------------------

    def publish(self, event: Event) -> None:
        """Hand an event on; costs next to nothing when nobody listens."""
        names = _fires(event)
        for name, queue in self._taps:
            if name in names:
                queue.put(event)
        if self.listens(*names):
            self._queue.put(event)
            if self._thread is None:
                self._start()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._queue.closed:
                # Daemon: a script that ends must not wait for its receivers.
                self._thread = threading.Thread(
                    target=_deliver,
                    args=(self._queue, weakref.ref(self)),
                    name="comfy-delivery",
                    daemon=True,
                )
                self._thread.start()

    def deliver(self, event: Event) -> None:
        """Call everyone who listens to this event; in the delivery thread."""
        sender = self._sender()
        if sender is None:
            return
        for name in _fires(event):
            for registration in self._callbacks.get(name, ()):
                if registration.once and not self._remove(name, registration):
                    continue
                self._call(registration.callback, event)
            found = self._signal(name)
            if found is None or found.is_muted:
                continue
            for receiver in list(found.receivers_for(sender)):
                how = self._how(receiver, sender, event)
                if how == "positional":
                    self._call(receiver, sender, event)
                elif how == "keyword":
                    self._call(receiver, sender, event=event)

    def _call(self, receiver: Callable[..., object], *args: object, **kw: object) -> None:
        try:
            receiver(*args, **kw)
        except Exception:
            log.exception("receiver %r failed; the others still run", receiver)

    def _how(self, receiver: Callable[..., object], sender: object, event: Event) -> str | None:
        """How this receiver takes (sender, event); ``None`` when it does not, told once."""
        try:
            signature = inspect.signature(receiver)
        except (TypeError, ValueError):  # a builtin that does not say
            return "positional"
        if not inspect.iscoroutinefunction(receiver):
            try:
                signature.bind(sender, event)
            except TypeError:
                pass
            else:
                return "positional"
            try:
                signature.bind(sender, event=event)
            except TypeError:
                pass
            else:
                return "keyword"
        underlying = getattr(receiver, "__func__", receiver)
        if underlying not in self._told:
            self._told.add(underlying)
            log.error(
                "receiver %r of %r cannot be called: a receiver is a plain function that takes "
                "(sender, event), the ComfyApi and one event",
                receiver,
                event.name,
            )
        return None

    def flush(self, timeout: float) -> None:
        """Wait until receivers have had all events so far; not when called by one of them."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._queue.flush(timeout)

    def close(self) -> None:
        """No more calls; iterators and waiters end."""
        self._queue.close()
        with self._lock:
            taps, self._taps = self._taps, []
        for _, queue in taps:
            queue.close()

    def shutdown(self) -> Callable[[], None]:
        """What ends the delivery thread, without keeping a hold on this object."""
        return self._queue.close

    def events(self, queue: EventQueue) -> Iterator[Event]:
        """What a tap brings, until it is closed."""
        try:
            while (event := queue.get()) is not None:
                yield event
        finally:
            self.untap(queue)

    def wait_for(
        self,
        queue: EventQueue,
        predicate: Callable[[Any], bool] | None,
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


def _deliver(queue: EventQueue, owner: weakref.ref[Receivers]) -> None:
    """The delivery thread.  It holds the queue, and the rest only while it calls."""
    while (event := queue.get()) is not None:
        receivers = owner()
        if receivers is None:
            return
        receivers.deliver(event)
        del receivers, event
