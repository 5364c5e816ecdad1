"""The nodes of the embedded server, and nodes of the user's."""

from __future__ import annotations

import io
import sys
import threading
import time
from pathlib import Path
from typing import Any, ClassVar, get_args

import pytest
from PIL import Image

import comfy_client
from comfy_client import ComfyApi
from comfy_client.errors import (
    JobFailed,
    JobInterrupted,
    PromptRejected,
)
from comfy_client.testing import (
    ComfyServer,
    ProgressBar,
    check_interrupted,
    node_api,
    send_event,
    send_text,
)
from comfy_client.testing.builtin_nodes import CLASSES
from comfy_client.testing.scripting import PromptHooks
from comfy_client.testing.server_clock import ServerClock
from comfy_client.testing.versions import Version
from tests.helpers.bare import LIMIT, Socket, ask, post
from tests.helpers.clients import until
from tests.helpers.graphs import canvas, node, picture, png, txt2img
from tests.helpers.patches import tell_time

# -- nodes of the server ----------------------------------------------------------------


@pytest.mark.parametrize("version", get_args(Version))
def test_a_class_without_recorded_definition_is_an_error(
    monkeypatch: pytest.MonkeyPatch, version: Version
) -> None:
    """As is a definition without class; neither is left out silently."""
    file = "definitions_0.28.json" if version != "0.3.75" else "definitions.json"
    monkeypatch.setitem(CLASSES, "ImageFade", CLASSES["ImageInvert"])
    monkeypatch.delitem(CLASSES, "ImageBlend")
    with pytest.raises(LookupError, match=f"ImageBlend, ImageFade must be in both .* {file};"):
        ComfyServer(version=version).start()


def test_pixels_are_those_of_the_real_server(api):
    """Which cuts floats off to bytes, so that a negative can be one too dark."""
    negative = {
        "1": canvas(0x414243, batch_size=2),
        "2": node("ImageInvert", image=["1", 0]),
        "3": node("ImageInvert", image=["2", 0]),
        "8": node("PreviewImage", images=["3", 0]),
        "9": node("PreviewImage", images=["2", 0]),
    }
    result = api.run(negative, timeout=LIMIT)
    [dark, again] = [Image.open(io.BytesIO(f.bytes())) for f in result["9"].images]
    assert dark.getpixel((3, 3)) == again.getpixel((3, 3)) == (189, 189, 187)
    assert Image.open(io.BytesIO(result["8"].images[0].bytes())).getpixel((3, 3)) == (65, 65, 67)
    assert dark.info.keys() >= {"prompt"}


def test_pictures_are_cropped_scaled_batched_and_blended(api):
    """With the sizes and values that the arithmetic gives."""
    graph = {
        "1": canvas(0x800000, width=10, height=6),
        "2": canvas(0x004000, width=4, height=4),
        "3": node("ImageCrop", image=["1", 0], width=8, height=8, x=4, y=1),
        "4": node(
            "ImageScale",
            image=["1", 0],
            upscale_method="nearest-exact",
            width=0,
            height=3,
            crop="disabled",
        ),
        "5": node("ImageScaleBy", image=["1", 0], upscale_method="lanczos", scale_by=2.0),
        "6": node("ImageBatch", image1=["1", 0], image2=["2", 0]),
        "7": node(
            "ImageBlend", image1=["1", 0], image2=["2", 0], blend_factor=0.5, blend_mode="screen"
        ),
    }
    for source in "34567":
        graph[f"p{source}"] = node("PreviewImage", images=[source, 0])
    result = api.run(graph, timeout=LIMIT)
    sizes = {
        source: [Image.open(io.BytesIO(f.bytes())).size for f in result[f"p{source}"].images]
        for source in "34567"
    }
    assert sizes == {
        "3": [(6, 5)],
        "4": [(5, 3)],
        "5": [(20, 12)],
        "6": [(10, 6), (10, 6)],
        "7": [(10, 6)],
    }
    [blended] = result["p7"].images
    assert Image.open(io.BytesIO(blended.bytes())).getpixel((5, 3)) == (128, 31, 0)


