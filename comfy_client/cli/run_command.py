"""``comfy-client run`` and ``rerun``: run a workflow on a server, or on one of several."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import click

from .completion import complete_ids, starting
from .decorators import Decorator
from .extra_data import extra_data_option, prompt_options
from .input_completion import complete_settings, complete_uploads
from .input_options import fill
from .loading import LazyServer, content_of, load_from, workflow_argument
from .mine import why_unknown
from .past_prompts import PromptSource, Source, carried, file_or_record, record_of
from .printing import emit, examples, note, open_option, say
from .results import (
    cancelled_by_ctrl_c,
    check_out,
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
    from ..jobs.result import Result
    from ..workflow import Workflow
    from ..workflow.definition_source import DefinitionSource


set_option: Decorator = click.option(
    "--set",
    "sets",
    metavar="NODE.input=VALUE",
    multiple=True,
    shell_complete=complete_settings,
    help="Set an input; NODE is a title, class or id.  @FILE is the text of a file, @- of "
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
        open_option,
        click.option("--check", is_flag=True, help="Check it first; send nothing if invalid."),
        click.option("--detach", is_flag=True, help="Print the prompt's id, and do not wait."),
        click.option("--front", is_flag=True, help="Put the prompt at the front of the queue."),
        click.option(
            "--retry-oom",
            is_flag=True,
            help="If a node runs out of memory, free the server's memory, and run it once more.",
        ),
        extra_data_option,
        timeout_option,
        quiet_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command(
    epilog=examples(
        "comfy-client run txt2img.json --set KSampler.steps=8 --seed random --out pictures/",
        'comfy-client run picture.png --set "Positive prompt.text=a fox" --out "{seed}{ext}"',
        'comfy-client run txt2img.json --set "Positive prompt.text=@fox.txt"',
        "comfy-client run img2img.json --input LoadImage=photo.jpg --check --json",
        "id=$(comfy-client run slow.json --detach)",
        "comfy-client run txt2img.json --out - | magick - -resize 50% small.jpg",
        "comfy-client run txt2img.json --host gpu-1:8188 --host gpu-2:8188",
    )
)
@workflow_argument
@options_of_run
@of_servers
def run(given: ServerOptions, /, workflow: str, **options: Any) -> None:
    """Run a workflow, and print where its files are.

    WORKFLOW is a file in API format, one that the frontend saved, a picture made by ComfyUI, or the
    ID of a prompt on the server; - reads standard input.  With --out the files are saved here and
    their paths are printed, else their URLs.  The first Ctrl-C cancels the prompt, the second
    leaves.  With several servers (--host A --host B), the one with the shortest queue gets it,
    among those that have its node classes and models.  COMFY_API_KEY in the environment is the
    key for partner nodes; it goes only to nodes that take it, over https or within this machine.
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
    pictures contain the same workflow for the frontend as the old ones, without the changes.
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
    is_opened: bool,
    check: bool,
    detach: bool,
    front: bool,
    retry_oom: bool,
    extra_data: Mapping[str, Any],
    timeout: float | None,
    quiet: bool,
) -> None:
    """Run a workflow with the options of ``run``."""
    if detach and (out is not None or is_opened):
        what = "--open" if out is None else "--out"
        raise click.UsageError(f"--detach does not wait, so there is nothing for {what} yet")
    if detach and retry_oom:
        raise click.UsageError("--detach does not wait, so --retry-oom could not run it again")
    check_out(out, as_json=given.json)
    read = partial(_read, find(), sets, inputs, seed, extra_data, detach)
    begin = _on_any if given.is_several else _on_one
    waiting = {"quiet": quiet, "detach": detach, "timeout": timeout}
    with begin(given, read, out, waiting, check=check, front=front) as (workflow, submit):
        if detach:
            with submit(workflow) as job:
                emit(job.to_dict()) if given.json else say(job.prompt_id)
            why_not = why_unknown()
            if why_not is not None and not quiet:
                note(f"cancel --all-mine will not find it: {why_not}")
            return
        wait = _waiting_twice if retry_oom else _waiting
        job, result = wait(submit, workflow, timeout, quiet)
        if not quiet:
            note(repr(result)[1:-1], "succeeded", "Result")
        show_result(result, out, given.json, _server_of(job), is_opened=is_opened)


