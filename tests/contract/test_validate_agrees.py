"""validate() against a real server: random graphs, valid and wrong in every way.

A real server looks at inputs and outputs in the random order of Python's sets, and its
answer can depend on it: a bad link hides what would have been found after it.  The order of
inputs it tells by the order of its errors for a node without any; of outputs all are tried.

In a circle the real server goes round until Python's stack is full, and nodes beside the circle
that it first reaches down there are blamed with a RecursionError, or not, as the stack has it.
validate() does not play that; in such an answer only the nodes that it left in peace are compared.
"""

from __future__ import annotations

import copy
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import comfy_client
from comfy_client.workflow.graph import links_of
from comfy_client.workflow.validate import ServerVersion, ValidationResult, validate
from tests.comfyui import ComfyUI
from tests.helpers.prose import without_prose
from tests.helpers.real_validation import Real, validating

pytestmark = pytest.mark.real

GRAPHS = 300
SEED = 20260406

SHIPPED = Path(comfy_client.__file__).with_name("testing") / "definitions.json"
FILE_INPUTS = [("LoadImage", "image"), ("LoadImageMask", "image")]
FILE_INPUTS += [("CheckpointLoaderSimple", "ckpt_name")]
VERSIONS: list[ServerVersion] = ["2024-03", "0.3.75"]  # real ones that validate() knows
VALUES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
ODD_VALUES: list[Any] = [
    *(None, True, False, "", "abc", "12", " 7 ", "1.5", "1e3", "nan", -1, 0, 3, 2.5, 10**30),
    *(-(10**19), 1e308, float("nan"), float("inf"), {}, {"a": 1}, {"__value__": [1, 2]}),
    *({"__value__": "5"}, {"__value__": None}, {"__value__": "euler"}, [], [1], ["1", 0, 0]),
    *([[], 0], [None, 0], [{}, 0], "testbed.png", "testbed.png [input]", "no.png [temp]"),
]
ODD_SLOTS: list[Any] = [1, 2, 7, -1, -9, "0", 0.0, 1.5, True, None]
ODD_TARGETS: list[Any] = [[], None, ["nope"], "12", {}, {"1": 1}, 5, [1]]


# -- the generator ----------------------------------------------------------------------


class Maker:
    """Makes a graph that is valid, and spoils it."""

    def __init__(self, rng: random.Random, definitions: dict[str, Any]) -> None:
        self.rng = rng
        self.definitions = definitions
        self.sinks = [name for name, each in definitions.items() if each["output_node"]]
        self.graph: dict[str, Any] = {}

    def make(self) -> dict[str, Any]:
        """A request for ``POST /prompt``."""
        for _ in range(self.rng.choice([1, 1, 1, 2, 2, 3])):
            self.add(self.rng.choice(self.sinks), 0)
        for _ in range(self.rng.choice([0, 1, 1, 1, 2, 2, 3, 5])):
            self.rng.choice(SPOILERS)(self)
        items = list(self.graph.items())
        self.rng.shuffle(items)
        request: dict[str, Any] = {"prompt": dict(items)}
        if self.rng.random() < 0.2:
            some = self.rng.sample(sorted(self.graph), min(2, len(self.graph)))
            request["partial_execution_targets"] = self.rng.choice([some, some, *ODD_TARGETS])
        return request

    def add(self, class_type: str, depth: int) -> str:
        node_id = str(len(self.graph) + 1)
        node: dict[str, Any] = {"class_type": class_type, "inputs": {}}
        self.graph[node_id] = node
        for name, spec in self.definitions[class_type]["input"]["required"].items():
            node["inputs"][name] = self.value(spec, depth)
        if self.rng.random() < 0.3:
            node["_meta"] = {"title": f"Node {node_id}"}
        return node_id

    def value(self, spec: list[Any], depth: int) -> Any:
        kind, options = spec[0], spec[1] if len(spec) > 1 else {}
        if isinstance(kind, list):
            return self.rng.choice(kind)
        if kind == "COMBO":
            return self.rng.choice(options["options"])
        if kind == "STRING":
            return self.rng.choice(["", "a lighthouse", "x/y", 5, 2.5, None])
        if kind == "BOOLEAN":
            return self.rng.choice([True, False, 0, "no"])
        if kind in ("INT", "FLOAT"):
            low, high = max(options["min"], -100), min(options["max"], 100)
            number = self.rng.uniform(low, high) if kind == "FLOAT" else self.rng.randint(low, high)
            return self.rng.choice([number, number, number, str(number), {"__value__": number}])
        return self.link(kind, depth)

    def link(self, kind: str, depth: int) -> list[Any]:
        places = [
            (class_type, slot)
            for class_type, each in self.definitions.items()
            for slot, output in enumerate(each["output"])
            if kind in ("*", output)
        ]
        there = [
            [node_id, slot]
            for node_id, node in self.graph.items()
            for class_type, slot in places
            if node["class_type"] == class_type and int(node_id) > depth
        ]
        if there and self.rng.random() < 0.3:
            # Now and then a node that waits for this one: a circle without a spoiler.
            return self.rng.choice(there)
        if depth > 3:
            # Deep enough: take one that ends soon.
            leaves = [p for p in places if not self.linked_inputs(p[0])]
            places = leaves or places
        class_type, slot = self.rng.choice(places)
        return [self.add(class_type, depth + 1), slot]

    def linked_inputs(self, class_type: str) -> list[str]:
        required = self.definitions[class_type]["input"]["required"]
        return [n for n, s in required.items() if isinstance(s[0], str) and s[0] not in VALUES]

    def pick(self, *kinds: str) -> tuple[dict[str, Any], str]:
        """The inputs of some node, and the name of one: of a kind (``LINK``, ``COMBO``, ...)."""
        found = [
            (node["inputs"], name)
            for node in self.graph.values()
            if isinstance(node, dict) and isinstance(node.get("inputs"), dict)
            for name in node["inputs"]
            if not kinds or self.kind(node, name) in kinds
        ]
        return self.rng.choice(found or [({}, "nothing")])

    def kind(self, node: dict[str, Any], name: str) -> str:
        if isinstance(node["inputs"][name], list):
            return "LINK"
        definition = self.definitions.get(str(node.get("class_type")), {"input": {"required": {}}})
        kind = definition["input"]["required"].get(name, [None])[0]
        return kind if isinstance(kind, str) else "COMBO" if kind else "UNKNOWN"

    def node(self) -> dict[str, Any]:
        found = [node for node in self.graph.values() if isinstance(node, dict)]
        return self.rng.choice(found or [{}])


