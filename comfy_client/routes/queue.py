"""The queue: prompts that are pending or running."""

from __future__ import annotations

from collections.abc import Collection, Set
from functools import partial
from typing import Any

from .. import models
from ..transport.http import Http
from ._base import TrackerHooks
from .prompts import EXTRA_DATA_KEY


class QueueRoutes:
    """The prompts that are pending or running, and how to stop them."""

    _http: Http
    _hooks: TrackerHooks

    def get_queue(self, *, workflows_of: Collection[str] | None = None) -> models.Queue:
        """Return the running prompts, and the pending ones in the order in which they will run.

        ``GET /queue``.  The answer has the whole workflow of each (see ``max_json`` of the
        client); :meth:`poll_status` only counts them.  The workflow in a long queue is decoded when
        it is first used.

        Args:
            workflows_of: Keep ``workflow``, ``extra_data`` and ``raw`` of these prompts only, so
                that a queue of thousands takes little memory; ``None``: of all; ``()``: of none.
        """
        from ..models.queue import queue_item  # few programs ask for the queue

        if workflows_of is None:
            found = self._http.json("GET", "/queue", each_of_large=queue_item)
        else:
            each = partial(without_workflow, frozenset(workflows_of))
            found = self._http.json("GET", "/queue", each=each)
        return models.Queue.from_json(found)

    def clear_queue(self) -> None:
        """Remove the pending prompts of all clients; the running one keeps running.

        ``POST /queue``.  A removed prompt leaves no history.  This client's own jobs of it end in
        :class:`JobInterrupted`; another client hears nothing, and its jobs end in
        :class:`JobLost` some seconds later.
        """
        removed = self._hooks.removing(None)
        self._http.send_command("POST", "/queue", json={"clear": True})
        removed()

    def delete_from_queue(self, *prompt_ids: str) -> None:
        """Remove these pending prompts; unknown and running ones are ignored.

        ``POST /queue``.  A removed prompt leaves no history.  This client's own jobs of it end in
        :class:`JobInterrupted`; another client hears nothing, and its jobs end in
        :class:`JobLost` some seconds later.
        """
        if prompt_ids:
            removed = self._hooks.removing(prompt_ids)
            self._http.send_command("POST", "/queue", json={"delete": prompt_ids})
            removed()

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Stop the running prompt, or the given one if it is running, at its next step.

        ``POST /interrupt``.  The running node decides when it checks for this; if the last
        node does not, the prompt may still succeed.  Nothing happens, without an error, if the
        prompt is not running; a pending one stays (see :meth:`delete_from_queue`).  A server
        that was just beginning the prompt may forget it: if a job of this client then runs
        another node, it is interrupted again (3 times at most, ComfyUI 0.3.57 and newer).

        Args:
            prompt_id: Stop only this prompt.  ``None``: stop any running prompt of any client.
                Servers before ComfyUI 0.3.57 ignore the id, so the client first asks the queue
                whether that prompt is running; one that starts right then is stopped instead.
        """
        if prompt_id is None:
            self._http.send_command("POST", "/interrupt", json={})
        elif any(one.prompt_id == prompt_id for one in self.get_queue(workflows_of=()).running):
            stopped = self._hooks.stopping([prompt_id])
            self._http.send_command("POST", "/interrupt", json={"prompt_id": prompt_id})
            stopped()


def without_workflow(kept: Set[str], item: Any, _: str | None = None) -> Any:
    """Return a record of the queue with its workflow and ``extra_data`` emptied.

    A record whose prompt is in ``kept`` is returned as it is.
    ``kept`` may have the server's ids, or the client's, which records carry as marks.
    """
    if not isinstance(item, list) or any(_names(part) in kept for part in item):
        return item
    return [{} if isinstance(part, dict) else part for part in item]


def _names(part: object) -> str | None:
    """Return the id in a part of a queue record, or the client's mark; None if it has neither."""
    said = part.get(EXTRA_DATA_KEY) if isinstance(part, dict) else part
    return said if isinstance(said, str) else None
