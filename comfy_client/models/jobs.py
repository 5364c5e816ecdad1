"""Answers of the jobs API (ComfyUI 0.6 and newer)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ..to_dict import AsDict
from ..values import Id, Seconds, build, items, mapping, table
from .history import HistoryStatus


@attrs.frozen(eq=False)
class JobInfo(AsDict):
    """A prompt as the jobs API describes it: queued, running or ended.

    ``outputs``, ``execution_status`` and ``workflow`` are in answers of :meth:`get_job` only.

    Attributes:
        id: The prompt_id.
        status: ``pending``, ``in_progress``, ``completed``, ``failed`` or ``cancelled``.  Before
            ComfyUI 0.9, an interrupted prompt is ``failed``, without ``execution_error``.
        priority: The ``number`` in the queue; lower numbers run first.
        create_time: When it was submitted, in seconds since 1970.
        execution_start_time: When it started, in seconds since 1970; ``None``: not yet.
        execution_end_time: When it ended, in seconds since 1970; ``None``: not yet.
        outputs_count: How many outputs it has.
        previewable_outputs_count: How many of these are images, videos, sounds, 3D models or texts;
            ``None`` before ComfyUI 0.33.
        preview_output: One output to show: a file reference with ``nodeId`` and ``mediaType``.
            Since ComfyUI 0.16 it may be text: then ``mediaType`` is ``text``, ``content`` its
            beginning and ``truncated`` whether there is more.
        workflow_id: The id of the UI-format workflow that was submitted with the prompt.
        execution_error: Why it failed (``node_id``, ``exception_message``, ...); ``None``: it did
            not.
        outputs: The output of each node, by node id; ``None`` in lists and until it has ended.
        execution_status: How it ended; ``None`` in lists and until it has ended.
        workflow: The submitted graph (``prompt``) and its ``extra_data``; ``None`` in lists.
        raw: The JSON object as received.
    """

    _not_in_dict = ("workflow",)

    id: Id
    status: str
    priority: float | None = None
    create_time: Seconds | None = None
    execution_start_time: Seconds | None = None
    execution_end_time: Seconds | None = None
    outputs_count: int | None = None
    previewable_outputs_count: int | None = None
    preview_output: Mapping[str, Any] | None = attrs.field(default=None, repr=False)
    workflow_id: str | None = None
    execution_error: Mapping[str, Any] | None = attrs.field(default=None, repr=False)
    outputs: Mapping[str, Mapping[str, Any]] | None = attrs.field(default=None, repr=False)
    execution_status: HistoryStatus | None = attrs.field(default=None, repr=False)
    workflow: Mapping[str, Any] | None = attrs.field(default=None, repr=False)
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False)

    @classmethod
    def from_json(cls, data: object) -> JobInfo:
        """Parse a job from a list, or the details of one job."""
        status = table(mapping(data, "JobInfo").get("execution_status"))
        return build(
            cls,
            data,
            execution_status=None if status is None else HistoryStatus.from_json(status),
        )


@attrs.frozen(eq=False)
class JobPage(AsDict):
    """A page of the list of jobs, from ``GET /api/jobs``.

    Attributes:
        jobs: The jobs of this page.
        offset: How many matching jobs come before this page.
        limit: How many jobs a page may have; ``None``: any number.
        total: How many jobs match, on all pages.
        has_more: Whether there are pages after this one.
        raw: The JSON object as received.
    """

    jobs: tuple[JobInfo, ...]
    offset: int = 0
    limit: int | None = None
    total: int | None = None
    has_more: bool = False
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False)

    @classmethod
    def from_json(cls, data: object) -> JobPage:
        """Read ``{"jobs": [...], "pagination": {...}}``."""
        source = mapping(data, "JobPage")
        jobs = tuple(JobInfo.from_json(job) for job in items(source.get("jobs"), "JobPage.jobs"))
        page = table(source.get("pagination")) or {}
        return attrs.evolve(build(cls, page, jobs=jobs), raw=source)
