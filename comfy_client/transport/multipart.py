"""A form with one file, sent in large pieces without being held in memory."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, Final, TypeAlias

from ..upload import FileChanged

_CHUNK: Final = 1 << 20

#: Called with the number of bytes sent, and the number in all.
OnProgress: TypeAlias = Callable[[int, int], object]


class Form:
    """The body of a ``multipart/form-data`` request with one file.

    With ``__iter__`` and ``__len__``, requests sends a Content-Length and the pieces unchanged.
    Each iteration starts over, so the same body can be sent again.

    If the file's SHA-256 is not ``digest``, the body ends before its last line, so that no server
    takes it for complete.
    """

    def __init__(
        self,
        fields: Mapping[str, str],
        part: str,
        file_name: str,
        stream: BinaryIO,
        size: int,
        on_progress: OnProgress | None = None,
        digest: str | None = None,
    ) -> None:
        boundary = secrets.token_hex(16)
        self.content_type: str = f"multipart/form-data; boundary={boundary}"
        #: The error that ended the reading of the file, or that ``on_progress`` raised.
        self.failure: Exception | None = None
        #: The facts for a recording.
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
        self._on_progress = on_progress
        self._digest = digest

    def __len__(self) -> int:
        return len(self._head) + self._size + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        before = self._head
        for piece in self._pieces():
            yield before + piece  # both in one send
            before = b""
        yield before + self._tail

    def _pieces(self) -> Iterator[bytes]:
        left = self._size
        hasher = self._digest and hashlib.sha256()
        try:
            self._stream.seek(self._start)
            while left:
                piece = self._stream.read(min(_CHUNK, left))
                if not piece:
                    raise FileChanged("the file became shorter while it was sent")
                if hasher:
                    hasher.update(piece)
                left -= len(piece)
                yield piece
                if self._on_progress is not None:
                    self._on_progress(self._size - left, self._size)
            if hasher and hasher.hexdigest() != self._digest:
                raise FileChanged("the file changed before it was sent")
        except Exception as exc:
            self.failure = exc
            raise
