"""The packs that an embedded server can have, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from ...nearest import nearest
from .crystools import Crystools
from .manager import ManagerBase
from .manager3 import Manager3
from .manager4 import Manager4
from .manager4_legacy import Manager4Legacy
from .pack import Pack

#: What makes each pack with its defaults.
KNOWN: Final[Mapping[str, Callable[[], Pack]]] = {
    one.name: one for one in (Manager4, Manager4Legacy, Manager3, Crystools)
}


def packs_of(given: Iterable[str | Pack]) -> dict[str, Pack]:
    """Return the packs of ``ComfyServer(packs=...)`` by name, new ones for those that are named.

    Raises:
        ValueError: An unknown name, a pack twice, or two Managers.
        TypeError: Something else than a name or a pack.
    """
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"packs is a list of names and packs, not {given!r:.100}")
    found: dict[str, Pack] = {}
    for one in given:
        pack = _pack(one)
        if pack.name in found:
            raise ValueError(f"packs has {pack.name} twice")
        found[pack.name] = pack
    managers = [name for name, pack in found.items() if isinstance(pack, ManagerBase)]
    if len(managers) > 1:
        which = " and ".join(managers)
        raise ValueError(f"packs has {which}, but a ComfyUI runs one ComfyUI-Manager at a time")
    return found


def _pack(given: Any) -> Pack:
    if isinstance(given, Pack):
        return given
    if not isinstance(given, str):
        raise TypeError(f"packs is a list of names and packs, not of {given!r:.100}")
    if given not in KNOWN:
        near = nearest(given, KNOWN, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"packs are {', '.join(KNOWN)}, not {given!r:.100}{hint}")
    return KNOWN[given]()
