"""The queue: prompts that are pending or running."""

from __future__ import annotations

from .. import models
from ._base import RouteGroup


class QueueRoutes(RouteGroup):
    """The prompts that are pending or running, and how to stop them."""

    def get_queue(self) -> models.Queue:
        """The running prompts, and the pending ones in the order in which they will run.

        ``GET /queue``.  It contains the whole workflow of each (see ``max_json`` of the client);
        :meth:`poll_status` only counts them.
        """
        return self._http.model("GET", "/queue", models.Queue.from_json)

    def clear_queue(self) -> None:
        """Remove the pending prompts of all clients; the running one keeps running.

        ``POST /queue``.  A removed prompt leaves no history.  This client's own jobs of it end in
        :class:`JobInterrupted`; another client hears nothing, and its jobs end in
        :class:`JobLost` some seconds later.
        """
        removed = self._removing(None)
        self._http.send_command("POST", "/queue", json={"clear": True})
        removed()

    def delete_from_queue(self, *prompt_ids: str) -> None:
        """Remove these pending prompts; unknown and running ones are ignored.

        ``POST /queue``.  A removed prompt leaves no history.  This client's own jobs of it end in
        :class:`JobInterrupted`; another client hears nothing, and its jobs end in
        :class:`JobLost` some seconds later.
        """
        if prompt_ids:
            removed = self._removing(prompt_ids)
            self._http.send_command("POST", "/queue", json={"delete": prompt_ids})
            removed()

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Stop the running prompt at its next step.

        ``POST /interrupt``.  The running node decides when it checks for this; if the last
        node does not, the prompt may still succeed.  Nothing happens, without an error, if the
        prompt is not running; a pending one stays (see :meth:`delete_from_queue`).  A server
        that was just beginning the prompt may forget it: a job of this client that goes on to
        another node is interrupted again (3 times at most, ComfyUI 0.3.57 and newer).

        Args:
            prompt_id: Stop only this prompt.  ``None``: stop any running prompt of any client.
                Servers before ComfyUI 0.3.57 ignore the id, so the client first asks the queue
                whether that prompt is running; one that starts right then is stopped instead.
        """
        if prompt_id is None:
            self._http.send_command("POST", "/interrupt", json={})
        elif any(item.prompt_id == prompt_id for item in self.get_queue().running):
            stopped = self._stopping([prompt_id])
            self._http.send_command("POST", "/interrupt", json={"prompt_id": prompt_id})
            stopped()
