"""Routes of Comfy API v2 for jobs: submit, poll, list, workflow, cancel.

A job is described from the queue and the history of ComfyUI.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
from aiohttp import web

from ..prompt_routes import cancel_job, submit_prompt
from ..server_state import RouteTable
from .asset_routes import content_type, content_url, path_of
from .hosted_state import HostedState, JobRecord, StoredFile, digest, job_id_of, no_job, now
from .v2_errors import Refusal, examined, invalid, json_body

RETENTION = timedelta(hours=24)
TERMINAL = frozenset({"succeeded", "canceled", "failed", "expired"})
_FILE_KINDS = {
    "images": "image",
    "gifs": "video",
    "audio": "audio",
    "text": "text",
    "files": "file",
    "latents": "latent",
}
_ENDS = ("execution_success", "execution_error", "execution_interrupted")


@attrs.frozen(kw_only=True)
class JobView:
    """The state of a job in ComfyUI's queue and history; the status may be ``unknown``."""

    status: str
    outputs: list[dict[str, Any]] = attrs.field(factory=list)
    error: dict[str, Any] | None = None
    queue_position: int | None = None
    progress: dict[str, Any] | None = None
    outputs_reused: bool = False
    started_at: str | None = None
    completed_at: str | None = None

    @property
    def shown_status(self) -> str:
        """The status that clients see: ``expired`` for an unknown job."""
        return "expired" if self.status == "unknown" else self.status

    @property
    def has_ended(self) -> bool:
        """Whether clients see that the job has ended."""
        return self.shown_status in TERMINAL

    def snapshot(self) -> dict[str, Any]:
        """Return the data of a ``status`` event."""
        position = self.queue_position
        return {"status": self.shown_status} | (
            {} if position is None else {"queue_position": position}
        )


def look(hosted: HostedState, job_id: str, base: str) -> JobView:
    """Return the state of a job; each call counts for the trap of a false ``expired``."""
    queue = hosted.comfy.queue
    shown = queue.shown()  # before the history, so that a job that ends in between is found
    entry = queue.entry(job_id).get(job_id)
    if entry is not None:
        return (
            JobView(status="unknown")
            if _is_denied(hosted, job_id)
            else _ended(hosted, job_id, entry, base)
        )
    if any(item[1] == job_id for item in shown["queue_running"]):
        progress = {"value": 0.0, "nodes_done": 0, "nodes_total": 0}
        return JobView(status="running", progress=progress)
    pending = [item[1] for item in shown["queue_pending"]]
    if job_id in pending:
        return JobView(status="queued", queue_position=pending.index(job_id) + 1)
    if job_id in hosted.memory.cancelled and hosted.traps.cancelled_waiting == "canceled":
        return JobView(status="canceled")
    return JobView(status="unknown")


def _is_denied(hosted: HostedState, job_id: str) -> bool:
    """Return whether this time, a job that has ended is falsely reported as unknown."""
    ended, traps = hosted.memory.ended, hosted.traps
    if job_id not in ended:
        chosen = traps.false_expired and (len(ended) + 1) % traps.false_expired == 0
        ended[job_id] = traps.false_expired_looks if chosen else 0
    ended[job_id] -= 1
    return ended[job_id] >= 0


def _ended(hosted: HostedState, job_id: str, entry: Mapping[str, Any], base: str) -> JobView:
    status = entry.get("status") or {}
    events = [
        (message[0], message[1] if isinstance(message[1], dict) else {})
        for message in status.get("messages") or ()
        if isinstance(message, list | tuple) and len(message) == 2
    ]
    names = {name for name, _ in events}
    error = None
    if "execution_interrupted" in names:
        said = "canceled"
    elif status.get("status_str", "success") == "success":
        said = "succeeded"
    else:
        said = "failed"
        error = _error(next((data for name, data in events if name == "execution_error"), {}))
    reused = any(name == "execution_cached" and data.get("nodes") for name, data in events)
    outputs = list(_outputs(hosted, job_id, entry.get("outputs") or {}, base))
    times = events if hosted.traps.timestamps else []
    return JobView(
        status=said,
        outputs=outputs,
        error=error,
        outputs_reused=reused,
        started_at=_time(times, ("execution_start",)),
        completed_at=_time(times, _ENDS),
    )


def _time(events: list[tuple[str, dict[str, Any]]], names: Sequence[str]) -> str | None:
    """Return when the first of these events was sent, or None."""
    stamp = next((data.get("timestamp") for name, data in events if name in names), None)
    return stamp and datetime.fromtimestamp(stamp / 1000, UTC).isoformat()


