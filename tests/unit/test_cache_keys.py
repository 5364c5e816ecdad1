"""Cache keys of the embedded server: equal for nodes whose whole ancestries are alike."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from comfy_client.testing.definitions import NodeSettings
from comfy_client.testing.folders import Folders
from comfy_client.testing.nodes import CacheKeys, DynamicPrompt, NodeRegistry
from comfy_client.testing.server_clock import ServerClock, ServerIds
from tests.helpers.graphs import node


@pytest.fixture
def nodes(tmp_path: Path) -> NodeRegistry:
    """With two classes, which never say that they have changed."""
    definition = {"input": {}, "output": ["*", "*"]}
    given = {"A": definition, "B": definition}
    settings = NodeSettings.of(False, 0.0, given, None, None, "known", None)
    return NodeRegistry(Folders(tmp_path, "0.3.75", ServerClock(), ServerIds()), settings, "0.3.75")


def keys_of(nodes: NodeRegistry, graph: dict[str, Any], order: list[str]) -> dict[str, str]:
    keys = CacheKeys(DynamicPrompt(graph), nodes, lambda node_id: False)
    return {node_id: keys.of(node_id) for node_id in order}


def drawn_as(graph: dict[str, Any], node_id: str) -> str:
    """A text that is the same for the same ancestry: its nodes, numbered as they are met."""
    numbers = {node_id: 0}
    lines = []
    for one in (ahead := [node_id]):
        inputs = []
        for name, value in sorted(graph[one]["inputs"].items()):
            if isinstance(value, list):
                if value[0] not in numbers:
                    numbers[value[0]] = len(numbers)
                    ahead.append(value[0])
                value = [numbers[value[0]], value[1]]
            inputs.append((name, value))
        lines.append((graph[one]["class_type"], inputs))
    return repr(lines)


def drawn_by_lot(lot: random.Random) -> dict[str, Any]:
    """Few classes and values, so that many ancestries are alike."""
    graph: dict[str, Any] = {}
    for n in range(lot.randint(1, 9)):
        inputs: dict[str, Any] = {}
        for name in "xyz"[: lot.randint(0, 3)]:
            is_link = n and lot.random() < 0.8
            source = [str(lot.randrange(max(0, n - 4), n)), lot.randint(0, 1)] if is_link else 0
            inputs[name] = source
        graph[str(n)] = node("B" if lot.random() < 0.1 else "A", **inputs)
    return graph


def test_keys_are_equal_if_and_only_if_ancestries_are_alike(nodes: NodeRegistry) -> None:
    """Whatever the order in which they are asked for."""
    equal = 0
    for seed in range(200):
        lot = random.Random(seed)
        found: list[tuple[str, str]] = []
        for _ in range(4):
            graph = drawn_by_lot(lot)
            order = lot.sample(list(graph), len(graph))
            keys = keys_of(nodes, graph, order)
            found += [(keys[node_id], drawn_as(graph, node_id)) for node_id in order]
        for (key, text), (other_key, other_text) in itertools.combinations(found, 2):
            assert (key == other_key) is (text == other_text), seed
            equal += key == other_key
    assert equal > 100


def test_two_equal_sources_differ_from_one(nodes: NodeRegistry) -> None:
    """And so do inputs that both come from it."""
    one = {"1": node("A"), "3": node("A", x=["1", 0], y=["1", 0])}
    two = {"1": node("A"), "2": node("A"), "3": node("A", x=["1", 0], y=["2", 0])}
    assert keys_of(nodes, one, ["3"]) != keys_of(nodes, two, ["3"])


def test_branches_are_told_apart(nodes: NodeRegistry) -> None:
    """A node of another branch is not one of the own branch, though both are as far up."""
    trunk = {"1": node("A"), "2": node("A", x=["1", 0]), "4": node("A", x=["1", 0])}
    both = {**trunk, "3": node("A", x=["2", 0]), "5": node("A", x=["4", 0], y=["2", 0])}
    single = {**both, "5": node("A", x=["4", 0], y=["4", 0])}
    order = ["3", "5"]
    assert keys_of(nodes, both, order)["3"] == keys_of(nodes, single, order)["3"]
    assert keys_of(nodes, both, order)["5"] != keys_of(nodes, single, order)["5"]


def test_a_cycle_has_keys_too(nodes: NodeRegistry) -> None:
    """A prompt may have one beside what it runs."""
    graph = {"1": node("A", x=["2", 0]), "2": node("A", x=["1", 0], y=["3", 0]), "3": node("A")}
    assert keys_of(nodes, graph, ["1", "2", "3"]).keys() == graph.keys()
