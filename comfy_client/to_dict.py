"""``to_dict()`` of all classes: attributes as bounded JSON, without secrets and bytes.

A class inherits :class:`AsDict`, and adjusts its attributes by two tuples of names; only this
module converts values.  ``schema.json`` of the package describes each class.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import Enum
from functools import cache
from itertools import islice
from typing import Any, ClassVar, Final

import attrs

from .redaction import Sealed, is_secret_value

#: The most values in all; further items of lists and objects are left out.
MAX_VALUES: Final = 100_000
#: The most characters of all texts.
MAX_CHARACTERS: Final = 4 << 20
#: The most characters of one text; a longer one is cut, with three dots at the end.
MAX_TEXT: Final = 1 << 16
#: The most levels of nested lists and objects.
MAX_DEPTH: Final = 32
#: The most bits of a number, as Python refuses to write thousands of digits.
_MAX_BITS: Final = 1024

_STARS: Final = "***"
_DOTS: Final = "..."


class AsDict:
    """The base class of all classes with a ``to_dict()`` method."""

    __slots__ = ()

    #: Attributes of this class that come first, and properties that are written like attributes.
    _in_dict: ClassVar[tuple[str, ...]] = ()
    #: Attributes of this class that are left out.
    _not_in_dict: ClassVar[tuple[str, ...]] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes by name, as JSON values for ``json.dumps``.

        The result is bounded, and contains no secret, no bytes and nothing that is ``raw``.  The
        guide (``json.rst``) has the rules, and ``schema.json`` of the package the JSON Schema.
        """
        return _Writer().whole(self)


@cache
def names_in_dict(cls: Any) -> tuple[str, ...]:
    """Return the names of the attributes in ``to_dict()`` of a class, in order."""
    if attrs.has(cls):
        own: list[str] = [field.name for field in attrs.fields(cls)]
    else:
        own = [name for base in reversed(cls.__mro__) for name in _annotated(base)]
    first = [name for base in reversed(cls.__mro__) for name in vars(base).get("_in_dict", ())]
    left_out = {"raw"}.union(*(vars(base).get("_not_in_dict", ()) for base in cls.__mro__))
    names = dict.fromkeys((*first, *own))
    return tuple(name for name in names if name not in left_out and not name.startswith("_"))


def _annotated(base: type) -> Iterable[str]:
    return vars(base).get("__annotations__", ()) if issubclass(base, AsDict) else ()


def _get(value: AsDict, name: str) -> Any:
    try:
        return getattr(value, name)
    except ValueError:  # such as for the URL of a file that belongs to no client
        return None


class _Writer:
    """The conversion of one object to JSON values, within limits of number and size."""

    def __init__(self) -> None:
        self._values = MAX_VALUES
        self._characters = MAX_CHARACTERS
        self._is_cut = False

    def whole(self, value: AsDict) -> dict[str, Any]:
        """Convert a whole object; add the key ``truncated`` if anything was cut off."""
        found = self._object(value, 0)
        return {**found, "truncated": True} if self._is_cut else found

    def _object(self, value: AsDict, depth: int) -> dict[str, Any]:
        self._values -= 1
        kind: Any = type(value)
        return {name: self._any(_get(value, name), depth + 1) for name in names_in_dict(kind)}

    def _any(self, value: Any, depth: int, *, is_secret: bool = False) -> Any:
        """Convert any value; ``is_secret`` is true if an enclosing name makes its texts secret."""
        self._values -= 1
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, Enum):
            value = value.value
        if isinstance(value, str):
            return self._text(value) if not is_secret else _STARS
        if isinstance(value, int | float):
            return self._number(value)
        if isinstance(value, AsDict):
            return self._object(value, depth)
        if isinstance(value, BaseException):
            return self._exception(value)
        if isinstance(value, Mapping):
            return self._mapping(value, depth, is_secret)
        if isinstance(value, list | tuple | set | frozenset | range):
            return self._list(value, depth, is_secret)
        if isinstance(value, datetime):
            return value.isoformat()
        if isinstance(value, os.PathLike):
            return self._text(os.fsdecode(value))
        return self._other(value)

    def _text(self, value: str) -> str:
        if isinstance(value, Sealed):
            return _STARS
        most = max(len(_DOTS), min(MAX_TEXT, self._characters))
        if len(value) > most:
            self._is_cut = True
            value = value[: most - len(_DOTS)] + _DOTS
        self._characters -= len(value)
        # Half of a surrogate pair can be neither written nor sent.
        return value if value.isascii() else value.encode("utf-8", "replace").decode()

    def _number(self, value: float) -> float | str | None:
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        return value if value.bit_length() <= _MAX_BITS else self._beyond()

    def _beyond(self) -> str:
        self._is_cut = True
        return _DOTS

    def _mapping(self, value: Mapping[Any, Any], depth: int, is_secret: bool) -> Any:
        if depth > MAX_DEPTH:
            return self._beyond()
        found: dict[str, Any] = {}
        for key, each in list(islice(value.items(), max(0, self._values))):
            if self._cut_if_full():
                break
            # Inputs of a grid may be named by node and input.
            name = ".".join(map(str, key)) if isinstance(key, tuple) else str(key)
            hides = is_secret or is_secret_value(name, each)
            found[self._text(name)] = self._any(each, depth + 1, is_secret=hides)
        self._is_cut = self._is_cut or len(found) < len(value)
        return found

    def _list(self, value: Iterable[Any], depth: int, is_secret: bool) -> Any:
        if depth > MAX_DEPTH:
            return self._beyond()
        found: list[Any] = []
        for each in sorted(map(str, value)) if isinstance(value, set | frozenset) else value:
            if self._cut_if_full():
                break
            found.append(self._any(each, depth + 1, is_secret=is_secret))
        return found

    def _cut_if_full(self) -> bool:
        """Return whether a limit (values, characters) is reached; if so, mark the dict as cut."""
        is_full = self._values <= 0 or self._characters <= 0
        self._is_cut = self._is_cut or is_full
        return is_full

    def _exception(self, value: BaseException) -> dict[str, Any]:
        """Convert an exception that is not a :class:`ComfyError` to the same form as one."""
        kind: Any = type(value)
        return {
            "code": code_of(kind),
            "message": self._text(str(value)),
            "hint": None,
            "retryable": False,
        }

    def _other(self, value: Any) -> Any:
        if isinstance(value, bytes | bytearray | memoryview):
            size = value.nbytes if isinstance(value, memoryview) else len(value)
            return {"type": "bytes", "size": size}
        import numbers  # seldom needed, and slow to import

        if isinstance(value, numbers.Integral):  # numpy's
            return self._number(int(value))
        if isinstance(value, numbers.Real):
            return self._number(float(value))
        nbytes = getattr(value, "nbytes", None)  # arrays have it
        return {"type": type(value).__name__, "size": nbytes if isinstance(nbytes, int) else None}


@cache
def code_of(kind: Any) -> str:
    """Return the code of an error class: ``job_failed`` for ``JobFailed``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()
