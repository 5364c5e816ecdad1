"""``wait_for_vram``: until enough memory of a device is free, or an error that says how much is."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from comfy_client import (
    ApiError,
    ClientClosed,
    ComfyApi,
    NotSupported,
    UnexpectedResponse,
    VramTimeout,
)
from comfy_client.testing import ComfyServer, Request
from tests.helpers.clients import exception_of

GIB = 2**30
LIMIT = 60.0


@attrs.define
class Gpus:
    """What the server says of its devices; each question takes the next free sizes of the first."""

    server: ComfyServer
    free: list[Any]
    more: tuple[int, ...] = ()
    kind: str = "cuda"
    total: Any = 8 * GIB
    asked: int = 0

    def answer(self, request: Request) -> Any:
        self.asked += 1
        first = self.free.pop(0) if len(self.free) > 1 else self.free[0]
        names = [(0, first), *enumerate(self.more, 1)]
        devices = [
            {
                "name": f"{self.kind}:{index}",
                "type": self.kind,
                "index": index,
                "vram_total": self.total,
                "vram_free": free,
            }
            for index, free in names
        ]
        return 200, {}, {"system": {}, "devices": devices}


@pytest.fixture
def gpus(comfy: ComfyServer) -> Gpus:
    made = Gpus(comfy, [GIB])
    comfy.on("GET", "/system_stats", made.answer)
    return made


@pytest.fixture
def api(comfy: ComfyServer) -> Iterator[ComfyApi]:
    with contextlib.closing(ComfyApi(comfy.url)) as client:
        yield client


def test_wait_for_vram_asks_once_if_enough_is_free(api: ComfyApi, gpus: Gpus) -> None:
    """The device comes back."""
    assert api.wait_for_vram(GIB).vram_free == GIB
    assert api.wait_for_vram(0, 0).name == "cuda:0"
    assert gpus.asked == 2


def test_wait_for_vram_waits_until_enough_is_free(api: ComfyApi, gpus: Gpus) -> None:
    """As models are unloaded."""
    gpus.free = [GIB, 2 * GIB, 6 * GIB]
    assert api.wait_for_vram(5 * GIB, LIMIT).vram_free == 6 * GIB
    assert gpus.asked == 3


def test_wait_for_vram_takes_the_index_of_a_device(api: ComfyApi, gpus: Gpus) -> None:
    """One that is not there is an error at once."""
    gpus.more = (7 * GIB,)
    assert api.wait_for_vram(5 * GIB, LIMIT, device=1).name == "cuda:1"
    with pytest.raises(ValueError, match="no device 5; it has: 0, 1"):
        api.wait_for_vram(1, LIMIT, device=5)


def test_time_that_runs_out_is_an_error_with_what_was_free(api: ComfyApi, gpus: Gpus) -> None:
    """A ``TimeoutError``, too."""
    with pytest.raises(VramTimeout, match=r"cuda:0 has 1\.00 GiB free") as caught:
        api.wait_for_vram(2 * GIB, 0.3)
    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.wanted, caught.value.free) == (2 * GIB, GIB)
    assert caught.value.device == "cuda:0"
    with pytest.raises(VramTimeout):
        api.wait_for_vram(2 * GIB, 0)


def test_more_than_there_is_will_never_be_free(api: ComfyApi, gpus: Gpus) -> None:
    with pytest.raises(ValueError, match=r"8\.00 GiB of VRAM in all"):
        api.wait_for_vram(9 * GIB)
    assert gpus.asked == 1


@pytest.mark.parametrize("free", [None, "cpu", "none"])
def test_a_server_without_vram_is_an_error_at_once(api: ComfyApi, gpus: Gpus, free: Any) -> None:
    """It computes on the CPU, or does not say."""
    if free == "cpu":
        gpus.kind = "cpu"
    elif free == "none":
        gpus.server.on("GET", "/system_stats", (200, {}, {"system": {}, "devices": []}))
    else:
        gpus.free = [None]
    with pytest.raises(NotSupported, match="no VRAM to wait for"):
        api.wait_for_vram(GIB)


@pytest.mark.parametrize("free", [-(10**2000), 10**2000, 0, "much", 1e300, [], True])
def test_malformed_system_stats_raise_only_errors_of_wait_for_vram(
    api: ComfyApi, gpus: Gpus, free: Any
) -> None:
    """Numbers of any size, and what is none."""
    gpus.free = [free]
    gpus.kind = "\x1b[2Jcuda"
    with contextlib.suppress(VramTimeout, NotSupported, UnexpectedResponse):
        api.wait_for_vram(2 * GIB, 0)
    gpus.total = free
    with contextlib.suppress(VramTimeout, NotSupported, UnexpectedResponse, ValueError):
        api.wait_for_vram(2 * GIB, 0)


def test_the_real_thing_on_a_cpu_says_so(api: ComfyApi) -> None:
    """The embedded server is one."""
    with pytest.raises(NotSupported, match="on the CPU") as caught:
        api.wait_for_vram(GIB, LIMIT)
    assert caught.value.hint is None  # no newer server helps


def test_an_outage_is_waited_for(api: ComfyApi, gpus: Gpus) -> None:
    """A server that refuses is not."""
    fault = gpus.server.on("GET", "/system_stats", (502, {}, None))
    threading.Timer(0.3, fault.end).start()
    assert api.wait_for_vram(GIB, LIMIT).vram_free == GIB
    with gpus.server.on("GET", "/system_stats", (503, {}, None)):
        with pytest.raises(VramTimeout, match="did not answer") as caught:
            api.wait_for_vram(GIB, 0.3)
        assert caught.value.free is None
        assert isinstance(caught.value.__cause__, ApiError)
    gpus.server.on("GET", "/system_stats", (500, {}, None))
    with pytest.raises(ApiError, match="500"):
        api.wait_for_vram(GIB)


@pytest.mark.parametrize(
    ("wanted", "kind"), [(-1, ValueError), (1.5, TypeError), ("8", TypeError), (True, TypeError)]
)
def test_wait_for_vram_refuses_a_wrong_number_of_bytes_at_once(
    api: ComfyApi, gpus: Gpus, wanted: Any, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match="bytes"):
        api.wait_for_vram(wanted)
    assert not gpus.asked


def test_close_ends_the_wait(api: ComfyApi, gpus: Gpus) -> None:
    """In another thread."""
    threading.Timer(0.3, api.close).start()
    assert isinstance(exception_of(lambda: api.wait_for_vram(2 * GIB), LIMIT), ClientClosed)
