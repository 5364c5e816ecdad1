"""The options of ``comfy-client serve``, and the embedded server that they make.

:data:`_OPTIONS` is the table of all.  An option whose name an argument of
:class:`~comfy_client.testing.ComfyServer` has needs no more than its line there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import click

from .decorators import Decorator, Finite, complete_files, number_of_bytes, seconds_option
from .exits import Mistake, message_of
from .fault_text import activate, parse_fault

if TYPE_CHECKING:
    from ..testing import ComfyServer

#: The versions of the embedded server, and the hosted servers that it plays, listed here as
#: importing it takes a while.
VERSIONS: Final = ("0.3.75", "0.28", "0.33")
PLACES: Final = ("proxy", "serverless", "cloud")
#: What ``--models`` and ``--inputs`` may say, as the server has it.
_MODELS: Final = ("any", "recorded", "touched")
_INPUTS: Final = ("placeholder", "real")
_IDS: Final = ("random", "counter")
_PACKS: Final = ("manager4", "manager4-legacy", "manager3", "crystools")
#: Options of a server that repeats a recording.
_WITH_REPLAY: Final = (
    *("replay", "pace", "fault", "host", "port", "prefix", "allowed_host"),
    *("tls_certfile", "tls_keyfile", "control", "control_port", "control_token_env"),
)
#: Options that are no arguments of the server as they are.
_APART: Final = (
    *("nodes", "checkpoint", "model", "input", "output", "fault"),  # for ``furnish``
    *("login_env", "login_file", "tls_certfile", "tls_keyfile", "replay", "pace"),
    *("control", "control_port", "control_token_env"),
)
#: Other names of folders with models.
_OTHER_FOLDERS: Final = {
    "clip": "text_encoders",
    "unet": "diffusion_models",
    "t2i_adapter": "controlnet",
}


def _size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    try:
        return None if value is None else number_of_bytes(value)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from None


def _pairs(ctx: click.Context, param: click.Parameter, value: Sequence[str]) -> dict[str, Any]:
    """Return ``NAME=VALUE`` as a mapping, with values that are JSON decoded."""
    found = {}
    for text in value:
        name, equals, shown = text.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{text!r}: write NAME=VALUE")
        try:
            found[name] = json.loads(shown)
        except (ValueError, RecursionError):
            found[name] = shown
    return found


def _seconds(ctx: click.Context, param: click.Parameter, value: Sequence[str]) -> dict[str, float]:
    """Return ``CLASS=SECONDS`` as a mapping."""
    found = _pairs(ctx, param, value)
    for name, seconds in found.items():
        if (
            isinstance(seconds, bool)
            or not isinstance(seconds, int | float)
            or not 0 <= seconds < inf
        ):
            raise click.BadParameter(f"{name}={seconds}: seconds are a number, 0 or more")
    return found


def _definitions(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not Path(value).is_file():
        from ..testing.definitions import SHIPPED

        if value not in SHIPPED:
            versions = ", ".join(SHIPPED)
            raise click.BadParameter(f"there is no file {value!r}; the versions are {versions}")
    return value


def _page(ctx: click.Context, param: click.Parameter, value: str) -> bool | str:
    return {"auto": True, "none": False}.get(value, value)


def _folder(name: str, help: str, *, exists: bool = False) -> Decorator:
    kind = click.Path(file_okay=False, exists=exists, path_type=Path)
    return click.option(name, metavar="DIR", type=kind, help=help)


def _file(name: str, help: str) -> Decorator:
    return click.option(name, metavar="FILE", shell_complete=complete_files, help=help)


def _several(name: str, metavar: str, help: str, **settings: Any) -> Decorator:
    text = f"{help}  Repeatable."
    return click.option(name, metavar=metavar, multiple=True, help=text, **settings)


def _environment(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in os.environ if name.startswith(incomplete)]


_OPTIONS: Final[tuple[Decorator, ...]] = (
    click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on."),
    click.option(
        "--port",
        type=click.IntRange(0, 65535),
        default=8188,
        show_default=True,
        help="Port to listen on; 0 takes a free one.",
    ),
    click.option(
        "--version",
        type=click.Choice(VERSIONS),
        help="Version of ComfyUI to imitate.  Default: that of --object-info, else 0.28.",
    ),
    click.option(
        "--hosted",
        type=click.Choice(PLACES),
        help="Play a hosted server, with Comfy API v2.  A login is a key then.",
    ),
    # What it knows and has.
    click.option(
        "--object-info",
        metavar="FILE|VERSION",
        callback=_definitions,
        shell_complete=complete_files,
        help="Node classes besides those for pictures: of ComfyUI 0.3.75, 0.28.1 or 0.33.0, or in a"
        " file of comfy-client object-info.  Stand-ins run in their place.",
    ),
    _several(
        "--nodes",
        "FILE",
        "Python file or folder of a pack with node classes, which must not need torch.",
        shell_complete=complete_files,
    ),
    _several(
        "--pack",
        "NAME",
        "Node pack with routes of its own, as ComfyUI-Manager or Crystools.",
        type=click.Choice(_PACKS),
    ),
    click.option("--any-node", is_flag=True, help="Accept node classes that nothing knows, too."),
    click.option(
        "--models",
        type=click.Choice(_MODELS),
        help="Model files that are accepted: any, those of --object-info, or those in the folders."
        "  Default: any with --object-info, else touched.",
    ),
    click.option(
        "--inputs",
        type=click.Choice(_INPUTS),
        help="What is in place of a missing input file.  Default: placeholder with --object-info.",
    ),
    _several("--checkpoint", "NAME", "File name of a checkpoint that the server has."),
    _several("--model", "FOLDER/NAME", "Any other model, such as loras/a.safetensors."),
    _folder(
        "--input", "Folder whose files are copied into the server's input folder.", exists=True
    ),
    _folder("--output", "Folder that the server writes output files into; it is kept."),
    _folder("--root", "Folder of all the server's files; it is kept."),
    # Who may come.
    click.option(
        "--login-env",
        metavar="NAME",
        shell_complete=_environment,
        help="Environment variable with the user:password that clients must send.",
    ),
    click.option(
        "--login-file",
        metavar="FILE",
        type=click.File(encoding="utf-8"),
        help="File with the user:password, or with --hosted the key, that clients must send; - "
        "reads standard input.",
    ),
    click.option("--multi-user", is_flag=True, help="Keep settings and files by user."),
    _file("--tls-certfile", "Certificate (PEM), for https."),
    _file("--tls-keyfile", "The certificate's key.  Default: in the same file."),
    click.option("--prefix", default="", metavar="PATH", help="Path of all routes, as /comfy."),
    _several(
        "--allowed-host",
        "NAME",
        "Host name that clients may use, such as that of a proxy; * allows any.",
    ),
    _several(
        "--cors", "ORIGIN", "Origin whose pages may use it, as http://localhost:5173; * for all."
    ),
    click.option(
        "--max-upload-size",
        metavar="SIZE",
        callback=_size,
        help="Largest request body, such as 10M.  Default: 100M.",
    ),
    # How it behaves.
    click.option("--no-previews", is_flag=True, help="Send no previews."),
    seconds_option(
        "--step-seconds",
        "How long a step of the simulated sampler takes.",
        default=0.02,
        show_default=True,
        zero=True,
    ),
    click.option(
        "--speed",
        metavar="FACTOR",
        type=Finite(min=0, min_open=True),
        default=1.0,
        show_default=True,
        help="Factor by which steps, nodes and the lead are shorter.",
    ),
    seconds_option(
        "--lead", "How long a prompt runs before its execution_start.", default=0.0, zero=True
    ),
    click.option(
        "--clock",
        metavar="TIME",
        help="Time of day at the start, as 2026-12-01T09:30:00Z, for the same times in each run.",
    ),
    click.option(
        "--ids",
        type=click.Choice(_IDS),
        default="random",
        show_default=True,
        help="Ids that the server chooses: random ones, or the same in each run.",
    ),
    _several("--node-seconds", "CLASS=SECONDS", "How long a class takes.", callback=_seconds),
    click.option(
        "--frontend",
        metavar="auto|none|DIR",
        default="none",
        show_default=True,
        callback=_page,
        shell_complete=complete_files,
        help="ComfyUI's page: as the extra [frontend] installs it, or in a folder.",
    ),
    _several("--setting", "NAME=VALUE", "Setting with which the page begins.", callback=_pairs),
    click.option("--control", is_flag=True, help="Let programs control it over HTTP."),
    click.option(
        "--control-port",
        type=click.IntRange(0, 65535),
        help="Port of --control.  Default: any free one.",
    ),
    click.option(
        "--control-token-env",
        metavar="NAME",
        shell_complete=_environment,
        help="Environment variable with the token that calls of --control must have; they may come"
        " from other machines then.",
    ),
    _several("--fault", "NAME(...)", "A fault, such as 'cut(POST, /prompt, ran=true, times=1)'."),
    _file("--replay", "Recording to repeat: it executes nothing."),
    click.option(
        "--pace",
        metavar="FACTOR",
        type=Finite(min=0),
        help="Factor for the pauses of --replay.  Default: 0, no pauses.",
    ),
)


def of_embedded_server(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of an embedded server to a command, which passes them to :func:`make`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def make(given: Mapping[str, Any], login: tuple[str, str] | str | None) -> ComfyServer:
    """Make the embedded server of these options, which is not running yet."""
    control = _control(given)
    if given["replay"] is None and given["pace"] is not None:
        raise Mistake("--pace is for --replay")
    try:
        return (
            _made(given, control, login) if given["replay"] is None else _replayed(given, control)
        )
    except (ValueError, OSError) as exc:  # an option has a wrong value, or names no such file
        raise Mistake(message_of(exc)) from exc


def _made(
    given: Mapping[str, Any],
    control: Mapping[str, Any],
    login: tuple[str, str] | str | None,
) -> ComfyServer:
    from ..testing import ComfyServer

    options = {name: value for name, value in given.items() if name not in _APART}
    options["credentials"] = login
    options["tls"] = _tls(given)
    options["allowed_hosts"] = options.pop("allowed_host")
    options["previews"] = not options.pop("no_previews")
    options["settings"] = options.pop("setting")
    options["packs"] = options.pop("pack")
    options["nodes"] = "any" if options.pop("any_node") else "known"
    options = {name: value for name, value in options.items() if value not in (None, ())}
    server = ComfyServer(**{**options, **control})
    for path in given["nodes"]:
        _load_nodes(server, path)
    return server


def _load_nodes(server: ComfyServer, path: str) -> None:
    """Load a file with node classes; what it prints goes to stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        try:
            server.load_nodes(path)
        except ImportError as exc:
            raise Mistake(f"--nodes: {exc}") from exc


