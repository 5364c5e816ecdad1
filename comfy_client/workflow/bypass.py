"""Links to a node, its removal, and its bypass.

In a bypass its sources feed its users directly, as in the frontend.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from ..errors import WorkflowError
from ..nearest import nearest
from .definition_source import Definitions, as_mapping
from .graph import as_link, brief, class_of, describe, inputs_of, links_of, listing
from .input_specs import Autogrow, InputSpec, OutputSpec, outputs_of, types_of, walk

#: A node and an input of it.
NodeInput: TypeAlias = tuple[str, str]


def takers(graph: Mapping[str, Any], node_id: str) -> dict[NodeInput, int]:
    """Return the inputs that are linked to a node, each with the slot that it uses."""
    return {
        (taker, name): slot
        for taker in graph
        for name, source, slot in links_of(graph, taker)
        if source == node_id
    }


def takers_of_each(graph: Mapping[str, Any]) -> dict[tuple[str, int], list[NodeInput]]:
    """Return the inputs that are linked to each output (node and slot)."""
    found: dict[tuple[str, int], list[NodeInput]] = {}
    for taker in graph:
        for name, source, slot in links_of(graph, taker):
            found.setdefault((source, slot), []).append((taker, name))
    return found


def remove(graph: dict[str, Any], node_id: str, *, force: bool = False) -> None:
    """Remove a node; with ``force`` also the inputs that are linked to it.

    Raises:
        WorkflowError: Without ``force``, other nodes are linked to it.
    """
    linked = {place: slot for place, slot in takers(graph, node_id).items() if place[0] != node_id}
    if linked and not force:
        users = [f"{describe(graph, taker)}, input {brief(name)}" for taker, name in linked]
        more = f"; ... ({len(users)} in all)" if len(users) > 8 else ""
        raise WorkflowError(
            f"{describe(graph, node_id)} is used by {'; '.join(users[:8])}{more}: "
            "bypass it, link these to another node first, or remove it with force=True, "
            "which leaves these inputs without a value",
            candidates=tuple(f"{taker}.{name}" for taker, name in linked),
        )
    for taker, name in linked:
        del graph[taker]["inputs"][name]
    del graph[node_id]


#: Name and type of an input.
_Slot: TypeAlias = tuple[str, str]


def bypass(graph: dict[str, Any], node_id: str, source: Definitions) -> list[NodeInput]:
    """Remove a node, and link its users to the node's own sources.

    The frontend does the same for a node in the mode Bypass.

    Returns:
        The inputs of other nodes that were removed, since no link could replace theirs.

    Raises:
        WorkflowError: The server has no such class.
    """
    linked = {place: slot for place, slot in takers(graph, node_id).items() if place[0] != node_id}
    users = {taker: class_of(graph, taker) or "" for taker, _ in linked}
    definitions = as_mapping(source, {class_of(graph, node_id) or "", *users.values()})
    own = _definition(graph, node_id, definitions)
    slots = list(_types(own, inputs_of(graph, node_id)).items())
    firsts: dict[str, str] = {}
    for name, kind in slots:
        firsts.setdefault(kind, name)
    outputs = outputs_of(own)
    wanted = {
        taker: _types(definitions.get(name, {}), inputs_of(graph, taker))
        for taker, name in users.items()
    }
    instead: dict[NodeInput, list[Any] | None] = {}
    for (taker, name), slot in linked.items():
        given = outputs[slot] if 0 <= slot < len(outputs) else OutputSpec("", "*")
        kind = wanted[taker].get(name) or given.kind
        same = slots[slot] if 0 <= slot < len(slots) else None
        found = _passing(same or slots[0], firsts, given.kind, kind) if slots else None
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
            f"{describe(graph, node_id)}: the definitions lack this class, "
            "so the types of its inputs are unknown"
            + (f"; nearest: {listing(near)}" if near else ""),
            candidates=near,
        )
    return found


def _types(definition: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, str]:
    """Return the types of a node's inputs in the frontend's order: those without a widget first.

    An empty type stands for the type of the linked output.
    """
    sockets: dict[str, str] = {}
    widgets: dict[str, str] = {}
    for one in walk(definition, given):
        if isinstance(one, InputSpec):
            (widgets if one.is_widget else sockets)[one.name] = _kind(one)
        elif isinstance(one, Autogrow):
            sockets |= {name: _kind(one.part) for name in given if one.has(name)}
    return sockets | widgets


def _kind(spec: InputSpec) -> str:
    if spec.template:
        return ""
    return spec.kind if isinstance(spec.kind, str) else "COMBO"


def _passing(same: _Slot, firsts: Mapping[str, str], given: str, wanted: str) -> str | None:
    """Return the name of the input that a bypassed node passes to an output; None if no input fits.

    Args:
        same: The input in the position of the output, or the first one.
        firsts: The first input of each type.
        given: The type of the output.
        wanted: The type of the input that is linked to it.
    """

    def fits(kind: str) -> bool:
        return _match(kind, given) and _match(kind, wanted)

    if wanted in ("*", "") or fits(same[1]):
        return same[0]
    return firsts.get(wanted) or next((name for kind, name in firsts.items() if fits(kind)), None)


def _match(one: str, other: str) -> bool:
    """Return whether the frontend can link two types; unions of types must share one."""
    return bool({"*", ""} & {one, other}) or not types_of(one.lower()).isdisjoint(
        types_of(other.lower())
    )
