"""A server for the recipes, and a folder for each."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from comfy_client.testing import ComfyServer
from tests.helpers.recipes import add_painter, painting, recipe, written

Load = Callable[..., dict[str, Any]]


@pytest.fixture
def comfy() -> Iterator[ComfyServer]:
    """An embedded server that paints."""
    with add_painter(ComfyServer()) as server:
        yield server


@pytest.fixture
def load(comfy: ComfyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Runs a recipe in a folder of its own, and returns its names: ``load("Serverless")``.

    ``which`` is the number of the block in its section; in it, texts are ``replaced`` by others.
    """
    monkeypatch.chdir(tmp_path)
    loaded = []

    def load(
        section: str,
        workflow: dict[str, Any] | None = None,
        *,
        which: int = -1,
        replaced: Mapping[str, str] = MappingProxyType({}),
    ) -> dict[str, Any]:
        code = recipe(section, comfy.url, which)
        for old, new in replaced.items():
            assert old in code
            code = code.replace(old, new)
        loaded.append(runpy.run_path(str(written(tmp_path, code, workflow or painting()))))
        return loaded[-1]

    yield load
    for names in loaded:
        names["api"].close()
