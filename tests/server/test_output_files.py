"""Files of output nodes of which the embedded server knows the definitions only."""

from __future__ import annotations

import mimetypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from comfy_client import ComfyApi
from comfy_client.errors import JobFailed
from comfy_client.testing import ComfyServer, audio_files, media_files, video_files
from comfy_client.testing.definitions import SHIPPED, read_definitions
from comfy_client.testing.images import draw
from comfy_client.testing.output_files import OUTPUT_NODES
from tests.helpers import bare
from tests.helpers.bare import LIMIT
from tests.helpers.graphs import node
from tests.helpers.media import MEDIA, UI
from tests.helpers.media_readers import read

#: Two pictures; ``2`` is the first of them.
PICTURES = {
    "1": node("ImageBatch", image1=["2", 0], image2=["3", 0]),
    "2": node("EmptyImage", width=48, height=32, batch_size=1, color=0x3366AA),
    "3": node("EmptyImage", width=48, height=32, batch_size=1, color=0xAA6633),
}
SOURCES: dict[str, dict[str, Any]] = {
    "images": PICTURES,
    "image": {"1": PICTURES["2"]},
    "video": {**PICTURES, "1": node("CreateVideo", images=["2", 0], fps=24.0)},
    "audio": {"1": node("LoadAudio", audio="any.flac")},
    "mesh": {"1": node("Anything")},  # a class that nothing knows gives what is needed
    "latent": {"1": node("EmptyLatentImage", width=48, height=32, batch_size=1)},
}
SLOTS = {"latent": "samples", "image": "images"}
WEBP = {"fps": 4.0, "lossless": True, "quality": 80, "method": "default"}
#: By class: what it saves, its other inputs, its key in the output, and the extension.
SAVING: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "SaveImage": ("image", {}, "images", "png"),
    "SaveAnimatedPNG": ("images", {"fps": 4.0, "compress_level": 4}, "images", "png"),
    "SaveAnimatedWEBP": ("images", WEBP, "images", "webp"),
    "SaveWEBM": ("images", {"codec": "vp9", "fps": 24.0, "crf": 32.0}, "images", "webm"),
    "SaveVideo": ("video", {"format": "auto", "codec": "auto"}, "images", "mp4"),
    "SaveAudio": ("audio", {}, "audio", "flac"),
    "SaveAudioMP3": ("audio", {"quality": "V0"}, "audio", "mp3"),
    "SaveAudioOpus": ("audio", {"quality": "128k"}, "audio", "opus"),
    "SaveGLB": ("mesh", {}, "3d", "glb"),
    "SaveLatent": ("latent", {}, "latents", "latent"),
}
TYPES = {
    "png": ("image", "image/png"),
    "webp": ("image", "image/webp"),
    "webm": ("video", "video/webm"),
    "mp4": ("video", "video/mp4"),
    "flac": ("audio", "audio/flac"),
    "mp3": ("audio", "audio/mpeg"),
    "opus": ("audio", "audio/opus"),
    "glb": ("other", "model/gltf-binary"),
    "latent": ("other", "application/octet-stream"),
}


@pytest.fixture(scope="module")
def server() -> Iterator[ComfyServer]:
    with ComfyServer(object_info="0.28.1", nodes="any", step_seconds=0, previews=False) as running:
        yield running


@pytest.fixture
def api(server: ComfyServer) -> Iterator[ComfyApi]:
    with ComfyApi(server.url) as client:
        yield client


def graph_of(class_type: str, source: str, /, **inputs: Any) -> dict[str, Any]:
    """A graph in which node ``9`` saves."""
    named = {SLOTS.get(source, source): ["1", 0], **inputs}
    return {**SOURCES[source], "9": node(class_type, **named)}


def saving(class_type: str, prefix: str) -> dict[str, Any]:
    source, inputs, _, _ = SAVING[class_type]
    return graph_of(class_type, source, filename_prefix=prefix, **inputs)


def raw(api: ComfyApi, class_type: str, **inputs: Any) -> dict[str, Any]:
    """What the client is told of a node; ``["1", 0]`` is a value of any type."""
    graph = {"1": node("Anything"), "9": node(class_type, **inputs)}
    return dict(api.run(graph, timeout=LIMIT)["9"].raw)


# -- each kind --------------------------------------------------------------------------


