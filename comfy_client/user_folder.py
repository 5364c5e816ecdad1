"""Folders of the user."""

from __future__ import annotations

import os
from pathlib import Path


def user_folder(variable: str, below_home: str) -> Path:
    """Return the folder that an XDG variable names, or else a folder below the user's home.

    For a user without a home, as in a container, return a path that cannot exist.
    """
    base = os.environ.get(variable)
    if base and Path(base).is_absolute():  # the XDG standard says to ignore a relative path
        return Path(base)
    try:
        return Path.home() / below_home
    except RuntimeError:
        return Path(os.devnull) / below_home
