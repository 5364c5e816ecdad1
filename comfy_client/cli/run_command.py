"""``comfy-client run``, ``rerun`` and ``demo``: run a workflow on a server, or one of several."""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from ..errors import JobTimeout
from .completion import complete_checkpoints, complete_ids, starting
from .decorators import Decorator, seconds_option
from .exits import Mistake
from .extra_data import extra_data_option, prompt_options
from .input_options import fill
from .own_prompts import mark, why_unknown
from .printing import command, emit, note, open_option, say
from .prompt_records import FileOrRecord, PromptSource, carried, file_or_record, record_of
from .provide_option import check_provide, provide, provide_options
from .results import (
    cancelled_if_stopped,
    check_out,
    folder_for,
    out_option,
    quiet_option,
    saving_to,
    show_result,
    timeout_option,
    wait_for,
)
from .server_options import (
    RUN_LIMIT,
    ServerOptions,
    Transport,
    of_server_or_embedded,
    of_servers,
)
from .several_servers import AskedPool, reading, submitted_to_pool
from .workflow_source import (
    complete_settings,
    complete_uploads,
    content_of,
    load_from,
    workflow_argument,
)

if TYPE_CHECKING:
    from ..client import ComfyApi
    from ..events import PreviewEvent
    from ..jobs.job import Job
    from ..jobs.result import Result
    from ..workflow import Workflow
    from ..workflow.definition_source import DefinitionSource
    from .target import Target

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


@command(
    "comfy-client run txt2img.json --set KSampler.steps=8 --seed random --out pictures/",
    'comfy-client run picture.png --set "Positive prompt.text=a fox" --out "{seed}{ext}"',
    'comfy-client run txt2img.json --set "Positive prompt.text=@fox.txt"',
    "comfy-client run img2img.json --input LoadImage=photo.jpg --check --json",
    "id=$(comfy-client run slow.json --detach)",
    "comfy-client run txt2img.json --out - | magick - -resize 50% small.jpg",
    "comfy-client run txt2img.json --host gpu-1:8188 --host gpu-2:8188",
    "comfy-client run txt2img.json --provide --out pictures/",
)
@workflow_argument
@provide_options
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
    run_workflow(
        given, lambda: partial(file_or_record, content_of(workflow)), RunOptions(**options)
    )


