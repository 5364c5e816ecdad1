"""What is made of the rows of a sweep: files, tables, a contact sheet."""

from __future__ import annotations

import builtins
import csv
import io
import itertools
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from PIL import Image, ImageColor

from comfy_client import (
    JobFailed,
    MissingExtra,
    Sweep,
    SweepRow,
    UnexpectedResponse,
    Upload,
)
from comfy_client.jobs.result import Result, make_result

COLORS = ["red", "lime", "blue", "yellow", "cyan", "magenta"]
GRAPH = {
    "1": {"class_type": "KSampler", "inputs": {"seed": 7, "cfg": 6.5, "model": ["2", 0]}},
    "3": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}},
}


def picture(color: str, size: tuple[int, int] = (40, 20)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


def result_of(params: dict[str, Any], *pictures: bytes) -> Result:
    graph = {**GRAPH, "1": {**GRAPH["1"], "inputs": dict(GRAPH["1"]["inputs"])}}  # type: ignore[dict-item]
    for name, value in params.items():
        field = name.rpartition(".")[2]
        graph["1"]["inputs"][field] = 99 if value == -1 else value  # type: ignore[index]
    frames = [("3", "image/png", memoryview(one)) for one in pictures]
    return make_result("id", graph, {}, frames=frames)


def sweep_of(grid: dict[str, list[Any]], each: int = 1) -> Sweep:
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    colors = itertools.cycle(COLORS)
    return Sweep(
        SweepRow(n, params, f"p{n}", result_of(params, *[picture(next(colors))] * each))
        for n, params in enumerate(points)
    )


GRID = {"KSampler.cfg": [4, 8], "KSampler.seed": [1, 2, 3]}


def failed(row: SweepRow) -> SweepRow:
    error = JobFailed("=it broke", prompt_id=row.prompt_id)
    return SweepRow(row.index, row.params, row.prompt_id, error=error)


# -- rows -----------------------------------------------------------------------------------


def test_a_slice_or_choice_of_rows_is_a_sweep_too() -> None:
    """By a slice, or by any choice."""
    rows = sweep_of(GRID)
    assert isinstance(rows[1:3], Sweep)
    assert [row.index for row in rows[1:3]] == [1, 2]
    assert rows[-1] is [*rows][-1]
    assert repr(Sweep(rows[:2])) == "<Sweep of 2 rows, 0 failed>"
    assert repr(Sweep(rows[:1])) == "<Sweep of 1 row, 0 failed>"


# -- files ----------------------------------------------------------------------------------


def test_files_have_names_of_the_values(tmp_path: Path) -> None:
    """Of the inputs with their node, or alone; in the order of the rows."""
    rows = sweep_of(GRID)
    paths = rows.save(f"{tmp_path}/{{KSampler.seed}}_{{cfg}}_{{row}}{{ext}}")
    names = ["1_4_0.png", "2_4_1.png", "3_4_2.png", "1_8_3.png", "2_8_4.png", "3_8_5.png"]
    assert [path.name for path in paths] == names
    assert [path.read_bytes() for path in paths] == [row.result.image.bytes() for row in rows]  # type: ignore[union-attr]


def test_a_seed_that_was_drawn_names_its_file(tmp_path: Path) -> None:
    """Not the -1 that asked for it."""
    rows = sweep_of({"KSampler.seed": [-1]})
    assert [path.name for path in rows.save(f"{tmp_path}/{{KSampler.seed}}_{{seed}}")] == ["99_99"]


def test_a_seed_that_was_drawn_stands_in_the_table() -> None:
    """A row without a result keeps what was given."""
    [row] = sweep_of({"KSampler.seed": [-1], "KSampler.cfg": [4]})
    assert row.params["KSampler.seed"] == -1
    done, lost = Sweep([row, failed(row)]).table()
    assert [done["KSampler.seed"], done["KSampler.cfg"], lost["KSampler.seed"]] == [99, 4, -1]


def test_files_that_would_share_a_name_are_numbered(tmp_path: Path) -> None:
    """Over all rows, and of several files in one; rows with an error have none."""
    rows = sweep_of(GRID, each=2)
    rows = Sweep([failed(rows[0]), *rows[1:]])
    paths = rows.save(f"{tmp_path}/{{seed}}.png", if_exists="overwrite")
    assert [path.name for path in paths[:4]] == ["2.png", "2 (1).png", "3.png", "3 (1).png"]
    assert len({*paths}) == len(paths) == 10
    assert len({*rows.save(tmp_path / "plain")}) == 10


def test_an_input_that_two_nodes_have_needs_its_node(tmp_path: Path) -> None:
    """Which of them would be a guess."""
    params = {"A.cfg": 1, "B.cfg": 2}
    rows = Sweep([SweepRow(0, params, "p", result_of({}, picture("red")))])
    with pytest.raises(ValueError, match=r"{cfg} is not one of"):
        rows.save(f"{tmp_path}/{{cfg}}")
    assert rows.save(f"{tmp_path}/{{A.cfg}}_{{B.cfg}}")[0].name == "1_2"


# -- tables ---------------------------------------------------------------------------------


def test_a_table_has_milliseconds_and_no_paths_of_what_was_not_saved() -> None:
    (row,) = sweep_of({"KSampler.cfg": [4]}, each=2)
    timed = attrs.evolve(row, seconds=2.5490000247955322, waited=7.5950000286102295)
    (cells,) = Sweep([timed]).table()
    assert (cells["seconds"], cells["waited"], cells["paths"]) == (2.549, 7.595, [])
    assert len(cells["files"]) == 2


def test_a_csv_file_has_the_values_and_the_local_paths(tmp_path: Path) -> None:
    """Whoever saved them; what a spreadsheet would execute is text."""
    rows = sweep_of({"KSampler.cfg": [4, 8], "KSampler.text": ["a,b\n\u00e4"]}, each=2)
    rows = Sweep([rows[0], failed(rows[1])])
    assert rows[0].result is not None
    saved = rows[0].result.save(tmp_path / "out")
    path = rows.to_csv(tmp_path / "new" / "rows.csv")
    with path.open(encoding="utf-8", newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["KSampler.cfg"], first["KSampler.text"]) == ("4", "a,b\n\u00e4")
    assert first["paths"].split("\n") == [str(one) for one in saved]
    assert first["files"].split("\n") == [item.filename for item in rows[0].result]
    assert (first["error"], second["error"]) == ("", "'=it broke")
    assert rows.to_csv(path) == path


@pytest.mark.parametrize("blank", ["", " ", "\t", "\r\n", "\u3000", "\ufeff", "\x00", "\u200b"])
@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_no_cell_of_a_csv_file_is_a_formula_but_what_the_caller_gave(
    tmp_path: Path, blank: str, sign: str
) -> None:
    """Whichever column a server's words or a journal's are in."""
    signs, blanks = "=+-@\uff1d\uff0b\uff0d\uff20", " \t\r\n\u3000\ufeff\x00\u200b"
    evil = f'{blank}{sign}HYPERLINK("http://evil.example")'
    graph = {"1": {"class_type": "KSampler", "inputs": {"seed": evil}}}
    outputs = {"3": {"images": [{"filename": evil, "subfolder": evil, "type": evil}]}}
    params = {"KSampler.seed": -1, "KSampler.cfg": evil}
    kept: dict[str, Any] = {"prompt_id": evil, "host": evil, "seconds": evil, "cached": evil}
    rows = Sweep(
        [
            SweepRow(0, params, result=make_result(evil, graph, outputs), **kept),
            SweepRow(1, params, error=JobFailed(evil, prompt_id=evil), **kept),
        ]
    )
    path = rows.to_csv(tmp_path / "rows.csv")
    with path.open(encoding="utf-8", newline="") as file:
        for cells in csv.DictReader(file):
            assert cells.pop("KSampler.cfg") == evil
            for name, text in cells.items():
                begins = text.strip(blanks)[:1]
                assert not begins or begins not in signs or text == "-1", name


def test_the_name_of_a_file_in_the_grid_is_no_formula(tmp_path: Path) -> None:
    """An output that is an input again has the name that a server gave it."""
    evil = '=HYPERLINK("http://evil.example").png'
    output: Any = SimpleNamespace(
        filename=evil, subfolder="", type="output", url="http://127.0.0.1:1/view", bytes=bytes
    )
    local = tmp_path / "=a.png"
    local.write_bytes(b"a")
    with local.open("rb") as stream:
        values = [Upload(output), Upload(local), Upload(stream)]
        rows = Sweep(SweepRow(n, {"LoadImage.image": one}, "p") for n, one in enumerate(values))
        path = rows.to_csv(tmp_path / "rows.csv")
    with path.open(encoding="utf-8", newline="") as file:
        found = [cells["LoadImage.image"] for cells in csv.DictReader(file)]
    assert found == [f"'{evil}", str(local), "'=a.png"]


def test_a_csv_file_takes_any_value(tmp_path: Path) -> None:
    """Links, halves of surrogate pairs, rows of different grids, and none at all."""
    rows = Sweep([SweepRow(0, {"a": ["1", 0], "b": "\ud800"}, "p"), SweepRow(1, {"c": None}, "p")])
    text = rows.to_csv(tmp_path / "rows.csv").read_text(encoding="utf-8")
    assert '"[""1"", 0]",\\ud800' in text
    assert Sweep().to_csv(tmp_path / "none.csv").read_bytes() == b"\r\n"


def test_a_table_for_pandas() -> None:
    """By the position in the grid."""
    frame: Any = sweep_of(GRID)[2:].to_pandas()
    assert list(frame.index) == [2, 3, 4, 5]
    assert list(frame["KSampler.seed"]) == [3, 1, 2, 3]


def test_without_pandas_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """No extra has it."""
    real = builtins.__import__

    def without(name: str, *args: Any, **kw: Any) -> Any:
        if name == "pandas":
            raise ImportError("No module named 'pandas'", name=name)
        return real(name, *args, **kw)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match="pip install pandas"):
        sweep_of(GRID).to_pandas()


