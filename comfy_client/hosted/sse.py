"""A parser of server-sent events.  Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from ..errors import UnexpectedResponse

#: The most bytes of a frame; a preview of the largest size that ComfyUI sends is far smaller.
MAX_FRAME: Final = 8 << 20
#: The most bytes of a stream; a longer one is broken off, and its job is still polled.
MAX_STREAM: Final = 1 << 30

_BOM: Final = b"\xef\xbb\xbf"


class SseFrame(NamedTuple):
    """A frame of an event stream.

    Attributes:
        event: The name of the event; ``message`` if the frame has none.
        data: The lines of data, joined by line feeds.
    """

    event: str
    data: str


class FrameReader:
    """A parser that is fed with the bytes of a stream, and returns its frames.

    The bytes may be divided in any way.  Lines end with LF, CRLF or CR.  Comments, ids
    and retry times are left out, and so is an incomplete frame at the end of the stream.

    Args:
        max_frame: The most bytes of a frame.
        max_stream: The most bytes of the stream.
    """

    def __init__(self, max_frame: int = MAX_FRAME, max_stream: int = MAX_STREAM) -> None:
        self._max_frame = max_frame
        self._left = max_stream
        self._line = bytearray()  # a line of which the end has not arrived
        self._size = 0  # bytes of the frame so far, of complete lines
        self._is_first = True  # whether no line was complete yet
        self._after_cr = False  # whether a line feed belongs to the end of the last line
        self._event = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[SseFrame]:
        """Add bytes, and return the frames that they complete.

        Raises:
            UnexpectedResponse: A frame or the stream is too large.
        """
        self._left -= len(chunk)
        if self._left < 0:
            raise UnexpectedResponse("the event stream is larger than allowed")
        return [frame for line in self._lines(chunk) if (frame := self._add(line)) is not None]

    def _lines(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the lines that a chunk completes, without their ends."""
        if not chunk:
            return
        if self._after_cr:
            chunk = chunk.removeprefix(b"\n")
        self._after_cr = chunk.endswith(b"\r")
        *whole, rest = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for piece in whole:
            self._line += piece
            self._check_size()
            line, self._line = bytes(self._line), bytearray()
            if self._is_first:
                line, self._is_first = line.removeprefix(_BOM), False
            yield line
        self._line += rest
        self._check_size()

    def _check_size(self) -> None:
        if self._size + len(self._line) > self._max_frame:
            raise UnexpectedResponse(
                f"the event stream has a frame of over {self._max_frame} bytes"
            )

    def _add(self, line: bytes) -> SseFrame | None:
        """Add a complete line to the frame; return the frame if the line ends it."""
        if not line:
            frame = (
                SseFrame(self._event or "message", "\n".join(self._data)) if self._data else None
            )
            self._event, self._data, self._size = "", [], 0
            return frame
        name, _, value = line.decode("utf-8", "replace").partition(":")
        if name in ("event", "data"):
            # Also without the name: many empty lines of data take memory, too.
            self._size += len(line) + 1
            value = value.removeprefix(" ")
            if name == "data":
                self._data.append(value)
            else:
                self._event = value
        return None
