"""Folders of the user."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final, Literal

FolderKind = Literal["config", "state", "cache"]

#: The variable that names each folder on Windows, and where it is below the user's home without.
_ON_WINDOWS: Final[dict[FolderKind, tuple[str, str]]] = {
    "config": ("APPDATA", "AppData/Roaming"),
    "state": ("LOCALAPPDATA", "AppData/Local"),
    "cache": ("LOCALAPPDATA", "AppData/Local"),
}
#: Where each folder is below the user's home.
_ON_MACOS: Final[dict[FolderKind, str]] = {
    "config": "Library/Application Support",
    "state": "Library/Application Support",
    "cache": "Library/Caches",
}
_ELSEWHERE: Final[dict[FolderKind, str]] = {
    "config": ".config",
    "state": ".local/state",
    "cache": ".cache",
}


def user_folder(kind: FolderKind, platform: str = sys.platform) -> Path:
    """Return the folder where the programs of a user keep their files of a kind.

    An XDG variable such as ``XDG_CONFIG_HOME`` names it on any system; otherwise it is where the
    system has it.  For a user without a home, as in a container, return a path that cannot exist.
    """
    names = [f"XDG_{kind.upper()}_HOME"]
    below_home = _ON_MACOS[kind] if platform == "darwin" else _ELSEWHERE[kind]
    if platform == "win32":
        name, below_home = _ON_WINDOWS[kind]
        names.append(name)
    for base in map(os.environ.get, names):
        if base and Path(base).is_absolute():  # the XDG standard says to ignore a relative path
            return Path(base)
    try:
        return Path.home() / below_home
    except RuntimeError:
        return Path(os.devnull) / below_home