#: A function that submits a workflow; Ctrl-C in the block cancels the prompt.
_Submit = Callable[["Workflow"], AbstractContextManager["Job"]]


def _waiting(
    submit: _Submit, workflow: Workflow, timeout: float | None, quiet: bool
) -> tuple[Job, Result]:
    """Run a workflow; return the job and its result."""
    with submit(workflow) as job:
        return job, wait_for(job, timeout, quiet, is_ours=True)


def _waiting_twice(
    submit: _Submit, workflow: Workflow, timeout: float | None, quiet: bool
) -> tuple[Job, Result]:
    """Run a workflow, and once more with freed memory if a node runs out of memory.

    Return the last job and its result.
    """
    from ..jobs.execute import run_again_after_oom
    from ..jobs.handle import Limits
    from ..timing import Timing

    limits = Limits(timeout)
    jobs: list[Job] = []

    def attempt(workflow: Workflow) -> Result:
        with submit(workflow) as job:
            jobs.append(job)
            left = None if timeout is None else limits.left(timeout)
            return wait_for(job, left, quiet, is_ours=True)

    result = run_again_after_oom(
        lambda: jobs[-1].handle.routes, Timing(), limits, attempt, workflow
    )
    return jobs[-1], result


def _server_of(job: Job) -> str | None:
    """Return the URL of the server that a pool has chosen for a job; None for other jobs."""
    server: str | None = getattr(job, "server", None)
    return server


@attrs.frozen
class Ready:
    """A workflow with its inputs set, and the options of its submission that go with it."""

    workflow: Workflow
    options: Mapping[str, Any] = attrs.field(repr=False)  # with secrets


def _read(
    find: _Find,
    sets: tuple[str, ...],
    inputs: tuple[str, ...],
    seed: str | None,
    extra_data: Mapping[str, Any],
    detach: bool,
    server: PromptSource,
) -> Ready:
    source = find(server)
    workflow = prepared(source, sets, inputs, seed, server)
    extra = {**carried(source), **extra_data}
    return Ready(workflow, prompt_options(extra, workflow, server, detached=detach))


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
) -> Iterator[tuple[Workflow, _Submit]]:
    # Without a socket, so that a later command can receive the events.
    with given.client(RUN_LIMIT, "poll" if waiting["detach"] else "auto") as api:
        server = lazy_server(api, given.answer_limit)
        ready = read(server)
        with saving_to(out, ready.workflow.to_dict()):
            yield ready.workflow, partial(submitted, server.client, **ready.options, **options)


@contextlib.contextmanager
def _on_any(
    given: ServerOptions, read: _Read, out: str | None, waiting: Mapping[str, Any], **options: Any
) -> Iterator[tuple[Workflow, _Submit]]:
    from . import pooling

    with pooling.pool_of(given) as servers:
        ready = read(servers)
        servers.clients()  # wait for all servers
        options = {**waiting, **ready.options, **options}
        with saving_to(out, ready.workflow.to_dict()):
            yield ready.workflow, partial(pooling.submitted, servers.pool, **options)


@contextlib.contextmanager
def submitted(api: ComfyApi, workflow: Workflow, **options: Any) -> Iterator[Job]:
    """Context manager: submit a workflow; Ctrl-C meanwhile or in the block cancels the prompt."""
    prompt_id = api.generate_id()
    with cancelled_by_ctrl_c(lambda: api.job(prompt_id)):
        yield api.submit(workflow, prompt_id=prompt_id, **options)
