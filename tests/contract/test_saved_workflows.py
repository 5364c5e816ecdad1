"""Files that real servers save lead back to the workflow, and that to the same file."""

from __future__ import annotations

import copy
import io
import random
from functools import partial
from typing import Any

import pytest
from PIL import Image, ImageSequence

from comfy_client import ComfyApi, Result, Workflow
from comfy_client.errors import WorkflowError
from tests.conftest import load_workflow
from tests.contract.conftest import Server
from tests.helpers.clients import until
from tests.helpers.graphs import fresh_color, picture
from tests.helpers.media import SAVED, UI, tone

LIMIT = 180.0


def run_afresh(api: ComfyApi, workflow: Workflow) -> Result:
    """With nothing from the server's cache."""

    def run() -> Result | None:
        api.free_memory(free_memory=True)  # as soon as the server is idle
        result = api.run(workflow, timeout=LIMIT)
        return None if result.cached_nodes else result

    return until(run)


@pytest.mark.parametrize("ui", [None, UI])
def test_every_version_saves_the_workflow_in_a_picture(
    any_api: ComfyApi, ui: dict[str, Any] | None
) -> None:
    """With the graph of the page beside it or without."""
    graph = picture(fresh_color(), prefix="saved/a")
    result = any_api.run(graph, workflow_ui=ui, timeout=LIMIT)
    (image,) = result.images
    assert image.workflow().to_dict() == graph
    assert Workflow.load(result).to_dict() == graph
    entry = until(lambda: any_api.get_history(result.prompt_id))
    assert Workflow.load(entry).to_dict() == graph


@pytest.mark.real
@pytest.mark.parametrize("name", SAVED)
def test_a_file_of_each_kind_gives_the_workflow_that_was_submitted(
    api: ComfyApi, name: str
) -> None:
    """With the graph of the page beside it or without: node by node, title by title."""
    graph: dict[str, Any] = copy.deepcopy(SAVED[name])
    graph["9"]["inputs"]["filename_prefix"] = f"saved/{random.randrange(1 << 40)}"
    uploaded = api.upload_image(tone(), "tone.wav")
    for node in graph.values():
        if "audio" in node["inputs"] and node["class_type"] == "LoadAudio":
            node["inputs"]["audio"] = uploaded.name
    for ui in (None, UI):
        result = api.run(graph, workflow_ui=ui, timeout=LIMIT)
        output = result.files[0]
        assert output.workflow().to_dict() == graph
        assert output.url is not None
        assert Workflow.load(output.url, api).to_dict() == graph
        assert Workflow.load(output.bytes()).to_dict() == graph
        entry = until(partial(api.get_history, result.prompt_id))
        assert Workflow.load(entry).to_dict() == graph
        graph["9"]["inputs"]["filename_prefix"] += "b"


def pixels(content: bytes) -> list[bytes]:
    with Image.open(io.BytesIO(content)) as image:
        return [frame.convert("RGBA").tobytes() for frame in ImageSequence.Iterator(image)]


@pytest.mark.real
@pytest.mark.parametrize("kind", ["SaveImage", "SaveAnimatedPNG", "SaveAnimatedWEBP"])
def test_the_workflow_in_a_picture_makes_the_same_pixels(api: ComfyApi, kind: str) -> None:
    """The sampler runs again: nothing comes from a cache."""
    graph = load_workflow("txt2img_tiny", seed=random.randrange(1 << 40))
    more = {
        "SaveAnimatedPNG": {"fps": 4.0, "compress_level": 4},
        "SaveAnimatedWEBP": {"fps": 4.0, "lossless": True, "quality": 80, "method": "default"},
    }
    graph["9"]["class_type"] = kind
    graph["9"]["inputs"] |= more.get(kind, {})
    first = api.run(graph, timeout=LIMIT).images[0]
    loaded = Workflow.load(first.bytes())
    assert loaded.to_dict() == graph
    again = run_afresh(api, loaded).images[0]
    assert again.filename != first.filename
    assert pixels(again.bytes()) == pixels(first.bytes())
    assert again.seed == first.seed == graph["3"]["inputs"]["seed"]


@pytest.mark.real
def test_the_workflow_in_a_sound_makes_the_same_sound(api: ComfyApi) -> None:
    """Byte for byte."""
    uploaded = api.upload_image(tone(), "tone.wav")
    graph = copy.deepcopy(SAVED["SaveAudio.flac"])
    graph["1"]["inputs"]["audio"] = uploaded.name
    first = run_afresh(api, Workflow(graph)).audio[0]
    again = run_afresh(api, first.workflow()).audio[0]
    assert again.filename != first.filename
    assert again.bytes() == first.bytes()


@pytest.mark.real
def test_a_server_that_saves_no_metadata_is_named(comfyui: Server) -> None:
    """The result still has the workflow."""
    graph = copy.deepcopy(SAVED["SaveImage.png"])
    with comfyui.another("--disable-metadata") as server, ComfyApi(server.url) as api:
        result = api.run(graph, timeout=LIMIT)
        with pytest.raises(WorkflowError, match="--disable-metadata"):
            result.images[0].workflow()
        assert Workflow.load(result).to_dict() == graph