@pytest.mark.parametrize("class_type", SAVING)
def test_a_simulated_file_of_each_kind_reaches_the_client(
    server: ComfyServer,
    api: ComfyApi,
    class_type: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the name, the type and the workflow that it has on a ComfyUI, on any system."""
    _, _, key, ending = SAVING[class_type]
    media, mime = TYPES[ending]
    graph = saving(class_type, f"{class_type}/x")
    result = api.run(graph, workflow_ui=UI, timeout=LIMIT)
    filed = {"image": result.images, "video": result.videos, "audio": result.audio}
    [item] = filed.get(media, result.files)
    assert (item.subfolder, item.filename) == (class_type, f"x_00001_.{ending}")
    place = {"filename": item.filename, "subfolder": class_type, "type": "output"}
    assert result["9"].raw[key] == [place]
    monkeypatch.setattr(mimetypes, "guess_type", mimetypes.MimeTypes(()).guess_type)
    answer = bare.get(server, "/view", params=place)
    assert answer.headers["Content-Type"] == mime
    facts = read(answer.content, ending)
    assert class_type == "SaveImage" or b"simulated" in facts.words
    assert len(answer.content) < 20_000
    assert item.save(tmp_path / "saved").read_bytes() == answer.content
    assert item.workflow().to_dict() == graph


@pytest.mark.parametrize("path", sorted(MEDIA.glob("Save*")), ids=lambda path: path.name)
def test_the_readers_of_these_tests_read_what_a_comfyui_saved(path: Path) -> None:
    facts = read(path.read_bytes(), path.suffix[1:])
    assert facts.count >= 1
    assert b"prompt" in facts.words.lower()


#: Output nodes that save nothing, by the beginning of their names, and those that do it for
#: themselves or without telling anybody.
SILENT = ("Meshy", "Tencent", "Tripo")
OTHERS = {"PreviewAny", "PreviewImage", "SaveImage", "SaveImageWebsocket"}
DATASETS = {"SaveImageDataSetToFolder", "SaveImageTextDataSetToFolder", "SaveTrainingDataset"}


@pytest.mark.parametrize("version", SHIPPED)
def test_output_nodes_of_the_shipped_definitions_are_known(version: str) -> None:
    definitions = read_definitions(version)
    names = {name for name, one in definitions.items() if one["output_node"]}
    loud = {name for name in names if not name.startswith(SILENT)}
    assert loud - OUTPUT_NODES.keys() == OTHERS | DATASETS


# -- pictures ---------------------------------------------------------------------------


@pytest.mark.parametrize("class_type", ["SaveAnimatedPNG", "SaveAnimatedWEBP"])
def test_animated_files_have_the_pictures_of_the_node(api: ComfyApi, class_type: str) -> None:
    """In their size, for as long as they are to be seen."""
    [item] = api.run(saving(class_type, "animated"), timeout=LIMIT).images
    facts = read(item.bytes(), item.filename.rpartition(".")[2])
    assert (facts.size, facts.count, facts.seconds) == ((48, 32), 2, 0.5)
    first = item.pil().convert("RGB").getpixel((0, 0))
    assert first == (0x33, 0x66, 0xAA)


#: What is told beside the files of one picture, by class and definitions.
TOLD = [
    ("SaveAnimatedWEBP", "0.3.75", {"animated": [False]}),
    ("SaveAnimatedWEBP", "0.28.1", {}),
    ("SaveAnimatedWEBP", "0.33.0", {}),
    ("SaveAnimatedPNG", "0.3.75", {"animated": [True]}),
    ("SaveAnimatedPNG", "0.28.1", {}),
    ("MaskPreview", "0.3.75", {}),
    ("MaskPreview", "0.28.1", {"animated": [False]}),
    ("SaveVideo", "0.3.75", {"animated": [True]}),
    ("SaveVideo", "0.28.1", {"animated": [True]}),
    ("SaveVideo", "0.33.0", {"animated": [True]}),
]


@pytest.mark.parametrize(("class_type", "definitions", "told"), TOLD)
def test_a_client_is_told_what_moves_as_by_that_version(
    class_type: str, definitions: str, told: dict[str, Any]
) -> None:
    if class_type == "MaskPreview":
        mask = node("SolidMask", value=0.5, width=48, height=32)
        graph = {"1": mask, "9": node("MaskPreview", mask=["1", 0])}
    else:
        graph = {**saving(class_type, "x"), "1": PICTURES["2"]}
    if class_type == "SaveVideo":
        graph |= {"1": node("CreateVideo", images=["2", 0], fps=24.0), "2": PICTURES["2"]}
    with ComfyServer(object_info=definitions) as server, ComfyApi(server.url) as api:
        result = api.run(graph, timeout=LIMIT)
    assert {key: value for key, value in result["9"].raw.items() if key != "images"} == told
    assert len(result["9"].raw["images"]) == 1


@pytest.mark.parametrize("form", ["png", "exr"])
def test_a_picture_has_the_format_that_is_chosen(api: ComfyApi, form: str) -> None:
    """Without the second underscore in its name, and with its workflow."""
    more = {"bit_depth": "8-bit" if form == "png" else "32-bit float", "input_color_space": "sRGB"}
    inputs = {f"format.{key}": value for key, value in more.items()}
    graph = graph_of(
        "SaveImageAdvanced", "images", filename_prefix="advanced/x", format=form, **inputs
    )
    files = api.run(graph, timeout=LIMIT).files
    assert [item.filename for item in files] == [f"x_00001.{form}", f"x_00002.{form}"]
    facts = read(files[0].bytes(), form)
    assert facts.size == (48, 32)
    assert b"simulated" in facts.words
    assert b"SaveImageAdvanced" in facts.words


def test_pictures_to_compare_are_told_by_input(api: ComfyApi) -> None:
    told = raw(api, "ImageCompare", image_b=["1", 0], compare_view={})
    assert told["a_images"] == []
    [place] = told["b_images"]
    assert place["type"] == "temp"
    assert place["filename"].startswith("comfy.compare.b_temp_")


@pytest.mark.parametrize("form", ["mp4", "mkv", "webm"])
def test_a_video_has_the_format_that_is_chosen(form: str) -> None:
    """Of those that 0.33.0 offers."""
    inputs = {"format": form, "format.codec": "auto", "filename_prefix": "x"}
    graph = graph_of("SaveVideo", "video", **inputs)
    with ComfyServer(object_info="0.33.0") as server, ComfyApi(server.url) as api:
        [item] = api.run(graph, timeout=LIMIT).videos
        assert item.filename == f"x_00001_.{form}"
        assert read(item.bytes(), form).size == (48, 32)
        assert item.workflow().to_dict() == graph


# -- names ------------------------------------------------------------------------------


def test_numbers_go_on_and_words_of_the_prefix_are_replaced(api: ComfyApi) -> None:
    """By the size of the video."""
    names = []
    for seed in range(2):
        graph = saving("SaveVideo", "sized/%width%x%height%")
        graph["2"] = {**PICTURES["2"], "inputs": {**PICTURES["2"]["inputs"], "color": seed}}
        names += [item.filename for item in api.run(graph, timeout=LIMIT).videos]
    assert names == ["48x32_00001_.mp4", "48x32_00002_.mp4"]


def test_a_prefix_does_not_lead_out_of_the_folder(server: ComfyServer, api: ComfyApi) -> None:
    with pytest.raises(JobFailed, match="outside the output folder"):
        api.run(saving("SaveAudio", "../escaped"), timeout=LIMIT)
    assert not list(server.root.glob("escaped*"))


def test_a_sound_has_the_format_that_is_chosen(api: ComfyApi) -> None:
    inputs = {"audio": ["1", 0], "filename_prefix": "chosen/x"}
    told = raw(api, "SaveAudioAdvanced", format="opus", **{"format.quality": "64k"}, **inputs)
    assert [place["filename"] for place in told["audio"]] == ["x_00001_.opus"]


def test_previews_of_sounds_are_temporary(api: ComfyApi) -> None:
    [place] = raw(api, "PreviewAudio", audio=["1", 0])["audio"]
    assert place["type"] == "temp"
    assert place["filename"].endswith("_00001_.flac")


# -- other files ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "text", "content"),
    [("txt", "a\u2603", "a\u2603"), ("json", '{"a":1}', '{\n  "a": 1\n}'), ("json", "{", "{")],
)
def test_a_text_is_saved_as_it_is_and_json_indented(
    api: ComfyApi, form: str, text: str, content: str
) -> None:
    """Over the one before: ComfyUI does not find its number."""
    graph = {
        "1": node("PrimitiveString", value=text),
        "9": node("SaveText", text=["1", 0], filename_prefix="texts/x", format=form),
    }
    result = api.run(graph, timeout=LIMIT)
    assert result.texts == (text,)
    [item] = result.files
    assert item.filename == f"x_00001.{form}"
    assert item.bytes().decode() == content


VIEWED = {"viewport_state": {"camera_info": {"zoom": 2}}, "width": 64, "height": 64}


def test_a_viewer_gets_the_path_of_a_3d_model(server: ComfyServer, api: ComfyApi) -> None:
    """That was saved, or of a temporary file."""
    model = {"model_3d": ["1", 0], **VIEWED}
    told = raw(api, "Save3DAdvanced", **model, filename_prefix="models/x")
    assert told == {"result": ["models/x_00001.glb", {"zoom": 2}, None]}
    read((server.root / "output/models/x_00001.glb").read_bytes(), "glb")
    [name, *_] = raw(api, "PreviewGaussianSplat", **model)["result"]
    facts = read((server.root / "temp" / name).read_bytes(), "ply")
    assert (facts.count, b"simulated" in facts.words) == (3, True)
    assert raw(api, "Preview3D", model_file="own.glb") == {"result": ["own.glb", None, None]}


def test_a_picture_of_vectors_has_its_metadata(api: ComfyApi) -> None:
    graph = {
        "1": node("Anything", text="]]>"),
        "9": node("SaveSVGNode", svg=["1", 0], filename_prefix="svg/x"),
    }
    [item] = api.run(graph, timeout=LIMIT).files
    assert item.filename == "x_00001_.svg"
    words = read(item.bytes(), "svg").words
    assert b"simulated" in words
    assert b"]]>" in words


def test_weights_are_saved_without_a_word(server: ComfyServer, api: ComfyApi) -> None:
    graph = {
        "1": node("Anything"),
        "8": node("PreviewAny", source="done"),
        "9": node("SaveLoRA", lora=["1", 0], prefix="loras/x", steps=20),
    }
    assert api.run(graph, timeout=LIMIT).files == ()
    path = server.root / "output/loras/x_20_steps_00001_.safetensors"
    assert b"simulated" in read(path.read_bytes(), "safetensors").words


# -- node packs -------------------------------------------------------------------------

COMBINE = {
    "input": {
        "required": {
            "images": ["IMAGE"],
            "frame_rate": ["FLOAT", {"default": 8}],
            "filename_prefix": ["STRING", {"default": "AnimateDiff"}],
            "format": [["image/gif", "image/webp", "video/webm", "video/h264-mp4"]],
            "save_output": ["BOOLEAN", {"default": True}],
        },
        "optional": {"audio": ["AUDIO"]},
        "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
    },
    "output": ["VHS_FILENAMES"],
    "output_node": True,
}


@pytest.mark.parametrize("form", COMBINE["input"]["required"]["format"][0])  # type: ignore[index]
def test_a_video_of_videohelpersuite_is_told_as_a_gif(form: str) -> None:
    """With a picture beside it; numbers count all files with the name."""
    inputs = {"images": ["1", 0], "frame_rate": 4.0, "filename_prefix": "v/x", "format": form}
    graph = {**PICTURES, "9": node("VHS_VideoCombine", **inputs, save_output=False)}
    more = {"9": node("VHS_VideoCombine", **inputs, save_output=False, audio=["4", 0])}
    more |= {**PICTURES, "4": node("Anything")}
    ending = form.replace("-", "/").rpartition("/")[2]
    definitions = {"VHS_VideoCombine": COMBINE}
    with ComfyServer(object_info=definitions, nodes="any") as server, ComfyApi(server.url) as api:
        result = api.run(graph, workflow_ui=UI, timeout=LIMIT)
        [place] = result["9"].raw["gifs"]
        assert (place["filename"], place["type"]) == (f"x_00001.{ending}", "temp")
        assert (place["format"], place["frame_rate"]) == (form, 4.0)
        assert place["fullpath"] == str(server.root / "temp/v" / f"x_00001.{ending}")
        [item] = result.videos or result.images
        data = item.bytes()
        facts = read(data, ending)
        assert b"simulated" in data
        assert facts.seconds == (0.5 if form.startswith("image") else 1.0)
        if ending != "gif":
            assert item.workflow().to_dict() == graph
        beside = server.root / "temp/v" / place["workflow"]
        assert read(beside.read_bytes(), "png").size == (48, 32)
        [place] = api.run(more, timeout=LIMIT)["9"].raw["gifs"]
        sound = "" if form.startswith("image") else "-audio"
        assert place["filename"] == f"x_00002{sound}.{ending}"


# -- makers -----------------------------------------------------------------------------


@pytest.mark.parametrize("make", [media_files.apng, media_files.webp, media_files.gif])
def test_a_picture_that_repeats_is_in_the_file_once(make: Callable[..., bytes]) -> None:
    """And is shown for longer."""
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    more = () if make is media_files.gif else ({},)
    facts = read(make([red, red, red, blue], 4, *more), "png")
    assert (facts.count, facts.seconds) == (2, 1.0)


@pytest.mark.parametrize("size", [(2, 2), (16, 16), (51, 33), (64, 32), (640, 480), (2048, 2048)])
def test_videos_of_any_size_are_small(size: tuple[int, int]) -> None:
    """An MP4 has even sides."""
    picture = draw(64, 32, 0, "", 0, 1.0)
    film = video_files.mp4(picture, size, {"title": "simulated"})
    facts = read(film, "mp4")
    assert (facts.seconds, facts.size) == (1.0, tuple(side + side % 2 for side in size))
    assert len(film) < 21_000
    assert read(video_files.webm(picture, size, {}), "webm").size == size


@pytest.mark.parametrize("length", [0, 255 * 255 - 39, 255 * 255 - 38])
def test_an_opus_file_may_have_a_workflow_of_any_size(length: int) -> None:
    """One that fills a page of Ogg with the 39 bytes before it, too."""
    words = "w" * length
    facts = read(audio_files.opus({"prompt": words}), "opus")
    assert words.encode() in facts.words
    assert facts.seconds == 1.0
