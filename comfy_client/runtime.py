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
Thread = threading.Thread
current_thread: Callable[[], threading.Thread] = threading.current_thread
main_thread: Callable[[], threading.Thread] = threading.main_thread
get_ident: Callable[[], int] = threading.get_ident

Lock = threading.Lock
RLock = threading.RLock
Condition = threading.Condition
Event = threading.Event


def __getattr__(name: str) -> Any:
    """Import the thread pool on first use: a command without a server needs none."""
    if name == "ThreadPoolExecutor":
        from concurrent.futures import ThreadPoolExecutor

        return ThreadPoolExecutor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
