"""Conversion of the server's answers to frozen values.

A server may send anything.  Each value for a model passes one of the converters of
:mod:`comfy_client.values`, which returns ``None`` for a value of another type.  An optional field
then has its default, and the value itself stays in ``raw``.  For a required field, an
:class:`UnexpectedResponse` is raised; nothing else is raised.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import attrs

from ..errors import UnexpectedResponse
from ..values import (
    MAX_ITEMS,
    Converter,
    flag,
    identifier,
    number,
    seconds,
    sequence,
    table,
    text,
    whole,
)

T = TypeVar("T")

# -- required values ----------------------------------------------------------------------


def mapping(data: object, what: str) -> Mapping[str, Any]:
    """Return ``data`` if it is a JSON object, else raise :class:`UnexpectedResponse`."""
    if not isinstance(data, Mapping):
        raise UnexpectedResponse(f"{what}: expected a JSON object, got {_kind(data)}")
    return data


def items(data: object, what: str) -> list[Any]:
    """Return ``data`` if it is a JSON array, else raise :class:`UnexpectedResponse`."""
    if not isinstance(data, list):
        raise UnexpectedResponse(f"{what}: expected a JSON array, got {_kind(data)}")
    if len(data) > MAX_ITEMS:
        raise UnexpectedResponse(f"{what}: {len(data)} items, which is too many")
    return data


def texts(data: object, what: str) -> list[str]:
    """Return ``data`` if it is a JSON array of strings, else raise :class:`UnexpectedResponse`."""
    found = [text(item) for item in items(data, what)]
    if None in found:
        raise UnexpectedResponse(f"{what}: expected strings only")
    return cast(list[str], found)


def texts_by_name(data: object, what: str) -> dict[str, list[str]]:
    """Return a JSON object of arrays of strings, or raise :class:`UnexpectedResponse`."""
    found = mapping(data, what).items()
    return {name: texts(listed, f"{what}: {name!r:.80}") for name, listed in found}


def _kind(data: object) -> str:
    return "null" if data is None else type(data).__name__


# -- a model ------------------------------------------------------------------------------

#: The id of a prompt.
Id = Annotated[str, identifier]
#: A time in seconds since 1970.
Seconds = Annotated[float, seconds]

_SIMPLE: dict[Any, Converter] = {str: text, int: whole, float: number, bool: flag}


def _converter(hint: Any) -> Converter | None:
    """Return the converter for a field of this type; None if the model converts it itself."""
    kind, args = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        (hint,) = set(args) - {NoneType}
        return _converter(hint)
    if kind is Annotated:
        return cast(Converter, args[1])
    if kind is tuple:
        return partial(sequence, convert=_converter(args[0]))
    if kind is Mapping:
        return partial(table, convert=_converter(args[1]))
    return _SIMPLE.get(hint)


@cache
def _fields(cls: Any) -> tuple[tuple[str, Converter, bool], ...]:
    """Return the name, the converter and whether it is required, for each field of a model."""
    hints = get_type_hints(cls, include_extras=True)
    return tuple(
        (field.name, convert, field.default is attrs.NOTHING)
        for field in attrs.fields(cls)
        if field.name != "raw" and (convert := _converter(hints[field.name])) is not None
    )


def build(cls: type[T], data: object, **given: Any) -> T:
    """Make an instance of an attrs class from a JSON object.

    Each field takes the value of its key, if that is of the field's type.  Keys that the class
    does not know stay in its ``raw``.  ``given`` overrides values that need work.  A required key
    that is missing or of another type raises :class:`UnexpectedResponse`.
    """
    source = mapping(data, cls.__name__)
    known, make = given, cast(Any, cls)
    for name, convert, is_required in _fields(make):
        if name in given:
            continue
        value = source.get(name)
        if value is not None:
            value = convert(value)
        if value is not None:
            known[name] = value
        elif is_required:
            said = f"got {_kind(source[name])}" if name in source else "there is none"
            raise UnexpectedResponse(f"{cls.__name__}: {name} is required, {said}")
    return cast(T, make(**known, raw=source))
