"""A contact sheet of a sweep: pictures in a grid, with the values beside them."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs

from ..errors import NotFound, UnexpectedResponse
from ..extras import needs_extra
from ..jobs.gallery import fetched
from ..showing.thumbnails import TooLarge, reduced
from ..transport.deadline import MAX_PARALLEL, in_parallel

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
_TEXT_SIZE: Final = 14

#: The key of a line or column: values of inputs as JSON, numbered if they are equal.
Key = tuple[str, ...]
#: The column and the line of a cell.
_Cell = tuple[int, int]
Names = str | tuple[str, ...] | None


@attrs.frozen
class _Layout:
    """The place of each picture."""

    cells: dict[_Cell, SweepRow]
    columns: list[str]  #: Labels above; empty: none.
    lines: list[str]  #: Labels on the left; empty: none.
    captions: dict[tuple[int, int], str]  #: Labels below single pictures.
    width: int
    height: int


def contact_sheet(sweep: Sequence[SweepRow], rows: Names, cols: Names, size: int) -> Image.Image:
    """Return a contact sheet of a sweep: see :meth:`Sweep.grid`."""
    with needs_extra("image", "grid()"):
        from PIL import Image, ImageDraw
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"size must be a number of pixels, 1 or more, not {size!r:.80}")
    if not sweep:
        raise ValueError("a sheet needs at least one row")
    layout = _layout(sweep, rows, cols)
    text = _Text(ImageDraw.Draw(Image.new("RGB", (1, 1))), _font())
    left = max((text.size(label, size)[0] + _GAP for label in layout.lines), default=0)
    above = max((text.size(label, size)[1] + _GAP for label in layout.columns), default=0)
    below = max((text.size(one, size)[1] for one in layout.captions.values()), default=0)
    step_x, step_y = size + _GAP, size + below + _GAP
    whole = (left + layout.width * step_x + _GAP, above + layout.height * step_y + _GAP)
    if whole[0] * whole[1] > MAX_PIXELS:
        raise ValueError(
            f"a sheet of {whole[0]} x {whole[1]} pixels is too large: take a smaller size=, or "
            "some of the rows"
        )
    sheet = Image.new("RGB", whole, "white")
    text = _Text(ImageDraw.Draw(sheet), text.font)
    for x, label in enumerate(layout.columns):
        text.draw(label, (left + _GAP + x * step_x, _GAP), size)
    for y, label in enumerate(layout.lines):
        text.draw(label, (_GAP, above + _GAP + y * step_y), size)
    for (x, y), data in _contents(layout.cells):
        corner = (left + _GAP + x * step_x, above + _GAP + y * step_y)
        picture = _picture(data, size) if isinstance(data, bytes) else data
        if isinstance(picture, str):
            text.box(picture, corner, size)
        else:
            sheet.paste(picture, corner)
        if (x, y) in layout.captions:
            text.draw(layout.captions[x, y], (corner[0], corner[1] + size), size)
    return sheet


def _contents(cells: Mapping[_Cell, SweepRow]) -> Iterator[tuple[_Cell, bytes | str]]:
    """Yield the bytes of each picture, or the reason why there is none, few at a time."""
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


def _picture(data: bytes, size: int) -> Image.Image | str:
    """Return a picture, reduced and on white, or the reason why it cannot be shown."""
    from PIL import Image

    try:
        picture = reduced(data, size)
    except TooLarge:
        return _TOO_LARGE
    except Exception:  # noqa: BLE001  # Pillow raises whatever it comes across
        return UnexpectedResponse.__name__
    if picture.mode == "RGB":
        return picture
    shown = Image.new("RGBA", picture.size, "white")
    shown.alpha_composite(picture.convert("RGBA"))
    return shown.convert("RGB")


# -- layout ---------------------------------------------------------------------------------


def _layout(sweep: Sequence[SweepRow], rows: Names, cols: Names) -> _Layout:
    known = list(dict.fromkeys(name for row in sweep for name in row.params))
    varied = [
        name for name in known if len({_json(row.params.get(name)) for row in sweep}) > 1
    ] or known[-1:]
    below, beside = _chosen(known, rows), _chosen(known, cols)
    if below is None and beside is None and len(varied) == 1:
        return _wrapped(sweep, varied)
    if beside is None:
        beside = [name for name in varied if name not in (below or ())][-1:]
    if below is None:
        below = [name for name in varied if name not in beside]
    left_out = [name for name in varied if name not in below and name not in beside]
    if left_out:
        raise ValueError(
            f"several rows for one cell: they differ in {', '.join(map(_label, left_out))}; give "
            "it to rows= or cols=, or take some of the rows: Sweep(row for row in rows if ...)"
        )
    seen: Counter[Key] = Counter()
    columns: dict[Key, int] = {}
    lines: dict[Key, int] = {}
    cells: dict[tuple[int, int], SweepRow] = {}
    for row in sweep:
        key = _key(row, [*below, *beside])
        seen[key] += 1  # points with equal values, such as drawn seeds
        x = columns.setdefault((*_key(row, beside), str(seen[key])), len(columns))
        y = lines.setdefault(_key(row, below), len(lines))
        cells[x, y] = row
    return _Layout(
        cells,
        [_labels(beside, key) for key in columns] if beside else [],
        [_labels(below, key) for key in lines] if below else [],
        {},
        len(columns),
        len(lines),
    )


def _wrapped(sweep: Sequence[SweepRow], names: list[str]) -> _Layout:
    width = math.ceil(math.sqrt(len(sweep)))
    places = {(n % width, n // width): row for n, row in enumerate(sweep)}
    captions = {at: _labels(names, _key(row, names)) for at, row in places.items()}
    return _Layout(places, [], [], captions, width, math.ceil(len(sweep) / width))


def _chosen(known: list[str], names: Names) -> list[str] | None:
    """Resolve the caller's names to those of the grid, as nodes may be left out."""
    if names is None:
        return None
    found = []
    for name in [names] if isinstance(names, str) else names:
        exact = [one for one in known if _label(one) == name]
        ending = [one for one in known if _label(one).rpartition(".")[2] == name]
        fitting = exact or ending
        if len(fitting) != 1:
            what = "means several of" if fitting else "is none of"
            raise ValueError(f"{name!r:.100} {what} {', '.join(map(_label, known))}")
        found += fitting
    return found


