"""Threads that act one inside another, on a clock of their own: no thread, and no wait.

Where a thread may be suspended (before it takes a lock, around a request, in a wait, in a
receiver), the one that acts reaches a *point*.  Others may act there, each to its end, and then it
goes on.  With the lock of a client held nobody else acts, and no request, wait or log line may
come.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from functools import partial

from tests.model.owned import replaced

#: A wait for something that never happens is an error after so many turns.
MOST_TURNS = 10_000


class Thread:
    """A thread that is started, and acts when :meth:`Stage.acting` says so."""

    def __init__(self, stage: Stage, *, name: str, **_: object) -> None:
        self.stage = stage
        self.name = name
        self.ident: int | None = None

    def start(self) -> None:
        self.ident = len(self.stage.started) + 1
        self.stage.started.append(self)


class Lock:
    """A re-entrant lock; whoever takes a first one reaches a point."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.depth = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        self._stage.point()
        self.depth += 1
        self._stage.held += 1
        return True

    def release(self) -> None:
        self.depth -= 1
        self._stage.held -= 1

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _is_owned(self) -> bool:
        return self.depth > 0


class Condition:
    """A condition of such a lock."""

    def __init__(self, stage: Stage, lock: Lock | None = None) -> None:
        self._stage = stage
        self._lock = lock or Lock(stage)
        self.acquire = self._lock.acquire
        self.release = self._lock.release
        self._is_owned = self._lock._is_owned

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def wait_for(self, happened: Callable[[], bool], timeout: float | None = None) -> bool:
        if happened() or timeout == 0:
            return happened()
        depth, self._lock.depth = self._lock.depth, 0
        self._stage.held -= depth
        try:
            return self._stage.wait(happened, timeout)
        finally:
            self._lock.depth = depth
            self._stage.held += depth

    def notify(self, n: int = 1) -> None:
        pass

    def notify_all(self) -> None:
        pass


class Stage:
    """The clock, the locks and the threads of a client.

    Attributes:
        now: The time.
        held: How many locks are held.
        started: The threads that were started.
        at_point: Called at each point; lets others act.
        idle: Called with a moment when somebody waits: lets time pass, at most until then.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.held = 0
        self.started: list[Thread] = []
        self.at_point: Callable[[], None] = lambda: None
        self.idle: Callable[[float], None] = self.pass_until
        self._acting: list[Thread] = [Thread(self, name="user")]

    def monotonic(self) -> float:
        self.now += 1e-6  # no two readings are the same
        return self.now

    def pass_until(self, moment: float) -> None:
        """Let time pass."""
        self.now = max(self.now, moment)

    def sleep(self, seconds: float) -> None:
        self.wait(lambda: False, seconds)

    def wait(self, happened: Callable[[], bool], seconds: float | None) -> bool:
        """Let others act and time pass until it happens, or for so long."""
        self.check_free("a wait")
        end = float("inf") if seconds is None else self.now + seconds
        for _ in range(MOST_TURNS):
            self.point()
            if happened() or self.now >= end:
                return happened()
            self.idle(end)
        raise AssertionError("a wait without an end")

    def point(self) -> None:
        """Here others may act, unless a lock is held."""
        if not self.held:
            self.at_point()

    def check_free(self, what: str) -> None:
        """No lock of a client may be held while it asks, waits or calls a user's function."""
        assert not self.held, f"{what} while a lock is held"

    @contextlib.contextmanager
    def acting(self, thread: Thread) -> Iterator[None]:
        """In here, this is the current thread."""
        self._acting.append(thread)
        try:
            yield
        finally:
            self._acting.pop()

    def current(self) -> Thread:
        """The thread that acts."""
        return self._acting[-1]

    @contextlib.contextmanager
    def owning_time(self) -> Iterator[None]:
        """In here, ``comfy_client`` has this clock, and these locks and threads."""
        owned = {
            "monotonic": self.monotonic,
            "sleep": self.sleep,
            "thread_time": lambda: 0.0,
            "current_thread": lambda: self._acting[-1],
            "main_thread": lambda: self._acting[0],
            "Thread": partial(Thread, self),
            "Lock": partial(Lock, self),
            "RLock": partial(Lock, self),
            "Condition": partial(Condition, self),
        }
        luck = random.getstate()
        random.seed(0)  # of pauses that grow
        with replaced(owned):
            yield
        random.setstate(luck)
