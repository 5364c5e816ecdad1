"""The jobs API of ComfyUI 0.8 and newer: queue and history as one list.

A script may have left less in history than a run does: what is missing is left out.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from .execution import Queue

_STATUSES = ("pending", "in_progress", "completed", "failed")
_SORT_KEYS = ("created_at", "execution_duration")


def add_job_routes(
    table: web.RouteTableDef, queue: Queue, interrupt: Callable[[], None], *, newest: bool
) -> None:
    """``/api/jobs``, which is there with this prefix only.

    The newest call interrupted jobs cancelled, and can cancel by id.
    """
    statuses = (*_STATUSES, "cancelled") if newest else _STATUSES

    @table.get("/api/jobs")
    async def get_jobs(request: web.Request) -> web.Response:
        try:
            return web.json_response(_page(list(_jobs(queue, newest)), request.query, statuses))
        except ValueError as exc:
            return web.json_response({"error": str(exc)}, status=400)

    @table.get("/api/jobs/{id}")
    async def get_job(request: web.Request) -> web.Response:
        for job in _jobs(queue, newest, details=True):
            if job["id"] == request.match_info["id"]:
                return web.json_response(job)
        return web.json_response({"error": "Job not found"}, status=404)

    if not newest:
        return

    def cancel(job_id: str) -> bool:
        if queue.delete(job_id):
            return True
        runs = queue.running_id == job_id
        if runs:
            interrupt()
        return runs

    @table.post("/api/jobs/cancel")
    async def cancel_jobs(request: web.Request) -> web.Response:
        ids = (await request.json())["job_ids"]
        wrong = [job_id for job_id in ids if not is_uuid(job_id)]
        if wrong:
            answer = {"error": "job_ids must be UUIDs", "invalid_ids": wrong}
            return web.json_response(answer, status=400)
        cancelled = [cancel(job_id) for job_id in ids]  # all of them
        return web.json_response({"cancelled": any(cancelled)})

    @table.post("/api/jobs/{id}/cancel")
    async def cancel_job(request: web.Request) -> web.Response:
        return web.json_response({"cancelled": cancel(request.match_info["id"])})


def is_uuid(value: Any) -> bool:
    """Whether it is a text as ``str(uuid.uuid4())`` gives it."""
    try:
        return isinstance(value, str) and str(uuid.UUID(value)) == value
    except ValueError:
        return False


def _page(
    jobs: list[dict[str, Any]], query: Mapping[str, str], statuses: tuple[str, ...]
) -> dict[str, Any]:
    """Those that are asked for; ValueError in the server's words if that cannot be."""
    wanted = [word.strip() for word in query.get("status", "").split(",") if word.strip()]
    wrong = [word for word in wanted if word not in statuses]
    if wrong:
        raise ValueError(
            f"Invalid status value(s): {', '.join(wrong)}. Valid values: {', '.join(statuses)}"
        )
    sort_by, order = query.get("sort_by", "created_at"), query.get("sort_order", "desc")
    if sort_by not in _SORT_KEYS:
        raise ValueError("sort_by must be 'created_at' or 'execution_duration'")
    if order not in ("asc", "desc"):
        raise ValueError("sort_order must be 'asc' or 'desc'")
    limit, offset = _number(query, "limit", 1), _number(query, "offset", 0) or 0
    if wanted:
        jobs = [job for job in jobs if job["status"] in wanted]
    if "workflow_id" in query:
        jobs = [job for job in jobs if job.get("workflow_id") == query["workflow_id"]]
    key = _created if sort_by == "created_at" else _duration
    jobs.sort(key=key, reverse=order == "desc")
    end = len(jobs) if limit is None else offset + limit
    pagination = {
        "offset": offset,
        "limit": limit,
        "total": len(jobs),
        "has_more": end < len(jobs),
    }
    return {"jobs": jobs[offset:end], "pagination": pagination}


def _number(query: Mapping[str, str], name: str, least: int) -> int | None:
    if name not in query:
        return None
    try:
        number = int(query[name])
    except ValueError:
        raise ValueError(f"{name} must be an integer") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}")
    return number


def _created(job: Mapping[str, Any]) -> Any:
    return job.get("create_time", 0)


def _duration(job: Mapping[str, Any]) -> Any:
    return job.get("execution_end_time", 0) - job.get("execution_start_time", 0)


def _present(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _jobs(queue: Queue, newest: bool, *, details: bool = False) -> Iterator[dict[str, Any]]:
    shown = queue.shown()
    for key, status in (("queue_pending", "pending"), ("queue_running", "in_progress")):
        for item in shown[key]:
            job = {**_head(item, status), "outputs_count": 0, **_workflow_id(item)}
            yield {**job, **_workflow(item)} if details and newest else job
    for entry in queue.history().values():
        if len(entry["prompt"]) < 5:
            continue
        job = _ended(entry, newest)
        if details:
            job |= _present(outputs=entry.get("outputs"), execution_status=entry.get("status"))
            job |= _workflow(entry["prompt"])
        yield job


def _workflow(item: Any) -> dict[str, Any]:
    return {"workflow": {"prompt": item[2], "extra_data": item[3]}}


def _head(item: Any, status: str) -> dict[str, Any]:
    number, prompt_id, _, extra_data, _ = item
    created = extra_data.get("create_time")
    return _present(id=prompt_id, status=status, priority=number, create_time=created)


def _workflow_id(item: Any) -> dict[str, Any]:
    found = item[3]
    for key in ("extra_pnginfo", "workflow", "id"):
        found = found.get(key) if isinstance(found, dict) else None
    return {} if found is None else {"workflow_id": found}


def _ended(entry: dict[str, Any], newest: bool) -> dict[str, Any]:
    status = entry.get("status") or {}
    messages = status.get("messages") or [("", {})]
    name, last = messages[-1]
    word = "completed" if status.get("completed") else "failed"
    if newest and name == "execution_interrupted":
        word = "cancelled"
    start, end = ((data or {}).get("timestamp") for _, data in (messages[0], messages[-1]))
    job = _head(entry["prompt"], word)
    job |= _present(execution_start_time=start, execution_end_time=end)
    if name == "execution_error":  # of an interrupted one nothing more
        job["execution_error"] = last
    files = [
        (one, {"nodeId": node_id, "mediaType": kind})
        for node_id, output in (entry.get("outputs") or {}).items()
        for kind, ones in (output or {}).items()
        if kind != "animated"
        for one in ones
    ]
    job["outputs_count"] = len(files)
    shown = [{**one, **where} for one, where in files if isinstance(one, dict)]
    kept = [one for one in shown if one.get("type") == "output"]
    if shown:
        job["preview_output"] = (kept or shown)[0]
    return {**job, **_workflow_id(entry["prompt"])}