@pytest.mark.parametrize(
    ("mode", "over", "expected"),
    [
        ("soft_light", 0x004000, (64, 0, 0)),
        ("soft_light", 0xFFFFFF, (180, 0, 0)),
        ("overlay", 0xFFFFFF, (255, 0, 0)),
    ],
)
def test_pictures_are_blended_by_the_formula_of_a_mode(api, mode, over, expected):
    """Of the second one, wholly."""
    pictures = {"image1": ["1", 0], "image2": ["2", 0]}
    graph = {
        "1": canvas(0x800000),
        "2": canvas(over),
        "3": node("ImageBlend", **pictures, blend_factor=1.0, blend_mode=mode),
        "4": node("PreviewImage", images=["3", 0]),
    }
    [blended] = api.run(graph, timeout=LIMIT).images
    assert Image.open(io.BytesIO(blended.bytes())).getpixel((0, 0)) == expected


def test_batches_of_different_lengths_are_not_blended(api):
    """In the words of PyTorch; one picture goes with any number."""
    for first, second in ((2, 3), (1, 3)):
        graph = {
            "1": canvas(1, batch_size=first),
            "2": canvas(2, batch_size=second),
            "3": node(
                "ImageBlend",
                image1=["1", 0],
                image2=["2", 0],
                blend_factor=0.5,
                blend_mode="normal",
            ),
            "4": node("PreviewImage", images=["3", 0]),
        }
        if first == 1:
            assert len(api.run(graph, timeout=LIMIT).images) == 3
        else:
            with pytest.raises(JobFailed, match=r"The size of tensor a \(2\) must match"):
                api.run(graph, timeout=LIMIT)


def test_a_picture_without_a_size_to_scale_to_stays_as_it_is(api):
    """Both are 0; and a batch takes pictures of one size as they are."""
    size = {"width": 0, "height": 0, "upscale_method": "bilinear", "crop": "disabled"}
    graph = {
        "1": canvas(1, width=5, height=3),
        "2": node("ImageScale", image=["1", 0], **size),
        "3": node("ImageBatch", image1=["1", 0], image2=["2", 0]),
        "4": node("PreviewImage", images=["3", 0]),
    }
    images = api.run(graph, timeout=LIMIT).images
    assert [Image.open(io.BytesIO(one.bytes())).size for one in images] == [(5, 3), (5, 3)]


def test_pictures_are_loaded_with_their_alpha(api, server):
    """As mask: 1 where nothing is."""
    seen: list[Any] = []

    @server.add_node
    class Masks:
        RETURN_TYPES = ()
        FUNCTION = "run"
        OUTPUT_NODE = True

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {"mask": ("MASK",)}}

        def run(self, mask: Any) -> dict[str, Any]:
            seen.append((mask[0].size, round(mask[0].getpixel((0, 0)), 3)))
            return {}

    api.upload_image(png((255, 128, 0, 51)), "alpha.png")
    api.upload_image(png((255, 128, 0)), "opaque.png")
    graph = {
        "1": node("LoadImage", image="alpha.png"),
        "2": node("LoadImage", image="opaque.png [input]"),
        "3": node("LoadImageMask", image="alpha.png", channel="green"),
        "4": node("LoadImageMask", image="alpha.png", channel="alpha"),
        "5": node("Masks", mask=["1", 1]),
        "6": node("Masks", mask=["2", 1]),
        "7": node("Masks", mask=["3", 0]),
        "8": node("Masks", mask=["4", 0]),
    }
    api.run(graph, timeout=LIMIT)
    wanted = [((8, 8), 0.8), ((8, 8), 0.8), ((8, 8), 0.502), ((64, 64), 0.0)]
    assert sorted(seen) == sorted(wanted)
    with pytest.raises(PromptRejected, match=r"gone\.png"):
        api.run({"5": graph["5"], "1": node("LoadImage", image="gone.png")}, timeout=LIMIT)


