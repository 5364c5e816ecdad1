"""Functions on a graph: a dict from node ids to ``{"class_type", "inputs", "_meta"}``."""

from __future__ import annotations

import math
import os
import re
import reprlib
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from ..errors import WorkflowError
from ..redaction import has_secret_names, is_secret_value, seal_inputs, sealed
from ..values import MAX_ID_LENGTH

if TYPE_CHECKING:
    from ..upload import Upload

_TEXTS: Final = frozenset({str})
_SCALARS: Final = _TEXTS | {int, bool, type(None)}
#: Types that JSON can represent as they are.
JSON_TYPES: Final = _SCALARS | {float, dict, list, tuple}
_PLAIN: Final = _SCALARS | {float}
_LITERAL_LIST = 'a literal list is sent as {"__value__": [...]}'

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 100
_repr.maxlevel = 3


# -- reading ----------------------------------------------------------------------------


def title_of(graph: Mapping[str, Any], node_id: object) -> str | None:
    """Return the title (``_meta.title``) of a node, or None.

    Servers use composite ids for nodes inside others (``"406:12"``, ``"1.0.0.1"``); if the graph
    lacks such an id, the longest known prefix of the id is used.
    """
    meta = _node(graph, node_id).get("_meta")
    title = meta.get("title") if isinstance(meta, (dict, Mapping)) else None
    return title if isinstance(title, str) else None


def class_of(graph: Mapping[str, Any], node_id: object) -> str | None:
    """Return the ``class_type`` of a node, or None; composite ids work as in :func:`title_of`."""
    node = graph.get(node_id) if isinstance(node_id, str) else None
    if type(node) is not dict:
        node = _node(graph, node_id)
    class_type = node.get("class_type")
    return class_type if isinstance(class_type, str) else None


def sinks(graph: Mapping[str, Any]) -> frozenset[str]:
    """Return the ids of nodes whose outputs no other node uses."""
    linked = {
        source
        for node_id in graph
        for _, source, _ in links_of(graph, node_id)
        if source != node_id
    }
    return frozenset(map(str, graph)) - linked


def needed(graph: Mapping[str, Any], targets: Iterable[str], cached: Collection[str]) -> set[str]:
    """Return the ids of these nodes and all nodes they depend on, stopping before cached nodes.

    The sources of a cached node do not run for it.
    """
    found: set[str] = set()
    ahead = list(targets)
    while ahead:
        node_id = ahead.pop()
        if node_id in graph and node_id not in found and node_id not in cached:
            found.add(node_id)
            ahead += (source for _, source, _ in links_of(graph, node_id))
    return found


def downstream(graph: Mapping[str, Any], node_ids: Iterable[str]) -> set[str]:
    """Return the ids of these nodes and of all nodes that depend on them."""
    takers: dict[str, list[str]] = {}
    for node_id in graph:
        for _, source, _ in links_of(graph, node_id):
            takers.setdefault(source, []).append(node_id)
    found: set[str] = set()
    ahead = list(node_ids)
    while ahead:
        node_id = ahead.pop()
        if node_id not in found:
            found.add(node_id)
            ahead += takers.get(node_id, ())
    return found


def inputs_of(graph: Mapping[str, Any], node_id: str) -> Mapping[str, Any]:
    """Return the inputs of a node by name; empty for anything malformed."""
    node = graph.get(node_id)
    inputs = node.get("inputs") if isinstance(node, Mapping) else None
    return inputs if isinstance(inputs, Mapping) else {}


def inputs_named(graph: Mapping[str, Any], names: Iterable[str]) -> list[tuple[str, str, Any]]:
    """Return the inputs with these names, as node id, name and value."""
    return [
        (node_id, name, inputs[name])
        for node_id, inputs in _all_inputs(graph)
        for name in names
        if name in inputs
    ]


