"""Warnings of a conversion, node by node."""

from __future__ import annotations

from typing import Final

from attrs import define, field

from ...errors import ConversionWarning
from ..graph import brief, shorten
from .nodes import Node

#: Warnings of one file: a subgraph may have any number of instances.
_MOST: Final = 10_000


@define(eq=False)
class Report:
    """The warnings of a conversion: one for each node, input and kind, the first thousands."""

    found: dict[tuple[str | None, str | None, str], ConversionWarning] = field(factory=dict)

    def add(self, kind: str, text: str, place: str, node: Node, name: str | None = None) -> None:
        """Warn of a node, by its id in the prompt."""
        if len(self.found) >= _MOST:
            return
        title = brief(node.title) + " " if node.title not in ("", node.type) else ""
        where = f"node {shorten(place, 60)} {title}({shorten(node.type, 60)})"
        where += "" if name is None else f", input {brief(name)}"
        warning = ConversionWarning(
            f"{where}: {text}",
            kind=kind,
            node_id=place,
            class_type=node.type,
            title=node.title,
            input=name,
        )
        self.found.setdefault((place, name, kind), warning)

    def say(self, kind: str, text: str) -> None:
        """Warn of the whole workflow."""
        self.found.setdefault((None, None, kind), ConversionWarning(text, kind=kind))
