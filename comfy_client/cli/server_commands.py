"""The commands about the server and what it has.

``info``, ``free``, ``logs``, ``doctor``, ``where``, ``models``, ``upload`` and ``nodes``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final

import click

from .. import runtime
from ..errors import AuthenticationError, NotFound
from ..nearest import nearest
from .completion import complete_classes, complete_folders, complete_types
from .decorators import Finite, seconds_option
from .exits import Exit, Mistake, SilentExit, message_of
from .printing import command, emit, gib, note, say, table
from .profiles import Config, load_config
from .server_options import ServerOptions, of_server, of_servers
from .several_servers import (
    Columns,
    Row,
    has_words,
    print_found,
    print_rows,
    short_server,
    table_of,
)
from .workflow_source import definitions_option, read_definitions

if TYPE_CHECKING:
    from ..client import ComfyApi
    from ..doctor.report import DoctorReport
    from ..events import LogEntry
    from ..models import NodeDef
    from .target import Target


@command("comfy-client models", "comfy-client models loras", "comfy-client models --search flux")
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


@command(
    "comfy-client upload photo.jpg",
    "ref=$(comfy-client upload photo.jpg --subfolder faces)",
    'comfy-client run img2img.json --set "LoadImage.image=$ref"',
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


@command(
    'comfy-client nodes --search "upscale model"',
    "comfy-client nodes --accepts LATENT --produces IMAGE",
    "comfy-client nodes KSampler --all",
    'comfy-client nodes "upscale image" --definitions object_info.json',
    "comfy-client nodes KSampler --json | jq .inputs.sampler_name.choices",
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
    print_found(rows, given, show)


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
    table_of(rows, _CLASSES)


_CLASSES: Final[Columns] = {
    "CLASS": lambda row: row["class_type"],
    "CATEGORY": lambda row: row["category"] or "",
    "TITLE": lambda row: row["display_name"] or "",
}


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


@command(
    "comfy-client info",
    "comfy-client info --json | jq .devices",
    "comfy-client info --host gpu-1:8188 --host gpu-2:8188",
)
@of_servers
def info(given: ServerOptions) -> None:
    """Show versions, devices, memory, and the length of the queue."""
    print_rows(given, lambda api: [_info(api, given.answer_limit)], _show_info)


def _info(api: ComfyApi, limit: float) -> Row:
    """Return the JSON object that ``--json`` prints for a server."""
    stats = api.get_system_stats()
    return {
        "host": api.host,
        "comfyui_version": stats.comfyui_version,
        "python_version": stats.python_version,
        "pytorch_version": stats.pytorch_version,
        "os": stats.os,
        "ram_total": stats.ram_total,
        "ram_free": stats.ram_free,
        "devices": [device.to_dict() for device in stats.devices],
        "queue_remaining": api.poll_status(limit).queue_remaining,
        "features": dict(api.get_features()),
    }


def _show_info(rows: list[Row]) -> None:
    for place, found in enumerate(rows):
        if place:
            say("")
        say(f"server    {found['host']}")
        for label, key in (("ComfyUI", "comfyui_version"), ("PyTorch", "pytorch_version")):
            say(f"{label:<9} {found[key] or 'unknown'}")
        python = (found["python_version"] or "unknown").partition(" ")[0]
        say(f"Python    {python} on {found['os']}")
        say(f"memory    {gib(found['ram_free'])} of {gib(found['ram_total'])} free")
        for device in found["devices"]:
            free, total = gib(device["vram_free"]), gib(device["vram_total"])
            say(f"device    {device['name']}, {free} of {total} free")
        say(f"queue     {found['queue_remaining']} prompts")


@command("comfy-client free", "comfy-client free --wait-vram 12 --timeout 300")
@click.option("--models-only", is_flag=True, help="Keep the outputs of nodes in the cache.")
@click.option(
    "--wait-vram",
    metavar="GB",
    type=Finite(min=0, min_open=True),
    help="Wait until so much memory of the first device is free (1 GB is 2**30 bytes).",
)
@seconds_option("--timeout", "How long to wait.", default=60.0, show_default=True, zero=True)
@of_server
def free(given: ServerOptions, models_only: bool, wait_vram: float | None, timeout: float) -> None:
    """Have the server free its memory.

    It does so after the prompt that is running.
    """
    with given.client() as api:
        wait = 0.0 if wait_vram is None else 1.0  # a busy server may answer late
        api.free_memory(unload_models=True, free_memory=not models_only, wait=wait)
        if wait_vram is not None:
            api.wait_for_vram(int(wait_vram * 2**30), timeout)
        device = next(iter(api.get_system_stats().devices), None)
    found = {
        "device": None if device is None else device.name,
        "vram_free": None if device is None else device.vram_free,
        "vram_total": None if device is None else device.vram_total,
    }
    if given.json:
        emit(found)
    elif device is not None:
        say(f"{device.name}: {gib(device.vram_free)} of {gib(device.vram_total)} free")


# -- logs -------------------------------------------------------------------------------


@command("comfy-client logs --lines 50", "comfy-client logs --follow")
@click.option("-f", "--follow", is_flag=True, help="Go on until Ctrl-C.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(0, 100_000),
    default=100_000,
    help="How many of the last lines.  Default: all that the server has kept.",
)
@of_server
def logs(given: ServerOptions, follow: bool, lines: int) -> None:
    """Show what the server wrote to its terminal."""
    with given.answering_client() as api:
        for entry in _following(api, lines) if follow else _kept(api, lines):
            if given.json:
                emit({"time": entry.time, "text": entry.text})
                continue
            for line in filter(str.strip, entry.text.splitlines()):
                say(line.expandtabs())


def _kept(api: ComfyApi, lines: int) -> list[LogEntry]:
    kept = api.get_raw_logs().entries
    entries = list(kept[-lines:]) if lines else []
    if not entries:
        note("No lines of the log." if kept else "The server has kept no lines of its log.")
    return entries


def _following(api: ComfyApi, lines: int) -> Iterator[LogEntry]:
    """Yield the log entries that the server has kept, then new ones; yield each only once."""
    from ..events import ConnectionEvent, LogEntry

    inbox: SimpleQueue[Any] = SimpleQueue()
    api.on("logs", inbox.put)
    api.on("disconnected", inbox.put)
    api.on("reconnected", inbox.put)
    api.subscribe_logs()
    kept = api.get_raw_logs().entries
    yield from kept[-lines:] if lines else ()
    seen = Counter((entry.time, entry.text) for entry in kept)
    while True:
        try:
            event = inbox.get(timeout=runtime.SLICE)  # in slices, so that signals are handled
        except Empty:
            continue
        if isinstance(event, ConnectionEvent):
            why = "" if event.error is None else f": {message_of(event.error)}"
            note(f"{event.name}{why}")
            continue
        for entry in event.entries:
            if seen[entry.time, entry.text]:
                seen[entry.time, entry.text] -= 1
            else:
                yield LogEntry(time=entry.time, text=entry.text)


# -- doctor and where -------------------------------------------------------------------

#: The name of a bug report if none is given.
_REPORT: Final = "comfy-client-report.txt"


@command(
    "comfy-client doctor",
    "comfy-client doctor --host gpu-box --run",
    "comfy-client doctor --report --record doctor.jsonl",
)
@click.option("--run", is_flag=True, help="Run a trivial prompt, too.")
@click.option(
    "--report",
    "file",
    metavar="[FILE]",
    is_flag=False,
    flag_value=_REPORT,
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"Write a file for a bug report, with logs and the --record.  Default: {_REPORT}.",
)
@seconds_option("--timeout", "How long it may take.", default=30.0, show_default=True)
@of_server
def doctor(given: ServerOptions, run: bool, file: Path | None, timeout: float) -> None:
    """Find out why a server cannot be reached, or what is wrong.

    The output holds no secret and is safe for a bug report.  The exit status is 1 if a check
    failed.
    """
    try:
        if file is None:
            with given.client() as api:
                report = api.doctor(run, timeout=timeout)
        else:
            report = _reported(given, run, timeout, file)
    except AuthenticationError as exc:  # Comfy Cloud, and no key
        report = _about_no_key(exc, given, file)
    if given.json:
        emit(report.to_dict())
    else:
        click.echo(str(report))
    if not report:
        raise SilentExit(Exit.ERROR)


def _reported(given: ServerOptions, run: bool, timeout: float, file: Path) -> DoctorReport:
    """Run the doctor, write a bug report to a file, and return the doctor's report."""
    from . import bug_report  # slow to import

    with bug_report.kept_log() as log, given.client() as api:
        report = api.doctor(run, timeout=timeout)
        text = bug_report.report_of(api, report, given, log)
    if given.record:
        recording = Path(given.record).read_text(encoding="utf-8")
        text += f"\n{bug_report.section('Recording', recording)}"
    _write(file, text)
    return report


