"""Time that stands still while this process does, so that no limit of a test passes unused.

A busy or paused machine may let a process stand still for ten seconds and more.  All its limits
would be over at once then, whatever they are for.  What must take some time at least is measured by
``time.perf_counter``, which goes on.
"""

from __future__ import annotations

import os
import queue
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Final

from comfy_client import runtime

#: Seconds between two signs of life.
BEAT: Final = 0.05
#: Seconds without one after which the process has stood still; on a busy machine, two pass.
GRACE: Final = 3.0
#: Where what has limits looks for the time.
CLOCKS: Final = (
    (time, "monotonic"),
    (runtime, "monotonic"),
    (threading, "_time"),
    (queue, "time"),
    (subprocess, "_time"),
)


class StandingClock:
    """Seconds of another clock, without those in which nobody called ``beat``."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # In one tuple, so that threads see both or neither change.
        self._state = clock(), 0.0

    def __call__(self) -> float:
        last, lost = self._state
        return min(self._clock(), last + GRACE) - lost

    def beat(self) -> None:
        """Give a sign of life; one thread does."""
        now, (last, lost) = self._clock(), self._state
        self._state = now, lost + max(0.0, now - last - GRACE)

    def go_on(self) -> None:
        """Go on without signs of life."""
        self._state = float("inf"), self._state[1]


def install() -> None:
    """Have this process tell the time by it, and its forks as usual."""
    usual = time.monotonic
    clock = StandingClock(usual)
    for module, name in CLOCKS:
        assert getattr(module, name) is usual
        setattr(module, name, clock)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=clock.go_on)

    def beat() -> None:
        while True:
            time.sleep(BEAT)
            clock.beat()

    threading.Thread(target=beat, name="standing-clock", daemon=True).start()
