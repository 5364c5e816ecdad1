"""The steps of a script, and how they are played in place of a prompt."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import attrs

from .prompt_queue import Item, PromptQueue
from .received import Ran
from .server_state import ServerState
from .ws_frames import pieces

#: A placeholder for the prompt's id in a script.
PROMPT_ID = "00000000-0000-4000-8000-000000000000"
_POLL = 0.005  # seconds between two checks of the faults


@attrs.frozen
class Finish:
    """A step of a script: the prompt leaves the queue and appears in the history.

    Attributes:
        entry: The complete history entry of the prompt; ``None``: one with the outputs and
            messages that the script has sent.
    """

    entry: Mapping[str, Any] | None = None


#: A step: a dict is a message for the prompt's client, with :data:`PROMPT_ID` replaced; bytes are a
#: binary message; an Event is waited for; a function is called with the prompt's id.
Step = Mapping[str, Any] | bytes | threading.Event | Finish | Callable[[str], object]


class PromptHooks:
    """The hooks by which scripts and faults change the execution of prompts."""

    def __init__(self, state: ServerState) -> None:
        self._state = state

    def play_script(self, item: Item) -> bool:
        """Record that a prompt starts; play the script set for it, or return False without one."""
        state, prompt_id, extra_data = self._state, item[1], item[3]
        if prompt_id in state.sockets.silenced:  # submitted again after lose_queue()
            state.sockets.flush()
            state.sockets.silenced.discard(prompt_id)
        ran = Ran(prompt_id, extra_data.get("client_id"), extra_data)
        state.records.keep(state.records.ran, ran)
        script = state.faults.first("script")
        if script is None:
            return False
        try:
            steps, timeout = script.settings
            play(state, steps, prompt_id, ran.client_id, timeout)
        except BaseException as exc:  # noqa: BLE001  raised at the end of the server
            state.keep_error(exc)
        return True

    def before_step(self) -> None:
        """Wait while a fault hangs the worker."""
        while self._state.faults.first("hang_worker") and not self._state.queue.closed:
            time.sleep(_POLL)

    def before_end(self, prompt_id: str, status: str | None) -> bool:
        """Wait while a fault delays history; return whether history records the prompt."""
        state, start = self._state, time.monotonic()
        self.before_step()
        while not state.queue.closed:
            late = state.faults.first("late_history")
            seconds = late.settings if late else 0
            if seconds is not None and time.monotonic() >= start + seconds:
                break
            time.sleep(_POLL)
        keep = not state.faults.first("no_history")
        record_end(state, prompt_id, status)
        return keep


def record_end(state: ServerState, prompt_id: str, status: str | None) -> None:
    """Record how a prompt ended, unless the server has stopped or lost the prompt."""
    if state.queue.closed:
        return
    ran = next((r for r in reversed(state.records.ran) if r.prompt_id == prompt_id), None)
    if ran is not None and prompt_id not in state.sockets.silenced:
        ran.status = status


def finish(
    state: ServerState,
    prompt_id: str,
    outputs: Mapping[str, Any] | None,
    messages: Collection[Any],
    entry: Mapping[str, Any] | None,
) -> None:
    """Move a prompt to the history, with ``entry`` or one made of the other arguments."""
    failed = {m[0] for m in messages} & {"execution_error", "execution_interrupted"}
    status = {
        "status_str": "error" if failed else "success",
        "completed": not failed,
        "messages": list(messages),
    }
    made = {"outputs": dict(outputs or {}), "status": status, "meta": {}}
    result = dict(entry) if entry else made
    record_end(state, prompt_id, (result.get("status") or {}).get("status_str"))
    state.queue.settle(prompt_id, result)


def push(
    state: ServerState, opcode: int, payload: bytes, to: str | None = None, fragments: int = 1
) -> None:
    """Send a message to one client, or to all if ``to`` is None; return once it is sent."""
    state.sockets.push(b"".join(pieces(opcode, payload, fragments)), to)


def play(
    state: ServerState,
    steps: Sequence[Step],
    prompt_id: str,
    client_id: str | None,
    timeout: float,
) -> None:
    """Play a script for one prompt, and wait until the prompt has left the queue.

    Raises TimeoutError if an event is not set within `timeout` seconds.
    """
    outputs: dict[str, Any] = {}
    messages: list[Any] = []
    queue = state.queue
    for step in steps:
        if queue.closed:
            return
        if isinstance(step, Mapping):
            event = _renamed(step, prompt_id)
            data = event.get("data")
            if event.get("type") == "executed":
                outputs[data["node"]] = data["output"]
            elif str(event.get("type")).startswith("execution_"):
                messages.append([event["type"], data])
            if event.keys() == {"type", "data"}:
                state.send(event["type"], data, client_id)
            else:
                push(state, 1, json.dumps(event).encode(), client_id)
        elif isinstance(step, bytes):
            push(state, 2, step.replace(PROMPT_ID.encode(), prompt_id.encode()), client_id)
        elif isinstance(step, threading.Event):
            state.sockets.flush()
            _wait_for(step, queue, timeout)
        elif isinstance(step, Finish):
            entry = step.entry and _renamed(step.entry, prompt_id)
            finish(state, prompt_id, outputs, messages, entry)
        else:
            state.sockets.flush()
            step(prompt_id)
    state.sockets.flush()
    while queue.running_id == prompt_id and not queue.closed:
        state.records.wait(0.02)


def _wait_for(event: threading.Event, queue: PromptQueue, timeout: float) -> None:
    end = time.monotonic() + timeout
    while not event.wait(0.02) and not queue.closed:
        if time.monotonic() > end:
            raise TimeoutError(f"the script waited {timeout} s for an event")


def _renamed(data: Mapping[str, Any], prompt_id: str) -> Any:
    return json.loads(json.dumps(data).replace(PROMPT_ID, prompt_id))
