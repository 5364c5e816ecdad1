"""How answers of the server become frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar, cast

import attrs

from ..errors import UnexpectedResponse

T = TypeVar("T")


@cache
def _names(cls: Any) -> frozenset[str]:
    return frozenset(field.name for field in attrs.fields(cls)) - {"raw"}


def mapping(data: object, what: str) -> Mapping[str, Any]:
    """``data`` as a JSON object; anything else is an answer that no ComfyUI gives."""
    if not isinstance(data, Mapping):
        raise UnexpectedResponse(f"{what}: expected a JSON object, got {type(data).__name__}")
    return data


def items(data: object, what: str) -> list[Any]:
    """``data`` as a JSON array."""
    if not isinstance(data, list):
        raise UnexpectedResponse(f"{what}: expected a JSON array, got {type(data).__name__}")
    return data


def build(cls: type[T], data: object, **given: Any) -> T:
    """An instance of an attrs class from a JSON object.

    Keys that the class does not know stay in its ``raw``; ``given`` overrides keys
    that need work; a missing required key is an :class:`UnexpectedResponse`.
    """
    source = mapping(data, cls.__name__)
    make: Any = cls
    known = {name: source[name] for name in _names(make) if name in source}
    known.update(given)
    try:
        return cast(T, make(**known, raw=source))
    except TypeError as exc:
        raise UnexpectedResponse(f"{cls.__name__}: {exc}") from exc
