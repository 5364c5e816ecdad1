"""Conversion of ended rows to JSON records in a journal, and back.

Records leave out secrets, and the values of the grid, which may be secrets, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from ..errors import (
    ApiError,
    ComfyError,
    JobError,
    JobFailed,
    JobInterrupted,
    JobLost,
    JobTimeout,
    OutputsTooLarge,
    PromptRejected,
    SubmitUncertain,
    UploadTooLarge,
    WorkflowError,
)
from ..jobs.output import OutputFrame
from ..jobs.result import Result, make_result
from ..recording.secrets import STARS, Secrets
from ..redaction import Sealed
from ..routes import Routes
from ..workflow import Workflow
from ..workflow.graph import brief
from ..workflow.seeds import put_drawn, seeds_of
from .journal import Record
from .row import SweepRow

_ABOUT_PROMPT: Final[Mapping[str, type[ComfyError]]] = {
    kind.__name__: kind
    for kind in (
        *(JobFailed, JobInterrupted, JobLost, JobTimeout, OutputsTooLarge),
        SubmitUncertain,
    )
}
#: Errors of the submission: nothing ran.
REFUSALS: Final = {
    kind.__name__ for kind in (ApiError, PromptRejected, WorkflowError, UploadTooLarge)
}
#: Fields of an error that are names of the protocol, not text.
_NAMES: Final = {"node_id", "class_type", "exception_type"}
#: The types of the recorded values, and those of their items.
_RESULT: Final[Mapping[str, tuple[type, Any]]] = {
    "outputs": (dict, dict),
    "node_errors": (dict, object),
    "cached_nodes": (list, str),
    "fully_cached": (bool, object),
    "complete": (bool, object),
    "seeds": (dict, int),
}
_ERROR: Final[Mapping[str, tuple[type, Any]]] = {
    "kind": (str, object),
    "message": (str, object),
    "facts": (dict, str | bool | None),
}
#: The fields that locate a file of an output.
_FILE: Final = {"filename", "subfolder", "type"}


def result_record(result: Result, workflow: Workflow, secrets: Secrets) -> dict[str, Any]:
    """Return a result as a JSON record of its files and texts, with secrets hidden."""

    def words_hidden(text: str) -> str:
        if isinstance(text, Sealed):
            return STARS  # a signed link, which does not last anyway
        # Results must stay exact, so only known secrets are hidden, without guessing.
        data = text.encode("utf-8", "surrogatepass")
        return secrets.hide_bytes(data).decode("utf-8", "surrogatepass")

    said = {
        "outputs": {node.node_id: node.raw for node in result.nodes.values()},
        "node_errors": result.node_errors,
    }
    given = seeds_of(workflow.to_dict())
    drawn = {key: seed for key, seed in result.seeds.items() if given.get(key) != seed}
    facts = {
        "cached_nodes": result.cached_nodes,
        "fully_cached": result.fully_cached,
        # Pictures that came through the socket are in no file.
        "complete": result.complete
        and not any(isinstance(file, OutputFrame) for file in result.files),
    }
    seeds = {"seeds": drawn} if drawn else {}  # without values of the grid
    return {**_each_text(said, words_hidden), **facts, **seeds}


def row_of(row: SweepRow, record: Record, workflow: Workflow, files: Routes | None) -> SweepRow:
    """Complete a row from its record; ``files`` is the client of the server that ran it."""
    row = attrs.evolve(
        row,
        seconds=record.execution_seconds,
        waited=record.seconds,
        host=record.host,
        from_journal=True,
    )
    if record.error is not None:
        return attrs.evolve(row, error=error_of(record.error, record.prompt_id))
    facts = {"seeds": {}, **(record.result or {})}
    _check(facts, _RESULT)
    facts["cached_nodes"] = tuple(facts["cached_nodes"])
    graph = workflow.to_dict()
    outputs, drawn = facts.pop("outputs"), facts.pop("seeds")
    put_drawn(graph, drawn)
    result = make_result(
        record.prompt_id,
        graph,
        outputs,
        files=files,
        output_names=workflow.output_names,
        seeds=seeds_of(graph) | drawn,
        seconds=record.execution_seconds,
        **facts,
    )
    return attrs.evolve(row, result=result, cached=len(result.cached_nodes))


def error_record(error: ComfyError, hide: Callable[[str], str]) -> dict[str, Any]:
    """Return an error as a JSON record: class, message and short facts, without a node's inputs."""
    facts: dict[str, Any] = {
        name: hide(value) if isinstance(value, str) and name not in _NAMES else value
        for name, value in vars(error).items()
        if isinstance(error, JobError) and name != "prompt_id" and isinstance(value, str | None)
    }
    if isinstance(error, JobTimeout):
        facts["stalled"] = error.stalled
    return {"kind": type(error).__name__, "message": hide(str(error)), "facts": facts}


def error_of(record: Mapping[str, Any], prompt_id: str) -> ComfyError:
    """Restore an error from its record."""
    _check(record, _ERROR)
    kind: Callable[..., ComfyError] = _ABOUT_PROMPT.get(record["kind"], JobError)
    return kind(record["message"], prompt_id=prompt_id, **record["facts"])


def _check(record: Mapping[str, Any], types: Mapping[str, tuple[type, Any]]) -> None:
    """Raise ``TypeError`` for a value that no sweep writes, as in a file from a stranger."""
    for name, value in record.items():
        kind, of_items = types[name]
        items = value.values() if isinstance(value, dict) else value if kind is list else ()
        if type(value) is not kind or not all(isinstance(item, of_items) for item in items):
            raise TypeError(f"{brief(name)} is {brief(value)}")


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    """Return a JSON value with ``change`` applied to all texts but those that locate a file."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        kept = _FILE if isinstance(value.get("filename"), str) else ()
        return {
            name: each if name in kept else _each_text(each, change) for name, each in value.items()
        }
    if isinstance(value, list):
        return [_each_text(each, change) for each in value]
    return value
