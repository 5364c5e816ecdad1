"""The packs that a test makes and gives to a server; other classes play them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from ..active_faults import check_seconds
from .crystools import CrystoolsPack
from .listed import MODELS, PACKS, ListedModel, ListedPack
from .manager import ManagerBase, ManagerOptions
from .manager3 import Manager3Pack
from .manager4 import Manager4Pack
from .manager4_legacy import LegacyPack
from .manager_security import SecurityLevel, checked_level
from .pack import Pack


class OfferedPack:
    """A pack for ``ComfyServer(packs=...)``, of one server."""

    def __init__(self, pack: Pack) -> None:
        self._pack = pack

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    @property
    def pack(self) -> Pack:
        """The implementation that the server runs."""
        return self._pack


class OfferedManager(OfferedPack):
    """The base class of the Managers that a test makes."""

    _kind: ClassVar[type[ManagerBase]] = Manager4Pack

    def __init__(
        self,
        *,
        packs: Iterable[ListedPack] = (),
        models: Iterable[ListedModel] = (),
        installed: Iterable[str] = (),
        disabled: Iterable[str] = (),
        security_level: SecurityLevel = "normal",
        allow_git_url: bool = False,
        allow_pip: bool = False,
        online: bool = True,
        unreachable: Iterable[str] = (),
        seconds: float = 0.2,
        reboot_seconds: float = 3.0,
    ) -> None:
        """Make a Manager; ``ComfyServer(packs=["manager4"])`` makes one with these defaults.

        Args:
            packs: Further packs in its list, which has a few made-up ones.
            models: Further models in its list, which has a few made-up ones.
            installed: The names of packs that are installed from the start.
            disabled: The names of further packs that are installed from the start, but disabled.
            security_level: What it allows: ``"strong"``, ``"normal"``, ``"normal-"``, ``"weak"``.
            allow_git_url: Whether packs can be installed by the address of a repository.
            allow_pip: Whether packages can be installed.
            online: Whether it reaches the registry; without it, packs of the registry can neither
                be installed nor enabled.
            unreachable: The addresses of repositories and models that it does not reach.
            seconds: How many simulated seconds each task takes.
            reboot_seconds: How many simulated seconds the server is away in a reboot.

        Raises:
            ValueError: An unknown level, a number out of range, or an installed pack that the list
                does not have.
            TypeError: An argument is not a list, or has items of another type.
        """
        self._manager = self._kind(
            ManagerOptions(
                packs=(*PACKS, *_all("packs", packs, ListedPack)),
                models=(*MODELS, *_all("models", models, ListedModel)),
                installed=_all("installed", installed, str),
                disabled=_all("disabled", disabled, str),
                security_level=checked_level(security_level),
                allow_git_url=allow_git_url,
                allow_pip=allow_pip,
                online=online,
                unreachable=frozenset(_all("unreachable", unreachable, str)),
                seconds=check_seconds(seconds),
                reboot_seconds=check_seconds(reboot_seconds),
            )
        )
        super().__init__(self._manager)

    @property
    def installed(self) -> dict[str, bool]:
        """The names of the installed packs, and whether each is enabled."""
        return {name: pack.enabled for name, pack in self._manager.packs.now.items()}


class Manager4(OfferedManager):
    """ComfyUI-Manager 4.3 for ``ComfyServer(packs=...)``, with its traps.

    Example::

        from comfy_client.testing import ComfyServer, ListedPack, Manager4

        pack = ListedPack(name="my-pack", url="https://git.example.com/my-pack", classes=["Mine"])
        manager = Manager4(packs=[pack], installed=["my-pack"])
        with ComfyServer(packs=[manager]):
            assert manager.installed == {"my-pack": True}
    """


class Manager4Legacy(OfferedManager):
    """ComfyUI-Manager 4.3 with its old page, for ``ComfyServer(packs=...)``.

    Its arguments are those of ``Manager4``.
    """

    _kind = LegacyPack


class Manager3(OfferedManager):
    """ComfyUI-Manager 3.41 for ``ComfyServer(packs=...)``.

    Its arguments are those of ``Manager4``.
    """

    _kind = Manager3Pack


class Crystools(OfferedPack):
    """ComfyUI-Crystools 1.27.4 for ``ComfyServer(packs=...)``.

    It has the events and routes, but not the nodes.  Its figures are made up, and stay the same
    until a test changes them.  Without GPUs, which is the default, it was compared with a
    recording of the real one; with GPUs, it follows the source code.

    Example::

        from comfy_client.testing import ComfyServer, Crystools

        crystools = Crystools(gpus=["RTX 4090"])
        with ComfyServer(packs=[crystools]):
            crystools.gpu_figures[0]["gpu_temperature"] = 85
    """

    def __init__(self, gpus: Iterable[str] = (), disks: Iterable[str] = ("/",)) -> None:
        """Make the pack; ``ComfyServer(packs=["crystools"])`` makes one with these defaults.

        Args:
            gpus: The names of the GPUs.
            disks: The paths of the disks, at least one; the first is measured.

        Raises:
            ValueError: There is no disk.
            TypeError: An argument is not a list of texts.
        """
        paths = _all("disks", disks, str)
        if not paths:
            raise ValueError("disks has the paths of the disks, at least one")
        self._crystools = CrystoolsPack(_all("gpus", gpus, str), paths)
        super().__init__(self._crystools)

    @property
    def figures(self) -> dict[str, Any]:
        """The figures of the machine, by the keys of a message; a test may change them."""
        return self._crystools.figures

    @property
    def gpu_figures(self) -> list[dict[str, Any]]:
        """The same of each GPU."""
        return self._crystools.gpu_figures


def _all(name: str, given: Iterable[Any], kind: type) -> Sequence[Any]:
    """Return a list; raise TypeError if it is something else, or has items of another type."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"{name} is a list, not {given!r:.100}")
    found = tuple(given)
    for one in found:
        if not isinstance(one, kind):
            raise TypeError(f"{name} is a list of {kind.__name__}, not of {one!r:.100}")
    return found
