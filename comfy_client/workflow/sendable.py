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
    """A graph as it would be sent: a copy as plain JSON, and a list of what cannot be sent.

    The copy keeps NaN and Infinity.  An upload becomes ``upload/NAME``, any other value that
    cannot be sent ``None``; whatever has a key that is not a string is left out.

    Attributes:
        graph: The graph, as an independent copy.
        problems: Values that cannot be sent, and nodes that no server accepts as such.
        left_out: The inputs, as (node id, name), whose value was replaced with ``None``.
    """

    _source: Mapping[Any, Any]
    graph: dict[str, Any] = attrs.field(factory=dict, init=False)
    problems: list[Problem] = attrs.field(factory=list, init=False)
    left_out: set[tuple[str, str]] = attrs.field(factory=set, init=False)

    def __attrs_post_init__(self) -> None:
        for node_id, node in self._source.items():
            if not isinstance(node_id, str):
                text = f"the node id {brief(node_id)} is not a string"
                self.problems.append(Problem("error", "not_sendable", text, named_by_server=False))
            elif isinstance(node, Mapping):
                self.graph[node_id] = self._node(node_id, node)
            else:
                self.graph[node_id] = _plain(node)[0]
                self._add(node_id, "malformed_node", f"the node is not an object: {brief(node)}")

    def _node(self, node_id: str, node: Mapping[Any, Any]) -> dict[str, Any]:
        copied: dict[str, Any] = {}
        for key, value in node.items():
            if not isinstance(key, str):
                self._add(node_id, "not_sendable", f"the key {brief(key)} is not a string")
            elif key == "inputs" and isinstance(value, Mapping):
                copied[key] = self._inputs(node_id, value)
            else:
                copied[key], fault = _plain(value)
                if fault:
                    self._add(node_id, "not_sendable", f"{brief(key)}: {fault}")
        if "inputs" not in copied:
            self._add(node_id, "malformed_node", "the node has no inputs")
        elif not isinstance(copied["inputs"], dict):
            text = f"inputs is not an object: {brief(copied['inputs'])}"
            self._add(node_id, "malformed_node", text)
        return copied

    def _inputs(self, node_id: str, inputs: Mapping[Any, Any]) -> dict[str, Any]:
        copied: dict[str, Any] = {}
        for name, value in inputs.items():
            if not isinstance(name, str):
                text = f"the input name {brief(name)} is not a string"
                self._add(node_id, "not_sendable", text)
                continue
            if isinstance(value, Upload):  # in a folder, so not among the server's choices
                copied[name] = f"upload/{value.name or 'content'}"
                continue
            copied[name], fault = _plain(value)
            if fault:
                if type(value) is not float:
                    self.left_out.add((node_id, name))
                text, short = f"{name}: {fault}", shown(name, copied[name])
                self._add(node_id, "not_sendable", text, input=name, value=short)
        return copied

    def _add(self, node_id: str, kind: str, text: str, **where: Any) -> None:
        problem = problem_at(self._source, node_id, kind, text, named_by_server=False, **where)
        self.problems.append(problem)


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