def _all_inputs(graph: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the inputs of all nodes, without a call for each node."""
    return [
        (node_id, inputs)
        for node_id, node in graph.items()
        if isinstance(node, (dict, Mapping))
        and isinstance(inputs := node.get("inputs"), (dict, Mapping))
    ]


def links_of(graph: Mapping[str, Any], node_id: str) -> Iterator[tuple[str, str, int]]:
    """Yield each link of a node as input name, source node id and output slot."""
    for name, value in inputs_of(graph, node_id).items():
        link = as_link(value)
        if link:
            yield str(name), *link


def as_link(value: object) -> tuple[str, int] | None:
    """Return ``[node id, slot]`` as a tuple, or None for any other value."""
    if (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and type(value[1]) is int
        and isinstance(value[0], (str, int))
        and not isinstance(value[0], bool)
    ):
        return str(value[0]), value[1]
    return None


def origin(graph: Mapping[str, Any], node_id: object) -> str | None:
    """Return the id of the graph's node that a composite id belongs to, or None."""
    key = str(node_id)
    if len(key) > MAX_ID_LENGTH and key not in graph:
        return None  # servers make no such long ids, and cutting one takes quadratic time
    while key not in graph:
        cut = max(key.rfind("."), key.rfind(":"))
        if cut < 0:
            return None
        key = key[:cut]
    return key


def _node(graph: Mapping[str, Any], node_id: object) -> Mapping[str, Any]:
    key = origin(graph, node_id)
    node = {} if key is None else graph[key]
    return node if isinstance(node, (dict, Mapping)) else {}


def free_id(taken: Container[str], after: int = 0) -> int:
    """Return the first number above ``after`` that no node has as its id."""
    number = after + 1
    while str(number) in taken:
        number += 1
    return number


def copied(value: Any) -> Any:
    """Copy a JSON value, tuples as lists; objects that JSON lacks are kept as they are."""
    # A shortcut for the usual types.
    kind = type(value)
    if kind is dict or (kind is not list and isinstance(value, Mapping)):
        return {
            key: inner if type(inner) in _PLAIN else copied(inner) for key, inner in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [inner if type(inner) in _PLAIN else copied(inner) for inner in value]
    return value


# -- wording ----------------------------------------------------------------------------


def brief(value: object) -> str:
    """Return ``repr`` of a value as one short line, quickly even for large values."""
    try:
        return _repr.repr(value).replace("\n", " ")
    except ValueError:  # an int with more digits than Python writes
        return f"<{type(value).__name__} with too many digits>"


def listing(values: Iterable[object], limit: int = 8) -> str:
    """Join the first few values by commas."""
    values = list(values)
    text = ", ".join(map(brief, values[:limit]))
    return text if len(values) <= limit else f"{text}, ... ({len(values)} in all)"


def describe(graph: Mapping[str, Any], node_id: object, class_type: object = None) -> str:
    """Describe a node, such as ``node 3 'Sampler' (KSampler)``, as far as it is known."""
    title = title_of(graph, node_id)
    known = class_of(graph, node_id) or (class_type if isinstance(class_type, str) else None)
    return (
        f"node {shorten(str(node_id), 60)}"
        + (f" {brief(title)}" if title else "")
        + (f" ({shorten(known, 60)})" if known else "")
    )


def shorten(text: str, limit: int) -> str:
    """Put a text on one line of at most ``limit`` characters, the unprintable ones escaped."""
    text = " ".join(text[: 10 * limit].split())
    if not text.isprintable():  # escaped as by repr(), for terminals
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[: limit + 1])
    return text if len(text) <= limit else text[: limit - 3] + "..."


# -- files as values of inputs, which are uploaded on submission ----------------------------

#: The inputs of ComfyUI's own loaders that name a file of the server.
_LOADERS: Final = {
    "LoadImage": "image",
    "LoadImageMask": "image",
    "LoadImageOutput": "image",
    "LoadAudio": "audio",
    "LoadVideo": "file",
    "Load3D": "model_file",
    "LoadLatent": "latent",
}


def as_file(graph: Mapping[str, Any], node_id: str, name: str, value: Any) -> Any:
    """Return an :class:`Upload` for a local file, a name for an uploaded one, or the value itself.

    A text stays as it is, since it names a file on the server.  Only ComfyUI's own loaders take a
    data URL or web URL, which other nodes may use as a text.

    Raises:
        FileNotFoundError: A path that leads to nothing.
        ValueError: The file cannot be sent; or it is a model, which cannot be an input.
    """
    if isinstance(value, str):
        if _LOADERS.get(class_of(graph, node_id) or "") != name:
            return value
        if not re.match("data:|https?://", value, re.IGNORECASE):
            return value
        from ..upload import Upload  # most programs send no files

        return Upload(value)
    if type(value) in JSON_TYPES:
        return value
    ref = getattr(value, "ref", None)
    if isinstance(ref, str):
        return ref
    from ..upload import Upload, is_file

    if not is_file(value):
        return value
    if name.endswith("_name"):
        raise ValueError(f"{value!r:.100} is not the name of a model on the server")
    return Upload(value)


def is_upload(value: object) -> TypeGuard[Upload]:
    """Return whether a value is a file that is still to be uploaded."""
    if type(value) in JSON_TYPES:
        return False
    from ..upload import Upload  # most programs send no files

    return isinstance(value, Upload)


def files_in(graph: Mapping[str, Any]) -> dict[tuple[str, str], Upload]:
    """Return the files that are still to be uploaded, by node id and input."""
    return {
        (node_id, name): value
        for node_id, inputs in _all_inputs(graph)
        for name, value in inputs.items()
        if type(value) not in JSON_TYPES and is_upload(value)
    }


# -- before a POST ----------------------------------------------------------------------


def check_graph(graph: Mapping[str, Any], *, links: bool = True) -> dict[str, Any]:
    """Check a graph, and return a copy of it as plain JSON for ``POST /prompt``.

    Values that would be lost, or fail on the server with an unhelpful message, are refused: NaN
    and Infinity, values that JSON does not have, keys that are not strings, and links
    to a missing node, to a slot below 0, or of a node to itself.  A list of
    two, node id and ``int``, counts as a link; wrap a literal one in
    ``{"__value__": [...]}`` (servers since 0.3.27).  Numbers of numpy and the like are
    converted, and texts under secret names are sealed, since the copy stays in frames.
    Only the server says whether it has the classes and accepts the values.
    ``links=False`` skips the check of links.

    Raises:
        WorkflowError: One line that names node and input.
    """
    if not isinstance(graph, (dict, Mapping)):
        raise WorkflowError(f"a workflow must be a dict of nodes by id, not {brief(graph)}")
    for node_id in graph:
        if not isinstance(node_id, str):
            raise WorkflowError(f"the node id {brief(node_id)} is not a string")
    made: dict[str, Any] = {}
    texts: set[str] = set()  # the names of inputs that are texts, as few of them are secret
    for node_id, node in graph.items():
        if not isinstance(node, (dict, Mapping)):
            made[node_id] = _json_part(graph, node_id, "", "", node)
            continue
        parts = made[node_id] = {}
        for part, value in node.items():
            if type(part) is not str and not isinstance(part, str):
                what = f"the key {brief(part)} is not a string"
                raise WorkflowError(f"{describe(graph, node_id)}: {what}")
            if part == "inputs" and isinstance(value, (dict, Mapping)):
                parts[part] = _json_inputs(graph, node_id, value, texts, links=links)
            elif type(value) in _SCALARS:
                parts[part] = value
            elif (
                type(value) is dict  # as ``_meta``
                and _TEXTS.issuperset(map(type, value))
                and _SCALARS.issuperset(map(type, value.values()))
            ):
                parts[part] = value.copy()
            else:
                parts[part] = _json_part(graph, node_id, "key", part, value)
    if has_secret_names(texts):
        seal_inputs(made)
    return made


def check_parts(
    graph: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Check a workflow as :func:`check_graph` does; leave out nodes that depend on missing ones.

    A server drops the outputs that depend on a missing node, and runs the others; but where it does
    not check the input (an optional one on the earliest servers, and one that the node does not
    know on all), its worker crashes.  So nodes that depend on a missing node are not sent.

    Returns the graph, the part of it to send, and the ``node_errors`` that a server would report
    for the rest.

    Raises:
        WorkflowError: As :func:`check_graph`; for such a link when no other output is left.
    """
    try:
        whole = check_graph(graph)
        return whole, whole, {}
    except WorkflowError:
        errors = _links_to_nothing(graph)
        lost = downstream(graph, errors)
        outputs = sinks(graph)
        if not errors or outputs <= lost:
            raise
    for node_id, entry in errors.items():
        entry["dependent_outputs"] = sorted(outputs & downstream(graph, [node_id]))
    whole = check_graph(graph, links=False)
    part = check_graph({key: node for key, node in whole.items() if key not in lost})
    return {**whole, **part}, part, errors


def _links_to_nothing(graph: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the errors of nodes with a link to a missing node.

    A list that begins with a number is refused instead: it is more likely meant as a list.
    """
    found: dict[str, dict[str, Any]] = {}
    for node_id in graph:
        for value in inputs_of(graph, node_id).values():
            link = as_link(value)
            if link and isinstance(value[0], str) and value[0] not in graph:
                error = {
                    "type": "exception_during_validation",
                    "message": "Exception when validating node",
                    "details": repr(value[0]),
                    "extra_info": {"exception_type": "KeyError"},
                }
                entry: dict[str, Any] = {"errors": [], "class_type": class_of(graph, node_id)}
                found.setdefault(node_id, entry)["errors"].append(error)
    return found


def _json_inputs(
    graph: Mapping[str, Any],
    node_id: str,
    inputs: Mapping[str, Any],
    texts: set[str],
    *,
    links: bool,
) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in inputs.items():
        if type(name) is not str and not isinstance(name, str):
            raise WorkflowError(
                f"{describe(graph, node_id)}: the input name {brief(name)} is not a string"
            )
        kind = type(value)
        if kind is str:
            texts.add(name)
            made[name] = value
        elif kind in _SCALARS or (kind is float and math.isfinite(value)):
            made[name] = value
        elif (
            kind is list  # a regular link to another node?
            and len(value) == 2
            and type(value[0]) is str
            and type(value[1]) is int
            and value[1] >= 0
            and value[0] != node_id
            and value[0] in graph
        ):
            made[name] = [*value]
        else:
            plain = _json_part(graph, node_id, "input", name, value)
            if isinstance(plain, list):
                fault = link_fault(graph, node_id, plain) if links else None
                if fault:
                    raise WorkflowError(f"{describe(graph, node_id)}, input {brief(name)}: {fault}")
                plain = json_link(graph, plain)
            is_flat = type(plain) not in (dict, list, str)
            made[name] = plain if is_flat else sealed(plain, is_secret=is_secret_value(name, plain))
    return made


def _json_part(graph: Mapping[str, Any], node_id: str, what: str, name: str, value: Any) -> Any:
    try:
        return json_value(value)
    except RecursionError:
        fault = "the value is nested too deeply"
    except ValueError as exc:
        fault = str(exc)
    where = f", {what} {brief(name)}" if what else ""
    raise WorkflowError(f"{describe(graph, node_id)}{where}: {fault}")


def json_value(value: Any) -> Any:
    """Return a copy of a value as plain JSON.

    Raises:
        ValueError: JSON cannot represent it.
    """
    kind = type(value)
    if kind is dict or (kind not in JSON_TYPES and isinstance(value, Mapping)):
        for key in value:
            if type(key) is not str and not isinstance(key, str):
                raise ValueError(f"the key {brief(key)} is not a string")
        return {
            key: inner if type(inner) in _SCALARS else json_value(inner)
            for key, inner in value.items()
        }
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        raise ValueError(f"{float(value)} is not a number that JSON can represent")
    if isinstance(value, (list, tuple)):
        return [json_value(inner) for inner in value]
    from ..upload import Upload, instead_of, is_file  # few workflows need it

    if isinstance(value, Upload):
        raise ValueError(
            f"{value!r} is uploaded when the workflow is submitted, and JSON cannot represent it; "
            "to save the workflow, upload it now, and set the name: api.upload_image(file).ref"
        )
    if isinstance(value, os.PathLike):
        raise ValueError(
            f"{brief(value)} is a path on this machine; upload the file and give the name "
            "that the server returns, or pass str(path) if the path is the server's"
        )
    item = getattr(value, "item", None)
    if callable(item) and tuple(getattr(value, "shape", ())) == ():
        number = item()
        if isinstance(number, (bool, int, float, str)):
            return json_value(number)
    fault = instead_of(value)
    if not fault and is_file(value):
        fault = (
            f"a file ({type(value).__name__}) cannot be inside a list or dict; set the file itself "
            "as an input, or several pictures of one size as one array: np.stack(pictures)"
        )
    raise ValueError(fault or f"JSON cannot represent {brief(value)} ({type(value).__name__})")


def json_link(graph: Mapping[str, Any], value: list[Any]) -> list[Any]:
    """Return a link with its node id as a string, so that the server finds the node."""
    if not value or type(value[0]) is str:
        return value
    link = as_link(value)
    return list(link) if link and link[0] != value[0] and link[0] in graph else value


def link_fault(graph: Mapping[str, Any], node_id: str, value: list[Any]) -> str | None:
    """Describe what is wrong with a link; return None for a good link or any other list."""
    link = as_link(value)
    if not link:
        # A slot of 0.0 or true passes for a link, and makes the server's check fail.
        is_slot = len(value) == 2 and isinstance(value[1], (bool, float))
        if is_slot and isinstance(value[0], (str, int)) and value[0] in graph:
            return f"the slot of link {brief(value)} must be an int, counted from 0"
        return None
    source, slot = link
    if source not in graph:
        return (
            f"{brief(value)} links to node {brief(source)}, which does not exist; {_LITERAL_LIST}"
        )
    if source == node_id:
        return f"{brief(value)} links the node to itself"
    return f"{brief(value)} has a slot below 0" if slot < 0 else None
