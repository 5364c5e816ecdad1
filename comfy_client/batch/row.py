"""A row of a sweep, and its JSON record in a journal, made and read back.

Records leave out secrets, and the values of the grid, which may be secrets, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
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
from ..redaction import Sealed, is_secret_value, sealed
from ..routes import Routes
from ..showing.cells import Shown
from ..to_dict import AsDict
from ..workflow import Workflow
from ..workflow.graph import brief, shorten
from ..workflow.seeds import put_drawn, seeds_of
from .journal import Record

#: The most characters of values in a ``repr`` or label.
_MOST_TEXT: Final = 200


def _to_milliseconds(seconds: float | None) -> float | None:
    """Round seconds to what clocks of servers tell."""
    return round(seconds, 3) if isinstance(seconds, float) else seconds


@attrs.frozen(eq=False, repr=False)
class SweepRow(Shown, AsDict):
    """A point of a grid, with its result or its error.

    Attributes:
        index: The position in the grid, from 0.
        params: The values of this point, by the names in the grid.
        prompt_id: The id of the prompt.
        result: The outputs; ``None`` with an error.
        error: Why this prompt has no result: ``JobFailed``, ``JobTimeout``, ``PromptRejected``,
            ...; ``None`` with a result.
        seconds: How many seconds it ran, by the server's clock.  It once included the wait in the
            queue, as ``waited`` does now.  ``None`` on servers before July 2024, and if the server
            did not say in time.
        waited: How many seconds it took from the submission to the end, waiting in the queue
            included.  ``None``: it was not submitted, or another process submitted it and did not
            see its end.
        cached: How many nodes did not run again; ``None`` with an error.
        from_journal: Whether it had ended before this call of ``sweep``.
        host: The URL of the server that it was sent to; ``None``: it was not sent.
    """

    index: int
    params: Mapping[str, Any]
    prompt_id: str
    result: Result | None = None
    error: ComfyError | None = None
    seconds: float | None = attrs.field(default=None, converter=_to_milliseconds)
    waited: float | None = attrs.field(default=None, converter=_to_milliseconds)
    cached: int | None = None
    from_journal: bool = False
    host: str | None = None

    def __repr__(self) -> str:
        values = "".join(f", {label}" for label in labels(self.params))
        if self.error is not None:
            end = f": {type(self.error).__name__}"
        else:
            end = "" if self.result is None else f": {repr(self.result)[1:-1]}"
        return f"<SweepRow {self.index}{shorten(values, _MOST_TEXT)}{end}>"

    def _html(self) -> str:
        from ..showing.html import remark

        values = remark(", ".join(labels(self.params)))
        if self.error is not None:
            return values + remark(f"{type(self.error).__name__}: {self.error}", "bad")
        return values + ("" if self.result is None else self.result.gallery())


def labels(params: Mapping[str, Any], names: Iterable[str] | None = None) -> list[str]:
    """Return the names of inputs with their values, such as ``cfg 4.0``; hide secret values.

    A node is named only if several inputs have the same name.

    Args:
        params: The values of a point.
        names: Which of the inputs; ``None``: all.
    """
    short = Counter(map(_last_name, params))
    return [
        f"{_last_name(name) if short[_last_name(name)] == 1 else whole_name(name)} "
        f"{_in_words(_last_name(name), params.get(name))}"
        for name in (params if names is None else names)
    ]


def whole_name(name: str | tuple[str, ...]) -> str:
    """Return the full name of an input, with its node, as one text."""
    return name if isinstance(name, str) else ".".join(map(str, name))


def _last_name(name: str | tuple[str, ...]) -> str:
    return whole_name(name).rpartition(".")[2]


def _in_words(name: str, value: object) -> str:
    if is_secret_value(name, value):
        return "***"
    return str(value)[:_MOST_TEXT] if isinstance(value, str | Path) else brief(sealed(value))


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
