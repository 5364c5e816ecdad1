"""The bill of fidelity: what is kept of it is true, and the guide shows it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fidelity.alike import whole
from tests.fidelity.bill import VERSIONS, in_words, read, route_of, rst, summed
from tests.fidelity.player import RECORDED, Finding, names, play
from tests.guide import text_of


def test_the_guide_shows_the_fidelity_that_was_kept() -> None:
    """``python -m tests.fidelity --write`` keeps it, and rewrites the tables."""
    kept = read()
    assert rst(kept) in text_of("fidelity")
    assert {version: sorted(of) for version, of in kept.items()} == {
        version: names(RECORDED[version]) for version in VERSIONS
    }


def cases() -> list[Any]:
    """All recordings for all versions; the newest has most of its code in common with another."""
    return [
        pytest.param(version, name, marks=[pytest.mark.long] if version == VERSIONS[-1] else [])
        for version in VERSIONS
        for name in names(RECORDED[version])
    ]


@pytest.mark.parametrize(("version", "name"), cases())
def test_a_recording_differs_as_was_kept(version: str, name: str) -> None:
    """Else ``python -m tests.fidelity --write``, and look at what has changed in the guide."""
    assert summed(play(version, name)) == read()[version][name]


@pytest.mark.parametrize(
    ("line", "route"),
    [
        ("GET /api/queue", "GET /queue"),
        ("GET /history?max_items=1", "GET /history"),
        ("GET /history/x", "GET /history/{prompt_id}"),
        ("POST /api/jobs/cancel", "POST /api/jobs/cancel"),
        ("POST /api/jobs/x/cancel", "POST /api/jobs/{id}/cancel"),
        ("GET /nope", "any other path"),
    ],
)
def test_a_request_counts_for_its_route(line: str, route: str) -> None:
    assert route_of(line) == route


def test_equal_and_unlike_answers_are_counted() -> None:
    unlike = ".body.jobs[3].id: real 1\n       embedded 2"
    found = [
        Finding("GET /queue"),
        Finding("GET /api/queue", "of other files", (unlike, unlike)),
        Finding("message executed"),
    ]
    how = ["body.jobs[].id: 1, here 2"]
    assert in_words(unlike) == how[0]
    assert summed(found) == {
        "GET /queue": {"compared": 2, "in kind": 1, "unlike": 1, "how": how},
        "message executed": {"compared": 1},
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ('{"a": {"b": 1}, "c": [{"d": 1}, {"e', {"a": {"b": 1}, "c": [{"d": 1}]}),
        ('{"a": 1, "b": "c', {"a": 1}),
        ("404", 404),
        ("[email]", "[email]"),
        (None, None),
    ],
)
def test_an_answer_that_was_cut_off_is_read_as_far_as_it_goes(text: Any, value: Any) -> None:
    assert whole(text) == value
