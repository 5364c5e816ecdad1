"""The node pack of a class that a server lacks, as the workflow and a Manager tell of it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from ..errors import ComfyError
from .graph import brief, listing
from .problems import CORE

#: The ids of node packs by class, the likeliest first; a class without a pack is left out.
Packs = Mapping[str, Sequence[str]]

#: What to say of a class that belongs to ComfyUI itself, as lists of packs have it.
_NEWER: Final = "it is one of ComfyUI's own: this server's ComfyUI is too old or too new for it"
#: The names under which lists of packs have ComfyUI itself.
_COMFYUI: Final = re.compile(
    rf"(?i){CORE}|https?://github\.com/(comfyanonymous|comfy-?org)/comfyui(\.git)?/?"
)
#: An id of the registry that can be typed into any shell.
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def pack_of(meta: Mapping[str, Any], listed: Sequence[str]) -> tuple[str | None, str | None]:
    """Return the pack of a missing class, and a hint about it; None: nothing is known.

    The workflow names the pack with which it was made; a Manager lists all that have a class of
    this name.

    Args:
        meta: ``_meta`` of the node: ``cnr_id`` is an id of the registry, ``aux_id`` a repository,
            as ``owner/name``.
        listed: The packs that have the class, as the server's Manager lists them.
    """
    id, repository = _named(meta, "cnr_id"), _named(meta, "aux_id")
    others = [one for one in listed if not _COMFYUI.fullmatch(one)]
    if id == CORE:
        return None, None
    if id is None and repository is None:
        if len(others) < len(listed):
            return None, _NEWER
        pack = next(iter(others), None)
    elif id is not None:
        pack = id
    else:
        end = f"/{repository}".casefold()
        ours = (one for one in others if one.casefold().removesuffix(".git").endswith(end))
        pack = next(ours, next(iter(others), repository))
    if pack is None:
        return None, None
    others = [one for one in others if one != pack]
    also = f" (or to {listing(others)})" if others else ""
    is_known = pack in listed or (listed and _ID.fullmatch(pack))
    how = f" with api.ext.manager.install({pack!r})" if is_known else ""
    return pack, f"it belongs to the node pack {brief(pack)}{also}: install it{how}"


def _named(meta: Mapping[str, Any], key: str) -> str | None:
    name = meta.get(key)
    return name if isinstance(name, str) and name else None


def packs_of(source: object, classes: Collection[str]) -> Packs:
    """Return the packs that have classes, from a source of definitions that can be asked for them.

    They are only a hint, so there are none if that fails.
    """
    ask = getattr(source, "packs_of_classes", None)
    try:
        return ask(classes) if classes and callable(ask) else {}
    except ComfyError:
        return {}