def forget_input(maker: Maker) -> None:
    inputs, name = maker.pick()
    inputs.pop(name, None)


def odd_value(maker: Maker) -> None:
    inputs, name = maker.pick(*maker.rng.choice([(), VALUES]))
    inputs[name] = copy.deepcopy(maker.rng.choice(ODD_VALUES))


def out_of_range(maker: Maker) -> None:
    inputs, name = maker.pick("INT", "FLOAT")
    inputs[name] = maker.rng.choice([-1, 0, -(10**9), 10**9, 10**20, -0.5, 100.5, "-3"])


def bad_choice(maker: Maker) -> None:
    inputs, name = maker.pick("COMBO")
    inputs[name] = maker.rng.choice(["eular", "Nearest", "no_such.png", "testbed.png"])


def nowhere(maker: Maker) -> None:
    inputs, name = maker.pick("LINK")
    inputs[name] = [maker.rng.choice(["99", "", 1, 99, None]), 0]


def odd_slot(maker: Maker) -> None:
    inputs, name = maker.pick("LINK")
    if inputs and inputs[name]:
        inputs[name] = [inputs[name][0], maker.rng.choice(ODD_SLOTS)]


def elsewhere(maker: Maker) -> None:
    """Another node: of the wrong type, or downstream, which makes a circle."""
    inputs, name = maker.pick(*maker.rng.choice([("LINK",), ("LINK",), VALUES]))
    if inputs:
        inputs[name] = [maker.rng.choice(list(maker.graph)), 0]


def same_type_elsewhere(maker: Maker) -> None:
    """A circle, often: the first node of the graph that gives an image."""
    inputs, name = maker.pick("LINK")
    images = [n for n, node in maker.graph.items() if gives_image(maker, node)]
    if images and inputs:
        inputs[name] = [maker.rng.choice(images), 0]


def gives_image(maker: Maker, node: Any) -> bool:
    class_type = node.get("class_type") if isinstance(node, dict) else None
    outputs: list[Any] = maker.definitions.get(str(class_type), {}).get("output", [])
    return outputs[:1] == ["IMAGE"]


def wrong_length(maker: Maker) -> None:
    inputs, name = maker.pick("LINK")
    if inputs:
        inputs[name] = [*inputs[name], 0] if maker.rng.random() < 0.5 else inputs[name][:1]