# -- the contact sheet ----------------------------------------------------------------------


def colors_of(sheet: Image.Image) -> list[list[str]]:
    """The pictures of a sheet, line by line: runs of bright colours."""
    names = {(255, 0, 0): "red", (0, 255, 0): "lime", (0, 0, 255): "blue"}
    names |= {(255, 255, 0): "yellow", (0, 255, 255): "cyan", (255, 0, 255): "magenta"}
    found: list[list[str]] = []
    for y in range(sheet.height):
        line = [names.get(sheet.getpixel((x, y))) for x in range(sheet.width)]  # type: ignore[call-overload]
        runs = [color for color, _ in itertools.groupby(line) if color]
        if runs and (not found or found[-1] != runs):
            found.append(runs)
    return found


def test_a_sheet_has_a_place_for_each_combination() -> None:
    """Rows and columns by input; by themselves the last one makes the columns."""
    rows = sweep_of(GRID)
    by_seed = [["red", "lime", "blue"], ["yellow", "cyan", "magenta"]]
    by_cfg = [["red", "yellow"], ["lime", "cyan"], ["blue", "magenta"]]
    assert colors_of(rows.grid(rows="cfg", cols="seed", size=40)) == by_seed
    assert colors_of(rows.grid(size=40)) == by_seed
    assert colors_of(rows.grid(cols="KSampler.cfg", size=40)) == by_cfg
    assert colors_of(rows.grid(rows="seed", size=40)) == by_cfg
    flat = rows.grid(rows=(), cols=("cfg", "seed"), size=40)
    assert colors_of(flat) == [COLORS]


