"""Pictures in memory, as files that a server reads."""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageSequence

from comfy_client import MissingExtra
from comfy_client.pictures import encoded, is_picture

GRAY = np.arange(15, dtype=np.uint8).reshape(3, 5) * 17


def decoded(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


class Tensor:
    """As much of a torch tensor as is used; on another device, and of a graph."""

    shape = (1, 3, 5)

    def __init__(self, values: Any, dtype: str = "torch.float32", *, is_here: bool = False) -> None:
        self.values, self.dtype, self.is_here = values, dtype, is_here

    def detach(self) -> Tensor:
        return Tensor(self.values, self.dtype)

    def cpu(self) -> Tensor:
        return Tensor(self.values, self.dtype, is_here=True)

    def float(self) -> Tensor:
        return Tensor(self.values, is_here=self.is_here)

    def __array__(self, *args: Any, **named: Any) -> Any:
        assert self.is_here
        assert self.dtype == "torch.float32"
        return np.asarray(self.values, dtype=np.float32)


@given(
    st.sampled_from(
        [
            *(((3, 4), (1, 3, 4, 1)), ((3, 4, 1), (1, 3, 4, 1)), ((3, 4, 3), (1, 3, 4, 3))),
            *(((3, 4, 4), (1, 3, 4, 4)), ((1, 3, 4, 3), (1, 3, 4, 3)), ((1, 3, 4), (1, 1, 3, 4))),
            *(
                ((2, 3, 5), (2, 3, 5, 1)),
                ((5, 3, 4, 3), (5, 3, 4, 3)),
                ((2, 3, 4, 4), (2, 3, 4, 4)),
            ),
        ]
    ),
    st.randoms(use_true_random=False),
    st.booleans(),
)
def test_bytes_of_an_array_are_the_pixels(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], random: Any, same: bool
) -> None:
    """Of floats, what is nearest; of a batch all pictures, equal ones and empty ones too."""
    shape, pages = shapes
    size = int(np.prod(shape))
    array = np.frombuffer(bytes(size) if same else random.randbytes(size), np.uint8).reshape(shape)
    for kind in (array, array.astype(np.int64), array / 255, (array / 255).astype(np.float16)):
        image = decoded(encoded(kind))
        assert (image.format, image.mode) == ("PNG", "RGBA" if pages[-1] == 4 else "RGB")
        sent = [np.asarray(image) for image in ImageSequence.Iterator(image)]
        assert np.array_equal(np.stack(sent), np.broadcast_to(array.reshape(pages), np.shape(sent)))


@pytest.mark.parametrize(
    ("array", "pixels"),
    [
        (np.array([[True, False]]), [255, 0]),
        (np.array([[0, 128, 129, 65535]], np.uint16), [0, 0, 1, 255]),
        (np.array([[-0.2, 0.0, 0.5, 1.0, 1.2]]), [0, 0, 128, 255, 255]),
        (np.array([[0, 255]], np.int64), [0, 255]),
    ],
)
def test_numbers_of_other_types_become_8_bits(array: Any, pixels: list[int]) -> None:
    """Of 16 bits the nearest; what is a little beyond the range is at its end."""
    assert list(decoded(encoded(array)).getchannel("R").tobytes()) == pixels


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((3, 8, 8)), r"channels first.*x.permute\(1, 2, 0\).*x\[..., None\]"),
        (np.zeros((2, 3, 8, 8)), r"x.transpose\(0, 2, 3, 1\)"),
        (np.zeros((2, 8, 8, 2)), "C is 1, 3 or 4"),
        (np.zeros((1, 1, 8, 8, 3)), "not a picture"),
        (np.zeros((0, 8)), "is empty"),
        (np.full((8, 8), 200.0), "floats must be 0 to 1.*astype"),
        (np.full((8, 8), -1.0), "floats must be 0 to 1"),
        (np.full((8, 8), np.nan), "floats must be 0 to 1"),
        (np.full((8, 8), 256), "integers must be 0 to 255"),
        (np.full((8, 8), "x"), "not a picture"),
        (np.full((8, 8), None), "not a picture"),
        (np.full((8, 8), 1j), "not a picture"),
        (Image.new("F", (8, 8)), "has no range"),
        (Image.new("I", (8, 8), -1), "beyond 0 to 65535"),
        (Image.new("RGB", (0, 8)), "is empty"),
    ],
)
def test_arrays_that_are_no_picture_are_refused_with_a_remedy(array: Any, told: str) -> None:
    """Another shape, another range."""
    with pytest.raises(ValueError, match=told):
        encoded(array)


