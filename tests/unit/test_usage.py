"""How busy a machine is, as people see it: a line of text, and meters below a cell."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_client.cli.watch_command import line_of
from comfy_client.events import FROM_SERVER
from comfy_client.showing.usage import UsageView, usage_line
from tests.helpers.hostile_values import JSON
from tests.helpers.notebooks import Notebook

GPU = {
    "gpu_utilization": 93,
    "gpu_temperature": 61,
    "vram_total": 24 * 2**30,
    "vram_used": 3 * 2**33,
    "vram_used_percent": 100.0,
}
DATA = {
    "cpu_utilization": 12.5,
    "ram_total": 2**34,
    "ram_used": 2**32,
    "ram_used_percent": 25.0,
    "hdd_total": -1,
    "hdd_used": -1,
    "hdd_used_percent": -1,
    "device_type": "cuda",
    "gpus": [GPU],
}
LINE = "CPU 12 %, memory 4.0 of 16.0 GiB, GPU 0 93 % 61 °C, GPU 0 memory 24.0 of 24.0 GiB"


def figures(data: Any) -> dict[str, Any]:
    return FROM_SERVER["crystools.monitor"](data).to_dict()


def test_the_line_of_a_machine_has_what_is_measured() -> None:
    assert usage_line(figures(DATA)) == LINE
    assert line_of(figures(DATA))[9:] == f"monitor     {LINE}"
    assert line_of({**figures(DATA), "server": "http://gpu:8188"}).startswith("gpu:8188 ")


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({}, "nothing is measured"),
        ({"ram_used": 2**30}, "memory 1.0 GiB"),
        ({"ram_total": 2**30}, "nothing is measured"),
        ({"ram_used_percent": 44.7}, "memory 45 %"),
        ({"gpus": [{"gpu_temperature": 50}]}, "GPU 0 50 °C"),
    ],
)
def test_parts_of_the_figures_are_enough(data: dict[str, Any], line: str) -> None:
    assert usage_line(figures(data)) == line


@given(st.dictionaries(st.sampled_from([*DATA]), JSON), st.lists(JSON, max_size=3))
def test_any_figures_make_a_short_line(data: dict[str, Any], gpus: list[Any]) -> None:
    spoilt = [dict.fromkeys(GPU, value) for value in gpus]
    line = usage_line(figures({**data, "gpus": [*spoilt, *gpus]}))
    assert len(line) < 1000
    assert line.isprintable()


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    return Notebook(monkeypatch)


def test_meters_are_updated_in_place(notebook: Notebook) -> None:
    """One display per cell that shows them; nothing of a server is HTML."""
    view = UsageView("http://gpu<1>:8188")
    view.display()
    assert "no figures yet" in notebook.last
    assert "gpu&lt;1&gt;:8188" in notebook.last
    view.update(figures(DATA))
    assert notebook.displays == 1
    assert notebook.last.count("width:25.0%") == 1  # of the memory
    assert "93 % 61 °C" in notebook.last
    assert notebook.shown[-1]["text/plain"].startswith(f"http://gpu<1>:8188: {LINE} (")
    view.display()
    assert notebook.displays == 2
    assert "93 % 61 °C" in notebook.last


def test_a_full_memory_is_red(notebook: Notebook) -> None:
    view = UsageView("server", period=0)
    view.display()
    view.update(figures({**DATA, "gpus": []}))
    assert "#d9483b" not in notebook.last
    view.update(figures(DATA))
    assert "#d9483b" in notebook.last


def test_meters_are_drawn_a_few_times_a_second_at_most(notebook: Notebook) -> None:
    """However often figures come."""
    view = UsageView("server", period=60)
    view.display()
    for _ in range(100):
        view.update(figures(DATA))
    assert len(notebook.shown) == 2


def test_a_notebook_that_is_gone_stops_no_events(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("gone")

    def handle() -> Any:
        return SimpleNamespace(display=lambda *_, **__: None, update=fail)

    monkeypatch.setattr(notebook, "DisplayHandle", handle)
    view = UsageView("server")
    view.display()
    with caplog.at_level(logging.DEBUG, "comfy_client"):
        view.update(figures(DATA))
    assert "the use of a machine is not shown: " in caplog.text
    assert "gone" in caplog.text
