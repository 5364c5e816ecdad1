"""From a frame of the socket to events: pure, and it never raises on what a server may send.

Binary frames are big-endian: four bytes that name their type, then, by type,

==  ==========================================================================
1   four bytes of image format (1 JPEG, 2 PNG), the picture
2   server-internal, never sent; read like 1 should one appear
3   four bytes n, node id of n bytes, text; since 2026, when both sides announced
    ``supports_progress_text_metadata``, the prompt id comes before it in the same way
4   four bytes n, n bytes of JSON that name node and prompt, the picture
==  ==========================================================================
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from .events import (
    FROM_SERVER,
    Event,
    LogsEvent,
    PreviewEvent,
    ProgressText,
    TerminalEvent,
    unknown,
)

log = logging.getLogger("comfy_client")

#: What we tell the server in the first message of each connection.
HELLO = json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}})

_FORMATS = {1: "image/jpeg", 2: "image/png"}
_MAGIC = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF8", "image/gif"),
)


def decode_text(data: bytes | memoryview) -> tuple[Event, ...]:
    """The events of a text frame; none when it is not ``{"type": ..., "data": ...}``."""
    try:
        message = json.loads(str(data, "utf-8", "replace"))
    except (ValueError, RecursionError):
        log.debug("skipped a text frame of %d bytes that is no JSON", len(data))
        return ()
    kind = message.get("type") if isinstance(message, dict) else None
    if not isinstance(kind, str) or not kind:
        log.debug("skipped a message of %d bytes without a type", len(data))
        return ()
    payload = message.get("data")
    make = FROM_SERVER.get(kind)
    if make is None or not isinstance(payload, Mapping):
        return (unknown(kind, message),)
    event = make(payload)
    if isinstance(event, LogsEvent):
        return (event, *_terminal(event))
    return (event,)


def _terminal(event: LogsEvent) -> tuple[Event, ...]:
    return tuple(
        TerminalEvent(name="terminal", raw=event.raw, time=entry.time, text=entry.text)
        for entry in event.entries
    )


def decode_binary(data: bytes | bytearray | memoryview) -> tuple[Event, ...]:
    """The events of a binary frame; none when it is broken or of a type unknown here."""
    frame = memoryview(data)
    kind = int.from_bytes(frame[:4], "big") if len(frame) >= 8 else 0
    if kind in (1, 2):
        picture = frame[8:]
        mime = _FORMATS.get(int.from_bytes(frame[4:8], "big")) or _sniff(picture)
        return (PreviewEvent(name="b_preview", mime=mime, view=picture),) if picture else ()
    if kind == 3:
        node, text = _prefixed(frame)
        if node is not None:
            return (
                ProgressText(
                    name="progress_text",
                    node=str(node, "utf-8", "replace") or None,
                    text=str(text, "utf-8", "replace"),
                ),
            )
    if kind == 4:
        header, picture = _prefixed(frame)
        about = _object(header)
        if about is not None and picture:
            return _with_metadata(about, picture)
    log.debug("skipped a binary frame of %d bytes, type %d", len(frame), kind)
    return ()


def _prefixed(frame: memoryview) -> tuple[memoryview | None, memoryview]:
    """The part whose length stands at offset 4, and what follows; ``None``: too short."""
    end = 8 + int.from_bytes(frame[4:8], "big")
    return (None, frame[:0]) if end > len(frame) else (frame[8:end], frame[end:])


def _object(header: memoryview | None) -> Mapping[str, Any] | None:
    if header is None:
        return None
    try:
        about = json.loads(str(header, "utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return about if isinstance(about, dict) else None


def _with_metadata(about: Mapping[str, Any], picture: memoryview) -> tuple[Event, ...]:
    def text(key: str) -> str | None:
        value = about.get(key)
        return value if isinstance(value, str) else None

    facts: dict[str, Any] = {
        "raw": about,
        "mime": text("image_type") or _sniff(picture),
        "view": picture,
        "prompt_id": text("prompt_id"),
        "node_id": text("node_id"),
        "display_node_id": text("display_node_id"),
        "parent_node_id": text("parent_node_id"),
        "real_node_id": text("real_node_id"),
    }
    return tuple(
        PreviewEvent(name=name, **facts) for name in ("b_preview_with_metadata", "b_preview")
    )


def _sniff(picture: memoryview) -> str:
    """The MIME type by the first bytes, for a format that the header does not know."""
    start = bytes(picture[:12])
    if start[:4] == b"RIFF" and start[8:] == b"WEBP":
        return "image/webp"
    return next((mime for magic, mime in _MAGIC if start.startswith(magic)), "image/jpeg")
