"""What a client is made with: mistakes are told when it is made, not when it is used."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from comfy_client import ComfyApi, ComfyPool, connecting
from comfy_client.pool import membership


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"client_id": 8188}, TypeError, "a port goes into host, as in 'gpu-box:8188'"),
        ({"client_id": ""}, ValueError, "client_id is empty; None makes one"),
        ({"host": "me:mine@here", "credentials": ("me", "mine")}, ValueError, "both in host and"),
        ({"transport": "websocket"}, ValueError, "transport"),
    ],
)
def test_a_wrong_argument_is_refused_when_the_client_is_made(
    arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        ComfyApi(**arguments)


def test_with_and_init_wait_ten_seconds_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a client and of a pool; most tests wait longer (``tests/helpers/patches.py``)."""
    waits: list[float | None] = []
    for module in (connecting, membership):
        monkeypatch.setattr(module, "connect", lambda *owned: waits.append(owned[-1]))
    for made in (ComfyApi("127.0.0.1:9"), ComfyPool(["127.0.0.1:9"])):
        with made:
            made.init()
    assert waits == [10.0, 10.0, 10.0, 10.0]


FILE = {"filename": "a.png"}
GRAPH = {"1": {"class_type": "Empty", "inputs": {}}}


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda api: api.run(GRAPH, on_interrupt="stop"), ValueError, "'leave' or 'cancel', not"),
        (lambda api: api.submit(GRAPH, timeout=5), TypeError, r"of run\(\) or job.result\(\)"),
        (lambda api: api.submit(GRAPH, progress=False), TypeError, r"it is one of run\(\)$"),
        (lambda api: api.fetch_api("queue"), ValueError, "a route begins with '/': 'queue'"),
        (lambda api: api.fetch_api(5), ValueError, "a route begins with '/': 5"),
        (lambda api: api.download_image(FILE, 5), TypeError, "a path must be a string or a Path"),
        (lambda api: api.map(5), TypeError, "workflows must be a list or another iterable, not 5"),
        (lambda api: api.map(GRAPH, 5), TypeError, "params must be a list or another iterable"),
        (lambda api: api.map(GRAPH, {"1.seed": [7]}), TypeError, r"sweep\(\) runs all"),
        (lambda api: list(api.events(5)), TypeError, "the name of an event must be a string"),
    ],
    ids=[
        *("on_interrupt", "timeout", "progress", "route", "route of another type", "path"),
        *("workflows", "params", "params of a sweep", "event"),
    ],
)
def test_a_wrong_argument_of_a_call_is_refused_before_anything_is_sent(
    call: Callable[[ComfyApi], object], error: type[Exception], words: str
) -> None:
    """Nobody listens there: a request would raise another error."""
    with contextlib.closing(ComfyApi("http://127.0.0.1:1")) as api:
        with pytest.raises(error, match=words):
            call(api)
        assert api.stats().requests == 0
