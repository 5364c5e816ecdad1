"""``comfy-client mcp``: workflows as tools of an agent, on stdin and stdout or over HTTP."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ..errors import needs_extra
from .exits import Mistake
from .extra_data import prompt_options
from .own_prompts import KEY, mark, reserved, why_unknown
from .printing import command, note
from .prompt_records import is_hosted
from .server_options import ServerOptions, of_server_as_text
from .workflow_source import LazyServer

if TYPE_CHECKING:
    from ..workflow import Workflow

#: The environment variable with the token for HTTP.
VARIABLE: Final = "COMFY_MCP_TOKEN"
#: Seconds that the server may take for an answer: an agent's call ends after 54.
_LIMIT: Final = 20.0
#: The addresses on which the protocol's library checks the headers Host and Origin.
_HOSTS: Final = ("127.0.0.1", "::1")
#: The fewest characters of a token.
_SHORTEST_TOKEN: Final = 16


def _address(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    """Parse ``[HOST:]PORT``, where HOST is a loopback address; return None for None."""
    if value is None:
        return None
    host, _, port = value.rpartition(":")
    host = {"": "127.0.0.1", "localhost": "127.0.0.1"}.get(host, host).strip("[]")
    if not (port.isascii() and port.isdecimal() and len(port) < 6 and int(port) < 1 << 16):
        raise click.BadParameter(f"{value!r} is not [HOST:]PORT")
    if host not in _HOSTS:
        raise click.BadParameter(f"HOST may be {' or '.join(_HOSTS)}, addresses of this machine")
    return host, int(port)


@command(
    "comfy-client mcp workflows/",
    "comfy-client mcp workflows/ pictures/ --tools --host http://gpu-box:8188",
    "comfy-client mcp workflows/ --http 8190",
)
@click.argument(
    "folders",
    metavar="[FOLDER]...",
    nargs=-1,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)
@click.option(
    "--http",
    "address",
    metavar="[HOST:]PORT",
    callback=_address,
    help=f"Serve HTTP on this machine, instead of stdin and stdout.  Requests need the token in "
    f"{VARIABLE}; unless that is set, one is made up and printed.",
)
@click.option("--tools", is_flag=True, help="Make each workflow a tool too, 20 at most.")
@click.option("--allow-spend", is_flag=True, help="Let nodes run that call paid services.")
@of_server_as_text
def mcp(
    given: ServerOptions,
    /,
    folders: tuple[Path, ...],
    address: tuple[str, int] | None,
    tools: bool,
    allow_spend: bool,
) -> None:
    """Let agents run workflows, by the Model Context Protocol.

    FOLDERs have the workflows, and the files that may be uploaded; an agent can name no others.  A
    program such as Claude Desktop or an editor starts this command.  When it ends, prompts go on;
    the tools server and job find them.
    """
    with needs_extra("mcp", "comfy-client mcp"):
        from ..mcp.protocol import Door, serve_http, serve_stdio
        from ..mcp.roots import Roots
        from ..mcp.runs import AgentOptions

    own = {KEY: mark()[KEY]}
    why_not = why_unknown()
    if why_not is not None:
        note(f"a later session will not find the prompts of this one: {why_not}")
    with given.client(_LIMIT) as api:
        if is_hosted(api):
            raise Mistake("comfy-client mcp needs a ComfyUI, not a hosted server")

        def more(workflow: Workflow) -> Mapping[str, Any]:
            return prompt_options({}, workflow, LazyServer(lambda: api))

        options = AgentOptions(own, allow_spend=allow_spend, more=more, reserved=reserved)
        door = Door(api, Roots(folders), options, with_own_tools=tools)
        try:
            if address is None:
                serve_stdio(door)
            else:
                serve_http(door, address, _token(), note)
        finally:
            door.close()


def _token() -> str:
    """Return the token for HTTP; if none is given, make one up and print it."""
    given = os.environ.get(VARIABLE, "").strip()
    if not given:
        given = secrets.token_urlsafe(32)
        note(f"{VARIABLE}={given}")
    if len(given) < _SHORTEST_TOKEN or not given.isascii() or not given.isprintable():
        raise Mistake(f"{VARIABLE} needs {_SHORTEST_TOKEN} printable ASCII characters or more")
    return given
