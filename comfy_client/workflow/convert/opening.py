"""Opening of a saved file: give its nodes unique ids, and make them, inner subgraphs first.

A prompt names a node by the ids of the instances around it and its own.  The frontend also wants
the ids of nodes to differ between the definitions of subgraphs, and renumbers nodes if they do not.
"""

from __future__ import annotations

from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final

from attrs import define, field

from ...errors import WorkflowError
from ..graph import shorten
from .era import Era
from .open_file import VIRTUAL, OpenFile, OpenGraph, make_instance
from .open_nodes import InputBudget, OpenNode, Slot, TooMuch, make_known_node, make_unknown_node
from .proxies import migrate
from .saved_file import SavedFile, SavedGraph, SavedNode
from .specs import Catalog

_TITLES: Final = {"PrimitiveNode": "Primitive", "MarkdownNote": "Markdown Note"}


def open_file(saved_file: SavedFile, catalog: Catalog) -> OpenFile:
    """Make all nodes with the links and values of the file.

    Raises:
        WorkflowError: A subgraph contains itself, or a node has too many inputs.
    """
    graphs = {key: OpenGraph(one) for key, one in saved_file.subgraphs.items()}
    file = OpenFile(saved_file, catalog.era, OpenGraph(saved_file.root), graphs)
    budget = InputBudget()
    for key in _inner_first(saved_file):
        _open_graph(file, file.subgraphs[key], catalog, budget)
    _open_graph(file, file.root, catalog, budget)
    return file


def _inner_first(saved_file: SavedFile) -> list[str]:
    """Return the ids of all subgraphs, inner ones first."""
    uses = {
        key: [node.type for node in graph.nodes if node.type in saved_file.subgraphs]
        for key, graph in saved_file.subgraphs.items()
    }
    try:
        return [*TopologicalSorter(uses).static_order()]
    except CycleError as exc:
        names = [shorten(saved_file.subgraphs[key].name, 60) for key in exc.args[1][:8]]
        raise WorkflowError(f"a subgraph contains itself: {' in '.join(names)}") from None


def _open_graph(file: OpenFile, graph: OpenGraph, catalog: Catalog, budget: InputBudget) -> None:
    for each in graph.saved.nodes:
        try:
            graph.nodes[each.id] = _open_node(file, each, catalog, budget)
        except TooMuch:
            raise _too_much(each) from None
    _repair_links(graph)
    graph.prune_ports(lambda node, slot: bool(file.inside(node) or node.widget(slot.widget)))
    for node in graph.nodes.values():
        try:
            migrate(file, graph, node)
        except TooMuch:
            raise _too_much(node.saved) from None


def _too_much(saved: SavedNode) -> WorkflowError:
    where = f"node {shorten(saved.id, 60)} ({shorten(saved.type, 60)})"
    return WorkflowError(f"{where} has too many inputs, or the whole workflow does")


def _open_node(file: OpenFile, saved: SavedNode, catalog: Catalog, budget: InputBudget) -> OpenNode:
    inner = file.subgraphs.get(saved.type)
    if inner is not None:
        return make_instance(inner, saved, budget)
    if catalog.has(saved.type):
        return make_known_node(saved, catalog, budget)
    node = make_unknown_node(saved, budget)
    if saved.type in VIRTUAL:
        node.title = saved.title or _TITLES.get(saved.type, saved.type)
        if saved.type == "Reroute" and not node.inputs:
            node.inputs = [Slot("", "*")]
    return node


def _repair_links(graph: OpenGraph) -> None:
    """Make inputs agree with the list of links: drop links not in it, restore those only in it."""
    for node in graph.nodes.values():
        for slot in node.inputs:
            link = graph.link_of(slot)
            if link is None or link.target != node.id:
                slot.link = None
            else:
                graph.ends[link.id] = node, slot
    slots: dict[str, dict[str, Slot]] = {}  # by node and name, for nodes with such links
    tried: set[tuple[str, int]] = set()
    for link in graph.saved.links.values():
        target, at = graph.nodes.get(link.target), (link.target, link.target_slot)
        if link.id in graph.ends or target is None or link.target_slot < 0 or at in tried:
            continue
        tried.add(at)
        saved = target.saved.inputs[link.target_slot : link.target_slot + 1]
        if target.id not in slots:
            slots[target.id] = {each.name: each for each in reversed(target.inputs)}
        is_open = bool(saved) and saved[0].link is None
        found = slots[target.id].get(saved[0].name) if is_open else None
        if found is not None and found.link is None:
            found.link = link.id
            graph.ends[link.id] = target, found


# -- unique ids -------------------------------------------------------------------------


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
