"""Names and values as Python source, made of text from servers and files.

A name from outside becomes an identifier only if it is plain ASCII and means nothing else;
everything else stays a string literal, which cannot end early.
"""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterable
from itertools import islice
from typing import Any, Final

#: The longest name that may become an identifier.
_LONGEST_NAME: Final = 100
#: The longest variable name, without its number.
_LONGEST_VARIABLE: Final = 40
_WIDTH: Final = 96
_DEEPEST: Final = 40  # the deepest indentation, in columns
_TAKEN: Final = frozenset(dir(builtins))


def is_identifier(name: str) -> bool:
    """Return whether a name from outside can be used in code as an attribute or a keyword.

    Python normalizes some letters to others (``ﬁ`` to ``fi``), so only ASCII is allowed; a leading
    underscore is reserved for this library and for Python.
    """
    return (
        len(name) <= _LONGEST_NAME
        and name.isascii()
        and name.isidentifier()
        and not name.startswith("_")
        and not keyword.iskeyword(name)
    )


def variable(text: str) -> str:
    """Make a lower-case variable name from a title or a class; return ``""`` if impossible."""
    text = text[:200].replace("LoRA", "Lora")  # to become one word, as for KSampler
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z]{2})(?=[A-Z][a-z])", "_", text)
    name = re.sub(r"[^a-z0-9]+", "_", words.lower())[:_LONGEST_VARIABLE].strip("_")
    if not name or not re.search("[a-z]", name):
        return ""
    if name[0].isdigit():
        name = f"node_{name}"
    return f"{name}_" if keyword.iskeyword(name) or name in _TAKEN else name


def quoted(text: str) -> str:
    """Return a string literal, in double quotes unless that needs escapes.

    ``repr`` escapes invisible characters, such as those that change the direction of text.
    """
    literal = str.__repr__(text)  # the repr of a sealed text hides it
    return literal if '"' in literal else f'"{literal[1:-1]}"'


def literal(value: Any, column: int = 0, indent: int = 0) -> str:
    """Format a JSON value as a Python expression, over several lines if it is long.

    Args:
        value: As JSON carries it: no NaN, and keys that are strings.
        column: The columns of the first line that are taken already.
        indent: The indentation of that line.

    Raises:
        ValueError: An ``int`` of more digits than Python writes.
    """
    if isinstance(value, str):
        return _text(value, column, indent)
    if not isinstance(value, (dict, list)):
        return _scalar(value)
    if _fits(value, _WIDTH - column):
        return _flat(value)
    inside = min(indent + 4, _DEEPEST)
    lines = []
    for key, inner in value.items() if isinstance(value, dict) else (("", one) for one in value):
        name = f"{quoted(key)}: " if isinstance(value, dict) else ""
        lines.append(f"{' ' * inside}{name}{literal(inner, inside + len(name), inside)},\n")
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n{''.join(lines)}{' ' * indent}{closing}"


def _scalar(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return repr(value)
    return (int if isinstance(value, int) else float).__repr__(value)  # numpy's own repr differs


def _flat(value: Any) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{quoted(k)}: {_flat(inner)}' for k, inner in value.items())}}}"
    return f"[{', '.join(map(_flat, value))}]" if isinstance(value, list) else _scalar(value)


def _fits(value: Any, width: int) -> bool:
    """Return whether a value fits on one line of ``width`` columns; stop once it does not."""
    ahead = [value]
    while ahead and width > 0:
        one = ahead.pop()
        if isinstance(one, dict):
            width -= 2 + sum(len(key) + 6 for key, _ in zip(one, range(width), strict=False))
            ahead += islice(one.values(), max(width, 0))
        elif isinstance(one, list):
            width -= 2 + 2 * len(one)
            ahead += one[: max(width, 0)]
        else:
            width -= len(one) + 2 if isinstance(one, str) else len(_scalar(one))
    return width > 0


def _text(text: str, column: int, indent: int) -> str:
    """Return a text as one literal, or as one for each of its lines."""
    if column + len(text) + 2 < _WIDTH or "\n" not in text:
        return quoted(text)
    inside = " " * min(indent + 4, _DEEPEST)
    lines = "".join(f"{inside}{quoted(line)}\n" for line in text.splitlines(keepends=True))
    return f"(\n{lines}{' ' * indent})"


def packed(texts: Iterable[str], indent: int = 0) -> str:
    """Return short strings as a list literal of Python, several to a line."""
    lines = [""]
    for text in map(quoted, texts):
        if lines[-1] and indent + 4 + len(lines[-1]) + len(text) > _WIDTH:
            lines.append("")
        lines[-1] += f"{' ' if lines[-1] else ''}{text},"
    if len(lines) == 1:
        return f"[{lines[0].removesuffix(',')}]"
    inside = " " * (indent + 4)
    return "[\n" + "".join(f"{inside}{line}\n" for line in lines) + " " * indent + "]"


def call(head: str, arguments: list[str], indent: int = 0) -> str:
    """Format a call as Python source, on one line if it fits, else with one argument per line."""
    flat = f"{head}({', '.join(arguments)})"
    if "\n" not in flat and indent + len(flat) <= _WIDTH:
        return flat
    inside = " " * (indent + 4)
    return f"{head}(\n" + "".join(f"{inside}{one},\n" for one in arguments) + " " * indent + ")"
