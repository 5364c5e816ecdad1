"""Waiting for a prompt at a terminal, saving its files, printing its outputs."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ..errors import ComfyError
from ..interrupts import in_full
from .decorators import Decorator, complete_files, seconds_option
from .exits import Unsaved, known_server, message_of
from .input_options import mistakes
from .printing import emit, is_terminal, note, open_first, say, to_stdout

if TYPE_CHECKING:
    from ..events import PreviewEvent
    from ..jobs.job import Job
    from ..jobs.result import Result


def no_dash(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Refuse ``-``, since there may be several files, or standard output is for something else."""
    if value == "-":
        raise click.BadParameter("it does not write to standard output; ./- is a file of that name")
    return value


#: The options of commands that wait for a prompt.
out_option: Decorator = click.option(
    "--out",
    metavar="TEMPLATE",
    shell_complete=complete_files,
    help="Save the files: in a folder, as fox.png, or as 'out/{seed}_{index:03}{ext}'.  - writes "
    "the only file to standard output.",
)
timeout_option: Decorator = seconds_option(
    "--timeout", "How long to wait; the prompt keeps running.  Default: no limit."
)
quiet_option: Decorator = click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")


def wait_for(
    job: Job,
    timeout: float | None,
    quiet: bool,
    *,
    is_ours: bool,
    on_preview: Callable[[PreviewEvent], object] | None = None,
) -> Result:
    """Wait for the result of a prompt; ``is_ours`` says whether Ctrl-C cancels it."""
    from ..jobs.handle import Limits
    from ..jobs.job import Callbacks, wait_and_show
    from ..showing.screen import surface

    return wait_and_show(
        job,
        Limits(timeout),
        surface(False if quiet else None),
        Callbacks(on_preview=on_preview),
        on_interrupt="cancel" if is_ours else "leave",
    )


@contextlib.contextmanager
def cancelled_if_stopped(find: Callable[[], Job | None]) -> Iterator[None]:
    """Context manager: Ctrl-C in the block cancels the prompt; the second Ctrl-C leaves it.

    ``find`` returns the job; None: it has not been submitted.
    """
    try:
        yield
    except (KeyboardInterrupt, GeneratorExit):  # the latter if Ctrl-C came before the block began
        with contextlib.suppress(ComfyError):  # not submitted yet, or no answer
            job = find()
            if job is not None and not job.done():
                cancel_interrupted(job)
        raise


def cancel_interrupted(job: Job) -> None:
    """Cancel a prompt after Ctrl-C, and report on stderr whether that succeeded."""
    from ..jobs.job import cancel_in_time

    try:
        note(f"Cancelling prompt {job.prompt_id}; Ctrl-C again leaves it running.")
        said = cancel_in_time([job])
    except KeyboardInterrupt:
        from ..pool.pooled_job import PooledJob

        server = known_server(job.server if isinstance(job, PooledJob) else None)
        note(f"It may keep running: {server.command('cancel', id=job.prompt_id)}")
        raise
    note("It was cancelled." if any(said) else "It had ended already." if said else "No answer.")


def check_out(out: str | None, *, as_json: bool) -> None:
    """Raise UsageError for ``--out -`` together with ``--json``, or if it leads to a terminal."""
    if out == "-" and as_json:
        raise click.UsageError("--out - or --json, not both: standard output is for the file")
    if out == "-" and is_terminal():
        raise click.UsageError("--out - needs a pipe or a file: a terminal shows no pictures")


#: Fields of a template that every file has.
_FIELDS: Final = frozenset({"seed", "node", "index", "name", "ext"})


@contextlib.contextmanager
def saving_to(
    out: str | None, graph: Mapping[str, Any], more: Collection[str] = frozenset()
) -> Iterator[None]:
    """Context manager: create the folder of ``--out``; on exit, remove it if new and still empty.

    Raises :class:`Mistake` for an invalid template before anything runs.
    """
    if out is None or out == "-":
        yield
        return
    with folder_for(_folder_of(as_template(out), graph, more), "--out"):
        yield


