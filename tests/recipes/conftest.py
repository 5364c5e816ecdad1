"""A server for the recipes, and a folder for each."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from comfy_client.testing import ComfyServer
from tests.helpers.recipes import add_painter, painting, written

Load = Callable[..., dict[str, Any]]


@pytest.fixture
def comfy() -> Iterator[ComfyServer]:
    """An embedded server that paints."""
    with add_painter(ComfyServer()) as server:
        yield server


@pytest.fixture
def load(comfy: ComfyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Runs a recipe in a folder of its own, and returns its names: ``load("Serverless")``."""
    monkeypatch.chdir(tmp_path)
    loaded = []

    def load(section: str, workflow: dict[str, Any] | None = None) -> dict[str, Any]:
        path = written(tmp_path, section, comfy.url, workflow or painting())
        loaded.append(runpy.run_path(str(path)))
        return loaded[-1]

    yield load
    for names in loaded:
        names["api"].close()
