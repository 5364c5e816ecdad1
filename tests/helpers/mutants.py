"""Breaks workflows in every way that a server, or a check before it, can be asked about."""

from __future__ import annotations

import copy
import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from comfy_client.workflow.model_files import folder_of, is_file_name

Graph = dict[str, Any]
Definitions = Mapping[str, Any]
#: Where a workflow was broken: node id and input; ``None``: not at one input.
Place = tuple[str, str | None]

#: A file that every server of the tests has, for inputs whose choices only a browser asks for.
A_FILE = "testbed.png [input]"

_NUMBERS = ("INT", "FLOAT")
_SCALARS = (*_NUMBERS, "STRING", "BOOLEAN", "COMBO")


@attrs.frozen
class Mutant:
    """A workflow with one fault.

    Attributes:
        kind: How it was broken: the name of a function of this module.
        graph: The workflow.
        place: Where it was broken.
    """

    kind: str
    graph: Graph
    place: Place


class Breaker:
    """One workflow, and what can be broken in it."""

    def __init__(self, rng: random.Random, graph: Graph, definitions: Definitions) -> None:
        self.rng = rng
        self.graph = copy.deepcopy(graph)
        self.definitions = definitions
        self.needed = needed_for_outputs(self.graph, definitions)

    def specs(self, node_id: str) -> dict[str, Any]:
        """The declared inputs of a node: ``[type, options]`` by name."""
        return specs_of(self.graph[node_id]["class_type"], self.definitions)

    def required(self, node_id: str) -> Mapping[str, Any]:
        groups: Mapping[str, Any] = self.definitions[self.graph[node_id]["class_type"]]["input"]
        return dict(groups.get("required", {}))

    def outputs(self, node_id: str) -> list[Any]:
        outputs: list[Any] = self.definitions[self.graph[node_id]["class_type"]]["output"]
        return outputs

    def inputs(self, *kinds: str, linked: bool) -> list[tuple[str, str]]:
        """Inputs that are given, of these types; in nodes that run."""
        return [
            (node_id, name)
            for node_id in sorted(self.needed)
            for name, spec in self.specs(node_id).items()
            if name in self.graph[node_id]["inputs"]
            and (not kinds or kind_of(spec) in kinds)
            and is_link(self.graph[node_id]["inputs"][name]) is linked
        ]

    def pick(self, places: list[tuple[str, str]]) -> tuple[str, str]:
        """One of them; ``LookupError``: there is none."""
        if not places:
            raise LookupError
        return self.rng.choice(places)

    def set(self, place: tuple[str, str], value: Any) -> Place:
        self.graph[place[0]]["inputs"][place[1]] = value
        return place

    def spec(self, place: tuple[str, str]) -> Any:
        return self.specs(place[0])[place[1]]

    def options(self, place: tuple[str, str]) -> Mapping[str, Any]:
        spec = self.spec(place)
        options: Mapping[str, Any] = spec[1] if len(spec) > 1 else {}
        return options

    def node(self) -> str:
        return self.rng.choice(sorted(self.needed))


def specs_of(class_type: str, definitions: Definitions) -> dict[str, Any]:
    groups = definitions[class_type]["input"]
    return {**groups.get("optional", {}), **groups.get("required", {})}


def kind_of(spec: Any) -> str:
    return spec[0] if isinstance(spec[0], str) else "COMBO"


def is_link(value: Any) -> bool:
    return isinstance(value, list)


def needed_for_outputs(graph: Graph, definitions: Definitions) -> set[str]:
    """The nodes that run."""
    found: set[str] = set()
    todo = [n for n, node in graph.items() if definitions[node["class_type"]]["output_node"]]
    while todo:
        node_id = todo.pop()
        if node_id in graph and node_id not in found:
            found.add(node_id)
            links = filter(is_link, graph[node_id]["inputs"].values())
            todo += [link[0] for link in links if link and isinstance(link[0], str)]
    return found


def add_files(graphs: Iterable[Graph], definitions: Definitions, root: Path) -> None:
    """Give a server an empty file for each that workflows name: models, pictures, videos."""
    for graph in graphs:
        for node in graph.values():
            for name, spec in specs_of(node["class_type"], definitions).items():
                value = node["inputs"].get(name)
                folder = folder_of(node["class_type"], name)
                if not isinstance(value, str) or not is_file_name(value):
                    continue
                if any(option.endswith("_upload") for option in (spec[1:] or [{}])[0]):
                    file = root / "input" / value
                elif folder:
                    file = root / "models" / folder / value
                else:
                    continue
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()


def fitted(graph: Graph, definitions: Definitions) -> Graph:
    """A workflow whose other choices are some that the server has, where it has any."""
    made = copy.deepcopy(graph)
    for node in made.values():
        for name, spec in specs_of(node["class_type"], definitions).items():
            choices = spec[0] if isinstance(spec[0], list) else None
            given = node["inputs"].get(name)
            if "remote" in (spec[1:] or [{}])[0]:
                node["inputs"][name] = A_FILE
            if choices and not is_link(given) and name in node["inputs"] and given not in choices:
                node["inputs"][name] = choices[0]
    return made


