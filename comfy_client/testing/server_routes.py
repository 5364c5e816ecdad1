"""RouteTable for node definitions and models, and for the system, its log and its folders."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

from aiohttp import web

from .files import converted
from .folders import is_image, is_inside, safetensors_header
from .server_state import MEMORY, RouteTable, ServerState
from .versions import RELEASES


async def _object_info(state: ServerState, request: web.Request) -> web.Response:
    return web.json_response(state.nodes.definitions())


async def _object_info_of(state: ServerState, request: web.Request) -> web.Response:
    name = request.match_info["name"]
    found = name in state.nodes.classes
    return web.json_response({name: state.nodes.definition(name)} if found else {})


async def _replacements(state: ServerState, request: web.Request) -> web.Response:
    return web.json_response(state.nodes.replacements)


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
            if state.options.since("0.28"):
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
    models, is_newer = state.folders.models, state.options.since("0.28")
    kind = request.match_info["kind"]
    try:
        index = int(request.match_info["index"])
    except ValueError:
        if is_newer:
            return web.Response(status=400)
        raise
    if kind not in models:
        return web.Response(status=404)
    if is_newer and not 0 <= index < len(models[kind]):
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
NEWER_CATALOGUE_ROUTES: RouteTable[ServerState] = (("GET", "/node_replacements", _replacements),)


# -- the system, its log and its folders -------------------------------------------------

_MEMORY_NAMES = ("vram_total", "vram_free", "torch_vram_total", "torch_vram_free")


async def _index(state: ServerState, request: web.Request) -> web.FileResponse:
    caching = "no-store, must-revalidate" if state.options.since("0.28") else "no-cache"
    headers = {"Cache-Control": caching, "Pragma": "no-cache", "Expires": "0"}
    return web.FileResponse(state.folders.web / "index.html", headers=headers)


async def _features(state: ServerState, request: web.Request) -> web.Response:
    return web.json_response(state.features)


async def _system_stats(state: ServerState, request: web.Request) -> web.Response:
    release = RELEASES[state.options.version]
    required = {
        "comfyui-frontend-package": release.page,
        "comfyui-workflow-templates": release.templates,
        "comfyui-embedded-docs": release.docs,
    }
    packages = [
        {"name": name, "installed": None, "required": version} for name, version in required.items()
    ]
    newer = {"comfy_package_versions": packages, "deploy_environment": "local-git"}
    system = {
        "os": sys.platform if state.options.since("0.28") else os.name,
        "ram_total": MEMORY,
        "ram_free": MEMORY,
        "comfyui_version": release.comfyui,
        "required_frontend_version": release.page,
        "installed_templates_version": None,
        "required_templates_version": release.templates,
        **(newer if state.options.since("0.28") else {}),
        "python_version": sys.version,
        "pytorch_version": "simulated by comfy_client.testing",
        "embedded_python": False,
        "argv": state.nodes.argv,
    }
    return web.json_response({"system": system, "devices": [_device(state)]})


def _device(state: ServerState) -> dict[str, Any]:
    """Return the device that computes: the processor, or a GPU if a fault gives it memory."""
    device: dict[str, Any]
    gpu = state.faults.first("vram")
    if gpu is None:
        memory = dict.fromkeys(_MEMORY_NAMES, MEMORY)
        device = {"name": f"simulated on {platform.machine()}", "type": "cpu", "index": None}
    else:
        gpu.hits += 1
        free, total = gpu.settings
        memory = dict(zip(_MEMORY_NAMES, (total, free, 0, 0), strict=True))
        device = {"name": "cuda:0 simulated", "type": "cuda", "index": 0}
    return {**device, **memory}


SYSTEM_ROUTES: RouteTable[ServerState] = (
    ("GET", "/", _index),
    ("GET", "/features", _features),
    ("GET", "/system_stats", _system_stats),
)


# -- below /internal --------------------------------------------------------------------


async def _logs(state: ServerState, request: web.Request) -> web.Response:
    return web.json_response("".join(f"{e['t']} - {e['m']}" for e in state.log_entries()))


async def _raw_logs(state: ServerState, request: web.Request) -> web.Response:
    size = {"cols": 80, "rows": 24}
    return web.json_response({"entries": state.log_entries(), "size": size})


async def _subscribe(state: ServerState, request: web.Request) -> web.Response:
    body = await request.json()
    client_id, enabled = body["clientId"], body["enabled"]
    state.subscribe(client_id, enabled)
    return web.Response()


async def _folder_paths(state: ServerState, request: web.Request) -> web.Response:
    folders = state.folders.models.items()
    return web.json_response({kind: list(map(str, paths)) for kind, paths in folders})


async def _files(state: ServerState, request: web.Request) -> web.Response:
    folder = state.folders.of_type(request.match_info["kind"])
    if folder is None:
        return web.json_response({"error": "Invalid directory type"}, status=400)
    entries = [entry for entry in os.scandir(folder) if entry.is_file()]
    entries.sort(key=lambda entry: -entry.stat().st_mtime)
    mark = f" [{folder.name}]" if state.options.since("0.28") else ""
    return web.json_response([f"{entry.name}{mark}" for entry in entries])


INTERNAL_ROUTES: RouteTable[ServerState] = (
    ("GET", "/logs", _logs),
    ("GET", "/logs/raw", _raw_logs),
    ("PATCH", "/logs/subscribe", _subscribe),
    ("GET", "/folder_paths", _folder_paths),
    ("GET", "/files/{kind}", _files),
)


# -- assets -----------------------------------------------------------------------------


async def _assets_off(state: ServerState, request: web.Request) -> web.Response:
    """Answer that assets are disabled, as they are in ComfyUI by default."""
    text = "Assets system is disabled. Start the server with --enable-assets to use this feature."
    error = {"code": "SERVICE_DISABLED", "message": text, "details": {}}
    return web.json_response({"error": error}, status=503)


_ASSET = "/api/assets/{id:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}}"
ASSET_ROUTES: RouteTable[ServerState] = tuple(
    (method, path, _assets_off)
    for method, path in (
        ("GET", "/api/assets"),
        ("POST", "/api/assets"),
        ("GET", _ASSET),
        ("PUT", _ASSET),
        ("DELETE", _ASSET),
        ("GET", f"{_ASSET}/content"),
        ("HEAD", "/api/assets/hash/{hash}"),
        ("GET", "/api/tags"),
        ("GET", "/api/assets/tags/refine"),
        ("GET", "/api/assets/seed/status"),
        ("POST", "/api/assets/seed"),
        ("POST", "/api/assets/prune"),
    )
)