def _error(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "code": "node_execution_error",
        "message": data.get("exception_message", "" if data else "execution failed"),
        "node_id": data.get("node_id"),
        "class_type": data.get("node_type"),
        "traceback": None,
    }


def _outputs(
    hosted: HostedState, job_id: str, outputs: Mapping[str, Any], base: str
) -> Iterator[dict[str, Any]]:
    traps = hosted.traps
    for node_id, output in outputs.items():
        for key, items in output.items():
            kind = _FILE_KINDS.get(key)
            for item in items if kind and isinstance(items, list) else ():
                if not isinstance(item, dict) or "filename" not in item:
                    continue
                name = item["filename"]
                subfolder, place = item.get("subfolder", ""), item.get("type", "output")
                ref = StoredFile(name, subfolder, place, job_id)
                output_id = hosted.memory.output_id(ref, is_uuid=traps.true_ids)
                path = path_of(hosted.comfy.folders, ref)
                url, expires = content_url(hosted, output_id, base)
                yield {
                    "node_id": node_id,
                    "name": name,
                    "type": kind,
                    "content_type": content_type(name),
                    "size_bytes": path.stat().st_size if path and traps.true_sizes else 0,
                    "id": output_id,
                    "hash": digest(path.read_bytes()) if path and traps.true_hashes else None,
                    "url": url,
                    "url_expires_at": expires,
                    "job_id": job_id,
                }


def describe(hosted: HostedState, job_id: str, view: JobView, base: str) -> dict[str, Any]:
    """Return a job as the answer to ``GET /jobs/{id}``."""
    record = hosted.memory.jobs.get(job_id)
    created = record.created_at if record else now()
    jobs = f"{base}/api/v2/jobs/{job_id}"
    return {
        "id": job_id,
        "status": view.shown_status,
        "created_at": created.isoformat(),
        "started_at": view.started_at,
        "completed_at": view.completed_at,
        "expires_at": (created + RETENTION).isoformat(),
        "queue_position": view.queue_position,
        "progress": view.progress,
        "outputs": view.outputs,
        "error": view.error,
        **({"outputs_reused": view.outputs_reused} if hosted.place == "proxy" else {}),
        "urls": {"self": jobs, "events": f"{jobs}/events", "cancel": f"{jobs}/cancel"},
        **_given(record),
    }


def _given(record: JobRecord | None) -> dict[str, Any]:
    """Return the label and the priority of a job, without those that the client did not give."""
    found = {} if record is None else {"metadata": record.metadata, "priority": record.priority}
    return {name: value for name, value in found.items() if value is not None}


_KEY = "api_key_comfy_org"
_STATUSES = ("queued", "running", "succeeded", "canceling", "canceled", "failed", "expired")
_LABEL = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_LABELS, _LABEL_BYTES, _FILTERS = 16, 256, 3
_MOST_LISTED, _LISTED = 100, 50
_MOST_PRIORITY = 1_000_000


async def _submit(hosted: HostedState, request: web.Request) -> web.Response:
    body = await json_body(request)
    workflow = _workflow(body)
    metadata, priority = _metadata(hosted, body), _priority(body)
    extra_data = _extra_data(body)
    missing: list[str] = []
    resolved, length = workflow, len(await request.read())
    if not hosted.traps.assets_by_name_only:
        resolved = await examined(length, _resolved, hosted, workflow, missing)
    if missing:
        raise Refusal(
            "missing_asset",
            f"Unresolvable core/ASSET reference(s): {', '.join(missing)}",
            details={"missing_ids": missing},
        )
    key = request.headers.get("Idempotency-Key")
    if key is not None:
        if not 1 <= len(key) <= 255:
            raise Refusal("invalid_request", "Idempotency-Key must be 1-255 characters.")
        if not hosted.memory.claim(key):
            raise Refusal("idempotency_key_reuse")
    await hosted.reach(request, message="Could not reach ComfyUI to submit the job.")
    job = JobRecord(str(uuid.uuid4()), resolved, metadata, priority)
    await examined(length, _queue, hosted, job, extra_data, key)
    if hosted.traps.upstream == "lost":
        raise Refusal("upstream_unreachable", "Could not reach ComfyUI to submit the job.")
    hosted.memory.jobs[job.id] = job
    view = JobView(status="queued")
    return web.json_response(describe(hosted, job.id, view, hosted.base(request)), status=201)


