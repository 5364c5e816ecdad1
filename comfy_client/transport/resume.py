"""Downloads that resume after an interruption, and remote files read like local ones."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple

from .. import runtime
from ..errors import ApiError, ComfyError, RequestTimeout, ServerUnreachable, TransportError
from ..log_records import AnyLog
from .deadline import Backoff, check_wanted, pause
from .failures import is_away
from .response import Download

#: Requests a file from a byte on, with further headers; the answer may be the whole file (200).
Ask = Callable[[int, Mapping[str, str]], AbstractContextManager[Download]]

#: Bytes after which an attempt counts as a success, so that the next one needs no pause.
_ENOUGH: Final = 1 << 16
_RANGE_NOT_SATISFIABLE: Final = 416
#: Python refuses to convert thousands of digits.
_RANGE: Final = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")
#: Seconds between a file's last change and its sending after which any later change has another
#: time, although times are rounded to seconds.
_REST: Final = 2.0


@contextlib.contextmanager
def resumed(
    ask: Ask, start: int, within: float, log: AnyLog, *, overlap: int = 0
) -> Iterator[Download]:
    """Context manager: yield a download that either becomes complete or ends in an error.

    If the connection breaks, or an answer is too short, the rest is requested.  That needs a server
    that identifies the version of the file: by its ``ETag``, or by its ``Last-Modified`` and size,
    unless it was modified just before, as that time is in whole seconds.

    With ``overlap``, a file of known size is resumed all the same: the request begins some bytes
    before the end of what has arrived, and these bytes must be the same again.

    Args:
        ask: Requests the file.
        start: The first byte to download.
        within: For how many seconds after the last byte to retry.
        log: The log for retries.
        overlap: How many bytes are compared if the server does not identify the version; 0: such
            a download is not resumed.
    """
    with contextlib.ExitStack() as body:
        first = body.enter_context(ask(start, {}))
        at = start if first.status == 206 else 0
        chunks = _chunks(body, first, ask, at, within, log, overlap)
        yield Download(first.status, first.headers, first.length, chunks, kind=first.kind)


def _chunks(
    body: contextlib.ExitStack,
    first: Download,
    ask: Ask,
    at: int,
    within: float,
    log: AnyLog,
    overlap: int,
) -> Iterator[bytes]:
    size = size_of(first)
    mark = sure_mark_of(first.headers, size)
    kept = 0 if mark or size is None else overlap
    tail = b""
    latest, backoff = runtime.monotonic(), Backoff(0.2, 1.0)
    chunks = _exactly(first)
    while True:
        got, is_cut = 0, False
        try:
            for chunk in chunks:
                check_wanted()
                got += len(chunk)
                if kept:
                    tail = (tail + chunk[-kept:])[-kept:]
                yield chunk
            if size in (None, at + got):
                return
            if not mark and not kept:
                raise _Changed(
                    f"the server sent {at + got} of {size} bytes, and does not say which version "
                    "of the file they are of: the rest may belong to another one"
                )
        except ComfyError as exc:
            is_cut = True
            if got:
                latest = runtime.monotonic()
            if not ((mark or kept) and _may_pass(exc)) or runtime.monotonic() - latest >= within:
                raise
            log.info("%s; asking for the rest", exc)
        at += got
        if got >= _ENOUGH or not is_cut:
            backoff.reset()
        else:
            pause(backoff.next())
        body.close()
        chunks = _rest(body, ask, at, mark, size) if mark else _same(body, ask, at, tail, size)


def _exactly(answer: Download) -> Iterator[bytes]:
    """Yield the body of an answer; raise if it has fewer or more bytes than announced."""
    got = 0
    for chunk in answer:
        got += len(chunk)
        if answer.length is not None and got > answer.length:
            raise _Changed(
                f"more than {answer.length} bytes arrived, which the server had announced"
            )
        yield chunk
    if answer.length not in (None, got):
        raise TransportError(f"only {got} of {answer.length} bytes arrived")


def _rest(
    body: contextlib.ExitStack, ask: Ask, at: int, mark: Mapping[str, str], size: int | None
) -> Iterator[bytes]:
    """Request the rest of the same file, and yield its chunks; raise if the file has changed."""
    try:
        # Not every server respects If-Range (aiohttp: a date only), so the answer is checked, too.
        answer = body.enter_context(ask(at, {"If-Range": next(iter(mark.values()))}))
    except ApiError as exc:
        if exc.status != _RANGE_NOT_SATISFIABLE:
            raise
        answer = None
    if answer is None or size_of(answer) != size or mark_of(answer.headers, size) != mark:
        raise _Changed(f"the file on the server changed after {at} bytes of it had arrived")
    if answer.status == 206:
        yield from _exactly(answer)
        return
    left = at  # the answer has the whole file again
    for chunk in _exactly(answer):
        if left < len(chunk):
            yield chunk[left:]
        left = max(0, left - len(chunk))


def _same(
    body: contextlib.ExitStack, ask: Ask, at: int, tail: bytes, size: int | None
) -> Iterator[bytes]:
    """Request a file from ``tail``, its last bytes so far; yield the rest, or raise on a change."""
    start = at - len(tail)
    answer = body.enter_context(ask(start, {}))
    if size_of(answer) != size:
        raise _Changed(f"the file on the server changed after {at} bytes of it had arrived")
    place = start if answer.status == 206 else 0
    for chunk in _exactly(answer):
        old = chunk[: max(0, at - place)]
        known = tail[max(0, place - start) :][: max(0, place + len(old) - max(place, start))]
        if known != old[len(old) - len(known) :]:
            raise _Changed(f"the file on the server changed after {at} bytes of it had arrived")
        place += len(chunk)
        if len(old) < len(chunk):
            yield chunk[len(old) :]


class _Changed(TransportError):
    """The file has changed, so the download cannot continue."""

    def __reduce__(self) -> tuple[type[TransportError], tuple[str]]:
        return TransportError, (str(self),)


def _may_pass(exc: ComfyError) -> bool:
    """Return whether an error may be temporary: a broken connection, or a server that is away."""
    if isinstance(exc, ServerUnreachable):
        return exc.retryable
    return is_away(exc) and not isinstance(exc, RequestTimeout | _Changed)


def sure_mark_of(headers: Mapping[str, str], size: int | None) -> dict[str, str]:
    """Return headers that certainly identify this version of a file; empty if there are none."""
    mark = mark_of(headers, size)
    return mark if "etag" in mark or _was_at_rest(headers) else {}


def mark_of(headers: Mapping[str, str], size: int | None) -> dict[str, str]:
    """Return the headers that identify the version of a file; empty if there are none."""
    etag = headers.get("etag", "")
    if etag.startswith('"'):  # a weak ETag allows some bytes to differ
        return {"etag": etag}
    changed = headers.get("last-modified", "")
    return {"last-modified": changed} if changed and size is not None else {}


def _was_at_rest(headers: Mapping[str, str]) -> bool:
    """Return whether any other version of the file would have a different ``Last-Modified``."""
    try:
        sent, modified = (
            parsedate_to_datetime(headers[name]).replace(tzinfo=UTC)
            for name in ("date", "last-modified")
        )
    except (KeyError, ValueError, OverflowError):
        return False
    return (sent - modified).total_seconds() >= _REST


class Range(NamedTuple):
    """The range of a file that an answer contains."""

    start: int
    end: int  #: The first byte after the range.
    size: int  #: The size of the whole file.


def range_of(headers: Mapping[str, str]) -> Range | None:
    """Return the range and size in ``Content-Range``, or None unless it has both."""
    found = _RANGE.fullmatch(headers.get("content-range", ""))
    if found is None:
        return None
    start, last, size = map(int, found.groups())
    return Range(start, last + 1, size) if start <= last < size else None


def size_of(answer: Download) -> int | None:
    """Return the size of the whole file, of which the answer may be a part; None if unknown."""
    if answer.status != 206:
        return answer.length
    found = range_of(answer.headers)
    return found and found.size


# -- files that are read like local ones --------------------------------------------------

#: The most bytes to read and discard rather than send another request.
_NEAR: Final = 1 << 18


class RemoteFile(io.RawIOBase):
    """A file on a server, readable at any position; a far jump requests the rest from there.

    If the server cannot start in the middle, everything in between is read, and going back starts
    over.  If it does not identify the version of the file, everything in between is read as well,
    and going back is an error: another request might return another file.

    Args:
        name: The server's name for the file.
        download: Requests the file from a byte on; the answer may be the whole file (status 200).
        is_fixed: Whether the file never changes, so that its size identifies its version.
    """

    def __init__(
        self,
        name: str,
        download: Callable[[int], AbstractContextManager[Download]],
        *,
        is_fixed: bool = False,
    ) -> None:
        self.name = name
        self._is_fixed = is_fixed
        self._download = download
        self._body = contextlib.ExitStack()
        self._chunks: Iterator[bytes] = iter(())
        self._chunk = memoryview(b"")
        self._at = 0  # the position of the chunk in the file
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
            self._is_marked = self._is_fixed or bool(sure_mark_of(download.headers, size))
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
        """Return whether the file's size is known."""
        return self._length is not None

    def tell(self) -> int:
        """Return the position of the next byte that is read."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a position, and return it; the next read sends a request if needed."""
        base = {os.SEEK_CUR: self._position, os.SEEK_END: self._length}.get(whence) or 0
        if base + offset < 0:
            raise ValueError(f"negative position {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # of typeshed
        """Read bytes at the current position; return how many, or 0 at the end of the file."""
        if self._length is not None and self._position >= self._length:
            return 0
        ahead = self._position - self._at
        if ahead < 0 or (self._jumps and ahead > len(self._chunk) + _NEAR):
            if not self._is_marked:
                raise TransportError(
                    f"{self.name}: the server says neither by ETag nor by Last-Modified which "
                    "version of the file it sends, so seeking back might mix two versions: read "
                    "it in order, or all at once with get_image()"
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
        """Release the connection."""
        self._body.close()
        super().close()
