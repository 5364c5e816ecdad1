"""How a sweep and its rows show themselves in a notebook."""

from __future__ import annotations

import html.parser
import io
import itertools
from typing import Any

import pytest
from PIL import Image

from comfy_client import ComfyApi, JobFailed, Sweep, SweepRow
from comfy_client.jobs.result import Result, make_result
from comfy_client.testing import ComfyServer

GRAPH = {
    "1": {"class_type": "KSampler", "inputs": {"seed": 7}},
    "3": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}},
}


def result_of(*, texts: tuple[str, ...] = (), pictures: int = 1) -> Result:
    file = io.BytesIO()
    Image.new("RGB", (40, 20), "red").save(file, "PNG")
    frames = [("3", "image/png", memoryview(file.getvalue()))] * pictures
    return make_result("id", GRAPH, {"3": {"text": list(texts)}} if texts else {}, frames=frames)


def sweep_of(grid: dict[Any, list[Any]]) -> Sweep:
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    return Sweep(SweepRow(n, params, f"p{n}", result_of()) for n, params in enumerate(points))


def failed(row: SweepRow, message: str = "it broke") -> SweepRow:
    error = JobFailed(message, prompt_id=row.prompt_id)
    return SweepRow(row.index, row.params, row.prompt_id, error=error)


