"""A node as the frontend holds it: inputs and widgets by its definition, filled from the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from attrs import define, field

from ...values import list_at, table_at
from .losses import Layout, lost_links
from .saved_file import SavedInput, SavedNode
from .specs import Catalog, Spec, grouped
from .widgets import (
    CHOOSER,
    MISSING,
    ROWS,
    Widget,
    as_held,
    fits,
    has_widget,
    options_of,
    widgets_for,
)

#: The most inputs and widgets of one node, and of all nodes.
_MOST_INPUTS: Final = 2_000
_MOST_INPUTS_OF_ALL: Final = 500_000
#: The deepest nesting of groups of inputs.
_DEEPEST: Final = 30


class TooMuch(Exception):
    """A file has more inputs than any real node or workflow."""


@define(eq=False)
class InputBudget:
    """The number of inputs and widgets that all nodes together may still have."""

    left: int = _MOST_INPUTS_OF_ALL

    def spend(self, count: int) -> None:
        """Subtract ``count``; raise :class:`TooMuch` once nothing is left."""
        self.left -= count
        if self.left < 0:
            raise TooMuch


@define(eq=False)
class Slot:
    """An input of a node.

    Attributes:
        widget: The name of the input's widget; ``None``: it has none.
        promoted: Whether this input of an instance shows a widget inside the subgraph, with a
            value of its own.
        value: The value of a promoted input.
    """

    name: str
    type: str
    link: int | None = None
    widget: str | None = None
    promoted: bool = False
    value: Any = MISSING


@define(eq=False)
class GrowingGroup:
    """A group of inputs that grows as they are linked."""

    specs: list[Spec]
    prefix: str
    names: list[str] | None
    least: int
    most: int

    def name(self, ordinal: int, one: Spec) -> str:
        """Return the name of an input of the group."""
        if self.names is not None:
            return self.names[ordinal]
        return f"{self.prefix if len(self.specs) == 1 else one.name}{ordinal}"

    def has(self, name: str) -> bool:
        """Return whether the group can grow to have this input."""
        return self._ordinal(name) is not None

    def following(self, name: str) -> str | None:
        """Return the input that a link to ``name`` adds to the group, or None after the last."""
        ordinal = self._ordinal(name)
        if ordinal is None or ordinal + 1 >= self.most:
            return None
        if self.names is not None:
            return self.names[ordinal + 1]
        return f"{name.removesuffix(str(ordinal))}{ordinal + 1}"

    def _ordinal(self, name: str) -> int | None:
        if self.names is not None:
            return self.names.index(name) if name in self.names else None
        bases = [self.prefix] if len(self.specs) == 1 else [one.name for one in self.specs]
        for base in bases:
            rest = name.removeprefix(base) if name.startswith(base) else ""
            if re.fullmatch(r"0|[1-9][0-9]{0,5}", rest) and int(rest) < self.most:
                return int(rest)
        return None


@define(eq=False)
class OpenNode:
    """A node as the frontend holds it.

    Attributes:
        lost: The names of inputs whose links the frontend loses when it opens the file.
        by_name: The names of widgets whose value was found by name, since the one at their
            position cannot be right.
        notes: Warnings about inputs that an extension feeds in the browser: kind, input and text.
    """

    saved: SavedNode
    definition: Mapping[str, Any] | None
    title: str
    budget: InputBudget
    inputs: list[Slot] = field(factory=list)
    outputs: list[str] = field(factory=list)
    widgets: list[Widget] = field(factory=list)
    groups: dict[str, GrowingGroup] = field(factory=dict)
    layout: Layout = field(factory=Layout)
    lost: list[str] = field(factory=list)
    by_name: list[str] = field(factory=list)
    notes: list[tuple[str, str, str]] = field(factory=list)
    _widgets: dict[str, Widget] = field(factory=dict, init=False)

    @property
    def id(self) -> str:
        """The node's id in its graph."""
        return self.saved.id

    @property
    def type(self) -> str:
        """The node's class, or the id of its subgraph."""
        return self.saved.type

    def widget(self, name: str | None) -> Widget | None:
        """Return the first widget of this name, or None; call :meth:`index_widgets` before."""
        return None if name is None else self._widgets.get(name)

    def index_widgets(self) -> None:
        """Build the lookup of widgets by name, once all are laid out; a file may have thousands."""
        self._widgets = {each.name: each for each in reversed(self.widgets)}


