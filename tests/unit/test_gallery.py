"""Results as HTML: what a notebook shows of pictures, films, sounds and texts."""

from __future__ import annotations

import base64
import io
import itertools
import pickle
import re
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from comfy_client import ComfyApi, Workflow
from comfy_client.jobs import gallery
from comfy_client.jobs.output import Outputs
from comfy_client.jobs.result import Result, make_result
from comfy_client.showing import cells
from comfy_client.showing.cells import note_shown, render_outcome, was_shown
from comfy_client.showing.thumbnails import thumbnail
from comfy_client.testing import ComfyServer, Request
from tests.helpers.clients import LIMIT
from tests.helpers.long import few

MEDIA = Path(__file__).parents[1] / "media"
MIB = 1 << 20
GRAPH = {
    "1": {"class_type": "KSampler", "inputs": {"seed": 7}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}, "_meta": {"title": "<Save>"}},
}


@pytest.fixture
def api(comfy: ComfyServer) -> Iterator[ComfyApi]:
    with ComfyApi(comfy.url) as api:
        yield api


def encoded(
    size: tuple[int, int] = (1024, 512), mode: str = "RGB", kind: str = "PNG", **options: Any
) -> bytes:
    file = io.BytesIO()
    Image.effect_noise(size, 90).convert(mode).save(file, kind, **options)
    return file.getvalue()


def result_of(api: ComfyApi | None, *names: str, texts: tuple[str, ...] = (), **kw: Any) -> Result:
    files = [{"filename": name, "subfolder": "", "type": "output"} for name in names]
    outputs: dict[str, Any] = {"2": {"images": files, "text": list(texts)}}
    return make_result("the-id", GRAPH, outputs, files=api, **kw)


def put(comfy: ComfyServer, name: str, data: bytes) -> None:
    (comfy.root / "output" / name).write_bytes(data)


def html(value: Any) -> str:
    data = value._repr_mimebundle_()
    assert data["text/plain"] == repr(value)
    return str(data["text/html"])


def embedded(markup: str) -> list[bytes]:
    """What the HTML brings along."""
    return [base64.b64decode(data) for data in re.findall(r";base64,([^\"]*)", markup)]


def test_a_result_shows_a_thumbnail_with_its_seed_and_node(
    comfy: ComfyServer, api: ComfyApi
) -> None:
    """A small WebP of a stated size, with two pixels for each that is shown."""
    put(comfy, "a.png", encoded((2048, 1024)))
    markup = html(result_of(api, "a.png", seconds=1.6, fully_cached=True))
    [data] = embedded(markup)
    picture = Image.open(io.BytesIO(data))
    assert (picture.format, picture.size) == ("WEBP", (1024, 512))
    assert 'width="512" height="256"' in markup
    assert "seed 7, &lt;Save&gt;" in markup
    assert "1.6 s, from the cache" in markup


def test_several_pictures_are_smaller_than_one_alone(comfy: ComfyServer, api: ComfyApi) -> None:
    """As a row of them fits below a cell; none is larger than it is."""
    for name, size in {"a.png": (1024, 512), "b.png": (300, 600), "c.png": (64, 32)}.items():
        put(comfy, name, encoded(size))
    markup = html(result_of(api, "a.png", "b.png", "c.png"))
    sent = [Image.open(io.BytesIO(data)).size for data in embedded(markup)]
    assert sent == [(512, 256), (256, 512), (64, 32)]
    shown = re.findall(r'width="(\d+)" height="(\d+)"', markup)
    assert shown == [("256", "128"), ("128", "256"), ("64", "32")]


def test_a_click_on_a_thumbnail_opens_the_file(comfy: ComfyServer, api: ComfyApi) -> None:
    """Name and picture lead to the server; without a client, there is nothing to click."""
    put(comfy, "a.png", encoded())
    result = result_of(api, "a.png")
    links = re.findall(r'<a href="([^"]+)"[^>]*>(<img|a\.png)', html(result))
    assert links == [(escape(str(result.image.url)), what) for what in ("<img", "a.png")]
    assert "<a " not in html(result_of(None, "a.png"))


