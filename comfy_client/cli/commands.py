"""The command line, ``comfy-client``, and its commands; the extra ``[cli]``."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import secrets
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, ParamSpec, get_args

import click

from .._version import __version__
from ..client import ComfyApi
from ..credentials import EnvCredentials
from ..errors import AuthenticationError, ComfyError, JobTimeout
from ..events import PreviewEvent, Progress
from ..jobs.result import Result
from ..testing.versions import Version
from ..transport.decode import sniff
from ..transport.failures import one_line
from ..transport.files import write_atomically
from ..transport.url import parse_host
from ..workflow import Workflow
from ..workflow.graph import listing

#: Environment variables that a server's credentials are taken from, and what they hold.
_SECRETS = {"COMFY_TOKEN": "bearer", "COMFY_LOGIN": "basic"}
#: And to which server they go; to the one that is named, if that is not set.
_HOST = "COMFY_HOST"
_INTERRUPTED = 130  # exit status, as shells have it

#: Values for inputs of the demo's workflow, by node and name.
_Inputs = dict[tuple[str, str], str | int]

_Options = ParamSpec("_Options")
_LOGIN_ADVICE = "(here: COMFY_LOGIN=user:password or COMFY_TOKEN=... in the environment)"


def _plainly(command: Callable[_Options, None]) -> Callable[_Options, None]:
    """End a command that fails with one line on stderr instead of a traceback."""

    @functools.wraps(command)
    def run(*args: _Options.args, **options: _Options.kwargs) -> None:
        try:
            with _plain_logs():
                command(*args, **options)
        except BrokenPipeError:
            raise  # nobody reads what we say, which click ends quietly
        except AuthenticationError as exc:
            raise click.ClickException(f"{_one_line(str(exc))} {_LOGIN_ADVICE}") from exc
        except (ComfyError, ModuleNotFoundError, OSError, ValueError) as exc:
            raise click.ClickException(_one_line(str(exc))) from exc
        except KeyboardInterrupt:
            raise click.exceptions.Exit(_INTERRUPTED) from None

    return run


class _PlainLogs(logging.Handler):
    """Warnings of the library on stderr, without characters that a terminal obeys."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(BrokenPipeError):
            for line in self.format(record).splitlines():
                click.echo(one_line(line), err=True)


@contextlib.contextmanager
def _plain_logs() -> Iterator[None]:
    handler = _PlainLogs(logging.WARNING)
    logger = logging.getLogger("comfy_client")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@contextlib.contextmanager