def transparent(mode: str, kind: str = "PNG") -> bytes:
    """Of one colour, which is the transparent one."""
    file = io.BytesIO()
    picture = Image.new("RGB", (8, 8), (255, 128, 0))
    if mode == "P":
        picture.quantize(2).save(file, kind, transparency=0)
    else:
        picture.save(file, kind, transparency=(255, 128, 0))
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "mask"),
    [
        (transparent("P"), ((8, 8), 1.0)),
        (transparent("P", "GIF"), ((8, 8), 1.0)),
        (transparent("RGB"), ((64, 64), 0.0)),
    ],
    ids=["palette", "GIF", "RGB"],
)
def test_pictures_with_a_transparent_colour_have_three_channels(server, api, data, mask):
    """A mask comes of a palette only."""
    seen: list[Any] = []

    class See(Base):
        INPUTS: ClassVar[dict[str, Any]] = {"mask": ("MASK",), "image": ("IMAGE",)}
        OUTPUT_NODE = True

        def run(self, mask: Any, image: Any) -> Any:
            seen.append((mask[0].size, mask[0].getpixel((0, 0)), image[0].mode))
            return {}

    (server.root / "input" / "a.png").write_bytes(data)
    server.add_node(See)
    load = node("LoadImage", image="a.png")
    see = node("See", mask=["1", 1], image=["1", 0])
    api.run({"1": load, "2": see}, timeout=LIMIT)
    assert seen == [(*mask, "RGB")]


def test_values_pass_through_primitives_and_are_shown(api):
    """Converted as the server converts them."""
    graph = {
        "1": node("PrimitiveInt", value="7"),
        "2": node("PrimitiveFloat", value=1),
        "3": node("PrimitiveStringMultiline", value="a\nb"),
        "4": node("PrimitiveBoolean", value=True),
    }
    for source in "1234":
        graph[f"p{source}"] = node("PreviewAny", source=[source, 0])
    result = api.run(graph, timeout=LIMIT)
    assert [result[f"p{source}"].texts[0] for source in "1234"] == ["7", "1.0", "a\nb", "True"]


@pytest.mark.parametrize(
    ("value", "text"),
    [({"a": [1]}, '{\n    "a": [\n        1\n    ]\n}'), ((1, 2j), "(1, 2j)"), (None, "None")],
)
def test_any_value_is_shown_as_text(server, api, value, text):
    """As JSON if it can be."""

    @server.add_node
    class Gives:
        RETURN_TYPES = ("*",)
        FUNCTION = "run"

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {}}

        def run(self):
            return (value,)

    graph = {"1": node("Gives"), "2": node("PreviewAny", source=["1", 0])}
    assert api.run(graph, timeout=LIMIT).texts == (text,)


def test_the_simulated_picture_follows_seed_and_prompt_and_says_what_it_is(api):
    """The same twice; another for another seed or prompt."""

    def drawn(**options: Any) -> bytes:
        [image] = api.run(txt2img(**options), timeout=LIMIT).images
        return Image.open(io.BytesIO(image.bytes())).tobytes()

    first = drawn(seed=7)
    assert len({first, drawn(seed=8), drawn(seed=7, text="a tower")}) == 3
    api.free_memory(free_memory=True)
    assert drawn(seed=7, steps=4) == first
    for name in ("CheckpointLoaderSimple", "CLIPTextEncode", "KSampler", "VAEDecode"):
        assert api.get_node_defs(name)[name].description.startswith("Simulated")
    assert "simulated" in api.get_system_stats().devices[0].name


def test_texts_are_written_into_pictures_by_one_module():
    """That of workflow metadata; Pillow is not asked to."""
    package = Path(comfy_client.__file__).parent
    words = (".add_text(", ".add_itxt(", 'b"tEXt"')
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if any(word in path.read_text(encoding="utf-8") for word in words)
    }
    assert found == {"workflow/metadata/png.py"}


