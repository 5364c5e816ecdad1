"""Conversion of a file in UI format to a graph in API format."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from attrs import define, field, frozen

from ...errors import ConversionWarning, WorkflowError
from ...values import count
from ..graph import copied
from ..missing_packs import pack_of
from ..model_files import models_in
from .dynamic_prompts import Chooser, chooser, cost_of, is_dynamic, resolve_prompt
from .era import era_of
from .everywhere import spread
from .links import DeadLink, LinkedOutput, Links, Place, PromotedValue
from .open_file import VIRTUAL, OpenFile, all_nodes, is_virtual
from .open_nodes import InputBudget, OpenNode, Slot, TooMuch
from .opening import number_nodes, open_file
from .saved_file import BYPASSED, MUTED, read_file
from .specs import Catalog
from .warnings import Report, check_left_out, check_node, check_promoted, check_widgets
from .widgets import MISSING, Widget, corrected, text_of

#: The most inputs and values of a prompt: a subgraph may have any number of instances.
MAX_VALUES: Final = 1_000_000
#: The length of a text that costs as much time as one input.
_LETTERS: Final = 10
#: A property of a PrimitiveNode.
_REPLACE: Final = "Run widget replace on values"
_PROMPTS: Final = (
    "the frontend would resolve choices {a|b} and comments in the prompts of this workflow; they "
    "are sent unchanged: load it with dynamic_prompts=seed, or call resolve_prompts()"
)


@frozen(eq=False)
class Conversion:
    """A converted workflow.

    Attributes:
        graph: The graph in API format.
        warnings: Work that only the frontend can do, and values that do not fit, node by node.
        prompts: The inputs whose choices and comments the frontend resolves, by node id and input
            name.  A text here is a promoted one, which the frontend sends as it is.
    """

    graph: dict[str, Any]
    warnings: tuple[ConversionWarning, ...]
    prompts: dict[tuple[str, str], str | None]


def convert(
    ui: Mapping[str, Any],
    definitions: Mapping[str, Any],
    *,
    strict: bool = False,
    dynamic_prompts: int | Chooser | None = None,
    packs: Mapping[str, str] | None = None,
    now: datetime | None = None,
) -> Conversion:
    """Convert a workflow from UI format to API format; ``ui`` is not changed.

    Args:
        ui: The file, decoded.
        definitions: Node definitions by class, as ``GET /object_info`` gives them.
        strict: Whether a warning is an error.
        dynamic_prompts: The seed, or the generator, to choose with from ``{a|b}``; ``None``:
            prompts stay as they are.
        packs: The node pack by class, as a manager knows it; ``None``: what the file says.
        now: The time for ``%date:...%`` in file names; ``None``: the current time.

    Raises:
        WorkflowError: The file is damaged, from a newer frontend, or too large; with ``strict``,
            also for anything that would cause a warning.
    """
    saved_file = read_file(ui)
    era = era_of(definitions)
    number_nodes(saved_file, era)
    file = open_file(saved_file, Catalog(definitions, era))
    try:
        spread(file)
    except TooMuch:
        raise WorkflowError("too many inputs could be fed by Anything Everywhere nodes") from None
    links = Links(file)
    links.collect_places()
    names = Placeholders(all_nodes(file), now or datetime.now())
    _send_primitives(file, names)
    rng = None if dynamic_prompts is None else chooser(dynamic_prompts)
    work = _Work(file, links, packs or {}, rng, names)
    try:
        graph = work.graph()
    except TooMuch:
        raise WorkflowError(
            f"the nodes of the workflow come to more than {MAX_VALUES} inputs, values and choices"
        ) from None
    warnings = tuple(work.report.found.values())
    if strict and warnings:
        texts = "\n".join(f"  {each}" for each in warnings[:8])
        more = f"\n  ... ({len(warnings)} in all)" if len(warnings) > 8 else ""
        raise WorkflowError(f"the workflow cannot be converted as it is:\n{texts}{more}")
    return Conversion(graph, warnings, work.prompts)


def classes_in(ui: Mapping[str, Any]) -> set[str]:
    """Return the classes whose definitions a conversion needs.

    Raises:
        WorkflowError: As :func:`convert`.
    """
    saved_file = read_file(ui)
    graphs = (saved_file.root, *saved_file.subgraphs.values())
    classes = {node.type for graph in graphs for node in graph.nodes}
    return classes - saved_file.subgraphs.keys() - VIRTUAL


def _send_primitives(file: OpenFile, names: Placeholders) -> None:
    """Copy the value of each PrimitiveNode into the widgets that it feeds."""
    for graph in (file.root, *file.subgraphs.values()):
        primitives = {
            node.id: node.saved.values[0]
            for node in graph.nodes.values()
            if node.type == "PrimitiveNode"
            and is_virtual(node)
            and isinstance(node.saved.values, list)
            and node.saved.values
        }
        fed: dict[str, list[Widget]] = {}
        for number, (node, slot) in sorted(graph.ends.items()) if primitives else ():
            widget = node.widget(slot.widget)
            source = graph.saved.links[number].source
            if source in primitives and widget is not None and slot.link == number:
                fed.setdefault(source, []).append(widget)
        for source, widgets in fed.items():
            node, value = graph.nodes[source], primitives[source]
            kind = node.outputs[0] if node.outputs else "*"
            if kind != widgets[0].spec.widget_type:
                continue  # its type has changed, and with it its value
            if isinstance(value, str) and node.saved.properties.get(_REPLACE):
                value = names.fill_in(value)
            for widget in widgets:
                widget.value = corrected(widget, value)


@define(eq=False)
class _Work:
    """The state of one conversion."""

    file: OpenFile
    links: Links
    packs: Mapping[str, str]
    rng: Chooser | None
    names: Placeholders
    budget: InputBudget = field(factory=lambda: InputBudget(MAX_VALUES))
    report: Report = field(factory=Report)
    prompts: dict[tuple[str, str], str | None] = field(factory=dict)

    def graph(self) -> dict[str, Any]:
        """Return the nodes of the prompt, without links to nodes outside of it."""
        graph: dict[str, Any] = {}
        for place in self.links.places.values():
            if self.file.inside(place.node) is None and not self._is_left_out(place):
                graph[place.id] = self._node(place)
        for node in graph.values():
            node["inputs"] = {
                name: value
                for name, value in node["inputs"].items()
                if not (isinstance(value, list) and value[0] not in graph)
            }
        return graph

    def _is_left_out(self, place: Place) -> bool:
        node = place.node
        if node.saved.mode in (MUTED, BYPASSED) or is_virtual(node):
            return True
        return check_left_out(place, self.report)

    def _node(self, place: Place) -> dict[str, Any]:
        node = place.node
        saved = node.saved
        self.budget.spend(len(node.inputs) + len(node.widgets) + len(saved.inputs))
        self.budget.spend(len(saved.values) + len(saved.named or ()))
        inputs = self._inputs(place)
        check_node(place, inputs, self.report, self.packs)
        meta: dict[str, Any] = {"title": node.title, **pack_of(saved.properties)}
        models = models_in(saved.properties.get("models"))
        if models:  # ours: the frontend drops them, and a missing model would be hard to find
            self.budget.spend(sum(map(len, models)))
            meta["models"] = models
        return {"inputs": inputs, "class_type": node.type, "_meta": meta}

    def _inputs(self, place: Place) -> dict[str, Any]:
        inputs: dict[str, Any] = {}
        sent: dict[str, Widget] = {}
        for widget in place.node.widgets:
            value = self._value(place, widget) if widget.sent and widget.name else MISSING
            if value is not MISSING:
                inputs[widget.name] = self._wrapped(widget, value)
                sent[widget.name] = widget
        for slot in place.node.inputs:
            found = self.links.resolve(place, slot)
            if isinstance(found, DeadLink) and (found.is_wrong or slot.name not in inputs):
                self.report.add("link", found.reason, place.id, place.node, slot.name)
            if found is None or isinstance(found, DeadLink):
                continue
            sent.pop(slot.name, None)
            inputs.pop(slot.name, None)
            if isinstance(found, LinkedOutput):
                inputs[slot.name] = [found.id, found.slot]
            elif found.value is not MISSING:
                inputs[slot.name] = self._wrapped(None, found.value)
                check_promoted(place, slot, found.value, self.report)
        check_widgets(place, sent, self.report)
        self._resolve_prompts(place, sent, inputs)
        return inputs

    def _resolve_prompts(
        self, place: Place, sent: Mapping[str, Widget], inputs: dict[str, Any]
    ) -> None:
        """Resolve the dynamic prompts of a node's own widgets.

        Prompts in promoted widgets stay unchanged, as in the frontend.
        """
        for widget in place.node.widgets:
            text = inputs.get(widget.name)
            if not widget.is_prompt or not isinstance(text, str):
                continue
            self.budget.spend(len(text) // _LETTERS)
            own = widget.name in sent
            self.prompts[place.id, widget.name] = None if own else text
            if own and is_dynamic(text):
                if self.rng is None:
                    self.report.add_general("dynamic_prompt", _PROMPTS)
                else:
                    self.budget.spend(cost_of(text) // 2)
                    inputs[widget.name] = resolve_prompt(text, self.rng)

    def _value(self, place: Place, widget: Widget) -> Any:
        """Return the value of a widget as the frontend sends it."""
        if widget.kind == "INDEX":
            return self._index(place)
        if (
            widget.name == "filename_prefix"
            and isinstance(widget.value, str)
            and place.node.type in SAVING
        ):
            self.budget.spend(len(widget.value) // 4)
            return self.names.fill_in(widget.value)
        return widget.value

    def _index(self, place: Place) -> int:
        """Return the index of a CustomCombo's chosen option, or -1."""
        node = place.node
        slot = node.inputs[0] if node.inputs else None
        found = None if slot is None else self.links.resolve(place, slot)
        chosen = found.value if isinstance(found, PromotedValue) else node.widgets[0].value
        options = [each.value for each in node.widgets if each.kind == "OPTION"]
        return options.index(chosen) if chosen in options else -1

    def _wrapped(self, widget: Widget | None, value: Any) -> Any:
        """Copy a value for the prompt; wrap a curve, or a list, which would pass for a link."""
        if isinstance(value, (list, Mapping)):
            self.budget.spend(count(value))
            value = copied(value)
        if widget is not None and widget.kind == "CURVE" and value is not None:
            return {"__type__": "CURVE", "__value__": value}
        return {"__value__": value} if isinstance(value, list) else value


