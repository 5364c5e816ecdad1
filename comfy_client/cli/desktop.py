"""The option ``--open``, which opens a file or a URL with the desktop's default program."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from .decorators import Decorator
from .printing import note

if TYPE_CHECKING:
    from ..jobs.result import Result

#: The kinds of files that are opened; others could make this machine run a program.
_SHOWN: Final = frozenset({"image", "video", "audio"})

open_option: Decorator = click.option(
    "--open",
    "is_opened",
    is_flag=True,
    help="Open the first picture, video or sound, as saved here or by its URL.",
)


def open_first(result: Result, paths: list[Path]) -> None:
    """Open the first picture, video or sound of a result; print failures on stderr.

    Saved files come before previews.  ``paths`` are the local copies; if empty, a URL is opened.
    """
    targets = map(os.path.abspath, paths) if paths else (item.url for item in result.files)
    shown = [
        (item.type == "temp", target)
        for item, target in zip(result.files, targets, strict=True)
        if item.media in _SHOWN and target is not None
    ]
    if shown:
        _open(min(shown, key=lambda one: one[0])[1])  # saved files before previews
    else:
        note("There is no picture, video or sound to open.")


def _open(target: str) -> None:
    if not has_display(os.environ):
        note(f"There is no display here to open {target}")
        return
    try:
        if sys.platform == "win32":
            os.startfile(target)  # noqa: S606  # the desktop's opener
        else:
            _start("open" if sys.platform == "darwin" else "xdg-open", target)
    except OSError as exc:
        note(f"Nothing opens {target}: {exc.strerror}")


def _start(opener: str, target: str) -> None:
    """Start the opener in its own session, so that Ctrl-C here does not end the viewer.

    The viewer gets none of the variables for ComfyUI, as they hold keys and passwords.
    """
    quiet = subprocess.DEVNULL
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COMFY")}
    subprocess.Popen(  # noqa: S603  # no shell, and a file or a URL
        [opener, target], stdin=quiet, stdout=quiet, stderr=quiet, env=kept, start_new_session=True
    )


def has_display(environment: Mapping[str, str], platform: str = sys.platform) -> bool:
    """Return whether the environment looks like a desktop's, and not like an SSH session's."""
    if environment.get("SSH_CONNECTION") or environment.get("SSH_TTY"):
        return False
    if platform in ("darwin", "win32"):
        return True
    return bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))
