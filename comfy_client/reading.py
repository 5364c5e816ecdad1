"""Reading of local files that may block, or never end, by a deadline.

A pipe, a terminal and some files of ``/proc`` do not say how much they hold, so they are copied
before they are sent.
"""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
import select
import stat
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO, Final

from . import runtime
from .errors import RequestTimeout
from .interrupts import BlockLimit
from .values import T

#: Bytes that are read at a time.
CHUNK: Final = 1 << 20
#: The most bytes that are copied, and the share of the free space that a copy may take.
MOST_COPIED: Final = 16 << 30
_SHARE: Final = 0.5
#: The moment by which this thread must have read what it sends, on the monotonic clock.
_reading: Final = BlockLimit("reading")
#: Raises an error once another thread has ended what this thread does; ``None``: none can.
check_ended: Final[ContextVar[Callable[[], object] | None]] = ContextVar(
    "check_ended", default=None
)


def reading_until(at: float) -> contextlib.AbstractContextManager[object]:
    """Context manager: let this thread read local files until a moment of the monotonic clock."""
    return _reading.limit(at)


def check_time() -> None:
    """Raise :class:`RequestTimeout` once the time for reading local files is up.

    If another thread has ended what this one does, the error is that of :data:`check_ended`.
    """
    if (check := check_ended.get()) is not None:
        check()
    if _reading.limits.get() is not None and runtime.monotonic() >= _reading.get():
        raise RequestTimeout("the local file could not be read within the timeout; nothing is sent")


def in_time(pieces: Iterable[T]) -> Iterator[T]:
    """Yield pieces of a local file as long as there is time."""
    check_time()
    for piece in pieces:
        yield piece
        check_time()


def open_path(path: Path) -> BinaryIO:
    """Open a local file; wait for the other end of a pipe as long as there is time.

    Raises:
        ValueError: It is a device or a socket, which does not end.
    """
    mode = path.stat().st_mode
    if stat.S_ISSOCK(mode) or stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        what = "socket" if stat.S_ISSOCK(mode) else "device"
        raise ValueError(f"{os.fspath(path)!r} is a {what}, and no file that could be sent")
    if not stat.S_ISFIFO(mode):
        return path.open("rb")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with contextlib.ExitStack() as unless_kept:
        unless_kept.callback(os.close, descriptor)
        _wait_for(descriptor)
        os.set_blocking(descriptor, True)
        unless_kept.pop_all()
    return open(descriptor, "rb")  # the caller closes it


def copy_rest(stream: BinaryIO) -> BinaryIO:
    """Return the rest of a stream: in memory if it is small, else in a temporary file.

    Raises:
        OSError: It is larger than :data:`MOST_COPIED`, or than half of the free space.
    """
    import tempfile  # most programs copy none

    read = _TimedReader(stream)
    beginning: list[bytes] = []
    size = 0
    while size <= CHUNK:
        piece = read()
        if not piece:
            return io.BytesIO(b"".join(beginning))
        beginning.append(piece)
        size += len(piece)
    copy = TemporaryCopy(tempfile.TemporaryFile(buffering=0))  # noqa: SIM115  # its last user closes it
    copy.writelines(beginning)
    beginning.clear()
    copy.writelines(bounded(iter(read, b""), size))
    copy.seek(0)
    return copy


def bounded(found: Iterable[bytes], size: int = 0) -> Iterator[bytes]:
    """Yield pieces that are written into a temporary file; raise OSError if they are too many.

    ``size`` is the number of bytes that were written before.
    """
    import shutil  # most programs copy none
    import tempfile

    most = min(MOST_COPIED, size + int(_SHARE * shutil.disk_usage(tempfile.gettempdir()).free))
    for piece in found:
        size += len(piece)
        if size > most:
            raise OSError(
                errno.EFBIG,
                f"it does not end: more than {most} bytes, which is what a copy in the folder for "
                "temporary files may take",
            )
        yield piece


class TemporaryCopy(io.BufferedRandom):
    """A temporary file that is closed when it is no longer used."""

    def __del__(self) -> None:
        self.close()


class _TimedReader:
    """Reads a stream piece by piece, and waits for a pipe as long as there is time."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._pipe = _pipe_of(stream)

    def __call__(self) -> bytes:
        is_endless = math.isinf(_reading.get()) and check_ended.get() is None
        if self._pipe is None or is_endless:
            check_time()
            return self._stream.read(CHUNK)
        _wait_for(self._pipe)
        read1 = getattr(self._stream, "read1", self._stream.read)
        found: bytes = read1(CHUNK)
        return found


def _pipe_of(stream: BinaryIO) -> int | None:
    """Return the descriptor of a stream that reads a pipe or a terminal and nothing else."""
    raw = stream.raw if type(stream) is io.BufferedReader else stream
    if type(raw) is not io.FileIO or not hasattr(select, "poll"):
        return None
    mode = os.fstat(raw.fileno()).st_mode
    return raw.fileno() if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) else None


def _wait_for(descriptor: int) -> None:
    """Wait until a pipe has data or its other end is closed."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while not poll.poll(1000 * runtime.SLICE):
        check_time()
    check_time()
