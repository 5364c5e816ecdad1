"""The pack "crystools": its routes and messages are those of a recording of the real one.

Crystools needs the network to be installed, so nothing else was compared.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from comfy_client.testing import ComfyServer, Crystools
from comfy_client.testing.packs.crystools import CrystoolsPack
from comfy_client.testing.packs.fake_packs import OfferedPack
from comfy_client.testing.packs.pack import PackRoutes
from tests.helpers.bare import Socket, ask, get
from tests.helpers.differential import Ask, Side

RECORDING = Path(__file__).parents[1] / "recordings" / "crystools" / "monitor.jsonl"
ROWS = [json.loads(line) for line in RECORDING.read_text(encoding="utf-8").splitlines()]
ROUTE = "/crystools/monitor"


class Timed(CrystoolsPack):
    """Lets simulated time pass: ``GET /pass?seconds=3``."""

    def routes(self) -> PackRoutes:
        return (*super().routes(), ("GET", "/pass", self.wait))

    async def wait(self, request: web.Request) -> web.Response:
        await self.server.sleep(float(request.query["seconds"]))
        return web.Response()


@pytest.fixture
def pack() -> CrystoolsPack:
    return Timed((), ("/",))


@pytest.fixture
def server(pack: CrystoolsPack) -> Iterator[ComfyServer]:
    with ComfyServer(packs=[OfferedPack(pack)], speed=200) as running:
        yield running


@pytest.fixture
def gpus() -> Iterator[ComfyServer]:
    made = Crystools(gpus=["RTX 4090", "RTX 3060"])
    made.gpu_figures[0]["gpu_temperature"] = 85
    with ComfyServer(packs=[made], speed=200) as running:
        yield running


def news(server: ComfyServer, socket: Socket) -> Iterator[dict[str, Any]]:
    """The figures that are sent from now on."""
    server.push({"type": "marker", "data": None})
    socket.until("marker")
    while True:
        *_, message = socket.until("crystools.monitor")
        yield message["data"]


def told_in(server: ComfyServer, socket: Socket, seconds: float) -> int:
    """How many messages with figures come in so many simulated seconds."""
    server.push({"type": "marker", "data": None})
    socket.until("marker")
    get(server, f"/pass?seconds={seconds}")
    server.push({"type": "marker", "data": None})
    return sum(message["type"] == "crystools.monitor" for message in socket.until("marker"))


def form(message: Any) -> Any:
    """What a message tells but the figures: whether each is known."""
    if isinstance(message, dict):
        return {name: form(value) for name, value in message.items()}
    if isinstance(message, list):
        return [form(value) for value in message]
    if isinstance(message, str):
        return message
    return "unknown" if message == -1 else type(message).__name__


def test_each_recorded_request_and_message_of_crystools_comes_again(server: ComfyServer) -> None:
    """Status, headers and bodies are equal; of messages, all but the figures."""
    here, sockets, figures = Side("embedded", server.port), dict[str, Socket](), dict[str, Any]()
    compared: dict[str, int] = {"http": 0, "json": 0, "counts": 0}
    for row in ROWS:
        compared[row["kind"]] = compared.get(row["kind"], 0) + 1
        match row["kind"]:
            case "open":
                sockets[row["ch"]] = Socket(server, row["client_id"])
            case "json":
                channel = figures.setdefault(row["ch"], news(server, sockets[row["ch"]]))
                assert row["msg"]["type"] == "crystools.monitor"
                assert form(next(channel)) == form(row["msg"]["data"]), row
            case "http":
                figures.clear()  # what follows was measured after it
                check(row, here)
            case "note" if found := re.match(r"events in 3 s .*: (\d+)$", row["text"]):
                there = int(found[1])
                count = told_in(server, sockets["ws1"], 3)
                assert bool(count) == bool(there), row
                compared["counts"] += 1
    assert compared == {"note": 8, "open": 2, "http": 24, "json": 16, "counts": 3}
    for socket in sockets.values():
        socket.ws.close()


def check(row: dict[str, Any], here: Side) -> None:
    """Ask for a recorded answer again, and compare all of it."""
    body = json.dumps(row["request"]).encode() if "request" in row else None
    status, headers, content = here.raw(Ask(row["method"], row["path"], body))
    kept = row["response_headers"]
    found = {name: headers.get(name) for name in kept}
    assert (status, found) == (row["status"], kept), row
    if "response" in row:
        assert json.loads(content) == row["response"]
    elif "text" in row:
        assert content.decode() == row["text"]


def test_settings_of_crystools_last_until_the_restart(server: ComfyServer) -> None:
    ask(server, "PATCH", ROUTE, json={"switchCPU": False, "rate": 0.5})
    with Socket(server) as socket:
        assert next(news(server, socket))["cpu_utilization"] == -1
    server.restart()
    with Socket(server) as socket:
        assert next(news(server, socket))["cpu_utilization"] == 12.5


def test_settings_and_figures_of_crystools_are_reset(
    server: ComfyServer, pack: CrystoolsPack
) -> None:
    """To those of the start or the mark; it goes on sending."""
    pack.figures["cpu_utilization"] = 99.0
    server.mark_start()
    ask(server, "PATCH", ROUTE, json={"rate": 0, "switchRAM": False})
    pack.figures["cpu_utilization"] = 1.0
    server.reset()
    with Socket(server) as socket:
        found = next(news(server, socket))
    assert (found["cpu_utilization"], found["ram_used_percent"]) == (99.0, 25.0)


def test_gpus_have_figures_and_switches_of_their_own(gpus: ComfyServer) -> None:
    names = [{"index": 0, "name": "RTX 4090"}, {"index": 1, "name": "RTX 3060"}]
    assert get(gpus, f"{ROUTE}/GPU").json() == names
    assert ask(gpus, "PATCH", f"{ROUTE}/GPU/1", json={"vram": False}).status_code == 200
    assert ask(gpus, "PATCH", f"{ROUTE}/GPU/2", json={"vram": False}).status_code == 400
    with Socket(gpus) as socket:
        found = next(news(gpus, socket))
    first, second = found["gpus"]
    assert (found["device_type"], first["gpu_temperature"]) == ("cuda", 85)
    assert {name for name, value in second.items() if value == -1} == {
        *("vram_total", "vram_used", "vram_used_percent"),
    }


@pytest.mark.parametrize(
    ("wrong", "error", "told"),
    [
        ({"gpus": "RTX"}, TypeError, "gpus is a list, not 'RTX'"),
        ({"gpus": [4090]}, TypeError, "gpus is a list of str, not of 4090"),
        ({"disks": None}, TypeError, "disks is a list"),
        ({"disks": ()}, ValueError, "at least one"),
    ],
)
def test_wrong_gpus_and_disks_are_refused(wrong: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        Crystools(**wrong)


def test_a_wrong_setting_of_crystools_changes_none(server: ComfyServer) -> None:
    given = {"switchCPU": False, "whichHDD": 1}
    assert ask(server, "PATCH", ROUTE, json=given).status_code == 400
    with Socket(server) as socket:
        assert next(news(server, socket))["cpu_utilization"] == 12.5


@pytest.mark.parametrize("body", [5, None, "x", [], [["rate"]], {"rate": True}, {"rate": None}])
def test_odd_settings_of_crystools_stop_nothing(server: ComfyServer, body: Any) -> None:
    for method, path in (
        ("PATCH", ROUTE),
        ("POST", f"{ROUTE}/switch"),
        ("PATCH", f"{ROUTE}/GPU/0"),
    ):
        assert ask(server, method, path, json=body).status_code in (200, 400)
    with Socket(server) as socket:
        assert told_in(server, socket, 20)


@pytest.mark.parametrize("rate", ["1e-300", "1e-9", "NaN", "1e308", "-1", "1" * 400, "Infinity"])
def test_any_rate_leaves_the_server_time_for_others(server: ComfyServer, rate: str) -> None:
    answer = ask(server, "PATCH", ROUTE, data=f'{{"rate": {rate}}}')
    assert answer.status_code == 200
    for _ in range(20):
        assert get(server, "/prompt").status_code == 200
    assert ask(server, "PATCH", ROUTE, json={"rate": 1}).status_code == 200
    with Socket(server) as socket:
        assert told_in(server, socket, 20)
