"""``comfy-client sweep``: run a workflow with all combinations of some values."""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import click

from ..errors import ComfyError, WorkflowError
from .decorators import complete_files, seconds_option
from .exits import STOPPED, Exit, Mistake, SilentExit, Unsaved, message_of
from .extra_data import extra_data_option, prompt_options
from .input_options import INPUTS_HINT, InputTypes, mistakes
from .printing import command, emit, note, say
from .prompt_records import PromptSource, file_or_record, is_hosted
from .results import (
    as_template,
    download_again,
    folder_for,
    no_dash,
    quiet_option,
    saving,
    saving_to,
)
from .run_command import input_option, prepared, seed_option, set_option
from .server_options import ServerOptions, file_name_of, of_servers
from .several_servers import AskedPool, at_once, reading
from .workflow_source import complete_axes, content_of, workflow_argument

if TYPE_CHECKING:
    from ..batch.row import SweepRow
    from ..batch.rows import Sweep
    from ..client import ComfyApi
    from ..pool.pool import ComfyPool
    from ..workflow import Workflow

#: The values of each axis.
_Grid = dict[str, list[Any]]
#: The key in ``extra_data`` of the prompts of one sweep.
_KEY: Final = "comfy_client_sweep"
_IN_FLIGHT: Final = 4  # with one server
_SHEETS: Final = (".png", ".jpg", ".webp")

_file_option = partial(
    click.option, metavar="FILE", type=click.Path(dir_okay=False), callback=no_dash
)


@command(
    "comfy-client sweep txt2img.json --axis KSampler.seed=1..8 --axis KSampler.cfg=4,7.5",
    "comfy-client sweep txt2img.json --axis 'Positive prompt.text=\"a fox, red\",an owl' \\",
    '    --out "out/{row:03}_{seed}{ext}" --csv rows.csv --sheet sheet.png',
    "comfy-client sweep txt2img.json --axis KSampler.seed=0..499 --journal sweep.db --out out/",
    "comfy-client sweep txt2img.json --axis KSampler.seed=1..99 --host gpu-1 --host gpu-2",
)
@workflow_argument
@click.option(
    "--axis",
    "axes",
    metavar="NODE.input=V1,V2,...",
    multiple=True,
    required=True,
    shell_complete=complete_axes,
    help="Values of an input; 1..8 are whole numbers, and double quotes hold commas.  Repeatable.",
)
@set_option
@input_option
@seed_option
@extra_data_option
@click.option(
    "--out",
    metavar="TEMPLATE",
    callback=no_dash,
    shell_complete=complete_files,
    help="Save the files: in a folder, as fox.png, or as 'out/{seed}_{index:03}{ext}'.",
)
@_file_option("--journal", help="Record the rows there; the same command goes on where it stopped.")
@click.option("--retry-failed", is_flag=True, help="Run the journal's failed rows again.")
@_file_option("--csv", help="Write a table of the rows.")
@_file_option("--sheet", help="Write a labelled contact sheet of the pictures (extra [image]).")
@click.option(
    "--in-flight",
    type=click.IntRange(1, 1000),
    help="How many prompts are under way.  Default: 4 for each server.",
)
@click.option(
    "--on-lost",
    type=click.Choice(["raise", "retry"]),
    default="raise",
    show_default=True,
    help="With several servers, when one that may have run a prompt stays away: fail the row, "
    "or run it on another.",
)
@seconds_option("--timeout", "For each prompt.  Default: no limit.")
@seconds_option(
    "--patience",
    "How long a server may be away at a time.  Default: none; with several servers 120.",
    zero=True,
)
@quiet_option
@of_servers
def sweep(
    given: ServerOptions,
    /,
    workflow: str,
    axes: tuple[str, ...],
    sets: tuple[str, ...],
    inputs: tuple[str, ...],
    seed: str | None,
    extra_data: Mapping[str, Any],
    out: str | None,
    csv: str | None,
    sheet: str | None,
    quiet: bool,
    on_lost: str,
    **options: Any,
) -> None:
    """Run a workflow with all combinations of some values.

    A line for each row is printed as it ends.  The exit status is 5 if rows failed.  After
    Ctrl-C the prompts that wait are taken out of the queue; with --journal those that run go on,
    else they are cancelled, too.  Several servers (--host A --host B) share the rows.
    """
    if options["retry_failed"] and options["journal"] is None:
        raise click.UsageError("--retry-failed needs the --journal that knows what failed")
    _check_sheet(sheet)
    with contextlib.ExitStack() as stack:
        read = partial(_read, content_of(workflow), sets, inputs, seed, axes, extra_data)
        pool_options = _pool_options(given, on_lost, options)
        found, server = stack.enter_context(reading(given, read, **pool_options))
        ready, grid, more = found
        runner = server.pool if isinstance(server, AskedPool) else server.client
        for option, file in (("--csv", csv), ("--sheet", sheet)):
            if file is not None and not Path(file).exists():  # may be a device in /dev
                stack.enter_context(folder_for(Path(file).parent, option))
        short = {name.rpartition(".")[2] for name in grid}
        stack.enter_context(saving_to(out, ready.to_dict(), {"row", *short, *grid}))
        printer = _RowPrinter(out, given.json, is_several=given.is_several)
        options |= {"progress": False if quiet else None, **more}
        rows = _run_all(runner, ready, grid, printer, options)
        for row in rows:
            printer.show_known(row)
        if csv is not None:
            note(f"table: {rows.to_csv(csv)}")
        if sheet is not None:
            rows.grid().save(sheet)
            note(f"sheet: {sheet}")
    if any(row.error is not None for row in rows):
        raise SilentExit(Exit.FAILED)
    if printer.unsaved:
        message = f"rows of an earlier call are not saved: {len(printer.unsaved)}"
        raise Unsaved(message, printer.unsaved[0])


