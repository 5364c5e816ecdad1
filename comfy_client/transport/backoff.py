"""Pauses between failed attempts."""

from __future__ import annotations

import random
from collections.abc import Callable


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
