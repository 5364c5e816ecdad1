"""Workflows from files of all kinds, JSON, and answers of a server."""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    BinaryIO,
    Final,
    Protocol,
    TextIO,
    TypeAlias,
    runtime_checkable,
)

from ..errors import WorkflowError
from ..values import table_at
from .graph import JSON_TYPES, brief, copied, describe, json_link, shorten
from .metadata.stream import NEITHER, decoded

if TYPE_CHECKING:
    from .convert import Chooser
    from .definition_source import Definitions
    from .ui_format import Prompts, Unread

#: The most bytes of JSON; no workflow has so many.
MAX_JSON: Final = 64 << 20
#: The most bytes of other content.
_ENOUGH: Final = 1 << 16
#: Bytes before the first bracket of JSON: byte order marks, zeros of UTF-16, spaces.
_BEFORE_JSON: Final = b"\xef\xbb\xbf\xff\xfe\0 \t\r\n"
#: How the text begins that Git keeps in place of a large file.
_LFS_POINTER: Final = b"version https://git-lfs.github.com/spec/"
#: What to do if there is no such workflow file.
MAKES_ONE: Final = (
    "Workflow.example().save('txt2img.json') makes one, or comfy-client example > txt2img.json"
)


class NotAWorkflow(WorkflowError):
    """The source is whole, and something else than a workflow."""


class HasGraph(Protocol):
    """An object with a graph in API format, such as a job or a result."""

    @property
    def graph(self) -> Mapping[str, Any]:
        """The graph; empty if not known yet."""


class HasWorkflow(Protocol):
    """A server's record of a prompt, from the queue, the history or the jobs API."""

    @property
    def workflow(self) -> Mapping[str, Any] | None:
        """The graph, alone or under ``prompt`` together with ``extra_data``; None if not known."""


class HasDict(Protocol):
    """An object that returns a graph as a dict, such as a :class:`Workflow`."""

    def to_dict(self) -> dict[str, Any]:
        """Return the graph."""


class GivesWorkflow(Protocol):
    """An output, which can load the workflow that made it."""

    def workflow(self) -> HasDict:
        """Load the workflow."""


@runtime_checkable
class OpensImages(Protocol):
    """A client that opens files of its server by URL, such as a :class:`ComfyApi`."""

    def open_image(self, info: str) -> BinaryIO:
        """Open a file of the server for random access; raise ValueError for another server."""


#: Attributes that hold a graph.
_GRAPHS: Final = ("graph", "workflow")
#: A source for :func:`read_source`.
Readable: TypeAlias = (
    Mapping[str, Any]
    | Mapping[int, Any]
    | str
    | bytes
    | bytearray
    | memoryview
    | os.PathLike[str]
    | BinaryIO
    | TextIO
    | HasGraph
    | HasWorkflow
    | GivesWorkflow
)


def read_source(
    source: Readable,
    definitions: Definitions | None = None,
    *,
    strict: bool = False,
    dynamic_prompts: int | Chooser | None = None,
    packs: Mapping[str, str] | None = None,
) -> tuple[dict[str, Any], Prompts | None, Unread | None]:
    """Read a workflow for :meth:`Workflow.load`; return a new graph, its prompts, and what is left.

    The prompts are :attr:`Conversion.prompts` for a file in UI format, None for others.  What is
    left are nodes of such a file whose values could not be read, as the server lacks their class.
    """
    data, where = _read(source, definitions)
    prompts = unread = None
    try:
        found = _unwrap(data, where)
        if is_ui_format(found):
            from .ui_format import to_api, unread_in  # most workflows are in API format

            try:
                done = to_api(
                    found,
                    where,
                    definitions,
                    strict=strict,
                    dynamic_prompts=dynamic_prompts,
                    packs=packs,
                )
            except WorkflowError as exc:
                if any(map(_is_like_a_ui_node, found["nodes"])):
                    raise
                said = str(exc).removeprefix(f"{where}: ")
                raise NotAWorkflow(f"{where}: no workflow of ComfyUI: {said}") from None
            unread = unread_in(found, where, done, dynamic_prompts)
            found, prompts = done.graph, done.prompts
        return _graph(found, where), prompts, unread
    except RecursionError:
        raise WorkflowError(f"{where}: nested too deeply") from None


def is_source(value: object) -> bool:
    """Return whether a value is a single source, rather than an iterable of several."""
    return (
        isinstance(value, (Mapping, str, bytes, bytearray, memoryview, os.PathLike))
        or callable(getattr(value, "read", None))
        or any(hasattr(value, name) for name in _GRAPHS)
    )


# -- sources ------------------------------------------------------------------------------


