"""Files as values of inputs, until the workflow is submitted."""

from __future__ import annotations

import copy
import io
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from comfy_client import Graph, MissingExtra, Template, Upload, Workflow, WorkflowError
from comfy_client.batch.grid import Grid
from comfy_client.models import UploadedImage

PICTURE = Image.new("RGB", (8, 8), "red")
DEFINITIONS: dict[str, Any] = {
    "LoadImage": {
        "input": {"required": {"image": [["a.png"], {"image_upload": True}]}},
        "output": ["IMAGE", "MASK"],
    },
    "Text": {"input": {"required": {"text": ["STRING", {}]}}, "output": ["STRING"]},
    "SaveImage": {
        "input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING", {}]}},
        "output": [],
        "output_node": True,
    },
}


def loads(image: Any = "a.png", title: str = "Load Image") -> dict[str, Any]:
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": image}, "_meta": {"title": title}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }


def test_a_file_is_kept_until_the_workflow_is_submitted(tmp_path: Path) -> None:
    """However it is set; in a dict, too."""
    path = tmp_path / "photo.png"
    path.write_bytes(b"x")
    for value in (path, b"x", PICTURE, np.zeros((8, 8)), io.BytesIO(b"x"), Upload("data:,x")):
        workflow = Workflow(loads())
        workflow["Load Image"]["image"] = value
        assert isinstance(workflow["Load Image"]["image"], Upload)
        workflow.set({"Load Image.image": value})
        assert isinstance(workflow["1"].inputs["image"], Upload)
        assert isinstance(Workflow(loads(value))["1"]["image"], Upload)


def test_a_picture_is_taken_as_it_is_when_it_is_set() -> None:
    """What is changed in it later does not count."""
    pixels = np.zeros((8, 8), np.uint8)
    workflow = Workflow(loads(pixels))
    pixels[0] = 9
    assert workflow == Workflow(loads(np.zeros((8, 8), np.uint8)))
    assert workflow != Workflow(loads(pixels))


def test_a_workflow_with_a_file_is_copied_compared_pickled_and_shown() -> None:
    """As any other."""
    workflow = Workflow(loads(PICTURE))
    for twin in (
        workflow.copy(),
        copy.deepcopy(workflow),
        pickle.loads(pickle.dumps(workflow)),
        Workflow(workflow.to_dict()),
    ):
        assert twin == workflow
        twin["1"]["image"] = "a.png"
        assert twin != workflow
    assert "<Upload " in str(workflow)
    assert "&lt;Upload " in workflow._repr_mimebundle_()["text/html"]


def test_json_cannot_carry_a_file_and_says_what_to_do(tmp_path: Path) -> None:
    """Nothing is saved that lacks its picture."""
    workflow = Workflow(loads(PICTURE))
    for save in (workflow.to_json, lambda: workflow.save(tmp_path / "a.json")):
        with pytest.raises(
            WorkflowError, match=r"'Load Image' \(LoadImage\), input 'image'.*api.upload_image"
        ):
            save()
    assert not list(tmp_path.iterdir())


def test_a_text_stays_a_name_on_the_server() -> None:
    """Only ComfyUI's own loaders take a data URL for what it is, and no other URL."""
    workflow = Workflow(loads() | {"3": {"class_type": "Text", "inputs": {"text": ""}}})
    for text in ("photo.png", "/etc/passwd", "data:,x", "https://example.org/a.png"):
        workflow["Text"]["text"] = text
        assert workflow["Text"]["text"] == text
    workflow["Load Image"]["image"] = "photo.png"
    assert workflow["Load Image"]["image"] == "photo.png"
    workflow["Load Image"]["image"] = "data:,x"
    assert workflow["Load Image"]["image"] == Upload(b"x")
    with pytest.raises(WorkflowError, match="fetch=True"):
        workflow["Load Image"]["image"] = "https://example.org/a.png"
    assert Workflow(loads("https://example.org/a.png"))["1"]["image"].startswith("https")


def test_an_upload_is_named_by_its_reference() -> None:
    """JSON has that."""
    workflow = Workflow(loads())
    workflow["1"]["image"] = UploadedImage("a.png", "b", "temp")
    assert workflow["1"]["image"] == "b/a.png [temp]"
    workflow["1"]["image"] = UploadedImage("a [output]")
    assert workflow["1"]["image"] == "a [output] [input]"


def test_files_that_cannot_be_sent_are_refused_when_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the node and the input; the workflow stays as it was."""
    workflow = Workflow(loads())
    workflow["1"].set("ckpt_name", "a.ckpt", force=True)
    before = workflow.copy()
    with pytest.raises(FileNotFoundError):
        workflow["1"]["image"] = tmp_path / "none.png"
    with pytest.raises(WorkflowError, match="'image': an array of the shape"):
        workflow["1"]["image"] = np.zeros((3, 8, 8))
    with pytest.raises(WorkflowError, match="not the name of a model"):
        workflow["1"]["ckpt_name"] = Path(__file__)
    with pytest.raises(WorkflowError, match="is linked"):
        workflow["2"]["images"] = PICTURE
    with pytest.raises(WorkflowError, match=r"node 1.*an array of the shape"):
        Workflow(loads(np.zeros((3, 8, 8))))
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(MissingExtra, match=r"\[numpy\]"):
        workflow["1"]["image"] = np.zeros((8, 8))
    assert workflow == before


def test_a_file_passes_the_check() -> None:
    """It will be there; but it is none of the choices of other inputs."""
    workflow = Workflow(loads(PICTURE))
    assert workflow.check(DEFINITIONS).ok
    workflow["1"]["image"] = "none.png"
    assert not workflow.check(DEFINITIONS).ok
    closed = {"LoadImage": {"input": {"required": {"image": [["a.png"], {}]}}, "output": ["IMAGE"]}}
    assert not Workflow(loads(PICTURE)).check(DEFINITIONS | closed).ok


def test_a_graph_and_a_template_take_files() -> None:
    """As an input of a new node, or of one with a name."""
    graph = Graph(DEFINITIONS)
    image = graph.node("LoadImage", {"image": PICTURE})
    graph.node("SaveImage", {"images": image, "filename_prefix": "x"})
    assert isinstance(graph.workflow()["1"]["image"], Upload)
    with pytest.raises(WorkflowError, match="an output of type IMAGE"):
        graph.node("SaveImage", {"images": PICTURE, "filename_prefix": "x"})
    template = Template(loads(), inputs={"photo": "Load Image.image"})
    assert isinstance(template(photo=PICTURE)["1"]["image"], Upload)


def test_points_of_a_grid_with_the_same_file_have_the_same_digest(tmp_path: Path) -> None:
    """Wherever it comes from; another content has another one."""
    path = tmp_path / "a.png"
    path.write_bytes(b"1")
    grid = Grid(loads(), {"Load Image.image": [path, b"1", b"2", path]})
    digests = [grid.digest(point) for point in range(4)]
    assert digests[0] == digests[3] != digests[1] != digests[2]
    again = Grid(loads(title="another"), {"1.image": [path, b"1", b"2"]})
    assert [again.digest(point) for point in range(3)] == digests[:3]
    path.write_bytes(b"two")
    assert grid.digest(0) != digests[0]


def test_a_missing_file_says_where_an_example_is(tmp_path: Path) -> None:
    """For those who begin with the README."""
    with pytest.raises(FileNotFoundError) as caught:
        Workflow.load(tmp_path / "txt2img.json")
    assert caught.value.__notes__ == [
        "Workflow.example().save('txt2img.json') makes one, or comfy-client example > txt2img.json"
    ]
