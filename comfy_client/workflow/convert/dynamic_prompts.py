"""Dynamic prompts: choices such as ``{day|night}``, and comments."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from ...errors import WorkflowError
from ..definition_source import Definitions, as_mapping
from ..graph import class_of, inputs_of
from .specs import grouped

_COMMENTS: Final = re.compile(r"/\*|//[^\n\r\u2028\u2029]*")
_MARKS: Final = re.compile(r"\\.|[{}]", re.DOTALL)
_LINES: Final = re.compile(r"//[^\n\r\u2028\u2029]*")
_PLAIN: Final = re.compile(r"[^\\{}|]+")
_ESCAPED: Final = re.compile(r"\\([{}|])")
#: The deepest nesting of choices, and the largest product of depth and length.
_DEEPEST: Final = 100
_MOST_WORK: Final = 10_000_000


class Chooser(Protocol):
    """A source of random choices, such as ``random.Random``."""

    def choice(self, options: Sequence[str], /) -> str:
        """Return one of the options."""


def chooser(seed: int | Chooser | None) -> Chooser:
    """Return a source of random choices: the given one, or a new one from a seed or None."""
    if seed is None or isinstance(seed, int):
        return random.Random(seed)  # noqa: S311  # no secret depends on it
    return seed


def is_dynamic(text: str) -> bool:
    """Return whether a text has choices, comments or escapes, which the frontend would resolve."""
    return "{" in text or _without_comments(text) != text or bool(_ESCAPED.search(text))


def cost_of(text: str) -> int:
    """Return the number of characters to scan, with repetitions, to resolve a text."""
    return (1 + _depth(_without_comments(text))) * len(text)


def resolve_prompt(text: str, rng: Chooser) -> str:
    """Remove comments, and choose one option of each ``{a|b}``.

    Options may contain further choices.  A backslash escapes ``{``, ``|`` and ``}``.

    Raises:
        WorkflowError: The choices are nested too deeply.
    """
    text = _without_comments(text)
    if _depth(text) > _DEEPEST or cost_of(text) > _MOST_WORK:
        raise WorkflowError("the choices {a|b} of a prompt are nested too deeply")
    return _resolve(text, rng)


def _without_comments(text: str) -> str:
    parts: list[str] = []
    at = begin = 0
    while (found := _COMMENTS.search(text, at)) is not None:
        at = end = found.end()
        if found[0] == "/*":
            close = text.find("*/", end)
            if close < 0:  # no later one is closed either: only line comments are left
                return "".join([*parts, text[begin:end], _LINES.sub("", text[end:])])
            at = end = close + 2
        parts.append(text[begin : found.start()])
        begin = end
    return "".join([*parts, text[begin:]])


def _resolve(text: str, rng: Chooser) -> str:
    parts: list[str] = []
    at = 0
    while at < len(text):
        if text[at] != "{":
            end = _skip(text, at)
            parts.append(text[at:end])
            at = end
            continue
        options, at = _options(text, at + 1)
        parts.append(_resolve(rng.choice(options), rng))
    return _ESCAPED.sub(r"\1", "".join(parts))


def _options(text: str, at: int) -> tuple[list[str], int]:
    """Parse the options of a choice; return them and the index after the choice."""
    options: list[str] = []
    begin, depth = at, 0
    while at < len(text):
        char = text[at]
        if char == "{":
            depth += 1
        elif char == "}":
            if not depth:
                return [*options, text[begin:at]], at + 1
            depth -= 1
        elif char == "|" and not depth:
            options.append(text[begin:at])
            begin = at + 1
        at = at + 1 if char in "{}|" else _skip(text, at)
    return [*options, text[begin:]], at


def _skip(text: str, at: int) -> int:
    """Return the index after the next escape, brace or bar, or run of plain letters."""
    if text[at] == "\\":
        return min(at + 2, len(text))
    plain = _PLAIN.match(text, at)
    return plain.end() if plain else at + 1


def _depth(text: str) -> int:
    depth = most = 0
    for found in _MARKS.finditer(text):
        depth += (found[0] == "{") - (found[0] == "}" and depth > 0)
        most = max(most, depth)
    return most


def resolve_prompts(
    graph: dict[str, Any],
    rng: int | Chooser | None,
    known: Mapping[tuple[str, str], str | None] | None,
    definitions: Definitions | None,
) -> None:
    """Implement :meth:`Workflow.resolve_prompts`; ``known`` are the prompts a conversion found."""
    found: list[tuple[str, str, str | None]]
    if definitions is not None:
        found = [*_defined(graph, definitions)]
    elif known is not None:
        found = [(*key, kept) for key, kept in known.items()]
    else:
        found = [
            (node_id, name, None)
            for node_id in graph
            for name, value in inputs_of(graph, node_id).items()
            if isinstance(value, str) and "{" in value
        ]
    choose = chooser(rng)
    texts = {}
    for node_id, name, kept in found:
        text = inputs_of(graph, node_id).get(name)
        if isinstance(text, str) and text != kept and is_dynamic(text):
            texts[node_id, name] = resolve_prompt(text, choose)
    for (node_id, name), text in texts.items():  # all of them, or none
        graph[node_id]["inputs"][name] = text


def _defined(graph: Mapping[str, Any], definitions: Definitions) -> Iterator[tuple[str, str, None]]:
    classes = {node_id: class_of(graph, node_id) or "" for node_id in graph}
    known = as_mapping(definitions, {*classes.values()})
    for node_id, class_type in classes.items():
        for one in grouped(known.get(class_type, {}).get("input")):
            if one.options.get("dynamicPrompts") is True:
                yield node_id, one.name, None
