"""Errors for workflows that ``POST /prompt`` refuses.  Imported late."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from ..errors import ApiError, ComfyError, PromptRejected
from ..transport.deadline import Deadline
from ..transport.http import SMALL, Http
from ..values import table_at
from ..workflow import check_graph
from ..workflow.explain import (
    Hints,
    classes_with_unlisted_choices,
    explain_rejection,
    problems_of_rejection,
    unknown_class,
)
from ..workflow.graph import class_of
from ..workflow.replacements import not_replaced, replace_classes
from ._base import facts_of
from .definitions import NodeDefinitions

#: The most classes whose definitions are requested to explain one refusal, and the seconds for
#: them, and for the names of all classes.
_MOST_CLASSES: Final = 64
_FOR_A_HINT: Final = 20.0


def rejected(
    http: Http,
    exc: ApiError,
    sent: Mapping[str, Any],
    known: NodeDefinitions,
    deadline: Deadline,
) -> PromptRejected:
    """Build the :class:`PromptRejected` for an answer with status 400.

    The definitions of the classes that it blames are no longer known, as they may be old.
    """
    graph, targets = sent["prompt"], sent.get("partial_execution_targets")
    body = exc.body if isinstance(exc.body, Mapping) else {}
    known.drop(_blamed(body, graph))
    is_missing = unknown_class(body, graph) is not None
    hints: Hints = {
        "node_names": _node_names(known, deadline) if is_missing else (),
        "packs": _packs(known, graph, deadline) if is_missing else {},
        "definitions": _definitions(known, classes_with_unlisted_choices(body, graph), deadline),
    }
    error = body.get("error")
    words = http.identity.hide(explain_rejection(exc.body, graph, **hints))
    if targets is not None and table_at(error).get("type") == "prompt_no_outputs":
        words = f"none of partial_execution_targets {targets} is an output node"
    return PromptRejected(
        f"the server refused the workflow:\n{words}",
        error=error if isinstance(error, Mapping) else {"message": str(error or exc.body)},
        node_errors=table_at(body, "node_errors"),
        problems=problems_of_rejection(exc.body, graph, hide=http.identity.hide, **hints),
        **facts_of(exc),
    )


def _blamed(body: Mapping[str, Any], graph: Mapping[str, Any]) -> set[str]:
    """Return the classes of the nodes that a refusal names; if it names none, those of all."""
    ids = table_at(body, "node_errors").keys() & graph.keys()
    classes = (class_of(graph, node_id) for node_id in ids or graph)
    return {name for name in classes if name is not None}


def unknown_classes(
    http: Http,
    exc: ApiError,
    graph: Mapping[str, Any],
    known: NodeDefinitions,
    deadline: Deadline,
) -> PromptRejected | None:
    """Return the error for a status 500 that an unknown class caused; None for another cause.

    Servers before May 2024 fail on an unknown class.  Servers since 0.14 fail on a class that they
    replace if the node lacks an input that the replacement takes over.
    """
    classes = {node["class_type"] for node in graph.values()}
    try:
        until = Deadline.after(deadline.require(_FOR_A_HINT))
        missing = classes - known.get(classes, refresh=True, deadline=until).keys()
    except (ComfyError, TimeoutError):
        return None
    replaced = replace_classes(graph, missing, _replacements(http, deadline) if missing else {})
    problems = tuple(not_replaced(graph, replaced))
    if problems:
        words = "\n".join(problem.text for problem in problems)
        words = http.identity.hide(f"the server refused the workflow:\n{words}")
        error = {"type": problems[0].type, "message": words, "details": ""}
        return PromptRejected(
            words, error=error, problems=problems, method="POST", path=exc.path, status=500
        )
    names = _node_names(known, deadline) if missing else ()
    packs = _packs(known, graph, deadline) if missing else {}
    for node_id, node in graph.items():
        if node["class_type"] in missing:
            info = {"node_id": node_id, "class_type": node["class_type"]}
            body = {"error": {"type": "missing_node_type", "extra_info": info}}
            hints: Hints = {"node_names": names, "packs": packs}
            words = explain_rejection(body, graph, **hints)  # also about the other nodes
            words = f"the server refused the workflow:\n{words}"
            error = {"type": "missing_node_type", "message": words, "details": ""}
            return PromptRejected(
                words,
                error=error,
                problems=problems_of_rejection(body, graph, hide=http.identity.hide, **hints),
                method="POST",
                path=exc.path,
                status=500,
            )
    return None


def _node_names(known: NodeDefinitions, deadline: Deadline) -> Collection[str]:
    """Return the server's node classes, for a hint; empty if the request fails or is slow."""
    try:
        return known.names(Deadline.after(deadline.require(_FOR_A_HINT)), for_a_hint=True)
    except (ComfyError, TimeoutError):
        return ()


def _packs(
    known: NodeDefinitions, graph: Mapping[str, Any], deadline: Deadline
) -> Mapping[str, tuple[str, ...]]:
    """Return the node packs that have classes of a graph, for a hint; empty without a Manager."""
    classes = {class_of(graph, node_id) for node_id in graph}
    return known.packs.of({name for name in classes if name}, deadline)


def _replacements(http: Http, deadline: Deadline) -> Mapping[str, Any]:
    """Return the server's replacements of node classes; empty if the request fails or is slow."""
    try:
        left = deadline.require(20.0)
        found = http.json("GET", "/node_replacements", timeout=left, max_bytes=SMALL)
    except (ComfyError, TimeoutError):
        return {}
    return table_at(found)


def _definitions(
    known: NodeDefinitions, classes: Sequence[str], deadline: Deadline
) -> dict[str, Any]:
    """Return the definitions of the first classes, for hints; none if a request fails."""
    if not classes:
        return {}
    try:
        until = Deadline.after(deadline.require(_FOR_A_HINT))
        return known.get(classes[:_MOST_CLASSES], refresh=True, deadline=until)
    except (ComfyError, TimeoutError):
        return {}


def blame_what_was_left_out(
    exc: PromptRejected, graph: Mapping[str, Any], left_out: Mapping[str, Any]
) -> None:
    """Add the errors of unsent parts to a refusal; raise WorkflowError if no output was sent."""
    if not left_out:
        return
    if exc.error.get("type") == "prompt_no_outputs":
        check_graph(graph)
    exc.node_errors = {**left_out, **exc.node_errors}
    words = explain_rejection({"node_errors": left_out}, graph)
    exc.add_note(f"and what was left out of it:\n{words}")


def partly_refused(
    node_errors: Mapping[str, Any], graph: Mapping[str, Any], hide: Callable[[Any], Any]
) -> tuple[str, PromptRejected]:
    """Explain which outputs do not run; return the text, and an error for ``strict``."""
    body = {"node_errors": node_errors}
    words = explain_rejection(body, graph)
    return words, PromptRejected(
        f"the server would run only a part of the workflow (strict=True):\n{words}",
        node_errors=node_errors,
        problems=problems_of_rejection(body, graph, hide=hide),
        method="POST",
        path="/prompt",
        status=200,
    )
