"""Decoding of the socket's messages to events.  Pure; never raises, whatever a server sends.

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
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from ..event_queue import LEAST
from ..events import (
    FROM_SERVER,
    Event,
    LogsEvent,
    PreviewEvent,
    ProgressText,
    TerminalEvent,
    unknown,
)
from ..log_records import AnyLog
from ..values import (
    MAX_ID_LENGTH,
    MAX_LEVELS,
    MAX_TEXT_LENGTH,
    identifier,
    is_shallow,
    size_decoded,
    text,
)

log: logging.Logger = logging.getLogger("comfy_client")

#: The first message to the server on each connection.
HELLO = json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}})

#: The most memory of decoded JSON in bytes, unless the caller allows more.
MAX_DECODED: Final = 64 << 20
#: The most bytes of a picture's metadata; 300 are usual.
MAX_METADATA: Final = 1 << 20

#: The length in characters up to which JSON cannot nest too deep.
_NO_MATTER = 2 * MAX_LEVELS
#: The memory of decoded JSON, at most, as a multiple of its text.
_IN_MEMORY = 24
#: For long messages of a type: the length from which memory is counted, and for each occurrence of
#: a character the bytes that events and jobs need besides.  States are frequent, and replaced.
_COUNTED = {"execution_cached": (_NO_MATTER, ",", 200), "progress_state": (1 << 16, "{", 200)}
_OTHERS = (_NO_MATTER, "", 0)
_decoder: Final = json.JSONDecoder()
#: The scanner of the decoder, which takes no blanks before a value.
_scan: Final[Callable[[str, int], tuple[Any, int]]] = _decoder.scan_once  # type: ignore[attr-defined]  # not in the stubs

#: The head of a frame: its type, and a format or a size.
_HEAD = struct.Struct(">II")
_FORMATS = {1: "image/jpeg", 2: "image/png"}
_MAGIC = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF8", "image/gif"),
)


class _Skipped(tuple[Event, ...]):
    """The result for an unreadable message."""

    __slots__ = ()


#: The result for a message that is unreadable, too large or nested too deep.
SKIPPED: Final = _Skipped()


def decode_text(
    data: bytes | memoryview, most: int = MAX_DECODED, log: AnyLog = log
) -> tuple[Event, ...]:
    """Return the events of a text frame; empty if it is JSON without a ``type``.

    :data:`SKIPPED` if it is not JSON, nests too deeply or would take more than ``most`` bytes.
    """
    said = str(data, "utf-8", "replace")
    length = len(said)
    nbytes = LEAST + _IN_MEMORY * length
    if nbytes > most and (nbytes := _size(said)) > most:
        log.debug(
            "skipped a text frame of %d bytes that would take %d in memory", len(data), nbytes
        )
        return SKIPPED
    try:
        message = _loads(said)
    except RecursionError:
        log.debug("skipped a text frame of %d bytes that nests too deeply", len(data))
        return SKIPPED
    except ValueError:
        log.debug("skipped a text frame of %d bytes that is not JSON", len(data))
        return SKIPPED
    if length > _NO_MATTER and _is_deep(said, message):
        log.debug("skipped a text frame of %d bytes that nests too deeply", len(data))
        return SKIPPED
    kind = message.get("type") if type(message) is dict else None
    if type(kind) is not str or not kind:
        log.debug("skipped a message of %d bytes without a type", len(data))
        return ()
    payload = message.get("data")
    if length > _NO_MATTER:
        least, sign, each = _COUNTED.get(kind, _OTHERS)
        if length > least:
            nbytes = _size(said) + (each and each * said.count(sign))
    read = FROM_SERVER.get(kind)
    if read is None or type(payload) is not dict:
        return (unknown(identifier(kind) or "", message, nbytes),)
    event = read(payload, nbytes)
    if type(event) is LogsEvent:
        return (event, *_terminal(event))
    return (event,)


def _loads(said: str) -> Any:
    """Decode JSON as ``json.loads`` does, without its checks of arguments and spaces."""
    try:
        found, end = _scan(said, 0)
    except (ValueError, StopIteration):
        return _decoder.decode(said)
    return found if end == len(said) else _decoder.decode(said)


def _size(said: str) -> int:
    """Estimate the memory of an event of this JSON, in bytes."""
    # A single wide character makes a whole text take four bytes each.
    return LEAST + size_decoded(said) + sys.getsizeof(said) - len(said)


def _is_deep(said: str, message: object) -> bool:
    """Return whether a JSON text nests too deeply; counting brackets usually suffices."""
    return said.count("[") + said.count("{") > MAX_LEVELS and not is_shallow(message)


def _terminal(event: LogsEvent) -> tuple[Event, ...]:
    return tuple(
        TerminalEvent(
            name="terminal",
            nbytes=LEAST + sys.getsizeof(entry.text),
            time=entry.time,
            text=entry.text,
        )
        for entry in event.entries
    )


def decode_binary(data: bytes | bytearray | memoryview, log: AnyLog = log) -> tuple[Event, ...]:
    """Return the events of a binary frame; empty if it is broken or of an unknown type."""
    frame = memoryview(data)
    kind, number = _HEAD.unpack_from(frame) if len(frame) >= 8 else (0, 0)
    if kind in (1, 2):
        picture = frame[8:]
        mime = _FORMATS.get(number) or sniff(picture)
        if not picture:
            return ()
        nbytes = LEAST + len(frame)
        return (PreviewEvent(name="b_preview", mime=mime, view=picture, nbytes=nbytes),)
    if kind == 3:
        node, said = _prefixed(frame, number)
        if node is not None:
            words = text(str(said[: 4 * MAX_TEXT_LENGTH], "utf-8", "replace")) or ""
            return (
                ProgressText(
                    name="progress_text",
                    nbytes=LEAST + sys.getsizeof(words),
                    node=identifier(str(node[: 4 * MAX_ID_LENGTH], "utf-8", "replace")) or None,
                    text=words,
                ),
            )
    if kind == 4:
        header, picture = _prefixed(frame, number)
        about, nbytes = _object(header)
        if about is not None and picture:
            return _with_metadata(about, picture, nbytes + len(frame))
    log.debug("skipped a binary frame of %d bytes, type %d", len(frame), kind)
    return ()


def _prefixed(frame: memoryview, size: int) -> tuple[memoryview | None, memoryview]:
    """Return the ``size`` bytes after a frame's head, or None if it is too short, and the rest."""
    end = 8 + size
    return (None, frame[:0]) if end > len(frame) else (frame[8:end], frame[end:])


