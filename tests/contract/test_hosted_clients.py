"""Clients of Comfy API v2 in other processes and copies, their files, and their token."""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import blinker
import numpy as np
import pytest
from PIL import Image

from comfy_client import ComfyApi, HostedApi, NotSupported, Upload
from comfy_client.errors import AuthenticationError
from tests.helpers.clients import Heard, flush
from tests.helpers.graphs import node, png
from tests.helpers.hosted import Hosted, embedded, picture
from tests.helpers.hosted import before as in_front_of
from tests.helpers.middle import Middle, answer
from tests.helpers.processes import in_child

LIMIT = 180.0
TOKEN = "a-token-for-one-origin-only"


@pytest.fixture
def api(hosted: Hosted) -> Iterator[HostedApi]:
    """A client with signals of its own, closed after the test."""
    with HostedApi(hosted.url, namespace=blinker.Namespace()) as client:
        yield client


@pytest.fixture
def name() -> str:
    """A file name that no other test uses."""
    return f"hosted_{uuid.uuid4().hex[:12]}"


@pytest.fixture(
    scope="module",
    params=["embedded-proxy", pytest.param("real-proxy", marks=pytest.mark.real)],
)
def locked(request: pytest.FixtureRequest) -> Iterator[Hosted]:
    """A place that wants a token."""
    if request.param == "embedded-proxy":
        with embedded(credentials=TOKEN) as place:
            yield place
    else:
        with in_front_of(request.getfixturevalue("real_comfyui"), token=TOKEN) as place:
            yield place


# -- copies ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["copy", "deepcopy", "pickle"])
def test_a_copy_is_a_second_client(api: HostedApi, hosted: Hosted, name: str, how: str) -> None:
    """With the same settings; the original goes on."""
    ways: dict[str, Any] = {
        "copy": copy.copy,
        "deepcopy": copy.deepcopy,
        "pickle": lambda one: pickle.loads(pickle.dumps(one)),
    }
    with HostedApi(hosted.url) as original, ways[how](original) as other:
        assert type(other) is HostedApi
        assert other.run(picture(name), timeout=LIMIT).image.filename
        assert original.run(picture(name), timeout=LIMIT).image.filename
    assert hosted.runs(name) == 2


def test_after_a_fork_both_work(api: HostedApi, hosted: Hosted, name: str) -> None:
    """The child submits for itself, and the parent's job ends in the parent."""
    heard = Heard(api)
    job = api.submit(picture(name, 1.0))

    def work() -> object:
        with HostedApi(hosted.url, namespace=blinker.Namespace()) as other:
            other.run(picture(f"{name}other"), timeout=LIMIT)
        return api.run(picture(f"{name}child"), timeout=LIMIT).image.filename

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        told = in_child(work)
    assert told == f"{name}child_00001_.png"
    assert job.result(LIMIT).image.filename == f"{name}_00001_.png"
    flush(api)
    assert [event.name for event in heard.ends()] == ["execution_success"]


# -- files ----------------------------------------------------------------------------------


def loads(image: Any, name: str) -> dict[str, Any]:
    """Return a workflow that saves what it loads."""
    return {
        "1": node("LoadImage", image=image),
        "9": node("SaveImage", images=["1", 0], filename_prefix=name),
    }


@pytest.mark.parametrize("kind", ["array", "path", "upload"])
def test_a_picture_is_sent_with_the_workflow(
    api: HostedApi, tmp_path: Path, name: str, kind: str
) -> None:
    """And comes back pixel by pixel."""
    pixels = np.random.default_rng().integers(0, 256, (16, 16, 3), dtype=np.uint8)
    path = tmp_path / f"{name}.png"
    Image.fromarray(pixels).save(path)
    image = {"array": pixels, "path": path, "upload": Upload(path)}[kind]
    result = api.run(loads(image, name), timeout=LIMIT)
    with Image.open(io.BytesIO(result.image.bytes())) as back:
        assert np.array_equal(np.asarray(back.convert("RGB")), pixels)


def test_a_result_is_the_input_of_the_next_run(api: HostedApi, name: str) -> None:
    """By its content: the proxy cannot load outputs."""
    first = api.run(picture(name), timeout=LIMIT)
    second = api.run(loads(first, f"{name}again"), timeout=LIMIT)
    with (
        Image.open(io.BytesIO(first.image.bytes())) as one,
        Image.open(io.BytesIO(second.image.bytes())) as two,
    ):
        assert one.convert("RGB").tobytes() == two.convert("RGB").tobytes()


def test_an_uploaded_file_is_an_input(api: HostedApi, name: str) -> None:
    """In place of a file name."""
    uploaded = api.upload_image(png((1, 2, 3)), f"{name}.png")
    result = api.run(loads(uploaded.ref, name), timeout=LIMIT)
    with Image.open(io.BytesIO(result.image.bytes())) as back:
        assert back.convert("RGB").getpixel((0, 0)) == (1, 2, 3)


# -- the token ------------------------------------------------------------------------------


def test_a_token_opens_the_place(locked: Hosted, name: str) -> None:
    """And a wrong one, or none, does not; nothing runs."""
    with HostedApi(locked.url, TOKEN) as api:
        assert api.run(picture(name), timeout=LIMIT).image.bytes()
    for wrong in ("wrong", None):
        api = HostedApi(locked.url, wrong)
        with contextlib.closing(api), pytest.raises(AuthenticationError):
            api.run(picture(name), timeout=LIMIT)
    assert locked.runs(name) == 1


def test_a_token_goes_to_its_origin_alone(locked: Hosted, name: str) -> None:
    """A storage on another port, to which downloads are sent, gets none of our headers."""
    with (
        Middle(int(locked.url.rpartition(":")[2])) as middle,
        Middle(middle.port) as storage,
        HostedApi(middle.url, TOKEN) as api,
        middle.rule(
            "GET", "/api/v2/assets/*/content", answer(302, "", {"Location": f"{storage.url}/file"})
        ),
        storage.rule("GET", "/file", answer(200, "a picture", {"Content-Type": "image/png"})),
    ):
        result = api.run(picture(name), timeout=LIMIT)
        assert result.image.bytes() == b"a picture"
    assert {one.headers.get("Authorization") for one in middle.asked} == {f"Bearer {TOKEN}"}
    [asked] = storage.asked
    assert TOKEN not in str(asked)
    assert "authorization" not in {key.lower() for key in asked.headers}
    assert not [key for key in asked.headers if key.lower().startswith(("cookie", "comfy", "x-"))]


def test_a_token_is_in_no_text(locked: Hosted, caplog: pytest.LogCaptureFixture) -> None:
    """Not in that of the client, its copies, or its errors."""
    with HostedApi(locked.url, TOKEN) as api:
        assert TOKEN not in repr(api)
        data = pickle.dumps(api)
        assert TOKEN.encode() not in data
        pickle.loads(data).close()
    assert "api_key" in caplog.text
    assert TOKEN not in caplog.text


# -- what there is not ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        ComfyApi.get_queue,
        ComfyApi.clear_queue,
        ComfyApi.interrupt,
        ComfyApi.get_system_stats,
        ComfyApi.free_memory,
        lambda api: api.get_histories(None),
    ],
)
def test_calls_without_a_hosted_route_are_not_supported(hosted: Hosted, call: Any) -> None:
    """In one sentence, and without a request."""
    with (
        Middle(int(hosted.url.rpartition(":")[2])) as middle,
        contextlib.closing(HostedApi(middle.url)) as other,
    ):
        with pytest.raises(NotSupported) as caught:
            call(other)
        assert middle.asked == []
    assert str(caught.value)