def in_other_orders(graph: Graph, definitions: Definitions) -> Iterator[Graph]:
    """The graph with its outputs in other orders, 24 at most."""
    classes = {n: node.get("class_type") for n, node in graph.items() if isinstance(node, dict)}
    outputs = [n for n, name in classes.items() if is_output(name, definitions)]
    for order in itertools.islice(itertools.permutations(outputs), 24):
        yield {**{node_id: graph[node_id] for node_id in order}, **graph}


def is_output(class_type: object, definitions: Definitions) -> bool:
    definition = definitions.get(class_type, {}) if isinstance(class_type, str) else {}
    return bool(definition.get("output_node"))


# -- the ways -----------------------------------------------------------------------------


def dropped_value(it: Breaker) -> Place:
    places = [p for p in it.inputs(*_SCALARS, linked=False) if p[1] in it.required(p[0])]
    node_id, name = it.pick(places)
    del it.graph[node_id]["inputs"][name]
    return node_id, name


def dropped_link(it: Breaker) -> Place:
    places = [p for p in it.inputs(linked=True) if p[1] in it.required(p[0])]
    node_id, name = it.pick(places)
    del it.graph[node_id]["inputs"][name]
    return node_id, name


def bad_choice(it: Breaker) -> Place:
    value = it.rng.choice(["eular", "", "no such", 7, None, True, {}])
    return it.set(it.pick(it.inputs("COMBO", linked=False)), value)


def missing_file(it: Breaker) -> Place:
    files = [
        place
        for place in it.inputs("COMBO", linked=False)
        if "." in str(it.graph[place[0]]["inputs"][place[1]])
    ]
    name = it.rng.choice(["no_such.safetensors", "sub/no_such.ckpt", "no_such.png"])
    return it.set(it.pick(files), name)


def too_small(it: Breaker) -> Place:
    place = it.pick([p for p in it.inputs(*_NUMBERS, linked=False) if "min" in it.options(p)])
    low = it.options(place)["min"]
    return it.set(place, it.rng.choice([low - 1, low - 10**6, str(int(low) - 2)]))


def too_big(it: Breaker) -> Place:
    place = it.pick([p for p in it.inputs(*_NUMBERS, linked=False) if "max" in it.options(p)])
    high = it.options(place)["max"]
    return it.set(place, it.rng.choice([high + 1, high + 10**6, 10**30, str(int(high) + 2)]))


def wrong_type(it: Breaker) -> Place:
    value = it.rng.choice(["abc", "", None, {}, {"a": 1}, "1.5", {"__value__": [1, 2]}])
    return it.set(it.pick(it.inputs(*_NUMBERS, linked=False)), value)


def odd_but_right(it: Breaker) -> Place:
    """What servers convert."""
    place = it.pick(it.inputs(*_NUMBERS, "STRING", "BOOLEAN", linked=False))
    value = it.graph[place[0]]["inputs"][place[1]]
    return it.set(place, it.rng.choice([f" {value} ", {"__value__": value}, value]))


def not_finite(it: Breaker) -> Place:
    value = it.rng.choice([math.nan, math.inf, -math.inf])
    return it.set(it.pick(it.inputs(*_NUMBERS, linked=False)), value)


def link_to_no_node(it: Breaker) -> Place:
    source = it.rng.choice(["999", "", "12:7"])
    return it.set(it.pick(it.inputs(linked=True)), [source, 0])


def no_such_slot(it: Breaker) -> Place:
    place = it.pick(it.inputs(linked=True))
    source = it.graph[place[0]]["inputs"][place[1]][0]
    slots = len(it.outputs(source))
    return it.set(place, [source, it.rng.choice([slots, slots + 7, -slots - 1])])


def odd_slot(it: Breaker) -> Place:
    place = it.pick(it.inputs(linked=True))
    source = it.graph[place[0]]["inputs"][place[1]][0]
    return it.set(place, [source, it.rng.choice(["0", 0.0, 1.5, True, None, -1])])


def odd_source(it: Breaker) -> Place:
    place = it.pick(it.inputs(linked=True))
    return it.set(place, [it.rng.choice([None, 999, 1.5, [], {}]), 0])


def wrong_length(it: Breaker) -> Place:
    place = it.pick(it.inputs(linked=True))
    link = it.graph[place[0]]["inputs"][place[1]]
    return it.set(place, it.rng.choice([[*link, 0], link[:1], []]))


def link_of_wrong_type(it: Breaker) -> Place:
    place = it.pick(it.inputs(linked=True))
    wanted = it.spec(place)[0]
    others = [
        [node_id, slot]
        for node_id in it.graph
        for slot, kind in enumerate(it.outputs(node_id))
        if kind != wanted and "*" not in (kind, wanted)
    ]
    if not others:
        raise LookupError
    return it.set(place, it.rng.choice(others))


def link_for_value(it: Breaker) -> Place:
    place = it.pick(it.inputs(*_SCALARS, linked=False))
    givers = [[n, slot] for n in it.graph for slot in range(len(it.outputs(n))) if n != place[0]]
    if not givers:
        raise LookupError
    return it.set(place, it.rng.choice(givers))


