"""Silent audio files of a second with tags: FLAC, MP3 and Opus, as ComfyUI's nodes save them.

No encoder is needed: each of these formats has a frame for silence of a few bytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

_RATE = 44100
_OPUS_RATE = 48000
#: Samples of a frame.
_FLAC_BLOCK, _MP3_BLOCK, _OPUS_BLOCK = 4410, 1152, 960
#: Of MPEG-1 layer III: mono with 32 kbit/s.
_MP3_FRAME = b"\xff\xfb\x10\xc4".ljust(104, b"\0")
_OPUS_SILENCE = b"\xf8\xff\xfe"
_OGG_SEGMENTS = 255  # the most in a page, and the most bytes of one
_CONTINUED, _FIRST, _LAST = 1, 2, 4  # kinds of Ogg pages
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def flac(tags: Mapping[str, str]) -> bytes:
    """Return a FLAC file with tags as Vorbis comments."""
    # Rate (20 bits), channels - 1 (3), bits per sample - 1 (5), samples (36).
    layout = (_RATE << 44 | 15 << 36 | _RATE).to_bytes(8)
    info = struct.pack(">HH6x", _FLAC_BLOCK, _FLAC_BLOCK) + layout + bytes(16)
    comments = _vorbis_comments(tags)
    head = b"fLaC\0" + len(info).to_bytes(3) + info + b"\x84" + len(comments).to_bytes(3) + comments
    return head + b"".join(map(_flac_frame, range(_RATE // _FLAC_BLOCK)))


def _flac_frame(number: int) -> bytes:
    """Return a frame with one constant subframe, whose value is 0."""
    head = b"\xff\xf8\x79\x08" + bytes([number]) + struct.pack(">H", _FLAC_BLOCK - 1)
    frame = head + _flac_checksum(head, 8, 0x07) + b"\0\0\0"
    return frame + _flac_checksum(frame, 16, 0x8005)


def _flac_checksum(data: bytes, bits: int, polynomial: int) -> bytes:
    top, mask = 1 << bits - 1, (1 << bits) - 1
    value = 0
    for byte in data:
        value ^= byte << bits - 8
        for _ in range(8):
            value = (value << 1 ^ (polynomial if value & top else 0)) & mask
    return value.to_bytes(bits // 8)


def mp3(tags: Mapping[str, str]) -> bytes:
    """Return an MP3 file with an ID3v2.4 tag."""
    frames = b"".join(_id3_frame(name, value) for name, value in tags.items())
    return b"ID3\4\0\0" + _syncsafe(len(frames)) + frames + _MP3_FRAME * (_RATE // _MP3_BLOCK)


def _id3_frame(name: str, value: str) -> bytes:
    kind, text = (b"TIT2", value) if name == "title" else (b"TXXX", f"{name}\0{value}")
    body = b"\3" + text.encode()  # UTF-8
    return kind + _syncsafe(len(body)) + b"\0\0" + body


def _syncsafe(number: int) -> bytes:
    """Return a number as four bytes of 7 bits."""
    return bytes(number >> shift & 127 for shift in (21, 14, 7, 0))


def opus(tags: Mapping[str, str]) -> bytes:
    """Return an Opus file, which is an Ogg stream, with tags as Vorbis comments."""
    head = b"OpusHead" + struct.pack("<BBHIHB", 1, 1, 0, _OPUS_RATE, 0, 0)
    comments = b"OpusTags" + _vorbis_comments(tags)
    parts = [comments[at : at + 255] for at in range(0, len(comments) + 1, 255)]  # the last < 255
    pages = [(_FIRST, 0, [head])]
    pages += [
        (_CONTINUED if at else 0, 0, parts[at : at + _OGG_SEGMENTS])
        for at in range(0, len(parts), _OGG_SEGMENTS)
    ]
    pages.append((_LAST, _OPUS_RATE, [_OPUS_SILENCE] * (_OPUS_RATE // _OPUS_BLOCK)))
    return b"".join(_ogg_page(number, *page) for number, page in enumerate(pages))


def _ogg_page(number: int, kind: int, position: int, segments: list[bytes]) -> bytes:
    if len(segments[-1]) == 255:
        position = -1  # no packet ends in it
    head = b"OggS" + struct.pack("<BBqII", 0, kind, position, 1, number)
    body = bytes([len(segments), *map(len, segments)]) + b"".join(segments)
    return head + _ogg_checksum(head + bytes(4) + body) + body


def _ogg_checksum(data: bytes) -> bytes:
    """Return the checksum of an Ogg page: zlib's with all bits reversed, and without inversions."""
    value = zlib.crc32(data.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    # Its bits reversed are its bytes reversed, and the bits in each; Ogg stores the lowest first.
    return value.to_bytes(4).translate(_REVERSED)


def _vorbis_comments(tags: Mapping[str, str]) -> bytes:
    comments = [f"{name}={value}".encode() for name, value in tags.items()]
    first, *others = (struct.pack("<I", len(part)) + part for part in (b"comfy_client", *comments))
    return first + struct.pack("<I", len(others)) + b"".join(others)
