"""The graphs of an open file, with nodes as the frontend holds them.

An instance of a subgraph shows widgets of inner nodes as its own, and has its own values for them;
this module reads these values.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from attrs import define, field

from ...values import list_at, table_at
from .era import Era
from .open_nodes import InputBudget, OpenNode, Slot
from .saved_file import INSIDE_IN, INSIDE_OUT, Port, SavedFile, SavedGraph, SavedLink, SavedNode
from .widgets import MISSING

#: Nodes of the frontend alone.
_OWN: Final = frozenset(("PrimitiveNode", "Reroute", "Note", "MarkdownNote"))
#: Get nodes of packs, each with the Set node that feeds those of its name.
GETTERS: Final = {"GetNode": "SetNode", "easy getNode": "easy setNode"}
#: Those, and such nodes of packs; none of them is part of a prompt.
VIRTUAL: Final = _OWN | GETTERS.keys() | {*GETTERS.values()}


@define(eq=False)
class OpenGraph:
    """The workflow or the definition of a subgraph, with its nodes by id."""

    saved: SavedGraph
    nodes: dict[str, OpenNode] = field(factory=dict)
    #: The instances of this definition made so far.
    instances: list[OpenNode] = field(factory=list)
    #: The input at the end of each link.
    ends: dict[int, tuple[OpenNode, Slot]] = field(factory=dict)
    #: The subgraph's inputs by name; of equal names, the first.
    ports: dict[str, Port] = field(factory=dict)
    _fed: dict[str, list[tuple[OpenNode, Slot]]] | None = None
    _next_link: int = 0
    _next_suffix: Counter[str] = field(factory=Counter)

    def link_of(self, slot: Slot) -> SavedLink | None:
        """Return the link of an input, or None."""
        return None if slot.link is None else self.saved.links.get(slot.link)

    def targets(self, port: Port) -> Iterator[tuple[OpenNode, Slot]]:
        """Yield each widget input that a port feeds inside the subgraph, with its node.

        Raises:
            TooMuch: There are too many in all.
        """
        while port.links and port.links[0] not in self.ends:
            port.links.popleft()  # dropped, as a file may have any number of links and instances
        for number in port.links:
            if number in self.ends:
                node, slot = self.ends[number]
                node.budget.spend(1)
                yield node, slot

    def fed_by(self, source: str) -> list[tuple[OpenNode, Slot]]:
        """Return the inputs that are linked to a node, each with the node that has it."""
        if self._fed is None:
            self._fed = {}
            for node in self.nodes.values():
                for slot in node.inputs:
                    link = self.link_of(slot)
                    if link is not None:
                        self._fed.setdefault(link.source, []).append((node, slot))
        self._fed[source] = [  # without inputs that are linked to a port by now
            (node, slot)
            for node, slot in self._fed.get(source, ())
            if (link := self.link_of(slot)) is not None and link.source == source
        ]
        return self._fed[source]

    def prune_ports(self, shows_widget: Callable[[OpenNode, Slot], bool]) -> None:
        """Drop the links of ports on which neither a widget nor an output depends.

        Every instance goes through them, and a file may have many.
        """
        to_widgets = {
            saved.link
            for node in self.saved.nodes
            for saved in node.inputs
            if saved.link is not None and saved.widget is not None
        }
        for port in self.saved.inputs:
            self.ports.setdefault(port.name, port)
            port.was_widget = not to_widgets.isdisjoint(port.links)
            ends = ((number, self.ends.get(number)) for number in port.links)
            port.links = deque(number for number, end in ends if end and shows_widget(*end))
        for port in self.saved.outputs:
            links = map(self.saved.links.get, port.links)
            first = next((one for one in links if one and one.target == INSIDE_OUT), None)
            port.links = deque([] if first is None else [first.id])
        self._next_link = max(self.saved.links, default=0) + 1

    def add_port(self, name: str, kind: str) -> Port:
        """Add an input to the subgraph; append a number to a name that is taken."""
        unique = name
        while unique in self.ports:
            self._next_suffix[name] += 1
            unique = f"{name}_{self._next_suffix[name]}"
        port = self.ports[unique] = Port(unique, kind, deque())
        self.saved.inputs.append(port)
        return port

    def connect(self, port: Port, place: int, node: OpenNode, slot: Slot) -> None:
        """Link the subgraph's input at index ``place`` to an inner input."""
        if slot.link is not None:
            self.ends.pop(slot.link, None)
        port.links.append(self.link((INSIDE_IN, place, port.type), node, slot))

    def link(self, source: tuple[str, int, str], node: OpenNode, slot: Slot) -> int:
        """Link an output, given as node, slot and type, to an input; return the link's id."""
        number = slot.link = self._add_link(source, node.id, 0)
        self.ends[number] = node, slot
        return number

    def link_output(self, source: tuple[str, int, str], place: int) -> None:
        """Link an output inside to the subgraph's output at index ``place``."""
        self.saved.outputs[place].links.append(self._add_link(source, INSIDE_OUT, place))

    def _add_link(self, source: tuple[str, int, str], target: str, target_slot: int) -> int:
        number = self._next_link
        self._next_link += 1
        node_id, slot, kind = source
        self.saved.links[number] = SavedLink(number, node_id, slot, target, target_slot, kind)
        return number


