"""How a bar looks: in a terminal, as lines, and in a notebook."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import sys
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from comfy_client.showing.bars import (
    LogBar,
    Moment,
    NotebookBar,
    Preview,
    TerminalBar,
    Ticker,
    clock,
    make_bar,
)
from comfy_client.showing.html import bundle
from comfy_client.showing.screen import Surface
from tests.helpers.interrupts import in_time


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Notebook:
    """Counts displays, and keeps what each shows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shown: dict[str, dict[str, str]] = {}
        from IPython import display

        monkeypatch.setattr(display.DisplayHandle, "display", self._put)
        monkeypatch.setattr(display.DisplayHandle, "update", self._put)

    def _put(self, data: dict[str, str], *, raw: bool) -> None:
        handle: Any = sys._getframe(1).f_locals["self"]._handle
        assert raw
        self.shown[handle.display_id] = data

    @property
    def html(self) -> str:
        [data] = self.shown.values()
        return data["text/html"]


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    return Notebook(monkeypatch)


HALF = Moment(0.5, "KSampler 10/20", elapsed=61, left=58.2)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0:00"), (59.9, "0:59"), (750, "12:30"), (3723, "1:02:03"), (-5, "0:00")],
)
def test_a_clock_is_short(seconds: float, expected: str) -> None:
    """Minutes and seconds; hours only if there are some."""
    assert clock(seconds) == expected


@given(st.floats())
def test_a_clock_stands_any_number(seconds: float) -> None:
    """Those of a server's making, too."""
    assert len(clock(seconds)) <= 8


def test_a_terminal_shows_node_steps_and_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """On one line of stderr."""
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    bar = TerminalBar()
    bar.show(HALF)
    assert "KSampler 10/20   50%|" in terminal.getvalue()
    assert terminal.getvalue().endswith("| 1:01, about 0:59 left")
    bar.end(Moment(1.0, elapsed=120, ended="done"), None)
    assert terminal.getvalue().endswith("| 2:00\n")


@pytest.mark.posix("terminals as files")
def test_a_terminal_that_says_no_width_shows_the_bar_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of ``docker run -t``: it has 0 columns."""
    ours, theirs = os.openpty()
    with open(ours, "rb", buffering=0) as shown, open(theirs, "w") as stderr:
        assert os.get_terminal_size(theirs).columns == 0
        monkeypatch.setattr(sys, "stderr", stderr)
        TerminalBar().show(HALF)
        print("END", file=stderr, flush=True)
        text = b""
        while b"END" not in text:
            text += shown.read(4096)
    assert "KSampler 10/20   50%|" in text.decode()


@pytest.mark.parametrize("surface", ["terminal", "lines", "log"])
def test_a_bar_of_a_short_run_leaves_nothing(
    surface: Surface, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A loop of short runs leaves no line for each."""
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    bar = make_bar(surface, "x", 60.0)
    with caplog.at_level(logging.INFO, "comfy_client"):
        assert Ticker(bar, lambda: HALF, 60.0).tick() > 50
        bar.end(Moment(1.0, ended="done"), None)
    assert not terminal.getvalue()
    assert not caplog.records


@given(st.text())
def test_no_title_of_a_node_commands_a_terminal(title: str) -> None:
    """Nor does a brace in one mean anything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", terminal := Terminal())
        TerminalBar().show(Moment(0.5, "\x1b[2J{bar}" + title))
    assert "\x1b" not in terminal.getvalue().replace("\x1b[A", "")


class Gone(Terminal):
    """A terminal that was closed."""

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize("surface", ["terminal", "lines"])
@pytest.mark.parametrize("stderr", [Gone(), None])
def test_a_screen_that_is_gone_does_not_matter_to_the_run(
    surface: Surface, stderr: Terminal | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is raised, whatever fails."""
    monkeypatch.setattr(sys, "stderr", stderr)
    bar = make_bar(surface, "x", 0.0)
    bar.show(HALF)
    bar.clear()
    bar.end(Moment(1.0, ended="done"), None)


