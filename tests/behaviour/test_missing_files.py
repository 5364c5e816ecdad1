"""``check_files`` and ``has_image``: how a server is asked, and what it says in vain.

Files that are really gone are in ``tests/contract/test_missing_files.py``.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest

from comfy_client import ApiError, ClientClosed, ComfyApi, RequestTimeout, Result
from comfy_client.jobs.result import make_result
from comfy_client.testing import ComfyServer, Request
from tests.helpers.clients import LIMIT, exception_of, quickly
from tests.helpers.gates import saves

IMAGE = {"filename": "x_00001_.png", "subfolder": "", "type": "output"}


@pytest.fixture
def result(comfy: ComfyServer, fast: ComfyApi) -> Result:
    return fast.run(saves(), timeout=LIMIT)


def views(comfy: ComfyServer) -> list[str]:
    return [request.method for request in comfy.requests if request.path.endswith("/view")]


def test_check_files_reads_only_headers(comfy: ComfyServer, fast: ComfyApi, result: Result) -> None:
    """Headers are enough."""
    assert result.check_files() == []
    assert fast.has_image(result.images[0])
    assert views(comfy) == ["HEAD", "HEAD"]


def test_check_files_asks_with_get_if_head_is_refused(
    comfy: ComfyServer, fast: ComfyApi, result: Result
) -> None:
    """As some proxies do."""
    comfy.on("HEAD", "/view", (405, {}, None))
    assert result.check_files() == []
    assert not fast.has_image({**IMAGE, "filename": "gone.png"})
    assert views(comfy) == ["HEAD", "GET", "HEAD", "GET"]


def test_each_file_is_asked_for_once_and_four_at_a_time(comfy: ComfyServer, fast: ComfyApi) -> None:
    """Though several outputs name it; the answer has them in their order."""
    lock = threading.Lock()
    under_way, most = 0, 0

    def answer(request: Request) -> Any:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        with lock:
            under_way -= 1
        return (404 if request.query["filename"] in ("3", "7") else 200), {}, None

    comfy.on("HEAD", "/view", answer)
    images = [{**IMAGE, "filename": str(number % 10)} for number in range(30)]
    result = make_result("id", {}, {"9": {"images": images}}, files=fast)
    assert [one.filename for one in result.check_files()] == ["3", "7"] * 3
    names = Counter(r.query["filename"] for r in comfy.requests if r.path.endswith("/view"))
    assert set(names.values()) == {1}
    assert most <= 4


def test_a_server_that_does_not_say_is_an_error(comfy: ComfyServer, result: Result) -> None:
    """A file is not missing because of that."""
    comfy.on("HEAD", "/view", (500, {}, None))
    with pytest.raises(ApiError, match="500"):
        result.check_files()


def test_time_may_run_out(comfy: ComfyServer, fast: ComfyApi, result: Result) -> None:
    """For all of them together, or for one."""
    comfy.faults.delay("HEAD", "/view")
    with quickly(), pytest.raises(RequestTimeout):
        result.check_files(timeout=0.3)
    with quickly(), pytest.raises(RequestTimeout):
        fast.has_image(IMAGE, timeout=0.3)


def test_close_ends_it(comfy: ComfyServer, fast: ComfyApi, result: Result) -> None:
    """In another thread."""
    comfy.faults.delay("HEAD", "/view")
    threading.Timer(0.3, fast.close).start()
    assert isinstance(exception_of(result.check_files, LIMIT), ClientClosed)


def test_a_result_without_files_asks_for_nothing(comfy: ComfyServer) -> None:
    """There is nothing to be missing."""
    assert make_result("id", {}, {"9": {"text": ["x"]}}).check_files() == []
    assert views(comfy) == []
