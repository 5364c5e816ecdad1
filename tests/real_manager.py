"""The real ComfyUI-Manager 4 for the tests, in a real ComfyUI that is older than its option.

The package has an environment of its own below ``comfy-client-tests`` in the user's cache folder,
made on demand with the releases named here.  It sees the packages of ComfyUI's environment, and
leaves them alone: what the Manager installs with pip, it installs in its own.  Only the tests
install it; nothing here or in the library imports it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tests.comfyui import ComfyUI, cache, pinned_environment

PACKAGE = "comfyui-manager==4.3"
#: What it needs beside the packages that ComfyUI needs, too.
PINNED = (
    "chardet==7.7.0",
    "cryptography==50.0.2",
    "gitdb==4.0.12",
    "GitPython==3.2.1",
    "nh3==0.3.8",
    "PyGithub==2.10.0",
    "PyJWT==2.15.1",
    "PyNaCl==1.6.2",
    "smmap==5.0.3",
    "toml==0.10.2",
    "uv==0.13.9",
)

#: Does what a newer ComfyUI does for its option ``--enable-manager``.
_BEFORE = """\
import sys
from comfy.cli_args import args
args.enable_manager, args.enable_manager_legacy_ui = True, {legacy_page}
sys.argv = sys.orig_argv[1:]  # a restart begins as this process did
import comfyui_manager
comfyui_manager.prestartup()
"""
_NODE = """\
import comfyui_manager
comfyui_manager.start()
NODE_CLASS_MAPPINGS = {}
"""
#: Where the Manager believes its lists to come from.
_CHANNEL = "https://raw.githubusercontent.com/Comfy-Org/ComfyUI-Manager/main"


def set_up() -> Path:
    """Return the Python of the Manager's environment, made or finished if need be."""
    python = pinned_environment(PACKAGE, PACKAGE, *PINNED)
    link = _packages(python) / "comfyui.pth"
    theirs = f"{_packages(cache() / 'venv' / 'bin' / 'python')}\n"
    if not link.exists() or link.read_text() != theirs:
        link.write_text(theirs)
    return python


def _packages(python: Path) -> Path:
    return next((python.parent.parent / "lib").glob("python3*")) / "site-packages"


class ManagedComfyUI(ComfyUI):
    """A real ComfyUI with a Manager that has no network, and knows more packs.

    Args:
        packs: The node classes of each pack, by the URL of its git repository.
        legacy_page: Whether it runs with its old page.
    """

    def __init__(self, packs: Mapping[str, Collection[str]], *, legacy_page: bool = False) -> None:
        super().__init__()
        self._python = set_up()
        # Restoring a snapshot disables folders that it does not have.
        node = self.add_registered("starts-the-manager", "1.0.0")
        (node / "prestartup_script.py").write_text(_BEFORE.format(legacy_page=legacy_page))
        (node / "__init__.py").write_text(_NODE)
        self._data = self.root / "user" / "__manager"
        (self._data / "cache").mkdir(parents=True)
        (self._data / "config.ini").write_text(
            f"[default]\nnetwork_mode = offline\nchannel_url = {_CHANNEL}\n"
        )
        self._list(packs)

    def add_registered(self, name: str, version: str) -> Path:
        """Add an empty pack that looks as if it came from the registry, and return its folder."""
        folder = self.root / "custom_nodes" / name
        folder.mkdir()
        (folder / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n")
        project = f'[project]\nname = "{name}"\nversion = "{version}"\n'
        (folder / "pyproject.toml").write_text(project)
        (folder / ".tracking").write_text("__init__.py\npyproject.toml")
        return folder

    def _list(self, packs: Mapping[str, Collection[str]]) -> None:
        """Add packs to the lists that came with the Manager, as if it had just downloaded them."""
        listed = self._bundled("custom-node-list.json")
        known = self._bundled("extension-node-map.json")
        for url, classes in packs.items():
            name = url.rpartition("/")[2]
            about = {"author": "tests", "title": name, "id": name, "reference": url}
            install = {"files": [url], "install_type": "git-clone", "description": ""}
            listed["custom_nodes"].append({**about, **install})
            known[url] = [sorted(classes), {"title_aux": name}]
        for name, content in (
            ("custom-node-list.json", listed),
            ("extension-node-map.json", known),
        ):
            hashed = _hash(f"{_CHANNEL}/{name}")
            (self._data / "cache" / f"{hashed}_{name}").write_text(json.dumps(content))

    def _bundled(self, name: str) -> dict[str, Any]:
        path = _packages(self._python) / "comfyui_manager" / name
        return json.loads(path.read_text(encoding="utf-8"))


def _hash(text: str) -> int:
    """The number in the names of the Manager's cache."""
    number = 0
    for character in text:
        number = (number * 31 + ord(character)) % 2**32
    return number