@command(
    "comfy-client rerun 1f0c --out pictures/",
    "comfy-client rerun 1f0c --seed random --set KSampler.steps=30",
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
    run_workflow(given, lambda: partial(record_of, prompt_id), RunOptions(**options))


#: A function that finds the source of a workflow, with a server if needed.
_Find = Callable[[PromptSource], FileOrRecord]


@attrs.frozen(kw_only=True)
class RunOptions:
    """The options of ``run`` and ``rerun``."""

    sets: tuple[str, ...]
    inputs: tuple[str, ...]
    seed: str | None
    out: str | None
    is_opened: bool
    check: bool
    detach: bool
    front: bool
    retry_oom: bool
    extra_data: Mapping[str, Any] = attrs.field(repr=False)  # with secrets
    timeout: float | None
    quiet: bool
    provide: bool = False
    yes: bool = False


def run_workflow(given: ServerOptions, find: Callable[[], _Find], options: RunOptions) -> None:
    """Run a workflow with the options of ``run``."""
    if options.detach and (options.out is not None or options.is_opened):
        what = "--open" if options.out is None else "--out"
        raise click.UsageError(f"--detach does not wait, so there is nothing for {what} yet")
    if options.detach and options.retry_oom:
        raise click.UsageError("--detach does not wait, so --retry-oom could not run it again")
    check_out(options.out, as_json=given.json)
    check_provide(given, provide=options.provide, yes=options.yes)
    with _submitting(given, find(), options) as (workflow, submit):
        if options.detach:
            with submit(workflow) as job:
                emit(job.to_dict()) if given.json else say(job.prompt_id)
            why_not = why_unknown()
            if why_not is not None and not options.quiet:
                note(f"cancel --all-mine will not find it: {why_not}")
            return
        wait = _waiting_twice if options.retry_oom else _waiting
        job, result = wait(submit, workflow, options.timeout, options.quiet)
        if not options.quiet:
            note(repr(result)[1:-1], "succeeded", "Result")
        server = getattr(job, "server", None)
        show_result(result, options.out, given.json, server, is_opened=options.is_opened)


#: A function that submits a workflow; a signal in the block cancels the prompt.
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
            left = None if timeout is None else limits.deadline.left(timeout)
            return wait_for(job, left, quiet, is_ours=True)

    result = run_again_after_oom(
        lambda: jobs[-1].handle.routes, Timing(), limits, attempt, workflow
    )
    return jobs[-1], result


def prepared(
    source: FileOrRecord,
    sets: tuple[str, ...],
    inputs: tuple[str, ...],
    seed: str | None,
    server: DefinitionSource,
) -> Workflow:
    """Load a workflow and apply ``--seed``, ``--set`` and ``--input``."""
    workflow = load_from(source, server)
    fill(workflow, server, sets=sets, inputs=inputs, seed=seed)
    return workflow


def _workflow(
    given: ServerOptions, options: RunOptions, source: FileOrRecord, server: PromptSource
) -> Workflow:
    """Load a workflow, and set its inputs; with ``--provide``, provide what it lacks."""
    settings = options.sets, options.inputs, options.seed
    if not options.provide:
        return prepared(source, *settings, server)
    sets, inputs, seed = settings
    return provide(
        lambda: load_from(source, server),
        lambda workflow: fill(workflow, server, sets=sets, inputs=inputs, seed=seed),
        lambda: server.clients()[0],
        yes=options.yes,
        quiet=options.quiet,
        timeout=options.timeout,
    )


@contextlib.contextmanager
def _submitting(
    given: ServerOptions, find: _Find, options: RunOptions
) -> Iterator[tuple[Workflow, _Submit]]:
    """Context manager: read a workflow; yield it, and a function that submits it."""

    def read(server: PromptSource) -> tuple[Workflow, Mapping[str, Any]]:
        source = find(server)
        workflow = _workflow(given, options, source, server)
        extra = {**carried(source), **options.extra_data}
        return workflow, prompt_options(extra, workflow, server, detached=options.detach)

    # Without a socket, so that a later command can receive the events.
    transport: Transport = "poll" if options.detach else "auto"
    with (
        reading(given, read, transport) as ((workflow, more), server),
        saving_to(options.out, workflow.to_dict()),
    ):
        submit: Callable[..., AbstractContextManager[Job]]
        if isinstance(server, AskedPool):
            quiet, detach, timeout = options.quiet, options.detach, options.timeout
            to_pool = partial(submitted_to_pool, quiet=quiet, detach=detach, timeout=timeout)
            submit = partial(to_pool, server.pool)
        else:
            submit = partial(submitted, server.client)
        yield workflow, partial(submit, check=options.check, front=options.front, **more)


@contextlib.contextmanager
def submitted(api: ComfyApi, workflow: Workflow, **options: Any) -> Iterator[Job]:
    """Context manager: submit a workflow; a signal meanwhile or in the block cancels it."""
    prompt_id = api.generate_id()
    with cancelled_if_stopped(lambda: api.job(prompt_id)):
        yield api.submit(workflow, prompt_id=prompt_id, **options)


#: Values for inputs of the demo's workflow, by node and name.
_Inputs = dict[tuple[str, str], str | int]


@command(
    "comfy-client demo",
    'comfy-client demo --host http://127.0.0.1:8188 --prompt "a mill in the fog"',
)
@click.option(
    "--prompt",
    metavar="TEXT",
    default="a lighthouse at dusk, waves, warm light",
    show_default=True,
    help="What the picture shows.",
)
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), help="Default: random.")
@click.option(
    "--size",
    type=click.IntRange(64, 2048),
    default=512,
    show_default=True,
    help="Width and height in pixels; each model has sizes that suit it.",
)
@click.option(
    "--checkpoint",
    metavar="NAME",
    shell_complete=complete_checkpoints,
    help="Default: the first one of the server.",
)
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Folder for the pictures.  Default: the current one.",
)
@seconds_option("--timeout", "How long to wait; then the prompt is cancelled.  Default: no limit.")
@of_server_or_embedded
def demo(
    given: ServerOptions,
    prompt: str,
    seed: int | None,
    size: int,
    checkpoint: str | None,
    output: Path,
    timeout: float | None,
) -> None:
    """Make a picture from text, and show the Python code for it.

    Runs on an embedded ComfyUI, whose sampler is simulated, unless --host or --profile names a
    server.
    """
    import secrets

    from ..workflow import Workflow

    server = given.server() if given.hosts or given.profiles else None
    with contextlib.ExitStack() as stack:
        stack.enter_context(folder_for(output, "--output"))
        api = _connected(given, server, stack)
        inputs: _Inputs = {
            ("Positive prompt", "text"): prompt,
            ("CheckpointLoaderSimple", "ckpt_name"): _checkpoint(api, checkpoint),
            ("EmptyLatentImage", "width"): size,
            ("EmptyLatentImage", "height"): size,
            ("KSampler", "seed"): secrets.randbelow(2**32) if seed is None else seed,
        }
        workflow = Workflow.example()
        for (node, name), value in inputs.items():
            workflow[node][name] = value
        say(f"checkpoint: {workflow['CheckpointLoaderSimple']['ckpt_name']}")
        result, preview = _run(api, workflow, timeout)
        if not result.images:
            raise click.ClickException("the server ran the workflow, but names no picture")
        _save(output / "comfy-client-demo.png", result.images[0].bytes(), preview)
    click.echo("\nThe same in Python:\n")
    for line in _code(inputs, server):
        click.echo(f"    {line}".rstrip())
    if server is None:
        click.echo("\nOn your own ComfyUI: comfy-client demo --host http://127.0.0.1:8188")


