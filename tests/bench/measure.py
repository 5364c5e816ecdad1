"""Medians with an interval, from measurements taken side by side.

One round has a block of measurements of each variant, in random order: whatever disturbs the
machine for a while disturbs all of them.  The interval is a bootstrap over whole rounds, since
measurements of one block are not independent of each other.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

RESAMPLES = 500

Round = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Figure:
    """A figure, and between what 95 % of its resamples lie."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    figure: Figure
    unit: str
    aim: float | None
    count: int  #: Measurements of each side.
    at_least: bool = False  #: Whether more is better.
    note: str = ""

    @property
    def reached(self) -> bool:
        """Whether the figure is as good as the aim, at the precision in which it is shown."""
        if self.aim is None:
            return True
        value = float(show(self.figure.value))
        return value >= self.aim if self.at_least else value <= self.aim


def show(value: float) -> str:
    """Three digits, at most two after the point."""
    return (
        f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if value >= 20 else f"{value:.2f}"
    )


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def spent(call: Callable[[], object], count: int) -> float:
    """Seconds of CPU that all threads of this process take for each of `count` parts of a call."""
    start = time.process_time()
    call()
    return (time.process_time() - start) / count


def interleave(rounds: int, blocks: Mapping[str, Callable[[], Sequence[float]]]) -> list[Round]:
    """Rounds of one block per variant, each time in another order."""
    names = list(blocks)
    found: list[Round] = []
    for _ in range(rounds):
        random.shuffle(names)
        found.append({name: blocks[name]() for name in names})
    return found


def estimate(rounds: Sequence[Round], statistic: Callable[[Sequence[Round]], float]) -> Figure:
    """The statistic of all rounds, and how far it moves when rounds are drawn anew."""
    drawn = [statistic(random.choices(rounds, k=len(rounds))) for _ in range(RESAMPLES)]
    edges = statistics.quantiles(drawn, n=40)
    return Figure(statistic(rounds), edges[0], edges[-1])


def median_of(name: str) -> Callable[[Sequence[Round]], float]:
    """The statistic: median of a variant."""
    return lambda rounds: statistics.median(pooled(rounds, name))


def ratio_of(name: str, reference: str) -> Callable[[Sequence[Round]], float]:
    """The statistic: median of a variant / median of another one."""
    above, below = median_of(name), median_of(reference)
    return lambda rounds: above(rounds) / below(rounds)


def least_ratio_of(name: str, reference: str) -> Callable[[Sequence[Round]], float]:
    """The statistic: minimum of a variant / minimum of another one.

    For CPU times, which other programs only lengthen.
    """
    return lambda rounds: min(pooled(rounds, name)) / min(pooled(rounds, reference))


def pooled(rounds: Iterable[Round], name: str) -> list[float]:
    """All measurements of a variant."""
    return [value for each in rounds for value in each[name]]