def _pool_options(given: ServerOptions, on_lost: str, options: dict[str, Any]) -> dict[str, Any]:
    """Take the options of a pool out of those of the sweep, and return them; a client has none."""
    if not given.is_several:
        options["in_flight"] = options["in_flight"] or _IN_FLIGHT
        return {}
    patience = options.pop("patience")  # a pool takes no None
    return {"on_lost": on_lost} | ({} if patience is None else {"patience": patience})


def _run_all(
    runner: ComfyApi | ComfyPool,
    workflow: Workflow,
    grid: _Grid,
    printer: _RowPrinter,
    options: Mapping[str, Any],
) -> Sweep:
    """Run all rows of a sweep; after an error, cancel its prompts unless a journal has them."""
    sweep_id = str(uuid.uuid4())
    options = {**options, "extra_data": {**options["extra_data"], _KEY: sweep_id}}
    # Without a journal, prompts are cancelled below, so no warning is due.
    log_filter = contextlib.nullcontext() if options["journal"] else _without_what_runs()
    try:
        with log_filter:
            return runner.sweep(workflow, grid, on_row=printer.show, **options)
    except BaseException as exc:
        # When it is stopped, the sweep itself has named the prompts that its journal resumes.
        if options["journal"] is None or not isinstance(exc, STOPPED):
            _end_everywhere(runner, sweep_id, options["journal"])
        if isinstance(exc, ValueError | FileNotFoundError) and not printer.shown:
            raise Mistake(message_of(exc)) from None  # not a journal, for example
        raise


def _check_sheet(sheet: str | None) -> None:
    """Raise Mistake for a ``--sheet`` that cannot be written."""
    if sheet is None:
        return
    if find_spec("PIL") is None:
        raise Mistake('--sheet needs Pillow: pip install "comfy-client-blocking[image]"')
    if Path(sheet).suffix.lower() not in _SHEETS:
        raise Mistake(f"--sheet {sheet!r:.100}: its name ends in {', '.join(_SHEETS)}")


def _read(
    source: str | bytes,
    sets: tuple[str, ...],
    inputs: tuple[str, ...],
    seed: str | None,
    axes: tuple[str, ...],
    extra_data: Mapping[str, Any],
    server: PromptSource,
) -> tuple[Workflow, _Grid, Mapping[str, Any]]:
    """Load the workflow and parse the axes; return both, and options for the submissions."""
    workflow = prepared(file_or_record(source, server), sets, inputs, seed, server)
    types = InputTypes(workflow, server)
    grid: _Grid = {}
    for text in axes:
        name, values = types.axis(text)
        with mistakes("--axis", INPUTS_HINT):
            types.check_unique([*grid, name])
        grid[name] = values
    return workflow, grid, prompt_options(extra_data, workflow, server)


@contextlib.contextmanager
def _without_what_runs() -> Iterator[None]:
    """Context manager: suppress logged warnings that a prompt keeps running."""

    def is_other(record: logging.LogRecord) -> bool:
        return not hasattr(record, "left_running")

    logger = logging.getLogger("comfy_client")
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


def _end_everywhere(runner: ComfyApi | ComfyPool, sweep_id: str, journal: str | None) -> None:
    from ..client import ComfyApi
    from ..transport.deadline import limited_silence

    def end(api: ComfyApi) -> None:
        try:
            with limited_silence(api.timing.cancel_timeout):
                _end_all(api, sweep_id, journal)
        except ComfyError as exc:
            note(f"prompts may keep running on {api.host}: {message_of(exc)}")

    at_once(end, [runner] if isinstance(runner, ComfyApi) else _clients_used(runner))


