"""Small pictures, so that a notebook's file stays small."""

from __future__ import annotations

import io
import threading
import warnings
from typing import TYPE_CHECKING, Any, Final

from .html import data_url, image

if TYPE_CHECKING:
    from PIL import Image

#: One at a time is decoded, since that takes memory.
_decoding: Final = threading.Lock()

#: Pixels of the longer side.
SIZE: Final = 256
#: What Pillow may read of a server's pictures: for some others it starts programs.
FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")
#: Pixels of a picture that is looked at, and bytes of an animation, or of a picture where Pillow
#: is not installed, that is kept as it is.
_MOST_PIXELS: Final = 40_000_000
_MOST_AS_IS: Final = 256 << 10
_SIGNATURES: Final = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
}


def thumbnail(data: bytes | memoryview, size: int = SIZE) -> str | None:
    """A picture as HTML, at most so large; ``None``: it cannot be shown.

    It is a WebP of Pillow's (extra ``[image]``).  A short animation, and without Pillow a small
    file, are shown as they are.
    """
    try:
        from PIL import Image
    except ImportError:
        return _as_it_is(data, size)
    try:
        with _decoding, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bombs; here is a limit
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
            if picture.width * picture.height > _MOST_PIXELS:
                return None
            if getattr(picture, "is_animated", False) and len(data) <= _MOST_AS_IS:
                return _as_it_is(data, size)
            picture.draft("RGB", (2 * size, 2 * size))
            small = _plain(picture)
            small.thumbnail((size, size))
            file = io.BytesIO()
            small.save(file, "WEBP", quality=80, method=2)
    except Exception:  # noqa: BLE001  # Pillow raises whatever it comes across
        return None
    source = data_url("image/webp", file.getvalue())
    return source and image(source, small.size, size)


def _plain(picture: Image.Image) -> Image.Image:
    """Of 8 bits a channel."""
    if picture.mode.startswith("I"):  # 16 bits of grey
        grey: Any = picture.convert("I")
        return grey.point(lambda value: value * (1 / 256)).convert("L")  # type: ignore[no-any-return]
    return picture.convert("RGBA" if picture.has_transparency_data else "RGB")


def _as_it_is(data: bytes | memoryview, size: int) -> str | None:
    mime = sniffed(data)
    if mime is None or len(data) > _MOST_AS_IS:
        return None
    source = data_url(mime, data)
    return source and image(source, None, size)


def is_plain(start: bytes | memoryview) -> bool:
    """Whether a picture that begins so surely has no alpha, and 8 bits of a channel at most."""
    mime = sniffed(start)
    if mime == "image/png":  # bits of a channel, and the type: grey or colours
        return len(start) > 25 and start[24] <= 8 and start[25] in (0, 2)
    return mime == "image/jpeg"


def sniffed(data: bytes | memoryview) -> str | None:
    """The type of a picture that every browser shows, by its first bytes."""
    start = bytes(data[:16])
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "image/webp"
    return next((mime for magic, mime in _SIGNATURES.items() if start.startswith(magic)), None)