def test_captions_shared_by_a_batch_are_shown_once(comfy: ComfyServer, api: ComfyApi) -> None:
    """Their seed and node; files of other nodes have their own."""
    assert html(result_of(None, "a.png", "b.png", "c.png")).count("seed 7, &lt;Save&gt;") == 1
    graph = {**GRAPH, "3": {"class_type": "KSampler", "inputs": {"seed": 8}}}
    graph["4"] = {"class_type": "SaveImage", "inputs": {"images": ["3", 0]}}
    outputs = {key: {"images": [{"filename": f"{key}.png"}]} for key in ("2", "4")}
    markup = html(make_result("the-id", graph, outputs))
    assert "seed 7, &lt;Save&gt;" in markup
    assert "seed 8, SaveImage" in markup


def test_a_single_output_or_node_has_a_gallery(comfy: ComfyServer, api: ComfyApi) -> None:
    """As the result does."""
    put(comfy, "a.png", encoded())
    result = result_of(api, "a.png")
    for value in (result.image, result["2"]):
        assert len(embedded(html(value))) == 1


def test_pictures_and_files_of_a_result_show_themselves(comfy: ComfyServer, api: ComfyApi) -> None:
    """They are tuples, some of them too."""
    put(comfy, "a.png", encoded((64, 64)))
    result = result_of(api, "a.png", "a.png", "b.txt")
    assert len(embedded(html(result.images))) == 2
    assert len(embedded(html(result.images[:1]))) == 1
    assert ">b.txt</a>" in html(result.files)
    assert "no outputs" in html(result.videos)
    assert isinstance(result.images, tuple)
    assert result.images == tuple(result.files[:2])
    assert pickle.loads(pickle.dumps(result_of(None, "a.png").images)).__class__ is Outputs


def test_several_outputs_have_a_short_text() -> None:
    """As a tuple, of which some are left out."""
    assert repr(result_of(None).files) == "()"
    assert repr(result_of(None, "a.png").images) == "(<OutputFile 'a.png', seed 7>,)"
    many = repr(result_of(None, *[f"{n}.png" for n in range(1000)]).images)
    assert many.endswith("<OutputFile '7.png', seed 7>, ... (1000 in all))")


@pytest.mark.parametrize(
    ("name", "tag", "mime"),
    [
        ("SaveWEBM.webm", "<video", "video/webm"),
        ("SaveVideo.mp4", "<video", "video/mp4"),
        ("SaveAudio.flac", "<audio", "audio/flac"),
        ("SaveAudioMP3.mp3", "<audio", "audio/mpeg"),
        ("SaveAudioOpus.opus", "<audio", "audio/ogg"),
    ],
)
def test_films_and_sounds_play(
    comfy: ComfyServer, api: ComfyApi, name: str, tag: str, mime: str
) -> None:
    """Short ones are in the notebook as they are."""
    put(comfy, name, data := (MEDIA / name).read_bytes())
    markup = html(result_of(api, name))
    assert tag in markup
    assert f'src="data:{mime};base64,' in markup
    assert embedded(markup) == [data]


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "PNG"])
def test_a_short_animation_plays(kind: str) -> None:
    """As it is."""
    file = io.BytesIO()
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    assert embedded(thumbnail(file.getvalue()) or "") == [file.getvalue()]


@pytest.mark.parametrize("name", ["SaveGLB.glb", "SaveLatent.latent"])
def test_files_that_cannot_be_shown_have_a_link(
    comfy: ComfyServer, api: ComfyApi, name: str
) -> None:
    """And is not fetched."""
    before = len(comfy.requests)
    assert f">{name}</a>" in html(result_of(api, name))
    assert len(comfy.requests) == before


def test_a_large_film_is_not_stored(comfy: ComfyServer, api: ComfyApi) -> None:
    """A link leads to it."""
    put(comfy, "a.mp4", bytes(3 << 20))
    markup = html(result_of(api, "a.mp4"))
    assert "too large" in markup
    assert "/view?" in markup
    assert not embedded(markup)


def test_a_file_that_is_gone_or_damaged_has_its_name(comfy: ComfyServer, api: ComfyApi) -> None:
    """To show a value raises nothing."""
    put(comfy, "damaged.png", b"not a picture")
    markup = html(result_of(api, "gone.png", "damaged.png"))
    assert "could not be fetched" in markup
    assert ">damaged.png</a>" in markup
    assert "lost.png" in html(result_of(None, "lost.png"))


