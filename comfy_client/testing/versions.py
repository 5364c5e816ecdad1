"""Versions of ComfyUI that an embedded server can behave like."""

from __future__ import annotations

from typing import Literal, get_args

#: Versions: 0.3.75; 0.8.0 with its jobs API; 0.28.1 of July 2026 ("new").
Version = Literal["0.3.75", "0.8", "new"]


def check_version(version: str) -> None:
    """Raise ValueError unless the value is a :data:`Version`."""
    if version not in get_args(Version):
        raise ValueError(f"version must be one of {', '.join(get_args(Version))}, not {version!r}")
