"""A server that refuses references to assets gets file names, never those of other files.

The embedded serverless deployment does so, unless its trap ``assets_by_name_only`` is not set.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import blinker
import pytest
import requests
from PIL import Image

from comfy_client import HostedApi, Result, Upload
from comfy_client.errors import PromptRejected
from comfy_client.testing import ComfyServer, hosted_error
from tests.helpers.clients import LIMIT
from tests.helpers.graphs import node
from tests.helpers.hashes import install, uninstall
from tests.helpers.hosted import picture
from tests.helpers.middle import Asked, Middle, forward, lost

JOBS = "/api/v2/jobs"
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.fixture
def server() -> Iterator[ComfyServer]:
    with ComfyServer(hosted="serverless") as running:
        yield running


@pytest.fixture
def middle(server: ComfyServer) -> Iterator[Middle]:
    """The way to the server."""
    with Middle(int(server.url.rpartition(":")[2])) as way:
        yield way


@pytest.fixture
def api(server: ComfyServer, middle: Middle) -> Iterator[HostedApi]:
    """A client that has run a job without files, and so knows the form of labels."""
    with HostedApi(middle.url, namespace=blinker.Namespace()) as client:
        client.run(picture("first"), timeout=LIMIT)
        server.ran.clear()
        middle.asked.clear()
        yield client


@pytest.fixture(params=["hashes", "no_hashes"])
def extra(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the extra ``[hosted]``, and without."""
    (install if request.param == "hashes" else uninstall)(monkeypatch)


