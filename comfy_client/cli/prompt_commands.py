"""The commands about prompts: ``queue``, ``history``, ``job``, ``download``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from .decorators import Decorator
from .exits import Mistake
from .mine import Mine, is_mine
from .printing import ago, confirm, emit, examples, note, say, table, yes_option
from .results import (
    no_dash,
    out_option,
    quiet_option,
    saving_to,
    show_result,
    timeout_option,
    wait_for,
)
from .server_options import ServerOptions, of_server

if TYPE_CHECKING:
    from ..client import ComfyApi
    from ..jobs.job import Job
    from ..jobs.result import Result
    from ..models import HistoryEntry, Queue, QueueItem

#: Length of an id, and of the shortest abbreviation.
_WHOLE: Final = 36
_SHORTEST: Final = 4
#: The number of latest prompts in which abbreviations are looked up.
_LATEST: Final = 200

id_argument: Decorator = click.argument("prompt_id", metavar="ID")


# -- lists ------------------------------------------------------------------------------


@click.command(epilog=examples("comfy-client queue", "comfy-client queue --json | jq .prompt_id"))
@of_server
def queue(given: ServerOptions) -> None:
    """List the prompts that run or wait.

    A star marks those that commands of this installation have submitted.
    """
    with given.client() as api:
        rows = queue_objects(api.get_queue())
    if given.json:
        for row in rows:
            emit(row)
        return
    if not rows:
        say("The queue is empty.")
        return
    table(
        [
            (
                row["position"],
                row["status"],
                row["prompt_id"] + ("*" if row["mine"] else ""),
                row["nodes"],
                ago(row["created_at"]),
            )
            for row in rows
        ],
        ("#", "STATUS", "ID", "NODES", "SINCE"),
    )


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


@click.command(epilog=examples("comfy-client history --limit 5", "comfy-client history --json"))
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=20,
    show_default=True,
    help="How many, the newest first.",
)
@click.option("--clear", is_flag=True, help="Delete the records of all users; files stay.")
@yes_option
@of_server
def history(given: ServerOptions, limit: int, clear: bool, yes: bool) -> None:
    """List the prompts that have ended, the newest first.

    --clear asks before it deletes; without a terminal, it needs --yes.
    """
    with given.client() as api:
        if clear:
            _clear(api, yes, as_json=given.json)
            return
        entries = list(api.get_histories(limit).values())[::-1]
        mine = is_mine()
        rows = [entry_object(api, entry, mine) for entry in entries]
    if given.json:
        for row in rows:
            emit(row)
        return
    if not rows:
        say("The history is empty.")
        return
    table(
        [
            (
                row["prompt_id"],
                row["status"],
                "-" if row["seconds"] is None else f"{row['seconds']:.1f} s",
                ago(row["ended_at"]),
                ", ".join(file["filename"] for file in row["files"][:3]) or "-",
            )
            for row in rows
        ],
        ("ID", "STATUS", "TOOK", "AGO", "FILES"),
    )


def _clear(api: ComfyApi, yes: bool, *, as_json: bool) -> None:
    """Delete the server's history, once the user has agreed."""
    context = click.get_current_context()
    given = click.core.ParameterSource.DEFAULT
    if any(context.get_parameter_source(name) is not given for name in ("limit",)):
        raise click.UsageError("--clear deletes all, and takes no filter")
    confirm(f"Delete the history of {api.host}, of all users?  The files stay.", yes)
    api.clear_history()
    if not as_json:
        say(f"The history of {api.host} is empty now.")


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


