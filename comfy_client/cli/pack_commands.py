"""The commands about ComfyUI-Manager on a server: ``packs``, ``snapshot`` and ``restart``."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import click

from ..errors import NotFound
from .completion import Completions, ask, complete_workflows, starting
from .decorators import Decorator, seconds_option
from .exits import Exit, Mistake, SilentExit, known_server, message_of, worst
from .manager_tasks import finish
from .printing import command, confirm, emit, group, note, say, yes_option
from .results import quiet_option
from .server_options import ServerOptions, of_server, of_servers
from .several_servers import Row, print_rows, table_of
from .workflow_source import LazyDefinitions, load

if TYPE_CHECKING:
    from ..client import ComfyApi
    from ..ext.manager import Manager
    from ..ext.tasks import Task
    from ..models.packs import ImportFailure, InstalledPack
    from ..workflow.problems import Problem

#: What to do for a change to take effect.
_RESTART: Final = "It takes effect once the server has restarted: {command}"


def _complete_installed(ctx: click.Context, param: click.Parameter, incomplete: str) -> Completions:
    """Complete the ids of installed packs."""
    return starting(incomplete, ask(ctx, lambda api: sorted(api.ext.manager.installed())))


def _complete_snapshots(ctx: click.Context, param: click.Parameter, incomplete: str) -> Completions:
    """Complete the names of snapshots."""
    return starting(incomplete, ask(ctx, lambda api: api.ext.manager.snapshots.list()))


_timeout_option: Decorator = seconds_option(
    "--timeout", "How long to wait; the Manager goes on.  Default: no limit."
)
_names_argument: Decorator = click.argument(
    "names",
    metavar="PACK...",
    nargs=-1,
    required=True,
    shell_complete=_complete_installed,
)


# -- packs --------------------------------------------------------------------------------


@group(
    "comfy-client packs",
    "comfy-client packs missing workflow.json",
    "comfy-client packs install comfyui-impact-pack && comfy-client restart --wait",
)
@of_servers
def packs(given: ServerOptions) -> None:
    """List, install and change node packs.

    ComfyUI-Manager on the server does the work.  Without a command, packs lists what is installed.
    PACK is an id of the registry, the URL of a git repository in the Manager's list, or the folder
    of an installed one.  A change takes effect once the server has restarted.
    """
    if click.get_current_context().invoked_subcommand is None:
        _list(given)


@command(
    "comfy-client packs list", "comfy-client packs list --json | jq 'select(.failed)'", name="list"
)
@of_servers
def _list_packs(given: ServerOptions) -> None:
    """List the installed packs: id, version, and whether each is enabled or failed to import."""
    _list(given)


def _list(given: ServerOptions) -> None:
    print_rows(given, _installed, _show_installed)


def _installed(api: ComfyApi) -> list[Row]:
    manager = api.ext.manager
    failures = {one.id: one for one in manager.failed_imports()}
    installed = sorted(manager.installed().values(), key=lambda pack: pack.id.casefold())
    return [_row_of(pack, failures.get(pack.id)) for pack in installed]


def _row_of(pack: InstalledPack, failure: ImportFailure | None) -> Row:
    error = None if failure is None else _last_line(failure.message)
    return {
        "id": pack.id,
        "version": pack.ver,
        "enabled": pack.enabled,
        "failed": failure is not None,
        "error": error,
    }


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _show_installed(rows: list[Row]) -> None:
    if not rows:
        note("No packs are installed.")
        return
    columns: Mapping[str, Callable[[Row], object]] = {
        "ID": lambda row: row["id"],
        "VERSION": lambda row: row["version"] or "-",
        "STATUS": _status_of,
        "ERROR": lambda row: row["error"] or "",
    }
    if not any(row["failed"] for row in rows):
        columns = {head: cell for head, cell in columns.items() if head != "ERROR"}
    table_of(rows, columns)


def _status_of(row: Row) -> str:
    return "failed" if row["failed"] else "enabled" if row["enabled"] else "disabled"


@command("comfy-client packs failed", name="failed")
@of_servers
def _failed(given: ServerOptions) -> None:
    """Show which packs the server could not import when it started, with the traceback."""

    def show(rows: list[Row]) -> None:
        for row in rows:
            say(f"{row['id']}:")
            for line in row["message"].splitlines():
                say(f"  {line.expandtabs()}")
        if not rows:
            note("All enabled packs were imported.")

    print_rows(given, lambda api: [one.to_dict() for one in api.ext.manager.failed_imports()], show)


@command(
    "comfy-client packs install comfyui-impact-pack",
    "comfy-client packs install comfyui-impact-pack --version 8.0.0",
    "comfy-client packs install https://github.com/OWNER/NAME",
    name="install",
)
@click.argument("names", metavar="PACK...", nargs=-1, required=True)
@click.option("--version", metavar="VERSION", help="A version of the registry.  Default: newest.")
@_timeout_option
@quiet_option
@of_server
def _install(
    given: ServerOptions,
    names: tuple[str, ...],
    version: str | None,
    timeout: float | None,
    quiet: bool,
) -> None:
    """Install packs, or enable those that are disabled."""
    if version is not None and len(names) > 1:
        raise click.UsageError("--version is for one pack")

    def start(manager: Manager, name: str) -> Task:
        return manager.install(name, version)

    _work(given, names, start, timeout, quiet, must_be_there=False)


_EXAMPLE: Final = "comfy-client packs %s comfyui-impact-pack"


def _changing(name: str, help: str, start: Callable[[Manager, str], Task]) -> click.Command:
    """Return a command that changes installed packs."""

    @command(_EXAMPLE % name, name=name)
    @_names_argument
    @_timeout_option
    @quiet_option
    @of_server
    def change(
        given: ServerOptions, names: tuple[str, ...], timeout: float | None, quiet: bool
    ) -> None:
        _work(given, names, start, timeout, quiet)

    change.help = help
    return change


@command(
    "comfy-client packs update comfyui-impact-pack",
    "comfy-client packs update --all",
    name="update",
)
@click.argument("names", metavar="[PACK]...", nargs=-1, shell_complete=_complete_installed)
@click.option("--all", "all_packs", is_flag=True, help="Update all enabled packs.")
@_timeout_option
@quiet_option
@of_server
def _update(
    given: ServerOptions,
    names: tuple[str, ...],
    all_packs: bool,
    timeout: float | None,
    quiet: bool,
) -> None:
    """Update packs to their newest versions."""
    if all_packs == bool(names):
        raise click.UsageError("name packs, or give --all")

    def start(manager: Manager, name: str) -> Task:
        return manager.update(name)

    _work(given, names or None, start, timeout, quiet)


def _work(
    given: ServerOptions,
    names: Collection[str] | None,
    start: Callable[[Manager, str], Task],
    timeout: float | None,
    quiet: bool,
    *,
    must_be_there: bool = True,
) -> None:
    """Start a task for each pack, or for all enabled ones if None, and wait for all."""
    with given.client() as api:
        manager = api.ext.manager
        if names is None:
            names = [pack.id for pack in manager.installed().values() if pack.enabled]
            if not names:
                note("No packs are enabled.")
        elif must_be_there:
            _check_installed(manager, names)
        starts = [partial(start, manager, name) for name in names]
        nearest = None if must_be_there else partial(_nearest, manager, names)
        statuses = finish(given, starts, timeout, quiet, nearest)
    if Exit.DONE in statuses:
        _note_restart()
    _end(statuses)


def _check_installed(manager: Manager, names: Collection[str]) -> None:
    """Raise Mistake if a pack is not installed: then none of the others is changed, either."""
    from ..ext.pack_names import id_or_folder

    installed = manager.installed()
    wrong = [one for one in names if id_or_folder(one) not in installed]
    if wrong:
        there = ", ".join(sorted(installed, key=str.casefold)) or "none"
        raise Mistake(
            f"not installed, so nothing was changed: {', '.join(wrong)}; there are: {there:.1000}"
        )


def _nearest(manager: Manager, given: Collection[str], name: str) -> list[str]:
    """Return the ids and URLs of known packs whose names are closest to a wrong one.

    There are none if it is not wrong: if it is installed, or was given as the Manager knows it.
    """
    from ..ext.pack_names import id_or_folder, packs_like
    from ..ext.plan import installed_as

    if installed_as(name, manager.installed()):
        return []
    found = packs_like(name, manager.mappings())
    return [] if any(id_or_folder(one) == name for one in found if one in given) else found


def _note_restart() -> None:
    note(_RESTART.format(command=known_server().command("restart", "--wait")))


def _end(statuses: Sequence[Exit]) -> None:
    """End with the worst of these statuses, whose errors were printed."""
    if any(statuses):
        raise SilentExit(worst(statuses))


@command("comfy-client packs wait install:0123456789ab:comfyui-impact-pack", name="wait")
@click.argument("ids", metavar="TASK...", nargs=-1, required=True)
@_timeout_option
@quiet_option
@of_server
def _wait(given: ServerOptions, ids: tuple[str, ...], timeout: float | None, quiet: bool) -> None:
    """Wait for tasks of the Manager that another command has started."""
    with given.client() as api:
        manager = api.ext.manager
        statuses = finish(given, [partial(manager.task, id) for id in ids], timeout, quiet)
    if Exit.DONE in statuses and not all(id.startswith("install-model:") for id in ids):
        _note_restart()
    _end(statuses)


# -- packs missing ------------------------------------------------------------------------


@command(
    "comfy-client packs missing workflow.json",
    "comfy-client packs missing ID --json",
    name="missing",
)
@click.argument("workflow", metavar="WORKFLOW", shell_complete=complete_workflows)
@of_server
def _missing(given: ServerOptions, workflow: str) -> None:
    """List the node classes of a workflow that the server lacks, and their packs.

    Below the list are the commands that help.  The exit status is 4 if a class is missing.
    """
    with LazyDefinitions(given, None) as source:
        report = load(workflow, source).check(source)
        lacking = [one for one in report.errors if one.type == "missing_node_type"]
        manager = source.client.ext.manager
        rows = _missing_rows(lacking, manager) if lacking else []
    if given.json:
        for row in rows:
            emit(row)
    else:
        _show_missing(rows)
    if rows:
        raise SilentExit(Exit.REJECTED)


def _missing_rows(problems: Sequence[Problem], manager: Manager) -> list[Row]:
    """Return a row for each missing class."""
    status_of = _pack_statuses(manager)
    rows: dict[str, Row] = {}
    for one in problems:
        name = one.class_type or ""
        row = rows.get(name)
        if row is None:
            status = status_of(one.pack) if one.pack else "unknown"
            names = [one.pack] if one.pack and status in ("missing", "disabled") else []
            rows[name] = row = {
                "class_type": name,
                "nodes": [],
                "pack": one.pack,
                "status": status,
                "install": _install_line(names) if names else None,
                "hint": None if one.pack else one.hint,
            }
        row["nodes"].append(one.node_id)
    return [*rows.values()]


def _pack_statuses(manager: Manager) -> Callable[[str], str]:
    """Return a function that tells why a pack brings no class.

    It is ``missing``, ``disabled``, ``failed`` to import, ``installed`` since the server started,
    or ``loaded``, in a version without the class.
    """
    from ..ext.plan import installed_as, is_loaded

    installed, at_start = manager.installed(), manager.installed(at_start=True)
    failed = {one.id for one in manager.failed_imports()}

    def status_of(name: str) -> str:
        pack = installed_as(name, installed)
        if pack is None:
            return "missing"
        if not pack.enabled:
            return "disabled"
        if pack.id in failed:
            return "failed"
        return "loaded" if is_loaded(name, at_start) else "installed"

    return status_of


def _install_line(names: Sequence[str]) -> str:
    return known_server().command("packs", "install", *names)


def _show_missing(rows: list[Row]) -> None:
    if not rows:
        note("The server has all classes of the workflow.")
        return
    columns: Mapping[str, Callable[[Row], object]] = {
        "CLASS": lambda row: row["class_type"],
        "PACK": lambda row: row["pack"] or "-",
        "STATUS": lambda row: row["status"],
        "NODES": lambda row: ", ".join(row["nodes"]),
    }
    table_of(rows, columns)
    server = known_server()
    names = dict.fromkeys(row["pack"] for row in rows if row["install"])
    if names:
        say(f"Install: {_install_line([*names])}")
    for row in rows:
        if row["hint"]:
            say(f"{row['class_type']}: {row['hint']}")
    statuses = {row["status"] for row in rows}
    if "failed" in statuses:
        say(f"Why a pack failed: {server.command('packs', 'failed')}")
    if "installed" in statuses:
        say(f"Installed since the start: {server.command('restart', '--wait')}")
    old = dict.fromkeys(row["pack"] for row in rows if row["status"] == "loaded")
    if old:
        say(f"Another version may have the class: {server.command('packs', 'update', *old)}")


for _command in (
    _list_packs,
    _failed,
    _missing,
    _install,
    _changing("remove", "Remove packs and their folders.", lambda m, name: m.uninstall(name)),
    _changing("enable", "Enable disabled packs.", lambda m, name: m.enable(name)),
    _changing("disable", "Disable packs; their folders stay.", lambda m, name: m.disable(name)),
    _update,
    _changing("fix", "Install the requirements of packs again.", lambda m, name: m.fix(name)),
    _wait,
):
    packs.add_command(_command)


# -- snapshots ----------------------------------------------------------------------------


@group("comfy-client snapshot", "comfy-client snapshot save")
@of_servers
def snapshot(given: ServerOptions) -> None:
    """List, save and restore snapshots of all node packs.

    ComfyUI-Manager on the server keeps them.  Without a command, snapshot lists them.
    """
    if click.get_current_context().invoked_subcommand is None:
        _snapshots(given)


@command("comfy-client snapshot list", name="list")
@of_servers
def _list_snapshots(given: ServerOptions) -> None:
    """List the names of the snapshots."""
    _snapshots(given)


def _snapshots(given: ServerOptions) -> None:
    def show(rows: list[Row]) -> None:
        for row in rows:
            say("  ".join((*([row["server"]] if "server" in row else []), row["name"])))
        if not rows:
            note("There are no snapshots.")

    print_rows(given, lambda api: [{"name": one} for one in api.ext.manager.snapshots.list()], show)


@command("comfy-client snapshot save", name="save")
@of_server
def _save(given: ServerOptions) -> None:
    """Save a snapshot, and print its name."""
    with given.client() as api:
        name = api.ext.manager.snapshots.save()
    _print_name(given, name, name)


@command("comfy-client snapshot current > packs.json", name="current")
@of_server
def _current(given: ServerOptions) -> None:
    """Print what a snapshot would contain now, as JSON."""
    with given.client() as api:
        found = dict(api.ext.manager.snapshots.current())
    if given.json:
        emit(found)
    else:
        click.echo(json.dumps(found, indent=2))


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """Context manager: turn NotFound into a mistake in the name."""
    try:
        yield
    except NotFound as exc:
        raise Mistake(message_of(exc)) from None


_snapshot_argument: Decorator = click.argument(
    "name", metavar="NAME", shell_complete=_complete_snapshots
)


@command("comfy-client snapshot restore 2026-11-28_23-01-45_snapshot", name="restore")
@_snapshot_argument
@of_server
def _restore(given: ServerOptions, name: str) -> None:
    """Have the packs of a snapshot installed at the next start of the server.

    Packs that it lacks are disabled then.
    """
    with _named(), given.client() as api:
        api.ext.manager.snapshots.restore(name)
    _print_name(given, name, f"{name} will be restored when the server starts the next time")
    _note_restart()


@command("comfy-client snapshot remove 2026-11-28_23-01-45_snapshot", name="remove")
@_snapshot_argument
@of_server
def _remove(given: ServerOptions, name: str) -> None:
    """Delete a snapshot."""
    with _named(), given.client() as api:
        api.ext.manager.snapshots.remove(name)
    _print_name(given, name, f"removed {name}")


def _print_name(given: ServerOptions, name: str, text: str) -> None:
    if given.json:
        emit({"name": name})
    else:
        say(text)


for _command in (_list_snapshots, _save, _current, _restore, _remove):
    snapshot.add_command(_command)


# -- restart ------------------------------------------------------------------------------


@command("comfy-client restart --wait", "comfy-client restart --wait --timeout 600 --yes")
@click.option("--wait", is_flag=True, help="Wait until it can run prompts again.")
@seconds_option("--timeout", "How long to wait.", default=120.0, show_default=True)
@yes_option
@of_server
def restart(given: ServerOptions, wait: bool, timeout: float, yes: bool) -> None:
    """Restart the server, by its ComfyUI-Manager.

    Prompts that wait or run are lost, whoever submitted them: if there are any, it asks first.
    """
    began = time.monotonic()
    with given.client() as api:
        manager = api.ext.manager
        manager.version  # noqa: B018  # or there is nothing to ask
        waiting = api.poll_status(given.answer_limit).queue_remaining
        if waiting:
            prompts = "1 prompt" if waiting == 1 else f"{waiting} prompts"
            confirm(f"{prompts} of {api.host} will be lost.  Restart it?", yes)
        manager.reboot(timeout if wait else 0)
        host = api.host
    seconds = time.monotonic() - began if wait else None
    if given.json:
        emit({"host": host, "seconds": seconds})
    elif wait:
        say(f"{host} is ready again, after {seconds:.0f} s")
    else:
        say(f"{host} restarts; {known_server().command('wait')} waits for it")
