"""Results and their outputs as HTML: thumbnails, players, texts.

The number of pictures, the bytes to fetch and to store in a notebook, and the time are limited.
Nothing is raised: an output that cannot be fetched is shown by its name.  A picture that was shown
is kept as long as its output, and needs no server any more.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol
from weakref import WeakKeyDictionary

from .. import runtime
from ..errors import ComfyError, RequestTimeout
from ..showing.html import (
    card,
    data_url,
    escape,
    link,
    paragraph,
    player,
    remark,
)
from ..showing.thumbnails import SIZE, SIZE_ALONE, is_plain, thumbnail
from ..transport.deadline import in_parallel
from ..transport.response import Download

#: The most outputs with a picture or a player, and the most texts.
MOST_OUTPUTS: Final = 24
MOST_TEXTS: Final = 12
#: The most bytes of HTML for all pictures and players.
MOST_BYTES: Final = 4 << 20
#: The size in bytes beyond which the server is asked to re-encode an image, and the format.
_LARGE: Final = 1 << 20
_PREVIEW: Final = "jpeg;75"
#: The most bytes of an image to fetch, and of a video or audio file to store in the notebook.
MAX_BYTES: Final = 32 << 20
_LARGEST_PLAYER: Final = 1 << 20
#: The most seconds for everything, unless the caller allows fewer.
PATIENCE: Final = 10.0

_MIME: Final = {
    "mp4": "video/mp4",
    "m4v": "video/mp4",
    "webm": "video/webm",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "wav": "audio/wav",
    "ogg": "audio/ogg",
    "opus": "audio/ogg",
    "m4a": "audio/mp4",
}

#: The snippets of outputs that were shown, by size.
_kept: Final[WeakKeyDictionary[Showable, dict[int, str]]] = WeakKeyDictionary()


class Showable(Protocol):
    """The part of :class:`Output` that a gallery needs."""

    @property
    def filename(self) -> str:
        """The name on the server."""

    @property
    def type(self) -> str:
        """The type of the file: ``output``, ``temp`` or ``websocket``."""

    @property
    def media(self) -> str:
        """The kind of file: image, video, audio or other."""

    @property
    def node_id(self) -> str:
        """The id of the node that made the file."""

    @property
    def seed(self) -> int | None:
        """The seed that the file was made with; None if there is none, or it is unclear."""

    @property
    def url(self) -> str | None:
        """The URL for a browser; None for an image that is on no server."""

    def stream(
        self, *, preview: str | None = None, timeout: float | None = None
    ) -> AbstractContextManager[Download]:
        """Stream the content; with ``preview``, the server re-encodes it."""


def gallery(
    files: Sequence[Showable],
    texts: Sequence[str] = (),
    titles: Mapping[str, str] | None = None,
    facts: Sequence[str] = (),
    seconds: float = PATIENCE,
) -> str:
    """Return HTML: a card for each of the first outputs, then the texts and the facts.

    Args:
        files: Outputs.
        texts: Texts that nodes show.
        titles: Names of nodes, by id.
        facts: Remarks that are shown last.
        seconds: How long fetching them may take.
    """
    shown = files[:MOST_OUTPUTS]
    size = SIZE if len(files) > 1 else SIZE_ALONE
    about = [_about(output, titles or {}) for output in shown]
    is_common = len(set(about)) == 1 < len(shown)  # the same for all, as in a batch
    cards = (
        card(picture, [name_of(output), *([] if is_common else [_dim(fact)])], size)
        for output, fact, picture in zip(
            shown, about, pictures(shown, size, seconds=seconds), strict=True
        )
    )
    facts = [*filter(None, about[:1] if is_common else ()), *facts]
    parts = ["".join(cards), *map(paragraph, texts[:MOST_TEXTS])]
    left_out = len(files) - len(shown) + max(0, len(texts) - MOST_TEXTS)
    said = [*([f"and {left_out} more"] if left_out else ()), *facts]
    return "".join(parts) + (remark(", ".join(said)) if said else "")


def _about(output: Showable, titles: Mapping[str, str]) -> str:
    """Describe a file by its seed, the title of its node, and ``temp`` if it is temporary."""
    titled = titles.get(output.node_id)
    facts = [] if output.seed is None else [f"seed {output.seed}"]
    facts += [titled] if titled else []
    facts += [output.type] if output.type == "temp" else []
    return ", ".join(facts)


def _dim(text: str) -> str:
    return f'<span style="opacity:.7">{escape(text, 200)}</span>'


def name_of(output: Showable) -> str:
    """Return the name of a file as HTML, with a link to it."""
    return link(_url(output), escape(output.filename))


def _url(output: Showable) -> str | None:
    try:
        return output.url
    except ValueError:  # it belongs to no client
        return None


def pictures(
    outputs: Iterable[Showable],
    size: int = SIZE,
    most_bytes: int = MOST_BYTES,
    *,
    seconds: float = PATIENCE,
) -> list[str]:
    """Return an HTML snippet for each output, fetched in parallel; ``""`` if it has no picture.

    A picture is a link to its file; ``size`` is in CSS pixels.
    """
    until = runtime.monotonic() + seconds
    full = remark(f"not shown: the others take {most_bytes >> 20} MB already")
    found = []
    for markup in in_parallel(lambda output: _picture(output, size, until), list(outputs)):
        most_bytes -= len(markup)
        found.append(markup if most_bytes > 0 or not markup else full)
    return found


def _picture(output: Showable, size: int, until: float) -> str:
    kept = _kept.setdefault(output, {})
    if size in kept:
        return kept[size]
    if not _left(until) or output.media == "other":
        return ""
    mime = _MIME.get(os.path.splitext(output.filename)[1][1:].lower(), "")
    is_image = output.media == "image"
    if not is_image and not mime:
        return ""
    try:
        if is_image:
            data = _image(output, until)
        else:
            data = fetched(output, _LARGEST_PLAYER, timeout=_left(until))
    except (ComfyError, ValueError):
        return remark("it could not be fetched")
    if data is None:
        return remark("too large to be shown here")
    if is_image:
        found = thumbnail(data, size)
        kept[size] = link(_url(output), found) if found else ""
    else:
        kept[size] = player(output.media, data_url(mime, data) or "")
    return kept[size]


def _image(output: Showable, until: float) -> bytes | None:
    """Fetch the picture for a thumbnail; return None if it is too large.

    For a large picture, the server is asked for a JPEG, which takes a seventh of the time of a
    WebP.  Meanwhile the server answers nothing else, so small pictures are fetched unchanged.  So
    are pictures with transparency, which JPEG lacks, and with 16 bits, which would become white.
    """
    with output.stream(timeout=_left(until)) as download:
        chunks = iter(download)
        start = next(chunks, b"")
        if (download.length or 0) <= _LARGE or not is_plain(start):
            return _all(download.length, start, chunks, MAX_BYTES)
    try:
        return fetched(output, MAX_BYTES, preview=_PREVIEW, timeout=_left(until))
    except RequestTimeout:
        raise
    except ComfyError:  # the server cannot read it, or a proxy refuses the query
        return fetched(output, MAX_BYTES, timeout=_left(until))


def fetched(
    output: Showable, most: int, *, preview: str | None = None, timeout: float | None = None
) -> bytes | None:
    """Return the content of an output, or None if it has more than ``most`` bytes."""
    with output.stream(preview=preview, timeout=timeout) as download:
        return _all(download.length, b"", download, most)


def _all(length: int | None, start: bytes, rest: Iterable[bytes], most: int) -> bytes | None:
    """Join the start and the rest of a file; return None if it is longer than ``most``."""
    if (length or 0) > most:
        return None
    data = bytearray(start)
    for chunk in rest:
        data += chunk
        if len(data) > most:
            return None
    return bytes(data)


def _left(until: float) -> float:
    return max(0.0, until - runtime.monotonic())
