"""The gate for what a server says: what is too long is cut, what is too deep is left out."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from comfy_client.errors import UnexpectedResponse
from comfy_client.transport.decode import decode_text
from comfy_client.values import (
    MAX_ID_LENGTH,
    MAX_ITEMS,
    MAX_LEVELS,
    MAX_TEXT_LENGTH,
    by_id,
    identifier,
    is_shallow,
    items,
    number,
    sequence,
    table,
    text,
)


def nested(levels: int) -> Any:
    value: Any = "end"
    for _ in range(levels):
        value = [value]
    return value


def test_identifiers_that_are_cut_end_in_dots() -> None:
    """By three dots, within the bound; an id by what tells it from others, too."""
    for given in ("x" * 300, 10**300):
        cut = identifier(given) or ""
        assert cut.startswith(str(given)[:237] + "...")
        assert len(cut) == MAX_ID_LENGTH
    assert text("abcdef", 5) == "ab..."
    assert len(text("x" * (MAX_TEXT_LENGTH + 1)) or "") == MAX_TEXT_LENGTH
    assert text("é\ud800") == "é?"


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, True, "1", None, [1]])
def test_values_that_are_no_finite_number_are_none(value: object) -> None:
    assert number(value) is None


def test_of_a_list_or_an_object_so_many_items_are_taken_over() -> None:
    """Whatever made of them; an answer that is a longer list is refused."""
    long = [*range(MAX_ITEMS + 5)]
    ids = dict.fromkeys(map(str, long), 1)
    found = (sequence(long), sequence(long, number), table(ids, number), by_id(ids, number))
    assert {len(one or ()) for one in found} == {MAX_ITEMS}
    with pytest.raises(UnexpectedResponse, match="250005 items"):
        items(long, "Queue.queue_pending")


def test_ids_that_are_cut_stay_different() -> None:
    """Nodes that expand themselves have ids that grow with each round."""
    ids = ["5" + ".0.0.Recurse" * rounds for rounds in range(60)]
    cut = [identifier(one) for one in ids]
    assert len(set(cut)) == 60
    assert all(one is not None and len(one) <= MAX_ID_LENGTH for one in cut)
    assert cut[:20] == ids[:20]
    assert by_id({one: {} for one in ids}, lambda value: value).keys() == set(cut)


def test_the_depth_of_a_value_is_seen_without_going_into_it() -> None:
    """Lists and tables, in each other."""
    assert is_shallow(nested(MAX_LEVELS - 1))
    assert not is_shallow(nested(MAX_LEVELS + 1))
    assert not is_shallow({"a": [{"b": nested(10_000)}]})
    events = decode_text(json.dumps({"type": "mine", "data": nested(MAX_LEVELS + 1)}).encode())
    assert events == ()
    wide = [[1, 2]] * 1000
    (found,) = decode_text(json.dumps({"type": "mine", "data": wide}).encode())
    assert found.data == wide
