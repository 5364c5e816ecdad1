"""Workflows in UI format, with what ComfyUI's own page made of each (``tests/conformance``).

``ui_to_api.jsonl.gz`` was made by the frontend 1.32.9 with the definitions of a server 0.3.75,
``ui_to_api_0.28.1.jsonl.gz`` by the frontend 1.58.1 (most also by 1.45.21) with those of 0.28.1.
Of each ``{a|b}`` the first option was taken.  ``ui_to_api_nulls.jsonl.gz`` has files in which
promoted widgets are ``null``, and what the frontend 1.45.21 made of them on a server 0.28.1.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "conformance"
PAIRS = {
    "0.3.75": "ui_to_api.jsonl.gz",
    "0.28.1": "ui_to_api_0.28.1.jsonl.gz",
    "nulls": "ui_to_api_nulls.jsonl.gz",
}


class First:
    """Makes the choices that the page made."""

    def choice(self, options: Sequence[str]) -> str:
        return options[0]


@cache
def definitions(version: str) -> dict[str, Any]:
    """Of all node classes of a server.  Not to be changed."""
    return json.loads(gzip.decompress((FOLDER / f"object_info_{version}.json.gz").read_bytes()))


def pairs(version: str) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """The name of each, the file in UI format, and the prompt; ``version`` is a key of PAIRS."""
    with gzip.open(FOLDER / PAIRS[version], "rt", encoding="utf-8") as lines:
        for line in lines:
            pair = json.loads(line)
            name = f"{pair['name']} ({pair.get('kind', 'template')})"
            yield name, pair["workflow"], pair["api"]


def pair(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first one whose name begins so, of 0.28.1: the file and the prompt."""
    return next((ui, api) for each, ui, api in pairs("0.28.1") if each.startswith(name))
