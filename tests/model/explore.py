"""Playing many schedules, and making a small one of each that fails."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from tests.model import fleet, test_client, test_hosted, test_map, test_pool, test_sweep
from tests.model.schedule import make, reduced

Play = Callable[[Any], object]


class Scenario(NamedTuple):
    """How a schedule is made of a seed, and played."""

    make: Callable[[int], Any]
    play: Play


SCENARIOS: Mapping[str, Scenario] = {
    "client": Scenario(make, test_client.play),
    "pool": Scenario(fleet.drawn, test_pool.play),
    "map": Scenario(test_map.drawn, test_map.play),
    "sweep": Scenario(test_sweep.drawn, test_sweep.play),
    "hosted": Scenario(test_hosted.drawn, test_hosted.play),
}


def failure(play: Play, schedule: Any) -> str | None:
    """Return why a schedule fails; ``None`` if it does not."""
    try:
        play(schedule)
    except Exception as exc:
        return f"{type(exc).__name__}: {exc}"
    return None


def _kind(why: str | None) -> list[str] | None:
    """The words by which failures count as the same: of two, the error and what must be."""
    return None if why is None else why.split(":")[:2]


def kept(scenario: Scenario, schedule: Any, why: str) -> str:
    """Return a test of ``test_kept.py`` for the smallest schedule found that fails in this way."""
    smallest = reduced(schedule, lambda one: _kind(failure(scenario.play, one)) == _kind(why))
    said = failure(scenario.play, smallest) or why
    return f"# {said.splitlines()[0]:.150}\nreplay({smallest!r})"


def explore(scenarios: Iterable[Scenario], seeds: Iterable[int]) -> Iterator[str | None]:
    """Play a schedule of each scenario and seed; yield a test if it fails, else ``None``."""
    for seed in seeds:
        for scenario in scenarios:
            schedule = scenario.make(seed)
            why = failure(scenario.play, schedule)
            yield None if why is None else kept(scenario, schedule, why)


def seeds_for(seconds: float) -> Iterator[int]:
    """Random seeds, for so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield random.SystemRandom().getrandbits(48)
