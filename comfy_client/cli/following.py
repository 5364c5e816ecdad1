"""Receive the events of a prompt that was submitted with ``--detach``.

The server sends the events of a prompt to the client id that submitted it.  ``run --detach``
opens no socket under its id, so that a later command can connect as that client.  Only one
command at a time may do so: the server knows only the latest socket of an id, and forgets even that
one when an earlier one closes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .hosted_jobs import is_hosted
from .mine import DETACHED, is_mine, state_path
from .printing import note

if TYPE_CHECKING:
    from ..client import ComfyApi

#: How many times to try the lock, as another command may just be removing its file.
_TRIES: Final = 3


@contextlib.contextmanager
def receiving(api: ComfyApi, prompt_id: str, *, quiet: bool) -> Iterator[None]:
    """Context manager: let a client receive the events of a detached prompt, if possible.

    Enter it before the client connects its socket.  On exit, the client is closed.
    """
    client_id = _free_client_id(api, prompt_id)
    with contextlib.ExitStack() as stack:
        if client_id is not None and stack.enter_context(held(client_id)):
            api.parts.connection.adopt(client_id)
        elif client_id is not None and not quiet:
            note("No progress is shown, as when another command receives it; only the end.")
        stack.callback(api.close)  # before the id is released
        yield


def _free_client_id(api: ComfyApi, prompt_id: str) -> str | None:
    """Return the client id of a queued prompt that this installation detached, else None."""
    from ..values import is_uuid

    if is_hosted(api):
        return None  # each job has its own events, whoever submitted it
    queue, mine = api.get_queue(workflows_of=(prompt_id,)), is_mine()
    for item in (*queue.running, *queue.pending):
        extra = item.extra_data
        if item.prompt_id == prompt_id and mine(extra) and extra.get(DETACHED) is True:
            client_id = extra.get("client_id")
            return client_id if isinstance(client_id, str) and is_uuid(client_id) else None
    return None


@contextlib.contextmanager
def held(client_id: str) -> Iterator[bool]:
    """Context manager: reserve a client id for this command; yield False if that fails.

    Another command may have it, the folder may not be writable, or the system has no ``flock``.
    """
    path = state_path().with_name(f"{client_id}.lock")
    lock: int | None = None
    with contextlib.suppress(ImportError, OSError):
        lock = _locked(path)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            path.unlink(missing_ok=True)
            os.close(lock)


def _locked(path: Path) -> int | None:
    """Create and lock a file, and return its descriptor.

    If another command has locked it, raise OSError, or return None after a few tries.
    """
    import fcntl

    for _ in range(_TRIES):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file).st_nlink:
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # another command has just removed it
    return None
