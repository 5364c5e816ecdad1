"""The commands about prompts: ``queue``, ``history``, ``job``, ``cancel`` and ``download``."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs
import click

from ..errors import JobFailed, NotSupported
from .completion import complete_ids, complete_queued
from .decorators import Decorator, complete_files, moment
from .exits import Exit, Mistake, SilentExit, known_server
from .own_prompts import Mine, is_mine, receiving, why_unknown
from .printing import ago, command, confirm, emit, note, open_option, say, yes_option
from .prompt_records import (
    LATEST_SEARCHED,
    cancelled,
    full_id,
    full_ids,
    is_hosted,
    is_queued,
    past,
    refuse_empty,
)
from .results import (
    check_out,
    out_option,
    quiet_option,
    saving_to,
    show_result,
    timeout_option,
    wait_for,
)
from .server_options import ServerOptions, of_server, of_servers
from .several_servers import Columns, Row, for_each, print_rows, table_of

if TYPE_CHECKING:
    from ..client import ComfyApi
    from ..jobs.job import Job
    from ..jobs.result import Result
    from ..models import HistoryEntry, Queue, QueueItem

id_argument: Decorator = click.argument("prompt_id", metavar="ID", shell_complete=complete_ids)

# -- lists ------------------------------------------------------------------------------


mine_option: Decorator = click.option(
    "--mine", is_flag=True, help="Only prompts that commands of this installation have submitted."
)


@command(
    "comfy-client queue",
    "comfy-client queue --json | jq .prompt_id",
    "comfy-client queue --mine --host gpu-1:8188 --host gpu-2:8188",
)
@mine_option
@of_servers
def queue(given: ServerOptions, mine: bool) -> None:
    """List the prompts that run or wait.

    A star marks those that commands of this installation have submitted.  With several servers
    (--host A --host B) each line names its server.
    """

    def read(api: ComfyApi) -> list[Row]:
        return [row for row in queue_objects(api.get_queue()) if row["mine"] or not mine]

    def show(rows: list[Row]) -> None:
        if rows:
            table_of(rows, _QUEUE)
        else:
            say("Nothing of yours is in the queue." if mine else "The queue is empty.")

    print_rows(given, read, show)


_QUEUE: Final[Columns] = {
    "#": lambda row: row["position"],
    "STATUS": lambda row: row["status"],
    "ID": lambda row: row["prompt_id"] + ("*" if row["mine"] else ""),
    "NODES": lambda row: row["nodes"],
    "SINCE": lambda row: ago(row["created_at"]),
}


def queue_objects(found: Queue) -> list[dict[str, Any]]:
    """Return the JSON objects that ``--json`` prints for the queue, in the order of execution."""
    mine = is_mine()
    items = [("running", item) for item in found.running]
    items += [("pending", item) for item in found.pending]
    return [
        {
            "prompt_id": item.prompt_id,
            "status": status,
            "position": position,
            "number": item.number,
            "nodes": len(item.workflow),
            "created_at": _created(item),
            "mine": mine(item.extra_data),
        }
        for position, (status, item) in enumerate(items)
    ]


def _created(item: QueueItem) -> float | None:
    """Return the Unix time at which a prompt was submitted; None if the server does not say."""
    from ..values import number

    created = number(item.extra_data.get("create_time"))
    return created / 1000 if created is not None and 0 < created < 1e15 else None


@command(
    "comfy-client history --limit 5",
    "comfy-client history --status failed --since 1h --mine",
    "comfy-client history --since 2026-11-29T08:00 --json",
    "comfy-client history --clear",
)
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=20,
    show_default=True,
    help="How many prompts to list.",
)
@click.option(
    "--status",
    "statuses",
    type=click.Choice(["succeeded", "failed", "interrupted"]),
    multiple=True,
    help="Only prompts with this outcome.  Repeatable.",
)
@click.option(
    "--since",
    metavar="TIME",
    callback=moment,
    help="Only prompts that ended since: 30m, 1h or 2d ago, seconds ago, or 2026-11-29T14:00.",
)
@mine_option
@click.option("--clear", is_flag=True, help="Delete the records of all users; files stay.")
@yes_option
@of_servers
def history(
    given: ServerOptions,
    limit: int,
    statuses: tuple[str, ...],
    since: float | None,
    mine: bool,
    clear: bool,
    yes: bool,
) -> None:
    """List the prompts that have ended, the newest first.

    With several servers (--host A --host B) each line names its server, and --limit counts for
    each.  --clear asks before it deletes; without a terminal, it needs --yes.
    """
    wanted = Wanted(limit, statuses, since, mine)
    if clear:
        if wanted != Wanted():
            raise click.UsageError("--clear deletes all, and takes no filter")
        with given.client() as api:
            confirm(f"Delete the history of {api.host}, of all users?  The files stay.", yes)
            api.clear_history()
        if not given.json:
            say(f"The history of {api.host} is empty now.")
        return

    def show(rows: list[Row]) -> None:
        if rows:
            table_of(rows, _HISTORY, is_short=wanted.is_among_latest)
        else:
            say("No such prompts." if wanted.is_filter else "The history is empty.")

    print_rows(given, wanted.read, show)


def _error_of(row: Row) -> str:
    """Return the class of the node that raised, and the beginning of its error, in one line."""
    error = " ".join((row["error"] or "").split())
    return f"{row['class_type'] or 'a node'}: {error}"[:100] if error else ""


def _files_of(row: Row) -> str:
    return ", ".join(file["filename"] for file in row["files"][:3])


_HISTORY: Final[Columns] = {
    "ID": lambda row: row["prompt_id"],
    "STATUS": lambda row: row["status"],
    "TOOK": lambda row: "-" if row["seconds"] is None else f"{row['seconds']:.1f} s",
    "AGO": lambda row: ago(row["ended_at"]),
    "FILES OR ERROR": lambda row: _error_of(row) or _files_of(row) or "-",
}


@attrs.frozen
class Wanted:
    """A filter for the prompts of the history that a command lists.

    Attributes:
        limit: The most prompts to list: the newest.
        statuses: The outcomes of the prompts to list; empty: any.
        since: The earliest end of a prompt, in seconds since 1970; ``None``: any.
        mine: Whether to list only prompts that this installation submitted.
    """

    limit: int = 20
    statuses: tuple[str, ...] = ()
    since: float | None = None
    mine: bool = False

    @property
    def is_filter(self) -> bool:
        """Whether some of the newest prompts may be left out."""
        return bool(self.statuses or self.mine) or self.since is not None

    @property
    def is_among_latest(self) -> bool:
        """Whether abbreviations of the listed ids are looked up far enough; see ``full_ids``."""
        return self.limit <= LATEST_SEARCHED and not self.is_filter

    def read(self, api: ComfyApi) -> list[Row]:
        """Return the JSON objects of the prompts that pass the filter, the newest first.

        The latest entries of the history are read, then five times as many, and so on, until enough
        of them fit.
        """
        mine, size = is_mine(), self.limit
        if self.is_filter:
            size = max(LATEST_SEARCHED, size)
        while True:
            entries = list(api.get_histories(size).values())[::-1]
            found = [one for one in entries if self._fits(one, mine)][: self.limit]
            is_all = len(entries) < size or self._is_before(entries[-1])
            if len(found) == self.limit or is_all or not self.is_filter:
                return [entry_object(api, entry, mine) for entry in found]
            size *= 5

    def _fits(self, entry: HistoryEntry, mine: Mine) -> bool:
        return (
            (not self.statuses or entry.outcome in self.statuses)
            and (not self.mine or mine(entry.extra_data))
            and (self.since is None or (entry.ended is not None and entry.ended >= self.since))
        )

    def _is_before(self, entry: HistoryEntry) -> bool:
        """Return whether a prompt ended before ``since``, and so did all older ones."""
        return self.since is not None and entry.ended is not None and entry.ended < self.since


def entry_object(api: ComfyApi, entry: HistoryEntry, mine: Mine) -> dict[str, Any]:
    """Return the JSON object that ``--json`` prints for a prompt that has ended."""
    from ..values import identifier, text

    result = result_from_history(api, entry)
    error = entry.execution_error
    return {
        "prompt_id": entry.prompt_id,
        "status": entry.outcome,
        "started_at": entry.started,
        "ended_at": entry.ended,
        "seconds": result.seconds,
        "nodes": len(entry.workflow),
        "mine": mine(entry.extra_data),
        "files": [item.to_dict() for item in result.files],
        "error": None if error is None else str(error.get("exception_message") or "unknown"),
        "node_id": None if error is None else identifier(error.get("node_id")),
        "class_type": None if error is None else text(error.get("node_type")),
    }


def result_from_history(api: ComfyApi, entry: HistoryEntry) -> Result:
    """Build the result of a prompt from its history entry."""
    from ..jobs.result import make_result
    from ..workflow.seeds import seeds_of

    started, ended = entry.started, entry.ended
    took = None if started is None or ended is None else max(0.0, ended - started)
    graph, outputs = entry.workflow, entry.outputs
    return make_result(
        entry.prompt_id, graph, outputs, files=api, seconds=took, seeds=seeds_of(graph)
    )


# -- one --------------------------------------------------------------------------------


@command(
    "comfy-client job ID",
    "comfy-client job ID --wait --out pictures/",
    "comfy-client job ID ID --wait --timeout 600",
    "comfy-client job ID --traceback",
    "comfy-client job ID --json | jq -r .status",
)
@click.argument("prompt_ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete_ids)
@click.option("--wait", is_flag=True, help="Wait until it ends, and exit like run.")
@click.option("--traceback", is_flag=True, help="If it failed, print the server's traceback.")
@out_option
@open_option
@timeout_option
@quiet_option
@of_server
def job(
    given: ServerOptions,
    prompt_ids: tuple[str, ...],
    wait: bool,
    traceback: bool,
    out: str | None,
    is_opened: bool,
    timeout: float | None,
    quiet: bool,
) -> None:
    """Say how prompts are doing, or wait for them.

    Without --wait the exit status is 0 whatever became of a prompt, and 6 if the server does
    not know it.  With several IDs it is the highest status among theirs, 130 only if the others
    are 0; --timeout is for all together.  Ctrl-C ends the waiting only.

    Progress is shown if run --detach of this installation submitted the prompt, and no other
    command waits for it; not with several IDs.
    """
    if (out is not None or is_opened) and not wait:
        what = "--open" if out is None else "--out"
        raise click.UsageError(f"{what} needs --wait; or see comfy-client download")
    is_several = len(prompt_ids) > 1
    if is_several and out == "-":
        raise click.UsageError("--out - is for one file, and so for one ID")
    check_out(out, as_json=given.json)
    end = None if timeout is None else time.monotonic() + timeout
    with given.client() as api, contextlib.ExitStack() as stack:
        whole = full_ids(api, prompt_ids)
        if not is_several:
            stack.enter_context(receiving(api, whole[0], quiet=quiet or not wait))

        def follow(prompt_id: str) -> None:
            one = known_job(api, prompt_id)
            if is_several and not quiet:
                note(f"prompt {prompt_id}:")
            left = None if end is None else max(0.0, end - time.monotonic())
            with saving_to(out, one.graph):
                try:
                    result = wait_for(one, left, quiet, is_ours=False)
                except JobFailed as exc:
                    if traceback and not given.json:
                        _say_traceback(exc)
                    raise
                show_result(result, out, given.json, is_opened=is_opened)

        def tell(prompt_id: str) -> None:
            one = known_job(api, prompt_id)
            if given.json:
                emit(one.to_dict())
                return
            say(f"{prompt_id} {one.why()}" if is_several else one.why(), one.status)
            if one.status == "succeeded":
                show_result(one.result(timeout=10.0), None, as_json=False)
            elif one.status == "failed" and traceback:
                _say_traceback(one.exception(timeout=10.0))

        for_each(whole, follow if wait else tell, given.json)


def _say_traceback(error: BaseException | None) -> None:
    """Print the server's traceback of a failed prompt, or say that there is none."""
    for line in (getattr(error, "traceback", "") or "The server sent no traceback.").splitlines():
        say(line.expandtabs())


