"""Tables of a bounded size, as text and as HTML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import attrs

from .html import COLOURS, FONT, escape, remark, short_line

#: The most rows of a list that is shown as a table.
MOST_ROWS: Final = 200
#: Characters of a cell, as HTML and as text.
MOST_CELL: Final = 400
_MOST_TEXT: Final = 100
#: Characters of all cells, each with its markup.
_MOST_IN_ALL: Final = 1 << 20
_MARKUP: Final = 120
#: Characters of a cell that is not broken into lines, such as a time or a prompt_id.
_UNBROKEN: Final = 40

_LEFT: Final = "text-align:left;vertical-align:top;padding:2px 12px 2px 0"
_LINE: Final = "border-top:1px solid rgba(128,128,128,.3)"
_MORE: Final = "... (more rows)"


@attrs.frozen
class Table:
    """A table of untrusted text, which is shortened, escaped and aligned.

    Attributes:
        head: The names of the columns; empty: no heading.
        rows: The cells of each row.  A row that begins with an empty cell continues the one above.
        moods: Maps the text of a cell to its colour: ``good``, ``doubtful`` or ``bad``.
        above: Lines above the table.
        below: Lines below the table.
        most_text: The most characters of a cell in the text.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    moods: Mapping[str, str] = attrs.field(factory=dict)
    above: Sequence[str] = ()
    below: Sequence[str] = ()
    most_text: int = _MOST_TEXT

    def text(self) -> str:
        """Return the table as text with aligned columns."""
        cells = [[short_line(str(cell), self.most_text) for cell in row] for row in self._shown()]
        cells = [list(self.head), *cells] if self.head else cells
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = (
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in cells
        )
        above, below = ([short_line(line) for line in some] for some in (self.above, self._below))
        return "\n".join([*above, *lines, *below])

    def html(self) -> str:
        """Return the table as HTML that is readable on light and dark pages."""
        rows = "".join(self._row(row) for row in self._shown())
        head = "".join(f'<th style="{_LEFT}">{escape(name)}</th>' for name in self.head)
        top = f'<thead><tr style="background:none">{head}</tr></thead>' if head else ""
        table = (
            '<div style="overflow-x:auto"><table style="border-collapse:collapse;margin:4px 0;'
            f'{FONT}">{top}<tbody>{rows}</tbody></table></div>'
        )
        above, below = ("".join(map(remark, some)) for some in (self.above, self._below))
        return f"{above}{table if rows else ''}{below}"

    def _row(self, row: Sequence[object]) -> str:
        line = f";{_LINE}" if str(row[0]) else ""
        cells = []
        for value in row:
            mood = self.moods.get(str(value), "")
            style = f";color:{COLOURS[mood]};font-weight:600" if mood else ""
            style += ";white-space:nowrap" if len(str(value)) <= _UNBROKEN else ""
            cells.append(f'<td style="{_LEFT}{style}">{escape(value, MOST_CELL)}</td>')
        # No stripes: a row may continue the one above.
        return f'<tr style="background:none{line}">{"".join(cells)}</tr>'

    def _shown(self) -> Iterator[Sequence[object]]:
        """Yield rows until their total size reaches the limit."""
        left = _MOST_IN_ALL
        for row in self.rows:
            left -= sum(min(len(str(cell)), MOST_CELL) + _MARKUP for cell in row)
            if left < 0:
                break
            yield row

    @property
    def _below(self) -> Sequence[str]:
        is_cut = sum(1 for _ in self._shown()) < len(self.rows)
        return [*([_MORE] if is_cut else ()), *self.below]
