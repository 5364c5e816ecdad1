"""Clocks, locks and threads of the client.

Modules look these names up at each call, so that a test can replace them here: the simulation in
``tests/model`` runs the whole client on its own clock, one thread at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

__all__ = [
    "TIMEOUT_MAX",
    "Condition",
    "Event",
    "Lock",
    "RLock",
    "SimpleQueue",
    "Thread",
    "ThreadPoolExecutor",
    "current_thread",
    "get_ident",
    "main_thread",
    "monotonic",
    "sleep",
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


def __getattr__(name: str) -> Any:
    """Import the thread pool on first use: a command without a server needs none."""
    if name == "ThreadPoolExecutor":
        from concurrent.futures import ThreadPoolExecutor

        return ThreadPoolExecutor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
