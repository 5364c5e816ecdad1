"""How links are followed to the source of a value: through subgraphs, bypassed and Get nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final, TypeAlias

from attrs import define, field

from ...errors import WorkflowError
from ..graph import brief, shorten
from .open_file import GETTERS, OpenFile, OpenGraph, is_virtual
from .open_nodes import OpenNode, Slot
from .saved_file import BYPASSED, INSIDE_IN, MUTED

#: Limits: nesting of instances, nodes of a prompt, and steps along links.
_DEEPEST: Final = 100
MAX_NODES: Final = 100_000
_MOST_STEPS: Final = 500_000
#: The most characters of all node ids of a prompt.
_MOST_LETTERS: Final = 1 << 25
#: Names that the frontend treats as any type.
_ANYTHING: Final = frozenset(("", "*", "0"))


@define(eq=False)
class Place:
    """A node at one place in the workflow; a node of a subgraph has a place in each instance.

    Attributes:
        id: The ids of the instances that contain the node, and its own id, joined by colons.
        around: The place of the instance that contains the node; ``None``: the main graph does.
    """

    id: str
    node: OpenNode
    graph: OpenGraph
    around: Place | None


@define(eq=False)
class PromotedValue:
    """The result of following a link: a value promoted to an instance."""

    value: Any


@define(eq=False)
class LinkedOutput:
    """The result of following a link: an output of a node in the prompt."""

    id: str
    slot: int


@define(eq=False)
class DeadLink:
    """The result of following a link that leads nowhere.

    Attributes:
        reason: Why the link leads nowhere.
        is_wrong: Whether to warn even if a widget has a value for the input.
    """

    reason: str
    is_wrong: bool = False


#: The source of an input; None if there is none, so that a widget keeps its value.
Resolved: TypeAlias = LinkedOutput | PromotedValue | DeadLink | None
#: Another input with the same source, and the wanted type.
_Next: TypeAlias = tuple[Place, Slot, str | None]

_IGNORED: Final = DeadLink(
    "the frontend ignores the PrimitiveNode that feeds its subgraph: give the subgraph the value",
    is_wrong=True,
)
_OPEN: Final = DeadLink("nothing inside its subgraph is linked to this output")
_CIRCLE: Final = DeadLink("its Set and Get nodes feed each other in a circle", is_wrong=True)
_LEFT_OUT: Final = DeadLink("its Set node is in a subgraph that is left out", is_wrong=True)


@define(eq=False)
class Links:
    """The places of all nodes, and the sources of their inputs."""

    file: OpenFile
    places: dict[str, Place] = field(factory=dict)
    _known: dict[tuple[str, int, str | None], Resolved] = field(factory=dict)
    _bypasses: dict[tuple[OpenNode, int, str], int | None] = field(factory=dict)
    _types: dict[str, frozenset[str]] = field(factory=dict)
    _setters: SetNodes = field(init=False)
    _first: dict[OpenNode, Place] = field(factory=dict)
    _steps: int = 0
    _letters: int = 0

    def __attrs_post_init__(self) -> None:
        self._setters = SetNodes(self.file)

    def collect_places(self) -> None:
        """Index each place of a node; a node in a subgraph has one in each instance.

        Except on old servers, the contents of a muted or bypassed instance are skipped.

        Raises:
            WorkflowError: There are too many nodes, or their ids are too long.
        """
        for place in self._inside(self.file.root, None):
            self._add(place)
            inner = self.file.inside(place.node)
            runs = place.node.saved.mode not in (MUTED, BYPASSED)
            if inner is not None and (runs or self.file.era.is_old):
                self._enter(inner, place)

    def _enter(self, inner: OpenGraph, around: Place) -> None:
        ahead = [self._inside(inner, around)]
        while ahead:  # no recursion: subgraphs may be nested deeper than Python's stack
            place = next(ahead[-1], None)
            if place is None:
                ahead.pop()
                continue
            if len(self.places) >= MAX_NODES or len(ahead) > _DEEPEST:
                raise WorkflowError(
                    f"the subgraphs of the workflow come to more than {MAX_NODES} nodes, or "
                    f"{_DEEPEST} levels"
                )
            self._add(place)
            deeper = self.file.inside(place.node)
            if deeper is not None:
                ahead.append(self._inside(deeper, place))

    def _add(self, place: Place) -> None:
        self.places[place.id] = place
        self._first.setdefault(place.node, place)
        self._letters += len(place.id)
        if self._letters > _MOST_LETTERS:
            raise WorkflowError("the ids of the nodes, with those of their subgraphs, are too long")

    def _inside(self, graph: OpenGraph, around: Place | None) -> Iterator[Place]:
        before = "" if around is None else f"{around.id}:"
        for node in graph.nodes.values():
            yield Place(f"{before}{node.id}", node, graph, around)

    def resolve(self, place: Place, slot: Slot) -> Resolved:
        """Follow the link of an input to its source; return None if there is no source.

        Raises:
            WorkflowError: The links go round in a circle.
        """
        kind: str | None = None
        seen: set[tuple[str, int]] = set()
        passed: list[tuple[str, int, str | None]] = []
        while True:
            key = place.id, id(slot), kind
            if key in self._known:
                found = self._known[key]
                break
            passed.append(key)
            step = self._step(place, slot, kind, seen)
            if not isinstance(step, tuple):
                found = step
                break
            place, slot, kind = step
        for key in passed:  # so that a long chain is followed only once
            self._known[key] = found
        return found

    def _step(
        self, place: Place, slot: Slot, kind: str | None, seen: set[tuple[str, int]]
    ) -> Resolved | _Next:
        """Follow a link by one step: to the source, or to an input with the same source."""
        link = place.graph.link_of(slot)
        if link is None:
            return None
        if link.source == INSIDE_IN and place.around is not None:
            outer = self._outside(place.around, link.slot)
            return (place.around, outer, None) if isinstance(outer, Slot) else outer
        kind = slot.type if kind is None else kind
        return self._output(place, link.source, link.slot, kind, seen)

    def _outside(self, instance: Place, slot: int) -> Slot | PromotedValue | None:
        """Return the instance's input that feeds a link inside, its promoted value, or None."""
        inputs = instance.node.inputs
        outer = inputs[slot] if 0 <= slot < len(inputs) else None
        if outer is None:
            return None
        if instance.graph.link_of(outer) is not None:
            return outer
        return PromotedValue(outer.value) if outer.promoted else None

    def _output(
        self, place: Place, source: str, slot: int, kind: str, seen: set[tuple[str, int]]
    ) -> Resolved | _Next:
        """Return what an output leads to: a sent output, the next input, a dead link, or None."""
        around = place.around
        while True:
            found = self._place(around, source)
            if found is None:
                return None
            if found.node.saved.mode == MUTED and not self.file.era.is_old:
                return None
            if self._goes_round(found, slot, seen):
                return _CIRCLE
            node = found.node
            inner = self.file.inside(node)
            if node.saved.mode == BYPASSED:
                at = self._bypass(node, slot, kind)
                # People bypass a loader in order to leave the input out.
                return None if at is None else (found, node.inputs[at], None)
            if inner is None:
                if not is_virtual(node):
                    return LinkedOutput(found.id, slot)
                if node.type in GETTERS:
                    return self._set_node(found, slot, kind)
                if node.type == "PrimitiveNode" and self.file.inside(place.node) is not None:
                    return _IGNORED
                has = 0 <= slot < len(node.inputs)
                return (found, node.inputs[slot], kind) if has else None
            link = _output_link(inner, slot)
            if link is None:
                return _OPEN
            source, slot = link
            if source == INSIDE_IN:  # straight through the subgraph
                has = 0 <= slot < len(node.inputs)
                return (found, node.inputs[slot], kind) if has else None
            around = found

    def _set_node(self, getter: Place, slot: int, kind: str) -> DeadLink | _Next:
        """Return the input of the Set node that a Get node names."""
        found = self._setters.feeding(getter.node, getter.graph, slot)
        if isinstance(found, str):
            return DeadLink(found, is_wrong=True)
        setter, graph = found
        inside = graph is getter.graph
        place = self._place(getter.around, setter.id) if inside else self._first.get(setter)
        return _LEFT_OUT if place is None else (place, setter.inputs[slot], kind)

    def _place(self, around: Place | None, node_id: str) -> Place | None:
        return self.places.get(node_id if around is None else f"{around.id}:{node_id}")

    def _goes_round(self, place: Place, slot: int, seen: set[tuple[str, int]]) -> bool:
        """Return whether Set and Get nodes lead in a circle, and note that an output was passed.

        Raises:
            WorkflowError: Links alone go round in a circle.
        """
        self._spend(1)
        key = place.id, slot
        if key not in seen:
            seen.add(key)
            return False
        if any(self.places[each].node.type in GETTERS for each, _ in seen):
            return True
        raise WorkflowError(f"the links of node {shorten(place.id, 60)} go round in a circle")

    def _spend(self, steps: int) -> None:
        self._steps += steps
        if self._steps > _MOST_STEPS:
            raise WorkflowError("the links of the workflow are too long to follow")

    def _bypass(self, node: OpenNode, slot: int, kind: str) -> int | None:
        """Return the index of the input that a bypassed node passes to an output, or None."""
        key = node, slot, kind
        if key not in self._bypasses:
            self._spend(len(node.inputs))
            self._bypasses[key] = self._bypass_slot(node, slot, kind)
        return self._bypasses[key]

    def _bypass_slot(self, node: OpenNode, slot: int, kind: str) -> int | None:
        types = [each.type for each in node.inputs]
        if kind in ("*", ""):
            at = slot if slot < len(types) else 0
            return at if types else None
        gives = node.outputs[slot] if 0 <= slot < len(node.outputs) else None
        if gives is None:
            return None

        def fits(kind_in: str) -> bool:
            return self._fits(kind_in, gives) and self._fits(kind_in, kind)

        if slot < len(types) and fits(types[slot]):
            return slot
        if kind in types:
            return types.index(kind)
        return next((at for at, each in enumerate(types) if fits(each)), None)

    def _fits(self, one: str, other: str) -> bool:
        """Return whether the frontend can link two types; unions of types must share one."""
        if one == other or one in _ANYTHING or other in _ANYTHING:
            return True
        first, second = self._names(one), self._names(other)
        return not (
            first.isdisjoint(second)
            and _ANYTHING.isdisjoint(first)
            and _ANYTHING.isdisjoint(second)
        )

    def _names(self, kind: str) -> frozenset[str]:
        """Return the types of a union such as ``INT,FLOAT``, which may be very long in a file."""
        if kind not in self._types:
            self._types[kind] = frozenset(kind.lower().split(","))
        self._spend(len(self._types[kind]) // 16)
        return self._types[kind]


def _output_link(inner: OpenGraph, slot: int) -> tuple[str, int] | None:
    """Return the inner node and slot that feed a subgraph's output, or None if nothing does."""
    ports = inner.saved.outputs
    links = ports[slot].links if 0 <= slot < len(ports) else ()
    link = inner.saved.links[links[0]] if links else None
    return None if link is None else (link.source, link.slot)


# -- Set and Get nodes ------------------------------------------------------------------

#: The pair that also works across the borders of subgraphs.
_ACROSS: Final = "GetNode"
#: The most graphs around a subgraph.
_MOST_AROUND: Final = 100

#: A Set node and its graph, or why there is none.
Setter: TypeAlias = tuple[OpenNode, OpenGraph] | str


@define(eq=False)
class SetNodes:
    """The Set nodes of packs in a file, by graph, class and name.

    Their extension follows them in the browser: a Get node outputs what the Set node of the same
    name has as its input.  Names are compared as they are, and an empty one names nothing.

    ``SetNode`` and ``GetNode`` of KJNodes also pair across subgraphs: a Get node looks into its own
    graph first, and then into the graphs around it.  Those of Easy-Use pair in one graph only.
    """

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
