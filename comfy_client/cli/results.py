"""Wait for a prompt as a person at a terminal does, and print what came of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from .decorators import Decorator
from .inputs import mistakes
from .printing import emit, note, say

if TYPE_CHECKING:
    from ..events import PreviewEvent
    from ..jobs.job import Job
    from ..jobs.result import Result

#: The options of commands that wait for a prompt.
out_option: Decorator = click.option(
    "--out",
    metavar="TEMPLATE",
    help="Save the files: in a folder, as fox.png, or as 'out/{seed}_{index:03}{ext}'.",
)
timeout_option: Decorator = click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    help="How long to wait; the prompt keeps running.  Default: no limit.",
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
    """The result of a prompt; Ctrl-C cancels one of ours first, and a second one leaves."""
    try:
        # In here, since they take a while in which somebody may press it.
        from ..jobs.callbacks import Callbacks
        from ..jobs.job import Limits
        from ..jobs.watching import wait_watched
        from ..showing.screen import surface

        return wait_watched(
            job,
            Limits(timeout),
            surface(False if quiet else None),
            Callbacks(on_preview=on_preview),
            on_interrupt="cancel" if is_ours else "leave",
        )
    except KeyboardInterrupt:
        if is_ours:
            cancel(job)
        raise


def cancel(job: Job) -> None:
    """Cancel a prompt after Ctrl-C."""
    from ..jobs.job import cancel_in_time

    try:
        note(f"Cancelling prompt {job.prompt_id}; Ctrl-C again leaves it running.")
        said = cancel_in_time([job])
    except KeyboardInterrupt:
        note(f"It may keep running: comfy-client cancel {job.prompt_id}")
        raise
    note("It was cancelled." if any(said) else "It had ended already." if said else "No answer.")


#: Fields of a template that every file has.
_FIELDS: Final = frozenset({"seed", "node", "index", "name", "ext"})


def check_template(
    out: str | None, graph: Mapping[str, Any], more: Collection[str] = frozenset()
) -> None:
    """:class:`Mistake` for a template that no file could be saved by, before anything runs."""
    if out is None:
        return
    from ..jobs.names import is_template, local_paths
    from ..workflow.address import input_named

    def value(name: str) -> str:
        if name not in _FIELDS and name not in more:
            if "." not in name:
                known = ", ".join(sorted({*_FIELDS, *more}))
                text = f"{{{name:.100}}} is none of {known}, or an input: {{KSampler.cfg}}"
                raise ValueError(text)
            if graph:  # that of somebody else's prompt may not be known yet
                input_named(graph, name)
        return "x"

    if is_template(out):
        with mistakes("--out"):
            local_paths(out, [(value, "x.png")])


def show_result(result: Result, out: str | None, as_json: bool) -> None:
    """Save the files if that is wanted, and print their paths, else their URLs, and all texts."""
    paths = [] if out is None else _saved(result, out)
    if as_json:
        emit(result.to_dict())
        return
    for path in paths:
        say(os.fspath(path))
    if out is None:
        for url in _urls(result):
            say(url)
    for text in result.texts:
        for line in text.splitlines():
            say(line.expandtabs())


def _saved(result: Result, out: str) -> list[Path]:
    with mistakes("--out"):
        return result.save(as_template(out))


def as_template(out: str) -> str:
    """A template for what looks like the name of a file: ``fox.png`` is no folder.

    The file keeps the extension that the server gave it.
    """
    import mimetypes

    from ..jobs.names import is_template

    kind = (mimetypes.guess_type(out)[0] or "").partition("/")[0]
    if is_template(out) or kind not in ("image", "video", "audio") or Path(out).is_dir():
        return out
    return f"{Path(out).with_suffix('')}{{ext}}"


def _urls(result: Result) -> list[str]:
    """Of the files that are kept; those of preview nodes, if there are no others."""
    kept = [item for item in result.files if item.type != "temp"] or list(result.files)
    in_memory = [item for item in kept if item.url is None]
    if in_memory:
        note(f"{len(in_memory)} images came over the socket only; --out saves them.")
    return [item.url for item in kept if item.url is not None]
