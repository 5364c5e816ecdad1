"""Answers of Comfy API v2, and their conversion to ComfyUI's events and outcomes.  Pure.

Servers differ in the names of fields, in what may be null, and in which numbers are correct.
Unknown statuses are kept as they are.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Annotated, Any, Final

import attrs

from ..events import (
    FROM_SERVER,
    ExecutionError,
    JobEvent,
    PreviewEvent,
    execution_error,
    execution_interrupted,
)
from ..jobs.outcomes import SENDER, sends_pictures, success
from ..jobs.state import Outcome, PromptState
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
    table_at,
    text,
    whole,
)
from ..workflow import class_of, sinks
from ..workflow.graph import describe
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
        jobs = tuple(map(HostedJob.from_json, items(source.get("jobs"), "HostedJobs.jobs")))
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


#: The key of the client's mark in the ``_meta`` of a node.
MARK: Final = "comfy_client"
#: The statuses of a job that has begun to run and not ended.
RUNNING: Final = frozenset({"running", "canceling"})

_IMAGE: Final = r"image/[a-z0-9.+-]{1,40}"
#: The most files of a node that a stream brings; a poll brings all of them at the end.
_MOST_FILES: Final = 1000
#: How the names of node classes begin whose files are previews, in ComfyUI's folder ``temp``.
_PREVIEWS: Final = "Preview"

#: Classes of nodes that save at least one file whenever they run.
_SAVERS: Final = frozenset({"SaveImage", "SaveAnimatedPNG", "SaveAnimatedWEBP", "PreviewImage"})

#: The files that a node has made, by the key under which ComfyUI lists them.
NodeFiles = Mapping[str, list[dict[str, Any]]]


# -- what is sent ------------------------------------------------------------------------


def marked(graph: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return a graph with ``key``, the client's mark, in the ``_meta`` of an output node.

    If a submission gets no answer, the client finds its job by this mark.
    The server keeps ``_meta``, which no node sees, so a marked graph runs and is cached as before.
    """
    node_id = min(sinks(graph), default=None)
    node = graph.get(node_id or "")
    if node_id is None or not isinstance(node, Mapping):
        return dict(graph)
    return {**graph, node_id: {**node, "_meta": {**table_at(node, "_meta"), MARK: key}}}


def unmarked(graph: Mapping[str, Any]) -> dict[str, Any]:
    """Return a graph without the client's mark."""
    return {node_id: _without_mark(node) for node_id, node in graph.items()}


def _without_mark(node: Any) -> Any:
    meta = table_at(node, "_meta")
    if MARK not in meta:
        return node
    rest = {name: value for name, value in node.items() if name != "_meta"}
    kept = {name: value for name, value in meta.items() if name != MARK}
    return {**rest, "_meta": kept} if kept else rest


def has_mark(graph: Mapping[str, Any], key: str) -> bool:
    """Return whether a graph carries the client's mark with this key."""
    return any(table_at(node, "_meta").get(MARK) == key for node in graph.values())


# -- what comes back ---------------------------------------------------------------------


def files_by_node(
    outputs: Iterable[HostedOutput], graph: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, NodeFiles]:
    """Return the outputs of a job as ComfyUI's history lists them, by node id.

    Comfy API v2 does not mark files of type ``temp``: they are taken to be those of nodes whose
    class in ``graph`` is called ``Preview...``.
    """
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for output in outputs:
        node_id = output.node_id or ""
        is_preview = (class_of(graph, node_id) or "").startswith(_PREVIEWS)
        kind = {"type": "temp"} if is_preview else {}
        by_key = found.setdefault(node_id, {})
        by_key.setdefault(output.key, []).append({**output.to_comfyui(), **kind})
    return dict(found)


def executed(prompt_id: str, node_id: str, files: NodeFiles) -> JobEvent:
    """Return the event that reports the outputs of a node."""
    return _event("executed", prompt_id, node=node_id, display_node=node_id, output=files)


def started(prompt_id: str) -> JobEvent:
    """Return the event that reports the start of a prompt."""
    return _event("execution_start", prompt_id)