def _connected(
    given: ServerOptions, server: Target | None, stack: contextlib.ExitStack
) -> ComfyApi:
    """Return a client of the server, or of a new embedded one if None; the stack closes both."""
    if server is None:
        from ..testing import ComfyServer
        from .target import Target

        server = Target(stack.enter_context(ComfyServer()).url)
        click.echo(f"An embedded ComfyUI, whose sampler is simulated, runs at {server.host}")
    else:
        limit = f"{given.answer_limit:g} s"
        click.echo(f"Connecting to {server.host} (waits up to {limit} while it is starting).")
    api = stack.enter_context(contextlib.closing(given.client_of(server, RUN_LIMIT)))
    return api.init(given.answer_limit)


def _save(path: Path, content: bytes, preview: PreviewEvent | None) -> None:
    """Write the picture and the last preview, if any, to files; print their paths."""
    from ..transport.decode import sniff
    from ..transport.local_files import write_atomically

    # Result.save() would write into an existing folder of that name.
    picture = write_atomically(path, [content], if_exists="number")
    click.echo(f"picture: {picture}")
    if preview is None:
        click.echo("preview: none came; a ComfyUI sends them if started with --preview-method auto")
    else:
        # Judge by the content, not by the server's word: the extension decides how it is opened.
        ending = sniff(preview.view).removeprefix("image/").replace("jpeg", "jpg")
        path = picture.with_name(f"{picture.stem}-preview.{ending}")
        click.echo(f"preview: {write_atomically(path, [preview.image], if_exists='number')}")


def _checkpoint(api: ComfyApi, wanted: str | None) -> str:
    from ..workflow.graph import listing

    names = api.get_checkpoints()
    if not names:
        raise click.ClickException(
            f"{api.host} has no checkpoint: put one into its folder models/checkpoints"
        )
    if wanted is not None and wanted not in names:
        raise Mistake(f"{api.host} has no checkpoint {wanted}; it has {listing(names)}")
    return wanted or names[0]


def _run(
    api: ComfyApi, workflow: Workflow, timeout: float | None
) -> tuple[Result, PreviewEvent | None]:
    """Run the workflow, but cancel it on a timeout; return the result and the last preview, if any.

    The first signal cancels it, too.
    """
    before = api.poll_status().queue_remaining
    if before:
        say(f"prompts ahead in the queue: {before}")
    previews: deque[PreviewEvent] = deque(maxlen=1)
    with submitted(api, workflow, preview_method="auto", extra_data=mark()) as job:
        try:
            result = wait_for(job, timeout, quiet=False, is_ours=True, on_preview=previews.append)
        except JobTimeout:
            job.cancel()
            raise TimeoutError(f"no picture within {timeout:g} s; it was cancelled") from None
    return result, previews[0] if previews else None


def _code(inputs: _Inputs, server: Target | None) -> Iterator[str]:
    """Yield lines of Python that do what the demo did, without any secret."""
    if server is None:
        yield "from comfy_client import ComfyApi, Workflow"
        yield "from comfy_client.testing import ComfyServer"
        yield ""
        yield "with ComfyServer() as server, ComfyApi(server.url) as api:"
    else:
        kind = server.kind_of_credentials
        yield f"from comfy_client import ComfyApi, {'EnvCredentials, ' if kind else ''}Workflow"
        yield ""
        if kind == "login":
            yield 'secret = EnvCredentials("COMFYUI_LOGIN", "basic")'
        elif kind == "token":
            yield 'secret = EnvCredentials("COMFYUI_TOKEN", "bearer")'
        sent = ", credentials=secret" if kind else ""
        sent += f", verify={_literal(server.verify)}" if server.verify is not True else ""
        sent += f", user={_literal(server.user)}" if server.user else ""
        yield f"with ComfyApi({_literal(server.host)}{sent}) as api:"
    yield "    workflow = Workflow.example()"
    for (node, name), value in inputs.items():
        yield f'    workflow["{node}"]["{name}"] = {_literal(value)}'
    yield "    result = api.run(workflow)"
    yield '    print(result.images[0].save("./"))'


def _literal(value: object) -> str:
    """Return a value as Python, with double quotes."""
    is_plain = isinstance(value, str) and value.isprintable()
    return json.dumps(value, ensure_ascii=False) if is_plain else repr(value)
