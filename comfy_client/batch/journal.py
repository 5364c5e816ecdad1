"""The journal of a sweep: a record on disk of the points that it began, and how they ended.

It is an SQLite file with a row for each point that was ever submitted, found by the digest of its
graph.  A write has reached the disk before it returns, and happens in full or not at all, even if
the disk is full or the process is killed.

SQLite keeps a second process out by the lock that it holds while the journal is open.  There is no
write-ahead log: everything is in this one file, which may be copied alone.  Another file, with
which SQLite undoes a partial write, exists beside it only while a sweep is running, or after one
was killed.

A journal may come from a stranger, in an archive for example.  SQLite trusts its files: the names
in a rollback journal, views, triggers, and trees of pages without end.  So a file is checked
before SQLite reads it, and its schema must be the one below.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import re
import secrets
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
from ..replacing import discard
from ..transport.local_files import place
from ..values import MAX_LEVELS, is_shallow, number, size_decoded
from ..workflow.graph import brief, shorten

#: The application id in the file's header, by which a journal is recognized.
_APPLICATION: Final = int.from_bytes(b"CoSw")
VERSION: Final = 3
_MAGIC: Final = b"SQLite format 3\x00"
#: Bytes in the header of a file that has no write-ahead log.
_NO_LOG: Final = b"\1\1"
#: The first bytes of a rollback journal, with which SQLite undoes a partial write; also the last
#: bytes if it names a super-journal.
_UNDO: Final = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
#: Seconds to wait for a program that is reading the file.
_READERS: Final = 1.0
#: The most bytes of one row.
MAX_ROW: Final = 256 << 20

_SCHEMA: Final = f"""
    PRAGMA journal_mode = OFF;
    PRAGMA application_id = {_APPLICATION};
    PRAGMA user_version = {VERSION};
    CREATE TABLE journal (id TEXT NOT NULL);
    CREATE TABLE points (
        digest TEXT NOT NULL,  -- of the graph
        occurrence INTEGER NOT NULL,  -- counts equal graphs of one grid, from 1
        host TEXT NOT NULL,  -- the server of the last try; empty: it surely got nothing
        tries INTEGER NOT NULL,
        prompt_id TEXT NOT NULL,  -- of the last try
        sent_at REAL NOT NULL,  -- Unix time
        withdrawn INTEGER NOT NULL DEFAULT 0,  -- deleted from the queue, unless it ran
        told INTEGER NOT NULL DEFAULT 0,  -- on_row has returned
        seconds REAL,
        execution_seconds REAL,
        result TEXT,  -- JSON; this or error says that it has ended
        error TEXT,  -- JSON
        PRIMARY KEY (digest, occurrence)
    );
"""
#: The number of entries in the schema: two tables, and the index of a primary key.
_ENTRIES: Final = 3
#: The type of a page of a table that refers to no other page.
_LEAF: Final = 13


def connect(path: Path) -> sqlite3.Connection:
    """Open a connection to a file that was checked; nothing is read from the file yet."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        isolation_level=None,
        timeout=_READERS,
        check_same_thread=False,  # the journal has a lock of its own
    )
    try:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_ROW)
        connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, 10_000)
        connection.setlimit(sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 20)
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def make_file(path: Path) -> bool:
    """Make a complete new journal; return False if another process made one first."""
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder", str(path.parent))
    if (undo := _beside(path)) is not None:  # SQLite would undo something in the new file
        raise _in_the_way(undo)
    try:
        # Only its owner may read it, or the temporary files that SQLite puts beside it.
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with contextlib.closing(connect(part)) as connection:
            connection.executescript(_SCHEMA)
            connection.execute("INSERT INTO journal VALUES (?)", (str(uuid.uuid4()),))
        with part.open("r+b") as file:
            os.fsync(file.fileno())
        is_ours = place(part, path)
    except sqlite3.Error as exc:
        raise OSError(errno.EIO, f"the journal cannot be created ({exc})", str(path)) from None
    finally:
        discard(part)
    with contextlib.suppress(OSError):  # the folder's entry, on systems that can open folders
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return is_ours


