"""Jobs of a hosted server, in place of the queue and the history that it lacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from ..errors import NotFound, NotSupported
from .exits import Mistake

if TYPE_CHECKING:
    from ..client import ComfyApi
    from ..hosted.api import HostedApi
    from ..hosted.models import HostedJob
    from ..models import HistoryEntry

#: ComfyUI's states of jobs in the queue, and the end events of other jobs, by the job's status.
_QUEUED: Final = {"queued": "pending", "running": "running", "canceling": "running"}
_ENDS: Final = {
    "succeeded": "execution_success",
    "failed": "execution_error",
    "canceled": "execution_interrupted",
}


def is_hosted(api: ComfyApi) -> TypeGuard[HostedApi]:
    """Return whether a client is a :class:`HostedApi`, without the slow import of that class."""
    return hasattr(type(api), "hosted")


def listed(api: HostedApi, limit: int = 100) -> Iterator[tuple[str, str]]:
    """Yield the id and the state of each job in a server's list, the newest first.

    Raises:
        Mistake: The server keeps no list.
    """
    try:
        jobs = api.hosted.jobs(limit=limit).jobs
    except NotSupported:
        raise Mistake(f"{api.host} keeps no list of jobs: give the whole ID") from None
    for job in jobs:
        yield job.id, _QUEUED.get(job.status, job.status)


def job_record(api: HostedApi, job_id: str) -> HistoryEntry | None:
    """Return a job as a history entry, even before it has ended; None if the job is unknown.

    Its workflow is empty if the server has forgotten that.
    """
    from ..hosted.models import files_by_node
    from ..models import HistoryEntry

    job = _known(api, job_id)
    if job is None:
        return None
    end, graph = _ENDS.get(job.status), _graph_of(api, job_id)
    record = {
        "prompt": [0, job.id, graph, {}, []],
        "outputs": files_by_node(job.outputs, graph),
        "status": {
            "completed": job.status == "succeeded",
            "messages": [] if end is None else [[end, {"prompt_id": job.id}]],
        },
    }
    return HistoryEntry.from_json(record)


def past(api: ComfyApi, prompt_id: str) -> HistoryEntry | None:
    """Return the history entry of a prompt on any kind of server; None unless it has ended."""
    if not is_hosted(api):
        return api.get_history(prompt_id)
    job = _known(api, prompt_id)
    return None if job is None or job.status not in _ENDS else job_record(api, prompt_id)


def is_queued(api: ComfyApi, prompt_id: str) -> bool:
    """Return whether a prompt is running or pending, on any kind of server."""
    if not is_hosted(api):
        return prompt_id in api.get_queue()
    job = _known(api, prompt_id)
    return job is not None and job.status in _QUEUED


def _graph_of(api: HostedApi, job_id: str) -> dict[str, Any]:
    try:
        return dict(api.hosted.workflow(job_id))
    except NotFound:
        return {}


def _known(api: HostedApi, job_id: str) -> HostedJob | None:
    try:
        return api.hosted.job(job_id)
    except NotFound:
        return None


def cancelled(api: HostedApi, job_ids: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Cancel jobs, the last one first; yield the id of each, and whether it was cancelled.

    Raises:
        NotSupported: A job goes on, since the ComfyUI behind the server cannot cancel it.
    """
    for job_id in reversed(dict.fromkeys(job_ids)):
        yield job_id, is_queued(api, job_id) and api.job(job_id).cancel()
