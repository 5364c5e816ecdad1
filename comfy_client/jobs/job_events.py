"""The events of one job, for as many readers as there are."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from ..event_queue import Budget, EventQueue
from ..events import Event
from ..locks import shared_lock


class JobEvents:
    """The events of a job, each handed to all readers.

    The first reader gets what came before, too, of progress and previews only the newest.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        #: Those of jobs that turned out to be about the same prompt.
        self.others: list[JobEvents] = []
        #: Called with each event, in the thread that brings it.
        self.sinks: tuple[Callable[[Event], object], ...] = ()
        self._queues: tuple[weakref.ref[EventQueue], ...] = ()
        self.reset()

    def reset(self) -> None:
        """Reset all queues, as in the child of a fork, where locks may stay held."""
        for queue in self._live():
            queue.reset()
        # Guards the queues, which are replaced, never changed.  Re-entrant: the collector may
        # end an iterator in here.
        self._lock = shared_lock(is_small=True)
        #: Filled from the beginning; ``None``: it has a reader.
        self.first: EventQueue | None = EventQueue(high_water=0, budget=self._budget)
        # Weakly, so that an iterator that nobody keeps is gone with its events; but for the
        # first, until somebody asks for it.
        self._queues = (weakref.ref(self.first),)

    def keep_all(self) -> None:
        """Keep all events for a reader from the beginning."""
        if self.first is not None:
            self.first.listen()

    def subscribe(self) -> EventQueue:
        """Return the queue that was filled from the start, or a new one after the first call."""
        with self._lock:
            if self.first is not None:
                queue, self.first = self.first, None
                return queue
            queue = EventQueue(budget=self._budget)
            alive = (ref for ref in self._queues if ref() is not None)
            self._queues = (*alive, weakref.ref(queue))
        return queue

    def unsubscribe(self, queue: EventQueue) -> None:
        """End a queue's subscription."""
        queue.close()
        with self._lock:
            self._queues = tuple(ref for ref in self._queues if ref() not in (queue, None))

    def receive(self, event: Event) -> None:
        """Hand on one event."""
        if event.name == "b_preview_with_metadata":
            return  # the same picture comes as ``b_preview``
        for ref in self._queues:
            if (queue := ref()) is not None:
                queue.put(event)
        for sink in self.sinks:
            sink(event)
        for other in self.others:
            other.receive(event)

    def _live(self) -> list[EventQueue]:
        return [queue for ref in self._queues if (queue := ref()) is not None]
