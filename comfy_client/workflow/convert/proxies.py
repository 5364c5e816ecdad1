"""Promoted widgets as saved before 2026: ``properties.proxyWidgets`` of a subgraph instance.

Each entry names an inner node and one of its widgets.  On opening a file, the frontend turns them
into inputs of the subgraph, and so does this module.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from attrs import define

from ...values import list_at
from .open_file import OpenFile, OpenGraph, is_set, promote
from .open_nodes import OpenNode, Slot
from .saved_file import Port
from .widgets import MISSING

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
