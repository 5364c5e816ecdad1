"""Answers of Comfy API v2: jobs, their outputs, assets and events.

Servers differ in the names of fields, in what may be null, and in which numbers are correct.
Unknown statuses are kept as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import attrs

from ..redaction import Sealed
from ..to_dict import AsDict
from ..values import (
    MAX_ID_LENGTH,
    Id,
    build,
    identifier,
    items,
    mapping,
    seconds,
    sequence,
    shallow,
    table,
    text,
    whole,
)
from .references import reference

#: The statuses of jobs that have ended.
ENDED: Final = frozenset({"succeeded", "canceled", "failed", "expired"})
#: The most characters of a time or a URL.
_MOST_OF_TIME: Final = 64
_MOST_OF_URL: Final = 1 << 13
#: What a pickle has in place of a sealed URL.
_LOST: Final = "***"
_NOT_IN_URL: Final = re.compile(r'[ "<>\\^`{|}]')
#: The key under which nodes list files of a type; for other types it is ``files``.
_KEYS: Final = {"image": "images", "video": "images", "audio": "audio", "latent": "latents"}


def time_of(value: object) -> float | None:
    """Convert a time, an ISO 8601 text or a number, to seconds since 1970; None if it is invalid.

    A time without a zone is UTC.
    """
    if not isinstance(value, str):
        return seconds(value)
    if len(value) > _MOST_OF_TIME:
        return None
    try:
        found = datetime.fromisoformat(value)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def url_of(value: object) -> str | None:
    """Return a URL or path with a ``repr`` that hides it, as it may be signed; None if invalid."""
    if not isinstance(value, str) or not 0 < len(value) <= _MOST_OF_URL:
        return None
    is_url = value.isprintable() and value.isascii() and not _NOT_IN_URL.search(value)
    return Sealed(value) if is_url and value != _LOST else None


def _sealed(value: object) -> object:
    """Return the JSON of an output or asset with its URL hidden in ``repr`` and pickles.

    Any other value is returned unchanged.
    """
    if isinstance(value, Mapping) and isinstance(url := value.get("url"), str):
        return {**value, "url": Sealed(url)}
    return value


def size_of_file(value: object) -> int | None:
    """Return a size in bytes; None if it is invalid, or 0, which the proxy says of every output."""
    found = whole(value)
    return found if found is not None and found > 0 else None


def _label(value: object) -> str | Mapping[str, str] | None:
    """Return the label of a job: a text, or texts by name; None for any other value."""
    if isinstance(value, str):
        return text(value)
    return table(value, lambda each: text(each, MAX_ID_LENGTH))


def asset_id(value: object) -> str | None:
    """Return the id of an asset, a printable text of at most 4096 characters; None if invalid."""
    found = text(value, 4096)
    if found is None or found != value or found in ("", ".", ".."):
        return None
    return found if found.isprintable() else None


Time = Annotated[float, time_of]
AssetId = Annotated[str, asset_id]
Url = Annotated[str, url_of]
Size = Annotated[int, size_of_file]
JobLabel = Annotated[str | Mapping[str, str] | None, _label]


@attrs.frozen(eq=False)
class HostedOutput(AsDict):
    """A file that a job made.

    Attributes:
        name: The file's name without its folder, which the server does not report.
        id: The id of the asset, by which its content can be read; ``None``: there is none.
        node_id: The id of the node that made it; ``None``: unknown.
        type: ``image``, ``video``, ``audio``, ``text``, ``file`` or ``latent``.
        content_type: The MIME type; ``None``: unknown.
        size_bytes: The size in bytes; ``None``: unknown, or reported as 0.
        hash: ``blake3:`` and hexadecimal digits; ``None``: unknown.
        url: A URL of its content, valid for a while; hidden in ``repr``, as it may be signed.
        url_expires_at: When ``url`` expires, in seconds since 1970; ``None``: unknown.
        job_id: The id of the job that made it; ``None``: unknown.
        raw: The JSON object as received.
    """

    _not_in_dict = ("url",)

    name: str
    id: AssetId | None = None
    node_id: Id | None = None
    type: str = "file"
    content_type: str | None = None
    size_bytes: Size | None = None
    hash: str | None = None
    url: Url | None = attrs.field(default=None, repr=False)
    url_expires_at: Time | None = None
    job_id: Id | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False)

    @classmethod
    def from_json(cls, data: object) -> HostedOutput:
        """Parse an output in a job, or in an ``output`` event."""
        return build(cls, _sealed(data))

    @property
    def key(self) -> str:
        """The key under which ComfyUI lists a file of this type: ``images``, ``audio``, ..."""
        return _KEYS.get(self.type, "files")

    def to_comfyui(self) -> dict[str, Any]:
        """Return the file as ComfyUI's history lists it, with the fields of Comfy API v2 added.

        ``type`` is the folder in ComfyUI; ``media_type`` has the type of Comfy API v2.  The
        ``repr`` of the URL hides it.
        """
        own = {"url": self.url} if self.url else {}
        place = {"filename": self.name, "subfolder": "", "type": "output"}
        return {**self.raw, "media_type": self.type, **own, **place}


def output_of(data: object) -> HostedOutput | None:
    """Parse an output; return None if it has no name or is nested too deeply."""
    source = shallow(data)
    return HostedOutput.from_json(source) if source and text(source.get("name")) else None


@attrs.frozen(eq=False)
class HostedFailure(AsDict):
    """The reason why a job failed.

    Attributes:
        code: The server's code, such as ``node_execution_error``.
        message: The message of the exception.
        node_id: The id of the node; ``None``: unknown.
        class_type: The class of the node; ``None``: unknown.
        traceback: The traceback as text; ``None``: the server does not send it.
        raw: The JSON object as received.
    """

    code: str | None = None
    message: str | None = None
    node_id: Id | None = None
    class_type: str | None = None
    traceback: str | None = attrs.field(default=None, repr=False)
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False)

    @classmethod
    def from_json(cls, data: object) -> HostedFailure:
        """Parse the ``error`` of a job, whose traceback may be a list of lines."""
        lines = sequence(mapping(data, "HostedFailure").get("traceback"), text)
        return build(cls, data, **({} if lines is None else {"traceback": text("".join(lines))}))


@attrs.frozen(eq=False)
class HostedProgress(AsDict):
    """The progress of a job.

    Attributes:
        value: The part that is done, from 0 to 1; ``None``: unknown.  The proxy reports 0 to polls.
        nodes_done: How many nodes have ended; ``None``: unknown.
        nodes_total: How many nodes there are, on the proxy those so far; ``None``: unknown.
        current_node: The id of the running node; ``None``: unknown.
        step: The step of the running node; ``None``: unknown.
        steps: How many steps the running node has; ``None``: unknown.
        raw: The JSON object as received.
    """

    value: float | None = None
    nodes_done: int | None = None
    nodes_total: int | None = None
    current_node: Id | None = None
    step: float | None = None
    steps: float | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False)

    @classmethod
    def from_json(cls, data: object) -> HostedProgress:
        """Parse the ``progress`` of a job, or of a ``progress`` event."""
        return build(cls, data)


@attrs.frozen(eq=False)
class HostedJob(AsDict):
    """A job, as the server describes it.

    In a list of a serverless deployment, only ``id``, ``status``, ``label`` and the times are
    known.

    Attributes:
        id: The id of the job.
        status: ``queued``, ``running``, ``succeeded``, ``canceling``, ``canceled``, ``failed``,
            ``expired``, or another text of a newer server.
        queue_position: The place among the waiting jobs, from 1; ``None``: it is not waiting.
        progress: Its progress; ``None``: unknown.
        outputs: The files that it made, including those of the type ``temp``.
        error: Why it failed; ``None``: it did not fail.
        label: Its ``metadata``: a text, or texts by name; ``None``: it has none.
        urls: Paths or URLs of the job, by name.
        created_at: When it was submitted, in seconds since 1970; ``None``: unknown.
        started_at: When it started, in seconds since 1970; ``None``: unknown.
        completed_at: When it ended, in seconds since 1970; ``None``: unknown.
        expires_at: Until when the server keeps it, in seconds since 1970; ``None``: unknown.
        updated_at: When it changed last, in seconds since 1970; ``None``: unknown.
        raw: The JSON object as received.
    """

    id: Id
    status: str
    queue_position: int | None = None
    progress: HostedProgress | None = None
    outputs: tuple[HostedOutput, ...] = attrs.field(default=(), repr=False)
    error: HostedFailure | None = None
    label: JobLabel = None
    urls: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    created_at: Time | None = None
    started_at: Time | None = None
    completed_at: Time | None = None
    expires_at: Time | None = None
    updated_at: Time | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False)

    @classmethod
    def from_json(cls, data: object) -> HostedJob:
        """Parse a job, or a record in a list of jobs, which has other names for its times."""
        source = mapping(data, "HostedJob")
        if isinstance(listed := source.get("outputs"), list):
            source = {**source, "outputs": [*map(_sealed, listed)]}
        progress, error = table(source.get("progress")), shallow(source.get("error"))
        return build(
            cls,
            source,
            progress=None if progress is None else HostedProgress.from_json(progress),
            outputs=sequence(source.get("outputs"), output_of) or (),
            error=None if error is None else HostedFailure.from_json(error),
            label=_label(source.get("metadata")),
            urls=table(source.get("urls"), text) or {},
            created_at=_first_time(source, "created_at", "create_time"),
            updated_at=_first_time(source, "updated_at", "update_time"),
        )

    @property
    def is_ended(self) -> bool:
        """Whether the job has ended: it succeeded, failed, was cancelled or has expired."""
        return self.status in ENDED


def _first_time(source: Mapping[str, Any], *names: str) -> float | None:
    found = (time_of(source.get(name)) for name in names)
    return next((time for time in found if time is not None), None)


@attrs.frozen(eq=False)
class HostedJobs(AsDict):
    """A list of jobs, the newest first.

    Attributes:
        jobs: The jobs.
        truncated: Whether the server has more than it listed.
        next_cursor: The ``cursor`` of the next page; ``None``: there is no next page.
        raw: The JSON object as received.
    """

    jobs: tuple[HostedJob, ...]
    truncated: bool = False
    next_cursor: str | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False)

    @classmethod
    def from_json(cls, data: object) -> HostedJobs:
        """Parse a list of jobs from the proxy, or a page of the list of a serverless deployment."""
        source = mapping(data, "HostedJobs")
        listed = items(source.get("jobs"), "HostedJobs.jobs")
        jobs = tuple(map(HostedJob.from_json, listed))
        cursor = text(source.get("next_cursor"), 4096)
        truncated = source.get("truncated") is True or bool(cursor)
        return build(cls, source, jobs=jobs, truncated=truncated, next_cursor=cursor or None)


@attrs.frozen(eq=False)
class Asset(AsDict):
    """A file that the server keeps, to be downloaded or to be used in a workflow.

    Attributes:
        id: The id of the asset.
        hash: ``blake3:`` and hexadecimal digits; ``None``: unknown.
        size_bytes: The size in bytes; ``None``: unknown, or reported as 0.
        content_type: The MIME type; ``None``: unknown.
        file_path: The path that the upload asked for, or that of an earlier upload of the bytes.
        created_at: When it was stored, in seconds since 1970; ``None``: unknown.
        url: A URL of its content, valid for a while; hidden in ``repr``, as it may be signed.
        url_expires_at: When ``url`` expires, in seconds since 1970; ``None``: unknown.
        expires_at: Until when the server keeps it, in seconds since 1970; ``None``: unknown.
        created_new: Whether the request made this asset; ``None``: unknown.
        raw: The JSON object as received.
    """

    _not_in_dict = ("url",)

    id: AssetId
    hash: str | None = None
    size_bytes: Size | None = None
    content_type: str | None = None
    file_path: str | None = None
    created_at: Time | None = None
    url: Url | None = attrs.field(default=None, repr=False)
    url_expires_at: Time | None = None
    expires_at: Time | None = None
    created_new: bool | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False)

    @classmethod
    def from_json(cls, data: object) -> Asset:
        """Parse an asset in an answer."""
        return build(cls, _sealed(data))

    @property
    def reference(self) -> dict[str, Any]:
        """The value that refers to the asset in an input of a workflow, in place of a file name."""
        return reference(self.id, hash=self.hash, file_path=self.file_path)


@attrs.frozen
class ServerEvent:
    """An event of a job's stream.

    Attributes:
        name: ``status``, ``progress``, ``preview``, ``output``, or an unknown name.
        data: The JSON object; empty if the server sent anything else.
    """

    name: str
    data: Mapping[str, Any] = attrs.field(factory=dict, repr=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "name", identifier(self.name) or "")

    @property
    def status(self) -> str | None:
        """The status of the job in a ``status`` event; ``None`` in other events."""
        return text(self.data.get("status"), 100) if self.name == "status" else None
