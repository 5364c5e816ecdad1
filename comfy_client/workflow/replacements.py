"""The replacement of removed node classes, as newer servers do it.

Servers since 0.14 apply ``GET /node_replacements`` to each prompt before they check it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import attrs

from .graph import as_link, brief, class_of, inputs_of
from .problems import Problem, problem_at


@attrs.frozen(eq=False)
class Replaced:
    """A graph in which classes are replaced as the server replaces them.

    Attributes:
        graph: The graph; the nodes keep their ids.
        notes: A remark on each replaced node, by its id.
        classes: The classes that replaced others.
        newer: By class that the server still has, the class that replaces it on newer servers.
        absent: By node id, a missing input without which the server cannot replace the node; it
            answers 500 to the whole prompt.
    """

    graph: Mapping[str, Any]
    notes: Mapping[str, str] = attrs.field(factory=dict)
    classes: Collection[str] = ()
    newer: Mapping[str, str] = attrs.field(factory=dict)
    absent: Mapping[str, str] = attrs.field(factory=dict)


def replace_classes(
    graph: Mapping[str, Any], missing: Collection[str], replacements: Mapping[str, Any]
) -> Replaced:
    """Return a graph in which classes that the server lacks are replaced.

    Args:
        graph: A graph as JSON carries it, which is not changed.
        missing: The classes that the server lacks.
        replacements: The answer of ``GET /node_replacements``.
    """
    nodes = {node_id: class_of(graph, node_id) for node_id in graph}
    listed = {name: _rule(replacements.get(name)) for name in {*nodes.values()} if name}
    rules = {name: rule for name, rule in listed.items() if rule is not None}
    newer = {name: rule["new_node_id"] for name, rule in rules.items() if name not in missing}
    wanted = {
        node_id: rules[name] for node_id, name in nodes.items() if name in missing and name in rules
    }
    if not wanted:
        return Replaced(graph, newer=newer)
    made = {
        node_id: _replaced(graph, node_id, wanted[node_id]) if node_id in wanted else node
        for node_id, node in graph.items()
    }
    for node_id, node in made.items():
        if isinstance(node, Mapping) and isinstance(node.get("inputs"), Mapping):
            inputs = {name: _moved(value, wanted) for name, value in node["inputs"].items()}
            made[node_id] = {**node, "inputs": inputs}
    lacking = {node_id: _absent(graph, node_id, rule) for node_id, rule in wanted.items()}
    absent = {node_id: name for node_id, name in lacking.items() if name is not None}
    notes = {
        node_id: f"the server has no class {brief(nodes[node_id])} any more, "
        f"and puts {brief(rule['new_node_id'])} in its place"
        for node_id, rule in wanted.items()
        if node_id not in absent
    }
    return Replaced(made, notes, {rule["new_node_id"] for rule in wanted.values()}, newer, absent)


def not_replaced(graph: Mapping[str, Any], replaced: Replaced) -> Iterator[Problem]:
    """Yield an error for each node that the server fails to replace.

    Args:
        graph: The graph before the server replaces classes.
        replaced: The graph after that.
    """
    for node_id, name in replaced.absent.items():
        old, new = class_of(graph, node_id), class_of(replaced.graph, node_id)
        text = (
            f"input {brief(name)} is missing: the server has no class {brief(old)} any more, and "
            f"cannot put {brief(new)} in its place without it"
        )
        yield problem_at(graph, node_id, "required_input_missing", text, input=name)


def _rule(listed: object) -> Mapping[str, Any] | None:
    """Return the first replacement in a list, which the server applies, or None if malformed."""
    first = listed[0] if isinstance(listed, (list, tuple)) and listed else None
    rule = getattr(first, "raw", first)  # unwrap a NodeReplacement
    is_rule = isinstance(rule, Mapping) and isinstance(rule.get("new_node_id"), str)
    return rule if is_rule else None


def _replaced(graph: Mapping[str, Any], node_id: str, rule: Mapping[str, Any]) -> dict[str, Any]:
    old = inputs_of(graph, node_id)
    inputs = {}
    for entry in _entries(rule, "input_mapping"):
        new_id, old_id = entry.get("new_id"), entry.get("old_id")
        if not isinstance(new_id, str):
            continue
        if "set_value" in entry:
            inputs[new_id] = entry["set_value"]
        elif isinstance(old_id, str) and old_id in old:
            inputs[new_id] = old[old_id]
    return {**graph[node_id], "class_type": rule["new_node_id"], "inputs": inputs}


def _absent(graph: Mapping[str, Any], node_id: str, rule: Mapping[str, Any]) -> str | None:
    """Return the first input that a replacement needs and the node lacks, or None."""
    old = inputs_of(graph, node_id)
    for entry in _entries(rule, "input_mapping"):
        name = entry.get("old_id")
        if "set_value" not in entry and isinstance(name, str) and name not in old:
            return name
    return None


def _moved(value: Any, wanted: Mapping[str, Mapping[str, Any]]) -> Any:
    """Return a value, with the new slot if it is a link to a replaced node."""
    link = as_link(value)
    if link is None or link[0] not in wanted:
        return value
    for entry in _entries(wanted[link[0]], "output_mapping"):
        new = entry.get("new_idx")
        if entry.get("old_idx") == link[1] and type(new) is int:
            return [link[0], new]
    return value


def _entries(rule: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    found = rule.get(name)
    listed = found if isinstance(found, (list, tuple)) else ()
    return [entry for entry in listed if isinstance(entry, Mapping)]
