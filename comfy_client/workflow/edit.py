"""Load a workflow, change its inputs by name, save it."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TypeAlias

from ..errors import WorkflowError
from ..nearest import nearest
from .graph import (
    as_link,
    brief,
    copied,
    describe,
    json_graph,
    json_link,
    json_value,
    link_fault,
    listing,
    title_of,
)
from .load import Readable, load_graph

#: What :meth:`Workflow.load` takes.
Source: TypeAlias = "Workflow | Readable"


class Node:
    """One node of a :class:`Workflow`: a live view, which only the workflow creates.

    ``node["seed"]`` reads an input, ``node["seed"] = 7`` sets one that exists.
    """

    def __init__(self, graph: dict[str, Any], node_id: str) -> None:
        self._graph = graph
        self._id = node_id

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
        """The title of the node (``_meta.title``); ``None``: none.  Setting ``None`` removes it."""
        return title_of(self._graph, self._id)

    @title.setter
    def title(self, title: str | None) -> None:
        meta = self._data.get("_meta")
        meta = dict(meta) if isinstance(meta, dict) else {}
        meta.pop("title", None)
        self._data["_meta"] = meta if title is None else {**meta, "title": title}

    @property
    def inputs(self) -> Mapping[str, Any]:
        """All inputs by name, read-only: values, and links as ``[node id, slot]``."""
        return MappingProxyType(self._inputs)

    def output(self, slot: int = 0) -> list[Any]:
        """A link to an output of this node, for an input of another node."""
        return [self._id, slot]

    def set(self, name: str, value: Any, *, force: bool = False) -> None:
        """Set an input to a value, or link it to another node.

        Args:
            name: The name of the input.
            value: Any JSON value (numpy numbers are converted), or a link:
                ``other.output(0)``, ``[node id, slot]``.
            force: Whether to add an input that the node does not have yet, and to replace a
                link by a value.

        Raises:
            WorkflowError: Unknown input (``candidates`` are similar names), a link that would be
                lost, a link to a missing node, or a value that JSON cannot represent.
        """
        if isinstance(value, Node):
            raise TypeError(f"link to an output of the node: wf[...].output(0), not {value!r}")
        if not isinstance(name, str):
            raise TypeError(f"the name of an input is a str, not {brief(name)}")
        if not force:
            self._need(name, f"node.set({brief(name)}, value, force=True) adds it")
        try:
            value = json_value(value)
        except (ValueError, RecursionError) as exc:
            raise WorkflowError(f"{self._where(name)}: {exc}") from None
        link = as_link(value)
        if isinstance(value, list):
            fault = link_fault(self._graph, self._id, value)
            if fault:
                raise WorkflowError(f"{self._where(name)}: {fault}")
            value = json_link(self._graph, value)
        old = as_link(self._inputs.get(name))
        if old and not link and not force:
            raise WorkflowError(
                f"{self._where(name)} is linked to {describe(self._graph, old[0])}, slot {old[1]}; "
                f"node.set({brief(name)}, value, force=True) replaces the link by a value"
            )
        self._inputs[name] = value

    def __getitem__(self, name: str) -> Any:
        self._need(name)
        return copied(self._inputs[name])

    def __setitem__(self, name: str, value: Any) -> None:
        self.set(name, value)

    def __delitem__(self, name: str) -> None:
        self._need(name)
        del self._inputs[name]

    def __contains__(self, name: object) -> bool:
        return name in self._inputs

    def __iter__(self) -> Iterator[str]:
        return iter(self._inputs)

    def __repr__(self) -> str:
        title = f" {brief(self.title)}" if self.title else ""
        return f"<Node {self._id}{title} {self.class_type}>"

    @property
    def _data(self) -> dict[str, Any]:
        data: dict[str, Any] = self._graph[self._id]
        return data

    @property
    def _inputs(self) -> dict[str, Any]:
        inputs: dict[str, Any] = self._data["inputs"]
        return inputs

    def _where(self, name: str) -> str:
        return f"{describe(self._graph, self._id)}, input {brief(name)}"

    def _need(self, name: str, hint: str = "") -> None:
        if name in self._inputs:
            return
        near = nearest(str(name), self._inputs)
        if name == "inputs":
            hint = "inputs are addressed directly, as in node['seed']"
        told = f"nearest: {listing(near)}" if near else f"it has {listing(self._inputs) or 'none'}"
        raise WorkflowError(
            f"{describe(self._graph, self._id)} has no input {brief(name)}; {told}"
            + (f"; {hint}" if hint else ""),
            candidates=near or tuple(self._inputs),
        )


class Workflow:
    """A workflow in API format, to edit and run.

    Nodes are found by their exact id, title or class, in this order::

        wf = Workflow.load("txt2img.json")
        wf["KSampler"]["seed"] = 7
        wf["Positive prompt"]["text"] = "a lighthouse at dusk"

    Iteration yields the nodes in the order of the file.  A loaded dict is copied and never
    changed.  Two workflows are equal if their graphs are.
    """

    def __init__(self, source: Source, definitions: object = None) -> None:
        """As :meth:`load`."""
        readable = source._graph if isinstance(source, Workflow) else source
        self._graph: dict[str, Any] = load_graph(readable, definitions)
        self._nodes = {node_id: Node(self._graph, node_id) for node_id in self._graph}

    @classmethod
    def load(cls, source: Source, definitions: object = None) -> Workflow:
        """Read a workflow in API format.

        Example::

            from comfy_client import Workflow

            workflow = Workflow.load("txt2img.json")
            workflow["KSampler"]["seed"] = 7
            workflow.save("changed.json")

        Args:
            source: A path, JSON text (``bytes``, or ``str`` that begins with ``{``), a dict,
                or another workflow.  It may be wrapped: ``{"prompt": ...}`` (the body of a
                ``POST /prompt``), ``{"output": ...}`` (the result of the page's
                ``graphToPrompt``) or ``{"workflow": ...}``.
            definitions: The server's node definitions: a client, or a dict as ``GET
                /object_info`` answers it.  ``None``: none.

        Raises:
            FileNotFoundError: No such file.
            WorkflowError: Not JSON (with line and column), not a graph, or a graph in the
                editor's format; the message says which menu exports the right one.
        """
        return cls(source, definitions)

    @classmethod
    def example(cls) -> Workflow:
        """A text-to-image workflow, the one of ``comfy-client demo``.

        It runs on the embedded server as it is.  On another server, set a checkpoint first::

            workflow = Workflow.example()
            workflow["CheckpointLoaderSimple"]["ckpt_name"] = api.get_checkpoints()[0]
            workflow["Positive prompt"]["text"] = "a mill in the fog"
            api.run(workflow)
        """
        from importlib.resources import files  # most programs do without

        return cls((files("comfy_client") / "demo.json").read_text("utf-8"))

    @property
    def nodes(self) -> Mapping[str, Node]:
        """All nodes by id."""
        return MappingProxyType(self._nodes)

    def find(self, class_type: str | None = None, title: str | None = None) -> list[Node]:
        """The nodes of this class and this title; ``None`` matches all."""
        return [
            node
            for node in self
            if class_type in (None, node.class_type) and title in (None, node.title)
        ]

    def copy(self) -> Workflow:
        """An independent copy."""
        return Workflow(self)

    __copy__ = copy

    def to_dict(self) -> dict[str, Any]:
        """A copy of the graph, in the format of ``POST /prompt``."""
        graph: dict[str, Any] = copied(self._graph)
        return graph

    def to_json(self) -> str:
        """The graph as JSON text, indented, in the order of the nodes.

        Raises:
            WorkflowError: It contains NaN, or another value that JSON cannot represent.
        """
        text = json.dumps(json_graph(self._graph, links=False), indent=2, ensure_ascii=False)
        # Half of a surrogate pair is legal in JSON only as an escape.
        return re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write :meth:`to_json` in UTF-8, and return the path.

        The file appears only when it is complete, and replaces one of that name.
        """
        path = Path(path)
        content = (self.to_json() + "\n").encode()
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return path

    def __getitem__(self, name: str | int) -> Node:
        if not isinstance(name, (str, int)):
            raise TypeError(f"a node is addressed by id, title or class, not by {brief(name)}")
        found = self._named(str(name))
        if len(found) == 1:
            return found[0]
        if found:
            names = "; ".join(describe(self._graph, node.id) for node in found[:8])
            more = f"; ... ({len(found)} in all)" if len(found) > 8 else ""
            raise WorkflowError(
                f"{brief(name)} is ambiguous, address the node by its id: {names}{more}",
                candidates=tuple(node.id for node in found),
            )
        names_of = (name for node in self for name in (node.title, node.class_type, node.id))
        known = tuple(dict.fromkeys(name for name in names_of if name))
        near = nearest(str(name), known)
        told = f"nearest: {listing(near)}" if near else f"there are {listing(known)}"
        raise WorkflowError(
            f"no node has the id, title or class {brief(name)}; {told}", candidates=near or known
        )

    def __contains__(self, name: object) -> bool:
        if isinstance(name, Node):
            return self._nodes.get(name.id) is name
        return isinstance(name, (str, int)) and bool(self._named(str(name)))

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def __len__(self) -> int:
        return len(self._nodes)

    def __eq__(self, other: object) -> bool:
        return self._graph == other._graph if isinstance(other, Workflow) else NotImplemented

    __hash__: ClassVar[None] = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        classes = list(dict.fromkeys(node.class_type for node in self))
        more = ", ..." if len(classes) > 3 else ""
        noun = "node" if len(self) == 1 else "nodes"
        return f"<Workflow {len(self)} {noun}: {', '.join(classes[:3])}{more}>"

    def _named(self, name: str) -> list[Node]:
        if name in self._nodes:
            return [self._nodes[name]]
        return self.find(title=name) or self.find(class_type=name)


# -- reading ----------------------------------------------------------------------------


def as_workflow(source: Source, definitions: object = None) -> Workflow:
    """A :class:`Workflow`, whose ``repr`` shows no value that a frame holds."""
    if isinstance(source, Workflow):
        return source
    try:
        return Workflow(source, definitions)
    except WorkflowError as exc:
        raise exc.with_traceback(None) from None


def graph_of(source: Source) -> Mapping[str, Any]:
    """The graph of a workflow, which is not to be changed; else a copy of what carries one."""
    return source._graph if isinstance(source, Workflow) else load_graph(source)
