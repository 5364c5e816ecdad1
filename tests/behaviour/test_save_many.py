"""Many files of one result: several at a time, and whole or not at all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comfy_client import ComfyApi
from comfy_client.errors import NotFound
from comfy_client.jobs.result import Result, make_result
from comfy_client.testing import ComfyServer, Request, cut, never_answer
from comfy_client.transport import connections
from comfy_client.transport.deadline import in_parallel, pause
from tests.helpers.clients import quickly, threads, until
from tests.helpers.interrupts import press_ctrl_c

SECONDS = 60


@pytest.fixture
def api(comfy: ComfyServer) -> Any:
    with ComfyApi(comfy.url, transport="poll") as api:
        yield api


def result_of(api: ComfyApi, count: int) -> Result:
    images = [{"filename": f"{number}.png"} for number in range(count)]
    return make_result("id", {}, {"9": {"images": images}}, files=api)


def test_a_batch_is_fetched_four_at_a_time(
    comfy: ComfyServer, api: ComfyApi, tmp_path: Path
) -> None:
    """Each in its file, the paths in the order of the files."""
    together = threading.Barrier(4)

    def view(request: Request) -> Any:
        together.wait(SECONDS)
        return 200, {}, request.query["filename"].encode()

    comfy.on("GET", "/view", view)
    result = result_of(api, 8)
    paths = result.save(tmp_path)
    assert [path.name for path in paths] == [f"{number}.png" for number in range(8)]
    assert [path.read_text() for path in paths] == [path.name for path in paths]
    assert [item.path for item in result] == paths


def test_a_file_that_is_missing_ends_the_others(
    comfy: ComfyServer, api: ComfyApi, tmp_path: Path
) -> None:
    """What was complete stays; there is no half of any."""
    first = threading.Event()

    def view(request: Request) -> Any:
        name = request.query["filename"]
        if name == "2.png":
            first.wait(SECONDS)
            return 404, {}, b""
        if name == "0.png":
            first.set()
        return 200, {}, name.encode() * 1000

    comfy.on("GET", "/view", view)
    with pytest.raises(NotFound):
        result_of(api, 100).save(tmp_path)
    saved = list(tmp_path.iterdir())
    assert len(saved) < 100
    assert all(path.read_text() == path.name * 1000 for path in saved)


def test_a_truncated_file_among_many_leaves_none_of_its_name(
    comfy: ComfyServer, api: ComfyApi, tmp_path: Path
) -> None:
    """The server does not say which version it is, so nothing can be continued."""

    def view(request: Request) -> Any:
        answer = 200, {}, b"x" * 1000
        return cut(answer, 500)(request) if request.query["filename"] == "1.png" else answer

    comfy.on("GET", "/view", view)
    with pytest.raises(Exception, match="after 500 of 1000 bytes"):
        result_of(api, 4).save(tmp_path)
    assert not (tmp_path / "1.png").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


WHOLE = 200, {"ETag": '"one"'}, b"x" * 100_000


def answer_nothing(request: Request) -> None:
    """Silence."""
    never_answer(request)


def answer_half(request: Request) -> None:
    """Half of the file, and then silence."""
    cut(WHOLE, 50_000)(request)
    never_answer(request)


def answer_half_and_hang_up(request: Request) -> None:
    """The connection is cut within the file, and the rest is asked for in vain."""
    if "Range" in request.headers:
        never_answer(request)
    cut(WHOLE, 50_000)(request)


@pytest.mark.parametrize("answer", [answer_nothing, answer_half, answer_half_and_hang_up])
@pytest.mark.parametrize("error", [KeyboardInterrupt, NotFound])
def test_a_save_that_is_stopped_ends_at_once(
    comfy: ComfyServer,
    api: ComfyApi,
    tmp_path: Path,
    answer: Callable[[Request], None],
    error: type[BaseException],
) -> None:
    """No thread waits for a silent server, and no part of a file is left."""
    waiting = threading.Barrier(4)

    def view(request: Request) -> Any:
        is_last = answer is not answer_half_and_hang_up or "Range" in request.headers
        if request.query["filename"] != "0.png":
            if is_last:
                waiting.wait(SECONDS)
            return answer(request)
        waiting.wait(SECONDS)
        if error is NotFound:
            return 404, {}, b""
        press_ctrl_c()
        return never_answer(request)

    comfy.on("GET", "/view", view)
    with quickly(), pytest.raises(error):
        result_of(api, 4).save(tmp_path)
    assert list(tmp_path.iterdir()) == []
    until(lambda: not [thread for thread in threads() if thread.name == "comfy-files"])


def test_a_stopped_save_leaves_other_requests_alone(comfy: ComfyServer, api: ComfyApi) -> None:
    """Those, too, that have got a connection on which a file had come."""
    asked, released = threading.Event(), threading.Event()
    answers: list[Any] = []

    def view(request: Request) -> Any:
        if request.query["filename"] == "held.png":
            asked.set()
            released.wait(SECONDS)
        return 200, {}, b"whole"

    def ask() -> None:
        answers.append(api.get_image({"filename": "held.png"}))

    def read(file: str) -> None:
        if file == "failing.png":
            assert asked.wait(SECONDS)
            raise KeyError(file)
        with api.stream_image({"filename": file}) as download:
            assert b"".join(download) == b"whole"
            other.start()
            pause(SECONDS)

    comfy.on("GET", "/view", view)
    other = threading.Thread(target=ask)
    with pytest.raises(KeyError, match="failing"):
        in_parallel(read, ["failing.png", "a.png"])
    released.set()
    other.join(SECONDS)
    assert answers == [b"whole"]
    asked_for = [each.query["filename"] for each in comfy.requests if each.path == "/view"]
    assert asked_for == ["a.png", "held.png"]


def test_a_connection_that_is_about_to_be_cut_serves_nobody_else(
    comfy: ComfyServer, api: ComfyApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread may take it just when somebody has decided to cut it."""
    asked, is_cut, read_whole = (threading.Event() for _ in range(3))
    answers: list[Any] = []
    real_shut = connections.shut

    def interrupt(request: Request) -> Any:
        asked.set()
        is_cut.wait(SECONDS)
        return 200, {}, b""

    def ask() -> None:
        answers.append(api.interrupt())

    def shut(sock: Any) -> None:
        if not asked.is_set():
            other.start()
            assert asked.wait(SECONDS)
        real_shut(sock)
        is_cut.set()

    def read(file: str) -> None:
        if file == "failing.png":
            assert read_whole.wait(SECONDS)
            raise KeyError(file)
        with api.stream_image({"filename": file}) as download:
            assert b"".join(download) == b"whole"
            read_whole.set()
            pause(SECONDS)

    comfy.on("GET", "/view", (200, {}, b"whole"))
    comfy.on("POST", "/interrupt", interrupt)
    monkeypatch.setattr(connections, "shut", shut)
    other = threading.Thread(target=ask)
    with pytest.raises(KeyError, match="failing"):
        in_parallel(read, ["failing.png", "a.png"])
    other.join(SECONDS)
    assert answers == [None]
