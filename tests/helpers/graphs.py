"""Small workflows and pictures."""

from __future__ import annotations

import io
import itertools
import json
import random
from collections.abc import Mapping
from typing import Any

from PIL import Image

from comfy_client.workflow.metadata.png import add_texts

_COLORS = itertools.count(random.randrange(1 << 24))


def fresh_color() -> int:
    """A colour that no picture of these tests has, so that no server has it in its cache."""
    return next(_COLORS) % (1 << 24)


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def canvas(color: int = 0, **inputs: Any) -> dict[str, Any]:
    return node("EmptyImage", **{"width": 8, "height": 8, "batch_size": 1, "color": color} | inputs)


def picture(color: int = 0, prefix: str = "a") -> dict[str, Any]:
    return {"1": canvas(color), "9": node("SaveImage", images=["1", 0], filename_prefix=prefix)}


def txt2img(seed: int = 1, text: str = "a lighthouse", **inputs: Any) -> dict[str, Any]:
    sampling = {"steps": 3, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal"}
    links = {"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0]}
    sampling |= {"denoise": 1.0, "seed": seed, "latent_image": ["5", 0], **links, **inputs}
    return {
        "3": node("KSampler", **sampling),
        "4": node("CheckpointLoaderSimple", ckpt_name="simulated.safetensors"),
        "5": node("EmptyLatentImage", width=128, height=64, batch_size=1),
        "6": node("CLIPTextEncode", text=text, clip=["4", 1]),
        "7": node("CLIPTextEncode", text="blurry", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", images=["8", 0], filename_prefix="t"),
    }


def png(color: tuple[int, ...] = (1, 2, 3), size: tuple[int, int] = (8, 8)) -> bytes:
    file = io.BytesIO()
    Image.new("RGBA" if len(color) == 4 else "RGB", size, color).save(file, "PNG")
    return file.getvalue()


def with_metadata(picture: bytes, entries: Mapping[str, Any]) -> bytes:
    """A copy of a PNG with these entries, as SaveImage writes them."""
    return add_texts(picture, {k.encode(): json.dumps(v).encode() for k, v in entries.items()})
