"""Stand-ins for node classes of which only the definition is known: values by type, no model.

Pictures are drawn and say that they are simulated; a latent describes its size; numbers and texts
are those of the inputs.  Everything else is a :class:`Token`, which prints what it stands for.  An
output without a type of its own, as of a switch, passes on what an input got.  Output nodes write
small files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import attrs
from PIL import Image

from ..workflow.input_specs import Autogrow, InputSpec, outputs_of, walk
from .folders import Folders
from .images import Frame, Latent, Pictures, draw
from .output_files import OutputNode

_SIDE = 64  # pixels
_LONGEST_SIDE = 2048  # pixels
_MOST_FRAMES = 1000
_MOST_OUTPUTS = 64  # of a class without definition
_ANY = ("*", "COMFY_MATCHTYPE_V3")
_SCALARS: Mapping[str, Any] = {"INT": 1, "FLOAT": 1.0, "STRING": "", "BOOLEAN": True}
_SEEDS = ("seed", "noise_seed")


@attrs.frozen
class Shape:
    """The size and number of pictures."""

    width: int = _SIDE
    height: int = _SIDE
    count: int = 1


@attrs.frozen
class Token:
    """A value of a type that is not simulated, such as a ``MODEL``, or of a type that is unknown.

    Attributes:
        kind: The type, ``*`` if it is unknown.
        source: The class of the node that made it.
        shape: The size of the pictures that it would lead to.
    """

    kind: str
    source: str
    shape: Shape = Shape()

    def __str__(self) -> str:
        return f"simulated {'value' if self.kind in _ANY else self.kind} of {self.source}"


class Stub:
    """The base class of stand-ins; a subclass for each class of nodes has its definition."""

    FUNCTION = "run"
    RETURN_TYPES: ClassVar[list[Any]] = []
    OUTPUT_NODE = False
    TAKES_ALL = True  # also inputs that the definition does not list
    definition: ClassVar[Mapping[str, Any]]
    folders: ClassVar[Folders]

    def check_lazy_status(self, **given: Any) -> list[str]:
        """Ask for all lazy inputs; a switch asks for the one that it passes on."""
        inputs = self.definition["input"]
        lazy = [
            name
            for group in ("required", "optional")
            for name, config in inputs.get(group, {}).items()
            if len(config) > 1 and config[1].get("lazy")
        ]
        return [name for name in lazy if name not in _not_chosen(given)]

    def run(self, **given: Any) -> Any:
        """Return values by type; write the files of an output node."""
        if getattr(self, "INPUT_IS_LIST", False):
            given = {name: values[0] if values else None for name, values in given.items()}
        left_out = _not_chosen(given)
        given = {name: value for name, value in given.items() if name not in left_out}
        specs = list(_specs(self.definition, given))
        made = self.definition["name"]
        is_list = self.definition.get("output_is_list") or ()
        outputs = []
        for slot, output in enumerate(outputs_of(self.definition)):
            kind = self.definition["output"][slot]
            kind = kind if isinstance(kind, str | list) else "*"
            value = _output(kind, output.name, output.template, specs, given, made)
            outputs.append([value] if slot < len(is_list) and is_list[slot] else value)
        shape = _shape(given)
        node = OutputNode(self.definition, given, (shape.width, shape.height), self.folders)
        shown = node.shown()
        return {"ui": shown, "result": tuple(outputs)} if shown else tuple(outputs)


def stub_class(name: str, definition: Mapping[str, Any], folders: Folders) -> type[Stub]:
    """Return the stand-in for a node class."""
    flags = {
        "RETURN_TYPES": definition["output"],
        "OUTPUT_NODE": definition["output_node"] is True,
        "INPUT_IS_LIST": definition.get("is_input_list") is True,
        "HAS_INTERMEDIATE_OUTPUT": definition.get("has_intermediate_output") is True,
        "definition": definition,
        "folders": folders,
    }
    if is_list := definition.get("output_is_list"):
        flags["OUTPUT_IS_LIST"] = is_list
    return type(name, (Stub,), flags)


def guessed_definitions(names: Iterable[str], graph: Mapping[str, Any]) -> dict[str, Any]:
    """Return definitions for classes that nothing knows, by the nodes of a graph.

    They accept all inputs, and their nodes are output nodes if no node uses them.
    """
    used = {link[0] for node in graph.values() for link in _links(node)}
    found: dict[str, Any] = {
        name: {
            "name": name,
            "input": {"optional": {}},
            "output": ["*"] * _MOST_OUTPUTS,
            "output_node": True,
        }
        for name in names
    }
    for node_id, node in graph.items():
        class_type, inputs = node.get("class_type"), node.get("inputs")
        if not isinstance(class_type, str) or class_type not in found:
            continue
        definition = found[class_type]
        definition["output_node"] = definition["output_node"] and node_id not in used
        definition["input"]["optional"] |= {
            name: ["*", {}] for name in (inputs if isinstance(inputs, dict) else ())
        }
    return found


def _links(node: Any) -> Iterator[list[Any]]:
    inputs = node.get("inputs")
    for value in inputs.values() if isinstance(inputs, dict) else ():
        if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str):
            yield value


def fitted(value: Any, kind: Any) -> Any:
    """Return a value as a consumer of this type needs it: a token becomes a picture, or a text."""
    if not isinstance(value, Token) or kind in (value.kind, *_ANY):
        return value
    return value_of(kind, value.shape, value.source)


# -- values ------------------------------------------------------------------------------


def value_of(kind: Any, shape: Shape, source: str) -> Any:
    """Return a stand-in for a value of a type, or a list of choices."""
    if isinstance(kind, list):
        return next(iter(kind), "")
    match str(kind).partition(",")[0].strip():
        case "IMAGE":
            picture = Frame.of(draw(shape.width, shape.height, 0, source, 0, 1.0))
            return Pictures([picture] * shape.count)
        case "MASK":
            return [Image.new("F", (shape.width, shape.height), 1.0)] * shape.count
        case "LATENT":
            return Latent(shape.width, shape.height, 1, text=source, frames=shape.count)
        case scalar if scalar in _SCALARS:
            return _SCALARS[scalar]
        case other:
            return Token(other, source, shape)


def _output(
    kind: Any,
    name: str,
    template: str,
    specs: list[InputSpec],
    given: Mapping[str, Any],
    source: str,
) -> Any:
    """Return the value of an output."""
    shape = _shape(given)
    alike = [spec for spec in specs if _is_alike(spec, kind, template)]
    values = [given[spec.name] for spec in alike if given.get(spec.name) is not None]
    if kind in _SCALARS:
        return _scalar(kind, name, specs, given, shape)
    if kind == "LATENT":
        return _latent(given, values, shape, source)
    if kind in ("IMAGE", "MASK") or isinstance(kind, list) or not values:
        return value_of(kind, shape, source)
    return values[0]


def _is_alike(spec: InputSpec, kind: Any, template: str) -> bool:
    """Return whether an output of this type may be what an input got."""
    if kind in _ANY:
        return spec.template == template if template else spec.kind == "*"
    return isinstance(kind, str) and spec.kind == kind


def _scalar(
    kind: str, name: str, specs: list[InputSpec], given: Mapping[str, Any], shape: Shape
) -> Any:
    """Return the value or the default of the input with an output's name, or a plain value."""
    type_of = type(_SCALARS[kind])
    for spec in specs:
        if spec.name.rpartition(".")[2].lower() == name.lower():
            for value in (given.get(spec.name), spec.options.get("default")):
                if isinstance(value, int | float if kind == "FLOAT" else type_of):
                    return value
    sizes = {"width": shape.width, "height": shape.height, "batch_size": shape.count}
    return sizes.get(name.lower(), _SCALARS[kind]) if kind == "INT" else _SCALARS[kind]


