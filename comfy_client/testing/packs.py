"""Routes for what node packs bring along: files below ``custom_nodes/<pack>/``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiohttp import web

from .folders import Folders

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
        for file in sorted(root.glob("*/locales/*/*.json")):
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


def _files(root: Path, folder: str) -> Iterator[Path]:
    return iter(sorted(root.glob(f"*/{folder}/*.json")))
