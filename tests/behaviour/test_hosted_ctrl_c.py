"""Ctrl-C at random moments of calls to a hosted place: nothing runs twice, and all goes on.

The environment variables are those of ``test_ctrl_c.py``.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import attrs
import pytest
from PIL import Image

from comfy_client import HostedApi
from comfy_client.errors import SubmitUncertain
from comfy_client.testing import ComfyServer
from comfy_client.transport.connections import current
from tests.behaviour.test_ctrl_c import TRIES, graphs, moments
from tests.helpers.clients import LIMIT, exception_of, outstanding, threads, until
from tests.helpers.ctrl_c import Runs, handled, interrupted, noted, points_of
from tests.helpers.graphs import node
from tests.helpers.long import but

pytestmark = pytest.mark.timing(look_up=1.0, look_up_sure=0.5)


@attrs.define
class World:
    """A hosted place, and a client of it."""

    server: ComfyServer
    api: HostedApi
    runs: Runs
    folder: Path


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    runs = Runs()
    with ComfyServer(hosted="proxy") as server, handled():
        runs.add_to(server)
        with HostedApi(server.url) as api:
            yield World(server, api, runs, tmp_path)
        gc.collect()  # errors held clients
        until(lambda: not threads(), LIMIT)


def with_client(world: World, name: str) -> None:
    with HostedApi(world.server.url) as api:
        api.on("executed", lambda event: None)
        api.run(noted(name), timeout=LIMIT)


def swept(world: World, name: str) -> None:
    """A point is uncertain if Ctrl-C came before the journal had a job that the proxy lists."""
    grid = {"Noted.text": [f"{name}.{number}" for number in range(3)]}
    rows = world.api.sweep(noted(""), grid, journal=world.folder / f"{name}.journal")
    assert all(row.result or isinstance(row.error, SubmitUncertain) for row in rows)


def with_picture(world: World, name: str) -> None:
    """A client of its own, which learns that references are refused, and sends names."""
    workflow = noted(name)
    workflow["1"]["inputs"]["image"] = ["2", 0]
    workflow["2"] = node("LoadImage", image=Image.new("RGB", (8, 8)))
    with (
        world.server.gateway.trap(assets_by_name_only=True),
        HostedApi(world.server.url) as api,
    ):
        api.run(workflow, timeout=LIMIT)


CALLS: dict[str, Callable[[World, str], object]] = {
    "run": lambda w, name: w.api.run(noted(name), timeout=LIMIT),
    "run, cancel": lambda w, name: w.api.run(noted(name), timeout=LIMIT, on_interrupt="cancel"),
    "events": lambda w, name: list(w.api.submit(noted(name)).events()),
    "map": lambda w, name: list(w.api.map(graphs(name), in_flight=2)),
    "sweep": swept,
    "client": with_client,
    "picture": with_picture,
}


@pytest.mark.parametrize("name", but(CALLS, "events", "map", "run, cancel", "sweep"))
def test_ctrl_c_at_random_moments(world: World, name: str, request: pytest.FixtureRequest) -> None:
    """It comes out at once, nothing runs twice, and the client goes on."""
    tries = TRIES * 10 if request.config.getoption("soak") else TRIES
    with handled():
        interrupt(world, name, tries)


def interrupt(world: World, name: str, tries: int) -> None:
    call = CALLS[name]
    call(world, "first")  # imports what is imported late
    points = points_of(partial(call, world, "second"))
    names: list[str] = []
    came = 0
    for moment in moments(points, name, tries):
        names.append(f"t{len(names)}")
        came += interrupted(partial(call, world, names[-1]), moment)
        assert current.get() is None, moment
        # In another thread: no lock is left with this one.
        assert exception_of(partial(world.api.poll_status, LIMIT)) is None, moment
    assert came
    if name == "sweep":
        for each in names:
            call(world, each)
    until(lambda: not outstanding(world.api), LIMIT)
    assert exception_of(lambda: world.api.run(noted("last"), timeout=LIMIT)) is None
    assert {text: count for text, count in Counter(world.runs.texts).items() if count > 1} == {}
