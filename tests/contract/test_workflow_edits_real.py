"""Edited workflows on a real server: the pictures say whether an edit was right."""

from __future__ import annotations

import io
import json
import random
import struct
import uuid
from collections.abc import Iterator

import pytest
from PIL import Image

from comfy_client import ComfyApi, Template, Workflow
from tests.comfyui import ComfyUI
from tests.helpers.graphs import fresh_color, node

pytestmark = pytest.mark.real
LIMIT = 120.0


def weights(count: int) -> bytes:
    """Random numbers, large enough to be seen."""
    return struct.pack(f"<{count}f", *(random.gauss(0, 0.3) for _ in range(count)))


@pytest.fixture
def lora(comfyui: ComfyUI) -> Iterator[str]:
    """A LoRA for model and CLIP of the tiny checkpoint, on the server's disk."""
    clip = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    shapes = {
        "lora_unet_out_2.diff": (4, 320, 3, 3),
        f"{clip}.lora_up.weight": (3072, 1),
        f"{clip}.lora_down.weight": (1, 768),
    }
    header, body = {}, b""
    for name, shape in shapes.items():
        count = 1
        for side in shape:
            count *= side
        offsets = [len(body), len(body) + 4 * count]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
        body += weights(count)
    text = json.dumps(header).encode()
    path = comfyui.root / "models" / "loras" / f"{uuid.uuid4().hex}.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    yield path.name
    path.unlink()


def txt2img(workflow, **inputs) -> Workflow:
    return Workflow.load(workflow("txt2img_tiny", steps=2, **inputs))


def pixels(api: ComfyApi, workflow: Workflow, inputs=None) -> bytes:
    [image] = api.run(workflow, inputs, timeout=LIMIT).images
    return Image.open(io.BytesIO(image.bytes())).tobytes()


def test_a_lora_changes_the_picture_and_without_it_the_picture_is_the_same(
    api, workflow, lora
) -> None:
    """Of model and CLIP each; with a strength of 0, and bypassed by the server's definitions."""
    plain = txt2img(workflow)
    expected = pixels(api, plain)
    with_lora = plain.copy()
    added = with_lora.add_lora(lora, 0.8)
    strengths = {"LoraLoader.strength_model": 0, "LoraLoader.strength_clip": 0}
    assert pixels(api, with_lora, strengths) == expected
    seen = {expected, pixels(api, with_lora)}
    seen |= {pixels(api, with_lora, {name: 0}) for name in strengths}
    assert len(seen) == 4
    assert with_lora.bypass(added, api) == []
    assert with_lora == plain
    assert pixels(api, with_lora) == expected


def test_loras_stack(api, workflow, lora) -> None:
    """Half of one and half of it again is all of it."""
    once, twice = txt2img(workflow), txt2img(workflow)
    once.add_lora(lora, 1.0, clip_strength=0)
    for _ in range(2):
        twice.add_lora(lora, 0.5, clip_strength=0)
    one, two = pixels(api, once), pixels(api, twice)
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) <= 2
    assert one != pixels(api, txt2img(workflow))


def test_a_lora_of_the_model_alone_runs_with_separate_loaders(api, workflow, lora) -> None:
    """As LoraLoaderModelOnly, of which another is bypassed."""
    plain = Workflow.load(workflow("txt2img_separate_loaders", steps=2))
    with_lora = plain.copy()
    added = with_lora.add_lora(lora)
    assert added.class_type == "LoraLoaderModelOnly"
    expected = pixels(api, plain)
    assert pixels(api, with_lora) != expected
    assert with_lora.bypass("LoraLoaderModelOnly", api) == []
    assert pixels(api, with_lora) == expected


def test_the_seed_of_a_random_run_gives_the_same_picture_again(api, workflow) -> None:
    """Two runs are two pictures."""
    drawn = [api.run(txt2img(workflow, seed=seed), timeout=LIMIT) for seed in ("random", -1)]
    pictures = [Image.open(io.BytesIO(each.images[0].bytes())).tobytes() for each in drawn]
    assert pictures[0] != pictures[1]
    for result, picture in zip(drawn, pictures, strict=True):
        seed = result.seeds["3"]
        assert pixels(api, txt2img(workflow), {"KSampler.seed": seed}) == picture


def test_nodes_are_bypassed_and_muted_as_on_the_page(api) -> None:
    """By position and by type; what is muted does not run, and the rest does."""
    color = fresh_color()
    red, blue = color, color ^ 0xFFFFFF
    sized = {"width": 8, "height": 8, "batch_size": 1}
    blended = {"blend_factor": 0.5, "blend_mode": "normal"}
    graph = {
        "1": node("EmptyImage", color=red, **sized),
        "2": node("EmptyImage", color=blue, **sized),
        "3": node("ImageBlend", image1=["1", 0], image2=["2", 0], **blended),
        "4": node("ImageInvert", image=["3", 0]),
        "8": node("PreviewImage", images=["2", 0]),
        "9": node("SaveImage", images=["4", 0], filename_prefix="edits/a"),
    }
    template = Template(graph, {"color": "1.color"}, {"kept": "SaveImage"})
    workflow = template(color=red)
    workflow.bypass("ImageInvert", api)
    workflow.bypass("ImageBlend", api)
    workflow.mute("PreviewImage")
    result = api.run(workflow, timeout=LIMIT)
    assert list(result.nodes) == ["9"]
    [image] = result.outputs["kept"].images
    assert Image.open(io.BytesIO(image.bytes())).getpixel((0, 0)) == tuple(red.to_bytes(3, "big"))