def known_job(api: ComfyApi, text: str) -> Job:
    """Return the job of a prompt; raise NotFound if the server does not know it."""
    one = api.job(full_id(api, text), must_exist=True)
    if one.status not in ("pending", "running"):
        one.exception(timeout=10.0)  # its record exists, so this is quick
    return one


@command(
    "comfy-client download ID --out pictures/",
    'comfy-client download ID --out "pictures/{seed}_{index:03}{ext}"',
)
@id_argument
@click.option(
    "--out",
    metavar="TEMPLATE",
    default="./",
    shell_complete=complete_files,
    help="A folder, fox.png, or 'out/{seed}_{index:03}{ext}'; - writes the only file to standard "
    "output.  Default: the current folder.",
)
@open_option
@of_server
def download(given: ServerOptions, prompt_id: str, out: str, is_opened: bool) -> None:
    """Save the files of a prompt, and print their paths."""
    check_out(out, as_json=given.json)
    with saving_to(out, {}), given.client() as api:
        prompt_id = full_id(api, prompt_id)
        entry = past(api, prompt_id)
        if entry is None:
            if is_queued(api, prompt_id):
                wait = known_server().command("job", "--wait", id=prompt_id)
                raise Mistake(f"{prompt_id} has not ended: {wait}")
            known_job(api, prompt_id)
            return
        result = result_from_history(api, entry)
        if not result.files:
            note(f"{prompt_id} {entry.outcome}, and left no files.")
        show_result(result, out, given.json, is_opened=is_opened)


