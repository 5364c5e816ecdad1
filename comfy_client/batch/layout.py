"""The places of a sweep's rows in a grid, and the labels of its lines and columns.  Pure."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence

import attrs

from .row import SweepRow, labels, whole_name

#: The key of a line or column: values of inputs as JSON, numbered if they are equal.
Key = tuple[str, ...]
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
    names = [name for name in _known(sweep) if not _varies(sweep, name)]
    return labels(sweep[0].params, names)


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
    seen: Counter[Key] = Counter()
    columns: dict[Key, str] = {}
    lines: dict[Key, str] = {}
    cells: dict[tuple[Key, Key], SweepRow] = {}
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


def _key(row: SweepRow, names: list[str]) -> Key:
    return tuple(_json(row.params.get(name)) for name in names)


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
