"""ComfyUI's own nodes for pictures, implemented with Pillow, and simulated text-to-image nodes.

``definitions.json`` and ``definitions_0.28.json`` have the definition of each class.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import attrs
from PIL import Image, ImageFile, ImageMath, ImageOps, ImageSequence

from ..workflow.metadata.png import add_texts
from .folders import Folders
from .images import Frame, Latent, Pictures, draw, scaled
from .node_api import PREVIEW_SIZE, PreviewTuple, ProgressBar, wait, wants_previews
from .versions import since

_leniency = threading.Lock()  # guards Pillow's switch, which is global
_A = TypeVar("_A")
_B = TypeVar("_B")


class BuiltinNode:
    """The base class of all node classes in this module."""

    FUNCTION = "run"
    RETURN_TYPES: ClassVar[list[str]] = []
    OUTPUT_NODE = False
    folders: ClassVar[Folders]
    previews: ClassVar[bool]
    step_seconds: ClassVar[float]
    placeholders: ClassVar[bool]  # whether missing input files are replaced by drawn pictures


class Simulated(BuiltinNode):
    """A stand-in for a node that needs a model."""


# -- pictures in ------------------------------------------------------------------------


class _Loader(BuiltinNode):
    @classmethod
    def IS_CHANGED(cls, image: str, **_: Any) -> str:
        path = cls.folders.input_file(image)
        if cls.placeholders and not path.exists():
            return image
        return hashlib.sha256(path.read_bytes()).hexdigest()

    @classmethod
    def exists(cls, image: str) -> bool | str:
        with contextlib.suppress(ValueError):
            if os.path.exists(cls.folders.input_file(image)) or cls.placeholders:
                return True
        return f"Invalid image file: {image}"

    @classmethod
    def opened(cls, image: str) -> Image.Image:
        """Open a file, or draw a placeholder for a missing one."""
        path = cls.folders.input_file(image)
        if cls.placeholders and not path.exists():
            return draw(64, 64, 0, image, 0, 1.0)
        return cls.read(Image.open, path)

    @classmethod
    def read(cls, function: Callable[[_A], _B], argument: _A) -> _B:
        """Call a function with an argument; on failure, retry with truncated pictures allowed."""
        try:
            return function(argument)
        except (OSError, ValueError):
            with _leniency:
                before = ImageFile.LOAD_TRUNCATED_IMAGES
                ImageFile.LOAD_TRUNCATED_IMAGES = True
                try:
                    return function(argument)
                finally:
                    ImageFile.LOAD_TRUNCATED_IMAGES = before

    @classmethod
    def upright(cls, part: Image.Image) -> Image.Image:
        """Rotate a picture by its EXIF orientation, and scale 16-bit values as ComfyUI does."""
        picture = cls.read(ImageOps.exif_transpose, part)
        return picture.point(lambda value: value * (1 / 255)) if picture.mode == "I" else picture

    @classmethod
    def mask(cls, picture: Image.Image) -> Image.Image:
        """Return a mask that is 1 where a picture is transparent, or 64 by 64 zeros without alpha.

        A transparent colour counts as alpha only in a picture with a palette.
        """
        by_palette = picture.mode == "P" and "transparency" in picture.info
        if "A" not in picture.getbands() and not by_palette:
            return Image.new("F", (64, 64))
        return _inverted(Frame.of(picture, "RGBA").channels[3])


class LoadImage(_Loader):
    """Load the frames of a picture, and a mask from the alpha of each frame."""

    @classmethod
    def VALIDATE_INPUTS(cls, image: str) -> bool | str:  # errors name the class
        return cls.exists(image)

    def run(self, image: str) -> tuple[Pictures, list[Image.Image]]:
        frames: list[Frame] = []
        masks = []
        with self.opened(image) as file:
            single = file.format == "MPO"
            for part in ImageSequence.Iterator(file):
                picture = self.upright(part)
                frame = Frame.of(picture, "RGB")
                if frames and (single or frame.size != frames[0].size):
                    continue
                frames.append(frame)
                masks.append(self.mask(picture))
        return Pictures(frames), masks


class LoadImageMask(_Loader):
    """Load one channel of a picture as a mask."""

    @classmethod
    def VALIDATE_INPUTS(cls, image: str) -> bool | str:  # errors name the class
        return cls.exists(image)

    def run(self, image: str, channel: str) -> tuple[list[Image.Image]]:
        with self.opened(image) as file:
            picture = self.upright(file)
            if channel == "alpha":
                return ([self.mask(picture.convert("RGBA"))],)
            index = ["red", "green", "blue"].index(channel)
            return ([Frame.of(picture, "RGB").channels[index]],)


class EmptyImage(BuiltinNode):
    """Make pictures of one colour."""

    def run(self, width: int, height: int, batch_size: int, color: int) -> tuple[Pictures]:
        colour = (color >> 16 & 255, color >> 8 & 255, color & 255)
        return (Pictures([Frame.of(Image.new("RGB", (width, height), colour))] * batch_size),)


# -- pictures ---------------------------------------------------------------------------


class ImageScale(BuiltinNode):
    """Scale pictures to a width and a height; 0 for one of them keeps the proportions."""

    def run(
        self, image: Any, upscale_method: str, width: int, height: int, crop: str
    ) -> tuple[Pictures]:
        pictures = Pictures.whole(image)
        old_width, old_height = pictures.size
        if not width and not height:
            return (pictures,)
        width = width or max(1, round(old_width * height / old_height))
        height = height or max(1, round(old_height * width / old_width))
        return (_all(pictures, lambda f: scaled(f, width, height, upscale_method, crop)),)


class ImageScaleBy(BuiltinNode):
    """Scale pictures by a factor."""

    def run(self, image: Any, upscale_method: str, scale_by: float) -> tuple[Pictures]:
        pictures = Pictures.whole(image)
        width, height = (round(side * scale_by) for side in pictures.size)
        return (_all(pictures, lambda f: scaled(f, width, height, upscale_method, "disabled")),)


class ImageInvert(BuiltinNode):
    """Invert the colours and the alpha of pictures."""

    def run(self, image: Any) -> tuple[Pictures]:
        return (_all(image, lambda f: Frame(tuple(map(_inverted, f.channels)))),)


class ImageCrop(BuiltinNode):
    """Crop pictures to a rectangle, which is clipped at their edges."""

    def run(self, image: Any, width: int, height: int, x: int, y: int) -> tuple[Pictures]:
        pictures = Pictures.whole(image)
        full_width, full_height = pictures.size
        x, y = min(x, full_width - 1), min(y, full_height - 1)
        box = (x, y, min(x + width, full_width), min(y + height, full_height))
        return (_all(pictures, lambda f: Frame(tuple(c.crop(box) for c in f.channels))),)


class ImageBatch(BuiltinNode):
    """Join two batches of pictures; the second one is scaled to the size of the first."""

    def run(self, image1: Any, image2: Any) -> tuple[Pictures]:
        first, second = Pictures.whole(image1), Pictures.whole(image2)
        if first.size != second.size:
            second = _all(second, lambda f: scaled(f, *first.size, "bilinear", "center"))
        frames = (*first.frames, *second.frames)
        channels = max(len(frame.channels) for frame in frames)
        return (Pictures(_with_channels(frame, channels) for frame in frames),)


class ImageBlend(BuiltinNode):
    """Blend two pictures."""

    def run(
        self, image1: Any, image2: Any, blend_factor: float, blend_mode: str
    ) -> tuple[Pictures]:
        first, second = Pictures.whole(image1), Pictures.whole(image2)
        channels = len(first.frames[0].channels)
        if first.size != second.size:
            second = _all(second, lambda f: scaled(f, *first.size, "bicubic", "center"))
        if blend_mode not in _BLEND:
            raise ValueError(f"Unsupported blend mode: {blend_mode}")
        count = max(len(first), len(second))
        if {len(first), len(second)} - {1, count}:
            raise RuntimeError(
                f"The size of tensor a ({len(first)}) must match the size of tensor b "
                f"({len(second)}) at non-singleton dimension 0"
            )

        def mixed(under: Image.Image, over: Image.Image) -> Image.Image:
            def formula(images: Mapping[str, Any]) -> Any:
                a = images["a"]
                value = a * (1 - blend_factor) + _BLEND[blend_mode](a, images["b"]) * blend_factor
                return images["max"](images["min"](value, 1.0), 0.0)

            result: Image.Image = ImageMath.lambda_eval(formula, a=under, b=over)
            return result

        frames = []
        for index in range(count):
            under = first.frames[min(index, len(first) - 1)].channels
            over = _with_channels(second.frames[min(index, len(second) - 1)], channels).channels
            frames.append(Frame(tuple(map(mixed, under, over))))
        return (Pictures(frames),)


def _chosen(condition: Any, yes: Any, no: Any) -> Any:
    """Choose one of two values for each pixel; ``condition`` is 1 or 0."""
    return condition * yes + (1 - condition) * no


def _soft_light(a: Any, b: Any) -> Any:
    light = _chosen(a <= 0.25, ((16 * a - 12) * a + 4) * a, a**0.5)
    return _chosen(b <= 0.5, a - (1 - 2 * b) * a * (1 - a), a + (2 * b - 1) * (light - a))


_BLEND: dict[str, Callable[[Any, Any], Any]] = {
    "normal": lambda a, b: b,
    "multiply": lambda a, b: a * b,
    "screen": lambda a, b: 1 - (1 - a) * (1 - b),
    "overlay": lambda a, b: _chosen(a <= 0.5, 2 * a * b, 1 - 2 * (1 - a) * (1 - b)),
    "soft_light": _soft_light,
    "difference": lambda a, b: a - b,
}


def _all(pictures: Any, change: Callable[[Frame], Frame]) -> Pictures:
    """Apply a function to each frame of a batch, but only once to a frame object that repeats."""
    done: dict[int, Frame] = {}
    frames = Pictures.of(pictures).frames
    for frame in frames:
        if id(frame) not in done:
            done[id(frame)] = change(frame)
    return Pictures(done[id(frame)] for frame in frames)


def _inverted(channel: Image.Image) -> Image.Image:
    return channel.point(lambda value: value * -1 + 1)


def _with_channels(frame: Frame, count: int) -> Frame:
    return Frame((*frame.channels, Image.new("F", frame.size, 1.0))[:count])


# -- pictures out -----------------------------------------------------------------------


class SaveImage(BuiltinNode):
    """Write numbered PNG files that contain the prompt and the workflow as metadata."""

    kind = "output"
    suffix = ""
    level = 4

    def run(
        self,
        images: Any,
        filename_prefix: str = "ComfyUI",
        prompt: Any = None,
        extra_pnginfo: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        pictures = Pictures.of(images)
        folder, name, number, subfolder = self.folders.save_target(
            self.kind, filename_prefix + self.suffix, *pictures.size
        )
        entries = {} if prompt is None else {"prompt": prompt}
        entries |= extra_pnginfo or {}
        # As in ComfyUI, keys may be invalid in PNG.
        texts = {k.encode("latin-1"): json.dumps(v).encode() for k, v in entries.items()}
        saved = []
        for index, picture in enumerate(pictures):
            file = f"{name.replace('%batch_num%', str(index))}_{number + index:05}_.png"
            png = io.BytesIO()
            picture.save(png, "PNG", compress_level=self.level)
            (folder / file).write_bytes(add_texts(png.getvalue(), texts))
            saved.append({"filename": file, "subfolder": subfolder, "type": self.kind})
        return {"ui": {"images": saved}, "result": (images,)[: len(self.RETURN_TYPES)]}


class PreviewImage(SaveImage):
    """Write PNG files into the temporary folder."""

    kind = "temp"
    level = 1

    def __init__(self) -> None:
        self.suffix: str = f"_temp_{self.folders.ids.letters(5)}"


class SaveImageWebsocket(BuiltinNode):
    """Send pictures to the client in the form of PNG previews, on every run."""

    @classmethod
    def IS_CHANGED(cls, images: Any) -> float:
        return time.time()

    def run(self, images: Any) -> dict[str, Any]:
        pictures = Pictures.of(images)
        bar = ProgressBar(len(pictures))
        for index, picture in enumerate(pictures):
            bar.update_absolute(index, preview=("PNG", picture, None))
        return {}


class PreviewAny(BuiltinNode):
    """Show any value as text."""

    def run(self, source: Any = None) -> dict[str, Any]:
        text = str(source)
        if source is not None and not isinstance(source, str | int | float):
            with contextlib.suppress(TypeError, ValueError):
                escaped = not since(self.folders.version, "0.33")
                text = json.dumps(source, indent=4, ensure_ascii=escaped)
        return {"ui": {"text": [text]}, "result": (text,)[: len(self.RETURN_TYPES)]}


class Primitive(BuiltinNode):
    """Return a constant as an output."""

    def run(self, value: Any) -> tuple[Any]:
        return (value,)


# -- text to image, simulated -----------------------------------------------------------


class CheckpointLoaderSimple(Simulated):
    """Return stand-ins for the model, CLIP and VAE of any checkpoint file."""

    def run(self, ckpt_name: str) -> tuple[str, str, str]:
        return (
            f"simulated model of {ckpt_name}",
            f"simulated CLIP of {ckpt_name}",
            f"simulated VAE of {ckpt_name}",
        )


class CLIPTextEncode(Simulated):
    """Return the text itself in place of a conditioning."""

    def run(self, text: str, clip: Any) -> tuple[str]:
        return (text,)


class EmptyLatentImage(Simulated):
    """Return the description of a batch of this size in place of a latent."""

    def run(self, width: int, height: int, batch_size: int) -> tuple[Latent]:
        return (Latent(_whole(width), _whole(height), batch_size),)


class KSampler(Simulated):
    """Count steps in place of sampling, and send a preview of each if previews are wanted."""

    def run(
        self,
        model: Any,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        positive: str,
        negative: str,
        latent_image: Latent,
        denoise: float,
    ) -> tuple[Latent]:
        bar = ProgressBar(steps)
        latent = attrs.evolve(latent_image, seed=seed, text=str(positive))
        for step in range(1, steps + 1):
            wait(self.step_seconds)
            latent = attrs.evolve(latent, sampled=step / steps)
            bar.update_absolute(step, preview=self._preview(latent))
        return (latent,)

    def _preview(self, latent: Latent) -> PreviewTuple | None:
        if not wants_previews(self.previews):
            return None
        return "JPEG", latent.preview(PREVIEW_SIZE), PREVIEW_SIZE


class VAEDecode(Simulated):
    """Draw the pictures that a simulated latent describes."""

    def run(self, samples: Latent, vae: Any) -> tuple[Pictures]:
        drawn = (Frame.of(samples.drawn(index)) for index in range(samples.batch_size))
        return (Pictures(frame for frame in drawn for _ in range(samples.frames)),)


class VAEEncode(Simulated):
    """Return the size and number of the pictures in place of a latent."""

    def run(self, pixels: Any, vae: Any) -> tuple[Latent]:
        width, height = Pictures.whole(pixels).size
        return (Latent(_whole(width), _whole(height), len(pixels)),)


def _whole(side: int) -> int:
    """Return a number of pixels that a latent can have."""
    return max(8, side // 8 * 8)


_PRIMITIVES = ("Int", "Float", "String", "StringMultiline", "Boolean")
CLASSES: dict[str, type[BuiltinNode]] = {
    **{
        name: cls
        for name, cls in globals().items()
        if isinstance(cls, type)
        and issubclass(cls, BuiltinNode)
        and hasattr(cls, "run")
        and cls is not Primitive
    },
    **{f"Primitive{name}": Primitive for name in _PRIMITIVES},
}
