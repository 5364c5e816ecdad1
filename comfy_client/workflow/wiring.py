"""Links to a node, and the removal of a node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from ..errors import WorkflowError
from .graph import brief, describe, links_of

#: A node and an input of it.
Place: TypeAlias = tuple[str, str]


def takers(graph: Mapping[str, Any], node_id: str) -> dict[Place, int]:
    """Return the inputs that are linked to a node, each with the slot that it uses."""
    return {
        (taker, name): slot
        for taker in graph
        for name, source, slot in links_of(graph, taker)
        if source == node_id
    }


def takers_of_each(graph: Mapping[str, Any]) -> dict[tuple[str, int], list[Place]]:
    """Return the inputs that are linked to each output (node and slot)."""
    found: dict[tuple[str, int], list[Place]] = {}
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
