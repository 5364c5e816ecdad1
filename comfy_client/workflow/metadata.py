"""Workflows inside PNG files.

ComfyUI's SaveImage writes two texts into each picture: ``prompt``, the graph in API format,
and ``workflow``, the graph in the editor's format (if the request had it in
``extra_data.extra_pnginfo``).  Bytes in, bytes out; nothing here decodes pixels.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from ..errors import WorkflowError
from .graph import brief

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXT_CHUNKS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_LIMIT = 32 * 2**20  # bytes of one text; a few kB packed can hold gigabytes
_MAX_KEY = 79  # bytes


def read_metadata(png: bytes) -> dict[str, Any]:
    """The decoded texts ``prompt`` and ``workflow`` of a PNG, as far as it has them.

    If a key occurs twice, the last one counts, as in ComfyUI's editor.  Texts are read in every
    form that PNG has (``tEXt``, ``zTXt``, ``iTXt``), up to 32 MiB each.  A file may end early
    or be damaged behind a text.

    Raises:
        WorkflowError: It is no PNG, it is damaged and no text was found, or a text is
            damaged, too large or no JSON.
    """
    data = memoryview(png)
    texts: dict[str, tuple[bytes, memoryview]] = {}
    try:
        for kind, start, end in _chunks(data):
            key = _key_of(kind, data[start:end])
            if key in (b"prompt", b"workflow"):
                texts[key.decode()] = kind, data[start + len(key) + 1 : end]
    except WorkflowError:
        if not texts:
            raise
    return {name: _decode(name, *text) for name, text in texts.items()}


def write_metadata(png: bytes, entries: Mapping[str, Any]) -> bytes:
    """A copy of a PNG with these entries as JSON texts, in the place where SaveImage has them.

    Texts with the same keys are replaced; all other bytes stay.

    Args:
        png: A complete PNG file.
        entries: By key (1 to 79 characters of Latin-1): ``{"prompt": graph}`` and the like.

    Raises:
        WorkflowError: It is no PNG, it is damaged, a key cannot be one, or JSON cannot
            carry a value.
    """
    return add_texts(png, {_key(name): _encode(name, value) for name, value in entries.items()})


def add_texts(png: bytes, texts: Mapping[bytes, bytes]) -> bytes:
    """As :func:`write_metadata`, with encoded texts; keys are not checked."""
    return _with_chunks(
        png, [_chunk(b"tEXt", key + b"\0" + text) for key, text in texts.items()], texts
    )


def copy_texts(source: bytes, png: bytes) -> bytes:
    """A copy of a PNG with all texts of another one, in their form.

    Raises:
        WorkflowError: One of the two is no PNG, or damaged.
    """
    data = memoryview(source)
    found = [(kind, data[start:end]) for kind, start, end in _chunks(data) if kind in _TEXT_CHUNKS]
    return _with_chunks(png, [_chunk(kind, bytes(content)) for kind, content in found], ())


def _with_chunks(png: bytes, chunks: Iterable[bytes], without: Collection[bytes]) -> bytes:
    """With chunks behind the first one, and without the texts of some keys."""
    data = memoryview(png)
    parts = [memoryview(_SIGNATURE)]
    done = len(_SIGNATURE)
    for kind, start, end in _chunks(data):
        done = end + 4
        if kind not in _TEXT_CHUNKS or _key_of(kind, data[start:end]) not in without:
            parts.append(data[start - 8 : done])
        if kind == b"IHDR":
            parts += map(memoryview, chunks)
    return b"".join([*parts, data[done:]])


def _chunks(data: memoryview) -> Iterator[tuple[bytes, int, int]]:
    """Kind of each chunk, and where its content starts and ends."""
    if data[:8] != _SIGNATURE:
        raise WorkflowError(f"not a PNG file: it starts with {brief(bytes(data[:8]))}")
    at = len(_SIGNATURE)
    kind = b""
    while kind != b"IEND":
        if at + 12 > len(data):
            raise WorkflowError(f"the PNG file ends early, at byte {len(data)}")
        size, kind = struct.unpack_from(">I4s", data, at)
        start, end = at + 8, at + 8 + size
        if end + 4 > len(data):
            raise WorkflowError(
                f"the PNG file ends early, at byte {len(data)} in a chunk {brief(kind)}"
            )
        if at == len(_SIGNATURE) and kind != b"IHDR":
            raise WorkflowError(f"the PNG file is damaged: it begins with a chunk {brief(kind)}")
        yield kind, start, end
        at = end + 4


def _key_of(kind: bytes, content: memoryview) -> bytes:
    """The key of a text chunk; empty for all other chunks."""
    return bytes(content[: _MAX_KEY + 1]).partition(b"\0")[0] if kind in _TEXT_CHUNKS else b""


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(content, zlib.crc32(kind))
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def _decode(name: str, kind: bytes, content: memoryview) -> Any:
    try:
        return json.loads(_text(kind, content))
    except (ValueError, RecursionError, zlib.error) as exc:
        raise WorkflowError(f"the {name} in the PNG file cannot be read: {exc}") from None


def _text(kind: bytes, content: memoryview) -> str:
    """The text of a chunk, without its key; ValueError or zlib.error if it is damaged."""
    if kind == b"tEXt":
        # Latin-1 by the book, but there are writers that put UTF-8 there.
        return _latin_or_utf8(_limited(content))
    if kind == b"zTXt":
        return _latin_or_utf8(_unpacked(content[1:]))
    head = bytes(content[2:]).split(b"\0", 2)  # language, translated key, text
    if len(head) < 3:
        raise ValueError("it has no text")
    text = _unpacked(head[2]) if content[0] else _limited(head[2])
    return text.decode("utf-8")


def _latin_or_utf8(text: bytes) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return text.decode("latin-1")


def _limited(text: bytes | memoryview) -> bytes:
    if len(text) > _LIMIT:
        raise ValueError(f"larger than {_LIMIT} bytes")
    return bytes(text)


def _unpacked(packed: bytes | memoryview) -> bytes:
    unpacker = zlib.decompressobj()
    text = unpacker.decompress(packed, _LIMIT)
    if not unpacker.eof:
        # Either the limit came first, or the stream is cut off.
        raise ValueError(
            f"larger than {_LIMIT} bytes" if len(text) == _LIMIT else "the packed text is cut off"
        )
    return text


def _key(name: str) -> bytes:
    try:
        key = name.encode("latin-1")
    except UnicodeEncodeError:
        key = b""
    if not 0 < len(key) <= _MAX_KEY or b"\0" in key:
        raise WorkflowError(f"{brief(name)} cannot be a key in a PNG file")
    return key


def _encode(name: str, value: Any) -> bytes:
    try:
        # NaN passes, as on the server: it is there in graphs that a node marked as changed.
        return json.dumps(value).encode("ascii")
    except (TypeError, ValueError, RecursionError) as exc:
        raise WorkflowError(f"{name} cannot be written into a PNG file: {exc}") from None
