"""The commands about the server: ``info``, ``free``, ``logs``, ``doctor``, ``where``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final

import click

from ..errors import AuthenticationError
from .decorators import Finite
from .exits import Exit, SilentExit, message_of
from .listing import Row, print_rows
from .printing import emit, examples, gib, note, say
from .profiles import Config, load_config
from .server_options import ServerOptions, of_server, of_servers

if TYPE_CHECKING:
    from ..client import ComfyApi
    from ..doctor.report import DoctorReport
    from ..events import LogEntry
    from .target import Target


@click.command(
    epilog=examples(
        "comfy-client info",
        "comfy-client info --json | jq .devices",
        "comfy-client info --host gpu-1:8188 --host gpu-2:8188",
    )
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


@click.command(
    epilog=examples("comfy-client free", "comfy-client free --wait-vram 12 --timeout 300")
)
@click.option("--models-only", is_flag=True, help="Keep the outputs of nodes in the cache.")
@click.option(
    "--wait-vram",
    metavar="GB",
    type=Finite(min=0, min_open=True),
    help="Wait until so much memory of the first device is free (1 GB is 2**30 bytes).",
)
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=Finite(min=0),
    default=60.0,
    show_default=True,
    help="How long to wait.",
)
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


@click.command(epilog=examples("comfy-client logs --lines 50", "comfy-client logs --follow"))
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
        entries = _following(api, lines) if follow else iter(_kept(api, lines))
        for entry in entries:
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
            event = inbox.get(timeout=0.5)  # in slices, so that signals are handled
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


@click.command(
    epilog=examples(
        "comfy-client doctor",
        "comfy-client doctor --host gpu-box --run",
        "comfy-client doctor --report --record doctor.jsonl",
    )
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
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=Finite(min=0, min_open=True),
    default=30.0,
    show_default=True,
    help="How long it may take.",
)
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


@click.command(epilog=examples("comfy-client where", "comfy-client where --profile studio --json"))
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
    for label, key in (
        ("server", "host"),
        ("hosted", "hosted"),
        ("credentials", "credentials"),
        ("certificates", "ca"),
        ("insecure", "insecure"),
        ("storage", "private-storage"),
        ("partner key", "partner-key"),
        ("user", "user"),
        ("max-json", "max_json"),
        ("no-cache", "no_cache"),
    ):
        name = key.replace("_", "-")
        if found[key.replace("-", "_")] and name in server.sources:
            say(f"{label:<13} {found[key.replace('-', '_')]}  ({server.sources[name]})")
    for remark in server.remarks:
        note(remark)
    say(f"config file   {config.path}{'' if config.path.exists() else ' (not there)'}")
    names = (f"{name} (used)" if name == server.profile else name for name in config.profiles)
    say(f"profiles      {', '.join(names) or 'none'}")


def _where(server: Target, config: Config) -> dict[str, Any]:
    return {
        "host": server.host,
        "hosted": server.hosted,
        "credentials": server.kind_of_credentials,
        "ca": server.ca,
        "insecure": server.insecure,
        "private_storage": server.private_storage,
        "partner_key": server.partner_key,
        "user": server.user,
        "max_json": server.max_json,
        "no_cache": server.no_cache,
        "profile": server.profile,
        "sources": dict(server.sources),
        "config": str(config.path),
        "profiles": sorted(config.profiles),
    }