class _Grid(html.parser.HTMLParser):
    """The cells of a page by line, each as its text with ``*`` for a picture."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.lines: list[list[str]] = []
        self.tops: list[str] = []
        self.is_in = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "tr":
            self.lines.append([])
        self.is_in = self.is_in or tag in ("th", "td")
        if tag in ("th", "td"):
            self.lines[-1].append("")
            self.tops.append(dict(attrs).get("style") or "")
        elif tag == "img" and self.is_in:
            self.lines[-1][-1] += "*"

    def handle_endtag(self, tag: str) -> None:
        self.is_in = self.is_in and tag not in ("th", "td")

    def handle_data(self, data: str) -> None:
        if self.is_in:
            self.lines[-1][-1] += data


def page(value: Any) -> str:
    data = value._repr_mimebundle_()
    assert data["text/plain"] == repr(value)
    return str(data["text/html"])


def test_a_sweep_has_the_shape_of_its_grid() -> None:
    """Three seeds and three values of cfg are three lines of three pictures."""
    grid = _Grid(page(sweep_of({"KSampler.seed": [1, 2, 3], "KSampler.cfg": [4.0, 6.5, 8.0]})))
    assert grid.lines == [
        ["", "cfg 4.0", "cfg 6.5", "cfg 8.0"],
        ["seed 1", "*", "*", "*"],
        ["seed 2", "*", "*", "*"],
        ["seed 3", "*", "*", "*"],
    ]
    assert all("vertical-align:top" in style for style in grid.tops)


@pytest.mark.parametrize("names", ["ab", "ba"], ids=["of lines", "of columns"])
def test_no_label_of_a_grid_is_markup(names: str) -> None:
    values = {"a": ["<script>x</script>", "y"], "b": [1, 2]}
    shown = page(sweep_of({f"N.{name}": values[name] for name in names}))
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown


def test_values_that_all_rows_share_stand_once_above() -> None:
    """Not below each picture; texts have no quotes."""
    shared = {"Size.width": [64], "Prompt.text": ["a <b> mill"]}
    rows = sweep_of({**shared, "KSampler.seed": [1, 2], "KSampler.cfg": [4, 8]})
    shown = page(rows)
    assert shown.count("width 64, text a &lt;b&gt; mill") == 1
    assert shown.count("width") - shown.count("max-width") - shown.count('width="') <= 1
    assert _Grid(shown).lines[0] == ["", "cfg 4", "cfg 8"]


def test_rows_of_one_input_follow_each_other_with_their_value() -> None:
    """They wrap with the width of the notebook."""
    shown = page(sweep_of({"KSampler.seed": [1, 2, 3]}))
    assert "<table" not in shown
    assert [shown.count(f"<div>seed {n}</div>") for n in (1, 2, 3)] == [1, 1, 1]
    assert shown.count("<figure") == shown.count("<img") == 3


def test_points_that_are_no_grid_follow_each_other_with_all_values() -> None:
    """A table of them would be mostly empty."""
    rows = Sweep(SweepRow(n, {"a.x": n, "a.y": 10 * n}, f"p{n}", result_of()) for n in range(5))
    shown = page(rows)
    assert "<table" not in shown
    assert "<div>x 4, y 40</div>" in shown


def test_inputs_of_one_name_are_labelled_with_their_nodes() -> None:
    """Others need none."""
    rows = sweep_of({("6", "text"): ["cat"], "Bad.text": ["dog", "fog"], "K.seed": [1, 2]})
    shown = page(rows)
    assert "6.text cat" in shown
    assert "Bad.text dog" in shown
    assert "seed 1" in shown


def test_a_row_that_failed_is_marked_in_its_place() -> None:
    """With the reason, escaped."""
    rows = sweep_of({"KSampler.seed": [1, 2], "KSampler.cfg": [4, 8]})
    shown = page(Sweep([rows[0], failed(rows[1], "<b>it broke"), *rows[2:]]))
    grid = _Grid(shown)
    assert grid.lines[1] == ["seed 1", "*", "JobFailed: <b>it broke"]
    assert "border:1px solid #d9483b" in shown
    assert "4 rows, 1 failed" in shown


def test_equal_points_have_places_of_their_own() -> None:
    """Such as seeds that are drawn."""
    shown = page(sweep_of({"KSampler.cfg": [4, 8], "KSampler.seed": [-1, -1]}))
    assert [shown.count(f"<div>cfg {n}</div>") for n in (4, 8)] == [2, 2]
    grid = {"KSampler.cfg": [4, 8], "KSampler.steps": [1, 2], "KSampler.seed": [-1, -1]}
    lines = _Grid(page(sweep_of(grid))).lines
    assert lines[0] == ["", "steps 1", "steps 1 (2)", "steps 2", "steps 2 (2)"]
    assert [line[1:] for line in lines[1:]] == [["*"] * 4] * 2


def test_a_row_without_a_picture_shows_its_text_or_file() -> None:
    """Or that there is nothing."""
    rows = sweep_of({"KSampler.seed": [1, 2], "KSampler.cfg": [4, 8]})
    text = SweepRow(0, rows[0].params, "p0", result_of(texts=("hello",), pictures=0))
    nothing = SweepRow(1, rows[1].params, "p1", result_of(pictures=0))
    grid = _Grid(page(Sweep([text, nothing, *rows[2:]])))
    assert grid.lines[1][1:] == ["hello", "<Result no outputs>"]


def test_a_large_sweep_is_cut() -> None:
    """The first rows are shown."""
    shown = page(sweep_of({"KSampler.seed": [*range(50)], "KSampler.cfg": [4, 8]}))
    assert shown.count("<img") == 60
    assert "100 rows, 0 failed; the first 60" in shown
    assert "0 rows" in page(Sweep())


def test_keys_in_a_grid_are_not_shown() -> None:
    """By the names of their inputs."""
    rows = sweep_of({"A.api_key": ["hush1", "hush2"], "A.seed": [1, 2]})
    for text in (page(rows), page(rows[0]), repr(rows[0])):
        assert "hush" not in text
        assert "***" in text


def test_a_row_shows_its_values_and_its_picture_large() -> None:
    """Or its error."""
    row = sweep_of({"KSampler.seed": [1], "KSampler.cfg": [4.0]})[0]
    assert repr(row) == "<SweepRow 0, seed 1, cfg 4.0: Result 1 image, seed 7>"
    shown = page(row)
    assert "seed 1, cfg 4.0" in shown
    assert "max-width:min(512px,100%)" in shown
    broken = failed(row)
    assert repr(broken) == "<SweepRow 0, seed 1, cfg 4.0: JobFailed>"
    assert "JobFailed: it broke" in page(broken)


@pytest.mark.parametrize("value", [b"x" * 100_000, {1: 2, "a": 3}, {(1, 2): 3}, "x" * 100_000])
def test_a_row_of_any_value_has_a_short_text(value: Any) -> None:
    """Such as a picture, or a dict that is no JSON."""
    row = SweepRow(0, {"A.x": value}, "p")
    assert len(repr(row)) < 400
    assert len(page(row)) < 4000


def test_each_picture_of_a_sweep_opens_its_file(comfy: ComfyServer) -> None:
    """As the thumbnail of a result does."""
    file = io.BytesIO()
    Image.new("RGB", (40, 20), "red").save(file, "PNG")
    for name in ("a.png", "b.png"):
        (comfy.root / "output" / name).write_bytes(file.getvalue())
    with ComfyApi(comfy.url) as api:
        rows = Sweep(
            SweepRow(
                n,
                {"KSampler.seed": n},
                f"p{n}",
                make_result("id", GRAPH, {"3": {"images": [{"filename": name}]}}, files=api),
            )
            for n, name in enumerate(("a.png", "b.png"))
        )
        shown = page(rows)
    assert [shown.count(f"filename={name}") for name in ("a.png", "b.png")] == [1, 1]
    assert shown.count("<a href") == 2
