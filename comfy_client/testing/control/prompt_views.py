"""Routes for the prompts that a server has started to run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ..received import Ran
from .controlled import ControlCall, ControlError, ControlledServer, ControlRoutes

_MOST = 1000  # prompts in an answer


def _prompts(server: ControlledServer, call: ControlCall) -> tuple[int, Any]:
    """Answer with the last prompts that have started, oldest first."""
    call.only("limit")
    limit = call.number("limit", 100, _MOST)
    ran = list(server.ran)
    shown = ran[len(ran) - min(limit, len(ran)) :]
    return 200, {"count": len(ran), "prompts": [_summary(one) for one in shown]}


def _prompt(server: ControlledServer, call: ControlCall) -> tuple[int, Any]:
    """Answer with one prompt, and what the queue or the history has of it."""
    call.only()
    wanted = call.names[0]
    ran = next((one for one in reversed(list(server.ran)) if one.prompt_id == wanted), None)
    entry: dict[str, Any] = {}
    graph = None
    with contextlib.suppress(RuntimeError):  # the server is not running
        entry = server.history.get(wanted) or {}
        items = [*server.running, *server.pending, entry.get("prompt")]
        graph = next((item[2] for item in items if item and item[1] == wanted), None)
    if ran is None and graph is None:
        message = f"no prompt {wanted[:100]!r} is in the queue, in the history, or has run"
        raise ControlError(404, "unknown_prompt", message)
    messages = (entry.get("status") or {}).get("messages") or []
    times = [*_timestamps(messages)]
    return 200, {
        **(_summary(ran) if ran else {"id": wanted, "client_id": None, "status": None}),
        "graph": graph,
        "outputs": entry.get("outputs"),
        "messages": messages,
        "seconds": (times[-1] - times[0]) / 1000 if times else None,
    }


def _timestamps(messages: list[Any]) -> Iterator[float]:
    """Yield the times of those messages that have one; scripts send any."""
    for message in messages:
        match message:
            case [_, {"timestamp": int() | float() as timestamp}]:
                yield timestamp


def _summary(ran: Ran) -> dict[str, Any]:
    return {"id": ran.prompt_id, "client_id": ran.client_id, "status": ran.status}


PROMPT_VIEW_ROUTES: ControlRoutes = (
    ("GET", "/prompts", _prompts),
    ("GET", "/prompts/*", _prompt),
)
