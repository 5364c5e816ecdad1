"""Events about prompts of ours whose ids are not known yet.

A server may choose its own id, which only the answer to a submission tells, or a look-up if no
answer came.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ..event_queue import Newest
from ..events import JobEvent
from .state import JobState
from .tracked import Tracked

#: Events that are kept until the ids are known: so many, and so many bytes as the client says.
ORPHANS: Final = 1000


class Orphans:
    """The events that are kept while some id is not known; the tracker's lock guards them.

    ``tracked`` are the prompts that have not ended; ``posting`` those whose submission has no
    answer yet.
    """

    def __init__(self, nbytes: int) -> None:
        self.posting: set[Tracked] = set()
        self._events: Newest[JobEvent] = Newest(ORPHANS, nbytes)

    def keep(self, event: JobEvent, tracked: Iterable[Tracked]) -> None:
        """Keep an event if it may be about one of these prompts."""
        if self._misses_id(tracked):
            self._events.append(event, event.nbytes)

    def drop(self, tracked: Iterable[Tracked]) -> None:
        """Forget all events unless they may be about one of these prompts."""
        if len(self._events) and not self._misses_id(tracked):
            self._events.clear()

    def of(self, state: JobState) -> list[JobEvent]:
        """Return the kept events of a prompt; if some are lost, events alone do not decide."""
        if self._events.forgotten:
            state.generation = None
        return [event for event in self._events.values() if event.prompt_id == state.prompt_id]

    def has_end(self, prompt_id: str | None) -> bool:
        """Return whether the end of a prompt was kept."""
        return any(event.is_end and event.prompt_id == prompt_id for event in self._events.values())

    def _misses_id(self, tracked: Iterable[Tracked]) -> bool:
        """Return whether the server may have one of our submissions under an unknown id."""
        states = (one.state for one in tracked)
        return bool(self.posting) or any(
            state.search_by_mark and not state.attached for state in states
        )
