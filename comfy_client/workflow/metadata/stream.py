"""A file read from start to end, little of which is ever in memory, and the JSON found in it.

Sizes in a file are not trusted: each reader asks this module for what it wants, and the total for
one file is limited.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from typing import Any, Final, Protocol, TypeAlias

from ...errors import WorkflowError
from ...values import size_decoded

#: Names under which a file may carry a workflow: ComfyUI writes ``prompt`` (the graph in API
#: format) and ``workflow`` (in UI format); packs that save videos write both into one comment.
KEYS: Final = frozenset({"prompt", "workflow", "comment", "description"})
#: The result of a reader: names in lower case, and raw texts or the errors of reading them.
Texts: TypeAlias = Iterator[tuple[str, bytes | memoryview | WorkflowError]]
#: Yielded before pixels or sound: if a workflow was found, reading stops here.
PAUSE: Final = ("", b"")
#: The most bytes of one text, compressed or not: a few kB may expand to gigabytes.
MAX_TEXT: Final = 32 << 20
#: The most bytes of all texts of one file.
MAX_TEXTS: Final = 2 * MAX_TEXT
#: The most parts of one file, nested ones included; a picture of 100 MB has some thousands.
MAX_PARTS: Final = 100_000
#: The most bytes of memory for one decoded text.
MAX_DECODED: Final = 320 << 20
#: The message for content of an unknown kind.
NEITHER: Final = "neither JSON nor a picture, video, audio or 3D file that contains a workflow"
#: The number of bytes that identify the kind of file.
_HEAD: Final = 16
#: Bytes per read.
_MOST_AT_ONCE: Final = 1 << 20
#: Bytes per read of skipped content.
_CHUNK: Final = 1 << 16


class BinaryFile(Protocol):
    """A file that was opened in binary mode."""

    def read(self, size: int, /) -> bytes:
        """Read up to ``size`` bytes; return ``b""`` at the end."""


class Stream:
    """The bytes of a file in their order, from its current position.

    Attributes:
        name: What messages call the file.
        head: Its first 16 bytes, or fewer.
        position: How many bytes were read or skipped.
    """

    def __init__(self, file: BinaryFile) -> None:
        self.name = "file"
        self.position: int = 0
        self._file = file
        self._kept = b""
        self._parts = 0
        self._texts = 0
        self._seekable = file if isinstance(file, io.IOBase) and file.seekable() else None
        self._end = _size_left(self._seekable)
        self._kept = self.read(_HEAD)
        self.head: bytes = self._kept
        self.position = 0

    def read(self, size: int) -> bytes:
        """Read ``size`` bytes, or fewer at the end."""
        found, self._kept = self._kept[:size], self._kept[size:]
        whole = io.BytesIO()  # returns its bytes without a copy
        whole.write(found)
        while (missing := size - whole.tell()) > 0:
            chunk = self._file.read(min(missing, _MOST_AT_ONCE))  # sizes are not trusted
            if isinstance(chunk, str):
                raise TypeError("a file with a workflow is opened in binary mode ('rb')")
            if not chunk:
                break
            whole.write(chunk)
        self.position += whole.tell()
        return whole.getvalue()

    def take(self, size: int) -> bytes:
        """Read exactly ``size`` bytes, which are the header of a part.

        Raises:
            WorkflowError: The file ends before, or has too many parts.
        """
        found = self.header(size)
        if len(found) < size:
            raise self.ends_early()
        return found

    def header(self, size: int) -> bytes:
        """Read exactly ``size`` bytes; return ``b""`` at the end of the file.

        Raises:
            WorkflowError: The file ends within it, or has too many parts.
        """
        self.count()
        found = self.read(size)
        if found and len(found) < size:
            raise self.ends_early()
        return found

    def count(self) -> None:
        """Count a part of the file; raise :class:`WorkflowError` beyond the limit."""
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise WorkflowError(f"the {self.name} has more than {MAX_PARTS} parts")

    def text(self, size: int) -> memoryview:
        """Read exactly ``size`` bytes, counted against the limit for texts."""
        self.charge(size)
        return memoryview(self.take(size))

    def charge(self, size: int) -> None:
        """Count ``size`` bytes of text; raise :class:`WorkflowError` beyond the limit."""
        self._texts += size
        if size > MAX_TEXT or self._texts > MAX_TEXTS:
            limit = MAX_TEXT if size > MAX_TEXT else MAX_TEXTS
            raise WorkflowError(f"text in the {self.name} is larger than {limit} bytes")

    def skip(self, size: int) -> None:
        """Skip ``size`` bytes."""
        kept = len(self._kept[:size])
        self._kept = self._kept[kept:]
        self.position += kept
        size -= kept
        if self._seekable is not None and self._end is not None:
            if size > self._end - self.position:
                raise self.ends_early()
            if size:
                self._seekable.seek(size, os.SEEK_CUR)
                self.position += size
            return
        while size > 0:
            found = len(self.read(min(size, _CHUNK)))
            if not found:
                raise self.ends_early()
            size -= found

    def ends_early(self) -> WorkflowError:
        """Return the error for a truncated file."""
        at = self.position if self._end is None else self._end
        return WorkflowError(f"the {self.name} ends early, at byte {at}")


def _size_left(file: io.IOBase | None) -> int | None:
    """Return the number of bytes from a file's position to its end, or None if unknown."""
    if file is None:
        return None
    try:
        start = file.tell()
        end = file.seek(0, os.SEEK_END)
        file.seek(start)
    except OSError:
        return None
    return max(0, end - start)


def decoded(text: str | bytes | memoryview, where: str) -> Any:
    """Decode a JSON text; NaN and Infinity are allowed, as on the server.

    Raises:
        WorkflowError: It is not JSON (with line and column), nested too deeply or too large.
    """
    text = bytes(text) if isinstance(text, memoryview) else text
    needed = size_decoded(text)
    if needed > MAX_DECODED:
        raise WorkflowError(f"{where}: would take {needed >> 20} MiB of memory, too much to read")
    try:
        return json.loads(text)
    except json.JSONDecodeError as exc:
        raise WorkflowError(
            f"{where}, line {exc.lineno}, column {exc.colno}: not valid JSON: {exc.msg}"
        ) from None
    except UnicodeDecodeError:
        raise WorkflowError(f"{where}: {NEITHER}") from None
    except RecursionError:
        raise WorkflowError(f"{where}: nested too deeply") from None
    except ValueError as exc:
        raise WorkflowError(f"{where}: cannot be read as JSON: {exc}") from None