def painted(color: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(file, "PNG")
    return file.getvalue()


def photo(folder: Path, color: tuple[int, int, int]) -> Path:
    """A file that is always called photo.png."""
    folder.mkdir(exist_ok=True)
    path = folder / "photo.png"
    path.write_bytes(painted(color))
    return path


def copied(image: object) -> dict[str, Any]:
    """A workflow that saves a picture; its prefix names no run, so a second one is cached."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": image}},
        "9": node("SaveImage", images=["1", 0], filename_prefix="copy"),
    }


def color_of(result: Result) -> tuple[int, ...]:
    with Image.open(io.BytesIO(result.image.bytes(timeout=LIMIT))) as image:
        found = image.convert("RGB").getpixel((3, 3))
    assert isinstance(found, tuple)
    return found


def sent(middle: Middle) -> list[Any]:
    """The pictures in the submissions, in their order."""
    return [one.json["workflow"]["1"]["inputs"]["image"] for one in middle.posted(JOBS)]


def kinds(middle: Middle) -> list[str]:
    return ["reference" if isinstance(one, dict) else "name" for one in sent(middle)]


# -- once, and then at once ------------------------------------------------------------------


@pytest.mark.usefixtures("extra")
def test_names_are_sent_once_references_are_refused(
    server: ComfyServer, middle: Middle, api: HostedApi, tmp_path: Path
) -> None:
    """From then on at once, also for files of the same name: each job has its own picture."""
    for number, color in enumerate((RED, GREEN, BLUE)):
        path = photo(tmp_path / str(number), color)
        assert color_of(api.run(copied(path), timeout=LIMIT)) == color
        assert len(server.ran) == number + 1
    assert kinds(middle) == ["reference", "name", "name", "name"]
    first, second = middle.posted(JOBS)[:2]
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"]


@pytest.mark.usefixtures("extra")
def test_a_server_that_resolves_references_gets_them(
    server: ComfyServer, middle: Middle, api: HostedApi, tmp_path: Path
) -> None:
    with server.gateway.trap(assets_by_name_only=False):
        for number, color in enumerate((RED, GREEN)):
            path = photo(tmp_path / str(number), color)
            assert color_of(api.run(copied(path), timeout=LIMIT)) == color
    assert kinds(middle) == ["reference", "reference"]


@pytest.mark.parametrize(
    "source",
    [
        painted,
        lambda color: io.BytesIO(painted(color)),
        lambda color: Image.new("RGB", (8, 8), color),
        lambda color: Upload(painted(color), subfolder="sub"),
    ],
    ids=["bytes", "file", "picture", "subfolder"],
)
def test_every_source_is_sent_by_its_name(
    api: HostedApi, source: Callable[[tuple[int, int, int]], object]
) -> None:
    assert color_of(api.run(copied(source(RED)), timeout=LIMIT)) == RED
    assert color_of(api.run(copied(source(GREEN)), timeout=LIMIT)) == GREEN


def test_a_file_uploaded_before_is_sent_by_its_name(
    middle: Middle, api: HostedApi, tmp_path: Path
) -> None:
    uploaded = api.upload_image(photo(tmp_path, RED))
    assert color_of(api.run(copied(uploaded.ref), timeout=LIMIT)) == RED
    assert sent(middle)[-1] == uploaded.name


def test_an_output_is_sent_by_its_name(api: HostedApi, tmp_path: Path) -> None:
    made = api.run(copied(photo(tmp_path, BLUE)), timeout=LIMIT)
    assert color_of(api.run(copied(made.image), timeout=LIMIT)) == BLUE


@pytest.mark.parametrize("how", ["map", "sweep"])
def test_many_runs_send_names(
    server: ComfyServer, api: HostedApi, tmp_path: Path, how: str
) -> None:
    """Whichever of them is refused first: each runs once, with its own picture."""
    colors = [(10 * number, 255 - 10 * number, 7) for number in range(6)]
    paths = [photo(tmp_path / str(number), color) for number, color in enumerate(colors)]
    if how == "map":
        results = list(api.map(map(copied, paths), in_flight=3))
    else:
        rows = api.sweep(copied(paths[0]), {"1.image": paths}, in_flight=3)
        results = [row.result for row in rows if row.result is not None]
    assert [color_of(result) for result in results] == colors
    assert len(server.ran) == len(colors)


def test_an_unknown_asset_is_sent_by_its_name(
    server: ComfyServer, middle: Middle, api: HostedApi, tmp_path: Path
) -> None:
    """The other way to refuse a reference: by the code of Comfy API v2."""
    said = hosted_error("missing_asset", details={"missing_ids": ["whatever"]})
    with server.faults.answer("POST", "/v2/jobs", said, times=1):
        assert color_of(api.run(copied(photo(tmp_path, RED)), timeout=LIMIT)) == RED
    assert kinds(middle) == ["reference", "name"]


# -- never another file ----------------------------------------------------------------------


def test_a_name_that_the_user_chose_is_not_sent(
    server: ComfyServer, middle: Middle, api: HostedApi, tmp_path: Path
) -> None:
    """The server stores a second me.png as ``me (1).png``, and does not tell."""
    chosen = [
        Upload(photo(tmp_path, GREEN), "me.png"),
        api.upload_image(photo(tmp_path, RED), "me.png").ref,
    ]
    for image in chosen:
        with pytest.raises(PromptRejected) as caught:
            api.run(copied(image), timeout=LIMIT)
        assert any("without a name of your own" in note for note in caught.value.__notes__)
    assert kinds(middle) == ["reference", "reference"]
    assert server.ran == []


def test_a_name_of_somebody_elses_is_not_sent(
    server: ComfyServer, middle: Middle, api: HostedApi, tmp_path: Path
) -> None:
    """The server has these bytes under a name that another picture had before."""
    for color in (GREEN, RED):
        fields = {"content_type": "image/png", "file_path": "photo.png"}
        body = {"file": ("photo.png", painted(color))}
        requests.post(f"{server.url}/api/v2/assets", data=fields, files=body, timeout=LIMIT)
    with pytest.raises(PromptRejected):
        api.run(copied(photo(tmp_path, RED)), timeout=LIMIT)
    assert kinds(middle) == ["reference"]
    assert server.ran == []


def test_a_file_that_changes_meanwhile_gets_no_name_of_another(
    server: ComfyServer, api: HostedApi, tmp_path: Path
) -> None:
    """What is stored under the digest of some content is that content."""
    path = photo(tmp_path, RED)
    left = [1]

    def change(done: int, size: int) -> None:
        if left:
            left.clear()
            path.write_bytes(painted(GREEN) + b"more")

    api.upload_image(path, on_progress=change)
    assert color_of(api.run(copied(path), timeout=LIMIT)) == GREEN
    photo(tmp_path, RED)
    assert color_of(api.run(copied(path), timeout=LIMIT)) == RED


def test_a_workflow_that_is_wrong_otherwise_is_refused_once(
    middle: Middle, api: HostedApi, tmp_path: Path
) -> None:
    """What is wrong is not the reference, and is told of the second submission, by name."""
    wrong = copied(photo(tmp_path, RED))
    wrong["5"] = node("NoSuchClass")
    with pytest.raises(PromptRejected, match="NoSuchClass"):
        api.run(wrong, timeout=LIMIT)
    assert kinds(middle) == ["reference"]


# -- exactly once ------------------------------------------------------------------------------


def test_a_lost_answer_to_the_second_submission_runs_once(
    server: ComfyServer, middle: Middle, api: HostedApi, tmp_path: Path
) -> None:
    """It is found under the key, which both have."""
    seen: list[str] = []

    def lose_second(way: Middle, asked: Asked, near: Any) -> None:
        seen.append("")
        (lost if len(seen) == 2 else forward)(way, asked, near)

    with middle.rule("POST", JOBS, lose_second):
        assert color_of(api.run(copied(photo(tmp_path, RED)), timeout=LIMIT)) == RED
    assert len(server.ran) == 1
    assert kinds(middle)[:2] == ["reference", "name"]
    assert "reference" not in kinds(middle)[2:]
    assert len({one.headers["Idempotency-Key"] for one in middle.posted(JOBS)}) == 1


def test_a_lost_refusal_is_heard_again(
    server: ComfyServer, middle: Middle, api: HostedApi, tmp_path: Path
) -> None:
    """The server surely remembers keys, so that a name may be sent under the same one."""
    with middle.rule("POST", JOBS, lost, times=1):
        assert color_of(api.run(copied(photo(tmp_path, RED)), timeout=LIMIT)) == RED
    assert len(server.ran) == 1
    assert kinds(middle) == ["reference", "reference", "name"]
