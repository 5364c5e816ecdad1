"""Templates that are run: outputs by their names."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from comfy_client import ComfyApi, Result, Template, WorkflowError
from tests.helpers.graphs import canvas, node


def two_pictures() -> dict[str, Any]:
    """One is saved, the other one shown."""
    return {
        "1": canvas(),
        "8": {
            **node("SaveImage", images=["1", 0], filename_prefix="a"),
            "_meta": {"title": "Keep"},
        },
        "9": node("PreviewImage", images=["1", 0]),
    }


DRAW = Template(
    two_pictures(),
    inputs={"color": "EmptyImage.color", "size": ["1.width", "1.height"]},
    outputs={"kept": "Keep", "shown": "PreviewImage"},
)


def checked(result: Result) -> Result:
    """It has the outputs of both nodes under their names, and as before."""
    assert list(result.outputs) == ["kept", "shown"]
    assert result.outputs["kept"] is result.nodes["8"] is result["Keep"] is result.outputs["8"]
    assert result.outputs["shown"].images[0].type == "temp"
    return result


def test_a_result_has_the_outputs_by_the_names_of_the_template(api: ComfyApi) -> None:
    """However the prompt was submitted."""
    result = checked(api.run(DRAW(color=5, size=16)))
    assert result.outputs["kept"].images[0].filename.startswith("a_")
    job = api.submit(DRAW(), {"1.color": 6})
    checked(job.result(30))
    assert job.graph["1"]["inputs"]["color"] == 6
    for each in api.map(DRAW(color=color) for color in (7, 8)):
        checked(each)
    for each in api.map(DRAW(), [{"1.color": 9}]):
        checked(each)
    checked(pickle.loads(pickle.dumps(result)))


def test_rows_of_a_sweep_have_them_too(api: ComfyApi, journal: Any) -> None:
    """Those out of the journal as well."""
    for _ in range(2):
        for row in api.sweep(DRAW(), {"1.color": [1, 2]}, journal=journal):
            assert row.result is not None
            checked(row.result)


def test_a_job_that_is_attached_with_the_filled_template_has_them(server: Any, api: Any) -> None:
    """Another client knows nothing of the names."""
    job = api.submit(DRAW())
    checked(job.result(30))
    with ComfyApi(server.url) as other:
        checked(other.job(job.prompt_id, DRAW()).result(30))


def test_without_a_template_outputs_are_by_node_id(api: ComfyApi) -> None:
    """And are found by title and class, as with one."""
    result = api.run(two_pictures())
    assert result.outputs == result.nodes
    for name in ("8", 8, "Keep", "SaveImage"):
        assert result.outputs[name] is result.nodes["8"]  # type: ignore[index]


def test_an_output_that_there_is_not_is_named_with_those_that_there_are(api: ComfyApi) -> None:
    """A name of the template whose node left nothing, and one that nobody gave."""
    result = api.run(DRAW(), partial_execution_targets=["8"])
    assert list(result.outputs) == ["kept"]
    with pytest.raises(WorkflowError, match="there are outputs of: Keep"):
        result.outputs["shown"]
    with pytest.raises(WorkflowError, match="no output of a node 'kep'"):
        result.outputs["kep"]
    assert result.outputs.get("shown") is None
