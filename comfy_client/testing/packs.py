"""Routes for what node packs bring along: files below ``custom_nodes/<pack>/``.

No code of a pack is run.  What it has for the editor lies in the folder that its ``__init__.py``
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

from .folders import Folders, is_inside

_TEMPLATES = "example_workflows"


def add_pack_routes(
    table: web.RouteTableDef, prefixed: web.RouteTableDef, folders: Folders
) -> None:
    """``/workflow_templates``, ``/i18n`` and ``/global_subgraphs``.

    One template is to be had below ``/api`` only, which is what `prefixed` is for.
    """
    root = folders.root / "custom_nodes"

    @table.get("/workflow_templates")
    async def templates(request: web.Request) -> web.Response:
        found: dict[str, list[str]] = {}
        for file in _files(root, _TEMPLATES):
            found.setdefault(file.parent.parent.name, []).append(file.stem)
        return web.json_response(found)

    @prefixed.get("/api/workflow_templates/{pack}/{name}")
    async def template(request: web.Request) -> web.StreamResponse:
        wanted = (request.match_info["pack"], request.match_info["name"])
        for file in _files(root, _TEMPLATES):
            if (file.parent.parent.name, file.name) == wanted:
                return web.FileResponse(file)
        return web.Response(status=404, content_type="application/octet-stream")

    @table.get("/i18n")
    async def translations(request: web.Request) -> web.Response:
        found: dict[str, Any] = {}
        for file in _files(root, "locales/*"):
            words = json.loads(file.read_text(encoding="utf-8"))
            of_language = found.setdefault(file.parent.name, {})
            of_language |= words if file.stem == "main" else {file.stem: words}
        return web.json_response(found)

    def subgraphs() -> dict[str, tuple[Path, dict[str, Any]]]:
        return {
            hashlib.sha256(f"custom_node{file}".encode()).hexdigest(): (
                file,
                {
                    "source": "custom_node",
                    "name": file.stem,
                    "info": {"node_pack": f"custom_nodes.{file.parent.parent.name}"},
                },
            )
            for file in _files(root, "subgraphs")
        }

    @table.get("/global_subgraphs")
    async def all_subgraphs(request: web.Request) -> web.Response:
        return web.json_response({key: entry for key, (_, entry) in subgraphs().items()})

    @table.get("/global_subgraphs/{id}")
    async def subgraph(request: web.Request) -> web.Response:
        found = subgraphs().get(request.match_info["id"])
        if found is None:
            return web.json_response(None)
        file, entry = found
        return web.json_response({**entry, "data": file.read_text(encoding="utf-8")})


def add_extension_routes(table: web.RouteTableDef, folders: Folders) -> None:
    """``/extensions``: the scripts of the editor and of node packs."""

    @table.get("/extensions")
    async def extensions(request: web.Request) -> web.Response:
        own = sorted((folders.web / "extensions").glob("**/*.js"))
        found = [f"/{script.relative_to(folders.web).as_posix()}" for script in own]
        for name, folder in _web_folders(folders.root / "custom_nodes").items():
            for script in sorted(folder.glob("**/*.js")):
                path = script.relative_to(folder).as_posix()
                found.append(f"/extensions/{quote(name)}/{path}")
        return web.json_response(found)


def add_extension_files(router: web.UrlDispatcher, folders: Folders) -> None:
    """What ``/extensions`` lists; never below ``/api``."""

    async def extension(request: web.Request) -> web.FileResponse:
        pack, file = request.match_info["pack"], request.match_info["file"]
        folder = _web_folders(folders.root / "custom_nodes").get(pack)
        if folder is None:  # one of the editor's own
            folder, file = folders.web / "extensions", f"{pack}/{file}"
        path = folder / file
        if not is_inside(path, folder):
            raise web.HTTPNotFound
        if path.is_dir():
            raise web.HTTPForbidden
        return web.FileResponse(path)

    router.add_get("/extensions/{pack}/{file:.+}", extension)


def _web_folders(root: Path) -> dict[str, Path]:
    """What packs have for the editor, by the names under which it is served."""
    found = {}
    for pack in sorted(path for path in root.iterdir() if path.is_dir()):
        for name, folder in (_of_project(pack), (pack.name, _of_module(pack))):
            if folder and (pack / folder).is_dir() and is_inside(pack / folder, pack):
                found[name] = Path(os.path.abspath(pack / folder))
    return found


def _of_project(pack: Path) -> tuple[str, str]:
    """What ``pyproject.toml`` says, as far as it can be read: name, and folder or ``""``."""
    try:
        project = tomllib.loads((pack / "pyproject.toml").read_text(encoding="utf-8"))
        return str(project["project"]["name"]), str(project["tool"]["comfy"]["web"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", ""


def _of_module(pack: Path) -> str:
    """What ``WEB_DIRECTORY`` is in ``__init__.py``, if that is a plain text, or ``""``."""
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


def _files(root: Path, folder: str) -> Iterator[Path]:
    """Files in one folder of each pack; none to which a link leads out of its pack."""
    for file in sorted(root.glob(f"*/{folder}/*.json")):
        if is_inside(file, root / file.relative_to(root).parts[0]):
            yield file
