"""Locks shared with the user's threads, and detection of waits that could never end.

A signal handler runs in the main thread, between any two bytecodes, even while the interrupted code
owns one of these locks.  If the handler then waits for another thread of the client, that thread
may wait for the lock: a deadlock.
"""

from __future__ import annotations

import inspect
import weakref
from types import FrameType
from typing import Any, Final

from . import runtime
from .errors import ComfyError

_OURS: Final = f"{__package__}."
#: How the name of a module of the package begins, cut to the length of the longer one.
_PREFIXES: Final = frozenset((__package__, _OURS))
_locks: Final[set[weakref.ref[Any]]] = set()


def shared_lock() -> runtime.RLock:
    """Make a re-entrant lock that is known to :func:`check_may_wait`."""
    lock = runtime.RLock()
    share(lock)
    return lock


def share(lock: object) -> None:
    """Make a lock known to :func:`check_may_wait` while it exists."""
    _locks.add(weakref.ref(lock, _locks.discard))


def check_may_wait() -> None:
    """Raise :class:`ComfyError` if a wait for another thread of the client would never end.

    This is the case in a signal handler if the interrupted code owns a lock of the client.
    """
    if runtime.current_thread() is not runtime.main_thread():
        return  # handlers run in that one only
    # Only code of the library owns these locks.  There are thousands, so look at the stack first.
    if _interrupts_us() and _owns_any():
        raise ComfyError(
            "this signal handler interrupts the comfy_client call that it would wait for, so the "
            "wait could never end: return from the handler first, or wait in a thread"
        )


def _owns_any() -> bool:
    found = (ref() for ref in list(_locks))
    return any(lock is not None and lock._is_owned() for lock in found)


def _interrupts_us() -> bool:
    """Return whether other code, such as a callback, calls the library within another call."""
    frame: FrameType | None = inspect.currentframe()
    is_ours = True
    while frame is not None:
        # Without further calls, as stacks may be deep.
        if (frame.f_globals.get("__name__", "")[: len(_OURS)] in _PREFIXES) is not is_ours:
            if not is_ours:
                return True
            is_ours = False
        frame = frame.f_back
    return False
