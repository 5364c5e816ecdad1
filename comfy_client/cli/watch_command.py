"""``comfy-client watch``: follow a prompt to its end, or everything on a server."""

from __future__ import annotations

import contextvars
import itertools
import json
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final

import click

from .completion import complete_ids
from .exits import one_line
from .following import receiving
from .hosted_jobs import is_hosted
from .live_queue import LiveQueue
from .pooling import ask_all
from .printing import emit, examples, note, say
from .prompt_commands import full_id, known_job
from .results import quiet_option, show_result, wait_for
from .server_options import ServerOptions, of_servers

if TYPE_CHECKING:
    from ..client import ComfyApi
    from ..events import Event

#: Seconds between two looks at the queue without a status event.
_LOOK: Final = 5.0
#: The shortest time between two looks: in seconds, and as a multiple of how long the last one took.
_PAUSE: Final = 0.3
_REST: Final = 5.0
#: The longest uninterrupted wait, so that Ctrl-C works on every system.
_SLICE: Final = 0.5


@click.command(
    epilog=examples(
        "comfy-client watch",
        "comfy-client watch ID",
        "comfy-client watch --host gpu-1:8188 --host gpu-2:8188",
        "comfy-client watch --json | jq -c 'select(.status == \"failed\")'",
    )
)
@click.argument("prompt_id", metavar="[ID]", required=False, shell_complete=complete_ids)
@quiet_option
@of_servers
def watch(given: ServerOptions, prompt_id: str | None, quiet: bool) -> None:
    """Show what happens, to all prompts or to one.

    Without ID, print a line for each prompt that comes, runs and ends, whoever submitted it, until
    Ctrl-C.  A prompt that is over in a moment has only the line of its end.  The history is read a
    few times a second, less often if the server is slow; a prompt that comes and is deleted, or is
    lost with its server, between two reads is not shown.  With several servers (--host A --host B)
    each line names its server.

    With ID, the command ends as run does, and Ctrl-C ends only the watching; with --json each event
    of the prompt is a line, then its result.  Progress is shown if run --detach of this
    installation submitted the prompt, and no other command waits for it (never on Windows).
    """
    if prompt_id is None:
        with given.clients() as clients:
            begun = _begun(clients, given.answer_limit)
            if not quiet:
                note(f"{begun}; Ctrl-C stops.")
            for change in changes_of(clients) if given.is_several else changes(clients[0]):
                if given.json:
                    emit(change)
                else:
                    say(line_of(change), change.get("status", ""))
        return
    with given.client() as api:
        prompt_id = full_id(api, prompt_id)
        with receiving(api, prompt_id, quiet=quiet):
            one = known_job(api, prompt_id)
            if given.json:
                for event in one.events():
                    emit(event.to_dict())
                emit(one.result().to_dict())
            else:
                show_result(wait_for(one, None, quiet, is_ours=False), None, as_json=False)


def _begun(clients: Sequence[ComfyApi], limit: float) -> str:
    """Return a line that says what is watched; raise if no server answers."""
    if len(clients) > 1:
        ask_all(clients, limit)
        return f"Watching the queues of {', '.join(api.host for api in clients)}"
    [api] = clients
    if is_hosted(api):
        api.get_queue()  # raises the error that says why there is nothing to watch
    length = api.poll_status(limit).queue_remaining
    return f"Prompts in the queue of {api.host}: {length}"


def changes_of(clients: Sequence[ComfyApi]) -> Iterator[dict[str, Any]]:
    """Yield the changes of several servers as :func:`changes` does, each with ``server``."""
    inbox: SimpleQueue[dict[str, Any] | Exception] = SimpleQueue()

    def follow(api: ComfyApi) -> None:
        try:
            for change in changes(api):
                inbox.put({**change, "server": api.host})
        except Exception as exc:  # noqa: BLE001  # raised below
            inbox.put(exc)

    for api in clients:
        follow_it = partial(contextvars.copy_context().run, follow, api)
        threading.Thread(target=follow_it, daemon=True).start()
    while True:
        try:
            found = inbox.get(timeout=_SLICE)
        except Empty:
            continue
        if isinstance(found, Exception):
            raise found
        yield found


def changes(api: ComfyApi) -> Iterator[dict[str, Any]]:
    """Yield the prompts in the queue, then its changes, and events such as ``disconnected``."""
    from ..events import ErrorEvent, FeatureFlags, LogsEvent, StatusEvent, TerminalEvent

    inbox: SimpleQueue[Event] = SimpleQueue()
    api.on("all", inbox.put)
    queue = LiveQueue(api)
    rests_until = due = time.monotonic()
    while True:
        now = time.monotonic()
        if now >= due:
            yield from queue.look()
            took = time.monotonic() - now
            rests_until, due = now + max(_PAUSE, _REST * took), now + max(_LOOK, _REST * took)
        try:
            event = inbox.get(timeout=max(0.01, due - time.monotonic()))
        except Empty:
            continue
        if isinstance(event, StatusEvent):
            due = min(due, rests_until)
        elif not isinstance(event, FeatureFlags | LogsEvent | TerminalEvent | ErrorEvent):
            yield event.to_dict()


def line_of(change: dict[str, Any]) -> str:
    """Format a change as a line: ``12:03:04 succeeded 1f2e... 5.2 s a.png``."""
    server = change.get("server")
    if server is not None:
        alone = {key: value for key, value in change.items() if key != "server"}
        return f"{server.removeprefix('http://')} {line_of(alone)}"
    if change["name"] != "queue":
        silent = ("name", "is_end", "attempt")
        known = {key: value for key, value in change.items() if key not in silent and value}
        words = ", ".join(itertools.starmap(_words, known.items()))
        return f"{time.strftime('%H:%M:%S')} {change['name']:<11} {words}"
    seconds, files, error = change.get("seconds"), change.get("files") or (), change.get("error")
    facts = [
        f"{change['nodes']} nodes" if change["status"] in ("running", "pending") else "",
        "" if seconds is None else f"{seconds:.1f} s",
        ", ".join(file["filename"] for file in files[:3]),
        one_line(f"{change['class_type'] or 'node'} {change['node_id']}: {error}") if error else "",
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
