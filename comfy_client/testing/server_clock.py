"""The time of a server's prompts: how fast it passes, and whether it stands still; and its ids.

All that is simulated takes its time here: the lead of a prompt, steps of the sampler, nodes with
``node_seconds``, slow nodes.  The worker stops for a pause before each node, before each progress
of a node after the first, and in each wait.

Time of day and ids are what differs from run to run, unless the test fixes them.
"""

from __future__ import annotations

import itertools
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

from .. import runtime
from .active_faults import check_seconds, shown

#: Ends a wait of the worker by a true result or an exception; called again and again.
WaitCheck = Callable[[], object]
#: How a server chooses ids.
IdKind = Literal["random", "counter"]

_POLL = 0.005  # seconds between two checks
_PAUSE = 0.05  # the longest one that others sleep
_FASTEST = 1e9  # times as fast
_FIRST_YEAR, _LAST_YEAR = 1970, 8999  # in which the time of day can begin
_MOST_WAITED = 900 * 365 * 86_400.0  # simulated seconds that the time of day can go on


class ServerClock:
    """The clock of a server, over restarts too; any thread may call the methods."""

    def __init__(
        self, speed: float = 1.0, lead: float = 0.0, start: datetime | str | None = None
    ) -> None:
        """Make a clock.

        Args:
            speed: The factor by which simulated times are shorter.
            lead: How many simulated seconds a prompt takes to begin.
            start: When the time of day begins, which then depends on simulated times alone;
                ``None``: it is that of the machine.
        """
        #: How many simulated seconds a prompt takes to begin.
        self.lead: float = check_seconds(lead, "lead is")
        self._start = None if start is None else _moment(start)
        self._news = threading.Condition()  # guards the rest; re-entrant
        self._waited = 0.0  # simulated seconds of all waits that were not cut short
        self._told = itertools.count(1)  # milliseconds that have been told
        self._speed = self._first_speed = checked_speed(speed)
        self._paused = False
        self._steps = False  # whether a step is being made
        self._stands = False  # whether the worker has stopped for a pause
        self._busy = False  # whether the worker has a prompt
        self._worker = 0  # the number of its thread, if it has
        self._seconds = 0.0  # that had passed
        self._since = runtime.monotonic()  # when they had

    # -- for the worker -----------------------------------------------------------------

    def begin(self) -> None:
        """Note that the worker has a prompt."""
        self._change(busy=True, worker=threading.get_ident())

    def end(self) -> None:
        """Note that the worker has no prompt, which ends a step."""
        with self._news:
            if self._worker == threading.get_ident():  # there may be a newer one
                self._change(busy=False, steps=False, worker=0)

    def seconds(self) -> float:
        """Return how many simulated seconds have passed."""
        with self._news:
            return self._passed()

    def wait(self, seconds: float, check: WaitCheck) -> None:
        """Wait for simulated seconds; a step passes over them."""
        end = self.seconds() + seconds
        while (left := end - self.seconds()) > 0:
            if check():
                return
            with self._news:
                if self._steps:
                    self._seconds += left
                elif not self._paused:
                    self._news.wait(min(left / self._speed, _POLL))
            self.stand(check, ends_step=False)
        with self._news:
            self._waited = min(self._waited + seconds, _MOST_WAITED)

    def stand(self, check: WaitCheck, *, ends_step: bool = True) -> None:
        """Wait while the server is paused, until a step is made; it ends the step before."""
        if ends_step and self._steps:
            self._change(steps=False)
        try:
            while self._paused and not self._steps and not check():
                self._change(stands=True)
                with self._news:
                    self._news.wait(_POLL)
        finally:
            if self._stands:
                self._change(stands=False)

    # -- for others ---------------------------------------------------------------------

    def pauses(self, seconds: float) -> Iterator[float]:
        """Yield real seconds to sleep, until simulated ones have passed; not for the worker."""
        left, before = seconds, self.seconds()
        while left > 0:
            yield min(left / self._speed, _PAUSE)
            now = self.seconds()
            left -= max(now - before, 0.0)  # a reset sets it back
            before = now

    # -- time of day --------------------------------------------------------------------

    def stamp(self) -> int:
        """Return the time for an event, in milliseconds; each has another if they are fixed."""
        if self._start is None:
            return int(runtime.wall_time() * 1000)
        return int((self._start.timestamp() + self._waited) * 1000) + next(self._told)

    def local(self) -> datetime:
        """Return the local time, for names of files and the log; in UTC if it is fixed."""
        if self._start is None:
            return datetime.fromtimestamp(runtime.wall_time())
        now = self._start + timedelta(seconds=self._waited)
        return now.astimezone(UTC).replace(tzinfo=None)

    # -- for tests ----------------------------------------------------------------------

    @property
    def speed(self) -> float:
        """The factor by which simulated times are shorter."""
        return self._speed

    @speed.setter
    def speed(self, speed: float) -> None:
        self._change(speed=checked_speed(speed))

    @property
    def paused(self) -> bool:
        """Whether simulated time stands still."""
        return self._paused

    def pause(self, is_coming: Callable[[], bool], timeout: float) -> None:
        """Let time stand still, and wait until the worker stops as :meth:`step` does."""
        self._change(paused=True)
        if threading.get_ident() != self._worker:
            self._until_stopped(is_coming, timeout)

    def resume(self) -> None:
        """Let time pass again."""
        self._change(paused=False, steps=False)

    def reset(self) -> None:
        """Let time pass as it did at first, from the same time of day."""
        with self._news:
            self._change(paused=False, steps=False, speed=self._first_speed)
            self._seconds = self._waited = 0.0
            self._told = itertools.count(1)

    def step(self, is_coming: Callable[[], bool], timeout: float) -> bool:
        """Let the worker go on to where it stops next; return False if it has nothing to do.

        ``is_coming`` says whether it will take a prompt soon.

        Raises:
            RuntimeError: The server is not paused, or this is the worker's thread.
            TimeoutError: The worker has not stopped within ``timeout`` seconds.
        """
        if threading.get_ident() == self._worker:
            raise RuntimeError("a node cannot wait for the end of its own step")
        if not self._paused:
            raise RuntimeError("the server is not paused; pause it first")
        if not self._until_stopped(is_coming, timeout, begin_step=True):
            return False
        self._until_stopped(is_coming, timeout)
        return True

    def _until_stopped(
        self, is_coming: Callable[[], bool], timeout: float, *, begin_step: bool = False
    ) -> bool:
        """Wait until the worker stands, or has nothing to do; return whether it stands."""
        end = runtime.monotonic() + check_seconds(timeout, "timeout is")
        # In this order: it is busy before none is coming.
        while self._paused and (is_coming() or self._busy):
            with self._news:
                if self._stands and self._paused and not self._steps:
                    if begin_step:
                        self._change(steps=True, stands=False)
                    return True
                self._news.wait(_POLL)
            if runtime.monotonic() > end:
                raise TimeoutError(f"no node has ended within {timeout} s")
        return False

    # -- under the lock -----------------------------------------------------------------

    def _change(self, **values: float) -> None:
        """Set attributes, after the time until now has been counted at the speed until now."""
        with self._news:
            self._seconds, self._since = self._passed(), runtime.monotonic()
            for name, value in values.items():
                setattr(self, f"_{name}", value)
            self._news.notify_all()

    def _passed(self) -> float:
        passes = self._steps or not self._paused
        return self._seconds + passes * self._speed * (runtime.monotonic() - self._since)


