"""Play many schedules: ``python -m tests.model --schedules 1000000 --processes 2``."""

from __future__ import annotations

import argparse
import functools
import math
import multiprocessing
import sys
import time
from collections.abc import Sequence

from tests.model.explore import SCENARIOS, explore

#: Seeds whose schedules a process plays at a time.
_BLOCK = 10


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--schedules", type=int, help="how many; default: without end")
    parser.add_argument("--seconds", type=float, help="for how long; default: without end")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--scenario", choices=[*SCENARIOS], help="default: all in turn")
    return parser.parse_args()


def _play(names: Sequence[str], first: int) -> tuple[int, list[str]]:
    """How many schedules there were from that seed on, and a test for each that failed."""
    found = list(explore([SCENARIOS[name] for name in names], range(first, first + _BLOCK)))
    return len(found), [one for one in found if one is not None]


def main() -> int:
    """Play, and print a line now and then; 1 if any failed."""
    options = _options()
    names = [options.scenario] if options.scenario else list(SCENARIOS)
    most, longest = options.schedules or math.inf, options.seconds or math.inf
    began, said, count, failures, first = time.monotonic(), 0.0, 0, 0, options.seed
    with multiprocessing.Pool(options.processes, maxtasksperchild=200) as pool:
        while count < most and time.monotonic() - began < longest:
            firsts = range(first, first + 4 * options.processes * _BLOCK, _BLOCK)
            first = firsts[-1] + _BLOCK
            for played, failed in pool.imap_unordered(functools.partial(_play, names), firsts):
                count, failures = count + played, failures + len(failed)
                for text in failed:
                    print(text, flush=True)
            took = time.monotonic() - began
            if took - said > 60:
                said = took
                print(f"{count:,} schedules, {took:,.0f} s, {failures} failures", flush=True)
    took = time.monotonic() - began
    print(f"in all: {count:,} schedules, {took:,.0f} s, {failures} failures", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