@click.command(
    epilog=examples(
        "comfy-client job ID",
        "comfy-client job ID --wait --out pictures/",
        "comfy-client job ID --json | jq -r .status",
    )
)
@id_argument
@click.option("--wait", is_flag=True, help="Wait until it ends, and exit like run.")
@out_option
@timeout_option
@quiet_option
@of_server
def job(
    given: ServerOptions,
    prompt_id: str,
    wait: bool,
    out: str | None,
    timeout: float | None,
    quiet: bool,
) -> None:
    """Say how a prompt is doing, or wait for it.

    Without --wait the exit status is 0 whatever became of the prompt, and 6 if the server does
    not know it.  Ctrl-C ends the waiting only.
    """
    if out is not None and not wait:
        raise click.UsageError("--out needs --wait; or see comfy-client download")
    with given.client() as api:
        one = known_job(api, prompt_id)
        if wait:
            with saving_to(out, one.graph):
                show_result(wait_for(one, timeout, quiet, is_ours=False), out, given.json)
            return
        if given.json:
            emit(one.to_dict())
            return
        say(one.why())
        if one.status == "succeeded":
            show_result(one.result(timeout=10.0), None, as_json=False)


def full_id(api: ComfyApi, text: str) -> str:
    """Complete an abbreviated prompt id; return it unchanged if no known id begins with it."""
    return full_ids(api, [text])[0]


def full_ids(api: ComfyApi, texts: Sequence[str], queue: Queue | None = None) -> list[str]:
    """Complete abbreviated prompt ids as :func:`full_id` does, with one look at queue and history.

    Args:
        api: The client of the server that knows the prompts.
        texts: The ids, whole or abbreviated.
        queue: The queue, if the caller has read it already.
    """
    refuse_empty(texts)
    if all(len(text) >= _WHOLE for text in texts):
        return list(texts)
    found = api.get_queue(workflows_of=()) if queue is None else queue
    known = [item.prompt_id for item in (*found.running, *found.pending)]
    if any(len(text) < _WHOLE and text not in known for text in texts):
        known += api.get_histories(_LATEST)
    return [text if len(text) >= _WHOLE else _completed(text, known) for text in texts]


def refuse_empty(prompt_ids: Sequence[str]) -> None:
    """Raise Mistake if one of the ids is empty, such as from an unset variable."""
    if not all(map(str.strip, prompt_ids)):
        raise Mistake("the ID is empty")


def _completed(text: str, known: Sequence[str]) -> str:
    matching = [text] if text in known else [one for one in known if one.startswith(text)]
    if len(text) < _SHORTEST and matching and text not in known:
        raise Mistake(f"{text} is too short for an ID: give {_SHORTEST} characters or more")
    if len(matching) > 1:
        raise Mistake(f"several prompts begin with {text}: {', '.join(matching[:5])}")
    return matching[0] if matching else text


def known_job(api: ComfyApi, text: str) -> Job:
    """Return the job of a prompt; raise NotFound if the server does not know it."""
    one = api.job(full_id(api, text), must_exist=True)
    if one.status not in ("pending", "running"):
        one.exception(timeout=10.0)  # its record exists, so this is quick
    return one


@click.command(
    epilog=examples(
        "comfy-client download ID --out pictures/",
        "comfy-client download ID --out 'pictures/{seed}_{index:03}{ext}'",
    )
)
@id_argument
@click.option(
    "--out",
    metavar="TEMPLATE",
    default="./",
    callback=no_dash,
    help="A folder, fox.png, or 'out/{seed}_{index:03}{ext}'.  Default: the current folder.",
)
@of_server
def download(given: ServerOptions, prompt_id: str, out: str) -> None:
    """Save the files of a prompt, and print their paths."""
    with saving_to(out, {}), given.client() as api:
        prompt_id = full_id(api, prompt_id)
        entry = api.get_history(prompt_id)
        if entry is None:
            if prompt_id in api.get_queue():
                raise Mistake(f"{prompt_id} has not ended: comfy-client job {prompt_id} --wait")
            known_job(api, prompt_id)
            return
        result = result_from_history(api, entry)
        if not result.files:
            note(f"{prompt_id} {entry.outcome}, and left no files.")
        show_result(result, out, given.json)
