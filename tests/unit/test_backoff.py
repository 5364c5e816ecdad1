"""``Backoff``: pauses that double, have full jitter, and end at a cap."""

from __future__ import annotations

import random

from comfy_client.transport.deadline import Backoff


def longest(low: float, high: float) -> float:
    """Chance at its slowest."""
    return high


def test_backoff_doubles_up_to_its_cap() -> None:
    backoff = Backoff(0.5, 3.0, uniform=longest)
    assert [backoff.next() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_backoff_has_full_jitter() -> None:
    asked: list[tuple[float, float]] = []
    backoff = Backoff(1.0, 8.0, uniform=lambda low, high: asked.append((low, high)) or low)
    assert [backoff.next() for _ in range(3)] == [0.0, 0.0, 0.0]
    assert asked == [(0.0, 1.0), (0.0, 2.0), (0.0, 4.0)]


def test_backoff_may_have_less_jitter_or_none() -> None:
    assert Backoff(1.0, 8.0, jitter=0.0, uniform=random.uniform).next() == 1.0
    assert 0.7 <= Backoff(1.0, 8.0, jitter=0.3).next() <= 1.0


def test_backoff_grows_by_its_factor() -> None:
    backoff = Backoff(1.0, 100.0, factor=1.5, uniform=longest)
    assert [backoff.next() for _ in range(3)] == [1.0, 1.5, 2.25]


def test_backoff_starts_over_after_a_reset() -> None:
    backoff = Backoff(0.5, 30.0, uniform=longest)
    backoff.next(), backoff.next()
    assert backoff.failures == 2
    assert backoff.longest == 2.0
    backoff.reset()
    assert backoff.next() == 0.5


def test_backoff_survives_any_number_of_failures() -> None:
    backoff = Backoff(0.5, 30.0, uniform=longest)
    backoff.failures = 1_000_000
    assert backoff.next() == 30.0
