"""Routes for faults, and their catalogue, made from the methods of ``Faults``."""

from __future__ import annotations

import collections.abc
import inspect
import itertools
import json
import re
import threading
import types
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, Literal, Union, cast, get_args, get_origin, get_type_hints
from weakref import WeakKeyDictionary

import attrs

from ..active_faults import Fault, check_seconds
from ..faults import Faults
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

_MOST: Final = 1000  # active faults
_LONGEST: Final = 86_400.0  # seconds that a fault lasts
_NO_FAULTS: Final = ("active", "clear")
_TYPES: Final = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    type(None): "null",
}
_ANSWER: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "status": {"type": "integer", "default": 200},
        "headers": {"type": "object", "additionalProperties": {"type": "string"}},
        "json": {},
        "text": {"type": "string"},
        "base64": {"type": "string", "contentEncoding": "base64"},
    },
    "additionalProperties": False,
}


@attrs.frozen
class _Argument:
    """An argument of a fault as data: its name, its JSON Schema, and the value for Python."""

    name: str
    schema: Mapping[str, Any]
    required: bool
    convert: Callable[[Any], Any]


@attrs.frozen
class _Kind:
    """A kind of fault: what it does, and its arguments by Python's names."""

    name: str
    summary: str
    lasts: bool
    arguments: Mapping[str, _Argument]
    #: The name of the argument that takes several values.
    several: str | None

    def shown(self) -> dict[str, Any]:
        """Return the kind as an item of the catalogue."""
        arguments = [a for name, a in self.arguments.items() if name != "times"]
        return {
            "name": self.name,
            "description": self.summary,
            "lasts": self.lasts,
            "times": "times" in self.arguments,
            "args": {
                "type": "object",
                "properties": {a.name: a.schema for a in arguments},
                "required": [a.name for a in arguments if a.required],
                "additionalProperties": False,
            },
        }

    def switch_on(self, faults: Faults, given: Mapping[str, Any]) -> Fault | None:
        """Switch the fault on; the arguments are data, by their names in the catalogue."""
        by_name = {argument.name: python for python, argument in self.arguments.items()}
        required = [one.name for one in self.arguments.values() if one.required]
        check_members(dict(given), by_name, required)
        values = {}
        for name, value in given.items():
            argument = self.arguments[by_name[name]]
            _check_type(name, value, argument.schema)
            values[by_name[name]] = argument.convert(value)
        several = values.pop(self.several, ()) if self.several else ()
        return cast(Fault | None, getattr(faults, self.name)(*several, **values))


@cache
def catalogue() -> Mapping[str, _Kind]:
    """Return all kinds of faults that can be switched on by data, by name."""
    names = [n for n in dir(Faults) if not n.startswith("_") and n not in _NO_FAULTS]
    return {name: _kind(name) for name in names}


def _kind(name: str) -> _Kind:
    method = getattr(Faults, name)
    hints = get_type_hints(method)
    arguments = {}
    several = None
    for python, parameter in list(inspect.signature(method).parameters.items())[1:]:
        data = _AS_DATA.get((name, python))
        schema = data.schema if data else _schema(hints[python])
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            several, schema = python, {"type": "array", "items": schema}
            required = False
        else:
            required = parameter.default is inspect.Parameter.empty
            if not required:
                schema = {**schema, "default": parameter.default}
        shown, convert = (data.name, data.convert) if data else (python, _unchanged)
        arguments[python] = _Argument(shown, schema, required, convert)
    marked = (inspect.getdoc(method) or "").partition("\n\n")[0].replace("\n", " ")
    summary = re.sub(r":\w+:(?=`)|`", "", marked)
    return _Kind(name, summary, hints["return"] is not type(None), arguments, several)


def _unchanged(value: Any) -> Any:
    return value


