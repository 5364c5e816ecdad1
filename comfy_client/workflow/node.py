"""The nodes of a workflow, by id, title or class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ..errors import WorkflowError
from ..redaction import is_secret_value, sealed
from ..showing.cells import Shown
from ..values import table_at
from .address import checked_value, no_input, node_named, nodes_named
from .graph import as_link, brief, class_of, copied, describe, inputs_of, shorten, title_of


class Node(Shown):
    """A node of a :class:`Workflow`: a live view, which only the workflow creates.

    ``node["seed"]`` reads an input, ``node["seed"] = 7`` sets an existing one, and so do
    ``node.seed`` and ``node.seed = 7`` where no attribute of :class:`Node` has that name.
    """

    __slots__ = ("__weakref__", "_graph", "_id")

    _graph: dict[str, Any]
    _id: str

    def __init__(self, graph: dict[str, Any], node_id: str) -> None:
        # Not by the method of this class, which looks for inputs, too.
        object.__setattr__(self, "_graph", graph)
        object.__setattr__(self, "_id", node_id)

    @property
    def id(self) -> str:
        """The id of the node: its key in the workflow."""
        return self._id

    @property
    def class_type(self) -> str:
        """The class of the node, a key of ``GET /object_info``."""
        return str(self._data["class_type"])

    @property
    def title(self) -> str | None:
        """The title of the node (``_meta.title``), or None.  Setting None removes it."""
        return title_of(self._graph, self._id)

    @title.setter
    def title(self, title: str | None) -> None:
        meta = dict(table_at(self._data, "_meta"))
        meta.pop("title", None)
        self._data["_meta"] = meta if title is None else {**meta, "title": title}

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The inputs by name, read-only: values, and links as ``[node id, slot]``."""
        return MappingProxyType(self._inputs)

    def output(self, slot: int = 0) -> list[Any]:
        """Return a link to an output of this node, for an input of another node."""
        return [self._id, slot]

    def set(self, name: str, value: Any, *, force: bool = False) -> None:
        """Set an input to a value or a file to upload, or link it to an output of another node.

        Args:
            name: The name of the input.
            value: Any JSON value (numpy numbers are converted); a link: ``other.output(0)``,
                ``[node id, slot]``; or a file that is uploaded when the workflow is submitted: a
                :class:`~pathlib.Path`, bytes, an open file, a Pillow image, an array, a tensor, an
                output or an :class:`Upload`.
            force: Whether to add an input that the node does not have yet, and to replace a
                link by a value.

        Raises:
            WorkflowError: Unknown input (``candidates`` are similar names), a link that would be
                lost, a link to a missing node, a value that JSON cannot represent, or a picture of
                another shape or range than :meth:`ComfyApi.upload_image` says.
            FileNotFoundError: There is no such local file.
            MissingExtra: A picture, and Pillow or NumPy is not installed.
        """
        check_no_node(value)
        if not isinstance(name, str):
            raise TypeError(f"the name of an input must be a str, not {brief(name)}")
        if not force:
            self._need(name, f"node.set({brief(name)}, value, force=True) adds it")
        self._inputs[name] = checked_value(self._graph, self._id, name, value, force=force)

    def __getitem__(self, name: str) -> Any:
        self._need(name)
        return copied(self._inputs[name])

    def __setitem__(self, name: str, value: Any) -> None:
        self.set(name, value)

    if not TYPE_CHECKING:  # or any name would pass a type checker

        def __getattr__(self, name: str) -> Any:
            """Return the input of that name; raise AttributeError if there is none."""
            if hasattr(type(self), name):  # a property raised it, and does so again
                return object.__getattribute__(self, name)
            self._need_attribute(name)
            return self[name]

        def __setattr__(self, name: str, value: Any) -> None:
            """Set an attribute such as ``title``, or else the input of that name."""
            if hasattr(type(self), name):
                object.__setattr__(self, name, value)
                return
            self._need_attribute(name)
            self.set(name, value)

    def __dir__(self) -> list[str]:
        """List the attributes, and the inputs that can be read and set like them."""
        return sorted({*super().__dir__(), *filter(str.isidentifier, self._inputs)})

    def _need_attribute(self, name: str) -> None:
        """Raise AttributeError if there is no input of that name, either."""
        if name.startswith("_") or name not in self._inputs:
            is_own = name.startswith("_")
            error = "no such attribute" if is_own else no_input(self._graph, self._id, name)
            text = f"{type(self).__name__!r} object has no attribute {name!r}: {error}"
            raise AttributeError(text, name=name, obj=self)

    def __delitem__(self, name: str) -> None:
        self._need(name)
        del self._inputs[name]

    def __contains__(self, name: object) -> bool:
        return name in self._inputs

    def __iter__(self) -> Iterator[str]:
        return iter(self._inputs)

    def __repr__(self) -> str:
        if self._id not in self._graph:
            return f"<Node {shorten(self._id, 60)}, removed>"
        title = f" {brief(self.title)}" if self.title else ""
        return f"<Node {shorten(self._id, 60)}{title} {shorten(self.class_type, 60)}>"

    def __str__(self) -> str:
        return as_text(self._alone, self._graph) if self._alone else repr(self)

    def _html(self) -> str:
        return as_html(self._alone, self._graph)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._inputs)

    @property
    def _alone(self) -> dict[str, Any]:
        """A graph of this node alone; empty if the node was removed."""
        return {self._id: self._graph[self._id]} if self._id in self._graph else {}

    @property
    def _data(self) -> dict[str, Any]:
        if self._id not in self._graph:
            raise WorkflowError(f"node {brief(self._id)} was removed from the workflow")
        data: dict[str, Any] = self._graph[self._id]
        return data

    @property
    def _inputs(self) -> dict[str, Any]:
        inputs: dict[str, Any] = self._data["inputs"]
        return inputs

    def _need(self, name: str, hint: str = "") -> None:
        if name not in self._inputs:
            raise no_input(self._graph, self._id, str(name), hint=hint)


