"""What prompts leave: filed by kind, fetched whole, several at a time, over links that break."""

from __future__ import annotations

import copy
import os
import random
from pathlib import Path
from typing import Any

import pytest

from comfy_client import ComfyApi, Output, Workflow
from comfy_client.errors import TransportError
from tests.contract.conftest import Server
from tests.helpers.graphs import fresh_color, node, picture
from tests.helpers.media import SAVED, tone
from tests.helpers.proxy import Proxy
from tests.versions import has

LIMIT = 180.0
MIB = 1 << 20

KINDS = {
    "SaveImage.png": "image",
    "SaveAnimatedPNG.png": "image",
    "SaveAnimatedWEBP.webp": "image",
    "SaveWEBM.webm": "video",
    "SaveVideo.mp4": "video",
    "SaveAudio.flac": "audio",
    "SaveAudioMP3.mp3": "audio",
    "SaveAudioOpus.opus": "audio",
    "SaveLatent.latent": "other",
}


def fresh_prefix() -> str:
    return f"outputs/{random.randrange(1 << 40)}"


@pytest.mark.real
@pytest.mark.parametrize("name", SAVED)
def test_a_file_of_each_kind_is_filed_right(api: ComfyApi, tmp_path: Path, name: str) -> None:
    """Images, animated ones too, videos, audio, and all others; in ``files`` all of them."""
    graph: Any = copy.deepcopy(SAVED[name])
    graph["9"]["inputs"]["filename_prefix"] = fresh_prefix()
    uploaded = api.upload_image(tone(), "tone.wav")
    for each in graph.values():
        if each["class_type"] == "LoadAudio":
            each["inputs"]["audio"] = uploaded.name
    result = api.run(graph, timeout=LIMIT)
    filed = {"image": result.images, "video": result.videos, "audio": result.audio}
    kind = KINDS[name]
    assert {media for media, found in filed.items() if found} == {kind} - {"other"}
    assert {item.media for item in result.files} == {kind}
    assert {item.type for item in result.files} == {"output"}
    assert len(result) == len(result.files) == (2 if name == "SaveImage.png" else 1)
    paths = result.save(f"{tmp_path}/{{node}}_{{index}}{{ext}}")
    class_type = graph["9"]["class_type"]
    assert paths[0].name == f"{class_type}_0{Path(name).suffix}"
    assert [path.read_bytes() for path in paths] == [item.bytes() for item in result]
    assert Workflow.load(paths[0]).to_dict() == graph


@pytest.mark.real
def test_previews_and_texts_are_filed_beside_what_is_kept(api: ComfyApi, comfyui: Server) -> None:
    """Temporary ones last, and marked; what else a node says is in ``raw``."""
    graph = {
        "1": node("EmptyImage", width=16, height=16, batch_size=1, color=fresh_color()),
        "2": node("PreviewImage", images=["1", 0]),
        "3": node("SaveImage", images=["1", 0], filename_prefix=fresh_prefix()),
        "4": node("PrimitiveInt", value=random.randrange(1 << 24)),
        "5": node("PreviewAny", source=["4", 0]),
        "6": node(
            "SaveAnimatedWEBP",
            images=["1", 0],
            filename_prefix=fresh_prefix(),
            fps=4.0,
            lossless=True,
            quality=80,
            method="default",
        ),
    }
    result = api.run(graph, timeout=LIMIT)
    assert [item.type for item in result.files] == ["output", "output", "temp"]
    assert result["PreviewImage"].image.type == "temp"
    assert result["SaveImage"].image.type == "output"
    assert result.texts == (str(graph["4"]["inputs"]["value"]),)
    animated = () if has(comfyui.version, "animated only if it is") else [False]
    assert result["SaveAnimatedWEBP"].raw.get("animated", ()) == animated
    assert repr(result).startswith("<Result 3 images, 1 text, ")


