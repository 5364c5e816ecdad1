"""Answers of the jobs API (ComfyUI 0.6 and newer)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ..values import table
from ._base import Id, Seconds, build, items, mapping
from .history import HistoryStatus


@attrs.frozen(eq=False)
class JobInfo:
    """One prompt as the jobs API tells it: queued, running or ended."""

    id: Id  #: The prompt_id.
    #: ``pending``, ``in_progress``, ``completed``, ``failed``; since ComfyUI 0.9 ``cancelled``:
    #: before, an interrupted prompt is ``failed``, without ``execution_error``.
    status: str
    priority: float | None = None  #: The ``number`` of the queue, low first.
    create_time: Seconds | None = None  #: Seconds since 1970, as all times here.
    execution_start_time: Seconds | None = None
    execution_end_time: Seconds | None = None
    outputs_count: int | None = None
    #: A file reference, with ``nodeId`` and ``mediaType``.  Since ComfyUI 0.16 it may be a text:
    #: ``mediaType`` is ``text`` then, ``content`` its beginning, ``truncated`` whether it is cut.
    preview_output: Mapping[str, Any] | None = attrs.field(default=None, repr=False)
    workflow_id: str | None = None  #: Id inside the UI workflow that was sent along.
    execution_error: Mapping[str, Any] | None = attrs.field(default=None, repr=False)
    #: What each node left, by node id.  This and the rest only in :meth:`get_job` answers, of
    #: prompts that have ended.
    outputs: Mapping[str, Mapping[str, Any]] | None = attrs.field(default=None, repr=False)
    execution_status: HistoryStatus | None = attrs.field(default=None, repr=False)
    #: ``prompt`` (the workflow) and ``extra_data``.
    workflow: Mapping[str, Any] | None = attrs.field(default=None, repr=False)
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False)

    @classmethod
    def from_json(cls, data: object) -> JobInfo:
        """From one job of a list, or from a job's details."""
        status = table(mapping(data, "JobInfo").get("execution_status"))
        return build(
            cls,
            data,
            execution_status=None if status is None else HistoryStatus.from_json(status),
        )


@attrs.frozen(eq=False)
class JobPage:
    """Some of the jobs, from ``GET /api/jobs``."""

    jobs: tuple[JobInfo, ...]
    offset: int = 0
    limit: int | None = None  #: ``None``: all.
    total: int | None = None  #: Jobs that match, on all pages.
    has_more: bool = False
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False)

    @classmethod
    def from_json(cls, data: object) -> JobPage:
        """From ``{"jobs": [...], "pagination": {...}}``."""
        source = mapping(data, "JobPage")
        jobs = tuple(JobInfo.from_json(job) for job in items(source.get("jobs"), "JobPage.jobs"))
        page = table(source.get("pagination")) or {}
        return attrs.evolve(build(cls, page, jobs=jobs), raw=source)
