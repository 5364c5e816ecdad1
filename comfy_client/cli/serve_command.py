"""``comfy-client serve``: the embedded server, for programs in any language."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

import click

from . import served_program
from .decorators import complete_files, seconds_option
from .exits import STOPPED, Mistake, message_of
from .printing import command, emit, note
from .serve_options import furnish, login_of, make, of_embedded_server
from .serve_watch import Watch, parent_has_ended
from .server_options import ServerOptions, with_json

if TYPE_CHECKING:
    from ..testing import ComfyServer

#: Seconds between two looks at what has come.  A signal to another thread does not end a sleep.
_PAUSE: Final = 0.1
#: What clients use in place of an address that stands for all of a machine.
_LOOPBACK: Final = {"//0.0.0.0:": "//127.0.0.1:", "//[::]:": "//[::1]:"}


@command(
    "comfy-client serve",
    "comfy-client serve --port 0 --login-file login.txt",
    "comfy-client serve --hosted proxy --port 8189",
    "comfy-client serve --object-info 0.28.1 -- npm test",
    "comfy-client serve --fault 'bad_gateway(503, times=2)' --fault 'cut(POST, /prompt, ran=true)'",
    settings={"auto_envvar_prefix": "COMFY_SERVE", "allow_interspersed_args": False},
)
@click.argument("program", metavar="[-- COMMAND [ARG]...]", nargs=-1, type=click.UNPROCESSED)
@of_embedded_server
@click.option(
    "--port-file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    shell_complete=complete_files,
    help="File that holds the port from when the server is ready until it ends.",
)
@seconds_option("--idle-timeout", "End once nobody has used the server for so long.")
@click.option("--with-parent", is_flag=True, help="End when the parent process has ended.")
@with_json
def serve(
    common: ServerOptions,
    /,
    program: tuple[str, ...],
    port_file: Path | None,
    idle_timeout: float | None,
    with_parent: bool,
    **options: Any,
) -> int | None:
    """Run an embedded ComfyUI until Ctrl-C, SIGTERM or SIGHUP.

    With COMMAND, it runs until that has ended.

    The first line on stdout is its URL, once it is ready; with --json an object, and another one
    for each request and prompt.  It executes workflows of ComfyUI's own nodes for pictures, and
    those of other nodes with --object-info; sampling is simulated.  Its files are in a temporary
    folder, which is deleted at the end.

    COMMAND has the URL in COMFYUI_HOST, with --hosted in COMFY_BASE_URL, and that of --control in
    COMFYUI_CONTROL.  It gets the signals, and its exit status is that of serve.

    Each option may be given in the environment, such as --port as COMFY_SERVE_PORT; an option that
    may be repeated has values between spaces there.
    """
    words = served_program.found(program) if program else []
    is_orphan = parent_has_ended() if with_parent else bool
    login = login_of(options)
    server = make(options, login)
    lines = sys.stdout if common.json else None
    with contextlib.suppress(*() if words else STOPPED), contextlib.ExitStack() as stack:
        if common.json or words:  # stdout is not for what nodes print
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        stack.callback(server.stop)  # a signal may come during the start
        server.start()
        furnish(server, options)
        url = _reachable(server.url)
        control = _reachable(server.control_url) if options["control"] else None
        if port_file is not None:
            stack.enter_context(_holding(port_file, server.port))
        _say_ready(server, url, control, lines=lines, runs=bool(words))
        watch = Watch(server, lines=lines, idle_timeout=idle_timeout)

        def is_over() -> bool:
            return watch.is_over() or is_orphan()

        if words:
            variables = _variables(url, control, login, is_hosted=server.hosted is not None)
            return served_program.run(words, variables, is_over)
        while not is_over():
            time.sleep(_PAUSE)
    return None


def _reachable(url: str) -> str:
    """Return a URL of the server for a client on this machine."""
    for anywhere, here in _LOOPBACK.items():
        url = url.replace(anywhere, here, 1)
    return url


def _say_ready(
    server: ComfyServer, url: str, control: str | None, *, lines: TextIO | None, runs: bool
) -> None:
    """Say where the server is: a line of JSON, or on stderr if the stdout is that of a program."""
    if lines is not None:
        ready = {"event": "ready", "url": url, "pid": os.getpid(), "port": server.port}
        emit({**ready, "root": str(server.root), "control": control}, lines)
    elif runs:
        note(f"An embedded ComfyUI runs at {url}")
    else:
        click.echo(url)
        click.echo("An embedded ComfyUI runs there; its sampler is simulated.")
        if server.hosted:
            click.echo("It speaks Comfy API v2: other commands need --hosted.")
        if control:
            click.echo(f"It is controlled at {control}")
        click.echo("Press Ctrl-C to stop it.")


@contextlib.contextmanager
def _holding(path: Path, port: int) -> Iterator[None]:
    """Context manager: let a file hold the port, which others find whole or not at all."""
    from ..transport.local_files import write_atomically

    try:
        write_atomically(path, [f"{port}\n".encode()], if_exists="overwrite", through=True)
    except OSError as exc:
        raise Mistake(f"--port-file: {message_of(exc)}") from exc
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _variables(
    url: str, control: str | None, login: tuple[str, str] | str | None, *, is_hosted: bool
) -> dict[str, str]:
    """Return the variables by which a program finds the server, and may use it."""
    found = {"COMFY_BASE_URL" if is_hosted else "COMFYUI_HOST": url}
    if control is not None:
        found["COMFYUI_CONTROL"] = control
    if isinstance(login, tuple):
        found["COMFYUI_LOGIN"] = ":".join(login)
    elif login is not None:
        found["COMFY_API_KEY"] = login
    return found
