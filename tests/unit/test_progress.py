"""How far a prompt is: what its nodes cost, and how much of that is done."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfy_client.events import Progress, ProgressState
from comfy_client.jobs.progress import (
    MOST,
    REMEMBERED,
    NodeTimes,
    fraction,
    targets,
    units,
    weights,
)
from comfy_client.workflow import sinks


def node(class_type: str, *sources: str, **inputs: Any) -> dict[str, Any]:
    links = {f"in{index}": [source, 0] for index, source in enumerate(sources)}
    return {"class_type": class_type, "inputs": {**links, **inputs}}


TXT2IMG = {
    "4": node("CheckpointLoaderSimple"),
    "5": node("EmptyLatentImage"),
    "6": node("CLIPTextEncode", "4"),
    "7": node("CLIPTextEncode", "4"),
    "3": node("KSampler", "4", "5", "6", "7", steps=20),
    "8": node("VAEDecode", "3"),
    "9": node("SaveImage", "8"),
}
BEFORE = ["4", "5", "6", "7", "3"]


def step(node_id: str, value: float, most: float = 20) -> Progress:
    return Progress(name="progress", node=node_id, value=value, max=most)


def states(**nodes: str) -> ProgressState:
    data = {key.strip("_"): {"state": state} for key, state in nodes.items()}
    return ProgressState(name="progress_state", raw={"nodes": data})


def weighed(graph: dict[str, Any], **kw: Any) -> dict[str, float]:
    return weights(graph, **{"targets": sinks(graph), **kw})


# -- what a node costs ---------------------------------------------------------------------


def test_a_sampler_counts_by_its_steps_at_first() -> None:
    """Any other node is one step."""
    costs = weighed(TXT2IMG)
    assert costs == {key: 20.0 if key == "3" else 1.0 for key in TXT2IMG}
    done = fraction(TXT2IMG, costs, visited=BEFORE, node_id="3", step=step("3", 2))
    assert done == (4 + 2) / 26


@pytest.mark.parametrize(
    ("graph", "count"),
    [
        ({"1": node("KSampler", steps=20)}, 20),
        ({"1": node("UltimateSDUpscale", steps=8)}, 8),
        ({"1": node("SamplerCustomAdvanced", "2"), "2": node("BasicScheduler", steps=12)}, 12),
        ({"1": node("BasicScheduler", steps=12)}, 1),
        ({"1": node("KSampler", "2", steps=["2", 0]), "2": node("PrimitiveInt", value=9)}, 1),
        ({"1": node("KSampler", steps=0)}, 1),
        ({"1": node("KSampler", steps=-3)}, 1),
        ({"1": node("KSampler", steps="20")}, 1),
        ({"1": node("KSampler", steps=10**400)}, MOST),
        ({"1": {"class_type": 5}}, 1),
        ({"1": None}, 1),
    ],
)
def test_steps_stand_in_the_sampler_or_in_its_scheduler(graph: dict[str, Any], count: int) -> None:
    """What stands there is whatever somebody wrote."""
    assert units(graph, "1") == count


def test_times_of_earlier_runs_count_instead_of_steps() -> None:
    """Of the same node; the newest."""
    times = NodeTimes()
    for seconds in (5.0, 1.0):
        for key in TXT2IMG:
            times.learn(TXT2IMG, key, 19.0 if key == "3" else seconds / 6)
    costs = weighed(TXT2IMG, times=times)
    assert costs["3"] / sum(costs.values()) == pytest.approx(0.95)
    done = fraction(TXT2IMG, costs, visited=BEFORE, node_id="3", step=step("3", 10))
    assert done == pytest.approx((4 / 6 + 9.5) / 20)


def test_a_node_that_never_ran_is_judged_by_its_class_and_then_by_the_others() -> None:
    """A step of another sampler takes as long; an unknown class is as quick as the average."""
    times = NodeTimes()
    times.learn(TXT2IMG, "3", 10.0)
    times.learn(TXT2IMG, "8", 0.5)
    graph = {
        "1": node("KSampler", steps=40),
        "2": node("VAEDecode", "1"),
        "3": node("NeverSeen", "2"),
    }
    assert weighed(graph, times=times) == {"1": 20.0, "2": 0.5, "3": pytest.approx(20.5 / 41)}


def test_two_nodes_of_a_class_have_each_their_own_time() -> None:
    """A second pass at twice the size is the longer one."""
    graph = {"1": node("KSampler", steps=10), "2": node("KSampler", "1", steps=10)}
    times = NodeTimes()
    times.learn(graph, "1", 1.0)
    times.learn(graph, "2", 4.0)
    assert weighed(graph, times=times) == {"1": 1.0, "2": 4.0}


def test_times_are_remembered_of_so_many_nodes_and_no_more() -> None:
    """The oldest go; one that runs again is new."""
    graph = {str(index): node(f"Class{index}") for index in range(REMEMBERED + 10)}
    times = NodeTimes()
    for key in [*map(str, range(10)), "0", *map(str, range(10, REMEMBERED + 9))]:
        times.learn(graph, key, 1.0)
    known = [key for key in graph if times.seconds(graph, key) is not None]
    assert len(known) == REMEMBERED
    assert known[:2] == ["0", "10"]


def test_times_of_classes_whose_names_are_endless_are_not_remembered() -> None:
    """A graph may be a server's."""
    graph = {"1": node("A" * 100_000), "2": node("B")}
    times = NodeTimes()
    for key in graph:
        times.learn(graph, key, 1.0)
    assert [times.seconds(graph, key) for key in graph] == [None, 1.0]


