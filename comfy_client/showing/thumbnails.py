"""Small versions of pictures, so that a notebook's file stays small."""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from .html import data_url, image

if TYPE_CHECKING:
    from PIL import Image

#: Held while a picture is decoded, one at a time to save memory.
_decoding: Final = threading.Lock()

#: CSS pixels of the longer side, one of several pictures and one alone.
SIZE: Final = 256
SIZE_ALONE: Final = 512
#: Pixels that are sent for a CSS pixel, since many screens have two.
_DENSITY: Final = 2
#: Formats that Pillow may read; for some others it starts programs.
FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")
#: The most pixels of a decoded picture, and the most bytes of one that is shown unchanged: an
#: animation, or any picture without Pillow.
MAX_PIXELS: Final = 40_000_000
_MOST_AS_IS: Final = 256 << 10
_SIGNATURES: Final = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
}


class TooLarge(Exception):
    """A picture has more pixels than are decoded for display."""


def thumbnail(data: bytes | memoryview, size: int = SIZE) -> str | None:
    """Return a picture as HTML, at most ``size`` CSS pixels a side; None if it cannot be shown.

    Pillow (extra ``[image]``) makes a WebP of twice that size, which is sharp on any screen.  A
    short animation, and without Pillow a small file, are shown unchanged.
    """
    try:
        with _opened(data) as picture:
            if getattr(picture, "is_animated", False) and len(data) <= _MOST_AS_IS:
                return _as_it_is(data, size)
            small = _reduced(picture, _DENSITY * size)
        file = io.BytesIO()
        small.save(file, "WEBP", quality=80, method=2)
    except ImportError:
        return _as_it_is(data, size)
    except Exception:  # noqa: BLE001  # Pillow raises whatever it comes across
        return None
    source = data_url("image/webp", file.getvalue())
    scale = min(1.0, size / max(small.size))
    width, height = (max(1, round(scale * side)) for side in small.size)
    return source and image(source, (width, height), size)


def reduced(data: bytes | memoryview, size: int) -> Image.Image:
    """Decode a picture to at most ``size`` pixels a side, 8 bits per channel; one thread at a time.

    Raises:
        TooLarge: It has too many pixels.
        Exception: Pillow cannot read it; the type depends on the fault.
    """
    with _opened(data) as picture:
        return _reduced(picture, size)


@contextlib.contextmanager
def _opened(data: bytes | memoryview) -> Iterator[Image.Image]:
    """Context manager: open a picture without decoding pixels; one thread at a time."""
    from PIL import Image

    with _decoding, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # decompression bombs; MAX_PIXELS is checked below
        try:
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
        except Image.DecompressionBombError:
            raise TooLarge from None
        if picture.width * picture.height > MAX_PIXELS:
            raise TooLarge
        yield picture


def _reduced(picture: Image.Image, size: int) -> Image.Image:
    picture.draft("RGB", (2 * size, 2 * size))
    # Convert after scaling where the mode allows scaling.
    small = picture if picture.mode in ("L", "LA", "RGB", "RGBA") else _plain(picture)
    small.thumbnail((size, size))
    return _plain(small)


def _plain(picture: Image.Image) -> Image.Image:
    """Convert a picture to 8 bits a channel."""
    if picture.mode.startswith("I"):  # 16 bits of grey
        grey: Any = picture.convert("I")
        return grey.point(lambda value: value * (1 / 256)).convert("L")  # type: ignore[no-any-return]
    mode = "RGBA" if picture.has_transparency_data else "RGB"
    return picture if picture.mode == mode else picture.convert(mode)


def _as_it_is(data: bytes | memoryview, size: int) -> str | None:
    mime = sniffed(data)
    if mime is None or len(data) > _MOST_AS_IS:
        return None
    source = data_url(mime, data)
    return source and image(source, None, size)


def is_plain(start: bytes | memoryview) -> bool:
    """Return whether a picture's header rules out alpha and more than 8 bits per channel."""
    mime = sniffed(start)
    if mime == "image/png":  # bit depth and colour type: grey or RGB
        return len(start) > 25 and start[24] <= 8 and start[25] in (0, 2)
    return mime == "image/jpeg"


def sniffed(data: bytes | memoryview) -> str | None:
    """Return the MIME type of a picture by its first bytes; None unless all browsers show it."""
    start = bytes(data[:16])
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "image/webp"
    return next((mime for magic, mime in _SIGNATURES.items() if start.startswith(magic)), None)
