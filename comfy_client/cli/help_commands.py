"""The commands that describe the others: ``help`` and ``schema``."""

from __future__ import annotations

import json

import click

from .printing import command, emit
from .server_options import ServerOptions, with_json


def _commands(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[str]:  # for completion
    group = ctx.find_root().command
    names = group.list_commands(ctx) if isinstance(group, click.Group) else []
    return [name for name in names if name.startswith(incomplete)]


@command("comfy-client help", "comfy-client help run", name="help")
@click.argument("command", metavar="[COMMAND]", required=False, shell_complete=_commands)
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
