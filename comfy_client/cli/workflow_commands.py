"""Commands about workflows as files: ``inputs``, ``convert``, ``example`` and ``stubs``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .input_options import addressable, fill
from .printing import command, emit, note, output_option, say, table, write
from .run_command import input_option, seed_option, set_option
from .server_options import ServerOptions, of_server, of_server_as_text, with_json
from .workflow_source import (
    DefinitionsIfThere,
    LazyDefinitions,
    definitions_option,
    load,
    workflow_argument,
)

if TYPE_CHECKING:
    from ..workflow import Workflow


@command(
    "comfy-client inputs txt2img.json",
    "comfy-client inputs picture.png --definitions object_info.json",
    "comfy-client inputs txt2img.json --json | jq -r 'select(.role == \"seed\").address'",
)
@workflow_argument
@definitions_option
@of_server
def inputs(given: ServerOptions, workflow: str, definitions: Path | None) -> None:
    """List the inputs of a workflow that can be set.

    Each line has the address for --set and --axis, type, value, role if it is clear (positive,
    negative, seed, size or checkpoint), and choices or range.  If no server answers, the types are
    those of the values, and there are no choices.  The table shortens choices; --json does not.
    """
    with LazyDefinitions(given, definitions) as source:
        loaded = load(workflow, source)
        found = [addressable(one) for one in loaded.inputs(DefinitionsIfThere(source))]
    if given.json:
        for one in found:
            emit(one.to_dict())
        return
    if not found:
        say("No input can be set.")
        return
    from ..workflow.settable import cells

    table([cells(one) for one in found], ("INPUT", "TYPE", "VALUE", "ROLE", "CHOICES OR RANGE"))


@command(
    "comfy-client convert saved.json -o api.json",
    "comfy-client convert picture.png -o workflow.json",
    "comfy-client convert 1f0c -o workflow.json",
    "comfy-client convert txt2img.json --set KSampler.steps=8 --seed 7 -o filled.json",
    "comfy-client convert saved.json --definitions object_info.json --strict",
    "comfy-client convert saved.json --python > workflow.py",
)
@workflow_argument
@output_option
@definitions_option
@set_option
@input_option
@seed_option
@click.option("--strict", is_flag=True, help="Fail if anything does not convert exactly.")
@click.option("--python", is_flag=True, help="Write Python code that builds the workflow.")
@of_server
def convert(
    given: ServerOptions,
    workflow: str,
    output: Path | None,
    definitions: Path | None,
    sets: tuple[str, ...],
    inputs: tuple[str, ...],
    seed: str | None,
    strict: bool,
    python: bool,
) -> None:
    """Write a workflow in API format.

    WORKFLOW may be a file that the frontend saved, a picture, or the ID of a prompt.  The server is
    asked for a prompt, and for node definitions if the workflow is in UI format and there is no
    --definitions.

    With --set, --input or --seed it writes what run would send: random seeds are drawn, and files
    are uploaded, which needs the server.  Values get the types of the definitions, or of the
    current values if no server answers.
    """
    if python and given.json:
        raise click.UsageError("--python or --json, not both")
    with LazyDefinitions(given, definitions) as source:
        found = load(workflow, source, strict=strict)
        if sets or inputs or seed is not None:
            found = _as_sent(found, source, sets=sets, inputs=inputs, seed=seed)
        text = found.to_code() if python else json.dumps(found.to_dict(), indent=2)
    if given.json:
        text = json.dumps(found.to_dict())
    write(text, output, f"{len(found)} nodes")


def _as_sent(
    workflow: Workflow, source: LazyDefinitions, *, inputs: tuple[str, ...], **options: Any
) -> Workflow:
    """Return a workflow as ``run`` would send it with these options; upload its files."""
    from ..workflow.edit import graph_of
    from ..workflow.seeds import draw_wanted

    fill(workflow, DefinitionsIfThere(source), inputs=inputs, **options)
    draw_wanted(graph_of(workflow))
    if not inputs:
        return workflow
    from ..routes.prompts import with_files_sent
    from ..transport.deadline import Deadline

    note(f"uploading to {source.client.host}")
    return with_files_sent(source.client, workflow, Deadline())


@command(
    "comfy-client example > txt2img.json",
    "comfy-client example --notebook -o quickstart.ipynb",
)
@output_option
@click.option("--notebook", is_flag=True, help="Write a Jupyter notebook that shows common uses.")
@with_json
def example(given: ServerOptions, output: Path | None, notebook: bool) -> None:
    """Write a text-to-image workflow to begin with, or a notebook.

    The workflow runs on the server of comfy-client serve as it is; elsewhere set a checkpoint
    first: --set CheckpointLoaderSimple.ckpt_name=...
    """
    from importlib.resources import files

    if notebook and given.json:
        raise click.UsageError("--notebook or --json, not both")
    name = "quickstart.ipynb" if notebook else "demo.json"
    text = (files("comfy_client") / name).read_text("utf-8")
    what = "notebook" if notebook else "example"
    write(json.dumps(json.loads(text)) if given.json else text, output, what)


@command("comfy-client stubs -o comfy_nodes.py")
@output_option
@of_server_as_text
def stubs(given: ServerOptions, output: Path | None) -> None:
    """Write the node classes as a module for editors and mypy.

    Import Graph from it instead of from comfy_client.
    """
    from ..workflow.codegen import stubs as module_for

    with given.answering_client() as api:
        definitions = api.node_definitions()
    text = module_for(definitions, *([] if output is None else [output.stem]))
    write(text, output, f"{len(definitions)} node classes")
