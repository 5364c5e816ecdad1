"""Prompts that a server of any kind knows: their ids, their records, and their workflows.

A hosted server has a list of jobs in place of a queue and a history.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypeGuard

from ..errors import ComfyError, JobNotFound, NotFound, NotSupported
from .exits import Mistake
from .printing import note

if TYPE_CHECKING:
    from ..client import ComfyApi
    from ..hosted.api import HostedApi
    from ..hosted.models import HostedJob
    from ..models import HistoryEntry, Queue, QueueItem

#: A server's record of a prompt.
PastRecord: TypeAlias = "HistoryEntry | QueueItem"
#: A source of a workflow: the path of a file, its content, or a server's record of a prompt.
FileOrRecord: TypeAlias = "str | bytes | PastRecord"

#: Length of an id, and of the shortest abbreviation.
_WHOLE: Final = 36
_SHORTEST: Final = 4
#: The number of latest prompts in which abbreviations are looked up.
LATEST_SEARCHED: Final = 200
#: What may be the id of a prompt; a name with a dot or a slash can only be that of a file.
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")
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


class PromptSource(Protocol):
    """The servers that a command is for, asked for node definitions and records of prompts."""

    def node_definitions(
        self, classes: Collection[str] | None = None, *, refresh: bool = False
    ) -> Mapping[str, Any]:
        """Return definitions of node classes, as a :class:`DefinitionSource` does."""

    def clients(self) -> Sequence[ComfyApi]:
        """Return the clients of the servers; the first call asks whether they answer."""


def file_or_record(source: str | bytes, server: PromptSource) -> FileOrRecord:
    """Return a workflow's path or content unchanged; for the id of a prompt, return its record.

    A file whose name looks like an id takes precedence.

    Raises:
        Mistake: There is neither a file nor a prompt of this name.
        ComfyError: There is no such file, and the server does not answer.
    """
    if isinstance(source, bytes) or not _ID.fullmatch(source) or Path(source).exists():
        return source
    try:
        clients = server.clients()
        found = find(clients, source)
    except ComfyError:
        note(f"There is no file {source!r}, and whether a prompt has this id is not known.")
        raise
    if found is None:
        raise Mistake(f"no such workflow file, and no such prompt on {_names(clients)}: {source!r}")
    return found


def record_of(prompt_id: str, server: PromptSource) -> PastRecord:
    """Return the record of a prompt by its id, which may be abbreviated; or raise JobNotFound."""
    clients = server.clients()
    found = find(clients, prompt_id)
    if found is None:
        message = f"no such prompt on {_names(clients)}: {prompt_id!r:.100}"
        raise JobNotFound(message, prompt_id=prompt_id)
    return found


def find(clients: Iterable[ComfyApi], text: str) -> PastRecord | None:
    """Return the record of a prompt that one of these servers knows; None if none does.

    Raises:
        Mistake: The id is an abbreviation of several ids.
    """
    found: dict[str, PastRecord] = {}
    for api in clients:
        record = _on(api, full_id(api, text))
        if record is not None:
            found.setdefault(record.prompt_id, record)
    if len(found) > 1:
        raise Mistake(f"several prompts begin with {text}: {', '.join(list(found)[:5])}")
    return next(iter(found.values()), None)


def _on(api: ComfyApi, prompt_id: str) -> PastRecord | None:
    if is_hosted(api):
        return job_record(api, prompt_id)
    record: PastRecord | None = api.get_history(prompt_id)
    if record is None:
        queue = api.get_queue()
        everyone = (*queue.running, *queue.pending)
        record = next((item for item in everyone if item.prompt_id == prompt_id), None)
    # The prompt may have ended between the two requests.
    return record or api.get_history(prompt_id)


def carried(source: FileOrRecord) -> dict[str, Any]:
    """Return the entry ``extra_pnginfo`` of a prompt's record, if any, for a new prompt like it.

    It contains the frontend's workflow, so that the frontend opens the files of both alike.
    """
    if isinstance(source, str | bytes):
        return {}
    info = source.extra_data.get("extra_pnginfo")
    if not isinstance(info, Mapping) or not isinstance(info.get("workflow", {}), Mapping):
        return {}
    return {"extra_pnginfo": info} if info else {}


def _names(clients: Iterable[ComfyApi]) -> str:
    return ", ".join(api.host for api in clients)


def full_id(api: ComfyApi, text: str) -> str:
    """Complete an abbreviated prompt id; return it unchanged if no known id begins with it."""
    return full_ids(api, [text])[0]


def full_ids(api: ComfyApi, texts: Sequence[str], queue: Queue | None = None) -> list[str]:
    """Complete abbreviated prompt ids like :func:`full_id`, with the same requests for all.

    Args:
        api: The client of the server that knows the prompts.
        texts: The ids, whole or abbreviated.
        queue: The queue, if the caller has read it already.
    """
    refuse_empty(texts)
    if all(len(text) >= _WHOLE for text in texts):
        return list(texts)
    if is_hosted(api):
        known = [job_id for job_id, _ in listed(api)]
        return [text if len(text) >= _WHOLE else _completed(text, known) for text in texts]
    found = api.get_queue(workflows_of=()) if queue is None else queue
    known = [item.prompt_id for item in (*found.running, *found.pending)]
    if any(len(text) < _WHOLE and text not in known for text in texts):
        known += api.get_histories(LATEST_SEARCHED)
    return [text if len(text) >= _WHOLE else _completed(text, known) for text in texts]


def refuse_empty(prompt_ids: Sequence[str]) -> None:
    """Raise Mistake if one of the ids is empty, such as from an unset variable."""
    if not all(map(str.strip, prompt_ids)):
        raise Mistake("the ID is empty")


def _completed(text: str, known: Sequence[str]) -> str:
    matching = [text] if text in known else [one for one in known if one.startswith(text)]
    if len(text) < _SHORTEST and matching and text not in known:
        raise Mistake(f"{text} is too short for an ID: give {_SHORTEST} characters or more")
    if len(matching) > 1:
        raise Mistake(f"several prompts begin with {text}: {', '.join(matching[:5])}")
    return matching[0] if matching else text
