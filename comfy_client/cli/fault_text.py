"""The option ``--fault`` of ``serve``: faults as text, such as ``cut(POST, /prompt)``."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..nearest import nearest
from .exits import Mistake

if TYPE_CHECKING:
    from ..testing import Faults

_CALL: Final = re.compile(r"\s*(\w+)\s*(?:\((.*)\))?\s*", re.DOTALL)
_NAME: Final = re.compile(r"\s*([A-Za-z_]\w*)\s*=\s*")
_DECODER: Final = json.JSONDecoder()
#: Methods of :class:`Faults` that are no faults.
_OTHERS: Final = ("active", "clear")


class FaultCall(NamedTuple):
    """A fault to activate: its name and its arguments."""

    name: str
    args: tuple[Any, ...]
    options: dict[str, Any]


def parse_fault(text: str) -> FaultCall:
    """Parse ``NAME`` or ``NAME(VALUE, ..., NAME=VALUE)``; raise Mistake for any other text.

    A value is JSON, or else all up to the next comma, as a text: ``*``, ``/prompt``, ``POST``.
    """
    found = _CALL.fullmatch(text)
    if found is None:
        raise Mistake(f"--fault {text!r}: write NAME, or NAME(VALUE, NAME=VALUE)")
    args: list[Any] = []
    options: dict[str, Any] = {}
    for name, value in _arguments(found[2] or ""):
        if name is not None:
            options[name] = value
        elif options:
            raise Mistake(f"--fault {text!r}: {value!r} stands after an argument with a name")
        else:
            args.append(value)
    return FaultCall(found[1], tuple(args), options)


def _arguments(text: str) -> Iterator[tuple[str | None, Any]]:
    at = 0
    while text[at:].strip():
        named = _NAME.match(text, at)
        start = named.end() if named else len(text) - len(text[at:].lstrip())
        value, at = _value(text, start)
        yield named and named[1], value
        at += 1  # the comma


def _value(text: str, start: int) -> tuple[Any, int]:
    """Return a value, and where the comma behind it or the end of the text is."""
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        pass
    else:
        end += len(text[end:]) - len(text[end:].lstrip())
        if text[end : end + 1] in ("", ","):
            return tuple(value) if isinstance(value, list) else value, end
    end = text.find(",", start)
    end = len(text) if end < 0 else end
    return text[start:end].strip(), end


def activate(faults: Faults, call: FaultCall) -> None:
    """Activate a fault of a running server; raise Mistake if there is none like that."""
    known = [name for name in dir(type(faults)) if name[0] != "_" and name not in _OTHERS]
    if call.name not in known:
        near = nearest(call.name, known)
        raise Mistake(f"--fault: there is no {call.name!r}; nearest: {', '.join(near or known)}")
    method = getattr(faults, call.name)
    try:
        inspect.signature(method).bind(*call.args, **call.options)
        method(*call.args, **call.options)
    except (TypeError, ValueError) as exc:
        raise Mistake(f"--fault {call.name}: {exc}") from exc
