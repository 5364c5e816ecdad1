"""The typed error for each refusal by Comfy API v2, or by a gateway in front of it."""

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
from .unsupported import check_route

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
