"""The reading routes of Comfy Cloud's older API: nodes, models, jobs, queue, features, system.

The API is ComfyUI's, below ``/api``, with differences: the key is in ``X-API-Key``, errors are
``{"code", "message"}``, the last two fields of an item in the queue are swapped, and jobs may have
their times in seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from ..catalogue_routes import CATALOGUE_ROUTES
from ..prompt_routes import JOB_ROUTES, PROMPT_ROUTES
from ..server_state import RouteHandler, Routes, ServerState
from ..system_routes import SYSTEM_ROUTES
from .hosted_state import HostedState
from .memory import is_same

_READ = (
    "/object_info",
    "/object_info/{name}",
    "/models",
    "/models/{kind}",
    "/experiment/models",
    "/experiment/models/{kind}",
    "/queue",
    "/features",
    "/system_stats",
    "/api/jobs",
    "/api/jobs/{id}",
)
_TIMES = ("create_time", "execution_start_time", "execution_end_time", "update_time")
_VERSION = "embedded"


def _read(handler: RouteHandler[ServerState], path: str) -> RouteHandler[HostedState]:
    """Return a handler that answers as ComfyUI's ``handler``, in the form of Comfy Cloud."""

    async def answer(hosted: HostedState, request: web.Request) -> web.StreamResponse:
        key = request.headers.get("X-API-Key", "")
        token = hosted.token
        if not key or (token is not None and not is_same(key, token)):
            return _refused(401, "unauthorized", "a valid X-API-Key is required")
        await hosted.reach(request)
        response = await handler(hosted.comfy, request)
        if not isinstance(response, web.Response) or not response.text:
            return response
        said = json.loads(response.text)
        if response.status != 200:
            message = said.get("error") if isinstance(said, dict) else said
            return _refused(response.status, "not_found", str(message))
        return web.json_response(_as_cloud(hosted, path, said))

    return answer


def _as_cloud(hosted: HostedState, path: str, said: Any) -> Any:
    if path == "/system_stats":
        return {**said, "system": {**said["system"], "cloud_version": _VERSION}}
    if path == "/queue":
        return {name: [_item(*item) for item in items] for name, items in said.items()}
    if path.startswith("/api/jobs") and hosted.traps.v1_seconds:
        return {
            **_seconds(said),
            **({"jobs": [*map(_seconds, said["jobs"])]} if "jobs" in said else {}),
        }
    return said


def _item(
    number: float, prompt_id: str, graph: Any, extra_data: Mapping[str, Any], outputs: Any
) -> list[Any]:
    return [number, prompt_id, graph, outputs, {"create_time": extra_data.get("create_time")}]


def _seconds(job: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value / 1000 if name in _TIMES else value for name, value in job.items()}


def _refused(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"code": code, "message": message}, status=status)


CLOUD_V1_ROUTES: Routes[HostedState] = tuple(
    ("GET", f"/api{path.removeprefix('/api')}", _read(handler, path))
    for method, path, handler in (
        *CATALOGUE_ROUTES,
        *SYSTEM_ROUTES,
        *PROMPT_ROUTES,
        *JOB_ROUTES,
    )
    if method == "GET" and path in _READ
)
