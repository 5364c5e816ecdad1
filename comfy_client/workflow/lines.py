"""The lines of a JSON file at which the nodes of a workflow and their inputs stand."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Final, Self

import attrs

from .load import MAX_JSON

#: What wraps a graph in some files.
_WRAPPERS: Final = frozenset({"prompt", "output", "workflow"})
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_DECODER: Final = json.JSONDecoder()


@attrs.frozen
class Lines:
    """The lines of one file, from 1 on.

    Attributes:
        broken: The line where it is no JSON any more; ``None``: it is JSON, or no text at all.
    """

    _by_place: Mapping[tuple[str, str | None], int] = attrs.field(factory=dict)
    broken: int | None = None

    @classmethod
    def read(cls, path: str) -> Self:
        """Read a file; there are no lines if that is impossible, or it is a picture or the like."""
        try:
            with Path(path).open("rb") as file:
                content = file.read(MAX_JSON)
            text = content.decode(json.detect_encoding(content))
            json.loads(text)
        except json.JSONDecodeError as exc:
            return cls(broken=exc.lineno)
        except (OSError, ValueError, RecursionError):
            return cls()
        return cls(dict(_numbered(text, dict(_places(text, _after_space(text, 0))))))

    def of(self, node_id: str | None, name: str | None) -> int | None:
        """Return the line of an input, or else of its node; ``None``: the file does not show it.

        In UI format that is the line at which the node begins, or its outermost subgraph.
        """
        if node_id is None:
            return None
        outermost = node_id.partition(":")[0]
        places = ((node_id, name), (node_id, None), (outermost, None))
        return next((self._by_place[one] for one in places if one in self._by_place), None)


def _numbered(
    text: str, places: Mapping[tuple[str, str | None], int]
) -> Iterator[tuple[tuple[str, str | None], int]]:
    """Yield each place with its line in place of its index."""
    line, before = 1, 0
    for place, at in sorted(places.items(), key=itemgetter(1)):
        line += text.count("\n", before, at)
        before = at
        yield place, line


def _places(text: str, at: int) -> Iterator[tuple[tuple[str, str | None], int]]:
    """Yield the nodes and inputs of the graph in the object at an index, each with its own."""
    for name, start, value in _members(text, at):
        if name == "nodes" and text[value] == "[":
            yield from _saved_nodes(text, value)
        elif name in _WRAPPERS and text[value] == "{":
            yield from _places(text, value)
        else:
            yield (name, None), start
            for part, _, inputs in _members(text, value):
                if part == "inputs":
                    for each, place, _ in _members(text, inputs):
                        yield (name, each), place


def _saved_nodes(text: str, at: int) -> Iterator[tuple[tuple[str, str | None], int]]:
    """Yield the nodes of the list at an index, as the frontend saves them."""
    for start in _items(text, at, "["):
        for name, _, value in _members(text, start):
            if name == "id":
                node_id, _ = _DECODER.raw_decode(text, value)
                yield (str(node_id), None), start


def _members(text: str, at: int) -> Iterator[tuple[str, int, int]]:
    """Yield the name of each member of the object at an index, where it and its value begin."""
    for start in _items(text, at, "{"):
        name, end = _DECODER.raw_decode(text, start)
        yield name, start, _after_name(text, end)


def _items(text: str, at: int, bracket: str) -> Iterator[int]:
    """Yield where each item of the list or object at an index begins; none if it is neither."""
    start = _after_space(text, at + 1)
    if text[at : at + 1] != bracket or text[start] in "]}":
        return
    while True:
        yield start
        value = start
        if bracket == "{":
            value = _after_name(text, _DECODER.raw_decode(text, start)[1])
        end = _after_space(text, _DECODER.raw_decode(text, value)[1])
        if text[end] != ",":
            return
        start = _after_space(text, end + 1)


def _after_name(text: str, end: int) -> int:
    return _after_space(text, _after_space(text, end) + 1)  # the colon


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()
