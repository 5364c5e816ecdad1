"""Conversion of a graph to plain JSON, which lists values that JSON cannot represent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import attrs

from ..upload import Upload
from .graph import brief, json_value
from .problems import Problem, problem_at, shown

#: The most bits of an int that Python converts to text and back.
_MOST_BITS: Final = 14_000


@attrs.frozen(eq=False)
class Sendable:
    """A graph as it would be sent.

    Attributes:
        graph: The graph, as an independent copy.
        problems: Values that cannot be sent, and nodes that no server accepts as such.
        left_out: The inputs, as (node id, name), whose value was replaced with ``None``.
    """

    graph: dict[str, Any]
    problems: list[Problem]
    left_out: set[tuple[str, str]]


def sendable(graph: Mapping[Any, Any]) -> Sendable:
    """Copy a graph as plain JSON, and list what cannot be sent.

    The copy keeps NaN and Infinity.  An upload becomes ``upload/NAME``, any other value that
    cannot be sent ``None``; whatever has a key that is not a string is left out.
    """
    made = Sendable({}, [], set())
    for node_id, node in graph.items():
        if not isinstance(node_id, str):
            text = f"the node id {brief(node_id)} is not a string"
            made.problems.append(Problem("error", "not_sendable", text, named_by_server=False))
            continue
        if isinstance(node, Mapping):
            made.graph[node_id] = _node(made, graph, node_id, node)
        else:
            made.graph[node_id] = _plain(node)[0]
            _add(
                made, graph, node_id, "malformed_node", f"the node is not an object: {brief(node)}"
            )
    return made


def _node(
    made: Sendable, graph: Mapping[str, Any], node_id: str, node: Mapping[Any, Any]
) -> dict[str, Any]:
    copied: dict[str, Any] = {}
    for key, value in node.items():
        if not isinstance(key, str):
            text = f"the key {brief(key)} is not a string"
            _add(made, graph, node_id, "not_sendable", text)
        elif key == "inputs" and isinstance(value, Mapping):
            copied[key] = _inputs(made, graph, node_id, value)
        else:
            copied[key], fault = _plain(value)
            if fault:
                _add(made, graph, node_id, "not_sendable", f"{brief(key)}: {fault}")
    if "inputs" not in copied:
        _add(made, graph, node_id, "malformed_node", "the node has no inputs")
    elif not isinstance(copied["inputs"], dict):
        text = f"inputs is not an object: {brief(copied['inputs'])}"
        _add(made, graph, node_id, "malformed_node", text)
    return copied


def _inputs(
    made: Sendable, graph: Mapping[str, Any], node_id: str, inputs: Mapping[Any, Any]
) -> dict[str, Any]:
    copied: dict[str, Any] = {}
    for name, value in inputs.items():
        if not isinstance(name, str):
            text = f"the input name {brief(name)} is not a string"
            _add(made, graph, node_id, "not_sendable", text)
            continue
        if isinstance(value, Upload):  # in a folder, so not among the server's choices
            copied[name] = f"upload/{value.name or 'content'}"
            continue
        copied[name], fault = _plain(value)
        if fault:
            if type(value) is not float:
                made.left_out.add((node_id, name))
            text = f"{name}: {fault}"
            _add(made, graph, node_id, "not_sendable", text, input=name, value=copied[name])
    return copied


def _plain(value: Any) -> tuple[Any, str | None]:
    """Return a value as plain JSON, and why it cannot be sent, or None if it can."""
    if value is None or type(value) in (str, bool):
        return value, None
    if type(value) is float:
        is_finite = math.isfinite(value)
        return value, None if is_finite else f"{value} is not a number that JSON can represent"
    if isinstance(value, int):
        return (value, None) if value.bit_length() < _MOST_BITS else (None, "too many digits")
    try:
        return json_value(value), None
    except RecursionError:
        return None, "the value is nested too deeply"
    except ValueError as exc:
        return None, str(exc)


def _add(
    made: Sendable,
    graph: Mapping[str, Any],
    node_id: str,
    kind: str,
    text: str,
    *,
    input: str | None = None,
    value: Any = None,
) -> None:
    problem = problem_at(
        graph, node_id, kind, text, input=input, value=shown(input, value), named_by_server=False
    )
    made.problems.append(problem)
