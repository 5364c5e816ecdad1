"""What the simulated sampler draws: hills by the water, the same for the same seed and prompt."""

from __future__ import annotations

import bisect
import colorsys
import hashlib
import math
import random

from PIL import Image, ImageDraw, ImageFont, ImageOps

_LABEL = "simulated by comfy_client: no model was run"
_WATER = 0.68  # where it begins, as a part of the height
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
    """The picture, labelled as no real one if there is room for that.

    Args:
        width: In pixels.
        height: In pixels.
        seed: With `text` and `index` it decides what is to be seen.
        text: The prompt.
        index: The place in the batch.
        sampled: 0 to 1: noise, the finished picture.
        box: Enlarge it to so many pixels before it is labelled, as previews are shown.
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
    hue, warm = dice.uniform(0.47, 0.93), dice.uniform(-0.04, 0.14)  # of the sky, of the light
    horizon = _colour(warm, 0.75, 0.8)
    stops = [_colour(hue, 0.2, 0.5), _colour(hue + 0.03, 0.45, 0.4), horizon, horizon]
    picture = _gradient(stops).resize((width, height), Image.Resampling.BICUBIC)

    x, y = dice.uniform(0.2, 0.8) * width, dice.uniform(0.25, 0.45) * height
    size = dice.uniform(0.04, 0.07) * min(width, height)
    light = _colour(warm, 0.93, 0.9)
    reach = max(1, round(size * 9))
    glow = Image.eval(Image.radial_gradient("L").resize((2 * reach, 2 * reach)), _faded)
    picture.paste(light, (round(x) - reach, round(y) - reach), glow)
    draw = ImageDraw.Draw(picture)
    draw.ellipse((x - size, y - size, x + size, y + size), fill=light)

    shade = _colour(hue + 0.02, 0.13, 0.5)
    for layer in range(1, 5):
        near = layer / 4
        ridge = _ridge(width, dice, rough=0.05 + 0.05 * (1 - near))
        base = 0.4 + 0.2 * near
        outline = [(at, (base - up) * height) for at, up in ridge]
        colour = _mixed(horizon, shade, 0.3 + 0.7 * near)
        draw.polygon([(0, height), *outline, (width, height)], fill=colour)

    shore = round(_WATER * height)
    mirrored = picture.crop((0, 2 * shore - height, width, shore))
    mirrored = mirrored.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    tint = Image.new("RGB", mirrored.size, _colour(hue, 0.3, 0.45))
    picture.paste(Image.blend(mirrored, tint, 0.35), (0, shore))
    for _ in range(70):  # ripples, smaller and closer together far away
        depth = dice.random() ** 2
        length = (0.02 + 0.12 * depth) * width * dice.uniform(0.4, 1)
        x, y = dice.random() * width, shore + (0.01 + depth) * (height - shore)
        colour = _mixed(horizon, _colour(hue, 0.35, 0.4), dice.uniform(0.2, 0.9))
        draw.line((x, y, x + length, y), fill=colour, width=max(1, round(depth * height / 200)))
    return picture


def _ridge(width: int, dice: random.Random, rough: float) -> list[tuple[int, float]]:
    """Points of a line of hills: pixels from the left, and height as a part of the picture's."""
    waves = [
        (rough / 1.9**octave, 1.7**octave * dice.uniform(2, 5), dice.uniform(0, math.tau))
        for octave in range(7)
    ]
    columns = range(0, width + 4, 2)
    return [
        (at, sum(up * math.sin(often * at / width + start) for up, often, start in waves))
        for at in columns
    ]


def _label(picture: Image.Image, text: str) -> None:
    width, height = picture.size
    font = ImageFont.load_default(min(24.0, max(10.0, width / 32)))
    lines = [_LABEL, text] if width >= 240 else ["simulated"]
    if font.getlength(lines[0]) > width - 4:
        return  # half a word tells nothing
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
    """As much of a line as there is room for."""
    if font.getlength(line[:500]) <= room:
        return line
    ends = range(1, min(len(line), 500) + 1)
    fitting = bisect.bisect(ends, float(room), key=lambda end: font.getlength(f"{line[:end]}..."))
    return f"{line[:fitting]}..." if fitting else line


def _gradient(stops: list[_Colour]) -> Image.Image:
    column = Image.new("RGB", (1, len(stops)))
    column.putdata(stops)
    return column


def _faded(value: int) -> int:
    """Of a glow: strong in its middle, soon weak, nothing at its edge."""
    return round(170 * (1 - min(1.0, value / 250)) ** 3)


def _mixed(one: _Colour, other: _Colour, part: float) -> _Colour:
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _colour(hue: float, light: float, strength: float) -> _Colour:
    red, green, blue = colorsys.hls_to_rgb(hue % 1, light, strength)
    return round(red * 255), round(green * 255), round(blue * 255)
