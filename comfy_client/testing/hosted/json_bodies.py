"""The JSON in the bodies of requests, refused if nothing could be done with it."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from ...values import is_shallow
from .v2_errors import Refusal


async def json_body(request: web.Request) -> Any:
    """Return the decoded body of a request.

    Raise Refusal if it is not JSON, is nested too deeply to be copied, or has a lone surrogate.
    """
    try:
        text = await request.text()
        body = json.loads(text)
    except (ValueError, LookupError, RecursionError):
        raise Refusal("invalid_request", "Body must be JSON.") from None
    if not is_shallow(body):
        raise Refusal("invalid_request", "Body is nested too deeply.")
    if "\\u" in text:
        try:
            json.dumps(body, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise Refusal("invalid_request", "Body is no Unicode.") from None
    return body