def _clients_used(pool: ComfyPool) -> list[ComfyApi]:
    """Return the clients of those servers of a pool that were given a prompt."""
    had = {one.host for one in pool.status().servers if one.own or one.done or one.failed}
    return [api for api in pool.servers if api.host in had]


def _end_all(api: ComfyApi, sweep_id: str, journal: str | None) -> None:
    """Cancel the running prompts of a sweep; those that waited have been cancelled already.

    With a journal they keep running for the next call, and are only named on stderr.
    """
    if is_hosted(api):
        _end_all_hosted(api, journal)
        return
    found = api.get_queue()
    for item in (*found.running, *found.pending):
        if item.extra_data.get(_KEY) != sweep_id:
            continue
        if journal is None:
            note(f"Cancelling prompt {item.prompt_id}.")
            api.job(item.prompt_id).cancel()
        else:
            note(f"Prompt {item.prompt_id} keeps running; the same command will have its row.")


def _end_all_hosted(api: ComfyApi, journal: str | None) -> None:
    """Do as :func:`_end_all` on a hosted server, which has no queue: all jobs are the sweep's."""
    for one in api.parts.tracker.outstanding:
        job_id = one.state.prompt_id
        if journal is not None:
            note(f"Prompt {job_id} keeps running; the same command will have its row.")
            continue
        note(f"Cancelling prompt {job_id}.")
        try:
            api.job(job_id).cancel()
        except ComfyError as exc:
            note(f"prompt {job_id} may keep running on {api.host}: {message_of(exc)}")


def _of_row(out: str) -> str:
    """Return a template that gives the files of each row their own names, even for ``fox.png``."""
    return as_template(out, "_{row}")


def _of_server(out: str, host: str) -> str:
    """Return a template that keeps the files of this server apart from those of other servers."""
    from ..jobs.names import is_template

    template = _of_row(out)
    if is_template(template):
        return template
    return os.path.join(out, f"{file_name_of(host)}_{{name}}{{ext}}")


def sent(row: SweepRow, name: str) -> Any:
    """Return the value that a row's prompt had for an input: for ``random``, the seed drawn."""
    from ..workflow.address import input_named
    from ..workflow.seeds import is_wanted

    value = row.params[name]
    if not is_wanted(value) or row.result is None:
        return value
    try:
        node_id, field = input_named(row.result.graph, name)
        return row.result.graph[node_id]["inputs"][field]
    except (WorkflowError, KeyError):  # the graph is not known
        return value


@attrs.define
class _RowPrinter:
    """Printer of finished rows, which saves their files."""

    out: str | None
    as_json: bool
    is_several: bool  # several servers may use the same file names
    shown: set[int] = attrs.field(factory=set, init=False)
    saved: set[Path] = attrs.field(factory=set, init=False)
    unsaved: list[str] = attrs.field(factory=list, init=False)  # commands that download them

    def show(self, row: SweepRow) -> None:
        """Save the files of a row that has just finished, and print it."""
        from ..batch.rows import Sweep

        self.shown.add(row.index)
        paths: list[Path] = []
        if self.out is not None:
            with saving(row.prompt_id, row.host if self.is_several else None):
                paths = Sweep([row]).save(self._template(row, self.out))
            self.saved.update(paths)
        self._print(row, paths)

    def show_known(self, row: SweepRow) -> None:
        """Print a row of an earlier call; save its files unless the earlier call did."""
        if row.index in self.shown:
            return
        paths: list[Path] = []
        if self.out is not None:
            try:
                paths = self._save_known(row, self.out)
            except (ComfyError, OSError, ValueError) as exc:
                self.unsaved.append(download_again(row.prompt_id, row.host))
                note(f"row {row.index} is of an earlier call, and not saved: {message_of(exc)}")
        self._print(row, paths)

    def _save_known(self, row: SweepRow, out: str) -> list[Path]:
        from ..batch.rows import Sweep

        template = self._template(row, out)
        paths = Sweep([row]).save(template, if_exists="skip")
        if not self.saved.isdisjoint(paths):  # the template gives several rows one name
            paths = Sweep([row]).save(template)
        self.saved.update(paths)
        return paths

    def _template(self, row: SweepRow, out: str) -> str:
        return _of_server(out, row.host) if self.is_several and row.host else _of_row(out)

    def _print(self, row: SweepRow, paths: list[Path]) -> None:
        if self.as_json:
            emit(row.to_dict())
            return
        params = " ".join(f"{name}={sent(row, name)}" for name in row.params)
        files = [os.fspath(path) for path in paths] or [
            item.url if self.is_several and item.url else item.filename for item in row.result or ()
        ]
        outcome = " ".join(files) if row.error is None else f"Error: {row.error}"
        say(f"{row.index} {params}: {outcome}")
