"""The reasons why Comfy API v2 lacks routes of ComfyUI, in one sentence for each."""

from __future__ import annotations

from typing import Final

from ..errors import NotSupported

#: The beginning of every route of Comfy API v2.
ROOT: Final = "/api/v2/"

#: Why there is no such route, by the beginning of ComfyUI's route; the longest one counts.
REASONS: Final = {
    "/prompt": "neither counts prompts nor takes them as ComfyUI does: use run() or submit()",
    "/queue": "has no queue of all clients: each job tells its own place",
    "/interrupt": "interrupts no running prompt: cancel the job itself, with job.cancel()",
    "/history": "has no history: a job is asked for by its id, with job(id)",
    "/jobs": "has no list of the jobs of all clients: a job is asked for by its id, with job(id)",
    "/object_info": "does not describe node classes, by which workflows are checked and converted",
    "/node_replacements": "does not say which node classes were replaced",
    "/global_subgraphs": "has no blueprints of subgraphs",
    "/workflow_templates": "has no workflow templates",
    "/extensions": "has no extensions of the frontend",
    "/embeddings": "does not list embeddings",
    "/models": "does not list models",
    "/experiment/models": "does not list models",
    "/view_metadata": "does not read metadata of models",
    "/view": "reads files by their asset, not by their name",
    "/upload/mask": "adds no mask to an image: send an image with an alpha channel",
    "/upload": "keeps files as assets, not in ComfyUI's folders",
    "/users": "has no users of ComfyUI",
    "/settings": "has no settings of the frontend",
    "/userdata": "keeps no files for users of the frontend",
    "/v2/userdata": "keeps no files for users of the frontend",
    "/system_stats": "does not tell versions, devices or memory",
    "/features": "does not tell the features of the server",
    "/free": "frees no memory: the service does that itself",
    "/internal/logs": "does not show the server's log",
    "/internal": "has no internal routes of ComfyUI",
    "/ws": "has no WebSocket: each job has its own event stream",
    "/i18n": "has no translations of node packs",
}
_OTHERWISE: Final = "has no such route: its routes are below /api/v2/"


def reason_for(route: str) -> str:
    """Return the sentence that says why Comfy API v2 lacks a route of ComfyUI."""
    whole = f"{route.removeprefix('/api')}/"
    fitting = [start for start in REASONS if whole.startswith(f"{start}/")]
    return f"Comfy API v2 {REASONS[max(fitting, key=len)] if fitting else _OTHERWISE}"


def check_route(method: str, route: str) -> None:
    """Raise :class:`NotSupported` for every route that is not below ``/api/v2/``."""
    if not route.startswith(ROOT):
        raise NotSupported(reason_for(route))
