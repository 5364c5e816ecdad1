"""Videos of a second with tags: MP4 (H.264), WebM and Matroska (VP8), without an encoder.

They show a small picture at the upper left, and nothing that moves.  An H.264 stream may hold parts
of a picture as plain samples, guess the rest from them, and say of the next pictures that nothing
moved.  A WebP picture, which Pillow encodes, is a key frame of VP8.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterable, Mapping
from typing import Any

from PIL import Image

_RATE = 8  # frames per second
_SCALE = 1000  # units of time per second
_BLOCK = 16  # pixels: the side of a macroblock
_Element = tuple[int, bytes | int]  # of EBML: id and content
_Size = tuple[int, int]  # width and height in pixels
_MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)


def mp4(picture: Image.Image, size: _Size, tags: Mapping[str, str]) -> bytes:
    """Return an MP4 file of a size, which is rounded up to even numbers."""
    width, height = (side + side % 2 for side in size)
    across, down = -(-width // _BLOCK), -(-height // _BLOCK)
    samples = [_key_frame(picture, across, down)]
    samples += (_still(number, across * down) for number in range(1, _RATE))
    frames = [struct.pack(">I", len(sample)) + sample for sample in samples]
    start = _box(b"ftyp", b"isom\0\0\2\0isomiso2avc1mp41")
    table = _sample_table(frames, len(start) + 8, (width, height), _sequence(width, height))
    return start + _box(b"mdat", *frames) + _movie(table, (width, height), tags)


# -- H.264 ------------------------------------------------------------------------------


def _ue(number: int) -> str:
    """Return the bits of an unsigned Exp-Golomb code."""
    digits = f"{number + 1:b}"
    return "0" * (len(digits) - 1) + digits


def _packed(*bits: str, end: str = "1") -> bytes:
    """Return bits as bytes, with a stop bit; ``end=""``: without one."""
    text = "".join(bits) + end
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8)


def _unit(kind: int, content: bytes) -> bytes:
    """Return a NAL unit: three bytes that look like the start of one are kept apart."""
    return bytes([kind]) + re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", content)


def _sequence(width: int, height: int) -> bytes:
    """Return the sequence's parameters: baseline profile, level 5.1, one reference."""
    across, down = -(-width // 16), -(-height // 16)
    right, bottom = (across * 16 - width) // 2, (down * 16 - height) // 2
    size = _ue(across - 1) + _ue(down - 1) + "111" + _ue(0) + _ue(right) + _ue(0) + _ue(bottom)
    # Ids and frame numbers of 4 bits; order of output is that of decoding.
    start = _ue(0) + _ue(0) + _ue(2) + _ue(1) + "0"
    return _unit(0x67, b"\x42\xc0\x33" + _packed(start, size, "0"))


def _picture() -> bytes:
    """Return the parameters of all pictures: no entropy coder, and the filter can be off."""
    return _unit(0x68, _packed(_ue(0) * 2, "00", _ue(0) * 3, "000", _ue(0) * 3, "100"))


def _key_frame(picture: Image.Image, across: int, down: int) -> bytes:
    """Return a frame of so many blocks; those of the picture are plain samples (I_PCM)."""
    blocks = _plain_blocks(picture, across, down)
    frame = [_ue(0), _ue(7), _ue(0), "0000", _ue(0), "00", _ue(0), _ue(1)]
    length = sum(map(len, frame))
    for y in range(down):
        for x in range(across):
            plain = blocks.get((x, y))
            if plain is None:
                near_plain = (x - 1, y) in blocks or (x, y - 1) in blocks
                code = _GUESSED_BESIDE_PLAIN if near_plain else _GUESSED
            else:
                code = _ue(25)
                code += "0" * (-(length + len(code)) % 8) + plain
            frame.append(code)
            length += len(code)
    return _unit(0x65, _packed(*frame))


def _plain_blocks(picture: Image.Image, across: int, down: int) -> dict[tuple[int, int], str]:
    """Return the samples of the blocks that a picture fills, as bits."""
    wide, high = min(across, picture.width // _BLOCK), min(down, picture.height // _BLOCK)
    luma, *colours = picture.convert("YCbCr").split()
    luma = luma.point([16 + round(value * 219 / 255) for value in range(256)])
    half = (picture.width // 2, picture.height // 2)
    scaled = [128 + round((value - 128) * 224 / 255) for value in range(256)]
    colours = [band.resize(half, Image.Resampling.BOX).point(scaled) for band in colours]
    blocks = {}
    for y in range(high):
        for x in range(wide):
            samples = b"".join(
                band.crop((x * side, y * side, (x + 1) * side, (y + 1) * side)).tobytes()
                for band, side in ((luma, 16), (colours[0], 8), (colours[1], 8))
            )
            blocks[x, y] = f"{int.from_bytes(samples):0{8 * len(samples)}b}"
    return blocks


def _still(number: int, blocks: int) -> bytes:
    """Return a picture that equals the one before."""
    head = (_ue(0), _ue(5), _ue(0), f"{number % 16:04b}", "000", _ue(0), _ue(1))
    return _unit(0x41, _packed(*head, _ue(blocks)))


#: The bits of a block of the mean colour of its neighbours: kind, colour, quantizer, no
#: coefficients.  How none is said depends on the number that the neighbours have.
_GUESSED = _ue(3) + _ue(0) * 2 + "1"
_GUESSED_BESIDE_PLAIN = _ue(3) + _ue(0) * 2 + "000011"


# -- MP4 --------------------------------------------------------------------------------


def _box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I", len(body) + 8) + kind + body


def _full(kind: bytes, layout: str, *values: Any, flags: int = 0) -> bytes:
    return _box(kind, struct.pack(f">I{layout}", flags, *values))


def _sample_table(frames: list[bytes], offset: int, size: _Size, sequence: bytes) -> bytes:
    picture = _picture()
    config = b"\1" + sequence[1:4] + b"\xff\xe1" + struct.pack(">H", len(sequence)) + sequence
    config += b"\1" + struct.pack(">H", len(picture)) + picture
    entry = struct.pack(">6xH16xHHIIIH32xHh", 1, *size, 72 << 16, 72 << 16, 0, 1, 24, -1)
    count = len(frames)
    return _box(
        b"stbl",
        _box(b"stsd", struct.pack(">II", 0, 1), _box(b"avc1", entry, _box(b"avcC", config))),
        _full(b"stts", "III", 1, count, _SCALE // _RATE),
        _full(b"stss", "II", 1, 1),
        _full(b"stsc", "IIII", 1, 1, count, 1),
        _full(b"stsz", f"II{count}I", 0, count, *map(len, frames)),
        _full(b"stco", "II", 1, offset),
    )


def _movie(table: bytes, size: _Size, tags: Mapping[str, str]) -> bytes:
    here = _box(b"dinf", _box(b"dref", struct.pack(">II", 0, 1), _full(b"url ", "", flags=1)))
    media = _box(
        b"mdia",
        _full(b"mdhd", "IIIIHH", 0, 0, _SCALE, _SCALE, 0x55C4, 0),
        _handler(b"vide"),
        _box(b"minf", _full(b"vmhd", "8x", flags=1), here, table),
    )
    sides = (side << 16 for side in size)
    track = _full(
        b"tkhd", "IIIII8xHHHH36sII", 0, 0, 1, 0, _SCALE, 0, 0, 0, 0, _MATRIX, *sides, flags=3
    )
    head = _full(b"mvhd", "IIIIIH10x36s24xI", 0, 0, _SCALE, _SCALE, 0x10000, 0x100, _MATRIX, 2)
    return _box(b"moov", head, _box(b"trak", track, media), _metadata(tags))


def _handler(kind: bytes) -> bytes:
    return _full(b"hdlr", "I4s12xx", 0, kind)


def _metadata(tags: Mapping[str, str]) -> bytes:
    """Return tags by their full names, as ComfyUI writes them (``use_metadata_tags``)."""
    keys = b"".join(_box(b"mdta", name.encode()) for name in tags)
    values = (struct.pack(">II", 1, 0) + value.encode() for value in tags.values())
    items = (
        _box(struct.pack(">I", number), _box(b"data", value))
        for number, value in enumerate(values, 1)
    )
    table = _box(b"keys", struct.pack(">II", 0, len(tags)), keys)
    return _box(b"meta", bytes(4), _handler(b"mdta"), table, _box(b"ilst", *items))


# -- WebM and Matroska ------------------------------------------------------------------

_SECOND = _SCALE.to_bytes(2)


def webm(
    picture: Image.Image, size: _Size, tags: Mapping[str, str], *, form: str = "webm"
) -> bytes:
    """Return a WebM file of a size; with ``form="matroska"``, a Matroska file."""
    whole = Image.new("RGB", size, picture.convert("RGB").getpixel((0, 0)))
    whole.paste(picture)
    file = io.BytesIO()
    whole.save(file, "WEBP", quality=60, method=0)
    webp = file.getvalue()
    (length,) = struct.unpack("<I", webp[16:20])  # of the only chunk
    frame = b"\x81\0\0\0" + webp[20 : 20 + length]  # track 1, at the start of the cluster
    head: list[_Element] = [(0x4282, form.encode()), (0x4287, 2), (0x4285, 2)]
    info: list[_Element] = [
        (0x2AD7B1, 1_000_000),
        (0x4489, struct.pack(">d", _SCALE)),
        (0x7BA9, tags.get("title", "").encode()),
        (0x4D80, b"comfy_client"),
        (0x5741, b"comfy_client"),
    ]
    video = _elements([(0xB0, size[0]), (0xBA, size[1])])
    track: list[_Element] = [(0xD7, 1), (0x73C5, 1), (0x83, 1), (0x86, b"V_VP8"), (0xE0, video)]
    words = (
        (0x67C8, _elements([(0x45A3, name.upper().encode()), (0x4487, value.encode())]))
        for name, value in tags.items()
    )
    block = _elements([(0xA1, frame), (0x9B, _SECOND)])
    segment: list[_Element] = [
        (0x1549A966, _elements(info)),
        (0x1654AE6B, _elements([(0xAE, _elements(track))])),
        (0x1254C367, _elements([(0x7373, _elements([(0x63C0, b""), *words]))])),
        (0x1F43B675, _elements([(0xE7, 0), (0xA0, block)])),
    ]
    return _elements([(0x1A45DFA3, _elements(head)), (0x18538067, _elements(segment))])


def _elements(elements: Iterable[_Element]) -> bytes:
    """Return EBML elements: id, size in 8 bytes, content."""
    written = b""
    for name, value in elements:
        body = value if isinstance(value, bytes) else value.to_bytes(4)
        ident = name.to_bytes((name.bit_length() + 7) // 8)
        written += ident + (1 << 56 | len(body)).to_bytes(8) + body
    return written