def _key(row: SweepRow, names: list[str]) -> Key:
    return tuple(_json(row.params.get(name)) for name in names)


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def _label(name: str | tuple[str, ...]) -> str:
    return name if isinstance(name, str) else ".".join(name)


def _labels(names: list[str], key: Key) -> str:
    parts = [
        f"{_label(name).rpartition('.')[2]} {value.strip(chr(34))}"
        for name, value in zip(names, key, strict=False)
    ]
    again = key[len(names) :]
    return ", ".join(parts) + (f" ({again[0]})" if again and again[0] != "1" else "")


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

    def size(self, label: str, width: int) -> tuple[int, int]:
        box = self.on.multiline_textbbox((0, 0), self._lines(label, width), font=self.font)
        return math.ceil(box[2]), math.ceil(box[3]) + 2

    def draw(self, label: str, at: tuple[int, int], width: int) -> None:
        self.on.multiline_text(at, self._lines(label, width), fill="black", font=self.font)

    def box(self, label: str, at: tuple[int, int], size: int) -> None:
        """Draw a box with a label in place of a picture."""
        corner = (at[0] + size - 1, at[1] + size - 1)
        self.on.rectangle((at, corner), fill="#eeeeee", outline="#bbbbbb")
        middle = (at[0] + size / 2, at[1] + size / 2)
        self.on.text(middle, label, fill="#aa0000", font=self.font, anchor="mm")

    def _lines(self, label: str, width: int) -> str:
        """Break a text where it gets too wide, and cut it after a few lines."""
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
