"""Node definitions on disk, for the next process that asks the same server.

A file is one server's.  Its first line is a JSON object with the server, the start of the server
and the names of all classes; each further line has a class, a tab and its definition.

A server has no id of its start, but its log does: each line in memory has the time to the
microsecond.  While the server still has one of the lines that it had when the definitions were
read, it was not restarted since, and has the same node packs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from .. import runtime
from ..values import mapping
from ..workflow.definition_source import FromDisk

_FORMAT: Final = 1
#: The names of our files, and how those that are not complete yet begin.
_PREFIX: Final = "definitions-"
_OURS: Final = re.compile(rf"[0-9a-f]{{32}}\.jsonl|{_PREFIX}\w+\.new")
#: The most bytes of a file and of a definition in it, and the most files.
MOST_BYTES: Final = 16 << 20
_MOST_OF_ONE: Final = 2 << 20
MOST_FILES: Final = 16
#: The memory that a definition takes, for each byte of its line.
_GROWTH: Final = 4
#: Seconds for which definitions serve: choices of files may change while a server runs.
MAX_AGE: Final = 3600.0
#: A link is not followed, and nothing waits for the writer of a pipe.
_READ: Final = os.O_RDONLY | sum(
    getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY")
)
#: The shortest time of a log line that has microseconds.
_TIME: Final = len("2024-01-01T00:00:00.0")


def marks_in(answer: object) -> frozenset[str]:
    """Return a mark of each line in the answer of ``GET /internal/logs/raw``.

    It is a digest, as terminal output is nobody's business.
    """
    entries = mapping(answer, "GET /internal/logs/raw").get("entries")
    return frozenset(_marks(entries)) if isinstance(entries, list) else frozenset()


def _marks(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        match entry:
            case {"t": str(at), "m": str(text)} if len(at) >= _TIME:
                data = f"{at}\0{text}".encode("utf-8", "surrogatepass")
                yield hashlib.sha256(data).hexdigest()[:16]


class DefinitionFile:
    """The file of a server's definitions, readable by its owner only.

    A file that is damaged, too large or another user's counts as missing, and so does a folder
    that cannot be written: nothing here raises.
    """

    def __init__(self, folder: Path, server: str) -> None:
        self._server = hashlib.sha256(server.encode("utf-8", "surrogatepass")).hexdigest()
        self._folder = folder
        self._path = folder / f"{self._server[:32]}.jsonl"

    @property
    def exists(self) -> bool:
        """Whether there is a file, which may be of an earlier start of the server."""
        return self._path.exists()

    def read(self, marks: Collection[str], classes: Collection[str]) -> tuple[dict[str, Any], int]:
        """Return those of these classes that are known, and the memory that they take.

        ``marks`` are those of the server as it runs now.
        """
        content, found, size = self._content(marks), dict[str, Any](), 0
        if content is None:
            return found, size
        for name in classes:
            line = content.lines.get(name, b"")
            if (definition := _decoded(line[line.find(b"\t") + 1 :])) is not None:
                found[name] = FromDisk(definition)
                size += _GROWTH * len(line)
        if 2 * len(content.marks & set(marks)) < len(content.marks):
            # The server soon forgets the lines by which the file is known.
            self._write(attrs.evolve(content, marks=frozenset(marks)))
        return found, size

    def names(self, marks: Collection[str]) -> tuple[str, ...] | None:
        """Return the names of all classes; None if they are not known."""
        content = self._content(marks)
        return content.names if content else None

    def write(
        self,
        marks: Collection[str],
        definitions: Mapping[str, Any],
        names: tuple[str, ...] | None = None,
    ) -> None:
        """Add definitions, and the names of all classes unless None.

        ``marks`` are of the server before it was asked for them.
        """
        if not marks:
            return
        known = self._content(marks) or _Content(runtime.wall_time())
        lines = {
            name: f"{json.dumps(name)}\t{json.dumps(one)}".encode()
            for name, one in definitions.items()
            if not isinstance(one, FromDisk)
        }
        lines = {name: line for name, line in lines.items() if len(line) <= _MOST_OF_ONE}
        names = known.names if names is None else names
        self._write(_Content(known.since, frozenset(marks), names, {**known.lines, **lines}))

    def drop(self, classes: Collection[str]) -> None:
        """Forget classes, as their definitions are no longer true."""
        content = self._read()
        if content is None or content.lines.keys().isdisjoint(classes):
            return
        lines = {name: line for name, line in content.lines.items() if name not in classes}
        self._write(attrs.evolve(content, lines=lines))

    # -- the file on disk ----------------------------------------------------------------

    def _content(self, marks: Collection[str]) -> _Content | None:
        """Return what the file has about the server as it runs now; None if it has nothing."""
        content = self._read() if marks else None
        if content is None or content.marks.isdisjoint(marks):
            return None
        return content if 0 <= runtime.wall_time() - content.since < MAX_AGE else None

    def _read(self) -> _Content | None:
        with contextlib.suppress(OSError, ValueError), open(self._path, "rb", opener=_open) as file:
            if _is_ours(file.fileno()):
                return self._parsed(file.read(MOST_BYTES))
        return None

    def _parsed(self, content: bytes) -> _Content | None:
        head, _, rest = content.partition(b"\n")
        match _decoded(head):
            case {
                "format": format_,
                "server": self._server,
                "since": int() | float() as since,
                "marks": [*marks],
                "names": None | [*_] as names,
            } if format_ == _FORMAT and all(
                isinstance(one, str) for one in (*marks, *(names or ()))
            ):
                pass
            case _:
                return None
        lines = {}
        for line in rest.splitlines():
            try:
                name = json.loads(line[: line.find(b"\t")])
            except (ValueError, RecursionError):
                return None
            if not isinstance(name, str):
                return None
            lines[name] = line
        return _Content(since, frozenset(marks), None if names is None else tuple(names), lines)

    def _write(self, content: _Content) -> None:
        """Replace the file by one with this content, at once."""
        names = None if content.names is None else list(content.names)
        head = {
            "format": _FORMAT,
            "server": self._server,
            "since": content.since,
            "marks": sorted(content.marks),
            "names": names,
        }
        lines, size = [json.dumps(head).encode()], 0
        for line in content.lines.values():
            size += len(line) + 1
            if size + len(lines[0]) >= MOST_BYTES:
                break
            lines.append(line)
        with contextlib.suppress(OSError, ValueError):
            self._folder.mkdir(0o700, parents=True, exist_ok=True)
            if not _is_private(self._folder.stat()):
                return
            self._make_room()
            descriptor, name = tempfile.mkstemp(".new", _PREFIX, self._folder)
            try:
                with open(descriptor, "wb") as file:
                    file.write(b"\n".join(lines))
                os.replace(name, self._path)
            except BaseException:
                with contextlib.suppress(OSError):  # it may have its final name already
                    os.unlink(name)
                raise

    def _make_room(self) -> None:
        """Delete the oldest of our files if there are too many, those of a crash included.

        The folder may hold files of the user.
        """
        there = (file for file in self._folder.iterdir() if file != self._path)
        files = [file for file in there if _OURS.fullmatch(file.name)]
        files.sort(key=lambda file: file.stat().st_mtime, reverse=True)
        for file in files[MOST_FILES - 1 :]:
            file.unlink()


@attrs.frozen
class _Content:
    """The content of a file.

    Attributes:
        since: When the first of the definitions was read, as seconds since 1970.
        marks: Marks of the server at that time.
        names: The names of all classes; ``None``: unknown.
        lines: The lines with definitions, by class.
    """

    since: float
    marks: frozenset[str] = frozenset()
    names: tuple[str, ...] | None = None
    lines: Mapping[str, bytes] = attrs.field(factory=dict)


def _decoded(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _open(path: str, _: int) -> int:
    return os.open(path, _READ)


def _is_ours(descriptor: int) -> bool:
    """Return whether an open file is a private one of this user's, and not too large."""
    found = os.fstat(descriptor)
    return stat.S_ISREG(found.st_mode) and found.st_size < MOST_BYTES and _is_private(found)


def _is_private(found: os.stat_result) -> bool:
    """Return whether a file or folder is this user's, and nobody else may write it (on POSIX)."""
    if os.name != "posix":
        return True
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
