"""Deadlines of calls, ways to end them early, several at a time, and pauses between attempts."""

from __future__ import annotations

import contextlib
import contextvars
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Final, NamedTuple, TypeVar

from .. import runtime
from ..interrupts import BlockLimit, in_full, was_started
from ..reading import check_ended
from ..values import T, is_real

Made = TypeVar("Made")

#: The longest time for anything, in seconds; the highest timeout that a socket accepts.
LONGEST: Final = 1e6


class Deadline(NamedTuple):
    """A moment by which work must have ended.

    Attributes:
        at: The moment, by ``time.monotonic``; infinite if there is no limit.
    """

    at: float = math.inf

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        """Make a deadline ``seconds`` (0 or more) from now; None means that there is no limit."""
        if seconds is None:
            return cls()
        if type(seconds) not in (float, int) or not seconds >= 0:  # quick, for the usual case
            check_timeout(seconds)
        return cls(runtime.monotonic() + min(seconds, LONGEST))

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed."""
        return runtime.monotonic() >= self.at

    def left(self, most: float = math.inf) -> float:
        """Return the seconds to the deadline, at most ``most``; 0 once it has passed."""
        return max(0.0, min(most, self.at - runtime.monotonic()))

    def require(self, most: float = LONGEST) -> float:
        """Return the seconds left, at most ``most``; raise ``TimeoutError`` if there are none."""
        left = self.at - runtime.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline has passed")
        return min(left, most)


def check_timeout(*seconds: float | None) -> None:
    """Raise ``TypeError`` or ``ValueError`` for an invalid timeout."""
    for value in seconds:
        if value is not None and not is_real(value):
            raise TypeError(f"a timeout must be a number of seconds, or None: {value!r:.80}")
        if value is not None and not value >= 0:
            raise ValueError("a timeout must be 0 or more seconds; None means no limit")


def check_patience(seconds: float) -> None:
    """Raise ``TypeError`` or ``ValueError`` for a patience that is no number of seconds."""
    if not is_real(seconds):
        raise TypeError(f"patience must be a number of seconds, not {seconds!r:.80}")
    if not seconds >= 0:
        raise ValueError(f"patience must be a number of seconds, 0 or more, not {seconds!r}")


#: Seconds that the server may be silent in any request of this thread.
read_timeout: Final = BlockLimit("read_timeout")


def limited_silence(seconds: float) -> contextlib.AbstractContextManager[object]:
    """Context manager: let requests fail if the server is silent for ``seconds``."""
    return read_timeout.limit(seconds)


# -- work in parallel --------------------------------------------------------------------

#: Calls at a time; more do not make one server faster, and take its connections from others.
MAX_PARALLEL: Final = 4
#: Seconds to wait for the other calls once one has failed.
_FAREWELL: Final = 1.0


class Abandoned(Exception):
    """The work is no longer wanted, as other work failed or was interrupted."""


class ParallelCalls:
    """A group of parallel calls, all of which end if one fails."""

    def __init__(self) -> None:
        self.over: runtime.Event = runtime.Event()
        self.ends: set[Callable[[], object]] = set()  # changes are atomic without a lock

    def end(self) -> None:
        """End all calls that are in progress, in any thread."""
        self.over.set()
        in_full(self.ends.copy())


#: The calls of which this thread makes one; ``None``: it works for itself.
parallel_calls: Final[ContextVar[ParallelCalls | None]] = ContextVar("parallel_calls", default=None)


def check_wanted() -> None:
    """Raise :class:`Abandoned` if the work of this thread is no longer wanted."""
    group = parallel_calls.get()
    if group is not None and group.over.is_set():
        raise Abandoned


def pause(seconds: float) -> None:
    """Sleep for ``seconds``, or raise :class:`Abandoned` once the work is no longer wanted."""
    group = parallel_calls.get()
    if group is None:
        runtime.sleep(seconds)
    else:
        group.over.wait(seconds)
        check_wanted()


@contextlib.contextmanager
def ended_by(end: Callable[[], object]) -> Iterator[None]:
    """Context manager: let another thread call ``end`` to end work that is no longer wanted."""
    group = parallel_calls.get()
    if group is None:
        yield
        return
    try:
        group.ends.add(end)
        check_wanted()  # checked last, as the end is marked first
        yield
    finally:
        group.ends.discard(end)


@contextlib.contextmanager
def endable() -> Iterator[ParallelCalls]:
    """Context manager: yield a group by which another thread can end the block's requests.

    What was in progress then raises :class:`Abandoned`, and so does the reading of a local file.
    """
    group = ParallelCalls()
    before, unchecked = parallel_calls.set(group), check_ended.set(check_wanted)
    try:
        yield group
    finally:
        parallel_calls.reset(before)
        check_ended.reset(unchecked)


def in_parallel(work: Callable[[T], Made], items: Sequence[T]) -> list[Made]:
    """Call ``work`` for each item, :data:`MAX_PARALLEL` at a time; return the results in order.

    The first exception, or an interruption, ends all other calls: at their next
    :func:`check_wanted`, or within :func:`ended_by`.
    """
    group, lock = ParallelCalls(), runtime.Lock()
    todo = iter(range(len(items)))
    made: dict[int, Made] = {}
    failed: dict[int, BaseException] = {}

    def run() -> None:
        while not group.over.is_set():
            with lock:  # guards ``todo``; no other lock is taken while it is held
                index = next(todo, None)
            if index is None:
                return
            try:
                made[index] = work(items[index])
            except BaseException as exc:  # noqa: BLE001  # raised below, in the caller's thread
                if not group.over.is_set():  # otherwise it failed because it was ended
                    failed[index] = exc
                    group.end()
                return

    # The work has contexts of its own, so that the group is never left in the caller's context.
    context = contextvars.copy_context()
    context.run(parallel_calls.set, group)
    number = min(MAX_PARALLEL, len(items)) if len(items) > 1 else 0
    workers: dict[runtime.Thread, runtime.Event] = {}
    for _ in range(number):
        # Not Thread.join: once interrupted, Python 3.11 and 3.12 take the thread for ended.
        ended = runtime.Event()
        calls = partial(in_full, [partial(context.copy().run, run), ended.set])
        workers[runtime.Thread(target=calls, name="comfy-files", daemon=True)] = ended
    try:
        with ended_by(group.end):
            for worker in workers:
                worker.start()
            if not workers:
                context.run(run)
            for ended in workers.values():
                while not ended.wait(runtime.SLICE) and not group.over.is_set():
                    pass
        if failed:
            raise next(iter(failed.values()))  # the first failure, due to which the others ended
        check_wanted()
        return [made[index] for index in range(len(items))]
    finally:
        group.end()
        until = runtime.monotonic() + _FAREWELL
        for worker, ended in workers.items():
            if was_started(worker):
                ended.wait(max(0.0, until - runtime.monotonic()))
        failed.clear()  # breaks the cycle of an error, its traceback and this frame


class Backoff:
    """Exponential backoff: the longest pause grows with each failure, up to a cap.

    Attributes:
        first: The longest first pause, in seconds.
        cap: The longest pause of all, in seconds.
        factor: The factor by which the longest pause grows with each failure.
        jitter: The random part of a pause: 1 is full jitter, 0 none.
        uniform: Returns a random number between two limits; tests pass their own function.
        failures: The number of pauses since the last reset.
    """

    def __init__(
        self,
        first: float,
        cap: float,
        factor: float = 2.0,
        jitter: float = 1.0,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.first = first
        self.cap = cap
        self.factor = factor
        self.jitter = jitter
        self.uniform = uniform
        self.failures: int = 0

    @property
    def longest(self) -> float:
        """The upper limit of the next pause, in seconds."""
        return min(self.cap, self.first * self.factor ** min(self.failures, 64))

    def next(self) -> float:
        """Count one more failure; return the seconds to wait."""
        longest = self.longest
        self.failures += 1
        return self.uniform(longest * (1.0 - self.jitter), longest)

    def reset(self) -> None:
        """Start over with the first pause, after a success."""
        self.failures = 0