def _folder_of(out: str, graph: Mapping[str, Any], more: Collection[str]) -> Path:
    """Return the folder before a template's first field; raise :class:`Mistake` if invalid."""
    from ..jobs.names import is_template, local_paths
    from ..workflow.address import input_named

    def value(name: str) -> str:
        if name not in _FIELDS and name not in more:
            if "." not in name:
                known = ", ".join(sorted({*_FIELDS, *more}))
                text = f"{{{name:.100}}} is not one of {known}, or an input: {{KSampler.cfg}}"
                raise ValueError(text)
            if graph:  # another user's graph may not be known yet
                input_named(graph, name)
        return "x"

    if is_template(out):
        with mistakes("--out"):
            local_paths(out, [(value, "x.png")])
        out = re.split("[{}]", out, maxsplit=1)[0]  # the folders before the first field
        out = out[: max(map(out.rfind, {"/", os.sep})) + 1]
    return Path(out)


@contextlib.contextmanager
def folder_for(folder: Path, option: str) -> Iterator[None]:
    """Context manager: create a folder; on exit, remove it if new and still empty."""
    made: list[Path] = []
    try:
        with mistakes(option):
            if folder.exists() and not folder.is_dir():
                raise NotADirectoryError(f"{os.fspath(folder)!r} is a file, not a folder")
            made += [one for one in (folder, *folder.parents) if not one.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                name = os.fspath(folder)
                raise PermissionError(f"{name!r} is a folder that you may not write to")
        yield
    finally:
        with contextlib.suppress(OSError):  # not empty
            in_full(one.rmdir for one in made)


def show_result(
    result: Result,
    out: str | None,
    as_json: bool,
    server: str | None = None,
    *,
    is_opened: bool = False,
) -> None:
    """Save a result's files and print their paths, or only print URLs; then print all texts.

    With ``-`` as ``out``, write the only file to standard output, and nothing else.  ``server``
    names the server that ran the prompt, if the command has several.
    """
    paths: list[Path] = []
    if out is not None:
        with saving(result.prompt_id, server):
            if out == "-":
                _write_only_file(result, server)
            else:
                paths = result.save(as_template(out))
    if as_json:
        emit(result.to_dict() if server is None else {**result.to_dict(), "server": server})
    elif out != "-":
        for line in (*map(os.fspath, paths), *(_urls(result) if out is None else ())):
            say(line)
        for text in result.texts:
            for line in text.splitlines():
                say(line.expandtabs())
    if is_opened:
        open_first(result, paths)


def _write_only_file(result: Result, server: str | None) -> None:
    """Write the only saved file, or else the only preview, to standard output.

    Raises:
        Unsaved: There are several of them, or none.
    """
    files = [item for item in result.files if item.type != "temp"] or list(result.files)
    if len(files) != 1:
        names = ", ".join(item.filename for item in files[:5]) or "none"
        message = f"--out - writes one file, and the prompt has {len(files)}: {names}"
        raise Unsaved(message, download_again(result.prompt_id, server))
    with files[0].stream() as content:
        to_stdout(content.views())


def download_again(prompt_id: str, server: str | None) -> str:
    """Return the ``comfy-client download`` command that fetches a prompt's files again."""
    return known_server(server).command("download", "--out", "...", id=prompt_id)


@contextlib.contextmanager
def saving(prompt_id: str, server: str | None = None) -> Iterator[None]:
    """Context manager: if saving fails, show how to download the files again."""
    hint = download_again(prompt_id, server)
    try:
        yield
    except ComfyError:
        note(f"The prompt has run, but its files are not saved: {hint}")
        raise
    except BrokenPipeError:
        raise  # the reader of standard output has read enough
    except (OSError, ValueError) as exc:
        message = f"the prompt has run, but its files are not saved: {message_of(exc)}"
        raise Unsaved(message, hint) from None


def as_template(out: str, suffix: str = "") -> str:
    """Turn a file name such as ``fox.png`` into a template; return other texts unchanged.

    The file keeps the server's extension; ``suffix`` precedes it.
    """
    import mimetypes

    from ..jobs.names import is_template

    kind = (mimetypes.guess_type(out)[0] or "").partition("/")[0]
    if is_template(out) or kind not in ("image", "video", "audio") or Path(out).is_dir():
        return out
    return f"{Path(out).with_suffix('')}{suffix}{{ext}}"


def _urls(result: Result) -> list[str]:
    """Return the URLs of saved files, or of previews if nothing was saved."""
    kept = [item for item in result.files if item.type != "temp"] or list(result.files)
    in_memory = [item for item in kept if item.url is None]
    if in_memory:
        note(f"{len(in_memory)} images came over the socket only; --out saves them.")
    return [item.url for item in kept if item.url is not None]
