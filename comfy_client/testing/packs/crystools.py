"""ComfyUI-Crystools, as far as it has routes: it tells all clients how busy the machine is."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

import attrs
from aiohttp import web

from ..beginning import Kept
from ..server_state import MEMORY
from .pack import Pack, PackRoutes, PackServer

_ROUTE: Final = "/crystools/monitor"
_DISK: Final = 2**40  # bytes of the disk that the simulated machine says it has
#: What stands in place of a figure that is not measured.
_OFF: Final = -1
#: Seconds between two messages, in which other work of the server is done, at least.
_LEAST_PAUSE: Final = 0.005
#: The keys of a message that each switch is about.
_BY_SWITCH: Final = {
    "switchCPU": ("cpu_utilization",),
    "switchRAM": ("ram_total", "ram_used", "ram_used_percent"),
    "switchHDD": ("hdd_total", "hdd_used", "hdd_used_percent"),
}
_BY_GPU_SWITCH: Final = {
    "utilization": ("gpu_utilization",),
    "vram": ("vram_total", "vram_used", "vram_used_percent"),
    "temperature": ("gpu_temperature",),
}


def _figures() -> dict[str, Any]:
    return {
        "cpu_utilization": 12.5,
        "ram_total": MEMORY,
        "ram_used": MEMORY // 4,
        "ram_used_percent": 25.0,
        "hdd_total": _DISK,
        "hdd_used": _DISK // 2,
        "hdd_used_percent": 50.0,
    }


def _figures_of_gpu() -> dict[str, Any]:
    return {
        "gpu_utilization": 75,
        "gpu_temperature": 60,
        "vram_total": MEMORY,
        "vram_used": MEMORY // 2,
        "vram_used_percent": 50.0,
    }


@attrs.define
class _Settings:
    """The settings, which all clients share until the server restarts."""

    gpus: int
    disk: str
    rate: float = 1
    is_on: bool = True
    switches: dict[str, bool] = attrs.field(factory=lambda: dict.fromkeys(_BY_SWITCH, True))
    of_gpus: dict[str, list[bool]] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.of_gpus = {name: [True] * self.gpus for name in _BY_GPU_SWITCH}


class CrystoolsPack(Pack):
    """ComfyUI-Crystools, with GPUs of these names, and the disks with these paths."""

    name = "crystools"

    def __init__(self, gpus: Sequence[str], disks: Sequence[str]) -> None:
        super().__init__()
        self._gpus, self._disks = gpus, disks
        self._telling: asyncio.Task[None] | None = None
        self.forget()

    def forget(self) -> None:
        """Return to the state of a new pack."""
        self.figures: dict[str, Any] = _figures()
        self.gpu_figures: list[dict[str, Any]] = [_figures_of_gpu() for _ in self._gpus]
        self._settings = _Settings(len(self._gpus), self._disks[0])
        self.mark()

    def mark(self) -> None:
        """Keep figures and settings for :meth:`reset`."""
        kept = [self.figures, self.gpu_figures, attrs.asdict(self._settings)]
        self._marked = json.dumps(kept)

    def reset(self, keep: Collection[Kept]) -> None:
        """Return to the figures and settings that were marked."""
        super().reset(keep)
        self.figures, self.gpu_figures, settings = json.loads(self._marked)
        of_gpus = settings.pop("of_gpus")
        self._settings = _Settings(**settings)
        self._settings.of_gpus = of_gpus
        self._tell()

    def start(self, server: PackServer) -> None:
        """Begin to send figures, with the settings of a new process."""
        super().start(server)
        self._settings = _Settings(len(self._gpus), self._disks[0])
        self._telling = None
        self._tell()

    def routes(self) -> PackRoutes:
        """Return the routes."""
        return (
            ("GET", f"{_ROUTE}/HDD", self._list_disks),
            ("GET", f"{_ROUTE}/GPU", self._list_gpus),
            ("PATCH", _ROUTE, self._answer(self._change)),
            ("POST", f"{_ROUTE}/switch", self._answer(self._switch)),
            ("PATCH", f"{_ROUTE}/GPU/{{index}}", self._answer(self._change_gpu)),
        )

    async def _list_disks(self, request: web.Request) -> web.Response:
        return web.json_response(list(self._disks))

    async def _list_gpus(self, request: web.Request) -> web.Response:
        return web.json_response([{"index": at, "name": of} for at, of in enumerate(self._gpus)])

    # -- settings --------------------------------------------------------------------------

    def _answer(self, change: Callable[[web.Request, Any], None]) -> Any:
        """Return the handler of a route that changes settings: what is wrong is its text."""

        async def handle(request: web.Request) -> web.Response:
            try:
                change(request, await request.json())
            except (ValueError, TypeError, LookupError) as exc:
                return web.Response(status=400, text=str(exc))
            return web.Response()

        return handle

    def _change(self, request: web.Request, given: Any) -> None:
        settings = self._settings
        rate = _checked(given, "rate", (int, float), "Rate must be an number.")
        switches = _switches(given, _BY_SWITCH)
        disk = _checked(given, "whichHDD", (str,), "whichHDD must be an string.")
        settings.switches |= switches
        settings.disk = settings.disk if disk is None else disk
        if rate is not None:
            settings.rate = min(rate, threading.TIMEOUT_MAX)
            self._tell()

    def _switch(self, request: web.Request, given: Any) -> None:
        is_on = _switches(given, ["monitor"]).get("monitor")
        if is_on is not None:
            self._settings.is_on = is_on
            self._tell()

    def _change_gpu(self, request: web.Request, given: Any) -> None:
        index, switches = int(request.match_info["index"]), _switches(given, _BY_GPU_SWITCH)
        for name, value in switches.items():
            self._settings.of_gpus[name][index] = value

    # -- messages --------------------------------------------------------------------------

    def _tell(self) -> None:
        """Begin to send figures by the present settings, or end it."""
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        if self._settings.is_on and self._settings.rate > 0:
            self._telling = self.run(self._tell_all(self._settings.rate))

    async def _tell_all(self, rate: float) -> None:
        while True:
            await self.server.sleep(rate)
            await asyncio.sleep(_LEAST_PAUSE)
            self.server.state.send("crystools.monitor", self._measured())

    def _measured(self) -> dict[str, Any]:
        settings, told = self._settings, dict(self.figures)
        is_known = settings.disk in self._disks
        switches = {**settings.switches, "switchHDD": settings.switches["switchHDD"] and is_known}
        for switch, names in _BY_SWITCH.items():
            if not switches[switch]:
                told |= dict.fromkeys(names, _OFF)
        gpus = [self._measured_gpu(index) for index in range(len(self._gpus))]
        told["device_type"] = "cuda" if gpus else "cpu"
        return {**told, "gpus": gpus or [dict.fromkeys(_figures_of_gpu(), _OFF)]}

    def _measured_gpu(self, index: int) -> dict[str, Any]:
        told = dict(self.gpu_figures[index])
        for switch, names in _BY_GPU_SWITCH.items():
            if not self._settings.of_gpus[switch][index]:
                told |= dict.fromkeys(names, _OFF)
        return told


def _checked(given: Any, name: str, kinds: tuple[type, ...], wrong: str) -> Any:
    """Return a setting, or None if it is not given; raise TypeError for one of another type."""
    if name not in given:
        return None
    if type(given[name]) not in kinds:
        raise TypeError(wrong)
    return given[name]


def _switches(given: Any, names: Collection[str]) -> dict[str, bool]:
    """Return the switches that are given; raise TypeError for one that is no bool."""
    found = {name: _checked(given, name, (bool,), f"{name} must be an boolean.") for name in names}
    return {name: value for name, value in found.items() if value is not None}
