"""Large JSON is decoded piece by piece, and says the same as ``json.loads``."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfy_client.transport.response import Each, loads_in_pieces
from tests.conftest import examples
from tests.helpers.patches import note_decoded

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)

WRONG = [b"", b"]", b"}", b",", b'"', b"\xff", b"nul"]


def same(element: Any) -> Any:
    return element


def loads(content: bytes, each: Each) -> Any:
    """Decode pieces that are so small that each text has many."""
    return loads_in_pieces(content, each, piece=7)


@given(st.dictionaries(st.text(), VALUES) | VALUES, st.booleans(), st.sampled_from([None, 1]))
@settings(max_examples=examples(200))
def test_it_says_what_json_says(value: Any, is_ascii: bool, indent: int | None) -> None:
    """Wherever a piece ends: in a number, in a character, in a word."""
    content = json.dumps(value, ensure_ascii=is_ascii, indent=indent).encode(
        "utf-8", "surrogatepass"
    )
    assert loads(content, same) == json.loads(content)


@given(st.dictionaries(st.text(), VALUES), st.data())
@settings(max_examples=examples(200))
def test_what_json_refuses_it_refuses(value: Any, data: st.DataObject) -> None:
    """Cut off anywhere, or with something in the wrong place."""
    content = json.dumps(value).encode()
    at = data.draw(st.integers(0, len(content) - 1))
    broken = content[:at] + data.draw(
        st.sampled_from([b"", b"]", b"}", b",", b'"', b"\xff", b"nul"])
    )
    broken += content[at:] if data.draw(st.booleans()) else b""
    try:
        expected = json.loads(broken)
    except ValueError:
        with pytest.raises((json.JSONDecodeError, UnicodeDecodeError)):
            loads(broken, same)
    else:
        assert loads(broken, same) == expected


def test_each_element_of_an_outermost_list_is_decoded_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No call of C decodes more than one, so no thread waits for longer."""
    lengths = note_decoded(monkeypatch)
    items = [[number, f"id {number}", {"1": {"text": "x" * 200}}] for number in range(100)]
    content = json.dumps({"queue_running": items[:1], "queue_pending": items}).encode()
    kept = loads(content, lambda item: item[1])
    assert kept["queue_pending"] == [f"id {number}" for number in range(100)]
    assert max(lengths) < 300


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32-le"])
def test_other_encodings_are_read_too(encoding: str) -> None:
    """As ``json.loads`` does it."""
    value = {"list": [1, 2], "text": "ä"}
    assert loads(json.dumps(value).encode(encoding), lambda one: -one) == {
        "list": [-1, -2],
        "text": "ä",
    }
