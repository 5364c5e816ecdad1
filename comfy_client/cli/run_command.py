"""``comfy-client run`` and ``rerun``: run a workflow on a server, or on one of several."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import click

from .completion import complete_ids, starting
from .decorators import Decorator
from .input_completion import complete_settings, complete_uploads
from .input_options import fill
from .loading import LazyServer, content_of, load_from, workflow_argument
from .mine import mark, why_unknown
from .past_prompts import PromptSource, Source, carried, file_or_record, record_of
from .printing import emit, examples, note, say
from .results import (
    cancelled_by_ctrl_c,
    out_option,
    quiet_option,
    saving_to,
    show_result,
    timeout_option,
    wait_for,
)
from .server_options import RUN_LIMIT, ServerOptions, of_servers

if TYPE_CHECKING:
    from ..client import ComfyApi
    from ..jobs.job import Job
    from ..workflow import Workflow
    from ..workflow.definition_source import DefinitionSource


set_option: Decorator = click.option(
    "--set",
    "sets",
    metavar="NODE.input=VALUE",
    multiple=True,
    shell_complete=complete_settings,
    help="Set an input; the node by title, class or id.  @FILE is the text of a file, @- of "
    "standard input, @@ a single @.  Repeatable.",
)
input_option: Decorator = click.option(
    "--input",
    "inputs",
    metavar="NODE=FILE",
    multiple=True,
    shell_complete=complete_uploads,
    help="Upload a file for a node such as LoadImage.  Repeatable.",
)
seed_option: Decorator = click.option(
    "--seed",
    metavar="N|random",
    shell_complete=lambda _ctx, _param, text: starting(text, ["random"]),
    help="Set all seeds.",
)


def options_of_run(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that ``run`` and ``rerun`` share."""
    options = (
        set_option,
        input_option,
        seed_option,
        out_option,
        click.option("--check", is_flag=True, help="Check it first; send nothing if it is bad."),
        click.option("--detach", is_flag=True, help="Print the prompt's id, and do not wait."),
        click.option("--front", is_flag=True, help="Put it at the front of the queue."),
        timeout_option,
        quiet_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command(
    epilog=examples(
        "comfy-client run txt2img.json --set KSampler.steps=8 --seed random --out pictures/",
        "comfy-client run picture.png --set 'Positive prompt.text=a fox' --out '{seed}{ext}'",
        "comfy-client run txt2img.json --set 'Positive prompt.text=@fox.txt'",
        "comfy-client run img2img.json --input LoadImage=photo.jpg --check --json",
        "id=$(comfy-client run slow.json --detach)",
        "comfy-client run txt2img.json --host gpu-1:8188 --host gpu-2:8188",
    )
)
@workflow_argument
@options_of_run
@of_servers
def run(given: ServerOptions, /, workflow: str, **options: Any) -> None:
    """Run a workflow, and print where its files are.

    WORKFLOW is a file in API format, one that the frontend saved, a picture of ComfyUI's, or the
    ID of a prompt on the server; - reads standard input.  With --out the files are saved here and
    their paths are printed, else their URLs.  The first Ctrl-C cancels the prompt, the second
    leaves.  With several servers (--host A --host B), the one with the shortest queue gets it,
    among those that have its node classes and models.
    """
    run_workflow(given, lambda: partial(file_or_record, content_of(workflow)), **options)


@click.command(
    epilog=examples(
        "comfy-client rerun 1f0c --out pictures/",
        "comfy-client rerun 1f0c --seed random --set KSampler.steps=30",
    )
)
@click.argument("prompt_id", metavar="ID", shell_complete=complete_ids)
@options_of_run
@of_servers
def rerun(given: ServerOptions, /, prompt_id: str, **options: Any) -> None:
    """Run a prompt of the queue or the history again.

    ID may be abbreviated.  The new prompt has the same inputs and the same seeds unless --set,
    --input or --seed change them; what the server still has in its cache does not run again.  Its
    pictures hold the frontend's workflow as those of the old prompt do, without the changes.
    """
    run_workflow(given, lambda: partial(record_of, prompt_id), **options)


#: A function that finds the source of a workflow, with a server if needed.
_Find = Callable[[PromptSource], Source]


def run_workflow(
    given: ServerOptions,
    find: Callable[[], _Find],
    *,
    sets: tuple[str, ...],
    inputs: tuple[str, ...],
    seed: str | None,
    out: str | None,
    check: bool,
    detach: bool,
    front: bool,
    timeout: float | None,
    quiet: bool,
) -> None:
    """Run a workflow with the options of ``run``."""
    if detach and out is not None:
        raise click.UsageError("--detach does not wait, so there is nothing for --out yet")
    read = partial(_read, find(), sets, inputs, seed)
    begin = _on_any if given.is_several else _on_one
    waiting = {"quiet": quiet, "detach": detach, "timeout": timeout}
    with begin(given, read, out, waiting, check=check, front=front) as job:
        if detach:
            emit(job.to_dict()) if given.json else say(job.prompt_id)
            why_not = why_unknown()
            if why_not is not None and not quiet:
                note(f"cancel --all-mine will not find it: {why_not}")
            return
        result = wait_for(job, timeout, quiet, is_ours=True)
        if not quiet:
            note(repr(result)[1:-1], "succeeded", "Result")
        show_result(result, out, given.json, _server_of(job))


def _server_of(job: Job) -> str | None:
    """Return the URL of the server that a pool has chosen for a job; None for other jobs."""
    server: str | None = getattr(job, "server", None)
    return server


@attrs.frozen
class Ready:
    """A workflow with its inputs set, and the ``extra_data`` that goes with it."""

    workflow: Workflow
    extra_data: Mapping[str, Any]


def _read(
    find: _Find,
    sets: tuple[str, ...],
    inputs: tuple[str, ...],
    seed: str | None,
    server: PromptSource,
) -> Ready:
    source = find(server)
    return Ready(prepared(source, sets, inputs, seed, server), carried(source))


def prepared(
    source: Source,
    sets: tuple[str, ...],
    inputs: tuple[str, ...],
    seed: str | None,
    server: DefinitionSource,
) -> Workflow:
    """Load a workflow and apply ``--seed``, ``--set`` and ``--input``."""
    workflow = load_from(source, server)
    fill(workflow, server, sets=sets, inputs=inputs, seed=seed)
    return workflow


def lazy_server(api: ComfyApi, limit: float) -> LazyServer:
    """Return a server that is contacted only when needed, and must answer in ``limit`` seconds."""

    def ask() -> ComfyApi:
        api.poll_status(limit)
        return api

    return LazyServer(ask)


#: A function that reads a workflow, with a server if needed.
_Read = Callable[[PromptSource], Ready]


@contextlib.contextmanager
def _on_one(
    given: ServerOptions, read: _Read, out: str | None, waiting: Mapping[str, Any], **options: Any
) -> Iterator[Job]:
    detached = waiting["detach"]
    # Without a socket, so that a later command can receive the events.
    with given.client(RUN_LIMIT, "poll" if detached else "auto") as api:
        server = lazy_server(api, given.answer_limit)
        ready = read(server)
        options["extra_data"] = {**ready.extra_data, **mark(detached=detached)}
        with (
            saving_to(out, ready.workflow.to_dict()),
            submitted(server.client, ready.workflow, **options) as job,
        ):
            yield job


@contextlib.contextmanager
def _on_any(
    given: ServerOptions, read: _Read, out: str | None, waiting: Mapping[str, Any], **options: Any
) -> Iterator[Job]:
    from . import pooling

    with pooling.pool_of(given) as servers:
        ready = read(servers)
        servers.clients()  # wait for all servers
        with saving_to(out, ready.workflow.to_dict()):
            options["extra_data"] = {**ready.extra_data, **mark(detached=waiting["detach"])}
            with pooling.submitted(servers.pool, ready.workflow, **waiting, **options) as job:
                yield job


@contextlib.contextmanager
def submitted(api: ComfyApi, workflow: Workflow, **options: Any) -> Iterator[Job]:
    """Context manager: submit a workflow; Ctrl-C meanwhile or in the block cancels the prompt."""
    prompt_id = api.generate_id()
    with cancelled_by_ctrl_c(lambda: api.job(prompt_id)):
        yield api.submit(workflow, prompt_id=prompt_id, **options)
