"""The history: prompts that have ended."""

from __future__ import annotations

from ..http import segment
from ..models._base import mapping
from ..models.history import HistoryEntry
from ._base import RouteGroup


class HistoryRoutes(RouteGroup):
    """What ended, and how.  The server keeps it in memory: a restart empties it."""

    def get_histories(
        self, max_items: int | None = 200, offset: int | None = None
    ) -> dict[str, HistoryEntry]:
        """Prompts that have ended, oldest first, by prompt_id.

        ``GET /history``

        Args:
            max_items: At most so many; without ``offset``, the last ones.  ``None`` is all,
                which can be tens of megabytes; ``0`` is none.
            offset: Leave out so many of the oldest; ComfyUI 0.3.60 and newer, ignored before.
        """
        found = self._http.json(
            "GET", "/history", params={"max_items": max_items, "offset": offset}
        )
        return {
            prompt_id: HistoryEntry.from_json(entry)
            for prompt_id, entry in mapping(found, "GET /history").items()
        }

    def get_history(self, prompt_id: str) -> HistoryEntry | None:
        """The record of one prompt that has ended.

        ``GET /history/{prompt_id}``.  ``None`` for a prompt that waits, runs, was deleted or
        was never there: only the queue, asked *before*, tells these apart.
        """
        found = mapping(
            self._http.json("GET", f"/history/{segment(prompt_id)}"), "GET /history/{prompt_id}"
        )
        return HistoryEntry.from_json(found[prompt_id]) if prompt_id in found else None

    def clear_history(self) -> None:
        """Forget all prompts that have ended, of all clients; files stay.

        ``POST /history``
        """
        self._http.request("POST", "/history", json={"clear": True})

    def delete_history(self, *prompt_ids: str) -> None:
        """Forget these prompts; unknown ones are passed over, files stay.

        ``POST /history``
        """
        if prompt_ids:
            self._http.request("POST", "/history", json={"delete": prompt_ids})