def check_file(path: Path) -> None:
    """Check that SQLite may read a file, and undo a killed process's partial write.

    Raises:
        ValueError: It is not a journal, or has another schema; or a file that SQLite would use lies
            beside it.
        OSError: It cannot be read or written.
        sqlite3.Error: It is in use, or damaged.
    """
    _first_page(path)
    undo = _beside(path)
    if undo is not None:
        _check_undo(undo, path.stat().st_uid)
        with contextlib.closing(connect(path)) as connection:
            connection.execute("BEGIN EXCLUSIVE")  # undoes a partial write, and reads no schema
            connection.execute("COMMIT")
    # A schema on one page is bounded.  Elsewhere, SQLite would read any number of entries, and
    # would never end where pages refer to each other.
    page = _first_page(path)
    if page[100] != _LEAF or int.from_bytes(page[103:105]) != _ENTRIES:
        raise _foreign(path)


def check_schema(path: Path, connection: sqlite3.Connection) -> None:
    """Raise ValueError for views, triggers or tables that do not belong to a journal."""
    if _schema(connection) != _expected():
        raise _foreign(path)


def _schema(connection: sqlite3.Connection) -> list[tuple[str, ...]]:
    """Return the schema with plain spaces for blanks and comments, which differ by version."""
    rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name")
    blanks = re.compile(r"(?:--[^\n]*|[ \t\n])+")
    return [tuple(blanks.sub(" ", str(value)) for value in row) for row in rows]


@functools.cache
def _expected() -> list[tuple[str, ...]]:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(_SCHEMA)
        return _schema(connection)


def _first_page(path: Path) -> bytes:
    """Return the start of a file; raise ValueError unless it is a journal of this version."""
    with path.open("r+b", buffering=0) as file:
        page = file.read(105)
    is_ours = len(page) == 105 and int.from_bytes(page[68:72]) == _APPLICATION
    if page[:16] != _MAGIC or page[18:20] != _NO_LOG or not is_ours:
        raise ValueError(
            f"{path} is not a journal of a sweep, which is an SQLite file; choose another file"
        )
    version = int.from_bytes(page[60:64])
    if version != VERSION:
        raise ValueError(f"{path} is a journal of another version of comfy_client ({version})")
    return page


def _beside(path: Path) -> Path | None:
    """Return the path of a file's rollback journal, or None if there is none.

    Raise ``ValueError`` if there is a write-ahead log, as no journal of a sweep has one.
    """
    real = path.resolve()  # SQLite looks beside the target of a link
    log, undo = (real.with_name(real.name + ending) for ending in ("-wal", "-journal"))
    if os.path.lexists(log):
        raise _in_the_way(log)
    return undo if os.path.lexists(undo) else None


def _check_undo(path: Path, owner: int) -> None:
    """Raise ValueError for a rollback journal that SQLite did not write for a sweep's journal.

    For several databases, its last bytes name a super-journal, a file that SQLite would delete
    wherever it is.
    """
    found = path.lstat()
    us = os.geteuid() if hasattr(os, "geteuid") else owner
    if not stat.S_ISREG(found.st_mode):  # SQLite would follow a link, and hang on a pipe
        raise _in_the_way(path)
    if found.st_uid not in (owner, us):
        raise ValueError(f"{path} belongs to another user: SQLite would trust it; move it away")
    with path.open("rb") as file:
        start = file.read(8)
        file.seek(max(0, found.st_size - 8))
        end = file.read()
    if start not in (_UNDO, bytes(8), b""):  # zeros: there is nothing to undo
        raise _in_the_way(path)
    if found.st_size >= 16 and end == _UNDO:
        raise ValueError(
            f"{path} does not belong to a sweep: SQLite would delete a file that it "
            "names; move it away"
        )


def _in_the_way(path: Path) -> ValueError:
    return ValueError(
        f"{path} is in the way: SQLite would take it for its own; move it away, or give the "
        "journal another name"
    )


def _foreign(path: Path) -> ValueError:
    return ValueError(f"{path} is damaged: its tables are not those of a journal")


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
#: The references are weak, as an interrupted call may leave a journal open.
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
        self.is_new: bool = not os.path.lexists(self.path) and make_file(self.path)
        found = self.path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{self.path} is not a journal of a sweep: it is not even a file")
        self._identity = found.st_dev, found.st_ino
        self._pid = os.getpid()
        self._connection: sqlite3.Connection | None = None
        try:
            if self._is_in_use():
                raise self._busy()
            check_file(self.path)
            self._connection = connect(self.path)
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
        check_schema(self.path, connection)
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
