"""Errors in the form of Comfy API v2, and JSON bodies, refused if nothing can be done with one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from aiohttp import web

from ...values import T, is_shallow
from ..wire import Answer

#: The status of each code, and the text that explains it.
_CODES = {
    "invalid_request": (400, "The request is invalid."),
    "invalid_cursor": (400, "The cursor is invalid."),
    "invalid_metadata_filter": (400, "At most 3 filters of the form metadata[key]=value."),
    "unauthorized": (401, "Missing or malformed Authorization header."),
    "insufficient_credits": (402, "The account has no credits left."),
    "forbidden": (403, "The key does not allow this."),
    "forbidden_origin": (403, "Cross-site request blocked (Sec-Fetch-Site: cross-site)."),
    "public_deployment_no_list": (403, "A public deployment does not list its jobs."),
    "not_found": (404, "Unknown asset id."),
    "blob_not_found": (404, "No blob the caller may mint from."),
    "output_unavailable": (
        404,
        (
            "Output bytes are no longer retrievable upstream. "
            "Retrying cannot help; re-execute with a changed prompt hash."
        ),
    ),
    "hash_mismatch": (409, "Client-declared hash does not match the received bytes."),
    "asset_in_use": (409, "A job that has not ended uses the asset."),
    "payload_too_large": (413, "The upload is too large."),
    "invalid_workflow": (422, "Missing 'workflow' (API-format graph)."),
    "workflow_format_ui": (
        422,
        "This is a UI-export graph. Export the workflow in API format instead.",
    ),
    "missing_asset": (422, "Unresolvable core/ASSET reference(s)."),
    "idempotency_key_reuse": (
        422,
        (
            "This Idempotency-Key has already been used. Keys are single-use; "
            "poll or list your jobs instead of resubmitting with the same key."
        ),
    ),
    "metadata_invalid": (
        422,
        "'metadata' must be a map of at most 16 strings of at most 256 bytes.",
    ),
    "metadata_not_supported": (422, "'metadata' is not supported here."),
    "deployment_stopped": (422, "The deployment is stopped."),
    "deployment_not_ready": (429, "The deployment is starting."),
    "queue_full": (429, "The queue is full."),
    "rate_limited": (429, "Too many requests."),
    "too_many_streams": (
        429,
        "Maximum concurrent event streams reached; poll GET /jobs/{id} instead.",
    ),
    "upstream_error": (500, "ComfyUI failed."),
    "not_implemented": (501, "This surface does not have this route."),
    "upstream_unreachable": (503, "Could not reach ComfyUI."),
}


class Refusal(Exception):
    """The refusal of a request, with an error of Comfy API v2."""

    def __init__(
        self,
        code: str,
        message: str | None = None,
        *,
        status: int | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(code)
        self.answer: Answer = hosted_error(code, message, status=status, details=details)

    def response(self) -> web.Response:
        """Return the answer for aiohttp."""
        status, headers, body = self.answer
        return web.Response(
            status=status, headers=headers, text=json.dumps(body), content_type="application/json"
        )


def invalid(message: str) -> Refusal:
    """Return the refusal of a request whose parts are not as they must be, with status 422."""
    return Refusal("invalid_request", message, status=422)


def hosted_error(
    code: str,
    message: str | None = None,
    *,
    status: int | None = None,
    details: Mapping[str, Any] | None = None,
    retry_after: float | None = None,
) -> Answer:
    """Return an error of Comfy API v2 as an answer for ``server.on`` or ``faults.answer``.

    ``server.faults.answer("POST", "/v2/jobs", hosted_error("queue_full"), times=2)`` refuses two
    jobs.

    Args:
        code: The code, such as ``"queue_full"``, ``"rate_limited"``, ``"insufficient_credits"``,
            ``"deployment_stopped"``, ``"upstream_unreachable"``.
        message: The text; ``None``: one that suits the code.
        status: The status; ``None``: that of the code.
        details: The details.
        retry_after: Seconds for ``Retry-After``; ``None``: 5 if the status is 429, else no header.

    Raises:
        ValueError: An unknown code without a status.
    """
    known = _CODES.get(code)
    if known is None and status is None:
        raise ValueError(f"unknown code {code!r}: there are {', '.join(_CODES)}")
    usual, text = known or (0, code)
    status = status or usual
    if retry_after is None and status == 429:
        retry_after = 5
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
    error = {"code": code, "message": message or text, "details": dict(details or {}) or None}
    return status, headers, {"error": error}


#: The most characters of a body that are examined without letting other requests in between.
_SHORT: Final = 1 << 18


async def examined(length: int, examine: Callable[..., T], *args: Any) -> T:
    """Return what a function makes of a body; while it examines a long one, others are answered."""
    return examine(*args) if length <= _SHORT else await asyncio.to_thread(examine, *args)


async def json_body(request: web.Request) -> Any:
    """Return the decoded body of a request.

    Raise Refusal if it is not JSON, is nested too deeply to be copied, or has a lone surrogate.
    """
    try:
        text = await request.text()
    except (ValueError, LookupError):
        raise Refusal("invalid_request", "Body must be JSON.") from None
    return await examined(len(text), _decoded, text)


def _decoded(text: str) -> Any:
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        raise Refusal("invalid_request", "Body must be JSON.") from None
    if not is_shallow(body):
        raise Refusal("invalid_request", "Body is nested too deeply.")
    if "\\u" in text:
        try:
            json.dumps(body, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise Refusal("invalid_request", "Body is no Unicode.") from None
    return body
