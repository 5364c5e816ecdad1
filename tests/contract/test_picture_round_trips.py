"""Pictures go to the server and come back as they were; what gets lost on the way is said."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from comfy_client import ComfyApi, Upload, Workflow
from tests.contract.conftest import Server
from tests.versions import has

LIMIT = 180.0
RANDOM = np.random.default_rng(20)
COLOURS = RANDOM.integers(0, 256, (24, 40, 3), dtype=np.uint8)
WITH_ALPHA = RANDOM.integers(0, 256, (24, 40, 4), dtype=np.uint8)
GRAY = RANDOM.integers(0, 256, (24, 40), dtype=np.uint8)
BATCH = RANDOM.integers(0, 256, (3, 24, 40, 3), dtype=np.uint8)
BATCH[2] = BATCH[1]  # which an animation would make one of


def loads(class_type: str = "LoadImage", **inputs: Any) -> Workflow:
    """A workflow that saves a picture, and its mask."""
    load = {"image": "a.png", **inputs}
    is_mask = class_type == "LoadImageMask"
    graph: dict[str, Any] = {
        "1": {"class_type": class_type, "inputs": load, "_meta": {"title": "Load Image"}},
        "2": {"class_type": "MaskToImage", "inputs": {"mask": ["1", 0 if is_mask else 1]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "m"}},
    }
    if not is_mask:
        save = {"images": ["1", 0], "filename_prefix": "p"}
        graph["4"] = {"class_type": "SaveImage", "inputs": save}
    return Workflow(graph)


def came_back(api: ComfyApi, picture: Any) -> tuple[list[Any], list[Any]]:
    """The pixels of what LoadImage reads, and of its mask."""
    workflow = loads()
    workflow["Load Image"]["image"] = picture
    result = api.run(workflow, timeout=LIMIT)
    return tuple([image.array() for image in result[node].images] for node in ("4", "3"))


def in_file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def sent_as(kind: str, folder: Path) -> Any:
    """The same picture, in each form in which it is taken."""
    image = Image.fromarray(COLOURS)
    content = in_file(image)
    (folder / "photo.png").write_bytes(content)
    forms = {
        "Pillow": image,
        "array": COLOURS,
        "floats": (COLOURS / 255).astype(np.float32)[None],
        "path": folder / "photo.png",
        "bytes": content,
        "file": io.BytesIO(content),
        "data URL": f"data:image/png;base64,{base64.b64encode(content).decode()}",
        "path with a name": Upload(folder / "photo.png", "another.png", subfolder="a/b"),
        "animation": in_file(image, "WEBP", lossless=True),
    }
    return forms[kind]


@pytest.mark.parametrize(
    "kind",
    [
        *("Pillow", "array", "floats", "path", "bytes", "file", "data URL"),
        *("path with a name", "animation"),
    ],
)
def test_a_picture_comes_back_with_the_same_pixels(
    api: ComfyApi, comfyui: Server, kind: str, tmp_path: Path
) -> None:
    """In whatever form it is set; libav makes YUV of WebP."""
    ((pixels,), _) = came_back(api, sent_as(kind, tmp_path))
    by_libav = kind == "animation" and has(comfyui.version, "pictures by libav")
    assert np.abs(pixels.astype(int) - COLOURS).max() <= (2 if by_libav else 0)


def test_a_batch_comes_back_as_one(api: ComfyApi) -> None:
    """Each picture of it, equal ones too."""
    for batch in (BATCH, (BATCH / 255).astype(np.float32)):
        pixels, _ = came_back(api, batch)
        assert np.array_equal(np.stack(pixels), BATCH)


def test_alpha_becomes_the_mask_and_leaves_the_colours(api: ComfyApi) -> None:
    """Off by one at most, since SaveImage cuts what is behind the point."""
    for picture in (WITH_ALPHA, Image.fromarray(WITH_ALPHA)):
        ((pixels,), (mask,)) = came_back(api, picture)
        assert np.array_equal(pixels, WITH_ALPHA[..., :3])
        assert np.abs(255 - WITH_ALPHA[..., 3].astype(int) - mask[..., 0]).max() <= 1


def test_of_16_bits_8_are_left(api: ComfyApi) -> None:
    """Rounded, since LoadImage shows nearly all of such a picture as white."""
    deep = np.linspace(0, 65535, 24 * 40).astype(np.uint16).reshape(24, 40)
    for picture in (deep, Image.fromarray(deep)):
        ((pixels,), _) = came_back(api, picture)
        assert np.array_equal(pixels[..., 0], np.rint(deep / 257))


@pytest.mark.parametrize("channel", ["red", "alpha"])
def test_a_mask_comes_back_as_it_was(api: ComfyApi, channel: str) -> None:
    """White is what is masked: read as a colour, or as alpha from the result of upload_mask."""
    mask = (GRAY / 255).astype(np.float32)
    for value in (mask, mask[None], GRAY, Image.fromarray(GRAY)):
        if channel == "red":
            picture = api.upload_image(value)
        else:
            picture = api.upload_mask(value, api.upload_image(COLOURS))
        workflow = loads("LoadImageMask", image=picture, channel=channel)
        image = api.run(workflow, timeout=LIMIT).image.array()
        assert np.abs(image[..., 0].astype(int) - GRAY).max() <= (channel == "alpha")


def test_an_output_is_used_where_it_is(api: ComfyApi) -> None:
    """Of a prompt before, saved or temporary; nothing is sent for it."""
    ((first,), _) = came_back(api, COLOURS)
    workflow = loads(image=COLOURS)
    saved = api.run(workflow, timeout=LIMIT)["4"].images[0]
    workflow["4"]["filename_prefix"] = "deep/er"
    in_folder = api.run(workflow, timeout=LIMIT)["4"].images[0]
    graph = loads(image=COLOURS).to_dict()
    graph["4"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    temporary = api.run(graph, timeout=LIMIT)["4"].images[0]
    assert temporary.type == "temp"
    for output in (saved, in_folder, temporary, in_folder.as_input()):
        ((pixels,), _) = came_back(api, output)
        assert np.array_equal(pixels, first)
    assert api.upload_image(in_folder).ref == f"deep/{in_folder.filename} [output]"


def test_a_picture_of_the_socket_is_an_input(api: ComfyApi) -> None:
    """It is on no server, and is sent."""
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": Image.fromarray(COLOURS)}},
        "2": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}},
    }
    frame = api.run(graph, timeout=LIMIT).image
    ((pixels,), _) = came_back(api, frame)
    assert np.array_equal(pixels, COLOURS)


def test_a_file_with_a_hostile_name_is_found_by_the_name_that_came_back(api: ComfyApi) -> None:
    """Such as one that ends like the mark of a folder."""
    content = in_file(Image.fromarray(COLOURS))
    for name in ("a [output]", "b [temp].png", "ü & ; % # + ?.png", '"quoted".png', "-.png"):
        uploaded = api.upload_image(content, name)
        assert api.get_image(uploaded) == content
        ((pixels,), _) = came_back(api, uploaded)
        assert np.array_equal(pixels, COLOURS)


def test_of_a_large_picture_a_server_makes_what_a_thumbnail_needs(api: ComfyApi) -> None:
    """A notebook fetches that, and not the original."""
    workflow = loads()
    workflow["Load Image"]["image"] = RANDOM.integers(0, 256, (900, 900, 3), dtype=np.uint8)
    image = api.run(workflow, timeout=LIMIT)["4"].image
    with image.stream() as original, image.stream(preview="jpeg;75") as small:
        assert original.length is not None
        assert original.length > 2_000_000
        data = b"".join(small)
    assert len(data) < original.length / 3
    assert Image.open(io.BytesIO(data)).size == (900, 900)
    shown = image._repr_mimebundle_()["text/html"]
    assert 'src="data:image/webp;base64,' in shown
    assert 'width="512" height="512"' in shown
