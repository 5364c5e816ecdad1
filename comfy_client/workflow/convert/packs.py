"""The node pack that a file names for a node, if the frontend would accept the name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

_NAME: Final = r"[a-zA-Z0-9](?:[a-zA-Z0-9._-]{0,98}[a-zA-Z0-9])?"
_OWNER: Final = r"(?!.*--)[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,37}[a-zA-Z0-9])?"
_NUMBER: Final = r"(?:0|[1-9]\d*)"
_WORDS: Final = r"[\da-z-]+(?:\.[\da-z-]+)*"
_SEMANTIC: Final = rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-{_WORDS})?(?:\+{_WORDS})?"
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
