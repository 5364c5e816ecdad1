"""The inputs and outputs of one node, by the definition of its class and its values.

Some inputs have several parts: the choice of a *dynamic combo* adds inputs of its own
(``model.size``), and an *autogrow* input has any number of parts (``images.image0``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

import attrs

from ..values import table_at
from .convert.specs import Spec
from .convert.widgets import MISSING, is_widget_type, widgets_for

#: The deepest nesting of inputs, and the most required parts of a group.
_MAX_LEVELS: Final = 20
_MOST_REQUIRED: Final = 1000


@attrs.frozen
class InputSpec:
    """An input of a node class, which accepts a value or a link.

    Attributes:
        name: Its full name, such as ``seed`` or ``images.image0``.
        kind: A type, several with commas between, ``*`` for any, or a list of options.
        options: ``default``, ``min``, ``max`` and the like.
        required: Whether the server refuses a node without it.
        template: The name shared by inputs and outputs that take one type from their links;
            empty: the type is fixed.
    """

    name: str
    kind: Any
    options: Mapping[str, Any]
    required: bool
    template: str = ""

    @property
    def choices(self) -> list[Any] | None:
        """The choices of a combo; None for other types, or if only the frontend knows them."""
        if isinstance(self.kind, list):
            return self.kind
        choices = self.options.get("options") if self.kind == "COMBO" else None
        return choices if isinstance(choices, list) else None

    @property
    def is_selector(self) -> bool:
        """Whether this is a dynamic combo, whose choices add inputs of their own."""
        listed = _list(self.options.get("options"))
        return isinstance(self.kind, list) and any(isinstance(one, Mapping) for one in listed)

    @property
    def is_widget(self) -> bool:
        """Whether the frontend shows a field for the value."""
        if self.options.get("forceInput") or self.options.get("defaultInput"):
            return False
        kinds = [self.kind, self.options.get("widgetType")]
        return any(isinstance(one, list) or _is_widget(one) for one in kinds)

    @property
    def has_open_choices(self) -> bool:
        """Whether values beyond the listed choices are allowed, as for uploads."""
        if self.choices is None and self.kind != "COMBO":
            return False
        return any(name.endswith("upload") or name.startswith("remote") for name in self.options)

    @property
    def takes_link_only(self) -> bool:
        """Whether the input accepts only links, since its type has no values, such as MODEL."""
        if not isinstance(self.kind, str) or self.is_widget or "default" in self.options:
            return False
        return "*" not in self.kind and not any(map(is_widget_type, types_of(self.kind)))

    def default(self) -> Any:
        """Return the frontend's initial value.

        Raises:
            LookupError: There is none: it takes a link, or the server has no options.
        """
        if self.is_widget and self.options.get("default") is not None:
            return self.options["default"]
        listed = {"options": self.kind} if isinstance(self.kind, list) else {}
        kind = "COMBO" if listed else self.kind
        made = widgets_for(Spec(self.name, kind, {**self.options, **listed}), list)
        if not (made and self.is_widget) or made[0].value in (MISSING, None) or made[0].hook:
            raise LookupError
        if self.has_open_choices and made[0].value not in (self.choices or ()):
            raise LookupError  # only the frontend knows the options
        value = made[0].value
        if self.kind not in ("INT", "FLOAT"):
            return value
        low, high = (self.options.get(name) for name in ("min", "max"))
        value = max(value, low) if isinstance(low, (int, float)) else value
        return min(value, high) if isinstance(high, (int, float)) else value


@attrs.frozen
class Autogrow:
    """An input with a variable number of parts.

    Attributes:
        name: Its full name.
        part: The input that each part is; its ``name`` is that of the template.
        names: The names of the parts, if they are listed.
        prefix: The text before the number of a part, if the names are not listed.
        most: The highest number of parts.
        least: The lowest number of parts.
    """

    name: str
    part: InputSpec
    names: tuple[str, ...]
    prefix: str
    most: int
    least: int

    def part_name(self, index: int) -> str:
        """Return the full name of the part at an index."""
        name = self.names[index] if self.names else f"{self.prefix}{index}"
        return f"{self.name}.{name}"

    def parts(self, given: Collection[str]) -> Iterator[InputSpec]:
        """Yield the parts that are given, and those that are required."""
        required = dict.fromkeys(map(self.part_name, range(self.least)))
        for name in {**required, **dict.fromkeys(one for one in given if self.has(one))}:
            yield attrs.evolve(self.part, name=name, required=name in required)

    def has(self, name: str) -> bool:
        """Return whether a name is the full name of a part."""
        if not name.startswith(f"{self.name}."):
            return False
        bare = name[len(self.name) + 1 :]
        if self.names:
            return bare in self.names
        number = bare.removeprefix(self.prefix)
        return (
            bare.startswith(self.prefix)
            and len(number) < 8
            and number.isascii()
            and number.isdecimal()
            and str(int(number)) == number
            and int(number) < self.most
        )


Given = Mapping[str, Any]


def walk(
    definition: Mapping[str, Any], given: Given, *, defaults: bool = True
) -> Iterator[InputSpec | Autogrow | str]:
    """Yield the inputs of a class in their order, required ones first.

    Args:
        definition: One value of ``GET /object_info``, or part of one.
        given: The node's values: the choice of a dynamic combo decides which inputs follow.
        defaults: Whether a dynamic combo that is not given has its default; for the server it
            has none.

    Yields:
        Inputs; autogrow inputs; and for an unknown kind of input its name, with which the names
        of all its parts begin.
    """
    yield from _walk(table_at(definition, "input"), given, "", 0, defaults)


def positional(definition: Mapping[str, Any]) -> list[str]:
    """Return the inputs that a call may give by position: all except inputs that a choice adds."""
    names = (one if isinstance(one, str) else one.name for one in walk(definition, {}))
    own = {
        name
        for group in ("required", "optional")
        for name in table_at(table_at(definition, "input").get(group))
    }
    return [name for name in names if name in own]


def _walk(
    groups: Mapping[str, Any], given: Given, prefix: str, level: int, defaults: bool = True
) -> Iterator[InputSpec | Autogrow | str]:
    if level > _MAX_LEVELS:
        return
    seen = set()
    for group in ("required", "optional"):
        for name, config in table_at(groups, group).items():
            if name in seen or not isinstance(config, (list, tuple)) or not config:
                continue
            seen.add(name)
            full = f"{prefix}{name}"
            options = table_at(config[1]) if len(config) > 1 else {}
            spec = InputSpec(full, config[0], options, group == "required")
            match spec.kind:
                case "COMFY_DYNAMICCOMBO_V3":
                    yield from _dynamic_combo(spec, given, level, defaults)
                case "COMFY_AUTOGROW_V3":
                    grows = _autogrow(spec, level)
                    yield full if grows is None else grows
                case "COMFY_MATCHTYPE_V3":
                    yield _match_type(spec)
                case str(kind) if kind.startswith("COMFY_") and kind.endswith("_V3"):
                    yield full
                case str() | list():
                    yield spec


def _dynamic_combo(
    spec: InputSpec, given: Given, level: int, defaults: bool
) -> Iterator[InputSpec | Autogrow | str]:
    options = spec.options.get("options")
    inputs = {
        one["key"]: table_at(one, "inputs")
        for one in _list(options)
        if isinstance(one, Mapping) and isinstance(one.get("key"), str)
    }
    default = spec.options.get("default", next(iter(inputs), None))
    if default not in inputs:
        default = next(iter(inputs), None)
    combo = {"default": default} if inputs else {}
    yield attrs.evolve(spec, kind=list(inputs), options={**spec.options, **combo})
    chosen = given.get(spec.name, default if defaults else None)
    if isinstance(chosen, str) and chosen in inputs:
        yield from _walk(inputs[chosen], given, f"{spec.name}.", level + 1, defaults)


def _autogrow(spec: InputSpec, level: int) -> Autogrow | None:
    template = table_at(spec.options, "template")
    parts = list(islice(_walk(table_at(template, "input"), {}, "", level + 1), 2))
    if len(parts) != 1 or not isinstance(parts[0], InputSpec):
        return None
    prefix = template.get("prefix")
    names = tuple(one for one in _list(template.get("names")) if isinstance(one, str))
    if not names and not isinstance(prefix, str):
        return None
    least, most = template.get("min"), template.get("max")
    least = least if type(least) is int else 0
    most = most if type(most) is int else 100
    required = spec.required and parts[0].required
    return Autogrow(
        name=spec.name,
        part=parts[0],
        names=names,
        prefix=prefix if isinstance(prefix, str) else "",
        most=len(names) if names else most,
        least=min(least, len(names) or most, _MOST_REQUIRED) if required else 0,
    )


def _match_type(spec: InputSpec) -> InputSpec:
    template = table_at(spec.options, "template")
    allowed, name = template.get("allowed_types"), template.get("template_id")
    return attrs.evolve(
        spec,
        kind=allowed if isinstance(allowed, str) and allowed else "*",
        template=name if isinstance(name, str) else "",
    )


def types_of(kind: str) -> set[str]:
    """Return the types of a union such as ``"INT,FLOAT"``."""
    return {one.strip() for one in kind.split(",")}


@attrs.frozen
class OutputSpec:
    """An output of a node class.

    Attributes:
        name: Its name, often that of its type.
        kind: Its type; ``*`` for any.
        template: The name shared with the inputs whose links decide the type; empty: it is fixed.
    """

    name: str
    kind: str
    template: str = ""


def outputs_of(definition: Mapping[str, Any]) -> list[OutputSpec]:
    """Return the outputs of a class in the order of their slots."""
    names, templates = _list(definition.get("output_name")), definition.get("output_matchtypes")
    found = []
    for slot, given in enumerate(_list(definition.get("output"))):
        kind = given if isinstance(given, str) else "COMBO"
        kind = "*" if kind == "COMFY_MATCHTYPE_V3" else kind
        found.append(OutputSpec(_at(names, slot) or kind, kind, _at(_list(templates), slot)))
    return found


def _is_widget(kind: object) -> bool:
    return isinstance(kind, str) and is_widget_type(kind)


def _at(values: Sequence[Any], slot: int) -> str:
    value = values[slot] if slot < len(values) else None
    return value if isinstance(value, str) else ""


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else ()
