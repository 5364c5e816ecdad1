"""Packs with routes of their own: which a server has, and how they live with it."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import click
import pytest
import requests
from aiohttp import web

from comfy_client.cli.serve_command import serve
from comfy_client.testing import ComfyServer, ListedPack, Manager3, Manager4
from comfy_client.testing.packs.fake_packs import OfferedPack
from comfy_client.testing.packs.pack import Pack, PackRoutes, PackServer
from comfy_client.testing.packs.registry import KNOWN
from tests.helpers.bare import Socket, get, post
from tests.helpers.clients import until


class Counting(Pack):
    """A pack that counts the processes of its server, and what it is asked."""

    name = "counting"

    def __init__(self) -> None:
        super().__init__()
        self.processes = self.asked = self.marked = 0
        self.ended: list[str] = []

    def routes(self) -> PackRoutes:
        return (("GET", "/counting", self.count), ("POST", "/counting/reboot", self.reboot))

    def start(self, server: PackServer) -> None:
        super().start(server)
        self.processes += 1
        self.run(self.work())

    def mark(self) -> None:
        self.marked = self.asked

    def reset(self, keep: object) -> None:
        super().reset(())
        self.asked = self.marked

    def forget(self) -> None:
        self.asked = 0

    async def work(self) -> None:
        try:
            await self.server.sleep(3600)
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise

    async def count(self, request: web.Request) -> web.Response:
        self.asked += 1
        return web.json_response({"processes": self.processes, "asked": self.asked})

    async def reboot(self, request: web.Request) -> web.Response:
        self.server.reboot(60)
        await asyncio.sleep(3600)
        return web.Response()


@pytest.fixture
def counting() -> Counting:
    return Counting()


@pytest.fixture
def server(counting: Counting) -> Iterator[ComfyServer]:
    with ComfyServer(packs=[OfferedPack(counting)], prefix="/comfy") as running:
        yield running


def test_a_pack_is_of_one_server(server: ComfyServer, counting: Counting) -> None:
    with pytest.raises(ValueError, match="another server has this counting"):
        ComfyServer(packs=[OfferedPack(counting)])
    assert get(server, "/counting").json()["processes"] == 1


def test_a_pause_of_nothing_lets_others_go_on() -> None:
    clock = SimpleNamespace(pauses=lambda seconds: iter(()))
    state: Any = SimpleNamespace(options=SimpleNamespace(clock=clock))

    async def both() -> str:
        other = asyncio.create_task(asyncio.sleep(0, "done"))
        for _ in range(2):
            await PackServer(state, print, is_local=True).sleep(0)
        return other.result()

    assert asyncio.run(both()) == "done"


@pytest.mark.parametrize("prefix", ["", "/api"])
def test_a_pack_has_its_routes_with_and_without_api(server: ComfyServer, prefix: str) -> None:
    assert get(server, f"{prefix}/counting").json()["processes"] == 1
    assert server.packs.keys() == {"counting"}


def test_the_faults_of_a_server_apply_to_packs(server: ComfyServer) -> None:
    server.faults.bad_gateway(503, path="/counting")
    assert get(server, "/counting").status_code == 503


def test_the_state_of_a_pack_outlives_a_restart_and_its_work_does_not(
    server: ComfyServer, counting: Counting
) -> None:
    get(server, "/counting")
    server.restart()
    assert counting.ended == ["cancelled"]
    assert get(server, "/counting").json() == {"processes": 2, "asked": 2}


def test_reset_returns_a_pack_to_the_start_or_the_mark(
    server: ComfyServer, counting: Counting
) -> None:
    get(server, "/counting")
    server.reset()
    assert (counting.asked, counting.ended) == (0, ["cancelled"])
    get(server, "/counting")
    server.mark_start()
    get(server, "/counting")
    server.reset()
    assert counting.asked == 1


def test_a_stopped_server_forgets_what_its_packs_had(counting: Counting) -> None:
    server = ComfyServer(packs=[OfferedPack(counting)])
    with server:
        get(server, "/counting")
    with server:
        assert get(server, "/counting").json() == {"processes": 2, "asked": 1}


def test_a_reboot_answers_nothing_and_comes_back_after_simulated_seconds(
    server: ComfyServer,
) -> None:
    server.pause()
    with Socket(server, "me") as events:
        events.next()
        with pytest.raises(requests.ConnectionError, match="without response"):
            requests.post(f"{server.url}/counting/reboot", timeout=30)
        assert events.ws.sock.recv(1) == b""  # the connection ends without a frame
    until(lambda: not answers(server))
    server.speed = 1e6
    server.resume()
    until(lambda: answers(server))
    assert get(server, "/counting").json()["processes"] == 2


def test_a_server_that_is_stopped_while_it_reboots_stays_so(server: ComfyServer) -> None:
    server.pause()
    with pytest.raises(requests.ConnectionError):
        requests.post(f"{server.url}/counting/reboot", timeout=30)
    server.stop()
    server.resume()
    until(lambda: not any(one.name == "ComfyServer reboot" for one in threading.enumerate()))
    with pytest.raises(RuntimeError, match="not running"):
        server.root  # noqa: B018


def test_errors_in_the_work_of_a_pack_are_raised_at_the_end() -> None:
    class Failing(Counting):
        async def work(self) -> None:
            raise LookupError("the pack is wrong")

    with (
        pytest.raises(LookupError, match="the pack is wrong"),
        ComfyServer(packs=[OfferedPack(Failing())]) as server,
    ):
        until(lambda: server.errors)


@pytest.mark.parametrize(
    ("packs", "error", "told"),
    [
        ("manager4", TypeError, "a list of names"),
        ([4], TypeError, "a list of names"),
        (["manger4"], ValueError, "did you mean 'manager4'"),
        (["manager4", "manager4"], ValueError, "manager4 twice"),
        (["manager4", "crystools", "manager3"], ValueError, "manager4 and manager3, but a ComfyUI"),
    ],
)
def test_wrong_packs_are_refused(packs: object, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        ComfyServer(packs=packs)  # type: ignore[arg-type]


def test_serve_has_all_packs_by_name() -> None:
    [option] = [one for one in serve.params if one.name == "pack"]
    assert isinstance(option.type, click.Choice)
    assert {*option.type.choices} == KNOWN.keys()


def test_a_reboot_to_a_port_that_was_taken_is_an_error_of_the_server(server: ComfyServer) -> None:
    server.pause()
    with pytest.raises(requests.ConnectionError):
        requests.post(f"{server.url}/counting/reboot", timeout=30)
    until(lambda: not answers(server))
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", server.port))
        other.listen()
        server.speed = 1e6
        server.resume()
        until(lambda: server.errors)
    [error] = server.errors
    server.errors.clear()
    assert isinstance(error, OSError)
    assert error.errno == errno.EADDRINUSE


def answers(server: ComfyServer) -> bool:
    """Whether its port takes connections."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", server.port)) == 0


