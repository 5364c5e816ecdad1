"""What requests and downloads cost, in calls and bytes: no busy machine changes these."""

from __future__ import annotations

import contextlib
import http.client
import sys
from collections.abc import Callable, Iterator
from types import FrameType

import pytest

from comfy_client.testing import ComfyServer
from comfy_client.transport.http import Http


def calls(call: Callable[[], object]) -> int:
    """Return how many functions a call calls in this thread, those written in C among them."""
    count = 0

    def note(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)
    return count


def least(call: Callable[[], object]) -> int:
    """Return the fewest calls of some tries, as finalizers run in any of them."""
    call()  # imports what is imported late, and connects
    return min(calls(call) for _ in range(5))


@pytest.fixture
def plain(comfy: ComfyServer) -> Iterator[Callable[[str], bytes]]:
    """One exchange of ``http.client``, over a connection that it keeps."""
    connection = http.client.HTTPConnection("127.0.0.1", comfy.port)

    def ask(target: str) -> bytes:
        connection.request("GET", target)
        return connection.getresponse().read()

    with contextlib.closing(connection):
        yield ask


def test_a_request_takes_few_calls(http: Http, plain: Callable[[str], bytes]) -> None:
    """Not twice those of ``http.client``, where requests takes eight times as many."""
    ours = least(lambda: http.request("GET", "/prompt"))
    theirs = least(lambda: plain("/api/prompt"))
    assert ours < 1.5 * theirs, (ours, theirs)


def test_a_small_file_takes_hardly_more_calls_than_an_answer(
    comfy: ComfyServer, http: Http
) -> None:
    """Though it could be resumed."""
    (comfy.root / "output" / "a.png").write_bytes(b"12345")
    ours = least(lambda: http.content("/view", params={"filename": "a.png"}))
    answer = least(lambda: http.request("GET", "/view", params={"filename": "a.png"}))
    assert ours < 1.3 * answer, (ours, answer)
