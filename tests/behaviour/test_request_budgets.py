"""What requests and downloads cost, in calls and bytes: no busy machine changes these."""

from __future__ import annotations

import contextlib
import http.client
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from comfy_client import ComfyApi, Workflow
from comfy_client.redaction import sealed_workflow
from comfy_client.routes.prompts import make_prompt
from comfy_client.testing import ComfyServer
from comfy_client.transport.http import Http
from tests.helpers.http import MIB


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
    """Fewer than those of ``http.client``, where requests takes eight times as many."""
    ours = least(lambda: http.request("GET", "/prompt"))
    theirs = least(lambda: plain("/api/prompt"))
    assert ours < theirs, (ours, theirs)


def test_a_small_file_takes_hardly_more_calls_than_an_answer(
    comfy: ComfyServer, http: Http
) -> None:
    """Though it could be resumed."""
    (comfy.root / "output" / "a.png").write_bytes(b"12345")
    ours = least(lambda: http.content("/view", params={"filename": "a.png"}))
    answer = least(lambda: http.request("GET", "/view", params={"filename": "a.png"}))
    assert ours < 1.2 * answer, (ours, answer)


def test_a_mebibyte_of_a_file_takes_few_calls(
    comfy: ComfyServer, http: Http, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read in one piece, and written in one."""
    receive, here = socket.socket.recv_into, threading.get_ident()

    def filled(sock: socket.socket, buffer: Any) -> int:
        """Wait until all is there, as luck decides how much comes at once."""
        if threading.get_ident() != here or len(buffer) < MIB // 4:
            return receive(sock, buffer)
        sock.setblocking(True)
        return receive(sock, buffer, 0, socket.MSG_WAITALL)

    monkeypatch.setattr(socket.socket, "recv_into", filled)
    few, many = 1, 9
    with ComfyApi(comfy.url, transport="poll") as api:
        for size in (few, many):
            (comfy.root / "output" / f"{size}.png").write_bytes(bytes(size * MIB))
        one, nine = (
            least(partial(api.download_image, {"filename": f"{size}.png"}, tmp_path / "a.png"))
            for size in (few, many)
        )
    assert nine - one < (many - few) * 50, (one, nine)
    print("NN", one, nine)


def test_a_node_takes_few_calls_until_it_is_sent(http: Http) -> None:
    """Though it is searched for secrets and files, copied, checked and given seeds."""

    def prepare(graph: dict[str, Any]) -> object:
        return make_prompt(http, Workflow(sealed_workflow(graph)), client_id="x")

    def graph_of(count: int) -> dict[str, Any]:
        inputs = {"images": ["0", 0], "seed": 1, "text": "a", "amount": 0.5}
        saves = {"class_type": "SaveImage", "inputs": inputs, "_meta": {"title": "Save"}}
        return {str(index): {**saves, "inputs": {**inputs}} for index in range(1, count)} | {
            "0": {"class_type": "EmptyImage", "inputs": {}}
        }

    few, many = (least(partial(prepare, graph_of(count))) for count in (100, 200))
    assert many - few < 100 * 55, (few, many)
