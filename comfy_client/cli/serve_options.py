"""The options of ``comfy-client serve``, and the embedded server that they make.

:data:`_OPTIONS` is the table of all.  An option whose name an argument of
:class:`~comfy_client.testing.ComfyServer` has needs no more than its line there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import click

from .decorators import Decorator, Finite, complete_files, number_of_bytes, seconds_option
from .exits import Mistake
from .fault_text import activate, parse_fault

if TYPE_CHECKING:
    from ..testing import ComfyServer

#: The versions of the embedded server, and the hosted servers that it plays, listed here as
#: importing it takes a while.
VERSIONS: Final = ("0.3.75", "0.8", "new")
PLACES: Final = ("proxy", "serverless", "cloud")
#: The arguments of ``ComfyServer.replay``.
_OF_REPLAY: Final = ("path", "pace", "port", "host", "tls", "prefix", "allowed_hosts")


def _size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    try:
        return None if value is None else number_of_bytes(value)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from None


def _folder(name: str, help: str, *, exists: bool = False) -> Decorator:
    kind = click.Path(file_okay=False, exists=exists, path_type=Path)
    return click.option(name, metavar="DIR", type=kind, help=help)


def _file(name: str, help: str) -> Decorator:
    return click.option(name, metavar="FILE", shell_complete=complete_files, help=help)


def _several(name: str, metavar: str, help: str) -> Decorator:
    return click.option(name, metavar=metavar, multiple=True, help=f"{help}  Repeatable.")


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
        default="0.3.75",
        show_default=True,
        help="Version of ComfyUI to imitate.",
    ),
    click.option(
        "--hosted",
        type=click.Choice(PLACES),
        help="Play a hosted server, with Comfy API v2.  A login is a key then.",
    ),
    # What it has.
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
        shell_complete=lambda _ctx, _param, text: [
            one for one in os.environ if one.startswith(text)
        ],
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
    from ..testing import ComfyServer

    options = dict(given)
    for name in ("checkpoint", "model", "input", "output", "fault", "login_env", "login_file"):
        options.pop(name)  # for furnish, and for login_of
    options["credentials"] = login
    options["tls"] = _tls(options.pop("tls_certfile"), options.pop("tls_keyfile"))
    options["allowed_hosts"] = options.pop("allowed_host") or None
    options["previews"] = not options.pop("no_previews")
    path, pace = options.pop("replay"), options.pop("pace")
    if path is None:
        if pace is not None:
            raise Mistake("--pace is for --replay")
        kept = {name: value for name, value in options.items() if value not in (None, ())}
        return ComfyServer(**kept)
    _check_replay()
    options = {**options, "path": path, "pace": pace or 0.0}
    return ComfyServer.replay(**{name: options[name] for name in _OF_REPLAY})


def _check_replay() -> None:
    """Raise Mistake if an option was given that a server which repeats a recording ignores."""
    context = click.get_current_context()
    used = {*_OF_REPLAY, "replay", "fault", "allowed_host", "tls_certfile", "tls_keyfile"}
    default = click.core.ParameterSource.DEFAULT
    names = [param.name or "" for option in _OPTIONS for param in _made_by(option)]
    for name in names:
        if name not in used and context.get_parameter_source(name) is not default:
            raise Mistake(f"--replay executes nothing: leave out --{name.replace('_', '-')}")


def _made_by(option: Decorator) -> list[click.Parameter]:
    return getattr(option(lambda: None), "__click_params__", [])


def furnish(server: ComfyServer, given: Mapping[str, Any]) -> None:
    """Give a running server the files and the faults of the options."""
    for name in given["checkpoint"]:
        _touch(server.root / "models/checkpoints", name, "--checkpoint")
    for name in given["model"]:
        if "/" not in name.strip("/"):
            raise Mistake(f"--model {name}: write FOLDER/NAME, such as loras/{name}")
        _touch(server.root / "models", name, "--model")
    if given["input"] is not None:
        shutil.copytree(given["input"], server.root / "input", dirs_exist_ok=True)
    if given["output"] is not None:
        _link(server.root / "output", given["output"])
    for text in given["fault"]:
        activate(server.faults, parse_fault(text))


def _touch(folder: Path, name: str, option: str) -> None:
    path = Path(os.path.normpath(folder / name))
    if not path.is_relative_to(folder) or path == folder or "\0" in name:
        raise Mistake(f"{option} {name!r} is not the name of a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


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


def _tls(certificate: str | None, key: str | None) -> tuple[str, str] | None:
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