def test_a_batch_is_bounded_in_pictures_and_bytes(comfy: ComfyServer, api: ComfyApi) -> None:
    """So that no notebook swells."""
    put(comfy, "a.png", encoded((256, 256)))
    markup = html(result_of(api, *["a.png"] * 30))
    assert len(embedded(markup)) == gallery.MOST_OUTPUTS
    assert "and 6 more" in markup
    outputs = result_of(api, *["a.png"] * 4).files
    [one] = gallery.pictures(outputs[:1])
    few = gallery.pictures(outputs, most_bytes=len(one) * 3 // 2)
    assert few[0] == one
    assert all("not shown: the others take" in other for other in few[1:])


def asked(comfy: ComfyServer) -> list[str | None]:
    """The previews that the server was asked for."""
    return [one.query.get("preview") for one in comfy.requests if one.path == "/view"]


def pictured(api: ComfyApi, name: str) -> str:
    """HTML of one file, for which there is time also on a busy machine."""
    return "".join(gallery.pictures(result_of(api, name).files, seconds=LIMIT))


def large(mode: str = "RGB") -> bytes:
    """A picture of more than a megabyte in any mode."""
    return encoded((1600, 1024), mode, compress_level=0)


@pytest.mark.parametrize(
    ("kind", "options"), few([("PNG", {"compress_level": 0}), ("JPEG", {})], 1)
)
def test_of_a_large_picture_the_server_makes_a_smaller_file(
    comfy: ComfyServer, api: ComfyApi, kind: str, options: dict[str, Any]
) -> None:
    """The original stays there, also one that is too large to be fetched."""
    original = encoded((4096, 2900), kind=kind, **options)
    assert (len(original) > gallery.MAX_BYTES) is (kind == "PNG")
    put(comfy, "a.png", original)
    [data] = embedded(pictured(api, "a.png"))
    assert Image.open(io.BytesIO(data)).size == (512, 363)
    assert asked(comfy) == [None, "jpeg;75"]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16", "P"])
def test_pictures_with_alpha_or_16_bits_are_fetched_whole(
    comfy: ComfyServer, api: ComfyApi, mode: str
) -> None:
    """Alpha, 16 bits, and palettes, which may have alpha."""
    put(comfy, "a.png", large(mode))
    assert len(embedded(pictured(api, "a.png"))) == 1
    assert asked(comfy) == [None]


def test_an_animation_is_fetched(comfy: ComfyServer, api: ComfyApi) -> None:
    """A smaller file would stand still."""
    frames = [Image.effect_noise((800, 800), 90) for _ in range(2)]
    file = io.BytesIO()
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:], lossless=True, method=0)
    assert len(file.getvalue()) > MIB
    put(comfy, "a.webp", file.getvalue())
    assert pictured(api, "a.webp").count("data:image/webp") == 1
    assert asked(comfy) == [None]


@pytest.mark.parametrize("status", [500, 404, 403, 502])
def test_a_server_that_makes_no_smaller_file_gives_the_original(
    comfy: ComfyServer, api: ComfyApi, status: int
) -> None:
    """Or a proxy in front of it."""
    original = large()
    put(comfy, "a.png", original)

    def view(request: Request) -> Any:
        return (status, {}, b"") if "preview" in request.query else (200, {}, original)

    comfy.on("GET", "/view", view)
    assert len(embedded(pictured(api, "a.png"))) == 1
    assert asked(comfy) == [None, "jpeg;75", None]


def test_texts_are_read(comfy: ComfyServer) -> None:
    """As text, and not without end."""
    markup = html(result_of(None, texts=("one <b>two</b>\nthree", "x" * 100_000)))
    assert "one &lt;b&gt;two&lt;/b&gt;\nthree" in markup
    assert len(markup) < 10_000


