"""Read a workflow from what carries one: a file, JSON text, a dict, and their wrappers."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import WorkflowError
from .definitions import Definitions
from .graph import brief, copied, describe, json_link, shorten
from .ui_format import UiFormat

#: What :func:`load_graph` reads.
Readable: TypeAlias = "Mapping[str, Any] | Mapping[int, Any] | str | bytes | os.PathLike[str]"


def load_graph(
    source: Readable, definitions: Definitions | None = None, ui_format: UiFormat | None = None
) -> dict[str, Any]:
    """What :meth:`Workflow.load` reads, as a dict of one's own."""
    data, where = _read(source)
    try:
        found = _unwrap(data, where)
        if is_ui_format(found):
            found = (ui_format or UiFormat()).convert(found, where, definitions)
        return _graph(found, where)
    except RecursionError:
        raise WorkflowError(f"{where}: nested too deeply") from None


def _read(source: object) -> tuple[Any, str]:
    """What was given, decoded, and what to call it in messages."""
    if isinstance(source, Mapping):
        return source, "the workflow"
    if isinstance(source, str) and source.lstrip("\ufeff \t\r\n").startswith(("{", "[")):
        return _decode(source.lstrip("\ufeff"), "the workflow text"), "the workflow text"
    if isinstance(source, bytes):
        return _decode(source, "the workflow text"), "the workflow text"
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        try:
            content = path.read_bytes()
        except OSError as exc:
            if exc.errno not in (errno.ENOENT, errno.ENAMETOOLONG):
                raise
            raise FileNotFoundError(
                errno.ENOENT, "no such workflow file", shorten(str(path), 200)
            ) from None
        return _decode(content, str(path)), str(path)
    raise TypeError(
        f"a workflow is a path, JSON text, a dict or a Workflow, not {type(source).__name__}"
    )


def _decode(text: str | bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as exc:
        raise WorkflowError(
            f"{where}, line {exc.lineno}, column {exc.colno}: not valid JSON: {exc.msg}"
        ) from None
    except UnicodeDecodeError:
        raise WorkflowError(
            f"{where}: not JSON text; a workflow is the JSON file that the menu exports"
        ) from None
    except (ValueError, RecursionError) as exc:
        raise WorkflowError(f"{where}: cannot be read as JSON: {exc}") from None


def _unwrap(data: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        kind = "a list" if isinstance(data, list) else brief(data)
        raise WorkflowError(f"{where}: a workflow is an object of nodes by id, not {kind}")
    if is_ui_format(data):
        return data
    for wrapper in ("prompt", "output", "workflow"):
        inner = data.get(wrapper)
        if isinstance(inner, Mapping) and not {"class_type", "inputs"} & inner.keys():
            return _unwrap(inner, where)
    return data


def is_ui_format(data: Mapping[Any, Any]) -> bool:
    """Whether it is a graph of the page, as its Save writes it: a list of nodes, with links."""
    return isinstance(data.get("nodes"), list)


def _graph(data: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """A checked copy, with ids as strings; an id that is a number is so in links too."""
    if not data:
        raise WorkflowError(f"{where}: no nodes in it")
    graph: dict[str, Any] = {}
    for key, node in data.items():
        if not isinstance(key, (str, int)) or isinstance(key, bool):
            raise WorkflowError(f"{where}: the node id {brief(key)} is not a string")
        node_id = str(key)
        if node_id in graph:
            raise WorkflowError(f"{where}: two nodes have the id {brief(node_id)}")
        if not isinstance(node, Mapping):
            raise WorkflowError(f"{where}: node {brief(node_id)} is no object: {brief(node)}")
        graph[node_id] = own = copied(node)
        # The server stumbles over a node without them.
        inputs = own.setdefault("inputs", {})
        class_type = own.get("class_type")
        if not isinstance(class_type, str) or not class_type:
            raise WorkflowError(f"{where}: {describe(graph, node_id)} has no class_type")
        if not isinstance(inputs, dict):
            raise WorkflowError(
                f"{where}: {describe(graph, node_id)}: inputs is no object: {brief(inputs)}"
            )
    for node in graph.values():
        for name, value in node["inputs"].items():
            if isinstance(value, list):
                node["inputs"][name] = json_link(graph, value)
    return graph
