"""Unique ids for the nodes of a whole file, as the frontend makes them on opening.

A prompt names a node by the ids of the instances around it and its own.  The frontend also wants
the ids of nodes to differ between the definitions of subgraphs, and renumbers nodes if they do not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attrs import define, field

from .era import Era
from .saved_file import SavedFile, SavedGraph, SavedNode


@define(eq=False)
class _Ids:
    """The ids in use, and the highest number among them."""

    last: int
    taken: set[str] = field(factory=set)

    def take(self, key: str) -> None:
        self.taken.add(key)
        if key.isascii() and key.isdecimal() and len(key) < 16:
            self.last = max(self.last, int(key))

    def fresh(self) -> str:
        self.last += 1
        while str(self.last) in self.taken:
            self.last += 1
        self.taken.add(str(self.last))
        return str(self.last)


def number_nodes(saved_file: SavedFile, era: Era) -> None:
    """Give a new id to each node whose id is taken by an earlier node.

    The frontend of 2025 lets the definitions of subgraphs have the same ids.
    """
    ids = _Ids(saved_file.last_node_id)
    # The frontend reserves these ids, but does not count them for the highest number.
    ids.taken.update(node.id for node in saved_file.root.nodes)
    if not era.is_old:
        _number_subgraphs(saved_file, ids)
    seen: set[str] = set()
    for node in saved_file.root.nodes:
        if node.id in seen:
            node.id = ids.fresh()
        seen.add(node.id)


def _number_subgraphs(saved_file: SavedFile, ids: _Ids) -> None:
    renamed: dict[str, dict[str, str]] = {}
    for graph in saved_file.subgraphs.values():
        changed = {}
        for node in graph.nodes:
            if node.id in ids.taken:
                changed[node.id] = node.id = ids.fresh()
            else:
                ids.take(node.id)
        if changed:
            renamed[graph.id] = changed
    for graph in saved_file.subgraphs.values():
        _relink(graph, renamed.get(graph.id, {}))
    for graph in (*saved_file.subgraphs.values(), saved_file.root):
        _follow(graph.nodes, renamed)


def _relink(graph: SavedGraph, changed: dict[str, str]) -> None:
    if changed:
        for link in graph.links.values():
            link.source = changed.get(link.source, link.source)
            link.target = changed.get(link.target, link.target)


def _follow(nodes: Iterable[SavedNode], renamed: dict[str, dict[str, str]]) -> None:
    """Update the ids of inner nodes in the lists of promoted widgets."""
    for node in nodes:
        changed = renamed.get(node.type)
        entries = node.properties.get("proxyWidgets")
        if changed and isinstance(entries, list):
            node.properties = {
                **node.properties,
                "proxyWidgets": [_entry(each, changed) for each in entries],
            }


def _entry(entry: Any, changed: dict[str, str]) -> Any:
    if isinstance(entry, list) and entry:
        return [changed.get(str(entry[0]), entry[0]), *entry[1:]]
    return entry
