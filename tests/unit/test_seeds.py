"""Seeds: read, drawn anew, and drawn for one run."""

from __future__ import annotations

import random
from typing import Any

import pytest

from comfy_client import Workflow
from comfy_client.workflow.seeds import draw_wanted, seed_before, seeds_of, wants_seeds
from tests.helpers.graphs import node, txt2img

GRAPH: dict[str, Any] = {
    "1": node("KSampler", seed=1, steps=20),
    "2": node("RandomNoise", noise_seed=-1),
    "3": node("Pack", seed="random", mode="random", count=-1),
    "4": node("Pack", seed=["5", 0], noise_seed=True),
    "5": node("PrimitiveInt", value=-1),
}


def test_seeds_are_numbers_under_the_names_seed_and_noise_seed() -> None:
    """Not links, not words."""
    assert seeds_of(GRAPH) == {"1": 1, "2": -1}


def test_a_seed_that_is_a_text_or_a_float_is_the_number_that_the_server_makes_of_it() -> None:
    """As in a line of a CSV file; what is no number is none."""
    texts = {"1": "41", "2": 1.5, "3": "abc", "4": float("inf"), "5": "9" * 5000, "6": "random"}
    graph = {key: node("KSampler", seed=value) for key, value in texts.items()}
    assert seeds_of(graph) == {"1": 41, "2": 1}
    graph["7"] = node("SaveImage", images=["1", 0])
    assert seed_before(graph, "7") == 41


@pytest.mark.parametrize(("other", "seed"), [(7, 7), (8, None), ("random", None)])
def test_of_several_seeds_that_are_equally_near_none_is_that_of_a_picture(
    other: object, seed: int | None
) -> None:
    """Unless they are the same."""
    graph = {
        "1": node("KSampler", seed=7),
        "2": node("KSampler", seed=other),
        "9": node("Blend", image1=["1", 0], image2=["2", 0]),
    }
    assert seed_before(graph, "9") == seed


def test_all_seeds_are_drawn_anew() -> None:
    """Links and all other inputs stay; the answer says what was drawn."""
    workflow = Workflow.load(GRAPH)
    drawn = workflow.randomize_seeds()
    assert drawn.keys() == {"1", "2", "3"}
    assert drawn == seeds_of(workflow.to_dict())
    assert workflow.randomize_seeds() != drawn
    expected = Workflow.load(GRAPH)
    expected.set({"1.seed": drawn["1"], "2.noise_seed": drawn["2"], "3.seed": drawn["3"]})
    workflow.set({"1.seed": drawn["1"], "2.noise_seed": drawn["2"], "3.seed": drawn["3"]})
    assert workflow == expected


def test_a_generator_gives_the_same_seeds_again() -> None:
    """And the module's own state has nothing to do with it without one."""
    drawn = [Workflow.load(GRAPH).randomize_seeds(random.Random(5)) for _ in range(2)]
    assert drawn[0] == drawn[1]
    random.seed(1)
    first = Workflow.load(GRAPH).randomize_seeds()
    random.seed(1)
    assert Workflow.load(GRAPH).randomize_seeds() != first


def test_every_node_takes_the_seed_that_it_gets() -> None:
    """A sampler's is exact in JavaScript, others are within 31 bits."""
    for _ in range(200):
        drawn = Workflow.load(GRAPH).randomize_seeds()
        assert all(0 <= seed < 2**50 for seed in drawn.values())
        assert drawn["3"] < 2**31


@pytest.mark.parametrize("value", ["random", -1, -1.0])
def test_random_and_minus_one_are_drawn_and_others_stay(value: Any) -> None:
    """In seeds only."""
    graph = txt2img(seed=value)
    assert wants_seeds(graph)
    draw_wanted(graph)
    assert graph["3"]["inputs"]["seed"] >= 0
    assert not wants_seeds(graph)
    assert graph == txt2img(seed=graph["3"]["inputs"]["seed"])


@pytest.mark.parametrize("value", [0, 7, 2**64 - 1, -2, True, "Random", "fixed", None, ["5", 0]])
def test_numbers_links_and_unknown_words_as_seeds_are_left_to_the_server(value: Any) -> None:
    """Numbers, links, and words that it does not know."""
    graph = txt2img(seed=value)
    assert not wants_seeds(graph)
    draw_wanted(graph)
    assert graph == txt2img(seed=value)


def test_a_node_without_a_class_gets_a_seed_too() -> None:
    """Whether it is a node, others say."""
    graph: dict[str, Any] = {"1": {"inputs": {"seed": -1}}}
    draw_wanted(graph)
    assert graph["1"]["inputs"]["seed"] >= 0


def test_a_malformed_graph_has_no_seeds() -> None:
    """A server may have sent it."""
    for graph in ({"1": None}, {"1": {"inputs": []}}, {"1": {"inputs": {"seed": {}}}}):
        assert seeds_of(graph) == {}
        assert not wants_seeds(graph)
