"""Prompts that this installation submits: their mark, and locks on their ids.

The mark is an id, by default a random one, which is kept in a file of the user.  Everybody who sees
the queue can read it, but it says nothing about the user.

The server sends the events of a prompt to the client id that submitted it.  ``run --detach``
opens no socket under its id, so that a later command can connect as that client.  Only one
command at a time may do so: the server knows only the latest socket of an id, and forgets even that
one when an earlier one closes.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..replacing import discard, replace
from ..user_folder import user_folder
from .exits import Mistake
from .printing import note
from .prompt_records import is_hosted

if TYPE_CHECKING:
    from ..client import ComfyApi

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
        replace(part, path)
    finally:
        discard(part)
    return _known_id() or made


#: How many times to try the lock, as another command may just be removing its file.
_TRIES: Final = 3
#: Seconds between two looks at the lock of another process.
_PAUSE: Final = 0.05


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

    Another command may have it, or the folder may not be writable.
    """
    lock = contextlib.ExitStack()
    with lock:
        try:
            is_held = lock.enter_context(_lock(client_id))
        except (ImportError, OSError):
            is_held = False
        yield is_held


@contextlib.contextmanager
def reserved(prompt_id: str, timeout: float = 20.0) -> Iterator[bool]:
    """Context manager: wait until no other process submits a prompt with this id.

    Yield False if one still does after ``timeout`` seconds.  Where files cannot be locked, do not
    wait.
    """
    ends = time.monotonic() + timeout
    while True:
        with contextlib.ExitStack() as lock:
            try:
                is_reserved = lock.enter_context(_lock(prompt_id))
            except (ImportError, OSError):
                is_reserved = True
            if is_reserved or time.monotonic() >= ends:
                yield is_reserved
                return
        time.sleep(_PAUSE)


@contextlib.contextmanager
def _lock(name: str) -> Iterator[bool]:
    """Context manager: lock a name among the processes of this user; yield False if one has it.

    Raises:
        ImportError, OSError: Files cannot be locked here.
    """
    path = state_path().with_name(f"{name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _locked(path)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            with contextlib.suppress(OSError):  # Windows may refuse, but removes it on close
                path.unlink()
            os.close(lock)


def _locked(path: Path) -> int | None:
    """Create and lock a file, and return its descriptor; None if another process has it."""
    if hasattr(os, "O_TEMPORARY"):  # Windows removes it even if this process is killed
        with contextlib.suppress(FileExistsError):
            return os.open(path, os.O_CREAT | os.O_EXCL | os.O_TEMPORARY, 0o600)
        return None
    import fcntl

    for _ in range(_TRIES):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file).st_nlink:
                return file
        except BlockingIOError:
            os.close(file)
            return None
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # another process has just removed it
    return None
