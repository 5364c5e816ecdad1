"""``api.ext.monitor``: how busy the machine of a server is, by the node pack Crystools."""

from __future__ import annotations

from typing import Any, Final

from .. import models
from ..attributes import KnownAttributes
from ..errors import ApiError, ComfyError, NotFound
from ..jobs.execute import Parts
from ..routes import Routes
from ..showing.screen import is_notebook
from ..subscriptions import call_back
from ..values import is_real, items, texts
from .node_pack import NodePack

_ROUTE: Final = "/crystools/monitor"
#: The name of what a notebook shows, among what a client remembers.
_VIEW: Final = "the view of api.ext.monitor"
_HOW_TO_GET: Final = (
    "install ComfyUI-Crystools (https://github.com/crystian/ComfyUI-Crystools), by ComfyUI-Manager "
    "or into custom_nodes, and restart the server"
)


class Monitor(KnownAttributes):
    """How busy the machine of the server is: ``api.ext.monitor``.

    The node pack Crystools sends it, once a second, to all clients: as the signal ``monitor``, to
    ``api.on("monitor", function)`` and ``api.wait_for("monitor")``, each time a
    :class:`MonitorEvent`.  **Its settings are those of everybody**: what you change, changes for
    all who are connected to the server, until it is restarted.  No route tells what they are.

    At the end of a cell of a notebook, the monitor shows the figures, and updates them in place.

    Example::

        from comfy_client import ComfyApi, NotSupported

        with ComfyApi("http://127.0.0.1:8188") as api:
            try:
                api.ext.monitor.set(rate=2, disk=False)
                print(api.wait_for("monitor", timeout=10).cpu_utilization)
            except NotSupported as exc:
                print(exc)
    """

    def __init__(self, owner: Routes, parts: Parts) -> None:
        self._routes = NodePack(owner, parts, "Crystools", _HOW_TO_GET, f"{_ROUTE}/GPU")

    def __repr__(self) -> str:
        return f"<Monitor of {self._routes.owner.host}>"

    def _ipython_display_(self) -> None:
        """Display how busy the machine is, and keep the display up to date."""
        if not is_notebook():
            raise NotImplementedError  # IPython then asks for the repr
        from ..showing.usage import UsageView  # slow to import, and rarely needed

        parts, new = self._routes.parts, UsageView(self._routes.owner.host)
        try:
            self.gpus()
        except ComfyError as exc:
            new.say(str(exc))
            return
        view: UsageView = parts.remembered.setdefault(_VIEW, new)  # one, however often it is shown
        view.display()
        if view is new:
            call_back(parts, "monitor", lambda event: view.update(event.to_dict()), once=False)

    def available(self) -> bool:
        """Return whether the server has Crystools.

        ``GET /crystools/monitor/GPU``, once for each connection of the event socket: the server may
        have got it when it was restarted.
        """
        return self._routes.exist()

    def disks(self) -> list[str]:
        """Return the disks of the server, as paths: each can be ``which_disk`` of :meth:`set`.

        ``GET /crystools/monitor/HDD``.
        """
        return texts(self._routes.get(f"{_ROUTE}/HDD"), f"GET {_ROUTE}/HDD")

    def gpus(self) -> list[models.MonitoredGpu]:
        """Return the GPUs of the server; empty if it has none that Crystools can read.

        ``GET /crystools/monitor/GPU``.
        """
        found = items(self._routes.get(f"{_ROUTE}/GPU"), f"GET {_ROUTE}/GPU")
        return [models.MonitoredGpu.from_json(one) for one in found]

    def set(
        self,
        *,
        rate: float | None = None,
        cpu: bool | None = None,
        ram: bool | None = None,
        disk: bool | None = None,
        which_disk: str | None = None,
    ) -> None:
        """Change what is measured and how often, for all clients of the server.

        ``PATCH /crystools/monitor``.  ``None`` leaves a setting as it is.

        Args:
            rate: Seconds between two events; 0: none are sent, until somebody sets another rate.
            cpu: Whether the use of the CPU is measured; if not, it is ``None`` in the events.
            ram: Whether the use of the main memory is measured.
            disk: Whether the use of the disk is measured.
            which_disk: The disk, one of :meth:`disks`.  The server accepts any other text too, and
                then sends ``None``.

        Raises:
            NotSupported: The server lacks Crystools.
            TypeError: An argument of another type, or none at all.
            ValueError: ``rate`` is negative or not finite.
        """
        switches = {"switchCPU": cpu, "switchRAM": ram, "switchHDD": disk}
        _check_switches({"cpu": cpu, "ram": ram, "disk": disk})
        seconds = None if rate is None else _seconds(rate)
        if which_disk is not None and not isinstance(which_disk, str):
            raise TypeError(f"which_disk is a path, such as '/', not {which_disk!r:.80}")
        self._change(_ROUTE, {"rate": seconds, **switches, "whichHDD": which_disk})

    def start(self) -> None:
        """Switch the events on again for all clients, after :meth:`stop`.

        ``POST /crystools/monitor/switch``.  There are none while the rate is 0: see :meth:`set`.
        """
        self._routes.command("POST", f"{_ROUTE}/switch", {"monitor": True})

    def stop(self) -> None:
        """Switch the events off for all clients.

        ``POST /crystools/monitor/switch``.
        """
        self._routes.command("POST", f"{_ROUTE}/switch", {"monitor": False})

    def set_gpu(
        self,
        index: int,
        *,
        utilization: bool | None = None,
        vram: bool | None = None,
        temperature: bool | None = None,
    ) -> None:
        """Change what is measured of a GPU, for all clients of the server.

        ``PATCH /crystools/monitor/GPU/{index}``.  ``None`` leaves a setting as it is; what is not
        measured is ``None`` in the events.

        Args:
            index: The GPU, by its ``index`` in :meth:`gpus`.
            utilization: Whether it is measured how busy the GPU is.
            vram: Whether the use of its memory is measured.
            temperature: Whether its temperature is measured.

        Raises:
            NotFound: The server has no such GPU.
            NotSupported: The server lacks Crystools.
            TypeError: An argument of another type, or no setting at all.
            ValueError: ``index`` is negative.
        """
        if isinstance(index, bool) or not isinstance(index, int):
            raise TypeError(f"index is the number of a GPU, not {index!r:.80}")
        if index < 0:
            raise ValueError(f"index is 0 or more, not {index}")
        switches = {"utilization": utilization, "vram": vram, "temperature": temperature}
        _check_switches(switches)
        try:
            self._change(f"{_ROUTE}/GPU/{index}", switches)
        except ApiError as exc:
            if exc.status != 400:
                raise
            # Nothing else is wrong with such a request.
            said = f"the server has no GPU {index}; gpus() returns those that it has ({exc})"
            raise NotFound(
                said, method=exc.method, path=exc.path, status=exc.status, body=exc.body
            ) from None

    def _change(self, route: str, settings: dict[str, Any]) -> None:
        given = {name: value for name, value in settings.items() if value is not None}
        if not given:
            raise TypeError("no setting is given")
        self._routes.command("PATCH", route, given)


def _seconds(rate: Any) -> float:
    """Return the seconds between two events as a built-in number.

    Raises:
        TypeError: They are no number.
        ValueError: They are negative or not finite, or have hundreds of digits.
    """
    if isinstance(rate, bool) or not is_real(rate):
        raise TypeError(f"rate is a number of seconds, not {rate!r:.80}")
    try:
        seconds = float(rate)
    except OverflowError:
        raise ValueError("rate is 0 or more seconds, not as many as that") from None
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"rate is 0 or more seconds, not {rate!r:.80}")
    return rate if isinstance(rate, int) else seconds


def _check_switches(switches: dict[str, bool | None]) -> None:
    """Raise TypeError for a switch that is neither a bool nor None."""
    for name, value in switches.items():
        if not isinstance(value, bool | None):
            raise TypeError(f"{name} is True or False, not {value!r:.80}")