def test_names_of_files_are_filled_in_counted_and_kept_inside(api):
    """By prefix and folder."""
    names = []
    for color in (1, 2):
        [image] = api.run(picture(color, "dir/%width%x%height%"), timeout=LIMIT).images
        names.append((image.subfolder, image.filename))
    assert names == [("dir", "8x8_00001_.png"), ("dir", "8x8_00002_.png")]
    with pytest.raises(JobFailed, match="outside"):
        api.run(picture(3, "../../out"), timeout=LIMIT)


# -- nodes of the user's ----------------------------------------------------------------


class Base:
    RETURN_TYPES: tuple[str, ...] = ("STRING",)
    FUNCTION = "run"
    INPUTS: ClassVar[Any] = {"text": ("STRING", {"default": ""})}

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": cls.INPUTS}

    def run(self, **inputs: Any) -> Any:
        return ("",)


class SaveText(Base):
    """PreviewAny, which the oldest servers lack."""

    RETURN_TYPES: tuple[str, ...] = ()
    OUTPUT_NODE = True

    def run(self, text: str) -> Any:
        return {"ui": {"text": [text]}}


def shown(api: ComfyApi, name: str, **inputs: Any) -> Any:
    """What a node hands on, as PreviewAny shows it."""
    graph = {"1": node(name, **inputs), "2": node("PreviewAny", source=["1", 0])}
    return api.run(graph, timeout=LIMIT)["2"].texts


def test_a_custom_node_works_with_pictures(server, api):
    """It gets Pillow images, and may return them."""

    @server.add_node
    class Mirror(Base):
        RETURN_TYPES = ("IMAGE",)
        INPUTS: ClassVar[Any] = {"image": ("IMAGE",)}

        def run(self, image: Any) -> Any:
            assert [one.mode for one in image] == ["RGB"]
            return ([one.resize((2, 3)) for one in image],)

    graph = {"1": canvas(0x0A0B0C), "2": node("Mirror", image=["1", 0])}
    graph["9"] = node("SaveImage", images=["2", 0], filename_prefix="mine")
    [image] = api.run(graph, timeout=LIMIT).images
    assert Image.open(io.BytesIO(image.bytes())).size == (2, 3)
    definition = api.get_node_defs("Mirror")["Mirror"]
    assert definition.raw["input_order"] == {"required": ["image"]}
    assert definition.output == ("IMAGE",)


def test_a_custom_node_reports_its_progress_and_is_interrupted(server, api):
    """Texts, events of any name, progress; an interrupt ends it at the next tick."""

    @server.add_node
    class Slow(Base):
        def run(self, text: str) -> Any:
            send_text(text)
            send_event("my.event", {"text": text})
            bar = ProgressBar(10_000)
            while True:
                bar.update(1)
                time.sleep(0.01)

    got: list[Any] = []
    api.on("my.event", got.append)
    graph = {"1": node("Slow", text="hello"), "2": node("PreviewAny", source=["1", 0])}
    seen: list[Any] = []
    api.on("all", seen.append)
    job = api.submit(graph)
    until(lambda: "progress" in [event.name for event in seen])
    api.interrupt(job.prompt_id)
    with pytest.raises(JobInterrupted):
        job.result(LIMIT)
    assert [event.text for event in seen if event.name == "progress_text"] == ["hello"]
    assert [event.data for event in got] == [{"text": "hello"}]


class Prompt:
    """A prompt that notes its progress; of it, a progress bar needs no more."""

    def __init__(self, fewer_progress: bool) -> None:
        self.fewer_progress = fewer_progress
        self.clock = ServerClock()
        self.sent: list[float] = []

    def check_interrupted(self) -> None:
        pass

    def progress(self, value: float, total: float, preview: Any) -> None:
        self.sent.append(value)


