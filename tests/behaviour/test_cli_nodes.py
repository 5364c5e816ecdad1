"""``nodes`` and ``models``: lists by name, title, words and types."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from comfy_client import ComfyApi
from comfy_client.testing import ComfyServer
from tests.helpers.command_line import CommandLine
from tests.helpers.conformance import definitions

OFFLINE = ("--definitions", "object_info.json", "--host", "127.0.0.1:9")


@pytest.fixture
def offline(tmp_path: Path) -> CommandLine:
    """Commands with the definitions of a real server in a file, and without a server."""
    (tmp_path / "object_info.json").write_text(json.dumps(definitions("0.3.75")))
    return CommandLine(tmp_path)


@pytest.fixture(scope="module")
def server() -> Iterator[ComfyServer]:
    with ComfyServer() as server:
        yield server


@pytest.fixture
def online(server: ComfyServer, tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path, server.url)


def names(found: list[dict[str, object]]) -> set[object]:
    return {one["class_type"] for one in found}


def test_a_node_is_found_by_its_title(offline, online):
    """The title that the frontend shows, in any case, from a file or from the server."""
    for wanted in ("ImageScale", "Upscale Image", "upscale image"):
        [found] = offline.json("nodes", wanted, *OFFLINE)
        assert found["class_type"] == "ImageScale"
        assert {"width", "height"} <= found["inputs"].keys()
    assert online("nodes", "upscale image").lines[0] == "ImageScale (Upscale Image)"
    [found] = online.json("nodes", "upscale image")
    assert found["class_type"] == "ImageScale"


def test_an_unknown_name_lists_classes_with_a_similar_name_or_title(offline):
    [error] = offline.json("nodes", "Upscale Imag", *OFFLINE, status=2)
    assert "ImageScale" in error["message"].partition("nearest: ")[2].split(", ")
    [error] = offline.json("nodes", "image upscale model", *OFFLINE, status=2)
    assert "ImageUpscaleWithModel" in error["message"]
    [error] = offline.json("nodes", "qqqqq", *OFFLINE, status=2)
    assert error["message"] == "no node class or title 'qqqqq'"


def test_a_title_of_several_classes_is_an_error_that_names_them(tmp_path):
    known = {name: {"display_name": "Load", "input": {}, "output": []} for name in ("A", "B")}
    (tmp_path / "object_info.json").write_text(json.dumps(known))
    [error] = CommandLine(tmp_path).json("nodes", "load", *OFFLINE, status=2)
    assert error["message"] == "several node classes have the title 'load': A, B"


def test_a_search_takes_words_in_any_order(offline):
    """It looks at names, titles, categories and descriptions."""
    one = names(offline.json("nodes", "--search", "upscale model", *OFFLINE))
    other = names(offline.json("nodes", "--search", "MODEL  Upscale", *OFFLINE))
    assert one == other > {"ImageUpscaleWithModel", "UpscaleModelLoader"}
    described = definitions("0.3.75")["KSampler"]["description"]
    assert "KSampler" in names(offline.json("nodes", "--search", described, *OFFLINE))


def test_nodes_are_found_by_the_types_of_their_inputs_and_outputs(offline):
    found = names(offline.json("nodes", "--accepts", "latent", "--produces", "IMAGE", *OFFLINE))
    assert "VAEDecode" in found
    assert "KSampler" not in found
    assert "KSampler" in names(offline.json("nodes", "--produces", "LATENT", *OFFLINE))
    assert offline("nodes", "--produces", "NOTHING", *OFFLINE).out == ""


def test_all_choices_of_a_class_are_shown_if_asked(offline):
    samplers = definitions("0.3.75")["KSampler"]["input"]["required"]["sampler_name"][0]
    assert len(samplers) > 40
    assert f"({len(samplers)})" in offline("nodes", "KSampler", *OFFLINE).out
    shown = offline("nodes", "KSampler", "--all", *OFFLINE)
    assert f"sampler_name: {', '.join(samplers)}" in shown.lines


@pytest.mark.parametrize(
    "args", [("--all",), ("KSampler", "--search", "x"), ("KSampler", "--produces", "IMAGE")]
)
def test_options_that_exclude_each_other_are_refused(offline, args):
    assert offline("nodes", *args, *OFFLINE).status == 2


def test_a_file_without_definitions_is_refused(offline):
    (offline.home / "object_info.json").write_text("[]")
    [error] = offline.json("nodes", *OFFLINE, status=2)
    assert "not node definitions" in error["message"]


def test_models_are_searched_in_all_folders(server, online):
    for file in ("loras/Flux Detail v2.safetensors", "vae/flux_ae.safetensors"):
        path = server.root / "models" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with ComfyApi(server.url) as api:
        assert {"loras", "vae"} <= {*api.get_model_types()}
    assert online.json("models", "--search", "flux") == [
        {"folder": "loras", "name": "Flux Detail v2.safetensors"},
        {"folder": "vae", "name": "flux_ae.safetensors"},
    ]
    assert online("models", "--search", "detail flux").lines == [
        "loras  Flux Detail v2.safetensors"
    ]
    assert online("models", "vae", "--search", "flux").lines == ["flux_ae.safetensors"]
    nothing = online("models", "--search", "none of these")
    assert (nothing.status, nothing.out, nothing.err) == (0, "", "No such files.\n")
