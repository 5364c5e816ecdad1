"""Creation, checks and opening of a journal's SQLite file.

A journal may come from a stranger, in an archive for example.  SQLite trusts its files: the names
in a rollback journal, views, triggers, and trees of pages without end.  So a file is checked
before SQLite reads it, and its schema must be the one below.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import secrets
import sqlite3
import stat
import uuid
from pathlib import Path
from typing import Final

from ..transport.local_files import discard, place

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


def make(path: Path) -> bool:
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


def check(path: Path) -> None:
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