@define(eq=False)
class OpenFile:
    """An open file: its main graph, and the graphs of subgraphs by id."""

    saved_file: SavedFile
    era: Era
    root: OpenGraph
    subgraphs: dict[str, OpenGraph]

    def inside(self, node: OpenNode) -> OpenGraph | None:
        """Return the subgraph that a node is an instance of, or None."""
        return self.subgraphs.get(node.type)


def is_virtual(node: OpenNode) -> bool:
    """Return whether a node exists in the browser only, so that no server runs it."""
    return node.type in VIRTUAL and node.definition is None


def all_nodes(file: OpenFile) -> Iterator[OpenNode]:
    """Yield all nodes in the frontend's lookup order: a subgraph's contents before its node."""
    entered: set[str] = set()
    ahead = [iter([*file.root.nodes.values()])]
    around: list[OpenNode] = []
    while ahead:
        node = next(ahead[-1], None)
        if node is None:
            ahead.pop()
            if around:
                yield around.pop()
            continue
        inner = file.inside(node)
        if inner is None or node.type in entered:
            yield node
        else:
            entered.add(node.type)
            ahead.append(iter([*inner.nodes.values()]))
            around.append(node)


# -- instances of subgraphs -------------------------------------------------------------


def make_instance(inner: OpenGraph, saved: SavedNode, budget: InputBudget) -> OpenNode:
    """Make an instance of a subgraph, with the file's links and values."""
    node = OpenNode(saved, None, saved.title or inner.saved.name, budget)
    budget.spend(len(inner.saved.inputs) + len(inner.saved.outputs))
    node.outputs = [port.type for port in inner.saved.outputs]
    links = {each.name: each.link for each in saved.inputs}
    for port in inner.saved.inputs:
        node.inputs.append(Slot(port.name, port.type, links.get(port.name)))
        promote(inner, port, node.inputs[-1])
    _take_values(inner, node)
    inner.instances.append(node)
    return node


def promote(inner: OpenGraph, port: Port, slot: Slot) -> None:
    """Make an input of an instance show the first widget that it feeds inside the subgraph."""
    for target, at in inner.targets(port):
        widget = target.widget(at.widget)
        if at.promoted or widget is not None:
            slot.promoted, slot.widget = True, slot.name
            slot.value = at.value if widget is None else widget.value
            return


def _take_values(inner: OpenGraph, node: OpenNode) -> None:
    """Set the saved values of an instance's promoted inputs, in order; others keep inner values."""
    values = node.saved.values
    kept_back = quarantined(node.saved.properties)
    place = 0
    for slot, port in zip(node.inputs, inner.saved.inputs, strict=True):
        if slot.promoted:
            if slot.name in kept_back:
                slot.value = kept_back[slot.name]
            else:
                given = values.get(slot.name) if isinstance(values, Mapping) else _at(values, place)
                slot.value = given if is_set(given) else slot.value
        elif not port.was_widget:
            continue
        place += 1


def is_set(value: Any) -> bool:
    """Return whether an instance has its own value for a promoted widget.

    Frontends 1.38 to 1.41 saved null for values that nobody had changed.
    """
    return value is not None and value is not MISSING


def _at(values: Sequence[Any], place: int) -> Any:
    return values[place] if place < len(values) else MISSING


def quarantined(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values, by input name, that a frontend could not place and set aside in a file."""
    found: dict[str, Any] = {}
    for each in reversed(list_at(properties, "proxyWidgetErrorQuarantine")):
        entry = table_at(each).get("originalEntry")
        if (
            isinstance(entry, list)
            and len(entry) >= 2
            and entry[0] == "-1"
            and isinstance(entry[1], str)
            and "hostValue" in each
        ):
            found[entry[1]] = each["hostValue"]
    return found
