"""The commands about models, node classes and files: ``models``, ``nodes``, ``upload``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..errors import NotFound
from ..nearest import nearest
from .exits import Mistake, message_of
from .printing import emit, examples, say, table
from .server_options import ServerOptions, of_server

if TYPE_CHECKING:
    from ..models import NodeDef


@click.command(epilog=examples("comfy-client models", "comfy-client models loras"))
@click.argument("folder", metavar="[FOLDER]", required=False)
@of_server
def models(given: ServerOptions, folder: str | None) -> None:
    """List the kinds of models, or the files of one kind."""
    with given.client() as api:
        if folder is None:
            names = api.get_model_types()
            rows = [{"folder": name} for name in names]
        else:
            names = _files(api.get_models, folder, api.get_model_types)
            rows = [{"folder": folder, "name": name} for name in names]
    for row, name in zip(rows, names, strict=True):
        if given.json:
            emit(row)
        else:
            say(name)


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
@click.argument("name", metavar="[CLASS]", required=False)
@click.option("--search", metavar="TEXT", help="Only classes with this in name, title or category.")
@of_server
def nodes(given: ServerOptions, name: str | None, search: str | None) -> None:
    """List the node classes, or show the inputs and outputs of one."""
    with given.answering_client() as api:
        if name is not None:
            found = api.get_node_defs(name)
            if name not in found:
                near = nearest(name, api.get_node_defs())
                near_by = f"; nearest: {', '.join(near)}" if near else ""
                raise Mistake(f"the server has no node class {name!r}{near_by}")
            _show(found[name], given.json)
            return
        classes = [one for one in api.get_node_defs().values() if _fits(one, search)]
    classes.sort(key=lambda one: (one.category or "", one.name))
    if given.json:
        for one in classes:
            emit(_facts(one))
    elif classes:
        rows = [(one.name, one.category or "", one.display_name or "") for one in classes]
        table(rows, ("CLASS", "CATEGORY", "TITLE"))


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


def _show(one: NodeDef, as_json: bool) -> None:
    found = node_object(one)
    if as_json:
        emit(found)
        return
    say(" ".join(filter(None, (one.name, f"({one.display_name})" if one.display_name else ""))))
    if one.description:
        say(one.description)
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
