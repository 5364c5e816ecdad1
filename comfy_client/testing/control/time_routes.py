"""Routes for the speed of a server, for pauses, and for steps while it is paused."""

from __future__ import annotations

from typing import Any

from ..active_faults import check_count, check_seconds
from .controlled import ControlCall, ControlError, ControlledServer, ControlRoutes, invalid

_MOST = 10_000  # steps of a call
_LONGEST = 60.0  # seconds for a step


def _speed(server: ControlledServer, call: ControlCall) -> tuple[int, Any]:
    """Answer with the speed."""
    call.only()
    return 200, {"speed": server.speed}


def _set_speed(server: ControlledServer, call: ControlCall) -> tuple[int, Any]:
    """Set the speed."""
    server.speed = call.fields(("speed",), ("speed",))["speed"]
    return 200, {"speed": server.speed}


def _pause(server: ControlledServer, call: ControlCall) -> tuple[int, Any]:
    """Let prompts stand still; answer once the running one does."""
    timeout = _timeout(call.fields(("timeout",)))
    try:
        server.pause(timeout)
    except TimeoutError as exc:
        raise _late(exc) from exc
    return 200, {"paused": server.paused}


def _step(server: ControlledServer, call: ControlCall) -> tuple[int, Any]:
    """Let prompts go on by some steps; answer with the number of those that were made."""
    data = call.fields(("count", "timeout"))
    count = check_count("count", data.get("count", 1), 1, _MOST)
    try:
        return 200, {"steps": server.step(count, timeout=_timeout(data))}
    except TimeoutError as exc:
        raise _late(exc) from exc


def _resume(server: ControlledServer, call: ControlCall) -> tuple[int, Any]:
    """Let prompts go on."""
    call.fields(())
    server.resume()
    return 200, {"paused": server.paused}


def _timeout(data: dict[str, Any]) -> float:
    timeout = check_seconds(data.get("timeout", 30.0), "timeout is")
    if timeout > _LONGEST:
        raise invalid(f"timeout is {_LONGEST:.0f} at most, not {timeout}")
    return timeout


def _late(error: TimeoutError) -> ControlError:
    return ControlError(409, "not_possible_now", str(error))


TIME_ROUTES: ControlRoutes = (
    ("GET", "/speed", _speed),
    ("POST", "/speed", _set_speed),
    ("POST", "/pause", _pause),
    ("POST", "/step", _step),
    ("POST", "/resume", _resume),
)
