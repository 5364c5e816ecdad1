"""The node definitions of several servers as one.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def together(each: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge definitions by class: of several of one class, the first, with the options of all."""
    found: dict[str, Any] = {}
    for definitions in each:
        for name, definition in definitions.items():
            found[name] = _merged(found[name], definition) if name in found else definition
    return found


def _merged(one: Any, other: Any) -> Any:
    if not (isinstance(one, Mapping) and isinstance(other, Mapping)):
        return one
    whole = dict(one)
    for name, part in one.items():
        if name in other and name in ("input", "required", "optional"):
            whole[name] = _merged(part, other[name])
        elif name in other and isinstance(part, list):
            whole[name] = _with_choices(part, other[name])
    return whole


def _with_choices(config: list[Any], other: Any) -> list[Any]:
    """Return an input with the combo options of another added; unchanged if either is no combo."""
    match config, other:
        case [[*mine], *options], [[*theirs], *_]:
            return [_both(mine, theirs), *options]
        case ["COMBO", {"options": [*mine]} as said], ["COMBO", {"options": [*theirs]}]:
            return ["COMBO", {**said, "options": _both(mine, theirs)}]
    return config


def _both(some: list[Any], others: list[Any]) -> list[Any]:
    return [*some, *(one for one in others if one not in some)]
