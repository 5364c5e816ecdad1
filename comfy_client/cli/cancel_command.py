"""``comfy-client cancel``: delete waiting prompts, then interrupt the running ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from ..errors import NotSupported
from .completion import complete_queued
from .exits import Exit, SilentExit
from .hosted_jobs import cancelled, is_hosted
from .mine import is_mine, why_unknown
from .printing import confirm, emit, examples, note, say, yes_option
from .prompt_commands import full_ids, refuse_empty
from .server_options import ServerOptions, of_server

if TYPE_CHECKING:
    from ..client import ComfyApi
    from ..models import Queue


@click.command(
    epilog=examples(
        "comfy-client cancel ID ID", "comfy-client cancel --all-mine", "comfy-client cancel --all"
    ),
)
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
