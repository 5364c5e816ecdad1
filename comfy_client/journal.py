"""A file that remembers what was begun and how it ended, whatever becomes of the process.

JSON lines, the first of which says whose journal it is.  A line is on the disk before
:meth:`Journal.write` returns; the file appears with its first line complete, and for its
owner only.  What a crash tore off the end is cut away; other damage is refused.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from .saving import place

if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> None:
        """Windows keeps others from reading what is locked: a byte behind the end."""
        os.lseek(file, 2**40, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Journal:
    """An open journal: nobody else writes it meanwhile.

    Args:
        path: Of the file; it is made when missing, its folder is not.
        head: What stands in the first line of a new one.

    Raises:
        BlockingIOError: Somebody else has it open.
        ValueError: It is no journal, or damaged otherwise than at its end.
        OSError: It cannot be made, read or written.
    """

    def __init__(self, path: str | os.PathLike[str], head: Mapping[str, Any]) -> None:
        self.path = Path(path)
        if not os.path.lexists(self.path):
            _create(self.path, _line(head))
        self._file = self.path.open("r+b", buffering=0)
        try:
            self._claim()
            #: What stood in it: the first line, and the others.
            self.head, *self.records = self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, record: Mapping[str, Any]) -> None:
        """Add a line, and wait until the disk has it."""
        line = _line(record)
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        os.fsync(self._file.fileno())

    def _claim(self) -> None:
        try:
            _lock(self._file.fileno())
        except (BlockingIOError, PermissionError) as exc:
            raise BlockingIOError(
                errno.EAGAIN, "another process is writing this journal", str(self.path)
            ) from exc

    def _read(self) -> list[dict[str, Any]]:
        self._file.seek(0)
        whole, newline, torn = self._file.readall().rpartition(b"\n")
        if not newline:
            raise ValueError(f"{self.path} is no journal: it has not one complete line")
        records = []
        for number, line in enumerate(whole.split(b"\n"), 1):
            try:
                record = json.loads(line)
            except ValueError as exc:
                raise ValueError(_unreadable(self.path, number)) from exc
            if not isinstance(record, dict):
                raise ValueError(_unreadable(self.path, number))
            records.append(record)
        self._file.seek(len(whole) + 1)
        if torn:
            self._file.truncate()
        return records


def _unreadable(path: Path, number: int) -> str:
    if number == 1:
        return f"{path} is no journal: its first line is no JSON object"
    return f"{path} is damaged: line {number} is no JSON object"


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"


def _create(path: Path, line: bytes) -> None:
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        place(part, path)  # if somebody was faster, theirs counts
    finally:
        part.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # where folders can be opened, their entries too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
