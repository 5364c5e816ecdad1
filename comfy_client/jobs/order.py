"""The unfinished prompts of one client, in the order in which they will run."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

import attrs

from .prompt import TrackedPrompt


@attrs.frozen(eq=False, repr=False)
class Order:
    """The order at one moment; it is sorted once for all who ask until something changes.

    Attributes:
        changes: How many changes there had been by then.
        numbers: The places of the prompts in the server's order, low first; what runs is before
            all others, though its number be higher than that of one at the front.
        running: One that runs.
    """

    changes: int
    numbers: list[float]
    running: TrackedPrompt | None

    @classmethod
    def of(cls, prompts: Iterable[TrackedPrompt], changes: int) -> Order:
        """Sort these prompts."""
        numbers, running = [], None
        for one in prompts:
            if one.state.running_since is not None:
                running = running or one
                numbers.append(float("-inf"))
            elif one.state.number is not None:
                numbers.append(one.state.number)
        return cls(changes, sorted(numbers), running)

    def around(self, number: float | None) -> tuple[int, int]:
        """Return how many prompts are ahead of a waiting one, and how many behind it."""
        if number is None:
            return 0, 0
        behind = len(self.numbers) - bisect_right(self.numbers, number)
        return bisect_left(self.numbers, number), behind
