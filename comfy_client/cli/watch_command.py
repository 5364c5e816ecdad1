"""``comfy-client watch``: follow a prompt to its end, or everything on a server; and ``wait``."""

from __future__ import annotations

import contextvars
import itertools
import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final

import attrs
import click

from .. import runtime
from ..errors import ComfyError, UnexpectedResponse
from .completion import complete_ids
from .decorators import seconds_option
from .exits import message_of, one_line
from .own_prompts import Mine, is_mine, receiving
from .printing import command, emit, note, say
from .prompt_commands import entry_object, known_job, queue_objects
from .prompt_records import full_id, is_hosted
from .results import quiet_option, show_result, wait_for
from .server_options import ServerOptions, of_servers
from .several_servers import Row, ask_all, print_rows

if TYPE_CHECKING:
    from ..client import ComfyApi
    from ..events import Event
    from ..models import HistoryEntry

#: The number of ended prompts in the first request for the history.
_FIRST: Final = 32
#: The factor by which the next request is larger if one did not return all new prompts.
_GROWTH: Final = 4


@attrs.define
class LiveQueue:
    """The queue and the end of the history of a server, as they were when last read.

    Attributes:
        api: A client of the server.
        mine: Returns whether this installation submitted a prompt, judging by its ``extra_data``.
        waiting: The status of each prompt in the queue, by id.
        ended: The ids of the prompts that ended last, the newest last; ``None``: not read yet.
        is_away: Whether the server did not answer when it was last asked.
        most: The most ended prompts that one request reads.
    """

    api: ComfyApi
    mine: Mine = attrs.field(factory=is_mine)
    waiting: dict[str, str] = attrs.field(factory=dict)
    ended: dict[str, None] | None = None
    is_away: bool = False
    most: int = 1024
    _pace: int = attrs.field(default=0, init=False)  # how many new prompts the last look found

    def look(self) -> Iterator[dict[str, Any]]:
        """Read the queue, then the history, and yield the changes since they were last read.

        In this order, a prompt that ends in between is in at least one of them.  If the server does
        not answer, nothing is yielded; a note on stderr says so once.
        """
        try:
            rows = queue_objects(self.api.get_queue())
            ends = self._ends({row["prompt_id"] for row in rows})
        except ComfyError as exc:
            from ..transport.failures import is_away

            if not is_away(exc):
                raise
            if not self.is_away:
                note(str(exc))
            self.is_away = True
            return
        self.is_away = False
        for change in self._changes(rows, ends):
            yield {"name": "queue", "time": time.time(), **change, "queue_remaining": len(rows)}

    def _changes(
        self, rows: Iterable[dict[str, Any]], ends: Iterable[dict[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        """Yield and remember the new statuses of prompts, in the order in which each had them."""
        queued = {row["prompt_id"]: row for row in rows}
        for end in ends:
            prompt_id = end["prompt_id"]
            row = queued.pop(prompt_id, None)  # it has ended since the queue was read
            if row is not None and self.waiting.get(prompt_id) != row["status"]:
                yield row
            self.waiting.pop(prompt_id, None)
            yield end
        for prompt_id, row in queued.items():
            if self.waiting.get(prompt_id) != row["status"]:
                self.waiting[prompt_id] = row["status"]
                yield row

    def _ends(self, queued: set[str]) -> list[dict[str, Any]]:
        """Return JSON objects for prompts that have ended or left the queue since the last look."""
        known = self.ended
        new, is_whole = self._new_entries()
        gone = [one for one in self.waiting if one not in queued and one not in new]
        ends: dict[str, dict[str, Any]] = {}
        for prompt_id in gone:
            # An id that is used again keeps its old place in the history.
            is_listed = known is not None and prompt_id in known
            entry = None if is_whole and not is_listed else self.api.get_history(prompt_id)
            ends[prompt_id] = self._end(prompt_id, entry)
        ends |= {prompt_id: self._end(prompt_id, entry) for prompt_id, entry in new.items()}
        self._note(new)
        return list(ends.values())

    def _new_entries(self) -> tuple[Mapping[str, HistoryEntry], bool]:
        """Return the new entries of the history, and whether these are all new ones.

        Each entry contains a workflow, so as few as possible are read: the latest, and more of them
        until one is known already.
        """
        known = self.ended
        if known is None:
            self.ended = dict.fromkeys(self._latest(_FIRST) or self._latest(1) or ())
            return {}, True
        new: Mapping[str, HistoryEntry] = {}
        size = 2 + self._pace
        while (found := self._latest(size)) is not None:
            new = {one: entry for one, entry in found.items() if one not in known}
            if len(new) < len(found) or len(found) != size:
                return new, True
            if size == self.most:
                break
            size = min(_GROWTH * size, self.most)
        note("Some prompts have ended that are not shown: too many at once, or too large to read.")
        return new, False

    def _latest(self, size: int) -> Mapping[str, HistoryEntry] | None:
        """Return the last entries of the history, oldest first; None if they are too large."""
        try:
            return self.api.get_histories(size)
        except UnexpectedResponse as exc:
            if "max_json" not in str(exc):
                raise
            return None

    def _note(self, new: Mapping[str, HistoryEntry]) -> None:
        """Remember which prompts have ended: at most twice as many as a request may return."""
        self._pace = min(len(new), self.most // 2)
        self.ended = dict.fromkeys([*(self.ended or ()), *new][-2 * self.most :])

    def _end(self, prompt_id: str, entry: HistoryEntry | None) -> dict[str, Any]:
        if entry is None:
            return {"prompt_id": prompt_id, "status": "gone"}
        return entry_object(self.api, entry, self.mine)


#: Seconds between two looks at the queue without a status event.
_QUEUE_INTERVAL: Final = 5.0
#: The shortest time between two looks: in seconds, and as a multiple of how long the last one took.
_LEAST_INTERVAL: Final = 0.3
_REST: Final = 5.0


@command(
    "comfy-client watch",
    "comfy-client watch ID",
    "comfy-client watch --host gpu-1:8188 --host gpu-2:8188",
    "comfy-client watch --monitor",
    "comfy-client watch --json | jq -c 'select(.status == \"failed\")'",
)
@click.argument("prompt_id", metavar="[ID]", required=False, shell_complete=complete_ids)
@click.option(
    "--monitor",
    is_flag=True,
    help="Also show how busy the machine is: CPU, memory, disk, GPUs.  Needs Crystools there.",
)
@quiet_option
@of_servers
def watch(given: ServerOptions, prompt_id: str | None, monitor: bool, quiet: bool) -> None:
    """Show what happens, to all prompts or to one.

    Without ID, print a line for each prompt that comes, runs and ends, whoever submitted it, until
    Ctrl-C.  A prompt that is over in a moment has only the line of its end.  The history is read a
    few times a second, less often if the server is slow; a prompt that comes and is deleted, or is
    lost with its server, between two reads is not shown.  With several servers (--host A --host B)
    each line names its server.

    With ID, the command ends as run does, and Ctrl-C ends only the watching; with --json each event
    of the prompt is a line, then its result.  Progress is shown if run --detach of this
    installation submitted the prompt, and no other command waits for it.
    """
    if prompt_id is None:
        with given.clients() as clients:
            begun = _begun(clients, given.answer_limit)
            if monitor:
                _check_monitors(clients)
            if not quiet:
                note(f"{begun}; Ctrl-C stops.")
            many = given.is_several
            found = changes_of(clients, monitor) if many else changes(clients[0], monitor=monitor)
            for change in found:
                if given.json:
                    emit(change)
                else:
                    say(line_of(change), change.get("status", ""))
        return
    if monitor:
        raise click.UsageError("--monitor shows what happens to a whole server: leave out the ID")
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
    return f"Prompts in the queue of {api.host}: {api.poll_status(limit).queue_remaining}"


def _check_monitors(clients: Sequence[ComfyApi]) -> None:
    """Print which of the servers that answer lack Crystools; raise if none has it."""
    from ..transport.failures import is_away

    errors: list[ComfyError] = []
    for api in clients:
        try:
            api.ext.monitor.gpus()
        except ComfyError as exc:
            if not is_away(exc):
                errors.append(exc)
    if len(errors) == len(clients):
        raise errors[0]
    for error in errors:
        note(f"{message_of(error)}; its figures are not shown")


def changes_of(clients: Sequence[ComfyApi], monitor: bool = False) -> Iterator[dict[str, Any]]:
    """Yield the changes of several servers as :func:`changes` does, each with ``server``."""
    inbox: SimpleQueue[dict[str, Any] | Exception] = SimpleQueue()

    def follow(api: ComfyApi) -> None:
        try:
            for change in changes(api, monitor=monitor):
                inbox.put({**change, "server": api.host})
        except Exception as exc:  # noqa: BLE001  # raised below
            inbox.put(exc)

    for api in clients:
        follow_it = partial(contextvars.copy_context().run, follow, api)
        threading.Thread(target=follow_it, daemon=True).start()
    while True:
        try:
            found = inbox.get(timeout=runtime.SLICE)
        except Empty:
            continue
        if isinstance(found, Exception):
            raise found
        yield found


def changes(api: ComfyApi, *, monitor: bool = False) -> Iterator[dict[str, Any]]:
    """Yield the prompts in the queue, then its changes, and events such as ``disconnected``.

    ``monitor`` adds the figures of Crystools.
    """
    from ..events import (
        ErrorEvent,
        FeatureFlags,
        LogsEvent,
        MonitorEvent,
        StatusEvent,
        TerminalEvent,
    )

    silent: tuple[type[Event], ...] = (FeatureFlags, LogsEvent, TerminalEvent, ErrorEvent)
    silent = silent if monitor else (*silent, MonitorEvent)

    inbox: SimpleQueue[Event] = SimpleQueue()
    api.on("all", inbox.put)
    queue = LiveQueue(api)
    rests_until = due = time.monotonic()
    while True:
        now = time.monotonic()
        if now >= due:
            yield from queue.look()
            took = time.monotonic() - now
            rests_until = now + max(_LEAST_INTERVAL, _REST * took)
            due = now + max(_QUEUE_INTERVAL, _REST * took)
        try:
            event = inbox.get(timeout=min(runtime.SLICE, max(0.01, due - time.monotonic())))
        except Empty:
            continue
        if isinstance(event, StatusEvent):
            due = min(due, rests_until)
        elif not isinstance(event, silent):
            yield event.to_dict()


def line_of(change: dict[str, Any]) -> str:
    """Format a change as a line: ``12:03:04 succeeded 1f2e... 5.2 s a.png``."""
    server = change.get("server")
    if server is not None:
        alone = {key: value for key, value in change.items() if key != "server"}
        return f"{server.removeprefix('http://')} {line_of(alone)}"
    if change["name"] == "monitor":
        from ..showing.usage import usage_line  # slow to import

        return f"{time.strftime('%H:%M:%S')} {change['name']:<11} {usage_line(change)}"
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


@command(
    "comfy-client wait --timeout 300 && comfy-client run txt2img.json",
    "comfy-client wait --host gpu-1:8188 --host gpu-2:8188",
)
@seconds_option("--timeout", "How long to wait.  Default: no limit.")
@of_servers
def wait(given: ServerOptions, timeout: float | None) -> None:
    """Wait until the server, or each of several, can run prompts.

    The server may still be starting, or be behind a proxy that says so.  Errors that time does not
    mend end the command immediately: wrong credentials, an unknown host, another program.
    """
    print_rows(given, partial(_ready, timeout), _show)


def _ready(timeout: float | None, api: ComfyApi) -> list[Row]:
    """Wait for a server, and return the JSON object that ``--json`` prints for it."""
    from ..connecting import may_be_starting

    began = time.monotonic()
    try:
        stats = api.wait_until_ready(timeout)
    except ComfyError as exc:
        if timeout is None or not may_be_starting(exc):
            raise
        raise TimeoutError(f"not ready within {timeout:g} s: {exc}") from None
    seconds = time.monotonic() - began
    return [{"host": api.host, "comfyui_version": stats.comfyui_version, "seconds": seconds}]


def _show(rows: list[Row]) -> None:
    for row in rows:
        version = row["comfyui_version"] or "of an unknown version"
        say(f"{row['host']} is ready: ComfyUI {version}")
