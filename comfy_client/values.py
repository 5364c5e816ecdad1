"""Checked and bounded values from a server's JSON, and models of them.

A server may send anything.  Each value in a model, an event or an error passes one of these
converters, which return None for a value of another type, and cut a long one, marked by three dots.
They never raise; the original value stays in ``raw``.  For a required value, :func:`build` and the
functions near it raise :class:`UnexpectedResponse`, and nothing else.
"""

from __future__ import annotations

import hashlib
import math
import uuid
from collections.abc import Callable, Mapping
from functools import cache, partial
from itertools import islice
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Final,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import attrs

from .errors import UnexpectedResponse

T = TypeVar("T")

Converter = Callable[[Any], Any]

#: The most characters of an id.  A UUID has 36; servers before ComfyUI 0.25 accept any text.
MAX_ID_LENGTH: Final = 256
#: The most characters of any other text.
MAX_TEXT_LENGTH: Final = 1 << 20
#: The most items of a list or a table.
MAX_ITEMS: Final = 250_000
#: The most levels of nested lists and tables in events, and in outputs and inputs of nodes.
#: Far deeper values can be neither copied nor written as JSON.
MAX_LEVELS: Final = 150
#: Times above this are in milliseconds, as in seconds they would be after the year 5000.
_LATEST: Final = 1e11


def is_real(value: object) -> bool:
    """Return whether a value is a real number, built in or of NumPy; a bool counts, too."""
    if isinstance(value, (float, int)):
        return True
    import numbers  # seldom needed, and slow to import

    return isinstance(value, numbers.Real)


def text(value: object, most: int = MAX_TEXT_LENGTH) -> str | None:
    """Return a text, cut to ``most`` characters and fit for any encoding; None for other values."""
    if not isinstance(value, str):
        return None
    if len(value) > most:
        value = f"{value[: most - 3]}..."
    # JSON can contain half of a surrogate pair, which can be neither written nor sent.
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def exact(value: object, most: int) -> str | None:
    """Return a text if it need not be changed or cut, such as a file name; None otherwise."""
    if not isinstance(value, str) or len(value) > most:
        return None
    return value if value.isascii() or text(value, most) == value else None


def identifier(value: object) -> str | None:
    """Return an id as short text, even if it was sent as a number; None for other values.

    Long ids are cut, but stay different: nodes that expand themselves repeatedly have such ids.
    """
    if type(value) is str:  # the usual case, and short
        return value if len(value) <= MAX_ID_LENGTH and value.isascii() else _short(value)
    if value is None or number(value) is None:
        return None
    return _short(str(value))


def _short(value: str) -> str | None:
    if len(value) > MAX_ID_LENGTH:
        digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        value = f"{value[: MAX_ID_LENGTH - 19]}...{digest}"
    return text(value, MAX_ID_LENGTH)


def is_uuid(value: object) -> bool:
    """Return whether a value is a UUID as ``str(uuid.uuid4())`` writes it."""
    try:
        return isinstance(value, str) and str(uuid.UUID(value)) == value
    except ValueError:
        return False


def number(value: object) -> float | None:
    """Return a value if it is a finite number; None for other values."""
    if type(value) is not int and type(value) is not float:
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # an int that no float can hold
        return None


def whole(value: object) -> int | None:
    """Return a number without its fraction (some sizes are sent as floats), or None."""
    found = number(value)
    return found if found is None or type(found) is int else int(found)


def flag(value: object) -> bool | None:
    """Return a bool, or None for other values."""
    return value if isinstance(value, bool) else None


def seconds(value: object) -> float | None:
    """Return a Unix time in seconds, even if it was sent in milliseconds, or None."""
    found = number(value)
    return found / 1000 if found is not None and abs(found) > _LATEST else found


def sequence(value: object, convert: Converter | None = None) -> tuple[Any, ...] | None:
    """Return the converted items of a JSON array, without Nones; None for another value."""
    if type(value) is not list and type(value) is not tuple:
        return None
    given = value if len(value) <= MAX_ITEMS else value[:MAX_ITEMS]
    if convert is None:
        return tuple(given)
    return tuple([item for item in map(convert, given) if item is not None])


