"""Which page a server brings: what it does differs, and the definitions tell the server's age."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import frozen

#: What the page calls classes that have no name in their definition.
_NAMES: Final = {
    "EmptyCosmosLatentVideo": "Empty Cosmos Latent Video",
    "EmptyHunyuanImageLatent": "Empty Hunyuan Image Latent",
    "EmptyLTXVLatentVideo": "Empty LTXV Latent Video",
    "EmptyLatentHunyuan3Dv2": "Empty Hunyuan 3D v2 Latent",
    "LTXVConcatAVLatent": "Concat AV Latent",
    "LTXVSeparateAVLatent": "Separate AV Latent",
    "StableCascade_EmptyLatentImage": "Empty Stable Cascade Latent Image",
    "StableCascade_StageC_VAEEncode": "Stable Cascade Stage C VAE Encode",
    "TextEncodeQwenImageEdit": "Text Encode Qwen Image Edit",
    "TextEncodeQwenImageEditPlus": "Text Encode Qwen Image Edit Plus",
    "VAEDecodeHunyuan3D": "Hunyuan 3D VAE Decode",
}
#: What the page of 2025 calls classes, whatever their definition says.
_OLD_NAMES: Final = {
    "EmptyHunyuanLatentVideo": "EmptyHunyuanLatentVideo",
    "Preview3D": "Preview 3D",
    "PreviewAny": "Preview Any",
}


@frozen
class Era:
    """The page of 2025, or a newer one.

    Attributes:
        is_old: Before ComfyUI 0.12.  That page does not renumber nodes whose ids collide, and
            sends what is in bypassed instances of subgraphs.
    """

    is_old: bool

    def title(self, class_type: str, definition: Mapping[str, Any]) -> str:
        """What the page calls a class."""
        given = definition.get("display_name")
        if self.is_old:
            return _OLD_NAMES.get(class_type) or _text(given) or class_type
        return _text(given) or _NAMES.get(class_type) or class_type


def era_of(definitions: Mapping[str, Any]) -> Era:
    """The age of the page by node definitions: servers since 0.12 say ``is_input_list``."""
    known = [one for one in definitions.values() if isinstance(one, Mapping)]
    return Era(bool(known) and not any("is_input_list" in one for one in known))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
