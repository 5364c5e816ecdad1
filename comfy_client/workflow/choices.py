"""The choices of inputs as attributes, with completion in a notebook."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

import attrs

from ..errors import WorkflowError
from ..nearest import nearest
from .graph import brief, listing
from .input_specs import InputSpec, walk
from .literals import is_identifier

_ENDING: Final = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,11}$")
#: The most choices that get a name.
_MOST_NAMED: Final = 10_000
_LONGEST: Final = 100


class UnknownName(WorkflowError, AttributeError):
    """Error for a name that the server lacks; an AttributeError, so that ``hasattr`` works."""


def unknown(what: str, name: str, names: Iterable[str]) -> UnknownName:
    """Return the error for a name that is not among ``names``, with the nearest of them."""
    known = tuple(names)
    near = nearest(name, known)
    hint = f"nearest: {listing(near)}" if near else f"there are {listing(known) or 'none'}"
    return UnknownName(f"{what} {brief(name)}; {hint}", candidates=near or known)


@attrs.frozen(eq=False, repr=False)
class Choices:
    """The choices of one input, as attributes; see :attr:`Graph.choices`.

    They can also be iterated, and looked up by their text in brackets.

    A choice that is a Python identifier is an attribute unchanged.  In other names, each run of
    characters other than ASCII letters and digits becomes ``_``.  A file extension is dropped
    unless two names would then be equal: ``tiny.ckpt`` is ``tiny``, ``sd/v1-5.safetensors`` is
    ``sd_v1_5``, and ``2x.pth`` is ``n2x``.
    """

    _where: str
    _values: tuple[Any, ...]
    _names: dict[str, Any] = attrs.field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        texts = [one for one in islice(self._values, _MOST_NAMED) if isinstance(one, str)]
        taken: dict[str, list[str]] = {}
        for text in texts:
            taken.setdefault(_name(_ENDING.sub("", text)), []).append(text)
        for short, some in taken.items():
            for text in some:
                name = text if is_identifier(text) else short if len(some) == 1 else _name(text)
                if name:
                    self._names.setdefault(name, text)

    def __getattr__(self, name: str) -> Any:
        try:
            return self._names[name]
        except KeyError:
            if name.startswith("_"):
                raise AttributeError(name) from None
            raise unknown(f"{self._where} has no choice", name, self._names) from None

    def __getitem__(self, choice: str) -> Any:
        if choice in self._values:
            return choice
        known = [one for one in self._values if isinstance(one, str)]
        raise unknown(f"{self._where} has no choice", str(choice), known)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, choice: object) -> bool:
        return choice in self._values

    def __dir__(self) -> Iterable[str]:
        return list(self._names)

    def _ipython_key_completions_(self) -> list[str]:
        return [one for one in self._values if isinstance(one, str)]

    def __repr__(self) -> str:
        return f"<{len(self)} choices: {listing(self._values, 6)}>"


def _name(text: str) -> str:
    """Make an identifier from a text; return ``""`` if that is impossible."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", text[:_LONGEST]).strip("_")
    name = f"n{name}" if name[:1].isdigit() else name
    return name if is_identifier(name) else f"{name}_" if is_identifier(f"{name}_") else ""


@attrs.frozen(eq=False, repr=False)
class ClassChoices:
    """The inputs of a node class that have choices, as attributes."""

    _class_type: str
    _inputs: Mapping[str, Choices]

    def __getattr__(self, name: str) -> Choices:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> Choices:
        if name in self._inputs:
            return self._inputs[name]
        raise unknown(f"{self._class_type} has no choices for", name, self._inputs)

    def __dir__(self) -> Iterable[str]:
        return filter(is_identifier, self._inputs)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._inputs)

    def __repr__(self) -> str:
        return f"<choices of {self._class_type}: {listing(self._inputs)}>"


@attrs.frozen(eq=False, repr=False)
class AllChoices:
    """The choices of all node classes; see :attr:`Graph.choices`.

    ``choices.KSampler.sampler_name.euler`` is the text ``"euler"``.  Each step completes with Tab,
    and takes other names in brackets: ``choices["A class"]["model.size"]["1:1"]``.
    """

    _definition: Callable[[str], Mapping[str, Any] | None]
    _classes: Callable[[], Iterable[str]]

    def __getattr__(self, class_type: str) -> ClassChoices:
        if class_type.startswith("_"):
            raise AttributeError(class_type)
        try:
            return self[class_type]
        except UnknownName:
            raise
        except WorkflowError as exc:
            raise UnknownName(str(exc), candidates=exc.candidates) from None

    def __getitem__(self, class_type: str) -> ClassChoices:
        definition = self._definition(class_type)
        if definition is None:
            raise UnknownName("choices are unknown without definitions: make it with Graph(api)")
        specs = (one for one in walk(definition, {}) if isinstance(one, InputSpec))
        found = {
            one.name: Choices(f"{class_type}.{one.name}", tuple(one.choices))
            for one in specs
            if one.choices is not None
        }
        return ClassChoices(class_type, found)

    def __dir__(self) -> Iterable[str]:
        return filter(is_identifier, self._classes())

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._classes())

    def __repr__(self) -> str:
        return "<choices of all node classes>"