def _schema(hint: Any) -> dict[str, Any]:
    """Return the JSON Schema of an annotation; what is no data, such as a function, is left out."""
    if get_origin(hint) in (Union, types.UnionType):
        functions = collections.abc.Callable
        members = [_schema(one) for one in get_args(hint) if get_origin(one) is not functions]
        if all(member.keys() == {"type"} for member in members):
            found = [member["type"] for member in members]
            return {"type": found[0] if len(found) == 1 else found}
        return {"anyOf": members}
    if get_origin(hint) is Literal:
        return {"enum": [*get_args(hint)]}
    if get_origin(hint) is collections.abc.Mapping:
        return {"type": "object"}
    return {"type": _TYPES[hint]} if hint in _TYPES else {}


def _check_type(name: str, value: Any, schema: Mapping[str, Any]) -> None:
    """Raise ControlError unless a value is of the types of a schema; the method checks the rest."""
    wanted = schema.get("type")
    if wanted is None:
        return
    kinds = [wanted] if isinstance(wanted, str) else wanted
    if not any(_is_of(value, kind) for kind in kinds):
        raise invalid(f"{name} must be of type {' or '.join(kinds)}, not {str(value)[:100]!r}")
    if isinstance(value, list) and "items" in schema:
        for item in value:
            _check_type(f"each of {name}", item, schema["items"])


