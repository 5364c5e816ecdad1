"""Several downloads at a time, which end together."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Final, TypeVar

from ..interrupts import assigned

Item = TypeVar("Item")
Made = TypeVar("Made")

#: How many at a time: more do not make one server faster, and take its connections from others.
MOST: Final = 4
#: Seconds of one wait, in which Windows hears no Ctrl-C.
_SLICE: Final = 0.2
#: Seconds for which others are waited for, once it is over.
_FAREWELL: Final = 1.0

_over: Final[ContextVar[threading.Event | None]] = ContextVar("over", default=None)


class Abandoned(Exception):
    """Another one has failed, or was interrupted: nobody wants this one any more."""


def check_wanted() -> None:
    """:class:`Abandoned` within work that nobody wants any more."""
    over = _over.get()
    if over is not None and over.is_set():
        raise Abandoned


def in_parallel(work: Callable[[Item], Made], items: Sequence[Item]) -> list[Made]:
    """What ``work`` makes of each item, in their order; :data:`MOST` at a time.

    The first exception ends all of them: those under way at their next :func:`check_wanted`.
    So does a Ctrl-C.
    """
    over, lock = threading.Event(), threading.Lock()
    todo = iter(range(len(items)))
    made: dict[int, Made] = {}
    failed: dict[int, BaseException] = {}

    def run() -> None:
        with assigned(_over, over):
            while not over.is_set():
                with lock:  # guards ``todo``; nothing else is taken within
                    index = next(todo, None)
                if index is None:
                    return
                try:
                    made[index] = work(items[index])
                except Abandoned:
                    return
                except BaseException as exc:  # noqa: BLE001  # raised below, in the caller's thread
                    failed[index] = exc
                    over.set()

    threads = [
        threading.Thread(
            target=contextvars.copy_context().run, args=(run,), name="comfy-files", daemon=True
        )
        for _ in range(min(MOST, len(items)) if len(items) > 1 else 0)
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive() and not over.is_set():
                thread.join(_SLICE)
        if not threads:
            run()
        if failed:
            raise next(iter(failed.values()))  # the first that failed, and why the others ended
        return [made[index] for index in range(len(items))]
    finally:
        over.set()
        until = time.monotonic() + _FAREWELL
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, until - time.monotonic()))
        failed.clear()  # an error, its traceback and this frame make no circle