@pytest.mark.parametrize(
    ("seconds", "steps", "sent"),
    [
        pytest.param(0.03, 10, [1, 5, 9, 10], id="0.1 s after the one before"),
        pytest.param(0.5, 4, [1, 2, 3, 4], id="slow enough for all"),
        pytest.param(0.01, 3, [1, 3], id="the first and the last"),
        pytest.param(5.0, 1000, [1, *range(6, 1000, 5), 1000], id="0.5 % after the one before"),
        pytest.param(0.0, 1, [1], id="one"),
    ],
)
def test_newer_servers_leave_progress_out(
    monkeypatch: pytest.MonkeyPatch, seconds: float, steps: int, sent: list[float]
) -> None:
    """As 0.28.1 does; what has a preview is always sent, and older servers send all."""
    now = 0.0
    tell_time(monkeypatch, lambda: now)
    picture = ("JPEG", Image.new("RGB", (8, 8)), None)
    for fewer, preview, wanted in (
        (True, None, sent),
        (True, picture, [*range(1, steps + 1)]),
        (False, None, [*range(1, steps + 1)]),
    ):
        prompt: Any = Prompt(fewer)
        token = node_api.context.set(prompt)
        bar = ProgressBar(steps)
        for step in range(1, steps + 1):
            now += seconds
            bar.update_absolute(step, preview=preview)
        node_api.context.reset(token)
        assert prompt.sent == wanted


@pytest.mark.parametrize("version", get_args(Version))
def test_progress_of_less_than_half_a_percent_is_left_out_since_0_28(version: Version) -> None:
    """Of what nodes say, the first and the last step are sent in any case."""
    with ComfyServer(version=version) as server, Socket(server, "a") as socket:

        @server.add_node
        class Ticks(Base):
            def run(self, text: str) -> Any:
                bar = ProgressBar(1000)
                for step in (1, 2, 3, 1000):
                    bar.update_absolute(step)
                return (text,)

        graph = {"1": node("Ticks", text=""), "2": node("PreviewAny", source=["1", 0])}
        post(server, "/prompt", {"prompt": graph, "client_id": "a"})
        heard = [one for one in socket.until("execution_success") if isinstance(one, dict)]
    sent = [one["data"]["value"] for one in heard if one["type"] == "progress"]
    assert sent == ([1, 2, 3, 1000] if version == "0.3.75" else [1, 1000])


def test_a_custom_node_without_progress_can_be_interrupted(server, api):
    """If it looks."""

    @server.add_node
    class Quiet(Base):
        def run(self, text: str) -> Any:
            while True:
                check_interrupted()
                time.sleep(0.01)

    job = api.submit({"1": node("Quiet", text=""), "2": node("PreviewAny", source=["1", 0])})
    until(lambda: api.get_queue().running)
    api.interrupt(job.prompt_id)
    with pytest.raises(JobInterrupted):
        job.result(LIMIT)


def test_a_custom_node_is_asked_whether_it_changed(server, api):
    """By value; one that never equals itself runs each time."""
    runs: list[str] = []
    changed: list[Any] = [1]

    @server.add_node
    class Changing(Base):
        @classmethod
        def IS_CHANGED(cls, text: str) -> Any:
            return changed[0]

        def run(self, text: str) -> Any:
            runs.append(text)
            return (text,)

    for value, count in ((1, 1), (1, 1), (2, 2), (float("nan"), 3), (float("nan"), 4)):
        changed[0] = value
        assert shown(api, "Changing", text="x") == ("x",)
        assert len(runs) == count


def test_a_custom_node_checks_its_inputs(server, api):
    """And what it says is in the refusal."""

    @server.add_node
    class Strict(Base):
        @classmethod
        def VALIDATE_INPUTS(cls, text: str) -> bool | str:
            return text == "yes" or f"{text} is not yes"

        def run(self, text: str) -> Any:
            return (text,)

    assert shown(api, "Strict", text="yes") == ("yes",)
    with pytest.raises(PromptRejected, match="no is not yes"):
        shown(api, "Strict", text="no")


