"""Python code that builds a workflow with :class:`Graph`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import WorkflowError
from ..values import MAX_LEVELS, is_shallow
from .graph import as_link, describe, free_id, inputs_of, json_graph
from .literals import call, is_identifier, literal, packed, quoted, variable

#: Names used by the code itself or likely used around it.
_TAKEN = ("api", "g", "graph", "result", "wf", "workflow")
#: Keywords of Graph.node() that are not inputs.
RESERVED = frozenset({"_id", "_title", "_meta", "_extra", "_check"})


def to_code(graph: Mapping[str, Any]) -> str:
    """Return Python code that builds a graph: one statement per node, sources first.

    Raises:
        WorkflowError: A value that JSON cannot represent, or that is nested too deeply.
    """
    graph = json_graph(graph, links=False)
    for node_id, node in graph.items():
        if not is_shallow(node):
            what = f"{describe(graph, node_id)}: a value has more than {MAX_LEVELS} levels"
            raise WorkflowError(f"{what}, which Python code cannot hold")
    try:
        return "\n".join(_CodeWriter(graph).lines())
    except ValueError as exc:  # an int with too many digits
        raise WorkflowError(f"the workflow cannot be written as Python code: {exc}") from None


class _CodeWriter:
    """Writer of the code for one graph."""

    def __init__(self, graph: Mapping[str, Any]) -> None:
        self._graph = graph
        self._order = _sources_first(graph)
        self._uses: dict[str, set[int]] = defaultdict(set)
        done: set[str] = set()
        for node_id in self._order:
            for source, slot in _written_links(graph, node_id, done):
                self._uses[source].add(slot)
            done.add(node_id)
        self._variables: dict[str, str] = {}  # for the nodes written so far
        self._numbers: dict[str, int] = dict.fromkeys(_TAKEN, 1)

    def lines(self) -> Iterator[str]:
        yield from ("from comfy_client import Graph", "")
        yield "g = Graph()  # Graph(api) also checks each node against the server's definitions"
        yield ""
        written: dict[str, None] = {}
        last = 0
        for node_id in self._order:
            last = free_id(written, last)
            is_next = str(last) == node_id
            yield self._statement(node_id, with_id=not is_next)
            written[node_id] = None
            last -= not is_next
        order: list[str] = []
        if list(self._graph) != self._order:
            order = [f"order={packed(self._graph, 4)}"]
        yield from ("", call("workflow = g.workflow", order), "")

    def _statement(self, node_id: str, *, with_id: bool) -> str:
        node = self._graph[node_id]
        class_type = node["class_type"]
        named = is_identifier(class_type) and class_type not in ("choices", "node", "workflow")
        head = f"g.{class_type}" if named else f"g[{quoted(class_type)}]"
        arguments = self._inputs(node["inputs"])
        if with_id:
            arguments.append(f"_id={quoted(node_id)}")
        extra = {key: one for key, one in node.items() if key not in ("class_type", "inputs")}
        meta = extra.get("_meta")
        if isinstance(meta, dict):
            del extra["_meta"]
            if next(iter(meta), None) == "title" and isinstance(meta["title"], str):
                arguments.append(f"_title={literal(meta['title'], 11, 4)}")
                meta = {key: value for key, value in meta.items() if key != "title"}
                arguments += [f"_meta={literal(meta, 10, 4)}"] if meta else []
            else:
                arguments.append(f"_meta={literal(meta, 10, 4)}")
        if extra:
            arguments.append(f"_extra={literal(extra, 11, 4)}")
        name = self._name(node_id) if node_id in self._uses else ""
        return call(f"{name} = {head}" if name else head, arguments)

    def _inputs(self, inputs: Mapping[str, Any]) -> list[str]:
        """Return a node's inputs as keyword arguments, in order; put odd names into a dict."""
        if not RESERVED.isdisjoint(inputs):  # in a leading dict, which allows any name
            items = [f"{quoted(name)}: {self._value(one, 8)}" for name, one in inputs.items()]
            return ["{" + ", ".join(items) + "}"]
        arguments: list[str] = []
        others: list[str] = []
        for name, value in inputs.items():
            if not is_identifier(name):
                others.append(f"{quoted(name)}: {self._value(value, 8 + len(name))}")
                continue
            if others:
                arguments.append("**{" + ", ".join(others) + "}")
                others = []
            arguments.append(f"{name}={self._value(value, 5 + len(name))}")
        return [*arguments, "**{" + ", ".join(others) + "}"] if others else arguments

    def _value(self, value: Any, column: int) -> str:
        link = _as_written_link(value)
        if link and link[0] in self._variables:
            name = self._variables[link[0]]
            return name if self._uses[link[0]] == {0} else f"{name}[{link[1]}]"
        return literal(value, column, 4)

    def _name(self, node_id: str) -> str:
        """Choose an unused variable name for a node, made from its title or its class."""
        node = self._graph[node_id]
        meta = node.get("_meta")
        title = meta.get("title") if isinstance(meta, dict) else None
        base = variable(title) if isinstance(title, str) else ""
        base = base or variable(node["class_type"]) or "node"
        number = self._numbers.get(base, 0) + 1
        while number > 1 and f"{base}_{number}" in self._numbers:  # taken
            number += 1
        self._numbers[base] = number
        name = base if number == 1 else f"{base}_{number}"
        self._numbers.setdefault(name, 1)
        self._variables[node_id] = name
        return name


def _as_written_link(value: Any) -> tuple[str, int] | None:
    """Return a link that ``node[slot]`` reproduces exactly, or None."""
    link = as_link(value)
    return link if link and isinstance(value[0], str) and link[1] >= 0 else None


def _written_links(
    graph: Mapping[str, Any], node_id: str, done: set[str]
) -> Iterator[tuple[str, int]]:
    for value in inputs_of(graph, node_id).values():
        link = _as_written_link(value)
        if link and link[0] in done:
            yield link


def _sources_first(graph: Mapping[str, Any]) -> list[str]:
    """Return the ids of all nodes, each after its sources, except where the links form a cycle."""
    order: list[str] = []
    seen: set[str] = set()
    for first in graph:
        ahead = [(first, _sources(graph, first))] if first not in seen else []
        seen.add(first)
        while ahead:
            node_id, sources = ahead[-1]
            source = next((one for one in sources if one not in seen), None)
            if source is None:
                order.append(node_id)
                ahead.pop()
            else:
                seen.add(source)
                ahead.append((source, _sources(graph, source)))
    return order


def _sources(graph: Mapping[str, Any], node_id: str) -> Iterator[str]:
    for value in inputs_of(graph, node_id).values():
        link = _as_written_link(value)
        if link and link[0] in graph:
            yield link[0]
