"""Texts in audio files: FLAC, Ogg (Opus, Vorbis) and MP3."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ...errors import WorkflowError
from .stream import KEYS, MAX_TEXT, Stream, Texts

#: The most comments, frames and the like of one file.
_MOST_ENTRIES = 10_000
#: The bytes before the comments in an Ogg, by codec.
_OGG_MARKS = (b"OpusTags", b"\x03vorbis")
#: Encodings of ID3 texts by number, and how many zeros end one.
_ID3_ENCODINGS = (("latin-1", 1), ("utf-16", 2), ("utf-16-be", 2), ("utf-8", 1))


def flac_texts(stream: Stream) -> Texts:
    """Yield the comments of a FLAC file; they precede the audio."""
    stream.take(4)
    is_last = False
    while not is_last:
        header = stream.take(4)
        is_last, kind, size = header[0] >= 128, header[0] & 127, int.from_bytes(header[1:], "big")
        if kind == 4:
            yield from _comments(stream, stream.text(size))
        else:
            stream.skip(size)


def ogg_texts(stream: Stream) -> Texts:
    """Yield the comments of an Ogg file: the second packet of each stream."""
    for packet in _packets(stream):
        for mark in _OGG_MARKS:
            if packet.startswith(mark):
                yield from _comments(stream, memoryview(packet)[len(mark) :])
        if packet[:1] in (b"\x04", b"\x84"):  # a FLAC in an Ogg
            yield from _comments(stream, memoryview(packet)[4:])


def mp3_texts(stream: Stream) -> Texts:
    """Yield the ID3 texts of an MP3 file; they precede the audio."""
    version, flags, size = struct.unpack(">3xBxB4s", stream.take(10))
    data = bytes(stream.text(_without_high_bits(size)))
    if flags & 0x80 and version < 4:
        data = data.replace(b"\xff\0", b"\xff")
    for kind, content in _frames(data, version, has_more=bool(flags & 0x40)):
        yield from _id3_text(kind, content)
    if stream.read(4) == b"fLaC":  # some writers put ID3 in front
        rest = Stream(_Rest(stream))
        rest.name = stream.name
        yield from flac_texts(rest)


# -- comments as Vorbis has them ----------------------------------------------------------


def _comments(stream: Stream, data: memoryview) -> Texts:
    """Parse a Vorbis comment block: a vendor string, then ``KEY=text`` with lengths."""
    try:
        (size,) = struct.unpack_from("<I", data)
        at = 4 + size
        (count,) = struct.unpack_from("<I", data, at)
        at += 4
        for _ in range(min(count, _MOST_ENTRIES)):
            stream.count()
            (size,) = struct.unpack_from("<I", data, at)
            comment = data[at + 4 : at + 4 + size]
            key, equals, _ = bytes(comment[:32]).partition(b"=")
            name = key.decode("latin-1").lower()
            if equals and name in KEYS:
                is_whole = len(comment) == size
                yield name, comment[len(key) + 1 :] if is_whole else WorkflowError("it is cut off")
            at += 4 + size
    except struct.error:
        raise WorkflowError("its comments are damaged") from None


def _packets(stream: Stream) -> Iterator[bytes]:
    """Yield the packets of an Ogg file that precede the audio."""
    parts: dict[bytes, list[bytes]] = {}
    while header := stream.header(27):
        mark, position, serial, count = struct.unpack("<4s2xq4s8xB", header)
        if mark != b"OggS":
            raise WorkflowError(f"the {stream.name} is damaged, at byte {stream.position - 27}")
        if position > 0:
            return  # the audio begins
        for size in stream.take(count):
            waiting = parts.setdefault(serial, [])
            waiting.append(bytes(stream.text(size)))
            if size < 255:
                yield b"".join(waiting)
                waiting.clear()


# -- ID3 ----------------------------------------------------------------------------------


def _frames(data: bytes, version: int, *, has_more: bool) -> Iterator[tuple[bytes, bytes]]:
    """Yield the id and content of each ID3 frame that is neither compressed nor encrypted."""
    name, head = (3, 6) if version == 2 else (4, 10)
    at = 0
    if has_more and version > 2:
        size = data[:4]
        at = _without_high_bits(size) if version == 4 else 4 + int.from_bytes(size, "big")
    for _ in range(_MOST_ENTRIES):
        header = data[at : at + head]
        if len(header) < head or not header[0]:
            return  # the rest is padding
        size = header[name : name + 4] if version > 2 else header[3:6]
        length = _without_high_bits(size) if version == 4 else int.from_bytes(size, "big")
        content = data[at + head : at + head + length]
        if len(content) < length:
            raise WorkflowError("its ID3 tag is damaged")
        flags = header[9] if version > 2 else 0
        if version == 4 and flags & 0x01:
            content = content[4:]
        if version == 4 and flags & 0x02:
            content = content.replace(b"\xff\0", b"\xff")
        if not flags & (0x0C if version == 4 else 0xC0):
            yield header[:name], content
        at += head + length


def _id3_text(kind: bytes, content: bytes) -> Texts:
    is_comment = kind in (b"COMM", b"COM")
    if not content or content[0] >= len(_ID3_ENCODINGS):
        return
    if not is_comment and kind not in (b"TXXX", b"TXX"):
        return
    encoding, zeros = _ID3_ENCODINGS[content[0]]
    at = 4 if is_comment else 1  # behind the language
    end = at
    while end < len(content) and content[end : end + zeros] != bytes(zeros):
        end += zeros
        if end > 200:
            return
    name = content[at:end].decode(encoding, "replace").lower()
    name = "comment" if is_comment else name
    if name in KEYS:
        text = content[end + zeros :]
        yield name, text if zeros == 1 else text.decode(encoding, "replace").encode()


def _without_high_bits(size: bytes) -> int:
    """Decode a synchsafe integer: four bytes of seven bits each."""
    value = 0
    for byte in size:
        value = value << 7 | byte & 0x7F
    return value


class _Rest:
    """A stream with the four bytes of its magic number put back in front."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._mark = b"fLaC"

    def read(self, size: int, /) -> bytes:
        if self._mark:
            found, self._mark = self._mark[:size], self._mark[size:]
            return found
        return self._stream.read(min(size, MAX_TEXT))
