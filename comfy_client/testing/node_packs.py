"""Routes for the files of node packs, which are below ``custom_nodes/<pack>/``.

No code of a pack is run.  Its files for the frontend are in the folder that its ``__init__.py``
names with ``WEB_DIRECTORY = "..."``, or its ``pyproject.toml`` as ``tool.comfy.web``.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiohttp import web

from .folders import is_inside
from .server_state import Routes, ServerState

_TEMPLATES = "example_workflows"


async def _templates(state: ServerState, request: web.Request) -> web.Response:
    found: dict[str, list[str]] = {}
    for file in _files(state, _TEMPLATES):
        found.setdefault(file.parent.parent.name, []).append(file.stem)
    return web.json_response(found)


async def _template(state: ServerState, request: web.Request) -> web.StreamResponse:
    wanted = (request.match_info["pack"], request.match_info["name"])
    for file in _files(state, _TEMPLATES):
        if (file.parent.parent.name, file.name) == wanted:
            return web.FileResponse(file)
    return web.Response(status=404, content_type="application/octet-stream")


async def _translations(state: ServerState, request: web.Request) -> web.Response:
    found: dict[str, Any] = {}
    for file in _files(state, "locales/*"):
        words = json.loads(file.read_text(encoding="utf-8"))
        of_language = found.setdefault(file.parent.name, {})
        of_language |= words if file.stem == "main" else {file.stem: words}
    return web.json_response(found)


def _subgraphs(state: ServerState) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Return the file and the list entry of each subgraph of the node packs, by its id."""
    return {
        hashlib.sha256(f"custom_node{file}".encode()).hexdigest(): (
            file,
            {
                "source": "custom_node",
                "name": file.stem,
                "info": {"node_pack": f"custom_nodes.{file.parent.parent.name}"},
            },
        )
        for file in _files(state, "subgraphs")
    }


async def _all_subgraphs(state: ServerState, request: web.Request) -> web.Response:
    return web.json_response({key: entry for key, (_, entry) in _subgraphs(state).items()})


async def _subgraph(state: ServerState, request: web.Request) -> web.Response:
    found = _subgraphs(state).get(request.match_info["id"])
    if found is None:
        return web.json_response(None)
    file, entry = found
    return web.json_response({**entry, "data": file.read_text(encoding="utf-8")})


async def _extensions(state: ServerState, request: web.Request) -> web.Response:
    """List the scripts of the frontend and of node packs."""
    web_folder = state.folders.web
    own = sorted((web_folder / "extensions").glob("**/*.js"))
    found = [f"/{script.relative_to(web_folder).as_posix()}" for script in own]
    for name, folder in _web_folders(state).items():
        for script in sorted(folder.glob("**/*.js")):
            path = script.relative_to(folder).as_posix()
            found.append(f"/extensions/{quote(name)}/{path}")
    return web.json_response(found)


async def extension(state: ServerState, request: web.Request) -> web.FileResponse:
    """Serve a frontend file of ComfyUI or of a node pack from below ``/extensions``."""
    pack, file = request.match_info["pack"], request.match_info["file"]
    folder = _web_folders(state).get(pack)
    if folder is None:  # one of the frontend's own
        folder, file = state.folders.web / "extensions", f"{pack}/{file}"
    path = folder / file
    if not is_inside(path, folder):
        raise web.HTTPNotFound
    if path.is_dir():
        raise web.HTTPForbidden
    return web.FileResponse(path)


EXTENSION_FILE = "/extensions/{pack}/{file:.+}"
PACK_ROUTES: Routes[ServerState] = (
    ("GET", "/workflow_templates", _templates),
    ("GET", "/i18n", _translations),
    ("GET", "/global_subgraphs", _all_subgraphs),
    ("GET", "/global_subgraphs/{id}", _subgraph),
    ("GET", "/extensions", _extensions),
)
#: A single template is served below ``/api`` only.
TEMPLATE: Routes[ServerState] = (("GET", "/api/workflow_templates/{pack}/{name}", _template),)


def _root(state: ServerState) -> Path:
    return state.folders.root / "custom_nodes"


def _web_folders(state: ServerState) -> dict[str, Path]:
    """Return the packs' folders of frontend files, by the names under which they are served."""
    found = {}
    for pack in sorted(path for path in _root(state).iterdir() if path.is_dir()):
        for name, folder in (_of_project(pack), (pack.name, _of_module(pack))):
            if folder and (pack / folder).is_dir() and is_inside(pack / folder, pack):
                found[name] = Path(os.path.abspath(pack / folder))
    return found


def _of_project(pack: Path) -> tuple[str, str]:
    """Return a pack's name and web folder from ``pyproject.toml``, or two empty strings."""
    try:
        project = tomllib.loads((pack / "pyproject.toml").read_text(encoding="utf-8"))
        return str(project["project"]["name"]), str(project["tool"]["comfy"]["web"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", ""


def _of_module(pack: Path) -> str:
    """Return ``WEB_DIRECTORY`` from ``__init__.py`` if it is a string literal, else ``""``."""
    try:
        module = ast.parse((pack / "__init__.py").read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return ""
    folder = ""
    for line in module.body:
        if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant):
            names = [target.id for target in line.targets if isinstance(target, ast.Name)]
            if "WEB_DIRECTORY" in names and isinstance(line.value.value, str):
                folder = line.value.value
    return folder


def _files(state: ServerState, folder: str) -> Iterator[Path]:
    """Yield the JSON files in a folder of each pack, except links that lead out of the pack."""
    root = _root(state)
    for file in sorted(root.glob(f"*/{folder}/*.json")):
        if is_inside(file, root / file.relative_to(root).parts[0]):
            yield file