# -- placeholders in file names ---------------------------------------------------------

#: The classes in whose ``filename_prefix`` the frontend replaces placeholders.
SAVING: Final = frozenset(
    (
        "CLIPSave",
        "LoraSave",
        "ModelSave",
        "Save3DAdvanced",
        "SaveAnimatedPNG",
        "SaveAnimatedWEBP",
        "SaveAudio",
        "SaveAudioAdvanced",
        "SaveAudioMP3",
        "SaveAudioOpus",
        "SaveGLB",
        "SaveGaussianSplat",
        "SaveImage",
        "SaveImageAdvanced",
        "SaveLatent",
        "SavePointCloud",
        "SaveSVGNode",
        "SaveVideo",
        "SaveWEBM",
        "VAESave",
    )
)
#: The most characters of all replacements: a file may repeat a long value.
_MOST_REPLACED: Final = 1_000_000
_PATTERN: Final = re.compile(r"%([^%]+)%")
_UNSAFE: Final = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')
_DATE: Final = re.compile(r"dd?|MM?|hh?|mm?|ss?|yyy?y?")


class Placeholders:
    """The values for placeholders in file names: the nodes that they can name, and the time."""

    def __init__(self, nodes: Iterable[OpenNode], now: datetime) -> None:
        self._aliases: dict[object, OpenNode] = {}
        self._titles: dict[str, OpenNode] = {}
        self._now = now
        self._left = _MOST_REPLACED
        self._slots: dict[OpenNode, dict[str, Slot]] = {}
        for node in nodes:
            self._titles.setdefault(node.title, node)
            alias = _alias(node)
            if isinstance(alias, str):
                self._aliases.setdefault(alias, node)

    def fill_in(self, text: str) -> str:
        """Replace the placeholders in a text with values of widgets or the date; keep unknown ones.

        Raises:
            WorkflowError: All replacements together are too long.
        """
        return _PATTERN.sub(self._replace, text)

    def _replace(self, found: re.Match[str]) -> str:
        name, *rest = found[1].split(".")
        if not rest and name.startswith("date:"):
            return _date(name.removeprefix("date:"), self._now)
        value = self._value(name, rest[0]) if len(rest) == 1 else MISSING
        if value is MISSING:
            return found[0]
        text = text_of(value)
        self._left -= len(text)
        if self._left < 0:
            raise WorkflowError("the values to fill into file names are too long")
        return _UNSAFE.sub("_", text)

    def _value(self, name: str, widget: str) -> Any:
        node = self._aliases.get(name) or self._titles.get(name)
        if node is None:
            return MISSING
        found = node.widget(widget)
        if found is None:  # an instance shows widgets of inner nodes
            if node not in self._slots:
                self._slots[node] = {each.name: each for each in reversed(node.inputs)}
            slot = self._slots[node].get(widget)
            return slot.value if slot is not None and slot.promoted else MISSING
        return "" if found.value is MISSING else found.value


def _alias(node: OpenNode) -> object:
    """Return the name by which placeholders find a node, or None if only its title can be used.

    A node without a name of its own has the name of its class, unless it saves files.
    """
    default = None if node.type in SAVING or node.definition is None else node.type
    return node.saved.properties.get("Node name for S&R", default)


def _date(pattern: str, now: datetime) -> str:
    parts = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}

    def replace(found: re.Match[str]) -> str:
        sign = found[0]
        if sign[0] == "y":
            return {"yyyy": f"{now.year:04}", "yy": f"{now.year:04}"[2:]}.get(sign, sign)
        return f"{parts[sign[0]]:0{len(sign)}}"

    return _DATE.sub(replace, pattern)
