"""Routes for node classes of one's own without Python, and for the names of model files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..declared_nodes import declare_node
from .answer_routes import error_of
from .controlled import (
    ControlCall,
    ControlError,
    ControlledServer,
    ControlRoutes,
    check_members,
    from_base64,
    invalid,
    unknown,
)

_MOST_NODES: Final = 1000
_MOST_MODELS: Final = 10_000  # in a folder
_LONGEST: Final = 3600.0  # seconds of a node
_LONGEST_NAME: Final = 200  # characters
_FIELDS: Final = ("class_type", "definition", "returns", "raises", "seconds", "files")


def _list(server: ControlledServer, call: ControlCall) -> tuple[int, Any]:
    call.only()
    return 200, {"nodes": server.added_nodes}


def _add(server: ControlledServer, call: ControlCall) -> tuple[int, Any]:
    """Add a node class, or replace the one that has its name."""
    data = call.fields(_FIELDS, ("class_type",))
    name, definition = data["class_type"], data.get("definition", {})
    returns, seconds = data.get("returns", []), data.get("seconds", 0.0)
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME:
        raise invalid(f"class_type is a string of up to {_LONGEST_NAME} characters")
    if not isinstance(definition, dict) or not isinstance(returns, list):
        raise invalid("definition is an object as of /object_info, and returns a list of outputs")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds > _LONGEST:
        raise invalid(f"seconds are a number up to {_LONGEST:.0f}")
    if len({*server.added_nodes, name}) > _MOST_NODES:
        raise ControlError(409, "too_many_nodes", f"{_MOST_NODES} classes were added already")
    made = declare_node(
        name,
        definition,
        returns=[_value(one) for one in returns],
        error=None if data.get("raises") is None else error_of(data["raises"]),
        seconds=seconds,
        files=dict(map(_file, data.get("files", []))),
    )
    server.add_node(made, name)
    return 201, {"class_type": name}


def _remove(server: ControlledServer, call: ControlCall) -> tuple[int, Any]:
    """Remove a class that was added; one that it replaced is there again."""
    call.only()
    try:
        server.remove_node(call.names[0])
    except LookupError:
        raise unknown("node", call.names[0], server.added_nodes) from None
    return 200, {"nodes": server.added_nodes}


def _models(server: ControlledServer, call: ControlCall) -> tuple[int, Any]:
    """Have model files of these names, which have no weights."""
    data = call.fields(("folder", "names"), ("folder", "names"))
    folder, names = data["folder"], data["names"]
    if not isinstance(names, list):
        raise invalid("names is a list of file names")
    if not isinstance(folder, str) or folder not in server.models:
        raise unknown("folder", str(folder), server.models, 400)
    if len({*server.models[folder], *map(str, names)}) > _MOST_MODELS:
        raise ControlError(409, "too_many_models", f"a folder has {_MOST_MODELS} files at most")
    server.add_models(folder, *names)
    return 201, {"folder": folder, "names": server.models[folder]}


def _value(data: Any) -> Any:
    """Return an output: the bytes of ``{"base64": ...}``, or any other JSON as it is."""
    if isinstance(data, dict) and data.keys() == {"base64"}:
        return from_base64(data["base64"], "an output")
    return data


def _file(data: Any) -> tuple[str, bytes]:
    if not isinstance(data, Mapping):
        raise invalid('a file is {"name": ..., "base64" or "text": ...}')
    fields = check_members(dict(data), ("name", "base64", "text"), ("name",))
    text = fields.get("text")
    if not isinstance(text, str | None) or ("base64" in fields) == (text is not None):
        raise invalid("a file has either base64 or text")
    return fields["name"], from_base64(
        fields["base64"], "a file"
    ) if text is None else text.encode()


NODE_ROUTES: ControlRoutes = (
    ("GET", "/nodes", _list),
    ("POST", "/nodes", _add),
    ("DELETE", "/nodes/*", _remove),
    ("POST", "/models", _models),
)
