"""The ComfyUI version that introduced each route.

The docstrings of the routes, the tables of the guide and :class:`~comfy_client.errors.NotSupported`
agree with this table; a route that is not here is older than 2024.
"""

from __future__ import annotations

import re
from typing import Final

#: Versions in the words of the docstrings, by method and route; braces stand for any text.
SINCE: Final = {
    "GET /users": "January 2024",
    "POST /users": "January 2024",
    "GET /settings": "January 2024",
    "POST /settings": "January 2024",
    "GET /settings/{id}": "January 2024",
    "POST /settings/{id}": "January 2024",
    "GET /userdata/{file}": "January 2024",
    "POST /userdata/{file}": "January 2024",
    "POST /free": "January 2024",
    "GET /userdata": "June 2024",
    "DELETE /userdata/{file}": "June 2024",
    "POST /userdata/{source}/move/{dest}": "June 2024",
    "GET /models/{folder}": "August 2024",
    "GET /internal/logs": "August 2024",
    "GET /models": "September 2024",
    "GET /internal/folder_paths": "September 2024",
    "GET /internal/logs/raw": "November 2024",
    "PATCH /internal/logs/subscribe": "November 2024",
    "GET /experiment/models": "December 2024",
    "GET /experiment/models/{folder}": "December 2024",
    "GET /experiment/models/preview/{folder}/{path_index}/{file_name}": "December 2024",
    "GET /workflow_templates": "ComfyUI 0.3.10",
    "GET /api/workflow_templates/{module}/{name}.json": "ComfyUI 0.3.10",
    "GET /i18n": "ComfyUI 0.3.13",
    "GET /internal/files/{type}": "ComfyUI 0.3.15",
    "GET /v2/userdata": "ComfyUI 0.3.31",
    "GET /features": "ComfyUI 0.3.45",
    "GET /global_subgraphs": "ComfyUI 0.3.67",
    "GET /global_subgraphs/{subgraph_id}": "ComfyUI 0.3.67",
    "GET /api/jobs": "ComfyUI 0.6",
    "GET /api/jobs/{job_id}": "ComfyUI 0.6",
    "GET /node_replacements": "ComfyUI 0.14",
    "POST /api/jobs/{job_id}/cancel": "ComfyUI 0.26",
    "POST /api/jobs/cancel": "ComfyUI 0.26",
}


def who_has(method: str, route: str) -> str | None:
    """Describe which versions of ComfyUI have a route; None if all do, or it is unknown."""
    asked = f"{method} {route.removeprefix('/api')}"
    for known in sorted(SINCE, key=len, reverse=True):  # "/models/{folder}" before "/models"
        parts = re.split(r"\{\w+\}", known.replace(" /api", " "))
        if re.fullmatch(".+".join(map(re.escape, parts)), asked):
            since = SINCE[known]
            return f"{since if 'ComfyUI' in since else f'ComfyUI of {since}'} or newer"
    return None
