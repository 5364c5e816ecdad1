"""Pictures in memory, encoded as files for ComfyUI: Pillow images, arrays and tensors."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any, Final

from .errors import needs_extra

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

#: Modes that PNG keeps and ``LoadImage`` reads unchanged; other modes are converted.
_KEPT: Final = frozenset({"1", "L", "LA", "P", "RGB", "RGBA"})
#: Gray modes, and the modes in which they are sent.
_COLOUR: Final = {"1": "RGB", "L": "RGB", "LA": "RGBA"}
#: How far floats may be outside of 0 to 1, as in a sharpened picture.
_OVERSHOOT: Final = 0.5
_PILLOW, _ARRAY = "a Pillow image", "an array or a tensor"


def is_picture(value: object) -> bool:
    """Return whether a value is a Pillow image, or an array or tensor with rows and columns."""
    return _is_pillow(value) or (
        not isinstance(value, type)
        and (hasattr(value, "__array_interface__") or hasattr(value, "__array__"))
        and len(getattr(value, "shape", ())) >= 2
    )


def encoded(value: Any, *, as_mask: bool = False) -> bytes:
    """Encode a picture as PNG, without loss; a batch as an animated PNG.

    ``LoadImage`` reads an animated PNG as a batch.  From ComfyUI 0.9 on, it reads only the first
    page of a TIFF, and gray pictures 1/255 too dark, so gray is sent as RGB.

    Args:
        value: A Pillow image, or a NumPy array or a tensor ``[H, W]``, ``[H, W, C]``,
            ``[B, H, W]`` or ``[B, H, W, C]``; integers and booleans as usual, floats from 0 to 1.
        as_mask: Whether only the alpha channel is used.  A picture without alpha is then itself the
            mask, and its white parts become transparent.

    Raises:
        MissingExtra: Pillow, or NumPy for an array, is not installed.
        ValueError: It has another shape or range.
    """
    pages = [_plain(value)] if _is_pillow(value) else _pages(value)
    if as_mask:
        pages = [_with_mask(page) for page in pages]
    first, *others = [_in_colour(page) for page in pages]
    file = io.BytesIO()
    # Without a duration, Pillow keeps a picture that equals the previous one.
    first.save(file, "PNG", compress_level=4, save_all=bool(others), append_images=others)
    return file.getvalue()


def _in_colour(image: Image.Image) -> Image.Image:
    return image.convert(_COLOUR[image.mode]) if image.mode in _COLOUR else image


def _is_pillow(value: object) -> bool:
    library = sys.modules.get("PIL.Image")  # if not imported, there is no such image
    return library is not None and isinstance(value, library.Image)


def _plain(image: Image.Image) -> Image.Image:
    """Convert an image to a mode that both PNG and the server keep."""
    if 0 in image.size:
        raise ValueError(f"an image of {image.width} x {image.height} pixels is empty")
    if image.mode in _KEPT:
        return image
    if image.mode.startswith("I"):
        return _gray_of_16_bits(image)
    if image.mode == "F":
        raise ValueError("a Pillow image of floats (F) has no range: give an array, from 0 to 1")
    if image.mode == "La":  # Pillow converts it only in this way
        return image.convert("LA")
    alpha = image.mode.endswith(("A", "a"))
    return image.convert("RGBA" if alpha else "RGB")


def _gray_of_16_bits(image: Image.Image) -> Image.Image:
    """Reduce gray of 16 bits to 8; ``LoadImage`` would show nearly all of it as white."""
    least, most = image.convert("I").getextrema()
    if not 0 <= least <= most <= 0xFFFF:  # type: ignore[operator]  # one band has a pair of numbers
        raise ValueError(f"a Pillow image of mode {image.mode} has values beyond 0 to 65535")
    return image.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")


def _with_mask(image: Image.Image) -> Image.Image:
    from PIL import Image, ImageChops

    if "A" in image.getbands() or "transparency" in image.info:
        return image.convert("RGBA")
    mask = image.convert("L")
    return Image.merge("RGBA", [mask, mask, mask, ImageChops.invert(mask)])


# -- arrays -------------------------------------------------------------------------------


def _pages(value: Any) -> list[Image.Image]:
    with needs_extra("numpy", _ARRAY):
        import numpy as np
    if hasattr(value, "detach"):  # a tensor, maybe part of a graph or on another device
        value = value.detach().cpu()
        value = value.float() if "bfloat16" in str(value.dtype) else value
    array = np.asarray(value)
    if 0 in array.shape:
        raise ValueError(f"an array of the shape {array.shape} is empty")
    return [_image(page) for page in _eight_bits(_batch(array))]


def _batch(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return an array as ``[B, H, W, C]`` or ``[B, H, W]``."""
    channels = array.shape[-1] in (1, 3, 4)
    if array.ndim == 4 and channels:
        return array
    if array.ndim == 3 and channels:
        return array[None]
    if array.ndim == 2:
        return array[None]
    if array.ndim == 3 and array.shape[0] not in (3, 4) and array.shape[2] != 2:
        return array
    hint = ""
    if array.ndim in (3, 4) and array.shape[-3] in (1, 3, 4):
        order = "(1, 2, 0)" if array.ndim == 3 else "(0, 2, 3, 1)"
        hint = f"; with the channels first, transpose it: x.transpose{order}, x.permute{order}"
        hint += "; masks of a batch: x[..., None]" if array.ndim == 3 else ""
    raise ValueError(
        f"an array of the shape {array.shape} is not a picture: [H, W], [H, W, C], [B, H, W] or "
        f"[B, H, W, C], where C is 1, 3 or 4{hint}"
    )


def _eight_bits(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import numpy as np

    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"an array of {array.dtype} is not a picture")
    least, most = array.min(), array.max()
    if array.dtype.kind in "iu":
        if least < 0 or most > 255:
            raise ValueError(f"integers must be 0 to 255, and these are {least} to {most}")
        return array.astype(np.uint8)
    if not (least >= -_OVERSHOOT and most <= 1 + _OVERSHOOT):  # or there is a NaN
        raise ValueError(
            f"floats must be 0 to 1, as in ComfyUI, and these are {least:g} to {most:g}; "
            "for 0 to 255 use x.astype('uint8')"
        )
    made: np.ndarray[Any, Any] = np.rint(np.clip(array, 0, 1).astype(np.float32) * 255)
    return made.astype(np.uint8)


def _image(page: np.ndarray[Any, Any]) -> Image.Image:
    import numpy as np

    with needs_extra("image", _ARRAY):
        from PIL import Image
    if page.ndim == 3 and page.shape[2] == 1:
        page = page[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(page))
