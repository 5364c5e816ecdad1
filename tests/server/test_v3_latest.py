"""What ``comfy_api.latest`` has besides ``io`` and ``ui``, on the embedded server."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

from comfy_client.testing import ComfyServer, offer_comfy_api
from comfy_client.testing.video_files import mp4
from tests.helpers.bare import Socket, entry_of, get, post
from tests.helpers.graphs import canvas, node

with offer_comfy_api():
    from comfy_api.latest import (  # type: ignore[import-not-found]
        ComfyAPI,
        ComfyAPISync,
        Input,
        InputImpl,
        Types,
        io,
        ui,
    )


class Base(io.ComfyNode):  # type: ignore[misc]
    """An output node with an input, and an output of any type."""

    INPUTS: ClassVar[Any] = ()

    @classmethod
    def define_schema(cls) -> Any:
        outputs = [io.AnyType.Output()]
        return io.Schema(
            cls.__name__, inputs=list(cls.INPUTS), outputs=outputs, is_output_node=True
        )


@pytest.fixture(scope="module")
def server() -> Iterator[ComfyServer]:
    with ComfyServer(version="0.28", object_info="0.28.1") as running:
        yield running


def run(server: ComfyServer, cls: Any, **inputs: Any) -> Any:
    """The history of a node; node 2 has pictures for it."""
    server.add_node(cls)
    graph = {"1": node(cls.__name__, **inputs), "2": canvas(0xFF0000, width=8, height=4)}
    answer = post(server, "/prompt", {"prompt": graph, "client_id": "me"})
    return entry_of(server, answer.json()["prompt_id"])


def error(record: Any) -> str:
    assert record["status"]["status_str"] == "error"
    text: str = record["status"]["messages"][-1][1]["exception_message"]
    return text.strip()


# -- progress ---------------------------------------------------------------------------


def test_progress_of_a_node_is_told_with_a_preview(server: ComfyServer) -> None:
    """As its state, to a client that knows previews with metadata; without ``progress``."""

    class Work(Base):
        INPUTS = (io.Image.Input("image"),)

        @classmethod
        async def execute(cls, image: Any) -> Any:
            await ComfyAPI().execution.set_progress(1, 4)
            await ComfyAPI().execution.set_progress(2, 4, preview_image=image)
            wide = Image.new("RGB", (1024, 8))
            ComfyAPISync().execution.set_progress(3, 4, preview_image=wide)
            ComfyAPISync().execution.set_progress(4, 4, "2", wide, ignore_size_limit=True)
            return io.NodeOutput(None)

    with Socket(server, "me") as socket:
        hello = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
        socket.ws.send(json.dumps(hello))
        assert run(server, Work, image=["2", 0])["status"]["status_str"] == "success"
        heard = socket.until("execution_success")
    events = [one for one in heard if isinstance(one, dict)]
    assert "progress" not in [event["type"] for event in events]
    states = [one["data"]["nodes"] for one in events if one["type"] == "progress_state"]
    told = [(key, one["value"]) for each in states for key, one in each.items() if one["max"] == 4]
    assert list(dict.fromkeys(told)) == [("1", 1), ("1", 2), ("1", 3), ("2", 4), ("1", 4)]
    assert [preview(one) for one in heard if isinstance(one, bytes)] == [
        ("1", "JPEG", (512, 256)),
        ("1", "JPEG", (512, 4)),
        ("2", "JPEG", (1024, 8)),
    ]


def preview(frame: bytes) -> tuple[str, str | None, tuple[int, int]]:
    """The node, the format and the size of a preview with metadata."""
    kind, length = struct.unpack_from(">II", frame)
    assert kind == 4
    node_id = json.loads(frame[8 : 8 + length])["node_id"]
    with Image.open(BytesIO(frame[8 + length :])) as picture:
        return node_id, picture.format, picture.size


def test_progress_belongs_to_the_thread_of_a_node(server: ComfyServer) -> None:
    caught: list[str] = []

    def report() -> None:
        with pytest.raises(ValueError, match="in the thread of a running node") as found:
            ComfyAPISync().execution.set_progress(1, 2, node_id="1")
        caught.append(str(found.value))

    thread = threading.Thread(target=report)
    thread.start()
    thread.join()
    assert caught


# -- videos -----------------------------------------------------------------------------

VIDEO = mp4(Image.new("RGB", (16, 16)), (16, 16), {})


def test_a_video_of_a_node_is_saved_as_it_is(server: ComfyServer, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(VIDEO)
    for source in (BytesIO(VIDEO), str(tmp_path / "a.mp4")):

        class Fetch(Base):
            made = InputImpl.VideoFromFile(source)
            execute = classmethod(lambda cls: io.NodeOutput(cls.made))
            fingerprint_inputs = classmethod(lambda cls: float("nan"))

        server.add_node(Fetch)
        save = node("SaveVideo", video=["1", 0], filename_prefix="v", format="auto", codec="auto")
        answer = post(server, "/prompt", {"prompt": {"1": node("Fetch"), "9": save}})
        [file] = entry_of(server, answer.json()["prompt_id"])["outputs"]["9"]["images"]
        assert get(server, "/view", params=file).content == VIDEO


def test_a_video_is_copied_to_a_file(tmp_path: Path) -> None:
    video = InputImpl.VideoFromFile(BytesIO(VIDEO))
    assert isinstance(video, Input.Video)
    video.save_to(str(tmp_path / "b.mp4"), format=Types.VideoContainer.MP4)
    assert (tmp_path / "b.mp4").read_bytes() == VIDEO
    assert video.get_stream_source().read() == VIDEO


def test_a_video_of_a_class_of_ones_own_has_a_source() -> None:
    class Own(Input.Video):  # type: ignore[misc]
        def get_components(self) -> Any:
            return Types.VideoComponents(images=[], frame_rate=8)

        def save_to(self, path: Any, **_: Any) -> None:
            path.write(VIDEO)

    assert Own().get_stream_source().read() == VIDEO
    assert Own().get_components().audio is None


def test_formats_of_videos_are_choices_of_inputs() -> None:
    assert Types.VideoContainer.as_input() == ["auto", "mp4"]
    assert Types.VideoCodec.as_input() == ["auto", "h264"]
    assert [Types.VideoContainer.get_extension(one) for one in ("auto", "mp4")] == ["mp4", "mp4"]


# -- animations -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("png", {"compress_level": 4}),
        ("webp", {"lossless": True, "quality": 80, "method": 0}),
    ],
)
def test_pictures_are_saved_as_an_animation(
    server: ComfyServer, kind: str, how: dict[str, Any]
) -> None:
    """With the prompt in it, and without a word of simulation."""

    class Animate(Base):
        INPUTS = (io.Image.Input("image"),)

        @classmethod
        def execute(cls, image: Any) -> Any:
            images = [*image, Image.new("RGB", image[0].size, "blue")]
            save = getattr(ui.ImageSaveHelper, f"get_save_animated_{kind}_ui")
            one = getattr(ui.ImageSaveHelper, f"save_animated_{kind}")
            shown = save(images, "moving", cls, fps=4.0, **how).as_dict()
            preview = one(images[:1], "still", io.FolderType.temp, None, fps=4.0, **how)
            return io.NodeOutput(None, ui={**shown, "preview": [preview]})

    output = run(server, Animate, image=["2", 0])["outputs"]["1"]
    assert output["animated"] == [True]
    assert output["preview"][0]["type"] == "temp"
    [file] = output["images"]
    data = get(server, "/view", params=file).content
    assert b"prompt" in data
    assert b"simulated" not in data
    with Image.open(BytesIO(data)) as picture:
        assert (picture.format, getattr(picture, "n_frames", 1)) == (kind.upper(), 2)
        picture.seek(1)
        assert picture.convert("RGB").getpixel((0, 0)) == (0, 0, 255)
        assert picture.info["duration"] == 250


# -- what needs torch -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("use", "text"),
    [
        (lambda: InputImpl.VideoFromFile(BytesIO()).get_components(), "VideoFromFile"),
        (lambda: InputImpl.VideoFromComponents(None), "InputImpl.VideoFromComponents"),
        (lambda: Types.MESH(None, None), "Types.MESH"),
        (lambda: ui.PreviewAudio({}), "ui.PreviewAudio"),
        (lambda: ui.AudioSaveHelper, "ui.AudioSaveHelper"),
        (lambda: io.Tensor, "io.Tensor"),
    ],
)
def test_tensors_are_refused_with_the_word_torch(server: ComfyServer, use: Any, text: str) -> None:
    class Use(Base):
        execute = classmethod(lambda cls: use())
        fingerprint_inputs = classmethod(lambda cls: float("nan"))

    told = error(run(server, Use))
    assert text in told
    assert "torch" in told


def test_a_pack_may_import_by_version_or_from_inside() -> None:
    with offer_comfy_api():
        from comfy_api.input import VideoInput
        from comfy_api.input_impl import VideoFromFile
        from comfy_api.latest import _ui
        from comfy_api.latest._io import NodeOutput
        from comfy_api.util import VideoCodec
        from comfy_api.v0_0_2 import IO, ComfyExtension

    assert (_ui, NodeOutput, IO) == (ui, io.NodeOutput, io)
    assert ComfyExtension
    found = (VideoInput, VideoFromFile, VideoCodec)
    assert found == (Input.Video, InputImpl.VideoFromFile, Types.VideoCodec)


def test_replacements_are_registered_while_a_file_is_loaded() -> None:
    with pytest.raises(RuntimeError, match="while a file is loaded, as in on_load"):
        ComfyAPISync().node_replacement.register(io.NodeReplace("New", "Old"))
