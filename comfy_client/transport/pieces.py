"""Large JSON answers, decoded piece by piece.  Pure.

``json.loads`` is one call of C, beside which no other thread runs: for 40 MB that is half a second
or more.  Of an object that holds lists, such as the queue, each element is decoded by a call of
its own here, and other threads run in between.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable
from typing import Any, Final

#: Bytes up to which one call decodes all; also what is turned into text at a time.
_PIECE: Final = 1 << 18

_decoder: Final = json.JSONDecoder()
#: What stands behind a value.
_BEHIND: Final = (",", "]", "}", ":", " ", "\t", "\n", "\r")
_space: Final = re.compile(r"[ \t\n\r]*")

#: What becomes of an element.
Each = Callable[[Any], Any]


def loads(content: bytes, each: Each) -> Any:
    """Decode JSON, with ``each(element)`` for the elements of lists of the outermost object.

    Raises ``ValueError`` for what is no JSON.
    """
    if len(content) <= _PIECE or json.detect_encoding(content) != "utf-8":
        return _at_once(content, each)
    text = _Text(content)
    if text.peek() != "{":
        return _at_once(content, each)
    found = _object(text, each)
    if text.peek():
        raise text.error("Extra data")
    return found


def _at_once(content: bytes, each: Each) -> Any:
    found = json.loads(content)
    if not isinstance(found, dict):
        return found
    return {
        key: [each(element) for element in value] if isinstance(value, list) else value
        for key, value in found.items()
    }


def _object(text: _Text, each: Each) -> dict[str, Any]:
    found: dict[str, Any] = {}
    text.take("{")
    while text.peek() != "}":
        if found:
            text.take(",")
        if text.peek() != '"':
            raise text.error("Expecting property name enclosed in double quotes")
        key = text.value()
        text.take(":")
        found[key] = _list(text, each) if text.peek() == "[" else text.value()
    text.take("}")
    return found


def _list(text: _Text, each: Each) -> list[Any]:
    found: list[Any] = []
    text.take("[")
    while text.peek() != "]":
        if found:
            text.take(",")
        found.append(each(text.value()))
    text.take("]")
    return found


class _Text:
    """JSON that is turned from bytes into text as far as it is read."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._read = 0  # bytes that were turned into text
        # As json.loads does it.
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogatepass").decode
        self._text = ""
        self._at = 0

    def peek(self) -> str:
        """Return the next character that is no space, or ``""`` at the end."""
        while True:
            match = _space.match(self._text, self._at)
            self._at = self._at if match is None else match.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, character: str) -> None:
        """Read this character; ``ValueError`` if it is another."""
        if self.peek() != character:
            raise self.error(f"Expecting {character!r}")
        self._at += 1

    def value(self) -> Any:
        """Read a value."""
        self.peek()
        while True:
            try:
                value, end = _decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError:
                if not self._more():
                    raise
                continue
            # Else it may be the beginning of a number.
            if self._text[end : end + 1] in _BEHIND or not self._more():
                self._at = end
                return value

    def error(self, words: str) -> json.JSONDecodeError:
        """Return an error for the present position."""
        return json.JSONDecodeError(words, self._text, self._at)

    def _more(self) -> bool:
        """Turn at least as much into text as is not read yet; False: there is no more."""
        if self._read >= len(self._content):
            return False
        left = self._text[self._at :]
        end = self._read + max(_PIECE, len(left))
        chunk, is_last = self._content[self._read : end], end >= len(self._content)
        self._text, self._at, self._read = left + self._decode(chunk, is_last), 0, end
        return True
