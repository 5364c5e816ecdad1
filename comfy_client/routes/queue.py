"""The queue: prompts that wait or run."""

from __future__ import annotations

from .. import models
from ._base import RouteGroup


class QueueRoutes(RouteGroup):
    """What waits, what runs, and how to stop it."""

    def get_queue(self) -> models.Queue:
        """Prompts running, and pending in the order in which they will run.

        ``GET /queue``.  Carries the whole workflow of each (see ``max_json`` of the client);
        to know only how many, use ``poll_status``.
        """
        return models.Queue.from_json(self._http.json("GET", "/queue"))

    def clear_queue(self) -> None:
        """Remove all pending prompts, of all clients; the running one goes on.

        ``POST /queue``.  A removed prompt leaves no history, and its owner is not told.
        """
        self._http.order("POST", "/queue", json={"clear": True})

    def delete_from_queue(self, *prompt_ids: str) -> None:
        """Remove pending prompts; unknown and running ones are left alone, silently.

        ``POST /queue``.  A removed prompt leaves no history, and its owner is not told.
        """
        if prompt_ids:
            self._http.order("POST", "/queue", json={"delete": prompt_ids})

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Stop what runs, at its next step.

        ``POST /interrupt``.  The node that runs decides when it looks: a prompt whose last
        node does not may still end in success.  Nothing happens, and no error comes, when
        the prompt does not run; a pending one stays (see :meth:`delete_from_queue`).

        Args:
            prompt_id: Stop only this prompt.  ``None`` stops whatever runs, whoever's it is.
                Servers before ComfyUI 0.3.57 ignore the id, so the queue is asked first
                whether that prompt runs; what begins in that moment is stopped there.
        """
        if prompt_id is None:
            self._http.order("POST", "/interrupt", json={})
        elif any(item.prompt_id == prompt_id for item in self.get_queue().running):
            self._http.order("POST", "/interrupt", json={"prompt_id": prompt_id})
