"""Opening of a saved file: give its nodes unique ids, and make them, inner subgraphs first.

A prompt names a node by the ids of the instances around it and its own.  The frontend also wants
the ids of nodes to differ between the definitions of subgraphs, and renumbers nodes if they do not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final, TypeAlias

from attrs import define, field

from ...errors import WorkflowError
from ...values import list_at
from ..graph import shorten
from .era import Era
from .open_file import VIRTUAL, OpenFile, OpenGraph, is_set, make_instance, promote
from .open_nodes import InputBudget, OpenNode, Slot, TooMuch, make_known_node, make_unknown_node
from .saved_file import Port, SavedFile, SavedGraph, SavedNode
from .specs import Catalog
from .widgets import MISSING

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


# -- promoted widgets of before 2026 ----------------------------------------------------

_PREFIX = re.compile(r"\s*([0-9]{1,15})\s*:\s*(?=.)", re.DOTALL)

#: The id of an inner node and a widget, or None and any name.
_Name: TypeAlias = tuple[str | None, str]


@define(eq=False)
class _Entry:
    """A promoted widget: its node, its name and the instance's value."""

    source: str
    name: str
    value: Any
    nested: str | None  # its node, if that is in an inner instance


def migrate(file: OpenFile, graph: OpenGraph, host: OpenNode) -> None:
    """Turn the promoted widgets of an old instance into inputs of its subgraph.

    Files of before 2026 have them in ``properties.proxyWidgets`` of the instance: each entry names
    an inner node and one of its widgets.  The frontend does the same when it opens a file.

    Raises:
        TooMuch: There are too many.
    """
    inner = file.inside(host)
    entries = [] if inner is None else [*_entries(file, inner, host)]
    if inner is None or not entries:
        return
    linked: dict[tuple[str, str], Slot] = {}
    for port, slot in zip(inner.saved.inputs, host.inputs, strict=False):
        target = _first_target(file, inner, port)
        if target is not None:
            linked.setdefault(target, slot)
    names = {slot.name: slot for slot in reversed(host.inputs)}
    shown: dict[str, dict[_Name, Slot] | None] = {}
    primitives: dict[str, list[_Entry]] = {}
    for entry in entries:
        key = entry.source, entry.name
        node = inner.nodes.get(entry.source)
        if entry.source == "-1":
            if entry.name in names:
                _set(names[entry.name], entry.value)
        elif key in linked and not file.era.is_old:
            _set(linked[key], entry.value)
        elif node is None or file.era.is_old or entry.name.startswith("$$"):
            continue  # the frontend of 2025 shows the widget itself
        elif node.type == "PrimitiveNode" and node.definition is None:
            primitives.setdefault(node.id, []).append(entry)
        else:
            if node.id not in shown:
                shown[node.id] = _shown(file, node)
            found = _slot_of(node, entry, shown[node.id])
            if found is not None:
                linked[key] = _add_port(inner, host, entry.name, found.type, [(node, found)])
                _set(linked[key], entry.value)
    for node_id, fed in primitives.items():
        _promote_primitive(inner, host, inner.nodes[node_id], fed)


def _entries(file: OpenFile, inner: OpenGraph, host: OpenNode) -> Iterator[_Entry]:
    given = list_at(host.saved.properties, "proxyWidgets")
    if not all(
        isinstance(each, list) and len(each) in (2, 3) and all(isinstance(t, str) for t in each)
        for each in given
    ):
        return  # the frontend takes all of them or none
    values = list_at(host.saved.values)
    for place, each in enumerate(given):
        source, name = each[:2]
        nested = each[2] if len(each) == 3 else None
        if not _resolves(file, inner, source, name):
            at = 0
            while (found := _PREFIX.match(name, at)) is not None:
                nested, at = found[1], found.end()
            name = name[at:]
        yield _Entry(source, name, values[place] if place < len(values) else MISSING, nested)


def _resolves(file: OpenFile, graph: OpenGraph, source: str, name: str) -> bool:
    """Return whether a node has a widget of this name, at any depth of nested subgraphs."""
    for _ in range(100):
        node = graph.nodes.get(source)
        if node is None:
            return False
        node.budget.spend(1)
        inner = file.inside(node)
        if inner is None:
            return node.widget(name) is not None
        port = inner.ports.get(name)
        target = None if port is None else _first_target(file, inner, port)
        if target is None:
            return False
        graph, (source, name) = inner, target
    return False


def _first_target(file: OpenFile, inner: OpenGraph, port: Port) -> tuple[str, str] | None:
    """Return the inner node and widget that a subgraph's input feeds first, or None."""
    for node, slot in inner.targets(port):
        if file.inside(node) is not None:
            return node.id, slot.name
        if slot.widget is not None and node.widget(slot.widget) is not None:
            return node.id, slot.widget
    return None


def _set(slot: Slot, value: Any) -> None:
    if slot.promoted and is_set(value):
        slot.value = value


def _slot_of(node: OpenNode, entry: _Entry, shown: Mapping[_Name, Slot] | None) -> Slot | None:
    """Return the input of a promoted widget, or None; on an instance, only a promoted input."""
    if shown is not None:
        slot = shown.get((entry.nested, entry.name))
        return slot if slot is not None and slot.promoted else None
    if node.widget(entry.name) is None:
        return None
    node.budget.spend(len(node.inputs) // 10)
    return next((each for each in node.inputs if each.widget == entry.name), None)


def _shown(file: OpenFile, node: OpenNode) -> dict[_Name, Slot] | None:
    """Return the inputs of a subgraph instance by each key that an entry may use, or None.

    A key is (inner node, widget), or (None, name).  Return None for any other node.
    """
    inner = file.inside(node)
    if inner is None:
        return None
    node.budget.spend(len(node.inputs))
    found: dict[_Name, Slot] = {}
    for port, slot in zip(inner.saved.inputs, node.inputs, strict=False):
        target = _first_target(file, inner, port)
        found.setdefault((None, slot.name), slot)
        if target is not None:
            found.setdefault(target, slot)
            found.setdefault((None, target[1]), slot)
    return found


def _promote_primitive(
    inner: OpenGraph, host: OpenNode, node: OpenNode, entries: Sequence[_Entry]
) -> None:
    """Replace a promoted PrimitiveNode with an input of the subgraph, if all types fit."""
    targets = inner.fed_by(node.id)
    host.budget.spend(len(targets))
    kind = node.outputs[0] if node.outputs else "*"
    if (
        not targets
        or len({entry.name for entry in entries}) != 1
        or any(kind not in ("*", each.type) and each.type != "*" for _, each in targets)
    ):
        return
    title = node.saved.title
    name = title if title and title != "PrimitiveNode" else entries[0].name
    slot = _add_port(inner, host, name, kind, targets)
    value = next((each.value for each in entries if is_set(each.value)), MISSING)
    if value is MISSING:
        saved = node.saved.values
        value = saved[0] if isinstance(saved, list) and saved else MISSING
    _set(slot, value)


def _add_port(
    inner: OpenGraph, host: OpenNode, name: str, kind: str, targets: Sequence[tuple[OpenNode, Slot]]
) -> Slot:
    """Add an input to a subgraph and all its instances; return the input of ``host``."""
    host.budget.spend(len(inner.instances) + 1)
    place = len(inner.saved.inputs)
    port = inner.add_port(name, kind)
    for node, slot in targets:
        inner.connect(port, place, node, slot)
    for one in inner.instances:
        one.inputs.append(Slot(port.name, kind))
        promote(inner, port, one.inputs[-1])
    return host.inputs[-1]
