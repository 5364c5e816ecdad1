"""A job as Comfy API v2 describes it, from the queue and the history of ComfyUI."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs

from .content import content_type, content_url, path_of
from .digests import digest
from .hosted_state import HostedState
from .memory import JobRecord, StoredFile, now

RETENTION = timedelta(hours=24)
TERMINAL = frozenset({"succeeded", "canceled", "failed", "expired"})
_KINDS = {
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
    is_cancelled = job_id in hosted.memory.cancelled
    if is_cancelled and hosted.traps.cancelled_waiting == "canceled":
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
            kind = _KINDS.get(key)
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
