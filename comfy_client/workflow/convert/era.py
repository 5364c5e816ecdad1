"""Differences between frontends, told apart by the server's node definitions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import frozen

from ...values import plain_text

#: The frontend's titles for classes whose definition has no display name.
_NAMES: Final = {
    "BasicGuider": "Basic Guider",
    "CFGGuider": "CFG Guider",
    "CLIPTextEncodeControlnet": "CLIP Text Encode (Controlnet)",
    "CLIPTextEncodeHiDream": "CLIP Text Encode (HiDream)",
    "CLIPTextEncodeHunyuanDiT": "CLIP Text Encode (Hunyuan Image)",
    "CLIPTextEncodePixArtAlpha": "CLIP Text Encode (PixArt Alpha)",
    "CLIPTextEncodeSD3": "CLIP Text Encode (SD3)",
    "CLIPTextEncodeSDXL": "CLIP Text Encode (SDXL)",
    "CLIPTextEncodeSDXLRefiner": "CLIP Text Encode (SDXL Refiner)",
    "Canny": "Detect Edges (Canny)",
    "ControlNetInpaintingAliMamaApply": "Apply ControlNet Inpainting (AliMama)",
    "DualCFGGuider": "Dual CFG Guider",
    "EmptyAceStepLatentAudio": "Empty Ace Step 1.0 Latent Audio",
    "EmptyCosmosLatentVideo": "Empty Cosmos Latent Video",
    "EmptyHunyuanImageLatent": "Empty Hunyuan Image Latent",
    "EmptyLTXVLatentVideo": "Empty LTXV Latent Video",
    "EmptyLatentHunyuan3Dv2": "Empty Hunyuan 3D v2 Latent",
    "FluxKontextMultiReferenceLatentMethod": "Edit Model Reference Method",
    "HunyuanRefinerLatent": "Hunyuan Latent Refiner",
    "HunyuanVideo15SuperResolution": "Hunyuan Video 1.5 Super Resolution",
    "HypernetworkLoader": "Load Hypernetwork",
    "ImageBlend": "Blend Images",
    "ImageBlur": "Blur Image",
    "ImageQuantize": "Quantize Image",
    "ImageRGBToYUV": "Image RGB to YUV",
    "ImageScaleToTotalPixels": "Scale Image to Total Pixels",
    "ImageSharpen": "Sharpen Image",
    "ImageYUVToRGB": "Image YUV to RGB",
    "LTXVConcatAVLatent": "Concat AV Latent",
    "LTXVPreprocess": "LTXV Preprocess",
    "LTXVSeparateAVLatent": "Separate AV Latent",
    "LatentBatch": "Batch Latents (DEPRECATED)",
    "PerpNegGuider": "Perp-Neg Guider",
    "PhotoMakerEncode": "PhotoMaker Encode",
    "PhotoMakerLoader": "Load PhotoMaker Model",
    "QuadrupleCLIPLoader": "Load CLIP (Quadruple)",
    "ReferenceLatent": "Set Reference Latent",
    "SaveGLB": "Save 3D Model",
    "SaveWEBM": "Save WEBM",
    "SetUnionControlNetType": "Set Union ControlNet Type",
    "StableCascade_EmptyLatentImage": "Empty Stable Cascade Latent Image",
    "StableCascade_StageC_VAEEncode": "Stable Cascade Stage C VAE Encode",
    "T5TokenizerOptions": "T5 Tokenizer Options",
    "TextEncodeQwenImageEdit": "Text Encode Qwen Image Edit",
    "TextEncodeQwenImageEditPlus": "Text Encode Qwen Image Edit Plus",
    "TrimVideoLatent": "Trim Video Latent",
    "TripleCLIPLoader": "Load CLIP (Triple)",
    "VAEDecodeHunyuan3D": "Hunyuan 3D VAE Decode",
    "VoxelToMesh": "Voxel to Mesh",
    "VoxelToMeshBasic": "Voxel to Mesh (Basic) (DEPRECATED)",
}
#: Titles in the frontend of 2025, whatever the definition says.
_OLD_NAMES: Final = {
    "EmptyHunyuanLatentVideo": "EmptyHunyuanLatentVideo",
    "Load3D": "Load 3D",
    "Preview3D": "Preview 3D",
    "PreviewAny": "Preview Any",
}


@frozen
class Era:
    """The kind of frontend: from 2025, or newer.

    Attributes:
        is_old: Whether it is from before ComfyUI 0.12.  Such a frontend does not renumber nodes
            whose ids collide, and sends the contents of bypassed instances of subgraphs.
    """

    is_old: bool

    def title(self, class_type: str, definition: Mapping[str, Any]) -> str:
        """Return the frontend's default title for nodes of a class."""
        given = plain_text(definition.get("display_name"))
        if self.is_old:
            return _OLD_NAMES.get(class_type) or given or class_type
        return given or _NAMES.get(class_type) or class_type


def era_of(definitions: Mapping[str, Any]) -> Era:
    """Return the kind of frontend, judging by the server's node definitions.

    Servers since 0.12 define ``is_input_list``.
    """
    known = [one for one in definitions.values() if isinstance(one, Mapping)]
    return Era(bool(known) and not any("is_input_list" in one for one in known))
