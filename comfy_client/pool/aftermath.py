"""What follows a change in a pool once its lock is free, as it may run the code of others."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from ..events import EndEvent, Event
from ..interrupts import in_full
from ..jobs import pooled
from ..jobs.pooled import PooledJob
from ..jobs.result import Result
from ..signals import Receivers

log: logging.Logger = logging.getLogger("comfy_client")


class Aftermath:
    """Ends of jobs, then events, then lines of the log."""

    def __init__(self, receivers: Receivers) -> None:
        self._receivers = receivers
        self._ends: list[Callable[[], object]] = []
        self._news: list[Callable[[], object]] = []
        self._taken = 0

    @property
    def is_busy(self) -> bool:
        """Whether some of it has not been done yet."""
        return bool(self._taken or self._ends)

    def end(
        self, job: PooledJob, outcome: Result | BaseException, event: EndEvent | None = None
    ) -> None:
        """End a job later; ``event`` tells it to receivers that had none yet."""
        self._ends.append(partial(pooled.end, job, outcome, event))

    def publish(self, event: Event) -> None:
        """Publish an event to receivers later."""
        self._news.append(partial(self._receivers.publish, event))

    def warn(self, text: str, *args: object) -> None:
        """Log a warning later."""
        self._news.append(partial(log.warning, text, *args))

    def inform(self, text: str, *args: object) -> None:
        """Have the log get a line that needs no action."""
        self._news.append(partial(log.info, text, *args))

    def take(self) -> list[Callable[[], object]]:
        """Take the calls that are to be made; with the lock held."""
        calls = [*self._ends, *self._news]
        self._ends, self._news = [], []
        self._taken += bool(calls)
        return calls

    def do(self, calls: list[Callable[[], object]], then: Callable[[], object]) -> None:
        """Do it; without the lock.  ``then`` is called in any case."""
        in_full([*calls, then])

    def done(self) -> None:
        """Note that the calls that were taken have been made; with the lock held."""
        self._taken -= 1
