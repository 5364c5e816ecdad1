"""Interruptions of calls: Ctrl-C, or an alarm that a signal handler raises.

Libraries wrap such an exception, so it is looked for in the whole chain.  A change that must not
stay half done keeps the handlers out (:func:`undivided`), and a list of calls is finished in spite
of it (:func:`in_full`).  ComfyUI's own interrupt is in ``jobs/stopping.py``.
"""

from __future__ import annotations

import inspect
import math
from _thread import LockType, allocate_lock
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from types import CodeType, FrameType
from typing import Any, NamedTuple, TypeVar

from . import runtime
from .tracebacks import steps_of

Returned = TypeVar("Returned")


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
        if any(step.tb_frame.f_code in handlers for step in steps_of(cause.__traceback__)):
            return cause
    return None


def was_stopped(exc: BaseException) -> bool:
    """Return whether the user stopped what raised: by Ctrl-C, or by leaving an iterator early."""
    return isinstance(exc, KeyboardInterrupt | GeneratorExit)


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


def undivided(call: Callable[[], Returned]) -> Returned:
    """Return ``call()``, which no signal handler interrupts: handlers run after it.

    Python calls handlers in the main thread only, so elsewhere there is nothing to do.  The call
    must be short, and must not run code of the user.
    """
    if runtime.current_thread() is not runtime.main_thread():
        return call()
    deferral = _Deferral()
    with deferral.is_on:
        try:
            deferral.begin()
            return call()
        finally:
            deferral.finish()


class _Deferral:
    """A signal handler in place of all others, which notes the signals while it is on.

    If signals come in quick succession while it begins or ends, it may stay the handler of one.
    So may it in the child of a fork by another thread.  The next such signal brings the former
    handler back, and that handles it.

    Attributes:
        is_on: Held while signals are noted; it begins and ends in C, where no handler comes in
            between.
    """

    def __init__(self) -> None:
        self.is_on: LockType = allocate_lock()
        self._thread = runtime.get_ident()
        self._former: dict[int, Any] = {}  # the handlers that were replaced
        self._replaced: list[int] = []  # whose handlers are to come back
        self._noted: list[tuple[Callable[[int, FrameType | None], object], int]] = []
        self._todo = iter(self._noted)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Note a signal, or hand it to its former handler."""
        handler = self._former[number]
        if self.is_on.locked() and runtime.get_ident() == self._thread:
            self._noted.append((handler, number))
            return
        runtime.set_handler(number, handler)
        handler(number, frame)

    def begin(self) -> None:
        """Replace the handlers that are written in Python, Ctrl-C's own included."""
        for number, handler in enumerate(map(runtime.get_handler, runtime.SIGNALS), 1):
            if callable(handler):
                self._former[number] = handler
                self._replaced.append(number)
                try:
                    self._former[number] = runtime.set_handler(number, self)
                except ValueError as exc:
                    *_, last = steps_of(exc.__traceback__)
                    if last.tb_frame.f_code is runtime.set_handler.__code__:
                        return  # a sub-interpreter, which gets no signals
                    raise  # what the handler of another signal raised

    def finish(self) -> None:
        """Bring all handlers back, then call those whose signals came."""
        here = inspect.currentframe()
        frame = here and here.f_back  # not this one, which would refer to itself
        del here
        try:
            while self._replaced:
                number = self._replaced[-1]
                if runtime.get_handler(number) is self:  # a finalizer may have set another
                    runtime.set_handler(number, self._former[number])
                del self._replaced[-1]
            for handler, number in self._todo:
                handler(number, frame)
        except BaseException:
            self.finish()
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