def checked_speed(value: float) -> float:
    """Return a speed; raise TypeError or ValueError unless it is above 0 and at most 1e9."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"speed must be a number, not {shown(value)}")
    if not 0 < value <= _FASTEST:  # a float of more seconds would lose the fractions of one
        hint = "; to stop time, pause it" if value == 0 else ""
        raise ValueError(f"speed must be above 0, and 1e9 at most, not {shown(value)}{hint}")
    return float(value)


def _moment(value: Any) -> datetime:
    """Return a time of day that is given as such or in ISO format, with a time zone."""
    if not isinstance(value, datetime | str):
        raise TypeError(f"clock must be a datetime or a text in ISO format, not {value!r}")
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError(f"clock must be like '2026-12-01T09:30:00Z', not {value!r}") from None
    if found.utcoffset() is None:
        raise ValueError(f"clock must have a time zone, as 2026-12-01T09:30:00Z has, not {value}")
    if not _FIRST_YEAR <= found.year <= _LAST_YEAR:
        raise ValueError(f"clock must be of the years {_FIRST_YEAR} to {_LAST_YEAR}, not {value}")
    return found


class ServerIds:
    """The ids that a server chooses, over restarts too; any thread may ask for one.

    Attributes:
        kind: ``"random"``, or ``"counter"``: the same in each run.
    """

    def __init__(self, kind: IdKind = "random") -> None:
        if kind not in get_args(IdKind):
            raise ValueError(f"ids must be one of {', '.join(get_args(IdKind))}, not {kind!r}")
        self.kind = kind
        self.reset()

    def reset(self) -> None:
        """Begin to count again."""
        self._numbers: dict[str, itertools.count[int]] = {}

    def new(self, what: str = "") -> uuid.UUID:
        """Return a new id: of a prompt, or of ``what``, which is counted apart."""
        if self.kind == "random":
            return uuid.uuid4()
        number = next(self._numbers.setdefault(what, itertools.count(1)))
        return uuid.uuid5(uuid.NAMESPACE_OID, f"{what} {number}".strip())

    def letters(self, count: int) -> str:
        """Return letters for the name of a temporary file, 6 at most."""
        return "".join(chr(ord("a") + byte % 26) for byte in self.new("letters").bytes[:count])