@command("comfy-client cancel ID ID", "comfy-client cancel --all-mine", "comfy-client cancel --all")
@click.argument("prompt_ids", metavar="[ID]...", nargs=-1, shell_complete=complete_queued)
@click.option(
    "--all-mine",
    is_flag=True,
    help="All prompts in the queue that commands of this installation have submitted.",
)
@click.option("--all", "everything", is_flag=True, help="All prompts in the queue, of all users.")
@yes_option
@of_server
def cancel(
    given: ServerOptions,
    prompt_ids: tuple[str, ...],
    all_mine: bool,
    everything: bool,
    yes: bool,
) -> None:
    """Cancel waiting or running prompts, and no others.

    Waiting prompts leave the queue first, so that none of them begins.  --all asks before it
    cancels the prompts of all users; without a terminal, it needs --yes.
    """
    if (bool(prompt_ids), all_mine, everything).count(True) != 1:
        raise click.UsageError("give one of these: IDs, --all-mine, --all")
    refuse_empty(prompt_ids)
    with given.client() as api:
        if is_hosted(api) and not prompt_ids:
            raise NotSupported("Comfy API v2 cancels only jobs that are named: give their IDs")
        if everything:
            confirm(f"Cancel all prompts in the queue of {api.host}, whoever submitted them?", yes)
        if is_hosted(api):
            stopped = cancelled(api, full_ids(api, prompt_ids))
        else:
            queue = api.get_queue(workflows_of=None if all_mine else ())
            if prompt_ids:
                chosen = full_ids(api, prompt_ids, queue)
            else:
                chosen = _all_in(queue, only_mine=all_mine)
                if not chosen:
                    note("Nothing of yours is in the queue." if all_mine else "The queue is empty.")
            stopped = _stopped(api, chosen, queue)
        missing = False
        for prompt_id, was_there in stopped:
            missing = missing or not was_there
            if given.json:
                emit({"prompt_id": prompt_id, "cancelled": was_there})
            else:
                say(f"{prompt_id} {'cancelled' if was_there else 'is not in the queue'}")
    if missing and prompt_ids:
        raise SilentExit(Exit.LOST)


