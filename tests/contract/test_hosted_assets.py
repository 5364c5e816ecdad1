"""Files at a proxy of Comfy API v2, embedded and real alike."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from comfy_client import HostedApi, NotFound, PromptRejected, Upload, Workflow
from tests.helpers.graphs import node
from tests.helpers.hosted import Hosted
from tests.helpers.hosted_faults import scene_of

#: Seconds for a run on a busy machine.
LIMIT = 120.0


@pytest.fixture
def api(hosted: Hosted) -> Iterator[HostedApi]:
    with HostedApi(hosted.url, "") as api:
        yield api


def noise() -> bytes:
    """Return a picture that no server has: each of its pixels is random."""
    target = io.BytesIO()
    Image.frombytes("RGB", (96, 64), os.urandom(96 * 64 * 3)).save(target, "PNG")
    return target.getvalue()


def copying(image: object) -> Workflow:
    workflow = Workflow(
        {
            "1": node("LoadImage", image="x.png"),
            "2": node("SaveImage", images=["1", 0], filename_prefix="copied"),
        }
    )
    workflow["1"]["image"] = image
    return workflow


def pixels(data: bytes) -> bytes:
    return Image.open(io.BytesIO(data)).convert("RGB").tobytes()


@pytest.mark.parametrize("kind", ["path", "bytes", "open file", "picture"])
def test_a_file_of_ours_goes_there_and_back(api: HostedApi, tmp_path: Path, kind: str) -> None:
    """Whatever it is; the pixels are the same, and the workflow is in the file."""
    data = noise()
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    sources: dict[str, Any] = {
        "path": path,
        "bytes": data,
        "open file": io.BytesIO(data),
        "picture": Image.open(io.BytesIO(data)),
    }
    result = api.run(copying(sources[kind]), timeout=LIMIT)
    saved = result.images[0].save(tmp_path / "out.png")
    assert pixels(saved.read_bytes()) == pixels(data)
    assert pixels(result.images[0].bytes()) == pixels(data)
    assert result.images[0].workflow()["2"].class_type == "SaveImage"
    assert result.images[0].exists()


def test_an_output_is_an_input_of_the_next_job(api: HostedApi) -> None:
    """It is uploaded, as the proxy looks for inputs only."""
    data = noise()
    first = api.run(copying(data), timeout=LIMIT)
    second = api.run(copying(first.images[0]), timeout=LIMIT)
    assert pixels(second.images[0].bytes()) == pixels(data)


def test_a_result_is_read_at_any_place_after_the_client(api: HostedApi) -> None:
    """A proxy sends ranges, without saying which version of a file they are of."""
    file = api.run(copying(noise()), timeout=LIMIT).images[0]
    whole = file.bytes()
    api.close()
    with file.open() as stream:
        for start in (len(whole) - 9, 0, 1000, len(whole)):
            stream.seek(start)
            assert stream.read(9) == whole[start : start + 9]


def test_an_upload_is_an_asset_that_can_be_read_and_deleted(api: HostedApi) -> None:
    """By its id; the reference goes into any number of workflows."""
    data = noise()
    uploaded = api.upload_image(data, "mine.png")
    assert api.get_image(uploaded) == data
    assert api.upload_image(Upload(data, "mine.png")).ref == uploaded.ref
    asset_id = uploaded.ref["info"]["id"]
    assert api.hosted.asset(asset_id).size_bytes == len(data)
    workflow = copying("x")
    workflow.set({("1", "image"): uploaded.ref})
    assert pixels(api.run(workflow, timeout=LIMIT).images[0].bytes()) == pixels(data)
    api.hosted.delete(asset_id)
    assert not api.has_image(uploaded)
    with pytest.raises(NotFound):
        api.get_image(uploaded)
    with pytest.raises(PromptRejected, match="unknown assets") as caught:
        api.run(workflow, timeout=LIMIT)
    assert caught.value.reason == "missing_asset"


def test_a_large_file_goes_both_ways(api: HostedApi, tmp_path: Path) -> None:
    """With constant memory here; of any kind."""
    path = tmp_path / "large.bin"
    path.write_bytes(os.urandom(20 << 20))
    uploaded = api.upload_image(path)
    assert api.download_image(uploaded, tmp_path / "back.bin").read_bytes() == path.read_bytes()


def test_a_refused_workflow_names_node_and_input(api: HostedApi) -> None:
    """As ComfyUI itself does."""
    with pytest.raises(PromptRejected, match=r"node 1 \(SaveImage\): input 'images' is missing"):
        api.run({"1": node("SaveImage", filename_prefix="x")}, timeout=LIMIT)
    with pytest.raises(PromptRejected, match="no node class 'NoSuchNode'") as caught:
        api.run({"1": node("NoSuchNode")}, timeout=LIMIT)
    assert caught.value.error["type"] == "missing_node_type"


def test_an_unknown_job_has_no_events(api: HostedApi) -> None:
    """Nor a workflow, nor an end."""
    unknown = "267d9f32-618d-4ecf-bd8e-06d8d3c5b988"
    for ask in (api.hosted.job, api.hosted.workflow, api.hosted.cancel):
        with pytest.raises(NotFound):
            ask(unknown)
    with pytest.raises(NotFound), api.hosted.events(unknown):
        pass


def test_a_download_that_is_cut_goes_on(hosted: Hosted) -> None:
    """The proxy sends ranges, and says neither ETag nor Last-Modified."""
    data = os.urandom(20 << 20)
    found = bytearray()
    with scene_of(hosted) as scene, HostedApi(scene.url, "") as api:
        uploaded = api.upload_image(data)
        with api.stream_image(uploaded) as download:
            for number, chunk in enumerate(download):
                found += chunk
                if number in (2, 6):
                    scene.link.cut()
        connections = scene.link.count
    assert found == data
    assert connections >= 3
