"""The node pack of a class, as a workflow and a Manager tell of it."""

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
_NAME: Final = r"[a-zA-Z0-9](?:[a-zA-Z0-9._-]{0,98}[a-zA-Z0-9])?"
_OWNER: Final = r"(?!.*--)[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,37}[a-zA-Z0-9])?"
_NUMBER: Final = r"(?:0|[1-9]\d*)"
_WORDS: Final = r"[\da-z-]+(?:\.[\da-z-]+)*"
_SEMANTIC: Final = rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-{_WORDS})?(?:\+{_WORDS})?"
#: The properties in which the frontend keeps the pack of a node.
_FORMS: Final = {
    "cnr_id": re.compile(_NAME, re.ASCII),
    "aux_id": re.compile(f"{_OWNER}/{_NAME}", re.ASCII),
    "ver": re.compile(f"(?:{_SEMANTIC})|(?:[0-9a-fA-F]{{4,40}})|unknown", re.ASCII),
}


def pack_of(properties: Mapping[str, Any]) -> dict[str, str]:
    """Return ``cnr_id`` (registry), ``aux_id`` (GitHub) and ``ver`` of a node, as far as valid."""
    found = {}
    for key, form in _FORMS.items():
        text = properties.get(key)
        if isinstance(text, str) and len(text) <= 200:
            text = text.removeprefix("v") if key == "ver" else text
            if form.fullmatch(text):
                found[key] = text
    return found


def is_comfyui(id: str) -> bool:
    """Return whether an entry of a Manager's list is ComfyUI itself, which is no pack."""
    return _COMFYUI.fullmatch(id) is not None


def pack_and_hint(meta: Mapping[str, Any], listed: Sequence[str]) -> tuple[str | None, str | None]:
    """Return the pack of a missing class, and a hint about it; None: nothing is known.

    The workflow names the pack with which it was made; a Manager lists all that have a class of
    this name.

    Args:
        meta: ``_meta`` of the node, as :func:`pack_of` reads it.
        listed: The packs that have the class, as the server's Manager lists them.
    """
    declared = pack_of(meta)
    id, repository = declared.get("cnr_id"), declared.get("aux_id")
    others = [one for one in listed if not is_comfyui(one)]
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
    is_known = pack in listed or (listed and pack == id)
    how = f" with api.ext.manager.install({pack!r})" if is_known else ""
    return pack, f"it belongs to the node pack {brief(pack)}{also}: install it{how}"


def packs_of(source: object, classes: Collection[str]) -> Packs:
    """Return the packs that have classes, from a source of definitions that can be asked for them.

    They are only a hint, so there are none if that fails.
    """
    ask = getattr(source, "packs_of_classes", None)
    try:
        return ask(classes) if classes and callable(ask) else {}
    except ComfyError:
        return {}
