"""Choice of the reader for a media file, and decoding of the workflow it finds.

The readers of files that begin with JSON or text are here: GLB, safetensors (``.latent``), SVG.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ...errors import WorkflowError
from ...values import table_at
from . import audio, exif, isobmff, matroska, png
from .stream import KEYS, MAX_TEXT, PAUSE, Stream, Texts, decoded


def glb_texts(stream: Stream) -> Texts:
    """Yield the texts in ``asset.extras`` of a binary glTF file."""
    stream.take(12)
    size, kind = struct.unpack("<I4s", stream.take(8))
    if kind != b"JSON":
        raise WorkflowError(f"the {stream.name} is damaged: it does not begin with JSON")
    content = decoded(stream.text(size), f"the {stream.name}")
    yield from _texts(table_at(content, "asset", "extras"))


def safetensors_texts(stream: Stream) -> Texts:
    """Yield the texts in ``__metadata__`` of a latent, or of a model that ComfyUI saved."""
    (size,) = struct.unpack("<Q", stream.take(8))
    header = decoded(stream.text(size), f"the {stream.name}")
    yield from _texts(table_at(header, "__metadata__"))


def svg_texts(stream: Stream) -> Texts:
    """Yield the JSON in the ``<metadata>`` of an SVG file."""
    text = stream.read(MAX_TEXT)
    start = text.find(b"<![CDATA[", max(0, text.find(b"<metadata")))
    end = text.find(b"]]>", start)
    if 0 <= start < end:
        yield "comment", memoryview(text)[start + 9 : end]


def _texts(entries: Mapping[str, Any]) -> Texts:
    for name in KEYS & entries.keys():
        text = entries[name]
        if isinstance(text, str):
            yield name, text.encode("utf-8", "surrogatepass")


# -- all kinds --------------------------------------------------------------------------

TextReader = Callable[[Stream], Texts]

#: Magic numbers, and the reader for each.
_BEGINNINGS: tuple[tuple[bytes, str, TextReader], ...] = (
    (b"\x89PNG\r\n\x1a\n", "PNG file", png.png_texts),
    (b"\xff\xd8\xff", "JPEG file", exif.jpeg_texts),
    (b"fLaC", "FLAC file", audio.flac_texts),
    (b"OggS", "Ogg file", audio.ogg_texts),
    (b"ID3", "MP3 file", audio.mp3_texts),
    (b"\x1a\x45\xdf\xa3", "WebM file", matroska.matroska_texts),
    (b"glTF", "GLB file", glb_texts),
    (b"<", "SVG file", svg_texts),
)
#: The first boxes of an MP4 or a MOV.
_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})
#: Texts that may contain the others.
_COMMENTS = frozenset({"comment", "description"})


def reader_of(stream: Stream) -> TextReader | None:
    """Return the reader for a file by its first bytes, or None for an unknown kind.

    Names the stream after the kind of file.
    """
    head = stream.head
    reader: TextReader | None = None
    for beginning, name, one in _BEGINNINGS:
        if head.startswith(beginning):
            stream.name, reader = name, one
            break
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        stream.name, reader = "WebP file", exif.webp_texts
    elif head[4:8] in _BOXES:
        stream.name, reader = "MP4 file", isobmff.mp4_texts
    # A length of less than 4 GB, and a JSON object of that length.
    elif head[4:9] == b"\0\0\0\0{":
        stream.name, reader = "safetensors file", safetensors_texts
    return reader


def read_metadata(stream: Stream, reader: TextReader) -> dict[str, Any]:
    """Return the decoded texts ``prompt`` and ``workflow`` that a file has.

    If a name occurs twice, the last one wins, as in ComfyUI's frontend.  Damage after a readable
    text, an early end, or damage to one of two texts is tolerated.

    Raises:
        WorkflowError: The file is damaged and no text was found, or all texts are damaged, too
            large or not JSON.
    """
    texts: dict[str, bytes | memoryview | WorkflowError] = {}
    try:
        for found in reader(stream):
            if found is PAUSE and "prompt" in texts:
                break
            texts[found[0]] = found[1]
    except WorkflowError:
        if not texts.keys() & {"prompt", "workflow"}:
            raise
    found_all: dict[str, Any] = {}
    fault: WorkflowError | None = None
    for name, value in _decoded(texts, stream.name):
        if isinstance(value, WorkflowError):
            fault = fault or value
        else:
            found_all.setdefault(name, value)
    if fault is not None and not found_all:
        raise fault
    return found_all


def _decoded(
    texts: Mapping[str, bytes | memoryview | WorkflowError], where: str
) -> Iterator[tuple[str, Any]]:
    """Yield each text's value, or the error of decoding it; texts in comments come last."""
    for name in ("prompt", "workflow"):
        if name in texts:
            yield name, _value(texts[name], f"the {name} in the {where}")
    for name in sorted(_COMMENTS & texts.keys()):
        value = _value(texts[name], where)
        for inner in ("prompt", "workflow"):
            entry = table_at(value).get(inner)
            if isinstance(entry, str):
                entry = _value(entry.encode("utf-8", "replace"), f"the {inner} in the {where}")
            if entry is not None:
                yield inner, entry


def _value(text: bytes | memoryview | WorkflowError, where: str) -> Any:
    if isinstance(text, WorkflowError):
        return WorkflowError(f"{where} cannot be read: {text}")
    whole = bytes(text).strip(b"\0 \r\n\t")
    try:
        # PNG prescribes Latin-1, but some writers use UTF-8.
        return decoded(_latin_or_utf8(whole), where)
    except WorkflowError as exc:
        return exc


def _latin_or_utf8(text: bytes) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return text.decode("latin-1")
