"""The pictures of a sweep in a grid, with their values: a contact sheet, or HTML for a notebook."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import attrs

from ..errors import NotFound, UnexpectedResponse, needs_extra
from ..jobs.gallery import fetched, name_of, pictures
from ..showing.html import card, escape, failure, paragraph, remark, sheet
from ..showing.thumbnails import TooLarge, reduced
from ..transport.deadline import MAX_PARALLEL, in_parallel
from .row import SweepRow, labels, whole_name

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

    from .row import SweepRow

#: The key of a line or column: values of inputs as JSON, numbered if they are equal.
CellKey = tuple[str, ...]
#: The column and the line of a cell.
Cell = tuple[int, int]
Names = str | tuple[str, ...] | None


@attrs.frozen
class Arrangement:
    """The places of a sweep's pictures in a grid, and the labels around them."""

    cells: dict[Cell, SweepRow]
    columns: list[str]  #: Labels above; empty: none.
    lines: list[str]  #: Labels on the left; empty: none.
    captions: dict[Cell, str]  #: Labels below single pictures.
    width: int
    height: int


def constants(sweep: Sequence[SweepRow]) -> list[str]:
    """Return the label of each input that has the same value in all rows."""
    return labels(sweep[0].params, [name for name in _known(sweep) if not _varies(sweep, name)])


def wrapped(sweep: Sequence[SweepRow]) -> Arrangement:
    """Arrange the rows line by line, each with the values that vary below its picture."""
    return _wrapped(sweep, _varied(sweep))


def layout(sweep: Sequence[SweepRow], rows: Names = None, cols: Names = None) -> Arrangement:
    """Arrange the rows in a grid by the values of their inputs: see :meth:`Sweep.grid`."""
    known, varied = _known(sweep), _varied(sweep)
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
            f"several rows for one cell: they differ in {', '.join(map(whole_name, left_out))}; "
            "give it to rows= or cols=, or take some of the rows: Sweep(row for row in rows if ...)"
        )
    seen: Counter[CellKey] = Counter()
    columns: dict[CellKey, str] = {}
    lines: dict[CellKey, str] = {}
    cells: dict[tuple[CellKey, CellKey], SweepRow] = {}
    for row in sweep:
        key = _key(row, [*below, *beside])
        seen[key] += 1  # points with equal values, such as drawn seeds
        again = f" ({seen[key]})" if seen[key] > 1 else ""
        x, y = (*_key(row, beside), again), _key(row, below)
        columns.setdefault(x, ", ".join(labels(row.params, beside)) + again)
        lines.setdefault(y, ", ".join(labels(row.params, below)))
        cells[x, y] = row
    across, down = ({key: n for n, key in enumerate(some)} for some in (columns, lines))
    return Arrangement(
        {(across[x], down[y]): row for (x, y), row in cells.items()},
        list(columns.values()) if beside else [],
        list(lines.values()) if below else [],
        {},
        len(columns),
        len(lines),
    )


def _known(sweep: Sequence[SweepRow]) -> list[str]:
    return list(dict.fromkeys(name for row in sweep for name in row.params))


def _varied(sweep: Sequence[SweepRow]) -> list[str]:
    """Return the inputs whose values differ between rows; if none do, the last input."""
    known = _known(sweep)
    return [name for name in known if _varies(sweep, name)] or known[-1:]


def _varies(sweep: Sequence[SweepRow], name: str) -> bool:
    return len({_json(row.params.get(name)) for row in sweep}) > 1


def _wrapped(sweep: Sequence[SweepRow], names: list[str]) -> Arrangement:
    width = math.ceil(math.sqrt(len(sweep)))
    places = {(n % width, n // width): row for n, row in enumerate(sweep)}
    captions = {at: ", ".join(labels(row.params, names)) for at, row in places.items()}
    return Arrangement(places, [], [], captions, width, math.ceil(len(sweep) / width))


def _chosen(known: list[str], names: Names) -> list[str] | None:
    """Return the inputs that the caller named, maybe without nodes; None if ``names`` is None."""
    if names is None:
        return None
    found = []
    for name in [names] if isinstance(names, str) else names:
        exact = [one for one in known if whole_name(one) == name]
        ending = [one for one in known if whole_name(one).rpartition(".")[2] == name]
        fitting = exact or ending
        if len(fitting) != 1:
            what = "means several of" if fitting else "is none of"
            raise ValueError(f"{name!r:.100} {what} {', '.join(map(whole_name, known))}")
        found += fitting
    return found


def _key(row: SweepRow, names: list[str]) -> CellKey:
    return tuple(_json(row.params.get(name)) for name in names)


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


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


#: The most rows that are shown, and the CSS pixels of a picture.
MOST_ROWS: Final = 60
SIZE: Final = 160


def gallery(rows: Sequence[SweepRow]) -> str:
    """Return HTML that shows the first rows as a grid, below the values that they all share."""
    shown = rows[:MOST_ROWS]
    if not shown:
        return remark("0 rows")
    first = {
        row.index: output
        for row in shown
        if row.result is not None
        for output in [*row.result.images, *row.result.files][:1]
    }
    found = dict(zip(first, pictures(list(first.values()), SIZE), strict=True))
    bodies = {row.index: _body(row, found.get(row.index, "")) for row in shown}
    failed = sum(row.error is not None for row in rows)
    said = f"{len(rows)} rows, {failed} failed"
    said += f"; the first {len(shown)}" if len(shown) < len(rows) else ""
    common = constants(shown) if len(shown) > 1 else []
    above = remark(", ".join(common)) if common else ""
    return f"{above}{_arranged(_places(shown), bodies)}{remark(said)}"


def _places(rows: Sequence[SweepRow]) -> Arrangement:
    """Arrange the rows in their grid, or in sequence if most of the grid would be empty."""
    places = layout(rows)
    is_sparse = 2 * len(places.cells) < places.width * places.height
    return wrapped(rows) if is_sparse else places


def _arranged(places: Arrangement, bodies: Mapping[int, str]) -> str:
    if places.captions:
        return "".join(
            card(bodies[row.index], [escape(places.captions[at], 200)], SIZE)
            for at, row in places.cells.items()
        )
    shown = {at: bodies[row.index] for at, row in places.cells.items()}
    lines = [[shown.get((x, y), "") for x in range(places.width)] for y in range(places.height)]
    return sheet(places.columns, places.lines, lines, SIZE)


def _body(row: SweepRow, picture: str) -> str:
    if row.error is not None:
        return failure(f"{type(row.error).__name__}: {row.error}", SIZE)
    if row.result is None or picture:
        return picture
    texts = [text[:200] for text in row.result.texts[:1]]
    names = [name_of(output) for output in row.result.files[:1]]
    return "".join([*map(paragraph, texts), *names]) or remark(repr(row.result))
