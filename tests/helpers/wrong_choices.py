"""A wrong choice for each input of each class, and a number that is too large for each class.

What a server says to them tells which classes check their inputs themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs

_DEFAULTS: Final = {"INT": 1, "FLOAT": 1.0, "STRING": "", "BOOLEAN": True}


@attrs.frozen
class WrongChoice:
    """A workflow with a value that a definition rules out.

    Attributes:
        class_type: The class of node ``1``.
        input: The input with the value.
        graph: The workflow.
    """

    class_type: str
    input: str
    graph: dict[str, Any]


def wrong_choices(definitions: Mapping[str, Any]) -> Iterator[WrongChoice]:
    """One for each plain choice, and one for a number with a range, of each class."""
    for name, definition in sorted(definitions.items()):
        specs = {}
        for group in ("required", "optional"):
            specs |= definition["input"].get(group, {})
        wrong = {one: "nonsense" for one, spec in specs.items() if _is_choice(spec)}
        ranges = [one for one, spec in specs.items() if "max" in _options(spec)]
        wrong |= dict.fromkeys(ranges[:1], 10**21)
        given = {one: _value(spec) for one, spec in specs.items() if _has_value(spec)}
        for one, value in wrong.items() if _can_run(definition) else ():
            node = {"class_type": name, "inputs": {**given, one: value}}
            graph = {"1": node}
            if not definition["output_node"]:
                graph["2"] = {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}
            yield WrongChoice(name, one, graph)


def _can_run(definition: Mapping[str, Any]) -> bool:
    return bool(definition["output_node"] or definition["output"])


def _is_choice(spec: Any) -> bool:
    return isinstance(spec[0], list) or spec[0] == "COMBO"


def _has_value(spec: Any) -> bool:
    return _is_choice(spec) or spec[0] in _DEFAULTS


def _options(spec: Any) -> Mapping[str, Any]:
    return spec[1] if len(spec) > 1 and spec[0] in ("INT", "FLOAT") else {}


def _value(spec: Any) -> Any:
    options = spec[1] if len(spec) > 1 else {}
    if "default" in options:
        return options["default"]
    choices = spec[0] if isinstance(spec[0], list) else options.get("options")
    return next(iter(choices or ()), "x") if _is_choice(spec) else _DEFAULTS[spec[0]]
