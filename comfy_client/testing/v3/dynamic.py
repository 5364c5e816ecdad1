"""Inputs of V3 nodes that depend on values and links: several types, any number, choices.

A *multi-type* takes any of some types; *matched types* are those of one link for all inputs and
outputs of a template; an *autogrow* input has any number of parts; the choice of a *dynamic combo*
adds inputs of its own.  Nodes get the last two as a dict.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, Final

from .inputs import (
    TYPES,
    ComfyTypeI,
    SchemaInput,
    SchemaOutput,
    WidgetInput,
    new_type,
)

_MOST_PARTS: Final = 100


def input_groups(inputs: Iterable[SchemaInput]) -> dict[str, dict[str, Any]]:
    """Return inputs as clients get them: type and options by name, in two groups."""
    groups: dict[str, dict[str, Any]] = {"required": {}}
    for one in inputs:
        group = groups.setdefault("optional" if one.optional else "required", {})
        group[one.id] = (one.get_io_type(), one.as_dict())
    return groups


class MultiTypeInput(SchemaInput):
    """An input of several types; ``id`` may be an input, whose widget it has."""

    def __init__(self, id: str | SchemaInput, types: Iterable[Any], *args: Any, **kwargs: Any):
        self._widget = copy.copy(id) if isinstance(id, SchemaInput) else None
        self._types = [one.io_type for one in types]
        super().__init__(id if isinstance(id, str) else id.id, *args, **kwargs)
        if isinstance(id, SchemaInput):
            for name in ("display_name", "tooltip", "lazy"):
                if getattr(id, name, None) is not None:
                    setattr(self, name, getattr(id, name))
            self.optional: bool = id.optional or self.optional

    def get_io_type(self) -> str:
        """Return the types with commas between."""
        first = [self._widget.get_io_type()] if self._widget else []
        return ",".join(dict.fromkeys([*first, *self._types]))

    def as_dict(self) -> dict[str, Any]:
        """Return the options as clients get them."""
        found = super().as_dict()
        if self._widget is None:
            return found
        known = self._widget.as_dict()
        if isinstance(self._widget, WidgetInput):
            known["widgetType"] = self._widget.get_io_type()
        return {**known, **found}


class MatchTemplate:
    """The type that all inputs and outputs with this template have in a node."""

    def __init__(self, template_id: str, allowed_types: Any = TYPES["AnyType"]) -> None:
        several = allowed_types if isinstance(allowed_types, Iterable) else [allowed_types]
        self.template_id = template_id
        self.allowed_types: list[Any] = list(several)

    def as_dict(self) -> dict[str, Any]:
        """Return the template as clients get it."""
        names = ",".join(one.io_type for one in self.allowed_types)
        return {"template_id": self.template_id, "allowed_types": names}


class MatchTypeInput(SchemaInput):
    """An input whose type is that of a template."""

    def __init__(self, id: str, template: MatchTemplate, *args: Any, **kwargs: Any) -> None:
        super().__init__(id, *args, **kwargs)
        self.template = template

    def as_dict(self) -> dict[str, Any]:
        """Return the options as clients get them."""
        return {**super().as_dict(), "template": self.template.as_dict()}


class MatchTypeOutput(SchemaOutput):
    """An output whose type is that of a template."""

    def __init__(self, template: MatchTemplate, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.template = template
        self.display_name: str | None = self.display_name or "MATCHTYPE"


class DynamicInput(SchemaInput):
    """An input with inputs of its own."""


class AutogrowTemplate:
    """The input of which an autogrow input has any number, and the names of these."""

    def __init__(self, input: SchemaInput, names: Iterable[str], told: Mapping[str, Any]) -> None:
        if isinstance(input, DynamicInput):
            raise TypeError("the parts of an autogrow input cannot be dynamic themselves")
        self.input: SchemaInput = copy.copy(input)
        if isinstance(self.input, WidgetInput):
            vars(self.input)["force_input"] = True
        self.names: list[str] = list(names)
        self._told = told

    def as_dict(self) -> dict[str, Any]:
        """Return the template as clients get it."""
        return {"input": input_groups([self.input]), **self._told}


class AutogrowPrefix(AutogrowTemplate):
    """A template of parts with a common prefix and a number."""

    def __init__(self, input: SchemaInput, prefix: str, min: int = 1, max: int = 10) -> None:
        if min < 0 or not 1 <= max <= _MOST_PARTS:
            raise ValueError(f"an autogrow input has up to {_MOST_PARTS} parts, not {min}..{max}")
        names = [f"{prefix}{number}" for number in range(max)]
        super().__init__(input, names, {"prefix": prefix, "min": min, "max": max})
        self.prefix = prefix
        self.min = min
        self.max = max


class AutogrowNames(AutogrowTemplate):
    """A template of parts with these names."""

    def __init__(self, input: SchemaInput, names: Iterable[str], min: int = 1) -> None:
        listed = list(names)[:_MOST_PARTS]
        super().__init__(input, listed, {"names": listed, "min": min})
        self.min = min


class AutogrowInput(DynamicInput):
    """An input with any number of parts."""

    def __init__(self, id: str, template: AutogrowTemplate, *args: Any, **kwargs: Any) -> None:
        super().__init__(id, *args, **kwargs)
        self.template = template

    def as_dict(self) -> dict[str, Any]:
        """Return the options as clients get them."""
        return {**super().as_dict(), "template": self.template.as_dict()}

    def get_all(self) -> list[SchemaInput]:
        """Return this input and its possible parts."""
        parts = []
        for name in self.template.names:
            part = copy.copy(self.template.input)
            part.id = name
            parts.append(part)
        return [self, *parts]


class ComboOption:
    """A choice of a dynamic combo, and the inputs that it adds."""

    def __init__(self, key: str, inputs: Iterable[SchemaInput]) -> None:
        self.key = key
        self.inputs: list[SchemaInput] = list(inputs)

    def as_dict(self) -> dict[str, Any]:
        """Return the choice as clients get it."""
        return {"key": self.key, "inputs": input_groups(self.inputs)}


class DynamicComboInput(DynamicInput):
    """A choice that adds inputs."""

    def __init__(self, id: str, options: Iterable[ComboOption], *args: Any, **kwargs: Any) -> None:
        super().__init__(id, *args, **kwargs)
        self.options: list[ComboOption] = list(options)

    def as_dict(self) -> dict[str, Any]:
        """Return the options as clients get them."""
        return {**super().as_dict(), "options": [one.as_dict() for one in self.options]}

    def get_all(self) -> list[SchemaInput]:
        """Return this input and all that its choices may add."""
        return [self, *(one for option in self.options for one in option.inputs)]


#: The dynamic types by their name in Python.
DYNAMIC: Mapping[str, Any] = {
    "MultiType": new_type("MultiType", "COMFY_MULTITYPED_V3", ComfyTypeI, Input=MultiTypeInput),
    "MatchType": new_type(
        "MatchType",
        "COMFY_MATCHTYPE_V3",
        Input=MatchTypeInput,
        Output=MatchTypeOutput,
        Template=MatchTemplate,
    ),
    "Autogrow": new_type(
        "Autogrow",
        "COMFY_AUTOGROW_V3",
        ComfyTypeI,
        Input=AutogrowInput,
        TemplatePrefix=AutogrowPrefix,
        TemplateNames=AutogrowNames,
    ),
    "DynamicCombo": new_type(
        "DynamicCombo",
        "COMFY_DYNAMICCOMBO_V3",
        ComfyTypeI,
        Input=DynamicComboInput,
        Option=ComboOption,
    ),
}
