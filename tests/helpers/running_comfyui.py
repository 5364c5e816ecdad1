"""The ComfyUI that ``--comfyui`` names: a source tree, or the URL of one that runs."""

from __future__ import annotations

import contextlib
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import pytest

from comfy_client import ComfyApi
from tests.comfyui import HERE, ComfyUI, pictures

#: The parameter of tests that run on it.
GIVEN = "given"


class Running:
    """One at a URL of this machine; what needs more of it than that is skipped.

    It is for the tests alone: they clear its queue and its history.  It has to have the nodes of
    ``comfyui_nodes.py`` and the files of ``make_tiny_checkpoint.py``; pictures are uploaded.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname not in ("127.0.0.1", "localhost"):
            raise pytest.UsageError(f"not http://127.0.0.1:PORT: {url} (ssh -L brings it here)")
        self.port = parts.port or 80
        self.url = f"http://127.0.0.1:{self.port}"
        self.version = ""

    def __enter__(self) -> Running:
        self.version = asked_version(self.url)
        with ComfyApi(self.url) as api:
            if not api.get_node_defs("TestSleepOutput"):
                where = "custom_nodes and start it again"
                pytest.exit(f"{self.url} lacks nodes: copy {HERE / 'comfyui_nodes.py'} to {where}")
            if "tiny.ckpt" not in api.get_checkpoints():
                maker = f"{HERE / 'make_tiny_checkpoint.py'} --models-dir MODELS"
                pytest.exit(
                    f"{self.url} lacks tiny.ckpt: {maker} --out MODELS/checkpoints/tiny.ckpt"
                )
            for name, content in pictures().items():
                api.upload_image(content, name, overwrite=True)
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _skip(self, *_: Any) -> NoReturn:
        pytest.skip("needs the files or the process of the server, not its URL alone")

    another = start = stop = kill = restart = wait_ready = log_text = _skip
    root = property(_skip)
    pid = property(_skip)


def tree_of(path_or_url: str) -> Path | None:
    """The source tree that is meant; None for a URL."""
    if "://" in path_or_url:
        return None
    tree = Path(path_or_url).expanduser().resolve()
    if not (tree / "main.py").exists():
        raise pytest.UsageError(f"neither a URL nor a source tree of ComfyUI: {path_or_url}")
    return tree


@contextlib.contextmanager
def given(path_or_url: str) -> Iterator[ComfyUI | Running]:
    """What ``--comfyui`` names, running."""
    tree = tree_of(path_or_url)
    if tree is None:
        with Running(path_or_url) as running:
            yield running
    else:
        with ComfyUI(tree=tree) as server:
            server.version = asked_version(server.url)
            yield server


def asked_version(url: str) -> str:
    """What a server says that it is; one that does not, by what it has."""
    system = json.loads(_get(f"{url}/system_stats") or b"{}").get("system", {})
    # In 2024 it asked git, which may not know.
    if found := re.search(r"\d+\.\d+\.\d+", system.get("comfyui_version") or ""):
        return found[0]
    routes = {"2024-12": "/api/experiment/models", "2024-07": "/api/prompt"}
    return next((version for version, route in routes.items() if _get(url + route)), "2024-03")


def _get(url: str) -> bytes | None:
    with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(url, timeout=30) as a:
        return bytes(a.read())
    return None
