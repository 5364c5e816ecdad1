"""The jobs API: queue and history as one list.  ComfyUI 0.6 and newer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from .. import models, runtime
from ..transport.http import SMALL, Http, segment
from ..values import mapping
from ._base import RECORD_PAUSE, TrackerHooks


class JobRoutes:
    """The jobs API; each method raises :class:`NotSupported` if the server lacks it.

    :meth:`get_queue`, :meth:`get_history` and :meth:`interrupt` work on every server.
    """

    _http: Http
    _hooks: TrackerHooks

    def get_jobs(
        self,
        status: str | Iterable[str] | None = None,
        *,
        workflow_id: str | None = None,
        sort_by: Literal["created_at", "execution_duration"] | None = None,
        sort_order: Literal["asc", "desc"] | None = None,
        limit: int | None = None,
        offset: int | None = None,
    ) -> models.JobPage:
        """Return a page of the prompts that the server knows, by default newest first.

        ``GET /api/jobs``, since ComfyUI 0.6.

        Args:
            status: One or more of ``pending``, ``in_progress``, ``completed``, ``failed``
                and, since ComfyUI 0.9, ``cancelled``; ``None``: all.
            workflow_id: Only prompts of the UI-format workflow with this id.
            sort_by: ``created_at`` (as with ``None``) or ``execution_duration``.
            sort_order: ``desc`` (as with ``None``) or ``asc``.
            limit: How many at most, 1 or more; ``None``: all.
            offset: How many to skip.

        Raises:
            ApiError: The server does not accept an argument (400); the message quotes it.
                500: another program submitted a prompt with an ``extra_pnginfo`` that is not
                an object; :meth:`get_queue` and :meth:`get_histories` still work.
            NotSupported: This server has no jobs API.
        """
        words = status if status is None or isinstance(status, str) else ",".join(status)
        params = {
            "status": words,
            "workflow_id": workflow_id,
            "sort_by": sort_by,
            "sort_order": sort_order,
            "limit": limit,
            "offset": offset,
        }
        return models.JobPage.from_json(self._http.json("GET", "/api/jobs", params=params))

    def get_job(self, job_id: str) -> models.JobInfo:
        """Return the details of a prompt; ``job_id`` is its prompt_id.

        ``GET /api/jobs/{job_id}``, since ComfyUI 0.6.  If this client knows that
        the prompt has ended, it waits until the server lists the end, one second at most.

        Raises:
            NotFound: The server does not know the prompt, or no longer.
            NotSupported: This server has no jobs API.
        """
        while True:
            job = models.JobInfo.from_json(self._http.json("GET", f"/api/jobs/{segment(job_id)}"))
            has_ended = job.status not in ("pending", "in_progress")
            if has_ended or not self._hooks.awaits_record(job_id):
                return job
            runtime.sleep(RECORD_PAUSE)

    def cancel_job(self, job_id: str) -> bool:
        """Cancel a pending or running prompt; return False if there was nothing to cancel.

        ``POST /api/jobs/{job_id}/cancel``, since ComfyUI 0.26.  A job of this client then ends in
        :class:`JobInterrupted`.

        Raises:
            NotSupported: This server cannot cancel by id: delete the prompt from the queue, or
                interrupt it.
        """
        route = f"/api/jobs/{segment(job_id)}/cancel"
        stopped = self._hooks.stopping([job_id])
        answer = self._http.json("POST", route, max_bytes=SMALL)
        if was_there := bool(mapping(answer, "cancel_job").get("cancelled")):
            stopped()
        return was_there

    def cancel_jobs(self, *job_ids: str) -> bool:
        """Cancel several prompts; return False if there was nothing to cancel.

        ``POST /api/jobs/cancel``, since ComfyUI 0.26.  Jobs of this client then end in
        :class:`JobInterrupted`.

        Raises:
            ApiError: An id is not a UUID (400).
            NotSupported: This server cannot cancel by id.
        """
        if not job_ids:
            return False
        stopped = self._hooks.stopping(job_ids)
        answer = self._http.json(
            "POST", "/api/jobs/cancel", json={"job_ids": job_ids}, max_bytes=SMALL
        )
        if was_there := bool(mapping(answer, "cancel_jobs").get("cancelled")):
            stopped()
        return was_there
