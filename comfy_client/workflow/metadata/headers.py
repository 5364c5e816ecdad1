"""Texts in files that begin with JSON or text: GLB, safetensors (``.latent``) and SVG."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from ...errors import WorkflowError
from .json_text import decoded
from .stream import KEYS, MAX_TEXT, Stream, Texts


def glb_texts(stream: Stream) -> Texts:
    """Yield the texts in ``asset.extras`` of a binary glTF file."""
    stream.take(12)
    size, kind = struct.unpack("<I4s", stream.take(8))
    if kind != b"JSON":
        raise WorkflowError(f"the {stream.name} is damaged: it does not begin with JSON")
    asset = _table(decoded(stream.text(size), f"the {stream.name}")).get("asset")
    yield from _texts(_table(asset).get("extras"))


def safetensors_texts(stream: Stream) -> Texts:
    """Yield the texts in ``__metadata__`` of a latent, or of a model that ComfyUI saved."""
    (size,) = struct.unpack("<Q", stream.take(8))
    header = _table(decoded(stream.text(size), f"the {stream.name}"))
    yield from _texts(header.get("__metadata__"))


def svg_texts(stream: Stream) -> Texts:
    """Yield the JSON in the ``<metadata>`` of an SVG file."""
    text = stream.read(MAX_TEXT)
    start = text.find(b"<![CDATA[", max(0, text.find(b"<metadata")))
    end = text.find(b"]]>", start)
    if 0 <= start < end:
        yield "comment", memoryview(text)[start + 9 : end]


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _texts(entries: Any) -> Texts:
    for name in KEYS & _table(entries).keys():
        text = entries[name]
        if isinstance(text, str):
            yield name, text.encode("utf-8", "surrogatepass")
