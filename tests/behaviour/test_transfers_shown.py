"""The bars of files of more than 8 MB, up and down."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comfy_client import ComfyApi, TransportError, models
from comfy_client.testing import ComfyServer
from tests.helpers.notebooks import Notebook

pytestmark = pytest.mark.timing(show=0.0)

LARGE = bytes(9 << 20)


@pytest.fixture
def api(comfy: ComfyServer) -> Iterator[ComfyApi]:
    with ComfyApi(comfy.url) as api:
        yield api


@pytest.fixture
def stored(comfy: ComfyServer) -> models.UploadedImage:
    """A large file of the server."""
    (comfy.root / "input" / "film.mp4").write_bytes(LARGE)
    return models.UploadedImage("film.mp4", "", "input")


def test_an_upload_of_a_large_file_has_a_bar(api: ComfyApi, notebook: Notebook) -> None:
    """One display, with the name, the bytes and how it ended."""
    api.upload_image(LARGE, "film.mp4")
    assert notebook.displays == 1
    assert "upload film.mp4, 1 of 9 MB" in notebook.shown[0]["text/html"]
    assert "9 of 9 MB: done" in notebook.last


def test_a_download_of_a_large_file_has_a_bar(
    api: ComfyApi, notebook: Notebook, stored: models.UploadedImage, tmp_path: Path
) -> None:
    """And the file is complete."""
    path = api.download_image(stored, tmp_path / "copy.mp4")
    assert path.read_bytes() == LARGE
    assert notebook.displays == 1
    assert "download film.mp4, 9 of 9 MB: done" in notebook.last


def test_a_failed_upload_says_so_in_its_bar(
    comfy: ComfyServer, api: ComfyApi, notebook: Notebook
) -> None:
    """The error itself says why."""
    comfy.faults.cut("POST", "/upload/image", ran=True)
    with pytest.raises(TransportError) as failed:
        api.upload_image(LARGE, "film.mp4")
    assert f"9 of 9 MB: {type(failed.value).__name__}" in notebook.last


def test_a_small_file_has_no_bar(api: ComfyApi, notebook: Notebook, tmp_path: Path) -> None:
    """Neither has one whose progress the caller shows, nor one in another thread."""
    small = api.upload_image(bytes(1000), "small.bin")
    api.download_image(small, tmp_path / "small.bin")
    told: list[Any] = []
    api.upload_image(LARGE, "film.mp4", on_progress=lambda *moved: told.append(moved))
    thread = threading.Thread(target=lambda: api.upload_image(LARGE + b"1", "other.mp4"))
    thread.start()
    thread.join()
    assert told[-1] == (len(LARGE), len(LARGE))
    assert notebook.shown == []
