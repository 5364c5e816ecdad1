"""Readers of media files for tests, apart from all that writes or reads them in the package.

Each checks the whole structure of a file by an assertion, and returns what a player would say.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any
from xml.etree import ElementTree

import attrs
from PIL import Image


@attrs.frozen
class Facts:
    """What is in a file: seconds, width and height, number of pictures or points, texts."""

    seconds: float = 0.0
    size: tuple[int, int] = (0, 0)
    count: int = 0
    words: bytes = b""


def read(data: bytes, ending: str) -> Facts:
    """Read a file by the extension of its name."""
    return READERS[ending](data)


# -- pictures ---------------------------------------------------------------------------


def _picture(data: bytes) -> Facts:
    with Image.open(io.BytesIO(data)) as image:
        count = getattr(image, "n_frames", 1)
        total = 0.0
        for index in range(count):
            image.seek(index)
            image.load()
            total += image.info.get("duration", 0)
        return Facts(total / 1000, image.size, count, data)


def _exr(data: bytes) -> Facts:
    """Check the lines of a file that zlib packed line by line."""
    at, attributes = 8, dict[bytes, bytes]()
    assert data[:at] == b"\x76\x2f\x31\x01\2\0\0\0"
    while data[at]:
        name, _, _ = data[at:].split(b"\0", 2)
        kind = data[at + len(name) + 1 :].split(b"\0", 1)[0]
        at += len(name) + len(kind) + 2
        (size,) = struct.unpack_from("<i", data, at)
        attributes[name] = data[at + 4 : at + 4 + size]
        at += 4 + size
    assert attributes[b"compression"] == b"\2"
    assert attributes[b"channels"].count(struct.pack("<iB3xii", 2, 0, 1, 1)) == 3
    left, top, right, bottom = struct.unpack("<4i", attributes[b"dataWindow"])
    width, height = right - left + 1, bottom - top + 1
    end = at + 1 + 8 * height
    for y, offset in enumerate(struct.unpack_from(f"<{height}Q", data, at + 1)):
        assert offset == end
        number, size = struct.unpack_from("<ii", data, offset)
        assert number == y
        end = offset + 8 + size
        line = data[offset + 8 : end]
        assert size == width * 12 or len(zlib.decompress(line)) == width * 12 > size
    assert end == len(data)
    return Facts(0.0, (width, height), 1, b"".join(attributes.values()))


def _svg(data: bytes) -> Facts:
    root = ElementTree.fromstring(data)
    words = "".join(root.itertext()).encode()
    return Facts(0.0, (int(root.attrib["width"]), int(root.attrib["height"])), 1, words)


# -- videos -----------------------------------------------------------------------------

_HOLDERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"udta", b"edts", b"dinf"}


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and content of each box, also of those inside others; none is cut off."""
    at = 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        assert 8 <= size <= len(data) - at
        yield kind, data[at + 8 : at + size]
        if kind in _HOLDERS:
            yield from _boxes(data[at + 8 : at + size])
        at += size


def _mp4(data: bytes) -> Facts:
    boxes = dict(reversed(list(_boxes(data))))  # the first of a kind
    assert data[4:8] == b"ftyp"
    scale, duration = struct.unpack_from(">II", boxes[b"mvhd"], 12)
    width, height = struct.unpack_from(">HH", boxes[b"stsd"], 8 + 32)
    assert boxes[b"stsd"][12:16] == b"avc1"
    same, count = struct.unpack_from(">II", boxes[b"stsz"], 4)
    sizes = [same] * count if same else struct.unpack_from(f">{count}I", boxes[b"stsz"], 12)
    (start,) = struct.unpack_from(">I", boxes[b"stco"], 8)
    assert data[start : start + sum(sizes)] == boxes[b"mdat"][-sum(sizes) :]
    units = []
    for size in sizes:
        end = start + size
        while start < end:  # units, each after its length
            (length,) = struct.unpack_from(">I", data, start)
            units.append(data[start + 4 : start + 4 + length])
            start += 4 + length
        assert start == end
    at = boxes[b"stsd"].index(b"avcC") + 4
    (length,) = struct.unpack_from(">H", boxes[b"stsd"], at + 6)
    if boxes[b"stsd"][at + 1] == _BASELINE:  # not those of other encoders
        assert _check_h264(boxes[b"stsd"][at + 8 : at + 8 + length], units) == (width, height)
    return Facts(duration / scale, (width, height), count, boxes[b"moov"])


_BASELINE = 66


class _Bits:
    """The bits of a unit of H.264, from an offset in bytes."""

    def __init__(self, unit: bytes, at: int) -> None:
        raw = unit.replace(b"\0\0\3", b"\0\0")
        self.bits = f"{int.from_bytes(raw):0{8 * len(raw)}b}"
        self.at = 8 * at

    def take(self, count: int) -> str:
        self.at += count
        return self.bits[self.at - count : self.at]

    def number(self) -> int:
        """Read an unsigned Exp-Golomb code."""
        zeros = self.bits.index("1", self.at) - self.at
        return int(self.take(2 * zeros + 1), 2) - 1

    def check_end(self) -> None:
        assert self.take(1) == "1"
        assert "1" not in self.bits[self.at :]
        assert len(self.bits) - self.at < 8