def table(value: object, convert: Converter | None = None) -> Mapping[str, Any] | None:
    """Return a JSON object with its values converted, without Nones; None for another value."""
    # dict first, here and elsewhere: isinstance() with an abstract base class is slow.
    if convert is None or not isinstance(value, (dict, Mapping)):
        return value if isinstance(value, (dict, Mapping)) else None
    converted = (
        (key if key.isascii() and len(key) <= MAX_ID_LENGTH else text(key) or "", convert(item))
        for key, item in islice(value.items(), MAX_ITEMS)
    )
    return {key: item for key, item in converted if item is not None}


def _at(value: object, keys: tuple[str, ...]) -> object:
    for key in keys:
        value = value.get(key) if isinstance(value, (dict, Mapping)) else None
    return value


def table_at(value: object, *keys: str) -> Mapping[str, Any]:
    """Return the JSON object at a path of keys in a value; an empty one if there is none."""
    found = _at(value, keys)
    return found if isinstance(found, (dict, Mapping)) else {}


def list_at(value: object, *keys: str) -> list[Any]:
    """Return the JSON array at a path of keys in a value; an empty one if there is none."""
    found = _at(value, keys)
    return found if isinstance(found, list) else []


def plain_text(value: object) -> str:
    """Return a text as it is; an empty one for any other value."""
    return value if isinstance(value, str) else ""


def by_id(value: object, convert: Converter) -> dict[str, Any]:
    """Convert a JSON object whose keys are ids of nodes or prompts; empty for anything else."""
    pairs = islice(value.items(), MAX_ITEMS) if isinstance(value, Mapping) else ()
    converted = ((identifier(key), convert(item)) for key, item in pairs)
    return {key: item for key, item in converted if key is not None and item is not None}


def size_decoded(content: bytes | str) -> int:
    """Estimate the memory of decoded JSON in bytes, within a factor of 1.4.

    The estimate goes by its parts, without decoding: CPython 3.11 uses 56 bytes and more for a
    list, 184 for an object with one key, and 28 to 60 for a number, a short text or a key.
    """
    # Not with map, which is all C: other threads can run between these calls.
    if isinstance(content, bytes):
        values, keys, lists, objects = [content.count(mark) for mark in (b",", b":", b"[", b"{")]
    else:
        values, keys, lists, objects = [content.count(mark) for mark in (",", ":", "[", "{")]
    return len(content) + 40 * (values + keys) + 64 * lists + 110 * objects


def is_small(value: object, most: int) -> bool:
    """Return whether a JSON value contains at most ``most`` values in all."""
    level: list[Any] = [value]
    while level:
        most -= len(level)
        if most < sum(len(item) for item in level if isinstance(item, dict | list)):
            return False
        level = _below(level)
    return True


def count(value: object) -> int:
    """Return the number of values in a JSON value, itself included."""
    found, level = 1, [value]
    while level := _below(level):
        found += len(level)
    return found


def shallow(value: object) -> Mapping[str, Any] | None:
    """Return a JSON object that is not nested too deeply to copy or show, or None."""
    return value if isinstance(value, Mapping) and is_shallow(value) else None


def is_shallow(value: object, levels: int = MAX_LEVELS) -> bool:
    """Return whether a JSON value has at most ``levels`` levels, so that it can be copied."""
    level: list[Any] = [value]
    for _ in range(levels):
        level = _below(level)
        if not level:
            return True
    return False


def _below(level: list[Any]) -> list[Any]:
    """Return the values in these objects and arrays."""
    below: list[Any] = []
    for item in level:
        if isinstance(item, dict):
            below += item.values()
        elif isinstance(item, list):
            below += item
    return below


# -- required values ---------------------------------------------------------------------


def mapping(data: object, what: str) -> Mapping[str, Any]:
    """Return ``data`` if it is a JSON object, else raise :class:`UnexpectedResponse`."""
    if not isinstance(data, (dict, Mapping)):
        raise UnexpectedResponse(f"{what}: expected a JSON object, got {_kind(data)}")
    return data


def items(data: object, what: str) -> list[Any]:
    """Return ``data`` if it is a JSON array, not too long, else raise UnexpectedResponse."""
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


# -- a model -----------------------------------------------------------------------------

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
    """Return (name, converter, is required) for each field of a model that has a converter."""
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
    make: Any = cls
    for name, convert, is_required in _fields(make):
        if name in given:
            continue
        value = source.get(name)
        if value is not None:
            value = convert(value)
        if value is not None:
            given[name] = value
        elif is_required:
            said = f"got {_kind(source[name])}" if name in source else "there is none"
            raise UnexpectedResponse(f"{cls.__name__}: {name} is required, {said}")
    made: T = make(**given, raw=source)
    return made
