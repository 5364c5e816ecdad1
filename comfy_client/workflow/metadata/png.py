"""Texts in PNG files, read and written without decoding pixels."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping

from ...errors import WorkflowError
from ..graph import brief
from .stream import KEYS, MAX_TEXT, PAUSE, Stream, Texts

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXT_CHUNKS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_MAX_KEY = 79  # bytes


def png_texts(stream: Stream) -> Texts:
    """Yield the texts of a PNG file (``tEXt``, ``zTXt``, ``iTXt``).

    In an animated PNG, ComfyUI writes them to its own ``comf`` chunks, after the first frame.
    """
    for kind, size in _chunks(stream):
        if kind == b"IDAT":
            yield PAUSE
        elif kind in _TEXT_CHUNKS or kind == b"comf":
            start = stream.take(min(size, _MAX_KEY + 1))
            key = start.partition(b"\0")[0].decode("latin-1")
            if key.lower() in KEYS:
                content = start + stream.text(size - len(start))
                yield key.lower(), _text(stream, kind, memoryview(content)[len(key) + 1 :])


def add_texts(png: bytes, texts: Mapping[bytes, bytes]) -> bytes:
    """Return a copy of a PNG with these texts by key, placed as SaveImage places them.

    Texts with the same keys are replaced; all other bytes stay.

    Raises:
        WorkflowError: It is not a PNG, or damaged.
    """
    return _with_chunks(
        png, [_chunk(b"tEXt", key + b"\0" + text) for key, text in texts.items()], texts
    )


def copy_texts(source: bytes, png: bytes) -> bytes:
    """Return a copy of ``png`` with all text chunks of the PNG ``source`` added.

    Raises:
        WorkflowError: One of the two is not a PNG, or damaged.
    """
    data = memoryview(source)
    places = [place for place in _places(data) if place[0] in _TEXT_CHUNKS]
    return _with_chunks(png, [_chunk(kind, data[start:end]) for kind, start, end in places], ())


def _with_chunks(png: bytes, chunks: Iterable[bytes], without: Collection[bytes]) -> bytes:
    """Return a PNG with chunks inserted after the first, and texts of ``without`` removed."""
    data = memoryview(png)
    parts = [memoryview(_SIGNATURE)]
    done = len(_SIGNATURE)
    for kind, start, end in _places(data):
        done = end + 4
        if kind not in _TEXT_CHUNKS or _key_of(kind, data[start:end]) not in without:
            parts.append(data[start - 8 : done])
        if kind == b"IHDR":
            parts += map(memoryview, chunks)
    return b"".join([*parts, data[done:]])


def _places(png: bytes | memoryview) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each chunk of a PNG, and the start and end of its content."""
    stream = Stream(io.BytesIO(png))
    stream.name = "PNG file"
    for kind, size in _chunks(stream):
        yield kind, stream.position, stream.position + size


def _chunks(stream: Stream) -> Iterator[tuple[bytes, int]]:
    """Yield the kind and size of each chunk, with the stream at the start of its content."""
    signature = stream.read(len(_SIGNATURE))
    if signature != _SIGNATURE:
        raise WorkflowError(f"not a PNG file: it starts with {brief(signature)}")
    kind = b""
    while kind != b"IEND":
        is_first = not kind
        size, kind = struct.unpack(">I4s", stream.take(8))
        if is_first and kind != b"IHDR":
            raise WorkflowError(f"the PNG file is damaged: it begins with a chunk {brief(kind)}")
        end = stream.position + size + 4
        yield kind, size
        stream.skip(end - stream.position)


def _key_of(kind: bytes, content: memoryview) -> bytes:
    """Return the key of a text chunk; empty for any other chunk."""
    return bytes(content[: _MAX_KEY + 1]).partition(b"\0")[0] if kind in _TEXT_CHUNKS else b""


def _chunk(kind: bytes, content: bytes | memoryview) -> bytes:
    check = zlib.crc32(content, zlib.crc32(kind))
    return b"".join([struct.pack(">I", len(content)), kind, content, struct.pack(">I", check)])


def _text(stream: Stream, kind: bytes, content: memoryview) -> memoryview | WorkflowError:
    """Return the text of a chunk without its key; for a damaged one, the error to raise."""
    try:
        if kind == b"zTXt":
            return _unpacked(stream, content[1:])
        if kind != b"iTXt":
            return content
        head = bytes(content[2:]).split(b"\0", 2)  # language, translated key, text
        if len(head) < 3:
            return WorkflowError("it has no text")
        return _unpacked(stream, head[2]) if content[0] else memoryview(head[2])
    except zlib.error as exc:
        return WorkflowError(str(exc))


def _unpacked(stream: Stream, packed: bytes | memoryview) -> memoryview | WorkflowError:
    unpacker = zlib.decompressobj()
    text = unpacker.decompress(packed, MAX_TEXT)
    stream.charge(len(text))
    if unpacker.eof:
        return memoryview(text)
    # Either the limit was reached, or the data are truncated.
    return WorkflowError(
        f"larger than {MAX_TEXT} bytes" if len(text) == MAX_TEXT else "the packed text is cut off"
    )
