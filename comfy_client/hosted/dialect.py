"""The typed error for each refusal by Comfy API v2, or by a gateway in front of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final, NamedTuple

from .. import runtime
from ..errors import (
    ApiError,
    AuthenticationError,
    ComfyError,
    Conflict,
    NotFound,
    NotSupported,
    PaymentRequired,
    Throttled,
    UnexpectedResponse,
    UploadTooLarge,
)
from ..transport.response import (
    Asker,
    Dialect,
    Response,
    about_redirect,
    reason_of,
    route_is_missing,
    wants_tls,
)
from ..values import text
from .unsupported import check_route

#: The longest time in seconds that a server may ask to wait; a longer one counts as this.
MOST_RETRY_AFTER: Final = 3600.0
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
    if status == 429:
        wait = retry_after(answer.headers)
        return Throttled(f"{what}, too many requests{said}", retry_after=wait, **kw)
    return ApiError(f"{what}{said}", **kw)


def code_of(body: object) -> str | None:
    """Return the code in the JSON body of an error, which is at ``error.code``, or None."""
    error = body.get("error") if isinstance(body, Mapping) else None
    return text(error.get("code"), 100) if isinstance(error, Mapping) else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait by the header ``Retry-After``; None if it is missing or invalid.

    The header may have a date; one in the past gives 0.  At most, it is :data:`MOST_RETRY_AFTER`.
    """
    given = headers.get("retry-after", "").strip()[:100]
    if re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,15})?", given):
        return min(float(given), MOST_RETRY_AFTER)
    try:
        until = parsedate_to_datetime(given)
        left = (
            until if until.tzinfo else until.replace(tzinfo=UTC)
        ).timestamp() - runtime.wall_time()
    except (ValueError, OverflowError, TypeError):
        return None
    return min(max(0.0, left), MOST_RETRY_AFTER)


#: The dialect of Comfy API v2.
HOSTED: Final = Dialect(
    refusal=refusal,
    check_route=check_route,
    has_api_prefix=True,
    refused="is the server running, and on this port? (comfy-api-proxy: 8189 by default)",
)
