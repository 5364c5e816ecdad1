"""Clocks, locks and threads: the client takes all of them from here.

Modules look these names up when they call them, so that whoever replaces them here owns time: the
simulation in ``tests/model`` runs the whole client on its own clock, one thread at a time.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

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

monotonic = time.monotonic
wall_time = time.time
thread_time = time.thread_time
sleep = time.sleep

TIMEOUT_MAX = threading.TIMEOUT_MAX
Thread = threading.Thread
current_thread = threading.current_thread
main_thread = threading.main_thread
get_ident = threading.get_ident

Lock = threading.Lock
RLock = threading.RLock
Condition = threading.Condition
Event = threading.Event
