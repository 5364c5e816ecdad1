"""The mark of prompts that this installation has submitted: its id, by default a random one.

A random id is kept in a file of the user.  Everybody who sees the queue can read it, but it
says nothing about the user.
"""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from ..user_folder import user_folder
from .exits import Mistake

#: A function that returns whether this installation submitted a prompt with some ``extra_data``.
Mine = Callable[[Mapping[str, Any]], bool]
#: The key in ``extra_data`` of a prompt.
KEY: Final = "comfy_client_cli"
#: The key that marks a prompt submitted with ``--detach``, whose events nobody receives yet.
DETACHED: Final = "comfy_client_detached"
#: The environment variable with the id, for installations that cannot keep one.
VARIABLE: Final = "COMFYUI_INSTALLATION_ID"
_ID: Final = re.compile(r"[\w.:@+/-]{1,200}", re.ASCII)


def state_path() -> Path:
    """Return the path of the file that holds the id of this installation."""
    return user_folder("state") / "comfy-client" / "id"


def mark(*, detached: bool = False) -> dict[str, Any]:
    """Return the entries of ``extra_data`` that mark a prompt; the first call creates the id.

    If the id cannot be stored, each command has a new one.
    """
    try:
        own = _own_id()
    except OSError:
        own = str(uuid.uuid4())
    return {KEY: own, DETACHED: True} if detached else {KEY: own}


def is_mine() -> Mine:
    """Return a function that tells by ``extra_data`` if this installation submitted a prompt."""
    mine = _known_id()
    return lambda extra_data: mine is not None and extra_data.get(KEY) == mine


def why_unknown() -> str | None:
    """Return why later commands cannot recognise prompts of this one; None if they can."""
    try:
        _own_id()
    except OSError as exc:
        return (
            f"this installation has no id, as {state_path()} cannot be written ({exc.strerror}): "
            f"set {VARIABLE} to a name of your choice, or XDG_STATE_HOME to a folder"
        )
    return None


def _known_id() -> str | None:
    given = os.environ.get(VARIABLE)
    if given:
        if not _ID.fullmatch(given):
            raise Mistake(f"{VARIABLE} may contain letters, digits and any of _.:@+/-, 200 at most")
        return given
    with contextlib.suppress(OSError, ValueError):
        return str(uuid.UUID(state_path().read_text(encoding="ascii").strip()))
    return None


def _own_id() -> str:
    """Return the id of this installation; create and store one if need be, or raise OSError."""
    known = _known_id()
    if known is not None:
        return known
    path, made = state_path(), str(uuid.uuid4())
    part = path.with_name(f"id.{made}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        part.touch(mode=0o600)
        part.write_text(made, encoding="ascii")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return _known_id() or made