def _object(header: memoryview | None) -> tuple[Mapping[str, Any] | None, int]:
    """Parse a picture's metadata and estimate their size; return ``(None, 0)`` if unusable."""
    if header is None or len(header) > MAX_METADATA:
        return None, 0
    said = str(header, "utf-8", "replace")
    try:
        about = _loads(said)
    except (ValueError, RecursionError):
        return None, 0
    is_long = len(said) > _NO_MATTER
    if not isinstance(about, dict) or (is_long and _is_deep(said, about)):
        return None, 0
    return about, _size(said) if is_long else LEAST + _IN_MEMORY * len(said)


def _with_metadata(about: Mapping[str, Any], picture: memoryview, nbytes: int) -> tuple[Event, ...]:
    facts: dict[str, Any] = {
        "raw": about,
        "nbytes": nbytes,
        "mime": text(about.get("image_type"), MAX_ID_LENGTH) or sniff(picture),
        "view": picture,
        "prompt_id": identifier(about.get("prompt_id")),
        "node_id": identifier(about.get("node_id")),
        "display_node_id": identifier(about.get("display_node_id")),
        "parent_node_id": identifier(about.get("parent_node_id")),
        "real_node_id": identifier(about.get("real_node_id")),
    }
    return (
        PreviewEvent(name="b_preview_with_metadata", **facts),
        PreviewEvent(name="b_preview", **facts),
    )


def sniff(picture: bytes | memoryview) -> str:
    """Return the MIME type of a picture by its first bytes; ``image/jpeg`` if it is unknown."""
    start = bytes(picture[:12])
    if start[:4] == b"RIFF" and start[8:] == b"WEBP":
        return "image/webp"
    return next((mime for magic, mime in _MAGIC if start.startswith(magic)), "image/jpeg")
