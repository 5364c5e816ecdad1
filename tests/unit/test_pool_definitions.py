"""The node definitions of several servers as one."""

from __future__ import annotations

import pytest

from comfy_client.pool.needs import merge_definitions


def loader(config: object) -> dict[str, object]:
    return {"Loader": {"input": {"required": {"file": config}}, "output": ["MODEL"]}}


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [
        ([["a"]], [["b", "a"]], [["a", "b"]]),
        ([["a"], {"tooltip": "t"}], [["b"]], [["a", "b"], {"tooltip": "t"}]),
        (
            ["COMBO", {"options": ["a"], "default": "a"}],
            ["COMBO", {"options": ["b"]}],
            ["COMBO", {"options": ["a", "b"], "default": "a"}],
        ),
        (["INT", {"min": 0}], ["INT", {"min": 5}], ["INT", {"min": 0}]),
        ([["a"]], ["INT"], [["a"]]),
        ([], [["a"]], []),
        ("odd", [["a"]], "odd"),
    ],
)
def test_an_input_has_the_choices_of_all_servers(first, second, both) -> None:
    """And else what the first one says."""
    given = loader(first)
    assert merge_definitions([given, loader(second)]) == loader(both)
    assert given == loader(first)


def test_each_class_counts_that_any_server_has() -> None:
    """Whatever the definition is."""
    assert merge_definitions([{"A": 1}, {"A": {"input": 2}, "B": None}, {}]) == {"A": 1, "B": None}
    assert merge_definitions([]) == {}
