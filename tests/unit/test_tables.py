"""Tables of values: as text, and in a notebook."""

from __future__ import annotations

import html.parser
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from comfy_client import ClientStats, Workflow, models
from comfy_client.showing.tables import MOST_CELL, Table

DEFINITION = {
    "input": {
        "required": {
            "model": ["MODEL"],
            "steps": ["INT", {"default": 20, "min": 1, "max": 10000}],
            "sampler_name": [["euler", "ddim"], {}],
            "scheduler": ["COMBO", {"options": [f"s{n}" for n in range(50)], "default": "s1"}],
        },
        "optional": {"text": ["STRING", {"default": "a <b>"}]},
    },
    "output": ["LATENT", "MODEL"],
    "output_name": ["LATENT", "patched"],
    "display_name": "K Sampler",
    "category": "sampling",
    "description": "Denoises.",
    "output_node": False,
}


class _Cells(html.parser.HTMLParser):
    """The cells of each row of a page, and the styles of its cells and rows."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.is_over = False
        self.styles: dict[str, list[str]] = {"th": [], "td": [], "tr": []}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag in self.styles:
            self.styles[tag].append(dict(attrs).get("style") or "")
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.is_over = self.is_over or tag == "table"

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1] and not self.is_over:
            self.rows[-1][-1] += data


def page(value: Any) -> str:
    data = value._repr_mimebundle_()
    assert data["text/plain"] == repr(value)
    return str(data["text/html"])


def cells(value: Any) -> _Cells:
    return _Cells(page(value))


def test_columns_of_text_are_aligned() -> None:
    """Below their names."""
    table = Table(("name", "value"), [("a", 1), ("longer", 22)], above=["one"], below=["two"])
    assert table.text().splitlines() == [
        "one",
        "name    value",
        "a       1",
        "longer  22",
        "two",
    ]


def test_headings_stand_above_their_cells_and_rows_have_no_stripes() -> None:
    """Whatever the styles of the page: JupyterLab aligns to the right."""
    found = _Cells(Table(("a", "b"), [("1", "2"), ("", "3"), ("4", "5")]).html())
    assert len(found.styles["th"]) == 2
    assert all("text-align:left" in style for style in found.styles["th"] + found.styles["td"])
    assert all("background:none" in style for style in found.styles["tr"])
    lines = ["border-top" in style for style in found.styles["tr"]]
    assert lines == [False, True, False, True]  # a row that continues another has none


def test_a_table_without_rows_is_its_lines() -> None:
    """No heading stands above nothing."""
    assert Table((), [], below=["none"]).text() == "none"
    assert "<table" not in Table((), [], below=["none"]).html()


def test_a_table_is_bounded_in_sum() -> None:
    """Cells are cut, and rows left out, which is said."""
    table = Table(("a",), [("x" * 10_000,)] * 20_000)
    for text in (table.text(), table.html()):
        assert len(text) < 2_000_000
        assert "... (more rows)" in text
        assert "x" * MOST_CELL not in text


def test_a_definition_shows_its_inputs() -> None:
    """Name, type, default, and choices or range; and its outputs."""
    node = models.NodeDef.from_json("KSampler", DEFINITION)
    assert repr(node) == "<NodeDef KSampler: 5 inputs, outputs: LATENT, MODEL>"
    found = cells(node)
    assert found.rows[1:3] == [
        ["model", "MODEL", "", "", ""],
        ["steps", "INT", "20", "min 1, max 10000", ""],
    ]
    assert found.rows[3] == ["sampler_name", "COMBO", "", "'euler', 'ddim'", ""]
    assert "(50 in all)" in found.rows[4][3]
    assert found.rows[5] == ["text", "STRING", "'a <b>'", "", "optional"]
    for text in (str(node), page(node)):
        assert "KSampler, K Sampler, sampling" in text
        assert "Denoises." in text
        assert "outputs: LATENT, patched (MODEL)" in text


def test_definitions_are_listed_and_one_shows_its_inputs() -> None:
    """As ``get_node_defs()`` and ``get_node_defs(name)`` return them."""
    node = models.NodeDef.from_json("KSampler", DEFINITION)
    one, many = models.NodeDefs(a=node), models.NodeDefs({f"n{n}": node for n in range(1000)})
    assert str(one) == str(node)
    assert repr(many) == "<NodeDefs of 1000 classes>"
    assert "1000 classes; the first 200" in str(many)
    assert cells(many).rows[1][:3] == ["KSampler", "K Sampler", "sampling"]
    assert len(cells(many).rows) == 201
    assert str(models.NodeDefs()) == "0 classes"


def entry(number: int, end: str, **more: Any) -> models.HistoryEntry:
    messages = [
        ["execution_start", {"timestamp": 1_700_000_000_000}],
        [end, {"timestamp": 1_700_000_002_500}],
    ]
    files = [{"filename": f"{n}.png", "subfolder": "", "type": "output"} for n in range(5)]
    return models.HistoryEntry.from_json(
        {
            "prompt": [number, f"id-{number}", {"1": {}, "2": {}}, {}, ["2"]],
            "outputs": {"2": {"images": files, "animated": [False], "odd": 3}},
            "status": {"status_str": "x", "completed": True, "messages": messages},
            **more,
        }
    )


def test_a_history_shows_the_latest_first() -> None:
    """With outcome, time, and the names of the first files."""
    ends = ("execution_success", "execution_error", "execution_interrupted")
    found = models.Histories({f"id-{n}": entry(n, end) for n, end in enumerate(ends)})
    assert repr(found) == "<Histories of 3 prompts>"
    rows = cells(found).rows[1:]
    assert [row[:2] for row in rows] == [
        ["interrupted", "id-2"],
        ["failed", "id-1"],
        ["succeeded", "id-0"],
    ]
    assert rows[0][3:] == ["2.5 s", "2", "0.png, 1.png, 2.png, ..."]
    assert str(found).splitlines()[-1] == "3 prompts"
    one = found["id-1"]
    assert repr(one) == "<HistoryEntry id-1 failed>"
    assert cells(one).rows[1] == rows[1]


def test_a_long_history_is_cut() -> None:
    """The latest count."""
    found = models.Histories({f"id-{n}": entry(n, "execution_success") for n in range(100)})
    assert len(cells(found).rows) == 51
    assert "id-99" in str(found)
    assert "100 prompts; the latest 50" in str(found)


@pytest.mark.parametrize("time", [1e300, -1e300, "x", None])
def test_a_history_with_an_impossible_time_is_shown_without(time: Any) -> None:
    """A server may say anything."""
    ends = [["execution_success", {"timestamp": time}]]
    one = entry(1, "", status={"status_str": "success", "messages": ends})
    assert cells(one).rows[1][2] == ""


def test_print_of_a_queue_lists_its_prompts() -> None:
    """In the order in which they run."""
    record = [2, "later", {"1": {}}, {}, ["1"]]
    queue = models.Queue.from_json(
        {"queue_running": [], "queue_pending": [record, [1, "sooner", {}, {}, []]]}
    )
    assert repr(queue) == "<Queue 0 running, 2 pending>"
    lines = str(queue).splitlines()
    assert [line.split()[2] for line in lines[1:3]] == ["sooner", "later"]
    assert lines[-1] == "0 running, 2 pending"


def test_counters_are_a_table_with_readable_numbers() -> None:
    """In print and in a notebook; ``repr`` keeps the names of the attributes."""
    stats = ClientStats(*range(14), dropped_events=1_234_567)
    assert "submitted=0" in repr(stats)
    assert ["dropped events", "1,234,567"] in cells(stats).rows
    assert str(stats).splitlines()[-1].split() == ["dropped", "events", "1,234,567"]


def test_a_node_shows_its_inputs() -> None:
    """Until it is removed."""
    workflow = Workflow(
        {"1": {"class_type": "A", "inputs": {"text": "x <b>", "n": 3}, "_meta": {"title": "T"}}}
    )
    node = workflow["T"]
    assert cells(node).rows[1:] == [["1", "T", "A", "text", "'x <b>'"], ["", "", "", "n", "3"]]
    workflow.remove("1")
    assert "removed" in str(node)
    assert "<table" not in page(node)


def test_a_report_shows_its_problems() -> None:
    """Node, input, and what would be right."""
    workflow = Workflow({"1": {"class_type": "KSampler", "inputs": {"steps": 0}}})
    report = workflow.check({"KSampler": DEFINITION})
    assert repr(report).startswith("<CheckReport ")
    assert repr(report).endswith(" errors>")
    rows = cells(report).rows
    assert rows[0] == ["", "node", "input", "what is wrong", "what would be right"]
    assert all(row[0] in ("error", "warning") for row in rows[1:])
    assert ["1 (KSampler)", "steps"] in [row[1:3] for row in rows]
    clean = Workflow({"1": {"class_type": "Out", "inputs": {}}})
    fine = clean.check({"Out": {"input": {}, "output": [], "output_node": True}})
    assert repr(fine) == "<CheckReport no problems>"
    assert "no problems" in page(fine)


def test_ipython_in_a_terminal_shows_tables_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``print`` does, through its formatters, which have a text of their own for each dict."""
    from IPython.core.formatters import DisplayFormatter

    shell = SimpleNamespace(execution_count=1)
    format_ = DisplayFormatter().format
    node = models.NodeDef.from_json("KSampler", DEFINITION)
    flow = Workflow({"1": {"class_type": "KSampler", "inputs": {"steps": 5}}})
    for value in (node, models.NodeDefs(a=node), models.Histories(), flow, flow.inputs()):
        assert format_(value)[0]["text/plain"] == repr(value)
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
            assert format_(value)[0] == {"text/plain": str(value)}


def test_the_inputs_of_a_workflow_are_a_table() -> None:
    """With what each may be."""
    workflow = Workflow({"1": {"class_type": "KSampler", "inputs": {"steps": 5, "text": "x"}}})
    found = workflow.inputs({"KSampler": DEFINITION})
    assert cells(found).rows[0] == ["input", "type", "value", "role", "choices or range"]
    assert cells(found).rows[1] == ["KSampler.steps", "INT", "5", "", "1 to 10000"]
    assert "<table" not in page(Workflow({"1": {"class_type": "A", "inputs": {}}}).inputs())
