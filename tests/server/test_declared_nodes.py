"""Node classes by a definition, in Python and over HTTP, and names of model files."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from comfy_client import ComfyApi, JobFailed
from comfy_client.testing import ComfyServer, declare_node
from tests.helpers.bare import get, post
from tests.helpers.control import PROGRAMS, call
from tests.helpers.graphs import node, picture, png

CAPTION = {
    "input": {"required": {"image": ["IMAGE"], "words": ["INT", {"default": 3, "min": 1}]}},
    "output": ["STRING", "INT"],
    "output_node": False,
}
GRAPH = {
    **picture(),
    "2": node("Caption", image=["1", 0], words=3),
    "3": node("PreviewAny", source=["2", 0]),
}


PNG = png(size=(7, 5))


@pytest.fixture
def server(reset_server: ComfyServer) -> ComfyServer:
    return reset_server


def test_a_declared_class_returns_values(server: ComfyServer, api: ComfyApi) -> None:
    """Its inputs are checked, and it is listed, as its definition says."""
    server.add_node(declare_node("Caption", CAPTION, returns=["a cat"]))
    assert api.run(GRAPH).texts == ("a cat",)
    wrong = {**GRAPH, "2": node("Caption", image=["1", 0], words=0)}
    assert "2" in post(server, "/prompt", {"prompt": wrong}).json()["node_errors"]
    told = get(server, "/object_info/Caption").json()["Caption"]
    assert told.items() >= CAPTION.items()
    assert told["output_name"] == ["STRING", "INT"]


def test_outputs_without_a_value_have_one_of_their_type(server: ComfyServer, api: ComfyApi) -> None:
    definition = {**CAPTION, "output": ["IMAGE", "STRING", "INT"]}
    server.add_node(declare_node("Caption", definition, returns=[PNG, None]))
    graph = {**GRAPH, "4": node("SaveImage", images=["2", 0], filename_prefix="b")}
    graph["3"] = node("PreviewAny", source=["2", 2])
    result = api.run(graph)
    assert result.texts == ("1",)
    assert {image.pil().size for image in result.images} == {(8, 8), (7, 5)}


def test_files_are_written_and_told_by_their_kind(server: ComfyServer, api: ComfyApi) -> None:
    files = {"a.png": PNG, "b.mp4": b"film", "c.flac": b"sound", "d.glb": b"3D", "e.bin": b"x"}
    server.add_node(declare_node("Saver", files=files))
    for number in (1, 2):
        output = api.run({"1": node("Saver", number=number)}).outputs["1"].raw
        names = {
            kind: [each["filename"] for each in output[kind]]
            for kind in output
            if kind != "animated"
        }
        assert names == {
            "images": [f"a_{number:05}_.png", f"b_{number:05}_.mp4"],
            "audio": [f"c_{number:05}_.flac"],
            "3d": [f"d_{number:05}_.glb"],
            "files": [f"e_{number:05}_.bin"],
        }
    assert get(server, "/view?filename=d_00002_.glb").content == b"3D"


def test_a_declared_class_raises_and_takes_its_time(server: ComfyServer, api: ComfyApi) -> None:
    server.add_node(declare_node("Slow", error=KeyError("no"), seconds=0.05))
    with pytest.raises(JobFailed, match="no") as failed:
        api.run({"1": node("Slow")})
    assert failed.value.exception_type == "KeyError"


def test_a_replaced_class_is_there_again_when_the_new_one_is_removed(
    server: ComfyServer, api: ComfyApi
) -> None:
    server.add_node(declare_node("SaveImage", {"input": {"optional": {"images": ["IMAGE"]}}}))
    assert server.added_nodes == ["SaveImage"]
    assert not api.run(picture()).images
    server.remove_node("SaveImage")
    assert api.run(picture()).images
    with pytest.raises(LookupError, match="was added"):
        server.remove_node("SaveImage")


@pytest.mark.parametrize(
    "given",
    [
        {"definition": {"output": "IMAGE"}},
        {"definition": {"input": []}},
        {"definition": {"output": ["INT"]}, "returns": [1, 2]},
        {"definition": {"output": ["IMAGE"]}, "returns": [b"no picture"]},
        {"definition": {"output": ["IMAGE"]}, "returns": [PNG[:-20]]},
        {"error": 5},
        {"seconds": -1},
        {"files": {"a/b.png": b""}},
        {"files": {"..": b""}},
        {"files": {"a.png": "text"}},
    ],
    ids=lambda given: str(given)[:60],
)
def test_wrong_declarations_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        declare_node("Wrong", **given)


# -- over HTTP -------------------------------------------------------------------------------


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_programs_of_any_language_add_node_classes(
    server: ComfyServer, api: ComfyApi, program: Callable[..., tuple[int, Any]]
) -> None:
    nodes = f"{server.control_url}/nodes"
    data = {"class_type": "Caption", "definition": CAPTION, "returns": ["a cat", 3]}
    assert program("POST", nodes, data) == (201, {"class_type": "Caption"})
    assert api.run(GRAPH).texts == ("a cat",)
    assert program("GET", nodes) == (200, {"nodes": ["Caption"]})
    assert program("DELETE", f"{nodes}/Caption") == (200, {"nodes": []})
    assert program("DELETE", f"{nodes}/Caption")[0] == 404
    assert get(server, "/object_info/Caption").json() == {}


def test_files_pictures_errors_and_times_are_data(server: ComfyServer, api: ComfyApi) -> None:
    picture_data = {"base64": base64.b64encode(PNG).decode()}
    data = {
        "class_type": "Make",
        "definition": {"output": ["IMAGE"]},
        "returns": [picture_data],
        "files": [{"name": "a.txt", "text": "hello"}, {"name": "b.png", **picture_data}],
        "seconds": 0.01,
    }
    assert call(server, "POST", "/nodes", data)[0] == 201
    graph = {"1": node("Make"), "2": node("SaveImage", images=["1", 0], filename_prefix="c")}
    assert {image.pil().size for image in api.run(graph).images} == {(7, 5)}
    assert get(server, "/view?filename=a_00001_.txt").text == "hello"
    error = {"type": "torch.OutOfMemoryError", "message": "no memory"}
    call(server, "POST", "/nodes", {"class_type": "Make", "raises": error})
    with pytest.raises(JobFailed, match="no memory"):
        api.run({"1": node("Make")})


def test_model_files_are_there_by_name(server: ComfyServer) -> None:
    names = ["a.safetensors", "sub/b.safetensors"]
    answer = call(server, "POST", "/models", {"folder": "loras", "names": names})
    assert answer == (201, {"folder": "loras", "names": names})
    assert get(server, "/models/loras").json() == names
    server.add_models("checkpoints", "sd15.safetensors")
    info = get(server, "/object_info/CheckpointLoaderSimple").json()
    assert "sd15.safetensors" in json.dumps(info)
    server.reset(keep=["models"])
    assert server.models["loras"] == names


def test_model_files_say_that_they_have_no_weights(server: ComfyServer) -> None:
    """Another file of that name stays as it is."""
    call(server, "POST", "/models", {"folder": "loras", "names": ["a.safetensors", "b.ckpt"]})
    server.add_models("vae", "c.sft", "d.safetensors")
    for kind, name in (("loras", "a.safetensors"), ("vae", "d.safetensors")):
        told = get(server, f"/view_metadata/{kind}?filename={name}")
        assert told.json() == {"simulated": "this file contains no weights"}
    path = server.root / "models/loras/a.safetensors"
    path.write_bytes(b"mine")
    server.add_models("loras", "a.safetensors")
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("path", "data", "kind"),
    [
        ("/nodes", {}, "invalid"),
        ("/nodes", {"class_type": 5}, "invalid"),
        ("/nodes", {"class_type": "a" * 201}, "invalid"),
        ("/nodes", {"class_type": "A", "definition": []}, "invalid"),
        ("/nodes", {"class_type": "A", "definition": {"output": 5}}, "invalid"),
        ("/nodes", {"class_type": "A", "returns": [1]}, "invalid"),
        ("/nodes", {"class_type": "A", "seconds": 1e9}, "invalid"),
        ("/nodes", {"class_type": "A", "seconds": "1"}, "invalid"),
        ("/nodes", {"class_type": "A", "raises": {}}, "invalid"),
        ("/nodes", {"class_type": "A", "files": 5}, "invalid"),
        ("/nodes", {"class_type": "A", "files": [5]}, "invalid"),
        ("/nodes", {"class_type": "A", "files": [{"name": "a"}]}, "invalid"),
        ("/nodes", {"class_type": "A", "files": [{"name": "../a", "text": ""}]}, "invalid"),
        ("/nodes", {"class_type": "A", "files": [{"name": "a", "base64": "?"}]}, "invalid"),
        ("/nodes", {"class_type": "A", "retruns": []}, "unknown_member"),
        ("/models", {"folder": "loras"}, "invalid"),
        ("/models", {"folder": "lora", "names": []}, "unknown_folder"),
        ("/models", {"folder": "loras", "names": "a.safetensors"}, "invalid"),
        ("/models", {"folder": "loras", "names": [5]}, "invalid"),
        ("/models", {"folder": "loras", "names": ["a.txt"]}, "invalid"),
        ("/models", {"folder": "loras", "names": ["../a.safetensors"]}, "invalid"),
        ("/models", {"folder": "loras", "names": ["/a.safetensors"]}, "invalid"),
        ("/models", {"folder": "loras", "names": ["a.safetensors\0"]}, "invalid"),
    ],
    ids=str,
)
def test_wrong_nodes_and_models_are_refused(
    server: ComfyServer, path: str, data: Any, kind: str
) -> None:
    status, content = call(server, "POST", path, data)
    assert (status, content["error"]["type"]) == (400, kind)
    assert (server.added_nodes, server.models["loras"]) == ([], [])