def make_unknown_node(saved: SavedNode, budget: InputBudget) -> OpenNode:
    """Make a node without a definition: with the slots of the file, without widgets."""
    node = OpenNode(saved, None, saved.title or saved.type, budget)
    budget.spend(len(saved.inputs))
    node.inputs = [Slot(each.name, each.type, each.link, each.widget) for each in saved.inputs]
    node.outputs = [each.type for each in saved.outputs]
    return node


def make_known_node(saved: SavedNode, catalog: Catalog, budget: InputBudget) -> OpenNode:
    """Make a node by its definition, with the links and values of the file."""
    definition = catalog.definitions[saved.type]
    title = saved.title or catalog.era.title(saved.type, definition)
    node = OpenNode(saved, definition, title, budget)
    budget.spend(len(saved.inputs))
    specs = catalog.specs(saved.type)
    for each in specs:
        _add_socket(node, each)
    for each in specs:
        _add_widgets(node, each)
    if saved.type == "CustomCombo":
        _add_options(node)
    node.outputs = _output_types(saved, definition)
    node.layout = Layout([each.name for each in node.inputs])
    _take_links(node, saved.inputs)
    set_saved_values(node, _aligned(node, catalog.listed(saved.type)))
    node.index_widgets()
    node.inputs = [each for each in node.inputs if not _is_left_over(node, each)]
    _drop_links(node)
    return node


# -- inputs -----------------------------------------------------------------------------


def _add_socket(node: OpenNode, one: Spec, depth: int = 0) -> None:
    """Add the inputs of a spec without a widget; the frontend makes these before all widgets."""
    if has_widget(one):
        return
    _spend(node, len(node.inputs), depth)
    if one.type == "COMFY_AUTOGROW_V3":
        group = _autogrow(one)
        node.groups[one.name] = group
        for ordinal in range(min(group.most, max(group.least, 0) + 1)):
            for each in group.specs:
                _add_input(node, each.renamed(f"{one.name}.{group.name(ordinal, each)}"), depth)
    elif one.type == "COMFY_MATCHTYPE_V3":
        template = one.options.get("template")
        allowed = template.get("allowed_types") if isinstance(template, Mapping) else None
        kind = allowed if isinstance(allowed, str) and allowed != one.type else "*"
        _add_input(node, Spec(one.name, kind, one.options), depth)
    else:
        node.inputs.append(Slot(one.name, one.type))


def _add_widgets(node: OpenNode, one: Spec, depth: int = 0) -> None:
    """Add an input's widgets, and the slot for a link to it."""
    _spend(node, len(node.widgets), depth)
    if one.type == ROWS:
        node.widgets.append(Widget(one.name, ROWS, 0, one, sent=False))
        _set_rows(node, node.widgets[-1], one.options.get("min"), depth)
        return
    made = widgets_for(one, lambda: [each.name for each in node.widgets])
    if made is None:
        return
    node.widgets += made
    if one.widget_type == CHOOSER:
        _choose(node, made[0], depth)
    node.inputs.append(Slot(one.name, one.type, widget=one.name))


def _spend(node: OpenNode, count: int, depth: int = 0) -> None:
    if depth > _DEEPEST or count > _MOST_INPUTS:
        raise TooMuch
    node.budget.spend(1)


def _add_input(node: OpenNode, one: Spec, depth: int) -> None:
    _add_socket(node, one, depth + 1)
    _add_widgets(node, one, depth + 1)


def _autogrow(one: Spec) -> GrowingGroup:
    template = table_at(one.options, "template")
    prefix, names = template.get("prefix"), template.get("names")
    least, most = template.get("min", 1), template.get("max", 100)
    texts = [str(each) for each in names] if isinstance(names, list) else None
    least = least if isinstance(least, int) else 1
    most = most if isinstance(most, int) else 100
    return GrowingGroup(
        grouped(template.get("input")),
        prefix if isinstance(prefix, str) else "",
        texts,
        least,
        len(texts) if texts is not None else most,
    )