def _all_in(queue: Queue, *, only_mine: bool) -> list[str]:
    """Return the ids of the prompts in the queue: all, or only those of this installation."""
    items = (*queue.running, *queue.pending)
    if not only_mine:
        return [item.prompt_id for item in items]
    why_not = why_unknown()
    if why_not is not None:
        raise click.ClickException(f"--all-mine finds nothing: {why_not}")
    mine = is_mine()
    return [item.prompt_id for item in items if mine(item.extra_data)]


def _stopped(api: ComfyApi, prompt_ids: Sequence[str], queue: Queue) -> Iterator[tuple[str, bool]]:
    """Cancel prompts; yield the id of each, and whether it was cancelled.

    One request removes all waiting prompts.  Running prompts are interrupted last: otherwise each
    interrupt would let the next prompt begin.
    """
    chosen = list(dict.fromkeys(prompt_ids))
    pending = {item.prompt_id for item in queue.pending}
    waiting = [one for one in chosen if one in pending]
    running = _running(queue)
    if waiting:
        api.delete_from_queue(*waiting)
        before, running = running, _running(api.get_queue(workflows_of=()))
        has_stood_still = bool(running) and running == before
        for prompt_id in waiting:
            if prompt_id not in running:  # otherwise it began before the request arrived
                has_run = not has_stood_still and api.get_history(prompt_id) is not None
                yield prompt_id, not has_run
    for prompt_id in chosen:
        if prompt_id in running:
            yield prompt_id, api.job(prompt_id).cancel()
        elif prompt_id not in pending:
            yield prompt_id, False


def _running(queue: Queue) -> list[str]:
    return [item.prompt_id for item in queue.running]
