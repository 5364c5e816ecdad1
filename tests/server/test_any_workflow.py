"""Workflows of node classes of which the embedded server knows the definitions only."""

from __future__ import annotations

import gzip
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from comfy_client import ComfyApi
from comfy_client.errors import JobInterrupted, PromptRejected
from comfy_client.testing import ComfyServer
from comfy_client.testing.definitions import SHIPPED, read_definitions
from tests.helpers import bare, conformance
from tests.helpers.bare import LIMIT, end_of, entry_of
from tests.helpers.graphs import canvas, node
from tests.helpers.prose import values
from tests.shipped_definitions import packed, path_of

#: The workflows whose prompts a ComfyUI refuses, since required inputs are missing.
REFUSED = {
    "crafted145_mute_upstream.json (crafted)",
    "crafted158_mute_upstream.json (crafted)",
}
VERSIONS = [("0.3.75", 147), ("0.28.1", 304)]


@pytest.fixture(scope="module")
def any_workflow() -> Iterator[ComfyServer]:
    """A server with all classes of 0.28.1, in no time."""
    with ComfyServer(object_info="0.28.1", step_seconds=0, previews=False) as running:
        yield running


@pytest.fixture
def api(any_workflow: ComfyServer) -> Iterator[ComfyApi]:
    with ComfyApi(any_workflow.url) as client:
        yield client


def post(server: ComfyServer, prompt: Any) -> tuple[int, dict[str, Any]]:
    """The status and the answer to a prompt."""
    answer = bare.post(server, "/prompt", {"prompt": prompt})
    return answer.status_code, answer.json()


# -- recorded workflows -----------------------------------------------------------------


