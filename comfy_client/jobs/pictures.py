"""Outputs as pictures: for Pillow, for NumPy, and on the screen."""

from __future__ import annotations

import io
import logging
import os
import tempfile
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..errors import UnexpectedResponse
from ..extras import needs_extra
from ..showing.screen import is_notebook
from ..showing.thumbnails import FORMATS
from ..workflow.graph import brief

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import Image

log: logging.Logger = logging.getLogger("comfy_client")

#: Modes of Pillow whose numbers are an array's as they are.
_PLAIN: Final = frozenset({"L", "RGB", "RGBA", "I;16", "I", "F"})


def pillow_image(data: bytes, name: str) -> Image.Image:
    """Return a loaded image; :class:`UnexpectedResponse` if it is none that Pillow reads."""
    with needs_extra("image", "pil()"):
        from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        image.load()
    except UnidentifiedImageError:  # its text is about our buffer
        raise UnexpectedResponse(f"Pillow cannot read {brief(name)}: it is no image") from None
    except Image.DecompressionBombError as exc:
        raise UnexpectedResponse(
            f"Pillow cannot read {brief(name)}: {exc}  If it is meant to be so large, raise "
            "PIL.Image.MAX_IMAGE_PIXELS, or save() it"
        ) from None
    except Exception as exc:  # noqa: BLE001  # Pillow raises whatever it comes across
        raise UnexpectedResponse(f"Pillow cannot read {brief(name)}: {exc}") from None
    return image


def pixels(data: bytes, name: str, *, strip: int = 1 << 20) -> npt.NDArray[Any]:
    """Return the pixels of an image: grey, or red, green and blue, perhaps with alpha.

    They are copied in strips of about so many pixels, since Pillow makes two more copies of what
    it hands out.
    """
    with needs_extra("numpy", "array()"):
        import numpy as np

    image = pillow_image(data, name)
    mode = image.mode
    if mode not in _PLAIN:
        mode = "L" if mode == "1" else "RGBA" if image.has_transparency_data else "RGB"
    width, height = image.size
    rows = max(1, strip // width)

    def copied(top: int) -> npt.NDArray[Any]:
        box = (0, top, width, min(top + rows, height))
        return np.asarray(image.crop(box).convert(mode))

    first = copied(0)
    array = np.empty((height, *first.shape[1:]), first.dtype)
    for top in range(0, height, rows):
        array[top : top + rows] = copied(top)
    return array


def show(data: bytes, name: str, media: str) -> None:
    """Show a file below the cell of a notebook, or in the browser."""
    if is_notebook():
        _display(data, name, media)
        return
    path = Path(tempfile.mkdtemp(prefix="comfy-client-")) / name
    path.write_bytes(data)  # stays: the browser may read it later
    if not webbrowser.open(path.as_uri()):
        log.warning("there is no browser to show it: see %s", path)


def _display(data: bytes, name: str, media: str) -> None:
    from IPython import display

    ending = os.path.splitext(name)[1][1:].lower()
    if media == "image":
        kind = {"jpg": "jpeg"}.get(ending, ending)
        shown: object = (
            display.Image(data, format=kind) if kind in _SHOWN else pillow_image(data, name)
        )
    elif media == "video":
        shown = display.Video(data, embed=True, mimetype=_MIME.get(ending, "video/mp4"))
    else:
        shown = display.Audio(data)
    display.display(shown)


#: What :class:`IPython.display.Image` embeds; others are converted.
_SHOWN: Final = frozenset({"png", "jpeg", "gif", "webp"})
_MIME: Final = {"webm": "video/webm", "mov": "video/quicktime", "mkv": "video/x-matroska"}
