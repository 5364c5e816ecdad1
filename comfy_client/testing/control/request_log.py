"""Routes for the requests that a server has received, and for verifying them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from ..verifying import WantedRequest, find, wanted_of
from ..wire import Request
from .controlled import ControlCall, ControlError, ControlledServer, ControlRoutes

_MOST: Final = 1000  # requests in an answer


def _requests(server: ControlledServer, call: ControlCall) -> tuple[int, Any]:
    """Answer with the requests after an id, oldest first."""
    call.only("method", "path", "since", "limit", "body")
    since, limit = call.number("since", 0, 10**15), call.number("limit", 100, _MOST)
    with_body = bool(call.number("body", 0, 1))
    wanted = WantedRequest(call.query.get("method", "*"), call.query.get("path", "*"))
    found = [one for one in list(server.requests) if one.number > since and wanted.meets(one)]
    shown = found[:limit]
    return 200, {
        "count": len(found),
        "next": shown[-1].number if shown else since,
        "requests": [_shown(one, with_body) for one in shown],
    }


def _forget(server: ControlledServer, call: ControlCall) -> tuple[int, Any]:
    """Forget all requests."""
    count = len(server.requests)
    server.requests.clear()
    return 200, {"forgotten": count}


def _verify(server: ControlledServer, call: ControlCall) -> tuple[int, Any]:
    """Answer 200 if as many requests fit as wanted, else 417 with the requests that nearly do."""
    data = call.fields(("method", "path", "body_contains", "text_contains", "count"))
    wanted = wanted_of(
        data.get("method", "*"),
        data.get("path", "*"),
        data.get("body_contains"),
        data.get("text_contains"),
    )
    found = find([*server.requests], wanted, data.get("count"))
    if found.is_right:
        ids = [one.number for one in found.fitting[-_MOST:]]
        return 200, {"count": len(found.fitting), "ids": ids}
    nearest = [_shown(request, True) for request in found.nearest]
    more = {"count": len(found.fitting), "nearest": nearest}
    raise ControlError(417, "not_as_expected", found.summary(), more=more)


def _shown(request: Request, with_body: bool) -> Mapping[str, Any]:
    found = {
        "id": request.number,
        "at": datetime.fromtimestamp(request.at, UTC).isoformat(timespec="milliseconds"),
        "method": request.method,
        "path": request.full_path,
        "query": dict(request.query),
        "headers": dict(request.headers),
        "status": request.status,
    }
    return {**found, **(_body(request) if with_body else {})}


def _body(request: Request) -> dict[str, Any]:
    """Return a body as JSON if it is an object or a list, else as text, else in Base64."""
    try:
        text = request.body.decode()
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(request.body).decode()}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {"body": text}
    return {"body": value if isinstance(value, dict | list) else text}


REQUEST_ROUTES: ControlRoutes = (
    ("GET", "/requests", _requests),
    ("DELETE", "/requests", _forget),
    ("POST", "/verify", _verify),
)
