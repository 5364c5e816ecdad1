"""Nodes that wait until a test opens their gate, and workflows of them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from comfy_client.testing import ComfyServer, check_interrupted
from tests.helpers.clients import Heard


class Gates:
    """``gates("a")`` is the event that opens one; ``gates.set()`` opens the one without a name."""

    def __init__(self) -> None:
        self._events: dict[str, threading.Event] = {}

    def __call__(self, name: str = "") -> threading.Event:
        return self._events.setdefault(name, threading.Event())

    def set(self) -> None:
        self().set()

    def end(self) -> None:
        """Open them all, and forget them."""
        for event in list(self._events.values()):
            event.set()
        self._events.clear()

    def wait(self, name: str) -> None:
        """For a node: until the gate opens, or the prompt is interrupted."""
        while not self(name).wait(0.01):
            check_interrupted()


GATES = Gates()


class Hold:
    """Hands a picture on when it may."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"image": ("IMAGE",), "gate": ("STRING",)}})
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "hold"
    CATEGORY = "test"

    def hold(self, image: Any, gate: str) -> tuple[Any]:
        GATES.wait(gate)
        return (image,)


class Gated:
    """Shows its text once it may."""

    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"text": ("STRING", {}), "waits": ("BOOLEAN", {"default": False})}}

    def run(self, text: str, waits: bool) -> dict[str, Any]:
        if waits:
            GATES.wait("")
        return {"ui": {"text": [text]}}


@contextlib.contextmanager
def gated(*nodes: type, **options: Any) -> Iterator[ComfyServer]:
    """A server that has ``Gated`` and these nodes; at its end, all gates open."""
    with ComfyServer(**options) as server:
        for node in (Gated, *nodes):
            server.add_node(node)
        try:
            yield server
        finally:
            GATES.end()


def shows(text: str = "x", *, waits: bool = False) -> dict[str, Any]:
    """A workflow that shows a text, if need be when the gate without a name opens."""
    return {"1": {"class_type": "Gated", "inputs": {"text": text, "waits": waits}}}


def saves(color: int = 5) -> dict[str, Any]:
    """A workflow that saves a picture."""
    size = {"width": 16, "height": 16, "batch_size": 1, "color": color}
    return {
        "1": {"class_type": "EmptyImage", "inputs": size},
        "9": {
            "class_type": "SaveImage",
            "inputs": {"images": ["1", 0], "filename_prefix": "x"},
            "_meta": {"title": "Save"},
        },
    }


def held(name: str) -> dict[str, Any]:
    """The same, when the gate of this name opens."""
    graph = saves()
    graph["2"] = {"class_type": "Hold", "inputs": {"image": ["1", 0], "gate": name}}
    graph["9"]["inputs"]["images"] = ["2", 0]
    return graph


def until_it_runs(server: ComfyServer) -> None:
    """Wait until a prompt runs."""
    server.until(lambda: server.ran and server.running and server.ran[-1].status is None, 30.0)


def check_once(
    server: ComfyServer, heard: Heard, result: Any, *, recovered: bool | None = None
) -> None:
    """Of ``saves`` or ``held``: one run, one picture, one end event."""
    [ran] = [ran for ran in server.ran if result.prompt_id == ran.prompt_id]
    server.until(lambda: ran.status == "success", 30.0)
    assert len(result["Save"].images) == 1
    assert result["Save"].images[0].bytes().startswith(b"\x89PNG")
    event = heard.end(result.prompt_id)
    assert event.name == "execution_success"
    if recovered is not None:
        assert event.recovered is recovered
