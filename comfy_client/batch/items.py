"""The items for the prompts of ``map``, from an iterable that may block."""

from __future__ import annotations

import contextlib
import contextvars
import os
import queue
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import Any, Final

from .. import runtime
from ..errors import ClientClosed
from ..interrupts import was_started
from ..jobs.job import Job, wait_for_one
from ..locks import check_may_wait

#: Types whose iterators never block and run no user code.
_PLAIN: Final = (list, tuple, range, dict, set, frozenset, deque)
#: Seconds to wait for an item before looking at results.
_SOON: Final = 0.05
#: The most seconds until an idle thread ends.
_END: Final = 1.0

#: An item, or the exception that the iterable raised in its place.
_NextItem = tuple[Any, BaseException | None]


class Items:
    """The items of an iterable, each fetched only when it is needed.

    A thread iterates, so that results can be yielded while the iterable blocks, as ``queue.get``
    does.  Lists and other plain containers need no thread.  The thread holds only the iterator.

    Attributes:
        is_over: Whether it has no more items.
    """

    def __init__(self, items: Iterable[Any], change: Callable[[Any], Any] | None = None) -> None:
        found = iter(items)
        self._items: Iterator[Any] = found if change is None else map(change, found)
        self._blocks = type(items) not in _PLAIN
        self._thread: runtime.Thread | None = None
        self._process = 0  # the one in which the thread was started
        self._asks: runtime.SimpleQueue[bool] = runtime.SimpleQueue()
        #: Answers of the thread; ``None`` wakes a waiting thread because a job has ended.
        self._news: runtime.SimpleQueue[_NextItem | None] = runtime.SimpleQueue()
        self._is_asked = self._is_closed = False
        self._found: _NextItem | None = None
        self.is_over: bool = False

    def has_next(self) -> bool:
        """Request the next item; return whether it, or an error in its place, has arrived.

        Raises:
            ClientClosed: The items were closed, maybe by another thread.
        """
        if self._is_closed:
            raise ClientClosed
        if self._found is None and not self.is_over:
            if self._is_asked:
                self._receive(0.0)
            elif self._ask():
                self._receive(_SOON)
            else:
                self._found = _next(self._items)
        if self._found is not None and isinstance(self._found[1], StopIteration):
            self._found, self.is_over = None, True
        return self._found is not None

    @property
    def is_ready(self) -> bool:
        """Whether a requested item has arrived and has not been taken."""
        return self._found is not None

    def take(self) -> Any:
        """Return the item that has arrived, or raise the error of the iterable."""
        assert self._found is not None  # noqa: S101
        (item, error), self._found, self._is_asked = self._found, None, False
        if error is not None:
            self.is_over = True
            raise error
        return item

    def wait(self, jobs: Collection[Job], seconds: float) -> None:
        """Wait up to ``seconds`` seconds until a job has ended or the requested item is there."""
        if not self._is_asked:
            wait_for_one(jobs, seconds)
            return
        check_may_wait()
        with contextlib.ExitStack() as stack:
            for job in jobs:
                stack.enter_context(job.handle.at_end(partial(self._news.put, None)))
            if self._found is None and not any(job.done() for job in jobs):
                self._receive(seconds)

    def close(self) -> None:
        """Release the iterator; its thread ends immediately, or after fetching the current item."""
        self._is_closed = True
        self._asks.put(False)  # also stops a thread that is just being started
        if self._thread is not None and (not self._is_asked or self._found is not None):
            with contextlib.suppress(RuntimeError):  # another thread is starting it
                self._thread.join(_END)
        self._items, self._found = iter(()), None

    def _ask(self) -> bool:
        """Have a thread, which this call starts, fetch the next item.

        Return False if the caller is to fetch it, as no thread is needed or possible.
        """
        if not self._blocks:
            return False
        if not was_started(self._thread) or self._process != os.getpid():  # a fork has no thread
            serve = partial(_serve, self._items, self._asks, self._news)
            context = contextvars.copy_context()
            # Daemon: an iterable that blocks for ever must not keep a script from ending.
            thread = runtime.Thread(
                target=context.run, args=(serve,), name="comfy-source", daemon=True
            )
            # Before it starts, as the call may be interrupted in between.
            self._thread, self._process = thread, os.getpid()
            try:
                thread.start()
            except RuntimeError:  # no more threads, as at exit
                self._thread, self._blocks = None, False
                return False
        self._is_asked = True
        self._asks.put(True)
        return True

    def _receive(self, seconds: float) -> None:
        with contextlib.suppress(queue.Empty):
            self._found = self._news.get(timeout=max(0.0, seconds)) or self._found


def _next(items: Iterator[Any]) -> _NextItem:
    try:
        return next(items), None
    except BaseException as exc:  # noqa: BLE001  # raised where its user sees it
        return None, exc


def _serve(
    items: Iterator[Any],
    asks: runtime.SimpleQueue[bool],
    news: runtime.SimpleQueue[_NextItem | None],
) -> None:
    """Fetch an item for each request, until a request is False."""
    while asks.get():
        news.put(_next(items))
