"""Pictures drawn by the simulated sampler: hills, the same for the same seed and prompt."""

from __future__ import annotations

import bisect
import colorsys
import hashlib
import math
import random

from PIL import Image, ImageDraw, ImageFont, ImageOps

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
