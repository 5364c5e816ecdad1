"""The rows of a sweep as HTML, for a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from ..jobs.gallery import name_of, pictures
from ..showing.html import card, escape, failure, paragraph, remark, sheet
from .layout import Arrangement, constants, layout, wrapped
from .row import SweepRow

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