@pytest.mark.parametrize("step", [25, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize(("definitions", "count"), VERSIONS)
def test_recorded_workflows_are_accepted_and_end_well(
    definitions: str, count: int, step: int
) -> None:
    prompts = [(name, api) for name, _, api in conformance.pairs(definitions)]
    assert len(prompts) == count
    with ComfyServer(object_info=definitions, step_seconds=0, previews=False) as server:
        found = [(name, end_of(server, prompt)) for name, prompt in prompts[::step]]
    refused = [name for name, how in found if how == "refused"]
    assert refused == [name for name, _ in found if name in REFUSED]
    assert [name for name, how in found if how not in ("success", "refused")] == []


# -- definitions ------------------------------------------------------------------------


def test_definitions_of_a_release_bring_its_version() -> None:
    """Unless it is named; others bring the default."""
    default = ComfyServer().version
    for definitions, version in (("0.3.75", "0.3.75"), ("0.28.1", "0.28"), ("0.33.0", "0.33")):
        assert ComfyServer(object_info=definitions).version == version
        assert ComfyServer(object_info=read_definitions(definitions)).version == default
    assert ComfyServer(object_info="0.28.1", version="0.33").version == "0.33"
    with ComfyServer(object_info="0.33.0") as server, ComfyApi(server.url) as api:
        assert api.get_system_stats().comfyui_version == "0.33.0"


@pytest.mark.parametrize("version", SHIPPED)
def test_shipped_definitions_are_what_their_script_makes(version: str) -> None:
    path = path_of(version)
    [definitions] = values(path)
    assert path.read_bytes() == packed(definitions)
    assert path.stat().st_size < 100_000
    if version in ("0.3.75", "0.28.1"):
        assert definitions == conformance.definitions(version)


@pytest.mark.parametrize("form", ["dict", "json", "json.gz"])
def test_definitions_come_from_a_dict_or_a_file(form: str, tmp_path: Path) -> None:
    given: Any = {"Blur": {"input": {"required": {"image": ["IMAGE"]}}, "output": ["IMAGE"]}}
    if form != "dict":
        data = json.dumps(given).encode()
        path = tmp_path / f"definitions.{form}"
        path.write_bytes(gzip.compress(data) if form == "json.gz" else data)
        given = path
    with ComfyServer(object_info=given) as server, ComfyApi(server.url) as client:
        blurred = {
            "1": canvas(0, width=40, height=30),
            "2": node("Blur", image=["1", 0]),
            "3": node("SaveImage", images=["2", 0], filename_prefix="x"),
        }
        [image] = client.run(blurred, timeout=LIMIT).images
        assert Image.open(io.BytesIO(image.bytes())).size == (40, 30)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ("0.99", FileNotFoundError, "0.99"),
        ({}, ValueError, "must contain an object of node definitions"),
        ({"A": 1}, ValueError, "the definition of A is not an object"),
        ({"A": {"input": {}}}, ValueError, "the definition of A has no list of outputs"),
        ({"A": {"output": []}}, ValueError, "the definition of A has no inputs"),
        (
            {"A": {"input": {"required": {"x": 1}}, "output": []}},
            ValueError,
            "the definition of A has malformed required inputs",
        ),
        (7, TypeError, "a version, a path or a dict, not 7"),
    ],
)
def test_definitions_that_are_none_are_an_error(
    given: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        read_definitions(given)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"models": "some"}, ValueError, "models must be one of any, recorded, touched: 'some'"),
        ({"inputs": "fake"}, ValueError, "inputs must be one of placeholder, real: 'fake'"),
        ({"nodes": "all"}, ValueError, "nodes must be one of known, any: 'all'"),
        ({"node_seconds": {"A": -1}}, ValueError, "must be 0 or more"),
        ({"node_seconds": {"A": "1"}}, TypeError, "must be a number, not '1'"),
        ({"node_seconds": 1}, TypeError, "must be a dict of seconds by class"),
    ],
)
def test_options_of_other_values_are_an_error(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        ComfyServer(**options)


# -- files ------------------------------------------------------------------------------


def with_lora(name: str) -> dict[str, Any]:
    return {
        "1": node("CheckpointLoaderSimple", ckpt_name="simulated.safetensors"),
        "2": node(
            "LoraLoaderModelOnly",
            model=["1", 0],
            lora_name=name,
            strength_model=1.0,
        ),
        "3": node("PreviewAny", source=["2", 0]),
    }


def test_models_of_any_name_are_accepted_or_those_of_the_folders() -> None:
    """With ``models="touched"``, a file is enough, and the definition lists it."""
    with ComfyServer(object_info="0.28.1") as server:
        assert post(server, with_lora("no-such.safetensors"))[0] == 200
    with ComfyServer(object_info="0.28.1", models="touched") as server:
        status, answer = post(server, with_lora("no-such.safetensors"))
        assert status == 400
        assert [one["type"] for one in answer["node_errors"]["2"]["errors"]] == [
            "value_not_in_list"
        ]
        (server.root / "models/loras/mine.safetensors").touch()
        assert post(server, with_lora("mine.safetensors"))[0] == 200
        shown = bare.get(server, "/object_info/LoraLoaderModelOnly").json()
        inputs = shown["LoraLoaderModelOnly"]["input"]["required"]
        assert inputs["lora_name"][0] == ["mine.safetensors"]


@pytest.mark.parametrize("definitions", SHIPPED)
def test_a_vae_without_a_file_is_offered_with_the_files(definitions: str) -> None:
    """``pixel_space``, as ComfyUI offers it; an approximation such as ``taesd`` needs its files."""
    with ComfyServer(object_info=definitions, models="touched") as server:
        (server.root / "models/vae/mine.safetensors").touch()
        shown = bare.get(server, "/object_info/VAELoader").json()["VAELoader"]
    assert shown["input"]["required"]["vae_name"][0] == ["mine.safetensors", "pixel_space"]


def test_recorded_choices_of_models_are_those_of_the_definitions() -> None:
    lora = {"input": {"required": {"lora_name": [["a.safetensors"]]}}, "output": ["MODEL"]}
    given = {"Lora": {**lora, "output_node": True}}
    with ComfyServer(object_info=given, models="recorded") as server:
        assert post(server, {"1": node("Lora", lora_name="a.safetensors")})[0] == 200
        assert post(server, {"1": node("Lora", lora_name="b.safetensors")})[0] == 400


@pytest.mark.parametrize("class_type", ["LoadImage", "LoadVideo"])
def test_missing_input_files_are_drawn_or_refused(class_type: str) -> None:
    """With ``inputs="real"``, they are refused in the server's words."""
    name = {"LoadImage": "image", "LoadVideo": "file"}[class_type]
    graph = {
        "1": node(class_type, **{name: "none.mp4"}),
        "2": node("PreviewAny", source=["1", 0]),
    }
    options: dict[str, Any] = {"object_info": "0.28.1"}
    with ComfyServer(**options) as server:
        assert end_of(server, graph) == "success"
    with ComfyServer(**options, inputs="real") as server:
        status, answer = post(server, graph)
    assert status == 400
    [error] = answer["node_errors"]["1"]["errors"]
    assert error["type"] == "custom_validation_failed"
    assert "none.mp4" in error["details"]


def test_placeholders_do_not_lead_out_of_the_folder(any_workflow: ComfyServer) -> None:
    graph = {
        "1": node("LoadImage", image="../../secret.png"),
        "2": node("PreviewImage", images=["1", 0]),
    }
    assert post(any_workflow, graph)[0] == 400


# -- inputs that depend on others -------------------------------------------------------


def test_parts_of_an_autogrow_input_are_checked(any_workflow: ComfyServer) -> None:
    """Errors name the class, and the part that is missing."""
    graph = {
        "1": canvas(0, width=16, height=16),
        "2": node("BatchImagesNode", **{"images.image0": ["1", 0], "images.image1": ["1", 0]}),
        "3": node("PreviewImage", images=["2", 0]),
    }
    assert end_of(any_workflow, graph) == "success"
    del graph["2"]["inputs"]["images.image0"]
    status, answer = post(any_workflow, graph)
    assert status == 400
    assert answer["node_errors"]["2"]["class_type"] == "BatchImagesNode"
    [error] = answer["node_errors"]["2"]["errors"]
    assert (error["type"], error["details"]) == ("required_input_missing", "image0")


def test_a_switch_passes_on_the_input_that_it_chooses(api: ComfyApi) -> None:
    """And the other one is not computed."""
    graph = {
        "1": canvas(0, width=48, height=16),
        "2": canvas(0, width=16, height=48),
        "3": node("ComfySwitchNode", switch=False, on_true=["1", 0], on_false=["2", 0]),
        "4": node("SaveImage", images=["3", 0], filename_prefix="x"),
    }
    [image] = api.run(graph, timeout=LIMIT).images
    assert Image.open(io.BytesIO(image.bytes())).size == (16, 48)


# -- values -----------------------------------------------------------------------------


def test_pictures_have_the_size_of_the_latent_of_any_class(api: ComfyApi) -> None:
    """And all its frames, if it is one of a video."""
    graph = {
        "1": node("VAELoader", vae_name="any.safetensors"),
        "2": node("EmptyHunyuanLatentVideo", width=96, height=64, length=5, batch_size=1),
        "3": node("VAEDecode", samples=["2", 0], vae=["1", 0]),
        "4": node("SaveImage", images=["3", 0], filename_prefix="x"),
    }
    images = api.run(graph, timeout=LIMIT).images
    assert [Image.open(io.BytesIO(one.bytes())).size for one in images] == [(96, 64)] * 5


def test_a_stand_in_prints_itself(api: ComfyApi) -> None:
    graph = {
        "1": node("VAELoader", vae_name="any.safetensors"),
        "2": node("PreviewAny", source=["1", 0]),
    }
    [text] = api.run(graph, timeout=LIMIT)["2"].texts
    assert text == "simulated VAE of VAELoader"


# -- unknown classes --------------------------------------------------------------------

UNKNOWN = {
    "1": canvas(0, width=24, height=16),
    "2": node("Sharpen++", image=["1", 0], amount=3),
    "3": node("SaveImage", images=["2", 1], filename_prefix="x"),
    "4": node("Tell++", text="done"),
}


def test_a_class_without_definition_is_refused_with_a_hint(any_workflow: ComfyServer) -> None:
    """Which names what a user of the command line can do, too."""
    status, answer = post(any_workflow, UNKNOWN)
    assert status == 400
    hint = answer["error"]["extra_info"]["hint"]
    for word in ("add_node", "object_info=", "nodes='any'", "--any-node", "--object-info"):
        assert word in hint


def test_a_class_without_definition_is_accepted_loudly_if_any_is() -> None:
    """Its outputs are what their consumers need."""
    with ComfyServer(nodes="any") as server:
        status, answer = post(server, UNKNOWN)
        assert status == 200
        assert "Sharpen++, Tell++" in answer["hint"]
        ended = entry_of(server, answer["prompt_id"])
        assert ended["status"]["status_str"] == "success"
        assert len(ended["outputs"]["3"]["images"]) == 1
        assert "nobody knows what Sharpen++" in bare.get(server, "/internal/logs").text
        assert "Sharpen++" not in bare.get(server, "/object_info").text


def test_unknown_classes_are_accepted_up_to_a_thousand() -> None:
    """A client cannot fill the memory of the server with names."""
    many = {str(n): node(f"Class {n}") for n in range(1001)}
    with ComfyServer(nodes="any") as server:
        assert post(server, {"1": many["0"]})[0] == 200
        assert post(server, many)[0] == 400
        assert post(server, {"1": node("Another")})[0] == 400
        assert post(server, {"1": many["999"]})[0] == 200


# -- time -------------------------------------------------------------------------------


def test_nodes_of_a_class_take_the_seconds_that_were_asked_for() -> None:
    """And an interrupt ends the wait."""
    graph = {"1": canvas(0), "2": node("PreviewImage", images=["1", 0])}
    with ComfyServer(node_seconds={"EmptyImage": 0.2}) as server, ComfyApi(server.url) as client:
        start = time.monotonic()
        client.run(graph, timeout=LIMIT)
        assert time.monotonic() - start >= 0.2
    with ComfyServer(node_seconds={"EmptyImage": 300}) as server, ComfyApi(server.url) as client:
        job = client.submit(graph)
        server.until(lambda: server.ran)
        client.interrupt()
        with pytest.raises(JobInterrupted):
            job.result(LIMIT)


def test_a_missing_input_of_a_stand_in_is_refused(api: ComfyApi) -> None:
    with pytest.raises(PromptRejected, match="vae_name"):
        api.run({"1": node("VAELoader"), "2": node("PreviewAny", source=["1", 0])}, timeout=LIMIT)
