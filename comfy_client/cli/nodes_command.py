"""``comfy-client nodes``: list the node classes, or show one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ..nearest import nearest
from .completion import complete_classes, complete_types
from .exits import Mistake
from .listing import Row, has_words, print_rows, short_server
from .loading import definitions_option, read_definitions
from .printing import emit, examples, note, say
from .server_options import ServerOptions, of_servers
from .table_output import table

if TYPE_CHECKING:
    from ..client import ComfyApi
    from ..models import NodeDef

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
