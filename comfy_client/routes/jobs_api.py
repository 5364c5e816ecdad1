"""The jobs API: queue and history as one list.  ComfyUI 0.6 and newer."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Literal

from .. import models
from ..http import SMALL, segment
from ..models._base import mapping
from ._base import RECORD_PAUSE, RouteGroup


class JobRoutes(RouteGroup):
    """Every method raises :class:`NotSupported` where the server lacks the jobs API.

    :meth:`get_queue`, :meth:`get_history` and :meth:`interrupt` do on every server.
    """

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
        """One page of the prompts that the server knows, newest first.

        ``GET /api/jobs``, since ComfyUI 0.6.

        Args:
            status: One or more of ``pending``, ``in_progress``, ``completed``, ``failed``
                and, since ComfyUI 0.9, ``cancelled``; ``None`` is all.
            workflow_id: Only prompts of the UI workflow with this id.
            sort_by: ``created_at`` (as with ``None``) or ``execution_duration``.
            sort_order: ``desc`` (as with ``None``) or ``asc``.
            limit: At most so many, 1 or more; ``None`` is all.
            offset: Leave out so many.

        Raises:
            ApiError: The server does not take an argument (400); its words are in the message.
                500: some prompt was submitted with an ``extra_pnginfo`` that is no object, which
                this library never does; :meth:`get_queue` and :meth:`get_histories` go on.
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
        """One prompt in detail; ``job_id`` is its prompt_id.

        ``GET /api/jobs/{job_id}``, since ComfyUI 0.6.  Of one that this client knows to have
        ended, the end is waited for, a second at most: the server tells it before it is listed.

        Raises:
            NotFound: The server knows no such prompt (any more).
            NotSupported: This server has no jobs API.
        """
        while True:
            found = self._http.json("GET", f"/api/jobs/{segment(job_id)}")
            job = models.JobInfo.from_json(found)
            if job.status not in ("pending", "in_progress") or not self._awaits_record(job_id):
                return job
            time.sleep(RECORD_PAUSE)

    def cancel_job(self, job_id: str) -> bool:
        """Cancel a prompt, pending or running; whether there was anything to cancel.

        ``POST /api/jobs/{job_id}/cancel``, since ComfyUI 0.26.

        Raises:
            NotSupported: This server cannot cancel by id: delete it from the queue, or
                interrupt it.
        """
        route = f"/api/jobs/{segment(job_id)}/cancel"
        answer = self._http.json("POST", route, most=SMALL)
        return bool(mapping(answer, "cancel_job").get("cancelled"))

    def cancel_jobs(self, *job_ids: str) -> bool:
        """Cancel several prompts; whether any of them was there to cancel.

        ``POST /api/jobs/cancel``, since ComfyUI 0.26.

        Raises:
            ApiError: An id is no UUID (400).
            NotSupported: This server cannot cancel by id.
        """
        if not job_ids:
            return False
        answer = self._http.json("POST", "/api/jobs/cancel", json={"job_ids": job_ids}, most=SMALL)
        return bool(mapping(answer, "cancel_jobs").get("cancelled"))