def _ending_as_by_ctrl_c() -> Iterator[None]:
    """In here SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does."""
    ends = (getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP"))  # not all on Windows
    # What is ignored stays so: that is how nohup keeps a command from ending.
    known = {end: signal.getsignal(end) for end in ends if end}
    before = {end: handler for end, handler in known.items() if handler is not signal.SIG_IGN}
    for end in before:
        signal.signal(end, signal.default_int_handler)
    try:
        yield
    finally:
        for end, handler in before.items():
            signal.signal(end, handler)


def _one_line(text: str) -> str:
    """One line without error numbers and without characters that a terminal obeys."""
    text = re.sub(r"^\[Errno \d+\] ", "", text)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Try the client for ComfyUI from the command line."""


# -- demo -------------------------------------------------------------------------------


@main.command()
@click.option("--host", metavar="URL", help="The ComfyUI to use instead of the embedded one.")
@click.option(
    "--prompt",
    metavar="TEXT",
    default="a lighthouse at dusk, waves, warm light",
    show_default=True,
    help="What the picture shows.",
)
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), help="Default: random.")
@click.option(
    "--size",
    type=click.IntRange(64, 2048),
    default=512,
    show_default=True,
    help="Width and height in pixels; each model has sizes that suit it.",
)
@click.option("--checkpoint", metavar="NAME", help="Default: the first one of the server.")
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Folder for the pictures.  Default: the current one.",
)
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    help="How long it may take.  Default: no limit.",
)
@_plainly
def demo(
    host: str | None,
    prompt: str,
    seed: int | None,
    size: int,
    checkpoint: str | None,
    output: Path,
    timeout: float | None,
) -> None:
    """Make a picture from text, and show the Python code for it.

    Runs on an embedded ComfyUI, whose sampler is simulated, or with --host on a real one.
    Credentials are taken from the URL, or from the environment: a token in COMFY_TOKEN, or
    user:password in COMFY_LOGIN.  They are sent to the server that --host names; if COMFY_HOST
    is set, to that server only.
    """
    output.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_ending_as_by_ctrl_c())
        api = _connected(host, stack)
        inputs: _Inputs = {
            ("Positive prompt", "text"): prompt,
            ("CheckpointLoaderSimple", "ckpt_name"): _checkpoint(api, checkpoint),
            ("EmptyLatentImage", "width"): size,
            ("EmptyLatentImage", "height"): size,
            ("KSampler", "seed"): secrets.randbelow(2**32) if seed is None else seed,
        }
        workflow = Workflow.example()
        for (node, name), value in inputs.items():
            workflow[node][name] = value
        click.echo(_one_line(f"checkpoint: {workflow['CheckpointLoaderSimple']['ckpt_name']}"))
        result, preview = _run(api, workflow, timeout)
        if not result.images:
            raise click.ClickException("the server ran the workflow, but names no picture")
        content = result.images[0].bytes()
    _save(output / "comfy-client-demo.png", content, preview)
    click.echo("\nThe same in Python:\n")
    for line in _code(inputs, host):
        click.echo(f"    {line}".rstrip())
    if host is None:
        click.echo("\nOn your own ComfyUI: comfy-client demo --host http://127.0.0.1:8188")


def _connected(host: str | None, stack: contextlib.ExitStack) -> ComfyApi:
    """A client of that server, or of an embedded one; both end with the stack."""
    if host is None:
        from ..testing import ComfyServer

        api = stack.enter_context(ComfyApi(stack.enter_context(ComfyServer()).url))
        click.echo(f"An embedded ComfyUI runs at {api.host}; its sampler is simulated.")
        return api
    api = ComfyApi(host, credentials=_credentials(host))
    click.echo(f"Connecting to {api.host} (waits up to 10 s for a server that is starting).")
    return stack.enter_context(api)


def _save(path: Path, content: bytes, preview: PreviewEvent | None) -> None:
    """Write the picture and the last preview, and print where they are."""
    # Not by save(), which would take an existing folder of that name for the place.
    picture = write_atomically(path, [content], if_exists="number")
    click.echo(f"picture: {picture}")
    if preview is None:
        click.echo("preview: none came; a ComfyUI sends them if started with --preview-method auto")
    else:
        # By what it is, not by what the server says: a file's name says what opens it.
        ending = sniff(preview.view).removeprefix("image/").replace("jpeg", "jpg")
        path = picture.with_name(f"{picture.stem}-preview.{ending}")
        click.echo(f"preview: {write_atomically(path, [preview.image], if_exists='number')}")


def _credentials(host: str, *, quietly: bool = False) -> EnvCredentials | None:
    """From the environment; ``None`` if the URL has some, or they are for another server."""
    address, login = parse_host(host)
    if login is not None:
        return None
    found = next((name for name in _SECRETS if os.environ.get(name)), None)
    if found is None:
        return None
    theirs = os.environ.get(_HOST)
    if theirs and parse_host(theirs)[0].http_url != address.http_url:
        if not quietly:
            click.echo(f"{found} is not sent: it is for the server that {_HOST} names.", err=True)
        return None
    return EnvCredentials(found, _SECRETS[found])


def _checkpoint(api: ComfyApi, wanted: str | None) -> str:
    names = api.get_checkpoints()
    if not names:
        raise click.ClickException(
            f"{api.host} has no checkpoint: put one into its folder models/checkpoints"
        )
    if wanted is not None and wanted not in names:
        raise click.ClickException(
            _one_line(f"{api.host} has no checkpoint {wanted}; it has {listing(names)}")
        )
    return wanted or names[0]


def _run(
    api: ComfyApi, workflow: Workflow, timeout: float | None
) -> tuple[Result, PreviewEvent | None]:
    """The result and the last preview; on a timeout or Ctrl-C the prompt is cancelled."""
    before = api.poll_status().queue_remaining
    if before:
        click.echo(_one_line(f"prompts ahead in the queue: {before}"))
    line = _Line()
    previews: deque[PreviewEvent] = deque(maxlen=1)
    try:
        result = api.run(
            workflow,
            timeout=timeout,
            on_interrupt="cancel",
            on_progress=line.show,
            on_preview=previews.append,
        )
    except JobTimeout as exc:
        api.job(exc.prompt_id).cancel()
        raise click.ClickException(f"no picture within {timeout:g} s; it was cancelled") from None
    finally:
        line.end()
    return result, previews[0] if previews else None


class _Line:
    """Progress: a bar on a terminal, elsewhere a line for each step."""

    def __init__(self) -> None:
        self._open = False

    def show(self, event: Progress) -> None:
        if not event.max or event.value is None:
            return
        text = _one_line(f"step {event.value:g} of {event.max:g}")
        if sys.stdout.isatty():
            part = min(1.0, max(0.0, event.value / event.max))
            click.echo(f"\r[{'#' * round(part * 30):30}] {text} ", nl=False)
            self._open = True
        else:
            click.echo(text)

    def end(self) -> None:
        if self._open:
            click.echo()


def _code(inputs: _Inputs, host: str | None) -> Iterator[str]:
    """Python that does what the demo did, without a password that ``host`` contains."""
    if host is None:
        yield "from comfy_client import ComfyApi, Workflow"
        yield "from comfy_client.testing import ComfyServer"
        yield ""
        yield "with ComfyServer() as server, ComfyApi(server.url) as api:"
    else:
        address, login = parse_host(host)
        known = _credentials(host, quietly=True)
        secret = EnvCredentials("COMFY_LOGIN", "basic") if login else known
        yield f"from comfy_client import ComfyApi, {'EnvCredentials, ' if secret else ''}Workflow"
        yield ""
        if secret:
            yield f"secret = EnvCredentials({secret.variable!r}, {secret.kind!r})"
        sent = ", credentials=secret" if secret else ""
        yield f"with ComfyApi({address.http_url!r}{sent}) as api:"
    yield "    workflow = Workflow.example()"
    for (node, name), value in inputs.items():
        yield f'    workflow["{node}"]["{name}"] = {value!r}'
    yield "    result = api.run(workflow, on_progress=lambda event: print(event.value))"
    yield '    print(result.images[0].save("./"))'


# -- doctor -----------------------------------------------------------------------------


@main.command()
@click.option(
    "--host",
    metavar="URL",
    default="http://127.0.0.1:8188",
    show_default=True,
    help="The ComfyUI to examine.",
)
@click.option("--run", is_flag=True, help="Run a trivial prompt, too.")
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    help="How long it may take.",
)
@_plainly
def doctor(host: str, run: bool, timeout: float) -> None:
    """Find out why a ComfyUI cannot be reached, or what is wrong with it.

    The output holds no secret and is safe for a bug report.  The exit status is 1 if a check
    failed.  Credentials are taken as by demo.
    """
    api = ComfyApi(host, credentials=_credentials(host))
    with contextlib.closing(api):
        report = api.doctor(run, timeout=timeout)
    click.echo(str(report))
    if not report:
        raise click.exceptions.Exit(1)


# -- stubs ------------------------------------------------------------------------------


@main.command()
@click.option(
    "--host",
    metavar="URL",
    default="http://127.0.0.1:8188",
    show_default=True,
    help="The ComfyUI whose node classes are wanted.",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The module to write, such as comfy_nodes.py.  Default: standard output.",
)
@_plainly
def stubs(host: str, output: Path | None) -> None:
    """Write a module by which editors and mypy know the node classes of a server.

    Import Graph from it instead of from comfy_client.  Credentials are taken as by demo.
    """
    from ..workflow.stubs import stubs as module_for

    api = ComfyApi(host, credentials=_credentials(host))
    with contextlib.closing(api):
        definitions = api.node_definitions()
    if output is None:
        click.echo(module_for(definitions), nl=False)
        return
    text = module_for(definitions, output.stem)
    written = write_atomically(output, [text.encode()], if_exists="overwrite")
    click.echo(_one_line(f"{len(definitions)} node classes: {written}"), err=True)


# -- serve ------------------------------------------------------------------------------


@main.command()
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
    type=click.Choice(get_args(Version)),
    default="0.3.75",
    show_default=True,
    help="Version of ComfyUI to imitate.",
)
@click.option(
    "--login-env",
    metavar="NAME",
    help="Environment variable with the user:password that clients must send.",
)
@click.option(
    "--login-file",
    metavar="FILE",
    type=click.File(encoding="utf-8"),
    help="File with the user:password that clients must send; - reads standard input.",
)
@click.option("--multi-user", is_flag=True, help="Keep settings and files by user.")
@click.option("--tls-certfile", metavar="FILE", help="Certificate (PEM), for https.")
@click.option("--tls-keyfile", metavar="FILE", help="Its key.  Default: in the same file.")
@click.option("--prefix", default="", metavar="PATH", help="Path of all routes, such as /comfy.")
@click.option(
    "--allowed-host",
    "allowed_hosts",
    metavar="NAME",
    multiple=True,
    help="Host name that clients may use, such as that of a proxy; * allows any.",
)
@click.option("--no-previews", is_flag=True, help="Send no previews.")
@click.option(
    "--step-seconds",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=0.02,
    show_default=True,
    help="How long a step of the simulated sampler takes.",
)
@_plainly
def serve(
    login_env: str | None,
    login_file: IO[str] | None,
    tls_certfile: str | None,
    tls_keyfile: str | None,
    allowed_hosts: tuple[str, ...],
    no_previews: bool,
    **options: Any,
) -> None:
    """Run an embedded ComfyUI until Ctrl-C, SIGTERM or SIGHUP.

    It executes workflows of ComfyUI's own nodes for pictures; sampling is simulated.  Its
    files are in a temporary folder, which is deleted at the end.
    """
    from ..testing import ComfyServer

    if tls_keyfile and not tls_certfile:
        raise click.ClickException("--tls-keyfile is the key to a --tls-certfile; give both")
    server = ComfyServer(
        credentials=_login(login_env, login_file),
        tls=(tls_certfile, tls_keyfile or tls_certfile) if tls_certfile else None,
        allowed_hosts=allowed_hosts or None,
        previews=not no_previews,
        **options,
    )
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
        stack.enter_context(_ending_as_by_ctrl_c())
        stack.callback(server.stop)  # it may be told to end while it starts
        server.start()
        click.echo(f"An embedded ComfyUI runs at {server.url}; its sampler is simulated.")
        click.echo("Press Ctrl-C to stop it.")
        while True:  # in slices: a signal that another thread gets does not end a sleep
            time.sleep(0.5)


def _login(variable: str | None, file: IO[str] | None) -> tuple[str, str] | None:
    """User and password, from places that no list of processes shows."""
    if variable and file:
        raise click.ClickException("give --login-env or --login-file, not both")
    if not variable and not file:
        return None
    text = file.readline().rstrip("\r\n") if file else os.environ.get(variable or "", "")
    user, colon, password = text.partition(":")
    if not colon:
        where = f"the variable {variable}" if variable else "the first line of the file"
        raise click.ClickException(f"{where} does not hold user:password")
    return user, password
