"""``comfy-client watch``: follow a prompt to its end, or everything on a server."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final

import attrs
import click

from ..errors import TransportError
from .mine import is_mine
from .printing import emit, examples, note, say
from .prompt_commands import entry_object, known_job, queue_objects
from .results import quiet_option, show_result, wait_for
from .server_options import ANSWER_LIMIT, ServerOptions, of_server

if TYPE_CHECKING:
    from ..client import ComfyApi
    from ..events import Event

#: Seconds between two looks at the queue without a status event.
_LOOK: Final = 5.0
#: The shortest time between two requests for the queue, as the answer may be large.
_PAUSE: Final = 0.3


@click.command(
    epilog=examples(
        "comfy-client watch",
        "comfy-client watch ID",
        "comfy-client watch --json | jq -c 'select(.status == \"failed\")'",
    )
)
@click.argument("prompt_id", metavar="[ID]", required=False)
@quiet_option
@of_server
def watch(given: ServerOptions, prompt_id: str | None, quiet: bool) -> None:
    """Show what happens, to all prompts or to one.

    Without ID, print a line for each prompt that comes, runs and ends, whoever submitted it, until
    Ctrl-C.  With ID, it ends as run does, and Ctrl-C ends the watching only; with --json each
    event of the prompt is a line, then its result.
    """
    with given.client() as api:
        if prompt_id is None:
            length = api.poll_status(ANSWER_LIMIT).queue_remaining
            if not quiet:
                note(f"Prompts in the queue of {api.host}: {length}; Ctrl-C stops.")
            for change in changes(api):
                if given.json:
                    emit(change)
                else:
                    say(line_of(change))
            return
        one = known_job(api, prompt_id)
        if given.json:
            for event in one.events():
                emit(event.to_dict())
            emit(one.result().to_dict())
        else:
            show_result(wait_for(one, None, quiet, is_ours=False), None, as_json=False)


def changes(api: ComfyApi) -> Iterator[dict[str, Any]]:
    """Yield the prompts in the current queue, then each change of the queue and each event."""
    from ..events import ErrorEvent, FeatureFlags, LogsEvent, StatusEvent, TerminalEvent

    inbox: SimpleQueue[Event] = SimpleQueue()
    api.on("all", inbox.put)
    watched = _Watched(api)
    looked_at, due = -_PAUSE, 0.0
    while True:
        now = time.monotonic()
        if now >= due:
            yield from watched.look()
            looked_at, due = now, now + _LOOK
        try:
            event = inbox.get(timeout=max(0.01, due - now))
        except Empty:
            continue
        if isinstance(event, StatusEvent):
            due = min(due, looked_at + _PAUSE)
        elif not isinstance(event, FeatureFlags | LogsEvent | TerminalEvent | ErrorEvent):
            yield event.to_dict()


@attrs.define
class _Watched:
    """The queue of a server as it was when it was last read."""

    api: ComfyApi
    known: dict[str, str] = attrs.field(factory=dict)
    is_away: bool = False

    def look(self) -> Iterator[dict[str, Any]]:
        """Read the queue, and yield the changes since it was last read."""
        try:
            found = queue_objects(self.api.get_queue())
            self.is_away = False
            gone = self.known.keys() - {row["prompt_id"] for row in found}
            ended = {prompt_id: self._end(prompt_id) for prompt_id in gone}
        except TransportError as exc:
            if not self.is_away:
                note(str(exc))
            self.is_away = True
            return
        for prompt_id in [one for one in self.known if one in ended]:
            del self.known[prompt_id]
            yield _change({**ended[prompt_id], "queue_remaining": len(found)})
        for row in found:
            if self.known.get(row["prompt_id"]) != row["status"]:
                self.known[row["prompt_id"]] = row["status"]
                yield _change({**row, "queue_remaining": len(found)})

    def _end(self, prompt_id: str) -> dict[str, Any]:
        """Return a prompt's outcome from the history, or the status ``gone`` if it has no entry."""
        entry = self.api.get_history(prompt_id)
        if entry is None:
            return {"prompt_id": prompt_id, "status": "gone"}
        return entry_object(self.api, entry, is_mine())


def _change(row: dict[str, Any]) -> dict[str, Any]:
    return {"name": "queue", "time": time.time(), **row}


def line_of(change: dict[str, Any]) -> str:
    """Format a change as a line: ``12:03:04 succeeded 1f2e... 5.2 s a.png``."""
    if change["name"] != "queue":
        silent = ("name", "is_end", "attempt")
        known = {key: value for key, value in change.items() if key not in silent and value}
        words = ", ".join(itertools.starmap(_words, known.items()))
        return f"{time.strftime('%H:%M:%S')} {change['name']:<11} {words}"
    seconds, files = change.get("seconds"), change.get("files") or ()
    facts = [
        f"{change['nodes']} nodes" if change["status"] in ("running", "pending") else "",
        "" if seconds is None else f"{seconds:.1f} s",
        ", ".join(file["filename"] for file in files[:3]),
        change.get("error") or "",
    ]
    words = ", ".join(filter(None, facts))
    return f"{time.strftime('%H:%M:%S')} {change['status']:<11} {change['prompt_id']}  {words}"


def _words(key: str, value: Any) -> str:
    """Format one field of an event: ``delay 0.4 s``, ``node 3``, or an error's message."""
    if isinstance(value, dict) and "message" in value:
        return f"{value['message']}"
    if key == "delay":
        return f"{key} {value:.1f} s"
    if isinstance(value, dict | list):
        return f"{key} {json.dumps(value):.120}"
    return f"{key} {value}"
