"""A file of the server that is read like a local one."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Final

from ..errors import TransportError
from .response import Download
from .resume import mark_of, size_of, sure_mark_of

#: Bytes that are read and thrown away rather than asked around by another request.
_NEAR: Final = 1 << 18


class RemoteFile(io.RawIOBase):
    """A file that is read from any position; a far jump asks for the rest from there on.

    Where the server cannot begin in the middle, all that lies between is read, and going back
    begins anew.  Where it does not say which version of the file it sends, all that lies between is
    read as well, and going back is an error: another request might bring another file.

    Args:
        name: What the server calls it.
        download: Asks for the file from a byte on; the answer may be all of it (status 200).
    """

    def __init__(
        self, name: str, download: Callable[[int], AbstractContextManager[Download]]
    ) -> None:
        self.name = name
        self._download = download
        self._body = contextlib.ExitStack()
        self._chunks: Iterator[bytes] = iter(())
        self._chunk = memoryview(b"")
        self._at = 0  # where the chunk begins in the file
        self._position = 0
        self._jumps = True
        self._is_marked = True
        self._version: tuple[object, object] | None = None
        self._length = self._open(0).length

    def _open(self, start: int) -> Download:
        self._body.close()
        download = self._body.enter_context(self._download(start))
        size = size_of(download)
        version = size, mark_of(download.headers, size)
        if self._version is None:
            self._is_marked = bool(sure_mark_of(download.headers, size))
        elif self._version != version:
            raise TransportError(f"{self.name} was replaced on the server while it was read")
        self._version = version
        self._chunks, self._chunk = iter(download), memoryview(b"")
        self._at = start if download.status == 206 else 0
        self._jumps = self._at == start and self._is_marked
        return download

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return whether the server said how long it is."""
        return self._length is not None

    def tell(self) -> int:
        """Return the position of the next byte that is read."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a position; nothing is sent before something is read there."""
        base = {os.SEEK_CUR: self._position, os.SEEK_END: self._length}.get(whence) or 0
        if base + offset < 0:
            raise ValueError(f"negative position {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # of typeshed
        """Read some bytes at the position; return 0 at the end."""
        if self._length is not None and self._position >= self._length:
            return 0
        ahead = self._position - self._at
        if ahead < 0 or (self._jumps and ahead > len(self._chunk) + _NEAR):
            if not self._is_marked:
                raise TransportError(
                    f"{self.name}: the server says neither by ETag nor by Last-Modified which "
                    "version of the file it sends, so going back might mix two: read it in order, "
                    "or all at once with get_image()"
                )
            self._open(self._position)
        while self._position - self._at >= len(self._chunk):
            self._at += len(self._chunk)
            self._chunk = memoryview(next(self._chunks, b""))
            if not self._chunk:
                return 0
        found = self._chunk[self._position - self._at :][: len(buffer)]
        buffer[: len(found)] = found
        self._position += len(found)
        return len(found)

    def close(self) -> None:
        """Let go of the connection."""
        self._body.close()
        super().close()
