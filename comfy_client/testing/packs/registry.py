"""The packs that an embedded server can have, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from ...nearest import nearest
from .fake_packs import (
    Crystools,
    Manager3,
    Manager4,
    Manager4Legacy,
    OfferedManager,
    OfferedPack,
)

#: What makes each pack with its defaults.
KNOWN: Final[Mapping[str, Callable[[], OfferedPack]]] = {
    "manager4": Manager4,
    "manager4-legacy": Manager4Legacy,
    "manager3": Manager3,
    "crystools": Crystools,
}


def packs_of(given: Iterable[str | OfferedPack]) -> dict[str, OfferedPack]:
    """Return the packs of ``ComfyServer(packs=...)`` by name, new ones for those that are named.

    Raises:
        ValueError: An unknown name, a pack twice, or two Managers.
        TypeError: Something else than a name or a pack.
    """
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"packs is a list of names and packs, not {given!r:.100}")
    found: dict[str, OfferedPack] = {}
    for one in given:
        pack = _pack(one)
        name = pack.pack.name
        if name in found:
            raise ValueError(f"packs has {name} twice")
        found[name] = pack
    managers = [name for name, pack in found.items() if isinstance(pack, OfferedManager)]
    if len(managers) > 1:
        which = " and ".join(managers)
        raise ValueError(f"packs has {which}, but a ComfyUI runs one ComfyUI-Manager at a time")
    return found


def _pack(given: Any) -> OfferedPack:
    if isinstance(given, OfferedPack):
        return given
    if not isinstance(given, str):
        raise TypeError(f"packs is a list of names and packs, not of {given!r:.100}")
    if given not in KNOWN:
        near = nearest(given, KNOWN, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"packs are {', '.join(KNOWN)}, not {given!r:.100}{hint}")
    return KNOWN[given]()
