"""List the inputs of a workflow that can be set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from ..redaction import is_secret_value, sealed
from ..showing.cells import ShownAsTable, write_plain
from ..to_dict import AsDict
from ..upload import Upload
from .definition_source import Definitions, as_mapping
from .graph import as_link, brief, class_of, copied, inputs_of, listing, shorten, title_of
from .input_specs import Autogrow, InputSpec, walk
from .roles import clear_roles

if TYPE_CHECKING:
    from ..showing.tables import Table

_TYPE_NAMES: Mapping[type, str] = {bool: "BOOLEAN", int: "INT", float: "FLOAT", str: "STRING"}
_WIDEST = 60  # characters of a cell
_MOST_DOTS = 100  # a longer address is not tested for ambiguity


@attrs.frozen
class SettableInput(AsDict):
    """An input of a workflow that has a value, as :meth:`Workflow.inputs` lists it.

    Attributes:
        address: The address for :meth:`Workflow.set`, ``run`` and ``--set``: ``title.name`` or
            ``class.name`` if that identifies one node, else ``id.name``.
        value: The value; a file that is still to be uploaded is an :class:`Upload`.
        type: ``INT``, ``FLOAT``, ``STRING``, ``BOOLEAN``, ``COMBO`` or a type of a node pack;
            ``None``: unknown.
        choices: The choices; ``None``: it has none, or they are not known.
        min: The lowest number allowed; ``None``: no limit, or not known.
        max: The highest number allowed; ``None``: no limit, or not known.
        node_id: The id of the node.
        title: The title of the node; ``None``: it has none.
        class_type: The class of the node; ``None``: it has none.
        name: The name of the input.
        role: ``positive``, ``negative``, ``seed``, ``size`` or ``checkpoint``: the attribute of
            :class:`Workflow` that sets the input.  ``None``: it has no role, or no clear one.
    """

    address: str
    value: Any = attrs.field(hash=False)
    type: str | None
    choices: tuple[Any, ...] | None = attrs.field(hash=False)
    min: float | None
    max: float | None
    node_id: str
    title: str | None
    class_type: str | None
    name: str
    role: str | None = None

    def __str__(self) -> str:
        return "  ".join(filter(None, cells(self)))


class SettableInputs(ShownAsTable, tuple[SettableInput, ...]):
    """The inputs of :meth:`Workflow.inputs`; ``print`` and notebooks show them as a table."""

    __slots__ = ()

    _repr_pretty_ = write_plain

    def __repr__(self) -> str:
        return f"<{len(self)} input{'' if len(self) == 1 else 's'}>"

    def _table(self) -> Table:
        from ..showing.tables import MOST_ROWS, Table

        head = ("input", "type", "value", "role", "choices or range") if self else ()
        rows = [cells(one) for one in self[:MOST_ROWS]]
        more = [f"... ({len(self)} in all)"] if len(self) > MOST_ROWS else []
        return Table(head, rows, below=more or ([] if rows else [repr(self)]))


def settable_inputs(graph: Mapping[str, Any], definitions: Definitions | None) -> SettableInputs:
    """Return the inputs of a graph that have a value; see :meth:`Workflow.inputs`."""
    classes = {name for node_id in graph if (name := class_of(graph, node_id))}
    known = {} if definitions is None else as_mapping(definitions, classes)
    return SettableInputs(_inputs(graph, known))


def _inputs(graph: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[SettableInput]:
    titles = Counter(title_of(graph, node_id) for node_id in graph)
    classes = Counter(class_of(graph, node_id) for node_id in graph)
    meanings, roles = _meanings(graph), clear_roles(graph)
    for node_id in graph:
        title, class_type = title_of(graph, node_id), class_of(graph, node_id)
        named = title if title and titles[title] == 1 and title not in graph else None
        if named is None and class_type and classes[class_type] == 1:
            named = class_type if class_type not in graph and not titles[class_type] else None
        specs = _specs(known.get(class_type or ""), inputs_of(graph, node_id))
        for name, value in inputs_of(graph, node_id).items():
            if as_link(value):
                continue
            spec = specs.get(name)
            options = {} if spec is None else spec.options
            low, high = (_number(options.get(key)) for key in ("min", "max"))
            choices = None if spec is None or spec.choices is None else tuple(spec.choices)
            yield SettableInput(
                address=_address(meanings, node_id, named, name),
                value=copied(sealed(value, is_secret=is_secret_value(name, value))),
                type=_kind(spec, value),
                choices=choices,
                min=low,
                max=high,
                node_id=node_id,
                title=title,
                class_type=class_type,
                name=name,
                role=roles.get((node_id, name)),
            )


def _specs(definition: object, given: Mapping[str, Any]) -> dict[str, InputSpec]:
    specs: dict[str, InputSpec] = {}
    for one in walk(definition, given) if isinstance(definition, Mapping) else ():
        if isinstance(one, InputSpec):
            specs[one.name] = one
        elif isinstance(one, Autogrow):
            specs |= {part.name: part for part in one.parts(given)}
    return specs


def _meanings(graph: Mapping[str, Any]) -> Counter[tuple[str, str]]:
    """Count the inputs that each pair of a node's name and an input's name can mean."""
    titles = {title_of(graph, node_id) for node_id in graph}
    meanings: Counter[tuple[str, str]] = Counter()
    for node_id in graph:
        title, class_type = title_of(graph, node_id), class_of(graph, node_id)
        names = {node_id}
        if title and title not in graph:
            names.add(title)
        if class_type and class_type not in graph and class_type not in titles:
            names.add(class_type)
        meanings.update((one, name) for one in names for name in inputs_of(graph, node_id))
    return meanings


def _address(
    meanings: Mapping[tuple[str, str], int], node_id: str, named: str | None, name: str
) -> str:
    """Return an address that identifies only this input, or else ``id.name``."""
    for address in (f"{named or node_id}.{name}", f"{node_id}.{name}"):
        dots = [at for at, char in enumerate(address) if char == "."]
        splits = ((address[:at], address[at + 1 :]) for at in dots)
        if len(dots) > _MOST_DOTS or sum(meanings.get(one, 0) for one in splits) == 1:
            return address
    return f"{node_id}.{name}"


def _kind(spec: InputSpec | None, value: object) -> str | None:
    if spec is not None:
        return "COMBO" if spec.choices is not None else str(spec.kind)
    return _TYPE_NAMES.get(type(value))


def _number(value: object) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    return None


def cells(one: SettableInput) -> tuple[str, str, str, str, str]:
    """Return the cells of a row: address, type, value, role, and other allowed values."""
    value = repr(one.value) if isinstance(one.value, Upload) else brief(one.value)
    return (
        shorten(one.address, _WIDEST),
        shorten(one.type or "", _WIDEST),
        shorten(value, _WIDEST),
        shorten(one.role or "", _WIDEST),
        _range(one),
    )


def _range(one: SettableInput) -> str:
    if one.choices is not None:
        return shorten(listing(one.choices, 6), 2 * _WIDEST)
    if one.min is None and one.max is None:
        return ""
    low, high = ("" if end is None else brief(end) for end in (one.min, one.max))
    return f"{low} to {high}" if low and high else f"from {low}" if low else f"up to {high}"
