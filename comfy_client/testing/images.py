"""Batches of pictures as they pass between nodes, as exact as ComfyUI's.

ComfyUI computes with float32 tensors from 0 to 1 and truncates to bytes when it saves. Pillow's
mode ``F`` has the same numbers, so that the same workflow gives the same bytes.

The simulated sampler draws hills, the same for the same seed and prompt.
"""

from __future__ import annotations

import bisect
import colorsys
import hashlib
import io
import math
import random
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import attrs
from PIL import Image, ImageDraw, ImageFont, ImageOps

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_MOST_PIXELS = 2**24
#: What Pillow raises for a file that is no picture, or a broken one.
_BROKEN = (
    *(OSError, ValueError, TypeError, IndexError, EOFError, SyntaxError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)


def decoded_picture(data: bytes) -> Image.Image:
    """Return the picture of a file; raise ValueError if it is broken, cut off or too large."""
    try:
        with Image.open(io.BytesIO(data)) as opened:
            width, height = opened.size
            if width * height <= _MOST_PIXELS:
                opened.verify()  # what follows the pixels in a PNG, too
        if width * height <= _MOST_PIXELS:
            with Image.open(io.BytesIO(data)) as opened:
                opened.load()
                return opened
    except _BROKEN as exc:
        raise ValueError(f"an image cannot be opened: {exc}") from None
    raise ValueError(f"an image has {_MOST_PIXELS} pixels at most, not {width} x {height}")


@attrs.frozen
class Frame:
    """A picture: 3 or 4 channels of one size, each a Pillow image of mode ``F``.

    A single channel is one row of a picture that was taken for a batch.
    """

    channels: tuple[Image.Image, ...]

    @classmethod
    def of(cls, picture: Image.Image, mode: str | None = None) -> Frame:
        """Make a frame of a picture in mode ``RGB`` or ``RGBA``; ``None`` keeps alpha if any."""
        mode = mode or ("RGBA" if picture.has_transparency_data else "RGB")
        bands = picture.convert(mode).split()
        return cls(tuple(band.convert("F").point(lambda v: v * (1 / 255) + 0) for band in bands))

    @property
    def size(self) -> tuple[int, int]:
        """The width and height in pixels."""
        size: tuple[int, int] = self.channels[0].size
        return size

    @property
    def mode(self) -> str:
        """The mode of the picture: ``RGB`` or ``RGBA``, or ``L`` for a single row."""
        return _MODES[len(self.channels)]

    def to_image(self) -> Image.Image:
        """Return an 8-bit picture as ComfyUI saves it: truncated, not rounded."""
        bands = [c.point(lambda v: v * 255 + 0).convert("L") for c in self.channels]
        return Image.merge(self.mode, bands)


class Pictures(Sequence[Any]):
    """A batch of images, the value of an ``IMAGE``: a sequence of Pillow images.

    Your own nodes get one from the server's nodes.  They may return one, or a list of Pillow
    images; other nodes of your own get exactly what they returned.

    Attributes:
        frames: The images of the batch.
    """

    def __init__(self, frames: Iterable[Frame]) -> None:
        self.frames: tuple[Frame, ...] = tuple(frames)

    @classmethod
    def of(cls, value: Any) -> Pictures:
        """Convert a node's ``IMAGE`` output, which is a batch or a list of Pillow images.

        A single image in place of a batch (as from a node that returns its batch, not a tuple) is
        treated as in ComfyUI: each row becomes a separate grey image, as wide as there are
        channels.
        """
        if isinstance(value, Pictures):
            return value
        if isinstance(value, Image.Image):
            return cls(_rows(Frame.of(value)))
        return cls(Frame.of(picture) for picture in value)

    @classmethod
    def whole(cls, value: Any) -> Pictures:
        """Convert an ``IMAGE`` output as :meth:`of` does; raise RuntimeError for a single image."""
        pictures = cls.of(value)
        if any(len(frame.channels) == 1 for frame in pictures.frames):
            raise RuntimeError(
                "an IMAGE is a batch, and this is a single picture: "
                "a node returns a tuple of its outputs, as in `return (images,)`"
            )
        return pictures

    @property
    def size(self) -> tuple[int, int]:
        """The width and height in pixels, which are the same for the whole batch."""
        return self.frames[0].size

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[Image.Image]:
        return (frame.to_image() for frame in self.frames)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Image.Image]: ...
    def __getitem__(self, index: int | slice) -> Image.Image | Sequence[Image.Image]:
        if isinstance(index, slice):
            return [frame.to_image() for frame in self.frames[index]]
        return self.frames[index].to_image()

    def __repr__(self) -> str:
        width, height = self.size
        return f"<{len(self)} pictures of {width}x{height}>"


