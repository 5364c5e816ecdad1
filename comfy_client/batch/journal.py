"""The journal of a sweep: a record on disk of the points that it began, and how they ended.

It is an SQLite file with a row for each point that was ever submitted, found by the digest of its
graph.  A write has reached the disk before it returns, and happens in full or not at all, even if
the disk is full or the process is killed.

SQLite keeps a second process out by the lock that it holds while the journal is open.  There is no
write-ahead log: everything is in this one file, which may be copied alone.  Another file, with
which SQLite undoes a partial write, exists beside it only while a sweep is running, or after one
was killed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sqlite3
import stat
import uuid
import weakref
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, Self, TypeAlias

import attrs

from .. import runtime
from ..errors import ClientClosed
from ..interrupts import in_full
from ..values import MAX_LEVELS, is_shallow, number, size_decoded
from ..workflow.graph import brief, shorten
from . import journal_file

#: SQLite's error codes for a damaged file.
_DAMAGED: Final = (
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_TOOBIG,
)
_LOOK_UP: Final = (
    "SELECT host, tries, prompt_id, sent_at, withdrawn, told, seconds, execution_seconds, result, "
    "error FROM points WHERE digest = ? AND occurrence = ?"
)
#: The most characters of a host or an id.
_LONGEST_NAME: Final = 2000
#: The most characters of the reason why a file is damaged.
_LONGEST_REASON: Final = 200
#: The most bytes that the results and errors of one grid may take in memory.
MAX_MEMORY: Final = 1 << 30

#: A point: the digest of its graph, and its number among points with equal graphs.
Key: TypeAlias = tuple[str, int]

#: Journals that are open in this process, by device and file number.  On POSIX, opening and closing
#: such a file in the same process, as is done here to read its header, drops the locks on it.
#: The references are weak, as Ctrl-C may come before a journal is closed.
_in_use: dict[tuple[int, int], weakref.ref[Journal]] = {}

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_use.clear)


def _from_json(said: object) -> Any:
    if said is None:
        return None
    if not isinstance(said, str):
        raise TypeError(f"a record is {brief(said)}")
    try:
        value = json.loads(said)
    except RecursionError:
        raise ValueError("a record nests too deeply") from None
    # The outputs of a node stand two levels below the record.
    if not isinstance(value, dict) or not is_shallow(value, MAX_LEVELS + 2):
        raise ValueError("a record is not a JSON object, or nests too deeply")
    return value


def _check_name(record: object, field: attrs.Attribute[Any], value: object) -> None:
    """Raise ValueError for an invalid host or id, as these appear in messages and requests."""
    if not isinstance(value, str) or not value.isprintable() or len(value) > _LONGEST_NAME:
        raise ValueError(f"{field.name} is {brief(value)}")


def _check_number(record: object, field: attrs.Attribute[Any], value: object) -> None:
    if number(value) is None or (field.name == "tries" and not isinstance(value, int)):
        raise ValueError(f"{field.name} is {brief(value)}")


_check_seconds: Final = attrs.validators.optional(_check_number)


@attrs.frozen
class Record:
    """The record of one point in a journal: the columns of its row without the key.

    Raises :class:`ValueError` for values that this module never writes.
    """

    #: The server of the last try; empty if no server got it.
    host: str = attrs.field(validator=_check_name)
    tries: int = attrs.field(validator=_check_number)
    prompt_id: str = attrs.field(validator=_check_name)
    sent_at: float = attrs.field(validator=_check_number)
    withdrawn: bool = attrs.field(converter=bool)
    told: bool = attrs.field(converter=bool)
    seconds: float | None = attrs.field(validator=_check_seconds)
    execution_seconds: float | None = attrs.field(validator=_check_seconds)
    result: Mapping[str, Any] | None = attrs.field(converter=_from_json)
    error: Mapping[str, Any] | None = attrs.field(converter=_from_json)


class Journal:
    """An open journal, locked against other processes.  Threads may write at the same time.

    Args:
        path: The path of the file; it is made when missing, its folder is not.

    Raises:
        BlockingIOError: Another process, or another journal in this one, uses it.
        ValueError: It is damaged, or is not a journal (and is left as it is); or a file beside it
            has a name that SQLite needs.
        OSError: It cannot be made, read or written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Path = Path(path)
        self._lock = runtime.Lock()  # guards the connection; no other lock is taken within
        self.is_new: bool = not os.path.lexists(self.path) and journal_file.make(self.path)
        found = self.path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{self.path} is not a journal of a sweep: it is not even a file")
        self._identity = found.st_dev, found.st_ino
        self._pid = os.getpid()
        self._connection: sqlite3.Connection | None = None
        try:
            if self._is_in_use():
                raise self._busy()
            journal_file.check(self.path)
            self._connection = journal_file.connect(self.path)
            self._claim(self._connection)
        except BaseException as exc:
            self.close()
            if isinstance(exc, sqlite3.Error):
                raise self._explained(exc) from None
            raise

    def _is_in_use(self) -> bool:
        """Return whether another Journal in this process uses the file; claim it if none does."""
        ours = weakref.ref(self)
        found = _in_use.setdefault(self._identity, ours)
        if found() is None:
            _in_use[self._identity] = found = ours
        return found is not ours

    def _claim(self, connection: sqlite3.Connection) -> None:
        """Lock the journal against other processes, and read its id."""
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("COMMIT")
        journal_file.check_schema(self.path, connection)
        connection.execute("PRAGMA journal_mode = PERSIST")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")  # makes macOS wait for the disk
        try:
            ((name,),) = connection.execute("SELECT id FROM journal LIMIT 2")
            #: The prompt ids are computed from it.
            self.id: uuid.UUID = uuid.UUID(name)
        except (TypeError, ValueError, AttributeError) as exc:
            raise self._damaged(exc) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the journal; threads that still write to it get :class:`ClientClosed`."""
        with self._lock:
            connection, self._connection = self._connection, None
        steps: list[Callable[[], object]] = [self._forget]
        if connection is not None:
            steps = [partial(self._tidy_up, connection), connection.close, self._forget]
        # The data is safe on the disk whatever fails now, and the next sweep tidies up.
        with contextlib.suppress(sqlite3.Error, OSError, MemoryError):
            in_full(steps)

    def _tidy_up(self, connection: sqlite3.Connection) -> None:
        """Remove SQLite's file beside the journal, unless it belongs to the parent of a fork."""
        if os.getpid() == self._pid:
            connection.execute("PRAGMA locking_mode = NORMAL")
            connection.execute("PRAGMA journal_mode = DELETE")

    def _forget(self) -> None:
        if _in_use.get(self._identity) is weakref.ref(self):
            del _in_use[self._identity]

    # -- reading -------------------------------------------------------------------------

    def records(self, keys: Collection[Key]) -> dict[Key, Record]:
        """Return the records of these points, by key; leave out points that have none.

        Each point is looked up by its key, as a file from elsewhere may have endless other rows.
        """
        assert self._connection is not None  # noqa: S101
        found: dict[Key, Record] = {}
        room = MAX_MEMORY
        try:
            for key in keys:
                row = self._connection.execute(_LOOK_UP, key).fetchone()
                if row is None:
                    continue
                room -= sum(size_decoded(said) for said in row[-2:] if isinstance(said, str))
                if room < 0:
                    break
                found[key] = Record(*row)
        except sqlite3.Error as exc:
            raise self._explained(exc) from None
        except (TypeError, ValueError) as exc:
            raise self._damaged(exc) from None
        if room < 0:
            raise ValueError(
                f"the rows of this grid in {self.path} would take more than "
                f"{MAX_MEMORY >> 20} MiB; sweep fewer points at a time"
            )
        return found

    # -- writing: on the disk when it returns ----------------------------------------------

    def note_sent(self, key: Key, host: str, prompt_id: str, tries: int, at: float) -> None:
        """Record that a point's prompt is about to be sent; erase how an earlier one ended."""
        self._write(
            "INSERT OR REPLACE INTO points (digest, occurrence, host, tries, prompt_id, sent_at) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            *key,
            host,
            tries,
            prompt_id,
            at,
        )

    def note_id(self, key: Key, prompt_id: str) -> None:
        """Record the id that the server chose for a point's prompt."""
        self._write(
            "UPDATE points SET prompt_id = ? WHERE digest = ? AND occurrence = ?", prompt_id, *key
        )

    def note_return(self, key: Key) -> None:
        """Record that the server certainly does not have a point's prompt."""
        self._write(
            "UPDATE points SET withdrawn = 1, host = '' WHERE digest = ? AND occurrence = ?", *key
        )

    def note_withdrawal(self, key: Key) -> None:
        """Record that a point's prompt was deleted from the queue, unless it had begun to run."""
        self._write("UPDATE points SET withdrawn = 1 WHERE digest = ? AND occurrence = ?", *key)

    def note_end(
        self,
        key: Key,
        host: str,
        prompt_id: str,
        *,
        seconds: float | None,
        execution_seconds: float | None,
        result: Mapping[str, Any] | None,
        error: Mapping[str, Any] | None,
    ) -> None:
        """Record how a point ended: its result or error, its server and its times."""
        self._write(
            "UPDATE points SET host = ?, prompt_id = ?, withdrawn = 0, told = 0, seconds = ?, "
            "execution_seconds = ?, result = ?, error = ? WHERE digest = ? AND occurrence = ?",
            host,
            prompt_id,
            seconds,
            execution_seconds,
            None if result is None else json.dumps(result),
            None if error is None else json.dumps(error),
            *key,
        )

    def note_seconds(self, key: Key, execution_seconds: float) -> None:
        """Record how long a point's prompt ran, which the server reported after its end."""
        self._write(
            "UPDATE points SET execution_seconds = ? WHERE digest = ? AND occurrence = ?",
            execution_seconds,
            *key,
        )

    def note_told(self, key: Key) -> None:
        """Record that the caller's callback has received the row and returned."""
        self._write("UPDATE points SET told = 1 WHERE digest = ? AND occurrence = ?", *key)

    def _write(self, statement: str, *values: object) -> None:
        try:
            with self._lock:
                if self._connection is None:
                    raise ClientClosed("the sweep has ended, and sends nothing more")
                self._connection.execute(statement, values)
        except sqlite3.Error as exc:
            raise self._explained(exc) from None

    # -- errors ----------------------------------------------------------------------------

    def _busy(self) -> OSError:
        text = "this journal is in use, by this process or another one"
        return BlockingIOError(errno.EAGAIN, text, str(self.path))

    def _damaged(self, exc: Exception) -> ValueError:
        return ValueError(f"{self.path} is damaged: {shorten(str(exc), _LONGEST_REASON)}")

    def _explained(self, exc: sqlite3.Error) -> Exception:
        """Return the OSError for an error of SQLite, or a ValueError if the file is damaged.

        Callers do not chain SQLite's error: it quotes names and values from a file that may be
        untrusted, and a traceback would show them in a terminal.
        """
        code = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        path = str(self.path)
        if code == sqlite3.SQLITE_FULL:
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        if code == sqlite3.SQLITE_BUSY:
            return self._busy()
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
            return PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        if code in _DAMAGED:
            return self._damaged(exc)
        hint = "; is the disk full?" if code == sqlite3.SQLITE_IOERR else ""
        reason = shorten(str(exc), _LONGEST_REASON)
        return OSError(errno.EIO, f"the journal cannot be read or written ({reason}){hint}", path)
