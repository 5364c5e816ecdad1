"""The group of all commands, ``comfy-client``, and how they end (extra ``[cli]``)."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

import click

from .._version import __version__
from ..errors import ComfyError
from . import (
    check_command,
    mcp_command,
    pack_commands,
    prompt_commands,
    raw_commands,
    run_command,
    serve_command,
    server_commands,
    skill_command,
    sweep_command,
    watch_command,
    workflow_commands,
)
from .exits import STOPPED, Exit
from .printing import command, emit, end_stdout, log_more, plain_logs, report, safe_streams
from .server_options import ServerOptions, of_servers, with_json
from .stop_signals import ending_as_by_ctrl_c

# -- commands that describe the others --------------------------------------------------


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    group = ctx.find_root().command
    names = group.list_commands(ctx) if isinstance(group, click.Group) else []
    return [name for name in names if name.startswith(incomplete)]


@command("comfy-client help", "comfy-client help run", name="help")
@click.argument("command", metavar="[COMMAND]", required=False, shell_complete=_complete)
@click.pass_context
def show_help(ctx: click.Context, command: str | None) -> None:
    """Show the help of a command, or the list of all commands."""
    root = ctx.find_root()
    group = root.command
    if command is None or not isinstance(group, click.Group):
        click.echo(root.get_help())
        return
    _, found, _ = group.resolve_command(root, [command])  # or UsageError, with the nearest
    if found is None:
        return
    with click.Context(found, info_name=command, parent=root) as below:
        click.echo(found.get_help(below))


@command("comfy-client schema", "comfy-client schema --classes")
@click.option("--classes", is_flag=True, help="Print the schema of classes instead.")
@with_json
def schema(given: ServerOptions, classes: bool) -> None:
    """Print the JSON Schema of what commands print with --json."""
    from importlib.resources import files

    name = "schema.json" if classes else "commands.json"
    text = (files("comfy_client") / name).read_text("utf-8")
    if given.json:
        emit(json.loads(text))
    else:
        click.echo(text.rstrip("\n"))


# -- the group --------------------------------------------------------------------------

_SECTIONS: Final[dict[str, tuple[click.Command, ...]]] = {
    "Run workflows": (
        run_command.run,
        run_command.rerun,
        sweep_command.sweep,
        workflow_commands.inputs,
        check_command.check,
        workflow_commands.convert,
    ),
    "Jobs": (
        watch_command.watch,
        prompt_commands.queue,
        prompt_commands.history,
        prompt_commands.job,
        prompt_commands.cancel,
        prompt_commands.download,
    ),
    "The server": (
        server_commands.info,
        watch_command.wait,
        server_commands.models,
        server_commands.nodes,
        server_commands.upload,
        server_commands.free,
        server_commands.logs,
        server_commands.doctor,
        server_commands.where,
        raw_commands.call,
    ),
    "Node packs, by ComfyUI-Manager": (
        pack_commands.packs,
        pack_commands.snapshot,
        pack_commands.restart,
    ),
    "Getting started, and for programs": (
        run_command.demo,
        workflow_commands.example,
        serve_command.serve,
        mcp_command.mcp,
        workflow_commands.stubs,
        raw_commands.object_info,
        schema,
        skill_command.skill,
        show_help,
    ),
}

_EPILOG: Final = """\
Exit status: 0 done, 1 other errors, 2 wrong usage, 3 unreachable, 4 rejected, 5 failed, 6 lost,
7 timeout, 8 not authorised, 130 stopped, 141 nobody reads the output.

\b
Completion with the Tab key, in ~/.bashrc, ~/.zshrc, the configuration of fish, or $PROFILE:
  eval "$(_COMFY_CLIENT_COMPLETE=bash_source comfy-client)"
  eval "$(_COMFY_CLIENT_COMPLETE=zsh_source comfy-client)"
  _COMFY_CLIENT_COMPLETE=fish_source comfy-client | source
  $env:_COMFY_CLIENT_COMPLETE = "powershell_source"
  comfy-client | Out-String | Invoke-Expression; Remove-Item Env:_COMFY_CLIENT_COMPLETE
"""


class Commands(click.Group):
    """The group of all commands, which exits with a status of :class:`Exit`."""

    def main(  # type: ignore[override]  # click's returns differ by an argument
        self, args: Sequence[str] | None = None, *more: Any, **options: Any
    ) -> None:
        """Run the command with these arguments, and exit with its status."""
        with safe_streams():
            sys.exit(self._status(sys.argv[1:] if args is None else args, *more, **options))

    def _status(self, args: Sequence[str], *more: Any, **options: Any) -> int:
        options["standalone_mode"] = False
        if "_COMFY_CLIENT_COMPLETE" in os.environ:
            from .shells import register

            register()
        try:
            status = super().main(list(args), *more, **options)
            return status if isinstance(status, int) else Exit.DONE
        except BrokenPipeError:
            raise  # a closed pipe: click exits quietly
        except (
            click.ClickException,
            *STOPPED,
            ComfyError,
            ModuleNotFoundError,
            OSError,
            ValueError,
        ) as exc:
            return report(exc, "--json" in args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the chosen command."""
        with ending_as_by_ctrl_c(), plain_logs():
            log_more(ctx.ensure_object(ServerOptions).verbose)
            try:
                return super().invoke(ctx)
            except BrokenPipeError:
                return end_stdout()
            # Here, as hints name the command's servers; click prints an empty line if stopped.
            except (*STOPPED, ComfyError) as exc:
                return report(exc, ctx.ensure_object(ServerOptions).json)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands, grouped by purpose, into the help text."""
        width = formatter.width - 6 - max(map(len, self.commands))
        for title, commands in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(one.name or "", one.get_short_help_str(width)) for one in commands]
                )


@click.group(
    cls=Commands,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__)
@of_servers
def main(given: ServerOptions) -> None:
    """Run workflows on a ComfyUI server, and look after it.

    The options below may stand before or after the command.  Each command shows examples:
    comfy-client run --help
    """
    name = click.get_current_context().invoked_subcommand
    command = main.commands.get(name or "")
    if given.json and command and all(one.name != "json" for one in command.params):
        raise click.UsageError(f"{name} prints no JSON")


for _commands in _SECTIONS.values():
    for _command in _commands:
        main.add_command(_command)
