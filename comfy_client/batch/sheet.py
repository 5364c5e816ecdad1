"""A contact sheet of a sweep: pictures in a grid, with their values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import attrs

from ..errors import NotFound, UnexpectedResponse
from ..extras import needs_extra
from ..jobs.gallery import fetched
from ..showing.thumbnails import TooLarge, reduced
from ..transport.deadline import MAX_PARALLEL, in_parallel
from .layout import Cell, Names, layout

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

    from .row import SweepRow

#: The most pixels of a sheet, which take 200 MB of memory.
MAX_PIXELS: Final = 1 << 26
#: The most bytes of one picture; several are fetched at a time.
MAX_BYTES: Final = 128 << 20
_TOO_LARGE: Final = "too large"
#: The most characters of a label that are measured, and the most lines that are drawn.
_MOST_TEXT: Final = 200
_MOST_LINES: Final = 3
_GAP: Final = 8
#: The sum of red, green and blue above which a colour is light.
_MIDDLE: Final = 382
_TEXT_SIZE: Final = 14


def contact_sheet(
    sweep: Sequence[SweepRow], rows: Names, cols: Names, size: int, background: str
) -> Image.Image:
    """Draw a contact sheet of a sweep, and return it: see :meth:`Sweep.grid`."""
    with needs_extra("image", "grid()"):
        from PIL import Image, ImageColor, ImageDraw
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"size must be a number of pixels, 1 or more, not {size!r:.80}")
    paper = ImageColor.getrgb(background)[:3]
    ink = "black" if sum(paper) > _MIDDLE else "white"
    if not sweep:
        raise ValueError("a sheet needs at least one row")
    places = layout(sweep, rows, cols)
    text = _Text(ImageDraw.Draw(Image.new("RGB", (1, 1))), _font(), ink)
    left = max((text.size(label, size)[0] + _GAP for label in places.lines), default=0)
    above = max((text.size(label, size)[1] + _GAP for label in places.columns), default=0)
    below = max((text.size(one, size)[1] for one in places.captions.values()), default=0)
    step_x, step_y = size + _GAP, size + below + _GAP
    whole = (left + places.width * step_x + _GAP, above + places.height * step_y + _GAP)
    if whole[0] * whole[1] > MAX_PIXELS:
        raise ValueError(
            f"a sheet of {whole[0]} x {whole[1]} pixels is too large: take a smaller size=, or "
            "some of the rows"
        )
    sheet = Image.new("RGB", whole, paper)
    text = _Text(ImageDraw.Draw(sheet), text.font, ink)
    for x, label in enumerate(places.columns):
        text.draw(label, (left + _GAP + x * step_x, _GAP), size)
    for y, label in enumerate(places.lines):
        text.draw(label, (_GAP, above + _GAP + y * step_y), size)
    for (x, y), data in _contents(places.cells):
        corner = (left + _GAP + x * step_x, above + _GAP + y * step_y)
        picture = _picture(data, size, paper) if isinstance(data, bytes) else data
        if isinstance(picture, str):
            text.box(picture, corner, size)
        else:
            sheet.paste(picture, corner)
        if (x, y) in places.captions:
            text.draw(places.captions[x, y], (corner[0], corner[1] + size), size)
    return sheet


def _contents(cells: Mapping[Cell, SweepRow]) -> Iterator[tuple[Cell, bytes | str]]:
    """Yield each cell with its picture's bytes, or why it has none; fetch a few at a time."""
    places = list(cells)
    for start in range(0, len(places), MAX_PARALLEL):
        some = places[start : start + MAX_PARALLEL]
        yield from zip(some, in_parallel(_content, [cells[at] for at in some]), strict=True)


def _content(row: SweepRow) -> bytes | str:
    if row.error is not None:
        return type(row.error).__name__
    images = row.result.images if row.result else ()
    if not images:
        return "no image"
    try:
        data = fetched(images[0], MAX_BYTES)
    except (NotFound, UnexpectedResponse) as exc:
        return type(exc).__name__
    return _TOO_LARGE if data is None else data


def _picture(data: bytes, size: int, paper: tuple[int, ...]) -> Image.Image | str:
    """Return a picture, reduced and on the sheet's background, or why it cannot be shown."""
    from PIL import Image

    try:
        picture = reduced(data, size)
    except TooLarge:
        return _TOO_LARGE
    except Exception:  # noqa: BLE001  # Pillow raises whatever it comes across
        return UnexpectedResponse.__name__
    if picture.mode == "RGB":
        return picture
    shown = Image.new("RGBA", picture.size, (*paper, 255))
    shown.alpha_composite(picture.convert("RGBA"))
    return shown.convert("RGB")


# -- text -----------------------------------------------------------------------------------


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont

    try:
        return ImageFont.load_default(_TEXT_SIZE)
    except ImportError:  # a Pillow without FreeType
        return ImageFont.load_default()


@attrs.frozen
class _Text:
    """Draws labels, each in a few lines of a given width."""

    on: ImageDraw.ImageDraw
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont
    ink: str

    def size(self, label: str, width: int) -> tuple[int, int]:
        box = self.on.multiline_textbbox((0, 0), self._lines(label, width), font=self.font)
        return math.ceil(box[2]), math.ceil(box[3]) + 2

    def draw(self, label: str, at: tuple[int, int], width: int) -> None:
        self.on.multiline_text(at, self._lines(label, width), fill=self.ink, font=self.font)

    def box(self, label: str, at: tuple[int, int], size: int) -> None:
        """Draw a box with a label in place of a picture."""
        corner = (at[0] + size - 1, at[1] + size - 1)
        self.on.rectangle((at, corner), fill="#eeeeee", outline="#bbbbbb")
        middle = (at[0] + size / 2, at[1] + size / 2)
        self.on.text(middle, label, fill="#aa0000", font=self.font, anchor="mm")

    def _lines(self, label: str, width: int) -> str:
        """Break a label into lines of at most this width, and cut it after a few lines."""
        lines = [""]
        for letter in " ".join(label[:_MOST_TEXT].split()):
            if self.on.textlength(lines[-1] + letter, font=self.font) > width and lines[-1]:
                head, space, tail = lines[-1].rpartition(" ")
                lines[-1:] = [head, tail + letter] if space else [lines[-1], letter]
            else:
                lines[-1] += letter
        if len(lines) > _MOST_LINES or len(label) > _MOST_TEXT:
            lines = lines[:_MOST_LINES]
            while lines[-1] and self.on.textlength(f"{lines[-1]} ...", font=self.font) > width:
                lines[-1] = lines[-1][:-1]
            lines[-1] += " ..."
        return "\n".join(lines)
