"""A form with one file, sent in large pieces without being held in memory."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from ..upload import OpenContent, View

#: Called with the number of bytes sent, and the number in all.
OnProgress: TypeAlias = Callable[[int, int], object]


class Form:
    """The body of a ``multipart/form-data`` request with one file.

    With ``__iter__`` and ``__len__``, requests sends a Content-Length and the pieces unchanged.
    Each iteration starts over, so the same body can be sent again.

    If the file changes meanwhile, the body ends before its last line, so that no server takes it
    for complete.
    """

    def __init__(
        self,
        fields: Mapping[str, str],
        part: str,
        file_name: str,
        file: OpenContent,
        on_progress: OnProgress | None = None,
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
            "len": file.size,
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
        self._file = file
        self._on_progress = on_progress

    def __len__(self) -> int:
        return len(self._head) + self._file.size + len(self._tail)

    def __iter__(self) -> Iterator[View]:
        before = self._head
        for piece in self._pieces():
            yield before + piece if before else piece  # both in one send
            before = b""
        yield before + self._tail

    def _pieces(self) -> Iterator[View]:
        done, size = 0, self._file.size
        try:
            for piece in self._file:
                yield piece
                done += len(piece)
                if self._on_progress is not None:
                    self._on_progress(done, size)
        except Exception as exc:
            self.failure = exc
            raise
