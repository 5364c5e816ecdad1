"""``comfy-client demo``: make a picture, and show the Python code for it."""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import JobTimeout
from .completion import complete_checkpoints
from .decorators import Finite
from .exits import Mistake
from .mine import mark
from .printing import examples, say
from .results import folder_for, wait_for
from .run_command import submitted
from .server_options import RUN_LIMIT, ServerOptions, of_server_or_embedded

if TYPE_CHECKING:
    from ..client import ComfyApi
    from ..events import PreviewEvent
    from ..jobs.result import Result
    from ..workflow import Workflow
    from .target import Target

#: Values for inputs of the demo's workflow, by node and name.
_Inputs = dict[tuple[str, str], str | int]


@click.command(
    epilog=examples(
        "comfy-client demo",
        'comfy-client demo --host http://127.0.0.1:8188 --prompt "a mill in the fog"',
    )
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
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=Finite(min=0, min_open=True),
    help="How long to wait; then the prompt is cancelled.  Default: no limit.",
)
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

    The first Ctrl-C cancels it, too.
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
