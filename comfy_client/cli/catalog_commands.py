"""The commands about what a server has: ``models``, ``upload`` and ``nodes``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ..errors import NotFound
from ..nearest import nearest
from .completion import complete_classes, complete_folders, complete_types
from .exits import Mistake, message_of
from .listing import Row, has_words, print_rows, short_server
from .loading import definitions_option, read_definitions
from .printing import emit, examples, note, say
from .server_options import ServerOptions, of_server, of_servers
from .table_output import table

if TYPE_CHECKING:
    from ..client import ComfyApi
    from ..models import NodeDef


@click.command(
    epilog=examples(
        "comfy-client models", "comfy-client models loras", "comfy-client models --search flux"
    )
)
@click.argument("folder", metavar="[FOLDER]", required=False, shell_complete=complete_folders)
@click.option("--search", metavar="TEXT", help="List files with these words in their names.")
@of_servers
def models(given: ServerOptions, folder: str | None, search: str | None) -> None:
    """List the kinds of models, or the files of one kind.

    With --search, list the files whose names contain all these words, in FOLDER or else in all
    folders.  With several servers (--host A --host B) each line names its server.
    """
    has_files = folder is not None or search is not None

    def read(api: ComfyApi) -> list[Row]:
        folders = api.get_model_types() if folder is None else [folder]
        if not has_files:
            return [{"folder": one} for one in folders]
        return [
            {"folder": one, "name": name}
            for one in folders
            for name in _files(api.get_models, one, api.get_model_types)
            if search is None or has_words(name, search)
        ]

    def show(rows: list[Row]) -> None:
        keys = ["folder"] if not has_files else ["name"] if folder else ["folder", "name"]
        for row in rows:
            say("  ".join((*short_server(row), *(row[key] for key in keys))))
        if not rows and search is not None:
            note("No such files.")
        elif not rows:
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
            # The value of an input is an object for an asset of a hosted server.
            ref = sent.ref if isinstance(sent.ref, str) else json.dumps(sent.ref)
            if given.json:
                emit(
                    {
                        "file": file,
                        "name": sent.name,
                        "subfolder": sent.subfolder,
                        "type": sent.type,
                        "ref": ref,
                    }
                )
            else:
                say(ref)


#: The number of a combo's choices that a table shows.
_FEW: Final = 4
_MOST_NEAR: Final = 5


@click.command(
    epilog=examples(
        'comfy-client nodes --search "upscale model"',
        "comfy-client nodes --accepts LATENT --produces IMAGE",
        "comfy-client nodes KSampler --all",
        'comfy-client nodes "upscale image" --definitions object_info.json',
        "comfy-client nodes KSampler --json | jq .inputs.sampler_name.choices",
    )
)
@click.argument("name", metavar="[CLASS]", required=False, shell_complete=complete_classes)
@click.option(
    "--search",
    metavar="TEXT",
    help="Only classes with these words in name, title, category or description.",
)
@click.option(
    "--accepts",
    metavar="TYPE",
    shell_complete=complete_types,
    help="Only classes with an input of this type, such as LATENT.",
)
@click.option(
    "--produces",
    metavar="TYPE",
    shell_complete=complete_types,
    help="Only classes with an output of this type.",
)
@click.option("--all", "everything", is_flag=True, help="Print all choices of a CLASS.")
@definitions_option
@of_servers
def nodes(
    given: ServerOptions,
    name: str | None,
    search: str | None,
    accepts: str | None,
    produces: str | None,
    everything: bool,
    definitions: Path | None,
) -> None:
    """List the node classes, or show the inputs and outputs of one.

    CLASS may also be the title of a node.  With several servers (--host A --host B) each line
    names its server.
    """
    if name is None and everything:
        raise click.UsageError("--all needs a CLASS")
    if name is not None and (search or accepts or produces):
        raise click.UsageError("give CLASS, or --search, --accepts and --produces")

    def listed(each: Iterable[NodeDef]) -> list[Row]:
        found = [_facts(one) for one in each if _fits(one, search, accepts, produces)]
        found.sort(key=lambda one: (one["category"] or "", one["class_type"]))
        return found

    def read(api: ComfyApi) -> list[Row]:
        api.poll_status(given.answer_limit)  # all definitions may take a server minutes
        if name is None:
            return listed(_each(api.iter_node_definitions()))
        one = api.get_node_defs(name).get(name)
        return [node_object(one or _named(_each(api.iter_node_definitions()), name))]

    def show(rows: list[Row]) -> None:
        if name is None:
            _show_classes(rows)
        else:
            _show_each(rows, everything)

    if definitions is None:
        print_rows(given, read, show)
        return
    known = _each(read_definitions(definitions).items())
    rows = listed(known) if name is None else [node_object(_named(known, name))]
    if not given.json:
        show(rows)
        return
    for row in rows:
        emit(row)


def _each(definitions: Iterable[tuple[str, Any]]) -> Iterator[NodeDef]:
    """Yield the definitions as values, one at a time: there may be thousands of large ones."""
    from ..models import NodeDef

    for name, raw in definitions:
        if isinstance(raw, Mapping):
            yield NodeDef.from_json(name, raw)


def _named(each: Iterable[NodeDef], name: str) -> NodeDef:
    """Return the node class with a name or title; raise Mistake with the nearest names if unknown.

    The case of titles is ignored.  A title of several classes is a Mistake, too.
    """
    wanted = name.casefold()
    found: list[NodeDef] = []
    matching: list[str] = []
    titles: dict[str, str] = {}
    names: dict[str, str] = {}
    for one in each:
        if one.name == name:
            return one
        names[one.name] = one.name
        if one.display_name:
            titles[one.display_name] = one.name
        if wanted == (one.display_name or "").casefold():
            found.append(one)
        if _fits(one, name, None, None):
            matching.append(one.name)
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(one.name for one in found)
        raise Mistake(f"several node classes have the title {name!r}: {several}")
    near = [titles.get(one, one) for one in nearest(name, {**titles, **names})] + matching
    listed = list(dict.fromkeys(near))[:_MOST_NEAR]
    near_by = f"; nearest: {', '.join(listed)}" if listed else ""
    raise Mistake(f"no node class or title {name!r}{near_by}")


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


def _fits(one: NodeDef, search: str | None, accepts: str | None, produces: str | None) -> bool:
    from ..workflow.input_specs import outputs_of

    texts = (one.name, one.display_name, one.category, one.description)
    return (
        (search is None or has_words(" ".join(filter(None, texts)), search))
        and (accepts is None or accepts.upper() in _accepted(one))
        and (produces is None or produces.upper() in {out.kind for out in outputs_of(one.raw)})
    )


def _accepted(one: NodeDef) -> set[str]:
    from ..workflow.input_specs import Autogrow, types_of, walk

    specs = (spec.part if isinstance(spec, Autogrow) else spec for spec in walk(one.raw, {}))
    kinds = (spec.kind for spec in specs if not isinstance(spec, str))
    return {kind for given in kinds if isinstance(given, str) for kind in types_of(given)}


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


def _show_each(rows: list[Row], everything: bool) -> None:
    for row in rows:
        if "server" in row:
            say(f"{row['server']}:")
        _show(row, everything)


def _show(found: Row, everything: bool) -> None:
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
    for name, spec in found["inputs"].items() if everything else ():
        if spec["choices"] is not None:
            say(f"{name}: {', '.join(map(str, spec['choices'])) or 'no choices'}")


def _type(spec: dict[str, Any]) -> str:
    if spec["choices"] is not None:
        listed = ", ".join(map(str, spec["choices"][:_FEW]))
        more = f", ... ({len(spec['choices'])})" if len(spec["choices"]) > _FEW else ""
        return f"{listed}{more}" or "no choices"
    ends = [spec["min"], spec["max"]]
    limits = f" {ends[0]}..{ends[1]}" if None not in ends else ""
    return f"{spec['type']}{limits}{'' if spec['required'] else ', optional'}"
