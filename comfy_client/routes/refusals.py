"""Errors for workflows that ``POST /prompt`` refuses.  Imported late."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ..errors import ApiError, ComfyError, PromptRejected
from ..transport.deadline import Deadline
from ..transport.http import SMALL, Http, segment
from ..workflow import check_graph
from ..workflow.explain import (
    classes_with_unlisted_choices,
    explain_rejection,
    problems_of_rejection,
    unknown_class,
)
from ..workflow.replacements import not_replaced, replace_classes
from ._base import facts_of

#: The most classes whose definitions are requested to explain one refusal.
_MOST_CLASSES: Final = 5


def rejected(
    http: Http, exc: ApiError, sent: Mapping[str, Any], deadline: Deadline
) -> PromptRejected:
    """Build the :class:`PromptRejected` for an answer with status 400."""
    graph, targets = sent["prompt"], sent.get("partial_execution_targets")
    body = exc.body if isinstance(exc.body, Mapping) else {}
    names = _node_names(http, deadline) if unknown_class(body, graph) else ()
    definitions = _definitions(http, classes_with_unlisted_choices(body, graph), deadline)
    error, node_errors = body.get("error"), body.get("node_errors")
    words = explain_rejection(exc.body, graph, node_names=names, definitions=definitions)
    words = http.identity.hide(words)
    kind = error.get("type") if isinstance(error, Mapping) else None
    if targets is not None and kind == "prompt_no_outputs":
        words = f"none of partial_execution_targets {targets} is an output node"
    return PromptRejected(
        f"the server refused the workflow:\n{words}",
        error=error if isinstance(error, Mapping) else {"message": str(error or exc.body)},
        node_errors=node_errors if isinstance(node_errors, Mapping) else {},
        problems=problems_of_rejection(
            exc.body,
            graph,
            node_names=names,
            definitions=definitions,
            hide=http.identity.hide,
        ),
        **facts_of(exc),
    )


def unknown_classes(
    http: Http, exc: ApiError, graph: Mapping[str, Any], deadline: Deadline
) -> PromptRejected | None:
    """Return the error for a status 500 that an unknown class caused; None for another cause.

    Servers before May 2024 fail on an unknown class.  Servers since 0.14 fail on a class that they
    replace if the node lacks an input that the replacement takes over.
    """
    names = _node_names(http, deadline)
    known = set(names)
    missing = {node["class_type"] for node in graph.values()} - known if names else set()
    replaced = replace_classes(graph, missing, _replacements(http, deadline) if missing else {})
    problems = tuple(not_replaced(graph, replaced))
    if problems:
        words = "\n".join(problem.text for problem in problems)
        words = http.identity.hide(f"the server refused the workflow:\n{words}")
        error = {"type": problems[0].type, "message": words, "details": ""}
        return PromptRejected(
            words, error=error, problems=problems, method="POST", path=exc.path, status=500
        )
    for node_id, node in graph.items():
        if names and node["class_type"] not in known:
            info = {"node_id": node_id, "class_type": node["class_type"]}
            body = {"error": {"type": "missing_node_type", "extra_info": info}}
            words = explain_rejection(body, graph, node_names=names)  # also about the other nodes
            words = f"the server refused the workflow:\n{words}"
            error = {"type": "missing_node_type", "message": words, "details": ""}
            return PromptRejected(words, error=error, method="POST", path=exc.path, status=500)
    return None


def _node_names(http: Http, deadline: Deadline) -> Sequence[str]:
    """Return the server's node classes, for a hint; empty if the request fails or is slow."""
    try:
        left = deadline.require(20.0)
        info = http.json("GET", "/object_info", timeout=left)
    except (ComfyError, TimeoutError):
        return ()
    return list(info) if isinstance(info, Mapping) else ()


def _replacements(http: Http, deadline: Deadline) -> Mapping[str, Any]:
    """Return the server's replacements of node classes; empty if the request fails or is slow."""
    try:
        left = deadline.require(20.0)
        found = http.json("GET", "/node_replacements", timeout=left, max_bytes=SMALL)
    except (ComfyError, TimeoutError):
        return {}
    return found if isinstance(found, Mapping) else {}


def _definitions(http: Http, classes: Sequence[str], deadline: Deadline) -> dict[str, Any]:
    """Return the definitions of the first classes, for hints; fewer if a request fails."""
    found: dict[str, Any] = {}
    try:
        for name in classes[:_MOST_CLASSES]:
            route, left = f"/object_info/{segment(name)}", deadline.require(20.0)
            info = http.json("GET", route, timeout=left, max_bytes=SMALL)
            if isinstance(info, Mapping) and isinstance(info.get(name), Mapping):
                found[name] = info[name]
    except (ComfyError, TimeoutError, ValueError):  # ValueError: no path can have that name
        pass
    return found


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