def _queue(
    hosted: HostedState, job: JobRecord, extra_data: Mapping[str, Any], key: str | None
) -> None:
    """Submit a job to ComfyUI; free the key and raise Refusal if it is not accepted."""
    graph = json.loads(json.dumps(job.workflow))
    prompt = {"prompt": graph, "prompt_id": job.id, "client_id": job.id}
    given = {"extra_data": dict(extra_data)} if extra_data else {}
    hosted.comfy.log("got prompt")
    try:
        answer = submit_prompt(hosted.comfy, prompt | given)
    except RuntimeError:
        hosted.memory.free(key)
        raise Refusal(
            "invalid_workflow", "Workflow rejected.", details={"node_errors": {}}
        ) from None
    if answer.status == 200:
        return
    hosted.memory.free(key)
    said = json.loads(answer.text or "{}")
    raise Refusal(
        "invalid_workflow",
        (said.get("error") or {}).get("message", "Workflow rejected."),
        details={"node_errors": said.get("node_errors") or {}},
    )


def _workflow(body: Any) -> dict[str, Any]:
    # A list has no `get`: plain text 500, as on the proxy.
    if body.get("webhook_url") is not None or body.get("inputs") is not None:
        message = "'webhook_url' and 'inputs' are reserved and not accepted."
        raise Refusal("invalid_workflow", message)
    workflow = body.get("workflow")
    if not isinstance(workflow, dict):
        raise Refusal("invalid_workflow")
    if isinstance(workflow.get("nodes"), list) and "links" in workflow:
        raise Refusal("workflow_format_ui")
    return workflow


def _extra_data(body: Mapping[str, Any]) -> Mapping[str, Any]:
    given = body.get("extra_data")
    if given is None:
        return {}
    if not isinstance(given, dict) or set(given) - {_KEY}:
        raise Refusal("invalid_request", f"'extra_data' accepts only the '{_KEY}' field.")
    if _KEY in given and not isinstance(given[_KEY], str):
        raise Refusal("invalid_request", f"'extra_data.{_KEY}' must be a string.")
    return given


def _priority(body: Mapping[str, Any]) -> int | None:
    given = body.get("priority")
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int):
        message = "'priority' must be an integer (advisory)."
    elif abs(given) > _MOST_PRIORITY:
        message = f"'priority' must be between {-_MOST_PRIORITY} and {_MOST_PRIORITY}."
    else:
        return given
    raise invalid(message)


def _metadata(hosted: HostedState, body: Mapping[str, Any]) -> Any:
    """Return the label in a submission, if any; raise Refusal unless it has the place's form."""
    given = body.get("metadata")
    form = hosted.traps.labels
    if given is None or form == "dropped":
        return None
    if form == "none":
        raise Refusal("metadata_not_supported")
    if form == "map":
        if not _is_label_map(given):
            raise Refusal("metadata_invalid")
        return given
    if not isinstance(given, str):
        raise invalid("'metadata' must be a string (opaque label).")
    if len(given.encode()) > 1024:
        raise invalid("'metadata' exceeds 1024 UTF-8 bytes.")
    return given


def _is_label_map(given: Any) -> bool:
    return (
        isinstance(given, dict)
        and len(given) <= _LABELS
        and all(
            _LABEL.fullmatch(name)
            and isinstance(value, str)
            and len(value.encode()) <= _LABEL_BYTES
            for name, value in given.items()
        )
    )


# -- references to assets ---------------------------------------------------------------


def _resolved(hosted: HostedState, value: Any, missing: list[str]) -> Any:
    """Return a workflow with file names in place of assets; add unknown ids to ``missing``."""
    if isinstance(value, dict):
        if value.get("__type") == "core/ASSET":
            return _file_name(hosted, value.get("info"), missing)
        return {name: _resolved(hosted, inner, missing) for name, inner in value.items()}
    if isinstance(value, list):
        return [_resolved(hosted, inner, missing) for inner in value]
    return value


def _file_name(hosted: HostedState, info: Any, missing: list[str]) -> str:
    if not isinstance(info, dict):
        missing.append("<malformed core/ASSET: missing info>")
        return ""
    asset_id = info.get("id")
    ref: StoredFile | None = hosted.file_of(asset_id) if isinstance(asset_id, str) else None
    if ref is None:
        asset = hosted.memory.by_hash(info.get("hash"))
        ref = asset.ref if asset else None
    if ref is None:
        missing.append(str(info.get("id", "<no id>")))
        return ""
    return ref.in_workflow


# -- looking ----------------------------------------------------------------------------


async def _view(hosted: HostedState, request: web.Request, job_id: str) -> JobView:
    """Return the state of a job; raise Refusal if the job is unknown."""
    await hosted.reach(request)
    record = hosted.memory.jobs.get(job_id)
    view = look(hosted, job_id, hosted.base(request))
    if record is not None:
        record.looks += 1
    if view.status == "unknown" if record is None else record.looks <= hosted.traps.unknown_looks:
        raise no_job(job_id)
    return view