def _check_h264(sequence: bytes, units: list[bytes]) -> tuple[int, int]:
    """Check a key frame of blocks that are plain or without residue, and frames of skipped ones."""
    bits = _Bits(sequence, 4)
    assert [bits.number() for _ in range(4)] == [0, 0, 2, 1]
    assert bits.take(1) == "0"
    across, down = bits.number() + 1, bits.number() + 1
    assert bits.take(3) == "111"
    left, right, top, bottom = (2 * bits.number() for _ in range(4))
    assert bits.take(1) == "0"
    bits.check_end()
    key, *others = units
    bits = _Bits(key, 1)
    assert (bits.number(), bits.number(), bits.number(), bits.take(4)) == (0, 7, 0, "0000")
    assert (bits.number(), bits.take(2), bits.number(), bits.number()) == (0, "00", 0, 1)
    coefficients: dict[tuple[int, int], int] = {}
    for y in range(down):
        for x in range(across):
            near = [coefficients[at] for at in ((x - 1, y), (x, y - 1)) if at in coefficients]
            kind = bits.number()
            coefficients[x, y] = 16 if kind == 25 else 0
            if kind == 25:
                assert "1" not in bits.take(-bits.at % 8)
                bits.take(384 * 8)
            else:
                assert (kind, bits.number(), bits.number()) == (3, 0, 0)
                mean = (sum(near) + 1) // 2 if len(near) == 2 else sum(near)
                none = "1" if mean < 2 else "11" if mean < 4 else "1111" if mean < 8 else "000011"
                assert bits.take(len(none)) == none
    bits.check_end()
    for number, unit in enumerate(others, 1):
        bits = _Bits(unit, 1)
        assert (bits.number(), bits.number(), bits.number()) == (0, 5, 0)
        assert (int(bits.take(4), 2), bits.take(3)) == (number % 16, "000")
        assert (bits.number(), bits.number(), bits.number()) == (0, 1, across * down)
        bits.check_end()
    return across * 16 - left - right, down * 16 - top - bottom


