"""The notebook runs from start to end, as in Jupyter."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import nbformat
import pytest

from comfy_client.testing import ComfyServer
from tests.comfyui import ComfyUI
from tests.helpers.kernels import execute

QUICKSTART = files("comfy_client") / "quickstart.ipynb"
TXT2IMG = Path(__file__).parents[1] / "workflows" / "txt2img_tiny.json"


def html(cell: Any) -> list[str]:
    """What the outputs of a cell show."""
    data = [output.get("data", {}) for output in cell.outputs]
    return ["".join(each["text/html"]) for each in data if "text/html" in each]


Run = Callable[[Any], None]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a notebook from start to end, on a kernel of its own."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.delenv("COMFY_PROGRESS", raising=False)

    def run(notebook: Any) -> None:
        resources = {"metadata": {"path": str(tmp_path)}}
        execute(notebook, resources=resources)

    return run


@pytest.mark.timeout(600)  # a real one computes it on the CPU
def test_the_quickstart_runs_and_shows_what_it_promises(
    comfyui: ComfyServer | ComfyUI, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its displays end as galleries; its file stays small.  The server is that of COMFYUI_HOST."""
    monkeypatch.setenv("COMFYUI_HOST", comfyui.url)
    notebook = nbformat.reads(QUICKSTART.read_text(encoding="utf-8"), as_version=4)
    run(notebook)

    cells = {cell.source.splitlines()[0]: cell for cell in notebook.cells if cell.get("outputs")}
    [first] = html(cells["result = api.run(wf)"])
    assert "data:image/webp;base64," in first
    assert "seed 7, Save" in first
    [again] = html(cells["api.run(wf)"])  # one display, though the value is shown, too
    assert "from the cache" in again
    [table] = html(cells["checkpoint = api.get_checkpoints()[0]"])
    assert "Positive prompt" in table
    assert "a lighthouse at dusk" in table
    [sheet] = html(
        cells['rows = api.sweep(wf, {"Sampler.seed": [1, 2], "Sampler.cfg": [4.0, 8.0]})']
    )
    assert sheet.count("data:image/webp;base64,") == 4
    assert "4 rows, 0 failed" in sheet
    [looked_at] = html(cells['api.pixels(wf, "Decode")'])
    assert "data:image/webp;base64," in looked_at
    [grid] = [
        each for each in cells['rows.save("out/{seed}_{cfg}{ext}")'].outputs if "data" in each
    ]
    assert "image/png" in grid["data"]
    said = "".join(each.get("text", "") for each in cells["def steps(api, event):"].outputs)
    assert "4/4" in said
    assert len(list((tmp_path / "out").iterdir())) == 5
    assert len(nbformat.writes(notebook)) < 1 << 20


#: What shows itself at the end of a cell: how it begins as text, and what stands in its HTML.
SHOWN = {
    "result": ("<Result 1 image, seed 7, ", "data:image/webp;base64,"),
    "result.image": ("<OutputFile '", "seed 7"),
    "job": ("<Job ", "prompt "),
    "rows": ("<Sweep of 2 rows, 0 failed>", "2 rows, 0 failed"),
    "wf": ("<Workflow 7 nodes: ", "euler"),
    "api.doctor()": ("comfy_client doctor: 0 failed", "websocket"),
    "api.get_system_stats()": ("<SystemStats ComfyUI ", "GiB free"),
    "api.get_queue()": ("<Queue 0 running, 0 pending>", "0 running, 0 pending"),
}


@pytest.mark.long
@pytest.mark.timeout(600)
def test_values_show_themselves_as_html_and_as_a_short_text(
    comfyui: ComfyServer | ComfyUI, run: Run
) -> None:
    """Through the formatters of a real IPython."""
    begin = f"""
from comfy_client import ComfyApi, Workflow
api = ComfyApi({comfyui.url!r})
wf = Workflow.load({str(TXT2IMG)!r})
wf["KSampler"]["seed"] = 7
job = api.submit(wf)
result = job.result()
rows = api.sweep(wf, {{"KSampler.cfg": [4.0, 5.0]}}, progress=False)
"""
    cells = [nbformat.v4.new_code_cell(source) for source in (begin, *SHOWN)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    run(notebook)
    for cell, (text, part) in zip(notebook.cells[1:], SHOWN.values(), strict=True):
        [output] = cell.outputs
        assert output.data["text/plain"].startswith(text)
        assert part in output.data["text/html"]


def test_the_notebook_is_kept_without_outputs() -> None:
    """They would change with each run."""
    assert '"outputs": []' in QUICKSTART.read_text(encoding="utf-8")
    assert "base64" not in QUICKSTART.read_text(encoding="utf-8")