def test_a_grid_of_one_input_breaks_into_lines() -> None:
    """As square as it can be, with the value below each picture."""
    sheet = sweep_of({"KSampler.seed": [*range(5)]}).grid(size=40)
    assert colors_of(sheet) == [["red", "lime", "blue"], ["yellow", "cyan"]]
    assert colors_of(sweep_of({"KSampler.seed": [1]}).grid(size=40)) == [["red"]]


def test_equal_points_stand_side_by_side() -> None:
    """Such as seeds that are drawn: all are -1."""
    rows = sweep_of({"KSampler.cfg": [4, 8], "KSampler.seed": [-1, -1]})
    assert colors_of(rows.grid(size=40)) == [["red", "lime"], ["blue", "yellow"]]
    assert colors_of(rows.grid(rows="cfg", cols="seed", size=40)) == [
        ["red", "lime"],
        ["blue", "yellow"],
    ]


def test_missing_pictures_leave_their_place_in_the_grid() -> None:
    """A row that failed, one that never ran, and one without an image say so."""
    rows = sweep_of(GRID)
    text_only = SweepRow(4, rows[4].params, "p4", result_of({}))
    sheet = Sweep([rows[0], failed(rows[1]), *rows[3:4], text_only, rows[5]]).grid(size=80)
    assert colors_of(sheet) == [["red"], ["yellow", "magenta"]]
    assert any(
        sheet.getpixel((x, y)) == (170, 0, 0)
        for x in range(sheet.width)
        for y in range(sheet.height)
    )


