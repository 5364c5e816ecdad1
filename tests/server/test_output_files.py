"""Files of output nodes of which the embedded server knows the definitions only."""

from __future__ import annotations

import mimetypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comfy_client import ComfyApi
from comfy_client.testing import ComfyServer
from tests.helpers import bare
from tests.helpers.bare import LIMIT
from tests.helpers.graphs import node
from tests.helpers.media import UI
from tests.helpers.media_readers import read

#: Two pictures; ``2`` is the first of them.
PICTURES = {
    "1": node("ImageBatch", image1=["2", 0], image2=["3", 0]),
    "2": node("EmptyImage", width=48, height=32, batch_size=1, color=0x3366AA),
    "3": node("EmptyImage", width=48, height=32, batch_size=1, color=0xAA6633),
}
SOURCES: dict[str, dict[str, Any]] = {
    "images": PICTURES,
    "image": {"1": PICTURES["2"]},
    "mask": {"1": node("SolidMask", value=0.5, width=48, height=32)},
    "video": {**PICTURES, "1": node("CreateVideo", images=["2", 0], fps=24.0)},
    "audio": {"1": node("LoadAudio", audio="any.flac")},
    "mesh": {
        "1": node("VoxelToMeshBasic", voxel=["2", 0], threshold=0.5),
        "2": node(
            "VAEDecodeHunyuan3D",
            samples=["3", 0],
            vae=["4", 0],
            num_chunks=8000,
            octree_resolution=256,
        ),
        "3": node("EmptyLatentHunyuan3Dv2", resolution=3072, batch_size=1),
        "4": node("VAELoader", vae_name="any.safetensors"),
    },
    "svg": {"1": node("QuiverTextToSVGNode", prompt="a cat", model="arrow")},
    "latent": {"1": node("EmptyLatentImage", width=48, height=32, batch_size=1)},
    "text": {"1": node("PrimitiveString", value="a text")},
}
SLOTS = {"mask": "mask", "latent": "samples", "image": "images"}
WEBP = {"fps": 4.0, "lossless": True, "quality": 80, "method": "default"}
#: By class: what it saves, its other inputs, its key in the output, and the extension.
SAVING: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "SaveImage": ("image", {}, "images", "png"),
    "SaveAnimatedPNG": ("images", {"fps": 4.0, "compress_level": 4}, "images", "png"),
    "SaveAnimatedWEBP": ("images", WEBP, "images", "webp"),
    "SaveWEBM": ("images", {"codec": "vp9", "fps": 24.0, "crf": 32.0}, "images", "webm"),
    "SaveVideo": ("video", {"format": "auto", "codec": "auto"}, "images", "mp4"),
    "SaveAudio": ("audio", {}, "audio", "flac"),
    "SaveAudioMP3": ("audio", {"quality": "V0"}, "audio", "mp3"),
    "SaveAudioOpus": ("audio", {"quality": "128k"}, "audio", "opus"),
    "SaveGLB": ("mesh", {}, "3d", "glb"),
    "SaveLatent": ("latent", {}, "latents", "latent"),
}
TYPES = {
    "png": ("image", "image/png"),
    "webp": ("image", "image/webp"),
    "webm": ("video", "video/webm"),
    "mp4": ("video", "video/mp4"),
    "flac": ("audio", "audio/flac"),
    "mp3": ("audio", "audio/mpeg"),
    "opus": ("audio", "audio/opus"),
    "glb": ("other", "model/gltf-binary"),
    "latent": ("other", "application/octet-stream"),
}


@pytest.fixture(scope="module")
def server() -> Iterator[ComfyServer]:
    with ComfyServer(object_info="0.28.1", step_seconds=0, previews=False) as running:
        yield running


@pytest.fixture
def api(server: ComfyServer) -> Iterator[ComfyApi]:
    with ComfyApi(server.url) as client:
        yield client


def graph_of(class_type: str, source: str, /, **inputs: Any) -> dict[str, Any]:
    """A graph in which node ``9`` saves."""
    named = {SLOTS.get(source, source): ["1", 0], **inputs}
    return {**SOURCES[source], "9": node(class_type, **named)}


def saving(class_type: str, prefix: str) -> dict[str, Any]:
    source, inputs, _, _ = SAVING[class_type]
    return graph_of(class_type, source, filename_prefix=prefix, **inputs)


# -- each kind --------------------------------------------------------------------------


@pytest.mark.parametrize("class_type", SAVING)
def test_a_simulated_file_of_each_kind_reaches_the_client(
    server: ComfyServer,
    api: ComfyApi,
    class_type: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the name, the type and the workflow that it has on a ComfyUI, on any system."""
    _, _, key, ending = SAVING[class_type]
    media, mime = TYPES[ending]
    graph = saving(class_type, f"{class_type}/x")
    result = api.run(graph, workflow_ui=UI, timeout=LIMIT)
    filed = {"image": result.images, "video": result.videos, "audio": result.audio}
    [item] = filed.get(media, result.files)
    assert (item.subfolder, item.filename) == (class_type, f"x_00001_.{ending}")
    place = {"filename": item.filename, "subfolder": class_type, "type": "output"}
    assert result["9"].raw[key] == [place]
    monkeypatch.setattr(mimetypes, "guess_type", mimetypes.MimeTypes(()).guess_type)
    answer = bare.get(server, "/view", params=place)
    assert answer.headers["Content-Type"] == mime
    facts = read(answer.content, ending)
    assert class_type == "SaveImage" or b"simulated" in facts.words
    assert len(answer.content) < 20_000
    assert item.save(tmp_path / "saved").read_bytes() == answer.content
    assert item.workflow().to_dict() == graph
