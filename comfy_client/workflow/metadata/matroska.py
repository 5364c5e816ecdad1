"""Texts in WebM and MKV files, which consist of nested elements."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import WorkflowError
from .stream import KEYS, PAUSE, Stream, Texts

_SEGMENT = 0x18538067
_CLUSTER = 0x1F43B675
_TAGS = 0x1254C367
_TAG = 0x7373
_SIMPLE_TAG = 0x67C8
_NAME = 0x45A3
_TEXT = 0x4487
#: The most elements in one element.
_MOST_ELEMENTS = 10_000


def matroska_texts(stream: Stream) -> Texts:
    """Yield the tags of a WebM or MKV file, whether before or after its clusters."""
    _, size = _header(stream)
    stream.skip(size or 0)
    kind, size = _header(stream)
    if kind != _SEGMENT:
        raise WorkflowError(f"the {stream.name} is damaged: it has no segment")
    end = None if size is None else stream.position + size
    while end is None or stream.position < end:
        kind, size = _header(stream, may_end=end is None)
        if kind == _CLUSTER:
            yield PAUSE
        if size is None:
            return  # its size is unknown, and its content follows
        if end is not None and stream.position + size > end:
            raise WorkflowError(f"the {stream.name} is damaged: a part is larger than the whole")
        if kind == _TAGS:
            yield from _tags(stream, stream.text(size))
        else:
            stream.skip(size)


def _tags(stream: Stream, data: memoryview) -> Texts:
    for kind, tag in _inner(stream, data):
        if kind == _TAG:
            for inner, simple in _inner(stream, tag):
                if inner == _SIMPLE_TAG:
                    parts = dict(_inner(stream, simple))
                    name = bytes(parts.get(_NAME, b"")[:100]).decode("utf-8", "replace").lower()
                    if name in KEYS and _TEXT in parts:
                        yield name, parts[_TEXT]


def _header(stream: Stream, *, may_end: bool = False) -> tuple[int, int | None]:
    """Read the id and size of an element; the size is None if unknown or at the end of a file."""
    first = stream.read(1)
    if not first and may_end:
        return 0, None
    if not first:
        raise stream.ends_early()
    length = _length(first[0], 4)
    element = int.from_bytes(first + stream.take(length - 1), "big")
    first = stream.take(1)
    length = _length(first[0], 8)
    return element, _size(first + stream.take(length - 1))


def _inner(stream: Stream, data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the elements inside an element that is in memory."""
    at = 0
    for _ in range(_MOST_ELEMENTS):
        if at >= len(data):
            return
        stream.count()
        start = at + _length(data[at], 4)
        kind = int.from_bytes(data[at:start], "big")
        if start >= len(data):
            raise _damaged()
        at = start + _length(data[start], 8)
        size = _size(bytes(data[start:at]))
        if size is None or at + size > len(data):
            raise _damaged()
        yield kind, data[at : at + size]
        at += size
    raise _damaged()


def _length(first: int, most: int) -> int:
    """Return a number's length in bytes, from the leading zeros of its first byte."""
    length = 9 - first.bit_length()
    if length > most:
        raise _damaged()
    return length


def _size(coded: bytes) -> int | None:
    bits = 7 * len(coded)
    value = int.from_bytes(coded, "big") & ((1 << bits) - 1)
    return None if value == (1 << bits) - 1 else value


def _damaged() -> WorkflowError:
    return WorkflowError("its elements are damaged")
