"""That every row of the benchmark runs; how fast is no matter of a test."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import TYPE_CHECKING

import docutils.core
import docutils.nodes
import pytest
from PIL import Image

from comfy_client import ComfyApi, HostedApi
from tests.guide import document, section_of, text_of
from tests.helpers.hosted import before
from tests.helpers.middle import Middle

from . import check as many_files
from . import drivers, faults, hosted, hosted_faults
from .__main__ import as_rst, line
from .measure import Figure, Row
from .rivals import OURS, RIVALS
from .rows import ROWS, Bench
from .servers import running, stub

if TYPE_CHECKING:
    from tests.comfyui import ComfyUI

NEED_A_SERVER = {"trivial", "trivial_cpu", "round_trips", "requests", "in_flight", "embedded"}


@pytest.fixture(scope="module")
def stub_url() -> Iterator[str]:
    with running(stub) as url:
        yield url


def check(rows: list[Row]) -> None:
    assert rows
    for row in rows:
        figure = row.figure
        assert all(math.isfinite(value) for value in (figure.value, figure.low, figure.high))
        assert row.count >= 1
        assert row.name in line(row)


@pytest.mark.long
@pytest.mark.parametrize("row", [row for row in ROWS if row.__name__ not in NEED_A_SERVER])
def test_a_row_gives_finite_figures(row: Callable[[Bench], list[Row]], stub_url: str) -> None:
    """One measurement of each side yields figures."""
    check(row(Bench(url="", stub=stub_url, pairs=1)))


@pytest.mark.real
@pytest.mark.parametrize("row", [row for row in ROWS if row.__name__ in NEED_A_SERVER])
def test_a_row_on_a_real_server_gives_finite_figures(
    row: Callable[[Bench], list[Row]], stub_url: str, comfyui: ComfyUI
) -> None:
    """One measurement of each side yields figures."""
    check(row(Bench(url=comfyui.url, stub=stub_url, pairs=1)))


def test_the_table_says_which_aim_was_missed() -> None:
    """A figure counts as it is shown: 1.004 reaches 1.00."""
    near = Row("near", Figure(1.004, 1.0, 1.1), "x", 1.0, 300)
    far = Row("far", Figure(44.0, 43.0, 45.0), "%", 45.0, 300, at_least=True)
    table = as_rst([near, far], "a machine").splitlines()
    assert [("missed" in text) for text in table if text.startswith(("near", "far"))] == [
        False,
        True,
    ]


@pytest.mark.real
def test_the_figures_of_the_hosted_api_count_right_answers(comfyui: ComfyUI) -> None:
    """A few jobs of each kind, by the code that counts a thousand."""
    with ExitStack() as stack:
        place = stack.enter_context(before(comfyui))
        middle = stack.enter_context(Middle(int(place.url.rpartition(":")[2])))
        proxied = stack.enter_context(HostedApi(place.url))
        straight = stack.enter_context(ComfyApi(comfyui.url))
        hindered = stack.enter_context(HostedApi(middle.url))
        hindered.run(faults.picture_of())
        assert ": 0 failed" in hosted.trivial(proxied, straight, 10)
        found = hosted.lost_answers(hindered, middle, place, 5)
        assert "{'right': 5}; ran once: 5, never: 0, twice or more: 0" in found
        assert "with 0 of 5 to the storage" in hosted.token(comfyui, stack)


@pytest.mark.real
def test_the_table_of_hosted_faults_judges_ours() -> None:
    """A cut, by the code that makes the table; how late it was is no matter of a test."""
    [(_, row)] = hosted_faults.cells(hosted_faults.CLIENTS[:1], ["lost answer"])
    [cell] = row.values()
    assert (cell.outcome, cell.runs) == ("right", 1)


# -- faults, side by side -----------------------------------------------------------------


def rows_of_the_guide() -> list[tuple[str, dict[str, str]]]:
    """The rows of the guide's tables, as the command has them before it lays them out."""
    section = section_of("faults", "Faults, side by side")
    found: dict[str, dict[str, str]] = {}
    for table in docutils.core.publish_doctree(section).findall(docutils.nodes.tgroup):
        head, *rows = (
            [" ".join(cell.astext().split()) for cell in row]
            for row in table.findall(docutils.nodes.row)
        )
        for name, *cells in rows:
            found.setdefault(name, {}).update(zip(head[1:], cells, strict=True))
    return list(found.items())