def check_no_node(*values: object) -> None:
    """Raise TypeError if a node is given where one of its outputs is wanted."""
    for value in values:
        if isinstance(value, Node):
            raise TypeError(f"link to an output of the node: wf[...].output(0), not {value!r}")


class Nodes(Shown):
    """The nodes of a graph, as a workflow shows them; the base of :class:`Workflow`."""

    __slots__ = ("__weakref__", "_graph", "_nodes")  # a misspelt attribute cannot be set

    def __init__(self, graph: dict[str, Any]) -> None:
        self._graph = graph
        self._nodes = {node_id: Node(graph, node_id) for node_id in graph}

    @property
    def nodes(self) -> Mapping[str, Node]:
        """The nodes by id."""
        return MappingProxyType(self._nodes)

    def find(
        self, class_type: str | None = None, title: str | None = None, *, input: str | None = None
    ) -> list[Node]:
        """Return the nodes of this class, with this title and this input; None matches all.

        ``wf.find(input="seed")`` returns all nodes that have an input ``seed``.
        """
        return [
            node
            for node in self
            if class_type in (None, node.class_type)
            and title in (None, node.title)
            and (input is None or input in node)
        ]

    def __getitem__(self, name: str | int) -> Node:
        if not isinstance(name, (str, int)):
            raise TypeError(f"a node is addressed by id, title or class, not by {brief(name)}")
        return self._nodes[node_named(self._graph, str(name))]

    def __contains__(self, name: object) -> bool:
        if isinstance(name, Node):
            return self._nodes.get(name.id) is name
        return isinstance(name, (str, int)) and bool(nodes_named(self._graph, str(name)))

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def __len__(self) -> int:
        return len(self._nodes)

    def __eq__(self, other: object) -> bool:
        return self._graph == other._graph if isinstance(other, Nodes) else NotImplemented

    __hash__: ClassVar[None] = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        classes = list(dict.fromkeys(shorten(node.class_type, 60) for node in self))
        more = ", ..." if len(classes) > 3 else ""
        noun = "node" if len(self) == 1 else "nodes"
        return f"<Workflow {len(self)} {noun}: {', '.join(classes[:3])}{more}>"

    def __str__(self) -> str:
        return as_text(self._graph)

    def _html(self) -> str:
        return as_html(self._graph)

    def _ipython_key_completions_(self) -> list[str]:
        """Return names that identify exactly one node."""
        titles = Counter(node.title for node in self)
        classes = Counter(node.class_type for node in self)
        names = [title for title, count in titles.items() if title and count == 1]
        names += [name for name, count in classes.items() if count == 1 and name not in titles]
        return list(dict.fromkeys([*names, *self._nodes]))

    def _id_of(self, node: Node | str | int) -> str:
        """Return the id of a node, given as a node of this workflow or by a name."""
        if isinstance(node, Node):
            if node not in self:
                raise WorkflowError(f"{node!r} is not a node of this workflow")
            return node.id
        return self[node].id

    def _refresh(self) -> None:
        """Rebuild the table of nodes after a change; nodes that stay keep their objects."""
        self._nodes = {key: self._nodes.get(key) or Node(self._graph, key) for key in self._graph}


# -- tables -----------------------------------------------------------------------------

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
    return Table(("id", "title", "class", "input", "value"), rows, below=list(_rest(shown))).html()


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
