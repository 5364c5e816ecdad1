"""The cached outputs of nodes, and the keys under which later runs find them."""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from ..workflow.validate import is_link
from .dynamic_prompt import DynamicPrompt, inputs_in, linked_inputs
from .nodes import NodeRegistry


@attrs.frozen
class Cached:
    """The cached outputs of a node, and the output that the client was shown, if any."""

    ui: dict[str, Any] | None
    outputs: list[Any]


@attrs.define
class NodeCache:
    """The cache of one graph, which is a prompt or the nodes that one node expanded into."""

    keys: dict[str, str] = attrs.field(factory=dict)  # by node id; see Keys
    outputs: dict[str, Cached] = attrs.field(factory=dict)  # by key
    objects: dict[tuple[str, str], Any] = attrs.field(factory=dict)  # by id and class
    inner: dict[tuple[str, str], NodeCache] = attrs.field(factory=dict)  # by id and class, too

    def retain(self, graph: DynamicPrompt, keys: dict[str, str]) -> None:
        """Set the cache keys of a graph's nodes; drop what is cached for other keys or nodes."""
        self.keys = keys
        used = set(keys.values())
        names = {(node_id, graph.get_node(node_id)["class_type"]) for node_id in keys}
        self.outputs = {key: kept for key, kept in self.outputs.items() if key in used}
        self.objects = {name: node for name, node in self.objects.items() if name in names}
        self.inner = {name: store for name, store in self.inner.items() if name in names}

    def node_ids(self) -> Iterator[str]:
        """Yield the ids of the nodes of this graph and of all graphs that they expanded into."""
        yield from self.keys
        for store in self.inner.values():
            yield from store.node_ids()


class CacheKeys:
    """The cache keys of a prompt's nodes: nodes with equal keys have equal outputs.

    A key is made of class, inputs, ``IS_CHANGED``, and the same for all sources.  Two equal sources
    differ from a single one: whether inputs come from the same node counts, too.
    """

    def __init__(
        self, graph: DynamicPrompt, nodes: NodeRegistry, changed: Callable[[str], Any]
    ) -> None:
        self._graph = graph
        self._nodes = nodes
        self._changed = changed
        self._known: dict[str, str] = {}

    def of(self, node_id: str) -> str:
        """Return the cache key of a node."""
        chain = {node_id: None}  # each node is the only source of the one before
        while node_id not in self._known:
            sources = list(dict.fromkeys(self._sources(node_id)))
            if len(sources) != 1 or sources[0] in chain:
                break
            [node_id] = sources
            chain[node_id] = None
        *users, base = chain
        if base not in self._known:
            self._known[base] = self._with_all_sources(base)
        key = self._known[base]
        for user, source in zip(reversed(users), [base, *reversed(users)], strict=False):
            key = self._known[user] = _digest([self._of_itself(user, {source: 0}), key])
        return key

    def _with_all_sources(self, node_id: str) -> str:
        order: dict[str, int] = {}
        waiting = self._sources(node_id)[::-1]
        while waiting:
            source = waiting.pop()
            if source not in order:
                order[source] = len(order)
                waiting += self._sources(source)[::-1]
        return _digest([self._of_itself(one, order) for one in (node_id, *order)])

    def _of_itself(self, node_id: str, order: Mapping[str, int]) -> object:
        graph, nodes = self._graph, self._nodes
        if not graph.has_node(node_id):
            return _nothing_like_it()
        node = graph.get_node(node_id)
        class_type = node["class_type"]
        hidden = nodes.definition(class_type)["input"].get("hidden", {})
        personal = "UNIQUE_ID" in hidden.values()
        cls = nodes.classes[class_type]
        personal = personal or bool(getattr(cls, "NOT_IDEMPOTENT", False))
        inputs = [
            (name, "link", order[value[0]], _comparable(value[1]))
            if is_link(value)
            else (name, _comparable(value))
            for name, value in sorted(inputs_in(node).items())
        ]
        changed = _comparable(self._changed(node_id))
        return [class_type, changed, node_id if personal else None, inputs]

    def _sources(self, node_id: str) -> list[str]:
        graph = self._graph
        links = sorted(linked_inputs(graph, node_id)) if graph.has_node(node_id) else ()
        return [source for _, source in links]


def _comparable(value: Any) -> object:
    """Return a JSON value that is equal for equal inputs; NaN and other objects equal nothing."""
    if isinstance(value, dict):
        return {str(key): _comparable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_comparable(one) for one in value]
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    if isinstance(value, float):
        return _nothing_like_it() if math.isnan(value) else value
    return value if value is None or isinstance(value, str | int) else _nothing_like_it()


def _nothing_like_it() -> str:
    return uuid.uuid4().hex


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