@attrs.frozen
class Latent:
    """A description of a batch of pictures to draw, the value of a ``LATENT``."""

    width: int
    height: int
    batch_size: int
    seed: int = 0
    text: str = ""
    sampled: float = 0.0  # 0 to 1: the fraction of steps done
    frames: int = 1  # of a video: how often each picture repeats

    def drawn(self, index: int = 0) -> Image.Image:
        """Draw one picture of the batch, labelled as simulated, from seed, text and index."""
        return draw(self.width, self.height, self.seed, self.text, index, self.sampled)

    def preview(self, box: int) -> Image.Image:
        """Draw the first picture at an eighth of its width and height, scaled to a box."""
        size = (max(1, self.width // 8), max(1, self.height // 8))
        return draw(*size, self.seed, self.text, 0, self.sampled, box=box)


def _rows(frame: Frame) -> Iterator[Frame]:
    """Yield each row of a picture as a grey frame: one line per pixel, one column per channel."""
    width, height = frame.size
    for y in range(height):
        row = Image.new("F", (len(frame.channels), width))
        for x, channel in enumerate(frame.channels):
            line = channel.crop((0, y, width, y + 1))
            row.paste(line.transpose(Image.Transpose.TRANSPOSE), (x, 0))
        yield Frame((row,))


def scaled(frame: Frame, width: int, height: int, method: str, crop: str) -> Frame:
    """Scale a frame to a size; ``crop="center"`` keeps its proportions by cropping it first.

    ``nearest-exact`` equals torch's pixel by pixel, and ``lanczos`` is Pillow's in ComfyUI, too.
    The others differ from torch's, in values from 0 to 255: by 1 for ``bilinear`` and ``area``, by
    up to 7 for ``bicubic``.
    """
    if crop == "center":
        frame = _cropped_to(frame, width / height)
    size, old = (width, height), frame.size
    if 0 in size + old:
        raise RuntimeError(
            "Input and output sizes should be greater than 0, but got "
            f"input (H: {old[1]}, W: {old[0]}) output (H: {height}, W: {width})"
        )
    if method == "lanczos":  # ComfyUI uses Pillow for this, too
        return Frame.of(frame.to_image().resize(size, Image.Resampling.LANCZOS))
    return Frame(tuple(_resized(channel, size, method) for channel in frame.channels))


def _resized(channel: Image.Image, size: tuple[int, int], method: str) -> Image.Image:
    if method in ("nearest-exact", "area"):
        spans = _nearest if method == "nearest-exact" else _areas
        for _ in size:  # width, then height of the transposed picture
            channel = _gathered(channel, spans(channel.width, size[0]))
            channel = channel.transpose(Image.Transpose.TRANSPOSE)
            size = size[::-1]
        return channel
    # Not resize(): like torch, these two filters read only the nearest pixels, even when scaling
    # down.
    resample = Image.Resampling.BILINEAR if method == "bilinear" else Image.Resampling.BICUBIC
    step = (channel.width / size[0], 0, 0, 0, channel.height / size[1], 0)
    return channel.transform(size, Image.Transform.AFFINE, step, resample)


def _nearest(old: int, new: int) -> list[tuple[int, int]]:
    """Return the range of the nearest old column for each new one, rounded as torch does."""
    scale = _float32(old / new)
    columns = (min(int(_float32((new_one + 0.5) * scale)), old - 1) for new_one in range(new))
    return [(column, column + 1) for column in columns]


def _areas(old: int, new: int) -> list[tuple[int, int]]:
    """Return for each new column the range of old columns to average."""
    return [(one * old // new, -(-(one + 1) * old // new)) for one in range(new)]


def _gathered(channel: Image.Image, spans: list[tuple[int, int]]) -> Image.Image:
    """Return a channel in which each column is the mean of a range of the old columns."""
    result = Image.new("F", (len(spans), channel.height))
    for index, (start, end) in enumerate(spans):
        column = channel.crop((start, 0, end, channel.height))
        if end - start > 1:
            column = column.resize((1, channel.height), Image.Resampling.BOX)
        result.paste(column, (index, 0))
    return result


def _float32(number: float) -> float:
    rounded: float = struct.unpack("f", struct.pack("f", number))[0]
    return rounded


def _cropped_to(frame: Frame, aspect: float) -> Frame:
    width, height = frame.size
    x = y = 0
    if width / height > aspect:
        x = round((width - width * (aspect / (width / height))) / 2)
    elif width / height < aspect:
        y = round((height - height * ((width / height) / aspect)) / 2)
    box = (x, y, width - x, height - y)
    return Frame(tuple(channel.crop(box) for channel in frame.channels))


_LABEL = "simulated by comfy_client: no model was run"
_LARGEST = 1280  # pixels of the longer side; beyond, the drawing is enlarged

_Colour = tuple[int, int, int]


def draw(
    width: int,
    height: int,
    seed: int,
    text: str,
    index: int,
    sampled: float,
    *,
    box: int | None = None,
) -> Image.Image:
    """Draw a picture, labelled as simulated if there is room for that.

    Args:
        width: The width in pixels.
        height: The height in pixels.
        seed: The seed, which determines the picture together with `text` and `index`.
        text: The prompt.
        index: The position in the batch.
        sampled: The fraction of steps done: 0 gives noise, 1 the finished picture.
        box: The pixels to which a preview is enlarged before it is labelled.
    """
    key = hashlib.sha256(f"{seed}/{index}/{text}".encode(errors="replace")).digest()
    dice = random.Random(key)  # noqa: S311  must repeat
    scale = min(2.0, _LARGEST / max(width, height))
    picture = _scene(max(1, round(width * scale)), max(1, round(height * scale)), dice)
    picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    if sampled < 1:
        noise = Image.frombytes("RGB", (width, height), dice.randbytes(3 * width * height))
        picture = Image.blend(noise, picture, sampled)
    if box is not None:
        picture = ImageOps.contain(picture, (box, box), Image.Resampling.BILINEAR)
    _label(picture, f"seed {seed}: {' '.join(text.split())}")
    return picture


def _scene(width: int, height: int, dice: random.Random) -> Image.Image:
    """Draw the sky, a sun and hills, the nearest one darkest."""
    hue = dice.random()
    sky = Image.new("RGB", (1, 2))
    sky.putdata([_colour(hue, 0.3, 0.5), _colour(hue + 0.12, 0.75, 0.8)])
    picture = sky.resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    x, y = dice.uniform(0.2, 0.8) * width, dice.uniform(0.2, 0.4) * height
    size = dice.uniform(0.05, 0.1) * min(width, height)
    draw.ellipse((x - size, y - size, x + size, y + size), fill=_colour(hue + 0.1, 0.93, 0.9))
    for layer in range(4):
        often, start = dice.uniform(4, 12), dice.uniform(0, math.tau)
        base, up = 0.45 + 0.12 * layer, 0.08 - 0.01 * layer
        ridge = [
            (
                at,
                (base + up * (math.sin(often * at / width + start) + dice.uniform(0, 0.1)))
                * height,
            )
            for at in range(0, width + 4, 4)
        ]
        colour = _colour(hue + 0.05, 0.5 - 0.11 * layer, 0.5)
        draw.polygon([(0, height), *ridge, (width + 4, height)], fill=colour)
    return picture


def _label(picture: Image.Image, text: str) -> None:
    width, height = picture.size
    font = ImageFont.load_default(min(24.0, max(10.0, width / 32)))
    lines = [_LABEL, text] if width >= 240 else ["simulated"]
    if font.getlength(lines[0]) > width - 4:
        return  # not within a word
    row = round(font.getbbox("Ag")[3] * 1.3)
    top = max(0, height - row * len(lines) - row // 3)
    shadow = Image.new("RGB", (width, height - top), (0, 0, 0))
    picture.paste(Image.blend(picture.crop((0, top, width, height)), shadow, 0.6), (0, top))
    draw = ImageDraw.Draw(picture)
    margin = row // 2 if width >= 240 else 2
    for number, line in enumerate(lines):
        place = (margin, top + number * row + row // 8)
        draw.text(place, _cut(line, font, width - 2 * margin), font=font, fill=(255, 255, 255))


def _cut(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: int) -> str:
    """Shorten a line of text with ``...`` so that it is at most ``room`` pixels wide."""
    if font.getlength(line[:500]) <= room:
        return line
    ends = range(1, min(len(line), 500) + 1)
    fitting = bisect.bisect(ends, float(room), key=lambda end: font.getlength(f"{line[:end]}..."))
    return f"{line[:fitting]}..." if fitting else line


def _colour(hue: float, light: float, strength: float) -> _Colour:
    red, green, blue = colorsys.hls_to_rgb(hue % 1, light, strength)
    return round(red * 255), round(green * 255), round(blue * 255)