def _choose(node: OpenNode, chooser: Widget, depth: int = 0) -> None:
    """Replace the inputs that a chooser has added with those of its chosen option."""
    prefix = f"{chooser.name}."
    node.budget.spend(1 + len(node.widgets) // 10)
    gone = [each for each in node.inputs if each.name.startswith(prefix)]
    links = {each.name: each.link for each in gone if each.link is not None}
    node.inputs = [each for each in node.inputs if not each.name.startswith(prefix)]
    node.widgets = [each for each in node.widgets if not each.name.startswith(prefix)]
    node.groups = {key: each for key, each in node.groups.items() if not key.startswith(prefix)}
    inputs, widgets = len(node.inputs), len(node.widgets)
    for one in grouped(options_of(chooser.spec).get(_key(chooser.value))):
        _add_input(node, one.renamed(prefix + one.name), depth)
    added = node.inputs[inputs:]
    del node.inputs[inputs:]
    for each in added:
        each.link = links.get(each.name)
    names = {each.name for each in added}
    node.layout.groups.append((prefix, [each.name for each in added]))
    added += [each for each in gone if each.name not in names and _may_grow(node, each)]
    at = next((i for i, each in enumerate(node.inputs) if each.name == chooser.name), None)
    at = len(node.inputs) if at is None else at + 1
    node.inputs[at:at] = added
    made = node.widgets[widgets:]
    del node.widgets[widgets:]
    behind = node.widgets.index(chooser) + 1
    node.widgets[behind:behind] = made


def _key(value: Any) -> str:
    return str(value) if isinstance(value, (str, int, float)) else ""


def _set_rows(node: OpenNode, rows: Widget, count: Any, depth: int = 0) -> None:
    """Add or remove rows of inputs to match the saved number."""
    if isinstance(count, bool) or not isinstance(count, (int, float)) or count != count:
        return
    least, template = rows.spec.options.get("min"), rows.spec.options.get("template")
    most = max(len(node.saved.values), least if isinstance(least, int) else 0)
    wanted = int(min(max(count, least if isinstance(least, int) else 0), most))
    prefix = f"{rows.name}."
    kept = {each.name: each.link for each in node.inputs if each.name.startswith(prefix)}
    node.inputs = [each for each in node.inputs if not each.name.startswith(prefix)]
    node.widgets = [each for each in node.widgets if not each.name.startswith(prefix)]
    widgets = len(node.widgets)
    for row in range(wanted):
        for each in grouped(template):
            _add_input(node, each.renamed(f"{prefix}{row}.{each.name}"), depth)
    for slot in node.inputs:
        slot.link = kept.get(slot.name, slot.link)
    made = node.widgets[widgets:]
    del node.widgets[widgets:]
    behind = node.widgets.index(rows) + 1
    node.widgets[behind:behind] = made
    rows.value = wanted


def _add_options(node: OpenNode) -> None:
    """Add the first widgets of a CustomCombo: the index of the choice, and the first option."""
    field_ = Spec("option1", "STRING", {})
    node.widgets.append(Widget("index", "INDEX", MISSING, field_))
    node.widgets.append(Widget(field_.name, "OPTION", "", field_))


def _take_links(node: OpenNode, saved: list[SavedInput]) -> None:
    """Set the links of the file by input name, and add inputs that only the file has."""
    by_name = {each.name: each for each in saved}
    for slot in node.inputs:
        found = by_name.get(slot.name)
        slot.link = found.link if found is not None else None
    names = {slot.name for slot in node.inputs}
    node.inputs += [
        Slot(each.name, each.type, each.link, each.widget)
        for each in saved
        if each.name not in names
    ]


def _drop_links(node: OpenNode) -> None:
    """Remove the links that the frontend loses."""
    choosers = {each.name for each in node.widgets if each.kind == CHOOSER}
    grown = {}
    for slot in node.inputs:
        key, _, last = slot.name.rpartition(".")
        group = node.groups.get(key)
        if group is not None and any(key.startswith(f"{each}.") for each in choosers):
            following = group.following(last)
            grown[slot.name] = following and f"{key}.{following}"
    if sum(each.link is not None and each.name in grown for each in node.inputs) < 2:
        return
    lost = lost_links(node.saved.inputs, node.layout, choosers, grown)
    for slot in node.inputs:
        if slot.link in lost and slot.name in grown:
            slot.link = None
            node.lost.append(slot.name)


def _may_grow(node: OpenNode, slot: Slot) -> bool:
    """Return whether an input is linked and belongs to a group that can grow to have it."""
    name, _, last = slot.name.rpartition(".")
    group = node.groups.get(name)
    return group is not None and slot.link is not None and group.has(last)


def _is_left_over(node: OpenNode, slot: Slot) -> bool:
    """Return whether an input belonged to a widget that the definition no longer has."""
    return (
        slot.widget is not None
        and node.widget(slot.widget) is None
        and slot.name.rpartition(".")[0] not in node.groups
    )


def _output_types(saved: SavedNode, definition: Mapping[str, Any]) -> list[str]:
    given = list_at(definition, "output")
    types = ["COMBO" if isinstance(each, list) else str(each) for each in given]
    # The output of a match type depends on its links; the file has the saved type.
    for at, one in enumerate(saved.outputs):
        if at >= len(types):
            types.append(one.type)
        elif types[at] == "COMFY_MATCHTYPE_V3":
            types[at] = one.type
    return ["*" if each == "COMFY_MATCHTYPE_V3" else each for each in types]


# -- values -----------------------------------------------------------------------------


def set_saved_values(node: OpenNode, values: list[Any] | Mapping[str, Any]) -> None:
    """Set the widgets to their saved values, by position, or by name from an object.

    The frontend goes by position even where the file has names, too.  Here a name is used if the
    value at the position cannot be right.
    """
    named = node.saved.named or {}
    at = place = 0
    while at < len(node.widgets):  # a value may add widgets
        widget = node.widgets[at]
        at += 1
        value = MISSING
        if isinstance(values, Mapping):
            value = values.get(widget.name, MISSING)
        elif widget.kept:
            value = values[place] if place < len(values) else MISSING
            place += 1
        if value is MISSING or not fits(widget, value):
            other = named.get(widget.name, MISSING) if widget.sent else MISSING
            if other is not MISSING and fits(widget, other):
                if value is not MISSING or other != widget.value:
                    node.by_name.append(widget.name)
                value = other
        if value is not MISSING:
            set_value(node, widget, value)


def set_value(node: OpenNode, widget: Widget, value: Any) -> None:
    """Set the value of a widget, and lay out the inputs that depend on it."""
    if widget.kind == ROWS:
        _set_rows(node, widget, value)
        return
    widget.value = as_held(widget, value)
    if widget.kind == CHOOSER:
        _choose(node, widget)
    elif widget.kind == "OPTION" and widget is node.widgets[-1] and value:
        _spend(node, len(node.widgets))
        name = f"option{len(node.widgets) - 1}"
        node.widgets.append(Widget(name, "OPTION", "", Spec(name, "STRING", {})))


def _aligned(node: OpenNode, specs: list[Spec]) -> list[Any] | Mapping[str, Any]:
    """Return the saved values without those of former widgets that are now plain inputs."""
    values = node.saved.values
    if isinstance(values, Mapping) or any(each.type == ROWS for each in specs):
        return values
    kept = {each.name: each.kept for each in reversed(node.widgets)}
    forced: list[bool] = []
    for one in specs:
        is_forced = bool(one.options.get("forceInput"))
        if kept.get(one.name, is_forced):
            control = bool(one.options.get("control_after_generate"))
            forced += [is_forced, False] if control else [is_forced]
    if True not in forced and len(values) == sum(each.kept for each in node.widgets):
        return values
    places = node.widgets
    compact = [v for i, v in enumerate(values) if i >= len(places) or places[i].kept]
    for found in (compact, values):
        if len(found) == len(forced):
            return [v for v, skipped in zip(found, forced, strict=True) if not skipped]
    return values