def test_lists_coroutines_and_hidden_inputs_work_as_in_comfyui(server, api):
    """Each of a list is a call, unless the node wants the list."""

    @server.add_node
    class Words(Base):
        OUTPUT_IS_LIST = (True,)

        def run(self, text: str) -> Any:
            return (text.split(),)

    @server.add_node
    class Upper(Base):
        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            hidden = {"me": "UNIQUE_ID", "graph": "PROMPT"}
            return {"required": cls.INPUTS, "hidden": hidden}

        async def run(self, text: str, me: str, graph: Any) -> Any:
            return (f"{text.upper()} {me} {len(graph)}",)

    @server.add_node
    class Joined(Base):
        INPUT_IS_LIST = True

        def run(self, text: list[str]) -> Any:
            return (", ".join(text),)

    graph = {
        "1": node("Words", text="a b c"),
        "2": node("Upper", text=["1", 0]),
        "3": node("Joined", text=["2", 0]),
        "8": node("PreviewAny", source=["2", 0]),
        "9": node("PreviewAny", source=["3", 0]),
    }
    result = api.run(graph, timeout=LIMIT)
    assert result["8"].texts == ("A 2 5", "B 2 5", "C 2 5")
    assert result["9"].texts == ("A 2 5, B 2 5, C 2 5",)


def test_outputs_that_json_cannot_carry_fail_their_node(server, api):
    """Whoever asked for it; the next prompt runs, and history can be read."""

    @server.add_node
    class Odd(Base):
        OUTPUT_NODE = True

        def run(self, text: str) -> Any:
            return {"ui": {"text": [object()]}}

    graph = {"1": node("Odd", text="")}
    with pytest.raises(JobFailed, match="not JSON serializable"):
        api.run(graph, timeout=LIMIT)
    prompt_id = ask(server, "POST", "/prompt", json={"prompt": graph}).json()["prompt_id"]
    until(lambda: prompt_id in server.history)
    assert ask(server, "GET", f"/history/{prompt_id}").status_code == 200
    assert shown(api, "PrimitiveString", value="x") == ("x",)


def test_a_message_that_cannot_be_sent_is_kept_as_an_error(server, api):
    """The next ones are sent."""

    @server.add_node
    class Odd(Base):
        def run(self, text: str) -> Any:
            send_event("odd", object())
            return (text,)

    seen: list[Any] = []
    api.on("executed", seen.append)
    assert shown(api, "Odd", text="x") == ("x",)
    assert len(seen) == 1
    [error] = server.errors
    assert "not JSON serializable" in str(error)
    server.errors.clear()


def test_a_class_in_the_place_of_another_is_run(server, api):
    """Though the workflow is the same."""

    def says(words: str) -> Any:
        return type("Says", (Base,), {"run": lambda self, text: (words,)})

    server.add_node(SaveText)
    for words in ("one", "two"):
        server.add_node(says(words))
        graph = {"1": node("Says", text=""), "2": node("SaveText", text=["1", 0])}
        assert api.run(graph, timeout=LIMIT).texts == (words,)


def test_a_class_can_be_added_while_the_others_are_listed(server):
    """Here by one of them."""

    added: list[str] = []

    @server.add_node
    class Parent(Base):
        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            added.append(f"Child {len(added)}")
            server.add_node(Base, added[-1])
            return {"required": cls.INPUTS}

    assert "Parent" in ask(server, "GET", "/object_info").json()
    assert set(added) < ask(server, "GET", "/object_info").json().keys() | {added[-1]}


def test_a_class_that_falls_over_costs_its_prompt_only(server, api):
    """Not the worker, nor the definitions of the others."""
    fine = ["MainThread", "ComfyServer"]

    @server.add_node
    class Moody(Base):
        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            if threading.current_thread().name not in fine:
                raise ValueError("not today")
            return {"required": cls.INPUTS}

    with pytest.raises(JobFailed, match="not today"):
        shown(api, "Moody", text="x")
    fine.clear()
    assert "Moody" not in api.get_node_defs()
    assert shown(api, "PrimitiveString", value="on") == ("on",)


