"""The event and the exception for each way in which a prompt ends.  Pure.

The end event and the history lead to the same class with the same facts.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs

from ..errors import JobError, JobFailed, JobInterrupted, JobLost, OutputsTooLarge
from ..events import (
    ExecutionError,
    ExecutionInterrupted,
    ExecutionSuccess,
    JobEvent,
    JobLostEvent,
    PreviewEvent,
    execution_error,
    execution_interrupted,
    execution_success,
)
from ..redaction import is_secret_name
from ..workflow import class_of, title_of
from ..workflow.graph import describe

if TYPE_CHECKING:
    from ..models import HistoryEntry
    from ..recording.secrets import Secrets

#: The node class whose pictures are outputs, although they come like previews.
SENDER: Final = "SaveImageWebsocket"

_GONE: Final = (
    "in no queue and no history: the server was restarted, the prompt was deleted, or never there"
)

#: How several servers treat a prompt that was lost, which may or may not have run.
OnLost = Literal["raise", "retry"]
#: How they treat a prompt that failed.
OnFailed = Literal["raise", "move"]
#: The status of a prompt: see :attr:`Job.status`.
JobStatus = Literal[
    "waiting", "pending", "running", "succeeded", "failed", "interrupted", "lost", "unknown"
]

STATUS_OF_EVENT: Final[Mapping[object, JobStatus]] = {
    ExecutionSuccess: "succeeded",
    ExecutionError: "failed",
    ExecutionInterrupted: "interrupted",
}

_STATUS_OF_ERROR: Final[Mapping[type[Exception], JobStatus]] = {
    JobFailed: "failed",
    JobInterrupted: "interrupted",
    JobLost: "lost",
}


def status_of(end: object) -> JobStatus:
    """Return the final status for a result or error; ``unknown`` if only the wait ended."""
    if not isinstance(end, BaseException):
        return "succeeded"
    found = (status for kind, status in _STATUS_OF_ERROR.items() if isinstance(end, kind))
    return next(found, "unknown")


def sends_pictures(graph: Mapping[str, Any]) -> bool:
    """Return whether a workflow has outputs that come over the socket only."""
    return any(class_of(graph, node_id) == SENDER for node_id in graph)


def with_finality(event: JobEvent, graph: Mapping[str, Any]) -> JobEvent:
    """Return an event; mark a preview as final if it is an output of ``SaveImageWebsocket``."""
    if isinstance(event, PreviewEvent) and event.node_id is not None:
        real = event.real_node_id or event.node_id
        if class_of(graph, real) == SENDER:
            return attrs.evolve(event, final=True)
    return event


def success(prompt_id: str, *, recovered: bool = False) -> ExecutionSuccess:
    """Make the end event for a success that no event reported."""
    return attrs.evolve(execution_success({"prompt_id": prompt_id}), recovered=recovered)


def lost(
    prompt_id: str, reason: str | None = None, *, retryable: bool = True
) -> tuple[JobLostEvent, JobLost]:
    """Return the event and error for a lost prompt; not ``retryable`` if it may have run."""
    reason = reason or _GONE
    event = JobLostEvent(name="job_lost", prompt_id=prompt_id, reason=reason, recovered=True)
    return event, lost_error(prompt_id, reason, retryable=retryable)


def lost_error(prompt_id: str, reason: str, *, retryable: bool = False) -> JobLost:
    """Return the error for a lost prompt; by default not retryable, as it may have run."""
    return JobLost(f"prompt {prompt_id} is {reason}", prompt_id=prompt_id, retryable=retryable)


def keeps_running(prompt: str, silent_for: float | None) -> str:
    """Return a clause that says that a prompt keeps running, or may do so if its server is silent.

    ``prompt`` is the subject of the clause.  ``silent_for`` is for how many seconds the server has
    not answered; None if it has answered recently.
    """
    if silent_for is None:
        return f"{prompt} keeps running"
    silence = f"the server has not answered for {silent_for:.0f} s"
    return f"{silence}; if it is not gone, the prompt keeps running"


def too_large(prompt_id: str, most: int) -> tuple[JobLostEvent, OutputsTooLarge]:
    """Return the event and error for outputs beyond the memory limit of ``most`` bytes."""
    reason = f"its outputs take more than the {most >> 20} MiB that a client keeps in memory"
    event = JobLostEvent(name="job_lost", prompt_id=prompt_id, reason=reason)
    return event, OutputsTooLarge(
        f"prompt {prompt_id} keeps running, but {reason}: use SaveImage, which leaves files on the "
        f"server, or make the client with max_json={2 * most // 3}, which allows twice as much",
        prompt_id=prompt_id,
    )


def deleted(prompt_id: str) -> tuple[ExecutionInterrupted, JobInterrupted]:
    """Return the event and error for a prompt that this client cancelled before it ran."""
    event = attrs.evolve(execution_interrupted({"prompt_id": prompt_id}), recovered=True)
    return event, JobInterrupted(
        f"prompt {prompt_id} was cancelled while it waited", prompt_id=prompt_id
    )


def failure_event(entry: HistoryEntry, prompt_id: str) -> ExecutionError | ExecutionInterrupted:
    """Return the end event for the history entry of a prompt that did not succeed."""
    said = entry.execution_error or dict(entry.messages).get("execution_interrupted", {})
    read = execution_interrupted if entry.interrupted else execution_error
    return attrs.evolve(read({**said, "prompt_id": prompt_id}), recovered=True)


def failed_node(name: str, data: object) -> dict[str, Any]:
    """Return the failure of a node after which other branches went on, by its id; else nothing.

    ``name`` and ``data`` are those of an event.  The form is that of the server's ``node_errors``.
    """
    if name != "execution_node_error":
        return {}
    event = execution_error(data if isinstance(data, Mapping) else {})
    said: dict[str, Any] = {
        "type": name,
        "message": event.exception_message,
        "details": event.exception_type,
        "extra_info": {},
    }
    entry = {"errors": [said], "dependent_outputs": [], "class_type": event.node_type}
    return {} if event.node_id is None else {event.node_id: entry}


def error_of(
    event: ExecutionError | ExecutionInterrupted,
    prompt_id: str,
    graph: Mapping[str, Any],
    secrets: Secrets | None = None,
) -> JobError:
    """Return the exception for an end event, with ``secrets`` hidden, as a node may repeat them.

    Types of exceptions, and values in the graph, are facts and stay.
    """
    if secrets is not None:
        node_id = _name(secrets, event.node_id, graph)
        event = attrs.evolve(event, node_id=node_id)
    if isinstance(event, ExecutionInterrupted):
        where = f" at {describe(graph, event.node_id)}" if event.node_id else ""
        return JobInterrupted(
            f"prompt {prompt_id} was interrupted{where}",
            prompt_id=prompt_id,
            node_id=event.node_id,
        )
    if secrets is not None:
        event = _without(secrets, event, graph)
    where = describe(graph, event.node_id, event.node_type) if event.node_id else "a node"
    error = JobFailed(
        f"{where} failed: {_reason(event)}",
        prompt_id=prompt_id,
        node_id=event.node_id,
        title=title_of(graph, event.node_id),
        class_type=event.node_type or class_of(graph, event.node_id),
        exception_type=event.exception_type,
        exception_message=event.exception_message,
        traceback=event.traceback,
        inputs=_public(event.current_inputs, graph.get(event.node_id or "")),
    )
    if error.is_oom:
        error.add_note("out of memory: try a smaller size or batch, or run(..., retry_oom=True)")
    return error


def _reason(event: ExecutionError) -> str:
    """Return the type and the message of the exception, as far as they are known."""
    known = filter(None, (event.exception_type, event.exception_message))
    return ": ".join(known) or "no exception given"


def _without(secrets: Secrets, event: ExecutionError, graph: Mapping[str, Any]) -> ExecutionError:
    return attrs.evolve(
        event,
        node_type=_name(secrets, event.node_type, graph),
        exception_type=_name(secrets, event.exception_type, graph),
        exception_message=secrets.hide_words_in(event.exception_message),
        traceback=secrets.hide_words_in(event.traceback),
        current_inputs=secrets.hide_words_in(event.current_inputs),
    )


def _name(secrets: Secrets, said: str | None, graph: Mapping[str, Any]) -> str | None:
    """Return a name with secrets hidden, unless it is in the graph or a built-in exception."""
    if said is None or said in graph or said in _EXCEPTION_NAMES:
        return said
    if any(class_of(graph, node_id) == said for node_id in graph):
        return said
    return secrets.hide_name(said)


#: Names of exceptions, which are shown even if a password equals one.
_EXCEPTION_NAMES: Final = frozenset(
    name
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, BaseException)
)


def _public(inputs: Mapping[str, Any], node: Any) -> dict[str, Any]:
    """Return the inputs of a node that are in the workflow, without hidden ones (API keys).

    If another node created this one, it is not in the workflow, and the names of inputs decide.
    """
    given = node.get("inputs", {}) if isinstance(node, Mapping) else None
    return {
        name: value
        for name, value in inputs.items()
        if (not is_secret_name(name) if given is None else name in given)
    }