def _read(source: Any, api: object) -> tuple[Any, str]:
    """Decode a source; return the data and a name for messages."""
    if isinstance(source, (dict, Mapping)):
        return source, "the workflow"
    if isinstance(source, str) and source.lstrip("\ufeff \t\r\n").startswith(("{", "[")):
        return _json(source.lstrip("\ufeff"), "the workflow text"), "the workflow text"
    if isinstance(source, str) and re.match("https?://", source, re.IGNORECASE):
        with _open_url(source, api) as file:
            return _content(file, where := shorten(file.name, 200)), where
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _content(io.BytesIO(source), "the data"), "the data"
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        with _open(path) as file:
            return _content(file, str(path)), str(path)
    if callable(getattr(source, "read", None)):
        name = getattr(source, "name", None)
        where = shorten(name, 200) if isinstance(name, str) else "the file"
        if isinstance(source, io.TextIOBase):
            return _json(source.read(MAX_JSON + 1), where), where
        return _content(source, where), where
    for name in _GRAPHS:
        graph = getattr(source, name, None)
        if callable(graph):
            graph = graph().to_dict()
        if isinstance(graph, Mapping) or (graph is None and hasattr(source, name)):
            where = f"the {name} of this {type(source).__name__}"
            if not graph:
                raise WorkflowError(f"{where} is not known")
            is_plain = name == "workflow" and "prompt" not in graph
            return _record(graph) if is_plain else graph, where
    raise TypeError(
        "a workflow must be a path, JSON text, a dict, an open file, a URL of the server, a job, a "
        f"result, an output or a Workflow, not {type(source).__name__}"
    )


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the path
        if isinstance(exc, PermissionError) and path.is_dir():  # Windows says so of folders
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path)) from None
        if isinstance(exc, OSError) and exc.errno not in (errno.ENOENT, errno.ENAMETOOLONG):
            raise
        error = FileNotFoundError(errno.ENOENT, "no such workflow file", shorten(str(path), 200))
        error.add_note(MAKES_ONE)
        raise error from None


def _open_url(url: str, api: object) -> BinaryIO:
    """Open a URL with the client of its server, and with no other."""
    if not isinstance(api, OpensImages):
        raise WorkflowError("a URL needs the client of its server: Workflow.load(url, api)")
    try:
        return api.open_image(url)
    except ValueError as exc:
        raise WorkflowError(str(exc)) from None


def _content(file: BinaryIO, where: str) -> Any:
    """Decode the workflow in an open file, which is JSON or a media file with metadata."""
    from .metadata.stream import Stream

    stream = Stream(file)
    start = stream.head.lstrip(_BEFORE_JSON)
    is_length = stream.head[4:8] == bytes(4)  # the length of the JSON header of safetensors
    is_json = start.startswith((b"{", b"["))
    if not is_length and (is_json or not start):
        return _json_unless_named_picture(stream.read(MAX_JSON + 1), where, is_json)
    from .metadata.read import read_metadata, reader_of  # not needed for JSON

    reader = reader_of(stream)
    if reader is None:
        return _json_unless_named_picture(stream.read(_ENOUGH), where, is_json)
    try:
        found = read_metadata(stream, reader)
    except WorkflowError as exc:
        raise WorkflowError(f"{where}: {exc}") from None
    found = {name: value for name, value in found.items() if isinstance(value, Mapping)}
    if not found:
        raise NotAWorkflow(
            f"{where}: no workflow in this {stream.name}; ComfyUI saves one there (unless it runs "
            "with --disable-metadata), and most programs and sites that change the file drop it"
        )
    if "prompt" in found:
        found["prompt"] = _record(found["prompt"])
    return found


def _json_unless_named_picture(content: bytes, where: str, is_json: bool) -> Any:
    """Decode JSON; if a file is named like a picture, the error says that it is neither.

    If ``is_json``, the content begins like JSON, and the error is always about its JSON.
    """
    if content.startswith(_LFS_POINTER):
        raise WorkflowError(f"{where}: a pointer of Git LFS; git lfs pull fetches the file itself")
    try:
        return _json(content, where)
    except WorkflowError:
        import mimetypes

        kind = (mimetypes.guess_type(where)[0] or "").partition("/")[0]
        if is_json or kind not in ("image", "video", "audio", "model"):
            raise
        raise WorkflowError(f"{where}: {NEITHER}") from None


def _record(graph: Mapping[str, Any]) -> list[Any]:
    """Return a graph wrapped as in the server's queue and history."""
    return [None, None, graph]


