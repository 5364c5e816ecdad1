"""Workflows in UI format, with what ComfyUI's own page made of each (``tests/conformance``).

``ui_to_api.jsonl.gz`` was made by the frontend 1.32.9 with the definitions of a server 0.3.75,
``ui_to_api_0.28.1.jsonl.gz`` by the frontend 1.58.1 (most also by 1.45.21) with those of 0.28.1.
Of each ``{a|b}`` the first option was taken.  ``ui_to_api_nulls.jsonl.gz`` has files in which
promoted widgets are ``null``, and what the frontend 1.45.21 made of them on a server 0.28.1.
``ui_to_api_packs.jsonl.gz`` has graphs with nodes of packs that the frontend alone knows, and what
the frontend 1.45.21 (mostly also 1.58.1) sent with the extensions of these packs.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "conformance"
PAIRS = {
    "0.3.75": "ui_to_api.jsonl.gz",
    "0.28.1": "ui_to_api_0.28.1.jsonl.gz",
    "nulls": "ui_to_api_nulls.jsonl.gz",
    "packs": "ui_to_api_packs.jsonl.gz",
}


class First:
    """Makes the choices that the page made."""

    def choice(self, options: Sequence[str]) -> str:
        return options[0]


@cache
def definitions(version: str) -> dict[str, Any]:
    """Of all node classes of a server; ``packs``: of 0.28.1 with Anything Everywhere.

    Not to be changed.
    """
    if version == "packs":
        return {**definitions("0.28.1"), **definitions("use_everywhere")}
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


@cache
def recorded_checks() -> dict[str, Any]:
    """What servers 0.28.1 and 0.33.0 said to workflows that a check may judge otherwise.

    ``mutants`` are workflows, with ``accepted``: whether the server queued each.  ``unchecked`` are
    the inputs, by version, for which it took the value of :mod:`tests.helpers.wrong_choices`.
    ``definitions`` are of the classes of 0.33.0 that these need, ``replacements`` is the answer of
    ``GET /node_replacements``.  Not to be changed.
    """
    path = FOLDER / "check_0.28.1_and_0.33.0.json.gz"
    return json.loads(gzip.decompress(path.read_bytes()))


class RecordedServer:
    """What such a server tells of itself, as a client asks for it; it has no files."""

    def __init__(self, version: str) -> None:
        recorded = recorded_checks()
        whole = definitions(version) if version == "0.28.1" else recorded["definitions"]
        self.definitions: dict[str, Any] = whole

    def node_definitions(
        self, classes: Collection[str] | None = None, *, refresh: bool = False
    ) -> dict[str, Any]:
        return self.definitions

    def get_node_replacements(self) -> dict[str, Any]:
        found: dict[str, Any] = recorded_checks()["replacements"]
        return found

    def get_internal_files(self, type: str) -> list[str]:
        return []
