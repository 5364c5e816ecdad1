"""Small valid files as ComfyUI's output nodes write them: pictures, 3D models, weights.

Metadata stands where ComfyUI writes it, so that a workflow can be read from the file.  What no
model has made says so in a text of the file.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

from PIL import Image, PngImagePlugin

from ..workflow.metadata.png import add_texts

LABEL: Final = "simulated by comfy_client: no model was run"

# EXIF tags: ComfyUI has the prompt in Model, and everything else in Make and the tags before it.
_MAKE, _MODEL, _SOFTWARE = 0x010F, 0x0110, 0x0131


def texts(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return metadata as texts: a JSON value for each key."""
    return {key: json.dumps(value) for key, value in metadata.items()}


def tags(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of a sound or a video: the label as its title, and the metadata."""
    return {"title": LABEL, **texts(metadata)}


# -- pictures ---------------------------------------------------------------------------


def png(picture: Image.Image, metadata: Mapping[str, Any]) -> bytes:
    """Return a PNG file."""
    found = {"Title": LABEL, **texts(metadata)}
    return add_texts(
        _saved(picture, "PNG", compress_level=1),
        {key.encode("latin-1"): text.encode() for key, text in found.items()},
    )


def apng(
    pictures: Sequence[Image.Image],
    fps: float,
    metadata: Mapping[str, Any],
    *,
    compress_level: int = -1,
    label: str = LABEL,
) -> bytes:
    """Return an animated PNG file, with metadata in chunks of ComfyUI's own kind."""
    info = PngImagePlugin.PngInfo()
    for key, text in texts(metadata).items():
        info.add(b"comf", f"{key}\0{text}".encode("latin-1"), after_idat=True)
    file = _animated(pictures, fps, "PNG", pnginfo=info, compress_level=compress_level)
    return add_texts(file, {b"Title": label.encode()} if label else {})


def webp(
    pictures: Sequence[Image.Image],
    fps: float,
    metadata: Mapping[str, Any],
    *,
    lossless: bool = True,
    quality: int = 80,
    method: int = 0,
    label: str = LABEL,
) -> bytes:
    """Return an animated WebP file."""
    exif = Image.Exif()
    if label:
        exif[_SOFTWARE] = label
    others = _MAKE
    for key, text in texts(metadata).items():
        exif[_MODEL if key == "prompt" else others] = f"{key}:{text}"
        others -= key != "prompt"
    return _animated(
        pictures, fps, "WEBP", exif=exif, lossless=lossless, quality=quality, method=method
    )


def gif(pictures: Sequence[Image.Image], fps: float) -> bytes:
    """Return an animated GIF file."""
    return _animated(pictures, fps, "GIF", comment=LABEL, loop=0)


def _animated(pictures: Sequence[Image.Image], fps: float, form: str, **options: Any) -> bytes:
    """Return an animated file; a picture that repeats is encoded once, and shown longer."""
    runs = [list(run) for _, run in groupby(pictures, id)]
    durations = [max(1, int(1000 / max(fps, 0.01))) * len(run) for run in runs]
    first, *others = (run[0] for run in runs)
    # With one picture, Pillow takes one duration.
    duration = durations if others else durations[0]
    return _saved(first, form, save_all=True, append_images=others, duration=duration, **options)


def _saved(picture: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def svg(width: int, height: int, metadata: Mapping[str, Any]) -> bytes:
    """Return an SVG file that shows the word *simulated*."""
    found = json.dumps(dict(metadata), indent=2).replace("]]>", "]]]]><![CDATA[>")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">\n'
        f"<metadata><![CDATA[{found}]]></metadata>\n"
        f'<title>{LABEL}</title><text x="2" y="14" font-size="10">simulated</text>\n</svg>\n'
    ).encode()


def exr(width: int, height: int, metadata: Mapping[str, Any]) -> bytes:
    """Return an OpenEXR file of 32-bit floats, all black, with metadata as attributes."""
    box = struct.pack("<4i", 0, 0, width - 1, height - 1)
    channels = b"".join(name + struct.pack("<xiB3xii", 2, 0, 1, 1) for name in (b"B", b"G", b"R"))
    attributes = [
        ("channels", "chlist", channels + b"\0"),
        ("comments", "string", LABEL.encode()),
        ("compression", "compression", b"\2"),  # zlib, line by line
        ("dataWindow", "box2i", box),
        ("displayWindow", "box2i", box),
        ("lineOrder", "lineOrder", b"\0"),
        ("pixelAspectRatio", "float", struct.pack("<f", 1)),
        ("screenWindowCenter", "v2f", bytes(8)),
        ("screenWindowWidth", "float", struct.pack("<f", 1)),
        *((key, "string", text.encode()) for key, text in texts(metadata).items()),
    ]
    head = b"\x76\x2f\x31\x01\2\0\0\0"
    for name, kind, value in attributes:
        head += f"{name}\0{kind}\0".encode() + struct.pack("<i", len(value)) + value
    head += b"\0"
    black = bytes(width * 12)
    # Each byte is stored as its difference from the one before, plus 128.
    packed = zlib.compress(b"\0" + b"\x80" * (len(black) - 1))
    line = packed if len(packed) < len(black) else black
    size, start = 8 + len(line), len(head) + 8 * height
    offsets = struct.pack(f"<{height}Q", *range(start, start + height * size, size))
    lines = (struct.pack("<ii", y, len(line)) + line for y in range(height))
    return head + offsets + b"".join(lines)


# -- 3D models --------------------------------------------------------------------------

_CORNERS = ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


def glb(metadata: Mapping[str, Any]) -> bytes:
    """Return a binary glTF file of one triangle, with metadata in ``asset.extras``."""
    corners = b"".join(struct.pack("<3f", *corner) for corner in _CORNERS)
    points = {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}
    scene = {
        "asset": {"version": "2.0", "generator": LABEL, "extras": texts(metadata)},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"name": "simulated", "mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "accessors": [{**points, "min": [0, 0, 0], "max": [1, 1, 0]}],
        "bufferViews": [{"buffer": 0, "byteLength": len(corners), "target": 34962}],
        "buffers": [{"byteLength": len(corners)}],
    }
    header = json.dumps(scene).encode()
    header += b" " * (-len(header) % 4)
    chunks = struct.pack("<I4s", len(header), b"JSON") + header
    chunks += struct.pack("<I4s", len(corners), b"BIN\0") + corners
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def ply() -> bytes:
    """Return a PLY file of three points."""
    head = ["ply", "format ascii 1.0", f"comment {LABEL}", f"element vertex {len(_CORNERS)}"]
    head += [f"property float {axis}" for axis in "xyz"]
    return _lines([*head, "end_header", *(f"{x} {y} {z}" for x, y, z in _CORNERS)])


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


# -- weights ----------------------------------------------------------------------------


def safetensors(metadata: Mapping[str, Any]) -> bytes:
    """Return a file of weights or latents that has none, with metadata in its header."""
    header = json.dumps({"__metadata__": tags(metadata)}).encode()
    return struct.pack("<Q", len(header)) + header
