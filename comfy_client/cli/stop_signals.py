"""Signals that stop a command: Ctrl-C, SIGTERM and SIGHUP, and on Windows Ctrl-Break.

While a command works they raise KeyboardInterrupt, since it may have something to clean up.  Before
and after, they end the process immediately.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from os import _exit as exit_at_once
from types import FrameType
from typing import Any, Final

#: The status of a command that a signal has stopped, as ``Exit.STOPPED``.
_STOPPED: Final = 130
#: Seconds after which a signal is sent again.
_AGAIN_AFTER: Final = 0.01


def end_at_once() -> None:
    """Make the signals end this process immediately with status 130, as nothing needs cleanup."""
    for number in _heeded():
        signal.signal(number, lambda *_: exit_at_once(_STOPPED))


@contextlib.contextmanager
def ending_as_by_ctrl_c() -> Iterator[None]:
    """Context manager: make the signals raise KeyboardInterrupt, unless they are ignored.

    Python drops exceptions that are raised in finalizers, some of which run during imports.  If it
    drops a KeyboardInterrupt, the signal is sent again.  Once a KeyboardInterrupt has been raised,
    other errors of finalizers are not reported.
    """
    before, hook = _heeded(), sys.unraisablehook
    dropped: list[int] = []
    stopped: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        while frame is not None and frame.f_code is not catch.__code__:
            frame = frame.f_back
        if frame is None:
            stopped.append(number)
            raise KeyboardInterrupt
        send_again(number)  # Python would drop that exception, too

    def catch(unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt) and before:
            send_again(next(iter(before)))  # they all mean the same
        elif not stopped:  # after it, an object may complain that it is half made
            hook(unraisable)

    def send_again(number: int) -> None:
        dropped.append(number)
        threading.Thread(target=send, name="comfy-signal", daemon=True).start()

    def send() -> None:
        time.sleep(_AGAIN_AFTER)  # the finalizer has ended, or its exception is dropped again
        with contextlib.suppress(IndexError):  # the block has ended
            number = dropped.pop()
            if hasattr(signal, "pthread_kill"):
                signal.pthread_kill(threading.main_thread().ident or 0, number)
            else:  # as on Windows
                signal.raise_signal(number)

    try:
        sys.unraisablehook = catch
        for number in before:
            signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if stopped:
            gc.collect()  # while errors of half-made objects are not reported
        sys.unraisablehook = hook
        if dropped:
            dropped.clear()
            raise KeyboardInterrupt


@contextlib.contextmanager
def passed_on(to: Callable[[int], object]) -> Iterator[None]:
    """Context manager: hand the numbers of the signals to a function; they stop nothing here."""
    before = _heeded()
    try:
        for number in before:
            signal.signal(number, lambda number, _: to(number))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _heeded() -> dict[int, Any]:
    """Return the handlers of the signals, by number; omit ignored signals, as under ``nohup``."""
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # no system has them all
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    found = {number: signal.getsignal(number) for number in numbers}
    return {number: one for number, one in found.items() if one not in (signal.SIG_IGN, None)}
