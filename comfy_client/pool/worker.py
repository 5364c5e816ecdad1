"""The thread of a pool, which calls queued functions one after the other."""

from __future__ import annotations

import logging
import queue
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Final, Generic, TypeVar

from .. import runtime
from ..interrupts import was_started
from ..locks import check_may_wait

log: logging.Logger = logging.getLogger("comfy_client")

#: Seconds between two ticks.
TICK: Final = 0.25
#: Longest wait in one piece, in seconds, so that Ctrl-C works on every system.
_SLICE: Final = 0.5

Owner = TypeVar("Owner")
Answer = TypeVar("Answer")


class Worker(Generic[Owner]):
    """A thread that calls queued functions with its owner, one after the other.

    The thread keeps the owner alive only during a call, and ends once the owner is gone.

    Args:
        owner: The object with which each queued function is called.
        tick: Called every :data:`TICK` seconds.
        finish: Called whenever the queue is empty; returns whether the thread is to end.
        has_lock: Whether the calling thread holds the lock that calls need.
    """

    def __init__(
        self,
        owner: Owner,
        tick: Callable[[Owner], object],
        finish: Callable[[Owner], bool],
        has_lock: Callable[[Owner], bool],
    ) -> None:
        self._args = weakref.ref(owner), tick, finish
        self._has_lock = has_lock
        self.reset()

    def reset(self) -> None:
        """Forget the thread and its queue; in the child of a fork, the thread does not exist."""
        self._todo: runtime.SimpleQueue[Callable[[Owner], object]] = runtime.SimpleQueue()
        self._ended: list[bool] = []  # filled by the thread as it ends
        self._thread: runtime.Thread | None = None

    @property
    def is_started(self) -> bool:
        """Whether the thread has been started; it may have ended since."""
        return was_started(self._thread)

    def start(self) -> None:
        """Start the thread; repeated calls do nothing."""
        if self.is_started:
            return
        self._thread = runtime.Thread(
            target=_work,
            args=(self._todo, self._ended, *self._args),
            name="comfy-pool-dispatcher",
            daemon=True,
        )
        self._thread.start()

    def put(self, call: Callable[[Owner], object]) -> None:
        """Queue a function to be called with the owner."""
        self._todo.put(call)

    def ask(self, call: Callable[[], Answer]) -> Answer:
        """Queue a function, wait for its call, and return its result or raise its error.

        A Ctrl-C or an alarm may end the wait, and leaves nothing half done.  The wait uses no
        ``Condition``, as an alarm might leave its lock held.  If a signal handler asks while the
        interrupted code has the lock, the call is made in this thread.
        """
        owner, ended = self._args[0](), self._ended
        if not self.is_started or self._thread is runtime.current_thread() or ended:
            return call()
        if owner is not None and self._has_lock(owner):
            return call()
        check_may_wait()
        asked: Future[Answer] = Future()
        is_answered = runtime.Lock()
        is_answered.acquire()
        self._todo.put(partial(_answer, asked, call, is_answered.release))
        try:
            while not is_answered.acquire(timeout=_SLICE):
                if ended and not asked.done():
                    return call()
            return asked.result(0)
        finally:
            del asked  # breaks the cycle of an error, its traceback and this frame


def _answer(
    asked: Future[Answer], call: Callable[[], Answer], done: Callable[[], object], _: object
) -> None:
    try:
        asked.set_result(call())
    except Exception as exc:  # noqa: BLE001  # the caller gets it
        asked.set_exception(exc)
    finally:
        done()


def _work(
    todo: runtime.SimpleQueue[Callable[[Owner], object]],
    ended: list[bool],
    ref: weakref.ref[Owner],
    tick: Callable[[Owner], object],
    finish: Callable[[Owner], bool],
) -> None:
    """Run the thread, and note its end: ``Thread.is_alive`` is wrong after a Ctrl-C in it."""
    try:
        _call_each(todo, ref, tick, finish)
    finally:
        ended.append(True)


def _call_each(
    todo: runtime.SimpleQueue[Callable[[Owner], object]],
    ref: weakref.ref[Owner],
    tick: Callable[[Owner], object],
    finish: Callable[[Owner], bool],
) -> None:
    due = runtime.monotonic()
    while True:
        left = due - runtime.monotonic()
        call = tick
        if left > 0:
            try:
                call = todo.get(timeout=left)
            except queue.Empty:
                left = 0.0
        if left <= 0:
            due = runtime.monotonic() + TICK
        owner = ref()
        if owner is None:
            return
        try:
            call(owner)
            if todo.empty() and finish(owner):
                return
        except Exception:
            log.exception("the pool could not do one step")  # a defect; the next one may work
        del owner, call
