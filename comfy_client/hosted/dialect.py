"""The typed error for each refusal by Comfy API v2, or by a gateway in front of it.

Routes of ComfyUI that it lacks are refused here, with the reason in one sentence for each.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from ..errors import (
    ApiError,
    AuthenticationError,
    ComfyError,
    Conflict,
    NotFound,
    NotSupported,
    PaymentRequired,
    UnexpectedResponse,
    UploadTooLarge,
)
from ..transport.response import (
    Asker,
    Dialect,
    Response,
    about_redirect,
    code_of,
    reason_of,
    route_is_missing,
    wants_tls,
)

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
    "/v2/manager": "installs no node packs and no models: it has no ComfyUI-Manager",
    "/crystools": "does not tell how busy a machine is: it has no routes of node packs",
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


#: Codes that mean that the server lacks a route, whatever the status.
_LACKING: Final = frozenset({"not_implemented", "public_deployment_no_list"})


class _Facts(NamedTuple):
    """The facts about a refusal from which its error is made."""

    answer: Response
    what: str  #: The request, and the status.
    said: str  #: The server's message after a colon; empty: there is none.
    code: str | None
    kw: dict[str, Any]  #: Keyword arguments of any error about an answer.


def refusal(answer: Response, size: int | None, asker: Asker) -> ComfyError:
    """Return the typed error for an answer with a status of 300 or more.

    ``size`` is the size of the request's body in bytes, if it has one.
    """
    kw = answer.facts()
    code = code_of(kw["body"])
    said = reason_of(answer, kw["body"])
    what = f"{answer.method} {answer.url}: {answer.status}"
    if answer.status < 400:
        return UnexpectedResponse(f"{answer.method} {answer.url}: {about_redirect(answer)}", **kw)
    if wants_tls(answer):
        return UnexpectedResponse(f"{what}{said}; use https:// in base_url", **kw)
    if answer.status == 404 and answer.is_page:
        return UnexpectedResponse(f"{what}, a web page, and no Comfy API v2{said}", **kw)
    error = _error(_Facts(answer, what, said, code, {**kw, "reason": code}), size, asker)
    may_have_acted = answer.method == "POST" and answer.path.endswith("/jobs")
    if type(error) is ApiError and (answer.status >= 500 or answer.status == 408):
        error.retryable = not may_have_acted
    return error


def _error(facts: _Facts, size: int | None, asker: Asker) -> ApiError:
    answer, what, said, code, kw = facts
    status = answer.status
    if code in _LACKING:
        return NotSupported(f"{what}, this server does not have that{said}", **kw)
    if code is None and route_is_missing(answer):
        advice = "if it is a ComfyUI itself, use ComfyApi"
        return NotSupported(f"{what}, this server does not have that{said}; {advice}", **kw)
    if status == 401:
        given = "refused the key" if asker.has_credentials else "wants a key"
        advice = "pass api_key=..., or set COMFY_API_KEY"
        if asker.left_behind:
            advice = "a pickle leaves it out: set COMFY_API_KEY, and COMFY_BASE_URL to this server"
        return AuthenticationError(f"{what}{said}; the server {given}: {advice}", **kw)
    if status == 402:
        return PaymentRequired(f"{what}, the account has too few credits{said}", **kw)
    if status == 403:
        return AuthenticationError(f"{what}, forbidden{said}", **kw)
    if status == 404:
        return NotFound(f"{what}, not found{said}", **kw)
    if status == 409:
        return Conflict(f"{what}, conflict{said}", **kw)
    if status == 413:
        found = re.search(r"exceeds (\d{1,18}) bytes", answer.words)
        limit = int(found[1]) if found else None
        shown = f"{size} bytes are" if size else "the file is"
        return UploadTooLarge(
            f"{what}, {shown} more than the server accepts{said}", size=size, limit=limit, **kw
        )
    return ApiError(f"{what}{said}", **kw)


#: The dialect of Comfy API v2.
HOSTED: Final = Dialect(
    refusal=refusal,
    check_route=check_route,
    has_api_prefix=True,
    refused="is the server running, and on this port? (comfy-api-proxy: 8189 by default)",
)