@pytest.mark.parametrize(
    ("mode", "sent"),
    [
        *(("1", "RGB"), ("L", "RGB"), ("LA", "RGBA"), ("P", "P"), ("RGB", "RGB")),
        *(("RGBA", "RGBA"), ("CMYK", "RGB"), ("YCbCr", "RGB"), ("HSV", "RGB"), ("PA", "RGBA")),
        *(("La", "RGBA"), ("RGBX", "RGB"), ("RGBa", "RGBA"), ("I", "RGB"), ("I;16", "RGB")),
    ],
)
def test_a_pillow_image_of_any_kind_is_sent(mode: str, sent: str) -> None:
    """As it is, or as the nearest that all servers read as it is: not as gray."""
    assert decoded(encoded(Image.new(mode, (4, 3)))).mode == sent


def test_16_bits_of_pillow_are_rounded() -> None:
    """As those of an array."""
    deep = np.arange(0, 65536, 17, dtype=np.uint16).reshape(1, -1)
    for image in (Image.fromarray(deep), Image.fromarray(deep.astype(np.int32))):
        assert encoded(image) == encoded(deep)


def test_metadata_do_not_travel_and_do_not_change_the_name() -> None:
    """Pictures with the same pixels are the same picture."""
    plain = Image.fromarray(GRAY)
    told = plain.copy()
    told.info["Comment"] = "secret"
    told.getexif()[0x0131] = "a program"
    assert encoded(told) == encoded(plain)


@pytest.mark.parametrize(
    ("mask", "alpha"),
    [
        (GRAY, 255 - GRAY),
        (GRAY[None] / 255, 255 - GRAY),
        (Image.fromarray(GRAY), 255 - GRAY),
        (Image.fromarray(GRAY).convert("RGB"), 255 - GRAY),
        (np.dstack([GRAY, GRAY, GRAY, GRAY]), GRAY),
        (Image.merge("LA", [Image.new("L", (5, 3)), Image.fromarray(GRAY)]), GRAY),
    ],
)
def test_white_is_what_is_masked_unless_there_is_an_alpha(mask: Any, alpha: Any) -> None:
    """What is masked is transparent."""
    assert np.array_equal(decoded(encoded(mask, as_mask=True)).getchannel("A"), alpha)


def test_a_tensor_is_taken_from_its_device_and_its_graph() -> None:
    """Also of a type that NumPy does not have."""
    for dtype in ("torch.float32", "torch.bfloat16"):
        tensor = Tensor(GRAY[None] / 255, dtype)
        assert is_picture(tensor)
        assert encoded(tensor) == encoded(GRAY)


@pytest.mark.parametrize("value", [np.float32(7), np.arange(4), np.array(1), "x", b"x", [[1]], np])
def test_numbers_and_lists_are_no_pictures(value: Any) -> None:
    """Nor are classes and modules."""
    assert not is_picture(value)
    assert not is_picture(np.ndarray)
    assert not is_picture(Image.Image)


@pytest.mark.parametrize(("library", "extra"), [("numpy", "numpy"), ("PIL", "image")])
def test_a_missing_library_is_named(
    monkeypatch: pytest.MonkeyPatch, library: str, extra: str
) -> None:
    """As the extra that installs it."""
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra, match=rf"an array.* needs .*\[{extra}\]") as caught:
        encoded(Tensor(GRAY / 255))
    assert caught.value.extra == extra
