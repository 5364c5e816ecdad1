"""The life of a pool: it connects, shuts down, and ends with its process."""

from __future__ import annotations

import atexit
import os
import weakref
from typing import Final

from ..transport.deadline import Deadline
from .availability import is_hopeless, out_of_reach
from .dispatcher import Dispatcher
from .taking_back import forsake, take_back

#: Seconds in which a running server is expected to answer.
READY: Final = 10.0
#: Longest wait in one piece, in seconds, so that Ctrl-C works on every system.
_SLICE: Final = 0.5

_dispatchers: weakref.WeakSet[Dispatcher] = weakref.WeakSet()


def register(dispatcher: Dispatcher) -> None:
    """Register a dispatcher to be told of a fork and of the process's end."""
    _dispatchers.add(dispatcher)


def connect(dispatcher: Dispatcher, timeout: float | None) -> None:
    """Connect all servers, and wait until one is ready; raise an error if none is in time."""
    deadline = Deadline.after(timeout)
    state = dispatcher.state
    dispatcher.check_open()
    dispatcher.start()

    def is_settled() -> bool:
        return state.was_ready or state.closed or is_hopeless(dispatcher.members)

    while not dispatcher.wait(is_settled, deadline.left(_SLICE)):
        if deadline.expired:
            break
    dispatcher.check_open()
    if not state.was_ready:
        raise out_of_reach(dispatcher.members)


def connect_once(dispatcher: Dispatcher, timeout: float = READY) -> None:
    """Connect the servers and wait until one is ready, unless a server has been ready before."""
    if dispatcher.state.closed or not dispatcher.state.was_ready:
        connect(dispatcher, timeout)


def shut_down(dispatcher: Dispatcher, *, wait: bool, cancel: bool) -> None:
    """Stop accepting jobs, and stop the pool once all have ended.

    ``cancel`` ends waiting jobs, and lets no other server run the rest.
    """
    dispatcher.close()
    if cancel:
        for job in dispatcher.waiting():
            dispatcher.withdraw(job)
        for job in (left := dispatcher.jobs()):
            dispatcher.recall(job)
        dispatcher.end_unsent(left)
    while wait and not dispatcher.wait(lambda: dispatcher.state.is_idle, _SLICE):
        dispatcher.warn_of_away()
        dispatcher.warn_of_silence()
    if dispatcher.state.is_idle:
        dispatcher.stop()


def leave(dispatcher: Dispatcher) -> None:
    """Shut the pool down without waiting; cancel all jobs but those that are running."""
    dispatcher.close()
    try:
        jobs = dispatcher.jobs()
        take_back(dispatcher, jobs)
        forsake(dispatcher, jobs)
    finally:
        shut_down(dispatcher, wait=False, cancel=True)


def _after_fork() -> None:
    for dispatcher in list(_dispatchers):
        dispatcher.after_fork()


def _at_exit() -> None:
    for dispatcher in list(_dispatchers):
        dispatcher.warn_of_waiting()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