def unknown_input(maker: Maker) -> None:
    maker.node().setdefault("inputs", {})
    inputs, _ = maker.pick()
    inputs["speed"] = maker.rng.choice([1, ["99", 0], None])


def rare(maker: Maker) -> None:
    """What hides everything else, so not too often."""
    if maker.rng.random() < 0.5:
        maker.rng.choice(RARE)(maker)


def unknown_class(maker: Maker) -> None:
    maker.node()["class_type"] = maker.rng.choice(["NoSuchNode", "", None, 5])


def no_class(maker: Maker) -> None:
    maker.node().pop("class_type", None)


def no_inputs(maker: Maker) -> None:
    maker.node().pop("inputs", None)


def odd_inputs(maker: Maker) -> None:
    maker.node()["inputs"] = maker.rng.choice([None, [], ["image"], "images", 5, {}])


def odd_node(maker: Maker) -> None:
    key = maker.rng.choice(list(maker.graph))
    maker.graph[key] = maker.rng.choice([None, 5, "class_type", [], ["class_type"], "text"])


def unhashable_class(maker: Maker) -> None:
    maker.node()["class_type"] = maker.rng.choice([[], {}])


def remove_node(maker: Maker) -> None:
    if len(maker.graph) > 1:
        maker.graph.pop(maker.rng.choice(list(maker.graph)))


def no_sinks(maker: Maker) -> None:
    for node in maker.graph.values():
        if isinstance(node, dict) and node.get("class_type") in maker.sinks:
            node["class_type"] = "ImageInvert"


COMMON: list[Callable[[Maker], None]] = [
    *(forget_input, odd_value, odd_value, out_of_range, bad_choice, nowhere, odd_slot),
    *(elsewhere, same_type_elsewhere, wrong_length, unknown_input),
]
RARE: list[Callable[[Maker], None]] = [
    *(unknown_class, no_class, no_inputs, no_inputs, odd_inputs, odd_inputs, odd_node),
    *(unhashable_class, remove_node, remove_node, no_sinks),
]
SPOILERS = [*COMMON, *COMMON, rare, rare, rare]


@pytest.fixture(scope="module")
def real(any_comfyui: ComfyUI) -> Iterator[Real]:
    with validating(any_comfyui) as server:
        yield server


# -- the comparison ---------------------------------------------------------------------


def normal(status: int, body: Any, graph: Any, outputs: list[str]) -> str:
    """An answer and what was queued as text, without ids, tracebacks, and the order of sets."""
    if status == 500:
        return "500"
    body = copy.deepcopy(body)
    body.pop("prompt_id", None)
    body.pop("number", None)
    if isinstance(body.get("error"), dict):
        body["error"]["details"] = sorted(body["error"]["details"].split("\n"))
    if isinstance(body["node_errors"], dict):
        for entry in body["node_errors"].values():
            entry["dependent_outputs"].sort()
            for error in entry["errors"]:
                error["extra_info"].pop("traceback", None)
            entry["errors"].sort(key=lambda error: json.dumps(error, sort_keys=True))
    return json.dumps([status, body, graph, sorted(outputs)], sort_keys=True)


def said(result: ValidationResult) -> str:
    body: dict[str, Any] = {"node_errors": result.node_errors}
    if result.ok:
        return normal(result.status, body, result.graph, result.outputs_to_execute)
    return normal(result.status, {**body, "error": result.error}, None, [])


def orders(graph: Any, definitions: dict[str, Any]) -> Iterator[Any]:
    """The graph as it is, then with its outputs in every order."""
    yield graph
    outputs = [
        node_id
        for node_id, node in graph.items()
        if definitions.get(node["class_type"], {}).get("output_node")
    ]
    for order in itertools.permutations(outputs):
        yield {**{node_id: graph[node_id] for node_id in order}, **graph}


def out_of_stack(body: Any) -> set[str]:
    """Nodes that the server blames with a RecursionError."""
    node_errors = body["node_errors"] or {}  # an old server has lists
    return {
        node_id
        for node_id, entry in node_errors.items()
        for error in entry["errors"]
        if error["extra_info"].get("exception_type") == "RecursionError"
    }


def upstream(graph: dict[str, Any], nodes: set[str]) -> set[str]:
    """These nodes, and all that they take from."""
    found: set[str] = set()
    todo = list(nodes)
    while todo:
        node_id = todo.pop()
        if node_id in graph and node_id not in found:
            found.add(node_id)
            todo += [source for _, source, _ in links_of(graph, node_id)]
    return found


