"""What a server knows of the prompts of an earlier process."""

from __future__ import annotations

from collections.abc import Collection

from ..jobs.running import Running
from ..models import HistoryEntry, QueueItem
from ..routes.prompts import EXTRA_DATA_KEY


class Recovery:
    """What the server knows of the prompts of an earlier process.

    Whatever a journal has lost, nothing runs twice: each prompt is looked for before it is
    sent.  What was in neither the queue at the beginning nor the history later, never came.
    """

    def __init__(self, client: Running, prompt_ids: Collection[str]) -> None:
        self._client = client
        queue = client.get_queue()
        records: list[QueueItem | HistoryEntry] = [*queue.running, *queue.pending]
        #: The server's ids by ours.
        self.queued: dict[str, str] = {}
        if not client.get_features():  # before 0.3.45 servers chose the ids
            records += client.get_histories(None).values()
            # Whose they are, the client_id beside the mark would tell; it was another process's.
            for record in records:
                mark = record.extra_data.get(EXTRA_DATA_KEY)
                if isinstance(mark, str) and mark in prompt_ids:
                    self.queued[mark] = record.prompt_id
        for record in records:  # which counts more
            if record.prompt_id in prompt_ids:
                self.queued[record.prompt_id] = record.prompt_id

    def find(self, prompt_id: str) -> str | None:
        """Under which id the server has it, if it has it."""
        if prompt_id in self.queued:
            return self.queued[prompt_id]
        return prompt_id if self._client.get_history(prompt_id) else None
