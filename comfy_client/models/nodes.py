"""Answers about node classes."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import attrs

from ..showing.cells import ShownAsTable, write_plain
from ..to_dict import AsDict
from ..values import build, mapping, sequence, table_at, text
from ..workflow.graph import brief, listing, shorten

if TYPE_CHECKING:
    from ..showing.tables import Table

#: Characters of a name, and outputs in a ``repr``.
_MOST_NAME: Final = 60
_MOST_OUTPUTS: Final = 8
#: The settings of an input that bound its value.
_RANGE: Final = ("min", "max", "step")


def combo_options(spec: Any) -> list[Any] | None:
    """Return the options of a combo input; ``None`` for an input of any other type.

    ``spec`` is an input of ``/object_info``, in either form:
    ``[["a", "b"], {...}]`` or ``["COMBO", {"options": ["a", "b"]}]``.  For a combo whose
    options come from elsewhere (``remote``), the list is empty.
    """
    if not isinstance(spec, (list, tuple)) or not spec:
        return None
    kind = spec[0]
    if isinstance(kind, (list, tuple)):
        return list(kind)
    if kind == "COMBO":
        settings = spec[1] if len(spec) > 1 and isinstance(spec[1], Mapping) else {}
        return list(sequence(settings.get("options")) or ())
    return None


@attrs.frozen(eq=False, repr=False)
class NodeDef(ShownAsTable, AsDict):
    """The inputs, outputs and description of a node class, from ``GET /object_info``.

    Attributes:
        name: The ``class_type``.
        display_name: The title in the frontend's menu.
        category: The path in the frontend's menu, such as ``image/upscaling``.
        description: A text about the node.
        python_module: The module that defines it: ``nodes``, ``custom_nodes.name``, ...
        input: The groups ``required``, ``optional`` and ``hidden``; each maps an input name to
            ``[type, settings]``.
        input_order: Input names by group, in the order of the node's widgets.  Since August 2024,
            ``None`` before.
        output: The type of each output slot.
        output_is_list: Whether each output slot is a list.
        output_name: The name of each output slot.
        is_input_list: Whether the node is called once with lists of its inputs.  Since ComfyUI
            0.12, ``None`` before.
        output_node: Whether it is an output node (it saves or shows something); a prompt needs at
            least one.
        deprecated: Whether it should no longer be used.
        experimental: Whether it may still change.
        api_node: Whether it calls a paid service.
        raw: The JSON object as received.
    """

    name: str
    display_name: str | None = None
    category: str | None = None
    description: str | None = None
    python_module: str | None = None
    input: Mapping[str, Any] = attrs.field(factory=dict)
    input_order: Mapping[str, Any] | None = None
    output: tuple[Any, ...] = ()
    output_is_list: tuple[bool, ...] = ()
    output_name: tuple[str, ...] = ()
    is_input_list: bool | None = None
    output_node: bool = False
    deprecated: bool = False
    experimental: bool = False
    api_node: bool = False
    raw: Mapping[str, Any] = attrs.field(factory=dict)

    @classmethod
    def from_json(cls, name: str, data: object) -> NodeDef:
        """Parse the definition of a node class in the answer of ``GET /object_info``."""
        source = mapping(data, f"NodeDef {name!r:.80}")
        # Their positions matter, so none may be left out.
        is_list = tuple(item is True for item in sequence(source.get("output_is_list")) or ())
        names = tuple(text(item) or "" for item in sequence(source.get("output_name")) or ())
        return build(cls, source, name=name, output_is_list=is_list, output_name=names)

    def __repr__(self) -> str:
        outputs = ", ".join(map(_type, self.output[:_MOST_OUTPUTS]))
        inputs = _count(self.inputs(), "input")
        return f"<NodeDef {shorten(self.name, _MOST_NAME)}: {inputs}, outputs: {outputs or 'none'}>"

    def _table(self) -> Table:
        return _inputs_table(self)

    def inputs(self) -> dict[str, Any]:
        """Return the required and then the optional inputs, as name to ``[type, settings]``."""
        return {**table_at(self.input, "required"), **table_at(self.input, "optional")}

    def options(self, input_name: str) -> list[Any] | None:
        """Return the options of a combo input; ``None`` if it is not a combo.

        Raises ``KeyError`` if the node has no such input.
        """
        return combo_options(self.inputs()[input_name])


class NodeDefs(ShownAsTable, dict[str, NodeDef]):
    """A dict of node definitions by class name; ``print`` and notebooks show it as a table.

    The table lists the classes or, if there is only one, its inputs.
    """

    _repr_pretty_ = write_plain

    def __repr__(self) -> str:
        if len(self) == 1:
            return f"<NodeDefs {next(iter(self.values()))!r}>"
        return f"<NodeDefs of {_count(self, 'class')}>"

    def _table(self) -> Table:
        from ..showing.tables import MOST_ROWS, Table

        if len(self) == 1:
            return _inputs_table(next(iter(self.values())))
        rows = [
            (
                one.name,
                one.display_name or "",
                one.category or "",
                ", ".join(list(one.inputs())[:MOST_ROWS]),
                ", ".join(map(_type, one.output)),
            )
            for one in islice(self.values(), MOST_ROWS)
        ]
        more = f"; the first {MOST_ROWS}" if len(self) > MOST_ROWS else ""
        head = ("class", "title", "category", "inputs", "outputs") if rows else ()
        return Table(head, rows, below=[f"{_count(self, 'class')}{more}"])


def _count(things: Sized, noun: str) -> str:
    plural = "es" if noun.endswith("s") else "s"
    return f"{len(things)} {noun}{'' if len(things) == 1 else plural}"


def _inputs_table(node: NodeDef) -> Table:
    """Return a table with a row for each of the first inputs of a node class."""
    from ..showing.tables import MOST_ROWS, Table

    optional = table_at(node.input, "optional")
    inputs = node.inputs()
    rows = [
        (name, *_input(spec), "optional" if name in optional else "")
        for name, spec in islice(inputs.items(), MOST_ROWS)
    ]
    flags = {
        "output node": node.output_node,
        "deprecated": node.deprecated,
        "experimental": node.experimental,
        "paid service": node.api_node,
    }
    names = (node.display_name, node.category, *(flag for flag, is_set in flags.items() if is_set))
    named = [*node.output_name, *("" for _ in node.output)]
    outputs = [
        kind if name in ("", kind) else f"{name} ({kind})"
        for name, kind in zip(named, map(_type, node.output), strict=False)
    ]
    left_out = len(inputs) - len(rows)
    return Table(
        ("input", "type", "default", "choices or range", "") if rows else (),
        rows,
        above=[", ".join([node.name, *filter(None, names)]), *filter(None, [node.description])],
        below=[
            *([f"and {left_out} more inputs"] if left_out else []),
            f"outputs: {', '.join(outputs) or 'none'}",
        ],
    )


def _input(spec: Any) -> tuple[str, str, str]:
    """Return the type of an input, its default, and its choices or range."""
    kind, settings = (*spec, None, None)[:2] if isinstance(spec, list | tuple) else (spec, None)
    facts = table_at(settings)
    choices = combo_options(spec)
    default = brief(facts["default"]) if "default" in facts else ""
    if choices is not None:
        return "COMBO", default, listing(choices)
    ends = ", ".join(f"{name} {brief(facts[name])}" for name in _RANGE if name in facts)
    return _type(kind), default, ends


def _type(kind: object) -> str:
    """Return the type of an input or output as short text; a list of choices is ``COMBO``."""
    return shorten(kind, _MOST_NAME) if isinstance(kind, str) else "COMBO"


@attrs.frozen
class NodeReplacement(AsDict):
    """The replacement for a node class that was removed, from ``GET /node_replacements``.

    Attributes:
        old_node_id: The ``class_type`` that was removed.
        new_node_id: The ``class_type`` that replaces it.
        old_widget_ids: Names of the inputs of the old class, in the order in which UI format
            stores their values.
        input_mapping: For each input of the new class that gets a value: ``new_id``, and ``old_id``
            (an input of the old class) or ``set_value``.  ``None``: no input does.
        output_mapping: For each output that moved to another slot: ``old_idx`` and ``new_idx``.
            ``None``: no output moved.
        raw: The JSON object as received.
    """

    old_node_id: str
    new_node_id: str
    old_widget_ids: tuple[str, ...] | None = attrs.field(default=None, repr=False)
    input_mapping: tuple[Mapping[str, Any], ...] | None = attrs.field(default=None, repr=False)
    output_mapping: tuple[Mapping[str, Any], ...] | None = attrs.field(default=None, repr=False)
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @classmethod
    def from_json(cls, data: object) -> NodeReplacement:
        """Parse one replacement in the answer of ``GET /node_replacements``."""
        return build(cls, data)


@attrs.frozen
class SamplerInfo(AsDict):
    """The choices of ``KSampler`` on this server.

    Attributes:
        samplers: The values of ``sampler_name``.
        schedulers: The values of ``scheduler``.
    """

    samplers: tuple[str, ...]
    schedulers: tuple[str, ...]


@attrs.frozen
class GlobalSubgraph(AsDict):
    """A subgraph that a node pack provides, from ``GET /global_subgraphs``.

    Attributes:
        id: The id of the subgraph.
        name: The display name.
        source: Where it comes from: ``custom_node``, ...
        info: Details of the source, such as ``node_pack``.
        data: The subgraph as JSON text; ``None`` in lists, see :meth:`get_global_subgraph`.
        raw: The JSON object as received.
    """

    id: str
    name: str
    source: str | None = None
    info: Mapping[str, Any] = attrs.field(factory=dict)
    data: str | None = attrs.field(default=None, repr=False)
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @classmethod
    def from_json(cls, subgraph_id: str, data: object) -> GlobalSubgraph:
        """Parse a subgraph from the list, or the details of one subgraph."""
        return build(cls, data, id=subgraph_id)