def blamed_elsewhere(node_errors: Any, apart_from: set[str]) -> str:
    """What is wrong with the other nodes."""
    found = {
        node_id: sorted(error["details"] for error in entry["errors"])
        for node_id, entry in node_errors.items()
        if node_id not in apart_from
    }
    return json.dumps(found, sort_keys=True)


def agreeing(
    real: Real,
    request: dict[str, Any],
    answer: tuple[int, Any, Any, list[str]],
    definitions: dict[str, Any],
) -> tuple[ValidationResult, int | None]:
    """The result that says what the server said, and the number of other orders tried.

    None in place of the number: only compared as far as the server's stack was large enough.
    """
    checks = real.checks()
    graph, targets = request["prompt"], request.get("partial_execution_targets")
    status, body = answer[:2]
    lost = upstream(graph, out_of_stack(body)) if status != 500 else set()
    theirs = blamed_elsewhere(body["node_errors"], lost) if lost else normal(*answer)
    first = None
    for tried, mixed in enumerate(orders(graph, definitions)):
        result = validate(
            mixed, definitions, targets=targets, extra_checks=checks, version=real.version
        )
        first = first or result
        if lost and blamed_elsewhere(result.node_errors, lost) == theirs:
            return result, None
        if not lost and said(result) == theirs:
            return result, tried
        if result.status == 500 or is_refused_unseen(result):
            break  # found before any node was looked at: in the order of the graph
    assert first is not None
    text = json.dumps(request)
    raise AssertionError(f"POST /prompt {text}\n real: {theirs}\n ours: {said(first)}")


def is_refused_unseen(result: ValidationResult) -> bool:
    kind = result.error["type"] if isinstance(result.error, dict) else ""
    return kind in ("invalid_prompt", "prompt_no_outputs")


@pytest.mark.parametrize("any_comfyui", ["0.3.75"], indirect=True)
def test_shipped_definitions_are_those_of_the_real_server(real: Real) -> None:
    """They are the same but for names of files, tooltips and descriptions, which are left out."""
    shipped = json.loads(SHIPPED.read_text(encoding="utf-8"))
    for class_type, name in FILE_INPUTS:
        there = real.definitions[class_type]["input"]["required"][name]
        assert there[0]
        assert shipped[class_type]["input"]["required"][name][0] == []
        shipped[class_type]["input"]["required"][name][0] = there[0]
    assert shipped == without_prose({name: real.definitions[name] for name in shipped})


@pytest.mark.parametrize("any_comfyui", VERSIONS, indirect=True)
def test_agrees_with_the_real_server_on_random_graphs(real: Real) -> None:
    """Status, error, node errors, and what is queued are the same for every graph."""
    shipped = json.loads(SHIPPED.read_text(encoding="utf-8"))
    definitions = {name: real.definitions[name] for name in shipped if name in real.definitions}
    ordered = real.in_its_order(definitions)
    rng = random.Random(SEED)
    statuses: Counter[Any] = Counter()
    kinds: Counter[str] = Counter()
    for _ in range(GRAPHS):
        request = Maker(rng, definitions).make()
        answer = real.prompt(request)
        status, body = answer[:2]
        _, tried = agreeing(real, request, answer, ordered)
        statuses[status] += 1
        statuses["any order" if tried == 0 else "some order" if tried else "in part"] += 1
        if status == 200:
            statuses["partial"] += bool(body["node_errors"])
        elif status == 400:
            kinds[body["error"]["type"]] += 1
        if status != 500 and body["node_errors"]:
            kinds.update(e["type"] for n in body["node_errors"].values() for e in n["errors"])
    assert kinds.keys() | {"invalid_prompt"} == {  # which the old server does not have
        *("invalid_prompt", "prompt_no_outputs", "prompt_outputs_failed_validation"),
        *("required_input_missing", "bad_linked_input", "return_type_mismatch"),
        *("invalid_input_type", "value_smaller_than_min", "value_bigger_than_max"),
        *("value_not_in_list", "custom_validation_failed", "exception_during_validation"),
        "exception_during_inner_validation",
    }, kinds
    assert min(statuses[200], statuses["partial"], statuses[500]) >= 5, statuses
    assert statuses["in part"] <= GRAPHS // 5, statuses
