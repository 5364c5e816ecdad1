"""Seeds of a graph: read them, and draw new ones."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from ..values import is_real
from .graph import as_link, class_of, inputs_named, inputs_of, links_of, origin

#: Inputs that are seeds.
NAMES: Final = ("seed", "noise_seed")
#: Nodes that take any seed get one below 2**50, as from the frontend, since JavaScript represents
#: such numbers exactly.
_WIDE: Final = frozenset({"KSampler", "KSamplerAdvanced", "RandomNoise", "SamplerCustom"})
_WIDE_SEED_LIMIT: Final = 1 << 50
#: Other nodes may have a lower limit: 2**31 - 1 is the lowest common one.
_SEED_LIMIT: Final = 1 << 31


def seeds_of(graph: Mapping[str, Any]) -> dict[str, int]:
    """Return the seeds of a graph by node id, as the server reads them; links are left out."""
    return {
        str(node_id): seed
        for node_id, _, value in inputs_named(graph, NAMES)
        if (seed := _as_int(value)) is not None
    }


def seed_before(graph: Mapping[str, Any], node_id: str) -> int | None:
    """Return the seed nearest to a node, going back along the links from it, or None if unclear.

    Returns None if there is none, several are equally near, or it is yet to be drawn.  A linked
    seed is found in the node that holds its value.
    """
    first = origin(graph, node_id)
    level = [] if first is None else [first]
    seen = {*level}
    while level:
        found = {seed for node in level for seed in _seeds_at(graph, node)}
        if found:
            seed = found.pop()
            return seed if not found and isinstance(seed, int) and not is_wanted(seed) else None
        sources = [source for node in level for _, source, _ in links_of(graph, node)]
        level = [one for one in dict.fromkeys(sources) if one not in seen]
        seen.update(level)
    return None


def _seeds_at(graph: Mapping[str, Any], node_id: str) -> Iterator[Any]:
    inputs = inputs_of(graph, node_id)
    for name in NAMES:
        value = inputs.get(name)
        link = as_link(value)
        if link:
            source = inputs_of(graph, link[0])
            value = next((source[key] for key in (*NAMES, "value") if key in source), None)
        if is_wanted(value):
            yield value
        elif (seed := _as_int(value)) is not None:
            yield seed


def randomize(graph: Mapping[str, Any], rng: random.Random | None = None) -> dict[str, int]:
    """Replace each seed that is a number or ``"random"`` with a new one; return them by node id."""
    return _draw(graph, lambda value: _is_number(value) or is_wanted(value), rng)


def draw_wanted(graph: Mapping[str, Any]) -> None:
    """Replace each seed that is ``"random"`` or -1 with a new one."""
    _draw(graph, is_wanted, None)


def put_drawn(graph: Mapping[str, Any], drawn: Mapping[str, int]) -> None:
    """Replace each seed that is ``"random"`` or -1 with the one drawn for its node."""
    for node_id, name, _ in _seeds(graph, is_wanted):
        if node_id in drawn:
            graph[node_id]["inputs"][name] = drawn[node_id]


def wants_seeds(graph: Mapping[str, Any]) -> bool:
    """Return whether any seed is yet to be drawn."""
    return bool(_seeds(graph, is_wanted))


def is_wanted(value: object) -> bool:
    """Return whether a seed's value asks for a random one."""
    if type(value) is int:  # the usual case
        return value == -1
    return value == "random" if isinstance(value, str) else _is_number(value) and value == -1


def _as_int(value: object) -> int | None:
    """Return a seed as the server converts it, from a text such as ``"41"`` too; else None."""
    if not isinstance(value, str) and not _is_number(value):
        return None
    number: Any = value
    try:
        return int(number)
    except (ValueError, OverflowError):  # not a number, or infinite
        return None


def _is_number(value: object) -> bool:
    return type(value) is int or (is_real(value) and not isinstance(value, bool))


def _seeds(
    graph: Mapping[str, Any], counts: Callable[[object], bool]
) -> list[tuple[str, str, Any]]:
    """Return the seeds whose value passes ``counts``, as node id, input name and value."""
    return [seed for seed in inputs_named(graph, NAMES) if counts(seed[2])]


def _draw(
    graph: Mapping[str, Any], counts: Callable[[object], bool], rng: random.Random | None
) -> dict[str, int]:
    drawn: dict[str, int] = {}
    found = _seeds(graph, counts)
    if not found:
        return drawn
    # Not from the module random, which a script may seed for its own purposes.
    source = random.SystemRandom() if rng is None else rng
    for node_id, name, _ in found:
        is_wide = class_of(graph, node_id) in _WIDE
        drawn[node_id] = source.randrange(_WIDE_SEED_LIMIT if is_wide else _SEED_LIMIT)
        graph[node_id]["inputs"][name] = drawn[node_id]
    return drawn
