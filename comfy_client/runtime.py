"""Clocks, locks and threads of the client.

Modules look these names up at each call, so that a test can replace them here: the simulation in
``tests/model`` runs the whole client on its own clock, one thread at a time.
"""

from __future__ import annotations

import sys
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


class Thread(threading.Thread):
    """A thread; a Ctrl-C or an alarm while it is being started comes out as itself."""

    def start(self) -> None:
        """Start the thread."""
        outer = sys.exception()
        try:
            super().start()
        except RuntimeError as exc:
            # The wait for the thread was interrupted without its lock, which it then releases.
            interrupted = exc.__context__
            if interrupted is None or interrupted is outer:
                raise
            raise interrupted from None


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
