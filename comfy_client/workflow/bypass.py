"""Take a node out of a graph, so that what it was given passes it by, as on the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from ..errors import WorkflowError
from ..nearest import nearest
from .definitions import Definitions, as_mapping
from .graph import as_link, class_of, describe, inputs_of, listing
from .inputs import Autogrow, InputSpec, OutputSpec, outputs_of, types_of, walk
from .wiring import Place, takers

#: Name and type of an input.
_Slot: TypeAlias = tuple[str, str]


def bypass(graph: dict[str, Any], node_id: str, source: Definitions) -> list[Place]:
    """Take a node out, and link those that took from it to what it took itself.

    As the page does when it sends a node in the mode Bypass.

    Returns:
        The inputs that are gone, since nothing that the node took has their type.

    Raises:
        WorkflowError: The server has no such class.
    """
    linked = takers(graph, node_id)
    classes = {class_of(graph, key) or "" for key in (node_id, *(taker for taker, _ in linked))}
    definitions = as_mapping(source, classes)
    own = _definition(graph, node_id, definitions)
    slots = _slots(own, inputs_of(graph, node_id))
    outputs = outputs_of(own)
    instead: dict[Place, list[Any] | None] = {}
    for (taker, name), slot in linked.items():
        if taker == node_id:
            continue
        given = outputs[slot] if slot < len(outputs) else OutputSpec("", "*")
        definition = definitions.get(class_of(graph, taker) or "", {})
        wanted = _type_of(definition, inputs_of(graph, taker), name) or given.kind
        found = _passing(slots, slot, given.kind, wanted)
        link = as_link(inputs_of(graph, node_id).get(found)) if found else None
        is_good = link is not None and link[0] in graph and link[0] not in (node_id, taker)
        instead[taker, name] = [*link] if link and is_good else None
    for (taker, name), value in instead.items():
        if value is None:
            del graph[taker]["inputs"][name]
        else:
            graph[taker]["inputs"][name] = value
    del graph[node_id]
    return [place for place, value in instead.items() if value is None]


def _definition(
    graph: Mapping[str, Any], node_id: str, definitions: Mapping[str, Any]
) -> Mapping[str, Any]:
    name = class_of(graph, node_id) or ""
    found = definitions.get(name)
    if not isinstance(found, Mapping):
        near = nearest(name, definitions)
        raise WorkflowError(
            f"{describe(graph, node_id)}: the definitions have no such class, "
            "so nobody knows the types of its inputs"
            + (f"; nearest: {listing(near)}" if near else ""),
            candidates=near,
        )
    return found


def _slots(definition: Mapping[str, Any], given: Mapping[str, Any]) -> list[_Slot]:
    """Name and type of each input in the order of the page: those without a widget come first."""
    sockets: list[_Slot] = []
    widgets: list[_Slot] = []
    for one in walk(definition, given):
        if isinstance(one, InputSpec):
            kind = one.kind if isinstance(one.kind, str) else "COMBO"
            (widgets if one.is_widget else sockets).append((one.name, kind))
        elif isinstance(one, Autogrow):
            kind = one.part.kind if isinstance(one.part.kind, str) else "COMBO"
            sockets += [(name, kind) for name in given if one.has(name)]
    return [*sockets, *widgets]


def _type_of(definition: Mapping[str, Any], given: Mapping[str, Any], name: str) -> str:
    """The type of an input; empty: unknown, or that of what is linked to it."""
    for one in walk(definition, given):
        if isinstance(one, InputSpec) and one.name == name and one.template:
            return ""
    return next((kind for slot, kind in _slots(definition, given) if slot == name), "")


def _passing(slots: list[_Slot], slot: int, given: str, wanted: str) -> str | None:
    """The input whose link takes the place of an output; ``None``: there is none."""
    if wanted in ("*", ""):
        return slots[slot if slot < len(slots) else 0][0] if slots else None

    def fits(kind: str) -> bool:
        return _match(kind, given) and _match(kind, wanted)

    if slot < len(slots) and fits(slots[slot][1]):
        return slots[slot][0]
    exact = (name for name, kind in slots if kind == wanted)
    return next(exact, None) or next((name for name, kind in slots if fits(kind)), None)


def _match(one: str, other: str) -> bool:
    """Whether the page links two types: unions such as ``"INT,FLOAT"`` must overlap."""
    return bool({"*", ""} & {one, other}) or not types_of(one.lower()).isdisjoint(
        types_of(other.lower())
    )
