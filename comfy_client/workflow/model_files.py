"""Files of models: the folder of each loader's input, and similar file names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice
from typing import Final

from ..nearest import nearest

_FILE: Final = re.compile(r".*\.[A-Za-z][A-Za-z0-9]{1,11}", re.DOTALL)
#: Folders below ``models``, by the input's name, or by class and input where that differs.
_FOLDERS: Final = {
    "audio_encoder_name": "audio_encoders",
    "ckpt_name": "checkpoints",
    "clip_name": "text_encoders",
    "clip_name1": "text_encoders",
    "clip_name2": "text_encoders",
    "clip_name3": "text_encoders",
    "clip_name4": "text_encoders",
    "config_name": "configs",
    "control_net_name": "controlnet",
    "gligen_name": "gligen",
    "hypernetwork_name": "hypernetworks",
    "lora_name": "loras",
    "photomaker_model_name": "photomaker",
    "style_model_name": "style_models",
    "unet_name": "diffusion_models",
    "vae_name": "vae",
    "CLIPVisionLoader.clip_name": "clip_vision",
    "LatentUpscaleModelLoader.model_name": "latent_upscale_models",
    "ModelPatchLoader.name": "model_patches",
    "UpscaleModelLoader.model_name": "upscale_models",
}
#: The most choices that are searched for near ones.
_LOOKED_AT: Final = 100_000


def folder_of(class_type: str | None, input_name: str | None) -> str | None:
    """Return the folder below ``models`` whose files an input offers, or None."""
    by_class = _FOLDERS.get(f"{class_type}.{input_name}")
    return by_class or _FOLDERS.get(input_name or "")


def is_file_name(text: str) -> bool:
    """Return whether a value looks like a file name."""
    return len(text) < 1000 and _FILE.fullmatch(text) is not None


def nearest_files(name: str, names: Iterable[str], limit: int = 3) -> tuple[str, ...]:
    """Return similar file names: the same name in other folders first."""
    by_base: dict[str, list[str]] = {}
    for one in islice(names, _LOOKED_AT):
        if isinstance(one, str):
            by_base.setdefault(_base(one), []).append(one)
    wanted = _base(name)
    found = by_base.pop(wanted, [])
    for base in nearest(wanted, by_base, limit) if len(found) < limit else ():
        found = found + by_base[base]
    return tuple(found[:limit])


def _base(name: str) -> str:
    return re.split(r"[\\/]", name)[-1].lower()
