"""The history: prompts that have ended."""

from __future__ import annotations

from typing import Any, Final

from .. import models, runtime
from ..errors import UnexpectedResponse
from ..transport.failures import one_line
from ..transport.http import Http, segment
from ..values import mapping
from ._base import RECORD_PAUSE, TrackerHooks

#: An offset beyond all records: a server keeps about 10000.
_BEHIND_ALL: Final = 1_000_000_000


class HistoryRoutes:
    """The prompts that have ended.  The server keeps them in memory: a restart deletes them."""

    _http: Http
    _hooks: TrackerHooks

    def get_histories(
        self, max_items: int | None = 200, offset: int | None = None
    ) -> models.Histories:
        """Return the records of ended prompts, by prompt_id, oldest first.

        ``GET /history``.  ``print`` and notebooks show a table of the latest ones.

        Args:
            max_items: How many at most; without ``offset``, the last ones.  ``None``: all,
                which can be tens of megabytes (see ``max_json`` of the client); 0: none.
            offset: How many of the oldest to skip.  Servers before ComfyUI 0.3.60 cannot skip:
                all of their history is read, and cut here.
        """
        if max_items is not None and max_items < 1:
            return models.Histories()  # with an offset the server would return one
        # A server that can skip has nothing beyond the end.
        if offset is None or offset < 0 or not self._histories(1, _BEHIND_ALL):
            return self._histories(max_items, offset)
        return models.Histories(list(self._histories(None, None).items())[offset:][:max_items])

    def _histories(self, max_items: int | None, offset: int | None) -> models.Histories:
        params = {"max_items": max_items, "offset": offset}
        return _entries(self._http.json("GET", "/history", params=params))

    def get_history(self, prompt_id: str) -> models.HistoryEntry | None:
        """Return the record of an ended prompt; ``None`` if the server has none.

        ``GET /history/{prompt_id}``.  ``None`` for a prompt that is pending or running,
        was deleted or never existed: only the queue, asked *before*, shows which.  If this
        client knows that the prompt has ended, it waits for the record, one second at most: the
        server sends the end event before it writes the record.  It waits for no record that this
        client has deleted.
        """
        route = f"/history/{segment(prompt_id)}"
        while (entry := entry_of(prompt_id, self._http.json("GET", route))) is None:
            if not self._hooks.awaits_record(prompt_id):
                return None
            runtime.sleep(RECORD_PAUSE)
        if entry.prompt_id != prompt_id:
            said = one_line(self._http.identity.hide(entry.prompt_id))
            raise UnexpectedResponse(f"the history of prompt {prompt_id} is about another, {said}")
        return entry

    def clear_history(self) -> None:
        """Delete the records of all clients' prompts; their files stay.

        ``POST /history``
        """
        self._http.send_command("POST", "/history", json={"clear": True})
        self._hooks.records_deleted(None)

    def delete_history(self, *prompt_ids: str) -> None:
        """Delete the records of these prompts; unknown ones are ignored, files stay.

        ``POST /history``.  It waits for records as :meth:`get_history` does.
        """
        for prompt_id in filter(self._hooks.awaits_record, prompt_ids):
            self.get_history(prompt_id)
        if prompt_ids:
            self._http.send_command("POST", "/history", json={"delete": prompt_ids})
            self._hooks.records_deleted(prompt_ids)


def entry_of(prompt_id: str, found: Any) -> models.HistoryEntry | None:
    """Return a prompt's record from the answer of ``GET /history/{prompt_id}``, or None."""
    own = mapping(found, "GET /history/{prompt_id}").get(prompt_id)
    return None if own is None else models.HistoryEntry.from_json(own)


def _entries(found: Any) -> models.Histories:
    return models.Histories(
        (prompt_id, models.HistoryEntry.from_json(entry))
        for prompt_id, entry in mapping(found, "GET /history").items()
    )
