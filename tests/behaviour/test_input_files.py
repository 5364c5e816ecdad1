"""Files that are inputs of a workflow: sent when it is submitted, and once."""

from __future__ import annotations

import io
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from comfy_client import (
    ComfyApi,
    MissingExtra,
    TransportError,
    Upload,
    UploadTooLarge,
    Workflow,
    WorkflowError,
)
from comfy_client.testing import ComfyServer
from tests.conftest import examples
from tests.helpers.clients import LIMIT, Heard, client, until
from tests.helpers.http import MIB

PIXELS = np.random.default_rng(3).integers(0, 256, (8, 8, 3), dtype=np.uint8)
GRAPH: dict[str, Any] = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
}


def sent(server: ComfyServer) -> int:
    """How many files were sent."""
    return Counter((one.method, one.path) for one in server.requests)["POST", "/upload/image"]


def loads(image: Any) -> Workflow:
    workflow = Workflow(GRAPH)
    workflow["LoadImage"]["image"] = image
    return workflow


def in_file(pixels: Any, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


# -- once -----------------------------------------------------------------------------------


def test_the_same_picture_travels_once(comfy: ComfyServer, fast: ComfyApi) -> None:
    """By its content, for every client; another one travels."""
    names = [fast.upload_image(picture).name for picture in (PIXELS, Image.fromarray(PIXELS))]
    names.append(fast.upload_image(in_file(PIXELS)).name)
    with client(comfy) as other:
        names.append(other.upload_image(PIXELS / 255).name)
    content = next(iter((comfy.root / "input").glob(names[0]))).read_bytes()
    assert len(set(names)) == 2  # Pillow's own options make another file of the same picture
    assert sent(comfy) == 2
    assert Image.open(io.BytesIO(content)).size == (8, 8)
    assert fast.upload_image(PIXELS[::-1]).name not in names
    assert sent(comfy) == 3


@pytest.mark.parametrize("kind", ["path", "named", "named file"])
def test_a_file_with_a_name_is_sent_again_when_it_has_changed(
    comfy: ComfyServer, fast: ComfyApi, tmp_path: Path, kind: str
) -> None:
    """Or when the server has it no more; nothing is overwritten."""
    path = tmp_path / "photo.png"

    def upload(content: bytes) -> str:
        if kind == "path":
            path.write_bytes(content)
            os.utime(path, (content[0], content[0]))
            return fast.upload_image(path).name
        source = content if kind == "named" else io.BytesIO(content)
        return fast.upload_image(source, "photo.png").name

    assert [upload(b"1"), upload(b"1")] == ["photo.png", "photo.png"]
    assert sent(comfy) == 1
    assert [upload(b"2"), upload(b"2")] == ["photo (1).png", "photo (1).png"]
    assert sent(comfy) == 2
    (comfy.root / "input" / "photo (1).png").unlink()
    assert upload(b"2") == "photo (1).png"
    assert sent(comfy) == 3
    assert (comfy.root / "input" / "photo.png").read_bytes() == b"1"


def test_half_a_file_is_sent_again(comfy: ComfyServer, fast: ComfyApi) -> None:
    """What a server left that died; the name that it answers counts."""
    content = in_file(PIXELS)
    name = fast.upload_image(content).name
    (comfy.root / "input" / name).write_bytes(content[:50])
    assert fast.upload_image(content).name == name.replace(".png", " (1).png")
    assert fast.upload_image(content).name == name.replace(".png", " (1).png")
    assert sent(comfy) == 2


def test_overwriting_is_done_each_time(comfy: ComfyServer, fast: ComfyApi) -> None:
    """And what was there before is remembered no more."""
    for content in (b"1", b"2", b"2", b"1"):
        assert fast.upload_image(content, "a.bin", overwrite=True).name == "a.bin"
        assert (comfy.root / "input" / "a.bin").read_bytes() == content
    assert sent(comfy) == 4
    fast.upload_image(b"3", "b.bin")
    fast.upload_image(b"4", "b.bin", overwrite=True)
    assert fast.upload_image(b"3", "b.bin").name == "b (1).bin"


def test_a_server_or_a_proxy_that_does_not_let_us_look_gets_the_file(
    comfy: ComfyServer, fast: ComfyApi
) -> None:
    """It is not written twice for that."""
    comfy.on("HEAD", "/view", (405, {}, None))
    assert fast.upload_image(PIXELS) == fast.upload_image(PIXELS)
    assert sent(comfy) == 2
    assert len(list((comfy.root / "input").iterdir())) == 1


# -- with a workflow ------------------------------------------------------------------------


def test_a_file_is_sent_with_the_workflow_that_wants_it(comfy: ComfyServer, fast: ComfyApi) -> None:
    """Whoever submits it; the workflow stays as it was."""
    workflow = loads(PIXELS)
    before = workflow.copy()
    results = [
        fast.run(workflow, timeout=LIMIT),
        fast.run(GRAPH, {"LoadImage.image": PIXELS}, timeout=LIMIT),
        fast.run(workflow.to_dict(), timeout=LIMIT, check=True),
        fast.submit(workflow).result(LIMIT),
        fast.job(fast.queue_prompt(None, workflow).prompt_id, workflow).result(LIMIT),
        *fast.map([workflow]),
        *fast.map(GRAPH, [{"LoadImage.image": PIXELS}] * 2),
    ]
    for result in results:
        assert np.array_equal(result.image.array(), PIXELS)
        assert result.graph["1"]["inputs"]["image"].endswith(".png")
    assert workflow == before
    assert sent(comfy) == 1


_MISTAKES: list[dict[str, Any]] = [
    {"extra_data": {"place": 1j}},
    {"extra_data": {"extra_pnginfo": "text"}},
    {"workflow_ui": ["text"]},
    {"partial_execution_targets": ["99"]},
    {"partial_execution_targets": "2"},
]


@pytest.mark.parametrize("method", ["run", "submit", "queue", "map", "sweep"])
@pytest.mark.parametrize("wrong", _MISTAKES, ids=str)
def test_a_mistake_in_the_options_costs_no_upload(
    comfy: ComfyServer, fast: ComfyApi, method: str, wrong: dict[str, Any]
) -> None:
    """A large file would take minutes, for nothing."""
    workflow = loads(PIXELS)
    calls: dict[str, Callable[[], object]] = {
        "run": lambda: fast.run(workflow, **wrong),
        "submit": lambda: fast.submit(workflow, **wrong),
        "queue": lambda: fast.queue_prompt(None, workflow, **wrong),
        "map": lambda: [*fast.map([workflow], timeout=LIMIT, **wrong)],
        "sweep": lambda: [*fast.sweep(workflow, {"SaveImage.filename_prefix": ["x"]}, **wrong)],
    }
    with pytest.raises((TypeError, WorkflowError), match=r"extra_data|workflow_ui|targets"):
        calls[method]()
    assert sent(comfy) == 0


def test_a_mistake_in_the_graph_or_the_id_costs_no_upload(
    comfy: ComfyServer, fast: ComfyApi
) -> None:
    """With ``strict``, a link to a missing node is one, although other outputs would run."""
    with pytest.raises(ValueError, match="canonical UUID"):
        fast.submit(loads(PIXELS), prompt_id="mine")
    more = {"class_type": "SaveImage", "inputs": {"images": ["9", 0], "filename_prefix": "y"}}
    graph = {**loads(PIXELS).to_dict(), "3": more}
    with pytest.raises(WorkflowError, match="which does not exist"):
        fast.run(graph, strict=True)
    graph["3"]["inputs"]["images"] = ["3", 0]
    for call in (fast.run, fast.submit):
        with pytest.raises(WorkflowError, match="itself"):
            call(graph)
    assert sent(comfy) == 0


def test_the_name_that_the_server_answers_is_used(comfy: ComfyServer, fast: ComfyApi) -> None:
    """Each time, also when the file is not sent again."""
    with comfy.faults.rename_uploads("elsewhere.png"):
        for _ in range(2):
            result = fast.run(loads(Upload(PIXELS, "a.png", subfolder="b")), timeout=LIMIT)
            assert result.graph["1"]["inputs"]["image"] == "b/elsewhere.png"
    assert sent(comfy) == 1


def test_a_file_that_cannot_be_sent_ends_the_submission(
    comfy: ComfyServer, fast: ComfyApi, tmp_path: Path
) -> None:
    """With the node that wants it; no prompt is queued."""
    heard = Heard(fast)
    with comfy.faults.too_large(limit=100), pytest.raises(UploadTooLarge) as large:
        fast.run(loads(bytes(500)))
    assert large.value.size is not None
    assert large.value.size > 500
    assert large.value.__notes__ == ["for node 1 (LoadImage), input 'image'"]
    until(lambda: heard("queue_error"))
    path = tmp_path / "a.png"
    path.write_bytes(b"x")
    workflow = loads(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        fast.submit(workflow)
    assert not [one for one in comfy.requests if (one.method, one.path) == ("POST", "/prompt")]


def test_inputs_that_are_no_single_file_say_what_to_set(fast: ComfyApi) -> None:
    """A result, the outputs of a node, a job, a tuple of images."""
    job = fast.submit(loads(np.stack([PIXELS, PIXELS])))
    result = job.result(LIMIT)
    for value, advice in (
        (
            result,
            "<Result 2 images.* has not one output; set one of its files, such as result.images",
        ),
        (result["SaveImage"], "has not one output; set one of its files"),
        (job, "<Job .* is a job; set one of its outputs, such as job.result\\(\\).image"),
        (result.images, r"cannot be inside a list or dict; .* one array: np.stack\(pictures\)"),
    ):
        with pytest.raises(WorkflowError, match=f"input 'image': .*{advice}"):
            loads(value)
    with pytest.raises(TypeError, match="has not one output"):
        fast.upload_image(result)  # type: ignore[arg-type]


def test_a_result_with_one_file_is_that_file(comfy: ComfyServer, fast: ComfyApi) -> None:
    """Previews beside it do not count."""
    workflow = loads(PIXELS).to_dict()
    workflow["3"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    result = fast.run(workflow, timeout=LIMIT)
    assert len(result.files) == 2
    for value in (result, result["SaveImage"]):
        assert (fast.run(loads(value), timeout=LIMIT).image.array() == PIXELS).all()
    assert sent(comfy) == 1


def test_the_upload_limit_of_the_server_is_an_error_with_the_size(tmp_path: Path) -> None:
    """As of ``--max-upload-size``."""
    with ComfyServer(max_upload_size=MIB) as server, client(server) as api:
        with pytest.raises(UploadTooLarge) as caught:
            api.upload_image(bytes(2 * MIB), "a.bin")
        assert (caught.value.limit, caught.value.status) == (MIB, 413)
        assert caught.value.size is not None
        assert 2 * MIB < caught.value.size < 2 * MIB + 1000


def test_a_sweep_takes_pictures_as_values(
    comfy: ComfyServer, fast: ComfyApi, tmp_path: Path
) -> None:
    """Each travels once; with a journal, it runs once, wherever it comes from."""
    path = tmp_path / "photo.png"
    path.write_bytes(in_file(PIXELS[::-1]))
    pictures = [PIXELS, Image.fromarray(PIXELS.transpose(1, 0, 2)), path]
    grid: dict[str, Any] = {"LoadImage.image": pictures, "SaveImage.filename_prefix": ["a", "b"]}
    for _ in range(2):
        rows = fast.sweep(GRAPH, grid, journal=tmp_path / "journal")
        assert [row.error for row in rows] == [None] * 6
        assert np.array_equal(rows[0].result.image.array(), PIXELS)
        assert np.array_equal(rows[5].result.image.array(), PIXELS[::-1])
    assert all(row.from_journal for row in rows)
    assert sent(comfy) == 3
    path.write_bytes(in_file(PIXELS))
    assert [row.from_journal for row in fast.sweep(GRAPH, grid, journal=tmp_path / "journal")] == [
        *([True] * 4),
        *([False] * 2),
    ]


def test_a_batch_of_prompts_sends_a_file_again_that_was_cut(
    comfy: ComfyServer, fast: ComfyApi
) -> None:
    """It waits for the server, which is away for a moment."""
    params = [{"LoadImage.image": picture} for picture in (PIXELS, PIXELS[::-1])]
    results = fast.map(GRAPH, params, in_flight=1)
    next(results)
    with comfy.faults.cut("POST", "/upload/image", sent=5, times=1):
        assert np.array_equal(next(results).image.array(), PIXELS[::-1])
    with comfy.faults.cut("POST", "/upload/image", sent=5), pytest.raises(TransportError):
        fast.run(loads(PIXELS.transpose(1, 0, 2)))


# -- outputs --------------------------------------------------------------------------------


def test_an_output_is_used_where_it_is_or_copied(comfy: ComfyServer, fast: ComfyApi) -> None:
    """Nothing is sent on its own server, unless it shall have a name there."""
    image = fast.run(loads(PIXELS), timeout=LIMIT).image
    before = len(comfy.requests)
    assert fast.upload_image(image).ref == f"{image.filename} [output]"
    assert len(comfy.requests) == before
    with client(comfy) as twin:
        assert twin.upload_image(image).type == "output"
    copied = fast.upload_image(image, "mine.png")
    assert copied.ref == "mine.png"
    assert fast.get_image(copied) == image.bytes()
    with ComfyServer() as other, client(other) as elsewhere:
        upload = image.as_input()
        before = len(comfy.requests)
        for picture in (upload, upload, image):
            result = elsewhere.run(loads(picture), timeout=LIMIT)
            assert np.array_equal(result.image.array(), PIXELS)
        assert sent(other) == 1
        assert len(comfy.requests) - before == 2  # what was fetched once is known by its content


# -- masks ----------------------------------------------------------------------------------


def test_the_same_mask_for_the_same_original_travels_once(
    comfy: ComfyServer, fast: ComfyApi
) -> None:
    """Another state of the original makes another picture."""

    def posts() -> int:
        return len([one for one in comfy.requests if one.path == "/upload/mask"])

    original = fast.upload_image(PIXELS, "a.png")
    mask = np.zeros((8, 8))
    masked = fast.upload_mask(mask, original)
    assert fast.upload_mask(mask, original) == masked
    assert posts() == 1
    assert fast.upload_mask(mask + 1, original) != masked
    fast.upload_image(PIXELS[::2], "a.png", overwrite=True)
    again = fast.upload_mask(mask[::2], original)
    fast.upload_image(PIXELS[1::2], "a.png", overwrite=True)
    assert fast.upload_mask(mask[::2], original) != again
    assert posts() == 4


# -- names, progress, extras ----------------------------------------------------------------


@settings(max_examples=examples(50), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(max_size=30)
    | st.text(alphabet="./\\: \x00aN\u202e\ud800[]", max_size=12)
    | st.builds("{}{}".format, st.text("ab ", max_size=3), st.sampled_from([" [temp]", "[input]"]))
)
def test_any_name_is_refused_or_found_again(comfy: ComfyServer, fast: ComfyApi, name: str) -> None:
    """And nothing is overwritten, or written outside of the folder."""
    folder = comfy.root / "input"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    content = os.urandom(8)
    try:
        uploaded = fast.upload_image(content, name)
    except ValueError:
        return
    if ".." not in uploaded.name:  # which GET /view takes for a way out
        assert fast.get_image(uploaded) == content
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after.items() >= before.items()
    assert list(after.keys() - before.keys()) == [folder / uploaded.name]


def test_progress_of_an_upload_is_in_bytes(fast: ComfyApi, tmp_path: Path) -> None:
    """In this thread; what it raises ends the upload."""
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(3 * MIB + 5))
    told: list[tuple[int, int]] = []
    fast.upload_image(path, on_progress=lambda *both: told.append(both))
    size = 3 * MIB + 5
    assert told == [(MIB, size), (2 * MIB, size), (3 * MIB, size), (size, size)]
    fast.upload_image(path, on_progress=lambda *both: told.append(both))
    assert len(told) == 4  # it was there

    def stop(sent: int, size: int) -> None:
        raise OSError("enough")

    with pytest.raises(OSError, match="enough"):
        fast.upload_image(path, "b.bin", on_progress=stop)
    assert fast.upload_image(path, "c.bin").name == "c.bin"


@pytest.mark.parametrize(("library", "extra"), [("numpy", "numpy"), ("PIL", "image")])
def test_a_missing_extra_is_named(
    fast: ComfyApi, monkeypatch: pytest.MonkeyPatch, library: str, extra: str
) -> None:
    """By an upload and by an input; the rest does without."""
    workflow = Workflow(GRAPH)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra, match=rf"\[{extra}\]"):
        fast.upload_image(PIXELS)
    with pytest.raises(ImportError, match=rf"\[{extra}\]"):
        workflow["LoadImage"]["image"] = PIXELS
    assert fast.upload_image(b"x", "a").name == "a"
