"""Node classes and model files: the needs of workflows, and the offers of servers.  Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final

import attrs

from ..values import table_at
from ..workflow.graph import brief, class_of, inputs_of, shorten
from ..workflow.input_specs import InputSpec

#: File name extensions of model files.
ENDINGS: Final = (
    *(".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".pth"),
    *(".bin", ".gguf", ".onnx", ".pkl"),
)


@attrs.frozen
class Need:
    """A need of a workflow: a node class, or a model file that an input of that class names.

    Attributes:
        class_type: The node class.
        input: The input that names the model file; ``None``: the need is the class itself.
        value: The model file; ``None``: the need is the class itself.
    """

    class_type: str
    input: str | None = None
    value: str | None = None

    def __str__(self) -> str:
        if self.input is None:
            return f"the node class {brief(self.class_type)}"
        where = shorten(f"{self.class_type}.{self.input}", 120)
        return f"{brief(self.value)} ({where})"


#: The needs of a workflow.
Needs = frozenset[Need]


def needs_of(graph: Mapping[str, Any]) -> Needs:
    """Return the node classes and model files that a graph in API format needs."""
    found = set()
    for node_id in graph:
        name = class_of(graph, node_id)
        if name is None:
            continue
        found.add(Need(name))
        for key, value in inputs_of(graph, node_id).items():
            if is_model(value):
                found.add(Need(name, key, value))
    return frozenset(found)


def models_of(needs: Needs) -> tuple[str, ...]:
    """Return the model files among the needs, sorted."""
    return tuple(sorted({need.value for need in needs if need.value is not None}))


def is_model(value: object) -> bool:
    """Return whether a value is the name of a model file, by its extension."""
    return isinstance(value, str) and value.lower().endswith(ENDINGS)


#: Model files by class and input.
ModelFiles = Mapping[str, Mapping[str, frozenset[str]]]


def model_files(definitions: Iterable[tuple[str, Any]]) -> ModelFiles:
    """Return the model files that node definitions list.

    Many classes list the same files, which take memory once.
    """
    same: dict[frozenset[str], frozenset[str]] = {}
    return {
        name: {key: same.setdefault(files, files) for key, files in _files(one)}
        for name, one in definitions
    }


class Offer:
    """The node classes and model files of a server, according to its node definitions.

    ``files`` are those of :func:`model_files`.
    """

    def __init__(self, files: ModelFiles, replaced: Collection[str] = frozenset()) -> None:
        self._files = files
        self._replaced = frozenset(replaced)  # classes in whose place the server puts others

    def has(self, needs: Needs) -> bool:
        """Return whether the server meets all of these needs."""
        return all(map(self._has, needs))

    def missing(self, needs: Needs) -> list[Need]:
        """Return the needs that the server does not meet, node classes first."""
        lacks = [need for need in needs if not self._has(need)]
        return sorted(lacks, key=lambda need: (need.input is not None, str(need)))

    def _has(self, need: Need) -> bool:
        if need.class_type not in self._files:
            # A file is only worth reporting if the server has its class.
            return need.input is not None or need.class_type in self._replaced
        files = self._files[need.class_type].get(need.input or "")
        return files is None or need.value in files


def _files(definition: Any) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield the inputs of a class that have fixed choices, each with the model files in these."""
    for group in ("required", "optional"):
        for name, config in table_at(definition, "input", group).items():
            if not isinstance(config, list | tuple) or not config:
                continue
            options = config[1] if len(config) > 1 and isinstance(config[1], Mapping) else {}
            spec = InputSpec(name, config[0], options, group == "required")
            if spec.choices is not None and not spec.has_open_choices:
                yield name, frozenset(one for one in spec.choices if is_model(one))


def merge_definitions(each: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge definitions of several servers: the first of each class, with all combo options."""
    found: dict[str, Any] = {}
    for definitions in each:
        for name, definition in definitions.items():
            found[name] = _merged(found[name], definition) if name in found else definition
    return found


def _merged(one: Any, other: Any) -> Any:
    if not (isinstance(one, Mapping) and isinstance(other, Mapping)):
        return one
    whole = dict(one)
    for name, part in one.items():
        if name in other and name in ("input", "required", "optional"):
            whole[name] = _merged(part, other[name])
        elif name in other and isinstance(part, list):
            whole[name] = _with_choices(part, other[name])
    return whole


def _with_choices(config: list[Any], other: Any) -> list[Any]:
    """Return an input's definition; if it and ``other`` are combos, with the options of both."""
    match config, other:
        case [[*mine], *options], [[*theirs], *_]:
            return [_both(mine, theirs), *options]
        case ["COMBO", {"options": [*mine]} as said], ["COMBO", {"options": [*theirs]}]:
            return ["COMBO", {**said, "options": _both(mine, theirs)}]
    return config


def _both(some: list[Any], others: list[Any]) -> list[Any]:
    return [*some, *(one for one in others if one not in some)]
