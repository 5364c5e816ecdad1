"""A graph as a table of its nodes and inputs, as text and as HTML.

The size of a table is bounded, whatever the graph: a file may have any number of nodes, and values
of any size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

from ..redaction import is_secret_value, sealed
from .graph import as_link, brief, class_of, describe, inputs_of, shorten, title_of

#: The most nodes of a table, and inputs of a node.
MOST_NODES: Final = 200
MOST_INPUTS: Final = 40
_WIDEST = 100  # characters of a value
_NAME = 60  # characters of a name


def as_text(shown: Mapping[str, Any], graph: Mapping[str, Any] | None = None) -> str:
    """Return a line for each node, and one for each of its inputs.

    Args:
        shown: The nodes of the table.
        graph: The nodes to which their links lead; ``None``: the same nodes.
    """
    lines = []
    for node_id in islice(shown, MOST_NODES):
        lines.append(_heading(shown, node_id))
        rows = list(_rows(shown, node_id, shown if graph is None else graph))
        width = max((len(name) for name, _ in rows), default=0)
        lines += [f"    {name:{width}}  {value}".rstrip() for name, value in rows]
    return "\n".join([*lines, *_rest(shown)])


def as_html(shown: Mapping[str, Any], graph: Mapping[str, Any] | None = None) -> str:
    """Return an HTML table with a row for each input; the arguments are those of `as_text`."""
    from ..showing.tables import Table  # for display only

    rows = []
    for node_id in islice(shown, MOST_NODES):
        inputs = list(_rows(shown, node_id, shown if graph is None else graph)) or [("", "")]
        names = (node_id or "-", title_of(shown, node_id), class_of(shown, node_id))
        rows.append((*(shorten(name or "", _NAME) for name in names), *inputs[0]))
        rows += [("", "", "", *pair) for pair in inputs[1:]]
    head = ("id", "title", "class", "input", "value")
    return Table(head, rows, below=list(_rest(shown))).html()


def _heading(graph: Mapping[str, Any], node_id: str) -> str:
    title = title_of(graph, node_id)
    kind = shorten(class_of(graph, node_id) or "", _NAME)
    name = f"{shorten(title, _NAME)} ({kind})" if title else kind
    return f"{shorten(node_id, _NAME)}  {name}"


def _rows(
    shown: Mapping[str, Any], node_id: str, graph: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    inputs = inputs_of(shown, node_id)
    for name, value in islice(inputs.items(), MOST_INPUTS):
        yield shorten(str(name), _NAME), _value(graph, str(name), value)
    if len(inputs) > MOST_INPUTS:
        yield "...", f"({len(inputs)} inputs in all)"


def _value(graph: Mapping[str, Any], name: str, value: Any) -> str:
    link = as_link(value)
    if link:
        slot = f", slot {link[1]}" if link[1] else ""
        return f"<- {shorten(describe(graph, link[0]).removeprefix('node '), _WIDEST)}{slot}"
    return shorten(brief(sealed(value, is_secret=is_secret_value(name, value))), _WIDEST)


def _rest(graph: Mapping[str, Any]) -> Iterator[str]:
    if len(graph) > MOST_NODES:
        yield f"... ({len(graph)} nodes in all)"
