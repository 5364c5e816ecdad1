"""The JSON in the bodies of requests, refused if nothing could be done with it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final, TypeVar

from aiohttp import web

from ...values import is_shallow
from .v2_errors import Refusal

_T = TypeVar("_T")
#: The most characters of a body that are examined without letting other requests in between.
_SHORT: Final = 1 << 18


async def examined(length: int, examine: Callable[..., _T], *args: Any) -> _T:
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
