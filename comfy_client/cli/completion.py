"""Completion of names that only a server knows: prompt ids, node classes, model folders.

The server is the one that the command would ask, with the same credentials.  It has one second to
answer, or the seconds in ``COMFY_COMPLETION_TIMEOUT``.  After any failure there are no completions,
and no message.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import click
from click.shell_completion import CompletionItem

from ..values import T
from .decorators import complete_files, paths
from .exits import Mistake
from .printing import ago
from .profiles import load_config
from .prompt_records import is_hosted, listed
from .server_options import ServerOptions

if TYPE_CHECKING:
    from ..client import ComfyApi

#: Completions of a word, for the parameter ``shell_complete`` of click.
#: In quotes, as older releases of click cannot subscript the class.
Completions: TypeAlias = "list[CompletionItem[str]]"

#: The environment variable with the seconds within which the server must answer; default: 1.
TIMEOUT_VARIABLE: Final = "COMFY_COMPLETION_TIMEOUT"
#: The number of prompts that are offered from the end of the history.
_LATEST: Final = 50
_ID: Final = re.compile(r"[0-9a-f]{4,8}|[0-9a-f]{8}-[0-9a-f-]{0,27}")


def ask(ctx: click.Context, question: Callable[[ComfyApi], Iterable[T]]) -> list[T]:
    """Return a server's answer to a question; after any failure, return an empty list.

    The server is the first one that the command line would use.
    """
    from .target import resolve  # slow to import

    given = ctx.find_object(ServerOptions) or ServerOptions()
    limit = _limit()
    answers: SimpleQueue[list[T]] = SimpleQueue()
    try:
        server = resolve(given.each[0], load_config(), _first_line)
    except (click.ClickException, OSError, ValueError):
        return []

    def work() -> None:
        answer: list[T] = []
        try:
            with contextlib.suppress(Exception), contextlib.closing(server.client(limit)) as api:
                answer = [*question(api)]
        finally:
            answers.put(answer)

    # The limit applies to all requests together, name resolution included.
    threading.Thread(target=work, daemon=True, name="comfy-completion").start()
    try:
        return answers.get(timeout=limit)
    except Empty:
        return []


def _limit() -> float:
    try:
        return min(max(0.01, float(os.environ.get(TIMEOUT_VARIABLE) or 1.0)), 3600.0)
    except ValueError:
        return 1.0


def _first_line(path: str) -> str:
    """Return the first line of a file; raise Mistake for terminals, pipes and missing files.

    A read would take from a terminal or pipe what is meant for the shell or for the command.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise Mistake(f"{path} is not a regular file")
    with file.open(encoding="utf-8") as opened:
        return opened.readline(1 << 16).rstrip("\r\n")


def starting(text: str, values: Iterable[str]) -> Completions:
    """Return completions for the values that begin with a text, without duplicates."""
    return [CompletionItem(one) for one in dict.fromkeys(values) if one.startswith(text)]


def complete_texts(ctx: click.Context, param: click.Parameter, incomplete: str) -> Completions:
    """Complete the file name in ``@FILE`` or ``NAME=@FILE``."""
    before, at, typed = incomplete.partition("@")
    if not at or (before and not before.endswith("=")):
        return []
    return [CompletionItem(f"{before}@{one}") for one in paths(typed)]


def complete_ids(ctx: click.Context, param: click.Parameter, incomplete: str) -> Completions:
    """Complete the ids of prompts in the queue and of the latest prompts in the history."""
    return _ids(ctx, incomplete, _all_prompts)


def complete_queued(ctx: click.Context, param: click.Parameter, incomplete: str) -> Completions:
    """Complete the ids of prompts in the queue."""
    return _ids(ctx, incomplete, _queued_prompts)


def complete_workflows(ctx: click.Context, param: click.Parameter, incomplete: str) -> Completions:
    """Complete file names, or prompt ids if the text begins such an id but no file name."""
    if _ID.fullmatch(incomplete) and not glob.glob(f"{incomplete}*"):
        found = complete_ids(ctx, param, incomplete)
        if found:
            return found
    return complete_files(ctx, param, incomplete)


def _ids(
    ctx: click.Context,
    incomplete: str,
    prompts: Callable[[ComfyApi], Iterator[tuple[str, str]]],
) -> Completions:
    found = ask(ctx, prompts)
    given = ctx.params.get("prompt_ids") or ()
    return [
        CompletionItem(prompt_id, help=what)
        for prompt_id, what in found
        if prompt_id.startswith(incomplete) and prompt_id not in given
    ]


def _queued_prompts(api: ComfyApi) -> Iterator[tuple[str, str]]:
    if is_hosted(api):
        yield from (one for one in listed(api, _LATEST) if one[1] in ("pending", "running"))
        return
    queue = api.get_queue()
    yield from ((item.prompt_id, "running") for item in queue.running)
    yield from ((item.prompt_id, "pending") for item in queue.pending)


def _all_prompts(api: ComfyApi) -> Iterator[tuple[str, str]]:
    if is_hosted(api):
        yield from listed(api, _LATEST)
        return
    yield from _queued_prompts(api)
    for entry in reversed(api.get_histories(_LATEST).values()):
        yield entry.prompt_id, f"{entry.outcome}, {ago(entry.ended)} ago"


def complete_classes(ctx: click.Context, param: click.Parameter, incomplete: str) -> Completions:
    """Complete node classes."""
    known = known_definitions(ctx)
    found = ask(ctx, lambda api: api.node_names()) if known is None else known
    return starting(incomplete, sorted(found))


def complete_types(ctx: click.Context, param: click.Parameter, incomplete: str) -> Completions:
    """Complete the output types of nodes."""
    known = known_definitions(ctx)
    if known is None:
        kinds = {*ask(ctx, lambda api: _kinds(api.iter_node_definitions()))}
    else:
        kinds = {*_kinds(known.items())}
    return starting(incomplete.upper(), sorted(kinds))


def _kinds(definitions: Iterable[tuple[str, Any]]) -> Iterator[str]:
    """Yield the output types of node classes, without keeping more of them."""
    seen: set[str] = set()
    for _, one in definitions:
        outputs = one.get("output") if isinstance(one, Mapping) else None
        new = {*map(str, outputs)} - seen if isinstance(outputs, list) else set()
        seen |= new
        yield from new


def known_definitions(ctx: click.Context) -> Mapping[str, Any] | None:
    """Return the node definitions in the ``--definitions`` file; None without a readable one."""
    path = ctx.params.get("definitions")
    try:
        found = json.loads(path.read_bytes()) if isinstance(path, Path) else None
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def complete_folders(ctx: click.Context, param: click.Parameter, incomplete: str) -> Completions:
    """Complete the names of model folders."""
    return starting(incomplete, ask(ctx, lambda api: api.get_model_types()))


def complete_checkpoints(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> Completions:
    """Complete checkpoint names, if the command line names a server."""
    given = ctx.find_object(ServerOptions)
    if given is None or not (given.hosts or given.profiles):
        return []
    return starting(incomplete, ask(ctx, lambda api: api.get_checkpoints()))
