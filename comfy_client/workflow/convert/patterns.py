"""Regular expressions of files, which come from the browser and are not trusted."""

from __future__ import annotations

import re
from typing import Any, Final

from attrs import frozen

from .open_nodes import InputBudget

#: The longest expression, and how much of a text it is tried on.
_LONGEST: Final = 200
#: What JavaScript and Python read alike: no repeated groups, no look-around, no references.
_CHARACTER: Final = r"[^\\()\[\]{}*+?|]|\\[bBdDwWs.^$()\[\]{}*+?|/-]|\[\^?[^\\\[\]^]+\]"
_PLAIN: Final = re.compile(rf"(?:\(\?:|\((?!\?)|\)(?![*+?{{])|\||(?:{_CHARACTER})[*+?]?)*")
_REPEAT: Final = re.compile(r"(?<!\\)[*+]")
_MOST_REPEATS: Final = 2
#: Optional characters, and alternatives in groups: each may double the work.
_CHOICE: Final = re.compile(r"(?<!\\)(?<!\()[?|]")
_MOST_CHOICES: Final = 6


class Unclear(Exception):
    """An expression or a rule that only the browser can judge; the text says why."""


@frozen
class Pattern:
    """A regular expression that a text must match, or must not if it is inverted."""

    regex: re.Pattern[str]
    inverted: bool
    _repeats: int
    _choices: int

    def accepts(self, text: str, budget: InputBudget) -> bool:
        """Return whether the beginning of a text matches, or does not if inverted.

        Raises:
            TooMuch: Too many texts were tried.
        """
        text = text[:_LONGEST]
        budget.spend(len(text) ** self._repeats << self._choices)
        return (self.regex.search(text) is None) == self.inverted


def pattern(value: Any, inverted: bool = False) -> Pattern | None:
    """Read a regular expression; return None if it is empty, takes everything, or is no good.

    Raises:
        Unclear: It is longer or more involved than those that are tried here.
    """
    if not isinstance(value, str) or value in ("", ".*"):
        return None
    repeats, choices = len(_REPEAT.findall(value)), len(_CHOICE.findall(value))
    is_short = len(value) <= _LONGEST and repeats <= _MOST_REPEATS and choices <= _MOST_CHOICES
    if not is_short or not _PLAIN.fullmatch(value):
        raise Unclear("its regular expression is too involved")
    try:
        return Pattern(re.compile(value, re.ASCII), inverted, repeats, choices)
    except re.error:
        return None
