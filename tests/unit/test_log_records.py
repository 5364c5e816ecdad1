"""The caller's tags for log records: which types and sizes are accepted."""

from __future__ import annotations

from typing import Any

import pytest

from comfy_client.log_records import MAX_NAME, MAX_TAGS, MAX_VALUE, checked_tags


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"tenant": "a", "try": 2, "cost": 0.5, "paid": True},
        {"x" * MAX_NAME: "y" * MAX_VALUE},
        {f"{number}": -(2**63) for number in range(MAX_TAGS)},
    ],
)
def test_small_values_are_copied(tags: dict[str, Any]) -> None:
    found = checked_tags(tags)
    assert found == tags
    assert found is not tags


@pytest.mark.parametrize(
    ("tags", "error", "why"),
    [
        ("tenant", TypeError, "must be a mapping"),
        ([("tenant", "a")], TypeError, "must be a mapping"),
        ({1: "a"}, TypeError, "must be a string"),
        ({"": "a"}, ValueError, "1 to 64 characters"),
        ({"x" * (MAX_NAME + 1): "a"}, ValueError, "1 to 64 characters"),
        ({"tenant": None}, TypeError, r"tags\['tenant'\] must be a str"),
        ({"tenant": ["a"]}, TypeError, "must be a str"),
        ({"tenant": "y" * (MAX_VALUE + 1)}, ValueError, "more than 512 characters"),
        ({"tenant": 2**64}, ValueError, "64 bits"),
        ({"tenant": float("nan")}, ValueError, "finite"),
        ({f"{number}": 1 for number in range(MAX_TAGS + 1)}, ValueError, "17 entries"),
    ],
)
def test_wrong_tags_are_refused(tags: Any, error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        checked_tags(tags)
