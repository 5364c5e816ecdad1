"""Outputs as Pillow images, as arrays, and on the screen."""

from __future__ import annotations

import builtins
import io
import os
import struct
import subprocess
import sys
import warnings
import webbrowser
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from comfy_client import MissingExtra, Output, UnexpectedResponse
from comfy_client.jobs.output import OutputFrame, pillow_image, pixels
from comfy_client.showing.thumbnails import thumbnail


def output_of(image: Image.Image, kind: str = "PNG", **options: Any) -> Output:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return frame(file.getvalue(), f"a.{kind.lower()}")


def frame(data: bytes, name: str = "a.png") -> Output:
    return OutputFrame(name, mime="image/png", data=memoryview(data))


def gradient(mode: str) -> Image.Image:
    return Image.linear_gradient("L").resize((6, 4)).convert(mode)


# -- Pillow ---------------------------------------------------------------------------------


def test_a_pillow_image_has_the_pixels_and_the_texts() -> None:
    """Loaded: the file is not needed any more."""
    texts = PngImagePlugin.PngInfo()
    texts.add_text("prompt", '{"3": {}}')
    image = output_of(gradient("RGBA"), pnginfo=texts).pil()
    assert (image.mode, image.size, image.info["prompt"]) == ("RGBA", (6, 4), '{"3": {}}')
    assert image.tobytes() == gradient("RGBA").tobytes()


def test_an_animated_image_has_all_its_frames() -> None:
    """The first one is shown."""
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    options = {"save_all": True, "append_images": frames[1:], "lossless": True}
    image: Any = output_of(frames[0], "WEBP", **options).pil()
    assert image.n_frames == 3
    assert image.convert("RGB").getpixel((0, 0)) == (255, 0, 0)
    image.seek(2)
    assert image.convert("RGB").getpixel((0, 0)) == (0, 0, 255)


def bomb() -> bytes:
    head = struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


@pytest.mark.parametrize("data", [b"", b"no image", bomb(), b"\x89PNG\r\n\x1a\n" + bytes(100)])
def test_pil_of_a_broken_image_is_one_typed_error(data: bytes) -> None:
    """Whatever Pillow raises; a few bytes never take gigabytes."""
    with pytest.raises(UnexpectedResponse, match=r"Pillow cannot read 'a\.png'"):
        frame(data).pil()


@pytest.mark.parametrize("method", ["pil", "array"])
def test_a_picture_beyond_the_limit_says_how_to_raise_it(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow's own limit counts, so that whoever has larger pictures has one to change."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 11)
    output = output_of(Image.new("RGB", (6, 4)))
    with pytest.raises(UnexpectedResponse, match=r"24 pixels.*PIL\.Image\.MAX_IMAGE_PIXELS"):
        getattr(output, method)()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        getattr(output, method)()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "LA"])
def test_an_array_of_several_strips_is_that_of_one(
    mode: str,
) -> None:
    """Whatever the height, which need be no multiple of a strip's."""
    image = Image.radial_gradient("L").resize((37, 29)).convert(mode)
    data = output_of(image).bytes()
    whole = pixels(data, "a.png")
    for strip in (1, 37 * 2, 37 * 28):
        assert (pixels(data, "a.png", strip=strip) == whole).all()


