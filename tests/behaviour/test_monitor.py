"""``api.ext.monitor``: how busy the machine of a server is, by Crystools, if the server has it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import blinker
import nbformat
import pytest

from comfy_client import CloudApi, ComfyApi, ComfyPool, HostedApi, MonitorEvent, aio, models
from comfy_client.errors import ClientClosed, NotFound, NotSupported, UnexpectedResponse
from comfy_client.ext import Extensions, Monitor
from comfy_client.testing import ComfyServer, Crystools
from tests.helpers.clients import LIMIT, client, until, until_connected
from tests.helpers.kernels import execute
from tests.helpers.notebooks import Notebook

CALLS: dict[str, Callable[[Monitor], object]] = {
    "disks": lambda monitor: monitor.disks(),
    "gpus": lambda monitor: monitor.gpus(),
    "set": lambda monitor: monitor.set(rate=2),
    "start": lambda monitor: monitor.start(),
    "stop": lambda monitor: monitor.stop(),
    "set_gpu": lambda monitor: monitor.set_gpu(0, vram=False),
}
PROBE = "/crystools/monitor/GPU"
GPUS = ["RTX 4090", "RTX 3060"]


@pytest.fixture
def machine() -> Iterator[ComfyServer]:
    """A server with Crystools, two GPUs and two disks; its seconds are short."""
    pack = Crystools(gpus=GPUS, disks=["/", "/data"])
    with ComfyServer(packs=[pack], speed=50) as running:
        yield running


@pytest.fixture
def there(machine: ComfyServer) -> Iterator[ComfyApi]:
    """A client of that server."""
    with ComfyApi(machine.url) as api:
        api.wait_for("monitor", timeout=LIMIT)
        yield api


def told(api: ComfyApi, is_wanted: Callable[[MonitorEvent], object]) -> MonitorEvent:
    """The next figures for which that is true."""
    return api.wait_for("monitor", is_wanted, timeout=LIMIT)


def test_figures_of_a_machine_are_events(machine: ComfyServer) -> None:
    """For signals, callbacks, iterators, asyncio and pools, each time typed."""
    heard: list[Any] = []

    def keep(sender: ComfyApi, event: MonitorEvent) -> None:
        heard.append((sender, event))

    namespace = blinker.Namespace()
    with ComfyApi(machine.url, namespace=namespace) as api:
        namespace.signal("monitor").connect(keep)
        event = api.wait_for("monitor", timeout=LIMIT)
        assert isinstance(event, MonitorEvent)
        assert (event.cpu_utilization, event.ram_total, event.disk_used_percent) == (
            12.5,
            2**34,
            50.0,
        )
        assert (event.device_type, [gpu.temperature for gpu in event.gpus]) == ("cuda", [60, 60])
        until(lambda: heard)
        assert heard[0][0] is api
        assert type(heard[0][1]) is MonitorEvent
        assert type(next(api.events("monitor"))) is MonitorEvent

        async def read() -> Any:
            async with contextlib.aclosing(aio.events(api, "monitor")) as events:
                return await anext(events)

        assert type(asyncio.run(read())) is MonitorEvent
    with ComfyPool([machine.url]) as pool:
        came = threading.Event()
        pool.on("monitor", lambda *_: came.set())
        assert came.wait(LIMIT)


def test_disks_and_gpus_are_listed(there: ComfyApi) -> None:
    monitor = there.ext.monitor
    assert monitor.available()
    assert monitor.disks() == ["/", "/data"]
    assert monitor.gpus() == [models.MonitoredGpu(0, GPUS[0]), models.MonitoredGpu(1, GPUS[1])]


def test_settings_change_the_figures(there: ComfyApi, machine: ComfyServer) -> None:
    """For everybody; what is not given stays as it is."""
    with ComfyApi(machine.url) as other:
        there.ext.monitor.set(cpu=False, disk=True)
        event = told(other, lambda e: e.cpu_utilization is None)
        assert (event.ram_used_percent, event.disk_total) == (25.0, 2**40)
        other.ext.monitor.set(ram=False, which_disk="/nope")
        event = told(there, lambda e: e.ram_total is None and e.disk_total is None)
        assert (event.ram_used, event.ram_used_percent, event.disk_used) == (None, None, None)
        there.ext.monitor.set(cpu=True, ram=True, which_disk="/data")
        told(other, lambda e: None not in (e.cpu_utilization, e.ram_total, e.disk_total))


def test_a_rate_of_0_ends_the_events_until_somebody_sets_another(
    machine: ComfyServer, there: ComfyApi
) -> None:
    there.ext.monitor.set(rate=0)
    assert is_silent(machine, there)
    there.ext.monitor.start()
    assert is_silent(machine, there)
    there.ext.monitor.set(rate=0.5)
    told(there, lambda _: True)


def test_events_are_switched_off_and_on(machine: ComfyServer, there: ComfyApi) -> None:
    there.ext.monitor.stop()
    assert is_silent(machine, there)
    there.ext.monitor.start()
    told(there, lambda _: True)


def is_silent(machine: ComfyServer, api: ComfyApi) -> bool:
    """Whether no figures come for ten of the server's seconds, after those on their way."""
    came = threading.Event()
    api.on("marker", lambda _: came.set(), once=True)
    machine.push({"type": "marker", "data": None})
    assert came.wait(LIMIT)
    try:
        api.wait_for("monitor", timeout=0.2)
    except TimeoutError:
        return True
    return False


