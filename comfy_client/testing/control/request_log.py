"""Routes for the requests that a server has received, and for verifying them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from difflib import SequenceMatcher
from fnmatch import fnmatchcase
from typing import Any, Final

import attrs

from ..active_faults import check_count
from ..wire import Request
from .controlled import (
    ControlCall,
    ControlError,
    ControlledServer,
    ControlRoutes,
    check_members,
    invalid,
)

_MOST: Final = 1000  # requests in an answer
_NEAREST: Final = 3  # requests in the answer of a verification that failed
_COMPARED: Final = 200  # the last requests, among which these are sought
_ABSENT: Final = object()


def _requests(server: ControlledServer, call: ControlCall) -> tuple[int, Any]:
    """Answer with the requests after an id, oldest first."""
    call.only("method", "path", "since", "limit", "body")
    since, limit = call.number("since", 0, 10**15), call.number("limit", 100, _MOST)
    with_body = bool(call.number("body", 0, 1))
    wanted = _Wanted(call.query.get("method", "*"), call.query.get("path", "*"))
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
    data = call.fields(("method", "path", "body_contains", "count"))
    method, path = data.get("method", "*"), data.get("path", "*")
    if not isinstance(method, str) or not isinstance(path, str):
        raise invalid("method and path must be strings")
    least, most = _bounds(data.get("count"))
    wanted = _Wanted(method, path, data.get("body_contains", _ABSENT))
    received = list(server.requests)
    fitting = [one for one in received if wanted.fits(one)]
    if least <= len(fitting) and (most is None or len(fitting) <= most):
        return 200, {"count": len(fitting), "ids": [one.number for one in fitting[-_MOST:]]}
    limits = f"{least} or more" if most is None else f"{least} to {most}"
    limits = str(least) if least == most else limits
    others = fitting or sorted(received[-_COMPARED:], key=wanted.nearness, reverse=True)
    raise ControlError(
        417,
        "not_as_expected",
        f"{len(fitting)} requests fit, not {limits}",
        more={"count": len(fitting), "nearest": [_shown(r, True) for r in others[:_NEAREST]]},
    )


def _bounds(count: Any) -> tuple[int, int | None]:
    """Return the least and the greatest number of requests; None: any number."""
    if count is None:
        return 1, None
    if isinstance(count, int):
        return check_count("count", count), count
    if not isinstance(count, dict):
        raise invalid('count must be a number, or {"min": ..., "max": ...}')
    check_members(count, ("min", "max"))
    least, most = check_count("min", count.get("min", 0)), count.get("max")
    return least, None if most is None else check_count("max", most, least)


@attrs.frozen
class _Wanted:
    """Which requests fit: ``*`` in method and path stands for any part."""

    method: str
    path: str
    #: What the JSON of the body contains; absent: anything.
    body: Any = _ABSENT

    def meets(self, request: Request) -> bool:
        """Return whether method and path fit."""
        path = request.full_path if self.path.startswith("/api") else request.path
        return fnmatchcase(request.method, self.method.upper()) and fnmatchcase(path, self.path)

    def fits(self, request: Request) -> bool:
        """Return whether the whole request fits."""
        if not self.meets(request):
            return False
        return self.body is _ABSENT or contains(_json_of(request), self.body)

    def nearness(self, request: Request) -> float:
        """Return how much of a request fits: 0 to 3."""
        score = float(fnmatchcase(request.method, self.method.upper()))
        path = request.path[:200]
        score += fnmatchcase(path, self.path) or SequenceMatcher(None, path, self.path).ratio()
        return score + (self.body is _ABSENT or share(_json_of(request), self.body))


def contains(value: Any, part: Any) -> bool:
    """Return whether a JSON value contains a part: an object contains one with fewer members."""
    return share(value, part) == 1.0


def share(value: Any, part: Any) -> float:
    """Return how much of a part a JSON value contains: 0 to 1; lists are of the same length."""
    if isinstance(part, dict) and isinstance(value, dict):
        return _mean([share(value.get(key, _ABSENT), one) for key, one in part.items()])
    if isinstance(part, list) and isinstance(value, list) and len(part) == len(value):
        return _mean([share(a, b) for a, b in zip(value, part, strict=True)])
    are_equal = value == part and isinstance(value, bool) == isinstance(part, bool)
    return float(are_equal)


def _mean(shares: Sequence[float]) -> float:
    return sum(shares) / len(shares) if shares else 1.0


def _json_of(request: Request) -> Any:
    """Return the JSON of a request's body; what no JSON equals if it has none."""
    try:
        return request.json()
    except (ValueError, RecursionError):
        return _ABSENT


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
