"""A form with one file, sent in large pieces without being held in memory."""

from __future__ import annotations

import io
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

_CHUNK = 1 << 20


@contextmanager
def opened(file: BinaryIO | bytes | Path) -> Iterator[tuple[BinaryIO, int]]:
    """A stream from its current position, and how many bytes are left in it."""
    if isinstance(file, bytes):
        yield io.BytesIO(file), len(file)
    elif isinstance(file, Path):
        with file.open("rb") as stream, opened(stream) as whole:
            yield whole
    else:
        try:
            start = file.tell()
            size = file.seek(0, os.SEEK_END) - start
            file.seek(start)
        except OSError:  # a pipe, as a shell's <(...) or standard input
            start = size = 0
        if start and size <= 0:
            raise ValueError("the file stands at its end: rewind it first, file.seek(0)")
        if size > 0:
            yield file, size
            return
        # A file without a size may still have content, as in /proc.
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(file, copy, _CHUNK)
            size = copy.tell()
            copy.seek(0)
            yield copy, size


class Form:
    """The body of a ``multipart/form-data`` request.

    ``__iter__`` and ``__len__`` make requests send a Content-Length and the pieces as they
    are; each iteration starts over, so the same body can be sent again.
    """

    def __init__(
        self, fields: Mapping[str, str], part: str, file_name: str, stream: BinaryIO, size: int
    ) -> None:
        boundary = secrets.token_hex(16)
        self.content_type: str = f"multipart/form-data; boundary={boundary}"
        self.failure: OSError | None = None  #: Why the file could not be read to its end.
        #: What a recording stores of it.
        self.facts: dict[str, Any] = {
            "fields": dict(fields),
            "part": part,
            "file": file_name,
            "len": size,
        }
        head = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields.items()
        )
        quoted = file_name.translate({34: "%22", 13: "%0D", 10: "%0A"})
        head += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="{part}"; '
            f'filename="{quoted}"\r\nContent-Type: application/octet-stream\r\n\r\n'
        )
        self._head = head.encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._stream = stream
        self._start = stream.tell()
        self._size = size

    def __len__(self) -> int:
        return len(self._head) + self._size + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        yield from self._pieces()
        yield self._tail

    def _pieces(self) -> Iterator[bytes]:
        left = self._size
        try:
            self._stream.seek(self._start)
            while left:
                piece = self._stream.read(min(_CHUNK, left))
                if not piece:
                    raise OSError("the file became shorter while it was sent")
                left -= len(piece)
                yield piece
        except OSError as exc:
            self.failure = exc
            raise