def test_a_batch_of_eight_is_fetched_over_several_connections(
    comfyui: Server, tmp_path: Path
) -> None:
    """In the order of the server, byte for byte, with all metadata."""
    graph = picture(fresh_color(), prefix=fresh_prefix())
    graph["1"]["inputs"]["batch_size"] = 8
    with Proxy(comfyui.port, delay=0.02) as proxy, ComfyApi(proxy.url, transport="poll") as api:
        result = api.run(graph, timeout=LIMIT)
        before = proxy.count
        paths = result.save(f"{tmp_path}/{{index:02}}{{ext}}")
        assert 2 <= proxy.count - before <= 4
        assert [path.name for path in paths] == [f"{number:02}.png" for number in range(8)]
        for path, item in zip(paths, result, strict=True):
            assert path.read_bytes() == item.bytes()
            assert item.pil().info["prompt"]
            assert Workflow.load(path).to_dict() == graph
        names = [item.filename for item in result]
        assert names == sorted(names)


def big_file(api: ComfyApi, size: int) -> tuple[dict[str, str], bytes]:
    content = os.urandom(size)
    uploaded = api.upload_image(content, f"{random.randrange(1 << 40)}.bin", type="output")
    return {"filename": uploaded.name, "type": "output"}, content


def test_a_download_that_is_cut_five_times_is_identical(comfyui: Server) -> None:
    """The real server says which version of a file it sends, and continues it."""
    with Proxy(comfyui.port) as proxy, ComfyApi(proxy.url, transport="poll") as api:
        info, content = big_file(api, 12 * MIB)
        received, cuts = bytearray(), 0
        with api.stream_image(info) as download:
            for chunk in download:
                received += chunk
                if cuts < 5 and len(received) > (cuts + 1) * MIB:
                    cuts += 1
                    proxy.cut()
        assert cuts == 5
        assert received == content


def test_a_file_that_was_replaced_while_it_came_is_not_mixed(comfyui: Server) -> None:
    """Of the same size, a moment later."""
    with Proxy(comfyui.port) as proxy, ComfyApi(proxy.url, transport="poll") as api:
        info, content = big_file(api, 12 * MIB)
        begun = []

        def read() -> None:
            with api.stream_image(info) as download:
                for _ in download:
                    if not begun:
                        begun.append(True)
                        api.upload_image(
                            content[::-1], info["filename"], type="output", overwrite=True
                        )
                        proxy.cut()

        with pytest.raises(TransportError, match="changed"):
            read()


def test_an_output_is_read_in_every_way(comfyui: Server, tmp_path: Path) -> None:
    """The same bytes by each."""
    with ComfyApi(comfyui.url) as api:
        result = api.run(picture(fresh_color(), prefix=fresh_prefix()), timeout=LIMIT)
        image: Output = result.image
        content = image.bytes()
        with image.stream() as download, image.open() as file:
            assert b"".join(download) == file.read() == content
        assert image.save(tmp_path / "a.png").read_bytes() == content
        assert image.path == tmp_path / "a.png"
        assert image.pil().getbbox()
        assert result.seconds is not None
        assert 0 <= result.seconds < LIMIT


def test_rows_of_a_sweep_become_files_a_sheet_and_a_table(comfyui: Server, tmp_path: Path) -> None:
    """Named, placed and listed by the values that they ran with."""
    graph = picture(prefix=fresh_prefix())
    red, blue = random.randrange(1, 255) << 16, random.randrange(1, 255)
    with ComfyApi(comfyui.url) as api:
        grid = {"EmptyImage.color": [red, blue], "EmptyImage.width": [32, 64, 48]}
        rows = api.sweep(graph, grid, timeout=LIMIT)
        paths = rows.save(f"{tmp_path}/{{color}}/{{EmptyImage.width}}{{ext}}")
        assert [str(path.relative_to(tmp_path)) for path in paths] == [
            f"{color}/{width}.png" for color in (red, blue) for width in (32, 64, 48)
        ]
        sheet = rows.grid(rows="width", cols="color", size=64)
        colors = {color for _, color in sheet.getcolors(1 << 20) or ()}
        assert {(red >> 16, 0, 0), (0, 0, blue)} <= colors
        assert sheet.height > sheet.width
        table = rows.to_csv(tmp_path / "rows.csv").read_text(encoding="utf-8")
        assert all(str(path) in table for path in paths)
