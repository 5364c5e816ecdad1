"""``api.ext.monitor``: how busy the machine of a server is, by Crystools, if the server has it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from comfy_client import CloudApi, ComfyApi, HostedApi
from comfy_client.errors import ClientClosed, NotFound, NotSupported, UnexpectedResponse
from comfy_client.ext import Extensions, Monitor
from comfy_client.testing import ComfyServer
from tests.helpers.clients import client, until_connected

CALLS: dict[str, Callable[[Monitor], object]] = {
    "disks": lambda monitor: monitor.disks(),
    "gpus": lambda monitor: monitor.gpus(),
    "set": lambda monitor: monitor.set(rate=2),
    "start": lambda monitor: monitor.start(),
    "stop": lambda monitor: monitor.stop(),
    "set_gpu": lambda monitor: monitor.set_gpu(0, vram=False),
}
PROBE = "/crystools/monitor/GPU"


@pytest.mark.parametrize("name", CALLS)
def test_a_server_without_crystools_is_told_how_to_get_it(
    server: ComfyServer, api: ComfyApi, name: str
) -> None:
    """As a fact of the server, and not as a wrong path or method."""
    with pytest.raises(NotSupported) as caught:
        CALLS[name](api.ext.monitor)
    assert str(caught.value) == (
        f"{server.url} lacks the node pack Crystools: install ComfyUI-Crystools "
        "(https://github.com/crystian/ComfyUI-Crystools), by ComfyUI-Manager or into "
        "custom_nodes, and restart the server"
    )
    assert caught.value.hint is None
    assert not api.ext.monitor.available()


def test_an_older_crystools_that_lacks_a_route_is_not_called_missing(
    server: ComfyServer, api: ComfyApi
) -> None:
    server.on("GET", PROBE, (200, {}, []))
    with pytest.raises(NotSupported) as caught:
        api.ext.monitor.stop()
    assert (caught.value.method, caught.value.status) == ("POST", 405)
    assert "lacks the node pack" not in str(caught.value)


def test_crystools_is_asked_for_once(server: ComfyServer) -> None:
    """For each connection of the socket; without one, whenever somebody wants to know."""

    def asked() -> int:
        return sum(request.path.endswith(PROBE) for request in server.requests)

    with client(server) as api:
        assert [api.ext.monitor.available() for _ in range(3)] == [False] * 3
        before = asked()
        with server.on("GET", PROBE, (200, {}, [])):
            server.restart()
            until_connected(server, api, 2)
            assert [api.ext.monitor.available() for _ in range(3)] == [True] * 3
        assert asked() - before == 1
    with ComfyApi(server.url, transport="poll") as api:
        before = asked()
        assert [api.ext.monitor.available() for _ in range(3)] == [False] * 3
        assert asked() - before == 3


@pytest.mark.parametrize(
    "body", [None, {}, "x", [1], [{"index": 0}], [{"index": "a", "name": "x"}], [{"name": "x"}]]
)
def test_gpus_that_are_none_are_an_unexpected_answer(
    server: ComfyServer, api: ComfyApi, body: Any
) -> None:
    server.on("GET", PROBE, (200, {"Content-Type": "application/json"}, body))
    with pytest.raises(UnexpectedResponse):
        api.ext.monitor.gpus()


@pytest.mark.parametrize("body", [None, {}, "x", [1], [None]])
def test_disks_that_are_no_texts_are_an_unexpected_answer(
    server: ComfyServer, api: ComfyApi, body: Any
) -> None:
    server.on("GET", "/crystools/monitor/HDD", (200, {"Content-Type": "application/json"}, body))
    with pytest.raises(UnexpectedResponse):
        api.ext.monitor.disks()


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda m: m.set(), TypeError, "no setting is given"),
        (lambda m: m.set_gpu(0), TypeError, "no setting is given"),
        (lambda m: m.set(rate="2"), TypeError, "rate is a number of seconds"),
        (lambda m: m.set(rate=True), TypeError, "rate is a number of seconds"),
        (lambda m: m.set(rate=-1), ValueError, "rate is 0 or more seconds"),
        (lambda m: m.set(rate=float("nan")), ValueError, "rate is 0 or more seconds"),
        (lambda m: m.set(rate=float("inf")), ValueError, "rate is 0 or more seconds"),
        (lambda m: m.set(cpu=1), TypeError, "cpu is True or False"),
        (lambda m: m.set(disk="yes"), TypeError, "disk is True or False"),
        (lambda m: m.set(which_disk=1), TypeError, "which_disk is a path"),
        (lambda m: m.set_gpu("0", vram=True), TypeError, "index is the number of a GPU"),
        (lambda m: m.set_gpu(True, vram=True), TypeError, "index is the number of a GPU"),
        (lambda m: m.set_gpu(-1, vram=True), ValueError, "index is 0 or more"),
        (lambda m: m.set_gpu(0, vram=0), TypeError, "vram is True or False"),
    ],
)
def test_wrong_settings_are_refused_before_any_request(
    server: ComfyServer, api: ComfyApi, call: Any, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        call(api.ext.monitor)
    assert not any("crystools" in request.path for request in server.requests)


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("getHddList", "api.ext.monitor.disks()"),
        ("getGpuList", "api.ext.monitor.gpus()"),
        ("setConfig", "api.ext.monitor.set(rate=2"),
        ("setGpuConfig", "api.ext.monitor.set_gpu(index"),
        ("switch", "api.ext.monitor.start(), or api.ext.monitor.stop()"),
        ("checkSupported", "api.ext.monitor.available()"),
        ("monitorData", 'api.wait_for("monitor", timeout=10)'),
        ("on", 'api.on("monitor", function)'),
        ("avaliable", "nearest: api.ext.monitor.available"),
    ],
)
def test_names_of_the_typescript_client_are_answered_with_ours(
    server: ComfyServer, name: str, way: str
) -> None:
    monitor: Any = ComfyApi(server.url).ext.monitor
    with pytest.raises(AttributeError) as caught:
        getattr(monitor, name)
    assert way in str(caught.value)


def test_a_misspelt_extension_is_named() -> None:
    ext: Any = ComfyApi("http://127.0.0.1:1").ext
    assert isinstance(ext, Extensions)
    with pytest.raises(AttributeError, match=r"nearest: api\.ext\.monitor"):
        ext.monitr  # noqa: B018  # it raises


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", [HostedApi, CloudApi])
def test_a_hosted_server_has_no_monitor(
    server: ComfyServer, kind: type[HostedApi], name: str
) -> None:
    """It says so without a request, as for other routes of ComfyUI."""
    api = kind(api_key="key", base_url=server.url, allow_insecure=True)
    with contextlib.closing(api):
        with pytest.raises(NotSupported) as caught:
            CALLS[name](api.ext.monitor)
        assert not api.ext.monitor.available()
    assert "lacks the node pack" not in str(caught.value)
    assert not server.requests


@pytest.mark.parametrize("name", [*CALLS, "available"])
def test_a_closed_client_monitors_no_more(server: ComfyServer, name: str) -> None:
    api = ComfyApi(server.url)
    monitor = api.ext.monitor
    api.close()
    with pytest.raises(ClientClosed):
        CALLS.get(name, lambda monitor: monitor.available())(monitor)


def test_the_monitor_of_a_client_that_nobody_holds_works(server: ComfyServer) -> None:
    """It keeps its client, which would be closed otherwise."""
    server.on("GET", "/crystools/monitor/HDD", (200, {}, ["/", "/data"]))
    assert ComfyApi(server.url).ext.monitor.disks() == ["/", "/data"]


def test_a_gpu_that_the_server_lacks_is_not_found(server: ComfyServer, api: ComfyApi) -> None:
    server.on("PATCH", f"{PROBE}/7", (400, {}, "list assignment index out of range"))
    with pytest.raises(
        NotFound, match=r"the server has no GPU 7; gpus\(\) returns those"
    ) as caught:
        api.ext.monitor.set_gpu(7, vram=False)
    assert (caught.value.status, caught.value.method) == (400, "PATCH")