@pytest.mark.parametrize(
    ("level", "body", "status"),
    [
        ("normal", {"ver": "v0.3.75", "client_id": "c", "ui_id": "u"}, 403),
        ("weak", {"ver": "v0.3.75", "client_id": "c", "ui_id": "u"}, 200),
        ("weak", {"ver": "v0.3.75"}, 400),
    ],
)
def test_manager_4_switches_comfyui_if_its_security_level_allows_it(
    level: str, body: dict[str, str], status: int
) -> None:
    with ComfyServer(packs=[Manager4(security_level=level)]) as server:
        path = "/v2/comfyui_manager/comfyui_switch_version"
        assert post(server, path, body).status_code == status


def test_manager_4_refuses_a_history_from_no_number() -> None:
    with ComfyServer(packs=["manager4"]) as server:
        assert get(server, "/v2/manager/queue/history?offset=x").status_code == 400


@pytest.mark.parametrize(
    ("kind", "result"),
    [
        ("disable", "success"),
        ("uninstall", "success"),
        ("update", "An error occurred while updating 'a'."),
        ("fix", "An error occurred while fixing 'a'."),
    ],
)
def test_manager_3_without_a_network_knows_no_installed_pack_until_asked_for_its_list(
    kind: str, result: str
) -> None:
    """Seen live."""
    pack = ListedPack(name="a", url="https://git.example.com/a", import_error="ImportError")
    manager = Manager3(packs=[pack], installed=["a"], online=False, seconds=0.0)
    with ComfyServer(packs=[manager]) as server, Socket(server) as ws:
        asked = ("/customnode/import_fail_info", {"url": pack.url})
        assert post(server, *asked).status_code == 400
        body = {"id": "a", "version": "unknown", "files": [pack.url], "ui_id": "u"}
        post(server, f"/manager/queue/{kind}", body)
        post(server, "/manager/queue/start", {})
        told = next(one["data"] for one in iter(ws.next, None) if "nodepack_result" in one["data"])
        assert told["nodepack_result"] == {"u": result}
        assert "a" in get(server, "/customnode/installed").json()
        get(server, "/customnode/getlist?mode=cache")
        assert post(server, *asked).status_code == 200
