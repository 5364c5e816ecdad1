"""What a sweep has begun and how it ended, on the disk, whatever becomes of the process.

An SQLite file with a row for each point that was ever submitted, found by the digest of its
graph.  A write has reached the disk before it returns, and happens in full or not at all,
though the disk be full or the process be killed.

SQLite itself keeps a second process out, by the lock that it keeps while the journal is open.
No write-ahead log: what has been written is in this one file, which may be copied as one.  What
SQLite needs to undo half a write lies beside it only while a sweep is at work, or was killed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import sqlite3
import stat
import threading
import uuid
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final, Self, TypeAlias

import attrs

from ..errors import ClientClosed
from ..transport.files import place

#: In the header of the file, so that nothing else is taken for a journal.
_APPLICATION: Final = int.from_bytes(b"CoSw")
_VERSION: Final = 3
#: That of journals of one server alone, which are those of this one, too.
_FORMER: Final = 2
_MAGIC: Final = b"SQLite format 3\x00"
#: How the file begins in which SQLite has what it needs to undo half a write: with its mark, or
#: without, when there is nothing to undo.
_UNDO: Final = (b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7", bytes(8), b"")
#: Seconds that are given to somebody who reads the file at the moment.
_READERS: Final = 1.0

_SCHEMA: Final = f"""
    PRAGMA journal_mode = OFF;
    PRAGMA application_id = {_APPLICATION};
    PRAGMA user_version = {_VERSION};
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

#: A point: the digest of its graph, and which one it is of those with equal graphs.
Key: TypeAlias = tuple[str, int]

#: Journals that are open in this process, by device and file number.  Whoever opens and closes
#: such a file in the same process, as here to read its header, lifts the locks on it (POSIX).
_in_use: dict[tuple[int, int], Journal] = {}

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_use.clear)


def _from_json(text: str | None) -> Any:
    return None if text is None else json.loads(text)


@attrs.frozen
class Record:
    """What a journal has of one point: the columns of its row behind the key."""

    host: str  #: Empty: no server has got the last try.
    tries: int
    prompt_id: str
    sent_at: float
    withdrawn: bool = attrs.field(converter=bool)
    told: bool = attrs.field(converter=bool)
    seconds: float | None
    execution_seconds: float | None
    result: Mapping[str, Any] | None = attrs.field(converter=_from_json)
    error: Mapping[str, Any] | None = attrs.field(converter=_from_json)


