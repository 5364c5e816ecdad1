"""Texts in MP4 and MOV files, which consist of nested boxes."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ...errors import WorkflowError
from .stream import KEYS, PAUSE, Stream, Texts

#: The most boxes in one text box, and the most keys.
_MOST_BOXES = 10_000
#: The comment and the description of iTunes and of QuickTime.
_FIXED = {b"\xa9cmt": "comment", b"desc": "description", b"\xa9des": "description"}


def mp4_texts(stream: Stream) -> Texts:
    """Yield the texts in ``moov/udta/meta`` and ``moov/meta``, wherever ``moov`` is in the file."""
    for kind, size in _boxes(stream, None):
        if kind == b"moov":
            for inner, length in _boxes(stream, size):
                if length is None:
                    raise _damaged()
                if inner == b"udta":
                    yield from _user_data(stream, stream.text(length))
                elif inner == b"meta":
                    yield from _meta(stream, stream.text(length))
            yield PAUSE


def _boxes(stream: Stream, size: int | None) -> Iterator[tuple[bytes, int | None]]:
    """Yield the kind and size of each box, with the stream at the start of its content.

    A size of None means to the end of the file.  Content that the caller does not read is skipped.
    """
    end = None if size is None else stream.position + size
    while end is None or stream.position < end:
        header = stream.take(8) if end is not None else stream.header(8)
        if not header:
            return
        whole, kind = struct.unpack(">I4s", header)
        start = stream.position - 8
        if whole == 1:
            (whole,) = struct.unpack(">Q", stream.take(8))
        if whole == 0:
            yield kind, None
            return
        if whole < stream.position - start or (end is not None and start + whole > end):
            raise _damaged()
        yield kind, start + whole - stream.position
        stream.skip(start + whole - stream.position)


def _user_data(stream: Stream, data: memoryview) -> Texts:
    for kind, content in _inner(stream, data):
        if kind == b"meta":
            yield from _meta(stream, content)
        elif kind in _FIXED and len(content) > 4:  # QuickTime: size and language come first
            yield _FIXED[kind], content[4:]


def _meta(stream: Stream, data: memoryview) -> Texts:
    """Yield the texts of ``ilst``; their keys come from ``keys`` or from the kinds of boxes."""
    if bytes(data[4:8]) != b"hdlr":  # QuickTime; otherwise a version comes first
        data = data[4:]
    keys: list[str] = []
    for kind, content in _inner(stream, data):
        if kind == b"keys":
            keys = list(_keys(stream, content))
        elif kind == b"ilst":
            for name, item in _inner(stream, content):
                number = int.from_bytes(name, "big")
                key = keys[number - 1] if 0 < number <= len(keys) else _FIXED.get(name)
                yield from _values(stream, key, item)


def _keys(stream: Stream, data: memoryview) -> Iterator[str]:
    at = 8
    for _ in range(_MOST_BOXES):
        if at >= len(data):
            return
        stream.count()
        size = int.from_bytes(data[at : at + 4], "big")
        if size < 8:
            raise _damaged()
        name = bytes(data[at + 8 : at + min(size, 100)]).decode("utf-8", "replace")
        yield name.rpartition(".")[2].lower()  # com.apple.quicktime.comment
        at += size


def _values(stream: Stream, key: str | None, item: memoryview) -> Texts:
    for kind, content in _inner(stream, item):
        if kind == b"name":  # in an item "----"
            key = bytes(content[4:100]).decode("utf-8", "replace").lower()
        elif kind == b"data" and key in KEYS:
            yield key, content[8:]


def _inner(stream: Stream, data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the boxes inside a box that is in memory."""
    at = 0
    for _ in range(_MOST_BOXES):
        if at + 8 > len(data):
            return  # QuickTime ends lists with four zeros
        stream.count()
        size, kind = struct.unpack_from(">I4s", data, at)
        if size < 8 or at + size > len(data):
            raise _damaged()
        yield kind, data[at + 8 : at + size]
        at += size
    raise _damaged()


def _damaged() -> WorkflowError:
    return WorkflowError("its boxes are damaged")