def _about_no_key(
    error: AuthenticationError, given: ServerOptions, file: Path | None
) -> DoctorReport:
    """Return the report for Comfy Cloud without a key; write it to a file, if one is named."""
    from ..doctor.examine import report_of_no_client
    from ..doctor.report import failed
    from ..hosted.servers import CLOUD
    from . import bug_report

    found, _, advice = message_of(error).partition(": ")
    report = report_of_no_client(CLOUD, "key", failed(f"{found}, and none is set", advice))
    if file is not None:
        _write(file, bug_report.report_without_client(report, given))
    return report


def _write(file: Path, text: str) -> None:
    from . import bug_report

    bug_report.write(file, text)
    note(f"Wrote {file}.  Read it before you send it.")


@command("comfy-client where", "comfy-client where --profile studio --json")
@of_server
def where(given: ServerOptions) -> None:
    """Show which server the commands use, and where that is set.

    Nothing is sent.  An option overrides the environment, and that overrides the default profile.
    """
    from .target import resolve

    config = load_config()
    server = resolve(given.options, config)
    found = _where(server, config)
    if given.json:
        emit(found)
        return
    for key, label in _PARTS_OF_SERVER.items():
        source = server.sources.get(key.replace("_", "-"))
        if found[key] and source is not None:
            say(f"{label:<13} {found[key]}  ({source})")
    for remark in server.remarks:
        note(remark)
    say(f"config file   {config.path}{'' if config.path.exists() else ' (not there)'}")
    names = (f"{name} (used)" if name == server.profile else name for name in config.profiles)
    say(f"profiles      {', '.join(names) or 'none'}")


#: What :func:`where` prints of a server, and how it is labelled.
_PARTS_OF_SERVER: Final = {
    "host": "server",
    "hosted": "hosted",
    "credentials": "credentials",
    "ca": "certificates",
    "insecure": "insecure",
    "private_storage": "storage",
    "partner_key": "partner key",
    "user": "user",
    "max_json": "max-json",
    "no_cache": "no-cache",
}


def _where(server: Target, config: Config) -> dict[str, Any]:
    return {
        **{key: getattr(server, key) for key in _PARTS_OF_SERVER},
        "credentials": server.kind_of_credentials,
        "profile": server.profile,
        "sources": dict(server.sources),
        "config": str(config.path),
        "profiles": sorted(config.profiles),
    }