_SEGMENT, _CLUSTER, _GROUP, _TRACKS, _TRACK = 0x18538067, 0x1F43B675, 0xA0, 0x1654AE6B, 0xAE
_INFO, _VIDEO, _TAGS = 0x1549A966, 0xE0, 0x1254C367
_MASTERS = {_SEGMENT, _CLUSTER, _GROUP, _TRACKS, _TRACK, _INFO, _VIDEO}


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the id and content of each EBML element, also of those inside others."""
    at = 0
    while at < len(data):
        length = 9 - data[at].bit_length()
        ident = int.from_bytes(data[at : at + length])
        at += length
        length = 9 - data[at].bit_length()
        size = int.from_bytes(data[at : at + length]) & (1 << 7 * length) - 1
        at += length
        assert size <= len(data) - at
        yield ident, data[at : at + size]
        if ident in _MASTERS:
            yield from _elements(data[at : at + size])
        at += size


def _matroska(data: bytes) -> Facts:
    elements = list(_elements(data))
    found = dict(reversed(elements))
    (duration,) = struct.unpack(">d", found[0x4489])
    scale = int.from_bytes(found[0x2AD7B1])
    size = int.from_bytes(found[0xB0]), int.from_bytes(found[0xBA])
    lengths = [int.from_bytes(content) for ident, content in elements if ident == 0x9B]
    assert not lengths or sum(lengths) == duration
    frames = [content[4:] for ident, content in elements if ident in (0xA1, 0xA3)]
    if found[0x86] == b"V_VP8":  # a key frame is what is in a WebP picture
        for frame in frames:
            chunk = b"VP8 " + struct.pack("<I", len(frame)) + frame + b"\0" * (len(frame) % 2)
            riff = b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk
            assert _picture(riff).size == size
    return Facts(duration * scale / 1e9, size, len(frames), found[_TAGS])


# -- sounds -----------------------------------------------------------------------------


def _checksum(data: bytes, bits: int, polynomial: int) -> int:
    """The remainder of a division, bit by bit."""
    rest = 0
    for byte in data:
        for place in range(7, -1, -1):
            top = rest >> bits - 1 ^ byte >> place & 1
            rest = rest << 1 & (1 << bits) - 1
            rest ^= polynomial if top else 0
    return rest


def _flac(data: bytes) -> Facts:
    """Check the frames, too, if all are of one size, as those of silence."""
    assert data[:4] == b"fLaC"
    at, last, words, info = 4, False, b"", b""
    while not last:
        kind, size = data[at] & 127, int.from_bytes(data[at + 1 : at + 4])
        last = bool(data[at] & 128)
        content = data[at + 4 : at + 4 + size]
        info, words = (content if kind == 0 else info), (content if kind == 4 else words)
        at += 4 + size
    layout = int.from_bytes(info[10:18])
    rate, samples = layout >> 44, layout & (1 << 36) - 1
    block = int.from_bytes(info[:2])
    frames = data[at:].split(b"\xff\xf8")[1:]
    assert frames
    for frame in frames if len(set(map(len, frames))) == 1 else ():
        whole = b"\xff\xf8" + frame
        assert _checksum(whole, 16, 0x8005) == 0
        assert _checksum(whole[:8], 8, 0x07) == 0
    assert samples <= len(frames) * block
    return Facts(samples / rate, (0, 0), len(frames), words)


_KBITS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)


def _mp3(data: bytes) -> Facts:
    assert data[:3] == b"ID3"
    size = sum(byte << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))
    at, count, rate = 10 + size, 0, 0
    while at < len(data):
        assert data[at] == 0xFF
        assert data[at + 1] & 0xFE == 0xFA  # MPEG-1, layer III
        rate = (44100, 48000, 32000)[data[at + 2] >> 2 & 3]
        at += 144000 * _KBITS[data[at + 2] >> 4] // rate + (data[at + 2] >> 1 & 1)
        count += 1
    assert at == len(data)
    return Facts(count * 1152 / rate, (0, 0), count, data[:size])


def _ogg(data: bytes) -> Facts:
    at, position, packets = 0, 0, [b""]
    while at < len(data):
        assert data[at : at + 4] == b"OggS"
        assert bool(data[at + 5] & 1) == bool(packets[-1])  # goes on with a packet
        granule, _, _, checksum, count = struct.unpack_from("<qIIIB", data, at + 6)
        sizes = data[at + 27 : at + 27 + count]
        end = at + 27 + count + sum(sizes)
        bare = data[at : at + 22] + bytes(4) + data[at + 26 : end]
        assert _checksum(bare, 32, 0x04C11DB7) == checksum
        at += 27 + count
        for size in sizes:
            packets[-1] += data[at : at + size]
            packets += [b""] if size < 255 else []
            at += size
        position = granule if granule >= 0 else position
    assert packets[0][:8] == b"OpusHead"
    assert packets[1][:8] == b"OpusTags"
    (skipped,) = struct.unpack_from("<H", packets[0], 10)
    return Facts((position - skipped) / 48000, (0, 0), len(packets) - 3, packets[1])


# -- 3D models and weights --------------------------------------------------------------


def _glb(data: bytes) -> Facts:
    magic, version, size = struct.unpack_from("<4sII", data)
    assert (magic, version, size) == (b"glTF", 2, len(data))
    length, kind = struct.unpack_from("<I4s", data, 12)
    assert (length % 4, kind) == (0, b"JSON")
    scene: dict[str, Any] = json.loads(data[20 : 20 + length])
    size, kind = struct.unpack_from("<I4s", data, 20 + length)
    assert (20 + length + 8 + size, kind) == (len(data), b"BIN\0")
    assert scene["buffers"][0]["byteLength"] <= size
    mesh = scene["meshes"][scene["nodes"][scene["scenes"][0]["nodes"][0]]["mesh"]]
    points = scene["accessors"][mesh["primitives"][0]["attributes"]["POSITION"]]
    view = scene["bufferViews"][points["bufferView"]]
    assert view.get("byteOffset", 0) + view["byteLength"] <= size
    assert points["count"] * 12 <= view["byteLength"]
    return Facts(0.0, (0, 0), points["count"], data[20 : 20 + length])


def _ply(data: bytes) -> Facts:
    head, _, body = data.decode().partition("end_header\n")
    assert head.startswith("ply\nformat ascii 1.0\n")
    points = [[float(number) for number in line.split()] for line in body.splitlines()]
    assert f"element vertex {len(points)}\n" in head
    assert {len(point) for point in points} == {3}
    return Facts(0.0, (0, 0), len(points), head.encode())


def _safetensors(data: bytes) -> Facts:
    (size,) = struct.unpack_from("<Q", data)
    tensors = json.loads(data[8 : 8 + size])
    words = json.dumps(tensors.pop("__metadata__", {})).encode()
    ends = [tensor["data_offsets"][1] for tensor in tensors.values()]
    assert 8 + size + max(ends, default=0) == len(data)
    return Facts(0.0, (0, 0), len(tensors), words)


#: By the extension of a file's name.
READERS: dict[str, Callable[[bytes], Facts]] = {
    **dict.fromkeys(("png", "webp", "gif"), _picture),
    **dict.fromkeys(("mp4", "mov"), _mp4),
    **dict.fromkeys(("webm", "mkv"), _matroska),
    **dict.fromkeys(("latent", "safetensors"), _safetensors),
    "exr": _exr,
    "svg": _svg,
    "flac": _flac,
    "mp3": _mp3,
    "opus": _ogg,
    "glb": _glb,
    "ply": _ply,
}