def test_nodes_that_do_not_run_weigh_nothing() -> None:
    """What is cached, what only that needs, and what no output needs that runs."""
    graph = {**TXT2IMG, "10": node("PreviewImage", "11"), "11": node("LoadImage")}
    assert set(weighed(graph, cached=("3", "4"))) == {"8", "9", "10", "11"}
    errors = {"11": {"errors": [], "dependent_outputs": ["10", 5]}, "x": None}
    assert targets(graph, None, errors) == {"9"}
    assert targets(graph, ["10", "9"], {}) == {"9", "10"}
    assert set(weighed(graph, targets={"10"})) == {"10", "11"}
    assert weighed({}) == {}
    assert fraction({}, {}) == 0.0


def test_nodes_that_run_at_the_same_time_count_each() -> None:
    """As the state of all tells, not only the last step."""
    graph = {"1": node("A"), "2": node("A")}
    both = {
        key: {"state": "running", "value": value, "max": 4} for key, value in (("1", 1), ("2", 3))
    }
    state = ProgressState(name="progress_state", raw={"nodes": both})
    assert fraction(graph, weighed(graph), visited=["1", "2"], node_id="2", states=state) == 0.5


# -- properties ----------------------------------------------------------------------------

CLASSES = ("KSampler", "SamplerCustomAdvanced", "BasicScheduler", "VAEDecode", "SaveImage")


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, Any]:
    """Without circles: each node takes from earlier ones."""
    graph: dict[str, Any] = {}
    for index in range(draw(st.integers(1, 8))):
        sources = draw(st.lists(st.sampled_from(list(graph)), max_size=3)) if graph else []
        inputs = draw(st.sampled_from([{}, {"steps": 1}, {"steps": 20}, {"steps": -1}]))
        graph[str(index)] = node(draw(st.sampled_from(CLASSES)), *sources, **inputs)
    return graph


SECONDS = st.floats(0, 1e6)


@settings(deadline=None)
@given(st.data(), graphs())
def test_a_run_goes_from_nothing_to_all_and_never_back(data: Any, graph: dict[str, Any]) -> None:
    """Whatever is cached, whatever earlier runs took, whether or not the server tells states."""
    cached = data.draw(st.sets(st.sampled_from(list(graph))))
    times = NodeTimes()
    for key in data.draw(st.sets(st.sampled_from(list(graph)))):
        times.learn(graph, key, data.draw(SECONDS))
    costs = weighed(graph, cached=cached, times=times)
    assert set(costs) <= set(graph) - cached
    assert all(cost > 0 for cost in costs.values())
    tells = data.draw(st.booleans())
    seen = [fraction(graph, costs)]
    visited: set[str] = set()
    told: dict[str, str] = {}
    for key in sorted(costs):
        told |= {f"_{one}": "finished" for one in visited}
        visited.add(key)
        most = data.draw(st.integers(0, 4))
        for value in range(most + 1):
            now = states(**told, **{f"_{key}": "running"}) if tells else None
            said = step(key, value, most)
            seen.append(fraction(graph, costs, visited=visited, node_id=key, step=said, states=now))
    last = states(**{f"_{one}": "finished" for one in visited}) if tells else None
    seen.append(fraction(graph, costs, visited=visited, states=last))
    assert all(before <= after + 1e-12 for before, after in itertools.pairwise(seen))
    assert seen[0] == 0.0
    assert seen[-1] == pytest.approx(1.0 if costs else 0.0)


NUMBERS = st.none() | st.floats() | st.integers() | st.sampled_from([10**400, -(10**400)])
STATES = st.dictionaries(
    st.sampled_from(["0", "1", "1.0.0.1", "other"]),
    st.fixed_dictionaries(
        {"state": st.sampled_from(["running", "finished", "error", None])},
        optional={"value": NUMBERS, "max": NUMBERS},
    ),
)


@settings(deadline=None)
@given(graphs(), STATES, st.sets(st.sampled_from(["0", "1", "1.0.0.1", "x"])), NUMBERS, NUMBERS)
def test_progress_stays_between_0_and_1_whatever_a_server_sends(
    graph: dict[str, Any], told: dict[str, Any], visited: set[str], value: Any, most: Any
) -> None:
    """NaN, negative and endless numbers, nodes that are not there."""
    done = fraction(
        graph,
        weighed(graph),
        visited=visited,
        node_id="1",
        step=Progress(name="progress", node="1", value=value, max=most),
        states=ProgressState(name="progress_state", raw={"nodes": told}),
    )
    assert 0.0 <= done <= 1.0