@pytest.mark.parametrize("end", [pytest.fail, pytest.skip, sys.exit])
def test_a_base_exception_of_a_node_fails_its_prompt_and_is_kept(server, api, end):
    """Also out of IS_CHANGED; the next prompt runs."""

    class Ending(Base):
        def run(self, text: str) -> Any:
            end("wrong picture")

    class Asking(Ending):
        @classmethod
        def IS_CHANGED(cls, text: str) -> Any:
            end("wrong picture")

    for cls in (SaveText, Ending, Asking):
        server.add_node(cls)
    for name in ("Ending", "Asking"):
        graph = {"1": node(name, text=""), "2": node("SaveText", text=["1", 0])}
        with pytest.raises(JobFailed, match="wrong picture"):
            api.run(graph, timeout=LIMIT)
        assert api.run(picture(), timeout=LIMIT).images
        [error] = server.errors
        assert str(error) == "wrong picture"
        server.errors.clear()


class Mute(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise ValueError


def test_an_error_or_input_without_a_text_is_reported_by_its_class(server, api):
    """By its class; as of any node, it is nothing for the end of the test."""

    class Failing(Base):
        def run(self, text: str) -> Any:
            raise Mute

    class Giving(Base):
        def run(self, text: str) -> Any:
            return (Mute(),)

    for cls in (SaveText, Failing, Giving):
        server.add_node(cls)
    graph = {
        "1": node("Giving", text=""),
        "2": node("Failing", text=["1", 0]),
        "3": node("SaveText", text=["2", 0]),
    }
    with pytest.raises(JobFailed) as failed:
        api.run(graph, timeout=LIMIT)
    told = "<Mute whose text fails with ValueError>"
    assert failed.value.exception_message.strip() == told
    assert failed.value.inputs == {"text": [told]}
    assert api.run(picture(), timeout=LIMIT).images
    assert server.errors == []


def test_a_base_exception_in_validate_inputs_is_kept(server, api):
    """The request is answered, and so is the next."""

    @server.add_node
    class Checking(Base):
        OUTPUT_NODE = True

        @classmethod
        def VALIDATE_INPUTS(cls, text: str) -> Any:
            sys.exit(text)

    body = {"prompt": {"1": node("Checking", text="a")}}
    assert ask(server, "POST", "/prompt", json=body).status_code == 500
    with server.on("POST", "/prompt", server.answer):
        body["prompt"]["1"]["inputs"]["text"] = "b"
        assert ask(server, "POST", "/prompt", json=body).status_code == 500
    assert [str(error) for error in server.errors] == ["a", "b"]
    assert {type(error) for error in server.errors} == {SystemExit}
    server.errors.clear()
    assert api.run(picture(), timeout=LIMIT).images


def test_a_fault_of_the_worker_itself_costs_its_prompt_only(server, api, monkeypatch):
    """Whatever it is, the test hears of it."""
    monkeypatch.setattr(PromptHooks, "before_end", lambda *_: 1 / 0)
    ask(server, "POST", "/prompt", json={"prompt": picture()})
    server.until(lambda: server.errors, LIMIT)
    monkeypatch.undo()
    assert [type(error) for error in server.errors] == [ZeroDivisionError]
    server.errors.clear()
    assert api.run(picture(), timeout=LIMIT).images


def test_a_node_that_no_output_needs_may_be_anything(api):
    """Nobody looks at it."""
    loose = {"1": node("PreviewAny", source="on"), "2": {"class_type": "EmptyImage"}}
    assert api.run(loose, timeout=LIMIT).texts == ("on",)


def test_a_class_that_is_no_node_is_refused_in_words():
    """When it is added, and before the server runs, too."""
    server = ComfyServer()
    with pytest.raises(TypeError, match=r"Empty is not a node class: .*INPUT_TYPES"):
        server.add_node(type("Empty", (), {}))
    with pytest.raises(TypeError, match=r"Odd is not a node class: .*walk"):
        server.add_node(type("Odd", (Base,), {"FUNCTION": "walk"}))
    server.add_node(type("Fine", (Base,), {}), "Another name")
    with server, ComfyApi(server.url) as api:
        assert shown(api, "Another name", text="") == ("",)
