"""Interruptions of calls: Ctrl-C, or an alarm that a signal handler raises.

Libraries wrap such an exception, so it is looked for in the whole chain; and a list of calls that
must not stay half done is finished in spite of it.  ComfyUI's own interrupt is in
``jobs/stopping.py``.
"""

from __future__ import annotations

import math
from _thread import LockType, allocate_lock
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from types import CodeType
from typing import NamedTuple

from . import runtime


def causes(exc: BaseException, outer: BaseException | None = None) -> Iterator[BaseException]:
    """Yield an exception and all that it wraps, as its cause, reason or argument.

    ``outer``, the exception that was being handled when the failing call began, is not a cause.
    """
    todo: list[object] = [exc]
    seen = {id(outer)}
    while todo:
        item = todo.pop(0)
        if not isinstance(item, BaseException) or id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        todo += [getattr(item, "reason", None), item.__cause__, item.__context__, *item.args]


def interruption(exc: BaseException, outer: BaseException | None = None) -> BaseException | None:
    """Return the exception of a signal handler in a chain of exceptions, or None.

    ``outer`` as in :func:`causes`: a failure while a Ctrl-C is handled is not a new interruption.
    The usual alarm raises ``TimeoutError``, which libraries mistake for the socket's own.
    """
    if runtime.current_thread() is not runtime.main_thread():
        return None  # handlers run in that one only
    import signal  # seldom needed, and slow to import

    handlers = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()} - {None}
    for cause in causes(exc, outer):
        if not isinstance(cause, Exception):
            return cause
        if type(cause).__module__.startswith(("requests.", "urllib3.")):
            continue  # has the traceback of the wrapped exception
        step = cause.__traceback__
        while step is not None:
            if step.tb_frame.f_code in handlers:
                return cause
            step = step.tb_next
    return None


def _code_of(handler: object) -> CodeType | None:
    """Return the code of a signal handler: a function, a method, a partial or an object."""
    handler = getattr(handler, "func", handler)
    handler = getattr(handler, "__func__", handler)
    if not hasattr(handler, "__code__"):
        handler = getattr(type(handler), "__call__", None)  # noqa: B004  # the method itself
    code = getattr(handler, "__code__", None)
    return code if isinstance(code, CodeType) else None


def was_started(thread: runtime.Thread | None) -> bool:
    """Return whether a thread was started, even if Ctrl-C came while it was being started."""
    return thread is not None and thread.ident is not None


def in_full(calls: Iterable[Callable[[], object]]) -> None:
    """Make all calls in order, even if Ctrl-C comes in between or a call raises."""
    left = iter([*calls])
    try:
        for call in left:
            call()
    except BaseException:
        in_full(left)
        raise


class _Limit(NamedTuple):
    """A limit that applies while its lock is held."""

    value: float
    lock: LockType
    outer: _Limit | None


class BlockLimit:
    """A number that limits what this thread does within a block.

    A Ctrl-C cannot leave a block's limit behind: the lock that it holds meanwhile begins and ends
    the block in C, where none can come in between.

    Attributes:
        limits: The innermost limit, which may have ended; ``None``: there was none.
    """

    def __init__(self, name: str) -> None:
        self.limits: ContextVar[_Limit | None] = ContextVar(name, default=None)

    def get(self) -> float:
        """Return the limit of the innermost block; infinite if there is none."""
        limit = self._inner()
        return math.inf if limit is None else limit.value

    def set(self, value: float) -> None:
        """Set the limit for the rest of this thread."""
        self.limit(value).acquire()

    def limit(self, value: float) -> LockType:
        """Return a lock; while it is held, the limit applies."""
        lock = allocate_lock()
        self.limits.set(_Limit(value, lock, self._inner()))
        return lock

    def _inner(self) -> _Limit | None:
        limit = self.limits.get()
        while limit is not None and not limit.lock.locked():
            limit = limit.outer
        return limit
