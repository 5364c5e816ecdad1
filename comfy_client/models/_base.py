"""How answers of the server become frozen values.

What a server sends may be anything.  Each value that a model takes over passes one of the
converters here, which gives ``None`` for what is of another kind: a field that may be missing
is then at its default, and the value itself stays in ``raw``; where the model cannot do
without it, that is an :class:`UnexpectedResponse`.  Nothing else is raised.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache, partial
from reprlib import repr as brief
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import attrs

from ..errors import UnexpectedResponse

T = TypeVar("T")
Converter = Callable[[Any], Any]

#: Characters of an id.  A UUID has 36; servers before ComfyUI 0.25 take any text from anybody.
MOST_ID = 256
#: Times above this are in milliseconds: as seconds they would be after the year 5000.
_LATEST = 1e11


# -- one value ----------------------------------------------------------------------------


def text(value: object) -> str | None:
    """A text that any encoding carries, file names and URLs too."""
    if not isinstance(value, str):
        return None
    # JSON can hold half of a surrogate pair, which can be neither written nor sent.
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def identifier(value: object) -> str | None:
    """A short text, or a number as a text; one that is too long is cut, and says so."""
    if not isinstance(value, str):
        value = str(value) if type(value) is int and number(value) is not None else None
    found = text(value)
    return found if found is None or len(found) <= MOST_ID else f"{found[: MOST_ID - 3]}..."


def number(value: object) -> float | None:
    """A finite number, as ``int`` or ``float``."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # an int that no float can hold
        return None


def whole(value: object) -> int | None:
    """A number without its fraction: some sizes come as floats."""
    found = number(value)
    return None if found is None else int(found)


def flag(value: object) -> bool | None:
    """True or false."""
    return value if isinstance(value, bool) else None


def seconds(value: object) -> float | None:
    """A time as seconds since 1970, whether it came in seconds or in milliseconds."""
    found = number(value)
    return found / 1000 if found is not None and abs(found) > _LATEST else found


def sequence(value: object, convert: Converter | None = None) -> tuple[Any, ...] | None:
    """A JSON array, without the items that ``convert`` has no use for."""
    if not isinstance(value, list | tuple):
        return None
    if convert is None:
        return tuple(value)
    return tuple(item for item in map(convert, value) if item is not None)


def table(value: object, convert: Converter | None = None) -> Mapping[str, Any] | None:
    """A JSON object, without the values that ``convert`` has no use for."""
    if not isinstance(value, Mapping) or convert is None:
        return value if isinstance(value, Mapping) else None
    converted = ((str(key), convert(item)) for key, item in value.items())
    return {key: item for key, item in converted if item is not None}


# -- what cannot be missing ---------------------------------------------------------------


def mapping(data: object, what: str) -> Mapping[str, Any]:
    """``data`` as a JSON object; anything else is an answer that no ComfyUI gives."""
    if not isinstance(data, Mapping):
        raise UnexpectedResponse(f"{what}: expected a JSON object, got {_kind(data)}")
    return data


def items(data: object, what: str) -> list[Any]:
    """``data`` as a JSON array."""
    if not isinstance(data, list):
        raise UnexpectedResponse(f"{what}: expected a JSON array, got {_kind(data)}")
    return data


def texts(data: object, what: str) -> list[str]:
    """``data`` as a JSON array of texts."""
    found = [text(item) for item in items(data, what)]
    if None in found:
        raise UnexpectedResponse(f"{what}: expected texts only, got {brief(data)}")
    return cast(list[str], found)


def texts_by_name(data: object, what: str) -> dict[str, list[str]]:
    """``data`` as a JSON object of arrays of texts."""
    return {name: texts(listed, f"{what}: {name}") for name, listed in mapping(data, what).items()}


def _kind(data: object) -> str:
    return "null" if data is None else type(data).__name__


# -- a model ------------------------------------------------------------------------------

#: The id of a prompt.
Id = Annotated[str, identifier]
#: A time in seconds since 1970.
Seconds = Annotated[float, seconds]

_SIMPLE: dict[Any, Converter] = {str: text, int: whole, float: number, bool: flag}


def _converter(hint: Any) -> Converter | None:
    """What takes over values for a field of that type; ``None``: the model does it itself."""
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
    """(name, converter, whether the class cannot do without) of each field of a model."""
    hints = get_type_hints(cls, include_extras=True)
    return tuple(
        (field.name, convert, field.default is attrs.NOTHING)
        for field in attrs.fields(cls)
        if field.name != "raw" and (convert := _converter(hints[field.name])) is not None
    )


def build(cls: type[T], data: object, **given: Any) -> T:
    """An instance of an attrs class from a JSON object.

    Each field takes the key of its name, if that is of the field's type.  Keys that the class
    does not know stay in its ``raw``; ``given`` overrides keys that need work; a required key
    that is missing or of another type is an :class:`UnexpectedResponse`.
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
            said = f"got {brief(source[name])}" if name in source else "there is none"
            raise UnexpectedResponse(f"{cls.__name__}: {name} is needed, {said}")
    return cast(T, make(**known, raw=source))
