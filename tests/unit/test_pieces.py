"""Large JSON is decoded piece by piece, and says the same as ``json.loads``."""

from __future__ import annotations

import itertools
import json
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfy_client.transport.pieces import Each, JsonMember, OverLimit, loads_in_pieces, members
from tests.conftest import examples
from tests.helpers.patches import note_decoded

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)

WRONG = [b"", b"]", b"}", b",", b'"', b"\xff", b"nul"]


def same(element: Any, _: str | None) -> Any:
    return element


def loads(content: bytes, each: Each) -> Any:
    """Decode pieces that are so small that each text has many."""
    return loads_in_pieces(content, each, piece=7)


@given(st.dictionaries(st.text(), VALUES) | VALUES, st.booleans(), st.sampled_from([None, 1]))
@settings(max_examples=examples(200))
def test_pieces_decode_as_json_does(value: Any, is_ascii: bool, indent: int | None) -> None:
    """Wherever a piece ends: in a number, in a character, in a word."""
    content = json.dumps(value, ensure_ascii=is_ascii, indent=indent).encode(
        "utf-8", "surrogatepass"
    )
    assert loads(content, same) == json.loads(content)


@given(st.dictionaries(st.text(), VALUES), st.data())
@settings(max_examples=examples(200))
def test_pieces_refuse_what_json_refuses(value: Any, data: st.DataObject) -> None:
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
    kept = loads(content, lambda item, _: item[1])
    assert kept["queue_pending"] == [f"id {number}" for number in range(100)]
    assert max(lengths) < 300


@pytest.mark.parametrize("make", [list, lambda items: {str(n): one for n, one in enumerate(items)}])
def test_lists_and_nested_objects_are_decoded_in_pieces_too(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[list[Any]], Any]
) -> None:
    """Lists, and objects of objects such as the history."""
    lengths = note_decoded(monkeypatch)
    value = make([{"text": "x" * 200, "number": number} for number in range(100)])
    assert loads_in_pieces(json.dumps(value).encode(), piece=7) == value
    assert max(lengths) < 300


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32-le"])
def test_pieces_in_other_encodings_are_decoded_too(encoding: str) -> None:
    """As ``json.loads`` does it."""
    value = {"list": [1, 2], "text": "ä"}
    assert loads(json.dumps(value).encode(encoding), lambda one, _: -one) == {
        "list": [-1, -2],
        "text": "ä",
    }


# -- a stream of members -----------------------------------------------------------------


def read(content: bytes, cuts: list[int], largest: int = 1 << 20) -> list[JsonMember]:
    """Read the members of an object that comes in pieces, cut at these places."""
    ends = sorted({0, len(content), *(cut % (len(content) + 1) for cut in cuts)})
    chunks = [content[here:there] for here, there in itertools.pairwise(ends)]
    return list(members(chunks, largest=largest, piece=7))


CUTS = st.lists(st.integers(0, 10_000), max_size=20)
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"])


@given(st.dictionaries(st.text(), VALUES), CUTS, ENCODINGS, st.booleans())
@settings(max_examples=examples(200))
def test_a_stream_has_the_members_of_the_whole(
    value: dict[str, Any], cuts: list[int], encoding: str, is_ascii: bool
) -> None:
    """However it is cut into chunks."""
    text = json.dumps(value, ensure_ascii=is_ascii)
    found = read(text.encode(encoding, "surrogatepass"), cuts)
    assert [(one.name, one.value) for one in found] == list(value.items())


@given(st.dictionaries(st.text(), VALUES), CUTS, st.data())
@settings(max_examples=examples(200))
def test_a_broken_stream_is_refused(
    value: dict[str, Any], cuts: list[int], data: st.DataObject
) -> None:
    """Cut off anywhere, or with something in the wrong place."""
    content = json.dumps(value).encode()
    at = data.draw(st.integers(0, len(content) - 1))
    broken = content[:at] + data.draw(st.sampled_from(WRONG))
    broken += content[at:] if data.draw(st.booleans()) else b""
    try:
        expected = json.loads(broken)
    except ValueError:
        expected = None
    if isinstance(expected, dict):
        assert {one.name: one.value for one in read(broken, cuts)} == expected
        return
    with pytest.raises(ValueError, match=r"."):
        read(broken, cuts)


@pytest.mark.parametrize("content", [b"[]", b"5", b"null", b'"a"', b"{} {}", b'{"a": 1} x'])
def test_members_of_no_object_are_an_error(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(content, [])


@pytest.mark.parametrize(
    "value",
    [
        b'"' + b"x" * 5000,  # a text without an end
        b'"' + b"x" * 5000 + b'"',
        b"[" + b"1," * 3000,
        b"9" * 1200,
        b"[" + b"[],{}," * 900 + b"1]",  # small, but large in memory
    ],
)
def test_a_member_has_a_largest_size(value: bytes) -> None:
    """Also while it comes: no more than a few times its size is read of it."""
    read_so_far = 0

    def chunks() -> Any:
        nonlocal read_so_far
        yield b'{"small": 1, "large": '
        for at in range(0, len(value), 50):
            read_so_far = at
            yield value[at : at + 50]
        while True:  # nor does it wait for the end of the answer
            read_so_far += 50
            assert read_so_far < 20_000
            yield b" " * 50

    found = members(chunks(), largest=1000, piece=64)
    assert next(found).name == "small"
    with pytest.raises(OverLimit, match="a member"):
        list(found)


def test_a_member_may_be_as_large_as_is_allowed() -> None:
    text = b'"' + b"x" * 998 + b'"'
    content = b'{"a":' + text + b',"b":' + text + b"}"
    assert [one.name for one in read(content, [3], largest=1000)] == ["a", "b"]


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(RecursionError):
        read(b'{"a":' + b"[" * 200_000, [])


def test_a_name_that_comes_twice_comes_twice() -> None:
    """As for ``json.loads``, a dict of them keeps the last."""
    assert [one.value for one in read(b'{"a":1,"a":2}', [])] == [1, 2]


def test_a_member_has_its_size_in_memory() -> None:
    (small, large) = read(b'{"a":1,"b":["x","y","z",{},[]]}', [])
    assert small.size < 10 < large.size


@pytest.mark.parametrize("chunk", [50, 1000, 1 << 20])
def test_a_stream_is_measured_about_twice(chunk: int) -> None:
    """Once as what lies ahead, and once as a member, whatever the size of its chunks."""
    content = json.dumps({f"name {n}": ["x" * 50] for n in range(500)}).encode()
    pieces = (content[at : at + chunk] for at in range(0, len(content), chunk))
    counted = 0

    def note(_: object, event: str, function: Any) -> None:
        nonlocal counted
        if event == "c_call" and function.__name__ == "count":  # of commas, colons, brackets
            counted += len(function.__self__)

    sys.setprofile(note)
    try:
        names = [one.name for one in members(pieces, largest=1 << 20, piece=64)]
    finally:
        sys.setprofile(None)
    assert len(names) == 500
    assert 2 * len(content) < counted < 4 * 3 * len(content)


def test_memory_holds_one_member_at_a_time() -> None:
    """However long the object is."""
    one = json.dumps(["x" * 50] * 200).encode()

    def chunks() -> Any:
        yield b'{"first":0'
        for number in range(2000):
            yield b',"%d":' % number + one
        yield b"}"

    tracemalloc.start()
    try:
        assert sum(1 for _ in members(chunks(), largest=1 << 20)) == 2001
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 5 << 20 < 2000 * len(one)
