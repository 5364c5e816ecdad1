"""Every HTTP route and the event socket of an embedded server."""

from __future__ import annotations

import ipaddress
import json
import os
import platform
import socket
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

from ..workflow.explain import unknown_class
from ..workflow.validate import ValidationResult, no_prompt, validate
from .execution import SECRETS
from .files import add_file_routes, converted
from .folders import is_image, is_inside, safetensors_header
from .hosts import is_same_site
from .jobs import add_job_routes, is_uuid
from .nodes import shipped
from .packs import add_extension_files, add_extension_routes, add_pack_routes
from .traffic import Link, made, more_headers
from .userdata import Users, add_user_routes

if TYPE_CHECKING:
    from .script import Stage
    from .server import Core

_INVALID_ID = {
    "error": {
        "type": "invalid_prompt_id",
        "message": "prompt_id must be a valid UUID",
        "details": (
            "prompt_id must be a UUID string in canonical lowercase hyphenated form; "
            "omit it to let the server generate one"
        ),
        "extra_info": {},
    },
    "node_errors": {},
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_VERSIONS = {"0.3.75": "0.3.75", "0.8": "0.8.0", "new": "0.28.1"}
_NEW_SYSTEM = {
    "required_frontend_version": "1.45.21",
    "required_templates_version": "0.11.11",
    "comfy_package_versions": [
        {"name": name, "installed": None, "required": version}
        for name, version in (
            ("comfyui-frontend-package", "1.45.21"),
            ("comfyui-workflow-templates", "0.11.11"),
            ("comfyui-embedded-docs", "0.5.8"),
        )
    ],
    "deploy_environment": "local-git",
}
_MEMORY = 16 * 2**30  # bytes that the simulated device says it has


def application(core: Core) -> web.Application:
    """All routes, each with and without ``/api`` before it."""
    table = web.RouteTableDef()
    _add_prompt_routes(table, core)
    _add_catalogue_routes(table, core)
    add_extension_routes(table, core.folders)
    _add_system_routes(table, core)
    is_newest = core.is_newest
    add_file_routes(table, core.folders, newest=is_newest)
    users = Users(core.folders.user, multi=core.multi_user, newest=is_newest)
    add_user_routes(table, users)
    table.get("/ws")(_socket_handler(core))
    app = web.Application(
        client_max_size=core.max_upload_size, middlewares=[_cache_control, _origin]
    )
    if core.is_newest:
        app.middlewares.append(_same_site)
    internal = web.Application()
    internal.add_routes(_internal_routes(core))
    app.add_subapp("/internal", internal)
    prefixed = web.RouteTableDef()
    add_pack_routes(table, prefixed, core.folders)
    for route in list(table):
        if isinstance(route, web.RouteDef):  # there are no others
            prefixed.route(route.method, f"/api{route.path}")(route.handler)
    if core.is_newer:
        add_job_routes(prefixed, core.queue, core.executor.interrupt, newest=is_newest)
    if is_newest:
        _add_asset_routes(prefixed)
    app.add_routes(prefixed)
    app.add_routes(table)
    add_extension_files(app.router, core.folders)
    app.router.add_static("/", core.folders.web)  # all else: 404 to GET, 405 to the rest
    return app


# -- rules for all routes ---------------------------------------------------------------


@web.middleware
async def _cache_control(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    path = request.path.lower()
    name = path.rsplit("/", 1)[-1]
    if path.endswith((".js", ".css")) or (name.startswith("index") and name.endswith(".json")):
        response.headers.setdefault("Cache-Control", "no-cache")
    elif path.endswith(_PICTURES) and response.status < 300:
        response.headers.setdefault("Cache-Control", "public, max-age=86400")
    elif path.endswith(_PICTURES) and response.status == 404:
        response.headers.setdefault("Cache-Control", "public, max-age=3600")
    return response


@web.middleware
async def _origin(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuses pages of other sites; answers OPTIONS."""
    host, origin = request.headers.get("Host"), request.headers.get("Origin")
    if host is not None and origin is not None:
        host, origin = host.lower(), origin.lower()
        if not is_same_site(host, origin) and _is_loopback(urlsplit(f"//{host}").hostname or ""):
            return web.Response(status=403)
    return web.Response() if request.method == "OPTIONS" else await handler(request)


@web.middleware
async def _same_site(request: web.Request, handler: Handler) -> web.StreamResponse:
    is_foreign = request.headers.get("Sec-Fetch-Site") == "cross-site"
    return web.Response(status=403) if is_foreign else await handler(request)


def _is_loopback(host: str) -> bool:
    try:
        found = [host, *(info[4][0] for info in socket.getaddrinfo(host, None))]
    except OSError:
        return False
    addresses = [str(one) for one in found[1:]]
    return bool(addresses) and all(ipaddress.ip_address(one).is_loopback for one in addresses)


# -- prompts ----------------------------------------------------------------------------


def _add_prompt_routes(table: web.RouteTableDef, core: Core) -> None:
    queue = core.queue

    @table.get("/prompt")
    async def get_prompt(request: web.Request) -> web.Response:
        return web.json_response(core.queue_info())

    @table.post("/prompt")
    async def post_prompt(request: web.Request) -> web.Response:
        core.log("got prompt")
        read = await request.json()
        if "number" in read:
            number: float = float(read["number"])
        else:
            number = core.take_number()  # also for what is refused
        body = _object(read, "front", "prompt")
        if "number" not in body and body.get("front"):
            number = -number
        prompt_id = body.get("prompt_id", str(uuid.uuid4()))
        if core.is_newest:
            prompt_id = str(uuid.uuid4()) if prompt_id is None else prompt_id
            if "prompt" in body and not is_uuid(prompt_id):
                return web.json_response(_INVALID_ID, status=400)
        prompt_id = str(prompt_id)  # older servers take anything, and null for a name
        if "prompt" not in body:
            verdict = no_prompt(core.version)
        else:
            verdict = validate(
                body["prompt"],
                core.nodes.definitions(body["prompt"] or {}),
                targets=body.get("partial_execution_targets"),
                extra_checks=core.nodes.checks(),
                version=core.version,
            )
        if core.stage.faults.active("script") and isinstance(body.get("prompt"), dict):
            graph = verdict.graph if verdict.ok else body["prompt"]  # any, since it is played
            verdict = ValidationResult(True, None, {}, verdict.outputs_to_execute, graph)
        if verdict.crash is not None:
            raise RuntimeError(verdict.crash)
        extra_data = body.get("extra_data", {})
        if "client_id" in body and "prompt" in body:
            extra_data["client_id"] = body["client_id"]
        source = request.headers.get("Comfy-Usage-Source") if core.is_newest else None
        if source:
            extra_data.setdefault("comfy_usage_source", source)
        if not verdict.ok:
            core.log(f"invalid prompt: {verdict.error}")
            answer = {"error": verdict.error, "node_errors": verdict.node_errors}
            if isinstance(verdict.error, dict) and unknown_class(answer, body.get("prompt", {})):
                verdict.error["extra_info"]["hint"] = core.nodes.hint()
            return web.json_response(answer, status=400)
        secrets = {name: extra_data.pop(name) for name in SECRETS if name in extra_data}
        extra_data["create_time"] = int(time.time() * 1000)
        outputs = verdict.outputs_to_execute
        queue.put((number, prompt_id, verdict.graph, extra_data, outputs, secrets))
        return web.json_response(
            {"prompt_id": prompt_id, "number": number, "node_errors": verdict.node_errors}
        )

    @table.get("/queue")
    async def get_queue(request: web.Request) -> web.Response:
        return web.json_response(queue.shown())

    @table.post("/queue")
    async def post_queue(request: web.Request) -> web.Response:
        body = _object(await request.json(), "clear", "delete")
        if body.get("clear"):
            queue.clear()
        if "delete" in body:
            for prompt_id in body["delete"]:
                queue.delete(prompt_id)
        return web.Response()

    @table.post("/interrupt")
    async def post_interrupt(request: web.Request) -> web.Response:
        try:
            body = await request.json()
        except json.JSONDecodeError:
            body = {}
        prompt_id = body.get("prompt_id")
        if not prompt_id or prompt_id == queue.running_id:
            core.log(f"Interrupting {prompt_id or 'whatever runs'}")
            core.executor.interrupt()
        return web.Response()

    @table.post("/free")
    async def post_free(request: web.Request) -> web.Response:
        body = await request.json()
        for name in ("unload_models", "free_memory"):
            if body.get(name, False):
                queue.flag(name, body[name])
        return web.Response()

    @table.get("/history")
    async def get_history(request: web.Request) -> web.Response:
        limit, offset = request.query.get("max_items"), request.query.get("offset")
        found = queue.history(
            None if limit is None else int(limit), -1 if offset is None else int(offset)
        )
        return web.json_response(found)

    @table.get("/history/{prompt_id}")
    async def get_history_of(request: web.Request) -> web.Response:
        return web.json_response(queue.entry(request.match_info["prompt_id"]))

    @table.post("/history")
    async def post_history(request: web.Request) -> web.Response:
        body = _object(await request.json(), "clear", "delete")
        if body.get("clear"):
            queue.forget()
        if "delete" in body:
            for prompt_id in body["delete"]:
                queue.forget(prompt_id)
        return web.Response()


def _object(body: Any, *keys: str) -> dict[str, Any]:
    """A body.  As on the server, a list or a text without the keys is as good as nothing."""
    if isinstance(body, dict):
        return body
    if any(key in body for key in keys):
        raise TypeError("the body is no object")
    return {}


# -- nodes and models -------------------------------------------------------------------


def _add_catalogue_routes(table: web.RouteTableDef, core: Core) -> None:
    folders = core.folders

    @table.get("/object_info")
    async def object_info(request: web.Request) -> web.Response:
        return web.json_response(core.nodes.definitions())

    @table.get("/object_info/{name}")
    async def object_info_of(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        found = name in core.nodes.classes
        return web.json_response({name: core.nodes.definition(name)} if found else {})

    if core.is_newest:

        @table.get("/node_replacements")
        async def replacements(request: web.Request) -> web.Response:
            return web.json_response(shipped("replacements_0.28"))

    @table.get("/embeddings")
    async def embeddings(request: web.Request) -> web.Response:
        names = folders.model_names("embeddings")
        return web.json_response([os.path.splitext(name)[0] for name in names])

    @table.get("/models")
    async def models(request: web.Request) -> web.Response:
        return web.json_response(list(folders.models))

    @table.get("/models/{kind}")
    async def models_of(request: web.Request) -> web.Response:
        kind = request.match_info["kind"]
        if kind not in folders.models:
            return web.Response(status=404)
        return web.json_response(folders.model_names(kind))

    @table.get("/experiment/models")
    async def model_folders(request: web.Request) -> web.Response:
        found: list[dict[str, Any]] = []
        for kind, paths in folders.models.items():
            if kind not in ("configs", "custom_nodes"):
                found.append({"name": kind, "folders": list(map(str, paths))})
                if core.is_newest:
                    found[-1]["extensions"] = sorted(folders.model_endings(kind))
        return web.json_response(found)

    @table.get("/experiment/models/{kind}")
    async def model_files(request: web.Request) -> web.Response:
        kind = request.match_info["kind"]
        if kind not in folders.models:
            return web.Response(status=404)
        found = []
        for index, name, path in folders.model_files(kind):
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

    @table.get("/experiment/models/preview/{kind}/{index}/{name:.*}")
    async def model_preview(request: web.Request) -> web.Response:
        kind = request.match_info["kind"]
        try:
            index = int(request.match_info["index"])
        except ValueError:
            if core.is_newest:
                return web.Response(status=400)
            raise
        if kind not in folders.models:
            return web.Response(status=404)
        if core.is_newest and not 0 <= index < len(folders.models[kind]):
            return web.Response(status=404)
        folder = folders.models[kind][index]
        path = folder / request.match_info["name"]
        if not is_inside(path, folder):
            return web.Response(status=403)
        near = path.parent.iterdir() if path.parent.is_dir() else iter(())
        stems = (path.stem, f"{path.stem}.preview")
        pictures = sorted(p for p in near if p.stem in stems and is_image(p.name))
        if not pictures or not is_inside(pictures[0], folder):
            return web.Response(status=404)
        return converted(pictures[0], "webp")

    @table.get("/view_metadata/{kind}")
    async def view_metadata(request: web.Request) -> web.Response:
        name = request.query.get("filename", "")
        path = folders.model_file(request.match_info["kind"], name)
        if path is None or not name.endswith(".safetensors"):
            return web.Response(status=404)
        header = safetensors_header(path, 2**20)
        if header is None or "__metadata__" not in header:
            return web.Response(status=404)
        return web.json_response(header["__metadata__"])


_ASSET = "/api/assets/{id:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}}"
_ASSET_ROUTES = (
    ("GET", "/api/assets"),
    ("POST", "/api/assets"),
    *((method, _ASSET) for method in ("GET", "PUT", "DELETE")),
    ("GET", f"{_ASSET}/content"),
    ("HEAD", "/api/assets/hash/{hash}"),
    ("GET", "/api/tags"),
    ("GET", "/api/assets/tags/refine"),
    ("GET", "/api/assets/seed/status"),
    ("POST", "/api/assets/seed"),
    ("POST", "/api/assets/prune"),
)


def _add_asset_routes(table: web.RouteTableDef) -> None:
    """Switched off, as they are unless one asks for them."""

    async def off(request: web.Request) -> web.Response:
        text = (
            "Assets system is disabled. Start the server with --enable-assets to use this feature."
        )
        error = {"code": "SERVICE_DISABLED", "message": text, "details": {}}
        return web.json_response({"error": error}, status=503)

    for method, path in _ASSET_ROUTES:
        table.route(method, path)(off)


# -- the system -------------------------------------------------------------------------


def _add_system_routes(table: web.RouteTableDef, core: Core) -> None:
    @table.get("/")
    async def index(request: web.Request) -> web.FileResponse:
        caching = "no-store, must-revalidate" if core.is_newest else "no-cache"
        headers = {"Cache-Control": caching, "Pragma": "no-cache", "Expires": "0"}
        return web.FileResponse(core.folders.web / "index.html", headers=headers)

    @table.get("/features")
    async def features(request: web.Request) -> web.Response:
        return web.json_response(core.features)

    @table.get("/system_stats")
    async def system_stats(request: web.Request) -> web.Response:
        system = {
            "os": sys.platform if core.is_newer else os.name,
            "ram_total": _MEMORY,
            "ram_free": _MEMORY,
            "comfyui_version": _VERSIONS[core.version],
            "required_frontend_version": "1.32.9",
            "installed_templates_version": None,
            "required_templates_version": "0.7.25",
            **(_NEW_SYSTEM if core.is_newest else {}),
            "python_version": sys.version,
            "pytorch_version": "simulated by comfy_client.testing",
            "embedded_python": False,
            "argv": core.nodes.argv,
        }
        names = ("vram_total", "vram_free", "torch_vram_total", "torch_vram_free")
        memory = dict.fromkeys(names, _MEMORY)
        device = {"name": f"simulated on {platform.machine()}", "type": "cpu", "index": None}
        return web.json_response({"system": system, "devices": [{**device, **memory}]})


def _internal_routes(core: Core) -> web.RouteTableDef:
    table = web.RouteTableDef()

    @table.get("/logs")
    async def logs(request: web.Request) -> web.Response:
        return web.json_response("".join(f"{e['t']} - {e['m']}" for e in core.log_entries()))

    @table.get("/logs/raw")
    async def raw_logs(request: web.Request) -> web.Response:
        size = {"cols": 80, "rows": 24}
        return web.json_response({"entries": core.log_entries(), "size": size})

    @table.patch("/logs/subscribe")
    async def subscribe(request: web.Request) -> web.Response:
        body = await request.json()
        client_id, enabled = body["clientId"], body["enabled"]
        core.subscribe(client_id, enabled)
        return web.Response()

    @table.get("/folder_paths")
    async def folder_paths(request: web.Request) -> web.Response:
        folders = core.folders.models.items()
        return web.json_response({kind: list(map(str, paths)) for kind, paths in folders})

    @table.get("/files/{kind}")
    async def files(request: web.Request) -> web.Response:
        folder = core.folders.of_type(request.match_info["kind"])
        if folder is None:
            return web.json_response({"error": "Invalid directory type"}, status=400)
        entries = [entry for entry in os.scandir(folder) if entry.is_file()]
        entries.sort(key=lambda entry: -entry.stat().st_mtime)
        mark = f" [{folder.name}]" if core.is_newest else ""
        return web.json_response([f"{entry.name}{mark}" for entry in entries])

    return table


# -- the event socket -------------------------------------------------------------------


def _socket_handler(core: Core) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        stage = core.stage
        ws = web.WebSocketResponse(autoping=False)
        ws.headers.update(more_headers.get())
        await ws.prepare(request)
        client_id = request.query.get("clientId") or uuid.uuid4().hex
        link = Link(client_id, ws, request.transport)
        async with core.connected(link):
            greeting = {"status": core.queue_info(), "sid": client_id}
            stage._keep(stage.hellos, client_id)
            await link.send(made("status", greeting), stage.faults)
            core.greeted(client_id)
            executor = core.executor
            if executor.client_id == client_id and executor.node_id is not None:
                await core.deliver("executing", {"node": executor.node_id}, client_id)
            is_first = True
            async for message in ws:
                if message.type is aiohttp.WSMsgType.PING:
                    stage._count("pings")
                    swallowing = stage.faults.active("swallow_pings")
                    for fault in swallowing:
                        fault.hits += 1
                    if not swallowing:
                        await link.pong(message.data)
                elif message.type is aiohttp.WSMsgType.TEXT:
                    said = _decoded(stage, message.data, is_first)
                    if is_first and said is not None:
                        is_first = False
                        await _hello(core, client_id, said)
        return ws

    return handler


def _decoded(stage: Stage, text: str, is_first: bool) -> dict[str, Any] | None:
    """What a client says, if that is an object; kept either way."""
    try:
        data = json.loads(text)
    except ValueError:
        return None
    if is_first:
        stage._keep(stage.first_messages, data)
    stage._keep(stage.messages, data)
    return data if isinstance(data, dict) else None


async def _hello(core: Core, client_id: str, data: dict[str, Any]) -> None:
    """Take a client's first message."""
    if data.get("type") == "feature_flags" and not core.stage.faults.active("no_feature_flags"):
        core.set_flags(client_id, data.get("data", {}))
        await core.deliver("feature_flags", core.features, client_id)
