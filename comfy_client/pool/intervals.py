"""The times of a pool, in one place: a subclass of the pool may set its own."""

from __future__ import annotations

import attrs


@attrs.frozen(eq=False, repr=False)
class Intervals:
    """The times of a pool, in seconds; how often jobs may fail and move.

    Attributes:
        rest: The first pause of a server that fails job after job; it doubles with each failure.
        longest_rest: The longest of these pauses.
        failures: How many jobs in a row a server fails before it gets less.
        moves: How often a job moves on because a server was away while it was being sent.
        attempts: How often a job runs in all if it is lost each time.
        ask_again: The shortest pause between two questions to a server for its definitions.
        definitions: How long a submission waits for definitions; then the last ones count.
        slow: How long a job may be on its way to a server before those behind it go elsewhere.
        flush: How long slow receivers have to get the last events.
    """

    rest: float = 5.0
    longest_rest: float = 300.0
    failures: int = 3
    moves: int = 5
    attempts: int = 3
    ask_again: float = 10.0
    definitions: float = 5.0
    slow: float = 1.0
    flush: float = 5.0
