"""``comfy-client serve``: the embedded server, for users without a ComfyUI."""

from __future__ import annotations

import contextlib
import os
import time
from typing import IO, TYPE_CHECKING, Any, Final

import click

from .decorators import complete_files, seconds_option
from .exits import STOPPED, Mistake
from .printing import command

if TYPE_CHECKING:
    from ..testing.hosted.traps import HostedKind

#: The versions of the embedded server, and the hosted servers that it plays, listed here as
#: importing it takes a while.
VERSIONS: Final = ("0.3.75", "0.8", "new")
PLACES: Final = ("proxy", "serverless", "cloud")


@command(
    "comfy-client serve",
    "comfy-client serve --port 0 --login-file login.txt",
    "comfy-client serve --hosted proxy --port 8189",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8188,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--version",
    type=click.Choice(VERSIONS),
    default="0.3.75",
    show_default=True,
    help="Version of ComfyUI to imitate.",
)
@click.option(
    "--hosted",
    type=click.Choice(PLACES),
    help="Play a hosted server, with Comfy API v2.  A login is a key then.",
)
@click.option(
    "--login-env",
    metavar="NAME",
    shell_complete=lambda _ctx, _param, text: [one for one in os.environ if one.startswith(text)],
    help="Environment variable with the user:password that clients must send.",
)
@click.option(
    "--login-file",
    metavar="FILE",
    type=click.File(encoding="utf-8"),
    help="File with the user:password, or with --hosted the key, that clients must send; - reads "
    "standard input.",
)
@click.option("--multi-user", is_flag=True, help="Keep settings and files by user.")
@click.option(
    "--tls-certfile",
    metavar="FILE",
    shell_complete=complete_files,
    help="Certificate (PEM), for https.",
)
@click.option(
    "--tls-keyfile",
    metavar="FILE",
    shell_complete=complete_files,
    help="The certificate's key.  Default: in the same file.",
)
@click.option("--prefix", default="", metavar="PATH", help="Path of all routes, such as /comfy.")
@click.option(
    "--allowed-host",
    "allowed_hosts",
    metavar="NAME",
    multiple=True,
    help="Host name that clients may use, such as that of a proxy; * allows any.",
)
@click.option("--no-previews", is_flag=True, help="Send no previews.")
@seconds_option(
    "--step-seconds",
    "How long a step of the simulated sampler takes.",
    default=0.02,
    show_default=True,
    zero=True,
)
def serve(
    login_env: str | None,
    login_file: IO[str] | None,
    tls_certfile: str | None,
    tls_keyfile: str | None,
    allowed_hosts: tuple[str, ...],
    no_previews: bool,
    hosted: HostedKind | None,
    **options: Any,
) -> None:
    """Run an embedded ComfyUI until Ctrl-C, SIGTERM or SIGHUP.

    The first line on stdout is its URL.  It executes workflows of ComfyUI's own nodes for
    pictures; sampling is simulated.  Its files are in a temporary folder, which is deleted at the
    end.
    """
    from ..testing import ComfyServer

    if tls_keyfile and not tls_certfile:
        raise Mistake("--tls-keyfile is the key to a --tls-certfile; give both")
    server = ComfyServer(
        credentials=_login(login_env, login_file, is_key=hosted is not None),
        hosted=hosted,
        tls=(tls_certfile, tls_keyfile or tls_certfile) if tls_certfile else None,
        allowed_hosts=allowed_hosts or None,
        previews=not no_previews,
        **options,
    )
    with contextlib.suppress(*STOPPED), contextlib.ExitStack() as stack:
        stack.callback(server.stop)  # a signal may come during the start
        server.start()
        click.echo(server.url)
        click.echo("An embedded ComfyUI runs there; its sampler is simulated.")
        if hosted:
            click.echo("It speaks Comfy API v2: other commands need --hosted.")
        click.echo("Press Ctrl-C to stop it.")
        while True:  # in slices: a signal to another thread does not end a sleep
            time.sleep(0.5)


def _login(
    variable: str | None, file: IO[str] | None, *, is_key: bool
) -> tuple[str, str] | str | None:
    """Return user and password, or a key, from a variable or a file; None if neither is given.

    Unlike an option, these are not shown in the list of processes.
    """
    if variable and file:
        raise Mistake("give --login-env or --login-file, not both")
    if not variable and not file:
        return None
    from .target import split_login

    text = file.readline().rstrip("\r\n") if file else os.environ.get(variable or "", "")
    where = f"the variable {variable}" if variable else "the first line of the file"
    if not is_key:
        return split_login(text, where)
    if not (key := text.strip()):  # as clients strip it
        raise Mistake(f"{where} does not hold a key")
    return key
