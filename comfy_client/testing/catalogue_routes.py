"""Routes for node definitions and models."""

from __future__ import annotations

import os
from typing import Any

from aiohttp import web

from .files import converted
from .folders import is_image, is_inside, safetensors_header
from .nodes import shipped
from .server_state import RouteTable, ServerState


async def _object_info(state: ServerState, request: web.Request) -> web.Response:
    return web.json_response(state.nodes.definitions())


async def _object_info_of(state: ServerState, request: web.Request) -> web.Response:
    name = request.match_info["name"]
    found = name in state.nodes.classes
    return web.json_response({name: state.nodes.definition(name)} if found else {})


async def _replacements(state: ServerState, request: web.Request) -> web.Response:
    return web.json_response(shipped("replacements_0.28"))


async def _embeddings(state: ServerState, request: web.Request) -> web.Response:
    names = state.folders.model_names("embeddings")
    return web.json_response([os.path.splitext(name)[0] for name in names])


async def _models(state: ServerState, request: web.Request) -> web.Response:
    return web.json_response(list(state.folders.models))


async def _models_of(state: ServerState, request: web.Request) -> web.Response:
    kind = request.match_info["kind"]
    if kind not in state.folders.models:
        return web.Response(status=404)
    return web.json_response(state.folders.model_names(kind))


async def _model_folders(state: ServerState, request: web.Request) -> web.Response:
    found: list[dict[str, Any]] = []
    for kind, paths in state.folders.models.items():
        if kind not in ("configs", "custom_nodes"):
            found.append({"name": kind, "folders": list(map(str, paths))})
            if state.options.is_newest:
                found[-1]["extensions"] = sorted(state.folders.model_endings(kind))
    return web.json_response(found)


async def _model_files(state: ServerState, request: web.Request) -> web.Response:
    kind = request.match_info["kind"]
    if kind not in state.folders.models:
        return web.Response(status=404)
    found = []
    for index, name, path in state.folders.model_files(kind):
        stat = path.stat()
        found.append(
            {
                "name": name,
                "pathIndex": index,
                "modified": stat.st_mtime,
                "created": stat.st_ctime,
                "size": stat.st_size,
            }
        )
    return web.json_response(found)


async def _model_preview(state: ServerState, request: web.Request) -> web.Response:
    models, is_newest = state.folders.models, state.options.is_newest
    kind = request.match_info["kind"]
    try:
        index = int(request.match_info["index"])
    except ValueError:
        if is_newest:
            return web.Response(status=400)
        raise
    if kind not in models:
        return web.Response(status=404)
    if is_newest and not 0 <= index < len(models[kind]):
        return web.Response(status=404)
    folder = models[kind][index]
    path = folder / request.match_info["name"]
    if not is_inside(path, folder):
        return web.Response(status=403)
    near = path.parent.iterdir() if path.parent.is_dir() else iter(())
    stems = (path.stem, f"{path.stem}.preview")
    pictures = sorted(p for p in near if p.stem in stems and is_image(p.name))
    if not pictures or not is_inside(pictures[0], folder):
        return web.Response(status=404)
    return converted(pictures[0], "webp")


async def _view_metadata(state: ServerState, request: web.Request) -> web.Response:
    name = request.query.get("filename", "")
    path = state.folders.model_file(request.match_info["kind"], name)
    if path is None or not name.endswith(".safetensors"):
        return web.Response(status=404)
    header = safetensors_header(path, 2**20)
    if header is None or "__metadata__" not in header:
        return web.Response(status=404)
    return web.json_response(header["__metadata__"])


CATALOGUE_ROUTES: RouteTable[ServerState] = (
    ("GET", "/object_info", _object_info),
    ("GET", "/object_info/{name}", _object_info_of),
    ("GET", "/embeddings", _embeddings),
    ("GET", "/models", _models),
    ("GET", "/models/{kind}", _models_of),
    ("GET", "/experiment/models", _model_folders),
    ("GET", "/experiment/models/{kind}", _model_files),
    ("GET", "/experiment/models/preview/{kind}/{index}/{name:.*}", _model_preview),
    ("GET", "/view_metadata/{kind}", _view_metadata),
)
NEWEST_CATALOGUE_ROUTES: RouteTable[ServerState] = (("GET", "/node_replacements", _replacements),)
