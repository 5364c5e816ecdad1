"""Which prompts are of whoever types: each carries the id of this installation.

It is a random number in a file of the user's, which says nothing of him; everybody who sees the
queue can read it.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

#: The key in ``extra_data`` of a prompt.
KEY: Final = "comfy_client_cli"


def state_path() -> Path:
    """Where the id is kept."""
    base = os.environ.get("XDG_STATE_HOME")
    folder = Path(base) if base and Path(base).is_absolute() else Path.home() / ".local" / "state"
    return folder / "comfy-client" / "id"


def my_id() -> str:
    """The id of this installation, which is made when it is first asked for."""
    path = state_path()
    try:
        return _read(path)
    except (OSError, ValueError):
        pass
    mine = str(uuid.uuid4())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"id.{mine}")
        part.write_text(mine, encoding="ascii")
        part.chmod(0o600)
        part.replace(path)
        return _read(path)  # the same for two that begin at once
    except (OSError, ValueError):
        return mine  # nowhere to keep it: nothing is found again


def _read(path: Path) -> str:
    return str(uuid.UUID(path.read_text(encoding="ascii").strip()))


def mark() -> dict[str, Any]:
    """What the prompts of a command carry as ``extra_data``."""
    return {KEY: my_id()}


def is_mine(extra_data: Mapping[str, Any]) -> bool:
    """Whether a prompt carries it."""
    return extra_data.get(KEY) == my_id()
