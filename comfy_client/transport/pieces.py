"""Large JSON, decoded value by value: a whole answer, or a stream while it arrives.  Pure."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from ..values import size_decoded

#: Converts an element of a list; its JSON text is None if everything was decoded by one call.
Each = Callable[[Any, str | None], Any]

#: Bytes up to which one call decodes everything; also the bytes that become text at a time.
PIECE: Final = 1 << 18
#: The most memory of a decoded answer, as a multiple of the bytes that it may have.  ComfyUI's
#: answers take 5 to 8 times their size, brackets alone 27.
GROWTH: Final = 10

_decoder: Final = json.JSONDecoder()
#: Characters that may follow a value.
_BEHIND: Final = (",", "]", "}", ":", " ", "\t", "\n", "\r")
_space: Final = re.compile(r"[ \t\n\r]*")


class OverLimit(Exception):
    """A value that is larger than its reader allows."""


class JsonMember(NamedTuple):
    """A member of a JSON object.

    Attributes:
        name: Its name.
        value: Its decoded value.
        size: The bytes of memory that the value takes, as :func:`size_decoded` estimates them.
    """

    name: str
    value: Any
    size: int


def loads_in_pieces(content: bytes, each: Each | None = None, *, piece: int = PIECE) -> Any:
    """Decode JSON; replace each element of the lists in its outermost object by ``each(element)``.

    ``json.loads`` is one C call, during which no other thread runs; 40 MB take half a second or
    more.  Here, each element of a large answer is decoded by a separate call, so that other threads
    run in between.

    Raises ``ValueError`` for invalid JSON.
    """
    each = each or _itself
    if len(content) <= piece or json.detect_encoding(content) != "utf-8":
        return _at_once(content, each)
    pieces = (content[at : at + piece] for at in range(0, len(content), piece))
    text = _JsonText(pieces, piece)
    if text.peek() == "{":
        found = _members(text, lambda: _list(text, each) if text.peek() == "[" else text.value())
        value: Any = dict(found)
    else:
        value = _list(text, _itself) if text.peek() == "[" else text.value()
    if text.peek():
        raise text.error("Extra data")
    return value


def members(chunks: Iterable[bytes], *, largest: int, piece: int = PIECE) -> Iterator[JsonMember]:
    """Yield the members of a JSON object, as they come.

    Memory holds one member at a time, however long the object is.  A name may come twice;
    for ``json.loads``, the last one counts.

    Args:
        chunks: The bytes of the object, in any pieces.
        largest: The most bytes of a member; its value may take ten times as much memory.
        piece: The bytes that become text at a time; 4 or more, by which the encoding is known.

    Raises:
        ValueError: It is no JSON object, or is cut off.  ``RecursionError``: too deeply nested.
        OverLimit: A member is larger than ``largest``.
    """
    text = _JsonText(iter(chunks), piece, largest)
    for name, (value, size) in _members(text, text.measured):
        yield JsonMember(name, value, size)
    if text.peek():
        raise text.error("Extra data")


def _itself(element: Any, _: str | None) -> Any:
    return element


def _at_once(content: bytes, each: Each) -> Any:
    found = json.loads(content)
    if not isinstance(found, dict):
        return found
    return {
        key: [each(element, None) for element in value] if isinstance(value, list) else value
        for key, value in found.items()
    }


def _members(text: _JsonText, read: Callable[[], Any]) -> Iterator[tuple[str, Any]]:
    """Yield the names of an object's members, each with what ``read`` returns for its value."""
    is_first = True
    text.take("{")
    while text.peek() != "}":
        if not is_first:
            text.take(",")
        is_first = False
        if text.peek() != '"':
            raise text.error("Expecting property name enclosed in double quotes")
        key = text.value()
        text.take(":")
        yield key, read()
    text.take("}")


def _list(text: _JsonText, each: Each) -> list[Any]:
    found: list[Any] = []
    text.take("[")
    while text.peek() != "]":
        if found:
            text.take(",")
        found.append(each(*text.element()))
    text.take("]")
    return found


class _JsonText:
    """JSON whose bytes are decoded to text only as far as they are read."""

    def __init__(self, chunks: Iterator[bytes], piece: int, largest: int | None = None) -> None:
        self._chunks = chunks
        self._piece = piece
        self._largest = largest
        self._is_over = False
        self._is_checked = True
        self._decode: Callable[[bytes, bool], str] | None = None
        self._text = ""
        self._at = 0

    def peek(self) -> str:
        """Return the next character that is not white space, or ``""`` at the end."""
        while True:
            match = _space.match(self._text, self._at)
            self._at = self._at if match is None else match.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, character: str) -> None:
        """Read this character; raise ``ValueError`` if another one comes."""
        if self.peek() != character:
            raise self.error(f"Expecting {character!r}")
        self._at += 1

    def value(self) -> Any:
        """Read the next JSON value, and return it."""
        return self._value()[0]

    def element(self) -> tuple[Any, str]:
        """Read the next JSON value; return it, and its text."""
        value, text, _ = self._value()
        return value, text

    def measured(self) -> tuple[Any, int]:
        """Read the next JSON value; return it, and the memory that it takes."""
        value, _, size = self._value(is_measured=True)
        return value, size

    def error(self, words: str) -> json.JSONDecodeError:
        """Return an error for the current position."""
        return json.JSONDecodeError(words, self._text, self._at)

    def _value(self, *, is_measured: bool = False) -> tuple[Any, str, int]:
        self.peek()
        while True:
            self._check_unread()
            try:
                value, end = _decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError:
                self._check(len(self._text) - self._at, 0)
                if not self._more():
                    raise
                continue
            # Otherwise it may be the beginning of a number.
            if self._text[end : end + 1] in _BEHIND or not self._more():
                text = self._text[self._at : end]
                size = size_decoded(text) if is_measured else 0
                self._check(len(text), size)
                self._at = end
                return value, text, size

    def _check_unread(self) -> None:
        """Raise before a value is decoded that would take far too much memory."""
        if self._is_checked:
            return  # with more in front, so what is left is smaller
        self._is_checked = True
        if self._largest is not None and len(self._text) - self._at > self._piece:
            # The text goes on behind the value, for up to its length.
            self._check(0, size_decoded(self._text[self._at :]) // 2)

    def _check(self, length: int, size: int) -> None:
        most = self._largest
        if most is not None and (length > most or size > GROWTH * most):
            if length > most:
                raise OverLimit(f"has a member of more than the {most} bytes that are")
            many = GROWTH * most >> 20
            raise OverLimit(f"has a member that would take {size >> 20} MiB decoded, {many} are")

    def _more(self) -> bool:
        """Decode more bytes to text, at least as many as are unread; return False at the end."""
        if self._is_over:
            return False
        left = self._text[self._at :]
        wanted, chunks, got = max(self._piece, len(left)), [], 0
        while got < wanted and not self._is_over:
            chunk = next(self._chunks, None)
            if chunk is None:
                self._is_over = True
            else:
                chunks.append(chunk)
                got += len(chunk)
        content = b"".join(chunks)
        if self._decode is None:
            # The same decoder as in json.loads.
            found = json.detect_encoding(content)
            self._decode = codecs.getincrementaldecoder(found)("surrogatepass").decode
        self._text, self._at = left + self._decode(content, self._is_over), 0
        self._is_checked = False
        return True