def _is_of(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    python = {
        "string": str,
        "integer": int,
        "number": int | float,
        "null": type(None),
        "object": dict,
        "array": list,
    }
    return kind in python and isinstance(value, cast(type, python[kind]))


# -- callables as data ---------------------------------------------------------------------


def merge_patch(value: Any, patch: Any) -> Any:
    """Return a JSON value after a merge patch (RFC 7396): ``null`` removes a member."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(value) if isinstance(value, dict) else {}
    for name, part in patch.items():
        if part is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), part)
    return merged


def fixed_answer(data: Any) -> tuple[int, dict[str, str], Any]:
    """Return the answer that ``{"status", "headers", "json" | "text" | "base64"}`` describes.

    Raises:
        ControlError: It has another member, or several bodies.
    """
    if not isinstance(data, dict):
        raise invalid("an answer must be an object")
    check_members(data, _ANSWER["properties"])
    bodies = [name for name in ("json", "text", "base64") if name in data]
    if len(bodies) > 1:
        raise invalid(f"an answer has one body, not {' and '.join(bodies)}")
    body: Any = data.get("json", data.get("text"))
    headers = dict(data.get("headers") or {})
    if "json" in data:
        headers = {"Content-Type": "application/json; charset=utf-8", **headers}
        body = json.dumps(data["json"]).encode()
    elif "text" in data and not isinstance(body, str):
        raise invalid("text must be a string")
    elif "base64" in data:
        body = from_base64(data["base64"], "base64")
    return data.get("status", 200), headers, body


def _merging(patch: Any) -> Callable[[Any], Any]:
    return lambda value: merge_patch(value, patch)


#: Arguments that are functions or tuples in Python.
_AS_DATA: Final = {
    ("rewrite", "function"): _Argument("merge", {}, True, _merging),
    ("answer", "answer"): _Argument("answer", _ANSWER, True, fixed_answer),
}


# -- routes --------------------------------------------------------------------------------


class FaultBook:
    """The ids of a server's active faults, and the ends of those that last for some seconds."""

    def __init__(self, server: ControlledServer) -> None:
        self._server = server
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()  # guards the two below
        #: The id of each fault, and its arguments if they are known.
        self._known: WeakKeyDictionary[Fault, tuple[str, Mapping[str, Any] | None]] = (
            WeakKeyDictionary()
        )
        self._timers: dict[Fault, threading.Timer] = {}

    def routes(self) -> ControlRoutes:
        """Return the routes."""
        return (
            ("GET", "/faults", self._list),
            ("POST", "/faults", self._add),
            ("DELETE", "/faults", self._clear),
            ("GET", "/faults/catalogue", self._catalogue),
            ("DELETE", "/faults/*", self.end),
        )

    def close(self) -> None:
        """Forget when faults are to end."""
        with self._lock:
            for timer in self._timers.values():
                timer.cancel()
            self._timers.clear()

    def reset(self) -> None:
        """Forget all ids, which begin with 1 again, and when faults are to end."""
        self.close()
        with self._lock:
            self._known.clear()
            self._numbers = itertools.count(1)

    def noted(self, fault: Fault, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return a fault as data; it gets an id if it has none."""
        with self._lock:
            if fault not in self._known:
                self._known[fault] = str(next(self._numbers)), given
            number, known = self._known[fault]
        return {"id": number, "name": fault.name, "args": known, "hits": fault.hits}

    def _list(self, server: ControlledServer, call: ControlCall) -> tuple[int, Any]:
        call.only()
        return 200, {"faults": [self.noted(fault) for fault in reversed(server.faults.active())]}

    def _catalogue(self, server: ControlledServer, call: ControlCall) -> tuple[int, Any]:
        return 200, {"faults": [kind.shown() for kind in catalogue().values()]}

    def _add(self, server: ControlledServer, call: ControlCall) -> tuple[int, Any]:
        data = call.fields(("name", "args", "times", "seconds"), ("name",))
        name, given, seconds = data["name"], data.get("args") or {}, data.get("seconds")
        if not isinstance(name, str) or name not in catalogue():
            raise unknown("fault", str(name), catalogue(), 400)
        if not isinstance(given, dict):
            raise invalid("args must be an object, with the arguments by name")
        if seconds is not None and not 0 < check_seconds(seconds) <= _LONGEST:
            raise invalid(f"seconds must be above 0 and at most {_LONGEST:.0f}, not {seconds}")
        kind = catalogue()[name]
        if seconds is not None and not kind.lasts:
            raise invalid(f"{name} happens at once: it takes no seconds")
        times = {} if data.get("times") is None else {"times": data["times"]}
        if times and "times" not in kind.arguments:
            raise invalid(f"{name} takes no times")
        self.check_room(server)
        fault = kind.switch_on(server.faults, {**given, **times})
        if fault is None:
            return 200, {"id": None, "name": name}
        noted = self.noted(fault, given)
        if seconds is not None:
            self._end_after(fault, seconds)
        return 201, {"id": noted["id"], "name": name}

    def check_room(self, server: ControlledServer) -> None:
        """Raise ControlError if no further fault, answer or script may be active."""
        self._forget_used_up(server.faults.active())
        if len(server.faults.active()) >= _MOST:
            raise ControlError(409, "too_many_faults", f"{_MOST} faults are active already")

    def _forget_used_up(self, active: list[Fault]) -> None:
        """End faults that have occurred as often as they may, if there are many.

        Not at once: one may still be delaying its last answer.
        """
        with self._lock:
            used_up = {*self._known} - {*active}
        for fault in used_up if len(used_up) > _MOST else ():
            self._ended(fault)

    def _end_after(self, fault: Fault, seconds: float) -> None:
        timer = threading.Timer(seconds, self._ended, (fault,))
        timer.daemon = True
        with self._lock:
            self._timers[fault] = timer
            timer.start()

    def _ended(self, fault: Fault) -> None:
        with self._lock:
            timer = self._timers.pop(fault, None)
        if timer is not None:
            timer.cancel()
        fault.end()

    def end(self, server: ControlledServer, call: ControlCall) -> tuple[int, Any]:
        """End the fault, the answer or the script with an id."""
        with self._lock:
            found = [fault for fault, (number, _) in self._known.items() if number == call.names[0]]
        if not found:
            raise ControlError(404, "unknown_fault", f"no fault has the id {call.names[0][:100]!r}")
        self._ended(found[0])
        return 200, {"hits": found[0].hits}

    def _clear(self, server: ControlledServer, call: ControlCall) -> tuple[int, Any]:
        ended = len(server.faults.active())
        self.close()
        server.faults.clear()
        return 200, {"ended": ended}
