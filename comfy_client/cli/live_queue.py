"""Changes of a server's queue and history: which prompts have arrived, begun and ended."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs

from ..errors import ComfyError, UnexpectedResponse
from .mine import Mine, is_mine
from .printing import note
from .prompt_commands import entry_object, queue_objects

if TYPE_CHECKING:
    from ..client import ComfyApi
    from ..models import HistoryEntry

#: The number of ended prompts in the first request for the history.
_FIRST: Final = 32
#: The factor by which the next request is larger if one did not return all new prompts.
_GROWTH: Final = 4


@attrs.define
class LiveQueue:
    """The queue and the end of the history of a server, as they were when last read.

    Attributes:
        api: A client of the server.
        mine: Returns whether this installation submitted a prompt, judging by its ``extra_data``.
        waiting: The status of each prompt in the queue, by id.
        ended: The ids of the prompts that ended last, the newest last; ``None``: not read yet.
        is_away: Whether the server did not answer when it was last asked.
        most: The most ended prompts that one request reads.
    """

    api: ComfyApi
    mine: Mine = attrs.field(factory=is_mine)
    waiting: dict[str, str] = attrs.field(factory=dict)
    ended: dict[str, None] | None = None
    is_away: bool = False
    most: int = 1024
    _pace: int = attrs.field(default=0, init=False)  # how many new prompts the last look found

    def look(self) -> Iterator[dict[str, Any]]:
        """Read the queue, then the history, and yield the changes since they were last read.

        In this order, a prompt that ends in between is in at least one of them.  If the server does
        not answer, nothing is yielded; a note on stderr says so once.
        """
        try:
            rows = queue_objects(self.api.get_queue())
            ends = self._ends({row["prompt_id"] for row in rows})
        except ComfyError as exc:
            from ..transport.failures import is_away

            if not is_away(exc):
                raise
            if not self.is_away:
                note(str(exc))
            self.is_away = True
            return
        self.is_away = False
        for change in self._changes(rows, ends):
            yield {"name": "queue", "time": time.time(), **change, "queue_remaining": len(rows)}

    def _changes(
        self, rows: Iterable[dict[str, Any]], ends: Iterable[dict[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        """Yield and remember the new statuses of prompts, in the order in which each had them."""
        queued = {row["prompt_id"]: row for row in rows}
        for end in ends:
            prompt_id = end["prompt_id"]
            row = queued.pop(prompt_id, None)  # it has ended since the queue was read
            if row is not None and self.waiting.get(prompt_id) != row["status"]:
                yield row
            self.waiting.pop(prompt_id, None)
            yield end
        for prompt_id, row in queued.items():
            if self.waiting.get(prompt_id) != row["status"]:
                self.waiting[prompt_id] = row["status"]
                yield row

    def _ends(self, queued: set[str]) -> list[dict[str, Any]]:
        """Return JSON objects for prompts that have ended or left the queue since the last look."""
        known = self.ended
        new, is_whole = self._new_entries()
        gone = [one for one in self.waiting if one not in queued and one not in new]
        ends: dict[str, dict[str, Any]] = {}
        for prompt_id in gone:
            # An id that is used again keeps its old place in the history.
            is_listed = known is not None and prompt_id in known
            entry = None if is_whole and not is_listed else self.api.get_history(prompt_id)
            ends[prompt_id] = self._end(prompt_id, entry)
        ends |= {prompt_id: self._end(prompt_id, entry) for prompt_id, entry in new.items()}
        self._note(new)
        return list(ends.values())

    def _new_entries(self) -> tuple[Mapping[str, HistoryEntry], bool]:
        """Return the new entries of the history, and whether these are all new ones.

        Each entry contains a workflow, so as few as possible are read: the latest, and more of them
        until one is known already.
        """
        known = self.ended
        if known is None:
            self.ended = dict.fromkeys(self._latest(_FIRST) or self._latest(1) or ())
            return {}, True
        new: Mapping[str, HistoryEntry] = {}
        size = 2 + self._pace
        while (found := self._latest(size)) is not None:
            new = {one: entry for one, entry in found.items() if one not in known}
            if len(new) < len(found) or len(found) != size:
                return new, True
            if size == self.most:
                break
            size = min(_GROWTH * size, self.most)
        note("Some prompts have ended that are not shown: too many at once, or too large to read.")
        return new, False

    def _latest(self, size: int) -> Mapping[str, HistoryEntry] | None:
        """Return the last entries of the history, oldest first; None if they are too large."""
        try:
            return self.api.get_histories(size)
        except UnexpectedResponse as exc:
            if "max_json" not in str(exc):
                raise
            return None

    def _note(self, new: Mapping[str, HistoryEntry]) -> None:
        """Remember which prompts have ended: at most twice as many as a request may return."""
        self._pace = min(len(new), self.most // 2)
        kept = [*(self.ended or ()), *new]
        self.ended = dict.fromkeys(kept[-2 * self.most :])

    def _end(self, prompt_id: str, entry: HistoryEntry | None) -> dict[str, Any]:
        if entry is None:
            return {"prompt_id": prompt_id, "status": "gone"}
        return entry_object(self.api, entry, self.mine)
