"""State of the main thread that a Ctrl-C in the client might leave behind."""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping
from typing import Any


def state_of_thread() -> dict[str, Any]:
    """Return what requests of this thread would follow, and which locks of the client it owns.

    Tests that do not import the client need not import it for this.
    """
    modules = sys.modules
    state: dict[str, Any] = {"transfer": None, "silence": None, "calls": None, "locks": []}
    if (connections := modules.get("comfy_client.transport.connections")) is not None:
        state["transfer"] = connections.current.get()
    if (deadline := modules.get("comfy_client.transport.deadline")) is not None:
        silence = deadline.read_timeout.get()
        state["silence"] = None if silence == float("inf") else silence
        state["calls"] = deadline.parallel_calls.get()
    if (locks := modules.get("comfy_client.locks")) is not None:
        known = [ref() for ref in list(locks._locks)]
        state["locks"] = [lock for lock in known if lock is not None and lock._is_owned()]
    return state


def changes_since(before: Mapping[str, Any]) -> list[str]:
    """Return the names of what is not as it was, once errors that nobody holds are gone."""
    for tidy in (bool, gc.collect):
        tidy()
        now = state_of_thread()
        changed = [name for name in before if before[name] != now[name]]
        if not changed:
            break
    return changed
