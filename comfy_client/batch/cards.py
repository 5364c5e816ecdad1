"""The rows of a sweep as HTML, for a notebook."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from ..jobs.gallery import pictures
from ..redaction import is_secret_value, sealed
from ..showing.html import card, escape, paragraph, remark
from ..workflow.graph import brief
from .row import SweepRow

#: The most rows that are shown, and the size of a picture in pixels.
MOST_ROWS: Final = 60
SIZE: Final = 160


def gallery(rows: Sequence[SweepRow]) -> str:
    """Return HTML cards of the first rows: the first image, else the first file, and the values."""
    shown = rows[:MOST_ROWS]
    first = {
        row.index: output
        for row in shown
        if row.result is not None
        for output in [*row.result.images, *row.result.files][:1]
    }
    found = dict(zip(first, pictures(list(first.values()), SIZE), strict=True))
    names = _names(shown)
    cards = "".join(
        card(_body(row, found.get(row.index, "")), _values(row, names), SIZE) for row in shown
    )
    failed = sum(row.error is not None for row in rows)
    said = f"{len(rows)} rows, {failed} failed"
    return cards + remark(said + (f"; the first {len(shown)}" if len(shown) < len(rows) else ""))


def _body(row: SweepRow, picture: str) -> str:
    if row.error is not None:
        return remark(f"{type(row.error).__name__}: {row.error}"[:300], "bad")
    if picture or row.result is None:
        return picture
    texts = [text[:200] for text in row.result.texts[:1]]
    return "".join(map(paragraph, texts)) or remark(repr(row.result))


def _values(row: SweepRow, names: dict[object, str]) -> list[str]:
    return [
        escape(f"{names[key]}={_text(names[key], value)}", 200) for key, value in row.params.items()
    ]


def _text(name: str, value: object) -> str:
    return brief(sealed(value, is_secret=is_secret_value(name, value)))


def _names(rows: Sequence[SweepRow]) -> dict[object, str]:
    """Return the names of the inputs, without their nodes where that is unambiguous."""
    whole = {
        key: key if isinstance(key, str) else ".".join(map(str, key))
        for row in rows
        for key in row.params
    }
    short = Counter(name.rpartition(".")[2] for name in whole.values())
    return {
        key: last if short[last := name.rpartition(".")[2]] == 1 else name
        for key, name in whole.items()
    }