def test_settings_of_a_gpu(there: ComfyApi) -> None:
    """Of one GPU; without any figure, it is left out."""
    there.ext.monitor.set_gpu(1, temperature=False, vram=False)
    [first, second] = told(there, lambda e: e.gpus[1].temperature is None).gpus
    assert (first.temperature, second.vram_total, second.utilization) == (60, None, 75)
    there.ext.monitor.set_gpu(0, temperature=False, vram=False, utilization=False)
    [second] = told(there, lambda e: len(e.gpus) == 1).gpus
    assert second.index == 1
    with pytest.raises(NotFound, match="the server has no GPU 2"):
        there.ext.monitor.set_gpu(2, vram=True)


def test_a_machine_without_gpu_has_none() -> None:
    """Neither in the list nor in the events, where Crystools sends one of -1."""
    with ComfyServer(packs=["crystools"], speed=50) as server, ComfyApi(server.url) as api:
        assert api.ext.monitor.gpus() == []
        event = api.wait_for("monitor", timeout=LIMIT)
    assert len(event.raw["gpus"]) == 1
    assert event.gpus == ()


def test_a_notebook_shows_the_figures_and_updates_them(
    notebook: Notebook, machine: ComfyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one display for each cell with ``api.ext.monitor`` at its end; the last one goes on."""
    handles: list[Mock] = []

    def handle() -> Mock:
        handles.append(Mock(wraps=make()))
        return handles[-1]

    def updates() -> list[int]:
        return [each.update.call_count for each in handles]

    make = notebook.DisplayHandle
    monkeypatch.setattr(notebook, "DisplayHandle", handle)
    with ComfyApi(machine.url) as api:
        api.ext.monitor._ipython_display_()
        assert notebook.displays == 1
        until(lambda: "75 % 60 °C" in notebook.last)
        api.ext.monitor.set_gpu(0, temperature=False)
        until(lambda: "60 °C" not in notebook.last.partition("GPU 1")[0])
        api.ext.monitor._ipython_display_()
        until(lambda: updates()[1] > 0)  # so the last of the first display has been drawn
        first = updates()[0]
        until(lambda: updates()[1] > 2)
        assert updates()[0] == first
        assert repr(api.ext.monitor) == f"<Monitor of {machine.url}>"


def test_a_notebook_shows_how_to_get_crystools(notebook: Notebook, api: ComfyApi) -> None:
    api.ext.monitor._ipython_display_()
    assert "lacks the node pack Crystools: install ComfyUI-Crystools" in notebook.last


def test_a_terminal_shows_no_meters(api: ComfyApi) -> None:
    with pytest.raises(NotImplementedError):
        api.ext.monitor._ipython_display_()


@pytest.mark.long
def test_a_real_kernel_updates_the_figures_below_their_cell(
    machine: ComfyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While other cells run."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    sources = [
        f"from comfy_client import ComfyApi\napi = ComfyApi({machine.url!r})\napi.init();",
        "api.ext.monitor",
        "import time\nfor _ in range(3): api.wait_for('monitor', timeout=30)\ntime.sleep(0.5)",
    ]
    # The calls that lack types are those of nbformat.
    cells = [nbformat.v4.new_code_cell(source) for source in sources]  # type: ignore[no-untyped-call]
    written = nbformat.v4.new_notebook(cells=cells)  # type: ignore[no-untyped-call]
    execute(written, resources={"metadata": {"path": str(tmp_path)}})
    [shown] = written.cells[1].outputs
    assert "75 % 60 °C" in "".join(shown["data"]["text/html"])
    assert written.cells[2].outputs == []


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
        (lambda m: m.set(rate=10**400), ValueError, "rate is 0 or more seconds"),
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
    server: ComfyServer, notebook: Notebook, kind: type[HostedApi], name: str
) -> None:
    """It says so without a request, as for other routes of ComfyUI."""
    api = kind(api_key="key", base_url=server.url, allow_insecure=True)
    with contextlib.closing(api):
        with pytest.raises(NotSupported) as caught:
            CALLS[name](api.ext.monitor)
        assert not api.ext.monitor.available()
        api.ext.monitor._ipython_display_()
    for said in (str(caught.value), notebook.last):
        assert "it has no routes of node packs" in said
    assert not server.requests


@pytest.mark.parametrize("name", [*CALLS, "available"])
def test_a_closed_client_monitors_no_more(server: ComfyServer, name: str) -> None:
    api = ComfyApi(server.url)
    monitor = api.ext.monitor
    api.close()
    with pytest.raises(ClientClosed):
        CALLS.get(name, lambda monitor: monitor.available())(monitor)


def test_a_monitor_keeps_its_client_and_a_view_does_not(
    notebook: Notebook, machine: ComfyServer
) -> None:
    """A client that nobody holds ends its socket."""
    api = ComfyApi(machine.url)
    monitor, known = api.ext.monitor, weakref.ref(api)
    del api
    monitor._ipython_display_()
    until(lambda: len(notebook.shown) > 1)
    assert monitor.disks() == ["/", "/data"]
    assert known() is not None
    del monitor
    gc.collect()
    assert known() is None


def test_a_gpu_that_the_server_lacks_is_not_found(server: ComfyServer, api: ComfyApi) -> None:
    server.on("PATCH", f"{PROBE}/7", (400, {}, "list assignment index out of range"))
    with pytest.raises(
        NotFound, match=r"the server has no GPU 7; gpus\(\) returns those"
    ) as caught:
        api.ext.monitor.set_gpu(7, vram=False)
    assert (caught.value.status, caught.value.method) == (400, "PATCH")
