"""Texts in EXIF data of WebP and JPEG files."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ...errors import WorkflowError
from .stream import Stream, Texts

_MARK = b"Exif\0\0"
_EXIF_DIRECTORY = 0x8769
_USER_COMMENT = 0x9286
#: Types of values that may be text: bytes, ASCII, undefined, UTF-8.
_TEXTUAL = frozenset({1, 2, 7, 129})
#: The longest name in front of a text, as in ``prompt:{...}``, in bytes.
_LONGEST_NAME = 16
#: The most directories, and the most entries of all of them.
_DIRECTORIES = 16
_ENTRIES = 10_000


def webp_texts(stream: Stream) -> Texts:
    """Yield the EXIF texts of a WebP file; they follow the pixels."""
    stream.take(12)
    while header := stream.header(8):
        kind, size = struct.unpack("<4sI", header)
        if kind == b"EXIF":
            yield from _exif_texts(stream, stream.text(size))
        else:
            stream.skip(size)
        stream.read(size & 1)


def jpeg_texts(stream: Stream) -> Texts:
    """Yield the EXIF texts and comments of a JPEG file; they precede the pixels."""
    stream.take(2)
    while True:
        mark, kind = stream.take(2)
        while kind == 0xFF:  # padding
            (kind,) = stream.take(1)
        if mark != 0xFF:
            raise WorkflowError(f"the {stream.name} is damaged, at byte {stream.position - 2}")
        if kind in (0xD9, 0xDA):  # end of image, or pixels
            return
        if kind == 0x01 or 0xD0 <= kind <= 0xD7:
            continue  # has no content
        (size,) = struct.unpack(">H", stream.take(2))
        if kind == 0xE1:
            content = stream.text(max(0, size - 2))
            if bytes(content[:6]) == _MARK:
                yield from _exif_texts(stream, content)
        elif kind == 0xFE:
            yield from _named(stream.text(max(0, size - 2)), "comment")
        else:
            stream.skip(max(0, size - 2))


def _exif_texts(stream: Stream, data: memoryview) -> Texts:
    """Yield the EXIF texts that look like JSON, with or without a name in front.

    ComfyUI reuses tags of another meaning: it writes ``prompt:{...}`` as the camera's model, and
    ``workflow:{...}`` as its make.  Custom nodes reuse others.
    """
    if bytes(data[:6]) == _MARK:
        data = data[6:]
    found: dict[int, memoryview] = {}
    try:
        for tag, value in _entries(stream, data):
            found.setdefault(tag, value)
        for tag, value in found.items():
            yield from _named(_user_comment(value) if tag == _USER_COMMENT else value, "comment")
    except struct.error:
        yield "comment", WorkflowError("its EXIF data is damaged")


def _named(value: memoryview, name: str) -> Texts:
    start = bytes(value[:_LONGEST_NAME])
    if start.lstrip().startswith(b"{"):
        yield name, value
        return
    for name in ("prompt", "workflow"):
        if start.lower().startswith(f"{name}:".encode()):
            yield name, value[len(name) + 1 :]


def _entries(stream: Stream, data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the tag and value of each text in the TIFF directories of EXIF data."""
    order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
    if order is None:
        raise struct.error
    ahead = [*struct.unpack_from(f"{order}I", data, 4)]
    seen = {0}
    entries = 0
    while ahead:
        at = ahead.pop()
        if at in seen:
            continue  # a circle
        seen.add(at)
        (count,) = struct.unpack_from(f"{order}H", data, at)
        entries += count
        if len(seen) > _DIRECTORIES or entries > _ENTRIES:
            raise struct.error
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            stream.count()
            tag, kind, size, place = struct.unpack_from(f"{order}HHII", data, entry)
            if tag == _EXIF_DIRECTORY:
                ahead.append(place)
            elif kind in _TEXTUAL:
                start = entry + 8 if size <= 4 else place
                if start + size > len(data):
                    raise struct.error
                yield tag, data[start : start + size]
        ahead += struct.unpack_from(f"{order}I", data, at + 2 + 12 * count)


def _user_comment(value: memoryview) -> memoryview:
    """Return a user comment without the eight bytes that name its encoding."""
    mark, text = bytes(value[:8]), value[8:]
    if mark == b"UNICODE\0":  # UTF-16 of unspecified byte order
        order = "be" if bytes(text[:1]) == b"\0" else "le"
        return memoryview(bytes(text).decode(f"utf-16-{order}", "replace").encode())
    return text if mark in (b"ASCII\0\0\0", bytes(8)) else value
