"""References to assets in the inputs of workflows, and file names in place of them.  Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from ..errors import ApiError
from ..values import list_at, plain_text, table_at, text

#: The ``__type`` of a reference.
TYPE: Final = "core/ASSET"
#: The server's code for a reference to an asset that it does not have.
UNKNOWN_ASSET: Final = "missing_asset"
#: The statuses of a submission that is refused for what it contains: nothing was run.
_REFUSED: Final = frozenset({400, 422})

#: Returns the name of an asset by its id, or None.
NameOf = Callable[[str], str | None]


def reference(asset_id: str, **facts: str | None) -> dict[str, Any]:
    """Return the value that refers to an asset in an input, in place of a file name."""
    known = {name: value for name, value in facts.items() if value is not None}
    return {"__type": TYPE, "info": {"id": asset_id, **known}}


def with_names(graph: Mapping[str, Any], name_of: NameOf) -> dict[str, Any] | None:
    """Return a graph with file names in place of its references.

    None if it has none, or if the name of an asset is not known.
    """
    names = {asset_id: name_of(asset_id) for asset_id in _ids_in(graph)}
    if not names or None in names.values():
        return None
    return {node_id: _renamed(node, names) for node_id, node in graph.items()}


def is_about_references(exc: ApiError, graph: Mapping[str, Any]) -> bool:
    """Return whether a submission was refused because of references, or names in place of them.

    ``graph`` has the references.  True only if nothing was run, and the refusal names an asset, or
    an input that refers to one.
    """
    if exc.status not in _REFUSED:
        return False
    ids = set(_ids_in(graph)) - {""}
    if not ids:
        return False
    error = table_at(exc.body, "error")
    message = text(error.get("message"), 2000) or ""
    if exc.reason == UNKNOWN_ASSET or any(word in message for word in (TYPE, *ids)):
        return True
    errors = table_at(error, "details", "node_errors")
    return any(_is_about(errors.get(node_id), node) for node_id, node in graph.items())


def _is_about(found: object, node: Any) -> bool:
    """Return whether an error of a node is about one of its inputs that refer to an asset."""
    inputs = table_at(node, "inputs")
    referring = {name for name, value in inputs.items() if any(_references_in(value))}
    for error in list_at(found, "errors") if referring else ():
        facts = table_at(error, "extra_info")
        name = facts.get("input_name")
        # Of an exception, ComfyUI names the input that is linked to the node, if any.
        if name is None or "linked_node" in facts or name in referring:
            return True
    return False


def _ids_in(graph: Mapping[str, Any]) -> Iterator[str]:
    for found in _references_in(graph):
        yield plain_text(table_at(found, "info").get("id"))


def _references_in(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        if value.get("__type") == TYPE:
            yield value
        else:
            for inner in value.values():
                yield from _references_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references_in(inner)


def _renamed(value: Any, names: Mapping[str, str | None]) -> Any:
    if isinstance(value, Mapping):
        if value.get("__type") == TYPE:
            return names[value["info"]["id"]]
        return {name: _renamed(inner, names) for name, inner in value.items()}
    return [_renamed(inner, names) for inner in value] if isinstance(value, list) else value
