"""Classes for a file in UI format as it was saved: graphs of nodes, slots and links."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Final

from attrs import define

from ...errors import WorkflowError
from ...values import MAX_ID_LENGTH, is_shallow, is_small, list_at, number, table_at
from ..graph import brief, shorten

#: The ids that stand for a subgraph's inputs and outputs in its links.
INSIDE_IN: Final = "-10"
INSIDE_OUT: Final = "-20"
#: The modes of a node.
MUTED: Final = 2
BYPASSED: Final = 4
#: Limits: JSON values in a file, nodes of all graphs, slots of one node.
_MOST_VALUES: Final = 1_000_000
_MOST_NODES: Final = 50_000
_MOST_SLOTS: Final = 5_000


@define(eq=False)
class SavedLink:
    """A link from an output of a node to an input of another."""

    id: int
    source: str
    slot: int
    target: str
    target_slot: int
    type: str


@define(eq=False)
class SavedInput:
    """An input of a node, its widget, if it has one, and the rest of what the file says of it."""

    name: str
    type: str
    link: int | None
    widget: str | None
    raw: Mapping[str, Any]


@define(eq=False)
class SavedOutput:
    """An output of a node, and the rest of what the file says of it."""

    name: str
    type: str
    raw: Mapping[str, Any]


@define(eq=False)
class Port:
    """An input or an output of a subgraph, and its links inside.

    Attributes:
        was_widget: Whether an input led to a widget when the file was saved.
    """

    name: str
    type: str
    links: deque[int]
    was_widget: bool = False


@define(eq=False)
class SavedNode:
    """A node with the values of its widgets, by position or by name.

    Attributes:
        raw: All that the file says of it.
    """

    id: str
    type: str
    title: str | None
    mode: int
    inputs: list[SavedInput]
    outputs: list[SavedOutput]
    properties: Mapping[str, Any]
    values: list[Any] | Mapping[str, Any]
    named: Mapping[str, Any] | None
    raw: Mapping[str, Any]


@define(eq=False)
class SavedGraph:
    """The workflow itself, or the definition of a subgraph.

    Attributes:
        raw: All that the file says of it.
    """

    id: str
    name: str
    nodes: list[SavedNode]
    links: dict[int, SavedLink]
    inputs: list[Port]
    outputs: list[Port]
    raw: Mapping[str, Any]


@define(eq=False)
class SavedFile:
    """A whole file in UI format: the main graph, and the subgraphs by id."""

    root: SavedGraph
    subgraphs: dict[str, SavedGraph]
    last_node_id: int
    extra: Mapping[str, Any]


def read_file(ui: Mapping[str, Any]) -> SavedFile:
    """Read a file in UI format.

    Raises:
        WorkflowError: It is too large, of a newer frontend, or not in UI format.
    """
    if not is_small(ui, _MOST_VALUES):
        raise WorkflowError("the workflow is too large, or contains itself")
    if not is_shallow(ui):
        raise WorkflowError("the workflow is nested too deeply")
    _check_version(ui, "the workflow")
    root = _graph(ui, "", "the workflow")
    subgraphs: dict[str, SavedGraph] = {}
    for each in _definitions(ui):
        name = each.get("id")
        if not isinstance(name, str) or not name:
            raise WorkflowError(f"a subgraph of the workflow has no id: {brief(name)}")
        _check_version(each, f"the subgraph {shorten(name, 60)}")
        if name not in subgraphs:  # as in the frontend, the first one wins
            subgraphs[name] = _graph(each, name, f"the subgraph {shorten(name, 60)}")
    if len(root.nodes) + sum(len(one.nodes) for one in subgraphs.values()) > _MOST_NODES:
        raise WorkflowError(f"the workflow has more than {_MOST_NODES} nodes")
    last = number(ui.get("last_node_id")) or number(table_at(ui, "state").get("lastNodeId")) or 0
    return SavedFile(root, subgraphs, int(last), table_at(ui, "extra"))


def _check_version(data: Mapping[str, Any], where: str) -> None:
    version = data.get("version")
    major = version.partition(".")[0] if isinstance(version, str) else ""
    if (number(version) or 0) > 1 or (major.isdecimal() and int(major[:9]) > 1):
        raise WorkflowError(
            f"{where} has version {brief(version)}, of a frontend newer than this client knows; "
            "update comfy_client, or export it with Workflow > Export (API)"
        )


def _definitions(ui: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the definitions of subgraphs, outer ones first."""
    ahead = list(reversed(_objects(table_at(ui, "definitions").get("subgraphs"), "subgraphs")))
    while ahead:
        each = ahead.pop()
        yield each
        ahead += reversed(_objects(table_at(each, "definitions").get("subgraphs"), "subgraphs"))


