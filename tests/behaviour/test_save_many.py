"""Many files of one result: several at a time, and whole or not at all."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from comfy_client import ComfyApi
from comfy_client.errors import NotFound
from comfy_client.jobs.result import Result, make_result
from comfy_client.testing import ComfyServer, Request, cut

SECONDS = 20


@pytest.fixture
def api(comfy: ComfyServer) -> Any:
    with ComfyApi(comfy.url, transport="poll") as api:
        yield api


def result_of(api: ComfyApi, count: int) -> Result:
    images = [{"filename": f"{number}.png"} for number in range(count)]
    return make_result("id", {}, {"9": {"images": images}}, files=api)


def test_a_batch_is_fetched_four_at_a_time(
    comfy: ComfyServer, api: ComfyApi, tmp_path: Path
) -> None:
    """Each in its file, the paths in the order of the files."""
    together = threading.Barrier(4)

    def view(request: Request) -> Any:
        together.wait(SECONDS)
        return 200, {}, request.query["filename"].encode()

    comfy.on("GET", "/view", view)
    result = result_of(api, 8)
    paths = result.save(tmp_path)
    assert [path.name for path in paths] == [f"{number}.png" for number in range(8)]
    assert [path.read_text() for path in paths] == [path.name for path in paths]
    assert [item.path for item in result] == paths


def test_a_file_that_is_missing_ends_the_others(
    comfy: ComfyServer, api: ComfyApi, tmp_path: Path
) -> None:
    """What was complete stays; there is no half of any."""
    first = threading.Event()

    def view(request: Request) -> Any:
        name = request.query["filename"]
        if name == "2.png":
            first.wait(SECONDS)
            return 404, {}, b""
        if name == "0.png":
            first.set()
        return 200, {}, name.encode() * 1000

    comfy.on("GET", "/view", view)
    with pytest.raises(NotFound):
        result_of(api, 100).save(tmp_path)
    saved = list(tmp_path.iterdir())
    assert len(saved) < 100
    assert all(path.read_text() == path.name * 1000 for path in saved)


def test_a_truncated_file_among_many_leaves_none_of_its_name(
    comfy: ComfyServer, api: ComfyApi, tmp_path: Path
) -> None:
    """The server does not say which version it is, so nothing can be continued."""

    def view(request: Request) -> Any:
        answer = 200, {}, b"x" * 1000
        return cut(answer, 500)(request) if request.query["filename"] == "1.png" else answer

    comfy.on("GET", "/view", view)
    with pytest.raises(Exception, match="after 500 of 1000 bytes"):
        result_of(api, 4).save(tmp_path)
    assert not (tmp_path / "1.png").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