def _json(text: str | bytes, where: str) -> Any:
    if len(text) > MAX_JSON:
        raise WorkflowError(f"{where}: larger than {MAX_JSON >> 20} MiB, too large for a workflow")
    return decoded(text, where)


# -- wrappers -----------------------------------------------------------------------------


def _unwrap(data: Any, where: str) -> Mapping[str, Any]:
    """Return the graph inside a wrapper; if it holds both formats, return the one in API format."""
    if isinstance(data, (list, tuple)) and len(data) > 2 and isinstance(data[2], Mapping):
        # A record of queue or history: number, prompt_id, graph, ...
        return {key: _without_empty_title(node) for key, node in data[2].items()}
    if not isinstance(data, (dict, Mapping)):
        kind = "a list" if isinstance(data, (list, tuple)) else brief(data)
        raise NotAWorkflow(f"{where}: a workflow must be an object of nodes by id, not {kind}")
    if is_ui_format(data):
        return data
    for wrapper in ("prompt", "output", "workflow"):
        inner = data.get(wrapper)
        if inner is None:
            continue
        is_record = wrapper == "prompt" and isinstance(inner, (list, tuple))
        if is_record or (
            isinstance(inner, Mapping) and not {"class_type", "inputs"} & inner.keys()
        ):
            return _unwrap(inner, where)
    if data and all(map(_is_record, data.values())):  # the answer of GET /history/{prompt_id}
        if len(data) > 1:
            raise WorkflowError(f"{where}: the history of {len(data)} prompts; give one of them")
        return _unwrap(next(iter(data.values())), where)
    return data


def _without_empty_title(node: Any) -> Any:
    """Return a node without the empty ``_meta`` that the server adds."""
    if isinstance(node, Mapping) and node.get("_meta") == {}:
        return {name: part for name, part in node.items() if name != "_meta"}
    return node


def _is_record(value: object) -> bool:
    return isinstance(value, (dict, Mapping)) and isinstance(value.get("prompt"), (list, tuple))


def is_ui_format(data: Mapping[Any, Any]) -> bool:
    """Return whether data are in UI format, where ``nodes`` is a list."""
    return isinstance(data.get("nodes"), list)


def _graph(data: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """Return a checked copy of a graph, with all node ids as strings, in links too."""
    if not data:
        raise NotAWorkflow(f"{where}: it has no nodes")
    fault = WorkflowError
    if not any(map(_is_like_a_node, data.values())):
        fault, where = NotAWorkflow, f"{where}: no workflow of ComfyUI"
    graph: dict[str, Any] = {}
    for key, node in data.items():
        if type(key) is not str and (not isinstance(key, (str, int)) or isinstance(key, bool)):
            raise WorkflowError(f"{where}: the node id {brief(key)} is not a string")
        node_id = str(key)
        if node_id in graph:
            raise WorkflowError(f"{where}: two nodes have the id {brief(node_id)}")
        if not isinstance(node, (dict, Mapping)):
            raise fault(f"{where}: node {brief(node_id)} is not an object: {brief(node)}")
        graph[node_id] = own = copied(node)
        # The server adds this key when it runs a node, and would mistake a given one for its own.
        own.pop("is_changed", None)
        # The server fails on a node without inputs.
        inputs = own.setdefault("inputs", {})
        class_type = own.get("class_type")
        if not isinstance(class_type, str) or not class_type:
            raise fault(f"{where}: {describe(graph, node_id)} has no class_type")
        if not isinstance(inputs, dict):
            raise WorkflowError(
                f"{where}: {describe(graph, node_id)}: inputs is not an object: {brief(inputs)}"
            )
    for node_id, node in graph.items():
        for name, value in node["inputs"].items():
            kind = type(value)
            if kind is list:
                node["inputs"][name] = json_link(graph, value)
            elif kind not in JSON_TYPES:
                node["inputs"][name] = _file(graph, node_id, name, value)
    return graph


def _is_like_a_node(value: object) -> bool:
    return isinstance(value, (dict, Mapping)) and bool({"class_type", "inputs"} & value.keys())


def _is_like_a_ui_node(value: object) -> bool:
    """Return whether a value looks like a node in UI format, not like one of another graph."""
    own = {"inputs", "outputs", "widgets_values", "pos"}
    node = table_at(value)
    return "type" in node and bool(own & node.keys())


def _file(graph: Mapping[str, Any], node_id: str, name: str, value: Any) -> Any:
    """Replace a value that can be uploaded by an :class:`Upload`."""
    from .graph import as_file

    try:
        return as_file(graph, node_id, name, value)
    except ValueError as exc:
        raise WorkflowError(f"{describe(graph, node_id)}, input {brief(name)}: {exc}") from None
