"""``comfy-client run``."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import click

from ..errors import ComfyError
from .connecting import ANSWER_LIMIT, Given, of_server
from .decorators import Decorator
from .inputs import Types, set_seeds
from .loading import load, workflow_argument
from .mine import mark
from .printing import emit, examples, note, say
from .results import (
    cancel,
    check_template,
    out_option,
    quiet_option,
    show_result,
    timeout_option,
    wait_for,
)

if TYPE_CHECKING:
    from ..client import ComfyApi
    from ..jobs.job import Job
    from ..workflow import Workflow


set_option: Decorator = click.option(
    "--set",
    "sets",
    metavar="NODE.input=VALUE",
    multiple=True,
    help="Set an input; the node by title, class or id.  Repeatable.",
)
input_option: Decorator = click.option(
    "--input",
    "inputs",
    metavar="NODE=FILE",
    multiple=True,
    help="Upload a file for a node such as LoadImage.  Repeatable.",
)
seed_option: Decorator = click.option("--seed", metavar="N|random", help="Set all seeds.")


@click.command(
    epilog=examples(
        "comfy-client run txt2img.json --set KSampler.steps=8 --seed random --out pictures/",
        "comfy-client run picture.png --set 'Positive prompt.text=a fox' --out '{seed}{ext}'",
        "comfy-client run img2img.json --input LoadImage=photo.jpg --check --json",
        "id=$(comfy-client run slow.json --detach)",
    )
)
@workflow_argument
@set_option
@input_option
@seed_option
@out_option
@click.option("--check", is_flag=True, help="Check the workflow first; send nothing if it is bad.")
@click.option("--detach", is_flag=True, help="Print the id of the prompt, and do not wait.")
@click.option("--front", is_flag=True, help="Put it at the front of the queue.")
@timeout_option
@quiet_option
@of_server
def run(
    given: Given,
    workflow: str,
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
    """Run a workflow, and print where its files are.

    WORKFLOW is a file in API format, one that the page saved, or a picture that ComfyUI made;
    - reads standard input.  With --out the files are saved here and their paths are printed,
    else their URLs.  The first Ctrl-C cancels the prompt, the second leaves.
    """
    if detach and out is not None:
        raise click.UsageError("--detach does not wait, so there is nothing for --out yet")
    with given.client() as api:
        api.poll_status(ANSWER_LIMIT)  # before anything is read: it may be away
        ready = prepared(api, workflow, sets, inputs, seed)
        check_template(out, ready.to_dict())
        job = submitted(api, ready, check=check, front=front)
        if detach:
            emit(job.to_dict()) if given.json else say(job.prompt_id)
            return
        result = wait_for(job, timeout, quiet, is_ours=True)
        if not quiet:
            note(repr(result)[1:-1])
        show_result(result, out, given.json)


def prepared(
    api: ComfyApi,
    source: str,
    sets: tuple[str, ...],
    inputs: tuple[str, ...],
    seed: str | None,
) -> Workflow:
    """The workflow with everything that the options change."""
    workflow = load(source, api)
    set_seeds(workflow, seed)
    types = Types(workflow, api)
    types.set(sets)
    types.attach(inputs)
    return workflow


def submitted(api: ComfyApi, workflow: Workflow, **options: Any) -> Job:
    """Put it into the queue; Ctrl-C meanwhile takes it out again."""
    prompt_id = api.generate_id()
    try:
        return api.submit(workflow, prompt_id=prompt_id, extra_data=mark(), **options)
    except KeyboardInterrupt:
        with contextlib.suppress(ComfyError):  # it was not there yet, or nobody answers
            cancel(api.job(prompt_id))
        raise
