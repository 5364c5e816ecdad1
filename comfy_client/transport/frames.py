"""Parsing of WebSocket messages: many small frames out of one large read.

websocket-client reads a frame in three or more pieces of up to 16 KiB.  Each read releases the
interpreter's lock and must win it back, which costs more than everything else.  So
websocket-client only makes the handshake and sends, and this module reads.
"""

from __future__ import annotations

import socket
from typing import Final

from .. import runtime

#: The opcodes of frames.
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10

#: The size of the buffer, and the first size of the buffer for a larger frame, in bytes.
BUFFER: Final = 1 << 19
AT_ONCE: Final = 1 << 24

_FINAL, _CONTROL = 0x80, 0x08
#: The first bytes of frames that are whole messages.
_WHOLE: Final = (_FINAL | TEXT, _FINAL | BINARY)


class FrameError(Exception):
    """The bytes violate the protocol or exceed a limit."""


class Frames:
    """Reads messages from a socket: call :meth:`next` until it returns None, then :meth:`read`.

    Args:
        sock: The socket.
        limit: The most bytes of one message.
        begun: The bytes that were read from the socket before.
        max_text: The most bytes of a text; ``None``: ``limit``.
        size: Bytes per read; a larger frame gets a separate buffer.
        at_once: The first size of such a buffer.  It grows only as bytes arrive, since a server
            may announce any length.
    """

    def __init__(
        self,
        sock: socket.socket,
        limit: int,
        begun: bytes = b"",
        *,
        max_text: int | None = None,
        size: int = BUFFER,
        at_once: int = AT_ONCE,
    ) -> None:
        self._sock = sock
        self._limit = limit
        self._max_text = limit if max_text is None else min(limit, max_text)
        self._size = size
        self._at_once = at_once
        self._buffer = memoryview(bytearray(size))
        self._buffer[: len(begun)] = begun
        self._start, self._end = 0, len(begun)  # the unread part of the buffer
        self._needed = 0  # bytes needed from the start on for the frame there, as far as known
        self._opcode = 0  # the opcode of an incomplete message
        self._fragments = bytearray()
        self.received_at: float = runtime.monotonic()  #: When a byte last arrived.

    @property
    def is_within(self) -> bool:
        """Whether a message has arrived in part."""
        return self._start != self._end or self._opcode != 0

    def read(self) -> int:
        """Wait once for more bytes, and return their number; a ``TimeoutError`` loses nothing."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == len(self._buffer):
            self._enlarge()
        got = self._sock.recv_into(self._buffer[self._end :])
        if not got:
            raise ConnectionError("the server ended the connection")
        self._end += got
        self.received_at = runtime.monotonic()
        return got

    def next(self) -> tuple[int, bytes | memoryview] | None:
        """Return the opcode and payload of the next complete message or control frame, or None."""
        while True:  # in one function, as it runs for each frame
            buffer, start, have = self._buffer, self._start, self._end
            body = start + 2
            if have < body:
                self._needed = 2
                return None
            first, size = buffer[start], buffer[start + 1]
            is_whole = first in _WHOLE and not self._opcode
            if not is_whole or size > 127:
                _check(first, size)
            if size > 125:
                body += 2 if size == 126 else 8
                if have < body:
                    self._needed = body - start
                    return None
                size = int.from_bytes(buffer[start + 2 : body], "big")
            if (size > self._max_text or not is_whole) and not first & _CONTROL:
                self._check_size(first, size + len(self._fragments))
            end = body + size
            if have < end:
                self._needed = end - start
                return None
            self._start = end
            payload: bytes | memoryview
            if len(buffer) == self._size:
                payload = bytes(buffer[body:end])
            else:
                # Hand out the frame's own buffer, as a copy would double the cost.
                self._buffer, self._start, self._end = memoryview(bytearray(self._size)), 0, 0
                payload = buffer[body:end].toreadonly()
            if is_whole or first & _CONTROL:
                return first & 0x0F, payload
            message = self._join(first, payload)
            if message is not None:
                return message

    def _join(self, first: int, payload: bytes | memoryview) -> tuple[int, memoryview] | None:
        """Add a fragment to its message; return the opcode and payload once it is complete."""
        opcode = first & 0x0F
        if bool(opcode) is bool(self._opcode):
            raise FrameError("a continuation without a beginning, or a message within another")
        self._opcode = opcode or self._opcode
        self._fragments += payload  # a list could be far larger than its bytes
        if not first & _FINAL:
            return None
        whole, opcode = self._fragments, self._opcode
        self._fragments, self._opcode = bytearray(), 0
        return opcode, memoryview(whole).toreadonly()

    def _check_size(self, first: int, size: int) -> None:
        """Raise FrameError if a message has more bytes than its kind may have."""
        is_text = (first & 0x0F or self._opcode) == TEXT
        most = self._max_text if is_text else self._limit
        if size > most:
            kind = "text" if is_text else "message"
            raise FrameError(f"a {kind} of more than the {most} bytes allowed")

    def _enlarge(self) -> None:
        """Move an incomplete frame to a buffer that is large enough for more of it."""
        come = self._buffer[self._start : self._end]
        size = min(self._needed, max(self._at_once, 2 * len(come)))
        buffer = self._buffer if size <= self._size else memoryview(bytearray(size))
        buffer[: len(come)] = come
        self._buffer, self._start, self._end = buffer, 0, len(come)


def _check(first: int, size: int) -> None:
    """Raise FrameError if the first two bytes of a frame are not allowed from a server."""
    opcode = first & 0x0F
    if first & 0x70 or size & 0x80:
        raise FrameError("a frame with reserved bits, or masked by the server")
    if opcode & _CONTROL and (size > 125 or not first & _FINAL):
        raise FrameError("a control frame in fragments, or of more than 125 bytes")
    if opcode & 0x07 > 2:
        raise FrameError(f"a frame of unknown type {opcode}")