def test_the_tables_of_faults_are_laid_out_as_the_command_writes_them() -> None:
    """And every client of the command stands there, or is named as one that cannot be had."""
    rows = rows_of_the_guide()
    text = text_of("faults")
    assert faults.as_rst([(mark(name), cells) for name, cells in rows]) in text
    assert re.search(r"^Made on 20\d\d-\d\d-\d\d on ComfyUI [\d.]+, Python [\d.]+\.$", text, re.M)
    words = " ".join(text.split())
    for rival in RIVALS:
        assert rival.name in dict(rows) or f"{rival.name} cannot be installed: " in words


def mark(name: str) -> str:
    """Ours stands out."""
    return OURS.name if name == OURS.name.strip("*") else name


def test_ours_has_every_column_right_in_the_guide() -> None:
    """As the command found it; the test below tries it."""
    ours = dict(rows_of_the_guide())[OURS.name.strip("*")]
    assert list(ours) == list(faults.CAPS)
    assert [cell for cell in ours.values() if "ok" not in cell.split(",")[0].split()] == []


def test_the_comparison_in_the_readme_is_that_of_the_tables() -> None:
    """Five lines, made of a hundred."""

    def right(cells: dict[str, str]) -> int:
        first = [cell.split(",")[0] for cell in cells.values() if "then HANG" not in cell]
        return len([words for words in first if re.match(r"(20 )?ok\b(?! inside)", words)])

    def count(column: str, start: str) -> int:
        return sum(cells[column].startswith(start) for cells in theirs)

    (_, ours), *others = rows_of_the_guide()
    theirs = [cells for _, cells in others]
    clients = {name.split()[0] for name, _ in others}
    best, middle = max(map(right, theirs)), median(map(right, theirs))
    some_hang = sum("HANG" in str(cells) for cells in theirs)
    rows = re.findall(r"^trivial prompt(.*?)  +([\d.]+) x ", text_of("speed"), re.M)
    speed = next(figure for what, figure in rows if what.endswith("with a receiver"))
    first, *_, last = rivals = sorted(figure for what, figure in rows if what.startswith(" by "))
    assert len(rivals) == 3
    assert "HANG" not in str(ours)
    assert f"({len(others)} set-ups of {len(clients)} clients)" in text_of("README")
    table = next(document("README").findall(docutils.nodes.tbody))
    assert [tuple(cell.astext() for cell in row)[1:] for row in table] == [
        (f"{right(ours)}", f"{best} at best, {middle} in the median"),
        ("never", f"{some_hang} of {len(theirs)} hang at least once"),
        ("the picture", f"{count('dark', 'ok')} return the picture, {count('dark', 'HANG')} hang"),
        ("JobLost", f"{count('restart', 'ok')} gives the reason, {count('restart', 'HANG')} hang"),
        (f"{speed} x", f"{first} x to {last} x (three clients)"),
    ]
    assert len(ours) == 10


