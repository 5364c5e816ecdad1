"""The commands about models, node classes and files: ``models``, ``nodes``, ``upload``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..errors import NotFound
from ..nearest import nearest
from .completion import complete_classes, complete_folders
from .exits import Mistake, message_of
from .listing import Row, print_rows, short_server
from .printing import emit, examples, note, say, table
from .server_options import ServerOptions, of_server, of_servers

if TYPE_CHECKING:
    from ..client import ComfyApi
    from ..models import NodeDef


@click.command(epilog=examples("comfy-client models", "comfy-client models loras"))
@click.argument("folder", metavar="[FOLDER]", required=False, shell_complete=complete_folders)
@of_servers
def models(given: ServerOptions, folder: str | None) -> None:
    """List the kinds of models, or the files of one kind.

    With several servers (--host A --host B) each line names its server.
    """

    def read(api: ComfyApi) -> list[Row]:
        if folder is None:
            return [{"folder": name} for name in api.get_model_types()]
        names = _files(api.get_models, folder, api.get_model_types)
        return [{"folder": folder, "name": name} for name in names]

    def show(rows: list[Row]) -> None:
        for row in rows:
            say("  ".join((*short_server(row), row["name" if folder else "folder"])))
        if not rows:
            note(f"The folder {folder} is empty." if folder else "The server has no such folders.")

    print_rows(given, read, show)


def _files(get_models: Any, folder: str, get_folders: Any) -> list[str]:
    try:
        return list(get_models(folder))
    except NotFound:
        folders = get_folders()
        if folder in folders:
            raise
        near = nearest(folder, folders) or tuple(folders)
        raise Mistake(f"the server has no folder {folder!r}; there is {', '.join(near)}") from None


@click.command(
    epilog=examples(
        "comfy-client nodes --search upscale",
        "comfy-client nodes KSampler",
        "comfy-client nodes KSampler --json | jq .inputs.sampler_name.choices",
    )
)
@click.argument("name", metavar="[CLASS]", required=False, shell_complete=complete_classes)
@click.option("--search", metavar="TEXT", help="Only classes with this in name, title or category.")
@of_servers
def nodes(given: ServerOptions, name: str | None, search: str | None) -> None:
    """List the node classes, or show the inputs and outputs of one.

    With several servers (--host A --host B) each line names its server.
    """

    def read(api: ComfyApi) -> list[Row]:
        api.poll_status(given.answer_limit)  # all definitions may take a server minutes
        if name is not None:
            return [node_object(_node(api, name))]
        classes = [one for one in api.get_node_defs().values() if _fits(one, search)]
        classes.sort(key=lambda one: (one.category or "", one.name))
        return [_facts(one) for one in classes]

    print_rows(given, read, _show_classes if name is None else _show_each)


def _node(api: ComfyApi, name: str) -> NodeDef:
    """Return the definition of a node class; raise Mistake with the nearest names if unknown."""
    found = api.get_node_defs(name)
    if name not in found:
        near = nearest(name, api.get_node_defs())
        near_by = f"; nearest: {', '.join(near)}" if near else ""
        raise Mistake(f"the server has no node class {name!r}{near_by}")
    return found[name]


def _show_classes(rows: list[Row]) -> None:
    if not rows:
        note("No such node classes.")
        return
    lines = [
        (
            *short_server(row),
            row["class_type"],
            row["category"] or "",
            row["display_name"] or "",
        )
        for row in rows
    ]
    head = ("CLASS", "CATEGORY", "TITLE")
    table(lines, ("SERVER", *head) if "server" in rows[0] else head)


def _fits(one: NodeDef, search: str | None) -> bool:
    text = " ".join((one.name, one.display_name or "", one.category or "")).lower()
    return search is None or search.lower() in text


def _facts(one: NodeDef) -> dict[str, Any]:
    return {
        "class_type": one.name,
        "display_name": one.display_name,
        "category": one.category,
        "description": one.description,
        "python_module": one.python_module,
        "output_node": one.output_node,
        "deprecated": one.deprecated,
    }


def node_object(one: NodeDef) -> dict[str, Any]:
    """Return the JSON object that ``--json`` prints for a node class."""
    from ..workflow.input_specs import InputSpec, outputs_of, walk

    specs = [spec for spec in walk(one.raw, {}) if isinstance(spec, InputSpec)]
    inputs = {
        spec.name: {
            "type": "COMBO" if spec.choices is not None else str(spec.kind),
            "required": spec.required,
            "default": spec.options.get("default"),
            "min": spec.options.get("min"),
            "max": spec.options.get("max"),
            "choices": spec.choices,
            "tooltip": spec.options.get("tooltip"),
        }
        for spec in specs
    }
    outputs = [{"name": output.name, "type": output.kind} for output in outputs_of(one.raw)]
    return {**_facts(one), "inputs": inputs, "outputs": outputs}


def _show_each(rows: list[Row]) -> None:
    for row in rows:
        if "server" in row:
            say(f"{row['server']}:")
        _show(row)


def _show(found: Row) -> None:
    title = f" ({found['display_name']})" if found["display_name"] else ""
    say(f"{found['class_type']}{title}")
    if found["description"]:
        say(found["description"])
    rows = [
        (f"  {name}", _type(spec), "" if spec["default"] is None else f"{spec['default']!s:.60}")
        for name, spec in found["inputs"].items()
    ]
    if rows:
        table(rows, ("  INPUT", "TYPE", "DEFAULT"))
    if found["outputs"]:
        table([(f"  {o['name']}", o["type"]) for o in found["outputs"]], ("  OUTPUT", "TYPE"))


def _type(spec: dict[str, Any]) -> str:
    if spec["choices"] is not None:
        listed = ", ".join(map(str, spec["choices"][:4]))
        more = f", ... ({len(spec['choices'])})" if len(spec["choices"]) > 4 else ""
        return f"{listed}{more}" or "no choices"
    ends = [spec["min"], spec["max"]]
    limits = f" {ends[0]}..{ends[1]}" if None not in ends else ""
    return f"{spec['type']}{limits}{'' if spec['required'] else ', optional'}"


@click.command(
    epilog=examples(
        "comfy-client upload photo.jpg",
        "ref=$(comfy-client upload photo.jpg --subfolder faces)",
        'comfy-client run img2img.json --set "LoadImage.image=$ref"',
    )
)
@click.argument(
    "files",
    metavar="FILE...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False),
)
@click.option("--subfolder", default="", metavar="NAME", help="A subfolder of the input folder.")
@click.option("--overwrite", is_flag=True, help="Replace a file of the same name.")
@of_server
def upload(given: ServerOptions, files: tuple[str, ...], subfolder: str, overwrite: bool) -> None:
    """Send files, and print the names that loaders take."""
    from pathlib import Path

    with given.client() as api:
        for file in files:
            try:
                sent = api.upload_image(Path(file), subfolder=subfolder, overwrite=overwrite)
            except ValueError as exc:
                raise Mistake(f"{file}: {message_of(exc)}") from None
            if given.json:
                emit(
                    {
                        "file": file,
                        "name": sent.name,
                        "subfolder": sent.subfolder,
                        "type": sent.type,
                        "ref": sent.ref,
                    }
                )
            else:
                say(sent.ref)
