"""Replace and remove files, although Windows refuses that for a moment while one is open."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from . import runtime

#: How often a file in use is tried, and the seconds between.
_TRIES: Final = 4
_RETRY_INTERVAL: Final = 0.05


def replace(path: Path, target: Path) -> None:
    """Rename a file, and replace one of that name.

    Raises:
        PermissionError: On Windows, another program has a file open, such as a viewer.
        OSError: Another error of the file system.
    """
    _patiently(lambda: os.replace(path, target), target)


def remove(path: Path) -> None:
    """Remove a file, if it exists; raise errors as :func:`replace` does."""
    _patiently(lambda: path.unlink(missing_ok=True), path)


def discard(path: Path) -> None:
    """Remove a file that is no longer needed; raise no error if that fails."""
    for _ in range(2):  # a network drive may hold it for a moment
        with contextlib.suppress(OSError):
            remove(path)
            return


def _patiently(action: Callable[[], None], target: Path) -> None:
    """Try again for a moment if a file is in use, since virus scanners open each new one."""
    for left in reversed(range(_TRIES)):
        try:
            action()
            return
        except PermissionError as exc:
            if getattr(exc, "winerror", None) not in (5, 32):  # access, or sharing
                raise
            if not left:
                text = "another program may have it open"
                raise PermissionError(exc.errno, text, os.fspath(target)) from exc
        runtime.sleep(_RETRY_INTERVAL)
