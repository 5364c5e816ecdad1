"""The rows of a sweep, with their files, tables and contact sheet."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, SupportsIndex, overload

from ..errors import MissingExtra, WorkflowError
from ..jobs.names import is_template, local_paths
from ..jobs.output import name_values, save_all
from ..showing.cells import Shown
from ..transport.local_files import IfExists, distinct_names, rule_for, write_atomically
from ..workflow.address import input_named
from ..workflow.graph import as_link, inputs_of, is_upload
from ..workflow.seeds import is_wanted
from .row import SweepRow, whole_name

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

#: Template fields that keep their meaning even if an input has the same name.
_FACTS: Final = frozenset({"node", "index", "row", "name", "ext"})
#: First characters of a cell that a spreadsheet takes for a formula, East Asian ones included.
_FORMULA: Final = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def _paths(row: SweepRow) -> list[str]:
    """Return the local path of each file of a row; an empty list if none was saved."""
    paths = [os.fspath(file.path or "") for file in row.result or ()]
    return paths if any(paths) else []


class Sweep(Shown, tuple[SweepRow, ...]):
    """The rows of a sweep, in the order of the grid.

    ``Sweep(row for row in rows if row.result)`` and ``rows[:8]`` are sweeps, too.

    Example::

        from comfy_client import ComfyApi

        with ComfyApi("http://127.0.0.1:8188") as api:
            rows = api.sweep("txt2img.json", {"KSampler.seed": [1, 2], "KSampler.cfg": [4, 8]})
            rows.save("out/{seed}_{cfg}{ext}")
            rows.grid(rows="cfg", cols="seed").save("sheet.png")
            rows.to_csv("rows.csv")
    """

    __slots__ = ()

    def __repr__(self) -> str:
        failed = sum(row.error is not None for row in self)
        return f"<Sweep of {len(self)} row{'' if len(self) == 1 else 's'}, {failed} failed>"

    def _html(self) -> str:
        return self.gallery()

    def gallery(self) -> str:
        """Return HTML for a notebook: small pictures of the first 60 rows, as a grid.

        Values that all rows share stand once above; a row that failed shows its error.
        """
        from .sheet import gallery

        return gallery(self)

    @overload
    def __getitem__(self, index: SupportsIndex) -> SweepRow: ...

    @overload
    def __getitem__(self, index: slice) -> Sweep: ...

    def __getitem__(self, index: SupportsIndex | slice) -> SweepRow | Sweep:
        """Return a row, or a slice of rows as another sweep."""
        found = super().__getitem__(index)
        return Sweep(found) if isinstance(found, tuple) else found

    def save(
        self, path: str | os.PathLike[str], *, if_exists: IfExists | None = None
    ) -> list[Path]:
        """Write the files of all rows, four at a time; return their paths in the order of the rows.

        Rows with an error have no files.

        Args:
            path: A folder, or a template as for :meth:`Result.save`.  ``{row}`` is the position of
                the row in the grid; an input of the grid needs no node, as ``{cfg}``, if no other
                one has its name.  Inputs have the values with which they ran: a drawn seed, not -1.
            if_exists: ``"number"`` (the default), ``"overwrite"`` or ``"skip"``.

        For the errors and all else see :meth:`Result.save`.
        """
        rule = rule_for(if_exists, "number")
        files = [(row, n, item) for row in self for n, item in enumerate(row.result or ())]
        outputs = [item for _, _, item in files]
        if is_template(path):
            values = [
                name_values(item, row=row.index, index=n, **_inputs(row)) for row, n, item in files
            ]
            names = (item.filename for item in outputs)
            return save_all(outputs, local_paths(path, zip(values, names, strict=True)), rule)
        into = Path(path)
        found = distinct_names(
            (item.filename for item in outputs), lambda name: (into / name).is_dir()
        )
        return save_all(outputs, [into / name for name in found], rule)

    def table(self) -> list[dict[str, Any]]:
        """Return a flat dict for each row, for ``csv.DictWriter`` or ``pandas.DataFrame``.

        The parameters by name (a seed that was drawn is the drawn one), then ``files`` (their names
        on the server), ``paths`` (where they were saved here, ``""`` for those that were not; empty
        if none was), ``seconds`` (how long it ran), ``waited`` (from submission to end),
        ``cached``, ``prompt_id``, ``host`` and ``error`` (a text, or ``None``).
        """
        return [
            {
                **_params(row),
                "files": [file.filename for file in row.result or ()],
                "paths": _paths(row),
                "seconds": row.seconds,
                "waited": row.waited,
                "cached": row.cached,
                "prompt_id": row.prompt_id,
                "host": row.host,
                "error": None if row.error is None else str(row.error),
            }
            for row in self
        ]

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write :meth:`table` as a CSV file (UTF-8), and return its path; a file there is replaced.

        Several files of one row are lines of one cell.  ``paths`` are known of files that were
        saved before, by any ``save`` in this process.  A text that a spreadsheet would take for a
        formula gets a ``'`` in front, unless it is a text of the grid as you gave it.
        """
        table = self.table()
        columns = list(dict.fromkeys(name for row in table for name in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        for row, cells in zip(self, table, strict=True):
            given = {whole_name(name): value for name, value in row.params.items()}
            writer.writerow(
                {
                    name: _cell(value, is_own=name in given and given[name] is value)
                    for name, value in cells.items()
                }
            )
        data = text.getvalue().encode("utf-8", "backslashreplace")
        return write_atomically(Path(path), [data], if_exists="overwrite", through=True)

    def to_pandas(self) -> pd.DataFrame:
        """Return :meth:`table` as a ``pandas.DataFrame``.

        Raises :class:`MissingExtra` if pandas is not installed: ``pip install pandas``.
        """
        try:
            import pandas as pd
        except ImportError as exc:
            message = "to_pandas() needs pandas, which is in no extra: pip install pandas"
            raise MissingExtra(message, extra="", name=exc.name) from exc
        return pd.DataFrame(self.table(), index=pd.Index([row.index for row in self], name="row"))

    def grid(
        self,
        rows: str | tuple[str, ...] | None = None,
        cols: str | tuple[str, ...] | None = None,
        *,
        size: int = 256,
        background: str = "white",
    ) -> Image.Image:
        """Return a contact sheet: an image of each row with its values (extra ``[image]``).

        The image is the first one of the row.  A row without an image shows the class of its error,
        or of the error while its file was fetched (``NotFound``).  ``too large`` stands for
        an image of more than 40 million pixels, or 128 MiB, which is not decoded.

        Args:
            rows: The input whose values are the rows of the sheet: ``"KSampler.cfg"``, or ``"cfg"``
                if it is the only one of that name.  Or several, for all combinations.  ``None``:
                all that vary and are not in ``cols``.
            cols: The same for the columns.  ``None``: the last one that varies and is not in
                ``rows``.  With a single input, ``None`` for both wraps the pictures over lines.
            size: The longest side of a picture in pixels.
            background: The colour of the sheet, as Pillow names it: ``"#111"`` for a dark notebook.
                Labels are black or white.

        Raises:
            ValueError: No such colour; an input that is not in the grid, or that is in neither
                although it varies; a sheet of more than 64 million pixels.
            MissingExtra: Pillow is not installed.

        Other errors are those of :meth:`Output.bytes`.
        """
        from .sheet import contact_sheet

        return contact_sheet(self, rows, cols, size, background)


def _inputs(row: SweepRow) -> dict[str, object]:
    """Return a row's values by their names in the grid, and by input names that are unique."""
    graph = row.result.graph if row.result else {}
    values = {whole_name(name): _ran_with(graph, name, value) for name, value in row.params.items()}
    short = {name: name.rpartition(".")[2] for name in values}
    often = Counter(short.values())
    alone = {
        short[name]: value
        for name, value in values.items()
        if often[short[name]] == 1 and short[name] not in _FACTS
    }
    return {**alone, **values}


def _params(row: SweepRow) -> dict[str, object]:
    """Return a row's params as they were given, with drawn seeds filled in."""
    graph = row.result.graph if row.result else {}
    return {
        whole_name(name): _ran_with(graph, name, value) if is_wanted(value) else value
        for name, value in row.params.items()
    }


def _ran_with(graph: Mapping[str, Any], name: str | tuple[str, str], value: object) -> object:
    """Return the value that an input had when its row ran, such as a seed that was drawn."""
    try:
        node_id, field = input_named(graph, name)
    except WorkflowError:
        return value
    used = inputs_of(graph, node_id)[field]
    return value if as_link(used) else used


def _cell(value: Any, *, is_own: bool) -> Any:
    """Return a value for a CSV cell; unless ``is_own``, quote a text that looks like a formula."""
    if is_upload(value):  # its name may come from an output of the server
        value, is_own = str(value), False
    if isinstance(value, list) and not is_own:
        value = "\n".join(map(str, value))
    elif isinstance(value, list | dict):
        value = json.dumps(value)
    if is_own or not isinstance(value, str):
        return value
    begins = value.lstrip()[:1]
    return f"'{value}" if begins in _FORMULA or not value[:1].isprintable() else value
