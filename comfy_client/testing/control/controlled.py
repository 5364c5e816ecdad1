"""The server that is controlled, a call of a client, and the errors that answer one."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import attrs

from ...nearest import nearest
from ..active_faults import Fault, check_depth
from ..faults import Faults
from ..received import Ran
from ..scripting import Socket, Step
from ..wire import Request


class ControlledServer(Protocol):
    """The members of a server that can be controlled, such as a ``ComfyServer``."""

    faults: Faults
    ran: list[Ran]
    requests: list[Request]
    errors: list[BaseException]
    speed: float

    @property
    def url(self) -> str:
        """The URL that clients use."""

    @property
    def version(self) -> str:
        """The version of ComfyUI that it imitates."""

    @property
    def running(self) -> list[Any]:
        """The running prompts; raises RuntimeError if the server is not running."""

    @property
    def pending(self) -> list[Any]:
        """The pending prompts; raises RuntimeError if the server is not running."""

    @property
    def history(self) -> dict[str, Any]:
        """The history, by prompt id; raises RuntimeError if the server is not running."""

    @property
    def paused(self) -> bool:
        """Whether prompts stand still."""

    def pause(self, timeout: float = 30.0) -> None:
        """Let prompts stand still; raise TimeoutError if the running one does not in time."""

    def step(self, count: int = 1, *, timeout: float = 30.0) -> int:
        """Let prompts that stand still go on by some steps; return how many were made.

        Raises RuntimeError if the server is not running or not paused, and TimeoutError if a step
        takes too long.
        """

    def resume(self) -> None:
        """Let prompts go on."""

    def start(self) -> object:
        """Start the server; raise RuntimeError if it is running."""

    def restart(self) -> None:
        """Stop and restart the server on its port."""

    @property
    def added_nodes(self) -> list[str]:
        """The names of the node classes that were added."""

    @property
    def models(self) -> dict[str, list[str]]:
        """The names of the model files, by folder; raises RuntimeError if it is not running."""

    def add_node(self, cls: type, name: str | None = None) -> object:
        """Add a node class."""

    def remove_node(self, name: str) -> None:
        """Remove a node class that was added; raise LookupError if there is none."""

    def add_models(self, folder: str, *names: str) -> None:
        """Have model files of these names."""

    @property
    def sockets(self) -> list[Socket]:
        """The WebSockets that are open; raises RuntimeError if the server is not running."""

    def on(
        self,
        node: str,
        /,
        *,
        image: Sequence[bytes] | None = None,
        text: str | None = None,
        ui: Mapping[str, Any] | None = None,
        error: str | BaseException | None = None,
        times: int | None = None,
    ) -> Fault:
        """Set the answer of a node."""

    def script(self, *steps: Step, timeout: float = 10.0, times: int | None = None) -> Fault:
        """Play steps in place of prompts."""

    def push(self, message: Any, *, to: str | None = None) -> None:
        """Send a JSON message to all clients, or to one."""

    def push_binary(self, data: bytes, *, to: str | None = None) -> None:
        """Send a binary message to all clients, or to one."""

    def reset(self, keep: Collection[Any] = ()) -> None:
        """Return to the start, but for what is to be kept."""

    def kill(self) -> None:
        """Crash the server; its port refuses connections until the next start."""


class ControlError(Exception):
    """A call that is answered with an error.

    Attributes:
        status: The HTTP status.
        kind: The kind of the error in one word, such as ``"unknown_fault"``.
        near: The name that was probably meant; ``None``: there is none.
        more: Further members of the answer.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        *,
        near: str | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.near = near
        self.more: dict[str, Any] = dict(more or {})

    def content(self) -> dict[str, Any]:
        """Return the JSON of the answer."""
        error = {"type": self.kind, "message": str(self), "did_you_mean": self.near}
        return {"error": error, **self.more}


def unknown(
    what: str, name: str, known: Iterable[str], status: int = 404, kind: str | None = None
) -> ControlError:
    """Return the error for a name that is none of the known ones."""
    near = next(iter(nearest(name, sorted(known), 1)), None)
    hint = f"; did you mean {near}?" if near else ""
    kind = kind or f"unknown_{what.replace(' ', '_')}"
    return ControlError(status, kind, f"no {what} {name[:100]!r}{hint}", near=near)


def invalid(message: str) -> ControlError:
    """Return the error for a call with a wrong value."""
    return ControlError(400, "invalid", message)


@attrs.frozen
class ControlCall:
    """A call of a client.

    Attributes:
        names: The variable parts of the path, decoded.
        query: The query parameters, decoded.
        body: The body.
    """

    names: Sequence[str]
    query: Mapping[str, str]
    body: bytes = attrs.field(repr=False)

    def fields(self, known: Collection[str], required: Collection[str] = ()) -> dict[str, Any]:
        """Return the JSON object of the body; an empty body is an empty object.

        Raises:
            ControlError: It is no object, has a member that is not known, or lacks a required one.
            ValueError: It is nested too deeply.
        """
        try:
            found = json.loads(self.body) if self.body.strip() else {}
        except (ValueError, RecursionError) as exc:
            raise invalid(f"the body is not JSON: {exc}") from None
        if not isinstance(found, dict):
            raise invalid("the body must be a JSON object")
        check_depth("the body", found)
        return check_members(found, known, required)

    def number(self, name: str, default: int, most: int) -> int:
        """Return a whole number of 0 or more from the query, at most ``most``."""
        text = self.query.get(name, str(default))
        if not (text.isascii() and text.isdigit() and len(text) < 16 and int(text) <= most):
            raise invalid(f"{name} must be a whole number from 0 to {most}, not {text[:100]!r}")
        return int(text)

    def only(self, *names: str) -> None:
        """Raise ControlError for a query parameter that is none of these."""
        for name in self.query:
            if name not in names:
                raise unknown("parameter", name, names, 400)


def check_members(
    found: dict[str, Any], known: Collection[str], required: Collection[str] = ()
) -> dict[str, Any]:
    """Return an object unchanged; raise ControlError for an unknown or a missing member."""
    for name in found:
        if name not in known:
            raise unknown("member", name, known, 400)
    if missing := [name for name in required if name not in found]:
        raise invalid(f"{missing[0]} is missing")
    return found


def from_base64(data: Any, what: str) -> bytes:
    """Return the bytes that a string encodes; raise ControlError if it does not."""
    try:
        return base64.b64decode(data, validate=True)
    except (TypeError, ValueError, binascii.Error) as exc:
        raise invalid(f"{what} is not in Base64: {exc}") from None


#: Answers a call: a status, and JSON.
Route = Callable[[ControlledServer, ControlCall], tuple[int, Any]]
#: Method, path (each ``*`` is one variable part), and route.
ControlRoutes = Sequence[tuple[str, str, Route]]
