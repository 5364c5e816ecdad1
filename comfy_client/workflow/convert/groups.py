"""Groups of a graph, and the nodes that lie in them, as the frontend measures it."""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any, Final

from ...values import number
from .open_file import OpenGraph
from .open_nodes import InputBudget, OpenNode
from .patterns import Unclear
from .saved_file import mapping

_TITLE_HEIGHT: Final = 30.0
#: A collapsed node is as wide as its title in the browser's font: between these.
_NARROW, _WIDE = 60.0, 500.0


def members(
    graph: OpenGraph, wanted: Callable[[Set[str], str], bool], budget: InputBudget
) -> Set[str]:
    """Return the ids of the nodes in all groups that are wanted, by their nodes and their title.

    Raises:
        Unclear: A node lies at the border of a group, and only the browser knows its width.
    """
    found: set[str] = set()
    groups = graph.saved.raw.get("groups")
    for each in groups if isinstance(groups, list) else ():
        budget.spend(len(graph.nodes))
        group = mapping(each)
        bounds = _numbers(group.get("bounding"), 4)
        inside = {node.id for node in graph.nodes.values() if _is_inside(node, bounds)}
        title = group.get("title")
        if wanted(inside, title if isinstance(title, str) else ""):
            found |= inside
    return found


def _is_inside(node: OpenNode, bounds: list[float]) -> bool:
    """Return whether the middle of a node is in a group."""
    raw = node.saved.raw
    (left, top), (width, height) = _numbers(raw.get("pos"), 2), _numbers(raw.get("size"), 2)
    collapsed = bool(mapping(raw.get("flags")).get("collapsed"))
    widths = (_NARROW, _WIDE) if collapsed else (width, width)
    full = _TITLE_HEIGHT + (0 if collapsed else height)
    middle = top - _TITLE_HEIGHT + full / 2
    narrow, wide = (
        bounds[0] <= left + each / 2 < bounds[0] + bounds[2]
        and bounds[1] <= middle < bounds[1] + bounds[3]
        for each in widths
    )
    if narrow != wide:
        raise Unclear("it is restricted to groups, and a collapsed node lies at a group's border")
    return narrow


def _numbers(value: Any, count: int) -> list[float]:
    """Read coordinates, from a list or from an object with the indexes as names."""
    pairs = mapping(value)
    items = value if isinstance(value, list) else [pairs.get(str(at)) for at in range(count)]
    found = [float(number(each) or 0) for each in items[:count]]
    return found + [0.0] * (count - len(found))
