"""Routes for answers of routes and nodes, for scripts in place of prompts, and for events."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from ..active_faults import Fault
from ..node_answers import NODE_ANSWER
from ..node_faults import error_class
from ..scripting import PROMPT_ID, Fail, Finish, Step
from .controlled import (
    ControlCall,
    ControlError,
    ControlledServer,
    ControlRoutes,
    check_members,
    from_base64,
    invalid,
)
from .fault_control import FaultBook, fixed_answer

_OF_ROUTE: Final = ("method", "path", "answer", "times")
_OF_NODE: Final = ("node", "image", "text", "ui", "error", "times")
_MOST_STEPS: Final = 1000
_LONGEST: Final = 3600.0  # seconds of a pause
#: What stands for the prompt's id in a script.
_PLACE: Final = "PROMPT_ID"


class Answers:
    """The answers and scripts that programs have set, which have ids as faults do."""

    def __init__(self, book: FaultBook) -> None:
        self._book = book

    def routes(self) -> ControlRoutes:
        """Return the routes."""
        return (
            ("GET", "/answers", self._list),
            ("POST", "/answers", self._add),
            ("DELETE", "/answers", _ending("answer", NODE_ANSWER)),
            ("DELETE", "/answers/*", self._book.end),
            ("POST", "/script", self._script),
            ("DELETE", "/script", _ending("script")),
            ("POST", "/events", _push),
        )

    def _list(self, server: ControlledServer, call: ControlCall) -> tuple[int, Any]:
        call.only()
        found = reversed(server.faults.active("answer", NODE_ANSWER))
        return 200, {"answers": [self._book.noted(fault) for fault in found]}

    def _add(self, server: ControlledServer, call: ControlCall) -> tuple[int, Any]:
        """Set the answer of a route or of a node."""
        data = call.fields((*_OF_ROUTE, *_OF_NODE))
        self._book.check_room(server)
        if "node" in data:
            check_members(data, _OF_NODE)
            given: dict[str, Any] = {
                name: data[name] for name in ("text", "ui", "times") if name in data
            }
            if "image" in data:
                images = data["image"] if isinstance(data["image"], list) else [data["image"]]
                given["image"] = [*map(_image, images)]
            if "error" in data:
                given["error"] = error_of(data["error"])
            fault = server.on(data["node"], **given)
        else:
            check_members(data, _OF_ROUTE, ("method", "path", "answer"))
            times, answer = data.get("times"), fixed_answer(data["answer"])
            fault = server.faults.answer(data["method"], data["path"], answer, times=times)
        shown = {name: value for name, value in data.items() if name not in ("image", "times")}
        return 201, {"id": self._book.noted(fault, shown)["id"]}

    def _script(self, server: ControlledServer, call: ControlCall) -> tuple[int, Any]:
        """Play steps in place of prompts."""
        data = call.fields(("steps", "times"), ("steps",))
        steps = data["steps"]
        if not isinstance(steps, list) or len(steps) > _MOST_STEPS:
            raise invalid(f"steps is a list of {_MOST_STEPS} at most")
        self._book.check_room(server)
        fault = server.script(*map(_step, steps), times=data.get("times"))
        return 201, {"id": self._book.noted(fault)["id"]}


def _ending(*names: str) -> Callable[[ControlledServer, ControlCall], tuple[int, Any]]:
    """Return the route that ends all faults with these names."""

    def end(server: ControlledServer, call: ControlCall) -> tuple[int, Any]:
        call.only()
        found: list[Fault] = server.faults.active(*names)
        for fault in found:
            fault.end()
        return 200, {"ended": len(found)}

    return end


def error_of(data: Any) -> BaseException:
    """Return the error that a message, or ``{"type", "message"}``, describes."""
    if isinstance(data, str):
        data = {"message": data}
    if not isinstance(data, dict):
        raise invalid('an error is its message, or {"type": ..., "message": ...}')
    check_members(data, ("type", "message"), ("message",))
    return error_class(data.get("type", "RuntimeError"), data["message"])(data["message"])


def _image(data: Any) -> bytes:
    """Return the file of a picture, which is Base64 or an object with it."""
    if isinstance(data, dict):
        data = check_members(data, ("base64",), ("base64",))["base64"]
    return from_base64(data, "an image")


def _step(data: Any) -> Step:
    """Return the step of a script that an object with one member describes."""
    if not isinstance(data, dict) or len(data) != 1:
        raise invalid('a step is an object with one of "send", "wait", "finish" and "error"')
    [(kind, value)] = check_members(data, ("send", "wait", "finish", "error")).items()
    if kind == "wait":
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise invalid(f"wait is a number of seconds, not {str(value)[:100]!r}")
        if not 0 <= value <= _LONGEST:
            raise invalid(f"wait is from 0 to {_LONGEST:.0f} seconds, not {value}")
        return float(value)
    if kind == "error":
        return _failing(value)
    if not isinstance(value, dict):
        raise invalid(f"{kind} takes an object")
    named: dict[str, Any] = json.loads(json.dumps(value).replace(f'"{_PLACE}"', f'"{PROMPT_ID}"'))
    if kind == "finish":
        return Finish(_checked_entry(named) or None)
    return _checked_message(named)


def _checked_entry(data: dict[str, Any]) -> dict[str, Any]:
    """Return an entry of the history unchanged; raise ControlError if it has an odd shape."""
    status = data.get("status")
    messages = [] if status is None else isinstance(status, dict) and status.get("messages", [])
    if not isinstance(messages, list) or not isinstance(data.get("outputs", {}), dict):
        raise invalid("finish takes an entry of /history: the objects outputs and status")
    return data


def _failing(data: Any) -> Fail:
    if isinstance(data, str):
        data = {"message": data}
    if not isinstance(data, dict):
        raise invalid('error takes a message, or {"message", "node", "type"}')
    check_members(data, ("message", "node", "type"), ("message",))
    kind, node = data.get("type", "RuntimeError"), data.get("node")
    error_class(kind, data["message"])
    if not isinstance(node, str | None):
        raise invalid(f"node is the id of one, a string, not {str(node)[:100]!r}")
    return Fail(data["message"], node, kind)


def _checked_message(data: dict[str, Any]) -> Mapping[str, Any]:
    """Return an event unchanged; raise ControlError unless a script can send it."""
    check_members(data, ("type", "data"), ("type",))
    if not isinstance(data["type"], str):
        raise invalid("the type of an event is a string")
    match data:
        case {"type": "executed", "data": {"node": str(), "output": dict() | None}}:
            return data
        case {"type": "executed"}:
            raise invalid("the data of executed has a node, which is a string, and an output")
    return data


def _push(server: ControlledServer, call: ControlCall) -> tuple[int, Any]:
    """Send an event to a client, or to all; answer with the number of those that have a socket."""
    data = call.fields(("type", "data", "base64", "to"))
    to = data.pop("to", None)
    if not isinstance(to, str | None):
        raise invalid("to is the id of a client, a string")
    clients = {socket.client_id for socket in server.sockets}
    if to is not None and to not in clients:
        message = f"no client {to[:100]!r} has an open socket"
        raise ControlError(404, "unknown_client", message, more={"clients": sorted(clients)})
    if "base64" in data:
        check_members(data, ("base64",))
        server.push_binary(from_base64(data["base64"], "a message"), to=to)
    else:
        server.push({"data": {}, **_checked_message(data)}, to=to)
    return 200, {"clients": 1 if to is not None else len(clients)}
