"""Conversion of jobs of Comfy API v2 to ComfyUI's events, outputs and outcomes.  Pure."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

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
from ..jobs.state import JobState, Outcome
from ..values import identifier
from ..workflow import class_of, sinks
from ..workflow.graph import describe
from .models import HostedJob, HostedOutput, HostedProgress, ServerEvent, output_of

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
    meta = node.get("_meta")
    meta = {**meta, MARK: key} if isinstance(meta, Mapping) else {MARK: key}
    return {**graph, node_id: {**node, "_meta": meta}}


def unmarked(graph: Mapping[str, Any]) -> dict[str, Any]:
    """Return a graph without the client's mark."""
    return {node_id: _without_mark(node) for node_id, node in graph.items()}


def _without_mark(node: Any) -> Any:
    meta = node.get("_meta") if isinstance(node, Mapping) else None
    if not isinstance(meta, Mapping) or MARK not in meta:
        return node
    rest = {name: value for name, value in node.items() if name != "_meta"}
    kept = {name: value for name, value in meta.items() if name != MARK}
    return {**rest, "_meta": kept} if kept else rest


def has_mark(graph: Mapping[str, Any], key: str) -> bool:
    """Return whether a graph carries the client's mark with this key."""
    metas = (node.get("_meta") for node in graph.values() if isinstance(node, Mapping))
    return any(isinstance(meta, Mapping) and meta.get(MARK) == key for meta in metas)


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


def outcome(job: HostedJob, state: JobState) -> Outcome | None:
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


def _savers(state: JobState) -> Iterator[str]:
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