def _latent(given: Mapping[str, Any], values: list[Any], shape: Shape, source: str) -> Latent:
    """Return a latent: that of an input in the size of the node, with its seed, or a new one."""
    seed = next((given[name] for name in _SEEDS if isinstance(given.get(name), int)), 0)
    kept = next((value for value in values if isinstance(value, Latent)), None)
    if kept is not None:
        texts = (given.get(name) for name in ("positive", "conditioning"))
        return attrs.evolve(
            kept,
            width=shape.width,
            height=shape.height,
            seed=seed or kept.seed,
            text=next((text for text in texts if isinstance(text, str)), kept.text),
            sampled=1.0,
        )
    batch = _whole(given.get("batch_size"), _MOST_FRAMES) or 1
    frames = max(1, shape.count // batch)
    return Latent(shape.width, shape.height, batch, seed, source, sampled=1.0, frames=frames)


def _shape(given: Mapping[str, Any]) -> Shape:
    """Return the size by the inputs of that name, else that of the first picture or latent."""
    shape = next((found for value in given.values() if (found := _shape_of(value))), Shape())
    frames = (_whole(given.get(name), _MOST_FRAMES) for name in ("length", "frames", "num_frames"))
    count = next(filter(None, frames), 0) * (_whole(given.get("batch_size"), _MOST_FRAMES) or 1)
    count = count or _whole(given.get("batch_size"), _MOST_FRAMES)
    return Shape(
        _whole(given.get("width"), _LONGEST_SIDE) or shape.width,
        _whole(given.get("height"), _LONGEST_SIDE) or shape.height,
        min(count, _MOST_FRAMES) or shape.count,
    )


def _shape_of(value: Any) -> Shape | None:
    match value:
        case Token(shape=shape):
            return shape if shape != Shape() else None
        case Latent():
            return Shape(value.width, value.height, value.batch_size * value.frames)
        case Pictures() if len(value):
            width, height = value.size
            return Shape(min(width, _LONGEST_SIDE), min(height, _LONGEST_SIDE), len(value))
    return None


def _whole(value: Any, most: int) -> int:
    """Return a positive whole number, at most ``most``; 0 for anything else."""
    return min(max(value, 0), most) if isinstance(value, int) else 0


def _specs(definition: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[InputSpec]:
    for spec in walk(definition, given):
        if isinstance(spec, Autogrow):
            yield from spec.parts(given)
        elif isinstance(spec, InputSpec):
            yield spec


def _not_chosen(given: Mapping[str, Any]) -> set[str]:
    """Return the input that a switch does not pass on."""
    match given.get("switch"):
        case True:
            return {"on_false"}
        case False:
            return {"on_true"}
    return set()