@pytest.mark.parametrize("surface", ["terminal", "lines"])
@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "latin-1", "ascii"])
def test_letters_that_a_screen_lacks_are_escaped(
    surface: Surface, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bar is shown, as the program's own stderr may be strict."""
    stderr = io.TextIOWrapper(shown := io.BytesIO(), encoding, write_through=True)
    monkeypatch.setattr(sys, "stderr", stderr)
    bar = make_bar(surface, "x", 0.0)
    bar.show(Moment(0.5, "\u72d0 steps", elapsed=61))
    bar.end(Moment(1.0, elapsed=120, ended="failed: \U0001f98a"), None)
    assert rb"\u72d0 steps" in shown.getvalue()
    assert rb"failed: \U0001f98a" in shown.getvalue()


def test_a_notebook_that_fails_does_not_matter_to_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not asked again."""
    from IPython import display

    def fail(*_: object, **__: object) -> None:
        failed.append(1)
        raise RuntimeError("no kernel")

    failed: list[int] = []
    monkeypatch.setattr(display.DisplayHandle, "display", fail)
    bar = make_bar("notebook", "x", 0.0)
    bar.show(HALF)
    bar.end(Moment(1.0, ended="done"), {"text/html": "x"})
    assert failed == [1]


@pytest.mark.posix("a way to tell whether a pipe is full")
def test_a_pipe_that_nobody_reads_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lines are lost."""
    reading, writing = os.pipe()
    with open(writing, "w") as pipe, open(reading):
        os.set_blocking(writing, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, bytes(4096))
        os.set_blocking(writing, True)
        monkeypatch.setattr(sys, "stderr", pipe)
        bar = make_bar("lines", "a run", 0.0)
        in_time(lambda: bar.show(Moment(0.5)))


def test_lines_come_for_each_tenth_and_for_the_end() -> None:
    """However often it is asked."""
    lines: list[str] = []
    bar = LogBar(lines.append, 0.0)
    for at in range(1000):
        bar.show(Moment(at / 1000, "KSampler", elapsed=at / 10))
    bar.end(Moment(1.0, elapsed=100, ended="done"), None)
    assert len(lines) == 10
    assert lines[0] == "10 %, KSampler, 0:10"
    assert lines[-1] == "done, 1:40"


def test_a_line_is_written_when_a_run_waits_and_when_it_goes_on() -> None:
    """One line each, whatever its place in the queue; a run that does not wait has none of them."""
    lines: list[str] = []
    bar = LogBar(lines.append, 0.0)
    for ahead in (3, 2, 1):
        bar.show(Moment(0.0, f"waiting, {ahead} ahead", phase="waiting"))
    bar.show(Moment(0.0, "KSampler", elapsed=4.0))
    bar.show(Moment(0.15, "KSampler 3/20", elapsed=5.0))
    bar.show(Moment(0.15, "no answer for 20 s", elapsed=25.0, phase="silent"))
    bar.show(Moment(0.2, "KSampler 4/20", elapsed=26.0))
    assert lines == [
        "waiting, 3 ahead, 0:00",
        "KSampler, 0:04",
        "10 %, KSampler 3/20, 0:05",
        "no answer for 20 s, 0:25",
        "20 %, KSampler 4/20, 0:26",
    ]


def test_a_notebook_has_one_display_which_ends_as_the_outcome(notebook: Notebook) -> None:
    """The file of the notebook keeps only that."""
    bar = NotebookBar()
    bar.show(HALF)
    assert "KSampler 10/20" in notebook.html
    assert "50 %" in notebook.html
    bar.end(Moment(1.0, ended="done"), bundle("a result", "<b>pictures</b>"))
    assert "<b>pictures</b>" in notebook.html
    assert "KSampler" not in notebook.html


def test_a_notebook_keeps_the_preview_of_what_was_stopped(notebook: Notebook) -> None:
    """And says how it ended."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "JPEG")
    bar = NotebookBar()
    bar.end(Moment(0.5, preview=Preview(file.getvalue()), ended="stopped"), None)
    assert not notebook.shown  # it had shown nothing
    bar.show(HALF)
    bar.end(Moment(0.5, preview=Preview(file.getvalue()), ended="stopped"), None)
    assert "data:image/jpeg;base64," in notebook.html
    assert "stopped" in notebook.html


@given(st.text(), st.binary())
def test_a_notebook_is_handed_no_markup_of_a_server(title: str, data: bytes) -> None:
    """Titles are escaped, and pictures are pictures."""
    with pytest.MonkeyPatch.context() as patch:
        notebook = Notebook(patch)
        moment = Moment(0.5, f"<script>{title}", preview=Preview(b"<svg onload=x>" + data))
        NotebookBar().show(moment)
    assert "<script" not in notebook.html
    assert "<img" not in notebook.html


# -- what else there is ---------------------------------------------------------------------


def test_a_narrow_terminal_has_room_for_the_bar_and_its_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In 40 columns, with a title that is longer."""
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    bar = TerminalBar()
    bar.show(Moment(0.5, "A rather long title of a node", elapsed=61, left=58.2))
    assert terminal.getvalue().endswith("| 1:01, 0:59 left")
    assert "A rathe...   50%|" in terminal.getvalue()


def test_a_terminal_shows_no_meter_of_what_has_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only how many are done, and for how long it has gone on."""
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    bar = TerminalBar()
    bar.show(Moment(None, "12 done", elapsed=61))
    assert terminal.getvalue() == "\r12 done  1:01"


def test_a_terminal_shows_notes_below_the_bar_until_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A line for each, a few at most."""
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    bar = TerminalBar()
    bar.show(attrs.evolve(HALF, notes=("a ready, 2 jobs", "b down")))
    assert "\n\ra ready, 2 jobs\x1b[A" in terminal.getvalue()
    assert "\n\n\rb down\x1b[A\x1b[A" in terminal.getvalue()
    bar.clear()
    bar.show(attrs.evolve(HALF, notes=tuple("abcdef")))
    assert "and 3 more" in terminal.getvalue()
    terminal.truncate(0)
    bar.end(Moment(1.0, elapsed=120, ended="done"), None)
    assert "ready" not in terminal.getvalue()
    assert terminal.getvalue().endswith("| 2:00\n")


def test_a_notebook_shows_notes_below_the_bar(notebook: Notebook) -> None:
    """Escaped."""
    NotebookBar().show(attrs.evolve(HALF, notes=("a <ready>",)))
    assert '<div style="opacity:.7">a &lt;ready&gt;</div>' in notebook.html


def test_a_notebook_shows_no_meter_of_what_has_no_end(notebook: Notebook) -> None:
    """Nor a percentage."""
    NotebookBar().show(Moment(None, "12 done"))
    assert "12 done" in notebook.html
    assert "%" not in notebook.html


def test_nested_bars_are_drawn_one_at_a_time(notebook: Notebook) -> None:
    """A bar within another shows its outcome; after the end of the outer one there are others."""
    outer, inner = (make_bar("notebook", "x", 0.0) for _ in range(2))
    outer.show(HALF)
    assert Ticker(inner, lambda: HALF, 0.0).tick() == math.inf
    inner.show(HALF)
    assert len(notebook.shown) == 1
    inner.end(Moment(1.0), bundle("a result", "<b>pictures</b>"))
    assert len(notebook.shown) == 2
    outer.end(Moment(1.0), None)
    make_bar("notebook", "x", 0.0).show(HALF)
    assert len(notebook.shown) == 3


def test_a_bar_that_was_forgotten_holds_back_no_other(notebook: Notebook) -> None:
    """As that of a generator that nobody has any more."""
    make_bar("notebook", "x", 0.0).show(HALF)
    make_bar("notebook", "x", 0.0).show(HALF)
    assert len(notebook.shown) == 2


def test_a_bar_is_drawn_again_after_it_was_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what it showed, if it is too early for more; not before it was shown at all."""
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    bar = make_bar("terminal", "x", 0.0)
    ticker = Ticker(bar, lambda: HALF, 60.0)
    ticker.redraw()
    assert not terminal.getvalue()
    ticker = Ticker(bar, lambda: HALF, 0.0)
    ticker.tick()
    bar.clear()
    terminal.truncate(0)
    ticker.redraw()
    assert terminal.getvalue().endswith("| 1:01, about 0:59 left")
