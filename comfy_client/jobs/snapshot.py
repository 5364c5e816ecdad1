"""The queue of a server at one moment.  Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any

import attrs


@attrs.frozen(eq=False, repr=False)
class QueueSnapshot:
    """The queue at one moment, in its order."""

    running: tuple[str, ...]
    pending: tuple[str, ...]
    #: Workflows by prompt_id, where the answer had them.
    graphs: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict)
    departed: int = 0  #: How many had left the queue before, by the client's count.

    @cached_property
    def _places(self) -> Mapping[str, int]:
        """The places by prompt id, for quick lookups."""
        return {one: place for place, one in enumerate((*self.running, *self.pending))}

    def place(self, prompt_id: str) -> float:
        """Return a prompt's place in the queue, running ones included; infinite if absent."""
        return self._places.get(prompt_id, float("inf"))

    def __contains__(self, prompt_id: str) -> bool:
        return prompt_id in self._places

    def ahead(self, prompt_id: str) -> int | None:
        """Return how many prompts are ahead of a waiting one; None if it runs."""
        place = self._places[prompt_id]
        return None if place < len(self.running) else place

    def first_of(self, prompt_ids: Collection[str]) -> str | None:
        """Return the prompt of these that will end first, or None."""
        ours = (one for one in (*self.running, *self.pending) if one in prompt_ids)
        return next(ours, None)
