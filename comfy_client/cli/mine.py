"""The mark of prompts that this installation has submitted: its random id.

The id is kept in one of the user's files.  Everybody who sees the queue can read it, but it says
nothing about the user.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

#: Returns whether this installation submitted a prompt, judging by its ``extra_data``.
Mine = Callable[[Mapping[str, Any]], bool]
#: The key in ``extra_data`` of a prompt.
KEY: Final = "comfy_client_cli"


def state_path() -> Path:
    """Return the path of the file that holds the id of this installation."""
    base = os.environ.get("XDG_STATE_HOME")
    folder = Path(base) if base and Path(base).is_absolute() else Path.home() / ".local" / "state"
    return folder / "comfy-client" / "id"


def mark() -> dict[str, Any]:
    """Return the entry of ``extra_data`` that marks a prompt; the first call creates the id."""
    return {KEY: _known_id() or _new_id()}


def is_mine() -> Mine:
    """Return a function that tells from ``extra_data`` if this installation submitted a prompt."""
    mine = _known_id()
    return lambda extra_data: mine is not None and extra_data.get(KEY) == mine


def _known_id() -> str | None:
    with contextlib.suppress(OSError, ValueError):
        return str(uuid.UUID(state_path().read_text(encoding="ascii").strip()))
    return None


def _new_id() -> str:
    """Create an id and store it; if it cannot be stored, each command has a new one."""
    path, made = state_path(), str(uuid.uuid4())
    part = path.with_name(f"id.{made}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch(mode=0o600)
        part.write_text(made, encoding="ascii")
        part.replace(path)
    return _known_id() or made