class Journal:
    """An open journal: nobody else writes it meanwhile.  Threads may write it at the same time.

    Args:
        path: Of the file; it is made when missing, its folder is not.

    Raises:
        BlockingIOError: Somebody else is at work with it.
        ValueError: It is no journal (then it is left as it is), or damaged; or what lies beside
            it has a name that SQLite needs.
        OSError: It cannot be made, read or written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Path = Path(path)
        self._lock = threading.Lock()  # guards the connection; nothing else is taken in here
        self.is_new: bool = not os.path.lexists(self.path) and _create(self.path)
        found = self.path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{self.path} is no journal of a sweep: it is no file at all")
        self._identity = found.st_dev, found.st_ino
        self._pid = os.getpid()
        if _in_use.setdefault(self._identity, self) is not self:
            raise self._busy()
        self._connection: sqlite3.Connection | None = None
        try:
            with self.path.open("r+b", buffering=0) as file:
                _check_header(self.path, file.read(100))
            _check_beside(self.path)
            self._connection = _connect(self.path)
            self._claim(self._connection)
        except BaseException:
            self.close()
            raise

    def _claim(self, connection: sqlite3.Connection) -> None:
        """Keep everybody else out, and read whose it is."""
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = PERSIST")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA fullfsync = ON")  # or macOS would not wait for the disk
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("COMMIT")
            ((name,),) = connection.execute("SELECT id FROM journal")
            #: Of which the ids of its prompts are made.
            self.id: uuid.UUID = uuid.UUID(name)
            ((version,),) = connection.execute("PRAGMA user_version")
            if version == _FORMER:  # whose program would take all hosts for its own
                connection.execute(f"PRAGMA user_version = {_VERSION}")
        except sqlite3.Error as exc:
            raise self._explained(exc) from exc
        except (TypeError, ValueError, AttributeError) as exc:
            raise self._damaged(exc) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others have it; who writes it yet gets :class:`ClientClosed`."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            if os.getpid() == self._pid:  # or it is the parent's, and so is what lies beside it
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("PRAGMA locking_mode = NORMAL")
                    connection.execute("PRAGMA journal_mode = DELETE")
            connection.close()
        if _in_use.get(self._identity) is self:
            del _in_use[self._identity]

    # -- reading -------------------------------------------------------------------------

    def records(self, keys: Collection[Key]) -> dict[Key, Record]:
        """What it has of these points."""
        assert self._connection is not None  # noqa: S101
        found: dict[Key, Record] = {}
        try:
            for row in self._connection.execute(
                "SELECT digest, occurrence, host, tries, prompt_id, sent_at, withdrawn, told, "
                "seconds, execution_seconds, result, error FROM points"
            ):
                if row[:2] in keys:
                    found[row[:2]] = Record(*row[2:])
        except sqlite3.Error as exc:
            raise self._explained(exc) from exc
        except (TypeError, ValueError) as exc:
            raise self._damaged(exc) from None
        return found

    # -- writing: on the disk when it returns ----------------------------------------------

    def sent(self, key: Key, host: str, prompt_id: str, tries: int, at: float) -> None:
        """It is about to be sent to a server; what became of it before does not count any more."""
        self._write(
            "INSERT OR REPLACE INTO points (digest, occurrence, host, tries, prompt_id, sent_at) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            *key,
            host,
            tries,
            prompt_id,
            at,
        )

    def accepted(self, key: Key, prompt_id: str) -> None:
        """The server has it under another id."""
        self._write(
            "UPDATE points SET prompt_id = ? WHERE digest = ? AND occurrence = ?", prompt_id, *key
        )

    def returned(self, key: Key) -> None:
        """The server has surely got nothing of it."""
        self._write(
            "UPDATE points SET withdrawn = 1, host = '' WHERE digest = ? AND occurrence = ?", *key
        )

    def withdrawn(self, key: Key) -> None:
        """It was deleted from the queue, unless it had begun to run."""
        self._write("UPDATE points SET withdrawn = 1 WHERE digest = ? AND occurrence = ?", *key)

    def ended(
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
        """It has a result, or an error."""
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

    def ran(self, key: Key, execution_seconds: float) -> None:
        """How long, as the server says later than of its end."""
        self._write(
            "UPDATE points SET execution_seconds = ? WHERE digest = ? AND occurrence = ?",
            execution_seconds,
            *key,
        )

    def told(self, key: Key) -> None:
        """The caller's callback has had its row, and returned."""
        self._write("UPDATE points SET told = 1 WHERE digest = ? AND occurrence = ?", *key)

    def _write(self, statement: str, *values: object) -> None:
        try:
            with self._lock:
                if self._connection is None:
                    raise ClientClosed("the sweep has ended, and sends nothing more")
                self._connection.execute(statement, values)
        except sqlite3.Error as exc:
            raise self._explained(exc) from exc

    # -- what goes wrong -------------------------------------------------------------------

    def _busy(self) -> OSError:
        text = "this journal is in use, by this process or another one"
        return BlockingIOError(errno.EAGAIN, text, str(self.path))

    def _damaged(self, exc: Exception) -> ValueError:
        return ValueError(f"{self.path} is damaged: {exc}")

    def _explained(self, exc: sqlite3.Error) -> Exception:
        """SQLite's errors as those of any file."""
        code = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        path = str(self.path)
        if code == sqlite3.SQLITE_FULL:
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        if code == sqlite3.SQLITE_BUSY:
            return self._busy()
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
            return PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
            return self._damaged(exc)
        hint = "; is the disk full?" if code == sqlite3.SQLITE_IOERR else ""
        return OSError(errno.EIO, f"the journal cannot be read or written ({exc}){hint}", path)


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        isolation_level=None,
        timeout=_READERS,
        check_same_thread=False,  # a lock keeps threads apart
    )


def _check_header(path: Path, header: bytes) -> None:
    """Before SQLite has a look at it, which may tidy up behind whoever wrote it last."""
    if header[:16] != _MAGIC or int.from_bytes(header[68:72]) != _APPLICATION:
        raise ValueError(
            f"{path} is no journal of a sweep, which is an SQLite file; give another file"
        )
    version = int.from_bytes(header[60:64])
    if version not in (_VERSION, _FORMER):
        raise ValueError(f"{path} is a journal of another version of comfy_client ({version})")


def _check_beside(path: Path, *, is_missing: bool = False) -> None:
    """SQLite writes over files of these names, deletes them, or believes what they say."""
    real = path.resolve()  # beside a link's goal, that is
    for ending in ("-journal", "-wal"):
        beside = real.with_name(real.name + ending)
        try:
            start = None
            if stat.S_ISREG(beside.lstat().st_mode):  # a pipe would wait for a writer
                with beside.open("rb") as file:
                    start = file.read(8)
        except FileNotFoundError:
            continue
        # Of a journal that is gone, it would be taken for what has to be undone in the new one.
        if is_missing or ending == "-wal" or start not in _UNDO:
            raise ValueError(
                f"{beside} is in the way: SQLite would take it for its own; move it away, or "
                "give the journal another name"
            )


def _create(path: Path) -> bool:
    """Have it appear complete; ``False``: somebody was faster, and theirs counts."""
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder", str(path.parent))
    _check_beside(path, is_missing=True)
    try:
        # For its owner alone; what SQLite puts beside it for a moment, too.
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with contextlib.closing(_connect(part)) as connection:
            connection.executescript(_SCHEMA)
            connection.execute("INSERT INTO journal VALUES (?)", (str(uuid.uuid4()),))
        with part.open("r+b") as file:
            os.fsync(file.fileno())
        is_ours = place(part, path)
    except sqlite3.Error as exc:
        raise OSError(errno.EIO, f"the journal cannot be made ({exc})", str(path)) from None
    finally:
        part.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # where folders can be opened, their entries too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return is_ours
