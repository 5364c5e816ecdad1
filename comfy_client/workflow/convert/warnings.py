"""Warnings of a conversion where the prompt may not be what its author meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import define, field

from ...errors import ConversionWarning
from ...redaction import is_secret_name
from ..graph import brief, shorten
from ..missing_packs import pack_of
from ..problems import CORE, NOT_CORE
from .everywhere import is_everywhere
from .links import Place
from .open_nodes import OpenNode, Slot
from .widgets import CHOOSER, TAKES_NO_NULL, Widget, is_of_type, is_widget_type

#: The most warnings of one file: a subgraph may have any number of instances.
_MOST_WARNINGS: Final = 10_000
#: Frontend nodes of packs, with which their extension rewires the graph.
_REWIRING: Final = frozenset(
    (
        "Node Combiner (rgthree)",
        "Node Collector (rgthree)",
        "Reroute (rgthree)",
        "ReroutePrimitive|pysssss",
    )
)
#: Frontend nodes of packs that switch nodes while editing, and do nothing on queueing.
_SWITCHING: Final = frozenset(
    (
        "Fast Actions Button (rgthree)",
        "Fast Bypasser (rgthree)",
        "Fast Groups Bypasser (rgthree)",
        "Fast Groups Muter (rgthree)",
        "Fast Muter (rgthree)",
        "Mute / Bypass Relay (rgthree)",
        "Mute / Bypass Repeater (rgthree)",
    )
)


@define(eq=False)
class Report:
    """The warnings of a conversion: one for each node, input and kind, up to a maximum."""

    found: dict[tuple[str | None, str | None, str], ConversionWarning] = field(factory=dict)

    def add(
        self, kind: str, text: str, place: str, node: OpenNode, name: str | None = None
    ) -> None:
        """Add a warning about a node, under its id in the prompt."""
        if len(self.found) >= _MOST_WARNINGS:
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

    def add_general(self, kind: str, text: str) -> None:
        """Add a warning about the whole workflow."""
        self.found.setdefault((None, None, kind), ConversionWarning(text, kind=kind))


def check_left_out(place: Place, report: Report) -> bool:
    """Return whether a node exists in the frontend only; warn if leaving it out matters."""
    node = place.node
    if node.definition is not None:
        return False
    if node.type in _SWITCHING or (is_everywhere(node.type) and not node.outputs):
        return True
    if node.type in _REWIRING:
        report.add(
            "browser",
            "its extension rewires links in the browser; the inputs that it feeds are left out",
            place.id,
            node,
        )
        return True
    return not (node.saved.inputs or node.saved.outputs)


def check_node(
    place: Place, inputs: dict[str, Any], report: Report, packs: Mapping[str, str]
) -> None:
    """Warn of a class that the server lacks, lost links, and the work of extensions.

    A node without a definition gets the values that the file has by name.
    """
    node = place.node
    for kind, name, text in node.notes:
        report.add(kind, text, place.id, node, name)
    if node.definition is None:
        named = node.saved.named or {}
        for name, value in named.items():
            inputs.setdefault(name, {"__value__": value} if isinstance(value, list) else value)
        values = "" if named or not node.saved.values else "; its values are left out"
        report.add("not_installed", _missing(place, packs) + values, place.id, node)
        return
    if _has_other_widgets(node):
        text = "only its extension in the browser knows some of its widgets; they are left out"
        report.add("browser", text, place.id, node)
    for name in node.lost:
        text = "the frontend drops this link when it opens the file, and sends the node without it"
        report.add("link", text, place.id, node, name)
    _check_inputs(place, report)


def _has_other_widgets(node: OpenNode) -> bool:
    """Return whether a node's saved values have objects after the values of all its widgets.

    No frontend saves any there; extensions that make rows of widgets do, and send them.
    """
    values = node.saved.values
    if not isinstance(values, list) or not all(widget.kept for widget in node.widgets):
        return False
    return any(isinstance(each, Mapping) and each for each in values[len(node.widgets) :])


def _check_inputs(place: Place, report: Report) -> None:
    """Warn of inputs whose saved link or value is lost."""
    node = place.node
    slots = {slot.name: slot for slot in node.inputs}
    links = {slot.link for slot in node.inputs}
    widgets = {widget.name for widget in node.widgets}
    for saved in node.saved.inputs:
        slot = slots.get(saved.name)
        if saved.name in node.lost or saved.name in widgets:
            continue  # warned of already, or the widget has a value
        if saved.link is None:
            if saved.widget is not None and slot is not None and not is_widget_type(slot.type):
                kind = shorten(slot.type, 60)
                text = f"only an extension in the browser knows its widget ({kind})"
                report.add("browser", text, place.id, node, saved.name)
        elif saved.link not in links:
            if slot is None:
                text = "its link is left out: the class has no such input on the server"
            else:
                text = f"its link is left out: the file has no link {saved.link} to it"
            report.add("link", text, place.id, node, saved.name)


def check_widgets(place: Place, sent: Mapping[str, Widget], report: Report) -> None:
    """Warn of values of the wrong type, and of values that the frontend sets on submission."""
    node = place.node
    for name in node.by_name:
        if name in sent:
            text = "the value at its position does not fit; the one saved under its name is used"
            report.add("value", text, place.id, node, name)
    for name, widget in sent.items():
        if widget.hook:
            report.add("browser", f"the frontend {widget.hook}", place.id, node, name)
        elif not is_of_type(widget, widget.value):
            given = "null" if widget.value is None else brief(widget.value)
            given = "its value" if is_secret_name(name) else given
            why = (
                f"{given} is not one of its options"
                if widget.kind == CHOOSER
                else f"{given} is not of type {widget.kind}"
            )
            text = f"{why}; the file may be for another version of the node"
            report.add("value", text, place.id, node, name)


def check_promoted(place: Place, slot: Slot, value: Any, report: Report) -> None:
    """Warn if the promoted value of an input is null, and the input does not accept null."""
    if value is None and slot.type in TAKES_NO_NULL:
        text = f"null is not of type {slot.type}; its subgraph has no value for it"
        report.add("value", text, place.id, place.node, slot.name)


def _missing(place: Place, packs: Mapping[str, str]) -> str:
    node = place.node
    named = pack_of(node.saved.properties)
    pack = packs.get(node.type) or named.get("cnr_id") or named.get("aux_id")
    if node.type.startswith(("workflow>", "workflow/")):
        return (
            "it is a group node, from before subgraphs: open the file in the frontend, which turns "
            "it into a subgraph, and save it"
        )
    text = "the server has no such class"
    if pack == CORE:
        return f"{text}; {NOT_CORE}"
    return text if pack is None else f"{text}; it belongs to the pack {brief(pack)}"
