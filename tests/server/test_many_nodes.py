"""Prompts of very many nodes: the work grows with their number, and not with its square."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from comfy_client.testing import ComfyServer
from comfy_client.testing.active_faults import ActiveFaults
from comfy_client.testing.received import Records
from comfy_client.testing.server_loop import ServerLoop
from comfy_client.testing.server_state import EventSockets
from tests.helpers import bare
from tests.helpers.clients import until
from tests.helpers.graphs import canvas, node

Graph = dict[str, Any]


def chain(count: int) -> Graph:
    """Each node uses the one before."""
    graph = {"0": canvas(0, width=8, height=8)}
    for n in range(1, count - 1):
        graph[str(n)] = node("ImageInvert", image=[str(n - 1), 0])
    return {**graph, "end": node("PreviewAny", source=[str(count - 2), 0])}


def ladder(count: int) -> Graph:
    """Each node uses the one before, and all use the first one, as samplers use a model."""
    graph = {"0": canvas(0, width=8, height=8), "1": canvas(1, width=8, height=8)}
    for n in range(2, count - 1):
        links = {"image1": [str(n - 1), 0], "image2": ["0", 0]}
        graph[str(n)] = node("ImageBlend", **links, blend_factor=0.5, blend_mode="normal")
    return {**graph, "end": node("PreviewAny", source=[str(count - 2), 0])}


def fan(count: int) -> Graph:
    """All nodes use the first one, and each is shown."""
    graph = {"0": canvas(0, width=8, height=8)}
    for n in range(count // 2):
        graph[f"{n}a"] = node("ImageInvert", image=["0", 0])
        graph[f"{n}b"] = node("PreviewAny", source=[f"{n}a", 0])
    return graph


def calls_of(prompt: Graph) -> int:
    """How many functions the thread that runs prompts calls for one."""
    counted = 0

    def count(frame: object, event: str, arg: object) -> None:
        nonlocal counted
        if threading.current_thread().name != "ComfyServer worker":
            sys.setprofile(None)
        elif event == "call":
            counted += 1

    before = threading.getprofile()
    threading.setprofile(count)
    try:
        with ComfyServer() as server:
            threading.setprofile(before)
            answer = bare.post(server, "/prompt", {"prompt": prompt}).json()
            path = f"/history/{answer['prompt_id']}"
            until(lambda: bare.get(server, path).json())
    finally:
        threading.setprofile(before)
    return counted


@pytest.mark.parametrize("shape", [chain, ladder, fan])
def test_twice_as_many_nodes_take_twice_as_many_calls(shape: Callable[[int], Graph]) -> None:
    few, many = calls_of(shape(60)), calls_of(shape(120))
    assert few > 60 * 50  # all of them have run
    assert many < 2.2 * few


@pytest.mark.long
@pytest.mark.parametrize("shape", [chain, ladder, fan])
def test_a_thousand_nodes_take_as_many_calls_each_as_a_hundred(
    shape: Callable[[int], Graph],
) -> None:
    assert calls_of(shape(1000)) < 11 * calls_of(shape(100))


class Listener:
    """A client that keeps the messages that it gets."""

    client_id = "me"
    receives = True

    def __init__(self) -> None:
        self.heard: list[Any] = []

    async def send(self, message: str | bytes, parts: int = 1, pause: float = 0.0) -> None:
        self.heard.append(json.loads(message)["data"])

    async def send_raw(self, data: bytes) -> None:
        raise AssertionError


@pytest.mark.parametrize(("nodes", "heard"), [(100, [0, 1, 2, 3]), (101, [3])])
def test_progress_of_many_nodes_is_dropped_for_newer_progress(nodes: int, heard: list[int]) -> None:
    """If that is there before it is sent; progress of few nodes never is, as on a real server."""

    async def run() -> list[int]:
        loop = ServerLoop()
        loop.begin()
        sockets, listener = EventSockets(loop, ActiveFaults(lambda: None), Records()), Listener()
        with sockets.subscribed(listener):
            states = {str(one): {} for one in range(nodes)}
            for n in range(4):
                sockets.send("progress_state", {"prompt_id": str(n), "nodes": states}, "me")
            sockets.send("end", {}, "me")
            publishing = asyncio.create_task(sockets.publish())
            while {} not in listener.heard:
                await asyncio.sleep(0)
            publishing.cancel()
        return [int(one["prompt_id"]) for one in listener.heard if one]

    assert asyncio.run(run()) == heard