def _graph(data: Mapping[str, Any], key: str, where: str) -> SavedGraph:
    nodes: dict[str, SavedNode] = {}
    repeated = []
    for each in _objects(data.get("nodes"), f"nodes of {where}"):
        node = _node(each, where)
        if node.id not in nodes:
            nodes[node.id] = node
        elif not key:
            repeated.append(node)  # the frontend drops them in a subgraph
    return SavedGraph(
        key,
        _text(data.get("name")) or key,
        [*nodes.values(), *repeated],
        _links(data.get("links"), where),
        [_port(each) for each in _objects(data.get("inputs"), f"inputs of {where}")],
        [_port(each) for each in _objects(data.get("outputs"), f"outputs of {where}")],
        data,
    )


def _node(data: Mapping[str, Any], where: str) -> SavedNode:
    node_id, kind = _id(data.get("id")), data.get("type")
    if node_id is None:
        raise WorkflowError(f"{where}: a node has no id: {brief(data.get('id'))}")
    called = f"node {shorten(node_id, 60)} of {where}"
    if not isinstance(kind, str) or not kind:
        raise WorkflowError(f"{called} has no type: {brief(kind)}")
    inputs = _objects(data.get("inputs"), f"inputs of {called}")
    outputs = _objects(data.get("outputs"), f"outputs of {called}")
    if len(inputs) > _MOST_SLOTS or len(outputs) > _MOST_SLOTS:
        raise WorkflowError(f"{called} has more than {_MOST_SLOTS} inputs or outputs")
    values, named = data.get("widgets_values"), data.get("widgets_values_named")
    mode = data.get("mode")
    return SavedNode(
        node_id,
        kind,
        _text(data.get("title")),
        mode if isinstance(mode, int) else 0,
        [_input(each) for each in inputs],
        [SavedOutput(_text(each.get("name")) or "", _type(each), each) for each in outputs],
        table_at(data, "properties"),
        values if isinstance(values, (list, Mapping)) else [],
        named if isinstance(named, Mapping) else None,
        data,
    )


def _input(data: Mapping[str, Any]) -> SavedInput:
    widget = _text(table_at(data, "widget").get("name"))
    name, kind = _text(data.get("name")) or "", _type(data)
    return SavedInput(name, kind, _number(data.get("link")), widget or None, data)


def _port(data: Mapping[str, Any]) -> Port:
    ids = map(_number, list_at(data, "linkIds"))
    name = _text(data.get("name")) or ""
    return Port(name, _type(data), deque(one for one in dict.fromkeys(ids) if one is not None))


def _links(data: Any, where: str) -> dict[int, SavedLink]:
    """Read links by id, from objects or lists of id, source, slot, target, slot and type."""
    links: dict[int, SavedLink] = {}
    if data is None:
        return links
    if not isinstance(data, list):
        raise WorkflowError(f"{where}: links is not a list: {brief(data)}")
    for each in data:
        if each is None:
            continue  # leftovers of old editors
        if isinstance(each, Mapping):
            names = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
            found, kind = [each.get(name) for name in names], each
        else:
            found = each[:5] if isinstance(each, list) and len(each) >= 5 else [None] * 5
            kind = {"type": each[5]} if isinstance(each, list) and len(each) > 5 else {}
        number_, slot, target_slot = _number(found[0]), _number(found[2]), _number(found[4])
        source, target = _id(found[1]), _id(found[3])
        if None in (number_, slot, target_slot, source, target):
            raise WorkflowError(f"{where}: this is not a link: {brief(each)}")
        ends = source or "", slot or 0, target or "", target_slot or 0
        link = SavedLink(number_ or 0, *ends, _type(kind))
        links.setdefault(link.id, link)
    return links


def _type(data: Mapping[str, Any]) -> str:
    """Return the type of a slot: a name, COMBO for a list of options, ``*`` for anything else."""
    kind = data.get("type")
    if isinstance(kind, list):
        return "COMBO"
    return kind if isinstance(kind, str) else "*"


def _objects(value: Any, what: str) -> list[Mapping[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, Mapping) for each in value):
        raise WorkflowError(f"the {what} are not a list of objects: {brief(value)}")
    return value


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> int | None:
    """Read a whole number, which may be a text; return None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 16:
        return int(value)
    found = number(value)
    return int(found) if found is not None and found == int(found) else None


def _id(value: Any) -> str | None:
    if isinstance(value, str):
        if len(value) > MAX_ID_LENGTH:  # ids of instances around it are prepended to it
            raise WorkflowError(f"an id has more than {MAX_ID_LENGTH} characters: {brief(value)}")
        return value or None
    found = _number(value)
    return None if found is None else str(found)
