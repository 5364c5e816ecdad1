"""Which server gets which points of a grid."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from comfy_client.batch.grid import Grid, Split
from tests.helpers.sweeps import WORKFLOW


def no_cost(one: int, other: int) -> int:
    return 1


def anything(name: str, point: int) -> bool:
    return True


def by_tens(one: int, other: int) -> int:
    """As of an outer loop over ten inner ones."""
    return 5 if one // 10 != other // 10 else 1


def taken(split: Split, name: str, number: int) -> list[int | None]:
    return [split.take(name, anything) for _ in range(number)]


def test_each_server_has_a_run_of_points() -> None:
    split = Split(range(8), {"a": 1, "b": 1}, no_cost)
    assert taken(split, "a", 4) == [0, 1, 2, 3]
    assert taken(split, "b", 4) == [4, 5, 6, 7]
    assert taken(split, "a", 1) == [None]
    assert len(split) == 0


def test_a_server_of_more_weight_has_more() -> None:
    split = Split(range(9), {"a": 2, "b": 1}, no_cost)
    assert taken(split, "b", 3) == [6, 7, 8]


def test_a_run_is_cut_where_the_most_changes() -> None:
    """If that is about in the middle."""
    split = Split(range(35), {"a": 1, "b": 1}, by_tens)
    assert taken(split, "b", 1) == [20]
    split = Split(range(20), {"a": 3, "b": 1}, by_tens)
    assert taken(split, "b", 1) == [15]


def test_a_server_without_points_steals_half_of_the_longest_run() -> None:
    split = Split(range(12), {"a": 1, "b": 1, "c": 1}, no_cost)
    assert taken(split, "a", 3) == [0, 1, 2]
    assert taken(split, "b", 4) == [4, 5, 6, 7]
    assert taken(split, "b", 2) == [10, 11]
    assert taken(split, "c", 2) == [8, 9]
    assert taken(split, "c", 1) == [3]


def test_a_server_that_comes_later_takes_its_part() -> None:
    split = Split(range(8), {"a": 1}, no_cost)
    assert taken(split, "a", 2) == [0, 1]
    assert taken(split, "b", 3) == [5, 6, 7]
    assert taken(split, "a", 3) == [2, 3, 4]


def test_a_point_put_back_is_the_next_of_its_server() -> None:
    split = Split(range(4), {"a": 1, "b": 1}, no_cost)
    split.put_back(taken(split, "a", 1)[0], "a")
    assert taken(split, "a", 1) == [0]
    split.put_back(9, "gone")
    assert sorted(taken(split, "b", 4)) == [1, 2, 3, 9]


def test_a_server_gets_only_what_it_can_run() -> None:
    """The others get the rest."""
    fits: Callable[[str, int], bool] = lambda name, point: (point % 2 == 0) == (name == "even")  # noqa: E731
    split = Split(range(6), {"even": 1, "odd": 1}, no_cost)
    assert [split.take("even", fits) for _ in range(4)] == [0, 2, 4, None]
    assert [split.take("odd", fits) for _ in range(4)] == [3, 5, 1, None]


def test_dropped_points_are_not_given_out() -> None:
    split = Split(range(4), {"a": 1}, no_cost)
    split.drop({1, 3})
    assert list(split) == [0, 2]


@given(
    st.integers(0, 60),
    st.dictionaries(st.sampled_from("abcd"), st.floats(0.1, 9.0)),
    st.lists(st.sampled_from("abcde"), max_size=80),
)
def test_each_point_is_had_once(number: int, weights: dict[str, float], takers: list[str]) -> None:
    """Whoever takes how many."""
    split = Split(range(number), weights, by_tens)
    had = [point for name in takers if (point := split.take(name, anything)) is not None]
    assert sorted([*had, *split]) == list(range(number))
    assert len(had) == min(number, len(takers))


def test_servers_of_any_speed_change_little() -> None:
    """The first one is five times as fast: one model more is loaded than there are."""
    grid = Grid(WORKFLOW, {"Load.name": ["a", "b", "c", "d"], "Make.seed": range(25)})
    split = Split(grid.order(), {"fast": 1, "slow": 1}, grid.cost)
    models: dict[str, list[object]] = {"fast": [], "slow": []}
    while split:
        for name in ("fast",) * 5 + ("slow",):
            point = split.take(name, anything)
            if point is not None:
                models[name].append(grid.params(point)["Load.name"])
    loads = sum(
        sum(one != other for one, other in zip([None, *ran], ran, strict=False))
        for ran in models.values()
    )
    assert loads <= 6
    assert len(models["fast"]) > 4 * len(models["slow"])


def test_without_servers_no_point_is_lost() -> None:
    """The first one to come has them."""
    split = Split(range(3), {}, no_cost)
    assert {*taken(split, "late", 4)} == {0, 1, 2, None}


def test_a_server_that_may_not_steal_has_only_its_points() -> None:
    split = Split(range(4), {"a": 1.0, "b": 1.0}, lambda *_: 1)
    assert [split.take("a", anything, may_steal=False) for _ in range(3)] == [0, 1, None]
    assert [split.take("b", anything) for _ in range(3)] == [2, 3, None]
