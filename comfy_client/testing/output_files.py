"""The files that stand-ins of output nodes write, and what they tell the client of them.

Names, folders, numbers and metadata are those of ComfyUI's own nodes.  Pictures are those that a
node got; a sound is silent, a video shows that it is simulated, and a 3D model is a triangle.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from typing import Any

import attrs
from PIL import Image

from . import audio_files, media_files, video_files
from .folders import Folders
from .images import Frame, Pictures, draw

_Ui = dict[str, Any]  # what a client is told, by key, as ComfyUI's nodes return it


@attrs.frozen
class OutputNode:
    """A stand-in of an output node that runs.

    Attributes:
        definition: The definition of its class.
        given: Its inputs.
        size: The width and height of what it saves, in pixels.
        folders: The folders of the server.
    """

    definition: Mapping[str, Any]
    given: Mapping[str, Any]
    size: tuple[int, int]
    folders: Folders

    def shown(self) -> _Ui:
        """Write the files of the node; return what its client is told, which may be nothing."""
        save = OUTPUT_NODES.get(self.definition["name"])
        return save(self) if save else {}

    @property
    def passes_on(self) -> bool:
        """Whether the node has outputs, as those that save files do in servers of 2026."""
        return bool(self.definition["output"])

    def text(self, name: str, default: str = "") -> str:
        """Return an input that is a text."""
        value = self.given.get(name, default)
        return value if isinstance(value, str) else default

    def metadata(self) -> dict[str, Any]:
        """Return the prompt, and the workflow if the client has sent it."""
        hidden = self.definition["input"].get("hidden") or {}
        prompt = {"prompt": self.given.get("prompt")} if "prompt" in hidden else {}
        extra = self.given.get("extra_pnginfo") if "extra_pnginfo" in hidden else None
        return {**prompt, **(extra if isinstance(extra, dict) else {})}

    def frames(self, name: str = "") -> list[Image.Image]:
        """Return the pictures that an input got, or any; one that is drawn if there are none."""
        values = [self.given[name]] if name else self.given.values()
        found: Any = next((value for value in values if _is_pictures(value)), [_label()])
        if not isinstance(found, Pictures):
            return [_visible(picture) for picture in found]
        frames = {id(frame): frame for frame in found.frames}
        converted = {key: frame.to_image() for key, frame in frames.items()}
        return [converted[id(frame)] for frame in found.frames]

    def write(
        self,
        files: Iterable[bytes],
        ending: str,
        *,
        folder: str = "output",
        prefix: str | None = None,
        after: str = "_",
    ) -> list[_Ui]:
        """Write files with names of a prefix and a number; return their places.

        Args:
            files: Their contents.
            ending: Their extension, without the dot.
            folder: ``"output"`` or ``"temp"``.
            prefix: The beginning of their names; ``None``: that of the node's inputs.
            after: What stands between number and extension.
        """
        if prefix is None:
            prefix = self.text("filename_prefix", "ComfyUI")
        place, name, number, subfolder = self.folders.save_target(folder, prefix, *self.size)
        saved = []
        for index, data in enumerate(files):
            file = f"{name.replace('%batch_num%', str(index))}_{number + index:05}{after}.{ending}"
            (place / file).write_bytes(data)
            saved.append({"filename": file, "subfolder": subfolder, "type": folder})
        return saved


def _is_pictures(value: Any) -> bool:
    if isinstance(value, Pictures):
        return len(value) > 0
    return isinstance(value, list) and bool(value) and isinstance(value[0], Image.Image)


def _visible(picture: Image.Image) -> Image.Image:
    """Return a mask as a grey picture."""
    return Frame((picture,) * 3).to_image() if picture.mode == "F" else picture


@cache
def _label() -> Image.Image:
    return draw(64, 32, 0, "", 0, 1.0)


def _temporary(node: OutputNode, prefix: str) -> str:
    return f"{prefix}_temp_{node.folders.ids.letters(5)}"


# -- pictures ---------------------------------------------------------------------------


def _save_pictures(node: OutputNode) -> _Ui:
    """Save each picture in a file of its own."""
    metadata, ending = node.metadata(), "exr" if node.text("format") == "exr" else "png"
    if ending == "exr":
        files = (media_files.exr(*picture.size, metadata) for picture in node.frames())
    else:
        files = (media_files.png(picture, metadata) for picture in node.frames())
    return {"images": node.write(files, ending, after="")}


def _preview_pictures(node: OutputNode, *, is_old: bool = False) -> _Ui:
    metadata = node.metadata()
    files = (media_files.png(picture, metadata) for picture in node.frames())
    saved = node.write(files, "png", folder="temp", prefix=_temporary(node, "ComfyUI"))
    return {"images": saved} if is_old else {"images": saved, "animated": [False]}


def _preview_mask(node: OutputNode) -> _Ui:
    return _preview_pictures(node, is_old=not node.passes_on)


def _compare(node: OutputNode) -> _Ui:
    """Show the pictures of two inputs, each of which may be missing."""
    shown: _Ui = {}
    for letter in "ab":
        name = f"image_{letter}"
        pictures = node.frames(name) if node.given.get(name) is not None else []
        prefix = _temporary(node, f"comfy.compare.{letter}")
        files = (media_files.png(picture, {}) for picture in pictures)
        shown[f"{letter}_images"] = node.write(files, "png", folder="temp", prefix=prefix)
    return shown


def _save_animated(node: OutputNode, ending: str) -> _Ui:
    pictures, metadata = node.frames(), node.metadata()
    fps = float(node.given.get("fps", 6.0))
    if ending == "png":
        file = media_files.apng(pictures, fps, metadata)
    else:
        lossless, quality = node.given.get("lossless", True), node.given.get("quality", 80)
        file = media_files.webp(pictures, fps, metadata, lossless=lossless, quality=quality)
    shown: _Ui = {"images": node.write([file], ending)}
    moves = len(pictures) > 1
    if not node.passes_on:
        return {**shown, "animated": [moves or ending == "png"]}
    return {**shown, "animated": [True]} if moves else shown


def _save_svg(node: OutputNode) -> _Ui:
    return {"images": node.write([media_files.svg(*node.size, node.metadata())], "svg")}


# -- videos -----------------------------------------------------------------------------


def _video(node: OutputNode, ending: str, tags: Mapping[str, str]) -> bytes:
    if ending in ("webm", "mkv"):
        form = "webm" if ending == "webm" else "matroska"
        return video_files.webm(_label(), node.size, tags, form=form)
    return video_files.mp4(_label(), node.size, tags)


def _save_video(node: OutputNode, ending: str = "") -> _Ui:
    wanted = node.text("format")
    ending = ending or (wanted if wanted in ("webm", "mkv") else "mp4")
    given: Any = node.given.get("video")
    if hasattr(given, "save_to"):  # of a user's node
        given.save_to(buffer := io.BytesIO())
        file = buffer.getvalue()
    else:
        file = _video(node, ending, media_files.tags(node.metadata()))
    return {"images": node.write([file], ending), "animated": [True]}


def _track(node: OutputNode) -> _Ui:
    name = f"sam3_track_preview_{node.folders.ids.new('track').hex[:8]}.mp4"
    (node.folders.root / "temp" / name).write_bytes(_video(node, "mp4", media_files.tags({})))
    saved = [{"filename": name, "subfolder": "", "type": "temp"}]
    return {"images": saved, "animated": [True]}


_ENDINGS = {"gif", "webp", "webm", "mkv", "mov"}


def _combine(node: OutputNode) -> _Ui:
    """Save a video and its first picture as the pack VideoHelperSuite does."""
    metadata, pictures = node.metadata(), node.frames()
    fps = float(node.given.get("frame_rate", 8))
    form = node.text("format", "video/h264-mp4")
    ending = re.split("[/-]", form)[-1].lower().replace("prores", "mov")
    ending = ending if ending in _ENDINGS else "mp4"
    if ending == "gif":
        file = media_files.gif(pictures, fps)
    elif ending == "webp":
        file = media_files.webp(pictures, fps, metadata)
    else:
        comment = {**metadata, **media_files.texts({"prompt": metadata.get("prompt")})}
        file = _video(node, ending, {"title": media_files.LABEL, "comment": json.dumps(comment)})
    kind = "temp" if node.given.get("save_output") is False else "output"
    prefix = node.text("filename_prefix", "AnimateDiff")
    place, name, _, subfolder = node.folders.save_target(kind, prefix, *node.size)
    pattern = re.compile(rf"{re.escape(name)}_(\d+)\D*\..+", re.IGNORECASE)
    numbers = (int(found[1]) for one in os.listdir(place) if (found := pattern.fullmatch(one)))
    name = f"{name}_{max(numbers, default=0) + 1:05}"
    (place / f"{name}.png").write_bytes(media_files.png(pictures[0], metadata))
    names = [f"{name}.{ending}"]
    if node.given.get("audio") is not None and ending not in ("gif", "webp"):
        names.append(f"{name}-audio.{ending}")
    for one in names:
        (place / one).write_bytes(file)
    shown = {
        "filename": names[-1],
        "subfolder": subfolder,
        "type": kind,
        "format": form,
        "frame_rate": node.given.get("frame_rate", 8),
        "workflow": f"{name}.png",
        "fullpath": str(place / names[-1]),
    }
    return {"gifs": [shown]}


# -- sounds -----------------------------------------------------------------------------

_SOUNDS: Mapping[str, Callable[[Mapping[str, str]], bytes]] = {
    "flac": audio_files.flac,
    "mp3": audio_files.mp3,
    "opus": audio_files.opus,
}


def _save_audio(node: OutputNode, ending: str = "") -> _Ui:
    ending = ending or node.text("format")
    ending = ending if ending in _SOUNDS else "flac"
    file = _SOUNDS[ending](media_files.tags(node.metadata()))
    return {"audio": node.write([file], ending)}


def _preview_audio(node: OutputNode) -> _Ui:
    file = audio_files.flac(media_files.tags(node.metadata()))
    prefix = _temporary(node, "ComfyUI")
    return {"audio": node.write([file], "flac", folder="temp", prefix=prefix)}


# -- 3D models --------------------------------------------------------------------------


def _save_glb(node: OutputNode) -> _Ui:
    return {"3d": node.write([media_files.glb(node.metadata())], "glb")}


def _model(ending: str) -> bytes:
    return media_files.ply() if ending == "ply" else media_files.glb({})


def _save_3d(node: OutputNode, ending: str) -> _Ui:
    [saved] = node.write([_model(ending)], ending, after="")
    return _viewer(node, "/".join(filter(None, (saved["subfolder"], saved["filename"]))))


def _preview_3d(node: OutputNode, name: str, ending: str = "glb", folder: str = "temp") -> _Ui:
    model = node.given.get("model_file")
    if isinstance(model, str):  # the path of a file that is there
        return _viewer(node, model)
    model = f"{name}_{node.folders.ids.new('model').hex}.{ending}"
    (node.folders.root / folder / model).write_bytes(_model(ending))
    return _viewer(node, model)


def _viewer(node: OutputNode, model: str) -> _Ui:
    """Return what the page's viewer of 3D models gets: file, camera, and facts of the model.

    Camera and facts are those of the inputs, or else those that the viewer has saved.
    """
    saved = node.given.get("viewport_state")
    saved = saved if isinstance(saved, dict) else {}
    names = ("camera_info", "model_3d_info")
    values = (node.given.get(name) or saved.get(name) for name in names)
    return {"result": [model, *(value if _is_json(value) else None for value in values)]}


def _is_json(value: Any) -> bool:
    return isinstance(value, dict | list)


# -- texts and weights ------------------------------------------------------------------


def _save_text(node: OutputNode) -> _Ui:
    """Save a text as it is; JSON is indented."""
    text = str(node.given.get("text", ""))
    ending = node.text("format", "txt")
    ending = ending if ending in ("csv", "md", "json") else "txt"
    content = text
    if ending == "json":
        try:
            content = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
        except ValueError:
            content = text
    data = content.encode(errors="replace")
    saved = attrs.evolve(node, size=(1, 1)).write([data], ending, after="")
    return {"text": [text], "files": saved}


def _save_latent(node: OutputNode) -> _Ui:
    return {"latents": node.write([media_files.safetensors(node.metadata())], "latent")}


def _save_weights(node: OutputNode) -> _Ui:
    """Save a file of which the client is not told."""
    node.write([media_files.safetensors(node.metadata())], "safetensors")
    return {}


def _save_lora(node: OutputNode) -> _Ui:
    folder, name, number, _ = node.folders.save_target(
        "output", node.text("prefix", "loras/ComfyUI_trained_lora"), *node.size
    )
    steps = node.given.get("steps")
    name += f"_{steps}_steps" if isinstance(steps, int) else ""
    (folder / f"{name}_{number:05}_.safetensors").write_bytes(
        media_files.safetensors(node.metadata())
    )
    return {}


_WEIGHTS = ("CheckpointSave", "CLIPSave", "ImageOnlyCheckpointSave", "LoraSave", "ModelSave")
#: By the name of the class: how a node saves, and what it returns as ``ui``.
OUTPUT_NODES: Mapping[str, Callable[[OutputNode], _Ui]] = {
    "SaveImageAdvanced": _save_pictures,
    "MaskPreview": _preview_mask,
    **dict.fromkeys(("ImageCompositor", "ImageCropV2", "LossGraphNode"), _preview_pictures),
    "Painter": _preview_pictures,
    "CreateBoundingBoxes": lambda node: {"dims": list(node.size)},
    "ImageCompare": _compare,
    "SaveAnimatedPNG": partial(_save_animated, ending="png"),
    "SaveAnimatedWEBP": partial(_save_animated, ending="webp"),
    "SaveSVGNode": _save_svg,
    "SaveVideo": _save_video,
    "SaveWEBM": partial(_save_video, ending="webm"),
    "SAM3_TrackPreview": _track,
    "VHS_VideoCombine": _combine,
    "SaveAudio": partial(_save_audio, ending="flac"),
    "SaveAudioMP3": partial(_save_audio, ending="mp3"),
    "SaveAudioOpus": partial(_save_audio, ending="opus"),
    "SaveAudioAdvanced": _save_audio,
    "PreviewAudio": _preview_audio,
    "SaveGLB": _save_glb,
    "Save3DAdvanced": partial(_save_3d, ending="glb"),
    "SaveGaussianSplat": partial(_save_3d, ending="ply"),
    "SavePointCloud": partial(_save_3d, ending="ply"),
    "Preview3D": partial(_preview_3d, name="preview3d", folder="output"),
    "Preview3DAdvanced": partial(_preview_3d, name="preview3d_advanced"),
    "PreviewGaussianSplat": partial(_preview_3d, name="preview_splat", ending="ply"),
    "PreviewPointCloud": partial(_preview_3d, name="preview_pointcloud", ending="ply"),
    "SaveText": _save_text,
    "SaveLatent": _save_latent,
    "SaveLoRA": _save_lora,
    **dict.fromkeys((*_WEIGHTS, "VAESave"), _save_weights),
}