def _replayed(given: Mapping[str, Any], control: Mapping[str, Any]) -> ComfyServer:
    """Make a server that repeats a recording; raise Mistake for options that it would ignore."""
    from ..testing import ComfyServer

    context = click.get_current_context()
    for name in given.keys() - {*_WITH_REPLAY}:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise Mistake(f"--replay executes nothing: leave out --{name.replace('_', '-')}")
    return ComfyServer.replay(
        given["replay"],
        pace=given["pace"] or 0.0,
        port=given["port"],
        host=given["host"],
        tls=_tls(given),
        prefix=given["prefix"],
        allowed_hosts=given["allowed_host"] or None,
        **control,
    )


def _control(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments for the control; raise Mistake for options of none."""
    port, variable = given["control_port"], given["control_token_env"]
    if not given["control"]:
        for name, value in (("port", port), ("token-env", variable)):
            if value is not None:
                raise Mistake(f"--control-{name} is for --control")
        return {}
    token = None if variable is None else os.environ.get(variable, "").strip()
    if token == "":
        raise Mistake(f"the variable {variable} does not hold a token")
    return {"control": port or True, "control_token": token}


def furnish(server: ComfyServer, given: Mapping[str, Any]) -> None:
    """Give a running server the files and the faults of the options."""
    for name in given["checkpoint"]:
        _add_model(server, "--checkpoint", "checkpoints", name)
    for text in given["model"]:
        folder, slash, name = text.partition("/")
        if not slash:
            raise Mistake(f"--model {text!r}: write FOLDER/NAME, such as loras/detail.safetensors")
        _add_model(server, "--model", _OTHER_FOLDERS.get(folder, folder), name)
    if given["input"] is not None:
        shutil.copytree(given["input"], server.root / "input", dirs_exist_ok=True)
    if given["output"] is not None:
        _link(server.root / "output", given["output"])
    for text in given["fault"]:
        activate(server.faults, parse_fault(text))
    server.mark_start()


def _add_model(server: ComfyServer, option: str, folder: str, name: str) -> None:
    try:
        server.add_models(folder, name)
    except ValueError as exc:
        raise Mistake(f"{option}: {exc}") from exc


def _link(path: Path, target: Path) -> None:
    """Put a link to a folder, which is made if missing, in the place of an empty folder."""
    target.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        path.unlink()
    else:
        try:
            path.rmdir()
        except OSError as exc:
            raise Mistake(f"--output: --root has files in {path} already") from exc
    path.symlink_to(target.resolve(), target_is_directory=True)


def _tls(given: Mapping[str, Any]) -> tuple[str, str] | None:
    certificate, key = given["tls_certfile"], given["tls_keyfile"]
    if key and not certificate:
        raise Mistake("--tls-keyfile is the key to a --tls-certfile; give both")
    return (certificate, key or certificate) if certificate else None


def login_of(given: Mapping[str, Any]) -> tuple[str, str] | str | None:
    """Return user and password, or a key, from a variable or a file; None if neither is given.

    Unlike an option, these are not shown in the list of processes.
    """
    variable: str | None = given["login_env"]
    file: IO[str] | None = given["login_file"]
    if variable and file:
        raise Mistake("give --login-env or --login-file, not both")
    if not variable and not file:
        return None
    from .target import split_login

    text = file.readline().rstrip("\r\n") if file else os.environ.get(variable or "", "")
    where = f"the variable {variable}" if variable else "the first line of the file"
    if given["hosted"] is None:
        return split_login(text, where)
    if not (key := text.strip()):  # as clients strip it
        raise Mistake(f"{where} does not hold a key")
    return key
