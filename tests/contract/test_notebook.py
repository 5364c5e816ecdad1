"""The notebook runs from start to end, as in Jupyter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from comfy_client.testing import ComfyServer
from tests.comfyui import ComfyUI

QUICKSTART = Path(__file__).parents[1] / "notebooks" / "quickstart.ipynb"


def html(cell: Any) -> list[str]:
    """What the outputs of a cell show."""
    data = [output.get("data", {}) for output in cell.outputs]
    return ["".join(each["text/html"]) for each in data if "text/html" in each]


@pytest.mark.timeout(600)  # a real one computes it on the CPU
def test_the_quickstart_runs_and_shows_what_it_promises(
    comfyui: ComfyServer | ComfyUI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a kernel of its own, whose displays end as galleries; its file stays small."""
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.delenv("COMFY_PROGRESS", raising=False)
    text = QUICKSTART.read_text(encoding="utf-8").replace("http://127.0.0.1:8188", comfyui.url)
    notebook = nbformat.reads(text, as_version=4)
    runner = client.NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}
    )
    runner.execute()

    cells = {cell.source.splitlines()[0]: cell for cell in notebook.cells if cell.get("outputs")}
    [run] = html(cells["result = api.run(wf)"])
    assert "data:image/webp;base64," in run
    assert "seed 7, Save" in run
    [again] = html(cells["api.run(wf)"])  # one display, though the value is shown, too
    assert "from the cache" in again
    [table] = html(cells["checkpoint = api.get_checkpoints()[0]"])
    assert "Positive prompt" in table
    [sheet] = html(
        cells['rows = api.sweep(wf, {"Sampler.seed": [1, 2], "Sampler.cfg": [4.0, 8.0]})']
    )
    assert sheet.count("data:image/webp;base64,") == 4
    assert "4 rows, 0 failed" in sheet
    [grid] = [
        each for each in cells['rows.save("out/{seed}_{cfg}{ext}")'].outputs if "data" in each
    ]
    assert "image/png" in grid["data"]
    said = "".join(each.get("text", "") for each in cells["def steps(api, event):"].outputs)
    assert "4/4" in said
    assert len(list((tmp_path / "out").iterdir())) == 5
    assert len(nbformat.writes(notebook)) < 1 << 20


def test_the_notebook_is_kept_without_outputs() -> None:
    """They would change with each run."""
    assert '"outputs": []' in QUICKSTART.read_text(encoding="utf-8")
    assert "base64" not in QUICKSTART.read_text(encoding="utf-8")