async def _get_job(hosted: HostedState, request: web.Request) -> web.Response:
    job_id = job_id_of(request)
    view = await _view(hosted, request, job_id)
    return web.json_response(describe(hosted, job_id, view, hosted.base(request)))


async def _get_workflow(hosted: HostedState, request: web.Request) -> web.Response:
    job_id = job_id_of(request)
    record = hosted.memory.jobs.get(job_id)
    if record is None:
        raise Refusal("not_found", f"No recoverable workflow for job {job_id}.")
    return web.json_response({"workflow": record.workflow, "format": "api"})


async def _cancel(hosted: HostedState, request: web.Request) -> web.Response:
    job_id = job_id_of(request)
    if job_id not in hosted.memory.jobs:
        await _view(hosted, request, job_id)
    await hosted.reach(request, message="Could not reach ComfyUI to cancel.")
    lies = hosted.traps.cancel_lies
    if not (lies if lies is not None else not hosted.comfy.options.since("0.28")):
        hosted.memory.cancelled.add(job_id)
        cancel_job(hosted.comfy, job_id)
    base = hosted.base(request)
    body = describe(hosted, job_id, look(hosted, job_id, base), base)
    if body["status"] == "running":
        body["status"] = "canceling"
    return web.json_response(body)


async def _list_jobs(hosted: HostedState, request: web.Request) -> web.Response:
    form = hosted.traps.job_list
    if form == "none":
        raise Refusal("not_implemented")
    limit = _limit(request)
    if form == "records":
        await hosted.reach(request)
        return web.json_response(_records(hosted, request, limit))
    filtered = request.query.get("status", "")
    asked = {word.strip() for word in filtered.split(",") if word.strip()}
    unknown = asked - set(_STATUSES)
    if unknown:
        message = f"Unknown status filter value(s): {', '.join(sorted(unknown))}."
        raise Refusal("invalid_request", message)
    if hosted.memory.jobs:
        await hosted.reach(request)
    base = hosted.base(request)
    found = _newest(hosted, lambda job: not filtered or job["status"] in asked, limit, base)
    return web.json_response({"jobs": found, "truncated": False})


def _newest(
    hosted: HostedState, is_wanted: Callable[[dict[str, Any]], bool], limit: int, base: str
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for job_id in reversed(hosted.memory.jobs):
        if len(found) >= limit:
            break
        job = describe(hosted, job_id, look(hosted, job_id, base), base)
        if is_wanted(job):
            found.append(job)
    return found


def _limit(request: web.Request) -> int:
    try:
        limit = int(request.query.get("limit", _LISTED))
    except ValueError:
        raise Refusal("invalid_request", "'limit' must be an integer.") from None
    if not 1 <= limit <= _MOST_LISTED:
        raise Refusal("invalid_request", f"'limit' must be between 1 and {_MOST_LISTED}.")
    return limit


def _records(hosted: HostedState, request: web.Request, limit: int) -> dict[str, Any]:
    """Return a page of job records, which have no outputs, and other field names than jobs."""
    filters = {
        name[len("metadata[") : -1]: value
        for name, value in request.query.items()
        if name.startswith("metadata[") and name.endswith("]")
    }
    if len(filters) > _FILTERS:
        raise Refusal("invalid_metadata_filter")
    found = [
        job
        for job in reversed(hosted.memory.jobs.values())
        if filters.items() <= (job.metadata or {}).items()
    ]
    cursor = request.query.get("cursor", "0")
    if not (cursor.isdecimal() and len(cursor) < 20) or int(cursor) > len(found):
        raise Refusal("invalid_cursor")
    end = int(cursor) + limit
    jobs = [
        {
            "id": job.id,
            "status": look(hosted, job.id, "").shown_status,
            "create_time": job.created_at.isoformat(),
            "update_time": job.created_at.isoformat(),
            "deployment_id": "embedded",
            "metadata": job.metadata or {},
        }
        for job in found[int(cursor) : end]
    ]
    return {"jobs": jobs} | ({"next_cursor": str(end)} if end < len(found) else {})


JOB_V2_ROUTES: RouteTable[HostedState] = (
    ("POST", "/jobs", _submit),
    ("GET", "/jobs", _list_jobs),
    ("GET", "/jobs/{id}", _get_job),
    ("GET", "/jobs/{id}/workflow", _get_workflow),
    ("POST", "/jobs/{id}/cancel", _cancel),
)