def test_pictures_are_small_whole_and_on_white() -> None:
    """Their shape is kept, and what shines through is white."""
    file = io.BytesIO()
    Image.new("RGBA", (400, 100), (255, 0, 0, 0)).save(file, "PNG")
    row = SweepRow(0, {"KSampler.seed": 1}, "p", result_of({}, file.getvalue()))
    sheet = Sweep([row]).grid(size=100)
    assert sheet.mode == "RGB"
    assert sheet.getpixel((50, 20)) == (255, 255, 255)
    assert sheet.size[0] == 116


@pytest.mark.parametrize(
    ("background", "label"), [("white", 0), ("#eee", 0), ("#111", 255), ("navy", 255)]
)
def test_a_sheet_has_the_background_of_the_notebook(background: str, label: int) -> None:
    """What shines through, too; labels are readable on it."""
    file = io.BytesIO()
    Image.new("RGBA", (100, 100), (255, 0, 0, 0)).save(file, "PNG")
    row = SweepRow(0, {"KSampler.seed": 1}, "p", result_of({}, file.getvalue()))
    sheet = Sweep([row]).grid(size=100, background=background)
    paper = ImageColor.getrgb(background)
    assert (sheet.getpixel((0, 0)), sheet.getpixel((50, 50))) == (paper, paper)
    colors = {color for _, color in sheet.getcolors(1 << 16) or []}
    assert (label, label, label) in colors


def test_a_sheet_of_no_known_color_is_an_error() -> None:
    """Before anything is fetched."""
    with pytest.raises(ValueError, match="unknown color"):
        sweep_of(GRID).grid(background="nightly")


@pytest.mark.parametrize("side", [7000, 200_000])
def test_a_picture_too_large_to_decode_says_so_in_the_grid(side: int) -> None:
    """In its place; nothing of it is decoded."""
    file = bytearray(picture("red"))
    file[16:24] = struct.pack(">II", side, side)
    file[29:33] = struct.pack(">I", zlib.crc32(file[12:29]))
    point = {"KSampler.seed": 1}
    too_large = type("too large", (UnexpectedResponse,), {})
    expected = Sweep([SweepRow(0, point, "p", None, too_large("x"))]).grid(size=80)
    assert Sweep([SweepRow(0, point, "p", result_of({}, bytes(file)))]).grid(size=80) == expected


def test_labels_of_any_length_fit() -> None:
    """A prompt takes three lines of its picture's width."""
    rows = sweep_of({"KSampler.text": ["word " * 1000, "x" * 5000, "", "\n\x00\u202e\U0001f600"]})
    assert rows.grid(size=100).size == rows.grid(rows=None, cols=None, size=100).size
    wide = rows.grid(rows="text", cols=(), size=100)
    assert wide.width <= 100 + 100 + 3 * 8 + 2


@pytest.mark.parametrize(
    ("rows", "cols", "says"),
    [
        ("cfg", "cfg", "several rows for one cell: they differ in KSampler.seed"),
        ("steps", None, "'steps' is none of KSampler.cfg, KSampler.seed"),
        ("cfg", (), "differ in KSampler.seed"),
    ],
)
def test_rows_and_columns_that_make_no_sheet_are_refused(rows: Any, cols: Any, says: str) -> None:
    """Before any picture is fetched."""
    with pytest.raises(ValueError, match=says):
        sweep_of(GRID).grid(rows, cols)


def test_a_name_that_two_nodes_have_needs_its_node() -> None:
    """As in a template."""
    rows = sweep_of({"A.cfg": [1, 2], "B.cfg": [1, 2]})
    with pytest.raises(ValueError, match=r"'cfg' means several of A\.cfg, B\.cfg"):
        rows.grid("cfg")
    assert colors_of(rows.grid("A.cfg", "B.cfg", size=40)) == [
        ["red", "lime"],
        ["blue", "yellow"],
    ]


def test_a_sheet_has_a_size_that_fits_in_memory() -> None:
    """Thousands of large pictures are refused with what to do."""
    rows = sweep_of({"KSampler.seed": [*range(100)]})
    with pytest.raises(ValueError, match="too large: take a smaller size="):
        rows.grid(size=1000)
    with pytest.raises(ValueError, match="at least one row"):
        Sweep().grid()
    with pytest.raises(ValueError, match="number of pixels"):
        rows.grid(size=0)
