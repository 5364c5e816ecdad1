"""Mutants of whole workflows of 2026: dotted names, selectors, old classes, targets, circles.

Unlike :mod:`tests.helpers.mutants`, they need not be wrong, and are made without definitions.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

Graph = dict[str, Any]
#: A node id and the name of one of its inputs.
Place = tuple[str, str]

_VALUES: Final = ("", "nonsense", -1, 10**12, 3.7, True, None)
_CLASSES: Final = (
    "KSamplr",
    "SaveImage",
    "PreviewImage",
    "VAEDecode",
    "ImageScaleBy",
    "PreviewAny",
)
_OLD: Final = (
    *("ImageBatch", "ResizeImagesByShorterEdge", "ImageScaleBy", "T2IAdapterLoader"),
    *("ConditioningAverage ", "LatentUpscale", "Load3DAnimation"),
)


@attrs.frozen
class Mutant:
    """A workflow that was changed in one place.

    Attributes:
        kind: The way in which it was changed.
        graph: The workflow.
        targets: ``partial_execution_targets`` of its request; ``None``: none.
    """

    kind: str
    graph: Graph
    targets: list[str] | None = None


def changed(rng: random.Random, graph: Graph) -> Mutant:
    """Change a workflow in one place."""
    kind = rng.choice(sorted(_WAYS))
    made = copy.deepcopy(graph)
    targets = _WAYS[kind](rng, made)
    return Mutant(kind, made, targets)


def request(one: Mutant) -> dict[str, Any]:
    """The body of ``POST /prompt``."""
    targets = {} if one.targets is None else {"partial_execution_targets": one.targets}
    return {"prompt": one.graph, "client_id": "mutants", **targets}


def _place(rng: random.Random, graph: Graph) -> Place:
    node_id = rng.choice([*graph])
    return node_id, rng.choice([*graph[node_id]["inputs"]] or ["x"])


def _places(graph: Graph, wanted: Callable[[str, str, Any], bool]) -> list[Place]:
    return [
        (node_id, name)
        for node_id, node in graph.items()
        for name, value in node["inputs"].items()
        if wanted(node_id, name, value)
    ]


def _dotted(rng: random.Random, graph: Graph) -> Place:
    """An input of a dynamic combo or an autogrow input, if there is one."""
    found = _places(graph, lambda node_id, name, value: "." in name)
    return rng.choice(found) if found else _place(rng, graph)


def _selector(rng: random.Random, graph: Graph) -> Place:
    """A dynamic combo, if there is one."""

    def is_one(node_id: str, name: str, value: Any) -> bool:
        return any(other.startswith(f"{name}.") for other in graph[node_id]["inputs"])

    found = _places(graph, is_one)
    return rng.choice(found) if found else _place(rng, graph)


def _set(graph: Graph, place: Place, value: Any) -> None:
    graph[place[0]]["inputs"][place[1]] = value


def _drop(graph: Graph, place: Place) -> None:
    graph[place[0]]["inputs"].pop(place[1], None)


def _link(rng: random.Random, graph: Graph) -> list[Any]:
    return [rng.choice([*graph, "999"]), rng.choice([0, 1, 7])]


def _extra(rng: random.Random, graph: Graph) -> None:
    node_id, name = _place(rng, graph)
    more = rng.choice(["zzz", f"{name}.zzz", f"{name}0"])
    _set(graph, (node_id, more), rng.choice([1, [node_id, 0], "a"]))


def _grow(rng: random.Random, graph: Graph) -> None:
    node_id, name = _dotted(rng, graph)
    other = name.rstrip("0123456789") + str(rng.choice([0, 1, 2, 5, 50, 200]))
    _set(graph, (node_id, other), graph[node_id]["inputs"].get(name))


def _swap(rng: random.Random, graph: Graph) -> None:
    links = _places(graph, lambda node_id, name, value: isinstance(value, list))
    if len(links) > 1:
        (a, b), (c, d) = rng.sample(links, 2)
        one, other = graph[a]["inputs"], graph[c]["inputs"]
        one[b], other[d] = other[d], one[b]


def _wrap(rng: random.Random, graph: Graph) -> None:
    node_id, name = _place(rng, graph)
    _set(graph, (node_id, name), {"__value__": graph[node_id]["inputs"].get(name)})


def _class(rng: random.Random, graph: Graph, names: tuple[str, ...]) -> None:
    graph[rng.choice([*graph])]["class_type"] = rng.choice(names)


def _circle(rng: random.Random, graph: Graph) -> None:
    node_id, name = _place(rng, graph)
    _set(graph, (node_id, name), [node_id, 0])


def _empty(rng: random.Random, graph: Graph) -> None:
    graph[rng.choice([*graph])]["inputs"] = {}


def _targets(rng: random.Random, graph: Graph) -> list[str]:
    return rng.sample([*graph], min(len(graph), rng.choice([1, 2])))


_NUMBERS: Final = (0, -5, 99999999, 1e9, 0.001)
_ODD: Final[tuple[Any, ...]] = ([1], {"a": 1}, "5", 5, "1e3", " 7 ")
#: Changes a workflow, and gives its targets.
_WAYS: Final[Mapping[str, Callable[[random.Random, Graph], Any]]] = {
    "drop": lambda rng, graph: _drop(graph, _place(rng, graph)),
    "value": lambda rng, graph: _set(graph, _place(rng, graph), rng.choice(_VALUES)),
    "link": lambda rng, graph: _set(graph, _place(rng, graph), _link(rng, graph)),
    "class": lambda rng, graph: _class(rng, graph, _CLASSES),
    "odd": lambda rng, graph: _set(graph, _place(rng, graph), rng.choice(_ODD)),
    "range": lambda rng, graph: _set(graph, _place(rng, graph), rng.choice(_NUMBERS)),
    "null": lambda rng, graph: _set(graph, _place(rng, graph), None),
    "drop dotted": lambda rng, graph: _drop(graph, _dotted(rng, graph)),
    "dotted": lambda rng, graph: _set(graph, _dotted(rng, graph), rng.choice(_VALUES)),
    "link dotted": lambda rng, graph: _set(graph, _dotted(rng, graph), _link(rng, graph)),
    "drop selector": lambda rng, graph: _drop(graph, _selector(rng, graph)),
    "selector": lambda rng, graph: _set(graph, _selector(rng, graph), rng.choice(_VALUES)),
    "link selector": lambda rng, graph: _set(graph, _selector(rng, graph), _link(rng, graph)),
    "old class": lambda rng, graph: _class(rng, graph, _OLD),
    "extra": _extra,
    "grow": _grow,
    "swap": _swap,
    "wrap": _wrap,
    "circle": _circle,
    "empty": _empty,
    "targets": _targets,
}