def outcome(job: HostedJob, state: PromptState) -> Outcome | None:
    """Return the outcome of a job; None if it has not ended, or has expired.

    The time that it took, and remarks about missing outputs, are added to ``state``.
    """
    if job.started_at is not None and job.completed_at is not None:
        state.took = max(0.0, job.completed_at - job.started_at)
    if job.status == "succeeded":
        complete = not sends_pictures(state.graph)
        if not complete:
            state.remarks.append(
                f"prompt {state.prompt_id}: Comfy API v2 drops pictures of {SENDER}, so the result "
                "lacks some: use SaveImage"
            )
        outputs = files_by_node(job.outputs, state.graph)
        if silent := [node_id for node_id in _savers(state) if node_id not in outputs]:
            named = ", ".join(describe(state.graph, node_id) for node_id in sorted(silent))
            state.remarks.append(
                f"prompt {state.prompt_id}: nothing came of {named}: ComfyUI left it out, perhaps "
                "since an input is wrong, which Comfy API v2 does not tell"
            )
        return Outcome(
            success(state.prompt_id, recovered=True),
            outputs=outputs,
            complete=complete,
        )
    if job.status == "failed":
        return Outcome(failure(job, state.prompt_id))
    if job.status == "canceled":
        event = execution_interrupted({"prompt_id": state.prompt_id})
        return Outcome(attrs.evolve(event, recovered=True))
    return None


def _savers(state: PromptState) -> Iterator[str]:
    """Yield the ids of the wanted output nodes that save a file whenever they run."""
    wanted = sinks(state.graph) if state.targets is None else state.targets
    return (node_id for node_id in wanted if class_of(state.graph, node_id) in _SAVERS)


def failure(job: HostedJob, prompt_id: str) -> ExecutionError:
    """Return the end event of a job that failed."""
    error = job.error
    data: dict[str, Any] = {"prompt_id": prompt_id}
    if error is not None:
        data |= {
            "node_id": error.node_id,
            "node_type": error.class_type,
            "exception_message": error.message or error.code,
            "traceback": [error.traceback] if error.traceback else [],
        }
    return attrs.evolve(execution_error(data), recovered=True)


class FrameTranslator:
    """A translator of the events of a job's stream to ComfyUI's events.

    The outputs of a node arrive one by one; the event with all of them is made once a frame about
    something else arrives.

    Args:
        prompt_id: The id of the prompt.
        graph: Its graph; empty if it is not known.
    """

    def __init__(self, prompt_id: str, graph: Mapping[str, Any]) -> None:
        self._prompt_id = prompt_id
        self._graph = graph
        self._has_begun = False
        self._node: str | None = None
        self._files: list[HostedOutput] = []

    def take(self, frame: ServerEvent) -> Iterator[JobEvent]:
        """Yield ComfyUI's events for a frame, of which there may be none."""
        if frame.name == "output":
            output = output_of(frame.data)
            if output is None:
                return
            if self._files and self._files[-1].node_id != output.node_id:
                yield from self.rest()
            if len(self._files) < _MOST_FILES:
                self._files.append(output)
            return
        yield from self.rest()
        if frame.status in RUNNING:
            yield from self._begin()
        elif frame.name == "progress":
            yield from self._progress(HostedProgress.from_json(frame.data))
        elif frame.name == "preview":
            preview = _preview(self._prompt_id, frame.data)
            if preview is not None:
                yield from self._begin()
                yield preview

    def rest(self) -> Iterator[JobEvent]:
        """Yield an event for the outputs that have arrived and were not yielded yet, if any."""
        files, self._files = self._files, []
        for node_id, by_key in files_by_node(files, self._graph).items():
            yield executed(self._prompt_id, node_id, by_key)

    def _begin(self) -> Iterator[JobEvent]:
        if not self._has_begun:
            self._has_begun = True
            yield started(self._prompt_id)

    def _progress(self, progress: HostedProgress) -> Iterator[JobEvent]:
        node = progress.current_node
        if node is None:
            return
        yield from self._begin()
        if node != self._node:
            self._node = node
            yield _event("executing", self._prompt_id, node=node, display_node=node)
        if progress.step is not None and progress.steps is not None:
            step, steps = progress.step, progress.steps
            yield _event("progress", self._prompt_id, node=node, value=step, max=steps)


def _event(name: str, prompt_id: str, **data: Any) -> JobEvent:
    event = FROM_SERVER[name]({"prompt_id": prompt_id, **data})
    assert isinstance(event, JobEvent)  # noqa: S101  # for the type checker
    return event


def _preview(prompt_id: str, data: Mapping[str, Any]) -> PreviewEvent | None:
    """Return the preview in the data of a frame; None if its picture is missing or invalid."""
    mime, encoded, node_id = (data.get(key) for key in ("content_type", "data_base64", "node_id"))
    if not isinstance(mime, str) or not re.fullmatch(_IMAGE, mime) or not isinstance(encoded, str):
        return None
    try:
        picture = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None
    return PreviewEvent(
        name="b_preview",
        prompt_id=prompt_id,
        node_id=identifier(node_id),
        mime=mime,
        view=memoryview(picture),
        nbytes=len(picture),
    )
