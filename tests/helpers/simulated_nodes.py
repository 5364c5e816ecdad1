"""ComfyUI's nodes that need models or codecs, simulated: the guide's recipes run with them.

Inputs, outputs and the order of both are those of ComfyUI 0.28.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from comfy_client.testing import ComfyServer
from comfy_client.testing.builtin_nodes import EmptyLatentImage, VAEEncode

Inputs = Mapping[str, Any]
#: Files that ComfyUI itself made.
MEDIA = Path(__file__).parents[1] / "media"


def add_simulated_nodes(server: ComfyServer) -> None:
    """Give a server these nodes, and one file in each folder of models that they read."""
    for folder in ("controlnet", "loras", "upscale_models"):
        path = server.root / "models" / folder / f"simulated-{folder}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    strength = {"default": 1.0, "min": -100.0, "max": 100.0, "step": 0.01}
    fraction = {"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.001}

    def names(folder: str) -> tuple[list[str]]:
        return ([path.name for path in (server.root / "models" / folder).iterdir()],)

    def add(
        name: str,
        required: Callable[[], Inputs],
        types: tuple[str, ...],
        run: Callable[..., Any],
        optional: Inputs | None = None,
    ) -> None:
        def inputs(cls: type) -> dict[str, Any]:
            return {"required": dict(required()), "optional": dict(optional or {})}

        members = {
            "INPUT_TYPES": classmethod(inputs),
            "RETURN_TYPES": types,
            "FUNCTION": "run",
            "OUTPUT_NODE": not types,
            "run": lambda self, **values: run(**values),
        }
        server.add_node(type(name, (), members))

    def saved(key: str, name: str, data: bytes) -> dict[str, Any]:
        (server.root / "output" / name).write_bytes(data)
        return {"ui": {key: [{"filename": name, "subfolder": "", "type": "output"}]}}

    def enlarged(upscale_model: str, image: Any) -> tuple[list[Image.Image]]:
        return ([one.resize((one.width * 4, one.height * 4)) for one in image],)

    def song(audio: bytes, **_: Any) -> dict[str, Any]:
        return saved("audio", "ComfyUI_00001_.mp3", audio)

    def film(video: bytes, **_: Any) -> dict[str, Any]:
        return saved("images", "ComfyUI_00001_.mp4", video) | {"animated": [True]}

    add(
        "VAEEncodeForInpaint",
        lambda: {
            "pixels": ("IMAGE",),
            "vae": ("VAE",),
            "mask": ("MASK",),
            "grow_mask_by": ("INT", {"default": 6, "min": 0, "max": 64}),
        },
        ("LATENT",),
        lambda pixels, vae, mask, grow_mask_by: VAEEncode().run(pixels, vae),
    )
    add(
        "ControlNetLoader",
        lambda: {"control_net_name": names("controlnet")},
        ("CONTROL_NET",),
        lambda control_net_name: (control_net_name,),
    )
    add(
        "ControlNetApplyAdvanced",
        lambda: {
            "positive": ("CONDITIONING",),
            "negative": ("CONDITIONING",),
            "control_net": ("CONTROL_NET",),
            "image": ("IMAGE",),
            "strength": ("FLOAT", fraction),
            "start_percent": ("FLOAT", {**fraction, "default": 0.0}),
            "end_percent": ("FLOAT", fraction),
        },
        ("CONDITIONING", "CONDITIONING"),
        lambda positive, negative, **_: (positive, negative),
        {"vae": ("VAE",)},
    )
    add(
        "UpscaleModelLoader",
        lambda: {"model_name": names("upscale_models")},
        ("UPSCALE_MODEL",),
        lambda model_name: (model_name,),
    )
    add(
        "ImageUpscaleWithModel",
        lambda: {"upscale_model": ("UPSCALE_MODEL",), "image": ("IMAGE",)},
        ("IMAGE",),
        enlarged,
    )
    add(
        "LoraLoader",
        lambda: {
            "model": ("MODEL",),
            "clip": ("CLIP",),
            "lora_name": names("loras"),
            "strength_model": ("FLOAT", strength),
            "strength_clip": ("FLOAT", strength),
        },
        ("MODEL", "CLIP"),
        lambda model, clip, **_: (model, clip),
    )
    add(
        "TextEncodeAceStepAudio",
        lambda: {
            "clip": ("CLIP",),
            "tags": ("STRING", {"multiline": True}),
            "lyrics": ("STRING", {"multiline": True}),
            "lyrics_strength": ("FLOAT", fraction),
        },
        ("CONDITIONING",),
        lambda tags, **_: (tags,),
    )
    add(
        "ConditioningZeroOut",
        lambda: {"conditioning": ("CONDITIONING",)},
        ("CONDITIONING",),
        lambda conditioning: ("",),
    )
    add(
        "EmptyAceStepLatentAudio",
        lambda: {"seconds": ("FLOAT", {"default": 120.0}), "batch_size": ("INT", {"default": 1})},
        ("LATENT",),
        lambda seconds, batch_size: EmptyLatentImage().run(64, 64, batch_size),
    )
    add(
        "VAEDecodeAudio",
        lambda: {"samples": ("LATENT",), "vae": ("VAE",)},
        ("AUDIO",),
        lambda samples, vae: ((MEDIA / "SaveAudioMP3.mp3").read_bytes(),),
    )
    add(
        "SaveAudioMP3",
        lambda: {
            "audio": ("AUDIO",),
            "filename_prefix": ("STRING", {"default": "audio/ComfyUI"}),
            "quality": (["V0", "128k", "320k"], {"default": "V0"}),
        },
        (),
        song,
    )
    add(
        "CreateVideo",
        lambda: {"images": ("IMAGE",), "fps": ("FLOAT", {"default": 30.0})},
        ("VIDEO",),
        lambda images, fps: ((MEDIA / "SaveVideo.mp4").read_bytes(),),
    )
    add(
        "SaveVideo",
        lambda: {
            "video": ("VIDEO",),
            "filename_prefix": ("STRING", {"default": "video/ComfyUI"}),
            "format": (["auto", "mp4"], {"default": "auto"}),
            "codec": (["auto", "h264"], {"default": "auto"}),
        },
        (),
        film,
    )


def video_workflow() -> dict[str, Any]:
    """Return a workflow that makes a video, as the recipe for one loads it."""
    text = {"clip": ["1", 1], "text": "waves"}
    sampler = {
        "model": ["1", 0],
        "positive": ["2", 0],
        "negative": ["2", 0],
        "latent_image": ["4", 0],
        "seed": 1,
        "steps": 2,
        "cfg": 7.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
    }
    saved = {"video": ["7", 0], "filename_prefix": "v", "format": "auto", "codec": "auto"}
    nodes = {
        "1": ("CheckpointLoaderSimple", {"ckpt_name": "tiny.ckpt"}, "Checkpoint"),
        "2": ("CLIPTextEncode", text, "Positive prompt"),
        "3": ("PrimitiveInt", {"value": 8}, "Length"),
        "4": ("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": ["3", 0]}, "Frames"),
        "5": ("KSampler", sampler, "Sampler"),
        "6": ("VAEDecode", {"samples": ["5", 0], "vae": ["1", 2]}, "Decode"),
        "7": ("CreateVideo", {"images": ["6", 0], "fps": 16.0}, "Video"),
        "8": ("SaveVideo", saved, "Save"),
    }
    return {
        id: {"class_type": kind, "inputs": inputs, "_meta": {"title": title}}
        for id, (kind, inputs, title) in nodes.items()
    }
