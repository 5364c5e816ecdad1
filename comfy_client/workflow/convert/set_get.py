"""Set and Get nodes of packs: a link by name, which their extension follows in the browser.

A Get node outputs what the Set node of the same name has as its input.  Names are compared as they
are, and an empty one names nothing.

``SetNode`` and ``GetNode`` of KJNodes also pair across subgraphs: a Get node looks into its own
graph first, and then into the graphs around it.  Those of Easy-Use pair in one graph only.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Final, TypeAlias

from attrs import define, field

from ..graph import brief
from .open_file import GETTERS, OpenFile, OpenGraph, is_virtual
from .open_nodes import OpenNode
from .saved_file import INSIDE_IN

#: The pair that also works across the borders of subgraphs.
_ACROSS: Final = "GetNode"
#: The most graphs around a subgraph.
_MOST_AROUND: Final = 100

#: A Set node and its graph, or why there is none.
Setter: TypeAlias = tuple[OpenNode, OpenGraph] | str


@define(eq=False)
class SetNodes:
    """The Set nodes of a file, by graph, class and name."""

    file: OpenFile
    _named: dict[tuple[str, str, str], list[OpenNode]] = field(factory=dict)
    #: The graph with the first instance of each subgraph.
    _outer: dict[str, OpenGraph] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        setters = {*GETTERS.values()}
        for graph in (self.file.root, *self.file.subgraphs.values()):
            for node in graph.nodes.values():
                if node.type in self.file.subgraphs:
                    self._outer.setdefault(node.type, graph)
                elif node.type in setters and is_virtual(node):
                    key = graph.saved.id, node.type, _name(node)
                    self._named.setdefault(key, []).append(node)

    def feeding(self, getter: OpenNode, graph: OpenGraph, slot: int) -> Setter:
        """Return the Set node whose input at index ``slot`` feeds that output of a Get node."""
        name, kind = _name(getter), GETTERS[getter.type]
        if not name:
            return "its Get node has no name"
        own = self._named.get((graph.saved.id, kind, name), ())
        if own:
            found = own[0], graph  # the first one of several, as in the browser
        else:
            outside = self._around(graph) if getter.type == _ACROSS else ()
            all_found = (
                (node, each)
                for each in outside
                for node in self._named.get((each.saved.id, kind, name), ())
            )
            first_two = [*islice(all_found, 2)]
            if len(first_two) > 1:
                return f"the graphs around its subgraph have several Set nodes {brief(name)}"
            if not first_two:
                return f"there is no Set node {brief(name)} for its Get node"
            found = first_two[0]
        inputs = found[0].inputs
        link = found[1].link_of(inputs[slot]) if slot < len(inputs) else None
        if link is None:
            return f"nothing is linked to its Set node {brief(name)}"
        if not own and link.source == INSIDE_IN:
            return (
                f"its Set node {brief(name)} is fed by an input of a subgraph, which the extension "
                "does not follow from inside another one"
            )
        return found

    def _around(self, graph: OpenGraph) -> list[OpenGraph]:
        """Return the graphs around a subgraph, from the inside out.

        A subgraph with instances in several graphs counts as a part of the first one only.
        """
        found: list[OpenGraph] = []
        while graph is not self.file.root and len(found) < _MOST_AROUND:
            graph = self._outer.get(graph.saved.id, self.file.root)
            found.append(graph)
        return found


def _name(node: OpenNode) -> str:
    """Return the name in the only widget of a Set or Get node; an empty one if it has none."""
    values = node.saved.values
    if isinstance(values, Mapping):
        value = values.get("Constant")
    else:
        value = values[0] if values else (node.saved.named or {}).get("Constant")
    return value if isinstance(value, str) else ""