def test_a_verdict_goes_by_what_the_server_made(tmp_path: Path) -> None:
    """Other bytes of the same picture will do; another picture, or none, will not."""
    (tmp_path / "output").mkdir()
    graph = faults.picture_of()
    stage = faults.Stage(OURS, "cut", SimpleNamespace(root=tmp_path), None, None)  # type: ignore[arg-type]
    blue, again, red = (
        picture(colour, level) for colour, level in (("blue", 1), ("blue", 9), ("red", 1))
    )
    assert blue != again

    def verdict(*pictures: bytes) -> str:
        return stage.verdict(graph, {"pictures": [base64.b64encode(p).decode() for p in pictures]})

    assert verdict(blue) == "ran 0 times"
    made = tmp_path / "output" / f"{faults.name_of(graph)}_00001_.png"
    made.write_bytes(blue)
    assert [verdict(blue), verdict(again), verdict(red)] == ["ok", "ok", "wrong picture"]
    assert verdict() == "no picture"
    assert stage.verdict(graph, None) == "HANG"
    made.with_name(f"{faults.name_of(graph)}_00002_.png").write_bytes(blue)
    assert verdict(blue) == "ran 2 times"


@pytest.mark.parametrize(
    ("error", "cell"),
    [
        (ValueError(f"node {faults.NODE}: {faults.REASON}"), "ok, ValueError"),
        (drivers.Said(f"TestFail: {faults.REASON}"), "ok, returned"),
        (ValueError(faults.REASON), "ValueError, no node"),
        (KeyError("9"), "KeyError, no node or reason"),
    ],
)
def test_an_error_is_judged_by_the_facts_in_its_text(error: Exception, cell: str) -> None:
    """In its text."""
    assert judged(error) == cell


def test_facts_in_attributes_or_causes_of_an_error_are_judged_apart() -> None:
    """In an attribute, or in the text of its cause."""
    error = ValueError("it failed")
    error.node_id = faults.NODE  # type: ignore[attr-defined]
    assert judged(error) == "ValueError, no reason"
    error.__cause__ = RuntimeError(faults.REASON)
    assert judged(error) == "ok inside, ValueError"


def judged(error: Exception) -> str:
    def run(graph: object) -> list[bytes]:
        raise error

    stage = faults.Stage(OURS, "runtime error", None, None, None)  # type: ignore[arg-type]
    return stage.error(drivers.outcome(run, {}))


def picture(colour: str, level: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(file, "PNG", compress_level=level)
    return file.getvalue()


@pytest.mark.real
def test_ours_gives_the_right_answer_in_every_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row of the table, made by the code that makes the others.

    They have the machine for themselves; here it may be busy.
    """
    caps = {column: 4 * seconds for column, seconds in faults.CAPS.items()}
    monkeypatch.setattr(faults, "CAPS", caps)
    ((_, cells),) = faults.cells([OURS], list(faults.CAPS))
    errors = "validation error", "runtime error", "interrupted", "restart"
    classes = {column: cells.pop(column) for column in errors}
    assert list(classes.values()) == [
        "ok, PromptRejected",
        "ok, JobFailed",
        "ok, JobInterrupted",
        "ok, JobLost",
    ]
    assert {column: words for column, words in cells.items() if "ok" not in words.split()} == {}
    assert cells["20 fast"] == "20 ok"


# -- many files --------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.posix("the memory of a process, as Linux tells it")
def test_memory_of_a_check_does_not_grow_with_the_files(tmp_path: Path) -> None:
    """A broken, a huge and two foreign files among them are told apart, and end nothing."""
    one, many, spoilt = many_files.measure(tmp_path, 60, size=80 * many_files.MB)
    assert (one.status, many.status, spoilt.status) == (0, 4, 4)
    assert many.memory < one.memory + 15 * many_files.MB
    assert spoilt.memory < one.memory + 150 * many_files.MB
    assert spoilt.said == f"{many.said}, 2 unreadable; 2 without a workflow skipped"


def test_the_table_of_many_files_is_laid_out_as_the_command_writes_it() -> None:
    section = section_of("ci", "Time and memory")
    [table] = docutils.core.publish_doctree(section).findall(docutils.nodes.tgroup)
    head, *rows = ([cell.astext() for cell in row] for row in table.findall(docutils.nodes.row))
    assert tuple(head) == many_files.HEAD
    assert many_files.as_rst(rows) in text_of("ci")
