"""Prompts that a server knows, as workflows to run again or to write to a file."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from ..errors import ComfyError, JobNotFound
from .exits import Mistake
from .hosted_jobs import is_hosted, job_record
from .printing import note
from .prompt_commands import full_id

if TYPE_CHECKING:
    from ..client import ComfyApi
    from ..models import HistoryEntry, QueueItem

#: A server's record of a prompt.
PastRecord: TypeAlias = "HistoryEntry | QueueItem"
#: A source of a workflow: the path of a file, its content, or a server's record of a prompt.
FileOrRecord: TypeAlias = "str | bytes | PastRecord"

#: What may be the id of a prompt; a name with a dot or a slash can only be that of a file.
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")


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
