"""Results after their client or pool was closed: read, saved and shown as before."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from comfy_client import (
    ClientClosed,
    ComfyApi,
    ComfyPool,
    HeaderCredentials,
    NotFound,
    Output,
    Result,
    UnexpectedResponse,
    Workflow,
)
from comfy_client.testing import ComfyServer, Request
from tests.helpers.clients import LIMIT, Fast, open_sockets, threads, until
from tests.helpers.gates import saves

READ: dict[str, Callable[[Output, Path], object]] = {
    "bytes": lambda image, _: image.bytes()[1:4],
    "pil": lambda image, _: image.pil().size,
    "array": lambda image, _: image.array().shape,
    "save": lambda image, folder: image.save(folder).read_bytes()[1:4],
    "exists": lambda image, _: image.exists(),
    "open": lambda image, _: image.open().read(4)[1:],
    "workflow": lambda image, _: len(image.workflow()),
    "as a workflow": lambda image, _: len(Workflow.load(image)),
    "url": lambda image, _: urlsplit(image.url).path,
}


@pytest.fixture
def result(comfy: ComfyServer) -> Result:
    """What a client has left that was closed."""
    with Fast(comfy.url) as api:
        return api.run(saves(), timeout=LIMIT)


def nothing_is_open(server: ComfyServer) -> None:
    port = urlsplit(server.url).port
    assert port is not None
    until(lambda: open_sockets(port) == [])
    until(lambda: threads() == [])


@pytest.mark.parametrize("what", READ)
def test_an_output_is_read_as_before(comfy: ComfyServer, tmp_path: Path, what: str) -> None:
    """And leaves no connection and no thread."""
    with Fast(comfy.url) as api:
        image = api.run(saves(), timeout=LIMIT).image
        before = READ[what](image, tmp_path)
    assert READ[what](image, tmp_path) == before
    nothing_is_open(comfy)


def test_a_result_is_saved_and_examined(comfy: ComfyServer, result: Result, tmp_path: Path) -> None:
    assert [path.name for path in result.save(tmp_path)] == [result.image.filename]
    assert result.check_files() == []
    assert "data:image" in result.gallery()
    nothing_is_open(comfy)


def test_several_threads_read_at_once(comfy: ComfyServer, result: Result) -> None:
    """The first that is done takes no connection from the others."""
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: result.image.bytes(), range(64)))
    assert len(set(found)) == 1
    nothing_is_open(comfy)


def test_a_download_that_is_under_way_stays_when_another_ends(
    comfy: ComfyServer, result: Result
) -> None:
    with result.image.stream() as download:
        whole = result.image.bytes()
        assert b"".join(download) == whole
    nothing_is_open(comfy)


def test_the_results_of_a_pool_outlive_it(comfy: ComfyServer) -> None:
    with ComfyPool([comfy.url]) as pool:
        [made] = pool.map([saves()], timeout=LIMIT)
        [row] = pool.sweep(saves(), {"1.color": [7]}, timeout=LIMIT)
    assert made.image.pil().size
    assert row.result is not None
    assert row.result.image.pil().size == (16, 16)
    nothing_is_open(comfy)


def test_a_result_from_a_pickle_knows_its_server(comfy: ComfyServer, result: Result) -> None:
    assert pickle.loads(pickle.dumps(result)).image.bytes() == result.image.bytes()


def test_an_attached_result_outlives_its_client(comfy: ComfyServer, result: Result) -> None:
    with Fast(comfy.url) as api:
        again = api.job(result.prompt_id).result(LIMIT)
    assert again.image.bytes() == result.image.bytes()


@pytest.mark.parametrize(
    "given", [{}, {"session": True}, {"headers": {"X-Team": "red"}}], ids=["own", "session", "more"]
)
def test_credentials_go_along_and_are_renewed(comfy: ComfyServer, given: dict[str, Any]) -> None:
    """As with any request: they are asked for again after a 401."""
    keys = ["first"]
    session = requests.Session() if given.get("session") else None
    seen: list[Any] = []

    def guard(request: Request) -> Any:
        seen.append((request.headers.get("X-Key"), request.headers.get("X-Team")))
        return comfy.answer(request) if seen[-1][0] == keys[0] else (401, {}, None)

    with Fast(
        comfy.url,
        credentials=lambda: HeaderCredentials({"X-Key": keys[0]}),
        **(given | {"session": session}),
    ) as api:
        image = api.run(saves(), timeout=LIMIT).image
    keys[0] = "second"
    comfy.on("GET", "/view", guard)
    assert image.bytes()
    assert seen == [(key, given.get("headers", {}).get("X-Team")) for key in ("first", "second")]
    if session is not None:
        session.close()  # which we leave open
    nothing_is_open(comfy)


def test_errors_are_those_of_any_request(comfy: ComfyServer, result: Result) -> None:
    """A file that is gone, and a redirect, which is not followed."""
    comfy.on("GET", "/view", (302, {"Location": "http://127.0.0.1:1/view"}, None))
    with pytest.raises(UnexpectedResponse):
        result.image.bytes()
    comfy.on("GET", "/view", (404, {}, None))
    with pytest.raises(NotFound, match=f"not found: output/{result.image.filename}$"):
        result.image.bytes()
    nothing_is_open(comfy)


def test_a_picture_that_was_shown_stays_shown_without_its_server() -> None:
    with ComfyServer() as server, Fast(server.url) as api:
        result = api.run(saves(), timeout=LIMIT)
        shown = result.gallery()
    assert "data:image" in shown
    assert result.gallery() == shown


def test_new_work_needs_a_new_client(comfy: ComfyServer) -> None:
    """Which the sentence says."""
    api = ComfyApi(comfy.url)
    api.close()
    with pytest.raises(ClientClosed, match="closed; make a new one"):
        api.run(saves())