@given(st.text(min_size=1), st.text())
def test_no_name_and_no_text_of_a_server_is_markup(name: str, text: str) -> None:
    """Whatever is in them."""
    markup = html(result_of(None, f"<script>{name}.png", texts=(f"<img src=x>{text}",)))
    assert "<script" not in markup
    assert "<img" not in markup


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Of a notebook, in a cell of its own."""
    shell = SimpleNamespace(kernel=object(), execution_count=next(NUMBERS))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    return shell


NUMBERS = itertools.count(1)


def test_dollars_in_names_are_no_formulas() -> None:
    """MathJax leaves out what has one of these classes."""
    for value in (result_of(None, "$x^2$.png"), Workflow({"1": {"class_type": "A$x$"}})):
        assert html(value).startswith('<div class="tex2jax_ignore mathjax_ignore"')


def test_a_result_shown_in_its_cell_is_not_shown_twice(shell: SimpleNamespace) -> None:
    """``api.run(wf)`` as the last line: its gallery is there already."""
    result = result_of(None, texts=("hello",))
    note_shown(result)
    assert result._repr_mimebundle_() == {"text/plain": repr(result)}
    shell.execution_count = next(NUMBERS)
    assert "hello" in html(result)


def test_galleries_of_a_cell_are_bounded_in_sum(shell: SimpleNamespace) -> None:
    """Galleries after runs, and values that are displayed; what is left out is said."""
    made: list[int] = []

    def gallery() -> str:
        made.append(1)
        return "x" * (cells.MOST_BYTES * 3 // 5)

    assert "xxx" in render_outcome(object(), gallery)["text/html"]
    assert "hello" in html(result_of(None, texts=("hello",)))
    last = render_outcome(result_of(None), gallery)["text/html"]
    assert "xxx" not in last
    assert "&lt;Result no outputs&gt;" in last
    assert "not shown, because what this cell shows would take more than 8 MB" in last
    assert "hello" not in html(result_of(None, texts=("hello",)))
    render_outcome(object(), gallery)
    assert len(made) == 2  # once there is no room, nothing is fetched
    shell.execution_count = next(NUMBERS)
    assert "hello" in html(result_of(None, texts=("hello",)))


def test_a_click_on_a_widget_is_a_cell_of_its_own(shell: SimpleNamespace) -> None:
    """It has the number of the cell that ran last; what it shows may replace what it showed."""
    requests = iter(["the cell", "a click", "a click", None])

    def get_parent() -> dict[str, Any]:
        request = next(requests)
        return {"header": {"msg_id": request}} if request else {}

    shell.kernel = SimpleNamespace(get_parent=get_parent)
    note_shown(shell)
    assert not was_shown(shell)
    note_shown(shell)
    assert not was_shown(shell)  # a kernel that does not say it


def test_without_a_notebook_nothing_is_left_out() -> None:
    """A page of one's own is made of as many as one likes."""
    value, shown = result_of(None, texts=("x" * 2000,)), 0
    while shown <= cells.MOST_BYTES:
        markup = html(value)
        assert "xxx" in markup
        shown += len(markup)


def test_a_terminal_gets_the_text_only(
    comfy: ComfyServer, api: ComfyApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IPython in a terminal asks for HTML, too, and drops it: nothing is fetched."""
    shell = SimpleNamespace(execution_count=1)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    before = len(comfy.requests)
    assert list(result_of(api, "a.png")._repr_mimebundle_()) == ["text/plain"]
    assert len(comfy.requests) == before


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1", "I;16", "CMYK"])
def test_pictures_of_any_mode_have_a_thumbnail(mode: str) -> None:
    """With their alpha."""
    kind = "TIFF" if mode == "CMYK" else "PNG"
    source = Image.new(mode, (800, 600), 30_000 if mode == "I;16" else None)
    file = io.BytesIO()
    source.save(file, kind)
    markup = thumbnail(file.getvalue())
    assert markup is not None
    small = Image.open(io.BytesIO(*embedded(markup)))
    assert small.size == (512, 384)
    if mode == "I;16":
        assert abs(small.convert("L").getpixel((9, 9)) - 30_000 // 256) < 4  # type: ignore[operator]


def test_a_bomb_is_not_opened() -> None:
    """A picture of few bytes and many pixels."""
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    assert thumbnail(file.getvalue()) is None


def test_without_pillow_a_small_picture_is_shown_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large one is not."""
    small, large = encoded((64, 64)), encoded((1024, 1024))
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert embedded(thumbnail(small) or "") == [small]
    assert thumbnail(large) is None