def value_for_link(it: Breaker) -> Place:
    """Servers take any value in place of a link, and fail when it runs."""
    return it.set(it.pick(it.inputs(linked=True)), it.rng.choice([5, "model", None, {}]))


def circle(it: Breaker) -> Place:
    """A link back to a node that waits for this one, of the type that is wanted."""
    ways = []
    for node_id, name in it.inputs(linked=True):
        below = downstream(it.graph, node_id)
        for other in sorted(below):
            slots = [s for s, k in enumerate(it.outputs(other)) if k == it.spec((node_id, name))[0]]
            ways += [((node_id, name), [other, slot]) for slot in slots]
    if not ways:
        raise LookupError
    place, link = it.rng.choice(ways)
    return it.set(place, link)


def downstream(graph: Graph, node_id: str) -> set[str]:
    found = {node_id}
    while True:
        more = {
            other
            for other, node in graph.items()
            for value in node["inputs"].values()
            if is_link(value) and value and value[0] in found
        }
        if more <= found:
            return found
        found |= more


def unknown_class(it: Breaker) -> Place:
    node_id = it.node()
    name = it.graph[node_id]["class_type"]
    it.graph[node_id]["class_type"] = it.rng.choice([f"{name}x", name[:-1], "NoSuchNode", ""])
    return node_id, None


def two_unknown_classes(it: Breaker) -> Place:
    node_id, other = it.node(), it.node()
    it.graph[other]["class_type"] = "NoSuchNode"
    it.graph[node_id]["class_type"] = "NoSuchNodeEither"
    return node_id, None


def no_class(it: Breaker) -> Place:
    node_id = it.node()
    del it.graph[node_id]["class_type"]
    return node_id, None


def odd_class(it: Breaker) -> Place:
    node_id = it.node()
    it.graph[node_id]["class_type"] = it.rng.choice([None, 5, [], {}])
    return node_id, None


def no_inputs(it: Breaker) -> Place:
    node_id = it.node()
    it.graph[node_id]["inputs"] = it.rng.choice([None, [], "images", 5])
    if it.rng.random() < 0.3:
        del it.graph[node_id]["inputs"]
    return node_id, None


def no_node(it: Breaker) -> Place:
    node_id = it.node()
    it.graph[node_id] = it.rng.choice([None, 5, "text", []])
    return node_id, None


def node_removed(it: Breaker) -> Place:
    used = [it.graph[n]["inputs"][name][0] for n, name in it.inputs(linked=True)]
    if not used:
        raise LookupError
    gone = it.rng.choice(used)
    del it.graph[gone]
    users = [
        (node_id, name)
        for node_id, node in it.graph.items()
        for name, value in node["inputs"].items()
        if is_link(value) and value[0] == gone
    ]
    return users[0]


def no_outputs(it: Breaker) -> Place:
    for node_id in [*it.graph]:
        if it.definitions[it.graph[node_id]["class_type"]]["output_node"]:
            del it.graph[node_id]
    if not it.graph:
        raise LookupError
    return next(iter(it.graph)), None


def unknown_input(it: Breaker) -> Place:
    node_id = it.node()
    it.graph[node_id]["inputs"]["speed"] = it.rng.choice([1, None, "fast", ["999", 0]])
    return node_id, "speed"


def one_good_output(it: Breaker) -> Place:
    """A second output that is right, so that the server runs it and drops the other."""
    it.graph["good"] = {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0},
    }
    it.graph["save"] = {"class_type": "PreviewImage", "inputs": {"images": ["good", 0]}}
    return it.rng.choice([dropped_link, too_big, link_to_no_node, link_of_wrong_type])(it)


def fault_beside_the_way(it: Breaker) -> Place:
    """In a node that does not run, which the server does not look at."""
    it.graph["idle"] = {"class_type": "EmptyImage", "inputs": {"width": -1, "height": ["999", 0]}}
    return "idle", None


#: Breaks a workflow, and says where.
Way = Callable[[Breaker], Place]
WAYS: tuple[Way, ...] = (
    *(dropped_value, dropped_link, bad_choice, missing_file, too_small, too_big, wrong_type),
    *(odd_but_right, not_finite, link_to_no_node, no_such_slot, odd_slot, odd_source),
    *(wrong_length, link_of_wrong_type, link_for_value, value_for_link, circle, unknown_class),
    *(two_unknown_classes, no_class, odd_class, no_inputs, no_node, node_removed, no_outputs),
    *(unknown_input, one_good_output, fault_beside_the_way),
)


def mutants(
    rng: random.Random,
    graphs: list[Graph],
    definitions: Definitions,
    each: int,
    ways: Iterable[Way] = WAYS,
) -> Iterator[Mutant]:
    """So many workflows of each kind."""
    for way in ways:
        made = 0
        while made < each:
            it = Breaker(rng, rng.choice(graphs), definitions)
            try:
                place = way(it)
            except LookupError:
                continue  # nothing of that kind in this one
            items = list(it.graph.items())
            rng.shuffle(items)
            yield Mutant(way.__name__, dict(items), place)
            made += 1
