"""A graph as a table of its nodes and inputs, as text and as HTML.

The size of a table is bounded, whatever the graph: a file may have any number of nodes, and values
of any size.
"""

from __future__ import annotations

from collections import Counter
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


#: The names of the outputs of ComfyUI's own classes that have several.
_SLOTS: Final[Mapping[str, tuple[str, ...]]] = {
    "CheckpointLoader": ("MODEL", "CLIP", "VAE"),
    "CheckpointLoaderSimple": ("MODEL", "CLIP", "VAE"),
    "ControlNetApplyAdvanced": ("positive", "negative"),
    "ImageOnlyCheckpointLoader": ("MODEL", "CLIP_VISION", "VAE"),
    "InpaintModelConditioning": ("positive", "negative", "latent"),
    "LoadImage": ("IMAGE", "MASK"),
    "LoraLoader": ("MODEL", "CLIP"),
    "SamplerCustom": ("output", "denoised_output"),
    "SamplerCustomAdvanced": ("output", "denoised_output"),
    "unCLIPCheckpointLoader": ("MODEL", "CLIP", "VAE", "CLIP_VISION"),
}


def as_text(shown: Mapping[str, Any], graph: Mapping[str, Any] | None = None) -> str:
    """Return a line for each node, and one for each of its inputs.

    Args:
        shown: The nodes of the table.
        graph: Where their links lead; ``None``: to the same nodes.
    """
    names = _names(shown if graph is None else graph)
    lines = []
    for node_id in islice(shown, MOST_NODES):
        lines.append(_heading(shown, node_id))
        rows = list(_rows(shown, node_id, names))
        width = max((len(name) for name, _ in rows), default=0)
        lines += [f"    {name:{width}}  {value}".rstrip() for name, value in rows]
    return "\n".join([*lines, *_rest(shown)])


def as_html(shown: Mapping[str, Any], graph: Mapping[str, Any] | None = None) -> str:
    """Return an HTML table with a row for each input, for arguments as in :func:`as_text`."""
    from ..showing.tables import Table  # for display only

    names = _names(shown if graph is None else graph)
    rows = []
    for node_id in islice(shown, MOST_NODES):
        inputs = list(_rows(shown, node_id, names)) or [("", "")]
        heads = (node_id or "-", title_of(shown, node_id), class_of(shown, node_id))
        rows.append((*(shorten(head or "", _NAME) for head in heads), *inputs[0]))
        rows += [("", "", "", *pair) for pair in inputs[1:]]
    head = ("id", "title", "class", "input", "value")
    return Table(head, rows, below=list(_rest(shown))).html()


def _names(graph: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return each node's class and name, by id.

    The name is the title or the class if it identifies one node, else a description with the id.
    """
    named = {node_id: title_of(graph, node_id) or class_of(graph, node_id) for node_id in graph}
    often = Counter(named.values())
    found = {}
    for node_id, name in named.items():
        is_alone = name is not None and often[name] == 1
        shown = name if is_alone else describe(graph, node_id).removeprefix("node ")
        found[node_id] = (class_of(graph, node_id) or "", shorten(shown or "", _WIDEST))
    return found


def _heading(graph: Mapping[str, Any], node_id: str) -> str:
    title = title_of(graph, node_id)
    kind = shorten(class_of(graph, node_id) or "", _NAME)
    name = f"{shorten(title, _NAME)} ({kind})" if title else kind
    return f"{shorten(node_id, _NAME)}  {name}"


def _rows(
    shown: Mapping[str, Any], node_id: str, names: Mapping[str, tuple[str, str]]
) -> Iterator[tuple[str, str]]:
    inputs = inputs_of(shown, node_id)
    for name, value in islice(inputs.items(), MOST_INPUTS):
        yield shorten(str(name), _NAME), _value(names, str(name), value)
    if len(inputs) > MOST_INPUTS:
        yield "...", f"({len(inputs)} inputs in all)"


def _value(names: Mapping[str, tuple[str, str]], name: str, value: Any) -> str:
    link = as_link(value)
    if link is None:
        return shorten(brief(sealed(value, is_secret=is_secret_value(name, value))), _WIDEST)
    node_id, slot = link
    kind, source = names.get(node_id, ("", shorten(node_id, _WIDEST)))
    slots = _SLOTS.get(kind, ())
    if 0 <= slot < len(slots):
        return f"<- {source}.{slots[slot]}"
    return f"<- {source}, slot {slot}" if slot else f"<- {source}"


def _rest(graph: Mapping[str, Any]) -> Iterator[str]:
    if len(graph) > MOST_NODES:
        yield f"... ({len(graph)} nodes in all)"
