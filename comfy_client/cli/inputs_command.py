"""``comfy-client inputs``: list the inputs of a workflow that can be set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click

from .loading import (
    DefinitionsIfThere,
    LazyDefinitions,
    definitions_option,
    load,
    workflow_argument,
)
from .printing import emit, examples, say
from .server_options import ServerOptions, of_server
from .table_output import table

if TYPE_CHECKING:
    from ..workflow.settable import SettableInput


@click.command(
    epilog=examples(
        "comfy-client inputs txt2img.json",
        "comfy-client inputs picture.png --definitions object_info.json",
        "comfy-client inputs txt2img.json --json | jq -r 'select(.role == \"seed\").address'",
    )
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


def addressable(one: SettableInput) -> SettableInput:
    """Return an input whose address ``--set`` can parse.

    A title with ``=`` or unprintable characters is replaced by the node id, as ``--set`` splits its
    text at the first ``=``.
    """
    if "=" not in one.address and one.address.isprintable():
        return one
    return attrs.evolve(one, address=f"{one.node_id}.{one.name}")
