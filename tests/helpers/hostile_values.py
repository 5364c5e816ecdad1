"""JSON values of every type in place of those that real servers sent, and whether they fit."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from hypothesis import strategies as st

#: What makes trouble: no type that is hoped for, or beyond all measure, or not to be written.
HOSTILE: list[Any] = [
    *(None, True, False, 0, -1, 10**400, -(10**400), 1e308, math.nan, math.inf, -math.inf),
    *("", "x" * 5000, "\ud800", "1", "..", "\0", [], {}, [[]], [None], {"": None}, [{}, 1]),
]
JSON: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from(HOSTILE) | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a JSON value: the whole, and each part of it."""
    yield path
    inner = value.items() if isinstance(value, Mapping) else ()
    for key, item in enumerate(value) if isinstance(value, list) else inner:
        yield from places(item, (*path, key))


def spoilt(body: Any, place: tuple[Any, ...], value: Any) -> Any:
    """The answer with another value in one place."""
    if not place:
        return value
    body = copy.deepcopy(body)
    inner = body
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return body


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the type that its field has, and can be worked with."""
    kind, args = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        return any(fits(value, one) for one in args)
    if kind is Annotated:
        return fits(value, args[0])
    if kind is tuple:
        each = itertools.repeat(args[0]) if args[1] is ... else args
        return isinstance(value, tuple) and all(map(fits, value, each))
    if kind is list:
        return isinstance(value, list) and all(fits(item, args[0]) for item in value)
    if kind in (dict, Mapping):
        return isinstance(value, Mapping) and all(fits(item, args[1]) for item in value.values())
    if hint is Any:
        return True
    if hint is float:
        return isinstance(value, int | float) and math.isfinite(value) and value is not True
    if hint is str:
        return isinstance(value, str) and bool(value.encode() or True)
    if hint is type(None):
        return value is None
    return isinstance(value, kind or hint) and not (hint is int and isinstance(value, bool))
