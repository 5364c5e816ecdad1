"""Clocks, locks and threads of the client.

Modules look these names up at each call, so that a test can replace them here: the simulation in
``tests/model`` runs the whole client on its own clock, one thread at a time.
"""

from __future__ import annotations

import sys
import threading
import time
from _signal import NSIG, getsignal, signal  # type: ignore[import-not-found]
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

__all__ = [
    "SIGNALS",
    "SLICE",
    "SLICED",
    "TIMEOUT_MAX",
    "Condition",
    "Event",
    "Lock",
    "RLock",
    "SimpleQueue",
    "Thread",
    "ThreadPoolExecutor",
    "current_thread",
    "get_handler",
    "get_ident",
    "in_slices",
    "main_thread",
    "monotonic",
    "set_handler",
    "sleep",
    "slice_waits",
    "thread_time",
    "wall_time",
]

monotonic: Callable[[], float] = time.monotonic
wall_time: Callable[[], float] = time.time
thread_time: Callable[[], float] = time.thread_time
sleep: Callable[[float], None] = time.sleep

TIMEOUT_MAX = threading.TIMEOUT_MAX
current_thread: Callable[[], threading.Thread] = threading.current_thread
main_thread: Callable[[], threading.Thread] = threading.main_thread
get_ident: Callable[[], int] = threading.get_ident

# The functions of ``signal``, without its enumerations, which are slow to import and to use.
SIGNALS: Final = range(1, NSIG)
get_handler: Callable[[int], object] = getsignal


def set_handler(number: int, handler: object) -> object:
    """Set the handler of a signal, and return the former one.

    Handlers of C code stay, as of ``faulthandler.register``, and so does ``signal.siginterrupt``.
    """
    keep = _action_of(number)
    try:
        return signal(number, handler)
    finally:
        keep()  # one step in C, before which no handler comes in between


def _action_of(number: int) -> Callable[[], object]:
    """Return a function that has the system do with a signal what it does now."""
    try:
        from ctypes import create_string_buffer, pythonapi  # seldom needed, and slow to import

        sigaction, action = pythonapi.sigaction, create_string_buffer(256)  # more than it needs
    except (ImportError, AttributeError):  # Windows, and some builds of Python
        return bool
    sigaction(number, None, action)
    return partial(sigaction, number, action, None)


Lock = threading.Lock
RLock = threading.RLock
Event = threading.Event


class _Begun:
    """The event for which ``Thread.start`` waits, without a ``Condition``."""

    def __init__(self) -> None:
        self._is_set = False
        self._lock = Lock()
        self._lock.acquire()

    def is_set(self) -> bool:
        """Return whether the thread has begun."""
        return self._is_set

    def set(self) -> None:
        """Note that the thread has begun."""
        self._is_set = True
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the thread has begun; only the one that starts it waits."""
        if not self._is_set:
            self._lock.acquire(timeout=-1 if timeout is None else timeout)
        return self._is_set

    def _at_fork_reinit(self) -> None:
        """Do nothing: in the child of a fork, nobody waits."""


class Thread(threading.Thread):
    """A thread that begins even if a Ctrl-C or an alarm interrupts its start.

    A lock that such an interrupt may leave held would otherwise stop it for ever.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._started = _Begun()


class Condition(threading.Condition):
    """A condition whose wait holds the lock afterwards, even if Ctrl-C or an alarm ends it.

    Otherwise, a ``with`` around the wait fails to release the lock, and that error comes out.
    """

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for a notification; return False after ``timeout`` seconds without one."""
        try:
            return super().wait(timeout)
        except RuntimeError:  # the caller does not hold the lock
            raise
        except BaseException:
            try:
                self.notify(0)  # wakes nobody, but raises if this thread does not hold the lock
            except RuntimeError:
                self.acquire()
            raise


# -- waits in slices ---------------------------------------------------------------------

#: Seconds of one wait, where Ctrl-C may not end it.
SLICE: Final = 0.2
#: Whether all waits of the main thread are made in slices; :func:`slice_waits` sets it.
SLICED: bool = False


def in_slices(wait: Callable[[float], bool], seconds: float) -> bool:
    """Return ``wait(seconds)``, and call it for a slice at a time in the main thread.

    Python calls the signal handlers in between.  No other thread calls them.  A longer wait may
    miss Ctrl-C on any system: a signal that comes just before it, or in another thread, ends none.
    """
    if current_thread() is not main_thread():
        return wait(seconds)
    until = monotonic() + seconds
    while not wait(max(0.0, min(until - monotonic(), SLICE))):
        if monotonic() >= until:
            return False
    return True


class _SlicedEvent(threading.Event):
    """An event whose wait Ctrl-C ends after a slice."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the event is set; return False after ``timeout`` seconds without it."""
        return in_slices(super().wait, TIMEOUT_MAX if timeout is None else timeout)


class _SlicedThread(Thread):
    """A thread whose end is awaited in slices."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._over = _SlicedEvent()

    def run(self) -> None:
        """Call the target, and note the end."""
        try:
            super().run()
        finally:
            self._over.set()

    def join(self, timeout: float | None = None) -> None:
        """Wait up to ``timeout`` seconds for the thread's end."""
        super().join(0)  # an error if no wait would end: of this thread, or of one not started
        if self._over.wait(timeout):
            super().join()


class _SlicedCondition(Condition):
    """A condition whose wait ends after a slice; like any wait, it may end without a cause.

    Going on here could miss the notification that comes between two slices.
    """

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for a notification; return False after a slice or ``timeout`` seconds without."""
        if current_thread() is main_thread():
            timeout = SLICE if timeout is None else min(timeout, SLICE)
        return super().wait(timeout)


def slice_waits() -> None:
    """Let Ctrl-C end each wait of the main thread: on Windows, it does not end a longer one."""
    sliced = {"Event": _SlicedEvent, "Thread": _SlicedThread, "Condition": _SlicedCondition}
    globals().update(sliced, SLICED=True)


if sys.platform == "win32":
    slice_waits()


def __getattr__(name: str) -> Any:
    """Import the thread pool on first use: a command without a server needs none."""
    if name == "ThreadPoolExecutor":
        from concurrent.futures import ThreadPoolExecutor

        return ThreadPoolExecutor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
