"""When something must be over, and for how long the server may be silent until then."""

from __future__ import annotations

import contextlib
import math
from contextvars import ContextVar
from typing import Final, NamedTuple

from .. import runtime
from ..interrupts import assigned
from ..values import is_real

#: Seconds that anything may take; more than this no socket can be told.
LONGEST: Final = 1e6


class Deadline(NamedTuple):
    """A moment by which something must be over.

    Attributes:
        at: The moment, by ``time.monotonic``; infinite if there is no limit.
    """

    at: float = math.inf

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        """Make a deadline in ``seconds`` from now, 0 or more; ``None``: never."""
        if seconds is None:
            return cls()
        if type(seconds) is not float or not seconds >= 0:  # there are several for each request
            check_timeout(seconds)
        return cls(runtime.monotonic() + min(seconds, LONGEST))

    @property
    def expired(self) -> bool:
        """Whether it has passed."""
        return runtime.monotonic() >= self.at

    def left(self, most: float = math.inf) -> float:
        """Seconds until then, at most ``most``; 0 once it has passed."""
        return max(0.0, min(most, self.at - runtime.monotonic()))

    def require(self, most: float = LONGEST) -> float:
        """Seconds until then, more than 0 and at most ``most``; else ``TimeoutError``."""
        left = self.at - runtime.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline has passed")
        return min(left, most)


def check_timeout(*seconds: float | None) -> None:
    """Raise ``TypeError`` or ``ValueError`` for what is no time to wait."""
    for value in seconds:
        if value is not None and not is_real(value):
            raise TypeError(f"a timeout is a number of seconds, or None: {value!r:.80}")
        if value is not None and not value >= 0:
            raise ValueError("a timeout is in seconds, 0 or more; None waits as long as it takes")


#: Seconds for which the server may be silent in any request of this thread.
read_timeout: Final[ContextVar[float]] = ContextVar("read_timeout", default=math.inf)


def limited_silence(seconds: float) -> contextlib.AbstractContextManager[None]:
    """Context manager: end requests when the server is silent for ``seconds``."""
    return assigned(read_timeout, seconds)