def test_no_picture_of_a_server_starts_a_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow has Ghostscript draw PostScript, for as long as that takes."""
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n%%EOF\n"
    with pytest.raises(UnexpectedResponse):
        pillow_image(data, "a.png")
    assert thumbnail(data) is None
    assert not (tmp_path / "started").exists()


def test_a_truncated_image_is_no_image() -> None:
    """It is loaded at once, not when somebody looks at the lower half."""
    data = output_of(gradient("RGB").resize((300, 300))).bytes()
    with pytest.raises(UnexpectedResponse):
        frame(data[: len(data) // 2]).pil()


@pytest.mark.parametrize("method", ["pil", "array"])
@pytest.mark.parametrize(("name", "kind"), [("a.mp4", "video"), ("a.flac", "audio")])
def test_a_video_is_no_image(method: str, name: str, kind: str) -> None:
    """Nothing is fetched to find that out."""
    with pytest.raises(
        ValueError, match=rf"'{name}' is not an image but {kind}: it has no {method}\(\)"
    ):
        getattr(frame(b"", name), method)()


# -- NumPy ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "shape", "dtype"),
    [
        ("RGB", (4, 6, 3), "uint8"),
        ("RGBA", (4, 6, 4), "uint8"),
        ("L", (4, 6), "uint8"),
        ("I;16", (4, 6), "uint16"),
        ("P", (4, 6, 3), "uint8"),
        ("1", (4, 6), "uint8"),
        ("LA", (4, 6, 4), "uint8"),
    ],
)
def test_an_array_has_height_width_and_colours(
    mode: str, shape: tuple[int, ...], dtype: str
) -> None:
    """The numbers are those of the file, and may be changed."""
    image = gradient("L").convert("I;16") if mode == "I;16" else gradient(mode)
    array = output_of(image).array()
    assert (array.shape, str(array.dtype)) == (shape, dtype)
    if mode in ("RGB", "RGBA", "L", "I;16"):
        assert (array == np.array(image)).all()
    array[0, 0] = 0


def test_a_palette_with_transparency_has_alpha() -> None:
    """As it is shown."""
    image = gradient("P")
    assert output_of(image, transparency=0).array().shape == (4, 6, 4)


@pytest.mark.parametrize(
    ("method", "module", "extra"),
    [("pil", "PIL", "image"), ("array", "numpy", "numpy"), ("array", "PIL", "image")],
)
def test_a_missing_library_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, method: str, module: str, extra: str
) -> None:
    """One sentence that says what to install."""
    output = output_of(gradient("RGB"))
    real = builtins.__import__

    def without(name: str, *args: Any, **kw: Any) -> Any:
        if name.partition(".")[0] == module:
            raise ImportError(f"No module named {module!r}", name=module)
        return real(name, *args, **kw)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=rf"of the extra \[{extra}\]"):
        getattr(output, method)()


def test_importing_the_package_imports_neither() -> None:
    """They take longer than all the rest."""
    code = "import sys, comfy_client; print({'numpy', 'PIL', 'IPython', 'pandas'} & {*sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


# -- on the screen --------------------------------------------------------------------------


def test_a_script_shows_it_in_the_browser(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A copy under a harmless name, which the browser may read when it likes."""
    opened: list[str] = []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)
    output = output_of(gradient("RGB"))
    frame(output.bytes(), "../../a.png").show()
    [url] = opened
    path = Path(url2pathname(urlsplit(url).path))
    assert path.name == "a.png"
    assert path.parent.parent == tmp_path
    assert path.read_bytes() == output.bytes()


def test_without_a_browser_the_log_says_where_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a server."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(webbrowser, "open", lambda _: False)
    output_of(gradient("RGB")).show()
    assert f"see {tmp_path}" in caplog.text


@pytest.mark.parametrize("name", ["a.html", "a.svg", "a.latent", "a", "a.png.exe"])
def test_only_pictures_and_sounds_are_shown(name: str) -> None:
    """A browser would run a page of the server's as one of this machine."""
    with pytest.raises(ValueError, match="not an image, video or audio"):
        frame(b"<script>", name).show()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.png", "Image"), ("a.bmp", "PngImageFile"), ("a.webm", "Video"), ("a.flac", "Audio")],
)
def test_a_notebook_shows_it_below_the_cell(
    monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    """Formats that a notebook does not embed are converted by Pillow."""
    import IPython
    from IPython import display

    class Shell:
        kernel = object()

    shown: list[object] = []
    monkeypatch.setattr(IPython, "get_ipython", Shell)
    monkeypatch.setattr(display, "display", shown.append)
    frame(output_of(gradient("RGB")).bytes(), name).show()
    assert [type(one).__name__ for one in shown] == [kind]
